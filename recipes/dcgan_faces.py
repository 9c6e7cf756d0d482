"""DCGAN of faces: draw faces from noise, walk from one to another, and reckon with them: a - b + c.

Paper    Radford, Metz & Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
         Networks", ICLR 2016, arXiv:1511.06434; average of weights: Yazici et al., ICLR 2019, arXiv:1806.04498;
         differentiable augmentation: Zhao et al., NeurIPS 2020, arXiv:2006.10738.
Images   uint8 [n, size, size, 3] at the borders; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], standard normal. Logits: float32 [n, 1], positive means real.
Differs  1. Latents are normal, for walks; kernels are 4 x 4; the last layer enlarges, then convolves; rates fall.
         2. Pictures come from `averaged`, a generator with the moving average of the weights of the one that learns.
         3. The discriminator learns half as fast, from real (and mirrored) and drawn images changed at random.
Run      python -m recipes.dcgan_faces                                             the demo: drawn faces, offline
         python -m recipes.dcgan_faces train --data DIR --output-dir runs/mine     your own pictures; again: goes on
         python -m recipes.dcgan_faces generate grid.png --count 64 --run runs/mine
         python -m recipes.dcgan_faces walk walk.gif --start 3 --end 12 --run runs/mine    numbers as in the grid,
         python -m recipes.dcgan_faces arithmetic out.png --a 3 9 12 --b 0 5 31 --c 7 8 20 --run runs/mine    from 0
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.attributes import attributed_images
from common.batches import Batches, mapped
from common.cli import run_command
from common.errors import InputError
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.faces import FACE_ATTRIBUTES, drawn_faces
from common.files import data_file
from common.health import GAN_SIGNS, sample_diversity
from common.images import from_uint8, save_gif, save_grid, save_samples, to_uint8
from common.labelled import image_batches
from common.latents import great_circle, save_arithmetic
from common.lazy import keras, tf
from common.ranges import BatchSize, BelowOne, Count, Epochs, Filters, Frames, LearningRate, Range, Seed, Share, Units
from common.runs import check_run, finish_run, image_shape, load_network, read_run, start_run
from common.scores import arithmetic_scores, set_distances
from common.training import History, fit, share

# %% Configuration
# A face holds more than a digit, and a few thousand faces are soon known by heart: the discriminator then tells real
# from drawn by memory, and the generator learns little more. `translation`, `colour` and `cutout` work against that:
# all that the discriminator sees is shifted, recoloured and partly blanked, anew each time. On 1,000 drawn faces
# shifts brought the Frechet distance from 228 to 156, colours and cutout besides to 147. `averaging` is how slowly
# the generator that is shown follows the one that learns. The discriminator's learning rate is half of
# `learning_rate`, and both fall, so that the game ends more quietly than it began.


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's networks and optimizer (section 4), averaged and augmented; `DEMO` is smaller and only shifts."""

    size: Annotated[int, Range(16, 512)] = 64  # pixels, a multiple of 16
    channels: Literal[1, 3] = 3  # 3 for colour, 1 for grey
    latent_dim: Units = 100
    base_filters: Filters = 128  # of the layers next to the image; doubles at each halving of the size
    images: Annotated[int, Range(0, 10_000_000)] = 0  # training images that are used, of those there are; 0: all
    averaging: Share = 0.999  # share of the average that a step keeps; 0: no average, the last weights
    colour: Annotated[float, Range(0, 2)] = 1.0  # strength of random brightness, saturation and contrast; 0: none
    translation: Share = 0.125  # largest random shift, as a share of the size; 0: none
    cutout: Share = 0.5  # side of a square that is blanked, as a share of the size; 0: none
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 2e-4  # of the generator, twice the discriminator's; both fall to a tenth along a line
    beta_1: BelowOne = 0.5  # Adam; 0.9 oscillates (section 4)
    epochs: Epochs = 25
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


DEMO = Config(base_filters=24, averaging=0.998, colour=0.0, cutout=0.0, batch_size=16, learning_rate=5e-4, epochs=40)
DEMO_RUN = Path("runs/dcgan_faces-demo")
Face = Annotated[int, Range(0, 999_999)]
Faces = tuple[Face, ...]  # by their numbers in the grid of a seed

