"""Command-line flags for the parameters of a function: `argparse`, with types, ranges and defaults from annotations.

The help of a flag is, in this order: the comment after a dataclass field, the entry under `Args:` in the docstring of
the function, or the text in `KNOWN`. `common.runs.flag_groups` groups the fields of a recipe's `Config`.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

from common.runs.flag_groups import field_comments, field_groups
from common.system.files import InputError
from common.system.options import Range, field_hints, range_checks

GROUPS = ("arguments", "options", "data", "network", "training", "execution", "output")  # in the order of the help
GROUP_OF = {  # parameters of functions; all others are options
    **dict.fromkeys(("data", "skip_bad", "fetch", "accept_data", "invert", "max_pixels"), "data"),
    **dict.fromkeys(("output_dir", "table", "singles", "results"), "output"),
    "from": "training",
}
KNOWN = {  # help for flags that have the same meaning in all commands
    "data": "folder, archive or name of a data set, as in data/README.md; sample: synthetic images",
    "output_dir": "folder of the run; a run that is in it is resumed",
    "skip_bad": "skip files that cannot be read, and list them",
    "fetch": "allow downloads of data and pretrained weights",
    "accept_data": "resume although the files of the data or weights have changed",
    "source": "image to read",
    "destination": "file to write; its suffix sets the format",
    "photo": "image to read",
    "run": "folder of the run whose networks are used; without it, the demo's",
    "config": "",
    "batch_size": "images per training step",
    "epochs": "number of passes over the training data",
    "learning_rate": "learning rate of the optimizer",
    "seed": "seed of the random numbers",
    "size": "side of the images in pixels",
    "channels": "3: colour; 1: greyscale",
    "count": "number of images",
    "steps": "number of steps",
    "class_": "name or index of a class; without it, any class",
    "guidance": "how strongly images show their class: 1 is normal, 3 is strong; 0: as the run",
    "strength": "how much of the image changes: 1 keeps nothing of it",
    "mask": "image that is white where pixels are to be replaced",
    "frames": "number of frames",
    "zoom": "factor of the enlargement",
    "top": "number of classes to print, most probable first",
    "table": "CSV file to write",
    "keep": "keep the best N of every 100 generated images; 0: as the run",
    "invert": "invert the colours of the images first",
    "each": "number of images per class",
    "singles": "write one PNG file per image to the folder DESTINATION, not a grid",
    "direction": "a2b: from the first kind of image to the second",
    "weights": "file with weights, or the name of a set of weights",
    "network": "name of a network, or file: any Keras model",
    "loss": "training loss",
    "latent_dim": "length of the latent vector of an image",
    "residual_blocks": "number of residual blocks",
    "generator": "architecture of the generator",
    "features": "features of an image",
    "optimizer": "method that updates the weights",
    "compare": "other values of --latent-dim, to train for comparison",
    "octave_scale": "ratio of two successive image sizes",
    "frame_steps": "steps per frame",
    "visible_mark": "mark results visibly as synthetic",
    "target": "class to predict; several: one result each",
    "other": "second image to read",
    "to_seed": "seed of the last image; --seed is that of the first",
    "start": "where to start",
    "end": "where to end",
    **dict.fromkeys("abc", "positions in the grid that `generate` writes"),
    "max_pixels": "read images of up to N pixels (default: Pillow's limit, 89478485)",
}
FOR_FOLDERS = {  # the same, for commands that also accept a folder of images: those with --skip-bad
    "source": "image, or folder of images, to read",
    "destination": "image to write, or folder for the results of a folder",
}
FOR_VIDEOS = {  # the same, for commands that also accept a video: those that call one of `VIDEO_FUNCTIONS`
    "source": "image, folder of images, or video (.mp4 .mov .avi .webm .gif), to read",
    "destination": "image to write, folder for the results of a folder, or video (.mp4 .gif); a stopped video is "
    "resumed; no sound is kept: ffmpeg -i OUT.mp4 -i IN.mp4 -map 0:v -map 1:a -c:v copy BOTH.mp4 adds it again",
}
VIDEO_FUNCTIONS = {"convert_images", "convert_faces"}
METAVARS = {"run": "DIR", "output_dir": "DIR", "data": "DATA"}  # values in the help that are not those of a type
UNLIMITED = 100_000  # a larger maximum only rejects mistakes, and is not shown


class Flag(NamedTuple):
    """One flag or positional argument."""

    name: str
    hint: Any
    default: Any  # `inspect.Parameter.empty`: positional
    help: str
    group: str


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')} (--help lists the flags)")


def call_with_flags(
    function: Callable[..., Any],
    prog: str,
    arguments: Sequence[str],
    about: str = "",
    more: Mapping[str, str] = types.MappingProxyType({}),
    positional: bool = True,
) -> Any:
    """Call `function` with the values on the command line, and return its result.

    A parameter without a default is a positional argument, every other parameter is a flag. A parameter whose default
    is a dataclass has one flag for each field of the dataclass.

    Args:
        function: the function.
        prog: the command, for the help.
        arguments: the words after the command.
        about: the text above the flags.
        more: flags that the caller reads itself, with their help.
        positional: False: parameters without a default are flags, too, and have to be given.

    Raises:
        InputError: a flag is unknown or missing, or its value has the wrong type.
        SystemExit: the help was printed.
    """
    flags = list(flags_of(function))
    parser = _parser(flags, prog, about, more, positional)
    given, unknown = parser.parse_known_args(_with_ranges([_with_hyphens(each) for each in arguments]))
    if unknown:
        raise InputError(_unknown(unknown[0], flags, prog))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(given).items()}
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(parameter.default):
            names = {field.name for field in dataclasses.fields(parameter.default)} & set(values)
            with range_checks(False):  # the function checks them
                changed = {each: values.pop(each) for each in names}
                values[name] = dataclasses.replace(typing.cast(Any, parameter.default), **changed)
    return function(**values)


def flags_of(function: Callable[..., Any]) -> Iterator[Flag]:
    """Yield the flags of a function, with those of its parameters that are dataclasses."""
    plain = _plain(function)
    hints, described = typing.get_type_hints(plain, include_extras=True), _argument_texts(inspect.getdoc(plain) or "")
    parameters = inspect.signature(function).parameters
    many = "skip_bad" in parameters
    films = VIDEO_FUNCTIONS & {*getattr(getattr(plain, "__code__", None), "co_names", ())}
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if dataclasses.is_dataclass(parameter.default):
            kind = type(parameter.default)
            comments, groups, fields = field_comments(kind), field_groups(kind), field_hints(kind)
            for field in dataclasses.fields(parameter.default):
                text = comments.get(field.name) or _known(field.name)
                group = groups.get(field.name, name if name in GROUPS else "training")
                yield Flag(field.name, fields[field.name], getattr(parameter.default, field.name), text, group)
        else:
            needed = parameter.default is inspect.Parameter.empty
            group = "arguments" if needed else GROUP_OF.get(name, "options")
            special = FOR_VIDEOS if films else FOR_FOLDERS if many else {}
            known = special.get(name) or _known(name)
            yield Flag(name, hints.get(name, str), parameter.default, described.get(name) or known, group)


def _plain(function: Any) -> Callable[..., Any]:
    """Return the function that was written, without `functools.partial` and `functools.wraps`."""
    while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
        function = function.func if isinstance(function, functools.partial) else function.__wrapped__
    return function


def _parser(
    flags: Sequence[Flag], prog: str, about: str, more: Mapping[str, str], positional: bool
) -> argparse.ArgumentParser:
    """Return a parser for `flags`. Its result holds only what was given."""
    needed = [flag for flag in flags if flag.default is inspect.Parameter.empty]
    shown = [flag.name.upper() if positional else f"{_flag(flag.name)} {flag.name.upper()}" for flag in needed]
    dots = [" ..." * (_kind(flag.hint)[0] is tuple) for flag in needed]
    usage = " ".join([prog, *map("".join, zip(shown, dots, strict=True))])
    parser = _Parser(
        prog, f"{usage} [OPTIONS]", about, None, formatter_class=_Formatter, allow_abbrev=False, add_help=False
    )  # `exit_on_error` stays True, so that `error` is called
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for name, text in more.items():
        group = groups[GROUP_OF.get(name, "options")]
        metavar = {"max_pixels": "N", "NAME": "X", "from": "RUN"}.get(name, "NAME")
        group.add_argument(_flag(name), metavar=metavar, help=text.replace("%", "%%"), default=argparse.SUPPRESS)
    for flag in flags:
        kind, item = _kind(flag.hint)
        settings: dict[str, Any] = {"help": help_of(flag).replace("%", "%%"), "default": argparse.SUPPRESS}
        settings |= {"action": argparse.BooleanOptionalAction} if kind is bool else _reader(item)
        if flag in needed and positional:
            settings |= {"nargs": "+"} if kind is tuple else {}
            groups["arguments"].add_argument(flag.name, **settings | {"metavar": flag.name.upper()})
            continue
        settings |= {"nargs": "*"} if kind is tuple else {}
        settings |= {"required": True} if flag in needed else {}
        settings |= {"metavar": METAVARS[flag.name]} if flag.name in METAVARS and kind is not bool else {}
        groups[flag.group].add_argument(_flag(flag.name), dest=flag.name, **settings)
    groups["options"].add_argument("-h", "--help", action="help", help="print this text and exit")
    return parser


def help_of(flag: Flag) -> str:
    """Return the help of a flag: what it is for, its range and its default."""
    _, item = _kind(flag.hint)
    limits = [shown_range(each) for each in getattr(item, "__metadata__", ()) if isinstance(each, Range)]
    parts = "; ".join(filter(None, [flag.help, *limits]))
    if flag.default is inspect.Parameter.empty or flag.default in ("", (), None):
        return parts
    shown = {True: "on", False: "off"}[flag.default] if isinstance(flag.default, bool) else _shown(flag.default)
    return f"{parts} (default: {shown})".lstrip()


def shown_range(limits: Range) -> str:
    """Return a range as text, such as `32 to 512, multiples of 32`."""
    least, most = (f"{value:.10g}" for value in limits[:2])
    below = most == "0.999999"  # as close to 1 as the options get
    text = f"{least} to {'below 1' if below else most}" if limits.most < UNLIMITED else f"{least} or more"
    text += f", multiples of {limits.multiple_of}" * (limits.multiple_of > 1) + f" plus {limits.plus}" * bool(
        limits.plus
    )
    return text + ", powers of two" * limits.power_of_two


def _at_commas(word: str, width: int) -> list[str]:
    """Split a list of names that is longer than a line, after the last comma that fits."""
    parts = []
    while len(word) > width and "," in word[:width]:
        end = word.rindex(",", 0, width) + 1
        parts.append(word[:end])
        word = word[end:]
    return [*parts, word]


class _Formatter(argparse.HelpFormatter):
    """Keeps the line breaks of the text above the flags, and breaks no path at a hyphen and no list inside a name."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        words = [part for word in text.split() for part in _at_commas(word, width)]
        return textwrap.wrap(" ".join(words), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def _kind(hint: Any) -> tuple[Any, Any]:
    """Return the kind of an annotation and the annotation of one value, such as (tuple, int) for tuple[int, ...]."""
    plain = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if typing.get_origin(plain) is tuple:
        return tuple, typing.get_args(plain)[0]
    if typing.get_origin(plain) in (typing.Union, types.UnionType):  # with None, which means not given
        plain = hint = next(each for each in typing.get_args(plain) if each is not type(None))
    return plain, hint


def _reader(item: Any) -> dict[str, Any]:
    """Return the type and metavar of a value, for `add_argument`."""
    kind, _ = _kind(item)
    if typing.get_origin(kind) is Literal:
        choices = {str(each): each for each in typing.get_args(kind)}

        def choose(text: str) -> Any:
            if text not in choices:
                raise argparse.ArgumentTypeError(f"choose from {', '.join(choices)}, got {text!r}")
            return choices[text]

        return {"type": choose, "metavar": "{" + ",".join(choices) + "}"}
    if kind in (int, float):
        wanted = "an integer" if kind is int else "a number"

        def number(text: str) -> Any:
            try:
                return kind(text)
            except ValueError:
                raise argparse.ArgumentTypeError(f"needs {wanted}, got {text!r}") from None

        return {"type": number, "metavar": "N" if kind is int else "X"}
    return {"type": Path, "metavar": "PATH"} if kind is Path else {"type": str, "metavar": "TEXT"}


def _flag(name: str) -> str:
    """Return the flag of a parameter: `--max-pixels` for `max_pixels`, and `--class` for `class_`."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _with_hyphens(argument: str) -> str:
    """Return a flag with hyphens for underscores. Both are accepted."""
    flag, equals, value = argument.partition("=")
    return (flag.replace("_", "-") if flag.startswith("--") else flag) + equals + value


def _with_ranges(arguments: Sequence[str]) -> list[str]:
    """Join a flag and a range that begins with a minus sign, such as -1..1, which argparse would read as a flag."""
    joined: list[str] = []
    for each in arguments:
        if re.match(r"-\d+\.\.", each) and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={each}"
        else:
            joined.append(each)
    return joined


def _unknown(argument: str, flags: Sequence[Flag], prog: str) -> str:
    command = prog.removeprefix("python -m recipes.")
    if not argument.startswith("-"):
        takes_data = any(flag.name == "data" for flag in flags)
        hint = f"for training data, write --data {argument}; " if takes_data else ""
        return f"{command}: {argument!r} is one argument too many ({hint}--help lists the flags)"
    flag = argument.partition("=")[0]
    known = [_flag(each.name) for each in flags if each.default is not inspect.Parameter.empty]
    near = difflib.get_close_matches(flag, known, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists the flags"
    return f"{flag} is not a flag of {command}; {hint}"


def _known(name: str) -> str:
    if name.endswith("_weight"):
        loss = name.removesuffix("_weight").replace("_", " ")
        return f"weight of the {loss.upper() if len(loss) < 4 else loss} loss"
    return KNOWN.get(name, "")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"


def _argument_texts(docstring: str) -> dict[str, str]:
    """Return what a docstring in Google's style says about each argument."""
    found = re.search(r"^Args:\n((?: .*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", found[1], re.MULTILINE) if found else []
    return {name: re.sub(r"\s+", " ", text).rstrip(".") for name, text in entries}
