"""DCGAN: generate images from noise with a convolutional GAN.

Paper    Radford, Metz & Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
         Adversarial Networks", ICLR 2016, arXiv:1511.06434.
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], standard normal.
Logits   float32 [n, 1]; positive means real.
Labels   class indices, int [n], in the data; one-hot vectors, float32 [n, outputs], in the networks. Only with
         `--conditional`.
Differs  1. Latents are normal, not uniform, so that interpolation can follow a great circle.
         2. Kernels are 4 x 4, not 5 x 5.
         3. The size can be 4, 5, 6 or 7 times a power of two, such as 28 (for digits), 64 (as in the paper) or 128.
         4. `--preset modern` and the demo add what later work found, each as an option: a relativistic loss with
            gradient penalties on real and generated images instead of batch normalisation in the discriminator (R3GAN,
            Huang et al., NeurIPS 2024, arXiv:2501.05441), the exponential moving average (EMA) of the generator's
            weights (Yazici et al., ICLR 2019, arXiv:1806.04498), a hidden dense layer in both networks, learning rates
            that decay, and a selection of generated images by the discriminator (after Azadi et al., ICLR 2019,
            arXiv:1810.06758).
         5. With `--conditional concat`, both networks also get the class (Mirza & Osindero 2014, arXiv:1411.1784). With
            `--conditional projection`, the discriminator uses it as in Miyato & Koyama, ICLR 2018, arXiv:1802.05637.
Run      python -m recipes.dcgan                                             the demo: handwritten digits, offline
         python -m recipes.dcgan train --preset digits --data mnist --fetch  MNIST, downloaded once
         python -m recipes.dcgan train --data DIR --output-dir runs/mine     your own images; run again to resume
         python -m recipes.dcgan generate grid.png --count 64 --run runs/mine
         python -m recipes.dcgan generate grid.png --class 7 --run runs/mine  of a run with --conditional
         python -m recipes.dcgan walk walk.gif --seed 3 --to-seed 8 --run runs/mine
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, images_of
from common.images import from_uint8, save_image, to_uint8
from common.runs import InputError, Range, Run, run_command
from common.training import Noise, adam, fit

# %% Configuration
# DCGAN replaces the dense layers of a GAN with convolutions. The paper's architecture guidelines stabilise its
# training. `base_filters` is the number of filters at half the image size; it largely determines the training time.
# Each time the size is halved, the number of filters doubles. `latent_dim` is the number of latents per image. With the
# usual `beta_1` of 0.9, the losses oscillate, so the paper uses 0.5. Both networks have the same learning rate. The
# generator has the same filter counts as the discriminator, in reverse order.
#
# The options `loss`, `gradient_penalty`, `ema_decay`, `hidden_units`, `final_rate` and `keep` are not from the
# paper. They are off by default and on in the preset `modern`, which reaches better images in the same time.
#
# With `conditional`, the data needs classes, such as one folder per class. You can then choose the class of an image.
# The two kinds differ in the discriminator (see Networks).


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's hyperparameters (section 4). `DIGITS` and `MODERN` are for 28 px greyscale images such as MNIST."""

    size: Annotated[int, Range(16, 512)] = 64  # side in pixels: 4, 5, 6 or 7 times a power of two
    channels: Literal[1, 3] = 3  # 1: greyscale, 3: colour
    latent_dim: Annotated[int, Range(1, 65_536)] = 100
    base_filters: Annotated[int, Range(1, 1024)] = 128  # filters at half the image size; doubled at each smaller size
    batch_size: Annotated[int, Range(1, 65_536)] = 128
    learning_rate: Annotated[float, Range(0, 10)] = 2e-4
    beta_1: Annotated[float, Range(0, 0.999999)] = 0.5  # for Adam
    final_rate: Annotated[float, Range(0, 1)] = 1.0  # last learning rate / first one; the decay is linear
    loss: Literal["non_saturating", "relativistic"] = "non_saturating"
    gradient_penalty: Annotated[float, Range(0, 1e6)] = 0.0  # gamma of R1 and R2 (see Losses); 0: off
    penalty_fraction: Annotated[float, Range(0.01, 1)] = 1.0  # part of each batch for which the penalties are computed
    ema_decay: Annotated[float, Range(0, 1)] = 0.0  # EMA of the generator's weights, per step; 0: off
    hidden_units: Annotated[int, Range(0, 65_536)] = 0  # extra dense layer in both networks; 0: none
    keep: Annotated[int, Range(1, 100)] = 100  # images to keep of every 100 generated ones (see Use); 100: all
    conditional: Literal["none", "concat", "projection"] = "none"  # images of a class; and how the class is used
    outputs: Annotated[int, Range(1, 100_000)] = 10  # classes, with `conditional`; set by the data
    epochs: Annotated[int, Range(1, 1_000_000)] = 25
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    synchronized: bool = False  # with several devices: normalise over the global batch, not per device

    def __post_init__(self) -> None:
        Range.check(self)
        if self.size not in [smallest * 2**power for smallest in (4, 5, 6, 7) for power in range(2, 8)]:
            raise InputError(f"size must be 4, 5, 6 or 7 times a power of two, such as 28, 32 or 64, got {self.size}")


