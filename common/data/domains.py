"""Unpaired images of two domains, such as summer and winter: readers, batches, image grids and scores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.arrays import as_uint8, npz_entries, sized_images, tfds_builder
from common.data.batches import Batches, Examples, as_they_are
from common.data.class_folders import joined_folders, split_folders, split_of, unpacked
from common.data.datasets import check_built_in, say_size, square_image, unscaled_image
from common.data.pairs import note_small
from common.data.people import ColourShift
from common.data.shards import open_shards
from common.data.synthetic import synthetic
from common.images.found import IMAGE_SUFFIXES, add_detail, entries_of, images_in, reports_files
from common.images.reading import checked_images, read_image
from common.images.writing import save_image, write_image
from common.metrics.scores import pair_scores, sample_diversity, texture_distance
from common.system.files import InputError, replacing
from common.system.lazy import tf

Translation = Callable[[np.ndarray], np.ndarray]
"""Images of one domain, uint8 [n, size, size, 3] -> their translations, of the same shape."""


class Domains(NamedTuple):
    """Training and held-out images of two domains, A and B. The domains may differ in size."""

    a: Examples
    b: Examples
    names: tuple[str, str] = ("A", "B")
    paired: bool = False  # the held-out images of A and B show the same scenes, in the same order

    @classmethod
    def of_arrays(
        cls, train: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray], names: tuple[str, str]
    ) -> Domains:
        """Create `Domains` from unpaired training images of A and B, and held-out pairs (`truth`)."""
        a, b = (Examples(images, test, as_they_are) for images, test in zip(train, truth, strict=True))
        return cls(a, b, names, paired=True)

    def with_crop(self, crop: int) -> Domains:
        """Return the same domains, of whose images squares of `crop` pixels are used; 0: whole images."""
        return self._replace(a=self.a._replace(crop=crop), b=self.b._replace(crop=crop))

    def batches(self, batch_size: int, seed: int, *, size: int, jitter: float) -> Batches:
        """Return shuffled batches (images of A, images of B), with random crops and flips; see `Examples.batches`.

        An epoch is one pass over the larger domain. The smaller domain repeats within an epoch, in a new order each
        time. The batch size is limited to the number of images in the smaller domain.
        """
        most = min(batch_size, len(self.a.train), len(self.b.train))
        streams = [
            domain.batches(most, seed + number, size=size, jitter=jitter)
            for number, domain in enumerate((self.a, self.b))
        ]
        return Batches.zip(*streams)._replace(paired=self.paired)

    def some(self, most: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return up to `most` evenly spaced training images per domain: two arrays, uint8 [n, size, size, 3].

        If `most` is 0, see `Examples.held_out`.
        """
        one, other = (domain._replace(test=domain.train).held_out(most)[0] for domain in (self.a, self.b))
        return one, other

    def evaluate(self, a2b: Translation, b2a: Translation, path: Path) -> dict[str, float]:
        """Score the translations of held-out images, and write a grid of example translations to `path`.

        `a_cycle_l1` and `b_cycle_l1` compare images with their reconstructions (A to B to A, and B to A to B). All L1
        scores are in [0, 1]. If the held-out images are paired, `a2b_l1`, `a2b_psnr` and `a2b_ssim` (and `b2a_...`)
        compare translations with their targets. Three baselines are compared with the same targets:

        - `a2b_unchanged_...`: the input itself.
        - `a2b_colour_shift_...`: the input, with its colours matched to the mean and standard deviation of the other
          domain.
        - `a2b_mean_image_...`: the mean training image of the other domain.
        """
        (held_a,), (held_b,) = self.a.held_out(), self.b.held_out()
        some_a, some_b = self.some()
        scores: dict[str, float] = {}
        cycles: dict[str, float] = {}
        rows: dict[str, np.ndarray] = {}
        for way, there, back, images, truth, (some, others), (name, other) in (
            ("a2b", a2b, b2a, held_a, held_b, (some_a, some_b), self.names),
            ("b2a", b2a, a2b, held_b, held_a, (some_b, some_a), self.names[::-1]),
        ):
            translated = there(images)
            returned = back(translated)
            cycles[f"{way[0]}_cycle_l1"] = float(np.abs(images / 255 - returned / 255).mean())
            if self.paired:  # the target of one direction is the input of the other
                rows |= {f"true {name}" if rows else name: images, f"{name} to {other}": translated}
                scores |= {f"{way}_{measure}": value for measure, value in pair_scores(truth, translated).items()}
                mean = np.rint(others.mean(axis=0)).astype(np.uint8)
                baselines = {"unchanged": images, "colour_shift": ColourShift.between(some, others).there(images)}
                for baseline, answers in (baselines | {"mean_image": np.stack([mean] * len(truth))}).items():
                    found = pair_scores(truth, answers)
                    scores |= {f"{way}_{baseline}_{measure}": found[measure] for measure in ("l1", "ssim")}
            else:
                rows |= {name: images, f"{name} to {other}": translated, f"back to {name}": returned}
        _save_columns(rows, path)
        return scores | cycles


