from __future__ import annotations

import numpy as np
import pytest

from common.samples.faces import FACE_ATTRIBUTES, synthetic_faces
from common.system.files import data_file
from common.system.lazy import keras
from tools import face_classifier


def test_accuracies_leave_out_what_is_not_known():
    images = keras.Input((2, 2, 1))
    bright = keras.ops.mean(images, axis=(1, 2))
    classifier = keras.Model(images, [bright, keras.ops.concatenate([bright, -bright], axis=1)])
    pictures = np.zeros((4, 2, 2, 1), np.uint8)
    pictures[2:] = 255
    labels = np.array([[0, 1], [1, 1], [1, 255], [255, 1]], np.uint8)
    found = face_classifier.accuracies(classifier, pictures, labels)
    np.testing.assert_allclose(found, [2 / 3, 2 / 3])


def test_softened_pictures_keep_their_mean_and_lose_their_edges():
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype(np.uint8)
    soft = face_classifier.softened(noise, np.random.default_rng(1))
    assert soft.shape == noise.shape and soft.dtype == np.uint8
    np.testing.assert_allclose(soft.mean((1, 2)), noise.mean((1, 2)), atol=4)
    assert (soft.std((1, 2)) < noise.std((1, 2))).all()


@pytest.mark.slow
def test_the_classifier_that_is_shipped_knows_every_attribute_of_new_faces():
    """Faces that it never saw: its own begin with another seed."""
    classifier = keras.models.load_model(data_file("face_classifier.keras"))
    images, labels = synthetic_faces(300, seed=4321)
    shares = face_classifier.accuracies(classifier, images, labels)
    assert dict(zip(FACE_ATTRIBUTES, shares, strict=True)) and shares.min() > 0.93 and shares.mean() > 0.97


@pytest.mark.slow
def test_training_tells_dark_from_bright_where_labels_are_known():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 100, (64, 16, 16, 1)).astype(np.uint8)
    images[::2] += 120
    labels = np.array([[1], [0]] * 32, np.uint8)
    labels[5:15] = 255
    classifier = face_classifier.train(images, labels, epochs=4)
    assert face_classifier.accuracies(classifier, images, labels)[0] == 1
