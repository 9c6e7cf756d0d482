"""The command line of a copy."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common.runs.kit.files import InputError


class Range(NamedTuple):
    """The minimum and the maximum of an option."""

    least: float
    most: float
    multiple_of: int = 1  # only with: multiple_of=
    plus: int = 0  # only with: plus=
    power_of_two: bool = False  # only with: power_of_two=


def run_command(demo: Callable, *, presets: dict[str, Any], **verbs: Callable) -> None:
    """Call `demo`, or the function named by the first argument. Its parameters and the fields of `config` are flags."""
    function = verbs[sys.argv.pop(1)] if set(sys.argv[1:2]) & set(verbs) else demo
    parser = argparse.ArgumentParser(None, argparse.SUPPRESS, __doc__, formatter_class=argparse.RawTextHelpFormatter)
    defaults = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    hints, config = typing.get_type_hints(function, include_extras=True), defaults.pop("config", None)
    if config is not None:
        parser.add_argument("--preset", choices=presets, help="other defaults")
        defaults |= vars(config)
        hints |= typing.get_type_hints(type(config), include_extras=True)
    for name, default in defaults.items():
        kind = getattr(hints[name], "__origin__", hints[name])
        # only with: **attributes
        if name == "attributes":
            continue
        if default is inspect.Parameter.empty:
            parser.add_argument(name, type=kind)
            continue
        settings = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        # only with: Literal[
        if kind is typing.Literal:
            settings = {"type": type(hints[name].__args__[0]), "choices": hints[name].__args__}
        # only with: tuple[Annotated or target: tuple[
        if kind is tuple:
            settings = {"type": getattr(hints[name].__args__[0], "__origin__", hints[name].__args__[0]), "nargs": "*"}
        # only with: table: Path | None
        if name == "table":
            settings = {"type": Path}
        settings |= {"default": argparse.SUPPRESS, "help": f"default: {default}"}
        parser.add_argument(f"--{name.strip('_').replace('_', '-')}", dest=name, **settings)  # `class_`: --class
    given = vars(parser.parse_args())  # only without: **attributes
    options, others = parser.parse_known_args()  # only with: **attributes
    # only with: **attributes
    given = vars(options)
    # only with: **attributes
    given |= {flag[2:]: float(value) for flag, value in zip(others[::2], others[1::2], strict=True)}
    # only with: Range(
    for name, value in given.items():
        for limit in getattr(hints.get(name), "__metadata__", ()):
            fits = limit.least <= value <= limit.most
            # only with: plus=
            fits = fits and (limit.multiple_of == 1 or value % limit.multiple_of == limit.plus)
            # only without: plus=
            fits = fits and (limit.multiple_of == 1 or value % limit.multiple_of == 0)  # only with: multiple_of=
            fits = fits and (not limit.power_of_two or value.bit_count() == 1)  # only with: power_of_two=
            if not fits:
                parser.error(f"--{name.replace('_', '-')} must be in {limit}, got {value}")
    try:
        if config is not None:
            config = presets.get(given.pop("preset"), config)
            given["config"] = dataclasses.replace(config, **{n: given.pop(n) for n in vars(config) if n in given})
        print(function(**given))
    except KeyboardInterrupt as stop:
        parser.exit(130, f"{stop or 'stopped'}\n")
    except (InputError, OSError) as error:
        parser.error(str(error))
