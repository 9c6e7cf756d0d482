"""Matplotlib figures that are drawn into files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Return an empty figure of `width` x `height` inches; `options` as those of `matplotlib.figure.Figure`.

    It never needs a window, so it works whatever MPLBACKEND names. A program that a notebook starts inherits the
    notebook's backend there, and Matplotlib refuses to be imported if that package is not installed.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    figure = Figure((width, height), layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG of 110 pixels per inch, and return `path`."""
    with replacing(path) as draft:
        figure.savefig(draft, dpi=110, format="png")
    return path
