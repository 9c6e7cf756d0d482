"""Read image files and label maps as uint8 [height, width, channels], RGB or greyscale."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from common.images.decoding import decoded_image
from common.images.found import IMAGE_SUFFIXES, entries_of, is_hidden, leave_out, note, noting, reported, take
from common.images.pixels import IGNORED
from common.system.console import tracked
from common.system.files import InputError, printable

if TYPE_CHECKING:
    from PIL import Image

STRIP_PIXELS = 1_000_000  # number of pixels to convert at a time
ALMOST_BLACK = 16  # an image whose values are all below this number is almost black


class ImageFile(Protocol):
    """An image file: a path, or any object with `read_bytes`. Error messages show its `str()`."""

    def read_bytes(self) -> bytes:
        """Return the bytes of the file. Raises OSError if they cannot be read."""


def image_file(name: ImageFile | str | bytes) -> ImageFile:
    """Convert a file name to a path. A tf.data graph passes names as bytes. Other objects are returned unchanged."""
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else name


def find_images(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name. Hidden files and files of tools are left out.

    Image files are identified by their suffix. Other files are counted; see `reported`.

    Raises:
        InputError: the folder is missing, is a file, or contains no images.
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {problem}; give a folder that contains images")
    images, _ = entries_of(folder)
    if not images:
        entries = sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
        names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries[:5]]
        more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
        found = f"only {', '.join(names)}{more}" if names else "the folder is empty"
        raise InputError(f"{folder}: no images, {found}; expected files ending in {' '.join(IMAGE_SUFFIXES)}")
    return images


def readable_images(folder: Path, read: Callable[[Path], np.ndarray], skip_bad: bool = False) -> list[Path]:
    """Return the images directly in a folder that `read` can read; see `find_images` and `checked_images`.

    A line is printed if something was left out, or if an image is unusual.
    """
    with reported(folder, always=False):
        return checked_images(find_images(folder), read, skip_bad, smallest=1)[0]


def read_image(path: ImageFile, channels: int = 3) -> np.ndarray:
    """Read an image file as uint8 [height, width, channels]. Thread-safe.

    The format (PNG, JPEG, BMP, GIF, WebP, TIFF, PPM or AVIF) is detected from the content, not from the file name. The
    EXIF rotation is applied. Only the first frame of an animation is read. Palettes, CMYK and YCbCr are converted to
    RGB. 16-bit greyscale is divided by 257 and rounded; 16-bit colour keeps its high byte.
    Transparent pixels are composited on a white background. RGB is converted to greyscale with ITU-R BT.601 luma,
    0.299 R + 0.587 G + 0.114 B. Greyscale is converted to RGB by repeating the channel. Bilevel images get the values 0
    and 255. Colour profiles are not applied.

    The alpha channel of a BMP is ignored if it is 0 throughout, because many programs leave it empty. A 16-bit TIFF
    whose lowest value is white is inverted, and one with 12 bits per pixel is scaled. Results that are probably not
    what the file shows, such as a fully transparent image, are noted; see `common.images.found.note`.

    Reading needs about 7 bytes of memory per pixel, up to 10 for TIFF and progressive JPEG, and 16 for WebP. Before a
    large image is read, a notice is printed to standard error.

    Args:
        path: the file, with at most Pillow's `Image.MAX_IMAGE_PIXELS` pixels (89,478,485 by default).
        channels: 1 for greyscale, 3 for RGB.

    Raises:
        InputError: the file is missing, empty, damaged, too large, a folder, or in an unsupported format, or its values
            cannot be mapped to 0..255 (floating point, CIELAB, integers above 65535).
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (greyscale) or 3 (RGB), got {channels}")
    with decoded_image(path) as image:
        known = "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"
        if image.mode not in known and not image.mode.startswith("I"):
            kind = {"F": "floating-point pixels", "LAB": "CIELAB colours"}.get(image.mode, f"mode {image.mode}")
            raise InputError(f"{path}: has {kind}; save it as greyscale or RGB with 8 or 16 bits per channel")
        if image.mode == "P" and image.palette is None:
            raise InputError(f"{path}: damaged (its palette is missing); copy or download it again")
        image = _with_usual_values(image)
        values = np.empty((image.height, image.width, channels), np.uint8)
        # Convert in strips: converting the complete image at once would copy it, and need 18 bytes per pixel.
        rows = max(1, STRIP_PIXELS // image.width)
        for top in range(0, image.height, rows):
            bottom = min(top + rows, image.height)
            strip = image if bottom - top == image.height else image.crop((0, top, image.width, bottom))
            try:
                values[top : top + rows] = _to_channels(strip, channels)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        return values


def rgb_frame(image: Image.Image) -> np.ndarray:
    """Return the current frame of an animation as uint8 [height, width, 3], converted as in `read_image`."""
    return _to_channels(_with_usual_values(image), 3)


def _with_usual_values(image: Image.Image) -> Image.Image:
    """Return an image whose alpha channel and 16-bit values have their usual meaning. Note what cannot be known."""
    from PIL import Image

    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        if image.format == "BMP":
            return image.convert("RGB")
        note("transparent throughout, and so all white")
    if not image.mode.startswith("I"):
        return image
    tags = getattr(image, "tag_v2", {})
    twelve, inverted = tags.get(258) == (12,), tags.get(262) == 0 and image.mode.startswith("I;16")
    if twelve or inverted:
        values = np.asarray(image).astype(np.uint32)
        values = values * 65535 // 4095 if twelve else values
        image = Image.fromarray((65535 - values if inverted else values).astype(np.uint16))
    most = int(np.asarray(image).max())
    if 0 < most < 4096:
        bits = most.bit_length()
        note(f"almost black: their 16-bit values have only {bits} bits (at most {2**bits - 1} of 65535; scale them)")
    return image


def _to_channels(image: Image.Image, channels: int) -> np.ndarray:
    """Convert a Pillow image to uint8 [height, width, channels]; see `read_image`."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError("has integers outside 0..65535; save it with 8 or 16 bits per channel")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        transparent = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(transparent, mask=transparent)
    return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)


def read_labels(path: ImageFile, classes: int) -> np.ndarray:
    """Read a map of integer labels as uint8 [height, width].

    Args:
        path: a PNG or other lossless file. Labels are the values of its only channel, or palette indices.
        classes: the number of classes, at most 256. Labels must be below this number, or 255 for pixels to ignore.

    Raises:
        InputError: as for `read_image`; also if the file is a JPEG or a colour image, or a label is too large.
    """
    with decoded_image(path) as image:
        if image.format == "JPEG":
            raise InputError(f"{path}: is a JPEG, whose compression changes the labels; save label maps as PNG")
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            right = f"a label map needs one channel, or a palette, with values 0 to {classes - 1}"
            raise InputError(f"{path}: is an image in mode {image.mode}; {right}")
        labels = np.asarray(image)
        wrong = labels[(labels < 0) | (labels >= classes) & (labels != IGNORED)]
        if wrong.size:
            right = f"{classes} classes have labels 0 to {classes - 1}, and {IGNORED} for pixels to ignore"
            raise InputError(f"{path}: contains label {int(wrong[0])}; {right}")
        if classes <= IGNORED and (labels == IGNORED).any():
            note(f"a label map with pixels to ignore ({IGNORED}), which become white")
        return labels.astype(np.uint8)


def checked_images(
    paths: list[Path], read: Callable[[Path], np.ndarray], skip_bad: bool = False, smallest: int = 8
) -> tuple[list[Path], list[str]]:
    """Read every image once, in threads, to find bad images before training.

    Args:
        paths: the files to check.
        read: path -> [height, width, ...]; raises InputError for a bad image. It must be thread-safe.
        skip_bad: list bad images on standard error instead of raising an error.
        smallest: minimum height and width in pixels.

    Returns:
        The paths of the good images, in order, and a message for each bad image.

    Raises:
        InputError: an image is bad and `skip_bad` is not set, or all images are bad.
    """
    found: dict[Path, tuple[tuple[int, ...], list[str]]] = {}

    def problem(path: Path) -> str:
        name = printable(path)
        with noting() as notes:
            try:
                image = read(path)
            except InputError as error:
                return str(error) if name in str(error) else f"{name}: {error}"
        height, width = image.shape[:2]
        if min(height, width) < smallest:
            return f"{name}: too small ({width}x{height} px); it needs at least {smallest}x{smallest} px"
        if not notes and image.ndim == 3 and image.min() == image.max() and image.flat[0] in (0, 255):
            notes.append(f"all {'white' if image.flat[0] else 'black'}")
        if not notes and image.ndim == 3 and image.max() < ALMOST_BLACK:
            notes.append(f"almost black: their values are at most {ALMOST_BLACK - 1} of 255")
        found[path] = image.shape, notes
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = tracked(threads.map(problem, paths), "checking images", "image", len(paths))
        problems = list(zip(paths, results, strict=True))
    good = [path for path, message in problems if not message]
    bad = [path for path, message in problems if message]
    messages = [message for _, message in problems if message]
    if not good or (bad and not skip_bad):
        if not paths:
            raise InputError("no images were given; at least one is needed")
        others = f"; also {' and '.join(map(str, bad[1:3]))}" if bad[1:] else ""
        remedy = ", or add --skip-bad to skip them" if good else ""
        raise InputError(
            f"{len(bad)} of {len(paths)} images cannot be used: {messages[0]}{others}; repair or remove them{remedy}"
        )
    for path in good:
        take(path, *found[path])
    for path in bad:
        leave_out(path, "that cannot be used")
    for message in messages[:5]:
        print(message, file=sys.stderr)
    if messages:
        print(f"skipped {len(messages)} of {len(paths)} images, because they cannot be used", file=sys.stderr)
    return good, messages
