"""Measure the label consistency of Pix2Pix: can a segmentation network recover the labels from translated photos?

A small segmentation network is trained on the true photos and label maps of the training pairs. It then predicts label
maps for the held-out photos, and for the photos that each run generates from the held-out label maps. The scores
compare these predictions with the true label maps. The method follows section 4.1 of Isola et al. 2017
(arXiv:1611.07004), where the segmentation network is FCN-8s. The scores depend on the segmentation network, so the
table also has rows for the true photos and for the mean training photo.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import markdown_table, run_benchmark, timed
from common.data.batches import batches
from common.data.datasets import image_pairs
from common.images.pixels import colour_labels, from_uint8, labels_from_colours
from common.images.writing import save_image
from common.metrics.scores import confusion_matrix, pair_scores, segmentation_scores
from common.runs.networks import load_network
from common.runs.report import report_history
from common.runs.run import Run, read_data
from common.samples.streets import STREET_CLASSES
from common.system.files import InputError, replacing, write_json
from common.system.lazy import keras, tf
from recipes.pix2pix import Config, translate_batch

# %% The segmentation network

EPOCHS = 30
BATCH_SIZE = 8
LEARNING_RATE = 3e-3  # decays to 0 (cosine)
WIDTHS = (24, 48, 96, 128, 128)  # channels after each downsampling


def build_segmenter(size: int, classes: int) -> keras.Model:
    """Return an untrained U-Net: photos float32 [n, size, size, 3] in [-1, 1] -> logits [n, size, size, classes].

    It follows Ronneberger et al. 2015 (arXiv:1505.04597). `size` is a power of two.
    """
    layers = keras.layers
    seeds = keras.random.SeedGenerator(0)
    widths = WIDTHS[: size.bit_length() - 1]

    def convolve(x, width: int, stride: int = 1):
        init = keras.initializers.HeNormal(seeds)
        x = layers.Conv2D(width, 3, stride, "same", use_bias=False, kernel_initializer=init)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))

    x = photos = keras.Input((size, size, 3), name="photos")
    skips = []
    for width in widths:
        skips.append(x)
        x = convolve(convolve(x, width, 2), width)
    for width, skip in zip([*widths[-2::-1], 16], reversed(skips), strict=True):
        x = convolve(layers.Concatenate()([layers.UpSampling2D()(x), skip]), width)
    logits = layers.Conv2D(classes, 1, kernel_initializer=keras.initializers.HeNormal(seeds), name="logits")(x)
    return keras.Model(photos, logits, name="segmenter")


def augment(photo: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Crop each side to at least 7/8 of its length, mirror, and change the photo's brightness, all at random.

    Args:
        photo: uint8 [size, size, 3].
        labels: uint8 [size, size].
        seed: random seed, int32 [2].

    Returns:
        The photo, float32 [size, size, 3] in [0, 255], and the labels, uint8 [size, size].
    """
    size = photo.shape[0]
    side, top, left, mirrored, gain = tf.unstack(tf.random.stateless_uniform([5], seed))
    side = 1 - 0.125 * side
    top, left = top * (1 - side), left * (1 - side)
    box = tf.stack([top, left, top + side, left + side])
    box = tf.where(mirrored < 0.5, box, tf.gather(box, [0, 3, 2, 1]))

    def cut(image: tf.Tensor, method: str) -> tf.Tensor:
        return tf.image.crop_and_resize(image[None], box[None], [0], (size, size), method)[0]

    photo = tf.minimum(cut(photo, "bilinear") * tf.exp(0.6 * gain - 0.3), 255.0)
    return photo, tf.cast(cut(labels[..., None], "nearest"), tf.uint8)[..., 0]


