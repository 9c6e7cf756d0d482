"""Geometry, colours and canvas of a synthetic face; see `common.samples.faces`."""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np


class Haircut(NamedTuple):
    """A haircut. Lengths are in face units. One unit is about half the width of a head."""

    probability: float
    volume: float  # distance from the skull
    sides: float  # length in front of the ears
    back: float  # length behind the neck
    hairline: float  # height in the middle of the forehead
    sweep: float  # drop of the hairline on the far side of the parting
    curl: float  # 0 (straight) to 1 (curly)


HAIRCUTS = (
    Haircut(0.08, 0.02, -0.1, 0.1, -1.3, 0.0, 0.0),  # bald except at the sides
    Haircut(0.09, 0.03, -0.1, 0.1, -0.74, 0.0, 0.2),  # cropped
    Haircut(0.14, 0.13, 0.0, 0.2, -0.66, 0.35, 0.1),  # side parting
    Haircut(0.11, 0.26, -0.1, 0.2, -0.72, 0.1, 0.3),  # brushed up
    Haircut(0.10, 0.24, 0.1, 0.5, -0.62, 0.1, 1.0),  # short curls
    Haircut(0.08, 0.48, 0.3, 0.6, -0.66, 0.0, 1.0),  # long curls
    Haircut(0.10, 0.20, 0.75, 0.9, -0.60, 0.3, 0.1),  # a bob
    Haircut(0.07, 0.20, 0.80, 0.9, -0.30, 0.0, 0.0),  # a bob with a fringe
    Haircut(0.10, 0.16, 1.7, 1.9, -0.72, 0.2, 0.0),  # long and straight
    Haircut(0.08, 0.24, 1.7, 1.9, -0.66, 0.3, 0.6),  # long and wavy
    Haircut(0.05, 0.08, -0.1, 0.1, -0.76, 0.1, 0.1),  # tied back
)


@functools.cache
def face_colours(codes: str) -> np.ndarray:
    """Convert colours from RRGGBB codes to float32 [n, 3] in 0..1."""
    return np.array([list(bytes.fromhex(code)) for code in codes.split()], np.float32) / 255


@functools.cache
def _spline(corners: int, closed: bool) -> np.ndarray:
    """Return the matrix [n, corners] that evaluates a Catmull-Rom spline at 4 points per segment."""
    t = np.arange(4)[:, None] / 4
    weights = np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]) / 2
    rows = []
    for corner in range(corners if closed else corners - 1):
        indices = np.arange(corner - 1, corner + 3)
        indices = indices % corners if closed else indices.clip(0, corners - 1)
        rows.append(weights @ np.eye(corners)[indices])
    return np.concatenate(rows if closed else [*rows, np.eye(corners)[-1:]])


def curve(points: Any) -> np.ndarray:
    """Return a smooth line through points [n, 2 or 3]."""
    return _spline(len(points), False) @ np.asarray(points, float)


def blob(points: Any) -> np.ndarray:
    """Return a smooth closed outline through points [n, 2 or 3]."""
    return _spline(len(points), True) @ np.asarray(points, float)


def mirrored(half: list) -> np.ndarray:
    """Return a smooth, symmetric, closed outline. `half` is its right half, from top to bottom."""
    return blob([*half, *((-point[0], *point[1:]) for point in half[::-1] if point[0] > 0)])


def even(half: list) -> np.ndarray:
    """Return a smooth, symmetric line. `half` is its left half, which ends on the axis of symmetry."""
    return curve([*half, *((-x, y) for x, y in half[-2::-1])])


@functools.cache
def unit_circle() -> np.ndarray:
    """Return 24 points on the unit circle, [24, 2]."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def oval(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Return points on an ellipse with centre (x, y) and semi-axes `width` and `height`."""
    return unit_circle() * (width, height) + (x, y)


def mix(first: np.ndarray, second: np.ndarray | np.float32, weight: float) -> np.ndarray:
    """Interpolate linearly from `first` (weight 0) to `second` (weight 1)."""
    return first + (second - first) * np.float32(weight)


def noise_texture(rng: np.random.Generator, cells: int, side: int) -> np.ndarray:
    """Return smooth, roughly Gaussian noise, float32 [side, side], with `cells` cells along each axis."""
    import cv2

    grain = rng.standard_normal((cells, cells), np.float32)
    return np.asarray(cv2.resize(grain, (side, side), interpolation=cv2.INTER_CUBIC))


def front_depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the z coordinate of the face's surface at (x, y). The z axis points towards the viewer."""
    return 0.8 * np.sqrt(np.maximum(1 - (x / 1.06) ** 2 - (y / 1.45) ** 2, 0))


