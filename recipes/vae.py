"""VAE: learn a smooth space of digits, draw new ones from it, and say in nats how well it explains unseen ones.

Paper    Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114; the importance-weighted
         bound: Burda et al. 2016, arXiv:1509.00519; the weight of the KL term: Higgins et al., "beta-VAE", ICLR 2017.
Images   uint8 [n, size, size, channels] at the borders; inside binary, -1 and 1, drawn anew at every step with the
         grey value as the probability of white (a fixed threshold gives other data, and better numbers).
Latents  float32 [n, latent_dim], standard normal before an image is seen.
Logits   float32 [n, size, size, channels]; their sigmoid is the probability that a pixel is white.
Differs  1. Two hidden layers of 500 and 50 latents, the usual shape of later papers, in place of one layer of 500.
         2. SiLU and Adam in place of tanh and Adagrad; the learning rate falls to 0 along a cosine.
Run      python -m recipes.vae  # the demo: handwritten digits, offline
         python -m recipes.vae train --preset paper --data mnist --fetch        # MNIST, fetched once
         python -m recipes.vae train --data DIR --output-dir runs/mine          # a folder of your own drawings
         python -m recipes.vae generate grid.png --count 64 --run runs/mine
         python -m recipes.vae reconstruct in.png out.png --run runs/mine  # what the latents keep of it
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.batches import Batches, mapped
from common.cli import run_command
from common.digits import digits_or_others
from common.errors import InputError
from common.images import from_uint8, save_grid, save_table, write_image
from common.labelled import image_batches, square_image
from common.latents import save_scatter
from common.lazy import keras, tf
from common.runs import check_run, finish_run, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration


@dataclass(frozen=True, kw_only=True)
class Config:
    """The shape on which bounds for binary MNIST are usually compared; two latents can be looked at."""

    size: int = 28  # pixels
    channels: int = 1  # 3 for colour
    latent_dim: int = 50
    units: int = 500  # of each of the two hidden layers, in both networks
    kl_weight: float = 1.0  # 1 makes the loss a bound; less gives sharper copies and worse samples, more the reverse
    batch_size: int = 100
    learning_rate: float = 1e-3  # Adam; falls to 0 along a cosine
    epochs: int = 100
    importance_samples: int = 100  # draws an image for the importance-weighted bound of the test images
    seed: int = 0


DEMO = Config(latent_dim=2, epochs=300, batch_size=50)
DEMO_RUN = Path("runs/vae-demo")

# %% Networks


class Networks(NamedTuple):
    """An approximate posterior in two parts, and the likelihood."""

    encoder: keras.Model  # images [n, size, size, channels] in [-1, 1] -> mean and log variance [n, latent_dim] each
    sampler: keras.Model  # mean, log variance -> latents [n, latent_dim]: drawn in training, else the mean
    decoder: keras.Model  # latents -> logits [n, size, size, channels]


def build(config: Config = Config()) -> Networks:
    """Return the three networks, untrained. Raises ValueError for a size below 4."""
    layers = keras.layers
    if config.size < 4 or config.channels not in (1, 3):
        raise InputError(f"size must be 4 or more and channels 1 or 3, got {config.size} and {config.channels}")
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}
    shape = (config.size, config.size, config.channels)

    images = keras.Input(shape, name="images")
    x = layers.Dense(config.units, activation="silu", **init)(layers.Flatten()(images))
    x = layers.Dense(config.units, activation="silu", **init)(x)
    posterior = [layers.Dense(config.latent_dim, name=name, **init)(x) for name in ("mean", "log_variance")]
    encoder = keras.Model(images, posterior, name="encoder")

    mean, log_variance = (keras.Input((config.latent_dim,), name=name) for name in ("mean", "log_variance"))
    noise = layers.GaussianNoise(1.0, seed=config.seed)(keras.ops.zeros_like(mean))  # none outside of training
    drawn = mean + keras.ops.exp(log_variance / 2) * noise  # the reparameterisation: gradients pass (section 2.4)
    sampler = keras.Model([mean, log_variance], drawn, name="sampler")

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(config.units, activation="silu", **init)(latents)
    x = layers.Dense(config.units, activation="silu", **init)(x)
    logits = layers.Reshape(shape)(layers.Dense(int(np.prod(shape)), **init)(x))
    decoder = keras.Model(latents, logits, name="decoder")
    return Networks(encoder, sampler, decoder)


# %% Losses


def log_likelihood(binary: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return log p(x | z) in nats, [n]: a sum over pixels; -543 = -784 log 2 for 28 px when nothing is known."""
    return -tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(binary, logits), axis=(1, 2, 3))


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Return KL(q(z | x) || N(0, I)) in nats, [n] (appendix B); 0 says that the latents hold nothing."""
    return 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - 1.0 - log_variance, axis=1)


def log_weights(networks: Networks, binary: tf.Tensor, noise: keras.random.SeedGenerator) -> tf.Tensor:
    """Return log p(x, z) / q(z | x) in nats for one drawn z an image, [n]; its mean is the evidence lower bound."""
    mean, log_variance = networks.encoder(2.0 * binary - 1.0, training=False)
    draws = keras.random.normal(tf.shape(mean), seed=noise)
    latents = mean + tf.exp(log_variance / 2) * draws
    prior_over_posterior = 0.5 * tf.reduce_sum(draws**2 + log_variance - latents**2, axis=1)
    return log_likelihood(binary, networks.decoder(latents, training=False)) + prior_over_posterior


# %% Training


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images; return each epoch's means, in nats an image."""
    encoder, sampler, decoder = networks
    variables = encoder.trainable_variables + decoder.trainable_variables
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(variables)
    noise = keras.random.SeedGenerator(config.seed + 1)

    @tf.function
    def step(images: tf.Tensor) -> dict[str, tf.Tensor]:
        grey = (from_uint8(images) + 1.0) / 2.0
        binary = tf.cast(keras.random.uniform(tf.shape(grey), seed=noise) < grey, tf.float32)
        with tf.GradientTape() as tape:
            mean, log_variance = encoder(2.0 * binary - 1.0, training=True)
            logits = decoder(sampler([mean, log_variance], training=True), training=True)
            reconstruction = share(-tf.reduce_mean(log_likelihood(binary, logits)))
            kl = share(tf.reduce_mean(kl_divergence(mean, log_variance)))
            loss = reconstruction + config.kl_weight * kl
        optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    def sample(epoch: int) -> None:
        if output_dir is not None:
            save_grid(generate(decoder, 64), output_dir / "samples" / f"epoch-{epoch:04d}.png")

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    return fit(step, data, epochs=config.epochs, state=state, output_dir=output_dir, on_epoch=sample)


