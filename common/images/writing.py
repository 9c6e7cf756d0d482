"""Write images as single files, grids, captioned grids, rows, or GIFs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.images.decoding import VIDEO_COMMANDS
from common.images.pixels import pillow_image, resize_image
from common.system.files import InputError, replacing

if TYPE_CHECKING:
    from PIL import Image

WRITTEN_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LARGEST_SIDES = {".webp": 16_383, ".gif": 65_535, ".jpg": 65_500, ".jpeg": 65_500, ".mp4": 8191}


def image_suffix(path: Path) -> str:
    """Return the suffix of a path in lower case. Raises InputError if it is not an image suffix."""
    suffix = path.suffix.lower()
    if suffix in (".mp4", ".mov", ".avi", ".webm"):
        raise InputError(f"{path}: the name of a video, but this command writes an image; {VIDEO_COMMANDS}")
    if suffix not in WRITTEN_SUFFIXES:
        raise InputError(f"{path}: not an image name; it must end in one of {' '.join(WRITTEN_SUFFIXES)}")
    return suffix


def written_name(path: Path) -> str:
    """Return the name of the output file for an input image: the same or, if its format is only read, a PNG."""
    return path.name if path.suffix.lower() in WRITTEN_SUFFIXES else f"{path.stem}.png"


def check_image_size(path: Path, height: int, width: int) -> None:
    """Raise InputError if the file format, given by the suffix, cannot store an image of this size."""
    most = LARGEST_SIDES.get(path.suffix.lower(), max(height, width))
    if max(height, width) > most:
        limit = f"this format stores at most {most:,} px per side"
        raise InputError(f"{path}: {limit}, but the image has {width}x{height} px; give a name that ends in .png")


def write_image(image: np.ndarray, path: Path) -> Path:
    """Write uint8 [height, width, 1 or 3] in the format given by the suffix (JPEG and WebP at quality 95).

    Raises:
        InputError: the suffix is not one of WRITTEN_SUFFIXES, or the image is too large for the format.
    """
    suffix = image_suffix(path)
    check_image_size(path, *image.shape[:2])
    options: dict[str, Any] = {"quality": 95} if suffix in (".jpg", ".jpeg", ".webp") else {}
    with replacing(path) as draft:
        pillow_image(image).save(draft, **options)
    return path


def tiled(images: np.ndarray, columns: int, zoom: int) -> np.ndarray:
    """Tile [n, h, w, c] row by row into one image, with white gaps of 2 pixels; see `save_grid`."""
    rows = -(-len(images) // columns)
    if zoom > 1:
        images = np.stack([resize_image(image, zoom * len(image), zoom * image.shape[1]) for image in images])
    spare = rows * columns - len(images)
    tiles = np.pad(images, ((0, spare), (2, 0), (2, 0), (0, 0)), constant_values=255)
    _, height, width, channels = tiles.shape
    tiles = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    grid = tiles.reshape(rows * height, columns * width, channels)
    return np.pad(grid, ((0, 2), (0, 2), (0, 0)), constant_values=255)


def save_grid(images: np.ndarray, path: Path, columns: int = 8, zoom: int = 1) -> Path:
    """Write uint8 [n, h, w, c] as a grid with `columns` columns, row by row, on a white background.

    Images are enlarged by the factor `zoom`, with bicubic interpolation. Raises InputError like `write_image`.
    """
    columns, (height, width) = min(columns, len(images)), images.shape[1:3]
    rows = -(-len(images) // columns)
    check_image_size(path, 2 + rows * (height * zoom + 2), 2 + columns * (width * zoom + 2))
    return write_image(tiled(images, columns, zoom), path)


def save_samples(images: np.ndarray, destination: Path, singles: bool = False) -> Path:
    """Write uint8 [n, h, w, 1 or 3] as one grid or, with `singles`, as one PNG per image in the folder `destination`.

    Raises InputError like `write_image`.
    """
    if not singles:
        return save_grid(images, destination)
    for number, image in enumerate(images):
        write_image(image, destination / f"{number:06d}.png")
    return destination


def save_row(images: Sequence[np.ndarray] | dict[str, np.ndarray], path: Path, height: int = 320) -> Path:
    """Write images, uint8 [h, w, 3] of any size, in one row. All are resized to a height of `height` pixels.

    If `images` is a dictionary, each image has its key as a caption above it. Raises InputError like `write_image`.
    """
    parts = list(images.values() if isinstance(images, dict) else images)
    row = [resize_image(image, height, max(1, round(image.shape[1] * height / image.shape[0]))) for image in parts]
    if isinstance(images, dict):
        row = [with_caption(image, caption) for image, caption in zip(row, images, strict=True)]
    gaps = [np.pad(image, ((0, 0), (0, 4), (0, 0)), constant_values=255) for image in row]
    return write_image(np.concatenate(gaps, 1)[:, :-4], path)


def with_caption(image: np.ndarray, caption: str) -> np.ndarray:
    """Return uint8 [height + 26, width, 3]: `image`, below a white strip with the caption in its middle."""
    from PIL import Image, ImageDraw, ImageFont

    height, width, _ = image.shape
    sheet = Image.new("RGB", (width, height + 26), "white")
    sheet.paste(Image.fromarray(image), (0, 26))
    ImageDraw.Draw(sheet).text((width / 2, 13), caption, "black", ImageFont.load_default(size=16), anchor="mm")
    return np.array(sheet)


def save_table(rows: dict[str, np.ndarray], path: Path, zoom: int = 1) -> Path:
    """Write a grid with one row of images per entry of `rows`, and a caption to the left of each row.

    `rows` maps captions to images, uint8 [n, h, w, 1 or 3]; n and w must be the same in every row. Images
    are enlarged by the factor `zoom`, with bicubic interpolation. Raises InputError like `write_image`.
    """
    from PIL import Image, ImageDraw, ImageFont

    if len({(images.shape[0], images.shape[2]) for images in rows.values()}) != 1:
        shapes = {caption: list(images.shape) for caption, images in rows.items()}
        raise ValueError(f"all rows need the same number of images and the same image width, got {shapes}")
    font = ImageFont.load_default(size=14)
    strips = [tiled(images, len(images), zoom).repeat(3 // images.shape[-1], axis=-1) for images in rows.values()]
    margin = 14 + int(max(font.getlength(caption) for caption in rows))
    grid = Image.new("RGB", (margin + strips[0].shape[1], sum(len(strip) for strip in strips)), "white")
    draw = ImageDraw.Draw(grid)
    top = 0
    for caption, strip in zip(rows, strips, strict=True):
        draw.text((margin - 7, top + len(strip) / 2), caption, "black", font, anchor="rm")
        grid.paste(Image.fromarray(strip), (margin, top))
        top += len(strip)
    return write_image(np.asarray(grid), path)


def save_gif(frames: np.ndarray, path: Path, milliseconds: int = 100) -> Path:
    """Write uint8 [n, h, w, 1 or 3] as an animated GIF that loops forever.

    Each frame has its own palette. Greyscale frames and frames with at most 256 colours are stored exactly. Frames
    with more colours are reduced to 256 colours. Dithering is off, because it leaves visible dots in small images. Each
    frame is shown for `milliseconds`, a multiple of 10; many players do not support values below 20. Identical
    consecutive frames are merged.

    Raises:
        InputError: `path` does not end in .gif, or the frames are too large for a GIF.
    """
    if path.suffix.lower() != ".gif":
        raise InputError(f"{path}: not a GIF file name; it must end in .gif")
    check_image_size(path, *frames.shape[1:3])
    first, *rest = map(gif_image, frames)
    with replacing(path) as draft:
        first.save(draft, save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return path


def gif_image(frame: np.ndarray) -> Image.Image:
    """Return a frame of a GIF, uint8 [h, w, 1 or 3], as a Pillow image: greyscale, or with a palette of its colours."""
    from PIL import Image

    if frame.shape[-1] == 1:
        return pillow_image(frame)
    # k-means improves the PSNR by 3 dB, but takes seconds for a large frame
    rounds = 2 if frame[..., 0].size <= 128 * 128 else 0
    return pillow_image(frame).quantize(256, Image.Quantize.MEDIANCUT, rounds)


def png_targets(paths: list[Path], destination: Path) -> list[Path]:
    """Return the output path of each image: a PNG with the same name in the folder `destination`.

    Raises:
        InputError: two images would be written to the same file.
    """
    names: dict[str, Path] = {}
    for path in paths:
        if names.setdefault(path.stem, path) is not path:
            raise InputError(f"{names[path.stem]} and {path} would both become {path.stem}.png; rename one")
    return [destination / f"{path.stem}.png" for path in paths]


def save_image(
    images: np.ndarray | Sequence[np.ndarray] | dict[str, np.ndarray] | Iterator[np.ndarray],
    path: Path | str,
    *,
    columns: int = 8,
    zoom: int = 1,
    height: int = 320,
    milliseconds: int = 100,
) -> Path:
    """Write images to one file. The type of `images` and the suffix of `path` determine the output:

    - An array [height, width, channels]: one image.
    - An array [n, height, width, channels]: a grid; with the suffix .gif or .mp4, a video of n frames.
    - An array [frames, n, height, width, channels]: a video of grids.
    - A list of arrays of any size: one row, `height` pixels high.
    - A dictionary of arrays [h, w, 3] of any size: the same, with its key as a caption above each image.
    - A dictionary of arrays [n, height, width, channels]: a grid with one row per entry, captioned with its key.
    - An iterator of arrays [height, width, channels]: a video. `path` is checked before the first frame is computed.

    Args:
        images: uint8 with 1 or 3 channels.
        path: the file to write. Its suffix sets the format.
        columns: number of columns of a grid.
        zoom: in a grid, images are enlarged by this factor, with bicubic interpolation.
        height: height of the images of a row, in pixels, without captions.
        milliseconds: duration of a video frame; rounded down to a multiple of 10 for a GIF.

    Returns:
        `path`.

    Raises:
        InputError: the suffix is not an image suffix, or the image is too large for the format.
    """
    path = Path(path)
    if isinstance(images, Iterator):
        from common.images.films import check_image_path

        check_image_path(path, film=True)
        images = np.stack([*images])
    if isinstance(images, dict) and any(image.ndim == 4 for image in images.values()):
        return save_table(images, path, zoom)
    if not isinstance(images, np.ndarray):
        return save_row(images, path, height)
    if images.ndim == 3:
        return write_image(images, path)
    if images.ndim == 5:
        images = np.stack([tiled(frame, columns, zoom) for frame in images])
    if path.suffix.lower() == ".gif":
        return save_gif(images, path, milliseconds // 10 * 10)
    if path.suffix.lower() == ".mp4":
        from common.images.films import save_film

        return save_film(images, path, round(1000 / milliseconds))
    return save_grid(images, path, columns, zoom)
