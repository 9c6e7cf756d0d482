"""Synthetic greyscale images of clothes in the ten classes of Fashion-MNIST. They need no download.

Each class has a function that samples the shapes of a garment and returns them from back to front. Shapes are smooth
outlines and lines; the x axis points right, the y axis down. A garment is about two units tall. Each shape has a tone
(brightness): 1 for plain cloth, 0 for a hole. All points are displaced by a low-frequency wave, rotated, sheared and
stretched. Then the garment is scaled to fill the frame. It is rendered at three times the image size, and shading,
folds and, in some images, a pattern modulate its brightness. The result is downsampled and blurred, and sensor noise is
added.

The classes overlap, as in photos of real clothes. A shirt may have short sleeves, and a coat looks like a pullover with
an opening down to the hem. On dark cloth, such details are faint, but the details that determine the label are always
rendered.
"""

from __future__ import annotations

import functools

import numpy as np

from common.system.files import InputError

CLOTHES_CLASSES: tuple[str, ...] = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
ClothShape = tuple[np.ndarray, float, float]  # points [n, 2], tone 0..1.6, line width (0: filled)
Cut = list[ClothShape]  # back to front
Chance = np.random.Generator


@functools.cache
def _corner_cutter(corners: int) -> np.ndarray:
    """Return the matrix [4 * corners, corners] that applies two steps of Chaikin's corner cutting to an outline."""
    cutter = np.eye(corners)
    for _ in range(2):
        following = np.roll(cutter, -1, 0)
        cutter = np.stack([0.8 * cutter + 0.2 * following, 0.2 * cutter + 0.8 * following], 1).reshape(-1, corners)
    return cutter


def _cloth(points: list, tone: float = 1.0) -> ClothShape:
    """Return a filled shape with a smooth outline."""
    return _corner_cutter(len(points)) @ np.array(points, float), tone, 0.0


def _folded(half: list, tone: float = 1.0) -> ClothShape:
    """Return a filled, symmetric shape with a smooth outline. `half` is its right half, from top to bottom."""
    return _cloth(half + [(-x, y) for x, y in half[::-1] if x > 0], tone)


def _thread(points: list, tone: float, width: float) -> ClothShape:
    """Return a line, such as a seam or a lace, or a filled polygon if `width` is 0."""
    return np.array(points, float), tone, float(width)


def _bow(x: float, y: float, width: float, height: float, start: float = 0.0, end: float = 1.0) -> list:
    """Return points on an elliptical arc. `width` and `height` are the semi-axes.

    `start` and `end` are angles as fractions of a full turn, clockwise from the positive x axis.
    """
    angles = 2 * np.pi * np.linspace(start, end, 14)
    return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], 1).tolist()


def _buttons(rng: Chance, x: float, top: float, bottom: float, tone: float) -> Cut:
    size = rng.uniform(0.03, 0.05)
    return [_cloth(_bow(x, y, size, size), tone) for y in np.linspace(top, bottom, rng.integers(3, 7))]


def _detail_tone(rng: Chance) -> float:
    """Sample a tone, darker or lighter than the cloth, for a collar, a seam or a print."""
    contrast = rng.uniform(0.1, 0.5)
    return 1 - contrast if rng.random() < 0.7 else 1 + 0.8 * contrast


