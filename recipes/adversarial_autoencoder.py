"""Adversarial autoencoder: match the codes of an autoencoder to any prior, and classify with few labels.

Paper    Makhzani, Shlens, Jaitly, Goodfellow & Frey, "Adversarial Autoencoders", 2015, arXiv:1511.05644.
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [-1, 1] in the networks.
Codes    float32 [n, latent_dim]. After training they follow the prior: gaussian, mixture (petals) or swiss_roll.
         Where classes are appended to the codes, they are one-hot vectors or softmax probabilities.
Logits   outputs of the discriminator, float32 [n, 1], or [n, 2] with `few`; positive means a sample of the prior.
Labels   none           no labels are used; all codes together follow the prior (section 2)
         discriminator  each class is assigned one petal, or one segment of the Swiss roll (section 2.3, figure 3)
         decoder        the decoder also gets the class, so the code describes only the style (section 4)
         few            only a few training images have labels; the encoder also predicts the class (section 5)
Differs  1. All gradients of a step are computed before any update. Adam's learning rates decay to 0 along a cosine.
         2. The reconstruction loss is the binary cross entropy of pixels. The encoder and decoder use batch
            normalisation. The decoder and discriminator divide their input codes by `prior_stddev`.
         3. If the decoder gets the classes, so does the discriminator. The codes then follow the prior within each
            class, not only overall. With `few`, this is an option (`joint`), which the demo uses.
Run      python -m recipes.adversarial_autoencoder                               the demo: digits, few labels, offline
         python -m recipes.adversarial_autoencoder train --preset few --data mnist --fetch   also: petals, style
         python -m recipes.adversarial_autoencoder train --data DIR --output-dir runs/mine     your images, no labels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
# `labels` selects one of the paper's four algorithms, which are listed at the top. The demo uses `few`, with 200
# labelled digits. The code then describes the style of a digit in `latent_dim` numbers, and the class is encoded
# separately. `prior` and `prior_stddev` set the distribution of the codes. `learning_rate` applies to the
# reconstruction and classification losses, `adversarial_learning_rate` to the adversarial losses. `noise` is the
# standard deviation of the noise added to the encoder's input in training.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for training without labels. `PETALS`, `STYLE` and `FEW` are for the three uses of labels."""

    size: Annotated[int, Range(8, 512)] = 28  # side of the images in pixels
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    labels: Literal["none", "discriminator", "decoder", "few"] = "none"  # how labels are used (see `Labels` above)
    labelled: Annotated[int, Range(1, 10_000_000)] = 100  # with `few`: number of labelled training images
    joint: bool = False  # with `few`: the discriminator of the codes also gets the classes
    outputs: Annotated[int, Range(1, 65_536)] = 10  # number of classes; `train` and the demo set it from the data
    prior: Literal["gaussian", "mixture", "swiss_roll"] = "gaussian"  # prior of coordinates 1 and 2; the rest: Gaussian
    prior_stddev: Annotated[float, Range(1e-3, 1000)] = 5.0  # root mean square of each coordinate of the prior
    latent_dim: Annotated[int, Range(2, 65_536)] = 10
    units: Annotated[int, Range(1, 65_536)] = 392  # units per hidden layer of the encoder and the decoder
    discriminator_units: Annotated[int, Range(1, 65_536)] = 1500  # units per hidden layer
    dropout: Annotated[float, Range(0, 0.999999)] = 0.2  # dropout rate of the hidden layers of all networks
    noise: Annotated[float, Range(0, 10)] = 0.0  # standard deviation of the training noise, for pixels in [-1, 1]
    batch_size: Annotated[int, Range(1, 65_536)] = 1024
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3  # for the reconstruction and classification losses
    adversarial_learning_rate: Annotated[float, Range(0, 10)] = 5e-4  # for the discriminator and generator losses
    epochs: Annotated[int, Range(1, 1_000_000)] = 100
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    synchronized: bool = False  # with several devices: normalise over the global batch, not per device

    def __post_init__(self) -> None:
        Range.check(self)


