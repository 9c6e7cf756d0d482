"""A run on disk: what it was started with, its networks, its numbers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.cluster import is_chief
from common.errors import InputError
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
from common.lazy import keras, tf
from common.report import write_report

ConfigType = TypeVar("ConfigType")


def _named_data(data: str) -> str:
    """Return a `--data` word, with a path in full, so that a run goes on from another folder too."""
    word = data in ("sample", "mnist", "fashion_mnist") or data.startswith("tfds:")
    return data if word or not Path(data).exists() else str(Path(data).resolve())


def settings_of(config: Any) -> dict[str, Any]:
    """Return the settings of a recipe's `config` by their names, those of its `execution` among them."""
    settings = dataclasses.asdict(config)
    return settings | settings.pop("execution", {})


def check_settings(config: Any) -> None:
    """Raise InputError where a setting is out of its range."""
    for name, value in settings_of(config).items():
        least, most = SETTING_RANGES.get(name, (-math.inf, math.inf))
        if not isinstance(value, str) and not least <= value <= most:
            limit = f"{least} or more" if most == math.inf else f"{least} or more and at most {most}"
            raise InputError(f"{name} must be {limit}, got {value}")


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
            "(only epochs may change): choose another --output-dir, or delete this one"
        )


def has_saves(output_dir: Path) -> bool:
    """Return whether a run has trained: its networks or, in the folder `head`, their last layers first."""
    return any(any((folder / "checkpoints").glob("step-*")) for folder in (output_dir, output_dir / "head"))


SETTING_RANGES: dict[str, tuple[float, float]] = {
    "adversarial": (0, 1),
    "adversarial_rate": (0, math.inf),
    "averaging": (0, 1),
    "base_filters": (1, math.inf),
    "batch_size": (1, math.inf),
    "beta_1": (0, 0.999999),
    "border": (32, math.inf),
    "colour": (0, 2),
    "confidence": (0, 1),
    "consistency": (0, math.inf),
    "content_weight": (0, math.inf),
    "cutout": (0, 1),
    "cycle_weight": (0, math.inf),
    "decay_from": (0, 1),
    "discriminator_units": (1, math.inf),
    "dropout": (0, 0.99),
    "epochs": (1, math.inf),
    "epsilon": (0, 1),
    "generator_filters": (1, math.inf),
    "head_epochs": (1, math.inf),
    "head_learning_rate": (0, math.inf),
    "identity_weight": (0, math.inf),
    "images": (0, math.inf),
    "importance_samples": (1, math.inf),
    "jitter": (1, 4),
    "kl_weight": (0, math.inf),
    "labelled": (1, math.inf),
    "latent_dim": (1, math.inf),
    "learning_rate": (0, math.inf),
    "margin": (0, 2),
    "momentum": (0, 0.999),
    "noise": (0, math.inf),
    "octave_scale": (1.01, 4),
    "patch_layers": (1, 5),
    "patience": (0, math.inf),
    "penalty": (1e-12, math.inf),
    "pool": (0, 10_000),
    "residual_blocks": (0, 100),
    "scales": (1, 8),
    "seed": (0, 2**31 - 1),
    "shift": (0, math.inf),
    "smoothings": (1, 8),
    "step_size": (0, 1),
    "steps": (1, math.inf),
    "steps_per_call": (0, 10_000),
    "stop_at": (0, math.inf),
    "style_size": (32, math.inf),
    "style_weight": (0, math.inf),
    "sure": (0, 1),
    "tile": (32, math.inf),
    "tolerance": (0, 1),
    "translation": (0, 1),
    "units": (1, math.inf),
    "up_kernel": (2, 8),
    "variation": (0, math.inf),
    "warp": (0, 1),
    "weight_decay": (0, math.inf),
}


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
    import importlib.metadata

    packages = ("keras", "tensorflow", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}
    fields = settings_of(config)
    settings = {"recipe": recipe, "data": _named_data(data), "config": fields, "versions": versions}
    settings |= {"classes": classes} if classes else {}
    settings["identity"] = identities(fields | {"data": data})
    write_json(output_dir / "config.json", settings)


def run_settings(output_dir: Path, recipe: str) -> dict[str, Any]:
    """Return what `start_run` wrote.

    Raises:
        InputError: there is no run, it is another recipe's, or its `config.json` is damaged.
    """
    path = output_dir / "config.json"
    if not path.is_file():
        raise InputError(f"{output_dir}: no run here (there is no config.json); make one with `train` or the demo")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        found, _ = settings["recipe"], settings["config"] | {"data": settings["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); restore it, or start a new run in another folder") from None
    if found != recipe:
        raise InputError(f"{output_dir}: a run of {found}, not of {recipe}; choose a run of {recipe}")
    return settings


def read_run(output_dir: Path, recipe: str, config_class: type[ConfigType]) -> ConfigType:
    """Return the settings that a run was started with; one that is newer than the run has its default.

    Raises:
        InputError: there is no run, it is another recipe's, or its `config.json` is damaged.
    """
    stored = run_settings(output_dir, recipe)["config"]
    fields = {name: type(value) for name, value in settings_of(config_class()).items()}
    wrong = [name for name in stored if type(stored[name]) is not fields.get(name)]
    if wrong:
        raise InputError(f"{output_dir / 'config.json'}: damaged or of another version at {sorted(wrong)[0]!r}")
    computed = {field.name: stored.pop(field.name) for field in dataclasses.fields(Execution) if field.name in stored}
    if computed:
        stored["execution"] = Execution(**computed)
    return config_class(**stored)


def read_data(output_dir: Path) -> str:
    """Return the `--data` word that a run was started with."""
    settings = json.loads((output_dir / "config.json").read_text(encoding="utf-8"))
    return str(settings["data"])


def read_identity(output_dir: Path) -> dict[str, Any]:
    """Return the identity of the data that a run was started with; an empty one where they are no files."""
    return kept_identities(json.loads((output_dir / "config.json").read_text(encoding="utf-8"))).get("data", {})


def read_classes(output_dir: Path) -> tuple[str, ...]:
    """Return the names of the classes that a run was started with; none where it has no classes."""
    return tuple(json.loads((output_dir / "config.json").read_text(encoding="utf-8")).get("classes", ()))


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


def load_network(output_dir: Path, name: str) -> keras.Model:
    """Load NAME.keras of a run.

    Raises:
        InputError: the run has none yet, or the file is damaged.
    """
    path = output_dir / f"{name}.keras"
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; has this run finished training?")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # a damaged file fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be loaded ({reason[:120]}); train again, or restore the file") from None


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
