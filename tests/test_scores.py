"""Scores against closed forms, explicit sums and other libraries."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import sklearn.metrics
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from common.metrics.scores import (
    arithmetic_scores,
    classifier_features,
    confusion_matrix,
    edit_scores,
    frechet_distance,
    kernel_distance,
    pair_scores,
    sample_scores,
    segmentation_scores,
    set_distances,
)
from common.system.files import InputError
from common.system.lazy import keras

# Keras 3 reads variables in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def with_moments(generator: np.random.Generator, count: int, mean: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Return features [count, d] with exactly this mean and diagonal covariance."""
    basis, _ = np.linalg.qr(np.column_stack([np.ones(count), generator.normal(size=(count, len(mean)))]))
    return mean + basis[:, 1:] * deviations * np.sqrt(count - 1)


def test_frechet_distance_of_diagonal_gaussians() -> None:
    generator = np.random.default_rng(0)
    means, deviations = generator.normal(size=(2, 6)), generator.uniform(0.1, 3, (2, 6))
    a = with_moments(generator, 40, means[0], deviations[0])
    b = with_moments(generator, 70, means[1], deviations[1])
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_by_a_matrix_square_root() -> None:
    generator = np.random.default_rng(1)
    a = generator.normal(size=(50, 5)) @ generator.normal(size=(5, 5))
    b = generator.normal(1, 2, (60, 5)) @ generator.normal(size=(5, 5))
    covariances = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root).real
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_with_singular_covariances() -> None:
    generator = np.random.default_rng(2)
    a = generator.normal(size=(5, 50)).astype(np.float32)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + np.float32(1)) == pytest.approx(50, rel=1e-5)
    constant = np.ones((3, 4))
    assert frechet_distance(constant, 3 * constant) == pytest.approx(16)
    one_feature = np.array([[0.0], [2.0]])
    assert frechet_distance(one_feature, 2 * one_feature) == pytest.approx(1 + 2 + 8 - 2 * 4)


def test_kernel_distance_by_explicit_sums() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.normal(size=(7, 4)), generator.normal(0.5, 1, (9, 4))

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return sklearn.metrics.pairwise.polynomial_kernel(x, y, degree=3, gamma=1 / 4, coef0=1)

    within_a = sum(kernel(a, a)[i, j] for i in range(7) for j in range(7) if i != j) / (7 * 6)
    within_b = sum(kernel(b, b)[i, j] for i in range(9) for j in range(9) if i != j) / (9 * 8)
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * kernel(a, b).mean(), rel=1e-12)


