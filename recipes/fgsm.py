"""FGSM: move every pixel by so little that nobody sees it, and a classifier takes the picture for something else.

Paper    Goodfellow, Shlens & Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv:1412.6572;
         many small steps: Kurakin, Goodfellow & Bengio, ICLR 2017 workshop, arXiv:1607.02533; the random start of
         training: Wong, Rice & Kolter, "Fast is better than free", ICLR 2020, arXiv:2001.03994.
Images   uint8 [n, height, width, channels] at the borders; float32 in [-1, 1] in the networks -> logits [n, classes].
Epsilon  the most that a value moves, as a share of the way from black to white: 0.1 is 25 of the 255 levels of a file.
         What is attacked is rounded to whole levels inside that bound, and clipped to 0..255, before it is judged.
Differs  1. Two networks learn side by side from the same batches: one as usual, one from attacks on itself as well.
         2. Those attacks start at a random point (Wong); accuracy is given under many small steps too.
Run      python -m recipes.fgsm                                            the demo: drawn clothes, offline
         python -m recipes.fgsm train --data mnist --epsilon 0.25 --no-mirror --fetch --output-dir runs/digits
         python -m recipes.fgsm attack photo.jpg out.png --epsilon 0.005 --weights imagenet --fetch    NASNetMobile
         python -m recipes.fgsm attack photo.jpg out.png --network MobileNetV2 --weights FILE --label pug
         python -m recipes.fgsm evaluate --data DIR --run runs/digits      accuracy against epsilon, as a curve
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.attack_pictures import attack_picture, save_attack_table
from common.attacked import Attacked, accuracy_under_attack, images_to_attack, in_parts, whole_levels
from common.batches import Batches, mapped
from common.classification import accuracy
from common.cli import run_command
from common.clothes import CLOTHES_CLASSES, drawn_clothes
from common.errors import InputError
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.imagenet import Pretrained, known_classifier
from common.images import from_uint8, to_uint8
from common.labelled import labelled_batches, labelled_images
from common.lazy import keras, tf
from common.ranges import BatchSize, Epochs, Filters, LearningRate, Range, Seed, Share, Units
from common.runs import check_run, finish_run, start_run
from common.training import History, fit, share

# %% Configuration
# `epsilon` is how far an attack may move a value that the second network learns to withstand. What that costs on
# pictures nobody has touched depends on them: 0.04 of the accuracy on clothes, nothing on MNIST at 0.25.
# `adversarial` is how much of its loss is of attacked pictures: 0 is the usual training, 1 never shows it a picture
# as it is. `random_start` lets each of those attacks begin anywhere within epsilon. Without it a network may learn to
# mislead the one step that it knows, and to withstand nothing else.


@dataclass(frozen=True, kw_only=True)
class Config:
    """A small network for clothes or digits; `DIGITS` has the paper's epsilon for MNIST (section 4)."""

    size: Annotated[int, Range(8, 512)] = 28  # pixels, a multiple of 4 from 8
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    base_filters: Filters = 16  # of the first two convolutions; the next two have twice as many
    outputs: Units = 10  # classes; the data decide in `train` and in the demo
    epsilon: Share = 0.1  # of the attacks that the second network learns from, and of those it is judged by
    adversarial: Share = 0.5  # share of its loss that is of attacked images (section 6)
    random_start: bool = True  # of those attacks (Wong, section 4); without it they are the paper's
    mirror: bool = True  # wrong for letters and digits
    shift: Annotated[int, Range(0, 4096)] = 1  # most pixels by which training images are moved each way
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 2e-3  # Adam; falls to 0 along a cosine
    epochs: Epochs = 8
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


DIGITS = Config(epsilon=0.25, mirror=False)
DEMO, DEMO_RUN, PHOTO = Config(epsilon=0.05, epochs=20), Path("runs/fgsm-demo"), Pretrained(network="NASNetMobile")

# %% Networks
# Two small convolutional networks of one form. They see the same batches and never each other; that the second sees
# attacks too is the only difference but for their random beginnings. So what separates their scores is what training
# under attack gives, and what it costs.