def _bodice(
    rng: Chance, length: float, sleeve: float, neck: float, drop: float, waist: float, hem: float, band: float = 0.0
) -> Cut:
    """Return the shapes of an upper-body garment about one unit wide: sleeves, back, front and neckline.

    `length` is the distance from shoulder to hem, and `sleeve` is the sleeve length (0 for none). `neck`, `waist` and
    `hem` are half-widths. `drop` is the depth of the neckline. `band` is the height of the knitted bands at cuffs and
    hem (0 for none).
    """
    u, long = rng.uniform, sleeve > 0.7
    shoulder, chest, armpit, seam, rib = u(0.46, 0.54), u(0.42, 0.5), u(0.4, 0.5), u(0.5, 0.9), u(0.65, 0.9)
    shapes: Cut = []
    if sleeve:
        angle, girth, tone = (
            u(0.06, 0.5) if long else u(0.35, 0.95),
            u(0.08, 0.12) if long else u(0.14, 0.2),
            u(0.86, 1),
        )
        along, out = np.array([(np.sin(angle), np.cos(angle)), (np.cos(angle), -np.sin(angle))])
        middle = np.array([(shoulder + chest) / 2 + 0.02, 0.08 + armpit / 2])
        cuff, elbow = middle + sleeve * along, middle + 0.45 * sleeve * along + 1.25 * girth * out
        arm = [(shoulder - 0.1, 0.06), (shoulder + 0.03, 0.1), *([elbow] if long else []), cuff + girth * out]
        arm += [cuff - girth * out, (chest - 0.06, armpit + 0.03)]
        knit = [cuff - t * along + s * girth * out for t, s in ((0, 1), (0, -1), (band, -1), (band, 1))]
        for side in (1, -1):
            shapes.append(_cloth([(side * x, y) for x, y in arm], tone))
            shapes += [_cloth([(side * x, y) for x, y in knit], rib)] if band else []
    back = [(0, -0.02), (neck * 0.8, -0.03), (neck, 0), (neck * 0.7, drop), (0, drop + 0.02)]
    sides = [(shoulder, 0.1), (chest, armpit), (waist, armpit + u(0.4, 0.6) * (length - armpit))]
    base = [(hem, length - 0.02), (hem, length), (hem * 0.5, length + 0.02), (0, length + u(0, 0.05))]
    front = _folded([(0, drop), (neck * u(0.55, 0.85), drop * 0.75), (neck, 0), *sides, *base])
    shapes += [_folded(back, u(0.35, 0.65)), front, _thread([*front[0], front[0][0]], seam, 0.03)]
    shapes += [_folded([(0, length - band), (hem, length - band), *base[1:]], rib)] if band else []
    edge = [(neck * x, drop * (1 - abs(x) ** 2.5)) for x in np.linspace(-1, 1, 11)]
    return [*shapes, _thread(edge, _detail_tone(rng) if rng.random() < 0.6 else 1, 0.06)]


def _emblem(rng: Chance) -> Cut:
    """Return the shapes of a print on the chest: a ring, or the lines of a slogan."""
    tone, y, width, height = _detail_tone(rng), *rng.uniform((0.5, 0.1, 0.1), (0.7, 0.3, 0.28))
    if rng.random() < 0.5:
        return [_cloth(_bow(0, y, width, height), tone), _cloth(_bow(0, y, width / 2, height / 2), 1.1)]
    lines = [(y + 0.13 * row, width * rng.uniform(0.6, 1.2)) for row in range(rng.integers(1, 4))]
    return [_thread([(-half, at), (half, at)], tone, 0.08) for at, half in lines]


def _hood(rng: Chance, neck: float) -> Cut:
    rise, wide = rng.uniform(0.18, 0.3), neck + rng.uniform(0.05, 0.14)
    outer = [(0, -rise), (wide * 0.8, -rise * 0.8), (wide, 0), (wide * 0.8, 0.14), (0, 0.2)]
    inner = [(0, -rise * 0.5), (neck * 0.8, -rise * 0.3), (neck * 0.7, 0.06), (0, 0.16)]
    return [_folded(outer, rng.uniform(0.8, 1)), _folded(inner, rng.uniform(0.4, 0.6))]


def _tshirt(rng: Chance) -> Cut:
    u, bare, chest = rng.uniform, rng.random() < 0.15, rng.uniform(0.4, 0.5)
    sleeve = 0.0 if bare else u(0.75, 1.05) if rng.random() < 0.12 else u(0.22, 0.45)
    neck, drop = u(0.16, 0.28) + 0.1 * bare, u(0.08, 0.32) + 0.2 * bare
    shapes = _bodice(rng, u(1.15, 1.5), sleeve, neck, drop, chest, chest + u(-0.04, 0.08))
    return shapes + _emblem(rng) if rng.random() < 0.45 else shapes


