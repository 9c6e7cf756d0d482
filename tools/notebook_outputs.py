"""Execute notebooks, and prepare their outputs for the repository; see `python -m tools.notebooks --help`."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image, ImageSequence

from common.system.files import InputError

IMAGE_BYTES = 200_000, 175_000, 150_000, 130_000, 110_000, 90_000, 75_000, 60_000, 45_000, 30_000  # the largest image
REPORT_IMAGE_BYTES = 25_000  # the largest image of the report, whose images the notebook often also shows on their own
NOTEBOOK_BYTES = 530_000  # images become smaller until the notebook fits, or until each has 30,000 bytes
STREAM_LINES = 12  # longer texts are shortened: the first and the last half of the lines are kept
WARNING = re.compile(r"Warning: |WARNING")  # of Python and of libraries; a recipe's own `warning: ...` is a result
KEY, SETUP_TAG = "outputs_of", "setup"  # in the metadata of a notebook and of a cell
LOGGED = r"[IWEF]\d{4} \d\d:\d\d:[\d.]+ .*|WARNING: All log messages before absl::.*"  # by TensorFlow's libraries
CLOSED = "http://127.0.0.1:9"  # a port where nothing answers: downloads fail at once


class Warned(InputError):
    """A cell has written a warning."""


# %% Sources and outputs


def sources_hash(book: nbformat.NotebookNode) -> str:
    """Return a hash of the code cells. The first cell, which installs the project, does not count."""
    sources = [cell.source for cell in code_cells(book) if SETUP_TAG not in cell.metadata.get("tags", [])]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def code_cells(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the code cells of a notebook."""
    return [cell for cell in book.cells if cell.cell_type == "code"]


def read_notebook(path: Path) -> nbformat.NotebookNode | None:
    """Return a notebook, or None if the file does not exist or is not a valid notebook."""
    try:
        return nbformat.read(path, 4)
    except (OSError, ValueError, AttributeError, KeyError, nbformat.ValidationError):
        return None


def keep_outputs(book: nbformat.NotebookNode, old: nbformat.NotebookNode | None) -> None:
    """Copy the outputs of an older notebook to the cells of `book` whose source is the same."""
    if old is None or KEY not in old.metadata:
        return
    kept = [cell for cell in code_cells(old) if cell.outputs or cell.execution_count]
    for cell in code_cells(book):
        same = next((each for each in kept if each.source == cell.source), None)
        if same is not None:
            kept.remove(same)  # several cells may have the same source
            cell.outputs, cell.execution_count = same.outputs, same.execution_count
    book.metadata[KEY] = old.metadata[KEY]


def state(book: nbformat.NotebookNode) -> str:
    """Return "missing", "older" or "current": how the outputs of a notebook relate to its source."""
    if KEY not in book.metadata:
        return "missing"
    return "current" if book.metadata[KEY] == sources_hash(book) else "older"


# %% Execution


def notebook_client(
    book: nbformat.NotebookNode, folder: Path, kernel_name: str = "python3", timeout: int = 3600
) -> Any:
    """Return an `nbclient.NotebookClient` that executes a notebook in `folder` and does not imitate output widgets.

    By default, nbclient answers every output of `ipywidgets.interact` with a message, on the socket on which it waits
    for the cell's reply. jupyter_client sends it past asyncio (`zmq.Socket.shadow`). If the reply arrives at that
    moment, asyncio is not told about it, and nbclient waits until its timeout. Without the imitation nothing is sent,
    and the output of `interact` is an output of the cell, which is also shown where no widgets are.
    """
    from nbclient import NotebookClient

    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        book,
        timeout=timeout,  # seconds per cell
        shutdown_kernel="immediate",
        resources=resources,
        kernel_name=kernel_name,
        store_widget_state=False,
        coalesce_streams=True,
        record_timing=False,
    )
    client.widget_registry = {}
    return client


