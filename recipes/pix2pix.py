"""Pix2Pix: translate one kind of image into another, trained on pairs.

Paper    Isola, Zhu, Zhou & Efros, "Image-to-Image Translation with Conditional Adversarial Networks",
         CVPR 2017, arXiv:1611.07004.
Images   uint8 [height, width, 3] at the API boundary; float32 [batch, size, size, 3] in [-1, 1] in the networks.
Logits   float32 [batch, size/8 - 2, size/8 - 2, 1], one per 70 x 70 patch; positive means real.
Differs  1. Instance normalisation is used at any batch size. At the paper's batch size of 1, it equals batch
            normalisation. The innermost layer is not normalised, because normalisation would set a 1 x 1 map to 0.
         2. Dropout is active only in training, so translations are deterministic.
         3. Below 256 px, the U-Net has fewer layers: it halves the size until it is odd: 64 to 1, 96 to 3.
         4. `upsampling="bilinear"` avoids the checkerboard artefacts of transposed convolutions (Odena et al. 2016,
            distill.pub/2016/deconv-checkerboard). The U-Net then blends its colours with the input by a mask, which it
            also computes (Pumarola et al. 2018, arXiv:1807.09251, equation 1). The demo uses this, patches of 34 px
            (`patch_layers`), a GAN weight of 0.1, and `decay`.
Run      python -m recipes.pix2pix                                         the demo: sketches to portraits, offline
         python -m recipes.pix2pix train --data streets --preset streets --output-dir runs/streets   labels to photos
         python -m recipes.pix2pix train --data DIR --output-dir runs/mine   your own pairs; run again to resume
         python -m recipes.pix2pix translate in.png out.png --run runs/mine  an image of any size
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, image_pairs
from common.images import convert_images, from_uint8, save_image, to_uint8
from common.metrics import pair_scores
from common.runs import Range, Run, run_command
from common.training import adam, fit

# %% Configuration
# The defaults are those in the paper. Two hyperparameters determine what the generator learns. `l1_weight` weights the
# L1 loss, which pulls every pixel towards the target. On its own, this loss gives the mean of all plausible targets,
# which is blurred. `gan_weight` weights the adversarial loss, which makes each patch look like a patch of a real photo.
# On its own, this loss gives sharp images that ignore the target. With the paper's ratio of 100 to 1, the L1 loss
# determines the layout, and the adversarial loss adds texture.
#
# `upsampling` sets how the decoder doubles the size of a feature map. The outputs of transposed convolutions, as in the
# paper, can show a grid. Bilinear interpolation avoids it.


@dataclass(frozen=True, kw_only=True)
class Config:
    """The hyperparameters of the paper (section 3.3 and appendix 6). `DEMO` is a smaller version."""

    size: Annotated[int, Range(32, 4096, multiple_of=32)] = 256  # side of the images in pixels
    crop: bool = False  # use squares of `size` px at the scale of the files, not resized images; jitter only mirrors
    base_filters: Annotated[int, Range(1, 1024)] = 64  # filters of the outer layers; up to 8 times that in inner layers
    upsampling: Literal["transposed", "bilinear"] = "transposed"  # bilinear: resize instead of transposed convolutions
    patch_layers: Annotated[int, Range(1, 5)] = 3  # 1, 2 or 3: discriminator patches of 16, 34 or 70 px
    dropout: Annotated[float, Range(0, 0.999999)] = 0.5  # dropout rate of the decoder's first three layers
    jitter: Annotated[float, Range(1, 4)] = 286 / 256  # enlarge by this factor, then crop and mirror at random
    classes: Annotated[int, Range(0, 40)] = 0  # above 0: inputs are label maps with values from 0 to classes - 1
    swap: bool = False  # translate from target to input
    l1_weight: Annotated[float, Range(0, 1e9)] = 100.0
    gan_weight: Annotated[float, Range(0, 1e9)] = 1.0  # 0: train with L1 alone, without the discriminator
    batch_size: Annotated[int, Range(1, 65_536)] = 1
    learning_rate: Annotated[float, Range(0, 10)] = 2e-4  # learning rate of both Adam optimizers
    decay: bool = False  # reduce the learning rate to 0 along half a cosine
    beta_1: Annotated[float, Range(0, 0.999999)] = 0.5  # beta_1 of both Adam optimizers
    epochs: Annotated[int, Range(1, 1_000_000)] = 200
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)


SMALL = Config(upsampling="bilinear", dropout=0.0, batch_size=4, learning_rate=1e-3, decay=True)
DEMO = replace(SMALL, size=128, base_filters=16, patch_layers=2, jitter=1.0, gan_weight=0.1, epochs=5)
STREETS = replace(SMALL, size=64, base_filters=24, epochs=26)  # for `--data streets`
DEMO_RUN = Path("runs/pix2pix-demo")

# %% Networks
# The generator is a U-Net. The encoder downsamples the image to 1 x 1, so each output pixel can depend on every input
# pixel. The decoder upsamples it to the original size. Each encoder layer has a skip connection to the decoder layer of
# the same size. Without skip connections, fine detail such as edges would have to pass through the bottleneck. With
# bilinear upsampling, the input image has a skip connection, too: for each pixel, the last layer computes a colour, and
# a mask that blends this colour with the input.
#
# The discriminator is a PatchGAN. It receives the input image together with either the target or the translation, and
# classifies each 70 x 70 patch (34 x 34 in the demo) as real or fake. Only the L1 loss controls structure larger than a
# patch. Because the discriminator is convolutional, it is small and accepts images of any size.


class Networks(NamedTuple):
    """The generator and the discriminator. Image sides must be multiples of the generator's downsampling factor."""

    generator: keras.Model  # input [batch, height, width, 3] in [-1, 1] -> translation, same shape and range
    discriminator: keras.Model  # [input, target or translation] -> logits


