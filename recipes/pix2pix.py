"""Pix2Pix: translate one kind of picture into another, learnt from pairs.

Paper    Isola, Zhu, Zhou & Efros, "Image-to-Image Translation with Conditional Adversarial Networks",
         CVPR 2017, arXiv:1611.07004.
Images   uint8 [height, width, 3] at the borders; float32 [batch, size, size, 3] in [-1, 1] in the networks.
Logits   float32 [batch, size/8 - 2, size/8 - 2, 1], one for every 70 x 70 pixels; positive means real.
Differs  1. Normalisation is by the statistics of each image, as the paper's is at its batch size of 1, but for any
            batch size, and there is none at the 1 x 1 bottleneck, where it would set everything to zero.
         2. Dropout is on in training only, so that the same picture always gives the same translation.
         3. Below 256 px the U-Net is as deep as halving down to 1 x 1 allows.
Run      python -m recipes.pix2pix                                         the demo: drawn streets, offline
         python -m recipes.pix2pix train --data DIR --output-dir runs/night   your own pairs; again: goes on
         python -m recipes.pix2pix translate in.png out.png --run runs/night  any size in, the same size out
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from common.batches import Batches, batches, jittered
from common.cli import run_command
from common.datasets import image_pairs
from common.errors import InputError
from common.execution import Execution, adam, in_precision, loss_scale
from common.images import colour_labels, from_uint8, pad_to_multiple, save_table, to_uint8
from common.lazy import keras, tf
from common.ranges import BatchSize, BelowOne, Epochs, Filters, Jitter, LearningRate, Range, Seed, Weight
from common.runs import check_run, convert_images, finish_run, load_network, read_run, start_run
from common.scores import pair_scores
from common.streets import street_pairs
from common.training import History, fit, share

# %% Configuration
# The settings of the paper, each with its unit or its reason. Two of them decide what is learnt. `l1_weight` pulls
# every pixel towards the true picture: alone, it gives the mean of all pictures that would fit, which is a blur.
# `gan_weight` asks that a patch of the translation cannot be told from a patch of a photo: alone, it gives crisp
# pictures of something else. The paper's 100 to 1 holds the forms by the first and fills them by the second.


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's settings (section 3.3 and appendix 6); `DEMO` is the same recipe made small."""

    size: Annotated[int, Range(32, 512)] = 256  # pixels, a power of two from 32 to 512
    base_filters: Filters = 64  # of the layers next to the image; doubles at each halving of the size, up to 8 times
    dropout: BelowOne = 0.5  # in the first three layers of the decoder
    jitter: Jitter = 286 / 256  # pairs are enlarged by this factor, then cropped back at random
    classes: Annotated[int, Range(0, 40)] = 0  # above 0: inputs are maps of class numbers 0 to classes - 1
    swap: bool = False  # learn from target to input
    l1_weight: Weight = 100.0
    gan_weight: Weight = 1.0  # 0 trains on L1 alone, without the discriminator
    batch_size: BatchSize = 1
    learning_rate: LearningRate = 2e-4
    beta_1: BelowOne = 0.5  # Adam
    epochs: Epochs = 200
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


DEMO = Config(size=64, base_filters=24, dropout=0.0, batch_size=4, learning_rate=1e-3, epochs=26)
DEMO_RUN = Path("runs/pix2pix-demo")

# %% Networks
# The generator is a U-Net. An encoder halves the picture until a single place is left, so that every pixel of the
# result can depend on every pixel of the input; a decoder doubles it again. What is at the same place in both, edges
# above all, would have to squeeze through the narrow middle, so each layer of the encoder is handed over to the layer
# of the same size in the decoder.
#
# The discriminator sees the input beside its translation, or beside the truth, and judges patches of 70 x 70 pixels,
# not the picture: what lies further apart is the business of L1. So it is small, and takes pictures of any size.


