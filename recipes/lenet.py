"""LeNet-5: classify small images with the convolutional network of 1998 or, with `--preset modern`, a modern one.

Paper    LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings
         of the IEEE 86(11), 1998, doi:10.1109/5.726791, section II.B.
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the network.
Logits   float32 [n, classes]; their softmax gives the class probabilities.
Differs  1. Max pooling replaces trainable average pooling, tanh replaces scaled tanh, and softmax replaces radial basis
            functions. Every feature map of C3 is connected to all maps of S2.
         2. Images are 28 x 28 px, without padding to 32 x 32. The optimizer is Adam, with a decaying learning rate.
         3. Training images are augmented: flipped at random, and shifted at random by up to `shift` pixels.
Run      python -m recipes.lenet                                           the demo: synthetic clothes, offline
         python -m recipes.lenet train --data fashion_mnist --fetch        Fashion-MNIST, downloaded once
         python -m recipes.lenet train --data mnist --no-mirror --fetch    do not flip digits
         python -m recipes.lenet train --preset modern --data DIR --output-dir runs/mine  one folder per class
         python -m recipes.lenet classify photo.jpg --run runs/mine        an image, or a folder of images
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
# `modern` replaces LeNet-5 (44,426 weights) with a modern, more accurate network (96,282 weights).
#
# `mirror` and `shift` augment the training images, which reduces overfitting. Turn `mirror` off if left and right
# matter: a mirrored 3 is not a digit. With `sqrt_pixels`, the network takes the square root of its inputs, which
# increases the contrast of dark clothes. The learning rate decays to 0 over the configured epochs. A 40-epoch run that
# is stopped after 20 epochs therefore differs from a 20-epoch run.


@dataclass(frozen=True, kw_only=True)
class Config:
    """LeNet-5 (section II.B) with modern training. `MODERN` is a modern network of similar size."""

    size: Annotated[int, Range(16, 512, multiple_of=4)] = 28  # side of the images in pixels
    channels: Literal[1, 3] = 1  # 1: greyscale, 3: colour
    modern: bool = False  # 3x3 convolutions, batch normalisation, ReLU and global average pooling
    sqrt_pixels: bool = True  # take the square root of the inputs; increases the contrast of dark clothes
    outputs: Annotated[int, Range(1, 65_536)] = 10  # number of classes; `train` and the demo read it from the data
    mirror: bool = True  # flip training images at random; unsuitable for letters and digits
    shift: Annotated[int, Range(0, 4096)] = 1  # maximum random shift of training images in pixels, per axis
    batch_size: Annotated[int, Range(1, 65_536)] = 128
    learning_rate: Annotated[float, Range(0, 10)] = 4e-3  # initial learning rate of Adam; cosine decay to 0
    epochs: Annotated[int, Range(1, 1_000_000)] = 40
    synchronized: bool = False  # batch normalisation over the global batch, not per device
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)


MODERN = Config(modern=True, shift=2, learning_rate=5e-3, epochs=15)
DEMO = Config(epochs=20)
DEMO_RUN = Path("runs/lenet-demo")

# %% Networks
# An edge looks the same at every position. A convolution applies the same 5 x 5 weights at every position, so a pattern
# learned at one position is recognised at all others. The first layer has only 156 weights; the first layer of the MLP
# has 100,480. Max pooling keeps the largest of four neighbouring values, so small translations matter less. After two
# convolutions, each followed by pooling, 16 feature maps of 4 x 4 remain. Three dense layers, which have most of the
# weights, classify them.
#
# The modern network stacks pairs of 3 x 3 convolutions with batch normalisation. Global average pooling replaces the
# large dense layers, so the position of a feature in the image does not matter.


class Networks(NamedTuple):
    """The classifier."""

    classifier: keras.Model  # images [n, size, size, channels] in [-1, 1] -> logits [n, outputs]


def build(config: Config = Config()) -> Networks:
    """Return the untrained network: LeNet-5 or the modern network."""
    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    if config.sqrt_pixels:
        x = 2 * keras.ops.sqrt(keras.ops.relu(images + 1) / 2) - 1  # [-1, 1] -> [0, 1], square root, back to [-1, 1]
    logits = modern_layers(x, config) if config.modern else lenet_layers(x, config)
    return Networks(keras.Model(images, logits, name="classifier"))


def lenet_layers(x: keras.KerasTensor, config: Config) -> keras.KerasTensor:
    """Apply LeNet-5 (figure 2) and return the logits. It has 44,426 weights at 28 px with ten classes."""
    layers = keras.layers
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}
    for filters in (6, 16):
        x = layers.MaxPooling2D()(layers.Conv2D(filters, 5, activation="tanh", **init)(x))
    x = layers.Flatten()(x)
    for units in (120, 84):
        x = layers.Dense(units, activation="tanh", **init)(x)
    return layers.Dense(config.outputs, dtype="float32", **init)(x)


def modern_layers(x: keras.KerasTensor, config: Config) -> keras.KerasTensor:
    """Apply three pairs of 3x3 convolutions, each followed by pooling, and return the logits (96,282 weights)."""
    layers = keras.layers
    init = {"kernel_initializer": keras.initializers.HeNormal(keras.random.SeedGenerator(config.seed))}
    for stage, filters in enumerate((24, 40, 68)):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, **init)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.97, synchronized=config.synchronized)(x))
        x = layers.MaxPooling2D()(x) if stage < 2 else layers.GlobalAveragePooling2D()(x)
    return layers.Dense(config.outputs, dtype="float32", **init)(layers.Dropout(0.2, seed=config.seed)(x))


# %% Losses
# The softmax turns logits into probabilities. The loss is the negative log probability of the true class. It is 0 for a
# probability of 1, and grows without limit as the probability approaches 0. The gradient with respect to the logits is
# the vector of probabilities, minus 1 at the true class. Therefore, images that are classified correctly with high
# confidence hardly change the weights.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]. It is log 10 = 2.30 for ten equally probable classes."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


# The gradient with respect to the logits, computed by TensorFlow and by the formula above:
# >>> label, logits = tf.constant([1]), tf.Variable([[2.0, 1.0, 0.0]])
# >>> with tf.GradientTape() as tape:
# ...     loss = cross_entropy(label, logits)
# >>> tape.gradient(loss, logits).numpy(), tf.nn.softmax(logits).numpy() - [[0, 1, 0]]


# %% Training
# Each step is one Adam update on one batch.
#
# What is logged: `loss` and `accuracy` are means over the augmented training batches of an epoch. `validation_accuracy`
# is measured after each epoch on the validation split, without augmentation. In the demo, the loss falls from above 1
# to below 0.3, and both accuracies rise to about 0.9. Early on, `accuracy` may be below `validation_accuracy`, because
# augmented images are harder. If `validation_accuracy` stops rising while `accuracy` still rises, the network overfits.
# If the loss stays at 2.30, the network learns nothing: lower the learning rate, or check that the labels match the
# images.


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
# class. On this small data set, a linear classifier on hand-crafted features (`recipes.dog_svm`) is more accurate than
# LeNet-5. On Fashion-MNIST, which has fifteen times as many training images, LeNet-5 is more accurate.
# `benchmarks/RESULTS.md` compares the results.
#
# Three training images of each class, one column per class:
# >>> clothes = labelled_images("sample", DEMO.size, DEMO.channels, "clothes", seed=DEMO.seed)
# >>> columns = [np.flatnonzero(clothes.train.labels == number)[:3] for number in range(10)]
# >>> show(clothes.train.items[np.stack(columns, 1).ravel()], 10)


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/lenet"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, evaluate on the test split, save the run, and return the path of a figure."""
    folder = Run(output_dir, "lenet", config, data, accept_data)
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
    trained = Run.load(run, "lenet", Config)
    classifier = trained.network("classifier", trained.image_shape, (trained.config.outputs,))
    trained.classify_files(source, functools.partial(classify, classifier), top, invert, table, skip_bad)


