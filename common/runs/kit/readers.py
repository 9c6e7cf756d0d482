"""Read images from folders, or from the sample data next to a copied recipe."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.runs.kit.data import Attributed, Domains, Examples, Labelled, Split
from common.runs.kit.files import InputError
from common.runs.kit.images import find_images, read_image, resize_image


def image_pairs(data: str, size: int, classes: int = 0, swap: bool = False) -> Examples:
    """Read image pairs, uint8 [n, size, size, 3] each, from `sample` or a folder. Without test/, hold out a tenth.

    The folder (or train/ and test/ in it) contains A/ and B/ with the same file names, or images twice as wide as high.
    """

    def find(folder: Path) -> list[tuple[Path, Path]]:
        sides = [{path.stem: path for path in find_images(folder / side)} for side in "AB"]
        if lonely := sorted(sides[0].keys() ^ sides[1].keys()):
            raise InputError(f"{folder}: {lonely[0]} is not in both A/ and B/")
        return [(path, sides[1][name]) for name, path in sides[0].items()] or [(x, x) for x in find_images(folder)]

    def read(pair: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
        left, right = read_image(pair[0], classes=classes), read_image(pair[1])
        if pair[0] is pair[1] and right.shape[1] != 2 * right.shape[0]:
            raise InputError(f"{pair[0]}: not twice as wide as high, so not a pair")
        left, right = np.split(right, 2, axis=1) if pair[0] is pair[1] else (left, right)
        return resize_image(left, size, size, smooth=classes == 0), resize_image(right, size, size)

    if data == "sample":
        arrays = [
            tf.image.resize(x, [size, size], "nearest").numpy()
            for x in [*np.load(Path(__file__).with_name("sample.npz")).values()][:2]
        ]
        held_out = np.arange(len(arrays[0])) % 10 == 9
    else:
        pairs, others = find(Path(data) / "train") or find(Path(data)), find(Path(data) / "test")
        if not pairs:
            raise InputError(f"{data}: no image pairs here; expected A/ and B/, or images twice as wide as high")
        arrays = [np.stack(side) for side in zip(*ThreadPoolExecutor().map(read, pairs + others), strict=True)]
        held_out = np.arange(len(pairs + others)) >= len(pairs) - (0 if others else max(1, len(pairs) // 10))
    way, label_maps = -1 if swap else 1, (classes > 0, False)
    train, test = (tuple(images[chosen] for images in arrays[::way]) for chosen in (~held_out, held_out))
    return Examples(train, test, label_maps[::way])


def images_of(data: str, size: int, channels: int) -> Examples:
    """Read images, uint8 [n, size, size, channels], from `sample` or a folder. 10 % are held out."""
    if data == "sample":
        images = np.load(Path(__file__).with_name("sample.npz"))["images"]
        images = tf.image.resize(images, [size, size], "nearest").numpy().repeat(channels // images.shape[3], 3)
    else:
        paths = [path for folder in (Path(data), *sorted(Path(data).rglob("*/"))) for path in find_images(folder)]
        images = np.stack([*ThreadPoolExecutor().map(lambda path: read_image(path, channels, size), paths)])
    held_out = np.arange(len(images)) % 10 == min(9, len(images) - 1)
    return Examples((images[~held_out],), (images[held_out],))


def labelled_images(
    data: str,
    size: int,
    channels: int,
    enlarge: bool = True,  # only with: enlarge=
    require_classes: bool = True,  # only with: require_classes=
) -> Labelled:
    """Read images and classes from `sample`, or from a folder (or its train/ and test/) with a sub-folder per class."""
    if data == "sample":
        images, labels, classes = np.load(Path(__file__).with_name("sample.npz")).values()
        # only with: enlarge=
        size = size if enlarge else images.shape[1]
        images = tf.image.resize(images, [size, size], "nearest").numpy().repeat(channels // images.shape[3], 3)
        test = np.arange(len(labels)) % 5 == 4
    else:
        folders = [path for path in (Path(data) / "train", Path(data) / "test") if path.is_dir()] or [Path(data)]
        classes = sorted(path.name for path in folders[0].glob("[!.]*/")) or ["."]
        items = [(path, k, x) for x in folders for k, name in enumerate(classes) for path in find_images(x / name)]
        images = np.stack([*ThreadPoolExecutor().map(lambda item: read_image(item[0], channels, size), items)])
        labels = np.array([k for _, k, _ in items], np.int32)
        test = np.array([folder != folders[0] for *_, folder in items])
        test = test if test.any() else np.arange(len(labels)) % 5 == min(4, len(labels) - 1)
    # only with: outputs=len(
    if len(classes) < 2:  # only without: require_classes=False
        raise InputError(f"{data}: expected a sub-folder of images for each of two or more classes")
    validation, rest = np.zeros(len(labels), bool), np.flatnonzero(~test)  # 10 % of each class are for validation
    validation[rest[np.argsort(labels[rest], kind="stable")[min(9, len(rest) - 1) :: 10]]] = True
    parts = [Split(images[chosen], labels[chosen]) for chosen in (~test & ~validation, validation, test)]
    return Labelled(parts[0], parts[1], parts[2], tuple(map(str, classes)))


def unpaired_images(data: str, size: int) -> Domains:
    """Read images of two domains from `sample`, or from a folder with trainA/, trainB/ and optional testA/, testB/."""
    if data == "sample":
        a, b, test_a, test_b = (
            tf.image.resize(x, [size, size], "nearest").numpy()
            for x in np.load(Path(__file__).with_name("sample.npz")).values()
        )
        return Domains(Examples((a,), (test_a,)), Examples((b,), (test_b,)), ("summer", "winter"))
    domains = []
    for side in "AB":
        train, test = (find_images(Path(data) / f"{part}{side}") for part in ("train", "test"))
        test = test or train[9::10] or train[-1:]  # without test folders, 10 % are held out
        parts = [path for path in train if path not in test], test
        images = [np.stack([read_image(path, 3, size) for path in part]) for part in parts]
        domains.append(Examples((images[0],), (images[1],)))
    return Domains(domains[0], domains[1])


def attributed_images(data: str, size: int, channels: int) -> Attributed:
    """Read faces and attributes from `sample`, or from a folder with images and a .csv file of the values 0 and 1."""
    if data == "sample":
        images, labels, names = np.load(Path(__file__).with_name("sample.npz")).values()
        images = tf.image.resize(images, [size, size], "nearest").numpy().repeat(channels // images.shape[3], 3)
    else:
        tables = [path.read_text().splitlines() for path in Path(data).glob("*.csv")]
        (_, *names), *rows = [line.split(",") for line in (tables or [["file", *map(str, find_images(Path(data)))]])[0]]
        paths = [Path(data) / name for name, *_ in rows]
        images = np.stack([*ThreadPoolExecutor().map(lambda path: read_image(path, channels, size), paths)])
        labels = np.array([[cell == "1" for cell in cells] for _, *cells in rows], np.uint8).reshape(len(rows), -1)
    test = np.arange(len(images)) % 5 == min(4, len(images) - 1)
    rest = np.flatnonzero(~test)  # 10 % of these are for validation
    alike = np.lexsort(labels[rest].T[::-1]) if labels.size else np.arange(len(rest))
    held_out = np.sort(rest[alike[min(9, len(rest) - 1) :: 10]])
    parts = [Split(images[chosen], labels[chosen]) for chosen in (np.setdiff1d(rest, held_out), held_out, test)]
    return Attributed(parts[0], parts[1], parts[2], tuple(map(str, names)))
