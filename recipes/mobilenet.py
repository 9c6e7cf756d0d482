"""MobileNetV2 transfer learning: classify images with a network pretrained on ImageNet.

Paper    Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
         arXiv:1801.04381; linear classifiers on frozen features: Donahue et al. 2014, arXiv:1310.1531.
Images   uint8 [n, height, width, channels] at the API boundary; float32 in [-1, 1] in the networks, which resize them.
Features float32 [n, 1280]: the means of the last feature maps. Logits float32 [n, classes].
Differs  1. The first of two stages trains a linear classifier on frozen features, which are computed once and cached
            on disk. The second stage, which `--frozen` omits, trains all weights with a low learning rate.
         2. Batch normalisation keeps its pretrained statistics. With random weights, the statistics are learned.
Run      python -m recipes.mobilenet                                         the demo: synthetic clothes, offline
         python -m recipes.mobilenet train --data fashion_mnist --fetch      ImageNet weights, downloaded once
         python -m recipes.mobilenet train --weights FILE --data DIR --output-dir runs/mine  one folder per class
         python -m recipes.mobilenet train --frozen --size 224 --data DIR --output-dir runs/quick
         python -m recipes.mobilenet classify photo.jpg --run runs/mine      an image, or a folder of images
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, labelled_images
from common.images import from_uint8
from common.runs import InputError, Range, Run, load_pretrained, run_command
from common.training import adam, fit, predict

# %% Configuration
# `weights` matters most. With ImageNet weights, a linear classifier on the features (`frozen`) is already accurate, and
# fine-tuning all weights improves it further. The demo must work without a download, so it starts from `random`
# weights. It shows how the recipe works, but not how accurate it can be.
#
# `size` is the height and width of the network's input. Larger inputs show more detail, but the training time grows
# with the square of `size`. `learning_rate` applies to the second stage. If it is too high, fine-tuning destroys the
# ImageNet features. The default is therefore a fifth of `head_learning_rate`; random weights need ten times the
# default. An `alpha` below 1 makes all layers narrower.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fine-tuning on a CPU with small images. `FROZEN` trains only the linear classifier, at the paper's image size."""

    size: Annotated[int, Range(32, 1024, multiple_of=32)] = 64  # height and width of the network's input in pixels
    channels: Literal[1, 3] = 3  # 1: greyscale, 3: colour
    alpha: Annotated[float, Range(0.35, 1.4)] = 1.0  # width of the network: 0.35, 0.5, 0.75, 1, 1.3 or 1.4
    weights: str = "imagenet"  # imagenet, random, or the path of a weights file
    frozen: bool = False  # train only the linear classifier
    dropout: Annotated[float, Range(0, 0.999999)] = 0.2  # dropout rate of the features
    outputs: Annotated[int, Range(1, 65_536)] = 10  # number of classes; `train` and the demo read it from the data
    mirror: bool = True  # flip training images at random; unsuitable for letters and digits
    shift: Annotated[int, Range(0, 4096)] = 1  # maximum random shift in pixels per axis, in the second stage
    batch_size: Annotated[int, Range(1, 65_536)] = 64
    head_learning_rate: Annotated[float, Range(0, 10)] = 1e-3  # initial value in the first stage; cosine decay to 0
    head_epochs: Annotated[int, Range(1, 1_000_000)] = 20  # epochs of the first stage
    learning_rate: Annotated[float, Range(0, 10)] = 2e-4  # initial value in the second stage; cosine decay to 0
    epochs: Annotated[int, Range(1, 1_000_000)] = 8  # epochs of the second stage
    synchronized: bool = False  # batch normalisation over the global batch, not per device
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)
        if self.alpha not in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4):
            raise InputError(f"alpha must be 0.35, 0.5, 0.75, 1, 1.3 or 1.4, got {self.alpha}")


FROZEN = Config(size=224, frozen=True)
DEMO = Config(size=64, alpha=0.35, weights="random", learning_rate=2e-3, epochs=7, head_epochs=1)
DEMO_RUN = Path("runs/mobilenet-demo")

# %% Networks
# MobileNetV2 is designed to need few operations. Each block expands the channels sixfold with a 1 x 1 convolution,
# applies a 3 x 3 depthwise convolution, and projects back to fewer channels with another 1 x 1 convolution. The
# projection has no activation (a linear bottleneck): with so few channels, cutting off negative values would lose
# information. If the input and the output of a block have the same shape, they are added (an inverted residual).
#
# The features are the means of the last 1,280 feature maps. Each feature measures how strongly a pattern is present, at
# any position. The second network is a linear classifier on these features. The channel of greyscale images is repeated
# three times.


class Networks(NamedTuple):
    """The pretrained network without its last layer, and a linear classifier on its features."""

    features: keras.Model  # images [n, height, width, channels] in [-1, 1] -> features [n, d]
    classifier: keras.Model  # features -> logits [n, outputs]


