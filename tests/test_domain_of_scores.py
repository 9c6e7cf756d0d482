"""A score is given only for images of the kind that its classifier was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.datasets import images_of
from common.data.labelled import labelled_images
from common.data.shard_writing import write_shards
from common.images.writing import write_image
from common.samples.clothes import synthetic_clothes
from common.samples.digits import held_out_digits
from common.system.files import write_npz


def scores(data: Path | str, sample: object = "digits", channels: int = 1) -> dict:
    examples = images_of(str(data), 28, channels, sample)  # type: ignore[arg-type]
    return examples.sample_scores(lambda count: np.resize(examples.held_out(count)[0], (count, 28, 28, channels)))


def as_arrays(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    np.savez(path, x_train=images[::2], y_train=labels[::2], x_test=images[1::2], y_test=labels[1::2])
    return path


def as_folder(folder: Path, images: np.ndarray, labels: np.ndarray, names: str) -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        write_image(image, folder / names[label] / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = held_out_digits()
    return images[:100], labels[:100]


@pytest.fixture(scope="module")
def clothes() -> tuple[np.ndarray, np.ndarray]:
    return synthetic_clothes(100, 0, 28)


def test_digits_of_every_layout_with_labels_are_scored(tmp_path, digits):
    expected = {"frechet_distance", "kernel_distance", "confidence", "class_entropy", "classifier"}
    assert expected <= scores("sample", lambda: digits).keys()
    assert expected <= scores(as_arrays(tmp_path / "digits.npz", *digits)).keys()
    assert expected <= scores(as_folder(tmp_path / "digits", *digits, "0123456789")).keys()


KINDS = {  # images that are no digits, or that the classifier does not know
    "clothes": lambda path, digits, clothes: as_arrays(path / "a.npz", *clothes),
    "folders of clothes": lambda path, digits, clothes: as_folder(path / "a", *clothes, "0123456789"),
    "letters": lambda path, digits, clothes: as_folder(path / "a", *digits, "ABCDEFGHIJ"),
    "inverted": lambda path, digits, clothes: as_arrays(path / "a.npz", 255 - digits[0], digits[1]),
    "one-hot": lambda path, digits, clothes: as_arrays(path / "a.npz", digits[0], np.eye(10, dtype=int)[digits[1]]),
    "unlabelled": lambda path, digits, clothes: write_npz(
        path / "a.npz", {"x_train": digits[0][::2], "x_test": digits[0][1::2]}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_grey_images_are_not_scored_by_a_classifier_of_digits(kind, tmp_path, digits, clothes):
    assert not scores(KINDS[kind](tmp_path, digits, clothes))


def test_colour_images_and_built_in_images_without_labels_are_not_scored(tmp_path, digits, clothes):
    assert not scores(as_arrays(tmp_path / "colour.npz", digits[0].repeat(3, -1), digits[1]), channels=3)
    assert not scores("sample", lambda: clothes[0])
    assert not scores("sample", lambda: digits[0])


@pytest.mark.parametrize("name", ["digits", "clothes"])
def test_shards_of_classes_are_scored_as_their_folder(name, tmp_path, digits, clothes):
    folder = as_folder(tmp_path / name, *(digits if name == "digits" else clothes), "0123456789")
    write_shards(folder, tmp_path / "shards", "classes")
    assert bool(scores(tmp_path / "shards")) == (name == "digits")


def test_images_with_classes_are_scored_by_the_classes_asked_for():
    examples = images_of("sample", 28, 1, "held_out_digits", classes=True)
    labelled = labelled_images("sample", 28, 1, "held_out_digits")
    assert examples.classes == labelled.classes
    images, labels = examples.held_out(10_000)
    np.testing.assert_array_equal(images, labelled.test.items)
    np.testing.assert_array_equal(labels, labelled.test.labels)
    assert len(examples.train[0]) == len(labelled.train.labels) + len(labelled.validation.labels)
    scores = examples.sample_scores(lambda count, labels: images)
    assert scores["recognised_as_class"] >= 0.9 and scores["frechet_distance"] == pytest.approx(0, abs=1e-3)
    turned = examples.sample_scores(lambda count, labels: images[np.argsort((labels + 1) % 10, kind="stable")])
    assert turned["recognised_as_class"] < 0.3


def test_batches_of_a_folder_have_the_class_of_each_image(tmp_path):
    """Each image has the grey value of its class."""
    for number, name in enumerate(("cat", "dog")):
        for image in range(6):
            write_image(np.full((10, 12, 1), 100 * number + 50, np.uint8), tmp_path / name / f"{image}.png")
    examples = images_of(str(tmp_path), 8, 1, "digits", classes=True)
    stream = examples.batches(4, 0, held_out=5)
    for images, labels in stream.at(0).take(3):
        assert images.shape == (4, 8, 8, 1) and labels.shape == (4,)
        np.testing.assert_array_equal(images.numpy()[:, 0, 0, 0], 100 * labels.numpy() + 50)
    held_out, labels = stream.held_out
    np.testing.assert_array_equal(held_out[:, 0, 0, 0], 100 * labels + 50)
    assert examples.classes == ("cat", "dog") and examples.sample_scores(lambda count, labels: held_out) == {}
