"""Import Keras and TensorFlow at first use.

Importing TensorFlow takes several seconds. `--help` and error messages about flags should not have to wait for it.
Modules in `common` use `from common.system.lazy import keras, tf`. Recipes contain `import keras` and
`import tensorflow as tf`, like any Keras program, and `python -m recipes.NAME` defers these imports with
`defer_imports`. Python 3.15 has a statement for this purpose, `lazy import`.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _Lazy(ModuleType):
    """A placeholder that imports its module when an attribute is first used."""

    def __getattr__(self, name: str) -> object:
        module = sys.modules.get(self.__name__)
        if module is None or isinstance(module, _Lazy) or getattr(module.__spec__, "_initializing", False):
            module = _imported(self.__name__)
        return getattr(module, name)


_IMPORTING = threading.RLock()  # several threads may trigger the import, for example in `python -m recipes app`


def _imported(name: str) -> ModuleType:
    with _IMPORTING:
        for each in ("keras", "tensorflow"):  # Keras imports TensorFlow
            if isinstance(sys.modules.get(each), _Lazy):
                del sys.modules[each]
        if name not in sys.modules:
            use_tensorflow_backend()
            _import_quietly(name)
        set_keras_defaults()
    return importlib.import_module(name)  # waits if another thread is importing it


NEEDED = {"image_data_format": "channels_last", "floatx": "float32"}  # settings of Keras on which recipes rely


def use_tensorflow_backend() -> None:
    """Let Keras use TensorFlow, whatever KERAS_BACKEND and keras.json say, if Keras is not imported yet."""
    if "keras" not in sys.modules or isinstance(sys.modules["keras"], _Lazy):
        os.environ["KERAS_BACKEND"] = "tensorflow"


def set_keras_defaults() -> None:
    """Give Keras the settings in `NEEDED`, and print a line about each one that differed, for example in keras.json.

    Nothing happens if Keras is not imported yet.

    Raises:
        InputError: Keras uses another backend than TensorFlow, which can be set only before Keras is imported.
    """
    from common.system.console import say  # imported here to avoid an import cycle
    from common.system.files import InputError

    keras = sys.modules.get("keras")
    config: Any = None if isinstance(keras, _Lazy) else getattr(keras, "config", None)
    if config is None:
        return
    if (backend := config.backend()) != "tensorflow":
        advice = "set KERAS_BACKEND=tensorflow before Keras is imported"
        raise InputError(f"Keras uses the backend {backend}, but recipes need tensorflow; {advice}")
    for name, value in NEEDED.items():
        if (found := getattr(config, name)()) != value:
            say(f"Keras was set to the {name} {found}; recipes need {value}, which is now set")
            getattr(config, f"set_{name}")(value)
            if name == "floatx" and config.dtype_policy().name == found:
                config.set_dtype_policy(value)


class _Absent:
    """An import hook that hides scikit-learn and matplotlib from one thread, if they are not imported yet.

    Keras imports these packages, if they are installed, for wrappers and plots that no recipe uses. They account for
    two of the five seconds of `import keras`.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in ("matplotlib", "sklearn") and threading.get_ident() == self.thread:
            raise ModuleNotFoundError(f"{name} is hidden while Keras is imported", name=name)


@contextmanager
def _sooner() -> Iterator[None]:
    """Speed up the imports in the block: skip optional packages, and pause the garbage collector."""
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
    """Import `name`, and suppress the messages that TensorFlow's native code writes to standard error at startup.

    The environment variable TF_CPP_MIN_LOG_LEVEL does not suppress all of them. RECIPES_VERBOSE=1 shows them.
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
        _start(importlib.import_module("tensorflow"))  # the first operation also writes messages
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _start(tensorflow: ModuleType) -> None:
    """Let GPU memory grow on demand, and run a first operation.

    With TF_CONFIG, no operation is run, because the machines must connect before the first one.
    """
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


def defer_imports() -> None:
    """Defer `import keras` and `import tensorflow` until their first use, if neither is imported yet."""
    if {"keras", "tensorflow"} & set(sys.modules):
        return
    for module in (keras, tf):
        module.__spec__ = importlib.util.find_spec(
            module.__name__
        )  # packages check this to see whether the module is installed
        sys.modules[module.__name__] = module
