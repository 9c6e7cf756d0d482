"""Opening the files of images, whoever made them: what they may hold and how large they may be is checked first.

A file may be damaged, or made so that few bytes take minutes or fill the memory. Decoders then raise all kinds of
exceptions, or never return; here each such file becomes an InputError.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError, printable

if TYPE_CHECKING:
    from PIL import Image

    from common.images import ImageFile

IMAGE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
ANNOUNCED_PIXELS = 25_000_000  # from which on reading may take seconds
METADATA_BYTES = 64_000_000  # beside its pixels, what a file may hold, and what Pillow may make of it in memory
COMMENT_BYTES = 100_000  # of a GIF, which Pillow joins one by one, copying all that came before; so with EXIF
EXIF_BYTES = 1_000_000
HEADER_PARTS = 10_000  # chunks, segments or extensions before the pixels, which Pillow takes one by one, in Python
JPEG_SCANS = 100  # also libtiff's limit; progressive files have about ten


def pixel_limit() -> float:
    """Return the most pixels that an image may have to be read: Pillow's Image.MAX_IMAGE_PIXELS, 89,478,485."""
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS or math.inf


def set_pixel_limit(pixels: int | str) -> None:
    """Set the limit, of this process and of all that uses Pillow in it. Raises InputError for no number above 0."""
    from PIL import Image

    if not str(pixels).isdecimal() or len(str(pixels)) > 10 or not 0 < int(pixels) < 2**31:
        raise InputError(f"--max-pixels must be a whole number from 1 to {2**31 - 1}, got {pixels}")
    Image.MAX_IMAGE_PIXELS = int(pixels)


@contextlib.contextmanager
def decoded_image(path: ImageFile) -> Iterator[Image.Image]:
    """Yield the first picture of a file in Pillow's own mode, turned upright; one of many pixels is announced.

    Whatever else goes wrong, here or in the block, becomes InputError.

    Raises:
        InputError: there is no such file, or it cannot be read as an image within the limits.
    """
    from PIL import Image, ImageOps

    content = _content(path)
    if not content:
        raise InputError(f"{path}: an empty file (0 bytes); copy or download it again")
    kind = _image_kind(content)
    if kind is None:
        formats = "a PNG, JPEG, BMP, GIF, WebP or TIFF file"
        raise InputError(f"{path}: not {formats}, whatever its name says; convert it to one of these")
    decoder, problem_of = kind
    size = ""
    most = pixel_limit()
    limit = f"at most {most:,} pixels are read: scale it down, or raise the limit with --max-pixels"
    try:
        if problem_of is not None and (problem := problem_of(content)):
            again = "open it in another program and save it again, without metadata"
            raise InputError(f"{path}: {problem}; {limit if problem.startswith('too large') else again}")
        image = decoder(io.BytesIO(content))
        size = f"{image.width}x{image.height} px"
        if image.width * image.height > most:
            raise InputError(f"{path}: too large ({size}); {limit}")
        if image.width * image.height > ANNOUNCED_PIXELS:
            _announce(str(path), size)
        image.load()
        with contextlib.suppress(Exception):  # metadata that cannot be read says nothing against the picture
            exif = image.info.get("exif")
            if exif is None and "Raw profile type exif" in image.info:  # in hexadecimal, in a text of a PNG
                exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
            if exif is None or not tags_problem(exif.removeprefix(b"Exif\0\0")):
                ImageOps.exif_transpose(image, in_place=True)
        del content
        yield image
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: too large ({size or 'its first frame'}); {limit}") from error
    except MemoryError as error:
        raise InputError(
            f"{path}: {size or 'its metadata'} do not fit into the memory that is free; scale the image down"
        ) from error
    except Exception as error:  # damaged files make decoders raise a dozen kinds, even SyntaxError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: damaged or cut short ({reason[:200]}); copy or download it again") from error


def _content(path: ImageFile) -> bytes:
    """Return the bytes of a file, or raise InputError; of one that never ends, or is no image, not all are read."""
    most = 8 * pixel_limit() + METADATA_BYTES  # 8 bytes a pixel are RGBA of 16 bits that is not compressed
    try:
        if not isinstance(path, Path):
            return path.read_bytes()
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise InputError(f"{path}: Is a directory; give the path of an image")
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{path}: a device or a pipe; give the path of a file")
        with path.open("rb") as file:
            start = file.read(16)
            if not start.startswith(IMAGE_STARTS):
                return start
            if about.st_size > most:
                held = f"{about.st_size:,} bytes, and at most {most:,.0f} are read"
                raise InputError(f"{path}: too large ({held}); scale the image down, or raise --max-pixels")
            return start + file.read()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of an image that can be read") from error
    except MemoryError as error:
        raise InputError(f"{path}: its bytes do not fit into the memory that is free; scale the image down") from error


