"""Files of networks from strangers: none runs code, none takes more memory than it is large, each is one line."""

from __future__ import annotations

import base64
import io
import json
import marshal
import os
import resource
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from common.runs.networks import load_network
from common.runs.pretrained import load_pretrained
from common.system.files import InputError
from common.system.keras_files import load_keras_file


def small() -> keras.Model:
    inputs = keras.Input((4,), name="inputs")
    return keras.Model(inputs, keras.layers.Dense(3, name="dense")(inputs), name="small")


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, bytes]:
    """The members of a whole .keras file."""
    path = tmp_path_factory.mktemp("whole") / "small.keras"
    small().save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(parts: dict[str, bytes], path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def test_a_whole_file_is_loaded(parts, tmp_path):
    network = small()
    network.save(tmp_path / "a.keras")
    images = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(load_keras_file(tmp_path / "a.keras")(images), network(images))
    again = packed(parts, tmp_path / "b.keras", zipfile.ZIP_DEFLATED)  # as somebody may have packed it again
    assert load_keras_file(again).output_shape == (None, 3)


# %% Architectures that would run code


def marker_code(marker: Path) -> str:
    """Return the code of a function that would make a file, as Keras writes that of a Lambda layer."""
    made = compile(f"lambda x: __import__('pathlib').Path({str(marker)!r}).touch()", "x", "eval").co_consts[0]
    return base64.b64encode(marshal.dumps(made)).decode()


def lambda_layer(marker: Path, **changes: Any) -> dict[str, Any]:
    function = {"class_name": "__lambda__", "config": {"code": marker_code(marker), "defaults": None, "closure": None}}
    config = {"name": "dense", "trainable": True, "dtype": "float32", "function": function, "arguments": {}}
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": config | changes, "registered_name": None}
    return layer | {"build_config": {"input_shape": [None, 4]}}


def named(module: str | None, kind: str, registered: str | None = None, /, **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": config, "registered_name": registered}


def function_named(module: str | None, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def hostile_layers(marker: Path) -> dict[str, Any]:
    """Return settings that stand where those of the layer `dense` should."""
    command = f"touch {marker}"
    bomb = {"activation": {"class_name": "__lambda__", "config": {"code": marker_code(marker)}}}
    functions = [
        ("os", "system"),
        ("subprocess", "run"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        (None, "os.system"),
    ]
    functions += [
        ("keras.src.utils.io_utils", "print_msg"),
        ("numpy", "load"),
        ("shutil", "rmtree"),
        ("pickle", "loads"),
    ]
    layers = {}
    for module, name in functions:
        called = function_named(module, name)
        layers[f"activation {module}.{name}"] = named("keras.layers", "Dense", units=3, activation=called)
    classes = [
        ("subprocess", "Popen"),
        ("os", "system"),
        ("builtins", "exec"),
        ("pathlib", "PosixPath"),
        ("code", "interact"),
    ]
    layers |= {f"class {module}.{name}": named(module, name, args=command, shell=True) for module, name in classes}
    layers |= {
        f"registered {name}": named(None, name, f"any>{name}", args=command) for name in ("system", "Lambda", "x")
    }
    for arbitrary in ("TorchModuleWrapper", "Wrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "RNN"):
        path = {"filepath": str(marker.parent)} if arbitrary == "TFSMLayer" else {}
        layers[arbitrary] = named("keras.layers", arbitrary, name="dense", module=marker_code(marker), **path)
    return layers | {
        "a Lambda layer": lambda_layer(marker),
        "a Lambda layer, registered": lambda_layer(marker) | {"registered_name": "keras>Lambda"},
        "a Lambda layer of another module": lambda_layer(marker) | {"module": "keras.src.layers.core.lambda_layer"},
        "a Lambda layer that calls a function": lambda_layer(marker, function=function_named("os", "system")),
        "a Lambda layer with safe mode off": lambda_layer(marker) | {"safe_mode": False},
        "an activation with code": named("keras.layers", "Dense", units=3, name="dense", **bomb),
        "an initializer with code": named("keras.layers", "Dense", units=3, kernel_initializer=bomb["activation"]),
        "a network within": named("keras.models", "Sequential", layers=[lambda_layer(marker)], name="dense"),
        "an operation": named("keras.ops", "Lambda", name="dense"),
        "a way out of Keras": named("keras.src.saving.serialization_lib.base64", "b64decode", name="dense"),
        "a file that is fetched": named("keras.utils", "get_file", fname=str(marker), origin=f"file://{__file__}"),
        "a function of Keras": function_named("keras.config", "enable_unsafe_deserialization"),
    }


HOSTILE = sorted(hostile_layers(Path("marker")))


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_architecture_that_would_run_code(kind, parts, tmp_path):
    marker = tmp_path / "marker"
    settings = json.loads(parts["config.json"])
    place = settings["config"]["layers"]
    (old,) = [layer for layer in place if layer["config"]["name"] == "dense"]
    new = hostile_layers(marker)[kind]
    new |= {"name": "dense", "inbound_nodes": old["inbound_nodes"]}
    place[place.index(old)] = new
    path = packed(parts | {"config.json": json.dumps(settings).encode()}, tmp_path / "hostile.keras")
    refused(path, marker)
    packed(parts | {"config.json": json.dumps(new).encode()}, path)  # in place of the whole network
    refused(path, marker)


def refused(path: Path, *markers: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded") as error:
        load_network(path.parent, path.stem)
    line = str(error.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) < 400
    assert not any(marker.exists() for marker in markers)


# %% Archives


def claiming(shape: tuple[int, ...], name: str = "layers/dense/vars/0", **options: Any) -> bytes:
    """Return weights of which one is of another shape, without a value for each."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset(name, shape, "float32", **options)
        file.create_dataset("layers/dense/vars/1", (3,), "float32")
    return buffer.getvalue()


def linked(link: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["layers/dense/vars/0"] = link
        file.create_dataset("layers/dense/vars/1", (3,), "float32")
    return buffer.getvalue()


def external(path: Path) -> bytes:
    path.write_bytes(bytes(48))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("layers/dense/vars/0", (4, 3), "float32", external=[(str(path), 0, 48)])
        file.create_dataset("layers/dense/vars/1", (3,), "float32")
    return buffer.getvalue()


def with_units(parts: dict[str, bytes], units: Any, shape: Any = (None, 4)) -> dict[str, bytes]:
    settings = json.loads(parts["config.json"])
    first, dense = settings["config"]["layers"]
    first["config"]["batch_shape"], dense["config"]["units"] = list(shape), units
    dense["build_config"]["input_shape"] = list(shape)
    return {"config.json": json.dumps(settings).encode()}


def hostile_archives(parts: dict[str, bytes], folder: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    weights = "model.weights.h5"
    for name in parts:
        if name != "metadata.json":  # which Keras does not read
            yield f"no {name}", {each: content for each, content in parts.items() if each != name}
        yield f"{name} cut short", parts | {name: parts[name][: len(parts[name]) // 2]} if "meta" not in name else {}
    yield "config.json is a list", parts | {"config.json": b"[]"}
    yield "config.json is deep", parts | {"config.json": b"[" * 100_000}
    yield "config.json is Latin-1", parts | {"config.json": b'{"\xe9": 1}'}
    yield "config.json has no end", parts | {"config.json": b'{"a": ' + b"9" * 5000 + b"}"}
    for units in (10**9, 10**12, 2**70, -1, 0, 1.5, "3", None, [3], 10**6):
        yield f"{units} units", parts | with_units(parts, units)
    yield "many inputs", parts | with_units(parts, 1000, (None, 10**9))
    yield "weights that claim 10^12 values", parts | {weights: claiming((10**6, 10**6), chunks=(100, 100))}
    yield "weights that claim as many, packed", parts | {weights: claiming((10**6, 10**6), chunks=True, compression=9)}
    yield "weights of another shape", parts | {weights: claiming((3, 4))}
    yield "no weights", parts | {weights: claiming((4, 3), "elsewhere")}
    yield "weights in another file", parts | {weights: external(folder / "outside")}
    yield "weights behind a link", parts | {weights: linked(h5py.ExternalLink(str(folder / "outside"), "/x"))}
    yield "weights behind a soft link", parts | {weights: linked(h5py.SoftLink("/layers/dense/vars/1"))}


def test_archives_that_are_damaged_or_claim_too_much(parts, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tried = 0
    for kind, changed in hostile_archives(parts, tmp_path):
        path = packed(changed, tmp_path / "hostile.keras")
        try:
            refused(path)
        except BaseException as error:
            raise AssertionError(kind) from error
        tried += 1
    assert tried > 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_members_that_would_be_written_elsewhere(parts, tmp_path):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    names = ("../../slip", str(tmp_path / "slip"), "assets/../../../slip", "assets/layers/dense/../../../../slip")
    for name in names:
        path = packed(parts | {name: b"slipped"}, inside / "hostile.keras")
        with suppress(InputError):
            load_keras_file(path)
        assert not list(tmp_path.rglob("slip")), name
    link = zipfile.ZipInfo("assets")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(packed(parts, inside / "hostile.keras"), "a") as archive:
        archive.writestr(link, str(tmp_path))
        archive.writestr("assets/slip", b"slipped")
    with suppress(InputError):
        load_keras_file(inside / "hostile.keras")
    assert not list(tmp_path.rglob("slip"))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.touch])
def test_what_is_no_file(make, tmp_path):
    make(tmp_path / "x.keras")
    with pytest.raises(InputError, match=r"x\.keras: (there is no such file|cannot be loaded)"):
        load_keras_file(tmp_path / "x.keras")


def test_a_bomb_is_not_unpacked(parts, tmp_path):
    for name in ("config.json", "model.weights.h5"):
        path = packed(parts | {name: bytes(70_000_000)}, tmp_path / "bomb.keras", zipfile.ZIP_DEFLATED)
        with pytest.raises(InputError, match=f"it claims more data than its {path.stat().st_size} bytes can hold"):
            load_keras_file(path)


# %% Files of weights


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_weights_from_strangers(suffix, tmp_path):
    network, path = small(), tmp_path / f"hostile{suffix}"
    contents: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "text": lambda: b"hello",
        "zeros": lambda: bytes(5000),
        "10^12 values": lambda: claiming((10**6, 10**6), chunks=(100, 100)),
        "another shape": lambda: claiming((7, 7)),
        "another file": lambda: external(tmp_path / "outside"),
        "a link": lambda: linked(h5py.ExternalLink(str(tmp_path / "outside"), "/x")),
    }
    for kind, content in contents.items():
        path.write_bytes(content())
        with pytest.raises(InputError, match="not a weights file for small") as error, warnings.catch_warnings():
            load_pretrained(network, str(path), "x", small)
        assert "\n" not in str(error.value), kind
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="there is no such file"):
        load_pretrained(network, str(path), "x", small)
