"""Numbers for the README, each measured again by one command; `python -m benchmarks.NAME --help` says which."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.cli import errors_in_one_line


def run_benchmark(function: Callable[..., object]) -> None:
    """Call `function`, whose parameters are the command line's flags.

    What a user gave wrong ends the process in one line: see `errors_in_one_line`.
    """
    import tyro

    prog = f"python -m benchmarks.{Path(sys.argv[0]).stem}"
    with errors_in_one_line():
        tyro.cli(function, prog=prog, description=sys.modules["__main__"].__doc__)


@contextmanager
def timed(task: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add the seconds that the block takes, by the clock and of all CPU cores, to `seconds`, and print both."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    seconds |= {f"{task}_wall_seconds": round(wall, 1), f"{task}_cpu_seconds": round(cpu, 1)}
    print(f"{task}: {wall:.1f} s, {cpu:.1f} s of CPU", file=sys.stderr)


def markdown_table(rows: Mapping[str, Mapping[str, float | int | str]], columns: Mapping[str, str], corner: str) -> str:
    """Return one line a row under `corner` and the headings of `columns`; what a row does not have is left empty."""

    def shown(value: float | int | str) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [[corner, *columns.values()], ["---", *("---:" for _ in columns)]]
    lines += [[name, *(shown(row.get(column, "")) for column in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(threads: int) -> dict[str, Any]:
    """Return what the numbers depend on."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    versions = {
        name: importlib.metadata.version(name)
        for name in ("tensorflow", "keras", "numpy", "torch")
        if importlib.util.find_spec(name)
    }
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | versions,
    }


def describe(where: Mapping[str, Any]) -> str:
    """Return the machine in a line, and a warning if it was busy."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    line = f"{where['processor']}, {where['cores']} cores, {where['threads']} threads; {versions}"
    load = where["load_before"]
    return f"{line}\nBusy (load {load:.1f}): times are larger than on a quiet machine" if load > 0.5 else line
