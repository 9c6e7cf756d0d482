"""Safe decoding of untrusted image files: size and content are checked before a file is decoded.

A file may be damaged, or crafted so that a few bytes take minutes to decode or exhaust memory. Decoders then raise
many kinds of exceptions, or never return. The functions here raise InputError for every such file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import math
import re
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.system.files import InputError, cut, printable

if TYPE_CHECKING:
    from PIL import Image

    from common.images.reading import ImageFile

FORMATS = "PNG, JPEG, BMP, GIF, WebP, TIFF, PPM or AVIF"
IMAGE_STARTS = {  # the first bytes of a file, by format
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "BMP": rb"BM",
    "GIF": rb"GIF8",
    "WebP": rb"RIFF",
    "TIFF": rb"II[*+]\0|MM\0[*+]",  # + is BigTIFF
    "PPM": rb"P[1-6][\s#]",
    "AVIF": rb"....ftypavi[fs]",
    "HEIC": rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)",
}
VIDEO_START = re.compile(  # MP4 and MOV, AVI, WEBM and Matroska
    rb"....(?:ftyp(?!avi[fs]|hei|hev|mif1|msf1)|moov|mdat|wide|free|skip)|RIFF....AVI |\x1aE\xdf\xa3", re.DOTALL
)
VIDEO_COMMANDS = "only `translate`, `stylize` of fast_style_transfer, `swap` and `dream` convert videos"
NOT_INSTALLED = {  # formats that this Python may be unable to read, and what reads them
    "AVIF": "Pillow 11.3 or later reads it (pip install --upgrade pillow)",
    "HEIC": "the package pillow-heif reads it (pip install pillow-heif)",
}
IMAGE_START = re.compile(rb"|".join(IMAGE_STARTS.values()), re.DOTALL)
ANNOUNCED_PIXELS = 25_000_000  # above this, a notice is printed, because reading may take seconds
METADATA_BYTES = 64_000_000  # limit for the size of metadata, in the file and in memory
COMMENT_BYTES = 100_000  # limit for the comments of a GIF, which Pillow concatenates in quadratic time
EXIF_BYTES = 1_000_000  # limit for EXIF data, which Pillow concatenates in the same way
HEADER_PARTS = 10_000  # limit for the number of chunks, segments or extensions before the pixels
JPEG_SCANS = 100  # limit for the number of scans, as in libtiff; progressive files have about ten


def pixel_limit() -> float:
    """Return the maximum number of pixels of an image: Pillow's Image.MAX_IMAGE_PIXELS, 89,478,485 by default."""
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS or math.inf


def set_pixel_limit(pixels: int | str) -> None:
    """Set the pixel limit for this process. Raises InputError if `pixels` is not a positive integer below 2^31."""
    from PIL import Image

    if not str(pixels).isdecimal() or len(str(pixels)) > 10 or not 0 < int(pixels) < 2**31:
        raise InputError(f"--max-pixels must be an integer from 1 to {2**31 - 1}, got {pixels}")
    Image.MAX_IMAGE_PIXELS = int(pixels)


