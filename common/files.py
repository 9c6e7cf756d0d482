"""Writing files so that each is whole or absent, and finding the small files that the project ships."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.cluster import is_chief
from common.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft's path beside `path`; rename the draft to `path` at the end, or delete it on any error.

    The draft has the suffix of `path`, so that libraries which choose a format by suffix choose the right one.
    Folders above `path` are made. Raises OSError where nothing can be written. Of several machines that train together
    the first alone writes; what another one would is thrown away.
    """
    if not is_chief():
        with tempfile.TemporaryDirectory() as nowhere:
            yield Path(nowhere) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.draft{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


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


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays that `write_npz` wrote.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    import numpy as np

    if not path.is_file():
        raise InputError(f"{path}: there is no such file; has this run finished training?")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # a damaged file fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read ({reason[:120]}); train again, or restore the file") from None


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
