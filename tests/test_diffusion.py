"""Diffusion: the path, the sampler and guidance, against Gaussian mixtures, whose velocity and score are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import integrate, stats

from common.data.labelled import Labelled, Split
from common.images.pixels import from_uint8
from common.images.reading import read_image
from common.images.writing import save_image
from common.runs.run import Run
from common.samples.handwriting import handwritten_digits
from common.system.files import InputError
from recipes import diffusion
from recipes.diffusion import Config

TINY = Config(
    size=16, channels=1, outputs=3, base_filters=8, levels=2, blocks=1, patch=2, steps=4, guidance=2.0, seed=3
)
OBJECTIVES = pytest.mark.parametrize("objective", ["flow", "ddpm"])
MEANS = np.array([[-0.6, -0.2], [0.5, 0.4], [0.1, -0.7]])  # of the three parts of a mixture in the plane
WEIGHTS = np.array([0.5, 0.3, 0.2])
DEVIATION = 0.08  # of each part, in each direction


def factors(t: np.ndarray, objective: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of image and noise, in double precision and independently of the recipe."""
    angle = np.pi / 2 * (0.01 + 0.99 * t)
    return (t, 1 - t) if objective == "flow" else (np.sin(angle), np.cos(angle))


def expected_image(x: np.ndarray, t: np.ndarray, objective: str, only: int = -1) -> np.ndarray:
    """Return E[image | x] of the mixture, or of one of its parts, for points x [n, 2] at times t [n, 1].

    Given the part k, x is normal with mean a m_k and variance v = a^2 s^2 + b^2, and image and x are jointly normal.
    """
    a, b = factors(t, objective)
    variance = a**2 * DEVIATION**2 + b**2
    means = MEANS if only < 0 else MEANS[[only]]
    weights = WEIGHTS if only < 0 else np.ones(1)
    distances = ((x[:, None] - a[:, None] * means) ** 2).sum(-1)
    logits = np.log(weights) - distances / (2 * variance)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    of_part = means + (a * DEVIATION**2 / variance)[:, None] * (x[:, None] - a[:, None] * means)
    return (chances[..., None] * of_part).sum(1)


def exact_prediction(x: np.ndarray, t: np.ndarray, objective: str, only: int = -1) -> np.ndarray:
    """Return the velocity E[image - noise | x] or the noise E[noise | x]; for t < 1."""
    a, b = factors(t, objective)
    image = expected_image(x, t, objective, only)
    noise = (x - a * image) / b
    return image - noise if objective == "flow" else noise


