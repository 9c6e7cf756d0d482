"""DeepDream: let a picture grow what a network sees in it, from coarse to fine.

Paper    Mordvintsev, Olah & Tyka, "Inceptionism: Going Deeper into Neural Networks", Google Research 2015; what the
         layers of a network like: Yosinski et al., ICML workshop 2015, arXiv:1506.06579.
Images   uint8 [height, width, 3] at the borders; float32 in [-1, 1] before the network.
Loss     the mean square of each chosen layer's maps, times its weight: it rises.
Differs  1. Gradients are the sum of several, smoothed more and more: no dots of single pixels.
         2. Large pictures are dreamt in tiles, each with a border as wide as the network looks (`--border`), so that no
            seam shows and the network's memory does not grow with the picture.
Run      python -m recipes.deepdream                                       the demo: a photo, offline: texture dreams
         python -m recipes.deepdream dream photo.jpg out.png               any size in, the same size out
         python -m recipes.deepdream dream photo.jpg out.png --preset vgg19 --fetch     what ImageNet's network saw
         python -m recipes.deepdream dream photo.jpg out.png --layers conv2_2=1,conv4_1=0.5 --step-size 0.02
         python -m recipes.deepdream zoom photo.jpg out.gif --frames 60    into the dream; or out.mp4
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from common.canvas import (
    enlarged,
    film_suffix,
    keeping,
    least_side,
    magnified_centre,
    map_shapes,
    no_larger,
    read_photo,
    reduced,
    resume_painting,
    save_film,
    save_painting,
    weighted_names,
)
from common.cli import run_command
from common.errors import InputError
from common.imagenet import frozen_features
from common.images import from_uint8, image_suffix, save_row, to_uint8, write_image
from common.lazy import keras, tf
from common.ranges import Epochs, Frames, Range, Seed, Share, Weight
from common.runs import check_run, check_settings, finish_run, start_run
from common.training import History

# %% Configuration
# `layers` decides what is dreamt of: early layers grow lines and dots, late ones the most complicated thing that the
# network knows. ImageNet's networks know animals; the embedded one knows textures, so offline the dreams are pearls,
# scales and fur. `epochs` are octaves: the picture is dreamt small, then larger and larger, so that forms of all
# sizes appear. `step_size` times `steps` is how far it may go from the photo.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Before the embedded network, which dreams of textures; `VGG19` has the layers of a textbook."""

    network: str = "embedded"  # VGG19, InceptionV3, NASNetMobile, MobileNetV2, ResNet50; or file: any Keras model
    weights: str = ""  # imagenet, or a file of weights for that network; for file a .keras file
    layers: str = "conv3_2"  # NAME or NAME=WEIGHT, separated by commas: whose maps should grow
    size: Annotated[int, Range(0, 16_384)] = 512  # pixels of the longer side, at most, but for `dream`; 0: any
    epochs: Epochs = 4  # octaves, each larger than the one before; after each there is a picture, and a save
    octave_scale: Annotated[float, Range(1.01, 4)] = 1.4
    steps: Annotated[int, Range(1, 100_000)] = 14  # of an octave
    step_size: Share = 0.01  # of a step, in [-1, 1]: how far a pixel moves whose gradient is one standard deviation
    smoothings: Annotated[int, Range(1, 8)] = 3  # gradients that are added: plain, and smoothed over 1, 2, 4 ... pixels
    variation: Weight = 0.0  # weight of total variation, which is taken from the loss: smooths
    shift: Annotated[int, Range(0, 4096)] = 32  # most pixels by which the picture is moved before each step
    tile: Annotated[int, Range(32, 16_384)] = 512  # pixels of a side of what is computed at once; a multiple of 32
    border: Annotated[int, Range(32, 4096)] = 64  # pixels around a tile that are computed with it; a multiple of 32
    stop_at: Annotated[float, Range(0, 1e9)] = 0.0  # loss at which an octave ends; 0: never
    seed: Seed = 0  # of the shifts


