"""A run on disk: what it was started with, its networks, its numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import typing
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.cluster import is_chief
from common.errors import InputError, first_line
from common.execution import Execution
from common.files import readable_name, replacing, write_json
from common.identity import NAMING_SETTINGS, check_identities, check_places, identities, kept_identities
from common.images import (
    check_image_size,
    checked_images,
    colour_labels,
    find_images,
    image_suffix,
    png_targets,
    read_image,
    read_labels,
    write_image,
)
from common.keras_files import load_keras_file
from common.lazy import keras, tf
from common.ranges import check_fields, check_value, field_hints, shown_value
from common.report import write_report

ConfigType = TypeVar("ConfigType")
LARGEST_CONFIG = 2**24  # bytes of a config.json
STORED_PARTS = {"recipe": str, "data": str, "config": dict, "classes": list[str], "versions": dict}


def _named_data(data: str) -> str:
    """Return a `--data` word, with a path in full, so that a run goes on from another folder too."""
    word = data in ("sample", "mnist", "fashion_mnist") or data.startswith("tfds:")
    return data if word or not Path(data).exists() else str(Path(data).resolve())


def settings_of(config: Any) -> dict[str, Any]:
    """Return the settings of a recipe's `config` by their names, those of its `execution` among them."""
    settings = dataclasses.asdict(config)
    return settings | settings.pop("execution", {})


def check_settings(config: Any) -> None:
    """Raise InputError where a setting is not of its type, none of its words, or out of its range."""
    check_fields(config)


def check_run(output_dir: Path, recipe: str, config: Any, data: str, accept_data: bool = False) -> None:
    """Say now what would otherwise stop a run after its data has been read.

    Files may have moved since the run began, as long as they are the same: data, paintings, and weights are judged by
    their names, sizes and contents. With `accept_data` the run resumes with files that have changed.

    Raises:
        InputError: a setting is out of its range, `output_dir` cannot be written to, or it holds another recipe's
            run, or one that has begun with other settings or files; `epochs` and `steps_per_call` may differ, and
            `outputs`, which data decide.
    """
    check_settings(config)
    if readable_name(output_dir) != str(output_dir):
        raise InputError(f"{readable_name(output_dir)}: not a name in UTF-8, which saves need; choose another folder")
    existing = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{output_dir}: cannot be written ({existing} is a file or not yours); choose another folder")
    if not (output_dir / "config.json").exists():
        return
    before = settings_of(read_run(output_dir, recipe, type(config))) | {"data": read_data(output_dir)}
    now = settings_of(config) | {"data": _named_data(data)}
    check_places(output_dir, before, now)
    if not has_saves(output_dir):
        return  # nothing has come of it yet
    free = "epochs", "outputs", "steps_per_call"
    changed = [name for name in now if now[name] != before[name] and name not in free]
    if set(changed) <= set(NAMING_SETTINGS):
        kept = kept_identities(run_settings(output_dir, recipe))
        same_files = check_identities(output_dir, before, now, kept, accept_data)
        changed = [name for name in changed if name not in same_files]
    if changed:
        name = changed[0]
        raise InputError(
            f"{output_dir}: holds a run with {name} {before[name]!r}, not {now[name]!r}; a run keeps its settings "
            "(only epochs may change): choose another --output-dir"
        )


def has_saves(output_dir: Path) -> bool:
    """Return whether a run has trained: its networks or, in the folder `head`, their last layers first."""
    return any(any((folder / "checkpoints").glob("step-*")) for folder in (output_dir, output_dir / "head"))


def start_run(output_dir: Path, recipe: str, config: Any, data: str, classes: tuple[str, ...] = ()) -> None:
    """Write `config.json`: the recipe's name, every setting, the data, its classes, and the versions of what runs it.

    Raises:
        InputError: a run that goes on had other classes.
    """
    if has_saves(output_dir) and classes != read_classes(output_dir):
        raise InputError(
            f"{output_dir}: the classes of this run were {', '.join(read_classes(output_dir)) or 'none'}, and are now "
            f"{', '.join(classes) or 'none'}; bring the data back as they were, or choose another --output-dir"
        )
    check_value("classes", [*classes], list[str])
    import importlib.metadata

    packages = ("keras", "tensorflow", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}
    fields = settings_of(config)
    settings = {"recipe": recipe, "data": _named_data(data), "config": fields, "versions": versions}
    settings |= {"classes": classes} if classes else {}
    settings["identity"] = identities(fields | {"data": data})
    write_json(output_dir / "config.json", settings)


def stored_run(output_dir: Path) -> dict[str, Any]:
    """Return what `start_run` wrote for a run of any recipe: each part is of its type, the settings are unchecked.

    Raises:
        InputError: there is no run, or its `config.json` is damaged.
    """
    path = output_dir / "config.json"
    if not path.is_file():
        raise InputError(f"{output_dir}: no run here (there is no config.json); make one with `train` or the demo")
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"{path.stat().st_size} bytes, expected at most {LARGEST_CONFIG}")
        settings = json.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows write a byte order mark
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
    """Return what `start_run` wrote for a run of `recipe`; `read_run` checks its settings.

    Raises:
        InputError: there is no run, it is another recipe's, or its `config.json` is damaged.
    """
    settings = stored_run(output_dir)
    if settings["recipe"] != recipe:
        found = settings["recipe"][:40]
        raise InputError(f"{output_dir}: a run of {found}, not of {recipe}; choose a run of {recipe}")
    return settings


