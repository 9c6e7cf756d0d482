"""Writing files so that each is whole or absent, and finding the small files that the project ships."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.cluster import is_chief
from common.errors import InputError, first_line

if TYPE_CHECKING:
    import numpy as np


def draft_of(path: Path) -> Path:
    """Return the hidden name under which `path` is written before it is renamed, with the same suffix."""
    return path.with_name(f".{path.stem}.draft{path.suffix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of an empty draft next to `path`; rename it to `path` at the end, or delete it on any error.

    The draft has the suffix of `path`, because some libraries choose a format by the suffix. It is always a new file:
    a link that lies at its name is removed, never followed. Folders above `path` are created. If several machines
    train together, only the chief writes; what the others write is thrown away.

    Raises:
        OSError: the file cannot be written. On a full disk the message says how much room is left.
    """
    if not is_chief():
        with tempfile.TemporaryDirectory() as nowhere:
            yield Path(nowhere) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    delete(draft)
    try:
        with explained(path):
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield draft
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty draft folder next to `path`; rename it to `path` at the end, or delete it on any error.

    A folder that is at `path` already is replaced. Raises OSError as `replacing`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    delete(draft)
    try:
        with explained(path):
            draft.mkdir()
            yield draft
            delete(path)
            draft.rename(path)
    finally:
        delete(draft)


def delete(path: Path) -> None:
    """Delete a file, a link or a folder; nothing happens if there is none.

    A folder is renamed to a draft first. If the process is killed meanwhile, no half of a folder stays under its name.
    """
    if path.is_dir() and not path.is_symlink():
        if not _is_draft(path):
            leftover = path.with_name(f".{path.name}.deleted.draft")
            shutil.rmtree(leftover, ignore_errors=True)
            path = path.rename(leftover)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete the drafts that a killed process left in `folder` and its sub-folders."""
    for place, folders, files in os.walk(folder):
        for name in [name for name in (*folders, *files) if _is_draft(Path(name))]:
            delete(Path(place) / name)
        folders[:] = [name for name in folders if not _is_draft(Path(name))]


def _is_draft(path: Path) -> bool:
    return path.name.startswith(".") and ".draft" in (path.suffix, Path(path.stem).suffix)


@contextmanager
def explained(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn any failure of the block on a full disk into one OSError about `path`; other failures stay as they are.

    Libraries report a full disk in many ways. It is one if the error says so, or if less than 64 kB are left.

    Args:
        path: what is being written.
        needed: bytes that it takes, if that is known.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 1 << 40
        said = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not (said or free < 65536 or "No space left" in str(error)):
            raise
        need = f" and about {needed / 1e6:.1f} MB are needed" if needed else ""
        other = f", or in {tempfile.gettempdir()}" if free > max(needed, 1 << 20) else ""
        problem = f"no space left on the disk ({free / 1e6:.1f} MB are free{need})"
        raise OSError(
            errno.ENOSPC, f"{problem}; make room there{other}, and run the command again", str(path)
        ) from error


def write_text(path: Path, text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all, and return `path`; names of files need not be UTF-8."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def write_json(path: Path, value: object) -> Path:
    """Write `value` as indented JSON, whole or not at all, and return `path`."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays as an .npz, whole or not at all, and return `path`."""
    import numpy as np

    with replacing(path) as draft:
        np.savez(draft, allow_pickle=False, **arrays)
    return path


ArrayShape = tuple[int | str, ...]
"""Of an array; a letter stands for a number that is the same wherever the letter is."""


def read_npz(
    path: Path, shapes: Mapping[str, ArrayShape] | None = None, texts: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return the arrays that `write_npz` wrote.

    Nothing in the file is believed: what an array claims to hold is compared with the size of the file before memory
    is taken for it.

    Args:
        path: the file.
        shapes: of the arrays that it must hold, which are of finite floats.
        texts: which of them are of texts.

    Raises:
        InputError: there is no such file, it is damaged, or it does not hold these arrays.
    """
    import numpy as np

    if not path.is_file():
        raise InputError(f"{path}: there is no such file; has this run finished training?")
    try:
        check_npz(path, expansion=10)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        _check_arrays(arrays, shapes or {}, texts)
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(f"{path}: cannot be read ({first_line(error)}); train again, or restore the file") from None
    return arrays


def cached_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return finite float32 values that `np.save` wrote, or None where there are none of that shape, to make anew."""
    import numpy as np

    try:
        if not path.is_file():
            return None
        array = np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # mapped, as its header may claim anything
    except Exception:  # a damaged file fails in many ways
        return None
    whole = array.shape == shape and array.dtype == np.float32 and bool(np.isfinite(array).all())
    return array if whole else None


def check_npz(path: Path, expansion: int = 1032) -> None:
    """Raise an exception where an .npz is damaged, or its arrays claim more than the file can hold.

    Args:
        path: the file.
        expansion: bytes of arrays per byte of the file, above 64 MiB; 1032 is the most that zip compression reaches.
    """
    from numpy.lib import format as npy

    size = path.stat().st_size
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > max(2**26, expansion * size):
            raise ValueError(f"it claims more than its {size} bytes can hold")
        for member in members:
            with archive.open(member) as array:
                read = npy.read_array_header_1_0 if npy.read_magic(array) == (1, 0) else npy.read_array_header_2_0
                shape, _, kind = read(array)
                held = member.file_size - array.tell()
            if kind.hasobject:
                raise ValueError(f"{member.filename[:40]} holds Python objects")
            count = math.prod(map(int, shape))
            if count and count * max(1, kind.itemsize) != held:
                raise ValueError(f"{member.filename[:40]} claims {count} values of {kind.itemsize} bytes, has {held}")


def _check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, ArrayShape], texts: Sequence[str]) -> None:
    import numpy as np

    sizes: dict[str, int] = {}  # that letters have turned out to stand for
    for name, shape in shapes.items():
        array = arrays.get(name)
        if array is None:
            raise ValueError(f"{name} is missing")
        for side, found in zip(shape, array.shape, strict=False):
            if isinstance(side, str):
                sizes.setdefault(side, found)
        wanted = tuple(sizes.get(side, side) if isinstance(side, str) else side for side in shape)
        if array.shape != wanted:
            raise ValueError(f"{name} is {list(array.shape)}, expected {list(wanted)}")
        if array.dtype.kind != ("U" if name in texts else "f"):
            raise ValueError(f"{name} is of {array.dtype}, expected {'texts' if name in texts else 'floats'}")
        if name not in texts and not (np.abs(array) < 1e9).all():  # nor NaN
            raise ValueError(f"{name} holds values that are not finite, or huge")


def readable_name(name: str | Path) -> str:
    r"""Return the name of a file or folder as text that can be shown; bytes that are not UTF-8 become \xE9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run that has written something: its images are not data, wherever it lies."""
    return (folder / "config.json").is_file() and any((folder / n).exists() for n in ("checkpoints", "results.json"))


def data_file(name: str) -> Path:
    """Return the path of a small file that the project made and ships: in `data/`, or beside a copied recipe.

    Raises:
        InputError: it is in neither place.
    """
    here = Path(__file__).resolve().parent
    places = [here / name, here.parent / "data" / name]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"{name} is missing: expected {places[0]} or {places[1]}; take it from the project's data folder")
