"""The command line of every recipe: `python -m recipes.NAME [COMMAND] ...`."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from common.images.decoding import set_pixel_limit
from common.runs.bundled import is_bundle, run_or_bundle
from common.runs.export import export
from common.runs.fitting import fitting
from common.runs.flags import KNOWN, call_with_flags
from common.runs.run import Run, has_saves, read_execution
from common.runs.warm_start import FROM_HELP, resumed_start, warm_start
from common.system.cluster import all_devices, is_chief, joining_again
from common.system.console import errors_in_one_line, prepare_streams
from common.system.files import InputError, printable, read_numbers, shown_nonfinite
from common.system.locks import only_process_in
from common.system.options import check_arguments, range_checks
from common.training.execution import Execution, executing
from common.training.precision import in_a_precision


def run_command(
    demo: Callable[..., Path], *, presets: Mapping[str, Any], steps: bool = True, **commands: Callable[..., object]
) -> None:
    """Run the command named on the command line, by default `demo`. If it fails, exit the process.

    Each command is a function. Parameters with a default are flags, and parameters without a default are positional
    arguments. A parameter `config` becomes one flag per field, with defaults from `--preset` or from the run in
    `--output-dir`. A function with a `**` parameter accepts any other flag with a numeric value. Every command accepts
    `--max-pixels`. If `steps` is True, as in recipes that train with `fit`, commands with a `config` also have the
    flags of `Execution` and use all devices.

    The exit status is 2 for invalid input, which is explained in one line, and 130 for Ctrl-C.
    """
    prepare_streams()
    arguments = sys.argv[1:]
    commands = {"demo": demo, **commands, "export": export}
    named = bool(arguments) and not arguments[0].startswith("-")
    name = arguments.pop(0) if named else "demo"
    recipe = Path(sys.argv[0]).stem
    with errors_in_one_line():
        check_clock()
        if name not in commands:
            raise InputError(f"{name!r} is not a command of {recipe}; choose from {', '.join(commands)}")
        about = (inspect.getdoc(commands[name]) or "").partition("\n\nArgs:")[0]
        if name == "demo":
            told = sys.modules["__main__"].__doc__ or ""  # None with `python -OO`
            about = f"{told}Commands {', '.join(commands)}; COMMAND --help lists the flags"
        function, arguments = commands[name], _with_pixel_limit(arguments)
        if function is export:
            function = functools.partial(export, run=inspect.signature(demo).parameters["output_dir"].default)
        with joining_again():
            result = _call(function, name, recipe, arguments, presets, about, steps)
        if is_chief():
            _print_result(result)


def check_clock() -> None:
    """Raise InputError if the system clock shows a date before 1980, which zip archives (.keras files) cannot store."""
    if time.time() < 315_619_200:
        now = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time()))
        raise InputError(f"the system clock says {now}, which is before 1980; set the clock, then try again")


def _call(
    function: Callable[..., object],
    command: str,
    recipe: str,
    arguments: list[str],
    presets: Mapping[str, Any],
    about: str,
    steps: bool,
) -> object:
    """Parse `arguments` as the flags of `function`, and call it."""
    more = {"max_pixels": KNOWN["max_pixels"]}
    trains = "config" in inspect.signature(function).parameters
    function = _in_range(_in_a_run(function, steps) if trains else function)
    if trains:
        warm = steps and {"data", "output_dir"} <= inspect.signature(function).parameters.keys()
        source, arguments = _with_source(arguments, recipe) if warm else (None, arguments)
        function = fitting(function, recipe, arguments) if source is None else function
        function = _beginning(function, recipe, source) if warm else function
        function, arguments = _with_defaults(function, recipe, arguments, presets, source)
        more = ({"from": FROM_HELP} if warm else {}) | more
        more = {"preset": f"changes the defaults below: {', '.join(presets)}"} | more
    for each in inspect.signature(function).parameters.values():
        if each.kind is each.VAR_KEYWORD:
            more = {"NAME": _numbers_help(each.name)} | more
            function, arguments = _with_numbers(function, arguments)
    prog = f"python -m recipes.{recipe}" + (f" {command}" if command != "demo" else "")
    return call_with_flags(function, prog, arguments, about, more)


def _numbers_help(name: str) -> str:
    """Return the help of `--NAME X` for a `**` parameter."""
    if name != "attributes":
        return f"a number; NAME is one of the {name}"
    from common.samples.faces import FACE_ATTRIBUTES

    known = ", ".join(FACE_ATTRIBUTES)
    return f"change of an attribute, such as 2 or -1; NAME is an attribute of the run's data; built-in faces: {known}"


def _with_pixel_limit(arguments: list[str]) -> list[str]:
    """Remove `--max-pixels N` from `arguments`, and set Pillow's limit to N pixels."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--max-pixels", "--max_pixels", dest="limit")
    try:
        known, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        raise InputError("--max-pixels needs a number of pixels, such as 200000000") from None
    if known.limit is not None:
        set_pixel_limit(known.limit)
    return rest


def _in_range(function: Callable[..., object]) -> Callable[..., object]:
    """Wrap `function` to check its arguments before it reads any data."""

    @functools.wraps(function)
    def call(*values: object, **flags: object) -> object:
        with range_checks(True):
            check_arguments(function, *values, **flags)
            return function(*values, **flags)

    return call


