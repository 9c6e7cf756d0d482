"""Python with TensorFlow, Keras and other large packages imported already, for tests that start a process.

Importing them takes seconds. A server (`forked_server.py`) imports them once for each pytest process; a small program
(`forked_client.py`) asks it for a fork, which then runs what the test wants to run, as `python` would:

    subprocess.run([*forked_python(), "-m", "recipes.gan", "--epochs", "1"], cwd=ROOT, capture_output=True)

in place of `[sys.executable, "-m", ...]`. `-c CODE`, `-m MODULE` and a file are understood, after any of `-I`, `-P`,
`-B` and `-u`. The fork has the folder, the environment, the standard streams and the exit status of its client, and
the signals that are sent to it. Start a real process where the start is what you test, with `preexec_fn` or `pass_fds`,
and for environment variables of Python other than PYTHONPATH, PYTHONIOENCODING, PYTHONUNBUFFERED and
PYTHONDONTWRITEBYTECODE. Give `-u` where the test reads what is said before the process has ended.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


class _Server:
    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="forked-")
        self.address = str(Path(self.folder.name) / "socket")
        with socket.socket(socket.AF_UNIX) as listener, (Path(self.folder.name) / "stderr").open("wb") as stderr:
            listener.bind(self.address)
            listener.listen(64)
            self.process = subprocess.Popen(
                [sys.executable, "-I", HERE / "forked_server.py", str(listener.fileno())],
                stdin=subprocess.PIPE,  # closed when pytest ends, however it ends: so does the server then
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C reaches pytest only
            )

    def stop(self) -> None:
        self.process.communicate()
        self.folder.cleanup()


_server = functools.cache(_Server)


def forked_python() -> list[str]:
    """Return what a command begins with instead of `sys.executable`, to be run by a fork."""
    if not hasattr(os, "pidfd_open"):  # not Linux
        return [sys.executable]
    return [sys.executable, "-S", "-E", "-I", str(HERE / "forked_client.py"), _server().address]


def stop_server() -> None:
    """End the server, if it runs, with every fork that is left."""
    if _server.cache_info().currsize:
        _server().stop()
        _server.cache_clear()


class Process(subprocess.Popen):
    """A `subprocess.Popen` for forks that are killed: after `wait` the fork is gone too, not only its client."""

    def wait(self, timeout: float | None = None) -> int:
        status = super().wait(timeout)
        if _server.cache_info().currsize:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(_server().address)
                server.sendall(bytes(8))  # an empty request
                server.recv(1)
        return status
