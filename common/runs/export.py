"""Export the networks of a run for other runtimes: SavedModel, ONNX, LiteRT, and LiteRT with 8-bit weights."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from common.runs.bundled import run_or_bundle
from common.runs.networks import load_network
from common.runs.run import stored_run
from common.system.console import noted_if_slow
from common.system.files import InputError, first_line, printable, replacing, replacing_folder
from common.system.lazy import keras, tf
from common.system.locks import only_process_in
from common.system.options import Range, check_value
from common.system.packages import needs

ExportFormat = Literal["tf_saved_model", "onnx", "litert", "litert_int8"]
Side = Annotated[int, Range(0, 16_384)]  # in pixels
EXPORT_ENDINGS = {"tf_saved_model": "", "onnx": ".onnx", "litert": ".tflite", "litert_int8": "_int8.tflite"}


def export(run: Path = Path("runs"), format: ExportFormat = "onnx", network: str = "", size: Side = 0) -> Path:
    """Export the networks of a run for another runtime, next to their .keras files.

    Args:
        run: the folder of a finished run. Without a run, the bundled networks are exported to the folder of the demo.
        format: the file format; onnx needs the `export` extra, litert_int8 has 8-bit weights.
        network: the name of the network to export; empty: all networks.
        size: the image size in pixels, for networks that need a fixed size in litert_int8; 0: the image size of the
            run.
    """
    source = run_or_bundle(run, run.name.removesuffix("-demo"))
    names = [network] if network else sorted(path.stem for path in source.glob("*.keras"))
    if not names:
        raise InputError(f"{run}: no .keras file here; give the folder of a finished run")
    if format == "litert_int8" and not size and (source / "config.json").is_file():
        size = stored_run(source)["config"].get("size", 0)
        check_value(f"{source / 'config.json'}: size", size, Side)
    with only_process_in(run):
        for name in names:
            path = run / f"{name}{EXPORT_ENDINGS[format]}"
            with noted_if_slow(f"writing {printable(path)}"):
                export_network(load_network(source, name), path, format, size)
    return run


def in_float32(network: keras.Model) -> keras.Model:
    """Return a float32 copy of a network, because other runtimes do not support Keras's mixed precision.

    If `network` already computes in float32, return `network` itself.
    """
    if all(layer.compute_dtype == "float32" for layer in network.layers):
        return network

    def float32(part: keras.Operation) -> keras.Operation:
        dtype = {"dtype": "float32"} if isinstance(part, keras.layers.Layer) else {}
        return type(part).from_config(part.get_config() | dtype)

    copy = keras.models.clone_model(network, clone_function=float32, recursive=True)
    copy.set_weights(network.get_weights())
    return copy


def export_network(network: keras.Model, path: Path, format: ExportFormat, size: int = 0) -> None:
    """Export one network for inference in float32, with dropout and noise inactive.

    Inputs keep their names. Outputs are named output_0, output_1 and so on. The batch size stays dynamic. The image
    size stays dynamic if the network accepts images of any size.

    In LiteRT, 8-bit transposed convolutions are slow if the input shape is dynamic. For litert_int8, the input shape of
    a network with such layers is therefore fixed: one image of `size` x `size` pixels.

    Args:
        network: the network. Its inputs and outputs are float32, before and after the export.
        path: a folder for tf_saved_model, otherwise a file that ends in .onnx or .tflite.
        format: a key of `EXPORT_ENDINGS`.
        size: the image size in pixels, for a network that needs a fixed size.

    Raises:
        InputError: a package is missing, the format does not support the network, or the network needs a `size`.
    """
    network = _resizing(in_float32(network), "bilinear")
    network(
        network.inputs if len(network.inputs) > 1 else network.inputs[0]
    )  # ONNX export needs a network that has been called
    if format == "tf_saved_model":
        _write_saved_model(network, path)
    else:
        with replacing(path) as temporary:
            if format == "onnx":
                _write_onnx(network, temporary)
            else:
                _write_litert(network, temporary, format == "litert_int8", size)


def _write_saved_model(network: keras.Model, path: Path) -> None:
    with replacing_folder(path) as temporary:
        network.export(str(temporary), format="tf_saved_model", verbose=False)


def _write_onnx(network: keras.Model, path: Path) -> None:
    with needs("export", "the format onnx"):
        onnx, _ = importlib.import_module("onnx"), importlib.import_module("tf2onnx")
    with warnings.catch_warnings():  # Keras uses `np.object`, which NumPy has removed
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        network.export(str(path), format="onnx", verbose=False)
    written = onnx.load(str(path))
    names = {output.name: f"output_{number}" for number, output in enumerate(written.graph.output)}
    for node in written.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    for output in written.graph.output:
        output.name = names[output.name]
    onnx.save(written, str(path))


def _write_litert(network: keras.Model, path: Path, int8: bool, size: int) -> None:
    from tensorflow.lite.python.convert import ConverterError

    options: dict[str, Any] = {
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    }  # the operations that every LiteRT runtime supports
    if int8:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if int8 and any(isinstance(layer, keras.layers.Conv2DTranspose) for layer in network.layers):
        open_size = any(None in inputs.shape[1:] for inputs in network.inputs)
        if open_size and not size:
            raise InputError(f"{network.name} needs a size for litert_int8: add --size, the image size in pixels")
        shapes = {each.name: (1, *(side or size for side in each.shape[1:])) for each in network.inputs}
        fixed = [tf.TensorSpec(shape, tf.float32, name) for name, shape in shapes.items()]
        options["input_signature"] = [fixed if len(fixed) > 1 else fixed[0]]
    try:
        _resizing(network, "nearest").export(str(path), format="litert", verbose=False, **options)
    except ConverterError as error:
        raise InputError(
            f"{network.name} has operations that LiteRT lacks ({first_line(error, 150)}); choose another format"
        ) from None


def _resizing(network: keras.Model, *interpolations: str) -> keras.Model:
    """Return a network with the same weights, but with `tf.image.resize` for upsampling with these interpolations.

    With a dynamic image size, Keras's own bilinear upsampling cannot be traced. After its nearest-neighbour upsampling,
    the LiteRT converter cannot infer the number of channels.
    """
    methods = {"nearest": tf.image.ResizeMethod.NEAREST_NEIGHBOR, "bilinear": tf.image.ResizeMethod.BILINEAR}

    class Resizing(keras.layers.UpSampling2D):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return tf.image.resize(inputs, tf.shape(inputs)[1:3] * tf.constant(self.size), methods[self.interpolation])

    def resizes(layer: keras.Operation) -> bool:
        return isinstance(layer, keras.layers.UpSampling2D) and layer.interpolation in interpolations

    def replaced(layer: keras.Operation) -> keras.Operation:
        return Resizing.from_config(layer.get_config()) if resizes(layer) else layer

    if not any(resizes(layer) for layer in network.layers):
        return network
    return keras.models.clone_model(network, clone_function=replaced)
