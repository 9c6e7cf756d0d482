"""Pictures that several tests make."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageSequence


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Return uint8 of that shape, in [0, 255]."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def unit(images: np.ndarray) -> np.ndarray:
    """Return float64 in [-1, 1] of uint8."""
    return images.astype(np.float64) / 127.5 - 1


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
