from __future__ import annotations

import json
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

import common.runs.run as run_module
from common.runs.run import Run, read_data, run_settings, stored_classes, stored_run
from common.system.files import InputError, write_json
from common.training import fit
from recipes.pix2pix import Config, build
from tests.test_training import data, start


def test_settings_come_back_as_they_were(tmp_path, monkeypatch):
    config = Config(size=32, classes=5, swap=True, learning_rate=1e-3)
    Run(tmp_path, "pix2pix", config, "photos").start()
    assert Run.load(tmp_path, "pix2pix", Config).config == config
    assert read_data(tmp_path) == "photos"
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    Run(tmp_path, "pix2pix", config, "photos").start()
    assert read_data(tmp_path) == str(tmp_path / "photos")  # to be found from elsewhere too
    versions = json.loads((tmp_path / "config.json").read_text())["versions"]
    assert versions["keras"] == keras.__version__


def test_a_run_that_is_older_than_a_setting_has_its_default(tmp_path):
    Run(tmp_path, "pix2pix", Config(size=32), "sample").start()
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["config"]["dropout"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert Run.load(tmp_path, "pix2pix", Config).config == Config(size=32)
    settings["config"]["no_such_setting"] = 1
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="unknown setting 'no_such_setting'"):
        Run.load(tmp_path, "pix2pix", Config)


def test_settings_of_a_run_are_all_that_was_written(tmp_path):
    Run(tmp_path, "pix2pix", Config(size=32, seed=9), "sample").start(("cat", "dog"))
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
    Run(tmp_path, "pix2pix", Config(), "photos").start()
    Run(tmp_path, "pix2pix", Config(seed=1), "sample")
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    Run(tmp_path, "pix2pix", Config(epochs=300), "photos")
    with pytest.raises(InputError, match="data 'photos', not 'sample'"):
        Run(tmp_path, "pix2pix", Config(), "sample")
    with pytest.raises(InputError, match="seed 0, not 1"):
        Run(tmp_path, "pix2pix", Config(seed=1), "photos")


def test_a_run_keeps_its_classes(tmp_path):
    Run(tmp_path, "pix2pix", Config(), "photos").start(("cat", "dog"))
    assert stored_classes(stored_run(tmp_path)) == ("cat", "dog")
    Run(tmp_path, "pix2pix", Config(), "photos").start(("cat", "cow"))  # nothing has come of it yet
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    Run(tmp_path, "pix2pix", Config(), "photos").start(("cat", "cow"))
    with pytest.raises(InputError, match="the classes of this run were cat, cow, and are now cat, dog"):
        Run(tmp_path, "pix2pix", Config(), "photos").start(("cat", "dog"))
    assert stored_classes(stored_run(tmp_path)) == ("cat", "cow")


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("base_filters", -1), ("dropout", 1.5), ("seed", -1), ("epochs", 0)]
)
def test_a_setting_out_of_its_range_is_refused_with_value_and_rule(field, value, tmp_path):
    with pytest.raises(InputError, match=f"{field} must be .* or more.*got {value}"):
        Run(tmp_path, "pix2pix", Config(**{field: value}), "sample")


