"""LeNet-5: classify small pictures with convolutions, as in 1998 and, `--modern`, as one would today.

Paper    LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings
         of the IEEE 86(11), 1998, doi:10.1109/5.726791, section II.B.
Images   uint8 [n, size, size, channels] at the borders; float32 in [-1, 1] in the network.
Logits   float32 [n, classes]; their softmax are the probabilities.
Differs  1. Maximum in place of trained average pooling, plain tanh, every map of the third layer sees all maps of the
            second, and a softmax in place of radial basis functions.
         2. 28 px without a margin, as they are in MNIST; Adam, with a learning rate that falls to 0 along a cosine.
         3. Half of the training images are mirrored, and all moved by up to `shift` pixels.
Run      python -m recipes.lenet                                           the demo: drawn clothes, offline
         python -m recipes.lenet train --data fashion_mnist --fetch        Fashion-MNIST, fetched once
         python -m recipes.lenet train --data mnist --no-mirror --fetch    digits must not be mirrored
         python -m recipes.lenet train --preset modern --data DIR --output-dir runs/mine  a folder for each class
         python -m recipes.lenet classify photo.jpg --run runs/mine        or a folder of photos
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.batches import Batches
from common.classification import Shown, accuracy, classify_files, judge
from common.cli import run_command
from common.clothes import CLOTHES_CLASSES, drawn_clothes
from common.errors import InputError
from common.images import from_uint8
from common.labelled import labelled_batches, labelled_images
from common.lazy import keras, tf
from common.runs import check_run, finish_run, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration


@dataclass(frozen=True, kw_only=True)
class Config:
    """LeNet-5 (section II.B) trained as one would today; `MODERN` is a network of today with as few weights."""

    size: int = 28  # pixels, a multiple of 4 from 16
    channels: int = 1  # 1 for grey, 3 for colour
    modern: bool = False  # 3x3 convolutions, batch normalisation, ReLU, the mean of each map in place of dense layers
    root: bool = True  # see the square roots of the pixels, among which dark cloth differs as much as bright
    outputs: int = 10  # classes; the data decide in `train` and in the demo
    mirror: bool = True  # wrong for letters and digits
    shift: int = 1  # most pixels by which training images are moved each way
    batch_size: int = 128
    learning_rate: float = 4e-3  # Adam; falls to 0 along a cosine
    epochs: int = 40
    seed: int = 0


MODERN = Config(modern=True, shift=2, learning_rate=5e-3, epochs=15)
DEMO = Config(epochs=20)
DEMO_RUN = Path("runs/lenet-demo")

# %% Networks


class Networks(NamedTuple):
    """The classifier."""

    classifier: keras.Model  # images [n, size, size, channels] in [-1, 1] -> logits [n, outputs]


def build(config: Config = Config()) -> Networks:
    """Return the network, untrained. Raises ValueError for a size that does not halve twice, or is below 16."""
    if config.size < 16 or config.size % 4:
        raise InputError(f"size must be a multiple of 4 from 16, got {config.size}")
    images = keras.Input((config.size, config.size, config.channels), name="images")
    x = 2 * keras.ops.sqrt(keras.ops.relu(images + 1) / 2) - 1 if config.root else images
    logits = (modern_layers if config.modern else lenet_layers)(x, config)
    return Networks(keras.Model(images, logits, name="classifier"))


def lenet_layers(x: keras.KerasTensor, config: Config) -> keras.KerasTensor:
    """C1 to F6 and the output of figure 2: 44,426 weights at 28 px with ten classes."""
    layers = keras.layers
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}
    for filters in (6, 16):
        x = layers.MaxPooling2D()(layers.Conv2D(filters, 5, activation="tanh", **init)(x))
    x = layers.Flatten()(x)
    for units in (120, 84):
        x = layers.Dense(units, activation="tanh", **init)(x)
    return layers.Dense(config.outputs, **init)(x)


def modern_layers(x: keras.KerasTensor, config: Config) -> keras.KerasTensor:
    """Three pairs of 3x3 convolutions, the picture halved after each of the first two: WEIGHTS weights."""
    layers = keras.layers
    init = {"kernel_initializer": keras.initializers.HeNormal(keras.random.SeedGenerator(config.seed))}
    for stage, filters in enumerate((24, 40, 68)):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, **init)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.97)(x))
        x = layers.MaxPooling2D()(x) if stage < 2 else layers.GlobalAveragePooling2D()(x)
    return layers.Dense(config.outputs, **init)(layers.Dropout(0.2, seed=config.seed)(x))


# %% Losses


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]; log(classes) = 2.30 for ten classes when nothing is known."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


# %% Training


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images and class numbers; return each epoch's means."""
    (classifier,) = networks
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(classifier.trainable_variables)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = classifier(from_uint8(images), training=True)
            loss = share(cross_entropy(labels, logits))
        optimizer.apply(tape.gradient(loss, classifier.trainable_variables), classifier.trainable_variables)
        right = tf.cast(tf.argmax(logits, 1, tf.int32) == labels, tf.float32)
        return {"loss": loss, "accuracy": share(tf.reduce_mean(right))}

    def validate(epoch: int) -> dict[str, float]:
        images, labels = data.held_out
        return {"validation_accuracy": accuracy(labels, classify(classifier, images))}

    state = networks._asdict() | {"optimizer": optimizer}
    return fit(step, data, epochs=config.epochs, state=state, output_dir=output_dir, on_epoch=validate)


# %% Use


def classify(classifier: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 [n, size, size, channels]."""
    return tf.nn.softmax(classifier.predict(from_uint8(images), 500, verbose=0)).numpy()


# %% A whole run


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/lenet"),
    skip_bad: bool = False,
    fetch: bool = False,
) -> Path:
    """Read `data`, train or go on, judge by the test images; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "lenet", config, data)
    sample = functools.partial(drawn_clothes, 5000, config.seed, config.size)
    labelled = labelled_images(data, config.size, config.channels, sample, skip_bad, fetch, CLOTHES_CLASSES)
    config = replace(config, outputs=len(labelled.classes))
    networks = build(config)
    stream = labelled_batches(labelled, config.batch_size, config.seed, config.shift, config.mirror)
    start_run(output_dir, "lenet", config, data, labelled.classes)
    train(networks, stream, config, output_dir)
    picture, scores = judge(labelled, functools.partial(classify, networks.classifier), output_dir)
    finish_run(output_dir, networks, lambda: scores)
    return picture


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to tell ten kinds of drawn clothes apart; return the picture of some that were held out."""
    return experiment("sample", config, output_dir)


def classify_file(source: Path, run: Path = DEMO_RUN, shown: Shown = Shown()) -> None:
    """Print the most probable classes of an image, or of every image of a folder."""
    config = read_run(run, "lenet", Config)
    verdict = functools.partial(classify, load_network(run, "classifier"))
    classify_files(source, run, verdict, config.size, config.channels, shown)


if __name__ == "__main__":
    presets = {"paper": Config(), "modern": MODERN, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, classify=classify_file)