def train_segmenter(
    photos: np.ndarray, labels: np.ndarray, classes: int, ignore: int | None = None, epochs: int = EPOCHS
) -> keras.Model:
    """Return a segmentation network trained on uint8 photos [n, size, size, 3] and label maps [n, size, size].

    Pixels of class `ignore` have weight 0; all other pixels have weight 1. Weighting each class by the inverse square
    root of its frequency did not improve the scores on held-out training pairs of CamVid.
    """
    counted = np.array([float(label != ignore) for label in range(classes)], np.float32)

    def load(pair: tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        photo, truth = augment(*pair, seed)
        return from_uint8(photo), truth, tf.gather(tf.constant(counted), tf.cast(truth, tf.int32))

    data = batches((photos, labels), min(BATCH_SIZE, len(photos)), 0, load)
    segmenter = build_segmenter(photos.shape[1], classes)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * data.steps_per_epoch)
    segmenter.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    segmenter.fit(data.at(0), epochs=epochs, steps_per_epoch=data.steps_per_epoch, shuffle=False, verbose=0)
    return segmenter


def read_off(segmenter: keras.Model, photos: np.ndarray, ignore: int | None = None) -> np.ndarray:
    """Return predicted label maps, uint8 [n, size, size], for uint8 photos. Class `ignore` is never predicted."""
    readings = []
    for start in range(0, len(photos), 16):
        logits = segmenter(from_uint8(photos[start : start + 16]), training=False).numpy()
        if ignore is not None:
            logits[..., ignore] = -np.inf
        readings.append(logits.argmax(-1).astype(np.uint8))
    return np.concatenate(readings)


# %% Data


class Pairs(NamedTuple):
    """Coloured label maps (`inputs`) and photos, uint8 [n, size, size, 3], and `labels`, uint8 [n, size, size]."""

    inputs: np.ndarray
    photos: np.ndarray
    labels: np.ndarray


def shared_config(data: str, runs: Sequence[Path]) -> Config:
    """Return the configuration of the first run.

    Raises:
        InputError: a folder is not a run, a run does not translate labels to photos, or the training pairs differ.
    """
    configs = {run: Run.load(run, "pix2pix", Config).config for run in runs}
    if not configs:
        raise InputError("--runs is empty; give at least one finished run")
    first, *others = configs
    for run, config in configs.items():
        if config.swap:
            raise InputError(
                f"{run}: translates photos to labels (swap); only runs that translate labels to photos can be measured"
            )
        if (data == "streets") != (read_data(run) == "streets"):
            raise InputError(f"{run}: trained on {read_data(run)}, not on {data}; --data must be the training data")
        if data != "streets" and not config.classes:
            raise InputError(f"{run}: its inputs were colour images, not label maps; train it with --classes")
    for run in others:
        for name in ("size", "classes", "seed") if data == "streets" else ("size", "classes"):
            here, there = getattr(configs[run], name), getattr(configs[first], name)
            if here != there:
                raise InputError(
                    f"{run}: {name} {here}, but {first}: {name} {there}; all runs must have the same {name}"
                )
        if read_data(run) != read_data(first):
            raise InputError(f"{run}: trained on {read_data(run)}, but {first} on {read_data(first)}")
    return configs[first]


def pairs_for(data: str, config: Config, classes: int) -> tuple[Pairs, Pairs]:
    """Return all training pairs, and the held-out pairs on which a run is scored."""
    examples = image_pairs(data, config.size, "streets", config.classes, seed=config.seed)
    count = len(examples.train[0] if isinstance(examples.train, tuple) else examples.train)
    everything = examples._replace(test=examples.train)
    parts = everything.held_out(count), examples.held_out()
    train, held_out = (Pairs(inputs, photos, labels_from_colours(inputs, classes)) for inputs, photos in parts)
    return train, held_out


# %% Figures


