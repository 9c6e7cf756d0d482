"""Fast style transfer: train a network for one painting, then paint any picture in its manner in one pass.

Paper    Johnson, Alahi & Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016,
         doi:10.1007/978-3-319-46475-6_43 (arXiv:1603.08155).
Images   uint8 [n, size, size, 3] at the borders; float32 in [-1, 1] in the networks.
Differs  1. Losses are shares of what is wanted, so that one weight fits all layers and networks.
         2. Normalised are the channels of each place, not each channel over an image or a batch: that grows a black or
            bright spot, by which the rest is steered (Karras et al. 2020, arXiv:1912.04958, section 2.1).
         3. The photo first gets the painting's colours (Gatys et al. 2016, arXiv:1606.05897, section 2.1), and what is
            learnt is the difference to that.
         4. Nearest pixels and a convolution enlarge: no checkerboard (doi:10.23915/distill.00003). Edges are mirrored.
         5. The embedded network looks, or any other; the painter is half as wide as the paper's.
Run      python -m recipes.fast_style_transfer                                        the demo: offline
         python -m recipes.fast_style_transfer train --data DIR --style painting.jpg --output-dir runs/night
         python -m recipes.fast_style_transfer stylize photo.jpg out.png --run runs/night      any size; or a folder
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from common.batches import Batches, batches, jittered
from common.canvas import least_side, photo_squares, read_style, weighted_names
from common.cli import run_command
from common.datasets import images_of
from common.errors import InputError
from common.execution import Execution, adam, in_precision, loss_scale
from common.imagenet import frozen_features
from common.images import from_uint8, pad_to_multiple, read_image, save_grid, to_uint8, write_image
from common.lazy import keras, tf
from common.ranges import BatchSize, Epochs, Filters, Jitter, LearningRate, Range, Seed, Weight
from common.runs import check_run, convert_images, finish_run, load_network, read_run, start_run
from common.seasons import drawn_seasons
from common.training import History, fit, share

# %% Configuration
# `style_transfer` moves the pixels of one picture for a minute. This recipe trains a network once, for one painting,
# to give such a picture in a single pass; what it pays is that each painting needs a training of its own.
# `style_weight` and `variation` are the same two as there, but lower: what a network of this size can do for every
# photo is less than what can be done for one. `style_size` sets how large the strokes are beside the photo.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Before the embedded network; `VGG19` has layers like those of the paper (section 4.1)."""

    style: str = "sample"  # file of the painting; sample: a texture that the project draws
    style_size: Annotated[int, Range(32, 16_384)] = 256  # most pixels of its longer side: more make longer strokes
    network: str = "embedded"  # VGG19, InceptionV3, NASNetMobile, MobileNetV2, ResNet50; or file: any Keras model
    weights: str = ""  # imagenet, or a file of weights for that network; for file a .keras file
    content_layers: str = "conv3_2"  # NAME or NAME=WEIGHT, separated by commas: whose maps should stay
    style_layers: str = "conv1_1,conv1_2,conv2_1,conv2_2,conv3_1,conv3_2,conv4_1,conv4_2"  # whose Gram matrices count
    content_weight: Weight = 1.0
    style_weight: Weight = 10.0
    variation: Weight = 10.0  # weight of total variation, which smooths
    size: Annotated[int, Range(32, 2048)] = 256  # pixels a side of the pictures it learns from; a multiple of 4
    jitter: Jitter = 1.12  # enlarged by this factor, then cropped back at random
    base_filters: Filters = 16  # of the layers next to the image
    residual_blocks: Annotated[int, Range(0, 100)] = 5
    batch_size: BatchSize = 4
    learning_rate: LearningRate = 1e-3  # at first; falls to 0 along a cosine
    epochs: Epochs = 40
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


VGG19_STYLE = ",".join(f"block{stage}_conv2" for stage in range(1, 5))
VGG19 = Config(network="VGG19", weights="imagenet", content_layers="block3_conv3", style_layers=VGG19_STYLE)
DEMO = Config(size=128, residual_blocks=3, batch_size=2, learning_rate=2e-3, epochs=4)
DEMO_RUN = Path("runs/fast_style_transfer-demo")

