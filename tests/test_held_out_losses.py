"""Losses of held-out images after each epoch, against the same losses in NumPy and SciPy."""

from __future__ import annotations

import dataclasses
import importlib

import keras
import numpy as np
import pytest
from scipy import stats

from common.data.batches import Batches
from common.training import Execution, Noise, executing
from common.training.loop import UNSUMMED
from recipes import adversarial_autoencoder, vae, vae_faces
from tests.pictures import noise, unit
from tests.test_contract import tiny, tiny_arrays

pytestmark = pytest.mark.usefixtures("untraced")


def validated(monkeypatch, name, config, held_out):
    """Return untrained networks, and the columns that their recipe adds to the history for held-out examples."""
    module = importlib.import_module(f"recipes.{name}")
    monkeypatch.setattr(module, "fit", lambda *_, on_epoch, **__: on_epoch[1](1, {}))
    networks, stream = module.build(config), Batches.of(tiny_arrays(name, config), config.batch_size, config.seed)
    assert module.train(networks, stream, config) == {}
    return networks, module.train(networks, stream._replace(held_out=held_out), config)


def divergence(mean, log_variance):
    """Return the KL divergence from the standard normal, as the entropies of SciPy say it."""
    deviation = np.exp(np.float64(log_variance) / 2)
    cross_entropy = 0.5 * (np.log(2 * np.pi) + np.float64(mean) ** 2 + deviation**2)
    return (cross_entropy - stats.norm(mean, deviation).entropy()).sum(axis=1).mean()


def test_vae(monkeypatch):
    config = tiny(vae, "vae")
    images = noise(5, 8, 8, 3, seed=3)
    networks, row = validated(monkeypatch, "vae", config, (images,))
    fixed = Noise(config.seed)
    binary = (fixed.uniform(images.shape).numpy() < images / np.float32(255)).astype(np.float32)
    mean, log_variance = (part.numpy() for part in networks.encoder(2 * binary - 1))
    latents = mean + np.exp(log_variance / 2) * fixed.normal(mean.shape)
    chance = 1 / (1 + np.exp(-np.float64(networks.decoder(latents))))
    likelihood = stats.bernoulli(chance).logpmf(binary.astype(int)).sum(axis=(1, 2, 3)).mean()
    assert set(row) == {"validation_reconstruction", "validation_elbo"}
    assert row["validation_reconstruction"] == pytest.approx(-likelihood, rel=1e-5)
    assert row["validation_elbo"] == pytest.approx(likelihood - divergence(mean, log_variance), rel=1e-5)


def test_vae_of_faces(monkeypatch):
    config = tiny(vae_faces, "vae_faces")
    images = noise(53, 16, 16, 3, seed=3)  # more than are decoded at once
    networks, row = validated(monkeypatch, "vae_faces", config, (images,))
    mean, log_variance = (part.numpy() for part in networks.encoder(np.float32(unit(images))))
    fixed = Noise(config.seed)
    sampled = np.concatenate([fixed.normal((50, 2)), fixed.normal((3, 2))])
    decoded = networks.decoder(mean + np.exp(log_variance / 2) * sampled).numpy()
    best = np.sqrt(np.mean((unit(images) - decoded) ** 2))
    expected = -stats.norm(decoded, best).logpdf(unit(images)).sum() / len(images)
    assert row["validation_reconstruction"] == pytest.approx(expected, rel=1e-5)
    assert row["validation_kl"] == pytest.approx(divergence(mean, log_variance), rel=1e-4)


