"""Helpers for the tabs of the page: runs, demos, uploads and image components."""

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

from common.images.pixels import limit_size, resize_image
from common.images.reading import read_image
from common.runs.networks import Shape, load_network
from common.samples.photos import photographs
from common.system.files import InputError
from common.training import read_photo
from recipes import cyclegan, dcgan, dcgan_faces, diffusion, fast_style_transfer, pix2pix, vae, vae_faces
from recipes.app.guard import files_in

RECIPES = {  # the recipes whose runs the page uses
    "cyclegan": cyclegan,
    "dcgan": dcgan,
    "dcgan_faces": dcgan_faces,
    "diffusion": diffusion,
    "fast_style_transfer": fast_style_transfer,
    "pix2pix": pix2pix,
    "vae": vae,
    "vae_faces": vae_faces,
}
DRAWINGS = 8  # number of unread drawings that a canvas keeps
ANY_IMAGE = (None, None, 3)  # input or output shape of a network: one RGB image of any size
LARGEST_SIDE = 768  # maximum side in pixels; larger uploads are resized


def is_whole(run: Path) -> bool:
    """Return whether a run is finished."""
    return (run / "results.json").exists()


def demo_messages(recipe: str, run: Path) -> Iterator[str]:
    """Run a recipe's demo in a separate process and yield its progress. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", f"recipes.{recipe}", "--output-dir", str(run)]
    with (
        tempfile.TemporaryFile("w+") as messages,  # a full pipe would block the demo
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=messages) as process,
    ):
        yield "starting …"
        while process.poll() is None:
            time.sleep(1)
            yield f"{epochs_done(run)} of {RECIPES[recipe].DEMO.epochs} epochs done"
        if process.returncode:
            messages.seek(0)
            raise RuntimeError(messages.read().strip().rpartition("\n")[2])


def epochs_done(run: Path) -> int:
    """Return the number of finished epochs of a run."""
    try:
        with (run / "history.csv").open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))
    except FileNotFoundError:
        return 0


class Answer(NamedTuple):
    """A function that a tab calls at every trigger. If several triggers are pending, only the last one is processed."""

    function: Callable
    inputs: list
    outputs: Any
    triggers: list
    at_once: bool  # also call it when the tab is opened
    made: Made | None


class Made(NamedTuple):
    """The components that create the run of a tab if it does not exist."""

    event: Any  # after this event, the run exists
    shown: Callable  # returns which column to show: the button or the controls
    columns: list


def answer(
    gr: Any, function: Callable, inputs: list, outputs: Any, triggers: list | None = None, made: Made | None = None
) -> Answer:
    """Return an `Answer` that shows user errors on the page. By default, a change to any input triggers it.

    Use the function of the `Answer` only for events with `preprocess=False`. With Gradio's own preprocessing, the page
    would show no message for an unreadable image.
    """

    @functools.wraps(function)
    def with_errors(*given):
        try:
            return function(*(taken(gr, component, value) for component, value in zip(inputs, given, strict=True)))
        except (InputError, OSError) as error:
            message = str(error)
            for file in files_in(list(given)):  # show file names, not the paths of the uploads
                message = message.replace(file["path"], Path(file["path"]).name)
            raise gr.Error(html.escape(message), print_exception=False) from None

    # gradio's editor fires `input`, not `change`, after a brush stroke.
    changes = [each.input if isinstance(each, gr.ImageEditor) else each.change for each in inputs]
    return Answer(with_errors, inputs, outputs, triggers or changes, at_once=not triggers, made=made)


def taken(gr: Any, component: Any, value: Any) -> Any:
    """Convert a component's value, as sent by the browser, to an argument of a tab's function.

    Returns:
        The path of an upload, which `Guard` has checked; the drawing on a canvas, uint8 [height, width, 3]; for other
        components, the value as converted by gradio. None if there is no upload or drawing.
    """
    if isinstance(component, gr.Image):
        return value["path"] if value else None
    if not isinstance(component, gr.ImageEditor):
        return component.preprocess(value)
    if value and (content := component.blob_storage.pop(value["id"], None)) is not None:
        return read_image(Drawing(content))
    return read_image(Path(value["composite"]["path"])) if value and value["composite"] else None


class Drawing(NamedTuple):
    """A drawing from a canvas. `read_image` can read it like a file."""

    content: bytes

    def read_bytes(self) -> bytes:
        """Return the content of the image file."""
        return self.content

    def __str__(self) -> str:
        return "the drawing"


@contextmanager
def with_run(gr: Any, recipe: str, run: Path) -> Iterator[Made]:
    """Show the controls created in the `with` block if the run is finished, otherwise a button that runs the demo."""

    def shown():
        return gr.update(visible=not is_whole(run)), gr.update(visible=is_whole(run))

    with gr.Column(visible=not is_whole(run)) as missing:
        gr.Markdown(
            f"This tab needs a run of `{recipe}`, but `{run}` contains none. The demo creates one in a few minutes."
        )
        button = gr.Button("Run the demo", variant="primary")
        progress = gr.Markdown()

    def make():
        try:
            for message in demo_messages(recipe, run) if not is_whole(run) else ():
                yield message, gr.update(), gr.update()
        except RuntimeError as error:
            raise gr.Error(f"the demo failed: {error}", print_exception=False) from None
        yield "", *shown()

    with gr.Column(visible=is_whole(run)) as present:
        event = button.click(make, None, [progress, missing, present], concurrency_limit=1, concurrency_id="demo")
        yield Made(event, shown, [missing, present])


def photo_input(gr: Any, label: str, image: np.ndarray | None = None) -> Any:
    """Return an upload component that shows `image`. Without `image`, the component is smaller."""
    height = 160 if image is None else 320
    return gr.Image(image, type="filepath", label=label, sources=["upload", "clipboard"], height=height)


@functools.cache
def bundled(name: str) -> np.ndarray:
    """Return the photograph from scikit-image that is called `name`."""
    return photographs()[name]


def read_upload(path: str) -> np.ndarray:
    """Return an uploaded image, uint8 [height, width, 3], resized if it is large."""
    return limit_size(read_photo(path), LARGEST_SIDE)


def check_upload(path: str | None) -> None:
    """Raise InputError if an uploaded image cannot be read."""
    if path:
        read_upload(path)


@functools.lru_cache(maxsize=16)
def network_of(run: Path, name: str, input_shape: Shape, output_shape: Shape, written: int) -> Any:
    """Load a network of a run, and cache it until its file changes; `written` is the file's modification time."""
    return load_network(run, name, input_shape, output_shape)