def _trouser(rng: Chance) -> Cut:
    u, waist, length = rng.uniform, rng.uniform(0.26, 0.36), rng.uniform(1.6, 2.1)
    hip, knee, ankle, crotch = waist + u(0.02, 0.08), u(0.12, 0.18), u(0.09, 0.2), u(0.45, 0.6)
    centre, shapes = hip * 0.5 + u(0.0, 0.14), []
    leg = [(0.01, 0), (waist, 0), (hip, 0.4), (centre + knee, length * 0.6), (centre + ankle, length)]
    leg += [(centre - ankle, length), (centre - knee, length * 0.6), (0.02, crotch)]
    for side in (1, -1):
        shapes.append(_cloth([(side * max(x, 0.01), y) for x, y in leg], u(0.85, 1)))
        shapes.append(_thread([(side * waist * 0.5, 0.08), (side * hip * 0.95, 0.3)], u(0.6, 1), 0.04))
        shapes.append(_thread([(side * centre, 0.4), (side * centre, length)], u(0.8, 1.25), 0.04))
    shapes.append(_thread([(0, 0.05), (0, crotch)], u(0.4, 0.8), 0.05))
    return [*shapes, _folded([(0, 0), (waist, -0.01), (waist + 0.01, 0.08), (0, 0.09)], _detail_tone(rng))]


def _pullover(rng: Chance) -> Cut:
    u, neck, kind, waist = rng.uniform, rng.uniform(0.16, 0.25), rng.random(), rng.uniform(0.4, 0.5)
    drop = u(0.08, 0.2) if kind < 0.75 else u(0.25, 0.45)
    shapes = _bodice(rng, u(1.15, 1.5), u(0.8, 1.1), neck, drop, waist, waist + u(-0.06, 0.04), u(0.07, 0.14))
    if kind < 0.2:
        shapes.append(_folded([(0, -0.14), (neck, -0.12), (neck + 0.02, 0.06), (0, 0.12)], _detail_tone(rng)))
    elif kind < 0.4:
        pouch = [(0, 0.8), (0.16, 0.8), (0.3, 1.05), (0.3, 1.12), (0, 1.12)]
        shapes += [*_hood(rng, neck), _folded(pouch, u(0.75, 0.95))]
    return shapes + _emblem(rng) if rng.random() < 0.3 else shapes


def _dress(rng: Chance) -> Cut:
    u, length, waist = rng.uniform, rng.uniform(1.65, 2.4), rng.uniform(0.26, 0.42)
    sleeve = (0.0, 0.0, u(0.2, 0.4), u(0.75, 1.05))[rng.integers(4)]
    shapes = _bodice(rng, length, sleeve, u(0.18, 0.34), u(0.1, 0.4), waist, waist + u(0.0, 0.4))
    if rng.random() < 0.5:
        shapes.append(_thread([(-waist, 0.8), (waist, 0.8)], _detail_tone(rng), u(0.04, 0.12)))
    pleats = waist * u(-0.8, 0.8, rng.integers(0, 5))
    return shapes + [_thread([(x * 0.6, 0.95), (x, length)], u(0.7, 0.95), 0.04) for x in pleats]


def _coat(rng: Chance) -> Cut:
    u, neck, length, waist = rng.uniform, rng.uniform(0.14, 0.22), rng.uniform(1.25, 1.8), rng.uniform(0.4, 0.5)
    drop, kind, lapel, middle = u(0.15, 0.6), rng.random(), u(0.7, 1.2), u(-0.06, 0.06)
    shapes = _bodice(rng, length, u(0.85, 1.15), neck, drop, waist, waist + u(0, 0.12))
    gap = u(0.04, 0.14) if rng.random() < 0.25 else 0.02
    opening = [(-gap / 3, drop), (gap / 3, drop), (gap, length + 0.05), (-gap, length + 0.05)]
    shapes.append(_cloth([(middle + x, y) for x, y in opening], u(0.1, 0.6)))
    if kind < 0.5:
        for s in (-1, 1):
            fold = [(s * neck * 1.2, -0.05), (s * (neck + 0.1), 0.16), (middle + s * 0.2, drop * 0.7)]
            shapes += [
                _cloth([*fold, (middle, drop + 0.1)], lapel),
                _thread([*fold[1:], (middle, drop + 0.1)], 0.6, 0.03),
            ]
    elif kind < 0.75:
        shapes += _hood(rng, neck)
    else:
        shapes.append(_folded([(0, -0.1), (neck, -0.12), (neck + 0.04, 0.08), (0, drop)], lapel))
    if rng.random() < 0.6:
        shapes += _buttons(rng, middle + 0.07 + gap, drop + 0.1, length * u(0.6, 0.9), u(0.3, 1.5))
    if rng.random() < 0.25:
        shapes.append(_thread([(-waist, 0.85), (waist, 0.85)], u(0.4, 0.8), 0.09))
    return shapes + [_thread([(s * 0.2, 1.02), (s * 0.36, 0.98)], u(0.4, 1), 0.06) for s in (-1, 1)]


