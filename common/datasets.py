"""The words that `--data` understands: drawn samples, folders, shards, .npz and idx files, sets of Keras and TFDS."""

from __future__ import annotations

import contextlib
import functools
import gzip
import math
import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.batches import Examples, as_they_are
from common.clothes import CLOTHES_CLASSES
from common.downloads import download
from common.errors import InputError, first_line
from common.files import check_npz, is_run, replacing
from common.images import (
    ImageFile,
    checked_images,
    colour_labels,
    crop_square,
    find_images,
    image_file,
    read_image,
    read_labels,
    resize_image,
    write_image,
)
from common.lazy import tf
from common.prepared_sets import prepared_set, sets_folder
from common.shards import open_shards

# %% Pairs of images


def image_pairs(
    data: str,
    size: int,
    sample: Callable[[], tuple[np.ndarray, np.ndarray]],
    classes: int = 0,
    swap: bool = False,
    skip_bad: bool = False,
    fetch: bool = False,
) -> Examples:
    """Return pairs (input, target), uint8 [size, size, 3] each.

    `data` is `sample` (what `sample` returns, a tenth held out), `tfds:NAME` (a set with an image and a
    segmentation map), or a folder in one of these layouts, directly or under train/ with test/ or val/ beside it:
    A/ and B/; trainA/ and trainB/; label/ and photo/ (input first); or one folder of pictures twice as wide as
    high, input on the left. Files pair by name. Without test/ or val/ the last tenth by name is held out. Or a folder
    of shards, written from such a folder.

    Args:
        sample: draws the recipe's own pairs, uint8 [n, size, size, 3] each, the first of them label maps.
        classes: above 0, inputs are maps of class numbers 0 to classes - 1, coloured here.
        swap: target to input instead.
        skip_bad: go on without files that cannot be read, naming them.
        fetch: a `tfds:` set may be downloaded.

    Raises:
        InputError: the folder has no such layout, files are unpaired or cannot be read, or nothing is held out.
    """
    if data == "sample":
        columns = sample()[::-1] if swap else sample()
        return _held_out_tenth(columns)._replace(label_maps=(not swap, swap))
    folder = _tfds_pairs_folder(data.removeprefix("tfds:"), fetch) if data.startswith("tfds:") else Path(data)
    label_maps = classes > 0 or data.startswith("tfds:")
    sides = (label_maps and not swap, label_maps and swap)
    shards = open_shards(folder)
    if shards is not None:
        shards.expect("pairs")
        if shards.about["label_classes"] != classes:
            raise InputError(f"{data}: written with --classes {shards.about['label_classes']}, not {classes}")

    def read_pair(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = (image_file(name) if shards is None else shards.picture(name) for name in names)
        left, right = sized_pair(first, second, size, classes, label_maps)
        return (right, left) if swap else (left, right)

    def decode(item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pair = tf.numpy_function(read_pair, [item], [tf.uint8, tf.uint8], stateful=False)
        return tuple(tf.ensure_shape(image, (size, size, 3)) for image in pair)

    if shards is not None:
        train, test = (shards.places[shards.parts == part] for part in (0, 1))
        side = shards.decoding(read_image, size, 3)

        def decode_sides(item: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return (side(item[1]), side(item[0])) if swap else (side(item[0]), side(item[1]))

        return Examples(train, test, decode_sides if shards.has_size(size) else decode, sides)
    kept = [checked_pairs(folder, pairs, classes, skip_bad) for pairs in find_pairs(folder)]
    names = [np.array([[str(path) for path in pair] for pair in pairs]) for pairs in kept]
    return Examples(names[0], names[1], decode, sides)


def sized_pair(
    first: ImageFile, second: ImageFile, size: int, classes: int, label_maps: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return both pictures of a pair, uint8 [size, size, 3]; the same file twice holds them side by side.

    With `classes` the first is a map of class numbers, which is coloured; label maps get no new colours.
    """
    if first == second:
        both = read_image(first)
        half = both.shape[1] // 2
        left, right = (resize_image(part, size, size) for part in (both[:, :half], both[:, half:]))
        return left, right
    left = colour_labels(read_labels(first, classes)) if classes else read_image(first)
    return resize_image(left, size, size, nearest=label_maps), resize_image(read_image(second), size, size)


def checked_pairs(
    folder: Path, pairs: list[tuple[Path, Path]], classes: int, skip_bad: bool
) -> list[tuple[Path, Path]]:
    """Return the pairs that can be read; see `checked_images`."""
    firsts = dict(pairs)
    one_file = {first for first, second in pairs if first == second}

    def read(path: Path) -> np.ndarray:
        image = read_labels(path, classes) if classes and path in firsts else read_image(path)
        if path in one_file and image.shape[1] != 2 * image.shape[0]:
            raise InputError(
                f"{path}: {image.shape[1]}x{image.shape[0]} px; a pair side by side is twice as wide as high"
            )
        return image

    paths = sorted({path for pair in pairs for path in pair})
    good = set(checked_images(paths, read, skip_bad)[0])
    kept = [pair for pair in pairs if set(pair) <= good]
    if not kept:
        raise InputError(f"{folder}: no pair is left after leaving out what cannot be read")
    return kept


PAIR_LAYOUTS = (
    "A/ and B/, trainA/ and trainB/, or label/ and photo/ with the same file names in both, or pictures twice as "
    "wide as high; directly or under train/ with test/ or val/ beside it"
)


def find_pairs(folder: Path) -> tuple[list[tuple[Path, Path]], list[tuple[Path, Path]]]:
    """Return the pairs of a folder to train on, and those held out; see `image_pairs`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; expected {PAIR_LAYOUTS}")
    found = {split: _pairs_of_split(folder, split) for split in ("train", "test", "val")}
    train = found["train"] or _pairs_of_split(folder, "")
    if not train:
        inside = ", ".join(sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())[:8]) or "nothing"
        raise InputError(f"{folder}: no image pairs here (found {inside}); expected {PAIR_LAYOUTS}")
    held_out = found["test"] or found["val"]
    if not held_out:
        if len(train) < 2:
            raise InputError(f"{folder}: one pair only; at least two are needed, since one is held out for scores")
        tenth = max(1, len(train) // 10)
        train, held_out = train[:-tenth], train[-tenth:]
    return train, held_out


def _pairs_of_split(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the pairs of one split ("" for the folder itself), sorted by name; empty where it has no known layout."""
    places = [(folder / split / a, folder / split / b) for a, b in (("A", "B"), ("label", "photo"))]
    for first, second in [*places, (folder / f"{split or 'train'}A", folder / f"{split or 'train'}B")]:
        if first.is_dir() and second.is_dir():
            return _by_name(first, second)
    try:
        wide = find_images(folder / split) if split else find_images(folder)
    except InputError:
        return []
    for path in wide:
        with contextlib.suppress(InputError):  # one that cannot be read is named when all are read
            height, width, _ = read_image(path).shape
            if width == 2 * height:
                return [(path, path) for path in wide]
    return []


def _by_name(first: Path, second: Path) -> list[tuple[Path, Path]]:
    sides: list[dict[str, Path]] = [{}, {}]
    for side, images in zip(sides, map(find_images, (first, second)), strict=True):
        for path in images:
            if side.setdefault(path.stem, path) is not path:
                raise InputError(f"{path} and {side[path.stem]} have the same name; a pair needs one of each side")
    lonely = sorted(sides[0].keys() ^ sides[1].keys())
    if lonely:
        owner = first if lonely[0] in sides[0] else second
        other = second if owner == first else first
        raise InputError(
            f"{owner}: {len(lonely)} unpaired, the first {lonely[0]!r}, which has no partner in {other}; "
            "a pair has the same name in both, whatever the suffix"
        )
    return [(path, sides[1][stem]) for stem, path in sorted(sides[0].items())]


# %% Images without labels


def images_of(
    data: str,
    size: int,
    channels: int,
    sample: Callable[[], np.ndarray],
    skip_bad: bool = False,
    fetch: bool = False,
) -> Examples:
    """Return images, uint8 [size, size, channels].

    `data` is `sample` (what `sample` returns, a tenth held out), `mnist`, `fashion_mnist`, `tfds:NAME`, an .npz
    with `x_train` and `x_test`, a folder with idx files, or a folder of pictures (in sub-folders too), or of shards
    with pictures, of which the centre square is taken and a tenth is held out.

    Raises:
        InputError: there is nothing of that kind, or something in it cannot be used.
    """
    if data == "sample":
        images = sample()
        if images.shape[-1] != channels:
            raise InputError(
                f"the embedded sample has {images.shape[-1]} channels, not {channels}: set --channels, or name --data"
            )
        return _held_out_tenth(images)
    shards = open_shards(data)
    if shards is not None:
        shards.expect("pictures", "classes", "faces", "domains")
        read = functools.partial(square_image, size=size, channels=channels)
        return _tenth_held_out(data, shards.places[:, 0], shards.decoding(read, size, channels))
    arrays = read_arrays(data, labels=False, fetch=fetch)
    if arrays is None:
        return _picture_folder(Path(data), size, channels, skip_bad)
    train, test = (sized_images(images, size, channels, data) for images in arrays.images)
    return Examples(train, test, as_they_are)


def _held_out_tenth(images: np.ndarray | tuple[np.ndarray, ...]) -> Examples:
    """Hold out every tenth of images, or of tuples of images, that lie in memory."""
    columns = images if isinstance(images, tuple) else (images,)
    held_out = np.arange(len(columns[0])) % 10 == 9
    train, test = (tuple(column[kept] for column in columns) for kept in (~held_out, held_out))
    if isinstance(images, tuple):
        return Examples(train, test, as_they_are)
    return Examples(train[0], test[0], as_they_are)


# %% Sets that are arrays


class Arrays(NamedTuple):
    """A data set that lies in memory: its training part, then its test part."""

    images: tuple[np.ndarray, np.ndarray]  # as they were stored
    labels: tuple[np.ndarray, ...] = ()  # as they were stored; empty where nobody asked
    names: tuple[str, ...] = ()  # of classes 0, 1, ..., where the set has them


def read_arrays(data: str, labels: bool, fetch: bool) -> Arrays | None:
    """Return the arrays that `data` names: `mnist`, `fashion_mnist`, `tfds:NAME`, an .npz, a folder of idx files.

    None where it names a folder of other files.

    Raises:
        InputError: there is nothing of that name, it is damaged, or it lacks labels that are asked for.
    """
    path = Path(data)
    if data in ("mnist", "fashion_mnist"):
        return _keras_arrays(data, labels, fetch)
    if data.startswith("tfds:"):
        return _tfds_arrays(data.removeprefix("tfds:"), labels, fetch)
    if path.suffix == ".npz":
        return npz_arrays(path, labels)
    if not path.is_dir():
        raise InputError(f"{data}: no such folder or .npz, and not one of sample, mnist, fashion_mnist, tfds:NAME")
    return _idx_arrays(path, labels) if any(path.glob("*-idx3-ubyte*")) else None


def sized_images(images: np.ndarray, size: int, channels: int, name: str) -> np.ndarray:
    """Bring uint8 [n, h, w] or [n, h, w, c] to [n, size, size, channels]; grey digits of 28 px to 32 get a margin."""
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(
            f"{name}: images are {images.dtype} {images.shape}; expected uint8 [n, h, w] or [n, h, w, 1 or 3]"
        )
    if images.shape[-1] == 3 and channels == 1:
        images = (images @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None]
    height, width = images.shape[1:3]
    margin = size - max(height, width)
    if height == width and 0 < margin <= 4 and margin % 2 == 0:
        images = np.pad(images, ((0, 0), (margin // 2,) * 2, (margin // 2,) * 2, (0, 0)))
    elif (height, width) != (size, size):
        images = np.stack([resize_image(crop_square(image), size, size) for image in images])
    return np.repeat(images, channels // images.shape[-1], axis=-1)


def npz_arrays(path: Path, labels: bool) -> Arrays:
    """Return the arrays of an .npz with x_train and x_test, with `labels` y_train and y_test; see `read_arrays`."""
    keys = ["x_train", "x_test"] + ["y_train", "y_test"] * labels
    found = npz_entries(path, keys, ["classes"] * labels)
    images = found["x_train"], found["x_test"]
    if not labels:
        return Arrays(images)
    return Arrays(images, (found["y_train"], found["y_test"]), tuple(map(str, found.get("classes", ()))))


def npz_entries(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return entries of an .npz that a user gave; those of `optional` as far as they are there.

    Raises:
        InputError: there is no such file, it cannot be read, or a required entry is missing.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: a folder, a device or a pipe; expected an .npz file")
    try:
        check_npz(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in required if key not in arrays]
            if missing:
                raise InputError(f"{path}: has {', '.join(arrays.files) or 'nothing'}, but not {' and '.join(missing)}")
            return {key: arrays[key] for key in (*required, *optional) if key in arrays}
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: its arrays do not fit into the memory that is free; make them smaller") from None
    except Exception as error:  # a damaged or odd file fails in many ways, and an encrypted one in yet another
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: not a readable .npz ({reason[:200]}); write it again with numpy.savez") from None


def _read_idx(path: Path) -> np.ndarray:
    """Read one idx file of unsigned bytes, gzipped or not (yann.lecun.com/exdb/mnist: magic 0x0000 08 dimensions)."""
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if zeros or kind != 8:
                raise ValueError("wrong magic number")
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            size = math.prod(shape)
            if size > path.stat().st_size * (1032 if path.suffix == ".gz" else 1):  # the most that gzip can compress
                raise ValueError(f"{size} values in a file of {path.stat().st_size} bytes")
            values = file.read(size + 1)  # no more than it says, whatever else is compressed in it
        if len(values) != size:
            raise ValueError(f"{len(values)} values or more, not {size}")
        return np.frombuffer(values, np.uint8).reshape(shape)
    except MemoryError:
        raise InputError(f"{path}: does not fit into the memory that is free") from None
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: not a whole idx file of unsigned bytes ({reason}); download it again") from None


def _idx_arrays(folder: Path, labels: bool, names: tuple[str, ...] = ()) -> Arrays:
    def file(words: tuple[str, ...], kind: str) -> Path:
        found = [path for path in sorted(folder.glob(f"*-{kind}-ubyte*")) if any(word in path.name for word in words)]
        if len(found) != 1:
            inside = ", ".join(path.name for path in sorted(folder.glob("*idx*")))
            raise InputError(f"{folder}: expected one {' or '.join(words)}…-{kind}-ubyte(.gz) file, found {inside}")
        return found[0]

    splits = (("train",), ("t10k", "test"))
    paths = [file(words, "idx3") for words in splits]
    images = [_read_idx(path) for path in paths]
    on_their_side = ["emnist" in path.name for path in paths]
    upright = [image.swapaxes(1, 2) if side else image for image, side in zip(images, on_their_side, strict=True)]
    if not labels:
        return Arrays((upright[0], upright[1]))
    classes = [_read_idx(file(words, "idx1")) for words in splits]
    return Arrays((upright[0], upright[1]), tuple(classes), names)


def _keras_arrays(name: str, labels: bool, fetch: bool) -> Arrays:
    """Read a set from where `keras.datasets` keeps it (KERAS_HOME, or ~/.keras), fetched there if allowed."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets"
    place = home / "mnist.npz" if name == "mnist" else home / "fashion-mnist"
    for file, checksum in KERAS_FILES[name].items():
        path = home / "mnist.npz" if name == "mnist" else place / file
        if path.exists():
            continue
        url = f"https://storage.googleapis.com/tensorflow/tf-keras-datasets/{file}"
        if not fetch:
            raise InputError(f"{name} is not on this machine ({path}): add --fetch, or put {url} there by hand")
        download(url, path, checksum)
    return npz_arrays(place, labels) if name == "mnist" else _idx_arrays(place, labels, CLOTHES_CLASSES)


KERAS_FILES = {
    "mnist": {"mnist.npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"},
    "fashion_mnist": {
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    },
}


def _picture_folder(folder: Path, size: int, channels: int, skip_bad: bool) -> Examples:
    good, _ = checked_images(pictures_below(folder), lambda path: read_image(path, channels), skip_bad)
    read = functools.partial(square_image, size=size, channels=channels)

    def decode(item: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(read, [item], tf.uint8, stateful=False)
        return tf.ensure_shape(image, (size, size, channels))

    return _tenth_held_out(str(folder), np.array([str(path) for path in good]), decode)


def _tenth_held_out(source: str, items: np.ndarray, decode: Callable[[tf.Tensor], tf.Tensor]) -> Examples:
    if len(items) < 2:
        raise InputError(f"{source}: one picture only; at least two are needed, since one is held out")
    held_out = np.arange(len(items)) % 10 == min(9, len(items) - 1)
    return Examples(items[~held_out], items[held_out], decode)


def pictures_below(folder: Path) -> list[Path]:
    """Return the pictures in a folder and its sub-folders. Raises InputError where there are none."""
    paths = [path for place in folders_below(folder) for path in images_or_none(place)]
    if not paths:
        raise InputError(f"{folder}: no pictures here or in its sub-folders (png, jpg, bmp, gif, webp, tif)")
    return paths


def folders_below(folder: Path) -> list[Path]:
    """Return a folder and its sub-folders, without those of runs: what they have written is not data."""
    below = sorted(path for path in folder.rglob("*") if path.is_dir())
    runs = {path for path in below if is_run(path)}
    return [folder, *(path for path in below if runs.isdisjoint([path, *path.parents]))]


def square_image(path: ImageFile | str | bytes, size: int, channels: int) -> np.ndarray:
    """Return the centre square of a picture, uint8 [size, size, channels]."""
    return resize_image(crop_square(read_image(image_file(path), channels)), size, size)


def images_or_none(folder: Path) -> list[Path]:
    """Return the pictures that lie in a folder itself, sorted by name; an empty list where there are none."""
    try:
        return find_images(folder)
    except InputError:
        return []


# %% TensorFlow Datasets


def tfds_builder(name: str, fetch: bool):
    """Return the builder of a set that lies on this machine, downloaded if allowed; otherwise no network is used."""
    folder = prepared_set(name)
    if folder is None and not fetch:
        raise InputError(f"tfds:{name} is not on this machine ({sets_folder()}): add --fetch to download it")
    import tensorflow_datasets as tfds

    if folder is not None:
        try:
            return tfds.builder_from_directory(folder)
        except Exception as error:  # what a disk holds may be damaged in many ways
            raise InputError(f"{folder}: not a prepared set ({first_line(error, 150)}); prepare it again") from None
    try:
        socket.getaddrinfo("storage.googleapis.com", 443)  # without a network the library tries for minutes
    except OSError as error:
        raise InputError(f"tfds:{name} could not be fetched ({error}): prepare it by hand in {sets_folder()}") from None
    try:
        builder = tfds.builder(name)
    except Exception as error:
        raise InputError(f"tfds:{name}: no such set in TensorFlow Datasets ({first_line(error)})") from None
    try:
        builder.download_and_prepare()
    except Exception as error:  # every set brings failures of its own
        raise InputError(
            f"tfds:{name} could not be fetched ({first_line(error, 150)}): prepare it by hand in {builder.data_dir}"
        ) from None
    return builder


def _tfds_arrays(name: str, labels: bool, fetch: bool) -> Arrays:
    builder = tfds_builder(name, fetch)
    features = builder.info.features
    splits = sorted(builder.info.splits, key=lambda split: ("train" not in split, "test" not in split, split))
    wanted = ["image"] + ["label"] * labels
    if any(key not in features for key in wanted) or len(splits) < 2:
        raise InputError(
            f"tfds:{name}: expected {' and '.join(wanted)} and two splits, found {', '.join(features)}, {splits}"
        )
    if None in features["image"].shape:
        raise InputError(f"tfds:{name}: its pictures differ in size; export them to a folder and give that")
    images, classes = [], []
    for split in splits[:2]:
        examples = list(builder.as_dataset(split=split).as_numpy_iterator())
        pictures = np.stack([example["image"] for example in examples])
        images.append(pictures.swapaxes(1, 2) if name.startswith("emnist") else pictures)
        if labels:
            classes.append(np.stack([example["label"] for example in examples]))
    if not labels:
        return Arrays((images[0], images[1]))
    return Arrays((images[0], images[1]), tuple(classes), tuple(getattr(features["label"], "names", ())))


TFDS_PAIRS = (("segmentation_label", "image_left"), ("segmentation_mask", "image"), ("label", "image"))


def _tfds_pairs_folder(name: str, fetch: bool) -> Path:
    """Write a segmentation set once as label/ and photo/ under its own folder, and return that folder.

    Class numbers are written as coloured maps, so that `classes` stays 0.
    """
    builder = tfds_builder(name, fetch)
    features = dict(builder.info.features)
    keys = next(
        (pair for pair in TFDS_PAIRS if all(len(getattr(features.get(key), "shape", ())) == 3 for key in pair)),
        None,
    )
    if keys is None:
        raise InputError(f"tfds:{name}: expected an image and a segmentation map, found {', '.join(features)}")
    folder = Path(builder.data_dir) / "pairs"
    done = folder / "complete"
    if not done.exists():
        for split in builder.info.splits:
            if split == "test" and "validation" in builder.info.splits:
                continue  # where there are both, as in Cityscapes, the test set's label maps are blank
            place = {"validation": "val"}.get(split, split)
            for number, example in enumerate(builder.as_dataset(split=split).as_numpy_iterator()):
                labels, photo = example[keys[0]], example[keys[1]]
                labels = colour_labels(labels[..., 0]) if labels.shape[-1] == 1 else labels
                write_image(labels, folder / place / "label" / f"{number:06d}.png")
                write_image(photo, folder / place / "photo" / f"{number:06d}.png")
        with replacing(done) as draft:
            draft.touch()
    return folder