def _image_kind(
    content: bytes,
) -> tuple[Callable[[io.BytesIO], Image.Image], Callable[[bytes], str] | None] | None:
    """Return what reads a file that begins like `content`, if anything does, and what finds its dangers before.

    Not Image.open: that warns of a large image before its size can be looked at (and to catch a warning is not safe
    in threads), and it tries some forty other formats.
    """
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    kinds: tuple[tuple[Callable[[io.BytesIO], Image.Image], Callable[[bytes], str] | None], ...] = (
        (PngImagePlugin.PngImageFile, _png_problem),
        (JpegImagePlugin.JpegImageFile, _jpeg_problem),
        (BmpImagePlugin.BmpImageFile, None),
        (GifImagePlugin.GifImageFile, _gif_problem),
        (WebPImagePlugin.WebPImageFile, None),
        (TiffImagePlugin.TiffImageFile, tags_problem),
        (TiffImagePlugin.TiffImageFile, tags_problem),
    )
    return next((kind for start, kind in zip(IMAGE_STARTS, kinds, strict=True) if content.startswith(start)), None)


@functools.lru_cache(4096)
def _announce(path: str, size: str) -> None:
    """Say once of an image that it is large."""
    print(f"{printable(path)}: {size}; reading it takes some seconds", file=sys.stderr)


def _png_problem(content: bytes) -> str:
    """Return why a PNG would take minutes or fill the memory, or nothing.

    Its size is looked at here, since an animated one takes much of its memory when it is only opened.
    """
    parts, place = 0, 8
    while place + 16 <= len(content) and content[place + 4 : place + 8] not in (b"IDAT", b"fdAT"):
        if content[place + 4 : place + 8] == b"IHDR":  # the last one counts, and there may be several
            width, height = struct.unpack_from(">II", content, place + 8)
            if width * height > pixel_limit():
                return f"too large ({width}x{height} px)"
        place += 12 + int.from_bytes(content[place : place + 4], "big")
        parts += 1
        if parts > HEADER_PARTS:
            return f"more than {HEADER_PARTS:,} chunks before the pixels"
    return ""


def _jpeg_problem(content: bytes) -> str:
    """Return why a JPEG would take minutes or fill the memory, or nothing.

    A decoder goes over the whole picture for each scan, and a progressive file may have thousands of empty ones.
    """
    marker = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")  # these have a length, then any bytes
    scans, parts, exif, exif_bytes, place = 0, 0, [], 0, 2
    while found := marker.search(content, place):
        kind, place = found[1], found.end()
        if kind == b"\xd9":  # the end; a phone may have put a film behind it
            break
        length = int.from_bytes(content[place : place + 2], "big")
        if kind == b"\xe1" and content.startswith(b"Exif\0\0", place + 2):
            exif.append(content[place + 8 : place + length])
            exif_bytes += length
            if exif_bytes > EXIF_BYTES:
                return f"EXIF of more than {EXIF_BYTES:,} bytes"
        place += length
        parts += 1
        if parts > HEADER_PARTS:
            return f"more than {HEADER_PARTS:,} segments"
        scans += kind == b"\xda"
        if scans > JPEG_SCANS:
            return f"a JPEG of more than {JPEG_SCANS} scans"
        if scans == 1 and content.count(b"\xff\xda", place) < JPEG_SCANS:
            break
    return tags_problem(b"".join(exif))


def _gif_problem(content: bytes) -> str:
    """Return why the header of a GIF would take minutes or fill the memory, or nothing."""
    sizes = [struct.unpack_from("<HH", content.ljust(13), 6)]
    flags = content[10] if len(content) > 10 else 0
    place = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0)
    parts, comments = 0, 0
    block = re.compile(b"[!,;]")
    while (found := block.search(content, place)) and found[0] == b"!":  # until the first picture, or the end
        is_comment, place = content[found.end() : found.end() + 1] == b"\xfe", found.end() + 1
        while length := int.from_bytes(content[place : place + 1]):
            place += 1 + length
            comments += is_comment * (1 + length)
            if comments > COMMENT_BYTES:
                return f"comments of more than {COMMENT_BYTES:,} bytes"
        parts, place, comments = parts + 1, place + 1, comments + is_comment
        if parts > HEADER_PARTS:
            return f"more than {HEADER_PARTS:,} extensions before the pixels"
    if found and len(content) >= found.end() + 8:
        left, top, width, height = struct.unpack_from("<4H", content, found.end())
        sizes.append((left + width, top + height))
    for width, height in sizes:
        if width * height > pixel_limit():
            return f"too large ({width}x{height} px)"
    return ""


def tags_problem(tiff: bytes) -> str:
    """Return why the tags of a TIFF, or of EXIF, would fill the memory, or nothing.

    Pillow reads each tag of a directory, and of those below it, and thousands of tags may name the same bytes.
    """
    order = "<" if tiff.startswith(b"II") else ">"
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
    total, seen = 0, 0
    with contextlib.suppress(struct.error):  # it is cut short, which the decoder says
        starts = [struct.unpack_from(f"{order}I", tiff, 4)[0]]
        while starts and seen < 4:
            start, seen = starts.pop(), seen + 1
            (count,) = struct.unpack_from(f"{order}H", tiff, start)
            for place in range(start + 2, start + 2 + 12 * count, 12):
                tag, kind, number, value = struct.unpack_from(f"{order}HHII", tiff, place)
                size = number * sizes.get(kind, 0)
                total += size if value + size <= len(tiff) else 0
                if tag in (34665, 34853, 40965):  # directories of EXIF, GPS and interoperability
                    starts.append(value)
    return f"tags of {total:,} bytes in {len(tiff):,}" if total > len(tiff) + METADATA_BYTES else ""
