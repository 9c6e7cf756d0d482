"""Faces with attributes: an answer stays with its picture, the parts never mix, and what is wrong has its line."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import common.data.celeba
from common.data.answers import UNKNOWN
from common.data.attributes import Attributed, attributed_images
from common.data.celeba import celeba_image
from common.data.labelled import Split, image_batches, labelled_batches
from common.system.files import InputError
from tests.pictures import noise


def answers(count: int, attributes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, attributes)).astype(np.uint8)


def no_sample() -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError("asked for the sample")


def read(data: Path | str, size: int = 8, channels: int = 3, **options) -> Attributed:
    return attributed_images(str(data), size, channels, no_sample, **options)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def by_content(*splits: Split) -> dict[bytes, tuple[int, ...]]:
    """Return the answers for each picture, by its pixels."""
    return {
        image.tobytes(): tuple(map(int, row))
        for split in splits
        for image, row in zip(split.images(np.arange(len(split.labels))), split.labels, strict=True)
    }


def by_name(data: Attributed) -> dict[str, tuple[int, ...]]:
    return {
        Path(name).name: tuple(map(int, row))
        for split in data[:3]
        for name, row in zip(split.items, split.labels, strict=True)
    }


def counts(data: Attributed) -> list[int]:
    assert all(len(split.items) == len(split.labels) and split.labels.dtype == np.uint8 for split in data[:3])
    return [len(split.labels) for split in data[:3]]


def refused(path: Path, **options) -> str:
    """Return the one line that is said of data that cannot be used."""
    with pytest.raises(InputError) as error:
        read(path, **options)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


# The sample


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sample_in_three_parts(channels):
    images, labels = noise(100, 8, 8, 3), answers(100, 3)
    data = attributed_images("sample", 8, channels, lambda: (images, labels), names=("smile", "glasses", "hat"))
    assert counts(data) == [72, 8, 20] and data.names == ("smile", "glasses", "hat")
    np.testing.assert_array_equal(data.test.labels, labels[4::5])
    assert all(split.items.shape[1:] == (8, 8, channels) for split in data[:3])
    if channels == 3:
        known = zip([image.tobytes() for image in images], map(tuple, labels.tolist()), strict=True)
        assert by_content(*data[:3]) == dict(known)
    else:
        expected = np.array([np.asarray(Image.fromarray(image).convert("L")) for image in images[4::5]], int)
        assert np.abs(data.test.items[..., 0] - expected).max() <= 1


def test_without_attributes_the_parts_are_evenly_spaced():
    images = noise(60, 8, 8, 3)
    data = attributed_images("sample", 8, 3, lambda: (images, np.zeros((60, 0), np.uint8)))
    rest = np.delete(np.arange(60), np.s_[4::5])
    np.testing.assert_array_equal(data.validation.items, images[rest[9::10]])
    np.testing.assert_array_equal(data.train.items, images[np.delete(rest, np.s_[9::10])])


def test_validation_has_yes_and_no_where_they_take_turns():
    labels = np.arange(200)[:, None] % 2
    data = attributed_images("sample", 8, 3, lambda: (noise(200, 8, 8, 3), labels.astype(np.uint8)))
    assert 6 <= data.validation.labels.sum() <= 10 and len(data.validation.labels) == 16


def test_more_than_grey_and_colour():
    with pytest.raises(InputError, match="channels must be 1 or 3, got 4"):
        attributed_images("sample", 8, 4, no_sample)


# Arrays


def stored(path: Path, **changed: Any) -> Path:
    contents = {
        "x_train": noise(20, 8, 8, 3),
        "y_train": answers(20, 2),
        "x_test": noise(5, 8, 8, 3, seed=1),
        "y_test": answers(5, 2, seed=1),
        "attributes": np.array(["Smiling", "Male"]),
    }
    np.savez(path, **{key: value for key, value in (contents | changed).items() if value is not None})
    return path


@pytest.mark.parametrize("code", ["0 and 1", "-1 and 1", "bool", "float"])
def test_an_npz_keeps_its_test_part_and_its_names(code, tmp_path):
    train, test = answers(20, 2), answers(5, 2, seed=1)
    coded = [
        {"0 and 1": y, "-1 and 1": 2 * y.astype(int) - 1, "bool": y > 0, "float": y.astype(np.float32)}[code]
        for y in (train, test)
    ]
    data = read(stored(tmp_path / "a.npz", y_train=coded[0], y_test=coded[1]))
    assert counts(data) == [18, 2, 5] and data.names == ("Smiling", "Male")
    np.testing.assert_array_equal(data.test.items, noise(5, 8, 8, 3, seed=1))
    np.testing.assert_array_equal(data.test.labels, test)
    known = zip([image.tobytes() for image in noise(20, 8, 8, 3)], map(tuple, train.tolist()), strict=True)
    assert by_content(data.train, data.validation) == dict(known)


@pytest.mark.parametrize("attributes", [None, np.array(["Smiling"]), np.array([b"Smiling"])])
def test_class_numbers_of_two_classes_are_one_attribute(attributes, tmp_path):
    y = np.array([0, 1] * 10, np.uint8)
    data = read(stored(tmp_path / "a.npz", y_train=y, y_test=y[:5], attributes=attributes))
    assert data.names == (("attribute",) if attributes is None else ("Smiling",))
    np.testing.assert_array_equal(data.test.labels, [[0], [1], [0], [1], [0]])


def test_an_npz_without_names_without_answers_and_with_unknown_ones(tmp_path):
    assert read(stored(tmp_path / "a.npz", attributes=None)).names == ("attribute_1", "attribute_2")
    data = read(stored(tmp_path / "b.npz", y_train=None, y_test=None))
    assert data.names == () and data.train.labels.shape == (18, 0) and data.test.labels.shape == (5, 0)
    each = read(stored(tmp_path / "d.npz", y_train=answers(20, 2) * [1, 2] - [0, 1]))  # 0 in one, -1 in the other
    assert set(by_content(each.train, each.validation).values()) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    test = np.array([[1, np.nan], [0, 1], [255, 0], [1, 1], [0, 0]])
    data = read(stored(tmp_path / "c.npz", y_test=test))
    np.testing.assert_array_equal(data.test.labels, [[1, UNKNOWN], [0, 1], [UNKNOWN, 0], [1, 1], [0, 0]])


def test_arrays_are_brought_to_size_and_channels(tmp_path):
    data = read(stored(tmp_path / "a.npz", x_train=noise(20, 30, 30), x_test=noise(5, 30, 20, 3)), 16, 1)
    assert {split.items.shape[1:] for split in data[:3]} == {(16, 16, 1)}


BAD_ARRAYS = {
    "ten classes": ({"y_train": np.arange(20)}, r"y_train contains 2; expected 1 \(yes\), 0 or -1"),
    "one answer too few": ({"y_train": answers(19, 2)}, r"y_train is uint8 \[19, 2\] for 20 images"),
    "answers in words": ({"y_test": np.array([["yes", "no"]] * 5)}, r"y_test is <U3 \[5, 2\] for 5 images"),
    "three axes": ({"y_test": answers(5, 2)[..., None]}, r"y_test is uint8 \[5, 2, 1\]"),
    "0 and -1": ({"y_train": np.array([[1, 0], [0, 1], [-1, 0], [1, 1]] * 5)}, "contains 0 and -1 in column 0"),
    "another width": ({"y_test": answers(5, 3)}, "y_train has 2 attributes, but y_test has 3"),
    "a part alone": ({"y_test": None}, "has only y_train; expected both y_train and y_test, or neither"),
    "too few names": ({"attributes": np.array(["Smiling"])}, "1 names in `attributes` for 2"),
    "answers for names": ({"attributes": answers(20, 2)}, r"`attributes` is uint8 \[20, 2\]; expected .* names"),
    "objects for names": ({"attributes": np.array(["a", 1], object)}, "not a readable .npz"),
    "equal names": (
        {"attributes": np.array(["No-Beard", "no_beard"])},
        "'No-Beard' and 'no_beard' differ only in case, .*; rename one",
    ),
    "an empty name": ({"attributes": np.array(["Smiling", " "])}, "attribute 2 has no name"),
    "no test images": ({"x_test": noise(0, 8, 8, 3), "y_test": answers(0, 2)}, "x_test contains no images"),
    "no array": ({"x_test": np.uint8(1)}, "x_test contains no images"),
    "no x_test": ({"x_test": None}, "lacks x_test; found"),
    "other images": ({"x_train": noise(20, 8, 8, 3) / 255}, r"float64 .*; expected uint8"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_do_not_fit(case, tmp_path):
    changed, expected = BAD_ARRAYS[case]
    assert re.search(expected, refused(stored(tmp_path / "a.npz", **changed)))


def test_a_word_a_file_and_a_damaged_npz(tmp_path):
    assert "no such file or folder; expected a folder, an .npz file, tfds:celeb_a" in refused(tmp_path / "nowhere")
    (tmp_path / "img_align_celeba.zip").write_bytes(b"PK")
    assert "is a file; expected a folder, an .npz" in refused(tmp_path / "img_align_celeba.zip")
    whole = stored(tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    assert "not a readable .npz" in refused(tmp_path / "a.npz")
    assert "no such file" in refused(tmp_path / "b.npz")


# CelebA


def celeba(
    folder: Path, count: int = 12, place: str = "img_align_celeba", kaggle: bool = False, parts: str = ""
) -> dict[str, tuple[int, ...]]:
    """Write a folder as CelebA's, with the part of each picture in `parts` if any; return the answers by name."""
    names = ["5_o_Clock_Shadow", "Smiling", "No_Beard"]
    labels = answers(count, 3)
    files = [f"{number + 1:06d}.jpg" for number in range(count)]
    for number, name in enumerate(files):
        save(folder / place / name, noise(218, 178, 3, seed=number))
    between, suffix = (",", "csv") if kaggle else (" ", "txt")
    head = [",".join(["image_id", *names])] if kaggle else [str(count), " ".join(names) + " "]
    rows = [between.join([files[n], *(f"{2 * int(a) - 1:2d}" for a in labels[n])]) for n in range(count)]
    (folder / f"list_attr_celeba.{suffix}").write_text("\n".join([*head, *rows, ""]))
    if parts:
        head = ["image_id,partition"] if kaggle else []
        rows = [between.join(pair) for pair in zip(files, parts, strict=True)]
        (folder / f"list_eval_partition.{suffix}").write_text("\n".join([*head, *rows, ""]))
    return {name: tuple(map(int, row)) for name, row in zip(files, labels, strict=True)}


