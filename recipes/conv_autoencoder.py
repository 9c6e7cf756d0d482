"""Convolutional autoencoder: learn what pictures have in common without labels, and find the similar ones.

Paper    Masci, Meier, Ciresan & Schmidhuber, "Stacked Convolutional Auto-Encoders for Hierarchical Feature
         Extraction", ICANN 2011, doi:10.1007/978-3-642-21735-7_7.
Images   uint8 [n, size, size, channels] at the borders; float32 in [-1, 1] in the networks.
Latents  float32 [n, s, s, 2 base_filters] with s = (size - 4) / 12, 0 or more: 2x2x64 for 28 px.
Errors   mean squared differences of pixels on the scale [0, 1], on which black and white are 1 apart.
Differs  1. Strided convolutions and ReLU in place of tanh; transposed convolutions draw; all layers learn at once.
         2. Adam; the weights kept are those of the epoch with the smallest validation loss.
Run      python -m recipes.conv_autoencoder                                        the demo: digits, offline
         python -m recipes.conv_autoencoder train --data mnist --fetch             MNIST, fetched once
         python -m recipes.conv_autoencoder train --data DIR --size 64 --channels 3 --output-dir runs/photos
         python -m recipes.conv_autoencoder similar photo.jpg found.png --count 8 --run runs/photos
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
from common.errors import InputError, printable
from common.execution import Execution, adam, in_precision, loss_scale
from common.images import from_uint8, save_table, to_uint8
from common.labelled import Labelled, image_batches, square_image
from common.latents import nearest, nearest_neighbour_purity, save_scatter, tsne
from common.lazy import keras, tf
from common.ranges import BatchSize, Count, Epochs, Filters, LearningRate, Patience, Range, Seed
from common.runs import check_run, finish_run, image_shape, load_network, read_data, read_run, start_run
from common.training import History, fit, share

# %% Configuration
# `size` is not free: strides of 3, 2 and 2 have to come out even, and the decoder has to come back to the same size.
# `base_filters` sets how much is kept: the latents are 2 `base_filters` maps, for 28 px of 2 x 2 places, so 256
# numbers for the 784 pixels of a digit. That is a mild squeeze; fewer filters keep less. `patience` ends training
# once the validation pictures are no longer drawn better.


@dataclass(frozen=True, kw_only=True)
class Config:
    """For 28 px digits; `DEMO` learns from few pictures."""

    size: Annotated[int, Range(16, 512)] = 28  # pixels; 4 more than a multiple of 12: 16, 28, 40, 52, 64, 100, 112, 124
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    base_filters: Filters = 32  # of the first convolution; the second has twice as many
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 1e-3  # Adam
    epochs: Epochs = 30
    patience: Patience = 10  # epochs without a smaller validation loss after which training ends; 0: never
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


DEMO = Config(batch_size=32, epochs=100)
DEMO_RUN = Path("runs/conv_autoencoder-demo")

# %% Networks
# A dense layer learns a stroke anew wherever it lies. A convolution learns it once and finds it everywhere, with few
# weights. The encoder halves and halves again, by strides and by pooling, 28 to 10 to 5 to 3 to 2 pixels, while the
# maps grow from one to 64. Transposed convolutions bring the decoder back, 2 to 5 to 15 to 28; what they draw beyond
# the edges is cut off. ReLU leaves no latent below 0.


class Networks(NamedTuple):
    """Both halves."""

    encoder: keras.Model  # images [n, size, size, channels] in [-1, 1] -> latents [n, s, s, 2 base_filters], 0 or more
    decoder: keras.Model  # latents -> images in [-1, 1]


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return both networks, untrained. Raises ValueError for a size that is not 4 more than a multiple of 12."""
    layers, filters = keras.layers, config.base_filters
    if config.size % 12 != 4:
        raise InputError(f"size must be 4 more than a multiple of 12 (16, 28, 40, 52, 64, 112), got {config.size}")
    init = {"kernel_initializer": keras.initializers.HeUniform(keras.random.SeedGenerator(config.seed))}

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    x = layers.Conv2D(filters, 3, 3, activation="relu", **init)(layers.ZeroPadding2D(1)(x))  # 28 -> 10
    x = layers.MaxPooling2D(2)(x)  # 10 -> 5
    x = layers.Conv2D(2 * filters, 3, 2, activation="relu", **init)(layers.ZeroPadding2D(1)(x))  # 5 -> 3
    encoder = keras.Model(images, layers.MaxPooling2D(2, 1, dtype="float32")(x), name="encoder")  # 3 -> 2

    x = latents = keras.Input(encoder.output_shape[1:], name="latents")
    x = layers.Conv2DTranspose(filters, 3, 2, activation="relu", **init)(x)  # 2 -> 5
    x = layers.Conv2DTranspose(max(1, filters // 2), 5, 3, "same", activation="relu", **init)(x)  # 5 -> 15
    x = layers.Conv2DTranspose(config.channels, 2, 2, activation="tanh", dtype="float32", **init)(x)  # 15 -> 30
    # As Cropping2D(1), whose gradient alone would take a fifth of a step.
    x = keras.ops.image.crop_images(x, 1, 1, target_height=config.size, target_width=config.size)  # 30 -> 28
    return Networks(encoder, keras.Model(latents, x, name="decoder"))


# %% Losses
# The squared error of pixels is all that is asked for: no classes, nothing about what is alike. It also has no idea
# of movement. A digit that is moved by two pixels, which a reader hardly sees, is worse by this loss than the mean of
# all digits, which is no digit; the numbers stand below, with the data.


def squared_error(images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Return the mean squared difference of images in [-1, 1] on the scale [0, 1]: a quarter of their own.

    Below the variance of the pixels (0.067 for MNIST) something has been learnt; 0.01 looks like the original.
    """
    return tf.reduce_mean(tf.square(images - others)) / 4


# %% Training
# One Adam moves both networks down the same loss. After each epoch the validation pictures are drawn, and the weights
# that come back at the end are those of the epoch that drew them best.
#
# What is logged: `loss`, the mean over an epoch's steps, and `validation_loss`, after it. In the demo
# `validation_loss` is 0.045 after two epochs, less than the 0.048 of the mean digit, 0.007 after 30 and 0.0047 at the
# end of 100, when `loss` is 0.0030. It still falls then, a little, so `patience` has no say. One that stays near
# 0.048 has learnt the mean digit and nothing else.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images; return each epoch's mean losses."""
    encoder, decoder = networks
    weights = encoder.trainable_variables + decoder.trainable_variables
    optimizer = adam(config.learning_rate, weights, config.execution)

    @tf.function
    def step(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        images = from_uint8(batch)
        with tf.GradientTape() as tape:
            loss = share(squared_error(images, decoder(encoder(images, training=True), training=True)))
        optimizer.apply(tape.gradient(loss, weights, loss_scale(optimizer)), weights)
        return {"loss": loss}

    def validate(epoch: int) -> dict[str, float]:
        if not data.held_out:
            return {}
        (images,) = data.held_out
        outputs = decode(decoder, encode(encoder, images))
        if output_dir is not None:
            rows = {"original": images[:8], "drawn": outputs[:8]}
            save_table(rows, output_dir / "samples" / f"epoch-{epoch:04d}.png", zoom=max(1, 56 // config.size))
        return {"validation_loss": float(squared_error(from_uint8(images), from_uint8(outputs)))}

    state = networks._asdict() | {"optimizer": optimizer}
    best = "validation_loss" if data.held_out else "loss"
    return fit(step, data, config.epochs, state, output_dir, on_epoch=validate, execution=config.execution, best=best,
               patience=config.patience)  # fmt: skip


# %% Use
# Latents of maps are handled as rows of numbers here. Two ways to invent some are here as well, since an autoencoder
# looks like a machine that draws: values from a normal with each column's mean and deviation, and values that each
# column really has, shuffled among the pictures. Both lose what ties the columns to each other. `distance_to_nearest`
# says how far from any real picture the result lies.


def encode(encoder: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the latents of uint8 [n, size, size, channels] as rows, float32 [n, values]."""
    return mapped(encoder, from_uint8(images)).reshape(len(images), -1)


def decode(decoder: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Return the images, uint8 [n, size, size, channels], of latents [n, values]."""
    return to_uint8(mapped(decoder, latents.reshape(-1, *decoder.input_shape[1:])))


def draw_normal(latents: np.ndarray, seed: int) -> np.ndarray:
    """Return as many latents [n, values], each value drawn from a normal with its column's mean and deviation."""
    drawn = np.random.default_rng(seed).normal(latents.mean(0), latents.std(0), latents.shape)
    return drawn.astype(np.float32)


def draw_shuffled(latents: np.ndarray, seed: int) -> np.ndarray:
    """Return latents [n, values] whose every value is one that its column has, of any image: shuffled columns."""
    return np.random.default_rng(seed).permuted(latents, axis=0)


def distance_to_nearest(images: np.ndarray, real: np.ndarray) -> float:
    """Return the mean over uint8 `images` of the squared error between each and the nearest of `real`, as pixels."""
    rows, others = (part.reshape(len(part), -1) / np.float32(255) for part in (images, real))
    return float(np.mean(np.square(rows - others[nearest(others, rows, 1)[:, 0]])))


# %% A whole run
# The embedded data are 1,797 digits that 13 people wrote, from scikit-learn, brought to 28 x 28 grey pixels. Every
# fifth, 359 in all, is held out for the test; a tenth of the others, 143, is for validation. Classes colour the map
# and give the purity below; training does not see them.
#
# The scores: `test_error`, 0.0051 in a full demo. `to nearest`: training digits lie 0.018 from the nearest test
# digit, invented latents give pictures at 0.034, nearly twice as far. `purity_latents`: of the ten nearest by latents
# 87 % are of the same class; beside it `purity_pixels`, the same by raw pixels, 89 %, and `purity_chance`, 11 %. So
# the latents sort pictures about as pixels do, with a third of the numbers, and no better.
# >>> digits = digits_or_others("sample", DEMO.size, DEMO.channels)
# >>> images, labels = digits.test.loaded(359)
# >>> show(images[:16])
#
# What the loss makes of a digit that moves to the right by one and by two pixels, beside the mean digit:
# >>> moved = [float(squared_error(from_uint8(images), from_uint8(np.roll(images, by, axis=2)))) for by in (1, 2)]
# >>> mean_digit = digits.train.loaded(1295)[0].mean(axis=0)
# >>> moved, float(squared_error(from_uint8(images), from_uint8(mean_digit)))


def spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """Return `count` of the rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, count).astype(int)]


def judge(networks: Networks, data: Labelled, seed: int, output_dir: Path) -> dict[str, float | int]:
    """Write three pictures of up to 2^25 values of test images, and return the numbers."""
    images, labels = data.test.loaded(max(8, 2**25 // data.test.images(np.arange(1)).size))
    latents = encode(networks.encoder, images)
    outputs = decode(networks.decoder, latents)
    error = float(squared_error(from_uint8(images), from_uint8(outputs)))
    shown, zoom = min(10, len(images), len(data.train.labels)), max(1, 56 // images.shape[1])
    rows = {"original": images, f"from {latents.shape[1]} latents: error {error:.4f}": outputs}
    save_table({name: spaced(them, shown) for name, them in rows.items()}, output_dir / "reconstructions.png", zoom)

    drawn = {
        "training images": data.train.loaded(1000)[0],
        "decoded latents of test images": outputs[:1000],
        "decoded normal latents": decode(networks.decoder, draw_normal(latents, seed)[:1000]),
        "decoded shuffled latents": decode(networks.decoder, draw_shuffled(latents, seed)[:1000]),
    }
    far = {name: distance_to_nearest(them, images) for name, them in drawn.items()}
    rows = {f"{name}: {far[name]:.3f} from the nearest": spaced(them, shown) for name, them in drawn.items()}
    save_table(rows, output_dir / "samples.png", zoom)

    scores = {"test_error": error, "latents": latents.shape[1], "values_of_an_image": images[0].size}
    scores |= {f"to nearest, {name}": value for name, value in far.items()}
    count = min(3000, len(images))
    title = f"Latents of {count} test images, mapped by t-SNE"
    if len(data.classes) > 1:
        scores["purity_latents"] = nearest_neighbour_purity(latents, labels)
        scores["purity_pixels"] = nearest_neighbour_purity(images.reshape(len(images), -1), labels)
        scores["purity_chance"] = float(np.sum((np.bincount(labels) / len(labels)) ** 2))
        title += f"\n{scores['purity_latents']:.1%} of the ten nearest are of the same class"
    points = tsne(spaced(latents, count), seed)
    save_scatter(points, spaced(labels, count), data.classes, output_dir / "latents.png", title)
    return scores


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/conv_autoencoder"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, judge by the test images; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "conv_autoencoder", config, data, accept_data)
    networks = build(config)
    labelled = digits_or_others(data, config.size, config.channels, skip_bad, fetch)
    if len(labelled.test.labels) < 3:
        raise InputError(
            f"{data}: {len(labelled.test.labels)} test images; at least 3 are needed, of 15 pictures in all"
        )
    stream = image_batches(labelled, config.batch_size, config.seed)
    start_run(output_dir, "conv_autoencoder", config, data, labelled.classes)
    train(networks, stream, config, output_dir)
    finish_run(output_dir, networks, functools.partial(judge, networks, labelled, config.seed, output_dir))
    return output_dir / "latents.png"


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn scikit-learn's handwritten digits without their classes; return the map of their latents."""
    return experiment("sample", config, output_dir)


def similar_file(
    photo: Path,
    destination: Path,
    data: str = "",
    count: Count = 8,
    invert: bool = False,
    skip_bad: bool = False,
    fetch: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Write a strip of a photo and the `count` training images with the nearest latents, and print which they are.

    Without `data`, the images are those that the run was trained on. `invert` is for a photo of dark things on a
    bright ground where the training images are bright on dark.
    """
    config = read_run(run, "conv_autoencoder", Config)
    encoder = load_network(run, "encoder", image_shape(config))
    query = square_image(photo, config.size, config.channels)[None]
    query = 255 - query if invert else query
    part, _, _, classes = digits_or_others(data or read_data(run), config.size, config.channels, skip_bad, fetch)
    if not 1 <= count <= len(part.labels):
        raise InputError(f"count must be 1 or more and at most the {len(part.labels)} training images, got {count}")
    latents = np.concatenate([encode(encoder, images) for images in part.in_order()])
    sought = encode(encoder, query)
    found = nearest(latents, sought, count)[0]
    for place in found:
        name = part.items[place] if part.read else f"training image {place}, {classes[part.labels[place]]}"
        print(f"{printable(name)}  distance {np.linalg.norm(latents[place] - sought):.3f}")
    strip = np.concatenate([query, part.images(found)])
    return save_table({"given, then the nearest": strip}, destination, max(1, 56 // config.size))


# %% Try it
# The training digits most alike to a held-out one, which stands first in its row. They are found by the distance of
# their latents, and nobody has said which digit is which.
# >>> encoder = load_network(DEMO_RUN, "encoder")
# >>> known = digits.train.loaded(1295)[0]
# >>> latents = encode(encoder, known)
# >>> queries = images[40:45]
# >>> found = nearest(latents, encode(encoder, queries), 7)
# >>> show(np.concatenate([np.stack([query, *known[row]]) for query, row in zip(queries, found)]))
#
# What is alike depends on how one looks. Held-out digits upside down: in a full demo a 6 finds nines and a 9 sixes, a
# 4 and an 8 find their own kind, and a 7, for which there is no such thing, whatever has as much ink in the same
# places.
# >>> turned = np.stack([images[labels == digit][0] for digit in (6, 9, 4, 8, 7)])[:, ::-1, ::-1]
# >>> found = nearest(latents, encode(encoder, turned), 7)
# >>> show(np.concatenate([np.stack([query, *known[row]]) for query, row in zip(turned, found)]))


if __name__ == "__main__":
    run_command(demo, presets={"paper": Config(), "demo": DEMO}, train=experiment, similar=similar_file)
