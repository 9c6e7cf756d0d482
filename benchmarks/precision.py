"""Compare bfloat16 with float32: score and speed of one demo per family of recipes, with three seeds.

For each seed, the two precisions run one after the other, so other load on the machine affects both. The speed of a run
is the median of the steps per second over its epochs. The score is the demo's own score on held-out data.

Run      python -m benchmarks.precision                      about forty minutes on two idle cores
         python -m benchmarks.precision --only lenet         only one recipe
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import Measured, describe, machine, markdown_table, measure_run, run_benchmark, write_between
from common.system.files import InputError
from common.training.execution import Execution, executing

SCORES = {  # for each recipe: a key of results.json, and the name of this score in the table
    "lenet": ("test_accuracy", "accuracy"),
    "conv_autoencoder": ("test_error", "squared error"),
    "dcgan": ("frechet_distance", "Frechet distance"),
    "pix2pix": ("l1", "L1"),
    "fast_style_transfer": ("style", "relative style loss"),
}
PRECISIONS = ("float32", "mixed_bfloat16")


def measure(
    seeds: tuple[int, ...] = (0, 1, 2),
    only: tuple[str, ...] = (),
    epochs: int = 0,
    output_dir: Path = Path("runs/precision"),
    results: Path | None = None,
) -> None:
    """Run the demos and print a table.

    Args:
        seeds: the seeds of the runs.
        only: names of the recipes to run.
        epochs: the number of epochs of each demo. If 0, each demo uses its default.
        output_dir: the folder for the runs and `precision.json`. Results already in this file are kept.
        results: a Markdown file with two markers `<!-- precision -->`. The table replaces the text between them.
    """
    unknown = sorted(set(only) - set(SCORES))
    if unknown:
        raise InputError(f"--only {unknown[0]!r}: not in this benchmark; choose from {', '.join(SCORES)}")
    found = Measured(output_dir / "precision.json")
    for recipe in only or SCORES:
        for seed in seeds:
            for precision in PRECISIONS:
                name = f"{recipe}, seed {seed}, {precision}"
                folder = output_dir / name.replace(", ", "-").replace(" ", "-")
                found.once(name, lambda: one_run(recipe, seed, precision, epochs, folder))  # noqa: B023
    text = table(found.numbers)
    where = describe(machine(2))
    print(f"\n{text}\n\n{where}")
    if results is not None:
        write_between(results, "precision", f"{text}\n\n{where}")


def one_run(recipe: str, seed: int, precision: Any, epochs: int, folder: Path) -> dict[str, Any]:
    """Run a demo; return its score, its speed and its times."""
    import importlib

    demo = importlib.import_module(f"recipes.{recipe}").DEMO
    config = replace(demo, seed=seed, epochs=epochs or demo.epochs)
    with executing(Execution(precision=precision)):
        scores = measure_run(recipe, config, Path("sample"), folder)
    with (folder / "history.csv").open() as file:
        speeds = [float(row["steps_per_second"]) for row in csv.DictReader(file)]
    kept = {name: scores[name] for name in (SCORES[recipe][0], "run_wall_seconds", "run_cpu_seconds")}
    return kept | {"steps_per_second": statistics.median(speeds[1:] or speeds)}


def table(numbers: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table with one row per recipe: the score in each precision, and the speed ratio."""
    rows: dict[str, dict[str, float | int | str]] = {}
    for recipe, (key, name) in SCORES.items():
        runs: dict[str, list[dict[str, Any]]] = {precision: [] for precision in PRECISIONS}
        for label, found in numbers.items():
            if label.startswith(f"{recipe}, "):
                runs[label.split(", ")[-1]].append(found)
        if not all(runs.values()):
            continue
        ratios = [
            half["steps_per_second"] / full["steps_per_second"]
            for full, half in zip(runs["float32"], runs["mixed_bfloat16"], strict=False)
        ]
        rows[f"{recipe}, {name}"] = {
            **{precision: _mean_and_spread([run[key] for run in found]) for precision, found in runs.items()},
            "speed": f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            "seeds": len(ratios),
        }
    columns = {
        "float32": "float32",
        "mixed_bfloat16": "bfloat16",
        "speed": "speed relative to float32",
        "seeds": "seeds",
    }
    return markdown_table(rows, columns, "demo, score")


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


if __name__ == "__main__":
    run_benchmark(measure)