@pytest.mark.parametrize("place", ["img_align_celeba", "img_align_celeba/img_align_celeba", "."])
@pytest.mark.parametrize("kaggle", [False, True])
def test_celeba_with_its_own_parts(place, kaggle, tmp_path):
    expected = celeba(tmp_path, 12, place, kaggle, parts="000000011122")
    data = read(tmp_path)
    assert data.names == ("5_o_Clock_Shadow", "Smiling", "No_Beard")
    assert by_name(data) == expected and counts(data) == [7, 3, 2]
    assert [Path(name).name for name in data.test.items] == ["000011.jpg", "000012.jpg"]
    assert [Path(name).name for name in data.validation.items] == ["000008.jpg", "000009.jpg", "000010.jpg"]


def test_celeba_as_its_archives_lie(tmp_path):
    expected = celeba(tmp_path, 12, "Img/img_align_celeba", parts="000000011122")
    for name, place in (("list_attr_celeba.txt", "Anno"), ("list_eval_partition.txt", "Eval")):
        (tmp_path / place).mkdir()
        (tmp_path / place / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
        (tmp_path / name).unlink()
    data = read(tmp_path)
    assert by_name(data) == expected and counts(data) == [7, 3, 2]


def test_celeba_hq_with_its_list_of_another_name(tmp_path):
    expected = celeba(tmp_path, 12, "CelebA-HQ-img")
    (tmp_path / "list_attr_celeba.txt").rename(tmp_path / "CelebAMask-HQ-attribute-anno.txt")
    data = read(tmp_path)
    assert data.names == ("5_o_Clock_Shadow", "Smiling", "No_Beard") and by_name(data) == expected


def test_a_list_that_is_not_read_is_named(tmp_path, capsys):
    celeba(tmp_path, 6)
    (tmp_path / "list_attr_celeba.txt").rename(tmp_path / "labels.txt")
    assert read(tmp_path).names == ()
    assert f"{tmp_path}: ignoring labels.txt; provide attributes as a .csv" in capsys.readouterr().err


def test_pictures_without_attributes_become_batches(tmp_path):
    """Their labels are [n, 0], at which tf.data's `unbatch` ends the process with a segmentation fault."""
    for number in range(12):
        save(tmp_path / f"{number}.png", noise(9, 9, 3, seed=number))
    data = read(tmp_path)
    for stream, shapes in (
        (labelled_batches(data, 4, seed=0), [(4, 8, 8, 3), (4, 0)]),
        (image_batches(data, 4, seed=0, mirror=True), [(4, 8, 8, 3)]),
    ):
        (batch,) = stream.at(0).take(1).as_numpy_iterator()
        assert [part.shape for part in batch] == shapes


def test_celeba_without_parts_and_without_all_pictures(tmp_path, capsys):
    expected = celeba(tmp_path, 12)
    for name in ("000002.jpg", "000011.jpg"):
        (tmp_path / "img_align_celeba" / name).unlink()
        del expected[name]
    save(tmp_path / "img_align_celeba" / "stray.png", noise(9, 9, 3))
    data = read(tmp_path)
    assert by_name(data) == expected and counts(data) == [7, 1, 2]
    said = capsys.readouterr().err
    assert (
        "found 10 of the 12 images that list_attr_celeba.txt lists" in said
        and "1 images are ignored, because list_attr_celeba.txt does not" in said
    )


def test_a_part_of_celeba_that_is_all_for_training_is_cut_as_other_sets(tmp_path):
    celeba(tmp_path, 12, parts="0" * 12)
    assert counts(read(tmp_path)) == [9, 1, 2]
    celeba(tmp_path, 12, parts="1" * 10 + "22")
    assert "0 images for training, 10 for validation and 2 for testing" in refused(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_crop_of_an_aligned_picture(channels, tmp_path):
    path = save(tmp_path / "a.png", noise(218, 178, 3))
    with Image.open(path) as file:
        centre = file.convert("L" if channels == 1 else "RGB").crop((15, 35, 163, 183))
    for name in (path, str(path), str(path).encode()):
        np.testing.assert_array_equal(celeba_image(name, 148, channels), np.asarray(centre).reshape(148, 148, channels))
    small = np.asarray(centre.resize((64, 64), Image.Resampling.BICUBIC)).reshape(64, 64, channels)
    np.testing.assert_array_equal(celeba_image(path, 64, channels), small)
    other = save(tmp_path / "b.png", noise(10, 20, 3))
    np.testing.assert_array_equal(celeba_image(other, 10, 3), noise(10, 20, 3)[:, 5:15])


def test_celeba_pictures_are_read_through_that_crop(tmp_path):
    celeba(tmp_path, 5)
    data = read(tmp_path, 16)
    np.testing.assert_array_equal(data.test.images(np.array([0]))[0], celeba_image(data.test.items[0], 16, 3))


def written(path: Path, change: tuple[str, str]) -> None:
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))


