"""The digits of scikit-learn as pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits

from common.samples.digits import sklearn_digits


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return sklearn_digits(28)[0]


def test_shapes_and_classes(pictures: np.ndarray) -> None:
    images, labels = sklearn_digits(8)
    assert pictures.shape == (1797, 28, 28, 1) and images.shape == (1797, 8, 8, 1)
    assert pictures.dtype == images.dtype == np.uint8
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, load_digits().target)


def test_white_strokes_on_black_with_clear_edges(pictures: np.ndarray) -> None:
    on_border = pictures[:, [0, -1]].any((1, 2, 3)) | pictures[:, :, [0, -1]].any((1, 2, 3))
    assert on_border.mean() < 0.01
    assert (pictures == 0).mean() > 0.7
    assert ((pictures == 0) | (pictures == 255)).mean() > 0.8
    assert (pictures.max((1, 2)) == 255).all()


def test_box_and_centre_are_those_of_mnist(pictures: np.ndarray) -> None:
    for picture in pictures[::9, :, :, 0]:
        (box,) = ndimage.find_objects((picture > 127).astype(int))
        assert 19 <= max(side.stop - side.start for side in box) <= 21
        np.testing.assert_allclose(ndimage.center_of_mass(picture), 13.5, atol=0.1)


@pytest.mark.slow
def test_pictures_show_the_counts_they_come_from() -> None:
    """The same box of both, each brought to 8x8 by averaging, agrees."""

    def shrunk(image: np.ndarray) -> np.ndarray:
        (box,) = ndimage.find_objects((image > image.max() / 2).astype(int))
        boxed = Image.fromarray(image[box].astype(np.float32))
        return np.asarray(boxed.resize((8, 8), Image.Resampling.BOX)).ravel()

    images, _ = sklearn_digits(32)
    pictures = [shrunk(image) for image in images[::9, :, :, 0]]
    counts = [shrunk(image) for image in load_digits().images[::9]]
    agreement = np.corrcoef(pictures, counts)[: len(pictures), len(pictures) :]
    assert np.median(np.diag(agreement)) > 0.8
    assert np.median(agreement) < 0.4


def test_too_small() -> None:
    with pytest.raises(ValueError, match="size must be 8 or more, got 7"):
        sklearn_digits(7)
