"""GAN: generate handwritten digits with two small dense networks, trained against each other.

Paper    Goodfellow et al., "Generative Adversarial Nets", NIPS 2014, arXiv:1406.2661.
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], standard normal.
Logits   float32 [n, 1]; positive means real.
Differs  1. Leaky ReLU, batch normalisation and Adam, as in the DCGAN paper (arXiv:1511.06434), replace maxout and SGD
            with momentum. As in the paper's MNIST experiments, the networks are dense; the discriminator has dropout.
         2. Each step updates both networks from one forward pass of the generator. The paper updates the discriminator
            k times per generator update, with k = 1 in its experiments.
         3. The demo uses a relativistic loss with gradient penalties on real and generated images (R3GAN, Huang et al.,
            NeurIPS 2024, arXiv:2501.05441), the exponential moving average (EMA) of the generator's weights (Yazici et
            al., ICLR 2019, arXiv:1806.04498), and learning rates that decay. Its discriminator selects generated
            images (after Azadi et al., ICLR 2019, arXiv:1810.06758). These are options, off by default.
Run      python -m recipes.gan                                           the demo: handwritten digits, offline
         python -m recipes.gan train --data mnist --fetch                MNIST, downloaded once
         python -m recipes.gan train --data DIR --output-dir runs/mine   your own images; run again to resume
         python -m recipes.gan generate grid.png --count 64 --run runs/mine
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
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
# The generator gets no real images. It learns only from the discriminator, so the two networks must stay in balance.
# `units` and `discriminator_units` set the width of the networks. `dropout` keeps the discriminator from memorising a
# small training set. The demo uses gradient penalties for this (see Losses). `learning_rate` and `beta_1` are from the
# DCGAN paper. A small `beta_1` averages gradients over fewer steps. This suits the changing loss functions of a GAN.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for MNIST. `DEMO` is for 18,000 synthetic digits."""

    size: Annotated[int, Range(4, 512)] = 28  # side of the images in pixels
    channels: Literal[1, 3] = 1  # 1: greyscale, 3: colour
    latent_dim: Annotated[int, Range(1, 65_536)] = 100
    units: Annotated[int, Range(1, 65_536)] = 256  # width of the first generator layer; doubled in the next two
    discriminator_units: Annotated[int, Range(1, 65_536)] = 784  # width of the first layer; halved in the second
    dropout: Annotated[float, Range(0, 0.999999)] = 0.3  # dropout rate of the discriminator
    batch_size: Annotated[int, Range(1, 65_536)] = 32
    learning_rate: Annotated[float, Range(0, 10)] = 2e-4  # learning rate of both Adam optimizers
    beta_1: Annotated[float, Range(0, 0.999999)] = 0.5  # beta_1 of both Adam optimizers
    final_rate: Annotated[float, Range(0, 1)] = 1.0  # last learning rate / first one; the decay is linear
    loss: Literal["non_saturating", "relativistic"] = "non_saturating"
    gradient_penalty: Annotated[float, Range(0, 1e6)] = 0.0  # gamma of R1 and R2 (see Losses); 0: off
    penalty_fraction: Annotated[float, Range(0.01, 1)] = 1.0  # part of each batch for which the penalties are computed
    ema_decay: Annotated[float, Range(0, 1)] = 0.0  # EMA of the generator's weights, per step; 0: off
    keep: Annotated[int, Range(1, 100)] = 100  # images to keep of every 100 generated ones (see Use); 100: all
    epochs: Annotated[int, Range(1, 1_000_000)] = 20
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    synchronized: bool = False  # batch normalisation over the global batch, not per device

    def __post_init__(self) -> None:
        Range.check(self)


DEMO = Config(
    latent_dim=64,
    units=128,
    discriminator_units=512,
    dropout=0.0,
    learning_rate=7e-4,
    final_rate=0.05,
    loss="relativistic",
    gradient_penalty=1.0,
    penalty_fraction=0.25,
    ema_decay=0.998,
    keep=40,
    epochs=28,
)
DEMO_RUN = Path("runs/gan-demo")

