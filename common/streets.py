"""Street scenes drawn by rule: pairs of a label map and a photo, in any number, without a download.

How a scene is made. A plan (camera, plots, things, light) is drawn from the seed, in metres; the camera projects it
onto a canvas two or three times as fine as the picture. Ground and walls are shaded a pixel at a time from their place
in the world; trees, posts, cars and people are painted over them as lit polygons and bunches of leaves, far to near.
The photo is the area average of the canvas and the label map its nearest sample, so the edges of both agree.

The light model, in linear RGB. A surface of reflectance r and normal n, z metres away in air of colour a, sends
    (r * (sun * max(0, n . s) * visible + ambient * openness) + emission) * t + a * (1 - t),   t = exp(-haze * z)
where `visible` is found on the way to the sun s over the roofs of the sunny side, or is the shadow that a thing casts,
and `openness` is how much sky a place sees. Wet ground adds the mirrored picture. Bloom, exposure, a film curve,
vignetting and sensor noise follow at the picture's own size.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

STREET_CLASSES: tuple[str, ...] = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
)  # fmt: skip
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN = range(10)


def _linear(colours: str) -> np.ndarray:
    """Turn colours written as RRGGBB into linear RGB, float32 [n, 3]."""
    return np.array([[(b / 255) ** 2.2 for b in bytes.fromhex(colour)] for colour in colours.split()], np.float32)


class Weather(NamedTuple):
    """One kind of light: colours in linear RGB, ranges as pairs."""

    share: float
    elevation: tuple[float, float]  # of the sun, degrees
    sun: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    ambient: tuple[float, float, float]
    clouds: tuple[float, float]
    haze: tuple[float, float]  # per metre
    lamps: float  # how brightly lamps and windows are lit
    wet: float  # how often the ground is


WEATHERS = (  # a clear day, a low sun, overcast, dusk, mist
    Weather(0.38, (24, 58), (3.2, 2.9, 2.4), (0.14, 0.34, 0.84), (0.70, 0.88, 1.1), (0.38, 0.48, 0.64), (0.1, 0.6),
            (0.001, 0.005), 0.0, 0.0),
    Weather(0.24, (7, 22), (3.6, 2.1, 1.0), (0.22, 0.36, 0.66), (1.15, 0.82, 0.55), (0.32, 0.36, 0.48), (0.1, 0.7),
            (0.002, 0.007), 0.15, 0.1),
    Weather(0.18, (30, 60), (0.3, 0.3, 0.3), (0.50, 0.57, 0.68), (0.80, 0.85, 0.90), (0.72, 0.78, 0.86), (0.7, 1.0),
            (0.002, 0.008), 0.1, 0.45),
    Weather(0.15, (3, 6), (0.0, 0.0, 0.0), (0.04, 0.08, 0.24), (0.36, 0.22, 0.21), (0.07, 0.10, 0.19), (0.2, 0.7),
            (0.002, 0.006), 1.0, 0.5),
    Weather(0.05, (15, 40), (0.5, 0.46, 0.4), (0.66, 0.70, 0.76), (0.82, 0.84, 0.86), (0.60, 0.64, 0.70), (0.6, 1.0),
            (0.014, 0.026), 0.4, 0.3),
)  # fmt: skip
LAMPLIGHT = np.array([1.0, 0.62, 0.28], np.float32)

PLOT = np.dtype(
    [
        (name, "f4")
        for name in (
            "x",
            "side",
            "z0",
            "z1",
            "top",
            "roof",
            "fence",
            "wall_x",
            "ground",
            "storey",
            "bay",
            "window",
            "high",
            "sill",
            "material",
            "shop",
            "gable",
            "lit",
            "line",
        )
    ]
    + [(name, "f4", 3) for name in ("wall", "frame", "front")]
)
BRICK, PLASTER, CONCRETE = range(3)
WALL_COLOURS = (
    _linear("9A4F3D 84463A A86E50 745045 BCA27A"),
    _linear("E2D2AE E8E2D4 D39E70 CCC2B2 B2C2C6 E6C29C C08068 A8B498"),
    _linear("9A9892 868684 B2ADA2"),
)
FRAME_COLOURS = _linear("ECE8DE F0EEE8 3A3430 5E4030 2E4038")
FRONT_COLOURS = _linear("7A2A26 24503E 23395E C8B48C 2A2A2C B06A24 7C8A90")
ROOF_COLOURS = _linear("7A4E3E 4C4C52")
FENCE_COLOURS = _linear("000000 2A2C2C E0DED6 9A7A66 8A6E50")  # none, railings, pickets, a wall, planks
PAVING_COLOURS = _linear("A8A49C B4A48E 9A8A80 8E9090")
LEAF_COLOURS = _linear("5E8236 4A7034 76903A 486C3A A08432 A8602C")
BARK_COLOUR = _linear("6A5A4A")[0]
METAL_COLOURS = _linear("5A6064 8E9292 3C4844")
SIGN_COLOURS = _linear("C81E1E 1E50B4 F0F0EC 202020 E8B820")  # red, blue, white, black, yellow
CAR_COLOURS = _linear("C8CACD 26282C 5C6168 8E1A1C 1F4078 E0E0DC 42523F A8843C 7E9AAA")
CAR_PARTS_COLOURS = _linear("1C1C1C 202020 76766E E6E6E0 E6E0D0 A01818")  # glass, tyre, rim, plate, lamps
CLOTHES_COLOURS = _linear("23262E 3A4A66 7A2E2C 9A8A70 C8C2B8 2E4A3C B08A2C 55575C 8C5A78")
SKIN_COLOURS = _linear("E8BC9C C89470 8A5A40 5A3A2A")
HAIR_COLOURS = _linear("241C18 4A3424 8A6A40 8A8680")


@dataclass
class Street:
    """The plan of one scene, and the canvas that it is painted on."""

    rng: np.random.Generator
    side: int  # of the canvas, pixels
    vanish: tuple[float, float]  # across and down, 0..1
    focal: float  # in picture widths
    eye: float  # metres above the road
    kerbs: tuple[float, float]  # metres right of the camera: the left and the right kerb,
    walls: tuple[float, float]  # and where the plots begin
    crossing: float  # metres ahead: where a side street begins,
    zebra: float  # and the middle of a zebra crossing
    weather: Weather
    sun: tuple[float, float, float]  # unit vector towards it: right, up, ahead
    haze: float
    wet: float
    plots: np.ndarray
    noise: np.ndarray  # 0..1, [clouds or grain, 129, 129]; repeats every 128

    def __post_init__(self) -> None:
        """Prepare the canvas, the light, and the heights of the roofs on both sides, each half metre from -100."""
        self.paint = np.zeros((self.side, self.side, 4), np.float32)  # radiance * t, t
        self.labels = np.zeros((self.side, self.side), np.uint8)
        self.sunlight, self.zenith, self.horizon, self.ambient = np.array(self.weather[2:6], np.float32)
        self.ambient = self.ambient + 0.08 * self.weather.lamps * LAMPLIGHT
        self.roofs = np.zeros((2, 600), np.float32)
        for plot in self.plots[self.plots["side"] != 0]:
            ahead = slice(int(2 * plot["z0"] + 200), int(2 * plot["z1"] + 200))
            self.roofs[int(plot["side"] > 0), ahead] = plot["top"] + 0.5 * plot["roof"]

    def pixels(self, points: Any) -> np.ndarray:
        """Project metres [n, 3] (right, up, ahead) to the canvas, in sixteenths of a pixel, int32 [n, 2]."""
        x, y, z = np.asarray(points, np.float32).T
        whole = 16 * self.side
        scale = self.focal * whole / np.maximum(z, 0.4)
        u, v = x * scale + (self.vanish[0] * whole - 8), (self.eye - y) * scale + (self.vanish[1] * whole - 8)
        return np.array((u, v)).clip(-9e4, 9e4).T.astype(np.int32, order="C")

    def outlines(self, polygons: list) -> list[np.ndarray]:
        """Project polygons [n, 3], each its own, as `pixels` does."""
        corners, stops = self.pixels(np.concatenate(polygons)), np.cumsum([0, *map(len, polygons)]).tolist()
        return [corners[start:stop] for start, stop in itertools.pairwise(stops)]

    def fill(
        self, points: np.ndarray, lengths: list[int], radiance: np.ndarray, label: int, order: list[int] | None = None
    ) -> None:
        """Paint polygons: all their corners in metres, how many each has, RGB [n, 3], and which to paint in turn."""
        import cv2

        corners, stops = self.pixels(points), np.cumsum(lengths)
        t = np.exp(-self.haze * points[stops - 1, 2:])
        colours, starts = np.concatenate([radiance * t, t], 1).tolist(), [0, *stops.tolist()]
        for i in range(len(lengths)) if order is None else order:
            polygon = [corners[starts[i] : starts[i + 1]]]
            cv2.fillPoly(self.paint, polygon, colours[i], shift=4)
            cv2.fillPoly(self.labels, polygon, label, shift=4)

    def boards(self, x: float, z: float, shapes: list, radiance: np.ndarray, label: int) -> None:
        """Paint upright flat shapes [k, 2], given around (x, z) in metres right and up."""
        self.fill(_upright(np.concatenate(shapes), x, z), [len(shape) for shape in shapes], radiance, label)

    def grain(self, layer: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Look noise up at places [h, w] measured in its cells."""
        import cv2

        column, row = (np.asarray(_phase(a, 128), np.float32) for a in np.broadcast_arrays(x, y))
        return np.asarray(cv2.remap(self.noise[layer], column, row, cv2.INTER_LINEAR))

    def dice(self, *numbers: np.ndarray) -> np.ndarray:
        """Throw a die (0..1) for each combination of whole numbers."""
        key = sum(number * prime for number, prime in zip(numbers, (1031.0, 257.0, 67.0), strict=False))
        return self.noise[1].reshape(-1).take(np.asarray(key, np.int32) & 16383)

    def visible(self, x: Any, y: Any, z: Any) -> Any:
        """Return how much of the sun (0..1) a place sees over the roofs of the sunny side."""
        right = self.sun[0] > 0
        run = np.maximum((self.walls[1] - x) if right else (x - self.walls[0]), 0) / max(abs(self.sun[0]), 1e-3)
        ahead = np.minimum(np.maximum(2 * (z + run * self.sun[2]) + 200, 0), 599)
        roof = self.roofs[int(right)].take(np.asarray(ahead, np.int32))
        return np.minimum(np.maximum((y + run * self.sun[1] - roof) / (0.1 + 0.02 * run) + 0.5, 0), 1)

    def lit(self, colours: np.ndarray, normals: Any, visible: float, openness: float = 0.85) -> np.ndarray:
        """Return the radiance of small surfaces: reflectance [n, 3], normals [3] or [n, 3] -> [n, 3]."""
        normals = np.atleast_2d(normals)
        direct = np.maximum(normals @ self.sun, 0)[:, None] * visible
        return colours * (direct * self.sunlight + openness * (0.7 + 0.3 * normals[:, 1:2]) * self.ambient)


