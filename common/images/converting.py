"""Apply a function to image files or to a video, and write the results as image files or a video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.images.found import note, noting, reported, take
from common.images.pixels import colour_labels
from common.images.reading import find_images, read_image, read_labels, readable_images
from common.images.videos import convert_video, is_video
from common.images.writing import check_image_size, image_suffix, png_targets, write_image
from common.system.console import tracked
from common.system.files import InputError

PAIR_RATIO = 1.2  # minimum ratio of width to height of an image that contains a pair


def convert_images(
    source: Path,
    destination: Path,
    convert: Callable[[np.ndarray], np.ndarray],
    classes: int = 0,
    skip_bad: bool = False,
    half: str = "",
) -> Path:
    """Apply `convert` to an image, to every image of a folder or to every frame of a video, and write the results.

    Args:
        source: an image, a folder of images, or a video; see `convert_video`.
        destination: the file to write, or a folder for PNG files with the same names as the source files. For a video:
            an MP4 or GIF file, or a folder.
        convert: image, uint8 [height, width, 3] -> image of the same shape.
        classes: if above 0, the inputs are maps of integer labels; they are coloured before `convert` is applied.
        skip_bad: in a folder, skip images that cannot be read, and list them.
        half: `left` or `right`: in images that are at least twice as wide as high, only this half is the input, as in
            images that contain a pair side by side. The frames of a video are not split.

    Returns:
        `destination`.

    Raises:
        InputError: `source` is missing or cannot be read; or `source` is a folder, but `destination` is a file or the
            same folder.
    """

    def converted(path: Path, image: np.ndarray) -> np.ndarray:
        try:
            return convert(image)
        except InputError as error:  # for example, an image that is too small for the network
            raise InputError(f"{path}: {error}") from error

    def read(path: Path) -> np.ndarray:
        image = colour_labels(read_labels(path, classes)) if classes and not half else read_image(path)
        if half and image.shape[1] >= PAIR_RATIO * image.shape[0]:
            note(f"side by side with its target, so only the {half} half is the input")
            middle = image.shape[1] // 2
            image = image[:, :middle] if half == "left" else image[:, -middle:]
        return image

    if is_video(source, destination):
        if classes:
            raise InputError(f"{source}: a video, but this network translates label maps, which are images")
        return convert_video(source, destination, convert)
    if not source.is_dir():
        target = destination / f"{source.stem}.png" if destination.is_dir() else destination
        if target.suffix.lower() == ".mp4":
            raise InputError(f"{target}: the name of a video, but {source} is an image; use a name that ends in .png")
        image_suffix(target)
        with reported(source, always=False), noting() as notes:
            image = read(source)
            take(source, image.shape, notes)
        check_image_size(target, *image.shape[:2])
        write_image(converted(source, image), target)
        return destination
    if destination.is_file():
        raise InputError(f"{destination}: is a file, but {source} is a folder; give a folder to write to")
    if destination.resolve() == source.resolve():
        raise InputError(f"{destination}: is the source folder; give a different folder to write to")
    paths = find_images(source)
    png_targets(paths, destination)
    good = readable_images(source, read, skip_bad)
    pairs = list(zip(good, png_targets(good, destination), strict=True))
    for path, target in tracked(pairs, f"writing {destination}", "image"):
        write_image(converted(path, read(path)), target)
    return destination
