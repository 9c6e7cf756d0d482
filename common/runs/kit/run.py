"""The run folder of a copy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common.runs.kit.files import InputError, write
from common.runs.kit.images import find_images, read_image


class Run:
    """A run folder with `config.json`, `results.json`, and one file NAME.keras per network."""

    def __init__(self, folder: Path, config: Any, data: str, classes: tuple[str, ...] = ()) -> None:
        self.folder, self.config, self.data, self.classes = Path(folder), config, data, classes

    @classmethod
    def load(
        cls,
        folder: Path,
        config_class: type,
        **required: Any,  # only with: labels="few")
    ) -> Run:
        """Open a run folder."""
        stored = json.loads((folder / "config.json").read_text())
        # only with: labels="few")
        if any(stored["config"][name] != value for name, value in required.items()):
            raise InputError(f"{folder}: needs a run with {required}")
        return cls(folder, config_class(**stored["config"]), stored["data"], tuple(stored["classes"]))

    def start(self, classes: tuple[str, ...] = ()) -> None:
        """Write `config.json`. If there is one already, its settings must be the same, except `epochs`."""
        # only with: outputs=len(
        self.config = dataclasses.replace(self.config, outputs=len(classes))
        settings = json.loads(json.dumps({"data": self.data, "classes": classes, "config": vars(self.config)}))
        path = self.folder / "config.json"
        before = json.loads(path.read_text()) if path.exists() else settings
        # only with: config.epochs
        before["config"]["epochs"] = self.config.epochs
        old, new = ({**each, **each["config"]} for each in (before, settings))
        if changed := [name for name in new if name != "config" and old.get(name) != new[name]]:
            raise InputError(f"{path}: its {', '.join(changed)} differ; use its flags or another --output-dir")
        write(path, json.dumps(settings, indent=2))

    def finish(
        self,
        networks: Any,
        evaluate: Callable[[], dict[str, Any]],  # only without: finish(networks, image) or finish(networks, grid)
        image: Path,
    ) -> Path:
        """Write the networks and the scores, and return `image`."""
        for name, network in networks._asdict().items():
            write(self.folder / f"{name}.keras", network.save)
        # only without: finish(networks, image) or finish(networks, grid)
        scores = json.loads(json.dumps(evaluate()), parse_constant=str)  # JSON has no infinity and no NaN
        # only without: finish(networks, image) or finish(networks, grid)
        print(write(self.folder / "results.json", json.dumps(scores, indent=2)).read_text())
        return image

    def network(self, name: str) -> keras.Model:
        """Load a network."""
        return keras.models.load_model((self.folder / f"{name}.keras").resolve(strict=True))

    # only with: trained.image or classify_files
    def image(self, path: Path, invert: bool = False) -> np.ndarray:
        """Read an image, centre-cropped and resized to the run's image size. `invert` inverts its pixel values."""
        image = read_image(path, self.config.channels, self.config.size)
        return 255 - image if invert else image

    # only with: .class_number(
    def class_number(self, name: str) -> int:
        """Return the index of a class that is given by its name or index; -1 if `name` is empty."""
        if name and name not in (known := [*self.classes, *map(str, range(len(self.classes)))]):
            raise InputError(f"{name!r} is not one of the classes {', '.join(self.classes)}")
        return known.index(name) % len(self.classes) if name else -1

    # only with: trained.images
    def images(self, source: Path, destination: Path, invert: bool = False) -> Iterator[tuple[Path, np.ndarray, Path]]:
        """Yield the path, the pixels and the output path of an image, or of each image in a folder."""
        for path in find_images(source) if source.is_dir() else [source]:
            yield path, self.image(path, invert), destination / path.name if source.is_dir() else destination

    def classify_files(
        self,
        source: Path,
        classify: Callable,
        top: int,
        invert: bool,
        table: Path | None = None,  # only with: table: Path | None
    ) -> None:
        """Print the most probable classes of an image, or of each image in a folder."""
        paths = find_images(source) if source.is_dir() else [source]
        rows = classify(np.stack([self.image(path, invert) for path in paths]))
        for path, row in zip(paths, rows, strict=True):
            print(path, *(f"{self.classes[place]} {row[place]:.1%}" for place in np.argsort(-row)[:top]), sep="  ")
        # only with: table: Path | None
        if table is not None:  # all probabilities as a CSV file
            cells = [["file", *self.classes], *([path, *row] for path, row in zip(paths, rows, strict=True))]
            write(table, "".join(",".join(map(str, row)) + "\n" for row in cells))

    def save_arrays(self, name: str, arrays: dict[str, Any]) -> None:
        """Write NAME.npz."""
        np.savez(self.folder / f"{name}.npz", **arrays)

    def arrays(self, name: str, *_: Any, **__: Any) -> dict[str, np.ndarray]:
        """Read NAME.npz."""
        return dict(np.load(self.folder / f"{name}.npz"))


def load_pretrained(network: keras.Model, weights: str, file: str, imagenet: Callable[[], keras.Model]) -> None:
    """Load ImageNet weights, which Keras downloads, or weights from a file. `random` keeps the initial weights."""
    if weights == "imagenet":
        network.set_weights(imagenet().get_weights())
    elif weights != "random":
        network.load_weights(weights)
