"""Keras and TensorFlow, imported when first used.

Importing TensorFlow takes seconds; `--help`, a misspelt flag and a missing folder should not. A recipe writes
`from common.lazy import keras, tf` and then uses both as if it had written `import keras` and
`import tensorflow as tf` (which is what a copied recipe gets). Python 3.15 has `lazy import` for this.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> object:
        if self.__name__ not in sys.modules:
            _import_quietly(self.__name__)
        return getattr(sys.modules[self.__name__], name)


class _Absent:
    """Makes scikit-learn and matplotlib look as if they were not installed, to one thread, where nobody has them yet.

    Keras imports both where it can, for wrappers and plots that no recipe uses: two of its five seconds.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in ("matplotlib", "sklearn") and threading.get_ident() == self.thread:
            raise ModuleNotFoundError(f"no {name} while Keras is imported", name=name)


@contextmanager
def _sooner() -> Iterator[None]:
    """Import what the block imports without what it does not need, and without looking for garbage meanwhile."""
    absent, collecting = _Absent(), gc.isenabled()
    sys.meta_path.insert(0, absent)
    gc.disable()
    try:
        yield
    finally:
        sys.meta_path.remove(absent)
        if collecting:
            gc.enable()


def _import_quietly(name: str) -> None:
    """Import `name` without the lines that TensorFlow's native code writes to standard error while it starts.

    Its own switch (TF_CPP_MIN_LOG_LEVEL) comes too late for them. RECIPES_VERBOSE=1 leaves them.
    """
    if os.environ.get("RECIPES_VERBOSE") == "1":
        with _sooner():
            importlib.import_module(name)
        _start(importlib.import_module("tensorflow"))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with _sooner():
            importlib.import_module(name)
        _start(importlib.import_module("tensorflow"))  # the first operation writes lines of its own
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _start(tensorflow: ModuleType) -> None:
    """Let GPUs be shared with other programs, and compute something, unless other machines are to be joined first."""
    for gpu in tensorflow.config.list_physical_devices("GPU"):
        tensorflow.config.experimental.set_memory_growth(gpu, True)
    if not os.environ.get("TF_CONFIG"):
        tensorflow.zeros(1)


if TYPE_CHECKING:
    import keras
    import tensorflow as tf
else:
    keras = _Lazy("keras")
    tf = _Lazy("tensorflow")
