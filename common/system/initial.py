"""Where a new run gets its first weights from, if not from `build`: a hook that the training loop calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol


class Start(Protocol):
    """Sets the first weights of a run. The implementation is `common.runs.warm_start.WarmStart`."""

    def begin(self, folder: Path, config: Any) -> None:
        """Take note of a run that is created. Only the first one is started from other weights."""

    def origin(self, folder: Path, classes: int) -> dict[str, str]:
        """Return what `config.json` of the run in `folder` says about its start, or {}."""

    def load(self, state: Mapping[str, object], output_dir: Path | str | None) -> None:
        """Set the weights of the networks in `state`, once, if they are those of the run in `output_dir`."""

    def load_frozen(self, name: str, network: Any) -> None:
        """Set the weights of a network that is used before training begins."""


_ACTIVE: ContextVar[Start | None] = ContextVar("start", default=None)


@contextmanager
def starting(start: Start) -> Iterator[None]:
    """Use `start` for the run in the block."""
    token = _ACTIVE.set(start)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def active_start() -> Start | None:
    """Return the `Start` of the innermost `starting` block, or None."""
    return _ACTIVE.get()
