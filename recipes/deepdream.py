"""DeepDream: let a picture grow what a network sees in it, from coarse to fine.

Paper    Mordvintsev, Olah & Tyka, "Inceptionism: Going Deeper into Neural Networks", Google Research 2015; what the layers
         of a network like: Yosinski et al., ICML workshop 2015, arXiv:1506.06579.
Images   uint8 [height, width, 3] at the borders; float32 in [-1, 1] before the network.
Loss     the mean square of each chosen layer's maps, times its weight: it rises.
Differs  1. Gradients are the sum of several, smoothed more and more: dreams without the dots of single pixels.
         2. Large pictures are dreamt in tiles, each with a margin as wide as the network looks, so that no seam shows
            and memory does not grow with the picture.
Run      python -m recipes.deepdream                                       the demo: a photo, offline: texture dreams
         python -m recipes.deepdream dream photo.jpg out.png               any size in, the same size out
         python -m recipes.deepdream dream photo.jpg out.png --preset vgg19 --fetch        ImageNet's eyes and dogs
         python -m recipes.deepdream zoom photo.jpg out.gif --frames 40    into the dream, or out.mp4
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.canvas import Canvas, enlarged, read_photo, save_film
from common.cli import run_command
from common.errors import InputError
from common.imagenet import frozen_features
from common.images import from_uint8, to_uint8, write_image
from common.lazy import keras, tf
from common.runs import check_run, finish_run, start_run
from common.training import History, write_history

# %% Configuration


@dataclass(frozen=True, kw_only=True)
class Config:
    """Before the embedded network, which dreams of textures; `VGG19` has the layers of a textbook."""

    network: str = "embedded"  # or VGG19, InceptionV3 and others of keras.applications; or file: any Keras model
    weights: str = ""  # imagenet, or a file of weights for that network
    layers: str = "conv3_2,conv4_1"
    layer_weights: str = "1,1"
    size: int = 384  # pixels of the longer side, in the demo and in `train`; `dream` keeps the photo's own
    epochs: int = 4  # octaves, of which each is larger than the one before; after each there is a picture
    octave_scale: float = 1.4
    steps: int = 14  # of an octave
    step_size: float = 0.01  # of a step, in [-1, 1], where the gradient is one standard deviation
    smoothings: int = 3  # gradients that are added, smoothed over 0, 1, 2 and more pixels
    variation: float = 0.0  # weight of total variation, which smooths
    shift: int = 16  # most pixels by which the picture is moved before each step, so that no place is special
    tile: int = 512  # pixels of a side of what is computed at once
    margin: int = 64  # pixels around a tile that are computed with it
    stop_at: float = 0.0  # loss at which an octave ends; 0: never
    seed: int = 0


VGG19 = Config(network="VGG19", weights="imagenet", layers="block2_pool,block5_pool", layer_weights="0.3,1.5")
DEMO = Config()
DEMO_RUN = Path("runs/deepdream-demo")

# %% Networks


class Networks(NamedTuple):
    """What looks; it does not learn."""

    features: keras.Model  # images [n, height, width, 3] in [-1, 1] -> the maps of the chosen layers


def build(config: Config = Config()) -> Networks:
    """Return the network, which gives the maps of the chosen layers. Raises ValueError for layers it has not."""
    if config.size < 32:
        raise InputError(f"size must be at least 32, got {config.size}")
    layers, weights = config.layers.split(","), config.layer_weights.split(",")
    if len(layers) != len(weights):
        raise InputError(f"layer_weights must be as many as layers, got {len(weights)} for {len(layers)}")
    return Networks(frozen_features(config.network, config.weights, layers))


# %% Loss and gradient


def gradient_of(networks: Networks, config: Config):
    """Return a function of a picture of any size, [1, height, width, 3] -> its loss and gradient; compiled once."""
    (features,), weights = networks, [float(weight) for weight in config.layer_weights.split(",")]

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)])
    def gradient(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(picture)
            maps = features(picture, training=False)
            loss = sum(w * tf.reduce_sum(tf.reduce_mean(m**2, -1)) for w, m in zip(weights, maps, strict=True))
        return loss, tape.gradient(loss, picture)

    return gradient


def tiled_gradient(gradient, picture: np.ndarray, config: Config) -> tuple[float, np.ndarray]:
    """Return the loss a pixel and the gradient of float32 [height, width, 3], computed tile by tile.

    What lies farther than `margin` from a tile has no say in the gradient inside it, if the network looks no farther.
    """
    height, width = picture.shape[:2]
    found, total = np.empty_like(picture), 0.0
    for top in range(0, height, config.tile):
        for left in range(0, width, config.tile):
            rows = slice(max(0, top - config.margin), min(height, top + config.tile + config.margin))
            columns = slice(max(0, left - config.margin), min(width, left + config.tile + config.margin))
            loss, part = gradient(tf.constant(picture[None, rows, columns]))
            inner = part.numpy()[0, top - rows.start :, left - columns.start :][: config.tile, : config.tile]
            found[top : top + config.tile, left : left + config.tile] = inner
            total += float(loss) * inner.shape[0] * inner.shape[1] / (part.shape[1] * part.shape[2])
    return total / (height * width), found


def smoothed(gradient: np.ndarray, count: int) -> np.ndarray:
    """Return the sum of a gradient [height, width, 3] smoothed over 0, 1, 2, 4 ... pixels, each of deviation 1."""
    import cv2

    parts = [gradient, *(cv2.GaussianBlur(gradient, (0, 0), 2.0**number) for number in range(count - 1))]
    total = np.sum([part / (part.std() + 1e-12) for part in parts], 0)
    return total / (total.std() + 1e-12)


def variation_gradient(picture: np.ndarray) -> np.ndarray:
    """Return the gradient of half the sum of the squared steps between neighbours of [height, width, 3]."""
    gradient = np.zeros_like(picture)
    for axis in (0, 1):
        steps = np.diff(picture, axis=axis)
        after, before = (slice(1, None), slice(None, -1))
        gradient[(after,) if axis == 0 else (slice(None), after)] += steps
        gradient[(before,) if axis == 0 else (slice(None), before)] -= steps
    return gradient


# %% Training: of pixels


def train(networks: Networks, data: Dream, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Dream in place, `data.picture`; return a row for every octave, from the smallest to the picture's own size."""
    gradient, random = gradient_of(networks, config), np.random.default_rng(config.seed)
    height, width = data.picture.shape[:2]
    original, detail, history = from_uint8(data.picture).numpy(), None, []
    for octave in range(config.epochs):
        factor = config.octave_scale ** (config.epochs - 1 - octave)
        size = max(32, round(height / factor)), max(32, round(width / factor))
        base = resized(original, *size)
        picture = base if detail is None else np.clip(base + enlarged(detail, *size), -1, 1)
        for _ in range(config.steps):
            rows, columns = random.integers(-config.shift, config.shift + 1, 2)
            picture = np.roll(picture, (rows, columns), (0, 1))
            loss, found = tiled_gradient(gradient, picture, config)
            uphill = smoothed(found, config.smoothings) - config.variation * variation_gradient(picture)
            picture = np.clip(picture + config.step_size * uphill, -1, 1)
            picture = np.roll(picture, (-rows, -columns), (0, 1))
            if 0 < config.stop_at <= loss:
                break
        detail = picture - base
        history.append({"epoch": octave + 1, "pixels": size[1], "loss": loss})
    data.picture[:] = to_uint8(picture)
    if output_dir is not None:
        write_history(output_dir, history)
    return history
