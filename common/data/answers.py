"""Read a folder of images, with an optional .csv file of their attributes."""

from __future__ import annotations

import csv
import io
import os
import sys
import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np

from common.data.class_folders import split_images
from common.images.found import IMAGE_SUFFIXES, take
from common.images.reading import checked_images, read_image
from common.system.console import say
from common.system.files import InputError, printable

UNKNOWN = 255  # label of an attribute whose value is unknown


Part = tuple[np.ndarray, np.ndarray]  # the images or file names of one split, and their labels


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def check_names_of_attributes(where: str, names: tuple[str, ...]) -> None:
    """Raise InputError if an attribute has no name, or if two names map to the same command-line flag."""
    plain = [_plain(name) for name in names]
    for index, (name, other) in enumerate(zip(names, plain, strict=True)):
        if not other:
            raise InputError(f"{where}: attribute {index + 1} has no name; add a name")
        if plain.index(other) < index:
            both = f"{names[plain.index(other)]!r} and {name!r}"
            raise InputError(f"{where}: attributes {both} differ only in case, spaces, - or _; rename one")


# Unsupported formats that may contain attributes. The reader prints a notice if it finds such a file.
OTHER_TABLES = (".txt", ".tsv", ".json", ".xlsx", ".xls", ".ods", ".parquet", ".mat")

ANSWERS = {
    **dict.fromkeys(("1", "1.0", "yes", "true", "y"), 1),
    **dict.fromkeys(("0", "0.0", "-1", "-1.0", "no", "false", "n"), 0),
    **dict.fromkeys(("", "nan", "?"), UNKNOWN),
}


def answers_in(where: str, names: tuple[str, ...], cells: list[str]) -> list[int]:
    """Return the label of each cell in a row: 1, 0 or 255 (unknown). Raises InputError for any other text."""
    try:
        return [ANSWERS[cell] for cell in cells]
    except KeyError as error:
        name = names[cells.index(error.args[0])]
        right = "expected 1 or 0, 1 or -1, yes or no, true or false, or an empty cell"
        raise InputError(f"{where}: {name} is {error.args[0]!r}; {right}; correct it, or remove the column") from None


