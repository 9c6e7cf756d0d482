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
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, mapped
from common.classification import Shown, accuracy, classify_files, judge
from common.cli import run_command
from common.clothes import CLOTHES_CLASSES, drawn_clothes
from common.errors import InputError
from common.execution import Execution, adam, in_precision, loss_scale
from common.images import from_uint8
from common.labelled import labelled_batches, labelled_images
from common.lazy import keras, tf
from common.ranges import BatchSize, Epochs, LearningRate, Range, Seed, Units
from common.runs import check_run, finish_run, image_shape, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration
# `modern` decides which network is trained: LeNet-5 with its 44,426 weights, or one of today with 96,282, right in
# 0.907 and 0.931 on Fashion-MNIST. The other settings are about data. `mirror` and `shift` show each garment in more
# ways than there are pictures of it, which pulls against learning by heart; a mirrored 3 is no digit, so `mirror`
# must be off where sides matter. With `root` dark cloth differs as much as bright. The rate is high at first and
# falls to 0 at the last of the `epochs`, so 40 of them that were stopped after 20 are not the same as 20.


@dataclass(frozen=True, kw_only=True)
class Config:
    """LeNet-5 (section II.B) trained as one would today; `MODERN` is a network of today with as few weights."""

    size: Annotated[int, Range(16, 512)] = 28  # pixels, a multiple of 4 from 16
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    modern: bool = False  # 3x3 convolutions, batch normalisation, ReLU, the mean of each map in place of dense layers
    root: bool = True  # see the square roots of the pixels, among which dark cloth differs as much as bright
    outputs: Units = 10  # classes; the data decide in `train` and in the demo
    mirror: bool = True  # wrong for letters and digits
    shift: Annotated[int, Range(0, 4096)] = 1  # most pixels by which training images are moved each way
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 4e-3  # Adam; falls to 0 along a cosine
    epochs: Epochs = 40
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


MODERN = Config(modern=True, shift=2, learning_rate=5e-3, epochs=15)
DEMO = Config(epochs=20)
DEMO_RUN = Path("runs/lenet-demo")

# %% Networks
# What is an edge in one place is an edge in every other. A convolution lays the same 5 x 5 weights upon every place,
# so what was learnt in one place is known in all, and 156 weights make the first layer, where an MLP has 100,480.
# Pooling keeps the highest of four neighbours and forgets which it was. After two rounds a picture is 4 x 4 places in
# 16 maps; three dense layers, with most of the weights, decide from those.
#
# The modern network sees with pairs of 3 x 3 weights, keeps its maps in range by batch normalisation, and has no
# dense layers but the last: each map's mean goes there, wherever in the map something was found.


class Networks(NamedTuple):
    """The classifier."""

    classifier: keras.Model  # images [n, size, size, channels] in [-1, 1] -> logits [n, outputs]


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return the network, untrained. Raises ValueError for a size that does not halve twice, or is below 16."""
    if config.size % 4:
        raise InputError(f"size must be a multiple of 4, got {config.size}")
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
    return layers.Dense(config.outputs, dtype="float32", **init)(x)


def modern_layers(x: keras.KerasTensor, config: Config) -> keras.KerasTensor:
    """Three pairs of 3x3 convolutions, the picture halved after each of the first two: 96,282 weights."""
    layers = keras.layers
    init = {"kernel_initializer": keras.initializers.HeNormal(keras.random.SeedGenerator(config.seed))}
    for stage, filters in enumerate((24, 40, 68)):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, **init)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.97, synchronized=config.execution.synchronized)(x))
        x = layers.MaxPooling2D()(x) if stage < 2 else layers.GlobalAveragePooling2D()(x)
    return layers.Dense(config.outputs, dtype="float32", **init)(layers.Dropout(0.2, seed=config.seed)(x))


# %% Losses
# A softmax makes probabilities of the logits, and the loss is -log of the one that the right class gets. Its gradient
# in the logits is the probabilities, less 1 for the right class. It fades as a picture is called right with
# confidence, and never where one is missed.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]; log(classes) = 2.30 for ten classes when nothing is known."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


# The gradient in the logits, and what it should be: probabilities, less 1 for the right class.
# >>> label, logits = tf.constant([1]), tf.Variable([[2.0, 1.0, 0.0]])
# >>> with tf.GradientTape() as tape:
# ...     loss = cross_entropy(label, logits)
# >>> tape.gradient(loss, logits).numpy(), tf.nn.softmax(logits).numpy() - [[0, 1, 0]]


# %% Training
# What is logged: `loss` and `accuracy` are means over an epoch's training batches, moved and mirrored.
# `validation_accuracy` is of the tenth that is held out, as it is. In the demo the loss falls from 1.13 to 0.20, and
# the accuracies end at 0.93 and 0.915. Validation may well be ahead for the first half, since its pictures are the
# easier ones. When it stands still while `accuracy` goes on, as on Fashion-MNIST at 0.91 and 0.93, the rest is learnt
# by heart. A loss that stays at 2.30 says that nothing is learnt: the rate is too high, or labels and pictures do not
# belong together.


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
# up to the calibration error, 0.025 in the demo.


def classify(classifier: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 [n, size, size, channels]."""
    return tf.nn.softmax(mapped(classifier, from_uint8(images))).numpy()


