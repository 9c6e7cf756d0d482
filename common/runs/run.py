"""A run folder on disk: settings, data, networks and results."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common.data.arrays import NOT_PATHS
from common.data.datasets import square_image
from common.data.identity import NAMING_SETTINGS, check_identities, check_places, identities, kept_identities
from common.data.idx import idx_sets
from common.data.labelled import class_number
from common.data.pairs import input_half
from common.images.reading import read_image, readable_images
from common.images.writing import written_name
from common.runs.bundled import run_or_bundle
from common.runs.finished import Finished
from common.runs.networks import Shape, check_networks, load_network
from common.runs.report import write_report
from common.system.cluster import is_chief
from common.system.console import noted_if_slow, tracked
from common.system.files import (
    ArrayShape,
    InputError,
    first_line,
    printable,
    read_npz,
    read_numbers,
    readable_name,
    replacing,
    write_json,
    write_npz,
)
from common.system.initial import active_start
from common.system.lazy import keras, tf
from common.system.options import check_fields, check_value, field_hints, shown_value
from common.training.execution import Execution, active_execution, executing

LARGEST_CONFIG = 2**24  # size limit of config.json in bytes
STORED_PARTS = {"recipe": str, "data": str, "config": dict, "classes": list[str], "versions": dict}


def _named_data(data: str) -> str:
    """Return the value of `--data`. A path is made absolute, so the run can resume from any working directory."""
    built_in = data in NOT_PATHS or data.startswith("tfds:")
    return data if built_in or not (Path(data).exists() or idx_sets(Path(data))) else str(Path(data).resolve())


def settings_of(config: Any) -> dict[str, Any]:
    """Return the fields of a recipe's `config` and of the active `Execution` as one dict."""
    return dataclasses.asdict(config) | dataclasses.asdict(active_execution())


