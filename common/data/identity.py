"""Check that a run's input files still have the same names, sizes and contents. Their location may change."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.arrays import NOT_PATHS
from common.data.idx import idx_sets
from common.data.prepared_sets import prepared_set
from common.images.found import IMAGE_SUFFIXES, is_hidden
from common.system.cluster import is_chief
from common.system.console import say
from common.system.files import InputError, is_run

NAMING_SETTINGS = ("data", "style", "weights")  # options whose values may be file paths
SAMPLED_FILES = 256  # maximum number of files that are read per option; the same limit applies separately to tables
SAMPLED_BYTES = 2**26  # maximum number of bytes that are read per option; this limits the time for large data sets
BLOCKS = 16  # number of blocks that are read from a large file


def identities(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a fingerprint for each option in NAMING_SETTINGS that selects files or a TensorFlow Dataset.

    The fingerprint of files, stored as `identity` in config.json, contains their number, their total size in bytes, a
    digest of their names, and a digest of their sizes and contents. It does not depend on their location, their dates
    or their order on disk. In a folder, only files that recipes can read are included. Only a sample of the contents is
    read, so 200,000 files take only seconds.
    """
    found = {name: _identity_of(name, str(settings[name])) for name in NAMING_SETTINGS if name in settings}
    return {name: identity for name, identity in found.items() if identity}


def _identity_of(setting: str, value: str) -> dict[str, Any]:
    """Return the fingerprint of the files that one option selects; empty for a built-in name such as `sample`."""
    if value.startswith("tfds:"):
        folder = prepared_set(value.removeprefix("tfds:"))
        return {"version": folder.name} if folder else {}
    if value in (*NOT_PATHS, "imagenet", "random"):
        return {}
    path = Path(value)
    if path.is_file():
        return _digested([File("", value, path.stat().st_size)])
    if path.is_dir():
        return _digested(readable_files(path))
    if setting == "data" and (sets := idx_sets(path)):  # one of several sets in a folder
        paths = [each for found in sets.values() for each in found]
        return _digested([File(each.name, str(each), each.stat().st_size) for each in paths])
    if setting != "style":
        return {}
    parts = enumerate(_parts(value))
    files = [(f"{number:03d}={weight}", part) for number, (part, weight) in parts if Path(part).is_file()]
    return _digested([File(name, part, os.path.getsize(part)) for name, part in files])


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how two fingerprints differ; return an empty string if they are equal."""
    if before == now:
        return ""
    if "version" in before or "version" in now:
        return f"version {before.get('version')} before, {now.get('version')} now"
    counts = [f"{each.get('files')} files ({each.get('bytes')} bytes)" for each in (before, now)]
    if before.get("files") != now.get("files"):
        return f"{counts[0]} before, {counts[1]} now"
    if before.get("names") != now.get("names"):
        return f"the same number of files ({now.get('files')}), but different names"
    if before.get("files") == 1:
        return f"different content ({before.get('bytes')} bytes before, {now.get('bytes')} now)"
    return f"the same names, but different contents ({before.get('bytes')} bytes before, {now.get('bytes')} now)"


def kept_identities(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the fingerprints stored in a config.json. Runs of earlier versions have none."""
    kept = settings.get("identity")
    return {name: each for name, each in kept.items() if isinstance(each, dict)} if isinstance(kept, dict) else {}


def check_identities(
    output_dir: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    kept: Mapping[str, Mapping[str, Any]],
    accept: bool,
) -> list[str]:
    """Check that a resumed run uses the files that it was started with. Print which files have moved or changed.

    Args:
        output_dir: the run folder.
        before: the options in `config.json`, including `data`.
        now: the options of the resumed run, including `data`.
        kept: the fingerprints in `config.json`.
        accept: resume even if files have changed.

    Returns:
        The names of the options whose files are unchanged or whose changes are accepted, even if the paths differ.

    Raises:
        InputError: files have changed, and `accept` is False.
    """
    compared = []
    for name, identity in identities(now).items():
        old, new = before.get(name), now[name]
        if name not in kept and not (accept and name == "data"):
            continue  # without a stored fingerprint, only the path can be compared
        changed = difference(kept[name], identity) if name in kept else ""
        if changed and old != new and name != "data":
            continue  # a different file, not the same file at a new path
        if changed and not accept:
            what = f"{new} has changed since this run was started" if old == new else f"{new} differs from {old}"
            raise InputError(
                f"{output_dir}: {name} {what}: {changed}; restore it, choose another --output-dir, or add "
                "--accept-data to resume with the changed files (held-out examples may then include training examples)"
            )
        if is_chief() and (changed or old != new):
            moved = f"{name} moved from {old} to {new}" if old != new else f"{name} {new} has changed"
            say(f"{output_dir}: {moved}{f' ({changed})' if changed else ''}; the run resumes with it")
        compared.append(name)
    return compared


