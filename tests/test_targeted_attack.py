from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import softmax

from common.images.reading import read_image
from common.images.writing import write_image
from common.runs.pretrained import Classifier
from common.runs.run import Run
from common.samples.digits import held_out_digits
from common.system.files import InputError
from recipes.targeted_attack import (
    DEMO,
    Attacks,
    Config,
    attack_file,
    build,
    classify,
    project,
    random_targets,
    round_to_origin,
    run,
    train,
)
from recipes.targeted_attack import Networks as Attacked
from tests.forked import forked_python

CLASSES = 4


@pytest.fixture(scope="module")
def linear() -> Attacked:
    """One dense layer of colour pixels: its gradient is known."""
    images = keras.Input((5, 6, 3))
    logits = keras.layers.Dense(CLASSES, kernel_initializer=keras.initializers.RandomNormal(stddev=0.5, seed=3))
    return Attacked(keras.Model(images, logits(keras.layers.Flatten()(images))))


def pictures(count: int, seed: int = 0) -> np.ndarray:
    images = np.random.default_rng(seed).integers(0, 256, (count, 5, 6, 3))
    return np.where(images < 30, 0, np.where(images > 225, 255, images)).astype(np.uint8)


def settings(**changes) -> Config:
    return Config(**{"epsilon": 8 / 255, "confidence": 1.0, "batch_size": 7, "steps": 6} | changes)


def written_out(kernel: np.ndarray, bias: np.ndarray, image: np.ndarray, target: int, config: Config) -> np.ndarray:
    """The attack on one picture before a linear network, step by step."""
    origin, bound = image.astype(np.float64), 255 * config.epsilon
    x, direction = origin.copy(), np.zeros_like(origin)
    for _ in range(config.steps):
        change = x - origin
        seen = origin + np.sign(change) * np.floor(np.abs(change) + 1e-3)
        found = softmax((seen / 127.5 - 1).ravel() @ kernel + bias)
        if found[target] >= config.confidence:
            break
        gradient = (kernel @ (found - np.eye(CLASSES)[target])).reshape(image.shape)
        direction = config.momentum * direction + gradient / np.abs(gradient).mean()
        unit = np.sign(direction) if config.norm == "linf" else direction / np.sqrt((direction**2).mean())
        change = x - config.step_size * bound * unit - origin
        if config.norm == "l2":
            change *= min(1, bound / np.sqrt((change**2).mean()))
        else:
            change = np.clip(change, -bound, bound)
        x = np.clip(origin + change, 0, 255)
    change = x - origin
    return (origin + np.sign(change) * np.floor(np.abs(change) + 1e-3)).astype(np.uint8)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("confidence", [0.8, 1.0])
def test_it_is_the_attack_written_out_in_numpy(linear, norm, confidence):
    config = settings(norm=norm, confidence=confidence, momentum=0.6, step_size=0.3)
    images, targets = pictures(9), np.arange(9) % CLASSES
    attacks = Attacks(images.copy(), targets)
    train(linear, attacks, config)
    kernel, bias = linear.classifier.get_weights()
    expected = [written_out(kernel, bias, *pair, config) for pair in zip(images, targets, strict=True)]
    np.testing.assert_array_equal(attacks.images, expected)
    assert not np.array_equal(attacks.images, images)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_200_attacks_stay_in_their_balls_in_eight_bits(linear, norm, random_start):
    images = pictures(200, seed=1)
    for levels in (1, 5, 40):
        config = settings(norm=norm, epsilon=levels / 255, random_start=random_start, batch_size=200, step_size=0.5)
        attacks = Attacks(images.copy(), np.arange(200) % CLASSES)
        train(linear, attacks, config)
        change = attacks.images.astype(float) - images
        size = np.abs(change).max((1, 2, 3)) if norm == "linf" else np.sqrt((change**2).mean((1, 2, 3)))
        assert size.max() <= levels + 1e-4
        assert (size > 0.4 * levels).all()


def test_the_probability_of_the_target_rises_and_a_picture_that_is_there_stays(linear):
    images, targets = pictures(30), np.arange(30) % CLASSES
    before = classify(linear.classifier, images)[np.arange(30), targets]
    attacks = Attacks(images.copy(), targets)
    history = train(linear, attacks, settings(epsilon=0.3, confidence=0.7, steps=60))
    after = classify(linear.classifier, attacks.images)[np.arange(30), targets]
    assert (after >= 0.7).all()
    there = before >= 0.7
    assert there.any()
    np.testing.assert_array_equal(attacks.images[there], images[there])
    assert not (attacks.images[~there] == images[~there]).all((1, 2, 3)).any()
    assert history[-1]["reached"] == 1 and len(history) < 60
    assert history[0]["confidence"] == pytest.approx(before.mean(), abs=1e-6)
    assert history[-1]["confidence"] == pytest.approx(after.mean(), abs=1e-6)
    assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))


