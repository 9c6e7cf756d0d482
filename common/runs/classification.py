"""Evaluate classifiers on test images, show their mistakes, and classify image files."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.labelled import Labelled, Split
from common.images.figures import DPI, LINE, QUIET, TEXT, Grid, Sheet, default_style, points, text_width
from common.images.reading import readable_images
from common.metrics.classification import classification_scores
from common.runs.run import Run
from common.system.console import tracked
from common.system.files import InputError, printable, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Classify = Callable[[np.ndarray], np.ndarray]
"""A function that maps images, uint8 [n, size, size, channels], to class probabilities, float32 [n, classes]."""


def evaluate_classifier(data: Labelled, classify: Classify, output_dir: Path | str) -> tuple[Path, dict[str, float]]:
    """Classify the test images, compute scores, and write a figure, `classified.png`.

    See `save_classification` for the figure. With more than NUMBERED_CLASSES classes, `confusion_matrix.png` shows a
    larger confusion matrix. The test images are read in batches of a few hundred, so memory use does not grow with
    their number.

    Args:
        data: labelled images; only the test split is used.
        classify: a function that returns class probabilities.
        output_dir: the folder for the figures.

    Returns:
        The path of `classified.png`, and the scores.
    """
    labels, output_dir = data.test.labels, Path(output_dir)
    probabilities = np.concatenate([classify(images) for images in data.test.in_order()])
    figure = save_classification(data.test, probabilities, data.classes, output_dir / "classified.png")
    if len(data.classes) > NUMBERED_CLASSES:
        save_confusion_matrix(labels, probabilities.argmax(1), data.classes, output_dir / "confusion_matrix.png")
    return figure, classification_scores(labels, probabilities, data.classes)


# %% The figure of a classifier

MARGIN, HEADING = 20, 30  # margin of the figure, and height of a heading, in pixels
COLUMNS, EXAMPLES, MISTAKES = 5, 10, 5  # images per row, and the largest numbers of examples and mistakes
SMALLEST_MATRIX, LARGER_MATRIX = 360, 430  # smallest sides of the confusion matrix with few and with many classes
LARGEST_CELL = 80  # largest side of a cell of the confusion matrix, in pixels
LARGEST_NAME = 190  # largest width of a class name next to the confusion matrix, in pixels
NUMBERED_CLASSES = 15  # with more classes, numbers in the cells would be too small to read


def save_classification(data: Split, probabilities: np.ndarray, classes: tuple[str, ...], path: Path) -> Path:
    """Write a figure with the accuracy, examples, the most confident mistakes, and the confusion matrix.

    The examples are the first images of each class, whether their predictions are right or wrong. The mistakes are the
    wrong predictions with the highest probability.

    Args:
        data: the test images and their labels.
        probabilities: class probabilities [n, classes].
        classes: the names of the classes.
        path: the PNG file to write.
    """
    labels, found = data.labels, probabilities.argmax(1)
    wrong = np.flatnonzero(found != labels)
    mistakes = wrong[np.argsort(-probabilities.max(1)[wrong], kind="stable")[:MISTAKES]]
    examples = first_of_each(labels, EXAMPLES)
    columns = max(3, min(COLUMNS, len(examples)))
    heading = f"Most confident of {len(wrong):,} mistakes" if len(wrong) > MISTAKES else "Mistakes"
    grids = {}
    for name, chosen in (("Examples", examples), (heading if len(wrong) else "No mistakes", mistakes)):
        images = list(data.images(chosen)) if len(chosen) else []
        captions = prediction_captions(labels[chosen], probabilities[chosen], classes)
        grids[name] = Grid(images, captions, columns, found[chosen] != labels[chosen])
    with default_style():
        left, top = 3 * MARGIN + next(iter(grids.values())).width, MARGIN + 50
        height = sum(HEADING + grid.height for grid in grids.values())
        matrix = MatrixDrawing(labels, found, classes, height)
        sheet = Sheet(left + matrix.width + MARGIN, top + max(height, matrix.height) + MARGIN)
        count = f"{len(labels):,} test image{'s' * (len(labels) > 1)}"
        title = f"Accuracy {100 * np.mean(found == labels):.1f} % on {count}"
        sheet.text(title, MARGIN, MARGIN, 24, fontweight="bold")
        matrix.draw(sheet, left, top)
        for name, grid in grids.items():
            sheet.text(name, MARGIN, top, width=grid.width, fontweight="bold")
            grid.draw(sheet, MARGIN, top + HEADING)
            top += HEADING + grid.height
        return sheet.save(path)


def first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of up to `count` examples, as equally as possible from all classes, sorted by class.

    They are the first examples of each class. If there are more than `count` classes, evenly spaced ones are used.
    """
    present = np.unique(labels)
    present = present[np.linspace(0, len(present) - 1, min(count, len(present))).astype(int)]
    members = [np.flatnonzero(labels == number) for number in present]
    in_turn = [int(each[turn]) for turn in range(count) for each in members if turn < len(each)][:count]
    return np.array(sorted(in_turn, key=lambda index: (labels[index], index)), int)


