from __future__ import annotations

import gzip
import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.data.batches import Examples, as_they_are, batches, jittered, undistorted
from common.data.datasets import image_pairs, images_of
from common.data.labelled import labelled_images
from common.data.synthetic import SETS
from common.images.pixels import LABEL_COLOURS
from common.images.writing import write_image
from common.system.files import InputError
from tests.pictures import noise


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def sample() -> tuple[np.ndarray, np.ndarray]:
    return noise(20, 16, 16, 3), noise(20, 16, 16, 3, seed=1)


def taken(stream, count: int) -> list[np.ndarray]:
    return [batch[0] for batch in stream.take(count).as_numpy_iterator()]


def test_built_in_pairs_have_names_and_only_streets_are_label_maps(monkeypatch):
    for name in ("sketches", "streets"):
        monkeypatch.setitem(SETS, name, lambda size, seed, name=name: (noise(20, size, size, 3, seed=len(name)),) * 2)
    for data, sample, is_map in (("sample", "sketches", False), ("streets", "sketches", True)):
        for swap in (False, True):
            examples = image_pairs(data, 16, sample, swap=swap)
            assert examples.label_maps == ((is_map and not swap), (is_map and swap))
            name = sample if data == "sample" else data
            np.testing.assert_array_equal(examples.held_out()[0], noise(20, 16, 16, 3, seed=len(name))[9::10])


# Batches


def test_an_epoch_holds_every_item_once_and_the_next_one_in_another_order():
    data = batches(np.arange(12), 4, seed=0)
    assert data.steps_per_epoch == 3
    first, second = (np.concatenate(taken(data.at(step), 3)) for step in (0, 3))
    assert sorted(first) == sorted(second) == list(range(12))
    assert list(first) != list(second)


def test_a_stream_from_the_middle_is_the_rest_of_the_stream_from_the_start():
    def load(item, seed):
        return (tf.cast(item, tf.float32) + tf.random.stateless_uniform([], seed),)

    data = batches(np.arange(10), 3, seed=4, load=load)
    whole = taken(data.at(0), 9)
    np.testing.assert_array_equal(taken(data.at(5), 4), whole[5:])


def test_a_batch_is_augmented_by_a_seed_of_its_step_alone():
    def augment(items, seed):
        return (tf.cast(items, tf.float32) + tf.random.stateless_uniform(tf.shape(items), seed),)

    data = batches(np.arange(10), 3, seed=4, augment=augment)
    whole = taken(data.at(0), 9)
    np.testing.assert_array_equal(taken(data.at(5), 4), whole[5:])
    drawn = np.concatenate([batch % 1 for batch in whole])
    assert len(set(drawn)) == len(drawn)
    plain = taken(batches(np.arange(10), 3, seed=4).at(0), 9)
    np.testing.assert_array_equal([np.floor(batch) for batch in whole], plain)


def test_augmentation_is_drawn_afresh_every_epoch_and_differs_between_items():
    def load(item, seed):
        return (tf.random.stateless_uniform([], seed),)

    data = batches(np.arange(8), 2, seed=1, load=load)
    drawn = np.concatenate(taken(data.at(0), 12))
    assert len(set(drawn)) == 24
    np.testing.assert_array_equal(drawn, np.concatenate(taken(data.at(0), 12)))
    assert not set(drawn) & set(np.concatenate(taken(batches(np.arange(8), 2, seed=2, load=load).at(0), 12)))


def test_fewer_items_than_a_batch():
    with pytest.raises(InputError, match="3 items are fewer than one batch of 4"):
        batches(np.arange(3), 4, seed=0)


def test_jitter_moves_both_images_of_a_pair_alike():
    image = noise(1, 32, 32, 3)
    examples = Examples((image, image), (image, image), as_they_are, label_maps=(False, False))
    load = jittered(examples, 32, 1.2)
    results = [load((image[0], image[0]), tf.constant([7, number])) for number in range(12)]
    for first, second in results:
        assert first.dtype == tf.uint8 and first.shape == (32, 32, 3)
        np.testing.assert_array_equal(first, second)
    assert len({first.numpy().tobytes() for first, _ in results}) >= 8


