"""Read face images with attributes (such as smile or glasses) from CelebA, a folder with a .csv file, or arrays."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.answers import UNKNOWN, Part, check_names_of_attributes, own_faces
from common.data.arrays import npz_arrays, npz_entries, sized_images
from common.data.batches import Batches
from common.data.celeba import celeba_faces, celeba_file, celeba_image, tfds_faces
from common.data.datasets import square_image
from common.data.labelled import Split, image_batches
from common.data.shards import open_shards
from common.data.synthetic import SET_CLASSES, Sample, synthetic
from common.images.found import read_at, reports_files
from common.metrics.scores import arithmetic_scores, edit_scores, pair_scores, set_distances
from common.system.files import InputError, data_file, printable


class Attributed(NamedTuple):
    """Face images with attributes, in three splits. The labels of a split are uint8 [n, attributes].

    A label is 1 (yes), 0 (no) or 255 (unknown). `test` is never used for training or model selection.
    """

    train: Split
    validation: Split
    test: Split
    names: tuple[str, ...]  # names of the attributes; empty if the images have none
    classifier: Path | None = None  # attribute classifier (.keras file) for scores; None: no scores

    def image_batches(
        self, batch_size: int, seed: int, *, shift: int = 0, mirror: bool = False, validate: int = 1000
    ) -> Batches:
        """Return shuffled batches (images,) of the training split; see `Labelled.batches`."""
        return image_batches(self, batch_size, seed, shift, mirror, validate)

    def with_differing_attributes(self) -> Attributed:
        """Drop attributes whose known training labels are all equal, and list these attributes on stderr."""
        differs = (self.train.labels == 1).any(axis=0) & (self.train.labels == 0).any(axis=0)
        if not differs.all():
            left_out = ", ".join(name for name, useful in zip(self.names, differs, strict=True) if not useful)
            print(f"ignored attributes (same value for all training faces): {printable(left_out)}", file=sys.stderr)
        names = tuple(name for name, useful in zip(self.names, differs, strict=True) if useful)
        train, validation, test = (part._replace(labels=part.labels[:, differs]) for part in self[:3])
        return self._replace(train=train, validation=validation, test=test, names=names)

    def sample_scores(self, generate: Callable[[int], np.ndarray]) -> dict[str, float | int | str]:
        """Compare generated faces with an equal number of test faces, at most 2,000; see `set_distances`.

        Args:
            generate: n -> n generated images, uint8 [n, size, size, channels].

        Returns:
            Scores by name; empty without a `classifier`.
        """
        if self.classifier is None:
            return {}
        real, _ = self.test.loaded(2000)
        return set_distances(self.classifier, real, generate(len(real)))

    def well_copied(self, images: np.ndarray, labels: np.ndarray, copies: np.ndarray, count: int = 8) -> np.ndarray:
        """Return the indices of the images with the best copies (SSIM), at most `count`, all with different labels."""
        quality = [pair_scores(image[None], copy[None])["ssim"] for image, copy in zip(images, copies, strict=True)]
        order = np.argsort(quality)[::-1]
        _, first = np.unique(labels[order], axis=0, return_index=True)
        return order[np.sort(first)[:count]]

    def edit_scores(self, images: np.ndarray, edit: Callable[[int, np.ndarray], np.ndarray]) -> dict[str, float]:
        """Score attribute edits; see `common.metrics.scores.edit_scores`. Return {} without a `classifier`."""
        return {} if self.classifier is None else edit_scores(self.classifier, self.names, images, edit)

    def arithmetic_scores(
        self,
        wanted: tuple[str, ...],
        other: str,
        latents: np.ndarray,
        generate: Callable[[np.ndarray], np.ndarray],
        arithmetic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
        count: int = 3,
    ) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]]]:
        """Score latent arithmetic; see `common.metrics.scores.arithmetic_scores`.

        Without a `classifier`, both dictionaries are empty.
        """
        if self.classifier is None:
            return {}, {}
        return arithmetic_scores(self.classifier, self.names, wanted, other, latents, generate, arithmetic, count=count)


@reports_files
def attributed_images(
    data: str,
    size: int,
    channels: int,
    sample: Sample,
    skip_bad: bool = False,
    fetch: bool = False,
    names: tuple[str, ...] = (),
    seed: int = 0,
) -> Attributed:
    """Return face images, uint8 [size, size, channels], with their attributes.

    `data` is one of these:

    - `sample`: the recipe's built-in data set.
    - An .npz file with x_train and x_test, and optionally y_train and y_test. Labels have the shape [n] or
      [n, attributes], and the values 1 (yes), 0 or -1 (no), 255 or NaN (unknown). The optional array `attributes`
      contains the attribute names.
    - `tfds:celeb_a`, or another TensorFlow Dataset with images and boolean attributes. It is exported once, in CelebA's
      layout, to the sub-folder `faces` of the data set's folder.
    - A CelebA folder with list_attr_celeba.txt (or Kaggle's .csv file), and optionally list_eval_partition.txt, which
      defines the splits. The images are next to these files or in img_align_celeba/. Aligned images (178 x 218 px) are
      cropped to the central 148 x 148 px. CelebA-HQ, with CelebAMask-HQ-attribute-anno.txt and CelebA-HQ-img/, is also
      supported.
    - A folder of images, including its sub-folders, with at most one .csv file at the top level. The .csv file has a
      header line, file names in its first column, and one more column per attribute. Values are 1 or 0, 1 or -1, yes or
      no, true or false; an empty cell means unknown.
    - A folder of shards that was written from one of these folders, or from images without attributes.

    Images in folders and shards are read on demand. They are centre-cropped, except aligned CelebA images (see above).
    If the data has no test split, every fifth image becomes a test image. If it has no validation split, 10 % of the
    training images become validation images.

    Args:
        data: see above.
        size: height and width of the returned images in pixels.
        channels: 1 for greyscale, 3 for colour.
        sample: the recipe's built-in data set, as a name in `common.data.synthetic` or a function that returns images,
            uint8 [n, size, size, 3], and attributes, uint8 [n, attributes].
        skip_bad: skip files that are missing or cannot be read, and list them.
        fetch: allow downloading a `tfds:` data set.
        names: the attribute names of the built-in data set; needed only if `sample` is a function.
        seed: random seed of the built-in data set.

    Raises:
        InputError: `data` does not exist or cannot be used.
    """
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, got {channels}")
    read = classifier = None
    if data == "sample":
        images, labels = synthetic(sample, size, seed)
        names = names or SET_CLASSES.get(str(sample), ())
        classifier = data_file("face_classifier.keras") if sample in ("faces", "frontal_faces", "portraits") else None
        parts = [(sized_images(images, size, channels, data), labels)]
    elif Path(data).suffix == ".npz":
        parts, names = _npz_faces(Path(data), size, channels)
    elif (shards := open_shards(data)) is not None:
        shards.expect("faces", "images", "classes")
        about, places = shards.about, shards.places[:, 0]
        if about["layout"] == "faces":
            some = [shards.parts == number for number in range(len(about["parts"]))]
            parts, names = [(places[part], shards.labels[part]) for part in some], tuple(about["classes"])
        else:
            splits = [shards.in_part(name) for name in ("train", "validation", "test")]
            splits = splits if splits[0].any() else [np.ones(len(places), bool)]
            parts, names = [(places[part], np.zeros((int(part.sum()), 0), np.uint8)) for part in splits], ()
        as_celeba = about["celeba"] and not about["size"]
        square = functools.partial(celeba_image if as_celeba else square_image, size=size, channels=channels)
        read = shards.reading(square)
    else:
        folder = tfds_faces(data.removeprefix("tfds:"), fetch) if data.startswith("tfds:") else Path(data)
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "no such file or folder"
            raise InputError(f"{data}: {problem}; expected a folder, an .npz file, tfds:celeb_a or sample")
        read_at(size, channels)
        parts, names, as_celeba = listed_faces(folder, channels, skip_bad)
        read = functools.partial(celeba_image if as_celeba else square_image, size=size, channels=channels)
    train, validation, test = (Split(*part, read) for part in _three_parts(data, parts))
    return Attributed(train, validation, test, tuple(names), classifier)


def listed_faces(folder: Path, channels: int, skip_bad: bool) -> tuple[list[Part], tuple[str, ...], bool]:
    """Return a folder's splits (file names and labels), its attribute names, and whether its layout is CelebA's."""
    listed = celeba_file(folder, "list_attr_celeba", "CelebAMask-HQ-attribute-anno")
    if listed is None:
        return *own_faces(folder, channels, skip_bad), False
    return *celeba_faces(folder, listed, channels, skip_bad), True


def _three_parts(data: str, parts: list[Part]) -> list[Part]:
    """Return training, validation and test splits. If one is missing or empty, training examples are moved to it."""
    empty = parts[0][0][:0], parts[0][1][:0]
    train, validation, test = [*parts, empty, empty][:3]
    if not len(test[1]):
        train, test = _apart(train, np.arange(len(train[1])) % 5 == min(4, len(train[1]) - 1))
    if not len(validation[1]):
        labels = train[1]
        by_answers = np.lexsort(labels.T[::-1]) if labels.size else np.arange(len(labels))  # as in `labelled_images`
        held_out = np.zeros(len(labels), bool)
        held_out[by_answers[min(9, len(labels) - 1) :: 10]] = True
        train, validation = _apart(train, held_out)
    counts = [len(labels) for _, labels in (train, validation, test)]
    if not all(counts):
        found = f"{counts[0]} images for training, {counts[1]} for validation and {counts[2]} for testing"
        raise InputError(f"{data}: {found}; each split needs at least one")
    return [train, validation, test]


def _apart(part: Part, taken: np.ndarray) -> tuple[Part, Part]:
    items, labels = part
    return (items[~taken], labels[~taken]), (items[taken], labels[taken])


# %% Arrays


def _npz_faces(path: Path, size: int, channels: int) -> tuple[list[Part], tuple[str, ...]]:
    arrays = npz_arrays(path, labels=False)
    counts = [len(images) if images.ndim else 0 for images in arrays.images]
    names, stored = _npz_answers(path)
    labels = []
    for split, count, answers in zip(("train", "test"), counts, stored, strict=True):
        if not count:
            raise InputError(f"{path}: x_{split} contains no images; it needs at least one")
        labels.append(_checked_answers(path, f"y_{split}", answers, count))
    if labels[0].shape[1] != labels[1].shape[1]:
        widths = f"y_train has {labels[0].shape[1]} attributes, but y_test has {labels[1].shape[1]}"
        raise InputError(f"{path}: {widths}; expected the same number")
    width = labels[0].shape[1]
    if not len(names):
        names = ("attribute",) if width == 1 else tuple(f"attribute_{number + 1}" for number in range(width))
    if len(names) != width:
        raise InputError(f"{path}: {len(names)} names in `attributes` for {width} attributes; give one per attribute")
    check_names_of_attributes(str(path), names)
    sized = [sized_images(images, size, channels, str(path)) for images in arrays.images]
    nothing = sized[0][:0], labels[0][:0]
    return [(sized[0], labels[0]), nothing, (sized[1], labels[1])], names


def _npz_answers(path: Path) -> tuple[tuple[str, ...], list[np.ndarray | None]]:
    """Return the attribute names and [y_train, y_test], without reading the images. Missing labels are None."""
    found = npz_entries(path, (), ("y_train", "y_test", "attributes"))
    labelled = [key for key in ("y_train", "y_test") if key in found]
    if len(labelled) == 1:
        raise InputError(f"{path}: has only {labelled[0]}; expected both y_train and y_test, or neither")
    names = found["attributes"] if "attributes" in found and labelled else np.array([], str)
    if names.dtype.kind not in "US" or names.ndim != 1:
        shape = f"{names.dtype} {list(names.shape)}"
        raise InputError(f"{path}: `attributes` is {shape}; expected the attribute names as a text array [attributes]")
    named = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    return named, [found.get(key) for key in ("y_train", "y_test")]


def _checked_answers(path: Path, key: str, stored: np.ndarray | None, count: int) -> np.ndarray:
    """Check the stored values, and convert them to labels, uint8 [count, attributes]."""
    if stored is None:
        return np.zeros((count, 0), np.uint8)
    if stored.dtype.kind not in "biuf" or stored.ndim not in (1, 2) or len(stored) != count:
        found = f"{stored.dtype} {list(stored.shape)} for {count} images"
        raise InputError(f"{path}: {key} is {found}; expected an array [n] or [n, attributes] of 1 (yes) and 0 (no)")
    answers = stored.reshape(count, -1)
    unknown = np.isnan(answers) | (answers == UNKNOWN)
    strange = answers[~(unknown | np.isin(answers, (-1, 0, 1)))]
    if strange.size:
        raise InputError(f"{path}: {key} contains {strange[0]}; expected 1 (yes), 0 or -1 (no), or 255 (unknown)")
    both = np.flatnonzero((answers == 0).any(axis=0) & (answers == -1).any(axis=0))
    if len(both):
        raise InputError(
            f'{path}: {key} contains 0 and -1 in column {both[0]}; use only one of them for "no", and 255 for "unknown"'
        )
    return np.where(unknown, UNKNOWN, answers == 1).astype(np.uint8)
