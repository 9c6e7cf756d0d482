"""One process at a time in a run folder."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.cluster import is_chief
from common.errors import InputError
from common.files import sweep

LOCK_NAME = ".lock"
LOCKED_FOLDERS: set[Path] = set()  # by this process


@contextmanager
def only_process_in(folder: Path | None) -> Iterator[None]:
    """Keep other processes from writing into a run folder during the block, and delete the drafts of killed ones.

    The lock is a file in the folder, locked by the operating system, which releases it when the process ends, however
    it ends. The same process may enter the folder again. Nothing is locked without a folder, where it cannot be
    written, on systems without `flock` (Windows), on file systems that know no locks, and by machines other than the
    chief.

    Raises:
        InputError: another process has the folder.
    """
    place = folder.resolve() if folder is not None and is_chief() else None
    if place is None or place in LOCKED_FOLDERS:
        yield
        return
    missing = [parent for parent in (place, *place.parents) if not parent.exists()]
    file = None
    with suppress(OSError):  # whoever writes the first file says what is wrong
        place.mkdir(parents=True, exist_ok=True)
        file = _lock_file(place)
    if file is None:
        yield
        return
    LOCKED_FOLDERS.add(place)
    try:
        sweep(place)
        yield
    finally:
        LOCKED_FOLDERS.discard(place)
        with suppress(OSError):
            (place / LOCK_NAME).unlink()
        os.close(file)
        with suppress(OSError):
            for parent in missing:  # without a file in it, nothing came of the run
                parent.rmdir()


def _lock_file(folder: Path) -> int | None:
    """Return the descriptor of the locked file, or None where files cannot be locked."""
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
                f"{folder}: another process writes into this run ({owner}); wait until it ends, "
                "or choose another --output-dir"
            ) from None
        except OSError:
            os.close(file)
            return None
        with suppress(OSError):
            if path.stat().st_ino == os.fstat(file).st_ino:  # else its owner has just deleted it
                break
        os.close(file)
    with suppress(OSError):  # on a full disk the lock has no text
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {platform.node()}, since {time.strftime('%H:%M:%S')}".encode())
    return file
