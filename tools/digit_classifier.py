"""Train the small digit classifier that scores generated digits; write it to data/digit_classifier.keras.

    python -m tools.digit_classifier                     trains, saves, prints accuracy on unseen digits
    python -m tools.digit_classifier --check mnist.npz   also prints accuracy on its `x_test` and `y_test`

It learns from scikit-learn's digits without the last 360 (the last writers), and from a few pen paths, drawn
here, of forms that those 13 writers do not use. Every epoch writes all of them anew: a digit is kept as two
maps of distances, from the middle line of its stroke and from its edge; a map is warped at random and cut at
a random level, which is a pen of random width.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from common.digits import sklearn_digits
from common.files import replacing
from common.lazy import keras

OUTPUT = Path(__file__).resolve().parent.parent / "data" / "digit_classifier.keras"
SEED = 1
EPOCHS = 8
COPIES = 24  # pictures of each digit in an epoch
HELD_OUT = 360
CANVAS = 56  # height and width on which digits are written, twice those of the result

# Strokes as points "x,y" of a smooth curve in a box 10 high, y downwards; "|" lifts the pen.
PEN_PATHS = {
    1: ["5,0 5,10"],
    2: [
        "2,2.5 4.5,0.3 7.5,1.5 7,4.5 4,8 1.5,9.5 0.8,8.3 2.5,7.5 5,9 9,9.2",
        "1.5,2.5 4,0.3 7,1 7.2,4 4.5,7.5 1.8,9.6 0.3,8.5 1.8,7 4.5,8.3 7,9.5 9.5,8.5",
        "1.5,3 4,0.2 7,1.5 6.5,4.5 3.5,8.5 0.5,9.3 0.2,6.8 3,6 5.5,8 7.5,9.5 10,8",
        "1.5,3 4.5,0.2 7.5,2 7,5.5 4.5,9 1.5,9.8 0.5,7.5 3,6 6,7 9,10",
        "1,3 3,0.3 6.5,0.8 6.5,4 4,7.5 0.5,10 | 0.5,10 4,9.3 9,9.5",
        "0,2.5 3,0.5 7.5,0.5 8,3 5,6.5 1,9.5 | 1,9.5 4,8.8 8,10",
    ],
    4: ["2,0 1.2,5.5 | 1.2,5.5 8,5 | 7,0.5 6,10", "1.5,0.5 1.5,4.5 4,5.5 7,4 | 7.5,0 6.5,10"],
    5: ["3,0.5 2,4.5 | 2,4.5 5,4 7.5,6.5 5.5,9.5 1.5,9.5 | 3,0.5 8.5,0"],
    6: [
        "7,0 3.5,3.5 1.5,7.5 3.5,9.8 6.5,8 5,5.8 2,7",
        "5.5,0 3.5,4 2.5,8 4,10 6,8 5,6 2.5,7.5",
        "4,0 2,4 1,8 2,9.7 5,9 7,6.5 5.5,5 3.5,6.5 2,9.7",
    ],
    7: ["1,1 8,0.8 | 8,0.8 5.5,4.5 4.5,10", "0.5,2 1,0.7 4,1.2 8,0.5 | 8,0.5 5,5 3,10"],
    8: [
        "7.5,1.5 4.5,0 2.5,2 4.5,4.5 6.5,7 4.5,10 2,8 4,5 7,3 7.5,1.5",
        "8,1 5,0.3 3.5,2 4.5,5 5,8 2.5,10 1,8 3.5,5.5 7,3.5 8.5,0.5",
    ],
    9: [
        "7,1.5 4,0.2 1.5,2.5 3,4.8 6,4 7,1.5 | 7,1.5 6.8,5 6.5,10",
        "6.5,1 4,0 2,2.5 3.5,4.6 6,3 6.8,0.8 | 6.8,0.8 5.5,5 4,10",
        "7.5,1.5 3,0.5 0.5,3 3,4.5 7.5,1.5 | 7.5,1.5 6,5 5.5,10",
    ],
}
PATH_WEIGHT = 24  # a pen path counts as much as this many digits


def drawn_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the pen paths as images uint8 [n, CANVAS, CANVAS, 1], and their classes int64 [n]."""
    import cv2
    from scipy.interpolate import make_interp_spline

    images = np.zeros((sum(map(len, PEN_PATHS.values())), CANVAS, CANVAS, 1), np.uint8)
    for image, path in zip(images, (path for paths in PEN_PATHS.values() for path in paths), strict=True):
        for stroke in path.split("|"):
            points = 8 + 4 * np.array([point.split(",") for point in stroke.split()], float)
            last = len(points) - 1
            curve = make_interp_spline(np.arange(last + 1), points, k=min(3, last))(np.linspace(0, last, 50))
            cv2.polylines(image, [np.rint(curve).astype(np.int32)], False, 255, 4)
    return images, np.repeat(list(PEN_PATHS), [len(paths) for paths in PEN_PATHS.values()])


