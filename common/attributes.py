"""Pictures of faces with attributes that each has or has not, in the three parts of `common.labelled`."""

from __future__ import annotations

import csv
import difflib
import functools
import io
import itertools
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from common.console import say
from common.datasets import (
    folders_below,
    images_or_none,
    npz_arrays,
    npz_entries,
    sized_images,
    square_image,
    tfds_builder,
)
from common.errors import InputError, printable
from common.files import write_text
from common.images import (
    IMAGE_SUFFIXES,
    ImageFile,
    checked_images,
    crop_square,
    image_file,
    read_image,
    resize_image,
)
from common.labelled import Split
from common.shards import open_shards

UNKNOWN = 255  # in labels: nobody said whether the face has the attribute


class Attributed(NamedTuple):
    """What `--data` named: the labels of each part are uint8 [n, attributes], 1 yes, 0 no, 255 unknown.

    `test` never has a say in training nor in the choice of a setting.
    """

    train: Split
    validation: Split
    test: Split
    names: tuple[str, ...]  # of the attributes; none where the pictures come without


Part = tuple[np.ndarray, np.ndarray]  # images or names of files, and their labels


def attributed_images(
    data: str,
    size: int,
    channels: int,
    sample: Callable[[], tuple[np.ndarray, np.ndarray]],
    skip_bad: bool = False,
    fetch: bool = False,
    names: tuple[str, ...] = (),
) -> Attributed:
    """Return images of faces, uint8 [size, size, channels], with the attributes of each.

    `data` is one of these:

    - `sample`: what `sample` returns.
    - an .npz with x_train and x_test, and, if it likes, y_train and y_test: yes and no as 1 and 0, or 1 and -1
      (255 or NaN: unknown), [n] or [n, attributes], with the attributes' names in `attributes`.
    - `tfds:celeb_a`, or another set of TensorFlow Datasets with an image and attributes that are yes or no. It is
      written once as a folder of CelebA's layout, `faces` in the set's own folder.
    - a folder of CelebA's: list_attr_celeba.txt (or Kaggle's .csv); list_eval_partition.txt, which says what
      is for training, validation and test, if it is there; and the pictures beside them or in img_align_celeba/. Of the
      aligned ones, 178 x 218 px, the central 148 x 148 px are taken: head and chin, little else. CelebA-HQ too, with
      CelebAMask-HQ-attribute-anno.txt and CelebA-HQ-img/.
    - a folder of pictures, in sub-folders too, with one .csv directly in it or none: a column of file names, then
      a column an attribute (1 or 0, 1 or -1, yes or no, true or false, empty where unknown), with their names above.
    - a folder of shards, written from one of these folders, or from pictures without attributes.

    Pictures in folders and shards are read when asked for; other than CelebA's, their centre square is taken. Without a
    test part every fifth is for the test, and without a validation part a tenth of the training part is for that.

    Args:
        data: see above.
        size: pixels, of height and width.
        channels: 1 for grey, 3 for colour.
        sample: draws the recipe's own images, uint8 [n, size, size, 3], and their attributes, uint8 [n, attributes].
        skip_bad: go on without files that are missing or cannot be read, naming them.
        fetch: a `tfds:` set may be downloaded.
        names: of the sample's attributes.

    Raises:
        InputError: there is nothing of that kind, or something in it cannot be used or understood.
    """
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, got {channels}")
    read = None
    if data == "sample":
        images, labels = sample()
        parts = [(sized_images(images, size, channels, data), labels)]
    elif Path(data).suffix == ".npz":
        parts, names = _npz_faces(Path(data), size, channels)
    elif (shards := open_shards(data)) is not None:
        shards.expect("faces", "pictures", "classes")
        about, places = shards.about, shards.places[:, 0]
        if about["layout"] == "faces":
            some = [shards.parts == number for number in range(len(about["parts"]))]
            parts, names = [(places[part], shards.labels[part]) for part in some], tuple(about["classes"])
        else:
            parts, names = [(places, np.zeros((len(places), 0), np.uint8))], ()
        as_celeba = about["celeba"] and not about["size"]
        square = functools.partial(celeba_image if as_celeba else square_image, size=size, channels=channels)
        read = shards.reading(square)
    else:
        folder = _tfds_faces(data.removeprefix("tfds:"), fetch) if data.startswith("tfds:") else Path(data)
        if not folder.is_dir():
            problem = "a file, not a folder or .npz" if folder.exists() else "no such folder or .npz"
            raise InputError(f"{data}: {problem}, and not one of sample, tfds:celeb_a")
        parts, names, as_celeba = listed_faces(folder, channels, skip_bad)
        read = functools.partial(celeba_image if as_celeba else square_image, size=size, channels=channels)
    train, validation, test = (Split(*part, read) for part in _three_parts(data, parts))
    return Attributed(train, validation, test, tuple(names))


