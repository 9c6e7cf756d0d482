"""Read idx files, the format of MNIST and EMNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path

import numpy as np

from common.images.found import is_hidden
from common.system.files import InputError

IDX_IMAGES = re.compile(r"(.*?)(train|t10k|test)-images[-.]idx3-ubyte(\.gz)?")
SPLITS = (("train",), ("t10k", "test"))


def idx_sets(data: Path) -> dict[str, list[Path]]:
    """Return the files with images in a folder, by the prefix of their names; {} if there are none.

    EMNIST's folder holds six sets. `data` may also be one of them: the folder and the prefix, such as
    `gzip/emnist-letters`, or a file of the set.
    """
    folder, prefix = (data, None) if data.is_dir() else (data.parent, data.name)
    if not folder.is_dir():
        return {}
    if prefix is not None and (named := IDX_IMAGES.fullmatch(prefix)):
        prefix = named[1]
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        parts = None if is_hidden(path.name) else IDX_IMAGES.fullmatch(path.name)
        if parts and (prefix is None or parts[1].rstrip("-") == prefix.rstrip("-")):
            found.setdefault(parts[1], []).append(path)
    return found


def read_idx_set(
    data: Path, labels: bool, names: tuple[str, ...] = ()
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, ...], tuple[str, ...]]:
    """Return the images for training and testing, with `labels` also their labels, and the names of the classes.

    The images of EMNIST are stored transposed. The names of its classes are read from its mapping file.

    Raises:
        InputError: there are several sets, or a file is missing or damaged.
    """
    sets = idx_sets(data)
    folder = data if data.is_dir() else data.parent
    if len(sets) > 1:
        options = ", ".join(f"--data {folder / prefix.rstrip('-')}" for prefix in list(sets)[:6])
        raise InputError(f"{folder}: holds {len(sets)} sets; choose one: {options}")
    (prefix,) = sets

    def file(words: tuple[str, ...], kind: str) -> Path:
        found = [
            path
            for path in sorted(folder.glob(f"*[-.]{kind}-ubyte*"))
            if path.name.startswith(prefix) and any(path.name.startswith(prefix + word) for word in words)
        ]
        if len(found) != 1:
            inside = ", ".join(path.name for path in sorted(folder.glob("*idx*")))
            raise InputError(f"{folder}: expected one {' or '.join(words)}…-{kind}-ubyte(.gz) file, found {inside}")
        return found[0]

    paths = [file(words, "idx3") for words in SPLITS]
    train, test = (_read_idx(path) for path in paths)
    if "emnist" in prefix:
        train, test = train.swapaxes(1, 2), test.swapaxes(1, 2)
    if not labels:
        return (train, test), (), ()
    classes = tuple(_read_idx(file(words, "idx1")) for words in SPLITS)
    mapping = folder / f"{prefix}mapping.txt"
    if mapping.is_file() and not names:
        numbers, names = _mapping(mapping)
        known = np.array(numbers)
        if all(np.isin(part, known).all() for part in classes):  # else the reader reports the strange label
            classes = tuple(np.searchsorted(known, part).astype(np.int64) for part in classes)
    return (train, test), classes, names


def _mapping(path: Path) -> tuple[list[int], tuple[str, ...]]:
    """Return the labels and the names of the classes of EMNIST. A line has a label and the codes of its characters."""
    try:
        rows = [[int(cell) for cell in line.split()] for line in path.read_text(encoding="utf-8").splitlines() if line]
        named = sorted({row[0]: chr(row[1]) for row in rows}.items())
    except (ValueError, IndexError, OSError):
        raise InputError(f"{path}: expected lines with a label and a character code, such as `1 65`") from None
    return [number for number, _ in named], tuple(name for _, name in named)


def _read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes, plain or gzipped.

    yann.lecun.com/exdb/mnist describes the format. A file starts with 0x0000, 0x08 (unsigned byte) and the number of
    dimensions.
    """
    try:
        if not path.is_file():
            raise ValueError("not a regular file")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if zeros or kind != 8:
                raise ValueError("wrong magic number")
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            size = math.prod(shape)
            if size > path.stat().st_size * (1032 if path.suffix == ".gz" else 1):  # gzip's maximum compression
                raise ValueError(f"its header states {size} values, but the file has {path.stat().st_size} bytes")
            values = file.read(size + 1)  # a gzipped file may contain far more than its header states
        if len(values) != size:
            raise ValueError(f"expected {size} values, found {'more' if len(values) > size else len(values)}")
        return np.frombuffer(values, np.uint8).reshape(shape)
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory") from None
    except Exception as error:  # damaged files raise many kinds of exceptions
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: not a complete idx file of unsigned bytes ({reason}); download it again") from None
