"""Seeded streams of batches that can start at any step, so interrupted runs resume exactly."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from common.metrics.class_scores import RECOGNISED, class_scores, of_the_same_classes
from common.metrics.scores import classifier_features, sample_diversity, sample_scores
from common.system.console import say
from common.system.files import InputError, data_file
from common.system.keras_files import load_keras_file
from common.system.lazy import tf


class Batches(NamedTuple):
    """An endless, seeded stream of batches that can start at any step."""

    steps_per_epoch: int
    # `at(step, part, parts)` returns a dataset that starts with the batch of `step`. Each batch is split into `parts`
    # equal slices, one per machine, and the dataset yields the slice with the index `part`.
    at: Callable[..., tf.data.Dataset]
    held_out: tuple[np.ndarray, ...] = ()  # held-out examples, only for scores and sample images
    paired: bool = False  # of two domains: whether the held-out images show the same scenes, in the same order

    @classmethod
    def of(
        cls,
        data: Batches | tf.data.Dataset | np.ndarray | Sequence[np.ndarray],
        batch_size: int,
        seed: int,
        steps_per_epoch: int | None = None,
    ) -> Batches:
        """Convert `data` to `Batches`.

        - `Batches` are returned unchanged, except that `steps_per_epoch` replaces their epoch length if it is given.
          Training resumes exactly.
        - NumPy arrays: one array, or several of the same length. They are shuffled with `seed` and split into batches
          of equal size. Training resumes exactly. There are no held-out examples.
        - A `tf.data.Dataset` must yield batches. It is not reshuffled. Its last batch may be smaller, unless you
          train on several devices. A dict is flattened in the order of its sorted keys. An epoch is one pass, or
          `steps_per_epoch` batches. A resumed run starts a new pass and skips the batches that were already used. It
          matches an uninterrupted run only if every pass yields the same batches and the `cardinality` is known. There
          are no held-out examples.

        Args:
            data: see above. Images are uint8 [n, height, width, channels].
            batch_size: examples per batch; used only for NumPy arrays. 0: see `batches`.
            seed: seed of the shuffling; used only for NumPy arrays.
            steps_per_epoch: batches per epoch; required for an infinite dataset.

        Raises:
            InputError: images are not uint8, arrays differ in length, arrays are shorter than one batch, the dataset is
                empty, or `steps_per_epoch` is less than 1, or missing for an infinite dataset.
        """
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise InputError(f"steps_per_epoch must be 1 or more, got {steps_per_epoch}")
        if isinstance(data, Batches):
            found = data
        elif isinstance(data, tf.data.Dataset):
            found = _of_dataset(data, steps_per_epoch)
        else:
            found = batches(_checked_arrays(data), batch_size, seed)
        return found if steps_per_epoch is None else found._replace(steps_per_epoch=steps_per_epoch)

    @staticmethod
    def zip(*streams: Batches) -> Batches:
        """Combine streams: each batch contains the tensors of all streams, as with `tf.data.Dataset.zip`.

        The longest stream sets the length of an epoch. Shorter streams repeat within an epoch.
        """
        return side_by_side(*streams)

    def some_held_out(self, most: int = 200) -> tuple[np.ndarray, ...]:
        """Return up to `most` of the held-out examples, evenly spaced; `()` if there are none."""
        counts = [min(most, len(part)) for part in self.held_out]
        places = [np.linspace(0, len(part) - 1, n).astype(int) for part, n in zip(self.held_out, counts, strict=True)]
        return tuple(part[chosen] for part, chosen in zip(self.held_out, places, strict=True))

    def diversity(self, generate: Callable[[int], np.ndarray]) -> dict[str, float]:
        """Return the diversity of generated images, relative to held-out images, as an entry for the training history.

        It is about 1 if generated images vary as much as held-out images, and near 0 after mode collapse; see
        `common.metrics.sample_diversity`.

        Args:
            generate: n -> n generated images, uint8 [n, height, width, channels].

        Returns:
            `{"diversity": ...}`; empty with fewer than two held-out images.
        """
        real = self.held_out[0] if self.held_out else np.empty(0)
        return {"diversity": sample_diversity(generate(len(real)), real)} if len(real) > 1 else {}


def _checked_arrays(data: Any) -> tuple[np.ndarray, ...]:
    parts = data if isinstance(data, list | tuple) else (data,)
    try:
        arrays = tuple(map(np.asarray, parts))
        lengths = {len(array) for array in arrays}
    except (TypeError, ValueError):  # not arrays, or rows of different lengths
        what = ", ".join(dict.fromkeys(type(part).__name__ for part in parts))
        raise InputError(f"data must be Batches, a tf.data.Dataset of batches, or NumPy arrays, got {what}") from None
    _check_images([(array.dtype.name, [*array.shape]) for array in arrays])
    if len(lengths) > 1:
        raise InputError(f"arrays must have the same length, got {', '.join(str(len(array)) for array in arrays)}")
    return arrays


AS_UINT8 = "if they are from 0 to 1, use np.uint8(np.round(255 * images))"


def _check_images(found: Sequence[tuple[str, list[int | None] | None]]) -> None:
    """Raise InputError if an array contains neither uint8 images nor integer labels, or if there are no images.

    `found` contains the dtype and the shape of each array. A shape is None if its rank is unknown.
    """
    for kind, shape in found:
        if shape and len(shape) == 4 and kind != "uint8":
            raise InputError(f"images must be uint8 from 0 to 255, got {kind} {shape}; {AS_UINT8}")
    if not any(shape and len(shape) == 4 for _, shape in found):
        shapes = " and ".join("an unknown shape" if shape is None else str(shape) for _, shape in found[:3])
        shapes += " and so on" if len(found) > 3 else ""
        raise InputError(f"data must contain uint8 images [n, height, width, channels], got {shapes}")
    for kind, shape in found:
        if shape is not None and len(shape) not in (1, 4):
            what = "images [n, height, width, channels] or labels [n]"
            hint = "; give the index of the class, not one value per class" if len(shape) == 2 else ""
            raise InputError(f"each array must contain {what}, got {kind} {shape}{hint}")
        if shape is not None and len(shape) == 1 and not kind.startswith(("int", "uint", "bool")):
            raise InputError(f"labels must be integers, got {kind} {shape}")


def _of_dataset(data: tf.data.Dataset, steps_per_epoch: int | None) -> Batches:
    data = data.map(lambda *batch: tuple(tf.nest.flatten(batch)))
    _check_images([(spec.dtype.name, spec.shape.as_list() if spec.shape.rank else None) for spec in data.element_spec])
    length = int(data.cardinality())
    if length == tf.data.INFINITE_CARDINALITY and steps_per_epoch is None:
        raise InputError("the dataset is infinite; set steps_per_epoch")
    if length == tf.data.UNKNOWN_CARDINALITY and steps_per_epoch is None:
        say("counting the batches of one pass over the dataset; set steps_per_epoch to skip this")
        with named_failures():
            length = int(data.reduce(np.int64(0), lambda count, *_: count + 1))
    if length == 0:
        raise InputError("the dataset is empty; it must yield at least one batch")
    steps = steps_per_epoch or length
    pass_length = length if length > 0 else steps  # if unknown, assume one pass per epoch

    def at(step: int, part: int = 0, parts: int = 1) -> tf.data.Dataset:
        stream = data.repeat().skip(step % pass_length)
        if parts > 1:  # each machine reads complete batches and keeps its part

            def own(*batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
                sizes = [tensor.shape[0] // parts for tensor in batch]
                return tuple(tensor[part * size : (part + 1) * size] for tensor, size in zip(batch, sizes, strict=True))

            stream = stream.map(own)
        return stream.prefetch(tf.data.AUTOTUNE)

    return Batches(steps, at)


def batches(
    items: np.ndarray | tuple[np.ndarray, ...],
    batch_size: int,
    seed: int,
    load: Callable | None = None,
    held_out: tuple[np.ndarray, ...] = (),
    augment: Callable | None = None,
) -> Batches:
    """Return shuffled batches of `load(item, seed)` or, without `load`, of the items themselves.

    The items of step s depend only on (seed, s). Each epoch uses a new permutation, computed from the seed and the
    epoch. With several machines and without `augment`, each machine loads only its own part of the batch.

    Args:
        items: the examples, as one array or several arrays of the same length.
        batch_size: examples per batch, on all machines together. 0: the largest size up to 500 that divides the number
            of examples, so that one pass covers all of them.
        seed: seed of the shuffling and the augmentation.
        load: (item, seed) -> the tensors of one example. Each call gets a different int32 [2] seed, for stateless
            random operations.
        held_out: held-out examples, stored in `Batches.held_out`.
        augment: (*batch, seed) -> the augmented batch. For small images, this is much faster than augmenting in `load`.

    Raises:
        InputError: there are fewer items than `batch_size`, or images in memory are not uint8.
    """
    for array in (items if isinstance(items, tuple) else (items,)) if load is None else ():
        if array.ndim == 4 and array.dtype != np.uint8:
            found = f"{array.dtype} {list(array.shape)}"
            raise InputError(f"images must be uint8 from 0 to 255, got {found}; {AS_UINT8}")
    count = len(items[0] if isinstance(items, tuple) else items)
    batch_size = batch_size or max((size for size in range(1, 501) if count and count % size == 0), default=1)
    steps = count // batch_size
    if not steps:
        raise InputError(f"{count} items are fewer than one batch of {batch_size}; add data, or lower --batch-size")
    tensors = as_tensors(items)

    def choose(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, within = step // steps, step % steps
        order = tf.cast(tf.stack([tf.constant(seed, tf.int64), epoch]), tf.int32)
        positions = within * batch_size + tf.range(batch_size, dtype=tf.int64)
        index = tf.random.experimental.index_shuffle(positions, order, count - 1)
        seeds = tf.stack([tf.fill([batch_size], tf.constant(seed, tf.int64)), epoch * count + positions], axis=1)
        return index, tf.cast(seeds, tf.int32)

    def pick(index: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, index), tensors)

    def at(step: int, part: int = 0, parts: int = 1) -> tf.data.Dataset:
        own = slice(part * (batch_size // parts), (part + 1) * (batch_size // parts))
        stream = tf.data.Dataset.counter(step).map(choose, tf.data.AUTOTUNE)
        if parts > 1 and augment is None:
            stream = stream.map(lambda index, seeds: (index[own], seeds[own]))
        if load is None:
            stream = stream.map(lambda index, _: tuple(tf.nest.flatten(pick(index))), tf.data.AUTOTUNE)
        else:  # unbatch the indices, not the items: unbatch() crashes the process if labels have the shape [n, 0]
            stream = (
                stream.unbatch()
                .map(lambda index, item_seed: load(pick(index), item_seed), tf.data.AUTOTUNE)
                .batch(batch_size if augment is not None else batch_size // parts, drop_remainder=True)
            )
        if augment is not None:
            seeds = tf.data.Dataset.counter(step).map(
                lambda s: tf.cast(tf.stack([tf.constant(seed, tf.int64), s]), tf.int32)
            )
            stream = tf.data.Dataset.zip(stream, seeds).map(lambda batch, seed: augment(*batch, seed), tf.data.AUTOTUNE)
            if parts > 1:  # split after `augment`, because its random values depend on the batch size
                stream = stream.map(lambda *batch: tuple(tensor[own] for tensor in batch))
        return stream.prefetch(tf.data.AUTOTUNE)

    return Batches(steps, at, held_out)


def as_tensors(items: Any) -> Any:
    """Convert arrays to tensors. File names are converted to raw bytes, because they may not be valid UTF-8."""

    def tensor(array: Any) -> tf.Tensor:
        if isinstance(array, np.ndarray) and array.dtype.kind == "U":
            array = np.array([os.fsencode(name) for name in array.ravel()], object).reshape(array.shape)
        return tf.convert_to_tensor(array)

    return tf.nest.map_structure(tensor, items)


def side_by_side(*streams: Batches) -> Batches:
    """Return batches with the tensors of all streams; see `Batches.zip`."""

    def at(step: int, part: int = 0, parts: int = 1) -> tf.data.Dataset:
        return tf.data.Dataset.zip(*(stream.at(step, part, parts) for stream in streams)).map(
            lambda *parts: tuple(tf.nest.flatten(parts))
        )

    held_out = tuple(images for stream in streams for images in stream.held_out)
    return Batches(max(stream.steps_per_epoch for stream in streams), at, held_out)


class Examples(NamedTuple):
    """The data selected by `--data`: training items, held-out items, and a function that decodes an item."""

    train: np.ndarray | tuple[np.ndarray, ...]
    test: np.ndarray | tuple[np.ndarray, ...]
    decode: Callable  # item -> image, uint8 [size, size, channels], or a tuple of images; works in graph mode
    label_maps: tuple[bool, ...] = (False,)  # for each image of an example, whether it is a label map
    digits: np.ndarray | None = None  # the digit that each held-out image shows, int [n]; None: unknown, or no digits
    classes: tuple[str, ...] = ()  # names of the classes, if an example is an image and its label
    crop: int = 0  # above 0: `decode` returns images of any size from `crop` px, of which squares of this side are used

    def mean_of_train(self, most: int = 0) -> tuple[np.ndarray, ...]:
        """Return the mean of up to `most` training examples, a baseline for scores. For 0, see `held_out`.

        Returns:
            uint8, one mean image per image of an example.
        """
        some = self._replace(test=self.train).held_out(most)
        return tuple(images.mean(axis=0).round().astype(np.uint8) for images in some)

    def batches(
        self, batch_size: int, seed: int, *, size: int = 0, jitter: float | None = None, held_out: int = 0
    ) -> Batches:
        """Return shuffled batches of the training examples, with held-out examples.

        Args:
            batch_size: examples per batch.
            seed: seed of the shuffling and the augmentation.
            size: height and width of the images in pixels; needed with `jitter`.
            jitter: enlargement factor of the random jitter, 1 or more (Isola et al., arXiv:1611.07004, appendix 6.2).
                All images of an example are enlarged by this factor, then cropped and flipped in the same random way.
                None: no augmentation. If `crop` is set, nothing is enlarged: `crop` pixels are cut out and flipped.
            held_out: the maximum number of held-out examples; for 0, see the method `held_out`.
        """
        load = cropped(self) if self.crop else undistorted(self) if jitter is None else jittered(self, size, jitter)
        return batches(self.train, batch_size, seed, load, self.held_out(held_out))

    def sample_scores(self, generate: Callable[..., np.ndarray]) -> dict[str, float | int | str]:
        """Use a digit classifier to compare generated images with held-out images (at most 10,000 each).

        Args:
            generate: n -> n generated images, uint8 [n, height, width, channels]. If the examples have classes, it is
                called as `generate(n, labels=labels)`, with the class indices [n] of the held-out images.

        Returns:
            With classes, see `common.metrics.class_scores`. Without:
            See `common.metrics.sample_scores`. Empty with fewer than two held-out images, and for images other than
            greyscale digits: the classifier knows nothing else. The data must have labels, and the classifier must
            predict at least RECOGNISED of those of the held-out images. As many training images as held-out ones, if
            there are so many, give the distances between real images.
        """
        if self.classes:
            real, labels = self.held_out(10_000)
            chosen = of_the_same_classes(self.train[1], labels)
            some = None if chosen is None else self._replace(test=tuple(part[chosen] for part in self.train))
            other = None if some is None else some.held_out(len(real))[0]

            def of_classes(labels: np.ndarray) -> np.ndarray:
                return generate(len(labels), labels=labels)

            return class_scores(self.classes, real, labels, of_classes, other)
        if self.digits is None or len(self.digits) < 2 or self.held_out(1)[0].shape[-1] != 1:
            return {}
        (real,) = self.held_out(10_000)
        classifier = load_keras_file(data_file("digit_classifier.keras"))
        predicted = classifier_features(classifier, real)[1].argmax(1)
        if np.mean(predicted == self.digits[self._spread(10_000)]) < RECOGNISED:
            return {}
        (other,) = self._replace(test=self.train).held_out(len(real))
        enough = len(other) == len(real)
        return sample_scores(data_file("digit_classifier.keras"), real, generate(len(real)), other if enough else None)

    def held_out(self, most: int = 0) -> tuple[np.ndarray, ...]:
        """Decode up to `most` evenly spaced held-out examples; return a tuple of uint8 [n, size, size, channels].

        If `crop` is set, each is the centre of an image. If `most` is 0, it is 200, or less for images above 512 px:
        all images together then have at most as many pixels as 200 images of 512 px, but they are at least 8.
        """
        chosen = self._spread(most or MOST_HELD_OUT)
        parts = as_tensors(tf.nest.map_structure(lambda part: part[chosen], self.test))
        items = tf.data.Dataset.from_tensor_slices(parts)
        with named_failures():
            items = items.map(lambda *item: self._whole(item if len(item) > 1 else item[0]))
            if not most:
                pixels = tf.nest.flatten(items.element_spec)[0].shape[:2].num_elements() or 1
                most = max(8, min(MOST_HELD_OUT, MOST_HELD_OUT * 512**2 // pixels))
                if most < len(chosen):
                    return self.held_out(most)
            decoded = list(items.as_numpy_iterator())
        columns = zip(*decoded, strict=True) if isinstance(decoded[0], tuple) else [decoded]
        return tuple(np.stack(column) for column in columns)

    def _whole(self, item: Any) -> Any:
        """Decode an item. If `crop` is set, return the centre of each image."""
        decoded = self.decode(item)
        return tf.nest.map_structure(lambda image: centre(image, self.crop), decoded) if self.crop else decoded

    def _spread(self, most: int) -> np.ndarray:
        """Return the indices of up to `most` evenly spaced held-out examples."""
        count = len(self.test[0] if isinstance(self.test, tuple) else self.test)
        return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


MOST_HELD_OUT = 200  # held-out examples, if none of another number are asked for


@contextmanager
def named_failures() -> Iterator[None]:
    """Re-raise an InputError that tf.data has wrapped in an OpError."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"InputError: (.*)", error.message)
        if not found:
            raise
        raise InputError(found[1]) from None


