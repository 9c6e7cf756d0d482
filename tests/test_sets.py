"""Data sets as people have them: splits of any name, tables of classes, EMNIST's folder, TensorFlow Datasets."""

from __future__ import annotations

import gzip
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import common.data.arrays
import common.data.exporting
from common.data.arrays import tfds_builder
from common.data.class_folders import listed_classes, split_of
from common.data.datasets import images_of
from common.data.domains import domain_folders
from common.data.labelled import Labelled, labelled_images
from common.data.shard_writing import write_shards
from common.images.found import reported
from common.runs.run import Run
from common.system.files import InputError
from recipes import lenet
from tests.pictures import noise


def write(folder: Path, names: str, count: int = 4) -> None:
    for seed, name in enumerate(names.split()):
        for number in range(count):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(8, 8, 3, seed=100 * seed + number)).save(path)


def read(data: Path | str, **options: bool) -> Labelled:
    return labelled_images(str(data), 8, 3, "clothes", **options)


def counts(data: Labelled) -> list[int]:
    return [len(part.labels) for part in data[:3]]


# --- splits and tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ("Training/a Training/b Testing/a Testing/b", [7, 1, 8]),
        ("train/a train/b validation/a validation/b", [7, 1, 8]),
        ("TRAIN/a TRAIN/b Val/a", [7, 1, 4]),
        ("train/a train/b valid/a test/a test/b", [8, 4, 8]),
        ("a b", [6, 1, 1]),
        ("a/x a/y b", [9, 1, 2]),
    ],
)
def test_names_of_splits(folders, expected, tmp_path):
    write(tmp_path, folders)
    data = read(tmp_path)
    assert counts(data) == expected and data.classes == ("a", "b")
    write_shards(tmp_path, tmp_path.parent / f"{tmp_path.name}-shards", "classes")
    shards = read(tmp_path.parent / f"{tmp_path.name}-shards")
    for one, other in zip(data[:3], shards[:3], strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.loaded()[0], other.loaded()[0])


def test_a_name_that_is_no_split():
    assert [split_of(name) for name in ("Train", "test-set", "valid", "trains", "a")] == [
        "train",
        "test",
        "val",
        "",
        "",
    ]


def test_splits_of_domains(tmp_path):
    write(tmp_path / "one", "summer/train summer/validation winter/train winter/validation")
    write(tmp_path / "two", "Training/summer Training/winter Testing/summer Testing/winter")
    for name, inner in (("one", "summer/validation"), ("two", "Testing/summer")):
        folders = domain_folders(tmp_path / name)
        assert [each for each, _ in folders] == ["summer", "winter"]
        assert folders[0][1][1] == tmp_path / name / inner


TABLES = {
    "with a header": ("labels.csv", "id,breed\n{}0.png,cat\n{}1.png,dog\n{}2.png,cat\n{}3.png,dog\n"),
    "without a suffix": ("labels.csv", "id,breed\n0,cat\n1,dog\n2,cat\n3,dog\n"),
    "without a header": ("train.txt", "{}0.png cat\n{}1.png dog\n{}2.png cat\n{}3.png dog\n"),
    "more columns": ("a.csv", "n;file;label\n5;0.PNG;cat\n6;1.png;dog\n7;2.png;cat\n8;3.png;dog\n"),
}


@pytest.mark.parametrize("inner", ["", "images/"])
@pytest.mark.parametrize("case", TABLES)
def test_a_table_of_classes(case, inner, tmp_path, capsys):
    write(tmp_path, inner or ".")
    name, text = TABLES[case]
    (tmp_path / name).write_text(text.replace("{}", inner))
    (numbered,), classes = listed_classes(tmp_path)
    assert classes == ("cat", "dog") and [(path.name, number) for path, number in numbered] == [
        ("0.png", 0), ("1.png", 1), ("2.png", 0), ("3.png", 1)]  # fmt: skip
    with reported(tmp_path) as found:
        listed_classes(tmp_path)
    assert found.details == [f"classes from {name}"] and not capsys.readouterr().err


def test_tables_of_splits_and_images_without_a_class(tmp_path, capsys):
    write(tmp_path, "images", count=9)
    (tmp_path / "train.csv").write_text("file,class\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(6)))
    (tmp_path / "test.csv").write_text("file,class\n6.png,a\n7.png,b\n")
    assert counts(read(tmp_path)) == [5, 1, 2]
    assert "1 images without a class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,class\n0.png,a\n1.png,b\n9.png,a\n", "line 4: no image with this name"),
        ("file,class\n0.png,a\n1.png,b\n1.png,a\n", "line 4: a second row"),
        ("file,class\n0.png,a\n1.png,\n2.png,a\n", "line 3: no class"),
        ("file,x,y\n0.png,a,b\n1.png,b,a\n", "3 columns; expected a file name and a class"),
        ("title\nother\n", "no class folders here"),
    ],
)
def test_tables_that_do_not_fit(text, said, tmp_path):
    write(tmp_path, ".", count=4)
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read(tmp_path)


# --- EMNIST ------------------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes())


