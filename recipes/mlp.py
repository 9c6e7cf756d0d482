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
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, mapped
from common.classification import Shown, accuracy, classify_files, judge
from common.cli import run_command
from common.clothes import CLOTHES_CLASSES, drawn_clothes
from common.execution import Execution, adam, in_precision, loss_scale
from common.images import from_uint8
from common.labelled import labelled_batches, labelled_images
from common.lazy import keras, tf
from common.ranges import BatchSize, BelowOne, Epochs, LearningRate, Range, Seed, Units
from common.runs import check_run, finish_run, image_shape, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration
# One hidden layer is the least that can learn features of its own, so it is what everything larger has to beat.
# `units` is how many features: more of them fit more, and learn more by heart, which is why `WIDE` has a larger
# `dropout`. On Fashion-MNIST 128 are right in 0.898, 1,024 in 0.905.
#
# What the network cannot know by itself may be shown to it: `shift` moves the training pictures, `mirror` turns half
# of them. Both are off, as in the usual example. With `root` dark cloth differs as much as bright. The rate falls to
# 0 at the last of the `epochs`, so 40 of them that were stopped after 20 are not the same as 20.


@dataclass(frozen=True, kw_only=True)
class Config:
    """The usual example's shape, trained well; `WIDE` has eight times the hidden units and drops some."""

    size: Annotated[int, Range(4, 512)] = 28  # pixels
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    units: Units = 128  # of the hidden layer
    dropout: BelowOne = 0.15  # share of hidden units that a training step leaves out
    root: bool = True  # see the square roots of the pixels, among which dark cloth differs as much as bright
    outputs: Units = 10  # classes; the data decide in `train` and in the demo
    mirror: bool = False  # turn half of the training images; wrong for letters and digits
    shift: Annotated[int, Range(0, 4096)] = 0  # most pixels by which training images are moved each way
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 1e-3  # Adam; falls to 0 along a cosine
    epochs: Epochs = 40
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


WIDE = Config(units=1024, dropout=0.4)
DEMO = Config(epochs=20)
DEMO_RUN = Path("runs/mlp-demo")

# %% Networks
# All 784 pixels go to each of 128 hidden units, and those to ten logits. A hidden unit is a template: its weights are
# laid upon the picture, multiplied, summed, and what is below 0 is cut off. Of the 101,770 weights 100,480 are
# templates.
#
# Nothing says which pixels are neighbours. A thing that stands two pixels further to the right meets other weights,
# so it has to be learnt there once more. Convolutions, as in `recipes.lenet`, spare that.


class Networks(NamedTuple):
    """The classifier."""

    classifier: keras.Model  # images [n, size, size, channels] in [-1, 1] -> logits [n, outputs]


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return the network, untrained: 101,770 weights by default."""
    layers = keras.layers
    seeds = keras.random.SeedGenerator(config.seed)
    images = keras.Input((config.size, config.size, config.channels), name="images")
    init = {"kernel_initializer": keras.initializers.GlorotUniform(seeds)}
    x = 2 * keras.ops.sqrt(keras.ops.relu(images + 1) / 2) - 1 if config.root else images
    x = layers.Dense(config.units, activation="relu", **init)(layers.Flatten()(x))
    x = layers.Dropout(config.dropout, seed=config.seed)(x) if config.dropout else x
    logits = layers.Dense(config.outputs, dtype="float32", **init)(x)
    return Networks(keras.Model(images, logits, name="classifier"))


# %% Losses
# A softmax makes probabilities of the logits, and the loss is -log of the one that the right class gets: 0 for sure
# and right, without limit for sure and wrong. Its gradient in the logits is the probabilities, less 1 for the right
# class, so pictures that are called right with confidence hardly move the weights.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]; log(classes) = 2.30 for ten classes when nothing is known."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


# The loss of a network without an opinion, of one that gives the right class a logit of 5 and all others 0, and of
# one that gives it to a wrong class. By hand: log 10 = 2.303, log(1 + 9 exp(-5)) = 0.059, and 5 more than that.
# >>> opinions = [tf.zeros([1, 10]), 5.0 * tf.one_hot([3], 10), 5.0 * tf.one_hot([4], 10)]
# >>> [round(float(cross_entropy(tf.constant([3]), logits)), 3) for logits in opinions]


# %% Training
# Plain steps of Adam, 28 of them an epoch in the demo.
#
# What is logged: `loss` and `accuracy` are means over an epoch's training batches, with dropout on.
# `validation_accuracy` is of the tenth that is held out, after the epoch and without dropout. In the demo the loss
# falls from 1.25 to 0.36 and the accuracies end at 0.87 and 0.85. On Fashion-MNIST the wide network's end at 0.95 and
# 0.91: such a distance is what was learnt by heart, and more pictures, `shift` or `dropout` make it smaller. A loss
# that stays at 2.30 says that nothing is learnt at all.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images and class numbers; return each epoch's means."""
    (classifier,) = networks
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(rate, classifier.trainable_variables, config.execution)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = classifier(from_uint8(images), training=True)
            loss = share(cross_entropy(labels, logits))
        gradients = tape.gradient(loss, classifier.trainable_variables, loss_scale(optimizer))
        optimizer.apply(gradients, classifier.trainable_variables)
        right = tf.cast(tf.argmax(logits, 1, tf.int32) == labels, tf.float32)
        return {"loss": loss, "accuracy": share(tf.reduce_mean(right))}

    def validate(epoch: int) -> dict[str, float]:
        images, labels = data.held_out
        return {"validation_accuracy": accuracy(labels, classify(classifier, images))}

    state = networks._asdict() | {"optimizer": optimizer}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=validate, execution=config.execution)


