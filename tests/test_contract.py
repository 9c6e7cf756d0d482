"""What every recipe promises; the recipes are found by listing the folder, and no exception is made for one."""

from __future__ import annotations

import ast
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
from typing import Any, NamedTuple

import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state

from common.data.batches import Batches, batches, side_by_side
from common.system.files import InputError
from common.training import Execution, Painting, executing, fit
from common.training.loop import UNSUMMED
from tests.forked import forked_python
from tests.light import HEAVY, Light, run_light
from tests.sources import Source, identifiers, used
from tools.notebook_outputs import notebook_client

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
ALLOWED_IMPORTS = {"common", "keras", "numpy", "scipy", "tensorflow", "tqdm"} | set(sys.stdlib_module_names)
MOST_NAMES, MOST_PACKAGES, MOST_LINES = 12, 6, 120
LINES = {  # more lines of code in build, losses and train, for a reason
    "cyclegan": 155,  # two generators, a ResNet and a U-Net, of which a reader needs one, and the image pool
    "dcgan_faces": 141,  # the options of two later papers: a relativistic loss with penalties, and eigenfaces
}
PLUMBING = {"share", "draw_part", "loss_scale", "execution", "in_precision"}  # no word of a recipe
PIXELS = ["deepdream", "style_transfer", "targeted_attack"]  # they change images; no network learns
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
    "cyclegan": {"size": 32, "base_filters": 4, "residual_blocks": 1, "pool_size": 3, "batch_size": 2, "epochs": 2},
    "dcgan": {"size": 16, "channels": 1, "base_filters": 4, "batch_size": 2, "epochs": 2},
    "dcgan_faces": {"size": 16, "base_filters": 4, "batch_size": 2, "epochs": 2},
    "deepdream": {"size": 32, "steps": 2, "octaves": 2},
    "diffusion": {
        "size": 16,
        "channels": 1,
        "outputs": 2,
        "base_filters": 8,
        "levels": 2,
        "blocks": 1,
        "patch": 2,
        "steps": 2,
        "batch_size": 2,
        "epochs": 2,
    },
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
    "targeted_attack": {"network": "digits", "weights": "", "size": 28, "random_start": True, "steps": 2},
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
        "ema": ((2, 16, 16, 3), -1, 1),
    },
    "deepdream": {"features": EMBEDDED[2:3]},
    "diffusion": {name: ((2, 16, 16, 1), -np.inf, np.inf) for name in ("unet", "ema")},
    "dog_svm": {"features": ((2, 457), -np.inf, np.inf), "classifier": ((2, 2), 0, 0)},
    "face_swap": {
        "encoder": ((2, 8), -np.inf, np.inf),
        "inter": ((2, 4, 4, 16), -np.inf, np.inf),
        "decoder_a": ((2, 32, 32, 3), -1, 1),
        "decoder_b": ((2, 32, 32, 3), -1, 1),
    },
    "fast_style_transfer": {
        "transform_network": ((2, 32, 32, 3), -1, 1),
        "features": [EMBEDDED[2], *(stage for stage in EMBEDDED for _ in range(2))],
    },
    "fgsm": {name: ((2, 2), -np.inf, np.inf) for name in ("classifier", "robust")},
    "gan": {"generator": ((2, 8, 8, 1), -1, 1), "discriminator": ((2, 1), -np.inf, np.inf)},
    "lenet": {"classifier": ((2, 2), -np.inf, np.inf)},
    "mlp": {"classifier": ((2, 2), -np.inf, np.inf)},
    "mobilenet": {"features": ((2, 1280), 0, 6), "classifier": ((2, 2), -np.inf, np.inf)},
    "pix2pix": {"generator": ((2, 32, 32, 3), -1, 1), "discriminator": ((2, 2, 2, 1), -np.inf, np.inf)},
    "ssgan": {
        "generator": ((2, 16, 16, 1), -1, 1),
        "classifier": ((2, 2), -np.inf, np.inf),
        "ema": ((2, 2), -np.inf, np.inf),
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
CLASSIFIED = {"classified.png"}
IMAGES = {  # the images that a run writes
    "adversarial_autoencoder": {"samples", "latents.png", "prior.png", "styles.png"},
    "autoencoder": {"samples", "reconstructions.png", "latents.png", "sweep.png"},
    "conv_autoencoder": {"samples", "latents.png", "reconstructions.png", "samples.png"},
    "cyclegan": {"samples", "translations.png"},
    "dcgan": {"samples", "samples.png"},
    "dcgan_faces": {"samples", "samples.png"},
    "deepdream": {"samples", "dream.png", "beside.png"},
    "diffusion": {"samples", "samples.png"},
    "dog_svm": CLASSIFIED,
    "face_swap": {"samples", "swaps.png", "shift.npz"},
    "fast_style_transfer": {"samples", "beside.png"},
    "fgsm": {"attacks.png", "accuracy.png"},
    "gan": {"samples", "samples.png"},
    "lenet": CLASSIFIED,
    "mlp": CLASSIFIED,
    "mobilenet": CLASSIFIED,
    "pix2pix": {"samples", "translations.png"},
    "ssgan": {"samples", "samples.png"} | CLASSIFIED,
    "style_transfer": {"samples", "painting.png", "beside.png"},
    "targeted_attack": {"attacks.png"},
    "vae_faces": {"samples", "samples.png", "reconstructions.png", "attributes.png", "space.npz"},
    "vae": {"samples", "samples.png", "reconstructions.png", "manifold.png", "latents.png"},
}


def in_groups(names: list[str]) -> list:
    """Let all tests of a recipe run in one of pytest-xdist's processes, since they share its tiny runs."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]


def test_every_recipe_is_under_test():
    assert len(RECIPES) == 22
    assert sorted(TINY) == RECIPES == sorted(SHAPES) == sorted(IMAGES)
    fitted = [name for name in RECIPES if "tf.function" not in (ROOT / "recipes" / f"{name}.py").read_text()]
    assert sorted([*STEPPED, *PIXELS, *fitted]) == RECIPES


def load(name: str) -> types.ModuleType:
    return importlib.import_module(f"recipes.{name}")


def tiny(module: types.ModuleType, name: str, **changes):
    return module.Config(**TINY[name] | changes)


def network_inputs(network: keras.Model) -> list[tf.Tensor] | tf.Tensor:
    drawn = [tf.random.stateless_normal([2, *(s or 32 for s in i.shape[1:])], (1, 2)) for i in network.inputs]
    return drawn if len(drawn) > 1 else drawn[0]


def tiny_arrays(name: str, config) -> tuple[np.ndarray, ...]:
    """Four examples of the kind that the recipe trains on, or changes."""
    shape = (4, config.size, config.size, getattr(config, "channels", 3))
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    labels = np.array([0, 1, 0, 1], np.int32)
    if name == "ssgan":
        return images, images, labels
    if hasattr(config, "outputs") and getattr(config, "conditional", "") != "none":
        return images, labels
    return (images, 255 - images) if name in ("pix2pix", "face_swap", "cyclegan") else (images,)


def tiny_data(name: str, config):
    """The same examples as a stream of batches of two, or as what the recipe changes."""
    parts = tiny_arrays(name, config)
    images = parts[0]
    if name == "ssgan":
        labelled = batches(parts[1:], 2, config.seed, held_out=parts[1:])
        return side_by_side(batches(images, 2, config.seed), labelled)
    if name == "targeted_attack":
        return load(name).Attacks(images[..., :1].copy(), np.arange(4))
    if name == "deepdream":
        return load(name).Dream(images[0].copy())
    if name == "style_transfer":
        return Painting.of(images[0], [(images[1], 1.0)])
    return batches(parts, getattr(config, "batch_size", 2), config.seed, held_out=parts)


class Reached(Exception):
    """Training has been reached, with these data and this state."""

    def __init__(self, data: Batches, state: dict[str, object]):
        self.data, self.state = data, state


def reached(step, data, epochs, state, *rest, **options):
    """Stand in for `fit`, where what it is given is looked at."""
    raise Reached(data, state)


HISTORY = "list[dict[str, float]]"


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_signatures(name):
    module = load(name)
    assert dataclasses.is_dataclass(module.Config) and module.Config.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(module.Config))
    assert isinstance(module.DEMO, module.Config)
    assert issubclass(module.Networks, tuple) and module.Networks._fields
    build, train, run, demo = (inspect.signature(getattr(module, verb)) for verb in ("build", "train", "run", "demo"))
    config, *own = build.parameters.values()
    assert config.name == "config" and build.return_annotation == "Networks"
    assert all(each.annotation == "keras.Model | None" and each.default is None for each in own)
    assert list(train.parameters)[:4] == ["networks", "data", "config", "output_dir"]
    assert train.return_annotation == HISTORY and train.parameters["output_dir"].default is None
    assert list(run.parameters)[:3] == ["data", "config", "output_dir"] and run.return_annotation == "Path"
    assert run.parameters["accept_data"].default is False
    assert all(each.default is not each.empty for each in run.parameters.values())
    assert list(demo.parameters) == ["config", "output_dir"] and demo.return_annotation == "Path"
    assert demo.parameters["config"].default == module.DEMO
    assert demo.parameters["output_dir"].default == module.DEMO_RUN
    for verb in (build, train, run):
        assert verb.parameters["config"].default == module.Config()


@pytest.mark.parametrize("name", in_groups(STEPPED))
def test_training_takes_whatever_keras_takes(name):
    train = inspect.signature(load(name).train)
    extra = {key: each for key, each in train.parameters.items() if each.kind is each.KEYWORD_ONLY}
    assert list(extra) == ["steps_per_epoch", "on_epoch"] and len(train.parameters) == 6
    assert all(each.default is None for each in extra.values())
    assert extra["steps_per_epoch"].annotation == "int | None"
    assert extra["on_epoch"].annotation == "Callable[[int, dict[str, float]], None] | None"
    assert train.parameters["data"].annotation.startswith("Batches | tf.data.Dataset | ")


def source(name: str) -> Source:
    return Source(ROOT / "recipes" / f"{name}.py")


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_docstring_and_imports(name):
    recipe = source(name)
    text = ast.get_docstring(recipe.tree)
    assert re.search(r"arXiv:\d{4}\.\d{5}|doi:", text), "the paper, with an identifier"
    assert re.search(r"\[-1, 1\]|\[0, 1\]|uint8", text), "the range of images"
    assert f"python -m recipes.{name}" in text, "the command"
    imported = list(recipe.imports())
    assert {module.split(".")[0] for module, *_ in imported} <= ALLOWED_IMPORTS
    assert "*" not in {imported_name for _, imported_name, _ in imported}
    assert ("keras", "", "keras") in imported


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_a_reader_meets_few_names_of_common(name):
    names = source(name).names_from("common")
    assert len(names) <= MOST_NAMES, sorted(names)
    assert len(set(names.values())) <= MOST_PACKAGES, sorted(set(names.values()))


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_what_the_paper_says_is_short(name):
    """Lines of code in `build`, the losses and `train`, with the functions of the recipe that they use."""
    recipe = source(name)
    build, train = (recipe.functions[verb] for verb in ("build", "train"))
    parts = [*recipe.reached(build), train, *(each for step in recipe.steps() for each in recipe.reached(step))]
    lines = recipe.code_lines(parts)
    assert lines <= LINES.get(name, MOST_LINES)
    assert lines > MOST_LINES or name not in LINES, "the exception is no longer needed"


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_a_step_holds_the_paper_and_no_plumbing(name):
    """Of `common`, a step uses `from_uint8`, the methods of optimizers and of noise, and images read beforehand."""
    recipe = source(name)
    assert not identifiers(recipe.tree) & PLUMBING
    common, steps = recipe.names_from("common"), recipe.steps()
    assert bool(steps) == (name in [*STEPPED, *PIXELS])
    for part in [each for step in steps for each in recipe.reached(step)]:
        assert used(part) & common.keys() <= {"from_uint8"}, part.name
        for variable, makers in recipe.made_by(part).items():
            plumbing = {each for each in makers if each.split(".")[0] in common and not each.startswith("read_")}
            assert plumbing <= {"Noise", "adam", "from_uint8"}, f"{part.name}: {variable}"
        assert "SeedGenerator" not in identifiers(part), part.name
        for call in [node for node in ast.walk(part) if isinstance(node, ast.Call)]:
            if isinstance(call.func, ast.Attribute) and call.func.attr == "gradient":
                assert len(call.args) == 2 and not call.keywords, part.name


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_every_setting_changes_something(name):
    """A flag that exists is read: each field of Config stands somewhere in the recipe as `config.FIELD`."""
    source = (ROOT / "recipes" / f"{name}.py").read_text()
    unread = [f.name for f in dataclasses.fields(load(name).Config) if f"config.{f.name}" not in source]
    assert not unread


@functools.cache
def helped() -> dict[tuple[str, str], Light]:
    """Ask every recipe for its help, of both commands that all have."""
    commands = {(name, verb): [f"recipes.{name}", *[verb][: verb != "demo"]]
                for name in RECIPES for verb in ("demo", "train")}  # fmt: skip
    answers = run_light([[*command, "--help"] for command in commands.values()], ROOT)
    return dict(zip(commands, answers, strict=True))


@pytest.mark.slow
@pytest.mark.xdist_group("help")
@pytest.mark.parametrize("verb", ["demo", "train"])
@pytest.mark.parametrize("name", RECIPES)
def test_help_imports_nothing_that_takes_time(name, verb):
    """What makes it answer in a fraction of a second; the seconds themselves stand in benchmarks/RESULTS.md."""
    status, stdout, stderr, imported = helped()[name, verb]
    assert (status, stderr) == (0, "")
    assert f"recipes.{name}" in imported or "common.runs.run" in imported
    assert not {module for module in imported if module.split(".")[0] in HEAVY}
    assert "--epochs" in stdout or name in PIXELS
    assert "Paper" in stdout if verb == "demo" else "--data" in stdout


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


MOBILENET = keras.applications.MobileNetV2


def first_blocks(*shape: tuple[int, ...], pooling: str, **options: Any) -> keras.Model:
    """Return the first four of the 17 blocks of MobileNetV2, among which is each kind."""
    network = MOBILENET(*shape, pooling=None, **options)
    maps = network.get_layer("block_3_project_BN").output
    return keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(maps), name=network.name)


def build_short(module: types.ModuleType, config: Any) -> tuple[keras.Model, ...]:
    """Return the networks of a recipe, with fewer blocks where Keras gives many that no setting makes fewer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.applications, "MobileNetV2", first_blocks)
        return module.build(config)


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
    """Train tiny networks for two epochs: in run 1 on batches, in run 2 on arrays where the recipe takes them.

    Keras numbers what is made: in the second run from 9 on, since names that sort otherwise must not change a number.
    """
    module = load(name)
    if run == 2:
        numbers = global_state.get_global_attribute("object_name_uids")
        numbers.update(dict.fromkeys(numbers, 8))
    given = []

    def spy(step, data, epochs, state, output_dir=None, **options):
        given.append((step, state))
        called = functools.wraps(step.python_function)(lambda *batch: step(*batch))  # so that a test traces it no more
        return fit(called, data, epochs, state, output_dir, **options)

    config = tiny(module, name)
    networks, data = build_short(module, config), tiny_data(name, config)
    before = weights(networks)
    if name not in STEPPED:
        history = module.train(networks, data, config)
        return Trained(networks, before, weights(networks), history, None, {}, data)
    if run == 2:
        data = tiny_arrays(name, config)
        data = data if len(data) > 1 else data[0]
    after: list[np.ndarray] = []

    def note(epoch: int, losses: dict[str, float]) -> None:
        after[:] = weights(networks)  # not when it has ended: held-out examples may leave the best epoch's

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit", spy)
        history = module.train(networks, data, config, on_epoch=note)
    return Trained(networks, before, after, history, *given[0], data)


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