class Run:
    """A run folder with the settings, networks and results of a run.

    To train, a recipe creates a `Run`, which checks the folder. The recipe calls `start` before training and `finish`
    after training. Commands that use a finished run open it with `Run.load`.
    """

    def __init__(self, folder: Path | str, recipe: str, config: Any, data: str, accept_data: bool = False) -> None:
        """Check that a run with these settings can be started or resumed in `folder`, before any data is read.

        Data, style images and weights are compared by name, size and content, so they may be in a new location.

        Args:
            folder: the run folder. It need not exist.
            recipe: the recipe's name.
            config: the recipe's `Config`.
            data: the value of `--data`.
            accept_data: resume even if the files have changed.

        Raises:
            InputError: `folder` is not writable, or it contains a run with another recipe, other settings or other
                files. Only `epochs`, `octaves`, `steps_per_call`, `tensorboard` and
                `outputs` may differ.
        """
        folder = Path(folder)
        self.folder, self.recipe, self.config, self.data = folder, recipe, config, data
        self.classes: tuple[str, ...] = ()
        self.image_shape = _image_shape(config)
        check_fields(config)
        if readable_name(folder) != str(folder):
            raise InputError(
                f"{readable_name(folder)}: not a valid UTF-8 name, which checkpoints need; choose another folder"
            )
        if (start := active_start()) is not None:
            start.begin(folder, config)
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(
                f"{folder}: not writable ({existing} is a file, or you lack write permission); choose another folder"
            )
        if not (folder / "config.json").exists():
            return
        loaded = Run.load(folder, recipe, type(config))
        before = dataclasses.asdict(loaded.config) | dataclasses.asdict(read_execution(folder)) | {"data": loaded.data}
        now = settings_of(config) | {"data": _named_data(data)}
        check_places(folder, before, now)
        if not has_saves(folder):
            return  # there is nothing to resume
        free = "epochs", "octaves", "outputs", "steps_per_call", "tensorboard"
        changed = [name for name in now if now[name] != before[name] and name not in free]
        if set(changed) <= set(NAMING_SETTINGS):
            kept = kept_identities(run_settings(folder, recipe))
            same_files = check_identities(folder, before, now, kept, accept_data)
            changed = [name for name in changed if name not in same_files]
        if changed:
            name = changed[0]
            raise InputError(
                f"{folder}: holds a run with {name} {before[name]!r}, not {now[name]!r}; to resume this run, change "
                "only epochs; for a new run, choose another --output-dir"
            )

    @classmethod
    def load(cls, folder: Path | str, recipe: str, config_class: type, **required: object) -> Run:
        """Open a run. Settings that are missing from the run get the default values of `config_class`.

        The files in a run folder may come from an untrusted source, so they are checked. Each setting must be valid for
        `config_class`. If the run has classes and a setting `outputs`, then `outputs` must be the number of classes.
        The method `network` checks the shapes of the networks.

        Args:
            folder: the run folder. If it is the folder of the recipe's demo, and the demo has not been run, the
                networks that ship with the project are opened instead.
            recipe: the recipe's name.
            config_class: the recipe's `Config`.
            required: settings that the run must have.

        Raises:
            InputError: the run does not exist, belongs to another recipe, has a damaged `config.json`, or lacks one of
                the `required` settings.
        """
        run = cls.__new__(cls)
        folder = run_or_bundle(Path(folder), recipe)
        settings = run_settings(folder, recipe)
        run.folder, run.recipe, run.data, run.classes = folder, recipe, settings["data"], stored_classes(settings)
        run.config = _stored_config(folder, settings, config_class)
        run.image_shape = _image_shape(run.config)
        for name, value in required.items():
            if (found := getattr(run.config, name)) != value:
                raise InputError(f"{folder}: trained with {name} {found!r}; expected a run with {name} {value!r}")
        return run

    check_networks = staticmethod(check_networks)

    def start(self, classes: tuple[str, ...] = ()) -> None:
        """Write `config.json` with the recipe, all settings, the data, the class names and the package versions.

        If the config has a field `outputs`, it is set to the number of `classes`.

        Raises:
            InputError: a run is resumed with different classes.
        """
        if has_saves(self.folder) and classes != (known := stored_classes(stored_run(self.folder))):
            raise InputError(
                f"{self.folder}: the classes of this run were {', '.join(known) or 'none'}, and are now "
                f"{', '.join(classes) or 'none'}; restore the data, or choose another --output-dir"
            )
        check_value("classes", [*classes], list[str])
        import importlib.metadata

        self.classes = classes
        if classes and hasattr(self.config, "outputs"):
            self.config = dataclasses.replace(self.config, outputs=len(classes))
        packages = ("keras", "tensorflow", "numpy")
        versions = {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}
        fields = settings_of(self.config)
        settings = {"recipe": self.recipe, "data": _named_data(self.data), "config": fields, "versions": versions}
        settings |= {"classes": classes} if classes else {}
        settings["identity"] = identities(fields | {"data": self.data})
        if origin := self._origin(len(classes)):
            settings["from"] = origin
        settings |= {"half": input_half(self.data, self.config.swap)} if hasattr(self.config, "swap") else {}
        write_json(self.folder / "config.json", settings)

    def _origin(self, classes: int) -> dict[str, str]:
        """Return the entry `from` of `config.json`: the run whose weights this run begins with. {} for none."""
        start = active_start()
        origin = start.origin(self.folder, classes) if start is not None else {}
        return origin or (stored_run(self.folder).get("from", {}) if has_saves(self.folder) else {})

    def finish(
        self, networks: Any, evaluate: Callable[[], Mapping[str, float | int | str]], image: Path | str = ""
    ) -> Finished:
        """Write each network as NAME.keras, the results of `evaluate` as `results.json`, and the report.

        Returns the path `image`, with the scores and the networks; see `Finished`.

        If several machines train together, only the chief does this. If a `tf.distribute` strategy is active,
        `evaluate` runs in a separate thread, outside the scope of the strategy. Networks that `evaluate` builds
        therefore exist on this machine only.
        """
        finished = Finished(image)
        finished.networks = networks
        if not is_chief():
            return finished
        for name, network in networks._asdict().items():
            with replacing(self.folder / f"{name}.keras") as temporary:
                network.save(temporary)
        with noted_if_slow("computing the scores"):
            if tf.distribute.has_strategy():
                with ThreadPoolExecutor(1) as thread:
                    scores = thread.submit(_evaluate, evaluate, active_execution()).result()
            else:
                scores = evaluate()
        write_json(self.folder / "results.json", scores)
        write_report(self.folder)
        finished.scores = dict(scores)
        return finished

    def network(
        self, name: str, input_shape: Shape | list[Shape] = (), output_shape: Shape | list[Shape] = ()
    ) -> keras.Model:
        """Load NAME.keras.

        Args:
            name: the name of the network. In a run of an earlier version, the file may have an older name.
            input_shape: the expected shape of its input, or the shapes of its inputs; empty: not checked.
            output_shape: the expected shape of its output, or the shapes of its outputs; empty: not checked.

        Raises:
            InputError: the run has no such network yet, the file is damaged, or its shapes are not as expected.
        """
        old = old_network_names(self.folder).get(name, name)
        if not (self.folder / f"{name}.keras").is_file() and (self.folder / f"{old}.keras").is_file():
            name = old
        return load_network(self.folder, name, input_shape, output_shape)

    def scores(self) -> dict[str, float | int | str]:
        """Return the scores of a finished run, from `results.json`. Raises InputError if it has none."""
        path = self.folder / "results.json"
        try:
            return dict(read_numbers(path))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            reason = "has this run finished training?" if not path.exists() else f"cannot be read ({first_line(error)})"
            raise InputError(f"{path}: {reason}") from None

    @property
    def half(self) -> str:
        """The half of an image that is the input, `left` or `right`, if the run's pairs are side by side; else ""."""
        stored = stored_run(self.folder).get("half")
        return stored if stored in ("left", "right") else ""

    def class_number(self, name: str) -> int:
        """Return the index of one of the run's classes, given its name or its index as text; -1 if `name` is empty."""
        if name and not self.classes:
            raise InputError(f"{self.folder}: was trained without classes, so the class {name!r} cannot be chosen")
        return class_number(name, self.classes) if name else -1

    def save_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays to NAME.npz. Read them with `arrays`."""
        write_npz(self.folder / f"{name}.npz", dict(arrays))

    def arrays(self, name: str, shapes: Mapping[str, ArrayShape], texts: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Read the arrays in NAME.npz.

        Args:
            name: the file name without its suffix.
            shapes: the expected shape of each array. A letter stands for any size; equal letters stand for equal sizes.
            texts: the names of arrays of strings. The other arrays must contain finite floats.

        Raises:
            InputError: the file is missing or damaged, or an array is missing or has the wrong shape or type.
        """
        found = read_npz(self.folder / f"{name}.npz", shapes, texts)
        return {each: found[each] for each in shapes}

    def image(self, path: Path, invert: bool = False) -> np.ndarray:
        """Read an image as uint8 [size, size, channels], centre-cropped and resized to the image size of the run.

        `invert` inverts the pixel values, for photos with a light background if the training images have a dark one.
        """
        image = square_image(path, self.config.size, self.image_shape[2] or 3)
        return 255 - image if invert else image

    def images(
        self, source: Path, destination: Path, invert: bool = False, skip_bad: bool = False
    ) -> Iterator[tuple[str, np.ndarray, Path]]:
        """Read an image, or every image in a folder, for a command that writes one file per image.

        Args:
            source: an image, or a folder of images.
            destination: the output file. If `source` is a folder, this is the output folder, where files keep their
                names.
            invert: see `image`.
            skip_bad: skip unreadable images in a folder, and list them.

        Yields:
            The path of the image as printable text, the image itself (see `image`), and the path of the output file.

        Raises:
            InputError: an image cannot be read, or the output folder is the source folder.
        """
        if not source.is_dir():
            yield printable(source), self.image(source, invert), destination
            return
        if destination.resolve() == source.resolve():
            raise InputError(f"{destination}: is the source folder; choose another folder for the output")
        good = readable_images(source, read_image, skip_bad)
        for path in tracked(good, f"writing {destination}", "image"):
            yield printable(path), self.image(path, invert), destination / written_name(path)

    def classify_files(
        self,
        source: Path,
        classify: Callable[[np.ndarray], np.ndarray],
        top: int = 3,
        invert: bool = False,
        table: Path | None = None,
        skip_bad: bool = False,
    ) -> None:
        """Print the most probable classes of an image, or of every image in a folder.

        `classify` accepts uint8 images [n, size, size, channels] and returns probabilities [n, classes]. For the
        other arguments, see `common.runs.classification.classify_files`.
        """
        from common.runs.classification import classify_files

        classify_files(source, self, classify, top, invert, table, skip_bad)


