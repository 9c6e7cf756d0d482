"""Real handwritten digits that come with scikit-learn, made into pictures like MNIST's."""

from __future__ import annotations

import functools

import numpy as np

from common.labelled import Labelled, labelled_images

DIGITS = tuple("0123456789")


def digits_or_others(
    data: str, size: int, channels: int, skip_bad: bool = False, fetch: bool = False, require_classes: bool = False
) -> Labelled:
    """Return `labelled_images` of `data`, with scikit-learn's handwritten digits as the embedded sample."""
    sample = functools.partial(sklearn_digits, size)
    return labelled_images(data, size, channels, sample, skip_bad, fetch, DIGITS, require_classes=require_classes)


def sklearn_digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the 1,797 digits of `sklearn.datasets.load_digits` as white strokes on black, and their classes.

    They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak
    1998; 13 writers), where each of 8x8 values counts the inked pixels of a 4x4 block. Cubic spline
    interpolation and a steep contrast curve turn the counts back into strokes with clear edges. As in MNIST,
    the longer side of a digit takes 20/28 of the picture and its centre of mass lies in the middle.

    Args:
        size: height and width of a picture in pixels, 8 or more.

    Returns:
        Images uint8 [1797, size, size, 1] and classes int64 [1797], both in scikit-learn's order, which keeps
        the digits of a writer together.

    Raises:
        ValueError: `size` is less than 8.
    """
    from scipy import ndimage
    from sklearn.datasets import load_digits

    if size < 8:
        raise ValueError(f"size is {size}: it must be 8 or more")
    digits = load_digits()
    counts = np.pad(digits.images / 16, ((0, 0), (2, 2), (2, 2)))
    oversampling = 3  # edges are drawn at this many times the final size, then averaged down
    large = size * oversampling
    # The spline is linear and separable: its response to unit impulses, a matrix, resizes every digit.
    impulses = np.eye(counts.shape[1])
    spline = ndimage.zoom(impulses, (large / len(impulses), 1), order=3, grid_mode=True, mode="grid-constant")
    images = np.empty((len(counts), size, size, 1), np.uint8)
    for image, count in zip(images, counts, strict=True):
        stroke = np.clip((spline @ count @ spline.T - 0.5) * 4 + 0.5, 0, 1)
        extent = 1 + max(np.ptp(np.flatnonzero((stroke > 0.5).any(axis))) for axis in (0, 1))
        scale = extent / (large * 20 / 28)
        corner = np.array(ndimage.center_of_mass(stroke)) - scale * (large - 1) / 2
        placed = ndimage.affine_transform(stroke, [scale, scale], corner, order=1)
        image[..., 0] = np.rint(255 * placed.reshape(size, oversampling, size, oversampling).mean((1, 3)))
    return images, digits.target.astype(np.int64)


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the last 360 of `sklearn_digits` at 28 px, whose writers the embedded classifier does not know."""
    images, classes = sklearn_digits(28)
    return images[-360:], classes[-360:]
