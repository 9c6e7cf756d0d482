"""Read arrays of images from .npz files, idx files, `keras.datasets` and TensorFlow Datasets."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.idx import idx_sets, read_idx_set
from common.data.prepared_sets import prepared_set, sets_folder
from common.images.pixels import crop_square, pad_to_least, resize_image
from common.images.reading import ALMOST_BLACK, find_images
from common.samples.clothes import CLOTHES_CLASSES
from common.samples.digits import DIGITS, sklearn_digits
from common.system.console import say
from common.system.downloads import download
from common.system.files import InputError, check_npz, cut, first_line, home_folder


class Arrays(NamedTuple):
    """A data set in memory. `images` and `labels` contain the training split, then the test split."""

    images: tuple[np.ndarray, np.ndarray]  # as stored
    labels: tuple[np.ndarray, ...] = ()  # as stored; empty if not requested
    names: tuple[str, ...] = ()  # class names in label order; empty if the data set has none


NAMED_SETS = ("mnist", "fashion_mnist", "sklearn_digits")
"""The data sets that `--data` selects by name, in addition to `sample`."""
NOT_PATHS = ("", "sample", "sketches", "streets", *NAMED_SETS)  # values of `--data` that name no file or folder


def read_arrays(data: str, labels: bool, fetch: bool) -> Arrays | None:
    """Return the arrays of a data set: a name in `NAMED_SETS`, `tfds:NAME`, an .npz file or a folder of idx files.

    Returns None for a folder without idx files.

    Raises:
        InputError: the data set does not exist, is damaged, or lacks the requested labels.
    """
    path = Path(data)
    if data == "sklearn_digits":
        return _every_fifth_for_test(*sklearn_digits(28), DIGITS)
    if data in NAMED_SETS:
        return _keras_arrays(data, labels, fetch)
    if data.startswith("tfds:"):
        return _tfds_arrays(data.removeprefix("tfds:"), labels, fetch)
    if path.suffix == ".npz":
        return npz_arrays(path, labels, split=True)
    if path.suffix == ".npy":
        return _npy_arrays(path, labels)
    if idx_sets(path):
        return Arrays(*read_idx_set(path, labels))
    if not path.is_dir():
        names = ", ".join(("sample", *NAMED_SETS, "tfds:NAME"))
        raise InputError(f"{data}: no such folder or .npz file; expected a path, or one of {names}")
    return None


def _every_fifth_for_test(images: np.ndarray, labels: np.ndarray | None, names: tuple[str, ...]) -> Arrays:
    test = np.arange(len(images)) % 5 == min(4, len(images) - 1)
    if labels is None or len(labels) != len(images):
        return Arrays((images[~test], images[test]), () if labels is None else (labels, labels[:0]), names)
    return Arrays((images[~test], images[test]), (labels[~test], labels[test]), names)


def sized_images(images: np.ndarray, size: int, channels: int, name: str, crop: bool = False) -> np.ndarray:
    """Convert images, uint8 [n, h, w] or [n, h, w, c], to [n, size, size, channels].

    Square images that are 2 or 4 pixels smaller than `size` are padded with black pixels. For example, MNIST images
    (28 px) are padded if `size` is 32. Other images are centre-cropped and resized if their size differs from `size`.
    With `crop`, images keep their own scale, and are only padded by reflection to at least `size` pixels per side.
    """
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        first = images.ndim == 4 and images.shape[1] in (1, 3)
        hint = "; the channels must be last: use np.moveaxis(images, 1, -1)" if first else ""
        raise InputError(
            f"{name}: images are {images.dtype} {images.shape}; expected uint8 [n, h, w] or [n, h, w, 1 or 3]{hint}"
        )
    if images.shape[-1] == 3 and channels == 1:
        images = (images @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None]
    height, width = images.shape[1:3]
    margin = size - max(height, width)
    if crop:
        images = np.stack([pad_to_least(image, size) for image in images])
    elif height == width and 0 < margin <= 4 and margin % 2 == 0:
        images = np.pad(images, ((0, 0), (margin // 2,) * 2, (margin // 2,) * 2, (0, 0)))
    elif (height, width) != (size, size):
        images = np.stack([resize_image(crop_square(image), size, size) for image in images])
    return np.repeat(images, channels // images.shape[-1], axis=-1)


def npz_arrays(path: Path, labels: bool, split: bool = False) -> Arrays:
    """Read x_train and x_test from an .npz file. With `labels`, also read y_train, y_test and `classes` (optional).

    With `split`, x_test and y_test may both be missing: every fifth image is then held out for testing.
    """
    keys = ["x_train", "x_test"] + ["y_train", "y_test"] * labels
    found = npz_entries(path, (), [*keys, "classes"])
    if split and "x_train" in found and not {"x_test", "y_test"} & found.keys():
        keys = [key for key in keys if "test" not in key]
    found = npz_entries(path, keys, ["classes"] * labels)
    names = tuple(map(str, found.get("classes", ())))
    if "x_test" not in found:
        (images,) = as_uint8(str(path), found["x_train"])
        return _every_fifth_for_test(images, found.get("y_train"), names)
    train, test = as_uint8(str(path), found["x_train"], found["x_test"])
    return Arrays((train, test), (found["y_train"], found["y_test"]) if labels else (), names)


def _npy_arrays(path: Path, labels: bool) -> Arrays:
    """Read an .npy file, an array of images. Every fifth image is held out for testing."""
    if labels:
        raise InputError(f"{path}: contains images without labels; write an .npz with x_train and y_train")
    try:
        if not path.is_file():
            raise ValueError("no such file")
        # If the header claims more data than the file has, mmap fails instead of allocating memory.
        stored = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # damaged files raise many kinds of exceptions
        raise InputError(f"{path}: not a readable .npy ({first_line(error)}); write it with numpy.save") from None
    if stored.ndim not in (3, 4) or len(stored) < 2:
        raise InputError(f"{path}: its shape is {list(stored.shape)}; expected images [n, height, width, channels]")
    (images,) = as_uint8(str(path), stored)
    return _every_fifth_for_test(images, None, ())


def as_uint8(name: str, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return arrays of images as uint8. All arrays must have the same range of values. A line says what is converted.

    Floats from 0 to 1 are multiplied by 255. Integers and floats from 0 to 255 are rounded, True becomes 255, and
    16-bit integers are divided by 257. Arrays that are uint8 already are not changed.

    Raises:
        InputError: the values have another range, such as -1 to 1, or are not finite.
    """
    for array in arrays:
        if array.ndim == 3 and array.shape[-1] <= 4 < len(array):
            shape = f"the shape {list(array.shape)} is that of one image"
            raise InputError(f"{name}: {shape}; expected images [n, height, width, channels]")
    kinds = {array.dtype for array in arrays if array.ndim in (3, 4) and array.size}
    if not kinds or any(kind.kind not in "biuf" for kind in kinds):
        return arrays
    filled = [array for array in arrays if array.size]
    least, most = min(array.min() for array in filled), max(array.max() for array in filled)
    if kinds == {np.dtype(np.uint8)}:
        if 0 < most < ALMOST_BLACK:
            say(f"{name}: images are uint8 from {least} to {most}, so they are almost black; expected 0 to 255")
        return arrays
    floats = any(kind.kind == "f" for kind in kinds)
    scale = 255 if most <= 1 and (floats or kinds == {np.dtype(bool)}) else 1 if most <= 255 else 1 / 257
    known = len(kinds) == 1 and least >= 0 and most <= (255 if floats else 65535)
    if not known or (scale < 1 and kinds != {np.dtype(np.uint16)}):
        found = f"{' and '.join(sorted(map(str, kinds)))} from {least:g} to {most:g}"
        found += "" if np.isfinite([least, most]).all() else " (they contain NaN or infinity)"
        raise InputError(f"{name}: images are {found}; expected uint8 from 0 to 255, or floats from 0 to 1")
    how = "divided by 257" if scale < 1 else "rounded" if scale == 1 else "multiplied by 255"
    how += ", so they are almost black" if 0 < most * scale < ALMOST_BLACK else ""
    say(f"{name}: images are {' and '.join(sorted(map(str, kinds)))} from {least:g} to {most:g}; they are {how}")
    return tuple(np.rint(array * np.float32(scale)).astype(np.uint8) for array in arrays)


