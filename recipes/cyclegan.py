"""CycleGAN: translate between two kinds of picture, learnt without pairs.

Paper    Zhu, Park, Isola & Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
         ICCV 2017, arXiv:1703.10593.
Images   uint8 [height, width, 3] at the borders; float32 [batch, size, size, 3] in [-1, 1] in the networks.
Logits   float32 [batch, size/8 - 2, size/8 - 2, 1], one for every 70 x 70 pixels; higher means real.
Idea     Two generators, from A to B and back. A discriminator for each kind says how real translations look; that the
         way there and back leads to the same picture keeps a translation to what its input shows.
Differs  1. No bias before a normalisation, which would take it away; no normalisation of the U-Net's 1 x 1 pixel.
         2. The identity terms, which the paper has for paintings (section 5.2), are on: they keep colours.
Run      python -m recipes.cyclegan                                           the demo: drawn seasons, offline
         python -m recipes.cyclegan train --data DIR --output-dir runs/mine   two folders of pictures; again: goes on
         python -m recipes.cyclegan train --data tfds:cycle_gan/summer2winter_yosemite --fetch --output-dir runs/park
         python -m recipes.cyclegan translate in.png out.png --direction b2a --run runs/mine   any size, or a folder
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, mapped
from common.cli import run_command
from common.domains import Domains, ImagePool, epoch_translations, judge_translations, unpaired_batches, unpaired_images
from common.errors import InputError
from common.execution import Execution, adam, in_precision, loss_scale
from common.health import COPIES, ONE_SIDED
from common.images import from_uint8, pad_to_multiple, to_uint8
from common.lazy import keras, tf
from common.ranges import BatchSize, BelowOne, Epochs, Filters, Jitter, LearningRate, Range, Seed, Share, Weight
from common.runs import check_run, convert_images, finish_run, load_network, read_run, start_run
from common.seasons import drawn_seasons, unpaired_seasons
from common.training import History, fit, share

# %% Configuration
# There are pictures of two kinds and no pairs, so nothing says what a certain summer looks like in winter. Three
# forces take the truth's place. The discriminators ask that a translation look like some picture of the other kind.
# `cycle_weight` asks that the way there and back lead to the same picture, which keeps a translation to its scene.
# `identity_weight` asks that a picture that is of the right kind already stay as it is, which keeps colours. A
# generator that changes nothing satisfies the last two entirely, so the higher they are, the less is changed.
# `patch_layers` says how large a patch the discriminators judge, 34 pixels in the demo; `pool` lets them learn from
# earlier translations too.


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's settings (section 4 and appendix); `DEMO` is the same recipe made small."""

    size: Annotated[int, Range(32, 512)] = 256  # pixels, a multiple of 4 from 32 to 512; for the U-Net a power of two
    generator: Literal["resnet", "unet"] = "resnet"
    base_filters: Filters = 64  # of the layers next to the image, in all networks
    residual_blocks: Annotated[int, Range(0, 100)] = 9  # of the ResNet; the paper has 6 for 128 px
    patch_layers: Annotated[int, Range(1, 5)] = 3  # of the discriminators: 3 judge 70 pixels at once, 2 34, 1 16
    loss: Literal["least_squares", "cross_entropy"] = "least_squares"
    cycle_weight: Weight = 10.0
    identity_weight: Weight = 5.0  # 0: colours may change as they like
    pool: Annotated[int, Range(0, 10_000)] = 50  # earlier translations that the discriminators see again; 0: none
    jitter: Jitter = 286 / 256  # pictures are enlarged by this factor, then cropped back and mirrored at random
    batch_size: BatchSize = 1
    learning_rate: LearningRate = 2e-4
    decay_from: Share = 0.5  # share of the steps after which the rate falls, linearly, to 0
    beta_1: BelowOne = 0.5  # Adam
    epochs: Epochs = 200
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


DEMO = Config(size=64, generator="unet", base_filters=16, patch_layers=2, batch_size=4, learning_rate=1e-3, epochs=20)
DEMO_RUN = Path("runs/cyclegan-demo")
Direction = Literal["a2b", "b2a"]

