"""Numbers for generated pictures, each with its source: distances between sets, pairs, label maps, digits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.downloads import file_sha256
from common.errors import InputError
from common.keras_files import load_keras_file
from common.lazy import keras, tf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Return the Frechet distance between two Gaussians fitted to features [n, d] and [m, d]; 0 is best.

    ||mean_a - mean_b||^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)) in float64, with unbiased covariances C (Heusel
    et al. 2017, arXiv:1706.08500, eq. 6). It shrinks as n and m grow: compare values of equal n and m only.
    Only with the features of one particular Inception network is this the FID.

    Raises:
        ValueError: the shapes do not fit, a set has fewer than 2 rows, or a value is not finite.
    """
    a, b = _feature_sets(features_a, features_b)
    factor_a, factor_b = _covariance_factor(a), _covariance_factor(b)
    # With C_a = A A' and C_b = B B', the eigenvalues of C_a C_b are the squared singular values of A' B:
    # never complex, and exact to rounding where C_a or C_b is singular.
    overlap = np.linalg.svd(factor_a.T @ factor_b, compute_uv=False).sum()
    means = np.sum((a.mean(0) - b.mean(0)) ** 2)
    return float(max(means + np.sum(factor_a**2) + np.sum(factor_b**2) - 2 * overlap, 0))


def kernel_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Return the squared maximum mean discrepancy of features [n, d] and [m, d], with kernel (x.y / d + 1)^3.

    The unbiased estimate over all pairs, in float64 (Binkowski et al. 2018, arXiv:1801.01401): 0 on average
    for two samples of one distribution, whatever n and m, so it can be negative. Only with the features of
    one particular Inception network is this the KID.

    Raises:
        ValueError: the shapes do not fit, a set has fewer than 2 rows, or a value is not finite.
    """
    a, b = _feature_sets(features_a, features_b)
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a) - _kernel_of_self(a)) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - _kernel_of_self(b)) / (m * (m - 1))
    return float(within_a + within_b - 2 * _kernel_sum(a, b) / (n * m))


def pair_scores(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Compare images with what they should be, pair by pair; both uint8 [n, h, w, c].

    Returns:
        "l1": mean absolute difference on the scale [0, 1]; 0 is best.
        "psnr": peak signal-to-noise ratio in dB, a mean over images; infinite if any pair is equal.
        "ssim": structural similarity, a mean over images and channels; 1 is best. Gaussian window of 11x11
            pixels, sigma 1.5 (Wang et al. 2004, IEEE Transactions on Image Processing 13(4)).

    Raises:
        InputError: the images are smaller than the window of 11x11 pixels.
        ValueError: the arrays differ in shape, or are no such batches.
    """
    from skimage.metrics import structural_similarity

    if real.shape != fake.shape or real.ndim != 4 or not len(real) or real.dtype != np.uint8 or fake.dtype != np.uint8:
        raise ValueError(
            f"real is {real.dtype} {real.shape}, fake is {fake.dtype} {fake.shape}: "
            "both must be uint8 [n, h, w, c], alike"
        )
    height, width = real.shape[1:3]
    if min(height, width) < 11:
        raise InputError(f"images of {width}x{height} pixels: structural similarity needs at least 11x11")
    differences, ratios, similarities = [], [], []
    for a, b in zip(real, fake, strict=True):
        difference = (a.astype(np.float64) - b) / 255
        differences.append(np.mean(np.abs(difference)))
        with np.errstate(divide="ignore"):
            ratios.append(-10 * np.log10(np.mean(difference**2)))
        similarities.append(
            structural_similarity(
                a,
                b,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=255,
                channel_axis=-1,
            )
        )
    return {
        "l1": float(np.mean(differences)),
        "psnr": float(np.mean(ratios)),
        "ssim": float(np.mean(similarities)),
    }


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int, ignore: int | None = None) -> np.ndarray:
    """Count pixels or images by true class (row) and predicted class (column), int64 [classes, classes].

    Args:
        truth: class indices, integers of any shape.
        predicted: class indices of the same shape.
        classes: number of classes.
        ignore: value in `truth` (such as 255, "no label") whose places are not counted.

    Raises:
        ValueError: the shapes differ, or a counted index is not in [0, classes).
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, predicted {predicted.shape}: they must be equal")
    counted = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, indices in (("truth", rows), ("predicted", columns)):
        if indices.size and (indices.min() < 0 or indices.max() >= classes):
            raise ValueError(f"{name} holds {indices.min()} to {indices.max()}: classes go from 0 to {classes - 1}")
    return np.bincount(rows * classes + columns, minlength=classes**2).astype(np.int64).reshape(classes, classes)


def segmentation_scores(matrix: np.ndarray) -> dict[str, float]:
    """Return "pixel_accuracy", "class_accuracy" and "mean_iou" of a `confusion_matrix`, all in [0, 1].

    The share of pixels that are right; that share within each true class, averaged; and intersection over
    union, averaged (Long et al. 2015, arXiv:1411.4038, sec. 5). Averages are over the classes that occur in
    the truth.

    Raises:
        ValueError: the matrix is empty.
    """
    truth = matrix.sum(1)
    if not truth.any():
        raise ValueError("the confusion matrix counts nothing: at least one labelled pixel is needed")
    present = truth > 0
    right = np.diag(matrix)[present]
    union = (truth + matrix.sum(0))[present] - right
    return {
        "pixel_accuracy": float(right.sum() / truth.sum()),
        "class_accuracy": float(np.mean(right / truth[present])),
        "mean_iou": float(np.mean(right / union)),
    }


def classifier_features(classifier: keras.Model, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a classifier's features [n, d] and probabilities [n, k], float32, for uint8 [n, h, w, 1 or 3].

    Args:
        classifier: maps float32 [n, height, width, 1 or 3] in [-1, 1] to two outputs, features and logits.
        images: brought to the classifier's size (bilinear, antialiased) and to its grey or colour.
    """
    features, probabilities = [], []
    for start in range(0, len(images), 256):
        seen, logits = classifier(classifier_input(classifier, images[start : start + 256]), training=False)
        features.append(seen.numpy())
        probabilities.append(tf.nn.softmax(logits).numpy())
    return np.concatenate(features), np.concatenate(probabilities)


