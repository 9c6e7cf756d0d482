"""Diffusion: generate images of the class you choose, with a network that turns noise into images step by step.

Paper    Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023, arXiv:2210.02747; its straight paths are
         those of rectified flow: Liu et al., ICLR 2023, arXiv:2209.03003. With `--objective ddpm`: Ho, Jain & Abbeel,
         "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239, and the sampler DDIM: Song et al.,
         ICLR 2021, arXiv:2010.02502. Classifier-free guidance: Ho & Salimans 2022, arXiv:2207.12598.
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the networks.
Time     float32 [n, 1] in [0, 1]. 0 is noise, 1 is the image.
Labels   class indices, int [n], in the data; one-hot vectors, float32 [n, outputs], in the networks. Zeros: any class.
Differs  1. The U-Net is small, with attention only at the lowest resolution. With a `patch` of 2, it works at half of
            the image's resolution. Its output is added to the best linear prediction (see Networks).
         2. Times are sampled from a logit-normal distribution (Esser et al., ICML 2024, arXiv:2403.03206, section 3.1).
         3. With `--objective ddpm`, time is continuous and has the cosine schedule (Nichol & Dhariwal, ICML 2021,
            arXiv:2102.09672). The variance is not learned, and the sampler is DDIM, not the paper's.
         4. The optimizer is Adam with a learning rate that decays linearly. Dropout is not used.
Run      python -m recipes.diffusion                                             the demo: handwritten digits, offline
         python -m recipes.diffusion train --data DIR --output-dir runs/mine     class folders; run again to resume
         python -m recipes.diffusion train --preset faces --output-dir runs/faces  with or without hat, glasses, smile
         python -m recipes.diffusion generate grid.png --class 7 --guidance 3 --steps 25 --run runs/mine
         python -m recipes.diffusion generate forming.gif --run runs/mine        shows how noise becomes an image
         python -m recipes.diffusion edit photo.jpg out.png --class 3 --strength 0.6 --run runs/mine
         python -m recipes.diffusion inpaint photo.jpg mask.png out.png --class 3 --run runs/mine
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, labelled_images
from common.images import from_uint8, save_image, to_uint8
from common.runs import InputError, Range, Run, run_command
from common.training import Noise, adam, fit

# %% Configuration
# A GAN generates an image in one pass, and its two networks compete. A diffusion model has one network and an ordinary
# regression loss, so training is stable. In return, an image takes several passes. `steps` is their number, and
# `guidance` sets how strongly the image should show its class; both can be changed after training.
#
# `base_filters` is the number of filters at the highest resolution; the lower resolutions have twice as many. `levels`
# is the number of resolutions. `patch` is the size of the first layer's patches: with 2, the U-Net works at half the
# image's resolution, which takes a quarter of the time. `label_dropout` hides the class of some training images, so
# the network also learns to generate images of any class. Guidance needs both.


@dataclass(frozen=True, kw_only=True)
class Config:
    """A network for images of 32 px (after Ho et al., appendix B). `DIGITS` and `FACES` are smaller ones."""

    size: Annotated[int, Range(16, 256)] = 32  # side in pixels, a multiple of patch * 2 ** (levels - 1)
    channels: Literal[1, 3] = 3  # 1: greyscale, 3: colour
    outputs: Annotated[int, Range(1, 100_000)] = 10  # classes; set by the data
    base_filters: Annotated[int, Range(8, 1024, multiple_of=8)] = 128  # at the highest resolution
    levels: Annotated[int, Range(1, 6)] = 4  # resolutions; each is half the one before
    blocks: Annotated[int, Range(1, 8)] = 2  # residual blocks per resolution
    patch: Literal[1, 2, 4] = 1  # size of the patches of the first and the last layer; 1: pixels
    objective: Literal["flow", "ddpm"] = "flow"  # flow matching, or denoising diffusion
    label_dropout: Annotated[float, Range(0, 1)] = 0.1  # fraction of the images that are trained on without their class
    guidance: Annotated[float, Range(0, 100)] = 1.5  # strength of the class when sampling; 1: none
    steps: Annotated[int, Range(1, 1000)] = 25  # steps from noise to image when sampling
    ema_decay: Annotated[float, Range(0, 1)] = 0.9999  # EMA of the weights, per step
    batch_size: Annotated[int, Range(1, 65_536)] = 128
    learning_rate: Annotated[float, Range(0, 10)] = 2e-4  # decays linearly to a hundredth
    epochs: Annotated[int, Range(1, 1_000_000)] = 400
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)
        multiple = self.patch * 2 ** (self.levels - 1)
        if self.size % multiple:
            raise InputError(f"size must be a multiple of {multiple}, got {self.size}; or change --levels or --patch")


DIGITS = Config(size=28, channels=1, base_filters=32, levels=2, blocks=1, patch=2, guidance=2.0, ema_decay=0.999,
                batch_size=32, learning_rate=6e-3, epochs=5)  # fmt: skip
FACES = Config(size=64, outputs=8, base_filters=32, levels=3, blocks=1, patch=2, guidance=2.0, ema_decay=0.999,
               batch_size=16, learning_rate=4e-3, epochs=40)  # fmt: skip
DEMO = replace(DIGITS, base_filters=24, ema_decay=0.998, batch_size=16, epochs=4)
DEMO_RUN = Path("runs/diffusion-demo")

# %% The path
# A path leads from noise to each training image: at time t, x = a(t) image + b(t) noise. The objectives differ in the
# path, and in what the network predicts.
#
# - Flow matching (`flow`): the path is a straight line, a = t and b = 1 - t. The network predicts the velocity along
#   it, image - noise. A point x lies on the paths of many images, so the best prediction is their mean velocity. The
#   images of a sampler that follows these velocities have the distribution of the training images (theorem 2).
# - Denoising diffusion (`ddpm`): a and b are the sine and cosine of an angle. The network predicts the noise.
#
# From x and the prediction, one can compute both the image and the noise. The objectives are therefore two views of one
# method: each weights the errors at different times differently.


def signal_and_noise(t, objective: str):
    """Return a(t), the factor of the image, and b(t), the factor of the noise, for times t in [0, 1]."""
    if objective == "flow":
        return t, 1 - t  # the optimal-transport path (Lipman et al., eq. 20) without its smallest sigma
    angle = math.pi / 2 * (0.01 + 0.99 * t)  # starts above 0, because `separate` divides by a(0)
    return keras.ops.sin(angle), keras.ops.cos(angle)


def mix(image, noise, t, objective: str):
    """Return the point of the path at times t [n, 1]: a(t) image + b(t) noise."""
    a, b = signal_and_noise(t[:, :, None, None], objective)
    return a * image + b * noise


def target(image, noise, objective: str):
    """Return what the network learns to predict: the velocity or the noise."""
    return image - noise if objective == "flow" else noise


def separate(x, prediction, t, objective: str):
    """Return the image and the noise of a point x of the path, computed from the network's prediction."""
    a, b = signal_and_noise(t[:, :, None, None], objective)
    if objective == "flow":
        return x + b * prediction, x - a * prediction
    return (x - b * prediction) / a, prediction


