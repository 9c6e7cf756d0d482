"""Adversarial autoencoder: give an autoencoder's codes a distribution of one's choice, and learn from few labels.

Paper    Makhzani, Shlens, Jaitly, Goodfellow & Frey, "Adversarial Autoencoders", 2015, arXiv:1511.05644.
Images   uint8 [n, size, size, channels] at the borders; float32 in [-1, 1] in the networks.
Codes    float32 [n, latent_dim], after training distributed as the prior: gaussian, mixture (petals) or swiss_roll;
         classes joined to them are one-hot, or a softmax. Logits float32 [n, 1 or 2]; positive means from the prior.
Labels   none           codes alone (section 2)
         discriminator  each class is led to its own petal, or stretch of the roll (section 2.3, figure 3)
         decoder        the decoder is told the class, so that the code holds the style (section 4)
         few            `labelled` images have a known class, the encoder finds the others' (section 5)
Differs  1. All gradients of a step are taken before its updates; Adam, whose rates fall to 0 along a cosine.
         2. Cross entropy between pixels; batch normalisation; networks take codes divided by `deviation`.
         3. With `decoder` the discriminator sees classes too: codes must follow the prior in each, not only in all.
Run      python -m recipes.adversarial_autoencoder                               the demo: digits, few labels, offline
         python -m recipes.adversarial_autoencoder train --preset few --data mnist --fetch     also petals, style
         python -m recipes.adversarial_autoencoder train --data DIR --output-dir runs/mine     your pictures, no classes
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches, mapped, side_by_side
from common.classification import Shown, accuracy, classify_files
from common.cli import run_command
from common.digits import digits_or_others
from common.errors import InputError
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.images import from_uint8, save_grid, save_table, to_uint8
from common.labelled import Labelled, as_many_of_each, image_batches, labelled_batches
from common.latents import nearest_neighbour_purity, save_scatter, tsne
from common.lazy import keras, tf
from common.ranges import BatchSize, BelowOne, Count, Epochs, LearningRate, Range, Seed, Units
from common.runs import check_run, finish_run, image_shape, load_network, read_run, start_run
from common.training import History, fit, share

# %% Configuration
# `labels` decides which of the paper's four uses this is; they are listed at the top. The demo has `few`: 100
# labelled digits, and the rest without. There, what the class does not say of a digit is left to `latent_dim`
# numbers: its style. `prior` and `deviation` say how codes should be spread. `adversarial_rate` pulls codes towards
# the prior, `learning_rate` towards copies. `noise` is added to the pixels that the encoder sees, in training only,
# so that single pixels tell it little.


@dataclass(frozen=True, kw_only=True)
class Config:
    """A small autoencoder without labels; `PETALS`, `STYLE` and `FEW` use them in the paper's three ways."""

    size: Annotated[int, Range(8, 512)] = 28  # pixels
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    labels: Literal["none", "discriminator", "decoder", "few"] = "none"  # who is told the classes: see above
    labelled: Annotated[int, Range(1, 10_000_000)] = 100  # with `few`: training images whose class is known
    outputs: Units = 10  # classes; the data decide in `train` and in the demo
    prior: Literal["gaussian", "mixture", "swiss_roll"] = "gaussian"  # the last two lie in the plane
    deviation: Annotated[float, Range(1e-3, 1000)] = 5.0  # root mean square of each coordinate of the prior
    latent_dim: Units = 10
    units: Units = 392  # of both hidden layers of encoder and decoder
    discriminator_units: Units = 1500  # of both hidden layers
    dropout: BelowOne = 0.2  # share of hidden units that a training step leaves out, in all networks
    noise: Annotated[float, Range(0, 10)] = 0.0  # deviation of what training adds to the pixels, which are in [-1, 1]
    batch_size: BatchSize = 1024
    learning_rate: LearningRate = 1e-3  # Adam; from pixels and known classes
    adversarial_rate: LearningRate = 5e-4  # Adam; of the discriminator, and of the encoder against it
    epochs: Epochs = 100
    seed: Seed = 0
    execution: Execution = Execution()  # precision, XLA, steps in a call