def save_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> Path:
    """Plot the losses of the runs over the epochs, with one panel each for l1, generator and discriminator."""
    from matplotlib.figure import Figure

    titles = {
        "l1": "L1 (pixels in [-1, 1])",
        "generator": "adversarial loss of the generator",
        "discriminator": "loss of the discriminator",
    }
    names = [name for name in titles if any(name in history for history in histories.values())]
    figure = Figure(figsize=(4.2 * max(len(names), 1), 3.2), layout="constrained")
    panels = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=False):
        for number, (label, history) in enumerate(histories.items()):
            if name in history:
                style = {"marker": "."} if len(history["epoch"]) < 3 else {}
                panel.plot(history["epoch"], history[name], label=label, color=f"C{number}", **style)
        if name != "l1":
            panel.axhline(math.log(2), color="0.6", linewidth=1, linestyle=":", label="log 2: chance level")
        panel.set(title=titles[name], xlabel="epoch")
        panel.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


# %% The benchmark

COLUMNS = {
    "l1": "L1",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "pixel_accuracy": "pixel accuracy",
    "class_accuracy": "class accuracy",
    "mean_iou": "mean IoU",
}


def compare(
    data: str,
    runs: tuple[Path, ...],
    output_dir: Path = Path("runs/benchmark-pix2pix"),
    ignore: int | None = None,
    epochs: int = EPOCHS,
) -> dict[str, dict[str, float]]:
    """Print a table of scores, write the scores and figures to `output_dir`, and return the scores.

    Args:
        data: the pairs on which the runs were trained: `streets`, or a folder of label maps and photos.
        runs: folders of finished runs that translate labels to photos.
        output_dir: the folder for results.json, translations.png, readings.png (predicted labels) and curves.png.
        ignore: the index of a class to exclude from training and scores, such as "unlabelled".
        epochs: the number of training epochs of the segmentation network.

    Raises:
        InputError: a run cannot be measured, or the runs were trained on different data.
    """
    config = shared_config(data, runs)
    classes = len(STREET_CLASSES) if data == "streets" else config.classes
    if ignore is not None and not 0 <= ignore < classes:
        raise InputError(f"--ignore {ignore}: not a class; must be between 0 and {classes - 1}")
    runs = tuple(dict.fromkeys(runs))
    unique = len({run.name for run in runs}) == len(runs)
    generators = {run.name if unique else str(run): load_network(run, "generator") for run in runs}
    histories = {name: report_history(run / "history.csv") for name, run in zip(generators, runs, strict=True)}
    train, test = pairs_for(data, config, classes)
    seconds: dict[str, float] = {}
    with timed("training", seconds):
        segmenter = train_segmenter(train.photos, train.labels, classes, ignore, epochs)
    mean = np.broadcast_to(train.photos.mean(axis=0).round().astype(np.uint8), test.photos.shape)
    with timed("translating", seconds):
        translated = {name: translate_batch(generator, test.inputs) for name, generator in generators.items()}
    rows, readings = {}, {}
    with timed("scoring", seconds):
        for name, photos in {"true photos": test.photos, **translated, "mean photo": mean}.items():
            readings[name] = read_off(segmenter, photos, ignore)
            scores = segmentation_scores(confusion_matrix(test.labels, readings[name], classes, ignore))
            rows[name] = (pair_scores(test.photos, photos) if photos is not test.photos else {}) | scores

    chosen = np.unique(np.linspace(0, len(test.inputs) - 1, min(8, len(test.inputs))).astype(int))
    zoom = max(1, 128 // config.size)
    tables = {
        "translations": {"labels": test.inputs, "true photo": test.photos, **translated},
        "readings": {"labels": test.inputs}
        | {f"labels of {name}": colour_labels(readings[name]) for name in ("true photos", *translated)},
    }
    for name, columns in tables.items():
        save_image({key: column[chosen] for key, column in columns.items()}, output_dir / f"{name}.png", zoom=zoom)
    save_curves(histories, output_dir / "curves.png")
    facts = {"size": config.size, "classes": classes, "ignore": ignore, "epochs": epochs}
    counts = {"training_pairs": len(train.photos), "held_out_pairs": len(test.photos)}
    write_json(output_dir / "results.json", {"data": data, **facts, **counts, **seconds, "scores": rows})
    print(markdown_table(rows, COLUMNS, f"{len(test.photos)} held-out pairs"))
    return rows


if __name__ == "__main__":
    run_benchmark(compare)
