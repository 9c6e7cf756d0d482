"""DeepDream: amplify the features that a network detects in an image, from coarse to fine.

Paper    Mordvintsev, Olah & Tyka, "Inceptionism: Going Deeper into Neural Networks", Google Research 2015. Visualising
         layers: Yosinski et al., ICML workshop 2015, arXiv:1506.06579.
Images   uint8 [height, width, 3] at the API boundary; float32 in [-1, 1] in the network.
Loss     the mean square of the feature maps, weighted and summed over the chosen layers. It is maximised.
Differs  1. The gradient is smoothed at several scales, and the results are added. This suppresses high-frequency noise.
         2. Large images are processed in tiles, so memory use does not grow with the image size. Each tile has a border
            (`--border`) as wide as the network's receptive field, so no seams are visible.
Run      python -m recipes.deepdream                                       the demo: a photo of a cat, offline
         python -m recipes.deepdream dream photo.jpg out.png               an image of any size, or a video
         python -m recipes.deepdream dream photo.jpg out.png --preset vgg19 --fetch     a network trained on ImageNet
         python -m recipes.deepdream dream photo.jpg out.png --layers conv2_2=1,conv4_1=0.5 --step-size 0.02
         python -m recipes.deepdream zoom photo.jpg out.gif --frames 60    an animation that zooms into the dream
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.images import convert_images, from_uint8, save_image, to_uint8
from common.runs import Range, Run, frozen_features, run_command
from common.training import ImageProgress, read_photo, resize_pixels, smallest_side

# %% Configuration
# `layers` selects the features to amplify. Early layers produce lines and dots; late layers produce complex objects
# from the training data. Networks trained on ImageNet produce animals. The bundled network was trained on textures, so
# offline you get pearls, scales and fur. The image is processed at several sizes (`octaves`), from small to large, so
# that shapes of all sizes appear. The product of `step_size` and `steps` limits the change per octave.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for the bundled network, `embedded`. `VGG19` uses the VGG19 network and its usual layers."""

    network: str = "embedded"  # VGG19, InceptionV3, NASNetMobile, MobileNetV2, ResNet50; or file: any Keras model
    weights: str = ""  # imagenet, or a weights file for that network; with file: a .keras file
    layers: str = "conv3_2"  # NAME or NAME=WEIGHT, separated by commas: the layers to maximise
    size: Annotated[int, Range(0, 16_384)] = 512  # limit for the longer side in pixels; 0: none; ignored by `dream`
    octaves: Annotated[int, Range(1, 1_000_000)] = 4  # number of sizes, small to large; a checkpoint after each
    octave_scale: Annotated[float, Range(1.01, 4)] = 1.4
    steps: Annotated[int, Range(1, 100_000)] = 14  # steps per octave
    step_size: Annotated[float, Range(0, 1)] = 0.01  # change of a pixel in [-1, 1] per unit of the normalised gradient
    smoothings: Annotated[int, Range(1, 8)] = 3  # number of smoothed gradients to sum: sigma 0, 1, 2, 4 ...
    variation_weight: Annotated[float, Range(0, 1e9)] = 0.0  # weight of the total variation; larger: smoother images
    jitter: Annotated[int, Range(0, 4096)] = 32  # largest random shift of the image before a step, in pixels
    tile: Annotated[int, Range(32, 16_384, multiple_of=32)] = 512  # side of a tile in pixels
    border: Annotated[int, Range(32, 4096, multiple_of=32)] = 64  # margin around a tile in pixels, processed with it
    stop_at: Annotated[float, Range(0, 1e9)] = 0.0  # an octave ends once the loss reaches this value; 0: never
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0  # for the jitter

    def __post_init__(self) -> None:
        """Check all ranges."""
        Range.check(self, size=Range(32 if self.size else 0, 16_384))


VGG19 = Config(network="VGG19", weights="imagenet", layers="block2_pool=0.3,block5_pool=1.5", border=224)
DEMO = Config()
DEMO_RUN = Path("runs/deepdream-demo")