STYLE = Config(labels="decoder", deviation=1.0, dropout=0.0)
PETALS = Config(labels="discriminator", prior="mixture", latent_dim=2, dropout=0.0, adversarial_rate=1e-3)
FEW = Config(labels="few", deviation=1.0, units=400, discriminator_units=400, dropout=0.0, noise=0.6, batch_size=250)
PAPER = {100: {"": 0.019, "_from_labels_alone": 0.258}, 1000: {"": 0.016, "_from_labels_alone": 0.0873}}  # table 2
DEMO, DEMO_RUN = replace(FEW, batch_size=100), Path("runs/adversarial_autoencoder-demo")

# %% Networks, prior and losses
# A VAE brings its codes to a prior by a formula, the KL term, which has to be known. Here a discriminator does that:
# it is shown samples of the prior and codes of pictures, and the encoder learns until the two cannot be told apart.
# So the prior may be anything that can be sampled, such as ten petals or a Swiss roll. It is the game of a GAN,
# played over ten numbers in place of pictures.
#
# With `few` the encoder gives ten logits of classes beside the code, and there are two games: codes should look
# normal, and the softmax of the logits should look one-hot, with every class as often. The labelled pictures say
# which class is which. The decoder draws from both, so whatever the class already tells, the code need not hold.


class Networks(NamedTuple):
    """The networks; classes are joined to codes, after them, only where `labels` says so."""

    encoder: keras.Model  # images in [-1, 1] -> codes; few: and logits of classes
    decoder: keras.Model  # codes; decoder, few: and classes -> images in [-1, 1]
    discriminator: keras.Model  # codes; but for none: and classes -> logits [n, 1]; few: [n, 2], one of each


@in_precision
def build(config: Config = Config()) -> Networks:
    """Return the networks, untrained. Raises ValueError for priors of the plane in other spaces."""
    if config.latent_dim < 2 or (config.prior != "gaussian" and config.latent_dim != 2):
        raise InputError(f"latent_dim must be 2, or more with the gaussian prior, got {config.latent_dim}")
    layers, labels, width = keras.layers, config.labels, config.latent_dim
    scale = [1 / config.deviation] * width + [1.0] * config.outputs  # what is joined to codes is one-hot
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}
    norm = functools.partial(layers.BatchNormalization, synchronized=config.execution.synchronized)

    def dense(x: keras.KerasTensor, units: int, outputs: int, normed: bool = True) -> keras.KerasTensor:
        for seed in (2 * outputs, 2 * outputs + 1):
            x = layers.Dense(units, use_bias=not normed, **init)(x)
            x = layers.ReLU()(norm(momentum=0.95)(x) if normed else x)
            x = layers.Dropout(config.dropout, seed=config.seed + seed)(x) if config.dropout else x
        return layers.Dense(outputs, dtype="float32", **init)(x)

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    x = layers.GaussianNoise(config.noise, seed=config.seed)(x) if config.noise else x
    x = dense(layers.Flatten()(x), config.units, width + (labels == "few") * config.outputs)
    encoder = keras.Model(images, x, name="encoder")
    codes = keras.Input((width + (labels in ("decoder", "few")) * config.outputs,), name="codes")
    x = dense(layers.Rescaling(scale[: codes.shape[1]])(codes), config.units, config.size**2 * config.channels)
    x = layers.Reshape(images.shape[1:], name="pixel_logits", dtype="float32")(x)
    decoder = keras.Model(codes, keras.ops.tanh(x / 2), name="decoder")  # 2 sigmoid(logits) - 1
    codes = keras.Input((width + (labels != "none") * config.outputs,), name="codes")
    x = layers.Rescaling(scale[: codes.shape[1]])(codes)
    judged = [x[:, :width], x[:, width:]] if labels == "few" else [x]
    logits = keras.ops.concatenate([dense(x, config.discriminator_units, 1, normed=False) for x in judged], axis=1)
    return Networks(encoder, decoder, keras.Model(codes, logits, name="discriminator"))