def listed_faces(folder: Path, channels: int, skip_bad: bool) -> tuple[list[Part], tuple[str, ...], bool]:
    """Return the names of a folder's files with their attributes, the attributes' names, and whether it is CelebA's."""
    listed = _celeba_file(folder, "list_attr_celeba", "CelebAMask-HQ-attribute-anno")
    if listed is None:
        return *_own_faces(folder, channels, skip_bad), False
    return *_celeba_faces(folder, listed, channels, skip_bad), True


def with_differing_attributes(faces: Attributed) -> Attributed:
    """Leave out, and name on standard error, the attributes that all known training faces have, or none has."""
    differs = (faces.train.labels == 1).any(axis=0) & (faces.train.labels == 0).any(axis=0)
    if not differs.all():
        left_out = ", ".join(name for name, useful in zip(faces.names, differs, strict=True) if not useful)
        print(f"left out, since no two training faces differ in it: {printable(left_out)}", file=sys.stderr)
    names = tuple(name for name, useful in zip(faces.names, differs, strict=True) if useful)
    train, validation, test = (part._replace(labels=part.labels[:, differs]) for part in faces[:3])
    return Attributed(train, validation, test, names)


def _three_parts(data: str, parts: list[Part]) -> list[Part]:
    """Return parts for training, validation and test, of which the last, or the last two, may be missing or empty."""
    empty = parts[0][0][:0], parts[0][1][:0]
    train, validation, test = [*parts, empty, empty][:3]
    if not len(test[1]):
        train, test = _apart(train, np.arange(len(train[1])) % 5 == min(4, len(train[1]) - 1))
    if not len(validation[1]):
        labels = train[1]
        by_answers = np.lexsort(labels.T[::-1]) if labels.size else np.arange(len(labels))  # see labelled_images
        held_out = np.zeros(len(labels), bool)
        held_out[by_answers[min(9, len(labels) - 1) :: 10]] = True
        train, validation = _apart(train, held_out)
    counts = [len(labels) for _, labels in (train, validation, test)]
    if not all(counts):
        found = f"{counts[0]} pictures for training, {counts[1]} for validation and {counts[2]} for the test"
        raise InputError(f"{data}: {found}; each needs at least one")
    return [train, validation, test]


def _apart(part: Part, taken: np.ndarray) -> tuple[Part, Part]:
    items, labels = part
    return (items[~taken], labels[~taken]), (items[taken], labels[taken])


def attribute_index(names: tuple[str, ...], name: str) -> int:
    """Return the place of an attribute among `names`; capitals do not count, and `-`, `_` and a space are one.

    Raises:
        InputError: there is none of that name; the message lists those that there are.
    """
    plain = [_plain(other) for other in names]
    if _plain(name) in plain:
        return plain.index(_plain(name))
    if not names:
        raise InputError(f"no attribute {name!r}: these pictures come without attributes")
    near = difflib.get_close_matches(_plain(name), plain, 1)
    meant = f" (did you mean {names[plain.index(near[0])]}?)" if near else ""
    raise InputError(f"no attribute {name!r}{meant}: there are {', '.join(names)}")


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _check_names_of_attributes(where: str, names: tuple[str, ...]) -> None:
    plain = [_plain(name) for name in names]
    for place, (name, other) in enumerate(zip(names, plain, strict=True)):
        if not other:
            raise InputError(f"{where}: attribute {place + 1} has no name; give it one")
        if plain.index(other) < place:
            raise InputError(f"{where}: attributes {names[plain.index(other)]!r} and {name!r}; change one of the names")


