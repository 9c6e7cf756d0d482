"""Levels of a byte, which images are attacked, and the share that is still classified right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from common.data.identity import identities
from common.data.labelled import Split
from common.data.shard_writing import write_shards
from common.runs.attacks import CURVE_LEVELS, evaluate_attacks, images_to_attack
from common.runs.pretrained import Classifier
from common.system.console import Progress
from common.system.files import InputError
from tests.pictures import noise

CLASSES = ("cat", "dog", "tabby cat", "hen")


# Which images


def known(classes: tuple[str, ...] = CLASSES, size: int = 8, channels: int = 1) -> Classifier:
    return Classifier(None, classes, size, channels, 0, any_size=False)


def no_sample() -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError("asked for the sample")


def pictures(root: Path, layout: dict[str, int]) -> dict[str, list[bytes]]:
    """Write as many pictures in each folder as `layout` says, and return the pixels by folder."""
    written: dict[str, list[bytes]] = {}
    for place, (folder, count) in enumerate(layout.items()):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = noise(8, 8, seed=100 * place + number)
            Image.fromarray(pixels).save(root / folder / f"{number:02d}.png")
            written.setdefault(folder, []).append(pixels.tobytes())
    return written


def found(data: Path, classifier: Classifier | None = None, skip_bad: bool = False) -> dict[bytes, int]:
    part = images_to_attack(str(data) if data != Path("") else "", classifier or known(), no_sample, (), skip_bad)
    assert part.labels.dtype == np.int32
    return dict(zip((image.tobytes() for image in part.images(np.arange(len(part.labels)))), part.labels, strict=True))


def test_all_pictures_of_a_folder_that_has_no_test_part(tmp_path):
    written = pictures(tmp_path, {"hen": 4, "dog": 7, "Tabby_Cat": 1})
    numbers = {"hen": 3, "dog": 1, "Tabby_Cat": 2}
    assert found(tmp_path) == {pixels: numbers[name] for name in written for pixels in written[name]}


@pytest.mark.parametrize("part", ["test", "val"])
def test_only_the_test_part_of_a_folder_that_has_one(part, tmp_path):
    layout = {"train/cat": 3, "train/hen": 3, f"{part}/hen": 2, f"{part}/cat": 1}
    written = pictures(tmp_path, layout)
    expected = {pixels: 3 for pixels in written[f"{part}/hen"]} | {pixels: 0 for pixels in written[f"{part}/cat"]}
    assert found(tmp_path) == expected


def test_of_a_folder_with_train_alone_what_training_leaves_out(tmp_path):
    written = pictures(tmp_path, {"train/cat": 10, "train/hen": 5})
    images = [(pixels, number) for name, number in (("cat", 0), ("hen", 3)) for pixels in written[f"train/{name}"]]
    assert found(tmp_path) == dict(images[4::5])


def test_a_class_called_train(tmp_path):
    written = pictures(tmp_path, {"train": 6, "hen": 4})
    classifier = known(("hen", "train"))
    assert len(found(tmp_path, classifier)) == 10
    assert found(tmp_path, classifier)[written["train"][0]] == 1


def test_the_folder_that_a_run_has_learnt_from_without_that_part(tmp_path):
    written = pictures(tmp_path, {name.replace(" ", "_"): 5 for name in sorted(CLASSES)})
    classifier = known(tuple(written))._replace(data=str(tmp_path.resolve()))
    images = [(pixels, number) for number, name in enumerate(written) for pixels in written[name]]
    assert found(tmp_path, classifier) == found(Path(""), classifier) == dict(images[4::5])
    assert len(found(tmp_path)) == 20


def test_that_folder_is_known_where_it_has_moved_and_looked_at_where_it_has_changed(tmp_path, capsys):
    before, after = tmp_path / "before", tmp_path / "after"
    written = pictures(before, {name.replace(" ", "_"): 5 for name in sorted(CLASSES)})
    identity = identities({"data": str(before)})["data"]
    classifier = known(tuple(written))._replace(data=str(before.resolve()), identity=identity)
    left_out = found(before, classifier)
    before.rename(after)
    assert found(after, classifier) == left_out and len(left_out) == 4
    after.rename(before)
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "20 images (8x8 px), read as 8x8 px, greyscale; 4 classes"
    ] * 2
    (before / "dog" / "04.png").unlink()
    assert len(found(before, classifier)) == 3
    assert "has changed since the classifier was trained on it: 20 files" in capsys.readouterr().err
    before.rename(after)
    assert len(found(after, classifier)) == 19  # another folder: all of it


@pytest.mark.parametrize("data", ["", "sample"])
def test_a_sample_of_other_classes(data):
    images, labels = noise(40, 8, 8, 1), np.arange(40) % 3
    names = ("coat", "bag", "hat")
    with pytest.raises(InputError, match="sample: has the classes coat, bag, hat, but the classifier has"):
        images_to_attack(data, known(), lambda: (images, labels), names)


def test_a_folder_called_sample_is_not_taken_for_the_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").mkdir()
    images, labels = noise(40, 8, 8, 1), np.arange(40) % 4
    assert len(images_to_attack("sample", known(), lambda: (images, labels), CLASSES).labels) == 8


def test_a_sample_has_the_size_of_the_classifier():
    images, labels = noise(40, 8, 8, 1), np.arange(40) % 4
    part = images_to_attack("sample", known(size=12), lambda: (images, labels), CLASSES)
    assert part.images(np.arange(8)).shape == (8, 12, 12, 1)


def test_one_picture_of_each_class(tmp_path):
    written = pictures(tmp_path, {"cat": 1, "dog": 1, "hen": 1})
    assert found(tmp_path) == {written["cat"][0]: 0, written["dog"][0]: 1, written["hen"][0]: 3}


def test_shards_of_the_classes(tmp_path):
    pictures(tmp_path / "folder", {f"{split}/{name}": 3 for split in ("train", "test") for name in sorted(CLASSES)})
    write_shards(tmp_path / "folder", tmp_path / "shards")
    expected = found(tmp_path / "folder", known(tuple(sorted(CLASSES))))
    assert found(tmp_path / "shards", known(tuple(sorted(CLASSES)))) == expected and len(expected) == 12


def test_folders_named_by_numbers(tmp_path):
    written = pictures(tmp_path, {"3": 2, "0": 1})
    assert found(tmp_path) == {written["3"][0]: 3, written["3"][1]: 3, written["0"][0]: 0}
    digits = known(("3", "1", "0"))
    assert set(found(tmp_path, digits).items()) == {(written["3"][0], 0), (written["3"][1], 0), (written["0"][0], 2)}


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_have_the_size_and_channels_of_the_classifier(channels, tmp_path):
    pictures(tmp_path, {"cat": 2, "dog": 1})
    part = images_to_attack(str(tmp_path), known(size=5, channels=channels), no_sample, ())
    assert part.images(np.arange(3)).shape == (3, 5, 5, channels)


def test_a_damaged_picture(tmp_path):
    written = pictures(tmp_path, {"cat": 3, "dog": 1})
    (tmp_path / "cat" / "00.png").write_bytes(b"text")
    with pytest.raises(InputError, match=r"00\.png.*--skip-bad"):
        found(tmp_path)
    assert set(found(tmp_path, skip_bad=True)) == {*written["cat"][1:], *written["dog"]}


def test_a_folder_whose_class_is_none_of_the_classifiers(tmp_path):
    pictures(tmp_path, {"cat": 2, "dog": 2, "horse": 2})
    with pytest.raises(InputError, match="'horse' is not one of the 4 classes; the most similar are"):
        found(tmp_path)


def arrays(path: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    labels = np.arange(40) % 4
    np.savez(path, x_train=noise(40, 8, 8), y_train=labels, x_test=noise(12, 8, 8, seed=1), y_test=labels[:12],
             classes=np.array(classes))  # fmt: skip
    return path


def test_the_test_part_of_arrays(tmp_path):
    expected = {image.tobytes(): number % 4 for number, image in enumerate(noise(12, 8, 8, seed=1))}
    assert found(arrays(tmp_path / "data.npz")) == expected


@pytest.mark.parametrize("classes", [("cat", "dog", "hen", "tabby cat"), ("cat", "dog", "tabby cat", "hens")])
def test_arrays_whose_classes_differ_in_order_or_name(classes, tmp_path):
    path = arrays(tmp_path / "data.npz", classes)
    listed = f"has the classes {', '.join(classes)}, but the classifier has {', '.join(CLASSES)}; choose --data"
    with pytest.raises(InputError, match=listed) as error:
        found(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_fifth_of_the_sample():
    images, labels = noise(40, 8, 8, 1), np.arange(40) % 4
    part = images_to_attack("sample", known(), lambda: (images, labels), CLASSES)
    np.testing.assert_array_equal(part.images(np.arange(8)), images[4::5])
    np.testing.assert_array_equal(part.labels, labels[4::5])


# How many are still right


class Threshold(NamedTuple):
    """A network that is right as long as no pixel has moved by so many levels."""

    most: int


def make_attack(network: Threshold, steps: int) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """Return an attack that adds the levels times the steps to images of 0; an image's second pixel is its class."""

    def attack(images: np.ndarray, labels: np.ndarray, levels: int) -> np.ndarray:
        assert levels > 0 and len(images) == len(labels) <= 250
        np.testing.assert_array_equal(images[:, 0, 1, 0], labels)
        moved = images.copy()
        moved[:, 0, 0, 0] += np.uint8(min(levels * steps, 200))
        return moved

    return attack


