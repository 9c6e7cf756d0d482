"""Write files atomically, validate arrays read from files, and find the small files that ship with the project."""

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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class InputError(ValueError):
    """Invalid user input: a file, a folder or an option.

    The message is one line. It states the problem, its location and a valid alternative. The command line prints the
    message and exits with status 2. A program that calls a recipe can catch the exception as a ValueError.
    """

    def __init__(self, message: str = "") -> None:
        """Store the message. Control characters, which file names may contain, are escaped."""
        super().__init__(printable(message))


def printable(text: object) -> str:
    """Return `text` as one line that is safe to print in a terminal.

    Line breaks, terminal escapes, characters that reverse the writing direction, and file-name bytes that are not valid
    UTF-8 are replaced by Python escapes.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def first_line(error: BaseException, most: int = 120) -> str:
    """Return the first line of an exception's message, or the exception's type if the message is empty.

    The result has at most `most` characters; see `cut`.
    """
    lines = str(error).strip().splitlines()
    return cut(lines[0] if lines else type(error).__name__, most)


def cut(text: str, most: int) -> str:
    """Return `text` with at most `most` characters. If it is longer, it ends after a word, with three dots."""
    if len(text) <= most:
        return text
    kept = text[: most - 3]
    words, space, _ = kept.rpartition(" ") if text[most - 3] != " " else (kept, " ", "")
    return (words if space else kept).rstrip(" ,;:(") + "..."


def home_folder() -> Path:
    """Return the user's home folder, or a temporary folder if there is none, as for Keras's downloads."""
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry in /etc/passwd
        return Path(tempfile.gettempdir())


def draft_of(path: Path) -> Path:
    """Return the hidden path of a temporary file or folder that will be renamed to `path`. It has the same suffix."""
    return path.with_name(f".{path.stem}.draft{path.suffix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file next to `path`. At the end, rename it to `path`; after an error, delete it.

    The temporary file has the suffix of `path`, because some libraries infer the format from the suffix. It is always
    a new file: an existing link with its name is deleted, not followed. Missing parent folders are created. If several
    machines train together, only the chief writes; the files of the other machines are discarded.

    Raises:
        OSError: the file cannot be written. If the disk is full, the message says how much space is free.
    """
    from common.system.cluster import is_chief  # imported here to avoid an import cycle

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
    """Yield an empty temporary folder next to `path`. At the end, rename it to `path`; after an error, delete it.

    An existing folder at `path` is replaced. The errors are the same as for `replacing`.
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
    """Delete a file, a link or a folder, if it exists.

    A folder is first renamed to a temporary name, so that a killed process leaves no incomplete folder at `path`.
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
    """Delete the temporary files and folders that killed processes left in `folder` and its sub-folders."""
    for parent, folders, files in os.walk(folder):
        for name in [name for name in (*folders, *files) if _is_draft(Path(name))]:
            delete(Path(parent) / name)
        folders[:] = [name for name in folders if not _is_draft(Path(name))]


def _is_draft(path: Path) -> bool:
    return path.name.startswith(".") and ".draft" in (path.suffix, Path(path.stem).suffix)


@contextmanager
def explained(path: Path, needed: int = 0) -> Iterator[None]:
    """If the block fails because the disk is full, raise an OSError that says so. Other exceptions pass unchanged.

    Libraries report a full disk in many ways. The disk counts as full if the error says so, or if less than 64 kB is
    free.

    Args:
        path: the file or folder that the block writes.
        needed: size of that file or folder in bytes; 0 if unknown.
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
        need = f", about {needed / 1e6:.1f} MB needed" if needed else ""
        other = f", or in {tempfile.gettempdir()}" if free > max(needed, 1 << 20) else ""
        problem = f"no space left on the disk ({free / 1e6:.1f} MB free{need})"
        raise OSError(
            errno.ENOSPC, f"{problem}; free some space there{other}, and run the command again", str(path)
        ) from error


def write_text(path: Path, text: str) -> Path:
    """Atomically write `text` as UTF-8, and return `path`. Characters that UTF-8 cannot encode are escaped."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def write_json(path: Path, value: object) -> Path:
    """Atomically write `value` as indented JSON, and return `path`.

    JSON has no infinity and no NaN, so they are written as the strings "Infinity", "-Infinity" and "NaN". This is the
    mapping of Protocol Buffers. In Python, `float` converts these strings back; see `read_numbers`.
    """
    strict = json.loads(json.dumps(value), parse_constant=str)
    return write_text(path, json.dumps(strict, indent=2) + "\n")


def read_numbers(path: Path) -> Any:
    """Return the content of a JSON file of numbers that `write_json` wrote. Raises ValueError if it is not JSON."""
    return _with_infinity(json.loads(path.read_text(encoding="utf-8")))