class Networks(NamedTuple):
    """Two classifiers of one form: images [n, size, size, channels] in [-1, 1] -> logits [n, outputs]."""

    classifier: keras.Model  # has seen images as they are
    hardened: keras.Model  # has seen attacks on itself as well


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return both, untrained. Raises ValueError for a size that is no multiple of 4, or below 8."""
    if config.size % 4:
        raise InputError(f"size must be a multiple of 4, got {config.size}")
    layers, seeds = keras.layers, keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.HeNormal(seeds)}

    def network(name: str) -> keras.Model:
        x = images = keras.Input((config.size, config.size, config.channels), name="images")
        for filters in (config.base_filters, 2 * config.base_filters):
            for _ in range(2):
                x = layers.Conv2D(filters, 3, padding="same", activation="relu", **init)(x)
            x = layers.MaxPooling2D()(x)
        x = layers.Dense(8 * config.base_filters, activation="relu", **init)(layers.Flatten()(x))
        return keras.Model(images, layers.Dense(config.outputs, dtype="float32", **init)(x), name=name)

    return Networks(network("classifier"), network("hardened"))


# %% Losses and the attack
# A gradient says for every pixel which way the loss rises. Of all changes that move no pixel by more than epsilon,
# the one that raises the loss most, as far as it is linear, moves every pixel by epsilon in the direction of its
# sign. That is little in each pixel, but it adds up: over n pixels with weights w a logit moves by epsilon times the
# sum of |w|, which grows with n, while moves at random cancel.
#
# One such step is FGSM. A loss is not linear, so many small steps that stay within the same bound find what a single
# one jumps over. What comes of it is rounded to whole levels, as a file holds them, before anybody judges it.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]; log(classes) = 2.30 for ten classes when nothing is known."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def steepest(network: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the sign, -1, 0 or 1, of the loss's gradient in each pixel of float32 images in [-1, 1] (section 4).

    Of all changes within a bound on each pixel this raises the linear part of the loss most.
    """
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = cross_entropy(labels, network(images, training=False))
    return tf.sign(tape.gradient(loss, images))


def within(bound: float | tf.Tensor, origin: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Return images with every value no farther than `bound` from `origin`, and in [-1, 1]."""
    return tf.clip_by_value(tf.clip_by_value(images, origin - bound, origin + bound), -1, 1)


def attacked_by(network: keras.Model, steps: int = 1) -> Attacked:
    """Return the attack on a network, compiled once, beside what the network says.

    One step is FGSM; more are small, and together 2.5 bounds long (Kurakin, section 2.2; Madry, arXiv:1706.06083).
    """
    moved = tf.function(lambda x, labels, step: x + step * steepest(network, x, labels), reduce_retracing=True)

    def attack(images: np.ndarray, labels: np.ndarray, levels: int) -> np.ndarray:
        x = origin = from_uint8(images)
        bound = tf.constant(levels / 127.5)
        for _ in range(steps):
            step = bound if steps == 1 else 2.5 / steps * bound
            x = within(bound, origin, moved(x, tf.constant(labels, tf.int32), step))
        whole = images.astype(np.int16)
        return np.clip(to_uint8(x), whole - levels, whole + levels).astype(np.uint8)

    return Attacked(in_parts(attack), functools.partial(classify, network))


# A linear network, a grey picture, moves of 0.1 in [-1, 1]: the loss of the picture as it is (log 10 = 2.30), after
# moves of random sign, and after those of the attack:
# >>> matrix = keras.layers.Dense(10, kernel_initializer=keras.initializers.GlorotUniform(0))
# >>> linear = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), matrix])
# >>> grey, label = tf.zeros([1, 28, 28, 1]), tf.constant([3])
# >>> chance = tf.sign(keras.random.normal(grey.shape, seed=0))
# >>> moves = (tf.zeros_like(grey), chance, steepest(linear, grey, label))
# >>> [float(cross_entropy(label, linear(grey + 0.1 * move))) for move in moves]


# %% Training
# Each step attacks the batch for the second network, then takes one gradient for both. The attack is one more pass
# through it, forward and back.
#
# What is logged: the losses `classifier`, `hardened` (on pictures as they are) and `hardened_attacked`, and after
# each epoch the accuracies on validation pictures under the same names. In the demo the losses end at 0.14, 0.27 and
# 0.81, the accuracies at 0.94, 0.89 and 0.59. So it should be: the hardened network a little behind, and further
# behind under attack. Were it suddenly as good under attack as without, or better, it would have learnt to mislead
# the one step; the accuracies in ten steps, among the scores, would tell.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train both in place on batches of uint8 images and class numbers; return each epoch's means."""
    classifier, hardened = networks
    variables = classifier.trainable_variables + hardened.trainable_variables
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(rate, variables, config.execution)
    start, bound, levels = keras.random.SeedGenerator(config.seed), 2 * config.epsilon, whole_levels(config.epsilon)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        first = origin = from_uint8(images)
        if config.random_start:
            first = within(
                bound, origin, origin + draw_part(keras.random.uniform, tf.shape(origin), -bound, bound, seed=start)
            )
        length = 1.25 * bound if config.random_start else bound
        attacked = within(bound, origin, first + length * steepest(hardened, first, labels))
        with tf.GradientTape() as tape:
            loss = share(cross_entropy(labels, classifier(origin, training=True)))
            logits = tf.split(hardened(tf.concat([origin, attacked], 0), training=True), 2)
            clean_loss, attacked_loss = (share(cross_entropy(labels, part)) for part in logits)
            hardened_loss = (1 - config.adversarial) * clean_loss + config.adversarial * attacked_loss
            both = loss + hardened_loss  # no weight has a part in both
        optimizer.apply(tape.gradient(both, variables, loss_scale(optimizer)), variables)
        return {"classifier": loss, "hardened": clean_loss, "hardened_attacked": attacked_loss}

    attack = attacked_by(hardened).attack

    def validate(epoch: int) -> dict[str, float]:
        images, labels = data.held_out
        attacked = attack(images, labels, levels)
        shown = {"": (classifier, images), "hardened_": (hardened, images), "hardened_attacked_": (hardened, attacked)}
        return {f"{key}accuracy": accuracy(labels, classify(network, seen)) for key, (network, seen) in shown.items()}

    state = networks._asdict() | {"optimizer": optimizer, "start": start}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=validate, execution=config.execution)


