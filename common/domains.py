"""What `--data` understands where two kinds of picture are learnt from, without pairs of one and the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.batches import Batches, Examples, as_they_are, batches, jittered, side_by_side
from common.datasets import images_or_none, npz_entries, sized_images, square_image, tfds_builder
from common.errors import InputError
from common.face_finding import ColourShift
from common.files import replacing
from common.health import sample_diversity
from common.images import checked_images, read_image, save_table, write_image
from common.lazy import keras, tf
from common.scores import pair_scores
from common.shards import open_shards


class Domains(NamedTuple):
    """Two sets of pictures, each with some held out; their numbers may differ."""

    a: Examples
    b: Examples
    names: tuple[str, str] = ("A", "B")
    paired: bool = False  # what is held out shows the same scenes in both, in the same order

    @classmethod
    def of_arrays(
        cls, train: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray], names: tuple[str, str]
    ) -> Domains:
        """Return domains that lie in memory: pictures to train on, and pairs of A and B that are held out."""
        a, b = (Examples(images, test, as_they_are) for images, test in zip(train, truth, strict=True))
        return cls(a, b, names, paired=True)

    def some(self, most: int = 200) -> tuple[np.ndarray, np.ndarray]:
        """Return up to `most` training pictures of each, evenly spaced: uint8 [n, size, size, 3] and [m, ...]."""
        one, other = (domain._replace(test=domain.train).held_out(most)[0] for domain in (self.a, self.b))
        return one, other


DOMAIN_LAYOUTS = (
    "two folders of pictures, directly or under train/ with test/ or val/ beside it: trainA/ and trainB/ (with testA/ "
    "and testB/), A/ and B/, or any two names, of which the first by name is A"
)


def unpaired_images(
    data: str, size: int, sample: Callable[[], Domains], skip_bad: bool = False, fetch: bool = False
) -> Domains:
    """Return pictures of two kinds, uint8 [size, size, 3], of which the centre squares are taken.

    `data` is `sample` (what `sample` returns), `tfds:NAME` (a set with the splits trainA and trainB, as those of
    `tfds:cycle_gan/NAME`), an .npz with `a` and `b` (and `test_a`, `test_b`), a folder in one of DOMAIN_LAYOUTS, or a
    folder of shards, written from such a folder. Pictures of folders and shards are read when they are needed. A domain
    without test pictures has a tenth held out.

    Args:
        data: see above.
        size: pixels a side of what is returned.
        sample: draws the recipe's own domains.
        skip_bad: go on without files that cannot be read, naming them.
        fetch: a `tfds:` set may be downloaded.

    Raises:
        InputError: there is nothing of that kind, a domain is empty or of one picture, both are one folder, or a
            picture cannot be read.
    """
    if data == "sample":
        return sample()
    path = Path(data)
    shards = open_shards(path)
    if shards is not None:
        shards.expect("domains")
        decode = shards.decoding(functools.partial(square_image, size=size, channels=3), size, 3)
        sides = []
        for number, name in enumerate(shards.about["classes"]):
            own = [shards.places[(shards.labels == number) & (shards.parts == part), 0] for part in (0, 1)]
            sides.append(Examples(*_held_out(own if len(own[1]) else own[:1], f"{data}: {name}"), decode))
        return Domains(sides[0], sides[1], tuple(shards.about["classes"]))
    if path.suffix == ".npz":
        found = npz_entries(path, ("a", "b"), ("test_a", "test_b"))
        a, b = (_of_arrays(data, key, found, size) for key in ("a", "b"))
        return Domains(a, b)
    if data.startswith("tfds:"):
        path = _tfds_domains_folder(data.removeprefix("tfds:"), fetch)
    (name_a, places_a), (name_b, places_b) = domain_folders(path)
    a, b = (_of_files(places, size, skip_bad) for places in (places_a, places_b))
    return Domains(a, b, (name_a, name_b))


def unpaired_batches(domains: Domains, batch_size: int, seed: int, size: int, enlarge: float) -> Batches:
    """Return batches of uint8 (pictures of A, as many of B), enlarged, cropped back and mirrored at random.

    An epoch is as long as the larger domain; the other begins anew in it, and each has an order of its own. No batch
    has more pictures than the smaller domain.
    """
    most = min(batch_size, len(domains.a.train), len(domains.b.train))
    streams = [
        batches(domain.train, most, seed + number, jittered(domain, size, enlarge), domain.held_out())
        for number, domain in enumerate((domains.a, domains.b))
    ]
    return side_by_side(*streams)


def _tenth(count: int, source: str) -> np.ndarray:
    """Return which of `count` pictures are held out: bool [count]."""
    if count < 2:
        number = "one picture only" if count else "no pictures"
        raise InputError(
            f"{source}: {number}; a domain needs at least two, one of them to hold out, and some hundreds to learn from"
        )
    return np.arange(count) % 10 == min(9, count - 1)


def _of_arrays(data: str, key: str, found: dict[str, np.ndarray], size: int) -> Examples:
    held_out = f"test_{key}"
    if held_out in found:
        for name in (key, held_out):
            if not len(found[name]):
                raise InputError(
                    f"{data}: {name} is empty; a domain needs at least one picture to learn from and one held out"
                )
        train, test = (sized_images(found[name], size, 3, f"{data}: {name}") for name in (key, held_out))
        return Examples(train, test, as_they_are)
    last = _tenth(len(found[key]), f"{data}: {key}")
    images = sized_images(found[key], size, 3, f"{data}: {key}")
    return Examples(images[~last], images[last], as_they_are)


# %% Folders


def domain_folders(folder: Path) -> list[tuple[str, list[Path]]]:
    """Return for A, then B, its name, its folder and, where there is one, the folder of what is held out."""
    (name_a, places_a), (name_b, places_b) = _domain_folders(folder)
    if places_a[0].resolve() == places_b[0].resolve():
        raise InputError(f"{places_a[0]} and {places_b[0]} are the same folder; each needs pictures of its own kind")
    return [(name_a, places_a), (name_b, places_b)]


def _domain_folders(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder or .npz; expected {DOMAIN_LAYOUTS}")
    joined = folder / "trainA", folder / "trainB"
    top = folder / "train" if (folder / "train").is_dir() else folder
    entries = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    split_names = {"test", "val", *(f"{split}{name}" for split in ("train", "test", "val") for name in "AB")}
    filled = [path for path in entries if images_or_none(_training_part(path)) and path.name not in split_names]
    chosen = [top / "A", top / "B"] if all((top / name).is_dir() for name in "AB") else filled
    if all(path.is_dir() for path in joined):
        for name, path in zip("AB", joined, strict=True):
            yield name, [path, *_first_folder(folder / f"test{name}", folder / f"val{name}")]
    elif len(chosen) == 2:
        for path in chosen:
            beside = [folder / split / path.name for split in ("test", "val")]
            yield path.name, [_training_part(path), *_first_folder(*beside, path / "test", path / "val")]
    else:
        seen = [f"{path.name}/ with {len(images_or_none(_training_part(path)))} pictures" for path in entries]
        loose = len(images_or_none(top))
        seen += [f"{loose} pictures in no sub-folder"] if loose else []
        raise InputError(f"{top}: found {', '.join(seen[:8]) or 'nothing'}; expected {DOMAIN_LAYOUTS}")


def _training_part(folder: Path) -> Path:
    return folder / "train" if (folder / "train").is_dir() else folder


def _first_folder(*folders: Path) -> list[Path]:
    return [path for path in folders if path.is_dir()][:1]


def _of_files(places: list[Path], size: int, skip_bad: bool) -> Examples:
    parts = [np.array([str(path) for path in domain_pictures(folder, skip_bad)]) for folder in places]
    train, test = _held_out(parts, str(places[0]))
    return Examples(train, test, functools.partial(_read_square, size=size))


def domain_pictures(folder: Path, skip_bad: bool) -> list[Path]:
    """Return the pictures of a domain's folder that can be read. Raises InputError as `checked_images`."""
    paths = images_or_none(folder)
    if not paths:
        raise InputError(f"{folder}: no pictures here (png, jpg, bmp, gif, webp, tif); expected {DOMAIN_LAYOUTS}")
    return checked_images(paths, read_image, skip_bad)[0]


