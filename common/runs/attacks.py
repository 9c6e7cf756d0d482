"""Attack classifiers: read images, measure accuracy under attack, and write adversarial images and figures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.arrays import images_or_none, read_arrays, sized_images
from common.data.class_folders import class_folders, split_folders
from common.data.datasets import square_image
from common.data.identity import difference, identities
from common.data.labelled import Split, class_number, labelled_images
from common.data.shards import open_shards
from common.data.synthetic import SET_CLASSES, Sample
from common.images.figures import (
    LINE,
    QUIET,
    RED,
    Sheet,
    default_style,
    new_figure,
    points,
    save_figure,
    write_caption,
)
from common.images.found import reported
from common.images.pixels import crop_square, resize_image
from common.images.reading import read_image
from common.images.writing import write_image
from common.runs.classification import MARGIN, Classify, first_of_each, found_caption, save_captioned
from common.runs.pretrained import Classifier
from common.system.console import Progress, say, tracked
from common.system.files import InputError, printable
from common.system.lazy import keras

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
CURVE_LEVELS = (0, 1, 2, 4, 8, 16, 25, 38, 64)  # attack strengths in 1/255; 25/255 is about 0.1

Attack = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""A function that attacks images: (uint8 images, integer labels, strength) -> attacked uint8 images.

The strength is the maximum change of a pixel value in 8-bit levels, from 1 to 255.
"""


