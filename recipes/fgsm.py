"""FGSM: add an imperceptible perturbation that makes a classifier fail, and train a classifier to resist it.

Paper    Goodfellow, Shlens & Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv:1412.6572;
         many small steps: Kurakin, Goodfellow & Bengio, ICLR 2017 workshop, arXiv:1607.02533; random start in
         training: Wong, Rice & Kolter, "Fast is better than free", ICLR 2020, arXiv:2001.03994.
Images   uint8 [n, height, width, channels] at the API boundary; float32 in [-1, 1] in the networks.
Epsilon  the maximum change of a pixel (L-infinity), as a fraction of the range from black to white: 0.1 is 25 of 255
         levels. Adversarial images are rounded to integer levels within this bound and clipped to 0..255 before they
         are classified.
Differs  1. Two networks are trained on the same batches. The second one is also trained on attacks against itself.
         2. These attacks start at a random point (Wong). The scores also cover attacks with many small steps.
Run      python -m recipes.fgsm                                            the demo: synthetic clothes, offline
         python -m recipes.fgsm train --data mnist --epsilon 0.25 --no-mirror --fetch --output-dir runs/digits
         python -m recipes.fgsm attack photo.jpg out.png --epsilon 0.005 --weights imagenet --fetch  on NASNetMobile
         python -m recipes.fgsm attack photo.jpg out.png --network MobileNetV2 --weights FILE --label pug
         python -m recipes.fgsm attack photo.jpg out.png --network mine.keras --preprocessing 0..1 --classes names.txt
         python -m recipes.fgsm evaluate --data DIR --run runs/digits      plots accuracy against epsilon
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, labelled_images
from common.images import from_uint8
from common.runs import Classifier, Range, Run, evaluate_attacks, run_command
from common.training import Noise, adam, fit, predict

# %% Configuration
# `epsilon` bounds the attacks in adversarial training. A larger bound usually reduces the accuracy on unchanged images.
# The reduction depends on the data: several percentage points for clothes, almost nothing for digits.
#
# `adversarial_weight` weights the loss on adversarial images. With 0, training is standard. With 1, the network is
# trained only on adversarial images. `random_start` starts each attack at a random point within epsilon. Without it,
# the network may become robust only to the single step used in training (catastrophic overfitting).


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for clothes. `DIGITS` is for digits, with the paper's epsilon for MNIST (section 4)."""

    size: Annotated[int, Range(8, 512, multiple_of=4)] = 28  # side of the images in pixels
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    base_filters: Annotated[int, Range(1, 1024)] = 16  # filters of the first two convolutions; doubled in the next two
    outputs: Annotated[int, Range(1, 65_536)] = 10  # number of classes; `train` and the demo set it from the data
    epsilon: Annotated[float, Range(0.00392, 1)] = 0.1  # maximum change of a pixel; 0.00392 is one of 255 levels
    adversarial_weight: Annotated[float, Range(0, 1)] = 0.5  # weight of the attack loss (1 - alpha in section 6)
    random_start: bool = True  # random start of attacks in training (Wong, section 4); False: as in the paper
    mirror: bool = True  # mirror half of the training images; not for letters or digits
    shift: Annotated[int, Range(0, 4096)] = 1  # largest translation of training images in pixels, in each direction
    batch_size: Annotated[int, Range(1, 65_536)] = 128
    learning_rate: Annotated[float, Range(0, 10)] = 2e-3  # initial learning rate of Adam; decays to 0 along a cosine
    epochs: Annotated[int, Range(1, 1_000_000)] = 8
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)


DIGITS = Config(epsilon=0.25, mirror=False)
DEMO = Config(base_filters=8, epsilon=0.05, epochs=13)
DEMO_RUN = Path("runs/fgsm-demo")


def to_levels(epsilon: float) -> int:
    """Convert epsilon to levels of an 8-bit file: 255 * epsilon, rounded down."""
    return int(255 * epsilon + 1e-3)  # 1e-3 for rounded values: 0.00784 (2/255) must give 2 levels


# %% Networks
# Two convolutional networks with the same architecture are trained on the same batches. They start with different
# weights. The second one is also trained on adversarial images. The difference between their scores shows the benefit
# and the cost of adversarial training.


class Networks(NamedTuple):
    """Two classifiers: images [n, size, size, channels] in [-1, 1] -> logits [n, outputs]."""

    classifier: keras.Model  # standard training
    robust: keras.Model  # adversarial training


def build(
    config: Config = Config(), classifier: keras.Model | None = None, robust: keras.Model | None = None
) -> Networks:
    """Return both untrained networks. Each may be your own classifier."""
    Run.check_networks(
        (config.size, config.size, config.channels), (config.outputs,), classifier=classifier, robust=robust
    )
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

    return Networks(classifier or network("classifier"), robust or network("robust"))