# %% Use
# `classify` takes uint8 pictures of the size that was learnt, bright on dark as the clothes are. The command brings a
# photo to that form itself, and `--invert` turns dark things on a bright ground round. How sure it is may be believed
# up to the calibration error, 0.040 in the demo.


def classify(classifier: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 [n, size, size, channels]."""
    return tf.nn.softmax(mapped(classifier, from_uint8(images))).numpy()


# %% A whole run
# The embedded data are 5,000 clothes that the project draws, grey on black, ten classes like Fashion-MNIST's. Every
# fifth picture is held out for the test, and of the others a tenth is for validation, so 3,600 are learnt from.
#
# The scores are of the 1,000 test pictures: accuracy, calibration error (the mean distance between how sure and how
# often right), and each class's precision and recall. Guessing is right in 0.1, the demo in 0.847; on the same
# pictures a linear classifier of features made by hand (`recipes.dog_svm`) is right in 0.934. On Fashion-MNIST it is
# 0.898, where the usual example is said to reach 0.886 after 50 epochs.
#
# Each column is a class:
# >>> clothes, kinds = drawn_clothes(5000, DEMO.seed, 28)
# >>> tens = [first + np.argsort(kinds[first : first + 10]) for first in (0, 10, 20)]
# >>> show(clothes[np.concatenate(tens)], 10)


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/mlp"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, judge by the test images; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "mlp", config, data, accept_data)
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
    classifier = load_network(run, "classifier", image_shape(config), (config.outputs,))
    verdict = functools.partial(classify, classifier)
    classify_files(source, run, verdict, config.size, config.channels, shown)


# %% Try it
# A boot that was held out is moved up and down, then left and right, by 2 to 8 pixels. What leaves the frame is lost;
# most of it stays the same boot, but to the templates it does not:
# >>> from scipy.ndimage import shift
# >>> from common.classification import save_classified
# >>> classifier = load_network(DEMO_RUN, "classifier")
# >>> unseen, truth = clothes[4::5], kinds[4::5]
# >>> boot = unseen[truth == CLOTHES_CLASSES.index("Ankle boot")][3]
# >>> steps = [-8, -6, -4, -2, 2, 4, 6, 8]
# >>> moved = np.stack([shift(boot, way, order=0) for way in [(n, 0, 0) for n in steps] + [(0, n, 0) for n in steps]])
# >>> boots, path = np.full(len(moved), CLOTHES_CLASSES.index("Ankle boot")), DEMO_RUN.parent / "moved.png"
# >>> show_file(save_classified(moved, boots, classify(classifier, moved), CLOTHES_CLASSES, path))
# The share of all test pictures that is right when they are moved to the right by 0 to 4 pixels, 0.85 to 0.34 in the
# whole demo (LeNet-5's: 0.92 to 0.55):
# >>> [accuracy(truth, classify(classifier, shift(unseen, (0, 0, n, 0), order=0))) for n in range(5)]
# And since no pixel has neighbours, their order is nothing to it. Here all pixels are shuffled, and in the same way
# the rows of the first matrix. Nobody can read the lower row; this network finds in it what the other does in the
# upper one, and is as sure.
# >>> order = np.random.default_rng(0).permutation(28 * 28)
# >>> shuffled = unseen.reshape(-1, 28 * 28)[:, order].reshape(unseen.shape)
# >>> first, *others = classifier.get_weights()
# >>> blind = load_network(DEMO_RUN, "classifier")
# >>> blind.set_weights([first[order], *others])
# >>> both = np.concatenate([unseen[:8], shuffled[:8]])
# >>> found = np.concatenate([classify(classifier, unseen[:8]), classify(blind, shuffled[:8])])
# >>> labels, path = np.tile(truth[:8], 2), DEMO_RUN.parent / "shuffled.png"
# >>> show_file(save_classified(both, labels, found, CLOTHES_CLASSES, path))


if __name__ == "__main__":
    presets = {"paper": Config(), "wide": WIDE, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, classify=classify_file)
