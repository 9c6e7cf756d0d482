"""Scores of a DCGAN's samples by a classifier that learnt from the data which they should resemble.

A small convolutional network learns the classes of the training images. Then: is every class drawn (shares of classes),
is each sample taken for one class and no other (confidence), how far are the samples' features from those of the test
images (Frechet and kernel distance)? A distance means nothing by itself, so that of one half of the test images to the
other stands beside it. The classifier that the project ships, by which a run's own report scores, is asked too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import markdown_table, run_benchmark, timed
from common.batches import batches
from common.datasets import images_of
from common.errors import InputError
from common.files import data_file, replacing, write_json
from common.images import from_uint8
from common.lazy import keras
from common.runs import load_network, read_run
from common.scores import classifier_features, sample_scores
from recipes.dcgan import Config, generate, sample_digits

# %% Data


class Labelled(NamedTuple):
    """Images, uint8 [n, size, size, channels], and their classes, int64 [n]."""

    images: np.ndarray
    classes: np.ndarray


def labelled_images(data: Path, config: Config) -> tuple[Labelled, Labelled]:
    """Return the training and the test images of an .npz, at the size of a run.

    Raises:
        InputError: it lacks one of x_train, y_train, x_test and y_test, or they do not fit together.
    """
    if data.suffix != ".npz":
        raise InputError(f"{data}: not an .npz; give one with x_train, y_train, x_test and y_test")
    examples = images_of(str(data), config.size, config.channels, sample_digits)
    parts = []
    with np.load(data, allow_pickle=False) as arrays:
        for images, key in ((examples.train, "y_train"), (examples.test, "y_test")):
            if key not in arrays:
                raise InputError(f"{data}: has {', '.join(arrays.files)}, but not {key}")
            classes = arrays[key].reshape(-1)
            if classes.dtype.kind not in "iu" or len(classes) != len(images) or classes.min() < 0:
                found = f"{classes.dtype} {list(arrays[key].shape)} for {len(images)} images"
                raise InputError(f"{data}: {key} is {found}; expected as many class numbers from 0")
            parts.append(Labelled(np.asarray(images), classes.astype(np.int64)))
    train, test = parts
    if len(test.images) < 4:
        raise InputError(f"{data}: {len(test.images)} test images; at least 4 are needed, two to each half")
    if test.classes.max() > train.classes.max():
        raise InputError(f"{data}: class {test.classes.max()} is in y_test, but not in y_train")
    return train, test


# %% The classifier

EPOCHS = 4
BATCH_SIZE = 128
LEARNING_RATE = 2e-3  # falls to 0 along a cosine


def build_classifier(size: int, channels: int, classes: int) -> keras.Model:
    """Return one, untrained: [n, size, size, channels] in [-1, 1] -> features [n, 128] and logits [n, classes]."""
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
    """Return a classifier of the training images."""
    data = batches((train.images, train.classes), min(BATCH_SIZE, len(train.images)), seed=0)
    _, _, size, channels = train.images.shape
    classifier = build_classifier(size, channels, int(train.classes.max()) + 1)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * data.steps_per_epoch)
    trained = keras.Model(classifier.input, classifier.output[1])
    trained.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stream = data.at(0).map(lambda images, classes: (from_uint8(images), classes))
    trained.fit(stream, epochs=epochs, steps_per_epoch=data.steps_per_epoch, shuffle=False, verbose=0)
    return classifier


def class_shares(probabilities: np.ndarray) -> list[float]:
    """Return for every class the share of the rows of [n, classes] in which it is the likeliest."""
    return (np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(probabilities)).tolist()


# %% The benchmark

COLUMNS = {
    "samples": "samples",
    "real_images": "real images",
    "frechet_distance": "Frechet distance",
    "kernel_distance": "kernel distance",
    "confidence": "confidence",
    "rarest_class_share": "rarest class",
}


def measure(
    data: Path,
    run: Path,
    samples: int = 10_000,
    output_dir: Path = Path("runs/benchmark-dcgan"),
    epochs: int = EPOCHS,
) -> dict[str, dict[str, dict[str, float | int | str]]]:
    """Print tables of scores and leave them in `output_dir`; return the scores by classifier and by set.

    Args:
        data: an .npz with x_train, y_train, x_test and y_test.
        run: folder of a finished run.
        samples: how many are generated.
        output_dir: gets results.json and classifier.keras.
        epochs: of the classifier.

    Raises:
        InputError: the data or the run cannot be used.
    """
    config = read_run(run, "dcgan", Config)
    generator = load_network(run, "generator")
    if samples < 2:
        raise InputError(f"--samples {samples}: at least 2 are needed")
    train, test = labelled_images(data, config)
    seconds: dict[str, float] = {}
    with timed("training", seconds):
        classifier = train_classifier(train, epochs)
    own = output_dir / "classifier.keras"
    with replacing(own) as draft:
        classifier.save(draft)
    right = classifier_features(classifier, test.images)[1].argmax(1) == test.classes
    accuracy = float(right.mean())
    with timed("generating", seconds):
        fakes = generate(generator, samples, seed=1)

    shuffled = test.images[np.random.default_rng(0).permutation(len(test.images))]  # MNIST's own halves differ
    half = min(len(shuffled) // 2, samples)
    one, other = shuffled[:half], shuffled[half : 2 * half]
    sets = {
        "samples, to all test images": (test.images, fakes),
        "samples, to a random part": (one, fakes[:half]),
        "another part, to that part": (one, other),
    }
    scorers = {"classifier of this data": own}
    try:
        scorers["shipped classifier"] = data_file("digit_classifier.keras")
    except InputError as error:
        print(f"without the shipped classifier: {error}", file=sys.stderr)
    with timed("scoring", seconds):
        scores = {
            scorer: {name: sample_scores(path, real, fake) for name, (real, fake) in sets.items()}
            for scorer, path in scorers.items()
        }
        images = {"samples": fakes, "test images": test.images}
        shares = {name: class_shares(classifier_features(classifier, each)[1]) for name, each in images.items()}
    facts = {"data": str(data), "run": str(run), "epochs": epochs, "classifier_test_accuracy": accuracy}
    write_json(output_dir / "results.json", facts | seconds | {"scores": scores, "class_shares": shares})

    tables = [markdown_table(rows, COLUMNS, scorer) for scorer, rows in scores.items()]
    labels = [str(label) for label in range(len(shares["samples"]))]
    by_label = {name: dict(zip(labels, values, strict=True)) for name, values in shares.items()}
    tables.append(markdown_table(by_label, {label: label for label in labels}, "share of class"))
    print("\n\n".join([f"Test accuracy of the classifier of this data: {accuracy:.4f}", *tables]))
    return scores


if __name__ == "__main__":
    run_benchmark(measure)