@contextlib.contextmanager
def decoded_image(path: ImageFile) -> Iterator[Image.Image]:
    """Yield the first image of a file, in the mode that Pillow chooses, with the EXIF rotation applied.

    A notice is printed for a large image. All exceptions, including those in the `with` block, are converted to
    InputError.

    Raises:
        InputError: the file does not exist, or it cannot be read as an image within the limits.
    """
    from PIL import Image, ImageOps

    content = _content(path)
    if not content:
        raise InputError(f"{path}: an empty file (0 bytes); copy or download it again")
    if is_video_start(content):
        raise InputError(f"{path}: a video, but an image is expected; {VIDEO_COMMANDS}")
    kind = _image_kind(content)
    if kind is None:
        if name := next((name for name in NOT_INSTALLED if re.match(IMAGE_STARTS[name], content, re.DOTALL)), ""):
            raise InputError(f"{path}: a file in the format {name}; {NOT_INSTALLED[name]}, or convert it to JPEG")
        if content.startswith(b"version https://"):
            raise InputError(f"{path}: a pointer of Git LFS, not the image; get the images with `git lfs pull`")
        raise InputError(f"{path}: not a {FORMATS} file, despite its name; convert it to one of these formats")
    decoder, problem_of = kind
    size = ""
    most = pixel_limit()
    limit = f"at most {most:,} pixels are allowed; scale it down, or raise the limit with --max-pixels"
    try:
        if problem_of is not None and (problem := problem_of(content)):
            again = "open it in an image editor and save it again without metadata"
            raise InputError(f"{path}: {problem}; {limit if problem.startswith('too large') else again}")
        image = decoder(io.BytesIO(content))
        size = f"{image.width}x{image.height} px"
        if image.width * image.height > most:
            raise InputError(f"{path}: too large ({size}); {limit}")
        if image.width * image.height > ANNOUNCED_PIXELS:
            _announce(str(path), size)
        image.load()
        with contextlib.suppress(Exception):  # unreadable metadata is not an error
            exif = image.info.get("exif")
            if exif is None and "Raw profile type exif" in image.info:  # hexadecimal, in a PNG text chunk
                exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
            if exif is None or not tags_problem(exif.removeprefix(b"Exif\0\0")):
                ImageOps.exif_transpose(image, in_place=True)
        content = b""
        yield image
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: too large ({size or 'its first frame'}); {limit}") from error
    except MemoryError as error:
        raise InputError(f"{path}: {size or 'its metadata'} does not fit into memory; scale the image down") from error
    except Exception as error:  # decoders raise many kinds of exceptions for damaged files, even SyntaxError
        if unusual := unusual_layout(content):
            raise InputError(f"{path}: has {unusual}; save it as greyscale or RGB with 8 or 16 bits") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: damaged or cut short ({cut(reason, 200)}); copy or download it again") from error


def is_video_start(start: bytes) -> bool:
    """Return whether the first 16 bytes of a file are those of a video. A GIF is none: it is an image file."""
    return VIDEO_START.match(start) is not None


def start_of(path: Path) -> bytes:
    """Return the first 16 bytes of a file; none if it is not a file or cannot be read."""
    with contextlib.suppress(OSError):
        if path.is_file():  # opening a pipe would wait for its writer
            with path.open("rb") as file:
                return file.read(16)
    return b""


def _content(path: ImageFile) -> bytes:
    """Return a file's bytes; only the first 16 if it is not an image. Raises InputError if the file is too large."""
    most = 8 * pixel_limit() + METADATA_BYTES  # uncompressed 16-bit RGBA has 8 bytes per pixel
    try:
        if not isinstance(path, Path):
            return path.read_bytes()
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise InputError(f"{path}: Is a directory; give the path of an image")
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{path}: is a device or a pipe; give the path of a file")
        with path.open("rb") as file:
            start = file.read(16)
            if not IMAGE_START.match(start):
                return start
            if about.st_size > most:
                held = f"{about.st_size:,} bytes, at most {most:,.0f} are allowed"
                raise InputError(f"{path}: too large ({held}); scale the image down, or raise --max-pixels")
            return start + file.read()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of a readable image") from error
    except MemoryError as error:
        raise InputError(f"{path}: the file does not fit into memory; scale the image down") from error


Decoder = Callable[[io.BytesIO], "Image.Image"]


