"""The layout of `common`: which package stands on which, and how long a file and a function may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("system", "images", "samples", "metrics", "data", "training", "runs")  # each may import those before it
# The kit is the source of copies: each of its files becomes part of a program that imports Keras at the top.
FILES = sorted(path for path in (ROOT / "common").rglob("*.py") if path.parent.name != "kit")
MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 60
LONG_FILES: dict[str, str] = {}  # by path, with the reason
LONG_FUNCTIONS: dict[str, str] = {}  # by path and name, with the reason


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def at_import(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that happen when a module is imported: not those in functions or for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for part in node.orelse:
                yield from at_import(ast.Module([part], []))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(node)


def modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def test_every_package_is_a_layer():
    folders = {path.parent.name for path in FILES} - {"common"}
    assert folders == set(LAYERS)
    assert {path.name for path in FILES if path.parent.name == "common"} == {"__init__.py"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_package_stands_on_those_below_it(path):
    own = LAYERS.index(path.parent.name) if path.parent.name in LAYERS else -1
    for node in at_import(ast.parse(path.read_text())):
        for module in modules(node):
            parts = module.split(".")
            assert parts[0] not in ("recipes", "tests", "tools", "benchmarks"), module
            if parts[0] == "common":
                assert LAYERS.index(parts[1]) <= own, f"common.{path.parent.name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_common_knows_no_recipe(path):
    """Nor in functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not [module for module in modules(node) if module.split(".")[0] == "recipes"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_heavy_is_imported_with_a_module(path):
    heavy = {"PIL", "cv2", "keras", "matplotlib", "scipy", "skimage", "sklearn", "tensorflow", "tqdm"}
    late = {"common/runs/notebook.py", "common/data/shard_writing.py"}  # of commands that need Pillow at once
    found = {module.split(".")[0] for node in at_import(ast.parse(path.read_text())) for module in modules(node)}
    assert found & heavy <= ({"PIL"} if name_of(path) in late else set())


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=name_of)
def test_a_package_says_what_it_is_and_lists_what_it_hands_out(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    handed_out = [alias.asname or alias.name for node in at_import(tree) for alias in node.names]
    (listed,) = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)] or [[]]
    assert sorted(listed) == listed == sorted(handed_out)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    """Without their docstrings."""
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE or name_of(path) in LONG_FILES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            described = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            lines = node.end_lineno - node.lineno + 1 - described
            assert lines <= MOST_LINES_OF_A_FUNCTION or f"{name_of(path)}:{node.name}" in LONG_FUNCTIONS, node.name


def test_exceptions_are_needed():
    paths = {name_of(path): path for path in FILES}
    for name in LONG_FILES:
        assert len(paths[name].read_text().splitlines()) > MOST_LINES_OF_A_FILE, name
    for name in LONG_FUNCTIONS:
        path, _, function = name.partition(":")
        assert f"def {function}(" in paths[path].read_text(), name
