from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from common.errors import InputError
from common.runs import (
    check_run,
    finish_run,
    load_network,
    read_classes,
    read_data,
    read_run,
    run_settings,
    start_run,
)
from recipes.pix2pix import Config, build


def test_settings_come_back_as_they_were(tmp_path, monkeypatch):
    config = Config(size=32, classes=5, swap=True, learning_rate=1e-3)
    start_run(tmp_path, "pix2pix", config, "photos")
    assert read_run(tmp_path, "pix2pix", Config) == config
    assert read_data(tmp_path) == "photos"
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    start_run(tmp_path, "pix2pix", config, "photos")
    assert read_data(tmp_path) == str(tmp_path / "photos")  # to be found from elsewhere too
    versions = json.loads((tmp_path / "config.json").read_text())["versions"]
    assert versions["keras"] == keras.__version__


def test_a_run_that_is_older_than_a_setting_has_its_default(tmp_path):
    start_run(tmp_path, "pix2pix", Config(size=32), "sample")
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["config"]["dropout"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert read_run(tmp_path, "pix2pix", Config) == Config(size=32)
    settings["config"]["no_such_setting"] = 1
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="of another version at 'no_such_setting'"):
        read_run(tmp_path, "pix2pix", Config)


def test_settings_of_a_run_are_all_that_was_written(tmp_path):
    start_run(tmp_path, "pix2pix", Config(size=32, seed=9), "sample", ("cat", "dog"))
    settings = run_settings(tmp_path, "pix2pix")
    assert settings == json.loads((tmp_path / "config.json").read_text())
    assert (settings["config"]["seed"], settings["data"], settings["classes"]) == (9, "sample", ["cat", "dog"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r": no run here \(there is no config\.json\); make one with `train` or the demo$"),
        ("", r"config\.json: damaged \(.*; restore it, or start a new run in another folder$"),
        ('{"recipe": "pix2pix"', r"config\.json: damaged \("),
        ("[]", r"config\.json: damaged \("),
        ('{"recipe": "pix2pix", "data": "sample"}', r"config\.json: damaged \('config'\)"),
        ('{"recipe": "pix2pix", "config": {}}', r"config\.json: damaged \('data'\)"),
        ('{"recipe": "pix2pix", "config": 3, "data": "sample"}', r"config\.json: damaged \("),
        (
            '{"recipe": "lenet", "config": {}, "data": "sample"}',
            ": a run of lenet, not of pix2pix; choose a run of pix2pix$",
        ),
    ],
)
def test_settings_that_cannot_be_read_are_one_line(text, message, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        run_settings(tmp_path, "pix2pix")
    assert "\n" not in str(error.value) and str(error.value).startswith(str(tmp_path))


def test_only_epochs_may_change_once_something_is_saved(tmp_path):
    start_run(tmp_path, "pix2pix", Config(), "photos")
    check_run(tmp_path, "pix2pix", Config(seed=1), "sample")
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    check_run(tmp_path, "pix2pix", Config(epochs=300), "photos")
    with pytest.raises(InputError, match="data 'photos', not 'sample'"):
        check_run(tmp_path, "pix2pix", Config(), "sample")
    with pytest.raises(InputError, match="seed 0, not 1"):
        check_run(tmp_path, "pix2pix", Config(seed=1), "photos")


def test_a_run_keeps_its_classes(tmp_path):
    start_run(tmp_path, "pix2pix", Config(), "photos", ("cat", "dog"))
    assert read_classes(tmp_path) == ("cat", "dog")
    start_run(tmp_path, "pix2pix", Config(), "photos", ("cat", "cow"))  # nothing has come of it yet
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    start_run(tmp_path, "pix2pix", Config(), "photos", ("cat", "cow"))
    with pytest.raises(InputError, match="the classes of this run were cat, cow, and are now cat, dog"):
        start_run(tmp_path, "pix2pix", Config(), "photos", ("cat", "dog"))
    assert read_classes(tmp_path) == ("cat", "cow")


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("base_filters", -1), ("dropout", 1.5), ("seed", -1), ("epochs", 0)]
)
def test_a_setting_out_of_its_range_is_refused_with_value_and_rule(field, value, tmp_path):
    with pytest.raises(InputError, match=f"{field} must be .* or more.*got {value}"):
        check_run(tmp_path, "pix2pix", Config(**{field: value}), "sample")


def test_a_folder_that_is_called_as_a_word_is_not_meant_by_it(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    monkeypatch.chdir(tmp_path)
    start_run(tmp_path / "run", "pix2pix", Config(), "sample")
    assert read_data(tmp_path / "run") == "sample"


def test_networks_are_written_before_a_score_fails(tmp_path):
    def fail():
        raise RuntimeError("no score")

    with pytest.raises(RuntimeError, match="no score"):
        finish_run(tmp_path, build(Config(size=32, base_filters=4)), fail)
    assert {path.name for path in tmp_path.iterdir()} == {"generator.keras", "discriminator.keras"}


def test_a_finished_run_has_networks_that_give_the_same_outputs(tmp_path):
    networks = build(Config(size=32, base_filters=4))
    start_run(tmp_path, "pix2pix", Config(size=32, base_filters=4), "sample")
    finish_run(tmp_path, networks, lambda: {"l1": 0.25})
    assert json.loads((tmp_path / "results.json").read_text()) == {"l1": 0.25}
    images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(load_network(tmp_path, "generator")(images), networks.generator(images))
    assert not list(tmp_path.glob(".*"))
