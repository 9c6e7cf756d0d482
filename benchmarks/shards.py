"""Measure whether streaming 200,000 images from shards keeps up with training, and whether memory stays constant.

The images are random 64 px crops of smooth coloured noise, saved as PNG: 2,000 different files, and hard links to them.
The function behind `python -m recipes shards` writes them to shards.

Speed    Throughput of `batches` without training, in images per second: from image files, from shards, and from shards
         that were written with `--size`. The images are shuffled over the entire set. For comparison,
         `tf.data.TFRecordDataset` reads the same records in file order. DCGAN's training step at 64 px, which reads
         from shards, is also timed, at the paper's width and with fewer filters.
Memory   A separate process streams one epoch. Measured: its resident memory after each tenth of the epoch.

Run      python -m benchmarks.shards            about five minutes on two idle cores, 2 GB of disk; needs Linux
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import describe, machine, markdown_table, run_benchmark
from benchmarks.pipeline import resident_memory
from benchmarks.turns import Setup, Turns, Worker, train_in_turns
from common.data.batches import Batches, batches, undistorted
from common.data.datasets import images_of
from common.data.shard_writing import write_shards
from common.data.shards import open_shards
from common.images.pixels import resize_image
from common.system.files import InputError, write_json
from common.system.lazy import tf
from recipes import dcgan

SIDE = 64


class ShardSizes(NamedTuple):
    """Sizes and durations of the measurements."""

    images: int = 200_000  # number of images in the memory measurement, which streams them once
    fewer: int = 10_000  # number of images in the speed measurement
    different: int = 2_000  # number of different files; all other files are hard links to them
    seconds: float = 6.0  # how long each stream is measured without training
    steps: Mapping[str, dcgan.Config] = {
        "16 base filters, batch size 128": dcgan.Config(base_filters=16),
        "the paper's width, batch size 128": dcgan.Config(),
    }


QUICK_SHARDS = ShardSizes(300, 200, 50, 0.2, {"quick": dcgan.Config(base_filters=2, batch_size=8)})

# %% Files


def write_crops(folder: Path, count: int, different: int) -> None:
    """Write `count` PNG files of coloured noise at 64 px: `different` crops, and hard links to these files."""
    random = np.random.default_rng(0)
    large = resize_image(random.integers(0, 256, (48, 48, 3), np.uint8), 1024, 1024)
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:06d}.png"
        if number >= different:
            os.link(folder / f"{number % different:06d}.png", path)
            continue
        top, left = random.integers(0, 1024 - SIDE, 2)
        content = io.BytesIO()
        Image.fromarray(large[top : top + SIDE, left : left + SIDE]).save(content, "PNG")
        path.write_bytes(content.getvalue())


def stream_of(data: Path, batch_size: int) -> Batches:
    """Return shuffled batches from a folder or from shards, read as in dcgan."""
    examples = images_of(str(data), SIDE, 3, lambda: np.zeros((0, SIDE, SIDE, 3), np.uint8))
    return batches(examples.train, batch_size, 0, undistorted(examples))


def in_order(data: Path, batch_size: int) -> tf.data.Dataset:
    """Return endless batches of the records in shards. TensorFlow reads them in file order and decodes them."""
    shards = open_shards(data)
    files = [str(data / shard["name"]) for shard in shards.about["shards"]] if shards else []

    def decode(record: tf.Tensor) -> tf.Tensor:
        found = tf.io.parse_single_example(record, {"image": tf.io.FixedLenFeature([], tf.string)})
        return tf.ensure_shape(tf.io.decode_png(found["image"], 3), (SIDE, SIDE, 3))

    records = tf.data.TFRecordDataset(files).repeat().map(decode, tf.data.AUTOTUNE)
    return records.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


# %% Processes


def run_streams(turns: Turns, sources: Mapping[str, Path], seconds: float) -> dict[str, Any]:
    """Time one stream at a time, in three alternating rounds; return the images per second of each round."""
    size = 128 if seconds > 1 else 8
    streams: dict[str, Iterator[Any]] = {name: iter(stream_of(path, size).at(0)) for name, path in sources.items()}
    streams["TFRecordDataset, in order"] = iter(in_order(sources["shards"], size))
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(3):
        for name, stream in streams.items():
            for _ in range(20):  # skip batches that were prefetched while other streams ran
                next(stream)
            count, started = 0, time.monotonic()
            while time.monotonic() < started + seconds / 3:
                next(stream)
                count += size
            rates[name].append(count / (time.monotonic() - started))
    turns.next()
    return {"rates": rates}


def run_steps(turns: Turns, config: dcgan.Config, rounds: int, data: Path) -> dict[str, Any]:
    """Train DCGAN on shards."""
    setup = Setup("dcgan", "Config", vars(config), 1)
    train_in_turns(turns, setup, rounds, setup.build(), stream_of(data, config.batch_size))
    return {}


def run_epoch(turns: Turns, data: Path) -> dict[str, Any]:
    """Stream one epoch from shards. Return the images per second, and the memory (MB) after each tenth of the epoch."""
    tf.zeros(1)
    held = {"TensorFlow started": resident_memory()}
    size = 100
    stream = stream_of(data, size)
    held["shards opened"] = resident_memory()
    batch = iter(stream.at(0))
    tenth = max(1, stream.steps_per_epoch // 10)
    started = time.monotonic()
    for step in range(1, stream.steps_per_epoch + 1):
        next(batch)
        if step % tenth == 0:
            held[f"{step * size:,} images"] = resident_memory()
    rate = stream.steps_per_epoch * size / (time.monotonic() - started)
    turns.next()
    return {"held_mb": held, "rate": rate}


def step_seconds(threads: int, config: dcgan.Config, rounds: int, data: Path) -> list[float]:
    """Return the duration of each of `rounds` steps in seconds, after warm-up."""
    worker = Worker(threads, run_steps, config, rounds, data)
    times = [worker.turn()[0] for _ in range(2 + rounds)]
    worker.finish()
    return times[2:]


# %% Tables


def rate_table(rates: Mapping[str, Sequence[float]], steps: Mapping[str, float]) -> str:
    """Return a Markdown table of the throughput of streams and training steps, in images per second."""
    rows = {name: {"rate": f"{statistics.median(each):.0f}"} for name, each in rates.items()}
    rows |= {f"DCGAN training step, {name}": {"rate": f"{rate:.0f}"} for name, rate in steps.items()}
    return markdown_table(rows, {"rate": "images/s"}, "64 px")


def held_table(held: Mapping[str, float]) -> str:
    """Return a Markdown table of the memory after each tenth of an epoch."""
    return markdown_table({name: {"mb": f"{mb:.0f}"} for name, mb in held.items()}, {"mb": "resident MB"}, "after")


# %% Running


def measure(
    rounds: int = 5,
    threads: int = os.cpu_count() or 1,
    images: int = 200_000,
    quick: bool = False,
    output_dir: Path = Path("runs/benchmarks"),
) -> None:
    """Write and stream shards, time a training step that reads from them, measure memory, and write shards.json.

    Args:
        rounds: the number of timed steps of each network, after warm-up.
        threads: the number of threads of each process.
        images: the number of images in the memory measurement, which streams them once.
        quick: a short smoke test of the benchmark. Its numbers are meaningless.
        output_dir: the folder for shards.json.
    """
    if rounds < 1 or threads < 1:
        raise InputError(f"--rounds {rounds} --threads {threads}: both must be 1 or more")
    if not Path("/proc/self/statm").exists():
        raise InputError(f"{sys.platform}: this benchmark needs Linux, because it reads memory use from /proc")
    sizes = QUICK_SHARDS if quick else ShardSizes(images)
    where = machine(threads)
    print(describe(where), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = folder / "few", folder / "many"
        for path, count in ((few, sizes.fewer), (many, sizes.images)):
            write_crops(path, count, sizes.different)
        sources = {"folder of files": few, "shards": folder / "kept", f"shards, --size {SIDE}": folder / "sized"}
        print(f"writing {sizes.images} images", file=sys.stderr)
        started = time.monotonic()
        about = open_shards(write_shards(many, folder / "shards"))
        written = {"seconds": time.monotonic() - started, "index_bytes": about.places.nbytes if about else 0}
        written["bytes"] = sum(path.stat().st_size for path in (folder / "shards").glob("*.tfrecord"))
        print(f"{sizes.images} images, {written['bytes'] / 1e6:.0f} MB: written in {written['seconds']:.0f} s")
        worker = Worker(threads, run_epoch, folder / "shards")
        worker.turn()
        epoch = worker.finish()
        print(
            f"one epoch: {epoch['rate']:.0f} images/s\n\n{held_table(epoch['held_mb'])}",
            end="\n\n",
            flush=True,
        )
        print("timing the streams", file=sys.stderr)
        write_shards(few, folder / "kept")
        write_shards(few, folder / "sized", size=SIDE)
        worker = Worker(threads, run_streams, sources, sizes.seconds)
        worker.turn()
        rates = worker.finish()["rates"]
        print(rate_table(rates, {}), end="\n\n", flush=True)
        print("timing the training steps", file=sys.stderr)
        steps = {
            kind: config.batch_size / statistics.median(step_seconds(threads, config, rounds, folder / "kept"))
            for kind, config in sizes.steps.items()
        }
        print(rate_table(rates, steps), end="\n\n")
    numbers = {"machine": where, "rates": rates, "steps": steps, "written": written, "epoch": epoch}
    write_json(output_dir / "shards.json", numbers)
    print(output_dir / "shards.json")


if __name__ == "__main__":
    run_benchmark(measure)
