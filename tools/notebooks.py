"""Write notebooks/NAME.ipynb from recipes/NAME.py and its row in docs/recipes.md.

    python -m tools.notebooks                writes all notebooks; keeps the outputs of cells that have not changed
    python -m tools.notebooks --run          then executes those without outputs or with older outputs
    python -m tools.notebooks --run NAME..   executes these notebooks in any case
    python -m tools.notebooks --check        lists notebooks that are out of date; exit status 1 if there are any

`--run` executes each notebook as its reader would: the whole demo, in a fresh kernel and an empty folder, without a
network. Each notebook is written as soon as it has been executed, so the command can be stopped and started again. The
stored outputs have no widgets, times, paths of this machine or large images. The runs of the demos are kept in
runs/notebooks/, where `python -m tools.gallery --runs runs/notebooks` finds their images. `--check` compares the
sources, and also says which notebooks have no outputs or outputs older than the code; this does not change its exit
status.

Each section of a recipe (`# %% Title`) becomes a section of its notebook. Comments directly under a title, and comments
that contain a `# >>> code` line, become text cells and example cells. Everything else becomes code cells, unchanged.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from common.runs.copying import recipe_names
from common.system.files import write_text
from tools.hosting import PACKAGE, badges
from tools.notebook_outputs import SETUP_TAG, Warned, execute, keep_outputs, read_notebook, state

ROOT = Path(__file__).parents[1]
HOSTED = """\
**On Colab or Kaggle**: select a GPU, and on Kaggle also switch on *Internet*. The next cell installs the project. If
a wheel of the project is next to this notebook, it installs that instead: run `python -m build --wheel` in the
project's folder, and upload the file from `dist/` (Colab: *Files*, *Upload*; Kaggle: *Add input*). **On your own
machine** the next cell finds the project and installs nothing."""
SETUP = """\
import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # fewer TensorFlow messages
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
recipe = "recipes/{name}.py"
project = next((folder for folder in Path.cwd().parents if (folder / recipe).exists()), None)
wheels = [*Path.cwd().glob("*.whl"), *Path("/kaggle/input").rglob("keras_image_cookbook-*.whl")]
if project:
    os.chdir(project)  # runs/ is then the same as for `python -m recipes.{name}`
    sys.path.insert(0, str(project))
elif not find_spec("recipes"):
    package = wheels[0] if wheels else "{package}"
    %pip install --quiet {{package}}"""
SUMMARY = """\
for name, network in build(DEMO)._asdict().items():
    print(f"{name}: {network.count_params():,} weights; {network.input_shape} -> {network.output_shape}")"""
DEMO = """\
`DEMO` is a small version of the recipe. It takes {time} of CPU time on a processor with AVX2. Run the cell again to
resume a stopped run, or to show the result of a finished run. {short}`Config()` has the hyperparameters of the paper;
use a GPU for it."""
SHORT = """\
For a quick look, use `config = replace(DEMO, epochs=2)`
(`from dataclasses import replace`). """
OWN = """\
## Your own images

```
{commands}
```

