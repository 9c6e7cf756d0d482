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
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, mapped
from common.cli import run_command
from common.digits import digits_or_others
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.images import from_uint8, save_grid, save_table, write_image
from common.labelled import image_batches, square_image
from common.latents import save_scatter
from common.lazy import keras, tf
from common.ranges import BatchSize, Count, Epochs, LearningRate, Range, Seed, Units, Weight
from common.runs import check_run, finish_run, image_shape, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration
# `latent_dim` is how many numbers describe a picture. Two can be laid out on a page, so the demo has two; 50 explain
# MNIST better, and 16 of them end up in use. `kl_weight` holds the balance: the reconstruction pulls towards exact
# copies, the KL term towards latents that lie as the prior does, from which one can draw. At 1 their sum is a bound
# of the likelihood. On MNIST, 0 copies and cannot draw, 10 leaves 4 latents in use, and 50 none: every picture is
# then the average of all. `importance_samples` is for the scores alone: more make the second bound tighter, and
# slower to find.


@dataclass(frozen=True, kw_only=True)
class Config:
    """The shape on which bounds for binary MNIST are usually compared; two latents can be looked at."""

    size: Annotated[int, Range(4, 512)] = 28  # pixels
    channels: Literal[1, 3] = 1  # 3 for colour
    latent_dim: Units = 50
    units: Units = 500  # of each of the two hidden layers, in both networks
    kl_weight: Weight = 1.0  # 1 makes the loss a bound; less gives sharper copies and worse samples, more the reverse
    batch_size: BatchSize = 100
    learning_rate: LearningRate = 1e-3  # Adam; falls to 0 along a cosine
    epochs: Epochs = 100
    importance_samples: Annotated[int, Range(1, 100_000)] = 100  # draws per test image: importance-weighted bound
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


DEMO = Config(latent_dim=2, epochs=300, batch_size=50)
DEMO_RUN = Path("runs/vae-demo")

# %% Networks
# An autoencoder says "this picture is here". A VAE says "it is about here": the encoder gives a mean and a log
# variance for each latent, the sampler draws from that normal distribution, and the decoder has to draw the picture
# from wherever it lands. So neighbours have to look alike. The draw is written as mean + deviation x noise, which
# lets gradients pass to the mean and to the deviation.
#
# The decoder does not give a picture but, for each pixel, the logit of being white: what is learnt is a probability
# distribution over black and white pictures.


