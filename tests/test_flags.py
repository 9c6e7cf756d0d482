"""Flags made of annotations: types, defaults, errors in one line, and a help in groups."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from common.runs.cli import run_command
from common.runs.flag_groups import field_comments, field_groups
from common.runs.flags import _Formatter, call_with_flags, flags_of, shown_range
from common.system.files import InputError
from common.system.options import Range
from common.training import Execution
from recipes import fgsm, pix2pix, style_transfer, vae_faces
from recipes.__main__ import main
from tests.test_contract import RECIPES
from tests.test_ranges import verbs_of


@dataclass(frozen=True)
class Config:
    size: Annotated[int, Range(8, 64, multiple_of=8)] = 16  # side: 100 % in pixels
    rate: Annotated[float, Range(0, 0.999999)] = 0.5
    kind: Literal["one", "two", 3] = "one"  # which
    # of these comments belongs to no field
    numbers: tuple[int, ...] = (
        1,  # first
        2,  # second
    )

    def __post_init__(self) -> None:
        Range.check(self)


def command(
    source: Path,
    *,
    config: Config = Config(),
    fast: bool = False,
    table: Path | None = None,
    names: tuple[str, ...] = (),
    output_dir: Path = Path("out"),
) -> dict[str, object]:
    """Do it.

    Args:
        source: what is read, in
            two lines.
        fast: be quick.
    """
    return dict(locals())


def call(*arguments: str, function=command):
    return call_with_flags(function, "python -m recipes.x do", arguments, "About it.", {"preset": "more: a, b"})


def test_values_have_the_types_of_the_annotations():
    assert call("a.png") == {"source": Path("a.png"), "config": Config(), "fast": False, "table": None, "names": (),
                             "output_dir": Path("out")}  # fmt: skip
    given = call("--names", "a", "b", "--fast", "--table=t.csv", "--output_dir", "o_u_t", "a_b.png", "--size", "24",
                 "--rate", "1e-3", "--kind", "3", "--numbers", "5", "-6")  # fmt: skip
    assert given == {"source": Path("a_b.png"), "config": Config(24, 1e-3, 3, (5, -6)), "fast": True,
                     "table": Path("t.csv"), "names": ("a", "b"), "output_dir": Path("o_u_t")}  # fmt: skip
    assert call("a.png", "--no-fast")["fast"] is False


def test_defaults_are_those_of_a_partial_function():
    changed = functools.partial(command, config=Config(size=32), output_dir=Path("there"))
    given = call("a.png", "--rate", "0.1", function=changed)
    assert given["config"] == Config(size=32, rate=0.1) and given["output_dir"] == Path("there")
    assert {flag.name: flag.default for flag in flags_of(changed)}["size"] == 32


def test_ranges_are_left_to_the_function():
    assert call("a.png", "--size", "7")["config"].size == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--size", "ten"], r"--size: needs an integer, got 'ten' \(--help lists the flags\)"),
        (["a", "--rate", "x"], "--rate: needs a number, got 'x'"),
        (["a", "--kind", "four"], "--kind: choose from one, two, 3, got 'four'"),
        (["a", "--size"], "--size: expected one argument"),
        (["a", "--siez", "3"], "--siez is not a flag of x do; did you mean --size"),
        (["a", "--whatever"], "--whatever is not a flag of x do; --help lists the flags"),
        (["a", "b"], "x do: 'b' is one argument too many"),
        (["a", "--siz", "8"], "--siz is not a flag of x do"),  # no abbreviations
        ([], "the following arguments are required: SOURCE"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


HELP = """\
usage: python -m recipes.x do SOURCE [OPTIONS]

About it.

arguments:
  SOURCE              what is read, in two lines

options:
  --preset NAME       more: a, b
  --fast, --no-fast   be quick (default: off)
  --names [TEXT ...]
  -h, --help          print this text and exit

training:
  --size N            side: 100 % in pixels; 8 to 64, multiples of 8 (default:
                      16)
  --rate X            0 to below 1 (default: 0.5)
  --kind {one,two,3}  which (default: one)
  --numbers [N ...]   first second (default: 1 2)

output:
  --table PATH        CSV file to write
  --output-dir DIR    folder of the run; a run that is in it is resumed
                      (default: out)