def test_jitter_is_an_enlargement_a_crop_and_in_half_of_cases_a_mirroring():
    image = noise(32, 32, 3)
    examples = Examples(image[None], image[None], as_they_are)
    large = tf.image.resize(image, (38, 38)).numpy().round().astype(np.uint8)
    crops = {large[y : y + 32, x : x + 32].tobytes(): False for y in range(7) for x in range(7)}
    crops |= {large[y : y + 32, x : x + 32][:, ::-1].tobytes(): True for y in range(7) for x in range(7)}
    mirrored = [
        crops[jittered(examples, 32, 38 / 32)(image, tf.constant([0, n]))[0].numpy().tobytes()] for n in range(60)
    ]
    assert 15 <= sum(mirrored) <= 45


def test_jitter_keeps_the_colours_of_label_maps():
    labels = LABEL_COLOURS[np.random.default_rng(0).integers(0, 12, (32, 32))]
    examples = Examples(labels[None], labels[None], as_they_are, label_maps=(True, False))
    for number in range(5):
        jittered_labels, mixed = jittered(examples, 32, 1.25)((labels, labels), tf.constant([1, number]))
        allowed = {tuple(colour) for colour in LABEL_COLOURS[:12]}
        assert {tuple(pixel) for pixel in jittered_labels.numpy().reshape(-1, 3)} <= allowed
        assert not {tuple(pixel) for pixel in mixed.numpy().reshape(-1, 3)} <= allowed


def test_no_jitter_is_the_image_or_its_mirror_image():
    image = noise(16, 16, 3)
    examples = Examples(image[None], image[None], as_they_are)
    for number in range(6):
        (result,) = jittered(examples, 16, 1.0)(image, tf.constant([2, number]))
        assert np.array_equal(result, image) or np.array_equal(result, image[:, ::-1])


# Pairs