# %% A whole run
# The embedded data are 5,000 clothes that the project draws, grey on black, ten classes like Fashion-MNIST's. Every
# fifth picture is held out for the test, and of the others a tenth is for validation, so 3,600 are learnt from.
#
# The scores are of the 1,000 test pictures: accuracy, calibration error (the mean distance between how sure and how
# often right), and each class's precision and recall. The demo is right in 0.917, the MLP on the same pictures in
# 0.847, and features made by hand with a linear classifier (`recipes.dog_svm`) in 0.934: what is to be learnt from
# pictures needs many of them. On Fashion-MNIST, fifteen times as many, it is LeNet-5 that is ahead, with 0.907
# against 0.890; 0.891 is what LeNet-5 is said to reach there after 50 epochs.
#
# Each column is a class:
# >>> clothes, kinds = drawn_clothes(5000, DEMO.seed, 28)
# >>> tens = [first + np.argsort(kinds[first : first + 10]) for first in (0, 10, 20)]
# >>> show(clothes[np.concatenate(tens)], 10)


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/lenet"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, judge by the test images; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "lenet", config, data, accept_data)
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
    classifier = load_network(run, "classifier", image_shape(config), (config.outputs,))
    verdict = functools.partial(classify, classifier)
    classify_files(source, run, verdict, config.size, config.channels, shown)


# %% Try it
# Three garments that were held out, turned by 30 degrees from picture to picture. Half way a shoe that stands on its
# tip may be a pair of trousers, and a bag on its head a coat: in the training pictures nothing lies on its side, so
# the network answers with what has that outline.
# >>> from scipy.ndimage import rotate
# >>> from common.classification import save_classified
# >>> classifier = load_network(DEMO_RUN, "classifier")
# >>> unseen, truth = clothes[4::5], kinds[4::5]
# >>> names = ("Sneaker", "Ankle boot", "Bag")
# >>> labels = np.array([CLOTHES_CLASSES.index(name) for name in names]).repeat(8)
# >>> garments = [unseen[truth == label][2] for label in labels[::8]]
# >>> turned = np.stack([rotate(one, 30 * n, reshape=False, order=1) for one in garments for n in range(8)])
# >>> path = DEMO_RUN.parent / "turned.png"
# >>> show_file(save_classified(turned, labels, classify(classifier, turned), CLOTHES_CLASSES, path))
# What the six maps of the first layer see in four garments: light where the weights fit, dark where their opposite
# does.
# >>> layer = next(layer for layer in classifier.layers if isinstance(layer, keras.layers.Conv2D))
# >>> maps = keras.Model(classifier.input, layer.output)(from_uint8(unseen[:4])).numpy()
# >>> maps = np.uint8(127.5 + 127.5 * maps).transpose(0, 3, 1, 2)[..., None]
# >>> maps = np.pad(maps, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), constant_values=128)
# >>> show(np.concatenate([unseen[:4, None], maps], 1).reshape(-1, 28, 28, 1), 7)


if __name__ == "__main__":
    presets = {"paper": Config(), "modern": MODERN, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, classify=classify_file)
