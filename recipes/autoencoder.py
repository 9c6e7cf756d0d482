"""Autoencoder: compress images to a few numbers and reconstruct them, or denoise them.

Paper    Hinton & Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 313, 2006,
         doi:10.1126/science.1127647. With --noise: Vincent, Larochelle, Bengio & Manzagol, "Extracting and Composing
         Robust Features with Denoising Autoencoders", ICML 2008, doi:10.1145/1390156.1390294.
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], unbounded.
Errors   mean squared error of pixels in [0, 1], where black is 0 and white is 1.
Differs  1. The networks are smaller, and they use ReLU and tanh. AdamW trains all layers together on the squared error,
            without layer-wise pretraining.
         2. The noise is Gaussian; Vincent et al. set random pixels to 0.
         3. The weights from the epoch with the lowest validation loss are kept.
Run      python -m recipes.autoencoder                                        the demo: 2 to 50 latents, offline
         python -m recipes.autoencoder train --data mnist --compare 2 3 5 10 50 --fetch  the same on MNIST, downloaded
         python -m recipes.autoencoder train --data DIR --channels 3 --size 64 --output-dir runs/mine  your own images
         python -m recipes.autoencoder train --preset denoise --data mnist --output-dir runs/denoise    a denoiser
         python -m recipes.autoencoder reconstruct in.png out.png --run runs/denoise                    a file or folder
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

from common.data import Batches, labelled_images
from common.images import from_uint8, save_image, to_uint8
from common.runs import Range, Run, run_command
from common.training import Noise, adam, fit, predict

# %% Configuration
# The most important hyperparameter is `latent_dim`, the number of latents per image. A few latents keep only the coarse
# structure; many latents also keep the details. `units` sets the capacity of the encoder and the decoder, and should
# grow with `latent_dim`. The last hidden layer of the encoder has `units / 2` units. With the 128 units of `Config()`,
# the layer before the latents has 64 units, so 50 latents give a larger error than PCA on MNIST. `WIDE` has more units.
#
# `noise` turns the task into denoising. The encoder gets a noisy image, and the decoder must return the clean one, so
# copying the input is not a solution. Training stops after `patience` epochs without a lower validation loss.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Layers of 784-128-64-10-64-128-784 units for 28 px digits. `WIDE` is for 50 latents, `DENOISE` for denoising."""

    size: Annotated[int, Range(4, 512)] = 28  # side of the images in pixels
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    units: Annotated[int, Range(1, 65_536)] = 128  # units of the outer hidden layers; inner ones have half as many
    latent_dim: Annotated[int, Range(1, 65_536)] = 10
    noise: Annotated[float, Range(0, 10)] = 0.0  # standard deviation of the noise, for pixels in [0, 1]; 0: none
    batch_size: Annotated[int, Range(1, 65_536)] = 256
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3
    weight_decay: Annotated[float, Range(0, 1)] = 1e-5  # for AdamW, which multiplies it by the learning rate
    epochs: Annotated[int, Range(1, 1_000_000)] = 50
    patience: Annotated[int, Range(0, 1_000_000)] = 10  # stop after this many epochs without improvement; 0: never
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)


WIDE = Config(units=512)
DENOISE = Config(units=512, latent_dim=50, noise=0.5)
DEMO = Config(units=384, batch_size=64, epochs=40)
DEMO_RUN = Path("runs/autoencoder-demo")

# %% Networks
# The encoder and the decoder are dense networks. They treat an image as a vector and ignore which pixels are adjacent.
# In the demo, the encoder reduces 784 values to 384, 192 and then 10, and the decoder mirrors it. A tanh keeps the
# output in [-1, 1].
#
# For a linear autoencoder, the optimal solution is known: principal component analysis (PCA). The baseline, which the
# networks should beat, is therefore PCA with one component per latent.


class Networks(NamedTuple):
    """The encoder and the decoder."""

    encoder: keras.Model  # images [n, size, size, channels] in [-1, 1] -> latents [n, latent_dim]
    decoder: keras.Model  # latents -> images in [-1, 1]


def build(config: Config = Config()) -> Networks:
    """Return the untrained encoder and decoder."""
    layers = keras.layers
    shape, inner_units = (config.size, config.size, config.channels), (config.units + 1) // 2
    init = {"kernel_initializer": keras.initializers.HeUniform(keras.random.SeedGenerator(config.seed))}

    images = keras.Input(shape, name="images")
    x = layers.Flatten()(images)
    x = layers.Dense(config.units, activation="relu", **init)(x)
    x = layers.Dense(inner_units, activation="relu", **init)(x)
    x = layers.Dense(config.latent_dim, dtype="float32", **init)(x)
    encoder = keras.Model(images, x, name="encoder")

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(inner_units, activation="relu", **init)(latents)
    x = layers.Dense(config.units, activation="relu", **init)(x)
    x = layers.Dense(math.prod(shape), activation="tanh", dtype="float32", **init)(x)
    x = layers.Reshape(shape, dtype="float32")(x)
    return Networks(encoder, keras.Model(latents, x, name="decoder"))