LAYOUTS = {
    "A and B": ("A", "B"),
    "label and photo": ("label", "photo"),
    "trainA and trainB": ("trainA", "trainB"),
    "train/A and train/B": ("train/A", "train/B"),
    "train/label and train/photo": ("train/label", "train/photo"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffixes", [(".png", ".png"), (".png", ".bmp")])
def test_folders_of_pairs(layout, suffixes, tmp_path):
    originals = noise(10, 2, 16, 16, 3)
    for number, pair in enumerate(originals):
        for side, suffix, pixels in zip(LAYOUTS[layout], suffixes, pair, strict=True):
            save(tmp_path / side / f"{number}{suffix}", pixels)
    examples = image_pairs(str(tmp_path), 16, sample=sample)
    assert len(examples.train) == 9 and len(examples.test) == 1
    first, second = examples.held_out()
    np.testing.assert_array_equal(first[0], originals[9, 0])
    np.testing.assert_array_equal(second[0], originals[9, 1])
    swapped = image_pairs(str(tmp_path), 16, sample=sample, swap=True).held_out()
    np.testing.assert_array_equal(swapped[0], second)


def test_side_by_side_pairs_and_a_test_folder(tmp_path):
    pictures = noise(5, 16, 32, 3)
    for number, pixels in enumerate(pictures):
        save(tmp_path / ("test" if number == 4 else "train") / f"{number}.png", pixels)
    examples = image_pairs(str(tmp_path), 16, sample=sample)
    assert len(examples.train) == 4
    left, right = examples.held_out()
    np.testing.assert_array_equal(left[0], pictures[4][:, :16])
    np.testing.assert_array_equal(right[0], pictures[4][:, 16:])


def test_a_picture_that_is_no_pair_among_pairs_side_by_side(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", noise(16, 16 if number == 2 else 32, 3))
    with pytest.raises(InputError, match=r"2\.png: 16x16 px; an image that contains a pair .* must be wider than high"):
        image_pairs(str(tmp_path), 16, sample=sample)
    assert len(image_pairs(str(tmp_path), 16, sample=sample, skip_bad=True).train) == 2


def test_two_files_of_one_name_on_one_side(tmp_path):
    for name in ("A/0.png", "B/0.png", "B/0.bmp"):
        save(tmp_path / name, noise(16, 16, 3))
    with pytest.raises(InputError, match="differ only in their suffix"):
        image_pairs(str(tmp_path), 16, sample=sample)


def test_skip_bad_when_the_first_picture_is_the_bad_one(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", noise(16, 32, 3))
    (tmp_path / "0.png").write_bytes(b"")
    assert len(image_pairs(str(tmp_path), 16, sample=sample, skip_bad=True).train) == 2


def test_the_mean_of_training_images():
    columns = sample()
    mean, _ = image_pairs("sample", 16, sample=lambda: columns).mean_of_train()
    expected = np.delete(columns[0], [9, 19], axis=0).mean(0)
    assert np.abs(mean - expected).max() <= 0.5


def test_testA_and_testB_and_val_are_held_out(tmp_path):
    for split in ("train", "test"):
        for side in "AB":
            save(tmp_path / f"{split}{side}" / f"{split}.png", noise(8, 8, 3))
    assert len(image_pairs(str(tmp_path), 16, sample=sample).train) == 1
    for split in ("train", "val"):
        for side in "AB":
            save(tmp_path / "other" / split / side / f"{split}.png", noise(8, 8, 3))
    examples = image_pairs(str(tmp_path / "other"), 16, sample=sample)
    assert "val" in examples.test[0][0]


def test_maps_of_class_numbers_are_coloured_and_never_mixed(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (2, 24, 24)).astype(np.uint8)
    for number, pixels in enumerate(labels):
        save(tmp_path / "label" / f"{number}.png", pixels)
        save(tmp_path / "photo" / f"{number}.png", noise(24, 24, 3))
    coloured, _ = image_pairs(str(tmp_path), 24, sample=sample, classes=5).held_out()
    np.testing.assert_array_equal(coloured[0], LABEL_COLOURS[labels[1]])
    smaller, _ = image_pairs(str(tmp_path), 16, sample=sample, classes=5).held_out()
    assert {tuple(pixel) for pixel in smaller.reshape(-1, 3)} <= {tuple(colour) for colour in LABEL_COLOURS[:5]}
    with pytest.raises(InputError, match="contains label 4"):
        image_pairs(str(tmp_path), 16, sample=sample, classes=4)


def test_one_pair_only(tmp_path):
    for side in "AB":
        save(tmp_path / side / "1.png", noise(16, 16, 3))
    with pytest.raises(InputError, match="at least two"):
        image_pairs(str(tmp_path), 16, sample=sample)


def test_the_sample_holds_out_a_tenth_that_is_not_trained_on():
    examples = image_pairs("sample", 16, sample=sample)
    assert [len(part) for part in (*examples.train, *examples.test)] == [18, 18, 2, 2]
    held_out = {image.tobytes() for image in examples.test[0]}
    assert not held_out & {image.tobytes() for image in examples.train[0]}
    assert examples.label_maps == (True, False)


def test_pairs_are_streamed_from_disk_through_the_jitter(tmp_path):
    for number in range(6):
        for side in "AB":
            save(tmp_path / side / f"{number}.png", noise(20, 30, 3, seed=number))
    examples = image_pairs(str(tmp_path), 16, sample=sample)
    data = batches(examples.train, 2, 0, jittered(examples, 16, 1.1))
    first, second = next(iter(data.at(0)))
    assert first.shape == second.shape == (2, 16, 16, 3) and first.dtype == tf.uint8
    np.testing.assert_array_equal(first, second)  # both sides hold the same picture


# Images


def no_sample() -> np.ndarray:
    raise AssertionError("asked for the sample")


def test_what_lies_in_memory_is_batched_as_it_is():
    images = noise(10, 8, 8, 1)
    examples = images_of("sample", 8, 1, sample=lambda: images)
    batch = next(iter(batches(examples.train, 9, 0, undistorted(examples)).at(0)))
    assert len(batch) == 1
    assert {image.numpy().tobytes() for image in batch[0]} == {image.tobytes() for image in images[:9]}


def test_npz(tmp_path):
    train, test = noise(6, 28, 28), noise(3, 28, 28, seed=1)
    np.savez(tmp_path / "digits.npz", x_train=train, x_test=test)
    examples = images_of(str(tmp_path / "digits.npz"), 28, 1, sample=no_sample)
    np.testing.assert_array_equal(examples.train[..., 0], train)
    np.testing.assert_array_equal(examples.held_out()[0][..., 0], test)
    padded = images_of(str(tmp_path / "digits.npz"), 32, 3, sample=no_sample).train
    np.testing.assert_array_equal(padded[:, 2:-2, 2:-2, 1], train)
    assert padded[:, :2].max() == 0


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"images": np.zeros((2, 28, 28), np.uint8)}, "lacks x_train and x_test; found images"),
        ({"x_train": -np.ones((2, 28, 28), np.float32), "x_test": np.ones((2, 28, 28), np.float32)}, "float32 from -1"),
        (
            {"x_train": np.zeros((2, 784), np.uint8), "x_test": np.zeros((2, 784), np.uint8)},
            r"\(2, 784, 1\)|\(2, 784\)",
        ),
    ],
)
def test_npz_with_other_contents(arrays, expected, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=expected):
        images_of(str(tmp_path / "a.npz"), 28, 1, sample=no_sample)


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        (np.linspace(0, 1, 8, dtype=np.float32), np.linspace(0, 255, 8), "float32 from 0 to 1; they are * 255"),
        (np.linspace(0, 1, 8), np.linspace(0, 255, 8), "float64 from 0 to 1; they are * 255"),
        (np.arange(8) % 2 > 0, np.arange(8) % 2 * 255, "bool from 0 to 1; they are * 255"),
        (np.linspace(0, 255, 8), np.linspace(0, 255, 8), "float64 from 0 to 255; they are rounded"),
        (np.arange(0, 64, 8), np.arange(0, 64, 8), "int64 from 0 to 56; they are rounded"),
        (np.arange(8, dtype=np.uint16) * 257, np.arange(8),
         "uint16 from 0 to 1799; they are divided by 257, so they are almost black"),
        (np.arange(0, 64, 8, dtype=np.uint16) * 257, np.arange(0, 64, 8), 
         "uint16 from 0 to 14392; they are divided by 257"),
        (np.arange(8, dtype=np.uint8), np.arange(8), "uint8 from 0 to 7, so they are almost black; expected 0 to 255"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["npz", "one split", "npy"])