def classify(network: Threshold, images: np.ndarray) -> np.ndarray:
    answers = np.where(images[:, 0, 0, 0] < network.most + 50 * (images[:, 0, 1, 0] == 2), images[:, 0, 1, 0], 9)
    return np.eye(10, dtype=np.float32)[answers]


def test_the_share_that_is_right_at_each_strength_and_its_curves(tmp_path, figures):
    labels = (np.arange(620) % 3).astype(np.int32)
    images = np.zeros((620, 4, 4, 1), np.uint8)
    images[:, 0, 1, 0] = labels
    networks = {"weak": Threshold(1), "strong": Threshold(40)}
    scores = evaluate_attacks(
        networks, make_attack, classify, Split(images, labels), tmp_path / "new" / "a.png", steps=(1, 3)
    )
    third = (labels == 2).mean()
    curves = {}
    for name, words, moved in (
        (name, words, np.array(CURVE_LEVELS) * steps)
        for name in networks
        for words, steps in (("1 step", 1), ("3 steps", 3))
    ):
        most = networks[name].most
        curves[f"{name}, {words}"] = np.where(moved < most, 1.0, np.where(moved < most + 50, third, 0.0))
    expected = {
        f"{name}, {level}/255": right
        for name, curve in curves.items()
        for level, right in zip(CURVE_LEVELS, curve, strict=True)
    }
    assert scores == pytest.approx(expected) and list(scores) == list(expected)
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(curves)
    assert "epsilon" in axes.get_xlabel() and "%" in axes.get_ylabel()
    assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 100 and axes.get_xlim()[1] >= max(CURVE_LEVELS)
    for line, curve in zip(axes.lines, curves.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), CURVE_LEVELS)
        np.testing.assert_allclose(line.get_ydata(), 100 * curve)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.format == "PNG" and np.ptp(np.asarray(image.convert("L"))) > 100