VGG19 = Config(network="VGG19", weights="imagenet", layers="block2_pool=0.3,block5_pool=1.5", border=224)
DEMO = Config()
DEMO_RUN = Path("runs/deepdream-demo")

# %% Networks
# Nothing learns here: a network with fixed weights looks, and says how strongly each of its features is there. Any
# Keras model can be asked, at any of its layers (`--network file --weights mine.keras --layers NAME`).


class Networks(NamedTuple):
    """What looks; it does not learn."""

    features: keras.Model  # images [n, height, width, 3] in [-1, 1] -> the maps of the chosen layers


class Dream(NamedTuple):
    """A picture that is dreamt, in place."""

    picture: np.ndarray  # uint8 [height, width, 3]


def build(config: Config = Config()) -> Networks:
    """Return the network, which gives the maps of the chosen layers. Raises ValueError for layers it has not."""
    return networks_of(config)


def networks_of(config: Config, fetch: bool = False) -> Networks:
    """Do the same; Keras may `fetch` the weights."""
    check_settings(config)
    if config.size and config.size < 32:
        raise InputError(f"size must be at least 32, got {config.size}")
    if config.tile % 32 or config.border % 32:
        raise InputError(f"tile and border must be multiples of 32, got {config.tile} and {config.border}")
    return Networks(frozen_features(config.network, config.weights, list(weighted_names(config.layers)), fetch))


# %% Loss and gradient
# The loss is how much the chosen layers see: the mean square of their maps. Its gradient says of each pixel in which
# direction it should move so that more is seen of what is already seen a little.
#
# A photo of 12 megapixels does not fit through a network at once. But a pixel is seen only by features near it. So
# the picture is cut into tiles, each computed with a border as wide as the network looks, and the borders thrown
# away: what is left is the gradient of the whole picture, and no seam shows.


