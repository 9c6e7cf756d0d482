"""Style transfer: give a photo the style of a painting by optimising its pixels.

Paper    Gatys, Ecker & Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016,
         doi:10.1109/CVPR.2016.265 (arXiv:1508.06576). Colours: Gatys et al. 2016, arXiv:1606.05897. Coarse-to-fine
         optimisation: Gatys et al., CVPR 2017, arXiv:1611.07865, section 6.
Images   uint8 [height, width, 3] at the API boundary; float32 in [-1, 1] in the network.
Differs  1. The photo first gets the painting's colours (`matched`), or the result keeps the photo's colours (`kept`).
         2. The image is optimised at a small size first, then at larger ones. This gives longer strokes in less time.
         3. Losses are relative errors, so the same weights suit all layers and networks.
         4. L-BFGS discards its history after each checkpoint, so a resumed run gives exactly the same result.
Run      python -m recipes.style_transfer                                the demo: a photo and a painting, offline
         python -m recipes.style_transfer stylize photo.jpg out.png --style painting.jpg
         python -m recipes.style_transfer stylize photo.jpg out.png --style a.jpg=2,b.jpg=1 --colours kept
         python -m recipes.style_transfer stylize photo.jpg out.png --style a.jpg --preset vgg19 --fetch    with VGG19
         python -m recipes.style_transfer train --data photo.jpg --style a.jpg --output-dir runs/a   run again to resume
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.images import check_image_path, from_uint8, resize_image, save_image, to_uint8
from common.runs import Range, Run, frozen_features, run_command
from common.training import ImageProgress, Painting, layer_weights

# %% Configuration
# `content_weight` preserves the photo, `style_weight` adds the style of the painting, and `variation_weight` smooths
# the result. Each loss is a relative error, so the weights have the same meaning for every network. For a stronger
# style, multiply `style_weight` by 3, more than once if needed. `style_layers` sets the scale of the transferred
# patterns: early layers respond to dots and edges, later layers to strokes and swirls. `colours` has the largest
# effect: the result takes the painting's colours or keeps the photo's. Large images are first optimised at a smaller
# size (`scales`), because the receptive field limits the length of a stroke.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for the bundled network. `VGG19` uses the paper's layers (section 3)."""

    style: str = "sample"  # FILE or FILE=WEIGHT, comma-separated; the first file sets the colours; sample: a painting
    network: str = "embedded"  # or VGG19, InceptionV3, NASNetMobile, MobileNetV2, ResNet50; file: any Keras model
    weights: str = ""  # imagenet, or a weights file for that network; with file: a .keras file
    content_layers: str = "conv3_2"  # layers of the content loss: NAME or NAME=WEIGHT, comma-separated
    style_layers: str = "conv1_1,conv1_2,conv2_1,conv2_2,conv3_1,conv3_2,conv4_1,conv4_2"  # layers of the style loss
    content_weight: Annotated[float, Range(0, 1e9)] = 1.0
    style_weight: Annotated[float, Range(0, 1e9)] = 60.0
    variation_weight: Annotated[float, Range(0, 1e9)] = 100.0  # total variation weight; higher values: smoother images
    colours: Literal["matched", "kept", "free"] = "matched"  # match the painting's, keep the photo's, or do neither
    start: Literal["content", "style", "noise"] = "content"  # initial image: the photo, the painting, or noise
    size: Annotated[int, Range(0, 16_384)] = 512  # maximum length of the longer side in pixels; 0: the photo's size
    scales: Annotated[int, Range(1, 8)] = 2  # number of image sizes, smallest first; each is twice the previous one
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"  # method that updates the pixels
    learning_rate: Annotated[float, Range(0, 10)] = 0.02  # learning rate of Adam, for pixels in [-1, 1]
    steps: Annotated[int, Range(1, 100_000)] = 40  # loss evaluations per epoch
    epochs: Annotated[int, Range(1, 1_000_000)] = 2  # epochs per size; the image is saved after each epoch
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0  # seed of the initial image if `start` is noise

    def __post_init__(self) -> None:
        """Check all ranges."""
        Range.check(self, size=Range(32 if self.size else 0, 16_384))