def _with_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_infinity(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_infinity(each) for each in value]
    return float(value) if value in ("Infinity", "-Infinity", "NaN") else value


def shown_nonfinite(value: float) -> str:
    """Return an infinite or undefined number as a word."""
    return "undefined" if math.isnan(value) else "infinite" if value > 0 else "minus infinity"


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Atomically write arrays as an .npz file, and return `path`."""
    import numpy as np

    with replacing(path) as draft:
        np.savez(draft, allow_pickle=False, **arrays)
    return path


ArrayShape = tuple[int | str, ...]
"""The shape of an array. A letter matches any size, but the same letter must match the same size everywhere."""


def read_npz(
    path: Path, shapes: Mapping[str, ArrayShape] | None = None, texts: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return the arrays that `write_npz` wrote.

    The file is not trusted: before memory is allocated for an array, its claimed size is compared with the size of
    the file.

    Args:
        path: the file.
        shapes: shapes of the required arrays, by name. Arrays that are not in `texts` must contain finite floats.
        texts: names of the required arrays that must contain text.

    Raises:
        InputError: the file does not exist, is damaged, or lacks one of the required arrays.
    """
    import numpy as np

    if not path.is_file():
        raise InputError(f"{path}: there is no such file; has this run finished training?")
    try:
        check_npz(path, expansion=10)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        _check_arrays(arrays, shapes or {}, texts)
    except Exception as error:  # a damaged file can fail in many ways
        raise InputError(f"{path}: cannot be read ({first_line(error)}); train again, or restore the file") from None
    return arrays


def cached_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the array in an .npy file, or None if the file does not hold a finite float32 array of this shape."""
    import numpy as np

    try:
        if not path.is_file():
            return None
        # If the header claims more data than the file has, mmap fails instead of allocating memory.
        array = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception:  # a damaged file can fail in many ways
        return None
    valid = array.shape == shape and array.dtype == np.float32 and bool(np.isfinite(array).all())
    return array if valid else None


def check_npz(path: Path, expansion: int = 1032) -> None:
    """Raise an exception if an .npz file is damaged, or if its arrays claim more data than the file can hold.

    Args:
        path: the file.
        expansion: maximum ratio of the arrays' size to the file's size; 64 MiB of arrays are always allowed. 1032 is
            the maximum compression ratio of zip.
    """
    from numpy.lib import format as npy

    size = path.stat().st_size
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > max(2**26, expansion * size):
            raise ValueError(f"it claims more data than its {size} bytes can hold")
        for member in members:
            with archive.open(member) as array:
                read = npy.read_array_header_1_0 if npy.read_magic(array) == (1, 0) else npy.read_array_header_2_0
                shape, _, kind = read(array)
                held = member.file_size - array.tell()
            if kind.hasobject:
                raise ValueError(f"{member.filename[:40]} holds Python objects")
            count = math.prod(map(int, shape))
            if count and count * max(1, kind.itemsize) != held:
                claim = f"{count} values of {kind.itemsize} bytes"
                raise ValueError(f"{member.filename[:40]} claims {claim}, but has {held} bytes of data")


def _check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, ArrayShape], texts: Sequence[str]) -> None:
    import numpy as np

    sizes: dict[str, int] = {}  # sizes of the dimensions that `shapes` names by letters
    for name, shape in shapes.items():
        array = arrays.get(name)
        if array is None:
            raise ValueError(f"{name} is missing")
        for side, found in zip(shape, array.shape, strict=False):
            if isinstance(side, str):
                sizes.setdefault(side, found)
        wanted = tuple(sizes.get(side, side) if isinstance(side, str) else side for side in shape)
        if array.shape != wanted:
            raise ValueError(f"{name} has shape {list(array.shape)}, expected {list(wanted)}")
        if array.dtype.kind != ("U" if name in texts else "f"):
            raise ValueError(f"{name} has dtype {array.dtype}, expected {'text' if name in texts else 'floats'}")
        if name not in texts and not (np.abs(array) < 1e9).all():  # also rejects NaN
            raise ValueError(f"{name} holds values that are huge or not finite")


def readable_name(name: str | Path) -> str:
    r"""Return the name of a file or folder as text. Bytes that are not UTF-8 are escaped, for example as \xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run with checkpoints or results. Images in such a folder are never used as data."""
    return (folder / "config.json").is_file() and any((folder / n).exists() for n in ("checkpoints", "results.json"))


def data_file(name: str) -> Path:
    """Return the path of a small file that ships with the project. It is in `data/`, or next to a copied recipe.

    Raises:
        InputError: the file is in neither folder.
    """
    here = Path(__file__).resolve().parents[1]
    paths = [here / name, here.parent / "data" / name]
    for path in paths:
        if path.is_file():
            return path
    raise InputError(f"{name} is missing: expected {paths[0]} or {paths[1]}; copy it from the project's data folder")
