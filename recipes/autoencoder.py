"""Autoencoder: squeeze pictures through a few numbers and draw them again from those.

Paper    Hinton & Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 313, 2006,
         doi:10.1126/science.1127647. With --noise: Vincent, Larochelle, Bengio & Manzagol, "Extracting and Composing
         Robust Features with Denoising Autoencoders", ICML 2008, doi:10.1145/1390156.1390294.
Images   uint8 [n, size, size, channels] at the borders; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], any value.
Errors   mean squared differences of pixels on the scale [0, 1], on which black and white are 1 apart.
Differs  1. Smaller, with ReLU and tanh, and trained as a whole by AdamW on squared errors: no pretraining of layers.
         2. Noise is normal (Vincent et al. set pixels to 0); the epoch with the smallest validation loss is kept.
Run      python -m recipes.autoencoder                                        the demo: 2 to 50 latents, offline
         python -m recipes.autoencoder train --data mnist --compare 2 3 5 10 50 --fetch  the same on MNIST, fetched once
         python -m recipes.autoencoder train --data DIR --channels 3 --size 64 --output-dir runs/mine  your own pictures
         python -m recipes.autoencoder train --preset denoise --data mnist --output-dir runs/denoise    takes noise off
         python -m recipes.autoencoder reconstruct in.png out.png --run runs/denoise                    or folders
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, mapped
from common.cli import run_command
from common.digits import digits_or_others
from common.errors import InputError, printable
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.images import (
    checked_images,
    find_images,
    from_uint8,
    read_image,
    save_grid,
    save_table,
    to_uint8,
    write_image,
)
from common.labelled import Labelled, Split, image_batches, square_image
from common.latents import save_scatter
from common.lazy import keras, tf
from common.ranges import BatchSize, Epochs, LearningRate, Patience, Range, Seed, Share, Units
from common.runs import check_run, finish_run, image_shape, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration
# `latent_dim` says through how many numbers a picture has to pass, and decides most: a few keep what the pictures
# have in common, many keep each picture. `units` is how much can be worked out on either side of them. It has to grow
# with the latents: on MNIST the 128 units of `Config()` lose to plain principal components at 50 latents, since the
# layers next to the latents have 64 units; hence `WIDE`.
#
# `noise` changes the task. The encoder sees a picture with noise, and the decoder is asked for the one without, so
# that copying is no solution any more. `patience` ends training when pictures that are not learnt from are no longer
# drawn better.


@dataclass(frozen=True, kw_only=True)
class Config:
    """784-128-64-10 and back, for 28 px digits; `WIDE` makes use of 50 latents; `DENOISE` takes noise away."""

    size: Annotated[int, Range(4, 512)] = 28  # pixels
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    units: Units = 128  # of the hidden layers next to the image; those next to the latents have half as many
    latent_dim: Units = 10
    noise: Annotated[float, Range(0, 10)] = 0.0  # deviation of what training adds to the pixels, on the scale [0, 1]
    batch_size: BatchSize = 256
    learning_rate: LearningRate = 1e-3  # AdamW
    weight_decay: Share = 1e-5  # AdamW: share of each weight taken off at a step, times the learning rate
    epochs: Epochs = 50
    patience: Patience = 10  # epochs without a smaller validation loss after which training ends; 0: never
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


WIDE = Config(units=512)
DENOISE = Config(units=512, latent_dim=50, noise=0.5)
DEMO = Config(units=512, batch_size=64, epochs=100)
DEMO_RUN = Path("runs/autoencoder-demo")

# %% Networks
# Both halves are dense: a picture is a row of numbers to them, and nothing tells them which pixels are neighbours.
# The encoder narrows in three steps, 784 to 512 to 256 to 10 in the demo, and the decoder widens as its mirror image.
# A tanh at its end brings pixels to [-1, 1]; latents are left free.
#
# What a pair without hidden layers could do at best is known: with squared errors it finds the principal components
# (PCA). So PCA with as many numbers is what to compare with, and what the hidden layers add is the difference.


class Networks(NamedTuple):
    """Both halves."""

    encoder: keras.Model  # images [n, size, size, channels] in [-1, 1] -> latents [n, latent_dim]
    decoder: keras.Model  # latents -> images in [-1, 1]


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return both networks, untrained."""
    layers = keras.layers
    shape, inner = (config.size, config.size, config.channels), (config.units + 1) // 2
    init = {"kernel_initializer": keras.initializers.HeUniform(keras.random.SeedGenerator(config.seed))}
    hidden = functools.partial(layers.Dense, activation="relu", **init)

    images = keras.Input(shape, name="images")
    x = hidden(inner)(hidden(config.units)(layers.Flatten()(images)))
    encoder = keras.Model(images, layers.Dense(config.latent_dim, dtype="float32", **init)(x), name="encoder")

    latents = keras.Input((config.latent_dim,), name="latents")
    x = hidden(config.units)(hidden(inner)(latents))
    x = layers.Dense(math.prod(shape), activation="tanh", dtype="float32", **init)(x)
    return Networks(encoder, keras.Model(latents, layers.Reshape(shape, dtype="float32")(x), name="decoder"))