def text_of(path: Path) -> str:
    """Return the text of a table file. Raises InputError if it is not valid UTF-8."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is a folder, a device or a pipe; expected a readable file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a readable file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not valid UTF-8; save the file as UTF-8") from None
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory") from None


def own_faces(folder: Path, channels: int, skip_bad: bool) -> tuple[list[Part], tuple[str, ...]]:
    """Return the splits (file names, labels), and the attribute names; () without a .csv file.

    The splits are those for training, validation and testing, if the folder has test/ or val/, else there is one.
    """
    by_split = split_images(folder)
    paths = [path for part in by_split.values() for path in part]
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv" and path.name[0] != ".")
    if len(tables) > 1:
        listed = ", ".join(path.name for path in tables[:5])
        raise InputError(f"{folder}: {len(tables)} .csv files ({listed}); keep only the one with the attributes")
    unread = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in OTHER_TABLES)
    if unread:
        found = ", ".join(unread[:3])
        say(f"{folder}: ignoring {found}; provide attributes as a .csv with a header line, or in CelebA's format")
    names: tuple[str, ...] = ()
    answers: dict[Path, list[int]] = {}
    if tables:
        take(tables[0])
        names, answers = _table_answers(tables[0], folder, paths, skip_bad)
        lonely = [path for path in paths if path not in answers]
        if lonely:
            which = f"{len(lonely)} of {len(paths)} images, such as {lonely[0].relative_to(folder)}, are not listed"
            print(printable(f"{tables[0]}: {which}; their attributes are unknown"), file=sys.stderr)
    good, _ = checked_images(paths, lambda path: read_image(path, channels), skip_bad)
    unknown = [UNKNOWN] * len(names)
    parts, kept = [], set(good)
    for split in ("train", "val", "test") if len(by_split) > 1 else ("train",):
        own = [path for path in by_split.get(split, ()) if path in kept]
        labels = np.array([answers.get(path, unknown) for path in own], np.uint8).reshape(len(own), len(names))
        parts.append((np.array([str(path) for path in own]), labels))
    return parts, names


def _table_answers(
    table: Path, folder: Path, paths: list[Path], skip_bad: bool
) -> tuple[tuple[str, ...], dict[Path, list[int]]]:
    """Return the attribute names of a .csv file, and the labels of the images that it lists."""
    names, rows = _table_rows(table)
    exact = {path.relative_to(folder).as_posix(): path for path in paths}
    by_name: dict[str, list[Path]] = {}
    for relative, path in exact.items():
        for key in {_normalised(name) for each in (relative, path.name) for name in (each, os.path.splitext(each)[0])}:
            by_name.setdefault(key, []).append(path)
    answers: dict[Path, list[int]] = {}
    lines: dict[Path, int] = {}
    missing = []
    for line, name, row in rows:
        relative = PurePosixPath(name.replace("\\", "/")).as_posix()
        found = [exact[relative]] if relative in exact else by_name.get(_normalised(relative), [])
        if not found:
            missing.append(f"{table}, line {line}: there is no image {name!r} in {folder} or its sub-folders")
            continue
        if len(found) > 1:
            both = " and ".join(path.relative_to(folder).as_posix() for path in found[:2])
            raise InputError(f"{table}, line {line}: {name!r} matches {both}; add the folder to the name")
        if found[0] in answers:
            raise InputError(f"{table}, line {line}: {name!r} is also in line {lines[found[0]]}; delete one line")
        answers[found[0]], lines[found[0]] = row, line
    if missing and not (skip_bad and answers):
        remedy = ", or add --skip-bad to ignore them" if answers else ""
        raise InputError(f"{missing[0]} (one of {len(missing)} such lines); correct or delete them{remedy}")
    for message in missing[:5]:
        print(printable(message), file=sys.stderr)
    if missing:
        print(printable(f"ignoring {len(missing)} lines of {table}"), file=sys.stderr)
    return names, answers


def _normalised(name: str) -> str:
    """Case-fold a file name and convert it to Unicode form NFC, to compare names from different file systems."""
    return unicodedata.normalize("NFC", name).casefold()


def _table_rows(table: Path) -> tuple[tuple[str, ...], list[tuple[int, str, list[int]]]]:
    """Return the attribute names of a .csv file, and for each row its line number, image name and labels."""
    text = text_of(table)
    header_line = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header_line.count), strict=True)
    try:
        cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"{table}, line {reader.line_num}: not a valid .csv row ({error}); correct it") from None
    filled = [(line, row) for line, row in cells if any(row)]
    header = filled[0][1] if filled else []
    while header and not header[-1]:
        header = header[:-1]
    if len(header) < 2 or Path(header[0]).suffix.lower() in IMAGE_SUFFIXES:
        right = "expected a header line of column names, separated by commas, semicolons or tabs; column 1: file names"
        raise InputError(f"{table}: starts with {header_line[:60]!r}; {right}")
    if len(filled) < 2:
        raise InputError(f"{table}: no rows below the header line; expected one row per image")
    names = tuple(header[1:])
    check_names_of_attributes(str(table), names)
    rows, said = [], []
    for line, row in filled[1:]:
        if len(row) < len(header) or any(row[len(header) :]):
            raise InputError(f"{table}, line {line}: {len(row)} values for {len(header)} columns; correct the row")
        said.append([cell.lower() for cell in row[1 : len(header)]])
        rows.append((line, row[0], answers_in(f"{table}, line {line}", names, said[-1])))
    for name, column in zip(names, zip(*said, strict=True), strict=True):
        noes = {cell.removesuffix(".0") for cell in set(column)} & {"0", "-1"}
        if len(noes) == 2:
            lines = [next(line for (line, _, _), cell in zip(rows, column, strict=True) if cell.startswith(no))
                     for no in ("0", "-1")]  # fmt: skip
            raise InputError(
                f'{table}: {name} is 0 in line {lines[0]} and -1 in line {lines[1]}, but both mean "no"; use only one '
                "of them, and leave cells with unknown values empty"
            )
    return names, rows