def test_kernel_distance_in_blocks() -> None:
    generator = np.random.default_rng(4)
    a, b = generator.normal(size=(1100, 3)), generator.normal(size=(513, 3))
    sums = [(x @ y.T / 3 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    expected = (
        (sums[0].sum() - np.trace(sums[0])) / (1100 * 1099)
        + (sums[1].sum() - np.trace(sums[1])) / (513 * 512)
        - 2 * sums[2].mean()
    )
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    generator = np.random.default_rng(5)
    same = [kernel_distance(*generator.normal(size=(2, 20, 4))) for _ in range(400)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(len(same))
    assert min(same) < 0
    assert kernel_distance(generator.normal(size=(20, 4)), generator.normal(2, 1, (20, 4))) > max(same)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_features_that_cannot_be_compared(distance: Callable[[np.ndarray, np.ndarray], float]) -> None:
    good = np.ones((3, 4))
    for bad, words in (
        (np.ones((1, 4)), "at least 2"),
        (np.ones((3, 5)), r"\(3, 5\)"),
        (np.ones(4), r"\[n, d\]"),
        (np.full((3, 4), np.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            distance(bad, good)
        with pytest.raises(ValueError):
            distance(good, bad)


@pytest.mark.parametrize("channels", [1, 3])
def test_pair_scores(channels: int) -> None:
    generator = np.random.default_rng(6)
    real = generator.integers(0, 256, (2, 16, 12, channels)).astype(np.uint8)
    fake = np.clip(real + generator.integers(-30, 30, real.shape), 0, 255).astype(np.uint8)
    scores = pair_scores(real, fake)
    assert scores["l1"] == pytest.approx(np.mean(abs(real / 255 - fake / 255)), rel=1e-12)
    psnr = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(real, fake, strict=True)]
    assert scores["psnr"] == pytest.approx(np.mean(psnr), rel=1e-12)
    ssim = [
        structural_similarity(
            real[i, ..., c],
            fake[i, ..., c],
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=255,
        )
        for i in range(2)
        for c in range(channels)
    ]
    assert scores["ssim"] == pytest.approx(np.mean(ssim), rel=1e-9)


def test_structural_similarity_of_flat_images() -> None:
    """Without variance the luminance term is left: (2xy + C1) / (x^2 + y^2 + C1), C1 = (0.01 * 255)^2."""
    dark, light = np.full((1, 11, 11, 1), 100, np.uint8), np.full((1, 11, 11, 1), 150, np.uint8)
    expected = (2 * 100 * 150 + 2.55**2) / (100**2 + 150**2 + 2.55**2)
    assert pair_scores(dark, light)["ssim"] == pytest.approx(expected, rel=1e-9)
    assert pair_scores(dark, dark) == {"l1": 0, "psnr": math.inf, "ssim": pytest.approx(1)}


def test_pairs_that_cannot_be_compared() -> None:
    small = np.zeros((2, 20, 10, 1), np.uint8)
    with pytest.raises(InputError, match="images of 10x20 px are too small; .* at least 11x11 px"):
        pair_scores(small, small)
    for bad in (small[:1], small[0], small.astype(np.float32)):
        with pytest.raises(ValueError, match="both must be uint8"):
            pair_scores(small, bad)
    with pytest.raises(ValueError, match="both must be uint8"):
        pair_scores(small[:0], small[:0])


def test_confusion_matrix() -> None:
    generator = np.random.default_rng(7)
    truth, predicted = generator.integers(0, 5, (2, 3, 8, 9)).astype(np.uint8)
    matrix = confusion_matrix(truth, predicted, 6)
    assert matrix.dtype == np.int64
    expected = sklearn.metrics.confusion_matrix(truth.ravel(), predicted.ravel(), labels=range(6))
    np.testing.assert_array_equal(matrix, expected)
    truth[0] = 255
    expected = sklearn.metrics.confusion_matrix(truth[1:].ravel(), predicted[1:].ravel(), labels=range(6))
    np.testing.assert_array_equal(confusion_matrix(truth, predicted, 6, ignore=255), expected)


def test_classes_out_of_range() -> None:
    good, bad = np.array([0, 1]), np.array([0, 2])
    with pytest.raises(ValueError, match="truth contains class indices from 0 to 2; expected 0 to 1"):
        confusion_matrix(bad, good, 2)
    with pytest.raises(ValueError, match="predicted contains class indices from -1 to 0; expected 0 to 1"):
        confusion_matrix(good, -good, 2)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(good, good[:1], 2)


def test_segmentation_scores_by_hand() -> None:
    matrix = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 4]])
    scores = segmentation_scores(matrix)
    assert scores == {
        "pixel_accuracy": pytest.approx(13 / 16),
        "class_accuracy": pytest.approx((6 / 8 + 3 / 4 + 1) / 3),
        "mean_iou": pytest.approx((6 / 9 + 3 / 6 + 1) / 3),
    }


def test_segmentation_scores_by_another_library() -> None:
    generator = np.random.default_rng(8)
    truth, predicted = generator.integers(0, 4, (2, 200))
    scores = segmentation_scores(confusion_matrix(truth, predicted, 4))
    assert scores == {
        "pixel_accuracy": pytest.approx(sklearn.metrics.accuracy_score(truth, predicted)),
        "class_accuracy": pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, predicted)),
        "mean_iou": pytest.approx(sklearn.metrics.jaccard_score(truth, predicted, average="macro")),
    }


def test_wrong_predictions_of_an_absent_class_still_cost() -> None:
    scores = segmentation_scores(np.array([[3, 1], [0, 0]]))
    assert scores == {"pixel_accuracy": 0.75, "class_accuracy": 0.75, "mean_iou": 0.75}
    with pytest.raises(ValueError, match="the confusion matrix is empty"):
        segmentation_scores(np.zeros((2, 2), int))


