"""The loop every recipe trains with: progress, epoch means, and saves from which a run goes on bit for bit."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.batches import Batches, named_failures
from common.cluster import is_chief, place
from common.console import attempt, say
from common.errors import InputError
from common.execution import PLAIN, Execution
from common.health import Healthy, epoch_warnings
from common.lazy import tf
from common.locks import only_process_in
from common.saves import History, Saves

if TYPE_CHECKING:
    from tqdm.auto import tqdm


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
    `on_epoch` gets the number of each finished epoch, for pictures; what it returns joins the epoch's row. If it fails,
    a line says so and training goes on, unless `best` needs its result. Ctrl-C and SIGTERM end the step, save, and
    raise KeyboardInterrupt. No other process may train in `output_dir` meanwhile.

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
        InputError: no save in `output_dir` can be read, they belong to other networks, another process trains there, a
            batch cannot be shared evenly by the replicas, or XLA should compile for several.
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
    steps, settled = data.steps_per_epoch, 0

    def since_best() -> int:
        values = [row[best] for row in history]
        return len(values) - 1 - values.index(min(values)) if values else 0

    def worn_out() -> bool:
        return bool(best and patience) and since_best() >= patience

    def measured(epoch: int) -> Mapping[str, float]:
        if on_epoch is None:
            return {}
        return (on_epoch(epoch) if best else attempt(f"images or scores after epoch {epoch}", on_epoch, epoch)) or {}

    recent: list[tf.Tensor] = []  # losses of calls that are not in `totals` yet, a row a step
    alone = place().workers == 1
    at_once = _StepsPerCall(execution.steps_per_call, alone)

    quiet = None if is_chief() else True  # None: where there is no terminal

    def settle() -> None:
        nonlocal settled
        for values in np.concatenate([rows.numpy() for rows in recent]).astype(np.float64) if recent else ():
            settled += 1
            for name, value in zip(names, values[:-1], strict=True):
                if not math.isfinite(value):
                    raise FloatingPointError(saves.advice(name, value, settled))
                totals[name] = totals.get(name, 0.0) + float(value)
        recent.clear()

    with (
        only_process_in(output_dir),
        _stop_signals(catch=output_dir is not None) as stopped,
        named_failures(),
        tqdm(total=epochs * steps, unit="step", disable=quiet, mininterval=0.5) as bar,
    ):
        saves = Saves(output_dir, state, healthy)
        done, totals, seconds, history = saves.newest(steps)
        settled = done
        bar.n = bar.initial = done
        # One stream for all epochs: making it anew costs 50 ms, more than many an epoch of small networks.
        iterator = iter(_shared_out(strategy, data, done, max(0, epochs * steps - done)))
        while done < epochs * steps and not worn_out():
            epoch, within = divmod(done, steps)
            first = within
            started = saved = shown = time.monotonic()
            _show(bar.set_description, f"epoch {epoch + 1}/{epochs}", False)
            stopping = False
            while within < steps and not stopping:
                count = min(at_once.count, steps - within)
                called = time.monotonic()
                recent.append(advance(iterator, tf.constant(count), tf.constant(float(bool(stopped)))))
                if at_once.undecided:
                    recent[-1].numpy()  # so that its time is its own
                    at_once.learn(count, time.monotonic() - called)
                    if not at_once.undecided and at_once.count > 1:
                        _show(bar.write, f"{at_once.count} steps in a call")
                done, within = done + count, within + count
                _show(bar.update, count)
                now = time.monotonic()
                stopping = bool(stopped) if alone else float(recent[-1][-1, -1]) > 0  # all stop after the same step
                if now - shown > 1.0:
                    settle()
                    means = {name: f"{total / within:.3g}" for name, total in totals.items()}
                    _show(bar.set_postfix, means, False)
                    shown = now
                if within < steps and (now - saved > save_seconds or stopping):
                    settle()
                    saves.write(done, steps, totals, seconds + now - started, history)
                    saved = now
            spent = time.monotonic() - started
            if within == steps:
                settle()
                row = {"epoch": epoch + 1, **{name: total / steps for name, total in totals.items()}}
                rate = {"seconds": seconds + spent, "steps_per_second": (steps - first) / spent}
                history.append({**row, **measured(epoch + 1), **rate})
                if best and not since_best():
                    saves.keep_best()
                totals, seconds = {}, 0.0
                saves.write(done, steps, totals, seconds, history)
                if is_chief():
                    _say(bar, history[-1], epochs, healthy)
            if stopping or (alone and stopped):
                raise KeyboardInterrupt(f"stopped after step {done} of {epochs * steps}")
        if worn_out() and done < epochs * steps:
            _show(bar.write, f"stopped: {best} has not fallen for {patience} epochs")
        if best and history:
            saves.restore_best()
        saves.report(history)
    if stopped:
        raise KeyboardInterrupt(f"stopped after step {done} of {epochs * steps}")
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
        say("")  # the progress bar stands in this line
        say("stopping after this step; once more to stop at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(bar: tqdm, row: Mapping[str, float], epochs: int, healthy: Mapping[str, Healthy]) -> None:
    losses = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in UNSUMMED)
    left = bar.format_interval((epochs - row["epoch"]) * row["seconds"])
    _show(bar.write, f"epoch {row['epoch']}/{epochs}  {losses}  {row['steps_per_second']:.1f} steps/s, {left} left")
    for warning in epoch_warnings(row, healthy):
        _show(bar.write, f"  warning: {warning}")


def _show(show: Callable[..., Any], *arguments: Any) -> None:
    """Call a method of the progress bar; where its stream is closed, or cannot encode the text, nothing is shown."""
    with suppress(OSError, ValueError):
        show(*arguments)


UNSUMMED = ("epoch", "seconds", "steps_per_second")  # columns of a history that are no losses