# The path of a digit, with the times 0, 1/7, 2/7 and so on. First row: flow matching. Second row: denoising diffusion.
# >>> digits = labelled_images("sample", DEMO.size, DEMO.channels, "many_digits")
# >>> digit, times = from_uint8(digits.train.items[:1]), tf.linspace(0.0, 1.0, 8)[:, None]
# >>> random = Noise(0).normal(digit.shape)
# >>> show(np.concatenate([to_uint8(mix(digit, random, times, objective)) for objective in ("flow", "ddpm")]))


# %% Networks
# The input is a noisy image x, its time t and the label; the output has the shape of the image. The U-Net halves the
# resolution several times and doubles it again, with a skip connection at each resolution. Its residual blocks have two
# 3 x 3 convolutions. At the lowest resolution, self-attention lets each position use all others.
#
# Time and label become one vector, the condition. In each residual block, it sets the scale and the shift of the second
# normalisation (Dhariwal & Nichol, NeurIPS 2021, arXiv:2105.05233, section 3.1). A network cannot resolve small
# differences of a single number, so t is first expanded to sines of different frequencies and phases (Fourier
# features). Each block starts close to the identity, because its last convolution has small weights.
#
# Part of the answer is known: how much of x is noise at time t. The output is the best prediction that is linear in x,
# plus the output of the last layer, scaled so that this layer always predicts values of about the same size (Karras et
# al., NeurIPS 2022, arXiv:2206.00364, section 5).
#
# `ema` is a copy of the U-Net with the exponential moving average (EMA) of its weights. It generates the images.


