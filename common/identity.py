"""Whether the files that a run began with are still the same, by names, sizes and contents, wherever they lie."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.cluster import is_chief
from common.console import say
from common.errors import InputError
from common.files import is_run
from common.images import IMAGE_SUFFIXES
from common.prepared_sets import prepared_set

NAMING_SETTINGS = ("data", "style", "weights")  # settings that name files
SAMPLED_FILES = 256  # of which contents are read
SAMPLED_BYTES = 2**26  # of all of them together, so that the largest set takes no longer than a small one
BLOCKS = 16  # of a file that is too large to be read as a whole


def identities(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the identity of what each setting names, for the settings that name files or a prepared set.

    An identity does not depend on where the files lie, on their dates, nor on the order in which a disk lists them.
    It holds how many files there are, their bytes, a digest of their names and one of their sizes and contents. Of a
    folder only those files count that a recipe can read; contents are sampled, so that 200,000 files take seconds.
    """
    found = {name: _identity_of(name, str(settings[name])) for name in NAMING_SETTINGS if name in settings}
    return {name: identity for name, identity in found.items() if identity}


def _identity_of(setting: str, value: str) -> dict[str, Any]:
    """Return the identity of what one setting names; an empty one for a word such as `sample`."""
    if value.startswith("tfds:"):
        folder = prepared_set(value.removeprefix("tfds:"))
        return {"version": folder.name} if folder else {}
    if value in ("", "sample", "mnist", "fashion_mnist", "imagenet", "random"):
        return {}
    path = Path(value)
    if path.is_file():
        return _digested([File("", value, path.stat().st_size)])
    if path.is_dir():
        return _digested(readable_files(path))
    if setting != "style":
        return {}
    parts = enumerate(_parts(value))
    files = [(f"{number:03d}={share}", part) for number, (part, share) in parts if Path(part).is_file()]
    return _digested([File(name, part, os.path.getsize(part)) for name, part in files])


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in words how two identities differ; nothing where they are the same."""
    if before == now:
        return ""
    if "version" in before or "version" in now:
        return f"version {before.get('version')} before, {now.get('version')} now"
    counts = [f"{each.get('files')} files of {each.get('bytes')} bytes" for each in (before, now)]
    if before.get("files") != now.get("files"):
        return f"{counts[0]} before, {counts[1]} now"
    if before.get("names") != now.get("names"):
        return f"as many files as before ({now.get('files')}), but with other names"
    if before.get("files") == 1:
        return f"another content ({before.get('bytes')} bytes before, {now.get('bytes')} now)"
    return f"the same names, but other contents ({before.get('bytes')} bytes before, {now.get('bytes')} now)"


def kept_identities(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the identities in what a config.json holds; runs of earlier versions have none."""
    kept = settings.get("identity")
    return {name: each for name, each in kept.items() if isinstance(each, dict)} if isinstance(kept, dict) else {}


def check_identities(
    output_dir: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    kept: Mapping[str, Mapping[str, Any]],
    accept: bool,
) -> list[str]:
    """Compare the files of a run's settings with those that it began with; say on standard error where they moved.

    Args:
        output_dir: folder of the run.
        before: its settings, and `data`, as `config.json` has them.
        now: the settings, and `data`, with which it should resume.
        kept: the identities in `config.json`.
        accept: resume although files have changed.

    Returns:
        The settings whose files have been compared, so that their paths may differ.

    Raises:
        InputError: files have changed and are not accepted.
    """
    compared = []
    for name, identity in identities(now).items():
        old, new = before.get(name), now[name]
        if name not in kept and not (accept and name == "data"):
            continue  # only the path can be compared
        changed = difference(kept[name], identity) if name in kept else ""
        if changed and old != new and name != "data":
            continue  # not a file that moved, but another setting
        if changed and not accept:
            what = f"{new} has changed since this run began" if old == new else f"{new} is not the same as {old}"
            raise InputError(
                f"{output_dir}: {name} {what}: {changed}; restore it, choose another --output-dir, or add "
                "--accept-data to resume with it as it is (what was trained on may then be held out)"
            )
        if is_chief() and (changed or old != new):
            moved = f"{name} moved from {old} to {new}" if old != new else f"{name} {new} has changed"
            say(f"{output_dir}: {moved}{f' ({changed})' if changed else ''}; the run resumes with it")
        compared.append(name)
    return compared


