"""Sprites of trees and houses for landscapes, each in a summer and a winter version.

A sprite is float32 [h, w, 12]. The first six channels hold linear RGB for summer and winter, premultiplied by alpha.
The last six hold 1 - alpha (the transparency) for each of these channels.
"""

from __future__ import annotations

import functools

import numpy as np


def dyes(colours: str) -> np.ndarray:
    """Convert colours from RRGGBB codes to linear RGB, float32 [n, 3]."""
    return np.array([[(b / 255) ** 2.2 for b in bytes.fromhex(colour)] for colour in colours.split()], np.float32)


SNOW = dyes("E6EBF2")[0]
WALLS = dyes("E8DFCC 8A5A3A A8443A D8C49A 6E4A32 C8CCCC")
ROOFS = dyes("A04A34 7A4436 5A4A44 8A5A3E")


def _sprite(summer: tuple, winter: tuple) -> np.ndarray:
    """Return a sprite from the colours [h, w, 3] and alpha masks [h, w] of both seasons, at half the size."""
    alphas = [np.repeat(alpha[..., None], 3, 2) for _, alpha in (summer, winter)]
    colours = [colour * alpha for (colour, _), alpha in zip((summer, winter), alphas, strict=True)]
    stacked = np.concatenate([*colours, *(1 - alpha for alpha in alphas)], 2).astype(np.float32)
    return halved(stacked)


def halved(image: np.ndarray) -> np.ndarray:
    """Average blocks of 2 x 2 pixels."""
    image = image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def _conifer(rng: np.random.Generator) -> np.ndarray:
    """Paint a spruce or fir from the ground up: a trunk and tiers of hanging boughs, lit from the left."""
    import cv2

    high, wide = 384, 224
    alpha, shade, snow = (np.zeros((high, wide), np.float32) for _ in range(3))
    trunk = np.array([(108, 300), (116, 300), (118, 380), (106, 380)])
    cv2.fillPoly(alpha, [trunk], 1.0)
    cv2.fillPoly(shade, [trunk], 0.3)
    tiers, spread, droop = rng.integers(11, 16), rng.uniform(74, 106), rng.uniform(0.15, 0.45)
    base = rng.uniform(345, 365)
    for tier in range(tiers):
        height = 1 - tier / tiers
        y = 30 + (base - 92) * height**0.95
        for offset in rng.permutation(np.linspace(-1, 1, 7 + 2 * int(6 * height))):
            reach = spread * height**0.85 * rng.uniform(0.75, 1.1) + 5
            tip = np.array([112 + offset * reach, y + reach * (0.25 + droop * (1 - offset**2) + 0.3 * droop)])
            root, thick = np.array([112 + offset * 8, y - 14 - 12 * height]), 5 + 12 * height
            side = np.array([thick, 0]) * (1.1 - 0.6 * abs(offset))
            middle = (root + tip) / 2
            bough = np.array([root - side * 0.4, middle - side, tip - side * 0.3 + (0, 2), tip + (0, 6),
                              tip + side * 0.3 + (0, 2), middle + side + (0, 4), root + side * 0.4])  # fmt: skip
            light = 0.5 - 0.28 * offset + 0.16 * rng.standard_normal() + 0.15 * (1 - height)
            points = np.rint(bough * 16).astype(np.int32)
            for canvas, value in ((alpha, 1.0), (shade, float(np.clip(light, 0.08, 1.1))), (snow, 0.0)):
                cv2.fillPoly(canvas, [points], value, shift=4)
            lower = (bough - middle) * (0.8, 0.4) + middle + (side * 0.2 + (0, 7))
            cv2.fillPoly(shade, [np.rint(lower * 16).astype(np.int32)], float(np.clip(0.5 * light, 0.05, 1)), shift=4)
            if rng.random() < 0.7:
                cap = (bough - middle) * (0.85, 0.6) + middle - (0, 1 + 3 * height) - side * 0.15
                cv2.fillPoly(snow, [np.rint(cap * 16).astype(np.int32)], float(rng.uniform(0.6, 0.95)), shift=4)
    snow *= alpha
    green, dark = dyes("47703A")[0], dyes("3C5C42")[0]
    light = (0.12 + 0.95 * shade)[..., None]
    powder = SNOW * (0.36 + 0.62 * shade[..., None])
    return _sprite((green * light, alpha), (dark * light * (1 - snow[..., None]) + powder * snow[..., None], alpha))


