"""Copies of recipes: short, clean, alone, and with the losses of the recipe."""

from __future__ import annotations

import ast
import csv
import functools
import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.images.writing import write_image
from common.runs import copying
from common.runs.copying import COOKBOOK, copy_recipe, recipe_names, recipe_summary, sample_of
from common.runs.omissions import Omissions, without
from common.samples.faces import synthetic_faces
from common.system.files import InputError
from recipes.__main__ import main
from tests.forked import forked_python
from tests.test_contract import PIXELS, STEPPED, TINY, draw_fewer_everywhere, first_blocks, in_groups

RECIPES = recipe_names()
LONGER = {  # lines of copies that would lose parts of the paper's algorithm otherwise
    "adversarial_autoencoder": 661,  # four uses of labels
    "cyclegan": 665,  # two kinds of generators, image pool, data of two domains
    "face_swap": 660,  # finds faces in photos
}
WITHOUT = {"dcgan_faces": {"colour": 0.0, "cutout": 0.0}}  # settings of a recipe with which it is as its copy
NOT_LOGGED = {  # by the copy
    "adversarial_autoencoder": {"validation_reconstruction"},
    "cyclegan": {f"{score}_{way}" for score in ("frechet", "l1", "ssim") for way in ("a2b", "b2a")} | {"frechet"},
    "dcgan_faces": {"diversity"},
    "diffusion": {"diversity"},
    "pix2pix": {"validation_l1", "validation_ssim"},
    "vae": {"validation_reconstruction", "validation_elbo"},
    "vae_faces": {"validation_reconstruction", "validation_kl"},
}
TRACED = ("mlp", "pix2pix", "vae", *PIXELS)
ROUNDED = {"diversity", "objective", "gap"}  # sums by BLAS, which depend on its threads, and grow in L-BFGS
FORMS = [(name, is_bare) for name in RECIPES for is_bare in (False, True)]


standalone = functools.cache(copying.standalone)


def ruff(*arguments: object) -> str:
    """Run ruff with the settings of the project, and return what it prints."""
    command = [sys.executable, "-m", "ruff", *map(str, arguments), "--config", str(COOKBOOK / "pyproject.toml")]
    return subprocess.run(command, capture_output=True, text=True).stdout


def imported(text: str) -> set[str]:
    """Return the packages that a text imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(text)))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {module.partition(".")[0] for module in modules}


# %% Text


@pytest.mark.parametrize("name", RECIPES)
def test_copies_are_short(name):
    assert len(standalone(name).splitlines()) <= LONGER.get(name, 600)
    assert len(standalone(name, is_bare=True).splitlines()) <= 250


@pytest.mark.parametrize(("name", "is_bare"), FORMS)
def test_a_copy_names_nothing_of_the_project_and_no_flag_that_it_lacks(name, is_bare):
    text = standalone(name, "mine.py", is_bare=is_bare)
    assert not re.search(r"\brecipes\.\w|\bcommon\b|>>>|only with:", text)
    assert not re.search(r"--(fetch|skip-bad|accept-data|max-pixels|xla|precision|steps-per-call)\b", text)
    docstring = ast.get_docstring(ast.parse(text))
    assert "Licence  Apache-2.0; a copy from keras-image-cookbook" in docstring
    assert docstring.partition("\n")[0] == recipe_summary(name)
    assert is_bare or "python mine.py" in docstring
    own = imported((COOKBOOK / "recipes" / f"{name}.py").read_text()) - {"common"}
    if is_bare:
        assert imported(text) - set(sys.stdlib_module_names) <= own | {"keras", "tensorflow", "numpy"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_copy_has_the_commands_of_the_recipe(name):
    """Except for the secondary ones of long recipes."""

    def commands(text: str) -> list[str]:
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        (call,) = (each for each in calls if ast.unparse(each.func) == "run_command")
        return [str(keyword.arg) for keyword in call.keywords if keyword.arg not in ("presets", "steps")]

    left_out = {
        "adversarial_autoencoder": ["generate"],
        "dcgan_faces": ["arithmetic", "walk"],
        "diffusion": ["walk", "inpaint"],
        "fgsm": ["evaluate"],
        "ssgan": ["generate"],
        "vae_faces": ["morph", "generate"],
    }.get(name, [])
    found = commands((COOKBOOK / "recipes" / f"{name}.py").read_text())
    assert commands(standalone(name)) == [command for command in found if command not in left_out]
    assert set(left_out) < set(found) - {"train"}


@pytest.mark.parametrize(("name", "is_bare"), FORMS)
def test_no_function_of_a_copy_is_unused(name, is_bare):
    tree = ast.parse(standalone(name, is_bare=is_bare))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert defined - used <= {"build", "train"}


def test_a_change_of_a_text_that_copies_replace_is_reported():
    with pytest.raises(
        ValueError, match="recipes/gan.py does not contain this text, which its copies replace: 'b = 2'"
    ):
        without("a = 1\n", "gan", Omissions(texts={"b = 2": ""}))


def test_parameters_commands_and_loss_scales_are_left_out():
    recipe = '''"""Title.