# %% Arrays


def _npz_faces(path: Path, size: int, channels: int) -> tuple[list[Part], tuple[str, ...]]:
    arrays = npz_arrays(path, labels=False)
    counts = [len(images) if images.ndim else 0 for images in arrays.images]
    names, stored = _npz_answers(path)
    labels = []
    for split, count, answers in zip(("train", "test"), counts, stored, strict=True):
        if not count:
            raise InputError(f"{path}: x_{split} holds no images; at least one is needed")
        labels.append(_checked_answers(path, f"y_{split}", answers, count))
    if labels[0].shape[1] != labels[1].shape[1]:
        raise InputError(f"{path}: y_train has {labels[0].shape[1]} attributes, y_test {labels[1].shape[1]}")
    width = labels[0].shape[1]
    if not len(names):
        names = ("attribute",) if width == 1 else tuple(f"attribute_{number + 1}" for number in range(width))
    if len(names) != width:
        raise InputError(f"{path}: {len(names)} names in `attributes` for {width} attributes; give one for each")
    _check_names_of_attributes(str(path), names)
    sized = [sized_images(images, size, channels, str(path)) for images in arrays.images]
    nothing = sized[0][:0], labels[0][:0]
    return [(sized[0], labels[0]), nothing, (sized[1], labels[1])], names


def _npz_answers(path: Path) -> tuple[tuple[str, ...], list[np.ndarray | None]]:
    """Return the names in `attributes`, and y_train and y_test, without reading the images."""
    found = npz_entries(path, (), ("y_train", "y_test", "attributes"))
    there = [key for key in ("y_train", "y_test") if key in found]
    if len(there) == 1:
        raise InputError(f"{path}: has {there[0]} alone; give both y_train and y_test, or neither")
    names = found["attributes"] if "attributes" in found and there else np.array([], str)
    if names.dtype.kind not in "US" or names.ndim != 1:
        shape = f"{names.dtype} {list(names.shape)}"
        raise InputError(f"{path}: `attributes` is {shape}; expected the attributes' names, text [attributes]")
    named = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    return named, [found.get(key) for key in ("y_train", "y_test")]


def _checked_answers(path: Path, key: str, stored: np.ndarray | None, count: int) -> np.ndarray:
    """Return yes and no as they were stored as labels, uint8 [count, attributes]."""
    if stored is None:
        return np.zeros((count, 0), np.uint8)
    if stored.dtype.kind not in "biuf" or stored.ndim not in (1, 2) or len(stored) != count:
        found = f"{stored.dtype} {list(stored.shape)} for {count} images"
        raise InputError(f"{path}: {key} is {found}; expected 1 (yes) and 0 (no), [n] or [n, attributes]")
    answers = stored.reshape(count, -1)
    unknown = np.isnan(answers) | (answers == UNKNOWN)
    strange = answers[~(unknown | np.isin(answers, (-1, 0, 1)))]
    if strange.size:
        raise InputError(f"{path}: {key} holds {strange[0]}; an attribute is 1 (yes), 0 or -1 (no), or 255 (unknown)")
    both = np.flatnonzero((answers == 0).any(axis=0) & (answers == -1).any(axis=0))
    if len(both):
        raise InputError(f"{path}: {key} holds both 0 and -1 in column {both[0]}; no is one of them, unknown is 255")
    return np.where(unknown, UNKNOWN, answers == 1).astype(np.uint8)


# %% CelebA

CELEBA_PARTS = ("train", "validation", "test")  # 0, 1 and 2 in list_eval_partition.txt
CELEBA_PLACES = ("img_align_celeba", "img_align_celeba/img_align_celeba", "Img/img_align_celeba", "CelebA-HQ-img", ".")


def celeba_image(path: ImageFile | str | bytes, size: int, channels: int) -> np.ndarray:
    """Return a picture of CelebA, uint8 [size, size, channels].

    Of an aligned one, 178 x 218 px, whose eyes are at (69, 111) and (108, 111), the 148 x 148 px at its centre:
    the eyes are then in the middle of the height. Of another one the centre square.
    """
    image = read_image(image_file(path), channels)
    if image.shape[:2] == (218, 178):
        image = image[35:183, 15:163]
    return resize_image(crop_square(image), size, size)