def losses_of(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in UNSUMMED} for row in history]


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(STEPPED))
def test_arrays_train_as_batches_of_them_do(name):
    expected, found = (losses_of(trained(name, run).history) for run in (1, 2))
    common = found[0].keys()  # held-out examples, which only batches have, may give more columns
    assert common and found == [{key: row[key] for key in common} for row in expected]


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(STEPPED))
def test_a_dataset_trains_in_epochs_of_a_length_that_is_given_and_each_is_told(name, monkeypatch):
    """The last batch of a pass is smaller than the others, and than `batch_size`."""
    module, config = load(name), tiny(load(name), name)
    told, steps = [], []

    def spy(step, data, epochs, state, output_dir=None, **options):
        steps.append(data.steps_per_epoch)
        return fit(step, data, epochs, state, output_dir, **options)

    monkeypatch.setattr(module, "fit", spy)
    dataset = tf.data.Dataset.from_tensor_slices(tiny_arrays(name, config)).batch(3)
    options = {"steps_per_epoch": 3, "on_epoch": lambda epoch, losses: told.append((epoch, dict(losses)))}
    history = module.train(build_short(module, config), dataset, config, **options)
    rows = losses_of(history)
    assert steps == [3] and all(np.isfinite(value) for row in rows for value in row.values())
    assert told == [(epoch, losses) for epoch, losses in enumerate(rows, 1)]
    monkeypatch.setattr(module, "fit", reached)
    with pytest.raises(Reached) as given:
        module.train(build_short(module, config), dataset, config)
    assert given.value.data.steps_per_epoch == 2


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_a_whole_run_returns_its_image_with_scores_and_networks(name):
    """All recipes return what `Run.finish` returns."""
    run = source(name).functions["run"]
    returned = run.body[-1]
    assert isinstance(returned, ast.Return) and "folder.finish(" in ast.unparse(run)
    assert "folder.finish(" in ast.unparse(returned) or name == "autoencoder"  # finishes several runs


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name", in_groups([*STEPPED, "dog_svm"]))
def test_it_trains_from_python_without_held_out_data_in_a_folder_given_as_text(name, tmp_path):
    module, config = load(name), tiny(load(name), name)
    if name != "dog_svm":
        config = dataclasses.replace(config, epochs=1)
    arrays = tiny_arrays(name, config)
    streams = {
        "batches": batches(arrays, 2, 0),
        "arrays": arrays if len(arrays) > 1 else arrays[0],
        "dataset": tf.data.Dataset.from_tensor_slices(arrays).batch(2),
    }
    for kind, data in streams.items() if name in ("lenet", "gan", "dog_svm") else [("batches", streams["batches"])]:
        history = module.train(build_short(module, config), data, config, f"{tmp_path}/{kind}")
        assert history and (tmp_path / kind / "history.csv").is_file()
        numbers = [value for key, value in history[0].items() if key not in UNSUMMED]
        assert np.isfinite(numbers).all() and not [key for key in history[0] if key.startswith("validation")]


