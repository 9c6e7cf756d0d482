"""Paint the parts of a synthetic face. Each part is painted over the previous ones."""

from __future__ import annotations

import numpy as np

from common.samples.face_portrait import (
    Portrait,
    blob,
    curve,
    even,
    face_colours,
    front_depth,
    mirrored,
    mix,
    noise_texture,
    oval,
    unit_circle,
)


def paint_background(p: Portrait) -> None:
    """Paint a bright or dark background: a plain wall, a gradient or an out-of-focus scene."""
    import cv2

    rng, bright = p.moment, p.strengths["bright_background"]
    kind, turn = rng.integers(3), rng.uniform(0, 2 * np.pi)
    hues = rng.uniform(0.0, 1.0, (2, 3)).astype(np.float32)
    hues = mix(hues, hues.mean(1, keepdims=True), rng.uniform(0.1, 0.8))
    first, second = (mix(0.06 + 0.36 * hue, 0.72 + 0.28 * hue, bright) for hue in hues)
    blurred = cv2.GaussianBlur(rng.random((8, 8, 3), np.float32), (0, 0), 0.6)
    x = np.linspace(-0.7, 0.7, p.side, dtype=np.float32)
    y = x[:, None]
    if kind == 0 or p.uniform:
        weight = (0.3 * (x**2 + y**2))[..., None]
    elif kind == 1:
        weight = np.clip(0.5 + np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y, 0, 1)[..., None]
    else:
        weight = np.clip(2.5 * cv2.resize(blurred, (p.side, p.side), interpolation=cv2.INTER_CUBIC) - 0.8, 0, 1)
    p.paint[:] = first + (second - first) * weight


def lit_skin(p: Portrait) -> np.ndarray:
    """Return the colours of the lit skin, float32 [side, side, 3]."""
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
    light = (0.44 + 0.66 * facing(*p.lamp)) * (1 + np.float32(0.012 + 0.015 * old) * noise_texture(rng, 14, p.side))
    red = p.bumps([(s * 0.55, 0.4, 0.22, 0.17, blush, 0) for s in (-1, 1)] + [(0, tip, 0.12, 0.1, blush * 0.8, out)])
    lit = np.empty((p.side, p.side, 3), np.float32)
    for channel, (deepen, flush) in enumerate(((-0.14, 0), (0.1, -0.55), (0.24, -0.5))):  # skin in shadow is redder
        lit[..., channel] = light * (1 + deepen * (light - 1)) * (1 + flush * red) * p.skin[channel] + shine * gloss
    return p.upright(lit)


def hair_map(p: Portrait) -> np.ndarray:
    """Return the colours of glossy hair, float32 [side, side, 3]: strands that start at the crown, or curls."""
    import cv2

    rng, curl = p.dice("strands"), p.cut.curl
    across, down = p.grid()
    x = across - np.float32(0.5 * p.cut.sweep + 0.6 * np.sin(p.yaw))
    coils, waves = noise_texture(rng, 30, p.side), noise_texture(rng, 7, p.side)
    strands = cv2.GaussianBlur(rng.standard_normal((1, 512), np.float32), (0, 0), 2.5)[0] * 2.4
    angle = np.arctan2(x, np.maximum(down + 1.35, 0.12)) * 70 + 256 + np.float32(14 * curl) * waves
    texture = mix(strands[np.clip(angle, 0, 511).astype(np.int32)], 0.6 * coils, max(0.0, 1.6 * curl - 0.6))
    ring = np.hypot(across - np.float32(0.35 * p.lamp[0]), 0.75 * (down + 1.35)) - 0.42
    light = p.lit(0.32) * (1 + (0.08 if p.uniform else 0.17) * texture) * (0.86 + 0.34 * np.exp(-((ring / 0.14) ** 2)))
    grey = np.clip(waves, 0, 1)[..., None] * np.float32(0.25 * p.strengths["old"])
    return p.upright((p.hair + (0.8 - p.hair) * grey) * light[..., None])


