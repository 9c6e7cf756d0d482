"""Attacks against NumPy on a linear network, the training step against its losses, and the verbs on a tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.special import log_softmax, softmax

from common.data.batches import batches
from common.data.synthetic import SETS
from common.images.reading import read_image
from common.runs.attacks import CURVE_LEVELS
from common.runs.cli import _in_range
from common.runs.networks import load_network
from common.runs.pretrained import Classifier
from common.runs.run import Run
from common.samples.clothes import CLOTHES_CLASSES, synthetic_clothes
from common.system.files import InputError
from recipes import fgsm
from recipes.fgsm import (
    Config,
    attack_file,
    build,
    classify,
    evaluate_file,
    make_attack,
    run,
    to_levels,
    train,
)

SMALL = {"size": 8, "outputs": 3, "base_filters": 4, "batch_size": 6}


class Linear(NamedTuple):
    """A network of one matrix, and the same matrix."""

    network: keras.Model
    matrix: np.ndarray  # [pixels, classes]
    offset: np.ndarray  # [classes]

    def logits(self, images: np.ndarray) -> np.ndarray:
        return (images.reshape(len(images), -1) / 127.5 - 1) @ self.matrix + self.offset

    def losses(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return -log_softmax(self.logits(images), 1)[np.arange(len(labels)), labels]

    def gradient(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        wrong = softmax(self.logits(images), 1) - np.eye(len(self.offset))[labels]
        return (wrong @ self.matrix.T).reshape(images.shape)


def linear(classes: int, seed: int = 0, size: int = 6, channels: int = 3) -> Linear:
    generator = np.random.default_rng(seed)
    matrix = generator.normal(0, 0.3, (size * size * channels, classes)).astype(np.float32)
    offset = generator.normal(0, 0.3, classes).astype(np.float32)
    images = keras.Input((size, size, channels))
    dense = keras.layers.Dense(classes)
    network = keras.Model(images, dense(keras.layers.Flatten()(images)))
    dense.set_weights([matrix, offset])
    return Linear(network, matrix, offset)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Return pixels of which every third is black or white."""
    generator = np.random.default_rng(seed)
    ends = 255 * generator.integers(0, 2, shape)
    return np.where(generator.random(shape) < 1 / 3, ends, generator.integers(0, 256, shape)).astype(np.uint8)


def numbers(count: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, count).astype(np.int32)


# The attack


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("levels", [1, 25, 200])
def test_one_step_on_a_linear_network_is_the_sign_of_its_closed_form(classes, levels):
    known = linear(classes)
    images, labels = noise(20, 6, 6, 3), numbers(20, classes)
    gradient = known.gradient(images, labels)
    assert np.abs(gradient).min() > 1e-6 * np.abs(gradient).max()  # no sign hangs on a rounding
    expected = np.clip(images + levels * np.sign(gradient), 0, 255).astype(np.uint8)
    found = make_attack(known.network)(images, labels, levels)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_pixel_that_says_nothing_does_not_move(steps):
    known = linear(3)
    silent = np.random.default_rng(1).random((6, 6, 3)) < 0.4
    weights = np.where(silent.reshape(-1, 1), 0, known.matrix)
    known.network.layers[-1].set_weights([weights, known.offset])
    images = noise(4, 6, 6, 3)
    images[(images < 9) | (images > 246)] = 128
    moved = make_attack(known.network, steps)(images, numbers(4, 3), 8) != images
    assert 10 < silent.sum() < 98
    assert not moved[:, silent].any() and moved[:, ~silent].all()


