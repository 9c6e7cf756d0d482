"""CycleGAN: translate images between two domains without paired training data.

Paper    Zhu, Park, Isola & Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
         ICCV 2017, arXiv:1703.10593.
Images   uint8 [height, width, 3] at the API boundary; float32 [batch, size, size, 3] in [-1, 1] in the networks.
Logits   float32 [batch, size/8 - 2, size/8 - 2, 1], one per 70 x 70 patch; higher means real.
Idea     Two generators translate from domain A to B and from B to A. One discriminator per domain distinguishes
         translations from real images. A translation to the other domain and back must reproduce the original.
Differs  1. Convolutions followed by normalisation have no bias, because it would have no effect. The 1 x 1 bottleneck
            of the U-Net is not normalised, because instance normalisation would set it to zero.
         2. The identity loss, which preserves colours, is on by default. The paper uses it for paintings (section 5.2).
         3. `upsampling="bilinear"` avoids the checkerboard artefacts of transposed convolutions (Odena et al. 2016,
            distill.pub/2016/deconv-checkerboard). The U-Net then blends a colour with its input by a mask (Pumarola et
            al. 2018, arXiv:1807.09251, equation 1). The demo uses this, and smaller cycle and identity weights.
         4. With `layer_norm`, the discriminators see colours (layer normalisation: arXiv:1704.00028, section 4).
Run      python -m recipes.cyclegan                                           the demo: synthetic seasons, offline
         python -m recipes.cyclegan train --data DIR --output-dir runs/mine   two folders of images; run again to resume
         python -m recipes.cyclegan train --data tfds:cycle_gan/summer2winter_yosemite --fetch --output-dir runs/park
         python -m recipes.cyclegan translate in.png out.png --direction b2a --run runs/mine   an image or a folder
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, save_translations, unpaired_images
from common.images import convert_images, from_uint8, to_uint8
from common.runs import Range, Run, run_command
from common.training import Noise, adam, fit

# %% Configuration
# The images of the two domains are not paired, so there are no targets. Three losses replace them. The adversarial loss
# makes translations look like images of the other domain. The cycle loss, weighted by `cycle_weight`, preserves the
# scene: a translation to the other domain and back must reproduce the original. The identity loss, weighted by
# `identity_weight`, preserves colours: a generator must leave images of its output domain unchanged. For generators
# that change nothing, the last two losses are 0, so large weights favour small changes. `patch_layers` sets the patch
# size of the discriminators (34 pixels in the demo). `pool_size` is the number of earlier translations that are kept to
# train each discriminator.


@dataclass(frozen=True, kw_only=True)
class Config:
    """The hyperparameters of the paper (section 4 and appendix). `DEMO` is a smaller version."""

    size: Annotated[int, Range(32, 4096, multiple_of=4)] = 256  # side of the images in pixels; U-Net: a power of two
    crop: bool = False  # use squares of `size` px at the scale of the files, not resized images; jitter only mirrors
    generator: Literal["resnet", "unet"] = "resnet"
    base_filters: Annotated[int, Range(1, 1024)] = 64  # filters of the outermost layers of all networks
    residual_blocks: Annotated[int, Range(0, 100)] = 9  # for the ResNet; the paper uses 6 for 128 px
    upsampling: Literal["transposed", "bilinear"] = "transposed"  # bilinear: resize instead of transposed convolutions
    levels: Annotated[int, Range(2, 9)] = 8  # for the U-Net: halve the size at most so many times
    layer_norm: bool = False  # in discriminators, instead of instance normalisation, which hides colours from them
    patch_layers: Annotated[int, Range(1, 5)] = 3  # 1, 2 or 3: discriminator patches of 16, 34 or 70 px
    loss: Literal["least_squares", "cross_entropy"] = "least_squares"
    cycle_weight: Annotated[float, Range(0, 1e9)] = 10.0
    identity_weight: Annotated[float, Range(0, 1e9)] = 5.0  # 0: colours may change freely
    pool_size: Annotated[int, Range(0, 10_000)] = 50  # earlier translations kept per discriminator; 0: none
    jitter: Annotated[float, Range(1, 4)] = 286 / 256  # enlarge by this factor, then crop and mirror at random
    batch_size: Annotated[int, Range(1, 65_536)] = 1  # images per domain
    learning_rate: Annotated[float, Range(0, 10)] = 2e-4
    decay_from: Annotated[float, Range(0, 1)] = 0.5  # fraction of the steps before the learning rate starts to decay
    beta_1: Annotated[float, Range(0, 0.999999)] = 0.5  # for Adam
    epochs: Annotated[int, Range(1, 1_000_000)] = 200
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        """Check all ranges. The size must be large enough for the discriminators to return at least one logit."""
        smallest = max(32, 3 * 2**self.patch_layers)
        Range.check(self, size=Range(smallest, 4096, multiple_of=4, power_of_two=self.generator == "unet"))


DEMO = Config(size=64, generator="unet", base_filters=16, upsampling="bilinear", levels=5, patch_layers=2, batch_size=2,
              layer_norm=True, cycle_weight=5, identity_weight=1, jitter=1, learning_rate=1e-3, epochs=9)  # fmt: skip
DEMO_RUN = Path("runs/cyclegan-demo")
Direction = Literal["a2b", "b2a"]

# %% Networks
# There are two generators and two discriminators. The paper's generator is a ResNet whose residual blocks work at a
# quarter of the image's resolution. The demo uses the smaller U-Net from Pix2Pix, which has a skip connection at each
# resolution. `levels` limits how often it halves the size of the image. With bilinear upsampling, it computes a colour
# for each pixel, and a mask that blends this colour with the input, so the sky can stay as it is. Both generators
# accept any image whose sides are multiples of the total stride.
#
# The discriminators are PatchGANs: they return one logit per patch, not one per image. A patch is enough to decide
# whether an image looks like winter. The cycle loss preserves the larger structure. Instance normalisation removes the
# mean of each channel, and thus much of the colour. Layer normalisation keeps the differences between channels.


class Networks(NamedTuple):
    """The four networks. The generators accept any image whose sides are multiples of the total stride."""

    generator_a2b: keras.Model  # images of A [batch, height, width, 3] in [-1, 1] -> translations to B, same shape
    generator_b2a: keras.Model
    discriminator_a: keras.Model  # images of A, or translations to A -> logits
    discriminator_b: keras.Model


def build(config: Config = Config(), a2b: keras.Model | None = None, b2a: keras.Model | None = None) -> Networks:
    """Return the four untrained networks. Each generator may be your own."""
    Run.check_networks((None, None, 3), (None, None, 3), a2b=a2b, b2a=b2a)
    seeds = keras.random.SeedGenerator(config.seed)  # a new seed for each layer, so that no two networks start alike
    init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02, seed=seeds), "use_bias": False}
    generator = unet if config.generator == "unet" else resnet
    return Networks(
        generator_a2b=a2b or generator(config, init, "generator_a2b"),
        generator_b2a=b2a or generator(config, init, "generator_b2a"),
        discriminator_a=patch_gan(config, init, "discriminator_a"),
        discriminator_b=patch_gan(config, init, "discriminator_b"),
    )


def normalise(x, groups: int = -1):
    """Apply instance normalisation (-1 groups, one per channel), or layer normalisation (1 group, of all channels)."""
    return keras.layers.GroupNormalization(groups, epsilon=1e-5)(x)  # of each image: mean 0 and variance 1


def resnet(config: Config, init: dict, name: str) -> keras.Model:
    """Return the paper's generator: c7s1-64, d128, d256, residual blocks, u128, u64, c7s1-3 (appendix 7.2)."""
    layers, width = keras.layers, config.base_filters

    def convolve(x, filters, margin, **options):  # reflection padding: zeros would cause artefacts at the border
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
        x = layers.ReLU()(normalise(upsample(x, width * factor, 3, config, init)))
    return keras.Model(inputs, convolve(x, 3, 3, activation="tanh", use_bias=True, dtype="float32"), name=name)


