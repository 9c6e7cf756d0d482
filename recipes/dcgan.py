"""DCGAN: draw new images from noise with a convolutional GAN.

Paper    Radford, Metz & Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
         Adversarial Networks", ICLR 2016, arXiv:1511.06434.
Images   uint8 [n, size, size, channels] at the borders; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], standard normal.
Logits   float32 [n, 1]; positive means real.
Differs  1. Latents are normal, not uniform: a walk between two then has somewhere to go.
         2. Any size that halves to 4, 5, 6 or 7 will do: 28 for digits, 64 (the paper's), 128.
Run      python -m recipes.dcgan                                             the demo: handwritten digits, offline
         python -m recipes.dcgan train --preset digits --data mnist --fetch  MNIST, fetched once
         python -m recipes.dcgan train --data DIR --output-dir runs/night    your own pictures; again: goes on
         python -m recipes.dcgan generate grid.png --count 64 --run runs/night
         python -m recipes.dcgan walk walk.gif --seed 3 --to-seed 8 --run runs/night
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.batches import Batches, batches, undistorted
from common.cli import run_command
from common.datasets import images_of
from common.digits import sklearn_digits
from common.errors import InputError
from common.files import data_file
from common.health import GAN_SIGNS, sample_diversity
from common.images import from_uint8, save_gif, save_grid, save_samples, to_uint8
from common.latents import great_circle
from common.lazy import keras, tf
from common.runs import check_run, finish_run, load_network, read_run, start_run
from common.scores import sample_scores
from common.training import History, fit, share

# %% Configuration


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's settings (section 4); `DIGITS` is for 28 px grey pictures, `DEMO` the same made small."""

    size: int = 64  # pixels; halves at least twice, down to 4, 5, 6 or 7
    channels: int = 3  # 3 for colour, 1 for grey
    latent_dim: int = 100
    base_filters: int = 128  # of the layers next to the image; doubles at each halving of the size
    batch_size: int = 128
    learning_rate: float = 2e-4
    beta_1: float = 0.5  # Adam; 0.9 oscillates (section 4)
    epochs: int = 25
    seed: int = 0


DIGITS = Config(size=28, channels=1, base_filters=32, epochs=50)
DEMO_RUN = Path("runs/dcgan-demo")
DEMO = Config(size=28, channels=1, base_filters=32, batch_size=64, epochs=120)

# %% Networks


class Networks(NamedTuple):
    """Both networks."""

    generator: keras.Model  # latents [n, latent_dim] -> images [n, size, size, channels] in [-1, 1]
    discriminator: keras.Model  # images -> logits [n, 1], positive means real


def build(config: Config = Config()) -> Networks:
    """Return both networks, untrained. Raises ValueError for a size that does not halve down to 4, 5, 6 or 7."""
    layers, smallest = keras.layers, config.size
    widths: list[int] = []  # next to the image first
    while smallest > 7 and smallest % 2 == 0:
        smallest //= 2
        widths.append(config.base_filters * 2 ** len(widths))
    if not 4 <= smallest <= 7 or len(widths) < 2:
        raise InputError(
            f"size must halve at least twice, down to 4, 5, 6 or 7 (28, 32, 64, 96, 128), got {config.size}"
        )
    if config.channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, got {config.channels}")
    seeds = keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02, seed=seeds)}

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(smallest * smallest * widths[-1], use_bias=False, **init)(latents)
    x = layers.Reshape((smallest, smallest, widths[-1]))(x)
    for width in reversed(widths[:-1]):  # smallest -> ... -> size / 2
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2DTranspose(width, 4, 2, "same", use_bias=False, **init)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(config.channels, 4, 2, "same", activation="tanh", **init)(x)
    generator = keras.Model(latents, x, name="generator")

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    for level, width in enumerate(widths):  # size -> ... -> smallest
        x = layers.Conv2D(width, 4, 2, "same", use_bias=level == 0, **init)(x)
        x = layers.BatchNormalization()(x) if level else x  # none next to the image (section 3)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    logits = layers.Dense(1, **init)(layers.Flatten()(x))
    return Networks(generator, keras.Model(images, logits, name="discriminator"))


# %% Losses