class Networks(NamedTuple):
    """An approximate posterior in two parts, and the likelihood."""

    encoder: keras.Model  # images [n, size, size, channels] in [-1, 1] -> mean and log variance [n, latent_dim] each
    sampler: keras.Model  # mean, log variance -> latents [n, latent_dim]: drawn in training, else the mean
    decoder: keras.Model  # latents -> logits [n, size, size, channels]


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return the three networks, untrained."""
    layers = keras.layers
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}
    shape = (config.size, config.size, config.channels)

    images = keras.Input(shape, name="images")
    x = layers.Dense(config.units, activation="silu", **init)(layers.Flatten()(images))
    x = layers.Dense(config.units, activation="silu", **init)(x)
    posterior = [
        layers.Dense(config.latent_dim, name=name, dtype="float32", **init)(x) for name in ("mean", "log_variance")
    ]
    encoder = keras.Model(images, posterior, name="encoder")

    mean, log_variance = (keras.Input((config.latent_dim,), name=name) for name in ("mean", "log_variance"))
    noise = layers.GaussianNoise(1.0, seed=config.seed, dtype="float32")(
        keras.ops.zeros_like(mean)
    )  # none outside of training
    drawn = mean + keras.ops.exp(log_variance / 2) * noise  # the reparameterisation: gradients pass (section 2.4)
    sampler = keras.Model([mean, log_variance], drawn, name="sampler")

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(config.units, activation="silu", **init)(latents)
    x = layers.Dense(config.units, activation="silu", **init)(x)
    logits = layers.Reshape(shape, dtype="float32")(layers.Dense(int(np.prod(shape)), dtype="float32", **init)(x))
    decoder = keras.Model(latents, logits, name="decoder")
    return Networks(encoder, sampler, decoder)


# %% Losses
# What should be as large as can be is log p(x), how probable the model finds a picture. It cannot be computed, but a
# lower bound can (the ELBO): log p(x | z) for a z that the encoder draws, less KL(q(z | x) || N(0, I)), what it costs
# to say where the picture lies. Both are in nats an image, so bounds can be compared between models, as long as the
# pictures are binary in the same way.


def log_likelihood(binary: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return log p(x | z) in nats, [n]: a sum over pixels; -543 = -784 log 2 for 28 px when nothing is known."""
    return -tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(binary, logits), axis=(1, 2, 3))


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Return KL(q(z | x) || N(0, I)) in nats, [n] (appendix B); 0 says that the latents hold nothing."""
    return 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - 1.0 - log_variance, axis=1)


# The KL term is known in closed form. Beside it what it stands for, the mean of log q(z) - log p(z) over draws of z:
# >>> mean, log_variance = tf.constant([[1.0]]), tf.constant([[-2.0]])
# >>> noise = keras.random.normal([100_000, 1], seed=0)
# >>> latents = mean + tf.exp(log_variance / 2) * noise
# >>> measured = tf.reduce_mean(0.5 * (latents**2 - noise**2 - log_variance))
# >>> float(kl_divergence(mean, log_variance)[0]), float(measured)


def log_weights(networks: Networks, binary: tf.Tensor, noise: keras.random.SeedGenerator) -> tf.Tensor:
    """Return log p(x, z) / q(z | x) in nats for one drawn z an image, [n]; its mean is the evidence lower bound."""
    mean, log_variance = networks.encoder(2.0 * binary - 1.0, training=False)
    draws = keras.random.normal(tf.shape(mean), seed=noise)
    latents = mean + tf.exp(log_variance / 2) * draws
    prior_over_posterior = 0.5 * tf.reduce_sum(draws**2 + log_variance - latents**2, axis=1)
    return log_likelihood(binary, networks.decoder(latents, training=False)) + prior_over_posterior


# %% Training
# Each step makes the grey pictures black and white anew, draws one z a picture, and moves both networks by one Adam.
# The sampler has no weights.
#
# What is logged, in nats an image: `reconstruction`, -log p(x | z), and `kl`; `loss` is the first and `kl_weight`
# times the second. A decoder that knows nothing has a `reconstruction` of 543. In the demo it is 163 after two
# epochs, 95 after 100, 88 after 300. `kl` settles near 6: room to tell about e^6, or 400, pictures apart. A `kl` that
# falls to 0 is the failure to look for: the latents are not in use, and a smaller `kl_weight` is what helps.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images; return each epoch's means, in nats an image."""
    encoder, sampler, decoder = networks
    variables = encoder.trainable_variables + decoder.trainable_variables
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(rate, variables, config.execution)
    noise = keras.random.SeedGenerator(config.seed + 1)

    @tf.function
    def step(images: tf.Tensor) -> dict[str, tf.Tensor]:
        grey = (from_uint8(images) + 1.0) / 2.0
        binary = tf.cast(draw_part(keras.random.uniform, tf.shape(grey), seed=noise) < grey, tf.float32)
        with tf.GradientTape() as tape:
            mean, log_variance = encoder(2.0 * binary - 1.0, training=True)
            logits = decoder(sampler([mean, log_variance], training=True), training=True)
            reconstruction = share(-tf.reduce_mean(log_likelihood(binary, logits)))
            kl = share(tf.reduce_mean(kl_divergence(mean, log_variance)))
            loss = reconstruction + config.kl_weight * kl
        optimizer.apply(tape.gradient(loss, variables, loss_scale(optimizer)), variables)
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    def sample(epoch: int) -> None:
        if output_dir is not None:
            save_grid(generate(decoder, 64), output_dir / "samples" / f"epoch-{epoch:04d}.png")

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution)


