"""Read the data selected by `--data`: image pairs, and images without labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.arrays import read_arrays, sized_images, tfds_builder
from common.data.batches import Examples, as_they_are
from common.data.class_folders import split_images
from common.data.exporting import exported
from common.data.pairs import checked_pairs, find_pairs, sized_pair
from common.data.shards import open_shards
from common.data.synthetic import SET_CLASSES, Sample, synthetic
from common.images.found import add_detail, read_at, reports_files
from common.images.pixels import colour_labels, crop_square, pad_to_least, resize_image
from common.images.reading import ImageFile, checked_images, image_file, read_image
from common.images.writing import write_image
from common.samples.digits import DIGITS
from common.system.files import InputError, replacing
from common.system.lazy import tf

if TYPE_CHECKING:
    from common.data.labelled import Labelled

LARGEST_BUILT_IN = 512  # maximum side of the built-in pairs and domains in pixels

# %% Pairs of images

PAIRS = {"sketches": False, "streets": True}  # the built-in pairs, and whether their inputs are label maps


@reports_files
def image_pairs(
    data: str,
    size: int,
    sample: Sample,
    classes: int = 0,
    swap: bool = False,
    skip_bad: bool = False,
    fetch: bool = False,
    seed: int = 0,
    crop: bool = False,
) -> Examples:
    """Return image pairs (input, target), each uint8 [size, size, 3].

    `data` is one of:

    - `sample`: the recipe's built-in data set. 10 % of the pairs are held out.
    - `sketches` or `streets`: the built-in data set with this name.
    - `tfds:NAME`: a TensorFlow Dataset with an image and a segmentation map.
    - a folder with two sub-folders: A/ and B/, trainA/ and trainB/, or label/ and photo/ (or similar names). The first
      contains the inputs, the second the targets. Files with the same name form a pair.
    - a folder of images that contain one pair each, side by side, with the input on the left. They are wider than high.
    - Cityscapes' folder, with leftImg8bit/ and gtFine/. The colour label maps are the inputs.
    - a folder of shards written from one of these folders.

    The sub-folders or images may also be in train/ and test/ (or val/), and these may also be inside A/ and B/. testA/
    and testB/ may be next to trainA/ and trainB/. If there is only a training split, the last 10 % of the pairs, sorted
    by name, are held out.

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
        crop: do not resize. Batches contain random crops of `size` pixels, the same for both images of a pair; held-out
            pairs are centre-cropped. Smaller images are padded by reflection at the right and bottom.

    Raises:
        InputError: the folder has none of these layouts, files are unpaired or cannot be read, or there is only one
            pair. With `crop`: the images of a pair differ in size.
    """
    if data in ("sample", *PAIRS):
        check_built_in(size)
        sample = sample if data == "sample" else data
        columns = synthetic(sample, size, seed)[:: -1 if swap else 1]
        label_maps = PAIRS.get(str(sample), True)
        sides = (label_maps and not swap, label_maps and swap)
        return _held_out_tenth(columns)._replace(label_maps=sides, crop=size * crop)
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
        left, right = sized_pair(first, second, size, classes, label_maps, crop)
        return (right, left) if swap else (left, right)

    def decode(item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pair = tf.numpy_function(read_pair, [item], [tf.uint8, tf.uint8], stateful=False)
        side = None if crop else size
        return tuple(tf.ensure_shape(image, (side, side, 3)) for image in pair)

    if shards is not None:
        train, test = (shards.places[shards.parts == part] for part in (0, 1))
        side = shards.decoding(read_image, size, 3)

        def decode_sides(item: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return (side(item[1]), side(item[0])) if swap else (side(item[0]), side(item[1]))

        return Examples(train, test, decode_sides if shards.has_size(size) else decode, sides, crop=size * crop)
    say_size(size, crop)
    kept = checked_pairs(folder, find_pairs(folder, classes), classes, skip_bad, size * crop)
    names = [np.array([[str(path) for path in pair] for pair in pairs]) for pairs in kept]
    return Examples(names[0], names[1], decode, sides, crop=size * crop)


def check_built_in(size: int) -> None:
    """Raise InputError if built-in images of this size would take hours to make."""
    if size > LARGEST_BUILT_IN:
        raise InputError(
            f"the built-in images have at most {LARGEST_BUILT_IN} px, got --size {size}; use your own --data"
        )


def say_size(size: int, crop: bool) -> None:
    """Record the size of the images that the reader returns, for the line about the data."""
    if crop:
        add_detail(f"random crops of {size}x{size} px at the scale of the files")
    else:
        read_at(size)


# %% Images without labels


@reports_files
def images_of(
    data: str,
    size: int,
    channels: int,
    sample: Sample,
    skip_bad: bool = False,
    fetch: bool = False,
    seed: int = 0,
    classes: bool = False,
) -> Examples:
    """Return images, uint8 [size, size, channels].

    `data` is one of:

    - `sample`: the built-in data set. 10 % of the images are held out.
    - `mnist`, `fashion_mnist`, `sklearn_digits` or `tfds:NAME`.
    - an .npz file with the arrays `x_train` and `x_test`, or a folder with idx files.
    - a folder of images, including its sub-folders, or a folder of shards. Images are centre-cropped. The images in
      test/ (or val/) are held out. If there is no such folder, 10 % of the images are held out.

    Args:
        data: see above.
        size: height and width of the returned images in pixels.
        channels: 1 for greyscale, 3 for RGB.
        sample: the recipe's built-in data set, as a name in `common.data.synthetic` or a function that returns images.
        skip_bad: skip files that cannot be read, and list them.
        fetch: allow downloading a data set.
        seed: random seed of the built-in data set.
        classes: also return the classes. Examples and batches are then (images, labels), and `data` must have classes;
            see `common.data.labelled.labelled_images`. A fifth of the images is held out, unless `data` says which.

    Raises:
        InputError: `data` is none of these, or cannot be used.
    """
    if classes:
        from common.data.labelled import labelled_images  # imports from this module

        return _with_labels(labelled_images(data, size, channels, sample, skip_bad, fetch, seed=seed))
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
        parts = [shards.places[shards.in_part(name), 0] for name in ("train", "test", "validation")]
        decode = shards.decoding(read, size, channels)
        if len(parts[0]) and any(map(len, parts[1:])):
            chosen = shards.in_part("test" if len(parts[1]) else "validation")
            digits = _digits(np.array(shown)[chosen]) if shown else None
            return Examples(parts[0], shards.places[chosen, 0], decode, digits=digits)
        return _tenth_held_out(data, shards.places[:, 0], decode, shown)
    data = exported(data, fetch)
    try:
        arrays = read_arrays(data, labels=True, fetch=fetch)
    except InputError:  # perhaps there are no labels
        arrays = read_arrays(data, labels=False, fetch=fetch)
    if arrays is None:
        return _image_folder(Path(data), size, channels, skip_bad)
    train, test = (sized_images(images, size, channels, data) for images in arrays.images)
    digits = _digits(arrays.labels[1], arrays.names) if arrays.labels else None
    return Examples(train, test, as_they_are, digits=digits)


def _with_labels(found: Labelled) -> Examples:
    """Return labelled images as examples (image, label). The validation images become training images."""
    read, shape = found.test.read, found.test.images(np.arange(1)).shape[1:]

    def decode(item: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.numpy_function(read, [item[0]], tf.uint8, stateful=False)
        return tf.ensure_shape(image, shape), item[1]

    parts = (found.train, found.validation), (found.test,)
    train, test = (
        (np.concatenate([split.items for split in part]), np.concatenate([split.labels for split in part]))
        for part in parts
    )
    return Examples(train, test, as_they_are if read is None else decode, classes=found.classes)


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
    read_at(size, channels)
    by_split = split_images(folder)
    paths = [path for part in by_split.values() for path in part]
    good, _ = checked_images(paths, lambda path: read_image(path, channels), skip_bad)
    read = functools.partial(square_image, size=size, channels=channels)

    def decode(item: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(read, [item], tf.uint8, stateful=False)
        return tf.ensure_shape(image, (size, size, channels))

    shown = [path.parent.name for path in good]
    test = set(by_split.get("test") or by_split.get("val") or ()) & set(good)
    train = set(by_split["train"]) & set(good)
    if train and test:
        train_names, test_names = (np.array([str(path) for path in good if path in part]) for part in (train, test))
        digits = _digits(np.array([path.parent.name for path in good if path in test]))
        return Examples(train_names, test_names, decode, digits=digits)
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


def square_image(path: ImageFile | str | bytes, size: int, channels: int) -> np.ndarray:
    """Read an image, centre-crop it to a square, and resize it: uint8 [size, size, channels]."""
    return resize_image(crop_square(read_image(image_file(path), channels)), size, size)


def unscaled_image(path: ImageFile | str | bytes, size: int, channels: int) -> np.ndarray:
    """Read an image at its own scale, uint8 [height, width, channels], padded to at least `size` pixels per side."""
    return pad_to_least(read_image(image_file(path), channels), size)


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