Or in this notebook: `run("path/to/your/images", Config(), Path("runs/mine"))`. Run the cell again to resume.
[data/README.md](../data/README.md) describes the folder layouts, and
[benchmarks/RESULTS.md](../benchmarks/RESULTS.md) has results on real data. `python -m recipes copy {name} mine.py`
writes this recipe to a single file that you can edit."""

PLUMBING = """\
The imports from `common` are supporting code: reading and writing images, batches, the training loop, run folders."""

# %% Reading a recipe


def sections(text: str) -> list[tuple[str, str]]:
    """Return the title and the text of each section of a recipe. The first section, the imports, has no title."""
    text = text[: text.index('if __name__ == "__main__":')]
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines()[ast.parse(text).body[0].end_lineno :]:
        if line.startswith("# %% "):
            found.append((line.removeprefix("# %% "), []))
        else:
            found[-1][1].append(line)
    return [(title, "\n".join(lines).strip()) for title, lines in found]


def blocks(section: str) -> list[tuple[str, str]]:
    """Split the text of a section into blocks of "prose", "example" or "code", in order."""
    found = [("code", "")]

    def add(kind: str, text: str) -> None:
        if kind == found[-1][0]:
            text = found.pop()[1] + text
        found.append((kind, text))

    for comment, group in itertools.groupby(section.splitlines(), lambda line: line.startswith("#")):
        lines = list(group)
        first = not any(text.strip() for _, text in found)
        shown = comment and (first or any(line.startswith("# >>> ") for line in lines))
        for line in lines:
            example = re.match(r"# (>>>|\.\.\.)( |$)", line)
            if not shown:
                add("code", line + "\n")
            elif example:
                add("example", line[example.end() :] + "\n")
            else:
                add("prose", line[2:] + "\n")
    return [(kind, text.strip()) for kind, text in found if text.strip()]


def without_prose(text: str) -> str:
    """Return a recipe's docstring, titles and code, without the prose and examples for its notebook."""
    head, _, _ = text.partition("\n# %% ")
    parts = [head]
    for title, section in sections(text)[1:]:
        code = [block for kind, block in blocks(section) if kind == "code"]
        parts += ["\n\n\n".join([f"# %% {title}", *code])] if code else []
    return "\n\n\n".join(parts) + text[text.index('\n\nif __name__ == "__main__":') :]


def fields(docstring: str) -> dict[str, str]:
    """Split a recipe's docstring into fields. The first line is the title; later fields are Paper, Images and so on."""
    title, _, rest = docstring.partition("\n")
    found, name = {"Title": title}, ""
    for line in rest.splitlines():
        if match := re.match(r"([A-Z][a-z]+) +", line):
            name = match[1]
            found[name] = line[match.end() :]
        elif name:
            found[name] += "\n" + line[9:]
    return found


def paragraphs(parts: dict[str, str]) -> list[str]:
    """Return fields of a docstring as paragraphs in Markdown, each with its name in bold."""
    found = []
    for field, words in parts.items():
        if re.match(r"1\. ", words):
            found.append(f"**{field}**\n\n" + words.replace("\n   ", " "))
        elif re.search(r"\S {2,}\S", words):  # a table
            found.append(f"**{field}**\n\n```\n{words}\n```")
        else:
            found.append(f"**{field}** " + " ".join(words.split()))
    return found


def row_of(name: str, table: str) -> dict[str, str]:
    """Return a recipe's row in the table of docs/recipes.md, keyed by column header."""
    header = next(line for line in table.splitlines() if line.startswith("| | recipe |"))
    row = next(line for line in table.splitlines() if f"| `recipes.{name}` |" in line)
    columns, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (header, row))
    return dict(zip(columns, cells, strict=True))


# %% Writing a notebook


def cells_of(name: str, text: str, table: str) -> Iterator[nbformat.NotebookNode]:
    """Yield the cells of a recipe's notebook. `table` is the text of docs/recipes.md."""
    row, parts = row_of(name, table), fields(str(ast.get_docstring(ast.parse(text))))
    commands, sentence = parts.pop("Run"), row["recipe"]
    intro = [f"# {parts.pop('Title')}", badges(name, "../docs/assets")]
    intro += [f"![result of the demo](../docs/gallery/{name}.jpg)"]
    numbers = re.sub(r"\]\((?!http|\.\./)", "](../docs/", row["measured"])  # docs/ and notebooks/ have the same parent
    intro += [f"{sentence}. Measured: {numbers}.", f"**CPU time** {row['CPU time']}, on a processor with AVX2."]
    yield new_markdown_cell("\n\n".join([*intro, *paragraphs(parts), HOSTED]))
    yield new_code_cell(SETUP.format(name=name, package=PACKAGE), metadata={"tags": [SETUP_TAG]})
    for title, section in sections(text):
        if title == "Try it":
            yield from demo_cells(row["CPU time"], SHORT if re.search("^    epochs: ", text, re.M) else "")
        prose = f"## {title}" if title else PLUMBING
        for kind, block in blocks(section):
            if kind == "prose":
                prose += f"\n\n{block}"
                continue
            if prose:
                yield new_markdown_cell(prose.strip())
            prose = ""
            yield new_code_cell(block if title else for_notebook(block))
        if prose:
            yield new_markdown_cell(prose.strip())
        if title.startswith("Networks"):
            yield new_code_cell(SUMMARY)
    yield new_markdown_cell(OWN.format(name=name, commands=commands))