class MatrixDrawing:
    """The confusion matrix in the figure of a classifier, with a heading above it and class names around it.

    A cell shows how many of the images of a true class (row) are predicted as a class (column), in percent.
    """

    HEADING = "Confusion matrix (% of each true class)"

    def __init__(self, labels: np.ndarray, found: np.ndarray, classes: tuple[str, ...], space: float) -> None:
        """Lay out the matrix, so that its height with heading and class names is about `space` pixels."""
        self.percent, count = confusion_percent(labels, found, len(classes)), len(classes)
        ruler = Sheet(100, 100)
        names = [ruler.text(name, 0, 0, width=LARGEST_NAME if count <= NUMBERED_CLASSES else 130) for name in classes]
        self.names = [name.get_text() for name in names]
        longest = max(map(text_width, names))
        self.flat = count * (longest + 8) <= min(space, LARGEST_CELL * count)  # otherwise, names are rotated by 45°
        self.above, self.below = HEADING, (LINE if self.flat else 0.72 * longest + LINE) + LINE + 10
        smallest = SMALLEST_MATRIX if count <= NUMBERED_CLASSES else LARGER_MATRIX
        side = max(smallest, space - self.above - self.below)
        self.side = round(min(side, LARGEST_CELL * count))
        self.left = LINE + 8 + longest + 8
        self.width = max(self.left + self.side, text_width(ruler.text(self.HEADING, 0, 0, fontweight="bold")))
        self.height = self.above + self.side + self.below

    def draw(self, sheet: Sheet, left: float, top: float) -> None:
        """Draw the matrix with the corner of its heading at `left`, `top`."""
        sheet.text(self.HEADING, left, top, fontweight="bold")
        left, top, count = left + self.left, top + self.above, len(self.names)
        show_matrix(sheet.axes(left, top, self.side, self.side), self.percent, 15 if count <= 10 else 13)
        every = max(1, -(-LINE * count // self.side))  # the names of some classes only, if there are too many
        turned: dict[str, Any] = {
            "rotation": 0 if self.flat else 45,
            "rotation_mode": "anchor",
            "horizontalalignment": "center" if self.flat else "right",
        }
        for number in range(0, count, every):
            middle = (number + 0.5) * self.side / count
            sheet.text(
                self.names[number], left - 8, top + middle, verticalalignment="center", horizontalalignment="right"
            )
            sheet.text(self.names[number], left + middle, top + self.side + 6, **turned)
        options: dict[str, Any] = {"color": QUIET, "horizontalalignment": "center"}
        sheet.text("predicted class", left + self.side / 2, top + self.side + self.below - LINE, **options)
        place = left - self.left, top + self.side / 2
        sheet.text("true class", *place, rotation=90, **options | {"verticalalignment": "center"})


def confusion_percent(labels: np.ndarray, found: np.ndarray, count: int) -> np.ndarray:
    """Return the confusion matrix in percent of each true class, float64 [count, count]; 0 for a class without images.

    Row i and column j give the percentage of images of class i that are predicted as class j.
    """
    matrix = np.bincount(count * labels.astype(int) + found, minlength=count**2).reshape(count, count)
    return 100 * matrix / np.maximum(1, matrix.sum(1, keepdims=True))


def show_matrix(axes: Axes, percent: np.ndarray, size: float) -> None:
    """Show a confusion matrix in `axes`, with numbers of `size` pixels unless there are more than NUMBERED_CLASSES.

    A cell without images is empty. The colour is proportional to the square root of the percentage, so that rare
    mistakes are visible.
    """
    from matplotlib.colors import PowerNorm

    count = len(percent)
    axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, 0, 100), aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color="#b8c0cc", linewidth=points(1))
    if count > NUMBERED_CLASSES:
        return
    for border in np.arange(1, count) - 0.5:
        axes.axhline(border, color="white", linewidth=points(1))
        axes.axvline(border, color="white", linewidth=points(1))
    for (row, column), value in np.ndenumerate(percent):
        if value:
            text = "<1" if value < 0.5 else f"{value:.0f}"
            options: dict[str, Any] = {
                "color": "white" if value > 40 else TEXT,
                "fontsize": points(size),
                "fontfamily": "DejaVu Sans",
            }
            axes.text(column, row, text, ha="center", va="center", **options)


