"""MobileNetV2 transfer: classify pictures with a network that has learnt to see on ImageNet.

Paper    Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
         arXiv:1801.04381; for what a frozen network's features are worth, Donahue et al. 2014, arXiv:1310.1531.
Images   uint8 [n, height, width, channels] at the borders; float32 in [-1, 1] in the networks, which enlarge them.
Features float32 [n, 1280]: the means of the last maps. Logits float32 [n, classes].
Differs  1. Two stages: first a linear classifier of the frozen features, which are computed once and kept on disk; then
            all weights together, at a low rate, unless `--frozen`.
         2. Batch normalisation keeps the statistics it came with. From random weights it learns its own.
Run      python -m recipes.mobilenet                                         the demo: drawn clothes, offline
         python -m recipes.mobilenet train --data fashion_mnist --fetch      ImageNet's weights, fetched once
         python -m recipes.mobilenet train --weights FILE --data DIR --output-dir runs/mine  a folder for each class
         python -m recipes.mobilenet train --frozen --size 224 --data DIR --output-dir runs/quick
         python -m recipes.mobilenet classify photo.jpg --run runs/mine      or a folder of photos
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, batches, mapped
from common.classification import Shown, accuracy, classify_files, judge
from common.cli import run_command
from common.clothes import CLOTHES_CLASSES, drawn_clothes
from common.errors import InputError
from common.execution import Execution, adam, in_precision, loss_scale
from common.files import cached_array, replacing
from common.images import from_uint8
from common.labelled import Labelled, Split, labelled_batches, labelled_images
from common.lazy import keras, tf
from common.pretrained import load_pretrained
from common.ranges import BatchSize, BelowOne, Epochs, LearningRate, Range, Seed, Units
from common.runs import check_run, finish_run, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration
# What the network has seen before decides most: `weights`. With ImageNet's a linear classifier of its features
# (`frozen`) is right in 0.901 on Fashion-MNIST at 224 px, and with all weights fine-tuned, at 64 px, in 0.942. The
# demo has to do without a download, so it begins with `random` weights and shows the machinery, not its worth.
#
# `size` is what pictures are brought to, whatever they were. A large one shows more of a photo, and the time grows
# with its square. `learning_rate` is of the second stage: a high one makes the network forget what it came with, so
# it is a fifth of the first stage's, and ten times as high for random weights, which have nothing to lose. An `alpha`
# below 1 makes the layers thinner.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fine-tuning at a size that a CPU can bear; `FROZEN` stops at the linear classifier, at the paper's size."""

    size: Annotated[int, Range(32, 1024)] = 64  # pixels that the network sees, a multiple of 32
    channels: Literal[1, 3] = 3  # of the images: 3 for colour, 1 for grey
    alpha: Annotated[float, Range(0.35, 1.4)] = 1.0  # width of the network: 0.35, 0.5, 0.75, 1, 1.3 or 1.4
    weights: str = "imagenet"  # or a file, or random
    frozen: bool = False  # leave the network as it is, and train the classifier alone
    dropout: BelowOne = 0.2  # share of features that a training step leaves out
    outputs: Units = 10  # classes; the data decide in `train` and in the demo
    mirror: bool = True  # wrong for letters and digits
    shift: Annotated[int, Range(0, 4096)] = 1  # most pixels by which images are moved each way, in the second stage
    batch_size: BatchSize = 64
    head_learning_rate: LearningRate = 1e-3  # Adam, in the first stage
    head_epochs: Epochs = 20  # of the first stage
    learning_rate: LearningRate = 2e-4  # Adam, in the second stage; both rates fall to 0 along a cosine
    epochs: Epochs = 8  # of the second stage
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


FROZEN = Config(size=224, frozen=True)
DEMO = Config(size=64, alpha=0.35, weights="random", learning_rate=2e-3, epochs=10, head_epochs=1)
DEMO_RUN = Path("runs/mobilenet-demo")

# %% Networks
# MobileNetV2 is made for little arithmetic. Its blocks widen a few maps to six times as many by 1 x 1 weights, look
# at each of these by itself through 3 x 3 weights, and narrow them again, without an activation at the end: where
# maps are few, cutting off what is below 0 would lose what cannot be had back. What goes in is added to what comes
# out where both have one shape.
#
# The mean of each of the last 1,280 maps is a feature, and says how much of something is in the picture, wherever it
# is. The second network is a linear classifier of those features. Grey pictures are given three times, as red, green
# and blue.


