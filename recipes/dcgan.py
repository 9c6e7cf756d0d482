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
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, batches, undistorted
from common.cli import run_command
from common.datasets import images_of
from common.digits import sklearn_digits
from common.errors import InputError
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.files import data_file
from common.health import GAN_SIGNS, sample_diversity
from common.images import from_uint8, save_gif, save_grid, save_samples, to_uint8
from common.latents import great_circle
from common.lazy import keras, tf
from common.ranges import BatchSize, BelowOne, Count, Epochs, Filters, Frames, LearningRate, Range, Seed, Units, Zoom
from common.runs import check_run, finish_run, image_shape, load_network, read_run, start_run
from common.scores import sample_scores
from common.training import History, fit, share

# %% Configuration
# What a GAN of digits does with dense layers this one does with convolutions, and the paper is a list of what makes
# that work. `base_filters` is the width of the layers next to the image, and so the time: each halving of the size
# doubles it. `size` decides how many halvings there are, `latent_dim` how many numbers a picture is made from.
# `beta_1` is half of the usual: with 0.9 the two networks swing about each other. `learning_rate` is the same for
# both, so which one is stronger is decided by their widths, which mirror each other.


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's settings (section 4); `DIGITS` is for 28 px grey pictures, `DEMO` the same made small."""

    size: Annotated[int, Range(16, 512)] = 64  # pixels; halves at least twice, down to 4, 5, 6 or 7
    channels: Literal[1, 3] = 3  # 3 for colour, 1 for grey
    latent_dim: Units = 100
    base_filters: Filters = 128  # of the layers next to the image; doubles at each halving of the size
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 2e-4
    beta_1: BelowOne = 0.5  # Adam; 0.9 oscillates (section 4)
    epochs: Epochs = 25
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


DIGITS = Config(size=28, channels=1, base_filters=32, epochs=50)
DEMO_RUN = Path("runs/dcgan-demo")
DEMO = Config(size=28, channels=1, base_filters=32, batch_size=64, epochs=120)

# %% Networks
# The generator spreads the latents over a small map, 7 x 7 places for 28 pixels, 4 x 4 for 64, and doubles it with
# transposed convolutions until it is a picture in [-1, 1]. The discriminator is its mirror image: it halves the
# picture with convolutions down to the same small map and judges that. Nothing is pooled, so both learn by themselves
# how to shrink and enlarge.
#
# Batch normalisation keeps signals alive on their way through all layers but those next to a picture: the generator's
# pixels should be as bright as they like, and the discriminator should see them as they are. The discriminator's ReLU
# leaks, so that gradients reach the generator from units that are off.


class Networks(NamedTuple):
    """Both networks."""

    generator: keras.Model  # latents [n, latent_dim] -> images [n, size, size, channels] in [-1, 1]
    discriminator: keras.Model  # images -> logits [n, 1], positive means real


@in_precision
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
    norm = functools.partial(layers.BatchNormalization, synchronized=config.execution.synchronized)
    seeds = keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02, seed=seeds)}

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(smallest * smallest * widths[-1], use_bias=False, **init)(latents)
    x = layers.Reshape((smallest, smallest, widths[-1]))(x)
    for width in reversed(widths[:-1]):  # smallest -> ... -> size / 2
        x = layers.ReLU()(norm()(x))
        x = layers.Conv2DTranspose(width, 4, 2, "same", use_bias=False, **init)(x)
    x = layers.ReLU()(norm()(x))
    x = layers.Conv2DTranspose(config.channels, 4, 2, "same", activation="tanh", dtype="float32", **init)(x)
    generator = keras.Model(latents, x, name="generator")

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    for level, width in enumerate(widths):  # size -> ... -> smallest
        x = layers.Conv2D(width, 4, 2, "same", use_bias=level == 0, **init)(x)
        x = norm()(x) if level else x  # none next to the image (section 3)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    logits = layers.Dense(1, dtype="float32", **init)(layers.Flatten()(x))
    return Networks(generator, keras.Model(images, logits, name="discriminator"))


# %% Losses
# The discriminator minimises the cross entropy of real and generated pictures. The generator could maximise the same
# number, as the game is first written; but a picture that the discriminator sees through, which at the beginning is
# every one, then gets hardly any gradient. So the generator minimises the cross entropy of its pictures being called
# real: the same aim, with the slope where it is needed.


