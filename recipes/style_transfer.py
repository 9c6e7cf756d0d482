"""Style transfer: paint one picture in the manner of another, by moving its pixels before a network.

Paper    Gatys, Ecker & Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016,
         doi:10.1109/CVPR.2016.265 (arXiv:1508.06576); colours: Gatys et al. 2016, arXiv:1606.05897; from coarse to
         fine: Gatys et al., CVPR 2017, arXiv:1611.07865, section 6.
Images   uint8 [height, width, 3] at the borders; float32 in [-1, 1] before the network.
Differs  1. The content first gets the painting's colours, as `--colours matched` says, or keeps its own in the end.
         2. Small first, then larger: strokes become longer, and most of the work is done where it is cheap.
         3. Losses are shares of what is wanted, so that one weight fits all layers and networks.
         4. L-BFGS forgets at every save what it knew of curvature, so that a run goes on bit for bit.
Run      python -m recipes.style_transfer                                the demo: a photo and a drawn texture, offline
         python -m recipes.style_transfer stylize photo.jpg out.png --style painting.jpg
         python -m recipes.style_transfer stylize photo.jpg out.png --style a.jpg=2,b.jpg=1 --colours kept
         python -m recipes.style_transfer stylize photo.jpg out.png --style a.jpg --preset vgg19 --fetch    as the paper
         python -m recipes.style_transfer train --data photo.jpg --style a.jpg --output-dir runs/a   stopped? goes on
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.canvas import (
    Painting,
    canvas_of,
    enlarged,
    keep_colours,
    keeping,
    least_side,
    match_colours,
    read_painting,
    resume_painting,
    save_painting,
    smaller,
    weighted_names,
    with_absolute_paths,
)
from common.cli import run_command
from common.errors import InputError
from common.imagenet import frozen_features
from common.images import from_uint8, image_suffix, resize_image, save_row, to_uint8, write_image
from common.lazy import keras, tf
from common.ranges import Epochs, LearningRate, Range, Seed, Weight
from common.runs import check_run, check_settings, finish_run, start_run
from common.training import History

# %% Configuration
# Three weights decide. `content_weight` holds the photo, `style_weight` asks for the painting's strokes, `variation`
# smooths what both leave rough. Since each loss is a share of what is wanted, these weights mean the same before any
# network; raise `style_weight` by factors of three until the photo is as far gone as you like. `style_layers` set the
# size of what is copied: the first layers know dots and edges, the later ones strokes and swirls. `colours` keeps the
# photo's own, or gives it the painting's before anything else, which makes the largest difference of all. Large
# pictures are painted small first (`scales`): a network sees only so far, and what it should call a stroke must not
# be larger than that.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Before the embedded network; `VGG19` has the paper's layers (section 3)."""

    style: str = "sample"  # FILE or FILE=SHARE, separated by commas; colours are the first one's; sample: drawn
    network: str = "embedded"  # VGG19, InceptionV3, NASNetMobile, MobileNetV2, ResNet50; or file: any Keras model
    weights: str = ""  # imagenet, or a file of weights for that network; for file a .keras file
    content_layers: str = "conv3_2"  # NAME or NAME=WEIGHT, separated by commas: whose maps should stay
    style_layers: str = "conv1_1,conv1_2,conv2_1,conv2_2,conv3_1,conv3_2,conv4_1,conv4_2"  # whose Gram matrices count
    content_weight: Weight = 1.0
    style_weight: Weight = 60.0
    variation: Weight = 100.0  # weight of total variation, which smooths
    colours: Literal["matched", "kept", "free"] = "matched"  # to the painting's first; or the content's at the end
    start: Literal["content", "style", "noise"] = "content"
    size: Annotated[int, Range(0, 16_384)] = 512  # most pixels of the longer side; 0: as the photo is
    scales: Annotated[int, Range(1, 8)] = 2  # sizes that are painted one after another, each twice the one before
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    learning_rate: LearningRate = 0.02  # of Adam, in [-1, 1]
    steps: Annotated[int, Range(1, 100_000)] = 40  # times that the losses are computed in an epoch
    epochs: Epochs = 2  # of each size; after each there is a picture, and a save
    seed: Seed = 0  # of the noise


