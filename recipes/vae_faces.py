"""VAE of faces: encode a face, change its smile, glasses or hair in the latent space, and decode the result.

Paper    Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114; standard deviation of the
         pixels: Rybkin et al. 2021, arXiv:2006.13202; attribute vectors: Larsen et al. 2016, arXiv:1512.09300.
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim]; the prior is standard normal.
Differs  1. Pixels are Gaussian, with the maximum-likelihood standard deviation, so the KL weight needs no tuning.
         2. New faces are sampled from a normal distribution fitted to encoded faces, or from the prior.
         3. The attribute vectors are the coefficients of a linear regression on all attributes at once. An edit also
            matches the covariance of the latents: hats vary more than the hair below them.
         4. The demo starts from probabilistic PCA, which is the optimal linear VAE (Lucas et al. 2019,
            arXiv:1911.02469). It trains only the decoder, a linear network whose image a convolutional one corrects.
Run      python -m recipes.vae_faces                                          the demo: synthetic faces, offline
         python -m recipes.vae_faces train --data DIR --output-dir runs/mine  CelebA, or images with a CSV of attributes
         python -m recipes.vae_faces edit face.jpg out.png --run runs/mine    all attributes, from less to more
         python -m recipes.vae_faces edit face.jpg out.png --smile 2 --glasses -1 --run runs/mine
         python -m recipes.vae_faces morph one.jpg two.jpg out.gif --run runs/mine
         python -m recipes.vae_faces generate grid.png --count 64 --run runs/mine
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, attributed_images
from common.images import from_uint8, save_image
from common.metrics import NormalMap
from common.runs import InputError, Range, Run, run_command
from common.training import Noise, adam, fit

# %% Configuration
# `latent_dim` is the number of latents per face. Faces need many more latents than digits, because they vary in
# glasses, hair and lighting. A `kl_weight` above 1 pulls the latents closer to the prior, which gives softer faces and
# smoother interpolation; a value below 1 does the opposite. `mirror` augments the faces with horizontal flips.
# Training needs no attributes, and the attribute vectors are computed from faces that are not flipped. `base_filters`
# and `size` limit the detail of a face, and determine most of the training time. With a `patience` above 0, training
# stops after as many epochs without a lower reconstruction loss of held-out faces, and the best weights are kept.
#
# Two options save time on a CPU. `light` saves the layers at high resolution. `linear` computes a linear encoder and a
# linear part of the decoder from the training faces, before training starts. The convolutions of the decoder then only
# learn what a linear model cannot represent. Without `linear`, a few minutes are too short for sharp faces.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for 112 px. `SMALL` is for 64 px, `DEMO` for synthetic faces at 64 px."""

    size: Annotated[int, Range(16, 512, multiple_of=16)] = 112  # side of the images in pixels
    channels: Literal[1, 3] = 3  # 1: greyscale, 3: colour
    latent_dim: Annotated[int, Range(1, 65_536)] = 200
    base_filters: Annotated[int, Range(1, 1024)] = 32  # filters of the two outer layers; twice as many in the inner two
    light: bool = False  # fewer layers at high resolution
    linear: bool = False  # linear encoder, and a linear part of the decoder; `start_as_pca` computes them
    kl_weight: Annotated[float, Range(0, 1e9)] = 1.0  # above 1: smoother latent space, softer faces
    mirror: bool = True  # flip training faces at random
    batch_size: Annotated[int, Range(1, 65_536)] = 64
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3  # initial learning rate of Adam; cosine decay to 0
    epochs: Annotated[int, Range(1, 1_000_000)] = 60
    patience: Annotated[int, Range(0, 1_000_000)] = 0  # stop after this many epochs without improvement; 0: never
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)


SMALL = Config(size=64, batch_size=32, learning_rate=3e-3)
DEMO = Config(
    size=64, latent_dim=200, base_filters=48, light=True, linear=True, batch_size=8, learning_rate=1e-3, epochs=9
)
DEMO_RUN = Path("runs/vae_faces-demo")

