"""The parts of the benchmarks against hand-made answers, and each whole on data whose scores are known."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import recipes.dcgan
import recipes.dcgan_faces
import recipes.deepdream
import recipes.diffusion
import recipes.dog_svm
import recipes.fgsm
import recipes.gan
import recipes.mlp
import recipes.mobilenet
import recipes.pix2pix
import recipes.style_transfer
from benchmarks import (
    adversarial,
    attacks,
    autoencoders,
    canvas,
    clothes,
    dcgan,
    diffusion,
    markdown_table,
    modern,
    pix2pix,
    precision,
    run_benchmark,
    timed,
    write_between,
)
from common.data import synthetic
from common.data.labelled import Split
from common.images.pixels import LABEL_COLOURS
from common.images.reading import read_image
from common.images.writing import save_image
from common.metrics.scores import set_distances
from common.runs.run import Run
from common.samples.clothes import synthetic_clothes
from common.samples.faces import synthetic_faces
from common.system.files import InputError
from common.system.lazy import keras
from common.training import Noise
from tests.light import run_light
from tests.test_contract import draw_fewer_everywhere

MARK = "<!-- clothes -->"

# Keras 3 reads variables in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


# %% What both use


def test_table():
    rows = {"one": {"mean_iou": 0.25, "count": 3}, "two": {"count": 4}}
    assert markdown_table(rows, {"count": "count", "mean_iou": "mean IoU"}, "set").splitlines() == [
        "| set | count | mean IoU |",
        "| --- | ---: | ---: |",
        "| one | 3 | 0.250 |",
        "| two | 4 |  |",
    ]


def test_a_task_takes_seconds_by_the_clock_and_others_of_the_cpu(monkeypatch, capsys):
    clocks = {"perf_counter": iter([5.0, 5.31]), "process_time": iter([2.0, 2.1])}
    monkeypatch.setattr("benchmarks.time", SimpleNamespace(**{name: each.__next__ for name, each in clocks.items()}))
    seconds: dict[str, float] = {"before": 1.0}
    with timed("nap", seconds):
        pass
    assert seconds == {"before": 1.0, "nap_wall_seconds": 0.3, "nap_cpu_seconds": 0.1}
    assert capsys.readouterr().err == "nap: 0.3 s, 0.1 CPU seconds\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [(InputError("runs/x: no run"), "runs/x: no run"), (FileNotFoundError(2, "No such file", "y"), "y: No such file")],
)
def test_what_a_user_gave_wrong_is_one_line_and_status_2(error, line, monkeypatch, capsys):
    def fail(number: int) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["name.py", "--number", "3"])
    with pytest.raises(SystemExit) as exit_:
        run_benchmark(fail)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_parameters_without_a_default_are_flags_that_have_to_be_given(monkeypatch, capsys):
    given = []

    def keep(data: Path, sizes: tuple[int, ...], samples: int = 3) -> None:
        given.append((data, sizes, samples))

    for arguments in ("--data a.npz --sizes 1 2", "--samples 4"):
        monkeypatch.setattr(sys, "argv", ["name.py", *arguments.split()])
        if arguments.startswith("--data"):
            run_benchmark(keep)
        else:
            with pytest.raises(SystemExit, match="2"):
                run_benchmark(keep)
    assert given == [(Path("a.npz"), (1, 2), 3)]
    assert capsys.readouterr().err == (
        "error: the following arguments are required: --data, --sizes (--help lists the flags)\n"
    )


@pytest.mark.slow
def test_help_comes_without_tensorflow():
    names = ["pix2pix", "dcgan", "clothes", "autoencoders", "adversarial", "canvas", "precision"]
    for done in run_light([[f"benchmarks.{name}", "--help"] for name in names], Path(__file__).parents[1]):
        assert (done.status, done.stderr) == (0, "") and "--output-dir" in done.stdout
        assert not [module for module in done.imported if module.startswith("tensorflow.")]


# %% Pix2Pix


def street(classes: np.ndarray, path: Path, name: str) -> None:
    """Write class numbers as a label map, and in the colours of LABEL_COLOURS as the photo."""
    for side, image in (("label", classes.astype(np.uint8)), ("photo", LABEL_COLOURS[classes])):
        (path / side).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / side / f"{name}.png")


def streets(folder: Path, size: int = 32, train: int = 16, test: int = 5) -> list[np.ndarray]:
    """Write pairs of blocks in three classes; return the class numbers of the held-out ones."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 3, (train + test, 4, 4)).repeat(size // 4, 1).repeat(size // 4, 2)
    for number, classes in enumerate(blocks):
        street(classes, folder / ("train" if number < train else "test"), f"{number:03d}")
    return list(blocks[train:])


def pix2pix_run(folder: Path, data: str, *layers: keras.layers.Layer, **settings) -> Path:
    """Write a run as training would leave it, with a generator of these layers."""
    config = recipes.pix2pix.Config(**{"size": 32, "classes": 3, "epochs": 2} | settings)
    Run(folder, "pix2pix", config, data).start()
    keras.Sequential([keras.Input((None, None, 3)), *layers]).save(folder / "generator.keras")
    (folder / "history.csv").write_text("epoch,l1,generator,discriminator\n1,0.5,1.0,0.6\n2,0.4,1.5,0.5\n")
    return folder


def test_crops_show_seven_eighths_or_more_of_a_side_and_both_ways_round():
    columns = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    found = []
    for number in range(40):
        photo, labels = pix2pix.augment(
            tf.constant(columns[..., None].repeat(3, -1)), tf.constant(columns), (0, number)
        )
        assert photo.shape == (64, 64, 3)
        assert labels.shape == (64, 64)
        assert labels.dtype == tf.uint8
        found.append((int(labels[0, 0]), int(labels[0, -1])))
    firsts, lasts = np.array(found).T
    assert {*np.sign(lasts - firsts)} == {-1, 1}
    assert np.abs(lasts - firsts).min() >= 63 * 7 / 8 - 1
    assert np.ptp(np.minimum(firsts, lasts)) > 3