@pytest.mark.parametrize(("steps", "levels", "each"), [(4, 8, 5), (10, 4, 1), (5, 12, 6)])
def test_many_steps_on_a_linear_network_are_those_written_out_in_whole_levels(steps, levels, each):
    """With these numbers a step, 2.5 bounds over the steps, is a whole number of levels."""
    known = linear(5, seed=3)
    images, labels = noise(20, 6, 6, 3), numbers(20, 5)
    low, high = np.maximum(images.astype(int) - levels, 0), np.minimum(images.astype(int) + levels, 255)
    expected = images.astype(int)
    turned = np.zeros(images.shape, bool)
    first = np.sign(known.gradient(expected, labels))
    for _ in range(steps):
        direction = np.sign(known.gradient(expected, labels))
        turned |= direction != first
        expected = np.clip(expected + each * direction, low, high).astype(int)
    assert turned.any()  # or one step would do as well
    np.testing.assert_array_equal(make_attack(known.network, steps)(images, labels, levels), expected)


@pytest.mark.parametrize("steps", [1, 5])
def test_no_value_leaves_its_bound_nor_a_byte(steps):
    """In a wider type, and against the bound in whole levels: 0 less 1 must not become 255."""
    attack = make_attack(linear(3, size=8, channels=1).network, steps)
    generator = np.random.default_rng(steps)
    reached = 0
    for case in range(200):
        images, levels = noise(1, 8, 8, 1, seed=case), int(generator.integers(1, 65))
        attacked = attack(images, generator.integers(0, 3, 1), levels)
        change = np.abs(attacked.astype(int) - images)
        assert attacked.dtype == np.uint8 and attacked.shape == images.shape and change.max() <= levels
        reached += int(change.max() == levels)
    assert reached > 190


@pytest.mark.parametrize("classes", [2, 5])
def test_the_loss_of_a_linear_network_rises_for_each_image(classes):
    known = linear(classes, seed=2)
    images, labels = noise(100, 6, 6, 3, seed=1), numbers(100, classes, seed=1)
    once, often = (make_attack(known.network, steps)(images, labels, 8) for steps in (1, 10))
    before, after, later = (known.losses(each, labels) for each in (images, once, often))
    assert (after > before).all()
    assert later.mean() >= after.mean()
    if classes == 2:  # the gradient always points the same way
        np.testing.assert_array_equal(once, often)
    else:
        assert later.mean() > after.mean() + 1e-4


def test_the_mean_loss_of_a_network_with_convolutions_rises():
    network = build(Config(**SMALL)).classifier
    images, labels = noise(50, 8, 8, 1), numbers(50, 3)

    def loss(of: np.ndarray) -> float:
        return -float(np.log(classify(network, of)[np.arange(50), labels]).mean())

    losses = [loss(images), *(loss(make_attack(network, steps)(images, labels, 12)) for steps in (1, 10))]
    assert losses[0] < losses[1] < losses[2]


def test_what_the_network_says_is_a_probability_of_each_class():
    known = linear(4)
    images = noise(230, 6, 6, 3)
    found = classify(known.network, images)
    np.testing.assert_allclose(found, softmax(known.logits(images), 1), atol=1e-5)


# Epsilon


@pytest.mark.parametrize(
    ("epsilon", "levels"),
    [
        (0.004, 1),
        (0.005, 1),
        (1 / 255, 1),
        (2 / 255, 2),
        (0.007843137, 2),  # 2 / 255 as it is printed
        (0.1, 25),
        (0.25, 63),
        (0.5, 127),
        (254.9 / 255, 254),
        (1, 255),
    ],
)
def test_an_epsilon_in_whole_levels_rounded_down(epsilon, levels):
    assert to_levels(epsilon) == levels


def test_every_number_of_levels_comes_back():
    assert [to_levels(level / 255) for level in range(1, 256)] == list(range(1, 256))


@pytest.mark.parametrize("epsilon", [0.003, 0, -1, 1.1, 1.003, -0.1, float("nan"), float("inf")])
def test_an_epsilon_that_is_no_level_or_more_than_all(epsilon):
    with pytest.raises(InputError, match=rf"^epsilon must be 0\.00392 or more and at most 1, got {epsilon}$"):
        Config(epsilon=epsilon)


def test_an_attack_takes_fifty_images_at_once_and_gives_what_it_gives_for_each():
    known = linear(3)
    images, labels = noise(60, 6, 6, 3), numbers(60, 3)
    attack = make_attack(known.network)
    each = [attack(images[n : n + 1], labels[n : n + 1], 4) for n in range(60)]
    np.testing.assert_array_equal(attack(images, labels, 4), np.concatenate(each))


