"""Metrics for image pairs, image sets, label maps and attributes. The docstrings cite the papers."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.system.downloads import file_sha256
from common.system.files import InputError, data_file
from common.system.keras_files import load_keras_file
from common.system.lazy import keras, tf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Return the Frechet distance between two Gaussians fitted to features [n, d] and [m, d]; 0 is best.

    It is ||mean_a - mean_b||^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)) in float64, with unbiased covariances C (Heusel
    et al. 2017, arXiv:1706.08500, eq. 6). The estimate decreases as n and m grow, so compare only values with the same
    n and m. With features of the original Inception network, it is the FID.

    Raises:
        ValueError: the shapes do not match, a set has fewer than 2 rows, or a value is not finite.
    """
    a, b = _feature_sets(features_a, features_b)
    factor_a, factor_b = _covariance_factor(a), _covariance_factor(b)
    # With C_a = A A' and C_b = B B', the eigenvalues of C_a C_b are the squared singular values of A' B. The singular
    # values are always real, and they are accurate even if C_a or C_b is singular.
    overlap = np.linalg.svd(factor_a.T @ factor_b, compute_uv=False).sum()
    means = np.sum((a.mean(0) - b.mean(0)) ** 2)
    return float(max(means + np.sum(factor_a**2) + np.sum(factor_b**2) - 2 * overlap, 0))


def kernel_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Return the squared maximum mean discrepancy between features [n, d] and [m, d]; the kernel is (x.y / d + 1)^3.

    This is the unbiased estimate over all pairs, in float64 (Binkowski et al. 2018, arXiv:1801.01401). It can be
    negative. If both sets are samples of the same distribution, its expected value is 0 for any n and m. With features
    of the original Inception network, it is the KID.

    Raises:
        ValueError: the shapes do not match, a set has fewer than 2 rows, or a value is not finite.
    """
    a, b = _feature_sets(features_a, features_b)
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a) - _kernel_of_self(a)) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - _kernel_of_self(b)) / (m * (m - 1))
    return float(within_a + within_b - 2 * _kernel_sum(a, b) / (n * m))


def texture_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Return the Frechet distance of colour images from real images, in features of a network for photos and textures.

    The features are the 128 feature maps of the layer `conv3_2` of `data/canvas_network.keras`, averaged over all
    positions. Unlike the FID, this works offline and with a few dozen images. Compare only values with the same number
    of images.

    Args:
        real: uint8 [n, height, width, 3], n at least 2.
        fake: uint8 [m, height, width, 3], m at least 2.
    """
    network = _texture_features()
    features = []
    for images in (real, fake):
        batches = (tf.cast(images[start : start + 8], tf.float32) / 127.5 - 1 for start in range(0, len(images), 8))
        features.append(np.concatenate([network([batch], training=False).numpy() for batch in batches]))
    return frechet_distance(*features)


@functools.cache
def _texture_features() -> keras.Model:
    network = load_keras_file(data_file("canvas_network.keras"))
    maps = network.get_layer("conv3_2").output
    return keras.Model(network.inputs, keras.ops.mean(maps, axis=(1, 2)))