def save_translations(data: Batches, a2b: Translation, b2a: Translation, path: Path | None) -> dict[str, float]:
    """Translate held-out images, write a grid of up to eight per domain, and return scores for the history.

    Args:
        data: batches from `Domains.batches`. Up to SCORED held-out images per domain are used.
        a2b: function that translates images of A to B.
        b2a: function that translates images of B to A.
        path: the file to write; None writes no file.

    Returns:
        Empty if a domain has only one held-out image. Otherwise, each of these with the ending `_a2b` and `_b2a`:
        "diversity": `sample_diversity` of the translations in the grid, relative to real images.
        "frechet": `texture_distance` of the translations from real images. Smaller is better. `frechet` is the mean.
        "l1", "ssim": the scores of `pair_scores`. Only if the held-out images are paired.
    """
    a, b = (_evenly(images, SCORED) for images in data.held_out[:2])
    few_a, few_b = (_evenly(images, 8) for images in data.held_out[:2])
    to_b, to_a = a2b(few_a), b2a(few_b)
    if path is not None:
        rows = {"A": few_a, "A to B": to_b, "back to A": b2a(to_b), "B": few_b, "B to A": to_a, "back to B": a2b(to_a)}
        _save_columns(rows, path)
    if min(len(a), len(b)) < 2:
        return {}
    found = {"diversity_a2b": sample_diversity(to_b, few_b), "diversity_b2a": sample_diversity(to_a, few_a)}
    translated = {"a2b": (a2b(a), b), "b2a": (b2a(b), a)}
    distances = {f"frechet_{way}": texture_distance(real, fake) for way, (fake, real) in translated.items()}
    found |= distances | {"frechet": float(np.mean([*distances.values()]))}
    for way, (fake, real) in translated.items() if data.paired else ():
        scores = pair_scores(real, fake)
        found |= {f"{name}_{way}": scores[name] for name in ("l1", "ssim")}
    return found


SCORED = 32  # held-out images per domain that are translated after each epoch


def _evenly(images: np.ndarray, most: int) -> np.ndarray:
    """Return up to `most` evenly spaced images."""
    return images[np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)]


