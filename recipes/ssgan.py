"""Semi-supervised GAN: learn to classify from few labels, helped by unlabelled images and a generator's.

Paper    Salimans, Goodfellow, Zaremba, Cheung, Radford & Chen, "Improved Techniques for Training GANs", NIPS 2016,
         arXiv:1606.03498, section 5; the moving average of weights: section 3.3.
Images   uint8 [n, size, size, channels] at the borders; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], standard normal.
Logits   float32 [n, outputs], of the classes of real images. A generated image is one more class, whose logit is fixed
         at 0: its share of the softmax is 1 / (1 + S), with S the sum of the exponentials of the others.
Loss     classes: cross entropy of the labelled images. Real or generated: S / (S + 1) for the unlabelled ones, and the
         generator's. Generator: that its images are called real or, with `matching`, that the mean features of its
         images are those of unlabelled ones (section 3.1), which draws worse and classifies better.
Differs  1. Batch normalisation in the generator and dropout in the classifier, no weight normalisation.
         2. Images are moved, and where `mirror` says so mirrored, at random: the labelled and the unlabelled.
         3. The classifier that is judged, saved and used has the moving average of the weights.
Run      python -m recipes.ssgan                                                 the demo: handwritten digits, offline
         python -m recipes.ssgan train --preset clothes --data fashion_mnist --fetch     1,000 labels
         python -m recipes.ssgan train --preset digits --data mnist --fetch              100 labels
         python -m recipes.ssgan classify photo.png --run runs/ssgan
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.batches import Batches, batches, mapped, side_by_side
from common.classification import Shown, accuracy, classify_files, judge
from common.cli import run_command
from common.digits import digits_or_others
from common.errors import InputError
from common.health import COPIES, ONE_SIDED, sample_diversity
from common.images import from_uint8, save_grid, to_uint8
from common.labelled import as_many_of_each, image_batches, labelled_batches
from common.lazy import keras, tf
from common.runs import check_run, finish_run, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration


@dataclass(frozen=True, kw_only=True)
class Config:
    """For 28 px: `CLOTHES` and `DIGITS` are the settings of the two measured tasks."""

    size: int = 28  # pixels; divisible by 4
    channels: int = 1  # 1 for grey, 3 for colour
    labelled: int = 1000  # training images whose class is known, as many of each class
    outputs: int = 10  # classes; the data decide in `train` and in the demo
    matching: bool = True  # the generator matches features; without it, it wants to be called real
    latent_dim: int = 100
    base_filters: int = 64  # of the classifier's first convolution; the other two have twice as many
    generator_filters: int = 32  # of the generator's last hidden layer; the one before has twice as many
    dropout: float = 0.4  # share of the features that the classifier's last layer does not see in training
    noise: float = 0.15  # deviation of what training adds to what the classifier sees, in [-1, 1]
    shift: int = 2  # most pixels by which a training image is moved each way
    mirror: bool = False  # turn half of the training images left to right
    averaging: float = 0.999  # share that the moving average keeps at each step
    batch_size: int = 100  # of the labelled images, of the unlabelled ones, and of the generator's
    learning_rate: float = 3e-4  # Adam, both networks; falls to 0 along a cosine
    beta_1: float = 0.5  # Adam
    epochs: int = 15
    seed: int = 0


CLOTHES = Config(mirror=True)
DIGITS = Config(labelled=100)
DEMO, DEMO_RUN = Config(labelled=50, base_filters=32, epochs=60), Path("runs/ssgan-demo")

# %% Networks


class Networks(NamedTuple):
    """The classifier is the discriminator too: its logits say the class, and their sum whether there is one."""

    generator: keras.Model  # latents [n, latent_dim] -> images [n, size, size, channels] in [-1, 1]
    classifier: keras.Model  # images -> logits [n, outputs]
    averaged: keras.Model  # the classifier with the moving average of its weights


def build(config: Config = Config()) -> Networks:
    """Return the networks, untrained. Raises ValueError for a size that is no multiple of 4, or below 8."""
    if config.size < 8 or config.size % 4:
        raise InputError(f"size must be a multiple of 4, and 8 or more, got {config.size}")
    if config.channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, got {config.channels}")
    layers, side = keras.layers, config.size // 4
    seeds = keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.05, seed=seeds)}

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(side * side * 4 * config.generator_filters, use_bias=False, **init)(latents)
    x = layers.Reshape((side, side, 4 * config.generator_filters))(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.Conv2DTranspose(2 * config.generator_filters, 4, 2, "same", use_bias=False, **init)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(config.generator_filters, 4, 2, "same", use_bias=False, **init)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(config.channels, 5, 1, "same", activation="tanh", **init)(x)
    generator = keras.Model(latents, x, name="generator")

    def classifier(name: str) -> keras.Model:
        x = images = keras.Input((config.size, config.size, config.channels), name="images")
        x = layers.GaussianNoise(config.noise, seed=config.seed)(x)
        for level, filters in enumerate((config.base_filters, 2 * config.base_filters, 2 * config.base_filters)):
            x = layers.Conv2D(filters, 3, 2, "same", **init)(x)
            x = layers.LeakyReLU(negative_slope=0.2)(x)
        features = layers.Flatten(name="features")(x)
        x = layers.Dropout(config.dropout, seed=config.seed + 1)(features)
        return keras.Model(images, layers.Dense(config.outputs, **init)(x), name=name)

    learning, averaged = classifier("classifier"), classifier("averaged")
    averaged.set_weights(learning.get_weights())
    averaged.trainable = False
    return Networks(generator, learning, averaged)


# %% Losses


def class_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy of class numbers [n], in nats; log(outputs) when nothing is known."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def real_logits(logits: tf.Tensor) -> tf.Tensor:
    """Return log S [n]: S / (S + 1) = sigmoid(log S), as a discriminator's logit."""
    return tf.reduce_logsumexp(logits, axis=1)


def discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Real is 1 and generated is 0, from class logits [n, outputs]; 2 log 2 = 1.39 when they cannot be told apart."""
    return tf.reduce_mean(tf.nn.softplus(-real_logits(real))) + tf.reduce_mean(tf.nn.softplus(real_logits(fake)))


def generator_loss(fake: tf.Tensor) -> tf.Tensor:
    """Generated images should be called real; log 2 = 0.69 when the classifier cannot tell."""
    return tf.reduce_mean(tf.nn.softplus(-real_logits(fake)))


def matching_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Return the mean distance of the mean features [n, d] of real and of generated images; 0 when they match."""
    return tf.reduce_mean(tf.abs(tf.reduce_mean(real, axis=0) - tf.reduce_mean(fake, axis=0)))


# %% Training


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of unlabelled uint8 images, of labelled ones, and of the class numbers of these."""
    generator, classifier, averaged = networks
    seen = keras.Model(classifier.inputs, [classifier.get_layer("features").output, classifier.output])
    steps = config.epochs * data.steps_per_epoch
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    g_optimizer, c_optimizer = (keras.optimizers.Adam(rate, config.beta_1) for _ in range(2))
    g_optimizer.build(generator.trainable_variables)
    c_optimizer.build(classifier.trainable_variables)
    noise = keras.random.SeedGenerator(config.seed + 1)

    @tf.function
    def step(unlabelled: tf.Tensor, labelled: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        count, known = tf.shape(unlabelled)[0], tf.shape(labelled)[0]
        latents = keras.random.normal((count, config.latent_dim), seed=noise)
        with tf.GradientTape() as g_tape, tf.GradientTape() as c_tape:
            fake = generator(latents, training=True)
            images = tf.concat([from_uint8(labelled), from_uint8(unlabelled), fake], axis=0)
            features, logits = seen(images, training=True)  # one pass serves all losses
            class_logits, real, drawn = tf.split(logits, [known, count, count])
            _, real_features, drawn_features = tf.split(features, [known, count, count])
            classes = share(class_loss(labels, class_logits))
            discriminator = share(discriminator_loss(real, drawn))
            c_loss = classes + discriminator
            g_loss = matching_loss(real_features, drawn_features) if config.matching else generator_loss(drawn)
            g_loss = share(g_loss)
        g_gradients = g_tape.gradient(g_loss, generator.trainable_variables)
        c_gradients = c_tape.gradient(c_loss, classifier.trainable_variables)
        g_optimizer.apply(g_gradients, generator.trainable_variables)
        c_optimizer.apply(c_gradients, classifier.trainable_variables)
        for kept, new in zip(averaged.weights, classifier.weights, strict=True):
            if "seed_generator" not in kept.path:
                kept.assign(config.averaging * kept + (1 - config.averaging) * new)
        return {"classes": classes, "discriminator": discriminator, "generator": g_loss}
