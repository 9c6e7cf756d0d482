"""Read the data selected by `--data`: image pairs, and images without labels."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common.data.arrays import images_or_none, read_arrays, sized_images, tfds_builder
from common.data.batches import Examples, as_they_are
from common.data.shards import open_shards
from common.data.synthetic import SET_CLASSES, Sample, synthetic
from common.images.pixels import colour_labels, crop_square, resize_image
from common.images.reading import ImageFile, checked_images, find_images, image_file, read_image, read_labels
from common.images.writing import write_image
from common.samples.digits import DIGITS
from common.system.files import InputError, is_run, replacing
from common.system.lazy import tf

# %% Pairs of images

PAIRS = {"sketches": False, "streets": True}  # the built-in pairs, and whether their inputs are label maps


def image_pairs(
    data: str,
    size: int,
    sample: Sample,
    classes: int = 0,
    swap: bool = False,
    skip_bad: bool = False,
    fetch: bool = False,
    seed: int = 0,
) -> Examples:
    """Return image pairs (input, target), each uint8 [size, size, 3].

    `data` is one of:

    - `sample`: the recipe's built-in data set. 10 % of the pairs are held out.
    - `sketches` or `streets`: the built-in data set with this name.
    - `tfds:NAME`: a TensorFlow Dataset with an image and a segmentation map.
    - a folder with two sub-folders: A/ and B/, trainA/ and trainB/, or label/ and photo/. The first contains the
      inputs, the second the targets. Files with the same name form a pair.
    - a folder of images that are twice as wide as high and contain one pair each, with the input on the left.
    - a folder of shards written from one of these folders.

    The sub-folders or images may also be in train/ and test/ (or val/). testA/ and testB/ may be next to trainA/
    and trainB/. If there is only a training split, the last 10 % of the pairs, sorted by name, are held out.

    Args:
        data: see above.
        size: height and width of the returned images in pixels.
        sample: the recipe's built-in data set, as a name in `common.data.synthetic` or a function that returns label
            maps and images, each uint8 [n, size, size, 3].
        classes: if above 0, the inputs are label maps with the integers 0 to classes - 1; they are returned in colour.
        swap: swap input and target.
        skip_bad: skip files that cannot be read, and list them.
        fetch: allow downloading a `tfds:` data set.
        seed: random seed of the built-in data set.

    Raises:
        InputError: the folder has none of these layouts, files are unpaired or cannot be read, or there is only one
            pair.
    """
    if data in ("sample", *PAIRS):
        sample = sample if data == "sample" else data
        columns = synthetic(sample, size, seed)[:: -1 if swap else 1]
        label_maps = PAIRS.get(str(sample), True)
        return _held_out_tenth(columns)._replace(label_maps=(label_maps and not swap, label_maps and swap))
    folder = _tfds_pairs_folder(data.removeprefix("tfds:"), fetch) if data.startswith("tfds:") else Path(data)
    label_maps = classes > 0 or data.startswith("tfds:")
    sides = (label_maps and not swap, label_maps and swap)
    shards = open_shards(folder)
    if shards is not None:
        shards.expect("pairs")
        if shards.about["label_classes"] != classes:
            written = f"these shards were written with --classes {shards.about['label_classes']}, not {classes}"
            raise InputError(f"{data}: {written}; write them again")

    def read_pair(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = (image_file(name) if shards is None else shards.image(name) for name in names)
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
    """Return both images of a pair, uint8 [size, size, 3].

    If `first` and `second` are the same file, it contains both images side by side. With `classes` above 0, `first` is
    a map of integer labels; it is returned in colour. Label maps are resized with nearest-neighbour interpolation.
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
    """Return the readable pairs; see `checked_images`."""
    firsts = dict(pairs)
    one_file = {first for first, second in pairs if first == second}

    def read(path: Path) -> np.ndarray:
        image = read_labels(path, classes) if classes and path in firsts else read_image(path)
        if path in one_file and image.shape[1] != 2 * image.shape[0]:
            raise InputError(
                f"{path}: {image.shape[1]}x{image.shape[0]} px; a side-by-side pair must be twice as wide as high"
            )
        return image

    paths = sorted({path for pair in pairs for path in pair})
    good = set(checked_images(paths, read, skip_bad)[0])
    kept = [pair for pair in pairs if set(pair) <= good]
    if not kept:
        raise InputError(f"{folder}: no pairs are left after skipping the files that cannot be read")
    return kept


PAIR_LAYOUTS = (
    "A/ and B/, trainA/ and trainB/, or label/ and photo/ (with the same file names in both folders), or images that "
    "are twice as wide as high; directly in the folder, or in train/ and test/ (or val/)"
)