def distance_maps(images: np.ndarray) -> np.ndarray:
    """Return distances in pixels, float32 [n, 2, h, w], for images uint8 [n, h, w, 1] of white strokes.

    Map 0 is the distance from the stroke's middle line; map 1 that from its edge, negative inside.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.morphology import skeletonize

    maps = np.empty((len(images), 2, *images.shape[1:3]), np.float32)
    for (line, edge), image in zip(maps, images[..., 0] > 127, strict=True):
        line[:] = distance_transform_edt(~skeletonize(image))
        edge[:] = distance_transform_edt(~image) - distance_transform_edt(image)
    return maps


def redraw(maps: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a picture, float32 [n, 28, 28, 1] in [-1, 1], written anew from each digit's `distance_maps`."""
    import cv2

    count = len(maps)
    middle = (CANVAS - 1) / 2
    grid = np.stack(np.meshgrid(np.arange(CANVAS), np.arange(CANVAS)), -1).astype(np.float32) - middle
    angles = np.radians(generator.normal(0, 10, count))
    shears = generator.normal(0.1, 0.3, count)
    widths = np.exp(generator.uniform(-0.2, 0.45, count))
    waves = generator.normal(0, generator.uniform(0, 5, (count, 1, 1, 1)), (count, 4, 4, 2))
    from_edge = generator.random(count) < 0.3
    pens = np.where(from_edge, generator.uniform(-2, 1, count), generator.uniform(1.2, 4.5, count))
    heights = 20 * np.exp(generator.normal(0, 0.05, count))
    shifts = generator.normal(0, 0.5, (count, 2))
    blurs = generator.uniform(0.1, 0.7, count)
    noises = generator.uniform(0, 0.06, count)
    pictures = np.empty((count, 28, 28, 1), np.float32)
    for i, picture in enumerate(pictures):
        cosine, sine = np.cos(angles[i]), np.sin(angles[i])
        shape = np.array([[1 / widths[i], shears[i]], [0, 1]])
        transform = 1.25 * shape @ np.array([[cosine, -sine], [sine, cosine]])
        source = grid @ transform.T.astype(np.float32) + middle
        source += cv2.resize(waves[i].astype(np.float32), (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
        distance_map = maps[i, int(from_edge[i])]
        x, y = source[..., 0], source[..., 1]
        distances = cv2.remap(distance_map, x, y, cv2.INTER_LINEAR, borderValue=CANVAS)
        stroke = np.clip(pens[i] - distances * 0.8 + 0.5, 0, 1)
        rows, columns = (np.flatnonzero((stroke > 0.5).any(axis)) for axis in (1, 0))
        if len(rows) == 0:
            rows = columns = np.arange(CANVAS)
        scale = heights[i] / (1 + max(np.ptp(rows), np.ptp(columns)))
        moments = cv2.moments(stroke)
        centre = np.array([moments["m10"], moments["m01"]]) / max(moments["m00"], 1)
        offset = 2 * (13.75 + shifts[i]) - 2 * scale * centre
        placed = cv2.warpAffine(stroke, np.column_stack([2 * scale * np.eye(2), offset]), (CANVAS, CANVAS))
        small = cv2.resize(placed, (28, 28), interpolation=cv2.INTER_AREA)
        picture[..., 0] = cv2.GaussianBlur(small, (0, 0), blurs[i])
        picture += noises[i] * generator.standard_normal(picture.shape)
    return np.clip(pictures * 2 - 1, -1, 1)


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


def train(classifier: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    """Train in place on images uint8 [n, CANVAS, CANVAS, 1] and classes int64 [n], and on the pen paths."""
    generator = np.random.default_rng(SEED)
    drawn, drawn_labels = drawn_digits()
    images = np.concatenate([images, np.repeat(drawn, PATH_WEIGHT, 0)])
    labels = np.concatenate([labels, np.repeat(drawn_labels, PATH_WEIGHT)])
    maps = distance_maps(images)
    classes = np.tile(labels, COPIES)
    steps = EPOCHS * -(-len(classes) // 128)
    trained = keras.Model(classifier.input, classifier.output[1])
    trained.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, steps), weight_decay=1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    for _ in range(EPOCHS):
        pictures = np.concatenate([redraw(maps, generator) for _ in range(COPIES)])
        trained.fit(pictures, classes, batch_size=128, verbose=2)


def accuracy(classifier: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images uint8 [n, 28, 28, 1] whose largest logit is that of their class."""
    logits = classifier.predict(images.astype(np.float32) / 127.5 - 1, batch_size=500, verbose=0)[1]
    return float(np.mean(logits.argmax(1) == labels))


def main() -> None:
    """Train, measure and save the classifier."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="FILE.npz", help="print accuracy on its x_test, y_test")
    check = parser.parse_args().check
    keras.utils.set_random_seed(SEED)
    classifier = build()
    images, labels = sklearn_digits(CANVAS)
    train(classifier, images[:-HELD_OUT], labels[:-HELD_OUT])
    held_out = sklearn_digits(28)[0][-HELD_OUT:]
    print(f"accuracy on {HELD_OUT} digits held out: {accuracy(classifier, held_out, labels[-HELD_OUT:]):.4f}")
    if check:
        arrays = np.load(check)
        value = accuracy(classifier, arrays["x_test"].reshape(-1, 28, 28, 1), arrays["y_test"])
        print(f"accuracy on {len(arrays['y_test'])} images of {check.name}: {value:.4f}")
    with replacing(OUTPUT) as draft:
        classifier.save(draft)
    print(f"{OUTPUT.name}: {classifier.count_params():,} parameters, {OUTPUT.stat().st_size:,} bytes")
    print(f"sha256 {hashlib.sha256(OUTPUT.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