class Portrait:
    """The state of a face while it is painted: the person, the expression, the light, and the canvas."""

    def __init__(
        self, sitter: tuple, moment: tuple, strengths: dict[str, float], size: int, uniform: bool = False
    ) -> None:
        self.sitter, self.strengths, self.side, self.uniform = sitter, strengths, 2 * size, uniform
        self.paint = np.zeros((self.side, self.side, 3), np.float32)  # RGB 0..1
        now = self.moment = np.random.default_rng(moment)
        self.open, self.brows, self.frown, self.lids = now.random(4)
        self.gaze = now.uniform((-0.07, -0.025), (0.07, 0.025))
        self.yaw = np.radians(58) * (0.5 - strengths["looking_left"])
        self.roll, tall, self.warmth = now.normal(0, (0.04, 0.01, 0.03))
        lamp = np.array([now.uniform(0.25, 0.85) * now.choice((-1, 1)), now.uniform(-0.6, -0.2), 0.75])
        self.lamp = lamp / np.linalg.norm(lamp)

        rng = self.dice("head")
        self.softness = rng.random()  # 0: wide jaw, thick brows; 1: narrow jaw, thin brows, redder lips
        self.unit = self.side * rng.uniform(0.3, 0.325)
        self.centre = np.array([0.5, 0.45 + tall]) * self.side
        self.width, self.jaw, self.chin = rng.uniform((0.88, 0.64, 0.2), (1.0, 0.86, 0.38)) - (
            0,
            0.08 * self.softness,
            0,
        )
        self.length = rng.uniform(1.18, 1.36)
        self.nose = rng.uniform((0.12, 0.38, 0.2), (0.2, 0.5, 0.36))  # half-width, height of the tip, length
        self.mouth = self.nose[1] + (self.length - self.nose[1]) * rng.uniform(0.4, 0.46)
        self.lips = rng.uniform((0.24, 0.05, 0.07), (0.32, 0.1, 0.13))  # half-width, heights of the upper and lower lip
        self.lips[1:] *= 1 - 0.3 * strengths["old"]
        tones = face_colours("F4D5C0 ECC4A6 E0B08A D2A078 9A6644 7C4E34 62402C 583828").reshape(2, 4, 3)
        light, dark = mix(tones[:, (start := rng.integers(3))], tones[:, start + 1], rng.random())
        self.skin = mix(light, dark, strengths["dark_skin"])
        self.hair = self._hair_colour()
        self.cut = self._haircut()
        self.head = np.ones(())  # mask of the head; `paint_head` sets it

    def dice(self, part: str) -> np.random.Generator:
        """Return a random generator for one part of the face."""
        return np.random.default_rng([*self.sitter, zlib.crc32(part.encode())])

    def _hair_colour(self) -> np.ndarray:
        rng = self.dice("hair colour")
        dark = rng.choice(face_colours("1A1513 2B1D16 3E281C 553624 4A2418 6B3A20"))
        hair = mix(dark, rng.choice(face_colours("E2BE78 D6AC62 EACB90 C99C50")), self.strengths["blond"])
        grey = np.float32(0.3 + 0.62 * hair.mean()) * mix(np.ones(3, np.float32), hair / hair.max(), 0.35)
        return mix(hair, grey, 0.85 * self.strengths["old"])

    def _haircut(self) -> Haircut:
        rng = self.dice("haircut")
        probabilities = np.array([cut.probability for cut in HAIRCUTS])
        if self.uniform:
            probabilities *= [cut.sides <= 0.1 and cut.hairline > -1 and cut.curl < 0.5 for cut in HAIRCUTS]
            probabilities /= probabilities.sum()
        cut = HAIRCUTS[rng.choice(len(HAIRCUTS), p=probabilities)]
        volume = cut.volume * rng.uniform(0.7, 1.4)
        if self.strengths["hat"] >= 0.5:
            volume = min(volume, 0.14)
        hairline = cut.hairline + rng.normal(0, 0.04) - 0.05 * self.strengths["old"]
        sweep = cut.sweep * rng.choice((-1, 1)) * rng.uniform(0.6, 1.3)
        return cut._replace(volume=volume, hairline=hairline, sweep=sweep)

    def shade(self, level: float) -> np.ndarray:
        """Return the colour of skin in shadow. Deeper shadow is redder."""
        return self.skin * np.array([level, level**1.25, level**1.4], np.float32)

    def project(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Rotate points [n, 2 or 3] with the head, and convert them to pixels [n, 2].

        Points [n, 2] lie on the surface of the face, raised by `lift`.
        """
        x, y = points[:, 0], points[:, 1]
        depth = points[:, 2] if points.shape[1] == 3 else front_depth(x, y) + lift
        x = x * np.cos(self.yaw) + depth * np.sin(self.yaw)
        return self.still(np.stack([x - self.roll * (y - 1), y + self.roll * x], 1))

    def still(self, points: Any) -> np.ndarray:
        """Convert points [n, 2] to pixels [n, 2] without rotating them with the head."""
        return np.asarray(points) * self.unit + self.centre

    def stencil(self, pixels: np.ndarray) -> np.ndarray:
        """Return the mask of an outline given in pixels [n, 2]: float32 [side, side] in [0, 1]."""
        import cv2

        mask = np.zeros((self.side, self.side), np.uint8)
        cv2.fillPoly(mask, [np.rint(pixels * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        return mask.astype(np.float32) / 255

    def fill(
        self, pixels: np.ndarray, colour: Any, strength: float = 1, soft: float = 0, line: float = 0, inside: Any = None
    ) -> None:
        """Fill an outline given in pixels [n, 2], or draw it as a line if `line` is above 0.

        `colour` is [3], or a map [side, side, 3]. `line` is the line width, and `soft` is the blur of the edge, both in
        face units. `inside` is a mask that limits the painted area.
        """
        import cv2

        corners = np.rint(pixels * 16).astype(np.int32)
        left, top, width, height = cv2.boundingRect(corners)
        pad = int((2.5 * soft + line) * self.unit) + 2
        left, right = max((left >> 4) - pad, 0), min(((left + width) >> 4) + pad, self.side)
        top, bottom = max((top >> 4) - pad, 0), min(((top + height) >> 4) + pad, self.side)
        if right <= left or bottom <= top or strength <= 0:
            return
        crop = slice(top, bottom), slice(left, right)
        mask = np.zeros((bottom - top, right - left), np.uint8)
        corners -= (16 * left, 16 * top)
        if line:
            cv2.polylines(mask, [corners], False, 255, max(1, round(line * self.unit)), cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, 4)
        if soft:
            cv2.GaussianBlur(mask, (0, 0), soft * self.unit, dst=mask)
        alpha = mask * np.float32(strength / 255)
        if inside is not None:
            alpha *= inside[crop]
        region = self.paint[crop]
        region += ((colour[crop] if colour.ndim == 3 else colour) - region) * alpha[..., None]

    def draw(self, points: Any, colour: Any, *how: float, lift: float = 0, inside: Any = None) -> None:
        """Project an outline [n, 2 or 3] and fill it. `how` holds the arguments strength, soft and line of `fill`."""
        named = dict(zip(("strength", "soft", "line"), how, strict=False))
        self.fill(self.project(np.asarray(points, float), lift), colour, inside=inside, **named)

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel coordinates x [side] and y [side, 1] in face units, for an upright head."""
        x, y = (((np.arange(self.side) + 0.5 - middle) / self.unit).astype(np.float32) for middle in self.centre)
        return x, y[:, None]

    def bumps(self, shapes: list) -> np.ndarray:
        """Return the sum [side, side] of smooth bumps, each given as (x, y, half-width, half-height, amount, lift)."""
        x, y, width, height, amount, lift = np.array(shapes, float).T
        x = x * np.cos(self.yaw) + (front_depth(x, y) + lift) * np.sin(self.yaw)
        across, down = self.grid()
        columns = np.exp(-(((across[:, None] - x) / width) ** 2)) * amount
        rows = np.array_split(np.exp(-(((down - y) / height) ** 2)), 1 + self.side // 100)
        # BLAS uses several threads for larger products, which takes longer than the product itself.
        return np.concatenate([part @ columns.T for part in rows]).astype(np.float32)

    def upright(self, upright_map: np.ndarray) -> np.ndarray:
        """Rotate a map, computed for an upright head, by the tilt of this portrait's head."""
        import cv2

        middle, tilt = self.centre + (0, self.unit), np.array([[1, -self.roll], [self.roll, 1]])
        matrix = np.column_stack([tilt, middle - tilt @ middle])
        return np.asarray(cv2.warpAffine(upright_map, matrix, (self.side, self.side), borderMode=cv2.BORDER_REPLICATE))

    def lit(self, roundness: float = 0.3) -> np.ndarray:
        """Return a shading map of a rounded surface, such as hair or a hat: [side, side], values from 0.35 to 1.25."""
        x, y = self.grid()
        return np.clip(0.85 + roundness * (self.lamp[0] * x + self.lamp[1] * y), 0.35, 1.25).astype(np.float32)
