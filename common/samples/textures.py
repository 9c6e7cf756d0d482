"""Synthetic textures, such as bricks, scales, fur, swirls and brush strokes, in random colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.system.files import InputError

TextureRule = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
"""(random generator, pixel coordinates x and y from 0 to about 8) -> brightness from 0 to 1."""


def _noise(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, octaves: int = 4) -> np.ndarray:
    """Return smooth noise of several octaves, from 0 to 1. The first octave has about one feature per unit length."""
    import cv2

    total, weight = np.zeros_like(x), 0.0
    for octave in range(octaves):
        grid = rng.random((int(9 * 2**octave) + 4, int(9 * 2**octave) + 4)).astype(np.float32)
        scale = np.float32(2**octave)
        sampled = cv2.remap(grid, x * scale + 1, y * scale + 1, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
        total += sampled / 2**octave
        weight += 1 / 2**octave
    return np.clip(total / weight, 0, 1)


def _nearest(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, apart: float) -> tuple[np.ndarray, ...]:
    """Return each pixel's distances to the two nearest random points, and a random number assigned to the nearest."""
    from scipy.spatial import cKDTree

    side = np.arange(-1, 10, apart)
    points = (
        np.stack(np.meshgrid(side, side), -1).reshape(-1, 2) + rng.uniform(-0.45, 0.45, (len(side) ** 2, 2)) * apart
    )
    distances, indices = cKDTree(points).query(np.stack([x, y], -1).reshape(-1, 2), 2)
    value = rng.random(len(points))[indices[:, 0]]
    return tuple(part.reshape(x.shape).astype(np.float32) for part in (distances[:, 0], distances[:, 1], value))