def _upright(places: np.ndarray, x: float, z: float) -> np.ndarray:
    """Stand a flat shape [n, 2] up at (x, z): [n, 3]."""
    points = np.full((len(places), 3), z)
    points[:, :2] = places
    points[:, 0] += x
    return points


def _noise_tiles(rng: np.random.Generator) -> np.ndarray:
    """Draw noise in 0..1 that repeats without a seam: clouds, and fine grain."""
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)) * 128
    slopes = np.stack([np.where(frequency > 1, (frequency + 1) ** -1.5, 0), np.exp(-3 * (frequency / 34 - 1) ** 2)])
    waves = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((2, 128, 128), np.float32)) * slopes.astype(np.float32))
    waves = np.clip(waves / (5 * waves.std((1, 2), keepdims=True)) + 0.5, 0, 1)
    return np.pad(waves, ((0, 0), (0, 1), (0, 1)), mode="wrap").astype(np.float32)


def _plan_plots(rng: np.random.Generator, walls: tuple[float, float], crossing: float) -> np.ndarray:
    """Draw the plots of both sides, far to near: houses, what their windows are like, gaps, gardens, fences."""
    town = rng.choice(3, p=(0.4, 0.35, 0.25))  # a city, a town, a suburb
    plots: list[tuple] = []
    for side, wall, z in ((-1, walls[0], rng.uniform(-4, 2)), (1, walls[1], rng.uniform(-4, 2)), (0, 0, 131)):
        while z < 130 or (z == 131 and rng.random() < 0.45):  # at 131 a house may close the street
            width = rng.uniform(*((8, 20), (6, 14), (8, 13))[town])
            if side and z < crossing + 8 and crossing < z + width:
                width = crossing - z
                if width < 5:
                    z = crossing + 8.0
                    continue
            material = rng.choice(3, p=((0.3, 0.4, 0.3), (0.4, 0.5, 0.1), (0.5, 0.5, 0.0))[town])
            shop, pitched, empty = rng.random(3) < ((0.7, 0.25, 0.04), (0.5, 0.7, 0.08), (0, 1, 0.12))[town]
            setback = (0, 0 if shop else rng.choice((0, 2.5)), rng.uniform(3, 6))[town]
            storey, storeys = rng.uniform(2.8, 3.4), rng.integers(*((2, 6), (1, 4), (1, 2))[town], endpoint=True)
            ground = rng.uniform(3.5, 4.2) if shop else storey
            bay = width / max(2, round(width / rng.uniform(1.9, 3.2)))
            banded = town == 0 and material == CONCRETE and rng.random() < 0.6
            house = (not empty) or side == 0
            colours = WALL_COLOURS[material]
            plots.append((  # in the order of PLOT
                wall + side * setback if side else -40, side, z, z + width,
                house * (ground + storey * storeys + rng.uniform(0.4, 1)),
                house * abs(side) * pitched * rng.uniform(1.5, 3.5),
                abs(side) * (setback > 0 or empty) * rng.integers(1, 5), wall, ground, storey, bay,
                bay * (0.45 if banded else rng.uniform(0.18, 0.3)), storey * rng.uniform(0.48, 0.62),
                storey * rng.uniform(0.2, 0.3), material, shop * abs(side), side == 0 or rng.random() < 0.6,
                rng.uniform(0.15, 0.6), rng.random() < 0.5,
                colours[rng.integers(len(colours))] * rng.uniform(0.75, 1.1) * rng.uniform(0.95, 1.05, 3),
                FRAME_COLOURS[rng.integers(len(FRAME_COLOURS))], FRONT_COLOURS[rng.integers(len(FRONT_COLOURS))],
            ))  # fmt: skip
            z += width + (rng.uniform(2, 5) if rng.random() < (0.05, 0.15, 0.9)[town] else 0)
    return np.array(sorted(plots, key=lambda plot: -plot[2]), PLOT)


def _paint_sky(street: Street) -> None:
    """Paint a gradient from the horizon up, and clouds on a flat ceiling, lit from the sun's side."""
    import cv2

    half, sun = street.side // 2, street.sun
    v, u = np.mgrid[0:half, 0:half].astype(np.float32) / half
    up, across = np.maximum(street.vanish[1] - v, 0) / street.focal, (u - street.vanish[0]) / street.focal
    ahead = 9 / (up + 0.09)
    aside = across * ahead
    density = street.grain(0, aside, ahead) * 0.8 + street.grain(0, 3.1 * aside + 7, 3.1 * ahead) * 0.2
    sunward = street.grain(0, aside + 2.5 * sun[0], ahead + 2.5 * sun[2])
    cover = np.clip((density - 0.72 + 0.5 * street.rng.uniform(*street.weather.clouds)) * 5, 0, 1)
    bright = np.clip(0.62 + 2.2 * (density - sunward) - 0.25 * cover, 0.25, 1.2)
    height = np.minimum(up * 1.9, 1) ** 0.6
    cover *= np.minimum(up * 9 + 0.15, 1)
    cloud = _column(0.75 * street.horizon + 0.22 * street.sunlight) * bright + _column(0.25 * street.ambient)
    sky = _column(street.horizon) + _column(street.zenith - street.horizon) * height
    sky += (cloud - sky) * cover
    layers = cv2.merge([*sky, np.ones_like(u)])
    cv2.resize(layers, (street.side, street.side), dst=street.paint, interpolation=cv2.INTER_LINEAR)


