"""Files that are hostile, not only damaged: each ends in one line before it takes minutes or fills the memory."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, PngImagePlugin

from common.data.shards import StoredImage
from common.images.decoding import pixel_limit, set_pixel_limit
from common.images.reading import checked_images, read_image, read_labels
from common.system.files import InputError, printable


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(colour: int, *chunks: bytes, side: int = 8, depth: int = 8, header: tuple[int, int] | None = None) -> bytes:
    """Return a black PNG with more chunks before its pixels; its `header` may claim another size."""
    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth
    first = chunk(b"IHDR", struct.pack(">IIBBBBB", *(header or (side, side)), depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(side * (1 + side * bits // 8))))
    return b"\x89PNG\r\n\x1a\n" + first + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def saved(kind: str, side: int = 8, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (10, 20, 30)).save(file, kind, **options)
    return file.getvalue()


def tags(count: int, size: int, more: list[tuple[int, int, int, int]] | None = None) -> bytes:
    """Return a TIFF whose `count` tags all name the same `size` bytes."""
    more = more or []
    start = 8 + 2 + 12 * (count + len(more)) + 4
    entries = more + [(40_000 + number, 7, size, start) for number in range(count)]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4 + size)


# width, height, bits, no compression, black is 0, the pixels' place, channels, rows and bytes of the only strip
GREY = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 158),
        (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64)]  # fmt: skip


def with_exif(exif: bytes) -> bytes:
    """Return a JPEG whose EXIF is in as many segments as it needs."""
    jpeg = saved("JPEG")
    parts = [b"Exif\0\0" + exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
    return jpeg[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(part)) + part for part in parts) + jpeg[2:]


def with_comments(*blocks: bytes) -> bytes:
    gif = saved("GIF")
    place = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    comment = b"!\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    return gif[:place] + comment + gif[place:]


def many_scans(count: int, side: int = 64) -> bytes:
    jpeg = saved("JPEG", side, progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * count + b"\xff\xd9"


# Two frames, of which the first is cleared to the background: Pillow makes that background when it opens the file.
ANIMATED = chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", struct.pack(">6IHHBB", *[0] * 5, 0, 1, 1, 1, 1))

HOSTILE = {
    "3,000 scans.jpg": ("more than 100 scans", many_scans(3000)),
    "scans behind a marker.jpg": ("more than 100 scans", many_scans(3000).replace(b"\xff\xda", b"\xff\xff\xff\xda")),
    "tags.tif": ("tags that expand .* to 9,000,000,0.. bytes", tags(9_000, 1_000_000, GREY)),
    "exif.jpg": ("tags that expand .* to 86,400,000 bytes", with_exif(tags(2_700, 32_000))),
    "exif in parts.jpg": ("more than 1,000,000 bytes of EXIF", with_exif(tags(10, 1_000_000))),
    "comment.gif": ("more than 100,000 bytes of comments", with_comments(*[b"x" * 255] * 400)),
    "small comments.gif": ("more than 100,000 bytes of comments", with_comments(*[b"x"] * 50_001)),
    "wide frame.gif": ("too large", saved("GIF").replace(struct.pack("<HH", 8, 8), struct.pack("<HH", 65535, 65535))),
    "animation.png": (
        r"too large \(60000x60000 px\); at most",
        png(6, *ANIMATED, header=(60_000, 60_000)),
    ),
    "second header.png": (
        r"too large \(60000x60000 px\); at most",
        png(6, chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)), *ANIMATED),
    ),
    "frame beyond.gif": (
        r"too large \(65543x65543 px\); at most",
        saved("GIF").replace(b",\0\0\0\0\x08\0\x08\0", b"," + struct.pack("<4H", 65_535, 65_535, 8, 8)),
    ),
    "chunks.png": ("more than 10,000 chunks", png(0, chunk(b"teSt", b"") * 10_001)),
    "segments.jpg": ("more than 10,000 segments", saved("JPEG")[:2] + b"\xff\xfe\0\2" * 10_001 + saved("JPEG")[2:]),
    "extensions.gif": ("more than 10,000 extensions", with_comments()[:-1].replace(b"!\xfe\0", b"!\xf9\0" * 10_001)),
    "frames.png": (
        "damaged",
        png(0, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 60_000, 60_000, 0, 0, 1, 1, 1, 1))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_take_minutes_or_fill_the_memory_is_named_before(tmp_path: Path, name: str) -> None:
    reason, content = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    for read in (read_image, lambda path: read_labels(path, 3)):
        with pytest.raises(InputError, match=reason) as error:
            read(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ") and "; " in str(error.value)


@pytest.mark.parametrize("name", ["animation.png", "second header.png", "wide frame.gif", "frame beyond.gif"])
def test_a_file_that_takes_its_memory_when_it_is_opened_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def opened(file: io.BytesIO) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(PngImagePlugin, "PngImageFile", opened)
    monkeypatch.setattr(GifImagePlugin, "GifImageFile", opened)
    (tmp_path / name).write_bytes(HOSTILE[name][1])
    with pytest.raises(InputError, match="too large"):
        read_image(tmp_path / name)


HARMLESS = {
    "90 scans.jpg": many_scans(80),
    "film behind the end.jpg": saved("JPEG", progressive=True) + b"\xff\xda\0\2" * 200,
    "scans in a comment.jpg": saved("JPEG", comment=b"\xff\xda" * 200),
    "exif.jpg": with_exif(tags(50, 1000)),
    "exif.png": png(0, chunk(b"eXIf", tags(9_000, 1_000_000))),
    "exif as text.png": png(
        0,
        chunk(
            b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9\n" + tags(9_000, 9_000).hex().encode())
        ),
    ),
    "exif.webp": saved("WEBP", exif=tags(9_000, 1_000_000)),
    "cycle.tif": tags(0, 64, [*GREY, (34665, 4, 1, 8), (34853, 4, 1, 8), (40965, 4, 1, 8)]),
    "next is the first.tif": tags(0, 64, GREY)[: 8 + 2 + 12 * 9] + struct.pack("<I", 8) + bytes(100),
    "comment.gif": with_comments(*[b"x" * 255] * 300),
    "a million frames.gif": saved("GIF")[:-1] + saved("GIF")[13 + 3 * 2 ** ((saved("GIF")[10] & 7) + 1) : -1] * 100_000,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_only_odd_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(HARMLESS[name])
    image = read_image(tmp_path / name)
    assert image.shape in ((8, 8, 3), (64, 64, 3))
    assert np.ptp(image, axis=(0, 1)).max() <= 2


# --- what is no file ---------------------------------------------------------------------------------------


def test_devices_pipes_and_folders_are_named_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), Path("/dev/full")):
        with pytest.raises(InputError, match=f"{path}: is a device or a pipe; give the path of a file"):
            read_image(path)


def test_of_what_is_no_image_only_the_beginning_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(6 * 10**9)
    with pytest.raises(InputError, match="not a PNG, JPEG"):
        read_image(path)
    with path.open("r+b") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"too large \(6,000,000,000 bytes, at most 779,827,880 are allowed\)"):
        read_image(path)


# --- limits ------------------------------------------------------------------------------------------------


@pytest.fixture
def own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the limit be what it was after the test."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def test_the_limit_of_pixels_is_that_of_pillow_and_can_be_set(tmp_path: Path, own_limit: None) -> None:
    assert pixel_limit() == 89_478_485
    (tmp_path / "a.png").write_bytes(png(2, side=20))
    for limit in (1, "399"):
        set_pixel_limit(limit)
        with pytest.raises(InputError, match=r"too large \(20x20 px\); at most \d+ pixels are allowed.*--max-pixels"):
            read_image(tmp_path / "a.png")
    set_pixel_limit(400)
    assert read_image(tmp_path / "a.png").shape == (20, 20, 3)
    Image.MAX_IMAGE_PIXELS = None  # as Pillow's documentation says how to have none
    assert read_image(tmp_path / "a.png").shape == (20, 20, 3)


@pytest.mark.parametrize("limit", [0, -1, "9" * 5000, "many", "1e6", 2**31, "", "1.5"])
def test_a_limit_that_is_none_is_refused(limit: int | str, own_limit: None) -> None:
    with pytest.raises(InputError, match=r"--max-pixels must be an integer from 1 to 2147483647, got"):
        set_pixel_limit(limit)


def test_a_large_image_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("common.images.decoding.ANNOUNCED_PIXELS", 399)
    (tmp_path / "large.png").write_bytes(png(2, side=20))
    (tmp_path / "small.png").write_bytes(png(2, side=19))
    for name in ("large.png", "small.png", "large.png"):
        read_image(tmp_path / name)
    assert capsys.readouterr().err == f"{tmp_path / 'large.png'}: 20x20 px; reading it may take a few seconds\n"


@pytest.mark.slow  # a process of its own, whose peak can be measured
def test_sixteen_bit_colour_with_alpha_takes_few_bytes_a_pixel(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(6, side=4000, depth=16))
    code = (
        "import resource, sys; from pathlib import Path; import numpy; from common.images.reading import read_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_image(Path(sys.argv[2])); before = peak(); image = read_image(Path(sys.argv[1]))\n"
        "print((peak() - before) * 1024 / 16e6, image.min())"
    )
    (tmp_path / "small.png").write_bytes(png(6, depth=16))
    arguments = [sys.executable, "-c", code, str(tmp_path / "a.png"), str(tmp_path / "small.png")]
    bytes_a_pixel, least = subprocess.check_output(arguments, text=True).split()
    assert float(bytes_a_pixel) < 9 and least == "255"


# --- decoders raise anything -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [AssertionError(), MemoryError(), RecursionError("deep"), SystemError("a\nb")])
@pytest.mark.parametrize("place", ["load", "convert"])
def test_whatever_a_decoder_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    (tmp_path / "a.png").write_bytes(png(2))

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile if place == "load" else Image.Image, place, fail)
    said = "does not fit into memory" if isinstance(error, MemoryError) else "damaged or cut short"
    with pytest.raises(InputError, match=said) as raised:
        read_image(tmp_path / "a.png")
    assert str(raised.value).startswith(f"{tmp_path / 'a.png'}: ") and "\n" not in str(raised.value)


def test_ctrl_c_passes_through_the_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(2))

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", stop)
    with pytest.raises(KeyboardInterrupt):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("transparency", [b"", b"\0\1\2", b"\0" * 300])
def test_a_palette_image_without_its_palette(tmp_path: Path, transparency: bytes) -> None:
    extra = [chunk(b"tRNS", transparency)] if transparency else []
    (tmp_path / "a.png").write_bytes(png(3, *extra))
    with pytest.raises(InputError, match=r"a.png: damaged \(its palette is missing\); copy or download it again"):
        read_image(tmp_path / "a.png")
    assert not read_labels(tmp_path / "a.png", 1).any()  # indices mean the same without it


def test_bytes_that_do_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").write_bytes(b"few")
    with pytest.raises(InputError, match="cut short|does not fit"):
        read_image(StoredImage(tmp_path / "pictures", 0, 2**62))


# --- names of files ----------------------------------------------------------------------------------------

NAMES = ["a\nb", "\x1b[31mred\x1b[0m", "bell\x07", "right\u202eto left", "line\u2028separator", "tab\t", "\udcff"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_file_reaches_the_terminal_as_it_is(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / f"{name}.png"
    bad.write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        read_image(bad)
    assert str(error.value).isprintable() and str(error.value).startswith(
        f"{tmp_path}/{printable(name)}.png: not a PNG"
    )
    (tmp_path / "good.png").write_bytes(png(2))
    good, messages = checked_images([bad, tmp_path / "good.png"], read_image, skip_bad=True)
    assert good == [tmp_path / "good.png"] and len(messages) == 1
    assert messages[0].count("good.png") == 0 and messages[0].count("not a PNG") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and all(line.isprintable() for line in said.split("\n"))


def test_what_is_text_stays_as_it_is() -> None:
    assert printable("Фото 1 – naïve/日本.png: 5 %") == "Фото 1 – naïve/日本.png: 5 %"
    assert printable(Path("a\\b")) == "a\\b"
    assert str(InputError("one\r\nline\x00")) == r"one\r\nline\x00"
