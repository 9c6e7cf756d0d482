"""What every recipe promises; the recipes are found by listing the folder, and no exception is made for one."""

from __future__ import annotations

import ast
import csv
import dataclasses
import functools
import importlib
import inspect
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from nbclient import NotebookClient

from common.batches import batches, side_by_side
from common.canvas import canvas_of
from common.execution import Execution
from common.standalone import copy_recipe
from common.training import UNSUMMED, fit
from tests.forked import forked_python
from tools.notebooks import without_prose

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
ALLOWED_IMPORTS = {"common", "numpy", "scipy", "tqdm"} | set(sys.stdlib_module_names)
HEAVY = {"tensorflow", "keras", "matplotlib", "scipy", "sklearn", "skimage", "cv2", "PIL", "tensorflow_datasets"}
PIXELS = [
    "deepdream",
    "style_transfer",
    "targeted_attack",
]  # they change pictures; no network learns
STEPPED = [name for name in RECIPES if name not in ("dog_svm", *PIXELS)]  # dog_svm fits a closed objective
TINY = {  # settings that make a recipe small enough for a test
    "adversarial_autoencoder": {
        "size": 8,
        "labels": "discriminator",
        "prior": "mixture",
        "latent_dim": 2,
        "outputs": 2,
        "units": 8,
        "discriminator_units": 8,
        "noise": 0.1,
        "batch_size": 2,
        "epochs": 2,
    },
    "autoencoder": {"size": 8, "units": 32, "latent_dim": 2, "noise": 0.1, "batch_size": 2, "epochs": 2},
    "conv_autoencoder": {"size": 16, "base_filters": 8, "batch_size": 2, "epochs": 2},
    "cyclegan": {"size": 32, "base_filters": 4, "residual_blocks": 1, "pool": 3, "batch_size": 2, "epochs": 2},
    "dcgan": {"size": 16, "channels": 1, "base_filters": 4, "batch_size": 2, "epochs": 2},
    "dcgan_faces": {"size": 16, "base_filters": 4, "batch_size": 2, "epochs": 2},
    "deepdream": {"size": 32, "steps": 2, "epochs": 2},
    "dog_svm": {"size": 16, "outputs": 2, "epochs": 20},
    "face_swap": {"size": 32, "base_filters": 4, "latent_dim": 8, "batch_size": 2, "epochs": 2},
    "fast_style_transfer": {
        "size": 32,
        "style_size": 40,
        "base_filters": 4,
        "residual_blocks": 1,
        "batch_size": 2,
        "epochs": 2,
    },
    "fgsm": {"size": 8, "outputs": 2, "base_filters": 4, "batch_size": 2, "epochs": 2},
    "gan": {
        "size": 8,
        "units": 4,
        "discriminator_units": 8,
        "batch_size": 2,
        "epochs": 2,
    },
    "lenet": {"size": 16, "outputs": 2, "batch_size": 2, "epochs": 2},
    "mlp": {"size": 8, "outputs": 2, "units": 4, "dropout": 0.2, "batch_size": 2, "epochs": 2},
    "mobilenet": {"size": 32, "alpha": 0.35, "weights": "random", "outputs": 2, "batch_size": 2, "epochs": 2},
    "pix2pix": {"size": 32, "base_filters": 4, "batch_size": 2, "epochs": 2},
    "ssgan": {
        "size": 16,
        "outputs": 2,
        "labelled": 2,
        "base_filters": 4,
        "generator_filters": 4,
        "latent_dim": 6,
        "batch_size": 2,
        "epochs": 2,
    },
    "style_transfer": {"size": 32, "scales": 1, "steps": 3, "epochs": 2},
    "targeted_attack": {"network": "digits", "weights": "", "size": 28, "random_start": True, "epochs": 2},
    "vae_faces": {"size": 16, "latent_dim": 2, "base_filters": 2, "batch_size": 2, "epochs": 2},
    "vae": {"size": 8, "channels": 3, "units": 4, "latent_dim": 2, "batch_size": 2, "epochs": 2},
}
EMBEDDED = [((2, 32 // 2**stage, 32 // 2**stage, [32, 64, 128, 192][stage]), 0, np.inf) for stage in range(4)]
SHAPES = {  # of each network's output, or outputs, at the settings above, for two examples, and its range
    "adversarial_autoencoder": {
        "encoder": ((2, 2), -np.inf, np.inf),
        "decoder": ((2, 8, 8, 1), -1, 1),
        "discriminator": ((2, 1), -np.inf, np.inf),
    },
    "autoencoder": {"encoder": ((2, 2), -np.inf, np.inf), "decoder": ((2, 8, 8, 1), -1, 1)},
    "conv_autoencoder": {"encoder": ((2, 1, 1, 16), 0, np.inf), "decoder": ((2, 16, 16, 1), -1, 1)},
    "cyclegan": {f"generator_{way}": ((2, 32, 32, 3), -1, 1) for way in ("a2b", "b2a")}
    | {f"discriminator_{kind}": ((2, 2, 2, 1), -np.inf, np.inf) for kind in "ab"},
    "dcgan": {"generator": ((2, 16, 16, 1), -1, 1), "discriminator": ((2, 1), -np.inf, np.inf)},
    "dcgan_faces": {
        "generator": ((2, 16, 16, 3), -1, 1),
        "discriminator": ((2, 1), -np.inf, np.inf),
        "averaged": ((2, 16, 16, 3), -1, 1),
    },
    "deepdream": {"features": EMBEDDED[2:3]},
    "dog_svm": {"features": ((2, 457), -np.inf, np.inf), "classifier": ((2, 2), 0, 0)},
    "face_swap": {
        "encoder": ((2, 8), -np.inf, np.inf),
        "inter": ((2, 4, 4, 16), -np.inf, np.inf),
        "decoder_a": ((2, 32, 32, 3), -1, 1),
        "decoder_b": ((2, 32, 32, 3), -1, 1),
    },
    "fast_style_transfer": {
        "painter": ((2, 32, 32, 3), -1, 1),
        "features": [EMBEDDED[2], *(stage for stage in EMBEDDED for _ in range(2))],
    },
    "fgsm": {name: ((2, 2), -np.inf, np.inf) for name in ("classifier", "hardened")},
    "gan": {"generator": ((2, 8, 8, 1), -1, 1), "discriminator": ((2, 1), -np.inf, np.inf)},
    "lenet": {"classifier": ((2, 2), -np.inf, np.inf)},
    "mlp": {"classifier": ((2, 2), -np.inf, np.inf)},
    "mobilenet": {"features": ((2, 1280), 0, 6), "classifier": ((2, 2), -np.inf, np.inf)},
    "pix2pix": {"generator": ((2, 32, 32, 3), -1, 1), "discriminator": ((2, 2, 2, 1), -np.inf, np.inf)},
    "ssgan": {
        "generator": ((2, 16, 16, 1), -1, 1),
        "classifier": ((2, 2), -np.inf, np.inf),
        "averaged": ((2, 2), -np.inf, np.inf),
    },
    "style_transfer": {"features": [EMBEDDED[2], *(stage for stage in EMBEDDED for _ in range(2))]},
    "targeted_attack": {"classifier": ((2, 10), -np.inf, np.inf)},
    "vae_faces": {"encoder": [((2, 2), -np.inf, np.inf)] * 2, "decoder": ((2, 16, 16, 3), -1, 1)},
    "vae": {
        "encoder": [((2, 2), -np.inf, np.inf)] * 2,
        "sampler": ((2, 2), -np.inf, np.inf),
        "decoder": ((2, 8, 8, 3), -np.inf, np.inf),
    },
}
JUDGED = {"classified.png", "confusion_matrix.png", "surest_mistakes.png"}
PICTURES = {  # what a run leaves to look at
    "adversarial_autoencoder": {"samples", "latents.png", "prior.png", "styles.png"},
    "autoencoder": {"samples", "reconstructions.png", "latents.png", "sweep.png"},
    "conv_autoencoder": {"samples", "latents.png", "reconstructions.png", "samples.png"},
    "cyclegan": {"samples", "translations.png"},
    "dcgan": {"samples", "samples.png"},
    "dcgan_faces": {"samples", "samples.png"},
    "deepdream": {"samples", "dream.png", "beside.png"},
    "dog_svm": JUDGED,
    "face_swap": {"samples", "swaps.png", "shift.npz"},
    "fast_style_transfer": {"samples", "beside.png"},
    "fgsm": {"attacks.png", "accuracy.png"},
    "gan": {"samples", "samples.png"},
    "lenet": JUDGED,
    "mlp": JUDGED,
    "mobilenet": JUDGED,
    "pix2pix": {"samples", "translations.png"},
    "ssgan": {"samples", "samples.png"} | JUDGED,
    "style_transfer": {"samples", "painting.png", "beside.png"},
    "targeted_attack": {"attacks.png"},
    "vae_faces": {"samples", "samples.png", "reconstructions.png", "attributes.png", "space.npz"},
    "vae": {"samples", "samples.png", "reconstructions.png", "manifold.png", "latents.png"},
}


def in_groups(names: list[str]) -> list:
    """Let all tests of a recipe run in one of pytest-xdist's processes, since they share its tiny runs."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]


def test_every_recipe_is_under_test():
    assert len(RECIPES) == 21
    assert sorted(TINY) == RECIPES == sorted(SHAPES) == sorted(PICTURES)
    fitted = [name for name in RECIPES if "tf.function" not in (ROOT / "recipes" / f"{name}.py").read_text()]
    assert sorted([*STEPPED, *PIXELS, *fitted]) == RECIPES


def load(name: str) -> types.ModuleType:
    return importlib.import_module(f"recipes.{name}")


def tiny(module: types.ModuleType, name: str, **changes):
    return module.Config(**TINY[name] | changes)


def network_inputs(network: keras.Model) -> list[tf.Tensor] | tf.Tensor:
    drawn = [tf.random.stateless_normal([2, *(s or 32 for s in i.shape[1:])], (1, 2)) for i in network.inputs]
    return drawn if len(drawn) > 1 else drawn[0]


def tiny_data(name: str, config):
    """Four examples of the kind that the recipe trains on, or changes."""
    shape = (4, config.size, config.size, getattr(config, "channels", 3))
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    if hasattr(config, "outputs"):
        labelled = images, np.array([0, 1, 0, 1], np.int32)
        stream = batches(labelled, 2, config.seed, held_out=labelled)
        return side_by_side(batches(images, 2, config.seed), stream) if name == "ssgan" else stream
    if name == "targeted_attack":
        return load(name).Attacks(images[..., :1].copy(), np.arange(4))
    if name == "deepdream":
        return load(name).Dream(images[0].copy())
    if name == "style_transfer":
        return canvas_of(images[0], [(images[1], 1.0)])
    of_two_kinds = name in ("pix2pix", "face_swap", "cyclegan")
    parts = (images, 255 - images) if of_two_kinds else (images,)
    return batches(parts, config.batch_size, config.seed, held_out=parts)


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_signatures(name):
    module = load(name)
    assert dataclasses.is_dataclass(module.Config) and module.Config.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(module.Config))
    assert isinstance(module.DEMO, module.Config)
    assert issubclass(module.Networks, tuple) and module.Networks._fields
    build, train, demo = (inspect.signature(getattr(module, verb)) for verb in ("build", "train", "demo"))
    assert list(build.parameters) == ["config"] and build.return_annotation == "Networks"
    assert list(train.parameters) == ["networks", "data", "config", "output_dir"]
    assert train.return_annotation == "History" and train.parameters["output_dir"].default is None
    assert list(demo.parameters) == ["config", "output_dir"] and demo.return_annotation == "Path"
    assert demo.parameters["config"].default == module.DEMO
    assert build.parameters["config"].default == train.parameters["config"].default == module.Config()


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_docstring_and_imports(name):
    source = (ROOT / "recipes" / f"{name}.py").read_text()
    tree = ast.parse(source)
    text = ast.get_docstring(tree)
    assert re.search(r"arXiv:\d{4}\.\d{5}|doi:", text), "the paper, with an identifier"
    assert re.search(r"\[-1, 1\]|\[0, 1\]|uint8", text), "the range of images"
    assert f"python -m recipes.{name}" in text, "the command"
    imported = [
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert {module.split(".")[0] for module in imported} <= ALLOWED_IMPORTS
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import) and "common" in ast.dump(node)]
    assert sum(bool(line.strip()) for line in without_prose(source).splitlines()) <= 240


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_every_setting_changes_something(name):
    """A flag that exists is read: each field of Config stands somewhere in the recipe as `config.FIELD`."""
    source = (ROOT / "recipes" / f"{name}.py").read_text()
    unread = [f.name for f in dataclasses.fields(load(name).Config) if f"config.{f.name}" not in source]
    assert not unread


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_importing_does_nothing_and_help_imports_nothing_that_takes_time(name):
    """What makes it answer in a fraction of a second; the seconds themselves stand in benchmarks/RESULTS.md."""
    code = f"""import recipes.{name}, runpy, sys
heavy = lambda: sorted({HEAVY} & set(sys.modules))
print("imported", heavy())
for verb in ([], ["train"]):
    sys.modules.pop("recipes.{name}", None)
    sys.argv = ["{name}.py", *verb, "--help"]
    try: runpy.run_module("recipes.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as end: print("ended", end.code or 0, heavy())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("imported []\n")
    demo, train, rest = done.stdout.removeprefix("imported []\n").split("ended 0 []\n")
    assert "--epochs" in demo and "Paper" in demo
    assert "--epochs" in train and "--data" in train
    assert rest == ""


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_networks_have_the_stated_shapes_and_ranges(name):
    module = load(name)
    networks = module.build(tiny(module, name))
    assert SHAPES[name].keys() == set(networks._fields)
    for field, network in networks._asdict().items():
        stated = SHAPES[name][field]
        given = tf.nest.flatten(network(network_inputs(network), training=False))
        again = tf.nest.flatten(network(network_inputs(network)))  # inference where nothing is said
        stated = stated if isinstance(stated, list) else [stated]
        for (shape, low, high), outputs, repeated in zip(stated, map(np.asarray, given), again, strict=True):
            assert outputs.shape == shape and outputs.dtype == np.float32
            assert low <= outputs.min() and outputs.max() <= high
            assert outputs.std() > 0 or low == high
            np.testing.assert_array_equal(repeated, outputs)


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_a_size_it_cannot_take_is_refused_with_value_and_rule(name):
    module = load(name)
    with pytest.raises(ValueError, match="size must .* got 3"):
        module.build(tiny(module, name, size=3))


def weights(networks: tuple[keras.Model, ...]) -> list[np.ndarray]:
    return [variable.numpy() for network in networks for variable in network.variables]


class Trained(NamedTuple):
    """A tiny run of one recipe: its networks, their weights before, and what it gave to `fit`."""

    networks: tuple[keras.Model, ...]
    before: list[np.ndarray]
    after: list[np.ndarray]
    history: list[dict[str, float]]
    step: Callable | None  # None where the recipe fits without one
    state: dict[str, object]
    data: object  # `Batches`, or the pictures that were changed


@functools.cache
def trained(name: str, run: int) -> Trained:
    """Train tiny networks for two epochs; `run` only tells one run from another.

    Keras numbers what is made: in the second run from 9 on, since names that sort otherwise must not change a number.
    """
    module = load(name)
    if run == 2:
        numbers = global_state.get_global_attribute("object_name_uids")
        numbers.update(dict.fromkeys(numbers, 8))
    given = []

    def spy(step, data, epochs, state, output_dir=None, **options):
        given.append((step, state))
        return fit(step, data, epochs, state, output_dir, **options)

    config = tiny(module, name)
    networks, data = module.build(config), tiny_data(name, config)
    before = weights(networks)
    with pytest.MonkeyPatch.context() as patch:
        if name in STEPPED:
            patch.setattr(module, "fit", spy)
        history = module.train(networks, data, config)
    return Trained(networks, before, weights(networks), history, *(given[0] if given else (None, {})), data)


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_training_moves_every_weight_and_losses_are_finite(name):
    run = trained(name, 1)
    variables = [variable for network in run.networks for variable in network.variables]
    for variable, old, new in zip(variables, run.before, run.after, strict=True):
        assert not (variable.trainable and np.array_equal(new, old)), variable.path
    losses = {key: value for key, value in run.history[0].items() if key not in UNSUMMED}
    assert losses and all(np.isfinite(value) for value in losses.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(STEPPED))
def test_one_step_moves_every_trainable_weight_is_not_traced_again_and_its_state_is_saved(name):
    run = trained(name, 1)
    saved = {id(part) for part in run.state.values()}
    assert all(id(network) in saved for network in run.networks)
    assert sum(isinstance(part, keras.optimizers.Optimizer) for part in run.state.values()) >= 1
    (batch,) = tiny_data(name, tiny(load(name), name)).at(0).take(1)
    losses = run.step(*batch)
    assert all(loss.shape == () and np.isfinite(loss) for loss in losses.values())
    for part in run.state.values():
        if isinstance(part, keras.optimizers.Optimizer):
            part.iterations.assign(0)  # where a learning rate falls to 0, training has come to its end
    traces = run.step.experimental_get_tracing_count()
    before = weights(run.networks)
    run.step(*batch)
    variables = [variable for network in run.networks for variable in network.variables]
    for variable, old in zip(variables, before, strict=True):
        moved = not np.array_equal(variable.numpy(), old)
        state = any(word in variable.path for word in ("moving_", "seed_generator"))
        assert moved == (variable.trainable or state), variable.path
    run.step(*batch)
    assert run.step.experimental_get_tracing_count() == traces


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_two_seeded_runs_are_equal(name):
    one, other = (trained(name, run) for run in (1, 2))
    variables = [variable for network in one.networks for variable in network.variables]
    pairs = zip(variables, one.after, other.after, strict=True)
    differing = {variable.path: np.abs(a - b).max() for variable, a, b in pairs if not np.array_equal(a, b)}
    assert not differing


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(PIXELS))
def test_every_picture_changes_alike_in_two_runs_and_the_network_does_not(name):
    one, other = (trained(name, run) for run in (1, 2))
    images = tiny_data(name, tiny(load(name), name))[0]
    assert not [number for number, image in enumerate(images) if np.array_equal(one.data[0][number], image)]
    np.testing.assert_array_equal(one.data[0], other.data[0])
    for old, new in zip(one.before, one.after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", in_groups(STEPPED))
def test_another_seed_gives_other_weights_and_no_two_layers_start_equal(name):
    module = load(name)
    one, same, other = (module.build(tiny(module, name, seed=seed)) for seed in (1, 1, 2))
    kernels = [[v.numpy() for network in n for v in network.trainable_variables if v.path.endswith("kernel")]
               for n in (one, same, other)]  # fmt: skip
    assert all(np.array_equal(a, b) for a, b in zip(kernels[0], kernels[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(kernels[0], kernels[2], strict=True))
    assert len({kernel.tobytes() for kernel in kernels[0]}) == len(kernels[0])


@pytest.mark.slow
def test_saved_networks_load_in_a_new_process_with_equal_outputs(tmp_path):
    for name in RECIPES:
        module = load(name)
        networks = module.build(tiny(module, name))
        for field, network in networks._asdict().items():
            network.save(tmp_path / f"{name}-{field}.keras")
            inputs = network_inputs(network)
            arrays = [np.asarray(part) for part in (inputs if isinstance(inputs, list) else [inputs])]
            outputs = {f"output_{n}": o for n, o in enumerate(tf.nest.flatten(network(inputs, training=False)))}
            np.savez(tmp_path / f"{name}-{field}.npz", *arrays, **outputs)
    code = "import keras, numpy as np, glob\n"
    code += "for path in glob.glob('*.keras'):\n"
    code += (
        "    with np.load(path[:-6] + '.npz') as file:\n"
        "        data = dict(file)\n"
        "    outputs = [data.pop(key) for key in list(data) if key.startswith('output_')]\n"
        "    inputs = list(data.values())\n"
    )
    code += "    model = keras.models.load_model(path)\n"
    code += "    found = keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))\n"
    code += "    assert all(np.array_equal(a, b) for a, b in zip(found, outputs, strict=True)), path\n"
    code += "    print(path)\n"
    done = subprocess.run(
        [*forked_python(), "-I", "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert len(done.stdout.splitlines()) == sum(len(load(name).Networks._fields) for name in RECIPES)


PICTURES_OF_A_DEMO = 100  # at most that many are drawn
QUICK = {  # settings with which a recipe's demo, in one epoch and on few drawn pictures, takes a few seconds
    "adversarial_autoencoder": {"units": 32, "discriminator_units": 32},
    "autoencoder": {"units": 32, "batch_size": 256},
    "conv_autoencoder": {"base_filters": 8, "batch_size": 128},
    "cyclegan": {"size": 32, "base_filters": 4},
    "dcgan": {"base_filters": 4, "batch_size": 256},
    "dcgan_faces": {"base_filters": 4},
    "deepdream": {"size": 96, "steps": 2},
    "face_swap": {"size": 32, "base_filters": 4},
    "fast_style_transfer": {"size": 64, "style_size": 64, "base_filters": 4, "batch_size": 16},
    "fgsm": {"base_filters": 4},
    "mobilenet": {"size": 32},
    "pix2pix": {"base_filters": 4},
    "ssgan": {"base_filters": 8, "batch_size": 128},
    "style_transfer": {"size": 96, "steps": 3},
    "targeted_attack": {"images": 20},
    "vae": {"units": 32, "batch_size": 128, "importance_samples": 10},
    "vae_faces": {"base_filters": 4},
}


def draw_fewer(names: dict[str, object], most: int, put: Callable = dict.__setitem__) -> None:
    """Let functions that draw pictures, or cut them out of photos, give at most that many; `names` has them or not."""

    def fewer(draw: Callable) -> Callable:
        return lambda count, *rest, **named: draw(min(count, most), *rest, **named)

    if cut := names.get("photo_squares"):
        put(names, "photo_squares", lambda size: cut(size)[:most])
    for name in ("drawn_clothes", "drawn_faces", "drawn_seasons", "unpaired_seasons", "street_pairs"):
        if name in names:
            put(names, name, fewer(names[name]))


def draw_fewer_everywhere(most: int, put: Callable = dict.__setitem__) -> None:
    for key, part in list(sys.modules.items()):
        if key.startswith(("common.", "recipes.", "__main__")):
            draw_fewer(vars(part), most, put)


def quick_settings(name: str) -> dict[str, object]:
    """Return the changes to a demo that its notebook can bear: most have cells that are written for the demo's size."""
    kept = {key: value for key, value in QUICK.get(name, {}).items() if key != "size" or name == "fast_style_transfer"}
    return {"epochs": 1} | kept


class Reached(Exception):
    """Training has been reached, with the state that it was given."""


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(STEPPED))
def test_precision_reaches_what_a_run_trains(name, tmp_path, monkeypatch):
    """`build` alone does not show it, where an experiment makes its networks otherwise."""

    def spy(step, data, epochs, state, *rest, **options):
        raise Reached(state)

    module = load(name)
    monkeypatch.setattr(module, "fit", spy)
    draw_fewer_everywhere(60, monkeypatch.setitem)
    settings = QUICK.get(name, {}) | {"execution": Execution(precision="mixed_bfloat16")}
    with pytest.raises(Reached) as reached:
        module.demo(dataclasses.replace(module.DEMO, **settings), tmp_path / "run")
    (state,) = reached.value.args
    networks = [each for each in state.values() if isinstance(each, keras.Model) and each.trainable_variables]
    assert networks
    for network in networks:
        assert "bfloat16" in {layer.compute_dtype for layer in network.layers}, network.name


class Executed(NamedTuple):
    """A notebook with its outputs, and the folder of the run that it left."""

    notebook: nbformat.NotebookNode
    run: Path


@pytest.fixture(scope="session")
def executed(tmp_path_factory) -> Iterator[Callable[[str], Executed]]:
    """Return a function that executes a recipe's notebook, once, outside of the checkout.

    Its demo in one epoch, with narrow networks and on few drawn pictures: all demos at their length take half
    an hour; their numbers stand in RESULTS.md.
    """

    kernel = tmp_path_factory.mktemp("jupyter") / "kernels" / "forked" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [*forked_python(), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "forked", "language": "python"}))

    @functools.cache
    def execute(name: str) -> Executed:
        folder = tmp_path_factory.mktemp(name)
        book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
        (settings,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
        settings.source += f"""
import sys
from collections.abc import Callable
from dataclasses import replace
config = replace(config, **{quick_settings(name)!r})
{inspect.getsource(draw_fewer)}
{inspect.getsource(draw_fewer_everywhere)}
draw_fewer_everywhere({PICTURES_OF_A_DEMO})
"""
        client = NotebookClient(
            book,
            timeout=600,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(folder)}},
            kernel_name="forked",
        )
        client.execute()
        assert {path.name for path in folder.iterdir()} == {"runs"}, "what is written lies beside the run"
        return Executed(book, folder / "runs" / f"{name}-demo")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(kernel.parents[2]))
        yield execute


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_the_notebook_runs_from_top_to_bottom_and_shows_pictures(name, executed):
    cells = [cell for cell in executed(name).notebook.cells if cell.cell_type == "code"]
    shown = [cell for cell in cells if cell.source.splitlines()[-1].startswith("show")]
    assert len(shown) >= 3
    for cell in shown:
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert {"image/png", "image/gif", "text/html"} & kinds, cell.source


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_the_demo_leaves_a_whole_run(name, executed):
    run = executed(name).run
    expected = {"config.json", "history.csv", "results.json", "report.html"} | PICTURES[name]
    expected |= {"checkpoints"} if name in STEPPED else set()
    assert expected <= {path.name for path in run.iterdir()}
    assert {f"{field}.keras" for field in load(name).Networks._fields} <= {path.name for path in run.iterdir()}
    results = json.loads((run / "results.json").read_text())
    assert results and all(isinstance(value, int | float | str) for value in results.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(["gan"]))
def test_a_run_that_is_finished_and_started_again_changes_nothing(name, executed):
    """Of one recipe whose demo draws nothing, since what decides it is `fit` and `finish_run`, which all share."""
    run = executed(name).run
    before = {path: path.read_bytes() for path in (run / "results.json", run / "history.csv")}
    command = [*forked_python(), "-m", f"recipes.{name}", "--epochs", "1", "--output-dir", str(run)]
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0, again.stderr
    assert Path(again.stdout.strip().splitlines()[-1]).is_file()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_a_copy_runs_alone_with_the_losses_of_the_recipe(name, executed, tmp_path):
    """With the settings and the pictures of its notebook, which holds the recipe's code and has been run."""
    (tmp_path / "empty").mkdir()
    copy_recipe(name, tmp_path / "mine" / f"{name}.py")
    code = f"""import dataclasses, pathlib, sys
from collections.abc import Callable
sys.path.insert(0, {str(tmp_path / "mine")!r})
import {name} as copy
{inspect.getsource(draw_fewer)}
draw_fewer(vars(copy), {PICTURES_OF_A_DEMO})
print(copy.demo(dataclasses.replace(copy.DEMO, **{quick_settings(name)!r}), pathlib.Path({str(tmp_path / "run")!r})))
assert not {{"common", "recipes"}} & {{module.partition(".")[0] for module in sys.modules}}
"""
    command = [*forked_python(), "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path / "empty", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(done.stdout.splitlines()[-1]).is_file() and (tmp_path / "run" / "results.json").is_file()

    def losses(run: Path) -> list[dict[str, str]]:
        with (run / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{key: value for key, value in row.items() if key not in UNSUMMED} for row in rows]

    assert losses(tmp_path / "run") == losses(executed(name).run) != []