@pytest.mark.parametrize("labels", ["discriminator", "decoder", "few"])
def test_adversarial_autoencoder(labels, monkeypatch):
    config = tiny(adversarial_autoencoder, "adversarial_autoencoder", labels=labels, dropout=0.5)
    images, classes = noise(5, 8, 8, 1, seed=3), np.array([0, 1, 1, 0, 1])
    held_out: tuple[np.ndarray, ...] = images, classes
    if labels == "few":  # also labelled images
        held_out = images, 255 - images, 1 - classes
    networks, row = validated(monkeypatch, "adversarial_autoencoder", config, held_out)
    outputs = networks.encoder(np.float32(unit(images))).numpy()
    codes = outputs[:, : config.latent_dim]
    if labels == "few":
        chances = np.exp(outputs[:, config.latent_dim :])
        codes = np.hstack([codes, chances / chances.sum(axis=1, keepdims=True)])
    elif labels == "decoder":
        codes = np.hstack([codes, np.eye(2, dtype="f")[classes]])
    chance = (networks.decoder(codes) + 1) / 2
    expected = keras.losses.binary_crossentropy(images / np.float32(255), chance).numpy().mean()
    assert row["validation_reconstruction"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "vae_faces", "adversarial_autoencoder"])
def test_training_is_the_same_with_held_out_images(name):
    module = importlib.import_module(f"recipes.{name}")
    config = tiny(module, name)
    arrays = tiny_arrays(name, config)
    plain, found = Batches.of(arrays, 2, 0), []
    for stream in (plain, plain._replace(held_out=arrays)):
        networks = module.build(config)
        found.append((networks, module.train(networks, stream, config)))
    (alone, rows), (networks, scored) = found
    for row, other in zip(rows, scored, strict=True):
        losses = [name for name in row if name not in UNSUMMED]
        assert losses and [row[name] for name in losses] == [other[name] for name in losses]
        assert "validation_reconstruction" in other.keys() - row.keys()
    for network, same in zip(alone, networks, strict=True):
        for weight, other in zip(network.get_weights(), same.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, other)


def test_at_most_200_examples_are_used_evenly_spaced():
    many, few = np.arange(399), np.arange(3)
    stream = Batches.of(noise(4, 8, 8, 1), 2, 0)._replace(held_out=(many, few))
    some, all_of_few = stream.some_held_out()
    assert len(some) == 200 and (some[0], some[-1]) == (0, 398) and np.diff(some).min() > 0
    np.testing.assert_array_equal(all_of_few, few)
    assert stream._replace(held_out=()).some_held_out() == ()


def test_the_epoch_with_the_highest_elbo_is_kept_on_request():
    config = tiny(vae, "vae", epochs=4, learning_rate=0.1)  # the first epoch is the best
    stream = Batches.of(noise(4, 8, 8, 3), 4, 0)._replace(held_out=(noise(3, 8, 8, 3, seed=1),))
    networks, seen = vae.build(config), []
    with executing(Execution(keep_best="validation_elbo")):
        keep = networks.decoder.get_weights
        history = vae.train(networks, stream, config, on_epoch=lambda epoch, losses: seen.append(keep()))
    best = int(np.argmax([row["validation_elbo"] for row in history]))
    assert best < 3
    for weight, other in zip(networks.decoder.get_weights(), seen[best], strict=True):
        np.testing.assert_array_equal(weight, other)


def test_patience_stops_the_training_of_faces_and_keeps_the_best_epoch(monkeypatch):
    config = tiny(vae_faces, "vae_faces", epochs=9, patience=2)
    values, seen = iter([3.0, 1.0, 2.0, 1.5]), []
    stream = Batches.of(noise(4, 16, 16, 3), 4, 0)._replace(held_out=(noise(3, 16, 16, 3, seed=1),))
    monkeypatch.setattr(vae_faces, "held_out_losses", lambda *_: {"validation_reconstruction": next(values)})
    networks = vae_faces.build(config)
    keep = networks.decoder.get_weights
    history = vae_faces.train(networks, stream, config, on_epoch=lambda epoch, losses: seen.append(keep()))
    assert len(history) == 4
    for weight, other in zip(networks.decoder.get_weights(), seen[1], strict=True):
        np.testing.assert_array_equal(weight, other)
    config = dataclasses.replace(config, epochs=1)  # no held-out faces: no effect
    assert len(vae_faces.train(vae_faces.build(config), stream._replace(held_out=()), config)) == 1
