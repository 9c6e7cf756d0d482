"""Time the training steps of recipes in processes that run alternately.

Each process works for a short time, then waits while the other processes work. Other load on the machine therefore
affects all of them equally.

`Worker.in_checkout` runs this file as a script with the code of another checkout. This file therefore imports modules
of the project only inside functions, and supports the module names and arguments of older checkouts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

ROUND_SECONDS = 2.0

# %% Set-ups


class Setup(NamedTuple):
    """One recipe with one configuration."""

    recipe: str
    preset: str = "Config"  # name of a preset in the recipe, such as "DEMO"; "Config": the default configuration
    changes: Mapping[str, Any] = {}  # fields of the configuration that differ from the preset
    steps: int = 0  # number of steps per round; 0: enough for about two seconds

    @property
    def module(self) -> Any:
        """The recipe's module. As with `python -m recipes.NAME`, Keras is imported when it is first used."""
        with contextlib.suppress(ImportError):  # checkouts from before November 2026
            importlib.import_module("common.system.lazy").defer_imports()
        return importlib.import_module(f"recipes.{self.recipe}")

    @property
    def config(self) -> Any:
        """The recipe's configuration."""
        preset = getattr(self.module, self.preset)
        return preset(**self.changes) if isinstance(preset, type) else dataclasses.replace(preset, **self.changes)

    def build(self) -> Any:
        """Return the recipe's networks."""
        return self.module.build(self.config)


def random_images(recipe: str, config: Any, batch_count: int = 4) -> tuple[np.ndarray, ...]:
    """Return random examples for `batch_count` batches, one array per input of the recipe's training step.

    Images are uint8 [n, size, size, channels]. Labels are int32 [n].
    """
    random = np.random.default_rng(0)
    count = batch_count * config.batch_size
    shape = (count, config.size, config.size, getattr(config, "channels", 3))
    labels = config.labels if recipe == "adversarial_autoencoder" else "none"
    kinds = ["image"]
    if recipe in ("pix2pix", "cyclegan", "face_swap", "ssgan") or labels == "few":
        kinds.append("image")
    if recipe in ("mlp", "lenet", "mobilenet", "fgsm", "ssgan", "diffusion") or labels != "none":
        kinds.append("class")
    return tuple(
        random.integers(0, 256, shape, np.uint8)
        if kind == "image"
        else random.integers(0, config.outputs, count, np.int32)
        for kind in kinds
    )


# %% Processes that take turns

Work = Callable[..., Mapping[str, Any]]
"""A function (turns, *arguments) -> results. It calls `turns.next()` between rounds and at the end."""


class Turns:
    """The worker-side handle of the connection. It makes the worker wait for its turn before each round."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.began: tuple[float, float] | None = None
        self.peak_memory = 0.0  # in MB, at the end of the last turn

    def next(self) -> None:
        """Report the wall-clock and CPU seconds of this turn, and wait for the next turn."""
        if self.began is not None:
            wall, cpu = time.monotonic(), time.process_time()
            self.peak_memory = peak_memory()
            self.connection.send((wall - self.began[0], cpu - self.began[1]))
        self.connection.recv()
        self.began = time.monotonic(), time.process_time()


def _serve(connection: Connection, threads: int, work: Work, arguments: Sequence[Any]) -> None:
    """Run `work` in this process, and send its results."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        turns = Turns(connection)
        turns.next()
        results = work(turns, *arguments)
        connection.send({**results, "peak_memory_mb": turns.peak_memory})


class Worker:
    """The parent-side handle of a process that runs `work(turns, *arguments)`."""

    def __init__(self, threads: int, work: Work, *arguments: Any):
        context = multiprocessing.get_context("spawn")  # a fork would share memory with this process
        self.name, self.started = work.__name__, time.monotonic()
        self.connection, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, threads, work, arguments), daemon=True)
        process.start()
        other.close()

        def exit_status() -> int | None:
            process.join()
            return process.exitcode

        self.exit_status: Callable[[], int | None] = exit_status

    @classmethod
    def in_checkout(cls, folder: Path, threads: int, setup: Setup, rounds: int) -> Worker:
        """Return a worker that runs `run_recipe` with the code of another checkout of this project."""
        worker = cls.__new__(cls)
        worker.name, worker.started = str(folder), time.monotonic()
        worker.connection, other = multiprocessing.Pipe()
        command = [sys.executable, "-P", __file__, str(other.fileno()), str(threads), json.dumps(setup), str(rounds)]
        environment = os.environ | {"PYTHONPATH": str(folder)}
        process = subprocess.Popen(command, env=environment, cwd=folder, pass_fds=[other.fileno()])
        other.close()
        worker.exit_status = process.wait
        return worker

    def turn(self) -> tuple[float, float]:
        """Let the process run for one turn; return the wall-clock and CPU seconds of the turn.

        Raises:
            RuntimeError: the process has ended.
        """
        return self._answer()

    def finish(self) -> dict[str, Any]:
        """Let the process end; return its results."""
        results = self._answer()
        self.exit_status()
        return results

    def _answer(self) -> Any:
        try:
            self.connection.send(None)
            return self.connection.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"{self.name}: the process ended with exit status {self.exit_status()}") from None