# %% Networks
# The generator spreads 100 numbers over a map of 4 x 4 places (for 64 pixels) and doubles it four times; the
# discriminator halves a picture as often and judges what is left. The last doubling only enlarges and leaves the
# drawing to a convolution, because a transposed one next to the pixels leaves a chequered pattern.
#
# Two networks play, and a third is shown. The generator's weights circle around what would be good rather than rest
# there, since every step of the discriminator changes what good is. `averaged` has the mean of its recent weights:
# nobody trains it, and it draws better, at a distance of 120 where the last weights are at 148.


class Networks(NamedTuple):
    """The two that play, and the one that is shown."""

    generator: keras.Model  # latents [n, latent_dim] -> images [n, size, size, channels] in [-1, 1]
    discriminator: keras.Model  # images -> logits [n, 1], positive means real
    averaged: keras.Model  # as the generator, with the average of its weights: what is saved to be used


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return the networks, untrained. Raises ValueError for a size that 16 does not divide."""
    if config.size % 16:
        raise InputError(f"size must be a multiple of 16, got {config.size}")
    layers, width, smallest = keras.layers, config.base_filters, config.size // 16
    norm = functools.partial(layers.BatchNormalization, synchronized=config.execution.synchronized)
    seeds = keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02, seed=seeds)}

    def generator(name: str) -> keras.Model:
        latents = keras.Input((config.latent_dim,), name="latents")
        x = layers.Dense(smallest * smallest * width * 8, use_bias=False, **init)(latents)
        x = layers.Reshape((smallest, smallest, width * 8))(x)
        for factor in (4, 2, 1):  # size / 16 -> size / 2
            x = layers.ReLU()(norm(momentum=0.9)(x))
            x = layers.Conv2DTranspose(width * factor, 4, 2, "same", use_bias=False, **init)(x)
        x = layers.UpSampling2D(2, interpolation="bilinear")(layers.ReLU()(norm(momentum=0.9)(x)))
        x = layers.Conv2D(config.channels, 5, padding="same", activation="tanh", dtype="float32", **init)(x)
        return keras.Model(latents, x, name=name)

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    for factor in (1, 2, 4, 8):  # size / 2 -> size / 16; not normalised next to the image (section 3)
        x = layers.Conv2D(width * factor, 4, 2, "same", use_bias=factor == 1, **init)(x)
        x = layers.LeakyReLU(negative_slope=0.2)(norm()(x) if factor > 1 else x)
    logits = layers.Dense(1, dtype="float32", **init)(layers.Flatten()(x))
    discriminator = keras.Model(images, logits, name="discriminator")
    return Networks(generator("generator"), discriminator, generator("averaged"))


# %% Losses
# The losses are those of DCGAN: the discriminator should call real pictures real and drawn ones drawn, the generator
# wants its own called real. New is what stands before them. Changing only the real pictures would teach the generator
# to draw grey squares and shifted faces; so drawn pictures are changed in the same way before they are judged, and
# the gradient passes back through the change to the picture as the generator made it.


def augmented(images: tf.Tensor, config: Config, seeds: keras.random.SeedGenerator) -> tf.Tensor:
    """Change each image, float32 [n, size, size, channels], in ways of its own; gradients pass (Zhao, section 3.3)."""
    count, size, centres = tf.shape(images)[0], config.size, tf.range(0.5, config.size)
    drawn = functools.partial(draw_part, keras.random.uniform, seed=seeds)
    if config.colour:
        images += config.colour * drawn((count, 1, 1, 1), -0.5, 0.5)
        for axes, most in (((3,), 1.0), ((1, 2, 3), 0.5)):  # saturation, contrast
            mean = tf.reduce_mean(images, axes, keepdims=True)
            images = mean + (images - mean) * (1 + config.colour * drawn((count, 1, 1, 1), -most, most))
    if config.translation:
        margin = max(1, round(config.translation * size))
        images = tf.pad(images, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
        for axis in (1, 2):
            first = tf.cast(drawn((count, 1), 0, 2 * margin + 1), tf.int32)
            images = tf.gather(images, first + tf.range(size), axis=axis, batch_dims=1)
    if config.cutout:
        rows, columns = (tf.abs(centres - drawn((count, 1), 0, size)) < config.cutout * size / 2 for _ in "hw")
        images *= 1 - tf.cast(rows[:, :, None] & columns[:, None, :], tf.float32)[..., None]
    return images


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Cross entropy: real is 1 and fake is 0; 2 log 2 = 1.39 when the two cannot be told apart."""
    return tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(tf.nn.softplus(fake_logits))


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The non-saturating loss: fakes should be called real; log 2 = 0.69 when the two cannot be told apart."""
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


# What the discriminator sees of eight faces: below them as the demo changes them, by shifts alone, then as `Config()`
# does, with colours and blanked squares besides. The grey of what is shifted in or blanked is 0, the middle of [-1,
# 1].
# >>> faces, _ = drawn_faces(8, DEMO.seed, DEMO.size)
# >>> seeds = keras.random.SeedGenerator(0)
# >>> changed = [to_uint8(augmented(from_uint8(faces), settings, seeds)) for settings in (DEMO, Config())]
# >>> show(np.concatenate([faces, *changed]))


# %% Training
# One step draws faces, judges them and as many real ones, both changed at random, and moves the networks and the
# average. The real ones are also mirrored at random. The demo has 2,160 faces to learn from, 135 steps an epoch.
#
# What is logged: `discriminator`, 1.39 where it cannot tell, `generator`, 0.69 there, and `diversity` of the averaged
# generator's faces: how far one lies from the nearest other one, beside the same for real faces. In the demo
# `discriminator` rises to 0.87 in the third epoch and sinks to 0.3, `generator` goes from 1.65 to 2.7: the
# discriminator leads throughout, and yet the faces get better. Below 0.1 it would have won. `diversity` is 0.1 at
# first, which the run warns of, since the average has barely begun; it passes 0.3 in the third epoch and ends at
# 0.67, so the faces drawn are less varied than real ones. Whether they are good, `samples/` shows.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images; return each epoch's mean losses."""
    generator, discriminator, averaged = networks
    steps, first = config.epochs * data.steps_per_epoch, config.learning_rate
    rates = (keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.1 * rate) for rate in (first, first / 2))
    g_optimizer, d_optimizer = (
        adam(rate, network.trainable_variables, config.execution, config.beta_1)
        for rate, network in zip(rates, (generator, discriminator), strict=True)
    )
    noise = keras.random.SeedGenerator(config.seed + 1)

    @tf.function
    def step(real: tf.Tensor) -> dict[str, tf.Tensor]:
        latents = draw_part(keras.random.normal, (tf.shape(real)[0], config.latent_dim), seed=noise)
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake = generator(latents, training=True)
            real_logits = discriminator(augmented(from_uint8(real), config, noise), training=True)
            fake_logits = discriminator(augmented(fake, config, noise), training=True)  # one pass serves both losses
            g_loss, d_loss = share(generator_loss(fake_logits)), share(discriminator_loss(real_logits, fake_logits))
        g_gradients = g_tape.gradient(g_loss, generator.trainable_variables, loss_scale(g_optimizer))
        d_gradients = d_tape.gradient(d_loss, discriminator.trainable_variables, loss_scale(d_optimizer))
        g_optimizer.apply(g_gradients, generator.trainable_variables)
        d_optimizer.apply(d_gradients, discriminator.trainable_variables)
        kept = tf.minimum(config.averaging, 1 - 1 / tf.cast(g_optimizer.iterations, tf.float32))  # at first the mean
        for average, weight in zip(averaged.variables, generator.variables, strict=True):
            average.assign(weight + kept * (average - weight))
        return {"generator": g_loss, "discriminator": d_loss}

    def sample(epoch: int) -> dict[str, float]:
        drawn = draw(averaged, latents_of(averaged, range(max(64, len(real)))))
        if output_dir is not None:
            save_grid(drawn[:64], output_dir / "samples" / f"epoch-{epoch:04d}.png")
        return {"diversity": sample_diversity(drawn[: len(real)], real)} if len(real) > 1 else {}

    (real,) = data.held_out
    state = networks._asdict() | {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer, "noise": noise}
    return fit(
        step, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution, healthy=GAN_SIGNS
    )


