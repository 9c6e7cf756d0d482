"""GAN: draw digits from noise with two small dense networks that play against each other.

Paper    Goodfellow et al., "Generative Adversarial Nets", NIPS 2014, arXiv:1406.2661.
Images   uint8 [n, size, size, channels] at the borders; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], standard normal.
Logits   float32 [n, 1]; positive means real.
Differs  1. ReLU with a leak, batch normalisation and Adam, of the DCGAN paper (arXiv:1511.06434), in place of maxout
            and momentum; still dense, with dropout in the discriminator, as the paper's networks for digits are.
         2. Both networks learn in every step, from one pass of the generator (the paper: k steps of the
            discriminator for each of the generator, and k = 1 in its experiments).
Run      python -m recipes.gan                                                the demo: handwritten digits, offline
         python -m recipes.gan train --data mnist --fetch                     MNIST, fetched once
         python -m recipes.gan train --data DIR --output-dir runs/mine        your own drawings; again: goes on
         python -m recipes.gan generate grid.png --count 64 --run runs/mine
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, batches, mapped, undistorted
from common.cli import run_command
from common.datasets import images_of
from common.digits import sklearn_digits
from common.errors import InputError
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.files import data_file
from common.health import GAN_SIGNS, sample_diversity
from common.images import from_uint8, save_grid, save_samples, to_uint8
from common.lazy import keras, tf
from common.ranges import BatchSize, BelowOne, Count, Epochs, LearningRate, Range, Seed, Units
from common.runs import check_run, finish_run, image_shape, load_network, read_run, start_run
from common.scores import sample_scores
from common.training import History, fit, share

# %% Configuration
# Nothing here tells the generator what a digit looks like. It learns from the discriminator, which learns from digits
# and from what the generator makes, so a setting is good when neither leaves the other behind. `units` and
# `discriminator_units` say how much each can hold. `dropout` makes it hard for the discriminator to know 1,618 digits
# by heart; without it the demo's Frechet distance was twice as large. `learning_rate` and `beta_1` are those of the
# DCGAN paper: a short memory suits losses whose target moves.


@dataclass(frozen=True, kw_only=True)
class Config:
    """For MNIST; `DEMO` is for the 1,797 digits of scikit-learn."""

    size: Annotated[int, Range(4, 512)] = 28  # pixels
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    latent_dim: Units = 100
    units: Units = 256  # of the generator's first hidden layer; the next two have twice and four times as many
    discriminator_units: Units = 784  # of its first hidden layer; the second has half as many
    dropout: BelowOne = 0.3  # share of the discriminator's hidden units that it does without in training
    batch_size: BatchSize = 32
    learning_rate: LearningRate = 2e-4
    beta_1: BelowOne = 0.5  # Adam
    epochs: Epochs = 20
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


DEMO = Config(epochs=200)
DEMO_RUN = Path("runs/gan-demo")

# %% Networks
# Both networks are dense. The generator turns 100 normal numbers into 784 pixels through three wider and wider
# layers, each normalised by its batch, and a tanh brings the pixels to [-1, 1]. No layer knows that pixels have
# neighbours: that strokes hang together is learnt, pixel by pixel, and single bright pixels in the background are
# where it was not.
#
# The discriminator sees 784 pixels, in any order for all it knows, and answers with one logit. It has no batch
# normalisation, since a picture should be judged by itself, and does without a part of its units in every step.


class Networks(NamedTuple):
    """Both networks."""

    generator: keras.Model  # latents [n, latent_dim] -> images [n, size, size, channels] in [-1, 1]
    discriminator: keras.Model  # images -> logits [n, 1], positive means real


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return both networks, untrained."""
    layers, shape = keras.layers, (config.size, config.size, config.channels)
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}

    x = latents = keras.Input((config.latent_dim,), name="latents")
    for units in (config.units, 2 * config.units, 4 * config.units):
        x = layers.LeakyReLU(negative_slope=0.2)(layers.Dense(units, **init)(x))
        x = layers.BatchNormalization(momentum=0.8, synchronized=config.execution.synchronized)(x)
    x = layers.Dense(int(np.prod(shape)), activation="tanh", dtype="float32", **init)(x)
    generator = keras.Model(latents, layers.Reshape(shape, dtype="float32")(x), name="generator")

    images = keras.Input(shape, name="images")
    x = layers.Flatten()(images)
    for units in (config.discriminator_units, max(1, config.discriminator_units // 2)):
        x = layers.LeakyReLU(negative_slope=0.2)(layers.Dense(units, **init)(x))
        x = layers.Dropout(config.dropout, seed=config.seed + units)(x)
    return Networks(generator, keras.Model(images, layers.Dense(1, dtype="float32", **init)(x), name="discriminator"))


# %% Losses
# The discriminator minimises the cross entropy of two kinds of pictures. The best one there can be answers log p -
# log q, with p how likely a picture is among real ones and q among generated ones. Its loss is then log 4 - 2 JS(p,
# q), where JS is the Jensen-Shannon divergence, 0 only where p and q are the same (section 4.1). So a generator that
# raises the best discriminator's loss comes closer to the data, and at the end that loss is log 4 = 1.39. The
# generator's own loss is turned round: that of the paper's game is flat where the discriminator is sure that a
# picture is generated, as it is at the beginning.


def cross_entropy(target: float, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy between sigmoid(logits) and one target for all."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Real is 1 and fake is 0; 2 log 2 = 1.39 when the two cannot be told apart, the aim (section 4.1)."""
    return cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits)


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The non-saturating loss (section 3): fakes should be called real; log 2 = 0.69 at the aim."""
    return cross_entropy(1.0, fake_logits)


# Four kinds of pictures, of which real and generated ones have opposite shares. The best discriminator's loss, then
# log 4 - 2 JS:
# >>> real, fake = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
# >>> best, middle = np.log(real / fake).astype(np.float32), (real + fake) / 2
# >>> divergence = (real * np.log(real / middle) + fake * np.log(fake / middle)).sum() / 2
# >>> loss = discriminator_loss(np.repeat(best, [4, 3, 2, 1]), np.repeat(best, [1, 2, 3, 4]))
# >>> float(loss), float(np.log(4) - 2 * divergence)


# %% Training
# One update draws latents, makes pictures of them, lets the discriminator judge these and real ones, and moves both
# networks. Calling networks as small as these takes almost as long as computing them, so the loop makes several
# updates in one call. The demo has 1,618 digits, 50 updates an epoch, and 200 epochs are 10,000 of them.
#
# What is logged: the two losses, and `diversity`, how far a generated picture lies from the nearest other one, beside
# the same for real pictures. In the demo the discriminator wins at first (0.01, with a generator above 5, in epochs 2
# to 4), and the run says so; around the eleventh epoch the game opens, and from the fortieth on `discriminator` lies
# between 1.14 and 1.29, `generator` between 0.87 and 0.99 and `diversity` between 0.98 and 1.12. A discriminator that
# stays below 0.1 teaches nothing; a diversity below 0.3 means copies. Strokes can be wrong all the same: look at
# `samples/`, the same latents after every epoch.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images; return each epoch's mean losses."""
    generator, discriminator = networks
    g_optimizer, d_optimizer = (
        adam(config.learning_rate, network.trainable_variables, config.execution, config.beta_1) for network in networks
    )
    noise = keras.random.SeedGenerator(config.seed + 1)

    @tf.function
    def step(real: tf.Tensor) -> dict[str, tf.Tensor]:
        latents = draw_part(keras.random.normal, (tf.shape(real)[0], config.latent_dim), seed=noise)
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake = generator(latents, training=True)
            real_logits = discriminator(from_uint8(real), training=True)
            fake_logits = discriminator(fake, training=True)  # one pass serves both losses
            g_loss = share(generator_loss(fake_logits))
            d_loss = share(discriminator_loss(real_logits, fake_logits))
        g_gradients = g_tape.gradient(g_loss, generator.trainable_variables, loss_scale(g_optimizer))
        d_gradients = d_tape.gradient(d_loss, discriminator.trainable_variables, loss_scale(d_optimizer))
        g_optimizer.apply(g_gradients, generator.trainable_variables)
        d_optimizer.apply(d_gradients, discriminator.trainable_variables)
        return {"generator": g_loss, "discriminator": d_loss}

    def sample(epoch: int) -> dict[str, float]:
        if output_dir is not None:
            save_grid(generate(generator, 64), output_dir / "samples" / f"epoch-{epoch:04d}.png")
        return {"diversity": sample_diversity(generate(generator, len(real)), real)} if len(real) > 1 else {}

    (real,) = data.held_out
    state = networks._asdict() | {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer, "noise": noise}
    return fit(
        step, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution, healthy=GAN_SIGNS
    )


# %% Use
# Any normal latent gives a picture. A seed stands for the same latents in every epoch and in every run, so that
# pictures of one seed can be compared. The layers that were normalised by their batch in training now use their
# running means: a picture does not depend on the others that are drawn with it.


def generate(generator: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Return `count` images, uint8 [count, size, size, channels]; the same seed always asks for the same latents."""
    if count < 1:
        raise InputError(f"count must be 1 or more, got {count}")
    latents = keras.random.normal((count, generator.input_shape[-1]), seed=seed)
    return to_uint8(mapped(generator, latents))


# %% A whole run
# The embedded data are the 1,797 digits of scikit-learn, from 13 writers, enlarged to 28 pixels. Every tenth, 179 in
# all, is held out. As many samples are compared with them by a classifier of digits that comes with the project: the
# distances between its features (0 is best, but see below), how sure it is of a sample on average, and how evenly the
# samples fall into the ten classes (an entropy of ln 10 = 2.30 is even). The demo reaches a Frechet distance of 16.7,
# a confidence of 0.925 and an entropy of 2.28.


def sample_digits(config: Config = DEMO) -> np.ndarray:
    """Return the embedded data: scikit-learn's handwritten digits, uint8 [1797, size, size, 1]."""
    return sklearn_digits(config.size)[0]


# >>> digits = images_of("sample", DEMO.size, DEMO.channels, sample_digits)
# >>> show(digits.train[:32], columns=16)


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/gan"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, score the samples; leave a run in `output_dir`, return its picture's path."""
    check_run(output_dir, "gan", config, data, accept_data)
    networks = build(config)
    digits = functools.partial(sample_digits, config)
    examples = images_of(data, config.size, config.channels, digits, skip_bad, fetch)
    (real,) = examples.held_out(10_000 if config.channels == 1 else 500)
    stream = batches(examples.train, config.batch_size, config.seed, undistorted(examples), examples.held_out(500))
    start_run(output_dir, "gan", config, data)
    train(networks, stream, config, output_dir)
    picture = save_grid(generate(networks.generator, 64), output_dir / "samples.png", zoom=2)
    finish_run(output_dir, networks, lambda: evaluate(networks.generator, real))
    return picture


def evaluate(generator: keras.Model, real: np.ndarray, classifier: Path | None = None) -> dict[str, float | int | str]:
    """Score as many samples as there are held-out `real` images by a digit classifier; none for colour, or for one."""
    if real.shape[-1] != 1 or len(real) < 2:
        return {}
    samples = generate(generator, len(real), seed=1)
    return sample_scores(classifier or data_file("digit_classifier.keras"), real, samples)


# What the scores are worth is seen when digits that were learnt from stand in for samples. Of these too the distances
# are far from 0: 179 pictures are few, and 40 of those held out are threes, more than twice their share of the
# others. So the demo's distances say little, and its confidence, which is 0.98 for real digits, says more. On MNIST,
# beside half of its 10,000 test images, the two part: 15.0 for samples, 0.4 for the other half.
# >>> (held_out,) = digits.held_out()
# >>> sample_scores(data_file("digit_classifier.keras"), held_out, digits.train[4::9][: len(held_out)])


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to write the handwritten digits that come with scikit-learn; return the picture of 64 samples."""
    return experiment("sample", config, output_dir)


def generate_file(
    destination: Path, count: Count = 64, seed: Seed = 0, singles: bool = False, run: Path = DEMO_RUN
) -> Path:
    """Write samples of a run as one grid or, with `singles`, as one PNG each into the folder `destination`."""
    config = read_run(run, "gan", Config)
    generator = load_network(run, "generator", (config.latent_dim,), image_shape(config))
    return save_samples(generate(generator, count, seed), destination, singles)


# %% Try it
# Eight new digits. Below each stands the digit nearest to it, in pixels, of all that were learnt from: a generator
# that knew its pictures by heart would show two rows that are the same.
# >>> from common.latents import great_circle, nearest
# >>>
# >>> generator = load_network(DEMO_RUN, "generator")
# >>> drawn = generate(generator, 8, seed=1)
# >>> places = nearest(digits.train.reshape(-1, DEMO.size**2) / 255, drawn.reshape(-1, DEMO.size**2) / 255, 1)[:, 0]
# >>> show(np.concatenate([drawn, digits.train[places]]))
#
# A walk through six latents and back to the first, a row from each to the next. Latents of 100 normal numbers all lie
# near a sphere of radius 10, so the way is along a great circle: a straight line would lead through its inside, where
# the generator has never been. Digits turn into others within a step or two, and between them is what no writer
# wrote.
# >>> stops = np.random.default_rng(3).standard_normal((6, DEMO.latent_dim)).astype(np.float32)
# >>> ways = [great_circle(start, end, 9)[:-1] for start, end in zip(stops, np.roll(stops, -1, axis=0), strict=True)]
# >>> show(to_uint8(mapped(generator, np.concatenate(ways))))


if __name__ == "__main__":
    presets = {"mnist": Config(), "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, generate=generate_file)
