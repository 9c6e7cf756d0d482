"""Console output, progress, and one-line error messages. A failed print never stops the program."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeVar, cast

from common.system.files import InputError, cut, first_line, printable

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")


def say(text: str) -> None:
    """Print one line to standard error, without control characters. A failed print is ignored."""
    with suppress(OSError, ValueError):  # the stream is closed, or cannot encode the text
        print(printable(text), file=sys.stderr, flush=True)


def attempt(what: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """Return `make(*arguments)`. If it fails, print a one-line warning with `what` and the reason, and return None.

    Use it for images, plots and reports, so that an error in one of them does not stop training.
    """
    try:
        return make(*arguments)
    except Exception as error:
        say(f"warning: {what} could not be created ({first_line(error)})")
        return None


def duration(seconds: float) -> str:
    """Return an approximate duration as text: 40 s, 4 min or 2.5 h."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 90:
        return f"{10 * round(seconds / 10)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600, 1):g} h"


class Progress:
    """The progress of work that may take more than a few seconds. Use it as a context manager.

    In a terminal, a bar appears after two seconds. Otherwise, for example in a log file, a line appears after
    FIRST_LINE seconds, and then about every NEXT_LINE seconds; see `pause`. Quick work shows nothing.
    """

    FIRST_LINE, NEXT_LINE, LAST_PAUSE = 5.0, 10.0, 60.0

    @classmethod
    def pause(cls, elapsed: float) -> float:
        """Return the seconds until the next line. They grow with the time that has elapsed, so that logs stay short."""
        return min(max(cls.NEXT_LINE, elapsed / 10), cls.LAST_PAUSE)

    def __init__(
        self, what: str, total: int, unit: str, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock.

        Args:
            what: what is being done, such as `embedding images`.
            total: the number of units of work.
            unit: the unit, in the singular.
            done: the number of units that were done earlier, for example before a run was resumed.
            clock: returns the time in seconds.
        """
        self.what, self.total, self.unit, self.clock = printable(what), total, unit, clock
        self.first = self.done = done
        self.started = clock()
        self.due = self.started + self.FIRST_LINE
        self.bar: tqdm | None = None

    def __enter__(self) -> Self:
        """Prepare a bar if standard error is a terminal."""
        with suppress(OSError, ValueError, AttributeError):
            if sys.stderr.isatty():
                from tqdm import tqdm

                self.bar = tqdm(None, self.what, self.total, False, unit=self.unit, delay=2, initial=self.done)
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        if self.bar is not None:
            with suppress(OSError, ValueError):
                self.bar.close()

    def update(self, count: int = 1, text: str = "") -> None:
        """Count `count` more units of work as done, and show `text` after the bar."""
        self.done += count
        if self.bar is not None:
            with suppress(OSError, ValueError):
                self.bar.set_postfix_str(text, refresh=False)
                self.bar.update(count)
        elif (now := self.clock()) >= self.due and self.done < self.total:
            left = (now - self.started) * (self.total - self.done) / max(1, self.done - self.first)
            units = self.unit + ("es" if self.unit.endswith("ch") else "s")
            say(f"{self.what}: {self.done:,} of {self.total:,} {units}, about {duration(left)} left")
            self.due = now + self.pause(now - self.started)


def tracked(items: Iterable[Item], what: str, unit: str, total: int | None = None) -> Generator[Item, None, None]:
    """Yield `items`, and show the `Progress` of the work on them. `total` is their number; the default is their len."""
    count = total if total is not None else len(cast(Sized, items))
    with Progress(what, count, unit) as progress:
        for item in items:
            yield item
            progress.update()


@contextmanager
def noted_if_slow(text: str) -> Iterator[None]:
    """Print `text` if the block takes longer than `Progress.FIRST_LINE`. Use it where progress cannot be measured."""
    timer = threading.Timer(Progress.FIRST_LINE, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Unfailing:
    """A text stream whose `write` and `flush` never fail, even if the reader of a pipe has exited."""

    def __init__(self, stream: TextIO) -> None:
        """Wrap `stream`."""
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write `text` if possible, and return its length."""
        with suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if possible."""
        with suppress(OSError, ValueError):
            self.stream.flush()


def prepare_streams() -> None:
    """Prepare standard output and standard error, so that a failed print never stops the process.

    A stream may be closed, lose its reader, or be unable to encode a file name. If descriptor 0, 1 or 2 is closed, it
    is opened on the null device. If it stayed closed, the next file to be opened would get this descriptor, and
    libraries would write messages into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, Unfailing):
        sys.stderr = cast(TextIO, Unfailing(sys.stderr))


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Exit with a one-line message if the block fails in a way that the user can fix.

    The exit status is 2 for invalid input, missing packages, disk errors and out-of-memory errors; 1 for a non-finite
    loss; 130 for Ctrl-C; and 141 for a closed pipe.
    """
    try:
        if callable(signal.getsignal(signal.SIGINT)):  # unless SIGINT is ignored, as in a background job
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    except InputError as error:
        sys.exit(_complain(str(error), 2))
    except BrokenPipeError:  # for example, `| head` has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}", 2))
    except FloatingPointError as error:
        sys.exit(_complain(str(error), 1))
    except ImportError as error:
        from common.system.packages import explained_import

        if not (missing := explained_import(error)):
            raise
        sys.exit(_complain(missing, 2))
    except Exception as error:
        if not _out_of_memory(error):
            raise
        said = re.sub(r"\{\{.*?\}\} *| on /job:.*", "", str(error)).strip()  # remove TensorFlow's node and device names
        reason = cut((said.splitlines() or ["no memory left"])[0], 150)
        sys.exit(_complain(f"out of memory: {reason}; try a smaller --batch-size, --size or network", 2))
    except KeyboardInterrupt as error:
        saved = f"{error}; run the same command again to resume from the newest checkpoint"
        sys.exit(_complain(saved if str(error) else "stopped", 130))


def _complain(message: str, status: int) -> int:
    print(printable(f"error: {message}" if status != 130 else message), file=sys.stderr)
    return status


def _out_of_memory(error: Exception) -> bool:
    """Return whether NumPy or TensorFlow ran out of memory."""
    tensorflow = sys.modules.get("tensorflow")  # None if it has not been imported
    return isinstance(error, MemoryError) or (
        tensorflow is not None and isinstance(error, tensorflow.errors.ResourceExhaustedError)
    )
