"""`python -m recipes app`: a page on this machine to play with what the recipes learn."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.attack_pictures import magnified
from common.attacked import whole_levels
from common.canvas import canvas_of, no_larger, photographs, read_photo, read_style
from common.digits import centred_digit, held_out_digits
from common.errors import InputError
from common.faces import FACE_ATTRIBUTES, drawn_faces
from common.imagenet import Known, frozen_classifier
from common.images import LABEL_COLOURS, colour_labels, labels_from_colours, read_image, resize_image
from common.runs import load_network, run_settings
from common.seasons import drawn_seasons
from common.streets import STREET_CLASSES, street_pairs
from recipes import cyclegan, dcgan, deepdream, fast_style_transfer, fgsm, pix2pix, style_transfer, vae, vae_faces

RECIPES = {"vae_faces": vae_faces, "pix2pix": pix2pix, "cyclegan": cyclegan, "fast_style_transfer": fast_style_transfer}
RECIPES |= {"vae": vae, "dcgan": dcgan}  # of which a run is played with
LARGEST_SIDE = 768  # pixels of an uploaded picture that is worked on; larger ones are made smaller
LARGEST_UPLOAD = "20mb"
FACES, SCENES = 20, 12  # embedded ones to choose from


def serve(runs: Sequence[Path] = (), port: int = 7860, open_browser: bool = False) -> None:
    """Show the page at http://127.0.0.1:PORT, until Ctrl-C; nobody else on the network can reach it.

    Args:
        runs: folders to play with in place of the demos'.
        port: 0 takes any that is free.
        open_browser: open the page in one.

    Raises:
        InputError: gradio is not installed, the port is taken, or a folder is no run of a recipe that has a tab.
    """
    try:
        import gradio as gr
    except ImportError:
        raise InputError("the page needs gradio: pip install --editable '.[app]'") from None
    folders = {name: recipe.DEMO_RUN for name, recipe in RECIPES.items()} | {recipe_of(run): run for run in runs}
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # others are fetched
    try:
        blocks = page(folders)
        _, address, _ = blocks.launch(
            quiet=True,
            prevent_thread_lock=True,
            server_name="127.0.0.1",
            server_port=port or None,
            inbrowser=open_browser,
            share=False,
            max_file_size=LARGEST_UPLOAD,
            theme=theme,
            footer_links=[],
        )
    except OSError:
        raise InputError(f"port {port} is taken; choose another --port, or 0 for any that is free") from None
    print(f"the page is at {address}; Ctrl-C ends it", flush=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    with suppress(KeyboardInterrupt):  # again
        blocks.close(verbose=False)


def recipe_of(run: Path) -> str:
    """Return the recipe of a run. Raises InputError where it has no tab."""
    path = run / "config.json"
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError):
        raise InputError(f"{run}: no run here (no config.json that says of which recipe)") from None
    if name not in RECIPES:
        raise InputError(f"{run}: a run of {name}, which has no tab; expected one of {', '.join(RECIPES)}")
    run_settings(run, name)
    return name


def page(runs: dict[str, Path]) -> Any:
    """Return the page, a gradio.Blocks, that plays with these runs, one of each of `RECIPES`."""
    import gradio as gr

    with gr.Blocks(title="Keras image cookbook", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown("# Play with the recipes\nAll of it is computed on this machine, and nothing leaves it.")
        with gr.Tabs():
            for title, controls in TABS.items():
                with gr.Tab(title) as tab:
                    found = controls(gr, runs)
                first = [tab.select] if found.at_once else []
                options = {"trigger_mode": "always_last", "show_progress": "minimal"}
                gr.on([*first, *found.triggers], found.function, found.inputs, found.outputs, **options)
                if found.made:
                    found.made.event.success(found.function, found.inputs, found.outputs)
                    blocks.load(found.made.shown, None, found.made.columns)
    return blocks


# %% What tabs share


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
    """Return one that says on the page what a user gave wrong; triggers are all changes where none is given."""

    @functools.wraps(function)
    def told(*given):
        try:
            return function(*given)
        except (InputError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    # gradio's editor says `input`, and not `change`, when somebody has painted on it.
    changes = [each.input if isinstance(each, gr.ImageEditor) else each.change for each in inputs]
    return Answer(told, inputs, outputs, triggers or changes, at_once=not triggers, made=made)


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


def photo_input(gr: Any, label: str, image: np.ndarray) -> Any:
    """Return a place for an upload, with a picture in it to begin with."""
    return gr.Image(image, type="filepath", label=label, sources=["upload", "clipboard"], height=320)


@functools.cache
def bundled(name: str) -> np.ndarray:
    """Return one of the photographs that come with scikit-image."""
    return photographs()[name]


def read_upload(path: str) -> np.ndarray:
    """Return an uploaded picture, uint8 [height, width, 3], made smaller where it is large."""
    return no_larger(read_photo(path), LARGEST_SIDE)


@functools.lru_cache(maxsize=16)
def network_of(run: Path, name: str, written: int) -> Any:
    """Return a network of a run, which is read once; `written` is when its file was."""
    return load_network(run, name)


def network(run: Path, name: str) -> Any:
    """Return a network of a run as it is now."""
    path = run / f"{name}.keras"
    return network_of(run, name, path.stat().st_mtime_ns if path.exists() else 0)


def result(gr: Any, label: str, height: int | None = None) -> Any:
    """Return a place for a picture, which stands under its label."""
    gr.Markdown(label)
    name = re.sub(r"\W+", "-", label)
    shown = {"show_label": False, "format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
    return gr.Image(label=label, height=height, elem_id=name, **shown)


def canvas(gr: Any, image: np.ndarray, colours: Sequence[str], brush: int, start: str, label: str) -> Any:
    """Return a picture, uint8 [height, width, 3], to paint on with a brush of so many pixels."""
    return gr.ImageEditor(
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


def side_by_side(*images: np.ndarray, height: int = 256) -> np.ndarray:
    """Return uint8 [h, w, 1 or 3] of any sizes in a row, small pixels kept as squares, large ones made smaller."""
    parts = []
    for image in images:
        image = image if image.shape[-1] == 3 else image.repeat(3, -1)
        zoom = height // len(image)
        if zoom > 1:
            parts.append(image.repeat(zoom, 0).repeat(zoom, 1))
        else:
            parts.append(image)
        least = min(map(len, parts))
    return np.concatenate([resize_image(part, least, part.shape[1] * least // len(part)) for part in parts], 1)


# %% Tabs


def edit_faces(gr: Any, runs: dict[str, Path]) -> Answer:
    """Sliders that change a face's attributes."""
    run = runs["vae_faces"]
    names = tuple(vae_faces.open_run(run)[1]["names"]) if is_whole(run) else FACE_ATTRIBUTES
    with with_run(gr, "vae_faces", run) as made, gr.Row():
        with gr.Column():
            shown = result(gr, "as the network sees it, and changed")
            which = gr.Slider(0, FACES - 1, 3, step=1, label="drawn face")
            upload = gr.Image(type="filepath", label="or a face of yours", sources=["upload", "clipboard"], height=160)
        with gr.Column():
            sliders = [gr.Slider(-3, 3, 0, step=0.1, label=name.replace("_", " ")) for name in names]

    def edit(which: int, upload: str | None, *values: float) -> np.ndarray | None:
        if not is_whole(run):
            return None
        networks, space, read = opened_faces(run, (run / "results.json").stat().st_mtime_ns)
        size = networks.decoder.output_shape[1]
        face = read(Path(upload)) if upload else drawn_faces(FACES, 99, size)[0][int(which)]
        latent = vae_faces.encode(networks.encoder, face[None])
        change = np.array(values, np.float32) @ space["vectors"]
        return side_by_side(*vae_faces.decode(networks.decoder, np.concatenate([latent, latent + change])))

    return answer(gr, edit, [which, upload, *sliders], shown, made=made)