def test_arrays_of_other_types(values, expected, said, kind, tmp_path, capsys):
    images = np.broadcast_to(values[None, :, None], (10, 8, 8))
    if kind == "npy":
        np.save(tmp_path / "a.npy", images)
    else:
        np.savez(tmp_path / "a.npz", x_train=images, **({"x_test": images[:2]} if kind == "npz" else {}))
    data = images_of(str(tmp_path / f"a.{kind[:3] if kind != 'one split' else 'npz'}"), 8, 1, sample=no_sample)
    assert len(data.train) == (10 if kind == "npz" else 8) and len(data.test) == 2
    assert data.train.dtype == np.uint8 and capsys.readouterr().err.endswith(
        f": images are {said.replace('*', 'multiplied by')}\n"
    )
    np.testing.assert_array_equal(data.train[0, :, 0, 0], np.rint(expected))


@pytest.mark.parametrize(
    "images",
    [np.linspace(-1, 1, 640), np.linspace(0, 300, 640), np.full(640, np.nan), np.arange(640) * 999, -np.arange(640)],
)
def test_arrays_whose_range_is_unknown(images, tmp_path):
    np.save(tmp_path / "a.npy", images.reshape(10, 8, 8))
    with pytest.raises(InputError, match=r"a.npy: images are .* from .* to .*; expected uint8 from 0 to 255"):
        images_of(str(tmp_path / "a.npy"), 8, 1, sample=no_sample)


@pytest.mark.parametrize("contents", [b"", b"\x93NUMPY", b"PK", None])
def test_npy_that_is_none(contents, tmp_path):
    if contents is not None:
        (tmp_path / "a.npy").write_bytes(contents)
    with pytest.raises(InputError, match="a.npy: not a readable .npy"):
        images_of(str(tmp_path / "a.npy"), 8, 1, sample=no_sample)


def test_batches_refuse_floats():
    with pytest.raises(InputError, match=r"got float32 \[8, 4, 4, 1\]; if they are from 0 to 1, use np.uint8"):
        batches(np.zeros((8, 4, 4, 1), np.float32), 4, 0)


def test_npz_that_is_cut_short_or_another_file(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=noise(4, 28, 28), x_test=noise(2, 28, 28))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-100])
    with pytest.raises(InputError, match="not a readable .npz"):
        images_of(str(tmp_path / "a.npz"), 28, 1, sample=no_sample)
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, noise(4, 28, 28))
    with pytest.raises(InputError, match="not a readable .npz"):
        images_of(str(tmp_path / "a.npz"), 28, 1, sample=no_sample)


def test_npz_that_is_none(tmp_path):
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(InputError, match="not a readable .npz"):
        images_of(str(tmp_path / "a.npz"), 28, 1, sample=no_sample)
    with pytest.raises(InputError, match="no such file"):
        images_of(str(tmp_path / "b.npz"), 28, 1, sample=no_sample)


def encrypted(path):
    """Mark the entries of an archive as encrypted."""
    content = bytearray(path.read_bytes())
    for start in (b"PK\3\4", b"PK\1\2"):
        place = content.find(start)
        while place >= 0:
            content[place + (6 if start == b"PK\3\4" else 8)] |= 1
            place = content.find(start, place + 4)
    path.write_bytes(content)


