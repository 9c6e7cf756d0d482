from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from common.data.batches import batches
from common.runs import Run
from recipes.mlp import WIDE, Config, build, classify, train


def test_it_has_the_weights_of_the_usual_tutorial_network():
    assert build().classifier.count_params() == 784 * 128 + 128 + 128 * 10 + 10 == 101_770
    assert build(WIDE).classifier.count_params() == 785 * 1024 + 1025 * 10


@pytest.mark.parametrize("sqrt_pixels", [False, True])
def test_probabilities_are_those_of_the_layers_written_out(sqrt_pixels):
    config = Config(size=6, units=5, outputs=3, sqrt_pixels=sqrt_pixels)
    (classifier,) = build(config)
    images = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 1)).astype(np.uint8)
    first, first_bias, second, second_bias = classifier.get_weights()
    seen = 2 * (images.reshape(7, -1) / 255) ** (0.5 if sqrt_pixels else 1) - 1
    hidden = np.maximum(0, seen @ first + first_bias)
    np.testing.assert_allclose(classify(classifier, images), softmax(hidden @ second + second_bias, axis=1), atol=1e-5)


def test_it_learns():
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
def test_the_classes_of_a_folder_set_the_outputs_and_a_second_call_resumes(tmp_path, capsys):
    from PIL import Image

    from recipes.mlp import classify_file, run

    generator = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200), ("middle", 120)):
        for number in range(6):
            pixels = generator.integers(level - 20, level + 20, (9 + number, 12, 3)).astype(np.uint8)
            (tmp_path / "own" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "own" / name / f"{number}.png")
    for epochs in (20, 40):
        run(str(tmp_path / "own"), Config(size=8, epochs=epochs, learning_rate=0.01), tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["classes"] == ["dark", "light", "middle"] and settings["config"]["outputs"] == 3
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test_accuracy"] == 1
    capsys.readouterr()
    classify_file(tmp_path / "own" / "light", tmp_path / "run", top=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all("light" in line.split("  ")[1] for line in lines)


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match="size must be 4 or more and at most 512, got 2"):
        build(Config(size=2))


def test_arrays_and_datasets_train_without_validation():
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (20, 6, 6, 1)).astype(np.uint8), np.arange(20) % 2
    config = Config(size=6, units=5, outputs=2, epochs=2, batch_size=5)
    seen = []
    rows = train(build(config), (images, labels), config, on_epoch=lambda epoch, losses: seen.append(epoch))
    assert seen == [1, 2] and set(rows[0]) >= {"loss", "accuracy"} and "validation_accuracy" not in rows[0]
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(5, drop_remainder=True)
    (row, *_) = train(build(config), data, config, steps_per_epoch=2)
    assert np.isfinite(row["loss"])


def test_a_run_of_the_first_edition_loads(tmp_path):
    stored = dataclasses.asdict(Config(units=5)) | {"precision": "float32", "xla": False, "steps_per_call": 0}
    stored["root"] = not stored.pop("sqrt_pixels")
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "mlp", "data": "sample", "config": stored}))
    assert Run.load(tmp_path, "mlp", Config).config == Config(units=5, sqrt_pixels=False)