@contextmanager
def offline_folders(root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield an empty folder, and an environment that has no network, no caches and the project at `root`."""
    with tempfile.TemporaryDirectory(prefix="notebook-") as name:
        work, home = Path(name) / "work", Path(name) / "home"
        work.mkdir()
        home.mkdir()
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        proxies = {key: CLOSED for each in ("http_proxy", "https_proxy") for key in (each, each.upper())}
        caches = {key: str(home / key.lower()) for key in ("KERAS_HOME", "TFDS_DATA_DIR", "IPYTHONDIR")}
        yield work, os.environ | proxies | caches | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}


def execute(book: nbformat.NotebookNode, root: Path, runs: Path | None = None) -> None:
    """Execute a notebook in a fresh kernel and an empty folder; store outputs that are fit for the repository.

    The run folders that the notebook has written are moved to the folder `runs`, where they replace earlier ones.

    Raises:
        Warned: a cell has written a warning.
        nbclient.exceptions.CellExecutionError: a cell has failed.
    """
    metadata = book.metadata.copy()
    with offline_folders(root) as (work, environment):
        notebook_client(book, work).execute(env=environment)
        places = {str(each): "" for each in (work, work.resolve(), root, root.resolve())}
        places |= {str(work.parent): "", os.path.expanduser("~"): "~"}
        if runs is not None:
            runs.mkdir(parents=True, exist_ok=True)
            for folder in sorted(work.glob("runs/*/")):
                shutil.rmtree(runs / folder.name, ignore_errors=True)
                shutil.move(folder, runs / folder.name)
    raw = [(cell, cell.outputs) for cell in code_cells(book)]
    book.metadata = metadata | {KEY: sources_hash(book)}
    for limit in IMAGE_BYTES:
        for cell, outputs in raw:
            cell.outputs = [each for output in outputs if (each := prepared(copy.deepcopy(output), places, limit))]
        if len(nbformat.writes(book)) <= NOTEBOOK_BYTES:
            break
    for cell in code_cells(book):
        for output in cell.outputs:
            if WARNING.search(text_of(output)):
                raise Warned(f"a cell has written a warning:\n{cell.source}\n{text_of(output)}")


# %% Outputs


def text_of(output: nbformat.NotebookNode) -> str:
    """Return the plain text of an output."""
    return output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")


def prepared(
    output: nbformat.NotebookNode, places: dict[str, str], limit: int = IMAGE_BYTES[0]
) -> nbformat.NotebookNode | None:
    """Return an output without what differs between machines and runs, with smaller images; None if nothing is left.

    Args:
        output: an output of a cell.
        places: absolute paths, and what they are replaced with.
        limit: the size of the largest image in bytes.
    """
    if output.output_type == "stream":
        output.text = condensed(without_places(output.text, places))
        return output if output.text.strip() else None
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:  # a widget, which only a running kernel can show
        return None
    if {"image/png", "image/jpeg"} <= data.keys():
        del data["image/jpeg"]
    for kind in [kind for kind in data if kind.startswith("image/") and kind != "image/svg+xml"]:
        encoded = data.pop(kind)
        kind, image = smaller(kind, base64.b64decode(encoded), limit)
        data[kind] = base64.b64encode(image).decode()
        output.metadata.pop(kind, None)
    if "text/html" in data:
        data["text/html"] = without_places(report(data["text/html"]), places)
    if "text/plain" in data:
        data["text/plain"] = without_places(re.sub(r" at 0x[0-9A-Fa-f]+", "", data["text/plain"]), places)
    return output


def without_places(text: str, places: dict[str, str]) -> str:
    """Replace absolute paths of this machine; a path below one of the folders becomes relative."""
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(place + os.sep, places[place] and places[place] + "/").replace(place, places[place] or ".")
    return text


def condensed(text: str) -> str:
    """Return the text as a terminal shows it in the end; long texts are shortened in the middle.

    Speeds, times and messages of TensorFlow's libraries are left out.
    """
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    lines = [re.sub(r"  +[\d.]+ steps?/s, [\d:]+ left$", "", line) for line in lines]
    lines = [line for line in lines if not re.fullmatch(rf"\d+ steps per call|.*\babout .* left|{LOGGED}", line)]
    if len(lines) > STREAM_LINES + 1:
        half = STREAM_LINES // 2
        lines = [*lines[:half], f"... ({len(lines) - 2 * half} lines)", *lines[-half:]]
    return "\n".join(lines)


def report(page: str) -> str:
    """Return the report of a run, as HTML in a notebook, with smaller images and without times."""

    def shrink(found: re.Match[str]) -> str:
        kind, image = smaller(found[1], base64.b64decode(found[2]), REPORT_IMAGE_BYTES)
        return f"data:{kind};base64,{base64.b64encode(image).decode()}"

    page = re.sub(r"data:(image/(?:png|jpeg|gif));base64,([A-Za-z0-9+/=]+)", shrink, page)
    line = r"\d{4}-\d\d-\d\d \d\d:\d\d|\d+ h \d+ min|\d+ min \d+ s|[\d.,]+ steps/s"
    page = re.sub(rf"&lt;li&gt;(?:{line})&lt;/li&gt;\n", "", page)
    names: dict[str, str] = {}  # of the clipping paths in SVG, which Matplotlib chooses at random
    return re.sub(r"(?<=[#;])p[0-9a-f]{10}\b", lambda found: names.setdefault(found[0], f"p{len(names)}"), page)


def smaller(kind: str, data: bytes, limit: int) -> tuple[str, bytes]:
    """Return the type and the data of an image file of at most `limit` bytes.

    A larger PNG becomes a JPEG file with less and less quality, then also with fewer pixels. A larger animation loses
    pixels.
    """
    if len(data) <= limit:
        return kind, data
    with Image.open(io.BytesIO(data)) as image:
        if getattr(image, "is_animated", False):
            durations = [frame.info.get("duration", 100) for frame in ImageSequence.Iterator(image)]
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
            return "image/gif", smaller_animation(frames, durations, limit)
        still = image.convert("RGB")
    scale = 1.0
    while True:
        size = max(1, round(still.width * scale)), max(1, round(still.height * scale))
        resized = still if scale == 1 else still.resize(size, Image.Resampling.LANCZOS)
        for quality in (92, 85, 75, 60):
            file = io.BytesIO()
            resized.save(file, "JPEG", quality=quality, optimize=True)
            if file.tell() <= limit:
                return "image/jpeg", file.getvalue()
        scale *= 0.85


def smaller_animation(frames: list[Image.Image], durations: list[int], limit: int) -> bytes:
    """Return frames as a GIF file of at most `limit` bytes. Every second frame is left out if there are over 24."""
    if len(frames) > 24:
        pairs = [durations[first : first + 2] for first in range(0, len(durations), 2)]
        frames, durations = frames[::2], [sum(pair) for pair in pairs]
    scale = 1.0
    while True:
        size = max(1, round(frames[0].width * scale)), max(1, round(frames[0].height * scale))
        resized = [frame.resize(size, Image.Resampling.LANCZOS) for frame in frames]
        file = io.BytesIO()
        resized[0].save(file, "GIF", save_all=True, append_images=resized[1:], duration=durations, loop=0)
        if file.tell() <= limit:
            return file.getvalue()
        scale *= 0.85