class Networks(NamedTuple):
    """A network that sees, and a linear classifier of what it sees."""

    features: keras.Model  # images [n, height, width, channels] in [-1, 1] -> features [n, d]
    classifier: keras.Model  # features -> logits [n, outputs]


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return both, with random weights. Raises ValueError for a size that is no multiple of 32, or an odd alpha."""
    if config.size % 32:
        raise InputError(f"size must be a multiple of 32, got {config.size}")
    if config.alpha not in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4):
        raise InputError(f"alpha must be 0.35, 0.5, 0.75, 1, 1.3 or 1.4, got {config.alpha}")
    layers, seeds = keras.layers, keras.random.SeedGenerator(config.seed)
    shape = (config.size, config.size, 3)
    network = keras.applications.MobileNetV2(shape, config.alpha, include_top=False, weights=None, pooling="avg")
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # for random weights: ImageNet's 0.999 is too slow for a short training
            layer.synchronized = config.execution.synchronized
        elif layer.weights:  # those it comes with do not follow a seed
            layer.set_weights([keras.initializers.HeNormal(seeds)(kernel.shape) for kernel in layer.weights])
    images = keras.Input((None, None, config.channels), name="images")
    x = keras.ops.image.resize(images, (config.size, config.size))  # layers.Resizing turns training mode on
    x = layers.Concatenate()([x, x, x]) if config.channels == 1 else x
    seen = keras.Input((network.output_shape[-1],), name="features")
    dense = layers.Dense(config.outputs, dtype="float32", kernel_initializer=keras.initializers.GlorotUniform(seeds))
    logits = dense(layers.Dropout(config.dropout, seed=config.seed)(seen))
    return Networks(keras.Model(images, network(x), name="features"), keras.Model(seen, logits, name="classifier"))


def load_weights(networks: Networks, config: Config, fetch: bool = False) -> None:
    """Load what `config.weights` names into the network that sees."""
    options = {"alpha": config.alpha, "include_top": False, "weights": "imagenet", "pooling": "avg"}
    imagenet = functools.partial(keras.applications.MobileNetV2, (224, 224, 3), **options)
    file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{config.alpha}_224_no_top.h5"
    load_pretrained(networks.features.layers[-1], config.weights, file, imagenet, fetch)


# %% Losses
# A softmax makes probabilities of the logits, and the loss is -log of the one that the right class gets. Both stages
# have this loss; they differ in how far back its gradient goes.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]; log(classes) = 2.30 for ten classes when nothing is known."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


# %% Training
# A classifier with random weights sends random gradients back, and would spoil a network that can see. So it learns
# first, with the network left as it is: the features are computed once and kept in `cache/`, and an epoch takes a
# fraction of a second. Then all weights move. Batch normalisation keeps the statistics it came with; random weights
# come with none, so they are learnt.
#
# What is logged, for the first stage in `head/`: `loss` and `accuracy` are means over an epoch's training batches,
# `validation_accuracy` is of the tenth that is held out. With ImageNet's weights on Fashion-MNIST at 64 px the first
# stage reaches 0.87 and the second 0.945. From random weights the first stage learns nothing, and its loss stays at
# log 10 = 2.30; the second's falls from 2.03 to 0.39. Validation is at 0.15 after its first epoch and at 0.63 after
# the next: nothing is wrong there.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of class numbers and uint8 images or, if `config.frozen`, features."""
    features, classifier = networks
    variables = classifier.trainable_variables + ([] if config.frozen else features.trainable_variables)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(rate, variables, config.execution)

    @tf.function
    def step(inputs: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            seen = inputs if config.frozen else features(from_uint8(inputs), training=config.weights == "random")
            logits = classifier(seen, training=True)
            loss = share(cross_entropy(labels, logits))
        optimizer.apply(tape.gradient(loss, variables, loss_scale(optimizer)), variables)
        right = tf.cast(tf.argmax(logits, 1, tf.int32) == labels, tf.float32)
        return {"loss": loss, "accuracy": share(tf.reduce_mean(right))}

    def validate(epoch: int) -> dict[str, float]:
        inputs, labels = data.held_out
        seen = inputs if config.frozen else describe(features, inputs)
        return {"validation_accuracy": accuracy(labels, classifier(seen, training=False).numpy())}

    state = networks._asdict() | {"optimizer": optimizer}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=validate, execution=config.execution)


def train_head(networks: Networks, data: Labelled, config: Config, output_dir: Path) -> History:
    """Train the classifier in place on features that are kept in `output_dir`; return each epoch's means."""
    seen, held_out = (
        cached_features(networks.features, s, output_dir / "cache") for s in (data.train, data.validation)
    )
    size = min(config.batch_size, len(seen))
    stream = batches((seen, data.train.labels), size, config.seed, held_out=(held_out, data.validation.labels))
    head = replace(config, frozen=True, learning_rate=config.head_learning_rate, epochs=config.head_epochs)
    return train(networks, stream, head, output_dir if config.frozen else output_dir / "head")


# %% Use
# `classify` takes uint8 pictures of any size with as many channels as were learnt. The command takes the centre
# square of a photo. `describe` gives the features alone, which serve for more than classes: the last section looks
# for pictures that are alike. A thousand of them lie in each file of the cache; its name is a checksum of weights and
# pictures, so it is never taken for another's.


