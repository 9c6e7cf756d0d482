"""Targeted attack: change a picture, unseen, until a classifier is sure that it shows what you name.

Paper    Kurakin, Goodfellow & Bengio, "Adversarial Examples in the Physical World", ICLR 2017 workshop,
         arXiv:1607.02533, section 2.3; momentum: Dong et al., CVPR 2018, arXiv:1710.06081; random start: Madry et al.,
         ICLR 2018, arXiv:1706.06083.
Images   uint8 [n, height, width, channels] at the borders, float32 levels in between; the network sees [-1, 1].
Epsilon  as a share of the way from black to white: the most that a value moves or, with `--norm l2`, the root of the
         mean square of all moves.
Differs  1. Every step looks at the picture as an 8-bit file would hold it, so what is reached is reached in the file.
         2. A picture that is there stays as it is, while others of its batch go on.
Run      python -m recipes.targeted_attack                      the demo: every digit made into every other, offline
         python -m recipes.targeted_attack attack cat.jpg out.png --target "African elephant" sax --fetch
         python -m recipes.targeted_attack attack cat.jpg out.png --target lemon --network ResNet50 --weights FILE
         python -m recipes.targeted_attack attack 7.png out.png --target 3 --preset demo; or, in place of digits, what
             mlp, lenet, ssgan or fgsm has learnt: --size 28 --network run --weights runs/lenet-demo/classifier.keras
         python -m recipes.targeted_attack train --data DIR     a folder of photos for each class, and random targets
"""

from __future__ import annotations

import functools
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from common.attack_pictures import picture_to_attack, write_attacked
from common.attacked import images_to_attack, save_percent_curves, whole_levels
from common.batches import mapped
from common.classification import accuracy, found_caption, save_captioned
from common.cli import run_command
from common.digits import DIGITS, held_out_digits
from common.errors import InputError, printable
from common.imagenet import Known, frozen_classifier
from common.images import crop_square, from_uint8
from common.labelled import class_number
from common.lazy import keras, tf
from common.ranges import BatchSize, BelowOne, Epochs, Range, Seed, Share
from common.runs import check_run, check_settings, finish_run, start_run
from common.saves import History, write_history

# %% Configuration
# `epsilon` bounds what is seen, `confidence` says what is reached, and the rest is how to get there. A photo of 224 x
# 224 pixels has so many values that four levels of 255 suffice to make anything of it; a digit of 28 x 28 in black
# and white, before a network that is sure of it, needs up to `DEMO`'s 51. With `norm` linf each value may move that
# far; with l2 the mean square is bounded, and few values may move further. `momentum` keeps the direction of earlier
# steps, so that a step does not turn with every gradient.


@dataclass(frozen=True, kw_only=True)
class Config:
    """An attack within four levels of 255, which nobody sees on a photo; `DEMO` has more, as digits need."""

    network: str = "MobileNetV2"  # InceptionV3, NASNetMobile, ResNet50, VGG19; digits: the embedded one; or run
    weights: str = "imagenet"  # or a file of weights for that network; for run a .keras file in a run's folder
    size: Annotated[int, Range(8, 2048)] = 224  # pixels a side in `train`; a photo in `attack` keeps its own
    norm: str = "linf"  # the largest move counts; or l2: their mean square
    epsilon: Share = 0.016  # 4 / 255
    step_size: Share = 0.1  # of a step, as a share of epsilon
    momentum: BelowOne = 0.9  # share of the direction of earlier steps that a step keeps (Dong, equation 6)
    random_start: bool = False  # anywhere within epsilon (Madry)
    confidence: Share = 0.8  # probability of the target at which a picture is done
    images: Annotated[int, Range(0, 10_000_000)] = 100  # test pictures that are attacked, evenly spaced; 0: all
    batch_size: BatchSize = 25  # of those that are attacked together
    epochs: Epochs = 100  # the most steps
    seed: Seed = 0  # of the targets, and of the random start


DEMO = Config(network="digits", weights="", size=28, epsilon=0.2, batch_size=100)
DEMO_RUN = Path("runs/targeted_attack-demo")

# %% Networks
# Nothing learns here but the pixels. The network is given: the embedded one for digits, one of keras.applications for
# photos, or what another recipe has trained. Its weights must be known, though, since the attack follows its
# gradient.


class Networks(NamedTuple):
    """What is attacked; it does not learn."""

    classifier: keras.Model  # images [n, height, width, channels] in [-1, 1] -> logits [n, classes]