def find_pairs(folder: Path) -> tuple[list[tuple[Path, Path]], list[tuple[Path, Path]]]:
    """Return the training pairs and the held-out pairs of a folder; see `image_pairs`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {PAIR_LAYOUTS}")
    found = {split: _pairs_of_split(folder, split) for split in ("train", "test", "val")}
    train = found["train"] or _pairs_of_split(folder, "")
    if not train:
        inside = ", ".join(sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())[:8]) or "nothing"
        raise InputError(f"{folder}: no image pairs here (found {inside}); expected {PAIR_LAYOUTS}")
    held_out = found["test"] or found["val"]
    if not held_out:
        if len(train) < 2:
            raise InputError(f"{folder}: only one pair; at least two are needed, because one is held out")
        tenth = max(1, len(train) // 10)
        train, held_out = train[:-tenth], train[-tenth:]
    return train, held_out


def _pairs_of_split(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the pairs of one split ("": the folder itself), sorted by name; [] if no layout matches."""
    layouts = [(folder / split / a, folder / split / b) for a, b in (("A", "B"), ("label", "photo"))]
    for first, second in [*layouts, (folder / f"{split or 'train'}A", folder / f"{split or 'train'}B")]:
        if first.is_dir() and second.is_dir():
            return _by_name(first, second)
    try:
        wide = find_images(folder / split) if split else find_images(folder)
    except InputError:
        return []
    for path in wide:
        with contextlib.suppress(InputError):  # `checked_pairs` reports files that cannot be read
            height, width, _ = read_image(path).shape
            if width == 2 * height:
                return [(path, path) for path in wide]
    return []


def _by_name(first: Path, second: Path) -> list[tuple[Path, Path]]:
    sides: list[dict[str, Path]] = [{}, {}]
    for side, images in zip(sides, map(find_images, (first, second)), strict=True):
        for path in images:
            if side.setdefault(path.stem, path) is not path:
                raise InputError(f"{path} and {side[path.stem]} differ only in their suffix; keep only one")
    unpaired = sorted(sides[0].keys() ^ sides[1].keys())
    if unpaired:
        owner = first if unpaired[0] in sides[0] else second
        other = second if owner == first else first
        raise InputError(
            f"{owner}: {len(unpaired)} unpaired images, such as {unpaired[0]!r}, which is missing in {other}; "
            "both files of a pair need the same name (the suffix may differ)"
        )
    return [(path, sides[1][stem]) for stem, path in sorted(sides[0].items())]


# %% Images without labels


def images_of(
    data: str,
    size: int,
    channels: int,
    sample: Sample,
    skip_bad: bool = False,
    fetch: bool = False,
    seed: int = 0,
) -> Examples:
    """Return images, uint8 [size, size, channels].

    `data` is one of:

    - `sample`: the built-in data set. 10 % of the images are held out.
    - `mnist`, `fashion_mnist`, `sklearn_digits` or `tfds:NAME`.
    - an .npz file with the arrays `x_train` and `x_test`, or a folder with idx files.
    - a folder of images, including its sub-folders, or a folder of shards. Images are centre-cropped. 10 % of them are
      held out.

    Args:
        data: see above.
        size: height and width of the returned images in pixels.
        channels: 1 for greyscale, 3 for RGB.
        sample: the recipe's built-in data set, as a name in `common.data.synthetic` or a function that returns images.
        skip_bad: skip files that cannot be read, and list them.
        fetch: allow downloading a data set.
        seed: random seed of the built-in data set.

    Raises:
        InputError: `data` is none of these, or cannot be used.
    """
    if data == "sample":
        found = synthetic(sample, size, seed)
        images, *labels = found if isinstance(found, tuple) else (found,)
        if images.shape[-1] != channels:
            raise InputError(
                f"the built-in data set has {images.shape[-1]} channels, not {channels}; change --channels or --data"
            )
        digits = _digits(labels[0][9::10], SET_CLASSES.get(str(sample), ())) if labels else None
        return _held_out_tenth(images)._replace(digits=digits)
    shards = open_shards(data)
    if shards is not None:
        shards.expect("images", "classes", "faces", "domains")
        read = functools.partial(square_image, size=size, channels=channels)
        has_classes = shards.about["layout"] == "classes"
        shown = [shards.about["classes"][label] for label in shards.labels] if has_classes else ()
        return _tenth_held_out(data, shards.places[:, 0], shards.decoding(read, size, channels), shown)
    try:
        arrays = read_arrays(data, labels=True, fetch=fetch)
    except InputError:  # perhaps there are no labels
        arrays = read_arrays(data, labels=False, fetch=fetch)
    if arrays is None:
        return _image_folder(Path(data), size, channels, skip_bad)
    train, test = (sized_images(images, size, channels, data) for images in arrays.images)
    digits = _digits(arrays.labels[1], arrays.names) if arrays.labels else None
    return Examples(train, test, as_they_are, digits=digits)


