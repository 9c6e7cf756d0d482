"""The saves of a training: what a run resumes from, bit for bit."""

from __future__ import annotations

import csv
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from common.cluster import is_chief
from common.console import attempt, say
from common.errors import InputError, first_line
from common.files import delete, explained, replacing, replacing_folder, write_json
from common.health import Healthy, run_warnings
from common.lazy import keras, tf
from common.report import write_report

History = list[dict[str, float]]
"""One row per epoch: its number, the mean of every loss, seconds, and steps per second."""


class Saves:
    """The newest three saves of a run, each a folder that is whole or absent: `checkpoints/step-NUMBER`."""

    def __init__(self, output_dir: Path | None, state: Mapping[str, object], healthy: Mapping[str, Healthy]):
        """Take the `state` of `fit`; without an `output_dir`, nothing is written."""
        self.output_dir, self.healthy = output_dir, healthy
        self.folder = (output_dir or Path()) / "checkpoints"
        self.reported = -math.inf
        self.networks = {name: part for name, part in state.items() if isinstance(part, keras.Model)}
        self.best: dict[str, list[np.ndarray]] = {}  # where nothing is written
        if output_dir is None:
            return
        if is_chief():
            self.folder.mkdir(parents=True, exist_ok=True)
        parts = {name: part for name, part in state.items() if not isinstance(part, keras.random.SeedGenerator)}
        self.checkpoint = tf.train.Checkpoint(seeds=_seed_states(state), **parts)
        self.variables = [variable for part in parts.values() for variable in getattr(part, "variables", [])]

    def numbers(self) -> list[int]:
        """Return the steps after which there is a save, newest first."""
        names = [folder.name for folder in self.folder.glob("step-*")] if self.output_dir else []
        return sorted((int(name[5:]) for name in names if name[5:].isdecimal()), reverse=True)

    def newest(self, steps: int) -> tuple[int, dict[str, float], float, History]:
        """Restore the state; return the steps done, this epoch's sums of losses and seconds, and the history."""
        failures = []
        for number in self.numbers():
            folder = self.folder / f"step-{number:08d}"
            try:
                if odd := [path.name for path in folder.iterdir() if not path.is_file()]:  # a pipe would be waited for
                    raise ValueError(f"{odd[0]} is not a regular file")
                steps_before, totals, seconds, history = read_progress(folder / "progress.json")
                with _without_wildcards(folder) as place:
                    self.checkpoint.read(str(place / "state")).assert_existing_objects_matched()
            except Exception as error:  # a damaged save fails in many ways
                failures.append(f"{folder}: {first_line(error)}")
                continue
            if failures:
                say(f"passed over a damaged save ({failures[0]}); resuming from step {number}")
            if steps_before != steps:
                raise InputError(
                    f"{self.output_dir}: the data of this run made {steps_before} steps per epoch and now makes "
                    f"{steps}; restore the data, or choose another --output-dir"
                )
            self.prune()
            return number, totals, seconds, history
        if failures:
            raise InputError(
                f"no save can be read ({failures[0]}): it is damaged or of other networks; "
                "restore it from a copy, or choose another --output-dir"
            )
        return 0, {}, 0.0, []

    def write(self, done: int, steps: int, totals: Mapping[str, float], seconds: float, history: History) -> None:
        """Save the state after step `done`, then the history and the report that a reader may open meanwhile."""
        if self.output_dir is None or not is_chief():
            return
        for variable in self.variables:
            if variable.dtype.startswith(("float", "bfloat")) and not bool(keras.ops.all(keras.ops.isfinite(variable))):
                raise FloatingPointError(self.advice(f"weight {variable.path}", math.nan, done))
        final = self.folder / f"step-{done:08d}"  # if there is one already, it could not be read
        with explained(final, self.size()), replacing_folder(final) as draft:
            self.checkpoint.write(str(draft / "state"))
            progress = {"steps_per_epoch": steps, "totals": totals, "seconds": seconds, "history": history}
            write_json(draft / "progress.json", progress)
        self.prune()
        self.report(history, every_seconds=30.0)

    def prune(self) -> None:
        """Delete all saves but the newest three."""
        for number in self.numbers()[3:] if is_chief() else ():
            delete(self.folder / f"step-{number:08d}")

    def size(self) -> int:
        """Return how many bytes a save takes, without the few of its history."""
        return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in self.variables)

    def advice(self, name: str, value: float, step: int) -> str:
        """Return what to say of a value that is not finite."""
        kept = self.numbers()
        where = f"; the save after step {kept[0]} is kept in {self.folder}" if kept else ""
        return (
            f"{name} became {value} at step {step}{where}: try a smaller learning rate in another --output-dir, "
            "or look for constant or broken images in the data"
        )

    def keep_best(self) -> None:
        """Keep the networks' weights as the best so far: in `checkpoints/best`, or in memory."""
        if self.output_dir is None or not is_chief():
            self.best = {name: network.get_weights() for name, network in self.networks.items()}
            return
        for name, network in self.networks.items():
            with replacing(self.folder / "best" / f"{name}.keras") as draft:
                network.save(draft)

    def restore_best(self) -> None:
        """Give the networks the weights that `keep_best` kept."""
        for name, network in self.networks.items():
            path = self.folder / "best" / f"{name}.keras"
            try:
                if not self.best and not path.is_file():
                    raise FileNotFoundError("there is no such file")
                network.set_weights(self.best[name]) if self.best else network.load_weights(path)
            except Exception as error:  # a damaged file fails in many ways
                raise InputError(
                    f"{path}: cannot be read ({first_line(error)}); restore it from a copy, "
                    "or train anew in another --output-dir"
                ) from None

    def report(self, history: History, every_seconds: float = 0.0) -> None:
        """Write `history.csv` and, unless one was written just now, the report."""
        if self.output_dir is None or not history or not is_chief():
            return
        attempt("history.csv", write_history, self.output_dir, history)
        if self.healthy:
            warnings = {"warnings": run_warnings(history, self.healthy)}
            attempt("warnings.json", write_json, self.output_dir / "warnings.json", warnings)
        if time.monotonic() - self.reported > every_seconds:
            write_report(self.output_dir)
            self.reported = time.monotonic()