def brightness_classifier(channels: int = 1) -> keras.Model:
    """Features: mean of each quarter of a 4x4 picture; logits: the first two features times 3."""
    images = keras.Input((4, 4, channels))
    quarters = keras.layers.AveragePooling2D(2)(images)
    features = keras.layers.Flatten()(quarters)
    logits = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(images, [features, logits(features)])
    logits.set_weights([np.eye(4 * channels, 2) * 3])
    return model


def test_classifier_features() -> None:
    generator = np.random.default_rng(9)
    images = generator.integers(0, 256, (300, 4, 4, 1)).astype(np.uint8)
    features, probabilities = classifier_features(brightness_classifier(), images)
    expected = images.reshape(300, 2, 2, 2, 2).mean((2, 4)).reshape(300, 4) / 127.5 - 1
    assert features.dtype == probabilities.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-6)
    odds = np.exp(3 * expected[:, 0] - 3 * expected[:, 1])
    np.testing.assert_allclose(probabilities[:, 0], odds / (1 + odds), atol=1e-6)


def test_classifier_features_of_other_sizes_and_colours() -> None:
    flat = np.empty((1, 20, 13, 3), np.uint8)
    flat[:] = 200, 100, 50
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50  # ITU-R BT.601
    features, _ = classifier_features(brightness_classifier(), flat)
    np.testing.assert_allclose(features, grey / 127.5 - 1, atol=1e-3)
    features, _ = classifier_features(brightness_classifier(3), flat[..., :1])
    np.testing.assert_allclose(features, 200 / 127.5 - 1, atol=1e-5)


def test_pictures_are_shrunk_without_aliasing() -> None:
    stripes = np.zeros((1, 32, 32, 1), np.uint8)
    stripes[:, :, 3::8] = stripes[:, :, 4::8] = 255
    features, _ = classifier_features(brightness_classifier(), stripes)
    expected = np.asarray(Image.fromarray(stripes[0, ..., 0]).resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(features, expected.mean() / 127.5 - 1, atol=0.02)


def test_sample_scores(tmp_path: Path) -> None:
    path = tmp_path / "quarters.keras"
    brightness_classifier().save(path)
    generator = np.random.default_rng(10)
    real = generator.integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    samples = np.zeros((8, 4, 4, 1), np.uint8)
    samples[:6, :2, :2] = 255  # six of class 0
    samples[6:, :2, 2:] = 255  # two of class 1
    scores = sample_scores(path, real, samples)
    quarters = [images.reshape(-1, 2, 2, 2, 2).mean((2, 4)).reshape(-1, 4) / 127.5 - 1 for images in (real, samples)]
    assert scores == {
        "frechet_distance": pytest.approx(frechet_distance(*quarters), rel=1e-4),
        "kernel_distance": pytest.approx(kernel_distance(*quarters), rel=1e-4),
        "confidence": pytest.approx(1 / (1 + math.exp(-6)), rel=1e-5),
        "rarest_class_fraction": 0.25,
        "commonest_class_fraction": 0.75,
        "class_entropy": pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)),
        "samples": 8,
        "real_images": 40,
        "classifier": f"quarters.keras {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}",
    }
    one_class = sample_scores(path, real, samples[:6])
    assert (one_class["rarest_class_fraction"], one_class["class_entropy"]) == (0, 0)
    assert one_class["commonest_class_fraction"] == 1
    other = sample_scores(path, real, samples, real[:8])["real_frechet_distance"]
    assert other == pytest.approx(frechet_distance(quarters[0], quarters[0][:8]), rel=1e-4)
    with pytest.raises(ValueError, match="other_real has 9 images, samples has 8"):
        sample_scores(path, real, samples, real[:9])


def test_files_that_are_no_classifier(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    with pytest.raises(InputError, match="absent.keras: there is no such file"):
        sample_scores(tmp_path / "absent.keras", images, images)
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"no model")
    with pytest.raises(InputError, match="broken.keras: cannot be loaded"):
        sample_scores(broken, images, images)
    inputs = keras.Input((4, 4, 1))
    keras.Model(inputs, keras.layers.Flatten()(inputs)).save(tmp_path / "one.keras")
    with pytest.raises(InputError, match="one.keras: 1 output"):
        sample_scores(tmp_path / "one.keras", images, images)