# %% Networks
# Four networks: a generator each way, and a discriminator for each kind. A generator is the paper's ResNet, which
# works on the picture at a quarter of its size and never smaller, or, in the demo, the U-Net of Pix2Pix, which goes
# down to a single place and hands every size over to its counterpart on the way up. All take pictures of any size in
# [-1, 1].
#
# A discriminator gives one logit a patch, not one a picture: whether a place looks like winter can be said without
# the rest, and that the scene as a whole stays the same is the cycle's business.


class Networks(NamedTuple):
    """All four networks; generators take inputs of any size that halves often enough."""

    generator_a2b: keras.Model  # pictures of A [batch, height, width, 3] in [-1, 1] -> translations to B, alike
    generator_b2a: keras.Model
    discriminator_a: keras.Model  # pictures of A, or translations to it -> logits
    discriminator_b: keras.Model


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return the four networks, untrained; ValueError for a size that does not halve often enough."""
    size, is_unet, least = config.size, config.generator == "unet", max(32, 3 * 2**config.patch_layers)
    if not least <= size <= 512 or size % 4 or (is_unet and size & (size - 1)):
        raise InputError(f"size must be a multiple of 4 from {least} to 512, for the U-Net a power of 2, got {size}")
    seeds = keras.random.SeedGenerator(config.seed)  # one for all, or the generators would begin as equals
    init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02, seed=seeds), "use_bias": False}
    generator = functools.partial(unet if is_unet else resnet, config, init)
    generators = [generator(f"generator_{way}") for way in ("a2b", "b2a")]
    return Networks(*generators, *(patch_gan(config, init, f"discriminator_{kind}") for kind in "ab"))


def normalise(x):
    """Subtract the mean of each channel of each image and divide by its deviation."""
    return keras.layers.GroupNormalization(groups=-1, epsilon=1e-5)(x)  # -1: every channel is a group of its own


def resnet(config: Config, init: dict, name: str) -> keras.Model:
    """Return the paper's generator: c7s1-64, d128, d256, residual blocks, u128, u64, c7s1-3 (appendix 7.2)."""
    layers, width = keras.layers, config.base_filters

    def convolve(x, filters, margin, **options):  # mirrored beyond the edges, where zeros would leave a frame
        x = keras.ops.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
        return layers.Conv2D(filters, 2 * margin + 1, **init | options)(x)

    inputs = keras.Input((None, None, 3), name="input")
    x = layers.ReLU()(normalise(convolve(inputs, width, 3)))
    for factor in (2, 4):
        x = layers.ReLU()(normalise(layers.Conv2D(width * factor, 3, 2, "same", **init)(x)))
    for _ in range(config.residual_blocks):
        y = layers.ReLU()(normalise(convolve(x, width * 4, 1)))
        x = layers.Add()([x, normalise(convolve(y, width * 4, 1))])
    for factor in (2, 1):
        x = layers.ReLU()(normalise(layers.Conv2DTranspose(width * factor, 3, 2, "same", **init)(x)))
    return keras.Model(inputs, convolve(x, 3, 3, activation="tanh", use_bias=True, dtype="float32"), name=name)


def unet(config: Config, init: dict, name: str) -> keras.Model:
    """Return the generator of Pix2Pix without its dropout: down to 1 x 1 pixel (2 x 2 of 512) and back, with skips."""
    layers, depth = keras.layers, min(config.size.bit_length() - 1, 8)
    widths = [config.base_filters * min(2**level, 8) for level in range(depth)]  # next to the image first
    x = inputs = keras.Input((None, None, 3), name="input")
    skips = []
    for level, width in enumerate(widths):
        x = layers.Conv2D(width, 4, 2, "same", **init)(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x if level in (0, depth - 1) else normalise(x))
        skips.append(x)
    for width, skip in zip(reversed(widths[:-1]), reversed(skips[:-1]), strict=True):
        x = normalise(layers.Conv2DTranspose(width, 4, 2, "same", **init)(x))
        x = layers.ReLU()(layers.Concatenate()([x, skip]))
    x = layers.Conv2DTranspose(3, 4, 2, "same", activation="tanh", dtype="float32", **init | {"use_bias": True})(x)
    return keras.Model(inputs, x, name=name)