def build(config: Config = Config(), generator: keras.Model | None = None) -> Networks:
    """Return the untrained U-Net, or your own `generator`, and the untrained 70 x 70 PatchGAN."""
    Run.check_networks((None, None, 3), (None, None, 3), generator=generator)
    layers = keras.layers
    seeds = keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02, seed=seeds), "use_bias": False}
    depth = min((config.size & -config.size).bit_length() - 1, 8)  # halve the size as often as possible
    widths = [config.base_filters * min(2**level, 8) for level in range(depth)]  # outermost layer first

    def normalise(x):
        return layers.GroupNormalization(groups=-1, epsilon=1e-5)(x)  # groups=-1: instance normalisation

    def upsample(x, filters, **options):
        if config.upsampling == "transposed":
            return layers.Conv2DTranspose(filters, 4, 2, "same", **init | options)(x)
        return layers.UpSampling2D(interpolation="bilinear")(layers.Conv2D(filters, 3, 1, "same", **init | options)(x))

    x = inputs = keras.Input((None, None, 3), name="input")
    skips = []
    for level, width in enumerate(widths):
        x = layers.Conv2D(width, 4, 2, "same", **init)(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x if level in (0, depth - 1) else normalise(x))
        skips.append(x)
    for level, width in enumerate(reversed(widths[:-1])):
        x = normalise(upsample(x, width))
        x = layers.Dropout(config.dropout, seed=config.seed + level)(x) if level < 3 else x
        x = layers.ReLU()(layers.Concatenate()([x, skips[depth - 2 - level]]))
    output = {"dtype": "float32", "use_bias": True}
    if config.upsampling == "transposed":
        outputs = upsample(x, 3, activation="tanh", **output)
    else:
        detail = layers.Conv2D(config.base_filters, 3, 1, "same", **init)(inputs)
        x = layers.ReLU()(layers.Add()([upsample(x, config.base_filters, use_bias=True), detail]))
        x = layers.Conv2D(config.base_filters, 3, 1, "same", activation="relu", **init | {"use_bias": True})(x)
        x = layers.Conv2D(4, 3, 1, "same", **init | output)(x)
        colour, mask = keras.ops.tanh(x[..., :3]), keras.ops.sigmoid(x[..., 3:])
        outputs = mask * colour + (1 - mask) * inputs
    generator = generator or keras.Model(inputs, outputs, name="generator")

    pair = [keras.Input((None, None, 3), name=name) for name in ("input", "target")]
    x = layers.Concatenate()(pair)
    for level in range(config.patch_layers + 1):
        width, stride = config.base_filters * min(2**level, 8), 2 if level < config.patch_layers else 1
        x = layers.Conv2D(width, 4, stride, "valid", **init)(layers.ZeroPadding2D(1)(x))
        x = layers.LeakyReLU(negative_slope=0.2)(normalise(x) if level else x)
    logits = layers.Conv2D(1, 4, **init | output)(layers.ZeroPadding2D(1)(x))
    return Networks(generator, keras.Model(pair, logits, name="discriminator"))


