"""MLP: classify small images with one hidden layer, the baseline for the other classifiers.

Paper    Rumelhart, Hinton & Williams, "Learning Representations by Back-Propagating Errors", Nature 323, 1986,
         doi:10.1038/323533a0. 784-128-10 is the usual size in beginner tutorials on Fashion-MNIST (arXiv:1708.07747).
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the network.
Logits   float32 [n, classes]; their softmax gives the class probabilities.
Differs  1. ReLU, cross entropy and Adam replace sigmoids, squared error and gradient descent with momentum.
         2. The network takes the square root of its inputs and has light dropout. The learning rate decays to 0.
Run      python -m recipes.mlp                                          the demo: synthetic clothes, offline
         python -m recipes.mlp train --data fashion_mnist --fetch       Fashion-MNIST, downloaded once
         python -m recipes.mlp train --data DIR --output-dir runs/mine  your own images, one folder per class
         python -m recipes.mlp classify photo.jpg --run runs/mine       an image, or a folder of images
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
from common.runs import Range, Run, run_command
from common.training import adam, fit, predict

# %% Configuration
# `units` is the size of the hidden layer. A larger layer fits the training images better, but it also overfits more.
# `WIDE` therefore uses more `dropout`.
#
# `shift` and `mirror` augment the training images with random translations and random horizontal flips. Both are off by
# default, as in most tutorials. With `sqrt_pixels`, the network takes the square root of its inputs, which increases
# the contrast of dark clothes. The learning rate decays to 0 over the configured epochs. A 40-epoch run that is stopped
# after 20 epochs therefore differs from a 20-epoch run.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for the usual tutorial network. `WIDE` has 1,024 hidden units instead of 128."""

    size: Annotated[int, Range(4, 512)] = 28  # side of the images in pixels
    channels: Literal[1, 3] = 1  # 1: greyscale, 3: colour
    units: Annotated[int, Range(1, 65_536)] = 128  # number of hidden units
    dropout: Annotated[float, Range(0, 0.999999)] = 0.15  # dropout rate of the hidden units
    sqrt_pixels: bool = True  # take the square root of the inputs; increases the contrast of dark clothes
    outputs: Annotated[int, Range(1, 65_536)] = 10  # number of classes; `train` and the demo read it from the data
    mirror: bool = False  # flip training images at random; unsuitable for letters and digits
    shift: Annotated[int, Range(0, 4096)] = 0  # maximum random shift of training images in pixels, per axis
    batch_size: Annotated[int, Range(1, 65_536)] = 128
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3  # initial learning rate of Adam; cosine decay to 0
    epochs: Annotated[int, Range(1, 1_000_000)] = 40
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)


WIDE = Config(units=1024, dropout=0.4)
DEMO = Config(epochs=20)
DEMO_RUN = Path("runs/mlp-demo")

# %% Networks
# Each of the 128 hidden units is connected to all 784 pixels, and each of the ten logits to all hidden units. A hidden
# unit works like a template: it computes a weighted sum of the pixels, and negative sums become 0. Of the 101,770
# weights, 100,480 belong to these templates.
#
# The network has no information about which pixels are neighbours. If a garment is shifted by two pixels, its pixels
# are multiplied by different weights, so the network has to learn each position separately. Convolutions
# (`recipes.lenet`) share their weights across positions.


class Networks(NamedTuple):
    """The classifier."""

    classifier: keras.Model  # images [n, size, size, channels] in [-1, 1] -> logits [n, outputs]


def build(config: Config = Config()) -> Networks:
    """Return the untrained network. It has 101,770 weights by default."""
    layers = keras.layers
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}
    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    if config.sqrt_pixels:
        x = 2 * keras.ops.sqrt(keras.ops.relu(images + 1) / 2) - 1  # [-1, 1] -> [0, 1], square root, back to [-1, 1]
    x = layers.Dense(config.units, activation="relu", **init)(layers.Flatten()(x))
    x = layers.Dropout(config.dropout, seed=config.seed)(x) if config.dropout else x
    logits = layers.Dense(config.outputs, dtype="float32", **init)(x)
    return Networks(keras.Model(images, logits, name="classifier"))