class Exact:
    """A U-Net that knows the answer: the best prediction for the mixture, as images of 1 x 2 pixels."""

    def __init__(self, objective: str) -> None:
        self.objective, self.calls = objective, 0

    def __call__(self, inputs: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        self.calls += 1
        x, t, labels = (np.asarray(each, np.float64) for each in inputs)
        only = int(labels[0].argmax()) if labels.any() else -1
        found = exact_prediction(x.reshape(-1, 2), t, self.objective, only)
        return tf.constant(found.reshape(x.shape), tf.float32)


def sampled(count: int, seed: int = 0) -> np.ndarray:
    """Return points of the mixture, [count, 2]."""
    rng = np.random.default_rng(seed)
    return MEANS[rng.choice(3, count, p=WEIGHTS)] + DEVIATION * rng.normal(size=(count, 2))


def as_points(x: tf.Tensor) -> np.ndarray:
    return np.asarray(x).reshape(-1, 2)


# The path


@OBJECTIVES
def test_image_and_noise_can_be_computed_from_the_point_and_the_target(objective):
    rng = np.random.default_rng(0)
    image, noise = (tf.constant(rng.normal(size=(5, 4, 4, 1)), tf.float32) for _ in range(2))
    t = tf.constant(rng.uniform(0.05, 0.95, (5, 1)), tf.float32)
    x = diffusion.mix(image, noise, t, objective)
    a, b = factors(np.asarray(t)[:, :, None, None], objective)
    np.testing.assert_allclose(x, a * image + b * noise, atol=1e-6)
    found = diffusion.separate(x, diffusion.target(image, noise, objective), t, objective)
    np.testing.assert_allclose(found[0], image, atol=1e-4)
    np.testing.assert_allclose(found[1], noise, atol=1e-4)


@OBJECTIVES
def test_a_path_begins_with_noise_and_ends_with_the_image(objective):
    image, noise = tf.ones((1, 2, 2, 1)), tf.fill((1, 2, 2, 1), -3.0)
    begin, end = (diffusion.mix(image, noise, tf.constant([[t]]), objective) for t in (0.0, 1.0))
    np.testing.assert_allclose(begin, noise, atol=0 if objective == "flow" else 0.02)
    np.testing.assert_allclose(end, image, atol=1e-6)


@OBJECTIVES
@pytest.mark.parametrize("time", [0.0, 0.3, 0.9])
def test_the_known_part_of_the_answer_is_a_linear_regression(objective, time):
    rng = np.random.default_rng(12)
    image, noise = 0.5 * rng.normal(size=100_000), rng.normal(size=100_000)
    a, b = factors(np.array(time), objective)
    x, wanted = a * image + b * noise, image - noise if objective == "flow" else noise
    slope = (x @ wanted) / (x @ x)
    known, scaled = (
        float(
            tf.squeeze(
                diffusion.precondition(tf.fill((1, 1, 1, 1), 1.0), output, tf.fill((1, 1, 1, 1), time), objective)
            )
        )
        for output in (0.0, 1.0)
    )
    assert known == pytest.approx(slope, abs=0.01)
    assert scaled - known == pytest.approx(np.std(wanted - slope * x), abs=0.01)


# The sampler


@pytest.mark.usefixtures("untraced")
@OBJECTIVES
def test_samples_that_follow_the_exact_prediction_have_the_distribution_of_the_data(objective):
    config = dataclasses.replace(TINY, objective=objective, steps=100, guidance=1.0)
    noise = tf.constant(np.random.default_rng(1).normal(size=(3000, 1, 2, 1)), tf.float32)
    *_, (x, _) = diffusion.follow(Exact(objective), noise, tf.zeros((3000, 3)), config)
    found, real = as_points(x), sampled(3000)
    for direction in ([1, 0], [0, 1], [0.6, 0.8], [0.6, -0.8]):
        assert stats.ks_2samp(found @ direction, real @ direction).pvalue > 1e-3
    nearest = ((found[:, None] - MEANS) ** 2).sum(-1).argmin(1)
    assert stats.chisquare(np.bincount(nearest, minlength=3), 3000 * WEIGHTS).pvalue > 1e-3
    with pytest.raises(AssertionError):  # the test would notice samples that are spread a fifth too widely
        for direction in ([1, 0], [0, 1]):
            wider = MEANS[nearest] + 1.2 * (found - MEANS[nearest])
            assert stats.ks_2samp((wider - MEANS[nearest]) @ direction, DEVIATION * real[:, 0]).pvalue > 1e-3


@pytest.mark.usefixtures("untraced")
@OBJECTIVES
def test_many_steps_equal_the_differential_equation(objective):
    """DDIM with all steps, and Euler's method, against scipy's solver of dx/dt = a' image + b' noise."""
    starts = np.random.default_rng(2).normal(size=(6, 2))

    def change(t: float, flat: np.ndarray) -> np.ndarray:
        x, times, h = flat.reshape(-1, 2), np.full((6, 1), t), 1e-6
        (a, b), (a_later, b_later) = (factors(times + step, objective) for step in (0, h))
        image = expected_image(x, times, objective)
        return ((a_later - a) / h * image + (b_later - b) / h * (x - a * image) / b).ravel()

    solved = integrate.solve_ivp(change, (0, 0.98), starts.ravel(), rtol=1e-8, atol=1e-8).y[:, -1].reshape(-1, 2)
    config = dataclasses.replace(TINY, objective=objective, steps=1000, guidance=1.0)
    x = tf.constant(starts.reshape(6, 1, 2, 1), tf.float32)
    states = [as_points(x) for x, _ in diffusion.follow(Exact(objective), x, tf.zeros((6, 3)), config)]
    np.testing.assert_allclose(states[979], solved, atol=0.01)
    assert np.abs(states[879] - solved).max() > 0.01  # a different time would be noticed


@pytest.mark.usefixtures("untraced")
@OBJECTIVES
def test_the_last_step_returns_the_predicted_image(objective):
    config = dataclasses.replace(TINY, objective=objective, steps=5)
    x = tf.constant(np.random.default_rng(3).normal(size=(4, 1, 2, 1)), tf.float32)
    *_, (last, image) = diffusion.follow(Exact(objective), x, tf.zeros((4, 3)), config)
    np.testing.assert_allclose(last, image, atol=1e-5)


# Guidance


@OBJECTIVES
def test_a_guidance_of_1_is_the_prediction_with_the_label_in_one_pass(objective):
    exact, t = Exact(objective), tf.fill((5, 1), 0.4)
    x = tf.constant(np.random.default_rng(4).normal(size=(5, 1, 2, 1)), tf.float32)
    labels = tf.one_hot([1] * 5, 3)
    image, noise = diffusion.estimate(exact, x, t, labels, 1.0, objective)
    assert exact.calls == 1
    np.testing.assert_allclose(as_points(image), expected_image(as_points(x), np.asarray(t), objective, 1), atol=1e-4)
    np.testing.assert_allclose(diffusion.mix(image, noise, t, objective), x, atol=1e-5)


@OBJECTIVES
def test_guidance_extrapolates_from_any_class_to_the_class(objective):
    exact, t = Exact(objective), tf.fill((5, 1), 0.4)
    x = tf.constant(np.random.default_rng(4).normal(size=(5, 1, 2, 1)), tf.float32)
    image, _ = diffusion.estimate(exact, x, t, tf.one_hot([1] * 5, 3), 3.0, objective)
    point, times = as_points(x), np.asarray(t, np.float64)
    any_class, of_class = (expected_image(point, times, objective, only) for only in (-1, 1))
    np.testing.assert_allclose(as_points(image), any_class + 3 * (of_class - any_class), atol=1e-4)


# Training


@pytest.mark.slow
@OBJECTIVES
def test_a_trained_field_is_the_exact_one(objective):
    """A small dense network, trained on points of the mixture by the recipe's own `train`."""
    points = sampled(20_000, seed=5)
    images = np.clip(np.round((points + 1) * 127.5), 0, 255).astype(np.uint8).reshape(-1, 1, 2, 1)

    def dense(name: str) -> keras.Model:
        x, t, labels = keras.Input((1, 2, 1)), keras.Input((1,)), keras.Input((3,))
        y = keras.layers.Concatenate()([keras.layers.Flatten()(x), t, labels])
        for seed in (1, 2, 3):
            y = keras.layers.Dense(64, "silu", kernel_initializer=keras.initializers.HeNormal(seed))(y)
        y = keras.layers.Dense(2, kernel_initializer=keras.initializers.HeNormal(4))(y)
        return keras.Model([x, t, labels], keras.layers.Reshape((1, 2, 1))(y), name=name)

    config = dataclasses.replace(
        TINY, objective=objective, batch_size=256, learning_rate=5e-3, ema_decay=0.99, epochs=12
    )
    networks = diffusion.Networks(dense("unet"), dense("ema"))
    diffusion.train(networks, (images, np.zeros(len(images), np.int32)), config)
    rng = np.random.default_rng(6)
    t = rng.uniform(0.2, 0.8, (2000, 1))
    a, b = factors(t, objective)
    x = a * sampled(2000, seed=7) + b * rng.normal(size=(2000, 2))
    inputs = [x.reshape(-1, 1, 2, 1), t, np.zeros((2000, 3))]
    found = as_points(networks.ema([tf.constant(each, tf.float32) for each in inputs]))
    exact = exact_prediction(x, t, objective)
    error, spread = np.mean((found - exact) ** 2), np.var(exact)
    assert error < 0.05 * spread


@pytest.mark.usefixtures("untraced")
def test_the_average_of_the_weights_is_that_of_the_formula():
    rng = np.random.default_rng(8)
    images, labels = rng.integers(0, 256, (8, 16, 16, 1)).astype(np.uint8), np.zeros(8, np.int32)
    config = dataclasses.replace(TINY, ema_decay=0.6, batch_size=8, learning_rate=1e-2, epochs=4)
    networks, seen = diffusion.build(config), []
    diffusion.train(
        networks, (images, labels), config, on_epoch=lambda *_: seen.append(networks.unet.weights[0].numpy())
    )
    average = seen[0]
    for number, weights in enumerate(seen[1:], 2):
        decay = min(0.6, 1 - 1 / number)
        average = decay * average + (1 - decay) * weights
    assert len(seen) == 4 and np.abs(seen[0] - seen[3]).max() > 1e-3
    np.testing.assert_allclose(networks.ema.weights[0], average, atol=1e-6)


# Use


@pytest.fixture(scope="module")
def networks() -> diffusion.Networks:
    made = diffusion.build(TINY)
    made.ema.set_weights(made.unet.get_weights())
    return made


def test_the_same_noise_gives_the_same_image_whatever_else_is_generated(networks):
    few = diffusion.generate(networks.ema, np.array([0, 1]), TINY, seed=5)
    many = diffusion.generate(networks.ema, np.arange(103) % 3, TINY, seed=5)
    assert many.shape == (103, 16, 16, 1) and many.dtype == np.uint8
    assert np.abs(many[:2].astype(int) - few).max() <= 1
    assert not np.array_equal(diffusion.generate(networks.ema, np.array([0, 1]), TINY, seed=6), few)


@pytest.mark.usefixtures("untraced")
def test_the_way_ends_with_the_generated_images(networks):
    way = diffusion.form(networks.ema, np.array([0, 2]), TINY, seed=1)
    assert way.shape == (TINY.steps + 1, 2, 16, 16, 1)
    np.testing.assert_array_equal(way[-1], diffusion.generate(networks.ema, np.array([0, 2]), TINY, seed=1))
    np.testing.assert_array_equal(way[0], diffusion.to_uint8(diffusion.noise_of(1, 2, TINY)))


@pytest.mark.usefixtures("untraced")
def test_a_walk_begins_and_ends_with_the_images_of_its_seeds(networks):
    frames = diffusion.walk(networks.ema, 1, TINY, 4, 9, 5)
    for frame, seed in ((frames[0], 4), (frames[-1], 9)):
        wanted = diffusion.generate(networks.ema, np.array([1]), TINY, seed)[0]
        assert np.abs(frame.astype(int) - wanted).max() <= 1
    with pytest.raises(InputError, match="different seeds"):
        diffusion.walk(networks.ema, 1, TINY, 4, 4)


def test_an_edit_of_small_strength_keeps_the_image_and_one_of_full_strength_does_not():
    """With the exact prediction for one image, whatever the noise was."""
    picture = np.random.default_rng(9).integers(0, 256, (1, 16, 16, 1)).astype(np.uint8)
    other = from_uint8(np.full((1, 16, 16, 1), 200, np.uint8))

    def towards_other(inputs: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        x, t, _ = inputs
        return (other - x) / tf.maximum(1 - t[:, :, None, None], 1e-3)

    edited = {s: diffusion.edit(towards_other, picture, 0, TINY, s).astype(int) for s in (0.01, 1.0)}
    assert np.abs(edited[1.0] - 200).max() <= 1
    near = np.random.default_rng(9).integers(0, 256, (1, 16, 16, 1))

    def towards_the_same(inputs: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        x, t, _ = inputs
        return (from_uint8(near.astype(np.uint8)) - x) / tf.maximum(1 - t[:, :, None, None], 1e-3)

    assert np.abs(diffusion.edit(towards_the_same, picture, 0, TINY, 0.01).astype(int) - picture).max() <= 1


@pytest.mark.usefixtures("untraced")
def test_inpainting_changes_only_what_the_mask_marks(networks):
    picture = np.random.default_rng(9).integers(0, 256, (2, 16, 16, 1)).astype(np.uint8)
    masks = np.zeros((2, 16, 16, 1), bool)
    masks[:, :, 8:] = True
    found = diffusion.inpaint(networks.ema, picture, masks, 1, TINY)
    np.testing.assert_array_equal(found[:, :, :8], picture[:, :, :8])
    assert np.mean(found[:, :, 8:] != picture[:, :, 8:]) > 0.8


@pytest.mark.usefixtures("untraced")
def test_inpainting_with_the_exact_prediction_agrees_with_the_known_pixel():
    """The first coordinate of the point is known; the second must come from the parts of the mixture that have it."""
    known = tf.fill((400, 1, 2, 1), float(MEANS[1, 0]))
    masks = np.zeros(known.shape, bool)
    masks[:, :, 1] = True
    config = dataclasses.replace(TINY, steps=40, guidance=1.0)
    noise = tf.constant(np.random.default_rng(1).normal(size=known.shape), tf.float32)
    *_, (x, _) = diffusion.follow(Exact("flow"), noise, tf.zeros((400, 3)), config, known=known, masks=masks)
    np.testing.assert_allclose(as_points(x)[:, 0], MEANS[1, 0], atol=1e-5)
    second = as_points(x)[:, 1]
    assert np.mean(np.abs(second - MEANS[1, 1]) < 4 * DEVIATION) > 0.97


def test_a_size_that_the_network_cannot_halve_is_refused():
    with pytest.raises(InputError, match="size must be a multiple of 4, got 30"):
        dataclasses.replace(TINY, size=30)


# Scores and commands


def test_the_recognised_as_class_is_that_of_the_classes_asked_for():
    images, labels, _ = handwritten_digits(120, 77)
    split = Split(images, labels.astype(np.int32))
    data = Labelled(split, split, split, tuple("0123456789"))
    by_label = {digit: images[labels == digit] for digit in range(10)}
    right = data.sample_scores(lambda wanted: np.stack([by_label[int(digit)][0] for digit in wanted]), 100)
    wrong = data.sample_scores(lambda wanted: np.stack([by_label[(int(digit) + 1) % 10][0] for digit in wanted]), 100)
    assert right["recognised_as_class"] >= 0.9 and wrong["recognised_as_class"] <= 0.05
    assert right["samples"] == 100 and "frechet_distance" in right
    assert data._replace(classes=tuple("abcdefghij")).sample_scores(lambda wanted: images[: len(wanted)], 100) == {}


@pytest.fixture
def run(tmp_path, networks) -> Path:
    folder = Run(tmp_path / "run", "diffusion", TINY, "sample")
    folder.start(("cat", "dog", "owl"))
    folder.finish(networks, lambda: {})
    return tmp_path / "run"


@pytest.mark.usefixtures("untraced")
def test_classes_are_chosen_by_name_or_index(run, tmp_path, networks):
    files = [
        diffusion.generate_file(tmp_path / f"of_{name}.png", name, count=2, run=run) for name in ("owl", "2", "Cat", "")
    ]
    by_name, by_index, of_cats, of_all = map(read_image, files)
    np.testing.assert_array_equal(by_name, by_index)
    assert not np.array_equal(by_name, of_cats) and not np.array_equal(of_all, by_name)
    with pytest.raises(InputError, match="'fish' is not one of the 3 classes"):
        diffusion.generate_file(tmp_path / "fish.png", "fish", run=run)


@pytest.mark.usefixtures("untraced")
def test_an_animation_shows_every_step_and_then_rests(run, tmp_path):
    path = diffusion.generate_file(tmp_path / "way.gif", count=3, steps=6, run=run)
    with Image.open(path) as film:
        durations = []
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
    assert sum(durations) == 100 * (6 + 1 + 10)


@pytest.mark.usefixtures("untraced")
def test_a_mask_without_white_is_explained(run, tmp_path):
    for name, value in (("photo", 100), ("mask", 0)):
        save_image(np.full((20, 20, 3), value, np.uint8), tmp_path / f"{name}.png")
    with pytest.raises(InputError, match="mask.png: has no white part"):
        diffusion.inpaint_file(tmp_path / "photo.png", tmp_path / "mask.png", tmp_path / "out.png", run=run)
    save_image(np.full((20, 20, 3), 255, np.uint8), tmp_path / "mask.png")
    diffusion.inpaint_file(tmp_path / "photo.png", tmp_path / "mask.png", tmp_path / "out.png", run=run)
    assert read_image(tmp_path / "out.png").shape == (16, 16, 3)


@pytest.mark.usefixtures("untraced")
def test_a_folder_of_images_is_edited(run, tmp_path):
    for name in "ab":
        save_image(np.full((30, 20, 3), 100, np.uint8), tmp_path / "in" / f"{name}.jpg")
    diffusion.edit_file(tmp_path / "in", tmp_path / "out", "dog", steps=3, run=run)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "b.jpg"]
