"""Images with class labels, in three parts: one to learn from, one to choose by, one to be judged by."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from common.batches import Batches, batches
from common.datasets import images_or_none, pictures_below, read_arrays, sized_images, square_image
from common.errors import InputError
from common.files import readable_name
from common.images import checked_images, read_image
from common.lazy import tf
from common.shards import open_shards


class Split(NamedTuple):
    """One part of a labelled set."""

    items: np.ndarray  # images, uint8 [n, height, width, channels], or names of files
    labels: np.ndarray  # class numbers, int32 [n]
    read: Callable[..., np.ndarray] | None = None  # a file -> uint8 [size, size, channels]

    def images(self, chosen: np.ndarray) -> np.ndarray:
        """Return the images at the places `chosen`, uint8 [len(chosen), height, width, channels]."""
        return self.items[chosen] if self.read is None else np.stack([self.read(name) for name in self.items[chosen]])

    def in_order(self, at_once: int = 500) -> Iterator[np.ndarray]:
        """Yield all images, uint8 [at most `at_once`, height, width, channels]."""
        for start in range(0, len(self.labels), at_once):
            yield self.images(np.arange(start, min(start + at_once, len(self.labels))))

    def loaded(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return up to `most` images, evenly spaced, and their labels."""
        part = self.some(most)
        return part.images(np.arange(len(part.labels))), part.labels

    def some(self, most: int) -> Split:
        """Return up to `most` of them, evenly spaced. Raises InputError for less than one."""
        if most < 1:
            raise InputError(f"images must be 1 or more, got {most}")
        chosen = np.unique(np.linspace(0, len(self.labels) - 1, min(most, len(self.labels))).astype(int))
        return self._replace(items=self.items[chosen], labels=self.labels[chosen])


class Labelled(NamedTuple):
    """What `--data` named; `test` never has a say in training nor in the choice of a setting."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]  # their names


def labelled_images(
    data: str,
    size: int,
    channels: int,
    sample: Callable[[], tuple[np.ndarray, np.ndarray]],
    skip_bad: bool = False,
    fetch: bool = False,
    names: tuple[str, ...] = (),
    enlarge: bool = True,
    require_classes: bool = True,
) -> Labelled:
    """Return images with their classes, uint8 [size, size, channels]; a tenth of the training part is for validation.

    `data` is `sample` (what `sample` returns, a fifth of it for the test), `mnist`, `fashion_mnist`, `tfds:NAME`, an
    .npz with x_train, y_train, x_test and y_test (and class names in `classes`, if it likes), a folder with idx files,
    a folder with a sub-folder of pictures for each class, directly or under train/ with test/ or val/ beside it, or a
    folder of shards, written from such a folder. Of pictures in folders and shards the centre square is taken, as they
    are read; without test/ or val/ every fifth is for the test.

    Args:
        sample: draws the recipe's own images, uint8 [n, height, width, channels], and class numbers [n].
        skip_bad: go on without files that cannot be read, naming them.
        fetch: a set that is not on this machine may be downloaded.
        names: of the sample's classes.
        enlarge: bring sets of arrays to `size` even where they are smaller; without it those keep their own size.
        require_classes: without it pictures that have no classes are taken too, as one class named `image`: those of a
            folder and its sub-folders where it has no class folders, and an .npz without y_train and y_test.

    Raises:
        InputError: there is nothing of that kind, something in it cannot be used, or labels and images do not fit.
    """
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, got {channels}")
    if data == "sample":
        images, labels = sample()
        images = sized_images(images, images.shape[1], channels, data)
        test = np.arange(len(images)) % 5 == 4
        parts, classes = [(images[~test], labels[~test]), (images[test], labels[test])], names
        read = None
    elif (shards := open_shards(data)) is not None:
        shards.expect(*(("classes",) if require_classes else ("classes", "pictures", "faces")))
        classed = shards.about["layout"] == "classes"
        classes = tuple(shards.about["classes"]) if classed else ONE_CLASS
        labels = shards.labels if classed else np.zeros(len(shards.labels), np.int64)
        chosen = [shards.parts == part for part in range(len(shards.about["parts"]) if classed else 1)]
        parts = fifth_for_test(data, [(shards.places[some, 0], labels[some]) for some in chosen])
        read = shards.reading(functools.partial(square_image, size=size, channels=channels))
    else:
        with_labels = require_classes or _has_labels(data)
        arrays = read_arrays(data, with_labels, fetch)
        if arrays is None:
            parts, classes = class_folders(Path(data), channels, skip_bad, require_classes)
            read = functools.partial(square_image, size=size, channels=channels)
        else:
            if with_labels:
                for split, images, labels in zip(("train", "test"), arrays.images, arrays.labels, strict=True):
                    _check_labels(data, split, images, labels)
                numbers, classes = _numbered(data, arrays.labels, arrays.names)
            else:
                numbers, classes = [np.zeros(len(images), np.int64) for images in arrays.images], ONE_CLASS
            native = min(arrays.images[0].shape[1:3], default=0)
            side = size if enlarge or native > size else native
            sized = [sized_images(images, side, channels, data) for images in arrays.images]
            parts, read = list(zip(sized, numbers, strict=True)), None
    (items, labels), (test_items, test_labels) = parts
    if require_classes and len(classes) < 2:
        raise InputError(f"{data}: one class only ({', '.join(classes)}); at least two are needed")
    by_class = np.argsort(labels, kind="stable")  # where classes take turns, every tenth image may be of one class
    held_out = np.zeros(len(labels), bool)
    held_out[by_class[min(9, len(labels) - 1) :: 10]] = True
    for number, name in enumerate(classes):
        if not (labels[~held_out] == number).any():
            few = "" if not (labels == number).any() else " beside the tenth that is for validation"
            raise InputError(f"{data}: no training image of class {name!r}{few}; remove the class, or add images of it")
    train, validation = (Split(items[kept], labels[kept].astype(np.int32), read) for kept in (~held_out, held_out))
    return Labelled(train, validation, Split(test_items, test_labels.astype(np.int32), read), tuple(classes))


ONE_CLASS = ("image",)  # the class of pictures that have none


def _has_labels(data: str) -> bool:
    """Say whether an .npz has classes; every other kind is asked for them."""
    if Path(data).suffix != ".npz" or not Path(data).is_file():
        return True
    try:
        with np.load(data, allow_pickle=False) as arrays:
            return "y_train" in arrays or "x_train" not in arrays
    except Exception:  # what is wrong with it is said where it is read
        return True


def _check_labels(data: str, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    if labels.dtype.kind not in "iu" or labels.reshape(-1).shape != images.shape[:1] or not labels.size:
        found = f"{labels.dtype} {list(labels.shape)} for {images.shape[0] if images.ndim else 0} images"
        raise InputError(f"{data}: the {split} labels are {found}; expected as many whole numbers, from 0")


def _numbered(
    data: str, labels: tuple[np.ndarray, ...], names: tuple[str, ...]
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return class numbers from 0 and the classes' names: those given, or the labels that occur in training."""
    train, test = (part.reshape(-1).astype(np.int64) for part in labels)
    known = np.arange(len(names)) if names else np.unique(train[train >= 0])
    if not len(known):
        raise InputError(f"{data}: the train labels are all below 0; expected class numbers from 0")
    for split, part in (("train", train), ("test", test)):
        strange = np.setdiff1d(part, known)
        if len(strange):
            listed = f"{known.min()} to {known.max()}" + ("" if names else ", which occur in training")
            raise InputError(f"{data}: the {split} labels hold {strange[0]}, which is not in the class list ({listed})")
    return [np.searchsorted(known, part) for part in (train, test)], names or tuple(map(str, known))


