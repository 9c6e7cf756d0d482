"""The objects in a street scene: trees, lamps, signs, people and cars, with their shadows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from common.samples.street_plan import (
    BARK_COLOUR,
    CAR,
    CAR_COLOURS,
    CAR_PARTS_COLOURS,
    CLOTHES_COLOURS,
    HAIR_COLOURS,
    LAMPLIGHT,
    LEAF_COLOURS,
    METAL_COLOURS,
    PEDESTRIAN,
    POLE,
    SIGN,
    SIGN_COLOURS,
    SKIN_COLOURS,
    TREE,
    Street,
    linear,
    upright,
)


def _rect(left: float, low: float, right: float, high: float) -> np.ndarray:
    return np.array([(left, low), (right, low), (right, high), (left, high)], np.float32)


def _disc(right: float, up: float, radius: float, tall: float = 1.0, corners: int = 14) -> np.ndarray:
    angle = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    return np.stack([right + radius * np.sin(angle), up - tall * radius * np.cos(angle)], 1)


def _paint_post(street: Street, x: float, z: float, high: float, thick: float, colour: np.ndarray, label: int) -> None:
    """Paint an upright post as two narrow faces that are lit differently."""
    faces = street.lit(colour, [(-0.8, 0, -0.6), (0.8, 0, -0.6)], street.visible(x, high / 2, z) * 0.8, 0.7)
    shapes = [_rect(-thick, 0.1, 0.1 * thick, high), _rect(0.1 * thick, 0.1, thick, high)]
    street.boards(x, z, shapes, faces, label)


def _paint_tree(street: Street, x: float, z: float, trunk: float, wide: float, high: float) -> None:
    """Paint a trunk and a crown. The crown consists of bunches of leaves: shaded spheres with a noise texture."""
    import cv2

    visible, middle = float(street.visible(x, trunk + high, z)), trunk + 0.92 * high
    _paint_post(street, x, z, trunk + high, 0.05 * wide + 0.03, BARK_COLOUR, TREE)
    bunches = street.rng.uniform((0, 0, 0.26), (2 * np.pi, 1, 0.48), (16, 3)).astype(np.float32)
    drift, vigour = street.rng.uniform((0, 0.85), (128, 1.15)).tolist()
    (x0, y0), (x1, y1) = (
        street.pixels([(x + side * 1.1 * wide, middle - side * 1.1 * high, z) for side in (-1, 1)]) // 16
    ).tolist()
    x1, y1 = max(x1, x0 + 2), max(y1, y0 + 2)
    rows, columns = slice(max(y0, 0), max(y1, 0)), slice(max(x0, 0), max(x1, 0))
    paint, labels = street.paint[rows, columns], street.labels[rows, columns]
    if not labels.size:
        return

    angle, far, radius = bunches.T[:, :, None, None]
    across, up = np.linspace(-1.1, 1.1, 40, dtype=np.float32), np.linspace(1.1, -1.1, 40, dtype=np.float32)[:, None]
    lift = 0.7 * np.sqrt(far) * np.sin(angle)
    right, above = (across - 0.7 * np.sqrt(far) * np.cos(angle)) / radius, (up - lift) / radius
    bulge = 1 - right**2 - above**2
    ball = np.maximum(bulge, 1e-3)
    facing = right * street.sun[0] + above * street.sun[1] - np.sqrt(ball) * street.sun[2]
    weight = (ball * (1.3 - 0.86 * lift)) ** 5  # lower bunches hang in front of higher ones
    weight /= weight.sum(0)
    light = 0.6 * (weight * facing).sum(0) + 0.4 * (across * street.sun[0] + up * street.sun[1])
    openness = np.clip(0.6 + 0.33 * up + 0.22 * (weight * above).sum(0), 0.15, 1)
    maps = cv2.resize(cv2.merge([bulge.max(0), light, openness]), (x1 - x0, y1 - y0))

    top, left = rows.start - y0, columns.start - x0
    mine = slice(top, top + labels.shape[0]), slice(left, left + labels.shape[1])
    bulge, light, openness = np.moveaxis(maps[mine], -1, 0)
    down = np.linspace(drift, drift + 40 * high, y1 - y0, dtype=np.float32)[mine[0], None]
    along = np.linspace(0, 40 * wide, x1 - x0, dtype=np.float32)[mine[1]]
    leaf, bunch = street.grain(1, along, down), street.grain(0, along * 0.5, down * 0.5)
    solid = bulge + 1.2 * (leaf - 0.5) + 0.8 * (bunch - 0.5) > 0.2
    bulge, light, openness, leaf = (a[solid] for a in (bulge, light, openness, leaf))
    direct = np.clip(light + 0.2 + 1.1 * (leaf - 0.5), 0.03, 1.2) * (0.8 * visible)
    through = (0.45 * visible * max(street.sun[2], 0)) * np.clip(0.8 - bulge, 0, 1)  # light through the leaves
    sunny = direct[:, None] + through[:, None] * np.array((0.9, 1.0, 0.3), np.float32)
    green = LEAF_COLOURS[int(street.haze * 1e7) % len(LEAF_COLOURS)] * vigour * float(np.exp(-street.haze * z))
    shade = openness * (0.3 + 0.9 * leaf)
    paint[solid, :3] = green * (sunny * street.sunlight + shade[:, None] * street.ambient)
    paint[solid, 3] = np.exp(-street.haze * z)
    labels[solid] = TREE


def _paint_lamp(street: Street, x: float, z: float) -> None:
    """Paint a street lamp or, with 30 % probability, a traffic light on a post."""
    rng, visible, metal = street.rng, street.visible(x, 3.0, z), METAL_COLOURS[int(street.haze * 1e6) % 3]
    if rng.random() < 0.3:
        _paint_post(street, x, z, 3.4, 0.07, metal, POLE)
        lights = linear("FF2A1A FFA010 20E070") * np.where(np.arange(3) == rng.integers(3), 2.5, 0.06)[:, None]
        shapes = [_rect(-0.2, 2.4, 0.2, 3.5), *(_disc(0, up, 0.12) for up in (3.28, 2.94, 2.6))]
        case = street.lit(0.4 * METAL_COLOURS[2], (0, 0.3, -0.9), visible)
        return street.boards(x, z, shapes, np.concatenate([case, lights]), SIGN)
    high, arm = rng.uniform(5.5, 8), rng.uniform(0.8, 1.8) * (1 if x < sum(street.kerbs) / 2 else -1)
    _paint_post(street, x, z, high, 0.085, metal, POLE)
    bracket = np.array([(0, high - 0.1), (arm, high + 0.25), (arm, high + 0.36), (0, high + 0.08)])
    head = _rect(arm - 0.4, high + 0.2, arm + 0.4, high + 0.38)
    bulb = _rect(arm - 0.34, high + 0.12, arm + 0.34, high + 0.22)
    dark = street.lit(metal * 0.7, (0, 0.3, -0.9), visible)
    glow = LAMPLIGHT * (6 if street.weather.lamps > 0.5 else 0.5)
    return street.boards(x, z, [bracket, head, bulb], np.stack([dark[0], dark[0], glow]), POLE)


def _paint_sign(street: Street, x: float, z: float) -> None:
    """Paint a traffic sign on a post (a ring, a triangle, a disc or a board), or a shop sign on a wall."""
    rng, (red, blue, white, black, yellow) = street.rng, range(5)
    up, size, shape = rng.uniform(2.4, 2.7), rng.uniform(0.34, 0.45), int(rng.integers(4))
    if on_wall := not street.walls[0] + 0.5 < x < street.walls[1] - 0.5:
        shape, up, size = 3, rng.uniform(2.9, 3.6), rng.uniform(0.35, 0.6)
    else:
        _paint_post(street, x, z, up, 0.045, METAL_COLOURS[1], POLE)
    if shape == 3:
        ground = rng.choice((blue, yellow, white, red, black))
        ink = black if ground in (yellow, white) else white
        shapes = [_rect(-size * w, up - size * h, size * w, up + size * h) for w, h in ((1.3, 1), (1.22, 0.92))]
        for low in (-0.5, -0.05, 0.4):
            shapes.append(_rect(-size, up + low * size, size * rng.uniform(0.2, 1), up + (low + 0.22) * size))
        colours = [white, ground, ink, ink, ink]
    else:
        corners, wide, narrow = ((14, 1, 0.7), (3, 1.25, 0.75), (14, 1, 0.92))[shape]
        outer, inner = (white, blue) if shape == 2 else (red, white)
        shapes = [_disc(0, up, size * part, 1, corners) for part in (wide, narrow)]
        shapes.append(_rect(-0.06, up - 0.15, 0.06, up + 0.15))
        colours = [outer, inner, black if inner == white else white]
    paint = SIGN_COLOURS[colours]
    radiance = street.lit(paint, (0, 0.2, -0.98), street.visible(x, up, z) * (0.3 if on_wall else 1)) + 0.05 * paint
    street.boards(x, z, shapes, radiance, SIGN)


def _paint_person(street: Street, x: float, z: float) -> None:
    """Paint a walking or standing person. The left and right halves of each shape are lit differently."""
    rng = street.rng
    tall, stride, wide, hem = rng.uniform((1.55, 0.02, 0.19, 0.34), (1.88, 0.3, 0.25, 0.5)).tolist()
    coat, legs, bag = CLOTHES_COLOURS[rng.choice(len(CLOTHES_COLOURS), 3, replace=False)]
    skin, hair, swing = SKIN_COLOURS[rng.integers(4)], HAIR_COLOURS[rng.integers(4)], 0.4 * stride
    shapes: list[Any] = [  # x in metres, y as a fraction of the height: legs, coat, arms, neck, head, hair, bag
        [(-0.02, 0.5), (0.13, 0.5), (0.04 + stride, 0.04), (-0.09 + stride, 0.04)],
        [(-0.13, 0.5), (0.03, 0.5), (0.08 - stride, 0.04), (-0.05 - stride, 0.04)],
        [(-0.85 * wide, hem), (0.85 * wide, hem), (wide, 0.78), (0.6 * wide, 0.84), (-0.6 * wide, 0.84), (-wide, 0.78)],
        [(0.7 * wide, 0.82), (wide + 0.06, 0.76), (wide + 0.04 + swing, 0.5), (wide - 0.03 + swing, 0.5)],
        [(-0.7 * wide, 0.82), (-wide - 0.06, 0.76), (-wide - 0.04 - swing, 0.5), (-wide + 0.03 - swing, 0.5)],
        _rect(-0.05, 0.82, 0.05, 0.88), _disc(0, 0.93, 0.095, 0.65, 10), _disc(-0.03, 0.945, 0.1, 0.6, 10),
        _rect(0.2, 0.32, 0.42, 0.5),
    ][: 9 if rng.random() < 0.35 else 8]  # fmt: skip
    colours = np.stack([legs, legs * 0.7, coat, coat * 0.8, coat * 0.85, skin * 0.7, skin, hair, bag])[: len(shapes)]
    lengths = np.array([len(shape) for shape in shapes])
    whole = np.concatenate(shapes) * (rng.choice((-1, 1)), tall)
    middles = np.add.reduceat(whole[:, 0], np.cumsum(lengths) - lengths) / lengths
    right = np.stack([np.maximum(whole[:, 0], middles.repeat(lengths)), whole[:, 1]], 1)
    points = upright(np.concatenate([whole, right]), x, z)
    sides = [street.lit(colours, (side, 0.1, -0.7), street.visible(x, 1.0, z)) for side in (-0.7, 0.7)]
    order = np.arange(2 * len(shapes)).reshape(2, -1).T.ravel().tolist()
    street.fill(points, [*lengths, *lengths], np.concatenate(sides), PEDESTRIAN, order)


BODY, EDGE, GLASS, FLOOR = range(4)  # surfaces between consecutive corners of a car's profile
CAR_PROFILES = tuple(np.array(profile, np.float32) for profile in (  # metres from front, metres up, surface
    ((0, 0.32, EDGE), (0, 0.62, BODY), (0.12, 0.78, BODY), (1.15, 0.95, GLASS), (1.9, 1.42, BODY), (3.15, 1.44, GLASS),
     (3.95, 1.02, BODY), (4.4, 0.95, EDGE), (4.44, 0.34, FLOOR)),  # a saloon
    ((0, 0.32, EDGE), (0, 0.64, BODY), (0.12, 0.80, BODY), (1.0, 0.98, GLASS), (1.7, 1.48, BODY), (3.3, 1.50, GLASS),
     (3.85, 1.02, EDGE), (3.95, 0.34, FLOOR)),  # a hatchback
    ((0, 0.40, EDGE), (0, 0.80, BODY), (0.12, 0.98, BODY), (1.1, 1.10, GLASS), (1.7, 1.68, BODY), (4.2, 1.72, GLASS),
     (4.5, 1.12, EDGE), (4.55, 0.42, FLOOR)),  # an estate
    ((0, 0.38, EDGE), (0, 0.85, BODY), (0.10, 1.05, BODY), (0.6, 1.20, GLASS), (1.2, 2.00, BODY), (4.7, 2.05, GLASS),
     (4.8, 1.25, EDGE), (4.85, 0.40, FLOOR)),  # a van
))  # fmt: skip


def _inset(quad: np.ndarray, left: float, low: float, right: float, high: float) -> np.ndarray:
    """Return a part of a quad, with limits in 0..1. Corner order: lower left, lower right, upper right, upper left."""
    across, up = _rect(left, low, right, high).T[:, :, None]
    bottom, top = quad[0] + across * (quad[1] - quad[0]), quad[3] + across * (quad[2] - quad[3])
    return bottom + up * (top - bottom)


class CarParts(NamedTuple):
    """The polygons of a car that stands at the origin and faces ahead."""

    points: np.ndarray  # [m, 3] corners of all polygons in metres
    lengths: list[int]
    normals: np.ndarray  # [parts, 3]; zero if the part is visible from all sides
    faces: np.ndarray  # [parts, 3] centre of the face that a part lies on; far faces are painted first
    paints: np.ndarray  # [parts] index of the colour in (body colour, *CAR_PARTS_COLOURS)
    shine: np.ndarray  # [parts, 2] weight of the paint, weight of the reflected sky


def _car_sides(kind: int) -> np.ndarray:
    """Return the corners of a car's left and right flanks, [2, n, 3] in metres, computed from its profile."""
    behind, up, _ = CAR_PROFILES[kind].T
    half = 0.88 - 0.2 * np.clip((up - 0.98) / 0.5, 0, 1) * (kind < 3)
    return np.stack(np.broadcast_arrays([-half, half], up, behind.max() / 2 - behind), -1)