def read_run(output_dir: Path, recipe: str, config_class: type[ConfigType]) -> ConfigType:
    """Return the settings that a run was started with; one that is newer than the run has its default.

    Nothing in a run folder is believed: each setting must be one that `config_class` allows, and a run that has both
    classes and outputs must have as many. `load_network` compares the networks with them.

    Raises:
        InputError: there is no run, it is another recipe's, or its `config.json` is damaged.
    """
    settings = run_settings(output_dir, recipe)
    stored, path = settings["config"], output_dir / "config.json"
    hints = dict(field_hints(config_class))
    computed = field_hints(Execution) if hints.pop("execution", None) else {}
    hints |= computed
    for name, value in stored.items():
        if name not in hints:
            raise InputError(f"{path}: damaged or of another version at {shown_value(name)}")
        try:
            check_value(name, value, hints[name])
        except InputError as error:
            raise InputError(f"{path}: {error}; restore it, or start a new run in another folder") from None
    classes = len(settings.get("classes", ()))
    if classes and stored.get("outputs", classes) != classes:
        raise InputError(f"{path}: {classes} classes, but outputs is {stored['outputs']}; restore it, or train again")
    defaults = settings_of(config_class())
    stored = {name: float(value) if isinstance(defaults[name], float) else value for name, value in stored.items()}
    execution = {name: stored.pop(name) for name in computed if name in stored}
    return config_class(**stored, **({"execution": Execution(**execution)} if execution else {}))


def read_data(output_dir: Path) -> str:
    """Return the `--data` word that a run was started with."""
    return stored_run(output_dir)["data"]


def read_identity(output_dir: Path) -> dict[str, Any]:
    """Return the identity of the data that a run was started with; an empty one where they are no files."""
    return kept_identities(stored_run(output_dir)).get("data", {})


def read_classes(output_dir: Path) -> tuple[str, ...]:
    """Return the names of the classes that a run was started with; none where it has no classes."""
    return tuple(stored_run(output_dir).get("classes", ()))


def finish_run(output_dir: Path, networks: Any, evaluate: Callable[[], Mapping[str, float | int | str]]) -> None:
    """Write each network as NAME.keras, then what `evaluate` returns as `results.json`, and the report.

    Of several machines that train together the first alone does, and evaluates in a thread: no strategy is entered
    there, so that networks of its own are this machine's and wait for no other.
    """
    if not is_chief():
        return
    for name, network in networks._asdict().items():
        with replacing(output_dir / f"{name}.keras") as draft:
            network.save(draft)
    if tf.distribute.has_strategy():
        with ThreadPoolExecutor(1) as alone:
            scores = alone.submit(evaluate).result()
    else:
        scores = evaluate()
    write_json(output_dir / "results.json", scores)
    write_report(output_dir)


Shape = tuple[int | None, ...]
"""Of an input or output of a network, without the number of examples; None: any."""


def image_shape(config: Any) -> Shape:
    """Return the shape of a recipe's square images."""
    return config.size, config.size, config.channels


def load_network(
    output_dir: Path, name: str, takes: Shape | list[Shape] = (), gives: Shape | list[Shape] = ()
) -> keras.Model:
    """Load NAME.keras of a run.

    Args:
        output_dir: the run's folder.
        name: of the network.
        takes: the shape of its input that follows from the run's settings, or of its inputs; unchecked where empty.
        gives: that of its output, or of its outputs.

    Raises:
        InputError: the run has none yet, the file is damaged, or the network does not fit the run's settings.
    """
    path = output_dir / f"{name}.keras"
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; has this run finished training?")
    network = load_keras_file(path)
    for verb, wanted, tensors in (("takes", takes, network.inputs), ("gives", gives, network.outputs)):
        expected = [*wanted] if isinstance(wanted, list) else [wanted]
        found = [tuple(tensor.shape[1:]) for tensor in tensors]
        if wanted and found != expected:
            what = f"{verb} {_shapes(found)}, but the config.json beside it says {_shapes(expected)}"
            raise InputError(f"{path}: {what}; restore the file that was changed, or train again")
    return network


def _shapes(shapes: list[Shape]) -> str:
    return " and ".join(" x ".join("any" if side is None else str(side) for side in shape) for shape in shapes[:4])


def convert_images(
    source: Path,
    destination: Path,
    convert: Callable[[np.ndarray], np.ndarray],
    classes: int = 0,
    skip_bad: bool = False,
) -> Path:
    """Read one image, or all of a folder, apply `convert` to uint8 [height, width, 3], and write the results.

    Args:
        source: an image, or a folder of images.
        destination: the file to write, or a folder for PNG files of the same names.
        convert: uint8 [height, width, 3] -> the same.
        classes: above 0, inputs are maps of class numbers, which are coloured first.
        skip_bad: go on without images of a folder that cannot be read, naming them.

    Returns:
        `destination`.

    Raises:
        InputError: `source` is missing or cannot be read, or `destination` is a file where a folder is needed.
    """

    def read(path: Path) -> np.ndarray:
        return colour_labels(read_labels(path, classes)) if classes else read_image(path)

    if not source.is_dir():
        target = destination / f"{source.stem}.png" if destination.is_dir() else destination
        image_suffix(target)
        image = read(source)
        check_image_size(target, *image.shape[:2])
        write_image(convert(image), target)
        return destination
    if destination.is_file():
        raise InputError(f"{destination}: is a file, but {source} is a folder; give a folder to write to")
    if destination.resolve() == source.resolve():
        raise InputError(f"{destination}: the folder that is read; give another to write to")
    paths = find_images(source)
    png_targets(paths, destination)
    good = checked_images(paths, read, skip_bad, smallest=1)[0]
    for path, target in zip(good, png_targets(good, destination), strict=True):
        write_image(convert(read(path)), target)
    return destination
