"""Train the face attribute classifier that scores edited and generated faces: data/face_classifier.keras.

    python -m tools.face_classifier                                 trains on synthetic faces
    python -m tools.face_classifier --data DIR --output mine.keras  trains on your own labelled faces

The classifier is trained on each image and on a blurred copy of it, because it also scores reconstructions of
autoencoders, which are blurry.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
from pathlib import Path

import numpy as np

from common.data.attributes import Attributed, attributed_images
from common.samples.faces import FACE_ATTRIBUTES, synthetic_faces
from common.system.files import InputError, replacing
from common.system.lazy import keras, tf

OUTPUT = Path(__file__).resolve().parent.parent / "data" / "face_classifier.keras"
SEED = 1
FACES = 8000
EPOCHS = 10
LARGEST_BLUR = 1.5  # maximum standard deviation of the blur in pixels


def build(size: int, channels: int, attributes: int) -> keras.Model:
    """Return the untrained classifier: float32 [n, size, size, channels] in [-1, 1] -> features [n, 64], logits."""
    layers = keras.layers
    images = x = keras.Input((size, size, channels), name="images")
    for filters in (16, 24, 32, 48):
        x = layers.Conv2D(filters, 3, 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    features = layers.Dense(64, activation="relu", name="features")(x)
    logits = layers.Dense(attributes, name="logits")(layers.Dropout(0.3)(features))
    return keras.Model(images, [features, logits], name="face_classifier")


def softened(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Blur each image, uint8 [n, h, w, c], with a Gaussian of random width."""
    import cv2

    widths = generator.uniform(0.3, LARGEST_BLUR, len(images))
    blurred = [cv2.GaussianBlur(image, (0, 0), width) for image, width in zip(images, widths, strict=True)]
    return np.stack(blurred).reshape(images.shape)


def train(images: np.ndarray, labels: np.ndarray, epochs: int = EPOCHS, mirror: bool = False) -> keras.Model:
    """Return a classifier trained on images uint8 [n, h, w, c] and labels uint8 [n, attributes] (255: unknown).

    If `mirror`, half of the images are flipped. Do not flip images if a flip changes an attribute (`looking_left`).
    """
    keras.utils.set_random_seed(SEED)
    generator = np.random.default_rng(SEED)
    classifier = build(images.shape[1], images.shape[3], labels.shape[1])
    learning_rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * -(-2 * len(images) // 64))
    trained = keras.Model(classifier.input, classifier.output[1])

    def known_cross_entropy(truth: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        known = tf.cast(truth != 255, tf.float32)
        truth = tf.cast(truth == 1, tf.float32)
        return tf.reduce_sum(known * tf.nn.sigmoid_cross_entropy_with_logits(truth, logits)) / tf.reduce_sum(known)

    trained.compile(keras.optimizers.AdamW(learning_rate, weight_decay=1e-2), known_cross_entropy)
    for _ in range(epochs):
        batch = np.concatenate([images, softened(images, generator)])
        flipped = generator.random(len(batch)) < 0.5 if mirror else np.zeros(len(batch), bool)
        batch[flipped] = batch[flipped, :, ::-1]
        trained.fit(batch.astype(np.float32) / 127.5 - 1, np.tile(labels, (2, 1)), batch_size=64, verbose=2)
    return classifier


def accuracies(classifier: keras.Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the accuracy of each attribute on images uint8 [n, h, w, c]. Unknown labels are ignored."""
    logits = classifier.predict(images.astype(np.float32) / 127.5 - 1, batch_size=500, verbose=0)[1]
    right = np.ma.masked_where(labels == 255, (logits > 0) == (labels == 1))
    return np.asarray(right.mean(axis=0))


def main() -> None:
    """Train, measure and save the classifier."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="sample", help="same as `--data` of recipes.vae_faces")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--mirror", action="store_true", help="flip half of the images left to right")
    options = parser.parse_args()
    sample = functools.partial(synthetic_faces, FACES, seed=10, size=options.size)
    data: Attributed = attributed_images(options.data, options.size, options.channels, sample, names=FACE_ATTRIBUTES)
    if not data.names:
        raise InputError(f"{options.data}: no attribute labels found; data/README.md describes the formats")
    classifier = train(*data.train.loaded(50_000), mirror=options.mirror)
    test, labels = data.test.loaded(10_000)
    for name, accuracy in zip(data.names, accuracies(classifier, test, labels), strict=True):
        print(f"{name:>20}  {accuracy:.4f} on {len(test)} held-out images")
    with replacing(options.output) as temporary:
        classifier.save(temporary)
    print(f"{options.output.name}: {classifier.count_params():,} parameters, {options.output.stat().st_size:,} bytes")
    print(f"sha256 {hashlib.sha256(options.output.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
