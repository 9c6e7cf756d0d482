"""Seeded streams of batches that can begin at any step, so that a stopped run goes on exactly."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from common.errors import InputError
from common.lazy import keras, tf


class Batches(NamedTuple):
    """An endless stream of batches, shuffled anew every epoch."""

    steps_per_epoch: int
    at: Callable[..., tf.data.Dataset]  # step to begin with, part, parts -> from there on that part of each batch
    held_out: tuple[np.ndarray, ...] = ()  # uint8 examples for the pictures of an epoch; never trained on


def batches(
    items: np.ndarray | tuple[np.ndarray, ...],
    batch_size: int,
    seed: int,
    load: Callable | None = None,
    held_out: tuple[np.ndarray, ...] = (),
    augment: Callable | None = None,
) -> Batches:
    """Return batches of `load(item, seed)`; without `load`, of the items themselves.

    The items of step s are a function of (seed, s) alone, and so is each of the equal parts that several machines make
    of them: together they are the whole batch, and none loads another's. The shuffle is a permutation computed from the
    epoch's number, and `load` gets an int32 [2] seed of its own for every item, for stateless augmentation.
    `augment(*batch, seed)` gets a whole batch, which for small images takes a fraction of the time.

    Raises:
        InputError: there are fewer items than one batch needs.
    """
    count = len(items[0] if isinstance(items, tuple) else items)
    steps = count // batch_size
    if not steps:
        raise InputError(f"{count} items are fewer than one batch of {batch_size}: add data or lower --batch-size")
    tensors = as_tensors(items)

    def choose(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, within = step // steps, step % steps
        order = tf.cast(tf.stack([tf.constant(seed, tf.int64), epoch]), tf.int32)
        places = within * batch_size + tf.range(batch_size, dtype=tf.int64)
        index = tf.random.experimental.index_shuffle(places, order, count - 1)
        seeds = tf.stack([tf.fill([batch_size], tf.constant(seed, tf.int64)), epoch * count + places], axis=1)
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
        else:  # indices are unbatched, not items: unbatch() crashes the process at labels of no attribute, [n, 0]
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
            if parts > 1:  # what is drawn for a batch depends on its size
                stream = stream.map(lambda *batch: tuple(tensor[own] for tensor in batch))
        return stream.prefetch(tf.data.AUTOTUNE)

    return Batches(steps, at, held_out)


def as_tensors(items: Any) -> Any:
    """Return arrays as tensors: names of files as the bytes that the disk has, which need not be UTF-8."""

    def tensor(array: Any) -> tf.Tensor:
        if isinstance(array, np.ndarray) and array.dtype.kind == "U":
            array = np.array([os.fsencode(name) for name in array.ravel()], object).reshape(array.shape)
        return tf.convert_to_tensor(array)

    return tf.nest.map_structure(tensor, items)


def side_by_side(*streams: Batches) -> Batches:
    """Return batches that hold one of each stream; an epoch is as long as the longest, the others begin anew in it."""

    def at(step: int, part: int = 0, parts: int = 1) -> tf.data.Dataset:
        return tf.data.Dataset.zip(*(stream.at(step, part, parts) for stream in streams)).map(
            lambda *parts: tuple(tf.nest.flatten(parts))
        )

    held_out = tuple(images for stream in streams for images in stream.held_out)
    return Batches(max(stream.steps_per_epoch for stream in streams), at, held_out)


class Examples(NamedTuple):
    """What `--data` named: items to train on, items held out, and how an item becomes images."""

    train: np.ndarray | tuple[np.ndarray, ...]
    test: np.ndarray | tuple[np.ndarray, ...]
    decode: Callable  # one item -> uint8 [size, size, channels], or a tuple of them; works in a tf.data graph
    label_maps: tuple[bool, ...] = (False,)  # which images of an example have colours that must not be mixed

    def mean_of_train(self, most: int = 200) -> tuple[np.ndarray, ...]:
        """Return the mean of up to `most` training examples, for scores to be compared with: uint8 each."""
        some = self._replace(test=self.train).held_out(most)
        return tuple(images.mean(axis=0).round().astype(np.uint8) for images in some)

    def held_out(self, most: int = 200) -> tuple[np.ndarray, ...]:
        """Return up to `most` held-out examples, evenly spaced, decoded: a tuple of uint8 [n, size, size, channels]."""
        first = self.test[0] if isinstance(self.test, tuple) else self.test
        chosen = np.unique(np.linspace(0, len(first) - 1, min(most, len(first))).astype(int))
        parts = as_tensors(tf.nest.map_structure(lambda part: part[chosen], self.test))
        items = tf.data.Dataset.from_tensor_slices(parts)
        with named_failures():
            decoded = list(items.map(lambda *item: self.decode(item if len(item) > 1 else item[0])).as_numpy_iterator())
        columns = zip(*decoded, strict=True) if isinstance(decoded[0], tuple) else [decoded]
        return tuple(np.stack(column) for column in columns)


@contextmanager
def named_failures() -> Iterator[None]:
    """Let an InputError that was raised while reading an item come out of tf.data as itself again."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"InputError: (.*)", error.message)
        if not found:
            raise
        raise InputError(found[1]) from None


def as_they_are(item: tf.Tensor) -> tf.Tensor:
    """Return `item`: the decoding of what lies in memory."""
    return item


def undistorted(examples: Examples) -> Callable | None:
    """Return (item, seed) -> the images of an item, for `batches`; None, its quick way, where they lie in memory."""
    if examples.decode is as_they_are:
        return None
    return lambda item, seed: tf.nest.flatten(examples.decode(item))


def jittered(examples: Examples, size: int, enlarge: float) -> Callable:
    """Return (item, seed) -> the images of an item, enlarged, cropped back and mirrored at random, all alike.

    For `batches`; `enlarge` is a factor, 286 / 256 in the papers of Pix2Pix and CycleGAN. Label maps are
    enlarged by their nearest pixels. Images are uint8 [size, size, channels] before and after.
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


def mapped(network: keras.Model, inputs: np.ndarray | tf.Tensor, batch_size: int = 250) -> Any:
    """Return what a network gives in inference, float32 [n, ...] or a list where it has several outputs.

    Computed `batch_size` inputs at a time, so that a whole data set may be given.
    """
    parts = [network(inputs[start : start + batch_size], training=False) for start in range(0, len(inputs), batch_size)]
    return tf.nest.map_structure(lambda *outputs: np.concatenate([np.asarray(part) for part in outputs]), *parts)
