from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.data.batches import batches
from common.images import read_image
from common.runs import Run
from recipes.gan import (
    Config,
    build,
    discriminator_loss,
    generate,
    generate_file,
    generator_loss,
    pairing_loss,
    squared_gradient,
    train,
)

SMALL = {"size": 8, "latent_dim": 6, "units": 8, "discriminator_units": 16, "batch_size": 4}


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """Return bright squares at random places, all different."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 60, (count, 8, 8, 1))
    for image, (row, column) in zip(images, generator.integers(0, 6, (count, 2)), strict=True):
        image[row : row + 3, column : column + 3] += 180
    return images.astype(np.uint8)


def checks(count: int, seed: int = 0) -> np.ndarray:
    """Return black and white noise whose upper half is the negative of the lower one."""
    half = np.random.default_rng(seed).integers(0, 2, (count, 4, 8, 1))
    return (255 * np.concatenate([half, 1 - half], axis=1)).astype(np.uint8)


def test_parameters_counted_by_hand():
    """100-256-512-1024-784 with four numbers a unit for normalisation, and 784-784-392-1."""
    networks = build()
    widths = [100, 256, 512, 1024, 784]
    dense = sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))
    assert networks.generator.count_params() == dense + 4 * (256 + 512 + 1024)
    widths = [784, 784, 392, 1]
    assert networks.discriminator.count_params() == sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))


def test_losses_against_their_formulas():
    real, fake = np.array([2.0, -1.0]), np.array([-0.3, 1.2])
    expected = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()
    tensors = [tf.constant(values[:, None], tf.float32) for values in (real, fake)]
    assert float(discriminator_loss(*tensors)) == pytest.approx(expected, rel=1e-6)
    assert float(generator_loss(tensors[1])) == pytest.approx(np.log1p(np.exp(-fake)).mean(), rel=1e-6)
    assert float(discriminator_loss(tf.zeros((3, 1)), tf.zeros((3, 1)))) == pytest.approx(2 * np.log(2))


def test_the_relativistic_loss_and_the_penalty_against_their_formulas():
    real, fake = np.array([2.0, -1.0]), np.array([-0.3, 1.2])
    tensors = [tf.constant(values[:, None], tf.float32) for values in (real, fake)]
    assert float(pairing_loss(*tensors)) == pytest.approx(np.log1p(np.exp(real - fake)).mean(), rel=1e-6)
    discriminator = build(Config(**SMALL | {"dropout": 0.0})).discriminator
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    first, shift, second, other_shift, last, _ = discriminator.get_weights()
    hidden = x.reshape(3, 64) @ first + shift
    slopes = np.where(hidden > 0, 1, 0.2)
    outer = np.where((hidden * slopes) @ second + other_shift > 0, 1, 0.2)
    gradients = ((outer * last[:, 0]) @ second.T * slopes) @ first.T
    found = float(squared_gradient(discriminator, tf.constant(x)))
    assert found == pytest.approx(np.sum(gradients**2, axis=1).mean(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "images", "expected"),
    [
        ({"units": 1}, blobs, "mode collapse: generated images are nearly equal"),
        (
            {"discriminator_units": 512, "dropout": 0.0, "learning_rate": 0.001, "epochs": 80},
            checks,
            "the discriminator dominates",
        ),
    ],
    ids=["collapse", "one-sided"],
)
def test_failures_stand_in_the_progress_and_in_the_report(changes, images, expected, tmp_path, capsys):
    """One latent gives near-equal images; a much larger discriminator recognises every generated checkerboard."""
    config = Config(**SMALL | {"epochs": 8, "latent_dim": 1, "learning_rate": 0.01} | changes)
    stream = batches(images(96), config.batch_size, 0, held_out=(images(60, 1),))
    train(build(config), stream, config, tmp_path)
    (warnings,) = json.loads((tmp_path / "warnings.json").read_text()).values()
    assert any(expected in warning for warning in warnings), warnings
    assert expected in "".join(capsys.readouterr()) and expected in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("untraced")
def test_after_training_the_generator_has_the_mean_of_its_weights():
    modern = {"loss": "relativistic", "gradient_penalty": 1.0, "final_rate": 0.1, "ema_decay": 0.6}
    config = Config(**SMALL | modern | {"epochs": 3, "learning_rate": 0.01})
    networks, seen = build(config), []
    train(
        networks,
        blobs(8),
        config,
        steps_per_epoch=1,
        on_epoch=lambda epoch, losses: seen.append(networks.generator.get_weights()),
    )
    half = [(first + second) / 2 for first, second in zip(seen[0], seen[1], strict=True)]
    for found, mean, last in zip(networks.generator.get_weights(), half, seen[2], strict=True):
        np.testing.assert_allclose(found, 0.6 * mean + 0.4 * last, atol=1e-5)
        assert not np.allclose(found, last, atol=1e-5)


def test_the_same_seed_generates_the_same_images():
    generator = build(Config(**SMALL)).generator
    many = generate(generator, 300, seed=5)
    assert many.shape == (300, 8, 8, 1) and many.dtype == np.uint8
    np.testing.assert_array_equal(many, generate(generator, 300, seed=5))
    assert not np.array_equal(many, generate(generator, 300, seed=6))
    with pytest.raises(ValueError, match="count must be 1 or more and keep from 1 to 100, got 0 and 100"):
        generate(generator, 0)


def test_the_discriminator_keeps_the_images_with_the_highest_logits():
    generator, discriminator = build(Config(**SMALL))
    every = generate(generator, 300, seed=5)
    logits = discriminator.predict(generator.predict(keras.random.normal((300, 6), seed=5)), verbose=0)[:, 0]
    expected = []
    for start in range(0, 300, 100):
        best = np.argsort(logits[start : start + 100])[-30:]
        expected.extend(every[start + np.sort(best)])
    found = generate(generator, 75, 5, discriminator, keep=30)
    np.testing.assert_array_equal(found, expected[:75])
    np.testing.assert_array_equal(found[:2], generate(generator, 2, 5, discriminator, keep=30))
    np.testing.assert_array_equal(every[:9], generate(generator, 9, 5, discriminator))
    np.testing.assert_array_equal(every[:9], generate(generator, 9, 5, keep=30))
    with pytest.raises(ValueError, match="keep from 1 to 100, got 2 and 0"):
        generate(generator, 2, keep=0)


def test_generated_files_are_selected_as_in_the_run_unless_told_otherwise(tmp_path):
    config = Config(**SMALL, keep=40)
    Run(tmp_path, "gan", config, "sample").start()
    networks = build(config)
    for name, network in networks._asdict().items():
        network.save(tmp_path / f"{name}.keras")
    for given, used in ((0, 40), (100, 100), (20, 20)):
        generate_file(tmp_path / "images", 3, seed=3, keep=given, singles=True, run=tmp_path)
        found = [read_image(tmp_path / "images" / f"00000{number}.png", 1) for number in range(3)]
        np.testing.assert_array_equal(found, generate(networks.generator, 3, 3, networks.discriminator, used))


def test_hyperparameters_out_of_range():
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        Config(size=8, channels=2)


def test_files(tmp_path):
    config = Config(**SMALL)
    Run(tmp_path / "run", "gan", config, "sample").start()
    build(config).generator.save(tmp_path / "run" / "generator.keras")
    with Image.open(generate_file(tmp_path / "grid.png", 10, run=tmp_path / "run")) as grid:
        assert grid.width > 8 * 8
    generate_file(tmp_path / "singles", 5, singles=True, run=tmp_path / "run")
    assert len(list((tmp_path / "singles").iterdir())) == 5


def test_an_array_and_a_dataset_train_without_diversity():
    config = Config(**SMALL | {"epochs": 1})
    images = blobs(10)
    seen = []
    history = train(build(config), images, config, steps_per_epoch=2, on_epoch=lambda epoch, row: seen.append(epoch))
    assert seen == [1] and "diversity" not in history[0] and np.isfinite(history[0]["discriminator"])
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(4, drop_remainder=True)
    assert np.isfinite(train(build(config), dataset, config)[0]["generator"])
