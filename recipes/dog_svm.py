"""Difference of Gaussians + SVM: classify small pictures by hand-made features and a linear support vector machine.

Paper    Burt & Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Transactions on Communications 31(4),
         1983, doi:10.1109/TCOM.1983.1095851 (the pyramids); Cortes & Vapnik, "Support-Vector Networks", Machine
         Learning 20, 1995, doi:10.1007/BF00994018; Fan et al., "LIBLINEAR", JMLR 9, 2008 (the primal objective).
Images   uint8 [n, size, size, channels] at the borders; float32 in [0, 1] in the networks.
Features float32 [n, d], the last always 1: 1,051 for `pyramid` and 1,549 for `dog` at 28 px in grey.
Logits   float32 [n, classes]: margins, one class against the rest, times a scale; their softmax are the probabilities.
Differs  1. The hinge is squared, which makes the objective smooth: L-BFGS then finds the one minimum there is.
         2. Blurs and halvings are linear and separable: each is a matrix, for rows and columns, of whole batches.
         3. The scale that turns margins into probabilities is chosen by validation images (arXiv:1706.04599, 4.2).
Run      python -m recipes.dog_svm                                          the demo: drawn clothes, offline
         python -m recipes.dog_svm train --data fashion_mnist --fetch       Fashion-MNIST, fetched once
         python -m recipes.dog_svm train --data DIR --output-dir runs/mine  a folder of pictures for each class
         python -m recipes.dog_svm classify photo.jpg --run runs/mine       or a folder of photos
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from common.batches import Batches
from common.classification import Shown, accuracy, classify_files, judge, temperature_scale
from common.cli import run_command
from common.clothes import CLOTHES_CLASSES, drawn_clothes
from common.labelled import labelled_batches, labelled_images
from common.lazy import keras, tf
from common.ranges import Epochs, Range, Seed, Share, Units
from common.runs import check_run, check_settings, finish_run, image_shape, load_network, read_run, start_run
from common.saves import History, write_history

# %% Configuration
# Before networks learnt what to look for, people chose it, and only the verdict was learnt. Here the choice is
# `features`: `dog` says how much changes at each place between one blur and the next, `pyramid` hands over the grey
# values of ever smaller pictures. On Fashion-MNIST the first is right in 0.890, the second in 0.842.
#
# `penalty` pulls towards pictures on the right side of their margins; against it stands the length of the weights. A
# large one bends the boundary for single pictures, a small one leaves it coarse. There is neither a learning rate nor
# a batch size: `tolerance` says when the fit is done, and `epochs` how many iterations it may take until then.


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rectified, pooled differences of Gaussians; `PYRAMID` has all levels of a Gaussian pyramid in their place."""

    size: Annotated[int, Range(8, 512)] = 28  # pixels, from 8; features, and with them the memory, grow with its square
    channels: Literal[1, 3] = 1  # 1 for grey, 3 for colour
    features: Literal["dog", "pyramid"] = "dog"
    penalty: Annotated[float, Range(1e-12, 1e12)] = 1.0  # C, of a violated margin, against the weights' squared length
    outputs: Units = 10  # classes; the data decide in `train` and in the demo
    epochs: Epochs = 500  # most iterations of L-BFGS, each of which sees all features
    tolerance: Share = 1e-2  # it has converged where the objective is proved to be this close to its minimum
    seed: Seed = 0


PYRAMID, DEMO = Config(features="pyramid", penalty=0.01), Config()
DEMO_RUN = Path("runs/dog_svm-demo")
SIGMAS = (0.7, 1.4, 2.8, 5.6)  # pixels, of the Gaussians whose differences are taken

# %% Networks
# Of the two networks the first never learns. It blurs the picture four times, by the `SIGMAS`, and keeps what each
# blur takes away: edges and weave at first, then sleeves and straps, then the bulk of the garment. Light and dark
# differences are kept apart, since they would cancel in a mean; the mean over cells of 4 x 4 pixels forgives small
# shifts. The second network is one matrix, without a bias, since the last feature is always 1.
#
# A blur is linear, and the same for rows and columns. So it is a matrix, and two products blur a whole batch.


class Networks(NamedTuple):
    """Fixed filters, and a linear classifier of what they see."""

    features: keras.Model  # images [n, size, size, channels] in [0, 1] -> features [n, d]
    classifier: keras.Model  # features -> logits [n, outputs]


def build(config: Config = Config()) -> Networks:
    """Return both; the filters are as they stay, the classifier is zero."""
    check_settings(config)
    images = keras.Input((config.size, config.size, config.channels), name="images")
    maps = (pyramid_maps if config.features == "pyramid" else difference_maps)(images)
    flat = [keras.layers.Flatten()(each) for each in maps]
    joined = keras.layers.Concatenate()([*flat, keras.ops.ones_like(flat[0][:, :1])])
    seen = keras.Input(joined.shape[1:], name="features")
    logits = keras.layers.Dense(config.outputs, use_bias=False, kernel_initializer="zeros")(seen)
    return Networks(keras.Model(images, joined, name="features"), keras.Model(seen, logits, name="classifier"))


