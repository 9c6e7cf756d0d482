"""What is printed while a program works: it informs, and never ends the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO, cast

from common.errors import first_line


def say(text: str) -> None:
    """Print one line to standard error, if it can be written there."""
    with suppress(OSError, ValueError):  # closed, or unable to encode the text
        print(text, file=sys.stderr, flush=True)


def attempt(what: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """Return `make(*arguments)`; if it fails, print one line with `what` and the reason, and return None.

    For what a training writes besides its saves: images, plots and reports must not end it.
    """
    try:
        return make(*arguments)
    except Exception as error:
        say(f"warning: {what} failed ({first_line(error)})")
        return None


class Unfailing:
    """A text stream that may be written to although its reader is gone; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        """Wrap `stream`."""
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write `text`, if that is possible, and return its length."""
        with suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        with suppress(OSError, ValueError):
            self.stream.flush()


def prepare_streams() -> None:
    """Let no message end the process: streams that are closed, that lose their reader, or that cannot encode a name.

    A closed descriptor 0, 1 or 2 is opened on the null device. Otherwise the next file would get its number, and
    libraries would write their messages into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, Unfailing):
        sys.stderr = cast(TextIO, Unfailing(sys.stderr))
