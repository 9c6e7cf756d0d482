"""Write docs/recipes/NAME.md from recipes/NAME.py, and the grid of demo images in README.md.

    python -m tools.pages            writes all pages and the grid
    python -m tools.pages --check    lists files that are out of date; exit status 1 if there are any

Both also use the table in docs/recipes.md, which is written by hand. Equations, results, figures of real data and the
table of problems are from tools/page_texts/NAME.toml; the options are those of `--help`.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from common.runs.bundled import about_bundle, bundled_run
from common.runs.copying import recipe_names
from common.system.files import write_text
from tools.hosting import badges
from tools.notebooks import blocks, fields, paragraphs, row_of, sections
from tools.page_options import options

ROOT = Path(__file__).parents[1]
TEXTS = Path(__file__).parent / "page_texts"
COLUMNS, WIDTH = 2, 330  # of the grid; the width of an image in pixels, on a wide screen
GRID_BEGINS, GRID_ENDS = "<!-- gallery, written by `python -m tools.pages` -->\n", "<!-- end of the gallery -->\n"

# The recipes in the order of the grid.
ORDER = ["pix2pix", "style_transfer", "deepdream", "cyclegan", "fgsm", "fast_style_transfer"]
ORDER += ["face_swap", "autoencoder", "conv_autoencoder", "vae_faces", "dcgan_faces", "targeted_attack"]
ORDER += ["diffusion", "vae", "adversarial_autoencoder", "dcgan", "lenet", "ssgan", "mlp", "mobilenet"]
ORDER += ["dog_svm", "gan"]


def grid(table: str) -> str:
    """Return the grid of demo images as HTML, from the text of docs/recipes.md."""
    cells = [cell(name, row_of(name, table)) for name in ORDER]
    rows = [cells[first : first + COLUMNS] for first in range(0, len(cells), COLUMNS)]
    return "<table>\n" + "".join(f"<tr>{''.join(row).rstrip()}</tr>\n" for row in rows) + "</table>\n"


def cell(name: str, row: dict[str, str]) -> str:
    """Return a cell of the grid: an image, the recipe's name, summary, command, notebook and CPU time."""
    image = re.match(r"!\[(.*?)\]\((.*?)\)", row[""])
    sentence = re.match(r"\*\*(.*?)\*\* (.*)", row["recipe"])
    if image is None or sentence is None:
        raise ValueError(f"docs/recipes.md, {name}: expected an image, then **name** and a sentence")
    summary = re.sub(r"`(.*?)`", r"<code>\1</code>", sentence[2])
    return (
        f'<td width="50%" valign="top"><a href="docs/recipes/{name}.md">'
        f'<img src="docs/gallery/thumbnails/{name}.jpg" width="{WIDTH}" alt="{image[1]}"></a><br>'
        f"<b>{sentence[1]}</b> {summary}<br>"
        f'<code>python -m {breakable(name)}</code> · <a href="notebooks/{name}.ipynb">notebook</a>'
        f" · {row['CPU time'].replace(' ', '&nbsp;')}</td>\n"
    )


def breakable(name: str) -> str:
    """Return the module name of a recipe, with places for line breaks.

    On a narrow screen, the longest unbroken part of a column sets its width. These parts are 11 to 14 characters long.
    """
    parts = name.split("_")
    return "recipes." + "<wbr>" * (len(parts[0]) > 5) + "_<wbr>".join(parts)


def with_grid(readme: str, table: str) -> str:
    """Return the text of README.md with the grid between its two comments."""
    before, _, rest = readme.partition(GRID_BEGINS)
    _, _, after = rest.partition(GRID_ENDS)
    return f"{before}{GRID_BEGINS}{grid(table)}{GRID_ENDS}{after}"


# %% The pages of the recipes

PAGE = """\
<!-- Written by `python -m tools.pages` from recipes/{name}.py. Do not edit. -->
# {title}

{badges}

![{alt}](../{image})

{sentence}.

| paper | measured | CPU time |
|---|---|---|
| {paper} | {measured} | {time} |
{bundled}
[Source](../../recipes/{name}.py) · [Notebook](../../notebooks/{name}.ipynb) · [All recipes](../recipes.md) ·
[Your own images](../guides/own-data.md)

## Commands

```
{commands}
```

All options of each command, as in `--help`:

{options}

## Results

{results}

## How to read the curves

{curves}

## What goes wrong

{problems}

See also [Troubleshooting](../guides/troubleshooting.md), which lists error messages.

## Equations

{equations}

## About

{about}

{sections}
"""
CURVES = "What is logged"  # how the prose of each recipe begins that says how to read the curves