def test_photo_and_labels_are_cut_alike_and_only_the_photo_gets_darker():
    generator = np.random.default_rng(0)
    labels = generator.integers(1, 4, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    gains = []
    for number in range(20):
        photo, cut = pix2pix.augment(
            tf.constant((60 * labels)[..., None].repeat(3, -1)), tf.constant(labels), (1, number)
        )
        truth, ratios = cut.numpy(), photo.numpy()[..., 0] / (60.0 * cut.numpy())
        neighbours = np.lib.stride_tricks.sliding_window_view(truth, (3, 3))
        inside = (neighbours == truth[1:-1, 1:-1, None, None]).all((2, 3)) & (truth[1:-1, 1:-1] < 3)
        within = ratios[1:-1, 1:-1][inside]
        assert within.std() < 1e-4
        assert photo.numpy().max() <= 255
        gains.append(within.mean())
    assert np.exp(-0.3) <= min(gains) < 0.85
    assert 1.15 < max(gains) <= np.exp(0.3)


@pytest.mark.parametrize("size", [16, 64])
def test_logits_for_every_pixel_at_any_size_of_a_run(size):
    segmenter = pix2pix.build_segmenter(size, 7)
    assert segmenter.output_shape == (None, size, size, 7)


def test_likeliest_class_but_the_ignored_one():
    logits = np.random.default_rng(0).normal(size=(35, 4, 4, 5)).astype(np.float32)
    images = np.arange(35, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)

    def segmenter(photos, training):
        assert not training
        return tf.gather(logits, tf.cast(tf.round((photos[:, 0, 0, 0] + 1) * 127.5), tf.int32))

    np.testing.assert_array_equal(pix2pix.read_off(segmenter, images), logits.argmax(-1))
    without = logits[..., [0, 1, 3, 4]].argmax(-1)
    np.testing.assert_array_equal(pix2pix.read_off(segmenter, images, ignore=2), np.array([0, 1, 3, 4])[without])


def test_pairs_have_the_class_numbers_of_their_files(tmp_path):
    held_out = streets(tmp_path, train=12)
    train, test = pix2pix.pairs_for(str(tmp_path), recipes.pix2pix.Config(size=32, classes=3), 3)
    assert train.labels.shape == (12, 32, 32)
    assert train.photos.shape == (12, 32, 32, 3)
    np.testing.assert_array_equal(test.labels, held_out)
    np.testing.assert_array_equal(test.photos, LABEL_COLOURS[np.array(held_out)])


def test_alike_runs_share_a_config(tmp_path):
    runs = [tmp_path / "with", tmp_path / "without"]
    for weight, run in enumerate(runs):
        config = recipes.pix2pix.Config(size=32, classes=3, gan_weight=float(weight))
        Run(run, "pix2pix", config, "photos").start()
    config = pix2pix.shared_config("photos", runs)
    assert (config.size, config.classes, config.gan_weight) == (32, 3, 0.0)
    assert pix2pix.shared_config("moved/photos", runs) == config


@pytest.mark.parametrize(
    ("changes", "trained_with", "data", "message"),
    [
        ({"size": 64}, "photos", "photos", "size 64"),
        ({"classes": 4}, "photos", "photos", "classes 4"),
        ({}, "others", "photos", "trained on others"),
        ({"swap": True}, "photos", "photos", "swap"),
        ({"classes": 0}, "photos", "photos", "--classes"),
        ({}, "streets", "photos", "trained on streets"),
        ({}, "photos", "streets", "trained on photos"),
    ],
)
def test_runs_that_do_not_belong_together(changes, trained_with, data, message, tmp_path):
    config = recipes.pix2pix.Config(size=32, classes=3)
    Run(tmp_path / "one", "pix2pix", config, "photos").start()
    Run(tmp_path / "two", "pix2pix", dataclasses.replace(config, **changes), trained_with).start()
    with pytest.raises(InputError, match=message):
        pix2pix.shared_config(data, [tmp_path / "one", tmp_path / "two"])


def test_drawn_streets_of_two_seeds_do_not_belong_together(tmp_path):
    for seed in (0, 1):
        Run(tmp_path / str(seed), "pix2pix", recipes.pix2pix.Config(size=32, seed=seed), "streets").start()
    assert pix2pix.shared_config("streets", [tmp_path / "1"]).seed == 1
    with pytest.raises(InputError, match="seed 1"):
        pix2pix.shared_config("streets", [tmp_path / "0", tmp_path / "1"])


def test_curves_of_a_run_with_and_one_without_a_discriminator(tmp_path):
    both = {"epoch": [1.0, 2.0], "l1": [0.5, 0.4], "generator": [1.0, 2.0], "discriminator": [0.7, 0.6]}
    alone = {"epoch": [1.0, 2.0], "l1": [0.5, 0.3]}
    widths = []
    for histories in ({"a": both, "b": alone}, {"b": alone}):
        with Image.open(pix2pix.save_curves(histories, tmp_path / "curves.png")) as image:
            widths.append(image.width)
            assert len(np.unique(np.asarray(image))) > 10
    assert widths[0] == 3 * widths[1]


@pytest.fixture
def narrow(monkeypatch):
    """Let segmenters have few filters, which suffice for what can be told by the colour of a pixel."""
    monkeypatch.setattr(pix2pix, "WIDTHS", (8, 16))


@pytest.mark.slow
def test_a_perfect_translator_scores_as_the_true_photos_and_a_grey_one_as_the_mean_photo(narrow, tmp_path, capsys):
    held_out = np.array(streets(tmp_path / "data"))
    perfect = pix2pix_run(tmp_path / "perfect", str(tmp_path / "data"), keras.layers.Activation("linear"))
    grey = pix2pix_run(tmp_path / "grey", str(tmp_path / "data"), keras.layers.Rescaling(0.0))
    output_dir = tmp_path / "scores"
    rows = pix2pix.compare(str(tmp_path / "data"), (perfect, grey), output_dir, epochs=20)
    assert rows["perfect"]["l1"] == 0
    names = ("pixel_accuracy", "class_accuracy", "mean_iou")
    assert [rows["perfect"][name] for name in names] == [rows["true photos"][name] for name in names]
    assert rows["true photos"]["mean_iou"] > 0.8
    assert rows["grey"]["mean_iou"] < 0.4
    assert rows["mean photo"]["mean_iou"] < 0.4
    distances = np.abs(LABEL_COLOURS[held_out].astype(int) - 128) / 255
    assert rows["grey"]["l1"] == pytest.approx(distances.mean(), abs=1e-6)
    assert json.loads((output_dir / "results.json").read_text())["scores"]["grey"] == rows["grey"]
    assert {path.name for path in output_dir.glob("*.png")} == {"translations.png", "readings.png", "curves.png"}
    assert "| perfect | 0.000 | inf | 1.000 |" in capsys.readouterr().out


@pytest.mark.slow
def test_pixels_of_an_ignored_class_are_not_learnt_from(narrow):
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 2, (16, 4, 4))
    mostly_ignored = np.where((blocks == 0) & (generator.random(blocks.shape) < 0.75), 2, blocks)
    truth, labels = (each.repeat(4, 1).repeat(4, 2).astype(np.uint8) for each in (blocks, mostly_ignored))
    segmenter = pix2pix.train_segmenter(LABEL_COLOURS[truth], labels, 3, ignore=2, epochs=20)
    assert (pix2pix.read_off(segmenter, LABEL_COLOURS[truth]) == truth).mean() > 0.9


# %% DCGAN


