"""Writing a folder of pictures as shards: see common.shards for what they are and how they are read."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from common.attributes import celeba_image, listed_faces
from common.datasets import checked_pairs, find_pairs, pictures_below, sized_pair, square_image
from common.domains import domain_folders, domain_pictures
from common.downloads import file_sha256
from common.errors import InputError, first_line
from common.files import replacing_folder, write_json, write_npz
from common.images import checked_images, colour_labels, read_image, read_labels, resize_image
from common.labelled import listed_classes
from common.lazy import tf
from common.shards import SHARD_FORMAT, open_shards

SHARD_LAYOUTS = ("pairs", "classes", "faces", "domains", "pictures")


class Listing(NamedTuple):
    """The good files of a folder, in the order in which its recipe reads them."""

    files: list[tuple[Path, ...]]  # one a picture; two a pair, the same twice where they are side by side
    parts: np.ndarray  # uint8 [n], an index of `part_names`
    labels: np.ndarray  # as in `Shards`
    part_names: tuple[str, ...]
    classes: tuple[str, ...] = ()  # names of classes, attributes or domains
    celeba: bool = False


def write_shards(
    folder: Path,
    destination: Path,
    layout: str = "",
    size: int = 0,
    classes: int = 0,
    megabytes: float = 128,
    skip_bad: bool = False,
) -> Path:
    """Write a folder of pictures as shards into the new folder `destination`, and return it.

    Recipes take `destination` as `--data` where they take `folder`. Its examples are those of `folder`, in the same
    order and in the same parts, so that batches are the same too. Every picture is read once before, so that a bad one
    is found now. All is written beside `destination` and renamed at the end: what is stopped leaves nothing (a kill
    leaves a hidden folder, which the next try deletes).

    Files are kept byte by byte, so that any `size` can be had from them later, and nothing is lost. With `size` they
    become PNG of that size, which is what a recipe with this `--size` reads, bit for bit where it reads colour: large
    photos then take a fraction of the time to read, and of the disk.

    Args:
        folder: in a layout that `--data` understands, see SHARD_LAYOUTS; two people (face_swap) are none of them.
        destination: must not exist, or be an empty folder.
        layout: `pairs` for pix2pix; `classes` for classifiers and autoencoders; `faces`, with attributes, for vae_faces
            and dcgan_faces; `domains` for cyclegan; `pictures`, with sub-folders, for all that need no more. Where it
            is empty the first of these that fits, other than domains, which look like classes.
        size: pixels a side, 0 for files as they are. Of pairs each side is brought to it, else the centre square.
        classes: as `--classes` of pix2pix: above 0, inputs of pairs are maps of so many class numbers.
        megabytes: of 10^6 bytes, after which another shard begins.
        skip_bad: go on without files that cannot be read, naming them.

    Raises:
        InputError: the folder has no such layout, something in it cannot be used, or `destination` is there already.
        OSError: `destination` cannot be written.
    """
    if layout not in ("", *SHARD_LAYOUTS):
        raise InputError(f"{layout!r} is no layout; choose from {', '.join(SHARD_LAYOUTS)}")
    if size and not 8 <= size <= 4096:
        raise InputError(f"--size must be from 8 to 4096 pixels, or 0 for files as they are, got {size}")
    if not megabytes > 0:
        raise InputError(f"--megabytes must be above 0, got {megabytes}")
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise InputError(f"{destination}: is there already; choose another destination")
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give one that holds pictures")
    if open_shards(folder) is not None:
        raise InputError(f"{folder}: holds shards already; `--check` reads them through")
    layout = layout or fitting_layout(folder)
    if classes and layout != "pairs":
        raise InputError(f"--classes {classes} is for pairs with label maps, and {folder} holds {layout}")
    listing = LISTINGS[layout](folder, classes, skip_bad)
    prepare = functools.partial(_contents, size=size, classes=classes, celeba=listing.celeba)
    with replacing_folder(destination.absolute()) as draft:
        shards, places = _write_records(draft, folder, listing, prepare, megabytes * 1e6)
        arrays = write_npz(draft / "places.npz", {"places": places, "parts": listing.parts, "labels": listing.labels})
        counts = np.bincount(listing.parts, minlength=len(listing.part_names)).tolist()
        about = {
            "format": SHARD_FORMAT,
            "layout": layout,
            "examples": len(places),
            "parts": dict(zip(listing.part_names, counts, strict=True)),
            "classes": listing.classes,
            "size": size,
            "label_classes": classes,
            "celeba": listing.celeba,
            "places_sha256": file_sha256(arrays),
            "shards": shards,
        }
        write_json(draft / "index.json", about)
    return destination


# %% What is written


def fitting_layout(folder: Path) -> str:
    """Return the layout of a folder, by what lies in it; of two that fit the first of SHARD_LAYOUTS."""
    lists = ("list_attr_celeba.*", "Anno/list_attr_celeba.*", "CelebAMask-HQ-attribute-anno.*", "*.csv")
    if any(any(folder.glob(name)) for name in lists):
        return "faces"
    with contextlib.suppress(InputError):
        find_pairs(folder)
        return "pairs"
    with contextlib.suppress(InputError):
        if len(listed_classes(folder)[1]) > 1:
            return "classes"
    return "pictures"


def _list_pictures(folder: Path, classes: int, skip_bad: bool) -> Listing:
    good, _ = checked_images(pictures_below(folder), read_image, skip_bad)
    nothing = np.zeros(len(good), np.uint8)
    return Listing([(path,) for path in good], nothing, nothing.astype(np.int32), ("all",))


def _list_classes(folder: Path, classes: int, skip_bad: bool) -> Listing:
    numbered, names = listed_classes(folder)
    good = set(checked_images([path for part in numbered for path, _ in part], read_image, skip_bad)[0])
    kept = [(path, label, number) for number, part in enumerate(numbered) for path, label in part if path in good]
    paths, labels, parts = zip(*kept, strict=True)
    part_names = ("train", "test") if len(numbered) > 1 else ("all",)
    return Listing(
        [(path,) for path in paths], np.array(parts, np.uint8), np.array(labels, np.int32), part_names, names
    )


def _list_pairs(folder: Path, classes: int, skip_bad: bool) -> Listing:
    found = find_pairs(folder)
    colour_labels(np.arange(classes)[-1:])  # says so where there are too many
    train, test = (checked_pairs(folder, pairs, classes, skip_bad) for pairs in found)
    parts = np.repeat(np.arange(2, dtype=np.uint8), (len(train), len(test)))
    return Listing([*train, *test], parts, np.zeros(len(parts), np.int32), ("train", "test"))


def _list_domains(folder: Path, classes: int, skip_bad: bool) -> Listing:
    rows: list[tuple[Path, int, int]] = []
    named = domain_folders(folder)
    for number, (_, places) in enumerate(named):
        for part, place in enumerate(places):
            rows += [(path, part, number) for path in domain_pictures(place, skip_bad)]
    paths, parts, numbers = zip(*rows, strict=True)
    names = tuple(name for name, _ in named)
    labels = np.array(numbers, np.int32)
    return Listing([(path,) for path in paths], np.array(parts, np.uint8), labels, ("train", "test"), names)


def _list_faces(folder: Path, classes: int, skip_bad: bool) -> Listing:
    parts, names, celeba = listed_faces(folder, 3, skip_bad)
    files: list[tuple[Path, ...]] = [(Path(name),) for items, _ in parts for name in items]
    numbers = np.repeat(np.arange(len(parts), dtype=np.uint8), [len(items) for items, _ in parts])
    part_names = ("train", "validation", "test")[: len(parts)] if len(parts) > 1 else ("all",)
    return Listing(files, numbers, np.concatenate([labels for _, labels in parts]), part_names, names, celeba)


LISTINGS: dict[str, Callable[[Path, int, bool], Listing]] = {
    "pairs": _list_pairs,
    "classes": _list_classes,
    "faces": _list_faces,
    "domains": _list_domains,
    "pictures": _list_pictures,
}


def _contents(files: tuple[Path, ...], size: int, classes: int, celeba: bool) -> list[bytes]:
    """Return the bytes of an example's pictures: one, or the two of a pair that do not lie in one file."""
    if not size:
        return [path.read_bytes() for path in dict.fromkeys(files)]
    if len(files) == 1:
        return [_as_png((celeba_image if celeba else square_image)(files[0], size, 3))]
    first, second = files
    if classes and first == second:
        raise InputError(
            f"{first}: a map of class numbers beside its picture; keep the files as they are, without --size"
        )
    if classes:
        labels = resize_image(read_labels(first, classes), size, size, nearest=True)
        return [_as_png(labels), _as_png(resize_image(read_image(second), size, size))]
    return [_as_png(image) for image in sized_pair(first, second, size, classes=0, label_maps=False)]