DIGITS = Config(size=28, channels=1, base_filters=32, epochs=50)
DEMO_RUN = Path("runs/dcgan-demo")
DEMO = Config(
    size=28,
    channels=1,
    latent_dim=64,
    base_filters=16,
    hidden_units=128,
    batch_size=16,
    learning_rate=1e-3,
    final_rate=0.05,
    loss="relativistic",
    gradient_penalty=1.0,
    penalty_fraction=0.25,
    ema_decay=0.998,
    keep=70,
    epochs=14,
)
MODERN = replace(DEMO, base_filters=32, batch_size=32, ema_decay=0.999, keep=80, epochs=12)

# %% Networks
# The generator projects the latents to a small feature map: 7 x 7 for images of 28 px, 4 x 4 for 64 px. Transposed
# convolutions double its size repeatedly, and the last one returns an image in [-1, 1]. The discriminator mirrors the
# generator: strided convolutions reduce the image to a map of the same small size, and a dense layer returns the logit.
# There is no pooling, so the networks learn how to upsample and downsample.
#
# Batch normalisation stabilises training. The output layer of the generator and the input layer of the discriminator
# are not normalised, so the networks can learn the mean and scale of the pixels. The discriminator uses leaky ReLU, so
# inactive units still pass a gradient to the generator.
#
# A conditional GAN gives the label, a one-hot vector, to both networks. The generator gets it together with the
# latents. The discriminator then recognises an image of the wrong class as generated. With `concat`, it gets the label
# as further channels of the image, one constant map per class. With `projection`, it adds the inner product of its last
# features and an embedding of the label to the logit: each class has its own direction in the space of the features.


class Networks(NamedTuple):
    """The generator and the discriminator."""

    generator: keras.Model  # latents [n, latent_dim] -> images [n, size, size, channels] in [-1, 1]
    discriminator: keras.Model  # images -> logits [n, 1], positive means real
    # With `conditional`, labels [n, outputs] are a second input of both.


