"""Variational autoencoder (VAE): learn a smooth latent space of images, generate images, and bound their likelihood.

Paper    Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114. The importance-weighted
         bound: Burda et al. 2016, arXiv:1509.00519. The weight of the KL term: Higgins et al., "beta-VAE", ICLR 2017.
Images   uint8 [n, size, size, channels] at the API boundary. In the networks, pixels are binary (-1 or 1). Each step
         binarises every pixel at random, with its grey value as the probability of white. A fixed threshold would
         define a different data set, with higher likelihoods.
Latents  float32 [n, latent_dim]; the prior is standard normal.
Logits   float32 [n, size, size, channels]; the sigmoid is the probability that a pixel is white.
Differs  1. As in later papers, each network has two hidden layers of 500 units, and there are 50 latents.
         2. SiLU and Adam replace tanh and Adagrad. The learning rate follows a cosine decay to 0.
         3. `--preset convolutional` replaces the first hidden layers by convolutions.
Run      python -m recipes.vae                                            the demo: handwritten digits, offline
         python -m recipes.vae train --preset paper --data mnist --fetch  MNIST, downloaded once
         python -m recipes.vae train --data DIR --output-dir runs/mine    a folder of your own images
         python -m recipes.vae generate grid.png --count 64 --run runs/mine
         python -m recipes.vae reconstruct in.png out.png --run runs/mine  an image next to its reconstruction
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, labelled_images
from common.images import from_uint8, save_image
from common.runs import InputError, Range, Run, run_command
from common.training import Noise, adam, fit, predict

# %% Configuration
# `latent_dim` is the number of latents. The demo has two, because you can plot them. MNIST needs more latents: out of
# 50, about 16 are active. `kl_weight` balances the two terms of the loss. The reconstruction term rewards accuracy. The
# KL term keeps the latents close to the prior, so you can sample new images. With a weight of 1, the loss is a bound on
# the likelihood. With 0, the VAE reconstructs well but cannot generate. With 10, only a few latents are active on
# MNIST. With a weight of 50, no latent is active, and every reconstruction is the mean image. `importance_samples` only
# affects the scores. More samples make the importance-weighted bound tighter, but take longer.
#
# With `filters`, both networks have two strided convolutions and one dense hidden layer instead of two dense ones.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters of the usual architecture for binary MNIST. `DEMO` and `CONVOLUTIONAL` have two latents."""

    size: Annotated[int, Range(4, 512)] = 28  # side of the images in pixels
    channels: Literal[1, 3] = 1  # 1: greyscale, 3: colour
    latent_dim: Annotated[int, Range(1, 65_536)] = 50
    units: Annotated[int, Range(1, 65_536)] = 500  # width of the dense hidden layers
    filters: Annotated[int, Range(0, 1024)] = 0  # filters of the first convolution; 0: dense layers only
    kl_weight: Annotated[float, Range(0, 1e9)] = 1.0  # below 1: better reconstructions; above 1: better samples
    batch_size: Annotated[int, Range(1, 65_536)] = 100
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3  # initial learning rate of Adam; cosine decay to 0
    epochs: Annotated[int, Range(1, 1_000_000)] = 100
    importance_samples: Annotated[int, Range(1, 100_000)] = 100  # samples per image, for the importance-weighted bound
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)
        if self.filters and self.size % 4:
            raise InputError(f"with filters, size must be a multiple of 4, got {self.size}")


CONVOLUTIONAL = Config(filters=32, latent_dim=2, units=128, epochs=30, batch_size=50)
DEMO = Config(latent_dim=2, units=256, epochs=200, batch_size=50)
DEMO_RUN = Path("runs/vae-demo")

# %% Networks
# An autoencoder maps an image to a point. A VAE maps it to a normal distribution: the encoder returns a mean and a log
# variance for each latent, the sampler samples from this distribution, and the decoder reconstructs the image from the
# sample. All samples for an image must decode to this image, so nearby latents decode to similar images. A sample is
# computed as mean + deviation * noise, so gradients reach the mean and the deviation (the reparameterisation trick).
#
# The decoder returns a logit for each pixel, not an image. The model is thus a distribution over binary images, so you
# can estimate the likelihood of an image.


