"""The tabs of the page: each makes its controls, and says what they show."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from common.attack_pictures import magnified
from common.attacked import whole_levels
from common.canvas import canvas_of, no_larger, read_photo, read_style
from common.digits import centred_digit, held_out_digits
from common.errors import InputError
from common.faces import FACE_ATTRIBUTES, drawn_faces
from common.imagenet import Known, frozen_classifier
from common.images import LABEL_COLOURS, colour_labels, labels_from_colours, read_image, resize_image
from common.runs import image_shape, read_run
from common.seasons import drawn_seasons
from common.streets import STREET_CLASSES, street_pairs
from recipes import cyclegan, dcgan, deepdream, fast_style_transfer, fgsm, pix2pix, style_transfer, vae, vae_faces
from recipes.app.parts import (
    Answer,
    answer,
    bundled,
    canvas,
    is_whole,
    network,
    photo_input,
    read_upload,
    result,
    side_by_side,
    with_run,
)

FACES, SCENES = 20, 12  # embedded ones to choose from


def edit_faces(gr: Any, runs: dict[str, Path]) -> Answer:
    """Sliders that change a face's attributes."""
    run = runs["vae_faces"]
    names = tuple(vae_faces.open_run(run)[1]["names"]) if is_whole(run) else FACE_ATTRIBUTES
    with with_run(gr, "vae_faces", run) as made, gr.Row():
        with gr.Column():
            shown = result(gr, "as the network sees it, and changed")
            which = gr.Slider(0, FACES - 1, 3, step=1, label="drawn face")
            upload = photo_input(gr, "or a face of yours")
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

    def translate(drawn: np.ndarray | None) -> np.ndarray | None:
        if not is_whole(run) or drawn is None:
            return None
        size = pix2pix.read_run(run, "pix2pix", pix2pix.Config).size
        labels = labels_from_colours(resize_image(drawn, size, size, nearest=True), len(colours))
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
            upload = photo_input(gr, "or a photo of yours")
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
        photo, painting = photo_input(gr, "photo", bundled("cat")), photo_input(gr, "painting", read_style("sample"))
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
    """A digit, moved by as little as it takes until the classifier is wrong."""
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

    def classify(drawn: np.ndarray | None) -> tuple[dict[str, float] | None, np.ndarray | None]:
        if drawn is None or drawn.min() > 127:
            return None, None
        image = centred_digit(1 - drawn.mean(-1) / 255)
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
        config = read_run(run, "vae", vae.Config)
        decoder = network(run, "decoder", (config.latent_dim,), image_shape(config))
        latent = np.zeros((1, config.latent_dim), np.float32)
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
        config = read_run(run, "dcgan", dcgan.Config)
        generator = network(run, "generator", (config.latent_dim,), image_shape(config))
        way = dcgan.walk(generator, int(start), int(end), 25)
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
