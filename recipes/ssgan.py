"""Semi-supervised GAN: classify with few labels, with the help of unlabelled and generated images.

Paper    Salimans, Goodfellow, Zaremba, Cheung, Radford & Chen, "Improved Techniques for Training GANs", NIPS 2016,
         arXiv:1606.03498, section 5. Difference 3: Sohn et al., "FixMatch", 2020, arXiv:2001.07685, with the EMA
         teacher of Tarvainen & Valpola 2017, arXiv:1703.01780.
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the networks.
Latents  float32 [n, latent_dim], standard normal.
Logits   float32 [n, outputs], for the classes of real images. "Generated" is an extra class with a fixed logit of 0, so
         an image is real with probability S / (S + 1), where S is the sum of the exponentials of the logits.
Differs  1. No weight normalisation. Images are shifted and, with `mirror`, flipped at random.
         2. The final classifier is `ema`, with an exponential moving average (EMA) of the classifier's weights.
         3. If `ema` is confident about an unlabelled image, its prediction becomes a pseudo-label (FixMatch, equation
            4). There is no strong augmentation; only input noise and feature dropout perturb the predictions.
         4. Feature matching uses the absolute difference of mean features, not the squared difference.
Run      python -m recipes.ssgan                                                 the demo: handwritten digits, offline
         python -m recipes.ssgan train --preset clothes --data fashion_mnist --fetch     1,000 labels
         python -m recipes.ssgan train --preset digits --data mnist --fetch              100 labels
         python -m recipes.ssgan classify photo.png --run runs/ssgan
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

from common.data import Batches, labelled_images
from common.images import from_uint8, save_image, to_uint8
from common.runs import Range, Run, run_command
from common.training import Noise, adam, fit, predict

# %% Configuration
# Labels are expensive; images are cheap. `labelled` is the total number of labelled training images, divided equally
# among the classes. The other training images are used without labels. `consistency_weight` weights the pseudo-label
# loss; only predictions above `confidence_threshold` count. A low threshold spreads wrong labels; a high threshold
# ignores most images. The `ema` network makes these predictions, and `ema_decay` sets how slowly it follows the
# classifier. With `feature_matching`, the generator matches the mean features of real images. Without it, the generator
# maximises the probability that its images are classified as real, as in a standard GAN. `dropout`, `noise` and `shift`
# keep the classifier from memorising the few labels.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for 28 px images. `CLOTHES` is for Fashion-MNIST, `HANDWRITTEN` for MNIST."""

    size: Annotated[int, Range(8, 512, multiple_of=4)] = 28  # side of the images in pixels
    channels: Literal[1, 3] = 1  # 1: greyscale, 3: colour
    labelled: Annotated[int, Range(1, 10_000_000)] = 1000  # number of labelled training images, over all classes
    outputs: Annotated[int, Range(1, 65_536)] = 10  # number of classes; `train` and the demo read it from the data
    feature_matching: bool = True  # section 3.1; False: the non-saturating GAN loss
    latent_dim: Annotated[int, Range(1, 65_536)] = 100
    base_filters: Annotated[int, Range(1, 1024)] = 64  # filters of the classifier's first layer; doubled after it
    generator_filters: Annotated[int, Range(1, 1024)] = 16  # filters of the last hidden layer; twice as many before it
    dropout: Annotated[float, Range(0, 0.999999)] = 0.4  # dropout rate before the classifier's last layer
    noise: Annotated[float, Range(0, 10)] = 0.05  # standard deviation of the training noise on pixels in [-1, 1]
    shift: Annotated[int, Range(0, 4096)] = 2  # maximum random shift of training images in pixels, per axis
    mirror: bool = False  # flip training images at random, and average predictions over both views
    ema_decay: Annotated[float, Range(0, 1)] = 0.998  # decay of the EMA per step
    consistency_weight: Annotated[float, Range(0, 1e9)] = 1.0  # weight of the pseudo-label loss; 0: the paper's loss
    confidence_threshold: Annotated[float, Range(0, 1)] = 0.9  # minimum probability of a pseudo-label
    batch_size: Annotated[int, Range(1, 65_536)] = 64  # size of the labelled, unlabelled and generated batches
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3  # initial value for both optimizers; cosine decay to 0
    beta_1: Annotated[float, Range(0, 0.999999)] = 0.5  # beta_1 of both Adam optimizers
    epochs: Annotated[int, Range(1, 1_000_000)] = 6
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    synchronized: bool = False  # batch normalisation over the global batch, not per device

    def __post_init__(self) -> None:
        Range.check(self)


