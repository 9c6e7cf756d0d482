"""MLP: classify small pictures with one hidden layer, the baseline that every other classifier has to beat.

Paper    Rumelhart, Hinton & Williams, "Learning Representations by Back-Propagating Errors", Nature 323, 1986,
         doi:10.1038/323533a0. The size, 784-128-10, is the usual first example on Fashion-MNIST (arXiv:1708.07747).
Images   uint8 [n, size, size, channels] at the borders; float32 in [-1, 1] in the network.
Logits   float32 [n, classes]; their softmax are the probabilities.
Differs  1. ReLU in the hidden layer, cross entropy and Adam in place of sigmoids, squared error and momentum.
         2. The network sees square roots of pixels, dropout is light, and the learning rate falls to 0 along a cosine.
Run      python -m recipes.mlp                                          the demo: drawn clothes, offline
         python -m recipes.mlp train --data fashion_mnist --fetch       Fashion-MNIST, fetched once
         python -m recipes.mlp train --data DIR --output-dir runs/mine  a folder of pictures for each class
         python -m recipes.mlp classify photo.jpg --run runs/mine       or a folder of photos
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
    """The usual example's shape, trained well; `WIDE` has eight times the hidden units and drops some."""

    size: int = 28  # pixels
    channels: int = 1  # 1 for grey, 3 for colour
    units: int = 128  # of the hidden layer
    dropout: float = 0.15  # share of hidden units that a training step leaves out
    root: bool = True  # see the square roots of the pixels, among which dark cloth differs as much as bright
    outputs: int = 10  # classes; the data decide in `train` and in the demo
    mirror: bool = False  # turn half of the training images; wrong for letters and digits
    shift: int = 0  # most pixels by which training images are moved each way
    batch_size: int = 128
    learning_rate: float = 1e-3  # Adam; falls to 0 along a cosine
    epochs: int = 40
    seed: int = 0


WIDE = Config(units=1024, dropout=0.4)
DEMO = Config(epochs=20)
DEMO_RUN = Path("runs/mlp-demo")

# %% Networks


class Networks(NamedTuple):
    """The classifier."""

    classifier: keras.Model  # images [n, size, size, channels] in [-1, 1] -> logits [n, outputs]


def build(config: Config = Config()) -> Networks:
    """Return the network, untrained: 101,770 weights by default. Raises ValueError for a size below 4."""
    layers = keras.layers
    if config.size < 4:
        raise InputError(f"size must be 4 or more, got {config.size}")
    seeds = keras.random.SeedGenerator(config.seed)
    images = keras.Input((config.size, config.size, config.channels), name="images")
    init = {"kernel_initializer": keras.initializers.GlorotUniform(seeds)}
    x = 2 * keras.ops.sqrt(keras.ops.relu(images + 1) / 2) - 1 if config.root else images
    x = layers.Dense(config.units, activation="relu", **init)(layers.Flatten()(x))
    x = layers.Dropout(config.dropout, seed=config.seed)(x) if config.dropout else x
    logits = layers.Dense(config.outputs, **init)(x)
    return Networks(keras.Model(images, logits, name="classifier"))


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
    output_dir: Path = Path("runs/mlp"),
    skip_bad: bool = False,
    fetch: bool = False,
) -> Path:
    """Read `data`, train or go on, judge by the test images; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "mlp", config, data)
    sample = functools.partial(drawn_clothes, 5000, config.seed, config.size)
    labelled = labelled_images(data, config.size, config.channels, sample, skip_bad, fetch, CLOTHES_CLASSES)
    config = replace(config, outputs=len(labelled.classes))
    networks = build(config)
    stream = labelled_batches(labelled, config.batch_size, config.seed, config.shift, config.mirror)
    start_run(output_dir, "mlp", config, data, labelled.classes)
    train(networks, stream, config, output_dir)
    picture, scores = judge(labelled, functools.partial(classify, networks.classifier), output_dir)
    finish_run(output_dir, networks, lambda: scores)
    return picture


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to tell ten kinds of drawn clothes apart; return the picture of some that were held out."""
    return experiment("sample", config, output_dir)


def classify_file(source: Path, run: Path = DEMO_RUN, shown: Shown = Shown()) -> None:
    """Print the most probable classes of an image, or of every image of a folder."""
    config = read_run(run, "mlp", Config)
    verdict = functools.partial(classify, load_network(run, "classifier"))
    classify_files(source, run, verdict, config.size, config.channels, shown)


if __name__ == "__main__":
    presets = {"paper": Config(), "wide": WIDE, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, classify=classify_file)
