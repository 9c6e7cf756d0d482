"""Style transfer: paint one picture in the manner of another, by moving its pixels before a network.

Paper    Gatys, Ecker & Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016,
         doi:10.1109/CVPR.2016.265 (arXiv:1508.06576); colours: Gatys et al. 2016, arXiv:1606.05897; from coarse to
         fine: Gatys et al., CVPR 2017, arXiv:1611.07865, section 6.
Images   uint8 [height, width, 3] at the borders; float32 in [-1, 1] before the network.
Losses   relative: what is left of the content's maps, and of the paintings' Gram matrices, as shares of their squares.
Differs  1. The content is first given the painting's colours, as `--colours matched` says, or keeps its own.
         2. Small first, then larger: strokes become longer, and most of the work is done where it is cheap.
         3. Losses are relative, so that one weight fits all layers and networks; edges are mirrored, pools average.
Run      python -m recipes.style_transfer                                the demo: a photo and a drawn texture, offline
         python -m recipes.style_transfer stylize photo.jpg out.png --style painting.jpg
         python -m recipes.style_transfer stylize photo.jpg out.png --style a.jpg b.jpg --shares 2 1 --colours kept
         python -m recipes.style_transfer stylize photo.jpg out.png --style a.jpg --preset vgg19 --fetch    as the paper
         python -m recipes.style_transfer train --data photo.jpg --style a.jpg --output-dir runs/a   stopped? goes on
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.canvas import (
    Painting,
    enlarged,
    keep_colours,
    match_colours,
    read_painting,
    resume_painting,
    save_painting,
    smaller,
)
from common.cli import run_command
from common.errors import InputError
from common.imagenet import frozen_features
from common.images import from_uint8, resize_image, save_row, to_uint8, write_image
from common.lazy import keras, tf
from common.runs import check_run, finish_run, start_run
from common.training import History

# %% Configuration


@dataclass(frozen=True, kw_only=True)
class Config:
    """Before the embedded network; `VGG19` has the paper's layers (section 3)."""

    network: str = "embedded"  # or VGG19, or another of keras.applications; or file: any Keras model in a .keras file
    weights: str = ""  # imagenet, or a file of weights for that network
    content_layers: str = "conv3_2"  # whose maps should stay those of the content
    style_layers: str = "conv1_1,conv1_2,conv2_1,conv2_2,conv3_1,conv3_2,conv4_1,conv4_2"  # whose Gram matrices count
    content_weight: float = 1.0
    style_weight: float = 3000.0
    variation: float = 10.0  # weight of total variation, which smooths
    colours: str = "matched"  # the content gets the painting's first; or kept: its own at the end; or free
    start: str = "content"  # or style, or noise
    size: int = 512  # pixels of the longer side of what is painted; `stylize` keeps the photo's own size
    scales: int = 2  # sizes that are painted one after another, each twice the one before
    optimizer: str = "lbfgs"  # or adam
    learning_rate: float = 0.02  # of Adam, in [-1, 1]
    steps: int = 40  # times that the losses are computed in an epoch
    epochs: int = 2  # of each size; after each there is a picture, and a save
    seed: int = 0  # of the noise


DEMO = Config(size=256)
VGG19 = Config(
    network="VGG19",
    weights="imagenet",
    content_layers="block4_conv2",
    style_layers="block1_conv1,block2_conv1,block3_conv1,block4_conv1,block5_conv1",
)
DEMO_RUN = Path("runs/style_transfer-demo")

# %% Networks


class Networks(NamedTuple):
    """What looks; it does not learn."""

    features: keras.Model  # images [n, height, width, 3] in [-1, 1] -> maps of the content layers, then of the style's


def build(config: Config = Config()) -> Networks:
    """Return the network, which gives the maps of all layers that count. Raises ValueError for layers it has not."""
    if config.size < 32 * 2 ** (config.scales - 1):
        least = 32 * 2 ** (config.scales - 1)
        raise InputError(f"size must be at least {least} for {config.scales} scales, got {config.size}")
    layers = [*config.content_layers.split(","), *config.style_layers.split(",")]
    return Networks(frozen_features(config.network, config.weights, layers))


# %% Losses