DEMO = Config(size=384)
VGG19_STYLE = ",".join(f"block{stage}_conv1" for stage in range(1, 6))
VGG19 = Config(network="VGG19", weights="imagenet", content_layers="block4_conv2", style_layers=VGG19_STYLE)
DEMO_RUN = Path("runs/style_transfer-demo")

# %% Networks
# A network that has learnt to tell pictures apart describes them in layers: edges, then textures, then parts. Here it
# only looks, and never learns; what changes are the pixels before it. The embedded one is small (840,352 weights) and
# was trained by this project to tell textures and patches of photos apart, which is what a style needs. The paper's
# is VGG19.


class Networks(NamedTuple):
    """What looks; it does not learn."""

    features: keras.Model  # images [n, height, width, 3] in [-1, 1] -> maps of the content layers, then of the style's


def build(config: Config = Config()) -> Networks:
    """Return the network, which gives the maps of all layers that count. Raises ValueError for layers it has not."""
    return networks_of(config)


def networks_of(config: Config, fetch: bool = False) -> Networks:
    """Do the same; Keras may `fetch` the weights."""
    check_settings(config)
    if config.size and config.size < 32:
        raise InputError(f"size must be at least 32, got {config.size}")
    layers = [*weighted_names(config.content_layers), *weighted_names(config.style_layers)]
    return Networks(frozen_features(config.network, config.weights, layers, fetch))


# %% Losses
# Content is where things are: the maps of a late layer, compared place by place with the photo's. Style is what
# occurs together, wherever it is: Gram matrices, the mean products of every two channels, compared with the
# painting's. Both are divided by the square of what is wanted, so a picture in which nothing is seen has a loss of 1
# and a perfect one of 0.

LOSSES = ("content", "style", "variation", "loss")


