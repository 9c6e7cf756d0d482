"""Images on disk as arrays and back: reading by stated rules, label maps, sizes, ranges, tables and GIFs.

Everywhere an image is uint8 [height, width, channels], RGB or grey; a batch has one more axis in front.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from common.decoding import decoded_image
from common.errors import InputError, printable
from common.files import replacing
from common.lazy import tf

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
STRIP_PIXELS = 1_000_000  # that are converted at a time
# Pixels of a side; the other formats have no limit that matters.
LARGEST_SIDES = {".webp": 16_383, ".gif": 65_535, ".jpg": 65_500, ".jpeg": 65_500, ".mp4": 8191}


class ImageFile(Protocol):
    """What a picture is read from: a path, or something else with bytes, whose text names it in messages."""

    def read_bytes(self) -> bytes:
        """Return the file's bytes; OSError where they cannot be read."""


def image_file(name: ImageFile | str | bytes) -> ImageFile:
    """Return the file of that name, which may come from a tf.data graph as bytes; a file stays what it is."""
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else name


def find_images(folder: Path) -> list[Path]:
    """Return the images directly in `folder`: chosen by suffix in any case, sorted, hidden files left out.

    Raises:
        InputError: the folder is missing, is a file, or holds no image.
    """
    if not folder.is_dir():
        problem = "a file, not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {problem}; give a folder that holds images")
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
    if not images:
        names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries[:5]]
        more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
        found = f"only {', '.join(names)}{more}" if names else "nothing at all"
        raise InputError(f"{folder}: no images, {found}; expected files ending in {' '.join(IMAGE_SUFFIXES)}")
    return images


def read_image(path: ImageFile, channels: int = 3) -> np.ndarray:
    """Read a PNG, JPEG, BMP, GIF, WebP or TIFF file into uint8 [height, width, channels]; safe in threads.

    The rules: the content decides the format, not the name; the rotation that EXIF states is applied; of an
    animation the first frame is taken; palettes, CMYK and YCbCr become RGB; 16-bit grey is divided by 257 and
    rounded (16-bit colour keeps its high byte); what is transparent is composited on white; RGB becomes grey
    by ITU-R BT.601 luma, 0.299 R + 0.587 G + 0.114 B; grey becomes RGB by repetition; black and white become
    0 and 255. Colour profiles are not applied.

    Reading takes about 7 bytes of memory per pixel, up to 10 for TIFF and progressive JPEG, 16 for WebP. A large
    image is announced on standard error before it is read.

    Args:
        path: the file, of at most `Image.MAX_IMAGE_PIXELS` of Pillow, which is 89,478,485 and may be set.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: missing, a folder, empty, damaged or cut short, of another format, too large, or of a kind
            whose values have no stated place in 0..255 (floating point, CIELAB, integers beyond 0..65535).
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}; an image has 1 (grey) or 3 (RGB)")
    with decoded_image(path) as image:
        known = "1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"
        if image.mode not in known and not image.mode.startswith("I"):
            kind = {"F": "floating-point pixels", "LAB": "CIELAB colours"}.get(image.mode, f"mode {image.mode}")
            raise InputError(f"{path}: {kind}; save it as grey or RGB with 8 or 16 bits a channel")
        if image.mode == "P" and image.palette is None:
            raise InputError(f"{path}: damaged, its palette is missing; copy or download it again")
        values = np.empty((image.height, image.width, channels), np.uint8)
        # In strips: a conversion is a copy, and a large picture with what is made of it would need 18 bytes a pixel.
        rows = max(1, STRIP_PIXELS // image.width)
        for top in range(0, image.height, rows):
            bottom = min(top + rows, image.height)
            strip = image if bottom - top == image.height else image.crop((0, top, image.width, bottom))
            try:
                values[top : top + rows] = _to_channels(strip, channels)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        return values


def _to_channels(image: Image.Image, channels: int) -> np.ndarray:
    """Return a picture of Pillow's as uint8 [height, width, channels], by the rules of `read_image`."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError("integers beyond 0..65535; save it with 8 or 16 bits a channel")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        transparent = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(transparent, mask=transparent)
    return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)


