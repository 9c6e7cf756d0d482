"""The built-in data sets that the recipes use with `--data sample`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from common.images.pixels import colour_labels
from common.samples.clothes import CLOTHES_CLASSES, synthetic_clothes
from common.samples.digits import DIGITS, held_out_digits
from common.samples.faces import FACE_ATTRIBUTES, FACE_CLASSES, PORTRAITS, face_classes, synthetic_faces
from common.samples.handwriting import STYLES, handwritten_digits
from common.samples.photos import photo_squares
from common.samples.seasons import synthetic_seasons, unpaired_seasons
from common.samples.sketches import sketch_pairs
from common.samples.streets import street_pairs
from common.system.console import noted_if_slow

Sample = str | Callable[[], Any]
"""The name of a built-in data set, or a function that returns the arrays of a data set."""


POSES = np.linspace(0.3, 0.7, 20)  # `looking_left` of frontal faces


def _streets(size: int, seed: int) -> Any:
    labels, photos = street_pairs(440, size, seed, clear=True)
    return colour_labels(labels), photos


def _sketches(size: int, seed: int) -> Any:
    return sketch_pairs(540, seed, size)


def _clothes(size: int, seed: int) -> Any:
    return synthetic_clothes(5000, seed, size)


@functools.lru_cache(maxsize=1)
def _written(write: Callable[..., tuple[np.ndarray, ...]], count: int, size: int, seed: int) -> tuple[np.ndarray, ...]:
    arrays = write(count, seed, size)
    for array in arrays:
        array.flags.writeable = False  # later calls return the same arrays
    return arrays


def _handwriting(size: int, seed: int, count: int = 6000) -> tuple[np.ndarray, ...]:
    return _written(handwritten_digits, count, size, seed)


def _digits(size: int, seed: int) -> Any:
    return _handwriting(size, seed)[:2]


def _many_digits(size: int, seed: int) -> Any:
    return _handwriting(size, seed, 18_000)[:2]


def _held_out_digits(size: int, seed: int) -> Any:
    return held_out_digits()


def _faces(size: int, seed: int) -> Any:
    return synthetic_faces(3000, seed, size)


def _portraits(size: int, seed: int) -> Any:
    return synthetic_faces(1500, seed, size, **PORTRAITS)


def _frontal_faces(size: int, seed: int) -> Any:
    """Return 3,000 faces that are turned by at most 12 degrees: 150 for each of 20 poses, in mixed order."""
    sets = [synthetic_faces(150, 20 * seed + number, size, looking_left=pose) for number, pose in enumerate(POSES)]
    order = np.random.default_rng(seed).permutation(sum(len(images) for images, _ in sets))
    images, labels = (np.concatenate(parts)[order] for parts in zip(*sets, strict=True))
    return images, labels


def _face_classes(size: int, seed: int) -> Any:
    return face_classes(500, seed, size)


def _seasons(size: int, seed: int) -> Any:
    return unpaired_seasons(300, seed, size), synthetic_seasons(40, seed, size)


def _photos(size: int, seed: int) -> Any:
    images = np.concatenate([synthetic_seasons(120, seed, size)[0], photo_squares(size)])
    return images[np.random.default_rng(seed).permutation(len(images))]


SETS: dict[str, Callable[[int, int], Any]] = {
    "clothes": _clothes,  # 5,000 images of clothes, uint8 [5000, size, size, 1], and their integer labels
    "digits": _digits,  # 6,000 handwritten digits by 600 writers, uint8 [6000, size, size, 1], and their integer labels
    "many_digits": _many_digits,  # 18,000 of them, for GANs, whose discriminators would memorise a few thousand
    "photos": _photos,  # crops of scikit-image's photographs, and synthetic landscapes, uint8 [495, size, size, 3]
    "faces": _faces,  # 3,000 faces, uint8 [3000, size, size, 3], and nine attributes per face, uint8 [3000, 9]
    "frontal_faces": _frontal_faces,  # 3,000 faces that are turned by at most 12 degrees, and nine attributes per face
    "face_classes": _face_classes,  # 4,000 portraits with or without hat, glasses and smile, and integer labels
    "portraits": _portraits,  # 1,500 young faces with short hair, and nine attributes per face; half have glasses
    "held_out_digits": _held_out_digits,  # 400 handwritten digits of writers that the bundled classifier does not know
    "seasons": _seasons,  # landscapes in summer and winter: 300 unpaired images per season, then 40 pairs
    "sketches": _sketches,  # 540 coloured sketches of faces, and the portraits, uint8 [540, size, size, 3] each
    "streets": _streets,  # 440 coloured label maps of streets, and the matching photos, uint8 [440, size, size, 3] each
}
SET_CLASSES = {"clothes": CLOTHES_CLASSES, "digits": DIGITS, "held_out_digits": DIGITS, "faces": FACE_ATTRIBUTES}
SET_CLASSES["frontal_faces"] = FACE_ATTRIBUTES
SET_CLASSES["many_digits"] = DIGITS
SET_CLASSES["face_classes"] = tuple(FACE_CLASSES)
SET_CLASSES["portraits"] = FACE_ATTRIBUTES


def sample_styles(sample: Sample, size: int, seed: int) -> dict[str, np.ndarray]:
    """Return how each image of a built-in data set was written: name of the style -> float32 [n]. Only for `digits`."""
    return dict(zip(STYLES, _handwriting(size, seed)[2].T, strict=True)) if sample == "digits" else {}


def synthetic(sample: Sample, size: int, seed: int) -> Any:
    """Return the arrays of a built-in data set: `sample` is a name in `SETS`, or a function. `size` is in pixels."""
    with noted_if_slow("creating the built-in images"):
        return SETS[sample](size, seed) if isinstance(sample, str) else sample()
