from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.batches import Batches, Examples, as_they_are
from common.data.domains import (
    DOMAIN_LAYOUTS,
    Domains,
    save_translations,
    unpaired_images,
)
from common.images.reading import read_image
from common.metrics.scores import pair_scores, texture_distance
from common.system.files import InputError
from tests.pictures import noise


def no_sample() -> Domains:
    raise AssertionError("asked for the sample")


read = functools.partial(unpaired_images, sample=no_sample)


def fill(folder: Path, count: int, seed: int = 0, suffix: str = ".png") -> np.ndarray:
    """Write pictures of 16 px, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = noise(count, 16, 16, 3, seed=seed)
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{number:02d}{suffix}")
    return pictures


def decoded(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    return examples._replace(test=examples.train).held_out()[0], examples.held_out()[0]


# %% Folders


@pytest.mark.parametrize(
    ("folders", "names"),
    [(("trainA", "trainB"), "AB"), (("A", "B"), "AB"), (("train/A", "train/B"), "AB"), (("A/train", "B/train"), "AB"),
     (("summer", "winter"), ("summer", "winter")), (("train/zebra", "train/horse"), ("horse", "zebra"))],
)  # fmt: skip
def test_two_folders_of_different_size_of_which_a_tenth_is_held_out(folders, names, tmp_path):
    written = [fill(tmp_path / folder, count, seed=count) for folder, count in zip(folders, (11, 4), strict=True)]
    if names[0] == "horse":
        written.reverse()
    domains = read(str(tmp_path), 16)
    assert domains.names == tuple(names) and not domains.paired
    for examples, pictures in zip((domains.a, domains.b), written, strict=True):
        held_out = [9] if len(pictures) == 11 else [3]
        train, test = decoded(examples)
        np.testing.assert_array_equal(train, np.delete(pictures, held_out, axis=0))
        np.testing.assert_array_equal(test, pictures[held_out])


@pytest.mark.parametrize(
    ("train", "test"),
    [("trainA trainB", "testA testB"), ("trainA trainB", "valA valB"), ("train/A train/B", "test/A test/B"),
     ("A B", "test/A test/B"), ("x y", "val/x val/y"), ("A/train B/train", "A/test B/test")],
)  # fmt: skip
def test_folders_of_test_pictures_are_held_out(train, test, tmp_path):
    learnt = [fill(tmp_path / folder, count, seed=count) for folder, count in zip(train.split(), (3, 1), strict=True)]
    kept = [fill(tmp_path / folder, count, seed=9 + count) for folder, count in zip(test.split(), (2, 1), strict=True)]
    domains = read(str(tmp_path), 16)
    for examples, *pictures in zip((domains.a, domains.b), learnt, kept, strict=True):
        for found, expected in zip(decoded(examples), pictures, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_only_one_domain_has_test_pictures(tmp_path):
    for folder, count in (("trainA", 3), ("trainB", 3), ("testB", 2)):
        fill(tmp_path / folder, count)
    domains = read(str(tmp_path), 16)
    assert [len(part) for part in (*domains.a[:2], *domains.b[:2])] == [2, 1, 3, 2]


def test_the_centre_square_in_the_size_asked_for_whatever_the_suffix(tmp_path):
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 200
    for folder, suffix in (("A", ".bmp"), ("B", ".gif")):
        (tmp_path / folder).mkdir()
        for number in range(2):
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}{suffix}")
    domains = read(str(tmp_path), 8)
    for examples in (domains.a, domains.b):
        assert np.array_equal(examples.held_out()[0], np.full((1, 8, 8, 3), 200))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "found nothing; expected two folders of images"),
        ({"A": 3}, "found A/ with 3 images; expected"),
        ({"trainA": 3, "testA": 2}, "found testA/ with 2 images, trainA/ with 3 images; expected"),
        ({"x": 3, "y": 2, "z": 1}, "found x/ with 3 images, y/ with 2 images, z/ with 1 images; expected"),
        ({"A": 3, "B": 0}, r"B: no images here \(\.png.*expected two folders"),
        ({"trainA": 0, "trainB": 2}, "trainA: no images here"),
        ({"summer": 3, "winter": 0}, "found summer/ with 3 images, winter/ with 0 images"),
        ({"A": 3, "B": 1}, r"B: only one image; a domain needs at least two \(one is held out\)"),
        ({"A": 3, "B": 3, "test/A": 1, "test/B": 0}, "test/B: no images here"),
        ({".": 4}, "found 4 images outside sub-folders; expected"),
    ],
)
def test_a_folder_that_will_not_do(folders, message, tmp_path):
    for folder, count in folders.items():
        fill(tmp_path / folder, count)
    with pytest.raises(InputError, match=message):
        read(str(tmp_path), 16)


def test_a_folder_that_is_not_there_and_one_that_is_both_domains(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder or .npz; expected two folders"):
        read(str(tmp_path / "nowhere"), 16)
    fill(tmp_path / "A", 3)
    (tmp_path / "B").symlink_to(tmp_path / "A")
    with pytest.raises(InputError, match="A and .*B are the same folder"):
        read(str(tmp_path), 16)


def test_a_picture_that_cannot_be_read(tmp_path):
    for folder in "AB":
        fill(tmp_path / folder, 3)
    (tmp_path / "B" / "01.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"B/01\.png.*--skip-bad"):
        read(str(tmp_path), 16)
    assert [len(part) for part in read(str(tmp_path), 16, skip_bad=True).b[:2]] == [1, 1]
    (tmp_path / "B" / "02.png").write_bytes(b"")
    with pytest.raises(InputError, match="B: only one image"):
        read(str(tmp_path), 16, skip_bad=True)


# %% Other sources


def test_the_sample():
    domains = Domains.of_arrays(
        (noise(3, 8, 8, 3), noise(5, 8, 8, 3)), (noise(2, 8, 8, 3), noise(2, 8, 8, 3)), ("x", "y")
    )
    assert unpaired_images("sample", 8, lambda: domains) is domains and domains.paired
    assert [len(images) for images in domains.some(3)] == [3, 3]
    assert [len(part) for part in (*domains.a[:2], *domains.b[:2])] == [3, 2, 5, 2]


def test_arrays(tmp_path):
    a, b, test = noise(12, 16, 16, 3), noise(5, 20, 16), noise(2, 16, 16, 3, seed=3)
    np.savez(tmp_path / "both.npz", a=a, b=b, test_b=test)
    domains = read(str(tmp_path / "both.npz"), 16)
    np.testing.assert_array_equal(domains.a.test, a[[9]])
    np.testing.assert_array_equal(domains.b.train[..., 1], b[:, 2:18])
    np.testing.assert_array_equal(domains.b.test, test)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"a": 3}, "lacks b; found a"), ({"a": 3, "b": 0}, "b: no images"), ({"a": 1, "b": 3}, "a: only one image"),
     ({"a": 3, "b": 3, "test_a": 0}, "test_a is empty")],
)  # fmt: skip
def test_arrays_that_will_not_do(arrays, message, tmp_path):
    np.savez(tmp_path / "both.npz", **{name: noise(count, 16, 16, 3) for name, count in arrays.items()})
    with pytest.raises(InputError, match=message):
        read(str(tmp_path / "both.npz"), 16)


@pytest.mark.slow
def test_a_set_that_tfds_prepared(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class TinySeasons(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["A", "B"])}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {
                f"{split}{label}": self._generate_examples(label, split)
                for split in ("train", "test")
                for label in "AB"
            }

        def _generate_examples(self, label, split):
            for number in range({"trainA": 4, "trainB": 3, "testA": 2, "testB": 1}[split + label]):
                yield number, {"image": noise(18, 16 + number, 3, seed=number), "label": label}

    class NoDomains(TinySeasons):
        VERSION = tfds.core.Version("1.0.0")

        def _split_generators(self, manager):
            return {"trainA": self._generate_examples("A", "train")}

    for builder in (TinySeasons, NoDomains):
        builder(data_dir=tmp_path).download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for _ in range(2):  # the second time from the folders written the first time
        domains = read("tfds:tiny_seasons", 16)
        assert [len(part) for part in (*domains.a[:2], *domains.b[:2])] == [4, 2, 3, 1]
        expected = {noise(18, 16 + number, 3, seed=number).tobytes() for number in range(4)}
        assert {read_image(Path(name)).tobytes() for name in domains.a.train} == expected
    with pytest.raises(InputError, match="tfds:no_domains: expected images in the splits trainA and trainB.*in trainA"):
        read("tfds:no_domains", 16)


def test_tfds_is_not_fetched_unasked():
    with pytest.raises(InputError, match="tfds:cycle_gan/horse2zebra is not on this machine.*--fetch"):
        read("tfds:cycle_gan/horse2zebra", 16)


# %% Batches


def test_an_epoch_is_as_long_as_the_larger_domain_and_partners_change():
    a, b = (
        np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 16, 16, 3), np.uint8) for count in (6, 4)
    )
    domains = Domains(Examples(a, a, as_they_are), Examples(b, b, as_they_are))
    stream = domains.batches(1, 3, size=16, jitter=1.0)
    assert stream.steps_per_epoch == 6 and [len(images) for images in stream.held_out] == [6, 4]
    seen = [(int(one[0, 0, 0, 0]), int(other[0, 0, 0, 0])) for one, other in stream.at(0).take(36).as_numpy_iterator()]
    assert all(sorted(one for one, _ in seen[start : start + 6]) == list(range(6)) for start in range(0, 36, 6))
    assert all(sorted(other for _, other in seen[start : start + 4]) == list(range(4)) for start in range(0, 36, 4))
    assert len(set(seen)) > 12
    small = domains.batches(5, 3, size=16, jitter=1.0)
    (batch,) = small.at(0).take(1).as_numpy_iterator()
    assert [len(images) for images in batch] == [4, 4] and small.steps_per_epoch == 1


def test_domains_of_equal_size_are_in_different_orders():
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 16, 16, 3), np.uint8)
    stream = Domains(*[Examples(images, images, as_they_are)] * 2).batches(1, 0, size=16, jitter=1.0)
    pairs = [(one[0, 0, 0, 0], other[0, 0, 0, 0]) for one, other in stream.at(0).take(40).as_numpy_iterator()]
    assert sum(one == other for one, other in pairs) < 8


# %% Pictures and scores


def darker(images: np.ndarray) -> np.ndarray:
    return images // 2


def lighter(images: np.ndarray) -> np.ndarray:
    return images * 2


def test_scores_beside_those_of_simple_answers(tmp_path):
    light = noise(4, 16, 16, 3) // 2 * 2
    light[light < 4] = 4
    domains = Domains.of_arrays((light, darker(light)), (light, darker(light)), ("day", "night"))
    scores = domains.evaluate(darker, lighter, tmp_path / "table.png")
    assert scores["a2b_l1"] == scores["b2a_l1"] == scores["a_cycle_l1"] == scores["b_cycle_l1"] == 0
    assert scores["a2b_ssim"] == pytest.approx(1)
    unchanged = (light / 2).mean() / 255
    assert scores["a2b_unchanged_l1"] == scores["b2a_unchanged_l1"] == pytest.approx(unchanged)
    assert scores["a2b_colour_shift_l1"] < 0.003 < unchanged  # half of the mean and of the deviation: the answer
    assert read_image(tmp_path / "table.png").shape[0] == 4 * (16 * 8 + 4)


def test_the_mean_image_of_the_other_kind_s_training_pictures_is_an_answer_too(tmp_path):
    light, dark, held_a, held_b = (noise(6, 16, 16, 3, seed=seed) // 2 + 100 * (seed % 2) for seed in range(4))
    domains = Domains.of_arrays((light, dark), (held_a, held_b), ("day", "night"))
    scores = domains.evaluate(np.copy, np.copy, tmp_path / "table.png")
    for way, train, truth in (("a2b", dark, held_b), ("b2a", light, held_a)):
        apart = np.abs(truth - np.rint(train.mean(0))).mean() / 255
        assert scores[f"{way}_mean_image_l1"] == pytest.approx(apart)
        assert scores[f"{way}_mean_image_ssim"] < 0.5 and scores[f"{way}_unchanged_ssim"] == scores[f"{way}_ssim"]


def test_without_the_truth_there_is_the_cycle_alone(tmp_path):
    a, b = noise(20, 16, 16, 3), noise(12, 16, 16, 3, seed=1)
    domains = Domains(Examples(a[:10], a[10:], as_they_are), Examples(b[:9], b[9:], as_they_are))
    scores = domains.evaluate(darker, darker, tmp_path / "table.png")
    assert scores == {
        "a_cycle_l1": pytest.approx(np.abs(a[10:] / 255 - a[10:] // 4 / 255).mean()),
        "b_cycle_l1": pytest.approx(np.abs(b[9:] / 255 - b[9:] // 4 / 255).mean()),
    }
    assert read_image(tmp_path / "table.png").shape[1] >= 3 * 130  # as many of each as there are of the fewer


def test_an_epoch_s_picture_and_a_collapse_that_shows(tmp_path):
    a, b = noise(20, 16, 16, 3), noise(12, 16, 16, 3, seed=1)

    def collapsed(images: np.ndarray) -> np.ndarray:
        return np.broadcast_to(b[:1], images.shape)

    data = Batches(1, len, (a, b))
    found = save_translations(data, collapsed, np.flip, tmp_path / "samples" / "epoch-0003.png")
    assert (tmp_path / "samples" / "epoch-0003.png").is_file()
    assert found["diversity_a2b"] == 0 and 0.9 < found["diversity_b2a"] < 1.1
    assert "l1_a2b" not in found and found["frechet"] == (found["frechet_a2b"] + found["frechet_b2a"]) / 2
    assert save_translations(data._replace(held_out=(a, b[:1])), darker, darker, None) == {}


def test_scores_after_an_epoch(tmp_path):
    """Up to 32 held-out images are translated; pairs are compared with their targets, in the same order."""
    a, b = noise(70, 16, 16, 3), noise(70, 16, 16, 3, seed=1)
    counts = []

    def counted(images: np.ndarray) -> np.ndarray:
        counts.append(len(images))
        return darker(images)

    data = Batches(1, len, (a, b), paired=True)
    found = save_translations(data, counted, np.copy, None)
    chosen = np.linspace(0, 69, 32).astype(int)
    expected = pair_scores(b[chosen], darker(a[chosen]))
    assert (found["l1_a2b"], found["ssim_a2b"]) == (expected["l1"], expected["ssim"]) and counts == [8, 32]
    assert found["frechet_a2b"] == texture_distance(b[chosen], darker(a[chosen]))
    same = save_translations(data._replace(held_out=(a, a)), np.copy, np.copy, None)
    assert same["frechet"] == pytest.approx(0, abs=1e-5) and same["l1_b2a"] == 0 and same["ssim_b2a"] == 1
    assert found["frechet"] > 0.1
    train = (Examples(a[:4], a[4:8], as_they_are), Examples(b[:4], b[4:8], as_they_are))
    stream = [Domains(*train, paired=paired).batches(2, 0, size=16, jitter=1) for paired in (True, False)]
    assert [each.paired for each in stream] == [True, False]


def test_layouts_are_told_in_one_line():
    assert "\n" not in DOMAIN_LAYOUTS