def network(run: Path, name: str, input_shape: Shape = ANY_IMAGE, output_shape: Shape = ANY_IMAGE) -> Any:
    """Return a network of a run. By default, it must map RGB images of any size to RGB images.

    Raises InputError if the input or output shape of the network differs.
    """
    path = run / f"{name}.keras"
    return network_of(run, name, input_shape, output_shape, path.stat().st_mtime_ns if path.exists() else 0)


def result(gr: Any, label: str, height: int | None = None) -> Any:
    """Add a label and, below it, an image component for a result; return the component."""
    gr.Markdown(label)
    name = re.sub(r"\W+", "-", label)
    shown = {"show_label": False, "format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
    return gr.Image(label=label, height=height, elem_id=name, **shown)


def canvas(gr: Any, image: np.ndarray, colours: Sequence[str], brush: int, start: str, label: str) -> Any:
    """Return a canvas for painting on an image, uint8 [height, width, 3]; `brush` is the brush width in pixels."""
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
        """Keep only the newest drawings, without their layers. Gradio's own method would keep everything."""
        if data.data["type"] == "composite":
            editor.blob_storage[data.data["id"]] = data.files[0][1]
        for name in list(editor.blob_storage)[:-DRAWINGS]:
            editor.blob_storage.pop(name, None)

    accept_blobs._is_server_fn = True  # type: ignore[attr-defined]
    editor.accept_blobs = accept_blobs
    return editor


def side_by_side(*images: np.ndarray, height: int = 256) -> np.ndarray:
    """Join uint8 images [h, w, 1 or 3] of any size in a row.

    Small images are enlarged by integer factors: colour images smoothly, greyscale images by repeating their pixels.
    """
    parts = []
    for image in images:
        zoom = max(1, height // len(image))
        if image.shape[-1] == 3:
            parts.append(resize_image(image, zoom * image.shape[0], zoom * image.shape[1]))
        else:
            parts.append(image.repeat(zoom, 0).repeat(zoom, 1).repeat(3, 2))
    least = min(map(len, parts))
    return np.concatenate([resize_image(part, least, part.shape[1] * least // len(part)) for part in parts], 1)
