"""Colour faces drawn by rule, with attributes that are known and can be set one by one, without a download.

How a face is made. Everything is placed in the face's own units: x right, y down and z towards the viewer from the
point between the eyes, where 1 is about half the width of a head. Features lie on the front of an ellipsoid; turning
the head turns that ellipsoid, so they shift and the far cheek narrows. The skin is lit as a height field: the ellipsoid
with smooth bumps for nose, brow, cheeks, lips and chin, and one lamp. Over it, back to front, go soft-edged outlines
on a canvas twice as fine as the picture, which is then averaged down and given a sensor's noise.

Each part draws its numbers from a generator of its own, keyed by the sitter (or the moment) and the part's name. So one
attribute can be changed and all else stays, and two sitters can be shown at the same moments.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np


class FaceAttribute(NamedTuple):
    """How often an attribute is there, and the strengths drawn where it is not and where it is."""

    share: float
    absent: tuple[float, float]
    present: tuple[float, float]
    momentary: bool = False  # part of the moment, not of the sitter


FACE_ATTRIBUTE_RANGES = {
    "smile": FaceAttribute(0.5, (0.0, 0.2), (0.7, 1.0), True),
    "glasses": FaceAttribute(0.35, (0.0, 0.0), (1.0, 1.0)),
    "beard": FaceAttribute(0.35, (0.0, 0.0), (0.75, 1.0)),
    "hat": FaceAttribute(0.35, (0.0, 0.0), (1.0, 1.0)),
    "blond": FaceAttribute(0.5, (0.0, 0.1), (0.85, 1.0)),
    "dark_skin": FaceAttribute(0.5, (0.0, 0.3), (0.7, 1.0)),
    "old": FaceAttribute(0.5, (0.0, 0.15), (0.8, 1.0)),
    "looking_left": FaceAttribute(0.5, (0.0, 0.45), (0.75, 1.0), True),
    "bright_background": FaceAttribute(0.5, (0.0, 0.25), (0.75, 1.0), True),
}
FACE_ATTRIBUTES: tuple[str, ...] = tuple(FACE_ATTRIBUTE_RANGES)


class Haircut(NamedTuple):
    """Lengths in the face's units."""

    share: float
    volume: float  # how far it stands off the skull
    sides: float  # how far down it reaches in front of the ears
    back: float  # and behind the neck
    hairline: float  # height in the middle of the forehead
    sweep: float  # how much lower the hairline is on the far side of the parting
    curl: float  # 0 straight .. 1 curly


HAIRCUTS = (
    Haircut(0.08, 0.02, -0.1, 0.1, -1.3, 0.0, 0.0),  # bald but for the sides
    Haircut(0.09, 0.03, -0.1, 0.1, -0.74, 0.0, 0.2),  # cropped
    Haircut(0.14, 0.13, 0.0, 0.2, -0.66, 0.35, 0.1),  # parted at the side
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
def _face_colours(codes: str) -> np.ndarray:
    """Turn colours written as RRGGBB into float32 [n, 3] in 0..1."""
    return np.array([list(bytes.fromhex(code)) for code in codes.split()], np.float32) / 255


@functools.cache
def _spline(corners: int, closed: bool) -> np.ndarray:
    """Return the matrix [n, corners] of a Catmull-Rom curve: 4 points a corner, through all corners."""
    t = np.arange(4)[:, None] / 4
    weights = np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]) / 2
    rows = []
    for corner in range(corners if closed else corners - 1):
        places = np.arange(corner - 1, corner + 3)
        places = places % corners if closed else places.clip(0, corners - 1)
        rows.append(weights @ np.eye(corners)[places])
    return np.concatenate(rows if closed else [*rows, np.eye(corners)[-1:]])


def _curve(points: Any) -> np.ndarray:
    """Draw a smooth line through points [n, 2 or 3]."""
    return _spline(len(points), False) @ np.asarray(points, float)


def _blob(points: Any) -> np.ndarray:
    """Draw a smooth closed outline through points [n, 2 or 3]."""
    return _spline(len(points), True) @ np.asarray(points, float)


def _mirrored(half: list) -> np.ndarray:
    """Draw a smooth closed outline of which the right half is given, from its top on the axis to its bottom."""
    return _blob([*half, *((-point[0], *point[1:]) for point in half[::-1] if point[0] > 0)])


def _even(half: list) -> np.ndarray:
    """Draw a smooth line of which the left half is given, up to the axis."""
    return _curve([*half, *((-x, y) for x, y in half[-2::-1])])


