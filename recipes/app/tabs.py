"""The tabs of the page. Each function creates the controls of a tab and returns its `Answer`."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.images.pixels import resize_image
from common.images.reading import read_image
from common.metrics.scores import attribute_probabilities
from common.runs import Run
from common.runs.attacks import magnified
from common.runs.pretrained import Classifier
from common.samples.digits import DIGITS, centred_digit, held_out_digits
from common.samples.faces import FACE_ATTRIBUTES, synthetic_faces
from common.samples.seasons import synthetic_seasons
from common.samples.sketches import FACE_COLOURS, plain_face, sketch_pairs, thin_paint
from common.system.files import InputError, data_file
from common.training import Painting, read_photo, read_style
from recipes import (
    cyclegan,
    dcgan,
    dcgan_faces,
    deepdream,
    diffusion,
    fast_style_transfer,
    fgsm,
    pix2pix,
    style_transfer,
    vae,
    vae_faces,
)
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

FACES, SCENES, SKETCHES = 20, 12, 12  # number of synthetic faces, scenes and sketches to choose from


def edit_faces(gr: Any, runs: dict[str, Path]) -> Answer:
    """Edit the attributes of a face with sliders."""
    run = runs["vae_faces"]
    names = tuple(vae_faces.open_run(run)[1].names) if is_whole(run) else FACE_ATTRIBUTES
    with with_run(gr, "vae_faces", run) as made, gr.Row():
        with gr.Column():
            shown = result(gr, "reconstruction, edited face")
            which = gr.Slider(0, FACES - 1, 3, step=1, label="synthetic face")
            upload = photo_input(gr, "or your own face image")
        with gr.Column():
            sliders = [gr.Slider(-3, 3, 0, step=0.1, label=name.replace("_", " ")) for name in names]

    def edit(which: int, upload: str | None, *values: float) -> np.ndarray | None:
        if not is_whole(run):
            return None
        networks, space, read = opened_faces(run, (run / "results.json").stat().st_mtime_ns)
        size = networks.decoder.output_shape[1]
        face = read(Path(upload)) if upload else synthetic_faces(FACES, 99, size)[0][int(which)]
        latent = vae_faces.encode(networks.encoder, face[None])
        changed = vae_faces.edited(latent, space, np.array(values, np.float32))
        return side_by_side(*vae_faces.decode(networks.decoder, np.concatenate([latent, changed])))

    return answer(gr, edit, [which, upload, *sliders], shown, made=made)


@functools.lru_cache(maxsize=2)
def opened_faces(run: Path, written: int) -> Any:
    """Return `vae_faces.open_run(run)`, cached until the run changes; `written` is the time when the run finished."""
    return vae_faces.open_run(run)


def draw_faces(gr: Any, runs: dict[str, Path]) -> Answer:
    """Paint and draw a face, and translate the sketch to a portrait."""
    run = runs["pix2pix"]
    colours = [f"#{bytes(colour).hex()}" for colour in thin_paint(FACE_COLOURS)]
    sketches = drawing_sheets()
    with with_run(gr, "pix2pix", run) as made, gr.Row():
        with gr.Column():
            which = gr.Slider(0, len(sketches) - 1, 5, step=1, label="start from (0: a plain face)")
            drawn = canvas(gr, sketches[5], colours, 12, colours[0], "paint colours, then draw lines in black")
        with gr.Column():
            shown = result(gr, "portrait")

    def translate(drawn: np.ndarray | None) -> np.ndarray | None:
        if not is_whole(run) or drawn is None:
            return None
        size = Run.load(run, "pix2pix", pix2pix.Config).config.size
        return side_by_side(pix2pix.translate(network(run, "generator"), resize_image(drawn, size, size)), height=288)

    def begin(which: float) -> tuple[dict[str, Any], np.ndarray | None]:
        sheet = sketches[int(which)]
        return {"background": sheet, "layers": [], "composite": sheet}, translate(sheet)

    which.change(begin, [which], [drawn, shown], show_progress="hidden", trigger_mode="always_last")
    return answer(gr, translate, [drawn], shown, made=made)


@functools.cache
def drawing_sheets() -> np.ndarray:
    """Return images to draw on, uint8 [n, 288, 288, 3]: a plain face, then sketches of faces."""
    sheets = [plain_face(288), *sketch_pairs(SKETCHES, 99, 128)[0]]
    return np.stack([resize_image(sheet, 288, 288) for sheet in sheets])


def change_seasons(gr: Any, runs: dict[str, Path]) -> Answer:
    """Translate a photo from summer to winter, or from winter to summer."""
    run = runs["cyclegan"]
    scenes = np.stack(synthetic_seasons(SCENES, 5, 64))
    ways = {"summer to winter": "a2b", "winter to summer": "b2a"}
    with with_run(gr, "cyclegan", run) as made, gr.Row():
        with gr.Column():
            direction = gr.Radio(list(ways), value="summer to winter", label="direction")
            which = gr.Slider(0, SCENES - 1, 0, step=1, label="synthetic scene")
            upload = photo_input(gr, "or your own photo")
        with gr.Column():
            shown = result(gr, "before and after")

    def translate(direction: str, which: int, upload: str | None) -> np.ndarray | None:
        if not is_whole(run):
            return None
        image = read_upload(upload) if upload else scenes[list(ways).index(direction), int(which)]
        return side_by_side(image, cyclegan.translate(network(run, f"generator_{ways[direction]}"), image))

    return answer(gr, translate, [direction, which, upload], shown, made=made)


def paint_fast(gr: Any, runs: dict[str, Path]) -> Answer:
    """Give a photo the style of a trained network, in one forward pass."""
    run = runs["fast_style_transfer"]
    with with_run(gr, "fast_style_transfer", run) as made, gr.Row():
        upload = photo_input(gr, "photo", bundled("coffee"))
        with gr.Column():
            shown = result(gr, "painting")

    def paint(upload: str | None) -> np.ndarray | None:
        if not is_whole(run) or not upload:
            return None
        style = read_image(run / "style.png")
        return fast_style_transfer.stylize(network(run, "transform_network"), style, read_upload(upload))

    return answer(gr, paint, [upload], shown, made=made)


def paint(gr: Any, runs: dict[str, Path]) -> Answer:
    """Give a photo the style of a painting by optimising its pixels."""
    with gr.Row():
        photo, painting = photo_input(gr, "photo", bundled("cat")), photo_input(gr, "painting", read_style("sample"))
        with gr.Column():
            shown = result(gr, "result")
    strength = gr.Slider(-1, 1, 0, step=0.25, label="style weight: -1 divides it by ten, 1 multiplies it by ten")
    colours = gr.Radio(["matched", "kept"], value="matched", label="colours: match the painting, or keep the photo's")
    button = gr.Button("Paint (a few seconds)", variant="primary")

    def stylize(photo: str | None, painting: str | None, strength: float, colours: Any) -> np.ndarray | None:
        if not photo or not painting:
            raise InputError("choose a photo and a painting first")
        weight = style_transfer.Config().style_weight * 10**strength
        config = style_transfer.Config(size=320, epochs=1, style_weight=weight, colours=colours)
        content, style = (read_photo(path, config.size) for path in (photo, painting))
        networks = fixed_networks(style_transfer, style_transfer.Config())
        return style_transfer.stylize(networks, Painting.of(content, [(style, 1.0)]), config)

    return answer(gr, stylize, [photo, painting, strength, colours], shown, [button.click])


def dream(gr: Any, runs: dict[str, Path]) -> Answer:
    """Change a photo to increase the activation of a layer of the bundled network."""
    with gr.Row():
        photo = photo_input(gr, "photo", bundled("cat"))
        with gr.Column():
            shown = result(gr, "dream")
    layers = [f"conv{stage}_{number}" for stage, number in itertools.product(range(1, 5), (1, 2))]
    layer = gr.Dropdown(layers, value="conv3_2", label="layer: early layers respond to lines, late layers to textures")
    step_size = gr.Slider(0.002, 0.03, 0.01, step=0.001, label="step size")
    button = gr.Button("Dream (a few seconds)", variant="primary")

    def activate(photo: str | None, layer: str, step_size: float) -> np.ndarray:
        if not photo:
            raise InputError("choose a photo first")
        config = deepdream.Config(layers=layer, step_size=step_size, size=320)
        dreamed = deepdream.Dream(read_photo(photo, config.size))
        deepdream.train(fixed_networks(deepdream, deepdream.Config(layers=layer)), dreamed, config)
        return dreamed.image

    return answer(gr, activate, [photo, layer, step_size], shown, [button.click])


@functools.lru_cache(maxsize=16)
def fixed_networks(recipe: Any, config: Any) -> Any:
    """Return the frozen networks of a recipe, cached."""
    return recipe.build(config)


@functools.cache
def digits() -> tuple[Classifier, np.ndarray]:
    """Return the bundled digit classifier, and digits by writers who are not in its training data."""
    return Classifier.load("digits", ""), held_out_digits()[0]


def by_class(probabilities: np.ndarray) -> dict[str, float]:
    """Return a dictionary from class name to probability, for gradio's `Label`."""
    return dict(zip(digits()[0].classes, map(float, probabilities), strict=True))


