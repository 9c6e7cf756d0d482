"""Fuzz the image readers: a damaged file must be read as an image or raise an error with a one-line message.

The seed files are small images that Pillow writes in many formats, and PNG files of every colour type and bit depth,
with and without interlacing. One to three random mutations change each file:

- Bits are flipped. Bytes are overwritten, removed, repeated or inserted. The file is truncated.
- A length, size or offset is changed.
- PNG chunks are swapped, removed, duplicated, renamed or changed. Their checksums are corrected, because decoders
  reject chunks with wrong checksums. JPEG segments are swapped, removed, duplicated or renamed.
- The end of the file is replaced by the end of another image.

Each file is read as a greyscale image, as a colour image and as a label map. A file fails if a read raises an exception
other than InputError, if the error message is not a single line, if the array has a wrong shape or dtype, or if a read
needs more than ten CPU seconds, or 2 GB of memory beyond what the process had used before. Messages that libtiff
prints to standard error are ignored.

Run      python -m benchmarks.fuzz_images            10,000 images, about a minute
         python -m benchmarks.fuzz_images --count 100000 --seed 1 --keep failed
"""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import itertools
import resource
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, features

from benchmarks import run_benchmark
from common.images.reading import read_image, read_labels
from common.system.files import InputError

PNG_START = b"\x89PNG\r\n\x1a\n"
SLOW_SECONDS = 10.0
LARGE_MEGABYTES = 2_000  # images within Pillow's size limit need less


# %% Seed files


