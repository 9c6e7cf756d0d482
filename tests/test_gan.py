from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.batches import batches
from common.runs import start_run
from recipes import gan
from recipes.gan import Config, build, discriminator_loss, generate, generate_file, generator_loss, train

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "images", "expected"),
    [
        ({"units": 1}, blobs, "samples are copies of each other"),
        (
            {"discriminator_units": 512, "dropout": 0.0, "learning_rate": 0.001, "epochs": 80},
            checks,
            "the discriminator has won",
        ),
    ],
    ids=["collapse", "one-sided"],
)
def test_failures_stand_in_the_progress_and_in_the_report(changes, images, expected, tmp_path, capsys):
    """One latent, or pictures so rich that a discriminator which is much the larger sees through all of them."""
    config = Config(**SMALL | {"epochs": 8, "latent_dim": 1, "learning_rate": 0.01} | changes)
    stream = batches(images(96), config.batch_size, 0, held_out=(images(60, 1),))
    train(build(config), stream, config, tmp_path)
    (warnings,) = json.loads((tmp_path / "warnings.json").read_text()).values()
    assert any(expected in warning for warning in warnings), warnings
    assert expected in "".join(capsys.readouterr()) and expected in (tmp_path / "report.html").read_text()


def test_the_same_seed_draws_the_same_images():
    generator = build(Config(**SMALL)).generator
    many = generate(generator, 300, seed=5)
    assert many.shape == (300, 8, 8, 1) and many.dtype == np.uint8
    np.testing.assert_array_equal(many, generate(generator, 300, seed=5))
    assert not np.array_equal(many, generate(generator, 300, seed=6))
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        generate(generator, 0)


def test_settings_it_cannot_take():
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        build(Config(size=8, channels=2))


def test_files(tmp_path, monkeypatch):
    config = Config(**SMALL)
    start_run(tmp_path / "run", "gan", config, "sample")
    monkeypatch.setattr(gan, "load_network", lambda *_: build(config).generator)
    with Image.open(generate_file(tmp_path / "grid.png", 10, run=tmp_path / "run")) as grid:
        assert grid.width > 8 * 8
    generate_file(tmp_path / "singles", 5, singles=True, run=tmp_path / "run")
    assert len(list((tmp_path / "singles").iterdir())) == 5
