"""Checkpoints from which a run resumes bit for bit."""

from __future__ import annotations

import csv
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from common.system.cluster import is_chief
from common.system.console import attempt, say
from common.system.files import (
    InputError,
    delete,
    explained,
    first_line,
    read_numbers,
    replacing,
    replacing_folder,
    write_json,
)
from common.system.initial import active_start
from common.system.lazy import keras, tf
from common.training.execution import active_execution
from common.training.health import run_warnings
from common.training.noise import Noise
from common.training.tensorboard import Events

History = list[dict[str, float]]
"""One row per epoch: the epoch, the mean of every loss, seconds, and steps per second."""


class Saves:
    """The newest three checkpoints of a run: folders `checkpoints/step-NUMBER`, written atomically."""

    def __init__(
        self,
        output_dir: Path | str | None,
        state: Mapping[str, object],
        healthy: Mapping[str, tuple[float, float, str]],
    ):
        """Prepare checkpoints of `state`; see `fit`. If `output_dir` is None, no files are written.

        In a `warm_start` block, the networks of a new run get the weights of another run first.
        """
        if (start := active_start()) is not None:
            start.load(state, output_dir)
        self.output_dir, self.healthy = None if output_dir is None else Path(output_dir), healthy
        state = {name: part.generator if isinstance(part, Noise) else part for name, part in state.items()}
        self.folder = Path(output_dir or "", "checkpoints")
        self.reported = -math.inf
        self.events = (
            Events(self.output_dir) if active_execution().tensorboard and self.output_dir and is_chief() else None
        )
        self.networks = {name: part for name, part in state.items() if isinstance(part, keras.Model)}
        self.best: dict[str, list[np.ndarray]] = {}  # best weights by network, if this process writes no files
        if output_dir is None:
            return
        if is_chief():
            self.folder.mkdir(parents=True, exist_ok=True)
        self.parts = {name: part for name, part in state.items() if not isinstance(part, keras.random.SeedGenerator)}
        self.seeds = _seed_states(state)
        self.checkpoint = tf.train.Checkpoint(seeds=self.seeds, **self.parts)
        self.variables = [variable for part in self.parts.values() for variable in getattr(part, "variables", [])]

    def numbers(self) -> list[int]:
        """Return the step numbers of the checkpoints, newest first."""
        return [int(folder.name[5:]) for folder in checkpoint_folders(self.output_dir)] if self.output_dir else []

    def newest(self, steps: int) -> tuple[int, dict[str, float], float, History]:
        """Restore the newest readable checkpoint; return the steps done, the loss sums, the seconds and the history.

        The loss sums and the seconds are for the unfinished epoch.
        """
        failures = []
        for number in self.numbers():
            folder = self.folder / f"step-{number:08d}"
            try:
                with readable_checkpoint(folder) as path:
                    steps_before, totals, seconds, history = read_progress(folder / "progress.json")
                    self.read(path)
            except Exception as error:  # a damaged checkpoint can fail in many ways
                failures.append(f"{folder}: {first_line(error)}")
                continue
            if failures:
                say(f"skipped a damaged checkpoint ({failures[0]}); resuming from step {number}")
            if steps_before != steps:
                raise InputError(
                    f"{self.output_dir}: this run had {steps_before} steps per epoch, but has {steps} "
                    f"with the current data; restore the data, or choose another --output-dir"
                )
            self.prune()
            return number, totals, seconds, history
        if failures:
            raise InputError(
                f"no checkpoint can be read ({failures[0]}); the newest is damaged or belongs to other networks; "
                "restore it from a backup, or choose another --output-dir"
            )
        return 0, {}, 0.0, []

    def read(self, path: str) -> None:
        """Restore the state from a checkpoint. Network names from an earlier version of the project are accepted."""
        try:
            self.checkpoint.read(path).assert_existing_objects_matched()
        except AssertionError:
            from common.runs.run import old_network_names

            names = old_network_names(self.folder.parent)
            if not names.keys() & self.parts.keys():
                raise
            older = {names.get(name, name): part for name, part in self.parts.items()}
            tf.train.Checkpoint(seeds=self.seeds, **older).read(path).assert_existing_objects_matched()

    def write(self, done: int, steps: int, totals: Mapping[str, float], seconds: float, history: History) -> None:
        """Write a checkpoint after step `done`. Then update the history and, at most every 30 seconds, the report."""
        if self.output_dir is None or not is_chief():
            return
        for variable in self.variables:
            if variable.dtype.startswith(("float", "bfloat")) and not bool(keras.ops.all(keras.ops.isfinite(variable))):
                raise FloatingPointError(self.advice(f"weight {variable.path}", math.nan, done))
        final = self.folder / f"step-{done:08d}"  # replaces an unreadable checkpoint of the same step
        with explained(final, self.size()), replacing_folder(final) as draft:
            self.checkpoint.write(str(draft / "state"))
            progress = {"steps_per_epoch": steps, "totals": totals, "seconds": seconds, "history": history}
            write_json(draft / "progress.json", progress)
        self.prune()
        self.report(history, every_seconds=30.0)

    def prune(self) -> None:
        """Delete all but the newest three checkpoints."""
        for number in self.numbers()[3:] if is_chief() else ():
            delete(self.folder / f"step-{number:08d}")

    def size(self) -> int:
        """Return the size of a checkpoint in bytes. The history is not counted, because it is small."""
        return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in self.variables)

    def advice(self, name: str, value: float, step: int) -> str:
        """Return the error message for a non-finite loss or weight."""
        kept = self.numbers()
        where = f"; the checkpoint of step {kept[0]} is kept in {self.folder}" if kept else ""
        return (
            f"{name} became {value} at step {step}{where}: try a smaller learning rate in another --output-dir, "
            "or look for constant or broken images in the data"
        )

    def keep_best(self) -> None:
        """Save the networks' current weights as the best ones, in `checkpoints/best` or in memory."""
        if self.output_dir is None or not is_chief():
            self.best = {name: network.get_weights() for name, network in self.networks.items()}
            return
        for name, network in self.networks.items():
            with replacing(self.folder / "best" / f"{name}.keras") as draft:
                network.save(draft)

    def restore_best(self) -> None:
        """Load the weights that `keep_best` saved."""
        for name, network in self.networks.items():
            path = self.folder / "best" / f"{name}.keras"
            try:
                if not self.best and not path.is_file():
                    raise FileNotFoundError("there is no such file")
                network.set_weights(self.best[name]) if self.best else network.load_weights(path)
            except Exception as error:  # a damaged file can fail in many ways
                raise InputError(
                    f"{path}: cannot be read ({first_line(error)}); restore it from a backup, "
                    "or train again in another --output-dir"
                ) from None

    def report(self, history: History, every_seconds: float = 0.0) -> None:
        """Write `history.csv`, `warnings.json` and, if the last report is older than `every_seconds`, a new report."""
        if self.output_dir is None or not history or not is_chief():
            return
        attempt("history.csv", write_history, self.output_dir, history)
        if self.events:
            attempt("tensorboard", self.events.write, history)
        if self.healthy:
            warnings = {"warnings": run_warnings(history, self.healthy)}
            attempt("warnings.json", write_json, self.output_dir / "warnings.json", warnings)
        if time.monotonic() - self.reported > every_seconds:
            from common.runs.report import write_report

            write_report(self.output_dir)
            self.reported = time.monotonic()


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Return the folders of the checkpoints of a run, newest first."""
    found = [path for path in (output_dir / "checkpoints").glob("step-*") if path.name[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


@contextmanager
def readable_checkpoint(folder: Path) -> Iterator[str]:
    """Yield the path with which `tf.train.Checkpoint` reads the checkpoint in `folder`.

    Raises:
        ValueError: `folder` contains something other than regular files. Reading a named pipe would block forever.
    """
    if odd := [path.name for path in folder.iterdir() if not path.is_file()]:
        raise ValueError(f"{odd[0]} is not a regular file")
    with _without_wildcards(folder) as readable:
        yield str(readable / "state")


def write_history(output_dir: Path | str, history: History) -> None:
    """Write `history.csv`, with a header and one row per epoch."""
    columns = dict.fromkeys(name for row in history for name in row)
    with replacing(Path(output_dir, "history.csv")) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def read_progress(path: Path) -> tuple[int, dict[str, float], float, History]:
    """Read the progress.json of a checkpoint; see `Saves.write`. Raise an exception if the file is damaged."""
    progress = read_numbers(path)
    steps, totals, seconds, history = (progress[key] for key in ("steps_per_epoch", "totals", "seconds", "history"))
    rows = [totals, *history]
    numbers = [steps, seconds, *(value for row in rows for value in row.values())]
    if not all(isinstance(value, int | float) for value in numbers) or not all("epoch" in row for row in history):
        raise ValueError("progress.json contains values that are not numbers, or rows without an epoch")
    return int(steps), totals, float(seconds), history


@contextmanager
def _without_wildcards(folder: Path) -> Iterator[Path]:
    """Yield a path that leads to the files of `folder`, but contains no wildcard characters such as `[`.

    TensorFlow can write to a path such as `runs/lr=[1e-3]`, but when it reads, it treats the path as a pattern.
    """
    if not set("[]*?\\") & set(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as plain:
        for path in folder.iterdir():
            with suppress(OSError):
                (Path(plain) / path.name).symlink_to(path.resolve())
                continue
            shutil.copyfile(path, Path(plain) / path.name)  # if symbolic links are not supported
        yield Path(plain)


def _seed_states(state: Mapping[str, object]) -> list[tf.Variable]:
    """Return the states of all seed generators. `tf.train.Checkpoint` omits those of dropout layers."""
    networks = [part for part in state.values() if isinstance(part, keras.Model)]
    generators = [part for part in state.values() if isinstance(part, keras.random.SeedGenerator)]
    states: list[Any] = [v.value for network in networks for v in network.variables if "seed_generator" in v.path]
    return states + [generator.state.value for generator in generators]