def compressed_by_nothing_known(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 10] = 99
    content[content.index(b"PK\3\4") + 8] = 99
    path.write_bytes(content)


def one_array(path):
    with path.open("wb") as file:
        np.save(file, noise(4, 28, 28))


def claims(path):
    """Let a header claim 10^13 values."""
    before, after = b"(4, 28, 28), }", b"(9999999999999,), }"
    assert before.ljust(len(after)) in (content := path.read_bytes())
    path.write_bytes(content.replace(before.ljust(len(after)), after))


def nested(path):
    path.write_bytes(path.read_bytes().replace(b"'shape': (4, 28, 28)", b"'shape': ((((((((((4"))


@pytest.mark.parametrize("damage", [encrypted, compressed_by_nothing_known, one_array, claims, nested, Path.unlink])
@pytest.mark.parametrize("labels", [False, True])
def test_npz_that_are_odd_are_one_line(damage, labels, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x_train=noise(4, 28, 28), x_test=noise(4, 28, 28), y_train=np.arange(4), y_test=np.arange(4))
    damage(path)
    with pytest.raises(InputError) as error:
        (labelled_images if labels else images_of)(str(path), 28, 1, no_sample)
    assert str(error.value).startswith(f"{path}: ") and str(error.value).isprintable()


def test_npz_that_does_not_fit_into_memory(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x_train=noise(4, 28, 28), x_test=noise(4, 28, 28))

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_array", fail)
    with pytest.raises(InputError, match="a.npz: its arrays do not fit into memory; use fewer"):
        images_of(str(tmp_path / "a.npz"), 28, 1, no_sample)


def test_pipes_in_place_of_data_are_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    for read in (images_of, labelled_images):
        with pytest.raises(InputError, match="a.npz: is a folder, a device or a pipe; expected an .npz file"):
            read(str(tmp_path / "a.npz"), 28, 1, no_sample)
    for split in ("train", "t10k"):
        os.mkfifo(tmp_path / f"{split}-images-idx3-ubyte")
    with pytest.raises(InputError, match="train-images-idx3-ubyte: not a complete idx file.*not a regular file"):
        images_of(str(tmp_path), 28, 1, no_sample)


def idx(images: np.ndarray) -> bytes:
    return struct.pack(f">HBB{images.ndim}I", 0, 8, images.ndim, *images.shape) + images.tobytes()


@pytest.mark.parametrize("name", ["{}-images-idx3-ubyte", "emnist-letters-{}-images-idx3-ubyte"])
def test_idx_files(name, tmp_path):
    train, test = noise(4, 28, 28), noise(2, 28, 28, seed=1)
    (tmp_path / (name.format("train") + ".gz")).write_bytes(gzip.compress(idx(train)))
    (tmp_path / name.format("t10k" if "emnist" not in name else "test")).write_bytes(idx(test))
    examples = images_of(str(tmp_path), 28, 1, sample=no_sample)
    expected = train.swapaxes(1, 2) if "emnist" in name else train  # EMNIST lies on its side
    np.testing.assert_array_equal(examples.train[..., 0], expected)
    (tmp_path / name.format("train")).write_bytes(b"")
    with pytest.raises(InputError, match="expected one train"):
        images_of(str(tmp_path), 28, 1, sample=no_sample)


def test_idx_file_that_is_cut_off(tmp_path):
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(noise(4, 28, 28))[:-5])
    with pytest.raises(InputError, match="not a complete idx file"):
        images_of(str(tmp_path), 28, 1, sample=no_sample)


