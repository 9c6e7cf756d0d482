from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest

from common.console import Unfailing, attempt, say


class Gone(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def ascii_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "ascii")


@pytest.mark.parametrize("stream", [Gone(), ascii_stream()])
def test_what_cannot_be_said_does_not_end_the_work(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    say("日本")
    assert attempt("the plot of 日本", np.linalg.inv, np.zeros((2, 2))) is None
    assert Unfailing(stream).write("日本") == 2
    Unfailing(stream).flush()


def test_an_attempt_returns_its_result_or_says_in_one_line_what_failed(capsys):
    assert attempt("a sum", sum, [1, 2]) == 3
    assert attempt("the grid", np.concatenate, []) is None
    assert capsys.readouterr().err == "warning: the grid could not be made (need at least one array to concatenate)\n"
    with pytest.raises(KeyboardInterrupt):
        attempt("a plot", stopped)


def stopped() -> None:
    raise KeyboardInterrupt


CODE = """
import os, sys
from common.console import prepare_streams
prepare_streams()
print("日本")
print("日本", file=sys.stderr)
first = os.open(os.devnull, os.O_RDONLY)
os.write(9, f"{first} {sys.stdout.errors} {sys.stdin}".encode())
"""


@pytest.mark.parametrize("closed", [(), (1,), (2,), (0, 1, 2)])
def test_closed_streams_are_opened_so_that_no_file_gets_their_number(closed):
    reader, writer = os.pipe()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", CODE],
        {"PYTHONIOENCODING": "ascii", "PYTHONPATH": os.getcwd(), "PATH": os.environ["PATH"]},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, writer, 9),
            *((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)),
            *((os.POSIX_SPAWN_CLOSE, number) for number in closed),
        ],
    )
    os.close(writer)
    with os.fdopen(reader) as file:
        first = int(file.read().split()[0])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert first > 2
