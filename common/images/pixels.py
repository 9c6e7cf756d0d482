"""Pixel conversions: value ranges, image sizes, and colours for label maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.system.files import InputError
from common.system.lazy import tf

LABEL_COLOURS = np.array(
    [
        (112, 176, 232),
        (152, 84, 64),
        (216, 208, 168),
        (80, 80, 88),  # sky, building, pole, road
        (184, 168, 192),
        (40, 128, 48),
        (248, 208, 24),
        (128, 104, 0),  # pavement, tree, sign, fence
        (32, 64, 208),
        (224, 24, 40),
        (255, 128, 0),
        (0, 0, 0),  # car, pedestrian, bicyclist, unlabelled
        (255, 0, 208),
        (0, 255, 112),
        (0, 255, 255),
        (144, 0, 255),
        (255, 96, 144),
        (144, 208, 0),
        (144, 0, 128),
        (0, 144, 144),
        (255, 144, 255),
        (0, 16, 96),
        (128, 255, 176),
        (112, 96, 176),
        (96, 0, 48),
        (160, 192, 96),
        (192, 80, 240),
        (224, 144, 80),
        (0, 144, 255),
        (176, 240, 255),
        (48, 64, 0),
        (80, 255, 0),
        (176, 96, 144),
        (255, 160, 160),
        (160, 0, 48),
        (0, 160, 0),
        (240, 255, 112),
        (128, 128, 96),
        (0, 64, 48),
        (160, 128, 255),
    ],
    np.uint8,
)

IGNORED = 255  # the label of pixels without a class, as in Pascal VOC and Cityscapes
IGNORED_COLOUR = (255, 255, 255)

if TYPE_CHECKING:
    from PIL import Image


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """Convert unsigned integer labels [...] to their LABEL_COLOURS, uint8 [..., 3]. IGNORED becomes white.

    Raises:
        InputError: a label is too large to have a colour.
    """
    ignored = labels == IGNORED
    labels = np.where(ignored, 0, labels)
    if labels.size and labels.max() >= len(LABEL_COLOURS):
        raise InputError(f"a label map contains label {labels.max()}; only 0 to {len(LABEL_COLOURS) - 1} have colours")
    colours = LABEL_COLOURS[labels]
    colours[ignored] = IGNORED_COLOUR
    return colours


def labels_from_colours(image: np.ndarray, classes: int) -> np.ndarray:
    """Convert each RGB pixel, uint8 [..., 3], to the label with the nearest colour, uint8 [...], from 0 to classes - 1.

    If two colours are equally near, the lower label is returned. The function needs about 25 bytes of memory per pixel.
    """
    if not 1 <= classes <= len(LABEL_COLOURS):
        raise ValueError(f"classes={classes}; there are colours for 1 to {len(LABEL_COLOURS)} classes")
    pixels = image.astype(np.float32)
    labels = np.zeros(image.shape[:-1], np.uint8)
    nearest = np.full(image.shape[:-1], np.inf, np.float32)
    for label, colour in enumerate(LABEL_COLOURS[:classes].astype(np.float32)):
        # Squared distance, without a term that is the same for all colours. float32 is exact for these integers.
        distance = colour @ colour - pixels @ (2 * colour)
        labels[distance < nearest] = label
        np.minimum(nearest, distance, out=nearest)
    return labels


def pillow_image(image: np.ndarray) -> Image.Image:
    """Convert uint8 [height, width, channels] to a Pillow image."""
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"got an image {image.dtype} {list(image.shape)}; expected uint8 [height, width, 1 or 3]")
    return Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)


def resize_image(image: np.ndarray, height: int, width: int, nearest: bool = False) -> np.ndarray:
    """Resize `image`, uint8 [h, w, channels] or a label map [h, w], to `height` x `width`. The rank stays the same.

    Interpolation is bicubic with antialiasing. The result is sharper than with bilinear interpolation, and its halos at
    edges are narrower than with Lanczos. Bicubic is the usual choice before a Frechet distance is computed (Parmar,
    Zhang, Zhu, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022, arXiv:2104.11222). With
    `nearest`, nearest-neighbour interpolation is used instead. It creates no new values, so use it for label maps.
    """
    from PIL import Image

    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    resized = np.array(pillow_image(image).resize((width, height), method))
    return resized.reshape(height, width, *image.shape[2:])


SMALLEST_SIDE = 32  # minimum side of photos and style images, in pixels


def shrink(image: np.ndarray, factor: float, smallest: int) -> np.ndarray:
    """Shrink uint8 [height, width, 3] by `factor` per side, but keep the shorter side at `smallest` pixels or more."""
    height, width = image.shape[:2]
    factor = max(1.0, min(factor, min(height, width) / smallest))
    return resize_image(image, max(1, round(height / factor)), max(1, round(width / factor)))


def limit_size(image: np.ndarray, size: int) -> np.ndarray:
    """Shrink uint8 [height, width, 3] to at most `size` pixels per side, but keep the shorter side at 32 or more."""
    return shrink(image, max(image.shape[:2]) / size, SMALLEST_SIDE)


def crop_square(image: np.ndarray) -> np.ndarray:
    """Return the largest square centre crop of [height, width, ...] as a view."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def pad_to_least(image: np.ndarray, size: int) -> np.ndarray:
    """Pad [height, width, ...] by reflection at the bottom and right, to at least `size` pixels per side."""
    margins = [(0, max(0, size - side)) for side in image.shape[:2]]
    return np.pad(image, [*margins, *[(0, 0)] * (image.ndim - 2)], "symmetric") if np.any(margins) else image


def pad_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Pad [height, width, channels] by reflection at the bottom and right; both sides become multiples of `multiple`.

    The edge pixels are part of the reflection. The padding may be larger than the image. To undo the padding after
    processing, crop the result to `[:height, :width]`.
    """
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="symmetric")


def from_uint8(images: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Convert pixel values in 0..255 (array or tensor, also in graph mode) to float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray | tf.Tensor) -> np.ndarray:
    """Convert floats in [-1, 1] (array or tensor) to uint8, rounded and clipped to 0..255."""
    return np.clip(np.round((np.asarray(images, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)
