"""What readers find, what they leave out and say, in one line: the same rule for every reader."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from common.data.attributes import attributed_images
from common.data.datasets import image_pairs, images_of
from common.data.domains import unpaired_images
from common.data.identity import readable_files
from common.data.labelled import labelled_images
from common.data.people import two_people
from common.data.shard_writing import write_shards
from common.images.found import entries_of, folders_below, images_below, images_in, is_hidden, reported
from common.images.reading import checked_images, read_image, readable_images
from common.runs.fitting import native_images
from common.system.files import InputError
from tests.pictures import noise

HIDDEN = (".git/objects/{}.png", ".ipynb_checkpoints/{}-checkpoint.png", "__MACOSX/._{}.png", "@eaDir/{}.png/S.jpg",
          "._{}.png", ".thumbnails/normal/{}.png", "$RECYCLE.BIN/{}.jpg")  # fmt: skip


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def with_hidden(folder: Path, count: int = 4, side: int = 16, suffix: str = "png", seed: int = 0) -> None:
    """Write images, and next to them what tools write."""
    for number in range(count):
        save(folder / f"{number}.{suffix}", noise(side, side, 3, seed=seed + number))
    for name in HIDDEN:
        save(folder / name.format(0), noise(16, 16, 3, seed=99))
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (folder / name).write_bytes(b"x")


def faces_folder(folder: Path) -> None:
    with_hidden(folder, 10)
    (folder / "faces.csv").write_text("file,smile\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(10)))


def in_each(*names: str, count: int = 6, side: int = 16) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number, name in enumerate(names):
            with_hidden(folder / name, count, side, seed=50 * number)
        with_hidden(folder, 0)

    return write


READERS: dict[str, tuple[Callable[[Path], None], Callable[[str], object], int]] = {
    "images": (in_each("2019/a", "2020", count=5), lambda data: images_of(data, 16, 3, "photos"), 10),
    "classes": (in_each("cat", "dog"), lambda data: labelled_images(data, 16, 3, "clothes"), 12),
    "classes in sub-folders": (in_each("cat/1", "cat/2", "dog"), lambda data: labelled_images(data, 16, 3, "x"), 18),
    "splits": (in_each("Training/cat", "Training/dog", "Testing/dog"), lambda d: labelled_images(d, 16, 3, "x"), 18),
    "pairs": (in_each("A", "B"), lambda data: image_pairs(data, 16, "sketches"), 12),
    "pairs in sub-folders": (in_each("A/x", "B/x"), lambda data: image_pairs(data, 16, "sketches"), 12),
    "domains": (in_each("trainA", "trainB"), lambda data: unpaired_images(data, 16, "seasons"), 12),
    "faces": (faces_folder, lambda data: attributed_images(data, 16, 3, "faces"), 10),
    "shards": (in_each("cat", "dog"), lambda data: write_shards(Path(data), Path(data).parent / "shards"), 12),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_leaves_out_what_tools_write_and_says_so_in_one_line(reader, tmp_path, capsys):
    write, read, count = READERS[reader]
    write(tmp_path / "in")
    (tmp_path / "in" / "notes.md").write_text("notes")
    read(str(tmp_path / "in"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'in'}: {count} images (16x16 px)")
    assert "1 .md" in line and "@eaDir/" in line and "(hidden, or of a tool)" in line


def test_people_too(tmp_path, capsys):
    in_each("ann", "bob", ".cache", "__MACOSX")(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path / 'ann'}: no face was found in 6 photos"):
        two_people(str(tmp_path), 32, 0.2, "people")


def test_names_of_tools_count_in_any_case_and_only_below_the_folder(tmp_path):
    assert all(map(is_hidden, ("thumbs.DB", "__macosx", "._a.png", ".x")))
    assert not any(map(is_hidden, ("thumbs", "a.db", "_a")))
    with_hidden(tmp_path / ".hidden", 3)
    assert len(images_below(tmp_path / ".hidden")) == 3


def test_a_fingerprint_covers_the_same_files(tmp_path):
    in_each("a/b", "c")(tmp_path)
    assert sorted(file.path for file in readable_files(tmp_path)) == sorted(map(str, images_below(tmp_path)))


@pytest.mark.parametrize("name", ["a.jfif", "a.JFIF", "a.jpe", "a.JPG", "a.ppm", "a.pgm", "a.PBM", "a.avif", "a.tiff"])
def test_suffixes_that_browsers_and_data_sets_use(name, tmp_path):
    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".jpg": "JPEG", ".tiff": "TIFF", ".avif": "AVIF"}
    pixels = np.full((16, 16), 255, np.uint8)
    Image.fromarray(pixels).convert("1" if name.endswith("PBM") else "L").save(
        tmp_path / name, kind.get(Path(name).suffix.lower(), "PPM")
    )
    assert images_below(tmp_path) == [tmp_path / name]
    assert read_image(tmp_path / name, 1).min() > 250


@pytest.mark.parametrize(("start", "most"), [(b"P5 16 16 4095\n", 4095), (b"P2\n# a comment\n16 16\n9\n", 9)])
def test_grey_maps_with_other_limits(start, most, tmp_path):
    values = np.arange(256) % (most + 1)
    text = values.astype(">u2").tobytes() if most > 255 else " ".join(map(str, values)).encode()
    (tmp_path / "a.pgm").write_bytes(start + text)
    image = read_image(tmp_path / "a.pgm", 1).ravel()
    assert np.abs(image.astype(float) - values * 255 / most).max() <= 1


def test_what_is_left_out_is_counted_by_kind(tmp_path, capsys):
    save(tmp_path / "a.png", noise(16, 20, 3))
    save(tmp_path / "b.png", noise(32, 20, 3))
    for name in ("c.tga", "d.TGA", "e.heic", "f"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "g.png").symlink_to(tmp_path / "absent.png")
    images_of(str(tmp_path), 16, 3, "photos")
    assert capsys.readouterr().err == (
        f"{tmp_path}: 2 images (20x16 to 20x32 px), read as 16x16 px, colour; left out: 2 .tga, "
        "1 .heic (to read them: pip install pillow-heif), 1 without a suffix, 1 broken links\n"
    )


def test_images_outside_class_folders_and_other_folders(tmp_path, capsys):
    in_each("train/cat", "train/dog", "test/cat", "val/dog", "masks/cat")(tmp_path)
    save(tmp_path / "overview.png", noise(16, 16, 3))
    data = labelled_images(str(tmp_path), 16, 3, "x")
    assert [len(part.labels) for part in data[:3]] == [12, 6, 6]  # val/ is used for validation
    line = capsys.readouterr().err
    assert "2 classes, in train/, test/, val/" in line
    assert "1 images outside class folders" in line and "folder that is not a split (masks/)" in line


def test_links_are_followed_but_no_image_is_read_twice(tmp_path, capsys):
    with_hidden(tmp_path / "elsewhere", 3)
    with_hidden(tmp_path / "in", 2)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "elsewhere")
    assert len(images_below(tmp_path / "in")) == 5
    assert folders_below(tmp_path / "in") == [tmp_path / "in", tmp_path / "in" / "again"]


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=f"{tmp_path}: Permission denied; expected a readable folder"):
        entries_of(tmp_path)


def test_no_folder_has_no_images(tmp_path):
    assert images_in(tmp_path / "absent") == []
    (tmp_path / "a.heic").touch()
    with pytest.raises(
        InputError,
        match=r"no images in this folder or its sub-folders \(found a.heic; to read HEIC, pip install pillow-heif\)",
    ):
        images_below(tmp_path)
    (tmp_path / "a.heic").rename(tmp_path / ".a.png")
    with pytest.raises(InputError, match=r"no images in this folder or its sub-folders \(it has only hidden files\)"):
        images_below(tmp_path)


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"stra\xdfe.png"])
def test_names_that_are_not_utf8(name, tmp_path, capsys):
    with_hidden(tmp_path, 4)
    os.rename(tmp_path / "0.png", os.path.join(os.fsencode(tmp_path), name))
    (tmp_path / "1.png").rename(tmp_path / "1.txt")
    data = images_of(str(tmp_path), 16, 3, "photos")
    assert len(data.train) + len(data.test) == 3 and len(data.held_out()[0]) == 1
    assert "3 images" in capsys.readouterr().err


# --- images that look damaged, white or black, and are not ---------------------------------------------------


def line_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with reported(folder):
        checked_images(images_below(folder), read_image)
    return capsys.readouterr().err


def bmp(path: Path, alpha: int) -> np.ndarray:
    pixels = noise(16, 16, 3)
    rows = np.dstack([pixels[::-1, :, ::-1], np.full((16, 16), alpha, np.uint8)]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, 16, 16, 1, 32, 3, len(rows), 2835, 2835, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    file = struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header))
    path.write_bytes(b"BM" + file + header + rows)
    return pixels


def test_an_empty_alpha_channel_of_a_bmp_is_ignored(tmp_path):
    pixels = bmp(tmp_path / "a.bmp", 0)
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp"), pixels)
    bmp(tmp_path / "a.bmp", 1)
    assert read_image(tmp_path / "a.bmp").min() > 250


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("RGBA", (16, 16), (9, 9, 9, 0)), "1 is transparent throughout, and so all white, such as a.png"),
        (Image.new("LA", (16, 16), (9, 0)), "1 is all white, such as a.png"),
        (Image.new("L", (16, 16), 0), "1 is all black, such as a.png"),
        (Image.fromarray(np.eye(16, dtype=np.uint8)), "1 is almost black: their values are at most 15 of 255, such as"),
        (
            Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)),
            "16-bit values have only 12 bits (at most 4095 of 65535; scale them)",
        ),
        (
            Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)),
            "16-bit values have only 8 bits (at most 255 of 65535; scale them)",
        ),
    ],
)
def test_what_becomes_white_or_black_is_said(image, said, tmp_path, capsys):
    image.save(tmp_path / "a.png")
    assert said in line_of(tmp_path, capsys)


@pytest.mark.parametrize("bits", [8, 16])
def test_where_the_lowest_value_is_white(bits, tmp_path):
    import tifffile

    values = np.linspace(0, 2**bits - 1, 256).round().reshape(16, 16).astype(f"uint{bits}")
    for name, kind in (("a.tif", "miniswhite"), ("b.tif", "minisblack")):
        tifffile.imwrite(tmp_path / name, values, photometric=kind)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), 255 - read_image(tmp_path / "b.tif"))


def test_large_texts_and_profiles_do_not_make_a_png_unreadable(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x " * 1_200_000, zip=True)
    texts.add_itxt("xmp", "y" * 1_200_000, zip=True)
    pixels = noise(16, 16, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=texts, icc_profile=os.urandom(1_500_000))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("kind", ["bigtiff", "planar", "compressed"])
def test_tiffs_that_are_read(kind, tmp_path):
    import tifffile

    pixels = noise(16, 16, 3)
    options = {"bigtiff": {"bigtiff": True}, "planar": {"planarconfig": "separate"}, "compressed": {"compression": 8}}
    stored = np.moveaxis(pixels, -1, 0) if kind == "planar" else pixels
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options[kind])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((16, 16, 3), np.float32), r"floating-point pixels \(32 bits, 3 per pixel\)"),
        (np.zeros((16, 16), np.float64), r"floating-point pixels \(64 bits, 1 per pixel\)"),
        (np.zeros((16, 16), np.float16), r"floating-point pixels \(16 bits, 1 per pixel\)"),
        (np.zeros((16, 16, 5), np.uint8), "5 integers of 8 bits per pixel"),
        (np.zeros((16, 16, 3), np.uint32), "3 integers of 32 bits per pixel"),
    ],
)
def test_tiffs_that_are_whole_but_cannot_be_read(values, said, tmp_path):
    import tifffile

    kind = "rgb" if values.shape[2:] == (3,) else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=kind, planarconfig="contig" if values.ndim == 3 else None)
    with pytest.raises(InputError, match=f"a.tif: has {said}; save it as greyscale or RGB"):
        read_image(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="a.tif: "):
        read_image(tmp_path / "a.tif")


def test_commands_say_only_what_is_unusual(tmp_path, capsys):
    with_hidden(tmp_path, 2)
    assert len(readable_images(tmp_path, read_image)) == 2 and not capsys.readouterr().err
    (tmp_path / "a.heic").touch()
    readable_images(tmp_path, read_image)
    assert "1 .heic (to read them: pip install pillow-heif)" in capsys.readouterr().err


@pytest.mark.filterwarnings("always")  # `native_images` suppresses errors
def test_no_images_to_fit_cause_no_warning(tmp_path, recwarn):
    assert native_images(str(tmp_path)) is None and native_images(str(tmp_path / "absent")) is None
    assert not recwarn.list
