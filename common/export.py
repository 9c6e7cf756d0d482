"""A run's networks for other runtimes: SavedModel, ONNX, LiteRT, and LiteRT with weights of 8 bits."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from common.errors import InputError, first_line
from common.files import replacing, replacing_folder
from common.lazy import keras, tf
from common.locks import only_process_in
from common.ranges import Range, check_value
from common.runs import load_network, stored_run

ExportFormat = Literal["tf_saved_model", "onnx", "litert", "litert_int8"]
Side = Annotated[int, Range(0, 16_384)]  # pixels
EXPORT_ENDINGS = {"tf_saved_model": "", "onnx": ".onnx", "litert": ".tflite", "litert_int8": "_int8.tflite"}


def export(run: Path = Path("runs"), format: ExportFormat = "onnx", network: str = "", size: Side = 0) -> Path:
    """Write a run's networks beside their .keras files, for another runtime.

    Args:
        run: folder of a finished run.
        format: onnx needs the `export` extra; litert_int8 has weights of 8 bits.
        network: one of them; all where none is named.
        size: pixels a side where litert_int8 cannot leave it open; 0 for that of the run.
    """
    names = [network] if network else sorted(path.stem for path in run.glob("*.keras"))
    if not names:
        raise InputError(f"{run}: no .keras file here; give the folder of a finished run")
    if format == "litert_int8" and not size and (run / "config.json").is_file():
        size = stored_run(run)["config"].get("size", 0)
        check_value(f"{run / 'config.json'}: size", size, Side)
    with only_process_in(run):
        for name in names:
            export_network(load_network(run, name), run / f"{name}{EXPORT_ENDINGS[format]}", format, size)
    return run


def in_float32(network: keras.Model) -> keras.Model:
    """Return a network with the same weights that computes in float32: other runtimes know no mixed precision.

    It is `network` itself where that does so.
    """
    if all(layer.compute_dtype == "float32" for layer in network.layers):
        return network

    def plain(part: keras.Operation) -> keras.Operation:
        of_layers = {"dtype": "float32"} if isinstance(part, keras.layers.Layer) else {}
        return type(part).from_config(part.get_config() | of_layers)

    copy = keras.models.clone_model(network, clone_function=plain, recursive=True)
    copy.set_weights(network.get_weights())
    return copy


def export_network(network: keras.Model, path: Path, format: ExportFormat, size: int = 0) -> None:
    """Write one network as it is used, in float32: dropout and noise do not act.

    Inputs keep their names; outputs are called output_0, output_1 and so on. The number of examples is open, and so
    is the size of pictures where the network leaves it open; but with 8 bits a network with transposed convolutions
    takes one example of `size` pixels a side, since LiteRT is slow at them where it must ask for the shape first.

    Args:
        network: float32 in and out, also of what is written.
        path: a folder for tf_saved_model, else a file that ends in .onnx or .tflite.
        format: of `EXPORT_ENDINGS`.
        size: pixels a side.

    Raises:
        InputError: a package is missing, the format has not what the network holds, or it needs a size.
    """
    network = in_float32(network)
    network(network.inputs if len(network.inputs) > 1 else network.inputs[0])  # ONNX refuses one never called
    if format == "tf_saved_model":
        _write_saved_model(network, path)
    else:
        with replacing(path) as draft:
            if format == "onnx":
                _write_onnx(network, draft)
            else:
                _write_litert(network, draft, format == "litert_int8", size)


def _write_saved_model(network: keras.Model, path: Path) -> None:
    with replacing_folder(path) as draft:
        network.export(str(draft), format="tf_saved_model", verbose=False)


def _write_onnx(network: keras.Model, path: Path) -> None:
    try:
        onnx, _ = importlib.import_module("onnx"), importlib.import_module("tf2onnx")
    except ImportError as error:
        raise InputError(f"onnx needs {error.name}, which comes with the `export` extra of this project") from None
    with warnings.catch_warnings():  # Keras asks NumPy for a name that it has no more
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        network.export(str(path), format="onnx", verbose=False)
    written = onnx.load(str(path))
    names = {output.name: f"output_{number}" for number, output in enumerate(written.graph.output)}
    for node in written.graph.node:
        for places in (node.input, node.output):
            places[:] = [names.get(name, name) for name in places]
    for output in written.graph.output:
        output.name = names[output.name]
    onnx.save(written, str(path))


def _write_litert(network: keras.Model, path: Path, int8: bool, size: int) -> None:
    from tensorflow.lite.python.convert import ConverterError

    options: dict[str, Any] = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}  # all runtimes' own
    if int8:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if int8 and any(isinstance(layer, keras.layers.Conv2DTranspose) for layer in network.layers):
        open_size = any(None in inputs.shape[1:] for inputs in network.inputs)
        if open_size and not size:
            raise InputError(f"{network.name} needs a size for litert_int8: add --size with the pixels of a side")
        shapes = {each.name: (1, *(side or size for side in each.shape[1:])) for each in network.inputs}
        fixed = [tf.TensorSpec(shape, tf.float32, name) for name, shape in shapes.items()]
        options["input_signature"] = [fixed if len(fixed) > 1 else fixed[0]]
    try:
        _resizing(network).export(str(path), format="litert", verbose=False, **options)
    except ConverterError as error:
        raise InputError(
            f"{network.name} holds what LiteRT has not ({first_line(error, 150)}); choose another format"
        ) from None


def _resizing(network: keras.Model) -> keras.Model:
    """Return the network, with the same weights, that enlarges pictures in LiteRT's own way.

    Keras repeats pixels, and there the converter loses count of the channels where the size is open.
    """

    class Resizing(keras.layers.UpSampling2D):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            size = tf.shape(inputs)[1:3] * tf.constant(self.size)
            return tf.image.resize(inputs, size, tf.image.ResizeMethod.NEAREST_NEIGHBOR)

    def repeats(layer: keras.Operation) -> bool:
        return isinstance(layer, keras.layers.UpSampling2D) and layer.interpolation == "nearest"

    def replaced(layer: keras.Operation) -> keras.Operation:
        return Resizing.from_config(layer.get_config()) if repeats(layer) else layer

    if not any(repeats(layer) for layer in network.layers):
        return network
    return keras.models.clone_model(network, clone_function=replaced)