DEMO = Config()
VGG19_STYLE = ",".join(f"block{stage}_conv1" for stage in range(1, 6))
VGG19 = Config(network="VGG19", weights="imagenet", content_layers="block4_conv2", style_layers=VGG19_STYLE)
DEMO_RUN = Path("runs/style_transfer-demo")

# %% Networks
# Early layers of an image classifier respond to edges, later layers to textures and object parts. Here the network is
# frozen; only its input image is optimised. The bundled network (`embedded`) is small. It was trained to recognise
# textures and patches of photos, because a style consists of such patterns. The paper uses VGG19.


class Networks(NamedTuple):
    """The frozen loss network."""

    features: keras.Model  # images [n, height, width, 3] in [-1, 1] -> feature maps: content layers, then style layers


def build(config: Config = Config()) -> Networks:
    """Return a network that outputs the content and style feature maps. Raises InputError for an unknown layer."""
    return build_networks(config)


def build_networks(config: Config, fetch: bool = False) -> Networks:
    """Like `build`, but `fetch` allows Keras to download the weights."""
    layers = [config.content_layers, config.style_layers]
    return Networks(frozen_features(config.network, config.weights, layers, fetch))


# %% Losses
# The content loss compares feature maps of the image and of the photo, position by position. The style loss compares
# Gram matrices of the image and of the painting. A Gram matrix contains the mean product of every pair of channels.
# Each loss is divided by the squared norm of its target, so it is 1 if all features are 0, and 0 for a perfect match.

LOSSES = ("content", "style", "variation", "loss")


