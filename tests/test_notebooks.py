"""The notebooks are what their recipes say; test_contract.py runs them."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client.session import Session
from PIL import Image

from common.runs.notebook import show, show_file, show_report
from tools import notebook_outputs
from tools.hosting import PACKAGE, REPOSITORY
from tools.notebook_outputs import condensed, execute, prepared, report, smaller, sources_hash, state, without_places
from tools.notebooks import ROOT, blocks, fields, main, notebook, sections, text_of, without_prose

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
    book = notebook("halves", project)
    cells = book.cells
    nbformat.validate(nbformat.reads(text_of(book), 4))
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


# Outputs


def with_outputs(project: Path) -> nbformat.NotebookNode:
    """Write the notebook of the project, as if its code cells had been executed; return it."""
    book = notebook("halves", project)
    for number, cell in enumerate(cell for cell in book.cells if cell.cell_type == "code"):
        cell.outputs = [nbformat.v4.new_output("stream", text=f"output {number}")]
        cell.execution_count = number + 1
    book.metadata["outputs_of"] = sources_hash(book)
    path = project / "notebooks" / "halves.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text_of(book))
    return book


def shown_by(book: nbformat.NotebookNode) -> dict[str, str]:
    return {cell.source: cell.outputs[0].text for cell in book.cells if cell.get("outputs")}


def test_outputs_stay_where_the_source_has_not_changed(project, capsys):
    written = with_outputs(project)
    assert main(["--check"], project) == 0 and capsys.readouterr().out == ""
    recipe = project / "recipes" / "halves.py"
    recipe.write_text(recipe.read_text().replace("A second paragraph", "Another paragraph").replace("x / 2", "x * 0.5"))
    assert main(["--check"], project) == 1
    said = capsys.readouterr().out
    assert "halves.ipynb: differs from" in said
    assert "outputs older than the code: halves; run `python -m tools.notebooks --run halves`" in said
    assert main([], project) == 0 and main(["--check"], project) == 0, "older outputs are said, but are no error"
    new = nbformat.read(project / "notebooks" / "halves.ipynb", 4)
    before, after = shown_by(written), shown_by(new)
    assert before.items() > after.items() and len(before) == len(after) + 1
    assert not any("x * 0.5" in source for source in after)
    assert "Another paragraph" in text_of(new) and state(new) == "older"
    recipe.write_text(RECIPE)
    assert main([], project) == 0 and state(notebook("halves", project)) == "current"


def test_text_and_the_cell_that_installs_do_not_make_outputs_older(project, monkeypatch):
    with_outputs(project)
    recipe = project / "recipes" / "halves.py"
    recipe.write_text(recipe.read_text().replace("A second paragraph", "Another paragraph"))
    monkeypatch.setattr("tools.notebooks.PACKAGE", "https://example.org/other.zip")
    assert main([], project) == 0
    book = notebook("halves", project)
    assert "example.org" in text_of(book) and state(book) == "current"


def test_a_notebook_without_outputs_is_said(project, capsys):
    assert main([], project) == 0
    capsys.readouterr()
    assert main(["--check"], project) == 0
    assert capsys.readouterr().out == "no outputs: halves; run `python -m tools.notebooks --run halves`\n"


def test_run_executes_what_is_missing_or_named(project, monkeypatch, capsys):
    def executed(book, root, runs):
        book.metadata["outputs_of"] = sources_hash(book)
        ran.append(book.cells[0].source.split(":")[0])

    ran: list[str] = []
    monkeypatch.setattr("tools.notebooks.execute", executed)
    assert main(["--run"], project) == 0 and main(["--run"], project) == 0
    assert ran == ["# Halves"] and state(notebook("halves", project)) == "current"
    assert main(["--run", "halves"], project) == 0 and len(ran) == 2
    with pytest.raises(SystemExit):
        main(["--run", "thirds"], project)
    assert "no recipe 'thirds'; choose from halves" in capsys.readouterr().err


def test_a_notebook_with_a_warning_is_not_written(project, monkeypatch, capsys):
    def warns(book, root, runs):
        raise notebook_outputs.Warned("a cell has written a warning")

    monkeypatch.setattr("tools.notebooks.execute", warns)
    assert main(["--run"], project) == 1
    assert "halves: not written; a cell has written a warning" in capsys.readouterr().out
    assert state(notebook("halves", project)) == "missing"


CELLS = """
import os
from pathlib import Path
print(f"from {Path.cwd()}/runs", *os.listdir(), os.environ["HTTPS_PROXY"])
Path("runs/noise-demo").mkdir(parents=True)
Path("runs/noise-demo/new.txt").touch()
---
import sys
for step in range(200):
    sys.stderr.write(f"\\r{step} of 200")