@functools.lru_cache(maxsize=2)
def opened_faces(run: Path, written: int) -> Any:
    """Return what `vae_faces.open_run` does, read once; `written` is when the run ended."""
    return vae_faces.open_run(run)


def draw_streets(gr: Any, runs: dict[str, Path]) -> Answer:
    """Labels to paint on, and the street that they become."""
    run = runs["pix2pix"]
    colours = {f"#{bytes(colour).hex()}": name for name, colour in zip(STREET_CLASSES, LABEL_COLOURS, strict=False)}
    maps = resize_image(colour_labels(street_pairs(1, 64, 7, clear=True)[0])[0], 256, 256, nearest=True)
    key = " ".join(
        f'<span style="border-left: 1em solid {c}; padding: 0 .8em 0 .3em">{n}</span>' for c, n in colours.items()
    )
    with with_run(gr, "pix2pix", run) as made:
        gr.HTML(key)
        with gr.Row():
            drawn = canvas(gr, maps, list(colours), 10, "#2040d0", "paint labels")
            with gr.Column():
                shown = result(gr, "the street")

    def translate(drawn: dict[str, np.ndarray] | None) -> np.ndarray | None:
        if not is_whole(run) or not drawn or drawn["composite"] is None:
            return None
        size = pix2pix.read_run(run, "pix2pix", pix2pix.Config).size
        labels = labels_from_colours(resize_image(drawn["composite"][..., :3], size, size, nearest=True), len(colours))
        return side_by_side(pix2pix.translate(network(run, "generator"), colour_labels(labels)))

    return answer(gr, translate, [drawn], shown, made=made)