def save_confusion_matrix(labels: np.ndarray, found: np.ndarray, classes: tuple[str, ...], path: Path) -> Path:
    """Write a figure of the confusion matrix, large enough for the names of all classes.

    Args:
        labels: the true labels, integers [n].
        found: the predicted labels, integers [n].
        classes: the names of the classes.
        path: the PNG file to write.
    """
    with default_style():
        matrix = MatrixDrawing(labels, found, classes, max(500, 26 * len(classes)))
        sheet = Sheet(matrix.width + 2 * MARGIN, matrix.height + 2 * MARGIN)
        matrix.draw(sheet, MARGIN, MARGIN)
        return sheet.save(path)


# %% Grids of predictions


def save_classified(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], path: Path
) -> Path:
    """Write a grid of images. Captions show the predicted class, its probability, and the true class if it differs.

    Args:
        images: uint8 [n, height, width, 1 or 3].
        labels: the true labels, integers [n].
        probabilities: class probabilities [n, classes].
        classes: the names of the classes.
        path: the PNG file to write.
    """
    captions = prediction_captions(labels, probabilities, classes)
    columns = min(8, max(len(labels), 2))
    return save_captioned(list(images), captions, path, columns, probabilities.argmax(1) != labels)


def prediction_captions(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """Return captions with the predicted class and its probability, and a second line if the true class differs."""
    return [
        found_caption(one, classes) + (f"\ntrue: {classes[label]}" if one.argmax() != label else "")
        for one, label in zip(probabilities, labels, strict=True)
    ]


def found_caption(probabilities: np.ndarray, classes: tuple[str, ...]) -> str:
    """Return a caption with the most probable class and its probability, given an image's `probabilities` [classes]."""
    found = int(probabilities.argmax())
    return f"{classes[found]} {100 * probabilities[found]:.0f} %"


def save_captioned(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    path: Path,
    columns: int,
    emphasised: Sequence[bool] | np.ndarray = (),
    width: float = 1.0,
) -> Path:
    """Write a grid of images, each with a caption of one or more lines below it.

    Args:
        images: images, uint8 [height, width, 1 or 3].
        captions: one caption per image. Lines that are too long are shortened.
        path: the PNG file to write.
        columns: images per row.
        emphasised: one value per image; True makes the first line and the frame red. If empty, none is red.
        width: the width of a grid cell in inches (150 pixels per inch).
    """
    pitch = round(DPI * width)
    with default_style():
        grid = Grid(images, captions, columns, emphasised, pitch - 20 if pitch > 130 else pitch - 8, pitch)
        sheet = Sheet(grid.width + MARGIN, grid.height + MARGIN)
        grid.draw(sheet, MARGIN, MARGIN)
        return sheet.save(path)


# %% Image files


def classify_files(
    source: Path,
    run: Run,
    classify: Classify,
    top: int = 3,
    invert: bool = False,
    table: Path | None = None,
    skip_bad: bool = False,
) -> None:
    """Print the most probable classes of an image, or of every image in a folder.

    Each image is centre-cropped and resized to the size of the run's training images.

    Args:
        source: an image, or a folder of images.
        run: the run that trained the classifier. Its config defines the size and the channels of the images.
        classify: a function that returns class probabilities.
        top: number of classes to print per image, the most probable first.
        invert: invert the pixel values, for photos with a light background if the training images have a dark one.
        table: a CSV file to write, with the probability of every class.
        skip_bad: skip unreadable images in a folder, and list them.

    Raises:
        InputError: `source` is missing or cannot be read, or `top` is less than 1.
    """
    if top < 1:
        raise InputError(f"top must be 1 or more, got {top}")
    classes = run.classes
    paths = [source]
    if source.is_dir():
        paths = readable_images(source, run.image, skip_bad)
    rows = []
    for start in tracked(range(0, len(paths), 64), "classifying images", "batch"):
        some = paths[start : start + 64]
        rows += list(zip(some, classify(np.stack([run.image(path, invert) for path in some])), strict=True))
    if rows and len(rows[0][1]) != len(classes):
        counts = f"lists {len(classes)} classes, but the network has {len(rows[0][1])}"
        raise InputError(f"{run.folder / 'config.json'}: {counts}; restore this file, or train again")
    for path, probabilities in rows:
        best = np.argsort(-probabilities, kind="stable")[:top]
        print(printable(f"{path}  " + "  ".join(f"{classes[i]} {100 * probabilities[i]:.1f} %" for i in best)))
    if table is not None:
        with (
            replacing(table) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["file", *classes])
            writer.writerows([str(path), *(f"{value:.6f}" for value in values)] for path, values in rows)
        print(f"wrote {printable(table)}", file=sys.stderr)
