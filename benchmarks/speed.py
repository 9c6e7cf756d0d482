"""Time the training steps of the recipes. Four recipes are compared with PyTorch, and three with a plain baseline.

All variants train the same networks with the same optimizers on the same random images in memory:

- recipe: the recipe's `train`, as users run it, including batches, mean losses and progress output.
- bfloat16: the recipe's `train` with `--precision mixed_bfloat16`.
- plain: a tutorial-style baseline in Keras (`benchmarks.plain`), for five set-ups of pix2pix, dcgan and vae.
- pytorch: the same networks and steps in eager PyTorch (`benchmarks.pytorch`), for the same set-ups and three of
  diffusion.

Each variant runs in a separate process, so memory and start-up time are measured separately. The processes run
alternately, about two seconds at a time, so other load on the machine affects all of them equally. One step updates all
weights once.

Four recipes are not timed. `dog_svm` has no gradient steps. `style_transfer` and `deepdream` (see `benchmarks.canvas`)
and `targeted_attack` (see `benchmarks.attacks`) optimise the pixels of an image.

Run      python -m benchmarks.speed                         all set-ups; the largest ones take minutes
         python -m benchmarks.speed --only pix2pix-paper    one set-up; `--only pix2pix`: all set-ups of a recipe
         python -m benchmarks.speed --against DIR           compare with another checkout of this project
         pip install torch                                  needed for the PyTorch column
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import describe, machine, markdown_table, run_benchmark
from benchmarks.turns import (
    Setup,
    Turns,
    Worker,
    random_images,
    results,
    run_recipe,
    sampled,
    steps_of_a_round,
)
from common.system.files import InputError, write_json
from common.training.execution import Execution, executing

# %% Set-ups

TINY: dict[str, dict[str, Any]] = {
    "mlp": {"size": 8, "units": 8, "batch_size": 8},
    "lenet": {"size": 16, "modern": True, "batch_size": 8},
    "mobilenet": {"size": 32, "alpha": 0.35, "weights": "random", "batch_size": 4},
    "autoencoder": {"size": 8, "units": 8, "latent_dim": 2, "noise": 0.1, "batch_size": 8},
    "conv_autoencoder": {"size": 16, "base_filters": 4, "batch_size": 4},
    "vae": {"size": 8, "latent_dim": 2, "units": 8, "batch_size": 8},
    "vae_faces": {"size": 16, "latent_dim": 4, "base_filters": 4, "batch_size": 4},
    "adversarial_autoencoder": {
        "size": 8, "labels": "few", "latent_dim": 2, "units": 8, "discriminator_units": 8, "batch_size": 8
    },
    "face_swap": {"size": 32, "base_filters": 2, "latent_dim": 4, "batch_size": 4},
    "gan": {"size": 8, "latent_dim": 4, "units": 8, "discriminator_units": 8, "batch_size": 4},
    "dcgan": {"size": 16, "channels": 1, "base_filters": 4, "batch_size": 4},
    "dcgan_faces": {"size": 16, "latent_dim": 4, "base_filters": 2, "batch_size": 4},
    "ssgan": {"size": 8, "latent_dim": 4, "base_filters": 4, "generator_filters": 2, "batch_size": 8},
    "pix2pix": {"size": 32, "base_filters": 4, "batch_size": 2},
    "cyclegan": {"size": 32, "base_filters": 4, "residual_blocks": 1, "patch_layers": 2},
    "fast_style_transfer": {"size": 32, "style_size": 64, "base_filters": 2, "residual_blocks": 1, "batch_size": 1},
    "diffusion": {"size": 16, "base_filters": 8, "levels": 2, "blocks": 1, "patch": 2, "batch_size": 4},
    "fgsm": {"size": 8, "base_filters": 2, "batch_size": 4},
}  # fmt: skip
ONE_SIZE = ("mlp", "lenet", "gan", "fgsm")  # no separate `-paper` set-up: their demos already have full size
SLOW = {
    f"{name}-paper" for name in ("cyclegan", "dcgan", "dcgan_faces", "diffusion", "face_swap", "fast_style_transfer")
}
SETUPS = {f"{name}-demo": Setup(name, "DEMO") for name in TINY}
SETUPS |= {f"{name}-paper": Setup(name) for name in TINY if name not in ONE_SIZE}
SETUPS |= {
    "mlp-wide": Setup("mlp", "WIDE"),
    "lenet-modern": Setup("lenet", "MODERN"),
    "dcgan-digits": Setup("dcgan", "DIGITS"),
    "diffusion-digits": Setup("diffusion", "DIGITS"),
    "diffusion-faces": Setup("diffusion", "FACES"),
    "pix2pix-64": Setup("pix2pix", changes={"size": 64, "base_filters": 24, "dropout": 0.0, "batch_size": 4}),
    "pix2pix-128-narrow": Setup("pix2pix", changes={"size": 128, "base_filters": 32}),
    "pix2pix-128": Setup("pix2pix", changes={"size": 128}),
    "cyclegan-128-unet": Setup("cyclegan", changes={"size": 128, "generator": "unet"}),
}
SETUPS = {name: setup._replace(steps=int(name in SLOW)) for name, setup in sorted(SETUPS.items())}
QUICK_SETUPS = {f"{name}-quick": Setup(name, changes=changes, steps=2) for name, changes in TINY.items()}
PLAIN = {"pix2pix-64", "pix2pix-paper", "dcgan-demo", "dcgan-digits", "vae-demo"}
PLAIN |= {"pix2pix-quick", "dcgan-quick", "vae-quick"}  # set-ups that are also timed as plain
PYTORCH = PLAIN | {f"diffusion-{name}" for name in ("demo", "digits", "faces", "quick")}  # also timed as pytorch

# %% Variants


def run_bfloat16(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Train with the recipe's `train` in mixed_bfloat16."""
    with executing(Execution(precision="mixed_bfloat16")):
        return run_recipe(turns, setup, rounds)