@functools.cache
def _car_parts(kind: int) -> CarParts:
    """Return the visible parts of a car: the flanks with windows and wheels, then the faces from bumper to bumper."""
    parts: list[tuple] = []
    what, sides, (body, glass, tyre, rim, plate, head, tail) = CAR_PROFILES[kind][:, 2], _car_sides(kind), range(7)

    def add(points: np.ndarray, face: tuple, paint: int, share: float = 1.0, mirror: float = 0.0) -> None:
        parts.append((points, *face, paint, (share, mirror)))

    def glaze(pane: np.ndarray, face: tuple) -> None:
        add(pane, face, glass, 1, 0.07)
        add(_inset(pane, 0, 0.45, 1, 1), face, glass, 1, 0.18)

    ring = _disc(0, 0, 0.32, 1, 12)[:, [0, 1, 0]] * (0, 1, 1)
    for side in sides:
        sign = np.sign(side[0, 0])
        face = (sign, 0, 0), side.mean(0) * (1, 1, 0)
        hubs = [side[0] * (1, 0, 1 - 2 * at) + (0, 0.32, 0) for at in (0.19, 0.8)]
        for hub in hubs:
            for inward in (0.24, 0.0):
                add(ring + hub - (sign * inward, 0, 0), ((0, 0, 0), (0, 0, 0)), tyre, 0.3)
        add(side, face, body, 1, 0.04)
        for below, share in ((0.66, 0.7), (0.46, 0.25)):  # the lower flank gets less light, so it is darker
            add(np.minimum(side, (9, below, 9)), face, body, share)
        screen, rear = np.flatnonzero(what == GLASS)
        panes = side[[screen, rear + 1, rear, screen + 1]]
        add(_inset(panes, -0.3, -0.12, 1.15, 0.0), face, body, 1.25, 0.12)
        glaze(_inset(panes, 0.08, 0.10, 0.5, 0.86), face)
        glaze(_inset(panes, 0.54, 0.10, 0.92, 0.86), face)
        for hub in hubs:
            for size, paint, share in ((1.18, tyre, 0.2), (1.0, tyre, 1), (0.62, rim, 1), (0.25, rim, 0.3)):
                add(ring * size + hub + (0.01 * sign, 0, 0), face, paint, share)
    for number in np.flatnonzero(what != FLOOR):
        quad = np.stack([*sides[:, number], *sides[::-1, number + 1]])
        normal = np.cross((1, 0, 0), quad[3] - quad[0]) / np.linalg.norm(quad[3] - quad[0])
        face, front = (normal, quad.mean(0)), normal[2] > 0
        quad = quad if quad[3, 1] > quad[0, 1] else quad[::-1]
        add(quad, face, body, 1, 0.05 + 0.2 * max(0.0, normal[1]))
        if what[number] == GLASS:
            glaze(_inset(quad, 0.07, 0.08, 0.93, 0.92), face)
        elif what[number] == EDGE:
            add(_inset(quad, 0, 0, 1, 0.3), face, body, 0.25)
            add(_inset(quad, 0.37, 0.3, 0.63, 0.48), face, plate)
            add(_inset(quad, 0.27, 0.6, 0.73, 0.88), face, glass if front else body, 0.8, 0.03)
            for left, right in ((0.04, 0.18), (0.82, 0.96)):
                add(_inset(quad, left, 0.6, right, 0.9), face, head if front else tail)
    points, normals, faces, paints, shine = zip(*parts, strict=True)
    return CarParts(np.concatenate(points), [len(p) for p in points], *map(np.array, (normals, faces, paints, shine)))


