"""Images with class labels, in three splits: training, validation and test."""

from __future__ import annotations

import difflib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from common.data.arrays import read_arrays, sized_images
from common.data.batches import Batches, batches
from common.data.class_folders import ONE_CLASS, Part, class_folders, fifth_for_test
from common.data.datasets import square_image
from common.data.exporting import exported
from common.data.shards import open_shards
from common.data.synthetic import SET_CLASSES, Sample, sample_styles, synthetic
from common.images.found import read_at, reports_files
from common.metrics.class_scores import class_scores, of_the_same_classes
from common.metrics.latents import knn_agreement, save_latents
from common.system.console import tracked
from common.system.files import InputError, cached_array, printable, replacing
from common.system.initial import active_start
from common.system.lazy import keras, tf


class Split(NamedTuple):
    """One split of a labelled data set, in memory or as files."""

    items: np.ndarray  # images, uint8 [n, height, width, channels], or file names, or positions in shards
    labels: np.ndarray  # integer labels, int32 [n]
    read: Callable[..., np.ndarray] | None = None  # item -> uint8 [size, size, channels]; None: images in memory

    def images(self, chosen: np.ndarray) -> np.ndarray:
        """Return the images with the indices `chosen`, uint8 [len(chosen), height, width, channels]."""
        return self.items[chosen] if self.read is None else np.stack([self.read(name) for name in self.items[chosen]])

    def in_order(self, at_once: int = 500) -> Iterator[np.ndarray]:
        """Yield all images in order, up to `at_once` at a time: uint8 [n, height, width, channels].

        If the work on them takes longer than a few seconds, its progress is shown.
        """
        for start in tracked(range(0, len(self.labels), at_once), f"{len(self.labels):,} images", "batch"):
            yield self.images(np.arange(start, min(start + at_once, len(self.labels))))

    def loaded(self, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return up to `most` evenly spaced images and their labels.

        By default, the images have at most 2^25 values in total, for example 42,799 images of 28 x 28 pixels.
        """
        part = self.some(most if most is not None else max(8, 2**25 // self.images(np.arange(1)).size))
        return part.images(np.arange(len(part.labels))), part.labels

    def some(self, most: int) -> Split:
        """Return up to `most` evenly spaced examples. Raises InputError if `most` is less than 1."""
        if most < 1:
            raise InputError(f"the number of images must be 1 or more, got {most}")
        chosen = np.unique(np.linspace(0, len(self.labels) - 1, min(most, len(self.labels))).astype(int))
        return self._replace(items=self.items[chosen], labels=self.labels[chosen])


class Labelled(NamedTuple):
    """Labelled images in three splits. `test` is never used for training or model selection."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]  # names of the classes
    styles: Mapping[str, np.ndarray] = MappingProxyType({})  # of each test image, float32 [n]; only if known

    def batches(
        self, batch_size: int, seed: int, *, shift: int = 0, mirror: bool = False, validate: int = 5000
    ) -> Batches:
        """Return shuffled batches (images, integer labels) of the training split.

        Args:
            batch_size: images per batch.
            seed: seed of the shuffling and the augmentation.
            shift: maximum random translation in pixels, horizontally and vertically, with black padding.
            mirror: flip each image left to right with probability 0.5.
            validate: maximum number of validation examples in `held_out`.
        """
        return labelled_batches(self, batch_size, seed, shift, mirror, validate)

    def image_batches(
        self, batch_size: int, seed: int, *, shift: int = 0, mirror: bool = False, validate: int = 1000
    ) -> Batches:
        """Return shuffled batches (images,) of the training split; see `batches`."""
        return image_batches(self, batch_size, seed, shift, mirror, validate)

    def few_labels(self, count: int, seed: int) -> Labelled:
        """Keep only `count` training images, chosen at random, with the same number per class.

        Raises:
            InputError: `count` is not a multiple of the number of classes, or a class has too few images.
        """
        return self._replace(train=as_many_of_each(self.train, count, seed))

    def train_name(self, index: int) -> str:
        """Return a training image's name for messages: its file name, or its index and class if it is in memory."""
        train = self.train
        if train.read is not None:
            return printable(train.items[index])
        return printable(f"training image {index}, {self.classes[train.labels[index]]}")

    def knn_agreement(self, latents: np.ndarray, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the k-NN label agreement (k = 10) of latents and of pixels, and the agreement expected by chance.

        Args:
            latents: latents [n, d].
            images: images [n, height, width, channels].
            labels: integer labels [n].

        Returns:
            Scores by name; empty if there is only one class or one image.
        """
        if len(self.classes) < 2 or len(labels) < 2:
            return {}
        return {
            "knn_agreement_latents": knn_agreement(latents, labels),
            "knn_agreement_pixels": knn_agreement(images.reshape(len(images), -1), labels),
            "knn_agreement_chance": float(np.sum((np.bincount(labels) / len(labels)) ** 2)),
        }

    def save_latents(
        self,
        latents: np.ndarray,
        labels: np.ndarray,
        path: Path,
        title: str = "",
        seed: int = 0,
        images: np.ndarray | None = None,
    ) -> Path:
        """Write a scatter plot of latents [n, d], coloured by their integer labels [n].

        If the latents have more than two dimensions, they are reduced to two by t-SNE, with the random seed `seed`. If
        the `images` with these latents are given, uint8 [n, h, w, 1 or 3], they are shown where they fit.
        """
        return save_latents(latents, labels, self.classes, path, title, seed, images)

    def feature_batches(
        self,
        network: keras.Model,
        extract: Callable[[keras.Model, np.ndarray], np.ndarray],
        batch_size: int,
        seed: int,
        cache: Path,
    ) -> Batches:
        """Return shuffled batches (features, integer labels) of the training split. The validation split is held out.

        The features are computed once. A later call with the same network and images reads them from `cache`.

        Args:
            network: the network that computes the features.
            extract: (`network`, images uint8 [n, height, width, channels]) -> features, float32 [n, d].
            batch_size: examples per batch; at most the size of the training split.
            seed: seed of the shuffling.
            cache: folder for the features.
        """
        if (start := active_start()) is not None:
            start.load_frozen("features", network)
        train, validation = (cached_features(network, extract, part, cache) for part in (self.train, self.validation))
        held_out = validation, self.validation.labels
        return batches((train, self.train.labels), min(batch_size, len(train)), seed, held_out=held_out)

    def sample_scores(self, generate: Callable[[np.ndarray], np.ndarray], most: int) -> dict[str, float | int | str]:
        """Compare generated images with test images of the same classes; see `common.metrics.class_scores`.

        Args:
            generate: integer labels [n] -> generated images of these classes, uint8 [n, height, width, channels].
            most: the number of test images, and of generated ones, if there are so many test images.

        Returns:
            Scores by name. Empty for images other than digits and the built-in classes of faces.
        """
        real, labels = self.test.loaded(most)
        chosen = of_the_same_classes(self.train.labels, labels)
        others = None if chosen is None else self.train.images(chosen)
        return class_scores(self.classes, real, labels, generate, others)

    def evaluate(self, classify: Callable[[np.ndarray], np.ndarray], output_dir: Path) -> tuple[Path, dict[str, float]]:
        """Classify the test images, write a figure, and return its path and the scores.

        The figure, `classified.png`, shows examples, the most confident mistakes and the confusion matrix. The scores
        are accuracy, expected calibration error, and the precision and recall of each class.

        Args:
            classify: images, uint8 [n, height, width, channels] -> probabilities, float32 [n, classes].
            output_dir: folder for the figure.
        """
        from common.runs.classification import evaluate_classifier

        return evaluate_classifier(self, classify, output_dir)


@reports_files
def labelled_images(
    data: str,
    size: int,
    channels: int,
    sample: Sample,
    skip_bad: bool = False,
    fetch: bool = False,
    names: tuple[str, ...] = (),
    enlarge: bool = True,
    require_classes: bool = True,
    seed: int = 0,
) -> Labelled:
    """Return images, uint8 [size, size, channels], with their classes.

    If the data has no test split, every fifth image becomes a test image. If it has no third split for validation, 10 %
    of the training images become validation images. Images in folders and shards are centre-cropped, and read on
    demand.

    Args:
        data: one of these:

            - `sample`: the built-in data set, with every fifth image in the test split.
            - `mnist`, `fashion_mnist`, `sklearn_digits`, or `tfds:NAME`.
            - An .npz file with x_train, y_train, x_test and y_test, and optionally class names in `classes`.
            - A folder with idx files.
            - A folder with one sub-folder of images per class. The sub-folders may be in train/ and test/ (or val/).
            - A folder of images with a .csv that lists the file names and their classes.
            - A folder of shards, written from such a folder.
        size: height and width of the returned images in pixels.
        channels: 1 for greyscale, 3 for colour.
        sample: the recipe's built-in data set, as a name in `common.data.synthetic` or a function that returns images,
            uint8 [n, height, width, channels], and integer labels [n].
        skip_bad: skip files that cannot be read, and list them.
        fetch: allow downloading a data set.
        names: the class names of the built-in data set; needed only if `sample` is a function.
        enlarge: if True, small images in arrays are enlarged to `size`; if False, they keep their size.
        require_classes: if False, images without classes are also accepted: a folder of images, including its
            sub-folders, or an .npz file without y_train and y_test. All images get the class `image`.
        seed: random seed of the built-in data set.

    Raises:
        InputError: `data` does not exist or cannot be used, or labels and images do not match.
    """
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, got {channels}")
    styles: dict[str, np.ndarray] = {}
    if data == "sample":
        images, labels = synthetic(sample, size if enlarge else 28, seed)
        names = names or SET_CLASSES.get(str(sample), ())
        images = sized_images(images, images.shape[1], channels, data)
        test = np.arange(len(images)) % 5 == 4
        parts, classes = [(images[~test], labels[~test]), (images[test], labels[test])], names
        styles = {name: values[test] for name, values in sample_styles(sample, size, seed).items()}
        read = None
    elif (shards := open_shards(data)) is not None:
        shards.expect(*(("classes",) if require_classes else ("classes", "images", "faces")))
        classed = shards.about["layout"] == "classes"
        classes = tuple(shards.about["classes"]) if classed else ONE_CLASS
        labels = shards.labels if classed else np.zeros(len(shards.labels), np.int64)
        chosen = [shards.parts == part for part in range(len(shards.about["parts"]) if classed else 1)]
        parts = fifth_for_test(data, [(shards.places[some, 0], labels[some]) for some in chosen])
        read = shards.reading(functools.partial(square_image, size=size, channels=channels))
    else:
        data = exported(data, fetch)
        with_labels = require_classes or _has_labels(data)
        arrays = read_arrays(data, with_labels, fetch)
        if arrays is None:
            read_at(size, channels)
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
    if require_classes and len(classes) < 2:
        raise InputError(
            f"{data}: needs at least two classes, found one ({', '.join(classes)}); add a folder per class"
        )
    train, validation, test = (
        Split(items, labels.astype(np.int32), read) for items, labels in _three_parts(data, parts, classes)
    )
    return Labelled(train, validation, test, tuple(classes), styles)


def _three_parts(data: str, parts: list[Part], classes: tuple[str, ...]) -> tuple[Part, Part, Part]:
    """Return the parts for training, validation and testing. Without a third part, hold out 10 % for validation."""
    (items, labels), test, *validation = parts
    held_out = np.zeros(len(labels), bool)
    if not validation or not len(validation[0][0]):
        by_class = np.argsort(labels, kind="stable")  # spreads the validation images over all classes
        held_out[by_class[min(9, len(labels) - 1) :: 10]] = True
        validation = [(items[held_out], labels[held_out])]
    for number, name in enumerate(classes):
        if not (labels[~held_out] == number).any():
            few = "" if not (labels == number).any() else " is left after the validation split"
            raise InputError(f"{data}: no training image of class {name!r}{few}; remove the class, or add images of it")
    return (items[~held_out], labels[~held_out]), validation[0], test


def _has_labels(data: str) -> bool:
    """Return whether an .npz file has labels. Other data is assumed to have them."""
    if Path(data).suffix == ".npy":
        return False
    if Path(data).suffix != ".npz" or not Path(data).is_file():
        return True
    try:
        with np.load(data, allow_pickle=False) as arrays:
            return "y_train" in arrays or "x_train" not in arrays
    except Exception:  # the reader reports the error later
        return True


def _check_labels(data: str, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    if labels.dtype.kind not in "iu" or labels.reshape(-1).shape != images.shape[:1] or not labels.size:
        found = f"{labels.dtype} {list(labels.shape)} for {images.shape[0] if images.ndim else 0} images"
        raise InputError(f"{data}: the {split} labels are {found}; expected one non-negative integer per image")


def _numbered(
    data: str, labels: tuple[np.ndarray, ...], names: tuple[str, ...]
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return class indices, starting at 0, and class names. Without `names`, classes are named after their labels."""
    train, test = (part.reshape(-1).astype(np.int64) for part in labels)
    known = np.arange(len(names)) if names else np.unique(train[train >= 0])
    if not len(known):
        raise InputError(f"{data}: the train labels are all negative; expected non-negative integers")
    for split, part in (("train", train), ("test", test)):
        strange = np.setdiff1d(part, known)
        if len(strange):
            listed = f"{known.min()} to {known.max()}" + ("" if names else ", as in the training split")
            raise InputError(f"{data}: the {split} labels contain {strange[0]}; expected {listed}")
    return [np.searchsorted(known, part) for part in (train, test)], names or tuple(map(str, known))


def class_number(name: str, classes: Sequence[str]) -> int:
    """Return the index of a class, given its name (case-insensitive) or its index as text.

    Raises:
        InputError: no class has this name or index, or several classes have this name. The message lists similar names.
    """
    wanted = name.strip().replace("_", " ").lower()
    found = [number for number, each in enumerate(classes) if each.replace("_", " ").lower() == wanted]
    if len(found) > 1:
        raise InputError(f"{name!r} is the name of classes {' and '.join(map(str, found))}; give the class index")
    if found:
        return found[0]
    if wanted.isdecimal() and int(wanted) < len(classes):
        return int(wanted)
    near = difflib.get_close_matches(wanted, [each.replace("_", " ").lower() for each in classes], 5, 0.4)
    meant = [each for part in near for each in classes if each.replace("_", " ").lower() == part]
    meant += [each for each in classes if wanted and wanted in each.lower() and each not in meant]
    names = ", ".join(list(dict.fromkeys(meant))[:6] or classes[:6])
    raise InputError(
        f"{name!r} is not one of the {len(classes)} classes; the most similar are {names}; use one of these names, "
        "or a class index"
    )


def as_many_of_each(part: Split, count: int, seed: int) -> Split:
    """Return a split with `count` images, chosen at random, with the same number per class.

    Raises:
        InputError: `count` is not a multiple of the number of classes, or a class has too few images.
    """
    order, classes = np.arange(len(part.labels)), np.unique(part.labels)
    np.random.default_rng(seed).shuffle(order)
    per_class, rest = divmod(count, len(classes))
    if count < 1 or rest:
        near = f"try {max(1, per_class) * len(classes)}"
        raise InputError(f"labelled must be a multiple of {len(classes)}, the number of classes, got {count}; {near}")
    picked = [order[part.labels[order] == number][:per_class] for number in classes]
    least = min(len(chosen) for chosen in picked)
    if least < per_class:
        most = f"set it to {least * len(classes)} or less"
        raise InputError(f"labelled needs {per_class} training images per class, but one class has {least}; {most}")
    chosen = np.concatenate(picked)
    return part._replace(items=part.items[chosen], labels=part.labels[chosen])


class InParts(Protocol):
    """Images in three splits, with labels of any kind."""

    @property
    def train(self) -> Split:
        """Training split."""

    @property
    def validation(self) -> Split:
        """Validation split, for model selection."""

    @property
    def test(self) -> Split:
        """Test split, for the final scores."""


def labelled_batches(
    data: InParts, batch_size: int, seed: int, shift: int = 0, mirror: bool = False, validate: int = 5000
) -> Batches:
    """Return shuffled batches (images, labels) of the training split, with validation examples in `held_out`.

    Args:
        data: the images.
        batch_size: images per batch; at most the size of the training split.
        seed: seed of the shuffling and the augmentation.
        shift: maximum random translation in pixels, horizontally and vertically, with black padding.
        mirror: flip each image left to right with probability 0.5.
        validate: maximum number of validation examples in `held_out`, evenly spaced.
    """
    train, read = data.train, data.train.read

    def load(item: tuple[tf.Tensor, tf.Tensor], _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.numpy_function(read, [item[0]], tf.uint8, stateful=False)
        return tf.ensure_shape(image, shape), item[1]

    def augmented(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count, height, width = images.shape[:3]
        *move_seeds, mirror_seed = tf.unstack(tf.random.split(seed, 3))
        if shift:
            for axis, side, move_seed in zip((1, 2), (height, width), move_seeds, strict=True):
                margin = [[shift, shift] if axis == other else [0, 0] for other in range(4)]
                first = tf.random.stateless_uniform([count, 1], move_seed, 0, 2 * shift + 1, tf.int32)
                images = tf.gather(tf.pad(images, margin), first + tf.range(side), axis=axis, batch_dims=1)
        if mirror:
            flipped = tf.random.stateless_uniform([count, 1, 1, 1], mirror_seed) < 0.5
            images = tf.where(flipped, images[:, :, ::-1], images)
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
        augmented if shift or mirror else None,
    )


def image_batches(
    data: InParts, batch_size: int, seed: int, shift: int = 0, mirror: bool = False, validate: int = 1000
) -> Batches:
    """Return `labelled_batches` without the labels: batches and held-out examples are `(images,)`."""
    stream = labelled_batches(data, batch_size, seed, shift, mirror, validate)

    def at(step: int, part: int = 0, parts: int = 1) -> tf.data.Dataset:
        return stream.at(step, part, parts).map(lambda images, _: (images,))

    return stream._replace(at=at, held_out=stream.held_out[:1])


def cached_features(
    network: keras.Model, extract: Callable[[keras.Model, np.ndarray], np.ndarray], part: Split, folder: Path
) -> np.ndarray:
    """Return `extract(network, images)` for all images of a split, float32 [n, d], cached in `folder`.

    Each file contains the features of up to 1,000 images. Its name is a checksum of the network's weights and the
    images, so features are never reused for different weights or images.
    """
    weights = hashlib.sha256(b"".join(weight.tobytes() for weight in network.get_weights())).digest()
    found = []
    for images in part.in_order(1000):
        checksum = hashlib.sha256(weights + str(network.input_shape).encode() + images.tobytes()).hexdigest()
        path = folder / f"{checksum[:32]}.npy"
        features = cached_array(path, (len(images), network.output_shape[-1]))
        if features is None:
            features = extract(network, images)
            with replacing(path) as draft:
                np.save(draft, features)
        found.append(features)
    return np.concatenate(found)
