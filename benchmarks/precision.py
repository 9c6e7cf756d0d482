"""What 16 bits cost and bring: a demo of each family of recipes in float32 and in bfloat16, over three seeds.

Both precisions of a seed run one after the other, so that whatever else the machine does meets both. A speed is the
median of the epochs' steps a second; the ratio is of the same seed's. The score is the demo's own, of what was held
out.

Run      python -m benchmarks.precision                      about forty minutes on two quiet cores
         python -m benchmarks.precision --only lenet         one of the recipes
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import Measured, describe, machine, markdown_table, measure_run, run_benchmark, write_between
from common.errors import InputError
from common.execution import Execution

SCORES = {  # of each recipe's results.json, and how it is called
    "lenet": ("test_accuracy", "accuracy"),
    "conv_autoencoder": ("test_error", "squared error"),
    "dcgan": ("frechet_distance", "Frechet distance"),
    "pix2pix": ("l1", "L1"),
    "fast_style_transfer": ("style", "style left"),
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
        seeds: of networks, shuffles and data that are drawn.
        only: recipes, to run no others.
        epochs: of every demo; 0 for its own.
        output_dir: for the runs and for `precision.json`, where what is there already is not measured again.
        results: a Markdown file, into which the table is written between the marks `<!-- precision -->`.
    """
    strange = sorted(set(only) - set(SCORES))
    if strange:
        raise InputError(f"{strange[0]!r} is not among the recipes; choose from {', '.join(SCORES)}")
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
    """Run a demo; return its score, its speed and its seconds."""
    import importlib

    demo = importlib.import_module(f"recipes.{recipe}").DEMO
    config = replace(demo, seed=seed, epochs=epochs or demo.epochs, execution=Execution(precision=precision))
    scores = measure_run(recipe, config, Path("sample"), folder)
    with (folder / "history.csv").open() as file:
        speeds = [float(row["steps_per_second"]) for row in csv.DictReader(file)]
    kept = {name: scores[name] for name in (SCORES[recipe][0], "run_wall_seconds", "run_cpu_seconds")}
    return kept | {"steps_per_second": statistics.median(speeds[1:] or speeds)}


def table(numbers: dict[str, dict[str, Any]]) -> str:
    """Return a line a recipe: the scores of both precisions over the seeds, and the ratio of speeds."""
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
            **{precision: _mean_and_spread([each[key] for each in all_of_it]) for precision, all_of_it in runs.items()},
            "speed": f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            "seeds": len(ratios),
        }
    columns = {"float32": "float32", "mixed_bfloat16": "bfloat16", "speed": "speed, times float32's", "seeds": "seeds"}
    return markdown_table(rows, columns, "demo, score")


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


if __name__ == "__main__":
    run_benchmark(measure)
