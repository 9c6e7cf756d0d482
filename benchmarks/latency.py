"""How long a user waits: for `--help`, and for one picture from each kind of verb.

Help     `python -m recipes.NAME --help`, in a new process.
Cold     the verb as it is typed, in a new process: Python, Keras, the run's networks, the picture, the file.
Warm     the same command once more in a process that has done it: what is left of it without the imports.

The runs are made here, with the networks of the demo as `build` leaves them: what a network has learnt does not change
how long it takes. The picture is scikit-image's cat, 451 x 300 pixels, and for `swap` its astronaut.

Run      python -m benchmarks.latency           about six minutes on two quiet cores
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import describe, machine, markdown_table, run_benchmark
from common.clothes import CLOTHES_CLASSES
from common.errors import InputError
from common.face_finding import ColourShift, PersonShift
from common.files import write_json
from common.images import write_image
from common.latents import NormalMap
from common.runs import finish_run, start_run
from recipes import face_swap, fast_style_transfer

VERBS = {  # what is typed after the recipe's name
    "mlp": "classify {photo} --run {run}",
    "lenet": "classify {photo} --run {run}",
    "mobilenet": "classify {photo} --run {run}",
    "autoencoder": "reconstruct {photo} {picture} --run {run}",
    "vae": "reconstruct {photo} {picture} --run {run}",
    "pix2pix": "translate {photo} {picture} --run {run}",
    "cyclegan": "translate {photo} {picture} --run {run}",
    "fast_style_transfer": "stylize {photo} {picture} --run {run}",
    "face_swap": "swap {face} {picture} --run {run}",
    "fgsm": "attack {photo} {picture} --run {run}",
    "dcgan": "generate {picture} --run {run}",
    "deepdream": "dream {photo} {picture}",
}
COLUMNS = {
    "help": "`--help`, s",
    "help_cpu": "CPU s",
    "cold": "cold, s",
    "cold_cpu": "CPU s ",
    "warm": "warm, s",
    "warm_cpu": "CPU s  ",
}


def leave_run(name: str, folder: Path) -> None:
    """Write a recipe's run whose networks have learnt nothing."""
    module = importlib.import_module(f"recipes.{name}")
    start_run(folder, name, module.DEMO, "sample", CLOTHES_CLASSES if hasattr(module.DEMO, "outputs") else ())
    finish_run(folder, module.build(module.DEMO), dict)
    if name == "fast_style_transfer":
        config = fast_style_transfer.DEMO
        write_image(fast_style_transfer.read_style(config.style, config.style_size), folder / "style.png")
    if name == "face_swap":
        latents = face_swap.DEMO.latent_dim
        unmoved = NormalMap(np.eye(latents), np.zeros(latents), np.zeros(latents))
        PersonShift(ColourShift(np.ones(3), np.zeros(3)), unmoved).write(folder / "shift.npz")


def cpu_seconds(who: int) -> float:
    """Return what this process has used of all cores (`RUSAGE_SELF`), or what its children have that are done."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def seconds_of(action: Callable[[], object], rounds: int, who: int) -> tuple[float, float]:
    """Return the medians, over so many calls, of the seconds by the clock and of all cores."""
    wall, cpu = [], []
    for _ in range(rounds):
        began, used = time.perf_counter(), cpu_seconds(who)
        action()
        wall.append(time.perf_counter() - began)
        cpu.append(cpu_seconds(who) - used)
    return statistics.median(wall), statistics.median(cpu)


def measure_verb(name: str, arguments: list[str], rounds: int) -> dict[str, float]:
    """Return the medians of one recipe by the names of `COLUMNS`."""

    def in_new_process(*given: str) -> None:
        command = [sys.executable, "-m", f"recipes.{name}", *given]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"{' '.join(command)}: {done.stderr.strip()}")

    def here() -> None:
        with mock.patch.object(sys, "argv", [f"{name}.py", *arguments]), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(Path(importlib.import_module(f"recipes.{name}").__file__ or "")), run_name="__main__")

    actions: dict[str, tuple[Callable[[], object], int]] = {
        "help": (functools.partial(in_new_process, "--help"), resource.RUSAGE_CHILDREN),
        "cold": (functools.partial(in_new_process, *arguments), resource.RUSAGE_CHILDREN),
        "warm": (here, resource.RUSAGE_SELF),
    }
    here()
    numbers = {}
    for key, (action, who) in actions.items():
        numbers[key], numbers[f"{key}_cpu"] = seconds_of(action, rounds, who)
    return numbers


def main(rounds: int = 5, recipes: tuple[str, ...] = tuple(VERBS), output_dir: Path = Path("runs/latency")) -> None:
    """Measure and print a table.

    Args:
        rounds: calls of each, whose median counts.
        recipes: which.
        output_dir: for the numbers, latency.json.
    """
    from skimage import data

    if rounds < 1:
        raise InputError(f"rounds must be 1 or more, got {rounds}")
    if unknown := sorted(set(recipes) - set(VERBS)):
        raise InputError(f"{', '.join(unknown)}: not measured here; choose from {', '.join(VERBS)}")
    where = machine(os.cpu_count() or 1)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = {"picture": folder / "out.png", "photo": folder / "cat.png", "face": folder / "astronaut.png"}
        write_image(data.chelsea(), paths["photo"])
        write_image(data.astronaut(), paths["face"])
        for name in recipes:
            if "{run}" in VERBS[name]:
                leave_run(name, folder / name)
            arguments = [part.format(**paths, run=folder / name) for part in VERBS[name].split()]
            rows[f"{name} {arguments[0]}"] = measure_verb(name, arguments, rounds)
            print(name, rows[f"{name} {arguments[0]}"], file=sys.stderr)
    write_json(output_dir / "latency.json", {"machine": where, "rows": rows})
    shown = {name: {key: f"{value:.2f}" for key, value in row.items()} for name, row in rows.items()}
    print(describe(where), markdown_table(shown, COLUMNS, "verb"), sep="\n\n")


if __name__ == "__main__":
    run_benchmark(main)
