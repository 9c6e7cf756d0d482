"""Convolutional autoencoder: learn image features without labels, and use them to find similar images.

Paper    Masci, Meier, Ciresan & Schmidhuber, "Stacked Convolutional Auto-Encoders for Hierarchical Feature
         Extraction", ICANN 2011, doi:10.1007/978-3-642-21735-7_7.
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the networks.
Latents  float32 [n, s, s, 2 base_filters], non-negative, with s = (size - 4) / 12: 2 x 2 x 64 for 28 px.
Errors   mean squared error of pixels in [0, 1], where black is 0 and white is 1.
Differs  1. Convolutions are strided (transposed in the decoder) and use ReLU, not tanh. All layers train together.
         2. The optimizer is Adam. The weights from the epoch with the lowest validation loss are kept.
Run      python -m recipes.conv_autoencoder                                        the demo: digits, offline
         python -m recipes.conv_autoencoder train --data mnist --fetch             MNIST, downloaded once
         python -m recipes.conv_autoencoder train --data DIR --size 64 --channels 3 --output-dir runs/photos
         python -m recipes.conv_autoencoder similar photo.jpg found.png --count 8 --run runs/photos
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, labelled_images
from common.images import from_uint8, save_image, to_uint8
from common.metrics import nearest
from common.runs import Range, Run, run_command
from common.training import adam, fit, predict

# %% Configuration
# `size` must be 4 more than a multiple of 12, so that the decoder returns images of the same size. `base_filters` sets
# the number of latents. At 28 px, the encoder returns `2 * base_filters` feature maps of 2 x 2 positions, so 32 filters
# compress 784 pixels to 256 latents. Fewer filters compress more. Training stops after `patience` epochs without a
# lower validation loss.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for digits of 28 px. `DEMO` is for a small data set."""

    size: Annotated[int, Range(16, 512, multiple_of=12, plus=4)] = 28  # pixels: 16, 28, 40, 52, 64, ...
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    base_filters: Annotated[int, Range(1, 1024)] = 32  # filters of the first convolution; the second has twice as many
    batch_size: Annotated[int, Range(1, 65_536)] = 128
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3
    epochs: Annotated[int, Range(1, 1_000_000)] = 30
    patience: Annotated[int, Range(0, 1_000_000)] = 10  # stop after this many epochs without improvement; 0: never
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)


DEMO = Config(batch_size=32, epochs=60)
DEMO_RUN = Path("runs/conv_autoencoder-demo")

# %% Networks
# A dense layer must learn each stroke separately at every position. A convolution learns it once, detects it
# everywhere, and needs few weights. In the encoder, strides and pooling reduce 28 pixels to 10, 5, 3 and then 2, while
# the number of feature maps grows to 64. In the decoder, transposed convolutions enlarge 2 pixels to 5, 15 and then 30,
# and the result is cropped to 28. The latents are outputs of a ReLU, so they are never negative.


class Networks(NamedTuple):
    """The encoder and the decoder."""

    encoder: keras.Model  # images [n, size, size, channels] in [-1, 1] -> latents [n, s, s, 2 base_filters], at least 0
    decoder: keras.Model  # latents -> images in [-1, 1]