# %% Networks
# No network is trained. The feature maps of a frozen network show how strongly each feature is present in the image.
# You can use any layer of any Keras model (`--network file --weights mine.keras --layers NAME`).


class Networks(NamedTuple):
    """The frozen network."""

    features: keras.Model  # images [n, height, width, 3] in [-1, 1] -> feature maps of the chosen layers


class Dream(NamedTuple):
    """An image to change in place."""

    image: np.ndarray  # uint8 [height, width, 3]


def build(config: Config = Config()) -> Networks:
    """Return the network that outputs the feature maps of `layers`. Raise InputError for an unknown layer."""
    return build_networks(config)


def build_networks(config: Config, fetch: bool = False) -> Networks:
    """Return the same as `build`; `fetch` allows Keras to download the weights."""
    return Networks(frozen_features(config.network, config.weights, [config.layers], fetch))


# %% Loss and gradient
# The loss is the mean square of the feature maps of the chosen layers. Its gradient shows how to change each pixel to
# strengthen the features that are already present.
#
# Processing a 12-megapixel photo in one pass would take too much memory. But each feature depends only on nearby
# pixels, so the image can be cut into tiles. Each tile is processed with a border as wide as the receptive field, and
# the border is discarded. The result equals the gradient of the uncut image, without seams.


