"""What a classifier is judged by, and how it is shown: scores, pictures, and the classes of a user's own files."""

from __future__ import annotations

import csv
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from common.batches import Batches
from common.errors import InputError, printable
from common.figures import new_figure, save_figure
from common.files import replacing
from common.images import checked_images, find_images, from_uint8
from common.labelled import Labelled, square_image
from common.lazy import keras
from common.ranges import Range
from common.runs import read_classes

Classify = Callable[[np.ndarray], np.ndarray]
"""Images, uint8 [n, size, size, channels] -> probabilities, float32 [n, classes]."""


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the share of images whose most probable class is the right one, from probabilities or logits."""
    return float((probabilities.argmax(1) == labels).mean())


def fitted(classifier: keras.Model, data: Batches, steps: int, learning_rate: float) -> keras.Model:
    """Train a classifier on batches of uint8 images and their classes, as Keras does, and return it.

    Adam, with a rate that falls to 0 along a cosine. `classifier` takes images in [-1, 1] and returns logits.
    """
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.Adam(rate), loss)
    stream = data.at(0).take(steps).map(lambda images, labels: (from_uint8(images), labels))
    classifier.fit(stream, shuffle=False, verbose=0)
    return classifier


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Return the mean distance of accuracy from confidence, over bins of equal width weighted by their images.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3.

    Args:
        labels: class numbers [n].
        probabilities: [n, classes]; the confidence of an image is its highest.
        bins: of confidence, between 0 and 1, each closed above.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, right, bins) - np.bincount(places, confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def temperature_scale(margins: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor by which to multiply logits so that the labels are most likely: temperature scaling.

    Guo et al. 2017, arXiv:1706.04599, section 4.2; the factor is one over their temperature.

    Args:
        margins: logits [n, classes] of validation images.
        labels: their class numbers [n].
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_scale: float) -> float:
        return -float(np.mean(log_softmax(np.exp(log_scale) * margins, axis=1)[np.arange(len(labels)), labels]))

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5)).x))


def classification_scores(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Return the test accuracy, the calibration error, and each class's precision and recall (0 where undefined).

    Args:
        labels: class numbers [n].
        probabilities: [n, classes].
        classes: their names.
    """
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, _, _ = precision_recall_fscore_support(
        labels, probabilities.argmax(1), labels=np.arange(len(classes)), zero_division=0
    )
    scores = {
        "test_accuracy": accuracy(labels, probabilities),
        "expected_calibration_error": expected_calibration_error(labels, probabilities),
    }
    for number, name in enumerate(classes):
        scores |= {f"precision {name}": float(precision[number]), f"recall {name}": float(recall[number])}
    return scores


def judge(data: Labelled, classify: Classify, output_dir: Path) -> tuple[Path, dict[str, float]]:
    """Classify the test images, write three pictures, and return the first one's path and the scores.

    The pictures are `classified.png` (test images, evenly spaced, with the class found), `confusion_matrix.png` and
    `surest_mistakes.png`. Images are read a few hundred at a time.
    """
    probabilities = np.concatenate([classify(images) for images in data.test.in_order()])
    labels = data.test.labels
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")[:10]]
    spread = np.unique(np.linspace(0, len(labels) - 1, min(24, len(labels))).astype(int))
    picture = output_dir / "classified.png"
    for path, chosen in ((picture, spread), (output_dir / "surest_mistakes.png", surest)):
        save_classified(data.test.images(chosen) if len(chosen) else None, labels[chosen], probabilities[chosen],
                        data.classes, path)  # fmt: skip
    save_confusion_matrix(labels, probabilities.argmax(1), data.classes, output_dir / "confusion_matrix.png")
    return picture, classification_scores(labels, probabilities, data.classes)


def save_classified(
    images: np.ndarray | None, labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], path: Path
) -> Path:
    """Write a picture of images, each under the class found and its probability; the right one where it is another.

    Args:
        images: uint8 [n, height, width, 1 or 3], or None where there are none to show, which the picture then says.
        labels: the right class numbers [n].
        probabilities: [n, classes].
        classes: their names.
        path: PNG to write.
    """
    columns = min(8 if len(labels) > 10 else 5, max(len(labels), 2))
    if images is None:
        return save_captioned([], ["no mistakes"], path, columns)
    found = probabilities.argmax(1)
    captions = [
        f"{found_caption(one, classes)}\n{'' if number == label else f'is {classes[label]}'}"
        for one, number, label in zip(probabilities, found, labels, strict=True)
    ]
    return save_captioned(list(images), captions, path, columns, found != labels)


