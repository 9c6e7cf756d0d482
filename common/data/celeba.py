"""Read CelebA (aligned faces with 40 attributes) from the original files or from TensorFlow Datasets."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from common.data.answers import Part, answers_in, check_names_of_attributes, text_of
from common.data.arrays import images_or_none, tfds_builder
from common.images.found import take
from common.images.pixels import crop_square, resize_image
from common.images.reading import ImageFile, checked_images, image_file, read_image
from common.system.files import InputError, printable, write_text

CELEBA_PARTS = ("train", "validation", "test")  # numbered 0, 1 and 2 in list_eval_partition.txt
CELEBA_PLACES = ("img_align_celeba", "img_align_celeba/img_align_celeba", "Img/img_align_celeba", "CelebA-HQ-img", ".")


def celeba_image(path: ImageFile | str | bytes, size: int, channels: int) -> np.ndarray:
    """Read a CelebA image as uint8 [size, size, channels].

    Aligned images are 178 x 218 px, with the eyes at (69, 111) and (108, 111). They are cropped to the central
    148 x 148 px, which puts the eyes at half the height. Other images are cropped to their largest central square.
    """
    image = read_image(image_file(path), channels)
    if image.shape[:2] == (218, 178):
        image = image[35:183, 15:163]
    return resize_image(crop_square(image), size, size)


def celeba_file(folder: Path, *names: str) -> Path | None:
    """Return the path of a CelebA annotation file in `folder`, Anno/ or Eval/; None if there is none."""
    parts = itertools.product((".", "Anno", "Eval"), names, (".txt", ".csv"))
    candidates = [folder / inner / f"{name}{suffix}" for inner, name, suffix in parts]
    return next((path for path in candidates if path.is_file()), None)


def celeba_faces(folder: Path, listed: Path, channels: int, skip_bad: bool) -> tuple[list[Part], tuple[str, ...]]:
    """Return the training, validation and test splits of a CelebA folder, and the attribute names from `listed`."""
    names, answers = _celeba_answers(listed)
    take(listed)
    images = next((found for inner in CELEBA_PLACES if (found := images_or_none(folder / inner))), [])
    paths = [path for path in images if path.stem in answers]
    if not paths:
        there = f"none of the {len(images)} images is listed in {listed.name}" if images else "no images"
        raise InputError(f"{folder}: {there}; put the CelebA images into {folder / CELEBA_PLACES[0]}")
    if len(paths) < len(answers):  # not an error: CelebA is large, so a subset is probably intended
        here = f"found {len(paths)} of the {len(answers)} images that {listed.name} lists"
        print(printable(f"{folder}: {here}"), file=sys.stderr)
    if len(paths) < len(images):
        unnamed = f"{len(images) - len(paths)} images are ignored, because {listed.name} does not list them"
        print(printable(f"{folder}: {unnamed}"), file=sys.stderr)
    split = celeba_file(folder, "list_eval_partition")
    numbers = _celeba_partition(split) if split else {}
    if split:
        take(split)
    strays = [path.name for path in paths if split and path.stem not in numbers]
    if strays:
        raise InputError(f"{split}: {len(strays)} images are not listed, such as {strays[0]}; list every image")
    good, _ = checked_images(paths, lambda path: read_image(path, channels), skip_bad)
    items = np.array([str(path) for path in good])
    labels = np.array([answers[path.stem] for path in good], np.uint8).reshape(len(good), len(names))
    of_part = np.array([numbers.get(path.stem, 0) for path in good])
    return [(items[of_part == number], labels[of_part == number]) for number in range(len(CELEBA_PARTS))], names


def _celeba_answers(path: Path) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Return the attribute names, and the labels of each image, keyed by its file name without the suffix."""
    lines = text_of(path).splitlines()
    if path.suffix == ".csv":
        count, header = None, lines[0].split(",")[1:] if lines else []
    else:
        count, header = lines[0].strip() if lines else "", lines[1].split() if len(lines) > 1 else []
    if not header or not (count is None or count.isdecimal()):
        raise InputError(f"{path}: expected the number of images, a line of attribute names, and one line per image")
    names = tuple(name.strip() for name in header)
    check_names_of_attributes(str(path), names)
    answers: dict[str, list[int]] = {}
    for number, cells in _celeba_rows(lines, 1 if count is None else 2):
        where = f"{path}, line {number}"
        if len(cells) != len(names) + 1:
            raise InputError(f"{where}: {len(cells) - 1} values for {len(names)} attributes; copy the file again")
        stem = Path(cells[0]).stem
        if stem in answers:
            raise InputError(f"{where}: {cells[0]} is listed twice; delete one of the lines")
        answers[stem] = answers_in(where, names, cells[1:])
    if count is not None and int(count) != len(answers):
        said = f"lists {len(answers)} images, but its first line says {count}"
        raise InputError(f"{path}: {said}; copy the file again, or correct the first line")
    return names, answers


