"""Synthetic landscapes, each in summer and in winter. They need no download.

The terrain is a height map over the ground plane: a rolling meadow, a hollow that may contain water, hills and a
mountain range. It is sampled in slices perpendicular to the viewing direction, and each pixel shows the nearest slice
that its ray hits. Slope, height and position determine the ground cover: rock, forest, grass, a path or water. Both
seasons share this geometry, but differ in sunlight and colours. In winter, snow covers flat ground, but steep ground
keeps its colour. Trees are sprites, which are generated once, branch by branch. They have leaves in summer and snow in
winter. Trees and a house are painted from far to near. Water reflects the scene behind it.

Colours are linear RGB. The scene is painted at twice the image resolution, downsampled by area averaging, and converted
with a filmic tone curve.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from common.samples.landscape_sprites import SNOW, dyes, grown_trees, halved, house

SEASONS: tuple[str, ...] = ("summer", "winter")
TILE = 512  # side of the noise tiles
HOUSE = 4  # `kind` of a house; 0 to 3 are trees


class Daytime(NamedTuple):
    """The light at a time of day: the sun's elevation in degrees, and linear RGB colours for summer and winter."""

    probability: float
    elevation: tuple[float, float]
    sun: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray


DAYTIMES = (  # noon, a warm afternoon, a red evening
    Daytime(0.50, (35, 55), np.array([(1.9, 1.75, 1.45), (1.7, 1.62, 1.5)]),
            np.array([(0.36, 0.45, 0.60), (0.46, 0.56, 0.72)]), dyes("2F6FC4 5E90C8"), dyes("B4D4EE C2D6E6")),
    Daytime(0.35, (22, 35), np.array([(2.3, 1.85, 1.25), (2.1, 1.85, 1.5)]),
            np.array([(0.34, 0.42, 0.56), (0.46, 0.54, 0.71)]), dyes("4A82C4 6C98C4"), dyes("E2DCCB D8D8D8")),
    Daytime(0.15, (14, 22), np.array([(2.8, 1.75, 1.0), (2.5, 1.8, 1.3)]),
            np.array([(0.36, 0.38, 0.50), (0.48, 0.52, 0.68)]), dyes("5A80B8 7892BC"), dyes("F4CEA8 EACEBA")),
)  # fmt: skip
GRASS = dyes("5E8838 50803A 6E8C3E 64844A")
DRY_GRASS = dyes("8E964E 828E48 969056 7A9448")
FLOWERS = dyes("F2D83A F4F2EA D8505A A07AC8 F0A040")
ROCK = dyes("86888C 8C847C 7A8088 948E88")
FOREST = dyes("2F4A2A 34502A 2A4432")
EARTH = dyes("A58C68 B09A78 8E7A60")
TRODDEN = dyes("A8A29C")[0]


@functools.cache
def _tiles() -> np.ndarray:
    """Return three periodic noise tiles: mountains (in 0..1), soft waves and fine grain (standard deviation 1 each)."""
    rng = np.random.default_rng(20)
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)) * TILE

    def band(middle: float) -> np.ndarray:
        slope = np.exp(-2.5 * np.log(np.maximum(frequency, 0.1) / middle) ** 2)
        wave = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * slope)
        return np.asarray(wave / wave.std())

    ridges, weight = np.zeros((TILE, TILE)), np.ones((TILE, TILE))
    for octave in range(5):
        ridge = (1 - np.minimum(np.abs(band(3.2 * 2.05**octave)) / 2, 1)) ** 2
        ridges += ridge * weight * 0.42**octave
        weight = np.clip(weight * ridge * 1.5, 0.1, 1)
    ridges = (ridges - ridges.min()) / np.ptp(ridges)
    waves = sum(band(5 * 2.0**octave) * 0.5**octave for octave in range(5))
    grain = sum(band(40 * 2.0**octave) * 0.7**octave for octave in range(3))
    return np.stack([ridges, waves / np.std(waves), grain / np.std(grain)]).astype(np.float32)