STYLE = Config(labels="decoder", prior_stddev=1.0, dropout=0.0)
PETALS = Config(labels="discriminator", prior="mixture", latent_dim=2, dropout=0.0, adversarial_learning_rate=1e-3)
FEW = Config(labels="few", prior_stddev=1.0, units=400, discriminator_units=400, dropout=0.0, noise=0.6, batch_size=250)
PAPER = {100: {"": 0.019, "_from_labels_alone": 0.258}, 1000: {"": 0.016, "_from_labels_alone": 0.0873}}  # table 2
DEMO = replace(FEW, joint=True, labelled=200, latent_dim=5, units=300, noise=0.3, batch_size=100, epochs=80)
DEMO_RUN = Path("runs/adversarial_autoencoder-demo")

# %% Networks
# A variational autoencoder pulls its codes towards a prior with a KL term, which needs the density of the prior. Here a
# discriminator replaces the KL term. It learns to tell samples of the prior from codes of images, and the encoder
# learns to make them indistinguishable. The prior can therefore be any distribution that you can sample, such as ten
# petals or a Swiss roll. This is a GAN: the encoder is the generator, and samples of the prior are the real data.
#
# With `few`, the encoder returns a code and ten class logits, and there are two discriminators. One makes the codes
# follow the prior. The other pushes the softmax of the logits towards one-hot vectors, with all classes equally
# frequent. The labelled images determine which logit stands for which class. The decoder gets the code and the softmax,
# so the code does not need to encode the class. With `joint`, it cannot: the first discriminator also gets the softmax,
# and would detect any dependence between code and class.


class Networks(NamedTuple):
    """The three networks. `labels` determines which of them get classes in addition to codes."""

    encoder: keras.Model  # images in [-1, 1] -> codes; with `few`: codes and class logits
    decoder: keras.Model  # codes (and classes) -> images in [-1, 1]
    discriminator: keras.Model  # codes (and classes) -> logits [n, 1]; with `few`: [n, 2], for codes and for classes


def build(config: Config = Config()) -> Networks:
    """Return the untrained networks."""
    layers, labels, width, classes = keras.layers, config.labels, config.latent_dim, config.outputs
    init = {"kernel_initializer": keras.initializers.GlorotUniform(keras.random.SeedGenerator(config.seed))}
    scale = [1 / config.prior_stddev] * width + [1.0] * classes  # unit variance for codes; classes are unchanged

    def dense(x, units, outputs, normalise=True):
        for seed in (2 * outputs, 2 * outputs + 1):
            x = layers.Dense(units, use_bias=not normalise, **init)(x)
            if normalise:
                x = layers.BatchNormalization(momentum=0.95, synchronized=config.synchronized)(x)
            x = layers.ReLU()(x)
            x = layers.Dropout(config.dropout, seed=config.seed + seed)(x) if config.dropout else x
        return layers.Dense(outputs, dtype="float32", **init)(x)

    x = images = keras.Input((config.size, config.size, config.channels), name="images")
    x = layers.GaussianNoise(config.noise, seed=config.seed)(x) if config.noise else x
    x = dense(layers.Flatten()(x), config.units, width + classes if labels == "few" else width)
    encoder = keras.Model(images, x, name="encoder")

    codes = keras.Input((width + classes if labels in ("decoder", "few") else width,), name="codes")
    x = layers.Rescaling(scale[: codes.shape[1]])(codes)
    x = dense(x, config.units, config.size**2 * config.channels)
    x = layers.Reshape(images.shape[1:], name="pixel_logits", dtype="float32")(x)
    decoder = keras.Model(codes, keras.ops.tanh(x / 2), name="decoder")  # tanh(x / 2) = 2 sigmoid(x) - 1

    codes = keras.Input((width if labels == "none" else width + classes,), name="codes")
    x = layers.Rescaling(scale[: codes.shape[1]])(codes)
    inputs = [x if config.joint else x[:, :width], x[:, width:]] if labels == "few" else [x]
    logits = [dense(each, config.discriminator_units, 1, normalise=False) for each in inputs]
    discriminator = keras.Model(codes, keras.ops.concatenate(logits, axis=1), name="discriminator")
    return Networks(encoder, decoder, discriminator)


# %% The prior
# A sample of the prior is a code with a one-hot class appended. Each class has one petal of the mixture, or one segment
# of the Swiss roll; all segments are equally probable. The Gaussian is the same for all classes.


