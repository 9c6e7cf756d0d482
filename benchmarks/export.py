"""Exported networks beside Keras: size on disk, CPU time of a picture on one thread, and what 8 bits cost in quality.

Networks are those of the demos, which run first where --output-dir has none: 20 minutes for all on two cores. Pictures
go in one by one, in rounds in which the runtimes take turns, and times are medians of the rounds. Keras is called as
the recipes call it, layer by layer.

Run      pip install --editable '.[export]' && python -m benchmarks.export
"""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import describe, machine, markdown_table, run_benchmark, write_between
from common.classification import accuracy
from common.clothes import CLOTHES_CLASSES, drawn_clothes
from common.digits import digits_or_others
from common.errors import InputError
from common.export import EXPORT_ENDINGS, ExportFormat, export_network
from common.images import from_uint8, to_uint8
from common.labelled import labelled_images
from common.lazy import keras, tf
from common.runs import load_network
from common.seasons import drawn_seasons
from recipes import cyclegan, fast_style_transfer, pix2pix

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
        only: recipes, to measure no others.
        results: a Markdown file, into which the table is written between the marks `<!-- export -->`.
    """
    unknown = sorted(set(only) - set(CASES))
    if unknown:
        raise InputError(f"{unknown[0]!r} is not among the networks; choose from {', '.join(CASES)}")
    if rounds < 1:
        raise InputError(f"--rounds {rounds}: expected 1 or more")
    chosen = [name for name in CASES if not only or name in only]
    for name in chosen:
        if not (output_dir / name / "results.json").exists():
            command = [sys.executable, "-m", f"recipes.{name}", "demo", "--output-dir", str(output_dir / name)]
            subprocess.run(command, check=True)
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[variable] = "1"  # before TensorFlow starts
    where = machine(threads=1)
    rows: dict[str, dict[str, float | int | str]] = {}
    for name in chosen:
        run = output_dir / name
        for runtime, row in compare(CASES[name](run), run / "exported", rounds).items():
            rows[f"{name}, {runtime}"] = row
    columns = {"size": "kB on disk", "time": "CPU ms a picture", "quality": "quality"}
    text = f"{markdown_table(rows, columns, 'network, runtime')}\n\n{describe(where)}"
    print(f"\n{text}")
    if results is not None:
        write_between(results, "export", text)


# %% What is measured


def classifier_case(run: Path, network: str, size: int = 28, with_head: bool = False) -> Case:
    """Return a classifier with the 1,000 clothes that its demo holds out; `with_head` is of features, with Keras."""
    learnt = load_network(run, network)
    sample = functools.partial(drawn_clothes, 5000, 0, 28)
    channels = learnt.inputs[0].shape[-1]
    data = labelled_images("sample", size, channels, sample, names=CLOTHES_CLASSES, enlarge=False)
    clothes, labels = data.test.loaded(1000)
    head = load_network(run, "classifier") if with_head else None
    return Case(learnt, np.asarray(from_uint8(clothes)), right_in(labels, head))


def digits_case(run: Path) -> Case:
    """Return the classifier that has learnt from 50 labels, with the digits that its demo holds out."""
    digits, labels = digits_or_others("sample", 28, 1, require_classes=True).test.loaded(1000)
    return Case(load_network(run, "averaged"), np.asarray(from_uint8(digits)), right_in(labels))


def latents_case(run: Path, network: str) -> Case:
    """Return a network that draws, with 200 latents."""
    drawing = load_network(run, network)
    latents = np.random.default_rng(0).normal(size=(200, drawing.inputs[0].shape[1])).astype(np.float32)
    return Case(drawing, latents, against(np.asarray(drawing(latents, training=False))))


def translation_case(run: Path, network: str, pictures: np.ndarray, truth: np.ndarray | None = None) -> Case:
    """Return a network that translates, with pictures that were held out, and what they ought to become if known."""
    translating, inputs = load_network(run, network), np.asarray(from_uint8(pictures))
    drawn = against(np.concatenate([np.asarray(translating(one[None], training=False)) for one in inputs]))

    def score(outputs: np.ndarray) -> dict[str, str]:
        if truth is None:
            return drawn(outputs)
        l1 = np.abs(to_uint8(outputs).astype(float) - truth).mean() / 255
        return {"quality": f"{drawn(outputs)['quality']}; L1 to the truth {l1:.4f}"}

    return Case(translating, inputs, score)


def pix2pix_case(run: Path) -> Case:
    """Return the generator with the maps of the streets that were held out."""
    maps, photos = (each[9::10] for each in pix2pix.sample_streets())
    return translation_case(run, "generator", maps, photos)


def cyclegan_case(run: Path) -> Case:
    """Return the generator of winters with the held-out summers."""
    summers, winters = drawn_seasons(40, 0, cyclegan.DEMO.size)
    return translation_case(run, "generator_a2b", summers, winters)


def painter_case(run: Path) -> Case:
    """Return the painter with 20 of its pictures."""
    return translation_case(run, "painter", fast_style_transfer.sample_pictures()[:20])


def right_in(labels: np.ndarray, head: keras.Model | None = None) -> Callable[[np.ndarray], dict[str, str]]:
    """Return a score of logits, or of features of which `head` makes logits: the accuracy."""

    def score(outputs: np.ndarray) -> dict[str, str]:
        logits = outputs if head is None else np.asarray(head(outputs, training=False))
        return {"quality": f"accuracy {accuracy(labels, logits):.3f}"}

    return score


def against(pictures: np.ndarray) -> Callable[[np.ndarray], dict[str, str]]:
    """Return a score of pictures in [-1, 1]: the peak signal-to-noise ratio to `pictures`, both as 8-bit files."""

    def score(outputs: np.ndarray) -> dict[str, str]:
        error = np.mean((to_uint8(outputs).astype(float) - to_uint8(pictures).astype(float)) ** 2)
        ratio = f"{10 * np.log10(255**2 / error):.1f} dB" if error else "no level differs"
        return {"quality": f"to Keras: {ratio}"}

    return score


CASES: dict[str, Callable[[Path], Case]] = {
    "mlp": functools.partial(classifier_case, network="classifier"),
    "lenet": functools.partial(classifier_case, network="classifier"),
    "mobilenet": functools.partial(classifier_case, network="features", size=64, with_head=True),
    "fgsm": functools.partial(classifier_case, network="classifier"),
    "ssgan": digits_case,
    "vae_faces": functools.partial(latents_case, network="decoder"),
    "gan": functools.partial(latents_case, network="generator"),
    "dcgan": functools.partial(latents_case, network="generator"),
    "dcgan_faces": functools.partial(latents_case, network="averaged"),
    "pix2pix": pix2pix_case,
    "cyclegan": cyclegan_case,
    "fast_style_transfer": painter_case,
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
