"""Let the image size and the channels follow from the data, unless they are given on the command line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.arrays import NOT_PATHS
from common.data.idx import idx_sets
from common.data.prepared_sets import prepared_set
from common.data.shards import open_shards
from common.images.found import images_in
from common.images.reading import read_image
from common.runs.run import stored_run
from common.system.cluster import is_chief
from common.system.console import say
from common.system.files import InputError
from common.system.options import range_checks

FIXED = ("mobilenet", "face_swap", "deepdream", "style_transfer", "targeted_attack")
"""Recipes whose size does not follow from the data: it is that of a network, of a face, or of a single photo."""
SIZES = (16, 28, 32, 64, 128, 256, 512)
LARGEST = 64  # photos are not read at a larger size than this, unless the recipe's default is larger
PROBED = 32  # number of images that are read


class Native(NamedTuple):
    """What the images of a data set are like."""

    side: int  # median of the shorter side in pixels
    channels: int  # 1 if all are grey, else 3


def fitting(function: Callable[..., Any], recipe: str, arguments: Sequence[str]) -> Callable[..., Any]:
    """Wrap a `train` command: size and channels that are not in `arguments` and not in the preset follow the data.

    If a run is resumed, they are those of the run. A line says what was chosen.
    """
    signature = inspect.signature(function)
    if recipe in FIXED or not {"data", "config", "output_dir"} <= signature.parameters.keys():
        return function
    given = {argument.partition("=")[0].removeprefix("--") for argument in arguments if argument.startswith("--")}

    @functools.wraps(function)
    def call(*values: Any, **flags: Any) -> Any:
        bound = signature.bind(*values, **flags)
        bound.apply_defaults()
        config, data, output_dir = (bound.arguments[name] for name in ("config", "data", "output_dir"))
        defaults = type(config)()
        free = [
            name
            for name in ("size", "channels")
            if hasattr(config, name) and name not in given and getattr(config, name) == getattr(defaults, name)
        ]
        if free and data not in NOT_PATHS:  # for data sets with a name, the presets are made
            bound.arguments["config"] = fitted(config, free, data, output_dir)
        return function(**bound.arguments)

    return call


def fitted(config: Any, free: Sequence[str], data: str, output_dir: Path) -> Any:
    """Return `config` with the fields in `free` changed to fit the data, or to those of the run in `output_dir`."""
    if (output_dir / "config.json").is_file():
        kept = stored_run(output_dir)["config"]
        return _changed(config, {name: kept[name] for name in free if name in kept}) or config
    native = native_images(data)
    if native is None:
        return config
    wanted = {"size": _fitting_size(config, native.side), "channels": native.channels}
    changes = {name: wanted[name] for name in free if wanted[name] != getattr(config, name)}
    new = _changed(config, changes) if changes else None
    if new is None:
        return config
    if is_chief():
        colour = {1: "greyscale", 3: "in colour"}
        size = f"{new.size}x{new.size} px, {colour[getattr(new, 'channels', 3)]}"
        flags = " and ".join(f"--{name}" for name in free)
        found = f"images of about {native.side} px, {colour[native.channels]}"
        say(f"{data}: {found}; the recipe uses {size} (change this with {flags})")
    return new


def _fitting_size(config: Any, side: int) -> int:
    """Return a valid size for images whose shorter side has `side` pixels; the default if no other size fits better."""
    valid = [size for size in SIZES if _changed(config, {"size": size}) is not None]
    if side < config.size:
        return min([size for size in valid if side <= size < config.size], default=config.size)
    most = min(side, max(config.size, LARGEST))
    return max([size for size in valid if config.size < size <= most], default=config.size)


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    """Return `config` with other values, or None if these are not valid."""
    with range_checks(True), suppress(InputError):
        return dataclasses.replace(config, **changes)
    return None


def native_images(data: str) -> Native | None:
    """Return what the images of a data set are like; None if it is not known before the data is read."""
    with suppress(Exception):  # the reader reports what is wrong with the data
        if data.startswith("tfds:"):
            return _of_shape(_tfds_shape(data.removeprefix("tfds:")))
        path = Path(data)
        if path.suffix in (".npz", ".npy"):
            return _of_shape(_array_shape(path))
        if idx_sets(path):
            return Native(28, 1)
        shards = open_shards(path)
        files = images_in(path) if shards is None else [shards.image(place[0]) for place in shards.places[:PROBED]]
        chosen = np.unique(np.linspace(0, len(files) - 1, min(PROBED, len(files))).astype(int))
        images = []
        for number in chosen:
            with suppress(InputError):
                images.append(read_image(files[number]))
        if not images:
            return None
        colours = [float(np.ptp(image.astype(np.int16), axis=-1).mean()) for image in images]
        side = int(np.median([min(image.shape[:2]) for image in images]))
        return Native(side, 3 if np.mean(np.array(colours) > 2) > 0.1 else 1)
    return None


def _of_shape(shape: Sequence[int | None]) -> Native | None:
    """Return what images [n, height, width] or [n, height, width, channels] are like."""
    channels = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or None in shape[1:] or channels not in (1, 3):
        return None
    return Native(min(int(side or 0) for side in shape[1:3]), channels)


def _array_shape(path: Path) -> Sequence[int | None]:
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False).shape
    with np.load(path, allow_pickle=False) as arrays:
        name = next(name for name in ("x_train", "a") if name in arrays.files)
        with arrays.zip.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(file)[0]


def _tfds_shape(name: str) -> Sequence[int | None]:
    from common.data.arrays import tfds_builder

    if prepared_set(name) is None:
        return ()
    return (None, *tfds_builder(name, fetch=False).info.features["image"].shape)