def npz_entries(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return all `required` entries of an .npz file, and the `optional` entries that exist.

    Raises:
        InputError: the file is missing or cannot be read, or a required entry is missing.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is a folder, a device or a pipe; expected an .npz file")
    try:
        check_npz(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in required if key not in arrays]
            if missing:
                raise InputError(f"{path}: lacks {' and '.join(missing)}; found {', '.join(arrays.files) or 'nothing'}")
            return {key: arrays[key] for key in (*required, *optional) if key in arrays}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: its arrays do not fit into memory; use fewer or smaller images") from None
    except Exception as error:  # damaged and encrypted files raise many kinds of exceptions
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: not a readable .npz ({cut(reason, 200)}); write it again with numpy.savez") from None


def _keras_arrays(name: str, labels: bool, fetch: bool) -> Arrays:
    """Read a data set from Keras's cache (KERAS_HOME, or ~/.keras). With `fetch`, download missing files."""
    home = Path(os.environ.get("KERAS_HOME", home_folder() / ".keras")) / "datasets"
    source = home / "mnist.npz" if name == "mnist" else home / "fashion-mnist"
    for file, checksum in KERAS_FILES[name].items():
        path = home / "mnist.npz" if name == "mnist" else source / file
        if path.exists():
            continue
        url = f"https://storage.googleapis.com/tensorflow/tf-keras-datasets/{file}"
        if not fetch:
            raise InputError(f"{name} is not on this machine ({path}); add --fetch, or download {url} to this path")
        download(url, path, checksum)
    return npz_arrays(source, labels) if name == "mnist" else Arrays(*read_idx_set(source, labels, CLOTHES_CLASSES))


KERAS_FILES = {
    "mnist": {"mnist.npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"},
    "fashion_mnist": {
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    },
}


def images_or_none(folder: Path) -> list[Path]:
    """Return the image files in a folder (not in its sub-folders), sorted by name; an empty list if there are none."""
    try:
        return find_images(folder)
    except InputError:
        return []


# %% TensorFlow Datasets


def tfds_builder(name: str, fetch: bool):
    """Return the builder of a prepared data set.

    A missing data set is downloaded if `fetch` is True. If `fetch` is False, InputError is raised.
    """
    folder = prepared_set(name)
    if folder is None and not fetch:
        raise InputError(f"tfds:{name} is not on this machine ({sets_folder()}): add --fetch to download it")
    import tensorflow_datasets as tfds

    if folder is not None:
        try:
            return tfds.builder_from_directory(folder)
        except Exception as error:  # damaged data sets raise many kinds of exceptions
            raise InputError(f"{folder}: damaged data set ({first_line(error, 150)}); prepare it again") from None
    if not _is_manual(name):
        try:
            socket.getaddrinfo("storage.googleapis.com", 443)  # offline, the library would retry for minutes
        except OSError as error:
            raise InputError(
                f"tfds:{name}: download failed ({error}); prepare it yourself in {sets_folder()}"
            ) from None
    try:
        builder = tfds.builder(name)
    except Exception as error:
        raise InputError(f"tfds:{name}: no such data set in TensorFlow Datasets ({first_line(error)})") from None
    try:
        builder.download_and_prepare()
    except Exception as error:  # the exceptions depend on the data set
        raise InputError(
            f"tfds:{name}: download failed ({first_line(error, 150)}); prepare it yourself in {builder.data_dir}"
        ) from None
    return builder


def _is_manual(name: str) -> bool:
    """Return whether the files of a data set must be downloaded by hand. Preparing it then needs no network."""
    import tensorflow_datasets as tfds

    try:
        return bool(tfds.builder_cls(re.split("[/:]", name)[0]).MANUAL_DOWNLOAD_INSTRUCTIONS)
    except Exception:  # an unknown data set; `tfds.builder` reports it
        return False


EMNIST_NAMES = {  # the characters of the labels of TensorFlow Datasets' configurations, which have numbers as names
    "letters": "?ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "balanced": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",
    "bymerge": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",
    "byclass": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
}


def _tfds_arrays(name: str, labels: bool, fetch: bool) -> Arrays:
    builder = tfds_builder(name, fetch)
    features = builder.info.features
    splits = sorted(builder.info.splits, key=lambda split: ("train" not in split, "test" not in split, split))
    wanted = ["image"] + ["label"] * labels
    if any(key not in features for key in wanted):
        raise InputError(
            f"tfds:{name}: expected {' and '.join(wanted)}; "
            f"found {', '.join(features)} in the splits {', '.join(splits)}"
        )
    images, classes = [], []
    for split in splits[:2]:
        examples = list(builder.as_dataset(split=split).as_numpy_iterator())
        stacked = np.stack([example["image"] for example in examples])
        images.append(stacked.swapaxes(1, 2) if name.startswith("emnist") else stacked)
        if labels:
            classes.append(np.stack([example["label"] for example in examples]))
    names: tuple[str, ...] = tuple(getattr(features["label"], "names", ())) if labels else ()
    if labels and name.startswith("emnist"):
        names = tuple(EMNIST_NAMES.get(str(getattr(builder.builder_config, "name", "")), "")) or names
    if labels and names:  # labels may begin at 1, as in emnist/letters
        used = np.unique(np.concatenate(classes))
        if len(used) < len(names) and used[0] >= 0 and used[-1] < len(names):
            names = tuple(names[number] for number in used)
            classes = [np.searchsorted(used, part) for part in classes]
    if len(images) == 1:
        return _every_fifth_for_test(images[0], classes[0] if labels else None, names)
    return Arrays((images[0], images[1]), tuple(classes), names)
