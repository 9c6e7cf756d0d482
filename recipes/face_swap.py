"""Face swap: transfer one person's expression to another person's face, with one encoder and two decoders.

Consent  Train only on faces of people who have agreed to this and to the use of the results. Never pass a result off
         as real. `swap` marks its output as synthetic: always in the metadata, and with a caption in a corner unless
         you turn it off.
Paper    Perov et al., "DeepFaceLab", arXiv:2005.05535, section 3.2 (its DF structure, without masks and landmarks).
Images   uint8 [n, size, size, 3] at the API boundary; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim]; codes: float32 [n, size/8, size/8, 4 base_filters].
Idea     Both people share one encoder. Each decoder learns to undo random warps of one person's faces. The encoder does
         not get the person's identity, so each decoder can also decode latents of the other person.
Differs  1. One optimizer minimises the sum of both losses, with a learning rate that decays to 0. One encoder pass
            processes the faces of both people.
         2. The colours of A are matched to the colours of B. Before a swap, the latents are matched too. This removes
            the average differences between the two people, which are unrelated to expression.
         3. The demo adds DSSIM to the L1 loss, and gives eyes and mouth more weight, as DeepFaceLab does. Its warps
            shrink to 0 during training, and its networks are `light`.
Run      python -m recipes.face_swap                                        the demo: two synthetic people, offline
         python -m recipes.face_swap train --data DIR --output-dir runs/us  two folders of photos, one per person
         python -m recipes.face_swap swap photo.jpg out.png --run runs/us   B's face on photos of A (file or folder)
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

from common.data import Batches, PersonShift, convert_faces, two_people
from common.images import from_uint8, save_image
from common.runs import Range, Run, run_command
from common.training import Noise, adam, fit

# %% Configuration
# `latent_dim` is the size of the bottleneck. The latents should encode expression and pose, and little else. The
# default is 1,024 for photos; the demo needs only 32. `warp` sets how strongly faces are distorted before they are
# encoded. Without distortion, the networks could copy pixels. With too much distortion, the positions of the eyes and
# the mouth are lost. With an `up_kernel` of 4, kernels overlap, and images become smooth after fewer epochs than with
# the default of 2. `match_deviation` matches the standard deviation of colours, not only the mean. `mirror` doubles the
# number of faces, but asymmetries are lost.
#
# Four options make sharp images after few epochs. `dssim_weight` adds a loss that compares contrast and structure in
# small windows, so thin lines such as brows and eyelids count as much as large areas. `eyes_mouth_weight` adds weight
# to the pixels near the eyes and the mouth. `warp_decay` ends the training without distortion, so that their positions
# become exact. `light` saves the layers at high resolution, which take most of the time on a CPU.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for photos. `LIGHT` needs less time, but has not been tested on photos. `DEMO` is smaller."""

    size: Annotated[int, Range(32, 256, multiple_of=16)] = 64  # side of the faces in pixels
    base_filters: Annotated[int, Range(1, 1024)] = 128  # filters of the outermost layer; doubled at each level
    latent_dim: Annotated[int, Range(1, 65_536)] = 1024
    up_kernel: Annotated[int, Range(2, 8)] = 2  # kernel size of the transposed convolutions
    light: bool = False  # fewer layers at high resolution: half of the time per step
    warp: Annotated[float, Range(0, 1)] = 0.03  # standard deviation of the warp, as a fraction of the size
    warp_decay: bool = False  # reduce the warp linearly to 0 during training
    dssim_weight: Annotated[float, Range(0, 1e6)] = 0.0  # weight of the structural loss; 0: only L1
    eyes_mouth_weight: Annotated[float, Range(0, 1e6)] = 0.0  # additional weight of pixels near the eyes and the mouth
    mirror: bool = True  # mirror half of the faces; False preserves asymmetries, such as scars
    match_deviation: bool = True  # match the standard deviation of colours, not only the mean
    margin: Annotated[float, Range(0, 2)] = 0.1  # margin around the face box (brows to chin), as a fraction of its side
    batch_size: Annotated[int, Range(1, 65_536)] = 32  # faces per person
    learning_rate: Annotated[float, Range(0, 10)] = 5e-5  # initial value; decays to 0 along a cosine
    beta_1: Annotated[float, Range(0, 0.999999)] = 0.5  # for Adam
    epochs: Annotated[int, Range(1, 1_000_000)] = 1000
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)