def page(name: str, text: str, table: str) -> str:
    """Return the page of a recipe, from its source and the text of docs/recipes.md."""
    row, parts = row_of(name, table), fields(str(ast.get_docstring(ast.parse(text))))
    image = re.match(r"!\[(.*?)\]\((.*?)\)", row[""])
    if image is None:
        raise ValueError(f"docs/recipes.md, {name}: expected an image in the first column")
    title, commands = parts.pop("Title").rstrip("."), parts.pop("Run")
    with (TEXTS / f"{name}.toml").open("rb") as file:
        texts = tomllib.load(file)
    return PAGE.format(
        name=name,
        title=title,
        badges=badges(name, "../assets"),
        alt=image[1],
        image=image[2],
        sentence=row["recipe"],
        paper=row["paper"],
        measured=re.sub(r"\]\((?!http)", "](../", row["measured"]),
        time=row["CPU time"],
        bundled=bundled_image(name),
        commands=commented(commands),
        options=options(name),
        results=results(texts),
        curves=curves(text),
        problems=markdown_table(("what you see", "likely cause", "what to do"), texts["problems"]),
        equations=equations(texts["equations"]),
        about="\n\n".join(paragraphs(parts)),
        sections="\n\n".join(section(*each) for each in sections(text) if each[0]),
    )


def markdown_table(header: tuple[str, ...], rows: list[dict[str, str]]) -> str:
    """Return rows as a table in Markdown. Cells are in the order of the keys."""
    lines = [header, ("---",) * len(header), *(tuple(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line + ("",) * (len(header) - len(line))) + " |" for line in lines)


def results(texts: dict[str, Any]) -> str:
    """Return the table of results next to those of the paper and of baselines, and figures of real data."""
    found = [markdown_table(("score", "this recipe", "for comparison"), texts["results"])]
    place = f"../../benchmarks/RESULTS.md#{texts['measured_in']}"
    note = f"{texts['note']}\n" if "note" in texts else ""
    found.append(f"{note}Commands, machine and details: [Results]({place}).")
    found += [f"![{each['alt']}](../results/{each['file']})" for each in texts.get("figures", ())]
    return "\n\n".join(found)


def curves(text: str) -> str:
    """Return what a recipe says about the columns of its history, from the prose of its training section."""
    for _, section_text in sections(text):
        for kind, block in blocks(section_text):
            if kind == "prose" and CURVES in block:
                return block[block.index(CURVES) :]
    raise ValueError(f"no section has a text that begins with {CURVES!r}")


def equations(found: list[dict[str, str]]) -> str:
    """Return sentences and equations. GitHub and the site (tools/site_math.py) show `math` blocks as equations."""
    parts = []
    for each in found:
        parts += [each["text"]] if each["text"] else []
        parts += [f"```math\n{each['tex']}\n```"] if "tex" in each else []
    return "\n\n".join(parts)


def bundled_image(name: str) -> str:
    """Return the image of a recipe's bundled networks with a sentence, or an empty text if the recipe has none."""
    if (folder := bundled_run(name)) is None:
        return ""
    about, link = about_bundle(folder), "[bundled](../../data/README.md#bundled-networks)"
    if about["command"].endswith("train --preset demo"):
        return f"\nThe network of the demo is {link}, for the commands and the web page.\n"
    return (
        f"\nA network that was trained for longer ({60 * about['cpu_hours']:.0f} CPU minutes) is\n"
        f"{link}, for the commands and the web page:\n\n"
        f"![the same with the bundled network](../gallery/{name}-bundled.jpg)\n"
    )


def section(title: str, text: str) -> str:
    """Return a section of a recipe in Markdown."""
    found = [f"## {title}"]
    for kind, block in blocks(text):
        if kind == "prose":
            found += filter(None, [block.partition(CURVES)[0].strip()])  # the rest is the section on the curves
        else:
            found.append(f"```python\n{block}\n```")
    return "\n\n".join(found)


def commented(commands: str) -> str:
    """Put a # before the remark after each command, so that the line can be pasted into a shell."""
    lines = []
    for line in commands.splitlines():
        found = re.match(r"(python -m .*?\S)( {2,})(\S.*)", line)
        lines.append(f"{found[1]}{found[2]}# {found[3]}" if found else line)
    return "\n".join(lines)


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Return the text of every file that this command writes, by its path."""
    table = (root / "docs" / "recipes.md").read_text(encoding="utf-8")
    readme = root / "README.md"
    found = {readme: with_grid(readme.read_text(encoding="utf-8"), table)}
    for name in recipe_names(root):
        source = (root / "recipes" / f"{name}.py").read_text(encoding="utf-8")
        found[root / "docs" / "recipes" / f"{name}.md"] = page(name, source, table)
    return found


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write or check all pages; return exit status 1 if a check finds one that is out of date."""
    parser = argparse.ArgumentParser(description="Write the pages of the recipes.")
    parser.add_argument("--check", action="store_true", help="only list pages that are out of date")
    check, differing = parser.parse_args(arguments).check, 0
    wanted = pages(root)
    for path in sorted({*(root / "docs" / "recipes").glob("*.md")} - wanted.keys()):
        print(f"{path}: no recipe has this name; delete the file")
        differing += 1
    for path, text in wanted.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differing += 1
        if check:
            print(f"{path}: out of date; run `python -m tools.pages`")
        else:
            print(write_text(path, text))
    return int(check and differing > 0)


if __name__ == "__main__":
    sys.exit(main())