def build(config: Config = Config()) -> Networks:
    """Return the untrained networks."""
    layers = keras.layers
    smallest = config.size
    widths: list[int] = []  # filters of the discriminator, first layer first
    while smallest > 7 and smallest % 2 == 0:
        smallest //= 2
        widths.append(config.base_filters * 2 ** len(widths))
    normalise = functools.partial(layers.BatchNormalization, synchronized=config.synchronized)
    seeds = keras.random.SeedGenerator(config.seed)
    normal, he = keras.initializers.RandomNormal(stddev=0.02, seed=seeds), keras.initializers.HeNormal(seeds)
    init = {"kernel_initializer": he if config.gradient_penalty else normal}  # He: keeps the scale if not normalised

    latents, labels = keras.Input((config.latent_dim,), name="latents"), keras.Input((config.outputs,), name="labels")
    vectors = [labels] if config.conditional != "none" else []
    x = layers.Concatenate()([latents, labels]) if vectors else latents
    if config.hidden_units:
        x = layers.ReLU()(normalise()(layers.Dense(config.hidden_units, use_bias=False, **init)(x)))
    x = layers.Dense(smallest * smallest * widths[-1], use_bias=False, **init)(x)
    x = layers.Reshape((smallest, smallest, widths[-1]))(x)
    for width in reversed(widths[:-1]):  # smallest -> ... -> size / 2
        x = layers.ReLU()(normalise()(x))
        x = layers.Conv2DTranspose(width, 4, 2, "same", use_bias=False, **init)(x)
    x = layers.ReLU()(normalise()(x))
    x = layers.Conv2DTranspose(config.channels, 4, 2, "same", activation="tanh", dtype="float32", **init)(x)
    generator = keras.Model(with_labels(latents, vectors), x, name="generator")

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    if config.conditional == "concat":
        x = layers.Concatenate()([x, layers.UpSampling2D(config.size)(layers.Reshape((1, 1, config.outputs))(labels))])
    for level, width in enumerate(widths):  # size -> ... -> smallest
        normalised = level and not config.gradient_penalty  # no normalisation in the first layer (section 3)
        x = layers.Conv2D(width, 4, 2, "same", use_bias=not normalised, **init)(x)
        x = normalise()(x) if normalised else x
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Flatten()(x)
    if config.hidden_units:
        x = layers.LeakyReLU(negative_slope=0.2)(layers.Dense(config.hidden_units, **init)(x))
    logits = layers.Dense(1, dtype="float32", **init)(x)
    if config.conditional == "projection":  # Miyato & Koyama, eq. 4
        embedding = layers.Dense(x.shape[-1], use_bias=False, dtype="float32", **init)(labels)
        logits = logits + keras.ops.sum(embedding * x, axis=1, keepdims=True)
    return Networks(generator, keras.Model(with_labels(images, vectors), logits, name="discriminator"))


def with_labels(inputs, vectors: list):
    """Return the inputs of a network: latents or images, and the labels if the networks are conditional."""
    return [inputs, *vectors] if vectors else inputs


# %% Losses
# The discriminator minimises the cross entropy of classifying images as real or generated. In the original minimax
# game, the generator maximises the same loss. But its gradient vanishes for images that are easily recognised as
# generated, and early in training all images are. So the generator minimises the non-saturating loss instead: the cross
# entropy of its images with the label "real". It has the same optimum, and a strong gradient for such images.


def cross_entropy(target: float, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy between sigmoid(logits) and `target`."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Return the cross entropy of real images plus that of generated ones. It is 2 log 2 = 1.39 for logits of 0."""
    return cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits)


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """Return the non-saturating loss of the generator. It is log 2 = 0.69 for logits of 0."""
    return cross_entropy(1.0, fake_logits)


# The relativistic pairing loss (`--loss relativistic`) compares the two networks' images in pairs. The discriminator
# minimises softplus(fake - real): the logit of a real image should exceed the logit of the generated image it is paired
# with. The generator minimises softplus(real - fake). To lower it for all pairs, the generator must imitate all real
# images, so it cannot collapse to a few of them. The gradient penalties R1 and R2 (Mescheder et al. 2018,
# arXiv:1801.04406) are the squared gradients of the logits with respect to real and to generated images. They keep the
# discriminator smooth, which makes training converge. They are defined per image, and batch normalisation would make
# the logit of an image depend on the others. So with a penalty, the discriminator has no batch normalisation.


def pairing_loss(lower: tf.Tensor, higher: tf.Tensor) -> tf.Tensor:
    """Return the mean of softplus(lower - higher) over pairs of logits (R3GAN, eq. 2). It is log 2 for equal logits."""
    return tf.reduce_mean(tf.nn.softplus(lower - higher))