def squares(path: Path, train: int = 64, test: int = 24, **changes) -> Path:
    """Write noisy 28 px images with a bright half: class 0 on the left, class 1 on the right."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        classes = np.arange(count) % 2
        images = generator.integers(0, 60, (count, 28, 28))
        images[classes == 0, :, :14] += 180
        images[classes == 1, :, 14:] += 180
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": classes}
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_labelled_images_are_those_of_the_file(tmp_path):
    path = squares(tmp_path / "squares.npz")
    train, test = dcgan.labelled_images(path, recipes.dcgan.Config(size=28, channels=1))
    arrays = np.load(path)
    np.testing.assert_array_equal(train.images[..., 0], arrays["x_train"])
    np.testing.assert_array_equal(train.classes, arrays["y_train"])
    np.testing.assert_array_equal(test.images[..., 0], arrays["x_test"])
    np.testing.assert_array_equal(test.classes, arrays["y_test"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "not y_test"),
        ({"y_train": np.zeros(5, int)}, r"y_train is int64 \[5\] for 64 images"),
        ({"y_train": np.full(64, 0.5)}, "y_train is float64"),
        ({"y_test": np.full(24, 2)}, "class 2"),
        ({"x_test": np.zeros((3, 28, 28), np.uint8), "y_test": np.zeros(3, int)}, "at least 4"),
    ],
)
def test_data_that_cannot_be_measured_with(changes, message, tmp_path):
    path = squares(tmp_path / "squares.npz", **changes)
    with pytest.raises(InputError, match=message):
        dcgan.labelled_images(path, recipes.dcgan.Config(size=28, channels=1))


def test_data_must_be_an_npz(tmp_path):
    with pytest.raises(InputError, match="not an .npz"):
        dcgan.labelled_images(tmp_path, recipes.dcgan.Config(size=28, channels=1))


def test_fractions_of_classes():
    probabilities = np.eye(4)[[0, 2, 2, 1, 2]] * 0.5 + 0.1
    assert dcgan.class_fractions(probabilities) == pytest.approx([0.2, 0.2, 0.6, 0])


@pytest.mark.slow
def test_a_generator_of_one_class_is_found_out(tmp_path, capsys):
    config = recipes.dcgan.Config(size=28, channels=1, latent_dim=5)
    Run(tmp_path / "run", "dcgan", config, "squares").start()
    image = np.full((28, 28, 1), -0.8, np.float32)
    image[:, :14] = 0.6
    constant = keras.layers.Dense(784)
    generator = keras.Sequential([keras.Input((5,)), constant, keras.layers.Reshape((28, 28, 1))])
    constant.set_weights([np.zeros((5, 784)), image.ravel()])
    generator.save(tmp_path / "run" / "generator.keras")
    data = squares(tmp_path / "squares.npz")
    scores = dcgan.measure(data, tmp_path / "run", 30, tmp_path / "scores", epochs=12)
    result = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert result["classifier_test_accuracy"] == 1
    assert result["class_fractions"] == {"samples": [1, 0], "test images": [0.5, 0.5]}
    own = scores["classifier of this data set"]
    assert [(row["samples"], row["real_images"]) for row in own.values()] == [(30, 24), (12, 12), (12, 12)]
    distances = [row["frechet_distance"] for row in own.values()]
    assert min(distances[:2]) > 2 * distances[2] > 0
    assert "Test accuracy of the classifier of this data set: 1.0000" in capsys.readouterr().out


# %% Diffusion


def test_each_number_of_steps_and_each_guidance_is_scored_once():
    config = recipes.diffusion.Config(steps=25, guidance=2.0)
    found = diffusion.settings(config, (5, 25), (1.0, 2.0))
    assert [(each.steps, each.guidance) for each in found] == [(5, 1.0), (25, 1.0), (25, 2.0)]
    assert [diffusion.row_name(each) for each in found[1:]] == ["25 steps, guidance 1", "25 steps, guidance 2"]
    assert diffusion.settings(config, (5,), ()) == [dataclasses.replace(config, steps=5)]


@pytest.mark.slow
def test_images_of_the_classes_asked_for_are_recognised_and_a_second_call_measures_nothing(
    tmp_path, monkeypatch, capsys
):
    """With a classifier that compares the two halves, and a sampler that ignores the class without guidance."""
    data = squares(tmp_path / "squares.npz")
    images = np.load(data)["x_train"][..., None]
    config = recipes.diffusion.Config(size=28, channels=1, outputs=2, levels=2, steps=4, guidance=2.0)
    calls = []

    def generated(network, labels, config, seed):
        calls.append(config.guidance)
        return images[(labels if config.guidance > 1 else 0 * labels) + 2 * (np.arange(len(labels)) % 8)]

    def classifier(*_):
        pixels = keras.Input((28, 28, 1))
        halves = keras.layers.Flatten()(keras.layers.AveragePooling2D((28, 14))(pixels))
        return keras.Model(pixels, [halves, keras.layers.Rescaling(5.0)(halves)])

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ema.keras").write_bytes(b"weights")
    monkeypatch.setattr(diffusion, "load", lambda *_: (None, None, config))
    monkeypatch.setattr(diffusion, "generate", generated)
    monkeypatch.setattr(diffusion, "train_classifier", classifier)
    arguments = data, tmp_path / "run", 24, (4,), (2.0, 1.0), tmp_path / "scores"
    found = diffusion.measure(*arguments)[diffusion.OWN]
    guided, unguided, halves = found.values()
    assert guided["recognised"] == halves["recognised"] == 1
    assert unguided["recognised"] == 0.5 and unguided["rarest_class_fraction"] == 0
    assert unguided["frechet_distance"] > 2 * guided["frechet_distance"]
    printed = capsys.readouterr().out
    assert "| 4 steps, guidance 2 | 1.000 | 24 | 24 |" in printed
    assert diffusion.measure(*arguments)[diffusion.OWN] == found and len(calls) == 2
    assert capsys.readouterr().out == printed
    (tmp_path / "run" / "ema.keras").write_bytes(b"other weights")
    with pytest.raises(InputError, match="has results of .*; choose another --output-dir"):
        diffusion.measure(*arguments)


# %% Clothes


def test_a_fraction_of_the_labels_has_as_many_of_each_class_and_all_test_images(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4, dtype=np.uint8), 50)
    images = generator.integers(0, 256, (200, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "all.npz", x_train=images, y_train=labels, x_test=images[:7], y_test=labels[:7])
    part = dict(np.load(clothes.with_fraction(tmp_path / "all.npz", 0.1, tmp_path)))
    assert np.bincount(part["y_train"]).tolist() == [5] * 4 and len(part["x_test"]) == 7
    for image, label in zip(part["x_train"], part["y_train"], strict=True):
        (place,) = np.flatnonzero((images == image).all((1, 2)))
        assert labels[place] == label


def test_with_fewer_labels_the_stage_that_a_run_ends_with_is_longer():
    for config, name, epochs in (
        (recipes.mlp.Config(), "epochs", 400),
        (recipes.mobilenet.Config(), "epochs", 80),
        (recipes.mobilenet.FROZEN, "head_epochs", 200),
    ):
        assert clothes.longer(config, 0.01) == dataclasses.replace(config, **{name: epochs})
    assert clothes.longer(recipes.dog_svm.Config(), 0.01) == recipes.dog_svm.Config()


def test_tables_show_the_mean_and_the_spread_of_the_seeds():
    run = {"weights": 1234, "run_cpu_seconds": 60.0, "run_wall_seconds": 30.0, "expected_calibration_error": 0.02}
    found = {f"mlp/{seed}": run | {"test_accuracy": 0.88 + 0.01 * seed} for seed in range(3)}
    found["mlp/fraction 0.1"] = run | {"test_accuracy": 0.8}
    text = clothes.tables(["mlp", "lenet"], found)
    assert "| mlp | 0.8900 ± 0.0100 | 0.020 | 3 | 1,234 | 1.0 | 0.5 |" in text
    assert "| mlp |  | 0.800 | 0.890 |" in text and "lenet" not in text


def test_tables_are_written_between_two_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARK}\nold\n{MARK}\nafter\n")
    write_between(page, "clothes", "new")
    assert page.read_text() == f"before\n{MARK}\nnew\n{MARK}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(InputError, match="twice"):
        write_between(page, "clothes", "new")
    assert page.read_text() == "no marks"


@pytest.mark.slow
def test_clothes_are_measured_once_and_then_read(tmp_path, capsys):
    images, labels = synthetic_clothes(300, 0)
    data = tmp_path / "drawn.npz"
    np.savez(data, x_train=images[:200], y_train=labels[:200], x_test=images[200:], y_test=labels[200:])
    page = tmp_path / "page.md"
    page.write_text(f"{MARK}\n{MARK}")
    for _ in range(2):
        clothes.measure(data, output_dir=tmp_path / "runs", only=("dog_svm",), results=page)
    said = capsys.readouterr()
    assert said.err.count("CPU seconds") == 3  # all labels and two fractions, in the first call alone
    assert page.read_text().count("| dog_svm |") == 2
    with pytest.raises(InputError, match="'svm' is not a row of the tables"):
        clothes.measure(data, output_dir=tmp_path / "runs", only=("svm",))


def test_tables_of_autoencoders_show_each_run_under_its_recipe():
    swaps = {f"{way}{kind}_{score}": 0.25 for way in ("a2b", "b2a") for kind in ("", "_copied", "_recoloured")
             for score in ("l1", "ssim")}  # fmt: skip
    numbers = {
        "vae": {"test_elbo_nats": -90.0, "run_cpu_seconds": 10.0},
        "vae, KL weight 0": {"test_elbo_nats": -1000.0},
        "autoencoder": {"test_error": 0.01, "test_error z = 2": 0.04, "test_error PCA 2": 0.05},
        "vae_faces, synthetic": {"smile_orthogonal_movement": 0.1, "smile_flip_rate": 0.95, "smile_side_effect": 0.05},
        "face_swap, synthetic": swaps,
    }
    text = autoencoders.tables(numbers)
    for line in (
        "| vae | -90.000 |  |  | 10.000 |  |",
        "| vae, KL weight 0 | -1000.000 |  |  |  |  |",
        "| z = 2 | 0.0400 |",
        "| PCA 2 | 0.0500 |",
        "| smile | 0.950 | 0.050 | 0.100 |",
        "| b2a, ssim | 0.250 | 0.250 | 0.250 |",
    ):
        assert line in text.splitlines()


def test_an_unknown_row_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(
        InputError, match="'gan' is not a row of the tables; choose from vae_faces, synthetic, face_swap"
    ):
        autoencoders.measure(output_dir=tmp_path, only=("gan",))
    with pytest.raises(InputError, match="mnist: not an .npz"):
        autoencoders.measure(Path("mnist"), output_dir=tmp_path)


# %% Adversarial nets


def one_image(path: Path, value: float, size: int, channels: int) -> None:
    """Write a generator that answers all latents [n, 5] with the same grey value in [-1, 1]."""
    layers = keras.layers
    side = [layers.Dense(size * size * channels), layers.Reshape((size, size, channels))]
    generator = keras.Sequential([keras.Input((5,)), *side])
    side[0].set_weights([np.zeros((5, size * size * channels)), np.full(size * size * channels, value)])
    path.parent.mkdir(parents=True, exist_ok=True)
    generator.save(path)


def test_runs_of_faces_differ_in_their_seeds_and_in_what_the_discriminator_sees():
    faces = {name: line for name, line in adversarial.lines().items() if name.startswith("dcgan_faces")}
    assert len(faces) == 9
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32))
    for name, line in faces.items():
        config = line.config
        seen = recipes.dcgan_faces.augment(images, config, Noise(0))
        assert np.array_equal(seen, images) == ("plain" in name)
        assert config.images == 1000 and config.ema_decay > 0 and name.endswith(f"seed {config.seed}")
        strengths = {"colour": 0.0, "translation": 0.0, "cutout": 0.0}
        assert (config.colour > 0, config.cutout > 0) == ("augmented" in name, "augmented" in name)
        first = faces["dcgan_faces, synthetic, plain, seed 0"].config
        assert dataclasses.replace(config, seed=0, **strengths) == first


def test_tables_of_adversarial_nets_show_means_beside_what_they_are_to_be_compared_with():
    sets = {"frechet_distance": 4.0, "kernel_distance": 0.5}
    faces = {f"{key}{end}": value for key, value in sets.items() for end in ("", "_without_ema", "_of_training_images")}
    times = {"run_cpu_seconds": 60.0, "run_wall_seconds": 40.0}
    glasses = {"glasses_frequency": 0.3, "glasses_success_rate": 0.8, "glasses_dark_skin_rate": 0.1}
    numbers = {
        "gan, digits": sets | {f"{key}_of_{kind}": 0.25 for key in sets for kind in ("half", "test_images")} | times,
        "ssgan, digits": {"test_accuracy": 0.98, "test_accuracy_from_labels_alone": 0.75} | times,
        "cyclegan, synthetic": {"a_cycle_l1": 0.05, "b_cycle_l1": 0.06} | times,
        "cyclegan, streets": {"a_cycle_l1": 0.04, "b_cycle_l1": 0.03} | times,
    }
    for number, (guess, _) in enumerate(adversarial.GUESSES.items()):
        for way in ("a2b", "b2a"):
            numbers["cyclegan, synthetic"] |= {f"{way}{guess}_l1": number / 8, f"{way}{guess}_ssim": 1 - number / 8}
    for seed in range(3):
        numbers[f"ssgan, clothes, seed {seed}"] = {
            "test_accuracy": 0.84 + 0.01 * seed,
            "test_accuracy_from_labels_alone": 0.8,
        } | times
        own = {"frechet_distance": 4.0 + seed, "frechet_distance_without_ema": 8.0}
        numbers[f"dcgan_faces, synthetic, augmented, seed {seed}"] = faces | own | glasses | times
    text = adversarial.tables(numbers)
    for line in (
        "| samples | 4.000 | 0.500 |  |  | 60.000 | 40.000 |",
        "| other test images | 0.250 | 0.250 |",
        "| shifts, colours, cutout | 8.000 ± 0.000 | 5.000 ± 1.000 | 4.000 ± 0.000 | 3 | 60.000 | 40.000 |",
        "| glasses, shifts, colours, cutout | 0.300 ± 0.000 | 0.800 ± 0.000 | 0.100 ± 0.000 |",
        "| ssgan, clothes | 0.8500 ± 0.0100 | 0.8000 ± 0.0000 | 0.83 | 3 | 60.000 | 40.000 |",
        "| ssgan, digits | 0.9800 | 0.7500 | 0.9907 | 1 | 60.000 | 40.000 |",
        "| cyclegan, synthetic | translated | unchanged | colour transfer | mean image |",
        "| a2b, l1 | 0.000 | 0.125 | 0.250 | 0.375 |",
        "| b2a, ssim | 1.000 | 0.875 | 0.750 | 0.625 |",
        "| cyclegan, streets | 0.040 | 0.030 | 60.000 | 40.000 |",
    ):
        assert line in text.splitlines()
    assert "without augmentation" not in text and adversarial.tables({}) == ""


@pytest.mark.slow
def test_the_changes_of_the_modern_preset_end_at_the_demo():
    names, configs = zip(*modern.changes(), strict=True)
    assert dataclasses.replace(configs[-1], epochs=recipes.dcgan.DEMO.epochs) == recipes.dcgan.DEMO
    assert len(set(names)) == len(set(configs)) == 6


def test_adversarial_nets_are_measured_once_and_lines_without_data_are_named(tmp_path, monkeypatch, capsys):
    asked = []

    def fake(recipe, config, data, output_dir):
        asked.append((recipe, data, output_dir.name))
        return {"test_accuracy": 0.5, "test_accuracy_from_labels_alone": 0.25, "a_cycle_l1": 0.1, "b_cycle_l1": 0.2}

    monkeypatch.setattr(adversarial, "measure_run", fake)
    known = {name: {} for name in adversarial.lines() if name.startswith("dcgan_faces")}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "adversarial.json").write_text(json.dumps(known))
    monkeypatch.setattr(adversarial, "save_faces", lambda runs, size, output_dir: output_dir / "faces.png")
    monkeypatch.setattr(adversarial, "GUESSES", {})
    page = tmp_path / "page.md"
    page.write_text("<!-- adversarial -->\n<!-- adversarial -->\n")
    for _ in range(2):
        adversarial.measure(streets=tmp_path, output_dir=tmp_path / "runs", results=page)
    said = capsys.readouterr()
    assert asked == [
        ("cyclegan", Path("sample"), "cyclegan, synthetic"),
        ("cyclegan", tmp_path, "cyclegan, streets"),
    ]
    assert "Without --mnist, these rows are skipped: gan, digits; ssgan, digits\n" in said.err
    assert "Without --clothes" in said.err and "Without --streets" not in said.err
    assert "| cyclegan, streets | 0.100 | 0.200 |" in page.read_text() and "ssgan" not in page.read_text()
    adversarial.measure(clothes=Path("clothes.npz"), output_dir=tmp_path / "runs", only=("ssgan, clothes, seed 1",))
    assert asked[2:] == [("ssgan", Path("clothes.npz"), "ssgan, clothes, seed 1")]
    said = capsys.readouterr()
    assert "| ssgan, clothes | 0.5000 | 0.2500 | 0.83 | 1 |" in said.out and "skipped" not in said.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": ("gan",)}, "'gan' is not a row of the tables; choose from gan, digits; dcgan_faces, synthetic"),
        ({"only": ("gan, digits",)}, "'gan, digits' needs --mnist"),
        ({"clothes": Path("clothes")}, "clothes: not an .npz"),
        ({"streets": Path("nowhere")}, "nowhere: no such folder"),
    ],
)
def test_what_the_adversarial_nets_cannot_be_measured_with(given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        adversarial.measure(output_dir=tmp_path, **given)


def test_faces_of_both_runs_stand_below_those_drawn_by_rule(tmp_path):
    runs = {name: tmp_path / name for name in ("without", "with")}
    for run, first in zip(runs.values(), (-0.5, 0.0), strict=True):
        for network, value in (("generator", first), ("ema", first + 0.25)):
            one_image(run / f"{network}.keras", value, 32, 3)
    picture = read_image(adversarial.save_faces(runs, 32, tmp_path))
    rows = np.split(picture, 5)
    greys = [row[len(row) // 2, -20].tolist() for row in rows[1:]]
    assert greys == [[round(127.5 * (value + 1))] * 3 for value in (-0.5, -0.25, 0.0, 0.25)]
    assert rows[0][:, -40:].std() > 20


@pytest.mark.slow
def test_digits_are_compared_with_half_of_the_test_images_as_the_other_half_is(tmp_path, monkeypatch):
    def fake(recipe, config, data, output_dir):
        one_image(output_dir / "generator.keras", -0.8, 28, 1)
        return {"frechet_distance": 1.0}

    monkeypatch.setattr(adversarial, "measure_run", fake)
    data = squares(tmp_path / "squares.npz", test=40)
    scores = adversarial.measure_digits(recipes.gan.Config(latent_dim=5), data, tmp_path / "run")
    assert scores["frechet_distance"] == 1
    assert scores["frechet_distance_of_half"] > 5 * scores["frechet_distance_of_test_images"] > 0


@pytest.mark.slow
def test_training_faces_are_as_many_as_the_held_out_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial, "measure_run", lambda *_: {"frechet_distance": 30.0})
    monkeypatch.setattr(synthetic, "synthetic_faces", lambda _, *others, **named: synthetic_faces(60, *others, **named))
    asked = []

    def distances(judge, real, others):
        asked.extend([real, others])
        return set_distances(judge, real, others)

    monkeypatch.setattr(adversarial, "set_distances", distances)
    scores = adversarial.measure_faces(recipes.dcgan_faces.DEMO, tmp_path)
    real, others = asked
    assert len(real) == len(others) == 12 and not {image.tobytes() for image in real} & {o.tobytes() for o in others}
    assert scores["frechet_distance"] == 30 and scores["frechet_distance_of_training_images"] > 0


# %% Attacks


def test_accuracy_under_attack_is_counted_in_batches(monkeypatch):
    """An attack that darkens, on a classifier of an image's mean: class 1 above 100."""

    def classify(network: str, images: np.ndarray) -> np.ndarray:
        assert network == "bright or dark"
        found = images.mean((1, 2, 3)) > 100
        return np.stack([~found, found], 1).astype(np.float32)

    def make_attack(network: str):
        assert network == "bright or dark"
        return lambda images, labels, level: images - np.minimum(images, level)

    monkeypatch.setattr(recipes.fgsm, "classify", classify)
    monkeypatch.setattr(recipes.fgsm, "make_attack", make_attack)
    images = np.repeat(np.array([50, 103, 110, 120], np.uint8), 4).reshape(4, 2, 2, 1)
    data = Split(images, np.array([0, 1, 1, 0], np.int32))
    found = attacks.accuracy_at((0, 4, 16, 25), "bright or dark", data, at_once=3)
    assert found == {0: 0.75, 4: 0.5, 16: 0.25, 25: 0.5}


