"""Test images are never trained on, and folders, formats and settings of the kinds that people have are understood."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from common.data.attributes import attributed_images
from common.data.batches import Examples
from common.data.datasets import image_pairs, images_of
from common.data.domains import unpaired_images
from common.data.labelled import labelled_images
from common.data.people import two_people
from common.data.shard_writing import write_shards
from common.images.found import images_in, is_image_name
from common.images.reading import read_image
from common.system.files import InputError
from recipes import mobilenet
from tests.pictures import noise


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def fill(folder: Path, count: int, value: int, inner: str = "") -> None:
    """Write images whose pixels are all between `value` and `value` + 40."""
    for number in range(count):
        pixels = value + noise(16, 16, 3, seed=number) // 7
        save(folder / inner / f"{folder.name}{number}.png", pixels.astype(np.uint8))


def brightness(images: np.ndarray) -> list[int]:
    """Return 0, 1 or 2 for images that `fill` wrote with the values 0, 100 or 200."""
    return [int(image.mean()) // 100 for image in images]


def parts_of(examples: Examples) -> tuple[list[int], list[int]]:
    """Return the brightness of the training images and of the held-out images."""
    train, test = (each.held_out(100)[0] for each in (examples._replace(test=examples.train), examples))
    return brightness(train), brightness(test)


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "validation"), ("", "test")])
@pytest.mark.parametrize("written_as", ["folder", "shards"])
def test_test_images_are_not_trained_on(train, test, written_as, tmp_path, capsys):
    source = tmp_path / "in"
    fill(source / train, 8, 0, inner="" if train else "more")
    fill(source / test, 3, 200)
    data = str(source if written_as == "folder" else write_shards(source, tmp_path / "shards", "images"))
    found = images_of(data, 16, 3, "digits")
    assert parts_of(found) == ([0] * 8, [2] * 3)
    faces = attributed_images(data, 16, 3, "faces")
    assert brightness(faces.train.loaded(100)[0]) == [0] * len(faces.train.labels)
    assert brightness(faces.validation.loaded(100)[0])[0] == (2 if test == "validation" else 0)
    if written_as == "folder":
        labelled = labelled_images(data, 16, 3, "digits", require_classes=False)
        assert {*brightness(labelled.train.loaded(100)[0]), *brightness(labelled.validation.loaded(100)[0])} == {0}
        assert brightness(labelled.test.loaded(100)[0]) == [2] * 3
        assert f"3 of them in {test}/, which are not trained on" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("traina", "trainb", "testa", "testb"), ("TrainA", "TrainB", "TestA", "TestB"),
                                   ("train_a", "train_b", "test_a", "test_b"), ("a", "b", "", "")])  # fmt: skip
def test_the_case_of_domain_folders_does_not_matter(names, tmp_path):
    for name, value, count in zip(names, (0, 100, 0, 100), (4, 4, 2, 2), strict=True):
        if name:
            fill(tmp_path / name, count, value)
    fill(tmp_path / "other", 3, 200)
    domains = unpaired_images(str(tmp_path), 16, "seasons")
    assert [len(part) for part in (domains.a.train, domains.b.train)] == ([4, 4] if names[2] else [3, 3])
    assert set(parts_of(domains.a)[0]) == {0} and set(parts_of(domains.b)[1]) == {1}


def test_the_case_of_domains_may_differ_between_splits(tmp_path):
    for name, value in (("train/A", 0), ("train/B", 100), ("test/a", 0), ("test/b", 100)):
        fill(tmp_path / name, 3, value)
    domains = unpaired_images(str(tmp_path), 16, "seasons")
    assert len(domains.a.train) == len(domains.a.test) == 3


@pytest.mark.parametrize("require_classes", [True, False])
def test_classes_may_be_next_to_the_test_folder(require_classes, tmp_path):
    for name, value in (("cat", 0), ("dog", 0), ("test/cat", 200), ("test/dog", 200)):
        fill(tmp_path / name, 5, value)
    found = labelled_images(str(tmp_path), 16, 3, "digits", require_classes=require_classes)
    assert found.classes == ("cat", "dog")
    assert {*brightness(found.train.loaded(100)[0]), *brightness(found.validation.loaded(100)[0])} == {0}
    assert brightness(found.test.loaded(100)[0]) == [2] * 10


def test_data_may_be_one_folder_deeper(tmp_path):
    for name, value in (("train/a", 0), ("train/b", 100), ("test/a", 200), ("test/b", 200)):
        fill(tmp_path / "in" / "set-1" / name, 4, value)
    data = str(tmp_path / "in")
    assert labelled_images(data, 16, 3, "digits").classes == ("a", "b")
    assert labelled_images(data, 16, 3, "digits", require_classes=False).classes == ("a", "b")
    assert parts_of(images_of(data, 16, 3, "digits")) == ([0] * 4 + [1] * 4, [2] * 8)
    assert parts_of(unpaired_images(data, 16, "seasons").a) == ([0] * 4, [2] * 4)
    for name in ("trainA", "trainB"):
        fill(tmp_path / "pairs" / "set-1" / name / "more", 3, 0)
    assert len(image_pairs(str(tmp_path / "pairs"), 16, "sketches").train) == 2


ARRAYS = {
    "NaN": (np.full((8, 8, 8, 3), np.nan, np.float32), r"they contain NaN or infinity\); expected uint8"),
    "infinity": (np.full((8, 8, 8, 3), np.inf, np.float32), r"they contain NaN or infinity\); expected uint8"),
    "channels first": (
        np.zeros((8, 3, 8, 8), np.uint8) + 99,
        "channels must be last: use np.moveaxis",
    ),
    "one image": (np.zeros((8, 8, 3), np.uint8) + 99, r"the shape \[8, 8, 3\] is that of one image; expected"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_are_no_images_are_one_line(kind, tmp_path):
    images, message = ARRAYS[kind]
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", x_train=images, x_test=images)
    np.savez(tmp_path / "domains.npz", a=images, b=images)
    for name, read in (("a.npy", images_of), ("a.npz", images_of), ("domains.npz", None)):
        with pytest.raises(InputError, match=message) as error:
            if read is None:
                unpaired_images(str(tmp_path / name), 16, "seasons")
            else:
                read(str(tmp_path / name), 16, 3, "digits")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["{}.png", "{}", "images\\{}.png", "images/{}.png", "/data/of/others/{}.png"])
def test_tables_may_name_files_in_any_usual_way(path, tmp_path):
    fill(tmp_path / "images", 8, 0)
    names = [path.format(f"images{number}") for number in range(8)]
    table = tmp_path / "table.csv"
    rows = [f"{name};{number};{'ab'[number % 2]}\r\n" for number, name in enumerate(names)]
    table.write_bytes(("\ufefffile;number;class\r\n" + "".join(rows)).encode())
    found = labelled_images(str(tmp_path), 16, 3, "digits")
    assert found.classes == ("a", "b") and sum(len(part.labels) for part in found[:3]) == 8
    if path.startswith("/"):
        return
    rows = [f"{name};{number % 2}\r\n" for number, name in enumerate(names)]
    table.write_bytes(("\ufefffile;smile\r\n" + "".join(rows)).encode())
    faces = attributed_images(str(tmp_path), 16, 3, "faces")
    assert faces.names == ("smile",) and np.concatenate([part.labels for part in faces[:3]]).sum() == 4


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(InputError, match="a.png: a pointer of Git LFS, not the image; get the images with `git lfs"):
        read_image(tmp_path / "a.png")


def test_two_folders_for_one_domain_are_one_line(tmp_path):
    for name in ("trainA", "traina", "trainB"):
        fill(tmp_path / name, 3, 0)
    with pytest.raises(InputError, match="trainA/ and traina/ are the same folder; keep only one"):
        unpaired_images(str(tmp_path), 16, "seasons")


def test_splits_are_not_people(tmp_path):
    for name in ("train", "test"):
        fill(tmp_path / name / "A", 3, 0)
    with pytest.raises(InputError, match="test/ and train/ are parts of a data set, not people; give one of them"):
        two_people(str(tmp_path), 32, 0.2, "people")


@pytest.mark.parametrize("value", [0, 255])
def test_plain_targets_are_no_label_maps(value, tmp_path, capsys):
    for number in range(4):
        save(tmp_path / "A" / f"{number}.png", noise(16, 16, 3, seed=number))
        save(tmp_path / "B" / f"{number}.png", np.full((16, 16, 3), value, np.uint8))
    image_pairs(str(tmp_path), 16, "sketches")
    said = capsys.readouterr().err
    assert f"4 are all {'white' if value else 'black'}" in said and "label" not in said and "--classes" not in said


def test_heic_is_read_if_its_package_is_installed(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (tmp_path / "b.jpg").write_bytes(b"\0\0\0\x18ftypmif1" + bytes(20))  # phones write such names
    assert not is_image_name("a.heic") and images_in(tmp_path) == [tmp_path / "b.jpg"]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match="in the format HEIC; the package pillow-heif reads it .pip install"):
        read_image(tmp_path / "b.jpg")
    package = types.ModuleType("pillow_heif")
    package.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    png = tmp_path / "as.png"
    save(png, noise(9, 8, 3))
    package.HeifImageFile = lambda file: PngImagePlugin.PngImageFile(png)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    assert images_in(tmp_path) == [tmp_path / "a.heic", png, tmp_path / "b.jpg"]
    np.testing.assert_array_equal(read_image(tmp_path / "a.heic"), noise(9, 8, 3))


def test_settings_of_mobilenet_are_checked_before_data_is_read():
    with pytest.raises(InputError, match="^alpha must be 0.35, 0.5, 0.75, 1, 1.3 or 1.4, got 0.6$"):
        mobilenet.Config(alpha=0.6)
