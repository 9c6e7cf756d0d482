"""Value ranges of options, declared in the annotations of dataclass fields and function parameters."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from common.system.files import InputError
from common.system.lazy import set_keras_defaults


class Range(NamedTuple):
    """The inclusive range of a number, as in `zoom: Annotated[int, Range(1, 64)] = 4`."""

    least: float
    most: float
    multiple_of: int = 1
    plus: int = 0  # with `multiple_of`: the remainder
    power_of_two: bool = False

    @staticmethod
    def check(settings: Any, **ranges: Range) -> None:
        """Raise InputError if a field of a dataclass does not match its annotation.

        Call it from `__post_init__`, so that every instance is checked when it is created. If the range of a field
        depends on another field, pass the range as a keyword argument with the field's name.
        """
        if _CHECKS.get():
            set_keras_defaults()  # every recipe creates a config before it builds a network
            check_fields(settings)
            for name, limits in ranges.items():
                check_value(name, getattr(settings, name), Annotated[type(getattr(settings, name)), limits])


_CHECKS: ContextVar[bool] = ContextVar("checks", default=True)


@contextmanager
def range_checks(active: bool) -> Iterator[None]:
    """Turn `Range.check` on or off in the block. For example, a parser that checks the fields later turns it off."""
    token = _CHECKS.set(active)
    try:
        yield
    finally:
        _CHECKS.reset(token)


LONGEST_TEXT = 10_000  # maximum length of an option or a name; paths and lists of layers are far shorter


def check_value(name: str, value: object, hint: Any) -> None:
    """Raise InputError if `value` does not match its annotation `hint`. The message starts with `name`.

    A number must be in the `Range` of its `Annotated` type. A choice must be one of the values of its `Literal` type.
    Text must have at most `LONGEST_TEXT` characters. The elements of a tuple or list are checked in the same way. The
    fields of a dataclass are checked against their own annotations.
    """
    limits = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Range)]
    kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices or type(value) not in map(type, choices):  # True == 1
            raise InputError(f"{name} must be {_either(choices)}, got {shown_value(value)}")
    elif typing.get_origin(kind) in (tuple, list) and isinstance(value, tuple | list):
        for each in value:
            check_value(name, each, typing.get_args(kind)[0])
    elif dataclasses.is_dataclass(kind) and isinstance(value, typing.cast(type, kind)):
        check_fields(value)
        dataclasses.replace(
            typing.cast(Any, value)
        )  # runs `__post_init__`, because a parser may have skipped its checks
    elif kind in (bool, int, float, str):
        _check_plain(name, value, kind)
    for least, most, multiple, plus, power in limits if kind in (int, float) else ():
        number = typing.cast(float, value)
        if power and not (least <= number <= most and number & (number - 1) == 0):  # type: ignore[operator]
            raise InputError(f"{name} must be a power of two from {least} to {most}, got {shown_value(value)}")
        if multiple > 1 and not (least <= number <= most and number % multiple == plus):
            rule = f"{f'{plus} more than ' if plus else ''}a multiple of {multiple} from {least} to {most}"
            raise InputError(f"{name} must be {rule}, got {shown_value(value)}")
        if not least <= number <= most:  # also rejects NaN
            raise InputError(f"{name} must be {least} or more and at most {most}, got {shown_value(value)}")


def _check_plain(name: str, value: object, kind: Any) -> None:
    kinds = {bool: (bool, np.bool_), int: (int, np.integer), float: (int, float, np.integer, np.floating), str: (str,)}
    if not isinstance(value, kinds[kind]) or (kind is not bool and isinstance(value, bool)):
        called = {bool: "true or false", int: "an integer", float: "a number", str: "text"}[kind]
        raise InputError(f"{name} must be {called}, got {shown_value(value)}")
    if isinstance(value, str) and (len(value) > LONGEST_TEXT or "\0" in value):
        what = f"{len(value)} characters" if len(value) > LONGEST_TEXT else "text with a null character"
        raise InputError(f"{name} must be text of at most {LONGEST_TEXT} characters, got {what}")


def field_hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, including the metadata of `Annotated`."""
    return typing.get_type_hints(kind, include_extras=True)


def check_fields(settings: Any) -> None:
    """Raise InputError if a field of a dataclass does not match its annotation. The first such field is reported."""
    hints = field_hints(type(settings))
    for field in dataclasses.fields(settings):
        check_value(field.name, getattr(settings, field.name), hints[field.name])


def check_arguments(function: Callable[..., object], *values: object, **flags: object) -> None:
    """Raise InputError if an argument of `function` does not match the annotation of its parameter."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(getattr(function, "func", function), include_extras=True)
    for name, value in signature.bind(*values, **flags).arguments.items():
        many = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        for each, one in value.items() if many else [(name, value)]:
            check_value(each, one, hints.get(name))


def shown_value(value: object, most: int = 60) -> str:
    """Format a value as one short line for an error message."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return f"{value:.6g}" if abs(value) >= 1e16 else f"{value}"
    text = repr(value) if not isinstance(value, str) or len(value) <= most else repr(value[:most])
    return text if len(text) <= most + 2 else f"{text[:most]}..."


def _either(choices: tuple[object, ...]) -> str:
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last
