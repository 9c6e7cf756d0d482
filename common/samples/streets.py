"""Synthetic street scenes: pairs of a label map and a photo. They need no download.

The seed determines a plan in metres: camera, plots, objects and light. The camera projects the plan onto a canvas with
two or three times the image resolution. Ground and walls are shaded per pixel. Trees, posts, cars and people are
painted over them from far to near, as shaded polygons and bunches of leaves. The photo and the label map are made from
the same canvas, so their edges match. The photo is downsampled by area averaging, and the label map by
nearest-neighbour sampling.

The light model uses linear RGB. A surface with reflectance r and normal n, at a distance of z metres in air of colour
a, has the radiance
    (r * (sun * max(0, n . s) * visible + ambient * openness) + emission) * t + a * (1 - t),   t = exp(-haze * z)
where s is the direction of the sun, `visible` is the fraction of the sun that is not hidden by roofs or objects, and
`openness` is the visible fraction of the sky. Wet ground adds a reflection. Bloom, exposure, vignetting, a filmic tone
curve and sensor noise are applied at image resolution.
"""

from __future__ import annotations

import math

import numpy as np

from common.samples.street_plan import (
    BUILDING,
    CAR,
    FENCE,
    PAVEMENT,
    PEDESTRIAN,
    POLE,
    ROAD,
    SIGN,
    SKY,
    STREET_CLASSES,
    TREE,
    WEATHERS,
    Street,
    noise_tiles,
    plan_plots,
)
from common.samples.street_surfaces import lay_surfaces, paint_sky, shade_ground, shade_walls
from common.samples.street_things import cast_shadows, plan_things

__all__ = [
    "BUILDING",
    "CAR",
    "FENCE",
    "PAVEMENT",
    "PEDESTRIAN",
    "POLE",
    "ROAD",
    "SIGN",
    "SKY",
    "STREET_CLASSES",
    "TREE",
    "draw_street",
    "street_pairs",
]