class Networks(NamedTuple):
    """The encoder, the sampler and the decoder."""

    encoder: keras.Model  # images [n, size, size, channels] in [-1, 1] -> mean and log variance [n, latent_dim] each
    sampler: keras.Model  # mean, log variance -> latents [n, latent_dim]; sampled in training, otherwise the mean
    decoder: keras.Model  # latents -> logits [n, size, size, channels]


def build(config: Config = Config()) -> Networks:
    """Return the three untrained networks."""
    layers = keras.layers
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}
    shape = (config.size, config.size, config.channels)

    images = keras.Input(shape, name="images")
    x, widths = images, [config.filters, 2 * config.filters] if config.filters else []
    for width in widths:  # size -> size / 4
        x = layers.Conv2D(width, 4, 2, "same", activation="silu", **init)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(config.units, activation="silu", **init)(x)
    x = x if widths else layers.Dense(config.units, activation="silu", **init)(x)
    mean = layers.Dense(config.latent_dim, name="mean", dtype="float32", **init)(x)
    log_variance = layers.Dense(config.latent_dim, name="log_variance", dtype="float32", **init)(x)
    encoder = keras.Model(images, [mean, log_variance], name="encoder")

    mean = keras.Input((config.latent_dim,), name="mean")
    log_variance = keras.Input((config.latent_dim,), name="log_variance")
    zeros = keras.ops.zeros_like(mean)
    noise = layers.GaussianNoise(1.0, seed=config.seed, dtype="float32")(zeros)  # zeros at inference
    samples = mean + keras.ops.exp(log_variance / 2) * noise  # the reparameterisation trick (section 2.4)
    sampler = keras.Model([mean, log_variance], samples, name="sampler")

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(config.units, activation="silu", **init)(latents)
    if widths:
        smallest = (config.size // 4, config.size // 4, widths[-1])
        x = layers.Reshape(smallest)(layers.Dense(int(np.prod(smallest)), activation="silu", **init)(x))
        x = layers.Conv2DTranspose(widths[0], 4, 2, "same", activation="silu", **init)(x)
        logits = layers.Conv2DTranspose(config.channels, 4, 2, "same", dtype="float32", **init)(x)
    else:
        x = layers.Dense(config.units, activation="silu", **init)(x)
        x = layers.Dense(int(np.prod(shape)), dtype="float32", **init)(x)
        logits = layers.Reshape(shape, dtype="float32")(x)
    return Networks(encoder, sampler, keras.Model(latents, logits, name="decoder"))


# %% Losses
# We want to maximise log p(x), the log likelihood of an image. It has no closed form, but we can compute a lower bound,
# the ELBO (evidence lower bound). For a z sampled from the encoder's distribution q(z | x), it is estimated as log
# p(x | z) - KL(q(z | x) || N(0, I)). Both terms are in nats per image. Bounds of different models are comparable if the
# images are binarised in the same way.


def log_likelihood(binary: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return log p(x | z) in nats [n], the sum over all pixels. It is -784 log 2 = -543 for logits of 0 at 28 px."""
    return -tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(binary, logits), axis=(1, 2, 3))


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Return KL(q(z | x) || N(0, I)) in nats [n] (appendix B). It is 0 if the latents carry no information."""
    return 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - 1.0 - log_variance, axis=1)


# The KL term has a closed form, which equals the mean of log q(z | x) - log p(z) over samples of z:
# >>> mean, log_variance = tf.constant([[1.0]]), tf.constant([[-2.0]])
# >>> noise = keras.random.normal([100_000, 1], seed=0)
# >>> latents = mean + tf.exp(log_variance / 2) * noise
# >>> measured = tf.reduce_mean(0.5 * (latents**2 - noise**2 - log_variance))
# >>> float(kl_divergence(mean, log_variance)[0]), float(measured)


def log_weights(networks: Networks, binary: tf.Tensor, noise: Noise) -> tf.Tensor:
    """Return log(p(x, z) / q(z | x)) in nats [n], for one sample of z per image. The mean over samples is the ELBO."""
    mean, log_variance = networks.encoder(2.0 * binary - 1.0, training=False)
    normal = noise.normal(tf.shape(mean))
    latents = mean + tf.exp(log_variance / 2) * normal
    prior_over_posterior = 0.5 * tf.reduce_sum(normal**2 + log_variance - latents**2, axis=1)
    return log_likelihood(binary, networks.decoder(latents, training=False)) + prior_over_posterior


# %% Training
# Each step binarises the grey images at random, samples one z per image, and updates the encoder and the decoder with
# one Adam optimizer. The sampler has no weights.
#
# What is logged, in nats per image: `reconstruction` is -log p(x | z), `kl` is the KL term, and `loss` is
# `reconstruction` plus `kl_weight` times `kl`. `reconstruction` starts below 543, drops quickly in the first epochs,
# and then falls slowly until the end. `kl` changes most in the first epochs, then settles (near 6 in the demo). With a
# `kl` of 6 nats, the latents can distinguish about e^6 = 400 images. If `kl` falls to 0, the decoder ignores the
# latents (posterior collapse): use a smaller `kl_weight`.
#
# `validation_reconstruction` and `validation_elbo` are measured on up to 200 held-out images, with the same noise after
# each epoch. Without overfitting, they follow `reconstruction` and minus the `loss`. If `validation_elbo` falls while
# `loss` also falls, the networks memorise the training images; `--keep-best validation_elbo` keeps the best epoch.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | np.ndarray,
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the networks in place.

    Args:
        networks: from `build`.
        data: uint8 images [batch, size, size, channels]. With `Batches` or an array, a run resumes exactly where it
            stopped. A `tf.data.Dataset` must be batched; it is not reshuffled, and a resumed run starts a new pass. If
            `Batches` have held-out images, their reconstruction term and ELBO are logged.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and generated images. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch, in nats per image.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    encoder, sampler, decoder = networks
    variables = encoder.trainable_variables + decoder.trainable_variables
    steps = config.epochs * data.steps_per_epoch
    optimizer = adam(keras.optimizers.schedules.CosineDecay(config.learning_rate, steps), variables)
    noise = Noise(config.seed + 1)

    @tf.function
    def step(images: tf.Tensor) -> dict[str, tf.Tensor]:
        grey = (from_uint8(images) + 1.0) / 2.0
        binary = tf.cast(noise.uniform(tf.shape(grey)) < grey, tf.float32)
        with tf.GradientTape() as tape:
            mean, log_variance = encoder(2.0 * binary - 1.0, training=True)
            logits = decoder(sampler([mean, log_variance], training=True), training=True)
            reconstruction = -tf.reduce_mean(log_likelihood(binary, logits))
            kl = tf.reduce_mean(kl_divergence(mean, log_variance))
            loss = reconstruction + config.kl_weight * kl  # the negative ELBO (equation 10)
            scaled = optimizer.scale_loss(loss)  # float16 gradients would underflow; `apply` unscales them
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    def sample(epoch: int, losses: dict[str, float]) -> None:
        if output_dir is not None:
            save_image(generate(decoder, 64), Path(output_dir, "samples", f"epoch-{epoch:04d}.png"))

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        images, fixed = data.some_held_out()[0], Noise(config.seed)  # the same noise after each epoch
        grey = (from_uint8(images) + 1.0) / 2.0
        binary = tf.cast(fixed.uniform(tf.shape(grey)) < grey, tf.float32)
        mean, log_variance = encoder(2.0 * binary - 1.0, training=False)
        latents = mean + tf.exp(log_variance / 2.0) * fixed.normal(tf.shape(mean))
        reconstruction = -tf.reduce_mean(log_likelihood(binary, decoder(latents, training=False)))
        elbo = -reconstruction - tf.reduce_mean(kl_divergence(mean, log_variance))
        return {"validation_reconstruction": float(reconstruction), "validation_elbo": float(elbo)}

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[sample, validate, on_epoch])


