"""The project as a whole: its wheel, its README, what it ships."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.forked import forked_python

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.xdist_group("project")  # two wheels built at once, in one folder, break each other


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_a_demo_runs_from_the_wheel_outside_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.argv[1:] = ['--epochs', '1']\n"
    code += "import recipes; assert 'site' in recipes.__file__\n"
    code += "runpy.run_module('recipes.dcgan', run_name='__main__', alter_sys=True)"
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [*forked_python(), "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path / "elsewhere"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / done.stdout.strip().splitlines()[-1]).is_file()


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_data_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"common", "data", "recipes"}
    assert {"data/digit_classifier.keras", "recipes/__main__.py", "recipes/app/tabs.py"} <= names


def test_ci_takes_the_test_command_from_the_readme():
    """CI finds it by the comment above it. It is one command, and sets up the project itself."""
    found = re.search(r"^<!-- test command -->\n```\n(.*?)\n```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert found and found[1].startswith("python3 -m venv .venv &&") and "python -m pytest" in found[1]
    assert all(line.endswith(" &&") for line in found[1].splitlines()[:-1])
    (taking,) = re.findall(r"^test_command=.*$", (ROOT / ".ci" / "run").read_text(), re.M)
    shell = ["bash", "-euc", f'{taking}; printf "%s" "$test_command"']
    assert subprocess.run(shell, capture_output=True, text=True, cwd=ROOT, check=True).stdout == found[1]


def test_every_dependency_that_is_imported_is_declared():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    declared = set(re.findall(r"^([A-Za-z0-9_-]+)", settings["options"]["install_requires"], re.MULTILINE))
    names = {"PIL": "pillow", "cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn"}
    names |= {"keras": "tensorflow", "tensorflow_datasets": "tensorflow-datasets", "IPython": "ipython"}
    extras = settings["options.extras_require"]
    declared |= set(re.findall(r"^([A-Za-z0-9_-]+)", extras["app"] + extras["notebook"], re.MULTILINE))
    own = {"common", "recipes", "data"}
    imported = set()
    for path in [*(ROOT / "common").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    third_party = imported - own - set(sys.stdlib_module_names) - {"__future__"}
    assert len(third_party) > 10
    assert {names.get(name, name) for name in third_party} <= declared


def test_data_files_are_as_the_readme_of_data_says():
    import hashlib

    text = (ROOT / "data" / "README.md").read_text()
    files = [path for path in (ROOT / "data").iterdir() if path.suffix not in (".md", ".py") and path.is_file()]
    assert files
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text, path.name


def test_the_checkout_is_small():
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    limited = "data/bundled/", "notebooks/"  # by tests of their own
    names = [name for name in listed.stdout.split("\0") if not name.startswith(limited)]
    sizes = [(ROOT / name).stat().st_size for name in names if name and (ROOT / name).exists()]
    assert sum(sizes) < 20_000_000 and max(sizes) < 2_000_000
