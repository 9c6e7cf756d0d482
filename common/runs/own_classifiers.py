"""Classifiers in Keras files of your own: their value range, their outputs and the names of their classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from common.system.files import InputError
from common.system.keras_files import load_keras_file
from common.system.lazy import keras

PREPROCESSING = ("0..1", "-1..1", "0..255", "caffe", "torch")
"""The values that a network expects: a range; BGR minus channel means (Caffe); or standardised channels (PyTorch)."""
CAFFE_MEANS = (103.939, 116.779, 123.68)  # channel means of ImageNet: blue, green, red
TORCH_MEANS, TORCH_DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet in 0..1: red, green, blue
ANY_SIZE = 224  # size of test images for a network that accepts any size
LEAST_PROBABILITY = 1e-30  # smaller probabilities have no logarithm in float32


def preprocessed(images: keras.KerasTensor, preprocessing: str) -> keras.KerasTensor:
    """Convert images in [-1, 1] to the values that a network expects; see `PREPROCESSING`."""
    if preprocessing == "caffe":
        return caffe_images(images)
    if preprocessing == "torch":
        means, deviations = (keras.ops.convert_to_tensor(values) for values in (TORCH_MEANS, TORCH_DEVIATIONS))
        return ((images + 1) / 2 - means) / deviations
    return {"-1..1": images, "0..1": (images + 1) / 2, "0..255": (images + 1) * 127.5}[preprocessing]


def caffe_images(images: keras.KerasTensor) -> keras.KerasTensor:
    """Convert RGB in [-1, 1] to Caffe's input format: BGR in 0..255 minus the channel means."""
    return (keras.ops.flip(images, -1) + 1) * 127.5 - keras.ops.convert_to_tensor(CAFFE_MEANS)


def own_classifier(path: Path, preprocessing: str, classes: str) -> tuple[keras.Model, tuple[str, ...], int, int]:
    """Load a classifier from a .keras file, and add its preprocessing.

    A network with a fixed input size gets images of any size, which it resizes. The perturbation of an attack is then
    bounded in the pixels of the image. Softmax and sigmoid outputs become logits: the logarithms of the probabilities.

    Args:
        path: the file.
        preprocessing: one of `PREPROCESSING`.
        classes: a file with the names of the classes, see `class_names`; if empty, they are numbered.

    Returns:
        The network (images [n, height, width, channels] in [-1, 1] -> logits [n, classes]), the names of the classes,
        the size of its images in pixels, and their channels.

    Raises:
        InputError: a file cannot be read, the network is not a classifier of square images, or `preprocessing` is
            unknown.
    """
    if preprocessing not in PREPROCESSING:
        given = f"--preprocessing {preprocessing}: unknown" if preprocessing else f"{path}: needs --preprocessing"
        raise InputError(f"{given}; give the values that the network was trained on: {', '.join(PREPROCESSING)}")
    loaded = load_keras_file(path)
    shapes = [[tuple(each.shape) for each in tensors] for tensors in (loaded.inputs, loaded.outputs)]
    (inputs, *more), (outputs, *others) = shapes
    if more or others or len(inputs) != 4 or len(outputs) != 2 or inputs[1] != inputs[2] or inputs[3] not in (1, 3):
        raise InputError(
            f"{path}: expected a classifier of square images with 1 or 3 channels, got inputs {shapes[0]} and outputs "
            f"{shapes[1]}"
        )
    size, channels = inputs[1] or ANY_SIZE, inputs[3]
    if channels == 1 and preprocessing in ("caffe", "torch"):
        raise InputError(
            f"{path}: --preprocessing {preprocessing} is for colour images, but this network takes grey ones"
        )
    images = keras.Input((None, None, channels), name="images")
    x = images if inputs[1] is None else keras.ops.image.resize(images, (size, size), antialias=True)
    x = keras.ops.cast(loaded(preprocessed(x, preprocessing)), "float32")
    noise = np.random.default_rng(0).uniform(-1, 1, (4, size, size, channels)).astype(np.float32)
    found = keras.ops.convert_to_numpy(keras.Model(images, x)(noise, training=False))
    if outputs[1] == 1:
        sure = keras.ops.log(keras.ops.maximum(x, LEAST_PROBABILITY))
        unsure = keras.ops.log(keras.ops.maximum(1 - x, LEAST_PROBABILITY))
        is_probability = _last_activation(loaded) == "sigmoid"
        logits = keras.ops.concatenate([unsure, sure] if is_probability else [keras.ops.zeros_like(x), x], axis=-1)
    elif found.min() >= 0 and np.abs(found.sum(axis=1) - 1).max() < 0.01:
        logits = keras.ops.log(keras.ops.maximum(x, LEAST_PROBABILITY))
    else:
        logits = x
    count = max(2, outputs[1])
    return keras.Model(images, logits, name="classifier"), class_names(classes, count), size, channels


def _last_activation(network: keras.Model) -> str:
    """Return the name of the activation function of the last layer, also in nested networks."""
    last = network.layers[-1]
    while getattr(last, "layers", None):
        last = last.layers[-1]
    return getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower())


def class_names(file: str, count: int) -> tuple[str, ...]:
    """Return the names of `count` classes from a text or JSON file; without a file, their numbers.

    A text file has one name per line. A JSON file contains a list of names, a dictionary from numbers to names, as
    Keras's ImageNet class index, or a dictionary from names to numbers, as Keras's `class_indices`.

    Raises:
        InputError: the file cannot be read, or has another number of names.
    """
    if not file:
        return tuple(map(str, range(count)))
    path = Path(file)
    right = f"expected {count} names, one per line, or a JSON list or dictionary of them"
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = _names_in(json.loads(text)) if path.suffix.lower() == ".json" else text.strip().splitlines()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; {right}") from None
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise InputError(f"{file}: cannot be read as class names; {right}") from None
    if len(names) != count:
        raise InputError(f"{file}: has {len(names)} names, but the network has {count} classes; {right}")
    return tuple(name.strip() for name in names)


def _names_in(content: object) -> list[str]:
    if isinstance(content, dict) and all(isinstance(value, int) for value in content.values()):
        content = {str(number): name for name, number in content.items()}
    if isinstance(content, dict):
        content = [content[str(number)] for number in range(len(content))]
    if not isinstance(content, list):
        raise TypeError("neither a list nor a dictionary")
    return [str(name[1]).replace("_", " ") if isinstance(name, list) else str(name) for name in content]
