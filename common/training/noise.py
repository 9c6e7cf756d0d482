"""Random numbers for training steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from common.system.lazy import keras, tf


class Noise:
    """Seeded random numbers for one or several devices, from `keras.random`.

    Add it to the `state` of `fit`, so that checkpoints include the state of its seed generator. The first dimension of
    every shape is the batch size of one replica. Each replica gets its part of the numbers that a single device would
    sample, so results do not depend on the number of devices.
    """

    def __init__(self, seed: int) -> None:
        """Create the seed generator. `seed` must be 0 or more."""
        self.generator = keras.random.SeedGenerator(seed)

    def normal(self, shape: Sequence[Any] | tf.Tensor, mean: float = 0.0, stddev: float = 1.0) -> tf.Tensor:
        """Sample float32 numbers from a normal distribution."""
        return self._part(keras.random.normal, shape, mean, stddev)

    def uniform(self, shape: Sequence[Any] | tf.Tensor, minval: Any = 0.0, maxval: Any = 1.0) -> tf.Tensor:
        """Sample float32 numbers uniformly from [minval, maxval)."""
        return self._part(keras.random.uniform, shape, minval, maxval)

    def integers(self, shape: Sequence[Any] | tf.Tensor, minval: int, maxval: int) -> tf.Tensor:
        """Sample int32 numbers uniformly from `minval` to `maxval` - 1."""
        return self._part(keras.random.randint, shape, minval, maxval)

    def _part(self, sample: Callable[..., tf.Tensor], shape: Sequence[Any] | tf.Tensor, *limits: Any) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return sample(shape, *limits, seed=self.generator)
        count, *rest = tf.unstack(shape) if tf.is_tensor(shape) else shape
        whole = sample((count * context.num_replicas_in_sync, *rest), *limits, seed=self.generator)
        return whole[context.replica_id_in_sync_group * count :][:count]
