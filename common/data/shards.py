"""Read images from TFRecord shards: a few large files instead of many small ones, with random access through an index.

`python -m recipes shards` (common.data.shard_writing) writes a folder with these files:

    index.json             metadata of the images, and the number of records, size and SHA-256 of each shard
    places.npz             shard and byte range of each image (24 bytes per image), kept in memory
    images-00000.tfrecord  records of `tf.train.Example`, which other programs can read

Images are read by position. Shuffling therefore covers the complete data set, a stream can start at any step, and
memory use depends only on the number of images.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.system.downloads import file_sha256
from common.system.files import InputError, read_npz
from common.system.lazy import tf

SHARD_FORMAT = "picture shards, version 1"  # the format field in index.json
OLD_LAYOUTS = {"pictures": "images"}  # layout names of earlier versions, and their current names


class StoredImage(NamedTuple):
    """An image inside a shard; see `ImageFile`."""

    shard: Path
    start: int  # offset of its first byte
    length: int  # in bytes

    def read_bytes(self) -> bytes:
        """Return the encoded image. Raises InputError if the shard cannot be read, or is truncated."""
        # Open the shard for each read: the number of open files is limited, and threads must not share a file object.
        try:
            with self.shard.open("rb", buffering=0) as file:
                file.seek(self.start)
                found = file.read(self.length)
        except OSError as error:
            raise InputError(f"{self}: {error.strerror}; restore this shard, or write all shards again") from None
        if len(found) != self.length:
            raise InputError(f"{self}: truncated; restore this shard, or write all shards again")
        return found

    def __str__(self) -> str:
        return f"{self.shard}, byte {self.start}"


class Shards(NamedTuple):
    """A folder of shards, with its index in memory."""

    folder: Path
    about: dict[str, Any]  # the contents of index.json
    places: np.ndarray  # positions, int64 [n, sides, 3]: shard, first byte, length; `sides` is 2 for pairs, else 1
    parts: np.ndarray  # split of each example, uint8 [n]: an index into about["parts"]
    labels: np.ndarray  # integer labels, int32 [n], or attributes, uint8 [n, attributes]

    def image(self, place: np.ndarray) -> StoredImage:
        """Return the image at the position `place`, int64 [3]."""
        shard, start, length = (int(number) for number in place)
        return StoredImage(self.folder / self.about["shards"][shard]["name"], start, length)

    def in_part(self, name: str) -> np.ndarray:
        """Return which examples are in a split, bool [n]; none if there is no such split."""
        names = list(self.about["parts"])
        return self.parts == names.index(name) if name in names else np.zeros(len(self.parts), bool)

    def has_size(self, size: int) -> bool:
        """Return whether all images are stored as colour PNG files of `size` x `size` pixels."""
        return self.about["size"] == size and not self.about["label_classes"]

    def reading(self, read: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        """Convert `read`, which takes an image file, to a function that takes a position, int64 [3]."""
        return lambda place: read(self.image(place))

    def decoding(
        self, read: Callable[..., np.ndarray], size: int | None, channels: int
    ) -> Callable[[tf.Tensor], tf.Tensor]:
        """Return a function for a tf.data graph: position int64 [3] -> image uint8 [size, size, channels].

        If `size` is None, `read` may return images of any size. Otherwise, colour images that are stored at this size
        are decoded by TensorFlow, without Python's global interpreter lock. The pixels are the same as with `read`.
        """
        as_written = size is not None and self.has_size(size) and channels == 3

        def content(place: np.ndarray) -> bytes:
            image = self.image(place)
            found = image.read_bytes()
            if not _is_whole_png(found, size or 0):
                problem = f"not a PNG of {size}x{size} px"
                raise InputError(f"{image}: {problem}; restore this shard, or write all shards again")
            return found

        def decode(item: tf.Tensor) -> tf.Tensor:
            if as_written:
                image = tf.io.decode_png(tf.numpy_function(content, [item], tf.string, stateful=False), channels)
            else:
                image = tf.numpy_function(self.reading(read), [item], tf.uint8, stateful=False)
            return tf.ensure_shape(image, (size, size, channels))

        return decode

    def expect(self, *layouts: str) -> None:
        """Raise InputError if the layout is not one of `layouts`."""
        if self.about["layout"] not in layouts:
            raise InputError(
                f"{self.folder}: has the layout {self.about['layout']}, expected {' or '.join(layouts)}; write the "
                "shards again with --layout"
            )


def open_shards(folder: str | Path) -> Shards | None:
    """Return the shards in a folder, or None if it contains none.

    Only the sizes of the shard files are compared with the index. `check_shards` also verifies the contents.

    Raises:
        InputError: the index is damaged, or a shard is missing or truncated.
    """
    folder = Path(folder)
    index = folder / "index.json"
    try:
        about = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    except (OSError, ValueError):
        about = {}
        if any(folder.glob("*-00000.tfrecord")):
            raise InputError(f"{index}: damaged; restore it, or write the shards again") from None
    if not isinstance(about, dict) or not str(about.get("format", "")).startswith("picture shards"):
        return None
    if about["format"] != SHARD_FORMAT:
        raise InputError(f"{index}: has format {about['format']!r}, expected {SHARD_FORMAT!r}; write the shards again")
    try:
        for shard in about["shards"]:
            path = folder / shard["name"]
            held = path.stat().st_size if path.is_file() else None
            if held != shard["bytes"]:
                found = "missing" if held is None else f"has {held} bytes, expected {shard['bytes']}"
                raise InputError(f"{path}: {found}; restore this shard, or write all shards again")
        about["layout"] = OLD_LAYOUTS.get(about["layout"], about["layout"])
        shards = Shards(folder, about, *_places(folder / "places.npz"))
        if not len(shards.places) == len(shards.parts) == len(shards.labels) == about["examples"]:
            found = f"{len(shards.places)} entries for {about['examples']} examples"
            raise InputError(f"{folder / 'places.npz'}: {found}; restore it, or write the shards again")
    except (KeyError, TypeError) as error:
        raise InputError(f"{index}: damaged ({error}); restore it, or write the shards again") from None
    return shards


def _places(path: Path) -> list[np.ndarray]:
    try:
        arrays = read_npz(path)
        return [arrays[name] for name in ("places", "parts", "labels")]
    except (InputError, KeyError):
        raise InputError(f"{path}: missing or damaged; restore it, or write the shards again") from None


def _is_whole_png(content: bytes, size: int) -> bool:
    """Return whether `content` is a complete PNG of `size` x `size` pixels.

    TensorFlow's decoder checks this too, but its error does not name the file.
    """
    start, right = 8, content[:8] == b"\x89PNG\r\n\x1a\n" and content[16:24] == struct.pack(">II", size, size)
    while start < len(content):
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        if content[end : end + 4] != zlib.crc32(content[start + 4 : end]).to_bytes(4, "big"):
            return False
        start = end + 4
    return right


def check_shards(folder: Path) -> Shards:
    """Verify all shards of a folder against the index, and return the shards.

    Raises:
        InputError: there are no shards, or the number of records or the checksum of a file differs from the index. The
            message contains the name of the first damaged file and the number of other damaged files.
    """
    shards = open_shards(folder)
    if shards is None:
        raise InputError(f"{folder}: no shards here (no index.json that lists shards); write them first")
    wrong = []
    for shard in shards.about["shards"]:
        path = folder / shard["name"]
        found = _records_in(path)
        if found != shard["records"]:
            wrong.append(f"{path}: {found} complete records, expected {shard['records']}")
        elif file_sha256(path) != shard["sha256"]:
            wrong.append(f"{path}: its SHA-256 differs from the index")
    if file_sha256(folder / "places.npz") != shards.about["places_sha256"]:
        wrong.append(f"{folder / 'places.npz'}: its SHA-256 differs from the index")
    if wrong:
        others = f" ({len(wrong) - 1} more files are damaged)" if wrong[1:] else ""
        raise InputError(f"{wrong[0]}{others}; restore the damaged files, or write all shards again")
    return shards


def _records_in(path: Path) -> int:
    """Count the complete records in a TFRecord file. The length of each record gives the position of the next one."""
    count, end, size = 0, 0, path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            end += struct.unpack("<Q", head)[0] + 16  # 16 bytes for the length and two checksums
            if end > size:
                break
            file.seek(end)
            count += 1
    return count