def _digits(labels: np.ndarray, names: Sequence[str] = ()) -> np.ndarray | None:
    """Return the digits 0 to 9 that labels mean, int [n], or None if they mean something else.

    Args:
        labels: the label of each image: an integer, or the name of its class.
        names: the names of the classes, in the order of integer labels; empty if they have none.
    """
    if names and labels.ndim == 1 and labels.dtype.kind in "iu":
        labels = np.array(names)[labels] if labels.max(initial=0) < len(names) else labels
    shown = labels.ndim == 1 and labels.dtype.kind in "iuU" and bool(np.isin(labels.astype(str), DIGITS).all())
    return labels.astype(int) if shown else None


def _held_out_tenth(images: np.ndarray | tuple[np.ndarray, ...]) -> Examples:
    """Hold out every tenth image of an array, or of each array in a tuple."""
    columns = images if isinstance(images, tuple) else (images,)
    held_out = np.arange(len(columns[0])) % 10 == 9
    train, test = (tuple(column[kept] for column in columns) for kept in (~held_out, held_out))
    if isinstance(images, tuple):
        return Examples(train, test, as_they_are)
    return Examples(train[0], test[0], as_they_are)


def _image_folder(folder: Path, size: int, channels: int, skip_bad: bool) -> Examples:
    good, _ = checked_images(images_below(folder), lambda path: read_image(path, channels), skip_bad)
    read = functools.partial(square_image, size=size, channels=channels)

    def decode(item: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(read, [item], tf.uint8, stateful=False)
        return tf.ensure_shape(image, (size, size, channels))

    shown = [path.parent.name for path in good]
    return _tenth_held_out(str(folder), np.array([str(path) for path in good]), decode, shown)


def _tenth_held_out(
    source: str, items: np.ndarray, decode: Callable[[tf.Tensor], tf.Tensor], shown: Sequence[str] = ()
) -> Examples:
    """Hold out every tenth item. `shown` contains the class name of each item, if the items have classes."""
    if len(items) < 2:
        raise InputError(f"{source}: only one image; at least two are needed, because one is held out")
    held_out = np.arange(len(items)) % 10 == min(9, len(items) - 1)
    digits = _digits(np.array(shown)[held_out]) if len(shown) == len(items) else None
    return Examples(items[~held_out], items[held_out], decode, digits=digits)


def images_below(folder: Path) -> list[Path]:
    """Return the images of a folder and its sub-folders. Raises InputError if there are none."""
    paths = [path for inner in folders_below(folder) for path in images_or_none(inner)]
    if not paths:
        raise InputError(f"{folder}: no images in this folder or its sub-folders (png, jpg, bmp, gif, webp, tif)")
    return paths


def folders_below(folder: Path) -> list[Path]:
    """Return a folder and its sub-folders, except run folders, which contain generated images."""
    below = sorted(path for path in folder.rglob("*") if path.is_dir())
    runs = {path for path in below if is_run(path)}
    return [folder, *(path for path in below if runs.isdisjoint([path, *path.parents]))]


def square_image(path: ImageFile | str | bytes, size: int, channels: int) -> np.ndarray:
    """Read an image, centre-crop it to a square, and resize it: uint8 [size, size, channels]."""
    return resize_image(crop_square(read_image(image_file(path), channels)), size, size)


TFDS_PAIRS = (("segmentation_label", "image_left"), ("segmentation_mask", "image"), ("label", "image"))


def _tfds_pairs_folder(name: str, fetch: bool) -> Path:
    """Export a segmentation data set once, as pairs of a label map and a photo, and return the folder.

    Integer labels are written as colours, so the label maps must be read as colour images (`classes` is 0).
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
                continue  # its label maps may be blank, as in Cityscapes
            split_name = {"validation": "val"}.get(split, split)
            for number, example in enumerate(builder.as_dataset(split=split).as_numpy_iterator()):
                labels, photo = example[keys[0]], example[keys[1]]
                labels = colour_labels(labels[..., 0]) if labels.shape[-1] == 1 else labels
                write_image(labels, folder / split_name / "label" / f"{number:06d}.png")
                write_image(photo, folder / split_name / "photo" / f"{number:06d}.png")
        with replacing(done) as draft:
            draft.touch()
    return folder
