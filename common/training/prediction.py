"""Compute a network's outputs for a data set, in batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from common.system.console import tracked
from common.system.files import InputError
from common.system.lazy import keras, tf


def shown_shape(shape: Iterable[int | None]) -> str:
    """Return a shape without its batch dimension as text, such as 28 x 28 x 1."""
    return " x ".join("any" if side is None else str(side) for side in shape)


def predict(network: keras.Model, inputs: np.ndarray | tf.Tensor, batch_size: int = 250) -> Any:
    """Return the outputs of a network for all `inputs`, in batches of `batch_size`, with `training=False`.

    Unlike `keras.Model.predict`, this function does not wait for other machines under a `tf.distribute` strategy.
    If it takes longer than a few seconds, it shows its progress.

    Returns:
        float32 [n, ...], or a list of such arrays if the network has several outputs.

    Raises:
        InputError: the network does not accept inputs of this shape.
    """
    if len(network.inputs) == 1:
        expected = tf.TensorShape(network.inputs[0].shape[1:])
        if not expected.is_compatible_with(inputs.shape[1:]):
            what = f"the network {network.name} needs inputs of {shown_shape(expected)}"
            raise InputError(f"{what}, got {shown_shape(inputs.shape[1:])}; change the images")
    starts = tracked(range(0, len(inputs), batch_size), network.name, "batch")
    parts = [network(inputs[start : start + batch_size], training=False) for start in starts]
    return tf.nest.map_structure(lambda *outputs: np.concatenate([np.asarray(part) for part in outputs]), *parts)