def test_tables_of_attacks():
    shares = {f"{level}/255": 1 - level / 100 for level in attacks.LEVELS}
    keys = [f"{name}, {part}" for name in ("classifier", "robust") for part in ("all images", "10 steps")]
    trained = {f"{key}, {column}": share for key in keys for column, share in shares.items()}
    numbers = {
        "fgsm, clothes": trained | {"test_images": 9, "epsilon": 0.1},
        "fgsm, photos": shares | {"photos": 3},
        "targeted, photos, batch size 25": {"images": 100, "reached": 0.96, "images_per_second": 1.5},
        "libraries": {"art, 1 step, 8/255, fooled": 0.5, "art, 1 step, 8/255, equal": 1.0},
    }
    text = attacks.tables(numbers)
    assert "| fgsm, clothes, trained at epsilon 0.1 | 0/255 | 1/255 | 2/255 | 4/255 | 8/255 | 16/255 |" in text
    assert "| robust, one step, 9 images | 1.000 | 0.990 | 0.980 | 0.960 | 0.920 | 0.840 | 0.750 | 0.360 |" in text
    assert "| MobileNetV2, 3 photos | 1.000 | 0.990 | 0.980 | 0.960 | 0.920 |" in text
    assert "| targeted, photos, batch size 25 | 100 | 0.960 |  |  | 1.500 |" in text
    assert "| art, 1 step, 8/255 | 0.500 | 1.000 |" in text
    assert attacks.tables({}) == ""


