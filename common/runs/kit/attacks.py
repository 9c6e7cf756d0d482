"""Classifiers and attacks on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from matplotlib.figure import Figure

from common.runs.kit.data import Split
from common.runs.kit.files import InputError, write
from common.runs.kit.images import crop_square, read_image, save_image
from common.runs.kit.readers import labelled_images
from common.runs.kit.run import Run


class Classifier(NamedTuple):
    """A trained classifier, its class names and its image size."""

    network: keras.Model  # images [n, height, width, channels] in [-1, 1] -> logits [n, classes]
    classes: tuple[str, ...]
    size: int
    channels: int
    data: str = "sample"
    any_size: bool = False  # whether it resizes images of any size itself  # only with: Classifier.load

    # only with: Classifier.load
    @classmethod
    # only with: Classifier.load
    def load(cls, network: str, weights: str) -> Classifier:
        """Load a classifier: `digits`, `run` with a .keras file, or a keras.applications network with its weights."""
        if network == "digits":  # in the file next to this one
            loaded = keras.models.load_model(Path(__file__).with_name("digit_classifier.keras"))
            return cls(keras.Model(loaded.input, loaded.outputs[-1]), tuple("0123456789"), 28, 1)
        if network == "run":  # in a run folder
            loaded = keras.models.load_model(weights)
            stored = json.loads(Path(weights).with_name("config.json").read_text())
            size, channels = loaded.input_shape[2:]
            return cls(loaded, tuple(stored["classes"]), size, channels, stored["data"])
        size, caffe = {"InceptionV3": 299}.get(network, 224), network in ("ResNet50", "VGG19")
        loaded = getattr(keras.applications, network)(weights=weights, classifier_activation=None)
        images = keras.Input((None, None, 3))
        x = keras.ops.image.resize(images, (size, size), antialias=True)
        if caffe:  # the input is BGR minus the channel means
            x = (keras.ops.flip(x, -1) + 1) * 127.5 - keras.ops.convert_to_tensor([103.939, 116.779, 123.68])
        path = keras.utils.get_file("imagenet_class_index.json", CLASS_INDEX_URL, cache_subdir="models")
        names = json.loads(Path(path).read_text())
        classes = tuple(names[str(number)][1].replace("_", " ") for number in range(1000))
        return cls(keras.Model(images, loaded(x)), classes, size, 3, any_size=True)

    @classmethod
    def of_run(cls, run: Run, name: str) -> Classifier:
        """Load the network NAME.keras from a run."""
        return cls(run.network(name), run.classes, run.config.size, run.config.channels, run.data)

    def caption(self, probabilities: np.ndarray) -> str:
        """Return the most probable class of one image, and its probability, as text."""
        return f"{self.classes[probabilities.argmax()]} {probabilities.max():.0%}"

    def prediction(self, path: Path, probabilities: np.ndarray) -> str:
        """Return a line of text: the path, the most probable class and its probability."""
        return f"{path}  {self.caption(probabilities)}"

    def number(self, name: str) -> int:
        """Return the index of a class, given its name or its index as text."""
        names = [each.lower() for each in self.classes]
        if name.lower() not in names and not (name.isdecimal() and int(name) < len(names)):
            raise InputError(f"{name!r} is none of the {len(names)} classes")
        return names.index(name.lower()) if name.lower() in names else int(name)

    def test_images(self, data: str) -> Split:
        """Return the test images of the classifier's data, or all images of another folder, with class indices."""
        found = labelled_images(data or self.data, self.size, self.channels)
        if data in ("", "sample", self.data):
            return found.test
        images, labels = map(np.concatenate, zip(*found[:3], strict=True))
        return Split(images, np.array([self.number(name) for name in found.classes])[labels])

    def image_to_attack(self, source: Path, destination: Path) -> np.ndarray:
        """Read an image. Unless the classifier accepts any size, centre-crop and resize the image to its size."""
        if destination.suffix != ".png":
            raise InputError(f"{destination}: this format may change the attacked pixels; use a name that ends in .png")
        return read_image(source, self.channels, 0 if self.any_size else self.size)

    def attack_image(
        self, attack: Callable, classify: Callable, source: Path, destination: Path, levels: int, label: str = ""
    ) -> str:
        """Attack the centre square of an image, write the result, and return the predictions before and after."""
        if destination.suffix != ".png":
            raise InputError(f"{destination}: this format may change the attacked pixels; use a name that ends in .png")
        image = read_image(source, self.channels, self.size)[None]
        before = classify(self.network, image)[0]
        number = self.number(label) if label else int(before.argmax())
        attacked = attack(image, np.array([number]), levels)
        save_image(attacked[0], destination)
        found = {source: before, destination: classify(self.network, attacked)[0]}
        lines = [f"{path}  {self.classes[row.argmax()]} {row.max():.0%}" for path, row in found.items()]
        return "\n".join(lines) + f", epsilon {levels}/255"