def build(config: Config = Config(), backbone: keras.Model | None = None) -> Networks:
    """Return both networks with random weights.

    Your own `backbone` maps images [n, size, size, 3] in [-1, 1] to features [n, d], and keeps its weights.
    """
    Run.check_networks((config.size, config.size, 3), (None,), backbone=backbone)
    layers, seeds = keras.layers, keras.random.SeedGenerator(config.seed)
    shape = (config.size, config.size, 3)
    network = keras.applications.MobileNetV2(shape, config.alpha, include_top=False, weights=None, pooling="avg")
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # for random weights: the default of 0.999 is too slow for a short run
            layer.synchronized = config.synchronized
        elif layer.weights:  # Keras's initial weights do not depend on `config.seed`
            layer.set_weights([keras.initializers.HeNormal(seeds)(kernel.shape) for kernel in layer.weights])
    network = backbone or network
    images = keras.Input((None, None, config.channels), name="images")
    x = keras.ops.image.resize(images, (config.size, config.size))  # layers.Resizing sets training=True downstream
    x = layers.Concatenate()([x, x, x]) if config.channels == 1 else x
    inputs = keras.Input((network.output_shape[-1],), name="features")
    dense = layers.Dense(config.outputs, dtype="float32", kernel_initializer=keras.initializers.GlorotUniform(seeds))
    logits = dense(layers.Dropout(config.dropout, seed=config.seed)(inputs))
    return Networks(keras.Model(images, network(x), name="features"), keras.Model(inputs, logits, name="classifier"))


def load_weights(networks: Networks, config: Config, fetch: bool = False) -> None:
    """Load the weights selected by `config.weights` into the feature network, in place."""
    options = {"alpha": config.alpha, "include_top": False, "weights": "imagenet", "pooling": "avg"}
    imagenet = functools.partial(keras.applications.MobileNetV2, (224, 224, 3), **options)
    file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{config.alpha}_224_no_top.h5"
    load_pretrained(networks.features.layers[-1], config.weights, file, imagenet, fetch)


# %% Losses
# The softmax turns logits into probabilities. The loss is the negative log probability of the true class. Both stages
# use this loss, but they update different weights.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]. It is log 10 = 2.30 for ten equally probable classes."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


# %% Training
# Gradients from a randomly initialised classifier would damage the pretrained weights. The first stage therefore trains
# only the classifier. The features are computed once and cached in `cache/`, so an epoch takes a fraction of a second.
# The second stage trains all weights. Batch normalisation keeps its pretrained statistics. With random weights, they
# are learned.
#
# What is logged (the first stage logs to `head/`): `loss` and `accuracy` are means over the training batches of an
# epoch. `validation_accuracy` is measured after each epoch on the validation split. With ImageNet weights, the first
# stage reaches most of the final accuracy, and the second stage adds several percentage points. With random weights,
# the first stage learns nothing: its loss stays at log 10 = 2.30. The loss of the second stage then falls from about 2
# to below 0.5. `validation_accuracy` may be low in the first epochs, until the batch normalisation statistics settle.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | tuple[np.ndarray, np.ndarray],
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the classifier in place or, without `config.frozen`, all weights of both networks.

    Args:
        networks: from `build`, with weights from `load_weights`.
        data: uint8 images [batch, height, width, channels] and integer labels [batch]. With `Batches` or arrays, a run
            resumes exactly where it stopped. If `Batches` have held-out images, `validation_accuracy` is logged. A
            `tf.data.Dataset` must be batched; it is not reshuffled, and a resumed run starts a new pass over it. With
            `config.frozen`, `Batches` may contain features instead of images; see `Labelled.feature_batches`.
        config: the hyperparameters. `head_learning_rate` and `head_epochs` are not used.
        output_dir: the run folder, for checkpoints. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses and accuracies per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    features, classifier = networks
    variables = classifier.trainable_variables
    if not config.frozen:
        variables = variables + features.trainable_variables
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(schedule, variables)
    learn_statistics = config.weights == "random" and not config.frozen

    @tf.function
    def step(inputs: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        labels = tf.cast(labels, tf.int32)
        with tf.GradientTape() as tape:
            x = features(from_uint8(inputs), training=learn_statistics) if inputs.shape.rank == 4 else inputs
            logits = classifier(x, training=True)
            loss = cross_entropy(labels, logits)
            scaled = optimizer.scale_loss(loss)  # float16 gradients would underflow; `apply` unscales them
        optimizer.apply(tape.gradient(scaled, variables), variables)
        correct = tf.cast(tf.argmax(logits, 1, tf.int32) == labels, tf.float32)
        return {"loss": loss, "accuracy": tf.reduce_mean(correct)}

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        inputs, labels = data.held_out
        x = extract_features(features, inputs) if inputs.ndim == 4 else inputs
        predicted = classifier(x, training=False).numpy().argmax(1)
        return {"validation_accuracy": float(np.mean(predicted == labels))}

    state = networks._asdict() | {"optimizer": optimizer}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[validate, on_epoch])


# %% Use
# `classify` accepts uint8 images of any size, with the same number of channels as in training. The command line uses
# the centre crop of a photo. The features from `extract_features` are also useful for other tasks: the last section
# uses them to find similar images.