def png_chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_kind(colour: int, depth: int, interlaced: bool, rng: np.random.Generator) -> bytes:
    """Return a PNG file of 13 x 9 px noise with this colour type and bit depth, optionally interlaced (Adam7)."""
    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = []
    for left, top, right, down in passes if interlaced else [(0, 0, 1, 1)]:
        width, height = -(-(13 - left) // right), -(-(9 - top) // down)
        row_bytes = -(-width * bits // 8)
        rows += [bytes([int(rng.integers(5))]) + rng.bytes(row_bytes) for _ in range(height if width else 0)]
    chunks = [png_chunk(b"IHDR", struct.pack(">IIBBBBB", 13, 9, depth, colour, 0, 0, interlaced))]
    if colour == 3:
        chunks += [png_chunk(b"PLTE", rng.bytes(3 * 2**depth)), png_chunk(b"tRNS", rng.bytes(2**depth // 2))]
    elif colour in (0, 2) and depth == 8:
        chunks.append(png_chunk(b"tRNS", rng.bytes(2 if colour == 0 else 6)))
    chunks.append(png_chunk(b"tEXt", b"Comment\0text"))
    chunks.append(png_chunk(b"IDAT", zlib.compress(b"".join(rows))))
    return PNG_START + b"".join(chunks) + png_chunk(b"IEND", b"")


def seed_images(rng: np.random.Generator) -> list[bytes]:
    """Return small image files in all supported formats."""
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    found = [png_of_kind(c, depth, laced, rng) for c in depths for depth in depths[c] for laced in (False, True)]
    ramp = np.add.outer(np.arange(20) * 9, np.arange(24) * 3).astype(np.uint8)
    colours = np.stack([ramp, ramp[::-1], 255 - ramp, ramp | 15], -1)
    rgb, grey, rgba = Image.fromarray(colours[..., :3]), Image.fromarray(ramp), Image.fromarray(colours)
    exif = Image.Exif()
    exif[274], exif[271] = 6, "camera"
    frames: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    writings: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((image, "PNG", {}) for image in (rgb, rgba, grey.convert("LA"), rgb.quantize(16), grey.convert("1"))),
        (rgb, "PNG", {"exif": exif, "icc_profile": b"profile" * 20}),
        (rgba, "PNG", {"save_all": True, "append_images": [rgba.rotate(90)], "disposal": 1, "blend": 1}),
        *((rgb, "JPEG", {"quality": 60, "subsampling": kind, "exif": exif}) for kind in (0, 1, 2)),
        (rgb, "JPEG", {"progressive": True, "comment": "a comment"}),
        (grey, "JPEG", {"restart_marker_rows": 1}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("CMYK"), "JPEG", {"progressive": True}),
        *((image, "GIF", {}) for image in (rgb, grey, rgb.quantize(5))),
        (rgb.quantize(7), "GIF", {"interlace": 1, "transparency": 3, "comment": "a comment"}),
        (rgb, "GIF", frames | {"duration": 50, "loop": 0}),
        *((image, "BMP", {}) for image in (rgb, rgba, grey, rgb.quantize(16), grey.convert("1"))),
        *((image, "TIFF", {}) for image in (rgb, rgba, grey.convert("1"), rgb.convert("CMYK"), rgb.quantize(16))),
        (Image.fromarray(ramp.astype(np.uint16) * 257), "TIFF", {}),
        (Image.fromarray(ramp.astype(np.int32)), "TIFF", {}),
        (Image.fromarray(ramp.astype(np.float32)), "TIFF", {}),
        (rgb.convert("LAB"), "TIFF", {}),
        (rgb, "TIFF", frames),
        (rgb, "TIFF", {"exif": exif}),
        *((rgb, "TIFF", {"compression": kind}) for kind in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
    ]
    if features.check("webp"):
        writings += [(rgb, "WEBP", {"quality": 50, "exif": exif}), (rgba, "WEBP", {"lossless": True})]
        writings += [(rgb, "WEBP", frames)]
    for image, kind, options in writings:
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append(file.getvalue())
    return found


# %% Mutations


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the names and contents of the complete chunks in a PNG file."""
    found, offset = [], 8
    while offset + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        if offset + 12 + length > len(data):
            break
        found.append((data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    return found


def with_other_chunks(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the order, number, names or contents of PNG chunks, with correct checksums."""
    chunks = png_chunks(data)
    if not chunks:
        return data
    one, other = (int(each) for each in rng.integers(len(chunks), size=2))
    action = int(rng.integers(6))
    name, content = chunks[one]
    if action == 0:
        chunks[one], chunks[other] = chunks[other], chunks[one]
    elif action == 1:
        del chunks[one]
    elif action == 2:
        chunks.insert(other, chunks[one])
    elif action == 3:
        chunks[one] = (chunks[other][0], content)
    elif name == b"IDAT" and action == 4:  # a valid zlib stream with random pixels
        chunks[one] = (name, zlib.compress(rng.bytes(int(rng.integers(1, 2000)))))
    elif content:
        offsets = rng.integers(len(content), size=int(rng.integers(1, 4)))
        changed = bytearray(content)
        for offset in offsets:
            changed[offset] = int(rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 127, 255, int(rng.integers(256))]))
        chunks[one] = (name, bytes(changed))
    return PNG_START + b"".join(png_chunk(*each) for each in chunks)


def with_other_segments(data: bytes, rng: np.random.Generator) -> bytes:
    """Swap, remove, duplicate or rename JPEG segments."""
    parts = [b"\xff" + part for part in data.split(b"\xff")][1:]
    one, other = (int(each) for each in rng.integers(len(parts), size=2))
    action = int(rng.integers(4))
    if action == 0:
        parts[one], parts[other] = parts[other], parts[one]
    elif action == 1:
        del parts[one]
    elif action == 2:
        parts.insert(other, parts[one])
    else:
        parts[one] = b"\xff" + bytes([int(rng.integers(0xC0, 256))]) + parts[one][2:]
    return b"".join(parts)


def with_other_bytes(data: bytes, others: bytes, rng: np.random.Generator) -> bytes:
    """Flip a bit; overwrite, remove, repeat or insert bytes; truncate the file; or replace a number or the end."""
    changed = bytearray(data)
    start = int(rng.integers(len(data))) if rng.random() < 0.5 else int(rng.integers(min(len(data), 64)))
    length = int(rng.choice([1, 2, 4, 16, 64]))
    action = int(rng.integers(8))
    if action == 0:
        changed[start] ^= 1 << int(rng.integers(8))
    elif action == 1:
        changed[start : start + length] = rng.bytes(length)
    elif action == 2:
        del changed[start : start + length]
    elif action == 3:
        changed[start:start] = changed[start : start + length]
    elif action == 4:
        changed[start:start] = rng.bytes(length)
    elif action == 5:
        del changed[start:]
    elif action == 6:  # a size, a count or an offset
        number = int(rng.choice([0, 1, 2, 255, 256, 65_535, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]))
        packed = struct.pack(str(rng.choice(["<I", ">I"])), number)
        some = slice(*((0, 4), (0, 2), (2, 4))[int(rng.integers(3))])
        changed[start : start + len(packed[some])] = packed[some]
    else:
        changed[start:] = others[int(rng.integers(len(others))) :]
    return bytes(changed)


def mutated(seeds: list[bytes], rng: np.random.Generator) -> bytes:
    """Return a random seed file after one to three mutations."""
    data = seeds[int(rng.integers(len(seeds)))]
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            break
        if data.startswith(PNG_START) and rng.random() < 0.5:
            data = with_other_chunks(data, rng)
        elif data.startswith(b"\xff\xd8") and rng.random() < 0.4:
            data = with_other_segments(data, rng)
        else:
            data = with_other_bytes(data, seeds[int(rng.integers(len(seeds)))], rng)
    return data


# %% Reading


class Fuzzed(NamedTuple):
    """The results for all files."""

    counts: collections.Counter[str]  # number of files by outcome: "image", or the type of error message
    failures: list[str]  # one line for each file that failed
    slowest: float  # CPU seconds for the three reads of the slowest file


def failure_of(path: Path) -> tuple[str, str]:
    """Read a file in three ways. Return the outcome of `read_image`, and the first problem ("" if there is none)."""
    outcome = "image"
    shapes = set()
    readers: list[tuple[Callable[[Path], np.ndarray], tuple[int, ...]]] = [
        (read_image, (3,)),
        (functools.partial(read_image, channels=1), (1,)),
        (functools.partial(read_labels, classes=256), ()),
    ]
    for read, channels in readers:
        begun = time.process_time()
        try:
            image = read(path)
        except InputError as error:
            text = str(error)
            if not text.isprintable() or not text.startswith(f"{path}: ") or ";" not in text:
                return outcome, f"not a one-line message about this file: {text!r}"
            if read is read_image:
                outcome = text.removeprefix(f"{path}: ").partition(" (")[0].partition(";")[0]
        except Exception as error:
            return outcome, f"{type(error).__name__}: {error}"
        else:
            if image.dtype != np.uint8 or image.shape[2:] != channels or not image.size:
                return outcome, f"{image.dtype} {image.shape}"
            shapes.add(image.shape[:2])
        if (seconds := time.process_time() - begun) > SLOW_SECONDS:
            return outcome, f"{seconds:.0f} seconds"
    return outcome, "" if len(shapes) < 2 else f"different sizes: {shapes}"


def peak_megabytes() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def fuzz(count: int, seed: int, keep: Path | None = None) -> Fuzzed:
    """Read `count` mutated images. If a folder `keep` is given, copy failed files to this folder."""
    rng = np.random.default_rng(seed)
    seeds = seed_images(rng)
    counts: collections.Counter[str] = collections.Counter()
    failures, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder) / "image"
        originals = iter(seeds)
        allowed = peak_megabytes() + LARGE_MEGABYTES  # a test process has used memory for other things
        for number in range(count):
            data = next(originals, None) or mutated(seeds, rng)  # the unchanged seed files come first
            path.write_bytes(data)
            begun = time.process_time()
            peak = peak_megabytes()
            with contextlib.redirect_stderr(io.StringIO()):  # the reader prints a notice for large images
                outcome, problem = failure_of(path)
            if peak < allowed < peak_megabytes():
                problem = problem or f"{peak_megabytes():.0f} MB of memory"
            slowest = max(slowest, time.process_time() - begun)
            counts[outcome] += 1
            if problem:
                failures.append(f"image {number} of seed {seed}, {len(data)} bytes: {problem}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}").write_bytes(data)
    return Fuzzed(counts, failures, slowest)


def main(count: int = 10_000, seed: int = 0, keep: Path | None = None) -> None:
    """Fuzz `count` images, print the outcomes, and exit with status 1 if any image failed.

    Args:
        count: the number of images.
        seed: the random seed of the mutations. With the same seed and the same version of Pillow, the files are the
            same.
        keep: a folder for copies of the files that fail.
    """
    begun = time.perf_counter()
    found = fuzz(count, seed, keep)
    print(f"{count} images of seed {seed} in {time.perf_counter() - begun:.0f} s, the slowest {found.slowest:.2f} s; "
          f"peak memory {peak_megabytes():.0f} MB")  # fmt: skip
    for outcome, number in found.counts.most_common():
        print(f"{number:8}  {outcome}")
    print(f"{len(found.failures):8}  failed")
    for failure in itertools.islice(found.failures, 20):
        print(failure)
    sys.exit(1 if found.failures else 0)


if __name__ == "__main__":
    run_benchmark(main)
