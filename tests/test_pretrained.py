"""Weights from elsewhere: those of the file and no others, or one line that says what to do."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

from common.runs.pretrained import load_pretrained
from common.system.files import InputError

FILE = "tiny_no_top.h5"


def network(seed: int, filters: int = 4, classifier: bool = False) -> keras.Model:
    kernel = keras.initializers.GlorotUniform(seed)
    images = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(filters, 3, kernel_initializer=kernel, name="convolution")(images)
    x = keras.layers.BatchNormalization(name="normalization")(x)
    if classifier:
        x = keras.layers.Dense(2, name="classifier")(keras.layers.GlobalAveragePooling2D(name="mean")(x))
    return keras.Model(images, x, name="tiny")


def unwanted() -> keras.Model:
    raise AssertionError("asked Keras for its weights")


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "models").mkdir(parents=True)
    return tmp_path / "home"


def test_random_leaves_a_network_as_it_is():
    loaded = network(0)
    before = loaded.get_weights()
    load_pretrained(loaded, "random", FILE, unwanted)
    assert same(loaded.get_weights(), before)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("classifier", [False, True])
def test_a_file_gives_its_weights_with_or_without_a_classifier(suffix, classifier, tmp_path):
    stored, loaded = network(1, classifier=classifier), network(2)
    path = tmp_path / f"tiny{suffix}"
    stored.save(path) if suffix == ".keras" else stored.save_weights(path)
    assert not same(loaded.get_weights(), stored.get_weights()[: len(loaded.weights)])
    load_pretrained(loaded, str(path), FILE, unwanted)
    assert same(loaded.get_weights()[:2], stored.get_weights()[:2])
    by_layer = {layer.name: layer.get_weights() for layer in stored.layers}
    for layer in loaded.layers[1:]:
        assert same(layer.get_weights(), by_layer[layer.name])


def test_a_file_in_the_older_format_of_keras(tmp_path):
    stored, loaded = network(1), network(2)
    keras.saving.save_model(stored, tmp_path / "tiny.h5")
    load_pretrained(loaded, str(tmp_path / "tiny.h5"), FILE, unwanted)
    assert same(loaded.get_weights(), stored.get_weights())


def the_line(weights: str, **options) -> str:
    with pytest.raises(InputError) as error:
        load_pretrained(network(0), weights, FILE, **({"imagenet": unwanted} | options))
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_a_file_that_is_missing(tmp_path):
    path = str(tmp_path / "none.weights.h5")
    line = the_line(path)
    assert line.startswith(f"{path}: there is no such file") and "imagenet" in line and "random" in line
    assert "there is no such file" in the_line("Imagenet")


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_a_file_that_is_cut_short(suffix, kept, tmp_path):
    stored, path = network(1), tmp_path / f"tiny{suffix}"
    stored.save(path) if suffix == ".keras" else stored.save_weights(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert the_line(str(path)).startswith(f"{path}: not a weights file for tiny (")


def test_a_file_of_another_network(tmp_path):
    path = tmp_path / "wide.weights.h5"
    network(1, filters=5).save_weights(path)
    assert the_line(str(path)).startswith(f"{path}: not a weights file for tiny (")


def nested(blocks: int) -> keras.Model:
    """Return a network of networks in which there are lists of layers."""
    images = x = keras.Input((6, 6, 1))
    for number in range(blocks):
        convolutions = [keras.layers.Conv2D(3, 3, padding="same") for _ in range(2)]
        inner = keras.Sequential([*convolutions, keras.layers.BatchNormalization()], name=f"inner_{number}")
        x = keras.Sequential([inner, keras.layers.Activation("relu")], name=f"outer_{number}")(x)
    return keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(x)), name="nested")


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_file_of_another_architecture_is_one_line_and_no_warnings(suffix, tmp_path, capsys):
    """Keras names every layer that it does not find."""
    path, loaded = tmp_path / f"tiny{suffix}", nested(6)
    stored = network(1)
    stored.save(path) if suffix == ".keras" else stored.save_weights(path)
    with warnings.catch_warnings(record=True) as caught, pytest.raises(InputError) as error:
        warnings.simplefilter("always")
        load_pretrained(loaded, str(path), FILE, unwanted)
    assert str(error.value).startswith(f"{path}: not a weights file for nested (") and "\n" not in str(error.value)
    assert not caught and capsys.readouterr() == ("", "")


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "weights.txt"
    path.write_text("text")
    assert the_line(str(path)).startswith(f"{path}: not a weights file for tiny (")


def test_imagenet_weights_that_are_not_here_are_not_fetched_unasked(home):
    line = the_line("imagenet")
    assert "not on this machine" in line and str(home / "models" / FILE) in line
    assert "--fetch" in line and "--weights FILE" in line


@pytest.mark.parametrize("fetch", [False, True])
def test_imagenet_weights_come_from_keras_where_they_are_here_or_may_be_fetched(fetch, home):
    if not fetch:
        (home / "models" / FILE).touch()
    stored, loaded = network(1), network(2)
    load_pretrained(loaded, "imagenet", FILE, lambda: stored, fetch=fetch)
    assert same(loaded.get_weights(), stored.get_weights())


@pytest.mark.parametrize(
    "error", [Exception("URL fetch failure on https://a.b\nand more"), OSError(), ValueError("x" * 999)]
)
def test_imagenet_weights_that_cannot_be_loaded(error, home):
    def fail() -> keras.Model:
        raise error

    line = the_line("imagenet", imagenet=fail, fetch=True)
    assert "cannot load the imagenet weights" in line and str(home / "models" / FILE) in line
    assert (str(error).splitlines() or ["OSError"])[0][:100] in line


def test_imagenet_weights_that_do_not_fit(home):
    assert "cannot load the imagenet weights" in the_line(
        "imagenet", imagenet=lambda: network(1, filters=5), fetch=True
    )