def gram(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean products of every two channels over all places: [1, height, width, c] -> [c, c] (equation 3)."""
    flat = tf.reshape(maps, [-1, maps.shape[-1]])
    return tf.matmul(flat, flat, transpose_a=True) / tf.cast(tf.shape(flat)[0], tf.float32)


def relative(found: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Return the squared distance of two tensors as a share of the square of the second."""
    return tf.reduce_sum((found - wanted) ** 2) / tf.reduce_sum(wanted**2)


def total_variation(picture: tf.Tensor) -> tf.Tensor:
    """Return the mean square of the steps between neighbours of [1, height, width, 3]."""
    across, down = picture[:, :, 1:] - picture[:, :, :-1], picture[:, 1:] - picture[:, :-1]
    return tf.reduce_mean(across**2) + tf.reduce_mean(down**2)


def objective(networks: Networks, content: np.ndarray, styles: Sequence[tuple[np.ndarray, float]], config: Config):
    """Return a function, compiled once: a picture [1, height, width, 3] -> its losses [3] and the sum's gradient.

    `content` and the paintings, each with its share, are uint8 [height, width, 3].
    """
    (features,), first = networks, len(config.content_layers.split(","))
    wanted = features(from_uint8(content[None]), training=False)[:first]
    shares = np.array([share for _, share in styles]) / sum(share for _, share in styles)
    seen = [features(from_uint8(style[None]), training=False)[first:] for style, _ in styles]
    grams = [sum(s * gram(maps[layer]) for s, maps in zip(shares, seen, strict=True)) for layer in range(len(seen[0]))]

    @tf.function
    def losses(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(picture)
            maps = features(picture, training=False)
            kept = [relative(found, target) for found, target in zip(maps[:first], wanted, strict=True)]
            painted = [relative(gram(found), target) for found, target in zip(maps[first:], grams, strict=True)]
            parts = tf.stack([tf.reduce_mean(kept), tf.reduce_mean(painted), total_variation(picture)])
            total = tf.reduce_sum(parts * [config.content_weight, config.style_weight, config.variation])
        return parts, tape.gradient(total, picture)

    return losses


# %% Training: of pixels


def train(networks: Networks, data: Painting, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Paint in place, `data.picture`; return a row of losses for every epoch. Goes on from what `output_dir` holds."""
    improve = {"lbfgs": by_lbfgs, "adam": by_adam}[config.optimizer]
    noise = np.random.default_rng(config.seed).integers(0, 256, data.content.shape).astype(np.uint8)
    style = resize_image(data.styles[0][0], *data.content.shape[:2])
    starts = {"content": data.content, "style": style, "noise": noise}
    history, picture = resume_painting(output_dir)
    for scale in range(len(history) // config.epochs, config.scales):
        factor = 2 ** (config.scales - 1 - scale)
        content, start = smaller(data.content, factor), smaller(starts[config.start], factor)
        losses = objective(networks, content, [(smaller(image, factor), s) for image, s in data.styles], config)
        picture = from_uint8(start).numpy() if picture is None else enlarged(picture, *content.shape[:2])
        for epoch in range(len(history), (scale + 1) * config.epochs):
            picture, parts = improve(losses, picture, config)
            row = dict(zip(("content", "style", "variation"), map(float, parts), strict=True))
            history.append({"epoch": epoch + 1, "pixels": picture.shape[1]} | row)
            save_painting(output_dir, history, picture)
    data.picture[:] = to_uint8(picture)
    return history


def by_lbfgs(losses: Callable, picture: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture after so many evaluations of L-BFGS, and its losses (Gatys 2016, section 2.3).

    SciPy wants float64, and a loss that is no smaller than what its tests for convergence call nothing.
    """
    from scipy.optimize import minimize

    weights = np.array([config.content_weight, config.style_weight, config.variation])
    best = (np.inf, picture, np.zeros(3))

    def scaled(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        tried = point.reshape(picture.shape).astype(np.float32)
        parts, gradient = losses(tf.constant(tried[None]))
        value = float(weights @ parts.numpy())
        best = min(best, (value, tried, parts.numpy()), key=lambda one: one[0])
        return 1e3 * value, 1e3 * gradient.numpy().ravel().astype(np.float64)

    options = {"maxfun": config.steps, "maxiter": config.steps, "maxcor": 10, "ftol": 0, "gtol": 0}
    minimize(scaled, picture.ravel().astype(np.float64), jac=True, method="L-BFGS-B", options=options)
    return np.clip(best[1], -1, 1), best[2]


def by_adam(losses: Callable, picture: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture after so many steps of Adam, and its losses before the last."""
    canvas, optimizer = keras.Variable(picture[None]), keras.optimizers.Adam(config.learning_rate)
    optimizer.build([canvas])
    for _ in range(config.steps):
        parts, gradient = losses(canvas.value)
        optimizer.apply([gradient], [canvas])
        canvas.assign(tf.clip_by_value(canvas.value, -1, 1))
    return canvas.numpy()[0], parts.numpy()


# %% A whole run


def stylize(networks: Networks, painting: Painting, config: Config, output_dir: Path | None = None) -> np.ndarray:
    """Return the painting, uint8 [height, width, 3], with the colours that the settings ask for."""
    first = painting.styles[0][0]
    content = match_colours(painting.content, first) if config.colours == "matched" else painting.content
    canvas = painting._replace(picture=content.copy(), content=content)
    train(networks, canvas, config, output_dir)
    return keep_colours(canvas.picture, painting.content) if config.colours == "kept" else canvas.picture


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/style_transfer"),
    style: tuple[Path, ...] = (),
    shares: tuple[float, ...] = (),
    fetch: bool = False,
) -> Path:
    """Paint a photo, the file `data`, in the manner of `style`, or go on; leave a run, return the picture."""
    check_run(output_dir, "style_transfer", config, data)
    networks = build(config)
    painting = read_painting(data, style, shares, config.size)
    start_run(output_dir, "style_transfer", config, data)
    picture = stylize(networks, painting, config, output_dir)
    path = write_image(picture, output_dir / "painting.png")
    save_row([painting.content, *(image for image, _ in painting.styles), picture], output_dir / "styles.png")
    finish_run(output_dir, networks, lambda: {})
    return path


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Paint scikit-image's cat in the manner of a texture that the project draws; return the picture."""
    return experiment("sample", config, output_dir)


def stylize_file(
    source: Path,
    destination: Path,
    style: tuple[Path, ...] = (),
    shares: tuple[float, ...] = (),
    config: Config = Config(),
) -> Path:
    """Paint a photo, at the size that the settings say, in the manner of one or more paintings."""
    networks = build(config)
    painting = read_painting(str(source), style, shares, config.size)
    return write_image(stylize(networks, painting, config), destination)


if __name__ == "__main__":
    presets = {"embedded": Config(), "vgg19": VGG19, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, stylize=stylize_file)