# %% Use
# From the prior one draws new pictures; from the mean of the encoder's distribution, copies. What comes out is the
# probability of white, shown as grey, so doubt looks like a blur. `manifold` lays two latents out at quantiles of the
# normal, so that each tile is as probable as any other. `bounds` scores pictures: the mean of the log weights is the
# ELBO, the log of their mean the importance-weighted bound, which lies nearer to log p(x).


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
# The embedded data are 1,797 digits that 13 people wrote, from scikit-learn, brought to 28 x 28 grey pixels; every
# fifth, 359 in all, is held out for the test.
#
# The scores are both bounds of the test digits, made black and white once: `test_elbo_nats`, -100.2 in a full demo,
# and `test_importance_weighted_bound_nats`, -98.6 by 100 draws; and `active_latents`, those that differ from picture
# to picture. Only the same data may be compared: for binary MNIST and 50 latents this recipe has -87.7 and the
# literature -86.8, by 5,000 draws.
# >>> digits = digits_or_others("sample", DEMO.size, DEMO.channels)
# >>> images = digits.test.loaded(359)[0]
# >>> show(images[:16])
#
# A model to beat, without latents: each pixel is white as often as it is in the training digits, whatever its
# neighbours are. In nats an image:
# >>> binary = (np.random.default_rng(0).random(images.shape) < images / 255).astype(np.float32)
# >>> often = (digits.train.loaded(1295)[0].mean(axis=0) / 255).clip(0.001, 0.999)
# >>> logits = np.broadcast_to(np.log(often / (1 - often)), images.shape).astype(np.float32)
# >>> float(tf.reduce_mean(log_likelihood(binary, logits)))


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/vae"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, score the test images; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "vae", config, data, accept_data)
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


def generate_file(destination: Path, count: Count = 64, seed: Seed = 0, run: Path = DEMO_RUN) -> Path:
    """Write new images of a run as one grid."""
    config = read_run(run, "vae", Config)
    decoder = load_network(run, "decoder", (config.latent_dim,), image_shape(config))
    return save_grid(generate(decoder, count, seed), destination)


def reconstruct_file(source: Path, destination: Path, run: Path = DEMO_RUN) -> Path:
    """Write the centre square of a picture at the run's size and, to its right, what the latents keep of it."""
    config = read_run(run, "vae", Config)
    shape, latent = image_shape(config), (config.latent_dim,)
    encoder = load_network(run, "encoder", shape, [latent, latent])
    sampler = load_network(run, "sampler", [latent, latent], latent)
    networks = Networks(encoder, sampler, load_network(run, "decoder", latent, shape))
    image = square_image(source, config.size, config.channels)
    return write_image(np.concatenate([image, reconstruct(networks, image[None])[0]], axis=1), destination)


# %% Try it
# The plane of the demo, to be walked with two sliders. Each of the two is standard normal, so most digits lie between
# -2 and 2.
# >>> from ipywidgets import interact
# >>> decoder = load_network(DEMO_RUN, "decoder")
# >>> def digit_at(across=-1.0, up=1.0):
# ...     return show(decode(decoder, np.array([[across, up]], np.float32)))
# >>> interact(digit_at, across=(-3.0, 3.0, 0.1), up=(-3.0, 3.0, 0.1));
#
# A walk round the middle of the plane, at a distance of 1.6. One digit turns into the next, and between two lies what
# could be either: the noise of the sampler leaves no gaps.
# >>> from common.images import save_gif
# >>> angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
# >>> circle = 1.6 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
# >>> frames = decode(decoder, circle).repeat(6, axis=1).repeat(6, axis=2)
# >>> show_file(save_gif(frames, DEMO_RUN.parent / "vae-walk.gif"))
#
# It has also become a judge of what a digit looks like. The bound, in nats, for the held-out digits, for the same
# upside down, and for their pixels in any order, as many of them white:
# >>> networks = Networks(*(load_network(DEMO_RUN, name) for name in Networks._fields))
# >>> rows = binary.reshape(len(binary), -1)
# >>> shuffled = np.random.default_rng(0).permuted(rows, axis=1).reshape(binary.shape)
# >>> odd = {"as they are": binary, "upside down": binary[:, ::-1, ::-1], "shuffled": shuffled}
# >>> {how: round(float(bounds(networks, pictures, 20)[0].mean())) for how, pictures in odd.items()}


if __name__ == "__main__":
    presets = {"paper": Config(), "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, generate=generate_file, reconstruct=reconstruct_file)
