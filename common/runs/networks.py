"""Networks of runs: load them from a run folder, and check networks of your own before they are trained."""

from __future__ import annotations

import math
from pathlib import Path

from common.system.files import InputError
from common.system.keras_files import load_keras_file
from common.system.lazy import keras
from common.training.prediction import shown_shape

Shape = tuple[int | None, ...]
"""The shape of a network's input or output, without the batch dimension. None means any size."""


def check_networks(input_shape: Shape, output_shape: Shape, **networks: keras.Model | None) -> None:
    """Raise InputError if networks of your own do not fit a recipe. None, for the paper's network, is skipped.

    Args:
        input_shape: the shape of the images that a network must accept.
        output_shape: the shape that it must return. The last size may be None: any number of features.
        networks: the networks by name. They must not share weights.
    """
    seen: dict[int, str] = {}
    for name, network in networks.items():
        if network is None:
            continue
        if not isinstance(network, keras.Model) or not getattr(network, "inputs", None):
            kind = type(network).__name__
            raise InputError(
                f"{name} is a {kind} without a known input; build it from keras.Input, as a functional or sequential "
                "keras.Model"
            )
        for side, tensors, needed in (
            ("input", network.inputs, input_shape),
            ("output", network.outputs, output_shape),
        ):
            found = [tuple(tensor.shape[1:]) for tensor in tensors]
            if len(found) != 1 or not _fits(found[0], needed, side == "input"):
                shapes = " and ".join(map(shown_shape, found[:4]))
                raise InputError(f"{name}: its {side} shape is {shapes}, but {shown_shape(needed)} is needed")
        if len(output_shape) == 3:
            _check_sizes(name, network)
        for weight in network.variables:
            if seen.setdefault(id(weight), name) != name:
                raise InputError(
                    f"{seen[id(weight)]} and {name} share weights; pass two networks, for example with "
                    "keras.models.clone_model"
                )


def _fits(found: Shape, needed: Shape, accepts: bool) -> bool:
    """Return whether a shape is as needed. An input that accepts any size accepts the needed size."""
    if len(found) != len(needed):
        return False
    return all(
        one == other or (one is None if accepts else other is None) for one, other in zip(found, needed, strict=True)
    )


def _check_sizes(name: str, network: keras.Model) -> None:
    """Raise InputError if a translated image has another size than the image, at multiples of the total stride."""
    halving = [x for x in network.layers if getattr(x, "strides", 1) == (2, 2) and "Transpose" not in repr(x)]
    factor = 2 ** len(halving)
    height, width = (factor * math.ceil(side / factor) for side in (96, 160))
    try:
        found = network.compute_output_shape((1, height, width, 3))[1:3]
    except ValueError:
        found = ()
    if tuple(found) != (height, width):
        becomes = f"becomes {shown_shape(found)} px" if found else "does not fit its layers"
        raise InputError(
            f"{name}: an image of {height} x {width} px {becomes}; the size must not change if both sides are "
            "multiples of 2 for each layer with strides of 2 (layers inside a nested network are not counted)"
        )


def load_network(
    output_dir: Path, name: str, input_shape: Shape | list[Shape] = (), output_shape: Shape | list[Shape] = ()
) -> keras.Model:
    """Load NAME.keras from a run folder.

    Args:
        output_dir: the run folder.
        name: the name of the network.
        input_shape: the expected shape of its input, or the shapes of its inputs; empty: not checked. A network of your
            own may accept any size.
        output_shape: the expected shape of its output, or the shapes of its outputs; empty: not checked.

    Raises:
        InputError: the run has no such network yet, the file is damaged, or its shapes are not as expected.
    """
    path = output_dir / f"{name}.keras"
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; has this run finished training?")
    network = load_keras_file(path)
    for side, shape, tensors in (("input", input_shape, network.inputs), ("output", output_shape, network.outputs)):
        expected = [*shape] if isinstance(shape, list) else [shape]
        found = [tuple(tensor.shape[1:]) for tensor in tensors]
        fits = len(found) == len(expected) and all(
            _fits(one, other, side == "input") if side == "input" else one == other
            for one, other in zip(found, expected, strict=True)
        )
        if shape and not fits:
            was, implied = (" and ".join(map(shown_shape, shapes[:4])) for shapes in (found, expected))
            what = f"the {side} shape is {was}, but its config.json implies {implied}"
            raise InputError(f"{path}: {what}; restore the changed file, or train again")
    return network