def _shirt(rng: Chance) -> Cut:
    u, neck, length, waist = rng.uniform, rng.uniform(0.14, 0.22), rng.uniform(1.15, 1.55), rng.uniform(0.38, 0.5)
    drop, tone = u(0.1, 0.35), u(0.6, 0.85) if rng.random() < 0.6 else u(1.1, 1.4)
    sleeve = u(0.8, 1.1) if rng.random() < 0.6 else u(0.22, 0.45) if rng.random() < 0.9 else 0.0
    shapes = _bodice(rng, length, sleeve, neck, drop, waist, waist + u(-0.03, 0.1))
    end = length if rng.random() < 0.7 else u(0.55, 0.8)
    shapes.append(_cloth([(-0.05, drop), (0.05, drop), (0.05, end), (-0.05, end)], tone))
    shapes.append(_thread([(0.06, drop), (0.06, end)], u(0.4, 0.8), 0.05))
    shapes += _buttons(rng, 0, drop + 0.08, end - 0.08, u(0.3, 0.7) if tone > 0.9 else u(1.1, 1.5))
    if rng.random() < 0.9:
        point, wide = u(0.16, 0.3), u(0.02, 0.1)
        for s in (-1, 1):
            flap = [(s * neck * 0.6, -0.08), (s * (neck + wide), 0.02), (s * (neck * 0.8 + wide), point), (0, drop)]
            shapes += [_cloth(flap, max(tone, 0.9)), _thread([*flap, flap[0]], u(0.35, 0.7), 0.05)]
    for s in (-1, 1)[: rng.integers(0, 3)]:
        pocket = [(s * x, y) for x, y in ((0.16, 0.48), (0.34, 0.48), (0.34, 0.68), (0.25, 0.72), (0.16, 0.68))]
        shapes.append(_thread([*pocket, pocket[0]], tone, 0.04))
    return shapes


def _sandal(rng: Chance) -> Cut:
    u, kind, thick = rng.uniform, rng.integers(4), rng.uniform(0.07, 0.16)  # 0 and 1: flat, 2: wedge, 3: heel
    rise, tone = (u(0, 0.06), u(0, 0.12), u(0.3, 0.55), u(0.45, 0.8))[kind], u(0.7, 1.2)
    tread = np.array([(-1, 0), (-0.75, 0.03), (-0.4, 0), (0.1, -0.5 * rise), (0.5, -0.95 * rise), (0.95, -rise)])
    foot = np.array([(-1, 0.1), (-0.75, 0.22), (-0.4, 0.3), (0, 0.42), (0.3, 0.55)]) * (1, u(0.8, 1.2))
    shapes = [_cloth([*tread, (0.95, thick), (-1, thick)], u(0.4, 0.9))] if kind == 2 else []
    shapes.append(_cloth([*tread, *(tread + (0, thick))[::-1]], tone))
    if kind == 3:
        shapes.append(_cloth([(0.55, -rise), (0.95, -rise), (0.93, thick), (u(0.73, 0.88), thick)], tone))
    for x in u(-0.95, 0, rng.integers(1, 5)):
        lean, width = u(-0.15, 0.35), u(0.08, 0.2) if rng.random() < 0.7 else u(0.3, 0.5)
        for start, shade in ((x - 0.7 * lean + 0.1, 0.45), (x, u(0.85, 1.25))):  # the far side, then the near side
            along = np.array([start, x + lean, x + lean + width, start + width])
            over = np.interp(along, *tread.T) - np.interp(along, *foot.T) * (0, 1, 1, 0)
            shapes.append(_thread(list(zip(along, over, strict=True)), shade, 0))
    if rng.random() < 0.65:
        high, width, front, deep = -rise - u(0.3, 0.7), u(0.08, 0.16), u(0.2, 0.35), u(0.05, 0.4)
        for sag, shade in ((-0.1, 0.45), (0.04, u(0.9, 1.3))):
            shapes.append(_thread([(front, high - 0.1), (0.6, high + sag), (0.95, high)], shade, width))
        heel = [(0.97, -rise), (0.96 - deep, -rise), (0.9 - deep / 3, high), (0.97, high)]
        shapes.append(_cloth(heel, u(0.8, 1.1)))
    return shapes


