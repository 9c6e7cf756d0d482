"""Pictures that are made by moving their pixels: what they start from, their colours, and how they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.files import read_npz, write_npz
from common.images import read_image, resize_image, to_uint8, write_image
from common.textures import drawn_texture
from common.training import History, write_history


class Painting(NamedTuple):
    """A picture that is painted, in place, like `content` in the manner of `styles`."""

    picture: np.ndarray  # uint8 [height, width, 3]
    content: np.ndarray  # the same
    styles: list[tuple[np.ndarray, float]]  # uint8 [height, width, 3], any size, each with its share


def paintings(content: np.ndarray, styles: Sequence[np.ndarray], shares: Sequence[float] = ()) -> Painting:
    """Return what `Painting` needs; the paintings are made as large as the content, without a change of form.

    Raises:
        InputError: there is no painting, or there are not as many shares, above 0.
    """
    shares = list(shares) or [1.0] * len(styles)
    if not styles:
        raise InputError("give a painting, --style painting.jpg; or several")
    if len(shares) != len(styles) or min(shares) <= 0:
        raise InputError(f"--shares takes a number above 0 for each of the {len(styles)} paintings, got {shares}")
    return Painting(content.copy(), content, list(zip(styles, shares, strict=True)))


def smaller(image: np.ndarray, factor: float) -> np.ndarray:
    """Return uint8 [height, width, 3] made smaller by a factor from 1."""
    height, width = image.shape[:2]
    return resize_image(image, max(1, round(height / factor)), max(1, round(width / factor)))


def with_longer_side(image: np.ndarray, side: int) -> np.ndarray:
    """Return uint8 [height, width, 3] in another size, whose longer side is `side`."""
    return smaller(image, max(image.shape[:2]) / side)


def enlarged(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return float32 [h, w, 3] in [-1, 1] in another size, by cubic interpolation."""
    import cv2

    return np.clip(cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)


def match_colours(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Return the content with the mean and the covariance of the painting's colours, uint8 [height, width, 3].

    The linear map of Gatys et al. 2016, arXiv:1606.05897, section 2.1, by way of symmetric square roots.
    """
    (mean, covariance), (wanted_mean, wanted) = (
        (part.mean(0), np.cov(part.T) + 1e-3 * np.eye(3))
        for part in (image.reshape(-1, 3).astype(np.float64) for image in (content, style))
    )
    matrix = _power(wanted, 0.5) @ _power(covariance, -0.5)
    return np.clip(np.rint((content - mean) @ matrix.T + wanted_mean), 0, 255).astype(np.uint8)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Return a symmetric matrix without negative eigenvalues to some power."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T


def keep_colours(painted: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Return the brightness of what was painted with the content's colours, uint8 [height, width, 3] (section 2.2)."""
    from PIL import Image

    brightness = Image.fromarray(painted).convert("YCbCr").split()[0]
    colours = Image.fromarray(content).convert("YCbCr").split()[1:]
    return np.array(Image.merge("YCbCr", (brightness, *colours)).convert("RGB"))


def save_painting(output_dir: Path | None, history: History, picture: np.ndarray) -> None:
    """Keep a picture, float32 [height, width, 3], and how it came about, so that `resume_painting` can go on."""
    if output_dir is None:
        return
    write_image(to_uint8(picture), output_dir / "samples" / f"epoch-{len(history):04d}.png")
    columns = {name: np.array([row[name] for row in history]) for name in history[0]}
    write_npz(output_dir / "painting.npz", {"picture": picture} | columns)
    write_history(output_dir, history)


def resume_painting(output_dir: Path | None) -> tuple[History, np.ndarray | None]:
    """Return what `save_painting` kept last, bit for bit; nothing where there is none."""
    path = (output_dir or Path()) / "painting.npz"
    if output_dir is None or not path.exists():
        return [], None
    arrays = read_npz(path)
    picture = arrays.pop("picture")
    rows = zip(*(values.tolist() for values in arrays.values()), strict=True)
    return [dict(zip(arrays, row, strict=True)) for row in rows], picture


def read_painting(data: str, styles: Sequence[Path], shares: Sequence[float], side: int) -> Painting:
    """Return a photo and paintings, with the longer side of each `side` pixels; for `sample` what the project has.

    Raises:
        InputError: one of them cannot be read, or there is no painting.
    """
    if data == "sample":
        from skimage.data import cat

        content, found = cat(), [drawn_texture("swirls", 3, 512)]
    else:
        content, found = read_image(Path(data)), []
    found = [read_image(path) for path in styles] or found
    return paintings(with_longer_side(content, side), [with_longer_side(image, side) for image in found], shares)
