"""What the tabs of the page share: runs, demos that make them, uploads, and places for pictures."""

from __future__ import annotations

import csv
import functools
import html
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.canvas import no_larger, photographs, read_photo
from common.errors import InputError
from common.images import read_image, resize_image
from common.runs import Shape, load_network
from recipes import cyclegan, dcgan, fast_style_transfer, pix2pix, vae, vae_faces
from recipes.app.guard import files_in

RECIPES = {  # of which a run is played with
    "cyclegan": cyclegan,
    "dcgan": dcgan,
    "fast_style_transfer": fast_style_transfer,
    "pix2pix": pix2pix,
    "vae": vae,
    "vae_faces": vae_faces,
}
DRAWINGS = 8  # that a canvas keeps until they are looked at
ANY_IMAGE = (None, None, 3)  # height, width and channels that a network takes or gives
LARGEST_SIDE = 768  # pixels of an uploaded picture that is worked on; larger ones are made smaller


def is_whole(run: Path) -> bool:
    """Return whether a run has come to its end."""
    return (run / "results.json").exists()


def demo_messages(recipe: str, run: Path) -> Iterator[str]:
    """Run a recipe's demo in a process of its own, and yield how far it is; RuntimeError says why it failed."""
    command = [sys.executable, "-m", f"recipes.{recipe}", "--output-dir", str(run)]
    with (
        tempfile.TemporaryFile("w+") as said,  # a pipe would be full one day, and the demo wait for ever
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as process,
    ):
        yield "making ready …"
        while process.poll() is None:
            time.sleep(1)
            yield f"epoch {epochs_done(run)} of {RECIPES[recipe].DEMO.epochs} is done"
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().strip().rpartition("\n")[2])


def epochs_done(run: Path) -> int:
    """Return how many epochs of a run are done."""
    try:
        with (run / "history.csv").open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))
    except FileNotFoundError:
        return 0


class Answer(NamedTuple):
    """What a tab shows at every trigger, the last of many that come at once, and if `at_once` when it is first seen."""

    function: Callable
    inputs: list
    outputs: Any
    triggers: list
    at_once: bool
    made: Made | None


class Made(NamedTuple):
    """What makes a run to play with."""

    event: Any  # after which there is one
    shown: Callable  # returns which of the columns are to be seen: the button, or what it makes
    columns: list


def answer(
    gr: Any, function: Callable, inputs: list, outputs: Any, triggers: list | None = None, made: Made | None = None
) -> Answer:
    """Return one that says on the page what a user gave wrong; triggers are all changes where none is given.

    The function is for events with `preprocess=False`: gradio would open pictures by rules of its own, and say nothing
    on the page of one that it cannot read.
    """

    @functools.wraps(function)
    def told(*given):
        try:
            return function(*(taken(gr, place, value) for place, value in zip(inputs, given, strict=True)))
        except (InputError, OSError) as error:
            message = str(error)
            for file in files_in(list(given)):  # users know their files by name
                message = message.replace(file["path"], Path(file["path"]).name)
            raise gr.Error(html.escape(message), print_exception=False) from None

    # gradio's editor says `input`, and not `change`, when somebody has painted on it.
    changes = [each.input if isinstance(each, gr.ImageEditor) else each.change for each in inputs]
    return Answer(told, inputs, outputs, triggers or changes, at_once=not triggers, made=made)


def taken(gr: Any, place: Any, value: Any) -> Any:
    """Return what a tab's function takes for a value from the browser.

    That is the path of an upload, of which `Guard` has seen that it is one; what is drawn on a canvas, uint8 [height,
    width, 3]; None where there is nothing; or the value, after gradio has looked at it.
    """
    if isinstance(place, gr.Image):
        return value["path"] if value else None
    if not isinstance(place, gr.ImageEditor):
        return place.preprocess(value)
    if value and (content := place.blob_storage.pop(value["id"], None)) is not None:
        return read_image(Drawing(content))
    return read_image(Path(value["composite"]["path"])) if value and value["composite"] else None


class Drawing(NamedTuple):
    """What is drawn on a canvas, for `read_image`."""

    content: bytes

    def read_bytes(self) -> bytes:
        """Return the image file."""
        return self.content

    def __str__(self) -> str:
        return "the drawing"


