"""Exported networks beside Keras: size on disk, CPU time of a picture on one thread, and what 8 bits cost in quality.

Networks are those of the demos, trained under --output-dir where they are not there yet. Pictures go in one by one, in
rounds in which the runtimes take turns, and times are medians of the rounds. Keras is called as the recipes call it,
layer by layer.

Run      pip install --editable '.[export]' && python -m benchmarks.export
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import describe, machine, markdown_table, run_benchmark, write_between
from common.classification import accuracy
from common.clothes import drawn_clothes
from common.errors import InputError
from common.export import EXPORT_ENDINGS, ExportFormat, export_network
from common.images import from_uint8, to_uint8
from common.lazy import keras, tf
from common.runs import load_network

FORMATS: dict[str, ExportFormat] = {
    "SavedModel": "tf_saved_model",
    "ONNX Runtime": "onnx",
    "LiteRT": "litert",
    "LiteRT, 8 bits": "litert_int8",
}
TIMED = 10  # pictures in a round
Call = Callable[[np.ndarray], np.ndarray]


class Case(NamedTuple):
    """A trained network, what it is shown, and how its outputs are judged."""

    network: keras.Model
    inputs: np.ndarray  # float32 [n, ...]
    score: Callable[[np.ndarray], dict[str, str]]  # of outputs [n, ...]


def measure(
    output_dir: Path = Path("runs/export"),
    rounds: int = 7,
    only: tuple[str, ...] = (),
    results: Path | None = None,
) -> None:
    """Train what is not there, export it, and print a table.

    Args:
        output_dir: for a run of each recipe, and what is exported of it.
        rounds: of which times are medians.
        only: of lenet, dcgan, pix2pix.
        results: a Markdown file, into which the table is written between the marks `<!-- export -->`.
    """
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"  # before TensorFlow starts
    unknown = [name for name in only if name not in CASES]
    if unknown or rounds < 1:
        raise InputError(f"expected a round or more of {', '.join(CASES)}, got {rounds} of {', '.join(unknown)}")
    where = machine(threads=1)
    rows: dict[str, dict[str, float | int | str]] = {}
    for name, case in CASES.items():
        if only and name not in only:
            continue
        run = output_dir / name
        if not (run / "results.json").exists():
            importlib.import_module(f"recipes.{name}").demo(output_dir=run)
        for runtime, row in compare(case(run), run / "exported", rounds).items():
            rows[f"{name}, {runtime}"] = row
    columns = {"size": "kB on disk", "time": "CPU ms a picture", "quality": "quality"}
    text = f"{markdown_table(rows, columns, 'network, runtime')}\n\n{describe(where)}"
    print(f"\n{text}")
    if results is not None:
        write_between(results, "export", text)


# %% What is measured


def lenet_case(run: Path) -> Case:
    """Return the classifier with the 1,000 clothes that the demo holds out."""
    clothes, labels = drawn_clothes(5000, 0, 28)
    shown = np.asarray(from_uint8(clothes[4::5]))
    score = lambda logits: {"quality": f"accuracy {accuracy(labels[4::5], logits):.3f}"}  # noqa: E731
    return Case(load_network(run, "classifier"), shown, score)


def dcgan_case(run: Path) -> Case:
    """Return the generator with 200 latents."""
    network = load_network(run, "generator")
    latents = np.random.default_rng(0).normal(size=(200, network.inputs[0].shape[1])).astype(np.float32)
    return Case(network, latents, against(np.asarray(network(latents, training=False))))


def pix2pix_case(run: Path) -> Case:
    """Return the generator with the maps of the streets that were held out."""
    recipe = importlib.import_module("recipes.pix2pix")
    network = load_network(run, "generator")
    maps, photos = (each[9::10] for each in recipe.sample_streets())
    inputs = np.asarray(from_uint8(maps))
    drawn = against(np.asarray(network(inputs, training=False)))

    def score(outputs: np.ndarray) -> dict[str, str]:
        l1 = np.abs(to_uint8(outputs).astype(float) - photos).mean() / 255
        return {"quality": f"{drawn(outputs)['quality']}; L1 to the photos {l1:.4f}"}

    return Case(network, inputs, score)


def against(pictures: np.ndarray) -> Callable[[np.ndarray], dict[str, str]]:
    """Return a score of pictures in [-1, 1]: the peak signal-to-noise ratio to `pictures`, both as 8-bit files."""

    def score(outputs: np.ndarray) -> dict[str, str]:
        error = np.mean((to_uint8(outputs).astype(float) - to_uint8(pictures).astype(float)) ** 2)
        ratio = f"{10 * np.log10(255**2 / error):.1f} dB" if error else "no level differs"
        return {"quality": f"to Keras: {ratio}"}

    return score


CASES: dict[str, Callable[[Path], Case]] = {
    "lenet": lenet_case,
    "dcgan": dcgan_case,
    "pix2pix": pix2pix_case,
}

# %% How


def compare(case: Case, folder: Path, rounds: int) -> dict[str, dict[str, float | int | str]]:
    """Export the network in all formats to a folder; return a row for each runtime."""
    network, inputs, score = case
    folder.mkdir(exist_ok=True)
    native = folder / "whole.keras"
    network.save(native)
    files = {"Keras": native}
    calls: dict[str, Call] = {}
    for runtime, format in FORMATS.items():
        files[runtime] = folder / f"whole{EXPORT_ENDINGS[format]}"
        export_network(network, files[runtime], format, inputs.shape[1] if inputs.ndim == 4 else 0)
        calls[runtime] = call_of(files[runtime], format, network.inputs[0].name)
    outputs = {name: np.concatenate([call(one[None]) for one in inputs]) for name, call in calls.items()}
    calls["Keras"] = lambda one: np.asarray(network(one, training=False))
    outputs["Keras"] = np.asarray(network(inputs, training=False))  # one by one it would take most of the time
    seconds: dict[str, list[float]] = {name: [] for name in files}
    shown = [one[None] for one in inputs[:TIMED]]
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            for one in shown:
                call(one)
            seconds[name].append((time.process_time() - began) / len(shown))
    rows: dict[str, dict[str, float | int | str]] = {}
    for name, path in files.items():
        parts = [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]
        rows[name] = {
            "size": round(sum(part.stat().st_size for part in parts) / 1000),
            "time": 1000 * statistics.median(seconds[name]),
            **score(outputs[name]),
        }
    return rows


def call_of(path: Path, format: ExportFormat, name: str) -> Call:
    """Return a function of one input, called `name`, that runs what was exported on one thread."""
    if format == "tf_saved_model":
        signature = tf.saved_model.load(str(path)).signatures["serving_default"]
        return lambda one: signature(**{name: tf.constant(one)})["output_0"].numpy()
    if format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options)
        return lambda one: session.run(["output_0"], {name: one})[0]
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(str(path), num_threads=1)
    runner = interpreter.get_signature_runner()
    return lambda one: runner(**{name: one})["output_0"]


if __name__ == "__main__":
    run_benchmark(measure)