def patch_gan(config: Config, init: dict, name: str) -> keras.Model:
    """Return a discriminator whose logits each see one patch: C64-C128-C256-C512 (appendix 7.2)."""
    layers, halvings = keras.layers, config.patch_layers
    x = inputs = keras.Input((None, None, 3), name="input")
    for level in range(halvings + 1):
        width, stride = config.base_filters * min(2**level, 8), 2 if level < halvings else 1
        x = layers.Conv2D(width, 4, stride, **init)(layers.ZeroPadding2D(1)(x))
        x = layers.LeakyReLU(negative_slope=0.2)(normalise(x) if level else x)
    x = layers.Conv2D(1, 4, dtype="float32", **init | {"use_bias": True})(layers.ZeroPadding2D(1)(x))
    return keras.Model(inputs, x, name=name)


# %% Losses
# The discriminators learn by least squares instead of cross entropy: logits should be 1 for real pictures and 0 for
# translations. A generator wants its translations at 1. Squares go on pulling at a picture that is far on the right
# side already, where cross entropy lets go. Cycle and identity are mean absolute differences of pixels in [-1, 1],
# twice what they would be on the scale [0, 1].


def adversarial_loss(target: float, logits: tf.Tensor, kind: str) -> tf.Tensor:
    """Return how far logits are from 1, real, or 0; 0.25 or, for cross entropy, 0.69 where nobody can tell."""
    if kind == "least_squares":
        return tf.reduce_mean((logits - target) ** 2)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))


