"""The comparison of classifiers on the features of dog_svm."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from benchmarks import dog_classifiers
from common.data.labelled import labelled_images
from common.system.files import InputError
from recipes import dog_svm


@pytest.fixture
def data(tmp_path, monkeypatch) -> str:
    """Images of three classes that differ in the brightness of a half, as an .npz file."""
    monkeypatch.setattr(dog_classifiers, "TREES", 10)
    monkeypatch.setattr(dog_classifiers, "ROUNDS", 2)
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(0, 60, (90, 28, 28))
    images[labels == 1, :14] += 150
    images[labels == 2, :, :14] += 150
    path = tmp_path / "own.npz"
    parts = {"x_train": images[:60], "x_test": images[60:]}
    labelled = {"y_train": labels[:60], "y_test": labels[60:]}
    np.savez(path, **{name: part.astype(np.uint8) for name, part in parts.items()}, **labelled)
    return str(path)


@pytest.mark.slow
def test_every_classifier_is_measured_once_for_each_seed_and_shown(data, tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- dog_classifiers -->\n<!-- dog_classifiers -->\nafter\n")
    dog_classifiers.measure(data, tmp_path / "runs", 2, results=page)
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) ± [\d.]+ \| [\d.]+ \| 2 \|", page.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == list(dog_classifiers.CLASSIFIERS)
    assert all(float(accuracy) > 0.9 for _, accuracy in rows)
    monkeypatch.setattr(dog_classifiers, "score", lambda *arguments: pytest.fail("measured again"))
    dog_classifiers.measure(data, tmp_path / "runs", 2)
    with pytest.raises(InputError, match="'forest' is not a row of the table"):
        dog_classifiers.measure(data, tmp_path / "runs", only=("forest",))


@pytest.mark.slow
@pytest.mark.parametrize("name", dog_classifiers.CLASSIFIERS[1:])
def test_probabilities_are_those_of_the_classifier_and_equal_for_equal_seeds(name, data):
    labelled = labelled_images(data, 28, 1, "clothes")
    networks = dog_svm.build(dog_svm.Config(outputs=3))
    train, test = (dog_classifiers.features_of(split, networks) for split in (labelled.train, labelled.test))
    first, again = (dog_classifiers.fitted(name, train, labelled, networks, 5)(test[0]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first.sum(1), 1, atol=1e-6)
    if "SVM" in name:
        np.testing.assert_array_equal(first.argmax(1), LinearSVC(dual=False).fit(*train).predict(test[0]))
    assert (first.argmax(1) == test[1]).mean() > 0.9
