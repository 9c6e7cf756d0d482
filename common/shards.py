"""Pictures in a few large files instead of many small ones: TFRecord shards, read in any order by a small index.

A folder of shards, as `python -m recipes shards` writes it (common.shard_writing), holds

    index.json               what the pictures are, and of each shard its records, its bytes and its SHA-256
    places.npz               where each picture lies in its shard: 24 bytes a picture, all that is kept in memory
    pictures-00000.tfrecord  records of `tf.train.Example`, which other programs read as usual

Pictures are read by their place, so that a shuffle is one of the whole set, a stream can begin at any step as that of
a folder does, and memory does not grow with the number of steps, nor with the size of the pictures.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.downloads import file_sha256
from common.errors import InputError
from common.files import read_npz
from common.lazy import tf

SHARD_FORMAT = "picture shards, version 1"


class StoredPicture(NamedTuple):
    """A picture inside a shard, to be read as a file is; its text names it in messages."""

    shard: Path
    start: int  # of its bytes
    length: int

    def read_bytes(self) -> bytes:
        """Return the picture's bytes, as its file had them. Raises InputError where the shard does not hold them."""
        # Opened anew each time: hundreds of shards would come near the limit of open files, and threads share nothing.
        try:
            with self.shard.open("rb", buffering=0) as file:
                file.seek(self.start)
                found = file.read(self.length)
        except OSError as error:
            raise InputError(f"{self}: {error.strerror}; restore this shard, or write all again") from None
        if len(found) != self.length:
            raise InputError(f"{self}: cut short; restore this shard, or write all again")
        return found

    def __str__(self) -> str:
        return f"{self.shard}, byte {self.start}"


class Shards(NamedTuple):
    """An opened folder of shards."""

    folder: Path
    about: dict[str, Any]  # what index.json says
    places: np.ndarray  # int64 [n, sides, 3]: shard, first byte, bytes; two sides where examples are pairs
    parts: np.ndarray  # uint8 [n], an index of about["parts"]
    labels: np.ndarray  # class numbers int32 [n]; attributes uint8 [n, attributes]

    def picture(self, place: np.ndarray) -> StoredPicture:
        """Return the picture at a place, int64 [3]."""
        shard, start, length = (int(number) for number in place)
        return StoredPicture(self.folder / self.about["shards"][shard]["name"], start, length)

    def has_size(self, size: int) -> bool:
        """Return whether all pictures were brought to `size` when they were written, and are colour PNG."""
        return self.about["size"] == size and not self.about["label_classes"]

    def reading(self, read: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function of a place, int64 [3], that reads the picture there by `read`, a function of a file."""
        return lambda place: read(self.picture(place))

    def decoding(self, read: Callable[..., np.ndarray], size: int, channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
        """Return a place -> uint8 [size, size, channels], for a tf.data graph.

        Pictures that were written at this very size are PNG in colour, which TensorFlow decodes to the same pixels
        as `read`, outside of Python's lock.
        """
        as_written = self.has_size(size) and channels == 3

        def content(place: np.ndarray) -> bytes:
            picture = self.picture(place)
            found = picture.read_bytes()
            if not _is_whole_png(found, size):
                raise InputError(f"{picture}: no PNG of {size}x{size} px; restore this shard, or write all again")
            return found

        def decode(item: tf.Tensor) -> tf.Tensor:
            if as_written:
                image = tf.io.decode_png(tf.numpy_function(content, [item], tf.string, stateful=False), channels)
            else:
                image = tf.numpy_function(self.reading(read), [item], tf.uint8, stateful=False)
            return tf.ensure_shape(image, (size, size, channels))

        return decode

    def expect(self, *layouts: str) -> None:
        """Raise InputError where the layout is none of `layouts`."""
        if self.about["layout"] not in layouts:
            raise InputError(
                f"{self.folder}: shards of {self.about['layout']}; expected {' or '.join(layouts)}: write the folder "
                "again as such, with --layout"
            )


def open_shards(folder: str | Path) -> Shards | None:
    """Return the shards in a folder, or None where it holds none.

    The sizes of all files are compared with the index; `check_shards` reads them through.

    Raises:
        InputError: the index is damaged, or a shard is missing or has been cut short.
    """
    folder = Path(folder)
    index = folder / "index.json"
    try:
        about = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    except (OSError, ValueError):
        about = {}
        if any(folder.glob("pictures-*.tfrecord")):
            raise InputError(f"{index}: damaged; restore it, or write the shards again") from None
    if not isinstance(about, dict) or not str(about.get("format", "")).startswith("picture shards"):
        return None
    if about["format"] != SHARD_FORMAT:
        raise InputError(f"{index}: {about['format']}; this program reads {SHARD_FORMAT}: write the shards again")
    try:
        for shard in about["shards"]:
            path = folder / shard["name"]
            held = path.stat().st_size if path.is_file() else None
            if held != shard["bytes"]:
                found = "it is missing" if held is None else f"{held} bytes, not {shard['bytes']}"
                raise InputError(f"{path}: {found}; restore this shard, or write all again")
        shards = Shards(folder, about, *_places(folder / "places.npz"))
        if not len(shards.places) == len(shards.parts) == len(shards.labels) == about["examples"]:
            raise InputError(f"{folder / 'places.npz'}: {len(shards.places)} places for {about['examples']} examples")
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
    """Say whether this is a PNG of that size whose checksums are right: of others TensorFlow names no file."""
    place, right = 8, content[:8] == b"\x89PNG\r\n\x1a\n" and content[16:24] == struct.pack(">II", size, size)
    while place < len(content):
        behind = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if content[behind : behind + 4] != zlib.crc32(content[place + 4 : behind]).to_bytes(4, "big"):
            return False
        place = behind + 4
    return right


def check_shards(folder: Path) -> Shards:
    """Read all files of a folder of shards through, and return the shards.

    Raises:
        InputError: there are no shards, or the records or the checksum of a file are not those of the index; the
            message names the first such file and says how many others there are.
    """
    shards = open_shards(folder)
    if shards is None:
        raise InputError(f"{folder}: no shards here (there is no index.json of any); write some first")
    wrong = []
    for shard in shards.about["shards"]:
        path = folder / shard["name"]
        found = _records_in(path)
        if found != shard["records"]:
            wrong.append(f"{path}: {found} whole records, not {shard['records']}")
        elif file_sha256(path) != shard["sha256"]:
            wrong.append(f"{path}: its SHA-256 is not that of the index")
    if file_sha256(folder / "places.npz") != shards.about["places_sha256"]:
        wrong.append(f"{folder / 'places.npz'}: its SHA-256 is not that of the index")
    if wrong:
        others = f" ({len(wrong) - 1} more are damaged)" if wrong[1:] else ""
        raise InputError(f"{wrong[0]}{others}; restore what is damaged, or write all again")
    return shards


def _records_in(path: Path) -> int:
    """Return how many whole records a TFRecord file begins with, by their stated lengths."""
    count, end, size = 0, 0, path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            end += struct.unpack("<Q", head)[0] + 16  # beside its data, a record has a length and two checksums
            if end > size:
                break
            file.seek(end)
            count += 1
    return count