def extract_features(features: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the features, float32 [n, d], of uint8 images [n, height, width, channels]."""
    return predict(features, from_uint8(images), 100)


def classify(networks: Networks, images: np.ndarray) -> np.ndarray:
    """Return class probabilities, float32 [n, classes], for uint8 images [n, height, width, channels]."""
    features = extract_features(networks.features, images)
    return tf.nn.softmax(networks.classifier(features, training=False)).numpy()


# %% A whole run
# The built-in data set has 5,000 synthetic images of clothes at 28 px, grey on black, in the ten classes of
# Fashion-MNIST. The test split has 1,000 images, the validation split 400 and the training split 3,600.
#
# The scores on the test split are the accuracy, the expected calibration error, and the precision and recall of each
# class. The demo is less accurate than the much smaller LeNet-5: without pretraining, a large network has no advantage
# on a few thousand images. With ImageNet weights, fine-tuning is more accurate than `recipes.mlp`, `recipes.lenet` and
# `recipes.dog_svm`, even with few labels. `benchmarks/RESULTS.md` compares the results.
#
# Three training images of each class, one column per class:
# >>> clothes = labelled_images("sample", 28, 1, "clothes", seed=DEMO.seed)
# >>> columns = [np.flatnonzero(clothes.train.labels == number)[:3] for number in range(10)]
# >>> show(clothes.train.items[np.stack(columns, 1).ravel()], 10)


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/mobilenet"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train both stages on `data` or resume, evaluate, save the run, and return the path of a figure."""
    folder = Run(output_dir, "mobilenet", config, data, accept_data)
    labelled = labelled_images(
        data, config.size, config.channels, "clothes", skip_bad, fetch, enlarge=False, seed=config.seed
    )
    config = replace(config, outputs=len(labelled.classes))
    networks = build(config)
    load_weights(networks, config, fetch)
    folder.start(labelled.classes)
    cache = Path(output_dir, "cache")
    stream = labelled.feature_batches(networks.features, extract_features, config.batch_size, config.seed, cache)
    head = replace(config, frozen=True, learning_rate=config.head_learning_rate, epochs=config.head_epochs)
    train(networks, stream, head, output_dir if config.frozen else Path(output_dir, "head"))
    if not config.frozen:
        shift, mirror = config.shift, config.mirror
        stream = labelled.batches(config.batch_size, config.seed, shift=shift, mirror=mirror, validate=1000)
        train(networks, stream, config, output_dir)
    figure, scores = labelled.evaluate(functools.partial(classify, networks), output_dir)
    return folder.finish(networks, lambda: scores, figure)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train on ten classes of synthetic clothes from random weights; return the path of a figure."""
    return run("sample", config, output_dir)


def classify_file(
    source: Path,
    run: Path = DEMO_RUN,
    top: Annotated[int, Range(1, 100_000)] = 3,
    invert: bool = False,
    table: Path | None = None,
    skip_bad: bool = False,
) -> None:
    """Print the most probable classes of an image, or of every image in a folder.

    Args:
        source: an image, or a folder of images.
        run: run folder of the classifier.
        top: number of classes to print per image, most probable first.
        invert: invert the images; use it for dark objects on a bright background.
        table: path of a CSV file for the probabilities of all classes.
        skip_bad: skip unreadable images in a folder, and list them.
    """
    trained = Run.load(run, "mobilenet", Config)
    features = trained.network("features", (None, None, trained.config.channels))
    classifier = trained.network("classifier", features.output_shape[1:], (trained.config.outputs,))
    networks = Networks(features, classifier)
    trained.classify_files(source, functools.partial(classify, networks), top, invert, table, skip_bad)


# %% Try it
# Similar images have similar features. Each row shows a test image and, next to it, the seven other test images whose
# features have the highest cosine similarity to its features.
# >>> features = Run.load(DEMO_RUN, "mobilenet", Config).network("features")
# >>> images, labels = clothes.test.items, clothes.test.labels
# >>> found = extract_features(features, images.repeat(3, -1))
# >>> found /= np.linalg.norm(found, axis=1, keepdims=True) + 1e-9
# >>> nearest = np.argsort(-found @ found.T)
# >>> names = ("Ankle boot", "Sandal", "Bag", "Coat")
# >>> queries = [np.flatnonzero(labels == clothes.classes.index(name))[3] for name in names]
# >>> show(images[nearest[queries, :8].ravel()])
# The fraction of test images whose nearest neighbour has the same label, measured in feature space and in pixel space:
# >>> pixels = images.reshape(len(images), -1) / np.linalg.norm(images.reshape(len(images), -1), axis=1, keepdims=True)
# >>> [float((labels[np.argsort(-each @ each.T)[:, 1]] == labels).mean()) for each in (found, pixels)]


if __name__ == "__main__":
    presets = {"finetuned": Config(), "paper": FROZEN, "demo": DEMO}
    run_command(demo, presets=presets, train=run, classify=classify_file)
