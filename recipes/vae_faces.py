"""VAE of faces: take a face apart into latents, change its smile, its glasses, its hair, and put it together again.

Paper    Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114; deviation of pixels: Rybkin
         et al. 2021, arXiv:2006.13202; attribute vectors: Larsen et al. 2016, arXiv:1512.09300, section 4.2.
Images   uint8 [n, size, size, channels] at the borders; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], standard normal before a face is seen.
Differs  1. Pixels are Gaussian with the deviation that fits best, so that no weight of the KL term has to be found.
         2. New faces are drawn by the mean and covariance of encoded faces, or by the prior.
Run      python -m recipes.vae_faces                                           # the demo: drawn faces, offline
         python -m recipes.vae_faces train --data DIR --output-dir runs/faces  # faces with a CSV of attributes, CelebA
         python -m recipes.vae_faces edit face.jpg out.png --run runs/faces    # every attribute from -3 to +3
         python -m recipes.vae_faces edit face.jpg out.png --smile 2 --glasses -1 --run runs/faces
         python -m recipes.vae_faces morph one.jpg two.jpg out.gif --run runs/faces
         python -m recipes.vae_faces generate grid.png --count 64 --run runs/faces
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.attributes import attribute_index, attributed_images, with_differing_attributes
from common.batches import Batches, mapped
from common.cli import run_command
from common.errors import InputError
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.faces import FACE_ATTRIBUTES, drawn_faces
from common.files import data_file, read_npz, write_npz
from common.images import from_uint8, save_gif, save_grid, save_table, to_uint8, write_image
from common.labelled import image_batches, square_image
from common.lazy import keras, tf
from common.ranges import BatchSize, Count, Epochs, Filters, Frames, LearningRate, Range, Seed, Units, Weight
from common.runs import check_run, finish_run, image_shape, load_network, read_run, start_run
from common.scores import edit_scores
from common.training import History, fit, share

# %% Configuration
# `latent_dim` is how many numbers describe a face. Glasses, hair and light need far more than digits do; the demo has
# 128, and all of them end up in use. `kl_weight` above 1 pulls latents closer to the prior, which makes softer faces
# and smoother ways between them; below 1 the reverse. `mirror` doubles the faces, but a face and its mirror image
# then count as equally right, so it is off in the demo, where `looking_left` is an attribute. `base_filters` and
# `size` decide how fine a face can be, and most of the time it takes.


@dataclass(frozen=True, kw_only=True)
class Config:
    """112 px, half of a photo network's 224, and 200 latents; `SMALL` is for 64 px."""

    size: Annotated[int, Range(16, 512)] = 112  # pixels; a multiple of 16
    channels: Literal[1, 3] = 3  # 3 for colour, 1 for grey
    latent_dim: Units = 200
    base_filters: Filters = 32  # of the two outer layers of each network; twice as many in the two inner ones
    kl_weight: Weight = 1.0  # above 1: smoother latents and softer faces
    mirror: bool = True  # turn half of the training faces; wrong where an attribute says left or right
    batch_size: BatchSize = 64
    learning_rate: LearningRate = 1e-3  # Adam; falls to 0 along a cosine
    epochs: Epochs = 60
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


SMALL = Config(size=64, batch_size=32, learning_rate=3e-3)
DEMO = Config(size=64, latent_dim=128, mirror=False, batch_size=32, learning_rate=3e-3, epochs=55)
DEMO_RUN = Path("runs/vae_faces-demo")

# %% Networks
# Four convolutions with a stride of 2 bring 64 pixels to 4, and two dense layers give a mean and a log variance for
# each latent: a normal distribution of places, not one place. Four transposed convolutions draw the face from a place
# in it. Nothing but the latents leads from one to the other, so all that a face shows has to pass through 128
# numbers, and what they do not hold is drawn as the average: soft.


