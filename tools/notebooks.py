"""Write notebooks/NAME.ipynb from recipes/NAME.py and its row in the README.

    python -m tools.notebooks            writes them
    python -m tools.notebooks --check    says which are not what would be written; exit status 1 if any is

A recipe's sections (`# %% Title`) become those of its notebook. Comments right under a title, and comments that hold a
line of `# >>> code`, are prose and cells; all else is code as it stands in the recipe.
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
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from common.files import write_text
from common.standalone import recipe_names

ROOT = Path(__file__).parents[1]
HOSTED = """\
**On Colab or Kaggle** choose a GPU first. Run `python -m build --wheel` in the project's folder, put the file from
`dist/` beside this notebook (Colab: *Files*, *Upload*; Kaggle: *Add input*), and the next cell installs it. **On your
own machine** the notebook finds the project that it lies in."""
SETUP = """\
import os
import sys
from importlib.util import find_spec
from pathlib import Path

recipe = "recipes/{name}.py"
project = next((folder for folder in Path.cwd().parents if (folder / recipe).exists()), None)
wheels = [*Path.cwd().glob("*.whl"), *Path("/kaggle/input").rglob("keras_image_cookbook-*.whl")]
if project:
    os.chdir(project)  # runs/ is then the same as for `python -m recipes.{name}`
    sys.path.insert(0, str(project))
elif not find_spec("recipes") and wheels:
    %pip install --quiet {{wheels[0]}}
elif not find_spec("recipes"):
    raise SystemExit("open this notebook in the project's folder, or put the project's wheel beside it")"""
SUMMARY = """\
for name, network in build(DEMO)._asdict().items():
    print(f"{name}: {network.count_params():,} weights; {network.input_shape} -> {network.output_shape}")"""
DEMO = """\
`DEMO` is the recipe made small: {time} on two CPU cores. Run the cell again and it shows what is there, or goes on
where it was stopped. For a quick look write `config = replace(DEMO, epochs=2)` (`from dataclasses import replace`);
for the settings of the paper `Config()`, on a GPU."""
OWN = """\
## Your own pictures

```
{commands}
```

Or here: `experiment("path/to/your/pictures", Config(), Path("runs/mine"))`, and the same cell goes on after a stop.
What folders may look like stands in [data/README.md](../data/README.md), results on real data and speed in
[benchmarks/RESULTS.md](../benchmarks/RESULTS.md). `python -m recipes copy {name} mine.py` makes one file of this recipe
and all that it borrows, to change as you like."""

PLUMBING = """\
What comes from `common` is plumbing: images, data, the loop that calls a step, runs on disk. `keras` and `tf` are Keras
and TensorFlow, without the lines that they write when they start."""

# %% Reading a recipe


def sections(text: str) -> list[tuple[str, str]]:
    """Return the title and the text of each section of a recipe; the first, of imports, has no title."""
    text = text[: text.index('if __name__ == "__main__":')]
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines()[ast.parse(text).body[0].end_lineno :]:
        if line.startswith("# %% "):
            found.append((line.removeprefix("# %% "), []))
        else:
            found[-1][1].append(line)
    return [(title, "\n".join(lines).strip()) for title, lines in found]


def blocks(section: str) -> list[tuple[str, str]]:
    """Split the text of a section into what is "prose", "example" or "code", in order."""
    found = [("code", "")]

    def add(kind: str, text: str) -> None:
        if kind == found[-1][0]:
            text = found.pop()[1] + text
        found.append((kind, text))

    for comment, group in itertools.groupby(section.splitlines(), lambda line: line.startswith("#")):
        lines = list(group)
        first = not any(text.strip() for _, text in found)
        told = comment and (first or any(line.startswith("# >>> ") for line in lines))
        for line in lines:
            example = re.match(r"# (>>>|\.\.\.)( |$)", line)
            if not told:
                add("code", line + "\n")
            elif example:
                add("example", line[example.end() :] + "\n")
            else:
                add("prose", line[2:] + "\n")
    return [(kind, text.strip()) for kind, text in found if text.strip()]


def without_prose(text: str) -> str:
    """Return a recipe's docstring, titles and code, without what only its notebook shows."""
    head, _, _ = text.partition("\n# %% ")
    parts = [head]
    for title, section in sections(text)[1:]:
        code = [block for kind, block in blocks(section) if kind == "code"]
        parts += ["\n\n\n".join([f"# %% {title}", *code])] if code else []
    return "\n\n\n".join(parts) + text[text.index('\n\nif __name__ == "__main__":') :]