"""


def test_the_help_has_groups_ranges_and_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "82")
    with pytest.raises(SystemExit) as end:
        call("--help")
    assert (end.value.code, capsys.readouterr().out) == (0, HELP)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (Range(1, 5), "1 to 5"),
        (Range(0.00392, 1), "0.00392 to 1"),
        (Range(16, 512, multiple_of=12, plus=4), "16 to 512, multiples of 12 plus 4"),
        (Range(2, 2**10, power_of_two=True), "2 to 1024, powers of two"),
        (Range(0, 2**31 - 1), "0 or more"),
    ],
)
def test_a_range_in_words(limits, text):
    assert shown_range(limits) == text


def test_comments_are_read_over_several_lines():
    assert field_comments(Config) == {"size": "side: 100 % in pixels", "kind": "which", "numbers": "first second"}
    assert field_comments(Execution)["steps_per_call"].startswith("training steps per call")


def test_fields_are_grouped_by_the_section_that_reads_them():
    groups = field_groups(pix2pix.Config)
    wanted = {"size": "data", "jitter": "data", "swap": "data", "base_filters": "network", "dropout": "network",
              "l1_weight": "training", "decay": "training", "epochs": "training", "seed": "training"}  # fmt: skip
    assert wanted.items() <= groups.items()
    assert field_groups(style_transfer.Config)["scales"] == field_groups(fgsm.Config)["epsilon"] == "training"
    assert field_groups(Config) == {}  # this file has no sections


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_flag_of_a_recipe_is_in_a_group_and_explained(recipe):
    module = importlib.import_module(f"recipes.{recipe}")
    flags = list(flags_of(module.run))
    assert {flag.name: flag.group for flag in flags}.keys() == {
        *inspect.signature(module.run).parameters, *vars(module.Config())} - {"config"}  # fmt: skip
    groups = {group: [flag.name for flag in flags if flag.group == group] for group in ("data", "network", "training")}
    assert all(groups.values()) and groups["data"][0] == "data"
    for verb in [verb for name, verb in verbs_of(recipe).items() if name != "run_command"]:
        for flag in flags_of(verb):
            said = re.findall(r"[A-Za-z]+", flag.help.lower())
            assert said and said != flag.name.split("_"), f"{verb.__name__}: {flag}"


def test_the_programs_beside_the_recipes_explain_every_flag(capsys):
    for command in ([], ["copy"], ["app"], ["shards"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        said = capsys.readouterr().out
        for flag, text in re.findall(r"^  (-?\S+(?: \S+)*?)(?:  +|\n {20,})(\S.*)$", said, re.M):
            assert len(text.split()) > 1, f"{command}: {flag}"
        assert said.count("\n  -") == len(re.findall(r"^  -\S+(?: \S+)*?(?:  +|\n {20,})\S", said, re.M))


def test_a_folder_without_a_flag_is_answered_with_the_flag_for_data():
    with pytest.raises(InputError, match=r"'photos' is one argument too many \(for training data, write --data photos"):
        call_with_flags(pix2pix.run, "python -m recipes.pix2pix train", ["photos"])


@pytest.mark.parametrize(("verb", "said"), [("translate", "folder of images"), ("export", "export")])
def test_a_command_for_folders_says_so(verb, said, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["recipes/pix2pix.py", verb, "--help"])
    with pytest.raises(SystemExit):
        run_command(pix2pix.demo, presets={}, translate=pix2pix.translate_files)
    assert said in capsys.readouterr().out


def test_the_help_of_edit_names_the_attributes(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["recipes/vae_faces.py", "edit", "--help"])
    with pytest.raises(SystemExit):
        run_command(vae_faces.demo, presets={}, edit=vae_faces.edit_file)
    assert "smile, glasses, beard" in capsys.readouterr().out


def test_a_long_list_of_names_breaks_at_a_comma():
    names = ",".join(f"conv{number}" for number in range(12))
    lines = _Formatter("x", width=50)._split_lines(f"layers (default: {names})", 30)
    assert all(len(line) <= 30 for line in lines) and all(line.endswith(",") for line in lines[1:-1])
    assert "".join(lines).replace(" ", "") == f"layers(default:{names})"
    assert _Formatter("x", width=50)._split_lines("/a-b/c,d e", 30) == ["/a-b/c,d e"]
