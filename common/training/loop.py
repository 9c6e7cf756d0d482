"""The training loop of the recipes: progress, mean losses per epoch, and checkpoints for bit-exact resumption."""

from __future__ import annotations

import inspect
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.batches import Batches, named_failures
from common.system.cluster import is_chief, place
from common.system.console import Progress, attempt, duration, noted_if_slow, say
from common.system.files import InputError
from common.system.lazy import tf
from common.system.locks import only_process_in
from common.training.checks import check_images, explained_misfit
from common.training.execution import active_execution
from common.training.health import epoch_warnings
from common.training.saves import History, Saves

if TYPE_CHECKING:
    from tqdm.auto import tqdm


OnEpoch = Callable[[int, dict[str, float]], Mapping[str, float] | None]
"""A callback. It gets the epoch, counted from 1, and its losses by name. It may return more columns for the history."""


def fit(
    step: Callable[..., dict[str, tf.Tensor]],
    data: Batches,
    epochs: int,
    state: Mapping[str, object],
    output_dir: Path | str | None = None,
    *,
    on_epoch: OnEpoch | Sequence[OnEpoch | None] | None = None,
    save_seconds: float = 120.0,
    best: str = "",
    patience: int = 0,
    healthy: Mapping[str, tuple[float, float, str]] | None = None,
) -> History:
    """Run `step` on every batch of `data` for `epochs` epochs, and return one row of mean losses per epoch.

    On Ctrl-C or SIGTERM, `fit` finishes the current step, writes a checkpoint and raises KeyboardInterrupt. Only one
    process at a time can train in an `output_dir`.

    Under a `tf.distribute` strategy, each replica gets a part of every batch, and the losses are averaged over the
    replicas. An optimizer created by `adam` averages the gradients. If several machines train together, only the chief
    writes files, and all machines stop after the same step.

    `executing` sets whether XLA compiles the step, how many steps run in one call from Python, whether the history is
    also written for TensorBoard, and another column than `best`.

    Args:
        step: function that gets the tensors of a batch, updates the weights, and returns a dictionary of losses.
        data: the batches.
        epochs: number of passes over the data.
        state: the objects that training changes, such as networks, built optimizers and `Noise`, with a name for each.
        output_dir: the run folder. Checkpoints are written every `save_seconds` and after each epoch; the newest three
            are kept. A later call with the same arguments resumes from the newest checkpoint, bit for bit. If
            `output_dir` is None, no files are written.
        on_epoch: one or more functions, called after each epoch with its number and losses; None is skipped. If a
            function returns a mapping, the mapping is added to the epoch's row. If a function fails, a warning is
            printed and training continues. With `best`, the exception is raised instead.
        save_seconds: seconds between checkpoints within an epoch.
        best: a history column. After training, the weights from the epoch with its lowest value are restored, or with
            its highest value for the columns in HIGHER_IS_BETTER.
        patience: with `best`, training stops after this many epochs without a better value; 0 for no limit.
        healthy: for each history column to check, the smallest and largest healthy values, and the warning for other
            values. Warnings appear on the console, in `warnings.json` and in the report, but do not stop training.

    Returns:
        One row per epoch: `epoch`, the mean of each loss, the values from `on_epoch`, `seconds`, `steps_per_second`.

    Raises:
        FloatingPointError: a loss or a weight is not finite; the earlier checkpoints are kept.
        InputError: the checkpoints in `output_dir` are unreadable or belong to other networks, another process is
            training there, the history has no column `best`, a batch cannot be split evenly between the replicas, or
            XLA is requested for several devices.
        OSError: `output_dir` is not writable.
    """
    from tqdm.auto import tqdm

    strategy, execution = tf.distribute.get_strategy(), active_execution()
    if execution.xla and strategy.num_replicas_in_sync > 1:
        raise InputError("--xla supports only one device, but this run uses several; omit --xla")
    names: list[str] = []
    advance = _traced(step, data, state, execution.xla, names)
    steps, total = data.steps_per_epoch, epochs * data.steps_per_epoch
    alone = place().workers == 1
    per_call, forecast = _StepsPerCall(execution.steps_per_call, alone), _Forecast()
    hidden = None if is_chief() else True  # None: hide the bar if there is no terminal
    with (
        only_process_in(output_dir),
        _stop_signals(catch=output_dir is not None) as stopped,
        named_failures(),
        tqdm(total=total, unit="step", disable=hidden, mininterval=0.5) as bar,
    ):
        progress = _Progress(Saves(output_dir, state, healthy or {}), steps, epochs, names, bar, best)
        # All epochs share one iterator. Creating it takes 50 ms, which is longer than some epochs of small networks.
        iterator = iter(_shared_out(strategy, data, progress.done, max(0, total - progress.done)))
        while progress.done < total and not (patience and progress.best and progress.since_best() >= patience):
            progress.begin_epoch()
            stopping = False
            while progress.within < steps and not stopping:
                count = min(per_call.count, steps - progress.within)
                called = time.monotonic()
                rows = advance(iterator, tf.constant(count), tf.constant(float(bool(stopped))))
                if per_call.undecided:
                    rows.numpy()  # wait for the results, so that the timing covers complete steps
                    per_call.learn(count, time.monotonic() - called)
                    if not per_call.undecided and per_call.count > 1:
                        _show(bar.write, f"{per_call.count} steps per call")
                progress.add(rows, count)
                if forecast.due(count, per_call.undecided):
                    rows.numpy()  # wait for the results, so that the timing covers complete steps
                    progress.announce(forecast.seconds_per_step())
                stopping = bool(stopped) if alone else float(rows[-1, -1]) > 0  # all machines stop after the same step
                progress.save_in_epoch(save_seconds, stopping)
            if progress.within == steps:
                progress.end_epoch(on_epoch)
                forecast.done = True  # the line of the epoch says how much time is left
            if stopping or (alone and stopped):
                raise KeyboardInterrupt(f"stopped after step {progress.done} of {total}")
        progress.finish(patience)
    if stopped:
        raise KeyboardInterrupt(f"stopped after step {progress.done} of {total}")
    return progress.history


