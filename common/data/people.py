"""Crop the faces of two people from photos, batch them for training, and blend new faces into photos."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.arrays import as_uint8, npz_entries, sized_images
from common.data.batches import Batches, batches
from common.data.class_folders import split_of
from common.images.face_finding import FaceBox, blend_face, cut_face, find_faces
from common.images.found import entries_of, images_in, is_hidden, reports_files
from common.images.marks import XMP_PACKET, check_marked_path, with_caption, write_marked
from common.images.reading import checked_images, read_image, readable_images
from common.images.videos import convert_video, is_video
from common.images.writing import check_image_size, png_targets, save_image
from common.metrics.latents import NormalMap
from common.metrics.scores import pair_scores
from common.samples.faces import synthetic_faces
from common.system.console import say, tracked
from common.system.files import InputError, printable, read_npz, replacing


def colours_of(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation of each channel over all images [..., 3]: float64 [3] each."""
    pixels = images.reshape(-1, images.shape[-1])
    return pixels.mean(0), pixels.std(0)


class ColourShift(NamedTuple):
    """Map the colours of one set of images to those of another, with one linear function per channel.

    The functions match the mean and standard deviation of each channel. Reinhard et al. 2001 (doi:10.1109/38.946629)
    do this in a different colour space.
    """

    factor: np.ndarray  # float64 [3]
    offset: np.ndarray  # float64 [3], for values from 0 to 255

    @classmethod
    def between(cls, source: np.ndarray, target: np.ndarray, deviation: bool = True) -> ColourShift:
        """Fit the map from `source` to `target`, images [..., 3]. Without `deviation`, match only the means."""
        (mean, spread), (new_mean, new_spread) = colours_of(source), colours_of(target)
        factor = new_spread / np.maximum(spread, 1.0) if deviation else np.ones(3)
        return cls(factor, new_mean - factor * mean)

    def there(self, images: np.ndarray) -> np.ndarray:
        """Map images [..., 3] from source to target. The result is uint8, rounded and clipped to 0..255."""
        return np.clip(np.round(images * self.factor + self.offset), 0, 255).astype(np.uint8)

    def back(self, images: np.ndarray) -> np.ndarray:
        """Map images [..., 3] from target to source: the inverse of `there`, except for clipped values."""
        return np.clip(np.round((images - self.offset) / np.maximum(self.factor, 0.05)), 0, 255).astype(np.uint8)


class PersonShift(NamedTuple):
    """Maps from person A to person B: one for the colours of faces, one for the latents of an encoder."""

    colours: ColourShift
    latents: NormalMap

    def write(self, path: Path) -> None:
        """Write the maps to an .npz file that `read` can load."""
        with replacing(path) as draft:
            np.savez(draft, **self.colours._asdict(), **self.latents._asdict())

    @classmethod
    def read(cls, path: Path, latents: int | str = "latents") -> PersonShift:
        """Read a file written by `write`.

        Args:
            path: the file.
            latents: the expected number of latent dimensions; by default, any number.

        Raises:
            InputError: the file does not exist, is damaged, or has a different number of latent dimensions.
        """
        shapes: dict[str, tuple[int | str, ...]] = {name: (3,) for name in ColourShift._fields}
        shapes |= {"matrix": (latents, latents), "source": (latents,), "target": (latents,)}
        arrays = read_npz(path, shapes)
        colours, latent_map = ([arrays[name] for name in kind._fields] for kind in (ColourShift, NormalMap))
        if np.linalg.slogdet(arrays["matrix"])[0] <= 0:  # `back` needs the inverse
            raise InputError(f"{path}: damaged (its matrix has no inverse); train again, or restore the file")
        return cls(ColourShift(*colours), NormalMap(*latent_map))


