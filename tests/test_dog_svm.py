from __future__ import annotations

import json
import warnings

import keras
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import approx_fprime
from skimage.transform import pyramid_gaussian
from skimage.util import view_as_windows
from sklearn.svm import LinearSVC

from common.data.batches import batches
from common.data.synthetic import SET_CLASSES, SETS
from recipes import dog_svm
from recipes.dog_svm import PYRAMID, SIGMAS, Config, build, classify, extract_features, svm_objective, train


def pictures(count: int, size: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


@pytest.mark.parametrize("size", [28, 17, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_pyramid_features_are_those_of_scikit_image(size, channels):
    images = pictures(3, size, channels)
    expected = [
        np.concatenate([level.ravel() for level in pyramid_gaussian(image / 255, channel_axis=-1)]) for image in images
    ]
    config = Config(features="pyramid", size=size, channels=channels)
    features = extract_features(build(config).features, images)
    assert features.dtype == np.float32 and (features[:, -1] == 1).all()
    np.testing.assert_allclose(features[:, :-1], expected, atol=1e-6)


def test_differences_of_gaussians_and_the_last_blur_add_up_to_the_image():
    network = build(Config()).features
    parts = [layer.output for layer in network.layers if isinstance(layer, keras.layers.Subtract)]
    (last,) = [layer.input for layer in network.layers if getattr(layer, "pool_size", None) == (1, 1)]
    assert len(parts) == len(SIGMAS)
    image = pictures(2, 28) / np.float32(255)
    *differences, blur = keras.Model(network.input, [*parts, last])(image)
    np.testing.assert_allclose(sum(part.numpy() for part in differences) + blur.numpy(), image, atol=1e-6)


def test_difference_features_are_those_that_scipy_and_scikit_image_give():
    images = pictures(2, 20)
    expected = []
    for image in images[..., 0] / 255:
        finer, found = image, []
        for sigma in SIGMAS:
            coarser = gaussian_filter(image, sigma, mode="reflect")
            for part in (finer - coarser, coarser - finer):
                cells = view_as_windows(np.maximum(part, 0), (4, 4), 2).mean((2, 3))
                found.append(np.sqrt(cells).ravel())
            finer = coarser
        expected.append(np.concatenate([*found, finer[::2, ::2].ravel(), [1]]))
    np.testing.assert_allclose(
        extract_features(build(Config(size=20)).features, images), expected, atol=2e-4
    )  # roots of 1e-8


def test_directional_features_are_those_that_scipy_and_scikit_image_give():
    images = pictures(2, 20)
    config = Config(size=20, features="oriented")
    found = extract_features(build(config).features, images)
    plain = extract_features(build(Config(size=20)).features, images)
    np.testing.assert_allclose(found[:, : plain.shape[1] - 1], plain[:, :-1], atol=1e-6)
    expected = []
    for image in images[..., 0] / 255:
        cells = []
        for sigma in (0, *SIGMAS[:2]):
            blurred = gaussian_filter(image, sigma, mode="reflect") if sigma else image
            down, right = np.gradient(blurred)
            down[[0, -1]], right[:, [0, -1]] = 0, 0  # no neighbour on one side
            for number in range(8):
                slope = np.cos(number * np.pi / 4) * right + np.sin(number * np.pi / 4) * down
                windows = view_as_windows(np.maximum(slope, 0), (4, 4), 2)
                cells.append(np.sqrt(windows.mean((2, 3))).ravel())
        expected.append(np.concatenate([*cells, [1]]))
    np.testing.assert_allclose(found[:, plain.shape[1] - 1 :], expected, atol=2e-4)  # roots of 1e-8


def problem(count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three overlapping clouds, their labels, and the signs of one class against the rest."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, count)
    features = generator.normal(size=(count, 6)) + 1.5 * np.eye(6)[labels]
    features[:, -1] = 1
    return features.astype(np.float32), labels, np.where(labels[:, None] == np.arange(3), 1, -1).astype(np.float32)


def test_the_gradient_is_that_of_the_objective():
    features, _, signs = problem()
    weights = np.random.default_rng(2).normal(size=(6, 3))

    def objective(flat: np.ndarray) -> float:
        violation = np.maximum(0, 1 - signs * (features.astype(np.float64) @ flat.reshape(6, 3)))
        return 0.5 * np.sum(flat**2) + 0.3 * np.sum(violation**2)

    value, gradient, _ = svm_objective(weights, features, signs, 0.3)
    assert value == pytest.approx(objective(weights.ravel()), rel=1e-6)
    np.testing.assert_allclose(gradient.ravel(), approx_fprime(weights.ravel(), objective), rtol=1e-3, atol=1e-2)


def test_the_minimum_that_scikit_learn_finds_lies_between_objective_and_bound():
    features, labels, signs = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = LinearSVC(C=0.3, dual=False, fit_intercept=False, tol=1e-10).fit(features, labels)
    least, gradient, bound = svm_objective(other.coef_.T, features, signs, 0.3)
    assert np.abs(gradient).max() < 1e-2
    assert bound == pytest.approx(least, rel=1e-4)
    for weights in np.random.default_rng(3).normal(size=(20, 6, 3)):
        value, _, below = svm_objective(weights, features, signs, 0.3)
        assert below <= least * (1 + 1e-6) and value >= least


def images_of_classes(count: int, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A bright square on noise, at one of three places."""
    generator = np.random.default_rng(count)
    labels = generator.integers(0, 3, count).astype(np.int32)
    images = generator.integers(0, 120, (count, size, size, 1))
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3, 4:8] += generator.integers(0, 130)
    return images.astype(np.uint8), labels


@pytest.mark.slow
def test_the_fit_is_that_of_scikit_learn():
    images, labels = images_of_classes(200)
    held_out = images_of_classes(90)
    config = Config(size=12, outputs=3, tolerance=1e-5)
    networks = build(config)
    history = train(networks, batches((images, labels), 50, 0, held_out=held_out), config)
    assert history[-1]["duality_gap"] <= 1e-5
    features = extract_features(networks.features, images)
    other = LinearSVC(C=1, dual=False, fit_intercept=False, tol=1e-8, max_iter=10_000).fit(features, labels)
    (kernel,) = networks.classifier.get_weights()
    scale = np.linalg.norm(kernel) / np.linalg.norm(other.coef_)  # which turns margins into probabilities
    np.testing.assert_allclose(kernel / scale, other.coef_.T, atol=0.01 * np.abs(other.coef_).max())
    found = classify(networks, held_out[0])
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert np.mean(found.argmax(1) == other.predict(extract_features(networks.features, held_out[0]))) > 0.98


@pytest.mark.slow
def test_a_fit_that_is_stopped_early_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "clothes", lambda size, seed: images_of_classes(100, size))
    monkeypatch.setitem(SET_CLASSES, "clothes", ("left", "middle", "right"))
    for epochs, converged in ((2, "no"), (500, "yes")):
        run = tmp_path / converged
        dog_svm.run("sample", Config(size=12, epochs=epochs), run)
        results = json.loads((run / "results.json").read_text())
        assert results["converged"] == converged and results["iterations"] <= epochs


def test_pyramid_has_as_many_features_as_its_levels_have_pixels():
    assert build(PYRAMID).features.output_shape[1] == 28**2 + 14**2 + 7**2 + 4**2 + 2**2 + 1 + 1
