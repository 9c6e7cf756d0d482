"""Find TensorFlow Datasets that are already prepared on this machine. The search needs no network access."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from common.system.files import InputError, home_folder

SET_NAME = re.compile(r"(\w+)(?:/(\w[\w.+-]*))?(?::(\d+\.\d+\.\d+))?", re.ASCII)


def sets_folder() -> Path:
    """Return the folder in which TensorFlow Datasets stores prepared data sets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or home_folder() / "tensorflow_datasets").expanduser()


def prepared_set(name: str) -> Path | None:
    """Return the folder of a prepared data set; None if it is missing.

    If `name` contains no version, the newest prepared version is used. `tfds.builder` is not used, because it searches
    Google's servers for a missing data set. For names such as `huggingface:NAME` and `kubric:NAME`, it even downloads
    code and runs it.

    Raises:
        InputError: `name` is not NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION.
    """
    parts = SET_NAME.fullmatch(name)
    if not parts:
        raise InputError(
            f"{f'tfds:{name}'!r}: not the name of a data set; expected NAME or NAME/CONFIG from TensorFlow Datasets, "
            "optionally followed by a version such as :1.2.3"
        )
    folder, config, version = sets_folder() / parts[1], parts[2], parts[3]
    config = config or _default_config(folder)
    return _newest_version(folder / config if config else folder, version)


def _newest_version(folder: Path, version: str | None) -> Path | None:
    try:
        names = [path.name for path in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    except OSError:
        return None
    ready = [name for name in names if (folder / name / "dataset_info.json").is_file()]
    chosen = sorted((name for name in ready if version in (None, name)), key=lambda name: [*map(int, name.split("."))])
    return folder / chosen[-1] if chosen else None


def _default_config(folder: Path) -> str:
    """Return the name of a data set's default configuration, or an empty string if it has none."""
    try:
        found = json.loads((folder / ".config" / "metadata.json").read_text(encoding="utf-8"))["default_config_name"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return found if isinstance(found, str) and re.fullmatch(r"\w[\w.+-]*", found) else ""
