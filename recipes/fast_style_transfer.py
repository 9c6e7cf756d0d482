"""Fast style transfer: train a network for one style image, then stylise any photo in a single pass.

Paper    Johnson, Alahi & Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016,
         doi:10.1007/978-3-319-46475-6_43 (arXiv:1603.08155).
Images   uint8 [n, size, size, 3] at the API boundary; float32 in [-1, 1] in the networks.
Differs  1. Losses are relative errors, so the same weights suit all layers and loss networks.
         2. Layer normalisation over the channels of each position replaces batch normalisation: with normalisation over
            an image, networks produce blobs of extreme values (Karras et al. 2020, arXiv:1912.04958, section 2.1).
         3. The colours of the photo are first matched to those of the style image (Gatys et al. 2016, arXiv:1606.05897,
            section 2.1), and a colour loss keeps them similar. The network learns a residual.
         4. Bilinear upsampling and a convolution replace transposed convolutions (doi:10.23915/distill.00003).
         5. The loss network is a small one that ships with this project, or any other Keras model. The transform
            network has half as many filters as in the paper.
         6. With `waves`, the network gets noise, as in Ulyanov et al. 2016 (arXiv:1603.03417, section 3.2): plane waves
            of random directions and wavelengths. Without noise, plain regions such as a clear sky get no strokes.
Run      python -m recipes.fast_style_transfer                                        the demo: offline
         python -m recipes.fast_style_transfer train --data DIR --style a.jpg --preset modern --output-dir runs/mine
         python -m recipes.fast_style_transfer stylize photo.jpg out.png --run runs/mine   an image or a folder
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, images_of
from common.images import convert_images, from_uint8, save_image
from common.runs import Range, Run, frozen_features, run_command
from common.training import adam, fit, read_style

# %% Configuration
# `style_transfer` optimises the pixels of one image, which takes a minute. This recipe trains a network once per style
# image; the network then stylises any photo in a single pass. `style_weight` and `variation_weight` have the same
# meaning as in `style_transfer`. Their defaults are lower, because a network for all photos is less flexible than the
# pixels of one photo. `style_size` sets the size of the strokes relative to the photo.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for the bundled loss network. `VGG19` uses layers similar to the paper's (section 4.1)."""

    style: str = "sample"  # file of the style image; sample: a synthetic painting
    style_size: Annotated[int, Range(32, 16_384)] = 256  # limit for its longer side in pixels; larger: coarser strokes
    network: str = "embedded"  # VGG19, InceptionV3, NASNetMobile, MobileNetV2, ResNet50; or file: any Keras model
    weights: str = ""  # imagenet, or a weights file for that network; with file: a .keras file
    content_layers: str = "conv3_2"  # NAME or NAME=WEIGHT, separated by commas: layers of the content loss
    style_layers: str = "conv1_1,conv1_2,conv2_1,conv2_2,conv3_1,conv3_2,conv4_1,conv4_2"  # layers of the style loss
    content_weight: Annotated[float, Range(0, 1e9)] = 1.0
    style_weight: Annotated[float, Range(0, 1e9)] = 10.0
    variation_weight: Annotated[float, Range(0, 1e9)] = 10.0  # weight of the total variation; larger: smoother images
    colour_weight: Annotated[float, Range(0, 1e9)] = 1.0  # 0: also colours that the style image does not have
    size: Annotated[int, Range(32, 2048, multiple_of=4)] = 256  # side of the photos in pixels
    crop: Annotated[int, Range(0, 2048, multiple_of=4)] = 0  # side of the random crops for training; 0: size
    jitter: Annotated[float, Range(1, 4)] = 1.12  # enlarge photos by this factor, then crop and mirror at random
    base_filters: Annotated[int, Range(1, 1024)] = 16  # filters of the outermost layers
    residual_blocks: Annotated[int, Range(0, 100)] = 5
    outer_kernel: Annotated[int, Range(1, 31)] = 9  # kernel size of the first and last convolution, an odd number
    waves: Annotated[int, Range(0, 1024)] = 0  # number of fixed random plane waves, which the network gets as noise
    batch_size: Annotated[int, Range(1, 65_536)] = 4
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3  # initial value; decays to 0 along a cosine
    epochs: Annotated[int, Range(1, 1_000_000)] = 40
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        """Check all ranges."""
        Range.check(self, crop=Range(32 if self.crop else 0, 2048, multiple_of=4))


