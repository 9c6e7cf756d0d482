"""Attacked pictures: written so that nothing is lost, and shown beside what a classifier takes them for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.attacked import Attacked
from common.classification import found_caption, save_captioned
from common.errors import InputError, printable
from common.imagenet import Known
from common.images import crop_square, read_image, resize_image, write_image
from common.labelled import Split, class_number, square_image

LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def magnified(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return what changed, so that the largest change is black or white, and grey is none: uint8, of their shape."""
    change = after.astype(np.float32) - before
    return np.clip(np.round(127.5 + 127.5 * change / max(1.0, np.abs(change).max())), 0, 255).astype(np.uint8)


def save_attack_table(
    networks: Mapping[str, Attacked], data: Split, classes: tuple[str, ...], most: int, path: Path
) -> Path:
    """Write a picture of an image each of three classes, at five strengths up to `most` levels, a row a classifier.

    Each stands under the class found, in red where it is wrong.
    """
    levels = sorted({most * part // 4 for part in range(5)})
    images, captions, wrong = [], [], []
    for number in np.unique(data.labels)[:3]:
        image = data.images(np.flatnonzero(data.labels == number)[:1])
        for name, (attack, classify) in networks.items():
            row = np.concatenate([attack(image, np.array([number]), level) if level else image for level in levels])
            for level, one, found in zip(levels, row, classify(row), strict=True):
                images.append(one)
                captions.append(f"{f'{level}/255' if level else name}\n{found_caption(found, classes)}")
                wrong.append(int(found.argmax()) != number)
    return save_captioned(images, captions, path, len(levels), wrong)


def picture_to_attack(source: Path, known: Known, destination: Path) -> np.ndarray:
    """Return a picture as a classifier takes it, uint8 [height, width, channels]: whole, or at its size the centre.

    Raises:
        InputError: `source` cannot be read, or the format of `destination` would alter the picture.
    """
    if destination.suffix.lower() not in LOSSLESS_SUFFIXES:
        raise InputError(f"{destination}: this format may alter an attack; give a name that ends in .png")
    if known.any_size:
        return read_image(source, known.channels)
    return square_image(source, known.size, known.channels)


def write_attacked(image: np.ndarray, square: np.ndarray, destination: Path) -> np.ndarray:
    """Write a picture with another centre square, and beside it NAME_change.png; return the picture as read again."""
    changed = image.copy()
    crop_square(changed)[:] = square
    write_image(changed, destination)
    again = read_image(destination, image.shape[-1])
    write_image(magnified(image, again), destination.with_name(f"{destination.stem}_change.png"))
    return again


def attack_picture(network: Attacked, known: Known, source: Path, levels: int, label: str, destination: Path) -> str:
    """Attack the centre square of a picture, write it, and return what it is taken for before and after, in two lines.

    What is said of it afterwards is said of the file, read again. Beside it lie NAME_change.png, the change magnified,
    and NAME_strip.png, the square at several strengths.

    Args:
        network: the attack, and what is attacked.
        known: the same classifier.
        source: the picture.
        levels: of 255, by which a value may move.
        label: the class that the attack leads away from, or to; the one that is found where it is empty.
        destination: PNG, or another lossless format, for the whole picture.

    Raises:
        InputError: `source` cannot be read, `destination` is of another format, or there is no such class.
    """
    classes, image = known.classes, picture_to_attack(source, known, destination)
    square, shown = crop_square(image), sorted({1, 2, 4, 8, levels})
    number = class_number(label, classes) if label else int(network.classify(square[None]).argmax())
    strip = [square, *(network.attack(square[None], np.array([number]), level)[0] for level in shown)]
    again = write_attacked(image, strip[1 + shown.index(levels)], destination)
    found = [network.classify(one[None])[0] for one in strip]
    captions = [f"{level}/255\n{found_caption(one, classes)}" for level, one in zip((0, *shown), found, strict=True)]
    other = [int(one.argmax()) != int(found[0].argmax()) for one in found]
    small = [resize_image(one, 320, 320) if len(one) > 320 else one for one in strip]
    path = destination.with_name(f"{destination.stem}_strip.png")
    save_captioned(small, captions, path, len(strip), other, 1.45 if len(square) < 100 else 2.4)
    after = network.classify(crop_square(again)[None])[0]
    return (
        f"{printable(source)}  {found_caption(found[0], classes)}\n"
        f"{printable(destination)}  {found_caption(after, classes)}, epsilon {levels}/255"
    )