Run      python x.py train
         python x.py walk a.gif
"""


def walk_file(path):
    return path


def train(data, on_epoch=None, *, steps=1):
    d_scaled = optimizer.scale_loss(d_loss)  # for float16
    scaled = optimizer.scale_loss(a + b)
    return fit(data, d_scaled, scaled, on_epoch=[data, on_epoch])


run_command(demo, train=train, walk=walk_file)
'''
    expected = '''"""Title.

Run      python x.py train
"""


def train(data, *, steps=1):
    total = a + b
    return fit(data, d_loss, total, on_epoch=[data])


run_command(demo, train=train)
'''
    assert without(recipe, "x", Omissions("walk_file on_epoch")) == expected


def test_copies_are_clean(tmp_path):
    pytest.importorskip("ruff")
    for name, is_bare in FORMS:
        (tmp_path / f"{name}{'_bare' * is_bare}.py").write_text(standalone(name, is_bare=is_bare))
    assert ruff("check", tmp_path) == "All checks passed!\n"
    assert ruff("format", "--diff", tmp_path) == ""


def test_prose_stays_where_there_is_room():
    text = standalone("lenet")
    assert "# %% Networks\n# " in text and "# What is logged" in text and text.count("\n# %% ") >= 6


# %% Writing


@pytest.fixture
def quick(monkeypatch):
    """Let copies have few sample data, which take no time."""
    monkeypatch.setattr(
        "common.runs.copying.sample_of", lambda name, root: {"images": np.zeros((2, 4, 4, 1), np.uint8)}
    )


def test_a_copy_has_its_data_next_to_it(tmp_path, quick):
    copy, sample = copy_recipe("gan", tmp_path)
    assert (copy.name, sample.name) == ("gan.py", "gan_sample.npz")
    names = [path.name for path in copy_recipe("targeted_attack", tmp_path / "attack.py")]
    assert names == ["attack.py", "targeted_attack_sample.npz", "digit_classifier.keras"]
    assert [path.name for path in copy_recipe("gan", tmp_path / "bare.py", is_bare=True)] == ["bare.py"]


def test_nothing_is_overwritten_without_force(tmp_path, quick):
    copy, sample = copy_recipe("gan", tmp_path)
    for path in (copy, sample):
        before = path.read_bytes()
        path.write_text("changed by its owner")
        with pytest.raises(InputError, match=r"gan.* exists.*--force"):
            copy_recipe("gan", tmp_path)
        assert path.read_text() == "changed by its owner"
        copy_recipe("gan", tmp_path, force=True)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "destination", "message"),
    [
        ("gen", "x.py", "'gen' is no recipe: did you mean gan"),
        ("../gan", "x.py", "is no recipe"),
        ("gan", "new_folder", "neither a folder nor a name that ends in .py"),
        ("gan", COOKBOOK / "recipes" / "gan.py", "belongs to the project"),
    ],
)
def test_unusable_names_are_refused(tmp_path, name, destination, message):
    with pytest.raises(InputError, match=message) as error:
        copy_recipe(name, tmp_path / destination, force=True)
    assert "\n" not in str(error.value)


def test_command_line_says_what_is_wrong_in_one_line(tmp_path, capsys, monkeypatch):
    assert main(["copy", "none-like-this", str(tmp_path / "x.py")]) == 2
    assert capsys.readouterr().err.startswith("error: 'none-like-this' is no recipe")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "x.py")

    monkeypatch.setattr("common.runs.copying.copy_recipe", refuse)
    assert main(["copy", "any", "x.py"]) == 2
    assert capsys.readouterr().err == "error: x.py: Permission denied\n"
    with pytest.raises(SystemExit) as stop:
        main([RECIPES[0], "--epochs", "3"])
    assert stop.value.code == 2
    assert f"python -m recipes.{RECIPES[0]} --epochs 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in PIXELS])
def test_sample_data_are_those_of_the_demo(name, monkeypatch):
    """With sets that tell how they were asked for."""
    asked = []

    def made(kind):
        def make(size, seed):
            asked.append((kind, size, seed))
            return np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, np.int32)

        return make

    sets = importlib.import_module("common.data.synthetic").SETS
    monkeypatch.setattr("common.data.synthetic.SETS", {kind: made(kind) for kind in sets})
    if name != "face_swap":  # which has a set of its own
        assert sample_of(name)
        demo = importlib.import_module(f"recipes.{name}").DEMO
        assert asked == [(asked[0][0], 28 if name == "mobilenet" else demo.size, demo.seed)]


# %% Runs


def loaded(name: str, folder: Path, monkeypatch) -> types.ModuleType:
    """Import a copy that is written into a folder."""
    path = folder / f"{name}_copy.py"
    path.write_text(standalone(name, path.name))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    copy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, copy)
    spec.loader.exec_module(copy)
    return copy


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_in_the_docstring_of_a_copy_are_understood(name, tmp_path, monkeypatch, capsys):
    """With functions that note their arguments instead of those that train."""
    copy = loaded(name, tmp_path, monkeypatch)
    path = Path(copy.__file__)
    calls = []

    def noting(function):
        @functools.wraps(function)
        def note(*values, **named):
            calls.append(inspect.signature(function).bind(*values, **named).arguments)
            return path

        return note

    command = ast.parse(path.read_text()).body[-1].body  # below `if __name__ == "__main__"`
    for node in ast.walk(command[-1].value):
        if inspect.isfunction(function := getattr(copy, getattr(node, "id", ""), None)) and node.id != "run_command":
            setattr(copy, node.id, noting(function))
    lines = re.findall(rf"python {path.name}((?: (?! )[^ \n;]+)*)", copy.__doc__)
    assert len(lines) >= 2
    for line in lines:
        monkeypatch.setattr(sys, "argv", [path.name, *line.split()])
        exec("\n".join(map(ast.unparse, command)), vars(copy))
        (given,) = calls
        values = {**given, **given.get("attributes", {}), **vars(given.get("config", object))}
        for flag in re.findall(r"--([a-z-]+)", line):
            assert flag == "preset" or {flag.replace("-", "_"), f"{flag}_"} & {*values}
        calls.clear()
        assert capsys.readouterr().out == f"{path}\n"


def write_images(folder: Path, count: int, size: int, mode: str, first: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (5, 6, 3)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((size + 4, size + 2), Image.Resampling.BICUBIC)
        image.convert(mode).save(folder / f"{number:02}.png")


def own_data(name: str, folder: Path) -> str:
    """Write data as a user has them, and return the word for --data."""
    config = TINY[name]
    size, mode = config["size"], "L" if config.get("channels", 1) == 1 else "RGB"
    if name == "face_swap":
        for person in (8, 11):
            photos, _ = synthetic_faces(5, 0, 96, person)
            for number, photo in enumerate(photos):
                write_image(photo, folder / str(person) / f"{number}.png")
    elif name in ("deepdream", "style_transfer"):
        write_images(folder, 1, 40, "RGB")
        return str(folder / "00.png")
    elif name == "pix2pix":
        write_images(folder / "A", 13, size, "RGB")
        write_images(folder / "B", 13, size, "RGB")
    elif name == "cyclegan":
        write_images(folder / "trainA", 5, size, "RGB")
        write_images(folder / "trainB", 7, size, "RGB", 20)
        write_images(folder / "testA", 2, size, "RGB", 40)
        write_images(folder / "testB", 2, size, "RGB", 50)
    elif name in ("dcgan", "gan", "fast_style_transfer", "dcgan_faces", "vae_faces"):
        write_images(folder, 13, size, mode)
    else:
        classes = ("3", "7") if name == "targeted_attack" else ("cat", "dog")
        write_images(folder / classes[0], 12, size, mode)
        write_images(folder / classes[1], 12, size, mode, 20)
    if name in ("dcgan_faces", "vae_faces"):
        rows = "".join(f"{number:02}.png,{number % 2},{number % 3 % 2}\n" for number in range(13))
        (folder / "attributes.csv").write_text("file,smile,hat\n" + rows)
    return str(folder)


def test_a_copy_refuses_what_it_cannot_use_in_one_line(tmp_path, monkeypatch):
    copy = loaded("pix2pix", tmp_path, monkeypatch)
    (tmp_path / "squares").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "squares" / "0.png")
    with pytest.raises(copy.InputError, match=r"0.png: not twice as wide as high"):
        copy.image_pairs(str(tmp_path / "squares"), 16)
    copy.Run(tmp_path / "run", copy.Config(size=32), "sample").start()
    copy.Run(tmp_path / "run", copy.Config(size=32, epochs=3), "sample").start()
    with pytest.raises(copy.InputError, match=r"config.json: its data, size differ; use its flags or another"):
        copy.Run(tmp_path / "run", copy.Config(size=64), "mine").start()
    with pytest.raises(FileNotFoundError, match=r"generator.keras"):
        copy.Run.load(tmp_path / "run", copy.Config).network("generator")


def test_bare_forms_refuse_floats_and_take_datasets_of_unknown_length():
    bare = importlib.import_module("common.runs.kit.bare")
    with pytest.raises(TypeError, match="uint8"):
        bare.from_uint8(np.zeros((1, 2), np.float32))
    dataset = tf.data.Dataset.from_generator(lambda: iter([1.0, 2.0]), output_signature=tf.TensorSpec([], tf.float32))
    assert bare.fit(lambda x: {"loss": x}, dataset, 2) == [{"epoch": 1, "loss": 1.5}, {"epoch": 2, "loss": 1.5}]


ALONE = """
import dataclasses, json, os, signal, sys
from pathlib import Path
import numpy as np, tensorflow as tf
sys.path.insert(0, {folder!r})
import {name} as copy, {name}_bare as bare