# %% Use
# Latents sampled from the prior decode to new images. The mean of the encoder's distribution decodes to a
# reconstruction. Decoded images show the probability of white as a grey value, so uncertain regions look blurred.
# `manifold` decodes a grid over two latents, spaced at quantiles of the prior, so all tiles have the same probability
# mass. `bounds` computes two bounds on log p(x) from the log weights of several samples. The mean log weight is the
# ELBO. The log of the mean weight is the importance-weighted bound, which is closer to log p(x).


def decode(decoder: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Return the probability of white as grey values, uint8 [n, size, size, channels], for latents [n, latent_dim]."""
    return np.round(255 * tf.sigmoid(predict(decoder, latents)).numpy()).astype(np.uint8)


def generate(decoder: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Return `count` new images, uint8 [count, size, size, channels], from standard normal latents."""
    return decode(decoder, keras.random.normal((count, decoder.input_shape[-1]), seed=seed).numpy())


def reconstruct(networks: Networks, images: np.ndarray) -> np.ndarray:
    """Encode uint8 images [n, size, size, channels] and decode the means; the result has the same shape and dtype."""
    return decode(networks.decoder, predict(networks.encoder, from_uint8(images))[0])


def manifold(decoder: keras.Model, side: int = 16) -> np.ndarray:
    """Decode a grid over two latents, spaced at quantiles of the prior; uint8 [side * side, size, size, channels]."""
    from scipy.stats import norm

    quantiles = norm.ppf(np.linspace(0.5 / side, 1 - 0.5 / side, side)).astype(np.float32)  # appendix A
    return decode(decoder, np.stack(np.meshgrid(quantiles, -quantiles), axis=-1).reshape(-1, 2))


def bounds(networks: Networks, binary: np.ndarray, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the ELBO and the importance-weighted bound (Burda et al., equation 8), which is closer to log p(x).

    Both are float64 [n], in nats. `binary`: float32 images with pixels 0 or 1; `samples`: samples of z per image.
    """
    sample = tf.function(functools.partial(log_weights, networks, noise=Noise(seed)))
    parts = [tf.constant(binary[start : start + 1000]) for start in range(0, len(binary), 1000)]
    weights = [np.stack([sample(part) for _ in range(samples)], dtype=np.float64) for part in parts]
    log_weight = np.concatenate(weights, axis=1)
    return log_weight.mean(axis=0), np.logaddexp.reduce(log_weight, axis=0) - np.log(samples)


def evaluate(networks: Networks, images: np.ndarray, samples: int) -> dict[str, float | int]:
    """Binarise uint8 images once; return the mean of each bound and the number of active latents."""
    binary = (np.random.default_rng(0).random(images.shape) < images / 255).astype(np.float32)
    elbo, importance_weighted = (float(bound.mean()) for bound in bounds(networks, binary, samples))
    means, _ = predict(networks.encoder, 2 * binary - 1)
    active = int((means.var(axis=0) > 0.01).sum())  # Burda et al., section 5.2
    scores = {"test_elbo_nats": elbo, "test_importance_weighted_bound_nats": importance_weighted}
    return scores | {"importance_samples": samples, "active_latents": active, "test_images": len(images)}


# %% A whole run
# The built-in data set has 6,000 synthetic handwritten digits of 28 x 28 greyscale pixels. They are drawn as pen
# strokes, in the styles of 600 writers. A fifth of the writers (1,200 digits) are the test split.
#
# The scores are the two bounds and the number of active latents (those that vary between images). The test digits are
# binarised once. The importance-weighted bound is 2 to 3 nats above the ELBO. Compare bounds only on the same data.
# >>> digits = labelled_images("sample", DEMO.size, DEMO.channels, "digits")
# >>> images = digits.test.loaded()[0]
# >>> show(images[:16])
#
# A baseline without latents: pixels are independent, and each pixel's probability of white is its mean over the
# training digits. Its log likelihood in nats per image:
# >>> binary = (np.random.default_rng(0).random(images.shape) < images / 255).astype(np.float32)
# >>> frequencies = (digits.train.loaded()[0].mean(axis=0) / 255).clip(0.001, 0.999)
# >>> logits = np.broadcast_to(np.log(frequencies / (1 - frequencies)), images.shape).astype(np.float32)
# >>> float(tf.reduce_mean(log_likelihood(binary, logits)))


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/vae"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, evaluate on the test split, save the run, and return the path of an image grid."""
    folder = Run(output_dir, "vae", config, data, accept_data)
    labelled = labelled_images(data, config.size, config.channels, "digits", skip_bad, fetch, require_classes=False)
    networks = build(config)
    stream = labelled.image_batches(config.batch_size, config.seed)
    folder.start()
    train(networks, stream, config, output_dir)
    images, labels = labelled.test.loaded(10_000)
    shown, _ = labelled.test.loaded(10)
    rows = {"test image": shown, "reconstruction": reconstruct(networks, shown)}
    save_image(rows, Path(output_dir, "reconstructions.png"), zoom=2)
    image = save_image(generate(networks.decoder, 64), Path(output_dir, "samples.png"), zoom=2)
    if config.latent_dim == 2:
        means, _ = predict(networks.encoder, from_uint8(images))
        labelled.save_latents(means, labels, Path(output_dir, "latents.png"), "Latents of test images")
        image = save_image(manifold(networks.decoder), Path(output_dir, "manifold.png"), columns=16, zoom=2)
    return folder.finish(networks, lambda: evaluate(networks, images, config.importance_samples), image)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train a VAE with two latents on handwritten digits; return the path of a grid of decoded latents."""
    return run("sample", config, output_dir)


def generate_file(
    destination: Path,
    count: Annotated[int, Range(1, 100_000)] = 64,
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0,
    singles: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Write a grid of generated images or, with `singles`, one PNG file per image to the folder `destination`."""
    trained = Run.load(run, "vae", Config)
    decoder = trained.network("decoder", (trained.config.latent_dim,), trained.image_shape)
    images = generate(decoder, count, seed)
    if not singles:
        return save_image(images, destination)
    for number, image in enumerate(images):
        save_image(image, destination / f"{number:06d}.png")
    return destination


def reconstruct_files(
    source: Path, destination: Path, run: Path = DEMO_RUN, invert: bool = False, skip_bad: bool = False
) -> Path:
    """Write the centre crop of an image, or of every image in a folder, next to its reconstruction.

    `invert` inverts the input; use it for dark objects on a bright background if the training images are the opposite.
    """
    trained = Run.load(run, "vae", Config)
    image_shape, latent_shape = trained.image_shape, (trained.config.latent_dim,)
    encoder = trained.network("encoder", image_shape, [latent_shape, latent_shape])
    sampler = trained.network("sampler", [latent_shape, latent_shape], latent_shape)
    networks = Networks(encoder, sampler, trained.network("decoder", latent_shape, image_shape))
    for _, image, target in trained.images(source, destination, invert, skip_bad):
        save_image(np.concatenate([image, reconstruct(networks, image[None])[0]], axis=1), target)
    return destination


# %% Try it
# Two sliders for the two latents of the demo. The prior is standard normal, so most digits lie between -2 and 2.
# >>> from ipywidgets import interact
# >>> trained = Run.load(DEMO_RUN, "vae", Config)
# >>> decoder = trained.network("decoder")
# >>> def digit_at(first=-1.0, second=1.0):
# ...     return show(decode(decoder, np.array([[first, second]], np.float32)))
# >>> interact(digit_at, first=(-3.0, 3.0, 0.1), second=(-3.0, 3.0, 0.1));
#
# Interpolation along a circle of radius 1.6 around the origin of the latent space. Each digit turns into the next.
# Images between two classes resemble both. Because of the noise in training, there are no gaps between the classes.
# >>> angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
# >>> circle = 1.6 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
# >>> frames = decode(decoder, circle).repeat(6, axis=1).repeat(6, axis=2)
# >>> show_file(save_image(frames, DEMO_RUN.parent / "vae-walk.gif"))
#
# The ELBO can also detect images that are not digits. The mean ELBO in nats per image for three inputs: the test
# digits, the same digits upside down, and the digits with shuffled pixels. Shuffling keeps the number of white pixels.
# >>> networks = Networks(*(trained.network(name) for name in Networks._fields))
# >>> rows = binary.reshape(len(binary), -1)
# >>> shuffled = np.random.default_rng(0).permuted(rows, axis=1).reshape(binary.shape)
# >>> variants = {"digits": binary, "upside down": binary[:, ::-1, ::-1], "shuffled": shuffled}
# >>> {name: round(float(bounds(networks, some, 20)[0].mean())) for name, some in variants.items()}


if __name__ == "__main__":
    presets = {"paper": Config(), "convolutional": CONVOLUTIONAL, "demo": DEMO}
    run_command(demo, presets=presets, train=run, generate=generate_file, reconstruct=reconstruct_files)
