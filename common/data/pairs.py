"""Find, check and read image pairs: two folders with the same file names, or both images side by side in one file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.arrays import NOT_PATHS
from common.data.class_folders import joined_folders, split_folders, unpacked
from common.data.shards import open_shards
from common.images.converting import PAIR_RATIO
from common.images.found import add_detail, entries_of, images_in, is_hidden, leave_out, note, noting
from common.images.pixels import IGNORED, colour_labels, pad_to_least, pillow_image, resize_image
from common.images.reading import ImageFile, checked_images, read_image, read_labels
from common.system.console import say
from common.system.files import InputError

Pair = tuple[Path, Path]  # input and target; the same file if it contains both images

INPUT_NAMES = (  # folders that hold inputs, if the other folder is one of TARGET_NAMES
    *("label", "labels", "mask", "masks", "annotation", "annotations", "segmentation", "segmentations"),
    *("segmentationclass", "gt", "input", "inputs", "source", "sketch", "sketches", "edge", "edges", "a"),
)
TARGET_NAMES = (
    *("photo", "photos", "image", "images", "img", "imgs", "jpegimages", "target", "targets", "output", "outputs"),
    *("real", "b"),
)
ENDINGS = re.compile(r"(_leftImg8bit|_gt(Fine|Coarse)_\w+|[_-](mask|masks|label|labels|gt|seg|L|A|B))$", re.IGNORECASE)
PAIR_LAYOUTS = (
    "A/ and B/, trainA/ and trainB/, or label/ and photo/ (with the same file names in both folders), or images that "
    "contain a pair side by side; directly in the folder, or in train/ and test/ (or val/); or leftImg8bit/ and "
    "gtFine/ of Cityscapes"
)


class Sides(NamedTuple):
    """The two folders of the pairs of one split."""

    first: Path  # inputs
    second: Path  # targets


def find_pairs(folder: Path, classes: int = 0, exact: bool = False) -> tuple[list[Pair], list[Pair]]:
    """Return the training pairs and the held-out pairs of a folder; see `image_pairs`.

    Args:
        folder: the folder, with one of PAIR_LAYOUTS.
        classes: if above 0, the inputs are maps of class numbers.
        exact: accept images that contain a pair only if they are exactly twice as wide as high.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {PAIR_LAYOUTS}")
    folder = unpacked(folder)
    found = _cityscapes(folder, classes) or {}
    if not found:
        for split, sides in _sides(folder):
            found.setdefault(split, _by_name(*sides))
        found = {split: pairs for split, pairs in found.items() if pairs} or _side_by_side(folder, exact)
    train = found.get("train", [])
    if not train:
        inside = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not is_hidden(path.name))
        raise InputError(
            f"{folder}: no image pairs here (found {', '.join(inside[:8]) or 'nothing'}); expected {PAIR_LAYOUTS}"
        )
    held_out = found.get("test") or found.get("val") or []
    if not held_out:
        if len(train) < 2:
            raise InputError(f"{folder}: only one pair; at least two are needed, because one is held out")
        tenth = max(1, len(train) // 10)
        train, held_out = train[:-tenth], train[-tenth:]
    return train, held_out


# %% Layouts


def _sides(folder: Path) -> Iterator[tuple[str, Sides]]:
    """Yield the split and the two folders of each layout that fits: `train`, `test` or `val`."""
    splits = split_folders(folder)
    for split, inner in splits.items():
        if sides := _two_sides(inner):
            yield split, sides
    joined = joined_folders(folder)
    for split in ("train", "test", "val"):
        if {f"{split}A", f"{split}B"} <= joined.keys():
            yield split, Sides(joined[f"{split}A"], joined[f"{split}B"])
    if "train" in splits or "trainA" in joined:
        return
    if sides := _two_sides(folder):
        inside = [split_folders(side) for side in sides]
        both = [split for split in inside[0] if split in inside[1]]
        for split in both if "train" in both else []:
            yield split, Sides(inside[0][split], inside[1][split])
        if "train" not in both:
            yield "train", sides


def _two_sides(folder: Path) -> Sides | None:
    """Return the folders of inputs and targets in a folder, such as A/ and B/; None if there are none."""
    names = {path.name.lower(): path for path in entries_of(folder)[1]}
    for first, second in (("a", "b"), ("label", "photo")):
        if first in names and second in names:
            return Sides(names[first], names[second])
    first_names, second_names = ([name for name in names if name in known] for known in (INPUT_NAMES, TARGET_NAMES))
    if len(first_names) == 1 and len(second_names) == 1:
        return Sides(names[first_names[0]], names[second_names[0]])
    return None


def _by_name(first: Path, second: Path) -> list[Pair]:
    """Pair the images of two folders by name; sub-folders are part of the name.

    Endings that tools add to one side, such as `_mask`, are ignored if the names differ otherwise.
    """
    exact = [_named(side, False) for side in (first, second)]
    sides = exact
    if exact[0].keys() != exact[1].keys():
        shorter = [_named(side, True) for side in (first, second)]
        sides = shorter if shorter[0].keys() == shorter[1].keys() else exact
    for side, folder in zip(sides, (first, second), strict=True):
        if not side:
            raise InputError(f"{folder}: no images here; expected the same file names as in the other folder")
    unpaired = sorted(sides[0].keys() ^ sides[1].keys())
    if unpaired and first.name == "SegmentationClass" and sides[0].keys() < sides[1].keys():
        for name in unpaired:  # VOC has more photos than masks
            leave_out(sides[1][name], "photos without a mask")
    elif unpaired:
        owner = first if unpaired[0] in sides[0] else second
        other = second if owner == first else first
        raise InputError(
            f"{owner}: {len(unpaired)} unpaired images, such as {unpaired[0]!r}, which is missing in {other}; "
            "both files of a pair need the same name (the suffix may differ)"
        )
    names = [side.parent.name if first.name == second.name else side.name for side in (first, second)]  # A/train/
    add_detail(f"{names[0]}/ is the input, {names[1]}/ the target (--swap exchanges them)")
    return [(path, sides[1][name]) for name, path in sorted(sides[0].items())]


def _named(folder: Path, without_endings: bool) -> dict[str, Path]:
    """Return the images of a folder by their name without the suffix; {} if two would have the same name."""
    named: dict[str, Path] = {}
    for path in images_in(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        name = ENDINGS.sub("", name) if without_endings else name
        if named.setdefault(name, path) is not path:
            if without_endings:
                return {}
            raise InputError(f"{path} and {named[name]} differ only in their suffix; keep only one")
    return named


def _cityscapes(folder: Path, classes: int) -> dict[str, list[Pair]] | None:
    """Return the pairs of Cityscapes' own layout: gtFine/SPLIT/CITY/ and leftImg8bit/SPLIT/CITY/."""
    places = [folder, *entries_of(folder)[1]]
    photos = next((place / "leftImg8bit" for place in places if (place / "leftImg8bit").is_dir()), None)
    kinds = [place / kind for kind in ("gtFine", "gtCoarse") for place in places if (place / kind).is_dir()]
    if photos is None or not kinds:
        return None
    fine = kinds[0].name
    ending = f"_{fine}_color" if not classes else f"_{fine}_labelTrainIds" if classes < 30 else f"_{fine}_labelIds"
    found: dict[str, list[Pair]] = {}
    for split in ("train", "val"):  # the label maps of test/ are blank
        maps = {path.name.removesuffix(f"{ending}.png"): path for path in images_in(kinds[0] / split)
                if path.name.endswith(f"{ending}.png")}  # fmt: skip
        for path in images_in(kinds[0] / split):
            if path not in maps.values():
                leave_out(path, f"other label maps of {fine}/")
        images = {path.stem.removesuffix("_leftImg8bit"): path for path in images_in(photos / split)}
        lonely = sorted(images.keys() - maps.keys())
        if lonely:
            raise InputError(
                f"{kinds[0] / split}: {len(lonely)} label maps are missing, such as {lonely[0]}{ending}.png; unpack "
                f"the complete archive{', or create them with cityscapesscripts' if 'Train' in ending else ''}"
            )
        found[split] = [(maps[name], images[name]) for name in sorted(images)]
    add_detail(f"*{ending}.png in {fine}/ is the input, leftImg8bit/ the target (--swap exchanges them)")
    return found


def _side_by_side(folder: Path, exact: bool) -> dict[str, list[Pair]]:
    """Return the pairs of each split if the images contain a pair each; {} if they do not."""
    splits = split_folders(folder)
    found: dict[str, list[Pair]] = {}
    for split, inner in (splits if "train" in splits else {"train": folder}).items():
        images = images_in(inner) if inner != folder else entries_of(folder)[0]
        if any(_holds_pair(path, exact) for path in images[:5]):
            found[split] = [(path, path) for path in images]
    if found:
        add_detail("pairs side by side: the left half is the input, the right half the target (--swap exchanges them)")
    return found


def _holds_pair(path: Path, exact: bool = False) -> bool:
    try:
        height, width, _ = read_image(path).shape
    except InputError:  # `checked_pairs` reports files that cannot be read
        return False
    return width == 2 * height if exact else width >= PAIR_RATIO * height


# %% Reading


def sized_pair(
    first: ImageFile, second: ImageFile, size: int, classes: int, label_maps: bool, crop: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return both images of a pair, uint8 [size, size, 3].

    If `first` and `second` are the same file, it contains both images side by side. With `classes` above 0, `first` is
    a map of integer labels; it is returned in colour. Label maps are resized with nearest-neighbour interpolation.

    With `crop`, both keep their own scale, and are only padded by reflection to at least `size` pixels per side.

    Raises:
        InputError: an image cannot be read. With `crop`: the images differ in size.
    """
    if first == second:
        left, right = halves(read_image(first))
    else:
        left, right = colour_labels(read_labels(first, classes)) if classes else read_image(first), read_image(second)
    if crop:
        check_equal_sizes((first, second), (left.shape, right.shape))
        return pad_to_least(left, size), pad_to_least(right, size)
    nearest = label_maps and first != second
    return resize_image(left, size, size, nearest), resize_image(right, size, size)


def check_equal_sizes(pair: tuple[object, object], shapes: tuple[Sequence[int], Sequence[int]]) -> None:
    """Raise InputError if the images of a pair, [height, width, ...], differ in size."""
    one, other = (f"{shape[1]}x{shape[0]} px" for shape in shapes)
    if one != other:
        raise InputError(f"{pair[0]}: {one}, but {pair[1]} has {other}; with --crop, both need the same size")


def halves(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the left and the right half of an image. If its width is odd, both leave out the middle column."""
    half = image.shape[1] // 2
    return image[:, :half], image[:, -half:]


def checked_pairs(
    folder: Path, parts: Sequence[list[Pair]], classes: int, skip_bad: bool, crop: int = 0
) -> list[list[Pair]]:
    """Return the readable pairs of each part, such as the training pairs; see `checked_images`.

    Print a line if --classes is probably missing. With `crop` above 0, both images of a pair must have the same size.
    """
    pairs = [pair for part in parts for pair in part]
    firsts = dict(pairs)
    one_file = {first for first, second in pairs if first == second}
    largest: dict[Path, int] = {}  # the largest class number of each image that looks like a map of class numbers
    shapes: dict[Path, tuple[int, ...]] = {}

    def read(path: Path) -> np.ndarray:
        is_map = classes and path in firsts and path not in one_file
        image = read_labels(path, classes) if is_map else read_image(path)
        shapes[path] = image.shape
        note_small(min(image.shape[0], image.shape[1] // (1 + (path in one_file))), crop)
        if is_map:
            return image
        if path in one_file and image.shape[1] < PAIR_RATIO * image.shape[0]:
            size = f"{image.shape[1]}x{image.shape[0]} px"
            raise InputError(f"{path}: {size}; an image that contains a pair side by side must be wider than high")
        if (number := _largest_class_number(_as_class_numbers(path) if image.max() <= 1 else image)) > 0:
            largest[path] = number
        return image

    paths = sorted({path for pair in pairs for path in pair})
    good = set(checked_images(paths, read, skip_bad)[0])
    kept_parts = [[pair for pair in part if set(pair) <= good] for part in parts]
    if not all(kept_parts):
        raise InputError(f"{folder}: no pairs are left after skipping the files that cannot be read")
    kept = [pair for part in kept_parts for pair in part]
    for pair in kept if crop else ():
        check_equal_sizes(pair, (shapes[pair[0]], shapes[pair[1]]))
    for side, name in enumerate(("input", "target")):
        numbers = [largest[pair[side]] for pair in kept if pair[side] in largest]
        if len(numbers) > 0.9 * len(kept):
            place = "" if side == 0 else ", and put these maps into the first folder"
            found = f"the {name} images hold the values 0 to {max(numbers)}, so they are almost black"
            say(f"{kept[0][side].parent}: {found}; if these are class numbers, add --classes {max(numbers) + 1}{place}")
    if not classes and _targets_are_label_maps(kept):
        add_detail("the targets look like label maps: add --swap to translate label maps to photos")
    return kept_parts


def note_small(side: int, crop: int) -> None:
    """Note that an image, whose shorter side has `side` pixels, is smaller than the crops."""
    if side < crop:
        note(f"smaller than the crops of {crop} px, and padded by reflection")


def _as_class_numbers(path: Path) -> np.ndarray:
    """Return the values of an image that is black as a photo: its class numbers, [height, width, 1], or zeros.

    Class numbers in a 16-bit file are so small that `read_image` rounds them to 0.
    """
    try:
        with noting():  # this is only a guess: note nothing
            return read_labels(path, IGNORED)[..., None]
    except InputError:
        return np.zeros((1, 1, 1), np.uint8)


def _largest_class_number(image: np.ndarray) -> int:
    """Return the largest value of a grey image that seems to contain class numbers, else 0. 255 means ignored."""
    grey = image[..., 0]
    numbers = grey[grey < IGNORED]
    if not numbers.size or numbers.max() >= 64 or not (image == image[..., :1]).all():
        return 0
    return int(numbers.max())


def _targets_are_label_maps(pairs: list[Pair]) -> bool:
    """Return whether the targets of some pairs have few colours, as label maps have, and the inputs have many."""
    found = []
    for first, second in pairs[:: max(1, len(pairs) // 4)][:4]:
        one = read_image(first)
        sides = halves(one) if first == second else (one, read_image(second))
        found.append([_fraction_of_main_colours(side) for side in sides])
    inputs, targets = np.mean(found, axis=0)
    return bool(targets > 0.6 and targets - inputs > 0.25)


def _fraction_of_main_colours(image: np.ndarray) -> float:
    """Return the fraction of pixels that are close to one of 12 colours."""
    from PIL import Image

    if image.min() == image.max():
        return 0.0  # a plain image is no label map
    small = pillow_image(image)
    small.thumbnail((128, 128), Image.Resampling.NEAREST)
    main = np.asarray(small.quantize(12, kmeans=1).convert("RGB")).astype(int)
    return float((np.abs(np.asarray(small) - main).max(axis=-1) <= 6).mean())


def input_half(data: str, swap: bool) -> str:
    """Return which half is the input, `left` or `right`, if `data` holds pairs side by side; else an empty string."""
    if data in NOT_PATHS:
        return ""
    try:
        shards = open_shards(data)
        if shards is not None:
            joined = shards.places.shape[1] == 2 and bool((shards.places[:, 0] == shards.places[:, 1]).all())
        else:
            (first, second), *_ = find_pairs(Path(data))[0]
            joined = first == second
    except InputError:  # not a folder of pairs
        return ""
    return ("right" if swap else "left") if joined else ""