# Training


def stepped(monkeypatch, config: Config, steps: int = 1):
    """Train by plain gradient descent, whose steps show the gradient."""
    images, labels = noise(12, 8, 8, 1), numbers(12, 3)
    found = {}
    monkeypatch.setattr(fgsm, "fit", lambda step, *_, **options: found.update(step=step, **options))

    def plain_descent(rate, variables):
        optimizer = keras.optimizers.SGD(rate)
        optimizer.build(variables)
        return optimizer

    monkeypatch.setattr(fgsm, "adam", plain_descent)
    networks = build(config)
    train(networks, batches((images, labels), 6, 0, held_out=(images, labels)), config)
    for _ in range(steps):
        losses = {name: float(loss) for name, loss in found["step"](images[:6], labels[:6]).items()}
    return networks, found, losses


def losses_and_gradients(config: Config) -> tuple[dict[str, float], list[list[np.ndarray]]]:
    """Return what one step says, and each network's gradient, computed with Keras's loss and NumPy's bounds."""
    networks = build(config)
    images, labels = noise(12, 8, 8, 1)[:6], numbers(12, 3)[:6]
    mean_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    origin = images / np.float32(127.5) - np.float32(1)
    bound = 2 * config.epsilon
    low, high = np.maximum(origin - bound, -1), np.minimum(origin + bound, 1)
    first, length = origin, bound
    if config.random_start:
        start = keras.random.uniform(origin.shape, -bound, bound, seed=keras.random.SeedGenerator(config.seed))
        first, length = np.clip(origin + start.numpy(), low, high), 1.25 * bound
    x = tf.Variable(first)
    with tf.GradientTape() as tape:
        loss = mean_loss(labels, networks.robust(x))
    attacked = np.clip(first + length * np.sign(tape.gradient(loss, x)), low, high).astype(np.float32)
    with tf.GradientTape(persistent=True) as tape:
        plain = mean_loss(labels, networks.classifier(origin))
        clean, under = (mean_loss(labels, networks.robust(each)) for each in (origin, attacked))
        mixture = (1 - config.adversarial_weight) * clean + config.adversarial_weight * under
    pairs = zip((plain, mixture), networks, strict=True)
    gradients = [[g.numpy() for g in tape.gradient(of, network.trainable_variables)] for of, network in pairs]
    losses = {"classifier": plain, "robust": clean, "robust_attacked": under}
    return {name: float(value) for name, value in losses.items()}, gradients


@pytest.mark.parametrize(("adversarial_weight", "random_start"), [(0.0, True), (0.3, False), (1.0, True)])
@pytest.mark.usefixtures("untraced")
def test_losses_and_update_of_one_step_against_keras_and_numpy(adversarial_weight, random_start, monkeypatch):
    config = Config(
        **SMALL, random_start=random_start, adversarial_weight=adversarial_weight, epsilon=0.08, learning_rate=0.1
    )
    expected, gradients = losses_and_gradients(config)
    assert expected["robust_attacked"] > expected["robust"] + 0.01
    networks, _, losses = stepped(monkeypatch, config)
    assert losses == pytest.approx(expected, rel=1e-5)
    for network, fresh, parts in zip(networks, build(config), gradients, strict=True):
        for variable, before, gradient in zip(network.weights, fresh.get_weights(), parts, strict=True):
            assert np.abs(gradient).max() > 0
            np.testing.assert_allclose(variable.numpy(), before - 0.1 * gradient, atol=2e-6, err_msg=variable.path)


