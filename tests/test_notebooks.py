"""The notebooks are what their recipes say; test_contract.py runs them."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from common.runs.notebook import show, show_file, show_report
from tools.notebooks import ROOT, blocks, fields, main, notebook, sections, without_prose

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
RECIPE = '''"""Halves: cut numbers in two.

Paper    Someone, "Halving",
         arXiv:0000.00000.
Differs  1. It is short,
            and says so.
         2. It is dull.
Run      python -m recipes.halves              the demo
         python -m recipes.halves train        more of it
"""

from __future__ import annotations

import keras
import numpy as np

from common.data import Batches
from common.runs import Run, run_command
from common.training import fit

# %% Networks
# Why there are none.
#
# A second paragraph.

LIMIT = 3  # of what


# An ordinary comment.
def half(x):
    """Return x / 2."""
    # >>> this is no example: it stands inside
    return x / 2


# Three is cut in two:
# >>> for x in range(2):
# ...     half(x)
#
# And four:
# >>> half(4)

# %% Try it
# >>> half(LIMIT)


if __name__ == "__main__":
    run_command(half)
'''
TABLE = """
| | recipe | paper | `python -m` | notebook | measured | CPU time |
|---|---|---|---|---|---|---|
| ![halves](h.png) | **Halves** cuts | [S](https://a.b) | `recipes.halves` | [h](h.ipynb) | 1.5, [R](../R.md) | 3 s |
"""


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "halves.py").write_text(RECIPE)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "recipes.md").write_text(TABLE)
    return tmp_path


def test_a_recipe_in_sections_and_blocks():
    (first, imports), (second, networks), (third, last) = sections(RECIPE)
    assert (first, second, third) == ("", "Networks", "Try it")
    assert imports.startswith("from __future__") and imports.endswith("import fit")
    (kinds, texts) = zip(*blocks(networks), strict=True)
    assert kinds == ("prose", "code", "prose", "example", "prose", "example")
    assert texts[0] == "Why there are none.\n\nA second paragraph."
    assert texts[1].startswith("LIMIT = 3  # of what\n") and texts[1].endswith("return x / 2")
    assert "# An ordinary comment.\ndef half" in texts[1] and "# >>> this is no example" in texts[1]
    assert texts[2:] == ("Three is cut in two:", "for x in range(2):\n    half(x)", "And four:", "half(4)")
    assert blocks(last) == [("example", "half(LIMIT)")]


def test_the_length_of_a_recipe_counts_what_is_no_prose():
    kept = without_prose(RECIPE)
    assert "Why there are none" not in kept and "Try it" not in kept and "half(4)" not in kept
    assert kept.startswith('"""Halves: cut') and kept.endswith("run_command(half)\n")
    for line in ("# %% Networks", "LIMIT = 3  # of what", "# An ordinary comment.", "    return x / 2"):
        assert f"\n{line}\n" in kept


def test_the_parts_of_a_docstring():
    found = fields(RECIPE.split('"""')[1])
    assert list(found) == ["Title", "Paper", "Differs", "Run"]
    assert found["Paper"] == 'Someone, "Halving",\narXiv:0000.00000.'
    assert found["Run"].splitlines()[1] == "python -m recipes.halves train        more of it"


def test_a_notebook_has_the_recipe_in_its_order(project):
    cells = nbformat.reads(notebook("halves", project), 4).cells
    nbformat.validate(nbformat.reads(notebook("halves", project), 4))
    intro = cells[0].source
    assert intro.startswith("# Halves: cut numbers in two.") and "**CPU time** 3 s" in intro
    assert "1. It is short, and says so.\n2. It is dull." in intro and "[R](../R.md)" in intro
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert "from common.runs import Run\nfrom common.training import fit\n" in code[1]
    assert code[1].endswith("\nfrom common.runs.notebook import show, show_file, show_report")
    assert "run_command" not in code[1]
    wanted = [
        "LIMIT = 3",
        "for x in range(2)",
        "half(4)",
        "build(DEMO)",
        "config = DEMO",
        "demo(config)",
        "half(LIMIT)",
    ]
    places = [next(number for number, text in enumerate(code) if word in text) for word in wanted]
    assert places == sorted(places) and len(set(places)) == len(places)
    assert not any("__main__" in cell.source for cell in cells)
    assert "python -m recipes.halves train" in cells[-1].source
    assert len({cell.id for cell in cells}) == len(cells)


def test_check_says_what_differs_and_writes_nothing(project, capsys):
    assert main(["--check"], project) == 1
    assert "halves.ipynb: differs from recipes/halves.py and docs/recipes.md" in capsys.readouterr().out
    assert not (project / "notebooks").exists()
    assert main([], project) == 0 and main(["--check"], project) == 0
    path = project / "notebooks" / "halves.ipynb"
    path.write_text(path.read_text().replace("numbers", "figures"))
    (project / "notebooks" / "gone.ipynb").write_text("{}")
    capsys.readouterr()
    assert main(["--check"], project) == 1
    said = capsys.readouterr().out
    assert "halves.ipynb: differs from" in said and "gone.ipynb: no recipe has this name" in said


def test_the_notebooks_are_what_the_recipes_give():
    assert main(["--check"]) == 0


@pytest.mark.parametrize("name", RECIPES)
def test_every_section_is_explained_and_something_can_be_tried(name):
    parts = sections((ROOT / "recipes" / f"{name}.py").read_text())[1:]
    assert parts[-1][0] == "Try it"
    for title, section in parts:
        kind, words = blocks(section)[0]
        assert kind == "prose" and len(words.split()) >= 15, title
    assert sum(kind == "example" for _, section in parts for kind, _ in blocks(section)) >= 2
    training = next(section for title, section in parts if title.startswith("Training"))
    assert re.search(r"logged", blocks(training)[0][1]), "what is logged, and what is healthy"


# What is shown


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_shown_enlarged_in_rows(channels):
    images = np.full((5, 10, 12, channels), 7, np.uint8)
    grid = np.asarray(show(images, columns=3))
    assert grid.shape[:2] == (2 * (10 * 8 + 2) + 2, 3 * (12 * 8 + 2) + 2)
    assert (grid == 7).sum() == 5 * 10 * 12 * 64 * channels
    assert np.asarray(show(images[0])).shape[:2] == (84, 100)


def test_a_film_and_a_report_are_shown_whole(tmp_path):
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 255)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    shown = show_file(tmp_path / "film.gif")
    assert shown.data == (tmp_path / "film.gif").read_bytes() and shown.format == "gif"
    (tmp_path / "report.html").write_text('<p title="a & b">one</p>')
    assert 'srcdoc="&lt;p title=&quot;a &amp; b&quot;&gt;one&lt;/p&gt;"' in show_report(tmp_path).data
