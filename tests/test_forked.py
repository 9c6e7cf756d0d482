"""What `forked_python` starts is what `python` starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import Process, forked_python

SHOW = """import json, os, sys
from pathlib import Path
loaded = sorted({"common", "keras", "recipes", "tensorflow", "tests"} & set(sys.modules))
said = [sys.argv, sys.path[:2], os.getcwd(), os.environ.get("WORD"), __name__, loaded, sys.stdin.read()]
print(json.dumps(said))
"""


@pytest.fixture
def scripts(tmp_path) -> Path:
    for name in ("package/__init__.py", "package/__main__.py", "lib/script.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(SHOW if "__init__" not in name else "")
    return tmp_path


@pytest.mark.slow
def test_arguments_folder_environment_path_and_streams(scripts):
    """The same as of a real process."""
    environment = os.environ | {"WORD": "é", "PYTHONPATH": "/first:/second"}
    commands = [
        ["-c", SHOW, "one", "two"],
        ["-I", "-c", SHOW],
        ["-m", "package", "--flag"],
        ["-P", "lib/script.py"],
        ["lib/script.py", "-x"],
        ["-I", "lib/script.py"],
    ]
    for arguments in commands:
        said = [
            json.loads(subprocess.run([*python, *arguments], cwd=scripts, env=environment, input="words",
                                      capture_output=True, text=True, check=True).stdout)
            for python in ([sys.executable], forked_python())
        ]  # fmt: skip
        assert said[0] == said[1], arguments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('a line')", 1, "a line\n"),
        ("import os; os.abort()", -signal.SIGABRT, ""),
        ("import atexit; atexit.register(print, 'at the end')", 0, ""),
        ("def f():\n    raise ValueError('wrong')\nf()", 1, "ValueError: wrong\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
    ],
)
def test_how_it_ends(code, status, said):
    one, other = (
        subprocess.run([*python, "-c", code], capture_output=True, text=True)
        for python in ([sys.executable], forked_python())
    )
    assert other.returncode == one.returncode == status
    assert other.stdout == one.stdout
    assert one.stderr.endswith(said) and other.stderr.endswith(said)
    assert other.stderr.count("\n") == one.stderr.count("\n")  # of a traceback too


@pytest.mark.slow
def test_signals_reach_it_and_it_dies_with_its_client():
    code = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background ignore otherwise
print(os.getpid(), flush=True)
time.sleep(60)
"""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = Process([*forked_python(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        with process:
            pid = process.stdout.readline().strip()
            process.send_signal(number)
        assert process.returncode == -number
        assert not Path("/proc", pid).exists()


@pytest.mark.slow
def test_tensorflow_starts_afresh_with_the_threads_that_the_environment_says():
    code = """
from common.system.lazy import keras, tf
import sys
assert not {"keras", "tensorflow"} & set(sys.modules)
assert keras.Model and {"keras", "tensorflow"} <= set(sys.modules)
import keras as other
import os, tensorflow
from tensorflow.python.eager import context
assert other.Model is keras.Model and tensorflow.zeros(1).shape == 1 and context.context()._context_handle
print(len(os.listdir("/proc/self/task")))
"""
    threads = {}
    for count in ("1", "9"):
        environment = os.environ | {"TF_NUM_INTRAOP_THREADS": count}
        command = [*forked_python(), "-c", code]
        root = Path(__file__).parents[1]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        threads[count] = int(done.stdout)
    assert threads["9"] - threads["1"] == 8
