"""Attacks on a Keras file of one's own against gradients in NumPy, and feature networks of a fixed size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.applications import imagenet_utils

from common.images.reading import read_image
from common.images.writing import write_image
from common.runs.cli import run_command
from common.runs.own_classifiers import PREPROCESSING, class_names
from common.runs.pretrained import Classifier, frozen_features
from common.system.files import InputError
from common.system.keras_files import load_keras_file
from recipes import fgsm, targeted_attack
from recipes.deepdream import Config as DreamConfig
from recipes.deepdream import dream_file
from tests.pictures import noise

layers = keras.layers


def stored(path: Path, output: str = "logits", size: int | None = 8, channels: int = 3, classes: int = 4) -> np.ndarray:
    """Write a linear classifier, or one of mean colours if it has no size; return its weights [inputs, classes]."""
    images = keras.Input((size, size, channels))
    x = layers.Flatten()(images) if size else layers.GlobalAveragePooling2D()(images)
    count = 1 if output == "sigmoid" else classes
    activation = {"logits": None, "softmax layer": None}.get(output, output)
    x = layers.Dense(count, activation=activation, name="last")(x)
    network = keras.Model(images, layers.Softmax()(x) if output == "softmax layer" else x)
    weights = np.random.default_rng(3).normal(0, 1e-3, network.get_weights()[0].shape).astype(np.float32)
    network.set_weights([weights, np.linspace(0, 0.1, count)])
    network.save(path)
    return weights


def in_numpy(images: np.ndarray, preprocessing: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of uint8 images for a network, and their derivative by the pixel, for each channel."""
    x = images.astype(np.float64)
    if preprocessing in ("caffe", "torch"):
        values = imagenet_utils.preprocess_input(x.copy(), "channels_last", preprocessing)
        slope = np.ones(3) if preprocessing == "caffe" else 1 / (255 * np.array([0.229, 0.224, 0.225]))
        return values, slope
    low, high = map(float, preprocessing.split(".."))
    return low + (high - low) * x / 255, np.full(images.shape[-1], (high - low) / 255)


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


@pytest.mark.parametrize("output", ["logits", "softmax", "softmax layer"])
@pytest.mark.parametrize("preprocessing", PREPROCESSING)
def test_fgsm_on_a_file_follows_the_gradient_written_in_numpy(preprocessing, output, tmp_path):
    weights = stored(tmp_path / "own.keras", output)
    known = Classifier.load(str(tmp_path / "own.keras"), "", preprocessing=preprocessing)
    images, labels = noise(5, 8, 8, 3), np.array([0, 1, 2, 3, 0])
    values, slope = in_numpy(images, preprocessing)
    probabilities = softmax(values.reshape(5, -1) @ weights + np.linspace(0, 0.1, 4))
    np.testing.assert_allclose(fgsm.classify(known.network, images), probabilities, atol=1e-5)
    gradient = ((probabilities - np.eye(4)[labels]) @ weights.T).reshape(5, 8, 8, 3)
    gradient = gradient[..., ::-1] if preprocessing == "caffe" else gradient
    expected = np.clip(images + 6 * np.sign(gradient * slope), 0, 255)
    sure = np.abs(gradient) > 1e-4 * np.abs(gradient).max()
    assert sure.mean() > 0.99
    found = fgsm.make_attack(known.network)(images, labels, 6)
    np.testing.assert_array_equal(found[sure], expected[sure])
    assert np.abs(found.astype(int) - images).max() == 6
    assert known[1:7] == (("0", "1", "2", "3"), 8, 3, 0, True, "sample")


def test_a_network_with_one_probability_has_two_classes(tmp_path):
    weights = stored(tmp_path / "own.keras", "sigmoid", channels=1)
    known = Classifier.load(str(tmp_path / "own.keras"), "", preprocessing="0..1")
    images = noise(3, 8, 8, 1)
    sure = 1 / (1 + np.exp(-(images.reshape(3, -1) / 255) @ weights[:, 0]))
    np.testing.assert_allclose(fgsm.classify(known.network, images), np.stack([1 - sure, sure], 1), atol=1e-5)
    attacked = fgsm.make_attack(known.network)(images, np.array([1, 1, 1]), 5)
    assert (fgsm.classify(known.network, attacked)[:, 1] < sure).all()


def test_certain_probabilities_have_finite_gradients(tmp_path):
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(2, activation="softmax")])
    network.set_weights([np.tile([[1.0, -1.0]], (192, 1)), np.zeros(2)])
    network.save(tmp_path / "own.keras")
    known = Classifier.load(str(tmp_path / "own.keras"), "", preprocessing="0..255")
    found = fgsm.classify(known.network, np.full((1, 8, 8, 3), 255, np.uint8))
    np.testing.assert_allclose(found, [[1, 0]], atol=1e-6)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("size", [8, None])