def _evaluate(evaluate: Callable[[], Mapping[str, float | int | str]], execution: Execution) -> Mapping[str, Any]:
    with executing(execution):  # execution options apply only to the current thread
        return evaluate()


def _image_shape(config: Any) -> Shape:
    """Return the shape of a recipe's images, [size, size, channels]; None for a size that is not fixed."""
    return getattr(config, "size", None), getattr(config, "size", None), getattr(config, "channels", 3)


def has_saves(output_dir: Path) -> bool:
    """Return whether a run has checkpoints.

    If a recipe trains the classifier head first, the checkpoints of this stage are in the sub-folder `head`.
    """
    return any(any((folder / "checkpoints").glob("step-*")) for folder in (output_dir, output_dir / "head"))


def stored_run(output_dir: Path) -> dict[str, Any]:
    """Return the content of `config.json` for a run of any recipe. Only the types of its fields are checked.

    Raises:
        InputError: the run does not exist, or its `config.json` is damaged.
    """
    path = output_dir / "config.json"
    if not path.is_file():
        raise InputError(f"{output_dir}: no run here (there is no config.json); make one with `train` or the demo")
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"{path.stat().st_size} bytes, expected at most {LARGEST_CONFIG}")
        settings = json.loads(path.read_text(encoding="utf-8-sig"))  # some Windows editors add a byte order mark
        for name, kind in STORED_PARTS.items():
            value = settings[name] if name in ("recipe", "data", "config") else settings.get(name, kind())
            if not isinstance(value, typing.get_origin(kind) or kind):
                raise TypeError(f"{name} is {shown_value(value)}")
            check_value(name, value, kind)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: damaged ({first_line(error)}); restore it, or start a new run in another folder"
        ) from None
    return settings


