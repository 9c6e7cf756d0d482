"""Short versions of functions and classes from `common`, for `--bare` copies. They need Keras, TensorFlow, NumPy."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf


def fit(step, dataset: tf.data.Dataset, epochs: int) -> list[dict[str, float]]:
    """Run `step` on each batch in `dataset`, `epochs` times, and return one row of mean losses per epoch."""
    history = []
    for epoch in range(1, epochs + 1):
        rows = [step(*tf.nest.flatten(batch)) for batch in dataset]
        means = {name: sum(float(row[name]) for row in rows) / len(rows) for name in rows[0]}
        history.append({"epoch": epoch, **means})
        print("  ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))
    return history


def from_uint8(images: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Convert pixels from uint8 to float32 in [-1, 1]."""
    tf.debugging.assert_type(images, tf.uint8)
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def adam(
    learning_rate: Any,
    variables: list,
    beta_1: float = 0.9,
    weight_decay: float | None = None,  # only with: weight_decay
) -> keras.Optimizer:
    """Return an Adam optimizer for `variables`."""
    optimizer = keras.optimizers.Adam(
        learning_rate,
        beta_1=beta_1,
        weight_decay=weight_decay,  # only with: weight_decay
    )
    optimizer.build(variables)
    return optimizer


class Noise:
    """Random numbers from a seed."""

    def __init__(self, seed: int) -> None:
        self.seeds = keras.random.SeedGenerator(seed)

    def normal(self, shape: Any) -> tf.Tensor:
        """Return float32 samples of a normal distribution."""
        return keras.random.normal(shape, seed=self.seeds)

    def uniform(self, shape: Any, minval: Any = 0.0, maxval: Any = 1.0) -> tf.Tensor:
        """Return float32 samples in [minval, maxval)."""
        return keras.random.uniform(shape, minval, maxval, seed=self.seeds)

    def integers(self, shape: Any, minval: int, maxval: int) -> tf.Tensor:
        """Return int32 samples from `minval` to `maxval` - 1."""
        return keras.random.randint(shape, minval, maxval, seed=self.seeds)


def frozen_features(network: str, weights: str, layers: list[str], size: int = 0) -> keras.Model:
    """Return a frozen keras.applications network: images [n, h, w, 3] in [-1, 1] -> feature maps of `layers`."""
    found = getattr(keras.applications, network)(include_top=False, weights=weights, input_shape=(None, None, 3))
    x = images = keras.Input((None, None, 3), name="images")
    if network in ("VGG19", "ResNet50"):  # their input is BGR minus the channel means
        x = (keras.ops.flip(images, -1) + 1) * 127.5 - keras.ops.convert_to_tensor([103.939, 116.779, 123.68])
    names = [part.partition("=")[0].strip() for text in layers for part in text.split(",")]
    features = keras.Model(found.inputs, [found.get_layer(name).output for name in names])(x)
    features = keras.Model(images, features, name="features")
    features.trainable = False
    return features


def read_style(style: str, size: int = 512) -> np.ndarray:
    """Read a style image as uint8 [height, width, 3]. Shrink its longer side to at most `size` pixels."""
    image = tf.io.decode_image(tf.io.read_file(style), 3, expand_animations=False)
    factor = min(1.0, size / max(image.shape[:2]))
    sides = [round(side * factor) for side in image.shape[:2]]
    return tf.cast(tf.image.resize(image, sides, antialias=True), tf.uint8).numpy()


def layer_weights(text: str) -> dict[str, float]:
    """Return the weight of each layer in "NAME,NAME=WEIGHT"; the default is 1."""
    parts = [part.partition("=") for part in text.split(",")]
    return {name.strip(): float(weight or 1) for name, _, weight in parts}


def smallest_side(features: keras.Model, *images: np.ndarray) -> int:
    """Return the minimum image side in pixels: 32, which is enough for all networks except InceptionV3."""
    return 32


class ImageProgress(contextlib.nullcontext):
    """The image that is optimised, and its history."""

    def __init__(self, description: str, total_steps: int, epoch_steps: int) -> None:
        super().__init__(self)
        self.history: list[dict[str, float]] = []
        self.image = np.empty((0, 0, 3), np.float32)

    def step(self, text: str = "") -> None:
        """Do nothing: a bare copy shows no progress bar."""

    def resized(self, height: int, width: int) -> np.ndarray:
        """Return the image, resized with bicubic interpolation."""
        return tf.clip_by_value(tf.image.resize(self.image, [height, width], "bicubic"), -1, 1).numpy()

    def save(self, image: np.ndarray, **row: float) -> None:
        """Store a float32 image [height, width, 3], and append a row to the history."""
        self.image = image
        self.history.append({"epoch": len(self.history) + 1, **row})
        print("  ".join(f"{name} {value:.4g}" for name, value in self.history[-1].items()))


class Painting(NamedTuple):
    """An image that is optimised in place to have the content of `content` and the style of `styles`."""

    image: np.ndarray  # uint8 [height, width, 3]
    content: np.ndarray  # the same shape
    styles: list[tuple[np.ndarray, float]]  # uint8 [height, width, 3] of any size, with weights

    @classmethod
    def of(cls, content: np.ndarray, styles: list[tuple[np.ndarray, float]]) -> Painting:
        """Return a painting that starts as a copy of its content. The style weights are scaled to a sum of 1."""
        total = sum(weight for _, weight in styles)
        return cls(content.copy(), content, [(image, weight / total) for image, weight in styles])

    def smallest_side(self, features: keras.Model) -> int:
        """Return the minimum image side in pixels: 32, which is enough for all networks except InceptionV3."""
        return 32

    def shrunk(self, factor: float, smallest: int) -> Painting:
        """Return a painting with all images shrunk by `factor`, but to at least `smallest` pixels per side."""

        def shrink(image: np.ndarray) -> np.ndarray:
            scale = max(1.0, min(factor, min(image.shape[:2]) / smallest))
            return resize_image(image, *(round(side / scale) for side in image.shape[:2]))

        return Painting(shrink(self.image), shrink(self.content), [(shrink(x), weight) for x, weight in self.styles])


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a uint8 image [height, width, channels] with anti-aliased bicubic interpolation."""
    resized = tf.image.resize(image, [height, width], "bicubic", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8).numpy()


def resize_pixels(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a float32 image [h, w, 3], with area averaging to shrink it, or bicubic interpolation to enlarge it."""
    is_smaller = height <= image.shape[0] and width <= image.shape[1]
    resized = tf.image.resize(image, [height, width], "area" if is_smaller else "bicubic")
    return np.clip(resized.numpy(), -1, 1)


def predict(network: keras.Model, inputs: Any, batch_size: int = 250) -> Any:
    """Return the outputs for all `inputs`, computed `batch_size` at a time."""
    return network.predict(inputs, batch_size, verbose=0)


def tracked(items: Any, what: str, unit: str, total: int | None = None) -> Any:
    """Yield `items`."""
    return iter(items)
