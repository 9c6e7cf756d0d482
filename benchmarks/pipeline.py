"""Measure whether the data pipeline keeps up with training, and whether memory use stays constant.

Speed    Image pairs are read from files, checked, enlarged, cropped and mirrored, as in `python -m recipes.pix2pix
         train`. Measured: pairs per second without training, and the time of a training step of the paper's network
         (256 px). The step reads pairs from memory, JPEG files or PNG files. The three sources are timed alternately.
Memory   Two processes, one with 1,000 pairs and one with 10,000 pairs, iterate over the pairs several times. Then they
         train a tiny network and write all files of a run. Measured: the resident memory after each pass and epoch.

Run      python -m benchmarks.pipeline          about five minutes on two idle cores; needs Linux
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import describe, machine, markdown_table, run_benchmark
from benchmarks.speed import spread, summary
from benchmarks.turns import Setup, Turns, Worker, random_images, train_in_turns
from common.data.batches import Examples, batches, jittered
from common.data.datasets import image_pairs
from common.images.pixels import colour_labels
from common.samples.streets import street_pairs
from common.system.files import InputError, write_json
from recipes import pix2pix


class Sizes(NamedTuple):
    """Sizes and durations of the measurements."""

    config: pix2pix.Config = pix2pix.Config()  # the network whose training step reads the pairs
    files: int = 200  # number of pairs in the speed measurement
    seconds: float = 5.0  # how long each source is measured without training
    counts: tuple[int, ...] = (1_000, 10_000)  # data set sizes (in pairs) at which memory is measured
    passes: int = 4  # number of passes over the pairs; also the number of training epochs


QUICK = Sizes(pix2pix.Config(size=32, base_filters=4), 12, 0.1, (100,), 2)
TINY = pix2pix.Config(size=32, base_filters=2, batch_size=16)

# %% Files


def write_pairs(folder: Path, suffix: str, count: int, size: int) -> None:
    """Write `count` coloured label maps to A/ and photos to B/. All pairs are copies of eight streets."""
    labels, photos = street_pairs(8, size)
    for side, images in (("A", colour_labels(labels)), ("B", photos)):
        (folder / side).mkdir(parents=True)
        encoded = [_encoded(image, suffix) for image in images]
        for number in range(count):
            (folder / side / f"{number:06d}{suffix}").write_bytes(encoded[number % len(encoded)])


def write_wide(folder: Path, count: int, size: int) -> None:
    """Write PNG files with a label map and a photo side by side: `count` to train/ and eight to test/."""
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
    """Return the pairs in a folder, read as in pix2pix."""
    return image_pairs(str(folder), size, "streets")


# %% Speed


def run_fed(turns: Turns, setup: Setup, rounds: int, folder: Path | None, seconds: float) -> dict[str, Any]:
    """Train pix2pix on pairs from a folder, or on images in memory. Then time the stream without training."""
    config = setup.config
    if folder is None:
        data = batches(random_images("pix2pix", config), config.batch_size, config.seed)
    else:
        examples = pairs_of(folder, config.size)
        load = jittered(examples, config.size, config.jitter)
        data = batches(examples.train, config.batch_size, config.seed, load)
    train_in_turns(turns, setup, rounds, setup.build(), data)
    stream = iter(data.at(0))
    for _ in range(8):  # skip prefetched batches
        next(stream)
    count, started = 0, time.monotonic()
    while time.monotonic() < started + seconds:
        next(stream)
        count += config.batch_size
    return {"alone": count / (time.monotonic() - started)}


def compare_speed(folder: Path, sizes: Sizes, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Return one row per source: pairs per second without training, and the time of a training step."""
    setup = Setup("pix2pix", "Config", vars(sizes.config), 2)
    sources = {"memory, without jitter": None, "JPEG files": folder / "jpg", "PNG files": folder / "png"}
    for suffix in ("jpg", "png"):
        write_pairs(folder / suffix, f".{suffix}", sizes.files, sizes.config.size)
    workers = {name: Worker(threads, run_fed, setup, rounds, path, sizes.seconds) for name, path in sources.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for number in range(2 + rounds):
        for name, worker in workers.items():
            spent = worker.turn()
            if number >= 2:  # skip the first step and the warm-up round
                times[name].append(spent)
    rows = []
    for name, worker in workers.items():
        step, cpu = ([part / setup.steps * 1e3 for part in column] for column in zip(*times[name], strict=True))
        found = worker.finish()
        rows.append({"source": name, "step_ms": summary(step), "cpu_ms": summary(cpu), **found, "rounds_ms": step})
    return rows


def speed_table(rows: Sequence[Mapping[str, Any]], batch_size: int) -> str:
    """Return the rows as a Markdown table."""
    shown = {}
    for row in rows:
        rate = batch_size / row["step_ms"]["median"] * 1e3
        shown[row["source"]] = {
            "stream without training, pairs/s": f"{row['alone']:.0f}",
            "ms per step": spread(row["step_ms"]),
            "CPU ms": f"{row['cpu_ms']['median']:.0f}",
            "training, pairs/s": f"{rate:.2f}",
            "stream / training": f"{row['alone'] / rate:.0f}",
        }
    return markdown_table(shown, {name: name for name in shown[rows[0]["source"]]}, "pairs from")


# %% Memory


def resident_memory() -> float:
    """Return the resident memory of this process in MB (10^6 bytes). Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_memory(turns: Turns, folder: Path, output_dir: Path, count: int, passes: int) -> dict[str, Any]:
    """Iterate over `count` pairs, then train on them. Return the resident memory in MB after each stage."""
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

    def watch(epoch: int, losses: dict[str, float]) -> None:
        held[f"epoch {epoch}"] = resident_memory()

    config = pix2pix.Config(**vars(TINY) | {"epochs": passes})
    pix2pix.train(networks, data, config, output_dir, on_epoch=watch)
    turns.next()
    return {"held_mb": held, "pairs": count}


def growth(held: Mapping[str, float], kind: str, pairs: int) -> dict[str, float]:
    """Return the memory growth from the first to the last `kind` (pass or epoch), in MB and in MB per 1,000 pairs."""
    values = [value for name, value in held.items() if name.startswith(kind)]
    more = values[-1] - values[0]
    return {"mb": more, "mb_per_1000_pairs": more / (pairs * (len(values) - 1) / 1000)}


def memory_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with one column per run: the memory after each stage, and the memory growth."""
    rows: dict[str, dict[str, str]] = {}
    for number, run in enumerate(runs):
        column = {when: f"{held:.0f}" for when, held in run["held_mb"].items()}
        for kind in ("pass", "epoch"):
            grown = growth(run["held_mb"], kind, run["pairs"])
            column[f"growth after the first {kind}"] = f"{grown['mb']:+.1f}"
            column[f"growth per 1,000 pairs after the first {kind}"] = f"{grown['mb_per_1000_pairs']:+.2f}"
        for name, text in column.items():
            rows.setdefault(name, {})[str(number)] = text
    columns = {str(number): f"{run['pairs']:,} pairs" for number, run in enumerate(runs)}
    return markdown_table(rows, columns, "resident MB after")


# %% Running


def measure(
    rounds: int = 7,
    threads: int = os.cpu_count() or 1,
    quick: bool = False,
    output_dir: Path = Path("runs/benchmarks"),
) -> None:
    """Time the stream of pairs and a training step that reads from it, measure memory, and write pipeline.json.

    Args:
        rounds: the number of timed rounds per source of pairs, after warm-up.
        threads: the number of threads of each process.
        quick: a short smoke test of the benchmark. Its numbers are meaningless.
        output_dir: the folder for pipeline.json.
    """
    if rounds < 1 or threads < 1:
        raise InputError(f"--rounds {rounds} --threads {threads}: both must be 1 or more")
    if not Path("/proc/self/statm").exists():
        raise InputError(f"{sys.platform}: this benchmark needs Linux, because it reads memory use from /proc")
    sizes = QUICK if quick else Sizes()
    where = machine(threads)
    print(describe(where), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("timing the stream and the training step", file=sys.stderr)
        rows = compare_speed(folder, sizes, rounds, threads)
        print(speed_table(rows, sizes.config.batch_size), end="\n\n")
        runs = []
        for count in sizes.counts:
            print(f"measuring memory with {count} pairs", file=sys.stderr)
            write_wide(folder / str(count), count, 64)
            worker = Worker(threads, run_memory, folder / str(count), folder / f"run-{count}", count, sizes.passes)
            worker.turn()
            runs.append(worker.finish())
        print(memory_table(runs), end="\n\n")
    write_json(output_dir / "pipeline.json", {"machine": where, "speed": rows, "memory": runs})
    print(output_dir / "pipeline.json")


if __name__ == "__main__":
    run_benchmark(measure)