def _wave(phase: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(2 * np.pi * phase)


def _stripes(rng, x, y):
    return _wave(x * rng.uniform(0.7, 2)) > rng.uniform(0.3, 0.7)


def _waves(rng, x, y):
    return _wave(y * rng.uniform(1, 2) + rng.uniform(0.1, 0.4) * np.sin(2 * np.pi * x * rng.uniform(0.3, 0.9)))


def _zigzag(rng, x, y):
    return _wave(y * 1.3 + np.abs((x * rng.uniform(0.6, 1.2)) % 1 - 0.5) * rng.uniform(0.8, 2)) > 0.5


def _checks(rng, x, y):
    size = rng.uniform(0.6, 1.5)
    return (np.floor(x * size) + np.floor(y * size)) % 2


def _dots(rng, x, y):
    size = rng.uniform(0.8, 1.8)
    row = np.floor(y * size)
    return np.hypot((x * size + 0.5 * (row % 2)) % 1 - 0.5, (y * size) % 1 - 0.5) < rng.uniform(0.2, 0.42)


def _rings(rng, x, y):
    near, _, value = _nearest(rng, x, y, rng.uniform(1.5, 3))
    return _wave(near * rng.uniform(1.2, 2.6) + value)


def _eyes(rng, x, y):
    near, _, value = _nearest(rng, x, y, rng.uniform(1.2, 2.2))
    return np.select([near < 0.14, near < 0.34, near < 0.48], [0.05, 0.35 + 0.4 * value, 0.95], 0.55)


def _spirals(rng, x, y):
    centres = rng.uniform(0, 8, (rng.integers(2, 6), 2))
    squares = [(x - a) ** 2 + (y - b) ** 2 for a, b in centres]
    nearest = np.argmin(squares, 0)
    across, along = (np.take_along_axis(np.stack([axis - c for c in centres[:, n]]), nearest[None], 0)[0]
                     for n, axis in enumerate((x, y)))  # fmt: skip
    return _wave(np.hypot(across, along) * rng.uniform(0.8, 1.8) + np.arctan2(along, across) / (2 * np.pi))


def _bricks(rng, x, y):
    high = rng.uniform(0.5, 0.9)
    row = np.floor(y / high)
    across = (x / (2.1 * high) + 0.5 * (row % 2)) % 1
    face = 0.45 + 0.35 * _noise(rng, x, y)
    mortar = ((y / high) % 1 < 0.12) | (across < 0.06)
    return np.where(mortar, 0.95, face + 0.1 * np.sin(row * 7 + np.floor(x / (2.1 * high) + 0.5 * (row % 2)) * 5))


def _scales(rng, x, y):
    size = rng.uniform(1, 2)
    shade = np.zeros_like(x)
    for shift in (0, 0.5):
        row = np.floor(y * size - shift)
        inside = np.hypot((x * size + shift) % 1 - 0.5, (y * size - shift) % 1)
        shade = np.where((shade == 0) & (inside < 0.56), 1 - inside + 0.05 * np.sin(row * 5), shade)
    return shade


def _weave(rng, x, y):
    size = rng.uniform(1, 2.2)
    over = (np.floor(x * size) + np.floor(y * size)) % 2
    return np.where(over, _wave(x * size - 0.25), 0.8 * _wave(y * size - 0.25)) * 0.9 + 0.05


def _cells(rng, x, y):
    near, second, value = _nearest(rng, x, y, rng.uniform(0.6, 1.4))
    return np.where(second - near < 0.08, 0.02, 0.3 + 0.7 * value)


def _bubbles(rng, x, y):
    near, _, value = _nearest(rng, x, y, rng.uniform(0.7, 1.3))
    ball = np.sqrt(np.clip(1 - (near / (0.3 + 0.25 * value)) ** 2, 0, 1))
    return np.where(ball > 0, 0.25 + 0.75 * ball, 0.1)


def _cracks(rng, x, y):
    bent = 0.4 * _noise(rng, x, y) - 0.2
    near, second, _ = _nearest(rng, x + bent, y + bent, rng.uniform(0.9, 1.8))
    return np.clip((second - near) * 6, 0, 1) * (0.6 + 0.4 * _noise(rng, x * 2, y * 2))


def _clouds(rng, x, y):
    return _noise(rng, x * 0.6, y * 0.6, 5)


def _marble(rng, x, y):
    return _wave(x * 0.5 + rng.uniform(0.6, 1.6) * _noise(rng, x * 0.6, y * 0.6, 5)) ** 2


def _wood(rng, x, y):
    return _wave(y * 1.2 + 0.5 * _noise(rng, x * 0.3, y * 0.6, 3) + 0.15 * np.sin(x)) * 0.7 + 0.3 * _noise(
        rng, x * 0.4, y * 5, 2
    )


def _fur(rng, x, y):
    """Return noise stretched along a slowly varying direction."""
    turn = rng.uniform(0.5, 2) * _noise(rng, x * 0.4, y * 0.4, 2)
    along, across = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    return np.clip(1.6 * _noise(rng, np.abs(along) * 0.4, np.abs(across) * 5, 2) - 0.3, 0, 1)


def _leaves(rng, x, y):
    near, second, value = _nearest(rng, x, y * rng.uniform(0.5, 0.8), rng.uniform(0.6, 1))
    vein = _wave((x * np.cos(6 * value) + y * np.sin(6 * value)) * 4)
    return np.clip((second - near) * 4, 0, 1) * (0.4 + 0.4 * value + 0.2 * vein)


def _strokes(rng, x, y):
    """Return brush strokes: short, overlapping bars of random tones along a slowly varying direction."""
    import cv2

    height, width = x.shape
    canvas = np.full((height, width), 0.5, np.float32)
    field = 2 * np.pi * _noise(rng, x * 0.35, y * 0.35, 2)
    long, thick = rng.uniform(0.02, 0.06) * width, max(1, int(rng.uniform(0.008, 0.022) * width))
    for row, column, tone in zip(
        rng.integers(0, height, 1500), rng.integers(0, width, 1500), rng.random(1500), strict=True
    ):
        angle = field[row, column]
        step = np.array([np.cos(angle), np.sin(angle)]) * long
        ends = [tuple(int(value) for value in np.array([column, row]) + sign * step) for sign in (-1, 1)]
        cv2.line(canvas, ends[0], ends[1], float(tone), thick, cv2.LINE_AA)
    return canvas


def _hatching(rng, x, y):
    tone = _noise(rng, x * 0.5, y * 0.5, 2)
    first = _wave((x + y) * 2.5) < tone
    return np.where(first | (_wave((x - y) * 2.5) < tone - 0.3), 0.95, 0.1)


def _swirls(rng, x, y):
    """Return flow lines: noise whose coordinates are distorted by two other noise fields."""
    a, b = _noise(rng, x * 0.5, y * 0.5, 2), _noise(rng, x * 0.5, y * 0.5, 2)
    return _wave(rng.uniform(2, 4) * _noise(rng, np.abs(x * 0.4 + a), np.abs(y * 0.4 + b), 2) * 2)


def _stars(rng, x, y):
    near, _, value = _nearest(rng, x, y, rng.uniform(0.8, 1.6))
    return np.clip(0.06 / (near + 0.03) * (0.3 + value), 0, 1)


def _mosaic(rng, x, y):
    size = rng.uniform(1, 2.5)
    tone = rng.random((40, 40))[np.floor(y * size).astype(int) % 40, np.floor(x * size).astype(int) % 40]
    grout = (((x * size) % 1) < 0.1) | (((y * size) % 1) < 0.1)
    return np.where(grout, 0.05, 0.25 + 0.75 * tone)


TEXTURES: dict[str, TextureRule] = {
    "stripes": _stripes,
    "waves": _waves,
    "zigzag": _zigzag,
    "checks": _checks,
    "dots": _dots,
    "rings": _rings,
    "eyes": _eyes,
    "spirals": _spirals,
    "bricks": _bricks,
    "scales": _scales,
    "weave": _weave,
    "cells": _cells,
    "bubbles": _bubbles,
    "cracks": _cracks,
    "clouds": _clouds,
    "marble": _marble,
    "wood": _wood,
    "fur": _fur,
    "leaves": _leaves,
    "strokes": _strokes,
    "hatching": _hatching,
    "swirls": _swirls,
    "stars": _stars,
    "mosaic": _mosaic,
}


def synthetic_texture(kind: str, seed: int, size: int = 256) -> np.ndarray:
    """Return a texture, uint8 [size, size, 3]. The seed determines its scale, colours and direction.

    Raises:
        InputError: `kind` is not a known texture.
    """
    if kind not in TEXTURES:
        raise InputError(f"{kind!r} is not a known texture; choose from {', '.join(TEXTURES)}")
    rng = np.random.default_rng([seed, list(TEXTURES).index(kind)])
    axis = np.linspace(-4, 4, size, dtype=np.float32)
    across, down = np.meshgrid(axis, axis)
    angle = rng.uniform(-0.5, 0.5)
    x = (across * np.cos(angle) - down * np.sin(angle)).astype(np.float32) / 1.5 + 4
    y = (across * np.sin(angle) + down * np.cos(angle)).astype(np.float32) / 1.5 + 4
    tone = np.clip(np.asarray(TEXTURES[kind](rng, x, y), np.float32), 0, 1)[..., None]
    # Colours for dark, medium and bright tones: of four random triples, the one with the largest brightness range.
    colours = max((rng.random((3, 3)) for _ in range(4)), key=lambda three: np.ptp(three.mean(1)))
    colours = colours[np.argsort(colours.mean(1))]
    mixed = np.where(tone < 0.5, colours[0] + 2 * tone * (colours[1] - colours[0]),
                     colours[1] + (2 * tone - 1) * (colours[2] - colours[1]))  # fmt: skip
    light = 0.8 + 0.4 * _noise(rng, x * 0.25, y * 0.25, 1)[..., None]
    return np.clip(255 * mixed * light, 0, 255).astype(np.uint8)
