"""Targeted attack: add an imperceptible perturbation that makes a classifier predict a class of your choice.

Paper    Kurakin, Goodfellow & Bengio, "Adversarial Examples in the Physical World", ICLR 2017 workshop,
         arXiv:1607.02533, section 2.3; momentum: Dong et al., CVPR 2018, arXiv:1710.06081; random start: Madry et al.,
         ICLR 2018, arXiv:1706.06083.
Images   uint8 [n, height, width, channels] at the API boundary; float32 in 0..255 in the attack; float32 in [-1, 1] in
         the classifier.
Epsilon  the maximum change of a pixel (L-infinity) or, with `--norm l2`, the maximum root mean square of all changes,
         as a fraction of the range from black to white.
Differs  1. Each step evaluates the image rounded to 8 bits, so the result also holds for the written file.
         2. An image is no longer changed once it has reached its target, while the rest of the batch continues.
Run      python -m recipes.targeted_attack                      the demo: handwritten digits, offline
         python -m recipes.targeted_attack attack cat.jpg out.png --target "African elephant" sax --fetch
         python -m recipes.targeted_attack attack cat.jpg out.png --target lemon --network ResNet50 --weights FILE
         python -m recipes.targeted_attack attack 7.png out.png --target 3 --preset demo; or, with a classifier from
             mlp, lenet, ssgan or fgsm: --size 28 --network run --weights runs/lenet-demo/classifier.keras
         python -m recipes.targeted_attack attack cat.jpg out.png --target 3 --network mine.keras --preprocessing 0..1
         python -m recipes.targeted_attack train --data DIR     photos in one folder per class, random targets
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.images import crop_square
from common.runs import (
    Classifier,
    InputError,
    Range,
    Run,
    run_command,
    save_captioned,
    save_percent_curves,
    write_attacked,
)
from common.training import predict, tracked, write_history

# %% Configuration
# `epsilon` bounds the perturbation. The attack on an image stops when the probability of the target class reaches
# `confidence`. A 224 x 224 photo has so many pixels that an epsilon of 4/255 suffices for any target. A 28 x 28 digit
# in black and white needs up to 51/255, the epsilon of `DEMO`. With `norm` linf, each pixel value may change by
# epsilon. With l2, only the root mean square of all changes is bounded, so individual values may change by more than
# epsilon. `momentum` accumulates the directions of earlier steps, which stabilises the updates.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options for photos, with an imperceptible epsilon of 4/255. `DEMO` has a larger epsilon for digits."""

    network: str = "MobileNetV2"  # InceptionV3, NASNetMobile, ResNet50, VGG19, digits, run (see `weights`), FILE.keras
    weights: str = "imagenet"  # or a weights file for the network; with network run: a .keras file in a run folder
    preprocessing: str = ""  # the values that the network in FILE.keras expects: 0..1, -1..1, 0..255, caffe or torch
    classes: str = ""  # a text or JSON file with the class names of FILE.keras
    size: Annotated[int, Range(8, 2048)] = 224  # image side in pixels for `train`; `attack` keeps the photo's size
    norm: Literal["linf", "l2"] = "linf"  # bounds the largest change, or the root mean square of all changes
    epsilon: Annotated[float, Range(0.00392, 1)] = 0.016  # about 4/255; the minimum is about 1/255
    step_size: Annotated[float, Range(0, 1)] = 0.1  # step size as a fraction of epsilon
    momentum: Annotated[float, Range(0, 0.999999)] = 0.9  # decay factor of earlier directions (mu in Dong, equation 6)
    random_start: bool = False  # start at a random point within epsilon (Madry)
    confidence: Annotated[float, Range(0, 1)] = 0.8  # stop when the target class has this probability
    images: Annotated[int, Range(0, 10_000_000)] = 100  # number of test images to attack, evenly spaced; 0: all
    batch_size: Annotated[int, Range(1, 65_536)] = 25  # number of images attacked together
    steps: Annotated[int, Range(1, 1_000_000)] = 100  # maximum number of steps
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0  # seed of the targets and of the random start

    def __post_init__(self) -> None:
        Range.check(self)