@functools.cache
def _circle() -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _oval(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Return points on an ellipse around x, y with these half axes."""
    return _circle() * (width, height) + (x, y)


def _mix(first: np.ndarray, second: np.ndarray | np.float32, share: float) -> np.ndarray:
    return first + (second - first) * np.float32(share)


def _texture(rng: np.random.Generator, cells: int, side: int) -> np.ndarray:
    """Grow a smooth random map, about normal, with that many cells across: float32 [side, side]."""
    import cv2

    grain = rng.standard_normal((cells, cells), np.float32)
    return np.asarray(cv2.resize(grain, (side, side), interpolation=cv2.INTER_CUBIC))


def _front(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how far the face reaches towards the viewer."""
    return 0.8 * np.sqrt(np.maximum(1 - (x / 1.06) ** 2 - (y / 1.45) ** 2, 0))


class Portrait:
    """One picture while it is painted: who sits, how they look, the light, and the canvas."""

    def __init__(self, sitter: tuple, moment: tuple, strengths: dict[str, float], size: int) -> None:
        self.sitter, self.strengths, self.side = sitter, strengths, 2 * size
        self.paint = np.zeros((self.side, self.side, 3), np.float32)  # RGB 0..1
        now = self.moment = np.random.default_rng(moment)
        self.open, self.brows, self.frown, self.lids = now.random(4)
        self.gaze = now.uniform((-0.07, -0.025), (0.07, 0.025))
        self.yaw = np.radians(58) * (0.5 - strengths["looking_left"])
        self.roll, tall, self.warmth = now.normal(0, (0.04, 0.01, 0.03))
        lamp = np.array([now.uniform(0.25, 0.85) * now.choice((-1, 1)), now.uniform(-0.6, -0.2), 0.75])
        self.lamp = lamp / np.linalg.norm(lamp)

        rng = self.dice("head")
        self.softness = rng.random()  # how smooth and slender all features are
        self.unit = self.side * rng.uniform(0.3, 0.325)
        self.centre = np.array([0.5, 0.45 + tall]) * self.side
        self.width, self.jaw, self.chin = rng.uniform((0.88, 0.64, 0.2), (1.0, 0.86, 0.38)) - (
            0,
            0.08 * self.softness,
            0,
        )
        self.length = rng.uniform(1.18, 1.36)
        self.nose = rng.uniform((0.12, 0.38, 0.2), (0.2, 0.5, 0.36))  # half width, tip below the eyes, how far out
        self.mouth = self.nose[1] + (self.length - self.nose[1]) * rng.uniform(0.4, 0.46)
        self.lips = rng.uniform((0.24, 0.05, 0.07), (0.32, 0.1, 0.13))  # half width, height of the upper and lower
        self.lips[1:] *= 1 - 0.3 * strengths["old"]
        tones = _face_colours("F4D5C0 ECC4A6 E0B08A D2A078 9A6644 7C4E34 62402C 583828").reshape(2, 4, 3)
        light, dark = _mix(tones[:, (start := rng.integers(3))], tones[:, start + 1], rng.random())
        self.skin = _mix(light, dark, strengths["dark_skin"])
        self.hair = self._hair_colour()
        self.cut = self._haircut()
        self.head = np.ones(())  # the stencil of the head, once it is painted

    def dice(self, part: str) -> np.random.Generator:
        """Return the generator of one part of the sitter."""
        return np.random.default_rng([*self.sitter, zlib.crc32(part.encode())])

    def _hair_colour(self) -> np.ndarray:
        rng = self.dice("hair colour")
        dark = rng.choice(_face_colours("1A1513 2B1D16 3E281C 553624 4A2418 6B3A20"))
        hair = _mix(dark, rng.choice(_face_colours("E2BE78 D6AC62 EACB90 C99C50")), self.strengths["blond"])
        grey = np.float32(0.3 + 0.62 * hair.mean()) * _mix(np.ones(3, np.float32), hair / hair.max(), 0.35)
        return _mix(hair, grey, 0.85 * self.strengths["old"])

    def _haircut(self) -> Haircut:
        rng = self.dice("haircut")
        cut = HAIRCUTS[rng.choice(len(HAIRCUTS), p=[cut.share for cut in HAIRCUTS])]
        volume = cut.volume * rng.uniform(0.7, 1.4)
        if self.strengths["hat"] >= 0.5:
            volume = min(volume, 0.14)
        hairline = cut.hairline + rng.normal(0, 0.04) - 0.05 * self.strengths["old"]
        sweep = cut.sweep * rng.choice((-1, 1)) * rng.uniform(0.6, 1.3)
        return cut._replace(volume=volume, hairline=hairline, sweep=sweep)

    def shade(self, level: float) -> np.ndarray:
        """Return the colour of skin in shadow; the deeper, the redder."""
        return self.skin * np.array([level, level**1.25, level**1.4], np.float32)

    def project(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Turn points [n, 2] on the face, `lift` above it, or [n, 3] anywhere, with the head: pixels [n, 2]."""
        x, y = points[:, 0], points[:, 1]
        depth = points[:, 2] if points.shape[1] == 3 else _front(x, y) + lift
        x = x * np.cos(self.yaw) + depth * np.sin(self.yaw)
        return self.still(np.stack([x - self.roll * (y - 1), y + self.roll * x], 1))

    def still(self, points: Any) -> np.ndarray:
        """Place points [n, 2] that do not move with the head: pixels [n, 2]."""
        return np.asarray(points) * self.unit + self.centre

    def stencil(self, pixels: np.ndarray) -> np.ndarray:
        """Cut an outline in pixels [n, 2] out of the whole canvas: float32 [side, side] in 0..1."""
        import cv2

        mask = np.zeros((self.side, self.side), np.uint8)
        cv2.fillPoly(mask, [np.rint(pixels * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        return mask.astype(np.float32) / 255

    def fill(
        self, pixels: np.ndarray, colour: Any, strength: float = 1, soft: float = 0, line: float = 0, inside: Any = None
    ) -> None:
        """Paint an outline, or a line of that width, in pixels [n, 2] with a colour [3] or a map [side, side, 3].

        The edge is blurred by `soft`, in the face's units as the width, and only what is `inside` a stencil is painted.
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
        """Project points [n, 2 or 3] as `project` does, and `fill` what they outline; `how`: strength, soft, line."""
        named = dict(zip(("strength", "soft", "line"), how, strict=False))
        self.fill(self.project(np.asarray(points, float), lift), colour, inside=inside, **named)

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x [side] and y [side, 1], in the face's units, of the upright canvas."""
        x, y = (((np.arange(self.side) + 0.5 - middle) / self.unit).astype(np.float32) for middle in self.centre)
        return x, y[:, None]

    def bumps(self, places: list) -> np.ndarray:
        """Add up smooth bumps, each x, y, half width, half height, amount and lift on the face: [side, side]."""
        x, y, width, height, amount, lift = np.array(places, float).T
        x = x * np.cos(self.yaw) + (_front(x, y) + lift) * np.sin(self.yaw)
        across, down = self.grid()
        columns = np.exp(-(((across[:, None] - x) / width) ** 2)) * amount
        return (np.exp(-(((down - y) / height) ** 2)) @ columns.T).astype(np.float32)

    def upright(self, picture: np.ndarray) -> np.ndarray:
        """Tilt a map of the upright head as the head is tilted."""
        import cv2

        middle, tilt = self.centre + (0, self.unit), np.array([[1, -self.roll], [self.roll, 1]])
        matrix = np.column_stack([tilt, middle - tilt @ middle])
        return np.asarray(cv2.warpAffine(picture, matrix, (self.side, self.side), borderMode=cv2.BORDER_REPLICATE))

    def lit(self, roundness: float = 0.3) -> np.ndarray:
        """Return the light on something simply round, like hair or a hat: [side, side], 0.35..1.25."""
        x, y = self.grid()
        return np.clip(0.85 + roundness * (self.lamp[0] * x + self.lamp[1] * y), 0.35, 1.25).astype(np.float32)


def _paint_background(p: Portrait) -> None:
    """Paint a plain wall, a gradient or something out of focus, bright or dark."""
    import cv2

    rng, bright = p.moment, p.strengths["bright_background"]
    kind, turn = rng.integers(3), rng.uniform(0, 2 * np.pi)
    hues = rng.uniform(0.0, 1.0, (2, 3)).astype(np.float32)
    hues = _mix(hues, hues.mean(1, keepdims=True), rng.uniform(0.1, 0.8))
    first, second = (_mix(0.06 + 0.36 * hue, 0.72 + 0.28 * hue, bright) for hue in hues)
    spots = cv2.GaussianBlur(rng.random((8, 8, 3), np.float32), (0, 0), 0.6)
    x = np.linspace(-0.7, 0.7, p.side, dtype=np.float32)
    y = x[:, None]
    if kind == 0:
        share = (0.3 * (x**2 + y**2))[..., None]
    elif kind == 1:
        share = np.clip(0.5 + np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y, 0, 1)[..., None]
    else:
        share = np.clip(2.5 * cv2.resize(spots, (p.side, p.side), interpolation=cv2.INTER_CUBIC) - 0.8, 0, 1)
    p.paint[:] = first + (second - first) * share


def _lit_skin(p: Portrait) -> np.ndarray:
    """Light the skin of the face: float32 [side, side, 3]."""
    smile, old, (nose, tip, out), mouth = p.strengths["smile"], p.strengths["old"], p.nose, p.mouth
    rng = p.dice("skin")
    cheek, brow, chin, blush, shine = rng.uniform((0.03, 0.05, 0.05, 0, 0.04), (0.09, 0.1, 0.12, 0.16, 0.13))
    bumps: list[tuple] = [(0, tip, 0.13, 0.11, 0.17, out), (0, tip * 0.5, 0.09, 0.26, 0.16, out * 0.5)]
    bumps += [(0, mouth - 0.07, 0.3, 0.08, 0.05, 0), (0, mouth + 0.09, 0.22, 0.06, 0.06, 0)]
    bumps += [(0, p.length - 0.14, 0.2, 0.14, chin, 0.1), (0, mouth + 0.19, 0.2, 0.05, -0.04, 0)]
    for s in (-1, 1):
        bumps += [(s * nose * 0.8, tip + 0.03, 0.07, 0.07, 0.09, out * 0.5), (s * 0.4, -0.02, 0.22, 0.13, -0.12, 0)]
        bumps += [(s * 0.36, -0.26, 0.26, 0.1, brow, 0), (s * 0.62, 0.62, 0.16, 0.2, -0.06 * old - 0.02, 0)]
        bumps += [(s * 0.52, 0.36 - 0.04 * smile, 0.2, 0.17, cheek + 0.1 * smile, 0)]
    x, y = p.grid()
    height = 0.95 * np.sqrt(np.maximum(1.12 - (x / 1.06) ** 2 - ((y - 0.02) / 1.45) ** 2, 0.03)) + p.bumps(bumps)
    down, across = np.gradient(height, np.float32(1 / p.unit))
    length = np.sqrt(across * across + down * down + 1)

    def facing(x: float, y: float, z: float) -> np.ndarray:
        return np.maximum(np.float32(z) - np.float32(x) * across - np.float32(y) * down, 0) / length

    half = p.lamp + (0, 0, 1)
    gloss = facing(*half / np.linalg.norm(half))
    for _ in range(4):
        gloss *= gloss
    light = (0.44 + 0.66 * facing(*p.lamp)) * (1 + np.float32(0.012 + 0.015 * old) * _texture(rng, 14, p.side))
    red = p.bumps([(s * 0.55, 0.4, 0.22, 0.17, blush, 0) for s in (-1, 1)] + [(0, tip, 0.12, 0.1, blush * 0.8, out)])
    lit = np.empty((p.side, p.side, 3), np.float32)
    for channel, (deepen, flush) in enumerate(((-0.14, 0), (0.1, -0.55), (0.24, -0.5))):  # skin in shadow is redder
        lit[..., channel] = light * (1 + deepen * (light - 1)) * (1 + flush * red) * p.skin[channel] + shine * gloss
    return p.upright(lit)


def _hair_map(p: Portrait) -> np.ndarray:
    """Colour hair with strands that fall from the crown, or curls, and a gloss: float32 [side, side, 3]."""
    import cv2

    rng, curl = p.dice("strands"), p.cut.curl
    across, down = p.grid()
    x = across - np.float32(0.5 * p.cut.sweep + 0.6 * np.sin(p.yaw))
    coils, waves = _texture(rng, 30, p.side), _texture(rng, 7, p.side)
    strands = cv2.GaussianBlur(rng.standard_normal((1, 512), np.float32), (0, 0), 2.5)[0] * 2.4
    angle = np.arctan2(x, np.maximum(down + 1.35, 0.12)) * 70 + 256 + np.float32(14 * curl) * waves
    texture = _mix(strands[np.clip(angle, 0, 511).astype(np.int32)], 0.6 * coils, max(0.0, 1.6 * curl - 0.6))
    ring = np.hypot(across - np.float32(0.35 * p.lamp[0]), 0.75 * (down + 1.35)) - 0.42
    light = p.lit(0.32) * (1 + 0.17 * texture) * (0.86 + 0.34 * np.exp(-((ring / 0.14) ** 2)))
    grey = np.clip(waves, 0, 1)[..., None] * np.float32(0.25 * p.strengths["old"])
    return p.upright((p.hair + (0.8 - p.hair) * grey) * light[..., None])


def _ruffled(p: Portrait, points: np.ndarray, part: str) -> np.ndarray:
    """Project an outline [n, 3] and make it as uneven as the hair is curly: pixels [n, 2]."""
    rng = p.dice(part)
    bends = np.cumsum(rng.uniform(0.5, 1.6, len(points)))
    off = np.stack([np.sin(bends), np.cos(1.3 * bends)], 1) * rng.uniform(0.5, 1, (len(points), 1))
    return p.project(points) + (0.01 + 0.055 * p.cut.curl) * p.unit * off


def _paint_back_hair(p: Portrait, hair: np.ndarray) -> None:
    volume, back = p.cut.volume, p.cut.back
    wide, top = p.width + 0.02 + 0.55 * volume, -1.2 - volume if p.cut.hairline > -1 else -1.0
    flare = wide + 0.1 * (back > 0.7) * p.dice("back hair").uniform(-0.5, 2)
    half = [(0, top, -0.25), (wide * 0.62, top + 0.1, -0.25), (wide * 0.95, top + 0.45, -0.25), (wide, -0.2, -0.25)]
    half += [(flare, back * 0.5, -0.25), (flare * 0.92, back, -0.25), (0, back + 0.02, -0.25)]
    p.fill(_ruffled(p, _mirrored(half), "back hair edge"), hair * np.float32(0.72), 1, 0.015)


def _paint_shoulders(p: Portrait) -> None:
    """Paint the neck, the shadow of the chin, and clothes with one of several collars."""
    rng, kind = p.dice("clothes"), p.dice("collar").integers(5)
    dyes = "2B2F3A 7A1F28 E8E4DC 31507A 4E6B48 B98A3C 8A8F96 5B3A66 1B1B1E C77B74 D8C9A8"
    colour, other = rng.choice(_face_colours(dyes)), rng.choice(_face_colours("F2F0EA 22252C A83A32 3E6A9A D9B44A"))
    neck, drop, shift = rng.uniform(0.4, 0.54) - 0.06 * p.softness, rng.uniform(1.46, 1.58), 0.35 * np.sin(p.yaw)
    light = (p.lit(0.2) * (1 + 0.06 * _texture(rng, 6, p.side)))[..., None]
    skin, cloth = p.shade(0.86) * light, colour * light
    half = [(-neck, 2), (-neck - 0.12, 1.6), (-neck + shift, 0.6)]
    throat = p.still(_blob([*half, (neck + shift, 0.6), (neck + 0.12, 1.6), (neck, 2)]))
    p.fill(throat, skin)
    chin = _oval(shift + 0.1 * p.lamp[0], p.length - 0.1, 0.62, 0.3)
    p.fill(p.still(chin), p.shade(0.42), 0.75, 0.08, inside=p.stencil(throat))
    half = [(-2.2, 2.4), (-1.7, 1.75), (-1.2, drop + 0.06), (-neck - 0.14, drop - 0.1)]
    p.fill(p.still(_blob([*half, *((-x, y) for x, y in half[::-1])])), cloth)
    if kind == 0:  # a round neck
        p.fill(p.still(_oval(0, drop - 0.06, neck + 0.08, 0.2)), skin)
    elif kind == 1:  # a V
        p.fill(p.still([(-neck - 0.08, drop - 0.14), (neck + 0.08, drop - 0.14), (0, 2.2)]), skin)
    elif kind == 2:  # a roll neck
        roll = [(-neck - 0.06, 1.9), (-neck - 0.03, 1.32), (neck + 0.03, 1.32), (neck + 0.06, 1.9)]
        p.fill(p.still(_blob(roll)), cloth * np.float32(0.92))
    else:  # a shirt, or a jacket over one
        front = [(-neck - 0.2, drop), (neck + 0.2, drop), (0.1, 2.4), (-0.1, 2.4)]
        p.fill(p.still(front), (other if kind == 4 else colour) * light)
        p.fill(p.still([(-neck, drop - 0.1), (neck, drop - 0.1), (0, drop + 0.22)]), skin)
        for s in (-1, 1):
            flap = [(neck + 0.04, drop - 0.3), (neck + 0.22, drop + 0.02), (0.3, drop + 0.3), (0, drop + 0.12)]
            p.fill(p.still(np.array(flap) * (s, 1)), (other if kind == 4 else colour) * np.float32(0.88) * light)


def _paint_head(p: Portrait, skin: np.ndarray) -> None:
    """Paint the ears and, over them, the head."""
    rng, w = p.dice("ears"), p.width
    out, tall = rng.uniform((0.02, 0.18), (0.1, 0.25))
    for s in (-1, 1):
        for width, height, colour, *how in (
            (0.12, tall, skin * np.float32(0.94)),
            (0.055, 0.6 * tall, p.shade(0.6), 0.7, 0.02),
        ):
            ear = _oval(s * (w + out), 0.1, width, height)
            p.draw(np.column_stack([ear, np.full(len(ear), -0.12)]), colour, *how)
    half = [(0, -1.22, 0), (0.5 * w, -1.12, 0), (0.86 * w, -0.76, 0), (w, -0.25, 0), (0.98 * w, 0.2, 0.02)]
    half += [((w + p.jaw) / 2, 0.56, 0.1), (p.jaw * 0.92, 0.84, 0.2), (p.chin + 0.12, p.length - 0.1, 0.42)]
    outline = p.project(_mirrored([*half, (0, p.length, 0.5)]))
    p.fill(outline, skin)
    p.head = p.stencil(outline)


def _paint_lines(p: Portrait) -> None:
    """Paint the soft shadows of the nose and of the folds around mouth and eyes, and the lines of age."""
    rng, smile, old, (nose, tip, _) = p.dice("lines"), p.strengths["smile"], p.strengths["old"], p.nose
    mouth, corner, s = p.mouth, p.lips[0] + 0.1 * smile, -np.sign(p.lamp[0])

    def crease(points: list, strength: float, soft: float = 0.025, line: float = 0.04) -> None:
        p.draw(_curve(points), p.shade(0.45), strength, soft, line, lift=0.02, inside=p.head)

    cast = [(0, tip - 0.1), (s * nose, tip), (s * (nose + 0.16), tip + 0.16), (0, tip + 0.15)]
    p.draw(_blob(cast), p.shade(0.45), 0.4, 0.05, lift=0.1)
    crease([(s * 0.1, -0.08), (s * 0.08, 0.15), (s * nose * 0.7, tip - 0.06)], 0.28, 0.04, 0.06)
    p.draw(_oval(0, mouth + 0.2, 0.16, 0.035), p.shade(0.45), 0.35, 0.05)
    bend, fan = rng.uniform(-0.04, 0.04, (3, 3)), rng.uniform(0.06, 0.18, 3)
    for s in (-1, 1):
        fold = [(s * (nose + 0.05), tip), (s * (corner + 0.1), tip + 0.18), (s * (corner + 0.13 - 0.03 * old), mouth)]
        crease(fold, 0.1 + 0.4 * smile + 0.5 * old * (1 - 0.4 * smile))
        crease([(s * 0.22, 0.13), (s * 0.38, 0.18 + 0.03 * old), (s * 0.58, 0.13)], 0.12 + 0.3 * old)
        for number in range(3):
            crease([(s * 0.66, 0.03 * number - 0.02), (s * 0.82, fan[number] * (number - 1))], 0.5 * old, 0.014, 0.03)
        crease([(s * (corner + 0.04), mouth + 0.08), (s * (corner + 0.08), mouth + 0.3)], 0.4 * old)
    for (left, middle, right), y in zip(bend, (-0.42, -0.54, -0.66), strict=True):
        crease([(-0.5, y + left), (0, y + middle), (0.5, y + right)], 0.55 * old, 0.018, 0.03)
    freckles = rng.uniform((-0.75, 0.1), (0.75, 0.55), (14, 2))
    for x, y in freckles if rng.random() < 0.18 + 0.3 * old else ():
        p.draw(_oval(x, y, 0.02, 0.02), p.shade(0.7), 0.55, 0.008, inside=p.head)


def _paint_beard(p: Portrait) -> None:
    """Paint stubble, a full beard, or a moustache with a goatee or a tuft."""
    rng, mouth, tip, w = p.dice("beard"), p.mouth, p.nose[1], p.width
    kind, longer = rng.choice(4, p=(0.25, 0.4, 0.2, 0.15)), rng.uniform(0.03, 0.16)
    dye = np.minimum(p.hair * np.array([0.82, 0.72, 0.62], np.float32), p.skin * np.float32(0.74))
    colour = dye * (p.lit(0.2) * (1 + 0.11 * _texture(rng, 44, p.side)))[..., None]
    strength = p.strengths["beard"] * (0.7 if kind == 0 else 0.95)
    if kind < 2:
        edge = p.length + longer * kind
        half = [(0, mouth + 0.13), (0.2, mouth + 0.12), (0.4, mouth - 0.06), (0.62, mouth - 0.1), (w * 0.86, 0.3)]
        half += [(w * 0.98, 0.1), (w, 0.4), (p.jaw + 0.06, 0.82), (p.chin + 0.16, edge - 0.08), (0, edge)]
        outline = _mirrored(half)
        rim = np.interp(outline[:, 1], (0.2, 0.56, 0.84, p.length), (0.02, 0.1, 0.2, 0.5))
        inner = np.abs(outline[:, 0]) < 0.75  # the rest goes with the outline of the head
        depth = np.where(inner, np.maximum(_front(*outline.T), rim), rim)
        p.draw(np.column_stack([outline, depth]), colour, strength, 0.025, inside=None if kind else p.head)
    elif kind == 2:
        half = [(0, mouth + 0.12), (0.16, mouth + 0.12), (0.3, mouth + 0.08), (0.36, mouth + 0.2)]
        edge = p.length + 0.4 * longer
        p.draw(_mirrored([*half, (p.chin + 0.04, edge - 0.06), (0, edge)]), colour, strength, 0.025, lift=0.05)
    else:
        p.draw(_oval(0, mouth + 0.27, 0.12, 0.12), colour, strength, 0.02)
    wide, ends = p.lips[0], mouth + (0.06 if kind < 2 else 0.18)
    half = [(0, tip + 0.15), (0.16, tip + 0.16), (wide + 0.08, mouth - 0.03), (wide + 0.13, ends), (wide + 0.02, ends)]
    p.draw(_mirrored([*half, (0.16, mouth - 0.05), (0, mouth - 0.06)]), colour, strength, 0.018, lift=0.08)


def _paint_nose(p: Portrait) -> None:
    nose, tip, out = p.nose
    for s in (-1, 1):
        p.draw(_oval(s * nose * 0.52, tip + 0.1, 0.05, 0.026), p.shade(0.3), 0.85, 0.014, lift=out * 0.7)


def _paint_eyes(p: Portrait) -> None:
    rng = p.dice("eyes")
    x, wide, tall, slant = rng.uniform((0.38, 0.18, 0.09, -0.02), (0.45, 0.22, 0.13, 0.04))
    colour = rng.choice(_face_colours("2E1B12 4A2E1C 6A4A2A 5C6B3E 4F7590 7C9AAE 3E5A4A"))
    tall *= 0.72 + 0.4 * p.lids
    dark, circle = p.shade(0.3), _circle() * p.unit
    top = [(-wide, 0.015), (-wide * 0.55, -tall * 0.8), (0, -tall), (wide * 0.6, -tall * 0.72), (wide, -slant)]
    base = [(wide, -slant), (wide * 0.5, tall * 0.6), (-wide * 0.4, tall * 0.62), (-wide, 0.015)]
    for s in (-1, 1):
        upper, lower = (_curve(lid) * (s, 1) + (s * x, 0.02) for lid in (top, base))
        p.draw(_oval(s * x, -0.06, wide * 1.15, 0.1), dark, 0.22, 0.06)
        outline = p.project(np.concatenate([upper, lower[1:-1]]))
        opening = p.stencil(outline)
        p.fill(outline, _face_colours("EDE8E6")[0] * np.float32(0.86 + 0.1 * p.lamp[0] * s))
        iris = p.project(np.array([[s * x, 0.008]]) + p.gaze)
        p.fill(iris + circle * 0.1, colour * np.float32(0.55), inside=opening)
        p.fill(iris + circle * 0.08, colour * np.float32(1.15), 0.9, 0.012, inside=opening)
        p.fill(iris + circle * 0.045, _face_colours("080808")[0], inside=opening)
        p.draw(upper + (0, 0.02), dark * np.float32(0.5), 0.5, 0.02, 0.04, inside=opening)
        p.draw(upper, dark * np.float32(0.45), 0.9, 0.004, 0.035 + 0.025 * p.softness)
        p.draw(lower, dark, 0.45, 0.008, 0.025)
        p.draw(upper - (0, 0.06), dark, 0.45, 0.012, 0.03)
        glint = iris + circle * 0.026 + np.array([np.sign(p.lamp[0]) * 0.04, -0.04]) * p.unit
        p.fill(glint, _face_colours("FFFFFF")[0], 0.9, inside=opening)


def _paint_brows(p: Portrait) -> None:
    thick, arch, reach = p.dice("brows").uniform((0.04, 0.02, 0.66), (0.095, 0.1, 0.76))
    thick *= 1.15 - 0.4 * p.softness
    lift, frown = 0.09 * (p.brows - 0.4), 0.07 * (p.frown - 0.4)
    top = [(0.17, -0.24 + frown), (0.42, -0.29 - arch), (reach, -0.21)]
    base = [(reach, -0.2), (0.42, -0.29 - arch + thick), (0.16, -0.24 + frown + thick)]
    outline = np.concatenate([_curve(top), _curve(base)]) - (0, lift)
    for s in (-1, 1):
        p.draw(outline * (s, 1), np.minimum(p.hair, p.skin) * np.float32(0.72), 0.9, 0.012, lift=0.03)


def _paint_mouth(p: Portrait) -> None:
    """Paint lips, and teeth where the mouth is open; a smile widens it, opens it and lifts its corners."""
    smile, (wide, upper, lower), y, rng = p.strengths["smile"], p.lips, p.mouth, p.dice("lips")
    red = _mix(_face_colours("B0706A")[0], _face_colours("A04A48")[0], p.softness)
    colour = _mix(p.shade(0.82) * np.array([1, 0.74, 0.72], np.float32), red, 0.3 + 0.4 * p.softness * rng.random())
    colour *= np.float32(0.95 - 0.25 * p.strengths["dark_skin"])
    wide += 0.14 * smile
    gape = 0.22 * max(0.0, p.open - 0.55) * (1 - smile) + 0.13 * smile
    corner, sag = y + 0.035 - 0.14 * smile, 0.035 * smile
    side, low = (y + corner) / 2, (y + corner) / 2 + 0.75 * gape + 0.05 * smile
    top = _even([(-wide - 0.02, corner), (-wide * 0.5, side - upper * 0.75), (-0.09, y - upper), (0, y - upper * 0.8)])
    inner = _even([(-wide, corner), (-wide * 0.5, side - 0.01 + 0.02 * smile), (0, y + sag)])
    inner_low = _even([(-wide, corner), (-wide * 0.55, low), (0, y + gape + sag)])[::-1]
    base = _even([(-wide, corner), (-wide * 0.55, low + lower * 0.8), (0, y + gape + lower + sag)])[::-1]
    p.draw(np.concatenate([top, base]), colour, 0.92, 0.008, lift=0.05)
    p.draw(np.concatenate([top, inner[::-1]]), colour * np.float32(0.8), 0.8, 0.008, lift=0.05)
    hole = p.project(np.concatenate([inner, inner_low]), 0.05)
    p.fill(hole, _face_colours("3A1414")[0])
    teeth = np.concatenate([inner - (0, 0.02), inner[::-1] + (0, 0.1 * min(1, gape / 0.08))])
    enamel = _mix(_face_colours("EAE4DC")[0], _face_colours("DCCFB2")[0], p.strengths["old"])
    p.draw(teeth, enamel, 0.95, 0.008, lift=0.05, inside=p.stencil(hole))
    p.draw(inner, p.shade(0.25), 0.85, 0.006, 0.025, lift=0.05)


def _paint_front_hair(p: Portrait, hair: np.ndarray) -> None:
    """Paint the hair over the forehead and the sides, with the shadow that it casts."""
    rng, cut, w = p.dice("front hair"), p.cut, p.width
    ragged, locks = rng.normal(0, 0.025, 11), rng.uniform(0.85, 1.1, 2)
    if cut.hairline < -1:
        for s in (-1, 1):
            side = [(0.84, -0.5, 0.3), (1.0, -0.5, -0.1), (1.06, -0.1, -0.2), (0.99, 0.15, -0.1), (0.9, -0.05, 0.15)]
            p.fill(_ruffled(p, _blob(side) * (s * w, 1, 1), "sides"), hair, 0.95, 0.02)
        return
    angle = np.radians(np.linspace(-97, 97, 15))
    out, rise = w + 0.07 + 0.5 * cut.volume, 1.17 + cut.volume
    over = np.stack([out * np.sin(angle), -0.1 - rise * np.cos(angle), np.full(15, -0.05)], 1)
    x = np.linspace(0.96, -0.96, 11)
    parted = abs(cut.sweep) * np.maximum(x * np.sign(cut.sweep) + 0.1, 0) * (1 - x**4)
    y = cut.hairline + (min(cut.sides, 0) - cut.hairline) * np.abs(x) ** 3.4 + parted + ragged
    outline = np.concatenate([_curve(over), _curve(np.stack([x * w, y, _front(x * w, y)], 1))])
    pixels = _ruffled(p, outline, "hairline")
    p.fill(pixels + (0, 0.05 * p.unit), p.shade(0.5), 0.4, 0.05, inside=p.head)
    p.fill(pixels, hair, 1, 0.02 if cut.volume > 0.05 else 0.05)
    for s, lock in zip((-1, 1), locks, strict=True) if cut.sides > 0.2 else ():
        out, reach = w + 0.08 + 0.5 * cut.volume, cut.sides * lock
        outer = [(0.72 * w, -0.62, 0.25), (out * 0.96, -0.5, -0.05), (out, 0.2, -0.05), (out + 0.06, reach * 0.7, 0)]
        inner = [(out - 0.08, reach, 0), (0.8 * w, reach * 0.92, 0), (0.9 * w, reach * 0.5, 0.02)]
        outline = _blob([*outer, *inner, (0.9 * w, 0.1, 0.05), (0.86 * w, -0.3, 0.15)]) * (s, 1, 1)
        pixels = _ruffled(p, outline, f"lock {s}")
        p.fill(pixels, p.shade(0.5), 0.35, 0.06, inside=p.head)
        p.fill(pixels, hair, 1, 0.02)


def _paint_glasses(p: Portrait) -> None:
    """Paint round, square or drop-shaped glasses; a fifth are dark."""
    rng = p.dice("glasses")
    kind, dark = rng.integers(3), rng.random() < 0.2
    colour = rng.choice(_face_colours("141414 141414 3A2418 6A4A20 7A1C22 22304A B08A3A"))
    wide, tall, line = rng.uniform((0.27, 0.2, 0.04), (0.34, 0.27, 0.08))
    shape = _circle().copy()
    if kind == 1:
        shape = np.sign(shape) * np.abs(shape) ** 0.5
    elif kind == 2:
        shape += np.maximum(shape[:, 1:], 0) * (0.25 * shape[:, :1] * (-1, 0) + (0, 0.2))
    lens = shape * (wide, 0.86 * wide if kind == 0 else tall) + (0.43, 0.03)
    gleam = np.array([(-0.12, -0.06), (-0.02, -0.1), (-0.1, 0.1), (-0.16, 0.1)])
    for s in (-1, 1):
        outline = p.project(lens * (s, 1), 0.12)
        p.fill(outline, _face_colours("121212" if dark else "D9E6F2")[0], 0.88 if dark else 0.1)
        p.draw(gleam + (s * 0.43, 0), _face_colours("FFFFFF")[0], 0.3, 0.015, lift=0.12)
        p.fill(np.concatenate([outline, outline[:1]]), colour, 1, 0, line)
        p.draw([(s * (0.42 + wide), -0.03, 0.45), (s * (p.width + 0.03), -0.02, 0)], colour, 1, 0, line, inside=p.head)
    p.draw(_curve([(-0.45 + wide, 0.0), (0, -0.05), (0.45 - wide, 0.0)]), colour, 1, 0, line, lift=0.2)


def _paint_hat(p: Portrait) -> None:
    """Paint a woollen hat, a cap, a hat with a brim or a beret."""
    rng, w = p.dice("hat"), p.width + 0.1
    kind, lean = rng.integers(4), rng.choice((-1, 1))
    dyes = _face_colours("B0282E 1F3A6E 2E2E32 3E6B4A C99A2E 7A4A2A 8C8F94 5A2E5E D8D2C4 D06A3A")
    light, dark = p.upright(p.lit(0.34))[..., None] * (1 + 0.05 * _texture(rng, 40, p.side))[..., None], p.shade(0.4)
    colour, band = rng.choice(dyes) * light, rng.choice(dyes) * light
    base, brim = rng.uniform((-0.58, 1.4), (-0.46, 1.7))
    top, power = ((-1.62, 0.75), (-1.5, 0.85), (-1.66, 0.45), (-1.45, 1.0))[kind]
    angle = np.radians(np.linspace(-90, 90, 13))
    crown = np.stack([w * np.sin(angle), base - 0.1 + (top - base) * np.cos(angle) ** power, np.full(13, -0.05)], 1)
    x = np.linspace(1, -1, 9)
    rim = np.stack([w * x, base + 0.06 * (1 - x**2), 0.75 * (1 - np.abs(x))], 1)
    p.draw(np.concatenate([crown, rim + (0, 0.14, 0)]), dark, 0.5, 0.06, inside=p.head)
    dome = np.concatenate([_curve(crown), _curve(rim)])
    if kind == 3:
        felt = [(-1.2, -0.7), (-1.0, -1.15), (0.3 * lean, -1.5), (1.0, -1.2), (1.26, -0.7)]
        outline = _blob([*felt, (0.66, -0.6), (0, -0.62), (-0.66, -0.6)]) + (0.12 * lean, 0)
        dome = np.column_stack([outline, np.full(len(outline), 0.1)])
    p.draw(dome, colour)
    if kind in (0, 2):  # the turned-up edge, or the ribbon
        ribbon = np.concatenate([_curve(rim), _curve(rim[::-1]) - (0, 0.3 if kind == 0 else 0.2, 0)])
        p.draw(ribbon, band if kind == 2 or lean > 0 else colour * np.float32(0.85))
    if kind == 0:
        for x in np.linspace(-0.9, 0.9, 9):
            rib = [(x * w, base + 0.05, 0.7 * np.sqrt(1 - x**2)), (x * w, base - 0.26, 0.7 * np.sqrt(1 - x**2))]
            p.draw(rib, colour * np.float32(0.5), 0.4, 0.015, 0.03)
    elif kind == 1:
        half = [(0, base - 0.1, 0.8), (0.5, base - 0.08, 0.7), (w * 0.9, base, 0.35), (0.68, base + 0.16, 1.1)]
        peak = _mirrored([*half, (0, base + 0.24, 1.4)])
        p.draw(peak + (0, 0.08, 0), dark, 0.6, 0.05, inside=p.head)
        p.draw(peak, band * np.float32(0.85))
    elif kind == 2:
        plate = _oval(0, base + 0.02, brim, 0.13)
        p.draw(np.column_stack([plate, np.zeros(24)]), colour * np.float32(0.82))


def _portray(sitter: tuple, moment: tuple, strengths: dict[str, float], size: int) -> np.ndarray:
    """Paint one portrait, uint8 [size, size, 3]; `sitter` and `moment` seed all that is no attribute."""
    import cv2

    p = Portrait(sitter, moment, strengths, size)
    _paint_background(p)
    hair = _hair_map(p)
    _paint_back_hair(p, hair)
    _paint_shoulders(p)
    _paint_head(p, _lit_skin(p))
    _paint_lines(p)
    if strengths["beard"] > 0:
        _paint_beard(p)
    for paint in (_paint_nose, _paint_eyes, _paint_brows, _paint_mouth):
        paint(p)
    if strengths["glasses"] >= 0.5:
        _paint_glasses(p)
    _paint_front_hair(p, hair)
    if strengths["hat"] >= 0.5:
        _paint_hat(p)
    picture = cv2.resize(p.paint, (size, size), interpolation=cv2.INTER_AREA)
    picture = picture * np.array([1 + p.warmth, 1, 1 - p.warmth], np.float32)
    picture = picture + 0.01 * p.moment.standard_normal(picture.shape, np.float32)
    return (255 * np.clip(picture, 0, 1) + 0.5).astype(np.uint8)


def drawn_faces(
    count: int, seed: int, size: int = 64, character: int | None = None, **attributes: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw faces, cropped as in CelebA (arXiv 1411.7766): the eyes at 45 % of the height, the head two thirds wide.

    A face depends on the seed, its own number, `character` and `attributes` alone: fewer faces are the first of more.
    Attributes are drawn one by one, yes for half of the faces, but for a third where it is glasses, beard or hat.

    Args:
        count: How many, 1 or more.
        seed: Which faces, 0 or more.
        size: Height and width in pixels, 16 or more; the faces are the same at any size, their noise is not.
        character: Draw this one person, 0 or more, every time. Smile, open mouth, brows, gaze, turn and tilt of the
            head, light and background still depend on the seed and the number alone: two characters drawn with the
            same seed show the same moments. Glasses, beard, hat and clothes belong to the person.
        attributes: Strengths, 0..1, by the names of `FACE_ATTRIBUTES`, for all faces; everything else about a face
            stays as it was, but that a hat presses high hair down. Glasses and hat are there from 0.5 on, the others
            change smoothly: `looking_left` is 0 to the right of the picture, 0.5 straight ahead and 1 to the left.

    Returns:
        Images, RGB uint8 [count, size, size, 3], and labels, uint8 [count, len(FACE_ATTRIBUTES)]: 1 where the
        strength is 0.5 or more, else 0.

    Raises:
        ValueError: `count`, `seed`, `size` or `character` is too small, an attribute is unknown or not in 0..1.
    """
    import cv2

    numbers = ("count", count, 1), ("seed", seed, 0), ("size", size, 16), ("character", character or 0, 0)
    for name, value, least in numbers:
        if value < least:
            raise ValueError(f"{name} is {value}: it must be {least} or more")
    for name, strength in attributes.items():
        if name not in FACE_ATTRIBUTES:
            raise ValueError(f"no attribute is called {name!r}: there are {', '.join(FACE_ATTRIBUTES)}")
        if not 0 <= strength <= 1:
            raise ValueError(f"{name} is {strength}: it must be 0..1")
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.empty((count, len(FACE_ATTRIBUTES)), np.uint8)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # strokes are too small to be shared: on a busy machine, threads cost half of the time
    try:
        for index in range(count):
            moment, sitter = (2, seed, index), (0, seed, index) if character is None else (1, character, 0)
            strengths = {}
            for number, (name, kind) in enumerate(FACE_ATTRIBUTE_RANGES.items(), 1):
                rng = np.random.default_rng([*(moment if kind.momentary else sitter), number])
                drawn = rng.uniform(*(kind.present if rng.random() < kind.share else kind.absent))
                strengths[name] = float(attributes.get(name, drawn))
            images[index] = _portray(sitter, moment, strengths, size)
            labels[index] = [strength >= 0.5 for strength in strengths.values()]
    finally:
        cv2.setNumThreads(threads)
    return images, labels
