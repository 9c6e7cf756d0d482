"""`python -m recipes` lists the recipes; `copy` writes one as a file, `app` shows a page, `shards` packs pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Annotated

from common.console import errors_in_one_line, prepare_streams
from common.errors import InputError, printable
from common.standalone import COOKBOOK, copy_recipe, recipe_names, recipe_summary


def main(arguments: list[str] | None = None) -> int:
    """Run the command line on `arguments`, by default those of the process, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes",
        description="List the recipes, copy one, or play. `python -m recipes.NAME --help` shows what one can do.",
    )
    verbs = parser.add_subparsers(metavar="copy|app|shards", dest="verb")
    copy = verbs.add_parser("copy", help="write a recipe as one file that needs nothing else of this project")
    copy.add_argument("name", help="a recipe's name, as listed")
    copy.add_argument("destination", type=Path, help="a file ending in .py, or a folder")
    copy.add_argument("--force", action="store_true", help="overwrite what is there")
    app = verbs.add_parser("app", help="show a page on this machine to play with what recipes have learnt")
    app.add_argument("--run", type=Path, action="append", default=[], help="in place of a demo's; again for more")
    app.add_argument("--port", type=int, default=7860, help="0 takes any that is free")
    app.add_argument("--open", action="store_true", help="open the page in a browser")
    shards = verbs.add_parser("shards", help="write a folder of many pictures as a few large files, to train on")
    shards.add_argument("folder", type=Path, help="pictures in a layout that --data understands; shards for --check")
    shards.add_argument("destination", type=Path, nargs="?", help="a new folder, for --data")
    shards.add_argument("--check", action="store_true", help="read shards through: counts and checksums")
    layouts = "pairs, classes, faces, domains or pictures; else by what lies there (never domains)"
    shards.add_argument("--layout", default="", help=layouts)
    shards.add_argument("--size", type=int, default=0, help="pixels a side, as PNG; 0 keeps the files as they are")
    shards.add_argument("--classes", type=int, default=0, help="of pairs: inputs are maps of so many class numbers")
    shards.add_argument("--megabytes", type=float, default=128, help="after which another shard begins")
    shards.add_argument("--max-pixels", help="of an image that is read; 89478485, Pillow's limit, where not given")
    shards.add_argument("--skip-bad", action="store_true", help="go on without files that cannot be read, naming them")
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in recipe_names():
        parser.error(f"a recipe is run by its module's name: python -m recipes.{' '.join(arguments)}")
    options = parser.parse_args(arguments)
    prepare_streams()
    try:
        with errors_in_one_line():
            if options.verb == "copy":
                for path in copy_recipe(options.name, options.destination, options.force):
                    print(printable(path))
            elif options.verb == "app":
                from recipes.app.serve import serve

                serve(options.run, options.port, options.open)
            elif options.verb == "shards":
                pack(options)
            else:
                list_recipes()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def pack(options: argparse.Namespace) -> None:
    """Write or check shards, and print what they hold."""
    from common.decoding import set_pixel_limit
    from common.ranges import Range, check_value
    from common.shard_writing import write_shards
    from common.shards import check_shards, open_shards

    if options.check == (options.destination is not None):
        raise InputError("shards: give a folder and a destination, or a folder of shards and --check")
    if options.max_pixels is not None:
        set_pixel_limit(options.max_pixels)
    ranges = {"size": (int, 0, 16_384), "classes": (int, 0, 40), "megabytes": (float, 0.001, 100_000)}
    for name, (kind, least, most) in ranges.items():
        check_value(name, getattr(options, name), Annotated[kind, Range(least, most)])
    if not options.check:
        chosen = (options.layout, options.size, options.classes, options.megabytes, options.skip_bad)
        write_shards(options.folder, options.destination, *chosen)
    folder = options.folder if options.check else options.destination
    shards = check_shards(folder) if options.check else open_shards(folder)
    about = shards.about if shards else {}
    parts = ", ".join(f"{count} {name}" for name, count in about["parts"].items())
    print(f"{about['layout']}: {parts}; {len(about['shards'])} shards" + ", whole" * options.check)
    print(printable(folder))


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
