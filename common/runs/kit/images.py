"""Image files and pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont, ImageOps

from common.runs.kit.files import InputError, write


def from_uint8(images: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Convert pixels from uint8 to float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray | tf.Tensor) -> np.ndarray:
    """Convert pixels from floats in [-1, 1] to uint8."""
    return np.clip(np.round((np.asarray(images, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def find_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name."""
    suffixes = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
    return sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in suffixes)


def read_image(
    path: Path,
    channels: int = 3,
    size: int = 0,  # only with: images_of or labelled_images or unpaired_images or attributed or Classifier
    classes: int = 0,  # only with: classes: Annotated
) -> np.ndarray:
    """Read an image as uint8 [height, width, channels]. If `size` is not 0, centre-crop and resize it to this size."""
    try:
        # only with: classes: Annotated
        if classes:
            colours = np.load(Path(__file__).with_name("sample.npz"))["colours"]
            return colours[:classes][np.array(Image.open(path))]
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB" if channels == 3 else "L")
    except Exception as error:  # a damaged file may raise any exception
        raise InputError(f"{path}: not a readable image ({error})") from None
    # only with: images_of or labelled_images or unpaired_images or attributed or Classifier
    if size:
        side, (left, top) = min(image.size), ((length - min(image.size)) // 2 for length in image.size)
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image).reshape(image.height, image.width, channels)


def pillow_image(image: np.ndarray, zoom: int = 1) -> Image.Image:
    """Convert uint8 [height, width, 1 or 3] to a Pillow image in RGB."""
    return ImageOps.scale(Image.fromarray(image.repeat(3 // image.shape[2], 2)), zoom)


def resize_image(
    image: np.ndarray,
    height: int,
    width: int,
    smooth: bool = True,  # only with: image_pairs
) -> np.ndarray:
    """Resize uint8 [height, width, channels] with bicubic interpolation."""
    method = Image.Resampling.BICUBIC
    # only with: image_pairs
    method = method if smooth else Image.Resampling.NEAREST
    return np.array(pillow_image(image).resize((width, height), method))[..., : image.shape[2]]


def crop_square(image: np.ndarray) -> np.ndarray:
    """Return a view of the largest centred square of an image [height, width, channels]."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def check_image_path(path: Path, film: bool = False) -> None:
    """Raise InputError if `path` has no image suffix. With `film`, the suffix must be .gif."""
    if path.suffix.lower() not in ((".gif",) if film else Image.registered_extensions()):
        raise InputError(f"{path}: the name must end in {'.gif' if film else 'an image suffix such as .png'}")


def save_image(
    images: np.ndarray | dict[str, np.ndarray],
    path: Path,
    *,
    columns: int = 8,  # only without: save_image(figure
    zoom: int = 1,  # only without: save_image(figure
    height: int = 320,  # only with: save_image(figure
    milliseconds: int = 100,  # only with: GIF
) -> Path:
    """Write one uint8 image, a batch of images as a grid, or a dict of batches as a grid with one row per batch."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise InputError(f"{path}: the name must end in an image suffix such as .png")
    # only with: save_image(figure
    if isinstance(images, dict):  # a row of images with captions
        parts: list[np.ndarray] = []
        for caption, image in images.items():
            width = round(image.shape[1] * height / image.shape[0])
            sheet = Image.new("RGB", (width + 4, height + 26), "white")
            sheet.paste(pillow_image(resize_image(image, height, width)), (2, 26))
            ImageDraw.Draw(sheet).text((width / 2, 13), caption, "black", ImageFont.load_default(16), "mm")
            parts.append(np.array(sheet))
        images = np.concatenate(parts, axis=1)
    # only with: save_image(film
    if not isinstance(images, np.ndarray | dict):  # frames that are computed now
        check_image_path(path, film=True)
        images = np.stack([*images])
    # only with: save_image([
    if isinstance(images, list):  # a row, 320 pixels high
        parts = [resize_image(each, 320, max(1, round(each.shape[1] * 320 / each.shape[0]))) for each in images]
        images = np.concatenate(parts, axis=1)
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return write(path, pillow_image(images).save)
    # only with: GIF
    if isinstance(images, np.ndarray) and path.suffix == ".gif":
        first, *rest = map(pillow_image, images)
        film = functools.partial(first.save, save_all=True, append_images=rest, duration=milliseconds, loop=0)
        return write(path, film)
    left = 2  # only without: save_image(figure
    # only with: save_image(rows or save_image({ or .evaluate( or save_translations or evaluate_attacks
    if isinstance(images, dict):
        captions, batches, font = [*images], [*images.values()], ImageFont.load_default(14)
        images, columns = np.concatenate(batches), len(batches[0])
        left = 16 + max(int(font.getlength(caption)) for caption in captions)
    # only without: save_image(figure
    height, width = (zoom * side + 2 for side in images.shape[1:3])
    # only without: save_image(figure
    rows, columns = -(-len(images) // columns), min(columns, len(images))
    # only without: save_image(figure
    sheet = Image.new("RGB", (left + columns * width, 2 + rows * height), "white")
    # only without: save_image(figure
    for place, image in enumerate(images):
        sheet.paste(pillow_image(image, zoom), (left + place % columns * width, 2 + place // columns * height))
    # only with: save_image(rows or save_image({ or .evaluate( or save_translations or evaluate_attacks
    for row, caption in enumerate(captions if left > 2 else ()):
        ImageDraw.Draw(sheet).text((left - 9, (row + 0.5) * height), caption, "black", font, "rm")
    # only without: save_image(figure
    return write(path, sheet.save)


def convert_images(
    source: Path,
    destination: Path,
    convert: Callable,
    classes: int = 0,  # only with: classes: Annotated
) -> Path:
    """Apply `convert` to an image and write the result. For a folder, convert each image and write PNG files."""
    for path in find_images(source) if source.is_dir() else [source]:
        image = read_image(
            path,
            classes=classes,  # only with: classes: Annotated
        )
        into_folder = source.is_dir() or destination.is_dir()
        save_image(convert(image), destination / f"{path.stem}.png" if into_folder else destination)
    return destination
