"""The loop every recipe trains with: progress, epoch means, and saves from which a run goes on bit for bit."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.batches import Batches, named_failures
from common.cluster import is_chief, place
from common.errors import InputError
from common.execution import PLAIN, Execution
from common.files import replacing, write_json
from common.health import Healthy, epoch_warnings, run_warnings
from common.lazy import keras, tf
from common.report import write_report

if TYPE_CHECKING:
    from tqdm.auto import tqdm

History = list[dict[str, float]]
"""One row an epoch: its number, the mean of every loss, seconds, and steps per second."""


def fit(
    step: Callable[..., dict[str, tf.Tensor]],
    data: Batches,
    epochs: int,
    state: Mapping[str, object],
    output_dir: Path | None = None,
    *,
    on_epoch: Callable[[int], Mapping[str, float] | None] | None = None,
    save_seconds: float = 120.0,
    best: str = "",
    patience: int = 0,
    healthy: Mapping[str, Healthy] | None = None,
    execution: Execution = PLAIN,
) -> History:
    """Run `step` over `epochs` passes of `data`; return one row of mean losses per epoch.

    `state` names everything that training changes: networks, built optimizers, seed generators. With an
    `output_dir` it is saved there every `save_seconds` and at the end of each epoch, the newest three saves are
    kept, and a later call with the same arguments goes on from the newest as if it had never been stopped.
    `on_epoch` gets the number of each finished epoch, for pictures; what it returns joins the epoch's row. Ctrl-C
    and SIGTERM end the step, save, and raise KeyboardInterrupt.

    Under a `tf.distribute` strategy every replica takes its part of each batch and losses go through `share`. Of
    several machines (`common.cluster`) the chief alone writes, all read what it wrote, and all stop where one is told
    to.

    `best` names a column of the history: at the end the networks of `state` have the weights of the epoch in which it
    was smallest, and training ends early once it has not fallen for `patience` epochs (0: it never does).

    `healthy` says where columns of the history should lie. Outside of that the epoch's line says so, and the run's
    `warnings.json` and report do; training goes on.

    `execution` says whether XLA compiles the step and how many steps one call from Python does: no result depends on
    the latter.

    Raises:
        FloatingPointError: a loss or a weight is not finite; the saves before it are kept.
        InputError: no save in `output_dir` can be read, they belong to other networks, a batch cannot be shared evenly
            by the replicas, or XLA should compile for several.
        OSError: `output_dir` cannot be written to.
    """
    from tqdm.auto import tqdm

    strategy = tf.distribute.get_strategy()
    names: list[str] = []

    if execution.xla and strategy.num_replicas_in_sync > 1:
        raise InputError("XLA compiles the step of a single device, and here several train; leave out --xla")
    body = getattr(step, "python_function", step)  # replicas meet in mid-step, and a function within would part them
    compiled = tf.function(body, jit_compile=True) if execution.xla else body
    shapes = _part_shapes(strategy.num_replicas_in_sync, data)

    @tf.function
    def advance(iterator, count, stopping):
        def part(*batch):
            losses = compiled(*(tf.ensure_shape(each, shape) for each, shape in zip(batch, shapes, strict=True)))
            names[:] = losses  # while tracing: they are handed out as one vector, which is one copy to the host
            return tf.stack([*(tf.cast(loss, tf.float32) for loss in losses.values()), stopping])

        rows = tf.TensorArray(tf.float32, count)
        for number in tf.range(count):
            rows = rows.write(number, strategy.reduce("SUM", strategy.run(part, args=next(iterator)), axis=None))
        return rows.stack()

    healthy = healthy or {}
    saves = _Saves(output_dir, state, healthy)
    steps = data.steps_per_epoch
    done, totals, seconds, history = saves.newest(steps)

    def since_best() -> int:
        values = [row[best] for row in history]
        return len(values) - 1 - values.index(min(values)) if values else 0

    def worn_out() -> bool:
        return bool(best and patience) and since_best() >= patience

    recent: list[tf.Tensor] = []  # losses of calls that are not in `totals` yet, a row a step
    settled = done
    alone = place().workers == 1
    at_once = _StepsPerCall(execution.steps_per_call, alone)

    quiet = None if is_chief() else True  # None: where there is no terminal

    def settle() -> None:
        nonlocal settled
        for values in np.concatenate([rows.numpy() for rows in recent]).astype(np.float64) if recent else ():
            settled += 1
            for name, value in zip(names, values[:-1], strict=True):
                if not math.isfinite(value):
                    raise FloatingPointError(_advice(name, value, settled, saves))
                totals[name] = totals.get(name, 0.0) + float(value)
        recent.clear()

    with (
        _stop_signals(catch=output_dir is not None) as stopped,
        named_failures(),
        tqdm(total=epochs * steps, initial=done, unit="step", disable=quiet, mininterval=0.5) as bar,
    ):
        # One stream for all epochs: making it anew costs 50 ms, more than many an epoch of small networks.
        iterator = iter(_shared_out(strategy, data, done, max(0, epochs * steps - done)))
        while done < epochs * steps and not worn_out():
            epoch, within = divmod(done, steps)
            first = within
            started = saved = shown = time.monotonic()
            bar.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
            stopping = False
            while within < steps and not stopping:
                count = min(at_once.count, steps - within)
                called = time.monotonic()
                recent.append(advance(iterator, tf.constant(count), tf.constant(float(bool(stopped)))))
                if at_once.undecided:
                    recent[-1].numpy()  # so that its time is its own
                    at_once.learn(count, time.monotonic() - called)
                    if not at_once.undecided and at_once.count > 1:
                        bar.write(f"{at_once.count} steps in a call")
                done, within = done + count, within + count
                bar.update(count)
                now = time.monotonic()
                stopping = bool(stopped) if alone else float(recent[-1][-1, -1]) > 0  # all stop after the same step
                if now - shown > 1.0:
                    settle()
                    bar.set_postfix({name: f"{total / within:.3g}" for name, total in totals.items()}, refresh=False)
                    shown = now
                if within < steps and (now - saved > save_seconds or stopping):
                    settle()
                    saves.write(done, steps, totals, seconds + now - started, history)
                    saved = now
            spent = time.monotonic() - started
            if within == steps:
                settle()
                means = {name: total / steps for name, total in totals.items()}
                rate = {"seconds": seconds + spent, "steps_per_second": (steps - first) / spent}
                measured = (on_epoch(epoch + 1) or {}) if on_epoch is not None else {}
                history.append({"epoch": epoch + 1, **means, **measured, **rate})
                if best and not since_best():
                    saves.keep_best()
                totals, seconds = {}, 0.0
                saves.write(done, steps, totals, seconds, history)
                if is_chief():
                    _say(bar, history[-1], epochs, healthy)
            if stopping or (alone and stopped):
                raise KeyboardInterrupt(f"stopped after step {done} of {epochs * steps}")
        if worn_out() and done < epochs * steps:
            bar.write(f"stopped: {best} has not fallen for {patience} epochs")
    if best and history:
        saves.restore_best()
    saves.report(history)
    return history


def share(loss: tf.Tensor) -> tf.Tensor:
    """Return this replica's share of a mean over the global batch; Keras optimizers sum over replicas."""
    return loss / tf.distribute.get_strategy().num_replicas_in_sync