STYLE = ",".join(f"block{stage}_conv2" for stage in range(1, 5))
VGG19 = Config(network="VGG19", weights="imagenet", content_layers="block3_conv3", style_layers=STYLE, colour_weight=0)
DEMO = Config(style_size=320, size=192, crop=80, outer_kernel=3, residual_blocks=3, waves=32, variation_weight=2.0,
              batch_size=1, learning_rate=3e-3, epochs=3)  # fmt: skip
DEMO_RUN = Path("runs/fast_style_transfer-demo")

# %% Networks
# The transform network downsamples twice, applies residual blocks at a quarter of the resolution, and upsamples to the
# original size. Its output is the photo plus a residual that starts near 0, so an untrained network hardly changes the
# photo. Layer normalisation is computed over the channels of each position. With normalisation over the entire image,
# as is usual, networks produce blobs of large values, which appear as black holes in the sky. The loss network is
# frozen, as in `style_transfer`.
#
# A convolutional network maps a region of one colour to one colour, so it cannot paint strokes on a clear sky. `waves`
# adds the sines of random linear functions of the position. They differ at every position, in images of any size. The
# network learns to shape strokes from them. The photo's first pixel shifts the waves, or one crop would show only few.


class Networks(NamedTuple):
    """The trainable transform network and the frozen loss network."""

    transform_network: keras.Model  # recoloured photos (sides: multiples of 4, at least 8) -> stylised photos
    features: keras.Model  # images -> feature maps of the content layers, then of the style layers


def build(config: Config = Config()) -> Networks:
    """Return the untrained transform network and the loss network.

    Raises:
        InputError: the loss network lacks a layer or needs larger images, or the style image cannot be read.
    """
    return build_networks(config)


def build_networks(config: Config, fetch: bool = False) -> Networks:
    """Return the same as `build`; `fetch` allows Keras to download the weights of the loss network."""
    layers, width = keras.layers, config.base_filters
    seeds = keras.random.SeedGenerator(config.seed)

    def convolve(x, filters: int, kernel: int = 3, stride: int = 1, init=keras.initializers.HeNormal):
        edge = kernel // 2
        x = keras.ops.pad(x, [[0, 0], [edge, edge], [edge, edge], [0, 0]], mode="reflect")
        return layers.Conv2D(filters, kernel, stride, kernel_initializer=init(seed=seeds))(x)

    def normalise(x):
        return layers.LayerNormalization(epsilon=1e-5)(x)  # over the channels of each position

    def plane_waves(x):
        ones = keras.ops.ones_like(keras.ops.mean(x, -1, keepdims=True), dtype="float32")
        position = keras.ops.concatenate([keras.ops.cumsum(ones, axis) for axis in (1, 2)], -1)
        position += 100 * images[:, :1, :1, :2]  # other photos, other waves
        normal = keras.initializers.RandomNormal(stddev=0.8, seed=seeds)  # wavelengths of 4 positions and more
        uniform = keras.initializers.RandomUniform(0, 2 * np.pi, seed=seeds)
        fixed = {"kernel_initializer": normal, "bias_initializer": uniform, "trainable": False, "dtype": "float32"}
        return keras.ops.sin(layers.Conv2D(config.waves, 1, name="waves", **fixed)(position))

    x = images = keras.Input((None, None, 3), name="images")
    for filters, kernel, stride in ((width, config.outer_kernel, 1), (2 * width, 3, 2), (4 * width, 3, 2)):
        x = layers.ReLU()(normalise(convolve(x, filters, kernel, stride)))
    if config.waves:
        x = layers.Add()([x, convolve(plane_waves(x), 4 * width, 1)])
    for _ in range(config.residual_blocks):
        y = layers.ReLU()(normalise(convolve(x, 4 * width)))
        x = layers.Add()([x, normalise(convolve(y, 4 * width))])
    for filters in (2 * width, width):
        x = layers.ReLU()(normalise(convolve(layers.UpSampling2D(interpolation="bilinear")(x), filters)))
    small = functools.partial(keras.initializers.RandomNormal, stddev=1e-3)  # the output starts close to the photo
    x = layers.Activation("tanh", dtype="float32")(1.5 * images + convolve(x, 3, config.outer_kernel, init=small))
    transform_network = keras.Model(images, x, name="transform_network")
    feature_layers = [config.content_layers, config.style_layers]
    smallest = min(config.crop or config.size, config.size, *read_style(config.style, config.style_size).shape[:2])
    features = frozen_features(config.network, config.weights, feature_layers, fetch, smallest)
    return Networks(transform_network, features)