def as_they_are(item: tf.Tensor) -> tf.Tensor:
    """Return `item` unchanged. This is the `decode` function for images in memory."""
    return item


def undistorted(examples: Examples) -> Callable | None:
    """Return the `load` function for `batches` without augmentation, or None (faster) for images in memory."""
    if examples.decode is as_they_are:
        return None
    return lambda item, seed: tf.nest.flatten(examples.decode(item))


def cropped(examples: Examples) -> Callable:
    """Return the `load` function for `batches` with random crops: (item, seed) -> the images of an item.

    From all images of an item, which have the same size, the same square of `examples.crop` pixels is cut out. It is
    flipped at random. Output images are uint8 [crop, crop, channels].
    """

    def load(item: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        images = tf.nest.flatten(examples.decode(item))
        crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
        room = tf.shape(images[0])[:2] - examples.crop + 1
        top, left = tf.unstack(tf.random.stateless_uniform((2,), crop_seed, 0, 2**31 - 1, tf.int32) % room)
        squares = (square(image, top, left, examples.crop) for image in images)
        return tuple(tf.image.stateless_random_flip_left_right(image, flip_seed) for image in squares)

    return load


def centre(image: tf.Tensor, side: int) -> tf.Tensor:
    """Return the square of `side` pixels in the centre of [height, width, channels]."""
    top, left = tf.unstack((tf.shape(image)[:2] - side) // 2)
    return square(image, top, left, side)


def square(image: tf.Tensor, top: tf.Tensor, left: tf.Tensor, side: int) -> tf.Tensor:
    """Return the square of `side` pixels at (top, left) of [height, width, channels]."""
    return tf.ensure_shape(image[top : top + side, left : left + side], (side, side, image.shape[-1]))


def jittered(examples: Examples, size: int, enlarge: float) -> Callable:
    """Return the `load` function for `batches` with random jitter: (item, seed) -> the images of an item.

    All images of an item are enlarged by the factor `enlarge`, then cropped and flipped in the same random way. The
    Pix2Pix and CycleGAN papers use the factor 286 / 256. Label maps are resized with nearest-neighbour interpolation.
    Input and output images are uint8 [size, size, channels].
    """
    large = round(size * enlarge)
    methods = [tf.image.ResizeMethod.BILINEAR, tf.image.ResizeMethod.NEAREST_NEIGHBOR]

    def load(item: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        decoded = examples.decode(item)
        images = list(decoded) if isinstance(decoded, tuple) else [decoded]
        channels = [image.shape[-1] for image in images]
        if large > size:
            enlarged = zip(images, examples.label_maps, strict=True)
            images = [tf.image.resize(image, (large, large), methods[labels]) for image, labels in enlarged]
        stack = tf.concat([tf.cast(image, tf.float32) for image in images], axis=-1)
        crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
        stack = tf.image.stateless_random_crop(stack, (size, size, sum(channels)), crop_seed)
        stack = tf.cast(tf.round(tf.image.stateless_random_flip_left_right(stack, flip_seed)), tf.uint8)
        return tuple(tf.split(stack, channels, axis=-1))

    return load