def unet(config: Config, init: dict, name: str) -> keras.Model:
    """Return the Pix2Pix U-Net, but without dropout. The bottleneck is 1 x 1, or larger with fewer levels."""
    layers, depth = keras.layers, min(config.size.bit_length() - 1, config.levels)
    widths = [config.base_filters * min(2**level, 8) for level in range(depth)]  # outermost layer first
    x = inputs = keras.Input((None, None, 3), name="input")
    skips = []
    for level, width in enumerate(widths):
        x = layers.Conv2D(width, 4, 2, "same", **init | {"use_bias": level in (0, depth - 1)})(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x if level in (0, depth - 1) else normalise(x))
        skips.append(x)
    for width, skip in zip(reversed(widths[:-1]), reversed(skips[:-1]), strict=True):
        x = normalise(upsample(x, width, 4, config, init))
        x = layers.ReLU()(layers.Concatenate()([x, skip]))
    output = {"padding": "same", "dtype": "float32", **init, "use_bias": True}
    if config.upsampling == "bilinear":
        x = layers.Add()([upsample(x, widths[0], 4, config, init), layers.Conv2D(widths[0], 3, **output)(inputs)])
        x = layers.Conv2D(4, 3, **output)(layers.ReLU()(x))
        colour, mask = keras.ops.tanh(x[..., :3]), keras.ops.sigmoid(x[..., 3:])
        x = mask * colour + (1 - mask) * inputs
    else:
        x = layers.Conv2DTranspose(3, 4, 2, activation="tanh", **output)(x)
    return keras.Model(inputs, x, name=name)