def check_places(output_dir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InputError where files that a run began with are gone and nobody says where they are now."""
    for name in NAMING_SETTINGS:
        value = str(now.get(name, ""))
        if value != before.get(name):
            continue
        parts = [part for part, _ in _parts(value)] if name == "style" else [value]
        for path in map(Path, parts):
            if path.is_absolute() and not path.exists():
                raise InputError(
                    f"{output_dir}: its {name} {path} is not there any more; restore it, or give its new place with "
                    f"--{name}"
                )


# %% Files


class File(NamedTuple):
    """A file that counts."""

    name: str  # its POSIX path within a folder
    path: str
    size: int  # bytes


def readable_files(folder: Path) -> list[File]:
    """Return the files in a folder and its sub-folders that a recipe can read.

    Hidden files and folders are left out, folders of runs, and what recipes do not read, such as a Thumbs.db.
    """
    found: list[File] = []
    todo: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(str(folder), "", ())]
    while todo:
        place, within, above = todo.pop()
        try:
            about = os.stat(place)
            own = (about.st_dev, about.st_ino)
            if own in above:  # a link that leads back to a folder above it
                continue
            if within and is_run(Path(place)):
                continue
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        todo.append((entry.path, f"{within}{entry.name}/", (*above, own)))
                    elif _is_readable(entry.name.lower()) and entry.is_file():
                        found.append(File(within + entry.name, entry.path, entry.stat().st_size))
        except OSError:  # recipes do not see a folder that may not be read, either
            continue
    return found


def _is_readable(name: str) -> bool:
    return name.endswith((*IMAGE_SUFFIXES, ".tfrecord")) or "-ubyte" in name or _is_table(name)


def _is_table(name: str) -> bool:
    """Return whether a file says something about the others, so that its content always counts."""
    of_celeba = name.endswith(".txt") and ("celeba" in name or name.startswith("list_"))
    return of_celeba or name.endswith(".csv") or name in ("index.json", "places.npz")


def _parts(text: str) -> list[tuple[str, str]]:
    """Return the names in "FILE,FILE=SHARE", which paintings are given by, each with its share as it is written."""
    if Path(text).exists():
        return [(text, "")]
    parts = [part.strip() for part in text.split(",")]
    return [(part, "") if Path(part).exists() or "=" not in part else part.rpartition("=")[::2] for part in parts]


# %% Digests


def _digested(files: list[File]) -> dict[str, Any]:
    if not files:
        return {}
    # As text, accents may be stored apart from their letters: which way is up to the file system.
    ordered = sorted(
        file if file.name.isascii() else file._replace(name=unicodedata.normalize("NFC", file.name)) for file in files
    )
    names = hashlib.sha256(os.fsencode("\0".join(file.name for file in ordered)))
    contents = hashlib.sha256(" ".join(str(file.size) for file in ordered).encode())
    tables = [file for file in ordered if _is_table(file.name.rpartition("/")[2].lower())]
    sampled = [*_evenly(tables), *_evenly(ordered)]
    for file in sampled:
        _add_content(contents, file, SAMPLED_BYTES // len(sampled))
    total = sum(file.size for file in ordered)
    return {"files": len(ordered), "bytes": total, "names": names.hexdigest(), "contents": contents.hexdigest()}


def _evenly(files: list[File]) -> list[File]:
    places = np.linspace(0, len(files) - 1, min(SAMPLED_FILES, len(files))).astype(int)
    return [files[place] for place in np.unique(places)]


def _add_content(digest: Any, file: File, most: int) -> None:
    """Add to a digest the content of a file, or blocks of it with its beginning and its end, `most` bytes of it."""
    starts, length = [0], file.size
    if file.size > most:
        length = max(1, most // BLOCKS)
        starts = np.linspace(0, file.size - length, BLOCKS).astype(np.int64).tolist()
    try:
        with open(file.path, "rb") as opened:
            for start in starts:
                opened.seek(start)
                digest.update(opened.read(length))
    except OSError:
        digest.update(b"cannot be read")