DEMO = Config(network="digits", weights="", size=28, epsilon=0.2, batch_size=100)
DEMO_RUN = Path("runs/targeted_attack-demo")

# %% Networks
# This recipe trains no network; it optimises the pixels of images. The classifier is already trained: the bundled digit
# classifier, a keras.applications network for photos, or a network from a run of another recipe. The attack uses the
# classifier's gradients, so it needs the weights (a white-box attack).


class Networks(NamedTuple):
    """The classifier under attack. Its weights are frozen."""

    classifier: keras.Model  # images [n, height, width, channels] in [-1, 1] -> logits [n, classes]


class Attacks(NamedTuple):
    """Images and target classes. `train` modifies `images` in place."""

    images: np.ndarray  # uint8 [n, height, width, channels]
    targets: np.ndarray  # class indices [n]


def build(config: Config = Config()) -> Networks:
    """Return the pretrained classifier. Raises ValueError if it does not accept images of `config.size`."""
    return Networks(load_classifier(config).network)


def load_classifier(config: Config, fetch: bool = False) -> Classifier:
    """Return the configured classifier and its class names. Raises ValueError if it does not accept `config.size`."""
    own, classes = config.preprocessing, config.classes
    classifier = Classifier.load(config.network, config.weights, fetch, own, classes)
    if classifier.any_size and config.size < 32:
        raise InputError(f"size must be at least 32, got {config.size}")
    if not classifier.any_size and config.size != classifier.size:
        raise InputError(f"size must be {classifier.size} for this network, got {config.size}")
    return classifier


# %% Losses and bounds
# An untargeted attack increases the loss of the true class. A targeted attack decreases the cross entropy of the target
# class until its probability is high enough. After each step, the image is projected to within epsilon of the original,
# and clipped to the range from black to white.
#
# Image files contain integer pixel values. Rounding only at the end could undo an attack, so each gradient is computed
# at the rounded image. Values are rounded towards the original, so they stay within epsilon.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return -log softmax(logits)[label] of each image, float32 [n]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def root_mean_square(values: tf.Tensor) -> tf.Tensor:
    """Return the root mean square of each image, float32 [n, 1, 1, 1], always above 0."""
    return tf.sqrt(tf.reduce_mean(values**2, (1, 2, 3), keepdims=True) + 1e-20)


def project(x: tf.Tensor, origin: tf.Tensor, config: Config) -> tf.Tensor:
    """Project `x` to within epsilon of `origin`, and clip it to 0..255."""
    change, bound = x - origin, 255 * config.epsilon
    if config.norm == "l2":
        return tf.clip_by_value(origin + change * tf.minimum(1.0, bound / root_mean_square(change)), 0, 255)
    return tf.clip_by_value(origin + tf.clip_by_value(change, -bound, bound), 0, 255)


def round_to_origin(x: tf.Tensor, origin: tf.Tensor) -> tf.Tensor:
    """Round to integers, towards `origin`. Rounding never increases a change, so the result stays within epsilon."""
    change = x - origin
    return origin + tf.sign(change) * tf.floor(tf.abs(change) + 1e-3)  # a change of 4 may be computed as 3.9999


# A pixel value of 100 is changed by -200, -3.7, 3.7 and 200, projected with the epsilon of `DEMO`, and rounded:
# >>> origin = tf.fill([1, 1, 4, 1], 100.0)
# >>> projected = project(origin + tf.reshape([-200.0, -3.7, 3.7, 200.0], origin.shape), origin, DEMO)
# >>> projected.numpy().ravel(), round_to_origin(projected, origin).numpy().ravel()


