"""scikit-learn's digits, converted to MNIST-like images, and handwriting that was not used for training."""

from __future__ import annotations

import numpy as np

from common.samples.handwriting import handwritten_digits

DIGITS = tuple("0123456789")


OVERSAMPLING = 3  # strokes are rendered at this multiple of the final size, then downsampled


def sklearn_digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the 1,797 digits of `sklearn.datasets.load_digits` as white strokes on black, and their labels.

    They are the test split of the UCI data set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998;
    13 writers). Each of the 8 x 8 values is the number of ink pixels in a 4 x 4 block. Cubic spline interpolation and a
    steep contrast curve turn the counts back into strokes with sharp edges. As in MNIST, the longer side of a digit is
    20/28 of the image size, and the digit's centre of mass is at the centre of the image.

    Args:
        size: height and width of the images in pixels, at least 8.

    Returns:
        Images, uint8 [1797, size, size, 1], and integer labels, int64 [1797]. They are in scikit-learn's order, in
        which the digits of each writer are consecutive.

    Raises:
        ValueError: `size` is less than 8.
    """
    from scipy import ndimage
    from sklearn.datasets import load_digits

    if size < 8:
        raise ValueError(f"size must be 8 or more, got {size}")
    digits = load_digits()
    counts = np.pad(digits.images / 16, ((0, 0), (2, 2), (2, 2)))
    large = size * OVERSAMPLING
    # Spline interpolation is linear, so interpolated unit impulses form a matrix that resizes any signal. It is also
    # separable, so the same matrix is applied to the rows and to the columns of a digit.
    impulses = np.eye(counts.shape[1])
    spline = ndimage.zoom(impulses, (large / len(impulses), 1), order=3, grid_mode=True, mode="grid-constant")
    strokes = (np.clip((spline @ count @ spline.T - 0.5) * 4 + 0.5, 0, 1) for count in counts)
    return np.stack([centred_digit(stroke, size) for stroke in strokes]), digits.target.astype(np.int64)


def centred_digit(stroke: np.ndarray, size: int = 28) -> np.ndarray:
    """Scale and centre a digit as in MNIST: uint8 [size, size, 1], white on black.

    The digit's longer side becomes 20/28 of the image size, and its centre of mass moves to the centre of the image.

    Args:
        stroke: array [height, width] of any size, 0 for paper and 1 for ink. It must not be blank.
        size: height and width of the result in pixels.
    """
    from scipy import ndimage

    large = size * OVERSAMPLING
    extent = 1 + max(np.ptp(np.flatnonzero((stroke > 0.5).any(axis))) for axis in (0, 1))
    scale = extent / (large * 20 / 28)
    corner = np.array(ndimage.center_of_mass(stroke)) - scale * (large - 1) / 2
    placed = ndimage.affine_transform(stroke, [scale, scale], corner, (large, large), order=1)
    image = placed.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean((1, 3))
    return np.rint(255 * image).astype(np.uint8)[..., None]


HELD_OUT_SEED = 2**31  # no option `seed` has this value, nor any later one


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 400 handwritten digits and their labels, at 28 px, for attacks on the bundled classifier.

    It was trained only on digits from other writers.
    """
    images, classes, _ = handwritten_digits(400, HELD_OUT_SEED)
    return images, classes