def upsample(x, filters: int, kernel_size: int, config: Config, init: dict):
    """Double the height and width, by a transposed convolution, or by a 3 x 3 convolution and interpolation."""
    if config.upsampling == "transposed":
        return keras.layers.Conv2DTranspose(filters, kernel_size, 2, "same", **init)(x)
    return keras.layers.UpSampling2D(interpolation="bilinear")(keras.layers.Conv2D(filters, 3, 1, "same", **init)(x))


def patch_gan(config: Config, init: dict, name: str) -> keras.Model:
    """Return a PatchGAN discriminator: C64-C128-C256-C512 (appendix 7.2)."""
    layers, halvings = keras.layers, config.patch_layers
    x = inputs = keras.Input((None, None, 3), name="input")
    for level in range(halvings + 1):
        width, stride = config.base_filters * min(2**level, 8), 2 if level < halvings else 1
        x = layers.Conv2D(width, 4, stride, **init | {"use_bias": not level})(layers.ZeroPadding2D(1)(x))
        x = layers.LeakyReLU(negative_slope=0.2)(normalise(x, 1 if config.layer_norm else -1) if level else x)
    x = layers.Conv2D(1, 4, dtype="float32", **init | {"use_bias": True})(layers.ZeroPadding2D(1)(x))
    return keras.Model(inputs, x, name=name)


# %% Image pool
# The discriminators also train on earlier translations (section 4). Otherwise the generators could repeat images that
# the discriminators have forgotten, and training would oscillate.


class ImagePool(NamedTuple):
    """Earlier translations that are used to train one discriminator. Checkpoints include these variables.

    See section 4 of the paper and Shrivastava et al. 2017 (arXiv:1612.07828, section 2.3).
    """

    images: tf.Variable  # float32 [pool_size, size, size, 3]
    count: tf.Variable  # number of images in the pool

    @classmethod
    def empty(cls, pool_size: int, size: int) -> ImagePool:
        """Return an empty pool for `pool_size` images. With several devices, each replica has a separate pool."""
        options = {
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,  # checkpoints store one pool
        }
        return cls(tf.Variable(tf.zeros((pool_size, size, size, 3)), **options), tf.Variable(0, **options))


def exchange(pool: ImagePool, images: tf.Tensor, noise: Noise) -> tf.Tensor:
    """Return images to train on, float32 [batch, size, size, 3], and store some of `images` in the pool.

    Until the pool is full, each image is stored and returned. After that, each image is returned with probability 1/2.
    Otherwise it replaces a random image in the pool, and the replaced image is returned.
    """
    pool_size = pool.images.shape[0]
    if not pool_size:
        return images
    kept, count = tf.identity(pool.images), tf.identity(pool.count)
    returned = tf.TensorArray(images.dtype, tf.shape(images)[0])
    for number in tf.range(tf.shape(images)[0]):
        image = images[number]
        is_full = count >= pool_size
        index = tf.where(is_full, noise.integers((1,), 0, pool_size)[0], count)
        swap = is_full & (noise.uniform((1,))[0] < 0.5)
        earlier = kept[index]
        returned = returned.write(number, tf.where(swap, earlier, image))
        kept = tf.tensor_scatter_nd_update(kept, [[index]], tf.where(is_full & ~swap, earlier, image)[None])
        count = tf.minimum(count + 1, pool_size)
    pool.images.assign(kept)
    pool.count.assign(count)
    return tf.ensure_shape(returned.stack(), images.shape)


