"""Synthetic colour images of faces with known attributes. Each attribute can be set independently.

Coordinates are relative to the point between the eyes: x points right, y down and z towards the viewer. A unit is about
half the width of a head. All features lie on the front of an ellipsoid. When the head turns, the ellipsoid rotates, so
the features shift and the far cheek becomes narrower. The surface of the skin is a height field: the ellipsoid plus
smooth bumps for nose, brow, cheeks, lips and chin. It is lit by one lamp. Soft-edged shapes are painted over the skin
from back to front, at twice the image resolution. The canvas is then downsampled, and sensor noise is added.

One random seed defines the person (the "sitter"). Another defines the "moment": expression, gaze, pose, light and
background. Each attribute, and each part that belongs to the person, has a separate random generator. You can therefore
change one attribute and keep everything else, or show two people at the same moment.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from common.samples.face_parts import (
    hair_map,
    lit_skin,
    paint_back_hair,
    paint_background,
    paint_beard,
    paint_brows,
    paint_eyes,
    paint_front_hair,
    paint_glasses,
    paint_hat,
    paint_head,
    paint_lines,
    paint_mouth,
    paint_nose,
    paint_shoulders,
)
from common.samples.face_portrait import Portrait


class FaceAttribute(NamedTuple):
    """The frequency of an attribute, and the ranges of its strength when it is absent or present."""

    frequency: float
    absent: tuple[float, float]
    present: tuple[float, float]
    momentary: bool = False  # True if the attribute belongs to the moment, not to the sitter


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
PORTRAITS: dict[str, Any] = {  # options of `synthetic_faces` for fewer kinds of faces, which are easier to generate
    "uniform": True,
    "noise": 0.0,
    "looking_left": (0.3, 0.7),
    **dict.fromkeys(("smile", "glasses", "blond", "dark_skin", "bright_background"), (0.0, 1.0)),
    **dict.fromkeys(("beard", "hat", "old"), 0.0),
}

FACE_CLASSES: dict[str, tuple[str, ...]] = {  # the attributes of each class of `face_classes`
    "plain": (),
    "smile": ("smile",),
    "glasses": ("glasses",),
    "glasses smile": ("glasses", "smile"),
    "hat": ("hat",),
    "hat smile": ("hat", "smile"),
    "hat glasses": ("hat", "glasses"),
    "hat glasses smile": ("hat", "glasses", "smile"),
}
CLASS_ATTRIBUTES = ("hat", "glasses", "smile")  # each class has or lacks each of these


def _portray(
    sitter: tuple, moment: tuple, strengths: dict[str, float], size: int, uniform: bool = False, noise: float = 0.01
) -> np.ndarray:
    """Return one face, uint8 [size, size, 3]. `sitter` and `moment` seed everything except the attributes."""
    import cv2

    p = Portrait(sitter, moment, strengths, size, uniform)
    paint_background(p)
    hair = hair_map(p)
    paint_back_hair(p, hair)
    paint_shoulders(p)
    paint_head(p, lit_skin(p))
    paint_lines(p)
    if strengths["beard"] > 0:
        paint_beard(p)
    for paint in (paint_nose, paint_eyes, paint_brows, paint_mouth):
        paint(p)
    if strengths["glasses"] >= 0.5:
        paint_glasses(p)
    paint_front_hair(p, hair)
    if strengths["hat"] >= 0.5:
        paint_hat(p)
    image = cv2.resize(p.paint, (size, size), interpolation=cv2.INTER_AREA)
    image = image * np.array([1 + p.warmth, 1, 1 - p.warmth], np.float32)
    image = image + np.float32(noise) * p.moment.standard_normal(image.shape, np.float32)
    return (255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)


def synthetic_faces(
    count: int,
    seed: int,
    size: int = 64,
    character: int | None = None,
    uniform: bool = False,
    noise: float = 0.01,
    **attributes: float | tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Return synthetic faces, cropped as in CelebA (arXiv:1411.7766), and their attributes.

    The eyes are at 45 % of the image height, and the head spans two thirds of the width. A face depends only on its
    index, the seed, `character` and `attributes`, so a smaller set is a prefix of a larger one. Attributes are
    statistically independent. About a third of the faces have glasses, about a third have beards, and about a third
    have hats. Each other attribute occurs in half of the faces.

    Args:
        count: the number of faces, 1 or more.
        seed: random seed, 0 or more.
        size: height and width in pixels, 16 or more. The faces are the same at any size, except for their noise.
        character: index of a person to show in every image, 0 or more; None shows a different person in each image.
            Smile, mouth, brows, gaze, head pose, light and background still depend on the seed and the index, so two
            characters with the same seed show the same moments. Glasses, beard, hat and clothes belong to the person.
        uniform: use only straight, short haircuts, plain backgrounds, and the same glasses for everyone.
        noise: standard deviation of the sensor noise, for pixels from 0 to 1.
        attributes: the strength of each given attribute in all faces, from 0 to 1, or a range of strengths. From a
            range, the strength of each face is sampled uniformly. `FACE_ATTRIBUTES` lists the names. Everything else in
            a face stays the same, except that a hat flattens high hair. Glasses and hats appear at 0.5 or more; other
            attributes change smoothly. `looking_left` sets the direction of the head: 0 is towards the right edge of
            the image, 0.5 is straight ahead, and 1 is towards the left edge.

    Returns:
        RGB images, uint8 [count, size, size, 3], and labels, uint8 [count, len(FACE_ATTRIBUTES)]: 1 for a strength of
        0.5 or more, otherwise 0.

    Raises:
        ValueError: `count`, `seed`, `size` or `character` is too small, or an attribute is unknown, has a strength
            outside [0, 1], or has a range whose start is above its end.
    """
    import cv2

    numbers = ("count", count, 1), ("seed", seed, 0), ("size", size, 16), ("character", character or 0, 0)
    for name, value, least in numbers:
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
    ranges = {}
    for name, strength in attributes.items():
        if name not in FACE_ATTRIBUTES:
            raise ValueError(f"{name!r} is not an attribute; choose from {', '.join(FACE_ATTRIBUTES)}")
        lowest, highest = strength if isinstance(strength, tuple) else (strength, strength)
        if not 0 <= lowest <= highest <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {strength}")
        ranges[name] = lowest, highest
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.empty((count, len(FACE_ATTRIBUTES)), np.uint8)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # several threads are no faster for such small shapes
    try:
        for index in range(count):
            moment, sitter = (2, seed, index), (0, seed, index) if character is None else (1, character, 0)
            strengths = {}
            for number, (name, kind) in enumerate(FACE_ATTRIBUTE_RANGES.items(), 1):
                rng = np.random.default_rng([*(moment if kind.momentary else sitter), number])
                present = rng.random() < kind.frequency
                strengths[name] = float(rng.uniform(*ranges.get(name, kind.present if present else kind.absent)))
            images[index] = _portray(sitter, moment, strengths, size, uniform, noise)
            labels[index] = [strength >= 0.5 for strength in strengths.values()]
    finally:
        cv2.setNumThreads(threads)
    return images, labels


def face_classes(per_class: int, seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return faces of the classes in `FACE_CLASSES`, in turn: RGB uint8 [n, size, size, 3], and class indices [n].

    The faces are like `PORTRAITS`, but each has or lacks a hat, glasses and a smile. There are `per_class` faces of
    each class. A smaller set is a prefix of a larger one.
    """
    parts = []
    for number, present in enumerate(FACE_CLASSES.values()):
        strengths = {}
        for name in CLASS_ATTRIBUTES:
            kind = FACE_ATTRIBUTE_RANGES[name]
            strengths[name] = kind.present if name in present else kind.absent
        parts.append(synthetic_faces(per_class, len(FACE_CLASSES) * seed + number, size, **PORTRAITS | strengths)[0])
    return np.stack(parts, axis=1).reshape(-1, size, size, 3), np.tile(np.arange(len(FACE_CLASSES)), per_class)