@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_a_run_folder_may_be_text(name):
    """What a recipe does with `output_dir` works for a string, too: it is given to others, or to `Path`."""
    divided = [
        ast.unparse(node)
        for node in ast.walk(source(name).tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and ast.unparse(node.left) == "output_dir"
    ]
    assert not divided


def wrong_arrays(name: str, config: Any) -> dict[str, tuple[np.ndarray, ...]]:
    """Return arrays of the kinds that people pass by mistake."""
    images, *others = tiny_arrays(name, config)
    found = {
        "floats": (images / 255, *others),
        "no channels": (images[..., 0], *others),
        "four channels": (images[..., :1].repeat(4, -1), *others),
        "other size": (images[:, :5, :5], *others),
        "objects": (np.array([None] * len(images)), *others),
        "nothing": tuple(each[:0] for each in (images, *others)),
        "one more": (images, *others, images),
    }
    if others and others[-1].ndim == 1:
        *first, labels = images, *others
        found["one-hot labels"] = (*first, np.eye(2, dtype=np.int64)[labels])
        found["fractions as labels"] = (*first, labels + 0.5)
        found["names as labels"] = (*first, labels.astype(str))
    if name in ("mobilenet", "dog_svm"):  # their features are computed of images of any size
        del found["other size"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups([*STEPPED, "dog_svm"]))
def test_wrong_arrays_are_explained_in_one_line_before_training(name, monkeypatch):
    module, config = load(name), tiny(load(name), name)
    monkeypatch.setattr(tf, "function", lambda body=None, **options: body or (lambda body: body))
    networks = build_short(module, config)
    for kind, arrays in wrong_arrays(name, config).items():
        if name == "dog_svm" and kind == "one more":
            continue
        for data in (arrays, tf.data.Dataset.from_tensor_slices(arrays).batch(2)) if kind != "objects" else (arrays,):
            with pytest.raises(InputError) as error:
                module.train(networks, data if isinstance(data, tf.data.Dataset) or len(data) > 1 else data[0], config)
            assert "\n" not in str(error.value) and len(str(error.value)) < 400, kind


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name", ["lenet"])
def test_labels_outside_of_the_classes_are_explained(name):
    module, config = load(name), tiny(load(name), name)
    images, labels = tiny_arrays(name, config)
    with pytest.raises(InputError, match="the label [78], but the network has 2 classes, 0 to 1; .*outputs"):
        module.train(module.build(config), (images, labels + 7), config)


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
PICTURES = {"cyclegan": 24, "face_swap": 40, "fast_style_transfer": 24, "pix2pix": 40}  # of demos with large steps
PICTURES |= dict.fromkeys(["dog_svm", "lenet", "mlp", "mobilenet"], 400)  # of each class, cells show some
TRACED = {"adversarial_autoencoder", "autoencoder", *PIXELS, "dog_svm"}  # whose many small steps are faster traced
QUICK = {  # settings with which a recipe's demo, in one epoch and on few drawn pictures, takes a few seconds
    "adversarial_autoencoder": {"units": 32, "discriminator_units": 32},
    "autoencoder": {"units": 32, "batch_size": 256},
    "conv_autoencoder": {"base_filters": 8, "batch_size": 128},
    "cyclegan": {"base_filters": 4, "batch_size": 8},
    "dcgan": {"base_filters": 4, "batch_size": 256},
    "dcgan_faces": {"base_filters": 4},
    "deepdream": {"size": 96, "steps": 2, "octaves": 1},
    "diffusion": {"base_filters": 8, "batch_size": 256, "steps": 2},
    "face_swap": {"size": 32, "base_filters": 4},
    "fast_style_transfer": {"size": 64, "style_size": 64, "base_filters": 4, "residual_blocks": 1, "batch_size": 8},
    "fgsm": {"base_filters": 4},
    "gan": {"batch_size": 256},
    "mobilenet": {"size": 32},
    "pix2pix": {"base_filters": 4},
    "ssgan": {"base_filters": 8, "batch_size": 256},
    "style_transfer": {"size": 96, "steps": 3},
    "targeted_attack": {"images": 20, "steps": 1},
    "vae": {"units": 32, "batch_size": 128, "importance_samples": 10},
    "vae_faces": {"base_filters": 4},
}


def draw_fewer(names: dict[str, object], most: int, put: Callable = dict.__setitem__) -> None:
    """Let functions that draw pictures, or cut them out of photos, give at most that many; `names` has them or not."""

    def fewer(draw: Callable) -> Callable:
        return lambda count, *rest, **named: draw(min(count, most), *rest, **named)

    if cut := names.get("photo_squares"):
        put(names, "photo_squares", lambda size: cut(size)[:most])
    for name in (
        "synthetic_clothes",
        "synthetic_faces",
        "synthetic_seasons",
        "unpaired_seasons",
        "street_pairs",
        "sketch_pairs",
    ):
        if name in names:
            put(names, name, fewer(names[name]))
    if "POSES" in names:  # each is drawn by itself
        put(names, "POSES", names["POSES"][::10])
    if write := names.get("handwritten_digits"):  # hundreds, since demos with few labels need many of each digit
        put(names, "handwritten_digits", lambda count, *rest: write(min(count, max(most, 1000)), *rest))


def draw_fewer_everywhere(most: int, put: Callable = dict.__setitem__) -> None:
    for key, part in list(sys.modules.items()):
        if key.startswith(("common.", "recipes.", "__main__")):
            draw_fewer(vars(part), most, put)


def quick_settings(name: str) -> dict[str, object]:
    """Return the changes to a demo that its notebook can bear: most have cells that are written for the demo's size."""
    sized = name in ("fast_style_transfer", "style_transfer")
    kept = {key: value for key, value in QUICK.get(name, {}).items() if key != "size" or sized}
    epochs = {"epochs": 1} if "epochs" in {field.name for field in dataclasses.fields(load(name).Config)} else {}
    return epochs | kept


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(STEPPED))
def test_precision_reaches_what_a_run_trains(name, tmp_path, monkeypatch):
    """`build` alone does not show it, where a run makes its networks otherwise."""
    module = load(name)
    monkeypatch.setattr(module, "fit", reached)
    draw_fewer_everywhere(60, monkeypatch.setitem)
    small = {key: value for key, value in TINY[name].items() if key not in ("outputs", "labelled", "labels")}
    small["size"] = max(16, small["size"])  # clothes are no smaller
    with pytest.raises(Reached) as given, executing(Execution(precision="mixed_bfloat16")):
        module.demo(dataclasses.replace(module.DEMO, **small), tmp_path / "run")
    state = given.value.state
    networks = [each for each in state.values() if isinstance(each, keras.Model) and each.trainable_variables]
    assert networks
    for network in networks:
        assert "bfloat16" in {layer.compute_dtype for layer in network.layers}, network.name