def _turned(points: np.ndarray, heading: float) -> np.ndarray:
    sine, cosine = np.sin(heading), np.cos(heading)
    return points @ np.array([(cosine, 0, -sine), (0, 1, 0), (sine, 0, cosine)])


def _paint_car(street: Street, x: float, z: float, kind: int, heading: float) -> None:
    """Paint the parts of a car that face the camera, from far to near."""
    car, rng = _car_parts(kind), street.rng
    normals, faces = _turned(car.normals, heading), _turned(car.faces, heading) + (x, -street.eye, z)
    inner = ~car.normals.any(1)
    order = np.argsort(np.where(inner, -1e3, -np.hypot(faces[:, 0], faces[:, 2])), kind="stable")
    order = order[(inner | ((normals * faces).sum(1) < 0))[order]].tolist()
    paint = np.concatenate([CAR_COLOURS[[rng.integers(len(CAR_COLOURS))]], CAR_PARTS_COLOURS])[car.paints]
    lamps = 0.06 + 3 * (rng.random() < 0.8 * street.weather.lamps)
    radiance = street.lit(paint * car.shine[:, :1], normals, street.visible(x, 0.9, z))
    radiance += paint * (car.paints > 4)[:, None] * lamps + car.shine[:, 1:] * (street.zenith + street.horizon) / 2
    street.fill(_turned(car.points, heading) + (x, 0, z), car.lengths, radiance, CAR, order)