def _save_columns(rows: dict[str, np.ndarray], path: Path) -> None:
    """Write a grid with up to eight evenly spaced images per row."""
    count = min(8, *map(len, rows.values()))
    chosen = {name: images[np.linspace(0, len(images) - 1, count).astype(int)] for name, images in rows.items()}
    save_image(chosen, path, zoom=max(1, 128 // next(iter(rows.values())).shape[1]))


# %% Reading

DOMAIN_LAYOUTS = (
    "two folders of images: trainA/ and trainB/ (with testA/ and testB/), A/ and B/, or any two names (the first in "
    "alphabetical order is A); directly in the folder, or in train/ and test/ (or val/)"
)


@reports_files
def unpaired_images(
    data: str,
    size: int,
    sample: str | Callable[[], Domains],
    skip_bad: bool = False,
    fetch: bool = False,
    seed: int = 0,
    crop: bool = False,
) -> Domains:
    """Return centre-cropped images of two domains, uint8 [size, size, 3].

    `data` is one of:

    - `sample`: the built-in data set.
    - `tfds:NAME`: a TensorFlow Dataset with the splits trainA and trainB, such as `tfds:cycle_gan/horse2zebra`.
    - an .npz file with the arrays `a` and `b`, and optionally `test_a` and `test_b`.
    - a folder with one of the DOMAIN_LAYOUTS, or a folder of shards written from such a folder. The images are read
      on demand.

    If a domain has no test images, 10 % of its images are held out.

    Args:
        data: see above.
        size: height and width of the returned images in pixels.
        sample: the recipe's built-in data set, as a name in `common.data.synthetic` or a function that returns
            `Domains`.
        skip_bad: skip files that cannot be read, and list them.
        fetch: allow downloading a `tfds:` data set.
        seed: random seed of the built-in data set.
        crop: do not resize. Batches contain random crops of `size` pixels; held-out images are centre-cropped. Smaller
            images are padded by reflection at the right and bottom.

    Raises:
        InputError: `data` is none of these, a domain has fewer than two images, both domains are the same folder, or
            an image cannot be read.
    """
    if data == "sample":
        check_built_in(size)
        if callable(sample):
            return sample()
        train, truth = synthetic(sample, size, seed)
        return Domains.of_arrays(train, truth, ("summer", "winter")).with_crop(size * crop)
    path = Path(data)
    shards = open_shards(path)
    if shards is not None:
        shards.expect("domains")
        read = functools.partial(unscaled_image if crop else square_image, size=size, channels=3)
        decode = shards.decoding(read, None if crop else size, 3)
        sides = []
        for number, name in enumerate(shards.about["classes"]):
            own = [shards.places[(shards.labels == number) & (shards.parts == part), 0] for part in (0, 1)]
            sides.append(Examples(*_held_out(own if len(own[1]) else own[:1], f"{data}: {name}"), decode))
        return Domains(sides[0], sides[1], tuple(shards.about["classes"])).with_crop(size * crop)
    if path.suffix == ".npz":
        stored = npz_entries(path, ("a", "b"), ("test_a", "test_b"))
        found = dict(zip(stored, as_uint8(data, *stored.values()), strict=True))
        a, b = (_of_arrays(data, key, found, size, crop) for key in ("a", "b"))
        return Domains(a, b).with_crop(size * crop)
    if data.startswith("tfds:"):
        path = _tfds_domains_folder(data.removeprefix("tfds:"), fetch)
    say_size(size, crop)
    (name_a, folders_a), (name_b, folders_b) = domain_folders(path)
    a, b = (_of_files(folders, size, skip_bad, crop) for folders in (folders_a, folders_b))
    return Domains(a, b, (name_a, name_b)).with_crop(size * crop)


def _tenth(count: int, source: str) -> np.ndarray:
    """Return a mask, bool [count], that is True for the images to hold out (10 %)."""
    if count < 2:
        number = "only one image" if count else "no images"
        raise InputError(
            f"{source}: {number}; a domain needs at least two (one is held out), and hundreds for good results"
        )
    return np.arange(count) % 10 == min(9, count - 1)


def _of_arrays(data: str, key: str, found: dict[str, np.ndarray], size: int, crop: bool) -> Examples:
    held_out = f"test_{key}"
    if held_out in found:
        for name in (key, held_out):
            if not len(found[name]):
                raise InputError(
                    f"{data}: {name} is empty; a domain needs at least one training image and one held-out image"
                )
        train, test = (sized_images(found[name], size, 3, f"{data}: {name}", crop) for name in (key, held_out))
        return Examples(train, test, as_they_are)
    last = _tenth(len(found[key]), f"{data}: {key}")
    images = sized_images(found[key], size, 3, f"{data}: {key}", crop)
    return Examples(images[~last], images[last], as_they_are)


# %% Folders


def domain_folders(folder: Path) -> list[tuple[str, list[Path]]]:
    """Return the name and the folders of each domain: the training folder, then the test folder if there is one.

    Raises:
        InputError: the folder has none of the DOMAIN_LAYOUTS, or both domains are the same folder.
    """
    folder = unpacked(folder)
    (name_a, folders_a), (name_b, folders_b) = _domain_folders(folder)
    if folders_a[0].resolve() == folders_b[0].resolve():
        raise InputError(f"{folders_a[0]} and {folders_b[0]} are the same folder; expected two different folders")
    add_detail(f"A is {folders_a[0].relative_to(folder)}/, B is {folders_b[0].relative_to(folder)}/")
    return [(name_a, folders_a), (name_b, folders_b)]


def _domain_folders(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder or .npz; expected {DOMAIN_LAYOUTS}")
    splits = split_folders(folder)
    joined = joined_folders(folder)
    top = splits.get("train", folder)
    entries = entries_of(top)[1]
    filled = [path for path in entries if images_in(path) and not split_of(path.name) and path not in joined.values()]
    sides = {path.name.upper(): path for path in entries if path.name.upper() in ("A", "B")}
    chosen = list(sides.values()) if len(sides) == 2 else filled
    if {"trainA", "trainB"} <= joined.keys():
        for name in "AB":
            tests = (joined.get(f"{split}{name}") for split in ("test", "val"))
            yield name, [joined[f"train{name}"], *[path for path in tests if path][:1]]
    elif len(chosen) == 2:
        for path in chosen:
            own = split_folders(path)
            inside = [own[split] for split in ("test", "val") if split in own]
            next_to_train = [_same_name(splits[split], path) for split in ("test", "val") if split in splits]
            yield path.name, [own.get("train", path), *_first_folder(*next_to_train, *inside)]
    else:
        seen = [f"{path.name}/ with {len(images_in(path))} images" for path in entries]
        loose = len(entries_of(top)[0])
        seen += [f"{loose} images outside sub-folders"] if loose else []
        raise InputError(f"{top}: found {', '.join(seen[:8]) or 'nothing'}; expected {DOMAIN_LAYOUTS}")


def _same_name(folder: Path, path: Path) -> Path:
    """Return the sub-folder with the name of `path`. The case may differ."""
    names = {inner.name.lower(): inner for inner in entries_of(folder)[1]}
    return names.get(path.name.lower(), folder / path.name)


def _first_folder(*folders: Path) -> list[Path]:
    return [path for path in folders if path.is_dir()][:1]


def _of_files(folders: list[Path], size: int, skip_bad: bool, crop: bool) -> Examples:
    found = (domain_images(folder, skip_bad, size * crop) for folder in folders)
    parts = [np.array([str(path) for path in paths]) for paths in found]
    train, test = _held_out(parts, str(folders[0]))
    return Examples(train, test, functools.partial(_read, size=size, crop=crop))


def domain_images(folder: Path, skip_bad: bool, crop: int = 0) -> list[Path]:
    """Return the readable images of a domain's folder. Images smaller than `crop` pixels are noted.

    Raises:
        InputError: the folder has no images, or one of them is bad and `skip_bad` is not set, or all are bad.
    """
    paths = images_in(folder)
    if not paths:
        raise InputError(f"{folder}: no images here ({' '.join(IMAGE_SUFFIXES)}); expected {DOMAIN_LAYOUTS}")

    def read(path: Path) -> np.ndarray:
        image = read_image(path)
        note_small(min(image.shape[:2]), crop)
        return image

    return checked_images(paths, read, skip_bad)[0]


def _held_out(parts: list[np.ndarray], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the training and the held-out images. If `parts` has only one array, hold out 10 % of it."""
    if len(parts) > 1:
        return parts[0], parts[1]
    last = _tenth(len(parts[0]), source)
    return parts[0][~last], parts[0][last]


def _read(item: tf.Tensor, size: int, crop: bool) -> tf.Tensor:
    """Read an image in a tf.data graph, and centre-crop and resize it, unless `crop` is set. `item` is its path."""
    read = functools.partial(unscaled_image if crop else square_image, size=size, channels=3)
    side = None if crop else size
    return tf.ensure_shape(tf.numpy_function(read, [item], tf.uint8, stateful=False), (side, side, 3))


# %% TensorFlow Datasets


def _tfds_domains_folder(name: str, fetch: bool) -> Path:
    """Export a data set once, to trainA/, trainB/, testA/ and testB/, and return the folder that contains these."""
    builder = tfds_builder(name, fetch)
    splits = [split for split in ("trainA", "trainB", "testA", "testB") if split in builder.info.splits]
    if "image" not in builder.info.features or splits[:2] != ["trainA", "trainB"]:
        raise InputError(
            f"tfds:{name}: expected images in the splits trainA and trainB, as in tfds:cycle_gan/horse2zebra, found "
            f"{', '.join(builder.info.features)} in {', '.join(builder.info.splits)}"
        )
    folder = Path(builder.data_dir) / "unpaired"
    done = folder / "complete"
    if not done.exists():
        for split in splits:
            for number, example in enumerate(builder.as_dataset(split=split).as_numpy_iterator()):
                write_image(example["image"], folder / split / f"{number:06d}.png")
        with replacing(done) as draft:
            draft.touch()
    return folder