class _StepsPerCall:
    """How many steps one call does: as given or, for 0, doubled until a call takes a twentieth of a second.

    Then Python's own time between calls hardly counts, and Ctrl-C is still heard at once. Several machines, whose
    calls must be alike, do one.
    """

    def __init__(self, given: int, alone: bool, most: int = 256):
        self.count, self.undecided, self.most = given or 1, given == 0 and alone, most
        self.traced = False

    def learn(self, count: int, seconds: float) -> None:
        if not self.traced:  # the first call is spent on tracing
            self.traced = True
        elif seconds > 0.05 or self.count >= self.most:
            self.undecided = False
        elif count == self.count:
            self.count *= 2


def _part_shapes(replicas: int, data: Batches) -> list[tf.TensorShape]:
    """Return the shapes of one replica's part of a batch; InputError where it cannot be shared evenly."""
    shapes = [spec.shape for spec in tf.nest.flatten(data.at(0).element_spec)]
    for count, *_ in shapes if replicas > 1 else ():
        if count is None or count % replicas:
            raise InputError(
                f"a batch of {count} cannot be shared evenly by {replicas} devices; "
                f"give --batch-size a multiple of {replicas}"
            )
    return [tf.TensorShape([shape[0] // replicas, *shape[1:]]) if replicas > 1 else shape for shape in shapes]


def _shared_out(strategy: tf.distribute.Strategy, data: Batches, first: int, count: int) -> Iterable:
    """Return the batches of `count` steps from step `first` on, each replica's part at its device."""

    def part(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers, worker = context.num_input_pipelines, context.input_pipeline_id
        stream = (data.at(first, worker, workers) if workers > 1 else data.at(first)).take(count)
        still = tf.data.Options()
        still.autotune.enabled = False  # on two cores its search for better numbers of threads doubles some epochs
        stream = stream.with_options(still)
        here = context.num_replicas_in_sync // workers
        if here == 1:
            return stream

        def split(*batch: tf.Tensor) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensor_slices(
                tuple(tf.reshape(each, (here, each.shape[0] // here, *each.shape[1:])) for each in batch)
            )

        return stream.flat_map(split).prefetch(here)

    return strategy.distribute_datasets_from_function(part)


@contextmanager
def _stop_signals(catch: bool) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the list yielded, so that a step is never cut in two; the second one raises."""
    received: list[int] = []
    if not catch or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print("\nstopping after this step; once more to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(bar: tqdm, row: Mapping[str, float], epochs: int, healthy: Mapping[str, Healthy]) -> None:
    losses = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in UNSUMMED)
    left = bar.format_interval((epochs - row["epoch"]) * row["seconds"])
    bar.write(f"epoch {row['epoch']}/{epochs}  {losses}  {row['steps_per_second']:.1f} steps/s, {left} left")
    for warning in epoch_warnings(row, healthy):
        bar.write(f"  warning: {warning}")


UNSUMMED = ("epoch", "seconds", "steps_per_second")  # columns of a history that are no losses


def _advice(name: str, value: float, step: int, saves: _Saves) -> str:
    kept = saves.numbers()
    where = f"; the save after step {kept[0]} is kept in {saves.folder}" if kept else ""
    return (
        f"{name} became {value} at step {step}{where}: try a smaller learning rate in another --output-dir, "
        "or look for constant or broken images in the data"
    )


class _Saves:
    """The newest three saves of a run, each a folder that is whole or absent: `checkpoints/step-NUMBER`."""

    def __init__(self, output_dir: Path | None, state: Mapping[str, object], healthy: Mapping[str, Healthy]):
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
                progress = json.loads((folder / "progress.json").read_text())
                steps_before, *rest = (progress[key] for key in ("steps_per_epoch", "totals", "seconds", "history"))
                status = self.checkpoint.read(str(folder / "state"))
                status.assert_existing_objects_matched()
            except (OSError, ValueError, LookupError, TypeError, AssertionError, tf.errors.OpError) as error:
                failures.append(f"{folder}: {str(error).strip().splitlines()[0][:120]}")
                continue
            if failures:
                print(
                    f"passed over a damaged save ({failures[0]}); going on from step {number}",
                    file=sys.stderr,
                )
            if steps_before != steps:
                raise InputError(
                    f"{self.output_dir}: the data of this run made {steps_before} steps an epoch and now makes "
                    f"{steps}; bring the data back as they were, or start anew in another --output-dir"
                )
            return number, *rest
        if failures:
            raise InputError(
                f"no save can be read ({failures[0]}): it is damaged or of other networks; "
                "delete the folder to begin anew, or choose another --output-dir"
            )
        return 0, {}, 0.0, []

    def write(self, done: int, steps: int, totals: Mapping[str, float], seconds: float, history: History) -> None:
        """Save the state after step `done`, then the history and the report that a reader may open meanwhile."""
        if self.output_dir is None or not is_chief():
            return
        for variable in self.variables:
            if variable.dtype.startswith(("float", "bfloat")) and not bool(keras.ops.all(keras.ops.isfinite(variable))):
                raise FloatingPointError(_advice(f"weight {variable.path}", math.nan, done, self))
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            self.checkpoint.write(str(draft / "state"))
        except tf.errors.OpError as error:  # native code reports a full disk in this way
            shutil.rmtree(draft, ignore_errors=True)
            raise OSError(f"{self.folder}: the save after step {done} could not be written: {error.message}") from error
        try:
            progress = {"steps_per_epoch": steps, "totals": totals, "seconds": seconds, "history": history}
            write_json(draft / "progress.json", progress)
            final = self.folder / f"step-{done:08d}"
            shutil.rmtree(final, ignore_errors=True)  # one that could not be read, or it would not be written again
            draft.rename(final)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        for number in self.numbers()[3:]:
            shutil.rmtree(self.folder / f"step-{number:08d}")
        self.report(history, every_seconds=30.0)

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
                network.set_weights(self.best[name]) if self.best else network.load_weights(path)
            except Exception as error:  # a damaged file fails in many ways
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
                raise InputError(f"{path}: cannot be read ({reason}); train anew in another --output-dir") from None

    def report(self, history: History, every_seconds: float = 0.0) -> None:
        """Write `history.csv` and, unless one was written just now, the report."""
        if self.output_dir is None or not history or not is_chief():
            return
        write_history(self.output_dir, history)
        if self.healthy:
            write_json(self.output_dir / "warnings.json", {"warnings": run_warnings(history, self.healthy)})
        if time.monotonic() - self.reported > every_seconds:
            write_report(self.output_dir)
            self.reported = time.monotonic()


def write_history(output_dir: Path, history: History) -> None:
    """Write `history.csv`: a row an epoch, under the names of the columns."""
    with replacing(output_dir / "history.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)


def _seed_states(state: Mapping[str, object]) -> list[tf.Variable]:
    """Return the states of all seed generators: `tf.train.Checkpoint` leaves out those of dropout in a network."""
    networks = [part for part in state.values() if isinstance(part, keras.Model)]
    generators = [part for part in state.values() if isinstance(part, keras.random.SeedGenerator)]
    states = [v.value for network in networks for v in network.variables if "seed_generator" in v.path]
    return states + [generator.state.value for generator in generators]
