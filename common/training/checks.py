"""Check that data fits the networks that are trained on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from common.data.batches import Batches
from common.system.files import InputError, cut, first_line
from common.system.lazy import keras, tf
from common.training.prediction import shown_shape


def check_images(specs: Mapping[str, tf.TensorSpec], state: Mapping[str, object]) -> None:
    """Raise InputError if a batch has images that no network in `state` accepts. `specs` has a name for each tensor."""
    networks = [part for part in state.values() if isinstance(part, keras.Model)]
    accepted = {tuple(each.shape[1:]): None for network in networks for each in network.inputs if len(each.shape) == 4}
    for name, spec in specs.items():
        if spec.dtype != tf.uint8 or spec.shape.rank != 4 or not accepted:
            continue
        if not any(spec.shape[1:].is_compatible_with(tf.TensorShape(shape)) for shape in accepted):
            shapes = " or ".join(shown_shape(shape) for shape in accepted)
            raise InputError(
                f"{name}: the networks need images of {shapes}, but the data has {shown_shape(spec.shape[1:])}; change "
                "the images, or `size` and `channels` of the config"
            )


@contextmanager
def explained_misfit(names: Sequence[str], data: Batches) -> Iterator[None]:
    """Raise InputError if the block fails because the data does not fit the networks.

    `names` is empty until the first step has been traced. An error before that is about the shape of a batch.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
        found = re.search(r"label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)", str(error))
        if found:
            raise InputError(
                f"the data has the label {found[1]}, but the network has {found[2]} classes, 0 to {int(found[2]) - 1}; "
                "change the labels, or `outputs` of the config"
            ) from None
        if names:
            raise
        specs = tf.nest.flatten(data.at(0).element_spec)
        what = " and ".join(f"{spec.dtype.name} {shown_shape(spec.shape)}" for spec in specs)
        reasons = [line.strip() for line in str(error).splitlines() if re.match(r" *\w*(Error|Exception)?: \S", line)]
        reason = reasons[-1] if reasons else first_line(error)
        raise InputError(f"a batch of {what} does not fit the networks ({cut(reason, 160)})") from error
