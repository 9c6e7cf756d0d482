"""Find the images of each class and split: one folder per class, or a table of file names and classes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from common.images.found import add_detail, entries_of, images_below, images_in, is_hidden, leave_out, take
from common.images.reading import checked_images, read_image
from common.system.files import InputError, is_run, readable_name

Part = tuple[np.ndarray, np.ndarray]  # file names, and their integer labels
Numbered = list[tuple[Path, int]]  # files, and their integer labels

SPLIT_NAMES = {
    "train": ("train", "training", "train_set", "trainset", "training_set"),
    "test": ("test", "testing", "test_set", "testset"),
    "val": ("val", "validation", "valid", "dev", "val_set", "validation_set"),
}
ONE_CLASS = ("image",)  # the only class, for images without labels
CLASS_LAYOUT = (
    "one folder of images per class, directly in the folder, or in train/ and test/ (or val/); or images and a .csv "
    "with the columns file and class"
)


def split_of(name: str) -> str:
    """Return which split a folder with this name holds: train, test, val or, for any other name, an empty string."""
    plain = name.lower().replace("-", "_").replace(" ", "_")
    return next((split for split, names in SPLIT_NAMES.items() if plain in names), "")


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the sub-folders that hold a split, by `train`, `test` and `val`. Case and endings may vary: Training/.

    Raises:
        InputError: two folders hold the same split, such as train/ and Training/.
    """
    found: dict[str, Path] = {}
    for inner in entries_of(folder)[1] if folder.is_dir() else []:
        split = split_of(inner.name)
        if split and found.setdefault(split, inner) is not inner:
            raise InputError(f"{folder}: {found[split].name}/ and {inner.name}/ are the same split; keep only one")
    return found


def joined_folders(folder: Path) -> dict[str, Path]:
    """Return the folders whose names join a split and a domain, such as trainA/ and test_B/, by their usual name."""
    found: dict[str, Path] = {}
    for path in entries_of(folder)[1]:
        parts = re.fullmatch(r"(\w+?)[_-]?([ABab])", path.name)
        if parts and (split := split_of(parts[1])):
            usual = f"{split}{parts[2].upper()}"
            if found.setdefault(usual, path) is not path:
                raise InputError(f"{folder}: {found[usual].name}/ and {path.name}/ are the same folder; keep only one")
    return found


def unpacked(folder: Path) -> Path:
    """Return the only sub-folder of a folder if the data are one level deeper, as unpacked archives often are.

    This sub-folder must contain at least two folders with images, and it must not be a split or a run.
    """
    for _ in range(3):
        images, folders = entries_of(folder) if folder.is_dir() else ([], [])
        if images or len(folders) != 1 or split_of(folders[0].name) or is_run(folders[0]) or tables_in(folder):
            break
        loose, inner = entries_of(folders[0])
        if loose or sum(bool(images_in(path)) for path in inner) < 2 and not split_folders(folders[0]):
            break
        folder = folders[0]
    return folder


def tables_in(folder: Path) -> list[Path]:
    """Return the table files of a folder, sorted by name: .csv, .tsv and .txt."""
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".csv", ".tsv", ".txt")]


def split_images(folder: Path) -> dict[str, list[Path]]:
    """Return the images of a folder by split: `train` and, if it has such folders, `test` and `val`.

    All images outside of the folders for testing and validation are for training.

    Raises:
        InputError: the folder has no images.
    """
    paths = images_below(folder)
    folder = unpacked(folder)
    held_out = {split: images_in(inner) for split, inner in split_folders(folder).items() if split != "train"}
    others = {path for part in held_out.values() for path in part}
    train = [path for path in paths if path not in others]
    if not train or not others:
        return {"train": paths}
    sizes = {split: len(held_out[split]) for split in ("test", "val") if held_out.get(split)}
    for split, count in sizes.items():
        add_detail(f"{count:,} of them in {split_folders(folder)[split].name}/, which are not trained on")
    return {"train": train} | {split: held_out[split] for split in sizes}