def precondition(x, output, t, objective: str):
    """Return the best linear prediction of the target from x, plus the scaled `output`; t is [n, 1, 1, 1].

    For images with mean 0 and standard deviation s, and with target = target(1, 0) image + target(0, 1) noise, both
    factors follow from linear regression. The second one is the standard deviation of what x does not explain.
    """
    a, b = signal_and_noise(t, objective)
    of_image, of_noise, s = target(1, 0, objective), target(0, 1, objective), 0.5
    variance = (a * s) ** 2 + b**2  # of x
    explained = (of_image * a * s**2 + of_noise * b) / variance * x
    return explained + keras.ops.absolute(of_image * b - of_noise * a) * s / keras.ops.sqrt(variance) * output


class Networks(NamedTuple):
    """The U-Net, and a copy of it with EMA weights."""

    unet: keras.Model  # [x [n, size, size, channels], t [n, 1], labels [n, outputs]] -> shape of x, float32
    ema: keras.Model  # the same with the EMA of its weights; use it to generate images


def build(config: Config = Config()) -> Networks:
    """Return the untrained networks."""
    layers, init = keras.layers, keras.initializers
    seeds = keras.random.SeedGenerator(config.seed)
    conv = functools.partial(layers.Conv2D, padding="same", kernel_initializer=init.HeNormal(seeds))
    dense = functools.partial(layers.Dense, kernel_initializer=init.GlorotUniform(seeds))
    almost_zero = init.VarianceScaling(1e-4, seed=seeds)
    widths = [config.base_filters * min(2, 2**level) for level in range(config.levels)]

    def normalise(x):
        return layers.GroupNormalization(8, epsilon=1e-5)(x)

    def block(x, width, condition):
        y = conv(width, 3)(layers.Activation("swish")(normalise(x)))
        scale, shift = (layers.Reshape((1, 1, width))(dense(width)(condition)) for _ in range(2))
        y = layers.Activation("swish")(normalise(y) * (1 + scale) + shift)
        y = conv(width, 3, kernel_initializer=almost_zero)(y)
        return layers.Add()([y, x if x.shape[-1] == width else conv(width, 1)(x)])

    def attend(x):
        width = x.shape[-1]
        y = layers.Reshape((-1, width))(normalise(x))
        query, key, value = dense(width)(y), dense(width)(y), dense(width)(y)
        y = dense(width)(layers.Attention()([query * width**-0.5, value, key]))
        return layers.Add()([x, layers.Reshape(x.shape[1:])(y)])

    def unet(name: str) -> keras.Model:
        images = keras.Input((config.size, config.size, config.channels), name="images")
        time, labels = keras.Input((1,), name="time"), keras.Input((config.outputs,), name="labels")
        phases = {"bias_initializer": init.RandomUniform(-math.pi, math.pi, seeds), "dtype": "float32"}
        waves = layers.Dense(64, kernel_initializer=init.RandomNormal(stddev=8.0, seed=seeds), **phases)(time)
        embed = layers.Dense(128, use_bias=False, kernel_initializer=init.RandomNormal(stddev=1.0, seed=seeds))
        condition = layers.Add()([dense(128)(keras.ops.sin(waves)), embed(labels)])
        condition = layers.Activation("swish")(dense(128)(layers.Activation("swish")(condition)))
        x = conv(widths[0], 2 * config.patch + 1, config.patch)(images)
        skips = []
        for level, width in enumerate(widths):
            x = conv(width, 3, 2)(x) if level else x
            for _ in range(config.blocks):
                x = block(x, width, condition)
                skips.append(x)
        x = block(attend(x), widths[-1], condition)
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks):
                x = block(layers.Concatenate()([x, skips.pop()]), width, condition)
            x = conv(widths[level - 1], 3)(layers.UpSampling2D()(x)) if level else x
        x = layers.Activation("swish")(normalise(x))
        last = {"padding": "same", "kernel_initializer": almost_zero, "dtype": "float32"}
        x = layers.Conv2DTranspose(config.channels, config.patch + 2, config.patch, **last)(x)
        x = precondition(images, x, layers.Reshape((1, 1, 1), dtype="float32")(time), config.objective)
        return keras.Model([images, time, labels], x, name=name)

    return Networks(unet("unet"), unet("ema"))