# %% Use
# Faces are named by a seed and a number, as they stand in its grid, row by row from 0: that is how a walk or a sum
# says which faces it means. Arithmetic is done with means of several latents, since one latent holds all of a face,
# its accidents too, and what three have in common is nearer to what was meant.


def latents_of(generator: keras.Model, numbers: range | Faces, seed: int = 0) -> np.ndarray:
    """Return the latents of some of the images that a seed stands for, by their numbers, float32 [n, latent_dim]."""
    if not numbers or not 0 <= min(numbers) <= max(numbers) < 1_000_000:
        raise InputError(f"images are numbered from 0 to 999999, got {[*numbers[:9]] or 'none'}")
    shape = (max(numbers) + 1, generator.input_shape[-1])
    return np.random.default_rng(seed).standard_normal(shape, np.float32)[list(numbers)]


def draw(generator: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Return images, uint8 [n, size, size, channels], for latents [n, latent_dim]."""
    return to_uint8(mapped(generator, latents.astype(np.float32)))


def arithmetic(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the mean of latents a [n, latent_dim], less that of b, plus that of c, of 3 each (section 6.3.2)."""
    return a.mean(axis=0) - b.mean(axis=0) + c.mean(axis=0)


# %% A whole run
# The embedded data are 3,000 faces drawn by rule. Nine attributes of each are known, but the GAN never sees them; 600
# faces are held out, and 240 more are what `diversity` compares with. A classifier of the attributes, which comes
# with the project, judges 600 drawn faces beside the 600 held out. In its features the demo's Frechet distance is 115
# and its kernel distance 84; in a benchmark with 1,000 faces those that were learnt from stood at 5, so there is a
# long way to go. It judges the arithmetic too: a sum that should wear glasses does so in 27 of 100 cases, where 7 of
# 100 faces do anyway. Most of what this demo draws looks left, 81 of 100, and where too few surely do not there is no
# sum to judge.


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/dcgan_faces"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, score what is drawn; leave a run in `output_dir`, return its picture's path."""
    check_run(output_dir, "dcgan_faces", config, data, accept_data)
    networks = build(config)
    sample = functools.partial(drawn_faces, 3000, config.seed, config.size)
    faces = attributed_images(data, config.size, config.channels, sample, skip_bad, fetch, FACE_ATTRIBUTES)
    faces = faces._replace(train=faces.train.some(config.images)) if config.images else faces
    start_run(output_dir, "dcgan_faces", config, data)
    train(networks, image_batches(faces, config.batch_size, config.seed, mirror=True), config, output_dir)
    picture = save_grid(draw(networks.averaged, latents_of(networks.averaged, range(64))), output_dir / "samples.png")
    real = faces.test.loaded(2000)[0]
    finish_run(output_dir, networks, lambda: evaluate(networks, real, output_dir) if data == "sample" else {})
    return picture


def evaluate(networks: Networks, real: np.ndarray, output_dir: Path) -> dict[str, float | int | str]:
    """Score what was learnt from drawn faces, and arithmetic with it, by the classifier of their attributes."""
    judge, drawing = data_file("face_classifier.keras"), functools.partial(draw, networks.averaged)
    latents = latents_of(networks.averaged, range(2000), seed=1)
    last = set_distances(judge, real, draw(networks.generator, latents[: len(real)]))
    scores = {f"{name}_unaveraged": last[name] for name in ("frechet_distance", "kernel_distance")}
    scores |= set_distances(judge, real, drawing(latents[: len(real)]))
    wanted = ("glasses", "looking_left")
    sums, found = arithmetic_scores(judge, FACE_ATTRIBUTES, wanted, "dark_skin", latents, drawing, arithmetic)
    for name, chosen in found.items():
        save_arithmetic(chosen, drawing, arithmetic, output_dir / f"arithmetic_{name}.png")
    return scores | sums


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn drawn faces; return the picture of 64 new ones."""
    return experiment("sample", config, output_dir)


# Nine of the faces; below them one person without and with each attribute: smile, glasses, beard, hat, blond hair,
# dark skin, age, looking left, a bright background. Only the judge knows these words.
# >>> faces, _ = drawn_faces(9, DEMO.seed, DEMO.size)
# >>> without, having = (
# ...     np.concatenate([drawn_faces(1, 7, DEMO.size, **{name: strength})[0] for name in FACE_ATTRIBUTES])
# ...     for strength in (0.0, 1.0)
# ... )
# >>> show(np.concatenate([faces, without, having]), columns=9)


def open_generator(run: Path) -> keras.Model:
    """Return the generator of a run that is used."""
    config = read_run(run, "dcgan_faces", Config)
    return load_network(run, "averaged", (config.latent_dim,), image_shape(config))


def generate_file(
    destination: Path, count: Count = 64, seed: Seed = 0, singles: bool = False, run: Path = DEMO_RUN
) -> Path:
    """Write faces as one grid, row by row, or, with `singles`, as one PNG each into the folder `destination`."""
    generator = open_generator(run)
    return save_samples(draw(generator, latents_of(generator, range(count), seed)), destination, singles)


def walk_file(
    destination: Path, start: Face = 0, end: Face = 1, steps: Frames = 10, seed: Seed = 0, run: Path = DEMO_RUN
) -> Path:
    """Write the way from one face of a seed's grid to another, by their numbers from 0, as a GIF, or else a strip."""
    generator = open_generator(run)
    first, last = latents_of(generator, (start, end), seed)
    images = draw(generator, great_circle(first, last, steps))
    return save_gif(images, destination) if destination.suffix == ".gif" else save_grid(images, destination, steps)


def arithmetic_file(
    destination: Path, a: Faces = (), b: Faces = (), c: Faces = (), seed: Seed = 0, run: Path = DEMO_RUN
) -> Path:
    """Write a - b + c, each the average of as many faces of a seed's grid, by their numbers from 0; three are good."""
    if not len(a) == len(b) == len(c) > 0:
        raise InputError(f"--a, --b and --c take as many numbers of faces each, got {len(a)}, {len(b)} and {len(c)}")
    generator = open_generator(run)
    chosen = {name: latents_of(generator, faces, seed) for name, faces in {"a": a, "b": b, "c": c}.items()}
    return save_arithmetic(chosen, functools.partial(draw, generator), arithmetic, destination)


# %% Try it
# A walk through four faces of seed 0 and back to the first. Latents of 100 normal numbers lie near a sphere of radius
# 10, and the way keeps to it; hats and hair change on the way, and every picture between is a face again.
# >>> generator = load_network(DEMO_RUN, "averaged")
# >>> stops = latents_of(generator, (0, 5, 20, 24))
# >>> ways = [great_circle(start, end, 9)[:-1] for start, end in zip(stops, np.roll(stops, -1, axis=0), strict=True)]
# >>> frames = draw(generator, np.concatenate(ways))
# >>> show_file(save_gif(frames.repeat(3, axis=1).repeat(3, axis=2), DEMO_RUN.parent / "dcgan_faces-walk.gif"))
#
# Reckoning with faces. The classifier looks through a thousand of them for three kinds: smiling and looking left,
# looking left without a smile, and neither. The first less the second should leave a smile, and with the third it
# should come out on a face that looks right. Each row ends with the mean of its three; the last row is the sum, then
# the sum with a little noise. More than the smile is carried over: skin and background change with it.
# >>> from common.scores import attribute_probabilities
# >>>
# >>> drawing, judge = functools.partial(draw, generator), data_file("face_classifier.keras")
# >>> latents = latents_of(generator, range(1000))
# >>> found = dict(zip(FACE_ATTRIBUTES, attribute_probabilities(judge, drawing(latents)).T, strict=True))
# >>> smile, left = found["smile"], found["looking_left"]
# >>> kinds = {"a: smiles, looks left": smile * left, "b: looks left": (1 - smile) * left}
# >>> kinds["c: neither"] = (1 - smile) * (1 - left)
# >>> surest = {name: latents[np.argsort(-sure)[:20]] for name, sure in kinds.items()}
# >>> rng = np.random.default_rng(0)
# >>> chosen = {name: rng.choice(some, 3, replace=False) for name, some in surest.items()}
# >>> show_file(save_arithmetic(chosen, drawing, arithmetic, DEMO_RUN.parent / "dcgan_faces-arithmetic.png"))
#
# Was that luck? Of a hundred such sums, and of all faces, how many smile and how many look left:
# >>> sums = [arithmetic(*(rng.choice(some, 3, replace=False) for some in surest.values())) for _ in range(100)]
# >>> after = dict(zip(FACE_ATTRIBUTES, attribute_probabilities(judge, drawing(np.stack(sums))).T, strict=True))
# >>> for name in ("smile", "looking_left"):
# ...     print(f"{name}: {np.mean(after[name] > 0.5):.0%} of the sums, {np.mean(found[name] > 0.5):.0%} of all faces")


if __name__ == "__main__":
    run = functools.partial(run_command, demo, presets={"photos": Config(), "demo": DEMO}, train=experiment)
    run(generate=generate_file, walk=walk_file, arithmetic=arithmetic_file)