def classifier_input(classifier: keras.Model, images: np.ndarray) -> tf.Tensor:
    """Bring uint8 [n, h, w, 1 or 3] to a classifier's size (bilinear, antialiased), grey or colour, and [-1, 1]."""
    _, height, width, channels = classifier.input_shape
    batch = tf.cast(images, tf.float32)
    if batch.shape[-1] == 3 and channels == 1:
        batch = tf.image.rgb_to_grayscale(batch)
    elif batch.shape[-1] == 1 and channels == 3:
        batch = tf.image.grayscale_to_rgb(batch)
    if tuple(batch.shape[1:3]) != (height, width):
        batch = tf.image.resize(batch, (height, width), antialias=True)
    return batch / 127.5 - 1


def sample_scores(classifier_path: Path, real: np.ndarray, samples: np.ndarray) -> dict[str, float | int | str]:
    """Score generated samples uint8 [n, h, w, c] against real images uint8 [m, h, w, c] by a classifier.

    Args:
        classifier_path: a .keras file with two outputs, as `classifier_features` takes it.
        real: at least 2 images.
        samples: at least 2 images.

    Returns:
        "frechet_distance", "kernel_distance": between the classifier's features of both sets; near 0 is best.
        "confidence": mean over the samples of the largest class probability, in [0, 1]; noise can reach 1 too.
        "rarest_class_share": share of the samples in the class that they fall into least; 0 if one never
            occurs.
        "class_entropy": entropy in nats of the shares of all k classes; ln(k) if they are equal.
        "samples", "real_images": how many; "classifier": its file's name and the start of its SHA-256
        checksum, without which the distances mean nothing.

    Raises:
        InputError: `classifier_path` is no such file.
        ValueError: there are fewer than 2 images of a kind.
    """
    classifier = _loaded_classifier(classifier_path)
    real_features, _ = classifier_features(classifier, real)
    features, probabilities = classifier_features(classifier, samples)
    shares = np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(samples)
    occurring = shares[shares > 0]
    return {
        "frechet_distance": frechet_distance(real_features, features),
        "kernel_distance": kernel_distance(real_features, features),
        "confidence": float(probabilities.max(1).mean()),
        "rarest_class_share": float(shares.min()),
        "class_entropy": float(np.sum(occurring * np.log(1 / occurring))),
    } | _of_what(classifier_path, real, samples)


