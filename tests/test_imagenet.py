"""ImageNet's networks see what Keras's own would be given, from pictures of any size; what is missing is one line."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.runs import pretrained as imagenet
from common.runs.pretrained import (
    CLASS_INDEX,
    Application,
    Classifier,
    caffe_images,
    frozen_features,
    imagenet_classes,
    imagenet_classifier,
)
from common.runs.run import Run
from common.samples.digits import held_out_digits
from common.system.files import InputError
from recipes import fgsm
from recipes.lenet import Config

NAMES = tuple(f"class number {number}" for number in range(1000))


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
    known = Classifier.load(name, str(weights))
    images = pixels(3, 12, 12, 3)
    expected = network(keras_preprocessing(name)(images.copy())).numpy()
    found = known.network(images / 127.5 - 1).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert known[1:7] == (NAMES, 12, 3, 0, True, "sample")


def test_every_pixel_of_a_large_picture_has_a_say(small, tmp_path):
    """A plain bilinear reduction reads four pixels for each that it makes."""
    _, weights = stored(tmp_path)
    written_index(tmp_path)
    classifier = imagenet_classifier("MobileNetV2", str(weights)).network
    images = tf.Variable(pixels(1, 96, 72, 3) / 127.5 - 1)
    with tf.GradientTape() as tape:
        logits = classifier(images)
        loss = tf.reduce_sum(logits[:, 0])
    assert logits.shape == (1, 1000)
    assert np.mean(tape.gradient(loss, images).numpy() != 0) > 0.99


@pytest.mark.parametrize("own", ["dark", "light"])
def test_without_weights_it_is_the_network_of_the_run(own, tmp_path):
    networks = {name: keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
                for name in ("dark", "light")}  # fmt: skip
    for name, network in networks.items():
        network.save(tmp_path / f"{name}.keras")
    settings = {"recipe": "fgsm", "data": "sample", "config": {"seed": 7, "size": 8}, "classes": ["cat", "dog"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    known = Classifier.of_run(Run.load(tmp_path, "fgsm", fgsm.Config), own)
    images = pixels(2, 8, 8, 1)
    np.testing.assert_array_equal(known.network(images), networks[own](images))
    assert known[1:7] == (("cat", "dog"), 8, 1, 7, False, "sample")


# The names of the classes


def test_names_lie_beside_the_weights_or_where_keras_keeps_them(home, tmp_path):
    beside = str(tmp_path / "tiny.weights.h5")
    written_index(home, name="kept")
    assert imagenet_classes(beside)[999] == imagenet_classes("imagenet")[999] == "kept 999"
    written_index(tmp_path, name="black_and-tan")
    assert imagenet_classes(beside) == tuple(f"black and-tan {number}" for number in range(1000))
    assert imagenet_classes("imagenet")[1] == "kept 1"


def test_without_keras_home_they_are_sought_in_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "user")
    written_index(tmp_path / "user" / ".keras" / "models")
    assert imagenet_classes("imagenet") == NAMES


@pytest.mark.parametrize("fetch", [False, True])
def test_names_are_fetched_only_when_asked_and_only_when_they_are_not_here(fetch, home, monkeypatch, tmp_path):
    asked = []

    def get_file(name: str, url: str, cache_subdir: str) -> str:
        asked.append((name, url.rsplit("/", 1)[-1], cache_subdir))
        return str(written_index(home))

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    if not fetch:
        written_index(home)
    assert imagenet_classes("imagenet", fetch) == NAMES
    assert asked == [(CLASS_INDEX, CLASS_INDEX, "models")] * fetch
    assert imagenet_classes("imagenet", True) == NAMES
    assert len(asked) == fetch


def the_line(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_names_that_are_not_here(home, tmp_path):
    line = the_line(lambda: imagenet_classes(str(tmp_path / "a.weights.h5")))
    assert "ImageNet's class names are not on this machine" in line and "--fetch" in line
    assert str(tmp_path / CLASS_INDEX) in line and str(home / CLASS_INDEX) in line
    line = the_line(lambda: imagenet_classes("imagenet"))
    assert str(home / CLASS_INDEX) in line and " or " not in line


@pytest.mark.parametrize(
    "text", ["", '{"0": ["n0", "cat"', "[]", "3", '{"0": ["n0", "cat"]}', '{"0": "n", "1": ["n1"]}', '{"0": [1, 2]}']
)
def test_names_that_are_damaged(text, home):
    home.mkdir(parents=True)
    (home / CLASS_INDEX).write_text(text)
    line = the_line(lambda: imagenet_classes("imagenet"))
    assert "cannot read ImageNet's class names (" in line and str(home / CLASS_INDEX) in line


def test_names_that_cannot_be_fetched(home, monkeypatch):
    def fail(*_, **__):
        raise Exception("URL fetch failure on https://a.b\nand more")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    line = the_line(lambda: imagenet_classes("imagenet", True))
    assert "URL fetch failure on https://a.b" in line and str(home / CLASS_INDEX) in line


def test_weights_that_are_not_here_or_of_another_network(small, home, tmp_path):
    written_index(home)
    missing = tmp_path / "none.weights.h5"
    assert f"{missing}: there is no such file" in the_line(lambda: Classifier.load("MobileNetV2", str(missing)))
    line = the_line(lambda: imagenet_classifier("MobileNetV2", "imagenet"))
    assert str(home / "tiny.h5") in line and "--fetch" in line
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    line = the_line(lambda: imagenet_classifier("MobileNetV2", str(tmp_path / "other.weights.h5")))
    assert "other.weights.h5: not a weights file for tiny (" in line


@pytest.mark.slow
def test_mobilenet_from_a_file_of_weights(tmp_path):
    network = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    network.save_weights(tmp_path / "mobile.weights.h5")
    written_index(tmp_path)
    known = Classifier.load("MobileNetV2", str(tmp_path / "mobile.weights.h5"))
    images = pixels(2, 224, 224, 3)
    expected = network(keras.applications.mobilenet_v2.preprocess_input(images.copy())).numpy()
    found = known.network(images / 127.5 - 1).numpy()
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    for shape in ((1, 100, 100, 3), (1, 301, 150, 3)):
        assert known.network(pixels(*shape) / 127.5 - 1).shape == (1, 1000)
    assert known[1:7] == (NAMES, 224, 3, 0, True, "sample")


def test_the_embedded_classifier_of_digits_does_not_learn_and_is_right():
    known = Classifier.load("digits", "")
    images, labels = held_out_digits()
    logits = known.network(images[:60] / 127.5 - 1, training=False).numpy()
    assert known[1:5] == (tuple("0123456789"), 28, 1, 0) and not known.any_size
    assert logits.shape == (60, 10) and (logits.argmax(1) == labels[:60]).mean() > 0.9
    assert not known.network.trainable_variables


def test_a_classifier_of_a_run_and_what_is_none(tmp_path):
    images = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3)(images)
    Run(tmp_path, "lenet", Config(outputs=2), "sample").start(("cat", "dog"))
    keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(maps))).save(tmp_path / "classifier.keras")
    keras.Model(images, maps).save(tmp_path / "features.keras")
    known = Classifier.load("run", str(tmp_path / "classifier.keras"))
    assert known[1:5] == (("cat", "dog"), 8, 3, 0) and not known.network.trainable_variables
    with pytest.raises(InputError, match=r"features.keras: expected .* 2 classes, got .*8, 8, 3.* and .*6, 6, 4"):
        Classifier.load("run", str(tmp_path / "features.keras"))


# Maps of layers


def headless(include_top: bool, weights: str | None, input_shape: tuple[int | None, ...] = (None, None, 3)):
    assert include_top is False
    images = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="softplus", name="first")(images)
    network = keras.Model(images, keras.layers.Conv2D(5, 3, padding="same", name="second")(x), name="headless")
    if weights is not None:  # as Keras's own
        random = np.random.default_rng(5)
        network.set_weights([random.normal(0, 0.1, each.shape) for each in network.get_weights()])
    return network


@pytest.fixture
def small_features(monkeypatch) -> None:
    for name, file in (("MobileNetV2", "no_top_file.h5"), ("VGG19", "vgg.h5")):
        monkeypatch.setattr(keras.applications, name, headless)
        monkeypatch.setitem(imagenet.APPLICATIONS, name, Application(12, name == "VGG19", file))


@pytest.mark.parametrize("name", ["MobileNetV2", "VGG19"])
def test_features_are_the_maps_of_keras_own_network_before_its_images(name, small_features, tmp_path):
    network = headless(False, None)
    network.save_weights(tmp_path / "a.weights.h5")
    features = frozen_features(name, str(tmp_path / "a.weights.h5"), ["second", "first"])
    images = pixels(2, 9, 14, 3)
    inside = keras.Model(network.input, [network.get_layer(each).output for each in ("second", "first")])
    expected = inside(keras_preprocessing(name)(images.copy()))
    for found, wanted in zip(features(images / 127.5 - 1), expected, strict=True):
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert not features.trainable_variables and len(features.variables) == 4


@pytest.mark.parametrize("name, file", [("MobileNetV2", "no_top_file_no_top.h5"), ("VGG19", "vgg_notop.h5")])
def test_features_with_keras_own_weights_are_sought_where_keras_keeps_them(name, file, small_features, home):
    line = the_line(lambda: frozen_features(name, "imagenet", ["first"]))
    assert str(home / file) in line and "--fetch" in line
    kernel = headless(False, "imagenet").get_weights()[0]
    fetched = frozen_features(name, "imagenet", ["first"], fetch=True)
    home.mkdir(parents=True)
    (home / file).touch()
    for features in (fetched, frozen_features(name, "imagenet", ["first"])):
        np.testing.assert_allclose(features.variables[0], kernel, rtol=1e-6)


def stored_maps(folder: Path) -> tuple[keras.Model, Path]:
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, activation="softplus", name="far")(images)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(keras.layers.AveragePooling2D(2, name="half")(x))
    network = keras.Model(images, keras.layers.Dense(2, name="classes")(x))
    network.save(folder / "own.keras")
    return network, folder / "own.keras"


def test_features_of_a_file_are_the_maps_of_that_network_as_it_stands(tmp_path):
    network, path = stored_maps(tmp_path)
    features = frozen_features("file", str(path), ["half", "far"])
    images = pixels(1, 10, 12, 3) / 127.5 - 1
    half, far = features(images)
    kernel, bias = network.get_layer("far").get_weights()
    windows = np.lib.stride_tricks.sliding_window_view(images[0], (3, 3), (0, 1))
    expected = np.logaddexp(0, np.einsum("hwcij,ijco->hwo", windows, kernel) + bias)
    np.testing.assert_allclose(far[0], expected, atol=1e-5)
    np.testing.assert_allclose(half[0], expected.reshape(4, 2, 5, 2, 4).mean((1, 3)), atol=1e-5)
    assert not features.trainable_variables


def test_a_layer_that_is_none_or_gives_no_maps_and_those_that_do(tmp_path):
    _, path = stored_maps(tmp_path)
    for name in ("near", "mean", "classes"):
        line = the_line(lambda name=name: frozen_features("file", str(path), ["far", name]))
        assert line.startswith(f"{name!r} is not a layer of file that outputs feature maps; choose from ")
        assert line.endswith(", far, half")
    assert the_line(lambda: frozen_features("file", str(path), ["far", ""])).startswith("expected NAME or NAME=WEIGHT")


def test_a_network_that_is_none_and_a_file_that_is_not_there(small_features, tmp_path):
    line = the_line(lambda: frozen_features("VGG16", "", ["a"]))
    assert line.startswith("network must be one of embedded, ") and line.endswith("VGG19, file, got 'VGG16'")
    assert all(name in line for name in imagenet.APPLICATIONS)
    line = the_line(lambda: frozen_features("file", str(tmp_path / "none.keras"), ["a"]))
    assert line.startswith(f"{tmp_path / 'none.keras'}: there is no such file")
    (tmp_path / "bad.keras").write_bytes(b"PK nothing")
    line = the_line(lambda: frozen_features("file", str(tmp_path / "bad.keras"), ["a"]))
    assert line.startswith(f"{tmp_path / 'bad.keras'}: cannot be loaded (")
    line = the_line(lambda: frozen_features("VGG19", str(tmp_path / "none.h5"), ["a"]))
    assert "none.h5: there is no such file; give a weights file" in line


@pytest.mark.slow
@pytest.mark.parametrize("headless", [True, False])
@pytest.mark.parametrize("name", sorted(imagenet.APPLICATIONS))
@pytest.mark.filterwarnings("ignore:`input_shape` is undefined")  # Keras's MobileNetV2, of weights for 224 pixels
def test_the_file_that_is_sought_is_the_one_that_keras_fetches(name, headless, monkeypatch, home):
    asked = []

    def stop(file: str, *_, **__):
        asked.append(file)
        raise InterruptedError

    module = importlib.import_module(getattr(keras.applications, name).__module__)
    monkeypatch.setattr(module.file_utils, "get_file", stop)
    with pytest.raises(InterruptedError):
        getattr(keras.applications, name)(weights="imagenet", include_top=not headless)
    if headless:
        assert str(home / asked[0]) in the_line(lambda: frozen_features(name, "imagenet", ["a"]))
    else:
        assert asked == [imagenet.APPLICATIONS[name].file]


@pytest.mark.slow
def test_the_maps_of_vgg19_are_those_of_keras_and_any_size_will_do(tmp_path):
    network = keras.applications.VGG19(weights=None, include_top=False)
    network.save_weights(tmp_path / "vgg.weights.h5")
    names = ["block1_conv1", "block2_pool", "block3_conv2"]
    features = frozen_features("VGG19", str(tmp_path / "vgg.weights.h5"), names)
    images = pixels(1, 40, 53, 3)
    inside = keras.Model(network.input, [network.get_layer(name).output for name in names])
    expected = inside(keras.applications.vgg19.preprocess_input(images.copy()))
    for found, wanted in zip(features(images / 127.5 - 1), expected, strict=True):
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