class Attacks(NamedTuple):
    """Pictures that are to be taken for something else; `train` changes `images` in place."""

    images: np.ndarray  # uint8 [n, height, width, channels]
    targets: np.ndarray  # class numbers [n]


def build(config: Config = Config()) -> Networks:
    """Return the classifier with its weights. Raises ValueError where it cannot take pictures of this size."""
    return Networks(known_of(config).classifier)


def known_of(config: Config, fetch: bool = False) -> Known:
    """Return the classifier that the settings name, its classes, and the size it takes."""
    known = frozen_classifier(config.network, config.weights, fetch)
    if config.size < 32 if known.any_size else config.size != known.size:
        most = "at least 32" if known.any_size else f"{known.size} for this network"
        raise InputError(f"size must be {most}, got {config.size}")
    if config.norm not in ("linf", "l2"):
        raise InputError(f"norm must be linf or l2, got {config.norm!r}")
    return known


# %% Losses and bounds
# An attack away from a class raises the loss of that class. This one leads to a class, so it lowers the cross entropy
# of the target, until that has the probability asked for. After each step the picture is put back within epsilon of
# where it began, and within black and white.
#
# A file holds whole levels. An attack that is rounded only when it is written may be lost by it, so every gradient is
# taken where the file would be. Rounding towards the original keeps the bound.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return -log softmax(logits)[label] of each image [n], from the logits; it falls as the target comes nearer."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def root_mean_square(values: tf.Tensor) -> tf.Tensor:
    """Return that of each image, [n, 1, 1, 1]; never 0."""
    return tf.sqrt(tf.reduce_mean(values**2, (1, 2, 3), keepdims=True) + 1e-20)


def projected(x: tf.Tensor, origin: tf.Tensor, config: Config) -> tf.Tensor:
    """Return levels moved towards `origin` until they are within epsilon of it, and in 0..255."""
    change, bound = x - origin, 255 * config.epsilon
    if config.norm == "l2":
        return tf.clip_by_value(origin + change * tf.minimum(1.0, bound / root_mean_square(change)), 0, 255)
    return tf.clip_by_value(origin + tf.clip_by_value(change, -bound, bound), 0, 255)


def as_in_a_file(x: tf.Tensor, origin: tf.Tensor) -> tf.Tensor:
    """Return whole levels, each rounded towards that of `origin`: no change grows, so the bound still holds."""
    change = x - origin
    return origin + tf.sign(change) * tf.floor(tf.abs(change) + 1e-3)  # 4 levels may come out as 3.9999


# Moves of -200, -3.7, 3.7 and 200 levels from 100, as `DEMO` bounds them, and as a file holds them:
# >>> origin = tf.fill([1, 1, 4, 1], 100.0)
# >>> moved = projected(origin + tf.reshape([-200.0, -3.7, 3.7, 200.0], origin.shape), origin, DEMO)
# >>> moved.numpy().ravel(), as_in_a_file(moved, origin).numpy().ravel()


# %% Training: of pixels
# A step goes along the signs of a gradient, to which what is left of earlier gradients was added; each was first
# divided by its mean size, so that all count alike. A picture that has reached its target waits for the others of its
# batch.
#
# What is logged, a row a step: `loss` and `confidence` are the targets' mean cross entropy and probability, `reached`
# is the share of pictures that are there. In the demo they go from 13.3, 0.001 and 0 to 0.13, 0.88 and 1 in 19 steps.
# On photos the first three rows are alike, since a tenth of four levels is less than a level. If `reached` stands
# still below 1, the bound is too tight for this network: a larger `epsilon` helps, or l2; more `epochs` only where
# `confidence` still rises.


