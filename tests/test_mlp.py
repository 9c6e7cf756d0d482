from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax

from common.batches import batches
from recipes.mlp import WIDE, Config, build, classify, train


def test_it_has_the_usual_examples_weights():
    assert build().classifier.count_params() == 784 * 128 + 128 + 128 * 10 + 10 == 101_770
    assert build(WIDE).classifier.count_params() == 785 * 1024 + 1025 * 10


@pytest.mark.parametrize("root", [False, True])
def test_probabilities_are_those_of_the_layers_written_out(root):
    config = Config(size=6, units=5, outputs=3, root=root)
    (classifier,) = build(config)
    images = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 1)).astype(np.uint8)
    first, first_bias, second, second_bias = classifier.get_weights()
    seen = 2 * (images.reshape(7, -1) / 255) ** (0.5 if root else 1) - 1
    hidden = np.maximum(0, seen @ first + first_bias)
    np.testing.assert_allclose(classify(classifier, images), softmax(hidden @ second + second_bias, axis=1), atol=1e-5)


def test_it_learns_and_its_learning_rate_falls_to_nothing():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 256).astype(np.int32)
    images = np.clip(generator.normal(100 + 60 * labels[:, None, None, None], 30, (256, 6, 6, 1)), 0, 255)
    data = batches((images.astype(np.uint8), labels), 32, 0, held_out=(images[:50].astype(np.uint8), labels[:50]))
    config = Config(size=6, units=8, outputs=2, epochs=20, learning_rate=0.01, dropout=0.0)
    networks = build(config)
    history = train(networks, data, config)
    assert history[-1]["validation_accuracy"] > 0.95 > 0.9 > history[0]["accuracy"]
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.slow
def test_classes_of_an_own_folder_set_the_outputs_and_a_second_call_goes_on(tmp_path, capsys):
    from PIL import Image

    from common.classification import Shown
    from recipes.mlp import classify_file, experiment

    generator = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200), ("middle", 120)):
        for number in range(6):
            pixels = generator.integers(level - 20, level + 20, (9 + number, 12, 3)).astype(np.uint8)
            (tmp_path / "own" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "own" / name / f"{number}.png")
    for epochs in (20, 40):
        experiment(str(tmp_path / "own"), Config(size=8, epochs=epochs, learning_rate=0.01), tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["classes"] == ["dark", "light", "middle"] and settings["config"]["outputs"] == 3
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test_accuracy"] == 1
    capsys.readouterr()
    classify_file(tmp_path / "own" / "light", tmp_path / "run", Shown(top=1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all("light" in line.split("  ")[1] for line in lines)


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match="size must be 4 or more and at most 512, got 2"):
        build(Config(size=2))
