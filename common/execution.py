"""How a training is computed, which changes its time and hardly its result: precision, compilation, steps at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from common.lazy import keras, tf
from common.ranges import Range, check_fields


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a training is computed."""

    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"  # of what layers hand on
    xla: bool = False  # compile the step with XLA: slower in every recipe that was measured on a processor
    steps_per_call: Annotated[int, Range(0, 10_000)] = 0  # training steps in one call from Python; 0: those of 50 ms
    synchronized: bool = False  # batch normalisation by the whole batch, not by each device's part of it


PLAIN = Execution(steps_per_call=1)


def in_precision(build: Callable) -> Callable:
    """Let `build(config, ...)` make its networks in `config.execution.precision`; a decorator.

    Weights stay float32. In the mixed precisions layers compute in 16 bits, but for those with a `dtype="float32"` of
    their own, such as the last of each network (Micikevicius et al., arXiv:1710.03740). `built` raises InputError for a
    setting that is out of its range.
    """

    @functools.wraps(build)
    def built(*arguments: Any, **options: Any) -> Any:
        (default,) = build.__defaults__ or (None,)
        config: Any = arguments[0] if arguments else options.get("config", default)
        check_fields(config)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(config.execution.precision)
        try:
            return build(*arguments, **options)
        finally:
            keras.config.set_dtype_policy(before)

    return built


def adam(
    rate: float | keras.optimizers.schedules.LearningRateSchedule,
    variables: Sequence[keras.Variable],
    execution: Execution,
    beta_1: float = 0.9,
    weight_decay: float | None = None,
) -> keras.optimizers.Optimizer:
    """Return Keras' Adam for `variables` (arXiv:1412.6980), with decay AdamW (arXiv:1711.05101), built.

    The same numbers by TensorFlow's own operation, which passes once over the weights where Keras passes six times:
    1.7 times as fast on 29 million of them. For `mixed_float16` it scales the loss, see `loss_scale`.
    """

    class OnePassAdam(keras.optimizers.Adam):
        def update_step(self, gradient: Any, variable: Any, learning_rate: tf.Tensor) -> None:
            if isinstance(gradient, tf.IndexedSlices):
                gradient = tf.convert_to_tensor(gradient)
            place, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, tf.float32)
            first, second = (local(each[place].value, variable).handle for each in (self._momentums, self._velocities))
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=first,
                v=second,
                beta1_power=tf.pow(tf.constant(self.beta_1, tf.float32), step),
                beta2_power=tf.pow(tf.constant(self.beta_2, tf.float32), step),
                lr=tf.cast(learning_rate, tf.float32),
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=gradient,
            )

    def local(moment: Any, variable: Any) -> Any:
        """Return the copy of `moment` that lies on the device of `variable`."""
        copies = tf.distribute.get_strategy().experimental_local_results(moment)
        return next((copy for copy in copies if copy.device == variable.device), copies[0])

    class SharedLossScale(keras.optimizers.LossScaleOptimizer):
        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> None:
            """Do no replica's step where one replica has infinite gradients: Keras asks the first one alone."""
            context = tf.distribute.get_replica_context()
            if context.num_replicas_in_sync > 1:
                finite = context.all_reduce("SUM", tf.cast(self.check_finite(grads), tf.float32))
                first = grads[0] + tf.where(finite == context.num_replicas_in_sync, 0.0, np.nan)
                grads = [first, *grads[1:]]
            super().apply(grads, trainable_variables)

    # All have one name. Keras would number them, and where the two of a step sort otherwise than adam_1 and adam_2, as
    # adam_9 and adam_10 do, TensorFlow computes a graph whose sums round otherwise.
    optimizer: keras.optimizers.Optimizer = OnePassAdam(rate, beta_1=beta_1, weight_decay=weight_decay, name="adam")
    if execution.precision == "mixed_float16":
        optimizer = SharedLossScale(optimizer)
    optimizer.build(variables)
    return optimizer


def loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Return what a loss is multiplied by before its gradient, for `GradientTape.gradient(..., output_gradients)`.

    1 but in float16, where small gradients would be 0: the optimizer divides by it again, and leaves out a step whose
    gradients have become infinite (arXiv:1710.03740, section 3.2).
    """
    return optimizer.scale_loss(tf.ones([]))


def draw_part(
    random: Callable,
    shape: Sequence[int | tf.Tensor] | tf.Tensor,
    *limits: float,
    seed: int | keras.random.SeedGenerator,
) -> Any:
    """Return `random(shape, *limits, seed=seed)`, the part of this replica where several share a batch.

    Every replica draws the numbers of the whole batch and keeps its own, so that they are those of a single device.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return random(shape, *limits, seed=seed)
    count, *rest = tf.unstack(shape) if tf.is_tensor(shape) else shape
    whole = random((count * context.num_replicas_in_sync, *rest), *limits, seed=seed)
    return whole[context.replica_id_in_sync_group * count :][:count]