def _sneaker(rng: Chance) -> Cut:
    u, sole, toe, high = rng.uniform, rng.uniform(0.1, 0.22), rng.uniform(0.2, 0.32), rng.random() < 0.25
    tongue, side, lace = (
        u(0.5, 0.75) + 0.3 * high,
        _detail_tone(rng),
        u(0.4, 0.7) if rng.random() < 0.3 else u(1.2, 1.5),
    )
    dip, back = tongue - u(0.05, 0.2), tongue + u(-0.12, 0.1)
    cap = [(-1, 0), (-0.97, -toe * 0.7), (-0.75, -toe)]
    heel = [(0.92, -back), (0.98, -0.3), (0.98, 0)]
    slope = np.array([(-0.4, -toe - 0.08), (0.0, -tongue + 0.1), (0.18, -tongue)])
    shapes = [_cloth([(0.1, -tongue + 0.05), (0.25, -tongue - 0.06), (0.85, -back), (0.8, -dip + 0.1)], 0.5)]
    shapes.append(_cloth([*cap, *slope, (0.45, -dip), (0.75, -dip), *heel]))
    if rng.random() < 0.5:
        shapes.append(_cloth([*cap, (-0.55, -toe * 0.8), (-0.5, 0)], side))
    if rng.random() < 0.5:
        shapes.append(_cloth([(0.75, 0), (0.7, -dip * 0.7), *heel], side))
    for x in np.linspace(-0.4, 0.05, rng.integers(3, 6)):
        y = np.interp(x, *slope.T)
        shapes.append(_thread([(x - 0.04, y), (x + 0.14, y + 0.12)], lace, 0.05))
    kind = rng.integers(4)
    if kind == 0:
        shapes.append(_thread([(-0.3, -0.15), (0.0, -0.1), (0.35, -0.2), (0.75, -0.42)], side, u(0.06, 0.12)))
    elif kind == 1:
        shapes += [_thread([(x - 0.12, -tongue * 0.7), (x + 0.1, 0)], side, 0.07) for x in (0.1, 0.28, 0.46)]
    rubber = u(0.4, 0.7) if rng.random() < 0.5 else u(1.1, 1.5)
    return [*shapes, _cloth([(-1.02, -0.03), (1.0, -0.05), (1.0, sole), (-0.95, sole)], rubber)]


def _bag(rng: Chance) -> Cut:
    u, wide, low, deep = rng.uniform, rng.uniform(0.6, 0.95), rng.uniform(0.65, 1.0), rng.uniform(0.6, 1.3)
    kind, trim, strap = rng.integers(4), _detail_tone(rng), u(0.05, 0.12)
    shapes: Cut = []  # a clutch has no handle
    if kind == 0:  # a shoulder bag
        shapes.append(_thread(_bow(0, 0.05, wide * u(0.7, 1), u(0.6, 1.2), 0.5), u(0.6, 1.1), strap))
    elif kind == 1:  # a hand bag
        shapes.append(_thread(_bow(0, 0.02, wide * u(0.3, 0.6), u(0.25, 0.5), 0.5), u(0.8, 1.3), strap * 1.3))
    elif kind == 2:  # a tote
        half, rise, wide, low = low * u(0.35, 0.6), u(0.45, 0.8), low, wide
        shapes += [_thread(_bow(x, 0.1, half, rise, 0.5), tone, strap) for x, tone in ((0.06, 0.55), (-0.03, 1.0))]
    base = [(low, deep - 0.03), (low * 0.92, deep), (0, deep)]
    shapes.append(_folded([(0, 0), (wide * 0.9, 0), (wide, 0.04), *base]))
    if rng.random() < 0.45:
        fall = deep * u(0.35, 0.7)
        flap = _folded([(0, 0), (wide, 0), (wide * 0.98, fall * 0.7), (wide * 0.6, fall), (0, fall + 0.04)], trim)
        shapes += [flap, _thread([*flap[0]], u(0.4, 0.7), 0.04), _cloth(_bow(0, fall, 0.08, 0.07), u(0.4, 1.6))]
    else:
        shapes.append(_thread([(-wide, 0.1), (wide, 0.1)], u(0.4, 0.9), 0.06))
    if rng.random() < 0.25:
        shapes += [_thread([(s * wide * 0.55, 0), (s * low * 0.55, deep)], trim, 0.1) for s in (-1, 1)]
    return shapes