def _image_kind(content: bytes) -> tuple[Decoder, Callable[[bytes], str] | None] | None:
    """Detect the format from the first bytes; return its decoder and the check to run first. None: unknown format.

    Image.open is not used. It warns about large images before their size can be checked, and catching warnings is not
    thread-safe. It also tries about forty other formats.
    """
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    kinds: dict[str, tuple[Decoder, Callable[[bytes], str] | None]] = {
        "PNG": (lambda file: PngImagePlugin.PngImageFile(_without_texts(file)), _png_problem),
        "JPEG": (JpegImagePlugin.JpegImageFile, _jpeg_problem),
        "BMP": (BmpImagePlugin.BmpImageFile, None),
        "GIF": (GifImagePlugin.GifImageFile, _gif_problem),
        "WebP": (WebPImagePlugin.WebPImageFile, None),
        "TIFF": (TiffImagePlugin.TiffImageFile, tags_problem),
        "PPM": (PpmImagePlugin.PpmImageFile, None),
    }
    with contextlib.suppress(ImportError):  # older versions of Pillow cannot read AVIF
        from PIL import AvifImagePlugin

        kinds["AVIF"] = (AvifImagePlugin.AvifImageFile, None)
    with contextlib.suppress(ImportError):  # an optional package
        kinds["HEIC"] = (importlib.import_module("pillow_heif").HeifImageFile, None)
    name = next((name for name, start in IMAGE_STARTS.items() if re.match(start, content, re.DOTALL)), "")
    return kinds.get(name)


def _without_texts(file: io.BytesIO) -> io.BytesIO:
    """Remove texts and the colour profile of a PNG. Pillow refuses files in which they are larger than 1 MB.

    The EXIF data that some programs write as text is kept, because it contains the rotation.
    """
    content = file.getvalue()
    kept, offset = [content[:8]], 8
    while offset + 8 <= len(content) and content[offset + 4 : offset + 8] != b"IEND":
        kind = content[offset + 4 : offset + 8]
        end = offset + 12 + int.from_bytes(content[offset : offset + 4], "big")
        exif = content.startswith(b"Raw profile type exif", offset + 8) and end - offset < EXIF_BYTES
        if exif or kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(content[offset:end])
        offset = end
    whole = sum(map(len, kept)) == offset
    return file if whole else io.BytesIO(b"".join([*kept, content[offset:]]))


def unusual_layout(content: bytes) -> str:
    """Describe the pixels of a complete TIFF that Pillow cannot decode, such as floating-point colours; else ""."""
    from PIL import TiffImagePlugin

    if not re.match(IMAGE_STARTS["TIFF"], content):
        return ""
    tags: Any = {}
    with contextlib.suppress(Exception):  # damaged
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if b"+" in content[2:4] else 8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
    bands = tags.get(277, 1)
    kinds, bits = tags.get(339) or (1,), tags.get(258) or (1,)
    offsets, sizes = tags.get(273) or tags.get(324), tags.get(279) or tags.get(325)
    if not offsets or not sizes or max(map(sum, zip(offsets, sizes, strict=False))) > len(content):
        return ""  # cut short
    if kinds[0] == 3:
        return f"floating-point pixels ({bits[0]} bits, {bands} per pixel)"
    if bands > 4 or bits[0] not in (1, 2, 4, 8, 12, 16):
        return f"{bands} integers of {bits[0]} bits per pixel"
    if len(set(bits)) > 1 or kinds[0] == 2:
        return f"{'signed integers' if kinds[0] == 2 else f'channels of {bits} bits'}"
    if tags.get(259, 1) not in TiffImagePlugin.COMPRESSION_INFO:
        return f"the compression {tags[259]}, which Pillow does not know"
    return ""


@functools.lru_cache(4096)
def _announce(path: str, size: str) -> None:
    """Print a notice about a large image, once per image."""
    print(f"{printable(path)}: {size}; reading it may take a few seconds", file=sys.stderr)


def _png_problem(content: bytes) -> str:
    """Return why decoding a PNG would take minutes or exhaust memory; "" if it is safe.

    The image size is checked here, because Pillow allocates memory for an animated PNG as soon as the file is opened.
    """
    parts, offset = 0, 8
    while offset + 16 <= len(content) and content[offset + 4 : offset + 8] not in (b"IDAT", b"fdAT"):
        if content[offset + 4 : offset + 8] == b"IHDR":  # if there are several IHDR chunks, Pillow uses the last one
            width, height = struct.unpack_from(">II", content, offset + 8)
            if width * height > pixel_limit():
                return f"too large ({width}x{height} px)"
        offset += 12 + int.from_bytes(content[offset : offset + 4], "big")
        parts += 1
        if parts > HEADER_PARTS:
            return f"more than {HEADER_PARTS:,} chunks before the pixels"
    return ""