def test_idx_files_that_claim_or_hold_too_much(tmp_path):
    good = idx(noise(4, 28, 28))
    many = struct.pack(">HBBIII", 0, 8, 3, 2**31, 2**31, 2**31)
    damaged = bytearray(gzip.compress(good))
    damaged[len(damaged) // 2] ^= 255
    for content, said in {
        gzip.compress(many): "values, but the file has",
        gzip.compress(good + bytes(10**7)): "expected 3136 values, found more",
        gzip.compress(good)[:-9]: "ended before",
        bytes(damaged): "",
        b"no gzip": "Not a gzipped file",
        gzip.compress(b"\0\0"): "requires a buffer of 4 bytes",
        gzip.compress(struct.pack(">HBB", 0, 8, 200)): "requires a buffer",
    }.items():
        for split in ("train", "t10k"):
            (tmp_path / f"{split}-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(
            InputError, match=f"not a complete idx file of unsigned bytes .*{said}.*; download it again"
        ):
            images_of(str(tmp_path), 28, 1, no_sample)


def test_what_cannot_be_read_any_more_is_named_where_it_is_shown(tmp_path):
    for number in range(4):
        write_image(noise(8, 8, 3), tmp_path / f"{number}.png")
    examples = images_of(str(tmp_path), 8, 3, no_sample)
    (tmp_path / "3.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"3.png: an empty file \(0 bytes\); copy or download it again$"):
        examples.held_out()


def test_folder_of_pictures_with_folders_in_it(tmp_path):
    for number in range(12):
        save(tmp_path / ("cats" if number % 2 else "dogs") / f"{number}.png", noise(20, 30, 3, seed=number))
    examples = images_of(str(tmp_path), 16, 3, sample=no_sample)
    assert len(examples.train) == 11 and len(examples.test) == 1
    assert examples.held_out()[0].shape == (1, 16, 16, 3)
    (batch,) = next(iter(batches(examples.train, 4, 0, undistorted(examples)).at(0)))
    assert batch.shape == (4, 16, 16, 3) and batch.dtype == tf.uint8


def test_words_that_mean_nothing(tmp_path):
    with pytest.raises(InputError, match="or one of sample, mnist"):
        images_of(str(tmp_path / "nowhere"), 16, 3, sample=no_sample)
    with pytest.raises(InputError, match="no images in this folder"):
        images_of(str(tmp_path), 16, 3, sample=no_sample)
    with pytest.raises(InputError, match="1 channels, not 3"):
        images_of("sample", 16, 3, sample=lambda: noise(20, 16, 16, 1))


def test_keras_sets_are_read_from_keras_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    train, test = noise(4, 28, 28), noise(2, 28, 28, seed=1)
    np.savez(tmp_path / "datasets" / "mnist.npz", x_train=train, x_test=test)
    np.testing.assert_array_equal(images_of("mnist", 28, 1, sample=no_sample).train[..., 0], train)
    fashion = tmp_path / "datasets" / "fashion-mnist"
    fashion.mkdir()
    for split, images in (("train", train), ("t10k", test)):
        (fashion / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (fashion / f"{split}-labels-idx1-ubyte.gz").write_bytes(b"")
    np.testing.assert_array_equal(images_of("fashion_mnist", 28, 1, sample=no_sample).train[..., 0], train)


# TensorFlow Datasets: a set of this test's own, prepared on disk as any other


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepare two small sets: street pairs as Cityscapes has them, and letters that lie on their side as EMNIST's."""
    import tensorflow_datasets as tfds

    class TinyStreets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image_left": tfds.features.Image(),
                "segmentation_label": tfds.features.Image(shape=(16, 32, 1)),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(3), "validation": self._generate_examples(1)}

        def _generate_examples(self, count):
            for number in range(count):
                labels = np.full((16, 32, 1), number, np.uint8)
                yield number, {"image_left": noise(16, 32, 3, seed=number), "segmentation_label": labels}

    class EmnistTiny(TinyStreets):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(28, 28, 1))})
            )

        def _generate_examples(self, count):
            for number in range(count):
                yield number, {"image": noise(28, 28, 1, seed=number)}

    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyStreets, EmnistTiny):
        builder(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture
def on_disk(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))


@pytest.mark.slow
def test_tfds_segmentation_sets_become_folders_of_pairs(on_disk):
    for _ in range(2):  # the second time from the folders written the first time
        examples = image_pairs("tfds:tiny_streets", 16, sample=sample)
        assert len(examples.train) == 3 and len(examples.test) == 1
        labels, photo = examples.held_out()
        assert (labels[0] == LABEL_COLOURS[0]).all()
        assert photo.shape == (1, 16, 16, 3)


@pytest.mark.slow
def test_tfds_images(on_disk):
    train = images_of("tfds:emnist_tiny", 28, 1, sample=no_sample).train
    expected = {noise(28, 28, 1, seed=number).swapaxes(0, 1).tobytes() for number in range(3)}
    assert {image.tobytes() for image in train} == expected


def test_tfds_is_not_fetched_unasked():
    with pytest.raises(InputError, match="not on this machine.*--fetch"):
        images_of("tfds:emnist", 28, 1, sample=no_sample)


def test_tfds_without_a_network_says_so_at_once(monkeypatch):
    def fail(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(InputError, match="download failed.*not known.*yourself in"):
        images_of("tfds:emnist", 28, 1, sample=no_sample, fetch=True)