# %% Training of pixels
# The gradient of each image is divided by its mean absolute value, so all steps have equal weight. It is then added to
# the decayed sum of the earlier gradients (momentum). With linf, a step follows the signs of this sum. An image that
# has reached its target is not changed further.
#
# What is logged, with one row per step (the column `epoch` contains the step number): `loss` and `confidence` are the
# mean cross entropy and the mean probability of the targets. `reached` is the fraction of images that have reached the
# required confidence. In a healthy run, the loss falls to near 0 and `reached` rises to 1. If `reached` stays below 1,
# the bound is too tight for this network: use a larger `epsilon`, or l2. More `steps` help only while `confidence`
# still rises. On photos, the first rows are identical, because the first changes are too small to survive the rounding.


def train(
    networks: Networks, data: Attacks, config: Config = Config(), output_dir: Path | None = None
) -> list[dict[str, float]]:
    """Attack the images in place. An interrupted attack cannot be resumed; it restarts from the beginning.

    Args:
        networks: from `build`.
        data: the images to perturb and their target classes.
        config: options of the attack.
        output_dir: the run folder, for `history.csv`. If None, nothing is written.

    Returns:
        One dictionary of means per step.
    """
    losses, probabilities = attack(networks, data, config)
    columns = {"loss": losses, "confidence": probabilities, "reached": probabilities >= config.confidence}
    means = {name: values.mean(1) for name, values in columns.items()}
    history = [
        {"epoch": number + 1} | {name: float(mean[number]) for name, mean in means.items()}
        for number in range(len(losses))
    ]
    if output_dir is not None:
        write_history(output_dir, history)
    return history


