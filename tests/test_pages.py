"""The pages of the recipes: their equations, results, figures, options and advice."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from common.runs.flags import Flag, call_with_flags
from common.system.files import InputError
from common.system.options import check_value
from tests.forked import forked_python
from tools.hosting import REPOSITORY
from tools.page_options import commands_of, flags
from tools.pages import ROOT, TEXTS, curves, equations, markdown_table
from tools.site_math import svg, with_equations

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
MEASURED = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")


def texts(name: str) -> dict:
    return tomllib.loads((TEXTS / f"{name}.toml").read_text(encoding="utf-8"))


def page(name: str) -> str:
    return (ROOT / "docs" / "recipes" / f"{name}.md").read_text(encoding="utf-8")


def test_every_recipe_has_texts_and_no_file_is_left_over():
    assert sorted(path.stem for path in TEXTS.glob("*.toml")) == RECIPES
    for name in RECIPES:
        found = texts(name)
        assert found.keys() <= {"measured_in", "note", "equations", "results", "figures", "problems"}
        assert len(found["equations"]) >= 2 and len(found["problems"]) >= 3
        assert all(each.keys() == {"symptom", "cause", "remedy"} for each in found["problems"])
        assert all(list(each)[:2] == ["score", "ours"] for each in found["results"]), "the order of the columns"
        assert all(
            "|" not in word for rows in (found["problems"], found["results"]) for row in rows for word in row.values()
        )


@pytest.mark.parametrize("name", RECIPES)
def test_every_equation_can_be_drawn(name):
    for each in texts(name)["equations"]:
        inline = re.findall(r"\$(.+?)\$", each["text"])
        assert each["text"].count("$") == 2 * len(inline)
        for tex in [*inline, *([each["tex"]] if "tex" in each else [])]:
            assert svg(tex).startswith("<svg ") and "NaN" not in svg(tex)


@pytest.mark.parametrize("name", RECIPES)
def test_every_result_was_measured(name):
    headings = re.findall(r"^## (.+)$", MEASURED, re.M)
    assert texts(name)["measured_in"] in {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
    for row in texts(name)["results"]:
        numbers = re.findall(r"-?\d+\.\d+(?: %)?|\d+ %", row["ours"] + " " + row.get("other", ""))
        assert re.search(r"\d", row["ours"])
        for number in numbers:
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", MEASURED), number


def test_every_figure_of_real_data_is_on_a_page():
    shown = [each["file"] for name in RECIPES for each in texts(name).get("figures", ())]
    files = {path.name for path in (ROOT / "docs" / "results").iterdir()}
    assert set(shown) <= files and len(shown) == len(set(shown))
    assert files - set(shown) <= {"camvid_readings.png"}, "shown in RESULTS.md only"


@pytest.mark.parametrize("name", RECIPES)
def test_the_advice_names_options_that_exist_and_values_that_they_accept(name):
    functions, presets, steps = commands_of(name)
    options = {command: {each.name: each for each in flags(found, steps)} for command, found in functions.items()}
    for row in texts(name)["problems"]:
        for command, option, value in advised(row["cause"] + " " + row["remedy"]):
            if option == "preset":
                assert value in presets
                continue
            found = [options[each] for each in ([command] if command else ["train", *options]) if each in options]
            known = [each[option] for each in found if option in each]
            assert known or option == "max_pixels", f"{command} --{option}"
            assert not value or accepts(known[0], value)


def advised(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the command, the option and the value of every option in a text; empty where the text does not say it."""
    for code in re.findall(r"`([^`]*--[^`]*)`", text):
        command = re.match(r"[a-z]\w*", code)
        for option, value in re.findall(r"--(?:no-)?([a-z][\w-]*)(?: ([^\s-]\S*))?", code):
            yield command[0] if command else "", option.replace("-", "_"), value


def accepts(flag: Flag, value: str) -> bool:
    """Return whether a value of the command line is in the range of a flag."""

    def check(value: Any) -> None:
        check_value(flag.name, value, flag.hint)

    check.__annotations__["value"] = flag.hint
    try:
        call_with_flags(check, "", [f"--value={value}"], positional=False)
    except InputError:
        return False
    return True


def test_wrong_advice_would_be_found():
    text = "fewer `--units`, `generate --keep 50`, or `--loss relativistic --no-mirror` (see `loss`)"
    assert list(advised(text)) == [
        ("", "units", ""),
        ("generate", "keep", "50"),
        ("", "loss", "relativistic"),
        ("", "mirror", ""),
    ]
    known = {each.name: each for each in flags(commands_of("gan").functions["train"], True)}
    assert accepts(known["keep"], "50") and accepts(known["loss"], "relativistic")
    assert not accepts(known["keep"], "0") and not accepts(known["keep"], "half") and not accepts(known["loss"], "x")


@pytest.mark.parametrize("name", RECIPES)
def test_a_page_has_every_option_with_its_help(name):
    """The text of the help is compared with the flags for one recipe, below."""
    text = page(name)
    functions, _, steps = commands_of(name)
    for command, function in functions.items():
        (found,) = re.findall(rf"<summary><code>{command}</code>.*?</details>", text, re.S)
        for flag in flags(function, steps):
            shown = f"`--{flag.name.replace('_', '-')}`" in found or f"`{flag.name.upper()}`" in found
            assert shown, f"{command} {flag.name}"
    assert f"https://colab.research.google.com/github/{REPOSITORY}" in text


def test_the_options_are_those_of_the_help():
    command = [*forked_python(), "-m", "recipes.mlp", "train", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    wanted = set(re.findall(r"(?<!\S)--([a-z][\w-]*)", said)) - {"help"}
    wanted = {flag.removeprefix("no-") for flag in wanted}
    (found,) = re.findall(r"<summary><code>train</code>.*?</details>", page("mlp"), re.S)
    assert wanted <= set(re.findall(r"`--([\w-]+)`", found))


@pytest.mark.parametrize("name", RECIPES)
def test_a_page_says_how_to_read_the_curves(name):
    text = page(name)
    part = text.partition("## How to read the curves\n")[2].partition("\n## ")[0]
    assert len(part.split()) > 30 and "`" in part
    assert part.strip() == curves((ROOT / "recipes" / f"{name}.py").read_text(encoding="utf-8"))
    assert text.count("What is logged") == 1, "not in the section on training, too"


def test_tables_and_equations_as_markdown():
    rows = [{"a": "1", "b": "2"}, {"a": "3"}]
    assert markdown_table(("x", "y"), rows) == "| x | y |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |"
    found = equations([{"text": "So:", "tex": "x"}, {"text": "", "tex": "y"}, {"text": "End."}])
    assert found == "So:\n\n```math\nx\n```\n\n```math\ny\n```\n\nEnd."


def test_equations_become_drawings_and_code_stays():
    text = "With $x^2$:\n\n```math\n\\frac{a}{b}\n```\n\n```\necho $PATH $HOME\n```\n\nIt costs 5 $ or `$x$`.\n"
    found = with_equations(text)
    assert found.count("<svg ") == 2 and "```math" not in found
    assert 'aria-label="x^2"' in found and "echo $PATH $HOME" in found and "5 $ or `$x$`" in found
    with pytest.raises(ValueError, match="unknown"):
        svg(r"\unknown{x}")
