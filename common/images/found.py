"""What readers find in a folder, what they leave out, and why: one rule for all readers, and one line before training.

Hidden files and folders, and those that tools create (thumbnails, resource forks, version control), are not data. Image
files are identified by their suffix. `reported` prints the line.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from common.system.cluster import is_chief
from common.system.console import say
from common.system.files import InputError, is_run, printable

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".jpe", ".jfif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".apng"),
)
HEIC_SUFFIXES = (".heic", ".heif")  # read if the package pillow-heif is installed
TOOL_NAMES = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "__pycache__", "lost+found", "cvs", "icon\r"),
        "system volume information",
    )
)
"""Names, in lower case, of files and folders that operating systems and tools create."""
HIDDEN = "hidden, or of a tool"

P = ParamSpec("P")
Source = TypeVar("Source", str, Path)
Result = TypeVar("Result")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder with this name is hidden, or created by a tool. It is never data."""
    return name.startswith(".") or name.lower() in TOOL_NAMES


def is_image_name(name: str) -> bool:
    """Return whether a file with this name is read as an image. The case of its suffix does not matter."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in IMAGE_SUFFIXES or (suffix in HEIC_SUFFIXES and importlib.util.find_spec("pillow_heif") is not None)


class Found:
    """The files that a reader has found in `source`."""

    def __init__(self, source: str | Path) -> None:
        """Start with nothing."""
        self.source = source
        self.used: dict[Path, tuple[int, int]] = {}  # images and their height and width
        self.left_out: dict[Path, str] = {}  # files and folders, and why they are not used
        self.notes: dict[str, set[Path]] = {}  # what is unusual, and the images for which it is true
        self.read_at: tuple[int, int] | None = None  # size and channels of the images that the reader returns
        self.details: list[str] = []  # what else the user should know, such as how the images were paired

    def line(self) -> str:
        """Return the line to print; empty if no file was found."""
        if not self.used:
            return ""
        parts = [f"{len(self.used):,} image{'s' * (len(self.used) != 1)}{self._sizes()}", *self.details]
        if self.read_at:
            size, channels = self.read_at
            parts[0] += f", read as {size}x{size} px, {'greyscale' if channels == 1 else 'colour'}"
        left_out = [path for path in self.left_out if path not in self.used]
        if left_out:
            reasons = Counter(self.left_out[path] for path in left_out)
            counted = [f"{count:,} {reason}" for reason, count in reasons.most_common() if reason != HIDDEN]
            hidden = {path.name + "/" * path.is_dir() for path in left_out if self.left_out[path] == HIDDEN}
            names = sorted(hidden, key=lambda name: (not name.endswith("/"), name))
            counted += [f"{', '.join(names[:8])}{' and more' * bool(names[8:])} ({HIDDEN})"] if names else []
            parts.append(f"left out: {', '.join(counted[:8])}{' and more' * bool(counted[8:])}")
        for note, paths in self.notes.items():
            verb = "is" if len(paths) == 1 else "are"
            parts.append(f"{len(paths):,} {verb} {note}, such as {printable(min(paths).name)}")
        return f"{self.source}: {'; '.join(parts)}"

    def _sizes(self) -> str:
        sizes = sorted(set(self.used.values()), key=lambda size: size[0] * size[1])
        shown = list(dict.fromkeys(f"{width}x{height}" for height, width in (sizes[0], sizes[-1])))
        return f" ({' to '.join(shown)} px)"


_ACTIVE: ContextVar[Found | None] = ContextVar("found", default=None)
_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextmanager
def reported(source: str | Path, always: bool = True) -> Iterator[Found]:
    """Collect what is found in the block. At its end, print one line; after an error, print nothing.

    In a block inside another one, everything is added to the outer one.

    Args:
        source: the folder or the data set, for the line.
        always: print the line even if nothing is unusual, and nothing was left out except hidden files.
    """
    outer = _ACTIVE.get()
    if outer is not None:
        yield outer
        return
    found = Found(source)
    token = _ACTIVE.set(found)
    try:
        yield found
    finally:
        _ACTIVE.reset(token)
    unusual = found.notes or any(reason != HIDDEN for reason in found.left_out.values())
    if (always or unusual) and is_chief() and (line := found.line()):
        say(line)


def reports_files(reader: Callable[Concatenate[Source, P], Result]) -> Callable[Concatenate[Source, P], Result]:
    """Decorate a reader, whose first argument names its data, with `reported`."""

    @functools.wraps(reader)
    def read(data: Source, *values: P.args, **options: P.kwargs) -> Result:
        with reported(data):
            return reader(data, *values, **options)

    return read


def leave_out(path: Path, reason: str) -> None:
    """Record that a file or folder is not used. `reason` follows a number, as in `3 .txt`."""
    if (found := _ACTIVE.get()) is not None:
        found.left_out.setdefault(path, reason)


def take(path: Path, shape: tuple[int, ...] = (), notes: list[str] | None = None) -> None:
    """Record that a file is used: an image of this shape or, without `shape`, a table."""
    if (found := _ACTIVE.get()) is not None:
        found.left_out.pop(path, None)
        if shape:
            found.used[path] = shape[0], shape[1]
        for note in notes or ():
            found.notes.setdefault(note, set()).add(path)


def read_at(size: int, channels: int = 3) -> None:
    """Record the size and the channels of the images that the reader returns."""
    if (found := _ACTIVE.get()) is not None:
        found.read_at = size, channels


def add_detail(text: str) -> None:
    """Add what else the user should know about the data to the line."""
    if (found := _ACTIVE.get()) is not None and text not in found.details:
        found.details.append(text)


@contextmanager
def noting() -> Iterator[list[str]]:
    """Collect what `note` reports in this thread."""
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


def note(text: str) -> None:
    """Report something unusual about the image that is being read, such as `are all white`."""
    if (notes := _NOTES.get()) is not None:
        notes.append(text)


# %% Folders


def entries_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images and the sub-folders of a folder, sorted by name. Other entries are recorded as left out.

    Raises:
        InputError: the folder cannot be read.
    """
    images, folders = [], []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected a readable folder") from None
    for entry in entries:
        if is_hidden(entry.name):
            leave_out(entry, HIDDEN)
        elif entry.is_dir():
            folders.append(entry)
        elif not is_image_name(entry.name):
            leave_out(entry, _kind_of(entry))
        elif entry.is_file():
            images.append(entry)
        else:
            leave_out(entry, "broken links" if entry.is_symlink() else "devices or pipes")
    return images, folders


