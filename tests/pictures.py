"""Pictures that several tests make."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageSequence


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Return uint8 of that shape, in [0, 255]."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def unit(images: np.ndarray) -> np.ndarray:
    """Return float64 in [-1, 1] of uint8."""
    return images.astype(np.float64) / 127.5 - 1


class Shown(NamedTuple):
    """An image of a sheet, the lines of its caption, the colour of the first one, and whether it has a frame."""

    image: np.ndarray
    lines: list[str]
    colour: str
    framed: bool


def shown(figure: Figure) -> list[Shown]:
    """Return the images of a sheet in the order of their axes, with the text below each, found by its place."""
    found = []
    for axes in figure.axes:
        if not axes.images or axes.images[0].get_clim() != (0, 255):
            continue
        box = axes.get_position()
        below = [
            text
            for text in figure.texts
            if abs(text.get_position()[0] - (box.x0 + box.x1) / 2) < 1e-6
            and 0 <= (box.y0 - text.get_position()[1]) * figure.bbox.height < 80
            and text.get_verticalalignment() == "top"
        ]
        below.sort(key=lambda text: -text.get_position()[1])
        lines, colour = [text.get_text() for text in below], below[0].get_color() if below else ""
        found.append(Shown(np.asarray(axes.images[0].get_array()), lines, colour, axes.spines["left"].get_visible()))
    return found


def frames_of(path: Path) -> np.ndarray:
    """Return a film as OpenCV, or Pillow for a GIF, reads it."""
    if path.suffix.lower() == ".gif":
        with Image.open(path) as gif:
            return np.stack([np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)])
    film, frames = cv2.VideoCapture(str(path)), []
    while (read := film.read())[0]:
        frames.append(read[1][..., ::-1])
    film.release()
    return np.stack(frames)