def test_the_direction_of_one_step_is_computed_once_and_the_numbers_are_those_of_each_strength(tmp_path, monkeypatch):
    """As FGSM moves each pixel: by the strength, in a direction of its own, within 0..255."""
    calls = []

    def attack_of(network: Threshold, steps: int) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
        def attack(images: np.ndarray, labels: np.ndarray, levels: int) -> np.ndarray:
            calls.append(levels)
            direction = np.random.default_rng(labels[0]).integers(-1, 2, images.shape)
            return np.clip(images.astype(int) + levels * direction, 0, 255).astype(np.uint8)

        return attack

    def classes_of(network: Threshold, images: np.ndarray) -> np.ndarray:
        return np.eye(7, dtype=np.float32)[images.reshape(len(images), -1).astype(int).sum(1) % 7]

    images, labels = noise(70, 5, 5, 1), (np.arange(70) % 7).astype(np.int32)
    found = evaluate_attacks({"a": Threshold(0)}, attack_of, classes_of, Split(images, labels), tmp_path / "a.png",
                             steps=(1,))  # fmt: skip
    assert calls == [255, 255]  # 70 images are attacked in two parts
    attack = attack_of(Threshold(0), 1)
    for level in CURVE_LEVELS:
        attacked = np.concatenate([attack(images[part], labels[part], level) for part in (slice(50), slice(50, 70))])
        expected = np.mean(classes_of(Threshold(0), attacked).argmax(1) == labels)
        assert found[f"a, 1 step, {level}/255"] == pytest.approx(expected)
    assert 0 < min(found.values()) < max(found.values())


def test_progress_is_printed_without_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Progress, "FIRST_LINE", 0.0)
    images = np.zeros((60, 4, 4, 1), np.uint8)
    labels = np.zeros(60, np.int32)
    evaluate_attacks({"a": Threshold(9)}, make_attack, classify, Split(images, labels), tmp_path / "a.png")
    assert "evaluating attacks: " in capsys.readouterr().err.splitlines()[0]
