"""Numbers for the README, each measured again by one command; `python -m benchmarks.NAME --help` says which."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.cli import errors_in_one_line
from common.errors import InputError
from common.files import write_json, write_text
from common.keras_files import load_keras_file
from common.lazy import keras


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


def measure_run(recipe: str, config: Any, data: Path, output_dir: Path, **options: Any) -> dict[str, float | int | str]:
    """Run a recipe; return what it measured, its weights, and the seconds by the clock and of all cores."""
    module = importlib.import_module(f"recipes.{recipe}")
    seconds: dict[str, float] = {}
    with timed("run", seconds):
        module.experiment(str(data), config, output_dir, **options)
    scores = json.loads((output_dir / "results.json").read_text())
    files = [output_dir / f"{name}.keras" for name in module.Networks._fields]
    scores["weights"] = sum(load_keras_file(file).count_params() for file in files)
    return scores | seconds


class Measured:
    """Numbers that are kept in a file, so that a benchmark that was stopped goes on where it was."""

    def __init__(self, store: Path):
        self.store = store
        self.numbers: dict[str, dict[str, Any]] = json.loads(store.read_text()) if store.exists() else {}
        store.parent.mkdir(parents=True, exist_ok=True)

    def once(self, key: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `action` measured, now or at an earlier time."""
        if key not in self.numbers:
            print(f"\n{key}", file=sys.stderr)
            self.numbers[key] = action()
            write_json(self.store, self.numbers)
            keras.backend.clear_session()
            gc.collect()
        return self.numbers[key]


def write_between(path: Path, mark: str, text: str) -> None:
    """Put `text` between the two marks `<!-- mark -->` in a Markdown file.

    Raises:
        InputError: there is no such file, or it does not hold the mark twice.
    """
    line = f"<!-- {mark} -->"
    parts = path.read_text().split(line) if path.is_file() else []
    if len(parts) != 3:
        raise InputError(f"{path}: expected a file with {line} twice, to write the tables between")
    write_text(path, f"{parts[0]}{line}\n{text}\n{line}{parts[2]}")


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