def _kind_of(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in HEIC_SUFFIXES:
        return f"{suffix} (to read them: pip install pillow-heif)"
    return suffix or "without a suffix"


def folders_below(folder: Path) -> list[Path]:
    """Return a folder and all its sub-folders, sorted by path.

    Hidden folders, folders of tools and run folders, which contain generated images, are left out. Links to folders are
    followed, but a folder is returned only once.
    """
    found: list[Path] = []
    todo, seen = [folder], set()
    while todo:
        current = todo.pop()
        about = current.stat()
        if (about.st_dev, about.st_ino) in seen:
            leave_out(current, "links to folders that were already read")
            continue
        seen.add((about.st_dev, about.st_ino))
        if current != folder and is_run(current):
            leave_out(current, f"run folder ({current.name}/)")
            continue
        found.append(current)
        todo += entries_of(current)[1][::-1]
    return sorted(found)


def images_below(folder: Path) -> list[Path]:
    """Return the images of a folder and its sub-folders. Raises InputError if there are none."""
    paths = images_in(folder)
    if not paths:
        names = [path.name for path in sorted(folder.iterdir()) if not is_hidden(path.name)]
        found = f"found {', '.join(names[:5])}{' and more' * bool(names[5:])}" if names else ""
        found = found or ("it has only hidden files" if any(folder.iterdir()) else "it is empty")
        if any(name.lower().endswith(HEIC_SUFFIXES) for name in names):
            found += "; to read HEIC, pip install pillow-heif"
        raise InputError(
            f"{folder}: no images in this folder or its sub-folders ({found}); expected {' '.join(IMAGE_SUFFIXES)}"
        )
    return paths


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder and its sub-folders; an empty list if there are none, or no such folder."""
    if not folder.is_dir():
        return []
    return [path for inner in folders_below(folder) for path in entries_of(inner)[0]]