def squared_gradient(discriminator: keras.Model, images: tf.Tensor, *vectors: tf.Tensor) -> tf.Tensor:
    """Return the squared gradient of each logit with respect to its image, averaged over the images."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = discriminator(with_labels(images, [*vectors]), training=True)
    return tf.reduce_mean(tf.reduce_sum(tf.square(tape.gradient(logits, images)), axis=(1, 2, 3)))


# Gradients with respect to the logits of three generated images. The discriminator recognises the first as generated,
# is undecided about the second, and classifies the third as real. First row: sigmoid(logit) - 1, the gradient of the
# non-saturating loss. Second row: -sigmoid(logit), the gradient of the minimax loss (almost 0 for the first image):
# >>> logits = tf.constant([-6.0, 0.0, 6.0])
# >>> with tf.GradientTape(persistent=True) as tape:
# ...     tape.watch(logits)
# ...     losses = 3 * generator_loss(logits), -3 * cross_entropy(0.0, logits)
# >>> np.round([tape.gradient(loss, logits) for loss in losses], 3)


# %% Training
# Each step generates images from random latents, and applies the discriminator to generated and real images. Both
# gradients are computed before either network is updated. Each network has its own Adam optimizer.
#
# The weights of a GAN's generator do not converge. They oscillate, because each update of the discriminator changes the
# loss. With `ema_decay`, `train` also keeps an exponential moving average (EMA) of the weights. It generates the images
# in `samples/`, and after the last epoch it replaces the weights of the generator.
#
# What is logged: `discriminator` is 1.39 and `generator` is 0.69 if the discriminator cannot tell real from generated
# images. `diversity` is the median distance from a generated image to the nearest other one, divided by the same value
# for real images. In a healthy run, `discriminator` first falls, then returns to about 1 and decreases slowly, while
# `generator` rises to between 1 and 2. The slow decrease does not make the images worse. Below 0.1, the discriminator
# dominates and the generator stops learning. A `diversity` below 0.3 means mode collapse. The run warns about both. No
# loss measures how good an image looks, so check `samples/`: it shows images from the same latents.
#
# With the relativistic loss, both losses are 0.69 if the discriminator cannot tell the images apart. In the demo,
# `discriminator` rises slowly to about 0.5, and `generator` falls to about 1.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | np.ndarray | tuple[np.ndarray, np.ndarray],
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train both networks in place.

    Args:
        networks: the result of `build`.
        data: uint8 images [batch, size, size, channels], and with `conditional` also integer labels [batch]. With
            `Batches`, held-out images are used to compute `diversity`. A `tf.data.Dataset` must be batched; it is not
            reshuffled, and a resumed run starts a new pass over it. With `Batches` or arrays, a run resumes exactly
            where it stopped.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and `samples/`. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    generator, discriminator = networks
    ema = keras.models.clone_model(generator) if config.ema_decay else generator
    rate = config.learning_rate
    if config.final_rate < 1:  # linear decay
        steps = config.epochs * data.steps_per_epoch
        rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, config.final_rate * rate)
    g_optimizer = adam(rate, generator.trainable_variables, config.beta_1)
    d_optimizer = adam(rate, discriminator.trainable_variables, config.beta_1)
    noise = Noise(config.seed + 1)

    @tf.function
    def step(real: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        real = from_uint8(real)
        vectors = [tf.one_hot(each, config.outputs) for each in labels]
        latents = noise.normal((tf.shape(real)[0], config.latent_dim))
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake = generator(with_labels(latents, vectors), training=True)
            real_logits = discriminator(with_labels(real, vectors), training=True)
            fake_logits = discriminator(with_labels(fake, vectors), training=True)
            if config.loss == "relativistic":
                g_loss = pairing_loss(lower=real_logits, higher=fake_logits)
                d_loss = pairing_loss(lower=fake_logits, higher=real_logits)
            else:
                g_loss = generator_loss(fake_logits)
                d_loss = discriminator_loss(real_logits, fake_logits)
            penalty = 0.0
            if config.gradient_penalty:
                count = math.ceil(config.penalty_fraction * config.batch_size)
                pairs = zip([real, *vectors], [fake, *vectors], strict=True)
                some = [tf.concat([one[:count], other[:count]], axis=0) for one, other in pairs]
                penalty = config.gradient_penalty * squared_gradient(discriminator, *some)  # gamma / 2 (R1 + R2)
            g_scaled = g_optimizer.scale_loss(g_loss)  # float16 gradients would underflow; `apply` unscales them
            d_scaled = d_optimizer.scale_loss(d_loss + penalty)
        g_gradients = g_tape.gradient(g_scaled, generator.trainable_variables)
        d_gradients = d_tape.gradient(d_scaled, discriminator.trainable_variables)
        g_optimizer.apply(g_gradients, generator.trainable_variables)
        d_optimizer.apply(d_gradients, discriminator.trainable_variables)
        if config.ema_decay:
            decay = tf.minimum(config.ema_decay, 1 - 1 / tf.cast(g_optimizer.iterations, tf.float32))  # 0, 1/2, 2/3...
            for average, weight in zip(ema.variables, generator.variables, strict=True):
                average.assign(weight + decay * (average - weight))
        return {"generator": g_loss, "discriminator": d_loss}

    def sample(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if output_dir is not None:
            save_image(generate(ema, 64), Path(output_dir, "samples", f"epoch-{epoch:04d}.png"))
        return data.diversity(functools.partial(generate, ema))

    state = networks._asdict() | {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer, "noise": noise}
    state |= {"ema": ema} if config.ema_decay else {}
    healthy = {  # smallest healthy value, largest healthy value, warning for other values
        "discriminator": (0.1, np.inf, "the discriminator dominates: the generator gets almost no gradient"),
        "diversity": (0.3, np.inf, "mode collapse: generated images are nearly equal, or training has just begun"),
    }
    history = fit(step, data, config.epochs, state, output_dir, on_epoch=[sample, on_epoch], healthy=healthy)
    if config.ema_decay:
        generator.set_weights(ema.get_weights())
    return history


# %% Use
# A seed always gives the same latents, so it identifies an image. At inference, batch normalisation uses moving
# averages, so an image does not depend on the other images in its batch. `walk` interpolates between the latents of two
# seeds along a great circle (White 2016, arXiv:1609.04468, section 2.1). Normal latents with 100 dimensions lie near a
# sphere of radius 10, and a straight line would pass through its inside, where the generator was not trained.
#
# Some generated images are broken. The discriminator recognises many of them, so it can select images: of every 100
# generated images, it keeps the `keep` images with the highest logits. If it keeps fewer, the images are better but
# less varied, and take longer to generate. The idea is from discriminator rejection sampling (Azadi et al., ICLR 2019,
# arXiv:1810.06758), which instead accepts each image with a probability that depends on its logit.


def generate(
    generator: keras.Model,
    count: int,
    seed: int = 0,
    discriminator: keras.Model | None = None,
    keep: int = 100,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Return `count` generated images, uint8 [count, size, size, channels]; the same seed gives the same images.

    With a `discriminator`, these are the `keep` images with the highest logits of every 100 generated images. A
    conditional generator generates images of the classes in `labels`, class indices [count]; by default, of all classes
    in turn.
    """
    if count < 1 or not 1 <= keep <= 100:
        raise InputError(f"count must be 1 or more and keep from 1 to 100, got {count} and {keep}")
    keep = keep if discriminator else 100
    if len(generator.inputs) == 1:
        return generate_class(generator, count, seed, discriminator, keep)
    outputs = generator.inputs[1].shape[-1]
    labels = np.arange(count) % outputs if labels is None else labels
    images = np.empty((count, *generator.output_shape[1:]), np.uint8)
    for label in np.unique(labels):
        chosen = labels == label
        vector = tf.one_hot(label, outputs)
        images[chosen] = generate_class(generator, int(chosen.sum()), int(seed + label), discriminator, keep, vector)
    return images


