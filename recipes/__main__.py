"""`python -m recipes`: list the recipes, copy one, serve a web page, pack images into shards, or check this machine.

Only the standard library is imported at the top: `doctor` must run if other packages are missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Annotated

from common.system.console import errors_in_one_line, prepare_streams
from common.system.doctor import report
from common.system.files import InputError, printable
from recipes._catalogue import recipe_names, table


def main(arguments: list[str] | None = None) -> int:
    """Run a command with `arguments` (default: `sys.argv[1:]`) and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes",
        description="List the recipes, or run a command. `python -m recipes.NAME --help` describes one recipe.",
    )
    commands = parser.add_subparsers(metavar="copy|app|shards|doctor", dest="command")
    copy = commands.add_parser("copy", help="write a recipe as a standalone file that runs without this project")
    copy.add_argument("name", help="name of the recipe, as listed by `python -m recipes`")
    copy.add_argument("destination", type=Path, help="file name ending in .py, or a folder")
    bare = "write only networks, losses and training step, with a short loop over a tf.data.Dataset"
    copy.add_argument("--bare", action="store_true", help=bare)
    copy.add_argument("--force", action="store_true", help="overwrite existing files")
    app = commands.add_parser("app", help="serve a local web page to try trained models")
    app.add_argument("--run", type=Path, action="append", default=[], help="run to use instead of a demo; repeatable")
    app.add_argument("--port", type=int, default=7860, help="port of the page; 0 selects a free port")
    app.add_argument("--open", action="store_true", help="open the page in a browser")
    shards = commands.add_parser("shards", help="pack a folder of many images into a few large files for training")
    shards.add_argument("folder", type=Path, help="folder of images, as for --data; with --check, a folder of shards")
    shards.add_argument("destination", type=Path, nargs="?", help="new folder for the shards; pass it to --data")
    shards.add_argument("--check", action="store_true", help="read all shards, and verify counts and checksums")
    layouts = "pairs, classes, faces, domains or images; default: detected, except for domains"
    shards.add_argument("--layout", default="", help=layouts)
    shards.add_argument("--size", type=int, default=0, help="resize to this side in pixels, as PNG; 0 keeps the files")
    shards.add_argument("--classes", type=int, default=0, help="number of classes, for pairs with label maps")
    shards.add_argument("--megabytes", type=float, default=128, help="shard size in MB at which a new shard starts")
    shards.add_argument("--max-pixels", help="largest image to read, in pixels; default: Pillow's limit, 89478485")
    shards.add_argument("--skip-bad", action="store_true", help="skip files that cannot be read, and list them")
    commands.add_parser("doctor", help="check Python, TensorFlow, packages, memory, disk and caches of this machine")
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in recipe_names(Path(__file__).parent):
        parser.error(f"run a recipe by its module name: python -m recipes.{' '.join(arguments)}")
    options = parser.parse_args(arguments)
    prepare_streams()
    try:
        with errors_in_one_line():
            if options.command == "copy":
                from common.runs.copying import copy_recipe

                for path in copy_recipe(options.name, options.destination, options.force, options.bare):
                    print(printable(path))
            elif options.command == "app":
                from recipes.app.serve import serve

                serve(options.run, options.port, options.open)
            elif options.command == "shards":
                pack(options)
            elif options.command == "doctor":
                return report()
            else:
                print(table())
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def pack(options: argparse.Namespace) -> None:
    """Write or check shards, and print a summary of their contents."""
    from common.data.shard_writing import write_shards
    from common.data.shards import check_shards, open_shards
    from common.images.decoding import set_pixel_limit
    from common.system.options import Range, check_value

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
    print(f"{about['layout']}: {parts}; {len(about['shards'])} shards" + ", complete" * options.check)
    print(printable(folder))


if __name__ == "__main__":
    sys.exit(main())
