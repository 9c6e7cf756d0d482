"""The sky, the ground and the houses of a street scene."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from common.samples.street_plan import (
    BRICK,
    BUILDING,
    CONCRETE,
    FENCE,
    FENCE_COLOURS,
    LAMPLIGHT,
    LEAF_COLOURS,
    PAVEMENT,
    PAVING_COLOURS,
    ROAD,
    ROOF_COLOURS,
    Street,
    phase,
)


def paint_sky(street: Street) -> None:
    """Paint a gradient above the horizon and a flat layer of clouds lit by the sun."""
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


def lay_surfaces(street: Street) -> np.ndarray:
    """Return a surface code per pixel: 0 sky, 1 road, 2 pavement, 3 kerb, or 8 + 4 * plot + part.

    A plot of land has part 0 for the front of the house, 1 for the gable, 2 for the roof and 3 for the fence.
    """
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
    """Return a colour as [3, 1, 1]. The shaders work on channels-first arrays [3, h, w]."""
    return np.asarray(colour, np.float32)[:, None, None]


def _palette(colours: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Look up `colours`, [n] or [n, 3], by indices [h, w]. The result is [h, w] or [3, h, w]."""
    return np.ascontiguousarray(colours.T).take(np.asarray(numbers, np.int32), axis=-1)