@pytest.mark.usefixtures("untraced")
def test_without_a_random_start_it_learns_from_the_images_that_fgsm_makes(monkeypatch):
    config = Config(**SMALL, random_start=False, epsilon=20 / 255)
    images, labels = noise(12, 8, 8, 1)[:6], numbers(12, 3)[:6]
    robust = build(config).robust
    probabilities = classify(robust, make_attack(robust)(images, labels, 20))
    _, _, losses = stepped(monkeypatch, config)
    expected = -np.log(probabilities[np.arange(6), labels]).mean()
    assert losses["robust_attacked"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("untraced")
def test_every_step_has_a_random_start_of_its_own(monkeypatch):
    config = Config(**SMALL, learning_rate=0.0)
    _, found, _ = stepped(monkeypatch, config)
    again = {name: float(loss) for name, loss in found["step"](noise(12, 8, 8, 1)[:6], numbers(12, 3)[:6]).items()}
    _, _, first = stepped(monkeypatch, config)
    assert again["robust"] == pytest.approx(first["robust"]) and again["classifier"] == first["classifier"]
    assert again["robust_attacked"] != first["robust_attacked"]


@pytest.mark.usefixtures("untraced")
def test_an_epoch_is_judged_on_images_that_attack_the_robust_network(monkeypatch):
    config = Config(**SMALL, epsilon=0.1)
    (classifier, robust), found, _ = stepped(monkeypatch, config, steps=3)
    images, labels = noise(12, 8, 8, 1), numbers(12, 3)
    attacked = make_attack(robust)(images, labels, 25)
    expected = {
        "accuracy": (classify(classifier, images).argmax(1) == labels).mean(),
        "robust_accuracy": (classify(robust, images).argmax(1) == labels).mean(),
        "robust_attacked_accuracy": (classify(robust, attacked).argmax(1) == labels).mean(),
    }
    assert len(set(expected.values())) > 1
    assert found["on_epoch"][0](1, {}) == expected


# Networks


def test_parameters_counted_by_hand_and_two_networks_that_begin_otherwise():
    classifier, robust = build()
    convolutions = 9 * 1 * 16 + 16 + 9 * 16 * 16 + 16 + 9 * 16 * 32 + 32 + 9 * 32 * 32 + 32
    assert classifier.count_params() == convolutions + 7 * 7 * 32 * 128 + 128 + 128 * 10 + 10
    assert not np.array_equal(classifier.get_weights()[0], robust.get_weights()[0])


@pytest.mark.parametrize("size", [4, 7, 30])
def test_a_size_that_does_not_halve_twice_is_refused(size):
    with pytest.raises(InputError, match=f"size must be .*, got {size}"):
        build(Config(size=size))


# The verbs


CLASSES = ("dark", "grey cloth", "bright")


def shades(count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 3
    shade = np.random.default_rng(count).normal(60 + 60 * labels[:, None, None], 25, (count, 16, 16))
    return np.clip(shade, 0, 255).astype(np.uint8), labels


def written(path: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), (*shades(90), *shades(21)), strict=True))
    np.savez(path, classes=np.array(classes), **arrays)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with `data.npz` and the run that `run` makes of it."""
    folder = tmp_path_factory.mktemp("fgsm")
    config = Config(size=16, base_filters=4, batch_size=27, epochs=2, epsilon=0.1, mirror=False)
    picture = run(str(written(folder / "data.npz")), config, folder / "run")
    assert picture == folder / "run" / "attacks.png"
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A run with the two networks as they begin."""
    folder = tmp_path_factory.mktemp("run")
    config = Config(size=8, base_filters=4, outputs=3)
    Run(folder, "fgsm", config, "data.npz").start(CLASSES)
    for name, network in build(config)._asdict().items():
        network.save(folder / f"{name}.keras")
    return folder


def said(path: Path, probabilities: np.ndarray) -> str:
    return f"{path}  {CLASSES[probabilities.argmax()]} {100 * probabilities.max():.0f} %"


def square_of(path: Path, size: int) -> np.ndarray:
    """Return the grey centre square by Pillow alone: uint8 [1, size, size, 1]."""
    with Image.open(path) as image:
        shown = image.convert("RGBA")
    grey = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB").convert("L")
    side = min(grey.size)
    left, top = (grey.width - side) // 2, (grey.height - side) // 2
    part = grey.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(part)[None, ..., None]


