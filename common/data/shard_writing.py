"""Write a folder of images as shards. `common.data.shards` describes the format."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from common.data.attributes import listed_faces
from common.data.celeba import celeba_image
from common.data.class_folders import listed_classes, split_images
from common.data.datasets import square_image
from common.data.domains import domain_folders, domain_images
from common.data.pairs import checked_pairs, find_pairs, sized_pair
from common.data.shards import OLD_LAYOUTS, SHARD_FORMAT, open_shards
from common.images.found import reports_files
from common.images.pixels import colour_labels, resize_image
from common.images.reading import checked_images, read_image, read_labels
from common.system.console import Progress
from common.system.downloads import file_sha256
from common.system.files import InputError, first_line, replacing_folder, write_json, write_npz
from common.system.lazy import tf

SHARD_LAYOUTS = ("pairs", "classes", "faces", "domains", "images")


class Listing(NamedTuple):
    """The readable files of a folder, in the order in which recipes read them."""

    files: list[tuple[Path, ...]]  # one path per example, or two per pair (equal if one file contains both images)
    parts: np.ndarray  # split of each example, uint8 [n]: an index into `part_names`
    labels: np.ndarray  # as in `Shards`
    part_names: tuple[str, ...]
    classes: tuple[str, ...] = ()  # names of the classes, attributes or domains
    celeba: bool = False


@reports_files
def write_shards(
    folder: Path,
    destination: Path,
    layout: str = "",
    size: int = 0,
    classes: int = 0,
    megabytes: float = 128,
    skip_bad: bool = False,
) -> Path:
    """Write the images of a folder as shards to the new folder `destination`, and return `destination`.

    Every recipe that accepts `folder` as `--data` also accepts `destination`. Examples keep their order and their
    split, so both folders give the same batches. All images are read once before anything is written, so bad files are
    found early. The shards are written to a hidden folder next to `destination`, and this folder is renamed at the end.
    If writing is interrupted, the hidden folder is deleted. If the process is killed, the next call deletes it.

    By default, files are stored unchanged, so recipes can read them at any `--size`. With `size`, images are stored as
    PNG files of that size. For large photos, this saves most of the reading time and disk space. A recipe with the same
    `--size` gets the same pixels from the shards as from the folder; greyscale pixels may differ slightly.

    Args:
        folder: a folder of images with one of the SHARD_LAYOUTS. The layout of face_swap (two people) is not supported.
        destination: a folder that does not exist yet, or is empty.
        layout: `pairs` for pix2pix; `classes` for classifiers and autoencoders; `faces`, with attributes, for vae_faces
            and dcgan_faces; `domains` for cyclegan; `images`, including sub-folders, for recipes that need no labels.
            By default, the layout is detected. `domains` is never detected, because its folders look like `classes`.
        size: height and width of the stored images in pixels; 0 stores the files unchanged. Pairs are resized; other
            images are centre-cropped and resized.
        classes: number of classes, as in `--classes` of pix2pix. If above 0, the inputs of pairs are label maps with
            the integers 0 to classes - 1.
        megabytes: shard size in MB (10^6 bytes) at which a new shard is started.
        skip_bad: skip files that cannot be read, and list them.

    Raises:
        InputError: the folder does not have this layout, a file in it cannot be used, or `destination` is not empty.
        OSError: `destination` cannot be written.
    """
    layout = OLD_LAYOUTS.get(layout, layout)
    if layout not in ("", *SHARD_LAYOUTS):
        raise InputError(f"{layout!r} is not a layout; choose from {', '.join(SHARD_LAYOUTS)}")
    if size and not 8 <= size <= 4096:
        raise InputError(f"--size must be from 8 to 4096 pixels, or 0 for unchanged files, got {size}")
    if not megabytes > 0:
        raise InputError(f"--megabytes must be above 0, got {megabytes}")
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise InputError(f"{destination}: already exists; choose another destination")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of images")
    if open_shards(folder) is not None:
        raise InputError(f"{folder}: already contains shards; use --check to verify them")
    layout = layout or fitting_layout(folder)
    if classes and layout != "pairs":
        raise InputError(f"--classes {classes} requires pairs with label maps, but {folder} has the layout {layout}")
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


# %% Listing


def fitting_layout(folder: Path) -> str:
    """Return the first layout that fits the contents of a folder; try `faces`, `pairs` and `classes`, then `images`."""
    lists = ("list_attr_celeba.*", "Anno/list_attr_celeba.*", "CelebAMask-HQ-attribute-anno.*", "*.csv")
    if any(any(folder.glob(name)) for name in lists):
        return "faces"
    with contextlib.suppress(InputError):
        find_pairs(folder, exact=True)
        return "pairs"
    with contextlib.suppress(InputError):
        if len(listed_classes(folder)[1]) > 1:
            return "classes"
    return "images"


def _list_images(folder: Path, classes: int, skip_bad: bool) -> Listing:
    by_split = split_images(folder)
    good, _ = checked_images([path for part in by_split.values() for path in part], read_image, skip_bad)
    numbers = {path: number for number, part in enumerate(by_split.values()) for path in part}
    parts = np.array([numbers[path] for path in good], np.uint8)
    names = tuple({"val": "validation"}.get(split, split) for split in by_split) if len(by_split) > 1 else ("all",)
    return Listing([(path,) for path in good], parts, np.zeros(len(good), np.int32), names)


def _list_classes(folder: Path, classes: int, skip_bad: bool) -> Listing:
    numbered, names = listed_classes(folder)
    good = set(checked_images([path for part in numbered for path, _ in part], read_image, skip_bad)[0])
    kept = [(path, label, number) for number, part in enumerate(numbered) for path, label in part if path in good]
    paths, labels, parts = zip(*kept, strict=True)
    part_names = ("train", "test", "validation")[: len(numbered)] if len(numbered) > 1 else ("all",)
    return Listing(
        [(path,) for path in paths], np.array(parts, np.uint8), np.array(labels, np.int32), part_names, names
    )


def _list_pairs(folder: Path, classes: int, skip_bad: bool) -> Listing:
    found = find_pairs(folder, classes)
    colour_labels(np.arange(classes)[-1:])  # raises InputError if there are too many classes
    train, test = checked_pairs(folder, found, classes, skip_bad)
    parts = np.repeat(np.arange(2, dtype=np.uint8), (len(train), len(test)))
    return Listing([*train, *test], parts, np.zeros(len(parts), np.int32), ("train", "test"))


def _list_domains(folder: Path, classes: int, skip_bad: bool) -> Listing:
    rows: list[tuple[Path, int, int]] = []
    named = domain_folders(folder)
    for number, (_, split_folders) in enumerate(named):
        for part, inner in enumerate(split_folders):
            rows += [(path, part, number) for path in domain_images(inner, skip_bad)]
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
    "images": _list_images,
}


def _contents(files: tuple[Path, ...], size: int, classes: int, celeba: bool) -> list[bytes]:
    """Return the encoded images of an example: one entry per image or, for unchanged files, one per file."""
    if not size:
        return [path.read_bytes() for path in dict.fromkeys(files)]
    if len(files) == 1:
        return [_as_png((celeba_image if celeba else square_image)(files[0], size, 3))]
    first, second = files
    if classes and first == second:
        raise InputError(
            f"{first}: contains a label map and its photo side by side; omit --size to store the file unchanged"
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
    """Write the shards; return their index entries, and the positions of the images, int64 [n, sides, 3]."""
    shards: list[dict[str, Any]] = []
    positions = np.zeros((len(listing.files), len(listing.files[0]), 3), np.int64)
    writer, end = None, 0
    try:
        for number, contents in enumerate(_prepared(listing.files, prepare, draft.name)):
            if writer is None or end >= limit:
                if writer is not None:
                    writer.close()
                shards.append({"name": f"images-{len(shards):05d}.tfrecord", "records": 0})
                writer, end = tf.io.TFRecordWriter(str(draft / shards[-1]["name"])), 0
            record = _record(folder, listing, number, contents)
            writer.write(record)
            # A record has a header of 12 bytes (a length and its checksum), then the data and its checksum (4 bytes).
            starts, offset = [], 0
            for content in contents:  # the features are sorted by name: input, then target
                starts.append(record.index(content, offset))
                offset = starts[-1] + len(content)
            sides = zip(starts, map(len, contents), strict=True)
            positions[number] = [(len(shards) - 1, end + 12 + start, length) for start, length in sides]
            shards[-1]["records"] += 1
            end += len(record) + 16
        if writer is not None:
            writer.close()
    except tf.errors.OpError as error:
        raise OSError(f"{draft}: cannot write the shards ({first_line(error)})") from None
    for shard in shards:
        path = draft / shard["name"]
        shard |= {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    return shards, positions


def _record(folder: Path, listing: Listing, number: int, contents: list[bytes]) -> bytes:
    """Return a serialised `tf.train.Example` with the features image (or input and target), name, part and label."""
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
    """Yield the prepared contents of the files, in order. Threads prepare the files in chunks of 256."""
    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress(name, len(files), "file") as progress:
        for start in range(0, len(files), 256):
            some = files[start : start + 256]
            yield from threads.map(prepare, some)
            progress.update(len(some))