def prior_samples(classes: np.ndarray | tf.Tensor, config: Config, noise: Noise) -> tf.Tensor:
    """Return a sample of the prior for each class index: code and one-hot class, float32 [n, latent_dim + outputs].

    Each coordinate of the codes has a root mean square of `prior_stddev`.
    """
    codes = noise.normal((tf.shape(classes)[0], config.latent_dim))
    if config.prior != "gaussian":
        fraction, first, across = tf.cast(classes, tf.float32) / config.outputs, codes[:, 0], 0.1 * codes[:, 1]
        if config.prior == "mixture":
            angle = 2 * np.pi * fraction
            radius = np.sqrt(2 - 0.45**2 - 0.1**2) + 0.45 * first
        else:  # the roll has two turns; the normal CDF maps `first` to a uniform variable
            position = tf.sqrt(fraction + 0.5 * (1 + tf.math.erf(first / np.sqrt(2))) / config.outputs)
            angle = 4 * np.pi * position
            radius, across = np.sqrt(4 - 2 * 0.1**2) * position + across, 0.0
        x = radius * tf.cos(angle) - across * tf.sin(angle)
        y = radius * tf.sin(angle) + across * tf.cos(angle)
        codes = tf.concat([tf.stack([x, y], axis=1), codes[:, 2:]], axis=1)
    return tf.concat([config.prior_stddev * codes, tf.one_hot(classes, config.outputs)], axis=1)


# The densities of the three priors, estimated from 200,000 samples each:
# >>> densities = []
# >>> for prior in ("gaussian", "mixture", "swiss_roll"):
# ...     example = Config(prior=prior, latent_dim=2, prior_stddev=1.0)
# ...     x, y = prior_samples(np.arange(200_000) % 10, example, Noise(0))[:, :2].numpy().T
# ...     counts = np.histogram2d(-y, x, 192, [[-3, 3], [-3, 3]])[0]
# ...     densities.append(np.sqrt(counts / counts.max()) * 255)
# >>> show(255 - np.stack(densities)[..., None].astype(np.uint8))


# %% Losses
# Each algorithm of the paper has one function, which computes the losses of a batch and returns a dictionary. All
# algorithms share three losses. `reconstruction` trains the encoder and the decoder. `discriminator` trains the
# discriminator. `generator` trains the encoder to make the discriminator classify codes as samples of the prior. In
# training, `networks.decoder` returns pixel logits.


