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
from typing import NamedTuple

import numpy as np

from common.batches import Batches, batches
from common.classification import Shown, accuracy, classify_files, judge
from common.cli import run_command
from common.clothes import CLOTHES_CLASSES, drawn_clothes
from common.errors import InputError
from common.files import replacing
from common.images import from_uint8
from common.labelled import Labelled, Split, labelled_batches, labelled_images
from common.lazy import keras, tf
from common.pretrained import load_pretrained
from common.runs import check_run, finish_run, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fine-tuning at a size that a CPU can bear; `FROZEN` stops at the linear classifier, at the paper's size."""

    size: int = 64  # pixels that the network sees, a multiple of 32
    channels: int = 3  # of the images: 3 for colour, 1 for grey
    alpha: float = 1.0  # width of the network: 0.35, 0.5, 0.75, 1, 1.3 or 1.4
    weights: str = "imagenet"  # or a file, or random
    frozen: bool = False  # leave the network as it is, and train the classifier alone
    dropout: float = 0.2  # share of features that a training step leaves out
    outputs: int = 10  # classes; the data decide in `train` and in the demo
    mirror: bool = True  # wrong for letters and digits
    shift: int = 1  # most pixels by which training images are moved each way, in the second stage
    batch_size: int = 64
    head_learning_rate: float = 1e-3  # Adam, in the first stage
    head_epochs: int = 20  # of the first stage
    learning_rate: float = 2e-4  # Adam, in the second stage; both rates fall to 0 along a cosine
    epochs: int = 8  # of the second stage
    seed: int = 0


FROZEN = Config(size=224, frozen=True)
DEMO = Config(size=64, alpha=0.35, weights="random", learning_rate=2e-3, epochs=10, head_epochs=10)
DEMO_RUN = Path("runs/mobilenet-demo")

# %% Networks


class Networks(NamedTuple):
    """A network that sees, and a linear classifier of what it sees."""

    features: keras.Model  # images [n, height, width, channels] in [-1, 1] -> features [n, d]
    classifier: keras.Model  # features -> logits [n, outputs]


def build(config: Config = Config()) -> Networks:
    """Return both, with random weights. Raises ValueError for a size that is no multiple of 32, or an odd alpha."""
    if config.size < 32 or config.size % 32:
        raise InputError(f"size must be a multiple of 32, got {config.size}")
    if config.alpha not in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4):
        raise InputError(f"alpha must be 0.35, 0.5, 0.75, 1, 1.3 or 1.4, got {config.alpha}")
    layers, seeds = keras.layers, keras.random.SeedGenerator(config.seed)
    shape = (config.size, config.size, 3)
    network = keras.applications.MobileNetV2(shape, config.alpha, include_top=False, weights=None, pooling="avg")
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # for random weights: ImageNet's 0.999 is too slow for a short training
        elif layer.weights:  # those it comes with do not follow a seed
            layer.set_weights([keras.initializers.HeNormal(seeds)(kernel.shape) for kernel in layer.weights])
    images = keras.Input((None, None, config.channels), name="images")
    x = keras.ops.image.resize(images, (config.size, config.size))  # layers.Resizing turns training mode on
    x = layers.Concatenate()([x, x, x]) if config.channels == 1 else x
    seen = keras.Input((network.output_shape[-1],), name="features")
    dense = layers.Dense(config.outputs, kernel_initializer=keras.initializers.GlorotUniform(seeds))
    logits = dense(layers.Dropout(config.dropout, seed=config.seed)(seen))
    return Networks(keras.Model(images, network(x), name="features"), keras.Model(seen, logits, name="classifier"))


def load_weights(networks: Networks, config: Config, fetch: bool = False) -> None:
    """Load what `config.weights` names into the network that sees."""
    options = {"alpha": config.alpha, "include_top": False, "weights": "imagenet", "pooling": "avg"}
    imagenet = functools.partial(keras.applications.MobileNetV2, (224, 224, 3), **options)
    file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{config.alpha}_224_no_top.h5"
    load_pretrained(networks.features.layers[-1], config.weights, file, imagenet, fetch)


# %% Losses


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]; log(classes) = 2.30 for ten classes when nothing is known."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


# %% Training


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of class numbers and uint8 images or, if `config.frozen`, features."""
    features, classifier = networks
    variables = classifier.trainable_variables + ([] if config.frozen else features.trainable_variables)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(variables)

    @tf.function
    def step(inputs: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            seen = inputs if config.frozen else features(from_uint8(inputs), training=config.weights == "random")
            logits = classifier(seen, training=True)
            loss = share(cross_entropy(labels, logits))
        optimizer.apply(tape.gradient(loss, variables), variables)
        right = tf.cast(tf.argmax(logits, 1, tf.int32) == labels, tf.float32)
        return {"loss": loss, "accuracy": share(tf.reduce_mean(right))}

    def validate(epoch: int) -> dict[str, float]:
        inputs, labels = data.held_out
        seen = inputs if config.frozen else describe(features, inputs)
        return {"validation_accuracy": accuracy(labels, classifier(seen, training=False).numpy())}

    state = networks._asdict() | {"optimizer": optimizer}
    return fit(step, data, epochs=config.epochs, state=state, output_dir=output_dir, on_epoch=validate)


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


def describe(features: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the features, float32 [n, d], of uint8 [n, height, width, channels]."""
    return features.predict(from_uint8(images), 100, verbose=0)


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
        if not path.exists():
            with replacing(path) as draft:
                np.save(draft, describe(features, images))
        parts.append(np.load(path))
    return np.concatenate(parts)


def classify(networks: Networks, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 [n, height, width, channels]."""
    return tf.nn.softmax(networks.classifier(describe(networks.features, images), training=False)).numpy()


# %% A whole run


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/mobilenet"),
    skip_bad: bool = False,
    fetch: bool = False,
) -> Path:
    """Read `data`, train both stages or go on, judge by the test images; leave a run, return its picture."""
    check_run(output_dir, "mobilenet", config, data)
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
    networks = Networks(load_network(run, "features"), load_network(run, "classifier"))
    verdict = functools.partial(classify, networks)
    classify_files(source, run, verdict, config.size, config.channels, shown)


if __name__ == "__main__":
    presets = {"finetuned": Config(), "paper": FROZEN, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, classify=classify_file)