def read_labels(path: ImageFile, classes: int) -> np.ndarray:
    """Read a map of class numbers into uint8 [height, width].

    Args:
        path: a PNG, or other lossless file, with one channel, whose values are the classes, or with a
            palette, whose indices are.
        classes: how many there are, at most 256; every value must be below.

    Raises:
        InputError: as `read_image`; also a JPEG, a picture in colours, or a value that is no class.
    """
    with decoded_image(path) as image:
        if image.format == "JPEG":
            raise InputError(f"{path}: a JPEG, whose compression alters class numbers; save label maps as PNG")
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            right = f"a label map has one channel, or a palette, with values 0 to {classes - 1}"
            raise InputError(f"{path}: a picture in {image.mode}; {right}")
        labels = np.asarray(image)
        wrong = labels[(labels < 0) | (labels >= classes)]
        if wrong.size:
            raise InputError(f"{path}: holds {int(wrong[0])}; with {classes} classes 0 to {classes - 1} are right")
        return labels.astype(np.uint8)


# The first twelve are those of a street by day. Each of the others was chosen as far as possible from all
# before, in RGB and in CIELAB, on a lattice of 16; no two are nearer than 56 in RGB.
# fmt: off
LABEL_COLOURS = np.array([
    (112, 176, 232), (152, 84, 64), (216, 208, 168), (80, 80, 88),  # sky, building, pole, road
    (184, 168, 192), (40, 128, 48), (248, 208, 24), (128, 104, 0),  # pavement, tree, sign, fence
    (32, 64, 208), (224, 24, 40), (255, 128, 0), (0, 0, 0),  # car, pedestrian, bicyclist, unlabelled
    (255, 0, 208), (0, 255, 112), (0, 255, 255), (144, 0, 255), (255, 96, 144), (144, 208, 0), (144, 0, 128),
    (0, 144, 144), (255, 144, 255), (0, 16, 96), (128, 255, 176), (112, 96, 176), (96, 0, 48), (160, 192, 96),
    (192, 80, 240), (224, 144, 80), (0, 144, 255), (176, 240, 255), (48, 64, 0), (80, 255, 0),
    (176, 96, 144), (255, 160, 160), (160, 0, 48), (0, 160, 0), (240, 255, 112), (128, 128, 96), (0, 64, 48),
    (160, 128, 255),
], np.uint8)
# fmt: on


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """Return class numbers, unsigned [...], in the colours of LABEL_COLOURS: uint8 [..., 3].

    Raises:
        InputError: a number is too large to have a colour.
    """
    if labels.size and labels.max() >= len(LABEL_COLOURS):
        raise InputError(f"a label map with class {labels.max()}: there are colours for 0 to {len(LABEL_COLOURS) - 1}")
    return LABEL_COLOURS[labels]


def labels_from_colours(image: np.ndarray, classes: int) -> np.ndarray:
    """Return the class below `classes` whose colour is nearest in RGB: uint8 [..., 3] -> uint8 [...].

    Of two equally near the lower is taken. Needs some 25 bytes of memory a pixel.
    """
    if not 1 <= classes <= len(LABEL_COLOURS):
        raise ValueError(f"classes={classes}; there are colours for 1 to {len(LABEL_COLOURS)}")
    pixels = image.astype(np.float32)
    labels = np.zeros(image.shape[:-1], np.uint8)
    nearest = np.full(image.shape[:-1], np.inf, np.float32)
    for label, colour in enumerate(LABEL_COLOURS[:classes].astype(np.float32)):
        # The squared distance less the pixel's own square, the same for all: whole, so exact in float32.
        distance = colour @ colour - pixels @ (2 * colour)
        labels[distance < nearest] = label
        np.minimum(nearest, distance, out=nearest)
    return labels


def _pillow_image(image: np.ndarray) -> Image.Image:
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"{image.dtype} {list(image.shape)}; an image is uint8 [height, width, 1 or 3]")
    return Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)


def resize_image(image: np.ndarray, height: int, width: int, nearest: bool = False) -> np.ndarray:
    """Return `image`, uint8 [h, w, channels] or a label map [h, w], in another size; the axes stay.

    Bicubic, with the filter widened when shrinking so that nothing aliases: sharper than bilinear, narrower
    halos at edges than Lanczos, and the usual choice before a Frechet distance (Parmar, Zhang, Zhu, "On
    Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022, arXiv:2104.11222). `nearest`
    makes no new values, as label maps need.
    """
    from PIL import Image

    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    resized = np.array(_pillow_image(image).resize((width, height), method))
    return resized.reshape(height, width, *image.shape[2:])


def crop_square(image: np.ndarray) -> np.ndarray:
    """Return the largest square at the centre of [height, width, ...], as a view."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def pad_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Mirror [height, width, channels] at the bottom and the right until `multiple` divides both sides.

    The mirror repeats the outermost row, so that a side of one pixel and a padding beyond the image work.
    Crop what is computed from it to `[:height, :width]`.
    """
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="symmetric")