def attack(gr: Any, runs: dict[str, Path]) -> Answer:
    """Attack the digit classifier with a small perturbation."""
    with gr.Row():
        which = gr.Slider(0, 399, 6, step=1, label="digit")
        epsilon = gr.Slider(0, 0.3, 0.15, step=0.01, label="epsilon: maximum change of a pixel (black to white is 1)")
        steps = gr.Radio([1, 10], value=1, label="steps: one is FGSM")
    shown = result(gr, "digit, magnified change, attacked digit")
    with gr.Row():
        before, after = gr.Label(num_top_classes=3, label="before"), gr.Label(num_top_classes=3, label="after")

    def attacked(which: int, epsilon: float, steps: int) -> tuple[np.ndarray, dict[str, float], dict[str, float]]:
        classifier, images = digits()
        image = images[int(which)][None]
        found = fgsm.classify(classifier.network, image)
        perturbed = image
        if epsilon > 0:
            label = found.argmax(1).astype(np.int32)
            perturbed = fgsm.make_attack(classifier.network, steps)(image, label, fgsm.to_levels(epsilon))
        shown = side_by_side(image[0], magnified(image, perturbed)[0], perturbed[0])
        return shown, by_class(found[0]), by_class(fgsm.classify(classifier.network, perturbed)[0])

    return answer(gr, attacked, [which, epsilon, steps], [shown, before, after])