# %% Losses
# The adversarial loss is the least squares loss (section 4). Its gradient, unlike that of the cross entropy, does not
# vanish for translations that the discriminator already classifies as real. The discriminator's target is 1 for real
# images and 0 for translations; a generator's target is 1. The cycle loss and the identity loss are L1 losses.


def adversarial_loss(target: float, logits: tf.Tensor, kind: str) -> tf.Tensor:
    """Return the mean least squares or cross entropy loss of `logits`. The target is 1 (real) or 0 (fake)."""
    if kind == "least_squares":
        return tf.reduce_mean((logits - target) ** 2)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))


def l1_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Return the mean absolute difference of pixels in [-1, 1] (equation 2)."""
    return tf.reduce_mean(tf.abs(target - output))


# The losses of a discriminator that cannot distinguish translations from real images. Its logits are 0.5 with least
# squares and 0 with cross entropy. Compare the training curves with these values:
# >>> undecided = tf.zeros([1, 14, 14, 1])
# >>> least_squares = adversarial_loss(1.0, undecided + 0.5, "least_squares")
# >>> float(least_squares), float(adversarial_loss(1.0, undecided, "cross_entropy"))


# %% Training
# Each step translates a batch from each domain to the other domain and back. For the identity loss, each generator also
# gets images of its output domain. The discriminators get real images, and translations that the image pools return.
# One Adam optimizer updates both generators, and another updates both discriminators.
#
# What is logged: `cycle` and `identity` (sums over both directions) fall fast, then slowly. With least squares,
# `discriminator_a` and `discriminator_b` are 0.25 if the discriminators cannot distinguish translations from real
# images. In a healthy run they stay between 0.1 and 0.25. Below 0.03, the discriminator dominates. `diversity_a2b` and
# `diversity_b2a` measure how much translations differ from each other, relative to real images. Values near 1 are
# healthy. Below 0.3, translations hardly differ. `frechet` compares up to 32 held-out translations per direction with
# real images, in features of a network for textures. It should fall; `--keep-best frechet` keeps the weights of the
# best epoch. For the built-in images, `l1_a2b` and `ssim_a2b` compare translations with their targets. No number
# measures how good an image looks, so check `samples/`.


class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The paper's schedule: a constant learning rate, then a linear decay to 0."""

    def __init__(self, learning_rate: float, steps: int, decay_from: float):
        """Start the decay after a fraction `decay_from` of `steps`, and reach 0 after `steps`."""
        self.learning_rate = learning_rate
        self.steps = steps
        self.decay_steps = max(steps * (1 - decay_from), 1.0)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the learning rate at `step`."""
        return self.learning_rate * tf.minimum(1.0, (self.steps - tf.cast(step, tf.float32)) / self.decay_steps)


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | tuple[np.ndarray, np.ndarray],
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train all four networks in place.

    Args:
        networks: the result of `build`.
        data: unpaired images (A, B), uint8 [batch, size, size, 3] each. With `Batches`, held-out translations are
            written to `samples/`, and their diversity is logged. A tuple of arrays (of equal length) or a
            `tf.data.Dataset` has no held-out examples. A dataset must be batched; it is not reshuffled, and a resumed
            run starts a new pass over it. With `Batches` or arrays, a run resumes exactly where it stopped.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and examples. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    generator_a2b, generator_b2a, discriminator_a, discriminator_b = networks
    g_variables = generator_a2b.trainable_variables + generator_b2a.trainable_variables
    d_variables = discriminator_a.trainable_variables + discriminator_b.trainable_variables
    learning_rate = LinearDecay(config.learning_rate, config.epochs * data.steps_per_epoch, config.decay_from)
    g_optimizer = adam(learning_rate, g_variables, config.beta_1)
    d_optimizer = adam(learning_rate, d_variables, config.beta_1)
    noise = Noise(config.seed + 1)
    pool_a, pool_b = (ImagePool.empty(config.pool_size, config.size) for _ in range(2))

    def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
        return adversarial_loss(1.0, fake_logits, config.loss)

    def discriminator_loss(discriminator: keras.Model, real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
        real_logits, fake_logits = tf.split(discriminator(tf.concat([real, fake], 0), training=True), 2)
        real_loss = adversarial_loss(1.0, real_logits, config.loss)
        fake_loss = adversarial_loss(0.0, fake_logits, config.loss)
        return 0.5 * (real_loss + fake_loss)  # halved, so the discriminators learn more slowly (appendix 7.1)

    @tf.function
    def step(batch_a: tf.Tensor, batch_b: tf.Tensor) -> dict[str, tf.Tensor]:
        a = from_uint8(batch_a)
        b = from_uint8(batch_b)
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            if config.identity_weight:  # translation and identity mapping in one call
                fake_b, same_b = tf.split(generator_a2b(tf.concat([a, b], 0), training=True), 2)
                fake_a, same_a = tf.split(generator_b2a(tf.concat([b, a], 0), training=True), 2)
            else:
                fake_b, same_b = generator_a2b(a, training=True), b
                fake_a, same_a = generator_b2a(b, training=True), a
            cycled_a = generator_b2a(fake_b, training=True)
            cycled_b = generator_a2b(fake_a, training=True)
            cycle = l1_loss(a, cycled_a) + l1_loss(b, cycled_b)  # equation 2
            identity = l1_loss(a, same_a) + l1_loss(b, same_b)  # section 5.2
            gan_a2b = generator_loss(discriminator_b(fake_b, training=True))  # equation 1
            gan_b2a = generator_loss(discriminator_a(fake_a, training=True))
            g_loss = gan_a2b + gan_b2a + config.cycle_weight * cycle + config.identity_weight * identity  # equation 3
            d_loss_a = discriminator_loss(discriminator_a, a, exchange(pool_a, tf.stop_gradient(fake_a), noise))
            d_loss_b = discriminator_loss(discriminator_b, b, exchange(pool_b, tf.stop_gradient(fake_b), noise))
            g_scaled = g_optimizer.scale_loss(g_loss)  # float16 gradients would underflow; `apply` unscales them
            d_scaled = d_optimizer.scale_loss(d_loss_a + d_loss_b)
        g_gradients = g_tape.gradient(g_scaled, g_variables)
        d_gradients = d_tape.gradient(d_scaled, d_variables)
        g_optimizer.apply(g_gradients, g_variables)
        d_optimizer.apply(d_gradients, d_variables)
        return {
            "cycle": cycle,
            "identity": identity,
            "generator_a2b": gan_a2b,
            "generator_b2a": gan_b2a,
            "discriminator_a": d_loss_a,
            "discriminator_b": d_loss_b,
        }

    def sample(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        path = None if output_dir is None else Path(output_dir, "samples", f"epoch-{epoch:04d}.png")
        a2b, b2a = (functools.partial(translate_batch, generator) for generator in networks[:2])
        return save_translations(data, a2b, b2a, path)

    dominates = "the discriminator dominates: the generator gets almost no gradient"
    collapse = "mode collapse: translations are nearly equal, or training has just begun"
    least = 0.1 if config.loss == "cross_entropy" else 0.03
    healthy = dict.fromkeys(["discriminator_a", "discriminator_b"], (least, np.inf, dominates))
    healthy |= dict.fromkeys(["diversity_a2b", "diversity_b2a"], (0.3, np.inf, collapse))
    state = networks._asdict() | {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer}
    state |= {"noise": noise, "pools": [pool_a, pool_b]}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[sample, on_epoch], healthy=healthy)


# %% Use
# The generators are fully convolutional, so they also accept image sizes that they were not trained on. Sides are
# padded by reflection to multiples of the total stride (at least 8), and the translation is cropped to the original
# size. Instance normalisation uses statistics of the entire image, so every output pixel depends on all input pixels.


def translate(generator: keras.Model, image: np.ndarray) -> np.ndarray:
    """Translate one uint8 [height, width, 3] image of any size; the result has the same shape and dtype."""
    height, width, _ = image.shape
    halvings = sum(getattr(x, "strides", 1) == (2, 2) and "Transpose" not in repr(x) for x in generator.layers)
    factor = 2 ** max(3, halvings)  # the reflection padding of the ResNet needs at least 8 pixels
    padded = np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), "symmetric")
    return to_uint8(generator(from_uint8(padded[None]), training=False))[0, :height, :width]


def translate_batch(generator: keras.Model, images: np.ndarray) -> np.ndarray:
    """Translate uint8 images [n, size, size, 3] of the training size: eight at a time, or fewer above 512 px."""
    count = max(1, min(8, 8 * 512**2 // images[0, ..., 0].size))
    batches = [from_uint8(images[start : start + count]) for start in range(0, len(images), count)]
    return np.concatenate([to_uint8(generator(batch, training=False)) for batch in batches])


# %% A whole run
# The built-in data are synthetic landscapes: 300 scenes in summer, and 300 different scenes in winter. Another 40
# scenes, each in both seasons, are held out. Training uses no pairs, but the scores can compare a translation with its
# ground truth, which is impossible with photos. The scores include three baselines: the unchanged image, the image with
# the mean colours of the other season, and the mean image of the other season. A good run has a clearly lower L1 error
# than the first two. `a_cycle_l1` and `b_cycle_l1` are the L1 errors of images translated to the other domain and back.
# >>> from common.samples.seasons import synthetic_seasons, unpaired_seasons
# >>> truth = synthetic_seasons(8, DEMO.seed, DEMO.size)
# >>> show(np.concatenate([*unpaired_seasons(8, DEMO.seed, DEMO.size), *truth]))


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/cyclegan"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, score held-out images, save the run in `output_dir`, and return a figure's path."""
    folder = Run(output_dir, "cyclegan", config, data, accept_data)
    domains = unpaired_images(data, config.size, "seasons", skip_bad, fetch, config.seed, crop=config.crop)
    networks = build(config)
    stream = domains.batches(config.batch_size, config.seed, size=config.size, jitter=config.jitter)
    folder.start(domains.names)
    train(networks, stream, config, output_dir)
    image = Path(output_dir, "translations.png")
    a2b = functools.partial(translate_batch, networks.generator_a2b)
    b2a = functools.partial(translate_batch, networks.generator_b2a)
    return folder.finish(networks, lambda: domains.evaluate(a2b, b2a, image), image)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to translate synthetic scenes from summer to winter and back; return the path of a figure with examples."""
    return run("sample", config, output_dir)


def translate_files(
    source: Path, destination: Path, direction: Direction = "a2b", run: Path = DEMO_RUN, skip_bad: bool = False
) -> Path:
    """Translate an image, or all images in a folder. `a2b` translates from the first domain in alphabetical order."""
    shape = (None, None, 3)
    generator = Run.load(run, "cyclegan", Config).network(f"generator_{direction}", shape, shape)
    return convert_images(source, destination, functools.partial(translate, generator), skip_bad=skip_bad)


# %% Try it
# Rows: held-out summer scenes, their translations to winter, the translations back to summer, and the real winter
# scenes. The summer scene can be recovered more accurately from a translated winter scene than from a real one, because
# the translation retains traces of it.
# >>> trained = Run.load(DEMO_RUN, "cyclegan", Config)
# >>> a2b, b2a = trained.network("generator_a2b"), trained.network("generator_b2a")
# >>> summers, winters = (images[:6] for images in truth)
# >>> as_winters = translate_batch(a2b, summers)
# >>> rows = np.concatenate([summers, as_winters, translate_batch(b2a, as_winters), winters])
# >>> show(rows.repeat(2, axis=1).repeat(2, axis=2), columns=6)
#
# The generators were trained on images of 64 x 64 pixels, but they also accept 256 x 160 pixels. Objects are then four
# times as large as in the training data. The ground still changes with the season, but small details change less. Top
# row: a summer scene and its translation. Bottom row: the same scene in winter and its translation.
# >>> summer, winter = (images[0, 40:200] for images in synthetic_seasons(1, 1, 256))
# >>> show(np.stack([summer, translate(a2b, summer), winter, translate(b2a, winter)]), columns=2)


if __name__ == "__main__":
    yosemite = Config(generator="unet", loss="cross_entropy", pool_size=0, decay_from=1.0, epochs=40)
    presets = {"paper": Config(), "yosemite": yosemite, "demo": DEMO}
    run_command(demo, presets=presets, train=run, translate=translate_files)
