"""What importing Keras through `common.lazy` leaves out, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import gc, sys, threading
import common.lazy

def other_thread():
    found.append(__import__("matplotlib"))

found = []
with common.lazy._sooner():
    assert not gc.isenabled()
    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
assert found[0].__version__ and gc.isenabled()
for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
    del sys.modules[name]
from common.lazy import keras, tf
assert keras.Model and tf.zeros(1).shape == 1
assert not {"sklearn", "matplotlib"} & set(sys.modules)
import matplotlib.pyplot, sklearn.svm
print("done")
"""


@pytest.mark.slow
def test_keras_comes_without_scikit_learn_and_matplotlib_which_can_be_imported_afterwards():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
