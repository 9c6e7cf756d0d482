"""A new run that begins with the weights of another run: `train --from RUN`."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.runs import warm_start
from common.runs.run import Run
from common.runs.warm_start import WarmStart
from common.system.files import InputError
from common.system.keras_files import load_keras_file
from common.training.saves import Saves
from recipes import dcgan, fgsm, mlp, mobilenet, pix2pix
from tests.pictures import noise
from tests.test_contract import tiny

pytestmark = pytest.mark.usefixtures("untraced")
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def unreported(monkeypatch) -> None:
    """Draw no figures, which take longer than the training here."""
    for module in ("run", "report"):
        monkeypatch.setattr(f"common.runs.{module}.write_report", lambda folder: None)
    score = "common.runs.classification.evaluate_classifier"
    monkeypatch.setattr(score, lambda data, classify, folder: (Path(folder, "classified.png"), {}))


def command(recipe: str, *arguments: object) -> None:
    """Run `python -m recipes.RECIPE train ARGUMENTS` in this process."""
    module = importlib.import_module(f"recipes.{recipe}")
    before, sys.argv = sys.argv, [f"{recipe}.py", "train", *map(str, arguments)]
    try:
        presets = {"demo": module.DEMO}
        importlib.import_module("common.runs").run_command(module.demo, presets=presets, train=module.run)
    finally:
        sys.argv = before


def failure(capsys: pytest.CaptureFixture[str], recipe: str, *arguments: object) -> str:
    """Return the last line of a command that fails."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(recipe, *arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def pairs(folder: Path, side: int = 32, seed: int = 0) -> Path:
    for number, name in enumerate("AB"):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            image = Image.fromarray(noise(side, side, 3, seed=seed + 10 * number + index))
            image.save(folder / name / f"{index}.png")
    return folder


def labelled(path: Path, classes: int, side: int = 16, count: int = 24) -> Path:
    images = np.stack([noise(side, side, 3, seed=index)[..., 0] for index in range(count)])
    labels = np.arange(count) % classes
    np.savez(path, x_train=images, y_train=labels, x_test=images[:12], y_test=labels[:12])
    return path


def weights(folder: Path, *names: str) -> dict[str, list[np.ndarray]]:
    return {name: load_keras_file(folder / f"{name}.keras").get_weights() for name in names}