# %% Networks
# Both networks are dense. The generator maps 100 normally distributed numbers to 784 pixels, through three hidden
# layers of increasing width. Each hidden layer has batch normalisation, and tanh limits the pixels to [-1, 1]. A dense
# network has no information about which pixels are neighbours, so it must learn that strokes are connected. Isolated
# bright pixels are a typical artefact.
#
# Batch normalisation comes before the leaky ReLU. Consider a unit that is almost always negative. After the leaky ReLU,
# its variance is small, so batch normalisation would amplify the rare positive values. The images from such latents
# were covered with white pixels.
#
# The discriminator maps 784 pixels to one logit. It has no batch normalisation, so its logit for an image does not
# depend on the other images in the batch.


class Networks(NamedTuple):
    """The generator and the discriminator."""

    generator: keras.Model  # latents [n, latent_dim] -> images [n, size, size, channels] in [-1, 1]
    discriminator: keras.Model  # images -> logits [n, 1], positive means real


def build(config: Config = Config()) -> Networks:
    """Return the untrained networks."""
    layers = keras.layers
    shape = (config.size, config.size, config.channels)
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}

    x = latents = keras.Input((config.latent_dim,), name="latents")
    for units in (config.units, 2 * config.units, 4 * config.units):
        x = layers.Dense(units, **init)(x)
        x = layers.BatchNormalization(momentum=0.8, synchronized=config.synchronized)(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Dense(int(np.prod(shape)), activation="tanh", dtype="float32", **init)(x)
    generator = keras.Model(latents, layers.Reshape(shape, dtype="float32")(x), name="generator")

    images = keras.Input(shape, name="images")
    x = layers.Flatten()(images)
    for units in (config.discriminator_units, max(1, config.discriminator_units // 2)):
        x = layers.LeakyReLU(negative_slope=0.2)(layers.Dense(units, **init)(x))
        x = layers.Dropout(config.dropout, seed=config.seed + units)(x)
    logits = layers.Dense(1, dtype="float32", **init)(x)
    return Networks(generator, keras.Model(images, logits, name="discriminator"))


# %% Losses
# The discriminator minimises the sum of two binary cross entropies, for real and for generated images. Let p(x) be
# the density of real images and q(x) the density of generated images. The optimal discriminator has the logit log
# p(x) - log q(x), and its loss is log 4 - 2 JS(p, q), where JS is the Jensen-Shannon divergence (section 4.1). JS is
# 0 only if p = q. The loss is then at its maximum, log 4 = 1.39. A generator that maximises this loss therefore
# reproduces the data distribution.
#
# In practice, the generator does not maximise this loss directly. The loss is flat where the discriminator is confident
# that an image is generated, which is typical early in training. The non-saturating loss has the same optimum, but a
# strong gradient in this region.


def cross_entropy(target: float, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy between sigmoid(logits) and `target`."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Return the sum of the real and fake cross entropies (equation 1). It is 2 log 2 = 1.39 for logits of 0."""
    return cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits)


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """Return the non-saturating loss (section 3). It is log 2 = 0.69 for logits of 0."""
    return cross_entropy(1.0, fake_logits)


# The demo uses the loss and the regularisation of R3GAN (Huang et al., arXiv:2501.05441) instead. The relativistic
# pairing loss compares the logit of each generated image with the logit of a real image. The discriminator minimises
# softplus(fake - real), and the generator softplus(real - fake). The gradient penalties R1 and R2 (Mescheder et al.
# 2018, arXiv:1801.04406) are the squared gradients of the logits with respect to real and to generated images. They
# keep the discriminator smooth, so its dropout is not needed.


def pairing_loss(lower: tf.Tensor, higher: tf.Tensor) -> tf.Tensor:
    """Return the mean of softplus(lower - higher) over pairs of logits (R3GAN, eq. 2). It is log 2 for equal logits."""
    return tf.reduce_mean(tf.nn.softplus(lower - higher))


def squared_gradient(discriminator: keras.Model, images: tf.Tensor) -> tf.Tensor:
    """Return the squared gradient of each logit with respect to its image, averaged over the images."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = discriminator(images, training=True)
    return tf.reduce_mean(tf.reduce_sum(tf.square(tape.gradient(logits, images)), axis=(1, 2, 3)))


# Example: four kinds of images that occur with different frequencies in the real and the generated data. The loss of
# the optimal discriminator equals log 4 - 2 JS:
# >>> real, fake = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
# >>> best, middle = np.log(real / fake).astype(np.float32), (real + fake) / 2
# >>> divergence = (real * np.log(real / middle) + fake * np.log(fake / middle)).sum() / 2
# >>> loss = discriminator_loss(np.repeat(best, [4, 3, 2, 1]), np.repeat(best, [1, 2, 3, 4]))
# >>> float(loss), float(np.log(4) - 2 * divergence)


# %% Training
# Each step samples latents, generates images from them, and runs the discriminator on generated and on real images. The
# gradients of both networks are computed before either is updated. Each network has its own Adam optimizer.
#
# The weights of a GAN's generator oscillate, because each update of the discriminator changes the loss. With
# `ema_decay`, `train` also keeps an exponential moving average (EMA) of the weights. It generates the images in
# `samples/`, and after the last epoch it replaces the weights of the generator.
#
# What is logged: `discriminator` and `generator` are the losses. `diversity` is the median distance from a generated
# image to the nearest other generated image, divided by the same value for real images. In the first epochs the
# discriminator dominates: `discriminator` is small, and `generator` is high. In a healthy run with the non-saturating
# loss, `discriminator` then approaches 1.39 and `generator` 0.69. With the relativistic loss, both approach 0.69. In
# the demo, `discriminator` settles at about 0.5, `generator` at about 0.9, and `diversity` near 1. If `discriminator`
# stays below 0.1, the generator stops learning. A `diversity` below 0.3 means mode collapse. No loss measures how good
# an image looks, so check `samples/`: it shows images from the same latents after each epoch.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | np.ndarray,
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train both networks in place.

    Args:
        networks: from `build`.
        data: uint8 images [batch, size, size, channels]. With `Batches` or an array, a run resumes exactly where it
            stopped. Only `Batches` have the held-out images that `diversity` needs. A `tf.data.Dataset` must yield
            batches; it is not reshuffled, and a resumed run starts a new pass over it.
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
    def step(real: tf.Tensor) -> dict[str, tf.Tensor]:
        real = from_uint8(real)
        latents = noise.normal((tf.shape(real)[0], config.latent_dim))
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake = generator(latents, training=True)
            real_logits = discriminator(real, training=True)
            fake_logits = discriminator(fake, training=True)
            if config.loss == "relativistic":
                g_loss = pairing_loss(lower=real_logits, higher=fake_logits)
                d_loss = pairing_loss(lower=fake_logits, higher=real_logits)
            else:
                g_loss = generator_loss(fake_logits)
                d_loss = discriminator_loss(real_logits, fake_logits)
            penalty = 0.0
            if config.gradient_penalty:
                count = math.ceil(config.penalty_fraction * config.batch_size)
                some = tf.concat([real[:count], fake[:count]], axis=0)
                penalty = config.gradient_penalty * squared_gradient(discriminator, some)  # gamma / 2 (R1 + R2)
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
    healthy = {  # minimum and maximum healthy value, and the warning for values outside this range
        "discriminator": (0.1, np.inf, "the discriminator dominates: the generator gets almost no gradient"),
        "diversity": (0.3, np.inf, "mode collapse: generated images are nearly equal, or training has just begun"),
    }
    history = fit(step, data, config.epochs, state, output_dir, on_epoch=[sample, on_epoch], healthy=healthy)
    if config.ema_decay:
        generator.set_weights(ema.get_weights())
    return history


# %% Use
# The same seed always gives the same latents, so you can compare images across epochs and runs. At inference, batch
# normalisation uses its moving averages, so an image does not depend on the other images in its batch.
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
) -> np.ndarray:
    """Return `count` generated images, uint8 [count, size, size, channels]; the same seed gives the same images.

    With a `discriminator`, these are the `keep` images with the highest logits of every 100 generated images.
    """
    if count < 1 or not 1 <= keep <= 100:
        raise InputError(f"count must be 1 or more and keep from 1 to 100, got {count} and {keep}")
    keep = keep if discriminator else 100
    total = 100 * math.ceil(count / keep) if keep < 100 else count
    latents = keras.random.normal((total, generator.input_shape[-1]), seed=seed)
    parts = []
    for start in range(0, total, 100):  # limits memory use
        images = generator(latents[start : start + 100], training=False)
        if discriminator and keep < 100:
            logits = discriminator(images, training=False)[:, 0]
            images = tf.gather(images, tf.sort(tf.math.top_k(logits, keep).indices))
        parts.append(to_uint8(images))
    return np.concatenate(parts)[:count]


# %% A whole run
# The built-in data are 18,000 synthetic handwritten digits of 28 x 28 pixels. One tenth is held out. A bundled digit
# classifier scores generated images against an equal number of held-out ones:
#
# - `frechet_distance` and `kernel_distance` compare the classifier's features of the two sets. Smaller is better.
#   `real_frechet_distance` compares the held-out digits with as many training digits.
# - `confidence` is the mean probability of the predicted class. It is about 0.99 for real digits.
# - `class_entropy` measures how evenly the predicted classes are spread. Its maximum is ln 10 = 2.30.
#
# The image grid and the scores are of the images that the discriminator keeps: in the demo, 40 of 100.
# >>> digits = images_of("sample", DEMO.size, DEMO.channels, "many_digits")
# >>> show(digits.train[:32], columns=16)


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/gan"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, score generated images, save the run, and return the path of an image grid."""
    folder = Run(output_dir, "gan", config, data, accept_data)
    images = images_of(data, config.size, config.channels, "many_digits", skip_bad, fetch)
    networks = build(config)
    stream = images.batches(config.batch_size, config.seed, held_out=500)
    folder.start()
    train(networks, stream, config, output_dir)
    judge = networks.discriminator
    selected = functools.partial(generate, networks.generator, discriminator=judge, keep=config.keep)
    grid = save_image(selected(64), Path(output_dir, "samples.png"), zoom=2)
    return folder.finish(networks, lambda: images.sample_scores(functools.partial(selected, seed=1)), grid)


# For comparison, the scores of real digits instead of generated ones. The distances are not 0, because both sets are
# small:
# >>> digits.sample_scores(lambda count: digits.train[4::9][:count])


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train on synthetic handwritten digits; return the path of a grid of 64 generated images."""
    return run("sample", config, output_dir)


def generate_file(
    destination: Path,
    count: Annotated[int, Range(1, 100_000)] = 64,
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0,
    keep: Annotated[int, Range(0, 100)] = 0,
    singles: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Write generated images as one grid or, with `singles`, as one PNG per image in the folder `destination`.

    Of every 100 generated images, the discriminator keeps `keep`; 0 stands for the value of the run.
    """
    trained = Run.load(run, "gan", Config)
    generator = trained.network("generator", (trained.config.latent_dim,), trained.image_shape)
    keep = keep or trained.config.keep
    judge = trained.network("discriminator", trained.image_shape, (1,)) if keep < 100 else None
    images = generate(generator, count, seed, judge, keep)
    if not singles:
        return save_image(images, destination)
    for number, image in enumerate(images):
        save_image(image, destination / f"{number:06d}.png")
    return destination


# %% Try it
# Top row: eight generated digits. Bottom row: the nearest training image to each, by pixel distance. If the generator
# had memorised its training data, the rows would be identical.
# >>> from common.metrics.latents import great_circle, nearest
# >>>
# >>> trained = Run.load(DEMO_RUN, "gan", Config)
# >>> generator, discriminator = (trained.network(name) for name in Networks._fields)
# >>> generated = generate(generator, 8, 1, discriminator, trained.config.keep)
# >>> training, queries = (images.reshape(-1, DEMO.size**2) / 255 for images in (digits.train, generated))
# >>> show(np.concatenate([generated, digits.train[nearest(training, queries, 1)[:, 0]]]))
#
# Interpolation between six latents: each row goes from one latent to the next, and the last row returns to the first.
# Standard normal latents with 100 dimensions lie near a sphere of radius 10, so each path follows a great circle. A
# straight line would pass through the inside of the sphere, where the generator has not been trained.
# >>> stops = np.random.default_rng(3).standard_normal((6, DEMO.latent_dim)).astype(np.float32)
# >>> paths = [great_circle(start, end, 9)[:-1] for start, end in zip(stops, np.roll(stops, -1, axis=0), strict=True)]
# >>> show(to_uint8(generator(np.concatenate(paths), training=False)))


if __name__ == "__main__":
    run_command(demo, presets={"mnist": Config(), "demo": DEMO}, train=run, generate=generate_file)
