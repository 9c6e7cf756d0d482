from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import softmax

from common.runs import Run
from recipes.lenet import MODERN, Config, build, classify


def test_each_layer_has_the_weights_of_the_paper():
    """C1 has 156 (section II.B); C3 sees all maps here, so 16 x (6 x 25 + 1); at 28 px C5 sees 4 x 4 of them."""
    counts = [layer.count_params() for layer in build().classifier.layers if layer.weights]
    assert counts == [6 * 26, 16 * (6 * 25 + 1), 120 * (16 * 16 + 1), 84 * 121, 10 * 85]
    assert sum(counts) == 44_426


def test_the_modern_one_has_fewer_than_100_000_weights():
    assert build(MODERN).classifier.count_params() == 96_282


def test_probabilities_are_those_of_the_layers_written_out():
    (classifier,) = build(Config(size=16, outputs=3))
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1)).astype(np.uint8)
    weights = classifier.get_weights()
    expected = []
    for image in 2 * np.sqrt(images / 255) - 1:
        maps = image
        for kernel, bias in (weights[:2], weights[2:4]):
            convolved = [correlate(maps, kernel[..., i], "valid")[..., 0] for i in range(kernel.shape[-1])]
            maps = np.tanh(np.stack(convolved, -1) + bias)
            side = maps.shape[0] // 2
            maps = maps.reshape(side, 2, side, 2, -1).max((1, 3))
        x = maps.ravel()
        for kernel, bias in (weights[4:6], weights[6:8]):
            x = np.tanh(x @ kernel + bias)
        expected.append(softmax(x @ weights[8] + weights[9]))
    np.testing.assert_allclose(classify(classifier, images), expected, atol=1e-5)


@pytest.mark.parametrize("size", [12, 18, 30])
def test_a_size_that_does_not_halve_twice_is_refused(size):
    with pytest.raises(ValueError, match=f"size must be .*, got {size}"):
        build(Config(size=size))


def test_a_run_of_the_first_edition_loads(tmp_path):
    config = Config(modern=True, synchronized=True, sqrt_pixels=False)
    stored = dataclasses.asdict(config) | {"precision": "float32", "xla": False, "steps_per_call": 0}
    stored["root"] = stored.pop("sqrt_pixels")
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "lenet", "data": "sample", "config": stored}))
    assert Run.load(tmp_path, "lenet", Config).config == config
