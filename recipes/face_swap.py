"""Face swap: show one person's expression on another's face, by one encoder and a decoder for each of the two.

Consent  Train it on faces of people who have agreed to that and to what becomes of the pictures, and on nobody else's.
         Never pass a result off as real. What `swap` writes is marked as synthetic: in its metadata, always, and by a
         caption in a corner, unless you turn that off.
Paper    Perov et al., "DeepFaceLab", arXiv:2005.05535, section 3.2 (its DF structure, without masks and landmarks).
Images   uint8 [n, size, size, 3] at the borders; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim]; codes: float32 [n, size/8, size/8, 4 base_filters].
Idea     The encoder serves both people, and each decoder learns to undo random warps of one person's faces. Nothing
         tells the encoder who it sees, so a decoder can read the latents of the other person too, as its own.
Differs  1. One optimizer for the sum of both losses, whose rate falls to 0; one pass of the encoder for both people.
         2. A's colours are moved to B's, and before a swap the latents too: what differs on average is no expression.
Run      python -m recipes.face_swap                                        the demo: two drawn people, offline
         python -m recipes.face_swap train --data DIR --output-dir runs/us  two folders of photos, one a person
         python -m recipes.face_swap swap photo.jpg out.png --run runs/us   B's face on A's photo, or a folder's
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, batches, side_by_side
from common.cli import run_command
from common.errors import InputError
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.face_finding import PersonShift, convert_faces, drawn_people, judge_swaps, two_people
from common.images import from_uint8, save_table, to_uint8
from common.latents import NormalMap
from common.lazy import keras, tf
from common.ranges import BatchSize, BelowOne, Epochs, Filters, LearningRate, Range, Seed, Share, Units
from common.runs import check_run, finish_run, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration
# `latent_dim` is the bottleneck. It should hold the expression and the pose and have no room for more: in the demo 24
# numbers are enough, the preset for photos has 1,024. `warp` is how far faces are bent before the encoder sees them;
# without it, copying pixels would do, and with too much eyes and mouth are no longer where they were. `up_kernel` of
# 4 overlaps and is smooth after less training than the usual 2. `deviation` brings the spread of A's colours to B's,
# and not their mean alone; `mirror` doubles the faces, but takes away what differs between left and right. `DEMO` has
# an eighth of the filters, at forty times the learning rate.


@dataclass(frozen=True, kw_only=True)
class Config:
    """The usual settings for photos; `DEMO` is the same recipe made small."""

    size: Annotated[int, Range(32, 256)] = 64  # pixels, a multiple of 16 from 32 to 256
    base_filters: Filters = 128  # of the layer next to the image; doubles three times
    latent_dim: Units = 1024  # units of the bottleneck
    up_kernel: Annotated[int, Range(2, 8)] = 2  # of the transposed convolutions; 4 is smooth after less training
    warp: Share = 0.03  # deviation of the displacement of the points of a 5 x 5 grid, as a share of the size
    mirror: bool = True  # turn half of the faces left to right; wrong where a parting or a scar must keep its side
    deviation: bool = True  # move the deviations of A's colours to B's too, and not the means alone
    margin: Annotated[float, Range(0, 2)] = 0.1  # taken around the box from brows to chin, share of its side
    batch_size: BatchSize = 32  # of each person
    learning_rate: LearningRate = 5e-5  # falls to 0 along a cosine
    beta_1: BelowOne = 0.5  # Adam
    epochs: Epochs = 1000
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


DEMO = Config(base_filters=16, latent_dim=24, up_kernel=4, mirror=False, batch_size=16, learning_rate=2e-3, epochs=90)
DEMO_RUN = Path("runs/face_swap-demo")
Direction = Literal["a2b", "b2a"]

# %% Networks
# One encoder reads the faces of both people, and the layers after its bottleneck serve both too; then there is a
# decoder for each. The swap is a trick of wiring: A's face goes through the encoder as always, and comes out of B's
# decoder. It works as far as the encoder describes a smile of A and a smile of B by the same numbers. That the two
# share everything up to the decoders, and that there is little room, is what leads them there.


class Networks(NamedTuple):
    """The encoder and the layers after its bottleneck, which both people share, and a decoder for each."""

    encoder: keras.Model  # faces [n, size, size, 3] in [-1, 1] -> latents
    inter: keras.Model  # latents -> codes
    decoder_a: keras.Model  # codes -> faces of A, in [-1, 1]
    decoder_b: keras.Model  # codes -> faces of B


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return the four networks, untrained; ValueError for a size that does not halve four times."""
    layers, smallest = keras.layers, config.size // 16
    if config.size % 16:
        raise InputError(f"size must be a multiple of 16, got {config.size}")
    seeds = keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.HeUniform(seeds)}
    widths = [config.base_filters * 2**level for level in range(4)]  # next to the image first

    def enlarge(x, width, **last):
        x = layers.Conv2DTranspose(width, config.up_kernel, 2, "same", **init)(x)
        return layers.LeakyReLU(negative_slope=0.1, **last)(x)

    x = faces = keras.Input((config.size, config.size, 3), name="faces")
    for width in widths:
        x = layers.LeakyReLU(negative_slope=0.1)(layers.Conv2D(width, 5, 2, "same", **init)(x))
    encoder = keras.Model(
        faces, layers.Dense(config.latent_dim, dtype="float32", **init)(layers.Flatten()(x)), name="encoder"
    )

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Reshape((smallest, smallest, widths[3]))(layers.Dense(smallest**2 * widths[3], **init)(latents))
    inter = keras.Model(latents, enlarge(x, widths[2], dtype="float32"), name="inter")

    decoders = []
    for person in ("a", "b"):
        x = codes = keras.Input(inter.output_shape[1:], name="codes")
        for width in (widths[1], widths[0], max(1, widths[0] // 2)):
            x = enlarge(x, width)
        x = layers.Conv2D(3, 3, 1, "same", activation="tanh", dtype="float32", **init)(x)
        decoders.append(keras.Model(codes, x, name=f"decoder_{person}"))
    return Networks(encoder, inter, *decoders)


# %% Losses
# The mean absolute difference of pixels, for each person by itself. There is no loss for the swap: the photos are not
# pairs, so nobody knows what B would have looked like. What a swap is worth can be measured only where both people
# can be drawn at the same moment, as the embedded ones can.


def l1_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Mean absolute difference of pixels in [-1, 1]; 0.1 is a likeness, 0.05 shows the eyes' expression."""
    return tf.reduce_mean(tf.abs(target - output))


# %% Warping
# The encoder sees a face whose points have been moved at random, and the decoder has to give the plain one. So what
# comes out cannot be what went in: the decoder has to know what its person looks like, and to take from the encoder
# no more than where things are. A decoder that only ever put back what it was given would give A back as A.


def warp(images: tf.Tensor, moves: tf.Tensor) -> tf.Tensor:
    """Return images [n, size, size, 3] whose pixels come from places moved by a 5 x 5 grid of displacements.

    `moves` [n, 5, 5, 2] are down and right, in pixels; the grid's corners are the image's. Displacements between its
    points and pixels between those of the image are found linearly; beyond the edges the edge goes on.
    """
    size = images.shape[1]
    pixels = tf.range(size, dtype=tf.float32)
    reach = tf.nn.relu(1 - tf.abs(pixels[:, None] * 4 / (size - 1) - tf.range(5.0)))  # [size, 5], rows sum to 1
    places = tf.einsum("yi,nijc,xj->nyxc", reach, moves, reach)
    places += tf.stack(tf.meshgrid(pixels, pixels, indexing="ij"), axis=-1)
    places = tf.clip_by_value(places, 0.0, size - 1.0)
    corner = tf.minimum(tf.floor(places), size - 2.0)
    down, right = tf.split(places - corner, 2, axis=-1)
    y, x = tf.unstack(tf.cast(corner, tf.int32), axis=-1)
    flat = tf.reshape(images, (-1, size * size, 3))
    a, b, c, d = (tf.gather(flat, y * size + x + step, batch_dims=1) for step in (0, 1, size, size + 1))
    return (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)


# What the demo's warp makes of a chessboard, anew at every step:
# >>> board = (np.indices((64, 64)) // 8).sum(axis=0) % 2
# >>> boards = np.tile((board * 255).astype(np.uint8)[None, ..., None], (8, 1, 1, 3))
# >>> moves = keras.random.normal((8, 5, 5, 2), stddev=DEMO.warp * DEMO.size, seed=0)
# >>> show(to_uint8(warp(from_uint8(boards), moves)).repeat(2, axis=1).repeat(2, axis=2))


# %% Training
# A batch has faces of both people, not pairs. They are warped and encoded in one pass; each half is decoded by its
# own decoder and compared with its plain faces, and one Adam moves all four networks, at a rate that falls to 0.
#
# What is logged: `l1_a` and `l1_b`, of pixels in [-1, 1]. In the demo both fall from 0.33 after one epoch to 0.10
# after 30 and about 0.08 after 90. They stay close together. They say nothing about the swap: look at `samples/`,
# where each held-out face stands above what both decoders make of it.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 (faces of A, faces of B), not pairs; return each epoch's mean losses."""
    encoder, inter, decoder_a, decoder_b = networks
    variables = [variable for network in networks for variable in network.trainable_variables]
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(rate, variables, config.execution, config.beta_1)
    seeds = keras.random.SeedGenerator(config.seed + 1)

    @tf.function
    def step(faces_a: tf.Tensor, faces_b: tf.Tensor) -> dict[str, tf.Tensor]:
        faces = from_uint8(tf.concat([faces_a, faces_b], 0))
        count = tf.shape(faces)[0]
        if config.mirror:
            turned = draw_part(keras.random.uniform, (count, 1, 1, 1), seed=seeds) < 0.5
            faces = tf.where(turned, faces[:, :, ::-1], faces)
        moves = config.warp * config.size * draw_part(keras.random.normal, (count, 5, 5, 2), seed=seeds)
        plain_a, plain_b = tf.split(faces, 2)
        with tf.GradientTape() as tape:
            codes_a, codes_b = tf.split(inter(encoder(warp(faces, moves), training=True), training=True), 2)
            loss_a = share(l1_loss(plain_a, decoder_a(codes_a, training=True)))
            loss_b = share(l1_loss(plain_b, decoder_b(codes_b, training=True)))
            loss = loss_a + loss_b
        optimizer.apply(tape.gradient(loss, variables, loss_scale(optimizer)), variables)
        return {"l1_a": loss_a, "l1_b": loss_b}

    state = networks._asdict() | {"optimizer": optimizer, "seeds": seeds}

    def sample(epoch: int) -> None:
        if output_dir is not None and data.held_out:
            count, rows = min(8, *map(len, data.held_out)), dict[str, np.ndarray]()
            for name, faces in zip("AB", data.held_out, strict=True):
                latents = encode(encoder, faces[:count])
                as_a, as_b = (decode(inter, decoder, latents) for decoder in (decoder_a, decoder_b))
                rows |= {name: faces[:count], f"{name} as A": as_a, f"{name} as B": as_b}
            save_table(rows, output_dir / "samples" / f"epoch-{epoch:04d}.png", max(1, 128 // config.size))

    return fit(step, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution)


# %% Use
# Two things differ between the people that are no expression, and would come along in a swap: the colours of their
# pictures, and how the encoder places their latents, since it can tell who it sees after all. So A's colours are
# brought to B's, and then A's latents to the mean and the covariance of B's. In a trial the L1 of swaps fell from
# 0.069 to 0.047 by moving latents alone.


def encode(encoder: keras.Model, faces: np.ndarray) -> np.ndarray:
    """Return the latents of uint8 faces [n, size, size, 3]; those of A are to have the colours of B."""
    return np.concatenate([encoder(from_uint8(faces[i : i + 100]), training=False) for i in range(0, len(faces), 100)])


def decode(inter: keras.Model, decoder: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Return the faces that a decoder draws, uint8 [n, size, size, 3]; A comes in the colours of B."""
    parts = [inter(latents[start : start + 100], training=False) for start in range(0, len(latents), 100)]
    return np.concatenate([to_uint8(decoder(part, training=False)) for part in parts])


def swap(networks: Networks, faces: np.ndarray, direction: Direction, shift: PersonShift) -> np.ndarray:
    """Give uint8 faces of A [n, size, size, 3] the face of B or, with b2a, faces of B that of A."""
    encoder, inter, decoder_a, decoder_b = networks
    if direction == "a2b":
        return decode(inter, decoder_b, shift.latents.there(encode(encoder, shift.colours.there(faces))))
    return shift.colours.back(decode(inter, decoder_a, shift.latents.back(encode(encoder, faces))))


# %% A whole run
# The embedded data are two people that the project draws, 480 faces of one and 360 of the other, at different
# moments. Held out are 200 moments at which both are drawn, which no training needs and which photos do not offer:
# there, the true answer is known.
#
# The scores, for either direction: L1 in [0, 1] and SSIM of swaps against the true face. In a full demo that is 0.046
# and 0.044, 0.773 and 0.759. Beside them stands what is to be had without networks: the face left as it is
# (`copied`), 0.131 and 0.377, and with the other person's colours (`recoloured`), 0.155 and 0.134. The first held-out
# moments, A above and B below:
# >>> from common.faces import drawn_faces
# >>> person_a, person_b = (drawn_faces(8, 3 * DEMO.seed + 2, 92, who)[0][:, 16:80, 14:78] for who in (11, 8))
# >>> show(np.concatenate([person_a, person_b]))


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/face_swap"),
    skip_bad: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train or go on, score what was held out; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "face_swap", config, data, accept_data)
    networks = build(config)
    sample = functools.partial(drawn_people, config.size, config.margin, config.seed)
    people = two_people(data, config.size, config.margin, sample, skip_bad)
    colours = people.colours(config.deviation)
    moved = colours.there(people.a)
    sides = ((moved, colours.there(people.held_out_a)), (people.b, people.held_out_b))
    size = min(config.batch_size, len(people.a), len(people.b))
    streams = [batches(faces, size, config.seed, held_out=(held_out,)) for faces, held_out in sides]
    start_run(output_dir, "face_swap", config, data, people.names)
    train(networks, side_by_side(*streams), config, output_dir)
    shift = PersonShift(colours, NormalMap.between(*(encode(networks.encoder, faces) for faces in (moved, people.b))))
    shift.write(output_dir / "shift.npz")
    picture = output_dir / "swaps.png"
    scores = judge_swaps(people, functools.partial(swap, networks, shift=shift), colours, picture)
    finish_run(output_dir, networks, lambda: scores)
    return picture


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn the faces of two drawn people; return the picture of some swaps beside the truth."""
    return experiment("sample", config, output_dir)


def swap_file(
    source: Path,
    destination: Path,
    direction: Direction = "a2b",
    visible_mark: bool = True,
    skip_bad: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Swap the largest face of a photo, or of every photo of a folder: a2b puts B's on photos of A, b2a the reverse."""
    config = read_run(run, "face_swap", Config)
    image, latent = (config.size, config.size, 3), (config.latent_dim,)
    encoder, inter = load_network(run, "encoder", image, latent), load_network(run, "inter", latent)
    decoders = (load_network(run, name, inter.output_shape[1:], image) for name in ("decoder_a", "decoder_b"))
    networks, shift = Networks(encoder, inter, *decoders), PersonShift.read(run / "shift.npz", config.latent_dim)
    convert = functools.partial(swap, networks, direction=direction, shift=shift)
    return convert_faces(source, destination, convert, config.size, config.margin, visible_mark, skip_bad)


# %% Try it
# One held-out face of A, what B looks like in its place, and B at that moment as the project draws it. These are
# drawings. Photos must be of people who have agreed to this and to what becomes of the pictures, and of nobody else.
# >>> networks = Networks(*(load_network(DEMO_RUN, name) for name in Networks._fields))
# >>> shift = PersonShift.read(DEMO_RUN / "shift.npz")
# >>> one = 3
# >>> swapped = swap(networks, person_a[one : one + 1], "a2b", shift)[0]
# >>> show(np.stack([person_a[one], swapped, person_b[one]]).repeat(3, axis=1).repeat(3, axis=2))
#
# A turns the head and smiles now and then; B follows. In the middle stands what the networks make of each frame of A
# by itself, to the right B as drawn.
# >>> from common.images import save_gif
# >>> def filmed(who, turn, smile):
# ...     return drawn_faces(1, 3 * DEMO.seed + 2, 92, who, looking_left=turn, smile=smile)[0][0, 16:80, 14:78]
# >>> turns = 0.5 + 0.45 * np.sin(np.linspace(0, 2 * np.pi, 24, endpoint=False))
# >>> smiles = 0.5 - 0.5 * np.cos(np.linspace(0, 4 * np.pi, 24, endpoint=False))
# >>> film_a, film_b = (np.stack([filmed(who, *now) for now in zip(turns, smiles)]) for who in (11, 8))
# >>> film = np.concatenate([film_a, swap(networks, film_a, "a2b", shift), film_b], axis=2)
# >>> show_file(save_gif(film.repeat(2, axis=1).repeat(2, axis=2), DEMO_RUN.parent / "face_swap-film.gif"))


if __name__ == "__main__":
    run_command(demo, presets={"paper": Config(), "demo": DEMO}, train=experiment, swap=swap_file)