def run_settings(output_dir: Path, recipe: str) -> dict[str, Any]:
    """Return the content of `config.json` for a run of `recipe`. `Run.load` also checks the settings.

    Raises:
        InputError: the run does not exist, belongs to another recipe, or has a damaged `config.json`.
    """
    settings = stored_run(output_dir)
    if settings["recipe"] != recipe:
        found = settings["recipe"][:40]
        raise InputError(f"{output_dir}: a run of {found}, not of {recipe}; choose a run of {recipe}")
    return settings


def stored_classes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names of a run, or an empty tuple."""
    return tuple(settings.get("classes", ()))


def _stored_config(output_dir: Path, settings: Mapping[str, Any], config_class: type) -> Any:
    path, hints = output_dir / "config.json", field_hints(config_class)
    known = field_hints(Execution) | hints
    stored = with_new_names(settings["recipe"], settings["config"], hints)
    classes = len(settings.get("classes", ()))
    for name, value in stored.items():
        if name not in known:
            raise InputError(
                f"{path}: unknown setting {shown_value(name)}; the file is damaged or from another version"
            )
        with _about(path):
            check_value(name, value, known[name])
    if classes and stored.get("outputs", classes) != classes:
        raise InputError(
            f"{path}: has {classes} classes, but {stored['outputs']} outputs; restore this file, or train again"
        )
    defaults = dataclasses.asdict(config_class())
    stored = {name: value for name, value in stored.items() if name in hints}
    fields = {name: float(v) if isinstance(defaults[name], float) else v for name, v in stored.items()}
    with _about(path):
        return config_class(**fields)


def read_execution(output_dir: Path) -> Execution:
    """Return the execution options of a run.

    Raises:
        InputError: the run does not exist, or its `config.json` is damaged.
    """
    hints, stored = field_hints(Execution), stored_run(output_dir)["config"]
    stored = {name: value for name, value in stored.items() if name in hints}
    for name, value in stored.items():
        with _about(output_dir / "config.json"):
            check_value(name, value, hints[name])
    return Execution(**stored)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Prefix an InputError about a setting with `path`, the file that contains the setting."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}; restore it, or start a new run in another folder") from None


RENAMED: dict[str, dict[str, str]] = {
    "adversarial_autoencoder": {"adversarial_rate": "adversarial_learning_rate", "deviation": "prior_stddev"},
    "cyclegan": {"pool": "pool_size"},
    "dcgan_faces": {"averaging": "ema_decay"},
    "ssgan": {
        "averaging": "ema_decay",
        "consistency": "consistency_weight",
        "matching": "feature_matching",
        "sure": "confidence_threshold",
    },
    "deepdream": {"epochs": "octaves", "shift": "jitter", "variation": "variation_weight"},
    "face_swap": {"deviation": "match_deviation"},
    "fast_style_transfer": {"variation": "variation_weight"},
    "fgsm": {"adversarial": "adversarial_weight"},
    "lenet": {"root": "sqrt_pixels"},
    "mlp": {"root": "sqrt_pixels"},
    "style_transfer": {"variation": "variation_weight"},
    "targeted_attack": {"epochs": "steps"},
}
"""Renamed and removed settings, by recipe: a dict from each old name to the current name, or to "" if removed."""

RENAMED_NETWORKS: dict[str, dict[str, str]] = {
    "dcgan_faces": {"averaged": "ema"},
    "fgsm": {"hardened": "robust"},
    "fast_style_transfer": {"painter": "transform_network"},
    "ssgan": {"averaged": "ema"},
}
"""Renamed networks, by recipe: a dict from each old name to the current name."""


def old_network_names(output_dir: Path) -> dict[str, str]:
    """Return the renamed networks of a run's recipe, as a dict from current names to old names."""
    try:
        recipe = stored_run(output_dir)["recipe"]
    except InputError:  # `fit` was called without a `Run`
        return {}
    return {new: old for old, new in RENAMED_NETWORKS.get(recipe, {}).items()}


def with_new_names(recipe: str, stored: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings under their current names. Settings that no longer exist are dropped."""
    names = {"synchronized": "synchronized" if "synchronized" in hints else ""} | RENAMED.get(recipe, {})
    found = {names.get(name, name): value for name, value in stored.items()}
    return {name: value for name, value in found.items() if name}


def read_data(output_dir: Path) -> str:
    """Return the value of `--data` that a run of any recipe was started with."""
    return stored_run(output_dir)["data"]