def describe(features: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the features, float32 [n, d], of uint8 [n, height, width, channels]."""
    return mapped(features, from_uint8(images), 100)


def cached_features(features: keras.Model, split: Split, folder: Path) -> np.ndarray:
    """Return the features of all images, float32 [n, d], a thousand a file in `folder`; what is there is read.

    A file's name is a checksum of the network's weights and of its images, so that no other's are ever taken.
    """
    from tqdm import tqdm

    weights = hashlib.sha256(b"".join(weight.tobytes() for weight in features.get_weights())).digest()
    parts = []
    for images in tqdm(split.in_order(1000), "features", -(-len(split.labels) // 1000), disable=None):
        checksum = hashlib.sha256(weights + str(features.input_shape).encode() + images.tobytes()).hexdigest()
        path = folder / f"{checksum[:32]}.npy"
        if (kept := cached_array(path, (len(images), features.output_shape[-1]))) is not None:
            parts.append(kept)
            continue
        parts.append(describe(features, images))
        with replacing(path) as draft:
            np.save(draft, parts[-1])
    return np.concatenate(parts)


def classify(networks: Networks, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 [n, height, width, channels]."""
    return tf.nn.softmax(networks.classifier(describe(networks.features, images), training=False)).numpy()


# %% A whole run
# The embedded data are 5,000 clothes that the project draws, 28 px, grey on black, ten classes like Fashion-MNIST's.
# Every fifth picture is held out for the test, and of the others a tenth is for validation, so 3,600 are learnt from.
#
# The scores are of the 1,000 test pictures: accuracy, calibration error (the mean distance between how sure and how
# often right), and each class's precision and recall. The demo is right in 0.850, and LeNet-5, a small fraction of
# its size, in 0.917: a large network without a past is no gain on a few thousand pictures. With ImageNet's weights it
# is the best of the four classifiers here, 0.942 on Fashion-MNIST; frozen it is right in 0.901, where 0.893 has been
# reported. With one label in a hundred, 54 a class, fine-tuning still gives 0.845.
#
# Each column is a class:
# >>> clothes, kinds = drawn_clothes(5000, DEMO.seed, 28)
# >>> tens = [first + np.argsort(kinds[first : first + 10]) for first in (0, 10, 20)]
# >>> show(clothes[np.concatenate(tens)], 10)


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/mobilenet"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train both stages or go on, judge by the test images; leave a run, return its picture."""
    check_run(output_dir, "mobilenet", config, data, accept_data)
    sample = functools.partial(drawn_clothes, 5000, config.seed, 28)
    labelled = labelled_images(
        data, config.size, config.channels, sample, skip_bad, fetch, CLOTHES_CLASSES, enlarge=False
    )
    config = replace(config, outputs=len(labelled.classes))
    networks = build(config)
    load_weights(networks, config, fetch)
    start_run(output_dir, "mobilenet", config, data, labelled.classes)
    train_head(networks, labelled, config, output_dir)
    if not config.frozen:
        stream = labelled_batches(labelled, config.batch_size, config.seed, config.shift, config.mirror, 1000)
        train(networks, stream, config, output_dir)
    picture, scores = judge(labelled, functools.partial(classify, networks), output_dir)
    finish_run(output_dir, networks, lambda: scores)
    return picture


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to tell ten kinds of drawn clothes apart, offline and so from random weights; return a picture."""
    return experiment("sample", config, output_dir)


def classify_file(source: Path, run: Path = DEMO_RUN, shown: Shown = Shown()) -> None:
    """Print the most probable classes of an image, or of every image of a folder."""
    config = read_run(run, "mobilenet", Config)
    features = load_network(run, "features", (None, None, config.channels))
    networks = Networks(features, load_network(run, "classifier", features.output_shape[1:], (config.outputs,)))
    verdict = functools.partial(classify, networks)
    classify_files(source, run, verdict, config.size, config.channels, shown)


# %% Try it
# Features say what is alike. Each row begins with a test picture; beside it stand the seven of the other 999 whose
# features point most nearly the same way.
# >>> features = load_network(DEMO_RUN, "features")
# >>> unseen, truth = clothes[4::5], kinds[4::5]
# >>> seen = describe(features, unseen.repeat(3, -1))
# >>> seen /= np.linalg.norm(seen, axis=1, keepdims=True) + 1e-9
# >>> nearest = np.argsort(-seen @ seen.T)
# >>> shown = ("Ankle boot", "Sandal", "Bag", "Coat")
# >>> asked = [np.flatnonzero(truth == CLOTHES_CLASSES.index(name))[3] for name in shown]
# >>> show(unseen[nearest[asked, :8].ravel()])
# How often the nearest other picture is of the same class, by features and by plain pixels. In the whole demo it is
# 0.83 and 0.72.
# >>> pixels = unseen.reshape(len(unseen), -1) / np.linalg.norm(unseen.reshape(len(unseen), -1), axis=1, keepdims=True)
# >>> [float((truth[np.argsort(-each @ each.T)[:, 1]] == truth).mean()) for each in (seen, pixels)]


if __name__ == "__main__":
    presets = {"finetuned": Config(), "paper": FROZEN, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, classify=classify_file)