def cross_entropy(targets: float | tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy of sigmoid(logits) and targets in [0, 1]. It is log 2 = 0.69 for logits of 0."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.zeros_like(logits) + targets, logits))


def reconstruction_loss(images: tf.Tensor, pixel_logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy between uint8 images, scaled to [0, 1], and sigmoid(pixel_logits)."""
    return cross_entropy(tf.cast(images, tf.float32) / 255, pixel_logits)


def adversarial_losses(discriminator: keras.Model, real: tf.Tensor, fake: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return discriminator and generator losses for samples of the prior (`real`) and codes of images (`fake`)."""
    real_logits = discriminator(real, training=True)
    fake_logits = discriminator(fake, training=True)
    return {
        "discriminator": cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits),
        "generator": cross_entropy(1.0, fake_logits),  # non-saturating
    }


def sample_prior(config: Config, noise: Noise, count: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
    """Return `count` samples of the prior, for the classes `labels` or for random classes."""
    classes = noise.integers((count,), 0, config.outputs)
    return prior_samples(classes if labels is None else labels, config, noise)


def unsupervised_losses(networks: Networks, config: Config, noise: Noise, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Section 2, labels="none": the codes of all images (the aggregated posterior) follow the prior."""
    encoder, decoder, discriminator = networks
    prior = sample_prior(config, noise, tf.shape(images)[0])[:, : config.latent_dim]
    codes = encoder(from_uint8(images), training=True)
    losses = {"reconstruction": reconstruction_loss(images, decoder(codes, training=True))}
    return losses | adversarial_losses(discriminator, prior, codes)


def class_prior_losses(
    networks: Networks, config: Config, noise: Noise, images: tf.Tensor, labels: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Section 2.3, labels="discriminator": the codes of each class follow that class's part of the prior."""
    encoder, decoder, discriminator = networks
    prior = sample_prior(config, noise, tf.shape(images)[0], labels)
    codes = encoder(from_uint8(images), training=True)
    losses = {"reconstruction": reconstruction_loss(images, decoder(codes, training=True))}
    codes_and_classes = tf.concat([codes, tf.one_hot(labels, config.outputs)], axis=1)
    return losses | adversarial_losses(discriminator, prior, codes_and_classes)


def style_losses(
    networks: Networks, config: Config, noise: Noise, images: tf.Tensor, labels: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Section 4, labels="decoder": the decoder gets the class, so the code only needs to contain the style."""
    encoder, decoder, discriminator = networks
    prior = sample_prior(config, noise, tf.shape(images)[0], labels)
    codes = encoder(from_uint8(images), training=True)
    codes_and_classes = tf.concat([codes, tf.one_hot(labels, config.outputs)], axis=1)
    losses = {"reconstruction": reconstruction_loss(images, decoder(codes_and_classes, training=True))}
    return losses | adversarial_losses(discriminator, prior, codes_and_classes)


def few_labels_losses(
    networks: Networks, config: Config, noise: Noise, images: tf.Tensor, labelled: tf.Tensor, labels: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Section 5, labels="few": the encoder learns the classes from `labelled` and predicts them for `images`."""
    encoder, decoder, discriminator = networks
    count = tf.shape(images)[0]
    prior = sample_prior(config, noise, count)
    outputs = encoder(from_uint8(tf.concat([images, labelled], axis=0)), training=True)
    codes, logits = outputs[:count, : config.latent_dim], outputs[:, config.latent_dim :]
    codes_and_classes = tf.concat([codes, tf.nn.softmax(logits[:count])], axis=1)
    losses = {"reconstruction": reconstruction_loss(images, decoder(codes_and_classes, training=True))}
    losses["classes"] = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits[count:]))
    return losses | adversarial_losses(discriminator, prior, codes_and_classes)


ALGORITHMS: dict[str, Callable[..., dict[str, tf.Tensor]]] = {
    "none": unsupervised_losses,
    "discriminator": class_prior_losses,
    "decoder": style_losses,
    "few": few_labels_losses,
}


# %% Training
# Each step makes three updates. The encoder and the decoder learn to reconstruct images and, with `few`, to classify
# the labelled ones. The discriminator learns to distinguish samples of the prior from codes. The encoder learns to fool
# the discriminator. All gradients are computed before any update. There are two Adam optimizers, one per learning rate.
#
# What is logged: `reconstruction` falls quickly, then slowly. It cannot reach 0, because even a perfectly reconstructed
# grey pixel has a positive cross entropy. `classes` quickly drops to almost 0, because the few labels are memorised.
# `discriminator` is the sum of two cross entropies. In a healthy run it stays between 1.1 and 2 log 2 = 1.39, and
# `generator` stays at or slightly above log 2 = 0.69. If `discriminator` falls far below 1 while `generator` grows, the
# codes do not follow the prior. `samples/` shows decoded samples of the prior, one row per class.
#
# `validation_reconstruction` is the reconstruction loss of up to 200 held-out images, after each epoch and without the
# noise and dropout of training. If it rises while `reconstruction` falls, the networks memorise the training images.


def train(
    networks: Networks,
    data: Batches | tf.data.Dataset | np.ndarray | tuple[np.ndarray, ...],
    config: Config = Config(),
    output_dir: Path | None = None,
    *,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the networks in place.

    Args:
        networks: the result of `build`.
        data: uint8 images [batch, size, size, channels]. With labels="discriminator" or "decoder": also integer labels
            [batch]. With `few`: unlabelled images, labelled images and their integer labels; `Batches.zip` combines
            streams of different lengths. With `Batches` or arrays, a run resumes exactly where it stopped. A
            `tf.data.Dataset` must be batched; it is not reshuffled, and a resumed run starts a new pass over it. If
            `Batches` have held-out images, their reconstruction loss is logged.
        config: the hyperparameters.
        output_dir: the run folder, for checkpoints and generated images. If None, nothing is written.
        steps_per_epoch: batches per epoch; the default is one pass over the data.
        on_epoch: called after each epoch with the epoch number and the mean losses.

    Returns:
        One dictionary of mean losses per epoch.
    """
    data = Batches.of(data, config.batch_size, config.seed, steps_per_epoch)
    encoder, decoder, discriminator = networks
    pixel_logits = keras.Model(decoder.input, decoder.get_layer("pixel_logits").output)  # tanh would lose precision
    with_logits = networks._replace(decoder=pixel_logits)
    algorithm = ALGORITHMS[config.labels]
    noise = Noise(config.seed + 1)
    steps = config.epochs * data.steps_per_epoch
    learning_rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    adversarial_learning_rate = keras.optimizers.schedules.CosineDecay(config.adversarial_learning_rate, steps)
    autoencoder_variables = encoder.trainable_variables + decoder.trainable_variables
    adversarial_variables = discriminator.trainable_variables + encoder.trainable_variables
    optimizer = adam(learning_rate, autoencoder_variables)
    adversarial_optimizer = adam(adversarial_learning_rate, adversarial_variables, beta_1=0.5)

    @tf.function
    def step(*batch: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:  # one forward pass, three gradients
            losses = algorithm(with_logits, config, noise, *batch)
            autoencoder_loss = losses["reconstruction"] + losses.get("classes", 0.0)
            scaled = optimizer.scale_loss(autoencoder_loss)  # float16 gradients would underflow; `apply` unscales them
            d_scaled = adversarial_optimizer.scale_loss(losses["discriminator"])
            g_scaled = adversarial_optimizer.scale_loss(losses["generator"])
        gradients = tape.gradient(scaled, autoencoder_variables)
        d_gradients = tape.gradient(d_scaled, discriminator.trainable_variables)
        g_gradients = tape.gradient(g_scaled, encoder.trainable_variables)
        optimizer.apply(gradients, autoencoder_variables)
        adversarial_optimizer.apply(d_gradients + g_gradients, adversarial_variables)
        return losses

    def sample(epoch: int, losses: dict[str, float]) -> None:
        if output_dir is not None:
            samples = prior_samples(np.arange(config.outputs).repeat(10), config, Noise(0))
            save_image(generate(decoder, samples), Path(output_dir, "samples", f"epoch-{epoch:04d}.png"), columns=10)

    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        images, *others = data.some_held_out()
        codes = predict(encoder, from_uint8(images))
        if config.labels == "few":  # the decoder gets the predicted classes, as in training
            codes = tf.concat([codes[:, : config.latent_dim], tf.nn.softmax(codes[:, config.latent_dim :])], axis=1)
        elif config.labels == "decoder":
            codes = tf.concat([codes, tf.one_hot(others[0], config.outputs)], axis=1)
        return {"validation_reconstruction": float(reconstruction_loss(images, predict(pixel_logits, codes)))}

    state = networks._asdict() | {"optimizer": optimizer, "adversary": adversarial_optimizer, "noise": noise}
    return fit(step, data, config.epochs, state, output_dir, on_epoch=[sample, validate, on_epoch])


# %% Use
# The decoder turns samples of the prior into new images. The class selects the digit, and the code selects its style.
# `style_directions` finds two directions in the space of codes, by linear regression on decoded samples: one makes
# digits thicker, the other slants them. Thickness is measured as the sum of all pixels, and slant as the sum of pixel *
# column * height, with the origin in the centre. `styles` generates images of every class along each direction.


def generate(decoder: keras.Model, samples: np.ndarray | tf.Tensor) -> np.ndarray:
    """Decode samples of the prior [n, latent_dim + outputs] to uint8 images; unconditional decoders ignore classes."""
    return to_uint8(predict(decoder, samples[:, : decoder.input_shape[1]]))


def style_directions(decoder: keras.Model, config: Config) -> dict[str, np.ndarray]:
    """Return the unit vectors [latent_dim] along which decoded images become thicker, and slant to the right."""
    samples = prior_samples(np.arange(config.outputs).repeat(200), config, Noise(0)).numpy()
    y, x = np.mgrid[: config.size, : config.size] - (config.size - 1) / 2
    moments = np.tensordot(generate(decoder, samples).mean(axis=-1), np.stack([x * 0 + 1, -x * y], axis=-1), axes=2)
    directions = np.linalg.lstsq(samples, moments)[0][: config.latent_dim].T
    return dict(zip(("thickness", "slant"), directions / np.linalg.norm(directions, axis=1)[:, None], strict=True))


def styles(decoder: keras.Model, config: Config, steps: int = 5) -> dict[str, np.ndarray]:
    """Return images of up to ten classes at each step from -2 to 2 standard deviations of thickness, then of slant."""
    rows = {}
    for kind, direction in style_directions(decoder, config).items():
        for step in np.linspace(-2, 2, steps):
            codes = np.tile(step * config.prior_stddev * direction, (min(10, config.outputs), 1))
            rows[f"{kind} {step:+.3g}"] = generate(decoder, np.hstack([codes, np.eye(config.outputs)[:10]]))
    return rows


def classify(encoder: keras.Model, images: np.ndarray, config: Config) -> np.ndarray:
    """Return class probabilities, float32 [n, outputs], for uint8 images. The encoder must be trained with `few`."""
    return tf.nn.softmax(predict(encoder, from_uint8(images))[:, config.latent_dim :]).numpy()


# %% The scores
# The built-in data set has 6,000 synthetic handwritten digits. They are drawn as pen strokes, in the styles of 600
# writers. A fifth of the writers (1,200 digits) are the test split. Of the remaining digits, 200 are labelled.
#
# `test_error` is the fraction of misclassified test digits. `test_error_from_labels_alone` is the error of the same
# encoder trained only on the labelled images. The difference is due to the unlabelled images. The results also list
# the paper's errors on MNIST. `knn_agreement_latents` is the k-NN label agreement of the codes (k = 10): the fraction
# of the ten nearest codes with the same label. It is near `knn_agreement_chance` if the codes encode only the style.
#
# The slant and the thickness with which each digit was written are known. Training does not use them. The scores
# `correlation_with_true_slant` and `correlation_with_true_thickness` compare them with the coordinates of the codes
# along the two directions that `style_directions` finds.
# >>> digits = labelled_images("sample", DEMO.size, DEMO.channels, "digits")
# >>> images, labels = digits.test.loaded()
# >>> show(images[:16])


def classification_errors(
    networks: Networks,
    config: Config,
    known: tuple[np.ndarray, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
) -> dict[str, float]:
    """Return the test errors of the encoder and of a baseline trained only on the labelled images `known`."""
    baseline = build(config).encoder
    classifier = keras.Model(baseline.inputs, baseline.output[:, config.latent_dim :])
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = tf.data.Dataset.from_tensors(known).map(lambda images, labels: (from_uint8(images), labels))
    classifier.fit(batches.repeat(500), verbose=0, shuffle=False)
    scores = {}
    for name, encoder in (("test_error", networks.encoder), ("test_error_from_labels_alone", baseline)):
        scores[name] = 1 - float(np.mean(classify(encoder, images, config).argmax(axis=1) == labels))
    return scores | {f"papers_error_on_mnist{name}": error for name, error in PAPER.get(config.labelled, {}).items()}


def style_correlations(
    directions: dict[str, np.ndarray], codes: np.ndarray, truth: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return the correlation between the coordinate of codes along each direction and the true style of the images."""
    return {
        f"correlation_with_true_{kind}": float(np.corrcoef(codes @ direction, truth[kind])[0, 1])
        for kind, direction in directions.items()
    }


# %% A whole run
# The command `train` calls `run`, which reads the data, trains the networks, scores test images and writes the files.


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/adversarial_autoencoder"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Train on `data` or resume, score test images, save the run in `output_dir`, and return the path of a figure."""
    folder = Run(output_dir, "adversarial_autoencoder", config, data, accept_data)
    classes = config.labels != "none"
    labelled = labelled_images(data, config.size, config.channels, "digits", skip_bad, fetch, require_classes=classes)
    config = replace(config, outputs=len(labelled.classes))
    if config.labels == "few":
        labelled, unlabelled = labelled.few_labels(config.labelled, config.seed), labelled
        few = labelled.batches(config.batch_size, config.seed, validate=1000)
        stream = Batches.zip(unlabelled.image_batches(config.batch_size, config.seed), few)
    elif config.labels == "none":
        stream = labelled.image_batches(config.batch_size, config.seed)
    else:
        stream = labelled.batches(config.batch_size, config.seed, validate=1000)
    networks = build(config)
    folder.start(labelled.classes)
    train(networks, stream, config, output_dir)

    images, labels = labelled.test.loaded(2000)
    codes = predict(networks.encoder, from_uint8(images))[:, : config.latent_dim]
    image = labelled.save_latents(codes, labels, Path(output_dir, "latents.png"), "Codes of test images", config.seed)
    prior_classes = np.arange(len(labels)) % config.outputs
    prior = prior_samples(prior_classes, config, Noise(1)).numpy()
    points = np.concatenate([prior[:, :2], codes[:, :2] + [7 * config.prior_stddev, 0]])
    title = "First two coordinates. Left: samples of the prior. Right: codes of test images."
    labelled.save_latents(points, np.concatenate([prior_classes, labels]), Path(output_dir, "prior.png"), title)
    if config.labels in ("decoder", "few"):
        image = save_image(styles(networks.decoder, config), folder.folder / "styles.png", zoom=56 // config.size or 1)

    def scores() -> dict[str, float]:
        found = labelled.knn_agreement(codes, images, labels)
        if labelled.styles and config.labels in ("decoder", "few"):
            found |= style_correlations(style_directions(networks.decoder, config), codes, labelled.styles)
        if config.labels == "few":
            known = labelled.train.loaded(config.labelled)
            found |= classification_errors(networks, config, known, *labelled.test.loaded(10_000))
        return found

    return folder.finish(networks, scores, image)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Train on handwritten digits with few labels; return the path of a figure with digits in different styles."""
    return run("sample", config, output_dir)


def generate_file(
    destination: Path,
    each: Annotated[int, Range(1, 100_000)] = 10,
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0,
    run: Path = DEMO_RUN,
) -> Path:
    """Write decoded samples of the prior as a grid, with one row per class and `each` columns."""
    trained = Run.load(run, "adversarial_autoencoder", Config)
    config = trained.config
    width = config.latent_dim + (config.outputs if config.labels in ("decoder", "few") else 0)
    decoder = trained.network("decoder", (width,), trained.image_shape)
    samples = prior_samples(np.arange(config.outputs).repeat(each), config, Noise(seed))
    return save_image(generate(decoder, samples), destination, columns=each)


def classify_file(
    source: Path,
    run: Path = DEMO_RUN,
    top: Annotated[int, Range(1, 100_000)] = 3,
    invert: bool = False,
    table: Path | None = None,
    skip_bad: bool = False,
) -> None:
    """Print the `top` most probable classes of an image, or of each image in a folder. Requires labels="few".

    `invert` inverts the images. Use it if they have a bright background but the training images have a dark one.
    `table` is the path of a CSV file for the probabilities of all classes.
    """
    trained = Run.load(run, "adversarial_autoencoder", Config, labels="few")
    config = trained.config
    encoder = trained.network("encoder", trained.image_shape, (config.latent_dim + config.outputs,))
    trained.classify_files(source, lambda images: classify(encoder, images, config), top, invert, table, skip_bad)


# %% Try it
# Each row shows all ten digits in the style of the held-out digit on the left. The code of that digit describes its
# handwriting: thin, bold, or slanted to the left or to the right. The decoder combines this code with each class. If a
# result is the wrong digit, the code still contains information about the class.
# >>> trained = Run.load(DEMO_RUN, "adversarial_autoencoder", Config)
# >>> encoder, decoder = trained.network("encoder"), trained.network("decoder")
# >>> slants, pens = digits.styles["slant"], digits.styles["thickness"]
# >>> chosen = images[[pens.argmin(), pens.argmax(), slants.argmin(), slants.argmax()]]
# >>> codes = predict(encoder, from_uint8(chosen))[:, : DEMO.latent_dim]
# >>> samples = np.hstack([codes.repeat(10, axis=0), np.tile(np.eye(10), (len(chosen), 1))])
# >>> written = generate(decoder, samples).reshape(len(chosen), 10, *chosen.shape[1:])
# >>> show(np.concatenate([np.concatenate([digit[None], row]) for digit, row in zip(chosen, written)]), columns=11)
#
# All ten digits, varied in thickness (top) and in slant (bottom):
# >>> rows = [np.concatenate(list(row), axis=1) for row in styles(decoder, DEMO, 9).values()]
# >>> frames = np.concatenate([rows[:9], rows[9:]], axis=1)  # [9, 2 * 28, 10 * 28, 1]
# >>> frames = frames[[*range(9), *range(7, 0, -1)]].repeat(3, axis=1).repeat(3, axis=2)
# >>> show_file(save_image(frames, DEMO_RUN.parent / "adversarial_autoencoder-styles.gif"))
#
# After training with ten labels per class, the encoder also classifies digits. Its errors on the test digits:
# >>> predicted = classify(encoder, images, DEMO).argmax(axis=1)
# >>> wrong = np.flatnonzero(predicted != labels)
# >>> print(len(wrong), "wrong:", ", ".join(f"{labels[index]} as {predicted[index]}" for index in wrong[:16]))
# >>> show(images[wrong[:16]])


if __name__ == "__main__":
    presets = {"unsupervised": Config(), "petals": PETALS, "style": STYLE, "few": FEW, "demo": DEMO}
    run_command(demo, presets=presets, train=run, generate=generate_file, classify=classify_file)