def _celeba_file(folder: Path, *names: str) -> Path | None:
    """Return a list of CelebA's: beside the pictures, or where the original or Kaggle's archive has it."""
    parts = itertools.product((".", "Anno", "Eval"), names, (".txt", ".csv"))
    places = [folder / place / f"{name}{suffix}" for place, name, suffix in parts]
    return next((path for path in places if path.is_file()), None)


def _celeba_faces(folder: Path, listed: Path, channels: int, skip_bad: bool) -> tuple[list[Part], tuple[str, ...]]:
    names, answers = _celeba_answers(listed)
    pictures = next((found for place in CELEBA_PLACES if (found := images_or_none(folder / place))), [])
    paths = [path for path in pictures if path.stem in answers]
    if not paths:
        there = f"{len(pictures)} pictures, but none of those that {listed.name} names" if pictures else "no pictures"
        raise InputError(f"{folder}: {there}; put CelebA's into {folder / CELEBA_PLACES[0]}")
    if len(paths) < len(answers):  # a part of so large a set is no mistake
        here = f"{len(paths)} of the {len(answers)} pictures in {listed.name} are here"
        print(printable(f"{folder}: {here}"), file=sys.stderr)
    if len(paths) < len(pictures):
        unnamed = f"{len(pictures) - len(paths)} pictures that it does not name are left out"
        print(printable(f"{folder}: {unnamed}"), file=sys.stderr)
    split = _celeba_file(folder, "list_eval_partition")
    numbers = _celeba_partition(split) if split else {}
    strays = [path.name for path in paths if split and path.stem not in numbers]
    if strays:
        raise InputError(f"{split}: {strays[0]} is missing (of {len(strays)}); it must name every picture")
    good, _ = checked_images(paths, lambda path: read_image(path, channels), skip_bad)
    items = np.array([str(path) for path in good])
    labels = np.array([answers[path.stem] for path in good], np.uint8).reshape(len(good), len(names))
    of_part = np.array([numbers.get(path.stem, 0) for path in good])
    return [(items[of_part == number], labels[of_part == number]) for number in range(len(CELEBA_PARTS))], names


def _celeba_answers(path: Path) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Return the attributes' names, and by the stem of each picture's name its answers."""
    lines = _text_of(path).splitlines()
    if path.suffix == ".csv":
        count, header = None, lines[0].split(",")[1:] if lines else []
    else:
        count, header = lines[0].strip() if lines else "", lines[1].split() if len(lines) > 1 else []
    if not header or not (count is None or count.isdecimal()):
        raise InputError(f"{path}: expected the number of pictures, then a line of names, then a line a picture")
    names = tuple(name.strip() for name in header)
    _check_names_of_attributes(str(path), names)
    answers: dict[str, list[int]] = {}
    for number, cells in _celeba_rows(lines, 1 if count is None else 2):
        where = f"{path}, line {number}"
        if len(cells) != len(names) + 1:
            raise InputError(f"{where}: {len(cells) - 1} values for {len(names)} attributes; copy the file again")
        stem = Path(cells[0]).stem
        if stem in answers:
            raise InputError(f"{where}: {cells[0]} is named a second time; delete one of its lines")
        answers[stem] = _answers_in(where, names, cells[1:])
    if count is not None and int(count) != len(answers):
        said = f"{len(answers)} pictures, but its first line says {count}"
        raise InputError(f"{path}: {said}; copy the file again, or correct that line")
    return names, answers


def _celeba_partition(path: Path) -> dict[str, int]:
    lines = _text_of(path).splitlines()
    numbers: dict[str, int] = {}
    for number, cells in _celeba_rows(lines, int(path.suffix == ".csv")):
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            found = " ".join(cells)[:60]
            raise InputError(
                f"{path}, line {number}: {found!r}; expected a picture and 0 (training), 1 (validation), 2 (test)"
            )
        numbers[Path(cells[0]).stem] = int(cells[1])
    return numbers


def _celeba_rows(lines: list[str], first: int) -> list[tuple[int, list[str]]]:
    """Return the cells of each line that is not blank, and the line's number, from 1."""
    rows = ((number, line.replace(",", " ").split()) for number, line in enumerate(lines[first:], first + 1))
    return [(number, cells) for number, cells in rows if cells]