def magnified(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the magnified difference as uint8. Mid-grey means no change, black or white the largest change."""
    change = after.astype(np.float32) - before
    return np.clip(np.round(127.5 + 127.5 * change / max(1.0, np.abs(change).max())), 0, 255).astype(np.uint8)


def image_to_attack(source: Path, classifier: Classifier, destination: Path) -> np.ndarray:
    """Read an image as uint8 [height, width, channels].

    If the classifier has a fixed input size, the image is centre-cropped and resized to this size.

    Raises:
        InputError: `source` cannot be read, or the format of `destination` is lossy.
    """
    if destination.suffix.lower() not in LOSSLESS_SUFFIXES:
        raise InputError(f"{destination}: this format may change the attacked pixels; use a name that ends in .png")
    if classifier.any_size:
        return read_image(source, classifier.channels)
    return square_image(source, classifier.size, classifier.channels)


def write_attacked(image: np.ndarray, square: np.ndarray, destination: Path) -> np.ndarray:
    """Replace the centre crop of an image with `square`, and write the image and the magnified change.

    The change is written to NAME_change.png. Return the image as read back from its file.
    """
    changed = image.copy()
    crop_square(changed)[:] = square
    write_image(changed, destination)
    again = read_image(destination, image.shape[-1])
    write_image(magnified(image, again), destination.with_name(f"{destination.stem}_change.png"))
    return again


def attack_image(
    attack: Attack, classify: Classify, classifier: Classifier, source: Path, levels: int, label: str, destination: Path
) -> str:
    """Attack the centre crop of an image file, and write the adversarial image.

    Two more images are written: NAME_change.png shows the magnified change, and NAME_strip.png shows the crop
    attacked at several strengths.

    Args:
        attack: the attack on the classifier.
        classify: a function that returns class probabilities.
        classifier: the attacked classifier.
        source: the image file.
        levels: the maximum change of a pixel value, in 8-bit levels.
        label: the true class of the image; if empty, the predicted class is used.
        destination: the output file, in PNG or another lossless format.

    Returns:
        Two lines of text: the predictions for `source` and for the written file.

    Raises:
        InputError: `source` cannot be read, `destination` has a lossy format, or the class does not exist.
    """
    classes, image = classifier.classes, image_to_attack(source, classifier, destination)
    square, shown = crop_square(image), sorted({1, 2, 4, 8, levels})
    number = class_number(label, classes) if label else int(classify(square[None]).argmax())
    strip = [square]
    for level in tracked(shown, "attacking", "image"):
        strip.append(attack(square[None], np.array([number]), level)[0])
    again = write_attacked(image, strip[1 + shown.index(levels)], destination)
    found = [classify(one[None])[0] for one in strip]
    captions = [f"{found_caption(one, classes)}\n{level}/255" for level, one in zip((0, *shown), found, strict=True)]
    other = [int(one.argmax()) != int(found[0].argmax()) for one in found]
    small = [resize_image(one, 320, 320) if len(one) > 320 else one for one in strip]
    path = destination.with_name(f"{destination.stem}_strip.png")
    save_captioned(small, captions, path, len(strip), other, 1.0 if len(square) < 100 else 1.7)
    after = classify(crop_square(again)[None])[0]
    return (
        f"{printable(source)}  {found_caption(found[0], classes)}\n"
        f"{printable(destination)}  {found_caption(after, classes)}, epsilon {levels}/255"
    )


def images_to_attack(
    data: str,
    classifier: Classifier,
    sample: Sample,
    names: tuple[str, ...] = (),
    skip_bad: bool = False,
    fetch: bool = False,
) -> Split:
    """Return labelled images that a classifier was not trained on: the test split, or all images of another folder.

    Args:
        data: see `labelled_images`. If empty, the test split of the classifier's training data is used. In another
            folder, the sub-folders must be named by class name or index. They need not cover all classes.
        classifier: the classifier.
        sample: see `labelled_images`.
        names: class names of the sample; not needed for a built-in data set.
        skip_bad: skip unreadable files, and list them.
        fetch: allow the download of a data set.

    Raises:
        InputError: see `labelled_images`; or the classes of the data do not match the classes of the classifier.
    """
    size, channels, classes = classifier.size, classifier.channels, classifier.classes
    folder, data = Path(data or classifier.data), data or classifier.data
    names = names or SET_CLASSES.get(str(sample), ())
    if data == "sample":
        _check_classes(data, names, classes)  # checked before the sample is generated
    elif _is_other_folder(data, classifier) and read_arrays(data, True, fetch) is None:
        with reported(data):
            parts, found_names = class_folders(folder, channels, skip_bad)
        splits = split_folders(folder)
        has_split = len(splits) > 1 or not images_or_none(splits.get("train", folder))  # else a class named "train"
        chosen = parts[1:] if "train" in splits and has_split else parts
        files, numbers = (np.concatenate(part) for part in zip(*chosen, strict=True))
        labels = np.array([class_number(name, classes) for name in found_names], np.int32)
        return Split(files, labels[numbers], functools.partial(square_image, size=size, channels=channels))
    found = labelled_images(data, size, channels, sample, skip_bad, fetch, names, seed=classifier.seed)
    _check_classes(data, found.classes, classes)
    test = found.test
    return test if test.read else test._replace(items=sized_images(test.items, size, channels, data))


def _is_other_folder(data: str, classifier: Classifier) -> bool:
    """Return whether `data` is a folder other than the classifier's training folder.

    The training folder is recognised even if it was moved. If its files have changed, a warning is printed.
    """
    if not Path(data).is_dir() or open_shards(data) is not None:
        return False
    identity = classifier.identity
    changed = difference(identity, identities({"data": data}).get("data", {})) if identity else ""
    if str(Path(data).resolve()) != classifier.data:
        return bool(changed) or not identity
    if changed:
        say(
            f"{data} has changed since the classifier was trained on it: {changed}; some of the attacked images may be "
            "training images"
        )
    return False


def _check_classes(data: str, found: tuple[str, ...], classes: tuple[str, ...]) -> None:
    if found != classes:
        raise InputError(
            f"{data}: has the classes {', '.join(found[:5])}, but the classifier has {', '.join(classes[:5])}; "
            "choose --data with the same classes in the same order"
        )


def evaluate_attacks(
    networks: Mapping[str, keras.Model],
    make_attack: Callable[[keras.Model, int], Attack],
    classify: Callable[[keras.Model, np.ndarray], np.ndarray],
    data: Split,
    curves: Path,
    *,
    examples: Path | None = None,
    classes: tuple[str, ...] = (),
    levels: int = 0,
    steps: Sequence[int] = (1, 10),
) -> dict[str, float]:
    """Measure the accuracy of networks under attack, and plot it against the attack strength.

    The strengths are `CURVE_LEVELS`; at 0 the images are unchanged. If the accuracy is much lower with ten steps than
    with one, the network is robust only against single-step attacks.

    Args:
        networks: the classifiers, by name.
        make_attack: a function that returns an attack, given a network and the number of attack steps. With one step,
            the attack changes each pixel by the strength, in a direction that does not depend on the strength.
        classify: a function that returns class probabilities, given a network and uint8 images.
        data: labelled images.
        curves: the PNG file for the plot.
        examples: the PNG file for a figure with adversarial images and the plot; see `save_attack_figure`. If None, it
            is not written.
        classes: class names for the figure.
        levels: the attack strength in the figure, in 8-bit levels.
        steps: the numbers of attack steps for which accuracy is measured.

    Returns:
        Accuracies, keyed by `NETWORK, N steps, LEVEL/255`.
    """
    data = data._replace(items=data.images(np.arange(len(data.labels))), read=None)
    work = sum(1 if count == 1 else count * len(CURVE_LEVELS) for count in steps)
    found: dict[str, list[float]] = {}
    one_step: dict[str, dict[int, np.ndarray]] = {}
    single: dict[str, tuple[Attack, Classify]] = {}  # the attacks of the figure; a second one would be compiled again
    with Progress("evaluating attacks", len(networks) * len(data.labels) * work, "attack step") as progress:
        for name, network in networks.items():
            predict = functools.partial(classify, network)
            for count in steps:
                attack = make_attack(network, count)
                right = right_under_attack(attack, predict, data, count, levels, progress)
                if count == 1:
                    one_step[name], single[name] = right, (attack, predict)
                accuracies = [float(right[level].mean()) for level in CURVE_LEVELS]
                found[f"{name}, {count} step{'s' * (count > 1)}"] = accuracies
    save_percent_curves(found, curves, "accuracy (%) against epsilon (1/255)", CURVE_LEVELS)
    if examples is not None:
        save_attack_figure(single, data, classes, levels, one_step, found, examples)
    return {
        f"{name}, {level}/255": accuracy
        for name, accuracies in found.items()
        for level, accuracy in zip(CURVE_LEVELS, accuracies, strict=True)
    }


def right_under_attack(
    attack: Attack, classify: Classify, data: Split, steps: int, levels: int, progress: Progress
) -> dict[int, np.ndarray]:
    """Return for each strength in `CURVE_LEVELS` whether each image is classified correctly, bool [n].

    With one step, the result also contains the strength `levels`, and the gradient is computed only once: the attack of
    a small strength is the strongest attack, clipped to the small strength.
    """
    strengths = sorted({*CURVE_LEVELS, levels}) if steps == 1 else CURVE_LEVELS
    right = {level: np.zeros(len(data.labels), bool) for level in strengths}
    for start in range(0, len(data.labels), 50):
        part = slice(start, start + 50)
        images, labels = data.items[part], data.labels[part]
        wide = images.astype(np.int16)
        strongest = attack(images, labels, 255) if steps == 1 else images
        for level in strengths:
            if steps == 1:
                attacked = np.clip(strongest, wide - level, wide + level).astype(np.uint8)
            else:
                attacked = attack(images, labels, level) if level else images
            right[level][part] = classify(attacked).argmax(1) == labels
            progress.update(0 if steps == 1 else steps * len(images))
        progress.update(len(images) if steps == 1 else 0)
    return right


TITLES = {"classifier": "Standard network", "robust": "Adversarially trained network"}
SHORT = {"classifier": "standard", "robust": "adversarially trained"}
IMAGES, SIDE, GAP = 3, 112, 32  # images in the figure of attacks, side of an image, and width of a sign, in pixels
ROW, PLOT = SIDE + LINE + 16, 420  # height of a row of images, and width of the plot, in pixels


def save_attack_figure(
    networks: Mapping[str, tuple[Attack, Classify]],
    data: Split,
    classes: tuple[str, ...],
    levels: int,
    right: Mapping[str, Mapping[int, np.ndarray]],
    curves: Mapping[str, Sequence[float]],
    path: Path,
) -> Path:
    """Write a figure of one-step attacks: for each network, original + change = adversarial image, and the accuracies.

    The images are the first ones that all networks classify correctly before the attack, of evenly spaced classes.

    Args:
        networks: the attack on each classifier and its class probabilities, by name.
        data: labelled images in memory.
        classes: the names of the classes.
        levels: the attack strength, in 8-bit levels.
        right: for each network and strength, whether each image is classified correctly under a one-step attack.
        curves: accuracies at `CURVE_LEVELS`, by name.
        path: the PNG file to write.
    """
    usable = np.flatnonzero(np.all([each[0] for each in right.values()], axis=0))
    usable = usable if len(usable) else np.arange(len(data.labels))
    chosen = usable[first_of_each(data.labels[usable], IMAGES)]
    block, left, top = 3 * SIDE + 2 * GAP + 2 * MARGIN, MARGIN, MARGIN + 50
    falls = [f"{100 * each[0].mean():.0f} % to {100 * each[levels].mean():.0f} %" for each in right.values()]
    title = f"FGSM within {levels}/255: accuracy falls from {', with adversarial training from '.join(falls)}"
    with default_style():
        width = 2 * MARGIN + len(networks) * block + 60 + PLOT
        sheet = Sheet(width, top + 26 + IMAGES * ROW + MARGIN)
        sheet.text(title, MARGIN, MARGIN, 22, sheet.width - 2 * MARGIN, fontweight="bold")
        for name, (attack, classify) in networks.items():
            sheet.text(TITLES.get(name, name), left, top, fontweight="bold")
            draw_attacks(sheet, left, top + 26, attack, classify, data, chosen, classes, levels)
            left += block
        sheet.text("Accuracy under attack", left + 60, top, fontweight="bold")
        axes = sheet.axes(left + 60, top + 36, PLOT, IMAGES * ROW - 60)
        named = {legend_name(name): values for name, values in curves.items()}
        draw_percent_curves(axes, named, "accuracy (%) against epsilon (1/255)", CURVE_LEVELS, points(15))
        axes.axvline(levels, color=QUIET, linestyle=":", linewidth=points(2))
        return sheet.save(path)


def legend_name(curve: str) -> str:
    """Return the name of a curve with a descriptive name of its network."""
    network, comma, steps = curve.partition(",")
    return f"{SHORT.get(network, network)}{comma}{steps}"


def draw_attacks(
    sheet: Sheet,
    left: float,
    top: float,
    attack: Attack,
    classify: Classify,
    data: Split,
    chosen: np.ndarray,
    classes: tuple[str, ...],
    levels: int,
) -> None:
    """Draw one row per image: original + magnified change = adversarial image, with predictions (red if wrong)."""
    images, labels, factor = data.items[chosen], data.labels[chosen], max(1, 127 // levels)
    attacked = attack(images, labels, levels)
    changes = np.clip(128 + factor * (attacked.astype(int) - images), 0, 255).astype(np.uint8)
    columns = {"original": images, f"change × {factor}": changes, "attacked": attacked}
    for column, (heading, batch) in enumerate(columns.items()):
        x = left + column * (SIDE + GAP)
        middle: dict[str, Any] = {"horizontalalignment": "center", "color": QUIET}
        sheet.text(heading, x + SIDE / 2, top, **middle)
        found = classify(batch)
        for number, image in enumerate(batch):
            y = top + 26 + number * ROW
            wrong = batch is attacked and found[number].argmax() != labels[number]
            sheet.image(image, x, y, SIDE, RED if wrong else "")
            if batch is not changes:
                caption = found_caption(found[number], classes)
                write_caption(sheet, caption, x + SIDE / 2, y + SIDE + 4, SIDE + GAP - 4, wrong)
            if column:
                sign = middle | {"verticalalignment": "center"}
                sheet.text("+" if column == 1 else "=", x - GAP / 2, y + SIDE / 2, 22, **sign)


def save_percent_curves(
    curves: Mapping[str, Sequence[float]], path: Path, axes_names: str, x_values: Sequence[int] | None = None
) -> Path:
    """Plot each entry of `curves` as a curve, in percent.

    Args:
        curves: for each curve name, fractions from 0 to 1.
        path: the PNG file to write.
        axes_names: the axis labels, as "Y against X".
        x_values: the x coordinates of the values; None: 1, 2, 3 and so on.
    """
    with default_style():
        figure = new_figure(7.0, 4.2)
        draw_percent_curves(figure.add_subplot(), curves, axes_names, x_values)
        return save_figure(figure, path)


LINE_STYLES = ("-", "--", "-.", ":")


def draw_percent_curves(
    axes: Axes,
    curves: Mapping[str, Sequence[float]],
    axes_names: str,
    x_values: Sequence[int] | None = None,
    size: float = 10,
) -> None:
    """Plot curves in `axes`; see `save_percent_curves`. `size` is the font size in points.

    Curves whose names are equal up to a comma, such as `A, 1 step` and `A, 10 steps`, have the same colour.
    """
    groups = [name.partition(",")[0] for name in curves]
    colours = list(dict.fromkeys(groups))
    for place, (name, values) in enumerate(curves.items()):
        x = x_values if x_values is not None else range(1, len(values) + 1)
        axes.plot(
            x,
            [100 * value for value in values],
            marker="o" if len(values) <= 20 else "",
            markersize=4,
            linestyle=LINE_STYLES[groups[:place].count(groups[place]) % len(LINE_STYLES)],
            color=f"C{colours.index(groups[place])}",
            label=name,
        )
    ylabel, _, xlabel = axes_names.partition(" against ")
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(-2, 102), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=size)
    axes.xaxis.label.set_fontsize(size)
    axes.yaxis.label.set_fontsize(size)
    for text in axes.legend(frameon=False, fontsize=size).get_texts():
        text.set_parse_math(False)