def _ruffled(p: Portrait, points: np.ndarray, part: str) -> np.ndarray:
    """Project an outline [n, 3] to pixels [n, 2], and roughen it. Curly hair gets a rougher outline."""
    rng = p.dice(part)
    bends = np.cumsum(rng.uniform(0.5, 1.6, len(points)))
    off = np.stack([np.sin(bends), np.cos(1.3 * bends)], 1) * rng.uniform(0.5, 1, (len(points), 1))
    return p.project(points) + (0.01 + 0.055 * p.cut.curl) * p.unit * off


def paint_back_hair(p: Portrait, hair: np.ndarray) -> None:
    """Paint the hair behind the head and the shoulders."""
    volume, back = p.cut.volume, p.cut.back
    wide, top = p.width + 0.02 + 0.55 * volume, -1.2 - volume if p.cut.hairline > -1 else -1.0
    flare = wide + 0.1 * (back > 0.7) * p.dice("back hair").uniform(-0.5, 2)
    half = [(0, top, -0.25), (wide * 0.62, top + 0.1, -0.25), (wide * 0.95, top + 0.45, -0.25), (wide, -0.2, -0.25)]
    half += [(flare, back * 0.5, -0.25), (flare * 0.92, back, -0.25), (0, back + 0.02, -0.25)]
    p.fill(_ruffled(p, mirrored(half), "back hair edge"), hair * np.float32(0.72), 1, 0.015)


def paint_shoulders(p: Portrait) -> None:
    """Paint the neck, the chin's shadow, and clothes with a random collar."""
    rng, kind = p.dice("clothes"), p.dice("collar").integers(5)
    dyes = "2B2F3A 7A1F28 E8E4DC 31507A 4E6B48 B98A3C 8A8F96 5B3A66 1B1B1E C77B74 D8C9A8"
    colour, other = rng.choice(face_colours(dyes)), rng.choice(face_colours("F2F0EA 22252C A83A32 3E6A9A D9B44A"))
    neck, drop, shift = rng.uniform(0.4, 0.54) - 0.06 * p.softness, rng.uniform(1.46, 1.58), 0.35 * np.sin(p.yaw)
    light = (p.lit(0.2) * (1 + 0.06 * noise_texture(rng, 6, p.side)))[..., None]
    skin, cloth = p.shade(0.86) * light, colour * light
    half = [(-neck, 2), (-neck - 0.12, 1.6), (-neck + shift, 0.6)]
    throat = p.still(blob([*half, (neck + shift, 0.6), (neck + 0.12, 1.6), (neck, 2)]))
    p.fill(throat, skin)
    chin = oval(shift + 0.1 * p.lamp[0], p.length - 0.1, 0.62, 0.3)
    p.fill(p.still(chin), p.shade(0.42), 0.75, 0.08, inside=p.stencil(throat))
    half = [(-2.2, 2.4), (-1.7, 1.75), (-1.2, drop + 0.06), (-neck - 0.14, drop - 0.1)]
    p.fill(p.still(blob([*half, *((-x, y) for x, y in half[::-1])])), cloth)
    if kind == 0:  # a round neckline
        p.fill(p.still(oval(0, drop - 0.06, neck + 0.08, 0.2)), skin)
    elif kind == 1:  # a V-neck
        p.fill(p.still([(-neck - 0.08, drop - 0.14), (neck + 0.08, drop - 0.14), (0, 2.2)]), skin)
    elif kind == 2:  # a roll neck
        roll = [(-neck - 0.06, 1.9), (-neck - 0.03, 1.32), (neck + 0.03, 1.32), (neck + 0.06, 1.9)]
        p.fill(p.still(blob(roll)), cloth * np.float32(0.92))
    else:  # a shirt, or a jacket over a shirt
        front = [(-neck - 0.2, drop), (neck + 0.2, drop), (0.1, 2.4), (-0.1, 2.4)]
        p.fill(p.still(front), (other if kind == 4 else colour) * light)
        p.fill(p.still([(-neck, drop - 0.1), (neck, drop - 0.1), (0, drop + 0.22)]), skin)
        for s in (-1, 1):
            flap = [(neck + 0.04, drop - 0.3), (neck + 0.22, drop + 0.02), (0.3, drop + 0.3), (0, drop + 0.12)]
            p.fill(p.still(np.array(flap) * (s, 1)), (other if kind == 4 else colour) * np.float32(0.88) * light)