def test_the_change_is_bounded_in_the_pixels_of_a_larger_image(size, tmp_path, capsys):
    stored(tmp_path / "own.keras", "softmax", size)
    source = write_image(noise(40, 56, 3), tmp_path / "photo.png")
    (tmp_path / "names.txt").write_text("cat\ndog\nhen\nfox\n")
    fgsm.attack_file(source, tmp_path / "out.png", 4 / 255, network=str(tmp_path / "own.keras"), preprocessing="0..255",
                     classes=str(tmp_path / "names.txt"))  # fmt: skip
    change = read_image(tmp_path / "out.png").astype(int) - read_image(source)
    assert change.shape == (40, 56, 3) and np.abs(change).max() == 4
    printed = capsys.readouterr().out
    assert any(f"out.png  {name}" in printed for name in ("cat", "dog", "hen", "fox"))


@pytest.mark.usefixtures("untraced")
def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    """A range that begins with a minus sign is no flag."""
    stored(tmp_path / "own.keras")
    source = write_image(noise(8, 8, 3), tmp_path / "photo.png")
    words = ["attack", str(source), str(tmp_path / "out.png"), "--network", str(tmp_path / "own.keras")]
    monkeypatch.setattr(sys, "argv", ["fgsm", *words, "--preprocessing", "-1..1", "--epsilon", "0.02"])
    run_command(fgsm.demo, presets={"demo": fgsm.DEMO}, attack=fgsm.attack_file)
    assert "epsilon 5/255" in capsys.readouterr().out


@pytest.mark.usefixtures("untraced")
def test_the_accuracy_on_a_folder_named_by_the_classes(tmp_path, capsys):
    stored(tmp_path / "own.keras", "softmax")
    (tmp_path / "names.json").write_text('["cat", "dog", "hen", "fox"]')
    known = Classifier.load(str(tmp_path / "own.keras"), "", preprocessing="0..1")
    images = noise(6, 8, 8, 3)
    truth = fgsm.classify(known.network, images).argmax(1)
    for number, label in enumerate(truth):
        write_image(images[number], tmp_path / "data" / ["cat", "dog", "hen", "fox"][label] / f"{number}.png")
    fgsm.evaluate_file(tmp_path / "curve.png", str(tmp_path / "data"), network=str(tmp_path / "own.keras"),
                       preprocessing="0..1", classes=str(tmp_path / "names.json"))  # fmt: skip
    assert "own, 1 step, 0/255: 100.0 %" in capsys.readouterr().out


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("output", ["logits", "softmax"])
def test_a_targeted_attack_reaches_a_class_of_a_file(output, tmp_path, capsys):
    stored(tmp_path / "own.keras", output)
    source = write_image(noise(8, 8, 3), tmp_path / "photo.png")
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nhen\nfox")
    config = targeted_attack.Config(network=str(tmp_path / "own.keras"), weights="", preprocessing="0..255",
                                    classes=str(names), epsilon=0.5, steps=20)  # fmt: skip
    targeted_attack.attack_file(source, tmp_path / "out.png", ("hen",), config)
    assert "out.png  hen" in capsys.readouterr().out
    assert np.abs(read_image(tmp_path / "out.png").astype(int) - read_image(source)).max() <= 127