# %% Losses and the attack
# For each pixel, the gradient gives the direction in which the loss increases. Consider all perturbations that change
# no pixel by more than epsilon. To first order, the strongest of them shifts each pixel by epsilon in the direction of
# the gradient's sign. Each shift is small, but the effects add up: in a linear model with weights w, a logit changes by
# epsilon times the sum of |w|, which grows with the number of pixels. The effects of random shifts mostly cancel out.
#
# FGSM is one such step. The loss is not linear, so many small steps within the same bound increase it more than one
# large step. Adversarial images are rounded to integer levels, as in an 8-bit file.


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean of -log softmax(logits)[label]. It is log(classes) = 2.30 for ten equally probable classes."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def gradient_sign(network: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the sign of the loss's gradient with respect to each pixel: -1, 0 or 1 (section 4).

    Args:
        network: a classifier that returns logits.
        images: the images, float32 [n, height, width, channels] in [-1, 1].
        labels: integer labels, int32 [n].
    """
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = cross_entropy(labels, network(images, training=False))
    return tf.sign(tape.gradient(loss, images))


def project(images: tf.Tensor, origin: tf.Tensor, bound: float | tf.Tensor) -> tf.Tensor:
    """Clip images to within `bound` of `origin`, and to [-1, 1]."""
    return tf.clip_by_value(tf.clip_by_value(images, origin - bound, origin + bound), -1, 1)


def make_attack(network: keras.Model, steps: int = 1) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """Return a function that attacks a network: (images, labels, levels) -> adversarial images.

    One step is FGSM. With more steps, the size of each step is 2.5 times the bound, divided by `steps` (Kurakin,
    section 2.2; Madry, arXiv:1706.06083). The function takes uint8 images [n, height, width, channels], integer labels
    [n], and the bound in levels from 1 to 255. It returns uint8 images of the same shape.
    """
    batch = tf.TensorSpec([None, *network.input_shape[1:]]), tf.TensorSpec([None], tf.int32), tf.TensorSpec([])
    move = tf.function(lambda x, labels, size: x + size * gradient_sign(network, x, labels), input_signature=batch)

    def attack(images: np.ndarray, labels: np.ndarray, levels: int) -> np.ndarray:
        bound = tf.constant(levels / 127.5)
        step_size = bound if steps == 1 else 2.5 / steps * bound
        parts = []
        for first in range(0, len(images), 50):  # bounds memory: the gradient needs the output of every layer
            x = origin = from_uint8(images[first : first + 50])
            classes = tf.constant(labels[first : first + 50], tf.int32)
            for _ in range(steps):
                x = project(move(x, classes, step_size), origin, bound)
            parts.append(np.rint(127.5 * (x.numpy() + 1)))
        before = images.astype(int)
        return np.clip(np.concatenate(parts), before - levels, before + levels).astype(np.uint8)

    return attack


# The loss of a linear network for a grey image: unchanged (log 10 = 2.30), with random changes of +0.1 or -0.1, and
# with changes of 0.1 in the direction of the gradient's sign:
# >>> matrix = keras.layers.Dense(10, kernel_initializer=keras.initializers.GlorotUniform(0))
# >>> linear = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), matrix])
# >>> grey, label = tf.zeros([1, 28, 28, 1]), tf.constant([3])
# >>> random_sign = tf.sign(keras.random.normal(grey.shape, seed=0))
# >>> directions = (tf.zeros_like(grey), random_sign, gradient_sign(linear, grey, label))
# >>> [float(cross_entropy(label, linear(grey + 0.1 * direction))) for direction in directions]


# %% Training
# Each step first computes attacks on the robust network for the images of the batch. This costs one more forward and
# backward pass. Then one gradient step updates both networks.
#
# What is logged: the losses `classifier`, `robust` (on unchanged images) and `robust_attacked`, and after each epoch
# the accuracies on the validation images. In a healthy run, `robust_accuracy` is slightly below `accuracy`, and
# `robust_attacked_accuracy` is clearly below both. If `robust_attacked_accuracy` suddenly equals `robust_accuracy`, the
# network is robust only to the single step (catastrophic overfitting). In the results, its accuracy under ten-step
# attacks is then much lower than under one-step attacks.


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
        networks: the result of `build`.
        data: uint8 images [batch, size, size, channels] and integer labels [batch]. With `Batches`, accuracies on
            validation images are also logged. A `tf.data.Dataset` must be batched; it is not reshuffled, and a resumed
            run starts a new pass over it. With `Batches` or arrays, a run resumes exactly where it stopped.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses and accuracies per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    classifier, robust = networks
    variables = classifier.trainable_variables + robust.trainable_variables
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    optimizer = adam(schedule, variables)
    noise = Noise(config.seed)
    bound = 2 * config.epsilon  # for pixels in [-1, 1]
    step_size = 1.25 * bound if config.random_start else bound  # 1.25 as in Wong

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        images = from_uint8(images)
        labels = tf.cast(labels, tf.int32)
        start = images
        if config.random_start:
            start = project(images + noise.uniform(tf.shape(images), -bound, bound), images, bound)
        attacked = project(start + step_size * gradient_sign(robust, start, labels), images, bound)
        with tf.GradientTape() as tape:
            loss = cross_entropy(labels, classifier(images, training=True))
            logits = robust(tf.concat([images, attacked], 0), training=True)
            clean_logits, attacked_logits = tf.split(logits, 2)
            clean_loss = cross_entropy(labels, clean_logits)
            attacked_loss = cross_entropy(labels, attacked_logits)
            robust_loss = (1 - config.adversarial_weight) * clean_loss + config.adversarial_weight * attacked_loss
            scaled = optimizer.scale_loss(loss + robust_loss)  # the networks share no weights, so one sum is enough
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return {"classifier": loss, "robust": clean_loss, "robust_attacked": attacked_loss}

    attack = make_attack(robust)

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        images, labels = data.held_out
        attacked = attack(images, labels, to_levels(config.epsilon))
        cases = {
            "accuracy": classify(classifier, images),
            "robust_accuracy": classify(robust, images),
            "robust_attacked_accuracy": classify(robust, attacked),
        }
        return {name: float(np.mean(found.argmax(1) == labels)) for name, found in cases.items()}

    state = networks._asdict() | {"optimizer": optimizer, "noise": noise}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[validate, on_epoch])


# %% Use
# `make_attack` returns an attack on a network, with one or more steps. The attack takes uint8 images, their labels and
# a bound in levels from 1 to 255. It returns uint8 images within that bound. The command `attack` attacks the centre
# crop of a photo. It writes the adversarial image, reads the file back, and prints the prediction for it.


def classify(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 [n, height, width, channels]."""
    return tf.nn.softmax(predict(network, from_uint8(images), 100)).numpy()


