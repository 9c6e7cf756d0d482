"""The result of a whole run."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Finished(type(Path())):  # type: ignore[misc]  # up to Python 3.11, `Path` itself has no subclasses
    """What a recipe's `run` and `demo` return: the path of the run's most important image, with scores and networks.

    Other machines than the chief have no scores. The folder of the image is the run folder.
    """

    scores: Mapping[str, float | int | str] = types.MappingProxyType({})
    networks: Any = None  # the recipe's `Networks`