def _forked_branches(rng: np.random.Generator, kind: int, high: int, wide: int) -> tuple[list[tuple], list[np.ndarray]]:
    """Return the branches of a broadleaf tree as (start, end, width) tuples, and the tips of its twigs."""
    open_angle, bare, shrink = ((0.72, 0.13, 0.80), (0.42, 0.19, 0.82), (0.62, 0.05, 0.84))[kind]
    stems, ends = [], []
    grow = [(np.array([wide / 2, high - 4.0]), rng.normal(0, 0.04), high * bare * rng.uniform(0.9, 1.2), 0)]
    if kind == 2:
        grow = [(np.array([wide / 2, high - 4.0]), angle, high * 0.15, 1) for angle in (-0.8, -0.3, 0.2, 0.7)]
    while grow:
        start, angle, length, depth = grow.pop()
        stop = start + length * np.array([np.sin(angle), -np.cos(angle)])
        stems.append((start, stop, (15, 8.5, 6, 4.2, 3, 2.2, 1.6, 1.2)[depth] * (0.7 if kind == 1 else 1)))
        if depth >= (2 if kind < 2 else 3):
            ends.append(stop)
        if depth < 6 + (kind == 2):
            first = high * (0.19 if kind == 1 else 0.17) if depth == 0 else length * shrink
            forks = 3 if depth in (0, 1, 2) and kind < 2 else 2
            for fork in np.linspace(-1, 1, forks):
                turn = angle * (0.9 if kind == 1 else 0.98) + open_angle * fork * rng.uniform(0.7, 1.4)
                grow.append((stop, turn + rng.normal(0, 0.1), first * rng.uniform(0.7, 1.0), depth + 1))
    return stems, ends


def _broadleaf(rng: np.random.Generator, kind: int) -> np.ndarray:
    """Paint an oak, a birch or a bush: forked branches with leaves around the tips, lit from the upper left."""
    import cv2

    high, wide = 384, 480
    stems, ends = _forked_branches(rng, kind, high, wide)
    tips = np.array(ends)
    tips = tips[rng.permutation(len(tips))[:380]]
    pairs = rng.integers(len(tips), size=(2, 260 if kind < 2 else 120))
    tips = np.concatenate([tips, (tips[pairs[0]] + tips[pairs[1]]) / 2 + (0, 32 if kind == 1 else 14)])
    bark = dyes("6A5846 C9C4B8 5E5040")[kind]
    twigs = dyes("6A5648 70594E 6C5646")[kind]

    leaves, alpha = np.zeros((high, wide), np.float32), np.zeros((high, wide), np.uint8)
    branches, rime, wood = (np.zeros((high, wide), np.uint8) for _ in range(3))
    for start, stop, width in sorted(stems, key=lambda stem: -stem[2]):
        a, b = (tuple(np.rint(16 * p).astype(int).tolist()) for p in (start, stop))
        if width > 1.3 or rng.random() < 0.6:
            value = 255 if width > 1.9 else 190
            cv2.line(branches, a, b, value, max(1, round(width)), cv2.LINE_AA, 4)
        if width > 4:
            cv2.line(wood, a, b, 255, round(width), cv2.LINE_AA, 4)
        if abs(stop[0] - start[0]) > 0.35 * abs(stop[1] - start[1]) and 1.5 < width < 9:
            a, b = ((p[0], p[1] - int(16 * (0.35 * width + 0.4))) for p in (a, b))
            cv2.line(rime, a, b, 210, max(1, round(0.45 * width)), cv2.LINE_AA, 4)
    centre, radius = tips.mean(0), tips.std(0) * 1.8 + 1
    offset = (tips - centre) / radius
    lights = 0.52 - 0.26 * offset[:, 0] - 0.34 * offset[:, 1]
    for number in np.argsort(lights + 0.25 * rng.standard_normal(len(tips)) - 0.2):
        for _ in range(2):
            x, y = np.rint(16 * (tips[number] + rng.normal(0, 6, 2))).astype(int).tolist()
            size = rng.uniform(5, 11) * (0.8 if kind == 1 else 1)
            axes = int(16 * size), int(16 * size * 0.75)
            cv2.ellipse(alpha, (x, y), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA, 4)
            light = float(np.clip(lights[number] + 0.13 * rng.standard_normal(), 0.06, 1.2))
            cv2.ellipse(leaves, (x, y), axes, rng.uniform(0, 180), 0, 360, light, -1, shift=4)
    crown, branch, white, trunk = (a.astype(np.float32) / 255 for a in (alpha, branches, rime, wood))
    green = dyes("6C9440 80A048 5F8A3C")[kind]
    side = (0.75 - 0.35 * np.linspace(-1, 1, wide) * 4).clip(0.3, 0.9)[None, :, None].astype(np.float32)
    summer = green * (0.14 + 0.95 * leaves)[..., None] * crown[..., None] + bark * side * (1 - crown[..., None])
    haze = 0.34 * cv2.GaussianBlur(crown, (0, 0), 3)
    bare_alpha = np.maximum(np.maximum(branch, white), haze)
    thin = (branch > 0.1)[..., None] * (1 - trunk[..., None])
    winter = np.where(trunk[..., None] > 0.3, bark * side, twigs * (0.55 + 0.35 * (1 - thin)))
    winter = winter + (SNOW * 0.9 - winter) * white[..., None]
    return _sprite((summer, np.maximum(crown, trunk)), (winter, bare_alpha))


