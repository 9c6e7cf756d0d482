"""Weights that somebody else has trained: from a file, or from where Keras keeps and fetches its own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError, first_line
from common.lazy import keras


def load_pretrained(
    network: keras.Model, weights: str, file: str, imagenet: Callable[[], keras.Model], fetch: bool = False
) -> None:
    """Load weights into `network` in place.

    Args:
        network: one of `keras.applications`, of any input size.
        weights: a file of weights for it, .weights.h5 with or without its classifier; or `imagenet`, Keras's own; or
            `random`, which leaves it as it is.
        file: what Keras calls its own file, to see whether it is on this machine already.
        imagenet: returns such a network with Keras's own weights, which it fetches where needed.
        fetch: it may.

    Raises:
        InputError: there is no such file, it does not fit, or it cannot be fetched.
    """
    if weights == "random":
        return
    if weights == "imagenet":
        place = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models" / file
        if not fetch and not place.exists():
            raise InputError(f"the imagenet weights are not on this machine ({place}): add --fetch, or --weights FILE")
        try:
            network.set_weights(imagenet().get_weights())
        except Exception as error:  # Keras raises a plain Exception where a download fails
            raise InputError(
                f"the imagenet weights cannot be had ({first_line(error, 150)}): put them at {place}"
            ) from None
        return
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"{weights}: there is no such file of weights; expected one, or imagenet, or random")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras names every layer that a file of another network has not
            network.load_weights(path)
    except Exception as error:  # a file that is damaged or of another network fails in many ways
        raise InputError(f"{weights}: not weights of {network.name} ({first_line(error)})") from None