def classifier_of_halves(path: Path) -> Path:
    """Two attributes: the first is how bright a picture's left half is, the second how bright its right half is."""
    images = keras.Input((4, 4, 1))
    halves = keras.ops.mean(keras.ops.reshape(images, (-1, 4, 2, 2)), axis=(1, 3))
    keras.Model(images, [halves, 8.0 * halves]).save(path)
    return path


def test_edits_that_do_as_they_should_and_edits_that_do_not(tmp_path):
    path = classifier_of_halves(tmp_path / "classifier.keras")
    images = np.zeros((4, 4, 4, 1), np.uint8)
    images[:2] = 255  # two faces have both attributes, two neither

    def perfect(number, signs):
        edited = images.copy()
        edited[:, :, 2 * number : 2 * number + 2] = (127.5 + 127.5 * signs)[:, None, None, None]
        return edited

    def idle(number, signs):
        return images

    def of_both(number, signs):
        return np.broadcast_to((127.5 + 127.5 * signs)[:, None, None, None], images.shape).astype(np.uint8)

    def scores(edit):
        return edit_scores(path, ("left", "right"), images, edit)

    assert scores(perfect) == {"left_flip_rate": 1, "left_side_effect": 0, "right_flip_rate": 1, "right_side_effect": 0}
    assert scores(idle)["left_flip_rate"] == 0
    assert scores(of_both)["right_flip_rate"] == 1 and scores(of_both)["right_side_effect"] == pytest.approx(1)


def test_arithmetic_is_scored_by_what_the_classifier_finds_in_its_results(tmp_path):
    """Latents are the brightness of both halves: bright-bright less dark-bright and dark-dark is bright-dark."""
    path = classifier_of_halves(tmp_path / "classifier.keras")
    latents = np.random.default_rng(0).choice([-1.0, 1.0], (200, 2))

    def draw(latents):
        halves = (127.5 + 127.5 * np.clip(latents, -1, 1)).astype(np.uint8)
        return halves.repeat(2, axis=1)[:, None, :, None].repeat(4, axis=1)

    def scores(arithmetic):
        return arithmetic_scores(path, ("left", "right"), ("left",), "right", latents, draw, arithmetic, trials=20)

    found, chosen = scores(lambda a, b, c: a.mean(0) - b.mean(0) + c.mean(0))
    assert found == {"left_frequency": (latents[:, 0] > 0).mean(), "left_success_rate": 1, "left_right_rate": 0}
    kinds = [part[0].tolist() for part in chosen["left"].values()]
    assert kinds == [[1, 1], [-1, 1], [-1, -1]] and list(chosen["left"]) == [
        "a: left and right",
        "b: right",
        "c: neither",
    ]
    idle, _ = scores(lambda a, b, c: c.mean(0))
    assert idle["left_success_rate"] == 0
    latents[:] = 1.0
    assert scores(lambda a, b, c: c.mean(0)) == ({"left_frequency": 1.0}, {})


def test_distances_alone_are_those_of_sample_scores(tmp_path):
    path = classifier_of_halves(tmp_path / "classifier.keras")
    real, samples = np.random.default_rng(0).integers(0, 256, (2, 30, 4, 4, 1)).astype(np.uint8)
    both = sample_scores(path, real, samples)
    distances = set_distances(path, real, samples)
    assert distances == {name: both[name] for name in distances} and "frechet_distance" in distances


def test_a_classifier_of_other_attributes_is_refused(tmp_path):
    images = np.zeros((2, 4, 4, 1), np.uint8)
    with pytest.raises(InputError, match="expected features and 3 attributes"):
        edit_scores(classifier_of_halves(tmp_path / "classifier.keras"), ("a", "b", "c"), images, lambda n, s: images)
    with pytest.raises(InputError, match="no such file"):
        edit_scores(tmp_path / "none.keras", ("a", "b"), images, lambda n, s: images)
