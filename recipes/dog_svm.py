"""DoG + SVM: classify small images with hand-crafted features and a linear support vector machine.

Paper    Burt & Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Transactions on Communications 31(4),
         1983, doi:10.1109/TCOM.1983.1095851 (the pyramids); Cortes & Vapnik, "Support-Vector Networks", Machine
         Learning 20, 1995, doi:10.1007/BF00994018; Fan et al., "LIBLINEAR", JMLR 9, 2008 (the primal objective).
Images   uint8 [n, size, size, channels] at the API boundary; float32 in [0, 1] in the networks.
Features float32 [n, d]; the last is always 1. For 28 px greyscale, d is 1,051 (`pyramid`), 1,549 (`dog`) or
         5,605 (`oriented`).
Logits   float32 [n, classes]: one-vs-rest margins times a scale; their softmax gives the class probabilities.
Differs  1. The hinge loss is squared, so the objective is smooth, and L-BFGS finds its unique minimum.
         2. Blurring and downsampling are linear and separable, so each is two matrix products.
         3. `oriented` adds rectified derivatives in eight directions, as in the histograms of oriented gradients of
            Dalal & Triggs, CVPR 2005, doi:10.1109/CVPR.2005.177, but without normalisation over blocks.
         4. Temperature scaling on the validation images turns margins into probabilities (arXiv:1706.04599).
Run      python -m recipes.dog_svm                                          the demo: synthetic clothes, offline
         python -m recipes.dog_svm train --data fashion_mnist --fetch       Fashion-MNIST, downloaded once
         python -m recipes.dog_svm train --data DIR --output-dir runs/mine  your own images, one folder per class
         python -m recipes.dog_svm classify photo.jpg --run runs/mine       an image, or a folder of images
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from common.data import Batches, labelled_images
from common.metrics import accuracy, temperature_scale
from common.runs import InputError, Range, Run, run_command
from common.training import tracked, write_history

# %% Configuration
# Before neural networks learned features, people designed the features and trained only the classifier. `features`
# selects one of three designs. `dog` (differences of Gaussians) measures how much each position changes from one blur
# level to the next. `oriented` also measures how much the first three levels change from one position to the next, in
# eight directions. `pyramid` uses the pixels of the image at several resolutions. `oriented` is the most accurate, and
# takes the most time and memory.
#
# `penalty` is the parameter C of the SVM. It balances margin violations against the norm of the weights. A large value
# fits the boundary to individual images. A small value allows more violations. There is no learning rate or batch size:
# `tolerance` defines when the fit has converged, and `epochs` limits the number of iterations.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters for differences of Gaussians. `ORIENTED` adds directions; `PYRAMID` is for a Gaussian pyramid."""

    size: Annotated[int, Range(8, 512)] = 28  # side of the images in pixels; memory grows with its square
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    features: Literal["dog", "oriented", "pyramid"] = "dog"  # the design of the features (see Networks)
    penalty: Annotated[float, Range(1e-12, 1e12)] = 1.0  # C: the weight of margin violations
    outputs: Annotated[int, Range(1, 65_536)] = 10  # number of classes; `train` and the demo set it from the data
    epochs: Annotated[int, Range(1, 1_000_000)] = 500  # maximum number of L-BFGS iterations, each over all images
    tolerance: Annotated[float, Range(0, 1)] = 1e-2  # relative duality gap at which the fit has converged
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        Range.check(self)


ORIENTED = Config(features="oriented", penalty=0.1)
PYRAMID = Config(features="pyramid", penalty=0.01)
DEMO = Config()
DEMO_RUN = Path("runs/dog_svm-demo")
SIGMAS = (0.7, 1.4, 2.8, 5.6)  # standard deviations of the Gaussian blurs, in pixels
DIRECTIONS = 8  # of the derivatives, for `oriented`

# %% Networks
# The first network has fixed weights. It blurs the image with four Gaussians of increasing width (`SIGMAS`) and keeps
# the detail that each blur removes: edges and texture first, then sleeves and straps, then the large shapes. Positive
# and negative differences are separate features, because they would cancel each other out in a mean. The mean over
# cells of 4 x 4 pixels makes the features robust to small translations. The second network is a linear classifier. It
# has no bias, because the last feature is always 1.
#
# With `oriented`, the image and the first two blurs are also differentiated in eight directions. Positive parts are
# pooled like the other features. An edge then counts for the directions that it faces: the hem of a skirt and the seam
# of a sleeve become different features.
#
# A blur is linear and separable. It can therefore be written as a matrix, and two matrix products blur an entire batch.


