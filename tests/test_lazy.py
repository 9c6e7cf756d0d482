"""Keras and TensorFlow imported at first use, each time in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

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
