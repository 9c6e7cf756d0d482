"""The plain way to train the recipes' networks, as Keras tutorials write it, for `benchmarks.speed` to time.

The networks, the losses and the settings of the optimizers are the recipes'; how a step is written is not.

Classifiers       a compiled model and `train_on_batch`, with accuracy.
Autoencoders      likewise, encoder and decoder as one model; noise by NumPy.
Variational       a `keras.Model` with a `train_step` of its own and `train_on_batch`, as in the guides of keras.io.
Adversarial       compiled models: what is generated comes from `predict`; then `train_on_batch` for real, for fake, and
                  for a combined model whose discriminator is frozen. So for `gan`, `dcgan`, `pix2pix` and
                  `adversarial_autoencoder`, whose autoencoder, and whose classes where there are, learn in calls of
                  their own.
Face swap         an autoencoder for each person, around one encoder, that train in turn; faces are warped by OpenCV.
Loops with tapes  one `tf.function` in which every network is called for every batch by itself, a gradient call and an
                  optimizer for each network: `cyclegan` (with two persistent tapes, no pool of earlier translations),
                  `dcgan_faces`, `ssgan`, `fast_style_transfer`, and the attacks of `fgsm`.

Batches are put together from a list of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.lazy import keras, tf
from recipes import dcgan_faces, fast_style_transfer, fgsm, ssgan, vae, vae_faces

Step = Callable[..., object]
"""A batch: float32 images [n, size, size, channels] in [-1, 1], class numbers int32 [n] -> nothing of interest."""


def make_plain_step(
    recipe: str, config: Any, networks: Sequence[keras.Model], parts: Sequence[np.ndarray]
) -> Callable[[int], None]:
    """Return (number of a step) -> None, which trains a recipe's networks in place on its batch of `parts`.

    Args:
        recipe: its name.
        config: its settings.
        networks: what its `build` returns; a discriminator may be left frozen.
        parts: images uint8 [n, size, size, channels] and class numbers [n], as the recipe's own step takes them.

    Raises:
        NotImplementedError: there is no plain way of this recipe here.
    """
    if recipe not in STEPS:
        raise NotImplementedError(f"no plain way of {recipe}")
    train_on = STEPS[recipe](config, networks)
    examples = list(zip(*parts, strict=True))
    size = config.batch_size

    def stacked(column: Sequence[Any]) -> np.ndarray:
        whole = np.stack(column)
        return whole.astype(np.float32) / 127.5 - 1.0 if whole.ndim > 1 else whole

    def step(number: int) -> None:
        chosen = [examples[(number * size + i) % len(examples)] for i in range(size)]
        train_on(*(stacked(column) for column in zip(*chosen, strict=True)))

    return step


def _adam(config: Any, rate: float | None = None) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(config.learning_rate if rate is None else rate, beta_1=getattr(config, "beta_1", 0.9))


# %% Classifiers


def _class_loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _classifier_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    (model,) = networks
    model.compile(_adam(config), _class_loss(), metrics=["accuracy"])
    return model.train_on_batch


def _mobilenet_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    features, classifier = networks
    images = keras.Input((config.size, config.size, config.channels))
    kept = {} if config.weights == "random" else {"training": False}  # learnt statistics stay as they are
    return _classifier_step(config, [keras.Model(images, classifier(features(images, **kept)))])


def _fgsm_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    classifier, hardened = networks
    for model in networks:
        model.compile(_adam(config), _class_loss(), metrics=["accuracy"])
    bound, random = 2 * config.epsilon, np.random.default_rng(config.seed)
    slope = tf.function(fgsm.steepest)

    def train_on(images: np.ndarray, labels: np.ndarray) -> None:
        first, length = images, bound
        if config.random_start:
            first, length = images + random.uniform(-bound, bound, images.shape).astype(np.float32), 1.25 * bound
        first = np.clip(np.clip(first, images - bound, images + bound), -1, 1)
        attacked = first + length * slope(hardened, tf.constant(first), tf.constant(labels)).numpy()
        attacked = np.clip(np.clip(attacked, images - bound, images + bound), -1, 1)
        classifier.train_on_batch(images, labels)
        shares = np.repeat([2 - 2 * config.adversarial, 2 * config.adversarial], len(images)).astype(np.float32)
        hardened.train_on_batch(np.concatenate([images, attacked]), np.tile(labels, 2), sample_weight=shares)

    return train_on


# %% Autoencoders


def _autoencoder_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    encoder, decoder = networks
    model = keras.Model(encoder.inputs, decoder(encoder.output))
    optimizer = _adam(config)
    if hasattr(config, "weight_decay"):
        optimizer = keras.optimizers.AdamW(config.learning_rate, config.weight_decay)
    model.compile(optimizer, "mse", loss_weights=[0.25])
    noise, random = 2 * getattr(config, "noise", 0.0), np.random.default_rng(config.seed)

    def train_on(images: np.ndarray) -> None:
        seen = images
        if noise:
            seen = np.clip(images + noise * random.standard_normal(images.shape, np.float32), -1, 1)
        model.train_on_batch(seen, images)

    return train_on


def _variational_step(
    networks: Sequence[keras.Model], config: Any, losses: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
) -> keras.Model:
    """Return a compiled model whose step is on `losses(batch)`: of reconstruction, and of divergence."""

    class Variational(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = list(networks)
            self.trackers = [keras.metrics.Mean(name=name) for name in ("loss", "reconstruction", "kl")]

        @property
        def metrics(self):
            return self.trackers

        def call(self, batch):
            return batch

        def train_step(self, data):
            with tf.GradientTape() as tape:
                reconstruction, kl = losses(keras.utils.unpack_x_y_sample_weight(data)[0])
                loss = reconstruction + config.kl_weight * kl
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            for tracker, value in zip(self.trackers, (loss, reconstruction, kl), strict=True):
                tracker.update_state(value)
            return {tracker.name: tracker.result() for tracker in self.trackers}

    model = Variational()
    model.compile(_adam(config))
    return model


def _vae_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    encoder, sampler, decoder = networks
    random = np.random.default_rng(config.seed)

    def losses(binary: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, log_variance = encoder(2.0 * binary - 1.0, training=True)
        logits = decoder(sampler([mean, log_variance], training=True), training=True)
        return -tf.reduce_mean(vae.log_likelihood(binary, logits)), tf.reduce_mean(
            vae.kl_divergence(mean, log_variance)
        )

    model = _variational_step(networks, config, losses)
    return lambda images: model.train_on_batch(
        (random.random(images.shape, np.float32) < images / 2 + 0.5) * np.float32(1)
    )


def _vae_faces_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    encoder, decoder = networks

    def losses(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, log_variance = encoder(images, training=True)
        latents = mean + tf.exp(log_variance / 2.0) * tf.random.normal(tf.shape(mean))
        likelihood = vae_faces.negative_log_likelihood(images, decoder(latents, training=True))
        return likelihood, tf.reduce_mean(vae_faces.kl_divergence(mean, log_variance))

    return _variational_step(networks, config, losses).train_on_batch


def _adversarial_autoencoder_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    encoder, decoder, discriminator = networks
    few, width, random = config.labels == "few", config.latent_dim, np.random.default_rng(config.seed)
    if config.prior != "gaussian":
        raise NotImplementedError(f"no plain way with the prior {config.prior}")
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def rival() -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(config.adversarial_rate, 0.5)

    discriminator.compile(rival(), cross_entropy)
    discriminator.trainable = False
    images, one_hot = keras.Input(encoder.input_shape[1:]), keras.Input((config.outputs,))
    found = encoder(images)
    codes, logits = found[:, :width], found[:, width:]
    classes = keras.ops.softmax(logits) if few else one_hot
    fake = keras.layers.Concatenate()([codes, classes])
    copies = decoder(fake[:, : decoder.input_shape[1]])
    autoencoder = keras.Model([images, one_hot], keras.ops.clip(copies / 2 + 0.5, 1e-6, 1 - 1e-6))
    autoencoder.compile(keras.optimizers.Adam(config.learning_rate), keras.losses.BinaryCrossentropy())
    combined = keras.Model([images, one_hot], discriminator(fake[:, : discriminator.input_shape[1]]))
    combined.compile(rival(), cross_entropy)
    encoded = keras.Model([images, one_hot], fake)
    classifier = keras.Model(images, logits) if few else None
    if classifier is not None:
        classifier.compile(keras.optimizers.Adam(config.learning_rate), _class_loss(), metrics=["accuracy"])

    def train_on(batch: np.ndarray, *given: np.ndarray) -> None:
        count = len(batch)
        kinds = given[0] if given and not few else random.integers(0, config.outputs, count)
        known = np.eye(config.outputs, dtype=np.float32)[kinds]
        prior = np.float32(config.deviation) * random.standard_normal((count, width), np.float32)
        samples = np.hstack([prior, known])[:, : discriminator.input_shape[1]]
        made = encoded.predict([batch, known], batch_size=count, verbose=0)[:, : discriminator.input_shape[1]]
        real, false = (np.full((count, discriminator.output_shape[1]), value, np.float32) for value in (1, 0))
        autoencoder.train_on_batch([batch, known], batch / 2 + 0.5)
        if classifier is not None:
            classifier.train_on_batch(*given)
        discriminator.trainable = True  # as below
        discriminator.train_on_batch(samples, real)
        discriminator.train_on_batch(made, false)
        discriminator.trainable = False
        combined.train_on_batch([batch, known], real)

    return train_on


def _face_swap_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    import cv2

    encoder, inter, *decoders = networks
    models = [keras.Model(encoder.inputs, decoder(inter(encoder.output))) for decoder in decoders]
    for model in models:
        model.compile(_adam(config), "mae")
    random, size = np.random.default_rng(config.seed), config.size
    places = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(np.float32)

    def warped(face: np.ndarray) -> np.ndarray:
        moves = config.warp * size * random.standard_normal((5, 5, 2), np.float32)
        where = places + cv2.resize(moves, (size, size))
        return cv2.remap(face, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]

    def train_on(*people: np.ndarray) -> None:
        for model, faces in zip(models, people, strict=True):
            if config.mirror:
                faces = np.stack([face[:, ::-1] if random.random() < 0.5 else face for face in faces])
            model.train_on_batch(np.stack([warped(face) for face in faces]), faces)

    return train_on


# %% Generative adversarial networks


def _pix2pix_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    generator, discriminator = networks
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    discriminator.compile(_adam(config), loss=cross_entropy, loss_weights=[0.5])
    discriminator.trainable = False
    inputs = keras.Input((config.size, config.size, 3))
    translation = generator(inputs)
    combined = keras.Model(inputs, [discriminator([inputs, translation]), translation])
    weights = [config.gan_weight, config.l1_weight]
    combined.compile(_adam(config), loss=[cross_entropy, "mae"], loss_weights=weights)
    side = config.size // 8 - 2
    shape = config.batch_size, side, side, 1
    real, fake = np.ones(shape, np.float32), np.zeros(shape, np.float32)

    def train_on(source: np.ndarray, target: np.ndarray) -> None:
        made = generator.predict(source, batch_size=len(source), verbose=0)
        # Keras 3 looks at `trainable` when a model first trains, not when it is compiled: both must be set here.
        discriminator.trainable = True
        discriminator.train_on_batch([source, target], real)
        discriminator.train_on_batch([source, made], fake)
        discriminator.trainable = False
        combined.train_on_batch(source, [real, target])

    return train_on


def _gan_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    generator, discriminator = networks
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    discriminator.compile(_adam(config), loss=cross_entropy)
    discriminator.trainable = False
    inputs = keras.Input((config.latent_dim,))
    combined = keras.Model(inputs, discriminator(generator(inputs)))
    combined.compile(_adam(config), loss=cross_entropy)
    random = np.random.default_rng(config.seed)
    real, fake = np.ones((config.batch_size, 1), np.float32), np.zeros((config.batch_size, 1), np.float32)

    def train_on(images: np.ndarray) -> None:
        latents = random.standard_normal((len(images), config.latent_dim), np.float32)
        made = generator.predict(latents, batch_size=len(images), verbose=0)
        discriminator.trainable = True  # as above
        discriminator.train_on_batch(images, real)
        discriminator.train_on_batch(made, fake)
        discriminator.trainable = False
        combined.train_on_batch(latents, real)

    return train_on


def _follow(average: Sequence[Any], values: Sequence[Any], share: float, iterations: Any) -> None:
    """Move each of an average's variables towards its value; at first it is the mean."""
    kept = tf.minimum(share, 1 - 1 / tf.cast(iterations, tf.float32))
    for old, new in zip(average, values, strict=True):
        old.assign(kept * old + (1 - kept) * new)