def test_a_folder_that_is_called_as_a_word_is_not_meant_by_it(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    monkeypatch.chdir(tmp_path)
    Run(tmp_path / "run", "pix2pix", Config(), "sample").start()
    assert read_data(tmp_path / "run") == "sample"


def test_networks_are_written_before_a_score_fails(tmp_path):
    def fail():
        raise RuntimeError("no score")

    run = Run(tmp_path, "pix2pix", Config(), "sample")
    with pytest.raises(RuntimeError, match="no score"):
        run.finish(build(Config(size=32, base_filters=4)), fail)
    assert {path.name for path in tmp_path.iterdir()} == {"generator.keras", "discriminator.keras"}


def test_a_finished_run_has_networks_that_give_the_same_outputs(tmp_path):
    networks = build(Config(size=32, base_filters=4))
    run = Run(tmp_path, "pix2pix", Config(size=32, base_filters=4), "sample")
    run.start()
    finished = run.finish(networks, lambda: {"l1": 0.25}, tmp_path / "image.png")
    assert isinstance(finished, Path) and finished == tmp_path / "image.png" and finished.parent == tmp_path
    assert f"{finished}" == str(tmp_path / "image.png") and finished.scores == {"l1": 0.25}
    assert finished.networks is networks
    assert json.loads((tmp_path / "results.json").read_text()) == {"l1": 0.25}
    images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    loaded = Run.load(tmp_path, "pix2pix", Config).network("generator")
    np.testing.assert_array_equal(loaded(images), networks.generator(images))
    assert not list(tmp_path.glob(".*"))


def test_settings_and_networks_of_an_earlier_version_are_found_under_their_names_of_today(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "RENAMED", {"pix2pix": {"weight": "l1_weight", "gone": ""}})
    monkeypatch.setattr(run_module, "RENAMED_NETWORKS", {"pix2pix": {"painter": "generator"}})
    config = Config(size=32, base_filters=4, l1_weight=7.0)
    networks = build(config)
    run = Run(tmp_path, "pix2pix", config, "sample")
    run.start()
    run.finish(networks, lambda: {"l1": 0.25})
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["config"] |= {"weight": settings["config"].pop("l1_weight"), "gone": 3}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "generator.keras").rename(tmp_path / "painter.keras")
    old = Run.load(tmp_path, "pix2pix", Config)
    assert old.config == config
    np.testing.assert_array_equal(old.network("generator").get_weights()[0], networks.generator.get_weights()[0])
    with pytest.raises(InputError, match="discriminat.keras: there is no such file"):
        old.network("discriminat")
    settings["config"]["weight"] = -1
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"config.json: l1_weight must be 0 or more .* got -1; restore it"):
        Run.load(tmp_path, "pix2pix", Config)


def test_a_run_resumes_from_saves_that_have_a_network_under_an_older_name(tmp_path, monkeypatch):
    def averaged(value: float) -> keras.Model:
        network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        network.set_weights([np.full((2, 1), value), np.zeros(1)])
        return network

    Run(tmp_path, "pix2pix", Config(), "sample").start()
    step, state = start()
    fit(step, data(), epochs=1, state=state | {"averaged": averaged(1.0)}, output_dir=tmp_path)
    step, state = start(seed=9)
    state |= {"ema": averaged(2.0)}
    with pytest.raises(InputError, match="no checkpoint can be read .* damaged or belongs to other networks"):
        fit(step, data(), epochs=2, state=state, output_dir=tmp_path)
    monkeypatch.setattr(run_module, "RENAMED_NETWORKS", {"pix2pix": {"averaged": "ema"}})
    history = fit(step, data(), epochs=2, state=state, output_dir=tmp_path)
    step, whole = start()
    expected = fit(step, data(), epochs=2, state=whole)
    assert [row["loss"] for row in history] == [row["loss"] for row in expected]
    assert state["ema"].get_weights()[0].tolist() == [[1.0], [1.0]]


def test_a_run_says_what_it_was_started_with(tmp_path):
    config = Config(size=64)
    run = Run(tmp_path, "pix2pix", config, "sample")
    run.start(("cat", "dog"))
    for each in (run, Run.load(tmp_path, "pix2pix", Config)):
        assert (each.folder, each.recipe, each.config, each.data) == (tmp_path, "pix2pix", config, "sample")
        assert (each.classes, each.image_shape) == (("cat", "dog"), (64, 64, 3))


def test_a_run_may_be_given_as_text_and_has_scores(tmp_path):
    run = Run(str(tmp_path), "pix2pix", Config(size=32), "sample")
    run.start()
    with pytest.raises(InputError, match=r"results.json: has this run finished training\?"):
        run.scores()
    write_json(tmp_path / "results.json", {"psnr": np.inf, "classifier": "a.keras"})
    assert Run.load(str(tmp_path), "pix2pix", Config).scores() == {"psnr": np.inf, "classifier": "a.keras"}
    (tmp_path / "results.json").write_text("[1")
    with pytest.raises(InputError, match="results.json: cannot be read"):
        run.scores()


def test_long_scores_are_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("common.system.console.Progress.FIRST_LINE", 0.0)
    run = Run(tmp_path, "pix2pix", Config(size=32), "sample")
    run.start()
    announced = threading.Event()

    def said(text: str) -> None:
        if text == "computing the scores":
            announced.set()

    monkeypatch.setattr("common.system.console.say", said)
    finished = run.finish(build(Config(size=32, base_filters=1)), lambda: {"l1": float(announced.wait(60))})
    assert finished.scores == {"l1": 1.0}