def prior_samples(classes: tf.Tensor, config: Config, seed: int | keras.random.SeedGenerator) -> tf.Tensor:
    """Return codes of the prior and, joined to them, class numbers [n] one-hot: float32 [n, latent_dim + outputs].

    Class k has petal k, at 2 pi k / outputs, or stretch k, all as probable; a coordinate's mean square is deviation^2.
    """
    codes = draw_part(keras.random.normal, (tf.shape(classes)[0], config.latent_dim), seed=seed)
    if config.prior != "gaussian":
        part, first, across = tf.cast(classes, tf.float32) / config.outputs, codes[:, 0], 0.1 * codes[:, 1]
        if config.prior == "mixture":
            angle, radius = 2 * np.pi * part, np.sqrt(2 - 0.45**2 - 0.1**2) + 0.45 * first
        else:  # two turns; its distribution function makes `first` uniform
            place = tf.sqrt(part + 0.5 * (1 + tf.math.erf(first / np.sqrt(2))) / config.outputs)
            angle, radius, across = 4 * np.pi * place, np.sqrt(4 - 2 * 0.1**2) * place + across, 0.0
        x, y = radius * tf.cos(angle) - across * tf.sin(angle), radius * tf.sin(angle) + across * tf.cos(angle)
        codes = tf.stack([x, y], axis=1)
    return tf.concat([config.deviation * codes, tf.one_hot(classes, config.outputs)], axis=1)


def cross_entropy(targets: float | tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy of sigmoid(logits) with targets in [0, 1]: log 2 = 0.69 when nothing is known.

    Healthy: the discriminator's, a sum of two, 1.1 to 2 log 2 (when codes pass for the prior); the generator's 0.69 up.
    """
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.zeros_like(logits) + targets, logits))


# The three priors, 200,000 samples each as a picture of their density; petals and stretches of the roll belong to a
# class each, where labels say so.
# >>> pictures = []
# >>> for prior in ("gaussian", "mixture", "swiss_roll"):
# ...     samples = prior_samples(np.arange(200_000) % 10, Config(prior=prior, latent_dim=2, deviation=1.0), 0)
# ...     x, y = samples[:, :2].numpy().T
# ...     counts = np.histogram2d(-y, x, 192, [[-3, 3], [-3, 3]])[0]
# ...     pictures.append(np.sqrt(counts / counts.max()) * 255)
# >>> show(255 - np.stack(pictures)[..., None].astype(np.uint8))


# %% Training
# A step does three things from one pass of the networks: encoder and decoder learn to copy (and, with `few`, to
# classify the labelled pictures); the discriminator learns to tell prior from codes; the encoder learns to deceive
# it. All gradients are taken before any update.
#
# What is logged: `reconstruction`, the cross entropy of pixels, falls from 0.48 to 0.09 in the demo, and never to 0,
# since grey pixels have an entropy of their own. `classes` is near 0 soon, as 100 labels are learnt by heart.
# `discriminator`, a sum of two, belongs between 1.1 and 1.39, `generator` at 0.69 and a little above: the demo ends
# at 1.37 and 0.70. A `discriminator` that falls far below 1 while `generator` grows says that codes lie where the
# prior does not. `samples/` shows a row a class, all drawn from the prior.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Train in place on batches of uint8 images, with class numbers or, for `few`, with labelled images and theirs."""
    encoder, decoder, discriminator = networks
    pixel_logits = keras.Model(decoder.inputs, decoder.get_layer("pixel_logits").output)  # the tanh would lose digits
    few, seen, noise = config.labels == "few", discriminator.input_shape[1], keras.random.SeedGenerator(config.seed + 1)
    rate = functools.partial(keras.optimizers.schedules.CosineDecay, decay_steps=config.epochs * data.steps_per_epoch)
    own = encoder.trainable_variables + decoder.trainable_variables
    rivals = discriminator.trainable_variables + encoder.trainable_variables
    optimizer = adam(rate(config.learning_rate), own, config.execution)
    adversary = adam(rate(config.adversarial_rate), rivals, config.execution, beta_1=0.5)

    @tf.function
    def step(images: tf.Tensor, *given: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.shape(images)[0]
        kinds = draw_part(keras.random.randint, (count,), 0, config.outputs, seed=noise)
        kinds = given[0] if given and not few else kinds  # classes of the prior's samples
        real = prior_samples(kinds, config, noise)
        with tf.GradientTape(persistent=True) as tape:  # one pass of a network serves all losses
            found = encoder(from_uint8(tf.concat([images, given[0]], 0) if few else images), training=True)
            codes, logits = found[:count, : config.latent_dim], found[:, config.latent_dim :]
            fake = tf.concat([codes, tf.nn.softmax(logits[:count]) if few else real[:, config.latent_dim :]], axis=1)
            drawn = pixel_logits(fake[:, : decoder.input_shape[1]], training=True)
            real_logits, fake_logits = (discriminator(each[:, :seen], training=True) for each in (real, fake))
            losses = {"reconstruction": share(cross_entropy(tf.cast(images, tf.float32) / 255, drawn))}
            if few:  # soon near 0, as these images are few
                each = tf.nn.sparse_softmax_cross_entropy_with_logits(given[1], logits[count:])
                losses["classes"] = share(tf.reduce_mean(each))
            own_loss = tf.add_n(list(losses.values()))
            losses["discriminator"] = share(cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits))
            losses["generator"] = share(cross_entropy(1.0, fake_logits))
        own_gradients = tape.gradient(own_loss, own, loss_scale(optimizer))
        scale = loss_scale(adversary)
        rival_gradients = tape.gradient(losses["discriminator"], discriminator.trainable_variables, scale)
        rival_gradients += tape.gradient(losses["generator"], encoder.trainable_variables, scale)
        optimizer.apply(own_gradients, own)
        adversary.apply(rival_gradients, rivals)
        return losses

    def sample(epoch: int) -> None:
        if output_dir is not None:
            drawn = generate(decoder, prior_samples(np.arange(config.outputs).repeat(10), config, 0))
            save_grid(drawn, output_dir / "samples" / f"epoch-{epoch:04d}.png", columns=10)

    state = networks._asdict() | {"optimizer": optimizer, "adversary": adversary, "noise": noise}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=sample, execution=config.execution)