def _traced(
    step: Callable[..., dict[str, tf.Tensor]], data: Batches, state: Mapping[str, object], xla: bool, names: list[str]
) -> Callable:
    """Return a TensorFlow function that runs `count` steps and returns their losses, one row per step.

    The last column is above 0 if a machine received a stop signal. Tracing stores the names of the other columns in
    `names`.
    """
    strategy = tf.distribute.get_strategy()
    body = getattr(step, "python_function", step)  # replicas cannot synchronise inside a nested tf.function
    specs = tf.nest.flatten(data.at(0).element_spec)
    shapes = _part_shapes(strategy.num_replicas_in_sync, specs)
    parameters = inspect.signature(body)
    try:
        parameters.bind(*shapes)
    except TypeError:
        wanted = ", ".join(parameters.parameters)
        raise InputError(f"a batch must contain the tensors {wanted}; the data has {len(shapes)} per batch") from None
    check_images(dict(zip(parameters.parameters, specs, strict=False)), state)
    compiled = tf.function(body, jit_compile=True) if xla else body

    @tf.function
    def advance(iterator, count, stopping):
        def part(*batch):
            losses = compiled(*(tf.ensure_shape(each, shape) for each, shape in zip(batch, shapes, strict=True)))
            names[:] = losses
            # The losses are stacked in one vector, so that one copy to the host suffices.
            return tf.stack([*(tf.cast(loss, tf.float32) for loss in losses.values()), stopping])

        rows = tf.TensorArray(tf.float32, count)
        for number in tf.range(count):
            rows = rows.write(number, strategy.reduce("MEAN", strategy.run(part, args=next(iterator)), axis=None))
        return rows.stack()

    def explained(*arguments: Any) -> tf.Tensor:
        slow = nullcontext() if names else noted_if_slow("preparing the first training step")
        with explained_misfit(names, data), slow:
            return advance(*arguments)

    return explained


