"""ImageNet's networks see what Keras's own would be given, from pictures of any size; what is missing is one line."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from common import imagenet
from common.digits import held_out_digits
from common.errors import InputError
from common.imagenet import (
    CLASS_INDEX,
    Application,
    Pretrained,
    caffe_images,
    frozen_classifier,
    imagenet_classes,
    imagenet_classifier,
    known_classifier,
)
from common.runs import start_run
from recipes.lenet import Config

NAMES = tuple(f"class number {number}" for number in range(1000))
NOWHERE = Path("nowhere")


def written_index(folder: Path, count: int = 1000, name: str = "class_number") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    index = {str(number): [f"n{number:08d}", f"{name}_{number}"] for number in reversed(range(count))}
    (folder / CLASS_INDEX).write_text(json.dumps(index))
    return folder / CLASS_INDEX


def tiny(input_shape: tuple[int, int, int], weights: str | None, classifier_activation: str | None) -> keras.Model:
    assert weights is None and classifier_activation is None
    images = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="softplus", name="convolution")(images)
    x = keras.layers.Dense(1000, name="classifier")(keras.layers.Flatten(name="flat")(x))
    return keras.Model(images, x, name="tiny")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """Where Keras keeps files, with nothing in it."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def small(monkeypatch) -> None:
    """Networks of 12 pixels in place of Keras's, with and without Caffe's images."""
    for name, caffe in (("MobileNetV2", False), ("VGG19", True)):
        monkeypatch.setattr(keras.applications, name, tiny)
        monkeypatch.setitem(imagenet.APPLICATIONS, name, Application(12, caffe, "tiny.h5"))


def stored(folder: Path) -> tuple[keras.Model, Path]:
    """Write a tiny network's weights, and return both."""
    network = tiny((12, 12, 3), None, None)
    folder.mkdir(exist_ok=True)
    network.save_weights(folder / "tiny.weights.h5")
    return network, folder / "tiny.weights.h5"


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


def keras_preprocessing(network: str):
    module = {
        "InceptionV3": "inception_v3",
        "MobileNetV2": "mobilenet_v2",
        "NASNetMobile": "nasnet",
        "ResNet50": "resnet50",
        "VGG19": "vgg19",
    }[network]
    return getattr(keras.applications, module).preprocess_input


def test_images_for_caffe_are_those_of_keras():
    images = pixels(2, 5, 7, 3)
    expected = keras.applications.vgg19.preprocess_input(images.copy())
    np.testing.assert_allclose(caffe_images(keras.ops.convert_to_tensor(images / 127.5 - 1)), expected, atol=1e-4)


@pytest.mark.parametrize("name", sorted(imagenet.APPLICATIONS))
def test_caffe_is_said_of_the_networks_that_keras_gives_such_images(name):
    images = pixels(1, 4, 4, 3)
    plain = np.allclose(keras_preprocessing(name)(images.copy()), images / 127.5 - 1, atol=1e-6)
    assert plain is not imagenet.APPLICATIONS[name].caffe


@pytest.mark.parametrize("name", ["MobileNetV2", "VGG19"])
def test_a_picture_of_the_networks_own_size_gives_the_logits_of_keras_own(name, small, tmp_path):
    network, weights = stored(tmp_path)
    written_index(tmp_path)
    known = known_classifier(Pretrained(network=name, weights=str(weights)), NOWHERE, "fgsm", "classifier")
    images = pixels(3, 12, 12, 3)
    expected = network(keras_preprocessing(name)(images.copy())).numpy()
    found = known.classifier(images / 127.5 - 1).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert known[1:] == (NAMES, 12, 3, 0, True, "sample")


def test_every_pixel_of_a_large_picture_has_a_say(small, tmp_path):
    """A plain bilinear reduction reads four pixels for each that it makes."""
    _, weights = stored(tmp_path)
    written_index(tmp_path)
    classifier = imagenet_classifier(Pretrained(weights=str(weights))).classifier
    images = tf.Variable(pixels(1, 96, 72, 3) / 127.5 - 1)
    with tf.GradientTape() as tape:
        logits = classifier(images)
        loss = tf.reduce_sum(logits[:, 0])
    assert logits.shape == (1, 1000)
    assert np.mean(tape.gradient(loss, images).numpy() != 0) > 0.99