@contextmanager
def with_run(gr: Any, recipe: str, run: Path) -> Iterator[Made]:
    """Show what is made inside where the run is whole; where it is not, a button that makes it first."""

    def shown():
        return gr.update(visible=not is_whole(run)), gr.update(visible=is_whole(run))

    with gr.Column(visible=not is_whole(run)) as missing:
        gr.Markdown(
            f"This plays with a run of `{recipe}`. There is none in `{run}` yet; its demo makes one, in some minutes."
        )
        button = gr.Button("Make it", variant="primary")
        said = gr.Markdown()

    def make():
        try:
            for message in demo_messages(recipe, run) if not is_whole(run) else ():
                yield message, gr.update(), gr.update()
        except RuntimeError as error:
            raise gr.Error(f"the demo failed: {error}", print_exception=False) from None
        yield "", *shown()

    with gr.Column(visible=is_whole(run)) as present:
        event = button.click(make, None, [said, missing, present], concurrency_limit=1, concurrency_id="demo")
        yield Made(event, shown, [missing, present])


def photo_input(gr: Any, label: str, image: np.ndarray | None = None) -> Any:
    """Return a place for an upload, with a picture in it to begin with, or small and empty."""
    height = 160 if image is None else 320
    return gr.Image(image, type="filepath", label=label, sources=["upload", "clipboard"], height=height)


@functools.cache
def bundled(name: str) -> np.ndarray:
    """Return one of the photographs that come with scikit-image."""
    return photographs()[name]


def read_upload(path: str) -> np.ndarray:
    """Return an uploaded picture, uint8 [height, width, 3], made smaller where it is large."""
    return no_larger(read_photo(path), LARGEST_SIDE)


def check_upload(path: str | None) -> None:
    """Raise InputError where an uploaded picture cannot be read."""
    if path:
        read_upload(path)


@functools.lru_cache(maxsize=16)
def network_of(run: Path, name: str, takes: Shape, gives: Shape, written: int) -> Any:
    """Return a network of a run, which is read once; `written` is when its file was."""
    return load_network(run, name, takes, gives)


def network(run: Path, name: str, takes: Shape = ANY_IMAGE, gives: Shape = ANY_IMAGE) -> Any:
    """Return a network of a run as it is now, by default one that translates images of any size.

    Raises InputError where it takes or gives something else, as a network of another run does.
    """
    path = run / f"{name}.keras"
    return network_of(run, name, takes, gives, path.stat().st_mtime_ns if path.exists() else 0)


def result(gr: Any, label: str, height: int | None = None) -> Any:
    """Return a place for a picture, which stands under its label."""
    gr.Markdown(label)
    name = re.sub(r"\W+", "-", label)
    shown = {"show_label": False, "format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
    return gr.Image(label=label, height=height, elem_id=name, **shown)


def canvas(gr: Any, image: np.ndarray, colours: Sequence[str], brush: int, start: str, label: str) -> Any:
    """Return a picture, uint8 [height, width, 3], to paint on with a brush of so many pixels."""
    editor = gr.ImageEditor(
        {"background": image, "layers": [], "composite": image},
        brush=gr.Brush(default_size=brush, colors=list(colours), default_color=start, color_mode="fixed"),
        canvas_size=(image.shape[1], image.shape[0]),
        fixed_canvas=True,
        type="numpy",
        image_mode="RGB",
        sources=(),
        transforms=(),
        layers=False,
        label=label,
    )

    def accept_blobs(data):
        """Keep the newest drawings, and only as a whole; gradio would keep all, and a layer at any number."""
        if data.data["type"] == "composite":
            editor.blob_storage[data.data["id"]] = data.files[0][1]
        for name in list(editor.blob_storage)[:-DRAWINGS]:
            editor.blob_storage.pop(name, None)

    accept_blobs._is_server_fn = True  # type: ignore[attr-defined]
    editor.accept_blobs = accept_blobs
    return editor


def side_by_side(*images: np.ndarray, height: int = 256) -> np.ndarray:
    """Return uint8 [h, w, 1 or 3] of any sizes in a row, small pixels kept as squares, large ones made smaller."""
    parts = []
    for image in images:
        zoom = max(1, height // len(image))
        parts.append(image.repeat(zoom, 0).repeat(zoom, 1).repeat(3 // image.shape[-1], 2))
    least = min(map(len, parts))
    return np.concatenate([resize_image(part, least, part.shape[1] * least // len(part)) for part in parts], 1)