class _Progress:
    """The progress of training: the steps done, the loss sums of this epoch, and the history of earlier epochs."""

    def __init__(self, saves: Saves, steps: int, epochs: int, names: list[str], bar: tqdm, best: str):
        self.saves, self.steps, self.epochs, self.names, self.bar = saves, steps, epochs, names, bar
        self.best = active_execution().keep_best or best
        self.done, self.totals, self.seconds, self.history = saves.newest(steps)
        self.settled = self.done  # number of steps whose losses have been added to `totals`
        self.recent: list[tf.Tensor] = []  # losses of later steps, which may still be running; one row per step
        self.within = self.first = 0  # steps of this epoch: done so far, done before this process started
        self.started = self.saved = self.shown = 0.0
        self.begun = time.monotonic()
        self.paced: tuple[float, int] | None = None  # time and steps done at the first line
        self.line_due = self.begun + Progress.FIRST_LINE  # of the next line without a terminal
        bar.n = bar.initial = self.done

    def begin_epoch(self) -> None:
        epoch, self.within = divmod(self.done, self.steps)
        self.first = self.within
        self.started = self.saved = self.shown = time.monotonic()
        _show(self.bar.set_description, f"epoch {epoch + 1}/{self.epochs}", False)

    def add(self, rows: tf.Tensor, count: int) -> None:
        """Store the losses of `count` steps. At most once per second, show this epoch's mean losses so far."""
        self.recent.append(rows)
        self.done, self.within = self.done + count, self.within + count
        _show(self.bar.update, count)
        if (now := time.monotonic()) - self.shown > 1.0:
            self.settle()
            means = {name: f"{total / self.within:.3g}" for name, total in self.totals.items()}
            _show(self.bar.set_postfix, means, False)
            self.shown = now
            if self.bar.disable and is_chief() and now >= self.line_due and self.within < self.steps:
                self.show_line(now)

    def show_line(self, now: float) -> None:
        """Print where training is, and how long it will take. Without a terminal, there is no bar that says so.

        The first line has no time: until then, most of the time went into tracing the step.
        """
        left = ""
        if self.paced:
            then, done = self.paced
            remaining = (now - then) * (self.epochs * self.steps - self.done) / (self.done - done)
            left = f"  about {duration(remaining)} left"
        self.paced = self.paced or (now, self.done)
        losses = "  ".join(f"{name} {total / self.within:.4g}" for name, total in self.totals.items())
        where = f"epoch {self.done // self.steps + 1}/{self.epochs}, step {self.within:,} of {self.steps:,}"
        _show(self.bar.write, f"{where}  {losses}{left}")
        self.line_due = now + Progress.pause(now - self.begun)

    def announce(self, seconds_per_step: float) -> None:
        """Print about how long the remaining epochs will take, unless they take less than 20 s."""
        seconds = seconds_per_step * (self.epochs * self.steps - self.done)
        if seconds >= 20 and is_chief():
            epochs = f"{self.epochs - self.done // self.steps} {'more ' if self.history else ''}epochs"
            _show(self.bar.write, f"about {duration(seconds)} for {epochs}, {seconds_per_step:.2g} s per step")

    def settle(self) -> None:
        """Wait for the recent steps, and add their losses to `totals`.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        rows = np.concatenate([rows.numpy() for rows in self.recent]) if self.recent else ()
        for values in np.asarray(rows, np.float64):
            self.settled += 1
            for name, value in zip(self.names, values[:-1], strict=True):
                if not math.isfinite(value):
                    raise FloatingPointError(self.saves.advice(name, value, self.settled))
                self.totals[name] = self.totals.get(name, 0.0) + float(value)
        self.recent.clear()

    def save_in_epoch(self, every_seconds: float, stopping: bool) -> None:
        """Write a checkpoint within an epoch if the last one is older than `every_seconds`, or if training stops."""
        now = time.monotonic()
        if self.within < self.steps and (now - self.saved > every_seconds or stopping):
            self.settle()
            seconds = self.seconds + now - self.started
            self.saves.write(self.done, self.steps, self.totals, seconds, self.history)
            self.saved = now

    def end_epoch(self, on_epoch: OnEpoch | Sequence[OnEpoch | None] | None) -> None:
        """Add a row to the history, call `on_epoch`, write a checkpoint, and print the row."""
        spent = time.monotonic() - self.started
        self.settle()
        means = {name: total / self.steps for name, total in self.totals.items()}
        row = {"epoch": self.done // self.steps, **means}
        for call in on_epoch if isinstance(on_epoch, Sequence) else (on_epoch,):
            if call is not None:
                row |= self.measured(call, row)
        row["seconds"] = self.seconds + spent
        row["steps_per_second"] = (self.steps - self.first) / spent
        if self.best and self.best not in row:
            columns = ", ".join(name for name in row if name not in UNSUMMED)
            raise InputError(f"--keep-best: the history has no column {self.best!r}; choose from {columns}")
        self.history.append(row)
        if self.best and not self.since_best():
            self.saves.keep_best()
        self.totals, self.seconds = {}, 0.0
        self.saves.write(self.done, self.steps, self.totals, self.seconds, self.history)
        if is_chief():
            _say(self.bar, row, self.epochs, self.saves.healthy)
            now = time.monotonic()
            self.line_due = now + Progress.pause(now - self.begun)

    def measured(self, call: OnEpoch, row: Mapping[str, float]) -> dict[str, float]:
        """Call one of the `on_epoch` functions for the epoch of `row`, and return its results as Python numbers."""
        epoch = int(row["epoch"])
        losses = {name: value for name, value in row.items() if name != "epoch"}

        def measure() -> dict[str, float]:
            found = call(epoch, losses)
            found = found if isinstance(found, Mapping) else {}
            return {name: value if isinstance(value, int | float) else float(value) for name, value in found.items()}

        return measure() if self.best else attempt(f"images or scores after epoch {epoch}", measure) or {}

    def since_best(self) -> int:
        """Return the number of epochs after the one with the best value of the column `best`."""
        sign = -1 if self.best.endswith(HIGHER_IS_BETTER) else 1
        values = [sign * row[self.best] for row in self.history]
        return len(values) - 1 - values.index(min(values)) if values else 0

    def finish(self, patience: int) -> None:
        """Restore the best weights, and write the final report."""
        if self.done < self.epochs * self.steps:
            _show(self.bar.write, f"stopped: no better {self.best} for {patience} epochs")
        if self.best and self.history:
            self.saves.restore_best()
        self.saves.report(self.history)


class _StepsPerCall:
    """The number of steps per call from Python. If 0 is requested, it starts at 1 and doubles until a call takes 50 ms.

    At 50 ms per call, Python's overhead hardly matters, and Ctrl-C is still handled quickly. If several machines train
    together, all must use the same number, but their timings differ. In this case, 0 therefore means 1.
    """

    def __init__(self, given: int, alone: bool, most: int = 256):
        self.count, self.undecided, self.most = given or 1, given == 0 and alone, most
        self.traced = False

    def learn(self, count: int, seconds: float) -> None:
        if not self.traced:  # the first call includes tracing
            self.traced = True
        elif seconds > 0.05 or self.count >= self.most:
            self.undecided = False
        elif count == self.count:
            self.count *= 2


class _Forecast:
    """The time of a step, measured over the first seconds of training.

    The first call is left out, because it includes tracing, and so are the calls that find the number of steps per
    call.
    """

    def __init__(self, seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.started: float | None = None
        self.steps, self.done = 0, False

    def due(self, count: int, undecided: bool) -> bool:
        """Count `count` steps that were just started; return whether enough of them have been timed. True only once."""
        if self.done:
            return False
        if self.started is None or undecided:
            self.started, self.steps = self.clock(), 0
            return False
        self.steps += count
        self.done = self.clock() - self.started >= self.seconds
        return self.done

    def seconds_per_step(self) -> float:
        """Return the time of a step in seconds. Call it when the results of the counted steps are there."""
        return (self.clock() - (self.started or 0.0)) / self.steps


def _part_shapes(replicas: int, specs: Sequence[tf.TensorSpec]) -> list[tf.TensorShape]:
    """Return the shapes of one replica's part of a batch. Raise InputError if the batch cannot be split evenly."""
    shapes = [spec.shape for spec in specs]
    for count, *_ in shapes if replicas > 1 else ():
        if count is None:
            raise InputError(
                f"{replicas} devices need batches of a fixed size; "
                "batch the data set with `.batch(size, drop_remainder=True)`"
            )
        if count % replicas:
            raise InputError(
                f"a batch of {count} cannot be split evenly between {replicas} devices; "
                f"--batch-size must be a multiple of {replicas}"
            )
    return [tf.TensorShape([shape[0] // replicas, *shape[1:]]) if replicas > 1 else shape for shape in shapes]


def _shared_out(strategy: tf.distribute.Strategy, data: Batches, first: int, count: int) -> Iterable:
    """Distribute the batches of `count` steps, starting at step `first`, among the replicas."""

    def part(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers, worker = context.num_input_pipelines, context.input_pipeline_id
        stream = (data.at(first, worker, workers) if workers > 1 else data.at(first)).take(count)
        options = tf.data.Options()
        options.autotune.enabled = False  # with autotuning, some epochs take twice as long on two cores
        stream = stream.with_options(options)
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
    """Collect SIGINT and SIGTERM in the yielded list, so that the current step can finish.

    A second signal raises KeyboardInterrupt.
    """
    received: list[int] = []
    if not catch or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        say("")  # start a new line after the progress bar
        say("stopping after this step; press Ctrl-C again to stop immediately")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(bar: tqdm, row: Mapping[str, float], epochs: int, healthy: Mapping[str, tuple[float, float, str]]) -> None:
    losses = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in UNSUMMED)
    left = bar.format_interval((epochs - row["epoch"]) * row["seconds"])
    _show(bar.write, f"epoch {row['epoch']}/{epochs}  {losses}  {row['steps_per_second']:.1f} steps/s, {left} left")
    for warning in epoch_warnings(row, healthy):
        _show(bar.write, f"  warning: {warning}")


def _show(show: Callable[..., Any], *arguments: Any) -> None:
    """Call a method of the progress bar. Output errors, such as a closed pipe, are ignored."""
    with suppress(OSError, ValueError):
        show(*arguments)


HIGHER_IS_BETTER = ("accuracy", "ssim", "psnr", "diversity")  # endings of columns whose best value is the highest
UNSUMMED = ("epoch", "seconds", "steps_per_second")  # columns of the history that are not losses
