"""Bundled networks: where they are used, what is said then, and that those that ship are what their table says."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from common.images.reading import read_image
from common.runs import InputError, Run, bundled
from common.samples.faces import FACE_ATTRIBUTES, synthetic_faces
from common.samples.handwriting import handwritten_digits
from common.system.files import write_json
from common.system.keras_files import load_keras_file
from recipes import dcgan, pix2pix, vae_faces
from tools import bundle

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(path.name for path in bundled.BUNDLED.glob("*") if path.is_dir())
TINY = dcgan.Config(size=16, channels=1, latent_dim=3, base_filters=2)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Make a bundle of a tiny DCGAN, and go to an empty folder."""
    folder = tmp_path / "bundled" / "dcgan"
    run = Run(folder, "dcgan", TINY, "sample")
    run.start()
    networks = dcgan.build(TINY)
    networks.generator.save(folder / "generator.keras")
    write_json(folder / "results.json", {"confidence": 0.5})
    write_json(folder / "bundle.json", {"training_data": "three digits", "cpu_hours": 2.13})
    monkeypatch.setattr(bundled, "BUNDLED", folder.parent)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return networks.generator


def test_without_a_run_a_command_uses_the_bundled_network_and_says_so(tiny, capsys):
    folder = dcgan.generate_file(Path("images"), count=2, singles=True)
    np.testing.assert_array_equal(read_image(folder / "000001.png", 1), dcgan.generate(tiny, 2)[1])
    line = "using the bundled network (three digits, 2.1 CPU hours); --run DIR for your own\n"
    assert capsys.readouterr().err == line


def test_a_run_of_the_demo_comes_first(tiny, capsys):
    run = Run(dcgan.DEMO_RUN, "dcgan", TINY, "sample")
    run.start()
    with pytest.raises(InputError, match="has this run finished training"):
        dcgan.generate_file(Path("grid.png"), count=4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("folder", ["runs/mine", "runs/gan-demo", "other/dcgan-demo"])
def test_a_folder_that_was_asked_for_is_never_replaced_by_the_bundle(tiny, folder):
    with pytest.raises(InputError, match=f"{folder}: no run here"):
        dcgan.generate_file(Path("grid.png"), count=4, run=Path(folder))


def test_a_recipe_without_a_bundle_asks_for_a_run(tiny, monkeypatch):
    monkeypatch.setattr(bundled, "BUNDLED", Path("nothing here"))
    with pytest.raises(InputError, match="runs/dcgan-demo: no run here"):
        dcgan.generate_file(Path("grid.png"), count=4)


def test_a_bundle_is_never_resumed_or_written_to(tiny):
    Run(dcgan.DEMO_RUN, "dcgan", dcgan.DEMO, "sample").start()
    assert json.loads((dcgan.DEMO_RUN / "config.json").read_text())["config"]["size"] == 28
    assert json.loads((bundled.BUNDLED / "dcgan" / "config.json").read_text())["config"]["size"] == 16


def networks_with_every_kind_of_weight() -> keras.Model:
    layers = keras.layers
    x = images = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    inner = keras.Sequential([keras.Input((6, 6, 4)), layers.Conv2DTranspose(5, 4, 2), layers.GroupNormalization(-1)])
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(inner(x))))


def test_a_shrunk_network_has_weights_rounded_to_float16_and_half_the_bytes(tmp_path):
    network = networks_with_every_kind_of_weight()
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in network.get_weights()])
    network.layers[2].moving_variance.assign([1e-9, 7e4, 1e6, 1.0])  # 0, then infinity twice, in float16
    network.save(tmp_path / "network.keras")
    bundle.shrink(tmp_path / "network.keras", tmp_path / "small.keras")
    small = load_keras_file(tmp_path / "small.keras")
    for weights, rounded in zip(network.get_weights(), small.get_weights(), strict=True):
        expected = weights.astype(np.float16) if weights.ndim > 1 else weights
        assert rounded.dtype == np.float32
        np.testing.assert_array_equal(rounded, expected.astype(np.float32))


