from __future__ import annotations

import numpy as np

from common.runs.pretrained import Classifier
from common.samples.digits import HELD_OUT_SEED
from common.samples.handwriting import handwritten_digits
from tools.digit_classifier import build, distorted


def test_distorted_digits_are_the_same_for_the_same_generator_and_resemble_the_digits():
    images, *_ = handwritten_digits(40, 3)
    first, again = (distorted(images, np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (40, 28, 28, 1) and first.dtype == np.float32 and -1 <= first.min() < first.max() <= 1
    flat = [each.reshape(40, -1) for each in (images / 127.5 - 1, first)]
    agreement = np.corrcoef(*flat)[:40, 40:]
    assert np.median(np.diag(agreement)) > 0.6 > np.median(agreement) + 0.2


def test_the_network_returns_features_and_logits():
    features, logits = build()(np.zeros((2, 28, 28, 1), np.float32))
    assert features.shape == (2, 64) and logits.shape == (2, 10)


def test_the_bundled_classifier_reads_digits_of_other_writers():
    images, labels, _ = handwritten_digits(200, HELD_OUT_SEED + 7)
    logits = Classifier.load("digits", "").network(images / 127.5 - 1, training=False).numpy()
    assert np.mean(logits.argmax(1) == labels) >= 0.97