def pair_scores(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Compare images with their targets, pair by pair; both are uint8 [n, h, w, c].

    Returns:
        "l1": the mean absolute difference of pixel values in [0, 1]; 0 is best.
        "psnr": the peak signal-to-noise ratio in dB, averaged over images; infinite if any image equals its target.
        "ssim": the structural similarity, averaged over images and channels; 1 is best. The window is Gaussian, 11 x 11
            pixels, with sigma 1.5 (Wang et al. 2004, IEEE Transactions on Image Processing 13(4)).

    Raises:
        InputError: the images are smaller than the window of 11 x 11 pixels.
        ValueError: the arrays differ in shape, or are not uint8 [n, h, w, c].
    """
    from skimage.metrics import structural_similarity

    if real.shape != fake.shape or real.ndim != 4 or not len(real) or real.dtype != np.uint8 or fake.dtype != np.uint8:
        raise ValueError(
            f"real is {real.dtype} {real.shape}, fake is {fake.dtype} {fake.shape}; "
            "both must be uint8 [n, h, w, c] with the same shape"
        )
    height, width = real.shape[1:3]
    if min(height, width) < 11:
        raise InputError(f"images of {width}x{height} px are too small; structural similarity needs at least 11x11 px")
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
        ignore: a value in `truth` to leave out of the count, such as 255 for "no label".

    Raises:
        ValueError: the shapes differ, or a counted index is not in [0, classes).
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, predicted has shape {predicted.shape}; they must be equal")
    counted = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, indices in (("truth", rows), ("predicted", columns)):
        if indices.size and (indices.min() < 0 or indices.max() >= classes):
            raise ValueError(
                f"{name} contains class indices from {indices.min()} to {indices.max()}; expected 0 to {classes - 1}"
            )
    return np.bincount(rows * classes + columns, minlength=classes**2).astype(np.int64).reshape(classes, classes)


def segmentation_scores(matrix: np.ndarray) -> dict[str, float]:
    """Return the pixel accuracy, class accuracy and mean IoU of a `confusion_matrix`, all in [0, 1].

    "pixel_accuracy" is the fraction of correct pixels. "class_accuracy" is the mean of this fraction over classes, and
    "mean_iou" is the mean intersection over union (Long et al. 2015, arXiv:1411.4038, sec. 5). Classes that do not
    occur in the truth are excluded from these two means.

    Raises:
        ValueError: the matrix is empty.
    """
    truth = matrix.sum(1)
    if not truth.any():
        raise ValueError("the confusion matrix is empty; it needs at least one labelled pixel")
    present = truth > 0
    right = np.diag(matrix)[present]
    union = (truth + matrix.sum(0))[present] - right
    return {
        "pixel_accuracy": float(right.sum() / truth.sum()),
        "class_accuracy": float(np.mean(right / truth[present])),
        "mean_iou": float(np.mean(right / union)),
    }


def classifier_features(classifier: keras.Model, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a classifier's float32 features [n, d] and probabilities [n, k] for uint8 images [n, h, w, 1 or 3].

    Args:
        classifier: network with two outputs, features and logits. Its input is float32 [n, height, width, 1 or 3] in
            [-1, 1].
        images: the images. They are resized to the classifier's input size, with bilinear interpolation and
            antialiasing, and converted to its number of channels.
    """
    features, probabilities = [], []
    for start in range(0, len(images), 256):
        seen, logits = classifier(classifier_input(classifier, images[start : start + 256]), training=False)
        features.append(seen.numpy())
        probabilities.append(tf.nn.softmax(logits).numpy())
    return np.concatenate(features), np.concatenate(probabilities)


def classifier_input(classifier: keras.Model, images: np.ndarray) -> tf.Tensor:
    """Convert uint8 images [n, h, w, 1 or 3] to a classifier's input in [-1, 1]; see `classifier_features`."""
    _, height, width, channels = classifier.input_shape
    batch = tf.cast(images, tf.float32)
    if batch.shape[-1] == 3 and channels == 1:
        batch = tf.image.rgb_to_grayscale(batch)
    elif batch.shape[-1] == 1 and channels == 3:
        batch = tf.image.grayscale_to_rgb(batch)
    if tuple(batch.shape[1:3]) != (height, width):
        batch = tf.image.resize(batch, (height, width), antialias=True)
    return batch / 127.5 - 1


def sample_scores(
    classifier_path: Path, real: np.ndarray, samples: np.ndarray, other_real: np.ndarray | None = None
) -> dict[str, float | int | str]:
    """Compare generated images uint8 [n, h, w, c] with real images uint8 [m, h, w, c], using a classifier.

    Args:
        classifier_path: a .keras file with two outputs; see `classifier_features`.
        real: at least 2 real images.
        samples: at least 2 generated images.
        other_real: as many other real images as there are generated ones. They show what the distances are without any
            difference between the distributions.

    Returns:
        "frechet_distance", "kernel_distance": distances between the two sets of classifier features; smaller is better.
        "real_frechet_distance": the Frechet distance between `real` and `other_real`; only with `other_real`.
        "confidence": the largest class probability in [0, 1], averaged over generated images. It can be near 1 even for
            noise.
        "rarest_class_fraction", "commonest_class_fraction": the fractions of generated images in the rarest and in the
            most common class; the first is 0 if a class is never predicted.
        "class_entropy": the entropy of the predicted classes in nats; ln(k) if all k classes are equally frequent.
        "samples", "real_images": the numbers of generated and real images.
        "classifier": the classifier's file name and the first 12 digits of its SHA-256. Do not compare distances from
            different classifiers.

    Raises:
        InputError: `classifier_path` is not a .keras file with two outputs.
        ValueError: there are fewer than 2 real or generated images, or `other_real` has another number of images than
            `samples`.
    """
    if other_real is not None and len(other_real) != len(samples):
        raise ValueError(f"other_real has {len(other_real)} images, samples has {len(samples)}; they must be equal")
    classifier = _loaded_classifier(classifier_path)
    real_features, _ = classifier_features(classifier, real)
    features, probabilities = classifier_features(classifier, samples)
    scale = {}
    if other_real is not None:
        other_features, _ = classifier_features(classifier, other_real)
        scale["real_frechet_distance"] = frechet_distance(real_features, other_features)
    fractions = np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(samples)
    occurring = fractions[fractions > 0]
    return {
        "frechet_distance": frechet_distance(real_features, features),
        "kernel_distance": kernel_distance(real_features, features),
        "confidence": float(probabilities.max(1).mean()),
        "rarest_class_fraction": float(fractions.min()),
        "commonest_class_fraction": float(fractions.max()),
        "class_entropy": float(np.sum(occurring * np.log(1 / occurring))),
    } | (scale | _provenance(classifier_path, real, samples))


def set_distances(classifier_path: Path, real: np.ndarray, samples: np.ndarray) -> dict[str, float | int | str]:
    """Return `sample_scores` without class scores. Use it with attribute classifiers, which do not predict classes."""
    classifier = _loaded_classifier(classifier_path)
    real_features, features = (classifier_features(classifier, images)[0] for images in (real, samples))
    return {
        "frechet_distance": frechet_distance(real_features, features),
        "kernel_distance": kernel_distance(real_features, features),
    } | _provenance(classifier_path, real, samples)


def _provenance(classifier_path: Path, real: np.ndarray, samples: np.ndarray) -> dict[str, float | int | str]:
    checksum = file_sha256(classifier_path)[:12]
    return {"samples": len(samples), "real_images": len(real), "classifier": f"{classifier_path.name} {checksum}"}


def _loaded_classifier(path: Path) -> keras.Model:
    classifier = load_keras_file(path)
    if len(classifier.outputs) != 2:
        raise InputError(f"{path}: {len(classifier.outputs)} output(s); expected two, features and logits")
    return classifier


def _feature_sets(features_a: np.ndarray, features_b: np.ndarray) -> Iterator[np.ndarray]:
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        raise ValueError(f"features have shapes {features_a.shape} and {features_b.shape}; expected [n, d] and [m, d]")
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError(f"features have {len(features_a)} and {len(features_b)} rows; both need at least 2")
    if not (np.isfinite(features_a).all() and np.isfinite(features_b).all()):
        raise ValueError("features contain NaN or infinity; they must be finite")
    return (features.astype(np.float64) for features in (features_a, features_b))


def _covariance_factor(features: np.ndarray) -> np.ndarray:
    """Return a matrix A [d, d] for which A A' is the unbiased covariance of features [n, d]."""
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(features, rowvar=False)))
    return vectors * np.sqrt(np.maximum(values, 0))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of (x.y / d + 1)^3 over all rows x of `a` and y of `b`, computed in blocks to save memory."""
    return float(sum(np.sum((a[i : i + 512] @ b.T / a.shape[1] + 1) ** 3) for i in range(0, len(a), 512)))


def _kernel_of_self(a: np.ndarray) -> float:
    return float(np.sum((np.sum(a**2, 1) / a.shape[1] + 1) ** 3))


def edit_scores(
    classifier_path: Path,
    names: tuple[str, ...],
    images: np.ndarray,
    edit: Callable[[int, np.ndarray], np.ndarray],
) -> dict[str, float]:
    """Score edits of one attribute at a time with an attribute classifier.

    Args:
        classifier_path: a .keras file with two outputs, features and one logit per attribute.
        names: the attributes, in the order of the classifier's logits.
        images: the images before the edit, uint8 [n, h, w, c].
        edit: (index of an attribute, signs [n]) -> images with that attribute added (1) or removed (-1). An attribute
            is removed if the classifier predicts it for the image, and added otherwise.

    Returns:
        Two scores for each attribute:
        "NAME_flip_rate": the fraction of images for which the edit flips the prediction.
        "NAME_side_effect": the mean absolute change in the probabilities of the other attributes, divided by the mean
            absolute change in the probability of this attribute.

    Raises:
        InputError: `classifier_path` has no such network, or its number of attributes differs from `names`.
    """
    classifier = _loaded_classifier(classifier_path)
    if classifier.outputs[1].shape[-1] != len(names):
        found = [list(output.shape) for output in classifier.outputs]
        raise InputError(f"{classifier_path}: output shapes {found}; expected features and {len(names)} attributes")
    before = attribute_probabilities(classifier_path, images)
    scores = {}
    for number, name in enumerate(names):
        after = attribute_probabilities(classifier_path, edit(number, np.where(before[:, number] > 0.5, -1, 1)))
        change = np.abs(after - before).mean(axis=0)
        scores[f"{name}_flip_rate"] = float(((after > 0.5) != (before > 0.5))[:, number].mean())
        if len(names) > 1:
            scores[f"{name}_side_effect"] = float(np.delete(change, number).mean() / max(change[number], 1e-9))
    return scores


def arithmetic_scores(
    classifier_path: Path,
    names: tuple[str, ...],
    wanted: tuple[str, ...],
    other: str,
    latents: np.ndarray,
    generate: Callable[[np.ndarray], np.ndarray],
    arithmetic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    trials: int = 200,
    count: int = 3,
) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]]]:
    """Score latent arithmetic, `a - b + c`, with an attribute classifier.

    Images of `a` have the wanted attribute and `other`, images of `b` have `other` but not the wanted attribute, and
    images of `c` have neither. The image of `a - b + c` should have only the wanted attribute. Each trial uses `count`
    random latents each for `a`, `b` and `c`. A latent qualifies only if both attributes of its image have a
    probability above 0.9 (present) or below 0.1 (absent).

    Args:
        classifier_path: as for `edit_scores`.
        names: the attributes, in the order of the classifier's logits.
        wanted: the attributes to score.
        other: the attribute that the result should not have.
        latents: the latents to sample from, [n, d].
        generate: latents [n, d] -> images, uint8 [n, h, w, c].
        arithmetic: latents of `a`, `b` and `c`, [count, d] each -> one latent [d].
        trials: the number of trials.
        count: the number of latents for each of `a`, `b` and `c` in a trial.

    Returns:
        Two dictionaries. The first contains three scores for each wanted attribute:
        "NAME_frequency": the fraction of all images that have the attribute.
        "NAME_success_rate": the fraction of results that have the attribute.
        "NAME_OTHER_rate": the fraction of results that have `other`.
        The second contains the latents [count, d] of `a`, `b` and `c` in the first trial, keyed by attribute and
        caption.
        If fewer than `count` latents qualify for `a`, `b` or `c`, only the frequency is returned.

    Raises:
        InputError: `classifier_path` is not such a file.
    """
    found = attribute_probabilities(classifier_path, generate(latents))
    rng = np.random.default_rng(0)
    scores, first = {}, {}
    for name in wanted:
        here, there = found[:, names.index(name)], found[:, names.index(other)]
        kinds = {
            f"a: {name} and {other}": (here > 0.9) & (there > 0.9),
            f"b: {other}": (here < 0.1) & (there > 0.9),
            "c: neither": (here < 0.1) & (there < 0.1),
        }
        scores[f"{name}_frequency"] = float((here > 0.5).mean())
        if min(kind.sum() for kind in kinds.values()) < count:
            continue
        chosen = [
            [latents[rng.choice(np.flatnonzero(kind), count, replace=False)] for kind in kinds.values()]
            for _ in range(trials)
        ]
        results = np.stack([arithmetic(*parts) for parts in chosen])
        after = attribute_probabilities(classifier_path, generate(results)) > 0.5
        scores[f"{name}_success_rate"] = float(after[:, names.index(name)].mean())
        scores[f"{name}_{other}_rate"] = float(after[:, names.index(other)].mean())
        first[name] = {kind.replace("_", " "): part for kind, part in zip(kinds, chosen[0], strict=True)}
    return scores, first


def attribute_probabilities(classifier_path: Path, images: np.ndarray) -> np.ndarray:
    """Return the probability of each attribute, float32 [n, k], for uint8 images [n, h, w, 1 or 3].

    `classifier_path` must be a .keras file with two outputs, features and one logit per attribute. Otherwise,
    InputError is raised.
    """
    classifier = _loaded_classifier(classifier_path)
    parts = [
        classifier(classifier_input(classifier, images[start : start + 256]), training=False)[1]
        for start in range(0, len(images), 256)
    ]
    return tf.sigmoid(tf.concat(parts, axis=0)).numpy()


def sample_diversity(samples: np.ndarray, real: np.ndarray) -> float:
    """Return the nearest-neighbour distance of generated images, divided by the same distance for real images.

    The distance of a set is the median Euclidean distance in pixel space from an image to its nearest neighbour in the
    set. A result of 1 means that generated images vary as much as real images. A result near 0 means that most images
    have a near-duplicate. The larger set is truncated to the size of the smaller one, because nearest neighbours are
    closer in larger sets.

    Args:
        samples: generated images, uint8 [n, height, width, channels], n at least 2.
        real: real images of the same shape, without duplicates.
    """
    count = min(len(samples), len(real))
    if count < 2:
        raise ValueError(f"diversity needs at least 2 samples and 2 real images, got {len(samples)} and {len(real)}")
    distances = [_nearest_distance(images[:count].reshape(count, -1).astype(np.float64)) for images in (samples, real)]
    return distances[0] / distances[1] if distances[1] else math.nan


def _nearest_distance(points: np.ndarray) -> float:
    """Return the median distance from points [n, d] to their nearest neighbours."""
    squares = (points**2).sum(1)
    distances = squares[:, None] + squares - 2 * points @ points.T
    np.fill_diagonal(distances, np.inf)
    return float(np.sqrt(np.median(np.maximum(distances.min(1), 0))))