def read_digit(gr: Any, runs: dict[str, Path]) -> Answer:
    """Classify a digit that you draw."""
    with gr.Row():
        drawn = canvas(gr, np.full((280, 280, 3), 255, np.uint8), ["#000000"], 9, "#000000", "draw a digit")
        with gr.Column():
            found = gr.Label(num_top_classes=3, label="prediction")
            seen = result(gr, "input of the network", 160)

    def classify(drawn: np.ndarray | None) -> tuple[dict[str, float] | None, np.ndarray | None]:
        if drawn is None or drawn.min() > 127:
            return None, None
        image = centred_digit(1 - drawn.mean(-1) / 255)
        return by_class(fgsm.classify(digits()[0].network, image[None])[0]), side_by_side(image)

    return answer(gr, classify, [drawn], [found, seen])


def plane(gr: Any, runs: dict[str, Path]) -> Answer:
    """Decode a position in the latent space of a VAE."""
    run = runs["vae"]
    with with_run(gr, "vae", run) as made, gr.Row():
        with gr.Column():
            shown = result(gr, "digit")
        with gr.Column():
            sliders = [gr.Slider(-3, 3, 0, step=0.05, label=f"latent {number}") for number in (1, 2)]

    def decode(*values: float) -> np.ndarray | None:
        if not is_whole(run):
            return None
        trained = Run.load(run, "vae", vae.Config)
        decoder = network(run, "decoder", (trained.config.latent_dim,), trained.image_shape)
        latent = np.zeros((1, trained.config.latent_dim), np.float32)
        latent[0, : len(values)] = values[: latent.shape[1]]
        return side_by_side(vae.decode(decoder, latent)[0])

    return answer(gr, decode, sliders, shown, made=made)


def walk_faces(gr: Any, runs: dict[str, Path]) -> Answer:
    """Interpolate between two faces generated by a GAN."""
    run = runs["dcgan_faces"]
    with with_run(gr, "dcgan_faces", run) as made:
        with gr.Row():
            start, end = (gr.Slider(0, 99, face, step=1, label=label) for label, face in (("from face", 0), ("to", 5)))
        position = gr.Slider(0, 24, 12, step=1, label="position between the two faces")
        shown = result(gr, "first face, current face, last face")

    def go(start: int, end: int, position: int) -> np.ndarray | None:
        if not is_whole(run):
            return None
        end = end + (start == end)  # interpolation needs two different faces
        generator = face_generator(run)
        first, last = dcgan_faces.sample_latents(generator, (int(start), int(end)))
        latents = dcgan_faces.walk(first, last, 25)
        return side_by_side(*dcgan_faces.generate(generator, latents[[0, int(position), -1]]))

    return answer(gr, go, [start, end, position], shown, made=made)


def add_attribute(gr: Any, runs: dict[str, Path]) -> Answer:
    """Add an attribute to a generated face with latent arithmetic: a - b + c."""
    run = runs["dcgan_faces"]
    with with_run(gr, "dcgan_faces", run) as made:
        with gr.Row():
            attribute = gr.Dropdown(list(FACE_ATTRIBUTES), value="glasses", label="a: faces with, b: faces without")
            which = gr.Slider(0, 99, 0, step=1, label="c: a generated face")
        shown = result(gr, "mean of a, mean of b, c, a - b + c")

    def add(attribute: str, which: int) -> np.ndarray | None:
        if not is_whole(run):
            return None
        generator = face_generator(run)
        latents, probabilities = known_faces(generator)
        order = probabilities[:, FACE_ATTRIBUTES.index(attribute)].argsort()
        a, b, c = latents[order[-16:]], latents[order[:16]], latents[[int(which)]]
        means = np.stack([a.mean(0), b.mean(0), c[0], dcgan_faces.arithmetic(a, b, c)])
        return side_by_side(*dcgan_faces.generate(generator, means), height=192)

    return answer(gr, add, [attribute, which], shown, made=made)


