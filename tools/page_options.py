"""The options of a recipe's commands as tables, for the recipe's page."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from common.runs.export import export
from common.runs.flags import KNOWN, Flag, flags_of, help_of
from common.runs.warm_start import FROM_HELP
from common.training.execution import Execution

SUMMARY = '<details markdown="1">\n<summary><code>{command}</code>: {about}</summary>\n'


class Commands(NamedTuple):
    """What a recipe passes to `run_command`."""

    functions: dict[str, Callable[..., Any]]
    presets: dict[str, Any]
    steps: bool


def commands_of(name: str) -> Commands:
    """Return the commands of a recipe. Its last block runs with a function that only stores its arguments."""
    module = importlib.import_module(f"recipes.{name}")
    block = ast.parse(inspect.getsource(module)).body[-1]
    stored = SimpleNamespace()

    def run_command(demo: Callable, *, presets: dict[str, Any], steps: bool = True, **commands: Callable) -> None:
        of_demo = functools.partial(export, run=inspect.signature(demo).parameters["output_dir"].default)
        stored.found = Commands({"demo": demo, **commands, "export": of_demo}, presets, steps)

    names = vars(module) | {"run_command": run_command}
    exec(compile(ast.Module(block.body, []), module.__file__ or name, "exec"), names)  # type: ignore[attr-defined]
    return stored.found


def flags(function: Callable[..., Any], steps: bool) -> list[Flag]:
    """Return the flags of a command, with those of the execution if it trains."""
    found = list(flags_of(function))
    if steps and "config" in inspect.signature(function).parameters:
        found += list(flags_of(lambda execution=Execution(): None))
    return found


def options(name: str) -> str:
    """Return one collapsed table per command of a recipe."""
    functions, presets, steps = commands_of(name)
    tables = []
    if "train" in functions:  # first, because the demo has the same flags
        functions = {"train": functions["train"], **functions}
    known = {flag.name: help_of(flag) for flag in flags(functions.get("train", functions["demo"]), steps)}
    for command, function in functions.items():
        rows, more = [], []
        for flag in flags(function, steps):
            if command != "train" and known.get(flag.name) == help_of(flag):
                more.append(f"`--{flag.name.replace('_', '-')}`")
                continue
            needed = flag.default is inspect.Parameter.empty
            shown = f"`{flag.name.upper()}`" if needed else f"`--{flag.name.replace('_', '-')}`"
            rows.append(f"| {shown} | {help_of(flag).replace('|', '/')} |")
        if "config" in inspect.signature(function).parameters:
            rows.insert(0, f"| `--preset` | changes the defaults: {', '.join(presets)} |")
        if steps and {"config", "data", "output_dir"} <= inspect.signature(function).parameters.keys():
            rows.insert(1, f"| `--from` | {FROM_HELP} |")
        if any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values()):
            rows.append("| `--NAME` | a number; NAME is an attribute |")
        rows.append(f"| `--max-pixels` | {KNOWN['max_pixels']} |")
        about = (
            (inspect.getdoc(getattr(function, "func", function)) or "")
            .partition("\n\n")[0]
            .replace("\n", " ")
            .replace("`", "")
        )
        table = SUMMARY.format(command=command, about=about) + "\n| option | meaning |\n|---|---|\n" + "\n".join(rows)
        if more and command != "train":
            table += f"\n\nAs for `train`: {', '.join(more)}."
        tables.append(table + "\n\n</details>")
    return "\n".join(tables)