def paint_head(p: Portrait, skin: np.ndarray) -> None:
    """Paint the ears, then the head."""
    rng, w = p.dice("ears"), p.width
    out, tall = rng.uniform((0.02, 0.18), (0.1, 0.25))
    for s in (-1, 1):
        for width, height, colour, *how in (
            (0.12, tall, skin * np.float32(0.94)),
            (0.055, 0.6 * tall, p.shade(0.6), 0.7, 0.02),
        ):
            ear = oval(s * (w + out), 0.1, width, height)
            p.draw(np.column_stack([ear, np.full(len(ear), -0.12)]), colour, *how)
    half = [(0, -1.22, 0), (0.5 * w, -1.12, 0), (0.86 * w, -0.76, 0), (w, -0.25, 0), (0.98 * w, 0.2, 0.02)]
    half += [((w + p.jaw) / 2, 0.56, 0.1), (p.jaw * 0.92, 0.84, 0.2), (p.chin + 0.12, p.length - 0.1, 0.42)]
    outline = p.project(mirrored([*half, (0, p.length, 0.5)]))
    p.fill(outline, skin)
    p.head = p.stencil(outline)


def paint_lines(p: Portrait) -> None:
    """Paint wrinkles, freckles, the nose's soft shadow, and soft folds around the mouth and the eyes."""
    rng, smile, old, (nose, tip, _) = p.dice("lines"), p.strengths["smile"], p.strengths["old"], p.nose
    mouth, corner, s = p.mouth, p.lips[0] + 0.1 * smile, -np.sign(p.lamp[0])

    def crease(points: list, strength: float, soft: float = 0.025, line: float = 0.04) -> None:
        p.draw(curve(points), p.shade(0.45), strength, soft, line, lift=0.02, inside=p.head)

    cast = [(0, tip - 0.1), (s * nose, tip), (s * (nose + 0.16), tip + 0.16), (0, tip + 0.15)]
    p.draw(blob(cast), p.shade(0.45), 0.4, 0.05, lift=0.1)
    crease([(s * 0.1, -0.08), (s * 0.08, 0.15), (s * nose * 0.7, tip - 0.06)], 0.28, 0.04, 0.06)
    p.draw(oval(0, mouth + 0.2, 0.16, 0.035), p.shade(0.45), 0.35, 0.05)
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
        p.draw(oval(x, y, 0.02, 0.02), p.shade(0.7), 0.55, 0.008, inside=p.head)