def assert_equal(found: dict[str, list[np.ndarray]], expected: dict[str, list[np.ndarray]]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        for one, other in zip(found[name], expected[name], strict=True):
            np.testing.assert_array_equal(one, other)


TINY = ("--size", 8, "--units", 4, "--batch-size", 8, "--epochs", 1)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run of the multilayer perceptron."""
    folder = tmp_path_factory.mktemp("first")
    tf.config.run_functions_eagerly(True)
    command("mlp", "--data", labelled(folder / "data.npz", 4, side=8), *TINY, "--output-dir", folder / "run")
    tf.config.run_functions_eagerly(False)
    return folder / "run"


@pytest.mark.slow
def test_a_new_run_begins_with_the_weights_of_another_on_other_data_of_another_size(tmp_path, capsys):
    first, data, run = tmp_path / "first", pairs(tmp_path / "data", 96, seed=5), tmp_path / "run"
    options = ("--size", 32, "--base-filters", 4, "--batch-size", 1, "--epochs", 1)
    command("pix2pix", "--data", pairs(tmp_path / "small"), *options, "--output-dir", first)
    command("pix2pix", "--from", first, "--data", data, "--learning-rate", 0, "--size", 96, "--output-dir", run)
    assert f"beginning with the weights of {first}: generator, discriminator\n" in capsys.readouterr().err
    assert_equal(weights(run, "generator", "discriminator"), weights(first, "generator", "discriminator"))
    settings = json.loads((run / "config.json").read_text())
    assert settings["from"]["run"] == str(first) and len(settings["from"]["sha256"]) == 64
    config = settings["config"]
    assert (config["size"], config["base_filters"], config["learning_rate"], config["epochs"]) == (96, 4, 0, 1)
    assert settings["data"] == str(data)


def test_options_and_data_that_are_not_given_are_those_of_the_other_run(first, tmp_path):
    command("mlp", "--from", first, "--epochs", 2, "--output-dir", tmp_path / "run")
    before, now = (json.loads((each / "config.json").read_text()) for each in (first, tmp_path / "run"))
    assert now["config"] == before["config"] | {"epochs": 2} and now["data"] == before["data"]


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("saves", [0, 1])
def test_a_killed_run_resumes_without_the_flag_and_equals_an_uninterrupted_one(
    first, tmp_path, monkeypatch, capsys, saves
):
    """Before the first checkpoint, it begins again with the weights of the other run; after it, it does not."""
    options = ("--from", first, "--epochs", 2, "--seed", 3)
    command("mlp", *options, "--output-dir", tmp_path / "whole")
    write, count = Saves.write, 0

    def killed(self, *values):
        nonlocal count
        if count == saves:
            raise Killed
        count += 1
        write(self, *values)

    source = tmp_path / "source"
    shutil.copytree(first, source)
    monkeypatch.setattr(Saves, "write", killed)
    with pytest.raises(Killed):
        command("mlp", *options, "--from", source, "--output-dir", tmp_path / "parts")
    monkeypatch.undo()
    if saves:
        shutil.rmtree(source)
    capsys.readouterr()
    command("mlp", "--output-dir", tmp_path / "parts")
    assert ("beginning with" in capsys.readouterr().err) == (not saves)
    assert_equal(weights(tmp_path / "parts", "classifier"), weights(tmp_path / "whole", "classifier"))
    assert json.loads((tmp_path / "parts/config.json").read_text())["from"]["run"] == str(source)


@pytest.mark.slow
def test_a_resumed_run_accepts_only_the_run_that_it_began_with(first, tmp_path, capsys):
    run, moved, other = tmp_path / "run", tmp_path / "moved", tmp_path / "other"
    command("mlp", "--from", first, "--output-dir", run)
    shutil.copytree(first, moved)
    command("mlp", "--from", first, "--output-dir", run, "--epochs", 2)
    command("mlp", "--from", moved, "--output-dir", run, "--epochs", 2)  # the same files
    shutil.copytree(run, other)
    said = failure(capsys, "mlp", "--from", other, "--output-dir", run, "--epochs", 3)
    assert said == (
        f"error: {run}: this run began with {first}, not with {other}; to resume it, omit --from; for a new run, "
        "choose another --output-dir"
    )
    said = failure(capsys, "mlp", "--from", run, "--output-dir", moved)
    assert f"{moved}: this run did not begin with another run; to resume it, omit --from" in said
    assert "from" not in json.loads((moved / "config.json").read_text())
    mlp.run(config=mlp.Config(**mlp_config(run)), data=data_of(run), output_dir=run)  # from Python
    assert json.loads((run / "config.json").read_text())["from"]["run"] == str(first)


def mlp_config(run: Path) -> dict:
    stored = json.loads((run / "config.json").read_text())["config"]
    return {name: value for name, value in stored.items() if name in mlp.Config.__dataclass_fields__}


def data_of(run: Path) -> str:
    return json.loads((run / "config.json").read_text())["data"]


def test_an_interrupted_run_gives_the_weights_of_its_newest_checkpoint(first, tmp_path, capsys):
    source, run = tmp_path / "source", tmp_path / "run"
    shutil.copytree(first, source)
    for path in source.glob("*.keras"):
        path.unlink()
    command("mlp", "--from", source, "--learning-rate", 0, "--output-dir", run)
    assert_equal(weights(run, "classifier"), weights(first, "classifier"))
    said = failure(capsys, "mlp", "--from", source, "--units", 8, "--output-dir", tmp_path / "wide")
    assert "does not fit" in said and said.endswith("; it was trained with --units 4 (not 8)")
    shutil.rmtree(source / "checkpoints")
    said = failure(capsys, "mlp", "--from", source, "--output-dir", tmp_path / "none")
    assert said == f"error: {source}: has no networks and no checkpoints yet; choose a run that has been trained"


def test_what_cannot_be_loaded_is_one_line_and_leaves_no_run(first, tmp_path, capsys):
    run = tmp_path / "run"
    said = failure(capsys, "mlp", "--from", first, "--units", 8, "--output-dir", run)
    assert re.fullmatch(
        rf"error: {first}: classifier: \w+/kernel has the shape 64 x 4, but the new run needs 64 x 8; it was trained "
        r"with --units 4 \(not 8\)",
        said,
    )
    assert not (run / "config.json").exists()
    said = failure(capsys, "lenet", "--from", first, "--output-dir", run)
    assert said == f"error: {first}: a run of mlp, not of lenet; choose a run of lenet"
    said = failure(capsys, "mlp", "--from", tmp_path / "no", "--output-dir", run)
    assert f"{tmp_path / 'no'}: no run here" in said
    said = failure(capsys, "mlp", "--from", first, "--output-dir", first)
    assert "did not begin with another run" in said
    said = failure(capsys, "mlp", "--output-dir", run, "--from")
    assert said == "error: --from needs the folder of a run, such as runs/mine"
    damaged = tmp_path / "damaged"
    shutil.copytree(first, damaged)
    (damaged / "classifier.keras").write_bytes(b"damaged")
    said = failure(capsys, "mlp", "--from", damaged, "--output-dir", run)
    assert f"{damaged / 'classifier.keras'}: cannot be loaded" in said
    (damaged / "classifier.keras").rename(damaged / "generator.keras")
    said = failure(capsys, "mlp", "--from", damaged, "--output-dir", run)
    assert said == f"error: {damaged}: contains none of the networks classifier; choose a run that has them"
    shutil.rmtree(damaged / "checkpoints")
    shutil.copytree(damaged, run)
    said = failure(capsys, "mlp", "--from", run, "--output-dir", run)
    assert said == f"error: {run}: is the run itself; to resume it, omit --from"


def test_networks_of_another_depth(tmp_path):
    """Of pix2pix, the size sets the depth."""
    small, large = (pix2pix.Config(size=size, base_filters=1) for size in (32, 64))
    run = Run(tmp_path / "small", "pix2pix", small, "sample")
    run.start()
    for name, network in pix2pix.build(small)._asdict().items():
        network.save(tmp_path / "small" / f"{name}.keras")
    start = WarmStart(tmp_path / "small", "pix2pix")
    start.begin(tmp_path / "large", large)
    with pytest.raises(InputError, match=r"generator: has 25 weights, but .* needs 31; .* with --size 32 \(not 64\)$"):
        start.load(pix2pix.build(large)._asdict(), tmp_path / "large")


@pytest.mark.slow
def test_a_classifier_of_other_classes_gets_a_new_last_layer(tmp_path, capsys):
    ten, three, run = labelled(tmp_path / "ten.npz", 4), labelled(tmp_path / "three.npz", 3), tmp_path / "run"
    options = ("--epochs", 1, "--batch-size", 8)
    command("lenet", "--data", ten, *options, "--output-dir", tmp_path / "ten")
    capsys.readouterr()
    command("lenet", "--from", tmp_path / "ten", "--data", three, "--learning-rate", 0, "--output-dir", run)
    assert "classifier without its last layer (4 classes there, 3 here)" in capsys.readouterr().err
    before, now = (weights(folder, "classifier")["classifier"] for folder in (tmp_path / "ten", run))
    for one, other in zip(before[:-2], now[:-2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (before[-2].shape[1], now[-2].shape[1], before[-1].shape, now[-1].shape) == (4, 3, (4,), (3,))
    for path in (tmp_path / "ten").glob("*.keras"):
        path.unlink()
    command("lenet", "--from", tmp_path / "ten", "--data", three, "--learning-rate", 0, "--output-dir", tmp_path / "2")
    assert_equal(weights(tmp_path / "2", "classifier"), weights(run, "classifier"))  # from the checkpoint
    said = failure(capsys, "lenet", "--from", run, "--data", three, "--size", 20, "--output-dir", tmp_path / "3")
    assert "--size 16 (not 20)" in said and "classifier: " in said  # the hidden layers differ, not the last one


@pytest.mark.slow
def test_networks_that_are_not_stored_start_new_and_an_ema_starts_from_its_network(tmp_path, capsys):
    images = tmp_path / "images.npz"
    np.savez(images, x_train=np.stack([noise(16, 16, 3, seed=index)[..., 0] for index in range(8)]))
    options = ("--size", 16, "--channels", 1, "--base-filters", 4, "--batch-size", 4, "--epochs", 1)
    first = tmp_path / "first"
    command("dcgan", "--data", images, *options, "--ema-decay", 0.5, "--output-dir", first)
    (first / "discriminator.keras").unlink()
    capsys.readouterr()
    fresh = dcgan.build(tiny(dcgan, "dcgan"))
    seen = {}

    def look(networks):
        seen.update({name: network.get_weights() for name, network in networks.items()})

    with warm_start(first, "dcgan"):
        looking_at(look, lambda: dcgan.run(str(images), dcgan_config(first), tmp_path / "run"))
    said = capsys.readouterr().err
    assert f"beginning with the weights of {first}: generator, ema (from generator); discriminator starts new" in said
    assert_equal({"generator": seen["generator"]}, weights(first, "generator"))
    assert_equal({"ema": seen["ema"]}, {"ema": seen["generator"]})
    assert_equal({"d": seen["discriminator"]}, {"d": fresh.discriminator.get_weights()})


def dcgan_config(run: Path) -> dcgan.Config:
    return Run.load(run, "dcgan", dcgan.Config).config


def looking_at(look, call) -> None:
    """Call `call`, and `look` with the networks as they are before the first step."""
    newest = Saves.newest

    def seen(self, steps):
        look(self.networks)
        return newest(self, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saves, "newest", seen)
        call()


@pytest.mark.parametrize("name", ["ssgan", "dcgan_faces", "lenet", "vae", "cyclegan", "fgsm"])
def test_bundled_networks_can_be_continued(name, tmp_path, capsys, monkeypatch):
    """Only the networks are loaded here; the steps would be too slow."""
    module, bundle = importlib.import_module(f"recipes.{name}"), ROOT / "data" / "bundled" / name
    config = Run.load(bundle, name, module.Config).config
    networks, start = module.build(config)._asdict(), WarmStart(bundle, name)
    start.begin(tmp_path, config)
    start.load(networks, tmp_path)
    for file in bundle.glob("*.keras"):
        if file.stem in networks:
            assert_equal({"": networks[file.stem].get_weights()}, {"": load_keras_file(file).get_weights()})
    said = capsys.readouterr().err
    if name == "dcgan_faces":
        assert "ema, generator (from ema); discriminator starts new" in said
        assert_equal({"": networks["generator"].get_weights()}, {"": networks["ema"].get_weights()})
    if name == "ssgan":
        assert "generator, ema, classifier (from ema)\n" in said


@pytest.mark.slow
def test_mobilenet_loads_its_features_before_it_computes_them(tmp_path, capsys, monkeypatch):
    data, run = labelled(tmp_path / "four.npz", 4, side=32), tmp_path / "run"
    options = ("--size", 32, "--channels", 1, "--alpha", 0.35, "--batch-size", 8, "--epochs", 1, "--head-epochs", 2)
    command("mobilenet", "--data", data, "--weights", "random", *options, "--output-dir", tmp_path / "first")
    stored = weights(tmp_path / "first", "features", "classifier")
    used = []
    extract = mobilenet.extract_features
    monkeypatch.setattr(
        mobilenet,
        "extract_features",
        lambda network, images: used.append(network.get_weights()) or extract(network, images),
    )
    three = labelled(tmp_path / "three.npz", 3, side=32)
    write, count = Saves.write, 0

    def killed(self, *values):
        nonlocal count
        count += 1
        write(self, *values)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Saves, "write", killed)
        with pytest.raises(Killed):
            command("mobilenet", "--from", tmp_path / "first", "--data", three, "--output-dir", run)
    assert "features, classifier without its last layer (4 classes there, 3 here)" in capsys.readouterr().err
    assert_equal({"": used[0]}, {"": stored["features"]})
    used.clear()
    shutil.rmtree(run / "cache")
    command("mobilenet", "--output-dir", run)  # in the middle of the first stage
    assert_equal({"": used[0]}, {"": stored["features"]})
    assert "beginning with" not in capsys.readouterr().err


def test_python_runs_in_the_block_and_other_runs_are_left_alone(first, tmp_path):
    with warm_start(first, "mlp"):
        config = mlp.Config(**mlp_config(first) | {"learning_rate": 0.0})
        mlp.run(data_of(first), config, tmp_path / "run")
        mlp.run(data_of(first), config, tmp_path / "second")
    assert_equal(weights(tmp_path / "run", "classifier"), weights(first, "classifier"))
    assert "from" not in json.loads((tmp_path / "second/config.json").read_text())
    with warm_start(tmp_path / "no", "mlp"), pytest.raises(InputError, match="no run here"):
        mlp.run(data_of(first), config, tmp_path / "third")


def test_names_of_earlier_versions(tmp_path):
    config = tiny(fgsm, "fgsm")
    networks = fgsm.build(config)
    old = Run(tmp_path / "old", "fgsm", config, "sample")
    old.start(("a", "b"))
    networks.classifier.save(tmp_path / "old/classifier.keras")
    networks.robust.save(tmp_path / "old/hardened.keras")
    other = fgsm.build(config.__class__(**vars(config) | {"seed": 4}))
    start = WarmStart(tmp_path / "old", "fgsm")
    start.begin(tmp_path / "new", config)
    start.load(other._asdict(), tmp_path / "new")
    assert_equal({"": other.robust.get_weights()}, {"": networks.robust.get_weights()})
