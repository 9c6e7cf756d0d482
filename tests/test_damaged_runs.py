"""Run folders that somebody has edited or copied badly: each verb that opens one ends well, or says so in one line."""

from __future__ import annotations

import functools
import importlib
import inspect
import io
import json
import os
import re
import resource
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import common.runs.networks
import common.runs.run
from common.runs.export import export
from common.runs.run import Run, settings_of
from common.system.files import InputError, write_npz
from common.system.keras_files import load_keras_file
from tests.test_contract import RECIPES, TINY, in_groups

CLASSES = ("dark", "bright")
SMALL = {  # options that keep a verb short where it comes to its end
    "count": 2,
    "each": 1,
    "steps": 2,
    "images": 4,
    "a": (0,),
    "b": (1,),
    "c": (2,),
}


def verbs_of(recipe: str) -> dict[str, Callable[..., Any]]:
    """Return the functions of a recipe that its command line offers and that open a run."""
    module = importlib.import_module(f"recipes.{recipe}")
    text = inspect.getsource(module).partition('if __name__ == "__main__":')[2]
    functions = inspect.getmembers(module, inspect.isfunction)
    return {
        name: each
        for name, each in functions
        if re.search(rf"={name}\b", text) and "run" in inspect.signature(each).parameters
    }


WITH_RUNS = [name for name in RECIPES if verbs_of(name)]


def test_all_verbs_that_open_a_run_are_under_test():
    assert set(RECIPES) - set(WITH_RUNS) == {"deepdream", "style_transfer", "targeted_attack"}
    assert sum(len(verbs_of(name)) for name in WITH_RUNS) == 31