def cross_entropy(target: float, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy between sigmoid(logits) and one target for all."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Real is 1 and fake is 0; 2 log 2 = 1.39 when the two cannot be told apart."""
    return cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits)


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The non-saturating loss: fakes should be called real; log 2 = 0.69 when the two cannot be told apart."""
    return cross_entropy(1.0, fake_logits)


# What reaches the generator from three pictures, of which the first is seen through, the second is undecided and the
# third passes as real. The first row is the gradient of this loss, sigmoid(logit) - 1; the second is that of the game
# as first written, -sigmoid(logit), which leaves the worst picture alone:
# >>> logits = tf.constant([-6.0, 0.0, 6.0])
# >>> with tf.GradientTape(persistent=True) as tape:
# ...     tape.watch(logits)
# ...     losses = 3 * generator_loss(logits), -3 * cross_entropy(0.0, logits)
# >>> np.round([tape.gradient(loss, logits) for loss in losses], 3)


# %% Training
# One step draws latents, makes pictures of them, lets the discriminator judge these and as many real ones, and moves
# both networks. The demo's 1,618 digits are 25 steps an epoch.
#
# What is logged: `discriminator`, 1.39 where it cannot tell, `generator`, 0.69 there, and `diversity`, how far a
# generated picture lies from the nearest other one, beside the same for real pictures. In the demo `discriminator`
# falls to 0.2 in the fourth epoch, comes back to 1.1 by the twentieth and sinks slowly to 0.85, while `generator`
# goes from 0.9 to 1.3; on MNIST, after 50 epochs, they stand at 0.64 and 2.0. That the discriminator gains late does
# not mean that samples get worse: there the classifier was surer of them after 50 epochs (0.902) than after 20
# (0.888). A `discriminator` below 0.1 has won and teaches nothing, and a `diversity` below 0.3 means that the
# generator repeats itself; the run warns of both. Look at `samples/`: the same latents after every epoch.


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

    real = data.held_out[0] if data.held_out else np.empty(0)
    state = networks._asdict() | {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer, "noise": noise}
    return fit(
        step, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution, healthy=GAN_SIGNS
    )


# %% Use
# A seed always stands for the same latents, so it names a picture. In training a layer was normalised by its batch;
# now it uses running means, and a picture is the same whatever is drawn with it. A walk leads from one seed's picture
# to another's along a great circle, since 100 normal numbers nearly always lie at a distance near 10 from 0: the
# middle of a straight line would be nearer than any latent the generator has learnt from.


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
# The embedded data are the 1,797 digits of scikit-learn, from 13 writers, enlarged to 28 pixels. Every tenth, 179 in
# all, is held out. As many samples are compared with them in the features of a classifier of digits that comes with
# the project: the demo's Frechet distance is 24.2 and its kernel distance 7.1 (0 is best, but see below). Of the
# samples alone it says how sure the classifier is of them, 0.86 on average, and how evenly they fall into the ten
# classes: the rarest has 6.1 %, and the entropy is 2.26 where ln 10 = 2.30 is even.


def sample_digits(config: Config = DEMO) -> np.ndarray:
    """Return the embedded data: scikit-learn's handwritten digits, uint8 [1797, size, size, 1]."""
    return sklearn_digits(config.size)[0]


# >>> digits = images_of("sample", DEMO.size, DEMO.channels, sample_digits)
# >>> show(digits.train[:32], columns=16)


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/dcgan"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, score the samples; leave a run in `output_dir`, return its picture's path."""
    check_run(output_dir, "dcgan", config, data, accept_data)
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


# What the scores are worth is seen when digits that were learnt from stand in for samples. Of these too the distances
# are far from 0, since 179 pictures are few and 40 of those held out are threes, more than twice their share of the
# others; but the classifier is surer of them, 0.98. On MNIST, with 10,000 samples, the gap is plain: 19.9 from the
# test images, where two halves of these are 0.4 apart.
# >>> (held_out,) = digits.held_out()
# >>> sample_scores(data_file("digit_classifier.keras"), held_out, digits.train[4::9][: len(held_out)])


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to write the handwritten digits that come with scikit-learn; return the picture of 64 samples."""
    return experiment("sample", config, output_dir)


def generate_file(
    destination: Path, count: Count = 64, seed: Seed = 0, singles: bool = False, run: Path = DEMO_RUN
) -> Path:
    """Write samples of a run as one grid or, with `singles`, as one PNG each into the folder `destination`."""
    config = read_run(run, "dcgan", Config)
    generator = load_network(run, "generator", (config.latent_dim,), image_shape(config))
    return save_samples(generate(generator, count, seed), destination, singles)


def walk_file(
    destination: Path, seed: Seed = 0, to_seed: Seed = 1, steps: Frames = 24, zoom: Zoom = 4, run: Path = DEMO_RUN
) -> Path:
    """Write the walk between the latents of two seeds as a GIF, each pixel `zoom` wide and high."""
    config = read_run(run, "dcgan", Config)
    generator = load_network(run, "generator", (config.latent_dim,), image_shape(config))
    images = walk(generator, seed, to_seed, steps)
    return save_gif(images.repeat(zoom, axis=1).repeat(zoom, axis=2), destination)


# %% Try it
# The generator cannot be asked for a digit, but among a thousand of its pictures there are some of each, and the
# classifier finds them. Here it writes the first sixteen digits of pi, no picture twice.
# >>> from common.scores import classifier_features
# >>>
# >>> from common.keras_files import load_keras_file
# >>> generator = load_network(DEMO_RUN, "generator")
# >>> drawn = generate(generator, 1000, seed=1)
# >>> _, shares = classifier_features(load_keras_file(data_file("digit_classifier.keras")), drawn)
# >>> surest = np.argsort(-shares, axis=0)  # of each digit, a column
# >>> show(drawn[[surest[place, int(digit)] for place, digit in enumerate("3141592653589793")]])
#
# Sixteen walks at once, each from one seed's digit to the next one's and back. None of them jumps: what lies between
# two digits is a picture too, if not always one of a digit.
# >>> from common.images import tiled
# >>>
# >>> ways = np.stack([walk(generator, seed, seed + 1, 16) for seed in range(16)])
# >>> there = np.stack([tiled(frame, 8, 3) for frame in ways.swapaxes(0, 1)])
# >>> show_file(save_gif(np.concatenate([there, there[::-1]]), DEMO_RUN.parent / "dcgan-walks.gif"))


if __name__ == "__main__":
    presets = {"paper": Config(), "digits": DIGITS, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, generate=generate_file, walk=walk_file)