def _ankle_boot(rng: Chance) -> Cut:
    u, shaft, heel, toe = rng.uniform, rng.uniform(0.75, 1.4), rng.uniform(0.04, 0.5), rng.uniform(0.2, 0.34)
    sole, cuff, tread, kind, top = u(0.05, 0.14), u(-0.1, 0.15), u(0.4, 1.3), rng.integers(4), -shaft - heel
    block = 0.06 if heel > 0.3 and rng.random() < 0.5 else u(0.16, 0.26)
    front = [(-1, -toe * 0.3), (-0.93, -toe * 0.8), (-0.65, -toe), (-0.2, -toe - 0.22 - heel * 0.4)]
    shin = [(0.02 + cuff / 2, -0.75 - heel * 0.6), (cuff, top), (0.88, top + u(-0.06, 0.06))]
    back = [(0.9, -0.6 - heel), (0.96, -0.2 - heel), (0.95, -heel)]
    arch = [(0.3, -heel * 0.9), (-0.35, 0), (-0.9, 0)]
    shapes = [_cloth([(0.9 - 2.2 * block, -heel), (0.95, -heel), (0.93, sole), (0.93 - 2 * block, sole)], tread)]
    shapes += [_cloth([*front, *shin, *back, *arch]), _thread([back[-1], *arch, front[0]], tread, 2 * sole)]
    if kind == 0:  # a zip
        shapes.append(_thread([(0.5, top), (0.55, -0.2 - heel)], u(0.4, 0.7), 0.06))
    elif kind == 1:  # laces
        rows, x = np.linspace(-toe - 0.3 - heel * 0.4, top + 0.1, 5), cuff * 0.6
        shapes += [_thread([(x - 0.05, y), (x + 0.22, y + 0.06)], u(1.1, 1.5), 0.05) for y in rows]
    elif kind == 2:  # a strap with a buckle
        shapes.append(_thread([(0.0, -0.38 - heel), (0.9, -0.5 - heel)], _detail_tone(rng), 0.12))
        shapes.append(_cloth(_bow(0.6, -0.46 - heel, 0.07, 0.09), 1.5))
    return shapes


GARMENTS = (  # (function, probability of a pattern) for each class
    (_tshirt, 0.5), (_trouser, 0.2), (_pullover, 0.5), (_dress, 0.45), (_coat, 0.3),
    (_sandal, 0.05), (_shirt, 0.55), (_sneaker, 0.1), (_bag, 0.3), (_ankle_boot, 0.1),
)  # fmt: skip


def _fitted(rng: Chance, shapes: Cut) -> tuple[np.ndarray, float]:
    """Bend, rotate and stretch a garment, and fit it to the frame. Return its points in 0..1 and the scale factor."""
    points = np.concatenate([outline for outline, _, _ in shapes])
    wave = rng.uniform(1.5, 4, 2) * points[:, ::-1] + rng.uniform(0, 2 * np.pi, 2)
    points = points + rng.uniform(0, 0.06, 2) * np.sin(wave)
    turn, shear = rng.normal(0, 0.09, 2)
    stretch = np.exp(rng.normal(0, 0.12))
    points = points @ np.array([[stretch, turn], [shear - turn, 1]])
    least, most = points.min(0), points.max(0)
    scale = rng.uniform(0.78, 0.97) / (most - least).max()
    return (points - (least + most) / 2) * scale + 0.5 + rng.uniform(-0.03, 0.03, 2), scale