def convert_faces(
    source: Path,
    destination: Path,
    convert: Callable[[np.ndarray], np.ndarray],
    size: int,
    margin: float,
    visible_mark: bool = True,
    skip_bad: bool = False,
) -> Path:
    """Replace the largest face in a photo, every photo of a folder, or a video. The output is marked as synthetic.

    Args:
        source: a photo, a folder of photos, or a video. In a folder, photos without a face are skipped and listed. In a
            video, frames without a face stay as they are.
        destination: the file to write, or a folder for PNG files with the same names as the photos. For a video: an MP4
            or GIF file, or a folder.
        convert: a face, uint8 [1, size, size, 3] -> the new face, same shape.
        size: height and width of the input of `convert` in pixels.
        margin: margin around a face box, as a fraction of the box side.
        visible_mark: also write "synthetic face" in a corner of each image.
        skip_bad: in a folder, skip files that cannot be read, and list them.

    Returns:
        `destination`.

    Raises:
        InputError: `source` is missing, cannot be read or shows no face, or `destination` cannot be written.
    """

    def with_new_face(photo: np.ndarray) -> tuple[np.ndarray, bool]:
        boxes = find_faces(photo)
        if boxes:
            (face,) = convert(cut_face(photo, boxes[0].enlarged(margin), size)[None])
            photo = blend_face(photo, face, boxes[0], margin)
        return with_caption(photo, "synthetic face") if visible_mark else photo, bool(boxes)

    def converted(path: Path, target: Path) -> bool:
        photo = read_image(path)
        check_image_size(target, *photo.shape[:2])
        photo, found = with_new_face(photo)
        if found:
            write_marked(photo, target, "Synthetic face, made by a neural network", "Keras image cookbook")
        return found

    if is_video(source, destination):
        return _convert_film(source, destination, with_new_face)
    if not source.is_dir():
        target = destination / f"{source.stem}.png" if destination.is_dir() else destination
        check_marked_path(target)
        if target.resolve() == source.resolve():
            raise InputError(f"{target}: this is the source; give a different output file")
        if not converted(source, target):
            raise InputError(f"{source}: no face was found; the photo must show an upright, frontal face")
        return destination
    if destination.is_file() or destination.resolve() == source.resolve():
        raise InputError(f"{destination}: is a file, or is the source; give a different folder for the output")
    paths = readable_images(source, read_image, skip_bad)
    targets = png_targets(paths, destination)
    pairs = list(zip(paths, targets, strict=True))
    without = [
        path for path, target in tracked(pairs, f"writing {destination}", "photo") if not converted(path, target)
    ]
    if len(without) == len(paths):
        raise InputError(f"{source}: no face was found in {len(paths)} photos; they must show upright, frontal faces")
    report_faceless(without, len(paths))
    return destination


def _convert_film(
    source: Path, destination: Path, with_new_face: Callable[[np.ndarray], tuple[np.ndarray, bool]]
) -> Path:
    """Replace the largest face in every frame of a video; see `convert_faces`.

    `with_new_face` returns a frame with its new face, and whether a face was found.
    """
    faceless: list[int] = []  # one entry per frame without a face

    def converted_frame(frame: np.ndarray) -> np.ndarray:
        frame, found = with_new_face(frame)
        if not found:
            faceless.append(1)
        return frame

    def check(converted: int, frames: int) -> None:
        if len(faceless) == frames:
            raise InputError(
                f"{source}: no face was found in {frames} frames; the video must show an upright, frontal face"
            )
        if faceless:
            say(f"{source}: no face was found in {len(faceless)} of {converted} frames, which stay as they are")

    return convert_video(source, destination, converted_frame, check, XMP_PACKET)