def _develop(street: Street, labels: np.ndarray, seed: int) -> np.ndarray:
    """Convert radiance to a uint8 RGB photo: haze, sun, wet ground, bloom, exposure, vignetting, tone curve, noise."""
    import cv2

    size = len(labels)
    small = cv2.resize(street.paint, (size, size), interpolation=cv2.INTER_AREA)
    v, u = ((np.mgrid[0:size, 0:size] + 0.5) / size).astype(np.float32)
    across, up = (u - street.vanish[0]) / street.focal, (street.vanish[1] - v) / street.focal
    toward = across * street.sun[0] + up * street.sun[1] + street.sun[2]
    toward = np.maximum(toward, 0) / np.sqrt(across**2 + up**2 + 1)
    halo, disc = (toward**12)[..., None], (toward**300)[..., None]
    image = small[..., :3] + (street.horizon + 0.25 * street.sunlight * halo) * (1 - small[..., 3:])
    image += (labels == SKY)[..., None] * street.sunlight * (0.3 * halo + 2.5 * disc)
    if street.wet:
        rows = np.clip(2 * street.vanish[1] * size - np.arange(size), 0, size - 1).astype(int)
        mirrored = cv2.blur(image[rows], (max(size // 24, 1), max(size // 8, 1)))
        depth = 1 / np.maximum(-up, 0.02)
        puddles = np.clip(street.grain(0, across * depth * 7, depth * 3) * 2 - 0.3, 0.2, 1)
        grazing = 0.15 + 0.75 * np.clip(1 + 2.2 * up, 0, 1) ** 2
        ground = (labels == ROAD) | (labels == PAVEMENT)
        image += (mirrored - 0.6 * image) * (street.wet * ground * grazing * puddles)[..., None]
    bright = cv2.resize(np.clip(image - 1.1, 0, 6), (32, 32), interpolation=cv2.INTER_AREA)
    bloom = 0.25 * cv2.GaussianBlur(bright, (0, 0), 1) + 0.12 * cv2.GaussianBlur(bright, (0, 0), 3.5)
    image += cv2.resize(bloom, (size, size), interpolation=cv2.INTER_CUBIC)
    image *= 0.62 * float(image.mean()) ** -0.55
    image *= 1 - 0.55 * ((u - 0.5) ** 2 + (v - 0.5) ** 2)[..., None]
    image = np.maximum(image, 0)
    image = image * (2.51 * image + 0.03) / (image * (2.43 * image + 0.59) + 0.14)  # filmic tone curve
    image = np.sqrt(np.minimum(image, 1)) * 255
    image += 2 * np.random.default_rng([seed, 1]).standard_normal(image.shape, np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def draw_street(seed: int, size: int, clear: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the label map and the photo of one scene.

    Args:
        seed: random seed of the scene, 0 or more. The scene is the same at any size.
        size: height and width in pixels, 64 to 256.
        clear: use the light of a clear day instead of random weather.

    Returns:
        The label map, uint8 [size, size], as indices of `STREET_CLASSES`, and the photo, RGB uint8 [size, size, 3].
    """
    rng = np.random.default_rng([seed])
    kind = rng.choice(len(WEATHERS), p=[weather.share for weather in WEATHERS])
    weather = WEATHERS[0 if clear else kind]
    azimuth, elevation = rng.uniform(-math.pi, math.pi), math.radians(rng.uniform(*weather.elevation))
    flat = math.cos(elevation)
    sun = math.sin(azimuth) * flat, math.sin(elevation), math.cos(azimuth) * flat
    middle, half = rng.uniform(-2.5, 2.5), rng.uniform(2.8, 5.6)
    kerbs = middle - half, middle + half
    walls = kerbs[0] - rng.uniform(1.8, 4), kerbs[1] + rng.uniform(1.8, 4)
    crossing = rng.uniform(14, 50) if rng.random() < 0.5 else 500.0
    zebra = (crossing - 3 if crossing < 100 else rng.uniform(8, 30)) if rng.random() < 0.5 else 500.0
    step = 3 if size <= 128 else 2
    street = Street(
        rng=rng,
        side=size * step,
        vanish=(rng.uniform(0.36, 0.64), rng.uniform(0.44, 0.56)),
        focal=rng.uniform(0.75, 1.05),
        eye=rng.uniform(1.5, 2.3),
        kerbs=kerbs,
        walls=walls,
        crossing=crossing,
        zebra=zebra,
        weather=weather,
        sun=sun,
        haze=rng.uniform(*weather.haze),
        wet=rng.uniform(0.5, 1) * (rng.random() < weather.wet),
        plots=plan_plots(rng, walls, crossing),
        noise=noise_tiles(rng),
    )
    things = plan_things(street)
    surface = lay_surfaces(street)
    paint_sky(street)
    shade_ground(street, surface, cast_shadows(street, things))
    shade_walls(street, surface)
    for z, x, paint, shape in things:
        paint(street, x, z, *shape)
    labels = street.labels[step // 2 :: step, step // 2 :: step].copy()
    return labels, _develop(street, labels, seed)


def street_pairs(
    count: int, size: int, seed: int = 0, first: int = 0, clear: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scenes `first` to `first + count - 1` of an endless sequence of different scenes.

    Args:
        count: the number of scenes, 1 or more.
        size: height and width in pixels, 64 to 256.
        seed: random seed of the sequence, 0 or more. Sequences with different seeds have no scenes in common.
        first: index of the first scene, below 2**32.
        clear: use the light of a clear day for all scenes.

    Returns:
        Label maps, uint8 [count, size, size], and photos, RGB uint8 [count, size, size, 3]; see `draw_street`.
    """
    pairs = [draw_street(seed * 2**32 + first + number, size, clear) for number in range(count)]
    return np.stack([labels for labels, _ in pairs]), np.stack([photo for _, photo in pairs])
