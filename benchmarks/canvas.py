"""Measure style transfer and DeepDream: speed, optimizers, and networks other than the bundled one.

Existing measurements are kept, so an interrupted benchmark resumes where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Measured, describe, machine, markdown_table, run_benchmark, write_between
from common.images.pixels import crop_square, from_uint8, resize_image
from common.images.writing import save_image
from common.runs.pretrained import caffe_images
from common.system.files import InputError, replacing
from common.system.lazy import keras, tf
from common.training.canvas import Painting, match_colours, read_photo, read_style

SIDE = 512  # image size in pixels for gradients and dreams
ROUNDS = 7
SECONDS = (5, 10, 20, 40)  # time limits at which the optimizers are compared


def measure(
    content: tuple[Path, ...] = (),
    style: tuple[Path, ...] = (),
    squeezenet: Path | None = None,
    weights: Path | None = None,
    output_dir: Path = Path("runs/canvas"),
    results: Path | None = None,
    only: tuple[str, ...] = (),
) -> None:
    """Measure speed, optimizers, paintings and dreams; print one table per task.

    Args:
        content: the content images (photos).
        style: the style images (paintings).
        squeezenet: an .npz file with the weights of SqueezeNet 1.1, without its classifier, for the task `paintings`.
        weights: a file of ImageNet weights for MobileNetV2, for the task `dreams`.
        output_dir: the folder for the images and `canvas.json`. Results already in this file are kept.
        results: a Markdown file with two markers `<!-- canvas -->`. The tables replace the text between them.
        only: the tasks to measure: `gradients`, `optimizers`, `megapixels`, `paintings`, `dreams`. Default: all.
    """
    found = Measured(output_dir / "canvas.json")
    tasks: dict[str, Callable[[], dict[str, Any]]] = {
        "gradients": measure_gradients,
        "optimizers": measure_optimizers,
        "megapixels": lambda: measure_megapixels(output_dir),
    }
    if content and style:
        tasks["paintings"] = lambda: measure_paintings(content, style, squeezenet, output_dir)
    if content and weights is not None:
        tasks["dreams"] = lambda: measure_dreams(content, weights, output_dir)
    unknown = [name for name in only if name not in tasks]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not one of the tasks that the given files allow: {', '.join(tasks)}")
    for name, task in tasks.items():
        if not only or name in only:
            found.once(name, task)
    text = tables(found.numbers)
    where = describe(machine(os.cpu_count() or 1))
    print(f"\n{text}\n\n{where}")
    if results is not None:
        write_between(results, "canvas", f"{text}\n\n{where}")


# %% Speed


def measure_gradients() -> dict[str, Any]:
    """Time the gradient of the style loss and a matrix product alternately, each in float32 and in bfloat16."""
    from recipes import style_transfer

    embedded, vgg19 = style_transfer.Config(), dataclasses.replace(style_transfer.VGG19, weights="random")
    scores: dict[str, Any] = {}
    for name, config, side in (("embedded", embedded, SIDE), ("VGG19, random weights", vgg19, SIDE // 2)):
        single = style_transfer.build(config)
        networks = {"float32": single, "bfloat16": style_transfer.Networks(in_bfloat16(single.features))}
        square = Painting.of(read_square(side), [(read_style("sample"), 1.0)])
        losses = {kind: style_transfer.make_losses(each, square, config) for kind, each in networks.items()}
        image = from_uint8(square.image[None])
        seconds: dict[str, list[float]] = {}
        for number in range(ROUNDS + 1):
            actions: dict[str, Callable[[], object]] = {kind: finished(losses[kind], image) for kind in losses}
            actions |= {f"product, {kind}": matrix_product(kind) for kind in losses}
            for kind, action in actions.items():
                started = time.perf_counter()
                action()
                if number:  # the first call compiles
                    seconds.setdefault(kind, []).append(time.perf_counter() - started)
        work = 2 * convolution_work(single.features, side) / 1e9  # one forward pass, and one backward pass to the image
        one, other = (losses[kind](image)[1].numpy().ravel().astype(np.float64) for kind in losses)
        for kind in losses:
            took = statistics.median(seconds[kind])
            peak = PRODUCT_WORK / 1e9 / statistics.median(seconds[f"product, {kind}"])
            row = {"seconds": took, "speed": work / took, "peak": peak, "fraction": work / took / peak}
            scores[f"{name}, {side} px, {kind}"] = row
        row["cosine"] = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        row["faster"] = statistics.median(a / b for a, b in zip(seconds["float32"], seconds["bfloat16"], strict=True))
    return scores


PRODUCT_SIDE = 2048
PRODUCT_WORK = 2 * PRODUCT_SIDE**3


def finished(function: Callable, image: tf.Tensor) -> Callable[[], object]:
    """Return a function that calls `function` on `image` and waits for the result."""
    return lambda: function(image)[1].numpy()


def matrix_product(kind: str) -> Callable[[], object]:
    """Return a function that multiplies two square matrices, to measure the peak speed of the machine."""
    matrix = tf.cast(tf.random.stateless_normal([PRODUCT_SIDE, PRODUCT_SIDE], (1, 2)), kind)
    return lambda: tf.matmul(matrix, matrix)[0, 0].numpy()


def in_bfloat16(network: keras.Model) -> keras.Model:
    """Return a copy of the network that computes in bfloat16. Weights and outputs stay float32."""

    def cast(layer: keras.Operation) -> keras.Operation:
        precision = {"dtype": "mixed_bfloat16"} if isinstance(layer, keras.layers.Layer) else {}
        return type(layer).from_config(layer.get_config() | precision)

    clone = keras.models.clone_model(network, clone_function=cast, recursive=True)
    clone.set_weights(network.get_weights())
    images = keras.Input((None, None, 3))
    outputs = [keras.ops.cast(maps, "float32") for maps in clone(keras.ops.cast(images, "bfloat16"))]
    return keras.Model(images, outputs)


def convolution_work(network: keras.Model, side: int) -> float:
    """Return the FLOPs of all convolutions in a forward pass on a square image of `side` pixels."""
    probe = [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.Conv2D)]
    inner = next((layer for layer in network.layers if isinstance(layer, keras.Model)), network)
    shapes = keras.Model(inner.input, [layer.output for layer in probe]).compute_output_shape((1, side, side, 3))
    sizes = zip(probe, shapes, strict=True)
    return sum(2.0 * np.prod(layer.kernel.shape) * shape[1] * shape[2] for layer, shape in sizes)


def read_square(side: int) -> np.ndarray:
    """Return the centre crop of the sample photo, resized to uint8 [side, side, 3]."""
    return resize_image(crop_square(read_photo("sample")), side, side)


class TimeIsUp(Exception):
    """Raised to stop an optimizer."""


def measure_optimizers() -> dict[str, Any]:
    """Return the lowest loss that each optimizer reaches within each time limit, for the demo's photo at 256 px."""
    from recipes import style_transfer

    config = style_transfer.Config(scales=1)
    networks = style_transfer.build(config)
    style = read_style("sample")
    photo = match_colours(read_square(256), style)
    losses = style_transfer.make_losses(networks, Painting.of(photo, [(style, 1.0)]), config)
    start = from_uint8(photo).numpy()
    losses(start[None])
    ways: dict[str, tuple[Callable, Any]] = {"L-BFGS": (style_transfer.by_lbfgs, config)}
    for rate in (0.01, 0.02, 0.05):
        ways[f"Adam, learning rate {rate}"] = (style_transfer.by_adam, dataclasses.replace(config, learning_rate=rate))
    scores: dict[str, Any] = {}
    for name, (improve, settings) in ways.items():
        found: list[tuple[float, float]] = []
        started = time.perf_counter()

        def watched(x: tf.Tensor, found: list = found, started: float = started) -> tuple[tf.Tensor, tf.Tensor]:
            parts, gradient = losses(x)
            found.append((time.perf_counter() - started, float(parts[-1])))
            if found[-1][0] > SECONDS[-1]:
                raise TimeIsUp
            return parts, gradient

        with contextlib.suppress(TimeIsUp):
            improve(watched, start, dataclasses.replace(settings, steps=100_000))
        scores[name] = {f"{limit} s": min(loss for at, loss in found if at <= limit) for limit in SECONDS}
        scores[name]["evaluations"] = len(found)
    return scores