# %% Losses
# Both losses are the mean squared error of the prediction. An image is not compared with the image that is generated
# from its noise: that would take many passes. Each step of training looks at a single time instead.


def regression_loss(prediction, image, noise, objective: str):
    """Return the mean squared error of predictions [n, size, size, channels] (Lipman et al., eq. 9; Ho et al., 14)."""
    return tf.reduce_mean(tf.square(prediction - target(image, noise, objective)))


# %% Training
# Each step samples a time and noise for each image, and the network predicts the target from the point of the path. The
# times have a logit-normal distribution, so most are near the middle of the path: near its ends, the prediction is
# easy. For some images, the label is replaced by zeros.
#
# What is logged: `loss`, averaged over all times. It does not fall to 0, because several images and noises lead to the
# same point. In the demo, it falls from 1 to about 0.17. After the first epochs, it hardly changes any more, although
# the images keep improving. `diversity` is the median distance from a generated image to the nearest other one, divided
# by the same value for real images; it should settle near 1. `samples/` shows images from the same noise.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | tuple[np.ndarray, np.ndarray],
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the U-Net and its EMA in place.

    Args:
        networks: the result of `build`.
        data: uint8 images [batch, size, size, channels] and integer labels [batch]. With `Batches`, held-out images are
            used to compute `diversity`. A `tf.data.Dataset` must be batched; it is not reshuffled, and a resumed run
            starts a new pass over it. With `Batches` or arrays, a run resumes exactly where it stopped.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and `samples/`. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    unet, ema = networks
    rate, steps = config.learning_rate, config.epochs * data.steps_per_epoch
    schedule = keras.optimizers.schedules.PolynomialDecay(rate, steps, rate / 100)
    optimizer = adam(schedule, unet.trainable_variables)
    noise = Noise(config.seed + 1)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        images, count = from_uint8(images), tf.shape(images)[0]
        random = noise.normal((count, *images.shape[1:]))
        t = tf.sigmoid(noise.normal((count, 1)))
        known = noise.uniform((count, 1), 0, 1) >= config.label_dropout
        vectors = tf.one_hot(labels, config.outputs) * tf.cast(known, tf.float32)
        x = mix(images, random, t, config.objective)
        with tf.GradientTape() as tape:
            prediction = unet([x, t, vectors], training=True)
            loss = regression_loss(prediction, images, random, config.objective)
            scaled = optimizer.scale_loss(loss)  # float16 gradients would underflow; `apply` unscales them
        optimizer.apply(tape.gradient(scaled, unet.trainable_variables), unet.trainable_variables)
        decay = tf.minimum(config.ema_decay, 1 - 1 / tf.cast(optimizer.iterations, tf.float32))  # 0, 1/2, 2/3...
        for average, weight in zip(ema.variables, unet.variables, strict=True):
            average.assign(weight + decay * (average - weight))
        return {"loss": loss}

    def sample(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        some = functools.partial(generate, ema, config=replace(config, steps=min(config.steps, 10)))
        if output_dir is not None:
            columns = min(config.outputs, 10)
            labels = np.tile(np.arange(columns), 4)
            save_image(some(labels), Path(output_dir, "samples", f"epoch-{epoch:04d}.png"), columns=columns)
        return data.diversity(lambda count: some(np.arange(count) % config.outputs))

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[sample, on_epoch])


