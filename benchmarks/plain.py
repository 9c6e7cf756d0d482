"""Tutorial-style baselines for three recipes. `benchmarks.speed` times them.

The networks, losses and optimizers come from the recipes. The training steps are written as in typical tutorials:

- pix2pix and dcgan use compiled models. `predict` generates images. `train_on_batch` then runs three times: on real
  images, on generated images, and on a combined model with a frozen discriminator.
- vae is a `keras.Model` with a custom `train_step`, called through `train_on_batch`, as in the keras.io guides.

Each batch is stacked from a list of single images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.system.lazy import keras, tf
from recipes import vae

Step = Callable[..., object]
"""A function that trains on a batch of float32 images [n, size, size, channels] in [-1, 1]."""


def make_plain_step(
    recipe: str, config: Any, networks: Sequence[keras.Model], parts: Sequence[np.ndarray]
) -> Callable[[int], None]:
    """Return a function `step(number)` that trains the networks in place on batch `number` of `parts`.

    Args:
        recipe: a key of `STEPS`.
        config: the recipe's configuration.
        networks: the networks from the recipe's `build`. `step` leaves the discriminator frozen, if there is one.
        parts: uint8 images [n, size, size, channels], one array per input of the recipe's training step.
    """
    train_on = STEPS[recipe](config, networks)
    examples = list(zip(*parts, strict=True))
    size = config.batch_size

    def step(number: int) -> None:
        chosen = [examples[(number * size + i) % len(examples)] for i in range(size)]
        columns = zip(*chosen, strict=True)
        train_on(*(np.stack(column).astype(np.float32) / 127.5 - 1.0 for column in columns))

    return step


def _adam(config: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(config.learning_rate, beta_1=getattr(config, "beta_1", 0.9))


def _pix2pix_step(config: Any, networks: Sequence[keras.Model]) -> Step:
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
        translated = generator.predict(source, batch_size=len(source), verbose=0)
        # Keras 3 reads `trainable` when a model first trains, not when it is compiled. Set it before each call.
        discriminator.trainable = True
        discriminator.train_on_batch([source, target], real)
        discriminator.train_on_batch([source, translated], fake)
        discriminator.trainable = False
        combined.train_on_batch(source, [real, target])

    return train_on


def _dcgan_step(config: Any, networks: Sequence[keras.Model]) -> Step:
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
        generated = generator.predict(latents, batch_size=len(images), verbose=0)
        discriminator.trainable = True  # see `_pix2pix_step`
        discriminator.train_on_batch(images, real)
        discriminator.train_on_batch(generated, fake)
        discriminator.trainable = False
        combined.train_on_batch(latents, real)

    return train_on


def _vae_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    encoder, sampler, decoder = networks
    random = np.random.default_rng(config.seed)

    class VAE(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder, self.sampler, self.decoder = encoder, sampler, decoder
            self.loss_tracker = keras.metrics.Mean(name="loss")

        @property
        def metrics(self):
            return [self.loss_tracker]

        def call(self, batch):
            return batch

        def train_step(self, data):
            binary = keras.utils.unpack_x_y_sample_weight(data)[0]
            with tf.GradientTape() as tape:
                mean, log_variance = self.encoder(2.0 * binary - 1.0, training=True)
                logits = self.decoder(self.sampler([mean, log_variance], training=True), training=True)
                reconstruction = -tf.reduce_mean(vae.log_likelihood(binary, logits))
                kl = tf.reduce_mean(vae.kl_divergence(mean, log_variance))
                loss = reconstruction + config.kl_weight * kl
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            self.loss_tracker.update_state(loss)
            return {"loss": self.loss_tracker.result()}

    model = VAE()
    model.compile(_adam(config))

    def train_on(images: np.ndarray) -> None:
        binary = random.random(images.shape, np.float32) < images / 2 + 0.5
        model.train_on_batch(binary.astype(np.float32))

    return train_on


STEPS: dict[str, Callable[[Any, Any], Step]] = {"dcgan": _dcgan_step, "pix2pix": _pix2pix_step, "vae": _vae_step}