@pytest.mark.parametrize("own", ["dark", "light"])
def test_without_weights_it_is_the_network_of_the_run(own, tmp_path):
    networks = {name: keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
                for name in ("dark", "light")}  # fmt: skip
    for name, network in networks.items():
        network.save(tmp_path / f"{name}.keras")
    settings = {"recipe": "fgsm", "data": "sample", "config": {"seed": 7}, "classes": ["cat", "dog"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    known = known_classifier(Pretrained(), tmp_path, "fgsm", own)
    images = pixels(2, 6, 6, 1)
    np.testing.assert_array_equal(known.classifier(images), networks[own](images))
    assert known[1:] == (("cat", "dog"), 6, 1, 7, False, "sample")


# The names of the classes


def test_names_lie_beside_the_weights_or_where_keras_keeps_them(home, tmp_path):
    beside = Pretrained(weights=str(tmp_path / "tiny.weights.h5"))
    written_index(home, name="kept")
    assert imagenet_classes(beside)[999] == imagenet_classes(Pretrained(weights="imagenet"))[999] == "kept 999"
    written_index(tmp_path, name="black_and-tan")
    assert imagenet_classes(beside) == tuple(f"black and-tan {number}" for number in range(1000))
    assert imagenet_classes(Pretrained(weights="imagenet"))[1] == "kept 1"


def test_without_keras_home_they_are_sought_in_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "user")
    written_index(tmp_path / "user" / ".keras" / "models")
    assert imagenet_classes(Pretrained(weights="imagenet")) == NAMES


@pytest.mark.parametrize("fetch", [False, True])
def test_names_are_fetched_only_when_asked_and_only_when_they_are_not_here(fetch, home, monkeypatch, tmp_path):
    asked = []

    def get_file(name: str, url: str, cache_subdir: str) -> str:
        asked.append((name, url.rsplit("/", 1)[-1], cache_subdir))
        return str(written_index(home))

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    if not fetch:
        written_index(home)
    assert imagenet_classes(Pretrained(weights="imagenet", fetch=fetch)) == NAMES
    assert asked == [(CLASS_INDEX, CLASS_INDEX, "models")] * fetch
    assert imagenet_classes(Pretrained(weights="imagenet", fetch=True)) == NAMES
    assert len(asked) == fetch


def the_line(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_names_that_are_not_here(home, tmp_path):
    line = the_line(lambda: imagenet_classes(Pretrained(weights=str(tmp_path / "a.weights.h5"))))
    assert "names of ImageNet's classes are not on this machine" in line and "--fetch" in line
    assert str(tmp_path / CLASS_INDEX) in line and str(home / CLASS_INDEX) in line
    line = the_line(lambda: imagenet_classes(Pretrained(weights="imagenet")))
    assert str(home / CLASS_INDEX) in line and " or " not in line


@pytest.mark.parametrize(
    "text", ["", '{"0": ["n0", "cat"', "[]", "3", '{"0": ["n0", "cat"]}', '{"0": "n", "1": ["n1"]}', '{"0": [1, 2]}']
)
def test_names_that_are_damaged(text, home):
    home.mkdir(parents=True)
    (home / CLASS_INDEX).write_text(text)
    line = the_line(lambda: imagenet_classes(Pretrained(weights="imagenet")))
    assert "cannot be had (" in line and str(home / CLASS_INDEX) in line


def test_names_that_cannot_be_fetched(home, monkeypatch):
    def fail(*_, **__):
        raise Exception("URL fetch failure on https://a.b\nand more")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    line = the_line(lambda: imagenet_classes(Pretrained(weights="imagenet", fetch=True)))
    assert "URL fetch failure on https://a.b" in line and str(home / CLASS_INDEX) in line


def test_weights_that_are_not_here_or_of_another_network(small, home, tmp_path):
    written_index(home)
    missing = tmp_path / "none.weights.h5"
    assert f"{missing}: there is no such file" in the_line(
        lambda: known_classifier(Pretrained(weights=str(missing)), NOWHERE, "fgsm", "classifier")
    )
    line = the_line(lambda: imagenet_classifier(Pretrained(weights="imagenet")))
    assert str(home / "tiny.h5") in line and "--fetch" in line
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    line = the_line(lambda: imagenet_classifier(Pretrained(weights=str(tmp_path / "other.weights.h5"))))
    assert "other.weights.h5: not weights of tiny (" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "NASNetMobile", "ResNet50"])
def test_the_file_that_is_sought_is_the_one_that_keras_fetches(name, monkeypatch):
    asked = []

    def stop(file: str, *_, **__):
        asked.append(file)
        raise InterruptedError

    module = importlib.import_module(getattr(keras.applications, name).__module__)
    monkeypatch.setattr(module.file_utils, "get_file", stop)
    with pytest.raises(InterruptedError):
        getattr(keras.applications, name)(weights="imagenet")
    assert asked == [imagenet.APPLICATIONS[name].file]


@pytest.mark.slow
def test_mobilenet_from_a_file_of_weights(tmp_path):
    network = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    network.save_weights(tmp_path / "mobile.weights.h5")
    written_index(tmp_path)
    known = known_classifier(Pretrained(weights=str(tmp_path / "mobile.weights.h5")), NOWHERE, "fgsm", "classifier")
    images = pixels(2, 224, 224, 3)
    expected = network(keras.applications.mobilenet_v2.preprocess_input(images.copy())).numpy()
    found = known.classifier(images / 127.5 - 1).numpy()
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    for shape in ((1, 100, 100, 3), (1, 301, 150, 3)):
        assert known.classifier(pixels(*shape) / 127.5 - 1).shape == (1, 1000)
    assert known[1:] == (NAMES, 224, 3, 0, True, "sample")


def test_the_embedded_classifier_of_digits_does_not_learn_and_is_right():
    known = frozen_classifier("digits", "")
    images, labels = held_out_digits()
    logits = known.classifier(images[:60] / 127.5 - 1, training=False).numpy()
    assert known[1:5] == (tuple("0123456789"), 28, 1, 0) and not known.any_size
    assert logits.shape == (60, 10) and (logits.argmax(1) == labels[:60]).mean() > 0.9
    assert not known.classifier.trainable_variables


def test_a_classifier_of_a_run_and_what_is_none(tmp_path):
    images = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3)(images)
    start_run(tmp_path, "lenet", Config(), "sample", ("cat", "dog"))
    keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(maps))).save(tmp_path / "classifier.keras")
    keras.Model(images, maps).save(tmp_path / "features.keras")
    known = frozen_classifier("run", str(tmp_path / "classifier.keras"))
    assert known[1:5] == (("cat", "dog"), 8, 3, 0) and not known.classifier.trainable_variables
    with pytest.raises(InputError, match=r"features.keras: takes .*8, 8, 3.* gives .*6, 6, 4.*; no classifier of 2"):
        frozen_classifier("run", str(tmp_path / "features.keras"))
