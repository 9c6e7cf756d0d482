"""Measure what each change of the modern preset of DCGAN brings, at equal CPU time, on synthetic handwriting.

The first row is the paper's training, with the small networks of the demo. Each further row adds one change to the row
before. Each row is trained with several seeds, for the same number of CPU seconds: the steps that fit into them follow
from the time of 150 steps, measured before. Existing measurements are kept, so an interrupted benchmark resumes.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Measured, describe, machine, markdown_table, run_benchmark
from common.data.datasets import images_of
from common.images.writing import save_image
from common.system.files import InputError
from recipes.dcgan import DEMO, Config, build, generate, train

SEEDS = (0, 1, 2)
EPOCHS = 10
TIMED_STEPS = 150
COLUMNS = {
    "steps": "steps",
    "frechet_distance": "Frechet distance",
    "spread": "over the seeds",
    "confidence": "confidence",
    "rarest_class_fraction": "rarest digit",
    "commonest_class_fraction": "commonest digit",
}


def changes() -> Iterator[tuple[str, Config]]:
    """Yield the rows: the name of a change, and the configuration with this change and all earlier ones."""
    config = Config(size=28, channels=1, latent_dim=64, base_filters=DEMO.base_filters, batch_size=DEMO.batch_size)
    yield "the paper's training", config
    changed: dict[str, dict[str, Any]] = {
        "learning rate 1e-3, linear decay": {"learning_rate": DEMO.learning_rate, "final_rate": DEMO.final_rate},
        "average of the weights (EMA)": {"ema_decay": DEMO.ema_decay},
        "relativistic loss with R1 and R2": {
            "loss": DEMO.loss,
            "gradient_penalty": DEMO.gradient_penalty,
            "penalty_fraction": DEMO.penalty_fraction,
        },
        "dense layers": {"hidden_units": DEMO.hidden_units},
        "selection by the discriminator": {"keep": DEMO.keep},
    }
    for name, change in changed.items():
        config = replace(config, **change)
        yield name, config


def steps_for(config: Config, images: Any, cpu_seconds: float) -> int:
    """Return the number of training steps that take `cpu_seconds`, without the time to build and to trace."""
    times = []

    def note(*_: object) -> None:
        times.append(time.process_time())

    short = replace(config, epochs=2)
    train(build(short), np.asarray(images.train), short, steps_per_epoch=TIMED_STEPS, on_epoch=note)
    return int(cpu_seconds / (times[1] - times[0]) * TIMED_STEPS)


def measure(
    cpu_seconds: float = 60.0, output_dir: Path = Path("runs/benchmark-modern")
) -> dict[str, dict[str, float | int | str]]:
    """Print and return the table: one row per change, with medians over the seeds.

    Args:
        cpu_seconds: the CPU time of each training.
        output_dir: the folder for results.json and an image of each training.

    Raises:
        InputError: `cpu_seconds` is too small.
    """
    if cpu_seconds < 1:
        raise InputError(f"--cpu-seconds must be at least 1, got {cpu_seconds:g}")
    where = describe(machine(0))
    images = images_of("sample", 28, 1, "digits")
    store = Measured(output_dir / "results.json")

    def counted(config: Config) -> dict[str, Any]:
        return {"steps": steps_for(config, images, cpu_seconds)}

    def trained(name: str, config: Config, steps: int) -> dict[str, Any]:
        config = replace(config, epochs=EPOCHS)
        networks = build(config)
        train(networks, np.asarray(images.train), config, steps_per_epoch=max(1, steps // EPOCHS))
        selected = functools.partial(
            generate, networks.generator, discriminator=networks.discriminator, keep=config.keep
        )
        save_image(selected(64), output_dir / f"{name.replace(' ', '-')}-{config.seed}.png", zoom=2)
        return images.sample_scores(functools.partial(selected, seed=1))

    rows: dict[str, dict[str, float | int | str]] = {}
    for name, config in changes():
        key = f"{name}, {cpu_seconds:g} CPU seconds"
        steps = store.once(f"{key}: steps", functools.partial(counted, config))["steps"]
        scores = [
            store.once(f"{key}, seed {seed}", functools.partial(trained, name, replace(config, seed=seed), steps))
            for seed in SEEDS
        ]
        distances = [each["frechet_distance"] for each in scores]
        rows[name if not rows else f"+ {name}"] = {
            "steps": steps,
            **{each: statistics.median(score[each] for score in scores) for each in COLUMNS if each in scores[0]},
            "spread": f"{min(distances):.1f} to {max(distances):.1f}",
        }
    table = markdown_table(rows, COLUMNS, f"{cpu_seconds:g} CPU seconds, medians of {len(SEEDS)} seeds")
    print(f"{table}\n\n{where}")
    return rows


if __name__ == "__main__":
    run_benchmark(measure)