def cross_entropy(target: float, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy between sigmoid(logits) and one target for all."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Real is 1 and fake is 0; 2 log 2 = 1.39 when the two cannot be told apart."""
    return cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits)


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The non-saturating loss: fakes should be called real; log 2 = 0.69 when the two cannot be told apart."""
    return cross_entropy(1.0, fake_logits)


# %% Training


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images; return each epoch's mean losses."""
    generator, discriminator = networks
    g_optimizer = keras.optimizers.Adam(config.learning_rate, beta_1=config.beta_1)
    d_optimizer = keras.optimizers.Adam(config.learning_rate, beta_1=config.beta_1)
    g_optimizer.build(generator.trainable_variables)
    d_optimizer.build(discriminator.trainable_variables)
    noise = keras.random.SeedGenerator(config.seed + 1)

    @tf.function
    def step(real: tf.Tensor) -> dict[str, tf.Tensor]:
        latents = keras.random.normal((tf.shape(real)[0], config.latent_dim), seed=noise)
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake = generator(latents, training=True)
            real_logits = discriminator(from_uint8(real), training=True)
            fake_logits = discriminator(fake, training=True)  # one pass serves both losses
            g_loss = share(generator_loss(fake_logits))
            d_loss = share(discriminator_loss(real_logits, fake_logits))
        g_gradients = g_tape.gradient(g_loss, generator.trainable_variables)
        d_gradients = d_tape.gradient(d_loss, discriminator.trainable_variables)
        g_optimizer.apply(g_gradients, generator.trainable_variables)
        d_optimizer.apply(d_gradients, discriminator.trainable_variables)
        return {"generator": g_loss, "discriminator": d_loss}

    def sample(epoch: int) -> dict[str, float]:
        if output_dir is not None:
            save_grid(generate(generator, 64), output_dir / "samples" / f"epoch-{epoch:04d}.png")
        return {"diversity": sample_diversity(generate(generator, len(real)), real)} if len(real) > 1 else {}

    real = data.held_out[0] if data.held_out else np.empty(0)
    state = networks._asdict() | {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer, "noise": noise}
    return fit(step, data, epochs=config.epochs, state=state, output_dir=output_dir, on_epoch=sample, healthy=GAN_SIGNS)


# %% Use


def generate(generator: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Return `count` images, uint8 [count, size, size, channels]; the same seed always asks for the same latents."""
    if count < 1:
        raise InputError(f"count must be 1 or more, got {count}")
    latents = keras.random.normal((count, generator.input_shape[-1]), seed=seed)
    return np.concatenate([to_uint8(generator(latents[i : i + 256], training=False)) for i in range(0, count, 256)])


def walk(generator: keras.Model, seed: int, to_seed: int, steps: int = 24) -> np.ndarray:
    """Return `steps` images on the way from one seed's first image to another's, along a great circle."""
    if seed == to_seed:
        raise InputError(f"a walk needs two seeds, got {seed} twice")
    start, end = (keras.random.normal((1, generator.input_shape[-1]), seed=each)[0].numpy() for each in (seed, to_seed))
    return to_uint8(generator(great_circle(start, end, steps), training=False))


# %% A whole run


def sample_digits(config: Config = DEMO) -> np.ndarray:
    """Return the embedded data: scikit-learn's handwritten digits, uint8 [1797, size, size, 1]."""
    return sklearn_digits(config.size)[0]


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/dcgan"),
    skip_bad: bool = False,
    fetch: bool = False,
) -> Path:
    """Read `data`, train or go on, score the samples; leave a run in `output_dir`, return its picture's path."""
    check_run(output_dir, "dcgan", config, data)
    networks = build(config)
    digits = functools.partial(sample_digits, config)
    examples = images_of(data, config.size, config.channels, digits, skip_bad, fetch)
    stream = batches(examples.train, config.batch_size, config.seed, undistorted(examples), examples.held_out(500))
    start_run(output_dir, "dcgan", config, data)
    train(networks, stream, config, output_dir)
    picture = save_grid(generate(networks.generator, 64), output_dir / "samples.png", zoom=2)
    (real,) = examples.held_out(10_000 if config.channels == 1 else 1)
    finish_run(output_dir, networks, lambda: evaluate(networks.generator, real))
    return picture


def evaluate(generator: keras.Model, real: np.ndarray, classifier: Path | None = None) -> dict[str, float | int | str]:
    """Score as many samples as there are held-out `real` images by a digit classifier; none for colour, or for one."""
    if real.shape[-1] != 1 or len(real) < 2:
        return {}
    samples = generate(generator, len(real), seed=1)
    return sample_scores(classifier or data_file("digit_classifier.keras"), real, samples)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to write the handwritten digits that come with scikit-learn; return the picture of 64 samples."""
    return experiment("sample", config, output_dir)


def generate_file(
    destination: Path, count: int = 64, seed: int = 0, singles: bool = False, run: Path = DEMO_RUN
) -> Path:
    """Write samples of a run as one grid or, with `singles`, as one PNG each into the folder `destination`."""
    read_run(run, "dcgan", Config)
    return save_samples(generate(load_network(run, "generator"), count, seed), destination, singles)


def walk_file(
    destination: Path, seed: int = 0, to_seed: int = 1, steps: int = 24, zoom: int = 4, run: Path = DEMO_RUN
) -> Path:
    """Write the walk between the latents of two seeds as a GIF, each pixel `zoom` wide and high."""
    read_run(run, "dcgan", Config)
    images = walk(load_network(run, "generator"), seed, to_seed, steps)
    return save_gif(images.repeat(zoom, axis=1).repeat(zoom, axis=2), destination)


if __name__ == "__main__":
    presets = {"paper": Config(), "digits": DIGITS, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, generate=generate_file, walk=walk_file)
