"""Every number that a user may give has a least and a most, which stand beside it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import re
import runpy
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from common.runs.export import export
from common.system.files import InputError
from common.system.options import LONGEST_TEXT, Range, check_arguments, check_fields, check_value
from recipes import autoencoder, dcgan, lenet, vae_faces
from tests.test_contract import RECIPES

ROOT = Path(__file__).parents[1]


def numbers_in(name: str, hint: Any, default: object) -> Iterator[tuple[str, Any, object]]:
    """Yield what an annotation says of numbers: their names, the annotations, and defaults."""
    kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if kind in (int, float):
        yield name, hint, default
    elif typing.get_origin(kind) is tuple:
        yield from numbers_in(name, typing.get_args(kind)[0], None)
    elif dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            hints = typing.get_type_hints(kind, include_extras=True)
            yield from numbers_in(f"{name}.{field.name}", hints[field.name], getattr(default, field.name))


def verbs_of(recipe: str) -> dict[str, Any]:
    module = importlib.import_module(f"recipes.{recipe}")
    text = inspect.getsource(module).partition('if __name__ == "__main__":')[2]
    functions = inspect.getmembers(module, inspect.isfunction)
    own = [(name, each) for name, each in functions if each.__module__ == module.__name__]
    return {name: each for name, each in own if re.search(rf"(?<!\")\b{name}\b(?!=)", text)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_of_a_verb_has_a_least_and_a_most(recipe):
    verbs = verbs_of(recipe)
    assert {"demo", "run"} <= set(verbs)
    found = 0
    for verb in [*verbs.values(), export]:
        hints = typing.get_type_hints(verb, include_extras=True)
        for name, parameter in inspect.signature(verb).parameters.items():
            for where, hint, default in numbers_in(name, hints[name], parameter.default):
                limits = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Range)]
                assert len(limits) == 1 and all(map(math.isfinite, limits[0])), f"{verb.__name__}: {where}"
                assert default in (None, inspect.Parameter.empty) or limits[0].least <= default <= limits[0].most
                found += 1
    assert found > 10


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_is_within_the_ranges(recipe):
    module = importlib.import_module(f"recipes.{recipe}")
    presets = [each for each in vars(module).values() if isinstance(each, module.Config)]
    assert presets
    for preset in [module.Config(), *presets]:
        check_fields(preset)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (0, Annotated[int, Range(1, 5)], "it must be 1 or more and at most 5, got 0"),
        (6, Annotated[int, Range(1, 5)], "it must be 1 or more and at most 5, got 6"),
        (2**70, Annotated[int, Range(1, 5)], "at most 5, got 1.18059e+21"),
        (math.nan, Annotated[float, Range(0, 1)], "it must be 0 or more and at most 1, got nan"),
        (math.inf, Annotated[float, Range(0, 1)], "at most 1, got inf"),
        (np.float32(1.5), Annotated[float, Range(0, 1)], "at most 1, got 1.5"),
        (True, Annotated[int, Range(0, 5)], "it must be an integer, got True"),
        (1.0, Annotated[int, Range(0, 5)], "it must be an integer, got 1.0"),
        ("1", Annotated[int, Range(0, 5)], "it must be an integer, got '1'"),
        (None, Annotated[float, Range(0, 5)], "it must be a number, got None"),
        (1, bool, "it must be true or false, got 1"),
        (3, str, "it must be text, got 3"),
        ("x" * (LONGEST_TEXT + 1), str, "it must be text of at most 10000 characters, got 10001 characters"),
        ("a\0b", str, "got text with a null character"),
        ("c", Literal["a", "b"], "it must be a or b, got 'c'"),
        (True, Literal[1, 3], "it must be 1 or 3, got True"),
        ([1], Literal["a", "b"], r"it must be a or b, got \[1\]"),
        ((1, 9), tuple[Annotated[int, Range(0, 5)], ...], "it must be 0 or more and at most 5, got 9"),
        (list(range(1000)), float, "it must be a number, got "),
    ],
)
def test_what_is_refused(value, hint, message):
    with pytest.raises(InputError, match=message.replace("+", r"\+")) as error:
        check_value("it", value, hint)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, Annotated[int, Range(1, 5)]),
        (np.int64(5), Annotated[int, Range(1, 5)]),
        (1, Annotated[float, Range(0, 1)]),
        (np.float32(0.5), Annotated[float, Range(0, 1)]),
        (True, bool),
        ("a", Literal["a", "b"]),
        ("x" * LONGEST_TEXT, str),
        (Path("x"), Path),
        (None, Path | None),
        ((), tuple[Annotated[int, Range(0, 5)], ...]),
    ],
)
def test_what_is_allowed(value, hint):
    check_value("it", value, hint)


def test_a_build_from_python_checks_its_settings_too():
    with pytest.raises(InputError, match="units must be 1 or more and at most 65536, got 100000000000"):
        autoencoder.build(autoencoder.Config(units=100_000_000_000))


def test_arguments_are_checked_by_their_names_and_any_other_flags_too():
    check_arguments(dcgan.generate_file, Path("x.png"), 3, seed=4)
    with pytest.raises(InputError, match="count must be 1 or more and at most 100000, got 0"):
        check_arguments(dcgan.generate_file, Path("x.png"), 0)
    with pytest.raises(InputError, match="smile must be -100 or more"):
        check_arguments(vae_faces.edit_file, Path("a.png"), Path("b.png"), smile=1e9)
    with pytest.raises(InputError, match="top must be 1 or more"):
        check_arguments(lenet.classify_file, Path("a.png"), top=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["autoencoder", "train", "--units", "100000000000"], "units must be 1 or more and at most 65536"),
        (["autoencoder", "train", "--compare", "2", "100000000000"], "compare must be 1 or more and at most 65536"),
        (["dcgan", "generate", "out.png", "--count", "100000000"], "count must be 1 or more and at most 100000"),
        (["dcgan", "walk", "out.gif", "--zoom", "1000000"], "zoom must be 1 or more and at most 64"),
        (["vae", "generate", "out.png", "--seed", str(2**70)], "seed must be 0 or more and at most 2147483647"),
        (["dcgan_faces", "walk", "out.gif", "--start", "-1"], "start must be 0 or more and at most 999999"),
        (["dcgan_faces", "arithmetic", "out.png", "--a", str(10**12)], "a must be 0 or more and at most 999999"),
        (["deepdream", "dream", "none.png", "out.png", "--size", "10000000"], "size must be 0 or more and at most"),
        (
            ["deepdream", "zoom", "none.png", "out.gif", "--zoom", "nan"],
            "zoom must be 1.001 or more and at most 2, got nan",
        ),
        (["style_transfer", "stylize", "none.png", "out.png", "--steps", "0"], "steps must be 1 or more"),
        (["targeted_attack", "attack", "none.png", "out.png", "--batch-size", "0"], "batch_size must be 1 or more"),
        (["fgsm", "attack", "none.png", "out.png", "--steps", "100000000000"], "steps must be 1 or more and at most"),
        (["fgsm", "evaluate", "--images", "0"], "images must be 1 or more"),
        (["vae_faces", "edit", "none.png", "out.png", "--smile", "1e30"], "smile must be -100 or more and at most 100"),
        (["lenet", "classify", "none.png", "--top", "0"], "top must be 1 or more"),
        (["lenet", "train", "--steps-per-call", "100000"], "steps_per_call must be 0 or more"),
        (["mlp", "train", "--learning-rate", "inf"], "learning_rate must be 0 or more and at most 10, got inf"),
        (["vae", "export", "--size", "-1"], "size must be 0 or more and at most 16384"),
        (["pix2pix", "--epochs", "0"], "epochs must be 1 or more"),
    ],
)
def test_the_command_line_refuses_before_anything_is_read(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe, *rest = arguments
    monkeypatch.setattr(sys, "argv", [str(ROOT / "recipes" / f"{recipe}.py"), *rest])
    with pytest.warns(RuntimeWarning, match="found in sys.modules"), pytest.raises(SystemExit) as end:
        runpy.run_module(f"recipes.{recipe}", run_name="__main__", alter_sys=True)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith(f"error: {message}") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [("--size=100000", "size must be"), ("--classes=-1", "classes must be"), ("--megabytes=nan", "megabytes must be")],
)
def test_shards_refuse_too(option, message, tmp_path, capsys):
    from recipes.__main__ import main

    assert main(["shards", str(tmp_path / "none"), str(tmp_path / "new"), option]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
