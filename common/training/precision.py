"""How fast this machine trains in each precision, measured with a small network."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

from common.system.cluster import place
from common.system.console import noted_if_slow, say
from common.system.files import InputError
from common.system.lazy import keras, tf
from common.training.execution import Execution, Precision

SLOWER = 1.1  # a precision is called slower if its step takes this many times as long as that of float32
ROUNDS = 5


def in_a_precision(execution: Execution) -> Execution:
    """Return `execution` with the fastest precision of this machine instead of `auto`; say which one it is.

    If a named precision is slower than float32 here, print a line that says so.

    Raises:
        InputError: the precision is `auto`, and several machines train together: each could choose another one.
    """
    precision = execution.precision
    if precision == "float32":
        return execution
    if precision == "auto":
        if place().workers > 1:
            choices = ", ".join(name for name in get_args(Precision) if name != "auto")
            raise InputError(f"--precision auto works on one machine; with several, choose one of {choices}")
        on_gpu = bool(tf.config.list_logical_devices("GPU"))  # float16 is for GPUs
        times = step_times(["float32", "mixed_bfloat16"] + ["mixed_float16"] * on_gpu)
        precision = min(times, key=lambda name: times[name])  # type: ignore[arg-type, assignment]
        if times[precision] * SLOWER > times["float32"]:  # no clear gain, so keep what works everywhere
            precision = "float32"
        measured = ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in times.items())
        say(f"precision {precision}, by the time of a training step of a small network: {measured}")
        return dataclasses.replace(execution, precision=precision)
    times = step_times(["float32", precision])
    ratio = times[precision] / times["float32"]
    if ratio > SLOWER:
        say(
            f"{precision} is about {ratio:.1f} times slower than float32 on this machine (measured with a small "
            "network); use --precision float32, or auto"
        )
    return execution


def step_times(precisions: Sequence[str]) -> dict[str, float]:
    """Return the seconds of a training step of a small convolutional network in each precision.

    The steps take turns, so other load on the machine affects all of them. Each time is the shortest of ROUNDS rounds.
    It takes about two seconds.
    """
    times = dict.fromkeys(precisions, math.inf)
    with noted_if_slow("measuring the speed of the precisions"):
        steps = {precision: _training_step(precision) for precision in precisions}
        for _ in range(ROUNDS):
            for precision, step in steps.items():
                began = time.perf_counter()
                step()
                times[precision] = min(times[precision], time.perf_counter() - began)
    return times


def _training_step(precision: str) -> Callable[[], Any]:
    """Return a function that computes the gradients of a small U-Net-like network; it has already run once."""
    layers, policy = keras.layers, keras.DTypePolicy(precision)
    images = keras.Input((64, 64, 3), dtype="float32")
    x = images
    for kind, width in zip([layers.Conv2D] * 3 + [layers.Conv2DTranspose] * 3, (32, 64, 128, 64, 32, 3), strict=True):
        x = kind(width, 4, 2, "same", dtype=policy)(x)
        x = layers.LeakyReLU(0.2, dtype=policy)(layers.GroupNormalization(-1, dtype=policy)(x))
    network = keras.Model(images, layers.Activation("tanh", dtype="float32")(x))
    given = tf.zeros((4, 64, 64, 3))

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(network(given, training=True) - 1))
        return [tf.reduce_sum(tf.cast(part, tf.float32)) for part in tape.gradient(loss, network.trainable_variables)]

    def run() -> list[Any]:
        return [part.numpy() for part in step()]

    run()  # traces the function
    return run
