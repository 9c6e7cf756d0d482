"""A synthetic painting: an evening landscape in visible brush strokes, in the manner of the post-impressionists."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

SKY, SUN, FAR, NEAR, FIELD, TREES = range(6)
"""The parts of the scene, from back to front."""

COLOURS = (  # of each part, from dark to bright
    ("1B3A7A", "2C5FA8", "4A8CC2", "8FC1CF", "E9E3B4"),
    ("F2A33A", "F7D23E", "FFF1B0"),
    ("23406E", "35618A", "5B86A0"),
    ("1F4A4A", "2F6B57", "5C8F5A"),
    ("6E5A2C", "A9873A", "D6B458", "F1DFA0"),
    ("14302E", "23503F", "437046", "86A052"),
)
SUN_X, SUN_Y = 0.19, 0.2  # as fractions of the side
ACCENTS = 0.25
STROKES = ((2200, 52, 14), (3000, 42, 9.5), (2200, 28, 6.5))
"""Layers of strokes: their number, length and width, for a painting of 512 pixels per side."""


def _colours(names: Sequence[str]) -> np.ndarray:
    return np.array([[int(name[place : place + 2], 16) for place in (0, 2, 4)] for name in names], np.float32)


def _waves(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, frequency: float) -> np.ndarray:
    """Return a smooth random field, the sum of five plane waves, with values of about -1 to 1."""
    total = np.zeros_like(x)
    for angle, phase in rng.uniform(0, 2 * np.pi, (5, 2)).tolist():
        across, down = (2 * math.pi * frequency * part for part in (math.cos(angle), math.sin(angle)))
        total += np.sin(across * x + down * y + phase)
    return total / 2.5


def _scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the part, the tone (0 to 1) and the stroke direction (radians) of each pixel, [size, size] each."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(axis, axis)
    part = np.where(np.hypot(x - SUN_X, y - SUN_Y) < 0.065, SUN, SKY)
    tone, direction = _sky(rng, x, y)

    def wave(frequency: float) -> np.ndarray:
        return np.sin(2 * np.pi * frequency * axis)

    # Hills and a field, from far to near: the height of the ridge, and the tones below it.
    furrows = np.sin(2 * np.pi * 2.2 * (x - 0.62) / np.maximum(y - 0.55, 0.02))  # run towards a vanishing point
    for number, ridge, tones in (
        (FAR, 0.54 - 0.05 * wave(1.4) + 0.03 * wave(3.1), 1.12 - y + 0.3 * _waves(rng, x, y, 5)),
        (NEAR, 0.65 + 0.025 * wave(0.9) - 0.01 * wave(3.7), 0.5 + 0.35 * _waves(rng, x, y, 6)),
        (FIELD, 0.755 + 0.03 * wave(0.6), 0.55 + 0.3 * furrows + 0.2 * _waves(rng, x, y, 4)),
    ):
        below = y > ridge
        along_ridge = np.arctan(np.gradient(ridge, 1 / size)) + 0.25 * _waves(rng, x, y, 2)
        angle = np.arctan2(y - 0.55, x - 0.62) if number == FIELD else along_ridge
        part[below], tone[below], direction[below] = number, tones[below], angle[below]
    # Two poplars in the foreground, with strokes that rise and waver.
    for middle, top, bottom, widest in ((0.90, 0.40, 0.86, 0.055), (0.77, 0.17, 0.95, 0.085)):
        rise = np.clip((y - top) / (bottom - top), 0, 1)
        right = x - middle - 0.012 * np.sin(9 * y + 20 * middle)
        width = widest * np.minimum(1, np.minimum(1.45 * rise**0.8, 5 * (1 - rise) ** 0.6))
        width *= 1 + 0.16 * np.sin(31 * y + 9 * middle) + 0.1 * np.sin(57 * y + 1)
        inside = (np.abs(right) < width) & (y < bottom)
        part[inside] = TREES
        tone[inside] = (0.45 + 0.35 * _waves(rng, x * 2, y, 4) - 2.5 * right)[inside]
        direction[inside] = (np.pi / 2 + 0.45 * np.sin(14 * y + 16 * right) - 2 * right)[inside]
    return part, np.clip(tone, 0, 0.999), direction


def _sky(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tone and the stroke direction of the sky: wind that turns around a few vortices and the sun."""
    wind_x, wind_y = np.full_like(x, -0.55), 0.35 * _waves(rng, x, y, 1.2)
    tone = 0.42 + 0.16 * _waves(rng, x, y, 2.2) + 0.35 * (y - 0.3)
    for middle_x, middle_y, radius, sign in (
        (0.53, 0.28, 0.19, -1),
        (0.94, 0.08, 0.13, 1),
        (0.08, 0.47, 0.10, -1),
        (SUN_X, SUN_Y, 0.17, 1),
    ):
        right, down = x - middle_x, y - middle_y
        distance = np.hypot(right, down) + 1e-6
        speed = 4 * sign * np.exp(-((distance / radius) ** 2)) / distance
        wind_x -= speed * down
        wind_y += speed * right
        if middle_x == SUN_X:
            rings = 0.75 + 0.25 * np.cos(2 * np.pi * distance / 0.05)
            tone += 0.85 * np.exp(-((distance / 0.15) ** 2)) * rings
        else:
            spiral = np.sin(2 * np.pi * 1.7 * distance / radius - sign * np.arctan2(down, right))
            tone += 0.3 * np.exp(-((distance / radius / 1.15) ** 2)) * spiral
    return tone, np.arctan2(wind_y, wind_x)