def write_history(output_dir: Path, history: History) -> None:
    """Write `history.csv`: one row per epoch, under the names of the columns."""
    columns = dict.fromkeys(name for row in history for name in row)
    with replacing(output_dir / "history.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def read_progress(path: Path) -> tuple[int, dict[str, float], float, History]:
    """Return what `Saves.write` put into progress.json; some exception if it is anything else."""
    progress = json.loads(path.read_text(encoding="utf-8"))
    steps, totals, seconds, history = (progress[key] for key in ("steps_per_epoch", "totals", "seconds", "history"))
    rows = [totals, *history]
    numbers = [steps, seconds, *(value for row in rows for value in row.values())]
    if not all(isinstance(value, int | float) for value in numbers) or not all("epoch" in row for row in history):
        raise ValueError("progress.json holds other values than a training writes")
    return int(steps), totals, float(seconds), history


@contextmanager
def _without_wildcards(folder: Path) -> Iterator[Path]:
    """Yield a path to a folder's files that has none of the characters which TensorFlow takes for a pattern.

    It writes to any path, but reads `runs/lr=[1e-3]` as the pattern of `runs/lr=1`.
    """
    if not set("[]*?\\") & set(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as plain:
        for path in folder.iterdir():
            with suppress(OSError):
                (Path(plain) / path.name).symlink_to(path.resolve())
                continue
            shutil.copyfile(path, Path(plain) / path.name)  # where links are not allowed
        yield Path(plain)


def _seed_states(state: Mapping[str, object]) -> list[tf.Variable]:
    """Return the states of all seed generators: `tf.train.Checkpoint` leaves out those of dropout in a network."""
    networks = [part for part in state.values() if isinstance(part, keras.Model)]
    generators = [part for part in state.values() if isinstance(part, keras.random.SeedGenerator)]
    states: list[Any] = [v.value for network in networks for v in network.variables if "seed_generator" in v.path]
    return states + [generator.state.value for generator in generators]
