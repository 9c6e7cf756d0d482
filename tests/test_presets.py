"""Presets that the command lines define, against the facts of the set-ups that they stand for."""

from __future__ import annotations

import importlib

import keras
import numpy as np
import pytest

from recipes import mlp, ssgan
from tools.page_options import commands_of


def preset(recipe: str, name: str = "plain"):
    return commands_of(recipe)[1][name]


def test_style_transfer_makes_500_evaluations_at_one_size_with_the_first_layer_of_each_block():
    config = preset("style_transfer")
    assert config.scales * config.epochs * config.steps == 500 and config.size == 512
    assert config.style_layers.split(",") == [f"block{number}_conv1" for number in (1, 2, 3, 4, 5)]
    assert (config.content_layers, config.start, config.optimizer) == ("block4_conv2", "content", "lbfgs")


def test_the_dream_has_one_size_and_the_two_weighted_layers():
    config = preset("deepdream")
    assert (config.octaves, config.steps, config.step_size) == (1, 100, 0.01)
    assert config.layers == "block2_pool=0.3,block5_pool=1.5"


def test_the_bound_of_the_attack_is_0_01_for_pixels_from_minus_1_to_1():
    config = preset("targeted_attack", "inception")
    assert 2 * config.epsilon == pytest.approx(0.01) and (config.size, config.confidence) == (299, 0.8)


def test_the_perceptron_is_a_plain_one():
    config = preset("mlp")
    (network,) = mlp.build(config)
    assert network.count_params() == 101_770 and config.epochs == 50
    weights = network.get_weights()
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    pixels = np.float32(images / 127.5 - 1)
    hidden = np.maximum(pixels.reshape(3, -1) @ weights[0] + weights[1], 0)
    found = network(pixels, training=True)
    np.testing.assert_allclose(found, hidden @ weights[2] + weights[3], atol=1e-4)


@pytest.mark.parametrize("name", ["lenet", "ssgan"])
def test_no_image_is_augmented(name):
    config = preset(name)
    assert not config.shift and not config.mirror
    for network in importlib.import_module(f"recipes.{name}").build(config):
        noisy = [layer for layer in network.layers if isinstance(layer, keras.layers.GaussianNoise)]
        assert all(layer.stddev == 0 for layer in noisy)


def test_a_tenth_of_the_thousand_labels_belongs_to_each_class():
    config = preset("ssgan")
    assert (config.labelled, config.batch_size, config.epochs) == (1000, 50, 30)
    assert not config.feature_matching and not config.consistency_weight
    assert ssgan.DEMO.consistency_weight
