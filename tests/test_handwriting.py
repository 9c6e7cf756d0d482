from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from common.data import arrays, synthetic
from common.data.datasets import images_of
from common.data.labelled import labelled_images
from common.samples import handwriting
from common.samples.digits import HELD_OUT_SEED, held_out_digits
from common.samples.handwriting import handwritten_digits
from common.system.files import InputError


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return handwritten_digits(250, 5)


def test_shapes_and_classes(digits) -> None:
    images, labels, styles = digits
    assert images.shape == (250, 28, 28, 1) and images.dtype == np.uint8
    assert labels.dtype == np.int64 and styles.dtype == np.float32
    assert styles.shape == (250, len(handwriting.STYLES))
    assert (np.bincount(labels) == 25).all()


def test_a_smaller_set_is_the_beginning_of_a_larger_one(digits) -> None:
    for whole, part in zip(digits, handwritten_digits(73, 5), strict=True):
        np.testing.assert_array_equal(whole[:73], part)


def test_other_seeds_have_other_writers(digits) -> None:
    assert not np.isclose(handwritten_digits(50, 6)[2], digits[2][:50]).any()


def test_every_fifth_digit_is_by_other_writers_who_write_each_digit_once(digits) -> None:
    _, labels, styles = digits
    for writer in range(25):
        own = np.arange(10) * 5 + writer // 5 * 50 + writer % 5
        assert sorted(labels[own]) == list(range(10))
    logs = np.log(styles[:, 1].reshape(5, 10, 5))  # blocks, digits, writers
    assert logs.std(axis=1).mean() < 0.6 * logs.mean(axis=1).std()  # a writer keeps a pen


def test_white_strokes_on_black_placed_as_in_mnist(digits) -> None:
    for image in digits[0][..., 0]:
        assert image.max() > 240 and np.median(image) == 0
        np.testing.assert_allclose(ndimage.center_of_mass(image), 13.5, atol=0.1)
    boxes = [ndimage.find_objects((image > 127).astype(int))[0] for image in digits[0][..., 0]]
    sides = [max(side.stop - side.start for side in box) for box in boxes]
    assert np.percentile(sides, 5) >= 19 and np.percentile(sides, 95) <= 21


def test_a_size_changes_the_resolution_not_the_writing(digits) -> None:
    images, labels, styles = handwritten_digits(20, 5, 56)
    np.testing.assert_array_equal(labels, digits[1][:20])
    np.testing.assert_allclose(styles, digits[2][:20] * [1, 2, 1], rtol=1e-6)
    for large, small in zip(images[..., 0], digits[0][:20, ..., 0], strict=True):
        halved = cv2.resize(large, (28, 28), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(halved.ravel(), small.ravel())[0, 1] > 0.97


def test_the_stated_styles_are_those_of_the_images() -> None:
    """Ink over length of the centre line is a pen's width, and the moments of a 1 show its slant."""
    images, labels, styles = handwritten_digits(500, 8)
    slants = [
        -(moments := cv2.moments(image))["mu11"] / moments["mu02"] for image in images[labels == 1].astype(np.float32)
    ]
    assert np.corrcoef(slants, styles[labels == 1, 0])[0, 1] > 0.85
    assert np.median(np.abs(slants - styles[labels == 1, 0])) < 0.15
    widths = [image.sum() / 255 / 20 for image in images[labels == 1].astype(float)]  # a 1 is about 20 px long
    assert np.corrcoef(widths, styles[labels == 1, 1])[0, 1] > 0.85
    assert np.median(widths / styles[labels == 1, 1]) == pytest.approx(1, abs=0.15)


def test_curves_pass_through_their_points_and_corners_stay() -> None:
    for groups in handwriting.SKELETONS.values():
        for _, variants in groups:
            skeleton = handwriting._parse(variants)
            points = skeleton.points[-1]
            lines = [curve @ points for curve in skeleton.curves]
            drawn = np.concatenate(lines)
            assert np.linalg.norm(drawn[:, None] - points, axis=2).min(0).max() < 0.3
            assert len(lines) == variants[0].count("|") + 1


def test_rounding_keeps_the_ends() -> None:
    line = np.random.default_rng(0).normal(size=(30, 2))
    rounded = handwriting._rounded(line, 4)
    np.testing.assert_allclose(rounded[[0, -1]], line[[0, -1]], atol=1e-12)
    np.testing.assert_allclose(rounded[10], line[6:15].mean(0))


@pytest.mark.parametrize("count, size", [(0, 28), (5, 7)])
def test_too_few_or_too_small(count: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} and {size}"):
        handwritten_digits(count, 0, size)


def test_held_out_digits_are_by_writers_that_no_seed_gives() -> None:
    images, labels = held_out_digits()
    assert len(images) == 400 and (np.bincount(labels) == 40).all()
    assert HELD_OUT_SEED > 2**31 - 1  # the largest value of the option `seed`


def test_the_digits_of_scikit_learn_have_a_name(monkeypatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), np.uint8)
    monkeypatch.setattr(arrays, "sklearn_digits", lambda size: (images, np.arange(40) // 4))
    data = labelled_images("sklearn_digits", 28, 1, "clothes")
    np.testing.assert_array_equal(data.test.items, images[4::5])
    np.testing.assert_array_equal(data.test.labels, np.arange(40)[4::5] // 4)
    assert data.classes == tuple("0123456789")
    assert images_of("sklearn_digits", 32, 1, "clothes").train.shape == (32, 32, 32, 1)
    with pytest.raises(InputError, match="one of sample, mnist, fashion_mnist, sklearn_digits, tfds:NAME"):
        images_of("sklearn_digit", 28, 1, "clothes")


def test_the_styles_of_the_built_in_digits_are_those_of_the_test_images(monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "handwritten_digits", lambda count, *rest: handwritten_digits(300, *rest))
    data = labelled_images("sample", 28, 1, "digits", seed=4)
    images, labels, styles = handwritten_digits(300, 4)
    np.testing.assert_array_equal(data.test.items, images[4::5])
    np.testing.assert_array_equal(data.test.labels, labels[4::5])
    assert tuple(data.styles) == handwriting.STYLES
    np.testing.assert_array_equal(np.stack(list(data.styles.values()), 1), styles[4::5])
    assert not labelled_images("sample", 28, 1, lambda: (images, labels), names=tuple("0123456789")).styles
