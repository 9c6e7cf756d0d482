"""What the documents say: links, commands, messages and sizes."""

from __future__ import annotations

import ast
import functools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.images.reading import read_image
from common.images.writing import save_image
from tools.gallery import IMAGES, hero, thumbnails
from tools.gallery import main as write_gallery
from tools.notebooks import row_of
from tools.pages import ROOT, main

DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "data/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern)
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


# Links


@functools.cache
def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", without_code(document.read_text(encoding="utf-8")), re.M):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()).replace(" ", "-")
        found[words] = found.get(words, -1) + 1
        if found[words]:
            found[f"{words}-{found[words]}"] = 0
    return set(found)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name):
    document = ROOT / name
    text = without_code(document.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:href|src)="([^"]+)"', text)
    for target in targets:
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists() and there.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(there), target


def test_every_guide_is_listed():
    listed = (ROOT / "docs" / "guides" / "README.md").read_text(encoding="utf-8")
    guides = [path.name for path in (ROOT / "docs" / "guides").glob("*.md") if path.name != "README.md"]
    assert len(guides) >= 8 and all(f"({name})" in listed for name in guides)


# Commands


@functools.cache
def flags_of(recipe: str) -> dict[str, tuple[set[str], set[str]]]:
    """Return the flags and the presets of each command of a recipe, read from its source."""
    tree = ast.parse((ROOT / "recipes" / f"{recipe}.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    last = [*ast.walk(tree.body[-1])]  # if __name__ == "__main__"
    call = next(node for node in last if isinstance(node, ast.Call) and ast.unparse(node.func) == "run_command")
    given = {str(each.arg): each.value for each in call.keywords}
    assigned = {ast.unparse(each.targets[0]): each.value for each in last if isinstance(each, ast.Assign)}
    named = given.pop("presets")
    presets = {ast.literal_eval(key) for key in assigned.get(ast.unparse(named), named).keys}  # type: ignore[attr-defined]
    trains = ast.unparse(given.pop("steps", ast.Constant(True))) == "True"
    commands = {"demo": functions["demo"]} | {name: functions[ast.unparse(value)] for name, value in given.items()}
    source = ast.parse((ROOT / "common" / "runs" / "export.py").read_text(encoding="utf-8"))
    commands["export"] = next(node for node in ast.walk(source) if getattr(node, "name", "") == "export")  # type: ignore[assignment]
    options = ast.parse((ROOT / "common" / "training" / "execution.py").read_text(encoding="utf-8"))
    execution = fields(options, "Execution")
    found = {}
    for name, function in commands.items():
        names = (each.arg.rstrip("_") for each in (*function.args.args, *function.args.kwonlyargs))
        flags = {*names, "help", "max_pixels"}
        if "config" in flags:
            flags |= fields(tree, "Config") | {"preset"} | (execution if trains else set())
            flags |= {"from"} if trains and {"data", "output_dir"} <= flags else set()
        found[name] = flags | ({"*"} if function.args.kwarg else set()), presets
    return found


def fields(tree: ast.Module, name: str) -> set[str]:
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return {ast.unparse(node.target) for node in found.body if isinstance(node, ast.AnnAssign)}


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the recipe and the arguments of every `python -m recipes.NAME ...` in a text."""
    for line in text.replace("<wbr>", "").splitlines():
        for found in re.finditer(r"python -m recipes\.([a-z]\w+)([^`|;)<]*)", line):
            words = re.split(r"  +#?|#|&&|, ", found[2])[0]
            yield found[1], re.findall(r'"[^"]*"|\S+', words.strip(" .,:"))


@pytest.mark.parametrize("name", [*NAMES, *(f"recipes/{recipe}.py" for recipe in RECIPES)])
def test_every_command_has_the_flags_that_it_is_shown_with(name):
    for recipe, words in commands_in((ROOT / name).read_text(encoding="utf-8")):
        assert recipe in RECIPES, recipe
        command = words[0] if words and re.fullmatch("[a-z]+", words[0]) else "demo"
        assert command in flags_of(recipe), f"{recipe} {words}"
        flags, presets = flags_of(recipe)[command]
        for number, word in enumerate(words):
            if word.startswith("--"):
                flag = word[2:].partition("=")[0].replace("-", "_")
                assert flag in flags or flag.removeprefix("no_") in flags or "*" in flags, f"{recipe} {words}"
                assert flag != "preset" or words[number + 1] in presets, f"{recipe} {words}"


def test_a_wrong_command_would_be_found():
    text = (
        "python -m recipes.vae_faces edit a.png b.png --smile 2 --run runs/x   # edits\n`python -m recipes.gan`, or\n"
    )
    assert list(commands_in(text)) == [
        ("vae_faces", ["edit", "a.png", "b.png", "--smile", "2", "--run", "runs/x"]),
        ("gan", []),
    ]
    flags, presets = flags_of("deepdream")["dream"]
    assert {"octaves", "fetch", "preset", "max_pixels"} <= flags and presets == {"demo", "vgg19", "plain"}
    assert not {"precision", "output_dir", "smile"} & flags and "*" in flags_of("vae_faces")["edit"][0]


# Messages

FOREIGN = ("No matching distribution", "No module named", "No space left", "run a recipe by its module name")


def text_of_the_code() -> str:
    """Return the source of the project, with the parts of a text joined that stand on several lines."""
    sources = [*(ROOT / "common").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    return "\n".join(re.sub(r'"\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in sources)


def test_the_messages_in_the_troubleshooting_guide_are_those_of_the_code():
    guide = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (.*?) \|", guide, re.M) + re.findall(r"^\*\*(`.*?`)", guide, re.M)
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell) if " " in message]
    known = text_of_the_code()
    assert len(messages) > 60
    for message in messages:
        parts = [part.strip(" (),;") for part in message.split("...")]
        for part in (part for part in parts if len(part) > 5 and not message.startswith(FOREIGN)):
            assert part in known, f"{part!r} in {message!r}"


# The README


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 150
    in_code = False
    for line in lines:
        in_code = in_code != line.startswith("```")
        assert len(line) <= (100 if in_code else 120) or line.startswith("<"), line


def test_the_scores_in_the_readme_are_those_of_the_table():
    shown = dict(re.findall(r"^ +(l1|ssim)  (0\.\d+)$", README, re.M))
    measured = row_of("pix2pix", (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"))["measured"]
    assert re.match(rf"L1 {float(shown['l1']):.3f} .*SSIM {float(shown['ssim']):.3f} ", measured)


def test_the_strip_of_images_is_small_and_shows_the_gallery():
    path = ROOT / "docs" / "gallery" / "hero.png"
    written, wanted = read_image(path), hero(path.parent)
    assert written.shape == wanted.shape == (256, 5 * 256 + 4 * 8, 3) and path.stat().st_size < 1_000_000
    difference = np.abs(written.astype(int) - wanted).mean()
    assert difference < 1, "the gallery has changed: run `python -m tools.gallery --small`, and look at the strip"


def test_the_thumbnails_show_the_gallery():
    folder = ROOT / "docs" / "gallery"
    wanted = thumbnails(folder)
    assert set(wanted) == set(IMAGES)
    for name, image in wanted.items():
        written = read_image(folder / "thumbnails" / f"{name}.jpg")
        assert written.shape == image.shape == (260, 390, 3)
        difference = np.abs(written.astype(int) - image).mean()
        assert difference < 3.5, f"{name}: the gallery has changed: run `python -m tools.gallery --small`, and look"


def test_an_image_that_is_too_small_for_the_strip_is_named(tmp_path, capsys):
    (tmp_path / "docs" / "gallery").mkdir(parents=True)
    save_image(np.zeros((100, 900, 3), np.uint8), tmp_path / "docs" / "gallery" / "pix2pix.jpg")
    assert write_gallery(["--small"], tmp_path) == 2
    assert "pix2pix.jpg: smaller than the part of it that is shown" in capsys.readouterr().err


def test_the_images_of_named_recipes_are_copied_from_a_folder_of_runs(tmp_path, capsys):
    gallery = tmp_path / "docs" / "gallery"
    shutil.copytree(ROOT / "docs" / "gallery", gallery)
    save_image(np.full((480, 480, 3), 200, np.uint8), tmp_path / "kept" / "gan-demo" / "samples.png")
    before = {path.name: path.read_bytes() for path in gallery.glob("*.jpg")}
    assert write_gallery(["--runs", str(tmp_path / "kept"), "gan"], tmp_path) == 0
    changed = [path.name for path in gallery.glob("*.jpg") if before[path.name] != path.read_bytes()]
    assert changed == ["gan.jpg"]
    assert read_image(gallery / "thumbnails" / "gan.jpg").mean() == pytest.approx(200, abs=1)
    with pytest.raises(SystemExit):
        write_gallery(["gann"], tmp_path)
    assert "no recipe 'gann'; choose from pix2pix" in capsys.readouterr().err


def test_every_recipe_is_in_the_table_and_in_the_grid():
    table = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name in RECIPES:
        assert row_of(name, table) and f"[{name}](recipes/{name}.md)" in table
        assert f'href="docs/recipes/{name}.md"' in README and f'href="notebooks/{name}.ipynb"' in README


def test_the_pages_are_what_the_recipes_give():
    assert main(["--check"]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_the_examples_in_python_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "guides" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    assert len(blocks) == 7 and all(len(block.splitlines()) <= 15 for block in blocks)
    assert names["generated"].shape == (16, 32, 32, 1) and names["probabilities"].shape == (5, 3)
    assert {path.name for path in Path("runs").iterdir()} == {"python", "svm"}


def commands_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the recipe, the command and the run folder of each command line in a document."""
    for recipe, rest in re.findall(r"python -m recipes\.(\w+)(.*)", text):
        folder = re.search(r"--(?:run|output-dir) (runs/\S+)", rest)
        if folder:
            yield recipe, rest.split()[0], folder[1]


@pytest.mark.parametrize("path", [*DOCUMENTS, *(ROOT / "recipes").glob("[a-z]*.py")], ids=lambda path: path.name)
def test_a_command_uses_the_run_of_its_own_recipe(path):
    """A run that is trained in the same document is one of the recipe that uses it."""
    trained: dict[str, set[str]] = {}
    commands = [*commands_of(path.read_text(encoding="utf-8"))]
    for recipe, command, folder in commands:
        if command == "train":
            trained.setdefault(folder, set()).add(recipe)
    for recipe, command, folder in commands:
        assert recipe in trained.get(folder, {recipe}), f"{recipe} {command} {folder}"