def build(config: Config = Config()) -> Networks:
    """Return the untrained encoder and decoder."""
    layers, filters = keras.layers, config.base_filters
    init = {"kernel_initializer": keras.initializers.HeUniform(keras.random.SeedGenerator(config.seed))}

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    x = layers.Conv2D(filters, 3, 3, activation="relu", **init)(layers.ZeroPadding2D(1)(x))  # 28 -> 10
    x = layers.MaxPooling2D(2)(x)  # 10 -> 5
    x = layers.Conv2D(2 * filters, 3, 2, activation="relu", **init)(layers.ZeroPadding2D(1)(x))  # 5 -> 3
    x = layers.MaxPooling2D(2, 1, dtype="float32")(x)  # 3 -> 2
    encoder = keras.Model(images, x, name="encoder")

    x = latents = keras.Input(encoder.output_shape[1:], name="latents")
    x = layers.Conv2DTranspose(filters, 3, 2, activation="relu", **init)(x)  # 2 -> 5
    x = layers.Conv2DTranspose(max(1, filters // 2), 5, 3, "same", activation="relu", **init)(x)  # 5 -> 15
    x = layers.Conv2DTranspose(config.channels, 2, 2, activation="tanh", dtype="float32", **init)(x)  # 15 -> 30
    # Cropping2D(1) gives the same result, but its gradient takes a fifth of the step time.
    x = keras.ops.image.crop_images(x, 1, 1, target_height=config.size, target_width=config.size)  # 30 -> 28
    return Networks(encoder, keras.Model(latents, x, name="decoder"))


# %% Losses
# The only loss is the mean squared error of the pixels, which needs no labels. It is sensitive to translation. A digit
# shifted by two pixels looks the same to a human, but its error is larger than the error of the mean digit. The section
# on scores computes these errors.


def squared_error(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    """Scale images from [-1, 1] to [0, 1], and return the mean squared error of the reconstructions.

    It should fall below the error of the mean image (0.067 for MNIST). An error of 0.01 is hardly visible.
    """
    return tf.reduce_mean(tf.square(images - reconstructions)) / 4


# %% Training
# Each step updates both networks with one Adam optimizer. After each epoch, the validation images are reconstructed. At
# the end, the weights from the epoch with the lowest validation loss are restored.
#
# What is logged: `loss` is the mean over the steps of an epoch. `validation_loss` is computed after the epoch. In a
# healthy run, `validation_loss` drops below the error of the mean image (about 0.06 for digits) within a few epochs,
# and then falls slowly until the end. If it stays near 0.06, the networks have learned only the mean image: lower the
# learning rate.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | np.ndarray,
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train both networks in place.

    Args:
        networks: the result of `build`.
        data: uint8 images [batch, size, size, channels]. With `Batches`, each epoch logs `validation_loss` and writes
            held-out reconstructions to `samples/`, and the best weights are kept. With an array or a `tf.data.Dataset`,
            there are no held-out images: `patience` has no effect, and the last weights are kept. A dataset must be
            batched; it is not reshuffled, and a resumed run starts a new pass over it. With `Batches` or an array, a
            run resumes exactly where it stopped.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and examples. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    encoder, decoder = networks
    variables = encoder.trainable_variables + decoder.trainable_variables
    optimizer = adam(config.learning_rate, variables)

    @tf.function
    def step(images: tf.Tensor) -> dict[str, tf.Tensor]:
        images = from_uint8(images)
        with tf.GradientTape() as tape:
            reconstructions = decoder(encoder(images, training=True), training=True)
            loss = squared_error(images, reconstructions)
            scaled = optimizer.scale_loss(loss)  # float16 gradients would underflow; `apply` unscales them
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return {"loss": loss}

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        (images,) = data.held_out
        outputs = decode(decoder, encode(encoder, images))
        if output_dir is not None:
            rows = {"original": images[:8], "reconstruction": outputs[:8]}
            save_image(rows, Path(output_dir, "samples", f"epoch-{epoch:04d}.png"), zoom=max(1, 56 // config.size))
        return {"validation_loss": float(squared_error(from_uint8(images), from_uint8(outputs)))}

    state = networks._asdict() | {"optimizer": optimizer}
    best = "validation_loss" if data.held_out else ""
    calls = [validate, on_epoch]
    return fit(step, data, config.epochs, state, output_dir, on_epoch=calls, best=best, patience=config.patience)


# %% Use
# The functions below treat the latents of an image as a vector. `sample_normal` samples each latent from a normal
# distribution with the latent's mean and standard deviation. `sample_shuffled` shuffles the values of each latent
# across the images. These samples ignore the dependence between latents, so the decoded images are not digits.
# `distance_to_nearest` measures how far images are from real ones.


def encode(encoder: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the latents of uint8 images [n, size, size, channels] as vectors, float32 [n, values]."""
    return predict(encoder, from_uint8(images)).reshape(len(images), -1)


def decode(decoder: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Decode latents [n, values] to uint8 images [n, size, size, channels]."""
    return to_uint8(predict(decoder, latents.reshape(-1, *decoder.input_shape[1:])))


def sample_normal(latents: np.ndarray, seed: int) -> np.ndarray:
    """Sample latents [n, values] from normal distributions with the mean and standard deviation of each column."""
    samples = np.random.default_rng(seed).normal(latents.mean(0), latents.std(0), latents.shape)
    return samples.astype(np.float32)


def sample_shuffled(latents: np.ndarray, seed: int) -> np.ndarray:
    """Sample latents [n, values] by shuffling each column of `latents` separately."""
    return np.random.default_rng(seed).permuted(latents, axis=0)


def distance_to_nearest(images: np.ndarray, real: np.ndarray) -> float:
    """Return the squared error between a uint8 image and the nearest one in `real`, averaged over `images`."""
    rows, others = (part.reshape(len(part), -1) / np.float32(255) for part in (images, real))
    return float(np.mean(np.square(rows - others[nearest(others, rows, 1)[:, 0]])))


# %% The scores
# The built-in data set has 6,000 synthetic handwritten digits of 28 x 28 grey pixels. They are drawn as pen strokes, in
# the styles of 600 writers. A fifth of the writers (1,200 digits) are the test split, and a tenth of the rest (480) is
# the validation split. Training does not use the labels: they colour the plot of the latents, and score them.
#
# The scores: `test_error` is the mean squared error of the test digits. `distance_to_nearest` is the squared error
# between an image and the nearest test digit. Decoded samples have 1.5 times the distance of training digits.
# `knn_agreement_latents` is the k-NN label agreement (k = 10): the fraction of the ten nearest neighbours in latent
# space that have the same label. It is a little lower than `knn_agreement_pixels`, the agreement of raw pixels: the
# latents have a third of the dimensions, and separate the classes almost as well.
# >>> digits = labelled_images("sample", DEMO.size, DEMO.channels, "digits")
# >>> images, labels = digits.test.loaded()
# >>> show(images[:16])
#
# The errors of digits shifted to the right by one pixel and by two pixels, and the error of the mean digit:
# >>> shifted = [float(squared_error(from_uint8(images), from_uint8(np.roll(images, by, axis=2)))) for by in (1, 2)]
# >>> mean_digit = digits.train.loaded()[0].mean(axis=0)
# >>> shifted, float(squared_error(from_uint8(images), from_uint8(mean_digit)))


def evenly_spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """Return `count` evenly spaced rows."""
    return rows[np.linspace(0, len(rows) - 1, count).astype(int)]


def evaluate(
    networks: Networks, images: np.ndarray, train_images: np.ndarray, seed: int, output_dir: Path
) -> dict[str, float | int]:
    """Score reconstructed test images (uint8) and decoded samples; write `reconstructions.png` and `samples.png`."""
    latents = encode(networks.encoder, images)
    outputs = decode(networks.decoder, latents)
    error = float(squared_error(from_uint8(images), from_uint8(outputs)))
    shown, zoom = min(10, len(images), len(train_images)), max(1, 56 // images.shape[1])
    rows = {"original": images, f"from {latents.shape[1]} latents: error {error:.4f}": outputs}
    rows = {name: evenly_spaced(some, shown) for name, some in rows.items()}
    save_image(rows, Path(output_dir, "reconstructions.png"), zoom=zoom)

    samples = {
        "training images": train_images,
        "reconstructed test images": outputs[:1000],
        "decoded normal latents": decode(networks.decoder, sample_normal(latents, seed)[:1000]),
        "decoded shuffled latents": decode(networks.decoder, sample_shuffled(latents, seed)[:1000]),
    }
    distances = {name: distance_to_nearest(some, images) for name, some in samples.items()}
    rows = {f"{name}: distance {distances[name]:.3f}": evenly_spaced(some, shown) for name, some in samples.items()}
    save_image(rows, Path(output_dir, "samples.png"), zoom=zoom)
    scores = {"test_error": error, "latents": latents.shape[1], "values_per_image": images[0].size}
    return scores | {f"distance_to_nearest {name}": value for name, value in distances.items()}


# %% A whole run
# The command `train` calls `run`, which reads the data, trains the networks, scores test images and writes the files.


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/conv_autoencoder"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, score test images, save the run in `output_dir`, and return the path of a figure."""
    folder = Run(output_dir, "conv_autoencoder", config, data, accept_data)
    labelled = labelled_images(data, config.size, config.channels, "digits", skip_bad, fetch, require_classes=False)
    networks = build(config)
    stream = labelled.image_batches(config.batch_size, config.seed)
    folder.start(labelled.classes)
    train(networks, stream, config, output_dir)

    def scores() -> dict[str, float | int]:
        images, labels = labelled.test.loaded()
        found = evaluate(networks, images, labelled.train.loaded(1000)[0], config.seed, output_dir)
        latents = encode(networks.encoder, images)
        count = min(3000, len(images))
        points, point_labels, shown = (evenly_spaced(each, count) for each in (latents, labels, images))
        title = f"Latents of {count} test images"
        labelled.save_latents(points, point_labels, Path(output_dir, "latents.png"), title, config.seed, shown)
        return found | labelled.knn_agreement(latents, images, labels)

    return folder.finish(networks, scores, Path(output_dir, "latents.png"))


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train on handwritten digits without labels; plot their latents and return the path of the plot."""
    return run("sample", config, output_dir)


def similar_images(
    photo: Path,
    destination: Path,
    data: str = "",
    count: Annotated[int, Range(1, 100_000)] = 8,
    invert: bool = False,
    skip_bad: bool = False,
    fetch: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Find the `count` training images nearest to a photo in latent space; print their names and save the images.

    `data` defaults to the training data of the run. `invert` inverts the photo. Use it if the photo has a bright
    background but the training images have a dark one.
    """
    trained = Run.load(run, "conv_autoencoder", Config)
    size, channels = trained.config.size, trained.config.channels
    encoder = trained.network("encoder", trained.image_shape)
    query = trained.image(photo, invert)[None]
    data = data or trained.data
    labelled = labelled_images(data, size, channels, "digits", skip_bad, fetch, require_classes=False)
    latents = np.concatenate([encode(encoder, images) for images in labelled.train.in_order()])
    query_latents = encode(encoder, query)
    found = nearest(latents, query_latents, count)[0]
    for index in found:
        print(f"{labelled.train_name(index)}  distance {np.linalg.norm(latents[index] - query_latents):.3f}")
    strip = np.concatenate([query, labelled.train.images(found)])
    return save_image({"query and nearest images": strip}, destination, zoom=max(1, 56 // size))


# %% Try it
# Each row shows a held-out digit, followed by the training digits with the nearest latents. Labels are not used.
# >>> encoder = Run.load(DEMO_RUN, "conv_autoencoder", Config).network("encoder")
# >>> train_images = digits.train.loaded()[0]
# >>> latents = encode(encoder, train_images)
# >>> queries = images[40:45]
# >>> found = nearest(latents, encode(encoder, queries), 7)
# >>> show(np.concatenate([np.stack([query, *train_images[row]]) for query, row in zip(queries, found)]))
#
# Images with similar latents have similar pixels, but not necessarily the same class. The next queries are held-out
# digits rotated by 180 degrees: 6, 9, 4, 8 and 7. A rotated 6 resembles a 9, a rotated 9 a 6, and a rotated 8 an 8. The
# rotated 4 and 7 resemble no digit; their nearest images have ink at similar positions.
# >>> turned = np.stack([images[labels == digit][0] for digit in (6, 9, 4, 8, 7)])[:, ::-1, ::-1]
# >>> found = nearest(latents, encode(encoder, turned), 7)
# >>> show(np.concatenate([np.stack([query, *train_images[row]]) for query, row in zip(turned, found)]))


if __name__ == "__main__":
    run_command(demo, presets={"paper": Config(), "demo": DEMO}, train=run, similar=similar_images)
