"""Whether the data keeps up with training, and whether memory stays where it is.

Speed    Pairs of files, read, checked, enlarged, cropped and mirrored as `python -m recipes.pix2pix train` does it:
         how many a second the stream gives by itself, and how long the paper's step at 256 px takes when it is fed
         from files, beside the same step fed from memory. The three take turns.
Memory   Two processes, one with 1,000 pairs and one with ten times as many, pass over them several times, then train
         a tiny network on them with all that a run writes. After each pass: the memory they hold (resident set).

Run      python -m benchmarks.pipeline          about five minutes on two quiet cores; memory needs Linux
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

from benchmarks import describe, machine, markdown_table, run_benchmark
from benchmarks.speed import (
    Setup,
    Turns,
    Worker,
    random_pictures,
    spread,
    summary,
    train_in_turns,
)
from common.batches import Examples, batches, jittered
from common.datasets import image_pairs
from common.errors import InputError
from common.files import write_json
from common.images import colour_labels
from common.streets import street_pairs
from common.training import fit
from recipes import pix2pix


class Sizes(NamedTuple):
    """How much is done."""

    config: pix2pix.Config = pix2pix.Config()  # whose step the stream must keep up with
    files: int = 200  # pairs for the speeds
    seconds: float = 5.0  # that the stream runs by itself, for each kind of file
    counts: tuple[int, ...] = (1_000, 10_000)  # pairs for the memory
    passes: int = 4


QUICK = Sizes(pix2pix.Config(size=64, base_filters=4), 12, 0.2, (100,), 2)
TINY = pix2pix.Config(size=32, base_filters=2, batch_size=16)

# %% Files


def write_pairs(folder: Path, suffix: str, count: int, size: int) -> None:
    """Write label maps in colours into A/ and photos into B/: `count` of each, of eight different streets."""
    labels, photos = street_pairs(8, size)
    for side, images in (("A", colour_labels(labels)), ("B", photos)):
        (folder / side).mkdir(parents=True)
        encoded = [_encoded(image, suffix) for image in images]
        for number in range(count):
            (folder / side / f"{number:06d}{suffix}").write_bytes(encoded[number % len(encoded)])


def write_wide(folder: Path, count: int, size: int) -> None:
    """Write `count` pairs side by side into train/ and eight into test/, all PNG."""
    labels, photos = street_pairs(8, size)
    encoded = [_encoded(pair, ".png") for pair in np.concatenate([colour_labels(labels), photos], axis=2)]
    for split, files in (("train", count), ("test", len(encoded))):
        (folder / split).mkdir(parents=True)
        for number in range(files):
            (folder / split / f"{number:06d}.png").write_bytes(encoded[number % len(encoded)])


def _encoded(image: np.ndarray, suffix: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, {".jpg": "JPEG", ".png": "PNG"}[suffix], quality=95)
    return content.getvalue()


def pairs_of(folder: Path, size: int) -> Examples:
    """Return the pairs of a folder as pix2pix reads them."""
    return image_pairs(str(folder), size, pix2pix.sample_streets)


# %% Speed


def run_fed(turns: Turns, setup: Setup, rounds: int, folder: Path | None, seconds: float) -> dict[str, Any]:
    """Train pix2pix on the pairs of a folder, or on pictures in memory; then let the stream run by itself."""
    config = setup.config
    if folder is None:
        data = batches(random_pictures(setup), config.batch_size, config.seed)
    else:
        examples = pairs_of(folder, config.size)
        load = jittered(examples, config.size, config.jitter)
        data = batches(examples.train, config.batch_size, config.seed, load)
    train_in_turns(turns, setup, rounds, setup.build(), data)
    stream = iter(data.at(0))
    for _ in range(8):  # what is read ahead
        next(stream)
    count, started = 0, time.monotonic()
    while time.monotonic() < started + seconds:
        next(stream)
        count += config.batch_size
    return {"alone": count / (time.monotonic() - started)}


def compare_speed(folder: Path, sizes: Sizes, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Return a row for each source of pairs: pairs a second alone, and the times of the step that it feeds."""
    setup = Setup("pix2pix", sizes.config, 2)
    sources = {"memory, not jittered": None, "JPEG files": folder / "jpg", "PNG files": folder / "png"}
    for suffix in ("jpg", "png"):
        write_pairs(folder / suffix, f".{suffix}", sizes.files, sizes.config.size)
    workers = {name: Worker(threads, run_fed, setup, rounds, path, sizes.seconds) for name, path in sources.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for number in range(2 + rounds):
        for name, worker in workers.items():
            spent = worker.turn()
            if number >= 2:  # the first step, and the warming up
                times[name].append(spent)
    rows = []
    for name, worker in workers.items():
        step, cpu = ([part / setup.steps * 1e3 for part in column] for column in zip(*times[name], strict=True))
        found = worker.finish()
        rows.append({"source": name, "step_ms": summary(step), "cpu_ms": summary(cpu), **found, "rounds_ms": step})
    return rows


def speed_table(rows: Sequence[Mapping[str, Any]], batch_size: int) -> str:
    """Return the rows as Markdown."""
    shown = {}
    for row in rows:
        rate = batch_size / row["step_ms"]["median"] * 1e3
        shown[row["source"]] = {
            "the stream alone, pairs/s": f"{row['alone']:.0f}",
            "ms a step": spread(row["step_ms"]),
            "CPU ms": f"{row['cpu_ms']['median']:.0f}",
            "training, pairs/s": f"{rate:.2f}",
            "stream / training": f"{row['alone'] / rate:.0f}",
        }
    return markdown_table(shown, {name: name for name in shown[rows[0]["source"]]}, "pairs from")


# %% Memory


def resident_memory() -> float:
    """Return what this process holds now, in MB of 10^6 bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_memory(turns: Turns, folder: Path, output_dir: Path, count: int, passes: int) -> dict[str, Any]:
    """Pass over `count` pairs, then train on them; return the memory held after each part, in MB."""
    networks = pix2pix.build(TINY)
    held = {"networks built": resident_memory()}
    examples = pairs_of(folder, TINY.size)
    held["files checked"] = resident_memory()
    load = jittered(examples, TINY.size, TINY.jitter)
    data = batches(examples.train, TINY.batch_size, TINY.seed, load, examples.held_out())
    stream = iter(data.at(0))
    for number in range(1, passes + 1):
        for _ in range(data.steps_per_epoch):
            next(stream)
        held[f"pass {number}"] = resident_memory()
    del stream

    def fit_watched(*arguments: Any, on_epoch: Callable[[int], Any], **options: Any) -> Any:
        def watched(epoch: int) -> Any:
            measured = on_epoch(epoch)
            held[f"epoch {epoch}"] = resident_memory()
            return measured

        return fit(*arguments, on_epoch=watched, **options)

    config = pix2pix.Config(**vars(TINY) | {"epochs": passes})
    with mock.patch.object(pix2pix, "fit", fit_watched):
        pix2pix.train(networks, data, config, output_dir)
    turns.next()
    return {"held_mb": held, "pairs": count}


def growth(held: Mapping[str, float], kind: str, pairs: int) -> dict[str, float]:
    """Return how much more is held after the last `kind` (pass or epoch) than after the first, and per 1,000 pairs."""
    values = [value for name, value in held.items() if name.startswith(kind)]
    more = values[-1] - values[0]
    return {"mb": more, "mb_per_1000_pairs": more / (pairs * (len(values) - 1) / 1000)}


def memory_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the memory of the runs over time as Markdown, and below it how it grew."""
    rows: dict[str, dict[str, str]] = {}
    for number, run in enumerate(runs):
        column = {when: f"{held:.0f}" for when, held in run["held_mb"].items()}
        for kind in ("pass", "epoch"):
            grown = growth(run["held_mb"], kind, run["pairs"])
            column[f"growth after the first {kind}"] = f"{grown['mb']:+.1f}"
            column[f"the same for 1,000 pairs, {kind}"] = f"{grown['mb_per_1000_pairs']:+.2f}"
        for name, text in column.items():
            rows.setdefault(name, {})[str(number)] = text
    columns = {str(number): f"{run['pairs']:,} pairs" for number, run in enumerate(runs)}
    return markdown_table(rows, columns, "MB held after")


# %% Running


def measure(
    rounds: int = 7,
    threads: int = os.cpu_count() or 1,
    quick: bool = False,
    output_dir: Path = Path("runs/benchmarks"),
) -> None:
    """Time the stream of pairs beside the step that it feeds, watch memory; print tables, write pipeline.json.

    Args:
        rounds: of the step, from each source of pairs, after warming up.
        threads: of every process.
        quick: little of everything, whose numbers say nothing, to try the benchmark itself.
        output_dir: where pipeline.json goes.
    """
    if rounds < 1 or threads < 1:
        raise InputError(f"--rounds {rounds} --threads {threads}: both are 1 or more")
    if not Path("/proc/self/statm").exists():
        raise InputError(f"{sys.platform}: the memory of a process is read from /proc, which Linux has")
    sizes = QUICK if quick else Sizes()
    where = machine(threads)
    print(describe(where), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("timing the stream and the step", file=sys.stderr)
        rows = compare_speed(folder, sizes, rounds, threads)
        print(speed_table(rows, sizes.config.batch_size), end="\n\n")
        runs = []
        for count in sizes.counts:
            print(f"watching memory with {count} pairs", file=sys.stderr)
            write_wide(folder / str(count), count, 64)
            worker = Worker(threads, run_memory, folder / str(count), folder / f"run-{count}", count, sizes.passes)
            worker.turn()
            runs.append(worker.finish())
        print(memory_table(runs), end="\n\n")
    write_json(output_dir / "pipeline.json", {"machine": where, "speed": rows, "memory": runs})
    print(output_dir / "pipeline.json")


if __name__ == "__main__":
    run_benchmark(measure)
