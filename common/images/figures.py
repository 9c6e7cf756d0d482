"""Create Matplotlib figures and write them to files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.images.pixels import resize_image
from common.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

TEXT, QUIET, RED, BLUE = "#1b2330", "#5d6778", "#c1121f", "#2563eb"  # colours of text and curves


@contextmanager
def _no_backend() -> Iterator[None]:
    """Ignore the environment variable MPLBACKEND, because figures need no window.

    Programs started from a notebook inherit this variable, and importing Matplotlib fails if the notebook's backend is
    not installed.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


@contextmanager
def default_style() -> Iterator[None]:
    """Use Matplotlib's default style in the block, not the user's matplotlibrc, so that figures are reproducible."""
    with _no_backend():
        from matplotlib import style
    with style.context("default", after_reset=True):
        yield


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Return an empty figure of `width` x `height` inches; `options` are passed to `matplotlib.figure.Figure`."""
    with _no_backend():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure((width, height), **{"layout": "constrained"} | options)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, dpi: int = 110) -> Path:
    """Write a figure as a PNG with `dpi` pixels per inch, and return `path`."""
    with replacing(path) as draft:
        figure.savefig(draft, dpi=dpi, format="png", pil_kwargs={"optimize": True})
    return path


# %% Figures with a layout in pixels

DPI = 150  # pixels per inch of a `Sheet`
FONT = 16  # size of text in pixels
LINE = 20  # distance between two lines of text in pixels


def points(pixels: float) -> float:
    """Convert pixels of a `Sheet` to points, Matplotlib's unit of font sizes and line widths."""
    return 72 * pixels / DPI


class Sheet:
    """A figure with images, text and axes at given pixels. The origin is the top left corner.

    It uses the font that is part of Matplotlib. Use it within `default_style`.
    """

    def __init__(self, width: float, height: float) -> None:
        """Create an empty white sheet of `width` x `height` pixels."""
        self.width, self.height = round(width), round(height)
        self.figure = new_figure(self.width / DPI, self.height / DPI, layout=None, dpi=DPI, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return new axes in the given rectangle."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def image(self, image: np.ndarray, left: float, top: float, side: int, frame: str = "") -> Axes:
        """Show uint8 [height, width, 1 or 3] in the middle of a square of `side` pixels; `frame` is a border's colour.

        The image is resized with bicubic interpolation. Enlarged pixels would be blocks that hide the outlines.
        """
        height, width = image.shape[:2]
        scale = side / max(height, width)
        height, width = max(1, round(scale * height)), max(1, round(scale * width))
        resized = resize_image(image, height, width)
        axes = self.axes(left + (side - width) // 2, top + (side - height) // 2, width, height)
        resized = resized[..., 0] if image.shape[-1] == 1 else resized
        axes.imshow(resized, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="none")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=bool(frame), color=frame or TEXT, linewidth=points(3))
        return axes

    def text(self, text: str, left: float, top: float, size: float = FONT, width: float = 0, **options: Any) -> Text:
        """Write text with its top at `top`, shortened to `width` pixels; `options` are those of `Figure.text`."""
        settings: dict[str, Any] = {"color": TEXT, "verticalalignment": "top", "parse_math": False}
        settings |= {"fontsize": points(size), "fontfamily": "DejaVu Sans"} | options
        written = self.figure.text(left / self.width, 1 - top / self.height, text, **settings)
        if width:
            shorten(written, width)
        return written

    def save(self, path: Path) -> Path:
        """Write the sheet as a PNG, and return `path`."""
        return save_figure(self.figure, path, DPI)


class Grid:
    """A grid of images on a `Sheet`, with a caption below each image."""

    def __init__(
        self,
        images: Sequence[np.ndarray],
        captions: Sequence[str],
        columns: int,
        emphasised: Sequence[bool] | np.ndarray = (),
        side: int = 128,
        pitch: int = 148,
    ) -> None:
        """Lay out a grid.

        Args:
            images: images, uint8 [height, width, 1 or 3].
            captions: one caption per image, of one or more lines. Lines that are too long are shortened.
            columns: images per row.
            emphasised: one value per image; True makes the first line and the frame red. If empty, none is red.
            side: height and width of an image in pixels.
            pitch: distance between the centres of two images, and the largest width of a caption, in pixels.
        """
        self.images, self.captions, self.columns, self.side, self.pitch = images, captions, columns, side, pitch
        self.emphasised = emphasised if len(emphasised) else np.zeros(len(captions), bool)
        lines = [caption.count("\n") + 1 if caption else 0 for caption in captions]
        starts = range(0, len(captions), columns)
        heights = [side + LINE * max(lines[start : start + columns]) + pitch - side - 4 for start in starts]
        self.tops = np.cumsum([0, *heights])
        self.width, self.height = columns * pitch, int(self.tops[-1])

    def draw(self, sheet: Sheet, left: float, top: float) -> None:
        """Draw the grid; `left` and `top` are the corner of its first image."""
        for place, (image, caption) in enumerate(zip(self.images, self.captions, strict=True)):
            row, column = divmod(place, self.columns)
            x, y = left + column * self.pitch, top + self.tops[row]
            red = bool(self.emphasised[place])
            sheet.image(image, x, y, self.side, RED if red else "")
            write_caption(sheet, caption, x + self.side / 2, y + self.side + 4, self.pitch - 4, red)


def write_caption(sheet: Sheet, caption: str, middle: float, top: float, width: float, red: bool = False) -> None:
    """Write the lines of a caption, centred at `middle`: the first line in black or red, all others in grey."""
    for number, line in enumerate(caption.split("\n")):
        colour = QUIET if number else RED if red else TEXT
        sheet.text(line, middle, top + LINE * number, width=width, color=colour, horizontalalignment="center")


def text_width(text: Text) -> float:
    """Return the width of a text in pixels."""
    return text.get_window_extent().width


def shorten(text: Text, width: float) -> None:
    """Shorten a text in place to at most `width` pixels. An ellipsis replaces its end, but not a percentage there."""
    whole, percentage = re.fullmatch(r"(.*?)( \d+ %)?", text.get_text(), re.DOTALL).groups("")  # type: ignore[union-attr]
    kept = len(whole)
    while kept > 1 and (wide := text_width(text)) > width:
        kept = max(1, min(kept - 1, int(kept * width / wide)))
        text.set_text(f"{whole[:kept].rstrip()}…{percentage}")
