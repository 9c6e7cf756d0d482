"""Bounds of options: each stands as an annotation beside the field or the parameter that it limits."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from common.errors import InputError


class Range(NamedTuple):
    """The least and the most that a number may be, both included: `zoom: Annotated[int, Range(1, 64)] = 4`."""

    least: float
    most: float


# Options that many recipes have.
Seed = Annotated[int, Range(0, 2**31 - 1)]
Epochs = Annotated[int, Range(1, 1_000_000)]
Patience = Annotated[int, Range(0, 1_000_000)]  # epochs
BatchSize = Annotated[int, Range(1, 65_536)]
Units = Annotated[int, Range(1, 65_536)]  # of a dense layer; numbers of a latent; classes
Filters = Annotated[int, Range(1, 1024)]  # of a convolution
LearningRate = Annotated[float, Range(0, 10)]
Weight = Annotated[float, Range(0, 1e9)]  # of a term of a loss
Share = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 0.999999)]  # dropout, Adam's beta_1
Jitter = Annotated[float, Range(1, 4)]  # factor by which images are enlarged before they are cropped back
Count = Annotated[int, Range(1, 100_000)]  # images that are generated or listed
Frames = Annotated[int, Range(2, 10_000)]  # of a walk, both ends included
Zoom = Annotated[int, Range(1, 64)]  # times that a pixel is repeated

LONGEST_TEXT = 10_000  # characters of an option or a name: far above any path or list of layers


def check_value(name: str, value: object, hint: Any) -> None:
    """Raise InputError, with `name`, where `value` is not what its annotation `hint` allows.

    Numbers must lie in the `Range` of an `Annotated` type, words be among those of a `Literal`, texts be shorter than
    `LONGEST_TEXT`. The elements of a tuple or list and the fields of a dataclass are checked in the same way.
    """
    limits = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Range)]
    kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if typing.get_origin(kind) is Literal:
        words = typing.get_args(kind)
        if value not in words or type(value) not in map(type, words):  # True == 1
            raise InputError(f"{name} must be {_either(words)}, got {shown_value(value)}")
    elif typing.get_origin(kind) in (tuple, list) and isinstance(value, tuple | list):
        for each in value:
            check_value(name, each, typing.get_args(kind)[0])
    elif dataclasses.is_dataclass(kind) and isinstance(value, typing.cast(type, kind)):
        check_fields(value)
    elif kind in (bool, int, float, str):
        _check_plain(name, value, kind)
    for least, most in limits if kind in (int, float) else ():
        if not least <= typing.cast(float, value) <= most:  # nor is NaN
            raise InputError(f"{name} must be {least} or more and at most {most}, got {shown_value(value)}")


def _check_plain(name: str, value: object, kind: Any) -> None:
    kinds = {bool: (bool, np.bool_), int: (int, np.integer), float: (int, float, np.integer, np.floating), str: (str,)}
    if not isinstance(value, kinds[kind]) or (kind is not bool and isinstance(value, bool)):
        called = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
        raise InputError(f"{name} must be {called}, got {shown_value(value)}")
    if isinstance(value, str) and (len(value) > LONGEST_TEXT or "\0" in value):
        what = f"{len(value)} characters" if len(value) > LONGEST_TEXT else "a zero byte in it"
        raise InputError(f"{name} must be a text of at most {LONGEST_TEXT} characters, got {what}")


def field_hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, with what `Annotated` adds."""
    return typing.get_type_hints(kind, include_extras=True)


def check_fields(settings: Any) -> None:
    """Raise InputError where a field of a dataclass is not what its annotation allows, and name the first such."""
    hints = field_hints(type(settings))
    for field in dataclasses.fields(settings):
        check_value(field.name, getattr(settings, field.name), hints[field.name])


def check_arguments(function: Callable[..., object], *values: object, **flags: object) -> None:
    """Raise InputError where an argument of `function` is not what the annotation of its parameter allows."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(getattr(function, "func", function), include_extras=True)
    for name, value in signature.bind(*values, **flags).arguments.items():
        many = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        for each, one in value.items() if many else [(name, value)]:
            check_value(each, one, hints.get(name))


def shown_value(value: object, most: int = 60) -> str:
    """Return a value as one short line, for a message."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return f"{value:.6g}" if abs(value) >= 1e16 else f"{value}"
    text = repr(value) if not isinstance(value, str) or len(value) <= most else repr(value[:most])
    return text if len(text) <= most + 2 else f"{text[:most]}..."


def _either(words: tuple[object, ...]) -> str:
    *others, last = map(str, words)
    return f"{', '.join(others)} or {last}" if others else last
