"""Real handwritten digits that come with scikit-learn, made into pictures like MNIST's."""

from __future__ import annotations

import functools

import numpy as np

from common.labelled import Labelled, labelled_images

DIGITS = tuple("0123456789")


OVERSAMPLING = 3  # edges are drawn at this many times the final size, then averaged down


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
    large = size * OVERSAMPLING
    # The spline is linear and separable: its response to unit impulses, a matrix, resizes every digit.
    impulses = np.eye(counts.shape[1])
    spline = ndimage.zoom(impulses, (large / len(impulses), 1), order=3, grid_mode=True, mode="grid-constant")
    strokes = (np.clip((spline @ count @ spline.T - 0.5) * 4 + 0.5, 0, 1) for count in counts)
    return np.stack([centred_digit(stroke, size) for stroke in strokes]), digits.target.astype(np.int64)


def centred_digit(stroke: np.ndarray, size: int = 28) -> np.ndarray:
    """Return a digit as MNIST has it: its longer side takes 20/28 of the picture, its centre of mass is in the middle.

    Args:
        stroke: [height, width] of any size, 0 for paper to 1 for ink, of which there must be some.
        size: height and width of the result, uint8 [size, size, 1], white on black.
    """
    from scipy import ndimage

    large = size * OVERSAMPLING
    extent = 1 + max(np.ptp(np.flatnonzero((stroke > 0.5).any(axis))) for axis in (0, 1))
    scale = extent / (large * 20 / 28)
    corner = np.array(ndimage.center_of_mass(stroke)) - scale * (large - 1) / 2
    placed = ndimage.affine_transform(stroke, [scale, scale], corner, (large, large), order=1)
    image = placed.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean((1, 3))
    return np.rint(255 * image).astype(np.uint8)[..., None]


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the last 360 of `sklearn_digits` at 28 px, whose writers the embedded classifier does not know."""
    images, classes = sklearn_digits(28)
    return images[-360:], classes[-360:]
