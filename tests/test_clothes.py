"""What the drawn clothes promise: the same garments again, classes that fill the frame, a task to learn."""

from __future__ import annotations

import numpy as np
import pytest

from common.samples.clothes import CLOTHES_CLASSES, synthetic_clothes


@pytest.fixture(scope="module")
def clothes() -> tuple[np.ndarray, np.ndarray]:
    return synthetic_clothes(1000, 3)


def boxes(images: np.ndarray) -> np.ndarray:
    """Return top, bottom, left and right of what is clearly lit, each as a share of the frame, [n, 4]."""
    lit = images[..., 0] > 0.3 * images.max((1, 2, 3))[:, None, None]
    sides = []
    for axis in (2, 1):
        line = lit.any(axis)
        sides += [line.argmax(1), line.shape[1] - line[:, ::-1].argmax(1)]
    return np.stack(sides, 1) / images.shape[1]


def test_classes_are_those_of_fashion_mnist_in_its_order():
    assert CLOTHES_CLASSES == (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip


@pytest.mark.parametrize("size", [16, 28, 64])
def test_shapes_and_types(size):
    images, labels = synthetic_clothes(7, 0, size)
    assert images.shape == (7, size, size, 1) and images.dtype == np.uint8
    assert labels.shape == (7,) and labels.dtype == np.uint8


@pytest.mark.parametrize("count", [1, 9, 10, 37])
def test_classes_are_balanced_to_within_one(count):
    counts = np.bincount(synthetic_clothes(count, 5)[1], minlength=10)
    assert len(counts) == 10 and np.ptp(counts) <= 1


def test_classes_come_in_no_fixed_order(clothes):
    tens = clothes[1].reshape(-1, 10)
    assert len({tuple(ten) for ten in tens}) == len(tens)
    assert all(len(set(place)) == 10 for place in tens.T)


def test_fewer_are_the_first_of_more(clothes):
    for whole, part in zip(clothes, synthetic_clothes(23, 3), strict=True):
        np.testing.assert_array_equal(whole[:23], part)


def test_no_two_are_alike_within_a_seed_or_between_seeds(clothes):
    other = synthetic_clothes(50, 4)
    assert len({image.tobytes() for image in (*clothes[0], *other[0])}) == 1050
    assert (other[1] != clothes[1][:50]).any()


def test_bright_on_black(clothes):
    images = clothes[0]
    assert np.median(images[:, [0, 0, -1, -1], [0, -1, 0, -1]].max((1, 2))) == 0
    assert (images == 0).mean() > 0.3
    brightest = images.max((1, 2, 3))
    assert (brightest > 25).all() and 0.02 < (brightest < 100).mean() < 0.3 and np.median(brightest) > 150


def test_garments_are_centred_and_reach_across_the_frame(clothes):
    top, bottom, left, right = boxes(clothes[0]).T
    for first, last in ((top, bottom), (left, right)):
        assert abs((first + last) / 2 - 0.5).mean() < 0.05
        assert abs(np.mean((first + last) / 2) - 0.5) < 0.02
    longest = np.maximum(bottom - top, right - left)
    assert np.percentile(longest, 1) > 0.7 and longest.mean() > 0.85


def test_each_class_has_its_share_of_the_frame_and_its_outline(clothes):
    images, labels = clothes
    top, bottom, left, right = boxes(images).T
    share = (images > 0.3 * images.max((1, 2, 3), keepdims=True)).mean((1, 2, 3))
    slimness = (bottom - top) / (right - left)
    means = {name: slimness[labels == number].mean() for number, name in enumerate(CLOTHES_CLASSES)}
    for number in range(10):
        assert 0.1 < share[labels == number].mean() < 0.75
    assert min(means["Trouser"], means["Dress"]) > 1.4 > 1.3 > max(means["Shirt"], means["Coat"], means["Pullover"])
    assert means["Sneaker"] < 0.65 and means["Sandal"] < means["Ankle boot"] < 1.2


def test_one_garment_at_two_sizes():
    small, large = (synthetic_clothes(30, 8, size)[0].astype(float) for size in (28, 56))
    averaged = large.reshape(30, 28, 2, 28, 2, 1).mean((2, 4))
    assert np.abs(small - averaged).mean() < 6
    assert np.abs(small - np.roll(averaged, 1, 0)).mean() > 30


def test_nearest_mean_learns_but_not_all(clothes):
    images, labels = clothes
    pixels = images.reshape(len(images), -1) / 255.0
    means = np.stack([pixels[labels == number].mean(0) for number in range(10)])
    shown, truth = synthetic_clothes(300, 12)
    apart = ((shown.reshape(300, 1, -1) / 255.0 - means) ** 2).sum(2)
    assert 0.4 < (apart.argmin(1) == truth).mean() < 0.75


@pytest.mark.parametrize(("what", "arguments"), [("count", (0, 0)), ("seed", (1, -1)), ("size", (1, 0, 15))])
def test_too_small(what, arguments):
    with pytest.raises(ValueError, match=f"{what} must be [0-9]+ or more, got -?[0-9]+"):
        synthetic_clothes(*arguments)
