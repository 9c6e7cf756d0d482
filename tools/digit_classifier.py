"""Train the small digit classifier that scores generated digits; write it to data/digit_classifier.keras.

    python -m tools.digit_classifier                     also prints the accuracy on digits of other writers
    python -m tools.digit_classifier --check mnist.npz   also prints the accuracy on `x_test` and `y_test` of this file

The images are synthetic handwriting (`common.samples.handwriting`). In every epoch, all digits are distorted anew: they
are rotated, slanted, scaled and shifted a little, and warped by a smooth random field; then blur and noise are added.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from common.samples.digits import HELD_OUT_SEED, sklearn_digits
from common.samples.handwriting import handwritten_digits
from common.system.files import replacing
from common.system.lazy import keras

OUTPUT = Path(__file__).resolve().parent.parent / "data" / "digit_classifier.keras"
SEED = 1
DIGITS = 30_000  # by 3,000 writers
EPOCHS = 6


def distorted(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Distort each image uint8 [n, 28, 28, 1] at random; return float32 [n, 28, 28, 1] in [-1, 1]."""
    import cv2

    count = len(images)
    grid = np.stack(np.meshgrid(np.arange(28), np.arange(28)), -1).astype(np.float32) - 13.5
    angles = np.radians(generator.normal(0, 6, count))
    slants = generator.normal(0, 0.1, count)
    scales = np.exp(generator.normal(0, 0.06, (count, 2)))
    shifts = generator.normal(0, 0.5, (count, 2))
    waves = generator.normal(0, generator.uniform(0, 1.8, (count, 1, 1, 1)), (count, 4, 4, 2)).astype(np.float32)
    blurs = generator.uniform(0.1, 0.7, count)
    noises = generator.uniform(0, 0.06, (count, 1, 1)).astype(np.float32)
    results = np.empty((count, 28, 28), np.float32)
    for i, image in enumerate(images[..., 0]):
        cosine, sine = np.cos(angles[i]), np.sin(angles[i])
        turn = np.array([[cosine, -sine], [sine, cosine]])
        transform = turn @ np.array([[scales[i, 0], slants[i]], [0, scales[i, 1]]])
        source = grid @ transform.T.astype(np.float32) + np.float32(13.5 + shifts[i])
        source += cv2.resize(waves[i], (28, 28), interpolation=cv2.INTER_CUBIC)
        warped = cv2.remap(image, source[..., 0], source[..., 1], cv2.INTER_LINEAR)
        results[i] = cv2.GaussianBlur(warped, (0, 0), blurs[i])
    results = results / 127.5 - 1 + noises * generator.standard_normal(results.shape, np.float32)
    return np.clip(results, -1, 1)[..., None]


def build() -> keras.Model:
    """Return the untrained classifier: float32 [n, 28, 28, 1] in [-1, 1] -> features [n, 64], logits."""
    layers = keras.layers
    images = x = keras.Input((28, 28, 1), name="images")
    for filters, strides in ((24, 2), (32, 1), (64, 2), (56, 1)):
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.AveragePooling2D(2, padding="same")(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    features = layers.Dense(64, activation="relu", name="features")(x)
    logits = layers.Dense(10, name="logits")(layers.Dropout(0.3)(features))
    return keras.Model(images, [features, logits], name="digit_classifier")


def train(classifier: keras.Model, images: np.ndarray, labels: np.ndarray, epochs: int = EPOCHS) -> None:
    """Train in place on images uint8 [n, 28, 28, 1] with labels int64 [n]."""
    generator = np.random.default_rng(SEED)
    steps = epochs * -(-len(labels) // 128)
    trained = keras.Model(classifier.input, classifier.output[1])
    trained.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, steps), weight_decay=1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    for _ in range(epochs):
        trained.fit(distorted(images, generator), labels, batch_size=128, verbose=2)


def accuracy(classifier: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy on images uint8 [n, 28, 28, 1]."""
    logits = classifier.predict(images.astype(np.float32) / 127.5 - 1, batch_size=500, verbose=0)[1]
    return float(np.mean(logits.argmax(1) == labels))


def main() -> None:
    """Train, measure and save the classifier."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="FILE.npz", help="also print the accuracy on x_test and y_test")
    check = parser.parse_args().check
    keras.utils.set_random_seed(SEED)
    classifier = build()
    train(classifier, *handwritten_digits(DIGITS, HELD_OUT_SEED + 1)[:2])
    sets = {
        "handwritten digits of other writers": handwritten_digits(2000, HELD_OUT_SEED)[:2],
        "digits of scikit-learn": sklearn_digits(28),
    }
    if check:
        arrays = np.load(check)
        sets[f"images of {check.name}"] = arrays["x_test"].reshape(-1, 28, 28, 1), arrays["y_test"]
    for name, (images, labels) in sets.items():
        print(f"accuracy on {len(labels):,} {name}: {accuracy(classifier, images, labels):.4f}")
    with replacing(OUTPUT) as temporary:
        classifier.save(temporary)
    print(f"{OUTPUT.name}: {classifier.count_params():,} parameters, {OUTPUT.stat().st_size:,} bytes")
    print(f"sha256 {hashlib.sha256(OUTPUT.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