def change_seasons(gr: Any, runs: dict[str, Path]) -> Answer:
    """Summer to winter, and back."""
    run = runs["cyclegan"]
    scenes = np.stack(drawn_seasons(SCENES, 5, 64))
    ways = {"summer to winter": "a2b", "winter to summer": "b2a"}
    with with_run(gr, "cyclegan", run) as made, gr.Row():
        with gr.Column():
            direction = gr.Radio(list(ways), value="summer to winter", label="direction")
            which = gr.Slider(0, SCENES - 1, 0, step=1, label="drawn scene")
            upload = gr.Image(type="filepath", label="or a photo of yours", sources=["upload", "clipboard"], height=160)
        with gr.Column():
            shown = result(gr, "before and after")

    def translate(direction: str, which: int, upload: str | None) -> np.ndarray | None:
        if not is_whole(run):
            return None
        image = read_upload(upload) if upload else scenes[list(ways).index(direction), int(which)]
        return side_by_side(image, cyclegan.translate(network(run, f"generator_{ways[direction]}"), image))

    return answer(gr, translate, [direction, which, upload], shown, made=made)


def paint_fast(gr: Any, runs: dict[str, Path]) -> Answer:
    """A photo in the manner of the painting that a run has learnt, in one pass."""
    run = runs["fast_style_transfer"]
    with with_run(gr, "fast_style_transfer", run) as made, gr.Row():
        upload = photo_input(gr, "photo", bundled("coffee"))
        with gr.Column():
            shown = result(gr, "painting")

    def paint(upload: str | None) -> np.ndarray | None:
        if not is_whole(run) or not upload:
            return None
        style = read_image(run / "style.png")
        return fast_style_transfer.stylize(network(run, "painter"), style, read_upload(upload))

    return answer(gr, paint, [upload], shown, made=made)


def paint(gr: Any, runs: dict[str, Path]) -> Answer:
    """A photo and a painting, by moving pixels."""
    with gr.Row():
        photo, painting = (
            photo_input(gr, "photo", bundled("cat")),
            photo_input(gr, "painting", read_style("sample")),
        )
        with gr.Column():
            shown = result(gr, "both")
    strength = gr.Slider(-1, 1, 0, step=0.25, label="style: a tenth of the usual weight (-1) to ten times as much (1)")
    colours = gr.Radio(["matched", "kept"], value="matched", label="colours: the painting's, or the photo's own")
    button = gr.Button("Paint (some seconds)", variant="primary")

    def move(photo: str | None, painting: str | None, strength: float, colours: Any) -> np.ndarray | None:
        if not photo or not painting:
            raise InputError("choose a photo and a painting first")
        weight = style_transfer.Config().style_weight * 10**strength
        config = style_transfer.Config(size=320, epochs=1, style_weight=weight, colours=colours)
        content, style = (no_larger(read_photo(path), config.size) for path in (photo, painting))
        networks = looking(style_transfer, style_transfer.Config())
        return style_transfer.stylize(networks, canvas_of(content, [(style, 1.0)]), config)

    return answer(gr, move, [photo, painting, strength, colours], shown, [button.click])


def dream(gr: Any, runs: dict[str, Path]) -> Answer:
    """What a layer of the embedded network sees in a photo."""
    with gr.Row():
        photo = photo_input(gr, "photo", bundled("cat"))
        with gr.Column():
            shown = result(gr, "dream")
    layers = [f"conv{stage}_{number}" for stage, number in itertools.product(range(1, 5), (1, 2))]
    layer = gr.Dropdown(layers, value="conv3_2", label="layer: early ones know lines, late ones textures")
    step_size = gr.Slider(0.002, 0.03, 0.01, step=0.001, label="how far each step goes")
    button = gr.Button("Dream (some seconds)", variant="primary")

    def rise(photo: str | None, layer: str, step_size: float) -> np.ndarray:
        if not photo:
            raise InputError("choose a photo first")
        config = deepdream.Config(layers=layer, step_size=step_size, size=320)
        dreamt = deepdream.Dream(no_larger(read_photo(photo), config.size))
        deepdream.train(looking(deepdream, deepdream.Config(layers=layer)), dreamt, config)
        return dreamt.picture

    return answer(gr, rise, [photo, layer, step_size], shown, [button.click])


@functools.lru_cache(maxsize=16)
def looking(recipe: Any, config: Any) -> Any:
    """Return the networks of a recipe that do not learn, built once."""
    return recipe.build(config)