@functools.cache
def grown_trees() -> list[list[list[np.ndarray]]]:
    """Return all trees by kind (conifers, oaks, birches, bushes). Each tree is a list of sprites in five sizes."""
    rng = np.random.default_rng(7)
    kinds = [[_conifer(rng) for _ in range(8)]] + [
        [_broadleaf(rng, kind) for _ in range(5 - kind)] for kind in range(3)
    ]
    return [[_levels(tree) for tree in trees] for trees in kinds]


def _levels(tree: np.ndarray) -> list[np.ndarray]:
    """Crop a sprite to its visible part, and return it at five scales, from 1 to 1/16."""
    shown = tree[..., 6:].min(2) < 0.95
    (top, *_, bottom), (left, *_, right) = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    levels = [np.ascontiguousarray(tree[top : bottom + 1, left : right + 1])]
    for _ in range(4):
        levels.append(halved(levels[-1]))
    return levels


def house(rng: np.random.Generator, high: int) -> np.ndarray:
    """Return the sprite of a house with a gabled front, a side wall, a roof, windows, a door and a chimney."""
    import cv2

    side = max(16, 4 * high)
    depth, eaves, tall = rng.uniform(0.5, 0.85), rng.uniform(0.34, 0.46), rng.uniform(0.82, 0.94)
    front = rng.uniform(0.42, 0.55)
    lift = 0.04
    plan = np.zeros((side, side * 3 // 2), np.uint8)

    def fill(value: int, *corners: tuple[float, float]) -> None:
        points = np.array([(16 * side * (x + 0.08), 16 * side * (1 - y)) for x, y in corners])
        cv2.fillPoly(plan, [np.rint(points).astype(np.int32)], value, shift=4)

    back, mid = front + depth, front / 2
    chimney = front + depth * rng.uniform(0.25, 0.6)
    fill(7, (chimney - 0.04, 0.6), (chimney + 0.04, 0.6), (chimney + 0.04, tall + 0.06), (chimney - 0.04, tall + 0.06))
    fill(8, (chimney - 0.05, tall + 0.05), (chimney + 0.05, tall + 0.05), (chimney + 0.05, tall + 0.09),
         (chimney - 0.05, tall + 0.09))  # fmt: skip
    fill(2, (front, 0), (back, lift), (back, eaves + lift), (front, eaves))
    fill(1, (0, 0), (front, 0), (front, eaves), (mid, tall - 0.04), (0, eaves))
    fill(3, (mid - 0.02, tall), (back - front * 0.42, tall), (back + 0.06, eaves - 0.03), (front + 0.05, eaves - 0.07))
    fill(4, (mid - 0.02, tall), (mid + 0.02, tall), (front + 0.06, eaves - 0.07), (front + 0.01, eaves - 0.07),
         (mid, tall - 0.1), (-0.01, eaves - 0.07), (-0.06, eaves - 0.07))  # fmt: skip

    def window(x: float, y: float, wide: float, tall: float) -> None:
        for value, grow in ((6, 0.014), (5, 0.0)):
            fill(value, (x - grow, y - grow), (x + wide + grow, y - grow), (x + wide + grow, y + tall + grow),
                 (x - grow, y + tall + grow))  # fmt: skip

    window(front * 0.14, 0.16, front * 0.2, 0.13)
    window(front * 0.66, 0.16, front * 0.2, 0.13)
    window(front * 0.41, eaves + 0.04, front * 0.18, 0.11)
    fill(9, (front * 0.42, 0), (front * 0.58, 0), (front * 0.58, 0.26), (front * 0.42, 0.26))
    for along in (0.18, 0.45, 0.72):
        window(front + depth * along, 0.16, depth * 0.12, 0.12)
    wall, roof, chalk = rng.choice(WALLS), rng.choice(ROOFS), dyes("E4E0D6")[0]
    glass, door, brick = dyes("2C3640 5A3A26 8A5A48")
    dark = rng.choice([0.55, 0.7])
    summer = np.array([wall * 0, wall * 1.15, wall * dark, roof, roof * 1.2, glass, chalk, brick, brick * 0.5, door])
    white = SNOW * 1.0
    winter = np.array([wall * 0, wall * 1.1, wall * dark, white * 0.82, white, glass, chalk, brick, white, door])
    seen = (plan > 0).astype(np.float32)
    rows = np.linspace(0, side, side, dtype=np.float32) % (side / 26) / (side / 26)
    courses = 1 - 0.25 * ((rows < 0.4)[:, None] & (plan == 3)).astype(np.float32)[..., None]
    return _sprite((summer[plan] * courses, seen), (winter[plan], seen))