# %% Use
# Codes drawn from the prior, with a class joined to them, become pictures: the class says which digit, the code how
# it is written. `styles` finds, among all directions of the code, the one along which digits gain most ink and the
# one along which they lean, by linear fits to decoded samples, and writes every class along both.


def generate(decoder: keras.Model, samples: np.ndarray | tf.Tensor) -> np.ndarray:
    """Return uint8 images of codes with classes joined, [n, latent_dim + outputs], read as far as they are taken."""
    return to_uint8(mapped(decoder, samples[:, : decoder.input_shape[1]]))


def styles(decoder: keras.Model, config: Config, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return nine images of each class, from -2 to 2 deviations along the direction that adds most ink, then slant.

    They are those of linear fits to samples of the prior. Slant is the ink's moment of column times height.
    """
    samples, rows = prior_samples(np.arange(config.outputs).repeat(200), config, 0).numpy(), {}
    y, x = np.mgrid[: config.size, : config.size] - (config.size - 1) / 2
    moments = np.tensordot(generate(decoder, samples).mean(axis=-1), np.stack([x * 0 + 1, -x * y], axis=-1), axes=2)
    found = np.linalg.lstsq(samples, moments)[0][: config.latent_dim].T
    for kind, direction in zip(("thickness", "slant"), found / np.linalg.norm(found, axis=1)[:, None], strict=True):
        for number, name in enumerate(names[:10]):
            codes = np.linspace(-2, 2, 9)[:, None] * config.deviation * direction
            rows[f"{kind} of {name}"] = generate(decoder, np.hstack([codes, np.eye(config.outputs)[[number] * 9]]))
    return rows


# %% A whole run
# The embedded data are 1,797 digits that 13 people wrote, from scikit-learn, brought to 28 x 28 grey pixels; every
# fifth, 359 in all, is held out for the test. Of the others, 100 show their class, ten of each.
#
# The scores: `test_error`, the share of test digits whose class is wrong, 0.056 in a full demo, beside
# `test_error_from_labels_alone`, 0.075, of the same encoder that learns from the 100 labels and nothing else: the
# difference is what pictures without labels have given. The paper's 0.019 and 0.258 are for MNIST, where this recipe
# has 0.107. `purity_of_codes` is how many of the ten nearest by code are of the same class: 0.72, where pixels have
# 0.89. For a code that should hold style alone it is still too much.
# >>> digits = digits_or_others("sample", DEMO.size, DEMO.channels)
# >>> images, labels = digits.test.loaded(359)
# >>> show(images[:16])


def judge_codes(networks: Networks, data: Labelled, config: Config, output_dir: Path) -> tuple[Path, dict[str, float]]:
    """Write a run's pictures; return the one to look at first, and its numbers. Training labels are those known."""
    (encoder, decoder, _), (images, labels), scores = networks, data.test.loaded(2000), {}
    codes = mapped(encoder, from_uint8(images))[:, : config.latent_dim]
    prior = prior_samples(np.arange(len(labels)) % config.outputs, config, 1).numpy()
    pair = np.concatenate([prior[:, :2], codes[:, :2] + [7 * config.deviation, 0]])
    save_scatter(pair, np.repeat([0, 1], len(labels)), ("prior", "codes, to its right"), output_dir / "prior.png")
    plane = codes[:, :2] if config.latent_dim == 2 or len(codes) < 3 else tsne(codes, config.seed)
    picture = save_scatter(plane, labels, data.classes, output_dir / "latents.png", "Codes of test images")
    if len(data.classes) > 1 < len(labels):
        scores["purity_of_codes"] = nearest_neighbour_purity(codes, labels)
        scores["purity_of_pixels"] = nearest_neighbour_purity(images.reshape(len(images), -1), labels)
    if config.labels in ("decoder", "few"):
        picture = save_table(styles(decoder, config, data.classes), output_dir / "styles.png")
    return picture, scores


def errors(networks: Networks, data: Labelled, config: Config) -> dict[str, float]:
    """Return the shares of test images that are classified wrongly, by the encoder and by the known labels alone."""
    alone = build(config).encoder  # learns from the known labels and nothing else
    classifier = keras.Model(alone.inputs, alone.output[:, config.latent_dim :])
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    known = tf.data.Dataset.from_tensors(data.train.loaded(config.labelled)).map(lambda x, y: (from_uint8(x), y))
    classifier.fit(known.repeat(500), verbose=0, shuffle=False)
    x, labels = data.test.loaded(10_000)
    named = {"test_error": networks.encoder, "test_error_from_labels_alone": alone}
    scores = {k: 1 - accuracy(labels, mapped(net, from_uint8(x))[:, config.latent_dim :]) for k, net in named.items()}
    return scores | {f"papers_error_on_mnist{how}": each for how, each in PAPER.get(config.labelled, {}).items()}


def experiment(data: str = "sample", config: Config = Config(), output_dir: Path = Path("runs/adversarial_autoencoder"),
               skip_bad: bool = False, fetch: bool = False, accept_data: bool = False) -> Path:  # fmt: skip
    """Read `data`, train or go on, measure; leave a run in `output_dir`, return its picture's path."""
    check_run(output_dir, "adversarial_autoencoder", config, data, accept_data)
    build(config)  # says what it cannot take before data are read
    none, few, size, seed = config.labels == "none", config.labels == "few", config.batch_size, config.seed
    images = digits_or_others(data, config.size, config.channels, skip_bad, fetch, require_classes=not none)
    config = replace(config, outputs=len(images.classes))
    known = images._replace(train=as_many_of_each(images.train, config.labelled, seed)) if few else images
    stream = (image_batches if none else labelled_batches)(known, size, seed, validate=1000)
    stream = side_by_side(image_batches(images, size, seed), stream) if few else stream
    networks = build(config)
    start_run(output_dir, "adversarial_autoencoder", config, data, images.classes)
    train(networks, stream, config, output_dir)
    picture, scores = judge_codes(networks, known, config, output_dir)
    finish_run(output_dir, networks, lambda: scores | (errors(networks, known, config) if few else {}))
    return picture


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn the digits of scikit-learn from few labels; return the picture of their styles."""
    return experiment("sample", config, output_dir)


def generate_file(destination: Path, each: Count = 10, seed: Seed = 0, run: Path = DEMO_RUN) -> Path:
    """Write decoded samples of the prior as a grid, a row a class."""
    config = read_run(run, "adversarial_autoencoder", Config)
    codes = config.latent_dim + (config.labels in ("decoder", "few")) * config.outputs
    decoder = load_network(run, "decoder", (codes,), image_shape(config))
    samples = prior_samples(np.arange(config.outputs).repeat(each), config, seed)
    return save_grid(generate(decoder, samples), destination, columns=each)


def classify_file(source: Path, run: Path = DEMO_RUN, shown: Shown = Shown()) -> None:
    """Print the classes that the encoder of a run with few labels finds for an image, or for all of a folder."""
    if (config := read_run(run, "adversarial_autoencoder", Config)).labels != "few":
        raise InputError(f"{run}: trained with --labels {config.labels}, so its encoder finds no classes; few does")
    encoder = load_network(run, "encoder", image_shape(config), (config.latent_dim + config.outputs,))
    found = keras.Model(encoder.inputs, keras.layers.Softmax()(encoder.output[:, config.latent_dim :]))
    classify_files(source, run, lambda x: mapped(found, from_uint8(x)), config.size, config.channels, shown)


# %% Try it
# One style for all ten digits. The code of a held-out digit, to the left, is its handwriting: bold, thin, leaning to
# one side or the other. With each class in turn the decoder writes all ten digits in that hand. These five are among
# the better ones; where one of the ten is no digit, the code says more about the class than it should.
# >>> encoder, decoder = load_network(DEMO_RUN, "encoder"), load_network(DEMO_RUN, "decoder")
# >>> hands = images[[213, 84, 115, 232, 125]]
# >>> codes = mapped(encoder, from_uint8(hands))[:, : DEMO.latent_dim]
# >>> samples = np.hstack([codes.repeat(10, axis=0), np.tile(np.eye(10), (len(hands), 1))])
# >>> written = generate(decoder, samples).reshape(len(hands), 10, *hands.shape[1:])
# >>> show(np.concatenate([np.concatenate([hand[None], row]) for hand, row in zip(hands, written)]), columns=11)
#
# The directions of thickness and of slant, for all ten at once and back again:
# >>> from common.images import save_gif
# >>> rows = list(styles(decoder, DEMO, digits.classes).values())  # thickness of 0 to 9, then slant
# >>> film = np.concatenate([np.concatenate(rows[:10], axis=2), np.concatenate(rows[10:], axis=2)], axis=1)
# >>> film = film[[*range(9), *range(7, 0, -1)]].repeat(3, axis=1).repeat(3, axis=2)
# >>> show_file(save_gif(film, DEMO_RUN.parent / "adversarial_autoencoder-styles.gif"))
#
# The same encoder classifies, from ten labels a class. Its mistakes, of 359, and which class it took them for:
# >>> found = mapped(encoder, from_uint8(images))[:, DEMO.latent_dim :].argmax(axis=1)
# >>> wrong = np.flatnonzero(found != labels)
# >>> print(len(wrong), "wrong:", ", ".join(f"{labels[place]} as {found[place]}" for place in wrong[:16]))
# >>> show(images[wrong[:16]])


if __name__ == "__main__":
    presets = {"unsupervised": Config(), "petals": PETALS, "style": STYLE, "few": FEW, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, generate=generate_file, classify=classify_file)