def paint_beard(p: Portrait) -> None:
    """Paint stubble, a full beard, or a moustache with a goatee or a soul patch."""
    rng, mouth, tip, w = p.dice("beard"), p.mouth, p.nose[1], p.width
    kind, longer = rng.choice(4, p=(0.25, 0.4, 0.2, 0.15)), rng.uniform(0.03, 0.16)
    dye = np.minimum(p.hair * np.array([0.82, 0.72, 0.62], np.float32), p.skin * np.float32(0.74))
    colour = dye * (p.lit(0.2) * (1 + 0.11 * noise_texture(rng, 44, p.side)))[..., None]
    strength = p.strengths["beard"] * (0.7 if kind == 0 else 0.95)
    if kind < 2:
        edge = p.length + longer * kind
        half = [(0, mouth + 0.13), (0.2, mouth + 0.12), (0.4, mouth - 0.06), (0.62, mouth - 0.1), (w * 0.86, 0.3)]
        half += [(w * 0.98, 0.1), (w, 0.4), (p.jaw + 0.06, 0.82), (p.chin + 0.16, edge - 0.08), (0, edge)]
        outline = mirrored(half)
        rim = np.interp(outline[:, 1], (0.2, 0.56, 0.84, p.length), (0.02, 0.1, 0.2, 0.5))
        inner = np.abs(outline[:, 0]) < 0.75  # the other points follow the head's outline
        depth = np.where(inner, np.maximum(front_depth(*outline.T), rim), rim)
        p.draw(np.column_stack([outline, depth]), colour, strength, 0.025, inside=None if kind else p.head)
    elif kind == 2:
        half = [(0, mouth + 0.12), (0.16, mouth + 0.12), (0.3, mouth + 0.08), (0.36, mouth + 0.2)]
        edge = p.length + 0.4 * longer
        p.draw(mirrored([*half, (p.chin + 0.04, edge - 0.06), (0, edge)]), colour, strength, 0.025, lift=0.05)
    else:
        p.draw(oval(0, mouth + 0.27, 0.12, 0.12), colour, strength, 0.02)
    wide, ends = p.lips[0], mouth + (0.06 if kind < 2 else 0.18)
    half = [(0, tip + 0.15), (0.16, tip + 0.16), (wide + 0.08, mouth - 0.03), (wide + 0.13, ends), (wide + 0.02, ends)]
    p.draw(mirrored([*half, (0.16, mouth - 0.05), (0, mouth - 0.06)]), colour, strength, 0.018, lift=0.08)


def paint_nose(p: Portrait) -> None:
    """Paint the nostrils."""
    nose, tip, out = p.nose
    for s in (-1, 1):
        p.draw(oval(s * nose * 0.52, tip + 0.1, 0.05, 0.026), p.shade(0.3), 0.85, 0.014, lift=out * 0.7)


def paint_eyes(p: Portrait) -> None:
    """Paint both eyes."""
    rng = p.dice("eyes")
    x, wide, tall, slant = rng.uniform((0.38, 0.18, 0.09, -0.02), (0.45, 0.22, 0.13, 0.04))
    colour = rng.choice(face_colours("2E1B12 4A2E1C 6A4A2A 5C6B3E 4F7590 7C9AAE 3E5A4A"))
    tall *= 0.72 + 0.4 * p.lids
    dark, circle = p.shade(0.3), unit_circle() * p.unit
    top = [(-wide, 0.015), (-wide * 0.55, -tall * 0.8), (0, -tall), (wide * 0.6, -tall * 0.72), (wide, -slant)]
    base = [(wide, -slant), (wide * 0.5, tall * 0.6), (-wide * 0.4, tall * 0.62), (-wide, 0.015)]
    for s in (-1, 1):
        upper, lower = (curve(lid) * (s, 1) + (s * x, 0.02) for lid in (top, base))
        p.draw(oval(s * x, -0.06, wide * 1.15, 0.1), dark, 0.22, 0.06)
        outline = p.project(np.concatenate([upper, lower[1:-1]]))
        opening = p.stencil(outline)
        p.fill(outline, face_colours("EDE8E6")[0] * np.float32(0.86 + 0.1 * p.lamp[0] * s))
        iris = p.project(np.array([[s * x, 0.008]]) + p.gaze)
        p.fill(iris + circle * 0.1, colour * np.float32(0.55), inside=opening)
        p.fill(iris + circle * 0.08, colour * np.float32(1.15), 0.9, 0.012, inside=opening)
        p.fill(iris + circle * 0.045, face_colours("080808")[0], inside=opening)
        p.draw(upper + (0, 0.02), dark * np.float32(0.5), 0.5, 0.02, 0.04, inside=opening)
        p.draw(upper, dark * np.float32(0.45), 0.9, 0.004, 0.035 + 0.025 * p.softness)
        p.draw(lower, dark, 0.45, 0.008, 0.025)
        p.draw(upper - (0, 0.06), dark, 0.45, 0.012, 0.03)
        glint = iris + circle * 0.026 + np.array([np.sign(p.lamp[0]) * 0.04, -0.04]) * p.unit
        p.fill(glint, face_colours("FFFFFF")[0], 0.9, inside=opening)