# %% Use
# `attacked_by` gives an attack on a network, in one step or more, and what that network says of pictures. The attack
# takes uint8 pictures, their classes and a bound in levels of 255, and returns uint8 pictures within that bound. Of a
# photo only the centre square is attacked, and what is printed afterwards is said of the file, read again.


def classify(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 [n, height, width, channels]."""
    return tf.nn.softmax(mapped(network, from_uint8(images), 100)).numpy()


# %% A whole run
# The embedded data are 5,000 clothes that the project draws, grey on black, ten classes like Fashion-MNIST's. Every
# fifth picture is held out for the test; of those, 500 are attacked.
#
# The scores are shares of them that are still called right, for both networks, in one step and in ten, from 0 to 64
# levels of 255. In the demo 0.944 are right without attack, with the hardened network 0.904. At 8 levels of 255 it is
# 0.420 and 0.682, and in ten steps 0.268 and 0.620. Beside them: given the same steps, foolbox and ART make the same
# pictures, to the last level, and fool as many.
#
# Each column is a class:
# >>> clothes, kinds = drawn_clothes(5000, DEMO.seed, 28)
# >>> tens = [first + np.argsort(kinds[first : first + 10]) for first in (0, 10, 20)]
# >>> show(clothes[np.concatenate(tens)], 10)


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/fgsm"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, train both or go on, attack test images; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "fgsm", config, data, accept_data)
    levels = whole_levels(config.epsilon)
    sample = functools.partial(drawn_clothes, 5000, config.seed, config.size)
    labelled = labelled_images(data, config.size, config.channels, sample, skip_bad, fetch, CLOTHES_CLASSES)
    config = replace(config, outputs=len(labelled.classes))
    networks = build(config)
    stream = labelled_batches(labelled, config.batch_size, config.seed, config.shift, config.mirror, 1000)
    start_run(output_dir, "fgsm", config, data, labelled.classes)
    train(networks, stream, config, output_dir)
    test, named = labelled.test.some(500), networks._asdict()
    scores = accuracy_under_attack(attacked_by, named, test, output_dir / "accuracy.png")
    shown = {name: attacked_by(network) for name, network in named.items()}
    picture = save_attack_table(shown, test, labelled.classes, levels, output_dir / "attacks.png")
    finish_run(output_dir, networks, lambda: scores)
    return picture


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn drawn clothes twice, once under attack; return a picture of what attacks do to both."""
    return experiment("sample", config, output_dir)


def attack_file(
    source: Path,
    destination: Path,
    epsilon: Share = 0.1,
    steps: Annotated[int, Range(1, 10_000)] = 1,
    label: str = "",
    hardened: bool = False,
    pretrained: Pretrained = PHOTO,
    run: Path = DEMO_RUN,
) -> Path:
    """Attack a picture; print what it is taken for before, and after it was written and read again.

    Args:
        source: a picture, of which the centre square is seen and attacked.
        destination: PNG to write; beside it NAME_change.png, the change magnified, and NAME_strip.png, more epsilons.
        epsilon: the most that a value may move, as a share of the way from black to white.
        steps: 1 is FGSM.
        label: the true class; without it the one that the network finds.
        hardened: attack the run's hardened network.
        pretrained: with --weights, a network that has learnt ImageNet in place of the run's.
        run: folder of a run.
    """
    levels = whole_levels(epsilon)
    if steps < 1:
        raise InputError(f"steps must be 1 or more, got {steps}")
    known = known_classifier(pretrained, run, "fgsm", Config, "hardened" if hardened else "classifier")
    print(attack_picture(attacked_by(known.classifier, steps), known, source, levels, label, destination))
    return destination


def evaluate_file(
    destination: Path = Path("accuracy.png"),
    data: str = "",
    images: Annotated[int, Range(1, 10_000_000)] = 1000,
    pretrained: Pretrained = PHOTO,
    run: Path = DEMO_RUN,
    skip_bad: bool = False,
) -> Path:
    """Print accuracy against epsilon, and draw it as a curve.

    Args:
        destination: the PNG to write.
        data: as in `train`, or as the run's; a folder's classes are named as the network's, or numbered.
        images: the most that are used, evenly spaced.
        pretrained: with --weights, a network that has learnt ImageNet in place of the run's two.
        run: folder of a run.
        skip_bad: go on without pictures that cannot be read, naming them.
    """
    names = (pretrained.network,) if pretrained.weights else Networks._fields
    known = {name: known_classifier(pretrained, run, "fgsm", Config, name) for name in names}
    first, *_ = known.values()
    sample = functools.partial(drawn_clothes, 5000, first.seed, first.size)
    test = images_to_attack(data, first, sample, CLOTHES_CLASSES, skip_bad, pretrained.fetch).some(images)
    shown = {name: one.classifier for name, one in known.items()}
    for name, right in accuracy_under_attack(attacked_by, shown, test, destination).items():
        print(f"{name}: {100 * right:.1f} %")
    return destination


# %% Try it
# A coat that was held out, and FGSM on the usual network (above) and on the hardened one. At the left is the change,
# magnified: white pixels became lighter, black ones darker, and on black nothing can. What follows is the coat at 0
# to 32 levels, each under what it is then taken for.
# >>> from common.attack_pictures import magnified
# >>> from common.classification import found_caption, save_captioned
# >>> from common.runs import load_network
# >>> attacks = [attacked_by(load_network(DEMO_RUN, name)) for name in Networks._fields]
# >>> unseen, truth = clothes[4::5], kinds[4::5]
# >>> tens = unseen[[np.flatnonzero(truth == kind)[0] for kind in range(10)]]
# >>> coat, label, pictures, captions = tens[4:5], np.array([4]), [], []
# >>> for attack, verdict in attacks:
# ...     row = {level: attack(coat, label, level) for level in (0, 2, 4, 8, 16, 32)}
# ...     pictures += [magnified(coat, row[8])[0], *(one[0] for one in row.values())]
# ...     found = [f"{level}/255\n{found_caption(verdict(one)[0], CLOTHES_CLASSES)}" for level, one in row.items()]
# ...     captions += ["8/255\nmagnified", *found]
# >>> wrong = ["Coat" not in text and "magnified" not in text for text in captions]
# >>> show_file(save_captioned(pictures, captions, DEMO_RUN.parent / "coat.png", 7, wrong))
# The changes that the two attacks make to one garment of each class, within 8 levels. In the whole demo those against
# the usual network (in the middle) are fine stripes, which mean nothing to the eye; those against the hardened one
# (below) are patches the size of collars and sleeves.
# >>> changes = [magnified(tens, attack(tens, np.arange(10), 8)) for attack, _ in attacks]
# >>> show(np.concatenate([tens, *changes]), 10)


if __name__ == "__main__":
    presets = {"clothes": Config(), "digits": DIGITS, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, attack=attack_file, evaluate=evaluate_file)