class Networks(NamedTuple):
    """The approximate posterior, and the mean of the likelihood."""

    encoder: keras.Model  # images [n, size, size, channels] in [-1, 1] -> mean and log variance [n, latent_dim] each
    decoder: keras.Model  # latents -> images in [-1, 1]


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return the networks, untrained. Raises ValueError for a size that 16 does not divide."""
    layers, smallest = keras.layers, config.size // 16
    if config.size % 16:
        raise InputError(f"size must be a multiple of 16, got {config.size}")
    widths = [config.base_filters * times for times in (1, 1, 2, 2)]  # next to the image first
    init = {"kernel_initializer": keras.initializers.HeNormal(keras.random.SeedGenerator(config.seed))}

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    for width in widths:  # size -> size / 16
        x = layers.Conv2D(width, 4, 2, "same", activation="silu", **init)(x)
    x = layers.Flatten()(x)
    small = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed + 1))}
    posterior = [
        layers.Dense(config.latent_dim, name=name, dtype="float32", **small)(x) for name in ("mean", "log_variance")
    ]
    encoder = keras.Model(images, posterior, name="encoder")

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(smallest * smallest * widths[-1], activation="silu", **init)(latents)
    x = layers.Reshape((smallest, smallest, widths[-1]))(x)
    for width in reversed(widths[:-1]):  # size / 16 -> size / 2
        x = layers.Conv2DTranspose(width, 4, 2, "same", activation="silu", **init)(x)
    x = layers.Conv2DTranspose(config.channels, 4, 2, "same", activation="tanh", dtype="float32", **small)(x)
    return Networks(encoder, keras.Model(latents, x, name="decoder"))


# %% Losses
# As in `recipes.vae`, the loss is -log p(x | z) plus KL(q(z | x) || N(0, I)), in nats. Pixels are Gaussian round what
# the decoder draws, and the question is with which deviation. Fixed at 1, it makes errors of pixels cheap, and the KL
# term wins; a weight would have to be found to undo that. Here the deviation is what fits the batch best, so the
# weight finds itself: as copies get better, each further bit of error costs more.
#
# Densities can be above 1, so the loss goes far below 0.


def negative_log_likelihood(images: tf.Tensor, means: tf.Tensor) -> tf.Tensor:
    """Return -log p(x | z) in nats an image, for Gaussian pixels with the deviation that makes it least (Rybkin, 4)."""
    values = int(np.prod(images.shape[1:]))
    return 0.5 * values * (tf.math.log(2.0 * np.pi * tf.reduce_mean((images - means) ** 2)) + 1.0)


# What it is worth to halve all errors: log 2 for each of the 64 x 64 x 3 values, whatever the errors were.
# >>> grey = tf.zeros([1, 64, 64, 3])
# >>> gain = negative_log_likelihood(grey, grey + 0.2) - negative_log_likelihood(grey, grey + 0.1)
# >>> float(gain), float(64 * 64 * 3 * np.log(2))


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Return KL(q(z | x) || N(0, I)) in nats, [n]; 0 says that the latents hold nothing."""
    return 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - 1.0 - log_variance, axis=1)


# %% Training
# Each step encodes the faces, draws one place for each, copies them from there, and moves both networks by one Adam,
# whose rate falls to 0 along a cosine.
#
# What is logged, in nats an image: `reconstruction` falls below 0 in the second epoch, to -6,600 after ten and
# -10,900 at the end of the demo's 55, which is a deviation of 0.10 for pixels in [-1, 1]. `kl` grows meanwhile, from
# 130 to 400: what makes better copies has to be said. Growing is its healthy direction; a `kl` near 0 says that the
# latents hold nothing. `loss` is their sum, with `kl_weight`. `samples/` shows unseen faces above their copies.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images; return each epoch's means, in nats an image."""
    encoder, decoder = networks
    variables = encoder.trainable_variables + decoder.trainable_variables
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(rate, variables, config.execution)
    noise = keras.random.SeedGenerator(config.seed + 2)

    @tf.function
    def step(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        images = from_uint8(batch)
        with tf.GradientTape() as tape:
            mean, log_variance = encoder(images, training=True)
            draws = draw_part(keras.random.normal, tf.shape(mean), seed=noise)
            copies = decoder(mean + tf.exp(log_variance / 2.0) * draws, training=True)
            reconstruction = share(negative_log_likelihood(images, copies))
            kl = share(tf.reduce_mean(kl_divergence(mean, log_variance)))
            loss = reconstruction + config.kl_weight * kl
        optimizer.apply(tape.gradient(loss, variables, loss_scale(optimizer)), variables)
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    def sample(epoch: int) -> None:
        if output_dir is not None:
            faces = data.held_out[0][:8]
            rows = {"unseen": faces, "copied": decode(decoder, encode(encoder, faces))}
            save_table(rows, output_dir / "samples" / f"epoch-{epoch:04d}.png")

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution)