@pytest.mark.slow
def test_attacks_are_measured_once_on_what_is_given(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(attacks, "measure_photos", lambda *given: asked.append(given) or {})
    monkeypatch.setattr(attacks, "measure_targeted", lambda *given: asked.append(given) or {"images": given[2]})
    monkeypatch.setattr(attacks, "LEVELS", ())
    photos, weights = tmp_path / "photos", tmp_path / "weights.h5"
    with pytest.raises(InputError, match="--photos and --weights must be given together"):
        attacks.measure(photos=photos, output_dir=tmp_path)
    monkeypatch.setattr(attacks, "tables", lambda numbers: ", ".join(numbers))
    for _ in range(2):
        attacks.measure(photos=photos, weights=weights, output_dir=tmp_path)
    assert asked == [
        (photos, weights),
        (photos, weights, 100, 25, tmp_path / "targeted, photos, batch size 25"),
        (photos, weights, 10, 1, tmp_path / "targeted, photos, batch size 1"),
    ]
    said = capsys.readouterr().out
    assert "skipping the libraries" in said and "fgsm, photos, targeted, photos, batch size 25" in said


@pytest.mark.slow
def test_libraries_move_the_same_pixels(tmp_path):
    pytest.importorskip("foolbox", reason="foolbox is not installed")
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 1)).astype(np.uint8)
    labels = np.arange(40) % 3
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = recipes.fgsm.Config(size=12, outputs=3, base_filters=4)
    recipes.fgsm.build(config).classifier.save(tmp_path / "classifier.keras")
    scores = attacks.compare_libraries(tmp_path, tmp_path / "set.npz")
    for key, value in scores.items():
        if key.endswith("equal"):
            assert value == 1 if "1 step" in key else value > 0.999, (key, value)  # signs of what is all but 0