def gram(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean products of every two channels over all places: [1, height, width, c] -> [c, c] (equation 3)."""
    flat = tf.reshape(maps, [-1, maps.shape[-1]])
    return tf.matmul(flat, flat, transpose_a=True) / tf.cast(tf.shape(flat)[0], tf.float32)


# By hand: two channels at two places, (1, 2) and (3, 4). Their mean products are (1 + 9) / 2 = 5, (2 + 12) / 2 = 7
# and (4 + 16) / 2 = 10. Where the places lie does not matter, only what occurs together with what: that is the style.
# >>> gram(tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]]))


def share_left(found: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Return the squared distance of two tensors as a share of the square of the second; 0 where that is 0."""
    return tf.math.divide_no_nan(tf.reduce_sum((found - wanted) ** 2), tf.reduce_sum(wanted**2))


def total_variation(picture: tf.Tensor) -> tf.Tensor:
    """Return the mean square of the steps between neighbours, across and down, of [1, height, width, 3]."""
    across, down = picture[:, :, 1:] - picture[:, :, :-1], picture[:, 1:] - picture[:, :-1]
    return tf.reduce_mean(across**2) + tf.reduce_mean(down**2)


def make_losses(networks: Networks, painting: Painting, config: Config) -> Callable:
    """Return a function, compiled once: a picture [1, height, width, 3] -> its losses [4], gradient of the last.

    The losses are of content, style and variation, and the sum of all three with the weights of the settings.
    """
    (features,) = networks
    layers = [list(weighted_names(names).values()) for names in (config.content_layers, config.style_layers)]
    content_weights, style_weights = (tf.constant(each) / sum(each) for each in layers)
    first = len(content_weights)
    weights = [config.content_weight, config.style_weight, config.variation]
    wanted = features(from_uint8(painting.content[None]), training=False)[:first]
    grams = [tf.constant(0.0)] * len(style_weights)
    for style, share in painting.styles:
        maps = features(from_uint8(style[None]), training=False)[first:]
        grams = [sum_so_far + share * gram(seen) for sum_so_far, seen in zip(grams, maps, strict=True)]

    @tf.function
    def losses(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(picture)
            maps = features(picture, training=False)
            kept = [share_left(found, target) for found, target in zip(maps[:first], wanted, strict=True)]
            painted = [share_left(gram(found), target) for found, target in zip(maps[first:], grams, strict=True)]
            content, style = tf.reduce_sum(content_weights * kept), tf.reduce_sum(style_weights * painted)
            parts = tf.stack([content, style, total_variation(picture)])
            total = tf.reduce_sum(weights * parts)
        return tf.concat([parts, [total]], 0), tape.gradient(total, picture)

    return losses


# %% Training: of pixels
# The picture itself is the variable. L-BFGS, which remembers the last ten gradients and guesses the curvature from
# them, gets further in the same time than Adam does, and has no rate to choose. It works in float64 on all pixels at
# once.
#
# What is logged, after each epoch of `steps` evaluations: `style`, the share of the painting's Gram matrices that is
# still missing: 1.29 for the demo's photo, 0.008 at its end. `content` rises from 0, since the photo is where it
# starts, to 0.54 there; at 1 nothing of it would be left. `loss` is the weighted sum, which falls within a size.


def train(networks: Networks, data: Painting, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Paint in place, `data.picture`; return a row of losses for every epoch. Goes on from what `output_dir` holds."""
    from tqdm import tqdm

    improve = {"lbfgs": by_lbfgs, "adam": by_adam}[config.optimizer]
    start = {"content": data.content, "style": resize_image(data.styles[0][0], *data.content.shape[:2])}
    start["noise"] = np.random.default_rng(config.seed).integers(0, 256, data.content.shape).astype(np.uint8)
    least = least_side(networks.features, data.content, *(image for image, _ in data.styles))
    history, picture = resume_painting(output_dir)
    bar = tqdm(total=config.scales * config.epochs * config.steps, desc="painting", unit="step", disable=None)
    with keeping(output_dir, history), bar:
        bar.update(len(history) * config.steps)
        for factor in (2**halvings for halvings in reversed(range(config.scales))):
            styles = [(smaller(image, factor, least), share) for image, share in data.styles]
            first, content = (smaller(image, factor, least) for image in (start[config.start], data.content))
            pixels = max(content.shape)
            if history and history[-1]["pixels"] > pixels:
                continue
            losses = make_losses(networks, Painting(first, content, styles), config)
            picture = enlarged(picture, *content.shape[:2]) if len(picture) else from_uint8(first).numpy()

            def told(x: tf.Tensor, losses: Callable = losses) -> tuple[tf.Tensor, tf.Tensor]:
                parts, gradient = losses(x)
                if not np.isfinite(parts).all():
                    raise FloatingPointError(f"the losses became {parts}: choose smaller weights or rates")
                bar.set_postfix_str(f"content {parts[0]:.3f}, style {parts[1]:.4f}", refresh=False)
                bar.update()
                return parts, gradient

            for _ in range(sum(row["pixels"] == pixels for row in history), config.epochs):
                started = time.monotonic()
                picture = improve(told, picture, config)
                found = dict(zip(LOSSES, map(float, losses(picture[None])[0]), strict=True))
                found |= {"pixels": pixels, "seconds": time.monotonic() - started}
                history.append({"epoch": len(history) + 1} | found)
                save_painting(output_dir, history, picture)
    data.picture[:] = to_uint8(enlarged(picture, *data.content.shape[:2]))
    return history


def by_lbfgs(losses: Callable, picture: np.ndarray, config: Config) -> np.ndarray:
    """Return a picture, [height, width, 3], after about so many evaluations of L-BFGS (Gatys, section 2.3)."""
    from scipy.optimize import minimize

    def scaled(point: np.ndarray) -> tuple[float, np.ndarray]:
        parts, gradient = losses(tf.constant(point.reshape(1, *picture.shape), tf.float32))
        return float(parts[-1]), gradient.numpy().ravel().astype(np.float64)

    options = {"maxfun": config.steps - 1, "maxiter": config.steps, "maxcor": 10, "ftol": 0, "gtol": 0}
    found = minimize(scaled, picture.ravel().astype(np.float64), jac=True, method="L-BFGS-B", options=options)
    return np.clip(found.x.reshape(picture.shape).astype(np.float32), -1, 1)


def by_adam(losses: Callable, picture: np.ndarray, config: Config) -> np.ndarray:
    """Return a picture, [height, width, 3], after so many steps of Adam."""
    canvas, optimizer = keras.Variable(picture[None]), keras.optimizers.Adam(config.learning_rate)
    for _ in range(config.steps):
        _, gradient = losses(tf.convert_to_tensor(canvas.value))
        optimizer.apply([gradient], [canvas])
        canvas.assign(tf.clip_by_value(canvas.value, -1, 1))
    return canvas.numpy()[0]


# %% Use
# Colours come first: a photo in blue cannot be painted in ochre by strokes alone. So the photo's colours are moved to
# the mean and the covariance of the painting's before the first step, or, where they should stay, only the brightness
# of what was painted is kept at the end.


def stylize(networks: Networks, painting: Painting, config: Config, output_dir: Path | None = None) -> np.ndarray:
    """Return the painting, uint8 [height, width, 3], with the colours that the settings ask for."""
    content = painting.content
    content = match_colours(content, painting.styles[0][0]) if config.colours == "matched" else content
    canvas = canvas_of(content, painting.styles)
    train(networks, canvas, config, output_dir)
    return keep_colours(canvas.picture, painting.content) if config.colours == "kept" else canvas.picture


# %% A whole run
# Without files of your own, the photo is a cat that comes with scikit-image, and the painting a texture of brush
# strokes that the project draws. The score is the style's loss before and after, of the 8-bit picture that was saved.
#
# >>> painting = read_painting("sample", "sample", DEMO.size)
# >>> show(np.stack([resize_image(image, 256, 384) for image in (painting.content, painting.styles[0][0])]))


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/style_transfer"),
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Paint a photo, the file `data`, in the manner of paintings, or go on; return a picture that shows them all."""
    config = replace(config, style=with_absolute_paths(config.style))
    check_run(output_dir, "style_transfer", config, data, accept_data)
    painting = read_painting(data, config.style, config.size)
    networks = networks_of(config, fetch)
    start_run(output_dir, "style_transfer", config, data)
    picture = stylize(networks, painting, config, output_dir)
    losses, both = make_losses(networks, painting, config), {"content": painting.content, "painting": picture}
    scores = {f"style_of_{name}": float(losses(from_uint8(image[None]))[0][1]) for name, image in both.items()}
    write_image(picture, output_dir / "painting.png")
    beside = save_row([painting.content, *(image for image, _ in painting.styles), picture], output_dir / "beside.png")
    finish_run(output_dir, networks, lambda: scores)
    return beside


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Paint scikit-image's cat in the manner of a drawn texture; return a picture of all three."""
    return experiment("sample", config, output_dir)


def stylize_file(
    source: Path,
    destination: Path,
    config: Config = Config(),
    fetch: bool = False,
) -> Path:
    """Paint a photo, at most as large as `--size` says, in the manner of one or more paintings."""
    image_suffix(destination)
    painting = read_painting(str(source), config.style, config.size)
    return write_image(stylize(networks_of(config, fetch), painting, config), destination)


# %% Try it
# The same photo and the same painting three times: with the painting's colours, with the photo's own, and begun from
# noise instead of from the photo. Smaller than the demo, and with fewer steps, so that it takes seconds.
# >>> quick = replace(DEMO, size=224, scales=1, epochs=1)
# >>> networks, painting = build(quick), read_painting("sample", "sample", quick.size)
# >>> ways = quick, replace(quick, colours="kept"), replace(quick, start="noise")
# >>> show(np.stack([stylize(networks, painting, way) for way in ways]))


if __name__ == "__main__":
    run_command(demo, presets={"demo": DEMO, "vgg19": VGG19}, train=experiment, stylize=stylize_file)
