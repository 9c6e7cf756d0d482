"""Execution options for training: precision, compilation, steps per call. They barely change the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from common.system.lazy import keras
from common.system.options import Range

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16", "auto"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Execution options for training. The command line has one flag for each field."""

    precision: Precision = "float32"  # Keras's global dtype policy; auto: the fastest on this machine
    xla: bool = False  # compile the step with XLA; slower on a CPU in every recipe that was measured
    steps_per_call: Annotated[int, Range(0, 10_000)] = (
        0  # training steps per call from Python; 0: choose a number by timing
    )
    keep_best: str = ""  # a column of history.csv: keep the weights of the epoch with its best value, not the last ones
    tensorboard: bool = False  # also write each epoch's losses and images to OUTPUT_DIR/tensorboard, for TensorBoard

    def __post_init__(self) -> None:
        Range.check(self)


_ACTIVE: ContextVar[Execution | None] = ContextVar("execution", default=None)


@contextmanager
def executing(execution: Execution) -> Iterator[None]:
    """Apply execution options to all training in the block, in the same way as the scope of a `tf.distribute` strategy.

    The precision becomes Keras's global dtype policy, which applies to networks built in the block. `auto` measures
    which precision is fastest on this machine. Weights stay float32. In mixed precision, layers compute in 16 bits,
    except layers with `dtype="float32"`, such as the last layer of each network (Micikevicius et al.,
    arXiv:1710.03740).

    The options apply to the thread that enters the block, but not to threads that it starts. In the outermost block,
    the precision `float32` leaves Keras's dtype policy unchanged.
    """
    if execution.precision == "auto":
        from common.training.precision import in_a_precision  # imports Execution from here

        execution = in_a_precision(execution)
    outer = _ACTIVE.get()
    before = None
    if execution.precision != (outer.precision if outer else "float32"):  # if they are equal, do not import Keras yet
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(execution.precision)
    token = _ACTIVE.set(execution)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
        if before is not None:
            keras.config.set_dtype_policy(before)


def active_execution() -> Execution:
    """Return the `Execution` of the innermost `executing` block in this thread.

    Outside any block, return the default options with the precision of Keras's dtype policy.
    """
    active = _ACTIVE.get()
    if active is not None:
        return active
    policy = keras.config.dtype_policy().name
    return Execution(precision=policy) if policy in get_args(Precision) else Execution()