def _dcgan_faces_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    generator, discriminator, averaged = networks
    g_optimizer, d_optimizer = _adam(config), _adam(config, config.learning_rate / 2)
    seeds = keras.random.SeedGenerator(config.seed)

    @tf.function
    def train_on(images: tf.Tensor) -> None:
        latents = tf.random.normal([config.batch_size, config.latent_dim])
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            made = generator(latents, training=True)
            on_real = discriminator(dcgan_faces.augmented(images, config, seeds), training=True)
            on_fake = discriminator(dcgan_faces.augmented(made, config, seeds), training=True)
            g_loss, d_loss = dcgan_faces.generator_loss(on_fake), dcgan_faces.discriminator_loss(on_real, on_fake)
        g_gradients = g_tape.gradient(g_loss, generator.trainable_variables)
        d_gradients = d_tape.gradient(d_loss, discriminator.trainable_variables)
        g_optimizer.apply_gradients(zip(g_gradients, generator.trainable_variables, strict=True))
        d_optimizer.apply_gradients(zip(d_gradients, discriminator.trainable_variables, strict=True))
        _follow(averaged.variables, generator.variables, config.averaging, g_optimizer.iterations)

    return train_on


def _ssgan_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    generator, classifier, averaged = networks
    seen = keras.Model(classifier.inputs, [classifier.get_layer("features").output, classifier.output])
    optimizers = [_adam(config) for _ in range(2)]

    @tf.function
    def train_on(unlabelled: tf.Tensor, labelled: tf.Tensor, labels: tf.Tensor) -> None:
        latents = tf.random.normal([config.batch_size, config.latent_dim])
        with tf.GradientTape() as g_tape, tf.GradientTape() as c_tape:
            made = generator(latents, training=True)
            _, class_logits = seen(labelled, training=True)
            real_features, real = seen(unlabelled, training=True)
            drawn_features, drawn = seen(made, training=True)
            agreement = ssgan.consistency_loss(real, averaged(unlabelled, training=False), config.sure)
            c_loss = ssgan.class_loss(labels, class_logits) + ssgan.discriminator_loss(real, drawn)
            c_loss += config.consistency * agreement
            g_loss = (
                ssgan.matching_loss(real_features, drawn_features) if config.matching else ssgan.generator_loss(drawn)
            )
        pairs = (g_tape, g_loss, generator), (c_tape, c_loss, classifier)
        gradients = [tape.gradient(loss, network.trainable_variables) for tape, loss, network in pairs]
        for optimizer, values, (_, _, network) in zip(optimizers, gradients, pairs, strict=True):
            optimizer.apply_gradients(zip(values, network.trainable_variables, strict=True))
        variables = averaged.trainable_variables, classifier.trainable_variables
        _follow(*variables, config.averaging, optimizers[1].iterations)

    return train_on


