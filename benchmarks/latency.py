"""Measure how long `--help` takes, and how long each type of command takes to process one image.

Help     `python -m recipes.NAME --help` in a new process.
Cold     the command in a new process: start Python, import Keras, load the networks, read and write the image.
Warm     the same command in a process that has already run it, so the modules are already imported.

The benchmark writes its own runs, with the untrained networks of the demos, because training does not change the speed
of a network. The image is scikit-image's cat (451 x 300 pixels), or scikit-image's astronaut for `swap`.

Run      python -m benchmarks.latency           about six minutes on two idle cores
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
from common.data.people import ColourShift, PersonShift
from common.images.writing import save_image
from common.metrics.latents import NormalMap
from common.runs import Run
from common.samples.clothes import CLOTHES_CLASSES
from common.system.files import InputError, write_json
from recipes import face_swap, fast_style_transfer

VERBS = {  # each recipe's command and its arguments
    "mlp": "classify {photo} --run {run}",
    "lenet": "classify {photo} --run {run}",
    "mobilenet": "classify {photo} --run {run}",
    "autoencoder": "reconstruct {photo} {image} --run {run}",
    "vae": "reconstruct {photo} {image} --run {run}",
    "pix2pix": "translate {photo} {image} --run {run}",
    "cyclegan": "translate {photo} {image} --run {run}",
    "fast_style_transfer": "stylize {photo} {image} --run {run}",
    "face_swap": "swap {face} {image} --run {run}",
    "fgsm": "attack {photo} {image} --run {run}",
    "dcgan": "generate {image} --run {run}",
    "deepdream": "dream {photo} {image}",
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
    """Write the run folder of a recipe, with untrained networks."""
    module = importlib.import_module(f"recipes.{name}")
    run = Run(folder, name, module.DEMO, "sample")
    run.start(CLOTHES_CLASSES if hasattr(module.DEMO, "outputs") else ())
    run.finish(module.build(module.DEMO), dict)
    if name == "fast_style_transfer":
        config = fast_style_transfer.DEMO
        save_image(fast_style_transfer.read_style(config.style, config.style_size), folder / "style.png")
    if name == "face_swap":
        latents = face_swap.DEMO.latent_dim
        unmoved = NormalMap(np.eye(latents), np.zeros(latents), np.zeros(latents))
        PersonShift(ColourShift(np.ones(3), np.zeros(3)), unmoved).write(folder / "shift.npz")


def cpu_seconds(who: int) -> float:
    """Return the CPU seconds of this process (`RUSAGE_SELF`) or of its finished children (`RUSAGE_CHILDREN`)."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def seconds_of(action: Callable[[], object], rounds: int, who: int) -> tuple[float, float]:
    """Return the median wall-clock seconds and the median CPU seconds over `rounds` calls."""
    wall, cpu = [], []
    for _ in range(rounds):
        began, used = time.perf_counter(), cpu_seconds(who)
        action()
        wall.append(time.perf_counter() - began)
        cpu.append(cpu_seconds(who) - used)
    return statistics.median(wall), statistics.median(cpu)


def measure_verb(name: str, arguments: list[str], rounds: int) -> dict[str, float]:
    """Return the median times of a recipe's command, with the same keys as `COLUMNS`."""

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
    """Measure the commands of the recipes, and print a table.

    Args:
        rounds: the number of calls of each command. The table shows the median.
        recipes: the recipes to measure.
        output_dir: the folder for latency.json.
    """
    from skimage import data

    if rounds < 1:
        raise InputError(f"--rounds must be 1 or more, got {rounds}")
    if unknown := sorted(set(recipes) - set(VERBS)):
        raise InputError(f"--recipes {' '.join(unknown)}: not in this benchmark; choose from {', '.join(VERBS)}")
    where = machine(os.cpu_count() or 1)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = {"image": folder / "out.png", "photo": folder / "cat.png", "face": folder / "astronaut.png"}
        save_image(data.chelsea(), paths["photo"])
        save_image(data.astronaut(), paths["face"])
        for name in recipes:
            if "{run}" in VERBS[name]:
                leave_run(name, folder / name)
            arguments = [part.format(**paths, run=folder / name) for part in VERBS[name].split()]
            rows[f"{name} {arguments[0]}"] = measure_verb(name, arguments, rounds)
            print(name, rows[f"{name} {arguments[0]}"], file=sys.stderr)
    write_json(output_dir / "latency.json", {"machine": where, "rows": rows})
    shown = {name: {key: f"{value:.2f}" for key, value in row.items()} for name, row in rows.items()}
    print(describe(where), markdown_table(shown, COLUMNS, "command"), sep="\n\n")


if __name__ == "__main__":
    run_benchmark(main)