def attack(networks: Networks, data: Attacks, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Attack the images in place, `batch_size` at a time.

    Returns:
        The cross entropy and the probability of the target for each step and image: two float64 arrays [steps, n].
    """
    from tqdm import tqdm

    (classifier,) = networks
    seeds = keras.random.SeedGenerator(config.seed)

    @tf.function(reduce_retracing=True)
    def step(x: tf.Tensor, direction: tf.Tensor, origin: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rounded = round_to_origin(x, origin)
        with tf.GradientTape() as tape:
            tape.watch(rounded)
            logits = classifier(rounded / 127.5 - 1, training=False)
            losses = cross_entropy(targets, logits)
        gradient = tape.gradient(losses, rounded)
        mean_size = tf.reduce_mean(tf.abs(gradient) + 1e-20, (1, 2, 3), keepdims=True)
        direction = config.momentum * direction + gradient / mean_size  # Dong, equation 6
        unit = tf.sign(direction) if config.norm == "linf" else direction / root_mean_square(direction)
        updated = project(x - config.step_size * 255 * config.epsilon * unit, origin, config)
        probabilities = tf.gather(tf.nn.softmax(logits), targets, batch_dims=1)
        done = probabilities >= config.confidence
        return tf.where(done[:, None, None, None], x, updated), direction, losses, probabilities

    steps_used = 0
    all_losses = np.zeros((config.steps, len(data.images)))
    all_probabilities = np.zeros_like(all_losses)
    with tqdm(total=len(data.images), desc="attacks", unit="image", disable=None) as progress:
        for first in range(0, len(data.images), config.batch_size):
            part = slice(first, first + config.batch_size)
            x = origin = tf.constant(data.images[part], tf.float32)
            if config.random_start:
                x += 255 * config.epsilon * keras.random.uniform(tf.shape(x), -1, 1, seed=seeds)
            x = project(x, origin, config)
            direction = tf.zeros_like(x)
            targets = tf.constant(data.targets[part], tf.int32)
            for number in tracked(range(config.steps), "attacking", "step"):
                x, direction, losses, probabilities = step(x, direction, origin, targets)
                all_losses[number:, part] = losses  # for this step and, if the batch is done, all later steps
                all_probabilities[number:, part] = probabilities
                steps_used = max(steps_used, number + 1)
                if all_probabilities[number, part].min() >= config.confidence:
                    break
            data.images[part] = round_to_origin(x, origin).numpy().astype(np.uint8)
            progress.update(len(x))
    return all_losses[:steps_used], all_probabilities[:steps_used]


# %% Use
# `attack` changes images in place. It returns the loss and the probability of the target for each image and step.
# `classify` returns class probabilities. The command line writes only lossless formats, because JPEG would alter the
# perturbation. It then reads the written file and prints the prediction for it.


def classify(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return class probabilities, float32 [n, classes], for uint8 images [n, height, width, channels]."""
    return tf.nn.softmax(predict(network, images / np.float32(127.5) - 1, 50)).numpy()


def random_targets(labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Return a random target class for each label [n], different from the label."""
    return (labels + np.random.default_rng(seed).integers(1, classes, len(labels))) % classes


# %% A whole run
# The built-in data set has 400 synthetic handwritten digits. Their writers do not appear in the training data of the
# bundled classifier. Every fifth digit is attacked, with a random other digit as the target.
#
# The scores are the accuracy before and after the attack, the fraction of images classified as the target, the fraction
# that reaches the required confidence, and the largest change of a pixel value (in 0..255). In the demo, almost all
# attacks reach their targets. `benchmarks/RESULTS.md` shows the same scores for photos with an epsilon of 4/255.
# >>> from common.metrics import accuracy
# >>> from common.samples.digits import held_out_digits
# >>> digits, labels = held_out_digits()
# >>> show(digits[4::5][:16])
# For comparison, random noise of the same size: -51 or 51 for each pixel. The first number is the fraction of digits
# that are still classified correctly, the second is the fraction classified as the target. Random noise causes errors,
# but it cannot target a class.
# >>> noise = np.random.default_rng(0).choice([-51, 51], digits.shape)
# >>> noisy = classify(build(DEMO).classifier, np.uint8(np.clip(digits + noise, 0, 255)))
# >>> accuracy(labels, noisy), accuracy(random_targets(labels, 10, 0), noisy)


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/targeted_attack"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Attack the test images of `data` with random targets, save the run, and return the path of a figure."""
    folder = Run(output_dir, "targeted_attack", config, data, accept_data)
    classifier = load_classifier(config, fetch)
    networks = Networks(classifier.network)
    test = classifier._replace(size=config.size).test_images(data, "held_out_digits", skip_bad, fetch)
    images, labels = test.loaded(config.images or len(test.labels))
    folder.start(classifier.classes)
    attacks = Attacks(images.copy(), random_targets(labels, len(classifier.classes), config.seed))
    started = time.monotonic()
    train(networks, attacks, config, output_dir)
    seconds = time.monotonic() - started
    scores = evaluate(networks.classifier, images, labels, attacks, config.confidence)
    scores["images_per_second"] = len(images) / seconds
    figure = save_every_target(classifier, images, labels, config, Path(output_dir, "attacks.png"))
    return folder.finish(networks, lambda: scores, figure)


def evaluate(
    network: keras.Model, images: np.ndarray, labels: np.ndarray, attacks: Attacks, confidence: float
) -> dict[str, float | int]:
    """Return the accuracy before and after the attacks, the success rates, and the largest change of a pixel value."""
    before, after = classify(network, images), classify(network, attacks.images)
    target_probabilities = np.take_along_axis(after, attacks.targets[:, None], 1)[:, 0]
    return {
        "accuracy_before": float(np.mean(before.argmax(1) == labels)),
        "accuracy_after": float(np.mean(after.argmax(1) == labels)),
        "classified_as_target": float(np.mean(after.argmax(1) == attacks.targets)),
        "reached": float((target_probabilities >= confidence).mean()),
        "mean_confidence": float(target_probabilities.mean()),
        "largest_change": int(np.abs(attacks.images.astype(int) - images).max()),
        "images": len(images),
    }


def save_every_target(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, config: Config, path: Path
) -> Path:
    """Attack one image per class with every class as the target, and write a figure with one row per image."""
    few, width = (10, 0.9) if len(images[0]) < 100 else (4, 2.4)
    chosen = [int(np.flatnonzero(labels == number)[0]) for number in np.unique(labels)[:few]]
    pairs = Attacks(images[chosen].repeat(len(chosen), 0), np.tile(labels[chosen], len(chosen)))
    train(Networks(classifier.network), pairs, config)
    found = classify(classifier.network, pairs.images)
    captions = [classifier.caption(probabilities) for probabilities in found]
    missed = found.argmax(1) != pairs.targets
    return save_captioned(list(pairs.images), captions, path, len(chosen), missed, width)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Attack held-out handwritten digits; return the path of a figure with every pair of digit and target class."""
    return run("sample", config, output_dir)


def attack_file(
    source: Path, destination: Path, target: tuple[str, ...] = (), config: Config = Config(), fetch: bool = False
) -> Path:
    """Attack the centre crop of an image, and print the predictions for the original and for the written file.

    `target` is the name or index of a class. With several targets, the files of all but the first are NAME_TARGET.png.
    For each file, FILE_change.png shows the magnified change. NAME_curve.png shows the target probabilities per step.
    """
    classifier = load_classifier(config, fetch)
    if not target:
        raise InputError('give one or more classes, such as --target "African elephant"')
    numbers = list(dict.fromkeys(classifier.number(name) for name in target))
    image = classifier.image_to_attack(source, destination)
    square = crop_square(image)
    print(classifier.prediction(source, classify(classifier.network, square[None])[0]))
    attacks = Attacks(np.stack([square] * len(numbers)), np.array(numbers))
    _, probabilities = attack(Networks(classifier.network), attacks, config)
    curves, path = {}, destination
    for number, attacked, curve in zip(numbers, attacks.images, probabilities.T, strict=True):
        name = classifier.classes[number]
        if classifier.classes.count(name) > 1:
            name = str(number)
        if number != numbers[0]:
            path = destination.with_stem(re.sub(r"\W+", "_", f"{destination.stem}_{name}"))
        written = write_attacked(image, attacked, path)
        found = classify(classifier.network, crop_square(written)[None])[0]
        levels = int(255 * config.epsilon + 1e-3)
        print(f"{classifier.prediction(path, found)}; {name} {100 * found[number]:.0f} %, epsilon {levels}/255")
        curves[name] = list(curve)
    axes_names = "probability of the target, % against steps"
    save_percent_curves(curves, destination.with_name(f"{destination.stem}_curve.png"), axes_names)
    return destination


# %% Try it
# One held-out digit, a 1, attacked with each digit as the target. All results still look like a 1. The lower row shows
# the magnified perturbations; black and white are the largest changes.
# >>> from common.runs.attacks import magnified
# >>> classifier = load_classifier(DEMO)
# >>> one = digits[labels == 1][:1]
# >>> attacks = Attacks(one.repeat(10, 0), np.arange(10))
# >>> losses, probabilities = attack(Networks(classifier.network), attacks, DEMO)
# >>> captions = [classifier.caption(found) for found in classify(classifier.network, attacks.images)]
# >>> captions += [f"target {target}" for target in attacks.targets]
# >>> images = [*attacks.images, *magnified(one, attacks.images)]
# >>> show_file(save_captioned(images, captions, DEMO_RUN.parent / "one.png", 10, width=0.9))
# The probability of each target after each step. It stays near 0 for several steps, then rises quickly.
# >>> curves = {str(target): list(curve) for target, curve in enumerate(probabilities.T)}
# >>> axes_names = "probability of the target, % against steps"
# >>> show_file(save_percent_curves(curves, DEMO_RUN.parent / "steps.png", axes_names))


if __name__ == "__main__":
    inception = Config(network="InceptionV3", size=299, epsilon=0.005, momentum=0.0)
    presets = {"photos": Config(), "inception": inception, "demo": DEMO}
    run_command(demo, presets=presets, steps=False, train=run, attack=attack_file)