def test_batches_do_not_change_what_is_found(linear):
    found = []
    for batch_size in (1, 4, 9):
        attacks = Attacks(pictures(9), np.arange(9) % CLASSES)
        history = train(linear, attacks, settings(batch_size=batch_size, confidence=0.8))
        found.append((attacks.images, history[-1]["confidence"]))
    for images, confidence in found[1:]:
        np.testing.assert_array_equal(images, found[0][0])
        assert confidence == pytest.approx(found[0][1], abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_projection_is_in_the_ball_and_leaves_what_is_there(norm):
    generator = np.random.default_rng(2)
    origin = generator.integers(0, 256, (50, 4, 4, 3)).astype(np.float32)
    near = (origin + generator.uniform(-2, 2, origin.shape)).clip(0, 255).astype(np.float32)
    config = settings(norm=norm, epsilon=3 / 255)
    np.testing.assert_allclose(project(near, origin, config), near, atol=1e-4)
    far = np.asarray(project(origin + 50 * (near - origin), origin, config)) - origin
    size = np.abs(far).max((1, 2, 3)) if norm == "linf" else np.sqrt((far**2).mean((1, 2, 3)))
    assert size.max() <= 3 + 1e-4


def test_in_a_file_are_whole_levels_and_no_change_grows():
    origin = np.full((1, 1, 7, 1), 100, np.float32)
    x = np.array([100, 100.9, 99.1, 103.9999, 96.0001, 101.5, 98.5], np.float32).reshape(origin.shape)
    assert np.asarray(round_to_origin(x, origin)).ravel().tolist() == [100, 100, 100, 104, 96, 101, 99]


def test_targets_are_all_other_classes():
    labels = np.repeat(np.arange(5), 200)
    targets = random_targets(labels, 5, seed=1)
    assert not (targets == labels).any()
    for label in range(5):
        assert set(targets[labels == label]) == set(range(5)) - {label}
    np.testing.assert_array_equal(targets, random_targets(labels, 5, seed=1))


@pytest.mark.parametrize("changes, line", [
    ({"size": 32}, "size must be 28 for this network, got 32"),
    ({"norm": "l1"}, "norm must be linf or l2, got 'l1'"),
    ({"network": "VGG16"}, "network must be one of .*MobileNetV2.*digits, run, a .keras file, got 'VGG16'"),
    ({"network": "run", "weights": "nowhere/classifier.keras"}, "nowhere/classifier.keras: there is no such file"),
])  # fmt: skip
def test_settings_that_cannot_be(changes, line):
    with pytest.raises(InputError, match=line):
        build(Config(**{"network": "digits", "weights": "", "size": 28} | changes))


@pytest.mark.parametrize("epsilon", [0.001, 0.0, 1.0001])
def test_an_epsilon_that_no_file_can_hold(epsilon, tmp_path):
    with pytest.raises(InputError, match=f"epsilon must be .* got {epsilon}"):
        run(config=Config(**vars(DEMO) | {"epsilon": epsilon}), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trained_run(tmp_path):
    """A linear classifier that a run has left, of colour pictures of 32 pixels."""
    images = keras.Input((32, 32, 3))
    kernel = keras.initializers.RandomNormal(stddev=0.05, seed=3)
    network = keras.Model(images, keras.layers.Dense(3, kernel_initializer=kernel)(keras.layers.Flatten()(images)))
    Run(tmp_path / "run", "lenet", DEMO, "sample").start(("cat", "T-shirt/top", "dog"))
    network.save(tmp_path / "run" / "classifier.keras")
    return Config(network="run", weights=str(tmp_path / "run" / "classifier.keras"), size=32, epsilon=0.1)


@pytest.mark.parametrize("targets", [("dog",), ("cat", "t-SHIRT/top")])
def test_a_picture_is_attacked_as_the_line_says(trained_run, targets, tmp_path, capsys):
    write_image(np.random.default_rng(0).integers(0, 256, (40, 57, 3)).astype(np.uint8), tmp_path / "a.jpg")
    attack_file(tmp_path / "a.jpg", tmp_path / "out.png", targets, trained_run)
    first, *lines = capsys.readouterr().out.splitlines()
    names = ["out.png", "out_T_shirt_top.png"][: len(targets)]
    assert first.startswith(f"{tmp_path / 'a.jpg'}  ") and len(lines) == len(targets)
    network = build(trained_run).classifier
    for name, line, target in zip(names, lines, targets, strict=True):
        image = read_image(tmp_path / name)
        assert image.shape == (32, 32, 3)
        number = ("cat", "t-shirt/top", "dog").index(target.lower())
        probability = classify(network, image[None])[0, number]
        assert probability >= 0.8
        assert line.startswith(f"{tmp_path / name}  ") and f"{100 * probability:.0f} %, epsilon 25/255" in line
        assert (tmp_path / name.replace(".png", "_change.png")).is_file()
    assert (tmp_path / "out_curve.png").is_file()


@pytest.mark.parametrize("target, line", [
    ((), "give one or more classes"),
    (("dgo",), "'dgo' is not one of the 3 classes; the most similar are dog"),
    (("3",), "'3' is not one of the 3 classes"),
])  # fmt: skip
def test_a_target_that_is_none(trained_run, target, line, tmp_path):
    write_image(pictures(1)[0], tmp_path / "a.png")
    with pytest.raises(InputError, match=line):
        attack_file(tmp_path / "a.png", tmp_path / "out.png", target, trained_run)
    assert not list(tmp_path.glob("out*"))


def test_names_of_other_scripts_and_equal_names_have_files_of_their_own(tmp_path, capsys):
    images = keras.Input((32, 32, 3))
    network = keras.Model(images, keras.layers.Dense(4)(keras.layers.Flatten()(images)))
    Run(tmp_path / "run", "lenet", DEMO, "sample").start(("crane", "журавль", "γερανός", "crane"))
    network.save(tmp_path / "run" / "classifier.keras")
    config = Config(network="run", weights=str(tmp_path / "run" / "classifier.keras"), size=32, steps=1)
    write_image(pictures(1)[0], tmp_path / "a.png")
    attack_file(tmp_path / "a.png", tmp_path / "out.png", ("0", "3", "журавль", "γερανός", "3"), config)
    assert len(capsys.readouterr().out.splitlines()) == 5
    names = {"out", "out_3", "out_журавль", "out_γερανός"}
    assert {path.stem for path in tmp_path.glob("out*") if "_change" not in path.stem} == names | {"out_curve"}


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"steps": -1}, {"confidence": 2.0}, {"momentum": 5.0}])
def test_settings_out_of_their_range(changes, tmp_path):
    (name, value), *_ = changes.items()
    with pytest.raises(InputError, match=f"{name} must be .*, got {value}"):
        attack_file(tmp_path / "a.png", tmp_path / "out.png", ("3",), Config(**changes))