def _tfds_faces(name: str, fetch: bool) -> Path:
    """Write a set once as a folder of CelebA's layout, the pictures byte by byte, and return that folder."""
    try:
        builder: Any = tfds_builder(name, fetch)
    except InputError as error:
        by_hand = "; or download list_attr_celeba.txt, list_eval_partition.txt and img_align_celeba by hand, and name"
        raise InputError(f"{error}{by_hand} their folder" if name.startswith("celeb_a") else str(error)) from None
    features, splits = builder.info.features, builder.info.splits
    wanted = [split for split in CELEBA_PARTS if split in splits]
    answered = "attributes" in features and hasattr(features["attributes"], "keys")
    if not answered or "image" not in features or "train" not in wanted:
        raise InputError(
            f"tfds:{name}: expected an image, attributes and a train split, found {', '.join(features)}, "
            f"{', '.join(splits)}; with attributes there is tfds:celeb_a"
        )
    folder = Path(builder.data_dir) / "faces"
    if not (folder / "list_attr_celeba.txt").is_file():  # which is written last
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
            picture = f"{len(parts) + 1:06d}.{suffix}"
            (folder / CELEBA_PLACES[0] / picture).write_bytes(example["image"])
            parts.append(f"{picture} {CELEBA_PARTS.index(split)}")
            answers.append(" ".join([picture, *("1" if example["attributes"][name] else "-1" for name in names)]))
    write_text(folder / "list_eval_partition.txt", "\n".join(parts) + "\n")
    write_text(folder / "list_attr_celeba.txt", "\n".join([str(len(answers)), " ".join(names), *answers]) + "\n")


# %% A folder of one's own

OTHER_TABLES = (".txt", ".tsv", ".json", ".xlsx", ".xls", ".ods", ".parquet", ".mat")  # that may hold attributes

ANSWERS = {
    **dict.fromkeys(("1", "1.0", "yes", "true", "y"), 1),
    **dict.fromkeys(("0", "0.0", "-1", "-1.0", "no", "false", "n"), 0),
    **dict.fromkeys(("", "nan", "?"), UNKNOWN),
}


def _answers_in(where: str, names: tuple[str, ...], cells: list[str]) -> list[int]:
    try:
        return [ANSWERS[cell] for cell in cells]
    except KeyError as error:
        name = names[cells.index(error.args[0])]
        right = "an attribute is 1 or 0, 1 or -1, yes or no, true or false, or empty"
        raise InputError(f"{where}: {name} is {error.args[0]!r}; {right}: mend it, or take the column out") from None


def _text_of(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: a folder, a device or a pipe; it must be a file that can be read")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; it must be a file that can be read") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8; save it in that encoding") from None
    except MemoryError:
        raise InputError(f"{path}: does not fit into the memory that is free") from None


def _own_faces(folder: Path, channels: int, skip_bad: bool) -> tuple[list[Part], tuple[str, ...]]:
    places = folders_below(folder)
    hidden = [any(part.startswith(".") for part in place.relative_to(folder).parts) for place in places]
    paths = [path for place, out in zip(places, hidden, strict=True) if not out for path in images_or_none(place)]
    if not paths:
        raise InputError(f"{folder}: no pictures here or in its sub-folders ({' '.join(IMAGE_SUFFIXES)})")
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv" and path.name[0] != ".")
    if len(tables) > 1:
        listed = ", ".join(path.name for path in tables[:5])
        raise InputError(f"{folder}: {len(tables)} .csv files ({listed}); leave the one with the attributes here")
    unread = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in OTHER_TABLES)
    if unread:
        found = ", ".join(unread[:3])
        say(f"{folder}: {found} is not read; attributes come from a .csv with a line of names, or from CelebA's lists")
    names: tuple[str, ...] = ()
    answers: dict[Path, list[int]] = {}
    if tables:
        names, answers = _table_answers(tables[0], folder, paths, skip_bad)
        lonely = [path for path in paths if path not in answers]
        if lonely:
            which = f"{len(lonely)} of {len(paths)} pictures, the first {lonely[0].relative_to(folder)}, are not in it"
            print(printable(f"{tables[0]}: {which}; their attributes are taken as unknown"), file=sys.stderr)
    good, _ = checked_images(paths, lambda path: read_image(path, channels), skip_bad)
    unknown = [UNKNOWN] * len(names)
    labels = np.array([answers.get(path, unknown) for path in good], np.uint8).reshape(len(good), len(names))
    return [(np.array([str(path) for path in good]), labels)], names