# %% Networks
# The painter halves the photo twice, works on it there in residual blocks, where a convolution reaches four times as
# far for a sixteenth of the work, and doubles it back. It adds to the photo, so it begins as a network that changes
# nothing. Every layer is normalised over the channels of each place. Over the whole image, as is usual for styles,
# one spot of large values would decide about the scale of everything else, and a painter learns to make such spots:
# black holes in a sky. The contrast of the photo, which that takes out, is taken out by the colours below. The other
# network only looks, as in `style_transfer`.


class Networks(NamedTuple):
    """Who paints, and what looks, which does not learn."""

    painter: keras.Model  # photos `with_colours`, in [-1, 1], sides multiples of 4, from 8 -> paintings, alike
    features: keras.Model  # images -> maps of the content layers, then of the style's


def build(config: Config = Config()) -> Networks:
    """Return both networks; ValueError for a size that is no multiple of 4, or a layer that is not there."""
    return networks_of(config)


@in_precision
def networks_of(config: Config, fetch: bool = False) -> Networks:
    """Do the same; Keras may `fetch` the weights of what looks."""
    if config.size % 4:
        raise InputError(f"size must be a multiple of 4, got {config.size}")
    layers, ops, width = keras.layers, keras.ops, config.base_filters
    seeds = keras.random.SeedGenerator(config.seed)

    def convolved(x, filters: int, kernel: int = 3, stride: int = 1, init=keras.initializers.HeNormal):
        edge = kernel // 2
        x = ops.pad(x, [[0, 0], [edge, edge], [edge, edge], [0, 0]], mode="reflect")
        return layers.Conv2D(filters, kernel, stride, kernel_initializer=init(seed=seeds))(x)

    def normalised(x):
        return layers.LayerNormalization(epsilon=1e-5)(x)  # the channels of each place

    x = images = keras.Input((None, None, 3), name="images")
    for filters, kernel, stride in ((width, 9, 1), (2 * width, 3, 2), (4 * width, 3, 2)):
        x = layers.ReLU()(normalised(convolved(x, filters, kernel, stride)))
    for _ in range(config.residual_blocks):
        y = layers.ReLU()(normalised(convolved(x, 4 * width)))
        x = layers.Add()([x, normalised(convolved(y, 4 * width))])
    for filters in (2 * width, width):
        x = layers.ReLU()(normalised(convolved(layers.UpSampling2D(2)(x), filters)))
    little = functools.partial(keras.initializers.RandomNormal, stddev=1e-3)  # so that it begins with the photo itself
    x = layers.Activation("tanh", dtype="float32")(1.5 * images + convolved(x, 3, 9, init=little))
    painter = keras.Model(images, x, name="painter")
    names = [*weighted_names(config.content_layers), *weighted_names(config.style_layers)]
    features = frozen_features(config.network, config.weights, names, fetch)
    if config.size < least_side(features):
        raise InputError(f"size must be at least {least_side(features)} for this network, got {config.size}")
    return Networks(painter, features)


# %% Losses
# Perceptual: two pictures are alike if a trained network sees the same in them. Content compares maps place by place;
# style compares Gram matrices, the mean products of every two channels, with the painting's.