# %% Canvas


def looking(*filters: int, kernel: int = 3, seed: int = 0) -> keras.Model:
    """Convolutions without padding, the size halved between them: images -> the maps of all."""
    x = images = keras.Input((None, None, 3))
    maps = []
    for number, count in enumerate(filters):
        x = keras.layers.AveragePooling2D(2)(x) if number else x
        init = keras.initializers.HeNormal(seed=seed + number)
        x = keras.layers.Conv2D(count, kernel, activation="relu", kernel_initializer=init, name=f"conv{number + 1}")(x)
        maps.append(x)
    return keras.Model(images, maps)


def within(network: keras.Model) -> keras.Model:
    """The same as a layer of another, as it comes from `frozen_features`."""
    images = keras.Input((None, None, 3))
    return keras.Model(images, network(images))


def test_the_work_of_convolutions_is_counted_by_hand():
    """Of 20 pixels a side 18 are left, then 9 and 7, then 3 and 1; a product and a sum each."""
    expected = 2 * (18**2 * 9 * 3 * 4 + 7**2 * 9 * 4 * 5 + 1 * 9 * 5 * 6)
    assert canvas.convolution_work(looking(4, 5, 6), 20) == expected
    assert canvas.convolution_work(within(looking(4, 5, 6)), 20) == expected
    assert canvas.convolution_work(looking(7), 12) == 2 * 10**2 * 9 * 3 * 7


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_network_in_bfloat16_gives_nearly_the_same_in_float32(wrapped):
    network = within(looking(8, 12)) if wrapped else looking(8, 12)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 24, 20, 3)).astype(np.float32)
    for maps, expected in zip(canvas.in_bfloat16(network)(images), network(images), strict=True):
        found, expected = maps.numpy(), expected.numpy()
        assert found.dtype == np.float32 and found.shape == expected.shape
        assert 1e-4 * np.linalg.norm(expected) < np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
        np.testing.assert_array_equal(tf.cast(tf.cast(maps, tf.bfloat16), tf.float32), found)


def test_a_network_in_bfloat16_has_the_same_weights_and_the_first_keeps_its_precision():
    network = looking(3, 4)
    cast = canvas.in_bfloat16(network)
    for before, after in zip(network.weights, cast.weights, strict=True):
        assert before.dtype == after.dtype == "float32"
        np.testing.assert_array_equal(before, after)
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}


def squeezenet_arrays() -> dict[str, Any]:
    """SqueezeNet with one to four filters in each layer."""
    generator = np.random.default_rng(0)
    shapes = {"conv1": (3, 3, 3, 4)}
    channels = 4
    for number in range(2, 10):
        narrow, ones, threes = number % 3 + 1, number % 2 + 1, 3
        shapes[f"fire{number}/squeeze1x1"] = (1, 1, channels, narrow)
        shapes[f"fire{number}/expand1x1"] = (1, 1, narrow, ones)
        shapes[f"fire{number}/expand3x3"] = (3, 3, narrow, threes)
        channels = ones + threes
    arrays = {}
    for name, shape in shapes.items():
        arrays[f"{name}/kernel"] = generator.normal(0.1, 0.4, shape).astype(np.float32)
        arrays[f"{name}/bias"] = generator.normal(0.3, 0.2, shape[-1]).astype(np.float32)
    return arrays