import keras
from collections.abc import Callable
from typing import Any
MOBILENET = keras.applications.MobileNetV2
{blocks}
keras.applications.MobileNetV2 = first_blocks
tf.config.run_functions_eagerly({untraced!r})
tiny, data = {tiny!r}, {data!r}
config = copy.Config(**tiny)
if {resumed!r}:  # Ctrl-C at the end of the first epoch
    fit = copy.fit
    stop = lambda epoch, losses: os.kill(os.getpid(), signal.SIGINT)
    copy.fit = lambda *given, on_epoch=(), **options: fit(*given, on_epoch=[*on_epoch, stop], **options)
    try:
        copy.run(data, config, Path("run"))
    except KeyboardInterrupt as stopped:
        assert "run again to resume" in str(stopped)
    copy.fit = fit
shown = [str(copy.run(data, config, Path("run"))), str(copy.demo(copy.Config(**{demo!r}), Path("demo")))]
if {name!r} == "adversarial_autoencoder":  # the bare form lacks "discriminator"
    config = dataclasses.replace(config, labels="decoder")
fields = [field.name for field in dataclasses.fields(bare.Config)]
config = dataclasses.replace(config, epochs=1) if {resumed!r} else config
settings = {{name: value for name, value in vars(config).items() if name in fields}}
settings = bare.Config(**settings)
shape = (4, config.size, config.size, getattr(config, "channels", 3))
images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
labels = np.array([0, 1, 0, 1], np.int32)
pairs = {{"pix2pix": (images, 255 - images), "face_swap": (images, 255 - images), "cyclegan": (images, 255 - images)}}
arrays = pairs.get({name!r}, (images, labels) if "outputs" in tiny else (images,))
if {name!r} == "ssgan":
    arrays = images, *arrays
dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(2, drop_remainder=True)
histories = []
for module, options in ((copy, config), (bare, settings)):
    if {name!r} == "dog_svm":
        networks = copy.build(config)
        data = copy.shuffled(arrays, 2, 0, arrays)
        given = (data, config) if module is copy else (data.at(0).take(2), arrays, settings)
    elif {name!r} == "targeted_attack":
        networks = copy.build(config)
        given = module.Attacks(images[..., :1].copy(), np.arange(4)), options
    elif {name!r} == "deepdream":
        networks, given = copy.build(config), (module.Dream(images[0].copy()), options)
    elif {name!r} == "style_transfer":
        networks, given = copy.build(config), (module.Painting.of(images[0], [(images[1], 1.0)]), options)
    else:
        networks = copy.build(config) if "weights" in tiny or "style_size" in tiny else module.build(options)
        given = dataset, options
    history = module.train(networks, *given)
    histories.append([{{k: v for k, v in row.items() if k != "seconds"}} for row in history])
assert not {{"common", "recipes"}} & {{name.partition(".")[0] for name in sys.modules}}
print(json.dumps([shown, *histories]))
"""


@pytest.fixture
def few_samples(monkeypatch):
    """Let the built-in sets hold 40 images."""

    def first(arrays):
        return arrays[-40:] if isinstance(arrays, np.ndarray) else tuple(first(each) for each in arrays)

    draw_fewer_everywhere(40, monkeypatch.setitem)
    monkeypatch.setattr("common.data.labelled.sample_styles", lambda *_: {})  # those of all images
    sets = importlib.import_module("common.data.synthetic").SETS
    for kind, make in list(sets.items()):
        monkeypatch.setitem(sets, kind, lambda size, seed, make=make: first(make(size, seed)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scores of so few images
@pytest.mark.filterwarnings("ignore:Even though the .*run_functions_eagerly")
@pytest.mark.parametrize("name", in_groups(RECIPES))
def test_a_copy_trains_alone_on_own_data_resumes_and_has_the_losses_of_the_recipe(
    name, tmp_path, monkeypatch, few_samples, request
):
    """And the bare form has those of the copy. Most steps run untraced: tracing takes most of the time."""
    tiny = TINY[name]
    demo = tiny | {"size": max(16, tiny["size"])} | ({"epochs": 1, "batch_size": 8} if name in STEPPED else {})
    demo |= {"labelled": 10} if "labelled" in tiny else {}
    if name in ("fast_style_transfer", "style_transfer"):
        write_images(tmp_path / "style", 1, 36, "RGB")  # no side above 40, so that nothing resizes it
        tiny = tiny | {"style": str(tmp_path / "style" / "00.png")}
    of_demo = copying._of_demo
    monkeypatch.setattr(copying, "_of_demo", lambda tree, field: demo.get(field, of_demo(tree, field)))
    mine, alone = tmp_path / "mine", tmp_path / "alone"
    alone.mkdir()
    data = own_data(name, tmp_path / "data")
    copy_recipe(name, mine / f"{name}.py")
    copy_recipe(name, mine / f"{name}_bare.py", is_bare=True)
    monkeypatch.setattr(keras.applications, "MobileNetV2", first_blocks)
    code = ALONE.format(
        blocks=inspect.getsource(first_blocks),
        folder=str(mine),
        name=name,
        tiny=tiny,
        demo=demo,
        data=data,
        resumed=name in STEPPED,
        untraced=name not in TRACED,
    )
    command = [*forked_python(), "-I", "-c", code]
    done = subprocess.run(command, cwd=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    shown, full, bare = json.loads(done.stdout.splitlines()[-1])
    assert all((alone / path).is_file() for path in shown)
    for one, other in zip(full, bare, strict=True):
        assert one.keys() == other.keys()
        assert list(one.values()) == pytest.approx(list(other.values()), rel=1e-4, abs=1e-6)

    module = importlib.import_module(f"recipes.{name}")
    kit = importlib.import_module("common.runs.kit.loop")
    if hasattr(module, "adam"):
        monkeypatch.setattr(module, "adam", kit.adam)  # the project's own rounds differently
    if name not in TRACED:
        request.getfixturevalue("untraced")
    without, missing = WITHOUT.get(name, {}), NOT_LOGGED.get(name, set())
    module.demo(module.Config(**demo, **without), tmp_path / "demo")
    assert_equal_losses(tmp_path / "demo", alone / "demo", missing)
    if name not in ("face_swap", "targeted_attack"):  # whose copies crop faces and order images differently
        module.run(data, module.Config(**tiny, **without), tmp_path / "run")
        assert_equal_losses(tmp_path / "run", alone / "run", missing)


def losses(run: Path) -> list[dict[str, float]]:
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("seconds", "steps_per_second")] if rows else []
    return [{name: float(row[name]) for name in names} for row in rows]


def assert_equal_losses(one: Path, other: Path, missing: set[str]) -> None:
    for logged, expected in zip(losses(one), losses(other), strict=True):
        row = {name: value for name, value in logged.items() if name not in missing}
        sums = {
            name: pytest.approx(value, rel=0.01) for name, value in expected.items() if ROUNDED & {*name.split("_")}
        }
        assert row == expected | sums
    assert losses(one)
