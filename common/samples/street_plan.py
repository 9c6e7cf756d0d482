"""The plan and the canvas of a street scene. `common.samples.streets` describes how a scene is rendered."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

STREET_CLASSES: tuple[str, ...] = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
)  # fmt: skip
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN = range(10)


def linear(colours: str) -> np.ndarray:
    """Convert colours from RRGGBB codes to linear RGB, float32 [n, 3]."""
    return np.array([[(b / 255) ** 2.2 for b in bytes.fromhex(colour)] for colour in colours.split()], np.float32)


class Weather(NamedTuple):
    """The weather and the light. Colours are linear RGB; ranges are (low, high)."""

    share: float
    elevation: tuple[float, float]  # elevation of the sun in degrees
    sun: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    ambient: tuple[float, float, float]
    clouds: tuple[float, float]
    haze: tuple[float, float]  # density per metre
    lamps: float  # brightness of lamps and windows
    wet: float  # probability of wet ground


WEATHERS = (  # a clear day, low sun, overcast, dusk, mist
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
    linear("9A4F3D 84463A A86E50 745045 BCA27A"),
    linear("E2D2AE E8E2D4 D39E70 CCC2B2 B2C2C6 E6C29C C08068 A8B498"),
    linear("9A9892 868684 B2ADA2"),
)
FRAME_COLOURS = linear("ECE8DE F0EEE8 3A3430 5E4030 2E4038")
FRONT_COLOURS = linear("7A2A26 24503E 23395E C8B48C 2A2A2C B06A24 7C8A90")
ROOF_COLOURS = linear("7A4E3E 4C4C52")
FENCE_COLOURS = linear("000000 2A2C2C E0DED6 9A7A66 8A6E50")  # none, railings, pickets, a wall, planks
PAVING_COLOURS = linear("A8A49C B4A48E 9A8A80 8E9090")
LEAF_COLOURS = linear("5E8236 4A7034 76903A 486C3A A08432 A8602C")
BARK_COLOUR = linear("6A5A4A")[0]
METAL_COLOURS = linear("5A6064 8E9292 3C4844")
SIGN_COLOURS = linear("C81E1E 1E50B4 F0F0EC 202020 E8B820")  # red, blue, white, black, yellow
CAR_COLOURS = linear("C8CACD 26282C 5C6168 8E1A1C 1F4078 E0E0DC 42523F A8843C 7E9AAA")
CAR_PARTS_COLOURS = linear("1C1C1C 202020 76766E E6E6E0 E6E0D0 A01818")  # glass, tyre, rim, plate, lamps
CLOTHES_COLOURS = linear("23262E 3A4A66 7A2E2C 9A8A70 C8C2B8 2E4A3C B08A2C 55575C 8C5A78")
SKIN_COLOURS = linear("E8BC9C C89470 8A5A40 5A3A2A")
HAIR_COLOURS = linear("241C18 4A3424 8A6A40 8A8680")


@dataclass
class Street:
    """The plan of one scene, and its canvas."""

    rng: np.random.Generator
    side: int  # height and width of the canvas in pixels
    vanish: tuple[float, float]  # vanishing point (x, y) in 0..1, from the top left
    focal: float  # focal length in image widths
    eye: float  # height of the camera above the road in metres
    kerbs: tuple[float, float]  # x in metres of the left and right kerb; the camera is at x = 0
    walls: tuple[float, float]  # x in metres of the inner edges of the left and right plots
    crossing: float  # start of a side street, in metres ahead
    zebra: float  # middle of a zebra crossing, in metres ahead
    weather: Weather
    sun: tuple[float, float, float]  # unit vector towards the sun: right, up, ahead
    haze: float
    wet: float
    plots: np.ndarray
    noise: np.ndarray  # clouds and grain in 0..1, [2, 129, 129], with a period of 128

    def __post_init__(self) -> None:
        """Prepare the canvas, the light, and the roof heights on both sides (every 0.5 m from -100 m to 200 m)."""
        self.paint = np.zeros((self.side, self.side, 4), np.float32)  # RGB radiance times transmittance t, and t itself
        self.labels = np.zeros((self.side, self.side), np.uint8)
        self.sunlight, self.zenith, self.horizon, self.ambient = np.array(self.weather[2:6], np.float32)
        self.ambient = self.ambient + 0.08 * self.weather.lamps * LAMPLIGHT
        self.roofs = np.zeros((2, 600), np.float32)
        for plot in self.plots[self.plots["side"] != 0]:
            ahead = slice(int(2 * plot["z0"] + 200), int(2 * plot["z1"] + 200))
            self.roofs[int(plot["side"] > 0), ahead] = plot["top"] + 0.5 * plot["roof"]

    def pixels(self, points: Any) -> np.ndarray:
        """Project points [n, 3], in metres (right, up, ahead), to canvas coordinates [n, 2], int32, in 1/16 pixel."""
        x, y, z = np.asarray(points, np.float32).T
        extent = 16 * self.side
        scale = self.focal * extent / np.maximum(z, 0.4)
        u, v = x * scale + (self.vanish[0] * extent - 8), (self.eye - y) * scale + (self.vanish[1] * extent - 8)
        return np.array((u, v)).clip(-9e4, 9e4).T.astype(np.int32, order="C")

    def outlines(self, polygons: list) -> list[np.ndarray]:
        """Project polygons, each [n, 3], with `pixels`. Return one array [n, 2] per polygon."""
        corners, stops = self.pixels(np.concatenate(polygons)), np.cumsum([0, *map(len, polygons)]).tolist()
        return [corners[start:stop] for start, stop in itertools.pairwise(stops)]

    def fill(
        self, points: np.ndarray, lengths: list[int], radiance: np.ndarray, label: int, order: list[int] | None = None
    ) -> None:
        """Paint n polygons, each in one colour.

        `points` [m, 3] holds the corners of all polygons in metres, and `lengths` holds the number of corners per
        polygon. `radiance` [n, 3] holds the colours of the polygons. `order` lists the indices of the polygons to
        paint, in painting order; None paints all.
        """
        import cv2

        corners, stops = self.pixels(points), np.cumsum(lengths)
        t = np.exp(-self.haze * points[stops - 1, 2:])
        colours, starts = np.concatenate([radiance * t, t], 1).tolist(), [0, *stops.tolist()]
        for i in range(len(lengths)) if order is None else order:
            polygon = [corners[starts[i] : starts[i + 1]]]
            cv2.fillPoly(self.paint, polygon, colours[i], shift=4)
            cv2.fillPoly(self.labels, polygon, label, shift=4)

    def boards(self, x: float, z: float, shapes: list, radiance: np.ndarray, label: int) -> None:
        """Paint upright shapes at (x, z). Each shape is an array [k, 2] in metres: offset to the right, and height."""
        self.fill(upright(np.concatenate(shapes), x, z), [len(shape) for shape in shapes], radiance, label)

    def grain(self, layer: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Sample a noise layer at coordinates [h, w], given in cells."""
        import cv2

        column, row = (np.asarray(phase(a, 128), np.float32) for a in np.broadcast_arrays(x, y))
        return np.asarray(cv2.remap(self.noise[layer], column, row, cv2.INTER_LINEAR))

    def dice(self, *numbers: np.ndarray) -> np.ndarray:
        """Return a pseudo-random number in 0..1 for each combination of integers."""
        key = sum(number * prime for number, prime in zip(numbers, (1031.0, 257.0, 67.0), strict=False))
        return self.noise[1].reshape(-1).take(np.asarray(key, np.int32) & 16383)

    def visible(self, x: Any, y: Any, z: Any) -> Any:
        """Return the fraction of the sun that is visible from a point. Roofs on the sunny side may hide the sun."""
        right = self.sun[0] > 0
        run = np.maximum((self.walls[1] - x) if right else (x - self.walls[0]), 0) / max(abs(self.sun[0]), 1e-3)
        ahead = np.minimum(np.maximum(2 * (z + run * self.sun[2]) + 200, 0), 599)
        roof = self.roofs[int(right)].take(np.asarray(ahead, np.int32))
        return np.minimum(np.maximum((y + run * self.sun[1] - roof) / (0.1 + 0.02 * run) + 0.5, 0), 1)

    def lit(self, colours: np.ndarray, normals: Any, visible: float, openness: float = 0.85) -> np.ndarray:
        """Return the radiance [n, 3] of small surfaces with reflectance [n, 3] and normals [3] or [n, 3]."""
        normals = np.atleast_2d(normals)
        direct = np.maximum(normals @ self.sun, 0)[:, None] * visible
        return colours * (direct * self.sunlight + openness * (0.7 + 0.3 * normals[:, 1:2]) * self.ambient)