def l1_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Mean absolute difference of pixels in [-1, 1]: cycle and identity terms; 0.1 is a likeness."""
    return tf.reduce_mean(tf.abs(target - output))


# What to compare the curves below with: logits halfway, for least squares, and logits of 0, for cross entropy. A
# discriminator's loss is the mean of such a term for real pictures and one for translations.
# >>> nobody = tf.zeros([1, 14, 14, 1])
# >>> float(adversarial_loss(1.0, nobody + 0.5, "least_squares")), float(adversarial_loss(1.0, nobody, "cross_entropy"))


# %% Training
# One step translates a batch of each kind there and back, and those of the right kind onto themselves. The
# discriminators see a translation or, half of the time, an earlier one from the pool, so that a generator cannot
# return to what they have forgotten.
#
# What is logged: `cycle` and `identity`, sums of both ways, fall fast, then slowly: in the demo from 0.31 and 0.28 to
# 0.093 and 0.070. `discriminator_a` and `_b` are 0.25 where nobody can tell; they end at 0.21 and 0.19, and
# `generator_a2b` and `_b2a` at 0.36 and 0.32, so neither side has won; at 0.03 a discriminator would have. The
# `diversity` of translations, beside that of real pictures, is 1.0 towards winter and 0.76 towards summer; below 0.3
# all inputs would get much the same answer. A `cycle` that falls while nothing is translated means nothing: look at
# `samples/`.


def falling_adam(variables: list[keras.Variable], steps: int, config: Config) -> keras.optimizers.Optimizer:
    """Return an optimizer whose rate is even at first, then falls linearly, to 0 after `steps`."""
    falling = max(steps * (1 - config.decay_from), 1.0)

    def rate() -> tf.Tensor:
        return config.learning_rate * tf.minimum(1.0, (steps - tf.cast(made.iterations, tf.float32)) / falling)

    made = adam(rate, variables, config.execution, config.beta_1)
    return made


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 (pictures of A, as many of B), not pairs; return each epoch's mean losses."""
    a2b, b2a, judge_a, judge_b = networks
    g_variables = a2b.trainable_variables + b2a.trainable_variables
    d_variables = judge_a.trainable_variables + judge_b.trainable_variables

    steps = config.epochs * data.steps_per_epoch
    g_optimizer, d_optimizer = (falling_adam(each, steps, config) for each in (g_variables, d_variables))
    seeds = keras.random.SeedGenerator(config.seed + 1)
    pools = [ImagePool.empty(config.pool, config.size) for _ in "ab"]

    def judged(judge, real, fake, pool):  # real is 1, fake is 0; halved, so that it learns at half the pace
        earlier = pool.exchange(tf.stop_gradient(fake), seeds)
        on_real, on_fake = tf.split(judge(tf.concat([real, earlier], 0), training=True), 2)
        return share(0.5 * (adversarial_loss(1.0, on_real, config.loss) + adversarial_loss(0.0, on_fake, config.loss)))

    @tf.function
    def step(batch_a: tf.Tensor, batch_b: tf.Tensor) -> dict[str, tf.Tensor]:
        a, b = from_uint8(batch_a), from_uint8(batch_b)
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            if config.identity_weight:  # a picture that is of the kind already should stay as it is
                fake_b, same_b = tf.split(a2b(tf.concat([a, b], 0), training=True), 2)
                fake_a, same_a = tf.split(b2a(tf.concat([b, a], 0), training=True), 2)
            else:
                fake_b, same_b, fake_a, same_a = a2b(a, training=True), b, b2a(b, training=True), a
            cycle = share(l1_loss(a, b2a(fake_b, training=True)) + l1_loss(b, a2b(fake_a, training=True)))
            identity = share(l1_loss(a, same_a) + l1_loss(b, same_b))
            gan_a2b = share(adversarial_loss(1.0, judge_b(fake_b, training=True), config.loss))
            gan_b2a = share(adversarial_loss(1.0, judge_a(fake_a, training=True), config.loss))
            g_loss = gan_a2b + gan_b2a + config.cycle_weight * cycle + config.identity_weight * identity
            d_a, d_b = judged(judge_a, a, fake_a, pools[0]), judged(judge_b, b, fake_b, pools[1])
            d_loss = d_a + d_b
        g_gradients = g_tape.gradient(g_loss, g_variables, loss_scale(g_optimizer))
        d_gradients = d_tape.gradient(d_loss, d_variables, loss_scale(d_optimizer))
        g_optimizer.apply(g_gradients, g_variables)
        d_optimizer.apply(d_gradients, d_variables)
        losses = {"cycle": cycle, "identity": identity, "generator_a2b": gan_a2b, "generator_b2a": gan_b2a}
        return losses | {"discriminator_a": d_a, "discriminator_b": d_b}

    there, back = (functools.partial(translate_batch, generator) for generator in (a2b, b2a))
    sample = functools.partial(epoch_translations, data.held_out, there, back, output_dir)
    lost = ONE_SIDED if config.loss == "cross_entropy" else ONE_SIDED._replace(least=0.03)  # of 0.25
    healthy = {"discriminator_a": lost, "discriminator_b": lost, "diversity_a2b": COPIES, "diversity_b2a": COPIES}
    state = dict(networks._asdict(), g_optimizer=g_optimizer, d_optimizer=d_optimizer, seeds=seeds, pools=pools)
    return fit(
        step, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution, healthy=healthy
    )


# %% Use
# Every layer of a generator works at any size, so pictures need not be of the size that was learnt. Sides that do not
# halve often enough are mirrored at the edge until they do, and the result is cut back. Normalisation is by the
# statistics of the whole picture, so every place of it has a say in every other.


def translate(generator: keras.Model, image: np.ndarray) -> np.ndarray:
    """Translate one uint8 [height, width, 3] image of any size; the result has the same shape and type."""
    halvings = sum(isinstance(layer, keras.layers.Conv2D) and layer.strides == (2, 2) for layer in generator.layers)
    padded = pad_to_multiple(image, 2 ** max(3, halvings))[None]  # less than 8 pixels cannot be mirrored
    return to_uint8(generator(from_uint8(padded), training=False))[0, : image.shape[0], : image.shape[1]]