def face_generator(run: Path) -> Any:
    """Return the generator of a run of `dcgan_faces`, cached."""
    trained = Run.load(run, "dcgan_faces", dcgan_faces.Config)
    return network(run, "ema", (trained.config.latent_dim,), trained.image_shape)


@functools.lru_cache(maxsize=2)
def known_faces(generator: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the latents of 400 faces [400, latent_dim], and the probabilities of their attributes [400, 9]."""
    latents = dcgan_faces.sample_latents(generator, range(400))
    classifier = data_file("face_classifier.keras")
    return latents, attribute_probabilities(classifier, dcgan_faces.generate(generator, latents))


def walk_digits(gr: Any, runs: dict[str, Path]) -> Answer:
    """Interpolate between two digits generated by a GAN."""
    run = runs["dcgan"]
    with with_run(gr, "dcgan", run) as made:
        with gr.Row():
            start, end = (gr.Slider(0, 99, seed, step=1, label=label) for label, seed in (("from", 3), ("to", 8)))
        position = gr.Slider(0, 24, 12, step=1, label="position")
        shown = result(gr, "start, current, end")

    def go(start: int, end: int, position: int) -> np.ndarray | None:
        if not is_whole(run):
            return None
        end = end + (start == end)  # interpolation needs two different seeds
        _, generator, _ = opened_dcgan(run, written_at(run))
        images = dcgan.walk(generator, int(start), int(end), 25)
        return side_by_side(images[0], images[int(position)], images[-1])

    return answer(gr, go, [start, end, position], shown, made=made)


def generate_class(gr: Any, runs: dict[str, Path]) -> Answer:
    """Turn noise into images of a class with a diffusion model."""
    run = runs["diffusion"]
    classes = opened_diffusion(run, written_at(run))[0].classes if is_whole(run) else DIGITS
    with with_run(gr, "diffusion", run) as made, gr.Row():
        with gr.Column():
            which = gr.Dropdown(list(zip(classes, itertools.count())), value=min(7, len(classes) - 1), label="class")
            guidance = gr.Slider(1, 6, 2, step=0.5, label="guidance: strength of the class")
            steps = gr.Slider(2, 50, 10, step=1, label="steps from noise to image")
            seed = gr.Slider(0, 99, 0, step=1, label="seed of the noise")
        with gr.Column():
            way = result(gr, "from noise to an image")
            shown = result(gr, "ten images of this class")

    def generate(which: int, guidance: float, steps: int, seed: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        if not is_whole(run):
            return None, None
        trained, ema, config = opened_diffusion(run, written_at(run))
        config = replace(config, guidance=float(guidance), steps=int(steps))
        labels = np.full(10, min(int(which), len(trained.classes) - 1))  # the run may be newer than the page
        states = diffusion.form(ema, labels, config, int(seed))
        times = np.linspace(0, len(states) - 1, 6).round().astype(int)
        rows = [side_by_side(*row, height=112) for row in (states[-1, :5], states[-1, 5:])]
        return side_by_side(*states[times, 0], height=112), np.concatenate(rows)

    return answer(gr, generate, [which, guidance, steps, seed], [way, shown], made=made)


def written_at(run: Path) -> int:
    """Return the time when a run finished."""
    return (run / "results.json").stat().st_mtime_ns


@functools.lru_cache(maxsize=2)
def opened_dcgan(run: Path, written: int) -> Any:
    """Return the run, its generator and -1, cached until the run changes."""
    return dcgan.load(run)


@functools.lru_cache(maxsize=2)
def opened_diffusion(run: Path, written: int) -> Any:
    """Return the run, its network and its settings, cached until the run changes."""
    return diffusion.load(run, 0, 0)


TABS = {
    "Draw a face": draw_faces,
    "Faces": edit_faces,
    "Walk": walk_faces,
    "Arithmetic": add_attribute,
    "Seasons": change_seasons,
    "Paint": paint_fast,
    "Style": paint,
    "Dream": dream,
    "Digit": read_digit,
    "Attack": attack,
    "Plane": plane,
    "Digit walk": walk_digits,
    "Generate": generate_class,
}