# %% Try it
# Three test images, rotated in steps of 30 degrees. All garments in the training images are upright. The network
# therefore predicts the class with the most similar upright outline: for example, trousers for a shoe standing on its
# tip, or a coat for an upside-down bag.
# >>> from scipy.ndimage import rotate
# >>> from common.runs.classification import save_classified
# >>> classifier = Run.load(DEMO_RUN, "lenet", Config).network("classifier")
# >>> images, labels = clothes.test.items, clothes.test.labels
# >>> chosen = [clothes.classes.index(name) for name in ("Sneaker", "Ankle boot", "Bag")]
# >>> garments = [images[labels == number][2] for number in chosen]
# >>> rotated = np.stack([rotate(one, 30 * n, reshape=False, order=1) for one in garments for n in range(8)])
# >>> rotated_labels, path = np.repeat(chosen, 8), DEMO_RUN.parent / "rotated.png"
# >>> show_file(save_classified(rotated, rotated_labels, classify(classifier, rotated), clothes.classes, path))
# Four garments, each with its six feature maps from the first layer. Light areas match the weights of the filter; dark
# areas match the negated weights.
# >>> layer = next(layer for layer in classifier.layers if isinstance(layer, keras.layers.Conv2D))
# >>> maps = keras.Model(classifier.input, layer.output)(from_uint8(images[:4])).numpy()
# >>> maps = np.uint8(127.5 + 127.5 * maps).transpose(0, 3, 1, 2)[..., None]
# >>> maps = np.pad(maps, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), constant_values=128)
# >>> show(np.concatenate([images[:4, None], maps], 1).reshape(-1, 28, 28, 1), 7)


if __name__ == "__main__":
    plain = Config(sqrt_pixels=False, mirror=False, shift=0, learning_rate=1e-3, epochs=50)
    presets = {"paper": Config(), "modern": MODERN, "plain": plain, "demo": DEMO}
    run_command(demo, presets=presets, train=run, classify=classify_file)