def pyramid_maps(level: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return the image and all smaller levels down to 1 x 1: blurred by sigma 2/3 and halved, again and again."""
    maps = [level]
    while level.shape[1] > 1:
        maps.append(level := both_ways(gaussian_matrix(level.shape[1], 2 / 3, halve=True), level))
    return maps


def difference_maps(image: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return what each blur takes away, light and dark apart, in cells of 4 x 4; and every other pixel of the last."""
    layers, maps, finer = keras.layers, [], image
    for sigma in SIGMAS:
        coarser = both_ways(gaussian_matrix(image.shape[1], sigma), image)
        difference = layers.Subtract()([finer, coarser])
        for sign in (1.0, -1.0):
            part = layers.ReLU()(layers.Rescaling(sign)(difference))
            maps.append(keras.ops.sqrt(layers.AveragePooling2D(4, 2)(part)))  # faint edges count
        finer = coarser
    return [*maps, layers.AveragePooling2D(1, 2)(finer)]


def both_ways(matrix: np.ndarray, maps: keras.KerasTensor) -> keras.KerasTensor:
    """Multiply the rows and the columns of [n, size, size, channels] by `matrix`, [new size, size]."""
    new, (_, size, _, channels) = len(matrix), maps.shape
    for equation, shape in (("nhwc,hg->ngwc", (new, size, channels)), ("nhwc,wg->nhgc", (new, new, channels))):
        layer = keras.layers.EinsumDense(equation, shape, trainable=False)
        maps = layer(maps)
        layer.set_weights([matrix.T])
    return maps


def gaussian_matrix(size: int, sigma: float, halve: bool = False) -> np.ndarray:
    """Return as a matrix how a row of pixels, mirrored beyond its ends, is blurred and, if asked, halved."""
    from scipy.ndimage import gaussian_filter1d, zoom

    blur = gaussian_filter1d(np.eye(size), sigma, axis=0, mode="reflect")
    return zoom(blur, (-(-size // 2) / size, 1), order=1, mode="mirror", grid_mode=True) if halve else blur


# Two garments, and what each blur takes away from them, the finest first. These four and the last blur add up to the
# picture:
# >>> garments, features = drawn_clothes(2, 14)[0], build().features
# >>> layers = [layer.output for layer in features.layers if isinstance(layer, keras.layers.Subtract)]
# >>> taken = np.stack(keras.Model(features.input, layers)(garments / np.float32(255)), 1)
# >>> taken = np.uint8(127.5 + 127.5 * taken / np.abs(taken).max((2, 3), keepdims=True))
# >>> show(np.concatenate([garments[:, None], taken], 1).reshape(-1, 28, 28, 1), 5)


# %% Loss
# Of each class the machine asks: do its pictures lie on one side, all others on the other, and is there a margin of 1
# between each of them and the boundary? A picture beyond its margin costs nothing and has no part in the gradient.
# Any other costs the square of what it lacks, times C. Longer weights alone would widen every margin, hence the half
# of the objective that keeps them short.
#
# The objective is convex, so it has one minimum. With it comes a bound that the minimum cannot lie below, so it is
# known how far away a fit still is at most.


def svm_objective(
    weights: np.ndarray, features: np.ndarray, signs: np.ndarray, penalty: float
) -> tuple[float, np.ndarray, float]:
    """Return half the squared length of the weights + C x the squared hinge loss, its gradient, and a bound from below.

    The minimum lies between bound and objective. The bound is the dual objective, with alphas in proportion to the
    violations, as they are at the minimum, scaled for each class to where it is highest.

    Args:
        weights: float64 [d, classes].
        features: float32 [n, d]. The last is always 1, so its weight is the bias, and costs as in LIBLINEAR.
        signs: float32 [n, classes], 1 for the class of an image and -1 for the others.
        penalty: C, of LIBLINEAR.
    """
    violation = np.maximum(0, 1 - signs * (features @ weights.astype(np.float32)))
    alpha = 2 * penalty * violation
    supported = (features.T @ (signs * alpha)).astype(np.float64)  # the weights for which these alphas stand
    costs = penalty * np.sum(violation**2, 0, dtype=np.float64)
    bounds = np.sum(alpha, 0, dtype=np.float64) ** 2 / (4 * (0.5 * np.sum(supported**2, 0) + costs) + 1e-30)
    return float(0.5 * np.sum(weights**2) + np.sum(costs)), weights - supported, float(np.sum(bounds))


# Four pictures with a feature each, three classes, C = 1. Weights of 0 miss all twelve margins by 1, so the objective
# is 12. By hand, the minimum is at weights of 2/3 and is 4. The bound, the second number of each pair, says so before
# anything is fitted:
# >>> signs = np.where(np.arange(3) == np.array([[0], [1], [2], [2]]), 1, -1).astype(np.float32)
# >>> [svm_objective(weight * signs, np.eye(4, dtype=np.float32), signs, 1.0)[::2] for weight in (0.0, 2 / 3)]


# %% Training
# The features of all pictures are computed once. L-BFGS then looks at all of them in every iteration. Along some
# directions the objective is far steeper than along others, which would make it slow; in coordinates that a Cholesky
# factor of its curvature gives, it is about as steep everywhere. At last one scale for all margins, chosen by the
# validation pictures, turns them into probabilities.
#
# What is logged, a row an iteration: `objective`, for each training picture, falls steeply, then hardly at all.
# `gap`, by which share it may still lie above its minimum, falls in jumps, since the best bound so far counts. It has
# to end below `tolerance`, as it does in the demo after 88 iterations; otherwise the results say `converged: no`, and
# more `epochs` help. `validation_accuracy` is 0.90 there after the first iteration and 0.93 after the 20th, as at the
# end: what comes later is for the proof. `seconds` counts from the beginning.


def train(networks: Networks, data: Batches, config: Config = Config(), output_dir: Path | None = None) -> History:
    """Fit in place to one pass of uint8 images and class numbers; return a row for every iteration.

    The last row's `gap` says how well the fit converged: the objective lies above its minimum by that share at most.
    """
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import minimize
    from tqdm import tqdm

    started = time.monotonic()
    stream = tqdm(data.at(0).take(data.steps_per_epoch), "features", data.steps_per_epoch, disable=None)
    parts = [(describe(networks.features, images), classes) for images, classes in chain(stream, [data.held_out])]
    seen, truth = parts.pop()
    features, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    signs = np.where(labels[:, None] == np.arange(networks.classifier.output_shape[1]), 1, -1).astype(np.float32)
    # In the metric of its own curvature, to which about a fifth of all images contribute, the objective is a bowl.
    curvature = 0.4 * config.penalty * (features.T @ features).astype(np.float64) + np.eye(features.shape[1])
    factor = cholesky(curvature, lower=True)
    history: History = []
    value, bound, weights = np.inf, -np.inf, np.zeros((features.shape[1], signs.shape[1]))

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal value, bound, weights
        weights = solve_triangular(factor, point.reshape(weights.shape), lower=True, trans="T")
        value, gradient, below = svm_objective(weights, features, signs, config.penalty)
        bound = max(bound, below)
        return value, solve_triangular(factor, gradient, lower=True).ravel()

    def note(_: np.ndarray) -> None:
        found = accuracy(truth, seen @ weights)
        row = {"epoch": len(history) + 1, "objective": value / len(labels), "gap": (value - bound) / value}
        history.append(row | {"validation_accuracy": found, "seconds": time.monotonic() - started})
        progress.update()
        if row["gap"] <= config.tolerance:
            raise StopIteration

    options = {"maxiter": config.epochs, "maxfun": 3 * config.epochs, "maxcor": 20, "ftol": 0, "gtol": 0}
    with tqdm(total=config.epochs, desc="fit", disable=None) as progress:
        best = minimize(objective, weights.ravel(), jac=True, method="L-BFGS-B", callback=note, options=options)
    if not np.isfinite(objective(best.x)[0]):
        raise FloatingPointError(f"the objective became {value}: try a smaller --penalty")
    networks.classifier.set_weights([temperature_scale(seen @ weights, truth) * weights])
    if output_dir is not None:
        write_history(output_dir, history)
    return history


# %% Use
# `classify` takes pictures as the features want them, uint8 [n, 28, 28, 1] by default, bright on dark; the command
# brings a photo to that form itself, and `--invert` turns dark things on a bright ground round. A probability of 0.8
# means about that: the mean distance between how sure it is and how often it is right is 0.023 in the demo and 0.009
# on Fashion-MNIST.


def describe(features: keras.Model, images: np.ndarray | tf.Tensor) -> np.ndarray:
    """Return the features, float32 [n, d], of uint8 [n, size, size, channels]."""
    return features.predict(tf.cast(images, tf.float32) / 255, 500, verbose=0)


def classify(networks: Networks, images: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [n, classes], for uint8 [n, size, size, channels]."""
    return tf.nn.softmax(networks.classifier(describe(networks.features, images), training=False)).numpy()


# %% A whole run
# The embedded data are 5,000 clothes that the project draws, grey on black, ten classes like Fashion-MNIST's. Every
# fifth picture is held out for the test, and of the others a tenth is for validation, so 3,600 are learnt from.
#
# The scores are of the 1,000 test pictures: accuracy, calibration error (that distance between sure and right), and
# each class's precision and recall. Guessing is right in 0.1, the demo in 0.934. Shirts are the hardest, with a
# recall of 0.71. Beside it: on Fashion-MNIST this recipe is right in 0.890, and HOG features with scikit-learn's
# linear SVM in 0.888.
#
# Each column is a class:
# >>> clothes, kinds = drawn_clothes(5000, DEMO.seed, 28)
# >>> tens = [first + np.argsort(kinds[first : first + 10]) for first in (0, 10, 20)]
# >>> show(clothes[np.concatenate(tens)], 10)


def experiment(
    data: str = "sample",
    config: Config = Config(),
    output_dir: Path = Path("runs/dog_svm"),
    skip_bad: bool = False,
    fetch: bool = False,
    accept_data: bool = False,
) -> Path:
    """Read `data`, fit, judge by the test images; leave a run in `output_dir`, return its picture."""
    check_run(output_dir, "dog_svm", config, data, accept_data)
    sample = functools.partial(drawn_clothes, 5000, config.seed, config.size)
    labelled = labelled_images(data, config.size, config.channels, sample, skip_bad, fetch, CLOTHES_CLASSES)
    config = replace(config, outputs=len(labelled.classes))
    networks = build(config)
    whole = max(size for size in range(1, 501) if not len(labelled.train.labels) % size)  # no image is left out
    stream = labelled_batches(labelled, whole, config.seed)
    start_run(output_dir, "dog_svm", config, data, labelled.classes)
    history = train(networks, stream, config, output_dir)
    picture, scores = judge(labelled, functools.partial(classify, networks), output_dir)
    converged = "yes" if history[-1]["gap"] <= config.tolerance else "no"
    finish_run(output_dir, networks, lambda: scores | {"converged": converged, "iterations": len(history)})
    return picture


def demo(config: Config = DEMO, output_dir: Path = DEMO_RUN) -> Path:
    """Learn to tell ten kinds of drawn clothes apart; return the picture of some that were held out."""
    return experiment("sample", config, output_dir)


def classify_file(source: Path, run: Path = DEMO_RUN, shown: Shown = Shown()) -> None:
    """Print the most probable classes of an image, or of every image of a folder."""
    config = read_run(run, "dog_svm", Config)
    features = load_network(run, "features", image_shape(config))
    networks = Networks(features, load_network(run, "classifier", features.output_shape[1:], (config.outputs,)))
    classify_files(source, run, functools.partial(classify, networks), config.size, config.channels, shown)


# %% Try it
# The test pictures, a column a class. Above is the one that is surest to be called what it is, in the middle an
# ordinary one, below the one that is least likely to be:
# >>> networks = Networks(load_network(DEMO_RUN, "features"), load_network(DEMO_RUN, "classifier"))
# >>> unseen, truth = clothes[4::5], kinds[4::5]
# >>> right = classify(networks, unseen)[np.arange(len(truth)), truth]
# >>> orders = [np.flatnonzero(truth == kind)[np.argsort(right[truth == kind])] for kind in range(10)]
# >>> show(unseen[[order[int(place * (len(order) - 1))] for place in (1, 0.5, 0) for order in orders]], 10)
# A linear verdict is a sum, and each of its terms belongs to a place in the picture. Below eight coats stands what
# speaks for a coat (light) and what for a pullover (dark), summed over all blurs. The bright line is the opening down
# to the hem, which is what tells a coat from a pullover; nobody pointed it out to the machine.
# >>> (weights,) = networks.classifier.get_weights()
# >>> coat, pullover = CLOTHES_CLASSES.index("Coat"), CLOTHES_CLASSES.index("Pullover")
# >>> coats = unseen[orders[coat][-8:]]
# >>> terms = describe(networks.features, coats) * (weights[:, coat] - weights[:, pullover])
# >>> places = terms[:, : 8 * 13 * 13].reshape(8, 8, 13, 13).sum(1)  # pictures, maps, cells
# >>> places = np.uint8(127.5 + 127.5 * places / np.abs(places).max()).repeat(2, 1).repeat(2, 2)[..., None]
# >>> margin = ((0, 0), (1, 1), (1, 1), (0, 0))  # 13 cells, 2 pixels apart, in a picture of 28
# >>> show(np.concatenate([coats, np.pad(places, margin, constant_values=128)]))


if __name__ == "__main__":
    presets = {"paper": Config(), "pyramid": PYRAMID, "demo": DEMO}
    run_command(demo, presets=presets, train=experiment, classify=classify_file)
