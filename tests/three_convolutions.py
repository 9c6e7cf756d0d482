"""A network of three convolutions to look with, and the same written out in NumPy, float64, to compare with."""

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

FILTERS = {"conv1": 4, "conv2": 5, "conv3": 6}


def three_convolutions() -> keras.Model:
    """Two convolutions, half the size, and a third: nowhere flat, and the same at every call."""
    x = images = keras.Input((None, None, 3), name="images")
    for number, (name, filters) in enumerate(FILTERS.items()):
        x = keras.layers.AveragePooling2D(2, name="pool")(x) if name == "conv3" else x
        x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
        kernel, bias = (keras.initializers.RandomNormal(stddev=0.3, seed=seed + number) for seed in (10, 20))
        layer = keras.layers.Conv2D(
            filters, 3, activation="softplus", kernel_initializer=kernel, bias_initializer=bias, name=name
        )
        x = layer(x)
    return keras.Model(images, x, name="three")


def maps_of(*names: str) -> keras.Model:
    network = three_convolutions()
    return keras.Model(network.input, [network.get_layer(name).output for name in names])


def maps_written_out(picture: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of `three_convolutions` for [height, width, 3] in [-1, 1]."""
    network, x, maps = WRITTEN_OUT, picture.astype(np.float64), {}
    for name in FILTERS:
        if name == "conv3":
            height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
            x = x[:height, :width].reshape(height // 2, 2, width // 2, 2, -1).mean((1, 3))
        windows = sliding_window_view(np.pad(x, [(1, 1), (1, 1), (0, 0)], mode="reflect"), (3, 3), (0, 1))
        kernel, bias = network[name]
        x = np.logaddexp(0, np.tensordot(windows, kernel, ((2, 3, 4), (2, 0, 1))) + bias)
        maps[name] = x
    return maps


def weights_of(network: keras.Model) -> dict[str, list[np.ndarray]]:
    return {name: [each.astype(np.float64) for each in network.get_layer(name).get_weights()] for name in FILTERS}


WRITTEN_OUT = weights_of(three_convolutions())


def without_time(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]