@functools.cache
def saved_run(recipe: str, folder: Path) -> Path:
    """Write a run of tiny networks that have not learnt anything."""
    module, run = importlib.import_module(f"recipes.{recipe}"), folder / recipe
    changes = {"labels": "few", "prior": "gaussian"} if recipe == "adversarial_autoencoder" else {}
    config = module.Config(**TINY[recipe] | changes)
    for name, network in module.build(config)._asdict().items():
        if name != "features" or recipe != "fast_style_transfer":
            (run / name).parent.mkdir(exist_ok=True)
            network.save(run / f"{name}.keras")
    Run(run, recipe, config, str(folder / "data.npz")).start(CLASSES)
    draw, width = np.random.default_rng(0).normal, getattr(config, "latent_dim", 0)
    square = np.eye(width, dtype=np.float32)
    if recipe == "vae_faces":
        vectors = draw(size=(2, width)).astype(np.float32)
        space = {"names": np.array(["hat", "smile"]), "vectors": vectors, "without": vectors, "mean": square[0]}
        space |= {"maps": np.stack([square, square]), "factor": square}
        write_npz(run / "space.npz", space)
    if recipe == "face_swap":
        latents = {"matrix": square, "source": square[0], "target": square[0]}
        write_npz(run / "shift.npz", {"factor": np.ones(3), "offset": np.zeros(3)} | latents)
    if recipe == "fast_style_transfer":
        shutil.copy(folder / "in.png", run / "style.png")
    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A folder with an image, data, and room for runs."""
    folder = tmp_path_factory.mktemp("runs")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "in.png")
    images, labels = pixels[None, :32, :32].repeat(20, 0), np.arange(20) % 2
    write_npz(folder / "data.npz", {
        "x_train": images, "y_train": labels, "x_test": images, "y_test": labels, "classes": np.array(CLASSES)
    })  # fmt: skip
    return folder


@pytest.fixture
def call(folder, tmp_path, monkeypatch) -> Callable[[str, Path], Iterator[str]]:
    """Return a function that calls each verb of a recipe with a run, and yields what was wrong, or nothing."""
    loaded = functools.cache(lambda path, written: load_keras_file(path))
    monkeypatch.setattr(common.runs.networks, "load_keras_file", lambda path: loaded(path, path.stat().st_mtime_ns))

    def looked_at(networks: dict[str, keras.Model], _: object, __: object, data: Any, *___: object) -> dict[str, float]:
        images = data.images(np.arange(len(data.labels)))  # a curve of attacks would take a second
        return {name: float(network(images / 255).numpy().mean()) for name, network in networks.items()}

    monkeypatch.setattr("recipes.fgsm.evaluate_attacks", looked_at)

    def swapped(source: Path, destination: Path, convert: Callable, size: int, *_: object) -> Path:
        convert(np.zeros((1, size, size, 3), np.uint8))  # no face has to be found
        return destination

    monkeypatch.setattr("recipes.face_swap.convert_faces", swapped)

    def verbs(recipe: str, run: Path) -> Iterator[str]:
        given = {
            "mask": folder / "in.png",
            "source": folder / "in.png",
            "photo": folder / "in.png",
            "other": folder / "in.png",
            "run": run,
        }
        given |= SMALL | {"destination": tmp_path / "out.png"}
        for name, verb in verbs_of(recipe).items():
            wanted = inspect.signature(verb).parameters
            options = {each: value for each, value in given.items() if each in wanted}
            if "attributes" in wanted:
                options["smile"] = 1.0
            if name in ("walk_file", "morph_file"):
                options["destination"] = tmp_path / "out.gif"
            for direction in ("a2b", "b2a") if "direction" in wanted else ("",):
                try:
                    verb(**options, **({"direction": direction} if direction else {}))
                    yield ""
                except InputError as error:
                    assert "\n" not in str(error) and len(str(error)) < 1000, name
                    yield str(error)

    return verbs


@pytest.mark.slow
@pytest.mark.parametrize("recipe", in_groups(WITH_RUNS))
def test_the_runs_of_this_test_are_whole(recipe, folder, call):
    assert set(call(recipe, saved_run(recipe, folder))) == {""}


# %% config.json


def damaged_settings(recipe: str, whole: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of config.json: all changes of its structure, and some of each setting, by chance."""
    text = json.dumps(whole)
    structures: dict[str, Any] = {"a list": [], "null": None, "a number": 3, "a text": "x", "nothing": {}}
    for part in ("recipe", "data", "config", "classes", "versions"):
        structures |= {
            f"{part} is {value!r}": whole | {part: value} for value in (None, 7, 0.5, [], {}, [[1]], "", "x")
        }
        structures[f"no {part}"] = {name: value for name, value in whole.items() if name != part}
    for classes in (["a"], ["a", "b", "c"], ["a", None], ["a", ["b"]], ["a", 3], ["a" * 10**6, "b"], {"a": 1}, "ab"):
        structures[f"classes {str(classes)[:20]}"] = whole | {"classes": classes}
    yield from ((name, json.dumps(value).encode()) for name, value in structures.items())
    yield "a byte order mark", b"\xef\xbb\xbf" + text.encode()
    yield "UTF-16", text.encode("utf-16")
    yield "Latin-1", json.dumps(whole | {"data": "\u00e9"}, ensure_ascii=False).encode("latin-1")
    yield "cut short", text[: len(text) // 2].encode()
    yield "empty", b""
    yield "zeros", bytes(1000)
    yield "deep", b'{"recipe":' + b"[" * 100_000
    yield "twice", text.replace('"config": {', '"config": {"size": 7, "seed": 3, ').encode()
    yield "a number of many digits", text.replace('"seed": 0', f'"seed": {"9" * 5000}').encode()
    random = np.random.default_rng(sum(recipe.encode()))
    values: list[Any] = [
        0,
        -1,
        1,
        2,
        29,
        50_000,
        10**9,
        2**70,
        0.5,
        -0.5,
        1e308,
        float("nan"),
        float("inf"),
        True,
        None,
    ]
    values += ["", "x", "unknown", "x" * 10**6, "\0", "\ud800", [], [1], {}, {"a": 1}]
    for name, value in whole["config"].items():
        shapes = name in ("size", "channels", "latent_dim", "outputs", "classes", "labels", "generator", "alpha")
        more = [value + 1, value * 2, value + 4, 16, 32, 64] if type(value) is int else []
        for chosen in more + values if shapes else random.choice(np.array(values, object), 5):
            yield (
                f"{name} {str(chosen)[:20]}",
                json.dumps(whole | {"config": whole["config"] | {name: chosen}}).encode(),
            )
    yield "another setting", json.dumps(whole | {"config": whole["config"] | {"x" * 10**5: 1}}).encode()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", in_groups(WITH_RUNS))
def test_a_changed_config_json(recipe, folder, call, tmp_path):
    shutil.copytree(saved_run(recipe, folder), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    refused, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for change, content in damaged_settings(recipe, json.loads(path.read_text())):
        path.write_bytes(content)
        try:
            said = list(call(recipe, tmp_path / "run"))
        except Exception as error:
            raise AssertionError(f"{recipe}: {change}") from error
        refused += bool(said[0])
    assert refused > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB
    path.unlink()
    for make in (path.mkdir, functools.partial(os.mkfifo, path)):
        make()
        assert all("no run here" in each for each in call(recipe, tmp_path / "run"))
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_does_not_go_on_with_what_somebody_wrote_into_config_json(recipe, tmp_path):
    config_class = importlib.import_module(f"recipes.{recipe}").Config
    config = config_class(**TINY[recipe])
    Run(tmp_path, recipe, config, "sample").start(() if getattr(config, "conditional", "") == "none" else CLASSES)
    path, refused = tmp_path / "config.json", 0
    whole = json.loads(path.read_text())
    assert Run.load(tmp_path, recipe, config_class).config == config
    for change, content in damaged_settings(recipe, whole):
        path.write_bytes(content)
        try:
            Run(tmp_path, recipe, config, "sample")
            for name, value in settings_of(Run.load(tmp_path, recipe, config_class).config).items():
                assert type(value) is type(whole["config"][name])
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000 and str(tmp_path) in str(error)
            refused += 1
        except Exception as error:
            raise AssertionError(change) from error
    assert refused > 100


def test_export_believes_no_config_json_either(tmp_path):
    (tmp_path / "generator.keras").touch()
    for text in ("[]", "[" * 100_000, '{"recipe": "x", "data": "x", "config": {"size": 1e99}}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config\.json: (damaged|size must be an integer, got 1e\+99)"):
            export(tmp_path, "litert_int8")


# %% Arrays


def npy(array: np.ndarray, shape: str | None = None, **options: bool) -> bytes:
    """Return an array as in a .npy file, with another shape in its header."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    content = buffer.getvalue()
    if shape is not None:
        before, after = content[:128], f"'shape': {shape}"
        start, end = before.index(b"'shape'"), before.index(b"}")
        header = before[:start] + after.encode() + b", }"
        content = header + b" " * (127 - len(header)) + b"\n" + content[128:]
        assert end < 127
    return content


class Planted:
    """Would make a file if it were ever unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def damaged_archives(whole: bytes, planted: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of an .npz: changes of the file, and of each array in it."""
    yield "empty", b""
    yield "cut short", whole[: len(whole) // 2]
    yield "zeros", bytes(2000)
    yield "text", b"hello" * 100
    yield "an .npy", npy(np.zeros(3))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def packed(changed: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, content in changed.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    yield "nothing in it", packed({})
    yield "others in it", packed({"x.npy": npy(np.zeros(3)), "readme.txt": b"hello"})
    yield "a bomb", packed(parts | {"more.npy": npy(np.zeros(30_000_000))}, zipfile.ZIP_DEFLATED)
    for name, content in parts.items():
        array = np.load(io.BytesIO(content))
        arrays = [
            array[:1],
            array[None],
            array.ravel()[0],
            array.astype("S8"),
            np.zeros((0,)),
            np.zeros(array.shape, int),
        ]
        arrays += [np.concatenate([array, array]), np.zeros(array.shape, complex), np.array(["a"]), array[..., :0]]
        if array.dtype.kind == "f":
            arrays += [array * np.nan, array + np.inf, array * 0, array + 1e30, array.astype(np.float64) + 1e300]
        yield f"no {name}", packed({each: part for each, part in parts.items() if each != name})
        for number, changed in enumerate(arrays):
            yield f"{name} {number}", packed(parts | {name: npy(changed)})
        for shape in ("(1000000000000,)", "(1000000, 1000000)", "(-1,)", "(0, 1000000000000)", "()", "(True,)", "'x'"):
            yield f"{name} {shape}", packed(parts | {name: npy(array, shape)})
        objects = np.array([Planted(planted)] * 2, object)
        yield f"{name} pickled", packed(parts | {name: npy(objects, allow_pickle=True)})
        yield f"{name} no header", packed(parts | {name: b"\x93NUMPY\x01\x00"})
        yield f"{name} long header", packed(parts | {name: b"\x93NUMPY\x02\x00\xff\xff\xff\xff"})
        yield f"{name} shorter", packed(parts | {name: content[:-5]})


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "name"), [("vae_faces", "space.npz"), ("face_swap", "shift.npz")])
def test_changed_arrays(recipe, name, folder, call, tmp_path):
    shutil.copytree(saved_run(recipe, folder), tmp_path / "run")
    path, planted, refused = tmp_path / "run" / name, tmp_path / "planted", 0
    for change, content in damaged_archives(path.read_bytes(), planted):
        path.write_bytes(content)
        try:
            said = list(call(recipe, tmp_path / "run"))
        except Exception as error:
            raise AssertionError(f"{recipe}: {change}") from error
        assert not planted.exists()
        assert not said[0] or (said[0].startswith(f"{path}: ") and "train again" in said[0]), change
        refused += bool(said[0])
    assert refused > 80
    path.unlink()
    for make in (path.mkdir, functools.partial(os.mkfifo, path)):
        make()
        assert all("there is no such file" in each for each in call(recipe, tmp_path / "run"))
        path.rmdir() if path.is_dir() else path.unlink()


# %% Networks


def other_networks(network: keras.Model) -> Iterator[tuple[str, keras.Model]]:
    """Yield networks that are no network of a recipe, or one of another size or number of channels."""
    layers = keras.layers
    for shape in ((5,), (7, 7, 1), (None, None, 2), (9, 9, 3)):
        inputs = keras.Input(shape)
        yield f"takes {shape}", keras.Model(inputs, layers.Dense(2)(inputs))
    inputs = keras.Input((3,))
    yield "two outputs", keras.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(2)(inputs)])
    inputs = [keras.Input(tensor.shape[1:]) for tensor in network.inputs]
    flat = layers.Concatenate()([layers.Flatten()(x) if None not in x.shape[1:] else x for x in inputs * 2])
    yield "gives another shape", keras.Model(inputs, layers.Dense(77)(flat))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", in_groups(WITH_RUNS))
def test_other_networks(recipe, folder, call, tmp_path):
    shutil.copytree(saved_run(recipe, folder), tmp_path / "run")
    files = sorted((tmp_path / "run").glob("*.keras"))
    read: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        load = common.runs.networks.load_keras_file
        patch.setattr(common.runs.networks, "load_keras_file", lambda path: read.add(path.name) or load(path))
        assert set(call(recipe, tmp_path / "run")) == {""}
    for path in [file for file in files if file.name in read]:
        whole, network = path.read_bytes(), load_keras_file(path)
        changes: dict[str, Callable[[], Any]] = {
            "missing": lambda: None,
            "empty": path.touch,
            "cut short": functools.partial(path.write_bytes, whole[: len(whole) // 2]),
            "a folder": path.mkdir,
            "a pipe": functools.partial(os.mkfifo, path),
            "text": functools.partial(path.write_text, "hello"),
        }
        changes |= {name: functools.partial(other.save, path) for name, other in other_networks(network)}
        changes |= {f"as {other.stem}": functools.partial(shutil.copy, other, path) for other in files if other != path}
        for change, make in changes.items():
            path.unlink()
            make()
            try:
                list(call(recipe, tmp_path / "run"))
            except Exception as error:
                raise AssertionError(f"{path.name}: {change}") from error
            if path.is_dir():
                path.rmdir()
                path.touch()
            path.touch()
        path.unlink()
        path.write_bytes(whole)