def test_the_same_weights_give_the_same_bytes(tmp_path):
    network = networks_with_every_kind_of_weight()
    for name in "ab":
        network.save(tmp_path / "network.keras")
        bundle.shrink(tmp_path / "network.keras", tmp_path / f"{name}.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()


def test_scores_that_differ_are_named():
    stored = {"l1": 0.04, "ssim": 0.8, "gone": 1.0, "kind": "a"}
    assert bundle.same_scores(stored, stored) == []
    assert bundle.same_scores(stored, {"l1": 0.0404, "ssim": 0.83, "new": 1.0, "kind": "b"}) == [
        "gone",
        "kind",
        "new",
        "ssim",
    ]


def test_every_bundle_names_networks_of_its_recipe():
    import importlib

    for name, each in bundle.BUNDLES.items():
        assert set(each.networks) <= set(importlib.import_module(f"recipes.{name}").Networks._fields), name


@pytest.mark.slow
def test_a_bundle_is_trained_shrunk_and_scored(tmp_path, monkeypatch):
    options = "--batch-size 256 --epochs 1"
    entry = bundle.Bundle("clothes", None, "", options, ("classifier",))
    monkeypatch.setitem(bundle.BUNDLES, "lenet", entry)
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    monkeypatch.setattr(bundle, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run, first, command = bundle.trained("lenet")
    run, hours, command = bundle.trained("lenet")  # there is nothing left to train, but the process took its time
    assert 0 < first < hours
    folder = bundle.write_bundle("lenet", run, hours, command)
    assert {path.name for path in folder.iterdir()} == {
        "bundle.json",
        "config.json",
        "classifier.keras",
        "results.json",
    }
    assert read_image(tmp_path / "docs" / "gallery" / "lenet-bundled.jpg").any()
    about = json.loads((folder / "bundle.json").read_text())
    assert about["command"] == f"python -m recipes.lenet train {options}"
    assert about["sha256"] == {path.name: bundle.sha256(path) for path in folder.glob("[!b]*")}
    own = json.loads((run / "results.json").read_text())
    assert bundle.same_scores(own, json.loads((folder / "results.json").read_text()), 0.05) == []
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_json(folder / "results.json", {"accuracy": 0.5})
    bundle.write_scores("lenet", folder, about, tmp_path / "scored")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bundles_train_on_images_that_are_in_no_demo(tmp_path, monkeypatch):
    def few(make, count):
        return lambda _, seed, *size, **options: make(count, seed, *size, **options)

    for name, count in (("synthetic_faces", 34), ("sketch_pairs", 8), ("handwritten_digits", 1010)):
        monkeypatch.setattr(bundle, name, few(getattr(bundle, name), count))
    monkeypatch.setattr(bundle, "POSES", bundle.POSES[:2])
    for write in (bundle.write_faces, bundle.write_sketches, bundle.write_digits):
        write(tmp_path)
    pairs = [read_image(path) for path in sorted((tmp_path / "test").iterdir())]
    with np.load(tmp_path / "faces.npz") as faces, np.load(tmp_path / "digits.npz") as digits:
        assert faces["x_train"].shape == (8, 64, 64, 3) and faces["y_test"].shape == (60, len(FACE_ATTRIBUTES))
        assert [*faces["attributes"]] == [*FACE_ATTRIBUTES] and digits["x_train"].shape == (10, 28, 28, 1)
        own = faces["x_train"], np.stack([pair[:, 128:] for pair in pairs]), digits["x_train"]
    assert vae_faces.DEMO.seed == pix2pix.DEMO.seed == dcgan.DEMO.seed == 0
    frontal = synthetic_faces(8, 0, looking_left=bundle.POSES[0])[0]
    shown = frontal, synthetic_faces(8, 0, 128)[0], handwritten_digits(20)[0]
    for demo, trained in zip(shown, own, strict=True):
        assert np.abs(demo[:, None].astype(int) - trained[None]).mean((2, 3, 4)).min() > 2


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_is_whole(name):
    folder = bundled.BUNDLED / name
    about = bundled.about_bundle(folder)
    files = {path.name for path in folder.iterdir()} - {"bundle.json"}
    assert about["sha256"] == {each: bundle.sha256(folder / each) for each in sorted(files)}
    assert {f"{each}.keras" for each in bundle.BUNDLES[name].networks} <= files
    assert about["cpu_hours"] > 0 and about["command"].startswith(f"python -m recipes.{name} train")


def test_the_table_of_bundles_says_what_ships():
    document = (ROOT / "data" / "README.md").read_text()
    rows = [line for line in document.splitlines() if line.startswith("| `bundled/")]
    assert rows == [bundle.table_row(name, bundled.BUNDLED / name) for name in SHIPPED]


def test_all_shipped_bundles_together_are_at_most_30_megabytes():
    assert sum(path.stat().st_size for path in bundled.BUNDLED.rglob("*") if path.is_file()) <= 30e6


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_has_its_scores(name, tmp_path):
    scores, _ = bundle.scored(name, bundled.BUNDLED / name, tmp_path / "run")
    assert bundle.same_scores(scores, json.loads((bundled.BUNDLED / name / "results.json").read_text())) == []


@pytest.mark.slow
def test_export_without_a_run_writes_the_bundled_networks_to_the_folder_of_the_demo(tiny):
    from common.runs.export import export

    export(dcgan.DEMO_RUN, "tf_saved_model")
    assert (dcgan.DEMO_RUN / "generator" / "saved_model.pb").is_file()
    assert not (bundled.BUNDLED / "dcgan" / "generator").exists()
    assert not (dcgan.DEMO_RUN / "config.json").exists()