---
from ipywidgets import interact
from PIL import Image
def shade(value):
    return Image.new("L", (4, 4), value)
interact(shade, value=(0, 9));
---
Image.effect_noise((900, 900), 90)
"""


@pytest.mark.slow
def test_an_executed_notebook_is_fit_for_the_repository(tmp_path, monkeypatch):
    """The progress bar and the widgets of a run are gone, and nothing tells where or when it was.

    While it waits for a reply, nothing is sent on the socket that the reply comes from: else it may not be noticed.
    """
    sent = []
    send = Session.send
    monkeypatch.setattr(Session, "send", lambda *given, **named: sent.append(given[2]) or send(*given, **named))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in CELLS.strip().split("\n---\n")])
    (tmp_path / "kept" / "noise-demo").mkdir(parents=True)
    (tmp_path / "kept" / "noise-demo" / "old.txt").touch()
    execute(book, tmp_path, tmp_path / "kept")
    assert [path.name for path in tmp_path.glob("kept/noise-demo/*")] == ["new.txt"]
    files, progress, sliders, image = (cell.outputs for cell in book.cells)
    assert [output.text for output in files] == ["from runs http://127.0.0.1:9\n"]
    assert [output.text for output in progress] == ["199 of 200"]
    assert [set(output.data) for output in sliders] == [{"image/png", "text/plain"}]
    assert set(image[0].data) == {"image/jpeg", "text/plain"}
    types = {message if isinstance(message, str) else message["msg_type"] for message in sent}
    assert "execute_request" in types and not any(each.startswith("comm") for each in types)
    assert dict(book.metadata) == {"outputs_of": sources_hash(book)} and state(book) == "current"
    assert all(not cell.metadata for cell in book.cells)


def test_progress_and_logs_are_condensed():
    lines = "a\n10%\r20%\r\n12 steps per call\nI0000 00:00:17.3 1 x.cc:1] hello\n"
    lines += "epoch 1/2  loss 1  9.5 steps/s, 00:03 left\n"
    assert condensed(lines) == "a\n20%\nepoch 1/2  loss 1\n"
    short = condensed("".join(f"epoch {number}/50\n" for number in range(1, 51))).splitlines()
    assert short[:2] == ["epoch 1/50", "epoch 2/50"] and short[-1] == "epoch 50/50"
    assert len(short) <= notebook_outputs.STREAM_LINES + 1 and "lines)" in short[6]


def test_paths_of_this_machine_are_left_out():
    places = {"/tmp/a/work": "", "/tmp/a": "", "/home/me": "~"}
    assert without_places("/tmp/a/work/runs/x and /home/me/y, in /tmp/a/work", places) == "runs/x and ~/y, in ."


def test_the_report_in_a_notebook_has_no_times():
    facts = ["runs/x", "2026-11-30 20:33", "88 epochs", "2 min 3 s", "12.3 steps/s"]
    page = "".join(f"&lt;li&gt;{fact}&lt;/li&gt;\n" for fact in facts) + "url(#p0123456789) id=&quot;p0123456789&quot;"
    kept = report(page)
    assert kept.count("&lt;li&gt;") == 2 and "runs/x" in kept and "88 epochs" in kept
    assert kept.endswith("url(#p0) id=&quot;p0&quot;")


@pytest.mark.parametrize("frames", [1, 30])
def test_large_images_become_small(frames, tmp_path):
    path = tmp_path / ("film.gif" if frames > 1 else "image.png")
    noise = [Image.effect_noise((300, 200), 90 + number).convert("RGB") for number in range(frames)]
    noise[0].save(path, **({"save_all": True, "append_images": noise[1:], "duration": 40} if frames > 1 else {}))
    data = path.read_bytes()
    assert smaller("image/x", data, len(data)) == ("image/x", data)
    kind, small = smaller("image/png", data, 12_000)
    assert len(small) <= 12_000 and kind == ("image/gif" if frames > 1 else "image/jpeg")
    with Image.open(io.BytesIO(small)) as image:
        assert getattr(image, "n_frames", 1) == (frames + 1) // 2 or frames == 1
        assert abs(image.width / image.height - 1.5) < 0.1


def test_a_widget_alone_leaves_nothing():
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "interactive(...)"}
    assert prepared(nbformat.v4.new_output("display_data", data), {}) is None


BOOKS = {name: nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4) for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_the_outputs_of_a_notebook_are_small_and_tell_nothing_of_the_machine(name):
    book = BOOKS[name]
    if state(book) == "missing":
        pytest.skip(f"has no outputs yet: python -m tools.notebooks --run {name}")
    assert len(text_of(book)) <= 700_000
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    images = [data for output in outputs for kind, data in output.get("data", {}).items() if kind.startswith("image/")]
    assert images and all(len(image) * 3 / 4 <= 200_000 for image in images)
    for cell in book.cells:
        assert cell.metadata.keys() <= {"tags"}
    for output in outputs:
        said = output.get("text", "") + json.dumps(output.get("data", {}))
        for word in (str(ROOT), str(Path.home()) + "/", "/tmp/", "WARNING", "Warning:", "Traceback", "widget-view"):
            assert word not in said, word


def test_all_notebooks_together_are_small():
    assert sum(path.stat().st_size for path in (ROOT / "notebooks").glob("*.ipynb")) <= 12_000_000


@pytest.mark.parametrize("name", RECIPES)
def test_a_notebook_has_badges_and_installs_from_one_address(name):
    first, setup = BOOKS[name].cells[0].source, BOOKS[name].cells[1].source
    assert f"(https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name}.ipynb)" in first
    assert f"(https://kaggle.com/kernels/welcome?src=https://github.com/{REPOSITORY}/blob" in first
    assert setup.count("http") == 1 and f'"{PACKAGE}"' in setup


def test_only_one_file_has_the_address_of_the_repository():
    files = [
        path for folder in ("common", "recipes", "tools", "tests", "data") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    files += [ROOT / name for name in ("setup.cfg", "mkdocs.yml", "pyproject.toml", "README.md", "CONTRIBUTING.md")]
    found = [path.name for path in files if REPOSITORY in path.read_text(encoding="utf-8")]
    assert found == ["hosting.py"]


@pytest.mark.parametrize("place", ["in the checkout", "installed", "nowhere"])
def test_the_first_cell_installs_only_what_is_missing(place, tmp_path, monkeypatch):
    """`%pip` is replaced with a call that tells what would be installed."""
    source = re.sub(r"%pip install --quiet {package}", "installed.append(package)", BOOKS["gan"].cells[1].source)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    if place == "in the checkout":
        (tmp_path / "recipes").mkdir()
        (tmp_path / "recipes" / "gan.py").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if place == "nowhere" else "found")
    installed: list[str] = []
    exec(source, {"installed": installed})
    assert installed == ([PACKAGE] if place == "nowhere" else [])
    assert Path.cwd() == (tmp_path if place == "in the checkout" else folder)


# Texts


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