def gram(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean products of every two channels over all places: [n, height, width, c] -> [n, c, c]."""
    places = tf.cast(tf.shape(maps)[1] * tf.shape(maps)[2], tf.float32)
    return tf.einsum("nhwc,nhwd->ncd", maps, maps) / places


# By hand: two channels at two places, (1, 2) and (3, 4). Their mean products are (1 + 9) / 2 = 5, (2 + 12) / 2 = 7
# and (4 + 16) / 2 = 10. Where the places lie does not matter, only what occurs together with what: that is the style.
# >>> gram(tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]]))


def share_left(found: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Return the squared distance of two tensors as a share of the square of the second, meaned over the images."""
    axes = list(range(1, len(found.shape)))
    left, whole = (tf.reduce_sum(each**2, axes) for each in (found - wanted, wanted))
    return tf.reduce_mean(tf.math.divide_no_nan(left, whole))


def total_variation(pictures: tf.Tensor) -> tf.Tensor:
    """Return the mean square of the steps between neighbours, across and down, of [n, height, width, 3]."""
    across, down = pictures[:, :, 1:] - pictures[:, :, :-1], pictures[:, 1:] - pictures[:, :-1]
    return tf.reduce_mean(across**2) + tf.reduce_mean(down**2)


def make_losses(networks: Networks, config: Config) -> Callable:
    """Return a function of photos and paintings, [n, height, width, 3] in [-1, 1] -> content, style, variation."""
    _, features = networks
    layers = [list(weighted_names(names).values()) for names in (config.content_layers, config.style_layers)]
    content_weights, style_weights = (tf.constant(each) / sum(each) for each in layers)
    first = len(content_weights)
    style = read_style(config.style, config.style_size)

    def seen(pictures: tf.Tensor) -> list[tf.Tensor]:
        return [tf.cast(maps, tf.float32) for maps in features(pictures, training=False)]

    grams = [gram(maps) for maps in seen(from_uint8(style[None]))[first:]]

    def losses(photos: tf.Tensor, paintings: tf.Tensor) -> tuple[tf.Tensor, ...]:
        wanted, maps = seen(photos)[:first], seen(paintings)
        kept = [share_left(found, target) for found, target in zip(maps[:first], wanted, strict=True)]
        painted = [share_left(gram(found), target) for found, target in zip(maps[first:], grams, strict=True)]
        content, style = tf.reduce_sum(content_weights * kept), tf.reduce_sum(style_weights * painted)
        return content, style, total_variation(paintings)

    return losses


# %% Colours
# What the painter would learn first and longest is the painting's palette. A linear map does that at once: it moves
# the mean and the covariance of a photo's colours to those of the painting. The painter gets the photo with these
# colours.


def mean_and_covariance(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return those of the colours of each image: [n, height, width, 3] -> [n, 1, 1, 3] and [n, 3, 3]."""
    mean = tf.reduce_mean(images, (1, 2), keepdims=True)
    return mean, gram(images - mean) + 1e-2 * tf.eye(3)  # without which the noise of a grey photo would become colours


def with_colours(photos: tf.Tensor, style: np.ndarray) -> tf.Tensor:
    """Return photos [n, height, width, 3] in [-1, 1] with the colours' mean and covariance of a painting, uint8."""
    (mean, own), (wanted_mean, wanted) = mean_and_covariance(photos), mean_and_covariance(from_uint8(style[None]))
    values, vectors = tf.linalg.eigh(own)
    whiten = vectors / tf.sqrt(values)[:, None] @ tf.linalg.matrix_transpose(vectors)
    matched = tf.einsum("nhwc,ncd->nhwd", photos - mean, whiten @ tf.linalg.sqrtm(wanted)) + wanted_mean
    return tf.clip_by_value(matched, -1.0, 1.0)


# %% Training
# An ordinary loop: photos in, paintings out, and the gradient of the losses by the painter's weights. The weights of
# what looks stay as they are.
#
# What is logged: `style`, the share of the painting's Gram matrices that is missing: 0.36 over the demo's first
# epoch, 0.15 over its last, where colours alone leave 0.65. `content` rises meanwhile, from 0.45 to 0.70; at 1
# nothing of the photo would be left, so if it comes near, halve `style_weight`. `variation` is the mean square of the
# steps between neighbours.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train the painter in place on batches of uint8 images; return each epoch's mean losses."""
    painter, _ = networks
    losses, painting = make_losses(networks, config), read_style(config.style, config.style_size)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(rate, painter.trainable_variables, config.execution)

    @tf.function
    def step(photos: tf.Tensor) -> dict[str, tf.Tensor]:
        photos = with_colours(from_uint8(photos), painting)
        with tf.GradientTape() as tape:
            content, style, variation = losses(photos, painter(photos, training=True))
            loss = config.content_weight * content + config.style_weight * style + config.variation * variation
            loss = share(loss)
        gradients = tape.gradient(loss, painter.trainable_variables, loss_scale(optimizer))
        optimizer.apply(gradients, painter.trainable_variables)
        return {"content": share(content), "style": share(style), "variation": share(variation)}

    def sample(epoch: int) -> None:
        if output_dir is not None and data.held_out:
            save_beside(painter, painting, data.held_out[0], output_dir / "samples" / f"epoch-{epoch:04d}.png")

    state = networks._asdict() | {"optimizer": optimizer}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution)


# %% Use
# All convolutions, so any size: a photo is mirrored at its edges up to a multiple of 8, and cut back afterwards.


def stylize(painter: keras.Model, style: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Paint uint8 [height, width, 3] of any size in the manner of `style`, which the painter has learnt; alike."""
    height, width = image.shape[:2]
    photo = pad_to_multiple(with_colours(from_uint8(image[None]), style)[0].numpy(), 8)
    return to_uint8(painter(photo[None], training=False))[0, :height, :width]


def save_beside(painter: keras.Model, style: np.ndarray, photos: np.ndarray, path: Path) -> Path:
    """Write a picture of up to six photos, uint8 [n, size, size, 3], above what the painter makes of them."""
    shown = photos[:: max(1, len(photos) // 6)][:6]
    return save_grid(np.concatenate([shown, [stylize(painter, style, photo) for photo in shown]]), path, len(shown))


# %% A whole run
# The embedded pictures are landscapes that the project draws, and parts of photographs that come with scikit-image;
# sixty are held out. The scores are content and style of their paintings, and, to compare with, the style's loss of
# the photos that have got the painting's colours and nothing else.


def sample_pictures(config: Config = DEMO) -> np.ndarray:
    """Return the embedded data: drawn landscapes and parts of scikit-image's photographs, uint8 [n, size, size, 3]."""
    pictures = np.concatenate([drawn_seasons(120, config.seed, config.size)[0], photo_squares(config.size)])
    return pictures[np.random.default_rng(config.seed).permutation(len(pictures))]


# >>> show(np.concatenate([drawn_seasons(8, DEMO.seed, DEMO.size)[0], photo_squares(DEMO.size)[::26][:8]]))


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/fast_style_transfer"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train a painter for one style or go on; leave a run in `output_dir`, return its picture's path."""
    if config.style != "sample":  # a run may go on from another folder
        config = replace(config, style=str(Path(config.style).resolve()))
    check_run(output_dir, "fast_style_transfer", config, data, accept_data)
    style, networks = read_style(config.style, config.style_size), networks_of(config, fetch)
    least_side(networks.features, style)  # says where the painting is too small
    photos = images_of(data, config.size, 3, functools.partial(sample_pictures, config), skip_bad, fetch)
    (held_out,) = photos.held_out(60)
    load = jittered(photos, config.size, config.jitter)
    start_run(output_dir, "fast_style_transfer", config, data)
    write_image(style, output_dir / "style.png")
    train(networks, batches(photos.train, config.batch_size, config.seed, load, (held_out,)), config, output_dir)
    picture = save_beside(networks.painter, style, held_out, output_dir / "beside.png")
    finish_run(output_dir, networks, lambda: evaluate(networks, held_out, config))
    return picture


def evaluate(networks: Networks, photos: np.ndarray, config: Config) -> dict[str, float]:
    """Return what is left of content and style in paintings of held-out photos, and of style with colours alone."""
    losses, style, rows = make_losses(networks, config), read_style(config.style, config.style_size), []
    for photo in photos:
        before = with_colours(from_uint8(photo[None]), style)
        content, left, _ = losses(before, from_uint8(stylize(networks.painter, style, photo)[None]))
        rows.append([float(content), float(left), float(losses(before, before)[1])])
    return dict(zip(("content", "style", "style_of_colours_alone"), np.mean(rows, 0).tolist(), strict=True))


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to paint in the manner of a drawn texture; return a picture of held-out photos and their paintings."""
    return experiment("sample", config, output_dir)


def stylize_file(source: Path, destination: Path, run: Path = DEMO_RUN, skip_bad: bool = False) -> Path:
    """Paint an image, or every image of a folder into a folder, with the painter of a run."""
    read_run(run, "fast_style_transfer", Config)
    painter = load_network(run, "painter", (None, None, 3), (None, None, 3))
    convert = functools.partial(stylize, painter, read_image(run / "style.png"))
    return convert_images(source, destination, convert, 0, skip_bad)


# %% Try it
# One pass for a photo that is three times as large as those it has learnt from. To its left the photo with the
# painting's colours, which is what the painter was given.
# >>> from skimage.data import coffee
# >>> painter, style = load_network(DEMO_RUN, "painter"), read_image(DEMO_RUN / "style.png")
# >>> given = to_uint8(with_colours(from_uint8(coffee()[None]), style))[0]
# >>> show(np.stack([given, stylize(painter, style, coffee())]))


if __name__ == "__main__":
    presets = {"embedded": Config(), "vgg19": VGG19, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, stylize=stylize_file)