def picture(path: Path, mode: str = "RGB", width: int = 97, height: int = 131) -> Path:
    """Write a picture whose outer parts differ from its centre."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(60, 200, (height, width, bands)).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if bands == 1 else pixels).save(path)
    return path


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_file_is_taken_for_what_was_printed(robust, steps, untrained, tmp_path, capsys):
    source, destination = picture(tmp_path / "in.png"), tmp_path / "new" / "out.png"
    assert attack_file(source, destination, 0.1, steps, robust=robust, run=untrained) == destination
    before, after = capsys.readouterr().out.splitlines()
    network = load_network(untrained, "robust" if robust else "classifier")
    square = square_of(source, 8)
    assert before == said(source, classify(network, square)[0])
    again = np.asarray(Image.open(destination))[None, ..., None]
    assert after == f"{said(destination, classify(network, again)[0])}, epsilon 25/255"
    assert 0 < np.abs(again.astype(int) - square).max() <= 25
    assert sorted(path.name for path in destination.parent.iterdir()) == ["out.png", "out_change.png", "out_strip.png"]
    number = classify(network, square).argmax(1)
    np.testing.assert_array_equal(again, make_attack(network, steps)(square, number, 25))


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".png"), ("RGBA", ".PNG"), ("RGB", ".bmp"), ("RGB", ".tif")])
def test_sources_of_odd_size_and_of_every_kind(mode, suffix, untrained, tmp_path, capsys):
    source, destination = picture(tmp_path / "in.png", mode), tmp_path / f"out{suffix}"
    attack_file(source, destination, 0.05, run=untrained)
    change = np.asarray(Image.open(destination)).astype(int) - square_of(source, 8)[0, ..., 0]
    assert set(np.unique(np.abs(change))) <= {0, 12} and np.abs(change).max() == 12
    after = capsys.readouterr().out.splitlines()[1]
    assert after.startswith(f"{destination}  ") and after.endswith(" %, epsilon 12/255")


def test_the_attack_leads_away_from_the_class_that_is_given(untrained, tmp_path):
    source, network = picture(tmp_path / "in.png"), load_network(untrained, "classifier")
    files = {label: attack_file(source, tmp_path / f"{place}.png", 0.1, label=label, run=untrained)
             for place, label in enumerate(("dark", "Grey_Cloth"))}  # fmt: skip
    for number, path in enumerate(files.values()):
        expected = make_attack(network)(square_of(source, 8), np.array([number]), 25)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected[0, ..., 0])
    assert len({path.read_bytes() for path in files.values()}) == 2


def test_beyond_the_centre_square_nothing_changes_where_a_network_takes_any_size(untrained, tmp_path, monkeypatch):
    images = keras.Input((None, None, 3))
    dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(0))
    network = keras.Model(images, dense(keras.layers.Flatten()(keras.layers.Resizing(8, 8)(images))))
    known = Classifier(network, CLASSES, 8, 3, 0, any_size=True)
    monkeypatch.setattr(Classifier, "load", lambda *_: known)
    source = picture(tmp_path / "in.png")
    attack_file(source, tmp_path / "out.png", 0.05, weights="imagenet")
    before, after = (read_image(path).astype(int) for path in (source, tmp_path / "out.png"))
    assert before.shape == after.shape == (131, 97, 3)
    inside = np.zeros((131, 97), bool)
    inside[17:114] = True
    change = np.abs(after - before)
    assert not change[~inside].any() and set(np.unique(change[inside])) == {0, 12}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"destination": "out.jpg"}, r"out\.jpg: this format may change .* pixels; use a name that ends in \.png"),
        ({"epsilon": 0.003}, r"epsilon must be 0\.00392 or more and at most 1, got 0\.003"),
        ({"epsilon": 1.1}, r"epsilon must be .*, got 1\.1"),
        ({"steps": 0}, "steps must be 1 or more and at most 10000, got 0"),
        ({"steps": -2}, "steps must be 1 or more and at most 10000, got -2"),
        ({"label": "gray cloth"}, "'gray cloth' is not one of the 3 classes; the most similar are grey cloth"),
        ({"label": "3"}, "'3' is not one of the 3 classes"),
        ({"source": "nowhere.png"}, r"nowhere\.png: No such file"),
        ({"run": "nowhere"}, "nowhere: no run here .*; make one with"),
    ],
)
def test_an_attack_that_cannot_be_made_is_one_line_and_leaves_no_file(changes, message, untrained, tmp_path):
    picture(tmp_path / "in.png")
    given = {"source": tmp_path / "in.png", "destination": tmp_path / "out.png", "run": untrained}
    paths = {name: tmp_path / value for name, value in changes.items() if name in given}
    with pytest.raises(InputError, match=message) as error:
        _in_range(attack_file)(**(given | changes | paths))  # as the command line does
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_a_label_of_two_classes_and_a_run_that_is_not_fgsms(untrained, tmp_path):
    source, settings = picture(tmp_path / "in.png"), json.loads((untrained / "config.json").read_text())
    for name, changes in (("twins", {"classes": ["crane", "dog", "Crane"]}), ("other", {"recipe": "lenet"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(settings | changes))
        (tmp_path / name / "classifier.keras").hardlink_to(untrained / "classifier.keras")
    with pytest.raises(InputError, match="'crane' is the name of classes 0 and 2; give the class index"):
        attack_file(source, tmp_path / "out.png", label="crane", run=tmp_path / "twins")
    attack_file(source, tmp_path / "out.png", label="2", run=tmp_path / "twins")
    with pytest.raises(InputError, match="other: a run of lenet, not of fgsm; choose a run of fgsm"):
        attack_file(source, tmp_path / "out.png", run=tmp_path / "other")


def test_a_run_that_has_not_finished(untrained, tmp_path):
    (tmp_path / "config.json").write_bytes((untrained / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"classifier\.keras: there is no such file; has this run finished training\?"):
        attack_file(picture(tmp_path / "in.png"), tmp_path / "out.png", run=tmp_path)


def printed(capsys) -> dict[str, float]:
    pairs = [line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines()]
    return {name: float(right.removesuffix(" %")) for name, right in pairs}


def share_right(network: keras.Model, images: np.ndarray, labels: np.ndarray, steps: int, level: int) -> float:
    seen = make_attack(network, steps)(images, labels, level) if level else images
    return float((classify(network, seen).argmax(1) == labels).mean())


@pytest.mark.slow
def test_a_run_has_its_pictures_and_the_accuracy_of_what_it_saved(made):
    scores = json.loads((made / "run" / "results.json").read_text())
    images, labels = shades(21)
    assert {"attacks.png", "accuracy.png", "classifier.keras", "robust.keras", "report.html"} <= {
        path.name for path in (made / "run").iterdir()
    }
    assert len(scores) == 2 * 2 * len(CURVE_LEVELS)
    for name in ("classifier", "robust"):
        network = load_network(made / "run", name)
        for words, steps, level in (
            ("1 step", 1, 0),
            ("1 step", 1, CURVE_LEVELS[3]),
            ("10 steps", 10, CURVE_LEVELS[4]),
        ):
            right = share_right(network, images[..., None], labels, steps, level)
            assert scores[f"{name}, {words}, {level}/255"] == pytest.approx(right)
    assert min(scores.values()) < max(scores.values())


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_accuracy_is_printed_as_the_run_has_it(named, made, tmp_path, capsys):
    scores = json.loads((made / "run" / "results.json").read_text())
    path = evaluate_file(tmp_path / "curve.png", str(made / "data.npz") if named else "", run=made / "run")
    assert path == tmp_path / "curve.png" and np.ptp(read_image(path)) > 100
    assert printed(capsys) == {name: pytest.approx(100 * right, abs=0.051) for name, right in scores.items()}


@pytest.mark.slow
@pytest.mark.parametrize("images", [0, -1])
def test_no_images_at_all(images, made, tmp_path):
    with pytest.raises(InputError, match=f"images must be 1 or more, got {images}"):
        evaluate_file(tmp_path / "curve.png", images=images, run=made / "run")


def few(monkeypatch) -> None:
    monkeypatch.setattr("common.runs.attacks.CURVE_LEVELS", (0, 4))


def test_accuracy_on_a_folder_of_pictures(untrained, tmp_path, capsys, monkeypatch):
    few(monkeypatch)
    images, labels = shades(21)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / CLASSES[label]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / CLASSES[label] / f"{number}.png")
    evaluate_file(tmp_path / "curve.png", str(tmp_path), run=untrained)
    small = np.stack([square_of(path, 8)[0] for name in CLASSES for path in (tmp_path / name).iterdir()])
    right = np.repeat(np.arange(3), 7)
    found = printed(capsys)
    assert len(found) == 8
    for name in ("classifier", "robust"):
        network = load_network(untrained, name)
        for level in (0, 4):
            expected = 100 * share_right(network, small, right, 1, level)
            assert found[f"{name}, 1 step, {level}/255"] == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize(("images", "share"), [(1, 100), (2, 50), (4, 25)])
def test_so_many_images_are_used(images, share, untrained, tmp_path, capsys, monkeypatch):
    few(monkeypatch)
    evaluate_file(tmp_path / "curve.png", str(written(tmp_path / "data.npz")), images, run=untrained)
    assert all(value / share == round(value / share) for value in printed(capsys).values())


def test_data_of_other_classes(untrained, tmp_path):
    data = written(tmp_path / "data.npz", ("dark", "grey", "bright"))
    message = "has the classes dark, grey, bright, but the classifier has dark, grey cloth, bright; choose --data"
    with pytest.raises(InputError, match=message):
        evaluate_file(tmp_path / "curve.png", str(data), run=untrained)
    assert not (tmp_path / "curve.png").exists()


def test_a_folder_of_other_classes(untrained, tmp_path):
    for name in ("dark", "night"):
        (tmp_path / name).mkdir()
        for number in range(2):
            picture(tmp_path / name / f"{number}.png")
    with pytest.raises(InputError, match="'night' is not one of the 3 classes; the most similar are .*bright"):
        evaluate_file(tmp_path / "curve.png", str(tmp_path), run=untrained)


@pytest.mark.slow
def test_a_run_on_drawn_clothes_is_judged_by_those_it_has_not_seen(tmp_path, capsys, monkeypatch):
    few(monkeypatch)
    config = Config(size=16, base_filters=4, seed=3)
    Run(tmp_path, "fgsm", config, "sample").start(CLOTHES_CLASSES)
    for name, network in build(config)._asdict().items():
        network.save(tmp_path / f"{name}.keras")
    drawn, labels = synthetic_clothes(5000, 3, 16)
    chosen = np.arange(4, 5000, 5)
    monkeypatch.setitem(SETS, "clothes", lambda size, seed: (drawn, labels) if (size, seed) == (16, 3) else None)
    evaluate_file(tmp_path / "curve.png", run=tmp_path)
    network = load_network(tmp_path, "classifier")
    expected = 100 * share_right(network, drawn[chosen].reshape(-1, 16, 16, 1), labels[chosen], 1, 4)
    assert printed(capsys)["classifier, 1 step, 4/255"] == pytest.approx(expected, abs=0.051)


def test_a_run_of_the_first_edition_loads_with_its_hardened_network(untrained, tmp_path):
    settings = json.loads((untrained / "config.json").read_text())
    settings["config"]["adversarial"] = settings["config"].pop("adversarial_weight")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "hardened.keras").hardlink_to(untrained / "robust.keras")
    loaded = Run.load(tmp_path, "fgsm", Config)
    assert loaded.config == Run.load(untrained, "fgsm", Config).config
    expected = load_network(untrained, "robust").get_weights()
    for weights, others in zip(loaded.network("robust").get_weights(), expected, strict=True):
        np.testing.assert_array_equal(weights, others)
