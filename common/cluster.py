"""Training on several GPUs and on several machines: who takes part, who writes, and what happens when one is gone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from common.errors import InputError, first_line
from common.lazy import tf


class Place(NamedTuple):
    """This process's place among those that train together."""

    number: int  # from 0, the chief
    workers: int


def place() -> Place:
    """Return the place that the environment variable TF_CONFIG gives this process; 0 of 1 without it.

    TF_CONFIG is `tf.distribute`'s: {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.

    Raises:
        InputError: TF_CONFIG cannot be read, or its task is not in its cluster.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return Place(0, 1)
    try:
        settings = json.loads(text)
        cluster, task = settings["cluster"], settings["task"]
        addresses = [(kind, number) for kind in ("chief", "worker") for number in range(len(cluster.get(kind, [])))]
        return Place(addresses.index((task["type"], int(task["index"]))), len(addresses))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"TF_CONFIG: cannot be read ({type(error).__name__}: {error}); expected "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": NUMBER}}'
        ) from None


def is_chief() -> bool:
    """Return whether this process writes the run: the first of several that train together, or the only one."""
    return place().number == 0


@contextmanager
def all_devices(batch_size: int) -> Iterator[None]:
    """Train within on the machines that TF_CONFIG names, on every GPU that is visible, or on the processor.

    Of the GPUs of one machine as many are used as share `batch_size` evenly, and a line says so where some are left.

    Raises:
        InputError: TF_CONFIG cannot be read, the machines cannot be joined, or they cannot share `batch_size` evenly.
    """
    if place().workers > 1:
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else is computed
        except (RuntimeError, tf.errors.OpError) as error:
            raise InputError(f"TF_CONFIG: the machines could not be joined ({first_line(error, 200)})") from None
        replicas = strategy.num_replicas_in_sync
        if batch_size % replicas:
            raise InputError(
                f"a batch of {batch_size} cannot be shared evenly by {replicas} devices of {place().workers} machines; "
                f"give --batch-size a multiple of {replicas}"
            )
        with strategy.scope():
            yield
        return
    gpus = [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices("GPU")]
    used = max((count for count in range(1, len(gpus) + 1) if batch_size % count == 0), default=0)
    if used < len(gpus):
        print(
            f"training on {used} of {len(gpus)} GPUs, which share a batch of {batch_size} evenly; "
            f"--batch-size {batch_size * len(gpus)} would use all",
            file=sys.stderr,
        )
    if not used:
        yield
        return
    with tf.distribute.MirroredStrategy(gpus[:used]).scope():
        yield


@contextmanager
def joining_again() -> Iterator[None]:
    """Begin this process anew where another machine of the block's training is gone, to wait for it and go on.

    What its memory holds may be a step that was cut in two; the newest save is whole. The environment variable
    RECIPES_RESTARTS says how often (10).

    Raises:
        InputError: RECIPES_RESTARTS is no whole number.
        OSError: another machine is gone once too often.
    """
    restarts = os.environ.get("RECIPES_RESTARTS", "10")
    if not restarts.isdecimal():
        raise InputError(f"RECIPES_RESTARTS={restarts}: expected how often to begin again, a whole number such as 10")
    try:
        yield
    except Exception as error:  # by its type only where there are others: the type comes with TensorFlow
        if place().workers == 1:
            raise
        gone = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError
        if not (isinstance(error, gone) or "Collective ops is aborted" in str(error)):
            raise
        first = first_line(error, 160)
        if not int(restarts):
            raise OSError(f"another machine of this training is gone ({first}); start all of them again") from None
        print(f"another machine is gone ({first}); beginning again from the newest save", file=sys.stderr, flush=True)
        os.environ["RECIPES_RESTARTS"] = str(int(restarts) - 1)
        os.execv(sys.executable, sys.orig_argv)