CLOTHES = Config(mirror=True, epochs=8)
HANDWRITTEN = Config(labelled=100, epochs=4)
DEMO = Config(labelled=100, base_filters=16, generator_filters=8, ema_decay=0.995, epochs=18)
DEMO_RUN = Path("runs/ssgan-demo")

# %% Networks
# The classifier is also the discriminator. Its ten logits give the class of an image. The sum S of their exponentials
# shows whether the image is real: S / (S + 1) is large for real images and small for generated ones. The class
# predictions therefore benefit from features that the classifier learns from unlabelled images.
#
# The classifier has three convolutions with stride 2. Feature matching uses the outputs of the layer `features`. `ema`
# is a copy of the classifier without dropout and noise. Its weights are an EMA of the classifier's weights.


class Networks(NamedTuple):
    """The generator, the classifier, and a copy of the classifier with EMA weights."""

    generator: keras.Model  # latents [n, latent_dim] -> images [n, size, size, channels] in [-1, 1]
    classifier: keras.Model  # images -> logits [n, outputs]
    ema: keras.Model  # `classifier` with EMA weights, without noise and dropout; use it to classify


def build(config: Config = Config()) -> Networks:
    """Return the untrained networks."""
    layers, side = keras.layers, config.size // 4
    seeds = keras.random.SeedGenerator(config.seed)
    init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.05, seed=seeds)}
    norm = functools.partial(layers.BatchNormalization, synchronized=config.synchronized)

    latents = keras.Input((config.latent_dim,), name="latents")
    x = layers.Dense(side * side * 4 * config.generator_filters, use_bias=False, **init)(latents)
    x = layers.ReLU()(norm()(x))
    x = layers.Reshape((side, side, 4 * config.generator_filters))(x)
    for filters in (2 * config.generator_filters, config.generator_filters):
        x = layers.Conv2DTranspose(filters, 4, 2, "same", use_bias=False, **init)(x)
        x = layers.ReLU()(norm()(x))
    x = layers.Conv2D(config.channels, 5, 1, "same", activation="tanh", dtype="float32", **init)(x)
    generator = keras.Model(latents, x, name="generator")

    def classifier(name, regularised):
        he = {"kernel_initializer": keras.initializers.HeNormal(seeds)}
        x = images = keras.Input((config.size, config.size, config.channels), name="images")
        x = layers.GaussianNoise(config.noise, seed=config.seed)(x) if regularised else x
        for filters in (config.base_filters, 2 * config.base_filters, 2 * config.base_filters):
            x = layers.Conv2D(filters, 5, 2, "same", **he)(x)
            x = layers.LeakyReLU(negative_slope=0.2)(x)
        x = layers.Flatten(name="features", dtype="float32")(x)
        x = layers.Dropout(config.dropout, seed=config.seed + 1)(x) if regularised else x
        return keras.Model(images, layers.Dense(config.outputs, dtype="float32", **init)(x), name=name)

    return Networks(generator, classifier("classifier", True), classifier("ema", False))


# %% Losses
# The classifier minimises three losses. For labelled images, the loss is the cross entropy of the class. For unlabelled
# and generated images, the loss is the binary cross entropy of real versus generated. For unlabelled images with a
# confident `ema` prediction, the loss is the cross entropy with this prediction as the label. The generator's loss
# compares the mean features of generated and real images. It can be low even if the images do not look realistic. In
# the paper, this loss helps the classifier more than a loss that leads to better-looking images (section 5).


def class_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy of labels [n] and logits [n, outputs]. It is log(outputs) for logits of 0."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def real_logits(logits: tf.Tensor) -> tf.Tensor:
    """Return log S [n], the logit of being real: S / (S + 1) = sigmoid(log S)."""
    return tf.reduce_logsumexp(logits, axis=1)


def discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Return the real-versus-generated cross entropy for class logits [n, outputs]. It is 2 log 2 = 1.39 for S = 1."""
    return tf.reduce_mean(tf.nn.softplus(-real_logits(real))) + tf.reduce_mean(tf.nn.softplus(real_logits(fake)))


def generator_loss(fake: tf.Tensor) -> tf.Tensor:
    """Return the non-saturating loss for the class logits of generated images. It is log 2 = 0.69 for S = 1."""
    return tf.reduce_mean(tf.nn.softplus(-real_logits(fake)))


def feature_matching_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Return the mean absolute difference between the mean features of real and generated images, both [n, d]."""
    return tf.reduce_mean(tf.abs(tf.reduce_mean(real, axis=0) - tf.reduce_mean(fake, axis=0)))


def consistency_loss(logits: tf.Tensor, teacher_logits: tf.Tensor, threshold: float) -> tf.Tensor:
    """Return the cross entropy with the teacher's predictions as labels (FixMatch, equation 4).

    Images contribute 0 if the teacher's highest probability is below `threshold`. The teacher gets no gradient.
    """
    probabilities = tf.stop_gradient(tf.nn.softmax(teacher_logits))
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.argmax(probabilities, axis=1), logits)
    return tf.reduce_mean(tf.where(tf.reduce_max(probabilities, axis=1) >= threshold, entropy, 0.0))


# Two ways to compute the probability of being real give the same result: S / (S + 1), and a softmax with an extra class
# whose logit is 0. The first image clearly belongs to one class, and the second to none:
# >>> logits = tf.constant([[5.0, 1.0, 0.0], [-4.0, -4.0, -4.0]])
# >>> extended = tf.nn.softmax(tf.pad(logits, [[0, 0], [0, 1]]))
# >>> np.stack([tf.sigmoid(real_logits(logits)), 1 - extended[:, -1]])


# %% Training
# Each step has three forward passes: one for unlabelled, one for labelled and one for generated images. The gradients
# of both networks are computed before either is updated. Then `ema` is updated from the classifier.
#
# What is logged: `classes` quickly drops to almost 0, because the few labels are memorised. `discriminator` falls from
# 1.39 to about 0.3: with feature matching, generated images stay easy to detect. `generator` falls at first, then stays
# constant; for a perfect match, it would be 0. `consistency` is 0 until `ema` is confident about some images, and then
# stays small. If it grows while `validation_accuracy` falls, wrong pseudo-labels are spreading: raise
# `confidence_threshold`. `validation_accuracy` (of `ema`, on held-out images) rises quickly at first.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | tuple[np.ndarray, ...],
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the networks in place.

    Args:
        networks: from `build`.
        data: unlabelled images and labelled images, each uint8 [batch, size, size, channels], and the integer labels
            [batch]. `Batches.zip` joins streams of different lengths. With `Batches` or arrays, a run resumes exactly
            where it stopped. If `Batches` have held-out data, `validation_accuracy` is logged. A `tf.data.Dataset` must
            be batched; it is not reshuffled, and a resumed run starts a new pass over it.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and generated images. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    generator, classifier, ema = networks
    classify_features = keras.Model(classifier.inputs, [classifier.get_layer("features").output, classifier.output])
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * data.steps_per_epoch)
    g_optimizer = adam(schedule, generator.trainable_variables, config.beta_1)
    c_optimizer = adam(schedule, classifier.trainable_variables, config.beta_1)
    noise = Noise(config.seed + 1)

    @tf.function
    def step(unlabelled: tf.Tensor, labelled: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        unlabelled = from_uint8(unlabelled)
        latents = noise.normal((tf.shape(unlabelled)[0], config.latent_dim))
        with tf.GradientTape() as g_tape, tf.GradientTape() as c_tape:
            # Three forward passes: in a single pass, the generator's gradient would also be computed for real images.
            _, class_logits = classify_features(from_uint8(labelled), training=True)
            real_features, real = classify_features(unlabelled, training=True)
            fake_features, fake = classify_features(generator(latents, training=True), training=True)
            classes = class_loss(labels, class_logits)
            discriminator = discriminator_loss(real, fake)
            consistency = consistency_loss(real, ema(unlabelled, training=False), config.confidence_threshold)
            c_loss = classes + discriminator + config.consistency_weight * consistency
            if config.feature_matching:
                g_loss = feature_matching_loss(real_features, fake_features)
            else:
                g_loss = generator_loss(fake)
            g_scaled = g_optimizer.scale_loss(g_loss)  # float16 gradients would underflow; `apply` unscales them
            c_scaled = c_optimizer.scale_loss(c_loss)
        g_gradients = g_tape.gradient(g_scaled, generator.trainable_variables)
        c_gradients = c_tape.gradient(c_scaled, classifier.trainable_variables)
        g_optimizer.apply(g_gradients, generator.trainable_variables)
        c_optimizer.apply(c_gradients, classifier.trainable_variables)
        decay = tf.minimum(config.ema_decay, 1 - 1 / tf.cast(c_optimizer.iterations, tf.float32))  # 0, 1/2, 2/3, ...
        for average, weight in zip(ema.trainable_variables, classifier.trainable_variables, strict=True):
            average.assign(weight + decay * (average - weight))
        return {"classes": classes, "discriminator": discriminator, "generator": g_loss, "consistency": consistency}

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if output_dir is not None:
            save_image(generate(generator, 100), Path(output_dir, "samples", f"epoch-{epoch:04d}.png"), columns=10)
        if not data.held_out:
            return {}
        *_, images, labels = data.held_out
        correct = classify(ema, images, config.mirror).argmax(axis=1) == labels
        diversity = {} if config.feature_matching else data.diversity(functools.partial(generate, generator))
        return {"validation_accuracy": float(np.mean(correct))} | diversity

    state = networks._asdict() | {"g_optimizer": g_optimizer, "c_optimizer": c_optimizer, "noise": noise}
    gan_ranges = {  # minimum and maximum healthy value, and the warning for values outside this range
        "discriminator": (0.1, np.inf, "the discriminator dominates: the generator gets almost no gradient"),
        "diversity": (0.3, np.inf, "mode collapse: generated images are nearly equal, or training has just begun"),
    }
    healthy = {} if config.feature_matching else gan_ranges
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[validate, on_epoch], healthy=healthy)