def found_caption(probabilities: np.ndarray, classes: tuple[str, ...]) -> str:
    """Return the most probable class and how probable it is, as text; `probabilities` [classes] are of one image."""
    found = int(probabilities.argmax())
    return f"{classes[found]} {100 * probabilities[found]:.0f} %"


def save_captioned(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    path: Path,
    columns: int,
    emphasised: Sequence[bool] | np.ndarray = (),
    width: float = 1.45,
) -> Path:
    """Write a picture of images, row by row, each under a caption of one or two lines.

    Args:
        images: uint8 [height, width, 1 or 3]; where there are fewer than captions, those stand alone.
        captions: as many, or more.
        path: PNG to write.
        columns: images in a row.
        emphasised: whose captions are red; none where it is empty.
        width: of an image, in inches at 110 pixels.
    """
    rows = max(1, -(-len(captions) // columns))
    figure = new_figure(width * columns, (width + 0.3) * rows)
    for place in range(rows * columns):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.axis("off")
        if place >= len(captions):
            continue
        if place >= len(images):
            axes.text(0, 0.5, captions[place], fontsize=12, parse_math=False)
            continue
        image = images[place]
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        red = len(emphasised) > 0 and emphasised[place]
        axes.set_title(captions[place], fontsize=8, color="#c1121f" if red else "black", pad=2, parse_math=False)
    return save_figure(figure, path)


def save_confusion_matrix(labels: np.ndarray, found: np.ndarray, classes: tuple[str, ...], path: Path) -> Path:
    """Write the share of each class's images (a row) that were given to each class (a column), as a picture."""
    side = max(5.0, 0.55 * len(classes) + 2)
    figure = new_figure(side, side)
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

    numbers = np.arange(len(classes))
    matrix = 100 * confusion_matrix(labels, found, labels=numbers, normalize="true")
    axes = figure.add_subplot()
    few = len(classes) <= 30  # more numbers than that cannot be read
    display = ConfusionMatrixDisplay(matrix, display_labels=classes)
    display.plot(include_values=few, cmap="Blues", ax=axes, colorbar=False, values_format=".0f", xticks_rotation=45)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    axes.set(xlabel="class found", ylabel="true class", title="Of each true class, % given to each class")
    return save_figure(figure, path)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What `classify` prints of the images it is given."""

    top: Annotated[int, Range(1, 100_000)] = 3  # classes an image, the most probable first
    invert: bool = False  # for dark things on a bright ground, where the training images are bright on dark
    table: Path | None = None  # a CSV file to write, with the probability of every class
    skip_bad: bool = False  # go on without images of a folder that cannot be read, naming them


def classify_files(source: Path, run: Path, classify: Classify, size: int, channels: int, shown: Shown) -> None:
    """Print the most probable classes of an image, or of every image of a folder, by their centre squares.

    Args:
        source: an image, or a folder of images.
        run: where the classes' names are.
        classify: gives the probabilities.
        size: pixels a side that `classify` takes.
        channels: 1 or 3, likewise.
        shown: what to print.

    Raises:
        InputError: `source` is missing or cannot be read, or `shown.top` is less than 1.
    """
    if shown.top < 1:
        raise InputError(f"top must be 1 or more, got {shown.top}")
    classes = read_classes(run)
    paths = [source]
    if source.is_dir():
        read = functools.partial(square_image, size=size, channels=channels)
        paths = checked_images(find_images(source), read, shown.skip_bad, smallest=1)[0]
    rows = []
    for start in range(0, len(paths), 256):
        some = paths[start : start + 256]
        images = np.stack([square_image(path, size, channels) for path in some])
        rows += list(zip(some, classify(255 - images if shown.invert else images), strict=True))
    if rows and len(rows[0][1]) != len(classes):
        counts = f"{len(classes)} classes for a network of {len(rows[0][1])}"
        raise InputError(f"{run / 'config.json'}: {counts}; restore it, or train again")
    for path, probabilities in rows:
        best = np.argsort(-probabilities, kind="stable")[: shown.top]
        print(printable(f"{path}  " + "  ".join(f"{classes[i]} {100 * probabilities[i]:.1f} %" for i in best)))
    if shown.table is not None:
        with (
            replacing(shown.table) as draft,
            draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["file", *classes])
            writer.writerows([str(path), *(f"{value:.6f}" for value in values)] for path, values in rows)
        print(f"wrote {printable(shown.table)}", file=sys.stderr)