def squeezenet_written_out(arrays: dict[str, Any], picture: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of conv1 and of each fire for [height, width, 3] in [-1, 1]."""

    def convolved(x: np.ndarray, name: str) -> np.ndarray:
        kernel, bias = arrays[f"{name}/kernel"].astype(np.float64), arrays[f"{name}/bias"]
        edge = len(kernel) // 2
        padded = np.pad(x, [(edge, edge), (edge, edge), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (0, 1))
        return np.maximum(np.tensordot(windows, kernel, ((2, 3, 4), (2, 0, 1))) + bias, 0)

    def halved(x: np.ndarray) -> np.ndarray:
        height, width, channels = x.shape
        return x.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))

    blue_green_red = 127.5 * (picture[..., ::-1] + 1) - [103.939, 116.779, 123.68]
    maps = {"conv1": convolved(blue_green_red, "conv1")}
    x = halved(maps["conv1"])
    for number in range(2, 10):
        x = convolved(halved(x) if number in (2, 4, 6) else x, f"fire{number}/squeeze1x1")
        x = np.concatenate([convolved(x, f"fire{number}/expand{size}x{size}") for size in (1, 3)], -1)
        maps[f"fire{number}"] = x
    return maps


def test_squeezenet_is_the_one_written_out_in_numpy(tmp_path):
    arrays = squeezenet_arrays()
    np.savez(tmp_path / "squeezenet.npz", **arrays)
    network = canvas.squeezenet_layers(tmp_path / "squeezenet.npz")
    picture = np.random.default_rng(1).uniform(-1, 1, (32, 48, 3))
    maps = squeezenet_written_out(arrays, picture)
    assert maps["fire9"].shape == (2, 3, 5) and maps["fire9"].max() > 0
    seen = keras.Model(network.input, [network.get_layer(name).output for name in maps])
    for found, (name, expected) in zip(seen(picture[None].astype(np.float32)), maps.items(), strict=True):
        np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max(), err_msg=name)
    np.testing.assert_array_equal(network(picture[None].astype(np.float32)), found)


def test_squeezenet_takes_white_for_255_less_the_means_of_blue_green_and_red(tmp_path):
    arrays = squeezenet_arrays()
    kernel = np.zeros((3, 3, 3, 4), np.float32)
    kernel[1, 1, [0, 1, 2], [0, 1, 2]] = 1
    np.savez(tmp_path / "squeezenet.npz", **arrays | {"conv1/kernel": kernel, "conv1/bias": np.zeros(4, np.float32)})
    network = canvas.squeezenet_layers(tmp_path / "squeezenet.npz")
    conv1 = keras.Model(network.input, network.get_layer("conv1").output)
    white, red = np.ones((1, 16, 16, 3), np.float32), np.array([1, -1, -1], np.float32) * np.ones((1, 16, 16, 1))
    np.testing.assert_allclose(conv1(white)[0, 0, 0], [151.061, 138.221, 131.32, 0], rtol=1e-5)
    np.testing.assert_allclose(conv1(red)[0, 5, 5], [0, 0, 131.32, 0], rtol=1e-5)


def test_tables_of_pictures_made_through_a_network():
    numbers = {
        "gradients": {
            "embedded, 512 px, float32": {"seconds": 2.0, "speed": 50.0, "peak": 100.0, "fraction": 0.5},
            "embedded, 512 px, bfloat16": {"seconds": 1.0, "cosine": 0.999, "faster": 2.0},
        },
        "optimizers": {"L-BFGS": {f"{limit} s": limit / 1000 for limit in canvas.SECONDS} | {"evaluations": 88}},
        "megapixels": {"4000 x 3000 px": {"seconds_per_step": 30.0, "gigabytes": 3.5}},
        "paintings": {"embedded": {"paintings": 6, "seconds": 30.0, "relative_style_loss": 0.125}},
        "dreams": {"MobileNetV2": {"dreams": 4, "seconds": 12.0}},
    }
    text = canvas.tables(numbers)
    for line in (
        "| gradient | seconds | GFLOP/s | peak GFLOP/s (matrix product) | fraction of peak | speed-up over float32 | "
        "cosine similarity to the float32 gradient |",
        "| embedded, 512 px, float32 | 2.000 | 50.000 | 100.000 | 0.500 |  |  |",
        "| embedded, 512 px, bfloat16 | 1.000 |  |  |  | 2.000 | 0.999 |",
        "| lowest loss after | 5 s | 10 s | 20 s | 40 s | evaluations |",
        "| L-BFGS | 0.005 | 0.010 | 0.020 | 0.040 | 88 |",
        "| 4000 x 3000 px | 30.000 | 3.500 |",
        "| network for paintings | paintings | seconds per painting | style loss relative to the photo |",
        "| embedded | 6 | 30.000 | 0.125 |",
        "| MobileNetV2 | 4 | 12.000 |",
    ):
        assert line in text.splitlines()
    assert "lowest loss" not in canvas.tables({"dreams": numbers["dreams"]}) and canvas.tables({}) == ""


@pytest.mark.parametrize("given, message", [
    ({"only": ("dream",)}, "'dream' is not one of the tasks .* allow: gradients, optimizers, megapixels$"),
    ({"only": ("gradients", "paintings"), "content": (Path("a.png"),)}, "'paintings' is not one of"),
    ({"only": ("dreams",), "weights": Path("weights.h5")}, "'dreams' is not one of"),
])  # fmt: skip
def test_what_of_pictures_cannot_be_measured_with_what_was_given(given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        canvas.measure(output_dir=tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_pictures_are_measured_once_and_only_what_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gc, "collect", lambda: 0)  # which takes most of the time
    asked = []

    def fake(name):
        def measure(*given):
            asked.append((name, *given))
            return {name: {"seconds": float(len(asked))}}

        return measure

    for name in ("gradients", "optimizers", "megapixels", "paintings", "dreams"):
        monkeypatch.setattr(canvas, f"measure_{name}", fake(name))
    page = tmp_path / "page.md"
    page.write_text("<!-- canvas -->\n<!-- canvas -->\n")
    files = {"content": (Path("a.png"),), "style": (Path("b.png"),), "weights": Path("w.h5"), "output_dir": tmp_path}
    canvas.measure(**files, only=("dreams", "gradients"))
    assert asked == [("gradients",), ("dreams", (Path("a.png"),), Path("w.h5"), tmp_path)]
    for _ in range(2):
        canvas.measure(**files, results=page)
    assert [name for name, *_ in asked] == ["gradients", "dreams", "optimizers", "megapixels", "paintings"]
    assert asked[-1] == ("paintings", (Path("a.png"),), (Path("b.png"),), None, tmp_path)
    assert "| dreams |  | 2.000 |" in page.read_text() and "| dreams |  | 2.000 |" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "canvas.json").read_text())) == {name for name, *_ in asked}


def style_left(network: keras.Model, picture: np.ndarray, style: np.ndarray) -> float:
    """What is left of the style loss before one convolution of single pixels."""
    kernel, bias = (part.astype(np.float64) for part in network.get_layer("conv1").get_weights())

    def products(image: np.ndarray) -> np.ndarray:
        maps = np.maximum((image.reshape(-1, 3) / 127.5 - 1) @ kernel[0, 0] + bias, 0)
        return maps.T @ maps / len(maps)

    return ((products(picture) - products(style)) ** 2).sum() / (products(style) ** 2).sum()


@pytest.mark.slow
def test_each_photo_is_painted_in_the_manner_of_each_painting(tmp_path, monkeypatch):
    """Before two networks of one convolution, of which one stands for SqueezeNet."""
    networks = {name: looking(5, kernel=1, seed=seed) for seed, name in enumerate(("embedded", "SqueezeNet"))}
    networks["embedded"].save(tmp_path / "one.keras")
    monkeypatch.setattr(canvas, "squeezenet_layers", lambda path: networks["SqueezeNet"])
    layers = {"content_layers": "conv1", "style_layers": "conv1"}
    monkeypatch.setattr(canvas, "SQUEEZENET", {"network": "file"} | layers)
    little = {
        "network": "file",
        "weights": str(tmp_path / "one.keras"),
        "size": 32,
        "scales": 1,
        "epochs": 1,
        "steps": 3,
    }
    config = recipes.style_transfer.Config
    monkeypatch.setattr(recipes.style_transfer, "Config", lambda **given: config(**little | layers | given))
    photo, painting = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    painting //= 3
    files = [save_image(photo, tmp_path / "cat.png"), save_image(painting, tmp_path / "night.png")]
    scores = canvas.measure_paintings(files[:1], files[1:], tmp_path / "arrays.npz", tmp_path / "out")
    assert scores.keys() == networks.keys()
    for name, row in scores.items():
        painted = read_image(tmp_path / "out" / name / "night-cat.png")
        assert painted.shape == photo.shape and row["paintings"] == 1 and row["seconds"] > 0
        after, before = (style_left(networks[name], image, painting) for image in (painted, photo))
        assert (
            row["relative_style_loss"] == pytest.approx(after / before, rel=1e-2, abs=1e-4)
            and row["relative_style_loss"] < 0.5
        )


@pytest.mark.slow
def test_a_gradient_is_timed_in_two_precisions_beside_a_product_of_matrices(monkeypatch):
    monkeypatch.setattr(canvas, "SIDE", 40)
    monkeypatch.setattr(canvas, "ROUNDS", 2)
    monkeypatch.setattr(canvas, "PRODUCT_SIDE", 64)
    network = within(looking(4, 6))
    monkeypatch.setattr(recipes.style_transfer, "build", lambda config: recipes.style_transfer.Networks(network))
    config = recipes.style_transfer.Config(content_layers="conv1", style_layers="conv2")
    monkeypatch.setattr(recipes.style_transfer, "VGG19", config)
    monkeypatch.setattr(recipes.style_transfer, "Config", lambda: config)
    scores = canvas.measure_gradients()
    assert list(scores) == [
        f"{name} px, {kind}"
        for name in ("embedded, 40", "VGG19, random weights, 20")
        for kind in ("float32", "bfloat16")
    ]
    for (name, row), side in zip(scores.items(), (40, 40, 20, 20), strict=True):
        work = 4 * ((side - 2) ** 2 * 9 * 3 * 4 + ((side - 2) // 2 - 2) ** 2 * 9 * 4 * 6) / 1e9
        assert row["speed"] * row["seconds"] == pytest.approx(work)
        assert row["fraction"] == pytest.approx(row["speed"] / row["peak"])
        assert ("cosine" in row) == ("faster" in row) == name.endswith("bfloat16")
        assert row.get("cosine", 1.0) == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_optimizers_are_told_their_lowest_losses_after_some_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "SECONDS", (30, 60))
    ticks = itertools.count()  # of a clock that only goes on when it is looked at, after each evaluation
    monkeypatch.setattr(canvas, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(
        canvas, "read_square", lambda side: np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    )
    looking(5, kernel=1).save(tmp_path / "one.keras")
    config = recipes.style_transfer.Config(
        network="file", weights=str(tmp_path / "one.keras"), content_layers="conv1", style_layers="conv1", scales=1
    )
    monkeypatch.setattr(recipes.style_transfer, "Config", lambda **_: config)
    scores = canvas.measure_optimizers()
    assert list(scores) == ["L-BFGS", *(f"Adam, learning rate {rate}" for rate in (0.01, 0.02, 0.05))]
    for row in scores.values():
        assert 0 < row["60 s"] <= row["30 s"] and 1 < row["evaluations"] <= 61
    assert scores["L-BFGS"]["60 s"] < scores["Adam, learning rate 0.01"]["30 s"]


@pytest.mark.slow
def test_megapixels_are_dreamt_by_code_that_says_its_seconds_and_gigabytes(tmp_path, monkeypatch):
    """The code runs here and not in a process of its own; the photo is a tile, six times down and eight across."""
    square = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    monkeypatch.setattr(canvas, "read_square", lambda side: square if side == 500 else None)
    dreamt, clock = [], [0.0]

    def dream_file(*given):
        dreamt.append(given)
        clock[0] += 1 + 0.1 * given[-1].steps  # a second to read and to write

    monkeypatch.setattr(recipes.deepdream, "dream_file", dream_file)

    def run(command: list[str], **options) -> subprocess.CompletedProcess:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: clock[0])
            exec(command[2], {})
        return subprocess.CompletedProcess(command, 0, said.getvalue())

    monkeypatch.setattr(canvas.subprocess, "run", run)
    (row,) = canvas.measure_megapixels(tmp_path).values()
    assert row["seconds_per_step"] == pytest.approx(0.1) and 0.1 < row["gigabytes"] < 100
    (source, destination, _), _ = dreamt
    np.testing.assert_array_equal(read_image(source), np.tile(square, (6, 8, 1)))
    assert destination.parent == tmp_path and destination != source
    assert [(config.octaves, config.steps) for *_, config in dreamt] == [(1, 1), (1, 3)]


def test_each_photo_is_dreamt_before_two_networks(tmp_path, monkeypatch):
    built = []

    def build(config):
        built.append(config)
        return config.network

    monkeypatch.setattr(recipes.deepdream, "build", build)

    clock = [0.0]

    def train(network, dream, config):
        clock[0] += 2.5
        dream.image[:] = 0 if network == "embedded" else 250

    monkeypatch.setattr(recipes.deepdream, "train", train)
    monkeypatch.setattr(canvas, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    photo = save_image(np.full((320, 640, 3), 128, np.uint8), tmp_path / "cat.png")
    scores = canvas.measure_dreams([photo], tmp_path / "weights.h5", tmp_path)
    assert [(row["dreams"], row["seconds"]) for row in scores.values()] == [(1, 2.5)] * 2
    assert built[0] == recipes.deepdream.Config()
    assert (built[1].network, built[1].weights) == ("MobileNetV2", str(tmp_path / "weights.h5"))
    for name, value in (("embedded", 0), ("MobileNetV2", 250)):
        both = read_image(tmp_path / f"dream-{name}" / "cat.png")
        assert both.shape == (320, 2 * 640 + 4, 3)
        assert (both[:, :640] == 128).all() and (both[:, -640:] == value).all()


# %% benchmarks.precision


def test_precisions_are_compared_seed_by_seed():
    def run(error: float, speed: float) -> dict[str, float]:
        return {"test_accuracy": error, "steps_per_second": speed}

    numbers = {
        "lenet, seed 0, float32": run(0.5, 10.0),
        "lenet, seed 0, mixed_bfloat16": run(0.4, 20.0),
        "lenet, seed 1, float32": run(0.7, 40.0),
        "lenet, seed 1, mixed_bfloat16": run(0.4, 60.0),
        "dcgan, seed 0, float32": {"frechet_distance": 1.0, "steps_per_second": 1.0},
    }
    assert precision.table(numbers).splitlines()[2:] == [
        "| lenet, accuracy | 0.6000 ± 0.1414 | 0.4000 ± 0.0000 | 1.75 (1.50-2.00) | 2 |"
    ]


@pytest.mark.slow
def test_both_precisions_of_a_demo_are_run_once(tmp_path, monkeypatch, capsys):
    draw_fewer_everywhere(1500, monkeypatch.setitem)
    for _ in range(2):
        precision.measure(seeds=(5,), only=("lenet",), epochs=1, output_dir=tmp_path)
    found = json.loads((tmp_path / "precision.json").read_text())
    assert list(found) == ["lenet, seed 5, float32", "lenet, seed 5, mixed_bfloat16"]
    assert all(run["test_accuracy"] > 0.2 and run["steps_per_second"] > 0 for run in found.values())
    settings = json.loads((tmp_path / "lenet-seed-5-mixed_bfloat16" / "config.json").read_text())["config"]
    assert settings["precision"] == "mixed_bfloat16" and settings["seed"] == 5
    assert capsys.readouterr().out.count("| lenet, accuracy |") == 2


def test_a_demo_that_is_not_compared_is_refused(tmp_path):
    with pytest.raises(InputError, match="--only 'mlp': not in this benchmark; choose from lenet"):
        precision.measure(only=("mlp",), output_dir=tmp_path)
