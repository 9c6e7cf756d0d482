"""Attacks on classifiers, around the attack itself: 8 bits, which images, and how many are still classified right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.classification import Classify
from common.console import say
from common.datasets import images_or_none, read_arrays, sized_images
from common.errors import InputError
from common.figures import new_figure, save_figure
from common.identity import difference, identities
from common.imagenet import Known
from common.labelled import Split, class_folders, class_number, labelled_images, square_image
from common.lazy import keras
from common.shards import open_shards

CURVE_LEVELS = (0, 1, 2, 4, 8, 16, 25, 38, 64)  # of 255; 25 is 0.1, 64 just beyond 0.25


Attack = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Images uint8, class numbers, levels of 255 -> images uint8, of which no value moved by more levels."""


class Attacked(NamedTuple):
    """A classifier, and an attack on it."""

    attack: Attack
    classify: Classify


def in_parts(attack: Attack, at_once: int = 50) -> Attack:
    """Return an attack that takes `at_once` images at a time, since a gradient keeps every layer of all of them."""

    def attacked(images: np.ndarray, labels: np.ndarray, levels: int) -> np.ndarray:
        firsts = range(0, len(images), at_once)
        return np.concatenate([attack(images[n : n + at_once], labels[n : n + at_once], levels) for n in firsts])

    return attacked


def whole_levels(epsilon: float) -> int:
    """Return how many of the 255 levels of an 8-bit file an attack may move a value: epsilon's share, rounded down.

    Raises:
        InputError: that is less than one level, or more than all.
    """
    levels = int(epsilon * 255 + 1e-6) if 0 < epsilon <= 1 else 0  # a printed 0.007843137 is two levels
    if levels < 1:
        raise InputError(
            f"epsilon must be from 0.004 (1/255, one level of an 8-bit file) to 1 (from black to white), got {epsilon}"
        )
    return levels


def images_to_attack(
    data: str,
    known: Known,
    sample: Callable[[], tuple[np.ndarray, np.ndarray]],
    names: tuple[str, ...],
    skip_bad: bool = False,
    fetch: bool = False,
) -> Split:
    """Return images that a classifier has not learnt from: the test part or, of a folder without one, all.

    Args:
        data: as for `labelled_images`; where it is empty, what the classifier has learnt from, without that part. Of
            another folder the classes, some or all, are named as the classifier's, or numbered.
        known: the classifier.
        sample: as for `labelled_images`.
        names: of the sample's classes.
        skip_bad: go on without files that cannot be read, naming them.
        fetch: a set that is not on this machine may be downloaded.

    Raises:
        InputError: as `labelled_images`; or a class is none of the classifier's.
    """
    size, channels, classes = known.size, known.channels, known.classes
    folder, data = Path(data or known.data), data or known.data
    if data == "sample":
        _check_classes(data, names, classes)  # before it is drawn
    elif _is_other_folder(data, known) and read_arrays(data, True, fetch) is None:
        parts, found_names = class_folders(folder, channels, skip_bad)
        train = folder / "train"  # which may be a class of trains
        beside = any((folder / name).is_dir() for name in ("test", "val"))
        chosen = parts[1:] if train.is_dir() and (beside or not images_or_none(train)) else parts
        files, numbers = (np.concatenate(part) for part in zip(*chosen, strict=True))
        right = np.array([class_number(name, classes) for name in found_names], np.int32)
        return Split(files, right[numbers], functools.partial(square_image, size=size, channels=channels))
    found = labelled_images(data, size, channels, sample, skip_bad, fetch, names)
    _check_classes(data, found.classes, classes)
    test = found.test
    return test if test.read else test._replace(items=sized_images(test.items, size, channels, data))


def _is_other_folder(data: str, known: Known) -> bool:
    """Return whether `data` is a folder of files, and none that the classifier has learnt from, wherever it lay then.

    Says on standard error where it is that folder, and has changed.
    """
    if not Path(data).is_dir() or open_shards(data) is not None:
        return False
    changed = difference(known.identity, identities({"data": data}).get("data", {})) if known.identity else ""
    if str(Path(data).resolve()) != known.data:
        return bool(changed) or not known.identity
    if changed:
        say(
            f"{data} has changed since the classifier was trained on it: {changed}; its training images may be among "
            "the images that are attacked"
        )
    return False


def _check_classes(data: str, found: tuple[str, ...], classes: tuple[str, ...]) -> None:
    if found != classes:
        listed = f"{', '.join(found[:5])}, and the classifier's {', '.join(classes[:5])}"
        raise InputError(f"{data}: its classes are {listed}; they must be the same, so give other --data")


def accuracy_under_attack(
    attacked_by: Callable[[keras.Model, int], Attacked],
    networks: Mapping[str, keras.Model],
    data: Split,
    picture: Path,
    steps: Sequence[int] = (1, 10),
) -> dict[str, float]:
    """Return the share of images still classified right, by `NETWORK, N steps, LEVEL/255`, and draw it as curves.

    At each of CURVE_LEVELS; at 0 the images are as they were. At the same strength ten steps find more mistakes than
    one: a network that withstands one step only has learnt to mislead the attack.

    Args:
        attacked_by: returns the attack in so many steps on a network.
        networks: classifiers, by name.
        data: labelled images.
        picture: PNG to write.
        steps: of the attacks to try.
    """
    images, labels = data.images(np.arange(len(data.labels))), data.labels
    curves: dict[str, list[float]] = {}
    for name, network in networks.items():
        for count in steps:
            attack, classify = attacked_by(network, count)
            curve = curves[f"{name}, {count} step{'s' * (count > 1)}"] = []
            for level in CURVE_LEVELS:
                right = 0
                for start in range(0, len(images), 250):
                    some, known = images[start : start + 250], labels[start : start + 250]
                    right += int((classify(attack(some, known, level) if level else some).argmax(1) == known).sum())
                curve.append(right / len(images))
    what = "right, % of the images against epsilon, in levels of 255"
    save_percent_curves(curves, picture, what, CURVE_LEVELS)
    pairs = ((name, zip(CURVE_LEVELS, curve, strict=True)) for name, curve in curves.items())
    return {f"{name}, {level}/255": right for name, curve in pairs for level, right in curve}


def save_percent_curves(
    curves: Mapping[str, Sequence[float]], path: Path, what: str, places: Sequence[int] | None = None
) -> Path:
    """Write shares of 1 as a PNG with a line for each curve, in percent.

    Args:
        curves: values by name.
        path: PNG to write.
        what: the names of both axes, with `against` in between.
        places: where on the axis the values of a curve lie; without them at 1, 2, 3 and so on.
    """
    figure = new_figure(7.0, 4.2)
    axes = figure.add_subplot()
    for name, values in curves.items():
        marker = "o" if len(values) <= 20 else ""
        across = places if places is not None else range(1, len(values) + 1)
        axes.plot(across, [100 * value for value in values], marker=marker, markersize=4, label=name)
    ylabel, _, xlabel = what.partition(" against ")
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(-2, 102), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)
    return save_figure(figure, path)