def peak_memory() -> float:
    """Return the peak memory of this process in MB (10^6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# %% The training step of a recipe
#
# All variants divide their work into turns in the same way. The first turn is one step. The second turn starts with a
# few steps, which determine how many steps take two seconds, and continues with a warm-up round. Each later turn is one
# round.


def run_recipe(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Train with the recipe's `train`."""
    try:
        batches = importlib.import_module("common.data.batches").batches
    except ImportError:  # checkouts from before November 2026
        batches = importlib.import_module("common.batches").batches
    networks = setup.build()
    before = sampled(network.trainable_variables for network in networks)
    images = random_images(setup.recipe, setup.config)
    data = batches(images, setup.config.batch_size, setup.config.seed)
    data = data._replace(held_out=tuple(each[:1] for each in images))
    steps = train_in_turns(turns, setup, rounds, networks, data)
    return results(steps, before, [network.trainable_variables for network in networks])


def train_in_turns(turns: Turns, setup: Setup, rounds: int, networks: Any, data: Any) -> int:
    """Call the recipe's `train` with a loop that waits for its turns; return the number of steps per round.

    The loop is the `fit` that users run, but without the recipe's work between epochs, such as validation.
    """
    done: list[int] = []
    stream, fit = data.at(0), setup.module.fit

    def fit_in_turns(step: Callable[..., Any], _: Any, __: int, state: Any, *___: object, **options: Any) -> list:
        kept = {name: value for name, value in options.items() if name == "execution"}  # in old checkouts

        def run(steps: int, epochs: int, on_epoch: Callable[[], None]) -> None:
            same = type(data)(steps, lambda step: stream)
            fit(step, same, epochs, state, on_epoch=lambda *_: on_epoch(), **kept)

        def spent(steps: int) -> float:
            times: list[float] = []
            run(steps, 2, lambda: times.append(time.monotonic()))
            return times[1] - times[0]  # the first epoch includes tracing

        run(1, 1, turns.next)
        steps = setup.steps or steps_of_a_round(spent)
        run(steps, 1 + rounds, turns.next)
        done.append(steps)
        return []

    with mock.patch.object(setup.module, "fit", fit_in_turns):
        setup.module.train(networks, data, setup.config)
    return done[0]


def steps_of_a_round(spent: Callable[[int], float]) -> int:
    """Return the number of steps that take `ROUND_SECONDS`. `spent(steps)` runs them and returns the seconds."""
    steps = 2
    seconds = spent(steps)
    if seconds < 0.02:  # too short to extrapolate
        steps = 500
        seconds = spent(steps)
    return max(1, round(steps * ROUND_SECONDS / seconds))


def sampled(networks: Iterable[Sequence[Any]]) -> list[np.ndarray]:
    """Return the values at 256 random positions in each kernel.

    The first 256 values would not show whether training works: the corners of some kernels are only multiplied by
    padding, so training never changes them.
    """
    flat = [np.ravel(each.numpy()) for weights in networks for each in weights if len(each.shape) > 1]
    return [each[np.random.default_rng(0).integers(0, len(each), 256)] for each in flat]


def results(steps: int, before: list[np.ndarray], networks: list[Sequence[Any]]) -> dict[str, Any]:
    """Return the results of a variant.

    Args:
        steps: the number of steps per round.
        before: the return value of `sampled` before training.
        networks: the trainable weights of each network after training.

    Returns:
        `steps`; `parameters`: the parameter counts of the networks with trainable weights;
        `smallest_change`: the mean absolute change of the kernel that changed the least.
    """
    changes = zip(before, sampled(networks), strict=True)
    counts = [sum(math.prod(weight.shape) for weight in weights) for weights in networks if weights]
    smallest = min(float(np.abs(new - old).mean()) for old, new in changes)
    return {"steps": steps, "parameters": counts, "smallest_change": smallest}


if __name__ == "__main__":
    _, fileno, threads, setup, rounds = sys.argv
    # Otherwise, an editable install of one checkout would add its modules to the packages of the other checkout.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]
    _serve(Connection(int(fileno)), int(threads), run_recipe, (Setup(*json.loads(setup)), int(rounds)))
