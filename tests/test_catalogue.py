"""The table of recipes that `python -m recipes` prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from recipes._catalogue import TASKS, WIDTH, recipe_names, table

ROOT = Path(__file__).parents[1]


def test_every_recipe_is_in_the_table_once():
    listed = [name for rows in TASKS.values() for name in rows]
    assert sorted(listed) == recipe_names(ROOT / "recipes")
    lines = table().splitlines()
    assert max(map(len, lines)) <= WIDTH
    for name in listed:
        (line,) = [line for line in lines if line.startswith(f"recipes.{name} ")]
        assert " ... " not in line and re.search(r" \d+$", line)


def test_the_times_of_the_demos_are_those_of_the_documents():
    text = (ROOT / "docs" / "recipes.md").read_text()
    rows = re.findall(r"\| `recipes\.(\w+)` \|.*\| (\d+) s \|$", text, re.MULTILINE)
    listed = {name: seconds for each in TASKS.values() for name, (_, seconds) in each.items()}
    assert {name: int(seconds) for name, seconds in rows} == listed


def test_a_recipe_that_is_not_in_the_table_is_listed_with_its_docstring(tmp_path):
    long = "Zeta: " + "a long text " * 10
    for name, docstring in (("count", "Count: add what others have counted."), ("zeta", long), ("_own", "No recipe")):
        (tmp_path / f"{name}.py").write_text(f'"""{docstring}"""\nraise ValueError("a list imports nothing")\n')
    lines = table(tmp_path).splitlines()
    assert lines[:4] == ["python -m" + " " * 66 + "CPU s", "", "Other",
                         "recipes.count  add what others have counted."]  # fmt: skip
    assert lines[4].startswith("recipes.zeta   a long text") and lines[4].endswith(" ...") and len(lines[4]) <= 80


def test_the_table_needs_only_the_standard_library():
    """Without site-packages: neither NumPy nor TensorFlow is there."""
    command = [sys.executable, "-S", "-m", "recipes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", table() + "\n")