def paint_brows(p: Portrait) -> None:
    """Paint the eyebrows."""
    thick, arch, reach = p.dice("brows").uniform((0.04, 0.02, 0.66), (0.095, 0.1, 0.76))
    thick *= 1.15 - 0.4 * p.softness
    lift, frown = 0.09 * (p.brows - 0.4), 0.07 * (p.frown - 0.4)
    top = [(0.17, -0.24 + frown), (0.42, -0.29 - arch), (reach, -0.21)]
    base = [(reach, -0.2), (0.42, -0.29 - arch + thick), (0.16, -0.24 + frown + thick)]
    outline = np.concatenate([curve(top), curve(base)]) - (0, lift)
    for s in (-1, 1):
        p.draw(outline * (s, 1), np.minimum(p.hair, p.skin) * np.float32(0.72), 0.9, 0.012, lift=0.03)


def paint_mouth(p: Portrait) -> None:
    """Paint the lips, and the teeth if the mouth is open. A smile widens the mouth, opens it and lifts its corners."""
    smile, (wide, upper, lower), y, rng = p.strengths["smile"], p.lips, p.mouth, p.dice("lips")
    red = mix(face_colours("B0706A")[0], face_colours("A04A48")[0], p.softness)
    colour = mix(p.shade(0.82) * np.array([1, 0.74, 0.72], np.float32), red, 0.3 + 0.4 * p.softness * rng.random())
    colour *= np.float32(0.95 - 0.25 * p.strengths["dark_skin"])
    wide += 0.14 * smile
    gape = 0.22 * max(0.0, p.open - 0.55) * (1 - smile) + 0.13 * smile
    corner, sag = y + 0.035 - 0.14 * smile, 0.035 * smile
    side, low = (y + corner) / 2, (y + corner) / 2 + 0.75 * gape + 0.05 * smile
    top = even([(-wide - 0.02, corner), (-wide * 0.5, side - upper * 0.75), (-0.09, y - upper), (0, y - upper * 0.8)])
    inner = even([(-wide, corner), (-wide * 0.5, side - 0.01 + 0.02 * smile), (0, y + sag)])
    inner_low = even([(-wide, corner), (-wide * 0.55, low), (0, y + gape + sag)])[::-1]
    base = even([(-wide, corner), (-wide * 0.55, low + lower * 0.8), (0, y + gape + lower + sag)])[::-1]
    p.draw(np.concatenate([top, base]), colour, 0.92, 0.008, lift=0.05)
    p.draw(np.concatenate([top, inner[::-1]]), colour * np.float32(0.8), 0.8, 0.008, lift=0.05)
    hole = p.project(np.concatenate([inner, inner_low]), 0.05)
    p.fill(hole, face_colours("3A1414")[0])
    teeth = np.concatenate([inner - (0, 0.02), inner[::-1] + (0, 0.1 * min(1, gape / 0.08))])
    enamel = mix(face_colours("EAE4DC")[0], face_colours("DCCFB2")[0], p.strengths["old"])
    p.draw(teeth, enamel, 0.95, 0.008, lift=0.05, inside=p.stencil(hole))
    p.draw(inner, p.shade(0.25), 0.85, 0.006, 0.025, lift=0.05)