def fields(docstring: str) -> dict[str, str]:
    """Return the parts of a recipe's docstring: its first line as Title, then Paper, Images, Run and others."""
    title, _, rest = docstring.partition("\n")
    found, name = {"Title": title}, ""
    for line in rest.splitlines():
        if match := re.match(r"([A-Z][a-z]+) +", line):
            name = match[1]
            found[name] = line[match.end() :]
        elif name:
            found[name] += "\n" + line[9:]
    return found


def row_of(name: str, readme: str) -> dict[str, str]:
    """Return a recipe's row in the README's table, by column."""
    header = next(line for line in readme.splitlines() if line.startswith("| | recipe |"))
    row = next(line for line in readme.splitlines() if f"| `recipes.{name}` |" in line)
    columns, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (header, row))
    return dict(zip(columns, cells, strict=True))


# %% Writing its notebook


def cells_of(name: str, text: str, readme: str) -> Iterator[nbformat.NotebookNode]:
    """Yield the cells of a recipe's notebook."""
    row, parts = row_of(name, readme), fields(str(ast.get_docstring(ast.parse(text))))
    commands, sentence = parts.pop("Run"), row["recipe"]
    intro = [f"# {parts.pop('Title')}", f"![what its demo makes](../docs/gallery/{name}.png)"]
    numbers = re.sub(r"\]\((?!http)", "](../", row["measured"])
    intro += [f"{sentence}. Measured: {numbers}.", f"**Time** {row['time']} on two CPU cores."]
    for field, words in parts.items():
        if re.match(r"1\. ", words):
            intro.append(f"**{field}**\n\n" + words.replace("\n   ", " "))
        elif re.search(r"\S {2,}\S", words):  # a table
            intro.append(f"**{field}**\n\n```\n{words}\n```")
        else:
            intro.append(f"**{field}** " + " ".join(words.split()))
    yield new_markdown_cell("\n\n".join([*intro, HOSTED]))
    yield new_code_cell(SETUP.format(name=name))
    for title, section in sections(text):
        if title == "Try it":
            yield from demo_cells(row["time"])
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


def demo_cells(time: str) -> Iterator[nbformat.NotebookNode]:
    """Yield those that run the demo; the settings stand in a cell of their own, with papermill's tag."""
    yield new_markdown_cell("## The demo\n\n" + DEMO.format(time=time))
    yield new_code_cell("config = DEMO", metadata={"tags": ["parameters"]})
    yield new_code_cell("show_file(demo(config))")
    yield new_markdown_cell("All of the run on one page: pictures, scores, curves, settings.")
    yield new_code_cell("show_report(DEMO_RUN)")


def for_notebook(imports: str) -> str:
    """Return a recipe's imports without the command line, and with what shows pictures."""
    shown = "from common.notebook import show, show_file, show_report\n"
    return imports.replace("from common.cli import run_command\n", shown)


def notebook(name: str, root: Path = ROOT) -> str:
    """Return the notebook of a recipe as text."""
    text = (root / "recipes" / f"{name}.py").read_text(encoding="utf-8")
    cells = list(cells_of(name, text, (root / "README.md").read_text(encoding="utf-8")))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:02d}"
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.writes(new_notebook(cells=cells, metadata=metadata)) + "\n"


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write or check all notebooks; exit status 1 where a check finds one that differs."""
    parser = argparse.ArgumentParser(description="Write notebooks/ from recipes/.")
    parser.add_argument("--check", action="store_true", help="only say which are not what would be written")
    check, differing = parser.parse_args(arguments).check, 0
    names = recipe_names(root)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        if path.stem not in names:
            print(f"{path}: there is no such recipe; delete it")
            differing += 1
    for name in names:
        path, text = root / "notebooks" / f"{name}.ipynb", notebook(name, root)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differing += 1
        if check:
            print(f"{path}: not what recipes/{name}.py and README.md give; run `python -m tools.notebooks`")
        else:
            print(write_text(path, text))
    return int(check and differing > 0)


if __name__ == "__main__":
    sys.exit(main())
