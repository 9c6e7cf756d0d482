"""Metrics for classifiers: accuracy, calibration, precision and recall."""

from __future__ import annotations

import numpy as np


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the fraction of images whose most probable class is correct.

    Args:
        labels: integer labels [n].
        probabilities: probabilities or logits [n, classes].
    """
    return float((probabilities.argmax(1) == labels).mean())


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error (ECE), the average gap between confidence and accuracy.

    Images are binned by their confidence. The result is the mean of |accuracy - confidence| over the bins, weighted by
    the number of images per bin. It is 0 for a perfectly calibrated classifier: of the images with confidence 0.8, for
    example, it classifies 80 % correctly. See Guo et al. 2017, "On Calibration of Modern Neural Networks",
    arXiv:1706.04599, equation 3.

    Args:
        labels: integer labels [n].
        probabilities: probabilities [n, classes]. The confidence of an image is its largest probability.
        bins: number of equal-width bins between 0 and 1. Each bin includes its upper limit.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    indices = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(indices, correct, bins) - np.bincount(indices, confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def temperature_scale(margins: np.ndarray, labels: np.ndarray) -> float:
    """Fit temperature scaling: return the logit scale that minimises the cross entropy on validation images.

    The scale is 1 / temperature. See Guo et al. 2017, arXiv:1706.04599, section 4.2.

    Args:
        margins: logits [n, classes] of the validation images.
        labels: integer labels [n] of the validation images.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_scale: float) -> float:
        return -float(np.mean(log_softmax(np.exp(log_scale) * margins, axis=1)[np.arange(len(labels)), labels]))

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5)).x))


def classification_scores(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Return the test accuracy, the expected calibration error, and the precision and recall of each class.

    Precision is 0 for a class that is never predicted. Recall is 0 for a class without images.

    Args:
        labels: integer labels [n].
        probabilities: probabilities [n, classes].
        classes: names of the classes.
    """
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, _, _ = precision_recall_fscore_support(
        labels, probabilities.argmax(1), labels=np.arange(len(classes)), zero_division=0
    )
    scores = {
        "test_accuracy": accuracy(labels, probabilities),
        "expected_calibration_error": expected_calibration_error(labels, probabilities),
    }
    for number, name in enumerate(classes):
        scores |= {f"precision {name}": float(precision[number]), f"recall {name}": float(recall[number])}
    return scores