class Networks(NamedTuple):
    """Both networks; inputs of any size that halves often enough."""

    generator: keras.Model  # input [batch, height, width, 3] in [-1, 1] -> translation, alike
    discriminator: keras.Model  # (input, target or translation) -> logits


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return the U-Net and the 70 x 70 PatchGAN, untrained; ValueError for a size that is no power of two."""
    layers, size = keras.layers, config.size
    if size & (size - 1):
        raise InputError(f"size must be a power of two from 32 to 512, got {size}")
    seeds = keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02, seed=seeds), "use_bias": False}
    depth = min(size.bit_length() - 1, 8)
    widths = [config.base_filters * min(2**level, 8) for level in range(depth)]  # next to the image first

    def normalise(x):
        return layers.GroupNormalization(groups=-1, epsilon=1e-5)(x)  # -1: each channel of each image

    x = inputs = keras.Input((None, None, 3), name="input")
    skips = []
    for level, width in enumerate(widths):
        x = layers.Conv2D(width, 4, 2, "same", **init)(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x if level in (0, depth - 1) else normalise(x))
        skips.append(x)
    for level, width in enumerate(reversed(widths[:-1])):
        x = normalise(layers.Conv2DTranspose(width, 4, 2, "same", **init)(x))
        x = layers.Dropout(config.dropout, seed=config.seed + level)(x) if level < 3 else x
        x = layers.ReLU()(layers.Concatenate()([x, skips[depth - 2 - level]]))
    outputs = layers.Conv2DTranspose(3, 4, 2, "same", activation="tanh", dtype="float32", **init | {"use_bias": True})(
        x
    )
    generator = keras.Model(inputs, outputs, name="generator")

    pair = [keras.Input((None, None, 3), name=name) for name in ("input", "target")]
    x = layers.Concatenate()(pair)
    for level, width in enumerate([config.base_filters * factor for factor in (1, 2, 4, 8)]):
        stride = 2 if level < 3 else 1
        x = layers.Conv2D(width, 4, stride, "valid", **init)(layers.ZeroPadding2D(1)(x))
        x = layers.LeakyReLU(negative_slope=0.2)(normalise(x) if level else x)
    logits = layers.Conv2D(1, 4, 1, "valid", dtype="float32", **init | {"use_bias": True})(layers.ZeroPadding2D(1)(x))
    return Networks(generator, keras.Model(pair, logits, name="discriminator"))


# %% Losses
# Two networks learn against each other, each by its own loss, both cross entropies of the discriminator's logits. The
# generator's is turned round: it could maximise the discriminator's loss, but that is flat as long as the
# discriminator wins, and it is at the beginning that the generator needs a slope.


def cross_entropy(target: float, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy between sigmoid(logits) and one target for all."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Real is 1 and fake is 0; halved (section 3.3), so log 2 = 0.69 when the two cannot be told apart."""
    return 0.5 * (cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits))


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The non-saturating loss: translations should be called real; 0.69 when the two cannot be told apart."""
    return cross_entropy(1.0, fake_logits)


def l1_loss(target: tf.Tensor, translation: tf.Tensor) -> tf.Tensor:
    """Mean absolute difference, of pixels in [-1, 1]."""
    return tf.reduce_mean(tf.abs(target - translation))


# Logits of 0 say "half real, half false" of every patch. Both losses are then log 2, which is what to compare the
# curves below with:
# >>> undecided = tf.zeros([1, 6, 6, 1])
# >>> float(discriminator_loss(undecided, undecided)), float(generator_loss(undecided))


# %% Training
# One step makes a translation, lets the discriminator judge it and the truth, and takes both gradients before either
# network moves: the forward pass through the generator then serves both, so a step is 1.3 times as fast. Each network
# has an Adam of its own; a short memory (beta 1 of 0.5) suits losses whose target moves.
#
# What is logged: `l1` is 0.27 after the first epoch of the demo and 0.26 from the second on: pictures go on getting
# sharper while it stands still. `discriminator` and `generator`, 0.69 where nothing can be told apart, settle at 0.32
# and 2.1, which is healthy. A discriminator near 0 has won: it then teaches nothing, and more pairs or fewer
# `base_filters` are what helps. No loss says whether the picture is good: look at `samples/`.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 pairs (input, target); return each epoch's mean losses."""
    generator, discriminator = networks
    g_optimizer, d_optimizer = (
        adam(config.learning_rate, network.trainable_variables, config.execution, config.beta_1) for network in networks
    )

    @tf.function
    def step(inputs: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs, targets = from_uint8(inputs), from_uint8(targets)
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            translations = generator(inputs, training=True)
            real_logits = discriminator([inputs, targets], training=True)
            fake_logits = discriminator([inputs, translations], training=True)  # one pass serves both losses
            l1, gan = l1_loss(targets, translations), generator_loss(fake_logits)
            g_loss = share(config.gan_weight * gan + config.l1_weight * l1)
            d_loss = share(discriminator_loss(real_logits, fake_logits))
        g_gradients = g_tape.gradient(g_loss, generator.trainable_variables, loss_scale(g_optimizer))
        d_gradients = d_tape.gradient(d_loss, discriminator.trainable_variables, loss_scale(d_optimizer))
        g_optimizer.apply(g_gradients, generator.trainable_variables)
        d_optimizer.apply(d_gradients, discriminator.trainable_variables)
        return {"l1": share(l1), "generator": share(gan), "discriminator": d_loss}

    @tf.function
    def l1_step(inputs: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            l1 = l1_loss(from_uint8(targets), generator(from_uint8(inputs), training=True))
            loss = share(config.l1_weight * l1)
        gradients = tape.gradient(loss, generator.trainable_variables, loss_scale(g_optimizer))
        g_optimizer.apply(gradients, generator.trainable_variables)
        return {"l1": share(l1)}

    state = networks._asdict() | {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer}

    def sample(epoch: int) -> None:
        if output_dir is not None and data.held_out:
            inputs, targets = (images[:: max(1, len(images) // 8)][:8] for images in data.held_out)
            path = output_dir / "samples" / f"epoch-{epoch:04d}.png"
            save_pairs(path, inputs, targets, translate_batch(generator, inputs))

    chosen = step if config.gan_weight else l1_step
    return fit(chosen, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution)


# %% Use
# The U-Net is convolutional, so it takes any size whose sides halve often enough. Others are mirrored at the edges
# until they do, and the result is cut back.


def translate(generator: keras.Model, image: np.ndarray) -> np.ndarray:
    """Translate one uint8 [height, width, 3] image of any size; the result has the same shape and type."""
    halvings = sum(isinstance(layer, keras.layers.Conv2D) for layer in generator.layers)
    padded = pad_to_multiple(image, 2**halvings)[None]
    return to_uint8(generator(from_uint8(padded), training=False))[0, : image.shape[0], : image.shape[1]]


def translate_batch(generator: keras.Model, images: np.ndarray) -> np.ndarray:
    """Translate uint8 [n, height, width, 3] one by one, so that thousands need no more memory than one."""
    return np.stack([translate(generator, image) for image in images])


def evaluate(targets: np.ndarray, translations: np.ndarray, mean_image: np.ndarray) -> dict[str, float]:
    """Score uint8 translations: L1 in [0, 1], PSNR in dB, SSIM; beside them those of one image for all."""
    blind = pair_scores(targets, np.broadcast_to(mean_image, targets.shape))
    return pair_scores(targets, translations) | {f"mean_image_{name}": value for name, value in blind.items()}


def save_pairs(path: Path, inputs: np.ndarray, targets: np.ndarray, translations: np.ndarray) -> Path:
    """Write a picture of up to eight examples, evenly spaced, a column each."""
    chosen = np.unique(np.linspace(0, len(inputs) - 1, min(8, len(inputs))).astype(int))
    rows = {"input": inputs, "translation": translations, "target": targets}
    return save_table({name: images[chosen] for name, images in rows.items()}, path, max(1, 128 // inputs.shape[1]))


# %% A whole run
# The embedded data are streets that the project draws: a map of classes (road, building, tree, car, ...), and the
# photo that belongs to it. A tenth of the pairs is held out, to be scored and shown.


def sample_streets(config: Config = DEMO) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedded data: coloured maps and photos of streets on clear days, uint8 [n, size, size, 3] each."""
    labels, photos = street_pairs(440, config.size, config.seed, clear=True)  # a tenth is held out
    return colour_labels(labels), photos


# >>> labels, photos = street_pairs(16, DEMO.size, DEMO.seed, clear=True)
# >>> maps = colour_labels(labels)
# >>> show(np.concatenate([maps[:8], photos[:8]]))


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/pix2pix"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, score what was held out; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "pix2pix", config, data, accept_data)
    networks = build(config)
    sample = functools.partial(sample_streets, config)
    examples = image_pairs(data, config.size, sample, config.classes, config.swap, skip_bad, fetch)
    inputs, targets = held_out = examples.held_out()
    load = jittered(examples, config.size, config.jitter)
    stream = batches(examples.train, config.batch_size, config.seed, load, held_out)
    start_run(output_dir, "pix2pix", config, data)
    train(networks, stream, config, output_dir)
    translations = translate_batch(networks.generator, inputs)
    picture = save_pairs(output_dir / "translations.png", inputs, targets, translations)
    finish_run(output_dir, networks, lambda: evaluate(targets, translations, examples.mean_of_train()[1]))
    return picture


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to turn label maps of drawn streets into photos; return the picture of held-out ones."""
    return experiment("sample", config, output_dir)


def translate_file(source: Path, destination: Path, run: Path = DEMO_RUN, skip_bad: bool = False) -> Path:
    """Translate an image, or every image of a folder into a folder, with the generator of a run."""
    config = read_run(run, "pix2pix", Config)
    convert = functools.partial(translate, load_network(run, "generator", (None, None, 3), (None, None, 3)))
    return convert_images(source, destination, convert, 0 if config.swap else config.classes, skip_bad)


# %% Try it
# The generator translates whatever it is given, so labels can be changed. A street that training never had; the same
# with its cars taken away; and with every building made a tree. Below stands what becomes of each.
# >>> from common.streets import BUILDING, CAR, ROAD, TREE
# >>> generator = load_network(DEMO_RUN, "generator")
# >>> labels, _ = street_pairs(1, DEMO.size, DEMO.seed, first=455, clear=True)
# >>> emptied, grown = np.where(labels == CAR, ROAD, labels), np.where(labels == BUILDING, TREE, labels)
# >>> maps = colour_labels(np.concatenate([labels, emptied, grown]).astype(np.uint8))
# >>> show(np.concatenate([maps, translate_batch(generator, maps)]).repeat(3, axis=1).repeat(3, axis=2), columns=3)


if __name__ == "__main__":
    run_command(demo, presets={"paper": Config(), "demo": DEMO}, train=experiment, translate=translate_file)
