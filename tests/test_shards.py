"""Shards: the same examples and batches as from the folder; damage is found; what is stopped leaves nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks import shards as benchmark
from common.data import shard_writing
from common.data.attributes import attributed_images
from common.data.batches import batches, jittered, undistorted
from common.data.datasets import image_pairs, images_of
from common.data.domains import unpaired_images
from common.data.labelled import labelled_batches, labelled_images
from common.data.shard_writing import fitting_layout, write_shards
from common.data.shards import check_shards, open_shards
from common.system.files import InputError
from recipes import pix2pix
from recipes.__main__ import main
from tests.pictures import noise

COUNTS = {
    "images": {"": 13, "more": 7},
    "classes": {"cat": 9, "dog": 8, "eel": 6},
    "split classes": {"train/cat": 9, "train/dog": 8, "test/cat": 3, "test/dog": 2},
    "pairs": {"A": 12, "B": 12},
    "split pairs": {"train/label": 7, "train/photo": 7, "val/label": 3, "val/photo": 3},
    "wide": {"": 11},
    "domains": {"trainA": 9, "trainB": 6, "testA": 2, "testB": 3},
    "domains without a test": {"summer": 9, "winter": 6},
}


def pictures(root: Path, counts: dict[str, int], shape: tuple[int, ...] = (14, 12, 3), suffix: str = ".png") -> Path:
    """Write different pictures into the folders of `counts`, as many as it says."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(noise(count, *shape, seed=number)):
            Image.fromarray(image).save(root / name / f"{index:03d}{suffix}")
    return root


def folder_of(layout: str, root: Path, **options) -> Path:
    return pictures(root, COUNTS[layout], **{"shape": (10, 20, 3) if layout == "wide" else (14, 12, 3)} | options)


def no_sample():
    raise AssertionError("asked for the sample")


def read(layout: str, data: Path, size: int = 10, channels: int = 3):
    """Return all that a recipe gets of a folder or of its shards, in order: arrays."""
    if "pairs" in layout or layout == "wide":
        return everything(image_pairs(str(data), size, no_sample))
    if "domains" in layout:
        domains = unpaired_images(str(data), size, no_sample)
        return [*everything(domains.a), *everything(domains.b)]
    if layout == "images":
        return everything(images_of(str(data), size, channels, no_sample))
    parts = labelled_images(str(data), size, channels, no_sample)
    arrays = [array for part in parts[:3] for array in part.loaded(10**6)]
    return [*arrays, np.array(parts.classes)]


def everything(examples) -> list[np.ndarray]:
    both = [examples._replace(test=items).held_out(10**6) for items in (examples.train, examples.test)]
    return [images for part in both for images in part]


def equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def first_steps(data, begin: int, steps: int) -> list[np.ndarray]:
    return [part for batch in data.at(begin).take(steps).as_numpy_iterator() for part in batch]


# What is read


@pytest.mark.parametrize("layout", COUNTS)
def test_shards_hold_what_the_folder_holds_in_the_same_order_and_parts(layout, tmp_path):
    folder = folder_of(layout, tmp_path / "folder")
    given = {"domains": "domains", "domains without a test": "domains"}.get(layout, "")
    shards = write_shards(folder, tmp_path / "shards", given, megabytes=0.003)
    assert len(list(shards.glob("images-*.tfrecord"))) > 2
    assert check_shards(shards).about["examples"] == len(check_shards(shards).places)
    equal(read(layout, shards), read(layout, folder))


@pytest.mark.parametrize("layout", ["images", "classes", "split pairs", "wide", "domains"])
def test_pictures_written_at_a_size_are_read_at_it_as_from_the_folder(layout, tmp_path):
    folder = folder_of(layout, tmp_path / "folder")
    shards = write_shards(folder, tmp_path / "shards", "domains" if layout == "domains" else "", size=10)
    equal(read(layout, shards), read(layout, folder))  # PNG by TensorFlow, or by Pillow where there are classes
    assert read(layout, shards, size=16)[0].shape[1:3] == (16, 16)


