"""The plain way to train Pix2Pix, DCGAN and CycleGAN, as Keras tutorials write it, for `benchmarks.speed` to time.

The networks, the losses and the settings of Adam are the recipes'; how a step is written is not.

Pix2Pix, DCGAN   compiled models: `generator.predict`, then three `train_on_batch` (real, fake, and a combined model
                 whose discriminator is frozen).
CycleGAN         one `tf.function` with two persistent tapes. Under the first every network is called for every batch
                 by itself: a translation, its way back, pictures that should stay, the discriminator's opinion. Under
                 the second the discriminators judge real pictures and the same translations, once more. Then a
                 gradient call and an optimizer for each of the four networks, at an even rate. Tutorials keep no
                 earlier translations, so there is no pool.

Batches are put together from a list of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.lazy import keras, tf
from recipes import cyclegan, dcgan, pix2pix

Step = Callable[..., object]
"""float32 images [n, size, size, channels] in [-1, 1], one array for each kind -> nothing of interest."""


def make_plain_step(
    config: Any, networks: Sequence[keras.Model], pictures: Sequence[np.ndarray]
) -> Callable[[int], None]:
    """Return (number of a step) -> None, which trains a recipe's networks in place on its batch of `pictures`.

    Args:
        config: of the recipe to train: its type says which.
        networks: what the recipe's `build` returns; of two, the discriminator is left frozen.
        pictures: uint8 [n, size, size, channels], an array for each kind.
    """
    makers: dict[type, Callable[[Any, Sequence[keras.Model]], Step]]
    makers = {pix2pix.Config: _pix2pix_step, dcgan.Config: _dcgan_step, cyclegan.Config: _cyclegan_step}
    train_on = makers[type(config)](config, networks)
    examples = list(zip(*pictures, strict=True))
    size = config.batch_size

    def step(number: int) -> None:
        chosen = [examples[(number * size + i) % len(examples)] for i in range(size)]
        train_on(*(np.stack(column).astype(np.float32) / 127.5 - 1.0 for column in zip(*chosen, strict=True)))

    return step


def _adam(config: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(config.learning_rate, beta_1=config.beta_1)


def _pix2pix_step(config: pix2pix.Config, networks: Sequence[keras.Model]) -> Step:
    generator, discriminator = networks
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    discriminator.compile(_adam(config), loss=cross_entropy, loss_weights=[0.5])
    discriminator.trainable = False
    inputs = keras.Input((config.size, config.size, 3))
    translation = generator(inputs)
    combined = keras.Model(inputs, [discriminator([inputs, translation]), translation])
    weights = [config.gan_weight, config.l1_weight]
    combined.compile(_adam(config), loss=[cross_entropy, "mae"], loss_weights=weights)
    side = config.size // 8 - 2
    shape = config.batch_size, side, side, 1
    real, fake = np.ones(shape, np.float32), np.zeros(shape, np.float32)

    def train_on(source: np.ndarray, target: np.ndarray) -> None:
        made = generator.predict(source, batch_size=len(source), verbose=0)
        # Keras 3 looks at `trainable` when a model first trains, not when it is compiled: both must be set here.
        discriminator.trainable = True
        discriminator.train_on_batch([source, target], real)
        discriminator.train_on_batch([source, made], fake)
        discriminator.trainable = False
        combined.train_on_batch(source, [real, target])

    return train_on


def _dcgan_step(config: dcgan.Config, networks: Sequence[keras.Model]) -> Step:
    generator, discriminator = networks
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    discriminator.compile(_adam(config), loss=cross_entropy)
    discriminator.trainable = False
    inputs = keras.Input((config.latent_dim,))
    combined = keras.Model(inputs, discriminator(generator(inputs)))
    combined.compile(_adam(config), loss=cross_entropy)
    random = np.random.default_rng(config.seed)
    real, fake = np.ones((config.batch_size, 1), np.float32), np.zeros((config.batch_size, 1), np.float32)

    def train_on(images: np.ndarray) -> None:
        latents = random.standard_normal((len(images), config.latent_dim), np.float32)
        made = generator.predict(latents, batch_size=len(images), verbose=0)
        discriminator.trainable = True  # as above
        discriminator.train_on_batch(images, real)
        discriminator.train_on_batch(made, fake)
        discriminator.trainable = False
        combined.train_on_batch(latents, real)

    return train_on


def _cyclegan_step(config: cyclegan.Config, networks: Sequence[keras.Model]) -> Step:
    a2b, b2a, judge_a, judge_b = networks
    optimizers = [_adam(config) for _ in networks]
    squares, cross_entropy = keras.losses.MeanSquaredError(), keras.losses.BinaryCrossentropy(from_logits=True)
    adversarial = squares if config.loss == "least_squares" else cross_entropy
    distance = keras.losses.MeanAbsoluteError()

    @tf.function
    def train_on(a: tf.Tensor, b: tf.Tensor) -> None:
        with tf.GradientTape(persistent=True) as g_tape:
            fake_b, fake_a = a2b(a, training=True), b2a(b, training=True)
            cycled_a, cycled_b = b2a(fake_b, training=True), a2b(fake_a, training=True)
            same_a, same_b = b2a(a, training=True), a2b(b, training=True)
            on_fake_a, on_fake_b = judge_a(fake_a, training=True), judge_b(fake_b, training=True)
            cycle = config.cycle_weight * (distance(a, cycled_a) + distance(b, cycled_b))
            a2b_loss = adversarial(tf.ones_like(on_fake_b), on_fake_b) + cycle
            b2a_loss = adversarial(tf.ones_like(on_fake_a), on_fake_a) + cycle
            a2b_loss += config.identity_weight * distance(b, same_b)
            b2a_loss += config.identity_weight * distance(a, same_a)
        with tf.GradientTape(persistent=True) as d_tape:
            d_losses = []
            for judge, real, fake in ((judge_a, a, fake_a), (judge_b, b, fake_b)):
                on_real, on_fake = judge(real, training=True), judge(fake, training=True)
                real_loss = adversarial(tf.ones_like(on_real), on_real)
                d_losses.append(0.5 * (real_loss + adversarial(tf.zeros_like(on_fake), on_fake)))
        tapes, losses = (g_tape, g_tape, d_tape, d_tape), (a2b_loss, b2a_loss, *d_losses)
        weights = [network.trainable_variables for network in networks]
        gradients = [tape.gradient(loss, each) for tape, loss, each in zip(tapes, losses, weights, strict=True)]
        for optimizer, values, each in zip(optimizers, gradients, weights, strict=True):
            optimizer.apply_gradients(zip(values, each, strict=True))

    return train_on