def class_folders(
    folder: Path, channels: int, skip_bad: bool, require_classes: bool = True
) -> tuple[list[Part], tuple[str, ...]]:
    """Return file names and class indices for training, testing and, if the folder has it, validation; and the names.

    The labels are integers, the indices of the class names.
    """
    numbered, classes = listed_classes(folder, require_classes)
    paths = [path for part in numbered for path, _ in part]
    good = set(checked_images(paths, lambda path: read_image(path, channels), skip_bad)[0])
    kept = [[(str(path), number) for path, number in part if path in good] for part in numbered]
    parts = [(np.array([name for name, _ in part]), np.array([number for _, number in part])) for part in kept]
    return fifth_for_test(str(folder), parts), classes


def fifth_for_test(source: str, parts: list[Part]) -> list[Part]:
    """Return training and test items with their labels. If `parts` has only one entry, hold out every fifth item."""
    if len(parts) == 1:
        items, labels = parts[0]
        test = np.arange(len(items)) % 5 == min(4, len(items) - 1)
        parts = [(items[held == 1], labels[held == 1]) for held in (~test, test)]
    if not len(parts[1][0]) or len(parts[0][0]) < 2:
        (train, _), (test, _) = parts[:2]
        needed = "at least two for training and one for testing are needed"
        raise InputError(f"{source}: {len(train)} images for training and {len(test)} for testing; {needed}")
    return parts


def listed_classes(folder: Path, require_classes: bool = True) -> tuple[list[Numbered], tuple[str, ...]]:
    """Return the files and class indices of each split (training, test, validation), and the class names.

    Without a folder for training, there is one split. Without a folder for testing, the one for validation is the test
    split. The images of a class may be in sub-folders of its folder.
    """
    folder = unpacked(folder)
    splits = split_folders(folder)
    names = ["train", *[name for name in ("test", "val") if name in splits]]
    held_out = [splits[name] for name in names[1:]]
    held_names = {path.name for root in held_out for path in entries_of(root)[1]}
    beside = {path.name for path in entries_of(folder)[1] if path not in held_out}
    without_train = "train" not in splits and bool(held_out) and (bool(held_names & beside) or not require_classes)
    if without_train:
        splits["train"] = folder  # the classes are next to test/
    elif "train" not in splits or (len(names) == 1 and entries_of(splits["train"])[0]):
        splits, names = {"train": folder}, ["train"]  # no train/, or train/ is a class
    roots = [splits[name] for name in names]
    found = [
        {path.name: images_in(path) for path in entries_of(root)[1] if not without_train or path not in held_out}
        for root in roots
    ]
    classes = tuple(found[0])
    if not require_classes and (
        not classes
        or entries_of(folder)[0]
        or not all(found[0].values())
        or (without_train and not all(classes == tuple(part) for part in found))
    ):
        by_split = split_images(folder)
        return [[(path, 0) for path in by_split[split]] for split in by_split], ONE_CLASS
    if require_classes and sum(map(bool, found[0].values())) < 2 and (listed := _listed_in_tables(folder)):
        return listed
    if not classes:
        inside = ", ".join(sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))[:8]) or "nothing"
        raise InputError(f"{folder}: no class folders here (found {inside}); expected {CLASS_LAYOUT}")
    for root, by_class in zip(roots, found, strict=True):
        for path in entries_of(root)[0]:
            leave_out(path, "images outside class folders")
        for name, paths in by_class.items():
            if name not in found[0]:
                raise InputError(f"{root / name}: this class has no folder in {roots[0]}; add one, or remove this one")
            if not paths and root is roots[0]:
                raise InputError(f"{root / name}: no images here; add images of {name}, or remove the folder")
    if folder not in roots:
        _report_other_folders(folder, roots)
    numbers = {name: number for number, name in enumerate(classes)}
    numbered = [[(path, numbers[name]) for name in by_class for path in by_class[name]] for by_class in found]
    places = f", in {', '.join(root.name + '/' for root in roots)}" if roots[1:] else ""
    add_detail(f"{len(classes)} classes{places}")
    return numbered, tuple(map(readable_name, classes))


