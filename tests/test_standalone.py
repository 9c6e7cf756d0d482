from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from common.standalone import COOKBOOK, copy_recipe, recipe_names, recipe_summary, standalone, standalone_data
from recipes.__main__ import list_recipes, main

RECIPE = '''"""Count: add what others have counted.

Run      python -m recipes.count
"""

from __future__ import annotations

import json
from typing import NamedTuple

from common.base import DEFAULT, Base, traced
from common.cli import run_command
from common.files import data_file
from common.lazy import keras, tf
from common.tools import Unused, total

# %% Configuration


class Result(Base):  # a comment that stays
    value: int = DEFAULT


class Pair(NamedTuple):
    first: tf.Tensor
    second: keras.Model


# %% Use


@traced
def count(values: list[int], start: int = DEFAULT) -> int:
    return total([start] + values)


def demo() -> str:
    text = data_file("words.txt").read_text().strip()
    return json.dumps({"total": count([1, 2]), "kind": Result().kind(), "text": text})


if __name__ == "__main__":
    run_command(demo)
'''

COMMON = {
    "base": '''"""Docstring of a module."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import TYPE_CHECKING

from common.tools import KIND, labelled

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT = 40  # a number
"""What DEFAULT is."""


def traced(function: Callable) -> Callable:
    """Return function, wrapped."""

    @functools.wraps(function)
    def wrapped(*args):
        return function(*args) + _ONE

    return _marked(wrapped)


def _marked(function):
    function.marked = True
    return function


# Why _ONE is one,
# in two lines.
_ONE = int("1")


class Base:
    """A base class."""

    def kind(self) -> str:
        return LABEL


LABEL = labelled(KIND)


class NotWanted(OrderedDict):
    """Not used by the recipe."""
''',
    "cli": '''from __future__ import annotations

import argparse

from common.tools import Unused


def run_command(function):
    """Not part of a copy."""
    argparse.ArgumentParser().parse_args()
    print(function(), Unused)
''',
    "files": '''from __future__ import annotations

from pathlib import Path


def data_file(name: str) -> Path:
    """Return the path of a small file."""
    here = Path(__file__).resolve().parent
    return next(path for path in (here / name, here.parent / "data" / name) if path.exists())
''',
    "tools": '''from __future__ import annotations

import math
import os as system

import numpy as np

Unused = np.int64

KIND = "base"


# %% A heading that is not part of the piece below


def total(values: "list[Number]") -> int:
    """Return the sum of values."""
    tripled = math.fsum(values)
    return _halved(2 * tripled)


def labelled(kind: str) -> str:
    return f"a {kind}"


def _halved(value: float) -> int:
    return int(value / 2) + len(system.sep) - 1


def tripled(values):
    """Not used by the recipe; only a variable of `total` has this name."""
    return [3 * value for value in values]


Number = int
''',
}


def make_project(root: Path, recipe: str = RECIPE, **modules: str) -> Path:
    """Write a small project whose common folder needs no package, and return its root."""
    for folder in ("common", "recipes", "data"):
        (root / folder).mkdir(parents=True)
    (root / "recipes" / "count.py").write_text(recipe)
    (root / "recipes" / "__init__.py").write_text("")
    for name, text in (COMMON | modules).items():
        (root / "common" / f"{name}.py").write_text(text)
    (root / "data" / "words.txt").write_text("three small words\n")
    (root / "setup.cfg").write_text("[metadata]\nversion = 1.2.3\n")
    return root