def _as_png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


# %% Records


def _write_records(
    draft: Path, folder: Path, listing: Listing, prepare: Callable[[tuple[Path, ...]], list[bytes]], limit: float
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Write the shards; return what the index says of each, and the places int64 [n, sides, 3]."""
    shards: list[dict[str, Any]] = []
    places = np.zeros((len(listing.files), len(listing.files[0]), 3), np.int64)
    writer, end = None, 0
    try:
        for number, contents in enumerate(_prepared(listing.files, prepare, draft.name)):
            if writer is None or end >= limit:
                if writer is not None:
                    writer.close()
                shards.append({"name": f"pictures-{len(shards):05d}.tfrecord", "records": 0})
                writer, end = tf.io.TFRecordWriter(str(draft / shards[-1]["name"])), 0
            record = _record(folder, listing, number, contents)
            writer.write(record)
            # A record is its length and that number's checksum, 12 bytes; the data; and their checksum, 4 bytes.
            starts, behind = [], 0
            for content in contents:  # the features are sorted by name: input, then target
                starts.append(record.index(content, behind))
                behind = starts[-1] + len(content)
            sides = zip(starts, map(len, contents), strict=True)
            places[number] = [(len(shards) - 1, end + 12 + start, length) for start, length in sides]
            shards[-1]["records"] += 1
            end += len(record) + 16
        if writer is not None:
            writer.close()
    except tf.errors.OpError as error:
        raise OSError(f"{draft}: the shards could not be written ({first_line(error)})") from None
    for shard in shards:
        path = draft / shard["name"]
        shard |= {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    return shards, places


def _record(folder: Path, listing: Listing, number: int, contents: list[bytes]) -> bytes:
    """Return a serialized `tf.train.Example`: image, or input and target; name; part; label."""
    train = tf.train
    keys = ("image",) if len(contents) == 1 else ("input", "target")
    name = os.fsencode(listing.files[number][0].relative_to(folder).as_posix())
    texts = {**dict(zip(keys, contents, strict=True)), "name": name, "part": _part_name(listing, number)}
    feature = {key: train.Feature(bytes_list=train.BytesList(value=[text])) for key, text in texts.items()}
    feature["label"] = train.Feature(int64_list=train.Int64List(value=listing.labels[number].reshape(-1).tolist()))
    return train.Example(features=train.Features(feature=feature)).SerializeToString(deterministic=True)


def _part_name(listing: Listing, number: int) -> bytes:
    return listing.part_names[listing.parts[number]].encode()


def _prepared(
    files: list[tuple[Path, ...]], prepare: Callable[[tuple[Path, ...]], list[bytes]], name: str
) -> Iterator[list[bytes]]:
    """Yield the contents of the files, prepared in threads, some hundreds at a time."""
    from tqdm import tqdm

    quiet = len(files) <= 1000 or not sys.stderr.isatty()
    with ThreadPoolExecutor(os.cpu_count()) as threads, tqdm(total=len(files), desc=name, disable=quiet) as bar:
        for start in range(0, len(files), 256):
            some = files[start : start + 256]
            yield from threads.map(prepare, some)
            bar.update(len(some))