def set_distances(classifier_path: Path, real: np.ndarray, samples: np.ndarray) -> dict[str, float | int | str]:
    """Return what `sample_scores` says of distances, for a classifier whose outputs are no shares of classes."""
    classifier = _loaded_classifier(classifier_path)
    real_features, features = (classifier_features(classifier, images)[0] for images in (real, samples))
    return {
        "frechet_distance": frechet_distance(real_features, features),
        "kernel_distance": kernel_distance(real_features, features),
    } | _of_what(classifier_path, real, samples)


def _of_what(classifier_path: Path, real: np.ndarray, samples: np.ndarray) -> dict[str, float | int | str]:
    checksum = file_sha256(classifier_path)[:12]
    return {"samples": len(samples), "real_images": len(real), "classifier": f"{classifier_path.name} {checksum}"}


def _loaded_classifier(path: Path) -> keras.Model:
    classifier = load_keras_file(path)
    if len(classifier.outputs) != 2:
        raise InputError(f"{path}: {len(classifier.outputs)} output(s); expected features and logits")
    return classifier


def _feature_sets(features_a: np.ndarray, features_b: np.ndarray) -> Iterator[np.ndarray]:
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        raise ValueError(f"features are {features_a.shape} and {features_b.shape}: expected [n, d] and [m, d]")
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError(f"features have {len(features_a)} and {len(features_b)} rows: both need at least 2")
    if not (np.isfinite(features_a).all() and np.isfinite(features_b).all()):
        raise ValueError("features hold NaN or infinity: they must be finite")
    return (features.astype(np.float64) for features in (features_a, features_b))