def run_alone(path: Path, *arguments: str) -> str:
    """Run a file without this project on the path, in the folder where it lies."""
    command = [sys.executable, "-I", *arguments, path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


# Without the names that would import TensorFlow, which takes seconds.
PLAIN = RECIPE.replace("from common.lazy import keras, tf\n", "").replace("tf.Tensor", "int")
PLAIN = PLAIN.replace("keras.Model", "int")


def test_copy_runs_alone(tmp_path):
    project = make_project(tmp_path / "project", PLAIN)
    paths = copy_recipe("count", tmp_path / "mine" / "deep" / "my_count.py", root=project)
    shutil.rmtree(project)
    assert [path.name for path in paths] == ["my_count.py", "words.txt"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["my_count.py", "words.txt"]
    # 40 + 1 + 2, and 1 by the decorator
    assert run_alone(paths[0]) == '{"total": 44, "kind": "a base", "text": "three small words"}\n'


def test_copy_is_the_recipe_and_what_it_uses(tmp_path):
    text = standalone("count", make_project(tmp_path))
    tree = ast.parse(text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    assert modules[:5] == ["__future__", "functools", "json", "math", "os"]
    assert modules[5:] == ["collections.abc", "pathlib", "typing", "keras", "tensorflow"]
    body = RECIPE[RECIPE.index("# %% Configuration") : RECIPE.index('if __name__ == "__main__"')]
    assert body in text
    assert text.endswith('\n\n\nif __name__ == "__main__":\n    print(demo())\n')
    assert "from recipes/count.py, version 1.2.3; `python count.py` runs the demo" in str(ast.get_docstring(tree))
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert names[:4] == ["traced", "_marked", "Base", "labelled"]
    assert names[4:] == ["Result", "Pair", "count", "demo", "data_file", "total", "_halved"]
    assert 'DEFAULT = 40  # a number\n"""What DEFAULT is."""\n' in text
    assert "\n# Why _ONE is one,\n# in two lines.\n_ONE = int" in text
    assert "A heading" not in text


def ruff(*arguments: object) -> str:
    """Run ruff without the project's settings and return what it says."""
    settings = ["--isolated", "--line-length", "110"]
    command = [sys.executable, "-m", "ruff", *map(str, arguments), *settings]
    return subprocess.run(command, capture_output=True, text=True).stdout


def test_copy_is_formatted_and_its_imports_are_sorted(tmp_path):
    pytest.importorskip("ruff")
    long = [f"a_long_name_{number}" for number in range(1, 8)]
    tools = f"""from __future__ import annotations

import urllib.request
import urllib.error
from zlib import adler32, crc32 as crc, Z_BEST_SPEED
from PIL import {", ".join(long)}, ImageOps, B2, _private, CONSTANT, ZERO
import numpy as np, os
import Xlib.X as x
from numpy.linalg import norm
from collections import abc
from collections.abc import Iterable

Unused = KIND = labelled = 0


def total(values: Iterable):
    print({", ".join(long[:4])})
    print({", ".join(long[4:])})
    print(ImageOps, B2, _private, CONSTANT, ZERO, urllib.request, urllib.error, os)
    return [adler32, crc, Z_BEST_SPEED, np, x, norm, abc]
"""
    copy = tmp_path / "copy.py"
    copy.write_text(standalone("count", make_project(tmp_path, tools=tools)))
    assert "All checks passed!" in ruff("check", "--select", "E,F,I", copy)
    assert "already formatted" in ruff("format", "--diff", copy) + ruff("format", "--check", copy)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def demo()", "def total(values):\n    return 0\n\n\ndef demo()", "total is both"),
        ("def demo()", "def _halved(value):\n    return 0\n\n\ndef demo()", "_halved means something else"),
        ("def demo()", "def len(value):\n    return 0\n\n\ndef demo()", "len means something else"),
        ("def demo()", "math = 1\n\n\ndef demo()", "math means something else"),
        ("total\n", "total as all_of\n", "from common.module import name"),
        ("import json", "import json\n\nimport common.tools", "from common.module import name"),
        ("import json", "import json\n\nfrom recipes import other", "import no recipe"),
        ("import json", "import json\n\nfrom . import other", "absolute import"),
        ("total", "missing", "common.tools does not define missing"),
        ('data_file("words.txt")', 'data_file("words" + ".txt")', "data_file needs a literal"),
        ("    return total", "    from common.tools import KIND\n\n    return total", "top of the file"),
        ("# %% Configuration", "ONE = 1\nfrom zlib import crc32\n", "top of the file"),
    ],
)
def test_broken_rules_are_refused(tmp_path, old, new, message):
    assert old in RECIPE
    project = make_project(tmp_path, RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        standalone("count", project)


def test_data_files_are_named(tmp_path):
    project = make_project(tmp_path, RECIPE.replace('data_file("words.txt")', "data_file(WORDS)") + "")
    recipe = project / "recipes" / "count.py"
    recipe.write_text(recipe.read_text().replace("# %% Use\n", '# %% Use\n\nWORDS = "words.txt"\n'))
    assert standalone_data("count", project) == ["words.txt"]


def test_missing_data_file_is_refused(tmp_path):
    project = make_project(tmp_path / "project")
    (project / "data" / "words.txt").unlink()
    with pytest.raises(InputError, match=r"words\.txt is missing"):
        copy_recipe("count", tmp_path / "count.py", root=project)
    assert not (tmp_path / "count.py").exists()


def test_folder_gets_a_file_of_the_recipes_name(tmp_path):
    project = make_project(tmp_path / "project")
    (tmp_path / "mine").mkdir()
    assert copy_recipe("count", tmp_path / "mine", root=project)[0] == tmp_path / "mine" / "count.py"


def test_nothing_is_overwritten_without_force(tmp_path):
    project = make_project(tmp_path / "project")
    target = tmp_path / "count.py"
    copy_recipe("count", target, root=project)
    for path in (target, tmp_path / "words.txt"):
        before = path.read_text()
        path.write_text("changed by its owner")
        if path != target:
            target.unlink()
        with pytest.raises(InputError, match=f"{path.name} exists.*--force"):
            copy_recipe("count", target, root=project)
        assert path.read_text() == "changed by its owner"
        copy_recipe("count", target, force=True, root=project)
        assert path.read_text() == before


def test_data_that_is_there_already_does_not_stop_a_copy(tmp_path):
    project = make_project(tmp_path / "project")
    copy_recipe("count", tmp_path / "one.py", root=project)
    copy_recipe("count", tmp_path / "two.py", root=project)
    assert (tmp_path / "two.py").exists()


@pytest.mark.parametrize(
    ("name", "destination", "message"),
    [
        ("cuont", "x.py", "'cuont' is no recipe: did you mean count"),
        ("../count", "x.py", "is no recipe"),
        ("count", "new_folder", "neither a folder nor a name that ends in .py"),
        ("count", "project/recipes/count.py", "belongs to the project"),
    ],
)
def test_unusable_names_are_refused(tmp_path, name, destination, message):
    project = make_project(tmp_path / "project")
    with pytest.raises(InputError, match=message) as error:
        copy_recipe(name, tmp_path / destination, force=True, root=project)
    assert "\n" not in str(error.value)
    assert (project / "recipes" / "count.py").read_text() == RECIPE


def test_list_shows_pictures_that_exist(tmp_path, capsys, monkeypatch):
    project = make_project(tmp_path)
    (project / "recipes" / "zeta.py").write_text('"""Last."""\nraise ValueError("a list imports nothing")\n')
    picture = project / "docs" / "gallery" / "zeta.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    list_recipes(project)
    lines = ["count  Count: add what others have counted.", "zeta   Last."]
    assert capsys.readouterr().out.splitlines() == [lines[0], f"{lines[1]}  {picture}"]
    monkeypatch.chdir(project)
    list_recipes(project)
    assert capsys.readouterr().out.splitlines() == [lines[0], f"{lines[1]}  docs/gallery/zeta.png"]


def test_command_line_says_what_is_wrong_in_one_line(tmp_path, capsys, monkeypatch):
    assert main(["copy", "none-like-this", str(tmp_path / "x.py")]) == 2
    assert capsys.readouterr().err.startswith("error: 'none-like-this' is no recipe")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "x.py")

    monkeypatch.setattr("recipes.__main__.copy_recipe", refuse)
    assert main(["copy", "any", "x.py"]) == 2
    assert capsys.readouterr().err == "error: x.py: Permission denied\n"
    with pytest.raises(SystemExit) as stop:
        main([recipe_names()[0], "--epochs", "3"])
    assert stop.value.code == 2
    assert f"python -m recipes.{recipe_names()[0]} --epochs 3" in capsys.readouterr().err


def test_installed_package_lists_and_copies(tmp_path):
    """As from a wheel: the three packages side by side in a folder on the path, run from elsewhere."""
    site = make_project(tmp_path / "site", PLAIN)
    for name in ("__init__", "cluster", "console", "errors", "lazy", "standalone"):
        shutil.copy(COOKBOOK / "common" / f"{name}.py", site / "common")
    shutil.copy(COOKBOOK / "common" / "files.py", site / "common" / "files.py")
    shutil.copy(COOKBOOK / "recipes" / "__main__.py", site / "recipes")
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}

    def cookbook(*arguments: str) -> str:
        command = [sys.executable, "-m", "recipes", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout

    assert cookbook() == "count  Count: add what others have counted.\n"
    assert cookbook("copy", "count", ".").split() == ["count.py", "words.txt"]
    assert '"total": 44' in run_alone(tmp_path / "elsewhere" / "count.py")


def test_listing_imports_neither_a_recipe_nor_numpy():
    code = "import recipes.__main__ as m, sys; m.main([]); print(sorted(sys.modules))"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=COOKBOOK, capture_output=True, text=True, check=True).stdout
    for name in ("numpy", "tensorflow", "keras", "matplotlib", "recipes.pix2pix"):
        assert f"'{name}'" not in output


@pytest.mark.slow
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_can_be_copied(recipe, tmp_path):
    assert recipe_summary(recipe)
    path, *data = copy_recipe(recipe, tmp_path)
    tree = ast.parse(path.read_text())
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not {"common", "recipes"} & {module.partition(".")[0] for module in modules}
    assert [file.name for file in data] == standalone_data(recipe)
    pytest.importorskip("ruff")
    assert "All checks passed!" in ruff("check", "--select", "F,I,E9", path)