ATTR, EVAL = "list_attr_celeba.txt", "list_eval_partition.txt"
BAD_LISTS = {
    "cut short": (ATTR, ("12\n", "13\n"), "12 images, but its first line says 13; copy the file again"),
    "no count": (ATTR, ("12\n", ""), "expected the number of images, a line of attribute names"),
    "a value too few": (ATTR, ("000003.jpg ", "000003.jpg\n"), "line 5: 0 values for 3 attributes"),
    "another value": (ATTR, ("000002.jpg ", "000002.jpg 7 "), "line 4: 4 values for 3"),
    "a picture twice": (ATTR, ("000004.jpg", "000003.jpg"), "line 6: 000003.jpg is listed twice"),
    "another part": (EVAL, ("000003.jpg 0", "000003.jpg 5"), "line 3: '000003.jpg 5'; expected a file name and 0"),
    "a picture without a part": (EVAL, ("000003.jpg 0\n", ""), "1 images are not listed, such as 000003.jpg"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_lists_of_celeba_that_are_wrong(case, tmp_path):
    name, change, expected = BAD_LISTS[case]
    celeba(tmp_path, 12, parts="000000011122")
    written(tmp_path / name, change)
    message = refused(tmp_path)
    assert expected in message and name in message


def test_a_value_of_celeba_that_is_not_understood(tmp_path):
    celeba(tmp_path, 12)
    text = (tmp_path / ATTR).read_text().splitlines()
    text[6] = "000005.jpg -1 maybe 1"
    (tmp_path / ATTR).write_text("\n".join(text))
    assert "line 7: Smiling is 'maybe'" in refused(tmp_path)


def test_celeba_without_pictures_or_with_others(tmp_path):
    celeba(tmp_path, 3)
    for path in (tmp_path / "img_align_celeba").iterdir():
        path.unlink()
    assert "no images; put the CelebA images into" in refused(tmp_path)
    save(tmp_path / "img_align_celeba" / "x.png", noise(9, 9, 3))
    assert "none of the 1 images is listed in list_attr_celeba.txt" in refused(tmp_path)


def test_an_empty_list_of_celeba(tmp_path):
    for name in (ATTR, "list_attr_celeba.csv"):
        (tmp_path / name).write_text("")
        assert "expected the number of images" in refused(tmp_path)
        (tmp_path / name).unlink()


def test_a_damaged_picture_of_celeba(tmp_path):
    celeba(tmp_path, 12, parts="000000011122")
    (tmp_path / "img_align_celeba" / "000012.jpg").write_bytes(b"")
    assert "000012.jpg: an empty file" in refused(tmp_path)
    assert counts(read(tmp_path, skip_bad=True)) == [7, 3, 1]


# TensorFlow Datasets


def builder_of(folder: Path, features: Any, splits: dict[str, list[dict]]) -> SimpleNamespace:
    """Return what stands for a set's builder, and counts how often it is read."""

    def as_dataset(split: str, decoders: dict) -> SimpleNamespace:
        assert set(decoders) == {"image"}
        builder.read.append(split)
        return SimpleNamespace(as_numpy_iterator=lambda: iter(splits[split]))

    info = SimpleNamespace(features=features, splits=splits)
    builder = SimpleNamespace(info=info, data_dir=str(folder), as_dataset=as_dataset, read=[])
    return builder


def examples(folder: Path, count: int, suffix: str, seed: int) -> list[dict]:
    made = []
    for number, row in enumerate(answers(count, 2, seed)):
        path = save(folder / f"{seed}-{number}.{suffix}", noise(218, 178, 3, seed=100 * seed + number))
        made.append({"image": path.read_bytes(), "attributes": {"Male": bool(row[0]), "Smiling": bool(row[1])}})
    return made


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_tfds_is_written_once_as_a_folder_of_celebas_byte_by_byte(suffix, tmp_path, monkeypatch):
    splits = {name: examples(tmp_path, 4, suffix, seed) for seed, name in enumerate(("test", "train", "validation"))}
    features = {"attributes": {"Male": 0, "Smiling": 0}, "image": 0, "identity": 0}
    builder = builder_of(tmp_path / "set", features, splits)
    monkeypatch.setattr(common.data.celeba, "tfds_builder", lambda name, fetch: builder)
    for _ in range(2):
        data = read("tfds:celeb_a", 148)
        assert data.names == ("Male", "Smiling") and counts(data) == [4, 4, 4]
        assert sorted(builder.read) == ["test", "train", "validation"]
        for split, name in zip(data[:3], ("train", "validation", "test"), strict=True):
            assert [Path(item).read_bytes() for item in split.items] == [e["image"] for e in splits[name]]
            expected = [[int(e["attributes"][key]) for key in data.names] for e in splits[name]]
            np.testing.assert_array_equal(split.labels, expected)


def test_a_set_of_tfds_that_has_no_validation_part(tmp_path, monkeypatch):
    splits = {"train": examples(tmp_path, 10, "jpg", 0), "test": examples(tmp_path, 3, "jpg", 1)}
    builder = builder_of(tmp_path / "set", {"attributes": {"Male": 0, "Smiling": 0}, "image": 0}, splits)
    monkeypatch.setattr(common.data.celeba, "tfds_builder", lambda name, fetch: builder)
    data = read("tfds:faces")
    assert counts(data) == [9, 1, 3]
    assert [Path(item).read_bytes() for item in data.test.items] == [face["image"] for face in splits["test"]]


def test_tfds_that_was_stopped_in_the_midst_is_written_anew(tmp_path, monkeypatch):
    train = examples(tmp_path, 10, "jpg", 0)
    stopped = [*train[:3], {"image": train[3]["image"], "attributes": {}}]
    features = {"attributes": {"Male": 0, "Smiling": 0}, "image": 0}
    for made in (stopped, train):
        builder = builder_of(tmp_path / "set", features, {"train": made})
        monkeypatch.setattr(common.data.celeba, "tfds_builder", lambda name, fetch, builder=builder: builder)
        if made is stopped:
            with pytest.raises(KeyError):
                read("tfds:celeb_a")
        else:
            assert counts(read("tfds:celeb_a")) == [7, 1, 2]


@pytest.mark.parametrize(
    ("features", "splits"),
    [({"image": 0, "label": 0}, {"train": []}), ({"attributes": {"Male": 0}}, {"train": []}),
     ({"image": 0, "attributes": 0}, {"train": []}), ({"image": 0, "attributes": {"Male": 0}}, {"all": []})],
)  # fmt: skip
def test_another_set_of_tfds(features, splits, tmp_path, monkeypatch):
    builder = builder_of(tmp_path, features, splits)
    monkeypatch.setattr(common.data.celeba, "tfds_builder", lambda name, fetch: builder)
    with pytest.raises(InputError, match="tfds:flowers: expected an image, attributes and a train split, found"):
        read("tfds:flowers")


def test_celeba_of_tfds_that_is_not_here_may_be_had_by_hand(monkeypatch):
    def fail(name, fetch):
        raise InputError(f"tfds:{name} could not be fetched")

    monkeypatch.setattr(common.data.celeba, "tfds_builder", fail)
    with pytest.raises(InputError, match="tfds:celeb_a could not be fetched; or download list_attr_celeba.txt"):
        read("tfds:celeb_a")


@pytest.mark.slow
def test_the_features_of_celeb_a_itself(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=4):
        real = tfds.builder("celeb_a")
        info = SimpleNamespace(features=real.info.features, splits=["train", "validation", "test"])
        builder = SimpleNamespace(info=info, data_dir=str(tmp_path), as_dataset=real.as_dataset)
        monkeypatch.setattr(common.data.celeba, "tfds_builder", lambda name, fetch: builder)
        data = read("tfds:celeb_a", 64)
    assert len(data.names) == 40 and {"Smiling", "Male", "Eyeglasses"} <= set(data.names)
    assert counts(data) == [4, 4, 4] and data.train.images(np.arange(4)).shape == (4, 64, 64, 3)
    assert set(np.unique(data.train.labels)) == {0, 1}


@pytest.mark.slow
def test_a_set_that_tfds_prepared(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    faces = examples(tmp_path, 10, "jpg", 0)

    class TinyFaces(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            answered = {"Smiling": np.bool_, "Male": np.bool_}
            image = tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg")
            features = tfds.features.FeaturesDict({"image": image, "attributes": answered})
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, face in enumerate(faces):
                yield number, {"image": str(tmp_path / f"0-{number}.jpg"), "attributes": face["attributes"]}

    TinyFaces(data_dir=tmp_path / "sets").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    data = read("tfds:tiny_faces", 148)
    assert counts(data) == [7, 1, 2]
    known = {
        celeba_image(tmp_path / f"0-{n}.jpg", 148, 3).tobytes(): face["attributes"] for n, face in enumerate(faces)
    }
    expected = {content: tuple(int(said[name]) for name in data.names) for content, said in known.items()}
    assert by_content(*data[:3]) == expected


# A folder of one's own


def own(folder: Path, names: list[str], table: str | bytes | None = None, name: str = "faces.csv") -> Path:
    for number, picture in enumerate(names):
        save(folder / picture, noise(10, 12, 3, seed=number))
    if table is not None:
        (folder / name).write_bytes(table.encode() if isinstance(table, str) else table)
    return folder


TEN = [f"{number}.png" for number in range(10)]
PLAIN = "file,smile,glasses\n" + "".join(f"{number}.png,{number % 2},{int(number < 4)}\n" for number in range(10))
KNOWN = {f"{number}.png": (number % 2, int(number < 4)) for number in range(10)}


def test_a_folder_with_a_table(tmp_path):
    data = read(own(tmp_path, TEN, PLAIN))
    assert data.names == ("smile", "glasses") and counts(data) == [7, 1, 2]
    assert by_name(data) == KNOWN
    assert [Path(name).name for name in data.test.items] == ["4.png", "9.png"]
    squares = {noise(10, 12, 3, seed=number)[:, 1:11].tobytes(): KNOWN[f"{number}.png"] for number in range(10)}
    assert by_content(*read(tmp_path, 10)[:3]) == squares


TABLES: dict[str, str | bytes] = {
    "a byte order mark": b'\xef\xbb\xbf"file, or name"' + PLAIN.encode().removeprefix(b"file"),
    "lines of Windows": PLAIN.replace("\n", "\r\n"),
    "lines of old": PLAIN.replace("\n", "\r"),
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "quotes": PLAIN.replace("file", '"file"').replace("3.png", '"3.png"'),
    "spaces": PLAIN.replace(",", " , "),
    "blank lines": "\n" + PLAIN.replace("4.png", "\n,,\n4.png") + "\n\n",
    "no end of line": PLAIN.rstrip("\n"),
    "empty columns": PLAIN.replace("\n", ",,\n"),
    "-1 and 1": PLAIN.replace(",0", ",-1"),
    "yes and no": PLAIN.replace(",0", ",No").replace(",1", ",YES"),
    "true and false": PLAIN.replace(",0", ",FALSE").replace(",1", ",True"),
    "fractions": PLAIN.replace(",0", ",0.0").replace(",1", ",1.0"),
    "fractions from -1": PLAIN.replace(",0", ",-1.0").replace(",1", ",1.0"),
    "./": PLAIN.replace("5.png", "./5.png"),
    "capitals": PLAIN.replace("5.png", "5.PNG"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_say_the_same(case, tmp_path, capsys):
    data = read(own(tmp_path, TEN, TABLES[case], "Faces.CSV" if case == "tabs" else "faces.csv"))
    assert by_name(data) == KNOWN and data.names == ("smile", "glasses")
    assert capsys.readouterr().err.splitlines() == [f"{tmp_path}: 10 images (12x10 px), read as 8x8 px, colour"]


def by_place(data: Attributed, folder: Path) -> dict[str, int]:
    """Return the first answer for each picture, by its path in the folder."""
    named = [pair for split in data[:3] for pair in zip(split.items, split.labels, strict=True)]
    return {Path(name).relative_to(folder).as_posix(): int(row[0]) for name, row in named}


def test_names_with_folders_spaces_accents_and_capitals(tmp_path):
    accented = unicodedata.normalize("NFD", "c/Jürgen.png")  # as a Mac writes it
    pictures = ["a/anna smith.JPG", "b/anna smith.JPG", "IMG 01.JPEG", accented, "d.png"]
    table = "picture,hat\na/anna smith.JPG,1\nb\\anna smith.JPG,0\nimg 01.jpeg,1\nJürgen.png,0\nd.png,\n"
    data = read(own(tmp_path, pictures, table))
    assert by_place(data, tmp_path) == dict(zip(pictures, (1, 0, 1, 0, UNKNOWN), strict=True))


def test_a_name_in_two_folders(tmp_path):
    own(tmp_path, ["a/1.png", "b/1.png", "c/2.png"], "file,hat\n2.png,1\n1.png,0\n")
    assert "faces.csv, line 3: '1.png' matches a/1.png and b/1.png; add the folder" in refused(tmp_path)
    own(tmp_path, ["1.png"])  # one directly in the folder is meant
    expected = {"a/1.png": UNKNOWN, "b/1.png": UNKNOWN, "c/2.png": 1, "1.png": 0}
    assert by_place(read(tmp_path), tmp_path) == expected


def test_pictures_that_no_row_names(tmp_path, capsys):
    own(tmp_path, TEN, "\n".join(PLAIN.splitlines()[:8]))
    assert by_name(read(tmp_path)) == KNOWN | dict.fromkeys(TEN[7:], (UNKNOWN, UNKNOWN))
    assert "3 of 10 images, such as 7.png, are not listed; their attributes are unknown" in (capsys.readouterr().err)


def test_rows_of_pictures_that_are_not_here(tmp_path, capsys):
    own(tmp_path, TEN[:8], PLAIN)
    (tmp_path / "8.png").write_bytes(b"")
    message = refused(tmp_path)
    assert (
        f"faces.csv, line 11: there is no image '9.png' in {tmp_path} or its sub-folders (one of 1 such lines)"
        in message
    )
    (tmp_path / "8.png").unlink()
    assert (
        "line 10" in (message := refused(tmp_path)) and "(one of 2 such lines)" in message and "--skip-bad" in message
    )
    data = read(tmp_path, skip_bad=True)
    assert by_name(data) == {name: KNOWN[name] for name in TEN[:8]}
    said = capsys.readouterr().err
    assert "line 10" in said and "line 11" in said and "ignoring 2 lines" in said
    own(tmp_path, [], "file,smile\nx.png,1\n")
    message = refused(tmp_path, skip_bad=True)  # nothing would be known
    assert "line 2: there is no image 'x.png'" in message and "--skip-bad" not in message


def test_a_picture_that_cannot_be_read(tmp_path):
    own(tmp_path, TEN, PLAIN)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    assert "3.png: damaged" in refused(tmp_path)
    data = read(tmp_path, skip_bad=True)
    assert by_name(data) == {name: row for name, row in KNOWN.items() if name != "3.png"}


BAD_TABLES = {
    "another value": (PLAIN.replace("4.png,0", "4.png,7"), "line 6: smile is '7'; expected 1 or 0"),
    "0 and -1": (PLAIN.replace("2.png,0", "2.png,-1"), 'smile is 0 in line 2 and -1 in line 4, but both mean "no"'),
    "a row twice": (PLAIN + "./4.png,0,0\n", "line 12: './4.png' is also in line 6; delete one line"),
    "a value too many": (PLAIN.replace("4.png,0", "4.png,0,1"), "line 6: 4 values for 3 columns"),
    "a value too few": (PLAIN.replace("4.png,0", "4.png"), "line 6: 2 values for 3 columns"),
    "no header": (PLAIN.partition("\n")[2], "starts with '0.png,0,1'; expected a header line of column names"),
    "another separator": (PLAIN.replace(",", "|"), "separated by commas, semicolons or tabs"),
    "no rows": ("file,smile\n", "no rows below the header line"),
    "nothing": ("", "starts with ''"),
    "a name twice": (PLAIN.replace("glasses", "Smile"), "attributes 'smile' and 'Smile'"),
    "no name": (PLAIN.replace("smile", " "), "attribute 1 has no name"),
    "a quote that does not end": (PLAIN.replace("7.png", '"7.png'), "not a valid .csv row"),
    "another encoding": (PLAIN.replace("smile", "lächeln").encode("cp1252"), "not valid UTF-8"),
    "UTF-16": (PLAIN.encode("utf-16"), "not valid UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_that_are_wrong(case, tmp_path):
    table, expected = BAD_TABLES[case]
    message = refused(own(tmp_path, TEN, table))
    assert expected in message and "faces.csv" in message


def test_pictures_without_a_table_and_with_two(tmp_path):
    data = read(own(tmp_path, ["b/2.png", "b/1.png", "a/c/3.png", "4.png", ".hidden/5.png"]))
    assert data.names == () and counts(data) == [2, 1, 1]
    assert all(split.labels.shape == (len(split.items), 0) for split in data[:3])
    assert set(by_name(data)) == {"1.png", "2.png", "3.png", "4.png"}
    for name in ("a.csv", "b.csv", ".hidden.csv"):
        (tmp_path / name).write_text("file,hat\n1.png,1\n")
    assert "2 .csv files (a.csv, b.csv); keep only the one with the attributes" in refused(tmp_path)


def test_too_few_pictures(tmp_path):
    assert "no images in this folder or its sub-folders" in refused(tmp_path)
    own(tmp_path, TEN[:2])
    assert "0 images for training, 1 for validation and 1 for testing; each split needs at least one" in refused(
        tmp_path
    )
    own(tmp_path, TEN[:3])
    assert counts(read(tmp_path)) == [1, 1, 1]


def test_batches_from_files_keep_answers_and_pictures_together(tmp_path):
    data = read(own(tmp_path, TEN, PLAIN), 10)
    stream = labelled_batches(data, 7, seed=0)
    assert stream.at(0).element_spec[0] == tf.TensorSpec((7, 10, 10, 3), tf.uint8)
    ((images, labels),) = stream.at(0).take(1).as_numpy_iterator()
    pairs = zip([image.tobytes() for image in images], map(tuple, labels.tolist()), strict=True)
    assert dict(pairs) == by_content(data.train) and len(by_content(data.train)) == 7


def test_attributes_in_which_no_two_training_faces_differ_are_left_out(tmp_path, capsys):
    images = np.zeros((6, 16, 16, 3), np.uint8)
    labels = np.array([[1, 1, 0, 255], [0, 1, 0, 255], [1, 255, 0, 255]] * 2, np.uint8)
    parts = [Split(images, labels), Split(images[:1], labels[:1]), Split(images[:2], labels[:2])]
    faces = Attributed(*parts, ("smile", "all", "none", "unknown")).with_differing_attributes()
    assert faces.names == ("smile",) and faces.train.labels.shape == (6, 1) and faces.test.labels.tolist() == [[1], [0]]
    assert "all, none, unknown" in capsys.readouterr().err
    assert faces.with_differing_attributes().names == faces.names and not capsys.readouterr().err


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_a_pipe_or_a_folder_in_place_of_a_table_is_named_and_not_waited_for(make, tmp_path):
    for number in range(4):
        Image.fromarray(noise(8, 8, 3)).save(tmp_path / f"{number}.png")
    make(tmp_path / "faces.csv")
    with pytest.raises(InputError, match="faces.csv: is a folder, a device or a pipe; expected a readable file"):
        attributed_images(str(tmp_path), 8, 3, no_sample)


def test_the_images_with_the_best_copies_have_different_labels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 16, 16, 3), np.uint8)
    noise = rng.normal(size=images.shape) * np.arange(12)[::-1, None, None, None]  # the last copies are the best
    copies = np.clip(images + noise, 0, 255).astype(np.uint8)
    labels = np.array([[index % 2, 0, index // 6] for index in range(12)], np.uint8)
    faces = attributed_images("sample", 16, 3, lambda: (images, labels))
    assert faces.well_copied(images, labels, copies).tolist() == [11, 10, 5, 4]
    assert faces.well_copied(images, labels, copies, 2).tolist() == [11, 10]