class TwoPeople(NamedTuple):
    """Faces of two people, uint8 [n, size, size, 3] each. The two sets may differ in size."""

    a: np.ndarray
    b: np.ndarray
    held_out_a: np.ndarray
    held_out_b: np.ndarray
    paired: bool = False  # held-out faces of A and B with the same index have the same pose and expression
    names: tuple[str, str] = ("A", "B")

    def colours(self, deviation: bool) -> ColourShift:
        """Fit the colour map from A's training faces to B's. Without `deviation`, match only the means."""
        return ColourShift.between(self.a, self.b, deviation)

    def batches(self, batch_size: int, seed: int, colours: ColourShift) -> Batches:
        """Return shuffled, unpaired batches: faces of A with `colours` applied, and faces of B.

        An epoch is one pass over the larger set of faces. The batch size is limited to the size of the smaller set.
        """
        size = min(batch_size, len(self.a), len(self.b))
        sides = (colours.there(self.a), colours.there(self.held_out_a)), (self.b, self.held_out_b)
        return Batches.zip(*(batches(faces, size, seed, held_out=(held_out,)) for faces, held_out in sides))

    def shift(self, colours: ColourShift, encode: Callable[[np.ndarray], np.ndarray]) -> PersonShift:
        """Fit the maps from A to B. `encode` maps faces to latents."""
        return PersonShift(colours, NormalMap.between(encode(colours.there(self.a)), encode(self.b)))

    def evaluate(
        self, swap: Callable[[np.ndarray, str], np.ndarray], colours: ColourShift, path: Path
    ) -> dict[str, float]:
        """Swap the held-out faces, write a grid of up to eight swaps per direction, and return scores.

        Args:
            swap: (faces uint8 [n, size, size, 3], "a2b" or "b2a") -> faces of the other person.
            colours: the colour map from A to B.
            path: the image file to write.

        Returns:
            L1 error in [0, 1] and SSIM per direction, for three cases: the swaps, the unchanged faces ("copied"), and
            the faces mapped to the other person's colours ("recoloured"). Empty if the held-out faces are not paired.
        """
        rows: dict[str, np.ndarray] = {}
        scores: dict[str, float] = {}
        held_out = {"a": self.held_out_a, "b": self.held_out_b}
        count = min(8, *(len(faces) // (2 if self.paired else 1) for faces in held_out.values()))
        for number, (one, other) in enumerate((("a", "b"), ("b", "a"))):
            faces, truth, way = held_out[one], held_out[other], f"{one}2{other}"
            shown = slice(number * count, (number + 1) * count) if self.paired else slice(count)
            rows |= {one.upper(): faces[shown], f"{one.upper()} as {other.upper()}": swap(faces[shown], way)}
            if self.paired:
                rows[f"true {other.upper()}"] = truth[shown]
                recoloured = colours.there(faces) if way == "a2b" else colours.back(faces)
                ways = {"": swap(faces, way), "_copied": faces, "_recoloured": recoloured}
                for name, images in ways.items():
                    compared = pair_scores(truth, images)
                    scores |= {f"{way}{name}_{score}": compared[score] for score in ("l1", "ssim")}
        save_image(rows, path, zoom=max(1, 128 // faces.shape[1]))
        return scores


PEOPLE_LAYOUT = (
    "two folders of photos, one per person (any two names; the first in alphabetical order is A), "
    "or an .npz file with cropped faces in the arrays a and b, uint8 [n, h, w, 3]"
)


@reports_files
def two_people(
    data: str,
    size: int,
    margin: float,
    sample: str | Callable[[], TwoPeople],
    skip_bad: bool = False,
    seed: int = 0,
) -> TwoPeople:
    """Return the faces of two people. 10 % of the faces of each person are held out.

    `data` is one of:

    - `sample`: the built-in data set.
    - a folder with one sub-folder of photos per person. The largest face in each photo is cropped. Photos without a
      face are skipped; their number and up to five of their names are printed to standard error.
    - an .npz file with the arrays `a` and `b`: cropped faces.

    Args:
        data: see above.
        size: height and width of the returned faces in pixels.
        margin: margin around a face box, as a fraction of the box side; see `FaceBox.enlarged`.
        sample: the built-in data set, as its name "people" or a function that returns `TwoPeople`.
        skip_bad: skip files that cannot be read, and list them.
        seed: random seed of the built-in data set.

    Raises:
        InputError: `data` is none of these, cannot be used, or has fewer than two faces of A or of B.
    """
    if data == "sample":
        return sample() if callable(sample) else synthetic_people(size, margin, seed)
    path = Path(data)
    names = ("A", "B")
    if path.suffix == ".npz":
        stored = npz_entries(path, ("a", "b"))
        arrays = zip(stored, as_uint8(data, *stored.values()), strict=True)
        faces = [sized_images(images, size, 3, f"{data}: {key}") for key, images in arrays]
    else:
        folders = _people_folders(path)
        names = (folders[0].name, folders[1].name)
        photos = [checked_images(images_in(folder), read_image, skip_bad)[0] for folder in folders]
        faces = [_faces_of(folder, paths, size, margin) for folder, paths in zip(folders, photos, strict=True)]
    for name, images in zip(names, faces, strict=True):
        if len(images) < 2:
            raise InputError(
                f"{data}: {name} has {len(images)} face(s); a person needs at least two (one is held out), and "
                "hundreds for good results"
            )
        print(f"{len(images)} faces of {printable(name)}", file=sys.stderr)
    held_out = [np.arange(len(images)) % 10 == min(9, len(images) - 1) for images in faces]
    train, rest = (
        [images[held == wanted] for images, held in zip(faces, held_out, strict=True)] for wanted in (False, True)
    )
    return TwoPeople(train[0], train[1], rest[0], rest[1], names=names)


def _people_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder or .npz; expected {PEOPLE_LAYOUT}")
    people = [path for path in entries_of(folder)[1] if images_in(path)]
    if people and all(split_of(path.name) for path in people):
        names = " and ".join(f"{path.name}/" for path in people[:3])
        raise InputError(f"{folder}: {names} are parts of a data set, not people; give one of them: {PEOPLE_LAYOUT}")
    if len(people) != 2:
        entries = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
        inside = ", ".join(path.name + "/" * path.is_dir() for path in entries[:8]) or "nothing"
        raise InputError(f"{folder}: {len(people)} sub-folders with photos (found {inside}); expected {PEOPLE_LAYOUT}")
    return people


def _faces_of(folder: Path, paths: Iterable[Path], size: int, margin: float) -> np.ndarray:
    """Return the largest face in each photo, uint8 [n, size, size, 3], and list the photos without a face."""
    paths = list(paths)
    faces, without = [], []
    for path in tracked(paths, f"finding faces in {printable(folder.name)}", "photo"):
        image = read_image(path)
        boxes = find_faces(image)
        if boxes:
            faces.append(cut_face(image, boxes[0].enlarged(margin), size))
        else:
            without.append(path)
    if not faces:
        raise InputError(
            f"{folder}: no face was found in {len(paths)} photos; they must show upright, frontal faces with some "
            "background (or provide cropped faces as an .npz with the arrays a and b)"
        )
    report_faceless(without, len(paths))
    return np.stack(faces)


def report_faceless(without: list[Path], count: int) -> None:
    """Print the number of photos without a face, and up to five of their names, to standard error."""
    for path in without[:5]:
        print(f"{printable(path)}: no face was found", file=sys.stderr)
    if without:
        print(f"skipped {len(without)} of {count} photos, because no face was found", file=sys.stderr)


POSES = tuple(0.3 + 0.4 * (7 * step % 20) / 19 for step in range(20))  # `looking_left`: at most 12 degrees aside


def synthetic_people(size: int, margin: float, seed: int) -> TwoPeople:
    """Return two synthetic people: unpaired training faces, and 200 held-out pairs with equal pose and expression.

    The people are in front of a bright background, and turn their heads by at most 12 degrees. All faces are cropped
    with the same box and margin.
    """
    side = round(size / 0.58 / (1 + 2 * margin))  # a face box is at least 0.58 times as wide as its image
    box = FaceBox(round(0.52 * side - size / 2), (side - size) // 2, size)

    def faces(count: int, moments: int, character: int) -> np.ndarray:
        by_pose = [
            synthetic_faces(
                count // len(POSES),
                len(POSES) * moments + number,
                side,
                character,
                looking_left=pose,
                bright_background=1.0,
            )[0]
            for number, pose in enumerate(POSES)
        ]
        return np.stack([cut_face(face, box, size) for moment in zip(*by_pose, strict=True) for face in moment])

    a, b, moments = 55, 8, 3 * seed
    held_out = faces(200, moments + 2, a), faces(200, moments + 2, b)
    return TwoPeople(faces(480, moments, a), faces(360, moments + 1, b), *held_out, paired=True)
