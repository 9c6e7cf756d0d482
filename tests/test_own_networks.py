"""Networks of your own, in place of those of a paper: checks, training, resume, saving, loading and export."""

from __future__ import annotations

import functools
import importlib
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from common.runs.export import export
from common.runs.run import Run
from common.system.files import InputError
from tests.forked import forked_python
from tests.test_contract import TINY

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 0, 1])


def generator(pooling: bool = False) -> keras.Model:
    """Return a translator with a skip connection, which needs sides that are multiples of 2."""
    inputs = keras.Input((None, None, 3))
    half = keras.layers.MaxPooling2D() if pooling else keras.layers.Conv2D(3, 3, 2, "same")
    x = keras.layers.UpSampling2D()(half(inputs))
    return keras.Model(inputs, keras.layers.Conv2D(3, 1)(keras.layers.Concatenate()([x, inputs])))


def classifier(channels: int = 3, outputs: int = 2, side: int | None = 8) -> keras.Model:
    layers = keras.layers
    inputs = keras.Input((side, side, channels))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, layers.Dense(outputs)(x))


OWN = {  # settings, own networks, and data
    "pix2pix": ({}, lambda: {"generator": generator()}, (IMAGES, IMAGES)),
    "cyclegan": (
        {},
        lambda: {"a2b": generator(), "b2a": generator(pooling=True)},
        (IMAGES, IMAGES[::-1]),
    ),
    "fgsm": (
        {"channels": 3},
        lambda: {"classifier": classifier(side=None), "robust": classifier()},
        (IMAGES[:, :8, :8], LABELS),
    ),
    "mobilenet": ({}, lambda: {"backbone": classifier(outputs=5, side=None)}, (IMAGES, LABELS)),
}


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name", OWN)
def test_own_networks_are_trained_resumed_saved_and_loaded(name, tmp_path):
    recipe = importlib.import_module(f"recipes.{name}")
    changes, own, data = OWN[name]
    config = recipe.Config(**TINY[name] | changes | {"epochs": 1})
    given = own()
    networks = recipe.build(config, **given)
    inside = [network.layers[-1] if name == "mobilenet" else network for network in networks]
    assert all(any(network is each for each in inside) for network in given.values())

    run = Run(tmp_path, name, config, "sample")
    run.start(("a", "b") if hasattr(config, "outputs") else ())
    recipe.train(networks, data, config, tmp_path)
    run.finish(networks, lambda: {"score": 1.0})
    resumed = recipe.build(config, **own())
    recipe.train(resumed, data, config, tmp_path)  # restores the newest checkpoint
    for trained, restored in zip(networks, resumed, strict=True):
        for one, other in zip(trained.get_weights(), restored.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    loaded = Run.load(tmp_path, name, recipe.Config)
    if name in ("pix2pix", "cyclegan"):
        first = networks._fields[0]
        network = loaded.network(first, (None, None, 3), (None, None, 3))
        translated = recipe.translate(network, IMAGES[0, :31, :29])  # no multiples of 2
        assert translated.shape == (31, 29, 3)
        np.testing.assert_array_equal(translated, recipe.translate(networks[0], IMAGES[0, :31, :29]))
        if name == "pix2pix":
            export(tmp_path, "tf_saved_model", "generator")
            assert (tmp_path / "generator" / "saved_model.pb").is_file()
    elif name == "fgsm":
        attack = functools.partial(recipe.classify, loaded.network("classifier", loaded.image_shape, (2,)))
        assert attack(IMAGES[:, :8, :8]).shape == (4, 2)
    else:
        features = loaded.network("features", (None, None, 3))
        assert loaded.network("classifier", features.output_shape[1:], (2,)).count_params() == 12


WRONG = {
    "one channel": (lambda: classifier(1, 3, None), "pix2pix", "generator: its input shape is any x any x 1, but any x "
                    "any x 3 is needed"),
    "fixed size": (lambda: keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(3, 1)]), "pix2pix",
                   "generator: its input shape is 32 x 32 x 3, but any x any x 3 is needed"),
    "no image": (lambda: classifier(3, 3, None), "pix2pix", "generator: its output shape is 3, but any x any x 3 is"),
    "half size": (lambda: keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(3, 3, 2, "same")]),
                  "pix2pix", "generator: an image of 96 x 160 px becomes 48 x 80 px; the size must not change"),
    "hidden strides": (lambda: keras.Sequential([keras.Input((None, None, 3)), keras.Sequential([keras.layers.Conv2D(
        3, 1, 3), keras.layers.UpSampling2D(2)])]), "pix2pix", "generator: an image of 96 x 160 px becomes"),
    "no network": (lambda: "unet", "pix2pix", "generator is a str without a known input"),
    "not built": (lambda: keras.Sequential([keras.layers.Conv2D(3, 1)]), "pix2pix", "generator is a Sequential without "
                  "a known input; build it from keras.Input"),
    "classes": (lambda: classifier(1, 3, 28), "fgsm", "classifier: its output shape is 3, but 10 is needed"),
    "features": (generator, "mobilenet", "backbone: its output shape is any x any x 3, but any is needed"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_own_networks_that_do_not_fit_are_one_line(case):
    make, name, message = WRONG[case]
    recipe = importlib.import_module(f"recipes.{name}")
    parameter = {"pix2pix": "generator", "fgsm": "classifier", "mobilenet": "backbone"}[name]
    config = recipe.Config(**{"size": 32} if name != "fgsm" else {})
    with pytest.raises(InputError) as error:
        recipe.build(config, **{parameter: make()})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_two_networks_share_no_weights():
    from recipes import cyclegan

    one = generator()
    with pytest.raises(InputError, match="^a2b and b2a share weights; pass two networks"):
        cyclegan.build(cyclegan.Config(size=32, base_filters=4), a2b=one, b2a=one)


SAVED = """
import keras

@keras.saving.register_keras_serializable("own")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

keras.Sequential([keras.Input((None, None, 3)), Twice()]).save("generator.keras")
"""
LOADED = """
from pathlib import Path
from common.runs.networks import load_network
load_network(Path(), "generator")
"""


def test_an_unknown_layer_of_a_saved_network_is_named(tmp_path: Path):
    for code, status in ((SAVED, 0), (LOADED, 1), (SAVED + LOADED, 0)):
        run = [*forked_python(), "-c", code]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        if status:
            said = done.stderr.splitlines()[-1]
            assert "layer Twice is not part of Keras" in said and "register_keras_serializable" in said