# %% Use
# `classify` returns the softmax of the logits. These probabilities add up to 1, so they do not show whether the image
# belongs to any class. The logits show this for some images; see the last section.


def generate(generator: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Return `count` generated images, uint8 [count, size, size, channels]; the same seed gives the same images."""
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    return to_uint8(predict(generator, keras.random.normal((count, generator.input_shape[-1]), seed=seed)))


def classify(classifier: keras.Model, images: np.ndarray, mirror: bool = False) -> np.ndarray:
    """Return class probabilities, float32 [n, classes], for uint8 images [n, size, size, channels].

    With `mirror`, the probabilities are averaged over each image and its mirror image.
    """
    views = (images, images[:, :, ::-1]) if mirror else (images,)
    return np.mean([tf.nn.softmax(predict(classifier, from_uint8(view))) for view in views], axis=0)


# %% A whole run
# The built-in data set has 6,000 synthetic handwritten digits. They are drawn as pen strokes, in the styles of 600
# writers. A fifth of the writers (1,200 digits) are the test split. Of the 4,320 training images, 100 are labelled.
#
# The scores on the test split are the accuracy, the expected calibration error, and the precision and recall of each
# class. `test_accuracy_from_labels_alone` is the accuracy of the same network if it is trained only on the labelled
# images. The difference between the two accuracies is the gain from unlabelled images.
#
# The labelled images of the demo, ten of each digit:
# >>> digits = labelled_images("sample", DEMO.size, DEMO.channels, "digits")
# >>> known = digits.few_labels(DEMO.labelled, DEMO.seed).train
# >>> show(known.items[np.arange(100).reshape(10, 10).T.ravel()], columns=10)


def supervised_baseline(config: Config, data: Batches, steps: int) -> keras.Model:
    """Train a classifier on labelled images only, for `steps` batches with Keras's `fit`, and return it."""
    classifier = build(config).classifier
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.Adam(schedule), loss)
    batches = data.at(0).take(steps).map(lambda images, labels: (from_uint8(images), labels))
    classifier.fit(batches, shuffle=False, verbose=0)
    return classifier


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/ssgan"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, evaluate on the test split, save the run, and return the path of a figure."""
    folder = Run(output_dir, "ssgan", config, data, accept_data)
    images = labelled_images(data, config.size, config.channels, "digits", skip_bad, fetch)
    config = replace(config, outputs=len(images.classes))
    known = images.few_labels(config.labelled, config.seed)
    size, shift, mirror = config.batch_size, config.shift, config.mirror
    labelled = known.batches(size, config.seed, shift=shift, mirror=mirror, validate=1000)
    unlabelled = images.image_batches(size, config.seed + 1, shift=shift, mirror=mirror, validate=1000)
    networks = build(config)
    folder.start(images.classes)
    train(networks, Batches.zip(unlabelled, labelled), config, output_dir)
    save_image(generate(networks.generator, 100), Path(output_dir, "samples.png"), columns=10, zoom=2)
    figure, scores = images.evaluate(functools.partial(classify, networks.ema, mirror=config.mirror), output_dir)

    def evaluate() -> dict[str, float]:
        steps = min(2000, config.epochs * unlabelled.steps_per_epoch)
        baseline = supervised_baseline(config, labelled, steps)
        found = np.concatenate([classify(baseline, part, config.mirror) for part in images.test.in_order()])
        accuracy = float(np.mean(found.argmax(axis=1) == images.test.labels))
        return {"test_accuracy_from_labels_alone": accuracy} | scores

    return folder.finish(networks, evaluate, figure)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train on handwritten digits with few labels; return the path of a figure with predictions for test images."""
    return run("sample", config, output_dir)


def classify_file(
    source: Path,
    run: Path = DEMO_RUN,
    top: Annotated[int, Range(1, 100_000)] = 3,
    invert: bool = False,
    table: Path | None = None,
    skip_bad: bool = False,
) -> None:
    """Print the `top` most probable classes of an image, or of every image in a folder.

    `invert` inverts the images; use it for dark objects on a bright background if the training images are the opposite.
    `table` is the path of a CSV file for the probabilities of all classes.
    """
    trained = Run.load(run, "ssgan", Config)
    classifier = trained.network("ema", trained.image_shape, (trained.config.outputs,))
    classifies = functools.partial(classify, classifier, mirror=trained.config.mirror)
    trained.classify_files(source, classifies, top, invert, table, skip_bad)


def generate_file(
    destination: Path,
    count: Annotated[int, Range(1, 100_000)] = 100,
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0,
    run: Path = DEMO_RUN,
) -> Path:
    """Write generated images of a run as one grid."""
    trained = Run.load(run, "ssgan", Config)
    generator = trained.network("generator", (trained.config.latent_dim,), trained.image_shape)
    return save_image(generate(generator, count, seed), destination, columns=10)


# %% Try it
# The sixteen test digits with the least confident predictions. Wrong predictions are red. Most of these digits are also
# hard for people to read.
# >>> from common.runs.classification import save_classified
# >>>
# >>> trained = Run.load(DEMO_RUN, "ssgan", Config)
# >>> generator, classifier = trained.network("generator"), trained.network("ema")
# >>> images, labels = digits.test.items, digits.test.labels
# >>> probabilities = classify(classifier, images)
# >>> uncertain = np.argsort(probabilities.max(axis=1))[:16]
# >>> path = DEMO_RUN.parent / "ssgan-uncertain.png"
# >>> show_file(save_classified(images[uncertain], labels[uncertain], probabilities[uncertain], digits.classes, path))
#
# The most confidently classified of 1,000 generated images: five per class, one column per digit. They do not look
# realistic, because the generator matches only the mean features of real images.
# >>> generated = generate(generator, 1000, seed=1)
# >>> best = np.argsort(-classify(classifier, generated), axis=0)[:5]
# >>> show(generated[best.ravel()], columns=10)
#
# The fraction of images that are classified as real (S > 1), in four sets: test digits, generated digits, upside-down
# test digits and inverted test digits (dark on light). Many of the last two are also classified as real: S was only
# trained to separate real digits from images of this generator, so it does not reliably detect other images.
# >>> others = {"test": images, "generated": generated, "upside down": images[:, ::-1, ::-1], "inverted": 255 - images}
# >>> logits = {name: real_logits(predict(classifier, from_uint8(some))) for name, some in others.items()}
# >>> {name: round(float(np.mean(some > 0)), 2) for name, some in logits.items()}


if __name__ == "__main__":
    plain = Config(feature_matching=False, noise=0.0, shift=0, consistency_weight=0.0, batch_size=50, epochs=30)
    plain = replace(plain, learning_rate=2e-4)
    presets = {"clothes": CLOTHES, "digits": HANDWRITTEN, "plain": plain, "demo": DEMO}
    run_command(demo, presets=presets, train=run, classify=classify_file, generate=generate_file)