def translate_batch(generator: keras.Model, images: np.ndarray) -> np.ndarray:
    """Translate uint8 [n, size, size, 3], of the size that was learnt, a few at a time."""
    return to_uint8(mapped(generator, from_uint8(images), 8))


# %% A whole run
# The embedded data are landscapes that the project draws: 300 in summer, and 300 others in winter. Held out are 40
# scenes that were drawn in both seasons. So here, unlike with photos, there is a truth, which training never sees,
# and the demo is as near to it as a mean difference (L1, on the scale [0, 1]) of 0.055 towards winter and 0.069
# towards summer, with a structural similarity of 0.65 and 0.58. Beside it stand answers that need no network: the
# unchanged picture (0.186), the picture with the other season's colours on average (0.128 and 0.157), and one mean
# picture for all (0.097 and 0.102), which is near in colour and shows nothing. `a_cycle_l1` and `b_cycle_l1`, 0.031
# and 0.025, are how well a picture comes back.


def sample_seasons(config: Config = DEMO) -> Domains:
    """Return the embedded data: summer and winter, of other scenes but for 40 held out, which show the same."""
    apart, truth = unpaired_seasons(300, config.seed, config.size), drawn_seasons(40, config.seed, config.size)
    return Domains.of_arrays(apart, truth, ("summer", "winter"))


# Summers and winters to learn from, which show different places; below them held-out places, in both seasons.
# >>> truth = drawn_seasons(8, DEMO.seed, DEMO.size)
# >>> show(np.concatenate([*unpaired_seasons(8, DEMO.seed, DEMO.size), *truth]))


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/cyclegan"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, score what was held out; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "cyclegan", config, data, accept_data)
    networks = build(config)
    domains = unpaired_images(data, config.size, functools.partial(sample_seasons, config), skip_bad, fetch)
    stream = unpaired_batches(domains, config.batch_size, config.seed, config.size, config.jitter)
    start_run(output_dir, "cyclegan", config, data, domains.names)
    train(networks, stream, config, output_dir)
    a2b, b2a = (functools.partial(translate_batch, generator) for generator in networks[:2])
    finish_run(output_dir, networks, lambda: judge_translations(domains, a2b, b2a, output_dir / "translations.png"))
    return output_dir / "translations.png"


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to turn drawn summers into winters and back; return the picture of held-out ones beside the truth."""
    return experiment("sample", config, output_dir)


def translate_file(
    source: Path, destination: Path, direction: Direction = "a2b", run: Path = DEMO_RUN, skip_bad: bool = False
) -> Path:
    """Translate an image, or every image of a folder into a folder: a2b as from A, by name the first, b2a back."""
    read_run(run, "cyclegan", Config)
    image = (None, None, 3)
    convert = functools.partial(translate, load_network(run, f"generator_{direction}", image, image))
    return convert_images(source, destination, convert, skip_bad=skip_bad)


# %% Try it
# Six held-out summers; as winters; from there back to summer; and, last, the true winters. The way back from its own
# winter is nearer to the truth (0.032) than the way from a true one (0.069): a translated winter keeps some of the
# summer that a true one has lost.
# >>> there, back = (load_network(DEMO_RUN, f"generator_{way}") for way in ("a2b", "b2a"))
# >>> summers, winters = (images[:6] for images in truth)
# >>> as_winters = translate_batch(there, summers)
# >>> rows = np.concatenate([summers, as_winters, translate_batch(back, as_winters), winters])
# >>> show(rows.repeat(2, axis=1).repeat(2, axis=2), columns=6)
#
# A picture of another size, 256 x 160 pixels where 64 x 64 were learnt: the summer and its translation, the true
# winter and the way back from that. Things are four times as large as in the pictures that were learnt from; the
# ground changes its season all the same, details less so.
# >>> summer, winter = (images[0, 40:200] for images in drawn_seasons(1, 1, 256))
# >>> show(np.stack([summer, translate(there, summer), winter, translate(back, winter)]), columns=2)


if __name__ == "__main__":
    run_command(demo, presets={"paper": Config(), "demo": DEMO}, train=experiment, translate=translate_file)