def emnist(folder: Path, **sets: tuple[int, str]) -> None:
    folder.mkdir(parents=True)
    for name, (first, characters) in sets.items():
        for split, count in (("train", 40), ("test", 20)):
            labels = np.arange(count) % len(characters) + first
            (folder / f"emnist-{name}-{split}-images-idx3-ubyte.gz").write_bytes(idx(noise(count, 8, 8)))
            (folder / f"emnist-{name}-{split}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
        lines = [f"{number} {ord(each)} {ord(each.lower())}" for number, each in enumerate(characters, first)]
        (folder / f"emnist-{name}-mapping.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("data", ["gzip/emnist-letters", "gzip/emnist-letters-train-images-idx3-ubyte.gz"])
def test_a_set_of_emnist_with_letters_as_names(data, tmp_path):
    emnist(tmp_path / "gzip", letters=(1, "ABCD"), digits=(0, "01"))
    found = read(tmp_path / data)
    assert found.classes == tuple("ABCD") and counts(found) == [36, 4, 20]
    np.testing.assert_array_equal(found.test.labels, np.arange(20) % 4)
    np.testing.assert_array_equal(found.test.items[..., 0], noise(20, 8, 8).swapaxes(1, 2))
    assert len(images_of(str(tmp_path / data), 8, 1, "digits").train) == 40
    run = Run(tmp_path / "run", "lenet", lenet.Config(), str(tmp_path / data))
    run.start(found.classes)
    Run(tmp_path / "run", "lenet", lenet.Config(), str(tmp_path / data))


def test_the_whole_folder_of_emnist_asks_which_set(tmp_path):
    emnist(tmp_path / "gzip", letters=(1, "ABCD"), digits=(0, "01"))
    said = (
        f"gzip: holds 2 sets; choose one: --data {tmp_path}/gzip/emnist-digits, --data {tmp_path}/gzip/emnist-letters"
    )
    with pytest.raises(InputError, match=said):
        read(tmp_path / "gzip")
    (tmp_path / "gzip" / "emnist-letters-mapping.txt").write_text("one\n")
    with pytest.raises(InputError, match="mapping.txt: expected lines with a label and a character code"):
        read(tmp_path / "gzip" / "emnist-letters")


# --- TensorFlow Datasets -----------------------------------------------------------------------------------


def prepared(folder: Path, name: str, features: dict, splits: dict[str, list[dict]]) -> None:
    """Prepare a data set without generating code for it."""

    def examples(self: object, split: str) -> dict:
        return dict(enumerate(splits[split]))

    members = {
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": lambda self: self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features)),
        "_split_generators": lambda self, _: {split: examples(self, split).items() for split in splits},
        "_generate_examples": lambda self: None,
        "__module__": __name__,
    }
    type(name, (tfds.core.GeneratorBasedBuilder,), members)(data_dir=folder).download_and_prepare()


def varied(count: int) -> list[dict]:
    return [{"image": noise(8 + n, 10, 3, seed=n), "label": n % 2} for n in range(count)]


LABELLED = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a/b", "c"])}


@pytest.mark.slow
def test_a_set_whose_images_differ_in_size(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepared(tmp_path, "Varied", LABELLED, {"train": varied(10)})
    data = read("tfds:varied")
    assert data.classes == ("a_b", "c") and counts(data) == [7, 1, 2]
    assert len(images_of("tfds:varied", 8, 3, "photos").train) == 9
    assert len(list((tmp_path / "varied" / "1.0.0" / "images").rglob("*.png"))) == 10


@pytest.mark.slow
def test_a_set_with_one_split_and_a_set_that_does_not_fit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    features = LABELLED | {"image": tfds.features.Image(shape=(8, 8, 3))}
    prepared(
        tmp_path, "Single", features, {"train": [{"image": noise(8, 8, 3, seed=n), "label": n % 2} for n in range(10)]}
    )
    data = read("tfds:single")
    assert counts(data) == [7, 1, 2] and data.train.read is None
    monkeypatch.setattr(common.data.exporting, "MEMORY_BYTES", 100)
    streamed = read("tfds:single")
    assert counts(streamed) == [7, 1, 2] and streamed.train.read is not None


@pytest.mark.slow
def test_faces_are_streamed_from_the_folder_that_other_recipes_use(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(common.data.exporting, "MEMORY_BYTES", 100)
    features = {"image": tfds.features.Image(shape=(218, 178, 3)), "attributes": {"Smiling": np.bool_}}
    faces = [{"image": noise(218, 178, 3, seed=n), "attributes": {"Smiling": n % 2 == 0}} for n in range(4)]
    prepared(tmp_path, "Celebs", features, {"train": faces})
    data = images_of("tfds:celebs", 16, 3, "photos")
    assert len(data.train) == 3 and isinstance(data.train[0], str) and "/faces/img_align_celeba/" in data.train[0]


def test_a_set_that_is_downloaded_by_hand_needs_no_network(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="tfds:mnist: download failed \\(no network\\)"):
        tfds_builder("mnist", True)
    asked = []

    class Builder:
        data_dir = tmp_path

        def download_and_prepare(self) -> None:
            asked.append("prepared")

    monkeypatch.setattr(tfds, "builder", lambda name: Builder())
    tfds_builder("cityscapes/semantic_segmentation", True)
    assert asked == ["prepared"]