def _with_numbers(function: Callable[..., object], arguments: list[str]) -> tuple[Callable[..., object], list[str]]:
    """Pass flags that are not named parameters of `function` to its `**` parameter, as numbers."""
    signature = inspect.signature(function)
    named = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    own = {"help", *(each.name for each in named)}
    numbers: dict[str, float] = {}
    rest: list[str] = []
    given = iter(arguments)
    for argument in given:
        flag, equals, value = argument.partition("=")
        name = flag[2:].replace("-", "_")
        if not argument.startswith("--") or name in own or name.removeprefix("no_") in own:
            rest.append(argument)
            continue
        value = value if equals else next(given, "")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise InputError(f"{flag} needs a number, got {value!r}") from None
        if not math.isfinite(numbers[name]):
            raise InputError(f"{flag} needs a finite number, got {value!r}")

    @functools.wraps(function)
    def call(*values: object, **flags: object) -> object:
        return function(*values, **flags, **numbers)

    call.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    return call, rest


def _with_source(arguments: list[str], recipe: str) -> tuple[Path | None, list[str]]:
    """Remove `--from RUN` from `arguments`; return the folder RUN, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--from", type=Path, dest="source")
    try:
        known, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        raise InputError("--from needs the folder of a run, such as runs/mine") from None
    return known.source and run_or_bundle(known.source, recipe), rest


def _beginning(function: Callable[..., object], recipe: str, source: Path | None) -> Callable[..., object]:
    """Wrap `function` to begin its run with the weights of the run in `source`, or as the run in it began."""

    @functools.wraps(function)
    def call(*values: object, **flags: Any) -> object:
        with resumed_start(flags.get("output_dir"), recipe) if source is None else warm_start(source, recipe):
            return function(*values, **flags)

    return call


def _with_defaults(
    function: Callable[..., object],
    recipe: str,
    arguments: list[str],
    presets: Mapping[str, Any],
    source: Path | None = None,
) -> tuple[Callable[..., object], list[str]]:
    """Set the defaults of `function` from --preset or, without it, from the run in --output-dir.

    For a new run that begins with the weights of the run in `source`, the defaults are those of `source`.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    parameters = inspect.signature(function).parameters
    if "output_dir" in parameters:  # commands that do not write a run lack this parameter
        parser.add_argument("--output-dir", "--output_dir", type=Path, default=parameters["output_dir"].default)
    known, rest = parser.parse_known_args(arguments)
    output_dir = getattr(known, "output_dir", None)
    defaults: dict[str, Any] = {} if output_dir is None else {"output_dir": output_dir}
    if known.preset is not None and known.preset not in presets:
        raise InputError(f"{known.preset!r} is not a preset of {recipe}; choose from {', '.join(presets)}")
    origin = None
    if source is not None and not (output_dir and has_saves(output_dir)):
        origin = source
    elif output_dir is not None and (output_dir / "config.json").exists() and known.preset is None:
        origin = output_dir
    if origin is not None:
        stored = Run.load(origin, recipe, type(parameters["config"].default))
        if "data" in parameters and not is_bundle(stored.folder):
            defaults["data"] = stored.data
        if "execution" in parameters:
            defaults["execution"] = read_execution(stored.folder)
        defaults["config"] = stored.config
    if known.preset is not None:
        defaults["config"] = presets[known.preset]
    return functools.partial(function, **defaults), rest


def _in_a_run(function: Callable[..., object], steps: bool) -> Callable[..., object]:
    """Wrap `function` to lock its run folder. With `steps`, it also uses all devices and accepts `execution`."""

    @functools.wraps(function)
    def call(*values: object, execution: Execution = Execution(), **flags: Any) -> object:
        devices = all_devices(flags["config"].batch_size) if steps else nullcontext()
        with only_process_in(flags.get("output_dir")):
            if execution.precision == "auto" and "output_dir" in flags and has_saves(flags["output_dir"]):
                precision = read_execution(flags["output_dir"]).precision  # a resumed run keeps its precision
                execution = dataclasses.replace(execution, precision=precision)
            with executing(in_a_precision(execution)), devices:
                return function(*values, **flags)

    if steps:
        signature = inspect.signature(function)
        option = inspect.Parameter(
            "execution", inspect.Parameter.KEYWORD_ONLY, default=Execution(), annotation=Execution
        )
        call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
        call.__annotations__ = {**function.__annotations__, "execution": Execution}
    return call


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return printable(value)
    return f"{value:.4f}" if math.isfinite(value) else shown_nonfinite(value)


def _print_result(result: object) -> None:
    """Print the result of a command: the returned path and, for a run, its scores and the path of its report."""
    if not isinstance(result, Path):
        return
    numbers = result.parent / "results.json"
    if result.is_file() and numbers.is_file():
        scores: dict[str, object] = {}
        with suppress(ValueError, TypeError, RecursionError):  # the file may be damaged
            scores = {**read_numbers(numbers)}
        for name, value in scores.items():
            print(f"{name:>28}  {_shown(value)}")
        print(f"{'report':>28}  {printable(result.parent / 'report.html')}")
    print(printable(result))
