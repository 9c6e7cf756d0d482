"""What is printed while a program works: it informs, and never ends the work."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from common.errors import InputError, first_line, printable


def say(text: str) -> None:
    """Print one line to standard error, without control characters, if it can be written there."""
    with suppress(OSError, ValueError):  # closed, or unable to encode the text
        print(printable(text), file=sys.stderr, flush=True)


def attempt(what: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """Return `make(*arguments)`; if it fails, print one line with `what` and the reason, and return None.

    For what a training writes besides its saves: images, plots and reports must not end it.
    """
    try:
        return make(*arguments)
    except Exception as error:
        say(f"warning: {what} could not be made ({first_line(error)})")
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


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the process with one line where the block fails in a way that a user can mend.

    Exit status 2 for what was given wrong and for the disk, 1 for a loss that is not finite, 130 for Ctrl-C.
    """
    try:
        if callable(signal.getsignal(signal.SIGINT)):  # not one that is ignored, as of a job in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    except InputError as error:
        sys.exit(_complain(str(error), 2))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}", 2))
    except FloatingPointError as error:
        sys.exit(_complain(str(error), 1))
    except Exception as error:
        if not _out_of_memory(error):
            raise
        said = re.sub(r"\{\{.*?\}\} *| on /job:.*", "", str(error)).strip()  # TensorFlow names its node and device
        reason = (said.splitlines() or ["no memory is left"])[0][:150]
        sys.exit(_complain(f"out of memory: {reason}; try a smaller --batch-size, --size or network", 2))
    except KeyboardInterrupt as error:
        saved = f"{error}; the same command goes on from the newest save"
        sys.exit(_complain(saved if str(error) else "stopped", 130))


def _complain(message: str, status: int) -> int:
    print(printable(f"error: {message}" if status != 130 else message), file=sys.stderr)
    return status


def _out_of_memory(error: Exception) -> bool:
    """Return whether NumPy or TensorFlow, if anybody has imported it, had no memory left."""
    tensorflow = sys.modules.get("tensorflow")
    return isinstance(error, MemoryError) or (
        tensorflow is not None and isinstance(error, tensorflow.errors.ResourceExhaustedError)
    )