LIGHT = Config(up_kernel=4, light=True, warp_decay=True, dssim_weight=0.5, eyes_mouth_weight=6.0)
DEMO = replace(LIGHT, base_filters=24, latent_dim=32, mirror=False, batch_size=4, learning_rate=2e-3, epochs=30)
DEMO_RUN = Path("runs/face_swap-demo")
Direction = Literal["a2b", "b2a"]

# %% Networks
# Both people share the encoder and the layers after its bottleneck (`inter`). Each person has a separate decoder. A
# swap encodes a face of A as usual and decodes it with the decoder of B. This works if the encoder maps a smile of A
# and a smile of B to the same latents. Shared layers and a narrow bottleneck encourage this.


class Networks(NamedTuple):
    """The shared encoder, the shared layers after its bottleneck, and one decoder per person."""

    encoder: keras.Model  # faces [n, size, size, 3] in [-1, 1] -> latents
    inter: keras.Model  # latents -> codes
    decoder_a: keras.Model  # codes -> faces of A, in [-1, 1]
    decoder_b: keras.Model  # codes -> faces of B


def build(config: Config = Config()) -> Networks:
    """Return the four untrained networks."""
    layers, smallest = keras.layers, config.size // 16
    seeds = keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.HeUniform(seeds)}
    small = {"kernel_initializer": keras.initializers.GlorotUniform(seeds)}
    widths = [config.base_filters * 2**level for level in range(3 if config.light else 4)]  # outermost layer first

    def enlarge(x, width, **last):
        x = layers.Conv2DTranspose(width, config.up_kernel, 2, "same", **init)(x)
        return layers.LeakyReLU(negative_slope=0.1, **last)(x)

    x = faces = keras.Input((config.size, config.size, 3), name="faces")
    for level, width in enumerate(widths):
        kernel, stride = (8, 4) if config.light and level == 0 else (5, 2)
        x = layers.LeakyReLU(negative_slope=0.1)(layers.Conv2D(width, kernel, stride, "same", **init)(x))
    encoder = keras.Model(
        faces, layers.Dense(config.latent_dim, dtype="float32", **init)(layers.Flatten()(x)), name="encoder"
    )

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Reshape((smallest, smallest, widths[-1]))(layers.Dense(smallest**2 * widths[-1], **init)(latents))
    inter = keras.Model(latents, enlarge(x, widths[2], dtype="float32"), name="inter")

    decoders = []
    for person in ("a", "b"):
        x = codes = keras.Input(inter.output_shape[1:], name="codes")
        for width in (widths[1], widths[0]):
            x = enlarge(x, width)
        if config.light:
            x = layers.Conv2DTranspose(3, 4, 2, "same", activation="tanh", dtype="float32", **small)(x)
        else:
            x = enlarge(x, max(1, widths[0] // 2))
            x = layers.Conv2D(3, 3, 1, "same", activation="tanh", dtype="float32", **init)(x)
        decoders.append(keras.Model(codes, x, name=f"decoder_{person}"))
    return Networks(encoder, inter, *decoders)


# %% Losses
# The loss of a person is the mean absolute difference of pixels. The structural dissimilarity can be added: the L1 loss
# of a blurred eye is small, because an eye has few pixels, but its dissimilarity is large. Swaps have no loss: photos
# of two people are not paired, so the target of a swap is unknown. The built-in people are synthetic, so their swaps
# can be scored.


def l1_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Return the mean absolute difference of pixels in [-1, 1]. At 0.1 a face is recognisable."""
    return tf.reduce_mean(tf.abs(target - output))


def eyes_mouth_mask(size: int) -> np.ndarray:
    """Return float32 [size, size, 1]: 1 at the eyes and the mouth of an upright face in a crop, 0 far from them."""
    y, x = np.mgrid[:size, :size] / (size - 1)
    places = (0.38, 0.33), (0.38, 0.67), (0.76, 0.5)
    spots = [np.exp(-((y - row) ** 2 + (x - column) ** 2) / 0.012) for row, column in places]
    return np.max(spots, axis=0).astype(np.float32)[..., None]


def dssim_loss(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Return DSSIM = (1 - SSIM) / 2 of pixels in [-1, 1]; 0 for equal images (Wang et al. 2004, eq. 13).

    The windows have 8 x 8 pixels, equal weights and a distance of 4 pixels.
    """
    means = functools.partial(tf.nn.avg_pool2d, ksize=8, strides=4, padding="VALID")
    mean_x, mean_y = means(target), means(output)
    variances = means(target**2) + means(output**2) - mean_x**2 - mean_y**2
    covariance = means(target * output) - mean_x * mean_y
    c1, c2 = 0.02**2, 0.06**2  # 1 % and 3 % of the range of values, squared
    ssim = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    return tf.reduce_mean(1 - ssim) / 2


# %% Warping
# The encoder gets a randomly distorted face, and the decoder must return the undistorted face. Copying the input is
# therefore not a solution: the decoder must memorise the person's appearance, and take only pose and expression from
# the latents. If the networks copied their input, a swapped face of A would still look like A.


def warp(images: tf.Tensor, moves: tf.Tensor) -> tf.Tensor:
    """Distort images [n, size, size, 3] with a 5 x 5 grid of displacements.

    `moves` [n, 5, 5, 2] are displacements (down, right) in pixels. The corners of the grid are the corners of the
    image. Displacements and pixels are interpolated linearly; pixels at the edges are repeated outside the image.
    """
    size = images.shape[1]
    pixels = tf.range(size, dtype=tf.float32)
    weights = tf.nn.relu(1 - tf.abs(pixels[:, None] * 4 / (size - 1) - tf.range(5.0)))  # [size, 5], rows sum to 1
    points = tf.einsum("yi,nijc,xj->nyxc", weights, moves, weights)
    points += tf.stack(tf.meshgrid(pixels, pixels, indexing="ij"), axis=-1)
    points = tf.clip_by_value(points, 0.0, size - 1.0)
    corner = tf.minimum(tf.floor(points), size - 2.0)
    down, right = tf.split(points - corner, 2, axis=-1)
    y, x = tf.unstack(tf.cast(corner, tf.int32), axis=-1)
    flat = tf.reshape(images, (-1, size * size, 3))
    a, b, c, d = (tf.gather(flat, y * size + x + step, batch_dims=1) for step in (0, 1, size, size + 1))
    return (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)


# Eight random warps of a chessboard, with the demo's `warp`:
# >>> board = (np.indices((64, 64)) // 8).sum(axis=0) % 2
# >>> boards = np.tile((board * 255).astype(np.uint8)[None, ..., None], (8, 1, 1, 3))
# >>> moves = keras.random.normal((8, 5, 5, 2), stddev=DEMO.warp * DEMO.size, seed=0)
# >>> from common.images import to_uint8
# >>> show(to_uint8(warp(from_uint8(boards), moves)).repeat(2, axis=1).repeat(2, axis=2))


# %% Training
# A batch contains unpaired faces of both people. All faces are distorted and encoded in one pass. Each person's decoder
# decodes that person's faces. One Adam optimizer updates all four networks.
#
# What is logged: `l1_a` and `l1_b`, the L1 losses of pixels in [-1, 1]. Both fall fast, then slowly, and stay close to
# each other. In a healthy run of the demo they end below 0.1. They do not measure the quality of swaps, so check
# `samples/`, which shows the output of both decoders for held-out faces.


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
        data: unpaired faces (A, B), uint8 [batch, size, size, 3] each. With `Batches`, held-out examples are written to
            `samples/`. Arrays must have the same length. A `tf.data.Dataset` must be batched; it is not reshuffled, and
            a resumed run starts a new pass over it. With `Batches` or arrays, a run resumes exactly where it stopped.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and examples. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    encoder, inter, decoder_a, decoder_b = networks
    variables = [variable for network in networks for variable in network.trainable_variables]
    steps = config.epochs * data.steps_per_epoch
    learning_rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    optimizer = adam(learning_rate, variables, config.beta_1)
    noise = Noise(config.seed + 1)
    mask = eyes_mouth_mask(config.size)

    @tf.function
    def step(faces_a: tf.Tensor, faces_b: tf.Tensor) -> dict[str, tf.Tensor]:
        faces = from_uint8(tf.concat([faces_a, faces_b], 0))
        count = tf.shape(faces)[0]
        if config.mirror:
            flip = noise.uniform((count, 1, 1, 1)) < 0.5
            faces = tf.where(flip, faces[:, :, ::-1], faces)
        moves = config.warp * config.size * noise.normal((count, 5, 5, 2))
        if config.warp_decay:
            moves *= 1 - tf.cast(optimizer.iterations, tf.float32) / steps
        targets_a, targets_b = tf.split(faces, 2)
        with tf.GradientTape() as tape:
            codes = inter(encoder(warp(faces, moves), training=True), training=True)
            codes_a, codes_b = tf.split(codes, 2)
            output_a = decoder_a(codes_a, training=True)
            output_b = decoder_b(codes_b, training=True)
            l1_a = l1_loss(targets_a, output_a)
            l1_b = l1_loss(targets_b, output_b)
            loss = l1_a + l1_b
            if config.dssim_weight:
                loss += config.dssim_weight * (dssim_loss(targets_a, output_a) + dssim_loss(targets_b, output_b))
            if config.eyes_mouth_weight:
                details = l1_loss(mask * targets_a, mask * output_a) + l1_loss(mask * targets_b, mask * output_b)
                loss += config.eyes_mouth_weight * details
            scaled = optimizer.scale_loss(loss)  # float16 gradients would underflow; `apply` unscales them
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return {"l1_a": l1_a, "l1_b": l1_b}

    def sample(epoch: int, losses: dict[str, float]) -> None:
        if output_dir is None or not data.held_out:
            return
        count, rows = min(8, *map(len, data.held_out)), {}
        for name, faces in zip("AB", data.held_out, strict=True):
            rows[name], latents = faces[:count], encode(encoder, faces[:count])
            rows[f"{name} as A"] = decode(inter, decoder_a, latents)
            rows[f"{name} as B"] = decode(inter, decoder_b, latents)
        save_image(rows, Path(output_dir, "samples", f"epoch-{epoch:04d}.png"), zoom=max(1, 128 // config.size))

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[sample, on_epoch])


# %% Use
# Two differences between the people are unrelated to expression and would spoil a swap: the colours of their images,
# and the distributions of their latents (the encoder can still distinguish the people). The colours of A are therefore
# matched to the colours of B, and the latents of A get the mean and covariance of B's latents.


def encode(encoder: keras.Model, faces: np.ndarray) -> np.ndarray:
    """Return the latents of uint8 faces [n, size, size, 3]. For faces of A, first match the colours to B."""
    return np.concatenate([encoder(from_uint8(faces[i : i + 100]), training=False) for i in range(0, len(faces), 100)])


def decode(inter: keras.Model, decoder: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Decode latents to uint8 faces [n, size, size, 3]. Faces of A have the colours of B; `swap` maps them back."""
    codes = [inter(latents[start : start + 100], training=False) for start in range(0, len(latents), 100)]
    faces = np.concatenate([decoder(part, training=False) for part in codes])
    return np.round((faces + 1) * 127.5).astype(np.uint8)


def swap(networks: Networks, faces: np.ndarray, direction: Direction, shift: PersonShift) -> np.ndarray:
    """Turn uint8 faces [n, size, size, 3] of A into faces of B or, with `b2a`, faces of B into faces of A."""
    encoder, inter, decoder_a, decoder_b = networks
    if direction == "a2b":
        latents = encode(encoder, shift.colours.there(faces))
        return decode(inter, decoder_b, shift.latents.there(latents))
    latents = encode(encoder, faces)
    return shift.colours.back(decode(inter, decoder_a, shift.latents.back(latents)))


# %% A whole run
# The built-in data are synthetic faces of two people, 480 of one and 360 of the other. They have random expressions,
# turn their heads by at most 12 degrees, and are in front of bright backgrounds. Another 200 pairs of faces are held
# out; the faces of a pair have the same expression and pose. The scores can therefore compare a swap with the true
# face, which is impossible with photos.
#
# The scores are L1 in [0, 1] and SSIM for both directions. They compare swaps with two baselines: the unchanged face
# (`copied`) and the face with the other person's colours (`recoloured`). A good run beats these baselines, in L1 and in
# SSIM. Eight more pairs that are not used for training, A in the top row and B in the bottom row:
# >>> from common.samples.faces import synthetic_faces
# >>> def portraits(who, count=8, **attributes):
# ...     attributes = {"looking_left": 0.5, "bright_background": 1.0} | attributes
# ...     return synthetic_faces(count, 99, 92, who, **attributes)[0][:, 16:80, 14:78]
# >>> person_a, person_b = portraits(55), portraits(8)
# >>> show(np.concatenate([person_a, person_b]).repeat(2, axis=1).repeat(2, axis=2))


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/face_swap"),
    skip_bad: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, score held-out faces, save the run in `output_dir`, and return a figure's path."""
    folder = Run(output_dir, "face_swap", config, data, accept_data)
    people = two_people(data, config.size, config.margin, "people", skip_bad, config.seed)
    networks = build(config)
    colours = people.colours(config.match_deviation)
    stream = people.batches(config.batch_size, config.seed, colours)
    folder.start(people.names)
    train(networks, stream, config, output_dir)
    shift = people.shift(colours, functools.partial(encode, networks.encoder))
    shift.write(Path(output_dir, "shift.npz"))
    image, swapped = Path(output_dir, "swaps.png"), functools.partial(swap, networks, shift=shift)
    return folder.finish(networks, lambda: people.evaluate(swapped, colours, image), image)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn the faces of two synthetic people; return the path of a figure with swaps and true faces."""
    return run("sample", config, output_dir)


def swap_files(
    source: Path,
    destination: Path,
    direction: Direction = "a2b",
    visible_mark: bool = True,
    skip_bad: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Swap the largest face in a photo, or in every photo of a folder. `a2b` puts B's face on photos of A."""
    trained = Run.load(run, "face_swap", Config)
    config, latent = trained.config, (trained.config.latent_dim,)
    inter = trained.network("inter", latent)
    codes = inter.output_shape[1:]
    networks = Networks(
        encoder=trained.network("encoder", trained.image_shape, latent),
        inter=inter,
        decoder_a=trained.network("decoder_a", codes, trained.image_shape),
        decoder_b=trained.network("decoder_b", codes, trained.image_shape),
    )
    shift = PersonShift.read(trained.folder / "shift.npz", config.latent_dim)
    convert = functools.partial(swap, networks, direction=direction, shift=shift)
    return convert_faces(source, destination, convert, config.size, config.margin, visible_mark, skip_bad)


# %% Try it
# A held-out face of A, its swap, and the true face of B with the same expression and pose. These people are synthetic.
# Only use photos of people who have agreed to this and to the use of the results.
# >>> trained = Run.load(DEMO_RUN, "face_swap", Config)
# >>> networks = Networks(*(trained.network(name) for name in Networks._fields))
# >>> shift = PersonShift.read(DEMO_RUN / "shift.npz")
# >>> one = 3
# >>> swapped = swap(networks, person_a[one : one + 1], "a2b", shift)[0]
# >>> show(np.stack([person_a[one], swapped, person_b[one]]).repeat(3, axis=1).repeat(3, axis=2))
#
# Person A turns and smiles. Left: A. Middle: the swap of each frame. Right: B with the same expression and pose.
# >>> def portrait(who, turn, smile):
# ...     return portraits(who, 1, looking_left=turn, smile=smile)[0]
# >>> turns = 0.5 + 0.2 * np.sin(np.linspace(0, 2 * np.pi, 24, endpoint=False))
# >>> smiles = 0.5 - 0.5 * np.cos(np.linspace(0, 4 * np.pi, 24, endpoint=False))
# >>> frames_a, frames_b = (np.stack([portrait(who, *now) for now in zip(turns, smiles)]) for who in (55, 8))
# >>> frames = np.concatenate([frames_a, swap(networks, frames_a, "a2b", shift), frames_b], axis=2)
# >>> show_file(save_image(frames.repeat(2, axis=1).repeat(2, axis=2), DEMO_RUN.parent / "face_swap-film.gif"))


if __name__ == "__main__":
    run_command(demo, presets={"paper": Config(), "light": LIGHT, "demo": DEMO}, train=run, swap=swap_files)