def run_plain(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Train with the tutorial-style baseline."""
    from benchmarks.plain import make_plain_step

    networks, config = setup.build(), setup.config
    before = sampled(network.trainable_variables for network in networks)
    step = make_plain_step(setup.recipe, config, networks, random_images(setup.recipe, config))
    steps = take_turns(turns, setup.steps, rounds, step)
    for network in networks:  # `step` leaves the discriminator frozen
        network.trainable = True
    return results(steps, before, [network.trainable_variables for network in networks])


def run_pytorch(turns: Turns, setup: Setup, rounds: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Train in PyTorch. `fields` holds the hyperparameters: a `Config` would import its recipe and TensorFlow."""
    import torch

    from benchmarks.pytorch import make_torch_step

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = SimpleNamespace(**fields)
    torch.manual_seed(config.seed)
    networks, torch_step = make_torch_step(setup.recipe, config)
    weights = [[weight.detach() for weight in network.parameters()] for network in networks]
    before = sampled(weights)
    parts = [torch.from_numpy(part) for part in random_images(setup.recipe, config)]
    parts = [part.permute(0, 3, 1, 2).contiguous() if part.ndim == 4 else part for part in parts]

    def step(number: int) -> None:
        first = number * config.batch_size % len(parts[0])
        losses = torch_step(*(part[first : first + config.batch_size] for part in parts))
        if not all(math.isfinite(float(loss)) for loss in losses):
            raise FloatingPointError(f"losses {losses}")

    return results(take_turns(turns, setup.steps, rounds, step), before, [*weights])


def take_turns(turns: Turns, steps: int, rounds: int, step: Callable[[int], None]) -> int:
    """Call `step(number)` in rounds, and wait for the next turn after each round. Return the number of steps per round.

    If `steps` is 0, a round has as many steps as fit into about two seconds.
    """
    done = 0

    def spent(count: int) -> float:
        nonlocal done
        started = time.monotonic()
        for _ in range(count):
            step(done)
            done += 1
        return time.monotonic() - started

    spent(1)
    turns.next()
    steps = steps or steps_of_a_round(spent)
    for _ in range(1 + rounds):
        spent(steps)
        turns.next()
    return steps


def start_worker(variant: str, setup: Setup, rounds: int, threads: int) -> Worker:
    """Start the process that runs a variant."""
    if variant == "pytorch":
        return Worker(threads, run_pytorch, setup, rounds, dataclasses.asdict(setup.config))
    run = {"recipe": run_recipe, "bfloat16": run_bfloat16, "plain": run_plain}[variant]
    return Worker(threads, run, setup, rounds)


# %% Running


def time_setup(name: str, setup: Setup, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Time all variants of a set-up alternately. Return one row per variant: times, ratios to the recipe, results.

    Raises:
        RuntimeError: the parameter counts of a variant differ from the recipe's, its weights do not change, or its
            process failed.
    """
    variants = ["recipe", "bfloat16"] + ["plain"] * (name in PLAIN) + ["pytorch"] * (name in PYTORCH)
    workers: dict[str, Worker] = {}
    first: dict[str, float] = {}
    for variant in variants:
        if variant == "pytorch" and not importlib.util.find_spec("torch"):
            continue
        workers[variant] = start_worker(variant, setup, rounds, threads)
        workers[variant].turn()
        first[variant] = time.monotonic() - workers[variant].started
    wall, cpu, facts = timed_rounds(workers, rounds)
    rows = []
    for variant, found in facts.items():
        if found["parameters"] != facts["recipe"]["parameters"] or found["smallest_change"] == 0:
            raise RuntimeError(f"{name}, {variant}: not the recipe's networks, or their weights do not change: {found}")
        row = {"setup": name, "variant": variant, "batch_size": setup.config.batch_size}
        row |= {"step_ms": summary(wall[variant]), "cpu_ms": summary(cpu[variant])}
        row |= {"times_the_recipe": summary(ratios(wall[variant], wall["recipe"]))}
        row |= {"first_step_seconds": first[variant], "rounds_ms": wall[variant]}
        rows.append(row | found)
    return rows


def timed_rounds(
    workers: Mapping[str, Worker], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Warm up all workers, then run them alternately. Each worker must already have run its first turn.

    Returns:
        Three dicts, keyed by worker: milliseconds per step in each round, CPU milliseconds per step in each round, and
        the results.
    """
    for worker in workers.values():
        worker.turn()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            spent[name].append(worker.turn())
    facts = {name: worker.finish() for name, worker in workers.items()}
    wall, cpu = (
        {name: [pair[part] / facts[name]["steps"] * 1e3 for pair in pairs] for name, pairs in spent.items()}
        for part in range(2)
    )
    return wall, cpu, facts


def compare_checkouts(names: Sequence[str], setups: Mapping[str, Setup], rounds: int, threads: int, other: Path) -> str:
    """Time the training steps of the recipes alternately in this checkout and in the checkout `other`.

    Both checkouts use this Python and its packages. Each checkout uses its own presets.

    Returns:
        A Markdown table with one row per set-up: the times in both checkouts, and their ratio (this / other).
    """
    here = Path(__file__).resolve().parents[1]
    rows: dict[str, dict[str, str]] = {}
    for name in names:
        print(f"timing {name}", file=sys.stderr)
        folders = {"this": here, "other": other.resolve()}
        workers = {
            which: Worker.in_checkout(folder, threads, setups[name], rounds) for which, folder in folders.items()
        }
        for worker in workers.values():
            worker.turn()
        wall, _, facts = timed_rounds(workers, rounds)
        if facts["this"]["parameters"] != facts["other"]["parameters"]:
            raise RuntimeError(f"{name}: the two checkouts have different parameter counts: {facts}")
        digits = 0 if statistics.median(wall["this"]) >= 20 else 2
        rows[name] = {which: spread(summary(times), digits) for which, times in wall.items()}
        rows[name]["ratio"] = spread(summary(ratios(wall["this"], wall["other"])), 2)
        print(f"{name}: {rows[name]}", file=sys.stderr)
    columns = {"this": "this checkout, ms per step", "other": f"{other}, ms per step", "ratio": "this / other"}
    return markdown_table(rows, columns, "")


def ratios(times: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return each round's time divided by the reference's time in the same round."""
    return [time / other for time, other in zip(times, reference, strict=True)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the median, minimum and maximum."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def spread(values: Mapping[str, float], digits: int = 0) -> str:
    """Format a summary as `median (minimum-maximum)`."""
    median, least, most = (f"{values[key]:.{digits}f}" for key in ("median", "least", "most"))
    return f"{median} ({least}-{most})"


def chosen(only: Sequence[str], setups: Mapping[str, Setup]) -> list[str]:
    """Return the set-ups that match `only`, a list of set-ups or recipes. If `only` is empty, return all set-ups.

    Raises:
        InputError: `only` contains an unknown name.
    """
    for name in only:
        if name not in setups and not any(name == setup.recipe for setup in setups.values()):
            raise InputError(f"--only {name}: unknown set-up or recipe; choose from {', '.join(setups)}")
    return [name for name, setup in setups.items() if not only or name in only or setup.recipe in only]


def measure(
    rounds: int = 7,
    only: tuple[str, ...] = (),
    threads: int = os.cpu_count() or 1,
    quick: bool = False,
    against: Path | None = None,
    output_dir: Path = Path("runs/benchmarks"),
) -> None:
    """Time training steps; print a table and write speed.json.

    Args:
        rounds: the number of timed rounds per variant, after warm-up.
        only: names of set-ups or recipes to time. Default: all.
        threads: the number of threads of each variant.
        quick: a short smoke test with tiny networks. Its numbers are meaningless.
        against: the folder of another checkout of this project. If given, only the recipes' training steps in the two
            checkouts are compared.
        output_dir: the folder for speed.json.
    """
    setups = QUICK_SETUPS if quick else SETUPS
    names = chosen(only, setups)
    if rounds < 1 or threads < 1:
        raise InputError(f"--rounds {rounds} --threads {threads}: both must be 1 or more")
    if against is not None and not (against / "recipes").is_dir():
        raise InputError(f"--against {against}: not a checkout of this project; it must contain recipes/")
    where = machine(threads)
    print(describe(where), end="\n\n")
    if against is not None:
        print(compare_checkouts(names, setups, rounds, threads, against))
        return
    if PYTORCH & {*names} and not importlib.util.find_spec("torch"):
        print("PyTorch is not installed, so it is not timed", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for name in names:
        print(f"timing {name}", file=sys.stderr)
        rows += time_setup(name, setups[name], rounds, threads)
        write_json(output_dir / "speed.json", {"machine": where, "rows": rows})
    print(speed_table(rows), end="\n\n")
    print(output_dir / "speed.json")


def speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with one row per set-up: the recipe's step time, and the other variants' relative times.

    "-" marks a variant that was not timed. Memory and the time to the first step are given as recipe / PyTorch.
    """
    shown: dict[str, dict[str, str]] = {}
    for setup in dict.fromkeys(row["setup"] for row in rows):
        of = {row["variant"]: row for row in rows if row["setup"] == setup}
        recipe, both = of["recipe"], [of[variant] for variant in ("recipe", "pytorch") if variant in of]
        ms = recipe["step_ms"]["median"]
        shown[setup] = {
            "ms per step": spread(recipe["step_ms"], 0 if ms >= 20 else 2),
            "CPU ms": f"{recipe['cpu_ms']['median']:.3g}",
            "images/s": f"{recipe['batch_size'] / ms * 1e3:.1f}",
            **{
                variant: spread(of[variant]["times_the_recipe"], 2) if variant in of else "-"
                for variant in ("bfloat16", "plain", "pytorch")
            },
            "peak MB": " / ".join(f"{row['peak_memory_mb']:.0f}" for row in both),
            "first step, s": " / ".join(f"{row['first_step_seconds']:.1f}" for row in both),
        }
    return markdown_table(shown, {name: name for name in next(iter(shown.values()))}, "")


if __name__ == "__main__":
    run_benchmark(measure)