def demo_cells(time: str, short: str) -> Iterator[nbformat.NotebookNode]:
    """Yield the cells that run the demo. The config is in a separate cell with papermill's `parameters` tag."""
    yield new_markdown_cell("## The demo\n\n" + DEMO.format(time=time, short=short))
    yield new_code_cell("config = DEMO", metadata={"tags": ["parameters"]})
    yield new_code_cell("show_file(demo(config))")
    yield new_markdown_cell("The report of the run shows images, scores, curves and options.")
    yield new_code_cell("show_report(DEMO_RUN)")


def for_notebook(imports: str) -> str:
    """Return a recipe's imports, with functions that show images in place of `run_command`."""
    lines = [re.sub(r", run_command\b|\brun_command, ", "", line) for line in imports.splitlines()]
    last = max(number for number, line in enumerate(lines) if line.startswith(("from common", ")")))
    return "\n".join(
        [*lines[: last + 1], "from common.runs.notebook import show, show_file, show_report", *lines[last + 1 :]]
    )


def new_book(name: str, root: Path = ROOT) -> nbformat.NotebookNode:
    """Return the notebook of a recipe, without outputs."""
    text = (root / "recipes" / f"{name}.py").read_text(encoding="utf-8")
    cells = list(cells_of(name, text, (root / "docs" / "recipes.md").read_text(encoding="utf-8")))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:02d}"
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return new_notebook(cells=cells, metadata=metadata)


def notebook(name: str, root: Path = ROOT) -> nbformat.NotebookNode:
    """Return the notebook of a recipe, with those outputs of the file whose cells have not changed."""
    book = new_book(name, root)
    keep_outputs(book, read_notebook(root / "notebooks" / f"{name}.ipynb"))
    return book


def text_of(book: nbformat.NotebookNode) -> str:
    """Return a notebook as the text of its file."""
    return nbformat.writes(book) + "\n"


def run(names: list[str], root: Path = ROOT) -> list[str]:
    """Execute notebooks and write each when it is finished. Return the names of those that failed."""
    failed = []
    for name in names:
        print(f"{name}: running the demo", flush=True)
        book = new_book(name, root)
        try:
            execute(book, root, root / "runs" / "notebooks")
        except (CellExecutionError, Warned) as error:
            print(f"{name}: not written; {error}", flush=True)
            failed.append(name)
        else:
            print(write_text(root / "notebooks" / f"{name}.ipynb", text_of(book)), flush=True)
    return failed


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write, run or check notebooks; return exit status 1 if one is out of date or fails."""
    parser = argparse.ArgumentParser(description="Write notebooks/ from recipes/.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="only list notebooks that are out of date")
    action.add_argument("--run", nargs="*", metavar="NAME", help="also execute notebooks; by default, where necessary")
    given, differing = parser.parse_args(arguments), 0
    names = recipe_names(root)
    if unknown := [name for name in given.run or () if name not in names]:
        parser.error(f"no recipe {unknown[0]!r}; choose from {', '.join(names)}")
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        if path.stem not in names:
            print(f"{path}: no recipe has this name; delete the file")
            differing += 1
    states = {}
    for name in names:
        path, book = root / "notebooks" / f"{name}.ipynb", notebook(name, root)
        states[name], text = state(book), text_of(book)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differing += 1
        if given.check:
            print(f"{path}: differs from recipes/{name}.py and docs/recipes.md; run `python -m tools.notebooks`")
        else:
            print(write_text(path, text))
    if given.run is not None:
        return int(bool(run(given.run or [name for name in names if states[name] != "current"], root)))
    for kind, said in (("missing", "no outputs"), ("older", "outputs older than the code")):
        if found := [name for name in names if states[name] == kind]:
            print(f"{said}: {', '.join(found)}; run `python -m tools.notebooks --run {' '.join(found)}`")
    return int(given.check and differing > 0)


if __name__ == "__main__":
    sys.exit(main())