def _cyclegan_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    a2b, b2a, judge_a, judge_b = networks
    optimizers = [_adam(config) for _ in networks]
    squares, cross_entropy = keras.losses.MeanSquaredError(), keras.losses.BinaryCrossentropy(from_logits=True)
    adversarial = squares if config.loss == "least_squares" else cross_entropy
    distance = keras.losses.MeanAbsoluteError()

    @tf.function
    def train_on(a: tf.Tensor, b: tf.Tensor) -> None:
        with tf.GradientTape(persistent=True) as g_tape:
            fake_b, fake_a = a2b(a, training=True), b2a(b, training=True)
            cycled_a, cycled_b = b2a(fake_b, training=True), a2b(fake_a, training=True)
            same_a, same_b = b2a(a, training=True), a2b(b, training=True)
            on_fake_a, on_fake_b = judge_a(fake_a, training=True), judge_b(fake_b, training=True)
            cycle = config.cycle_weight * (distance(a, cycled_a) + distance(b, cycled_b))
            a2b_loss = adversarial(tf.ones_like(on_fake_b), on_fake_b) + cycle
            b2a_loss = adversarial(tf.ones_like(on_fake_a), on_fake_a) + cycle
            a2b_loss += config.identity_weight * distance(b, same_b)
            b2a_loss += config.identity_weight * distance(a, same_a)
        with tf.GradientTape(persistent=True) as d_tape:
            d_losses = []
            for judge, real, fake in ((judge_a, a, fake_a), (judge_b, b, fake_b)):
                on_real, on_fake = judge(real, training=True), judge(fake, training=True)
                real_loss = adversarial(tf.ones_like(on_real), on_real)
                d_losses.append(0.5 * (real_loss + adversarial(tf.zeros_like(on_fake), on_fake)))
        tapes, losses = (g_tape, g_tape, d_tape, d_tape), (a2b_loss, b2a_loss, *d_losses)
        weights = [network.trainable_variables for network in networks]
        gradients = [tape.gradient(loss, each) for tape, loss, each in zip(tapes, losses, weights, strict=True)]
        for optimizer, values, each in zip(optimizers, gradients, weights, strict=True):
            optimizer.apply_gradients(zip(values, each, strict=True))

    return train_on