# %% Losses
# The only loss is the mean squared error of pixels in [0, 1], so you can compare it with PCA and with other recipes.
# One pixel with an error of 1 counts as much as a hundred pixels with an error of 0.1. If the position of an edge is
# uncertain, grey has a smaller expected error than black or white, so reconstructions look blurred.


def squared_error(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    """Scale images from [-1, 1] to [0, 1], and return the mean squared error of the reconstructions.

    For MNIST, the mean image has an error of 0.067. An error of 0.01 is hardly visible.
    """
    return tf.reduce_mean(tf.square(images - reconstructions)) / 4


# Black instead of white gives an error of 1, and grey instead of white gives 1/4:
# >>> white = tf.ones([1, 28, 28, 1])
# >>> float(squared_error(white, -white)), float(squared_error(white, 0 * white))


# %% Training
# Each step adds noise to the images (if `noise` is above 0) and updates both networks with one AdamW optimizer. After
# each epoch, the validation images are reconstructed. They always get the same noise, so you can compare epochs. At the
# end, the weights from the epoch with the lowest validation loss are restored.
#
# What is logged: `loss` is the mean over the steps of an epoch. `validation_loss` is computed after the epoch. Both
# fall quickly in the first epochs. Later, `loss` keeps falling while `validation_loss` levels off, because the networks
# memorise the training images; training then stops early. If `validation_loss` stays near 0.06 (the error of the mean
# image), the networks have learned only the mean image: lower the learning rate.


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
        networks: the result of `build`.
        data: uint8 images [batch, size, size, channels]. With `Batches`, each epoch logs `validation_loss` and writes
            held-out reconstructions to `samples/`, and the best weights are kept. With an array or a `tf.data.Dataset`,
            there are no held-out images: `patience` has no effect, and the last weights are kept. A dataset must be
            batched; it is not reshuffled, and a resumed run starts a new pass over it. With `Batches` or an array, a
            run resumes exactly where it stopped.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and examples. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    encoder, decoder = networks
    variables = encoder.trainable_variables + decoder.trainable_variables
    optimizer = adam(config.learning_rate, variables, weight_decay=config.weight_decay)
    noise = Noise(config.seed + 1)

    @tf.function
    def step(images: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = add_noise(images, config.noise, noise)
        with tf.GradientTape() as tape:
            reconstructions = decoder(encoder(inputs, training=True), training=True)
            loss = squared_error(from_uint8(images), reconstructions)
            scaled = optimizer.scale_loss(loss)  # float16 gradients would underflow; `apply` unscales them
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return {"loss": loss}

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        (images,) = data.held_out
        inputs = to_uint8(add_noise(images, config.noise, Noise(config.seed)))
        outputs = reconstruct(networks, inputs)
        if output_dir is not None:
            rows = {"input": inputs[:8], "reconstruction": outputs[:8]}
            save_image(rows, Path(output_dir, "samples", f"epoch-{epoch:04d}.png"), zoom=max(1, 56 // config.size))
        return {"validation_loss": float(squared_error(from_uint8(images), from_uint8(outputs)))}

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    best = "validation_loss" if data.held_out else ""
    calls = [validate, on_epoch]
    return fit(step, data, config.epochs, state, output_dir, on_epoch=calls, best=best, patience=config.patience)


# %% Use
# You can use the encoder and the decoder separately. The encoder compresses an image into a few numbers. The decoder
# turns any latents into an image, but it was trained only on latents of real images. For other latents, its output may
# not be plausible. A variational autoencoder solves this problem; see `recipes.vae`.


def add_noise(images: np.ndarray | tf.Tensor, stddev: float, noise: Noise) -> tf.Tensor:
    """Convert uint8 images to float32 in [-1, 1], add Gaussian noise, and clip the result to [-1, 1].

    `stddev` is the standard deviation of the noise for pixels in [0, 1].
    """
    if not stddev:
        return from_uint8(images)
    return tf.clip_by_value(from_uint8(images) + 2 * stddev * noise.normal(tf.shape(images)), -1, 1)


def reconstruct(networks: Networks, images: np.ndarray) -> np.ndarray:
    """Encode and decode uint8 images [n, size, size, channels]; the result has the same shape and dtype."""
    return to_uint8(predict(networks.decoder, predict(networks.encoder, from_uint8(images))))


def latent_grid(decoder: keras.Model, latents: np.ndarray, side: int = 16) -> np.ndarray:
    """Decode a two-dimensional grid of latents to uint8 images [side * side, size, size, channels].

    The grid spans the 2nd to the 98th percentile of `latents` [n, 2]. The first latent increases to the right, the
    second one upwards.
    """
    low, high = np.percentile(latents, (2, 98), axis=0)
    first, second = np.linspace(low, high, side).T
    grid = np.stack(np.meshgrid(first, second[::-1]), axis=-1).reshape(-1, 2)
    return to_uint8(predict(decoder, grid))


# %% The baseline and the scores
# The built-in data set has 6,000 synthetic handwritten digits of 28 x 28 grey pixels, white on black. They are drawn
# as pen strokes, in the styles of 600 writers. A fifth of the writers (1,200 digits) are the test split, and a tenth of
# the rest (480 digits) is the validation split.
#
# `test_error` is the squared error of the test digits. `pca_error` is the error of PCA with one component per latent.
# In a healthy run, `test_error` is less than half of `pca_error`.
# >>> digits = labelled_images("sample", DEMO.size, DEMO.channels, "digits")
# >>> images = digits.test.loaded()[0]
# >>> show(images[:16])
#
# The simplest baseline uses no latents and always predicts the mean training digit. Its error:
# >>> mean_digit = digits.train.loaded()[0].mean(axis=0)
# >>> float(squared_error(from_uint8(images), from_uint8(mean_digit)))


def principal_components(images: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [values] and the first `count` principal components [count, values] of uint8 images."""
    from scipy.sparse.linalg import svds

    rows = from_uint8(images).numpy().reshape(len(images), -1)
    mean = rows.mean(axis=0)
    rows -= mean
    if not rows.any():
        return mean, rows[:1]
    return mean, svds(rows, min(count, min(rows.shape) - 1), rng=0)[2][::-1]


def project(mean: np.ndarray, components: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Reconstruct uint8 images from principal components: the linear reconstruction with the least training error."""
    rows = from_uint8(images).numpy().reshape(len(images), -1) - mean
    return to_uint8(rows @ components.T @ components + mean).reshape(images.shape)


def evaluate(
    images: np.ndarray, train_images: np.ndarray, trained: dict[Config, Networks], config: Config, output_dir: Path
) -> dict[str, float]:
    """Return the errors of the `trained` networks and of PCA on uint8 test images; write `reconstructions.png`."""
    mean, components = principal_components(train_images, max(each.latent_dim for each in trained))
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {"noisy": np.copy} if config.noise else {}
    for each in sorted(trained, key=lambda each: (each.latent_dim, each.noise)):
        note = ", trained without noise" if each.noise < config.noise else ""
        methods[f"z = {each.latent_dim}{note}"] = functools.partial(reconstruct, trained[each])
        methods[f"PCA {each.latent_dim}"] = functools.partial(project, mean, components[: each.latent_dim])
    errors = dict.fromkeys(methods, 0.0)
    for seed, start in enumerate(range(0, len(images), 500)):
        part = images[start : start + 500]
        inputs = to_uint8(add_noise(part, config.noise, Noise(seed)))
        for name, method in methods.items():
            error = float(squared_error(from_uint8(part), from_uint8(method(inputs))))
            errors[name] += error * len(part) / len(images)
    shown = images[:: max(1, len(images) // 10)][:10]
    inputs = to_uint8(add_noise(shown, config.noise, Noise(config.seed)))
    rows = {"original": shown} | {f"{name}: error {errors[name]:.4f}": each(inputs) for name, each in methods.items()}
    save_image(rows, Path(output_dir, "reconstructions.png"), zoom=max(1, 56 // config.size))
    scores = {"test_error": errors[f"z = {config.latent_dim}"], "pca_error": errors[f"PCA {config.latent_dim}"]}
    return scores | {f"test_error {name}": error for name, error in errors.items()}


# %% A whole run
# The command `train` calls `run`, which reads the data, trains the networks, scores test images and writes the files.
# With `compare`, `run` also trains networks with other numbers of latents, each in a subfolder of the output folder.


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/autoencoder"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
    compare: tuple[Annotated[int, Range(1, 65_536)], ...] = (),
) -> Path:
    """Train on `data` or resume, score test images, save the run in `output_dir`, and return the path of a figure.

    `compare` lists other values of `latent_dim` to train for comparison. With `noise`, a run without noise is added.
    """
    configs = {f"{output_dir}": config}
    configs |= {f"{output_dir}/latents-{z}": replace(config, latent_dim=z) for z in compare if z != config.latent_dim}
    if compare and config.noise:
        configs[f"{output_dir}/without-noise"] = replace(config, noise=0.0)
    folders = [Run(path, "autoencoder", each, data, accept_data) for path, each in configs.items()]
    trained = {each: build(each) for each in configs.values()}
    images = labelled_images(data, config.size, config.channels, "digits", skip_bad, fetch, require_classes=False)
    stream = images.image_batches(config.batch_size, config.seed)
    for folder in folders:
        folder.start(images.classes)
        train(trained[folder.config], stream, folder.config, folder.folder)
    test, labels = images.test.loaded()
    train_images, _ = images.train.loaded()
    for folder in reversed(folders):
        networks = trained[folder.config]
        shown = trained if folder is folders[0] else {folder.config: networks}
        for each in shown.values():
            if each.decoder.input_shape == (None, 2):
                latents = predict(each.encoder, from_uint8(test))
                images.save_latents(latents, labels, folder.folder / "latents.png", "The two latents of test images")
                save_image(latent_grid(each.decoder, latents), folder.folder / "sweep.png", columns=16, zoom=2)
        scores = functools.partial(evaluate, test, train_images, shown, folder.config, folder.folder)
        image = folder.finish(networks, scores, folder.folder / "reconstructions.png")
    return image


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Compare 2, 5, 10 and 50 latents on handwritten digits; return the path of a figure with reconstructions."""
    return run("sample", config, output_dir, compare=(2, 5, 10, 50))


def reconstruct_files(
    source: Path, destination: Path, invert: bool = False, skip_bad: bool = False, run: Path = DEMO_RUN
) -> Path:
    """Reconstruct the centre crop of an image, or of each image in a folder. Networks trained with noise also denoise.

    `invert` inverts the input. Use it if the input has a bright background but the training images have a dark one. The
    error between input and reconstruction is printed.
    """
    trained = Run.load(run, "autoencoder", Config)
    latent_shape = (trained.config.latent_dim,)
    encoder = trained.network("encoder", trained.image_shape, latent_shape)
    networks = Networks(encoder, trained.network("decoder", latent_shape, trained.image_shape))
    for name, image, target in trained.images(source, destination, invert, skip_bad):
        reconstruction = reconstruct(networks, image[None])[0]
        save_image(reconstruction, target)
        print(f"{name}  error {float(squared_error(from_uint8(image), from_uint8(reconstruction))):.4f}")
    return destination


# %% Try it
# The effect of each of the ten latents. Each row varies one latent of a held-out digit, from the 2nd to the 98th
# percentile of that latent, and keeps the other nine fixed. Most latents affect several properties of the digit,
# because the loss does not reward interpretable latents. Some images are no longer digits.
# >>> trained = Run.load(DEMO_RUN, "autoencoder", Config)
# >>> networks = Networks(trained.network("encoder"), trained.network("decoder"))
# >>> latents = predict(networks.encoder, from_uint8(images))
# >>> rows = np.tile(latents[0], (DEMO.latent_dim, 9, 1))
# >>> for latent, (low, high) in enumerate(np.percentile(latents, (2, 98), axis=0).T):
# ...     rows[latent, :, latent] = np.linspace(low, high, 9)
# >>> show(to_uint8(predict(networks.decoder, rows.reshape(-1, DEMO.latent_dim))), columns=9)
#
# A denoiser, trained for ten epochs with the preset `DENOISE`. From top to bottom: noisy held-out digits, the output
# of the demo's network (trained without noise), the output of the denoiser, and the clean digits. Ten latents cannot
# encode the noise, so even the demo's network removes most of it. The denoiser gives clearer digits.
# >>> denoiser = build(DENOISE)
# >>> history = train(denoiser, digits.image_batches(64, DENOISE.seed), replace(DENOISE, epochs=10))
# >>> clean = images[::150]
# >>> noisy = to_uint8(add_noise(clean, DENOISE.noise, Noise(1)))
# >>> show(np.concatenate([noisy, reconstruct(networks, noisy), reconstruct(denoiser, noisy), clean]))


if __name__ == "__main__":
    presets = {"paper": Config(), "wide": WIDE, "denoise": DENOISE, "demo": DEMO}
    run_command(demo, presets=presets, train=run, reconstruct=reconstruct_files)
