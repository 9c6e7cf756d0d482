"""Bundled networks: trained by the project, shipped in `data/bundled/`, and used if a recipe has no run yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.system.console import say

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "bundled"


def bundled_run(recipe: str) -> Path | None:
    """Return the folder of the recipe's bundled networks, which can be read like a run folder. None if there is none.

    A bundled folder contains `config.json`, `results.json` and the networks that the recipe's commands need, but no
    checkpoints. `python -m tools.bundle` creates it.
    """
    folder = BUNDLED / recipe
    return folder if (folder / "config.json").is_file() else None


def is_bundle(folder: Path) -> bool:
    """Return whether a folder contains bundled networks, as opposed to a run of the user."""
    return (folder / "bundle.json").is_file()


def about_bundle(folder: Path) -> dict[str, Any]:
    """Return how the networks in a bundled folder were made.

    Returns:
        `training_data` (a short text), `command`, `machine`, `cpu_hours`, and `sha256`, a dict from file name to
        checksum.
    """
    return json.loads((folder / "bundle.json").read_text(encoding="utf-8"))


def run_or_bundle(folder: Path, recipe: str) -> Path:
    """Return `folder`, or the bundled networks if `folder` is the folder of the recipe's demo and contains no run.

    The second case is printed in one line, because the user may expect a network of their own.
    """
    found = bundled_run(recipe)
    if found is None or folder != Path("runs", f"{recipe}-demo") or (folder / "config.json").exists():
        return folder
    about = about_bundle(found)
    hours = about["cpu_hours"]
    time = f"{hours:.1f} CPU hours" if hours >= 1 else f"{round(60 * hours)} CPU minutes"
    say(f"using the bundled network ({about['training_data']}, {time}); --run DIR for your own")
    return found