def _held_out(parts: list[np.ndarray], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what to train on and what is held out, a tenth where there is one part only."""
    if len(parts) > 1:
        return parts[0], parts[1]
    last = _tenth(len(parts[0]), source)
    return parts[0][~last], parts[0][last]


def _read_square(item: tf.Tensor, size: int) -> tf.Tensor:
    """Read the centre square of the picture at a path; works in a tf.data graph."""
    read = functools.partial(square_image, size=size, channels=3)
    return tf.ensure_shape(tf.numpy_function(read, [item], tf.uint8, stateful=False), (size, size, 3))


# %% TensorFlow Datasets


def _tfds_domains_folder(name: str, fetch: bool) -> Path:
    """Write a set once as trainA/, trainB/, testA/ and testB/ under its own folder, and return that folder."""
    builder = tfds_builder(name, fetch)
    splits = [split for split in ("trainA", "trainB", "testA", "testB") if split in builder.info.splits]
    if "image" not in builder.info.features or splits[:2] != ["trainA", "trainB"]:
        raise InputError(
            f"tfds:{name}: expected pictures in the splits trainA and trainB, as in tfds:cycle_gan/horse2zebra, found "
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


# %% Earlier translations


class ImagePool(NamedTuple):
    """Images of earlier steps, for a discriminator to learn from: variables, which a run saves and restores.

    Zhu et al. 2017 (arXiv:1703.10593, section 4) after Shrivastava et al. 2017 (arXiv:1612.07828, section 2.3).
    """

    images: tf.Variable  # float32 [capacity, size, size, 3]
    count: tf.Variable  # how many of them are there yet

    @classmethod
    def empty(cls, capacity: int, size: int) -> ImagePool:
        """Return a pool that will hold `capacity` images of `size` pixels a side; 0 switches it off."""
        own = {
            "synchronization": tf.VariableSynchronization.ON_READ
        }  # each replica has its own, the first one's is saved
        own |= {"aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA, "trainable": False}
        return cls(tf.Variable(tf.zeros((capacity, size, size, 3)), **own), tf.Variable(0, **own))

    def exchange(self, images: tf.Tensor, seeds: keras.random.SeedGenerator) -> tf.Tensor:
        """Return for each image itself, kept too while there is room; then, with chance 1/2, one kept earlier.

        The image takes the place of the one that is returned for it.
        """
        capacity, given = self.images.shape[0], []
        if not capacity:
            return images
        kept, count = tf.identity(self.images), tf.identity(self.count)
        for image in tf.unstack(images):
            full = count >= capacity
            place = tf.where(full, keras.random.randint((), 0, capacity, seed=seeds), count)
            swapped = full & (keras.random.uniform((), seed=seeds) < 0.5)
            earlier = kept[place]
            given.append(tf.where(swapped, earlier, image))
            kept = tf.tensor_scatter_nd_update(kept, [[place]], tf.where(full & ~swapped, earlier, image)[None])
            count = tf.minimum(count + 1, capacity)
        self.images.assign(kept)
        self.count.assign(count)
        return tf.stack(given)


# %% Pictures and scores

Translation = Callable[[np.ndarray], np.ndarray]
"""uint8 [n, size, size, 3] -> the same of the other kind."""


def epoch_translations(
    held_out: tuple[np.ndarray, ...], a2b: Translation, b2a: Translation, output_dir: Path | None, epoch: int
) -> dict[str, float]:
    """Translate up to eight held-out pictures of each kind, and back; return how varied translations are.

    Args:
        held_out: pictures of A and of B, uint8 [n, size, size, 3] and [m, size, size, 3]; may be empty.
        a2b: translates pictures of A.
        b2a: translates pictures of B.
        output_dir: the run, which gets a picture in samples/; None writes none.
        epoch: its number, for the picture's name.

    Returns:
        `sample_diversity` of the translations beside real ones of their kind; nothing where one has no fellow.
    """
    if not held_out:
        return {}
    a, b = (images[np.linspace(0, len(images) - 1, min(8, len(images))).astype(int)] for images in held_out)
    to_b, to_a = a2b(a), b2a(b)
    if output_dir is not None:
        rows = {"A": a, "as B": to_b, "back to A": b2a(to_b), "B": b, "as A": to_a, "back to B": a2b(to_a)}
        _save_columns(rows, output_dir / "samples" / f"epoch-{epoch:04d}.png")
    if min(len(a), len(b)) < 2:
        return {}
    return {"diversity_a2b": sample_diversity(to_b, b), "diversity_b2a": sample_diversity(to_a, a)}


def judge_translations(domains: Domains, a2b: Translation, b2a: Translation, picture: Path) -> dict[str, float]:
    """Score translations of what is held out, and write a picture of some; differences are on the scale [0, 1].

    Where the truth is known, `a2b_l1`, `_psnr` and `_ssim` compare with it; `a2b_unchanged_l1` and `_ssim` do the same
    for the inputs, `a2b_colours_...` for inputs whose mean and deviation of colours became those of the other kind, and
    `a2b_mean_picture_...` for one picture that answers every input: the mean of training pictures of the other kind.
    `a_cycle_l1` is how far the way there and back leads from where it began.
    """
    (held_a,), (held_b,) = domains.a.held_out(), domains.b.held_out()
    some_a, some_b = domains.some()
    scores: dict[str, float] = {}
    cycles: dict[str, float] = {}
    rows: dict[str, np.ndarray] = {}
    for way, there, back, images, truth, (some, others), (name, other) in (
        ("a2b", a2b, b2a, held_a, held_b, (some_a, some_b), domains.names),
        ("b2a", b2a, a2b, held_b, held_a, (some_b, some_a), domains.names[::-1]),
    ):
        translated = there(images)
        returned = back(translated)
        cycles[f"{way[0]}_cycle_l1"] = _difference(images, returned)
        if domains.paired:  # one's truth is what the other's translation starts from
            rows |= {f"true {name}" if rows else name: images, f"{name} as {other}": translated}
            scores |= {f"{way}_{measure}": value for measure, value in pair_scores(truth, translated).items()}
            mean = np.rint(others.mean(axis=0)).astype(np.uint8)
            guesses = {"unchanged": images, "colours": ColourShift.between(some, others).there(images)}
            for guess, answers in (guesses | {"mean_picture": np.stack([mean] * len(truth))}).items():
                found = pair_scores(truth, answers)
                scores |= {f"{way}_{guess}_{measure}": found[measure] for measure in ("l1", "ssim")}
        else:
            rows |= {name: images, f"{name} as {other}": translated, f"{name} again": returned}
    _save_columns(rows, picture)
    return scores | cycles


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one / 255 - other / 255).mean())


def _save_columns(rows: dict[str, np.ndarray], path: Path) -> None:
    """Write up to eight of each row, evenly spaced, as many of each."""
    count = min(8, *map(len, rows.values()))
    chosen = {name: images[np.linspace(0, len(images) - 1, count).astype(int)] for name, images in rows.items()}
    save_table(chosen, path, max(1, 128 // next(iter(rows.values())).shape[1]))
