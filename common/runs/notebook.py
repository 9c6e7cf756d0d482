"""Display images, image files and reports in notebooks."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.images.writing import tiled

if TYPE_CHECKING:
    import IPython.display


def show(images: np.ndarray, columns: int = 8) -> Image.Image:
    """Return a uint8 image [h, w, 1 or 3], or a grid of images [n, h, w, 1 or 3]. Small images are enlarged."""
    images = images if images.ndim == 4 else images[None]
    grid = tiled(images, min(columns, len(images)), max(1, 96 // images.shape[2]))
    return Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid)


def show_file(path: Path) -> IPython.display.Image:
    """Return a PNG, JPEG or GIF file as an image that a notebook displays."""
    import IPython.display

    return IPython.display.Image(path.read_bytes())


def show_report(run: Path, height: int = 700) -> IPython.display.HTML:
    """Return the report of a run in an iframe of `height` pixels."""
    import IPython.display

    page = html.escape((run / "report.html").read_text(encoding="utf-8"))
    return IPython.display.HTML(
        f'<div><iframe srcdoc="{page}" width="100%" height="{height}" style="border: 0"></iframe></div>'
    )
