from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest

from common.system.console import Progress, Unfailing, attempt, duration, noted_if_slow, say, tracked


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
    assert (
        capsys.readouterr().err == "warning: the grid could not be created (need at least one array to concatenate)\n"
    )
    with pytest.raises(KeyboardInterrupt):
        attempt("a plot", stopped)


def stopped() -> None:
    raise KeyboardInterrupt


CODE = """
import os, sys
from common.system.console import prepare_streams
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


@pytest.fixture
def first_line(monkeypatch) -> None:
    """Print the first line of progress after five seconds, as outside of tests."""
    monkeypatch.setattr(Progress, "FIRST_LINE", 5.0)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (7.4, "7 s"),
        (12, "10 s"),
        (88, "90 s"),
        (95, "2 min"),
        (5000, "83 min"),
        (5400, "1.5 h"),
        (90000, "25 h"),
    ],
)
def test_a_duration_in_words(seconds, text):
    assert duration(seconds) == text


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, first_line):
    clock = Clock()
    lines = []
    with Progress("reading", 2000, "image", clock=clock) as progress:
        for _ in range(20):
            clock.now += 3
            progress.update(100)
            lines.append(capsys.readouterr().err)
    assert [number for number, line in enumerate(lines) if line] == [1, 5, 9, 13, 17]  # after 6 s, 18 s, 30 s...
    assert lines[1] == "reading: 200 of 2,000 images, about 50 s left\n"
    assert lines[13] == "reading: 1,400 of 2,000 images, about 20 s left\n"
    assert [Progress.pause(seconds) for seconds in (6, 300, 1e5)] == [10, 30, 60]


def test_progress_of_resumed_work_counts_the_time_of_the_new_part_only(capsys, first_line):
    clock = Clock()
    with Progress("painting", 100, "step", 80, clock) as progress:
        clock.now += 20
        progress.update(10, "loss 3")
    assert capsys.readouterr().err == "painting: 90 of 100 steps, about 20 s left\n"
    with Progress("reading", 100, "batch", 80, clock) as progress:
        clock.now += 20
        progress.update(10)
    assert capsys.readouterr().err == "reading: 90 of 100 batches, about 20 s left\n"


def test_quick_or_finished_work_says_nothing(capsys):
    clock = Clock()
    with Progress("reading", 2, "image", clock=clock) as progress:
        progress.update()
        clock.now += 99
        progress.update()
    assert [*tracked("abc", "reading", "letter")] == ["a", "b", "c"]
    assert [*tracked(iter("ab"), "reading", "letter", 2)] == ["a", "b"]
    with noted_if_slow("slow"):
        pass
    assert not capsys.readouterr().err


def test_in_a_terminal_there_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("reading", 2, "image") as progress:
        progress.update(1, "a.png")
        assert progress.bar is not None and progress.bar.n == 1 and progress.bar.total == 2
    assert "left" not in sys.stderr.getvalue()


def test_slow_work_without_progress_is_noted(monkeypatch, capsys):
    class Timer:
        def __init__(self, seconds: float, call, arguments: list) -> None:
            self.start = lambda: call(*arguments)
            self.cancel = lambda: None

    monkeypatch.setattr("common.system.console.threading.Timer", Timer)
    with noted_if_slow("writing a.onnx"):
        pass
    assert capsys.readouterr().err == "writing a.onnx\n"
