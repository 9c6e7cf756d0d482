"""Scores of images that were generated for given classes: built-in digits and faces, judged by bundled classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.metrics.scores import attribute_probabilities, classifier_features, sample_scores, set_distances
from common.samples.digits import DIGITS
from common.samples.faces import CLASS_ATTRIBUTES, FACE_ATTRIBUTES, FACE_CLASSES
from common.system.files import data_file
from common.system.keras_files import load_keras_file

if TYPE_CHECKING:
    from collections.abc import Callable

RECOGNISED = 0.8  # smallest accuracy on real images for which the scores of a bundled classifier mean something


def class_scores(
    classes: tuple[str, ...],
    real: np.ndarray,
    labels: np.ndarray,
    generate: Callable[[np.ndarray], np.ndarray],
    other_real: np.ndarray | None = None,
) -> dict[str, float | int | str]:
    """Compare generated images with real images of the same classes.

    Args:
        classes: the names of the classes.
        real: real images, uint8 [n, height, width, channels].
        labels: their class indices, integers [n].
        generate: class indices [n] -> generated images of these classes, uint8 [n, height, width, channels].
        other_real: as many other real images of the same classes. Their distance from `real` shows what the distances
            are without any difference between the distributions.

    Returns:
        For greyscale digits, `recognised_as_class`, the fraction of the generated images that the project's digit
        classifier recognises as their class, and the scores of `common.metrics.scores.sample_scores`.
        For the classes of faces in `common.samples.faces`, the scores of the project's face classifier:
        `attributes_right`, the fraction of the attributes (hat, glasses, smile) of all generated images that are as
        their class says, `real_attributes_right`, the same for the real images, `recognised_as_class`, the fraction of
        the generated images with all attributes right, and the distances of `common.metrics.scores.set_distances`.
        Empty for other images, for fewer than 2, and if the classifier is right on less than RECOGNISED of the real
        ones.
    """
    if len(real) < 2:
        return {}
    if classes == DIGITS and real.shape[-1] == 1:
        path = data_file("digit_classifier.keras")
        classifier = load_keras_file(path)
        if np.mean(classifier_features(classifier, real)[1].argmax(1) == labels) < RECOGNISED:
            return {}
        images = generate(labels)
        recognised = classifier_features(classifier, images)[1].argmax(1) == labels
        return {"recognised_as_class": float(recognised.mean())} | sample_scores(path, real, images, other_real)
    if classes == tuple(FACE_CLASSES):
        real_right = attributes_right(real, labels)
        if np.mean(real_right) < RECOGNISED:
            return {}
        images = generate(labels)
        right = attributes_right(images, labels)
        path = data_file("face_classifier.keras")
        scores = set_distances(path, real, images)
        if other_real is not None:
            scores["real_frechet_distance"] = set_distances(path, real, other_real)["frechet_distance"]
        shares = {"attributes_right": float(right.mean()), "real_attributes_right": float(real_right.mean())}
        return {"recognised_as_class": float(right.all(axis=1).mean())} | shares | scores
    return {}


def attributes_right(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return whether each attribute of faces is as their class says, bool [n, len(CLASS_ATTRIBUTES)].

    Args:
        images: faces, uint8 [n, size, size, 3].
        labels: indices of classes in `FACE_CLASSES`, integers [n].
    """
    wanted = np.array([[name in present for name in CLASS_ATTRIBUTES] for present in FACE_CLASSES.values()])
    columns = [FACE_ATTRIBUTES.index(name) for name in CLASS_ATTRIBUTES]
    found = attribute_probabilities(data_file("face_classifier.keras"), images)[:, columns] > 0.5
    return found == wanted[labels]


def of_the_same_classes(labels: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """Return indices of as many labels of each class as in `wanted`, evenly spaced; None if there are too few."""
    parts = []
    for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
        found = np.flatnonzero(labels == label)
        if len(found) < count:
            return None
        parts.append(found[np.linspace(0, len(found) - 1, count).astype(int)])
    return np.concatenate(parts)