UNTRACED = """
import warnings
import tensorflow
tensorflow.config.run_functions_eagerly(True)
warnings.filterwarnings("ignore", "Even though the `tf.config.experimental_run_functions_eagerly`")
"""  # the runs above are traced; to trace a step of a demo takes longer than the few that are done here


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
        (imports,) = (cell for cell in book.cells if "from common.runs.notebook import" in cell.source)
        imports.source += f"""
from collections.abc import Callable
{inspect.getsource(draw_fewer)}
{inspect.getsource(draw_fewer_everywhere)}
draw_fewer_everywhere({PICTURES.get(name, PICTURES_OF_A_DEMO)})
{UNTRACED if name not in TRACED else ""}
"""
        (settings,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
        settings.source += f"""
from dataclasses import replace
{"DEMO = " if name in PIXELS else ""}config = replace(config, **{quick_settings(name)!r})
"""
        notebook_client(book, folder, "forked", timeout=600).execute()
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
    expected = {"config.json", "history.csv", "results.json", "report.html"} | IMAGES[name]
    expected |= {"checkpoints"} if name in STEPPED else set()
    assert expected <= {path.name for path in run.iterdir()}
    assert {f"{field}.keras" for field in load(name).Networks._fields} <= {path.name for path in run.iterdir()}
    results = json.loads((run / "results.json").read_text())
    assert results and all(isinstance(value, int | float | str) for value in results.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", in_groups(["gan"]))
def test_a_run_that_is_finished_and_started_again_changes_nothing(name, executed):
    """Of one recipe, since what decides it is `fit` and `Run.finish`, which all share."""
    run = executed(name).run
    before = {path: path.read_bytes() for path in (run / "results.json", run / "history.csv")}
    code = f"""
import runpy, sys
from collections.abc import Callable
import common.data.synthetic
{inspect.getsource(draw_fewer)}
{inspect.getsource(draw_fewer_everywhere)}
draw_fewer_everywhere({PICTURES.get(name, PICTURES_OF_A_DEMO)})
sys.argv = ["recipes/{name}.py", "--epochs", "1", "--output-dir", {str(run)!r}]
runpy.run_module("recipes.{name}", run_name="__main__", alter_sys=True)
"""
    command = [*forked_python(), "-c", code]
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0, again.stderr
    assert Path(again.stdout.strip().splitlines()[-1]).is_file()
    assert {path: path.read_bytes() for path in before} == before