def _lay_surfaces(street: Street) -> np.ndarray:
    """Draw what each pixel sees: 0 sky, 1 road, 2 pavement, 3 kerb, 8 + 4 * plot + (front, gable, roof, fence)."""
    import cv2

    numbers: list[int] = []
    polygons: list[tuple] = []

    def polygon(number: int, *points: tuple) -> None:
        numbers.append(number)
        polygons.append(points)

    near, far, start, stop = 0.5, 400, street.crossing, street.crossing + 8
    for side, kerb in zip((-1, 1), street.kerbs, strict=True):
        polygon(3, (kerb, 0, near), (kerb, 0, far), (kerb, 0.14, far), (kerb, 0.14, near))
        polygon(2, (kerb, 0.14, near), (kerb, 0.14, far), (side * 500, 0.14, far), (side * 500, 0.14, near))
        polygon(1, (kerb, 0.14, start), (kerb, 0.14, stop), (side * 300, 0.14, stop), (side * 300, 0.14, start))
    for number, plot in enumerate(street.plots.tolist()):
        x, side, z0, z1, top, roof, fence, wall, *_ = plot
        number, z0, z1, back = 8 + 4 * number, max(z0, near), max(z1, near + 0.1), x + side * 12 if side else 40
        ridge, high = (x + back) / 2, (0, 1.1, 1.0, 1.3, 1.7)[int(fence)]
        if top:
            polygon(number + 1, (x, 0, z0), (x, top, z0), (ridge, top + roof, z0), (back, top, z0), (back, 0, z0))
            polygon(number + 2, (x, top, z0), (x, top, z1), (ridge, top + roof, z1), (ridge, top + roof, z0))
            polygon(number, (x, 0, z0), (x, top, z0), (x, top, z1), (x, 0, z1))
        if fence:
            polygon(number + 3, (wall, 0, z0), (wall, high, z0), (wall, high, z1), (wall, 0, z1))
    surface = np.zeros((street.side, street.side), np.uint8)
    surface[int(street.vanish[1] * street.side) :] = 1
    for number, outline in zip(numbers, street.outlines(polygons), strict=True):
        cv2.fillPoly(surface, [outline], number, shift=4)
    return surface


def _column(colour: Any) -> np.ndarray:
    """Stand a colour up as [3, 1, 1]: the shaders keep colours first, [3, h, w]."""
    return np.asarray(colour, np.float32)[:, None, None]