def paint_front_hair(p: Portrait, hair: np.ndarray) -> None:
    """Paint the hair over the forehead and at the sides, and its shadow on the face."""
    rng, cut, w = p.dice("front hair"), p.cut, p.width
    ragged, locks = rng.normal(0, 0.025, 11), rng.uniform(0.85, 1.1, 2)
    if cut.hairline < -1:
        for s in (-1, 1):
            side = [(0.84, -0.5, 0.3), (1.0, -0.5, -0.1), (1.06, -0.1, -0.2), (0.99, 0.15, -0.1), (0.9, -0.05, 0.15)]
            p.fill(_ruffled(p, blob(side) * (s * w, 1, 1), "sides"), hair, 0.95, 0.02)
        return
    angle = np.radians(np.linspace(-97, 97, 15))
    out, rise = w + 0.07 + 0.5 * cut.volume, 1.17 + cut.volume
    over = np.stack([out * np.sin(angle), -0.1 - rise * np.cos(angle), np.full(15, -0.05)], 1)
    x = np.linspace(0.96, -0.96, 11)
    parted = abs(cut.sweep) * np.maximum(x * np.sign(cut.sweep) + 0.1, 0) * (1 - x**4)
    y = cut.hairline + (min(cut.sides, 0) - cut.hairline) * np.abs(x) ** 3.4 + parted + ragged
    outline = np.concatenate([curve(over), curve(np.stack([x * w, y, front_depth(x * w, y)], 1))])
    pixels = _ruffled(p, outline, "hairline")
    p.fill(pixels + (0, 0.05 * p.unit), p.shade(0.5), 0.4, 0.05, inside=p.head)
    p.fill(pixels, hair, 1, 0.02 if cut.volume > 0.05 else 0.05)
    for s, lock in zip((-1, 1), locks, strict=True) if cut.sides > 0.2 else ():
        out, reach = w + 0.08 + 0.5 * cut.volume, cut.sides * lock
        outer = [(0.72 * w, -0.62, 0.25), (out * 0.96, -0.5, -0.05), (out, 0.2, -0.05), (out + 0.06, reach * 0.7, 0)]
        inner = [(out - 0.08, reach, 0), (0.8 * w, reach * 0.92, 0), (0.9 * w, reach * 0.5, 0.02)]
        outline = blob([*outer, *inner, (0.9 * w, 0.1, 0.05), (0.86 * w, -0.3, 0.15)]) * (s, 1, 1)
        pixels = _ruffled(p, outline, f"lock {s}")
        p.fill(pixels, p.shade(0.5), 0.35, 0.06, inside=p.head)
        p.fill(pixels, hair, 1, 0.02)


def paint_glasses(p: Portrait) -> None:
    """Paint round, square or teardrop-shaped glasses. One pair in five has dark lenses."""
    rng = p.dice("glasses")
    kind, dark = int(rng.integers(3)), bool(rng.random() < 0.2)
    colour = rng.choice(face_colours("141414 141414 3A2418 6A4A20 7A1C22 22304A B08A3A"))
    wide, tall, line = rng.uniform((0.27, 0.2, 0.04), (0.34, 0.27, 0.08))
    if p.uniform:
        kind, dark, colour, wide, tall, line = 0, False, face_colours("141414")[0], 0.31, 0.25, 0.06
    shape = unit_circle().copy()
    if kind == 1:
        shape = np.sign(shape) * np.abs(shape) ** 0.5
    elif kind == 2:
        shape += np.maximum(shape[:, 1:], 0) * (0.25 * shape[:, :1] * (-1, 0) + (0, 0.2))
    lens = shape * (wide, 0.86 * wide if kind == 0 else tall) + (0.43, 0.03)
    gleam = np.array([(-0.12, -0.06), (-0.02, -0.1), (-0.1, 0.1), (-0.16, 0.1)])
    for s in (-1, 1):
        outline = p.project(lens * (s, 1), 0.12)
        p.fill(outline, face_colours("121212" if dark else "D9E6F2")[0], 0.88 if dark else 0.1)
        p.draw(gleam + (s * 0.43, 0), face_colours("FFFFFF")[0], 0.3, 0.015, lift=0.12)
        p.fill(np.concatenate([outline, outline[:1]]), colour, 1, 0, line)
        p.draw([(s * (0.42 + wide), -0.03, 0.45), (s * (p.width + 0.03), -0.02, 0)], colour, 1, 0, line, inside=p.head)
    p.draw(curve([(-0.45 + wide, 0.0), (0, -0.05), (0.45 - wide, 0.0)]), colour, 1, 0, line, lift=0.2)