class Networks(NamedTuple):
    """A fixed feature extractor and a linear classifier."""

    features: keras.Model  # images [n, size, size, channels] in [0, 1] -> features [n, d]
    classifier: keras.Model  # features -> logits [n, outputs]


def build(config: Config = Config()) -> Networks:
    """Return the feature extractor and a classifier with zero weights."""
    layers = keras.layers
    images = keras.Input((config.size, config.size, config.channels), name="images")
    maps = pyramid_maps(images) if config.features == "pyramid" else difference_maps(images)
    maps += directional_maps(images) if config.features == "oriented" else []
    flat = [layers.Flatten()(each) for each in maps]
    features = layers.Concatenate()([*flat, keras.ops.ones_like(flat[0][:, :1])])
    inputs = keras.Input(features.shape[1:], name="features")
    logits = layers.Dense(config.outputs, use_bias=False, kernel_initializer="zeros")(inputs)
    return Networks(keras.Model(images, features, name="features"), keras.Model(inputs, logits, name="classifier"))


def pyramid_maps(image: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return a Gaussian pyramid down to 1 x 1. Each level is the previous one, blurred (sigma 2/3) and downsampled."""
    maps = [image]
    while maps[-1].shape[1] > 1:
        halving = gaussian_matrix(maps[-1].shape[1], 2 / 3, halve=True)
        maps.append(multiply_both_axes(halving, maps[-1]))
    return maps


def difference_maps(image: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return rectified and pooled differences of Gaussians, and every second pixel of the last blur level."""
    layers, maps, finer = keras.layers, [], image
    for sigma in SIGMAS:
        coarser = multiply_both_axes(gaussian_matrix(image.shape[1], sigma), image)
        difference = layers.Subtract()([finer, coarser])
        for sign in (1.0, -1.0):
            part = layers.ReLU()(layers.Rescaling(sign)(difference))
            maps.append(pooled(part))
        finer = coarser
    return [*maps, layers.AveragePooling2D(1, 2)(finer)]


def directional_maps(image: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return rectified and pooled derivatives of the image and the first two blurs, in `DIRECTIONS` directions."""
    layers, maps, size = keras.layers, [], image.shape[1]
    central = (np.eye(size, k=1) - np.eye(size, k=-1)) / 2  # (next neighbour - previous neighbour) / 2
    central[[0, -1]] = 0
    for blur in (np.eye(size), *(gaussian_matrix(size, sigma) for sigma in SIGMAS[:2])):
        down, right = multiply_both_axes(central @ blur, image, blur), multiply_both_axes(blur, image, central @ blur)
        for angle in 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS:
            parts = layers.Rescaling(float(np.sin(angle)))(down), layers.Rescaling(float(np.cos(angle)))(right)
            maps.append(pooled(layers.ReLU()(layers.Add()(parts))))
    return maps


def pooled(part: keras.KerasTensor) -> keras.KerasTensor:
    """Return the means over cells of 4 x 4 pixels, at steps of 2. The square root amplifies weak edges."""
    return keras.ops.sqrt(keras.layers.AveragePooling2D(4, 2)(part))


def multiply_both_axes(
    matrix: np.ndarray, maps: keras.KerasTensor, other: np.ndarray | None = None
) -> keras.KerasTensor:
    """Multiply the columns of `maps` [n, size, size, channels] by `matrix` [new size, size], and the rows by `other`.

    By default, `other` is `matrix`.
    """
    new, (_, size, _, channels) = len(matrix), maps.shape
    first, second = ("nhwc,hg->ngwc", (new, size, channels)), ("nhwc,wg->nhgc", (new, new, channels))
    for (equation, shape), factor in ((first, matrix), (second, matrix if other is None else other)):
        layer = keras.layers.EinsumDense(equation, shape, trainable=False)
        maps = layer(maps)
        layer.set_weights([factor.T])
    return maps


def gaussian_matrix(size: int, sigma: float, halve: bool = False) -> np.ndarray:
    """Return a matrix that blurs a row of pixels, with reflection at the borders. `halve` also downsamples the row."""
    from scipy.ndimage import gaussian_filter1d, zoom

    blur = gaussian_filter1d(np.eye(size), sigma, axis=0, mode="reflect")
    return zoom(blur, (-(-size // 2) / size, 1), order=1, mode="mirror", grid_mode=True) if halve else blur


# Two garments, and the details that the blurs remove, finest first. The details and the last blur add up to the image:
# >>> clothes = labelled_images("sample", DEMO.size, DEMO.channels, "clothes", seed=DEMO.seed)
# >>> garments, features = clothes.train.items[14:16], build().features
# >>> layers = [layer.output for layer in features.layers if isinstance(layer, keras.layers.Subtract)]
# >>> details = np.stack(keras.Model(features.input, layers)(garments / np.float32(255)), 1)
# >>> details = np.uint8(127.5 + 127.5 * details / np.abs(details).max((2, 3), keepdims=True))
# >>> show(np.concatenate([garments[:, None], details], 1).reshape(-1, 28, 28, 1), 5)


# %% Loss
# Each class has a one-vs-rest SVM: images of the class should lie on one side of a boundary, and all other images on
# the other side, with a margin of at least 1. An image beyond the margin, on the correct side, has a loss and a
# gradient of 0. For any other image, the loss is C times the squared violation. Scaling up the weights would increase
# all margins, so the objective also contains half the squared norm of the weights.
#
# The objective is strictly convex, so it has a unique minimum. Its dual gives a lower bound on the minimum. The
# difference between objective and bound is the duality gap: the objective is at most this far above its minimum.


def svm_objective(
    weights: np.ndarray, features: np.ndarray, signs: np.ndarray, penalty: float
) -> tuple[float, np.ndarray, float]:
    """Return the objective |w|^2 / 2 + C * squared hinge loss, its gradient, and a lower bound on its minimum.

    The bound is the dual objective. The dual variables (`alpha`) are proportional to the violations, as at the minimum,
    and scaled to maximise the bound of each class.

    Args:
        weights: the weights, float64 [d, classes].
        features: the features, float32 [n, d]. The last is always 1; its weight is the bias, penalised as in LIBLINEAR.
        signs: targets, float32 [n, classes]: 1 for the class of an image and -1 for all other classes.
        penalty: the parameter C, as in LIBLINEAR.
    """
    violation = np.maximum(0, 1 - signs * (features @ weights.astype(np.float32)))
    alpha = 2 * penalty * violation
    dual_weights = (features.T @ (signs * alpha)).astype(np.float64)  # the weights for these alphas
    costs = penalty * np.sum(violation**2, 0, dtype=np.float64)
    curvature = 4 * (0.5 * np.sum(dual_weights**2, 0) + costs) + 1e-30
    bounds = np.sum(alpha, 0, dtype=np.float64) ** 2 / curvature
    return float(0.5 * np.sum(weights**2) + np.sum(costs)), weights - dual_weights, float(np.sum(bounds))


# An example with three classes, C = 1, and four images that each have one nonzero feature. With weights of 0, all
# twelve margins are violated by 1, so the objective is 12. Its minimum is 4, at weights of 2/3 and -2/3. The lower
# bound, the second number of each pair, is 4 even before the fit:
# >>> signs = np.where(np.arange(3) == np.array([[0], [1], [2], [2]]), 1, -1).astype(np.float32)
# >>> [svm_objective(weight * signs, np.eye(4, dtype=np.float32), signs, 1.0)[::2] for weight in (0.0, 2 / 3)]


# %% Training
# The features of all images are computed once, and each L-BFGS iteration uses all of them. The objective is
# ill-conditioned: it is much steeper in some directions than in others. A Cholesky factor of its estimated curvature
# serves as a preconditioner, which speeds up the fit. At the end, temperature scaling on the validation images turns
# margins into probabilities.
#
# What is logged, one row per iteration: `objective` (per training image) falls steeply at first, then slowly.
# `duality_gap` is the distance of the objective from the best bound so far, relative to the objective. It drops in
# steps and should end below `tolerance`. Otherwise the results contain `converged: no`, and you should raise `epochs`.
# `validation_accuracy` hardly changes after a fifth of the iterations. The remaining ones only confirm convergence.
# `seconds` is the time since the start.


def train(
    networks: Networks, data: Batches | tuple, config: Config = Config(), output_dir: Path | None = None
) -> list[dict[str, float]]:
    """Fit the classifier in place.

    Args:
        networks: the result of `build`.
        data: uint8 images [n, size, size, channels] and integer labels [n]: arrays, or batches of them, of which one
            pass is used. The probabilities are calibrated on held-out images, or without them on the training images.
        config: the hyperparameters.
        output_dir: the run folder, for `history.csv`. If None, nothing is written.

    Returns:
        One dictionary per iteration. The last `duality_gap` bounds how far the objective is above its minimum, relative
        to the objective.

    Raises:
        FloatingPointError: the objective is not finite.
    """
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import minimize

    started = time.monotonic()
    data = Batches.of(data, 0, config.seed)
    stream = tracked(data.at(0).take(data.steps_per_epoch), "computing features", "batch", data.steps_per_epoch)
    parts = [(extract_features(networks.features, images), classes) for images, classes in stream]
    features, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    if features.shape[1] != networks.classifier.input_shape[1]:
        raise InputError(f"the networks were built for images of {config.size}x{config.size} px; resize the images")
    images, validation_labels = data.held_out or (None, labels)
    validation_features = features if images is None else extract_features(networks.features, images)
    signs = np.where(labels[:, None] == np.arange(networks.classifier.output_shape[1]), 1, -1).astype(np.float32)
    # Estimated curvature: about a fifth of all images x violate their margin, and each of these adds 2 C x x^T.
    curvature = 0.4 * config.penalty * (features.T @ features).astype(np.float64) + np.eye(features.shape[1])
    factor = cholesky(curvature, lower=True)
    history: list[dict[str, float]] = []
    value, bound, weights = np.inf, -np.inf, np.zeros((features.shape[1], signs.shape[1]))

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal value, bound, weights
        weights = solve_triangular(factor, point.reshape(weights.shape), lower=True, trans="T")
        value, gradient, lower_bound = svm_objective(weights, features, signs, config.penalty)
        bound = max(bound, lower_bound)
        return value, solve_triangular(factor, gradient, lower=True).ravel()

    def log_iteration(_: np.ndarray) -> None:
        row = {"epoch": len(history) + 1, "objective": value / len(labels), "duality_gap": (value - bound) / value}
        if data.held_out:
            row["validation_accuracy"] = accuracy(validation_labels, validation_features @ weights)
        row["seconds"] = time.monotonic() - started
        history.append(row)
        next(iterations, None)
        if row["duality_gap"] <= config.tolerance:
            raise StopIteration

    options = {"maxiter": config.epochs, "maxfun": 3 * config.epochs, "maxcor": 20, "ftol": 0, "gtol": 0}
    iterations = tracked(range(config.epochs), "fitting", "iteration")
    best = minimize(objective, weights.ravel(), jac=True, method="L-BFGS-B", callback=log_iteration, options=options)
    if not np.isfinite(objective(best.x)[0]):
        raise FloatingPointError(f"the objective became {value}: try a smaller --penalty")
    scale = temperature_scale(validation_features @ weights, validation_labels)
    networks.classifier.set_weights([scale * weights])
    if output_dir is not None:
        write_history(output_dir, history)
    return history


# %% Use
# The function `classify` expects uint8 images of the training size, with bright objects on a dark background. The
# command `classify` resizes photos, and its option `--invert` inverts images with a bright background. The expected
# calibration error in the results shows how far you can trust the probabilities.


def extract_features(features: keras.Model, images: np.ndarray | tf.Tensor) -> np.ndarray:
    """Return the features, float32 [n, d], of uint8 images [n, size, size, channels]."""
    return features.predict(tf.cast(images, tf.float32) / 255, 500, verbose=0)


def classify(networks: Networks, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 images [n, size, size, channels]."""
    features = extract_features(networks.features, images)
    return tf.nn.softmax(networks.classifier(features, training=False)).numpy()


# %% A whole run
# The built-in data are 5,000 synthetic images of clothes, grey on black, in the ten classes of Fashion-MNIST. A fifth
# of the images is the test split. A tenth of the rest is the validation split, and 3,600 images remain for training.
#
# The scores are computed on the test images: accuracy, expected calibration error, and the precision and recall of each
# class. In the demo the accuracy is above 0.9; random guessing gives 0.1. Shirts are the hardest class.
# `benchmarks/RESULTS.md` compares this recipe with HOG features and neural networks.
#
# Training images, one column per class:
# >>> columns = [np.flatnonzero(clothes.train.labels == number)[:3] for number in range(10)]
# >>> show(clothes.train.items[np.stack(columns, 1).ravel()], 10)


def run(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/dog_svm"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Fit the SVM to `data`, score the test images, save the run in `output_dir`, and return the path of a figure."""
    folder = Run(output_dir, "dog_svm", config, data, accept_data)
    labelled = labelled_images(data, config.size, config.channels, "clothes", skip_bad, fetch, seed=config.seed)
    config = replace(config, outputs=len(labelled.classes))
    networks = build(config)
    folder.start(labelled.classes)
    history = train(networks, labelled.batches(0, config.seed), config, output_dir)
    figure, scores = labelled.evaluate(functools.partial(classify, networks), output_dir)
    converged = "yes" if history[-1]["duality_gap"] <= config.tolerance else "no"
    return folder.finish(networks, lambda: scores | {"converged": converged, "iterations": len(history)}, figure)


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to classify ten kinds of synthetic clothes; return the path of a figure with predictions."""
    return run("sample", config, output_dir)


def classify_file(
    source: Path,
    run: Path = DEMO_RUN,
    top: Annotated[int, Range(1, 100_000)] = 3,
    invert: bool = False,
    table: Path | None = None,
    skip_bad: bool = False,
) -> None:
    """Print the most probable classes of an image, or of each image in a folder.

    Args:
        source: an image, or a folder of images.
        run: the run folder of the classifier.
        top: number of classes to print per image, most probable first.
        invert: invert the images; use it for dark objects on a bright background.
        table: path of a CSV file for the probabilities of all classes.
        skip_bad: skip unreadable images in a folder, and list them.
    """
    trained = Run.load(run, "dog_svm", Config)
    features = trained.network("features", trained.image_shape)
    classifier = trained.network("classifier", features.output_shape[1:], (trained.config.outputs,))
    networks = Networks(features, classifier)
    trained.classify_files(source, functools.partial(classify, networks), top, invert, table, skip_bad)


# %% Try it
# Test images, one column per class, ranked by the probability of their true class. Top: the image with the highest
# probability. Middle: the median. Bottom: the image with the lowest probability.
# >>> trained = Run.load(DEMO_RUN, "dog_svm", Config)
# >>> networks = Networks(trained.network("features"), trained.network("classifier"))
# >>> images, labels = clothes.test.items, clothes.test.labels
# >>> true_probability = classify(networks, images)[np.arange(len(labels)), labels]
# >>> members = [np.flatnonzero(labels == number) for number in range(10)]
# >>> orders = [each[np.argsort(true_probability[each])] for each in members]
# >>> show(images[[order[int(rank * (len(order) - 1))] for rank in (1, 0.5, 0) for order in orders]], 10)
# A linear classifier adds up one term per feature, and each feature belongs to a position in the image. The figure
# shows eight coats, each with a map below it. The map shows the sum over all blur levels: it is light where the
# features favour a coat and dark where they favour a pullover. The bright line is the opening of the coat, which
# pullovers lack. The SVM learned this from class labels only.
# >>> (weights,) = networks.classifier.get_weights()
# >>> coat, pullover = clothes.classes.index("Coat"), clothes.classes.index("Pullover")
# >>> coats = images[orders[coat][-8:]]
# >>> terms = extract_features(networks.features, coats) * (weights[:, coat] - weights[:, pullover])
# >>> cells = terms[:, : 8 * 13 * 13].reshape(8, 8, 13, 13).sum(1)  # images, maps, rows, columns
# >>> cells = np.uint8(127.5 + 127.5 * cells / np.abs(cells).max()).repeat(2, 1).repeat(2, 2)[..., None]
# >>> margin = ((0, 0), (1, 1), (1, 1), (0, 0))  # 13 cells at steps of 2 pixels, centred in 28 pixels
# >>> show(np.concatenate([coats, np.pad(cells, margin, constant_values=128)]))


if __name__ == "__main__":
    presets = {"paper": Config(), "oriented": ORIENTED, "pyramid": PYRAMID, "demo": DEMO}
    run_command(demo, presets=presets, steps=False, train=run, classify=classify_file)