def _palette(colours: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Look rows up, [n] or [n, 3], by numbers [h, w]: [h, w] or [3, h, w]."""
    return np.ascontiguousarray(colours.T).take(np.asarray(numbers, np.int32), axis=-1)


def _block(mask: np.ndarray) -> np.ndarray:
    """List the places of a mask in a block 256 wide, as `grain` needs it; the first ones repeat to fill it."""
    where = np.flatnonzero(mask)
    return np.resize(where, (-(-len(where) // 256), 256))


def _only(spots: SimpleNamespace, where: np.ndarray) -> SimpleNamespace:
    """Take spots by their places, of every field [..., h, w]."""
    return SimpleNamespace(**{k: a.reshape(*a.shape[:-2], -1)[..., where] for k, a in vars(spots).items()})


def _spots(street: Street, mask: np.ndarray) -> SimpleNamespace:
    """Find a mask's pixels: `where` on the canvas, and `u`, `v` from the vanishing point."""
    where = _block(mask)
    down = where // street.side
    u = (where - down * street.side + 0.5).astype(np.float32) / street.side - street.vanish[0]
    return SimpleNamespace(where=where, u=u, v=(down + 0.5).astype(np.float32) / street.side - street.vanish[1])


def _put(street: Street, spots: SimpleNamespace, radiance: np.ndarray, labels: Any) -> None:
    """Paint a radiance [3, h, w] on the canvas, as far as the air lets it through."""
    t = np.exp(-street.haze * spots.z)
    street.paint.reshape(-1, 4)[spots.where] = np.stack([*(radiance * t), t], -1)
    street.labels.reshape(-1)[spots.where] = labels


def _phase(x: np.ndarray, period: Any) -> np.ndarray:
    return x - period * np.floor(x / period)


def _cover(distance: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Return how much of a pixel lies inside an edge `distance` away: a box filter."""
    return np.minimum(np.maximum(distance / footprint + 0.5, 0), 1)


def _shade_walls(street: Street, surface: np.ndarray) -> None:
    """Find where each spot of the fronts, gables, roofs and fences is and the light on it; then shade each kind."""
    spots = _spots(street, surface >= 8)
    code = surface.reshape(-1).take(spots.where).astype(np.int32) - 8
    spots.number, spots.kind = code >> 2, code & 3
    gable, roof, fence = (spots.kind == kind for kind in (1, 2, 3))
    x0 = np.where(fence, _palette(street.plots["wall_x"], spots.number), _palette(street.plots["x"], spots.number))
    z0 = _palette(street.plots["z0"], spots.number)
    spots.z = np.where(gable, np.maximum(z0, 0.5), np.clip(street.focal * x0 / spots.u, 0.5, 200))
    x = np.where(gable, spots.u * spots.z / street.focal, x0)
    spots.y = street.eye - spots.v * spots.z / street.focal
    spots.along = np.where(gable, np.abs(x - x0), spots.z - z0)
    spots.slant = np.where(gable, np.abs(spots.u) / street.focal, spots.z / np.abs(x0))  # metres along for one into it
    spots.pixel = spots.z / (street.focal * street.side)  # metres
    spots.pixel_along = spots.pixel * np.where(gable, 1, spots.slant)

    facing = np.where(gable, -street.sun[2], -np.sign(x0) * street.sun[0])
    facing = np.where(roof, 0.6 * (facing + street.sun[1]), facing)
    sunny = np.maximum(facing, 0) * np.where(gable, 1, street.visible(x, spots.y, spots.z))
    openness = (0.5 + np.minimum(spots.y, 9) / 18) * np.minimum(0.6 + spots.y / 2, 1)
    spots.light = sunny * _column(street.sunlight) + openness * _column(street.ambient)
    spots.coarse = street.grain(0, spots.along * 2.1 + spots.number * 37, spots.y * 1.3 + spots.number * 11)
    for shade, mask in ((_shade_house, spots.kind < 2), (_shade_roof, roof), (_shade_fence, fence)):
        if mask.any():
            shade(street, _only(spots, _block(mask)))


def _shade_roof(street: Street, spots: SimpleNamespace) -> None:
    tiles = 0.45 + 0.5 * spots.coarse + 0.4 * street.grain(1, spots.along * 5, spots.y * 14)
    colour = _palette(ROOF_COLOURS, _palette(street.plots["line"], spots.number))
    _put(street, spots, colour * tiles * spots.light, BUILDING)


def _shade_fence(street: Street, spots: SimpleNamespace) -> None:
    """Shade railings, pickets, a brick wall or planks; what shows through the first two is a dim hedge."""
    kind, fine = _palette(street.plots["fence"], spots.number), street.grain(1, spots.along * 12, spots.y * 18)
    gap, bar = _phase(spots.along, 0.16), np.abs(spots.y - 0.8) < 0.05
    tone = (0.45 + 0.5 * spots.coarse + 0.3 * fine) * np.where((kind == 4) & (gap < 0.03), 0.6, 1)
    hedge = _column(LEAF_COLOURS[1]) * (0.7 * fine)
    colour = np.where((kind < 3) & (gap > 0.08) & ~bar, hedge, _palette(FENCE_COLOURS, kind) * tone)
    _put(street, spots, colour * spots.light, FENCE)


def _shade_house(street: Street, spots: SimpleNamespace) -> None:
    """Shade fronts and gables: brick, plaster or concrete with stains, ledges, a shop's trim; then their windows."""
    ground, storey, bay, top, sill, high, window, material, shop, line, gable = (
        _palette(street.plots[name], spots.number) for name in
        ("ground", "storey", "bay", "top", "sill", "high", "window", "material", "shop", "line", "gable"))  # fmt: skip
    front, low = spots.kind == 0, spots.y < ground
    # In which bay and storey a spot is: metres above its floor and aside of its middle.
    spots.level = np.where(low, -1, np.floor((spots.y - ground) / storey))
    above = np.where(low, spots.y, spots.y - ground - spots.level * storey)
    spots.column = np.floor(spots.along / bay)
    spots.aside = spots.along - (spots.column + 0.5) * bay
    spots.shop = low & front & (shop > 0)
    spots.door = low & front & ((np.asarray(spots.column, np.int32) + spots.number & 3) == 1)
    spots.half = np.where(spots.shop, 0.45 * bay, np.where(spots.door, 0.55, window))
    spots.high = np.where(spots.door, 2.3, np.where(spots.shop, 1.9, high))
    spots.rise = above - np.where(spots.door, 0.05, np.where(spots.shop, 0.55, np.where(low, 1.0, sill)))
    aside, under_top = np.abs(spots.aside), top - spots.y
    glazed = (front | (gable > 0)) & (under_top > 0.45)
    spots.glass = _cover(np.minimum(spots.rise, spots.high - spots.rise), spots.pixel) * glazed
    spots.glass *= _cover(spots.half - aside, spots.pixel_along)

    spots.wall, spots.front = (_palette(street.plots[name], spots.number) for name in ("wall", "front"))
    rough = np.clip(1.2 - spots.pixel_along * 7, 0, 1) * _palette(np.array([0.8, 0.22, 0.35], np.float32), material)
    fine = street.grain(1, spots.along * 9 + spots.number * 17, spots.y * np.where(material == BRICK, 23, 9))
    drips = street.grain(0, spots.along * 7 + spots.number * 29, spots.y * 0.35)
    tone = (0.74 + 0.52 * spots.coarse) * (1 + rough * (fine - 0.5)) * (0.78 + 0.44 * drips)
    joint = (material == CONCRETE) * _cover(0.03 - np.abs(_phase(spots.y, storey) - 0.2), spots.pixel)
    sills = glazed & ~low & (aside < spots.half + 0.12)
    shaded = (sills & (np.abs(spots.rise + 0.25) < 0.15)) | (np.abs(under_top - 0.52) < 0.22)
    tone *= (1 - 0.3 * joint) * (1 - 0.28 * shaded)
    trim = spots.shop & ((np.abs(above - 2.98) < 0.3) | (above < 0.5))
    colour = np.where(trim, spots.front * 1.2, spots.wall) * tone
    belt = (line > 0) & ~low & (above < 0.16)
    pale = belt | (sills & (np.abs(spots.rise + 0.07) < 0.08)) | (under_top < 0.3)
    radiance = (colour + pale * (0.24 * tone - 0.4 * colour)) * spots.light
    where = _block(spots.glass)
    if where.size:
        windows, flat = _only(spots, where), radiance.reshape(3, -1)
        flat[:, where] += (_shade_windows(street, windows) - flat[:, where]) * windows.glass
    _put(street, spots, radiance, BUILDING)


def _shade_windows(street: Street, spots: SimpleNamespace) -> np.ndarray:
    """Return the radiance of openings: the reveal's far side, frames, glass with the sky in it, curtains, lit rooms."""
    roll = street.dice(spots.number, spots.level, spots.column)
    other = street.dice(spots.column, spots.number, spots.level + 5)
    share, jamb = spots.rise / spots.high, np.minimum(0.13 * spots.slant, 0.7 * spots.half)
    mirrored = _column(street.horizon * 0.35 + street.zenith * 0.25)
    strength = np.clip(0.6 * roll - 0.03 + 0.25 * share + 0.06 * spots.y, 0.05, 0.9)
    pane = mirrored * strength * (0.6 + 0.8 * street.grain(0, spots.along * 3 + roll * 60, spots.y * 5)) + 0.012
    curtain = ((np.abs(spots.aside) > spots.half * (1.1 - other)) | (share > 1.3 - other)) & ~spots.shop
    pane += curtain * (0.16 * spots.light - 0.4 * pane)
    goods = street.grain(1, spots.along * 6, spots.y * 6) * spots.front[::-1]
    goods += 0.5 * street.grain(1, spots.along * 3, spots.y * 4) ** 2
    pane += spots.shop * (0.25 * goods * (0.4 * spots.light + 0.06) - 0.5 * pane)
    lit = np.where(spots.shop, 1.4, roll < 0.25 + 0.5 * _palette(street.plots["lit"], spots.number))
    glow = street.weather.lamps * lit * (0.45 + 0.75 * spots.coarse) * (1 - 0.4 * curtain)
    pane += glow * (_column(LAMPLIGHT) * (1.1 - 0.3 * other) + 0.25 * goods * spots.shop)

    edge = np.minimum(spots.aside + spots.half, spots.half - jamb - spots.aside)
    edge = np.minimum(edge, np.minimum(spots.rise, spots.high - spots.rise))
    bar = np.minimum(np.abs(spots.aside + jamb / 2), np.abs(spots.rise - 0.62 * spots.high) + 9 * spots.shop)
    frame = np.maximum(_cover(0.07 - edge, spots.pixel_along), _cover(0.035 - bar, spots.pixel_along))
    door = spots.door & ~spots.shop
    wood = np.where(door, spots.front, _palette(street.plots["frame"], spots.number)) * spots.light * 0.8
    opening = pane + (wood - pane) * np.maximum(frame, door)
    opening = np.where(spots.aside > spots.half - jamb, 0.55 * spots.wall * spots.light, opening)
    lintel = spots.high - spots.rise < 0.1 + 0.03 * np.clip(spots.y - street.eye, 0, 9)
    return opening * np.where(lintel, 0.5, 1)


def _shade_ground(street: Street, surface: np.ndarray, shadows: np.ndarray) -> None:
    """Shade road, pavement and kerb from their places, then let sun, sky and lamplight fall on them."""
    spots = _spots(street, (surface > 0) & (surface < 8))
    kind = surface.reshape(-1).take(spots.where)
    raised = np.where(kind == 1, 0, np.float32(0.14))
    z = spots.z = np.minimum(street.focal * (street.eye - raised) / np.maximum(spots.v, 1e-4), 400)
    x = spots.x = spots.u * z / street.focal
    spots.pixel = z / (street.focal * street.side)  # metres, across
    spots.pixel_ahead = spots.pixel * z / street.eye
    spots.coarse, spots.broad = street.grain(0, x * 2.3, z * 1.4), street.grain(0, x * 0.9 + 50, z * 0.35)
    spots.fine = (street.grain(1, x * 45, z * 45) - 0.5) * np.clip(1.3 - 5 * spots.pixel_ahead, 0, 1)
    colour = np.where(kind == 1, _asphalt(street, spots), _paving(street, spots) * np.where(kind == 3, 0.85, 1))

    sun, sky, lamps = (mask.reshape(-1).take(spots.where) * np.float32(1 / 255) for mask in shadows)
    sun *= street.visible(x, raised, z) * np.where(kind == 3, 0.4, max(street.sun[1], 0))
    gutter = np.where(kind == 1, np.minimum(x - street.kerbs[0], street.kerbs[1] - x) / 0.4, 1)
    sky *= 0.55 + 0.45 * np.clip(np.minimum(x - street.walls[0], street.walls[1] - x) / 5, 0, 1)
    sky *= (0.75 + 0.25 * np.clip(gutter, 0, 1)) * np.where(kind == 3, 0.6, 1)
    light = sun * _column(street.sunlight) + sky * _column(street.ambient)
    light += lamps * _column(0.9 * street.weather.lamps * LAMPLIGHT)
    soaked = 1 - 0.5 * street.wet * np.clip(1.4 - spots.broad, 0.3, 1)
    _put(street, spots, colour * light * soaked, np.where(kind == 1, ROAD, PAVEMENT))


def _asphalt(street: Street, spots: SimpleNamespace) -> np.ndarray:
    """Return a road's reflectance [3, h, w]: tyre tracks, mended places, cracks, worn paint."""
    rng, (left, right), x, z = street.rng, street.kerbs, spots.x, spots.z
    half, aside = (right - left) / 2, np.abs(x - (left + right) / 2)
    lane = half if half < 4.4 else half / 2
    track = np.abs(np.abs(_phase(aside, lane) - lane / 2) - 0.75)  # metres from the path of wheels
    tone = (0.75 + 0.2 * spots.coarse + 0.35 * spots.broad) * (1 + 0.8 * spots.fine)
    tone *= 1 - 0.2 * np.maximum(1 - 2 * track, 0)
    for _ in range(3):
        at, ahead, wide, long_, shade = rng.uniform((left, 4, 0.4, 0.7, 0.68), (right, 40, 1.2, 3.5, 1.15)).tolist()
        tone *= np.where((np.abs(x - at) < wide) & (np.abs(z - ahead) < long_), shade, 1)
    tone *= np.where(np.abs(street.grain(0, x * 1.7 + 90, z * 1.2 + 20) - 0.5) < 0.007, 0.75, 1)

    dash, gap, wear, tint = rng.uniform((2, 2, 0.5, 0.97), (4, 5, 1.6, 1.06)).tolist()
    middle_line, edge_lines, yellow = rng.random(3) < (0.8, 0.6, 0.2)
    paint = middle_line * _cover(0.08 - aside, spots.pixel) * (_phase(z, dash + gap) < dash)
    paint += (lane < half) * _cover(0.07 - np.abs(aside - lane), spots.pixel) * (_phase(z, 6) < 2.5)
    paint += edge_lines * _cover(0.07 - np.abs(aside - half + 0.4), spots.pixel)
    paint *= (z < street.crossing - 1) | (z > street.crossing + 9)
    from_zebra = np.abs(z - street.zebra)
    paint = np.where(from_zebra < 2.2, (from_zebra < 1.6) & (_phase(x - left, 1.1) < 0.55), paint) * (aside < half)
    paint *= np.clip(1.5 - wear * street.grain(1, x * 5, z * 5) + 0.5 * spots.coarse, 0, 1)
    bright, dark = _column((0.62, 0.42, 0.08) if yellow else (0.62, 0.62, 0.58)), _column((tint, 1.0, 2.0 - tint))
    dark = dark * np.float32(rng.uniform(0.06, 0.15))
    return (dark + (bright - dark) * paint) * tone


def _paving(street: Street, spots: SimpleNamespace) -> np.ndarray:
    """Return a pavement's reflectance [3, h, w]: slabs of different shades with joints; beyond the walls gardens."""
    wide, long_, shade = street.rng.uniform((0.4, 0.4, 0.7), (0.9, 1.2, 1.0)).tolist()
    across = np.minimum(0.02 / spots.pixel, 1) * (_phase(spots.x, wide) < np.maximum(0.025, spots.pixel))
    ahead = np.minimum(0.02 / spots.pixel_ahead, 1) * (_phase(spots.z, long_) < np.maximum(0.03, spots.pixel_ahead))
    slabs = street.dice(np.floor(spots.x / wide), np.floor(spots.z / long_)) - 0.5
    tone = (0.7 + 0.5 * spots.coarse) * (1 + 0.4 * spots.fine) * (1 - 0.45 * np.maximum(across, ahead))
    tone *= 1 + 0.35 * slabs * np.clip(1.3 - 2.5 * spots.pixel_ahead, 0, 1)
    garden = (spots.x < street.walls[0] - 0.2) | (spots.x > street.walls[1] + 0.2)
    stone = PAVING_COLOURS[street.rng.integers(len(PAVING_COLOURS))] * shade
    return _column(stone) * tone * np.where(garden, _column((0.62, 0.66, 0.42)), 1)


def _rect(left: float, low: float, right: float, high: float) -> np.ndarray:
    return np.array([(left, low), (right, low), (right, high), (left, high)], np.float32)


def _disc(right: float, up: float, radius: float, tall: float = 1.0, corners: int = 14) -> np.ndarray:
    angle = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    return np.stack([right + radius * np.sin(angle), up - tall * radius * np.cos(angle)], 1)


def _paint_post(street: Street, x: float, z: float, high: float, thick: float, colour: np.ndarray, label: int) -> None:
    """Paint an upright post as two narrow faces, which the light tells apart."""
    faces = street.lit(colour, [(-0.8, 0, -0.6), (0.8, 0, -0.6)], street.visible(x, high / 2, z) * 0.8, 0.7)
    shapes = [_rect(-thick, 0.1, 0.1 * thick, high), _rect(0.1 * thick, 0.1, thick, high)]
    street.boards(x, z, shapes, faces, label)


def _paint_tree(street: Street, x: float, z: float, trunk: float, wide: float, high: float) -> None:
    """Paint a trunk and a crown: bunches of leaves, each lit as a ball, cut out and dappled by leaf noise."""
    import cv2

    visible, middle = float(street.visible(x, trunk + high, z)), trunk + 0.92 * high
    _paint_post(street, x, z, trunk + high, 0.05 * wide + 0.03, BARK_COLOUR, TREE)
    bunches = street.rng.uniform((0, 0, 0.26), (2 * np.pi, 1, 0.48), (16, 3)).astype(np.float32)
    drift, vigour = street.rng.uniform((0, 0.85), (128, 1.15)).tolist()
    (x0, y0), (x1, y1) = (
        street.pixels([(x + side * 1.1 * wide, middle - side * 1.1 * high, z) for side in (-1, 1)]) // 16
    ).tolist()
    x1, y1 = max(x1, x0 + 2), max(y1, y0 + 2)
    rows, columns = slice(max(y0, 0), max(y1, 0)), slice(max(x0, 0), max(x1, 0))
    paint, labels = street.paint[rows, columns], street.labels[rows, columns]
    if not labels.size:
        return

    angle, far, radius = bunches.T[:, :, None, None]
    across, up = np.linspace(-1.1, 1.1, 40, dtype=np.float32), np.linspace(1.1, -1.1, 40, dtype=np.float32)[:, None]
    lift = 0.7 * np.sqrt(far) * np.sin(angle)
    right, above = (across - 0.7 * np.sqrt(far) * np.cos(angle)) / radius, (up - lift) / radius
    bulge = 1 - right**2 - above**2
    ball = np.maximum(bulge, 1e-3)
    facing = right * street.sun[0] + above * street.sun[1] - np.sqrt(ball) * street.sun[2]
    weight = (ball * (1.3 - 0.86 * lift)) ** 5  # low bunches hang in front of high ones
    weight /= weight.sum(0)
    light = 0.6 * (weight * facing).sum(0) + 0.4 * (across * street.sun[0] + up * street.sun[1])
    openness = np.clip(0.6 + 0.33 * up + 0.22 * (weight * above).sum(0), 0.15, 1)
    maps = cv2.resize(cv2.merge([bulge.max(0), light, openness]), (x1 - x0, y1 - y0))

    top, left = rows.start - y0, columns.start - x0
    mine = slice(top, top + labels.shape[0]), slice(left, left + labels.shape[1])
    bulge, light, openness = np.moveaxis(maps[mine], -1, 0)
    down = np.linspace(drift, drift + 40 * high, y1 - y0, dtype=np.float32)[mine[0], None]
    along = np.linspace(0, 40 * wide, x1 - x0, dtype=np.float32)[mine[1]]
    leaf, bunch = street.grain(1, along, down), street.grain(0, along * 0.5, down * 0.5)
    solid = bulge + 1.2 * (leaf - 0.5) + 0.8 * (bunch - 0.5) > 0.2
    bulge, light, openness, leaf = (a[solid] for a in (bulge, light, openness, leaf))
    direct = np.clip(light + 0.2 + 1.1 * (leaf - 0.5), 0.03, 1.2) * (0.8 * visible)
    through = (0.45 * visible * max(street.sun[2], 0)) * np.clip(0.8 - bulge, 0, 1)  # leaves against the light
    sunny = direct[:, None] + through[:, None] * np.array((0.9, 1.0, 0.3), np.float32)
    green = LEAF_COLOURS[int(street.haze * 1e7) % len(LEAF_COLOURS)] * vigour * float(np.exp(-street.haze * z))
    shade = openness * (0.3 + 0.9 * leaf)
    paint[solid, :3] = green * (sunny * street.sunlight + shade[:, None] * street.ambient)
    paint[solid, 3] = np.exp(-street.haze * z)
    labels[solid] = TREE


def _paint_lamp(street: Street, x: float, z: float) -> None:
    """Paint a street lamp, or traffic lights on a post."""
    rng, visible, metal = street.rng, street.visible(x, 3.0, z), METAL_COLOURS[int(street.haze * 1e6) % 3]
    if rng.random() < 0.3:
        _paint_post(street, x, z, 3.4, 0.07, metal, POLE)
        lights = _linear("FF2A1A FFA010 20E070") * np.where(np.arange(3) == rng.integers(3), 2.5, 0.06)[:, None]
        shapes = [_rect(-0.2, 2.4, 0.2, 3.5), *(_disc(0, up, 0.12) for up in (3.28, 2.94, 2.6))]
        case = street.lit(0.4 * METAL_COLOURS[2], (0, 0.3, -0.9), visible)
        return street.boards(x, z, shapes, np.concatenate([case, lights]), SIGN)
    high, arm = rng.uniform(5.5, 8), rng.uniform(0.8, 1.8) * (1 if x < sum(street.kerbs) / 2 else -1)
    _paint_post(street, x, z, high, 0.085, metal, POLE)
    bracket = np.array([(0, high - 0.1), (arm, high + 0.25), (arm, high + 0.36), (0, high + 0.08)])
    head = _rect(arm - 0.4, high + 0.2, arm + 0.4, high + 0.38)
    bulb = _rect(arm - 0.34, high + 0.12, arm + 0.34, high + 0.22)
    dark = street.lit(metal * 0.7, (0, 0.3, -0.9), visible)
    glow = LAMPLIGHT * (6 if street.weather.lamps > 0.5 else 0.5)
    return street.boards(x, z, [bracket, head, bulb], np.stack([dark[0], dark[0], glow]), POLE)


def _paint_sign(street: Street, x: float, z: float) -> None:
    """Paint a traffic sign on its post (a ring, a triangle, a disc, a board), or a shop's board on its wall."""
    rng, (red, blue, white, black, yellow) = street.rng, range(5)
    up, size, shape = rng.uniform(2.4, 2.7), rng.uniform(0.34, 0.45), int(rng.integers(4))
    if on_wall := not street.walls[0] + 0.5 < x < street.walls[1] - 0.5:
        shape, up, size = 3, rng.uniform(2.9, 3.6), rng.uniform(0.35, 0.6)
    else:
        _paint_post(street, x, z, up, 0.045, METAL_COLOURS[1], POLE)
    if shape == 3:
        ground = rng.choice((blue, yellow, white, red, black))
        ink = black if ground in (yellow, white) else white
        shapes = [_rect(-size * w, up - size * h, size * w, up + size * h) for w, h in ((1.3, 1), (1.22, 0.92))]
        for low in (-0.5, -0.05, 0.4):
            shapes.append(_rect(-size, up + low * size, size * rng.uniform(0.2, 1), up + (low + 0.22) * size))
        colours = [white, ground, ink, ink, ink]
    else:
        corners, wide, narrow = ((14, 1, 0.7), (3, 1.25, 0.75), (14, 1, 0.92))[shape]
        outer, inner = (white, blue) if shape == 2 else (red, white)
        shapes = [_disc(0, up, size * part, 1, corners) for part in (wide, narrow)]
        shapes.append(_rect(-0.06, up - 0.15, 0.06, up + 0.15))
        colours = [outer, inner, black if inner == white else white]
    paint = SIGN_COLOURS[colours]
    radiance = street.lit(paint, (0, 0.2, -0.98), street.visible(x, up, z) * (0.3 if on_wall else 1)) + 0.05 * paint
    street.boards(x, z, shapes, radiance, SIGN)


def _paint_person(street: Street, x: float, z: float) -> None:
    """Paint somebody who walks or stands; the light tells the left half of each limb from the right one."""
    rng = street.rng
    tall, stride, wide, hem = rng.uniform((1.55, 0.02, 0.19, 0.34), (1.88, 0.3, 0.25, 0.5)).tolist()
    coat, legs, bag = CLOTHES_COLOURS[rng.choice(len(CLOTHES_COLOURS), 3, replace=False)]
    skin, hair, swing = SKIN_COLOURS[rng.integers(4)], HAIR_COLOURS[rng.integers(4)], 0.4 * stride
    shapes: list[Any] = [  # metres across, parts of the height up: two legs, a coat, two arms, neck, head, hair, a bag
        [(-0.02, 0.5), (0.13, 0.5), (0.04 + stride, 0.04), (-0.09 + stride, 0.04)],
        [(-0.13, 0.5), (0.03, 0.5), (0.08 - stride, 0.04), (-0.05 - stride, 0.04)],
        [(-0.85 * wide, hem), (0.85 * wide, hem), (wide, 0.78), (0.6 * wide, 0.84), (-0.6 * wide, 0.84), (-wide, 0.78)],
        [(0.7 * wide, 0.82), (wide + 0.06, 0.76), (wide + 0.04 + swing, 0.5), (wide - 0.03 + swing, 0.5)],
        [(-0.7 * wide, 0.82), (-wide - 0.06, 0.76), (-wide - 0.04 - swing, 0.5), (-wide + 0.03 - swing, 0.5)],
        _rect(-0.05, 0.82, 0.05, 0.88), _disc(0, 0.93, 0.095, 0.65, 10), _disc(-0.03, 0.945, 0.1, 0.6, 10),
        _rect(0.2, 0.32, 0.42, 0.5),
    ][: 9 if rng.random() < 0.35 else 8]  # fmt: skip
    colours = np.stack([legs, legs * 0.7, coat, coat * 0.8, coat * 0.85, skin * 0.7, skin, hair, bag])[: len(shapes)]
    lengths = np.array([len(shape) for shape in shapes])
    whole = np.concatenate(shapes) * (rng.choice((-1, 1)), tall)
    middles = np.add.reduceat(whole[:, 0], np.cumsum(lengths) - lengths) / lengths
    right = np.stack([np.maximum(whole[:, 0], middles.repeat(lengths)), whole[:, 1]], 1)
    points = _upright(np.concatenate([whole, right]), x, z)
    sides = [street.lit(colours, (side, 0.1, -0.7), street.visible(x, 1.0, z)) for side in (-0.7, 0.7)]
    order = np.arange(2 * len(shapes)).reshape(2, -1).T.ravel().tolist()
    street.fill(points, [*lengths, *lengths], np.concatenate(sides), PEDESTRIAN, order)


BODY, EDGE, GLASS, FLOOR = range(4)  # what lies between a corner of a car's profile and the next
CAR_PROFILES = tuple(np.array(profile, np.float32) for profile in (  # metres behind the front, metres up, what
    ((0, 0.32, EDGE), (0, 0.62, BODY), (0.12, 0.78, BODY), (1.15, 0.95, GLASS), (1.9, 1.42, BODY), (3.15, 1.44, GLASS),
     (3.95, 1.02, BODY), (4.4, 0.95, EDGE), (4.44, 0.34, FLOOR)),  # a saloon
    ((0, 0.32, EDGE), (0, 0.64, BODY), (0.12, 0.80, BODY), (1.0, 0.98, GLASS), (1.7, 1.48, BODY), (3.3, 1.50, GLASS),
     (3.85, 1.02, EDGE), (3.95, 0.34, FLOOR)),  # a hatchback
    ((0, 0.40, EDGE), (0, 0.80, BODY), (0.12, 0.98, BODY), (1.1, 1.10, GLASS), (1.7, 1.68, BODY), (4.2, 1.72, GLASS),
     (4.5, 1.12, EDGE), (4.55, 0.42, FLOOR)),  # an estate
    ((0, 0.38, EDGE), (0, 0.85, BODY), (0.10, 1.05, BODY), (0.6, 1.20, GLASS), (1.2, 2.00, BODY), (4.7, 2.05, GLASS),
     (4.8, 1.25, EDGE), (4.85, 0.40, FLOOR)),  # a van
))  # fmt: skip


def _inset(quad: np.ndarray, left: float, low: float, right: float, high: float) -> np.ndarray:
    """Cut a smaller quad out of one whose corners are left low, right low, right high, left high; 0..1 each way."""
    across, up = _rect(left, low, right, high).T[:, :, None]
    bottom, top = quad[0] + across * (quad[1] - quad[0]), quad[3] + across * (quad[2] - quad[3])
    return bottom + up * (top - bottom)


class CarParts(NamedTuple):
    """The polygons of a car that stands at the origin and looks ahead."""

    points: np.ndarray  # [m, 3] metres, polygon after polygon
    lengths: list[int]
    normals: np.ndarray  # [parts, 3]; zero: seen from everywhere
    faces: np.ndarray  # [parts, 3]: the middle of the face that a part lies on; far faces are painted first
    paints: np.ndarray  # [parts]: the body's colour, then CAR_PARTS_COLOURS
    shine: np.ndarray  # [parts, 2]: share of the paint that is seen, share of the sky that is mirrored


def _car_sides(kind: int) -> np.ndarray:
    """Draw a profile out to a car's width: the left and the right flank's corners, [2, n, 3] metres."""
    behind, up, _ = CAR_PROFILES[kind].T
    half = 0.88 - 0.2 * np.clip((up - 0.98) / 0.5, 0, 1) * (kind < 3)
    return np.stack(np.broadcast_arrays([-half, half], up, behind.max() / 2 - behind), -1)


@functools.cache
def _car_parts(kind: int) -> CarParts:
    """List what is seen of a car: flanks with panes and wheels, then the faces from bumper to bumper."""
    parts: list[tuple] = []
    what, sides, (body, glass, tyre, rim, plate, head, tail) = CAR_PROFILES[kind][:, 2], _car_sides(kind), range(7)

    def add(points: np.ndarray, face: tuple, paint: int, share: float = 1.0, mirror: float = 0.0) -> None:
        parts.append((points, *face, paint, (share, mirror)))

    def glaze(pane: np.ndarray, face: tuple) -> None:
        add(pane, face, glass, 1, 0.07)
        add(_inset(pane, 0, 0.45, 1, 1), face, glass, 1, 0.18)

    ring = _disc(0, 0, 0.32, 1, 12)[:, [0, 1, 0]] * (0, 1, 1)
    for side in sides:
        sign = np.sign(side[0, 0])
        face = (sign, 0, 0), side.mean(0) * (1, 1, 0)
        hubs = [side[0] * (1, 0, 1 - 2 * at) + (0, 0.32, 0) for at in (0.19, 0.8)]
        for hub in hubs:
            for inward in (0.24, 0.0):
                add(ring + hub - (sign * inward, 0, 0), ((0, 0, 0), (0, 0, 0)), tyre, 0.3)
        add(side, face, body, 1, 0.04)
        for below, share in ((0.66, 0.7), (0.46, 0.25)):  # the flank turns to the road
            add(np.minimum(side, (9, below, 9)), face, body, share)
        screen, rear = np.flatnonzero(what == GLASS)
        panes = side[[screen, rear + 1, rear, screen + 1]]
        add(_inset(panes, -0.3, -0.12, 1.15, 0.0), face, body, 1.25, 0.12)
        glaze(_inset(panes, 0.08, 0.10, 0.5, 0.86), face)
        glaze(_inset(panes, 0.54, 0.10, 0.92, 0.86), face)
        for hub in hubs:
            for size, paint, share in ((1.18, tyre, 0.2), (1.0, tyre, 1), (0.62, rim, 1), (0.25, rim, 0.3)):
                add(ring * size + hub + (0.01 * sign, 0, 0), face, paint, share)
    for number in np.flatnonzero(what != FLOOR):
        quad = np.stack([*sides[:, number], *sides[::-1, number + 1]])
        normal = np.cross((1, 0, 0), quad[3] - quad[0]) / np.linalg.norm(quad[3] - quad[0])
        face, front = (normal, quad.mean(0)), normal[2] > 0
        quad = quad if quad[3, 1] > quad[0, 1] else quad[::-1]
        add(quad, face, body, 1, 0.05 + 0.2 * max(0.0, normal[1]))
        if what[number] == GLASS:
            glaze(_inset(quad, 0.07, 0.08, 0.93, 0.92), face)
        elif what[number] == EDGE:
            add(_inset(quad, 0, 0, 1, 0.3), face, body, 0.25)
            add(_inset(quad, 0.37, 0.3, 0.63, 0.48), face, plate)
            add(_inset(quad, 0.27, 0.6, 0.73, 0.88), face, glass if front else body, 0.8, 0.03)
            for left, right in ((0.04, 0.18), (0.82, 0.96)):
                add(_inset(quad, left, 0.6, right, 0.9), face, head if front else tail)
    points, normals, faces, paints, shine = zip(*parts, strict=True)
    return CarParts(np.concatenate(points), [len(p) for p in points], *map(np.array, (normals, faces, paints, shine)))


def _turned(points: np.ndarray, heading: float) -> np.ndarray:
    sine, cosine = np.sin(heading), np.cos(heading)
    return points @ np.array([(cosine, 0, -sine), (0, 1, 0), (sine, 0, cosine)])


def _paint_car(street: Street, x: float, z: float, kind: int, heading: float) -> None:
    """Paint the parts of a car that face the camera, those on far faces first."""
    car, rng = _car_parts(kind), street.rng
    normals, faces = _turned(car.normals, heading), _turned(car.faces, heading) + (x, -street.eye, z)
    inner = ~car.normals.any(1)
    order = np.argsort(np.where(inner, -1e3, -np.hypot(faces[:, 0], faces[:, 2])), kind="stable")
    order = order[(inner | ((normals * faces).sum(1) < 0))[order]].tolist()
    paint = np.concatenate([CAR_COLOURS[[rng.integers(len(CAR_COLOURS))]], CAR_PARTS_COLOURS])[car.paints]
    lamps = 0.06 + 3 * (rng.random() < 0.8 * street.weather.lamps)
    radiance = street.lit(paint * car.shine[:, :1], normals, street.visible(x, 0.9, z))
    radiance += paint * (car.paints > 4)[:, None] * lamps + car.shine[:, 1:] * (street.zenith + street.horizon) / 2
    street.fill(_turned(car.points, heading) + (x, 0, z), car.lengths, radiance, CAR, order)


def _plan_things(street: Street) -> list[tuple[float, float, Callable, tuple]]:
    """Draw what stands in the street, far to near: metres ahead, metres aside, its painter, and its own shape."""
    rng, (left, right), things = street.rng, street.kerbs, []

    def put(paint: Callable, x: float, z: float, *shape: float) -> None:
        free = paint in (_paint_person, _paint_sign) or abs(z - street.crossing - 4) > 7
        if free and z < 100 and (paint is not _paint_car or abs(z - street.zebra) > 5):
            things.append((float(z), float(x), paint, shape))

    def kind() -> int:
        return int(rng.choice(4, p=(0.35, 0.35, 0.2, 0.1)))

    trees, people = rng.random() < 0.6, rng.choice((2, 5, 9))
    for side, kerb, wall in ((-1, left, street.walls[0]), (1, right, street.walls[1])):
        for z in np.arange(rng.uniform(7, 12), 90, rng.uniform(7, 13)):
            if trees and rng.random() < 0.85:  # metres of bare trunk, and of the crown half its width and height
                shape = rng.uniform((2.0, 1.5, 1.6), (2.9, 2.7, 3.2)).tolist()
                put(_paint_tree, kerb + side * rng.uniform(0.7, 1.1), z + rng.uniform(-0.7, 0.7), *shape)
        for z in np.arange(rng.uniform(6, 20), 80, rng.uniform(14, 24)):
            put(_paint_lamp, kerb + side * 0.5, z)
        for z in rng.uniform(5, 40, rng.integers(1, 4)):
            put(_paint_sign, kerb + side * rng.uniform(0.35, 0.8), z)
        for z in rng.uniform(9, 45, rng.integers(0, 3)):
            put(_paint_sign, wall - side * 0.45, z)
        for z in rng.uniform(5, 38, people):
            put(_paint_person, kerb + side * rng.uniform(0.8, abs(wall - kerb) - 0.4), z)
        heading, z = 0.0 if side > 0 else np.pi, rng.uniform(6.5, 14)
        while rng.random() < 0.85:
            if abs(kerb - side * 1.05) > 2.2 - z / 10:
                put(_paint_car, kerb - side * 1.05, z, kind(), heading)
            z += rng.uniform(5.6, 12)
        for z in rng.uniform(9, 60, rng.integers(0, 3)):
            lane = (left + right) / 2 + side * min((right - left) / 4, 1.8)
            put(_paint_car, lane, z, kind(), heading + rng.normal(0, 0.03))
    if rng.random() < 0.5 and street.crossing < 100:
        across = kind(), rng.choice((-1, 1)) * np.pi / 2
        things.append((street.crossing + 4, rng.uniform(left, right), _paint_car, across))
    for z in street.zebra + rng.uniform(-1, 1, rng.integers(0, 4)):
        put(_paint_person, rng.uniform(left, right), z)
    return sorted(things, key=lambda thing: -thing[0])


def _cast_shadows(street: Street, things: list[tuple]) -> np.ndarray:
    """Draw how much sun and sky the things leave to the ground, and what the lamps give: uint8 [3, side, side]."""
    import cv2

    masks = np.full((3, street.side, street.side), 255, np.uint8)
    masks[2] = 0
    ring = _disc(0, 0, 1)[:, [0, 0, 1]] * (1, 0, 1)
    ball = np.concatenate([_disc(0, 0, 1, 1, 8)[:, [0, 1, 1]] * (1, 1, 0) + (0, 0, ahead) for ahead in (-0.6, 0.6)])
    slope = np.array(street.sun) / max(street.sun[1], 0.1)
    sizes = {_paint_person: (0.2, 1.7), _paint_lamp: (0.08, 6.0), _paint_sign: (0.05, 2.8), _paint_tree: (0.12, 2.5)}

    fills: list[tuple] = []  # which mask, a flat shape on the ground, its value
    for z, x, paint, form in things:
        if paint is _paint_car:
            hulls = [_turned(_car_sides(form[0]).reshape(-1, 3), form[1])]
            foot = _turned(ring * (1.2, 0, 2.5), form[1])
        else:
            hulls, foot = [_upright(_rect(-1, 0, 1, 1) * sizes[paint], 0, 0)], ring * 0.35
        if paint is _paint_tree:
            hulls.append(ball * (form[1], form[2] * 0.9, form[1]) + (0, form[0] + form[2], 0))
        if paint is _paint_lamp:
            inward = 1.2 if x < sum(street.kerbs) / 2 else -1.2
            fills.append((masks[2], ring * (2.6, 0, 3) + (x + inward, 0.05, z), 255))
        fills.append((masks[1], foot + (x, 0.05, z), 80 if paint is _paint_car else 150))
        for hull in hulls:
            flat = hull - hull[:, 1:2] * slope + (x, 0.1, z)
            flat[:, 0], flat[:, 2] = flat[:, 0].clip(*street.walls), np.maximum(flat[:, 2], 1.5)
            fills.append((masks[0], flat, 0))
    for (mask, _, value), outline in zip(fills, street.outlines([shape for _, shape, _ in fills]), strict=True):
        cv2.fillPoly(mask, [cv2.convexHull(outline)], value, shift=4)
    soft = street.side // 80
    for mask, width, height in zip(masks, (1, 6, 12), (1, 2, 4), strict=True):
        cv2.blur(mask, (width * soft + 1, height * soft + 1), dst=mask)
    return masks


def _develop(street: Street, labels: np.ndarray, seed: int) -> np.ndarray:
    """Turn radiance into a photo: air, the sun's halo, wet ground, bloom, exposure, film, lens, noise; uint8 RGB."""
    import cv2

    size = len(labels)
    small = cv2.resize(street.paint, (size, size), interpolation=cv2.INTER_AREA)
    v, u = ((np.mgrid[0:size, 0:size] + 0.5) / size).astype(np.float32)
    across, up = (u - street.vanish[0]) / street.focal, (street.vanish[1] - v) / street.focal
    toward = across * street.sun[0] + up * street.sun[1] + street.sun[2]
    toward = np.maximum(toward, 0) / np.sqrt(across**2 + up**2 + 1)
    halo, disc = (toward**12)[..., None], (toward**300)[..., None]
    picture = small[..., :3] + (street.horizon + 0.25 * street.sunlight * halo) * (1 - small[..., 3:])
    picture += (labels == SKY)[..., None] * street.sunlight * (0.3 * halo + 2.5 * disc)
    if street.wet:
        rows = np.clip(2 * street.vanish[1] * size - np.arange(size), 0, size - 1).astype(int)
        mirrored = cv2.blur(picture[rows], (max(size // 24, 1), max(size // 8, 1)))
        depth = 1 / np.maximum(-up, 0.02)
        puddles = np.clip(street.grain(0, across * depth * 7, depth * 3) * 2 - 0.3, 0.2, 1)
        grazing = 0.15 + 0.75 * np.clip(1 + 2.2 * up, 0, 1) ** 2
        ground = (labels == ROAD) | (labels == PAVEMENT)
        picture += (mirrored - 0.6 * picture) * (street.wet * ground * grazing * puddles)[..., None]
    bright = cv2.resize(np.clip(picture - 1.1, 0, 6), (32, 32), interpolation=cv2.INTER_AREA)
    bloom = 0.25 * cv2.GaussianBlur(bright, (0, 0), 1) + 0.12 * cv2.GaussianBlur(bright, (0, 0), 3.5)
    picture += cv2.resize(bloom, (size, size), interpolation=cv2.INTER_CUBIC)
    picture *= 0.62 * float(picture.mean()) ** -0.55
    picture *= 1 - 0.55 * ((u - 0.5) ** 2 + (v - 0.5) ** 2)[..., None]
    picture = np.maximum(picture, 0)
    picture = picture * (2.51 * picture + 0.03) / (picture * (2.43 * picture + 0.59) + 0.14)  # a film's curve
    picture = np.sqrt(np.minimum(picture, 1)) * 255
    picture += 2 * np.random.default_rng([seed, 1]).standard_normal(picture.shape, np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def draw_street(seed: int, size: int, clear: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        seed: Which scene, 0 or more; it is the same scene at any size.
        size: Height and width in pixels, 64..256.
        clear: On a clear day, whatever the weather of this seed.

    Returns:
        Class numbers of `STREET_CLASSES`, uint8 [size, size], and the photo, RGB uint8 [size, size, 3].
    """
    rng = np.random.default_rng([seed])
    kind = rng.choice(len(WEATHERS), p=[weather.share for weather in WEATHERS])
    weather = WEATHERS[0 if clear else kind]
    azimuth, elevation = rng.uniform(-math.pi, math.pi), math.radians(rng.uniform(*weather.elevation))
    flat = math.cos(elevation)
    sun = math.sin(azimuth) * flat, math.sin(elevation), math.cos(azimuth) * flat
    middle, half = rng.uniform(-2.5, 2.5), rng.uniform(2.8, 5.6)
    kerbs = middle - half, middle + half
    walls = kerbs[0] - rng.uniform(1.8, 4), kerbs[1] + rng.uniform(1.8, 4)
    crossing = rng.uniform(14, 50) if rng.random() < 0.5 else 500.0
    zebra = (crossing - 3 if crossing < 100 else rng.uniform(8, 30)) if rng.random() < 0.5 else 500.0
    step = 3 if size <= 128 else 2
    street = Street(
        rng=rng,
        side=size * step,
        vanish=(rng.uniform(0.36, 0.64), rng.uniform(0.44, 0.56)),
        focal=rng.uniform(0.75, 1.05),
        eye=rng.uniform(1.5, 2.3),
        kerbs=kerbs,
        walls=walls,
        crossing=crossing,
        zebra=zebra,
        weather=weather,
        sun=sun,
        haze=rng.uniform(*weather.haze),
        wet=rng.uniform(0.5, 1) * (rng.random() < weather.wet),
        plots=_plan_plots(rng, walls, crossing),
        noise=_noise_tiles(rng),
    )
    things = _plan_things(street)
    surface = _lay_surfaces(street)
    _paint_sky(street)
    _shade_ground(street, surface, _cast_shadows(street, things))
    _shade_walls(street, surface)
    for z, x, paint, shape in things:
        paint(street, x, z, *shape)
    labels = street.labels[step // 2 :: step, step // 2 :: step].copy()
    return labels, _develop(street, labels, seed)


def street_pairs(
    count: int, size: int, seed: int = 0, first: int = 0, clear: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scenes `first` to `first + count - 1` of an endless row; ranges that do not overlap share no scene.

    Args:
        count: How many, 1 or more.
        size: Height and width in pixels, 64..256.
        seed: Which row, 0 or more; no two rows share a scene.
        first: The number of the first scene, below 2**32.
        clear: Clear days only.

    Returns:
        Class numbers, uint8 [count, size, size], and photos, RGB uint8 [count, size, size, 3]: see `draw_street`.
    """
    pairs = [draw_street(seed * 2**32 + first + number, size, clear) for number in range(count)]
    return np.stack([labels for labels, _ in pairs]), np.stack([photo for _, photo in pairs])
