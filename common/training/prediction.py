"""Compute a network's outputs for a data set, in batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.system.console import tracked
from common.system.lazy import keras, tf


def predict(network: keras.Model, inputs: np.ndarray | tf.Tensor, batch_size: int = 250) -> Any:
    """Return the outputs of a network for all `inputs`, in batches of `batch_size`, with `training=False`.

    Unlike `keras.Model.predict`, this function does not wait for other machines under a `tf.distribute` strategy.
    If it takes longer than a few seconds, it shows its progress.

    Returns:
        float32 [n, ...], or a list of such arrays if the network has several outputs.
    """
    starts = tracked(range(0, len(inputs), batch_size), network.name, "batch")
    parts = [network(inputs[start : start + batch_size], training=False) for start in starts]
    return tf.nest.map_structure(lambda *outputs: np.concatenate([np.asarray(part) for part in outputs]), *parts)