def from_uint8(images: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Return 0..255, an array or a tensor (in a graph too), as float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray | tf.Tensor) -> np.ndarray:
    """Return floats in [-1, 1], an array or a tensor, as uint8: rounded, and clipped to 0..255."""
    return np.clip(np.round((np.asarray(images, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def image_suffix(path: Path) -> str:
    """Return the suffix of an image's name, in small letters. Raises InputError where it has none."""
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise InputError(f"{path}: no suffix of an image; it must end in one of {' '.join(IMAGE_SUFFIXES)}")
    return suffix


def check_image_size(path: Path, height: int, width: int) -> None:
    """Raise InputError where the format of the path's suffix cannot hold an image of this size."""
    most = LARGEST_SIDES.get(path.suffix.lower(), max(height, width))
    if max(height, width) > most:
        limit = f"this format holds at most {most:,} px a side"
        raise InputError(f"{path}: {limit}, and the image has {width}x{height}; give a name that ends in .png")


def write_image(image: np.ndarray, path: Path) -> Path:
    """Write uint8 [height, width, 1 or 3] in the format of the path's suffix (JPEG and WebP at quality 95).

    Raises:
        InputError: the suffix is none of IMAGE_SUFFIXES, or the image is too large for the format.
    """
    suffix = image_suffix(path)
    check_image_size(path, *image.shape[:2])
    options: dict[str, Any] = {"quality": 95} if suffix in (".jpg", ".jpeg", ".webp") else {}
    with replacing(path) as draft:
        _pillow_image(image).save(draft, **options)
    return path


def tiled(images: np.ndarray, columns: int, zoom: int) -> np.ndarray:
    """Return [n, h, w, c] as one image, row by row, 2 white pixels around each; see `save_grid`."""
    rows = -(-len(images) // columns)
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    spare = rows * columns - len(images)
    tiles = np.pad(images, ((0, spare), (2, 0), (2, 0), (0, 0)), constant_values=255)
    _, height, width, channels = tiles.shape
    tiles = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    sheet = tiles.reshape(rows * height, columns * width, channels)
    return np.pad(sheet, ((0, 2), (0, 2), (0, 0)), constant_values=255)


def save_grid(images: np.ndarray, path: Path, columns: int = 8, zoom: int = 1) -> Path:
    """Write uint8 [n, h, w, c], at least one, as tiles on white, row by row, `columns` in a row.

    Each pixel is drawn `zoom` pixels wide and high. Raises InputError as `write_image`.
    """
    columns, (height, width) = min(columns, len(images)), images.shape[1:3]
    rows = -(-len(images) // columns)
    check_image_size(path, 2 + rows * (height * zoom + 2), 2 + columns * (width * zoom + 2))
    return write_image(tiled(images, columns, zoom), path)


def save_samples(images: np.ndarray, destination: Path, singles: bool = False) -> Path:
    """Write uint8 [n, h, w, 1 or 3] as one grid or, with `singles`, as one PNG each into the folder `destination`.

    Raises InputError as `write_image`.
    """
    if not singles:
        return save_grid(images, destination)
    for number, image in enumerate(images):
        write_image(image, destination / f"{number:06d}.png")
    return destination


def save_row(images: Sequence[np.ndarray], path: Path, height: int = 320) -> Path:
    """Write uint8 [h, w, 3] of any sizes in a row, each `height` pixels high. Raises InputError as `write_image`."""
    row = [resize_image(image, height, max(1, round(image.shape[1] * height / image.shape[0]))) for image in images]
    gaps = [np.pad(image, ((0, 0), (0, 4), (0, 0)), constant_values=255) for image in row]
    return write_image(np.concatenate(gaps, 1)[:, :-4], path)


def save_table(rows: dict[str, np.ndarray], path: Path, zoom: int = 1) -> Path:
    """Write a picture with one column a sample and one row a key, which stands to its left.

    `rows` maps captions to uint8 [n, h, w, 1 or 3], with the same n and w in all. Each pixel is drawn `zoom`
    pixels wide and high. Raises InputError as `write_image`.
    """
    from PIL import Image, ImageDraw, ImageFont

    if len({(images.shape[0], images.shape[2]) for images in rows.values()}) != 1:
        shapes = {caption: list(images.shape) for caption, images in rows.items()}
        raise ValueError(f"rows {shapes}; each needs the same number of images, of the same width")
    font = ImageFont.load_default(size=14)
    strips = [tiled(images, len(images), zoom).repeat(3 // images.shape[-1], axis=-1) for images in rows.values()]
    margin = 14 + int(max(font.getlength(caption) for caption in rows))
    table = Image.new("RGB", (margin + strips[0].shape[1], sum(len(strip) for strip in strips)), "white")
    draw = ImageDraw.Draw(table)
    top = 0
    for caption, strip in zip(rows, strips, strict=True):
        draw.text((margin - 7, top + len(strip) / 2), caption, "black", font, anchor="rm")
        table.paste(Image.fromarray(strip), (margin, top))
        top += len(strip)
    return write_image(np.asarray(table), path)


def save_gif(frames: np.ndarray, path: Path, milliseconds: int = 100) -> Path:
    """Write uint8 [n, h, w, 1 or 3] as an animation that loops for ever.

    Each frame has a palette of its own: grey and up to 256 colours are kept exactly, more become 256 without
    dithering, whose dots show on small pictures.
    Each frame stays for `milliseconds`, a multiple of 10; many players slow down what is below 20. Equal
    frames in a row are stored as one that stays longer.

    Raises:
        InputError: `path` does not end in .gif, or the frames are too large for a GIF.
    """
    from PIL import Image

    if path.suffix.lower() != ".gif":
        raise InputError(f"{path}: not the name of a GIF, as animations are written; it must end in .gif")
    check_image_size(path, *frames.shape[1:3])
    pictures = [_pillow_image(frame) for frame in frames]
    if frames.shape[-1] == 3:
        # k-means brings 3 dB, but seconds a frame where frames are large
        rounds = 2 if frames[0, ..., 0].size <= 128 * 128 else 0
        pictures = [picture.quantize(256, Image.Quantize.MEDIANCUT, rounds) for picture in pictures]
    first, *rest = pictures
    with replacing(path) as draft:
        first.save(draft, save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return path


def png_targets(paths: list[Path], destination: Path) -> list[Path]:
    """Return for each image the PNG of its name in the folder `destination`.

    Raises:
        InputError: two of them would become the same file.
    """
    names: dict[str, Path] = {}
    for path in paths:
        if names.setdefault(path.stem, path) is not path:
            raise InputError(f"{names[path.stem]} and {path} would both become {path.stem}.png; rename one")
    return [destination / f"{path.stem}.png" for path in paths]


def checked_images(
    paths: list[Path], read: Callable[[Path], np.ndarray], skip_bad: bool = False, smallest: int = 8
) -> tuple[list[Path], list[str]]:
    """Read every image once, in threads, so that a bad one is found before training and not in its midst.

    Args:
        paths: the files to try.
        read: returns [height, width, ...] or raises InputError; called from several threads.
        skip_bad: go on with the good ones, naming the bad ones on standard error, instead of raising.
        smallest: fewest pixels that a side must have.

    Returns:
        The paths of the good ones, in order, and a message for each bad one.

    Raises:
        InputError: one is bad and `skip_bad` is not set, or none is good.
    """
    from tqdm import tqdm

    def problem(path: Path) -> str:
        name = printable(path)
        try:
            height, width = read(path).shape[:2]
        except InputError as error:
            return str(error) if name in str(error) else f"{name}: {error}"
        if min(height, width) < smallest:
            return f"{name}: {width}x{height} px is too small to learn from, at least {smallest}x{smallest}"
        return ""

    quiet = len(paths) <= 1000 or not sys.stderr.isatty()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = tqdm(threads.map(problem, paths), "checking images", len(paths), disable=quiet, unit="image")
        problems = list(zip(paths, results, strict=True))
    good = [path for path, message in problems if not message]
    bad = [path for path, message in problems if message]
    messages = [message for _, message in problems if message]
    if not good or (bad and not skip_bad):
        if not paths:
            raise InputError("no images were given; at least one is needed")
        others = f"; then {' and '.join(map(str, bad[1:3]))}" if bad[1:] else ""
        remedy = ", or go on without them with --skip-bad" if good else ""
        raise InputError(
            f"{len(bad)} of {len(paths)} images cannot be used, the first: {messages[0]}{others}; "
            f"mend them or move them away{remedy}"
        )
    for message in messages[:5]:
        print(message, file=sys.stderr)
    if messages:
        print(f"going on without {len(messages)} of {len(paths)} images, which cannot be used", file=sys.stderr)
    return good, messages