# %% A whole run
# The built-in data are 5,000 synthetic images of clothes, grey on black, in the ten classes of Fashion-MNIST. A fifth
# of the images is the test split. The attacks use 500 test images.
#
# The scores are the accuracies of both networks under one-step and ten-step attacks of 0 to 64 levels (of 255). With 0
# levels, the images are unchanged, and the robust network is slightly less accurate than the standard one. Under
# attack, the robust network is much more accurate. With the same steps, the libraries foolbox and ART produce exactly
# the same images (see `benchmarks/RESULTS.md`).
#
# Training images, one column per class:
# >>> clothes = labelled_images("sample", DEMO.size, DEMO.channels, "clothes", seed=DEMO.seed)
# >>> columns = [np.flatnonzero(clothes.train.labels == number)[:3] for number in range(10)]
# >>> show(clothes.train.items[np.stack(columns, 1).ravel()], 10)


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/fgsm"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, attack test images, save the run in `output_dir`, and return the path of a figure."""
    folder = Run(output_dir, "fgsm", config, data, accept_data)
    labelled = labelled_images(data, config.size, config.channels, "clothes", skip_bad, fetch, seed=config.seed)
    config = replace(config, outputs=len(labelled.classes))
    networks = build(config)
    shift, mirror = config.shift, config.mirror
    stream = labelled.batches(config.batch_size, config.seed, shift=shift, mirror=mirror, validate=1000)
    folder.start(labelled.classes)
    train(networks, stream, config, output_dir)
    examples = Path(output_dir, "attacks.png")
    scores = evaluate_attacks(
        networks._asdict(),
        make_attack,
        classify,
        labelled.test.some(500),
        Path(output_dir, "accuracy.png"),
        examples=examples,
        classes=labelled.classes,
        levels=to_levels(config.epsilon),
    )
    return folder.finish(networks, lambda: scores, examples)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train with and without attacks on synthetic clothes; return the path of a figure of attacks on both networks."""
    return run("sample", config, output_dir)


def attack_file(
    source: Path,
    destination: Path,
    epsilon: Annotated[float, Range(0.00392, 1)] = 0.1,
    steps: Annotated[int, Range(1, 10_000)] = 1,
    label: str = "",
    robust: bool = False,
    network: str = "NASNetMobile",
    weights: str = "",
    preprocessing: str = "",
    classes: str = "",
    fetch: bool = False,
    run: Path = DEMO_RUN,
) -> Path:
    """Attack an image; print the predicted classes of the original and of the written file.

    Args:
        source: the image; its centre crop is attacked.
        destination: the PNG file to write. NAME_change.png shows the magnified change, NAME_strip.png other epsilons.
        epsilon: the maximum change of a pixel, as a fraction of the range from black to white.
        steps: number of steps; 1 is FGSM.
        label: the true class; the default is the predicted one.
        robust: attack the robust network of the run instead of the standard one.
        network: with --weights: InceptionV3, MobileNetV2, NASNetMobile, ResNet50 or VGG19; or FILE.keras, a classifier.
        weights: imagenet, or a weights file for `network`; without it, the network of the run is attacked.
        preprocessing: the values that the network in FILE.keras expects: 0..1, -1..1, 0..255, caffe or torch.
        classes: a text or JSON file with the class names of FILE.keras.
        fetch: allow Keras to download the weights.
        run: the run folder of the network.
    """
    if weights or network.endswith(".keras"):
        attacked = Classifier.load(network, weights, fetch, preprocessing, classes)
    else:
        attacked = Classifier.of_run(Run.load(run, "fgsm", Config), "robust" if robust else "classifier")
    attack = make_attack(attacked.network, steps)
    print(attacked.attack_image(attack, classify, source, destination, to_levels(epsilon), label))
    return destination


def evaluate_file(
    destination: Path = Path("accuracy.png"),
    data: str = "",
    images: Annotated[int, Range(1, 10_000_000)] = 1000,
    network: str = "NASNetMobile",
    weights: str = "",
    preprocessing: str = "",
    classes: str = "",
    fetch: bool = False,
    run: Path = DEMO_RUN,
    skip_bad: bool = False,
) -> Path:
    """Print the accuracy for each epsilon, and plot it as a curve.

    Args:
        destination: the PNG file to write.
        data: images as for `train`; default: the run's data. Name class folders after the network's classes or indices.
        images: the maximum number of images, taken at regular intervals.
        network: with --weights: InceptionV3, MobileNetV2, NASNetMobile, ResNet50 or VGG19; or FILE.keras, a classifier.
        weights: imagenet, or a weights file for `network`; without it, both networks of the run are evaluated.
        preprocessing: the values that the network in FILE.keras expects: 0..1, -1..1, 0..255, caffe or torch.
        classes: a text or JSON file with the class names of FILE.keras.
        fetch: allow the download of weights and data.
        run: the run folder of the networks.
        skip_bad: skip images that cannot be read, and list them.
    """
    if weights or network.endswith(".keras"):
        classifiers = {Path(network).stem: Classifier.load(network, weights, fetch, preprocessing, classes)}
    else:
        trained = Run.load(run, "fgsm", Config)
        classifiers = {name: Classifier.of_run(trained, name) for name in Networks._fields}
    first, *_ = classifiers.values()
    test = first.test_images(data, "clothes", skip_bad, fetch).some(images)
    networks = {name: each.network for name, each in classifiers.items()}
    for name, accuracy in evaluate_attacks(networks, make_attack, classify, test, destination).items():
        print(f"{name}: {100 * accuracy:.1f} %")
    return destination


# %% Try it
# FGSM on a test image of a coat: the standard network (top row) and the robust one (bottom row). The first column shows
# the magnified change for 8 levels: white means lighter, and black means darker. The other columns show the coat after
# attacks of 0 to 32 levels, with the predicted class below each image.
# >>> from common.runs.attacks import magnified
# >>> from common.runs.classification import found_caption, save_captioned
# >>> trained = Run.load(DEMO_RUN, "fgsm", Config)
# >>> networks = [trained.network(name) for name in Networks._fields]
# >>> unseen, truth = clothes.test.items, clothes.test.labels
# >>> tens = unseen[[np.flatnonzero(truth == number)[0] for number in range(10)]]
# >>> coat, label, images, captions = tens[4:5], np.array([4]), [], []
# >>> attacks = [make_attack(network) for network in networks]
# >>> for network, attack in zip(networks, attacks):
# ...     row = {level: attack(coat, label, level) if level else coat for level in (0, 2, 4, 8, 16, 32)}
# ...     images += [magnified(coat, row[8])[0], *(one[0] for one in row.values())]
# ...     found = {level: found_caption(classify(network, one)[0], clothes.classes) for level, one in row.items()}
# ...     captions += ["magnified\n8/255", *(f"{text}\n{level}/255" for level, text in found.items())]
# >>> wrong = ["Coat" not in text and "magnified" not in text for text in captions]
# >>> show_file(save_captioned(images, captions, DEMO_RUN.parent / "coat.png", 7, wrong))
# Top row: one garment per class. Other rows: the magnified changes within 8 levels. For the standard network (middle
# row), they are fine stripes without visible meaning. For the robust network (bottom row), they are patches as large as
# collars and sleeves.
# >>> changes = [magnified(tens, attack(tens, np.arange(10), 8)) for attack in attacks]
# >>> show(np.concatenate([tens, *changes]), 10)


if __name__ == "__main__":
    presets = {"clothes": Config(), "digits": DIGITS, "demo": DEMO}
    run_command(demo, presets=presets, train=run, attack=attack_file, evaluate=evaluate_file)
