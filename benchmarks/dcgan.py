"""Score the images that a DCGAN generates. The scores come from a classifier trained on the same data set.

The classifier is a small convolutional network. Its predictions give the fraction of generated images in each class,
and the mean confidence. The Frechet and kernel distances compare its features for generated images with its features
for test images. The distance between two halves of the test images is given for comparison. The bundled classifier,
which also scores the images in a run's report, is used as a second classifier.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import markdown_table, run_benchmark, timed
from common.data.batches import batches
from common.data.datasets import images_of
from common.images.pixels import from_uint8
from common.metrics.scores import classifier_features, sample_scores
from common.runs import Run
from common.system.files import InputError, data_file, replacing, write_json
from common.system.lazy import keras
from recipes.dcgan import Config, generate

# %% Data


class Labelled(NamedTuple):
    """Images, uint8 [n, size, size, channels], and their labels, int64 [n]."""

    images: np.ndarray
    classes: np.ndarray


def labelled_images(data: Path, config: Any) -> tuple[Labelled, Labelled]:
    """Return the training and test images of an .npz file, resized to a run's `size`, with its `channels`.

    Raises:
        InputError: x_train, y_train, x_test or y_test is missing, or the arrays do not match.
    """
    if data.suffix != ".npz":
        raise InputError(f"{data}: not an .npz file; expected one with x_train, y_train, x_test and y_test")
    examples = images_of(str(data), config.size, config.channels, "digits")
    parts = []
    with np.load(data, allow_pickle=False) as arrays:
        for images, key in ((examples.train, "y_train"), (examples.test, "y_test")):
            if key not in arrays:
                raise InputError(f"{data}: contains {', '.join(arrays.files)}, but not {key}")
            classes = arrays[key].reshape(-1)
            if classes.dtype.kind not in "iu" or len(classes) != len(images) or classes.min() < 0:
                found = f"{classes.dtype} {list(arrays[key].shape)} for {len(images)} images"
                raise InputError(f"{data}: {key} is {found}; expected one label per image, 0 or higher")
            parts.append(Labelled(np.asarray(images), classes.astype(np.int64)))
    train, test = parts
    if len(test.images) < 4:
        raise InputError(f"{data}: {len(test.images)} test images; at least 4 are needed, 2 in each half")
    if test.classes.max() > train.classes.max():
        raise InputError(f"{data}: class {test.classes.max()} is in y_test, but not in y_train")
    return train, test


# %% The classifier

EPOCHS = 4
BATCH_SIZE = 128
LEARNING_RATE = 2e-3  # decays to 0 (cosine)


def build_classifier(size: int, channels: int, classes: int) -> keras.Model:
    """Return an untrained classifier: images [n, size, size, channels] in [-1, 1] -> features [n, 128], logits."""
    layers = keras.layers
    seeds = keras.random.SeedGenerator(0)
    x = images = keras.Input((size, size, channels), name="images")
    for width, stride in ((32, 1), (32, 2), (64, 1), (64, 2)):
        init = keras.initializers.HeNormal(seeds)
        x = layers.Conv2D(width, 3, stride, "same", use_bias=False, kernel_initializer=init)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
    x = layers.Dropout(0.3, seed=1)(layers.Flatten()(x))
    init = keras.initializers.HeNormal(seeds)
    features = layers.Dense(128, activation="relu", kernel_initializer=init, name="features")(x)
    x = layers.Dropout(0.3, seed=2)(features)
    logits = layers.Dense(classes, kernel_initializer=keras.initializers.HeNormal(seeds), name="logits")(x)
    return keras.Model(images, [features, logits], name="classifier")


def train_classifier(train: Labelled, epochs: int = EPOCHS) -> keras.Model:
    """Return a classifier trained on the training images."""
    data = batches((train.images, train.classes), min(BATCH_SIZE, len(train.images)), seed=0)
    _, _, size, channels = train.images.shape
    classifier = build_classifier(size, channels, int(train.classes.max()) + 1)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * data.steps_per_epoch)
    trained = keras.Model(classifier.input, classifier.output[1])
    trained.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stream = data.at(0).map(lambda images, classes: (from_uint8(images), classes))
    trained.fit(stream, epochs=epochs, steps_per_epoch=data.steps_per_epoch, shuffle=False, verbose=0)
    return classifier


def class_fractions(probabilities: np.ndarray) -> list[float]:
    """Return the fraction of images predicted as each class, from the probabilities [n, classes]."""
    return (np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(probabilities)).tolist()


# %% The benchmark

Scores = dict[str, dict[str, dict[str, float | int | str]]]
"""Scores, keyed by classifier, image set and name of the score."""

COLUMNS = {
    "samples": "samples",
    "real_images": "real images",
    "frechet_distance": "Frechet distance",
    "kernel_distance": "kernel distance",
    "confidence": "confidence",
    "rarest_class_fraction": "rarest class",
}


def measure(
    data: Path,
    run: Path,
    samples: int = 10_000,
    output_dir: Path = Path("runs/benchmark-dcgan"),
    epochs: int = EPOCHS,
    keep: int = 0,
) -> Scores:
    """Print tables of scores, write the scores to `output_dir`, and return them.

    Args:
        data: an .npz file with x_train, y_train, x_test and y_test.
        run: the folder of a finished run.
        samples: the number of images to generate.
        output_dir: the folder for results.json and classifier.keras.
        epochs: the number of training epochs of the classifier.
        keep: images that the discriminator keeps of every 100 generated ones; 0: as in the run.

    Raises:
        InputError: the data or the run cannot be used.
    """
    trained = Run.load(run, "dcgan", Config)
    config, generator = trained.config, trained.network("generator")
    keep = keep or config.keep
    discriminator = trained.network("discriminator") if keep < 100 else None
    if samples < 2:
        raise InputError(f"--samples must be at least 2, got {samples}")
    train, test = labelled_images(data, config)
    seconds: dict[str, float] = {}
    with timed("training", seconds):
        classifier = train_classifier(train, epochs)
    trained_here = output_dir / "classifier.keras"
    with replacing(trained_here) as temporary:
        classifier.save(temporary)
    right = classifier_features(classifier, test.images)[1].argmax(1) == test.classes
    accuracy = float(right.mean())
    with timed("generating", seconds):
        fakes = generate(generator, samples, 1, discriminator, keep)

    # Shuffle, because the two halves of MNIST's test set differ.
    shuffled = test.images[np.random.default_rng(0).permutation(len(test.images))]
    half = min(len(shuffled) // 2, samples)
    one, other = shuffled[:half], shuffled[half : 2 * half]
    sets = {
        "samples, all test images": (test.images, fakes),
        "samples, random test images": (one, fakes[:half]),
        "two random sets of test images": (one, other),
    }
    scorers = {"classifier of this data set": trained_here}
    try:
        scorers["bundled classifier"] = data_file("digit_classifier.keras")
    except InputError as error:
        print(f"skipping the bundled classifier: {error}", file=sys.stderr)
    with timed("scoring", seconds):
        scores = {
            scorer: {name: sample_scores(path, real, fake) for name, (real, fake) in sets.items()}
            for scorer, path in scorers.items()
        }
        images = {"samples": fakes, "test images": test.images}
        fractions = {name: class_fractions(classifier_features(classifier, each)[1]) for name, each in images.items()}
    facts = {
        "data": str(data),
        "run": str(run),
        "keep": keep,
        "epochs": epochs,
        "classifier_test_accuracy": accuracy,
    }
    write_json(output_dir / "results.json", facts | seconds | {"scores": scores, "class_fractions": fractions})
    text = tables(scores, fractions)
    print(f"Test accuracy of the classifier of this data set: {accuracy:.4f}\n\n{text}")
    return scores


def tables(scores: Scores, fractions: dict[str, list[float]]) -> str:
    """Return one Markdown table of scores per classifier, and a table of class fractions."""
    found = [markdown_table(rows, COLUMNS, scorer) for scorer, rows in scores.items()]
    labels = [str(label) for label in range(len(fractions["samples"]))]
    by_label = {name: dict(zip(labels, values, strict=True)) for name, values in fractions.items()}
    return "\n\n".join([*found, markdown_table(by_label, {label: label for label in labels}, "fraction of class")])


if __name__ == "__main__":
    run_benchmark(measure)