def _table_answers(
    table: Path, folder: Path, paths: list[Path], skip_bad: bool
) -> tuple[tuple[str, ...], dict[Path, list[int]]]:
    """Return the names of the attributes in a .csv, and the answers for each picture that it names."""
    names, rows = _table_rows(table)
    exact = {path.relative_to(folder).as_posix(): path for path in paths}
    alike: dict[str, list[Path]] = {}
    for relative, path in exact.items():
        for key in {_alike(relative), _alike(path.name)}:
            alike.setdefault(key, []).append(path)
    answers: dict[Path, list[int]] = {}
    lines: dict[Path, int] = {}
    missing = []
    for line, name, row in rows:
        relative = PurePosixPath(name.replace("\\", "/")).as_posix()
        found = [exact[relative]] if relative in exact else alike.get(_alike(relative), [])
        if not found:
            missing.append(f"{table}, line {line}: there is no picture {name!r} in {folder} or below")
            continue
        if len(found) > 1:
            both = " and ".join(path.relative_to(folder).as_posix() for path in found[:2])
            raise InputError(f"{table}, line {line}: {name!r} may be {both}; write its folder too")
        if found[0] in answers:
            raise InputError(f"{table}, line {line}: {name!r} stands in line {lines[found[0]]} too; delete one of them")
        answers[found[0]], lines[found[0]] = row, line
    if missing and not (skip_bad and answers):
        remedy = ", or go on without them with --skip-bad" if answers else ""
        raise InputError(f"{missing[0]} (of {len(missing)} such lines); correct or delete them{remedy}")
    for message in missing[:5]:
        print(printable(message), file=sys.stderr)
    if missing:
        print(printable(f"going on without {len(missing)} lines of {table}"), file=sys.stderr)
    return names, answers


def _alike(name: str) -> str:
    """Return a file's name without what differs between systems: capitals, and how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def _table_rows(table: Path) -> tuple[tuple[str, ...], list[tuple[int, str, list[int]]]]:
    """Return the names of the attributes in a .csv, and for each row its line, its picture and its answers."""
    text = _text_of(table)
    header_line = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header_line.count), strict=True)
    try:
        cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"{table}, line {reader.line_num}: not a row of a .csv ({error}); mend it") from None
    filled = [(line, row) for line, row in cells if any(row)]
    header = filled[0][1] if filled else []
    while header and not header[-1]:
        header = header[:-1]
    if len(header) < 2 or Path(header[0]).suffix.lower() in IMAGE_SUFFIXES:
        right = "the first line names the columns, that of the file names first, with , or ; or a tab between"
        raise InputError(f"{table}: starts with {header_line[:60]!r}; {right}")
    if len(filled) < 2:
        raise InputError(f"{table}: no rows below the names of the columns; expected a row a picture")
    names = tuple(header[1:])
    _check_names_of_attributes(str(table), names)
    rows, said = [], []
    for line, row in filled[1:]:
        if len(row) < len(header) or any(row[len(header) :]):
            raise InputError(f"{table}, line {line}: {len(row)} values for {len(header)} columns; mend the row")
        said.append([cell.lower() for cell in row[1 : len(header)]])
        rows.append((line, row[0], _answers_in(f"{table}, line {line}", names, said[-1])))
    for name, column in zip(names, zip(*said, strict=True), strict=True):
        noes = {cell.removesuffix(".0") for cell in set(column)} & {"0", "-1"}
        if len(noes) == 2:
            lines = [next(line for (line, _, _), cell in zip(rows, column, strict=True) if cell.startswith(no))
                     for no in ("0", "-1")]  # fmt: skip
            raise InputError(
                f"{table}: {name} is 0 in line {lines[0]} and -1 in line {lines[1]}, which both mean no; write one of "
                "them, and nothing where it is unknown"
            )
    return names, rows
