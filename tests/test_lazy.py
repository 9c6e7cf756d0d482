"""Keras and TensorFlow imported at first use, each time in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from common.system.files import InputError, home_folder
from common.system.lazy import set_keras_defaults
from recipes import gan

ROOT = Path(__file__).parents[1]
CODE = """
import gc, sys, threading
import common.system.lazy

def other_thread():
    found.append(__import__("matplotlib"))

found = []
with common.system.lazy._sooner():
    assert not gc.isenabled()
    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
assert found[0].__version__ and gc.isenabled()
for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
    del sys.modules[name]
from common.system.lazy import keras, tf
assert keras.Model and tf.zeros(1).shape == 1
assert not {"sklearn", "matplotlib"} & set(sys.modules)
import matplotlib.pyplot, sklearn.svm
print("done")
"""


@pytest.mark.slow
def test_keras_comes_without_scikit_learn_and_matplotlib_which_can_be_imported_afterwards():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


DEFERRED = """
import importlib.util, sys, threading
from common.system.lazy import defer_imports
defer_imports()
import keras, tensorflow as tf
assert not [name for name in sys.modules if name.startswith(("keras.", "tensorflow."))]
assert importlib.util.find_spec("keras").origin.endswith("__init__.py")
found = []

def use(number):
    found.append(keras.Model if number % 2 else tf.zeros(2))

threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 6
import keras as real
assert type(real).__name__ == "module" and real.Model is keras.Model
defer_imports()
assert sys.modules["keras"] is real
print("done")
"""
PARTS_FIRST = """
import sys
from common.system.lazy import defer_imports
defer_imports()
import keras.layers, tensorflow.compat.v2
import keras
assert keras.layers is sys.modules["keras.layers"] and keras.layers.Dense is keras.src.layers.Dense
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [DEFERRED, PARTS_FIRST], ids=["threads", "parts first"])
def test_a_deferred_import_happens_once_whoever_asks_first(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


@pytest.mark.parametrize(("name", "value"), [("image_data_format", "channels_first"), ("floatx", "float16")])
def test_settings_of_keras_that_recipes_cannot_use_are_changed_and_named(name, value, capsys):
    before = getattr(keras.config, name)()
    policy = keras.config.dtype_policy().name
    try:
        getattr(keras.config, f"set_{name}")(value)
        if name == "floatx":
            keras.config.set_dtype_policy(value)
        gan.Config()
        assert getattr(keras.config, name)() == before and keras.config.dtype_policy().name == policy
    finally:
        getattr(keras.config, f"set_{name}")(before)
        keras.config.set_dtype_policy(policy)
    assert capsys.readouterr().err == f"Keras was set to the {name} {value}; recipes need {before}, which is now set\n"
    gan.Config()
    assert capsys.readouterr().err == ""


def test_another_backend_that_is_imported_already_is_one_line(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(InputError, match="^Keras uses the backend torch, .*; set KERAS_BACKEND=tensorflow"):
        set_keras_defaults()


def test_a_user_without_a_home_has_a_temporary_folder(monkeypatch, tmp_path):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert home_folder() == tmp_path


SET_OTHERWISE = """
import keras
print(keras.config.backend(), keras.config.image_data_format(), keras.config.floatx(), keras.config.dtype_policy().name)
"""


@pytest.mark.slow
@pytest.mark.parametrize("deferred", [True, False])
def test_recipes_use_tensorflow_whatever_the_environment_says(deferred, tmp_path):
    """Without docstrings and asserts, too."""
    settings = '{"floatx": "float16", "epsilon": 1e-07, "backend": "jax", "image_data_format": "channels_first"}'
    (tmp_path / "keras.json").write_text(settings)
    first = "from common.system.lazy import defer_imports\ndefer_imports()\n" if deferred else ""
    code = f"import recipes\n{first}import keras\nkeras.Model\nimport recipes.gan{SET_OTHERWISE}"
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.stdout == "tensorflow channels_last float32 float32\n", done.stderr
    assert "Keras was set to the floatx float16; recipes need float32, which is now set" in done.stderr