# %% Losses
# One loss, the squared error of pixels. On the scale [0, 1] it does not depend on how pictures are stored, so that
# errors of the networks, of PCA and of other recipes can be compared. Squares make one pixel that is wrong by 1 as
# bad as a hundred that are wrong by a tenth: where the networks are not sure of an edge, grey is cheaper than a
# guess, and the result looks soft.


def squared_error(images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Return the mean squared difference of images in [-1, 1] on the scale [0, 1]: a quarter of their own.

    For MNIST 0.067 is the error of the mean image; 0.01 is hard to tell from the original.
    """
    return tf.reduce_mean(tf.square(images - others)) / 4


# Black for white is 1, and grey for either a quarter:
# >>> white = tf.ones([1, 28, 28, 1])
# >>> float(squared_error(white, -white)), float(squared_error(white, 0 * white))


# %% Training
# A step draws noise, if there is any, and moves both networks by one AdamW. After each epoch the validation pictures
# are drawn again, always with the same noise, so that epochs can be compared; at the end the weights of the best
# epoch come back.
#
# What is logged: `loss`, the mean over the steps of an epoch, and `validation_loss`, after it; so the first starts
# higher. In the demo with 10 latents `validation_loss` is 0.03 after two epochs, 0.007 after 30, and at best 0.006,
# when `loss` has gone on to 0.003: the gap is what is learnt by heart, and `patience` ends it. A `validation_loss`
# that stays near 0.05 is that of the mean picture: nothing has been learnt.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images; return each epoch's mean losses."""
    encoder, decoder = networks
    weights = encoder.trainable_variables + decoder.trainable_variables
    optimizer = adam(config.learning_rate, weights, config.execution, weight_decay=config.weight_decay)
    noise = keras.random.SeedGenerator(config.seed + 1)

    @tf.function
    def step(images: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = noisy(images, config.noise, noise)
        with tf.GradientTape() as tape:
            loss = share(squared_error(from_uint8(images), decoder(encoder(inputs, training=True), training=True)))
        optimizer.apply(tape.gradient(loss, weights, loss_scale(optimizer)), weights)
        return {"loss": loss}

    def validate(epoch: int) -> dict[str, float]:
        (images,) = data.held_out
        inputs = to_uint8(noisy(images, config.noise, config.seed))
        outputs = reconstruct(networks, inputs)
        if output_dir is not None:
            rows = {"seen": inputs[:8], "drawn": outputs[:8]}
            save_table(rows, output_dir / "samples" / f"epoch-{epoch:04d}.png", zoom=max(1, 56 // config.size))
        return {"validation_loss": float(squared_error(from_uint8(images), from_uint8(outputs)))}

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    on_epoch, best = (validate, "validation_loss") if data.held_out else (None, "loss")
    return fit(step, data, config.epochs, state, output_dir, on_epoch=on_epoch, execution=config.execution, best=best,
               patience=config.patience)  # fmt: skip


# %% Use
# The halves are of use apart. The encoder's numbers describe a picture; the decoder draws from any numbers, also from
# those that no picture has led to, where nothing has taught it what to draw. That gap is what `recipes.vae` closes.


def noisy(images: np.ndarray | tf.Tensor, deviation: float, seed: int | keras.random.SeedGenerator) -> tf.Tensor:
    """Return uint8 images as float32 in [-1, 1], with normal noise of a deviation on [0, 1], clipped as a file is."""
    if not deviation:
        return from_uint8(images)
    noise = 2 * deviation * draw_part(keras.random.normal, tf.shape(images), seed=seed)
    return tf.clip_by_value(from_uint8(images) + noise, -1, 1)


def reconstruct(networks: Networks, images: np.ndarray) -> np.ndarray:
    """Return uint8 [n, size, size, channels] as drawn again from their latents: the same shape and type."""
    return to_uint8(mapped(networks.decoder, mapped(networks.encoder, from_uint8(images))))


# %% A whole run
# The embedded data are 1,797 digits that 13 people wrote, from scikit-learn, brought to 28 x 28 grey pixels, white on
# black. Every fifth, 359 in all, is held out for the test; of the others a tenth, 143, is for validation. The same
# people wrote all three parts.
#
# The scores are `test_error`, the squared error of the test digits, and beside it `pca_error`, that of as many
# principal components of the training digits, found without any network. A full demo has 0.0066 against 0.0136 from
# ten numbers, and 0.0196 against 0.0336 from two.
# >>> digits = digits_or_others("sample", DEMO.size, DEMO.channels)
# >>> images = digits.test.loaded(359)[0]
# >>> show(images[:16])
#
# A yardstick that needs no numbers at all: the error of drawing the mean of the training digits every time.
# >>> mean_digit = digits.train.loaded(1295)[0].mean(axis=0)
# >>> float(squared_error(from_uint8(images), from_uint8(mean_digit)))


def principal_components(part: Split, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [values] and the first `count` axes [count, values] of up to 2^25 values of images in [-1, 1]."""
    from scipy.sparse.linalg import svds

    images, _ = part.loaded(max(3, 2**25 // part.images(np.arange(1)).size))
    rows = from_uint8(images).numpy().reshape(len(images), -1)
    mean = rows.mean(0)
    rows -= mean
    return mean, svds(rows, min(count, min(rows.shape) - 1), rng=0)[2][::-1] if rows.any() else rows[:1]


def project(mean: np.ndarray, axes: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return uint8 images as drawn again from their components along `axes`, which no linear networks do better."""
    rows = from_uint8(images).numpy().reshape(len(images), -1) - mean
    return to_uint8(rows @ axes.T @ axes + mean).reshape(images.shape)


def save_plane(networks: Networks, data: Labelled, output_dir: Path) -> None:
    """Write where two latents put the test images, `latents.png`, and what is drawn from there, `sweep.png`."""
    latents = np.concatenate([mapped(networks.encoder, from_uint8(images)) for images in data.test.in_order()])
    save_scatter(latents, data.test.labels, data.classes, output_dir / "latents.png", "Two latents of the test images")
    low, high = np.percentile(latents, (2, 98), axis=0)
    first, second = np.linspace(low, high, 16).T
    grid = np.stack(np.meshgrid(first, second[::-1]), -1).reshape(-1, 2)  # the second latent grows upwards
    save_grid(to_uint8(mapped(networks.decoder, grid)), output_dir / "sweep.png", 16, zoom=2)


def judge(data: Labelled, trained: dict[Config, Networks], config: Config, output_dir: Path) -> dict[str, float]:
    """Draw the test images again by each of `trained` and by as many components; write pictures, return the errors."""
    mean, axes = principal_components(data.train, max(each.latent_dim for each in trained))
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {"noisy": np.copy} if config.noise else {}
    for each in sorted(trained, key=lambda each: (each.latent_dim, each.noise)):
        unaware = ", never saw noise" if each.noise < config.noise else ""
        ways[f"z = {each.latent_dim}{unaware}"] = functools.partial(reconstruct, trained[each])
        ways[f"PCA {each.latent_dim}"] = functools.partial(project, mean, axes[: each.latent_dim])
        if each.latent_dim == 2:
            save_plane(trained[each], data, output_dir)
    errors = dict.fromkeys(ways, 0.0)
    for number, images in enumerate(data.test.in_order()):
        inputs = to_uint8(noisy(images, config.noise, number))
        for name, way in ways.items():
            error = float(squared_error(from_uint8(images), from_uint8(way(inputs))))
            errors[name] += error * len(images) / len(data.test.labels)
    images, _ = data.test.loaded(10)
    inputs = to_uint8(noisy(images, config.noise, config.seed))
    rows = {"original": images} | {f"{name}: error {errors[name]:.4f}": way(inputs) for name, way in ways.items()}
    save_table(rows, output_dir / "reconstructions.png", zoom=max(1, 56 // config.size))
    scores = {"test_error": errors[f"z = {config.latent_dim}"], "pca_error": errors[f"PCA {config.latent_dim}"]}
    return scores | {f"test_error {name}": error for name, error in errors.items()}


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/autoencoder"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
    compare: tuple[Units, ...] = (),
) -> Path:
    """Read `data`, train or go on, judge by the test images; leave a run in `output_dir`, return its picture.

    `compare` names other numbers of latents, whose runs, and with noise one without, are left in folders within.
    """
    settings = {output_dir: config}
    settings |= {output_dir / f"latents-{z}": replace(config, latent_dim=z) for z in compare if z != config.latent_dim}
    settings |= {output_dir / "without-noise": replace(config, noise=0.0)} if compare and config.noise else {}
    for folder, each in settings.items():
        check_run(folder, "autoencoder", each, data, accept_data)
    trained = {each: build(each) for each in settings.values()}
    images = digits_or_others(data, config.size, config.channels, skip_bad, fetch)
    stream = image_batches(images, config.batch_size, config.seed)
    for folder, each in settings.items():
        start_run(folder, "autoencoder", each, data, images.classes)
        train(trained[each], stream, each, folder)
    for folder, each in settings.items():
        beside = trained if folder == output_dir else {each: trained[each]}
        finish_run(folder, trained[each], functools.partial(judge, images, beside, each, folder))
    return output_dir / "reconstructions.png"


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Compare 2, 3, 5, 10 and 50 latents on scikit-learn's handwritten digits; return the picture of all."""
    return experiment("sample", config, output_dir, compare=(2, 3, 5, 10, 50))


def reconstruct_file(
    source: Path, destination: Path, invert: bool = False, skip_bad: bool = False, run: Path = DEMO_RUN
) -> Path:
    """Draw the centre square of an image, or of all of a folder, again: denoised, where the run has learnt that.

    `invert` is for dark things on a bright ground where the training images are bright on dark. Prints how much the
    result differs from what was given.
    """
    config = read_run(run, "autoencoder", Config)
    image, latent = image_shape(config), (config.latent_dim,)
    networks = Networks(load_network(run, "encoder", image, latent), load_network(run, "decoder", latent, image))
    folder = source.is_dir()
    if folder and destination.resolve() == source.resolve():
        raise InputError(f"{destination}: the folder that is read; give another to write to")
    for path in checked_images(find_images(source), read_image, skip_bad, 1)[0] if folder else [source]:
        seen = square_image(path, config.size, config.channels)[None]
        seen = 255 - seen if invert else seen
        drawn = reconstruct(networks, seen)
        write_image(drawn[0], destination / path.name if folder else destination)
        print(f"{printable(path)}  error {float(squared_error(from_uint8(seen), from_uint8(drawn))):.4f}")
    return destination


# %% Try it
# What has each of the ten numbers come to mean? A row a number: it goes from its 2nd to its 98th percentile, the
# other nine stay as they are for one held-out digit. Most rows change several things at once, and some lead out of
# what is a digit: nothing has asked for numbers that can be named.
# >>> networks = Networks(load_network(DEMO_RUN, "encoder"), load_network(DEMO_RUN, "decoder"))
# >>> latents = mapped(networks.encoder, from_uint8(images))
# >>> rows = np.tile(latents[0], (DEMO.latent_dim, 9, 1))
# >>> for latent, (low, high) in enumerate(np.percentile(latents, (2, 98), axis=0).T):
# ...     rows[latent, :, latent] = np.linspace(low, high, 9)
# >>> show(to_uint8(mapped(networks.decoder, rows.reshape(-1, DEMO.latent_dim))), columns=9)
#
# Noise in, digits out: `DENOISE` learns that here in a few seconds. From above: held-out digits under noise; what the
# demo, which has never seen noise, makes of them; what the denoiser makes of them; the digits. Ten numbers have no
# room for noise, so a full demo takes much of it off, and brings the error of all test digits from 0.116 to 0.020.
# Having learnt it is better: 0.012.
# >>> denoiser = build(DENOISE)
# >>> history = train(denoiser, image_batches(digits, 64, DENOISE.seed), replace(DENOISE, epochs=20))
# >>> clean = images[::45]
# >>> seen = to_uint8(noisy(clean, DENOISE.noise, 1))
# >>> show(np.concatenate([seen, reconstruct(networks, seen), reconstruct(denoiser, seen), clean]))


if __name__ == "__main__":
    presets = {"paper": Config(), "wide": WIDE, "denoise": DENOISE, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, reconstruct=reconstruct_file)