def make_gradient(networks: Networks, config: Config) -> Callable:
    """Return a function of a picture of any size, [1, height, width, 3] -> its loss, and the gradient of their product.

    The loss, a mean over the picture, is multiplied by its pixels, so that the gradients of parts fit together.
    Compiled once, whatever the sizes.
    """
    (features,), weights = networks, weighted_names(config.layers).values()
    shapes = map_shapes(features, 1024)
    factors = [w * 1024 * 1024 / np.prod(shape) for w, shape in zip(weights, shapes, strict=True)]

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)])
    def gradient(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(picture)
            maps = tf.nest.flatten(features(picture, training=False))
            loss = tf.add_n([factor * tf.reduce_sum(seen**2) for factor, seen in zip(factors, maps, strict=True)])
            across, down = picture[:, :, 1:] - picture[:, :, :-1], picture[:, 1:] - picture[:, :-1]
            loss -= config.variation * (tf.reduce_sum(across**2) + tf.reduce_sum(down**2))
        pixels = tf.cast(tf.shape(picture)[1] * tf.shape(picture)[2], tf.float32)
        return loss / pixels, tape.gradient(loss, picture)

    return gradient


def tiled_gradient(gradient: Callable, picture: np.ndarray, config: Config) -> tuple[float, np.ndarray]:
    """Return the loss, a mean over the tiles with their borders, and the gradient of float32 [height, width, 3].

    What lies farther than the border from a tile has no say in the gradient inside it: nor has it in the whole
    picture's, if the network does not look farther, as the embedded one does not.
    """
    (height, width, _), tile, border = picture.shape, config.tile, config.border
    found, total = np.empty_like(picture), 0.0
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            # The last tile may be narrow; what is computed is not.
            rows = slice(max(0, min(top, height - tile) // 32 * 32 - border), min(height, top + tile + border))
            columns = slice(max(0, min(left, width - tile) // 32 * 32 - border), min(width, left + tile + border))
            loss, part = gradient(tf.constant(picture[None, rows, columns]))
            inner = part.numpy()[0, top - rows.start :, left - columns.start :][:tile, :tile]
            found[top : top + tile, left : left + tile] = inner
            total += float(loss) * len(inner) * len(inner[0])
    return total / (height * width), found


def smoothed(gradient: np.ndarray, count: int) -> np.ndarray:
    """Return the sum of a gradient [height, width, 3] smoothed over 0, 1, 2, 4 ... pixels, brought to deviation 1."""
    from scipy.ndimage import gaussian_filter

    total = gradient / (gradient.std() + 1e-20)
    for number in range(count - 1):
        part = gaussian_filter(gradient, 2.0**number, mode="mirror", axes=(0, 1))
        total += part / (part.std() + 1e-20)
    return total / (total.std() + 1e-20)


# %% Training: of pixels
# Uphill, not down: each step moves the pixels along the gradient, brought to a deviation of 1, so that `step_size`
# means the same for every picture and layer. Before each step the picture is shifted at random, otherwise the grid of
# the network's strides would show. When an octave is done, what was dreamt is enlarged and added to the next larger
# photo, which brings its fine details along.
#
# What is logged, an octave a row: `loss`, as it was before the last step. In the demo it rises from octave to octave,
# 0.89 to 1.20, where the photo itself has 0.43 (`loss_before` in the scores). A loss that does not rise says that the
# layer sees nothing in the picture, or that `step_size` is too small.


def train(networks: Networks, data: Dream, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Dream in place, `data.picture`; return a row for every octave. Goes on from what `output_dir` holds."""
    from tqdm import tqdm

    gradient = make_gradient(networks, config)
    height, width = data.picture.shape[:2]
    original, least = from_uint8(data.picture).numpy(), least_side(networks.features, data.picture)
    history, picture = resume_painting(output_dir)
    with keeping(output_dir, history), tqdm(desc="dreaming", total=config.epochs * config.steps, disable=None) as bar:
        bar.update(len(history) * config.steps)
        for octave in range(config.epochs):
            started = time.monotonic()
            factor = config.octave_scale ** (config.epochs - 1 - octave)
            size = max(least, round(height / factor)), max(least, round(width / factor))
            if history and history[-1]["pixels"] >= max(size):
                continue
            base = reduced(original, *size)
            if len(picture):  # what was dreamt so far is added to a picture that has its details
                picture = np.clip(base + enlarged(picture - reduced(original, *picture.shape[:2]), *size), -1, 1)
            picture, loss = dream_octave(gradient, picture if len(picture) else base, config, octave, bar.update)
            seconds = time.monotonic() - started
            history.append({"epoch": len(history) + 1, "loss": loss, "pixels": max(size), "seconds": seconds})
            save_painting(output_dir, history, picture)
    data.picture[:] = to_uint8(enlarged(picture, height, width))
    return history


def dream_octave(
    gradient: Callable, picture: np.ndarray, config: Config, seed: int, told: Callable[[], object] = lambda: None
) -> tuple[np.ndarray, float]:
    """Return a picture, float32 [height, width, 3], after some steps uphill, and its loss before the last."""
    random = np.random.default_rng([config.seed, seed])
    for _ in range(config.steps):
        rows, columns = random.integers(-config.shift, config.shift + 1, 2)
        picture = np.roll(picture, (rows, columns), (0, 1))
        loss, found = tiled_gradient(gradient, picture, config)
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss}: choose a smaller step_size")
        picture = np.clip(picture + config.step_size * smoothed(found, config.smoothings), -1, 1)
        picture = np.roll(picture, (-rows, -columns), (0, 1))
        told()
        if 0 < config.stop_at <= loss:
            break
    return picture, loss


# %% A whole run
# Offline the photo is a cat that comes with scikit-image. There is no right answer to compare a dream with. The
# scores say what the network sees of its layers before and after, and how many of 255 grey levels a pixel moved in
# the mean.


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/deepdream"),
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Dream a photo, the file `data`, or go on; return a picture of it before and after."""
    check_run(output_dir, "deepdream", config, data, accept_data)
    photo = read_photo(data)
    photo = no_larger(photo, config.size) if config.size else photo
    networks = networks_of(config, fetch)
    start_run(output_dir, "deepdream", config, data)
    dream = Dream(photo.copy())
    train(networks, dream, config, output_dir)
    scores = {"mean_change": float(np.abs(dream.picture.astype(float) - photo).mean())}
    write_image(dream.picture, output_dir / "dream.png")
    beside = save_row([photo, dream.picture], output_dir / "beside.png")
    gradient = make_gradient(networks, config)
    for name, image in (("loss_before", photo), ("loss_after", dream.picture)):
        scores[name] = tiled_gradient(gradient, from_uint8(image).numpy(), config)[0]
    finish_run(output_dir, networks, lambda: scores)
    return beside


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Dream scikit-image's cat before the embedded network; return a picture of it before and after."""
    return experiment("sample", config, output_dir)


def dream_file(source: Path, destination: Path, config: Config = Config(), fetch: bool = False) -> Path:
    """Dream a picture; what is written is as large as what was read."""
    image_suffix(destination)
    dream = Dream(read_photo(str(source)))
    train(networks_of(config, fetch), dream, config)
    return write_image(dream.picture, destination)


def zoom_file(
    source: Path,
    destination: Path,
    frames: Frames = 60,
    zoom: Annotated[float, Range(1, 2)] = 1.03,
    frame_steps: Annotated[int, Range(1, 10_000)] = 3,
    config: Config = Config(),
    fetch: bool = False,
) -> Path:
    """Write a GIF or MP4 that falls into a dream: each frame is the one before, enlarged, and dreamt a little more.

    `frames`, each `zoom` times as large as the one before, and dreamt for `frame_steps` more steps.
    """
    film_suffix(destination)
    if frames < 2 or not 1 < zoom <= 2 or frame_steps < 1:
        raise InputError(f"a film takes 2 frames, a zoom in 1..2, and 1 step: got {frames}, {zoom} and {frame_steps}")
    photo = read_photo(str(source))
    dream, networks = Dream(no_larger(photo, config.size) if config.size else photo), networks_of(config, fetch)
    train(networks, dream, config)
    gradient, picture, film = make_gradient(networks, config), from_uint8(dream.picture).numpy(), [dream.picture]
    for number in range(1, frames):
        few = replace(config, steps=frame_steps)
        picture, _ = dream_octave(gradient, magnified_centre(picture, zoom), few, config.epochs + number)
        film.append(to_uint8(picture))
    return save_film(np.stack(film), destination)


# %% Try it
# Four layers, from early to late, each asked to dream of the same photo: lines first, then dots, then scales. What
# grows is what the layer has learnt to look for, so this is also a way to look into a network.
# >>> photo = no_larger(read_photo("sample"), 192)
# >>> dreams = [photo]
# >>> for layer in ("conv1_2", "conv2_2", "conv3_2", "conv4_1"):
# ...     config = replace(DEMO, layers=layer, epochs=2, size=192)
# ...     dream = Dream(photo.copy())
# ...     train(build(config), dream, config)
# ...     dreams.append(dream.picture)
# >>> show(np.stack(dreams), columns=5)
#
# And the film: each frame is the one before, enlarged a little from its centre and dreamt on.
# >>> small = replace(DEMO, size=192)
# >>> show_file(zoom_file(DEMO_RUN / "dream.png", DEMO_RUN.parent / "zoom.gif", frames=16, config=small))


if __name__ == "__main__":
    run_command(demo, presets={"demo": DEMO, "vgg19": VGG19}, train=experiment, dream=dream_file, zoom=zoom_file)