CLASS_LAYOUT = "a folder of pictures for each class, directly or under train/ with test/ or val/ beside it"


def class_folders(
    folder: Path, channels: int, skip_bad: bool, require_classes: bool = True
) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Return the names of files and their class numbers, for training and for the test, and the classes' names."""
    numbered, classes = listed_classes(folder, require_classes)
    paths = [path for part in numbered for path, _ in part]
    good = set(checked_images(paths, lambda path: read_image(path, channels), skip_bad)[0])
    kept = [[(str(path), number) for path, number in part if path in good] for part in numbered]
    parts = [(np.array([name for name, _ in part]), np.array([number for _, number in part])) for part in kept]
    return fifth_for_test(str(folder), parts), classes


def fifth_for_test(source: str, parts: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return items and labels for training and for the test, where they are not already in these two parts."""
    if len(parts) == 1:
        items, labels = parts[0]
        test = np.arange(len(items)) % 5 == min(4, len(items) - 1)
        parts = [(items[held == 1], labels[held == 1]) for held in (~test, test)]
    if not len(parts[1][0]) or len(parts[0][0]) < 2:
        count = sum(len(items) for items, _ in parts)
        raise InputError(f"{source}: {count} pictures; at least three are needed, one for the test")
    return parts


def listed_classes(folder: Path, require_classes: bool = True) -> tuple[list[list[tuple[Path, int]]], tuple[str, ...]]:
    """Return the files of each part, train/ and test/ or all, with their class numbers, and the classes' names."""
    roots = [folder / "train"] + [folder / name for name in ("test", "val") if (folder / name).is_dir()][:1]
    if not roots[0].is_dir() or (len(roots) == 1 and images_or_none(roots[0])):  # a class of trains
        roots = [folder]
    found = [
        {path.name: images_or_none(path) for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."}
        for root in roots
    ]
    classes = tuple(found[0])
    if not require_classes and (not classes or images_or_none(folder) or not all(found[0].values())):
        found, classes, roots = [{ONE_CLASS[0]: pictures_below(folder)}], ONE_CLASS, [folder]
    if not classes:
        inside = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise InputError(f"{folder}: no class folders here (found {inside}); expected {CLASS_LAYOUT}")
    for root, pictures in zip(roots, found, strict=True):
        for name, paths in pictures.items():
            if name not in found[0]:
                raise InputError(f"{root / name}: this class has no folder in {roots[0]}; it must be in both")
            if not paths and root is roots[0]:
                raise InputError(
                    f"{root / name}: no pictures here; put pictures of {name} in it, or move the folder away"
                )
    numbers = {name: number for number, name in enumerate(classes)}
    numbered = [[(path, numbers[name]) for name in pictures for path in pictures[name]] for pictures in found]
    return numbered, tuple(map(readable_name, classes))


def class_number(name: str, classes: Sequence[str]) -> int:
    """Return the number of a class by its name, in any case, or by its number.

    Raises:
        InputError: there is none of that name, which gives the nearest names, or more than one.
    """
    wanted = name.strip().replace("_", " ").lower()
    found = [number for number, each in enumerate(classes) if each.replace("_", " ").lower() == wanted]
    if len(found) > 1:
        raise InputError(f"{name!r} is the name of classes {' and '.join(map(str, found))}: give the number")
    if found:
        return found[0]
    if wanted.isdecimal() and int(wanted) < len(classes):
        return int(wanted)
    near = difflib.get_close_matches(wanted, [each.replace("_", " ").lower() for each in classes], 5, 0.4)
    meant = [each for part in near for each in classes if each.replace("_", " ").lower() == part]
    meant += [each for each in classes if wanted and wanted in each.lower() and each not in meant]
    names = ", ".join(list(dict.fromkeys(meant))[:6] or classes[:6])
    raise InputError(f"{name!r} is none of the {len(classes)} classes; the nearest are {names}; a number does too")


def as_many_of_each(part: Split, count: int, seed: int) -> Split:
    """Return `count` of the images, as many of each class, chosen by the seed: the labels that few-label learning has.

    Raises:
        InputError: `count` is no multiple of the number of classes, or a class has fewer images than its share.
    """
    order, classes = np.arange(len(part.labels)), np.unique(part.labels)
    np.random.default_rng(seed).shuffle(order)
    share, rest = divmod(count, len(classes))
    if count < 1 or rest:
        near = f"{max(1, share) * len(classes)} is one"
        raise InputError(f"labelled must be a multiple of the {len(classes)} classes, got {count}; {near}")
    places = [order[part.labels[order] == number][:share] for number in classes]
    least = min(len(chosen) for chosen in places)
    if least < share:
        most = f"lower it to {least * len(classes)} or less"
        raise InputError(f"labelled asks for {share} training images of each class, and one has {least}; {most}")
    chosen = np.concatenate(places)
    return part._replace(items=part.items[chosen], labels=part.labels[chosen])


class InParts(Protocol):
    """Images in three parts, whatever their labels are."""

    @property
    def train(self) -> Split:
        """To learn from."""

    @property
    def validation(self) -> Split:
        """To choose by."""

    @property
    def test(self) -> Split:
        """To be judged by."""


def labelled_batches(
    data: InParts, batch_size: int, seed: int, shift: int = 0, mirror: bool = False, validate: int = 5000
) -> Batches:
    """Return shuffled batches (images, labels) of the training part, and up to `validate` validation examples.

    Args:
        data: what to learn from.
        batch_size: images a batch.
        seed: of the shuffle and of the augmentation.
        shift: most pixels by which an image is moved each way; black comes in at the edge.
        mirror: turn half of the images left to right.
        validate: most validation examples to hand on, evenly spaced.
    """
    train, read = data.train, data.train.read

    def load(item: tuple[tf.Tensor, tf.Tensor], _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.numpy_function(read, [item[0]], tf.uint8, stateful=False)
        return tf.ensure_shape(image, shape), item[1]

    def moved(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count, height, width = images.shape[:3]
        *move_seeds, mirror_seed = tf.unstack(tf.random.split(seed, 3))
        if shift:
            for axis, side, move_seed in zip((1, 2), (height, width), move_seeds, strict=True):
                margin = [[shift, shift] if axis == other else [0, 0] for other in range(4)]
                first = tf.random.stateless_uniform([count, 1], move_seed, 0, 2 * shift + 1, tf.int32)
                images = tf.gather(tf.pad(images, margin), first + tf.range(side), axis=axis, batch_dims=1)
        if mirror:
            turned = tf.random.stateless_uniform([count, 1, 1, 1], mirror_seed) < 0.5
            images = tf.where(turned, images[:, :, ::-1], images)
        return tf.ensure_shape(images, (count, height, width, channels)), labels

    held_out = data.validation.loaded(validate)
    shape = held_out[0].shape[1:]
    channels = shape[-1]
    return batches(
        (train.items, train.labels),
        min(batch_size, len(train.labels)),
        seed,
        load if read is not None else None,
        held_out,
        moved if shift or mirror else None,
    )


def image_batches(
    data: InParts, batch_size: int, seed: int, shift: int = 0, mirror: bool = False, validate: int = 1000
) -> Batches:
    """Return `labelled_batches` without the labels: batches and validation examples are `(images,)`."""
    stream = labelled_batches(data, batch_size, seed, shift, mirror, validate)

    def at(step: int, part: int = 0, parts: int = 1) -> tf.data.Dataset:
        return stream.at(step, part, parts).map(lambda images, _: (images,))

    return stream._replace(at=at, held_out=stream.held_out[:1])
