"""Write a TensorFlow Dataset to a folder of images, once, without re-encoding the images.

Data sets whose images differ in size, or do not fit into memory, are then read from this folder, batch by batch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from common.data.arrays import tfds_builder
from common.data.celeba import tfds_faces
from common.system.console import tracked
from common.system.files import replacing_folder

MEMORY_BYTES = 2**29  # larger data sets are not held in memory
FOLDER_NAMES = {"validation": "val"}  # of splits


def exported(data: str, fetch: bool) -> str:
    """Return the folder with the images of a TensorFlow Dataset that cannot be held in memory; else `data`.

    The folder is created if it does not exist yet. Labels become folders of classes.
    """
    if not data.startswith("tfds:"):
        return data
    name = data.removeprefix("tfds:")
    builder: Any = tfds_builder(name, fetch)
    features, splits = builder.info.features, builder.info.splits
    if "image" not in features:
        return data  # the reader reports it
    shape = features["image"].shape
    count = sum(split.num_examples for split in splits.values())
    if None not in shape and count * math.prod(shape) <= MEMORY_BYTES:
        return data
    if "attributes" in features and hasattr(features["attributes"], "keys"):
        return str(tfds_faces(name, fetch))
    folder = Path(builder.data_dir) / "images"
    if not folder.is_dir():
        with replacing_folder(folder) as draft:
            for split in splits:
                _write_split(builder, split, draft / FOLDER_NAMES.get(split, split))
    return str(folder)


def _write_split(builder: Any, split: str, folder: Path) -> None:
    import tensorflow_datasets as tfds

    features = builder.info.features
    label = features["label"] if "label" in features else None  # noqa: SIM401, it has no `get`
    names = [name.replace("/", "_") for name in getattr(label, "names", [])]
    undecoded = {"image": tfds.decode.SkipDecoding()}
    examples = builder.as_dataset(split=split, decoders=undecoded).as_numpy_iterator()
    total = builder.info.splits[split].num_examples
    for number, example in enumerate(tracked(examples, f"writing {split}", "image", total)):
        suffix = "jpg" if example["image"].startswith(b"\xff\xd8") else "png"
        inner = folder / _class_of(example["label"], names) if "label" in example else folder
        inner.mkdir(parents=True, exist_ok=True)
        (inner / f"{number:06d}.{suffix}").write_bytes(example["image"])


def _class_of(label: Any, names: list[str]) -> str:
    """Return the name of the folder for a label: an integer, or a text."""
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace").replace("/", "_").strip(". ") or "unnamed"
    return names[label] if names else str(label)
