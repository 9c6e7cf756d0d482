"""What a kill leaves on the disk: every state of a folder between two changes of it, and runs that begin there."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

State = dict[str, bytes | None]
"""A folder's files by their relative paths, and its sub-folders, which have no content."""

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "os.link")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TIMES = ("seconds", "steps_per_second")


class Recorder:
    """Notes the state of a folder before each change that Python makes in it: what a kill at that moment leaves."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.states: list[State] = []
        sys.addaudithook(self.hear)  # for good: there is no way to take one off

    def hear(self, event: str, arguments: tuple) -> None:
        if self.folder is None or not (event in CHANGES or (event == "open" and arguments[2] & WRITING)):
            return
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike) and Path(os.fsdecode(path)).is_relative_to(self.folder):
            folder, self.folder = self.folder, None  # its own reading is not heard
            self.states.append(state_of(folder))
            self.folder = folder

    def record(self, folder: Path, run: Callable[[Path], object]) -> list[State]:
        self.folder, self.states = folder, []
        try:
            run(folder)
        finally:
            self.folder = None
        return self.states


RECORDER = Recorder()


def state_of(folder: Path) -> State:
    paths = sorted(folder.rglob("*")) if folder.is_dir() else []
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in paths}


def lay(state: State, folder: Path) -> None:
    """Make a folder of that state."""
    folder.mkdir(parents=True)
    for name, content in state.items():
        if content is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def torn(state: State) -> State:
    """Cut all drafts to half of their length: native code writes them piece by piece."""
    return {n: c[: len(c) // 2] if c is not None and ".draft" in n else c for n, c in state.items()}


def kill_everywhere(tmp_path: Path, run: Callable[[Path], object]) -> int:
    """Run in a folder, and again from every state that a kill may have left; all must end in the same folder.

    Returns:
        How many moments there were. Moments that leave the same files are tried once.
    """
    whole = tmp_path / "whole" / "run"
    whole.parent.mkdir()
    states = RECORDER.record(whole, run)
    expected = comparable(whole)
    moments = [*states, *map(torn, states)]
    distinct = {repr(sorted(state.items(), key=lambda item: item[0])): state for state in moments}
    for number, state in enumerate(distinct.values()):
        folder = tmp_path / str(number) / "run"  # of the same name: reports and messages hold it
        lay(state, folder)
        run(folder)
        found = comparable(folder)
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        assert not wrong, f"killed with {sorted(state)}, {wrong} differ"
    return len(moments)


def comparable(folder: Path) -> dict[str, object]:
    """Return the contents of a folder's files, as far as they must be the same in another run."""
    found: dict[str, object] = {}
    for name, content in state_of(folder).items():
        found[name] = content if content is None else READERS.get(Path(name).suffix, bytes)(content)
    return found


def _archive(content: bytes) -> object:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "metadata.json"}


def _arrays(content: bytes) -> object:
    with np.load(io.BytesIO(content)) as arrays:
        return {name: arrays[name].tobytes() for name in arrays.files if name not in TIMES}


def _table(content: bytes) -> object:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(io.StringIO(content.decode()))]


def _object(content: bytes) -> object:
    def timeless(value: object) -> object:
        if isinstance(value, dict):
            return {key: timeless(part) for key, part in value.items() if key not in TIMES}
        return [timeless(part) for part in value] if isinstance(value, list) else value

    return timeless(json.loads(content))


def _page(content: bytes) -> object:
    text = content.decode()
    return re.findall(r'alt="([^"]*)"', text), re.findall(r"<h2>(.*)</h2>", text), "left out" in text


READERS: dict[str, Callable[[bytes], object]] = {
    ".keras": _archive,
    ".npz": _arrays,
    ".csv": _table,
    ".json": _object,
    ".html": _page,
    ".pb": bool,  # the names of functions in a SavedModel are numbered
}