def gram(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean product of every pair of channels (equation 3): [1, height, width, c] -> [c, c]."""
    flat = tf.reshape(maps, [-1, maps.shape[-1]])
    return tf.matmul(flat, flat, transpose_a=True) / tf.cast(tf.shape(flat)[0], tf.float32)


# Two channels have the values (1, 2) at one position and (3, 4) at another. Their mean products are (1 + 9) / 2 = 5,
# (2 + 12) / 2 = 7 and (4 + 16) / 2 = 10. These products do not depend on the order of the positions, but only on which
# channels are active together.
# >>> gram(tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]]))


def relative_error(found: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Return ||found - wanted||^2 / ||wanted||^2; 0 where `wanted` is 0."""
    return tf.math.divide_no_nan(tf.reduce_sum((found - wanted) ** 2), tf.reduce_sum(wanted**2))


def total_variation(image: tf.Tensor) -> tf.Tensor:
    """Return the mean squared difference of horizontal neighbours plus that of vertical neighbours."""
    across = image[:, :, 1:] - image[:, :, :-1]
    down = image[:, 1:] - image[:, :-1]
    return tf.reduce_mean(across**2) + tf.reduce_mean(down**2)


def make_losses(networks: Networks, painting: Painting, config: Config) -> Callable:
    """Return a compiled function: image [1, height, width, 3] -> losses [4] and the gradient of the last loss.

    The losses are content, style, total variation, and the weighted sum of these three.
    """
    (features,) = networks
    weights = [list(layer_weights(layers).values()) for layers in (config.content_layers, config.style_layers)]
    content_weights, style_weights = (tf.constant(each) / sum(each) for each in weights)
    loss_weights = [config.content_weight, config.style_weight, config.variation_weight]
    first = len(content_weights)
    content_maps = features(from_uint8(painting.content[None]), training=False)[:first]
    style_grams = [tf.constant(0.0)] * len(style_weights)
    for image, weight in painting.styles:
        maps = features(from_uint8(image[None]), training=False)[first:]
        style_grams = [total + weight * gram(each) for total, each in zip(style_grams, maps, strict=True)]

    @tf.function
    def losses(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(image)
            maps = features(image, training=False)
            content = [relative_error(found, wanted) for found, wanted in zip(maps[:first], content_maps, strict=True)]
            style = [
                relative_error(gram(found), wanted) for found, wanted in zip(maps[first:], style_grams, strict=True)
            ]
            content_loss = tf.reduce_sum(content_weights * content)  # equation 1
            style_loss = tf.reduce_sum(style_weights * style)  # equation 5
            parts = tf.stack([content_loss, style_loss, total_variation(image)])
            total = tf.reduce_sum(loss_weights * parts)  # equation 7
        return tf.concat([parts, [total]], 0), tape.gradient(total, image)

    return losses


# %% Training of pixels
# The optimised variable is the image itself. L-BFGS estimates the curvature from the last ten gradients. It reaches
# lower losses than Adam in the same time, and needs no learning rate. It optimises all pixels jointly, in float64.
#
# What is logged after each epoch of `steps` loss evaluations: `style`, the relative error of the Gram matrices, falls
# by a factor of 100 or more. `content` rises from 0, because the optimisation starts at the photo; a value of 1 would
# mean that none of the photo's content is left. `loss`, the weighted sum, falls until the image size changes.


def train(
    networks: Networks, data: Painting, config: Config = Config(), output_dir: Path | None = None
) -> list[dict[str, float]]:
    """Optimise `data.image` in place.

    Args:
        networks: from `build`.
        data: the image to optimise, the photo (`content`) and the style images.
        config: the hyperparameters.
        output_dir: the run folder. The image is saved there after each epoch, and a later call resumes from the newest
            checkpoint. If None, nothing is written.

    Returns:
        One row of losses per epoch.

    Raises:
        FloatingPointError: a loss is not finite.
        InputError: an image is too small for the network.
    """
    optimize = by_lbfgs if config.optimizer == "lbfgs" else by_adam
    smallest = data.smallest_side(networks.features)
    start = Painting(first_image(data, config), data.content, data.styles)
    steps = config.scales * config.epochs * config.steps
    with ImageProgress(output_dir, "painting", steps, config.steps) as progress:
        for scale in reversed(range(config.scales)):
            small = start.shrunk(2**scale, smallest)
            pixels = max(small.content.shape)
            if progress.history and progress.history[-1]["pixels"] > pixels:
                continue
            losses = make_losses(networks, small, config)

            def evaluate(image: tf.Tensor, losses: Callable = losses) -> tuple[tf.Tensor, tf.Tensor]:
                parts, gradient = losses(image)
                if not np.isfinite(parts).all():
                    raise FloatingPointError(f"the losses became {parts}: lower the loss weights or the learning rate")
                progress.step(f"content {parts[0]:.3f}, style {parts[1]:.4f}")
                return parts, gradient

            is_first = not len(progress.image)
            image = from_uint8(small.image).numpy() if is_first else progress.resized(*small.content.shape[:2])
            for _ in range(sum(row["pixels"] == pixels for row in progress.history), config.epochs):
                image = optimize(evaluate, image, config)
                row = dict(zip(LOSSES, map(float, losses(image[None])[0]), strict=True))
                progress.save(image, **row, pixels=pixels)
    data.image[:] = to_uint8(progress.resized(*data.content.shape[:2]))
    return progress.history


def first_image(painting: Painting, config: Config) -> np.ndarray:
    """Return the initial image of the optimisation, uint8 [height, width, 3]."""
    shape = painting.content.shape
    if config.start == "noise":
        return np.random.default_rng(config.seed).integers(0, 256, shape).astype(np.uint8)
    return painting.content if config.start == "content" else resize_image(painting.styles[0][0], *shape[:2])


def by_lbfgs(losses: Callable, image: np.ndarray, config: Config) -> np.ndarray:
    """Optimise an image [height, width, 3] with L-BFGS and about `steps` loss evaluations (section 2.3)."""
    from scipy.optimize import minimize

    def loss_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        parts, gradient = losses(tf.constant(point.reshape(1, *image.shape), tf.float32))
        return float(parts[-1]), gradient.numpy().ravel().astype(np.float64)

    options = {"maxfun": config.steps - 1, "maxiter": config.steps, "maxcor": 10, "ftol": 0, "gtol": 0}
    start = image.ravel().astype(np.float64)
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    return np.clip(found.x.reshape(image.shape).astype(np.float32), -1, 1)


def by_adam(losses: Callable, image: np.ndarray, config: Config) -> np.ndarray:
    """Optimise an image [height, width, 3] with `steps` steps of Adam."""
    variable = keras.Variable(image[None])
    optimizer = keras.optimizers.Adam(config.learning_rate)
    for _ in range(config.steps):
        _, gradient = losses(tf.convert_to_tensor(variable.value))
        optimizer.apply([gradient], [variable])
        variable.assign(tf.clip_by_value(variable.value, -1, 1))
    return variable.numpy()[0]


# %% Use
# Strokes alone cannot give a blue photo the style of an ochre painting. With `--colours matched`, the photo's colours
# are first transformed to have the mean and covariance of the painting's colours. With `--colours kept`, the result
# keeps its luminance and takes the colours of the photo.


def stylize(networks: Networks, painting: Painting, config: Config, output_dir: Path | None = None) -> np.ndarray:
    """Return the stylised photo, uint8 [height, width, 3], with colours according to `config.colours`."""
    result = painting.matched() if config.colours == "matched" else Painting.of(painting.content, painting.styles)
    train(networks, result, config, output_dir)
    return painting.with_content_colours(result.image) if config.colours == "kept" else result.image


# %% A whole run
# The built-in photo is scikit-image's cat, and the built-in painting is synthetic. The
# scores are the style loss of the photo and the style loss of the 8-bit result.
#
# >>> painting = Painting.read("sample", "sample", DEMO.size)
# >>> show(np.stack([resize_image(image, 256, 384) for image in (painting.content, painting.styles[0][0])]))


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/style_transfer"),
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Stylise the photo at `data` or resume, save the run, and return the path of a comparison image."""
    config = replace(config, style=Painting.absolute_paths(config.style))
    folder = Run(output_dir, "style_transfer", config, data, accept_data)
    painting = Painting.read(data, config.style, config.size)
    networks = build_networks(config, fetch)
    folder.start()
    result = stylize(networks, painting, config, output_dir)
    save_image(result, Path(output_dir, "painting.png"))
    several = len(painting.styles) > 1
    styles = {f"style {number}" if several else "style": image for number, (image, _) in enumerate(painting.styles, 1)}
    figure = {"photo": painting.content} | styles | {"result": result}
    image = save_image(figure, Path(output_dir, "beside.png"), height=painting.content.shape[0])
    return folder.finish(networks, lambda: evaluate(networks, painting, result, config), image)


def evaluate(networks: Networks, painting: Painting, result: np.ndarray, config: Config) -> dict[str, float]:
    """Return the style losses of the photo and of the result, both uint8 [height, width, 3]."""
    losses = make_losses(networks, painting, config)
    images = {"content": painting.content, "painting": result}
    return {f"style_of_{name}": float(losses(from_uint8(image[None]))[0][1]) for name, image in images.items()}


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Give scikit-image's cat the style of a synthetic painting; return the path of a comparison image."""
    return run("sample", config, output_dir)


def stylize_file(source: Path, destination: Path, config: Config = Config(), fetch: bool = False) -> Path:
    """Give a photo the style of one or more paintings. `--size` limits the size of the result."""
    check_image_path(destination)
    painting = Painting.read(str(source), config.style, config.size)
    return save_image(stylize(build_networks(config, fetch), painting, config), destination)


# %% Try it
# Three results for the same photo and painting: with the painting's colours, with the photo's colours, and with noise
# as the initial image. The images are smaller than in the demo and need fewer steps, so this takes only seconds.
# >>> quick = replace(DEMO, size=224, scales=1, epochs=1)
# >>> networks, painting = build(quick), Painting.read("sample", "sample", quick.size)
# >>> variants = quick, replace(quick, colours="kept"), replace(quick, start="noise")
# >>> show(np.stack([stylize(networks, painting, variant) for variant in variants]))


if __name__ == "__main__":
    plain = replace(VGG19, colours="free", scales=1, variation_weight=0.0, steps=100, epochs=5)
    presets = {"demo": DEMO, "vgg19": VGG19, "plain": plain}
    run_command(demo, presets=presets, steps=False, train=run, stylize=stylize_file)