def _report_other_folders(folder: Path, roots: list[Path]) -> None:
    images, folders = entries_of(folder)
    for path in images:
        leave_out(path, "images outside class folders")
    for path in folders:
        if path not in roots:
            leave_out(path, f"folder that is not a split ({path.name}/)")


# %% Tables

CLASS_COLUMNS = ("class", "label", "labels", "category", "species", "breed", "target", "class_name", "classname")


def _listed_in_tables(folder: Path) -> tuple[list[Numbered], tuple[str, ...]] | None:
    """Return what `listed_classes` returns, from tables of file names and classes; None if there are none.

    A table is a .csv, .tsv or .txt file next to the images or their folders. Its name may name the split: test.csv.
    """
    paths = images_in(folder)
    keys: dict[str, Path] = {}
    for path in paths:
        relative = PurePosixPath(path.relative_to(folder).as_posix())
        for key in {str(relative), str(relative.with_suffix("")), relative.name, relative.stem}:
            keys.setdefault(key.lower(), path)
    rows: dict[str, list[tuple[Path, str]]] = {}
    for table in tables_in(folder):
        if not is_hidden(table.name) and (found := list(_rows_of(table, keys))):
            split = next((split for split in ("test", "val") if split in table.stem.lower()), "train")
            rows.setdefault(split, []).extend(found)
            take(table)
            add_detail(f"classes from {table.name}")
    if "train" not in rows:
        return None
    listed = {path for part in rows.values() for path, _ in part}
    for path in paths:
        if path not in listed:
            leave_out(path, "images without a class")
    names = sorted({name for _, name in rows["train"]}, key=lambda name: (len(name) * name.isdecimal(), name))
    numbers = {name: number for number, name in enumerate(names)}
    strange = next((name for part in rows.values() for _, name in part if name not in numbers), None)
    if strange is not None:
        raise InputError(f"{folder}: class {strange!r} is only in a table for testing; add training images of it")
    parts = [rows[split] for split in ("train", "test", "val") if split in rows]
    return [sorted((path, numbers[name]) for path, name in part) for part in parts], tuple(map(readable_name, names))


def _rows_of(table: Path, keys: dict[str, Path]) -> Iterator[tuple[Path, str]]:
    """Yield the image and the class of each row of a table; nothing if the table does not list images and classes.

    Raises:
        InputError: a row names no image, an image has two rows, or it is not clear which column contains the class.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return

    def image(cell: str) -> Path | None:  # paths may be of another computer
        name = cell.replace("\\", "/").lower()
        return keys.get(name) or keys.get(PurePosixPath(name).name)

    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t ", key=first.count)
    lines = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter)]
    rows = [(number, row) for number, row in enumerate(lines, 1) if any(row)]
    width = len(rows[0][1]) if rows else 0
    hits = [sum(column < len(row) and image(row[column]) is not None for _, row in rows) for column in range(width)]
    if width < 2 or max(hits) < len(rows) / 2:
        return
    files = hits.index(max(hits))
    has_header = image(rows[0][1][files]) is None
    header = [cell.lower().replace(" ", "_") for cell in rows[0][1]] if has_header else []
    chosen = [column for column in range(width) if column != files]
    if len(chosen) > 1:
        chosen = [column for column in chosen if header and header[column] in CLASS_COLUMNS] or chosen
    if len(chosen) > 1:
        raise InputError(f"{table}: {width} columns; expected a file name and a class, or a header with `class`")
    seen: set[Path] = set()
    for number, row in rows[has_header:]:
        path = image(row[files]) if len(row) == width else None
        if path is None or path in seen or not row[chosen[0]]:
            problem = "no image with this name" if path is None else "a second row" if path in seen else "no class"
            raise InputError(f"{table}, line {number}: {problem} ({' '.join(row)[:60]!r}); correct or delete the line")
        seen.add(path)
        yield path, row[chosen[0]]