def paint_hat(p: Portrait) -> None:
    """Paint a woollen hat, a cap, a brimmed hat or a beret."""
    rng, w = p.dice("hat"), p.width + 0.1
    kind, lean = rng.integers(4), rng.choice((-1, 1))
    dyes = face_colours("B0282E 1F3A6E 2E2E32 3E6B4A C99A2E 7A4A2A 8C8F94 5A2E5E D8D2C4 D06A3A")
    light, dark = (
        p.upright(p.lit(0.34))[..., None] * (1 + 0.05 * noise_texture(rng, 40, p.side))[..., None],
        p.shade(0.4),
    )
    colour, band = rng.choice(dyes) * light, rng.choice(dyes) * light
    base, brim = rng.uniform((-0.58, 1.4), (-0.46, 1.7))
    top, power = ((-1.62, 0.75), (-1.5, 0.85), (-1.66, 0.45), (-1.45, 1.0))[kind]
    angle = np.radians(np.linspace(-90, 90, 13))
    crown = np.stack([w * np.sin(angle), base - 0.1 + (top - base) * np.cos(angle) ** power, np.full(13, -0.05)], 1)
    x = np.linspace(1, -1, 9)
    rim = np.stack([w * x, base + 0.06 * (1 - x**2), 0.75 * (1 - np.abs(x))], 1)
    p.draw(np.concatenate([crown, rim + (0, 0.14, 0)]), dark, 0.5, 0.06, inside=p.head)
    dome = np.concatenate([curve(crown), curve(rim)])
    if kind == 3:
        felt = [(-1.2, -0.7), (-1.0, -1.15), (0.3 * lean, -1.5), (1.0, -1.2), (1.26, -0.7)]
        outline = blob([*felt, (0.66, -0.6), (0, -0.62), (-0.66, -0.6)]) + (0.12 * lean, 0)
        dome = np.column_stack([outline, np.full(len(outline), 0.1)])
    p.draw(dome, colour)
    if kind in (0, 2):  # the turned-up edge of a woollen hat, or the ribbon of a brimmed hat
        ribbon = np.concatenate([curve(rim), curve(rim[::-1]) - (0, 0.3 if kind == 0 else 0.2, 0)])
        p.draw(ribbon, band if kind == 2 or lean > 0 else colour * np.float32(0.85))
    if kind == 0:
        for x in np.linspace(-0.9, 0.9, 9):
            rib = [(x * w, base + 0.05, 0.7 * np.sqrt(1 - x**2)), (x * w, base - 0.26, 0.7 * np.sqrt(1 - x**2))]
            p.draw(rib, colour * np.float32(0.5), 0.4, 0.015, 0.03)
    elif kind == 1:
        half = [(0, base - 0.1, 0.8), (0.5, base - 0.08, 0.7), (w * 0.9, base, 0.35), (0.68, base + 0.16, 1.1)]
        peak = mirrored([*half, (0, base + 0.24, 1.4)])
        p.draw(peak + (0, 0.08, 0), dark, 0.6, 0.05, inside=p.head)
        p.draw(peak, band * np.float32(0.85))
    elif kind == 2:
        plate = oval(0, base + 0.02, brim, 0.13)
        p.draw(np.column_stack([plate, np.zeros(24)]), colour * np.float32(0.82))