def _pattern(rng: Chance, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a pattern as a brightness map, from 0.4 to 1: stripes, checks, knitting, a print or panels."""
    import cv2

    kind, depth = rng.integers(6), rng.uniform(0.15, 0.6)
    first, second = rng.uniform(14, 60, 2)
    shift = rng.uniform(0, 2 * np.pi)
    if kind < 2:
        bands = np.sin(first * (y, x)[kind] + shift) * 2
    elif kind == 2:
        bands = np.sin(first * x + shift) + np.sin(second * y)
    elif kind == 5:
        bands = 12 * (y - rng.uniform(0.25, 0.7)) * rng.choice((-1, 1))
    else:
        grain = rng.standard_normal((9, 9) if kind == 3 else (18, 18), np.float32)
        bands = 1.5 * cv2.resize(grain, x.shape, interpolation=cv2.INTER_CUBIC)
    return 1 - depth * (0.5 + 0.5 * np.clip(bands, -1, 1))


def _photograph(rng: Chance, shapes: Cut, patterned: bool, size: int) -> np.ndarray:
    """Render a garment with shading, noise and, if `patterned`, a pattern: uint8 [size, size]."""
    import cv2

    fine = size * 3
    tones = np.zeros((fine, fine), np.uint8)
    points, scale = _fitted(rng, shapes)
    corners = np.rint(points * fine * 16 - 8).astype(np.int32)
    first = 0
    for outline, tone, width in shapes:
        part = corners[first : first + len(outline)]
        first += len(outline)
        value = round(160 * min(tone, 1.6))
        if width:
            cv2.polylines(tones, [part], False, value, max(1, round(width * scale * fine)), cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(tones, [part], value, cv2.LINE_AA, 4)

    position = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    folds = cv2.resize(rng.standard_normal((5, 5), np.float32), (fine, fine), interpolation=cv2.INTER_CUBIC)
    light = rng.normal(0, 0.12, 2)
    cloth = 1 + rng.uniform(0.02, 0.1) * folds + light[0] * (position - 0.5) + light[1] * (position[:, None] - 0.5)
    if patterned:
        bend = rng.uniform(0, 0.03) * folds
        cloth *= _pattern(rng, position + bend, position[:, None] + bend)
    covered = cv2.blur((tones > 0).astype(np.float32), (fine // 8, fine // 8))
    cloth *= 1 - rng.uniform(0.1, 0.6) * (1 - covered)
    level = rng.uniform(0.12, 0.35) if rng.random() < 0.15 else rng.uniform(0.4, 0.9)
    image = cv2.resize(tones * cloth, (size, size), interpolation=cv2.INTER_AREA) * (level / 160)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.2, 0.5) * size / 28)
    noise = rng.uniform(0.005, 0.025) * rng.standard_normal((size, size), np.float32)
    image += noise * np.minimum(image * 4, 1)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8)


def synthetic_clothes(count: int, seed: int, size: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Return synthetic images of clothes on a black background, as in Fashion-MNIST (arXiv:1708.07747).

    Each garment is centred and fills the frame. Each block of ten images contains each class once, in random
    order. An image depends only on its index and the seed, so a smaller set is a prefix of a larger one.

    Args:
        count: the number of images, 1 or more.
        seed: random seed, 0 or more.
        size: height and width in pixels, 16 or more. The garments are the same at any size.

    Returns:
        Images, uint8 [count, size, size, 1], and integer labels, uint8 [count], as indices of `CLOTHES_CLASSES`.

    Raises:
        InputError: `count`, `seed` or `size` is too small.
    """
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("size", size, 16)):
        if value < least:
            raise InputError(f"{name} must be {least} or more, got {value}")
    tens = -(-count // 10)
    labels = np.concatenate([np.random.default_rng([seed, ten, 1]).permutation(10) for ten in range(tens)])[:count]
    images = np.empty((count, size, size, 1), np.uint8)
    for index, label in enumerate(labels):
        rng = np.random.default_rng([seed, index])
        shapes, patterned = GARMENTS[label]
        images[index, ..., 0] = _photograph(rng, shapes(rng), rng.random() < patterned, size)
    return images, labels.astype(np.uint8)