def _palette(part: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """Return the colour of each tone in the palette of its part, float32 [..., 3]."""
    found = np.zeros((*part.shape, 3), np.float32)
    for number, names in enumerate(COLOURS):
        palette, inside = _colours(names), part == number
        position = tone[inside] * (len(palette) - 1)
        low = position.astype(int)
        found[inside] = palette[low] + (position - low)[:, None] * (palette[low + 1] - palette[low])
    return found


def _strokes(
    rng: np.random.Generator,
    part: np.ndarray,
    tone: np.ndarray,
    direction: np.ndarray,
    count: int,
    length: float,
    width: float,
) -> tuple[list[list[np.ndarray]], list[list[list[float]]]]:
    """Return the bristles of up to `count` strokes: of each, lines (in 1/16 pixel), and colours with a height."""
    side, steps = len(part), 9
    point = rng.uniform(0, side - 1, (count, 2)).astype(np.float32)  # y before x
    rows, columns = point.T.astype(int)
    point = point[np.argsort(part[rows, columns], kind="stable")]  # from back to front
    rows, columns = point.T.astype(int)
    own = part[rows, columns]
    colour = _palette(own, np.clip(tone[rows, columns] + rng.normal(0, 0.1, count), 0, 0.999))
    accent = rng.random(count) < ACCENTS  # broken colour: a few strokes have the colours of another part
    colour[accent] = _palette(rng.permutation(own[accent]), tone[rows, columns][accent])
    colour += rng.normal(0, 9, (count, 3)) + rng.normal(0, 7, (count, 1))
    stride = length / steps * rng.uniform(0.6, 1.3, (count, 1)).astype(np.float32)
    stride *= np.where(np.isin(own, (FAR, NEAR)), 0.7, 1)[:, None]
    path, alive, ends = [point], np.ones(count, bool), np.full(count, steps + 1)
    for step in range(steps):
        angle = direction[point[:, 0].astype(int), point[:, 1].astype(int)]
        point = point + stride * np.stack([np.sin(angle), np.cos(angle)], 1)
        inside = ((point >= 0) & (point < side)).all(1)
        point = np.clip(point, 0, side - 1)
        inside &= part[point[:, 0].astype(int), point[:, 1].astype(int)] == own
        ends[alive & ~inside] = step + 1
        alive &= inside
        path.append(point)
    paths = np.stack(path, 1)[:, None, :, ::-1]  # [count, 1, steps + 1, 2], x before y
    along = np.gradient(paths, axis=2)
    across = along[..., ::-1] * (-1, 1) / (np.linalg.norm(along, axis=-1, keepdims=True) + 1e-6)
    bristles = max(3, round(width / 2.2))
    places = np.linspace(-0.5, 0.5, bristles)[:, None, None]
    far_from_end = np.minimum(np.arange(steps + 1), np.maximum(ends[:, None] - 1 - np.arange(steps + 1), 0))
    taper = np.minimum(1, 0.45 + far_from_end / 2)[:, None, :, None]
    lines = np.round((paths + across * taper * places * width) * 16).astype(np.int32)
    shade = rng.normal(0, 7, (count, bristles, 1)) + rng.normal(0, 3, (count, bristles, 3))
    heights = 255 * rng.uniform(0.35, 1, (count, bristles, 1)) * (1 - 1.2 * np.abs(places[:, 0]))
    tints = np.concatenate([np.clip(colour[:, None] + shade, 0, 255), heights], 2).tolist()
    long = [number for number in range(count) if ends[number] >= 4]
    return [list(lines[number, :, : ends[number]]) for number in long], [tints[number] for number in long]


def synthetic_painting(seed: int = 0, size: int = 512) -> np.ndarray:
    """Return a painting, uint8 [size, size, 3]: a swirling evening sky, hills, a field of grain and two poplars.

    `seed` determines the strokes, but not the composition. Brush strokes are painted from coarse to fine. Each follows
    the direction field of the scene (Litwinowicz 1997, doi:10.1145/258734.258893), has the colour of the scene at its
    start with a random deviation, and ends where another part of the scene begins. A stroke consists of bristles, each
    with its own brightness and its own height. At the end, light from the top left shades the heights of the paint.
    """
    return _painted(seed, size).copy()


@functools.lru_cache(maxsize=4)
def _painted(seed: int, size: int) -> np.ndarray:
    import cv2

    rng = np.random.default_rng(seed)
    side = round(size * 1.25)  # painted larger, then shrunk
    part, tone, direction = _scene(rng, side)
    base = 0.8 * _palette(part, 0.7 * tone)
    canvas = np.dstack([base, np.zeros((side, side))]).astype(np.uint8)  # red, green, blue and the height of the paint
    for count, length, width in STROKES:
        points, colours = _strokes(rng, part, tone, direction, count, length * side / 512, width * side / 512)
        thick = max(1, round(3 * side / 512))
        for lines, tints in zip(points, colours, strict=True):
            for line, tint in zip(lines, tints, strict=True):
                cv2.polylines(canvas, [line], False, tint, thick, cv2.LINE_AA, 4)
    height = cv2.GaussianBlur(canvas[..., 3].astype(np.float32) / 255, (0, 0), 0.7 * side / 512)
    down, right = np.gradient(height)
    light = np.clip(1 - 0.7 * (down + right) * 512 / side, 0.55, 1.45)[..., None]
    lit = np.clip(canvas[..., :3] * light, 0, 255)
    return np.rint(cv2.resize(lit, (size, size), interpolation=cv2.INTER_AREA)).clip(0, 255).astype(np.uint8)