# %% Use
# To generate an image, start with noise at time 0 and follow the path in small steps. At each step, the network
# predicts an image and the noise, and their mixture for the next time is the new point. The first predicted image is a
# blur: the mean of all plausible images. It becomes sharper with each step. With `flow`, this is Euler's method for the
# differential equation dx/dt = v(x, t). With `ddpm`, it is DDIM (Song et al., eq. 12 with sigma = 0). Only the initial
# noise is random, so the same noise always gives the same image.
#
# Guidance extrapolates from the prediction without the label to the prediction with it. With a `guidance` of 1, the
# result is the prediction with the label. Above 1, images show their class more clearly, but are less varied.


@functools.lru_cache(maxsize=2)
def compiled(network: keras.Model) -> Callable[[list[tf.Tensor]], tf.Tensor]:
    """Return the network as a TensorFlow function, which makes many small steps much faster."""
    return tf.function(functools.partial(network, training=False), reduce_retracing=True)


def estimate(network: Callable[[list[tf.Tensor]], tf.Tensor], x, t, labels, guidance: float, objective: str):
    """Return the image and the noise that the network predicts for points x of the path.

    Args:
        network: the U-Net; see `compiled`.
        x: float32 [n, size, size, channels].
        t: times, float32 [n, 1].
        labels: one-hot vectors [n, outputs], or zeros.
        guidance: w in Ho & Salimans, eq. 6, plus 1.
        objective: `flow` or `ddpm`.
    """
    prediction = network([x, t, labels])
    if guidance != 1:
        without = network([x, t, tf.zeros_like(labels)])
        prediction = without + guidance * (prediction - without)
    return separate(x, prediction, t, objective)