@functools.cache
def digits() -> tuple[Known, np.ndarray]:
    """Return the embedded classifier of digits, and pictures whose writers it does not know."""
    return frozen_classifier("digits", ""), held_out_digits()[0]


def said_of(probabilities: np.ndarray) -> dict[str, float]:
    """Return the probability of each digit by its name, as gradio's labels take it."""
    return dict(zip(digits()[0].classes, map(float, probabilities), strict=True))


def attack(gr: Any, runs: dict[str, Path]) -> Answer:
    """A digit, moved by less and less until the classifier is right again."""
    with gr.Row():
        which = gr.Slider(0, 359, 2, step=1, label="digit")
        epsilon = gr.Slider(0, 0.3, 0.15, step=0.01, label="epsilon: the most a pixel may move, black to white is 1")
        steps = gr.Radio([1, 10], value=1, label="steps: one is FGSM")
    shown = result(gr, "the digit, the change magnified, and both together")
    with gr.Row():
        before, after = gr.Label(num_top_classes=3, label="before"), gr.Label(num_top_classes=3, label="after")

    def attacked(which: int, epsilon: float, steps: int) -> tuple[np.ndarray, dict[str, float], dict[str, float]]:
        known, images = digits()
        image = images[int(which)][None]
        found = fgsm.classify(known.classifier, image)
        moved = image
        if epsilon > 0:
            label = found.argmax(1).astype(np.int32)
            moved = fgsm.attacked_by(known.classifier, steps).attack(image, label, whole_levels(epsilon))
        picture = side_by_side(image[0], magnified(image, moved)[0], moved[0])
        return picture, said_of(found[0]), said_of(fgsm.classify(known.classifier, moved)[0])

    return answer(gr, attacked, [which, epsilon, steps], [shown, before, after])


def read_digit(gr: Any, runs: dict[str, Path]) -> Answer:
    """A digit that is drawn here, and what it is taken for."""
    with gr.Row():
        drawn = canvas(gr, np.full((280, 280, 3), 255, np.uint8), ["#000000"], 9, "#000000", "draw a digit")
        with gr.Column():
            found = gr.Label(num_top_classes=3, label="taken for")
            seen = result(gr, "as the network sees it", 160)

    def classify(drawn: dict[str, np.ndarray] | None) -> tuple[dict[str, float] | None, np.ndarray | None]:
        paper = np.full((1, 1, 3), 255) if not drawn or drawn["composite"] is None else drawn["composite"]
        if paper.min() > 127:
            return None, None
        image = centred_digit(1 - paper[..., :3].mean(-1) / 255)
        return said_of(fgsm.classify(digits()[0].classifier, image[None])[0]), side_by_side(image)

    return answer(gr, classify, [drawn], [found, seen])


def plane(gr: Any, runs: dict[str, Path]) -> Answer:
    """Two numbers, and the digit that a VAE has laid there."""
    run = runs["vae"]
    with with_run(gr, "vae", run) as made, gr.Row():
        with gr.Column():
            shown = result(gr, "digit")
        with gr.Column():
            sliders = [gr.Slider(-3, 3, 0, step=0.05, label=f"latent {number}") for number in (1, 2)]

    def decode(*values: float) -> np.ndarray | None:
        if not is_whole(run):
            return None
        decoder = network(run, "decoder")
        latent = np.zeros((1, decoder.input_shape[-1]), np.float32)
        latent[0, : len(values)] = values[: latent.shape[1]]
        return side_by_side(vae.decode(decoder, latent)[0])

    return answer(gr, decode, sliders, shown, made=made)


def walk(gr: Any, runs: dict[str, Path]) -> Answer:
    """The way from one picture that a GAN draws to another."""
    run = runs["dcgan"]
    with with_run(gr, "dcgan", run) as made:
        with gr.Row():
            start, end = (gr.Slider(0, 99, seed, step=1, label=label) for label, seed in (("from", 3), ("to", 8)))
        position = gr.Slider(0, 24, 12, step=1, label="how far")
        shown = result(gr, "start, here, end")

    def go(start: int, end: int, position: int) -> np.ndarray | None:
        if not is_whole(run):
            return None
        end = end + (start == end)  # a walk needs two seeds
        way = dcgan.walk(network(run, "generator"), int(start), int(end), 25)
        return side_by_side(way[0], way[int(position)], way[-1])

    return answer(gr, go, [start, end, position], shown, made=made)


TABS = {
    "Read a digit": read_digit,
    "Attack": attack,
    "Style": paint,
    "Dream": dream,
    "Faces": edit_faces,
    "Streets": draw_streets,
    "Seasons": change_seasons,
    "One pass": paint_fast,
    "Plane of digits": plane,
    "Walk": walk,
}
