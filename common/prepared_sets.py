"""Sets of TensorFlow Datasets that lie on this machine, found without asking anybody."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from common.errors import InputError

SET_NAME = re.compile(r"(\w+)(?:/(\w[\w.+-]*))?(?::(\d+\.\d+\.\d+))?", re.ASCII)


def sets_folder() -> Path:
    """Return the folder in which TensorFlow Datasets keeps what it has prepared."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets").expanduser()


def prepared_set(name: str) -> Path | None:
    """Return the folder of a prepared set: of the version that `name` says, or else of the newest one there.

    `tfds.builder` is not asked: for a set that is not there, it looks for one at Google, and names such as
    `huggingface:NAME` and `kubric:NAME` make it download programs, and run them.

    Raises:
        InputError: `name` is not NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION.
    """
    parts = SET_NAME.fullmatch(name)
    if not parts:
        raise InputError(
            f"{f'tfds:{name}'!r}: not the name of a set; expected NAME or NAME/CONFIG of TensorFlow Datasets' own "
            "sets, with :1.2.3 after it for one version"
        )
    folder, config, version = sets_folder() / parts[1], parts[2], parts[3]
    config = config or _default_config(folder)
    return _newest_version(folder / config if config else folder, version)


def _newest_version(folder: Path, version: str | None) -> Path | None:
    try:
        names = [path.name for path in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    except OSError:
        return None
    whole = [name for name in names if (folder / name / "dataset_info.json").is_file()]
    chosen = sorted((name for name in whole if version in (None, name)), key=lambda name: [*map(int, name.split("."))])
    return folder / chosen[-1] if chosen else None


def _default_config(folder: Path) -> str:
    """Return the configuration that a set's name alone means; an empty text where the set has none."""
    try:
        found = json.loads((folder / ".config" / "metadata.json").read_text(encoding="utf-8"))["default_config_name"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return found if isinstance(found, str) and re.fullmatch(r"\w[\w.+-]*", found) else ""