@functools.lru_cache(1)  # the images of a video share one function
def make_gradient(networks: Networks, config: Config) -> Callable:
    """Return a function that maps an image of any size, [1, height, width, 3], to its loss and a gradient.

    The loss is averaged over the pixels. The gradient is computed from the sum over the pixels, so it depends neither
    on the image size nor on the size of the tiles. The function is compiled once for all sizes.
    """
    (features,) = networks
    side = 1024
    maps = keras.tree.flatten(features(keras.Input((side, side, 3), batch_size=1)))
    weights = [float(layer.partition("=")[2] or 1) for layer in config.layers.split(",")]
    factors = [weight * side * side / np.prod(each.shape) for weight, each in zip(weights, maps, strict=True)]

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)])
    def gradient(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(image)
            maps = tf.nest.flatten(features(image, training=False))
            loss = tf.add_n([factor * tf.reduce_sum(each**2) for factor, each in zip(factors, maps, strict=True)])
            across = image[:, :, 1:] - image[:, :, :-1]
            down = image[:, 1:] - image[:, :-1]
            loss -= config.variation_weight * (tf.reduce_sum(across**2) + tf.reduce_sum(down**2))
        pixels = tf.cast(tf.shape(image)[1] * tf.shape(image)[2], tf.float32)
        return loss / pixels, tape.gradient(loss, image)

    return gradient


def tiled_gradient(gradient: Callable, image: np.ndarray, config: Config) -> tuple[float, np.ndarray]:
    """Return the loss of a float32 [height, width, 3] image (averaged over tiles with their borders) and the gradient.

    Tiling does not change the gradient if the border is at least as wide as the receptive field. The default border is
    wide enough for the bundled network.
    """
    (height, width, _), tile, border = image.shape, config.tile, config.border
    found, total = np.empty_like(image), 0.0
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            # The last tile may be narrow, but the region that is processed for it is not.
            rows = slice(max(0, min(top, height - tile) // 32 * 32 - border), min(height, top + tile + border))
            columns = slice(max(0, min(left, width - tile) // 32 * 32 - border), min(width, left + tile + border))
            loss, part = gradient(tf.constant(image[None, rows, columns]))
            inner = part.numpy()[0, top - rows.start :, left - columns.start :][:tile, :tile]
            found[top : top + tile, left : left + tile] = inner
            total += float(loss) * len(inner) * len(inner[0])
    return total / (height * width), found


def smoothed(gradient: np.ndarray, count: int) -> np.ndarray:
    """Smooth a gradient [height, width, 3] with sigma 0, 1, 2, 4 ...; return the sum, with standard deviation 1."""
    from scipy.ndimage import gaussian_filter

    total = gradient / (gradient.std() + 1e-20)
    for number in range(count - 1):
        part = gaussian_filter(gradient, 2.0**number, mode="mirror", axes=(0, 1))
        total += part / (part.std() + 1e-20)
    return total / (total.std() + 1e-20)


# %% Training of pixels
# The pixels are optimised by gradient ascent. The gradient is scaled to a standard deviation of 1, so `step_size` has
# the same meaning for every image and layer. Before each step, the image is shifted at random, because the strides of
# the network would otherwise leave a visible grid. After an octave, the total change is enlarged and added to the photo
# at the next larger size, which has finer details.
#
# What is logged: one row per octave, with the `loss` before its last step. The loss rises from octave to octave, and
# ends far above the loss of the photo (`loss_before` in the scores). If it does not, the layer hardly responds to this
# image, or `step_size` is too small.


def train(
    networks: Networks, data: Dream, config: Config = Config(), output_dir: Path | None = None
) -> list[dict[str, float]]:
    """Change `data.image` in place to maximise the loss.

    Args:
        networks: the result of `build`.
        data: the image to change.
        config: the hyperparameters.
        output_dir: the run folder. A checkpoint is saved there after each octave, and a later call resumes from the
            latest one. If None, nothing is saved.

    Returns:
        One dictionary per octave, with the loss.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    gradient = make_gradient(networks, config)
    height, width = data.image.shape[:2]
    original = from_uint8(data.image).numpy()
    smallest = smallest_side(networks.features, data.image)
    with ImageProgress(output_dir, "dreaming", config.octaves * config.steps, config.steps) as progress:
        for octave in range(config.octaves):
            factor = config.octave_scale ** (config.octaves - 1 - octave)
            size = max(smallest, round(height / factor)), max(smallest, round(width / factor))
            if progress.history and progress.history[-1]["pixels"] >= max(size):
                continue
            image = resize_pixels(original, *size)
            if len(progress.image):
                change = progress.image - resize_pixels(original, *progress.image.shape[:2])
                image = np.clip(image + resize_pixels(change, *size), -1, 1)
            image, loss = dream_octave(gradient, image, config, octave, progress.step)
            progress.save(image, loss=loss, pixels=max(size))
    data.image[:] = to_uint8(resize_pixels(progress.image, height, width))
    return progress.history


def dream_octave(
    gradient: Callable, image: np.ndarray, config: Config, seed: int, on_step: Callable[[], object] = lambda: None
) -> tuple[np.ndarray, float]:
    """Run the steps of an octave; return the image, float32 [height, width, 3], and its loss before the last step."""
    random = np.random.default_rng([config.seed, seed])
    for _ in range(config.steps):
        rows, columns = random.integers(-config.jitter, config.jitter + 1, 2)
        image = np.roll(image, (rows, columns), (0, 1))
        loss, found = tiled_gradient(gradient, image, config)
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss}: choose a smaller step_size")
        image = np.clip(image + config.step_size * smoothed(found, config.smoothings), -1, 1)
        image = np.roll(image, (-rows, -columns), (0, 1))
        on_step()
        if 0 < config.stop_at <= loss:
            break
    return image, loss


# %% A whole run
# The built-in photo shows a cat; it ships with scikit-image. There is no target image, so the only scores are the loss
# before and after processing, and the mean absolute change of a pixel (0 to 255).


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/deepdream"),
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Process the photo at `data` or resume, save the run, and return the path of a before/after image."""
    folder = Run(output_dir, "deepdream", config, data, accept_data)
    photo = read_photo(data, config.size)
    networks = build_networks(config, fetch)
    folder.start()
    dream = Dream(photo.copy())
    train(networks, dream, config, output_dir)
    save_image(dream.image, Path(output_dir, "dream.png"))
    figure = {"photo": photo, f"dream of {config.layers}": dream.image}
    image = save_image(figure, Path(output_dir, "beside.png"), height=photo.shape[0])
    return folder.finish(networks, lambda: evaluate(networks, photo, dream.image, config), image)


def evaluate(networks: Networks, before: np.ndarray, after: np.ndarray, config: Config) -> dict[str, float]:
    """Return the mean absolute change of pixels (0 to 255), and the losses of both uint8 images [height, width, 3]."""
    gradient = make_gradient(networks, config)
    return {
        "mean_change": float(np.abs(after.astype(float) - before).mean()),
        "loss_before": tiled_gradient(gradient, from_uint8(before).numpy(), config)[0],
        "loss_after": tiled_gradient(gradient, from_uint8(after).numpy(), config)[0],
    }


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Process scikit-image's photo of a cat with the bundled network; return the path of a before/after image."""
    return run("sample", config, output_dir)


def dream_file(source: Path, destination: Path, config: Config = Config(), fetch: bool = False) -> Path:
    """Process an image, every image of a folder, or every frame of a video, at the original size."""
    networks = build_networks(config, fetch)
    return convert_images(source, destination, functools.partial(dream_image, networks, config))


def dream_image(networks: Networks, config: Config, image: np.ndarray) -> np.ndarray:
    """Return the processed image, uint8 [height, width, 3]."""
    dream = Dream(image.copy())
    train(networks, dream, config)
    return dream.image


def zoom_file(
    source: Path,
    destination: Path,
    frames: Annotated[int, Range(2, 10_000)] = 60,
    zoom: Annotated[float, Range(1.001, 2)] = 1.03,
    frame_steps: Annotated[int, Range(1, 10_000)] = 3,
    config: Config = Config(),
    fetch: bool = False,
) -> Path:
    """Write a GIF or MP4 that zooms into a dream.

    Each frame is the previous one, magnified by the factor `zoom` and processed for `frame_steps` steps.
    """

    def film() -> Iterator[np.ndarray]:
        dream = Dream(read_photo(str(source), config.size))
        networks = build_networks(config, fetch)
        train(networks, dream, config)
        yield dream.image
        gradient = make_gradient(networks, config)
        image = from_uint8(dream.image).numpy()
        height, width, _ = image.shape
        few = replace(config, steps=frame_steps)
        with ImageProgress(None, "zooming", frames - 1, 1) as progress:
            for number in range(1, frames):
                zoomed = resize_pixels(image, height, width, zoom)
                image, _ = dream_octave(gradient, zoomed, few, config.octaves + number)
                yield to_uint8(image)
                progress.step()

    return save_image(film(), destination, milliseconds=67)  # checks the name before the first frame is computed


# %% Try it
# The photo, and the results for four layers, from the first to the last: lines, then dots, then scales. The patterns
# show which features a layer responds to, so DeepDream is also a way to visualise a network.
# >>> photo = read_photo("sample", 192)
# >>> dreams = [photo]
# >>> for layer in ("conv1_2", "conv2_2", "conv3_2", "conv4_1"):
# ...     config = replace(DEMO, layers=layer, octaves=2, size=192)
# ...     dream = Dream(photo.copy())
# ...     train(build(config), dream, config)
# ...     dreams.append(dream.image)
# >>> show(np.stack(dreams), columns=5)
#
# The animation: each frame is the previous frame, slightly magnified and processed further.
# >>> small = replace(DEMO, size=192)
# >>> show_file(zoom_file(DEMO_RUN / "dream.png", DEMO_RUN.parent / "zoom.gif", frames=16, config=small))


if __name__ == "__main__":
    plain = replace(VGG19, octaves=1, steps=100, smoothings=1, jitter=0)
    presets = {"demo": DEMO, "vgg19": VGG19, "plain": plain}
    run_command(demo, presets=presets, steps=False, train=run, dream=dream_file, zoom=zoom_file)