# %% Losses
# The softmax turns logits into probabilities. The loss is the negative log probability of the true class. It is 0 for a
# probability of 1, and grows without limit as the probability approaches 0. The gradient with respect to the logits is
# the vector of probabilities, minus 1 at the true class. Therefore, images that are classified correctly with high
# confidence hardly change the weights.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]. It is log 10 = 2.30 for ten equally probable classes."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


# The loss for three sets of logits: all 0; 5 for the true class and 0 elsewhere; 5 for a wrong class and 0 elsewhere.
# The expected values are log 10 = 2.303, log(1 + 9 exp(-5)) = 0.059, and 5 + 0.059.
# >>> examples = [tf.zeros([1, 10]), 5.0 * tf.one_hot([3], 10), 5.0 * tf.one_hot([4], 10)]
# >>> [round(float(cross_entropy(tf.constant([3]), logits)), 3) for logits in examples]


# %% Training
# Each step is one Adam update on one batch.
#
# What is logged: `loss` and `accuracy` are means over the training batches of an epoch, with dropout.
# `validation_accuracy` is measured after each epoch on the validation split, without dropout. In the demo, the loss
# falls from above 1 to below 0.5, and both accuracies rise above 0.8. If the final `accuracy` is several percentage
# points above `validation_accuracy`, the network overfits: use more images, `shift` or more `dropout`. If the loss
# stays at 2.30, the network learns nothing: lower the learning rate, or check that the labels match the images.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | tuple[np.ndarray, np.ndarray],
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the classifier in place.

    Args:
        networks: from `build`.
        data: uint8 images [batch, size, size, channels] and integer labels [batch]. With `Batches` or arrays, a run
            resumes exactly where it stopped. If `Batches` have held-out images, `validation_accuracy` is logged. A
            `tf.data.Dataset` must be batched; it is not reshuffled, and a resumed run starts a new pass over it.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses and accuracies per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    (classifier,) = networks
    variables = classifier.trainable_variables
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(schedule, variables)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        labels = tf.cast(labels, tf.int32)
        with tf.GradientTape() as tape:
            logits = classifier(from_uint8(images), training=True)
            loss = cross_entropy(labels, logits)
            scaled = optimizer.scale_loss(loss)  # float16 gradients would underflow; `apply` unscales them
        optimizer.apply(tape.gradient(scaled, variables), variables)
        correct = tf.cast(tf.argmax(logits, 1, tf.int32) == labels, tf.float32)
        return {"loss": loss, "accuracy": tf.reduce_mean(correct)}

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        images, labels = data.held_out
        predicted = classify(classifier, images).argmax(1)
        return {"validation_accuracy": float(np.mean(predicted == labels))}

    state = networks._asdict() | {"optimizer": optimizer}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[validate, on_epoch])


# %% Use
# `classify` expects uint8 images of the size used in training. The polarity must match the training images, for example
# bright objects on a dark background. The command `classify` resizes photos; with `--invert`, it also inverts them. The
# expected calibration error in the results shows how reliable the probabilities are.


