"""Compare exported networks with Keras: size on disk, CPU time per image on one thread, and output quality.

The networks come from the demos. Demos without a run in --output-dir are run first. All demos together take 20 minutes
on two cores. Images are passed one at a time. The runtimes are timed alternately, and the table shows the median over
the rounds. Keras runs layer by layer, as in the recipes.

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
from common.data.datasets import image_pairs, images_of
from common.data.labelled import labelled_images
from common.images.pixels import from_uint8, to_uint8
from common.metrics.classification import accuracy
from common.runs.export import EXPORT_ENDINGS, ExportFormat, export_network
from common.runs.networks import load_network
from common.samples.clothes import CLOTHES_CLASSES, synthetic_clothes
from common.samples.seasons import synthetic_seasons
from common.system.files import InputError
from common.system.lazy import keras, tf
from recipes import cyclegan, fast_style_transfer, pix2pix

FORMATS: dict[str, ExportFormat] = {
    "SavedModel": "tf_saved_model",
    "ONNX Runtime": "onnx",
    "LiteRT": "litert",
    "LiteRT, 8 bits": "litert_int8",
}
TIMED = 10  # number of images timed per round
Call = Callable[[np.ndarray], np.ndarray]


class Case(NamedTuple):
    """A trained network, its inputs, and a function that scores its outputs."""

    network: keras.Model
    inputs: np.ndarray  # float32 [n, ...]
    score: Callable[[np.ndarray], dict[str, str]]  # outputs [n, ...] -> score by name


def measure(
    output_dir: Path = Path("runs/export"),
    rounds: int = 7,
    only: tuple[str, ...] = (),
    results: Path | None = None,
) -> None:
    """Run the demos that have not run yet, export their networks, and print a table.

    Args:
        output_dir: the folder for the runs and the exported networks.
        rounds: the number of rounds. Times are medians over the rounds.
        only: names of the recipes to measure.
        results: a Markdown file with two markers `<!-- export -->`. The table replaces the text between them.
    """
    unknown = sorted(set(only) - set(CASES))
    if unknown:
        raise InputError(f"--only {unknown[0]!r}: unknown network; choose from {', '.join(CASES)}")
    if rounds < 1:
        raise InputError(f"--rounds must be 1 or more, got {rounds}")
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
    columns = {"size": "kB on disk", "time": "CPU ms per image", "quality": "quality"}
    text = f"{markdown_table(rows, columns, 'network, runtime')}\n\n{describe(where)}"
    print(f"\n{text}")
    if results is not None:
        write_between(results, "export", text)


# %% Cases


def classifier_case(run: Path, network: str, size: int = 28, with_head: bool = False) -> Case:
    """Return a classifier and the 1,000 held-out images of its demo.

    If `with_head`, `network` returns features, and the run's `classifier` computes logits from them in Keras.
    """
    trained = load_network(run, network)
    sample = functools.partial(synthetic_clothes, 5000, 0, 28)
    channels = trained.inputs[0].shape[-1]
    data = labelled_images("sample", size, channels, sample, names=CLOTHES_CLASSES, enlarge=False)
    clothes, labels = data.test.loaded(1000)
    head = load_network(run, "classifier") if with_head else None
    return Case(trained, np.asarray(from_uint8(clothes)), right_in(labels, head))


def digits_case(run: Path) -> Case:
    """Return ssgan's classifier, which was trained with 50 labels, and the test digits of its demo."""
    digits, labels = labelled_images("sample", 28, 1, "digits").test.loaded(1000)
    return Case(load_network(run, "ema"), np.asarray(from_uint8(digits)), right_in(labels))


def latents_case(run: Path, network: str) -> Case:
    """Return a generator or decoder and 200 random latents."""
    generator = load_network(run, network)
    latents = np.random.default_rng(0).normal(size=(200, generator.inputs[0].shape[1])).astype(np.float32)
    return Case(generator, latents, against(np.asarray(generator(latents, training=False))))


def translation_case(run: Path, network: str, images: np.ndarray, truth: np.ndarray | None = None) -> Case:
    """Return an image-to-image network and its inputs. `truth` is the ground truth of the outputs, if known."""
    translator, inputs = load_network(run, network), np.asarray(from_uint8(images))
    to_keras = against(np.concatenate([np.asarray(translator(one[None], training=False)) for one in inputs]))

    def score(outputs: np.ndarray) -> dict[str, str]:
        if truth is None:
            return to_keras(outputs)
        l1 = np.abs(to_uint8(outputs).astype(float) - truth).mean() / 255
        return {"quality": f"{to_keras(outputs)['quality']}; L1 to the ground truth {l1:.4f}"}

    return Case(translator, inputs, score)


def pix2pix_case(run: Path) -> Case:
    """Return the generator and held-out sketches."""
    sketches, portraits = image_pairs("sample", pix2pix.DEMO.size, "sketches").held_out()
    return translation_case(run, "generator", sketches, portraits)


def cyclegan_case(run: Path) -> Case:
    """Return the summer-to-winter generator and held-out summer images."""
    summers, winters = synthetic_seasons(40, 0, cyclegan.DEMO.size)
    return translation_case(run, "generator_a2b", summers, winters)


def style_case(run: Path) -> Case:
    """Return the transform network and 20 held-out photos of its demo."""
    (photos,) = images_of("sample", fast_style_transfer.DEMO.size, 3, "photos").held_out(20)
    return translation_case(run, "transform_network", photos)


def right_in(labels: np.ndarray, head: keras.Model | None = None) -> Callable[[np.ndarray], dict[str, str]]:
    """Return a function that scores logits by their accuracy. With `head`, it scores features instead of logits."""

    def score(outputs: np.ndarray) -> dict[str, str]:
        logits = outputs if head is None else np.asarray(head(outputs, training=False))
        return {"quality": f"accuracy {accuracy(labels, logits):.3f}"}

    return score


def against(images: np.ndarray) -> Callable[[np.ndarray], dict[str, str]]:
    """Return a function that scores images in [-1, 1] by their PSNR to `images`, after rounding to 8 bits."""

    def score(outputs: np.ndarray) -> dict[str, str]:
        error = np.mean((to_uint8(outputs).astype(float) - to_uint8(images).astype(float)) ** 2)
        psnr = f"PSNR to Keras {10 * np.log10(255**2 / error):.1f} dB" if error else "identical to Keras"
        return {"quality": psnr}

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
    "dcgan_faces": functools.partial(latents_case, network="ema"),
    "pix2pix": pix2pix_case,
    "cyclegan": cyclegan_case,
    "fast_style_transfer": style_case,
}

# %% Measurement


def compare(case: Case, folder: Path, rounds: int) -> dict[str, dict[str, float | int | str]]:
    """Export the network in all formats to a folder; return one row per runtime."""
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
    outputs["Keras"] = np.asarray(network(inputs, training=False))  # in one batch, to save time
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
    """Return a function that runs an exported network on one thread; `name` is the name of the network's input."""
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
