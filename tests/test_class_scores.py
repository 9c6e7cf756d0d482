"""Scores of images that were generated for classes of faces; `test_diffusion.py` tests those of digits."""

from __future__ import annotations

import numpy as np
import pytest

from common.metrics.class_scores import attributes_right, class_scores, of_the_same_classes
from common.samples.faces import CLASS_ATTRIBUTES, FACE_ATTRIBUTES, FACE_CLASSES, face_classes, synthetic_faces

CLASSES = tuple(FACE_CLASSES)


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    return face_classes(3, 5)


def test_faces_of_a_class_have_its_attributes(faces):
    images, labels = faces
    assert images.shape == (24, 64, 64, 3) and labels.tolist() == [*range(8)] * 3
    for name, present in FACE_CLASSES.items():
        assert {*name.replace("plain", "").split()} == {*present} <= {*CLASS_ATTRIBUTES}
    assert len({frozenset(present) for present in FACE_CLASSES.values()}) == 8 == 2 ** len(CLASS_ATTRIBUTES)
    fewer, _ = face_classes(2, 5)
    assert (fewer == images[:16]).all()
    # independently: the attributes that the generator of faces reports for the same strengths
    strengths = {"hat": 1.0, "glasses": 0.0, "smile": (0.7, 1.0)}
    _, reported = synthetic_faces(3, 45, uniform=True, **strengths)
    columns = [FACE_ATTRIBUTES.index(name) for name in CLASS_ATTRIBUTES]
    wanted = [name in FACE_CLASSES["hat smile"] for name in CLASS_ATTRIBUTES]
    assert (reported[:, columns] == wanted).all()


def test_the_face_classifier_sees_the_attributes_of_a_class(faces):
    images, labels = faces
    assert attributes_right(images, labels).mean() >= 0.95
    wrong = attributes_right(images, 7 - labels)  # the class with the opposite attributes
    assert wrong.mean() <= 0.05


def test_scores_of_faces_of_the_right_and_of_the_wrong_class(faces):
    images, labels = faces
    right = class_scores(CLASSES, images, labels, lambda wanted: images, images[::-1])
    assert right["attributes_right"] == right["real_attributes_right"] >= 0.95
    assert right["recognised_as_class"] == attributes_right(images, labels).all(axis=1).mean()
    assert right["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert right["real_frechet_distance"] == pytest.approx(0, abs=1e-6)
    one_wrong = images[np.arange(24) ^ 1]  # the neighbour, whose smile differs
    found = class_scores(CLASSES, images, labels, lambda wanted: one_wrong)
    assert found["attributes_right"] == pytest.approx(2 / 3, abs=0.06) and "real_frechet_distance" not in found
    assert found["recognised_as_class"] <= 0.1


def test_other_images_and_images_that_do_not_match_have_no_scores(faces):
    images, labels = faces
    assert class_scores(("cat", "dog"), images, labels % 2, lambda wanted: images) == {}
    assert class_scores(CLASSES, images[:1], labels[:1], lambda wanted: images[:1]) == {}
    assert class_scores(CLASSES, images, 7 - labels, lambda wanted: images) == {}


def test_other_images_have_the_same_classes():
    labels, wanted = np.array([0, 1, 1, 2, 0, 1, 1, 2, 0]), np.array([1, 0, 1, 1])
    chosen = of_the_same_classes(labels, wanted)
    assert sorted(labels[chosen]) == sorted(wanted) and len({*chosen}) == 4
    assert of_the_same_classes(labels, np.array([2, 2, 2])) is None