def plan_things(street: Street) -> list[tuple[float, float, Callable, tuple]]:
    """Return random objects, from far to near, as (metres ahead, metres to the right, paint function, arguments)."""
    rng, (left, right), things = street.rng, street.kerbs, []

    def put(paint: Callable, x: float, z: float, *shape: float) -> None:
        free = paint in (_paint_person, _paint_sign) or abs(z - street.crossing - 4) > 7
        if free and z < 100 and (paint is not _paint_car or abs(z - street.zebra) > 5):
            things.append((float(z), float(x), paint, shape))

    def kind() -> int:
        return int(rng.choice(4, p=(0.35, 0.35, 0.2, 0.1)))

    trees, people = rng.random() < 0.6, rng.choice((2, 5, 9))
    for side, kerb, wall in ((-1, left, street.walls[0]), (1, right, street.walls[1])):
        for z in np.arange(rng.uniform(7, 12), 90, rng.uniform(7, 13)):
            if trees and rng.random() < 0.85:  # height of the bare trunk, half-width and half-height of the crown
                shape = rng.uniform((2.0, 1.5, 1.6), (2.9, 2.7, 3.2)).tolist()
                put(_paint_tree, kerb + side * rng.uniform(0.7, 1.1), z + rng.uniform(-0.7, 0.7), *shape)
        for z in np.arange(rng.uniform(6, 20), 80, rng.uniform(14, 24)):
            put(_paint_lamp, kerb + side * 0.5, z)
        for z in rng.uniform(5, 40, rng.integers(1, 4)):
            put(_paint_sign, kerb + side * rng.uniform(0.35, 0.8), z)
        for z in rng.uniform(9, 45, rng.integers(0, 3)):
            put(_paint_sign, wall - side * 0.45, z)
        for z in rng.uniform(5, 38, people):
            put(_paint_person, kerb + side * rng.uniform(0.8, abs(wall - kerb) - 0.4), z)
        heading, z = 0.0 if side > 0 else np.pi, rng.uniform(6.5, 14)
        while rng.random() < 0.85:
            if abs(kerb - side * 1.05) > 2.2 - z / 10:
                put(_paint_car, kerb - side * 1.05, z, kind(), heading)
            z += rng.uniform(5.6, 12)
        for z in rng.uniform(9, 60, rng.integers(0, 3)):
            lane = (left + right) / 2 + side * min((right - left) / 4, 1.8)
            put(_paint_car, lane, z, kind(), heading + rng.normal(0, 0.03))
    if rng.random() < 0.5 and street.crossing < 100:
        across = kind(), rng.choice((-1, 1)) * np.pi / 2
        things.append((street.crossing + 4, rng.uniform(left, right), _paint_car, across))
    for z in street.zebra + rng.uniform(-1, 1, rng.integers(0, 4)):
        put(_paint_person, rng.uniform(left, right), z)
    return sorted(things, key=lambda thing: -thing[0])