# %% Use


def decode(decoder: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Return the probability of white as grey, uint8 [n, size, size, channels], for latents [n, latent_dim]."""
    return np.round(255 * tf.sigmoid(mapped(decoder, latents)).numpy()).astype(np.uint8)


def generate(decoder: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Return `count` new images, uint8 [count, size, size, channels], from standard normal latents."""
    return decode(decoder, keras.random.normal((count, decoder.input_shape[-1]), seed=seed).numpy())


def reconstruct(networks: Networks, images: np.ndarray) -> np.ndarray:
    """Return what the means of the latents keep of images, uint8 [n, size, size, channels] both."""
    return decode(networks.decoder, mapped(networks.encoder, from_uint8(images))[0])


def manifold(decoder: keras.Model, side: int = 20) -> np.ndarray:
    """Return the plane of two latents decoded at quantiles of the normal, uint8 [side * side, size, size, channels]."""
    from scipy.stats import norm

    at = norm.ppf(np.linspace(0.5 / side, 1 - 0.5 / side, side)).astype(np.float32)  # appendix A
    return decode(decoder, np.stack(np.meshgrid(at, -at), axis=-1).reshape(-1, 2))


def bounds(networks: Networks, binary: np.ndarray, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the evidence lower bound and, between it and log p(x), the importance-weighted one (Burda, equation 8).

    In nats for each binary image, float64 [n], from `samples` draws of z.
    """
    draw = tf.function(functools.partial(log_weights, networks, noise=keras.random.SeedGenerator(seed)))
    parts = [tf.constant(binary[start : start + 1000]) for start in range(0, len(binary), 1000)]
    weights = np.concatenate([np.stack([draw(part) for _ in range(samples)], dtype=np.float64) for part in parts], 1)
    return weights.mean(axis=0), np.logaddexp.reduce(weights, axis=0) - np.log(samples)


# %% A whole run


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/vae"),
    skip_bad: bool = False,
    fetch: bool = False,
) -> Path:
    """Read `data`, train or go on, score the test images; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "vae", config, data)
    networks = build(config)
    labelled = digits_or_others(data, config.size, config.channels, skip_bad, fetch)
    start_run(output_dir, "vae", config, data)
    train(networks, image_batches(labelled, config.batch_size, config.seed), config, output_dir)
    images, labels = labelled.test.loaded(10_000)
    shown, _ = labelled.test.loaded(10)
    rows = {"unseen": shown, "reconstructed": reconstruct(networks, shown)}
    save_table(rows, output_dir / "reconstructions.png", zoom=2)
    picture = save_grid(generate(networks.decoder, 64), output_dir / "samples.png", zoom=2)
    if config.latent_dim == 2:
        means = mapped(networks.encoder, from_uint8(images))[0]
        save_scatter(means, labels, labelled.classes, output_dir / "latents.png", "where unseen images lie")
        picture = save_grid(manifold(networks.decoder), output_dir / "manifold.png", columns=20)
    finish_run(output_dir, networks, lambda: evaluate(networks, images, config.importance_samples))
    return picture


def evaluate(networks: Networks, images: np.ndarray, samples: int) -> dict[str, float | int]:
    """Return both bounds of log p(x) in nats, as means over images binarised once, and how many latents are in use."""
    binary = (np.random.default_rng(0).random(images.shape) < images / 255).astype(np.float32)
    elbo, importance_weighted = (float(bound.mean()) for bound in bounds(networks, binary, samples))
    means, _ = mapped(networks.encoder, 2 * binary - 1)
    active = int((means.var(axis=0) > 0.01).sum())  # Burda et al., section 5.2
    scores = {"test_elbo_nats": elbo, "test_importance_weighted_bound_nats": importance_weighted}
    return scores | {"importance_samples": samples, "active_latents": active, "test_images": len(images)}


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Lay scikit-learn's handwritten digits out on a plane; return the picture of that plane."""
    return experiment("sample", config, output_dir)


def generate_file(destination: Path, count: int = 64, seed: int = 0, run: Path = DEMO_RUN) -> Path:
    """Write new images of a run as one grid."""
    read_run(run, "vae", Config)
    return save_grid(generate(load_network(run, "decoder"), count, seed), destination)


def reconstruct_file(source: Path, destination: Path, run: Path = DEMO_RUN) -> Path:
    """Write the centre square of a picture at the run's size and, to its right, what the latents keep of it."""
    config = read_run(run, "vae", Config)
    networks = Networks(*(load_network(run, name) for name in Networks._fields))
    image = square_image(source, config.size, config.channels)
    return write_image(np.concatenate([image, reconstruct(networks, image[None])[0]], axis=1), destination)


if __name__ == "__main__":
    presets = {"paper": Config(), "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, generate=generate_file, reconstruct=reconstruct_file)