CLASS_INDEX_URL = "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json"


def write_attacked(image: np.ndarray, square: np.ndarray, destination: Path) -> np.ndarray:
    """Replace the centre square of an image, write the image and NAME_change.png, and return the image as read back."""
    changed = image.copy()
    crop_square(changed)[:] = square
    save_image(changed, destination)
    change = changed - image.astype(np.float32)
    magnified = (127.5 + 127.5 * change / max(1.0, np.abs(change).max())).round().astype(np.uint8)
    save_image(magnified, destination.with_name(f"{destination.stem}_change.png"))
    return read_image(destination, image.shape[2])


def evaluate_attacks(
    networks: dict, make: Callable, classify: Callable, data: Split, curves: Path, examples: Path, classes, levels: int
) -> dict[str, float]:
    """Measure the accuracy under one-step and ten-step attacks; write the accuracy curves and attacked examples."""
    places = (0, 1, 2, 4, 8, 16, 25, 38, 64)
    found, rows = dict[str, list[float]](), {}
    images, labels = data.loaded()
    for name, network in networks.items():
        for steps in (1, 10):
            attack = make(network, steps)
            rates = [np.mean(classify(network, attack(images, labels, level)).argmax(1) == labels) for level in places]
            found[f"{name}, {steps} step{'s' * (steps > 1)}"] = [*map(float, rates)]
        for number in np.unique(labels)[:3]:
            one, attack = images[labels == number][:1], make(network)
            strengths = [attack(one, np.array([number]), levels * quarters // 4) for quarters in range(5)]
            rows[f"{classes[number]}, {name}"] = np.concatenate(strengths)
    axes = (figure := Figure(figsize=(7, 4.2))).subplots()
    for name, accuracies in found.items():
        axes.plot(places, accuracies, marker=".", label=name)
    axes.set(xlabel="epsilon (1/255)", ylabel="accuracy", ylim=(-0.02, 1.02))
    axes.legend()
    write(curves, figure.savefig)
    save_image(rows, examples, zoom=2)
    return {f"{name}, {level}/255": x for name, xs in found.items() for level, x in zip(places, xs, strict=True)}


def save_captioned(
    images: list[np.ndarray], captions: list[str], path: Path, columns: int, emphasised: Any, width: float = 1.45
) -> Path:
    """Write a grid of images, each with a caption above it. Emphasised captions are red."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(width * columns, (width + 0.3) * rows), layout="constrained")
    for place, (image, caption, red) in enumerate(zip(images, captions, emphasised, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.axis("off")
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=8, color="red" if red else "black", pad=2)
    return write(path, figure.savefig)


def save_percent_curves(curves: dict[str, list[float]], path: Path, axes_names: str, places: Any = None) -> Path:
    """Plot fractions in percent, one line per curve; `axes_names` is `Y against X`."""
    axes = (figure := Figure(figsize=(7, 4.2))).subplots()
    for name, values in curves.items():
        axes.plot(places or range(1, len(values) + 1), [100 * value for value in values], marker=".", label=name)
    ylabel, _, xlabel = axes_names.partition(" against ")
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(-2, 102))
    axes.legend()
    return write(path, figure.savefig)
