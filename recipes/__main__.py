"""`python -m recipes` lists the recipes; `copy` writes one as a single file, `app` shows a page to play with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.errors import InputError
from common.standalone import COOKBOOK, copy_recipe, recipe_names, recipe_summary


def main(arguments: list[str] | None = None) -> int:
    """Run the command line on `arguments`, by default those of the process, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes",
        description="List the recipes, copy one, or play. `python -m recipes.NAME --help` shows what one can do.",
    )
    verbs = parser.add_subparsers(metavar="copy|app", dest="verb")
    copy = verbs.add_parser("copy", help="write a recipe as one file that needs nothing else of this project")
    copy.add_argument("name", help="a recipe's name, as listed")
    copy.add_argument("destination", type=Path, help="a file ending in .py, or a folder")
    copy.add_argument("--force", action="store_true", help="overwrite what is there")
    app = verbs.add_parser("app", help="show a page on this machine to play with what recipes have learnt")
    app.add_argument("--run", type=Path, action="append", default=[], help="in place of a demo's; again for more")
    app.add_argument("--port", type=int, default=7860, help="0 takes any that is free")
    app.add_argument("--open", action="store_true", help="open the page in a browser")
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in recipe_names():
        parser.error(f"a recipe is run by its module's name: python -m recipes.{' '.join(arguments)}")
    options = parser.parse_args(arguments)
    try:
        if options.verb == "copy":
            for path in copy_recipe(options.name, options.destination, options.force):
                print(path)
        elif options.verb == "app":
            from recipes.app.serve import serve

            serve(options.run, options.port, options.open)
        else:
            list_recipes()
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def list_recipes(root: Path = COOKBOOK) -> None:
    """Print each recipe's name, what it does, and the path of its picture where there is one."""
    names = recipe_names(root)
    width = max(map(len, names), default=0)
    for name in names:
        picture = root / "docs" / "gallery" / f"{name}.png"
        place = picture.relative_to(Path.cwd()) if picture.is_relative_to(Path.cwd()) else picture
        print(f"{name:{width}}  {recipe_summary(name, root)}" + (f"  {place}" if picture.exists() else ""))


if __name__ == "__main__":
    sys.exit(main())