def classify(classifier: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return class probabilities, float32 [n, classes], for uint8 images [n, size, size, channels]."""
    return tf.nn.softmax(predict(classifier, from_uint8(images))).numpy()


# %% A whole run
# The built-in data set has 5,000 synthetic images of clothes, grey on black, in the ten classes of Fashion-MNIST. The
# test split has 1,000 images, the validation split 400 and the training split 3,600.
#
# The scores on the test split are the accuracy, the expected calibration error, and the precision and recall of each
# class. Random guessing gives an accuracy of 0.1. LeNet-5 (`recipes.lenet`) and a linear classifier on hand-crafted
# features (`recipes.dog_svm`) are more accurate on the same images; `benchmarks/RESULTS.md` compares the results.
#
# Three training images of each class, one column per class:
# >>> clothes = labelled_images("sample", DEMO.size, DEMO.channels, "clothes", seed=DEMO.seed)
# >>> columns = [np.flatnonzero(clothes.train.labels == number)[:3] for number in range(10)]
# >>> show(clothes.train.items[np.stack(columns, 1).ravel()], 10)


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/mlp"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, evaluate on the test split, save the run, and return the path of a figure."""
    folder = Run(output_dir, "mlp", config, data, accept_data)
    labelled = labelled_images(data, config.size, config.channels, "clothes", skip_bad, fetch, seed=config.seed)
    config = replace(config, outputs=len(labelled.classes))
    networks = build(config)
    stream = labelled.batches(config.batch_size, config.seed, shift=config.shift, mirror=config.mirror)
    folder.start(labelled.classes)
    train(networks, stream, config, output_dir)
    classifier = functools.partial(classify, networks.classifier)
    figure, scores = labelled.evaluate(classifier, output_dir)
    return folder.finish(networks, lambda: scores, figure)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train on ten classes of synthetic clothes; return the path of a figure with predictions for test images."""
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
    trained = Run.load(run, "mlp", Config)
    classifier = trained.network("classifier", trained.image_shape, (trained.config.outputs,))
    trained.classify_files(source, functools.partial(classify, classifier), top, invert, table, skip_bad)


# %% Try it
# A test image of a boot, shifted by 2 to 8 pixels: first vertically, then horizontally. Pixels that are shifted out of
# the image are lost. You still see the same boot, but it no longer matches the templates:
# >>> from scipy.ndimage import shift
# >>> from common.metrics import accuracy
# >>> from common.runs.classification import save_classified
# >>> classifier = Run.load(DEMO_RUN, "mlp", Config).network("classifier")
# >>> images, labels = clothes.test.items, clothes.test.labels
# >>> boot_class = clothes.classes.index("Ankle boot")
# >>> boot = images[labels == boot_class][3]
# >>> steps = [-8, -6, -4, -2, 2, 4, 6, 8]
# >>> moved = np.stack([shift(boot, way, order=0) for way in [(n, 0, 0) for n in steps] + [(0, n, 0) for n in steps]])
# >>> boot_labels, path = np.full(len(moved), boot_class), DEMO_RUN.parent / "moved.png"
# >>> show_file(save_classified(moved, boot_labels, classify(classifier, moved), clothes.classes, path))
# The accuracy on all test images, shifted to the right by 0 to 4 pixels. It drops quickly. The accuracy of LeNet-5
# drops less.
# >>> [accuracy(labels, classify(classifier, shift(images, (0, 0, n, 0), order=0))) for n in range(5)]
# The order of the pixels does not matter to this network. Here, one permutation is applied to the pixels of all images
# and to the rows of the first weight matrix. The images in the lower row are unrecognisable, but their predictions and
# probabilities are identical to those in the upper row.
# >>> order = np.random.default_rng(0).permutation(28 * 28)
# >>> permuted = images.reshape(-1, 28 * 28)[:, order].reshape(images.shape)
# >>> first, *others = classifier.get_weights()
# >>> other = build(DEMO).classifier
# >>> other.set_weights([first[order], *others])
# >>> both = np.concatenate([images[:8], permuted[:8]])
# >>> probabilities = np.concatenate([classify(classifier, images[:8]), classify(other, permuted[:8])])
# >>> path = DEMO_RUN.parent / "permuted.png"
# >>> show_file(save_classified(both, np.tile(labels[:8], 2), probabilities, clothes.classes, path))


if __name__ == "__main__":
    plain = Config(dropout=0.0, sqrt_pixels=False, epochs=50)
    presets = {"paper": Config(), "wide": WIDE, "plain": plain, "demo": DEMO}
    run_command(demo, presets=presets, train=run, classify=classify_file)