def _covariance_factor(features: np.ndarray) -> np.ndarray:
    """Return A [d, d] with A A' = the unbiased covariance of features [n, d]."""
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(features, rowvar=False)))
    return vectors * np.sqrt(np.maximum(values, 0))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of (x.y / d + 1)^3 over all rows x of a and y of b, a block of rows at a time."""
    return float(sum(np.sum((a[i : i + 512] @ b.T / a.shape[1] + 1) ** 3) for i in range(0, len(a), 512)))


def _kernel_of_self(a: np.ndarray) -> float:
    return float(np.sum((np.sum(a**2, 1) / a.shape[1] + 1) ** 3))


def edit_scores(
    classifier_path: Path,
    names: tuple[str, ...],
    images: np.ndarray,
    edit: Callable[[int, np.ndarray], np.ndarray],
) -> dict[str, float]:
    """Score edits of one attribute at a time by a classifier of all attributes.

    Args:
        classifier_path: a .keras file with two outputs, features and a logit an attribute, as `classifier_features`.
        names: of the attributes, in the classifier's order.
        images: before the edit, uint8 [n, h, w, c].
        edit: (an attribute's number, signs [n]) -> images with that attribute put in (1) or taken away (-1); an image
            gets the sign that leads away from what the classifier finds in it.

    Returns:
        For each name "NAME_flips", the share of images in which the classifier then finds the contrary, and
        "NAME_others_moved", the mean change of the other attributes' probabilities over that of this one.

    Raises:
        InputError: `classifier_path` is no such file, or tells other attributes apart.
    """
    classifier = _loaded_classifier(classifier_path)
    if classifier.outputs[1].shape[-1] != len(names):
        found = [list(output.shape) for output in classifier.outputs]
        raise InputError(f"{classifier_path}: outputs {found}; expected features and {len(names)} attributes")
    before = attribute_probabilities(classifier_path, images)
    scores = {}
    for number, name in enumerate(names):
        after = attribute_probabilities(classifier_path, edit(number, np.where(before[:, number] > 0.5, -1, 1)))
        change = np.abs(after - before).mean(axis=0)
        scores[f"{name}_flips"] = float(((after > 0.5) != (before > 0.5))[:, number].mean())
        if len(names) > 1:
            scores[f"{name}_others_moved"] = float(np.delete(change, number).mean() / max(change[number], 1e-9))
    return scores


def arithmetic_scores(
    classifier_path: Path,
    names: tuple[str, ...],
    wanted: tuple[str, ...],
    other: str,
    latents: np.ndarray,
    draw: Callable[[np.ndarray], np.ndarray],
    arithmetic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    trials: int = 200,
) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]]]:
    """Score a - b + c by a classifier of attributes: a has a wanted one and another, b only the other, c neither.

    Three latents for each are chosen at random among those of whose images the classifier is sure, `trials` times.

    Args:
        classifier_path: as for `edit_scores`.
        names: of the attributes, in the classifier's order.
        wanted: of these, those that a - b + c should have, one after the other.
        other: the one that it should not have.
        latents: to choose from, [n, d].
        draw: latents [n, d] -> images, uint8 [n, h, w, c].
        arithmetic: latents of a, b and c, [3, d] each -> one latent [d].

    Returns:
        For each wanted one "NAME_share", the share of all latents whose image has it; "NAME_put_in", the share of
        results that have it, and "NAME_put_in_OTHER_too", the share that has the other one. And the first choice for
        each: captions and latents [3, d] of a, b and c. Both lack it where there are not three sure ones of a kind.

    Raises:
        InputError: `classifier_path` is no such file.
    """
    found = attribute_probabilities(classifier_path, draw(latents))
    rng = np.random.default_rng(0)
    scores, first = {}, {}
    for name in wanted:
        here, there = found[:, names.index(name)], found[:, names.index(other)]
        kinds = {
            f"a: {name} and {other}": (here > 0.9) & (there > 0.9),
            f"b: {other}": (here < 0.1) & (there > 0.9),
            "c: neither": (here < 0.1) & (there < 0.1),
        }
        scores[f"{name}_share"] = float((here > 0.5).mean())
        if min(kind.sum() for kind in kinds.values()) < 3:
            continue
        chosen = [
            [latents[rng.choice(np.flatnonzero(kind), 3, replace=False)] for kind in kinds.values()]
            for _ in range(trials)
        ]
        results = np.stack([arithmetic(*parts) for parts in chosen])
        after = attribute_probabilities(classifier_path, draw(results)) > 0.5
        scores[f"{name}_put_in"] = float(after[:, names.index(name)].mean())
        scores[f"{name}_put_in_{other}_too"] = float(after[:, names.index(other)].mean())
        first[name] = {kind.replace("_", " "): part for kind, part in zip(kinds, chosen[0], strict=True)}
    return scores, first


def attribute_probabilities(classifier_path: Path, images: np.ndarray) -> np.ndarray:
    """Return the probability of each attribute, float32 [n, k], for uint8 [n, h, w, 1 or 3].

    The file is a .keras of a classifier with two outputs, features and a logit an attribute; InputError if it is not.
    """
    classifier = _loaded_classifier(classifier_path)
    parts = [
        classifier(classifier_input(classifier, images[start : start + 256]), training=False)[1]
        for start in range(0, len(images), 256)
    ]
    return tf.sigmoid(tf.concat(parts, axis=0)).numpy()