def train(networks: Networks, data: Attacks, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Attack in place; return a row of means for every step. Once stopped, it begins anew."""
    losses, found = attack(networks, data, config)
    columns = {"loss": losses, "confidence": found, "reached": found >= config.confidence}
    means = {name: values.mean(1) for name, values in columns.items()}
    history = [{"epoch": n + 1} | {name: float(mean[n]) for name, mean in means.items()} for n in range(len(found))]
    if output_dir is not None:
        write_history(output_dir, history)
    return history


def attack(networks: Networks, data: Attacks, config: Config) -> np.ndarray:
    """Attack in place, `batch_size` at a time; return each loss and probability of the target, [2, steps, n]."""
    from tqdm import tqdm

    (classifier,) = networks
    random = keras.random.SeedGenerator(config.seed)

    @tf.function(reduce_retracing=True)
    def step(x: tf.Tensor, direction: tf.Tensor, origin: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        seen = as_in_a_file(x, origin)
        with tf.GradientTape() as tape:
            tape.watch(seen)
            logits = classifier(seen / 127.5 - 1, training=False)
            losses = cross_entropy(targets, logits)
        gradient = tape.gradient(losses, seen)
        direction = config.momentum * direction + gradient / tf.reduce_mean(tf.abs(gradient) + 1e-20, (1, 2, 3), True)
        unit = tf.sign(direction) if config.norm == "linf" else direction / root_mean_square(direction)
        moved = projected(x - config.step_size * 255 * config.epsilon * unit, origin, config)
        found = tf.gather(tf.nn.softmax(logits), targets, batch_dims=1)
        done = found >= config.confidence
        return tf.where(done[:, None, None, None], x, moved), direction, losses, found

    used, rows = 0, np.zeros((2, config.epochs, len(data.images)))  # losses and probabilities of the targets
    with tqdm(total=len(data.images), desc="attacks", unit="picture", disable=None) as bar:
        for first in range(0, len(data.images), config.batch_size):
            part = slice(first, first + config.batch_size)
            x = origin = tf.constant(data.images[part], tf.float32)
            if config.random_start:
                x += 255 * config.epsilon * keras.random.uniform(tf.shape(x), -1, 1, seed=random)
            x, direction = projected(x, origin, config), tf.zeros_like(x)
            targets = tf.constant(data.targets[part], tf.int32)
            for number in range(config.epochs):
                x, direction, losses, found = step(x, direction, origin, targets)
                rows[:, number:, part] = np.stack([losses, found])[:, None]
                used = max(used, number + 1)
                if rows[1, number, part].min() >= config.confidence:
                    break
            data.images[part] = as_in_a_file(x, origin).numpy().astype(np.uint8)
            bar.update(len(x))
    return rows[:, :used]


# %% Use
# `attack` changes pictures in place and returns each one's loss and probability after every step. `classify` says
# what they are taken for. The command writes lossless files only, as JPEG would alter the change, and judges the file
# as read again.


def classify(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 [n, height, width, channels]."""
    return tf.nn.softmax(mapped(network, from_uint8(images), 50)).numpy()


def other_targets(labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Return a class for each of the labels [n], drawn at random from all others."""
    return (labels + np.random.default_rng(seed).integers(1, classes, len(labels))) % classes


# %% A whole run
# The embedded data are 360 handwritten digits of writers that the embedded classifier does not know. Every fifth is
# attacked, 72 in all, each towards another digit drawn at random.
#
# The scores say how many were called right before and after, how many are taken for their target, how many reach the
# confidence, and the largest change in levels. In the demo all 72 were right, none is afterwards, and all reach their
# targets. Beside it: 100 photos of 100 are made into one of 999 other things within 4 levels, before MobileNetV2.
# >>> digits, labels = held_out_digits()
# >>> show(digits[4::5][:16])
# Noise of 51 levels, the largest that the attack may use, with signs drawn at random: the share of the digits that is
# still right, 0.98 without noise, and the share that is taken for its target. It misleads the classifier too, but it
# does not lead it anywhere.
# >>> noise = np.random.default_rng(0).choice([-51, 51], digits.shape)
# >>> noisy = classify(build(DEMO).classifier, np.uint8(np.clip(digits + noise, 0, 255)))
# >>> accuracy(labels, noisy), accuracy(other_targets(labels, 10, 0), noisy)


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/targeted_attack"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Attack the test images of `data`, each towards a class drawn at random; leave a run, return its picture."""
    check_run(output_dir, "targeted_attack", config, data, accept_data)
    whole_levels(config.epsilon)
    known = known_of(config, fetch)
    networks, verdict = Networks(known.classifier), functools.partial(classify, known.classifier)
    test = images_to_attack(data, known._replace(size=config.size), held_out_digits, DIGITS, skip_bad, fetch)
    images, labels = test.loaded(config.images or len(test.labels))
    start_run(output_dir, "targeted_attack", config, data, known.classes)
    attacks = Attacks(images.copy(), other_targets(labels, len(known.classes), config.seed))
    started = time.monotonic()
    train(networks, attacks, config, output_dir)
    seconds = time.monotonic() - started
    before, after = (verdict(pictures) for pictures in (images, attacks.images))
    found = np.take_along_axis(after, attacks.targets[:, None], 1)[:, 0]
    scores = {
        "accuracy_before": accuracy(labels, before),
        "accuracy_after": accuracy(labels, after),
        "taken_for_target": accuracy(attacks.targets, after),
        "reached": float((found >= config.confidence).mean()),
        "mean_confidence": float(found.mean()),
        "largest_change": int(np.abs(attacks.images.astype(int) - images).max()),
        "images": len(images),
        "images_per_second": len(images) / seconds,
    }
    few, width = (10, 0.9) if len(images[0]) < 100 else (4, 2.4)
    shown = [int(np.flatnonzero(labels == number)[0]) for number in np.unique(labels)[:few]]
    each = Attacks(images[shown].repeat(len(shown), 0), np.tile(labels[shown], len(shown)))
    train(networks, each, config)
    found = verdict(each.images)
    captions = [found_caption(one, known.classes) for one in found]
    picture = output_dir / "attacks.png"
    save_captioned(list(each.images), captions, picture, len(shown), found.argmax(1) != each.targets, width)
    finish_run(output_dir, networks, lambda: scores)
    return picture


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Make held-out handwritten digits be taken for others; return a picture of each made into each."""
    return experiment("sample", config, output_dir)


def attack_file(
    source: Path, destination: Path, target: tuple[str, ...] = (), config: Config = Config(), fetch: bool = False
) -> Path:
    """Attack the centre square of a picture; print what it is taken for, before and after it was written and read.

    `target` is the name of a class, or its number, or several of them; then the files are NAME_TARGET.png. Beside each
    lies NAME_change.png, the change magnified; NAME_curve.png has the probability of the target after every step.
    """
    check_settings(config)
    known, levels = known_of(config, fetch), whole_levels(config.epsilon)
    if not target:
        raise InputError('give a class, --target "African elephant"; or several')
    numbers = list(dict.fromkeys(class_number(name, known.classes) for name in target))
    picture = picture_to_attack(source, known, destination)
    square = crop_square(picture)
    print(f"{printable(source)}  {found_caption(classify(known.classifier, square[None])[0], known.classes)}")
    attacks = Attacks(np.stack([square] * len(numbers)), np.array(numbers))
    _, found = attack(Networks(known.classifier), attacks, config)
    curves, path = {}, destination
    for number, attacked, probabilities in zip(numbers, attacks.images, found.T, strict=True):
        name = known.classes[number] if known.classes.count(known.classes[number]) < 2 else str(number)
        if len(numbers) > 1:
            path = destination.with_stem(re.sub(r"\W+", "_", f"{destination.stem}_{name}"))
        verdict = classify(known.classifier, crop_square(write_attacked(picture, attacked, path))[None])[0]
        wanted, curves[name] = f"{name} {100 * verdict[number]:.0f} %", list(probabilities)
        print(f"{printable(path)}  {found_caption(verdict, known.classes)}; {wanted}, epsilon {levels}/255")
    curve, what = destination.with_name(f"{destination.stem}_curve.png"), "probability of the target, % against steps"
    save_percent_curves(curves, curve, what)
    return path


# %% Try it
# One digit that was held out made into each of the others. To the eye it stays a 1; below stands what was added,
# magnified, so that the largest change is black or white.
# >>> from common.attack_pictures import magnified
# >>> networks, one = build(DEMO), digits[labels == 1][:1]
# >>> made = Attacks(one.repeat(10, 0), np.arange(10))
# >>> losses, found = attack(networks, made, DEMO)
# >>> captions = [found_caption(verdict, DIGITS) for verdict in classify(networks.classifier, made.images)]
# >>> captions += [f"made a {target}" for target in made.targets]
# >>> pictures = [*made.images, *magnified(one, made.images)]
# >>> show_file(save_captioned(pictures, captions, DEMO_RUN.parent / "one.png", 10, width=0.9))
# How sure the classifier was of each target after every step. Nothing seems to happen for some steps, and then
# everything within a few.
# >>> curves = {str(target): list(sure) for target, sure in enumerate(found.T)}
# >>> axes = "probability of the target, % against steps"
# >>> show_file(save_percent_curves(curves, DEMO_RUN.parent / "steps.png", axes))


if __name__ == "__main__":
    run_command(demo, presets={"photos": Config(), "demo": DEMO}, train=experiment, attack=attack_file)