def check_places(output_dir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InputError if input files of a run no longer exist, unless an option gives their new path."""
    for name in NAMING_SETTINGS:
        value = str(now.get(name, ""))
        if value != before.get(name):
            continue
        parts = [part for part, _ in _parts(value)] if name == "style" else [value]
        for path in map(Path, parts):
            if path.is_absolute() and not path.exists() and not (name == "data" and idx_sets(path)):
                raise InputError(
                    f"{output_dir}: {path} (--{name}) no longer exists; restore it, or give its new path with --{name}"
                )


# %% Files


class File(NamedTuple):
    """A file that is part of a fingerprint."""

    name: str  # POSIX path relative to the folder
    path: str
    size: int  # bytes


def readable_files(folder: Path) -> list[File]:
    """Return all files that a recipe can read, in a folder and its sub-folders.

    Hidden files and folders, those of tools, and run folders are left out.
    """
    found: list[File] = []
    todo: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(str(folder), "", ())]
    while todo:
        current, prefix, parents = todo.pop()
        try:
            about = os.stat(current)
            inode = (about.st_dev, about.st_ino)
            if inode in parents:  # a link to a parent folder
                continue
            if prefix and is_run(Path(current)):
                continue
            with os.scandir(current) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if entry.is_dir():
                        todo.append((entry.path, f"{prefix}{entry.name}/", (*parents, inode)))
                    elif _is_readable(entry.name.lower()) and entry.is_file():
                        found.append(File(prefix + entry.name, entry.path, entry.stat().st_size))
        except OSError:  # recipes also skip folders that cannot be read
            continue
    return found


def _is_readable(name: str) -> bool:
    return name.endswith((*IMAGE_SUFFIXES, ".tfrecord")) or "-ubyte" in name or _is_table(name)


def _is_table(name: str) -> bool:
    """Return whether a file is a table that describes other files. Tables have a separate limit of SAMPLED_FILES."""
    of_celeba = name.endswith(".txt") and ("celeba" in name or name.startswith("list_"))
    return of_celeba or name.endswith(".csv") or name in ("index.json", "places.npz")


def _parts(text: str) -> list[tuple[str, str]]:
    """Split "FILE,FILE=WEIGHT" into (file, weight) pairs of strings. The weight is "" if it is not given."""
    if Path(text).exists():
        return [(text, "")]
    parts = [part.strip() for part in text.split(",")]
    return [(part, "") if Path(part).exists() or "=" not in part else part.rpartition("=")[::2] for part in parts]


# %% Digests


def _digested(files: list[File]) -> dict[str, Any]:
    if not files:
        return {}
    # Some file systems store accented letters in decomposed form, so names are converted to NFC (composed form).
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
    indices = np.linspace(0, len(files) - 1, min(SAMPLED_FILES, len(files))).astype(int)
    return [files[index] for index in np.unique(indices)]


def _add_content(digest: Any, file: File, max_bytes: int) -> None:
    """Update a digest with up to `max_bytes` of a file, from evenly spaced blocks that include its start and end."""
    starts, length = [0], file.size
    if file.size > max_bytes:
        length = max(1, max_bytes // BLOCKS)
        starts = np.linspace(0, file.size - length, BLOCKS).astype(np.int64).tolist()
    try:
        with open(file.path, "rb") as opened:
            for start in starts:
                opened.seek(start)
                digest.update(opened.read(length))
    except OSError:
        digest.update(b"cannot be read")
