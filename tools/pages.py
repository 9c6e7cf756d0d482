"""Write the grid of demo images in README.md from the table in docs/recipes.md.

    python -m tools.pages            writes the grid
    python -m tools.pages --check    lists files that are out of date; exit status 1 if there are any

The table is written by hand, and also read by `tools.notebooks`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from common.system.files import write_text
from tools.notebooks import row_of

ROOT = Path(__file__).parents[1]
COLUMNS, WIDTH = 3, 300  # of the grid; the width of an image in pixels, on a wide screen
GRID_BEGINS, GRID_ENDS = "<!-- gallery, written by `python -m tools.pages` -->\n", "<!-- end of the gallery -->\n"

# The recipes in the order of the grid: images of similar height are in the same row.
ORDER = ["pix2pix", "style_transfer", "deepdream", "cyclegan", "fgsm", "fast_style_transfer"]
ORDER += ["face_swap", "autoencoder", "conv_autoencoder", "vae_faces", "dcgan_faces", "targeted_attack"]
ORDER += ["vae", "adversarial_autoencoder", "dcgan", "lenet", "ssgan", "mlp", "mobilenet", "dog_svm", "gan"]


def grid(table: str) -> str:
    """Return the grid of demo images as HTML, from the text of docs/recipes.md."""
    cells = [cell(name, row_of(name, table)) for name in ORDER]
    rows = [cells[first : first + COLUMNS] for first in range(0, len(cells), COLUMNS)]
    return "<table>\n" + "".join(f"<tr>{''.join(row).rstrip()}</tr>\n" for row in rows) + "</table>\n"


def cell(name: str, row: dict[str, str]) -> str:
    """Return a cell of the grid: an image, the recipe's name and summary, its command, and a link to its notebook."""
    image = re.match(r"!\[(.*?)\]\((.*?)\)", row[""])
    sentence = re.match(r"\*\*(.*?)\*\* (.*)", row["recipe"])
    if image is None or sentence is None:
        raise ValueError(f"docs/recipes.md, {name}: expected an image, then **name** and a sentence")
    summary = re.sub(r"`(.*?)`", r"<code>\1</code>", sentence[2])
    return (
        f'<td width="33%" valign="top"><a href="docs/recipes.md">'
        f'<img src="docs/{image[2]}" width="{WIDTH}" alt="{image[1]}"></a><br><b>{sentence[1]}</b> {summary}<br>\n'
        f'<code>python -m {breakable(name)}</code><br><a href="notebooks/{name}.ipynb">notebook</a></td>\n'
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


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Return the text of every file that this command writes, by its path."""
    table = (root / "docs" / "recipes.md").read_text(encoding="utf-8")
    readme = root / "README.md"
    return {readme: with_grid(readme.read_text(encoding="utf-8"), table)}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write or check all pages; return exit status 1 if a check finds one that is out of date."""
    parser = argparse.ArgumentParser(description="Write the pages of the recipes.")
    parser.add_argument("--check", action="store_true", help="only list pages that are out of date")
    check, differing = parser.parse_args(arguments).check, 0
    for path, text in pages(root).items():
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