# %% Style


def _fast_style_transfer_step(config: Any, networks: Sequence[keras.Model]) -> Step:
    painter, _ = networks
    losses = fast_style_transfer.make_losses(fast_style_transfer.Networks(*networks), config)
    painting, optimizer = fast_style_transfer.read_style(config.style, config.style_size), _adam(config)

    @tf.function
    def train_on(images: tf.Tensor) -> None:
        photos = fast_style_transfer.with_colours(images, painting)
        with tf.GradientTape() as tape:
            content, style, variation = losses(photos, painter(photos, training=True))
            loss = config.content_weight * content + config.style_weight * style + config.variation * variation
        gradients = tape.gradient(loss, painter.trainable_variables)
        optimizer.apply_gradients(zip(gradients, painter.trainable_variables, strict=True))

    return train_on


STEPS: dict[str, Callable[[Any, Any], Step]] = {
    "adversarial_autoencoder": _adversarial_autoencoder_step,
    "autoencoder": _autoencoder_step,
    "conv_autoencoder": _autoencoder_step,
    "cyclegan": _cyclegan_step,
    "dcgan": _gan_step,
    "dcgan_faces": _dcgan_faces_step,
    "face_swap": _face_swap_step,
    "fast_style_transfer": _fast_style_transfer_step,
    "fgsm": _fgsm_step,
    "gan": _gan_step,
    "lenet": _classifier_step,
    "mlp": _classifier_step,
    "mobilenet": _mobilenet_step,
    "pix2pix": _pix2pix_step,
    "ssgan": _ssgan_step,
    "vae": _vae_step,
    "vae_faces": _vae_faces_step,
}