# %% Losses
# The two networks have opposite goals. Both losses are cross entropies of the discriminator's logits. The generator
# uses the non-saturating loss: it maximises the probability that its translations are classified as real. Minimising
# the probability that they are classified as fake would give almost no gradient at the start of training, when the
# discriminator easily separates real from fake.


def cross_entropy(target: float, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy between sigmoid(logits) and `target`."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of the real and fake cross entropies (section 3.3). It is log 2 = 0.69 for logits of 0."""
    return 0.5 * (cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits))


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """Return the non-saturating loss (section 3.3). It is log 2 = 0.69 for logits of 0."""
    return cross_entropy(1.0, fake_logits)


def l1_loss(target: tf.Tensor, translation: tf.Tensor) -> tf.Tensor:
    """Return the mean absolute difference of pixels in [-1, 1] (equation 3)."""
    return tf.reduce_mean(tf.abs(target - translation))


# A logit of 0 means that real and fake are equally probable. Both losses are then log 2, as at the start of training:
# >>> undecided = tf.zeros([1, 6, 6, 1])
# >>> float(discriminator_loss(undecided, undecided)), float(generator_loss(undecided))


# %% Training
# Each step runs the generator once and the discriminator twice: on the target and on the translation. The gradients of
# both networks are computed before either is updated, so both losses share one forward pass of the generator. Each
# network has its own Adam optimizer.
#
# What is logged: `l1` (for pixels in [-1, 1]) falls in the first epochs and then stays almost constant, while the
# images keep getting sharper. `discriminator` and `generator` start near 0.69. In a healthy run, `discriminator`
# settles between 0.2 and 0.6 and `generator` between 1 and 3. If `discriminator` goes to 0, the discriminator dominates
# and the generator stops learning: use more pairs, or fewer `base_filters`. In the demo, `gan_weight` is small:
# `discriminator` falls below 0.1, and `l1` keeps falling. `validation_l1` (for pixels in [0, 1]) and `validation_ssim`
# compare the translations of up to 32 held-out pairs with their targets. If `validation_l1` rises while `l1` falls, the
# generator memorises the training pairs; `--keep-best validation_l1` keeps the weights of the best epoch. No number
# measures how good an image looks, so check `samples/`.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | tuple[np.ndarray, np.ndarray],
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train both networks in place.

    Args:
        networks: from `build`.
        data: pairs (input, target), each uint8 [batch, size, size, 3]. With `Batches` or arrays, a run resumes exactly
            where it stopped. If `Batches` have held-out examples, they are translated and written to `samples/`. A
            `tf.data.Dataset` must be batched; it is not reshuffled, and a resumed run starts a new pass over it.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and examples. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    generator, discriminator = networks
    learning_rate: float | keras.optimizers.schedules.CosineDecay = config.learning_rate
    if config.decay:
        steps = config.epochs * data.steps_per_epoch
        learning_rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    g_optimizer = adam(learning_rate, generator.trainable_variables, config.beta_1)
    d_optimizer = adam(learning_rate, discriminator.trainable_variables, config.beta_1)

    @tf.function
    def step(inputs: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = from_uint8(inputs)
        targets = from_uint8(targets)
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            translations = generator(inputs, training=True)
            real_logits = discriminator([inputs, targets], training=True)
            fake_logits = discriminator([inputs, translations], training=True)
            l1 = l1_loss(targets, translations)
            gan = generator_loss(fake_logits)
            g_loss = config.gan_weight * gan + config.l1_weight * l1  # equation 4
            d_loss = discriminator_loss(real_logits, fake_logits)
            g_scaled = g_optimizer.scale_loss(g_loss)  # float16 gradients would underflow; `apply` unscales them
            d_scaled = d_optimizer.scale_loss(d_loss)
        g_gradients = g_tape.gradient(g_scaled, generator.trainable_variables)
        d_gradients = d_tape.gradient(d_scaled, discriminator.trainable_variables)
        g_optimizer.apply(g_gradients, generator.trainable_variables)
        d_optimizer.apply(d_gradients, discriminator.trainable_variables)
        return {"l1": l1, "generator": gan, "discriminator": d_loss}  # unweighted

    @tf.function
    def l1_step(inputs: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            l1 = l1_loss(from_uint8(targets), generator(from_uint8(inputs), training=True))
            scaled = g_optimizer.scale_loss(config.l1_weight * l1)
        g_optimizer.apply(tape.gradient(scaled, generator.trainable_variables), generator.trainable_variables)
        return {"l1": l1}

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        inputs, targets = (images[:: max(1, len(images) // 32)][:32] for images in data.held_out)
        translations = translate_batch(generator, inputs)
        if output_dir is not None:
            save_pairs(Path(output_dir, "samples", f"epoch-{epoch:04d}.png"), inputs, targets, translations)
        scores = pair_scores(targets, translations)
        return {"validation_l1": scores["l1"], "validation_ssim": scores["ssim"]}

    state = networks._asdict() | {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer}
    chosen = step if config.gan_weight > 0 else l1_step
    return fit(chosen, data, config.epochs, state, output_dir, on_epoch=[validate, on_epoch])


# %% Use
# The U-Net is fully convolutional, so it accepts any image whose sides are multiples of its downsampling factor. Other
# images are padded by mirroring at the right and bottom edges, and the translation is cropped to the original size.


def translate(generator: keras.Model, image: np.ndarray) -> np.ndarray:
    """Translate one uint8 [height, width, 3] image of any size; the result has the same shape and dtype."""
    height, width, _ = image.shape
    factor = 2 ** sum(getattr(x, "strides", 1) == (2, 2) and "Transpose" not in repr(x) for x in generator.layers)
    padded = np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), "symmetric")
    return to_uint8(generator(from_uint8(padded[None]), training=False))[0, :height, :width]


def translate_batch(generator: keras.Model, images: np.ndarray) -> np.ndarray:
    """Translate uint8 images [n, height, width, 3] one at a time, so memory use does not grow with n."""
    return np.stack([translate(generator, image) for image in images])


def evaluate(targets: np.ndarray, translations: np.ndarray, **baselines: np.ndarray) -> dict[str, float]:
    """Return L1 in [0, 1], PSNR in dB and SSIM of uint8 translations, and of each baseline: one image, or one each."""
    scores = pair_scores(targets, translations)
    for baseline, images in baselines.items():
        found = pair_scores(targets, np.broadcast_to(images, targets.shape))
        scores |= {f"{baseline}_{name}": value for name, value in found.items()}
    return scores


def save_pairs(path: Path, inputs: np.ndarray, targets: np.ndarray, translations: np.ndarray) -> Path:
    """Write up to eight evenly spaced examples, one per column."""
    chosen = np.unique(np.linspace(0, len(inputs) - 1, min(8, len(inputs))).astype(int))
    rows = {"input": inputs[chosen], "translation": translations[chosen], "target": targets[chosen]}
    return save_image(rows, path, zoom=max(1, 128 // inputs.shape[1]))


# %% A whole run
# The built-in data set consists of synthetic portraits and coloured sketches of them: ink lines over a wash of flat
# colours. 10 % of the pairs are held out for the scores and the example images. The scores of the mean image and of the
# unchanged input are baselines. `--data streets` selects label maps and photos of streets instead. They are a harder
# exercise, because label maps leave colour and texture open.
# >>> from common.samples import sketch_pairs
# >>> sketches, portraits = sketch_pairs(8, DEMO.seed, DEMO.size)
# >>> show(np.concatenate([sketches, portraits]))


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/pix2pix"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, score held-out pairs, save the run, and return the path of an image grid."""
    folder = Run(output_dir, "pix2pix", config, data, accept_data)
    pairs = image_pairs(
        data, config.size, "sketches", config.classes, config.swap, skip_bad, fetch, config.seed, crop=config.crop
    )
    networks = build(config)
    stream = pairs.batches(config.batch_size, config.seed, size=config.size, jitter=config.jitter)
    inputs, targets = pairs.held_out()
    folder.start()
    train(networks, stream, config, output_dir)
    translations = translate_batch(networks.generator, inputs)
    image = save_pairs(Path(output_dir, "translations.png"), inputs, targets, translations)
    baselines = {"mean_image": pairs.mean_of_train()[1], "unchanged": inputs}
    return folder.finish(networks, lambda: evaluate(targets, translations, **baselines), image)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train on sketches and portraits of synthetic faces; return the path of a grid of held-out examples."""
    return run("sample", config, output_dir)


def translate_files(source: Path, destination: Path, run: Path = DEMO_RUN, skip_bad: bool = False) -> Path:
    """Translate an image, or every image in a folder, with the generator of a run."""
    trained = Run.load(run, "pix2pix", Config)
    generator = trained.network("generator", (None, None, 3), (None, None, 3))
    classes = 0 if trained.config.swap else trained.config.classes
    return convert_images(source, destination, functools.partial(translate, generator), classes, skip_bad, trained.half)


# %% Try it
# The generator translates any sketch, so you can draw on it. Top row: a sketch that is not in the training data, the
# same sketch with the hair painted blond, and with glasses drawn in ink. Bottom row: the translations. In the browser,
# `python -m recipes app` lets you draw with the mouse.
# >>> from common.samples.sketches import INK
# >>> generator = Run.load(DEMO_RUN, "pix2pix", Config).network("generator")
# >>> sketch = sketch_pairs(3, 1, DEMO.size)[0][2]
# >>> rows, columns = np.mgrid[: DEMO.size, : DEMO.size] * 64 / DEMO.size
# >>> is_hair = np.abs(sketch.astype(int) - sketch[24, 64]).max(axis=-1) < 34
# >>> is_hair &= np.hypot((rows - 41) / 29, (columns - 33) / 14.5) > 1  # outside the face
# >>> blond = np.where(is_hair[..., None], sketch + np.array([120, 110, 75]), sketch).clip(0, 255).astype(np.uint8)
# >>> rings = [np.abs(np.hypot(rows - 28, columns - eye) - 6) < 0.9 for eye in (31, 45)]
# >>> glasses = np.where((rings[0] | rings[1])[..., None], 255 * INK, sketch).astype(np.uint8)
# >>> sketches = np.stack([sketch, blond, glasses])
# >>> show(np.concatenate([sketches, translate_batch(generator, sketches)]).repeat(2, 1).repeat(2, 2), columns=3)


if __name__ == "__main__":
    presets = {"paper": Config(), "cityscapes": Config(epochs=150), "demo": DEMO, "streets": STREETS}
    run_command(demo, presets=presets, train=run, translate=translate_files)