def _celeba_partition(path: Path) -> dict[str, int]:
    lines = text_of(path).splitlines()
    numbers: dict[str, int] = {}
    for number, cells in _celeba_rows(lines, int(path.suffix == ".csv")):
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            found = " ".join(cells)[:60]
            raise InputError(
                f"{path}, line {number}: {found!r}; expected a file name and 0 (training), 1 (validation) or 2 (test)"
            )
        numbers[Path(cells[0]).stem] = int(cells[1])
    return numbers


def _celeba_rows(lines: list[str], first: int) -> list[tuple[int, list[str]]]:
    """Skip `first` header lines; return the line number (starting at 1) and the cells of each non-blank line."""
    rows = ((number, line.replace(",", " ").split()) for number, line in enumerate(lines[first:], first + 1))
    return [(number, cells) for number, cells in rows if cells]


def tfds_faces(name: str, fetch: bool) -> Path:
    """Export a TensorFlow Dataset once, in CelebA's layout, without re-encoding the images. Return the folder."""
    try:
        builder: Any = tfds_builder(name, fetch)
    except InputError as error:
        manual = "; or download list_attr_celeba.txt, list_eval_partition.txt and img_align_celeba, and use their"
        raise InputError(f"{error}{manual} folder as --data" if name.startswith("celeb_a") else str(error)) from None
    features, splits = builder.info.features, builder.info.splits
    wanted = [split for split in CELEBA_PARTS if split in splits]
    answered = "attributes" in features and hasattr(features["attributes"], "keys")
    if not answered or "image" not in features or "train" not in wanted:
        raise InputError(
            f"tfds:{name}: expected an image, attributes and a train split, found {', '.join(features)} in "
            f"the splits {', '.join(splits)}; try tfds:celeb_a"
        )
    folder = Path(builder.data_dir) / "faces"
    if not (folder / "list_attr_celeba.txt").is_file():  # written last, so it exists only if the export is complete
        _write_celeba(builder, wanted, list(features["attributes"].keys()), folder)
    return folder


def _write_celeba(builder: Any, splits: list[str], names: list[str], folder: Path) -> None:
    import tensorflow_datasets as tfds
    from tqdm import tqdm

    (folder / CELEBA_PLACES[0]).mkdir(parents=True, exist_ok=True)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    answers: list[str] = []
    parts: list[str] = []
    for split in splits:
        examples = builder.as_dataset(split=split, decoders=undecoded).as_numpy_iterator()
        for example in tqdm(examples, f"writing {folder}, {split}", disable=not sys.stderr.isatty(), unit="image"):
            suffix = "jpg" if example["image"].startswith(b"\xff\xd8") else "png"
            image_name = f"{len(parts) + 1:06d}.{suffix}"
            (folder / CELEBA_PLACES[0] / image_name).write_bytes(example["image"])
            parts.append(f"{image_name} {CELEBA_PARTS.index(split)}")
            answers.append(" ".join([image_name, *("1" if example["attributes"][name] else "-1" for name in names)]))
    write_text(folder / "list_eval_partition.txt", "\n".join(parts) + "\n")
    write_text(folder / "list_attr_celeba.txt", "\n".join([str(len(answers)), " ".join(names), *answers]) + "\n")
