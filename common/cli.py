"""The one command line: `python -m recipes.NAME [VERB] ...`."""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from common.cluster import all_devices, is_chief, joining_again
from common.console import errors_in_one_line, prepare_streams
from common.decoding import set_pixel_limit
from common.errors import InputError, printable
from common.export import export
from common.locks import only_process_in
from common.ranges import check_arguments
from common.runs import read_data, read_run


def run_command(demo: Callable[..., Path], *, presets: Mapping[str, Any], **verbs: Callable[..., object]) -> None:
    """Run the verb that the command line names, `demo` where it names none, and end the process if that fails.

    A verb's parameters are its flags, those without a default its positional arguments, and the fields of a
    dataclass `config` are flags of their own, with the run in `--output-dir` or one of `presets` as defaults. A verb
    with a `**` parameter takes any other flag, with a number. Every verb takes `--max-pixels`.
    What a user gave wrong ends with exit status 2 and one line; Ctrl-C with 130.
    """
    prepare_streams()
    arguments = sys.argv[1:]
    verbs = {"demo": demo, **verbs, "export": export}
    named = bool(arguments) and not arguments[0].startswith("-")
    name = arguments.pop(0) if named else "demo"
    recipe = Path(sys.argv[0]).stem
    with errors_in_one_line():
        check_clock()
        if name not in verbs:
            raise InputError(f"{name!r} is no verb of {recipe}; choose from {', '.join(verbs)}")
        about = inspect.getdoc(verbs[name]) or ""
        if name == "demo":
            about = f"{sys.modules['__main__'].__doc__}Verbs    {', '.join(verbs)}; VERB --help shows the flags of each"
        verb, arguments = verbs[name], _with_pixel_limit(arguments)
        if verb is export:
            verb = functools.partial(export, run=inspect.signature(demo).parameters["output_dir"].default)
        with joining_again():
            result = _call(verb, name, recipe, arguments, presets, about)
        if is_chief():
            _tell(result)


def check_clock() -> None:
    """Raise InputError before 1980: networks are saved as zip archives, which cannot hold an earlier date."""
    if time.time() < 315_619_200:
        now = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time()))
        raise InputError(f"the clock of this machine says {now}: set it, then try again")


def _call(
    function: Callable[..., object],
    verb: str,
    recipe: str,
    arguments: list[str],
    presets: Mapping[str, Any],
    about: str,
) -> object:
    """Parse `arguments` as the flags of `function`, and call it."""
    import tyro

    note = "--max-pixels N reads images of up to N pixels, instead of 89478485, Pillow's limit."
    function = _in_range(function)
    if {"-h", "--help"} & set(arguments):
        print(about, end="\n\n")  # as it is: tyro would join its lines
    if "config" in inspect.signature(function).parameters:
        function, arguments = _with_defaults(function, recipe, arguments, presets)
        note = f"--preset {'|'.join(presets)} changes the defaults below. {note}"
        function = _in_a_run(function)
    if any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values()):
        function, arguments = _with_numbers(function, arguments)
    return tyro.cli(
        function,
        prog=f"python -m recipes.{recipe}" + (f" {verb}" if verb != "demo" else ""),
        description=note,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs),
    )


def _with_pixel_limit(arguments: list[str]) -> list[str]:
    """Take out `--max-pixels N`, and let images of up to N pixels be read; Pillow holds the limit."""
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
    """Let a verb refuse options that are out of the ranges in its annotations, before it reads anything."""

    @functools.wraps(function)
    def call(*values: object, **flags: object) -> object:
        check_arguments(function, *values, **flags)
        return function(*values, **flags)

    return call


def _with_numbers(function: Callable[..., object], arguments: list[str]) -> tuple[Callable[..., object], list[str]]:
    """Take out the flags that are no parameters of `function`, each with a number, for its `**` parameter."""
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


def _with_defaults(
    function: Callable[..., object], recipe: str, arguments: list[str], presets: Mapping[str, Any]
) -> tuple[Callable[..., object], list[str]]:
    """Give `function` the settings of the run in --output-dir as defaults, else those of --preset."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    parameters = inspect.signature(function).parameters
    if "output_dir" in parameters:  # a verb that leaves no run has none
        parser.add_argument("--output-dir", "--output_dir", type=Path, default=parameters["output_dir"].default)
    known, rest = parser.parse_known_args(arguments)
    output_dir = getattr(known, "output_dir", None)
    defaults: dict[str, Any] = {} if output_dir is None else {"output_dir": output_dir}
    if known.preset is not None and known.preset not in presets:
        raise InputError(f"{known.preset!r} is no preset of {recipe}; choose from {', '.join(presets)}")
    if known.preset is not None:
        defaults["config"] = presets[known.preset]
    elif output_dir is not None and (output_dir / "config.json").exists():
        defaults["config"] = read_run(output_dir, recipe, type(parameters["config"].default))
        if "data" in parameters:
            defaults["data"] = read_data(output_dir)
    return functools.partial(function, **defaults), rest


def _in_a_run(function: Callable[..., object]) -> Callable[..., object]:
    """Let a verb that trains be alone in its run folder, and use all devices if its `config` says how."""

    @functools.wraps(function)
    def call(*values: object, **flags: Any) -> object:
        execution = hasattr(flags["config"], "execution")
        devices = all_devices(flags["config"].batch_size) if execution else nullcontext()
        with only_process_in(flags.get("output_dir")), devices:
            return function(*values, **flags)

    return call


def _tell(result: object) -> None:
    """Print what a verb has made: the path it returns and, for a run, its numbers and its report."""
    if not isinstance(result, Path):
        return
    numbers = result.parent / "results.json"
    if result.is_file() and numbers.is_file():
        scores: dict[str, object] = {}
        with suppress(ValueError, TypeError, RecursionError):  # what another run left there may be damaged
            scores = {**json.loads(numbers.read_text(encoding="utf-8"))}
        for name, value in scores.items():
            print(f"{name:>28}  {value:.4f}" if isinstance(value, float) else f"{name:>28}  {value}")
        print(f"{'report':>28}  {printable(result.parent / 'report.html')}")
    print(printable(result))