def test_files_are_kept_byte_by_byte_and_other_programs_read_the_records(tmp_path):
    folder = pictures(tmp_path / "folder", COUNTS["classes"], suffix=".jpg")
    shards = open_shards(write_shards(folder, tmp_path / "shards"))
    kinds = {"image": tf.io.FixedLenFeature([], tf.string), "name": tf.io.FixedLenFeature([], tf.string)}
    kinds |= {"label": tf.io.FixedLenFeature([], tf.int64), "part": tf.io.FixedLenFeature([], tf.string)}
    records = list(tf.data.TFRecordDataset([str(tmp_path / "shards" / "images-00000.tfrecord")]))
    assert len(records) == 23
    for place, label, record in zip(shards.places[:, 0], shards.labels, records, strict=True):
        found = tf.io.parse_single_example(record, kinds)
        path = folder / found["name"].numpy().decode()
        assert found["image"].numpy() == path.read_bytes() == shards.image(place).read_bytes()
        assert shards.about["classes"][label] == shards.about["classes"][found["label"].numpy()] == path.parent.name


def test_a_pair_of_two_equal_files_is_no_pair_side_by_side(tmp_path):
    pictures(tmp_path / "folder", {"A": 3})
    shutil.copytree(tmp_path / "folder" / "A", tmp_path / "folder" / "B")
    folder, shards = tmp_path / "folder", write_shards(tmp_path / "folder", tmp_path / "shards")
    equal(read("pairs", shards), read("pairs", folder))


@pytest.mark.parametrize("size", [0, 10])
def test_maps_of_class_numbers(size, tmp_path):
    folder = pictures(tmp_path / "folder", {"label": 0, "photo": 6})
    for index, labels in enumerate(noise(6, 14, 12) % 5):
        Image.fromarray(labels).save(folder / "label" / f"{index:03d}.png")
    shards = write_shards(folder, tmp_path / "shards", classes=5, size=size)
    for swap in (False, True):
        found, expected = (image_pairs(str(data), 10, no_sample, classes=5, swap=swap) for data in (shards, folder))
        assert found.label_maps == expected.label_maps
        equal(everything(found), everything(expected))
    with pytest.raises(
        InputError, match="^.*shards: these shards were written with --classes 5, not 0; write them again$"
    ):
        image_pairs(str(shards), 10, no_sample)


@pytest.mark.parametrize("table", [True, False])
def test_faces_with_attributes_and_without(table, tmp_path):
    folder = pictures(tmp_path / "folder", {"": 20})
    rows = [f"{index:03d}.png,{index % 2},{index % 3 // 2}" for index in range(20)]
    if table:
        (folder / "answers.csv").write_text("\n".join(["file,smile,hat", *rows]))
    shards = write_shards(folder, tmp_path / "shards")
    found, expected = (attributed_images(str(data), 10, 3, no_sample) for data in (shards, folder))
    assert found.names == expected.names == (("smile", "hat") if table else ())
    for one, other in zip(found[:3], expected[:3], strict=True):
        equal(list(one.loaded(100)), list(other.loaded(100)))


@pytest.mark.parametrize("size", [0, 16])
def test_of_celeba_the_same_part_is_taken_and_its_own_split(size, tmp_path):
    folder = pictures(tmp_path / "folder", {"img_align_celeba": 6}, (218, 178, 3))
    answers = [f"{index:03d}.png {(-1) ** index}" for index in range(6)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(["6", "Smiling", *answers]))
    parts = [f"{index:03d}.png {index // 2}" for index in range(6)]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts))
    shards = write_shards(folder, tmp_path / "shards", size=size)
    found, expected = (attributed_images(str(data), 16, 3, no_sample) for data in (shards, folder))
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert len(one.labels) == 2
        equal(list(one.loaded(100)), list(other.loaded(100)))


def test_pictures_without_classes_are_learnt_from_where_none_are_needed(tmp_path):
    folder = folder_of("images", tmp_path / "folder")
    shards = write_shards(folder, tmp_path / "shards")
    found, expected = (labelled_images(str(data), 10, 1, no_sample, require_classes=False) for data in (shards, folder))
    equal(list(found.train.loaded(100)), list(expected.train.loaded(100)))
    with pytest.raises(InputError, match="has the layout images, expected classes; .* with --layout$"):
        labelled_images(str(shards), 10, 1, no_sample)


# Batches


