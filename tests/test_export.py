"""What is exported, loaded in its own runtime, against the network that it was made of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.export import Case, against, compare
from common.runs.export import EXPORT_ENDINGS, export, export_network, in_float32
from common.runs.run import Run
from common.system.files import InputError
from common.training import Execution, executing
from recipes import diffusion, lenet, pix2pix
from tests.forked import forked_python
from tests.test_contract import RECIPES, build_short, in_groups, load, tiny

ROOT = Path(__file__).parents[1]
Runtime = Callable[[list[np.ndarray]], list[np.ndarray]]


def needs_the_extra() -> None:
    for package in ("onnxruntime", "tf2onnx", "ai_edge_litert"):
        pytest.importorskip(package, reason="the export extra is not installed")


def drawn(network: keras.Model) -> keras.Model:
    """Return the network with weights drawn so that what goes through it neither fades nor grows: untrained, some
    generators draw nothing but grey, with which any other grey agrees."""
    generator = np.random.default_rng(0)
    for weight in network.weights:
        if weight.path.endswith("kernel") and weight.trainable:
            weight.assign(generator.normal(0, np.sqrt(2 / np.prod(weight.shape[:-1])), weight.shape))
        elif weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("beta", "bias", "moving_mean")):
            weight.assign(generator.normal(0, 0.1, weight.shape))
    return network


def examples(network: keras.Model, count: int, height: int, width: int) -> list[np.ndarray]:
    generator = np.random.default_rng(count)
    shapes = [(count, *each.shape[1:]) for each in network.inputs]
    shapes = [(count, height, width, shape[3]) if None in shape else shape for shape in shapes]
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


def outputs_of(network: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    found = network(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(each) for each in keras.tree.flatten(found)]


def loaded(path: Path, format: str, network: keras.Model) -> Runtime:
    """Return a function that runs what was exported in its own runtime, with inputs and outputs by their names."""
    names = [each.name for each in network.inputs]
    outputs = [f"output_{number}" for number in range(len(network.outputs))]
    if format == "tf_saved_model":
        signature = tf.saved_model.load(str(path)).signatures["serving_default"]
        call = lambda feeds: signature(**{name: tf.constant(feeds[name]) for name in names})  # noqa: E731
    elif format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        call = lambda feeds: dict(zip(outputs, session.run(outputs, feeds), strict=True))  # noqa: E731
    else:
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(str(path)).get_signature_runner()
        call = lambda feeds: runner(**feeds)  # noqa: E731

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        found = call(dict(zip(names, inputs, strict=True)))
        assert set(found) == set(outputs)
        return [np.asarray(found[name]) for name in outputs]

    return run


def of_different_forms(networks: tuple[keras.Model, ...]) -> list[keras.Model]:
    """Return the networks but those that have the layers of an earlier one, and other weights only."""
    forms = {}
    for network in networks:
        form = [
            (type(layer), str(keras.tree.map_structure(lambda x: x.shape, layer.output))) for layer in network.layers
        ]
        forms.setdefault(str(form), network)
    return list(forms.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_every_network_gives_the_same_in_every_format_for_any_number_and_size(name, tmp_path):
    needs_the_extra()
    module = load(name)
    for network in map(drawn, of_different_forms(build_short(module, tiny(module, name)))):
        sizes = {(32, 32), (64, 96)} if None in network.inputs[0].shape[1:] else {(0, 0)}
        cases = [examples(network, count, *size) for count in (1, 3) for size in sizes]
        expected = [outputs_of(network, inputs) for inputs in cases]
        for format in ("tf_saved_model", "onnx", "litert"):
            path = tmp_path / f"{network.name}{EXPORT_ENDINGS[format]}"
            export_network(network, path, format)
            run = loaded(path, format, network)
            for inputs, outputs in zip(cases, expected, strict=True):
                for one, other in zip(run(inputs), outputs, strict=True):
                    np.testing.assert_allclose(one, other, atol=1e-4, rtol=0, err_msg=f"{network.name}, {format}")
                    assert np.abs(other).max() > 0.1 or "svm" in name, "all but nothing agrees with anything"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_bilinear_upsampling_is_the_same_in_every_format_for_any_size(name, tmp_path):
    needs_the_extra()
    module = load(name)
    networks = module.build(module.Config(**vars(module.DEMO) | {"base_filters": 2}))
    network = drawn(networks[0])
    assert any(getattr(layer, "interpolation", "") == "bilinear" for layer in network.layers)
    side = module.DEMO.size
    cases = [examples(network, count, *size) for count, size in ((1, (side, side)), (2, (side, 2 * side)))]
    for format in ("tf_saved_model", "onnx", "litert"):
        path = tmp_path / f"{network.name}{EXPORT_ENDINGS[format]}"
        export_network(network, path, format)
        run = loaded(path, format, network)
        for inputs in cases:
            np.testing.assert_allclose(run(inputs)[0], outputs_of(network, inputs)[0], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_eight_bits_make_a_small_file_that_gives_nearly_the_same(tmp_path):
    needs_the_extra()
    for network, shape in (
        (pix2pix.build(pix2pix.Config(size=32, base_filters=16)).generator, (1, 64, 64, 3)),
        (lenet.build().classifier, (3, 28, 28, 1)),
    ):
        path = tmp_path / f"{drawn(network).name}_int8.tflite"
        export_network(network, path, "litert_int8", size=64)
        assert network.count_params() < path.stat().st_size < 1.6 * network.count_params()
        inputs = [np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)]
        (found,), (expected,) = loaded(path, "litert", network)(inputs), outputs_of(network, inputs)
        assert found.shape == expected.shape
        assert 0 < np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "cyclegan", "mobilenet", "adversarial_autoencoder"])
def test_what_was_trained_in_16_bits_is_written_in_float32(name):
    module = load(name)
    with executing(Execution(precision="mixed_bfloat16")):
        mixed = module.build(tiny(module, name))
    for network, same in zip(mixed, module.build(tiny(module, name)), strict=True):
        same.set_weights(network.get_weights())
        shapes = [[2, *(32 if side is None else side for side in each.shape[1:])] for each in network.inputs]
        inputs = [np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
        given = inputs if len(inputs) > 1 else inputs[0]
        written = in_float32(network)
        np.testing.assert_allclose(written(given), same(given), atol=1e-6)
        assert {layer.compute_dtype for layer in written.layers} == {"float32"}


def test_eight_bits_need_a_size_for_transposed_convolutions_of_any_size(tmp_path):
    network = pix2pix.build(pix2pix.Config(size=32, base_filters=4)).generator
    with pytest.raises(InputError, match="generator needs a size for litert_int8: add --size"):
        export_network(network, tmp_path / "generator_int8.tflite", "litert_int8")
    assert not list(tmp_path.iterdir())


def test_what_litert_has_not_is_one_line(tmp_path):
    inputs = keras.Input((4, 4), name="matrices")
    network = keras.Model(inputs, keras.ops.linalg.svd(inputs)[1], name="values")
    with pytest.raises(InputError, match="^values has operations that LiteRT lacks .*; choose another format$"):
        export_network(network, tmp_path / "values.tflite", "litert")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(InputError, match=r"onnx needs the package tf2onnx: pip install --editable '.*\[export\]'"):
        export_network(network, tmp_path / "network.onnx", "onnx")


def test_a_folder_without_networks_is_refused(tmp_path):
    with pytest.raises(InputError, match="no .keras file here; give the folder of a finished run"):
        export(tmp_path)


@pytest.mark.slow
def test_the_command_line_exports_a_run_again_and_again(tmp_path):
    Run(tmp_path, "pix2pix", pix2pix.Config(size=32, base_filters=4), "sample").start()
    network = drawn(pix2pix.build(pix2pix.Config(size=32, base_filters=4)).generator)
    network.save(tmp_path / "generator.keras")
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator" / "old").touch()
    command = [*forked_python(), "-m", "recipes.pix2pix", "export", "--run", str(tmp_path), "--format"]
    done = subprocess.run([*command, "litert_int8"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}\n"), done.stderr
    export(tmp_path, "tf_saved_model")
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "generator.keras", "generator_int8.tflite", "generator"}  # fmt: skip
    assert not (tmp_path / "generator" / "old").exists()
    inputs = examples(network, 1, 32, 32)
    (found,) = loaded(tmp_path / "generator", "tf_saved_model", network)(inputs)
    np.testing.assert_allclose(found, outputs_of(network, inputs)[0], atol=1e-4)


@pytest.mark.slow
def test_the_sampling_loop_of_the_guide_gives_the_images_of_the_recipe(tmp_path):
    needs_the_extra()
    import onnxruntime

    size = {"size": 16, "channels": 1, "outputs": 3, "base_filters": 8, "levels": 2, "blocks": 1, "patch": 2}
    config = diffusion.Config(**size, steps=3, guidance=2.5)
    networks = diffusion.build(config)
    for weight in networks.ema.weights:  # the last convolutions of blocks begin with almost 0
        if len(weight.shape) == 4:
            weight.assign(np.random.default_rng(0).normal(0, 0.1, weight.shape))
    run = Run(tmp_path, "diffusion", config, "sample")
    run.start(("cat", "dog", "owl"))
    run.finish(networks, dict)
    export(tmp_path, "onnx", "ema")
    assert not (tmp_path / "unet.onnx").exists()
    guide = (ROOT / "docs" / "guides" / "export.md").read_text(encoding="utf-8")
    (block,) = (each for each in guide.split("```python\n")[1:] if "def sample" in each)
    exec(block.partition("```")[0], found := {})
    labels = np.array([0, 1, 2, 1])
    noise = diffusion.noise_of(4, len(labels), config).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "ema.onnx"))
    images = found["sample"](session, noise, np.eye(3, dtype=np.float32)[labels], 2.5, 3)
    expected = diffusion.generate(networks.ema, labels, config, 4)
    assert np.abs(images.astype(int) - expected).max() <= 1
    assert np.mean((expected > 0) & (expected < 255)) > 0.3
    others = found["sample"](session, noise, np.eye(3, dtype=np.float32)[labels], 1.0, 3)
    assert np.abs(images.astype(int) - others).max() > 1, "guidance changes nothing"


# %% The benchmark


@pytest.mark.slow
def test_a_row_for_each_runtime_with_its_size_and_what_8_bits_cost(tmp_path):
    needs_the_extra()
    network = keras.Sequential([keras.Input((64,)), keras.layers.Dense(192, "tanh"), keras.layers.Reshape((8, 8, 3))])
    inputs = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    rows = compare(Case(drawn(network), inputs, against(outputs_of(network, [inputs])[0])), tmp_path, rounds=1)
    *floats, eight_bits = rows
    assert len(floats) == 4 and eight_bits == "LiteRT, 8 bits"
    for name in floats:
        assert 1000 * rows[name]["size"] + 500 > 64 * 192 * 4 and rows[name]["time"] > 0
        assert rows[name]["quality"] == "identical to Keras"
    assert 64 * 192 < 1000 * rows[eight_bits]["size"] < 64 * 192 * 3
    assert 20 < float(rows[eight_bits]["quality"].removeprefix("PSNR to Keras ").removesuffix(" dB")) < 60


def test_ratio_of_signal_to_noise():
    black = np.full((1, 2, 2, 3), -1.0, np.float32)
    assert against(black)(black) == {"quality": "identical to Keras"}
    assert against(black)(-black) == {"quality": "PSNR to Keras 0.0 dB"}
    one_level = black + np.float32(1 / 127.5)
    assert against(black)(one_level) == {"quality": "PSNR to Keras 48.1 dB"}  # 20 log10 255
