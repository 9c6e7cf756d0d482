"""A package that is missing is named with the command that installs it, whatever needs it."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.system import packages
from common.system.console import errors_in_one_line
from common.system.files import InputError
from common.system.packages import Requirement, explained_import, install_command, meets, needs, requirements

ROOT = Path(__file__).parents[1]
ALWAYS = {each.module for each in requirements() if not each.extra}
OPTIONAL: dict[str, set[str]] = {}  # module -> extras
for _each in requirements():
    if _each.extra and _each.module not in ALWAYS:
        OPTIONAL.setdefault(_each.module, set()).add(_each.extra)
ELSEWHERE = {"IPython", "ipywidgets"}  # of notebooks, which import them before anything of this project


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def hidden(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Make a package look as if it were not installed."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(Requirement, "installed", lambda self: "" if self.module == module else "1.0")


def test_requirements_are_those_of_setup_cfg():
    found = {(each.name, each.extra): each for each in requirements()}
    assert found["keras", ""].bounds.startswith(">=3") and found["opencv-python", ""].module == "cv2"
    assert found["tensorflow", "gpu"].options == "and-cuda" and found["gradio", "app"].module == "gradio"
    assert {"app", "export", "notebook", "gpu", "test", "benchmark"} <= {extra for _, extra in found}


def test_outside_of_a_checkout_they_are_those_of_the_wheel(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    lines = ["keras<3.16,>=3.15", 'gradio>=6.31; extra == "app"', "tensorflow[and-cuda]>=2.21; extra == 'gpu'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    assert requirements() == [
        Requirement("keras", "<3.16,>=3.15"),
        Requirement("gradio", ">=6.31", "app"),
        Requirement("tensorflow", ">=2.21", "gpu", "and-cuda"),
    ]
    assert install_command("app") == "pip install 'gradio>=6.31'"
    assert install_command() == "pip install 'keras<3.16,>=3.15'"
    assert install_command("gpu", requirements()[2]) == "pip install 'tensorflow[and-cuda]>=2.21'"


def test_the_command_names_the_checkout_if_it_is_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert install_command() == f"pip install --editable '{ROOT}'"
    assert install_command("app") == f"pip install --editable '{ROOT}[app]'"


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [("3.15.1", ">=3.15,<3.16", True), ("3.9.2", ">=3.15,<3.16", False), ("3.16.0", ">=3.15,<3.16", False),
     ("2.21.0rc1", ">=2.21", False), ("1", "", True)],
)  # fmt: skip
def test_bounds(version, bounds, fits):
    assert meets(version, bounds) is fits


@pytest.mark.parametrize("module", sorted(ALWAYS | OPTIONAL.keys()))
def test_a_command_without_the_package_ends_in_one_line(module, monkeypatch, capsys):
    hidden(monkeypatch, module)
    with pytest.raises(SystemExit) as end, errors_in_one_line():
        importlib.import_module(module)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    commands = {install_command(extra) for extra in OPTIONAL.get(module, {""})}
    start, _, command = said.rstrip("\n").partition(" is not installed: ")
    assert start.startswith("error: the package ") and command in commands


def test_other_import_errors_keep_their_traceback():
    for error in (ImportError("nothing"), ModuleNotFoundError("no", name="common.nothing"),
                  ImportError("cannot import name 'x' from 'keras'", name="keras")):  # fmt: skip
        assert explained_import(error) == ""
        with pytest.raises(ImportError), errors_in_one_line():
            raise error


def test_a_package_that_is_damaged_is_named():
    error = ImportError("DLL load failed\nwhile importing", name="tensorflow.python.x")
    assert explained_import(error) == ("tensorflow cannot be imported (DLL load failed); "
                                       "`python -m recipes doctor` says more")  # fmt: skip


def test_what_needs_an_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    message = r"^it needs the package uvicorn: pip install --editable '\.\[app\]'$"
    with pytest.raises(InputError, match=message), needs("app", "it"):
        importlib.import_module("uvicorn")


def optional_imports(path: Path) -> list[tuple[str, str]]:
    """Return each import of an optional package, with the extra of the `needs` around it, or ""."""
    found: list[tuple[str, str]] = []

    def visit(node: ast.AST, extra: str) -> None:
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            extra = next((ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "needs"), extra)
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            names += [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        found.extend((name.split(".")[0], extra) for name in names if name.split(".")[0] in OPTIONAL)
        for child in ast.iter_child_nodes(node):
            visit(child, extra)

    visit(ast.parse(path.read_text()), "")
    return found


def test_every_optional_package_is_imported_where_its_extra_is_named():
    """A part that runs only after such an import, in the same process, need not repeat it."""
    found = {}
    for path in [*(ROOT / "common").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]:
        for module, extra in optional_imports(path):
            found.setdefault(module, set()).add(extra)
    assert {"gradio", "fastapi", "uvicorn", "onnx", "tf2onnx"} <= set(found)
    for module, extras in found.items():
        assert OPTIONAL[module] & extras or module in ELSEWHERE, module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("recipes.gan", r"the package numpy is not installed: pip install --editable \."),
        ("tools.notebooks", r"the package nbformat is not installed: pip install --editable '\.\[test\]'"),
    ],
)
def test_a_program_that_imports_the_package_at_its_top_ends_in_one_line(module, message):
    """Python is started without site-packages, so that nothing is installed."""
    done = subprocess.run([sys.executable, "-S", "-m", module], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"error: {message}\n", done.stderr)