# %% Losses
# Perceptual losses compare feature maps of the loss network. The content loss compares the maps of the output and the
# photo, position by position. The style loss compares the Gram matrices of the output and the style image. A Gram
# matrix contains the mean product of each pair of channels. The colour loss compares Gram matrices of the pixels:
# the bundled loss network was trained on images with random colours, so the style loss hardly depends on them.


def gram(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean product of each pair of channels over all positions: [n, height, width, c] -> [n, c, c]."""
    return tf.einsum("nhwc,nhwd->ncd", maps, maps) / tf.cast(tf.shape(maps)[1] * tf.shape(maps)[2], tf.float32)


# Example: two channels at two positions, (1, 2) and (3, 4). The mean products are (1 + 9) / 2 = 5, (2 + 12) / 2 = 7 and
# (4 + 16) / 2 = 10. They depend only on which channels are active together, not on where.
# >>> gram(tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]]))


def relative_error(found: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Return ||found - wanted||^2 / ||wanted||^2 of each image, averaged over the batch; 0 where `wanted` is 0."""
    axes = list(range(1, len(found.shape)))
    error, scale = tf.reduce_sum((found - wanted) ** 2, axes), tf.reduce_sum(wanted**2, axes)
    return tf.reduce_mean(tf.math.divide_no_nan(error, scale))


def total_variation(images: tf.Tensor) -> tf.Tensor:
    """Return the mean squared difference of adjacent pixels, horizontal plus vertical, for [n, height, width, 3]."""
    across = images[:, :, 1:] - images[:, :, :-1]
    down = images[:, 1:] - images[:, :-1]
    return tf.reduce_mean(across**2) + tf.reduce_mean(down**2)


def colour_error(images: tf.Tensor, style_image: tf.Tensor) -> tf.Tensor:
    """Return the relative error of the colours' Gram matrices, if the style image has mean 0 and covariance I."""
    mean, covariance = mean_and_covariance(style_image)
    error = tf.linalg.inv(covariance) @ (gram(images - mean) - gram(style_image - mean))
    return tf.reduce_mean(tf.linalg.trace(error @ error)) / 3


def layer_weights(layers: str) -> tf.Tensor:
    """Parse "NAME,NAME=WEIGHT,..." and return the weights, scaled to a sum of 1. The default weight is 1."""
    weights = [float(layer.partition("=")[2] or 1) for layer in layers.split(",")]
    return tf.constant(weights) / sum(weights)


def make_losses(networks: Networks, config: Config) -> Callable:
    """Return a function that maps photos and outputs, [n, height, width, 3] in [-1, 1], to the four losses."""
    content_weights, style_weights = (layer_weights(names) for names in (config.content_layers, config.style_layers))
    first = len(content_weights)

    def maps_of(images: tf.Tensor) -> list[tf.Tensor]:
        return [tf.cast(maps, tf.float32) for maps in networks.features(images, training=False)]

    style_image = from_uint8(read_style(config.style, config.style_size)[None])
    style_grams = [gram(maps) for maps in maps_of(style_image)[first:]]

    def losses(photos: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        photo_maps, maps = maps_of(photos)[:first], maps_of(outputs)
        content = [relative_error(found, wanted) for found, wanted in zip(maps[:first], photo_maps, strict=True)]
        style = [relative_error(gram(found), wanted) for found, wanted in zip(maps[first:], style_grams, strict=True)]
        content_loss = tf.reduce_sum(content_weights * content)  # equation 2
        style_loss = tf.reduce_sum(style_weights * style)  # equation 4
        return content_loss, style_loss, total_variation(outputs), colour_error(outputs, style_image)

    return losses


# %% Colours
# Learning the colours of the style image would be slow. A linear map thus gives each photo the colour mean and
# covariance of the style image. The network gets the recoloured photo.


def mean_and_covariance(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mean and covariance of each image's colours: [n, height, width, 3] -> [n, 1, 1, 3], [n, 3, 3]."""
    mean = tf.reduce_mean(images, (1, 2), keepdims=True)
    return mean, gram(images - mean) + 1e-2 * tf.eye(3)  # limits colour noise in a grey photo


def with_colours(photos: tf.Tensor, style: np.ndarray) -> tf.Tensor:
    """Give photos [n, height, width, 3] in [-1, 1] the colour mean and covariance of a uint8 style image."""
    (mean, own), (wanted_mean, wanted) = mean_and_covariance(photos), mean_and_covariance(from_uint8(style[None]))
    values, vectors = tf.linalg.eigh(own)
    whiten = vectors / tf.sqrt(values)[:, None] @ tf.linalg.matrix_transpose(vectors)
    matched = tf.einsum("nhwc,ncd->nhwd", photos - mean, whiten @ tf.linalg.sqrtm(wanted)) + wanted_mean
    return tf.clip_by_value(matched, -1.0, 1.0)


# %% Training
# Each step stylises a batch of photos. The gradient of the losses updates the transform network. The loss network is
# frozen.
#
# What is logged: `style`, the relative error of the Gram matrices, falls fast, then slowly. In a healthy run, it falls
# below a third of the score `style_of_colours_alone`, the error of recoloured photos. Meanwhile, `content` rises. If it
# approaches 1, little of the photo is left: halve `style_weight`. `variation` is the total variation.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | np.ndarray,
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the transform network in place.

    Args:
        networks: the result of `build`.
        data: uint8 photos [batch, size, size, 3]. With `Batches`, held-out examples are written to `samples/`. A
            `tf.data.Dataset` must be batched; it is not reshuffled, and a resumed run starts a new pass over it. With
            `Batches` or an array, a run resumes exactly where it stopped.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and examples. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    network = networks.transform_network
    losses = make_losses(networks, config)
    style_image = read_style(config.style, config.style_size)
    learning_rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(learning_rate, network.trainable_variables)

    @tf.function
    def step(photos: tf.Tensor) -> dict[str, tf.Tensor]:
        photos = with_colours(from_uint8(photos), style_image)
        with tf.GradientTape() as tape:
            content, style, variation, colour = losses(photos, network(photos, training=True))
            loss = config.content_weight * content  # equation 5
            loss += config.style_weight * style
            loss += config.variation_weight * variation
            loss += config.colour_weight * colour
            scaled = optimizer.scale_loss(loss)  # float16 gradients would underflow; `apply` unscales them
        optimizer.apply(tape.gradient(scaled, network.trainable_variables), network.trainable_variables)
        return {"content": content, "style": style, "variation": variation, "colour": colour}

    def sample(epoch: int, losses: dict[str, float]) -> None:
        if output_dir is not None and data.held_out:
            save_comparison(network, style_image, data.held_out[0], Path(output_dir, f"samples/epoch-{epoch:04d}.png"))

    state = networks._asdict() | {"optimizer": optimizer}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[sample, on_epoch])


# %% Use
# The transform network is fully convolutional, so it accepts images of any size. The sides of a photo are padded by
# reflection to multiples of 8, and the output is cropped to the original size.


def stylize(network: keras.Model, style_image: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Stylise a uint8 [height, width, 3] image of any size; the result has the same shape and dtype.

    `style_image` (uint8) must be the style image that `network` was trained with.
    """
    height, width, _ = image.shape
    photo = with_colours(from_uint8(image[None]), style_image)[0].numpy()
    padded = np.pad(photo, ((0, -height % 8), (0, -width % 8), (0, 0)), "symmetric")
    output = network(padded[None], training=False).numpy()[0, :height, :width]
    return np.round((output + 1) * 127.5).astype(np.uint8)


def save_comparison(network: keras.Model, style_image: np.ndarray, photos: np.ndarray, path: Path) -> Path:
    """Write the style image, and next to it up to six uint8 photos [n, size, size, 3] above the stylised photos."""
    photos = photos[:: max(1, len(photos) // 6)][:6]
    stylized = np.stack([stylize(network, style_image, photo) for photo in photos])
    pairs = np.pad(np.concatenate([photos, stylized], 1), ((0, 0), (0, 0), (0, 4), (0, 0)), constant_values=255)
    figure = {"style": style_image, "photos, and below them the results": np.concatenate(list(pairs), 1)}
    return save_image(figure, path, height=pairs.shape[1])


# %% A whole run
# The built-in data are synthetic landscapes and square crops of photographs from scikit-image. A tenth is held out. The
# scores are the content, style and colour loss of the stylised held-out photos. The baseline `style_of_colours_alone`
# is the style loss of the recoloured photos, before stylisation.
# >>> from common.samples.photos import photo_squares
# >>> from common.samples.seasons import synthetic_seasons
# >>> show(np.concatenate([synthetic_seasons(8, DEMO.seed, DEMO.size)[0], photo_squares(DEMO.size)[::26][:8]]))


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/fast_style_transfer"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` with one style image or resume, score held-out photos, save the run, return a figure's path."""
    if config.style != "sample":  # absolute, to resume from any working directory
        config = replace(config, style=str(Path(config.style).resolve()))
    folder = Run(output_dir, "fast_style_transfer", config, data, accept_data)
    style_image = read_style(config.style, config.style_size)
    photos = images_of(data, config.size, 3, "photos", skip_bad, fetch, config.seed)
    networks = build_networks(config, fetch)
    (held_out,) = photos.held_out(60)
    crop = min(config.crop or config.size, config.size)
    jitter = config.jitter * config.size / crop
    stream = photos.batches(config.batch_size, config.seed, size=crop, jitter=jitter, held_out=60)
    folder.start()
    save_image(style_image, Path(output_dir, "style.png"))
    train(networks, stream, config, output_dir)
    image = save_comparison(networks.transform_network, style_image, held_out, Path(output_dir, "beside.png"))
    return folder.finish(networks, lambda: evaluate(networks, held_out, config), image)


def evaluate(networks: Networks, photos: np.ndarray, config: Config) -> dict[str, float]:
    """Return the mean losses of stylised uint8 photos, and the style loss of recoloured photos."""
    losses = make_losses(networks, config)
    style_image = read_style(config.style, config.style_size)
    rows = []
    for photo in photos:
        coloured = with_colours(from_uint8(photo[None]), style_image)
        stylized = from_uint8(stylize(networks.transform_network, style_image, photo)[None])
        rows.append([*losses(coloured, stylized), losses(coloured, coloured)[1]])
    names = ("content", "style", "variation", "colour", "style_of_colours_alone")
    return dict(zip(names, tf.reduce_mean(rows, 0).numpy().tolist(), strict=True))


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn the style of a synthetic painting; return the path of a before/after image of held-out photos."""
    return run("sample", config, output_dir)


def stylize_files(source: Path, destination: Path, run: Path = DEMO_RUN, skip_bad: bool = False) -> Path:
    """Stylise an image, or all images in a folder, with the transform network of a run."""
    trained = Run.load(run, "fast_style_transfer", Config)
    network = trained.network("transform_network", (None, None, 3), (None, None, 3))
    style_image = read_style(str(trained.folder / "style.png"), trained.config.style_size)
    return convert_images(source, destination, functools.partial(stylize, network, style_image), skip_bad=skip_bad)


# %% Try it
# A photo of 600 x 400 pixels, stylised in one pass. The training images have 96 x 96 pixels. Left: the input of the
# network, which is the recoloured photo. Right: the output.
# >>> from skimage.data import coffee
# >>> from common.images import to_uint8
# >>> network = Run.load(DEMO_RUN, "fast_style_transfer", Config).network("transform_network")
# >>> style_image = read_style(str(DEMO_RUN / "style.png"))
# >>> coloured = to_uint8(with_colours(from_uint8(coffee()[None]), style_image))[0]
# >>> show(np.stack([coloured, stylize(network, style_image, coffee())]))


if __name__ == "__main__":
    presets = {"embedded": Config(), "modern": Config(waves=32), "vgg19": VGG19, "demo": DEMO}
    run_command(demo, presets=presets, train=run, stylize=stylize_files)
