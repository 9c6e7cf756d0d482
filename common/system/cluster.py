"""Training on several GPUs and machines: device selection, the chief worker, and restarts after failures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from common.system.files import InputError, first_line
from common.system.lazy import tf


class Place(NamedTuple):
    """The index of this process, and the number of processes that train together."""

    number: int  # the index; 0 is the chief
    workers: int  # the number of processes


def place() -> Place:
    """Read the index of this process and the number of processes from the environment variable TF_CONFIG.

    If TF_CONFIG is not set, there is one process, with index 0. `tf.distribute` defines the format of TF_CONFIG:
    {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.

    Raises:
        InputError: TF_CONFIG is invalid, or its task is not in its cluster.
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
    """Return True in the process that writes the run's files: the first one of a cluster, or the only one."""
    return place().number == 0


@contextmanager
def all_devices(batch_size: int) -> Iterator[None]:
    """Distribute the training in the block over all machines in TF_CONFIG. If it is not set, use only this machine.

    On one machine, training uses the largest number of GPUs that divides `batch_size`, or the CPU if there is no GPU. A
    message is printed if some GPUs are not used.

    Raises:
        InputError: TF_CONFIG is invalid, the machines cannot connect, or `batch_size` is not a multiple of their total
            number of devices.
    """
    if place().workers > 1:
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()  # must precede the first operation
        except (RuntimeError, tf.errors.OpError) as error:
            raise InputError(f"TF_CONFIG: the machines cannot connect ({first_line(error, 200)})") from None
        replicas = strategy.num_replicas_in_sync
        if batch_size % replicas:
            raise InputError(
                f"a batch of {batch_size} cannot be split evenly between {replicas} devices of {place().workers} "
                f"machines; --batch-size must be a multiple of {replicas}"
            )
        with strategy.scope():
            yield
        return
    gpus = [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices("GPU")]
    used = max((count for count in range(1, len(gpus) + 1) if batch_size % count == 0), default=0)
    if used < len(gpus):
        print(
            f"training on {used} of {len(gpus)} GPUs, because a batch of {batch_size} cannot be split evenly between "
            f"more GPUs; --batch-size {batch_size * len(gpus)} would use all of them",
            file=sys.stderr,
        )
    if not used:
        yield
        return
    with tf.distribute.MirroredStrategy(gpus[:used]).scope():
        yield


@contextmanager
def joining_again() -> Iterator[None]:
    """Restart this process if another machine fails during the block.

    The restarted process waits for that machine and resumes from the newest checkpoint. The state in memory cannot be
    used, because the failure may have interrupted a step. The environment variable RECIPES_RESTARTS sets the maximum
    number of restarts; the default is 10.

    Raises:
        InputError: RECIPES_RESTARTS is not a number.
        OSError: a machine failed, and no restarts are left.
    """
    restarts = os.environ.get("RECIPES_RESTARTS", "10")
    if not restarts.isdecimal():
        raise InputError(f"RECIPES_RESTARTS={restarts}: expected the maximum number of restarts, such as 10")
    try:
        yield
    except Exception as error:  # `except tf.errors...` would import TensorFlow even for one machine
        if place().workers == 1:
            raise
        lost = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError
        if not (isinstance(error, lost) or "Collective ops is aborted" in str(error)):
            raise
        first = first_line(error, 160)
        if not int(restarts):
            raise OSError(f"lost connection to another machine ({first}); restart training on all machines") from None
        print(
            f"lost connection to another machine ({first}); restarting from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os.environ["RECIPES_RESTARTS"] = str(int(restarts) - 1)
        os.execv(sys.executable, sys.orig_argv)
