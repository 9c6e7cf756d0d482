"""Lock a run folder, so that only one process at a time writes to it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.system.cluster import is_chief
from common.system.files import InputError, sweep

LOCK_NAME = ".lock"
LOCKED_FOLDERS: set[Path] = set()  # folders locked by this process


@contextmanager
def only_process_in(folder: Path | str | None) -> Iterator[None]:
    """Lock a run folder during the block, and delete the temporary files that killed processes left in it.

    The lock is a file in the folder. The operating system releases the lock when the process ends or is killed. The
    lock is reentrant: the same process can lock the folder again. Nothing is locked if `folder` is None or not
    writable, or if `flock` is not supported by the operating system (Windows) or by the file system. If several
    machines train together, only the chief locks the folder.

    Raises:
        InputError: another process has locked the folder.
    """
    path = Path(folder).resolve() if folder is not None and is_chief() else None
    if path is None or path in LOCKED_FOLDERS:
        yield
        return
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    file = None
    with suppress(OSError):  # the first write to the folder reports the problem
        path.mkdir(parents=True, exist_ok=True)
        file = _lock_file(path)
    if file is None:
        yield
        return
    LOCKED_FOLDERS.add(path)
    try:
        sweep(path)
        yield
    finally:
        LOCKED_FOLDERS.discard(path)
        with suppress(OSError):
            (path / LOCK_NAME).unlink()
        os.close(file)
        with suppress(OSError):
            for parent in missing:  # delete the new folders that are still empty
                parent.rmdir()


def _lock_file(folder: Path) -> int | None:
    """Return the descriptor of the locked file, or None if files cannot be locked here."""
    try:
        import fcntl
    except ImportError:
        return None
    path = folder / LOCK_NAME
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(file, 200).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise InputError(
                f"{folder}: another process is writing to this run ({owner}); wait until it ends, "
                "or choose another --output-dir"
            ) from None
        except OSError:
            os.close(file)
            return None
        with suppress(OSError):
            if path.stat().st_ino == os.fstat(file).st_ino:  # otherwise, its owner has just deleted the file
                break
        os.close(file)
    with suppress(OSError):  # on a full disk, the lock file stays empty
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {platform.node()}, since {time.strftime('%H:%M:%S')}".encode())
    return file