# %% Use
# No network knows what a smile is. After training `survey` takes the mean latent of the faces that have an attribute,
# and takes away that of the faces that have not: the difference is the attribute's vector, and adding it to any
# face's latents adds the smile. Attributes cost a table of yes and no, and no training.
#
# The encoded faces do not fill the prior evenly. `survey` therefore keeps their mean and covariance too, and new
# faces are drawn from that normal distribution rather than from N(0, I).


Strength = Annotated[float, Range(-100, 100)]
Space = dict[str, np.ndarray]
"""`names` of the attributes, their `vectors` [n, latent_dim]; `mean` and `factor` of the covariance of the latents."""


def encode(encoder: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the mean of the latents, float32 [n, latent_dim], for images uint8 [n, size, size, channels]."""
    return mapped(encoder, from_uint8(images))[0]


def decode(decoder: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Return images, uint8 [n, size, size, channels], for latents [n, latent_dim]."""
    return to_uint8(mapped(decoder, latents.astype(np.float32)))


def survey(encoder: keras.Model, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Space:
    """Find what an attribute adds to the latents on average (Larsen, 4.2); labels are uint8 [n, attributes], 1 yes."""
    latents = encode(encoder, images)
    vectors = [latents[yes == 1].mean(axis=0) - latents[yes == 0].mean(axis=0) for yes in labels.T]
    factor = np.linalg.cholesky(np.cov(latents.T) + 1e-6 * np.eye(latents.shape[1])).astype(np.float32)
    table = np.array(vectors, np.float32).reshape(len(names), latents.shape[1])
    known = {"names": np.array(names, str), "vectors": table}
    return known | {"mean": latents.mean(axis=0), "factor": factor}


def strips(networks: Networks, space: Space, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each attribute the uint8 image with -3 to +3 times its vector added, the copy in the middle."""
    added = np.arange(-3, 4)[:, None] * space["vectors"][:, None]
    edited = [decode(networks.decoder, encode(networks.encoder, image[None]) + row) for row in added]
    return dict(zip(map(str, space["names"]), edited, strict=True))


def generate(decoder: keras.Model, count: int, seed: int = 0, space: Space | None = None) -> np.ndarray:
    """Return new faces, uint8 [count, size, size, channels], from N(0, I), or as encoded faces lie in `space`."""
    latents = keras.random.normal((count, decoder.input_shape[-1]), seed=seed).numpy()
    return decode(decoder, latents if space is None else space["mean"] + latents @ space["factor"].T)


# %% A whole run
# The embedded data are 3,000 faces that the project draws, of nobody, each with nine attributes, yes or no. Every
# fifth, 600 in all, is held out for the test.
#
# The scores: `test_absolute_error`, of copies of held-out faces, in [0, 1], 0.042 in a full demo. For each attribute
# `flips` says in how many held-out faces the edit at 3 or -3 makes a classifier change its mind, one that was trained
# on other drawn faces and comes with the project: 1.00 for smiles, 0.797 for hats, whose vector is a mean of many
# colours, and 0.99 or more for all others. `others_moved` is by how much the other attributes change, as a share of
# that, 0.07 for smiles; `identity_moved` how far a face goes aside from the vector, where 1 is as far as another face
# is.
# >>> faces, answers = drawn_faces(80, DEMO.seed, DEMO.size)
# >>> held_out = faces[4::5]
# >>> show(held_out.repeat(2, axis=1).repeat(2, axis=2))
#
# What the table says of the first two:
# >>> [[name for name, yes in zip(FACE_ATTRIBUTES, row) if yes] for row in answers[4:10:5]]


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/vae_faces"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, survey the latents, score edits; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "vae_faces", config, data, accept_data)
    networks = build(config)
    sample = functools.partial(drawn_faces, 3000, config.seed, config.size)
    faces = attributed_images(data, config.size, config.channels, sample, skip_bad, fetch, FACE_ATTRIBUTES)
    faces = with_differing_attributes(faces)
    start_run(output_dir, "vae_faces", config, data)
    train(networks, image_batches(faces, config.batch_size, config.seed, mirror=config.mirror), config, output_dir)
    space = survey(networks.encoder, *faces.train.loaded(10_000), faces.names)
    write_npz(output_dir / "space.npz", space)
    images = faces.test.loaded(2000)[0]
    rows = {"unseen": images[:8], "copied": decode(networks.decoder, encode(networks.encoder, images[:8]))}
    picture = save_table(rows, output_dir / "reconstructions.png")
    drawn = {"as encoded": generate(networks.decoder, 8, 1, space), "from N(0, I)": generate(networks.decoder, 8, 1)}
    save_table(drawn, output_dir / "samples.png")
    if faces.names:
        typical = np.linalg.norm(encode(networks.encoder, images) - space["mean"], axis=1).argmin()
        picture = save_table(strips(networks, space, images[typical]), output_dir / "attributes.png")
    judge = data_file("face_classifier.keras") if data == "sample" else None
    finish_run(output_dir, networks, lambda: evaluate(networks, space, images, judge))
    return picture


def evaluate(networks: Networks, space: Space, images: np.ndarray, judge: Path | None) -> dict[str, float]:
    """Return the error of copies, 0..1, and how far edits move what they should not, 1 as far as another face is."""
    latents = encode(networks.encoder, images)
    copies = decode(networks.decoder, latents)
    scores = {"test_absolute_error": float(np.abs(images / 255 - copies / 255).mean())}

    def edit(number: int, signs: np.ndarray) -> np.ndarray:
        return decode(networks.decoder, latents + 3 * signs[:, None] * space["vectors"][number])

    again = encode(networks.encoder, copies)
    apart = np.linalg.norm(again - np.roll(again, 1, axis=0), axis=1).mean()
    for number, (name, vector) in enumerate(zip(space["names"], space["vectors"], strict=True)):
        moved = encode(networks.encoder, edit(number, np.ones(len(images)))) - again
        aside = moved - np.outer(moved @ vector, vector) / (vector @ vector)
        scores[f"{name}_identity_moved"] = float(np.linalg.norm(aside, axis=1).mean() / apart)
    return scores if judge is None else scores | edit_scores(judge, tuple(space["names"]), copies, edit)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn drawn faces; return the picture of one with every attribute from -3 to +3."""
    return experiment("sample", config, output_dir)


def open_run(run: Path) -> tuple[Networks, Space, Callable[[Path], np.ndarray]]:
    """Return a run's networks, its space, and a function that reads a picture as the networks take it."""
    config = read_run(run, "vae_faces", Config)
    image, latents = image_shape(config), config.latent_dim
    encoder = load_network(run, "encoder", image, [(latents,), (latents,)])
    networks = Networks(encoder, load_network(run, "decoder", (latents,), image))
    shapes = {"names": ("n",), "vectors": ("n", latents), "mean": (latents,), "factor": (latents, latents)}
    space = read_npz(run / "space.npz", shapes, texts=["names"])
    return networks, space, functools.partial(square_image, size=config.size, channels=config.channels)


def edit_file(source: Path, destination: Path, run: Path = DEMO_RUN, **attributes: Strength) -> Path:
    """Write a face with attributes changed, as by --smile 2 --glasses -1; each from -3 to +3 where none is named."""
    networks, space, read = open_run(run)
    if not len(space["names"]):
        raise InputError(f"{run}: trained on faces without attributes, so there is none to change")
    if not attributes:
        return save_table(strips(networks, space, read(source)), destination)
    chosen = [attribute_index(tuple(space["names"]), name) for name in attributes]
    change = np.array(list(attributes.values()), np.float32) @ space["vectors"][chosen]
    return write_image(decode(networks.decoder, encode(networks.encoder, read(source)[None]) + change)[0], destination)


def morph_file(source: Path, other: Path, destination: Path, steps: Frames = 24, run: Path = DEMO_RUN) -> Path:
    """Write the straight way between the latents of two faces as a GIF or, for any other suffix, as a strip."""
    networks, _, read = open_run(run)
    start, end = encode(networks.encoder, np.stack([read(source), read(other)]))
    images = decode(networks.decoder, start + np.linspace(0, 1, steps)[:, None] * (end - start))
    return save_gif(images, destination) if destination.suffix == ".gif" else save_grid(images, destination, steps)


def generate_file(destination: Path, count: Count = 64, seed: Seed = 0, run: Path = DEMO_RUN) -> Path:
    """Write new faces, drawn as encoded faces lie, as one grid."""
    networks, space, _ = open_run(run)
    return save_grid(generate(networks.decoder, count, seed, space), destination)


# %% Try it
# A held-out face, and a slider for each attribute; with all at 0 it is its copy, which stands in the middle. The hair
# is dyed to begin with.
# >>> from ipywidgets import FloatSlider, interact
# >>> networks, space, _ = open_run(DEMO_RUN)
# >>> face = held_out[8]
# >>> latents = encode(networks.encoder, face[None])[0]
# >>> def beside(change):
# ...     copy, changed = decode(networks.decoder, np.stack([latents, latents + change]))
# ...     return show(np.stack([face, copy, changed]).repeat(2, axis=1).repeat(2, axis=2))
# >>> def edited(**strengths):
# ...     return beside(list(strengths.values()) @ space["vectors"])
# >>> sliders = {str(name): FloatSlider(0, min=-3, max=3, step=0.25) for name in space["names"]}
# >>> sliders["blond"].value = 3
# >>> interact(edited, **sliders);
#
# The latents themselves have no names. Three sliders move the three that differ most from face to face, three the
# main axes along which the latents of faces lie, each by so many of its deviations. A single latent does little,
# since what a face shows is spread over many; an axis does much: in a full demo the first is about the background,
# the second about hair, the third about skin.
# >>> covariance = space["factor"] @ space["factor"].T
# >>> deviations = np.sqrt(np.diag(covariance))
# >>> moves = {f"latent_{place}": np.diag(deviations)[place] for place in deviations.argsort()[:-4:-1]}
# >>> variances, axes = np.linalg.eigh(covariance)
# >>> moves |= {f"axis_{number}": np.sqrt(variances[-number]) * axes[:, -number] for number in (1, 2, 3)}
# >>> def moved(**steps):
# ...     return beside(list(steps.values()) @ np.stack(list(moves.values())))
# >>> sliders = {name: FloatSlider(0, min=-3, max=3, step=0.25) for name in moves}
# >>> sliders["axis_3"].value = -3
# >>> interact(moved, **sliders);
#
# Vectors add up. From left to right one held-out face becomes another. From above: as they are; with a smile; with
# glasses; with glasses and blond hair.
# >>> start, end = encode(networks.encoder, held_out[[2, 10]])
# >>> way = start + np.linspace(0, 1, 8)[:, None] * (end - start)
# >>> added = [{}, {"smile": 3}, {"glasses": 3}, {"glasses": 3, "blond": 2}]
# >>> known = dict(zip(space["names"], space["vectors"]))
# >>> rows = [way + sum(times * known[name] for name, times in some.items()) for some in added]
# >>> show(decode(networks.decoder, np.concatenate(rows)).repeat(2, axis=1).repeat(2, axis=2))


if __name__ == "__main__":
    presets = {"paper": Config(), "small": SMALL, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, edit=edit_file, morph=morph_file, generate=generate_file)