def test_a_format_that_loses_is_refused(trained_run, tmp_path):
    write_image(pictures(1)[0], tmp_path / "a.png")
    with pytest.raises(InputError, match="ends in .png"):
        attack_file(tmp_path / "a.png", tmp_path / "out.jpg", ("dog",), trained_run)


@pytest.mark.slow
def test_a_run_says_what_its_files_show(trained_run, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(40) % 3
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:12], "y_test": labels[:12]}
    np.savez(tmp_path / "set.npz", **arrays, classes=np.array(["cat", "T-shirt/top", "dog"]))
    picture = run(str(tmp_path / "set.npz"), trained_run, tmp_path / "attacked")
    scores = json.loads((tmp_path / "attacked" / "results.json").read_text())
    assert picture.is_file() and scores["images"] == 12
    assert scores["reached"] == scores["classified_as_target"] == 1 and scores["largest_change"] <= 25
    assert scores["accuracy_after"] == 0 and scores["mean_confidence"] >= 0.8


@pytest.mark.slow
def test_the_command_line_takes_a_preset_and_leaves_no_run(tmp_path):
    images, labels = held_out_digits()
    classifier = Classifier.load("digits", "").network
    number = int(np.argmax(classify(classifier, images[:20]).argmax(1) == labels[:20]))  # the first that it reads right
    write_image(images[number], tmp_path / "digit.png")
    target = str((labels[number] + 1) % 10)
    command = [*forked_python(), "-m", "recipes.targeted_attack", "attack", "digit.png", "out.png", "--preset", "demo"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*command, "--target", target], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after, written = done.stdout.splitlines()
    assert before.startswith(f"digit.png  {labels[number]} ") and after.startswith(f"out.png  {target} ")
    assert written == "out.png"
    names = {"digit.png", "out.png", "out_change.png", "out_curve.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_run_of_the_first_edition_loads(tmp_path):
    config = Config(steps=7, epsilon=0.1)
    stored = dataclasses.asdict(config)
    stored["epochs"] = stored.pop("steps")
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "targeted_attack", "data": "sample", "config": stored}))
    assert Run.load(tmp_path, "targeted_attack", Config).config == config