def follow(
    network: keras.Model,
    x: tf.Tensor,
    labels: tf.Tensor,
    config: Config,
    start: float = 0.0,
    known: tf.Tensor | None = None,
    masks: np.ndarray | None = None,
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Follow the path from points x at time `start` to time 1, in `config.steps` steps.

    After each step, yield the new x and the predicted image. With `masks`, predictions outside of the masks are
    replaced by the `known` images.
    """
    predict = compiled(network)
    times = np.linspace(start, 1, config.steps + 1, dtype=np.float32)
    for now, later in itertools.pairwise(times):
        ones = tf.ones((len(x), 1))
        image, noise = estimate(predict, x, now * ones, labels, config.guidance, config.objective)
        image = image if masks is None else tf.where(masks, image, known)
        x = mix(image, noise, later * ones, config.objective)
        yield x, image


def one_hot(labels: np.ndarray, config: Config) -> tf.Tensor:
    """Return class indices as one-hot vectors, float32 [n, outputs]; an index of -1 gives zeros: any class."""
    return tf.one_hot(np.asarray(labels), config.outputs)


def noise_of(seed: int, count: int, config: Config) -> tf.Tensor:
    """Return the noise of a seed, float32 [count, size, size, channels]. More noise begins with the same noise."""
    shape = (config.size, config.size, config.channels)
    return tf.stack([keras.random.normal(shape, seed=seed * 100_003 + number) for number in range(count)])


def generate(network: keras.Model, labels: np.ndarray, config: Config = Config(), seed: int = 0) -> np.ndarray:
    """Generate an image of each class in `labels`; the same seed gives the same images.

    Args:
        network: the EMA of the U-Net.
        labels: class indices, int [n]; -1 stands for any class.
        config: its `guidance` and `steps` are used.
        seed: of the noise.

    Returns:
        uint8 [n, size, size, channels].
    """
    if len(labels) == 0:
        raise InputError("generate needs at least one label")
    noise, vectors = noise_of(seed, len(labels), config), one_hot(labels, config)
    parts = []
    for first in range(0, len(labels), 100):  # limits memory use
        part = slice(first, first + 100)
        *_, (x, _) = follow(network, noise[part], vectors[part], config)
        parts.append(to_uint8(x))
    return np.concatenate(parts)


def form(network: keras.Model, labels: np.ndarray, config: Config = Config(), seed: int = 0) -> np.ndarray:
    """Return the path from noise to the images of `generate`, uint8 [steps + 1, n, size, size, channels]."""
    x = noise_of(seed, len(labels), config)
    return np.stack(
        [to_uint8(each) for each in (x, *(x for x, _ in follow(network, x, one_hot(labels, config), config)))]
    )


def walk(
    network: keras.Model, label: int, config: Config = Config(), seed: int = 0, to_seed: int = 1, frames: int = 24
) -> np.ndarray:
    """Interpolate between the first images of two seeds; return uint8 [frames, size, size, channels].

    The noise follows a great circle (Song et al., section 5.3), because a mean of two noises has too small values.
    """
    if seed == to_seed or frames < 2:
        raise InputError(f"walk needs different seeds and 2 or more frames, got {seed} and {to_seed}, {frames} frames")
    start, end = (noise_of(each, 1, config).numpy().ravel() for each in (seed, to_seed))
    angle = np.arccos(start @ end / (np.linalg.norm(start) * np.linalg.norm(end)))
    t = np.linspace(0, 1, frames, dtype=np.float32)[:, None]
    noise = (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
    x = tf.reshape(noise, (frames, config.size, config.size, config.channels))
    *_, (x, _) = follow(network, x, one_hot(np.full(frames, label), config), config)
    return to_uint8(x)


# `edit` is SDEdit (Meng et al., ICLR 2022, arXiv:2108.01073): it moves an image part of the way towards noise, and
# follows the path back from there. `strength` is this part. The coarse structure of the image remains, and the details
# become those of the given class.
#
# `inpaint` replaces the part of an image that a mask marks. In each image that the network predicts, the other part is
# replaced by the known image (Wang, Yu & Zhang, ICLR 2023, arXiv:2212.00490). With more steps, the rest fits better.


def edit(
    network: keras.Model,
    images: np.ndarray,
    label: int,
    config: Config = Config(),
    strength: float = 0.6,
    seed: int = 0,
) -> np.ndarray:
    """Turn images, uint8 [n, size, size, channels], into similar images of a class, or of any class (-1)."""
    start = 1 - strength
    noise = noise_of(seed, len(images), config)
    x = mix(from_uint8(images), noise, tf.fill((len(images), 1), start), config.objective)
    shorter = replace(config, steps=max(1, math.ceil(strength * config.steps)))
    *_, (x, _) = follow(network, x, one_hot(np.full(len(images), label), config), shorter, start)
    return to_uint8(x)


def inpaint(
    network: keras.Model, images: np.ndarray, masks: np.ndarray, label: int, config: Config = Config(), seed: int = 0
) -> np.ndarray:
    """Replace part of images by newly generated pixels.

    Args:
        network: the EMA of the U-Net.
        images: uint8 [n, size, size, channels].
        masks: bool [n, size, size, 1]; True marks the pixels to replace. The other pixels stay as they are.
        label: the class of the images; -1 stands for any class.
        config: its `guidance` and `steps` are used.
        seed: of the noise.
    """
    noise, labels = noise_of(seed, len(images), config), one_hot(np.full(len(images), label), config)
    *_, (x, _) = follow(network, noise, labels, config, known=from_uint8(images), masks=masks)
    return np.where(masks, to_uint8(x), images)


# %% A whole run
# The built-in data are 18,000 synthetic handwritten digits of 28 pixels; every fifth is a test image. The scores
# compare 800 test images with as many generated ones of the same classes, using the project's digit classifier:
#
# - `recognised_as_class` is the fraction of the generated images that the classifier recognises as the class asked for.
# - `frechet_distance` and `kernel_distance` compare the classifier's features of both sets. Smaller is better.
#   For comparison, `real_frechet_distance` is the distance between the test images and training images.
# - `confidence` is the mean probability of the predicted class. It is about 0.99 for real digits.
#
# With 3 channels (`--preset faces`), the built-in data are 4,000 synthetic faces in eight classes: with or without a
# hat, glasses and a smile, for example `hat smile`, or `plain` for none. `attributes_right` is then the fraction of
# these attributes that the project's face classifier finds as asked for.
#
# The image shows how noise becomes digits, one class per column, and below them more images with other noise.
# >>> show(digits.train.items[:32], columns=16)


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/diffusion"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, score generated images, save the run, and return the path of an image."""
    folder = Run(output_dir, "diffusion", config, data, accept_data)
    images = labelled_images(
        data,
        config.size,
        config.channels,
        "many_digits" if config.channels == 1 else "face_classes",
        skip_bad,
        fetch,
        require_classes=False,
    )
    config = replace(config, outputs=len(images.classes))
    networks = build(config)
    stream = images.batches(config.batch_size, config.seed, validate=100)
    folder.start(images.classes)
    train(networks, stream, config, output_dir)
    columns = min(10, config.outputs)
    states = form(networks.ema, np.tile(np.arange(columns), 5), config)
    rows = {f"t = {time}": states[round(time * config.steps), :columns] for time in (0, 0.25, 0.5, 0.75, 1)}
    rows |= {f"image {number}": states[-1, columns * (number - 1) :][:columns] for number in (2, 3, 4, 5)}
    image = save_image(rows, Path(output_dir, "samples.png"), zoom=2)
    sampled = functools.partial(generate, networks.ema, config=config)
    return folder.finish(networks, lambda: images.sample_scores(sampled, most=800), image)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to turn noise into handwritten digits; return the path of an image that shows the way."""
    return run("sample", config, output_dir)


def load(run: Path, guidance: float, steps: int) -> tuple[Run, keras.Model, Config]:
    """Return a run, its network, and its settings with another `guidance` and other `steps`, unless these are 0."""
    trained = Run.load(run, "diffusion", Config)
    config = trained.config
    shapes = [trained.image_shape, (1,), (config.outputs,)]
    network = trained.network("ema", shapes, trained.image_shape)
    return trained, network, replace(config, guidance=guidance or config.guidance, steps=steps or config.steps)


Guidance = Annotated[float, Range(0, 100)]
Steps = Annotated[int, Range(0, 1000)]
Seed = Annotated[int, Range(0, 2**31 - 1)]


def generate_file(
    destination: Path,
    class_: str = "",
    count: Annotated[int, Range(1, 100_000)] = 50,
    seed: Seed = 0,
    guidance: Guidance = 0.0,
    steps: Steps = 0,
    run: Path = DEMO_RUN,
) -> Path:
    """Write a grid of generated images; as .gif or .mp4, an animation of the way from noise to these images.

    Args:
        destination: the file to write.
        class_: name or index of the class of all images; empty: all classes in turn.
        count: number of images.
        seed: of the noise.
        guidance: strength of the class: 1 is none, 3 is strong; 0: that of the run.
        steps: steps from noise to image; 0: as in the run.
        run: a run of this recipe.
    """
    trained, network, config = load(run, guidance, steps)
    labels = np.full(count, trained.class_number(class_)) if class_ else np.arange(count) % config.outputs
    if destination.suffix.lower() in (".gif", ".mp4"):
        path = form(network, labels, config, seed)
        return save_image(np.concatenate([path, path[-1:].repeat(10, axis=0)]), destination, columns=10, zoom=2)
    return save_image(generate(network, labels, config, seed), destination, columns=10, zoom=2)


def walk_file(
    destination: Path,
    class_: str = "",
    seed: Seed = 0,
    to_seed: Seed = 1,
    frames: Annotated[int, Range(2, 10_000)] = 24,
    guidance: Guidance = 0.0,
    steps: Steps = 0,
    zoom: Annotated[int, Range(1, 64)] = 4,
    run: Path = DEMO_RUN,
) -> Path:
    """Interpolate between the images of two seeds; write an animation (.gif, .mp4) or a strip. `zoom` enlarges pixels.

    `class_` is the name or index of the class; empty: any class. `guidance` and `steps` are as in `generate`.
    """
    trained, network, config = load(run, guidance, steps)
    images = walk(network, trained.class_number(class_), config, seed, to_seed, frames)
    return save_image(images.repeat(zoom, axis=1).repeat(zoom, axis=2), destination, columns=frames)


def edit_file(
    source: Path,
    destination: Path,
    class_: str = "",
    strength: Annotated[float, Range(0.01, 1)] = 0.6,
    seed: Seed = 0,
    guidance: Guidance = 0.0,
    steps: Steps = 0,
    invert: bool = False,
    skip_bad: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Turn an image, or each image in a folder, into a similar image of a class.

    `class_` is the name or index of the class; empty: any class. `strength` is the part of the way to noise: 1 keeps
    nothing of the image. `invert` inverts the image first. `guidance` and `steps` are as in `generate`.
    """
    trained, network, config = load(run, guidance, steps)
    label = trained.class_number(class_)
    for _, image, target in trained.images(source, destination, invert, skip_bad):
        save_image(edit(network, image[None], label, config, strength, seed)[0], target)
    return destination


def inpaint_file(
    source: Path,
    mask: Path,
    destination: Path,
    class_: str = "",
    seed: Seed = 0,
    guidance: Guidance = 0.0,
    steps: Steps = 0,
    invert: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Replace the part of an image that is white in the image `mask`.

    `class_` is the name or index of the class; empty: any class. `invert` inverts the image first. `guidance` and
    `steps` are as in `generate`.
    """
    trained, network, config = load(run, guidance, steps)
    white = trained.image(mask).mean(axis=-1, keepdims=True) > 127
    if not white.any():
        raise InputError(f"{mask}: has no white part; make white what is to be replaced, and the rest black")
    image = trained.image(source, invert)[None]
    return save_image(inpaint(network, image, white[None], trained.class_number(class_), config, seed)[0], destination)


# %% Try it
# Guidance: each row has the same noise and the classes 0 to 9, with a guidance of 1, 2 and 4.
# >>> trained, network, config = load(DEMO_RUN, 0, 0)
# >>> classes = np.arange(10)
# >>> rows = [generate(network, classes, replace(config, guidance=strength)) for strength in (1.0, 2.0, 4.0)]
# >>> show(np.concatenate(rows), columns=10)
#
# Fewer steps take less time. The same noise with 3, 6, 12 and 50 steps:
# >>> show(np.concatenate([generate(network, classes, replace(config, steps=n)) for n in (3, 6, 12, 50)]), columns=10)
#
# A test image of a 4, and what `edit` makes of it: the other digits, as similar to it as possible.
# >>> four = digits.test.items[np.flatnonzero(digits.test.labels == 4)[:1]]
# >>> show(np.concatenate([four, *(edit(network, four, digit, config, 0.7) for digit in range(10))]), columns=11)
#
# Test images, the same with the right half hidden, and three ways to complete them:
# >>> whole, labels = digits.test.items[:10], digits.test.labels[:10]
# >>> hidden = np.zeros((10, 28, 28, 1), bool)
# >>> hidden[:, :, 14:] = True
# >>> new = [inpaint(network, whole, hidden, -1, config, seed=seed) for seed in range(3)]
# >>> show(np.concatenate([whole, np.where(hidden, 90, whole).astype(np.uint8), *new]), columns=10)


if __name__ == "__main__":
    presets = {"paper": Config(), "digits": DIGITS, "faces": FACES, "demo": DEMO}
    run_command(
        demo,
        presets=presets,
        train=run,
        generate=generate_file,
        walk=walk_file,
        edit=edit_file,
        inpaint=inpaint_file,
    )
