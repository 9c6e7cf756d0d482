"""Atomic file writing, and the error for invalid input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Raised for invalid input. The message is a single line."""


def write(path: Path, content: str | Callable[[Path], Any]) -> Path:
    """Write a text, or call a function that writes a file. The final rename ensures that `path` is always complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".draft-{path.name}")
    draft.write_text(content) if isinstance(content, str) else content(draft)
    return draft.replace(path)