def cast_shadows(street: Street, things: list[tuple]) -> np.ndarray:
    """Return maps of sunlight, skylight and lamplight on the ground: uint8 [3, side, side]."""
    import cv2

    masks = np.full((3, street.side, street.side), 255, np.uint8)
    masks[2] = 0
    ring = _disc(0, 0, 1)[:, [0, 0, 1]] * (1, 0, 1)
    ball = np.concatenate([_disc(0, 0, 1, 1, 8)[:, [0, 1, 1]] * (1, 1, 0) + (0, 0, ahead) for ahead in (-0.6, 0.6)])
    slope = np.array(street.sun) / max(street.sun[1], 0.1)
    sizes = {_paint_person: (0.2, 1.7), _paint_lamp: (0.08, 6.0), _paint_sign: (0.05, 2.8), _paint_tree: (0.12, 2.5)}

    fills: list[tuple] = []  # map, flat shape on the ground, value
    for z, x, paint, form in things:
        if paint is _paint_car:
            hulls = [_turned(_car_sides(form[0]).reshape(-1, 3), form[1])]
            foot = _turned(ring * (1.2, 0, 2.5), form[1])
        else:
            hulls, foot = [upright(_rect(-1, 0, 1, 1) * sizes[paint], 0, 0)], ring * 0.35
        if paint is _paint_tree:
            hulls.append(ball * (form[1], form[2] * 0.9, form[1]) + (0, form[0] + form[2], 0))
        if paint is _paint_lamp:
            inward = 1.2 if x < sum(street.kerbs) / 2 else -1.2
            fills.append((masks[2], ring * (2.6, 0, 3) + (x + inward, 0.05, z), 255))
        fills.append((masks[1], foot + (x, 0.05, z), 80 if paint is _paint_car else 150))
        for hull in hulls:
            flat = hull - hull[:, 1:2] * slope + (x, 0.1, z)
            flat[:, 0], flat[:, 2] = flat[:, 0].clip(*street.walls), np.maximum(flat[:, 2], 1.5)
            fills.append((masks[0], flat, 0))
    for (mask, _, value), outline in zip(fills, street.outlines([shape for _, shape, _ in fills]), strict=True):
        cv2.fillPoly(mask, [cv2.convexHull(outline)], value, shift=4)
    soft = street.side // 80
    for mask, width, height in zip(masks, (1, 6, 12), (1, 2, 4), strict=True):
        cv2.blur(mask, (width * soft + 1, height * soft + 1), dst=mask)
    return masks