# %% Networks
# Four strided convolutions, each of which halves the size, reduce 64 px to 4 px. Two dense layers then compute the mean
# and the log variance of each latent. A face is thus encoded as a normal distribution, not as a point. The decoder
# mirrors the encoder with transposed convolutions. There are no skip connections, so the decoder can only show details
# that the latents encode. All other details are averaged, so they look blurred.
#
# With `linear`, the encoder is a fixed linear function of the image, and a linear function of the latents is added to
# the decoded image. Both are the probabilistic PCA of the training faces. The last convolution of the decoder starts
# with weights of 0, so the untrained VAE is already the optimal linear one. The linear image is blurred, but it shows
# where the edges are. The other layers of the decoder therefore also get this image, at their own resolution.


class Networks(NamedTuple):
    """The approximate posterior q(z | x), and the mean of the likelihood p(x | z)."""

    encoder: keras.Model  # images [n, size, size, channels] in [-1, 1] -> mean and log variance [n, latent_dim] each
    decoder: keras.Model  # latents [n, latent_dim] -> images in [-1, 1]


def build(config: Config = Config()) -> Networks:
    """Return the untrained networks."""
    layers, base = keras.layers, config.base_filters
    init = {"kernel_initializer": keras.initializers.HeNormal(keras.random.SeedGenerator(config.seed))}
    small = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed + 1))}
    fixed = {"kernel_initializer": "zeros", "trainable": False}
    smallest = config.size // (8 if config.light else 16)

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    if not config.linear:
        if config.light:  # size -> size / 4
            x = layers.Conv2D(base, 8, 4, "same", activation="silu", **init)(x)
        for width in (2 * base,) if config.light else (base, base, 2 * base, 2 * base):
            x = layers.Conv2D(width, 4, 2, "same", activation="silu", **init)(x)
    x = layers.Flatten()(x)
    head = fixed if config.linear else small
    mean = layers.Dense(config.latent_dim, name="mean", dtype="float32", **head)(x)
    log_variance = layers.Dense(config.latent_dim, name="log_variance", dtype="float32", **head)(x)
    encoder = keras.Model(images, [mean, log_variance], name="encoder")

    latents = keras.Input((config.latent_dim,), name="latents")
    if config.linear:
        pixels = layers.Dense(config.size**2 * config.channels, name="linear_image", dtype="float32", **fixed)(latents)
        blur = layers.Reshape((config.size, config.size, config.channels))(pixels)
    x = layers.Dense(smallest * smallest * 2 * base, activation="silu", **init)(latents)
    x = layers.Reshape((smallest, smallest, 2 * base))(x)
    for width in (base, max(1, base // 2)) if config.light else (2 * base, base, base):  # -> size / 2
        x = layers.Conv2DTranspose(width, 4, 2, "same", **init)(x)
        if config.linear:
            stride = config.size // x.shape[1]
            x += layers.Conv2D(width, 2 * stride, stride, "same", **init)(blur)
        x = layers.Activation("silu")(x)
    if config.linear:
        x = blur + layers.Conv2DTranspose(config.channels, 4, 2, "same", kernel_initializer="zeros", dtype="float32")(x)
    else:
        x = layers.Conv2DTranspose(config.channels, 4, 2, "same", activation="tanh", dtype="float32", **small)(x)
    return Networks(encoder, keras.Model(latents, x, name="decoder"))


def start_as_pca(networks: Networks, images: np.ndarray) -> None:
    """Set the linear layers to the probabilistic PCA of uint8 images [n, size, size, channels].

    The encoder then returns its posterior, and the decoder its mean (Tipping & Bishop 1999, sections 3.2 and 3.3,
    doi:10.1111/1467-9868.00196). The principal axes are found by subspace iteration.
    """
    encoder, decoder = networks
    pixels = from_uint8(images).numpy().reshape(len(images), -1)
    average = pixels.mean(axis=0)
    pixels -= average
    shape = pixels.shape[1], decoder.input_shape[-1]
    axes = np.random.default_rng(0).standard_normal(shape, np.float32)
    for _ in range(6):
        axes, _ = np.linalg.qr(pixels.T @ (pixels @ axes))
    scores = pixels @ axes
    variances, rotation = np.linalg.eigh(scores.T @ scores / len(pixels))
    variances = np.maximum(variances, 1e-4)
    rest = max(1e-4, (pixels.var(axis=0).sum() - variances.sum()) / max(1, shape[0] - shape[1]))  # of the other axes
    weights = axes @ rotation * np.sqrt(np.maximum(variances - rest, 1e-6))
    encoder.get_layer("mean").set_weights([weights / variances, -average @ weights / variances])
    encoder.get_layer("log_variance").bias.assign(np.log(np.minimum(rest / variances, 1)))
    decoder.get_layer("linear_image").set_weights([weights.T, average])


# %% Losses
# As in `recipes.vae`, the loss is the negative ELBO in nats: -log p(x | z) + KL(q(z | x) || N(0, I)). The decoder
# outputs the mean of a Gaussian for each pixel. With a fixed standard deviation of 1, pixel errors would have too
# little weight compared with the KL term, whose weight would need tuning. Here each batch uses its maximum-likelihood
# standard deviation. This balances both terms: as reconstructions improve, the remaining errors get more weight.
#
# A probability density can be above 1, so the loss can become negative.


def negative_log_likelihood(images: tf.Tensor, means: tf.Tensor) -> tf.Tensor:
    """Return -log p(x | z) in nats per image, for Gaussian pixels with the optimal variance (Rybkin, section 4)."""
    values = int(np.prod(images.shape[1:]))
    variance = tf.reduce_mean((images - means) ** 2)
    return 0.5 * values * (tf.math.log(2.0 * np.pi * variance) + 1.0)


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Return KL(q(z | x) || N(0, I)) in nats [n]. It is 0 if the latents carry no information."""
    return 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - 1.0 - log_variance, axis=1)


def held_out_losses(networks: Networks, images: np.ndarray, seed: int) -> dict[str, float]:
    """Return both terms of the loss for uint8 images, in nats per image. Each call samples the same latents."""
    noise, parts = Noise(seed), [from_uint8(images[start : start + 50]) for start in range(0, len(images), 50)]
    decoded, divergences = [], []
    for part in parts:
        mean, log_variance = networks.encoder(part, training=False)
        latents = mean + tf.exp(log_variance / 2.0) * noise.normal(tf.shape(mean))
        decoded.append(networks.decoder(latents, training=False))
        divergences.append(kl_divergence(mean, log_variance))
    reconstruction = negative_log_likelihood(tf.concat(parts, axis=0), tf.concat(decoded, axis=0))
    kl = tf.reduce_mean(tf.concat(divergences, axis=0))
    return {"validation_reconstruction": float(reconstruction), "validation_kl": float(kl)}


# Whether errors are large or small, halving them reduces the loss by log 2 for each of the 64 x 64 x 3 values:
# >>> grey = tf.zeros([1, 64, 64, 3])
# >>> gain = negative_log_likelihood(grey, grey + 0.2) - negative_log_likelihood(grey, grey + 0.1)
# >>> float(gain), float(64 * 64 * 3 * np.log(2))


# %% Training
# Each step encodes a batch, samples one latent vector per face, decodes it, and updates both networks with one Adam
# optimizer. The learning rate follows a cosine decay to 0.
#
# What is logged, in nats per image: `reconstruction` becomes negative in the first epochs and keeps falling. Meanwhile
# `kl` rises from about 100 to several hundred, because better reconstructions need more information. A `kl` near 0
# means that the decoder ignores the latents. `loss` is `reconstruction` plus `kl_weight` times `kl`. `samples/` shows
# held-out faces and their reconstructions.
#
# `validation_reconstruction` and `validation_kl` are the same terms for up to 200 held-out faces, with the same noise
# after each epoch. If `validation_reconstruction` rises while `reconstruction` falls, the networks memorise the
# training faces; `patience` or `--keep-best validation_reconstruction` keeps the weights of the best epoch.


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
            stopped. If `Batches` have held-out examples, their losses are logged, and the first ones are reconstructed
            and written to `samples/`; otherwise `patience` has no effect. A `tf.data.Dataset` must be batched; it is
            not reshuffled, and a resumed run starts a new pass over it.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and examples. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch, in nats per image.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    encoder, decoder = networks
    variables = encoder.trainable_variables + decoder.trainable_variables
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(schedule, variables)
    noise = Noise(config.seed + 2)

    @tf.function
    def step(images: tf.Tensor) -> dict[str, tf.Tensor]:
        images = from_uint8(images)
        with tf.GradientTape() as tape:
            mean, log_variance = encoder(images, training=True)
            epsilon = noise.normal(tf.shape(mean))
            latents = mean + tf.exp(log_variance / 2.0) * epsilon  # the reparameterisation trick
            reconstruction = negative_log_likelihood(images, decoder(latents, training=True))
            kl = tf.reduce_mean(kl_divergence(mean, log_variance))
            loss = reconstruction + config.kl_weight * kl
            scaled = optimizer.scale_loss(loss)  # float16 gradients would underflow; `apply` unscales them
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    def sample(epoch: int, losses: dict[str, float]) -> None:
        if output_dir is not None and data.held_out:
            save_reconstructions(networks, data.held_out[0], Path(output_dir, "samples", f"epoch-{epoch:04d}.png"))

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        return held_out_losses(networks, data.some_held_out()[0], config.seed) if data.held_out else {}

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    best = "validation_reconstruction" if config.patience and data.held_out else ""
    calls = [sample, validate, on_epoch]
    return fit(step, data, config.epochs, state, output_dir, on_epoch=calls, best=best, patience=config.patience)


# %% Use
# No network is trained to recognise a smile. After training, `attribute_vectors` computes one vector per attribute: the
# mean latents of faces with it, minus the mean latents of faces without it. Adding the vector to the latents of a face
# adds the attribute. An attribute therefore needs labels, but no training. If older faces smile less often, the
# difference of the means also contains age. A linear regression on all attributes removes such dependencies. For a
# single attribute, it is the difference of the means.
#
# A vector alone cannot remove a red hat and a green hat: it is the same for both. Hats have more colours than hair, so
# the latents of faces with a hat also have another covariance. `edited` therefore adds a multiple of the vector, and
# maps one covariance to the other (`NormalMap`, the optimal transport between normal distributions).
#
# Far from the training faces, the decoder shows no faces. `strength_limits` therefore limits an edit to 2 standard
# deviations around the mean face, measured along the attribute vector.
#
# The distribution of the encoded faces differs from the prior. `latent_space` therefore also fits a normal distribution
# to their latents. New faces are sampled from this distribution instead of N(0, I).


class LatentSpace(NamedTuple):
    """The attribute vectors, and the normal distribution fitted to encoded faces."""

    names: np.ndarray  # attribute names, strings [n]
    vectors: np.ndarray  # float32 [n, latent_dim]
    maps: np.ndarray  # float32 [n, latent_dim, latent_dim]: from the covariance without each attribute to that with it
    without: np.ndarray  # float32 [n, latent_dim]: the mean without each attribute; the mean with it: plus the vector
    mean: np.ndarray  # float32 [latent_dim]
    factor: np.ndarray  # float32 [latent_dim, latent_dim]: the Cholesky factor of the covariance


def encode(encoder: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the means of the latents, float32 [n, latent_dim], for uint8 images [n, size, size, channels]."""
    parts = [from_uint8(images[start : start + 250]) for start in range(0, len(images), 250)]
    return np.concatenate([encoder(part, training=False)[0] for part in parts])


def decode(decoder: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Return uint8 images [n, size, size, channels] for latents [n, latent_dim]."""
    parts = [decoder(np.float32(latents[start : start + 250]), training=False) for start in range(0, len(latents), 250)]
    return np.clip(np.round((np.concatenate(parts) + 1) * 127.5), 0, 255).astype(np.uint8)


def attribute_vectors(latents: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the change of the latents if only one attribute changes, for each: float32 [attributes, latent_dim].

    These are the coefficients of a linear regression of the latents on the labels. With one attribute, the result is
    the difference of means of Larsen et al., section 4.2.

    Args:
        latents: [n, latent_dim].
        labels: uint8 [n, attributes]: 1 yes, 0 no, 255 unknown. Unknown labels are replaced by their mean.
    """
    values = np.where(labels == 255, np.nan, labels.astype(np.float64))
    values = np.nan_to_num(values - np.nanmean(values, axis=0))
    return np.linalg.lstsq(values, latents - latents.mean(axis=0), rcond=None)[0].astype(np.float32)


def covariance_maps(latents: np.ndarray, labels: np.ndarray, leading: int = 32) -> np.ndarray:
    """Return one matrix per attribute, float32 [attributes, latent_dim, latent_dim]; see `LatentSpace`.

    Only the `leading` latents with the largest variance are mapped: a few hundred faces are too few to measure how all
    latents vary together. Both covariances of a map come from the same number of faces.
    """
    chosen = np.argsort(latents.var(axis=0))[-leading:]
    maps = np.tile(np.eye(latents.shape[1], dtype=np.float32), (labels.shape[1], 1, 1))
    for number, column in enumerate(labels.T):
        absent, present = latents[column == 0][:, chosen], latents[column == 1][:, chosen]
        count = min(len(absent), len(present))
        if count > 1:
            maps[number][np.ix_(chosen, chosen)] = NormalMap.between(absent[:count], present[:count]).matrix
    return maps


def latent_space(encoder: keras.Model, images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> LatentSpace:
    """Return the latent space of `images`; see `attribute_vectors` for `labels`."""
    latents = encode(encoder, images)
    mean, covariance = latents.mean(axis=0), np.cov(latents.T) + 1e-6 * np.eye(latents.shape[1])
    factor = np.linalg.cholesky(covariance).astype(np.float32)
    vectors = attribute_vectors(latents, labels)
    frequencies = np.nanmean(np.where(labels == 255, np.nan, labels.astype(np.float32)), axis=0)
    without = (mean - frequencies[:, None] * vectors).astype(np.float32)
    return LatentSpace(np.array(names, str), vectors, covariance_maps(latents, labels), without, mean, factor)


def edited(latents: np.ndarray, space: LatentSpace, strengths: np.ndarray) -> np.ndarray:
    """Return latents [n, latent_dim] after an edit: `strengths` [attributes] or [n, attributes] times the vectors.

    From 0 to 1 (or -1), a strength also moves the covariance to that of the faces with (or without) the attribute.
    """
    strengths = np.broadcast_to(np.asarray(strengths, np.float32), (len(latents), len(space.names)))
    result = latents + strengths @ space.vectors
    for number in np.flatnonzero(strengths.any(axis=0)):
        amount, apart = np.clip(strengths[:, number, None], -1, 1), latents - space.without[number]
        added = apart @ space.maps[number] - apart
        apart = apart - space.vectors[number]
        removed = np.linalg.solve(space.maps[number], apart.T).T - apart
        result += np.maximum(amount, 0) * added + np.maximum(-amount, 0) * removed
    return result


def strength_limits(latents: np.ndarray, space: LatentSpace) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest strength of an edit, two arrays [n, attributes] in [-3, 0] and [0, 3].

    They keep each face in the range of encoded faces: 2 standard deviations on both sides of the mean.
    """
    axes = space.vectors / np.sum(space.vectors**2, axis=1, keepdims=True)
    position = (latents - space.mean) @ axes.T  # in multiples of the attribute vectors
    deviation = np.linalg.norm(axes @ space.factor, axis=1)
    return np.clip(-2 * deviation - position, -3, 0), np.clip(2 * deviation - position, 0, 3)


def latent_traversals(networks: Networks, space: LatentSpace, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return seven uint8 images per attribute, in equal steps from the lowest to the highest strength.

    The middle image is unedited.
    """
    latents = encode(networks.encoder, image[None])
    (low,), (high,) = strength_limits(latents, space)
    strengths = np.concatenate([np.linspace(low, 0, 4), np.linspace(0, high, 4)[1:]])  # [7, attributes]
    latents, parts = latents.repeat(7, axis=0), zip(map(str, space.names), np.eye(len(space.names)), strict=True)
    return {name: decode(networks.decoder, edited(latents, space, strengths * one)) for name, one in parts}


def changed_attributes(
    networks: Networks, space: LatentSpace, images: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Return faces, reconstructions, and a row per attribute, which is added to the faces without it, or removed."""
    latents = encode(networks.encoder, images)
    strengths = np.where(labels == 1, *strength_limits(latents, space))
    rows = {"original": images, "reconstruction": decode(networks.decoder, latents)}
    for name, one in zip(map(str, space.names), np.eye(len(space.names)), strict=True):
        rows[f"± {name.replace('_', ' ')}"] = decode(networks.decoder, edited(latents, space, strengths * one))
    return rows


def generate(decoder: keras.Model, count: int, seed: int = 0, space: LatentSpace | None = None) -> np.ndarray:
    """Return new faces, uint8 [count, size, size, channels], sampled from `space` or, without it, from N(0, I)."""
    latents = keras.random.normal((count, decoder.input_shape[-1]), seed=seed).numpy()
    return decode(decoder, latents if space is None else space.mean + latents @ space.factor.T)


def save_reconstructions(networks: Networks, images: np.ndarray, path: Path) -> Path:
    """Write a grid of the first eight images and their reconstructions."""
    rows = {"original": images[:8], "reconstruction": decode(networks.decoder, encode(networks.encoder, images[:8]))}
    return save_image(rows, path)


# %% A whole run
# The 3,000 built-in synthetic faces have nine binary attributes, and are turned by at most 12 degrees. A fifth of them
# is the test split. The scores are:
#
# - `test_absolute_error`: the mean absolute error of reconstructed test faces, for pixels in [0, 1].
# - `smile_flip_rate`: the fraction of test faces where an edit with strength 3 or -3 flips the prediction of a bundled
#   attribute classifier. It is nearly 1 for a good vector. `hat_flip_rate` is lower, because hats have many shapes and
#   colours.
# - `smile_side_effect`: the change in the other attributes, relative to the change in the smile. Smaller is better.
# - `smile_orthogonal_movement`: the movement of the latents orthogonal to the attribute vector, relative to the mean
#   distance between two faces. Small values mean that edits preserve the identity.
# >>> from common.samples import FACE_ATTRIBUTES, synthetic_faces
# >>>
# >>> held_out, labels = synthetic_faces(16, 99, DEMO.size, looking_left=0.5)
# >>> show(held_out.repeat(2, axis=1).repeat(2, axis=2))
#
# The attributes of the first two faces:
# >>> [[name for name, yes in zip(FACE_ATTRIBUTES, row) if yes] for row in labels[:2]]


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/vae_faces"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, compute attribute vectors, score edits, save the run, and return an image's path."""
    folder = Run(output_dir, "vae_faces", config, data, accept_data)
    faces = attributed_images(data, config.size, config.channels, "frontal_faces", skip_bad, fetch, seed=config.seed)
    networks = build(config)
    faces = faces.with_differing_attributes()
    if config.linear:
        start_as_pca(networks, faces.train.loaded(10_000)[0])
    folder.start()
    train(networks, faces.image_batches(config.batch_size, config.seed, mirror=config.mirror), config, output_dir)
    space = latent_space(networks.encoder, *faces.train.loaded(10_000), faces.names)
    folder.save_arrays("space", space._asdict())
    images, labels = faces.test.loaded(2000)
    image = save_reconstructions(networks, images, Path(output_dir, "reconstructions.png"))
    fitted, prior = generate(networks.decoder, 8, 1, space), generate(networks.decoder, 8, 1)
    save_image({"fitted normal": fitted, "prior N(0, I)": prior}, Path(output_dir, "samples.png"))
    if faces.names:
        chosen = faces.well_copied(images, labels, decode(networks.decoder, encode(networks.encoder, images)))
        rows = changed_attributes(networks, space, images[chosen], labels[chosen])
        image = save_image(rows, Path(output_dir, "attributes.png"), zoom=max(1, 128 // config.size))
    return folder.finish(networks, lambda: evaluate(networks, space, images, faces.edit_scores), image)


def evaluate(
    networks: Networks, space: LatentSpace, images: np.ndarray, edit_scores: Callable[..., dict[str, float]]
) -> dict[str, float]:
    """Return the reconstruction error in [0, 1], and scores of edits with strengths of 3 and -3.

    `edit_scores` is a method of the object that `attributed_images` returns. It uses an attribute classifier.
    """
    latents = encode(networks.encoder, images)
    reconstructions = decode(networks.decoder, latents)
    scores = {"test_absolute_error": float(np.abs(images / 255 - reconstructions / 255).mean())}

    def edit(attribute: int, signs: np.ndarray) -> np.ndarray:
        strengths = np.zeros((len(latents), len(space.names)))
        strengths[:, attribute] = 3 * signs
        return decode(networks.decoder, edited(latents, space, strengths))

    encoded = encode(networks.encoder, reconstructions)
    distance = np.linalg.norm(encoded - np.roll(encoded, 1, axis=0), axis=1).mean()  # mean distance between faces
    for attribute, (name, vector) in enumerate(zip(space.names, space.vectors, strict=True)):
        movement = encode(networks.encoder, edit(attribute, np.ones(len(images)))) - encoded
        orthogonal = movement - np.outer(movement @ vector, vector) / (vector @ vector)
        scores[f"{name}_orthogonal_movement"] = float(np.linalg.norm(orthogonal, axis=1).mean() / distance)
    return scores | edit_scores(reconstructions, edit)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train on synthetic faces; return the path of a grid: eight faces, and the same faces with changed attributes."""
    return run("sample", config, output_dir)


def open_run(run: Path) -> tuple[Networks, LatentSpace, Callable[[Path], np.ndarray]]:
    """Return the networks and the latent space of a run, and a function that reads images at the run's size."""
    trained = Run.load(run, "vae_faces", Config)
    latents = trained.config.latent_dim
    encoder = trained.network("encoder", trained.image_shape, [(latents,), (latents,)])
    decoder = trained.network("decoder", (latents,), trained.image_shape)
    shapes = {"names": ("n",), "vectors": ("n", latents), "maps": ("n", latents, latents), "without": ("n", latents)}
    shapes |= {"mean": (latents,), "factor": (latents, latents)}
    space = LatentSpace(**trained.arrays("space", shapes, texts=["names"]))
    if (np.linalg.slogdet(space.maps)[0] <= 0).any():  # `edited` needs the inverses
        where = trained.folder / "space.npz"
        raise InputError(f"{where}: damaged (one of its maps has no inverse); train again, or restore the file")
    return Networks(encoder, decoder), space, trained.image


def attribute_index(names: Sequence[str], name: str) -> int:
    """Return the index of an attribute. Case is ignored, and `-`, `_` and space are equivalent.

    Raises:
        InputError: the attribute does not exist. The message lists the available attributes.
    """
    plain = [str(each).strip().casefold().replace("-", "_").replace(" ", "_") for each in (*names, name)]
    wanted = plain.pop()
    if wanted in plain:
        return plain.index(wanted)
    if not plain:
        raise InputError(f"no attribute {name!r}: these images have no attributes")
    similar = difflib.get_close_matches(wanted, plain, 1)
    meant = f" (did you mean {names[plain.index(similar[0])]}?)" if similar else ""
    raise InputError(f"no attribute {name!r}{meant}; choose from {', '.join(names)}")


def edit_file(
    source: Path, destination: Path, run: Path = DEMO_RUN, **attributes: Annotated[float, Range(-100, 100)]
) -> Path:
    """Edit attributes of a face, for example --smile 2 --glasses -1; by default, vary each from less to more."""
    networks, space, read = open_run(run)
    if not len(space.names):
        raise InputError(f"{run}: trained on faces without attributes, so there are none to edit")
    if not attributes:
        return save_image(latent_traversals(networks, space, read(source)), destination)
    chosen = [attribute_index(space.names.tolist(), name) for name in attributes]
    strengths = list(attributes.values()) @ np.eye(len(space.names))[chosen]
    latents = edited(encode(networks.encoder, read(source)[None]), space, strengths)
    return save_image(decode(networks.decoder, latents)[0], destination)


def morph_file(
    source: Path,
    other: Path,
    destination: Path,
    steps: Annotated[int, Range(2, 10_000)] = 24,
    run: Path = DEMO_RUN,
) -> Path:
    """Interpolate linearly between the latents of two faces; write a GIF or a row of images."""
    networks, _, read = open_run(run)
    start, end = encode(networks.encoder, np.stack([read(source), read(other)]))
    images = decode(networks.decoder, start + np.linspace(0, 1, steps)[:, None] * (end - start))
    return save_image(images, destination, columns=steps)


def generate_file(
    destination: Path,
    count: Annotated[int, Range(1, 100_000)] = 64,
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0,
    singles: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Sample new faces from the distribution of encoded faces, and write them as one grid.

    With `singles`, write one PNG file per face to the folder `destination`.
    """
    networks, space, _ = open_run(run)
    images = generate(networks.decoder, count, seed, space)
    if not singles:
        return save_image(images, destination)
    for number, image in enumerate(images):
        save_image(image, destination / f"{number:06d}.png")
    return destination


# %% Try it
# A test face, its reconstruction, and the reconstruction after an edit. There is one slider per attribute. At first,
# only the hair colour is edited.
# >>> from ipywidgets import FloatSlider, interact
# >>>
# >>> networks, space, _ = open_run(DEMO_RUN)
# >>> face = held_out[8]
# >>> latents = encode(networks.encoder, face[None])
# >>> def compare(changed):
# ...     images = decode(networks.decoder, np.concatenate([latents, changed]))
# ...     return show(np.concatenate([face[None], images]).repeat(2, axis=1).repeat(2, axis=2))
# >>> def edit(**strengths):
# ...     return compare(edited(latents, space, list(strengths.values())))
# >>> sliders = {str(name): FloatSlider(0, min=-3, max=3, step=0.25) for name in space.names}
# >>> sliders["blond"].value = 3
# >>> interact(edit, **sliders);
#
# Individual latents have no predefined meaning. Three sliders change the latents with the largest variance, and three
# move along the first principal axes of the latents. Slider values are in standard deviations. A single latent has
# little effect, because each visible property is spread over many latents. A principal axis has a large effect, for
# example on background, hair or skin.
# >>> covariance = space.factor @ space.factor.T
# >>> deviations = np.sqrt(np.diag(covariance))
# >>> moves = {f"latent_{index}": np.diag(deviations)[index] for index in deviations.argsort()[:-4:-1]}
# >>> variances, axes = np.linalg.eigh(covariance)
# >>> moves |= {f"axis_{number}": np.sqrt(variances[-number]) * axes[:, -number] for number in (1, 2, 3)}
# >>> def moved(**steps):
# ...     return compare(latents + list(steps.values()) @ np.stack(list(moves.values())))
# >>> sliders = {name: FloatSlider(0, min=-3, max=3, step=0.25) for name in moves}
# >>> sliders["axis_3"].value = -3
# >>> interact(moved, **sliders);
#
# Edits can be combined. From left to right: interpolation between two test faces. From top to bottom: no
# edit, a smile, glasses, and glasses with blond hair.
# >>> start, end = encode(networks.encoder, held_out[[2, 10]])
# >>> path = start + np.linspace(0, 1, 8)[:, None] * (end - start)
# >>> changes = [{}, {"smile": 3}, {"glasses": 3}, {"glasses": 3, "blond": 2}]
# >>> strengths = [[change.get(name, 0) for name in space.names] for change in changes]
# >>> rows = [edited(path, space, strength) for strength in strengths]
# >>> show(decode(networks.decoder, np.concatenate(rows)).repeat(2, axis=1).repeat(2, axis=2))


if __name__ == "__main__":
    presets = {"paper": Config(), "small": SMALL, "demo": DEMO}
    run_command(demo, presets=presets, train=run, edit=edit_file, morph=morph_file, generate=generate_file)
