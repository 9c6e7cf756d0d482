"""Training data in memory, and shuffled batches of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from common.runs.kit.files import InputError, write
from common.runs.kit.images import save_image


class Batches(NamedTuple):
    """An infinite stream of batches that can start at any step."""

    steps_per_epoch: int
    at: Callable[[int], tf.data.Dataset]  # step -> the batches from this step on
    held_out: tuple[np.ndarray, ...] = ()  # examples that are not used for training

    @staticmethod
    def of(
        data: Any,
        batch_size: int,
        seed: int,
        steps_per_epoch: int | None = None,  # only with: steps_per_epoch: int
    ) -> Batches:
        """Convert a dataset of batches, or arrays of examples, to `Batches`. Arrays are shuffled with `seed`."""
        if isinstance(data, tf.data.Dataset):
            steps = len(data)  # only without: steps_per_epoch: int
            steps = steps_per_epoch or len(data)  # only with: steps_per_epoch: int
            return Batches(steps, lambda step: data.repeat().skip(step % steps))
        if not isinstance(data, Batches):
            data = shuffled(data if isinstance(data, tuple) else (data,), batch_size, seed)
        # only with: steps_per_epoch: int
        return data._replace(steps_per_epoch=steps_per_epoch or data.steps_per_epoch)
        # only without: steps_per_epoch: int
        return data

    @staticmethod
    def zip(*streams: Batches) -> Batches:
        """Return batches with the tensors of all `streams`. An epoch is as long as that of the longest stream."""
        steps = max(stream.steps_per_epoch for stream in streams)
        held_out = tuple(images for stream in streams for images in stream.held_out)
        return Batches(steps, lambda step: tf.data.Dataset.zip(*(stream.at(step) for stream in streams)), held_out)

    def diversity(self, generate: Callable[[int], np.ndarray]) -> dict[str, float]:
        """Return the `sample_diversity` of generated images, relative to held-out images."""
        if not self.held_out or len(self.held_out[0]) < 2:
            return {}
        return {"diversity": sample_diversity(generate(len(self.held_out[0])), self.held_out[0])}


def sample_diversity(samples: np.ndarray, real: np.ndarray) -> float:
    """Return the median nearest-neighbour distance of generated images, divided by that of real images."""
    pixels = [images.reshape(len(images), -1).astype(np.float64) for images in (samples, real)]
    distances = [NearestNeighbors(n_neighbors=1).fit(each).kneighbors()[0] for each in pixels]
    return float((np.median(distances[0] ** 2) / np.median(distances[1] ** 2)) ** 0.5)


def shuffled(
    arrays: tuple,
    batch_size: int,
    seed: int,
    held_out: tuple = (),
    augment: Callable | None = None,  # only with: jitter= or mirror=
) -> Batches:
    """Return batches of examples. Each epoch has a new random order, which depends only on `seed` and the epoch."""
    # only with: labelled.batches(0
    batch_size = batch_size or max(size for size in range(1, 501) if len(arrays[0]) % size == 0)
    count, steps = len(arrays[0]), len(arrays[0]) // batch_size
    if not steps:
        raise InputError(f"{count} examples are fewer than one batch of {batch_size}")
    tensors = [tf.constant(array) for array in arrays]

    def load(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        epoch, places = step // steps, step % steps * batch_size + tf.range(batch_size, dtype=tf.int64)
        order = tf.random.experimental.index_shuffle(places, tf.cast([seed, epoch], tf.int32), count - 1)
        # only without: jitter= or mirror=
        return tuple(tf.gather(tensor, order) for tensor in tensors)
        # only with: jitter= or mirror=
        batch = tuple(tf.gather(tensor, order) for tensor in tensors)
        # only with: jitter= or mirror=
        return batch if augment is None else augment(step, *batch)

    return Batches(steps, lambda step: tf.data.Dataset.counter(step).map(load).prefetch(tf.data.AUTOTUNE), held_out)


class Examples(NamedTuple):
    """Examples of one or more images each: uint8 [n, height, width, channels]."""

    train: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]
    label_maps: tuple[bool, ...] = ()  # only with: image_pairs

    def batches(
        self,
        batch_size: int,
        seed: int,
        *,
        size: int = 0,  # only with: jitter=
        jitter: float = 0,  # only with: jitter=
        held_out: int = 200,
    ) -> Batches:
        """Return shuffled batches of the training examples."""

        # only with: jitter=
        def augment(step: tf.Tensor, *batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
            count, steps = len(self.train[0]), len(self.train[0]) // batch_size
            first = tf.cast(step // steps * count + step % steps * batch_size, tf.int32)
            seeds = tf.stack([tf.fill([batch_size], seed), first + tf.range(batch_size)], axis=1)
            return tf.map_fn(change, (seeds, *batch), fn_output_signature=tuple(each.dtype for each in batch))

        # only with: jitter=
        def change(example: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:  # the same transform for all images
            seed, *images = example
            # only without: image_pairs
            stack = tf.image.resize(*images, 2 * [round(size * jitter)])
            # only with: image_pairs
            methods = ["nearest" if labels else "bilinear" for labels in self.label_maps]
            # only with: image_pairs
            larger = map(tf.image.resize, images, len(images) * [2 * [round(size * jitter)]], methods)
            # only with: image_pairs
            stack = tf.concat([tf.cast(image, tf.float32) for image in larger], axis=-1)
            crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
            stack = tf.image.stateless_random_crop(stack, (size, size, stack.shape[-1]), crop_seed)
            stack = tf.round(tf.image.stateless_random_flip_left_right(stack, flip_seed))
            # only without: image_pairs
            return (tf.cast(stack, tf.uint8),)
            # only with: image_pairs
            return tuple(tf.split(tf.cast(stack, tf.uint8), [image.shape[-1] for image in images], axis=-1))

        return shuffled(
            self.train,
            batch_size,
            seed,
            self.held_out(held_out),
            augment if jitter else None,  # only with: jitter=
        )

    def held_out(self, most: int = 200) -> tuple[np.ndarray, ...]:
        """Return up to `most` held-out examples, evenly spaced."""
        chosen = np.unique(np.linspace(0, len(self.test[0]) - 1, min(most, len(self.test[0]))).astype(int))
        return tuple(images[chosen] for images in self.test)

    def mean_of_train(self) -> tuple[np.ndarray, ...]:
        """Return the mean training example."""
        some = self._replace(test=self.train).held_out()
        return tuple(images.mean(0).round().astype(np.uint8) for images in some)


class Split(NamedTuple):
    """Images, uint8 [n, height, width, channels], and their class numbers."""

    items: np.ndarray
    labels: np.ndarray

    def loaded(self, most: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
        """Return up to `most` images, evenly spaced, and their labels."""
        chosen = np.unique(np.linspace(0, len(self.labels) - 1, min(most, len(self.labels))).astype(int))
        return self.items[chosen], self.labels[chosen]

    def in_order(self) -> list[np.ndarray]:
        """Return all images, in batches of up to 500."""
        return [self.items[start : start + 500] for start in range(0, len(self.items), 500)]

    def some(self, most: int) -> Split:
        """Return up to `most` of the images, evenly spaced."""
        return Split(*self.loaded(most))

    # only with: .train.images( or evaluate_attacks
    def images(self, chosen: np.ndarray) -> np.ndarray:
        """Return the images at the indices `chosen`."""
        return self.items[chosen]


class Labelled(NamedTuple):
    """Images with class numbers."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]

    def batches(
        self,
        batch_size: int,
        seed: int,
        *,
        shift: int = 0,  # only with: mirror=
        mirror: bool = False,  # only with: mirror=
        validate: int = 5000,
    ) -> Batches:
        """Return shuffled batches (images, class numbers) of the training split."""

        # only with: mirror=
        def augment(step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            *move_seeds, mirror_seed = tf.unstack(tf.random.split(tf.cast([seed, step], tf.int32), 3))
            images = tf.pad(images, [[0, 0], [shift, shift], [shift, shift], [0, 0]])
            for axis, move_seed in enumerate(move_seeds, 1):
                first = tf.random.stateless_uniform([len(images), 1], move_seed, 0, 2 * shift + 1, tf.int32)
                places = first + tf.range(images.shape[axis] - 2 * shift)
                images = tf.gather(images, places, axis=axis, batch_dims=1)
            turned = mirror & (tf.random.stateless_uniform([len(images), 1, 1, 1], mirror_seed) < 0.5)
            return tf.where(turned, images[:, :, ::-1], images), labels

        return shuffled(
            tuple(self.train),
            batch_size,
            seed,
            self.validation.loaded(validate),
            augment,  # only with: mirror=
        )

    def image_batches(
        self,
        batch_size: int,
        seed: int,
        *,
        shift: int = 0,  # only with: mirror=
        mirror: bool = False,  # only with: mirror=
        validate: int = 1000,
    ) -> Batches:
        """Return shuffled batches (images,) of the training split."""
        # only without: mirror=
        return shuffled((self.train.items,), batch_size, seed, self.validation.loaded(validate)[:1])
        # only with: mirror=
        steps, at, held_out = self.batches(batch_size, seed, shift=shift, mirror=mirror, validate=validate)
        # only with: mirror=
        return Batches(steps, lambda step: at(step).map(lambda images, _: (images,)), held_out[:1])

    def few_labels(self, count: int, seed: int) -> Labelled:
        """Return the same data with only `count` random training images, the same number from each class."""
        order, each = np.arange(len(self.train.labels)), count // len(self.classes)
        np.random.default_rng(seed).shuffle(order)
        numbers = range(len(self.classes))
        chosen = np.concatenate([order[self.train.labels[order] == number][:each] for number in numbers])
        return self._replace(train=Split(self.train.items[chosen], self.train.labels[chosen]))

    def knn_agreement(self, latents: np.ndarray, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the fraction of the ten nearest neighbours that have the same class, for latents and for pixels."""
        scores = {}
        for name, points in (("latents", latents), ("pixels", images.reshape(len(images), -1))):
            k = min(10, len(labels) - 1)
            found = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
            scores[f"knn_agreement_{name}"] = float((labels[found] == labels[:, None]).mean())
        return scores

    def feature_batches(self, network: Any, extract: Callable, batch_size: int, seed: int, cache: Path) -> Batches:
        """Return shuffled batches (features, class numbers) of the training split."""
        features = [extract(network, part.items) for part in (self.train, self.validation)]
        return shuffled((features[0], self.train.labels), batch_size, seed, (features[1], self.validation.labels))

    def train_name(self, index: int) -> str:
        """Return a description of a training image."""
        return f"training image {index}, {self.classes[self.train.labels[index]]}"

    def save_latents(self, latents: np.ndarray, labels: np.ndarray, path: Path, title: str, seed: int = 0) -> Path:
        """Plot latents [n, d], coloured by class. If d is greater than 2, t-SNE reduces them to two dimensions."""
        if latents.shape[1] > 2:
            perplexity = min(30, (len(latents) - 1) / 3)
            latents = TSNE(perplexity=perplexity, random_state=seed).fit_transform(latents)
        axes = (figure := Figure(figsize=(8, 7))).subplots()
        figure.colorbar(axes.scatter(latents[:, 0], latents[:, 1], 5, labels, cmap="tab10"))
        axes.set_title(title)
        return write(path, figure.savefig)

    def evaluate(self, classify: Callable[[np.ndarray], np.ndarray], output_dir: Path) -> tuple[Path, dict[str, float]]:
        """Classify the test images; return a figure with one row per predicted class, and the scores."""
        probabilities = np.concatenate([classify(images) for images in self.test.in_order()])
        predicted = probabilities.argmax(1)
        rows = {name: np.full_like(self.test.items[:10], 255) for name in self.classes}
        for number, row in enumerate(rows.values()):
            some = self.test.items[predicted == number][: len(row)]
            row[: len(some)] = some
        figure = save_image(rows, output_dir / "classified.png")
        return figure, {"test_accuracy": float(np.mean(predicted == self.test.labels))}


class Domains(NamedTuple):
    """Unpaired images from two domains, A and B."""

    a: Examples
    b: Examples
    names: tuple[str, str] = ("A", "B")

    def batches(self, batch_size: int, seed: int, *, size: int, jitter: float) -> Batches:
        """Return shuffled batches (images of A, images of B)."""
        most = min(batch_size, len(self.a.train[0]), len(self.b.train[0]))
        streams = [side.batches(most, k, size=size, jitter=jitter) for k, side in enumerate((self.a, self.b), seed)]
        return Batches.zip(*streams)

    def evaluate(self, a2b: Callable, b2a: Callable, path: Path) -> dict[str, float]:
        """Write translations of held-out images, and return the L1 distances of the images to their reconstructions."""
        (a,), (b,) = self.a.held_out(), self.b.held_out()
        save_translations(Batches(0, lambda step: None, (a, b)), a2b, b2a, path)
        pairs = {"a_cycle_l1": (a, b2a(a2b(a))), "b_cycle_l1": (b, a2b(b2a(b)))}
        return {name: float(np.abs(x / 255 - y / 255).mean()) for name, (x, y) in pairs.items()}


def save_translations(data: Batches, a2b: Callable, b2a: Callable, path: Path | None) -> dict[str, float]:
    """Write up to eight images per domain, their translations and reconstructions; return the diversities."""
    count = min(8, *map(len, data.held_out))
    a, b = (images[np.linspace(0, len(images) - 1, count).astype(int)] for images in data.held_out)
    to_b, to_a = a2b(a), b2a(b)
    if path is not None:
        rows = {"A": a, "A to B": to_b, "back to A": b2a(to_b), "B": b, "B to A": to_a, "back to B": a2b(to_a)}
        save_image(rows, path, zoom=max(1, 128 // a.shape[1]))
    return {"diversity_a2b": sample_diversity(to_b, b), "diversity_b2a": sample_diversity(to_a, a)}


class Attributed(NamedTuple):
    """Faces and their attributes; the labels are uint8 [n, attributes], 0 or 1."""

    train: Split
    validation: Split
    test: Split
    names: tuple[str, ...]

    def image_batches(self, batch_size: int, seed: int, *, mirror: bool = False) -> Batches:
        """Return shuffled batches (images,). With `mirror`, each image is mirrored with probability 0.5."""

        def augment(step: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor]:
            *_, mirror_seed = tf.unstack(tf.random.split(tf.cast([seed, step], tf.int32), 3))
            turned = mirror & (tf.random.stateless_uniform([len(images), 1, 1, 1], mirror_seed) < 0.5)
            return (tf.where(turned, images[:, :, ::-1], images),)

        return shuffled((self.train.items,), batch_size, seed, self.validation.loaded(1000)[:1], augment)

    def with_differing_attributes(self) -> Attributed:
        """Remove attributes that have the same value for all training faces."""
        differs = (self.train.labels == 1).any(axis=0) & (self.train.labels == 0).any(axis=0)
        train, validation, test = (part._replace(labels=part.labels[:, differs]) for part in self[:3])
        return Attributed(train, validation, test, tuple(np.array(self.names)[differs]))
