"""The Adam optimizer that the recipes use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.system.lazy import keras, tf


def adam(
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    variables: Sequence[keras.Variable],
    beta_1: float = 0.9,
    weight_decay: float | None = None,
) -> keras.optimizers.Optimizer:
    """Return a built Keras Adam optimizer for `variables` (Kingma & Ba, arXiv:1412.6980).

    It implements the same algorithm as `keras.optimizers.Adam`, with three differences:

    - It uses TensorFlow's fused operation, which reads the weights once per step. The Keras optimizer reads them six
      times.
    - On several devices, it averages the gradients of the replicas. The Keras optimizer sums them.
    - Under the dtype policy `mixed_float16`, it is wrapped in a `keras.optimizers.LossScaleOptimizer`. Call
      `scale_loss` on the loss before you compute the gradient. Under other policies, `scale_loss` returns the loss
      unchanged.

    Args:
        learning_rate: a number or a schedule.
        variables: the variables to update.
        beta_1: decay rate of the moving average of the gradients.
        weight_decay: decoupled weight decay as in AdamW (Loshchilov & Hutter, arXiv:1711.05101); None for no decay.
    """

    class OnePassAdam(keras.optimizers.Adam):
        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> None:
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            if replicas > 1:
                grads = [grad if grad is None else tf.math.scalar_mul(1 / replicas, grad) for grad in grads]
            super().apply(grads, trainable_variables)

        def update_step(self, gradient: Any, variable: Any, learning_rate: tf.Tensor) -> None:
            if isinstance(gradient, tf.IndexedSlices):
                gradient = tf.convert_to_tensor(gradient)
            index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, tf.float32)
            first, second = (local(each[index].value, variable).handle for each in (self._momentums, self._velocities))
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
        """Return the copy of `moment` on the device of `variable`."""
        copies = tf.distribute.get_strategy().experimental_local_results(moment)
        return next((copy for copy in copies if copy.device == variable.device), copies[0])

    class SharedLossScale(keras.optimizers.LossScaleOptimizer):
        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> None:
            """Skip the step on all replicas if one has non-finite gradients. Keras checks only the first replica."""
            context = tf.distribute.get_replica_context()
            if context.num_replicas_in_sync > 1:
                finite = context.all_reduce("SUM", tf.cast(self.check_finite(grads), tf.float32))
                one = next(index for index, grad in enumerate(grads) if grad is not None)
                spoilt = grads[one] + tf.where(finite == context.num_replicas_in_sync, 0.0, np.nan)
                grads = [*grads[:one], spoilt, *grads[one + 1 :]]
            super().apply(grads, trainable_variables)

    # With a fixed name, Keras does not number the optimizers. The order in which TensorFlow adds values depends on the
    # names. Numbered names would change this order (adam_10 sorts before adam_9), and therefore the rounding.
    optimizer: keras.optimizers.Optimizer = OnePassAdam(
        learning_rate, beta_1=beta_1, weight_decay=weight_decay, name="adam"
    )
    if keras.config.dtype_policy().name == "mixed_float16":
        optimizer = SharedLossScale(optimizer)
    optimizer.build(variables)
    return optimizer