def _jpeg_problem(content: bytes) -> str:
    """Return why decoding a JPEG would take minutes or exhaust memory; "" if it is safe.

    A decoder processes the complete image for each scan, and a progressive file may have thousands of empty scans.
    """
    marker = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")  # markers followed by a length and data
    scans, parts, exif, exif_bytes, offset = 0, 0, [], 0, 2
    while found := marker.search(content, offset):
        kind, offset = found[1], found.end()
        if kind == b"\xd9":  # end of the image; phones may append a video
            break
        length = int.from_bytes(content[offset : offset + 2], "big")
        if kind == b"\xe1" and content.startswith(b"Exif\0\0", offset + 2):
            exif.append(content[offset + 8 : offset + length])
            exif_bytes += length
            if exif_bytes > EXIF_BYTES:
                return f"more than {EXIF_BYTES:,} bytes of EXIF data"
        offset += length
        parts += 1
        if parts > HEADER_PARTS:
            return f"more than {HEADER_PARTS:,} segments"
        scans += kind == b"\xda"
        if scans > JPEG_SCANS:
            return f"more than {JPEG_SCANS} scans"
        if scans == 1 and content.count(b"\xff\xda", offset) < JPEG_SCANS:
            break
    return tags_problem(b"".join(exif))


def _gif_problem(content: bytes) -> str:
    """Return why reading the header of a GIF would take minutes or exhaust memory; "" if it is safe."""
    sizes = [struct.unpack_from("<HH", content.ljust(13), 6)]
    flags = content[10] if len(content) > 10 else 0
    offset = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0)
    parts, comments = 0, 0
    block = re.compile(b"[!,;]")
    while (found := block.search(content, offset)) and found[0] == b"!":  # up to the first image or the end
        is_comment, offset = content[found.end() : found.end() + 1] == b"\xfe", found.end() + 1
        while length := int.from_bytes(content[offset : offset + 1]):
            offset += 1 + length
            comments += is_comment * (1 + length)
            if comments > COMMENT_BYTES:
                return f"more than {COMMENT_BYTES:,} bytes of comments"
        parts, offset, comments = parts + 1, offset + 1, comments + is_comment
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
    """Return why the tags of a TIFF file or of EXIF data would exhaust memory; "" if they are safe.

    Pillow copies the data of every tag in a directory and its sub-directories. Thousands of tags may refer to the same
    bytes, so a small file can exhaust memory.
    """
    order = "<" if tiff.startswith(b"II") else ">"
    big = tiff[2:4] in (b"+\0", b"\0+")  # BigTIFF: 64-bit offsets
    first, number_of, entry, width = (8, "Q", "HHQQ", 20) if big else (4, "H", "HHII", 12)
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
    total, seen = 0, 0
    with contextlib.suppress(struct.error):  # truncated; the decoder reports it
        starts = [struct.unpack_from(f"{order}{'Q' if big else 'I'}", tiff, first)[0]]
        while starts and seen < 4:
            start, seen = starts.pop(), seen + 1
            (count,) = struct.unpack_from(f"{order}{number_of}", tiff, start)
            start += struct.calcsize(f"{order}{number_of}")
            for offset in range(start, start + width * count, width):
                tag, kind, number, value = struct.unpack_from(f"{order}{entry}", tiff, offset)
                size = number * sizes.get(kind, 0)
                total += size if value + size <= len(tiff) else 0
                if tag in (34665, 34853, 40965):  # sub-directories: EXIF, GPS and interoperability
                    starts.append(value)
    return f"tags that expand from {len(tiff):,} to {total:,} bytes" if total > len(tiff) + METADATA_BYTES else ""
