"""Imports what takes long and is forked for every request; see forked.py.

It must compute nothing: TensorFlow starts threads with its first operation, and a fork has only the thread that forks.
It imports nothing of the project either, since each fork looks for that where its own `sys.path` says.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import io
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import NoReturn

IMPORTED = (
    "tensorflow",
    "keras",
    "cv2",
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "ipywidgets",
    "matplotlib.backends.backend_agg",
    "matplotlib_inline.backend_inline",
    "PIL.Image",
    "scipy.ndimage",
    "scipy.optimize",
    "skimage.data",
    "skimage.transform",
    "sklearn.svm",
    "tqdm",
)


class _Hidden:
    """Modules that are loaded, but look as if they were not until they are imported, as `lazy` expects."""

    def __init__(self, *names: str) -> None:
        self.modules = {name: sys.modules.pop(name) for name in names}
        self.specs = {name: module.__spec__ for name, module in self.modules.items()}

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        return importlib.util.spec_from_loader(name, self) if name in self.modules else None

    def create_module(self, spec) -> ModuleType:
        return self.modules.pop(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.specs[module.__name__]


class _Forks:
    """The running forks: each by its client's socket, and as a file descriptor that can be read when it has ended."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self.running: dict[socket.socket, tuple[int, int]] = {}

    def add(self, client: socket.socket, pid: int) -> None:
        ended = os.pidfd_open(pid)
        self.running[client] = pid, ended
        self.selector.register(client, selectors.EVENT_READ, lambda: self.listen(client))
        self.selector.register(ended, selectors.EVENT_READ, lambda: self.end(client))

    def listen(self, client: socket.socket) -> None:
        """Send a fork the signals that its client has got, or kill it where the client is gone."""
        if client not in self.running:
            return
        try:
            signals = client.recv(64, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            signals = b""
        for number in signals or [signal.SIGKILL]:
            os.kill(self.running[client][0], number)
        if not signals:
            self.end(client)

    def end(self, client: socket.socket) -> None:
        """Wait for a fork, and tell its client how it has ended."""
        if client not in self.running:
            return
        pid, ended = self.running.pop(client)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(ConnectionError):
            client.sendall(status.to_bytes(8, "big", signed=True))
        for each in (client, ended):
            self.selector.unregister(each)
        client.close()
        os.close(ended)

    def end_all(self) -> None:
        for client, (pid, _) in list(self.running.items()):
            os.kill(pid, signal.SIGKILL)
            self.end(client)
        os._exit(0)


def serve(listener: socket.socket) -> tuple[list[str], list[str], str, dict[str, str]]:
    """Fork for every request until standard input ends; in the fork, return its request."""
    selector = selectors.SelectSelector()  # which has no file descriptor of its own
    forks = _Forks(selector)
    selector.register(0, selectors.EVENT_READ, forks.end_all)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data:
                key.data()
                continue
            client, _ = listener.accept()
            size, streams, *_ = socket.recv_fds(client, 8, 3)
            if not streams:  # asks only whether every fork is gone whose client is
                for each in list(forks.running):
                    forks.listen(each)
                client.close()
                continue
            with client.makefile("rb") as file:
                request = json.loads(file.read(int.from_bytes(size, "big")))
            if pid := os.fork():
                forks.add(client, pid)
                for stream in streams:
                    os.close(stream)
                continue
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            for each in (listener, client, *forks.running):
                each.close()
            for _, ended in forks.running.values():
                os.close(ended)
            return request


def open_streams(codec: str, unbuffered: bool) -> None:
    """Make the standard streams anew, of the file descriptors that the client had."""
    encoding, _, errors = codec.partition(":")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        handling = "backslashreplace" if name == "stderr" else errors or None
        direct = unbuffered and name != "stdin"
        binary = open(number, "rb" if name == "stdin" else "wb", 0 if direct else -1, closefd=False)  # noqa: SIM115
        by_lines = name == "stderr" or binary.isatty()
        stream = io.TextIOWrapper(binary, encoding or None, handling, None, by_lines, direct)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(arguments: list[str], command: list[str], folder: str, environment: dict[str, str]) -> None:
    """Do what `python ARGUMENTS...` does, up to its end."""
    os.chdir(folder)
    backend = os.environ.get("MPLBACKEND")
    os.environ.clear()
    os.environ.update(environment)
    if os.environ.get("MPLBACKEND") != backend:  # matplotlib looks at it when it is imported
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]
    sys.orig_argv = command  # which whoever starts this again makes another fork of
    options = set()
    while arguments[0] in ("-I", "-P", "-B", "-u"):
        options.add(arguments.pop(0))
    said = {} if "-I" in options else environment
    sys.dont_write_bytecode = "-B" in options or bool(said.get("PYTHONDONTWRITEBYTECODE"))
    open_streams(said.get("PYTHONIOENCODING", ""), "-u" in options or bool(said.get("PYTHONUNBUFFERED")))
    random.seed()
    sys.modules["numpy"].random.seed()
    kind = arguments.pop(0) if arguments[0] in ("-m", "-c") else ""
    target = arguments[0]
    if "-I" not in options:
        sys.path[:0] = [path for path in said.get("PYTHONPATH", "").split(os.pathsep) if path]
        if "-P" not in options:
            sys.path.insert(0, {"-m": os.getcwd(), "-c": ""}.get(kind, str(Path(target).resolve().parent)))
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__builtins__ = __builtins__
    sys.argv = arguments
    if kind == "-m":
        sys.argv[0] = "-m"
        runpy._run_module_as_main(target)
        return
    if kind == "-c":
        sys.argv[0] = "-c"
        code = compile(target, "<string>", "exec")
    else:
        main.__file__ = target
        with io.open_code(str(Path(target).absolute())) as file:
            code = compile(file.read(), target, "exec")
    exec(code, vars(main))


def end(error: BaseException | None) -> NoReturn:
    """End as Python does, but without taking all modules apart, which takes as long as all else."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if status == 1 and error.code != 1:
            print(error.code, file=sys.stderr)
    elif error:
        frames = error.__traceback__
        while frames.tb_next and frames.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
            frames = frames.tb_next
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = 120
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 255)


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # TensorFlow reads it once
    for name in IMPORTED:
        with contextlib.suppress(ModuleNotFoundError):  # of an extra that is not installed
            importlib.import_module(name)
    sys.meta_path.insert(0, _Hidden("keras", "tensorflow"))
    gc.collect()
    gc.freeze()  # what is shared with every fork is not looked through again in each
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        run(*request)
    except BaseException as error:
        end(error)
    end(None)