def _sample(tile: int, x: Any, y: Any) -> np.ndarray:
    """Sample a noise tile at coordinates [h, w], given in cells."""
    import cv2

    x, y = (np.ascontiguousarray(a, np.float32) for a in np.broadcast_arrays(x, y))
    return np.asarray(cv2.remap(_tiles()[tile], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def _smooth(low: float, high: float, value: Any) -> Any:
    """Return the smoothstep function of `value`, which rises from 0 at `low` to 1 at `high`."""
    t = np.minimum(np.maximum((value - low) * (1 / (high - low)), 0), 1)
    return t * t * (3 - 2 * t)


class Terrain(NamedTuple):
    """The ground in slices, from near to far, and the slice that each pixel shows."""

    ahead: np.ndarray  # [slices] distance of each slice, in units of about 5 metres
    aside: np.ndarray  # [slices, side] distance to the right of the camera
    height: np.ndarray  # [slices, side]
    slopes: tuple[np.ndarray, np.ndarray]  # slope to the right, slope ahead
    rows: np.ndarray  # [slices, side] canvas row of each point
    hidden: np.ndarray  # [slices, side] pixels by which nearer ground extends above the point
    slice: np.ndarray  # [side, side] index of the slice that a pixel shows; len(ahead) for the sky
    water: np.ndarray  # [slices, side] bool
    rise: np.ndarray  # [slices, side] contribution of the mountains to the height


def _lay_terrain(rng: np.random.Generator, side: int, horizon: float, focal: float, eye: float) -> Terrain:
    """Sample a terrain with a meadow, a hollow for a lake or river, hills and mountains. Project it to pixels."""
    import cv2

    foot = rng.uniform(34, 50)  # distance at which the mountains begin
    near = 0.55 * focal * eye / (1 - horizon)
    close, distant = 1 / np.linspace(1 / near, 1 / 13, side // 2), np.geomspace(13.4, 150, side * 9 // 16)
    ahead = np.concatenate([close, distant])[:, None].astype(np.float32)
    columns = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    all_columns, columns = columns, (columns[::2] + columns[1::2]) / 2  # half the columns suffice for the terrain
    aside = ahead * columns / focal
    shift = rng.uniform(0, TILE, (4, 2)).astype(np.float32)
    turn = rng.uniform(0, 2 * math.pi)
    sine, cosine = math.sin(turn), math.cos(turn)
    x, z = aside * cosine + ahead * sine, ahead * cosine - aside * sine

    wave = _sample(1, 1.3 * x + shift[0, 0], 1.3 * z + shift[0, 1])
    height = (0.45 + 0.012 * ahead) * wave * rng.uniform(0.5, 1.1) + 0.5
    hills = rng.uniform(1.5, 5) * _smooth(14, 60, ahead + rng.uniform(-0.8, 0.8) * aside)
    height += hills * (0.55 + 0.45 * _sample(1, 0.45 * x + shift[1, 0], 0.45 * z + shift[1, 1]))
    height += 0.03 * _sample(1, 11 * x, 11 * z) * _smooth(30, 8, ahead)

    hollow, middle = rng.choice(3, p=(0.42, 0.38, 0.2)), rng.uniform(-0.3, 0.3)  # dry ground, a lake, a river
    if hollow == 1:
        far, deep, wide = rng.uniform(9, 20), rng.uniform(0.3, 0.5), rng.uniform(0.25, 0.7)
        away = ((ahead - far) / (deep * far)) ** 2 + ((aside - middle * far) / (wide * far)) ** 2
        height += (-0.6 - height) * _smooth(2.2, 0.6, away + 0.5 * wave + 0.25 * _sample(1, 5 * x, 5 * z))
    elif hollow == 2:
        bend, swing, wide = rng.uniform(5, 11), rng.uniform(1.5, 4), rng.uniform(0.8, 1.6)
        course = middle * 8 + swing * np.sin(ahead / bend + rng.uniform(0, 6)) + (0.1 * ahead if middle < 0 else 0)
        height += (-0.4 - height) * _smooth(4.5, 0.8, np.abs(aside - course) / wide) * _smooth(46, 38, ahead)
    else:
        height -= height[0, side // 4]
    height *= _smooth(0.2, 2.2, ahead / near)  # the camera stands on level ground

    big = rng.uniform(0.75, 1.4)
    peaks = _sample(0, big * x + shift[2, 0], big * z + shift[2, 1])
    lean = rng.uniform(-0.9, 0.9)
    envelope = _smooth(foot, foot + 45, ahead * (1 + lean * columns) + 4 * wave) * _smooth(150, 125, ahead)
    envelope *= 0.65 + 0.35 * _sample(1, 0.35 * x + shift[3, 0], 0.35 * z + shift[3, 1]).clip(-1.5, 1.5)
    rise = envelope * (0.1 + peaks) * ahead**0.3
    top = horizon - rng.uniform(0.1, 0.28)
    highest = np.sort((rise / ahead).max(0))[-side // 16]
    rise *= (horizon - top) / (focal * highest)
    height, rise = (cv2.resize(a, (side, len(ahead)), interpolation=cv2.INTER_LINEAR) for a in (height, rise))
    columns, aside = all_columns, ahead * all_columns / focal
    water = (height < 0) & (ahead < 42) & (hollow > 0)
    height = np.where(water, 0, height) + rise

    gap = np.gradient(ahead[:, 0])[:, None]
    right = np.gradient(height, axis=1) * (side * focal) / ahead
    forward = np.gradient(height, axis=0) / gap - right * columns / focal
    rows = side * (horizon - focal * (height - eye) / ahead)
    tops = np.minimum.accumulate(rows, 0)
    seen = np.full((side + 1, side), len(ahead), np.int16)
    order = np.arange(len(ahead) - 1, -1, -1)
    seen[np.ceil(tops).clip(0, side).astype(np.int32)[order], np.arange(side)] = order[:, None]
    seen = np.minimum.accumulate(seen[:side], 0)
    return Terrain(ahead[:, 0], aside, height, (right, forward), rows, rows - tops, seen, water, rise)


class Scene:
    """The state of a landscape while it is painted: its ground, and the light and canvas of both seasons."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.side, self.horizon, self.focal = 2 * size, rng.uniform(0.36, 0.58), rng.uniform(0.85, 1.15)
        self.eye, self.haze = rng.uniform(1.6, 3.4), rng.uniform(0.003, 0.008)
        day = DAYTIMES[rng.choice(len(DAYTIMES), p=[day.probability for day in DAYTIMES])]
        elevation, azimuth = math.radians(rng.uniform(*day.elevation)), rng.uniform(-0.5, 0.7)
        self.hand = 1 if rng.random() < 0.5 else -1  # 1: the sun is on the right; -1: on the left
        flat = math.cos(elevation)
        self.sun = self.hand * flat * math.cos(azimuth), math.sin(elevation), -flat * math.sin(azimuth)
        self.sunlight, self.ambient, self.zenith, self.edge = (
            np.asarray(light, np.float32).reshape(6) for light in day[2:]
        )
        self.air = 0.75 * self.edge + 0.25 * self.zenith
        self.light = 0.5 * self.sunlight + 0.75 * self.ambient  # average light on a round object
        self.ground = _lay_terrain(rng, self.side, self.horizon, self.focal, self.eye)
        self.canvas = np.empty((self.side, self.side, 6), np.float32)
        self.shadow = np.full((self.side, self.side), 255, np.uint8)
        self.shift = rng.uniform(0, TILE, (4, 2)).astype(np.float32)


def _draw_sky(scene: Scene, rng: np.random.Generator) -> None:
    """Paint the sky down to the lowest ridge: a gradient with a layer of clouds lit by the sun."""
    side, cover = scene.side, rng.uniform(-0.2, 1.3)
    low = 1 + int(np.flatnonzero((scene.ground.slice == len(scene.ground.ahead)).any(1)).max(initial=0))
    up = ((scene.horizon - (np.arange(low, dtype=np.float32) + 0.5) / side) / scene.focal)[:, None]
    across = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5) / scene.focal
    deep = np.float32(16) / (np.maximum(up, 0) + 0.16)
    x, y = across * deep * 1.3 + scene.shift[0, 0], deep * 1.5 + scene.shift[0, 1]
    puffs = _sample(1, x, y)
    ragged = 0.3 * _sample(2, 1.3 * x, 1.3 * y)
    density = 0.92 * _smooth(cover, cover + 1.1, puffs + ragged)
    towards = _sample(1, x + 5 * scene.sun[0], y + 4)
    bright = np.clip(0.92 + 0.16 * (puffs - towards) + 0.1 * ragged, 0.66, 1.1)
    pale = np.exp(-3.4 * np.maximum(up, 0)) * (1 - density)
    clouds = 0.30 * scene.sunlight + 0.62 * scene.ambient
    shares = np.stack([1 - density - pale, pale, density * bright], 2)
    scene.canvas[:low] = shares @ np.stack([scene.zenith, scene.edge, clouds])


def _visible_shares(layers: tuple[tuple[Any, ...], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Return each layer's visible fraction times its brightness in summer and winter: [2, layers, *shape]."""
    shares, left = np.empty((2, len(layers), *shape), np.float32), np.ones(shape, np.float32)
    for number, (share, summer, _, winter, _) in enumerate(layers):
        cover = left * share
        shares[0, number], shares[1, number] = cover * summer, cover * winter
        left -= cover
    return shares


def _winding_path(rng: np.random.Generator, x: np.ndarray, z: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Return the mask of a winding path, in 0..1. In 40 % of the scenes, it is all zeros."""
    if rng.random() >= 0.6:
        return np.zeros_like(x)
    bend, swing, middle = rng.uniform(4, 9), rng.uniform(0.5, 2.2), rng.uniform(-0.25, 0.25)
    course = swing * np.sin(z / bend + rng.uniform(0, 6)) + middle * z + rng.uniform(-1, 1)
    return _smooth(0.36, 0.24, np.abs(x - course) + 0.05 * fine) * _smooth(40, 24, z)


def _draw_ground(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Paint the ground of both seasons, except for water. Return the water mask, bool [side, side]."""
    ground, side = scene.ground, scene.side
    top = int((ground.slice < len(ground.ahead)).any(1).argmax())
    sky = ground.slice[top:] == len(ground.ahead)
    slices = np.where(sky, 0, ground.slice[top:]).astype(np.int32)
    indices: Any = slices * side + np.arange(side, dtype=np.int32)
    x, height, right, forward, rise = (
        a.reshape(-1).take(indices) for a in (ground.aside, ground.height, *ground.slopes, ground.rise)
    )
    z = ground.ahead.take(slices)
    near = 1 / (1 + z / 9)
    fine = _sample(2, 19 * x + scene.shift[1, 0], 19 * z + scene.shift[1, 1])
    patch = _sample(1, 5 * x + scene.shift[2, 0], 5 * z + scene.shift[2, 1])
    tiny = _sample(2, 31 * x + scene.shift[3, 0], 31 * z + scene.shift[3, 1])
    stone = _sample(2, 2.6 * x + 2 * height + scene.shift[0, 0], 1.5 * z - 3 * height + scene.shift[1, 0])
    right, forward = right + 0.25 * stone * (rise > 0.5), forward + (0.12 * fine * near)
    upright = 1 / np.sqrt(1 + right**2 + forward**2)
    facing = np.maximum(upright * (scene.sun[1] - right * scene.sun[0] - forward * scene.sun[2]), 0)
    facing *= scene.shadow[top:] * np.float32(1 / 255)

    highest = float(rise.max()) + 1e-3
    line = rng.uniform(0.22, 0.5) * highest
    steep = 1 - upright + 0.03 * stone
    rocky = np.maximum(_smooth(0.14, 0.30, steep), _smooth(line, 1.5 * line, rise + 0.08 * highest * patch))
    rocky *= _smooth(0.3, 1.5, rise)
    woods = _smooth(0.0, 0.45, patch + 0.5 * stone + rng.uniform(-0.2, 0.7)) * _smooth(22, 36, z)
    summit = _smooth(0.80, 0.95, rise / highest + 0.05 * stone) * _smooth(0.5, 0.35, steep)
    shore = _smooth(0.09, 0.02, height) * (z < 45) * ground.water.any()
    path = _winding_path(rng, x, z, fine)

    grass, dry, flower, rock, forest, earth = (
        rng.choice(colours) for colours in (GRASS, DRY_GRASS, FLOWERS, ROCK, FOREST, EARTH)
    )
    blades, crystals = 1 + (0.2 * fine + 0.14 * tiny) * (0.2 + near), 1 + 0.03 * fine * near
    crowns, strata = 1 + 0.45 * np.clip(stone + fine, -1.6, 1.6), 0.85 + 0.13 * np.clip(stone, -2, 2)
    blossom = (tiny > 1.5) * (patch > rng.uniform(-0.6, 0.8)) * 0.8 * _smooth(18, 9, z)
    layers = (  # top to bottom: (coverage, summer brightness, summer colour, winter brightness, winter colour)
        (rocky * summit, 1, SNOW, 1, SNOW),
        (rocky * _smooth(0.30, 0.14, steep), strata, rock, 0.9 + 0.1 * strata, SNOW),
        (rocky, strata, rock, strata, rock),
        (woods, crowns, forest, crowns, 0.88 * forest + 0.12 * SNOW),
        (0.8 * shore, 1, 0.8 * earth, crystals, SNOW),
        (path, 1 + 0.1 * fine, earth, 1, 0.6 * TRODDEN + 0.4 * earth),
        (blossom, 1, flower, crystals, SNOW),
        (0.4 * (tiny > 1.9) * (z < 12), blades, grass, 1, 0.6 * dry),  # stalks stick out of the snow
        (np.clip(0.35 + 0.4 * patch, 0, 1), blades, dry, crystals, SNOW),
        (np.ones_like(x), blades, grass, crystals, SNOW),
    )
    shares = _visible_shares(layers, x.shape)
    colours = np.array([[layer[2] for layer in layers], [layer[4] for layer in layers]], np.float32)
    clear = np.exp(-scene.haze * z)
    light = np.stack([facing * clear, (0.6 + 0.4 * upright) * clear]).reshape(2, -1)
    light = np.stack([scene.sunlight, scene.ambient], 1) @ light
    colour = (colours.transpose(0, 2, 1) @ shares.reshape(2, len(layers), -1)).reshape(6, -1) * light
    colour += scene.air[:, None] * (1 - clear).reshape(-1)
    np.copyto(scene.canvas[top:], colour.T.reshape(*x.shape, 6), where=~sky[..., None])
    water = np.zeros((side, side), bool)
    water[top:] = ground.water.reshape(-1).take(indices) & ~sky
    return water


def _mirror(scene: Scene, water: np.ndarray) -> None:
    """Paint the water and its reflections: blue with ripples in summer, dull ice in winter."""
    import cv2

    side, wet = scene.side, np.asarray(water.any(1))
    top, bottom = int(wet.argmax()), side - int(wet[::-1].argmax())
    columns, rows = np.arange(side), np.arange(top, bottom)[:, None]
    first = np.where(water.any(0), water.argmax(0), top).astype(np.float32)
    shore = top + 0.3 * (cv2.blur(first[None], (side // 8 * 2 + 1, 1))[0] - top)  # the far shoreline, smoothed
    depth = rows - shore
    ripple = _sample(2, columns * (60.0 / side), 3000.0 / (128 * np.maximum(depth, 0) / side + 4))
    source = np.clip(shore - 1 - depth * (1 + 0.12 * ripple), 0, first - 1).astype(np.int32)
    grazing = (0.86 - 0.35 * np.maximum(depth, 0) / side)[..., None]
    body = dyes("2A6C92 7E98AC").reshape(6) * 0.9
    share = np.repeat(np.array([0.8, 0.40], np.float32), 3) * grazing
    surface = scene.canvas[source, columns] * share * np.float32(0.92)
    surface += body * scene.light * (1 + 0.05 * ripple[..., None]) * (1 - share)
    np.copyto(scene.canvas[top:bottom], surface, where=water[top:bottom, :, None])


class Thing(NamedTuple):
    """One or more objects on the ground. Each field is a number for one object, or an array [n] for n objects."""

    column: Any  # canvas column of the object's foot
    row: Any
    hidden: Any  # number of rows that nearer ground hides
    high: Any  # height in rows
    ahead: Any
    kind: Any  # index of a kind of tree in `grown_trees`, or HOUSE
    form: Any  # 0..1, selects one of the trees of this kind
    wide: Any  # width relative to the sprite
    tint: Any  # [6]


def _plan_objects(scene: Scene, rng: np.random.Generator) -> Thing:
    """Sample woods, trees at the foot of the hills, single trees and perhaps a house. Sort them from far to near."""
    groups: list[tuple] = []  # aside / ahead, ahead, spread, count
    mixes = np.array([(0.9, 0.04, 0.03, 0.03), (0.5, 0.2, 0.15, 0.15), (0.1, 0.45, 0.3, 0.15), (0.3, 0.3, 0.1, 0.3)])
    for _ in range(rng.integers(3, 7)):
        groups.append((rng.uniform(-0.65, 0.65), 9 * 4.5 ** rng.random(), rng.uniform(1.2, 4), rng.integers(5, 14)))
    groups.append((rng.uniform(-0.3, 0.3), rng.uniform(32, 42), 12.0, 16))
    groups.append((0.0, 14.0, 9.0, rng.integers(2, 6)))
    if rng.random() < 0.45:
        groups.append((rng.choice((-1, 1)) * rng.uniform(0.3, 0.5), rng.uniform(4.5, 6.5), 0.4, rng.integers(1, 3)))
    positions, kinds = [], []
    for turn, ahead, spread, count in groups:
        points = np.array([turn * ahead, ahead]) + rng.normal(0, spread, (count, 2)) * (1, 0.6)
        positions.append(points[points[:, 1] > 4])
        kinds.append(rng.choice(4, len(positions[-1]), p=mixes[rng.integers(4)]))
    points, kind = np.concatenate(positions), np.concatenate(kinds)
    low, high = np.array([(2.0, 3.7), (1.6, 2.6), (1.8, 2.7), (0.45, 0.8)])[kind].T
    tall, form, wide = rng.uniform(low, high), rng.random(len(kind)), rng.uniform(0.85, 1.2, len(kind))
    tints = np.concatenate([np.exp(rng.normal(0, (0.16, 0.1, 0.12), (len(kind), 3))), np.ones((len(kind), 3))], 1)
    if rng.random() < 0.6:
        ahead = 9 * 2.6 ** rng.random()
        house = np.array([(rng.uniform(-0.36, 0.36) * ahead, ahead)])
        free = (np.abs(points[:, 0] - house[0, 0]) > 1.7) | (points[:, 1] > ahead + 0.5) | (points[:, 1] < ahead * 0.55)
        points, kind = np.concatenate([points[free], house]), np.append(kind[free], HOUSE)
        tall, form, wide = (np.append(a[free], a[0]) for a in (tall, form, wide))
        tall[-1] = rng.uniform(1.35, 1.75)
        tints = np.append(tints[free], np.ones((1, 6)), 0)
    ground, side = scene.ground, scene.side
    slices = np.searchsorted(ground.ahead, points[:, 1])
    columns = (side * (0.5 + scene.focal * points[:, 0] / points[:, 1])).astype(int)
    high = tall * scene.focal * side / points[:, 1]
    foot = np.where(kind == HOUSE, 0.75 * high, 0.1 * high).astype(int)
    inside, left, right = (c.clip(0, side - 1) for c in (columns, columns - foot, columns + foot))
    seen = (np.abs(columns / side - 0.5) < 0.62) & (ground.hidden[slices, inside] < 0.8 * high)
    if ground.water.any():
        for column in (inside, left, right):
            seen &= ground.height[slices, column] > 0.05
    order = np.argsort(-points[:, 1])
    order = order[seen[order]]
    things = columns, ground.rows[slices, inside], ground.hidden[slices, inside], high, points[:, 1], kind, form, wide
    return Thing(*(a[order] for a in (*things, tints.astype(np.float32))))


def _draw_shadows(scene: Scene, things: Thing) -> None:
    """Draw the shadows that the objects cast on the ground."""
    import cv2

    angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    flat = np.minimum(scene.eye / things.ahead, 0.6)
    half = np.where(things.kind == 0, 0.25, 0.45) * things.high
    away = np.stack([-scene.sun[0] + 0 * flat, scene.sun[2] * flat], 1) * things.high[:, None]
    away *= 0.6 * min(1 / scene.sun[1], 2.6)
    outline = ring * np.stack([0.9 * half, flat * half], 1)[:, None]
    outline += away[:, None] * ((away @ ring.T) > 0)[..., None] + np.stack([things.column, things.row], 1)[:, None]
    for polygon in np.rint(16 * outline).astype(np.int32):
        cv2.fillPoly(scene.shadow, [polygon], 70, shift=4)
    blur = scene.side // 100 * 2 + 1
    cv2.blur(scene.shadow, (blur, blur), dst=scene.shadow)


def _paint_thing(scene: Scene, thing: Thing, air: np.ndarray, rng: np.random.Generator) -> None:
    """Blend an object's sprite into the canvas of both seasons."""
    import cv2

    high = max(1, round(thing.high))
    if thing.kind == HOUSE:
        sprite = house(rng, high)
        high, wide = sprite.shape[:2]
    else:
        trees = grown_trees()[thing.kind]
        levels = trees[int(thing.form * len(trees))]
        sprite = next((level for level in levels[::-1] if len(level) >= high), levels[0])
        wide = max(1, round(high * thing.wide * sprite.shape[1] / len(sprite)))
    left, top = int(thing.column - wide / 2), int(thing.row - high + 1)
    bottom = min(int(thing.row - thing.hidden) + 1, scene.side)
    x0, x1, y0 = max(left, 0), min(left + wide, scene.side), max(top, 0)
    if x1 <= x0 or bottom <= y0:
        return
    if sprite.shape[:2] != (high, wide):
        sprite = cv2.resize(sprite, (wide, high), interpolation=cv2.INTER_LINEAR)
    if scene.hand > 0:
        sprite = sprite[:, ::-1]
    sprite = sprite[y0 - top : bottom - top, x0 - left : x1 - left]
    crop = scene.canvas[y0:bottom, x0:x1]
    crop -= air
    crop *= sprite[..., 6:]
    crop += sprite[..., :6] * thing.tint
    crop += air


def _expose(canvas: np.ndarray) -> np.ndarray:
    """Downsample the canvas to the image size and apply a filmic tone curve: uint8 [size, size, 6]."""
    image = 0.62 * halved(canvas)
    image = image * (2.51 * image + 0.03) / (image * (2.43 * image + 0.59) + 0.14)  # filmic tone curve
    return (255 * np.clip(image, 0, 1) ** np.float32(1 / 2.2) + 0.5).astype(np.uint8)


def _draw_scene(key: tuple[int, ...], size: int) -> np.ndarray:
    """Paint one scene in summer and in winter, uint8 [size, size, 6]."""
    rng = [np.random.default_rng([*key, part]) for part in range(5)]
    scene = Scene(rng[0], size)
    things = _plan_objects(scene, rng[1])
    _draw_shadows(scene, things)
    _draw_sky(scene, rng[2])
    water = _draw_ground(scene, rng[3])
    beyond = float(scene.ground.ahead[scene.ground.slice[water]].max()) if water.any() else np.inf
    clear = np.exp(-scene.haze * things.ahead)[:, None].astype(np.float32)
    airs = scene.air * (1 - clear)
    lit = things._replace(tint=things.tint * scene.light * clear)
    mirrored = not water.any()
    for thing, air in zip(map(Thing, *(a.tolist() for a in lit[:-1]), lit.tint), airs, strict=True):
        if not mirrored and thing.ahead < beyond:
            _mirror(scene, water)
            mirrored = True
        _paint_thing(scene, thing, air, rng[4])
    if not mirrored:
        _mirror(scene, water)
    return _expose(scene.canvas)


def _draw_seasons(keys: list[tuple[int, ...]], size: int) -> np.ndarray:
    """Paint one scene per key, uint8 [n, size, size, 6]."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # several threads are no faster for such small shapes
    try:
        return np.stack([_draw_scene(key, size) for key in keys])
    finally:
        cv2.setNumThreads(threads)


def _check(count: int, seed: int, size: int) -> None:
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("size", size, 16)):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")


def synthetic_seasons(count: int, seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return images of the same scenes in summer and in winter, for example to evaluate unpaired image translation.

    A scene depends only on its index and the seed, so a smaller set is a prefix of a larger one.

    Args:
        count: the number of scenes, 1 or more.
        seed: random seed of the scenes, 0 or more.
        size: height and width in pixels, 16 or more. A scene is the same at any size.

    Returns:
        Summer images and winter images, both RGB uint8 [count, size, size, 3].

    Raises:
        ValueError: `count`, `seed` or `size` is too small.
    """
    _check(count, seed, size)
    both = _draw_seasons([(seed, 0, number) for number in range(count)], size)
    return both[..., :3].copy(), both[..., 3:].copy()


def unpaired_seasons(count: int, seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return summer images of some scenes and winter images of others.

    `synthetic_seasons` returns none of these scenes. The arguments, array shapes and errors are the same for both
    functions.
    """
    _check(count, seed, size)
    summer, winter = (_draw_seasons([(seed, kind, number) for number in range(count)], size) for kind in (1, 2))
    return summer[..., :3].copy(), winter[..., 3:].copy()