def _block(mask: np.ndarray) -> np.ndarray:
    """Return the indices of a mask's pixels in rows of 256, for `grain`. The first indices pad the last row."""
    where = np.flatnonzero(mask)
    return np.resize(where, (-(-len(where) // 256), 256))


def _only(points: SimpleNamespace, where: np.ndarray) -> SimpleNamespace:
    """Select the points at the indices `where` in every field [..., h, w]."""
    return SimpleNamespace(**{k: a.reshape(*a.shape[:-2], -1)[..., where] for k, a in vars(points).items()})


def _surface_points(street: Street, mask: np.ndarray) -> SimpleNamespace:
    """Return the indices `where` of a mask's pixels, and their offsets `u` and `v` from the vanishing point."""
    where = _block(mask)
    down = where // street.side
    u = (where - down * street.side + 0.5).astype(np.float32) / street.side - street.vanish[0]
    return SimpleNamespace(where=where, u=u, v=(down + 0.5).astype(np.float32) / street.side - street.vanish[1])


def _put(street: Street, points: SimpleNamespace, radiance: np.ndarray, labels: Any) -> None:
    """Paint a radiance [3, h, w], attenuated by haze, on the canvas."""
    t = np.exp(-street.haze * points.z)
    street.paint.reshape(-1, 4)[points.where] = np.stack([*(radiance * t), t], -1)
    street.labels.reshape(-1)[points.where] = labels


def _cover(distance: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Return the fraction of each pixel that lies inside an edge (box filter).

    `distance` is the signed distance of the pixel's centre from the edge, positive inside. `footprint` is the size of
    the pixel.
    """
    return np.minimum(np.maximum(distance / footprint + 0.5, 0), 1)


def shade_walls(street: Street, surface: np.ndarray) -> None:
    """Shade fronts, gables, roofs and fences: compute each point's position and light, then its colour."""
    points = _surface_points(street, surface >= 8)
    code = surface.reshape(-1).take(points.where).astype(np.int32) - 8
    points.number, points.kind = code >> 2, code & 3
    gable, roof, fence = (points.kind == kind for kind in (1, 2, 3))
    x0 = np.where(fence, _palette(street.plots["wall_x"], points.number), _palette(street.plots["x"], points.number))
    z0 = _palette(street.plots["z0"], points.number)
    points.z = np.where(gable, np.maximum(z0, 0.5), np.clip(street.focal * x0 / points.u, 0.5, 200))
    x = np.where(gable, points.u * points.z / street.focal, x0)
    points.y = street.eye - points.v * points.z / street.focal
    points.along = np.where(gable, np.abs(x - x0), points.z - z0)
    # Behind an opening, a viewing ray moves this many metres along the wall per metre of depth.
    points.slant = np.where(gable, np.abs(points.u) / street.focal, points.z / np.abs(x0))
    points.pixel = points.z / (street.focal * street.side)  # size of a pixel in metres
    points.pixel_along = points.pixel * np.where(gable, 1, points.slant)

    facing = np.where(gable, -street.sun[2], -np.sign(x0) * street.sun[0])
    facing = np.where(roof, 0.6 * (facing + street.sun[1]), facing)
    sunny = np.maximum(facing, 0) * np.where(gable, 1, street.visible(x, points.y, points.z))
    openness = (0.5 + np.minimum(points.y, 9) / 18) * np.minimum(0.6 + points.y / 2, 1)
    points.light = sunny * _column(street.sunlight) + openness * _column(street.ambient)
    points.coarse = street.grain(0, points.along * 2.1 + points.number * 37, points.y * 1.3 + points.number * 11)
    for shade, mask in ((_shade_house, points.kind < 2), (_shade_roof, roof), (_shade_fence, fence)):
        if mask.any():
            shade(street, _only(points, _block(mask)))


def _shade_roof(street: Street, points: SimpleNamespace) -> None:
    tiles = 0.45 + 0.5 * points.coarse + 0.4 * street.grain(1, points.along * 5, points.y * 14)
    colour = _palette(ROOF_COLOURS, _palette(street.plots["line"], points.number))
    _put(street, points, colour * tiles * points.light, BUILDING)


def _shade_fence(street: Street, points: SimpleNamespace) -> None:
    """Shade railings, pickets, a brick wall or planks. A dim hedge is visible through railings and pickets."""
    kind, fine = _palette(street.plots["fence"], points.number), street.grain(1, points.along * 12, points.y * 18)
    gap, bar = phase(points.along, 0.16), np.abs(points.y - 0.8) < 0.05
    tone = (0.45 + 0.5 * points.coarse + 0.3 * fine) * np.where((kind == 4) & (gap < 0.03), 0.6, 1)
    hedge = _column(LEAF_COLOURS[1]) * (0.7 * fine)
    colour = np.where((kind < 3) & (gap > 0.08) & ~bar, hedge, _palette(FENCE_COLOURS, kind) * tone)
    _put(street, points, colour * points.light, FENCE)


def _shade_house(street: Street, points: SimpleNamespace) -> None:
    """Shade fronts and gables of brick, plaster or concrete, with stains, ledges, shop fronts and windows."""
    ground, storey, bay, top, sill, high, window, material, shop, line, gable = (
        _palette(street.plots[name], points.number) for name in
        ("ground", "storey", "bay", "top", "sill", "high", "window", "material", "shop", "line", "gable"))  # fmt: skip
    front, low = points.kind == 0, points.y < ground
    # Each point's bay and storey, its height above the floor, and its offset from the middle of the bay, in metres.
    points.level = np.where(low, -1, np.floor((points.y - ground) / storey))
    above = np.where(low, points.y, points.y - ground - points.level * storey)
    points.column = np.floor(points.along / bay)
    points.aside = points.along - (points.column + 0.5) * bay
    points.shop = low & front & (shop > 0)
    points.door = low & front & ((np.asarray(points.column, np.int32) + points.number & 3) == 1)
    points.half = np.where(points.shop, 0.45 * bay, np.where(points.door, 0.55, window))
    points.high = np.where(points.door, 2.3, np.where(points.shop, 1.9, high))
    points.rise = above - np.where(points.door, 0.05, np.where(points.shop, 0.55, np.where(low, 1.0, sill)))
    aside, under_top = np.abs(points.aside), top - points.y
    glazed = (front | (gable > 0)) & (under_top > 0.45)
    points.glass = _cover(np.minimum(points.rise, points.high - points.rise), points.pixel) * glazed
    points.glass *= _cover(points.half - aside, points.pixel_along)

    points.wall, points.front = (_palette(street.plots[name], points.number) for name in ("wall", "front"))
    rough = np.clip(1.2 - points.pixel_along * 7, 0, 1) * _palette(np.array([0.8, 0.22, 0.35], np.float32), material)
    fine = street.grain(1, points.along * 9 + points.number * 17, points.y * np.where(material == BRICK, 23, 9))
    drips = street.grain(0, points.along * 7 + points.number * 29, points.y * 0.35)
    tone = (0.74 + 0.52 * points.coarse) * (1 + rough * (fine - 0.5)) * (0.78 + 0.44 * drips)
    joint = (material == CONCRETE) * _cover(0.03 - np.abs(phase(points.y, storey) - 0.2), points.pixel)
    sills = glazed & ~low & (aside < points.half + 0.12)
    shaded = (sills & (np.abs(points.rise + 0.25) < 0.15)) | (np.abs(under_top - 0.52) < 0.22)
    tone *= (1 - 0.3 * joint) * (1 - 0.28 * shaded)
    trim = points.shop & ((np.abs(above - 2.98) < 0.3) | (above < 0.5))
    colour = np.where(trim, points.front * 1.2, points.wall) * tone
    belt = (line > 0) & ~low & (above < 0.16)
    pale = belt | (sills & (np.abs(points.rise + 0.07) < 0.08)) | (under_top < 0.3)
    radiance = (colour + pale * (0.24 * tone - 0.4 * colour)) * points.light
    where = _block(points.glass)
    if where.size:
        windows, flat = _only(points, where), radiance.reshape(3, -1)
        flat[:, where] += (_shade_windows(street, windows) - flat[:, where]) * windows.glass
    _put(street, points, radiance, BUILDING)


def _shade_windows(street: Street, points: SimpleNamespace) -> np.ndarray:
    """Return the radiance of windows: reveals, frames, glass that reflects the sky, curtains and lit interiors."""
    roll = street.dice(points.number, points.level, points.column)
    other = street.dice(points.column, points.number, points.level + 5)
    share, jamb = points.rise / points.high, np.minimum(0.13 * points.slant, 0.7 * points.half)
    mirrored = _column(street.horizon * 0.35 + street.zenith * 0.25)
    strength = np.clip(0.6 * roll - 0.03 + 0.25 * share + 0.06 * points.y, 0.05, 0.9)
    pane = mirrored * strength * (0.6 + 0.8 * street.grain(0, points.along * 3 + roll * 60, points.y * 5)) + 0.012
    curtain = ((np.abs(points.aside) > points.half * (1.1 - other)) | (share > 1.3 - other)) & ~points.shop
    pane += curtain * (0.16 * points.light - 0.4 * pane)
    goods = street.grain(1, points.along * 6, points.y * 6) * points.front[::-1]
    goods += 0.5 * street.grain(1, points.along * 3, points.y * 4) ** 2
    pane += points.shop * (0.25 * goods * (0.4 * points.light + 0.06) - 0.5 * pane)
    lit = np.where(points.shop, 1.4, roll < 0.25 + 0.5 * _palette(street.plots["lit"], points.number))
    glow = street.weather.lamps * lit * (0.45 + 0.75 * points.coarse) * (1 - 0.4 * curtain)
    pane += glow * (_column(LAMPLIGHT) * (1.1 - 0.3 * other) + 0.25 * goods * points.shop)

    edge = np.minimum(points.aside + points.half, points.half - jamb - points.aside)
    edge = np.minimum(edge, np.minimum(points.rise, points.high - points.rise))
    bar = np.minimum(np.abs(points.aside + jamb / 2), np.abs(points.rise - 0.62 * points.high) + 9 * points.shop)
    frame = np.maximum(_cover(0.07 - edge, points.pixel_along), _cover(0.035 - bar, points.pixel_along))
    door = points.door & ~points.shop
    wood = np.where(door, points.front, _palette(street.plots["frame"], points.number)) * points.light * 0.8
    opening = pane + (wood - pane) * np.maximum(frame, door)
    opening = np.where(points.aside > points.half - jamb, 0.55 * points.wall * points.light, opening)
    lintel = points.high - points.rise < 0.1 + 0.03 * np.clip(points.y - street.eye, 0, 9)
    return opening * np.where(lintel, 0.5, 1)


def shade_ground(street: Street, surface: np.ndarray, shadows: np.ndarray) -> None:
    """Shade the road, the pavement and the kerb, which are lit by the sun, the sky and the lamps."""
    points = _surface_points(street, (surface > 0) & (surface < 8))
    kind = surface.reshape(-1).take(points.where)
    raised = np.where(kind == 1, 0, np.float32(0.14))
    z = points.z = np.minimum(street.focal * (street.eye - raised) / np.maximum(points.v, 1e-4), 400)
    x = points.x = points.u * z / street.focal
    points.pixel = z / (street.focal * street.side)  # width of a pixel in metres
    points.pixel_ahead = points.pixel * z / street.eye
    points.coarse, points.broad = street.grain(0, x * 2.3, z * 1.4), street.grain(0, x * 0.9 + 50, z * 0.35)
    points.fine = (street.grain(1, x * 45, z * 45) - 0.5) * np.clip(1.3 - 5 * points.pixel_ahead, 0, 1)
    colour = np.where(kind == 1, _asphalt(street, points), _paving(street, points) * np.where(kind == 3, 0.85, 1))

    sun, sky, lamps = (mask.reshape(-1).take(points.where) * np.float32(1 / 255) for mask in shadows)
    sun *= street.visible(x, raised, z) * np.where(kind == 3, 0.4, max(street.sun[1], 0))
    gutter = np.where(kind == 1, np.minimum(x - street.kerbs[0], street.kerbs[1] - x) / 0.4, 1)
    sky *= 0.55 + 0.45 * np.clip(np.minimum(x - street.walls[0], street.walls[1] - x) / 5, 0, 1)
    sky *= (0.75 + 0.25 * np.clip(gutter, 0, 1)) * np.where(kind == 3, 0.6, 1)
    light = sun * _column(street.sunlight) + sky * _column(street.ambient)
    light += lamps * _column(0.9 * street.weather.lamps * LAMPLIGHT)
    soaked = 1 - 0.5 * street.wet * np.clip(1.4 - points.broad, 0.3, 1)
    _put(street, points, colour * light * soaked, np.where(kind == 1, ROAD, PAVEMENT))


def _asphalt(street: Street, points: SimpleNamespace) -> np.ndarray:
    """Return the reflectance [3, h, w] of a road with tyre tracks, patches, cracks and worn paint."""
    rng, (left, right), x, z = street.rng, street.kerbs, points.x, points.z
    half, aside = (right - left) / 2, np.abs(x - (left + right) / 2)
    lane = half if half < 4.4 else half / 2
    track = np.abs(np.abs(phase(aside, lane) - lane / 2) - 0.75)  # distance from the wheel track in metres
    tone = (0.75 + 0.2 * points.coarse + 0.35 * points.broad) * (1 + 0.8 * points.fine)
    tone *= 1 - 0.2 * np.maximum(1 - 2 * track, 0)
    for _ in range(3):
        at, ahead, wide, long_, shade = rng.uniform((left, 4, 0.4, 0.7, 0.68), (right, 40, 1.2, 3.5, 1.15)).tolist()
        tone *= np.where((np.abs(x - at) < wide) & (np.abs(z - ahead) < long_), shade, 1)
    tone *= np.where(np.abs(street.grain(0, x * 1.7 + 90, z * 1.2 + 20) - 0.5) < 0.007, 0.75, 1)

    dash, gap, wear, tint = rng.uniform((2, 2, 0.5, 0.97), (4, 5, 1.6, 1.06)).tolist()
    middle_line, edge_lines, yellow = rng.random(3) < (0.8, 0.6, 0.2)
    paint = middle_line * _cover(0.08 - aside, points.pixel) * (phase(z, dash + gap) < dash)
    paint += (lane < half) * _cover(0.07 - np.abs(aside - lane), points.pixel) * (phase(z, 6) < 2.5)
    paint += edge_lines * _cover(0.07 - np.abs(aside - half + 0.4), points.pixel)
    paint *= (z < street.crossing - 1) | (z > street.crossing + 9)
    from_zebra = np.abs(z - street.zebra)
    paint = np.where(from_zebra < 2.2, (from_zebra < 1.6) & (phase(x - left, 1.1) < 0.55), paint) * (aside < half)
    paint *= np.clip(1.5 - wear * street.grain(1, x * 5, z * 5) + 0.5 * points.coarse, 0, 1)
    bright, dark = _column((0.62, 0.42, 0.08) if yellow else (0.62, 0.62, 0.58)), _column((tint, 1.0, 2.0 - tint))
    dark = dark * np.float32(rng.uniform(0.06, 0.15))
    return (dark + (bright - dark) * paint) * tone


def _paving(street: Street, points: SimpleNamespace) -> np.ndarray:
    """Return the reflectance [3, h, w] of a pavement with slabs and joints, and of the gardens beyond the walls."""
    wide, long_, shade = street.rng.uniform((0.4, 0.4, 0.7), (0.9, 1.2, 1.0)).tolist()
    across = np.minimum(0.02 / points.pixel, 1) * (phase(points.x, wide) < np.maximum(0.025, points.pixel))
    ahead = np.minimum(0.02 / points.pixel_ahead, 1) * (phase(points.z, long_) < np.maximum(0.03, points.pixel_ahead))
    slabs = street.dice(np.floor(points.x / wide), np.floor(points.z / long_)) - 0.5
    tone = (0.7 + 0.5 * points.coarse) * (1 + 0.4 * points.fine) * (1 - 0.45 * np.maximum(across, ahead))
    tone *= 1 + 0.35 * slabs * np.clip(1.3 - 2.5 * points.pixel_ahead, 0, 1)
    garden = (points.x < street.walls[0] - 0.2) | (points.x > street.walls[1] + 0.2)
    stone = PAVING_COLOURS[street.rng.integers(len(PAVING_COLOURS))] * shade
    return _column(stone) * tone * np.where(garden, _column((0.62, 0.66, 0.42)), 1)
