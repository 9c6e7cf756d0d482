"""Whether every damaged image ends in an image or in one line: some 10,000 files, mutated at random from a seed.

Seeds are small images of every kind that Pillow writes, and PNG of every mode and depth, interlaced ones too, which it
does not. Each is changed by one to three mutations: flipped bits, overwritten, removed, repeated and inserted bytes, a
cut, another length or size in a header, chunks of a PNG swapped, left out, doubled or with another's name (with a
right checksum in half of the cases, or no decoder would look into them), segments of a JPEG likewise, and the end of
another image. Every one is read as grey, as colour and as a label map.

What counts as failed: any exception but InputError, a message of more than one line, an array of another shape or
type, a read of more than ten seconds of the processor, and one of more than 2 GB. libtiff's own complaints on standard
error are not counted.

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
import tyro
from PIL import Image, features

from common.errors import InputError
from common.images import read_image, read_labels

PNG_START = b"\x89PNG\r\n\x1a\n"
SLOW_SECONDS = 10.0
LARGE_MEGABYTES = 2_000  # of memory, which an image within Pillow's limit does not need


# %% Seeds


def png_chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_kind(colour: int, depth: int, interlaced: bool, rng: np.random.Generator) -> bytes:
    """Return noise, 13 x 9 px, as a PNG of a colour type and depth; interlaced ones in the seven passes of Adam7."""
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
    """Return small images of as many kinds as there are."""
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
    """Return the names and contents of a PNG's chunks, as far as they are whole."""
    found, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 12 + length > len(data):
            break
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def with_other_chunks(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the order, the number, the names or the contents of a PNG's chunks, with right checksums."""
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
    elif name == b"IDAT" and action == 4:  # other pixels in a stream that can be decompressed
        chunks[one] = (name, zlib.compress(rng.bytes(int(rng.integers(1, 2000)))))
    elif content:
        places = rng.integers(len(content), size=int(rng.integers(1, 4)))
        changed = bytearray(content)
        for place in places:
            changed[place] = int(rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 127, 255, int(rng.integers(256))]))
        chunks[one] = (name, bytes(changed))
    return PNG_START + b"".join(png_chunk(*each) for each in chunks)


def with_other_segments(data: bytes, rng: np.random.Generator) -> bytes:
    """Swap, leave out, double or rename what lies between two markers of a JPEG."""
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
    """Flip, overwrite, remove, repeat, insert or cut bytes, write a number into the header, or splice two images."""
    changed = bytearray(data)
    place = int(rng.integers(len(data))) if rng.random() < 0.5 else int(rng.integers(min(len(data), 64)))
    length = int(rng.choice([1, 2, 4, 16, 64]))
    action = int(rng.integers(8))
    if action == 0:
        changed[place] ^= 1 << int(rng.integers(8))
    elif action == 1:
        changed[place : place + length] = rng.bytes(length)
    elif action == 2:
        del changed[place : place + length]
    elif action == 3:
        changed[place:place] = changed[place : place + length]
    elif action == 4:
        changed[place:place] = rng.bytes(length)
    elif action == 5:
        del changed[place:]
    elif action == 6:  # a size, a count or an offset
        number = int(rng.choice([0, 1, 2, 255, 256, 65_535, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]))
        packed = struct.pack(str(rng.choice(["<I", ">I"])), number)
        some = slice(*((0, 4), (0, 2), (2, 4))[int(rng.integers(3))])
        changed[place : place + len(packed[some])] = packed[some]
    else:
        changed[place:] = others[int(rng.integers(len(others))) :]
    return bytes(changed)


def mutated(seeds: list[bytes], rng: np.random.Generator) -> bytes:
    """Return one of the seeds after one to three mutations."""
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


# %% Judging


class Fuzzed(NamedTuple):
    """What came of the files."""

    counts: collections.Counter[str]  # "image", and the kinds of messages
    failures: list[str]  # what was wrong with each file that failed
    slowest: float  # of the processor's seconds, for the three reads of a file


def failure_of(path: Path) -> tuple[str, str]:
    """Read a file in three ways; return what came of it as colour, and what is wrong with any of them, or nothing."""
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
                return outcome, f"not one line, or not of this file: {text!r}"
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
    return outcome, "" if len(shapes) < 2 else f"sizes that differ: {shapes}"


def peak_megabytes() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def fuzz(count: int, seed: int, keep: Path | None = None) -> Fuzzed:
    """Read `count` mutated images; those that fail are kept in the folder `keep`, if one is given."""
    rng = np.random.default_rng(seed)
    seeds = seed_images(rng)
    counts: collections.Counter[str] = collections.Counter()
    failures, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder) / "image"
        originals = iter(seeds)
        for number in range(count):
            data = next(originals, None) or mutated(seeds, rng)  # each seed itself comes first
            path.write_bytes(data)
            begun = time.process_time()
            peak = peak_megabytes()
            with contextlib.redirect_stderr(io.StringIO()):  # large images are announced there
                outcome, problem = failure_of(path)
            if peak < LARGE_MEGABYTES < peak_megabytes():
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
    """Fuzz `count` images, print what came of them, and exit with status 1 if any failed.

    Args:
        count: of images.
        seed: of the random numbers; the same seed makes the same images with the same Pillow.
        keep: folder for the files that failed.
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
    tyro.cli(main)
