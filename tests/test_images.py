"""Images: every awkward file is made here; results are compared with NumPy or a closed form."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import GifImagePlugin, Image

from common.images.pixels import (
    LABEL_COLOURS,
    colour_labels,
    crop_square,
    from_uint8,
    labels_from_colours,
    pad_to_multiple,
    resize_image,
    to_uint8,
)
from common.images.reading import checked_images, find_images, read_image, read_labels
from common.images.writing import save_gif, save_grid, save_image, save_row, save_table, write_image
from common.system.files import InputError
from common.system.lazy import tf
from tests.pictures import noise


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps nearly as it is."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def png_file(path: Path, depth: int, colour: int, rows: list[bytes], *extra: bytes) -> Path:
    """Write a PNG chunk by chunk, for kinds that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", len(rows[0]) * 8 // depth // channels, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + b"".join(chunk(name[:4], name[4:]) for name in extra)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- finding -----------------------------------------------------------------------------------------------


def test_find_images_takes_any_case_sorts_and_leaves_out_what_is_hidden_or_no_file(tmp_path: Path) -> None:
    wanted = ["a.PNG", "b.jpg", "c.Jpeg", "d.bmp", "e.gif", "f.webp", "g.tif", "h.tiff"]
    for name in [*reversed(wanted), ".hidden.png", "notes.txt", "png"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == [tmp_path / name for name in wanted]


def test_find_images_says_what_it_found_instead(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images, the folder is empty; expected files ending in .png .jpg"):
        find_images(tmp_path)
    for number in range(7):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / "0.txt").unlink()
    (tmp_path / "0").mkdir()
    with pytest.raises(InputError, match=r"only 0/, 1.txt, 2.txt, 3.txt, 4.txt and 2 more;"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_images(tmp_path / "absent")
    with pytest.raises(InputError, match="a file, not a folder"):
        find_images(tmp_path / "1.txt")


# --- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_come_back_as_they_were(tmp_path: Path, suffix: str, channels: int) -> None:
    image = noise(5, 7, channels)
    path = write_image(image, tmp_path / "deep" / f"image.{suffix}")
    read = read_image(path, channels)
    np.testing.assert_array_equal(read, image)
    assert read.flags.writeable


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp"])
def test_lossy_formats_come_back_nearly(tmp_path: Path, suffix: str) -> None:
    image = smooth(48, 64)
    read = read_image(write_image(image, tmp_path / f"image.{suffix}"))
    assert read.shape == image.shape
    assert np.abs(read.astype(int) - image).mean() < 2


def test_jpeg_is_written_with_quality_95(tmp_path: Path) -> None:
    image = noise(16, 16, 3)
    expected = io.BytesIO()
    Image.fromarray(image).save(expected, "JPEG", quality=95)
    assert write_image(image, tmp_path / "a.jpg").read_bytes() == expected.getvalue()


def test_grey_is_repeated_and_colour_becomes_luma(tmp_path: Path) -> None:
    grey, colour = noise(6, 5, 1), noise(6, 5, 3, seed=1)
    np.testing.assert_array_equal(read_image(write_image(grey, tmp_path / "grey.png")), grey.repeat(3, axis=-1))
    luma = colour @ np.array([0.299, 0.587, 0.114])
    read = read_image(write_image(colour, tmp_path / "colour.png"), channels=1)
    assert read.shape == (6, 5, 1)
    assert np.abs(read[..., 0] - luma).max() <= 0.51


def test_one_pixel(tmp_path: Path) -> None:
    path = write_image(np.full((1, 1, 3), 77, np.uint8), tmp_path / "a.png")
    assert read_image(path).tolist() == [[[77, 77, 77]]]
    assert read_image(path, 1).tolist() == [[[77]]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    image = smooth(16, 32)
    # what each orientation of the EXIF standard says must be done to the stored rows and columns
    upright = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.swapaxes(0, 1),
        6: np.rot90(image, -1),
        7: np.rot90(image, 2).swapaxes(0, 1),
        8: np.rot90(image, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(image).save(path, exif=exif, **options)
    read = read_image(path)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() <= (3 if suffix == "jpg" else 0)


def test_exif_that_is_damaged_is_ignored(tmp_path: Path) -> None:
    image = smooth(16, 16)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\x00\x05\x01\x0f\x00\x02\xff\xff\xff\xff\xff\xff"
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif, quality=95, dpi=(72, 72))
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - image).max() < 16


def test_sixteen_bit_grey_is_divided_by_257(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257], [32768, 65406, 65407, 65535]], np.uint16)
    expected = np.round(values / 257).astype(np.uint8)[..., None]
    assert expected.ravel().tolist() == [0, 0, 1, 1, 128, 254, 255, 255]
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.fromarray(values.astype(">u2")).save(tmp_path / "big_endian.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "int32.tif")
    for name in ["a.png", "a.tif", "big_endian.tif", "int32.tif"]:
        np.testing.assert_array_equal(read_image(tmp_path / name, 1), expected, err_msg=name)
        np.testing.assert_array_equal(read_image(tmp_path / name), expected.repeat(3, -1), err_msg=name)


def test_sixteen_bit_colour_keeps_its_high_byte(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (3, 4, 3)).astype(">u2")
    path = png_file(tmp_path / "a.png", 16, 2, [row.tobytes() for row in values])
    np.testing.assert_array_equal(read_image(path), (values >> 8).astype(np.uint8))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    cmyk = np.broadcast_to(np.array([10, 100, 200, 50], np.uint8), (16, 16, 4))
    Image.frombytes("CMYK", (16, 16), cmyk.tobytes()).save(tmp_path / "a.jpg", quality=100)
    ink = cmyk[0, 0] / 255
    rgb = 255 * (1 - ink[:3]) * (1 - ink[3])
    read = read_image(tmp_path / "a.jpg")
    assert np.abs(read - rgb).max() <= 3
    assert np.abs(read_image(tmp_path / "a.jpg", 1) - rgb @ [0.299, 0.587, 0.114]).max() <= 3


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha[..., None] / 255
    return colour * weight + 255 * (1 - weight)


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    rgba = noise(9, 8, 4)
    rgba[0, :, 3] = 0
    rgba[1, :, 3] = 255
    for suffix in ["png", "tif"]:
        Image.fromarray(rgba).save(tmp_path / f"rgba.{suffix}")
        read = read_image(tmp_path / f"rgba.{suffix}")
        assert np.abs(read - on_white(rgba[..., :3], rgba[..., 3])).max() <= 1
        assert (read[0] == 255).all()
        np.testing.assert_array_equal(read[1], rgba[1, :, :3])
    luma = on_white(rgba[..., :3], rgba[..., 3]) @ [0.299, 0.587, 0.114]
    assert np.abs(read_image(tmp_path / "rgba.png", 1)[..., 0] - luma).max() <= 1.5
    grey_alpha = rgba[..., 2:]
    Image.frombytes("LA", (8, 9), grey_alpha.tobytes()).save(tmp_path / "la.png")
    read = read_image(tmp_path / "la.png", 1)
    assert np.abs(read - on_white(grey_alpha[..., :1], grey_alpha[..., 1])).max() <= 1


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 128, 255, 60])])
def test_palettes(tmp_path: Path, transparency: int | bytes | None) -> None:
    palette, indices = noise(4, 3), noise(6, 7, seed=2) % 4
    image = Image.frombytes("P", (7, 6), indices.tobytes())
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    alpha = np.full(4, 255.0)
    if isinstance(transparency, int):
        alpha[transparency] = 0
    elif transparency:
        alpha = np.array(list(transparency))
    expected = on_white(palette[indices], alpha[indices])
    assert np.abs(read_image(tmp_path / "a.png") - expected).max() <= 1
    assert np.abs(read_image(tmp_path / "a.png", 1)[..., 0] - expected @ [0.299, 0.587, 0.114]).max() <= 1.5