def measure_megapixels(output_dir: Path) -> dict[str, Any]:
    """Run DeepDream on 12 megapixels in a separate process. Return the seconds per step and the peak memory in GB."""
    photo = output_dir / "twelve_megapixels.png"
    if not photo.exists():
        save_image(np.tile(read_square(500), (6, 8, 1)), photo)
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from recipes.deepdream import Config, dream_file\n"
        "seconds = []\n"
        "for steps in (1, 3):\n"
        "    started = time.monotonic()\n"
        f"    dream_file(Path({str(photo)!r}), Path({str(output_dir / 'twelve_megapixels_dream.png')!r}), "
        "Config(octaves=1, steps=steps))\n"
        "    seconds.append(time.monotonic() - started)\n"
        "print((seconds[1] - seconds[0]) / 2, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, gigabytes = map(float, done.stdout.split())
    return {"4000 x 3000 px": {"seconds_per_step": seconds, "gigabytes": gigabytes}}


# %% Other networks


def squeezenet_layers(path: Path) -> keras.Model:
    """Build SqueezeNet 1.1 from its weights. Average pooling replaces strides, to avoid checkerboard patterns."""
    layers = keras.layers
    with np.load(path) as file:
        arrays = dict(file)

    def convolved(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        kernel = arrays[f"{name}/kernel"]
        options = {"activation": "relu", "name": name.replace("/", "_")}
        layer = layers.Conv2D(kernel.shape[-1], kernel.shape[0], 1, "same", **options)
        y = layer(x)
        layer.set_weights([kernel, arrays[f"{name}/bias"]])
        return y

    images = keras.Input((None, None, 3), name="images")
    x = layers.AveragePooling2D(2)(convolved(caffe_images(images), "conv1"))
    for number in range(2, 10):
        if number in (2, 4, 6):
            x = layers.AveragePooling2D(2)(x)
        x = convolved(x, f"fire{number}/squeeze1x1")
        both = [convolved(x, f"fire{number}/expand{size}x{size}") for size in (1, 3)]
        x = layers.Concatenate(name=f"fire{number}")(both)
    return keras.Model(images, x, name="squeezenet")


SQUEEZENET: dict[str, Any] = {
    "network": "file",
    "content_layers": "fire4",
    "style_layers": "conv1,fire2,fire3,fire5,fire7",
    "style_weight": 300.0,
}


def measure_paintings(
    content: Sequence[Path], style: Sequence[Path], squeezenet: Path | None, output_dir: Path
) -> dict[str, Any]:
    """Paint each photo in the style of each painting at 512 px; write the images, and return times and losses."""
    from recipes import style_transfer

    settings = {"embedded": style_transfer.Config()}
    if squeezenet is not None:
        path = output_dir / "squeezenet.keras"
        with replacing(path) as temporary:
            squeezenet_layers(squeezenet).save(temporary)
        settings["SqueezeNet"] = style_transfer.Config(weights=str(path), **SQUEEZENET)
    scores: dict[str, Any] = {}
    for network, config in settings.items():
        networks = style_transfer.build(config)
        seconds, relative = [], []
        for painting in style:
            for photo in content:
                both = Painting.read(str(photo), str(painting), config.size)
                started = time.monotonic()
                image = style_transfer.stylize(networks, both, config)
                seconds.append(time.monotonic() - started)
                losses = style_transfer.make_losses(networks, both, config)
                after, before = (losses(from_uint8(each[None]))[0][1] for each in (image, both.content))
                relative.append(float(after / before))
                save_image(image, output_dir / network / f"{painting.stem}-{photo.stem}.png")
        scores[network] = {"paintings": len(seconds)}
        scores[network] |= {"seconds": statistics.median(seconds), "relative_style_loss": statistics.median(relative)}
    return scores


def measure_dreams(content: Sequence[Path], weights: Path, output_dir: Path) -> dict[str, Any]:
    """Run DeepDream on each photo with the bundled network and with MobileNetV2; write the images; return the times."""
    from recipes import deepdream

    layers = "block_6_expand_relu,block_10_expand_relu"
    trained: dict[str, Any] = {"network": "MobileNetV2", "weights": str(weights), "layers": layers}
    scores: dict[str, Any] = {}
    for network, config in (("embedded", deepdream.Config()), ("MobileNetV2", deepdream.Config(**trained))):
        networks, seconds = deepdream.build(config), []
        for photo in content:
            before = read_photo(str(photo), SIDE)
            dream = deepdream.Dream(before.copy())
            started = time.monotonic()
            deepdream.train(networks, dream, config)
            seconds.append(time.monotonic() - started)
            save_image([before, dream.image], output_dir / f"dream-{network}" / f"{photo.stem}.png")
        scores[network] = {"dreams": len(seconds), "seconds": statistics.median(seconds)}
    return scores


# %% Tables


def tables(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the results as Markdown tables."""
    columns: dict[str, dict[str, str]] = {
        "gradients": {
            "seconds": "seconds",
            "speed": "GFLOP/s",
            "peak": "peak GFLOP/s (matrix product)",
            "fraction": "fraction of peak",
            "faster": "speed-up over float32",
            "cosine": "cosine similarity to the float32 gradient",
        },
        "optimizers": {f"{limit} s": f"{limit} s" for limit in SECONDS} | {"evaluations": "evaluations"},
        "megapixels": {"seconds_per_step": "seconds per step", "gigabytes": "peak GB"},
        "paintings": {
            "paintings": "paintings",
            "seconds": "seconds per painting",
            "relative_style_loss": "style loss relative to the photo",
        },
        "dreams": {"dreams": "dreams", "seconds": "seconds per dream"},
    }
    corners = {"optimizers": "lowest loss after", "gradients": "gradient", "megapixels": "image"}
    corners |= {"paintings": "network for paintings", "dreams": "network for dreams"}
    return "\n\n".join(
        markdown_table(numbers[name], columns[name], corners[name]) for name in columns if name in numbers
    )


if __name__ == "__main__":
    run_benchmark(measure)