@pytest.mark.parametrize("size", [0, 10])
def test_batches_are_those_of_the_folder_and_begin_at_any_step(size, tmp_path):
    folder = folder_of("images", tmp_path / "folder")
    shards = write_shards(folder, tmp_path / "shards", size=size, megabytes=0.003)
    streams = []
    for data in (shards, folder):
        examples = images_of(str(data), 10, 3, no_sample)
        streams.append(batches(examples.train, 4, 3, undistorted(examples)))
    whole = first_steps(streams[0], 0, 9)
    equal(whole, first_steps(streams[1], 0, 9))
    equal(first_steps(streams[0], 5, 4), whole[5:])


@pytest.mark.parametrize("layout", ["pairs", "classes"])
def test_jittered_pairs_and_labelled_batches_are_those_of_the_folder(layout, tmp_path):
    folder = folder_of(layout, tmp_path / "folder")
    found = []
    for data in (write_shards(folder, tmp_path / "shards"), folder):
        if layout == "pairs":
            examples = image_pairs(str(data), 10, no_sample)
            found.append(batches(examples.train, 3, 0, jittered(examples, 10, 1.3)))
        else:
            found.append(labelled_batches(labelled_images(str(data), 10, 3, no_sample), 4, 0, mirror=True))
    equal(first_steps(found[0], 2, 3), first_steps(found[1], 2, 3))


def test_an_epoch_holds_every_picture_once_whichever_its_shard(tmp_path):
    folder = folder_of("images", tmp_path / "folder")
    examples = images_of(str(write_shards(folder, tmp_path / "shards", megabytes=0.002)), 10, 3, no_sample)
    assert len(np.unique(examples.train[:, 0])) > 3
    epoch = np.concatenate(first_steps(batches(examples.train, 3, 1, undistorted(examples)), 6, 6))
    train, test = everything(examples)
    digests = [[image.tobytes() for image in images] for images in (epoch, train, test)]
    assert sorted(digests[0]) == sorted(digests[1]) and len(set(digests[0])) == 18
    assert not set(digests[0]) & set(digests[2])


# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def drop_a_record(path: Path) -> None:
    """Make the second record part of the first, without a change of size or of the index's checksum."""
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[:8], "little")
    second = int.from_bytes(content[first + 16 : first + 24], "little")
    content[:8] = (first + second + 16).to_bytes(8, "little")
    path.write_bytes(bytes(content))
    index = json.loads((path.parent / "index.json").read_text())
    index["shards"][1]["sha256"] = hashlib.sha256(content).hexdigest()
    (path.parent / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("images-00001.tfrecord", cut, "images-00001.tfrecord: has [0-9]+ bytes, expected [0-9]+; restore"),
        ("images-00001.tfrecord", Path.unlink, "images-00001.tfrecord: missing; restore"),
        ("images-00001.tfrecord", flip, "images-00001.tfrecord: its SHA-256 differs from the index; restore"),
        ("images-00001.tfrecord", drop_a_record, "images-00001.tfrecord: [0-9]+ complete records, expected [0-9]+; "),
        ("places.npz", Path.unlink, "places.npz: missing or damaged; restore"),
        ("index.json", cut, "index.json: damaged; restore"),
        ("index.json", lambda path: path.write_text('{"format": "picture shards, version 1"}'), "index.json: damaged"),
        ("index.json", lambda path: path.write_text('{"format": "picture shards, version 9"}'), "9', expected 'pic"),
        ("index.json", Path.unlink, "no shards here"),
    ],
)
def test_damage_is_a_line_that_names_the_file(file, damage, said, tmp_path, capsys):
    shards = write_shards(folder_of("images", tmp_path / "folder"), tmp_path / "shards", megabytes=0.003)
    assert main(["shards", str(shards), "--check"]) == 0
    damage(shards / file)
    capsys.readouterr()
    assert main(["shards", str(shards), "--check"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {shards}") and error.count("\n") == 1
    with pytest.raises(InputError, match=said):
        check_shards(shards)


def test_shards_that_have_been_cut_short_are_refused_before_training(tmp_path):
    shards = write_shards(folder_of("images", tmp_path / "folder"), tmp_path / "shards")
    cut(shards / "images-00000.tfrecord")
    with pytest.raises(InputError, match="images-00000.tfrecord: has [0-9]+ bytes, expected [0-9]+; restore this"):
        images_of(str(shards), 10, 3, no_sample)


@pytest.mark.parametrize("size", [0, 10])
@pytest.mark.parametrize(("damage", "said"), [(halve, "truncated"), (Path.unlink, "No such file or directory")])
def test_a_shard_that_is_lost_while_it_is_read_is_named(size, damage, said, tmp_path):
    shards = write_shards(folder_of("images", tmp_path / "folder"), tmp_path / "shards", size=size)
    examples = images_of(str(shards), 10, 3, no_sample)
    damage(shards / "images-00000.tfrecord")
    with pytest.raises(InputError, match=f"images-00000.tfrecord, byte [0-9]+: {said}; restore"):
        examples.decode(tf.constant(examples.test[-1]))


def test_a_picture_in_a_shard_that_is_damaged_or_of_another_size_is_named(tmp_path):
    shards = write_shards(folder_of("images", tmp_path / "folder"), tmp_path / "shards", size=10)
    path = shards / "images-00000.tfrecord"
    content, examples = path.read_bytes(), images_of(str(shards), 10, 3, no_sample)
    _, start, length = examples.test[-1]
    place = tf.constant(examples.test[-1])
    assert examples.decode(place).shape == (10, 10, 3)
    for there, byte in ((0, 0), (19, 255), (24, 16), (length // 2, content[start + length // 2] ^ 1), (length - 1, 0)):
        damaged = bytearray(content)
        damaged[start + there] = byte
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"tfrecord, byte {start}: not a PNG of 10x10 px; restore this shard"):
            examples.decode(place)


def test_a_folder_of_pictures_beside_an_index_of_something_else_is_no_shards(tmp_path):
    folder = folder_of("images", tmp_path)
    for text in ('{"format": "other"}', "[1]", "no JSON"):
        (folder / "index.json").write_text(text)
        assert open_shards(folder) is None
        assert len(images_of(str(folder), 10, 3, no_sample).train) == 18


# Writing


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_what_is_stopped_leaves_nothing_and_the_next_try_is_whole(error, tmp_path, monkeypatch, capsys):
    folder = folder_of("images", tmp_path / "folder")
    before, real = sorted(tmp_path.iterdir()), shard_writing._record
    (tmp_path / ".shards.draft").mkdir()  # as a kill leaves it
    (tmp_path / ".shards.draft" / "images-00007.tfrecord").write_bytes(b"half")

    def stop(*arguments):
        if arguments[2] == 9:
            raise error
        return real(*arguments)

    monkeypatch.setattr(shard_writing, "_record", stop)
    command = ["shards", str(folder), str(tmp_path / "shards"), "--megabytes", "0.003"]
    assert main(command) == (130 if error is KeyboardInterrupt else 2)
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.undo()
    assert main(command) == 0
    assert not list((tmp_path / "shards").glob("*-00007*"))
    equal(read("images", tmp_path / "shards"), read("images", folder))


def test_shards_that_do_not_fit_on_the_disk_leave_it_empty(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        folder = pictures(tmp_path / "folder", {"": 40}, (40, 40, 3))
        with pytest.raises(OSError, match="no space left on the disk"):
            write_shards(folder, disk / "shards", megabytes=0.02)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_same_folder_gives_the_same_files(tmp_path):
    folder = folder_of("classes", tmp_path / "folder")
    one, other = (write_shards(folder, tmp_path / name) for name in ("one", "other"))
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_bad_pictures_are_named_or_left_out(tmp_path, capsys):
    folder = folder_of("classes", tmp_path / "folder")
    (folder / "dog" / "003.png").write_bytes(b"no picture")
    command = ["shards", str(folder), str(tmp_path / "shards")]
    assert main(command) == 2
    assert "dog/003.png" in capsys.readouterr().err and not (tmp_path / "shards").exists()
    assert main([*command, "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert "dog/003.png" in said.err and said.out == f"classes: 22 all; 1 shards\n{tmp_path / 'shards'}\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layout", "circles"], "'circles' is not a layout; choose from pairs"),
        (["--layout", "pairs"], "no image pairs here"),
        (["--size", "3"], "--size must be from 8 to 4096"),
        (["--megabytes", "0"], "megabytes must be 0.001 or more"),
        (["--classes", "4"], "--classes 4 requires pairs"),
        (["--check"], "give a folder and a destination, or"),
    ],
)
def test_wrong_flags_are_a_line(flags, said, tmp_path, capsys):
    folder = folder_of("images", tmp_path / "folder")
    assert main(["shards", str(folder), str(tmp_path / "shards"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "shards").exists()


def test_wrong_places(tmp_path):
    folder = folder_of("images", tmp_path / "folder")
    shards = write_shards(folder, tmp_path / "shards")
    for given, destination, said in (
        (tmp_path / "none", tmp_path / "new", "no such folder; give"),
        (folder, shards, "already exists; choose another destination"),
        (shards, tmp_path / "new", "already contains shards"),
    ):
        with pytest.raises(InputError, match=said):
            write_shards(given, destination)


def test_the_layout_is_found_by_what_lies_there(tmp_path):
    for layout, expected in (
        ("images", "images"),
        ("classes", "classes"),
        ("split pairs", "pairs"),
        ("wide", "pairs"),
    ):
        assert fitting_layout(folder_of(layout, tmp_path / layout)) == expected


@pytest.mark.slow
def test_a_recipe_trains_from_shards(tmp_path):
    folder = pictures(tmp_path / "folder", {"A": 20, "B": 20}, (32, 32, 3))
    shards = write_shards(folder, tmp_path / "shards")
    config = pix2pix.Config(size=32, base_filters=2, batch_size=6, epochs=1)
    picture = pix2pix.run(str(shards), config, tmp_path / "run")
    assert picture.is_file()
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["data"] == str(shards)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    inputs, targets = image_pairs(str(folder), 32, no_sample).held_out()
    generator = keras.models.load_model(tmp_path / "run" / "generator.keras")
    mean = image_pairs(str(folder), 32, no_sample).mean_of_train()[1]
    expected = pix2pix.evaluate(targets, pix2pix.translate_batch(generator, inputs), mean_image=mean, unchanged=inputs)
    assert results == pytest.approx(expected)


# The benchmark


class AtOnce:
    """A worker that works when it is made, in this process."""

    def __init__(self, threads, work, *arguments):
        self.facts = work(self, *arguments)

    def next(self):
        pass

    def turn(self):
        return 0.5, 0.5

    def finish(self):
        return self.facts


@pytest.mark.slow
def test_a_short_run_of_the_benchmark(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "Worker", AtOnce)
    benchmark.measure(rounds=1, quick=True, output_dir=tmp_path)
    results = json.loads((tmp_path / "shards.json").read_text())
    assert len(results["rates"]) == 4 and all(rate > 0 for rates in results["rates"].values() for rate in rates)
    assert results["steps"] == {"quick": 8 / 0.5}
    assert results["written"]["index_bytes"] == 300 * 24
    assert list(results["epoch"]["held_mb"])[1:] == ["shards opened", *(f"{n * 100} images" for n in (1, 2))]
    assert "| DCGAN training step, quick | 16 |" in capsys.readouterr().out


def test_tensorflow_in_order_reads_what_the_stream_reads(tmp_path):
    benchmark.write_crops(tmp_path / "crops", 12, 5)
    shards = write_shards(tmp_path / "crops", tmp_path / "shards")
    ordered = next(iter(benchmark.in_order(shards, 12))).numpy()
    np.testing.assert_array_equal(ordered[:5], ordered[5:10])
    train, test = everything(images_of(str(shards), 64, 3, no_sample))
    np.testing.assert_array_equal(ordered, np.insert(train, 9, test, axis=0))


def test_shards_of_an_earlier_version_are_read(tmp_path):
    """They called the images pictures, in the index and in the names of files."""
    folder = folder_of("images", tmp_path / "folder")
    shards = write_shards(folder, tmp_path / "shards", "pictures")
    index = json.loads((shards / "index.json").read_text())
    assert index["layout"] == "images"
    for shard in index["shards"]:
        old = shard["name"].replace("images", "pictures")
        (shards / shard["name"]).rename(shards / old)
        shard["name"] = old
    (shards / "index.json").write_text(json.dumps(index | {"layout": "pictures"}))
    check_shards(shards)
    equal(read("images", shards), read("images", folder))