# Names and errors


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.txt", "cat\nblack dog\n"),
        ("a.txt", "\ufeffcat\r\nblack dog"),
        ("a.json", '["cat", "black dog"]'),
        ("a.json", '{"1": "black dog", "0": "cat"}'),
        ("a.json", '{"0": ["n1", "cat"], "1": ["n2", "black_dog"]}'),
        ("a.json", '{"black dog": 1, "cat": 0}'),
    ],
)
def test_names_of_classes(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert class_names(str(tmp_path / name), 2) == ("cat", "black dog")


def the_line(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


@pytest.mark.parametrize("name, text", [("a.json", "["), ("a.json", "3"), ("a.json", '{"0": "a", "2": "b"}')])
def test_names_that_cannot_be_read(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    line = the_line(lambda: class_names(str(tmp_path / name), 2))
    assert f"{name}: cannot be read as class names; expected 2 names" in line
    assert "has 1 names, but the network has 2 classes" in the_line(lambda: class_names(str(written(tmp_path)), 2))
    assert "none.txt: No such file" in the_line(lambda: class_names(str(tmp_path / "none.txt"), 2))


def written(folder: Path) -> Path:
    (folder / "one.txt").write_text("cat\n")
    return folder / "one.txt"


def test_what_is_no_classifier_or_lacks_its_values(tmp_path):
    path = tmp_path / "own.keras"
    stored(path)
    assert f"{path}: needs --preprocessing; give the values" in the_line(lambda: Classifier.load(str(path), ""))
    line = the_line(lambda: Classifier.load(str(path), "", preprocessing="-2..2"))
    assert line.startswith(
        "--preprocessing -2..2: unknown; give the values that the network was trained on: 0..1, -1..1"
    )
    missing = tmp_path / "none.keras"
    assert "no such file" in the_line(lambda: Classifier.load(str(missing), "", preprocessing="0..1"))
    for name in ("MobileNetV2", "digits"):
        line = the_line(lambda name=name: Classifier.load(name, "", preprocessing="0..1"))
        assert line == f"--preprocessing and --classes are for --network FILE.keras, got --network {name}"
    stored(path, channels=1)
    assert "is for colour images" in the_line(lambda: Classifier.load(str(path), "", preprocessing="caffe"))
    for shape in ((8, 6, 3), (8, 8, 2), (8, 8)):
        images = keras.Input(shape)
        keras.Model(images, layers.Dense(2)(layers.Flatten()(images))).save(path)
        line = the_line(lambda: Classifier.load(str(path), "", preprocessing="0..1"))
        assert "expected a classifier of square images with 1 or 3 channels, got inputs [(None, 8, " in line


def test_old_settings_of_a_targeted_attack_still_load(tmp_path):
    from common.runs.run import Run

    old = {
        name: value for name, value in vars(targeted_attack.DEMO).items() if name not in ("preprocessing", "classes")
    }
    stored_run = {"recipe": "targeted_attack", "data": "sample", "config": old, "classes": []}
    (tmp_path / "config.json").write_text(json.dumps(stored_run))
    assert Run.load(tmp_path, "targeted_attack", targeted_attack.Config).config == targeted_attack.DEMO


# Feature networks


def fixed(folder: Path) -> tuple[keras.Model, Path]:
    images = keras.Input((24, 24, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="softplus", name="first")(images)
    y = layers.BatchNormalization(name="normal")(x)
    x = layers.Conv2D(4, 3, padding="same", name="second")(layers.Add(name="sum")([x, y]))
    rows = layers.Permute((2, 1, 3), name="turned")(layers.Reshape((12, 12, 4), name="shaped")(x))
    network = keras.Model(images, layers.Dense(2)(layers.Flatten()(rows)))
    network.save(folder / "fixed.keras")
    return network, folder / "fixed.keras"


def test_a_network_of_a_fixed_size_is_rebuilt_for_any_size(tmp_path):
    network, path = fixed(tmp_path)
    features = frozen_features("file", str(path), ["second,first"])
    images = noise(2, 24, 24, 3) / np.float32(127.5) - 1
    expected = keras.Model(network.input, [network.get_layer(name).output for name in ("second", "first")])
    for found, wanted in zip(features(images), expected(images), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert [tuple(each.shape) for each in features(np.zeros((1, 50, 37, 3), np.float32))] == [(1, 25, 19, 4)] * 2


def test_a_layer_that_needs_the_fixed_size_is_one_line(tmp_path):
    _, path = fixed(tmp_path)
    line = the_line(lambda: frozen_features("file", str(path), ["turned"]))
    assert line.startswith(f"{path}: a layer works only for images of 24x24 px (") and "choose earlier --layers" in line


@pytest.mark.usefixtures("untraced")
def test_a_dream_of_a_network_of_a_fixed_size(tmp_path):
    _, path = fixed(tmp_path)
    source = write_image(noise(40, 50, 3), tmp_path / "photo.png")
    config = DreamConfig(network="file", weights=str(path), layers="second", octaves=1, steps=1, tile=32, border=32)
    dream_file(source, tmp_path / "out.png", config)
    found = read_image(tmp_path / "out.png")
    assert found.shape == (40, 50, 3) and (found != read_image(source)).mean() > 0.5


@pytest.mark.slow
def test_nasnet_with_the_weights_of_a_file_gives_keras_own_maps_and_takes_any_size(tmp_path):
    """Keras builds 1,124 arrays for images of 224 px, but 1,115 for images of unknown size."""
    network = keras.applications.NASNetMobile(weights=None)
    network.save_weights(tmp_path / "nas.weights.h5")
    name = [each.name for each in network.layers if "normal_concat" in each.name][3]
    features = frozen_features("NASNetMobile", str(tmp_path / "nas.weights.h5"), [name])
    images = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    expected = keras.Model(network.input, network.get_layer(name).output)(images)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(features(images), expected, atol=1e-4 * np.abs(expected).max())
    for height, width in ((32, 64), (100, 37), (65, 127)):
        shape = features(np.zeros((1, height, width, 3), np.float32)).shape
        assert shape[1:3] == (-(-height // 32) * 4, -(-width // 32) * 4)
    features.save(tmp_path / "features.keras")
    np.testing.assert_allclose(load_keras_file(tmp_path / "features.keras")(images), features(images), atol=1e-5)
