"""Benchmarks: commands that measure the tables in RESULTS.md. See `python -m benchmarks.NAME --help`."""

from __future__ import annotations

import gc
import importlib
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

from common.runs.cli import errors_in_one_line
from common.runs.flags import call_with_flags
from common.system.files import InputError, read_numbers, write_json, write_text
from common.system.keras_files import load_keras_file
from common.system.lazy import defer_imports, keras

if sys.argv[:1] == ["-m"]:  # `python -m benchmarks.NAME --help` must not import Keras
    defer_imports()


def run_benchmark(function: Callable[..., object]) -> None:
    """Run `function` as a command. Its parameters become command-line flags.

    Invalid input causes a one-line error message and ends the process: see `errors_in_one_line`.
    """
    prog = f"python -m benchmarks.{Path(sys.argv[0]).stem}"
    with errors_in_one_line():
        about = sys.modules["__main__"].__doc__ or ""
        call_with_flags(function, prog, sys.argv[1:], about, positional=False)


@contextmanager
def timed(task: str, seconds: dict[str, float]) -> Iterator[None]:
    """Time a `with` block. Add its wall-clock and CPU seconds to `seconds`, and print them."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    seconds |= {f"{task}_wall_seconds": round(wall, 1), f"{task}_cpu_seconds": round(cpu, 1)}
    print(f"{task}: {wall:.1f} s, {cpu:.1f} CPU seconds", file=sys.stderr)


def measure_run(recipe: str, config: Any, data: Path, output_dir: Path, **options: Any) -> dict[str, float | int | str]:
    """Run a recipe. Return its scores, parameter count, wall-clock seconds and CPU seconds."""
    module = importlib.import_module(f"recipes.{recipe}")
    seconds: dict[str, float] = {}
    with timed("run", seconds):
        module.run(str(data), config, output_dir, **options)
    scores = read_numbers(output_dir / "results.json")
    files = [output_dir / f"{name}.keras" for name in module.Networks._fields]
    scores["weights"] = sum(load_keras_file(file).count_params() for file in files)
    return scores | seconds


class Measured:
    """Results stored in a JSON file, so an interrupted benchmark can resume."""

    def __init__(self, store: Path):
        self.store = store
        self.numbers: dict[str, dict[str, Any]] = read_numbers(store) if store.exists() else {}
        store.parent.mkdir(parents=True, exist_ok=True)

    def once(self, key: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the stored result for `key`. If there is none, call `action` and store its result."""
        if key not in self.numbers:
            print(f"\n{key}", file=sys.stderr)
            self.numbers[key] = action()
            write_json(self.store, self.numbers)
            keras.backend.clear_session()
            gc.collect()
        return self.numbers[key]


def write_between(path: Path, mark: str, text: str) -> None:
    """Replace the text between the two markers `<!-- mark -->` in a Markdown file.

    Raises:
        InputError: the file does not exist, or does not contain the marker exactly twice.
    """
    line = f"<!-- {mark} -->"
    parts = path.read_text().split(line) if path.is_file() else []
    if len(parts) != 3:
        raise InputError(f"{path}: expected a file that contains {line} exactly twice; the tables go between them")
    write_text(path, f"{parts[0]}{line}\n{text}\n{line}{parts[2]}")


def markdown_table(rows: Mapping[str, Mapping[str, float | int | str]], columns: Mapping[str, str], corner: str) -> str:
    """Return a Markdown table with the headers `corner` and `columns`. Missing values are left empty."""

    def shown(value: float | int | str) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [[corner, *columns.values()], ["---", *("---:" for _ in columns)]]
    lines += [[name, *(shown(row.get(column, "")) for column in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(threads: int) -> dict[str, Any]:
    """Return the measurement conditions: processor, cores, threads, load and package versions."""
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
    """Return one line that describes the machine, and a second line if the machine was busy."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    threads = f"{where['threads']} thread{'s' * (where['threads'] != 1)}"
    line = f"{where['processor']}, {where['cores']} cores, {threads}; {versions}"
    load = where["load_before"]
    return f"{line}\nBusy (load {load:.1f}): times are longer than on an idle machine" if load > 0.5 else line