def generate_class(
    generator: keras.Model,
    count: int,
    seed: int,
    discriminator: keras.Model | None,
    keep: int,
    label: tf.Tensor | None = None,
) -> np.ndarray:
    """Generate images, all with the same `label`, a one-hot vector [outputs]; select as described in `generate`."""
    total = 100 * math.ceil(count / keep) if keep < 100 else count
    latents = keras.random.normal((total, generator.inputs[0].shape[-1]), seed=seed)
    parts = []
    for start in range(0, total, 100):  # limits memory use
        part = latents[start : start + 100]
        vectors = [] if label is None else [tf.repeat(label[None], len(part), axis=0)]
        images = generator(with_labels(part, vectors), training=False)
        if discriminator and keep < 100:
            logits = discriminator(with_labels(images, vectors), training=False)[:, 0]
            images = tf.gather(images, tf.sort(tf.math.top_k(logits, keep).indices))
        parts.append(to_uint8(images))
    return np.concatenate(parts)[:count]


def walk(generator: keras.Model, seed: int, to_seed: int, steps: int = 24, label: int = 0) -> np.ndarray:
    """Interpolate between the first images of two seeds, without selection; return uint8 [steps, *image_shape].

    `label` is the class index of all images, for a conditional generator.
    """
    if seed == to_seed or steps < 2:
        raise InputError(f"walk needs different seeds and 2 or more steps, got {seed} and {to_seed}, {steps} steps")
    shape = (1, generator.inputs[0].shape[-1])
    start, end = (keras.random.normal(shape, seed=each)[0].numpy() for each in (seed, to_seed))
    angle = np.arccos(start @ end / (np.linalg.norm(start) * np.linalg.norm(end)))
    t = np.linspace(0, 1, steps)[:, None]
    latents = (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
    vectors = [tf.one_hot([label] * steps, each.shape[-1]) for each in generator.inputs[1:]]
    return to_uint8(generator(with_labels(tf.constant(latents, tf.float32), vectors), training=False))


# %% A whole run
# The built-in data are 18,000 synthetic handwritten digits of 28 pixels. A tenth is held out. The scores compare the
# held-out digits with an equal number of generated images, using the project's digit classifier:
#
# - `frechet_distance` and `kernel_distance` compare the classifier's features of both sets. Smaller is better.
#   `real_frechet_distance` is the distance between the held-out digits and as many training digits, for comparison.
# - `confidence` is the mean probability of the predicted class. It is about 0.99 for real digits.
# - `rarest_class_fraction`, `commonest_class_fraction` and `class_entropy` measure how evenly the generated images are
#   spread over the classes. With ten equally frequent classes, they are 0.1, 0.1 and ln 10 = 2.30.
#
# A conditional run is also scored by `recognised_as_class`: the fraction of generated images that the classifier
# recognises as the class asked for.
#
# The image grid and the scores are of the images that the discriminator keeps: in the demo, 70 of 100.
# >>> digits = images_of("sample", DEMO.size, DEMO.channels, "many_digits")
# >>> show(digits.train[:32], columns=16)


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/dcgan"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, score generated images, save the run in `output_dir`, and return a grid's path."""
    folder = Run(output_dir, "dcgan", config, data, accept_data)
    classes = config.conditional != "none"
    images = images_of(data, config.size, config.channels, "many_digits", skip_bad, fetch, classes=classes)
    config = replace(config, outputs=len(images.classes) or config.outputs)
    networks = build(config)
    stream = images.batches(config.batch_size, config.seed, held_out=500)
    folder.start(images.classes)
    train(networks, stream, config, output_dir)
    judge = networks.discriminator
    selected = functools.partial(generate, networks.generator, discriminator=judge, keep=config.keep)
    columns = min(10, len(images.classes) or 8)
    grid = save_image(selected(8 * columns), Path(output_dir, "samples.png"), columns=columns, zoom=2)
    return folder.finish(networks, lambda: images.sample_scores(functools.partial(selected, seed=1)), grid)


# For comparison, score real digits as if they were generated. Their distances are not 0, because both sets are small:
# >>> digits.sample_scores(lambda count: digits.train[4::9][:count])


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to generate synthetic handwritten digits; return the path of a grid with 64 generated images."""
    return run("sample", config, output_dir)


def generate_file(
    destination: Path,
    count: Annotated[int, Range(1, 100_000)] = 64,
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0,
    keep: Annotated[int, Range(0, 100)] = 0,
    singles: bool = False,
    class_: str = "",
    run: Path = DEMO_RUN,
) -> Path:
    """Write a grid of generated images or, with `singles`, one PNG file per image to the folder `destination`.

    Of every 100 generated images, the discriminator keeps `keep`; 0 stands for the value of the run. `class_` is the
    name or index of the class of all images, for a run with `--conditional`; empty: all classes in turn.
    """
    trained, generator, label = load(run, class_)
    config = trained.config
    keep = keep or config.keep
    vectors = [] if config.conditional == "none" else [(config.outputs,)]
    judge = trained.network("discriminator", with_labels(trained.image_shape, vectors), (1,)) if keep < 100 else None
    images = generate(generator, count, seed, judge, keep, None if label < 0 else np.full(count, label))
    if not singles:
        return save_image(images, destination, columns=min(10, config.outputs) if vectors and label < 0 else 8)
    for number, image in enumerate(images):
        save_image(image, destination / f"{number:06d}.png")
    return destination


def walk_file(
    destination: Path,
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0,
    to_seed: Annotated[int, Range(0, 2**31 - 1)] = 1,
    steps: Annotated[int, Range(2, 10_000)] = 24,
    zoom: Annotated[int, Range(1, 64)] = 4,
    class_: str = "",
    run: Path = DEMO_RUN,
) -> Path:
    """Interpolate between images of two seeds; write an animation (.gif, .mp4) or a strip. `zoom` enlarges pixels.

    `class_` is the name or index of a class, for a run with `--conditional`; empty: the first class.
    """
    _, generator, label = load(run, class_)
    images = walk(generator, seed, to_seed, steps, max(0, label))
    return save_image(images.repeat(zoom, axis=1).repeat(zoom, axis=2), destination, columns=steps)


def load(run: Path, class_: str = "") -> tuple[Run, keras.Model, int]:
    """Return a run, its generator, and the index of one of its classes; -1 if `class_` is empty."""
    trained = Run.load(run, "dcgan", Config)
    config = trained.config
    vectors = [] if config.conditional == "none" else [(config.outputs,)]
    shapes = with_labels((config.latent_dim,), vectors)
    return trained, trained.network("generator", shapes, trained.image_shape), trained.class_number(class_)


# %% Try it
# The generator is unconditional, so you cannot choose which digit it generates. But a thousand generated images contain
# all digits, and the classifier finds them. Here it finds the first sixteen digits of pi, using each image once.
# >>> from common.metrics.scores import classifier_features
# >>> from common.system.files import data_file
# >>> from common.system.keras_files import load_keras_file
# >>>
# >>> _, generator, _ = load(DEMO_RUN)
# >>> generated = generate(generator, 1000, seed=1)
# >>> _, probabilities = classifier_features(load_keras_file(data_file("digit_classifier.keras")), generated)
# >>> ranked = np.argsort(-probabilities, axis=0)  # most probable first, one column per digit
# >>> show(generated[[ranked[rank, int(digit)] for rank, digit in enumerate("3141592653589793")]])
#
# Sixteen interpolations, each from the image of one seed to the image of the next seed and back. The images change
# smoothly. Most intermediate images are plausible, but some of them are not digits.
# >>> from common.images.writing import tiled
# >>>
# >>> walks = np.stack([walk(generator, seed, seed + 1, 16) for seed in range(16)])
# >>> there = np.stack([tiled(frame, 8, 3) for frame in walks.swapaxes(0, 1)])
# >>> show_file(save_image(np.concatenate([there, there[::-1]]), DEMO_RUN.parent / "dcgan-walks.gif"))


if __name__ == "__main__":
    emnist = replace(DIGITS, base_filters=64, batch_size=512, learning_rate=1e-4, epochs=200)
    presets = {"paper": Config(), "digits": DIGITS, "emnist": emnist, "modern": MODERN, "demo": DEMO}
    run_command(demo, presets=presets, train=run, generate=generate_file, walk=walk_file)
