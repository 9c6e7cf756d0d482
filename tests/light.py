"""`python -m MODULE ...` for modules that may import nothing heavy, without a start of Python for each.

One process imports what all of them import anyway, and a fork of it runs each command. It lists its imports, as
`python -X importtime` does, and what a fork imports stands in its own standard error.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HEAVY = {"tensorflow", "keras", "matplotlib", "scipy", "sklearn", "skimage", "cv2", "PIL", "tensorflow_datasets"}
TIMES = "import time:"
FORKING = """
import json, os, runpy, sys, types
import numpy
import common.data, common.images, common.metrics, common.runs, common.training

folder, commands = sys.argv[1], json.loads(sys.argv[2])
for number, command in enumerate(commands):
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    for stream in (1, 2):
        os.dup2(os.open(f"{folder}/{number}-{stream}", os.O_CREAT | os.O_WRONLY), stream)
    sys.argv = ["-m", *command[1:]]
    sys.modules["__main__"] = types.ModuleType("__main__")
    runpy._run_module_as_main(command[0])
    sys.exit()
"""


class Light(NamedTuple):
    """What a command has answered, and what it has imported."""

    status: int
    stdout: str
    stderr: str
    imported: set[str]


def run_light(commands: Sequence[Sequence[str]], root: Path) -> list[Light]:
    """Run `python -m COMMAND` for each command, one after the other, in the folder `root`."""
    with tempfile.TemporaryDirectory() as folder:
        start = [sys.executable, "-X", "importtime", "-c", FORKING, folder, json.dumps([*map(list, commands)])]
        done = subprocess.run(start, cwd=root, capture_output=True, text=True)
        before, said = _apart(done.stderr)
        assert (done.returncode, said) == (0, ""), said
        found = []
        for number, status in enumerate(map(int, done.stdout.split())):
            stdout, stderr = ((Path(folder) / f"{number}-{stream}").read_text() for stream in (1, 2))
            imported, said = _apart(stderr)
            found.append(Light(status, stdout, said, before | imported))
        return found


def _apart(stderr: str) -> tuple[set[str], str]:
    lines = stderr.splitlines(keepends=True)
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith(TIMES)}
    return imported, "".join(line for line in lines if not line.startswith(TIMES))