def upright(shape: np.ndarray, x: float, z: float) -> np.ndarray:
    """Return the 3-D points [n, 3] of a flat shape [n, 2] that stands upright on the ground at (x, z)."""
    points = np.full((len(shape), 3), z)
    points[:, :2] = shape
    points[:, 0] += x
    return points


def noise_tiles(rng: np.random.Generator) -> np.ndarray:
    """Return two seamless noise tiles in 0..1: clouds and fine grain."""
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)) * 128
    slopes = np.stack([np.where(frequency > 1, (frequency + 1) ** -1.5, 0), np.exp(-3 * (frequency / 34 - 1) ** 2)])
    waves = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((2, 128, 128), np.float32)) * slopes.astype(np.float32))
    waves = np.clip(waves / (5 * waves.std((1, 2), keepdims=True)) + 0.5, 0, 1)
    return np.pad(waves, ((0, 0), (0, 1), (0, 1)), mode="wrap").astype(np.float32)


def plan_plots(rng: np.random.Generator, walls: tuple[float, float], crossing: float) -> np.ndarray:
    """Sample the plots on both sides of the street, from far to near. A plot may have a house, a garden and a fence."""
    town = rng.choice(3, p=(0.4, 0.35, 0.25))  # a city, a town, a suburb
    plots: list[tuple] = []
    for side, wall, z in ((-1, walls[0], rng.uniform(-4, 2)), (1, walls[1], rng.uniform(-4, 2)), (0, 0, 131)):
        while z < 130 or (z == 131 and rng.random() < 0.45):  # a house at 131 m may close off the street
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
            plots.append((  # the fields of PLOT, in order
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


def phase(x: np.ndarray, period: Any) -> np.ndarray:
    """Return x modulo `period`, in [0, period)."""
    return x - period * np.floor(x / period)