def test_a_colour_named_transparent_is_white(tmp_path: Path) -> None:
    rows = [bytes([1, 2, 3, 1, 2, 4])]
    path = png_file(tmp_path / "a.png", 8, 2, rows, b"tRNS" + bytes([0, 1, 0, 2, 0, 3]))
    assert read_image(path).tolist() == [[[255, 255, 255], [1, 2, 4]]]


def test_black_and_white(tmp_path: Path) -> None:
    bits = noise(5, 9) > 127
    for suffix in ["png", "tif", "bmp"]:
        Image.fromarray(bits).save(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}", 1)[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert (read_image(tmp_path / f"a.{suffix}") == [255, 0, 0]).all()


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    image = noise(4, 4, 3)
    write_image(image, tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), image)


def test_channels_must_be_one_or_three(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="channels must be 1 .* got 4"):
        read_image(tmp_path / "a.png", 4)


def huge_header(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that says it is this large."""
    png_file(path, 8, 0, [b"\0"])
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(bytes(data))
    return path


BAD = {
    "missing.png": ("No such file", lambda path: None),
    "folder.png": ("Is a directory", lambda path: path.mkdir()),
    "zero.jpg": ("empty file", lambda path: path.touch()),
    "text.jpg": ("not a PNG, JPEG", lambda path: path.write_text("hello, I am\na text")),
    "binary.tif": ("not a PNG, JPEG", lambda path: path.write_bytes(bytes(range(256)))),
    "page.webp": ("a video, but an image is expected", lambda path: path.write_bytes(b"RIFF\0\0\0\0AVI LIST")),
    "float.tif": ("floating-point", lambda path: Image.fromarray(np.zeros((4, 4), np.float32)).save(path)),
    "lab.tif": ("CIELAB", lambda path: Image.new("LAB", (4, 4)).save(path)),
    "int32.tif": (
        "outside 0..65535",
        lambda path: Image.fromarray(np.full((4, 4), 65536, np.int32)).save(path),
    ),
    "negative.tif": (
        "outside 0..65535",
        lambda path: Image.fromarray(np.full((4, 4), -1, np.int32)).save(path),
    ),
    "bomb.png": (r"too large \(50000x50000 px\)", lambda path: huge_header(path, 50000, 50000)),
    "large.png": (r"too large \(9460x9459 px\)", lambda path: huge_header(path, 9460, 9459)),
    "below.png": ("damaged or cut short", lambda path: huge_header(path, 9459, 9459)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    reason, make = BAD[name]
    make(tmp_path / name)
    for read in (read_image, lambda path: read_labels(path, 3)):
        if name in ("float.tif", "lab.tif", "int32.tif", "negative.tif") and read is not read_image:
            continue
        with pytest.raises(InputError, match=reason) as error:
            read(tmp_path / name)
        assert one_line(error).startswith(f"{tmp_path / name}: ")
        assert "; " in one_line(error)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif"])
def test_every_place_to_cut_a_file_short_gives_a_line_or_the_whole_picture(tmp_path: Path, suffix: str) -> None:
    path = write_image(noise(24, 24, 3), tmp_path / f"whole.{suffix}")
    data, whole = path.read_bytes(), read_image(path)
    cut = tmp_path / f"cut.{suffix}"
    for length in [1, 2, 4, 12, 30, len(data) // 2, len(data) * 3 // 4, len(data) - 13, len(data) - 1]:
        cut.write_bytes(data[:length])
        try:
            read = read_image(cut)
        except InputError as error:
            assert "\n" not in str(error) and str(error).startswith(f"{cut}: ")
        else:
            assert length > len(data) * 3 // 4
            np.testing.assert_array_equal(read, whole)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp"])
def test_overwritten_bytes_give_a_line_or_a_picture(tmp_path: Path, suffix: str) -> None:
    data = write_image(noise(16, 16, 3), tmp_path / f"a.{suffix}").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        places = random.integers(8, len(data), 6)
        damaged[places] = random.integers(0, 256, 6)
        (tmp_path / "damaged").write_bytes(damaged.tobytes())
        try:
            with warnings.catch_warnings(action="ignore"):
                assert read_image(tmp_path / "damaged").dtype == np.uint8
        except InputError as error:
            assert "\n" not in str(error)


def test_above_the_limit_of_pillow_is_an_error_and_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(noise(20, 20, 3), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()
    with warnings.catch_warnings(action="ignore"), pytest.raises(InputError, match=r"too large \(20x20 px\)"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert read_image(path).shape == (20, 20, 3)


@pytest.mark.parametrize("pixels", [1, 50, 101, 10_000])
def test_an_image_of_many_strips_is_that_of_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    monkeypatch.setattr("common.images.reading.STRIP_PIXELS", pixels)
    for shape in [(70, 30, 4), (70, 30, 3), (2, 101, 4)]:
        colours = noise(*shape)
        Image.fromarray(colours).save(tmp_path / "a.png")
        expected = on_white(colours[..., :3], colours[..., 3]) if shape[-1] == 4 else colours
        assert np.abs(read_image(tmp_path / "a.png") - expected).max() <= 1
    indices, deep = noise(70, 30), noise(70, 30).astype(np.uint16) * 257
    palette = Image.frombytes("P", (30, 70), indices.tobytes())
    palette.putpalette(noise(256, 3).tobytes())
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), noise(256, 3)[indices])
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", 1)[..., 0], deep // 257)


def test_many_threads_read_what_one_reads(tmp_path: Path) -> None:
    contents = [noise(32, 24, 3, seed=seed) for seed in range(40)]
    paths = [write_image(content, tmp_path / f"{seed:02}.png") for seed, content in enumerate(contents)]
    with ThreadPoolExecutor(8) as threads:
        for read, content in zip(threads.map(read_image, paths), contents, strict=True):
            np.testing.assert_array_equal(read, content)


# --- label maps --------------------------------------------------------------------------------------------


def test_read_labels_takes_values_or_palette_indices(tmp_path: Path) -> None:
    labels = noise(8, 6) % 5
    Image.fromarray(labels).save(tmp_path / "grey.png")
    palette = Image.frombytes("P", (6, 8), labels.tobytes())
    palette.putpalette(noise(5, 3).tobytes())
    palette.save(tmp_path / "palette.png")
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "sixteen.png")
    for name in ["grey.png", "palette.png", "sixteen.png"]:
        read = read_labels(tmp_path / name, classes=5)
        np.testing.assert_array_equal(read, labels)
        assert read.dtype == np.uint8
        with pytest.raises(InputError, match="contains label 4; 4 classes have labels 0 to 3"):
            read_labels(tmp_path / name, classes=4)
    Image.fromarray(labels > 2).save(tmp_path / "two.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "two.png", classes=2), labels > 2)


def test_read_labels_refuses_pictures(tmp_path: Path) -> None:
    write_image(noise(8, 8, 3), tmp_path / "rgb.png")
    with pytest.raises(InputError, match="is an image in mode RGB; a label map needs one channel.* 0 to 4"):
        read_labels(tmp_path / "rgb.png", 5)
    write_image(np.zeros((8, 8, 1), np.uint8), tmp_path / "a.jpg")
    with pytest.raises(InputError, match="a JPEG.*PNG"):
        read_labels(tmp_path / "a.jpg", 5)


def test_label_colours_are_far_apart() -> None:
    from skimage.color import rgb2lab

    assert LABEL_COLOURS.shape == (40, 3) and LABEL_COLOURS.dtype == np.uint8
    for colours, least in [(LABEL_COLOURS.astype(float), 56), (rgb2lab(LABEL_COLOURS[None] / 255)[0], 25)]:
        distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
        assert distance[~np.eye(40, dtype=bool)].min() > least


def test_colours_and_labels_are_inverse_also_with_noise() -> None:
    labels = noise(2, 9, 7) % 32
    coloured = colour_labels(labels)
    with pytest.raises(InputError, match="label 40; only 0 to 39 have colours"):
        colour_labels(np.array([3, 40], np.uint8))
    assert coloured.shape == (2, 9, 7, 3)
    np.testing.assert_array_equal(labels_from_colours(coloured, 32), labels)
    # less than half the smallest distance: 15 * sqrt(3) < 56 / 2
    disturbance = np.random.default_rng(1).integers(-15, 16, coloured.shape)
    noisy = np.clip(coloured + disturbance, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(labels_from_colours(noisy, 32), labels)


def test_nearest_colour_agrees_with_all_distances() -> None:
    image = noise(30, 20, 3)
    for classes in (1, 12, 40):
        distance = ((image[..., None, :].astype(int) - LABEL_COLOURS[:classes]) ** 2).sum(-1)
        np.testing.assert_array_equal(labels_from_colours(image, classes), distance.argmin(-1))
    with pytest.raises(ValueError, match="classes=41"):
        labels_from_colours(image, 41)


# --- sizes and ranges --------------------------------------------------------------------------------------


def test_resize_keeps_axes_and_does_not_alias() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    small = resize_image(board, 16, 8)
    assert small.shape == (16, 8, 1) and small.dtype == np.uint8
    assert np.abs(small[2:-2, 2:-2].astype(int) - 127.5).max() <= 2
    assert resize_image(board[..., 0], 5, 6).shape == (5, 6)
    assert resize_image(noise(4, 4, 3), 9, 7).shape == (9, 7, 3)


def test_resize_enlarges_with_the_cubic_kernel() -> None:
    """Against the kernel of Keys (1981) with a = -0.5, evaluated at the centres of the new pixels."""
    row = noise(1, 25, 1) // 2 + 64
    centres = ((np.arange(50) + 0.5) / 2 - 0.5)[6:-6]
    distance = np.abs(centres[:, None] - np.arange(25))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    kernel = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    np.testing.assert_allclose(resize_image(row, 1, 50)[0, 6:-6, 0], kernel @ row[0, :, 0], atol=0.6)


def test_nearest_resize_makes_no_new_labels() -> None:
    labels = noise(6, 5) % 7
    doubled = resize_image(labels, 12, 15, nearest=True)
    np.testing.assert_array_equal(doubled, labels.repeat(2, 0).repeat(3, 1))
    np.testing.assert_array_equal(resize_image(doubled, 6, 5, nearest=True), labels)
    np.testing.assert_array_equal(resize_image(doubled[..., None], 6, 5, nearest=True), labels[..., None])


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4)), np.zeros((1, 4, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        resize_image(bad, 2, 2)


def test_crop_square() -> None:
    image = noise(5, 8, 3)
    np.testing.assert_array_equal(crop_square(image), image[:, 1:6])
    np.testing.assert_array_equal(crop_square(image.swapaxes(0, 1)), image.swapaxes(0, 1)[1:6])
    np.testing.assert_array_equal(crop_square(image[:, :5, 0]), image[:, :5, 0])


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1, 1), (1, 9, 3), (2, 3, 3), (8, 16, 3), (17, 1, 1)])
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_pad_to_multiple(shape: tuple[int, ...], multiple: int) -> None:
    image = noise(*shape)
    padded = pad_to_multiple(image, multiple)
    assert padded.shape == (
        -(-shape[0] // multiple) * multiple,
        -(-shape[1] // multiple) * multiple,
        shape[2],
    )

    def source(place: np.ndarray, side: int) -> np.ndarray:
        around = place % (2 * side)
        return np.where(around < side, around, 2 * side - 1 - around)

    rows, columns = (source(np.arange(padded.shape[axis]), shape[axis]) for axis in (0, 1))
    np.testing.assert_array_equal(padded, image[rows][:, columns])


def test_ranges_are_inverse_and_reach_both_ends() -> None:
    every = np.arange(256, dtype=np.uint8)
    floats = from_uint8(every)
    assert floats.dtype == tf.float32
    np.testing.assert_allclose(floats, np.linspace(-1, 1, 256), atol=1e-6)
    assert float(floats[0]) == -1 and float(floats[-1]) == 1
    np.testing.assert_array_equal(to_uint8(floats), every)
    np.testing.assert_array_equal(to_uint8(np.asarray(floats)), every)
    in_graph = tf.function(from_uint8)(tf.constant(every))
    np.testing.assert_allclose(in_graph, floats, atol=1e-6)
    np.testing.assert_array_equal(to_uint8(in_graph), every)


def test_to_uint8_clips_and_rounds_and_takes_other_floats() -> None:
    values = np.array([-7, -1, -0.995, 0, 0.001, 0.999, 1, 3])
    assert to_uint8(values).tolist() == [0, 0, 1, 128, 128, 255, 255, 255]
    assert to_uint8(tf.constant([-1, 0.5, 1], tf.bfloat16)).tolist() == [0, 191, 255]
    assert to_uint8(tf.constant([-1, 0.5, 1], tf.float16)).tolist() == [0, 191, 255]


# --- writing -----------------------------------------------------------------------------------------------


def test_write_image_names_the_suffixes_that_would_do_and_leaves_nothing(tmp_path: Path) -> None:
    for name in ["a.pgn", "a"]:
        with pytest.raises(InputError, match="must end in one of .png .jpg") as error:
            write_image(noise(4, 4, 3), tmp_path / name)
        assert name in one_line(error)
    with pytest.raises(ValueError, match="uint8"):
        write_image(np.zeros((4, 4, 3)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "most"), [("a.webp", 16_383), ("a.jpg", 65_500), ("a.JPEG", 65_500), ("a.gif", 65_535)]
)
def test_an_image_too_large_for_its_format_is_one_line(tmp_path: Path, name: str, most: int) -> None:
    for shape in [(most + 1, 1, 3), (1, most + 1, 1)]:
        image = np.zeros(shape, np.uint8)
        with pytest.raises(
            InputError, match=f"this format stores at most {most:,} px per side, but .*in .png"
        ) as error:
            write_image(image, tmp_path / name)
        assert f"{shape[1]}x{shape[0]}" in one_line(error)
        with pytest.raises(InputError, match="at most"):
            save_grid(image[None], tmp_path / name)
        assert write_image(image, tmp_path / "a.png").stat().st_size > 0
    write_image(np.zeros((most, 1, 3), np.uint8), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir() if path.name != "a.png"] == [name]


def test_a_grid_too_large_for_its_format_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.images.writing.tiled", None)
    with pytest.raises(InputError, match="16,383 px per side, but the image has 66x20002"):
        save_grid(np.zeros((8 * 2000, 8, 6, 1), np.uint8), tmp_path / "grid.webp")
    with pytest.raises(InputError, match="65,535 px per side, but the image has 65536x2"):
        save_gif(np.zeros((1, 2, 65_536, 3), np.uint8), tmp_path / "a.gif")


def test_grid_has_each_tile_in_its_place_on_white(tmp_path: Path) -> None:
    tiles = noise(5, 3, 4, 3)
    sheet = read_image(save_grid(tiles, tmp_path / "grid.png", columns=2, zoom=2))
    expected = np.full((2 + 3 * (6 + 2), 2 + 2 * (8 + 2), 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = 2 + number // 2 * 8, 2 + number % 2 * 10
        expected[top : top + 6, left : left + 8] = np.asarray(Image.fromarray(tile).resize((8, 6), Image.BICUBIC))
    np.testing.assert_array_equal(sheet, expected)


def test_grid_of_few_grey_tiles_is_as_wide_as_they_are(tmp_path: Path) -> None:
    path = save_grid(noise(3, 4, 4, 1), tmp_path / "grid.png")
    with Image.open(path) as picture:
        assert picture.size == (2 + 3 * 6, 8) and picture.mode == "L"


def test_a_row_has_each_picture_as_high_as_the_others_with_white_between(tmp_path: Path) -> None:
    colours = [(200, 10, 30), (0, 90, 250), (5, 160, 20)]
    sizes = [(20, 40), (10, 5), (400, 1)]
    images = [np.full((*size, 3), colour, np.uint8) for size, colour in zip(sizes, colours, strict=True)]
    row = read_image(save_row(images, tmp_path / "row.png", height=30))
    widths = [60, 15, 1]  # 30 times the width, divided by the height; a pixel at least
    assert row.shape == (30, sum(widths) + 2 * 4, 3)
    left = 0
    for width, colour in zip(widths, colours, strict=True):
        assert (row[:, left : left + width] == colour).all()
        assert (row[:, left + width : left + width + 4] == 255).all()
        left += width + 4
    assert read_image(save_row(images[:1], tmp_path / "one.png")).shape == (320, 640, 3)
    np.testing.assert_array_equal(
        read_image(save_row([noise(30, 7, 3)] * 2, tmp_path / "two.png", 30))[:, 11:], noise(30, 7, 3)
    )
    with pytest.raises(InputError, match="not an image name"):
        save_row(images, tmp_path / "row.gif2")


def test_a_row_of_a_dictionary_has_its_keys_above_the_images(tmp_path):
    images = {"first": noise(40, 60, 3), "second": noise(40, 80, 3)}
    row = read_image(save_image(images, tmp_path / "row.png", height=40))
    assert row.shape == (40 + 26, 60 + 4 + 80, 3)
    np.testing.assert_array_equal(row[26:, :60], images["first"])
    np.testing.assert_array_equal(row[26:, 64:], images["second"])
    assert row[:26, :60].min() < 100 < 255 == row[:26, 60:64].min() and row[:26, 64:].min() < 100
    assert (row[0] == 255).all() and (row[25] == 255).all()


def test_table_has_captions_at_the_left_and_mixes_grey_with_colour(tmp_path: Path) -> None:
    grey, colour = noise(2, 40, 90, 1), noise(2, 40, 90, 3, seed=1)
    table = read_image(save_table({"input": grey, "result": colour}, tmp_path / "table.png"))
    margin = table.shape[1] - (2 + 2 * 92)
    assert table.shape[0] == 2 * 44
    np.testing.assert_array_equal(table[2:42, margin + 2 : margin + 92], grey[0].repeat(3, -1))
    np.testing.assert_array_equal(table[46:86, margin + 94 : margin + 184], colour[1])
    for top in (0, 44):
        ink = np.argwhere(table[top : top + 44, :margin, 0] < 128)
        height, width = np.ptp(ink, axis=0) + 1
        assert height >= 9 and width >= 25  # legible, and whole: nothing touches the ends
        assert ink.min() > 0 and ink[:, 1].max() < margin - 3
        assert abs(ink[:, 0].mean() - 22) < 4


def test_table_makes_room_for_long_captions(tmp_path: Path) -> None:
    tile = np.full((1, 8, 8, 1), 100, np.uint8)
    table = read_image(save_table({"a rather long caption": tile, "b": tile}, tmp_path / "table.png"))
    ink = np.flatnonzero((table[..., 0] < 60).any(0))
    assert ink[0] >= 2 and ink[-1] < table.shape[1] - 12
    assert (table[:, -12:, 0] == 100).sum() == 2 * 64


def test_table_refuses_rows_that_do_not_match(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'b': \[2, 8, 8, 3\]"):
        save_table({"a": noise(1, 8, 8, 3), "b": noise(2, 8, 8, 3)}, tmp_path / "table.png")


def gif_frames(path: Path) -> tuple[np.ndarray, list[int], object]:
    with GifImagePlugin.GifImageFile(path) as animation:
        loop, frames, durations = animation.info.get("loop"), [], []
        for number in range(animation.n_frames):
            animation.seek(number)
            durations.append(animation.info["duration"])
            frames.append(np.asarray(animation.convert("RGB")))
    return np.stack(frames), durations, loop


def test_gif_keeps_grey_and_few_colours_exactly_and_loops_for_ever(tmp_path: Path) -> None:
    grey, few = noise(4, 20, 16, 1), colour_labels(noise(4, 20, 16, seed=1) % 32)
    for frames in (grey, few):
        read, durations, loop = gif_frames(save_gif(frames, tmp_path / "a.gif", milliseconds=70))
        np.testing.assert_array_equal(read, np.broadcast_to(frames, (4, 20, 16, 3)))
        assert durations == [70] * 4 and loop == 0


def test_gif_of_many_colours_stays_close(tmp_path: Path) -> None:
    frames = np.stack([np.roll(smooth(64, 64), shift, axis=1) for shift in (0, 20, 40)])
    read, _, _ = gif_frames(save_gif(frames, tmp_path / "a.gif"))
    # 256 cells that share a plane of 256x256 colours are 16 wide: about 4 off on average, 8 at the edges
    difference = np.abs(read.astype(int) - frames)
    assert difference.mean() < 4.5 and np.quantile(difference, 0.99) < 14


def test_gif_must_be_named_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must end in .gif"):
        save_gif(noise(2, 4, 4, 3), tmp_path / "a.png")


# --- checking ----------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    """Ten good images with four bad ones at places 1, 4, 6, 13: empty, text, too small, empty."""
    paths = [tmp_path / f"{number:02}.png" for number in range(14)]
    for path in paths:
        write_image(noise(8, 9, 3), path)
    paths[1].write_bytes(b"")
    paths[4].write_text("no image")
    write_image(noise(7, 300, 3), paths[6])
    paths[13].write_bytes(b"")
    return paths


def test_bad_images_stop_with_one_line(mixed: list[Path]) -> None:
    with pytest.raises(InputError) as error:
        checked_images(mixed, read_image)
    assert one_line(error) == (
        f"4 of 14 images cannot be used: {mixed[1]}: an empty file (0 bytes); copy or download it "
        f"again; also {mixed[4]} and {mixed[6]}; repair or remove them, or add --skip-bad to skip them"
    )


def test_bad_images_are_left_out_on_request(mixed: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    good, messages = checked_images(mixed, read_image, skip_bad=True)
    assert good == [path for number, path in enumerate(mixed) if number not in (1, 4, 6, 13)]
    assert [message.split(":")[0] for message in messages] == [str(mixed[number]) for number in (1, 4, 6, 13)]
    assert messages[2] == f"{mixed[6]}: too small (300x7 px); it needs at least 8x8 px"
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[:4] == messages
    assert lines[4:] == ["skipped 4 of 14 images, because they cannot be used"]


def test_at_most_five_bad_images_are_printed(mixed: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for path in mixed[7:12]:
        path.unlink()
    _, messages = checked_images(mixed, read_image, skip_bad=True)
    assert len(messages) == 9
    assert len(capsys.readouterr().err.splitlines()) == 6


def test_a_narrow_image_is_too_small_as_a_flat_one_is(tmp_path: Path) -> None:
    sizes = {"a": (8, 8), "b": (300, 7), "c": (7, 300)}
    good, messages = checked_images(
        [Path(name) for name in sizes], lambda path: np.zeros(sizes[str(path)]), skip_bad=True
    )
    assert good == [Path("a")]
    assert [message.split(" px")[0] for message in messages] == ["b: too small (7x300", "c: too small (300x7"]


def test_no_good_image_is_an_error_in_any_case(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(InputError, match="2 of 2 images cannot be used.*repair or remove them$"):
        checked_images(paths, read_image, skip_bad=True)
    with pytest.raises(InputError, match="no images were given"):
        checked_images([], read_image)


def test_messages_without_a_path_get_it_and_other_errors_pass(tmp_path: Path) -> None:
    def odd(path: Path) -> np.ndarray:
        if path.name == "bad":
            raise InputError("no pair")
        return noise(8, 8)

    paths = [tmp_path / "good", tmp_path / "bad"]
    assert checked_images(paths, odd, skip_bad=True) == ([paths[0]], [f"{paths[1]}: no pair"])
    with pytest.raises(ZeroDivisionError):
        checked_images(paths, lambda path: 1 // 0)


def test_a_check_of_images_that_takes_long_shows_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, image = [tmp_path / str(number) for number in range(20)], noise(8, 8, 3)
    checked_images(paths, lambda path: image)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("common.system.console.Progress.FIRST_LINE", 0.0)  # seconds
    checked_images(paths, lambda path: image)
    assert capsys.readouterr().err.startswith("checking images: 1 of 20 ")
