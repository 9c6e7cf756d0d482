"""Faces in photos: finding them, cutting them out, putting them back, and the faces of two people."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.datasets import images_or_none, npz_entries, sized_images
from common.errors import InputError, printable
from common.faces import drawn_faces
from common.files import read_npz, replacing
from common.images import (
    check_image_size,
    checked_images,
    find_images,
    png_targets,
    read_image,
    resize_image,
    save_table,
)
from common.latents import NormalMap
from common.marks import check_marked_path, with_caption, write_marked
from common.scores import pair_scores

# %% Finding

FACE_SEARCH_SIDE = 400  # pixels to which the longer side of a photo is brought for the search, if it is longer
FACE_SECOND_SIDE = 96  # pixels a side of what is searched again, a face with a margin
FACE_STEPS = (1.2, 1.13)  # factors from one size of the window to the next, one for each of two searches
SMALLEST_FACE = 24  # pixels a side, there; what the cascade was made for


class FaceBox(NamedTuple):
    """A square, in pixels of the photo; it may reach beyond the photo's edges."""

    top: int
    left: int
    side: int

    def enlarged(self, margin: float) -> FaceBox:
        """Return the box with `margin` times its side added on each of the four sides."""
        extra = round(self.side * margin)
        return FaceBox(self.top - extra, self.left - extra, self.side + 2 * extra)

    def overlap(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return where the box lies in a photo of that size, and the part of the box that this is, as slices."""
        spans = [
            (slice(max(start, 0), max(min(start + self.side, limit), 0)), start)
            for start, limit in ((self.top, height), (self.left, width))
        ]
        (rows, top), (columns, left) = spans
        part = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        return (rows, columns), part


@functools.cache
def face_cascade() -> Any:
    """Return scikit-image's detector of frontal faces, which comes with that library."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())


def find_faces(image: np.ndarray) -> list[FaceBox]:
    """Find upright faces that look into the camera, the largest first.

    A cascade of local binary patterns (Liao et al. 2007, doi:10.1007/978-3-540-74549-5_87), trained by others and
    bundled with scikit-image, searches the image and its mirror image in steps of two sizes; boxes that overlap are
    averaged. Each is then looked for again, cut out and brought to one size: what is not found again is no face, and
    boxes do not depend on the photo's size. A box goes from the brows to the chin. Profiles and faces behind dark
    glasses are missed, and now and then a face is found where there is none.

    Args:
        image: uint8 [height, width, 1 or 3]. A side of more than 400 pixels is searched at 400, for faces of at least
            24 pixels and a sixteenth of the longer side.

    Returns:
        A box for each face, in pixels of `image`; none where there is no face.
    """
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / FACE_SEARCH_SIDE)
    rows, columns = round(height / scale), round(width / scale)
    if min(rows, columns) < SMALLEST_FACE:
        return []
    boxes = []
    for top, left, side in _looks(resize_image(image, rows, columns), max(SMALLEST_FACE, max(rows, columns) // 16)):
        around = FaceBox(round(top * scale), round(left * scale), round(side * scale)).enlarged(0.4)
        again = _looks(cut_face(image, around, FACE_SECOND_SIDE), FACE_SECOND_SIDE // 3)
        if again:
            top, left, side = (value * around.side / FACE_SECOND_SIDE for value in again[0])
            boxes.append(FaceBox(round(around.top + top), round(around.left + left), round(side)))
    return sorted(boxes, key=lambda box: (-box.side, box))


def _looks(image: np.ndarray, smallest: int) -> list[tuple[float, float, float]]:
    """Return top, left and side of the faces of `smallest` pixels or more, the largest first."""
    grey = (image @ np.array([0.299, 0.587, 0.114]) if image.shape[2] == 3 else image[..., 0]) / 255
    looks = []
    for mirrored in (False, True):
        for step in FACE_STEPS:
            found = face_cascade().detect_multi_scale(
                img=np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey,
                scale_factor=step,
                step_ratio=1,
                min_size=(smallest, smallest),
                max_size=grey.shape,
                min_neighbor_number=3,
            )
            lefts = [grey.shape[1] - box["c"] - box["width"] if mirrored else box["c"] for box in found]
            looks += [(box["r"], left, box["width"]) for box, left in zip(found, lefts, strict=True)]
    return _merged(np.array(looks, float).reshape(-1, 3))


def _merged(looks: np.ndarray) -> list[tuple[float, float, float]]:
    """Average those of top, left and side [n, 3] that overlap by half of the larger; drop what was seen only once."""
    boxes = []
    while len(looks):
        largest = looks[looks[:, 2].argmax()]
        ends = np.minimum(looks[:, :2] + looks[:, 2:], largest[:2] + largest[2])
        shared = np.clip(ends - np.maximum(looks[:, :2], largest[:2]), 0, None).prod(1)
        same = shared >= 0.5 * largest[2] ** 2
        same[looks[:, 2].argmax()] = True
        if same.sum() > 1:
            boxes.append(tuple(looks[same].mean(0).tolist()))
        looks = looks[~same]
    return sorted(boxes, key=lambda box: -box[2])


def cut_face(image: np.ndarray, box: FaceBox, size: int) -> np.ndarray:
    """Cut a box out of uint8 [h, w, c], the outermost pixels repeated beyond the edges: [size, size, c]."""
    rows = np.arange(box.top, box.top + box.side).clip(0, image.shape[0] - 1)
    columns = np.arange(box.left, box.left + box.side).clip(0, image.shape[1] - 1)
    return resize_image(image[rows[:, None], columns], size, size)


# %% Colours


def colours_of(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel, of images [..., 3] in all: float64 [3] each."""
    pixels = images.reshape(-1, images.shape[-1])
    return pixels.mean(0), pixels.std(0)


class ColourShift(NamedTuple):
    """A linear change of each channel by itself that takes one set's colours to another's.

    By mean and deviation, as Reinhard et al. 2001 (doi:10.1109/38.946629) do it in another space of colours.
    """

    factor: np.ndarray  # float64 [3]
    offset: np.ndarray  # float64 [3], for values 0..255

    @classmethod
    def between(cls, source: np.ndarray, target: np.ndarray, deviation: bool = True) -> ColourShift:
        """Return the shift from the colours of images [..., 3] to those of others, or between the means alone."""
        (mean, spread), (new_mean, new_spread) = colours_of(source), colours_of(target)
        factor = new_spread / np.maximum(spread, 1.0) if deviation else np.ones(3)
        return cls(factor, new_mean - factor * mean)

    def there(self, images: np.ndarray) -> np.ndarray:
        """Shift images [..., 3]: uint8, rounded, and clipped to 0..255."""
        return np.clip(np.round(images * self.factor + self.offset), 0, 255).astype(np.uint8)

    def back(self, images: np.ndarray) -> np.ndarray:
        """Undo `there`, but for what it clipped."""
        return np.clip(np.round((images - self.offset) / np.maximum(self.factor, 0.05)), 0, 255).astype(np.uint8)


class PersonShift(NamedTuple):
    """The way from person A to person B, in the colours of faces and in the latents of an encoder."""

    colours: ColourShift
    latents: NormalMap

    def write(self, path: Path) -> None:
        """Write it as an .npz, for `read`."""
        with replacing(path) as draft:
            np.savez(draft, **self.colours._asdict(), **self.latents._asdict())

    @classmethod
    def read(cls, path: Path, latents: int | str = "latents") -> PersonShift:
        """Return what `write` has written, for so many latents; InputError where there is none, or a bad one."""
        shapes: dict[str, tuple[int | str, ...]] = {name: (3,) for name in ColourShift._fields}
        shapes |= {"matrix": (latents, latents), "source": (latents,), "target": (latents,)}
        arrays = read_npz(path, shapes)
        colours, moved = ([arrays[name] for name in kind._fields] for kind in (ColourShift, NormalMap))
        if np.linalg.slogdet(arrays["matrix"])[0] <= 0:  # `back` would divide by 0
            raise InputError(f"{path}: cannot be read (its matrix has no inverse); train again, or restore the file")
        return cls(ColourShift(*colours), NormalMap(*moved))


# %% Putting back

FACE_ELLIPSE = (1.2, 1.0)  # half height and half width of what is replaced, in halves of the box's side
FACE_FEATHER = 0.35  # share of the ellipse's radius over which the new face fades into the photo


def face_mask(side: int, margin: float) -> np.ndarray:
    """Return how much of each pixel is replaced, 0..1, in a box of `side` pixels with its margin: [side, side, 1]."""
    across = np.linspace(-1, 1, side) * (1 + 2 * margin)
    radius = np.hypot(across[:, None] / FACE_ELLIPSE[0], across / FACE_ELLIPSE[1])
    share = np.clip((1 - radius) / FACE_FEATHER, 0, 1)
    return (share**2 * (3 - 2 * share))[..., None]


def blend_face(photo: np.ndarray, face: np.ndarray, box: FaceBox, margin: float) -> np.ndarray:
    """Put a face into a photo, within a soft ellipse, its colours moved by the difference of the medians there.

    Of a face the median is skin: glasses, teeth and hair, which one of the two may lack, have no say in it.

    Args:
        photo: uint8 [height, width, 3].
        face: uint8 [size, size, 3]; fills the box with its margin, as `cut_face` cut it.
        box: as `find_faces` gave it.
        margin: as the face was cut.

    Returns:
        A new photo; outside the ellipse each pixel is as it was.
    """
    wide = box.enlarged(margin)
    place, part = wide.overlap(*photo.shape[:2])
    mask = face_mask(wide.side, margin)[part]
    old, new = photo[place], resize_image(face, wide.side, wide.side)[part]
    if (skin := mask[..., 0] > 0.5).any():
        new = np.clip(new + np.median(old[skin], axis=0) - np.median(new[skin], axis=0), 0, 255)
    blended = photo.copy()
    blended[place] = np.round(old + (new - old.astype(np.float64)) * mask).astype(np.uint8)
    return blended


def convert_faces(
    source: Path,
    destination: Path,
    convert: Callable[[np.ndarray], np.ndarray],
    size: int,
    margin: float,
    visible_mark: bool = True,
    skip_bad: bool = False,
) -> Path:
    """Replace the largest face of a photo, or of all photos of a folder; what is written says that it is synthetic.

    Args:
        source: a photo, or a folder of photos, of which those without a face are left out and named.
        destination: the file to write, or a folder for PNG files of the same names.
        convert: faces, uint8 [1, size, size, 3] -> the same.
        size: pixels a side that `convert` takes.
        margin: what it wants to see around the box of a face, as a share of its side.
        visible_mark: write "synthetic face" in a corner of each picture too.
        skip_bad: go on without files of a folder that cannot be read, naming them.

    Returns:
        `destination`.

    Raises:
        InputError: `source` is missing or cannot be read, there is no face in it, or `destination` will not do.
    """

    def converted(path: Path, target: Path) -> bool:
        photo = read_image(path)
        check_image_size(target, *photo.shape[:2])
        boxes = find_faces(photo)
        if not boxes:
            return False
        (face,) = convert(cut_face(photo, boxes[0].enlarged(margin), size)[None])
        photo = blend_face(photo, face, boxes[0], margin)
        photo = with_caption(photo, "synthetic face") if visible_mark else photo
        write_marked(photo, target, "Synthetic face, made by a neural network", "Keras image cookbook")
        return True

    if not source.is_dir():
        target = destination / f"{source.stem}.png" if destination.is_dir() else destination
        check_marked_path(target)
        if target.resolve() == source.resolve():
            raise InputError(f"{target}: the photo that is read; give another name to write to")
        if not converted(source, target):
            raise InputError(f"{source}: no face was found; it must be seen from the front, upright")
        return destination
    if destination.is_file() or destination.resolve() == source.resolve():
        raise InputError(f"{destination}: a file, or the folder that is read; give another folder to write to")
    paths = checked_images(find_images(source), read_image, skip_bad, smallest=1)[0]
    targets = png_targets(paths, destination)
    without = [path for path, target in zip(paths, targets, strict=True) if not converted(path, target)]
    if len(without) == len(paths):
        raise InputError(f"{source}: no face was found in {len(paths)} photos; they must show one from the front")
    report_faceless(without, len(paths))
    return destination


# %% Two people


class TwoPeople(NamedTuple):
    """Faces of two people, uint8 [n, size, size, 3] each, as many of each as there are."""

    a: np.ndarray
    b: np.ndarray
    held_out_a: np.ndarray
    held_out_b: np.ndarray
    paired: bool = False  # the held-out faces of both show the same moments, one by one
    names: tuple[str, str] = ("A", "B")

    def colours(self, deviation: bool) -> ColourShift:
        """Return the shift from the colours of A's training faces to those of B's, or from the means alone."""
        return ColourShift.between(self.a, self.b, deviation)


PEOPLE_LAYOUT = (
    "two folders of photos, one for each person (any two names; A is the first by name), "
    "or an .npz with the arrays a and b, uint8 [n, h, w, 3], of faces that are cut out already"
)


def two_people(
    data: str, size: int, margin: float, sample: Callable[[], TwoPeople], skip_bad: bool = False
) -> TwoPeople:
    """Return the faces of two people; every tenth is held out.

    `data` is `sample` (what `sample` returns), a folder with a sub-folder of photos for each person, in which the
    largest face of each photo is taken, or an .npz with `a` and `b`, ready faces. Photos without a face are left
    out: the first five are named on standard error, and all are counted.

    Args:
        data: see above.
        size: pixels a side of the faces that are returned.
        margin: what is taken around the box of a face, as a share of its side; see `FaceBox.enlarged`.
        sample: draws the recipe's own people.
        skip_bad: go on without files that cannot be read, naming them.

    Raises:
        InputError: there is nothing of that kind, it cannot be used, or there are fewer than two faces of a person.
    """
    if data == "sample":
        return sample()
    path = Path(data)
    names = ("A", "B")
    if path.suffix == ".npz":
        faces = [
            sized_images(images, size, 3, f"{data}: {key}") for key, images in npz_entries(path, ("a", "b")).items()
        ]
    else:
        folders = _people_folders(path)
        names = (folders[0].name, folders[1].name)
        photos = [checked_images(images_or_none(folder), read_image, skip_bad)[0] for folder in folders]
        faces = [_faces_of(folder, paths, size, margin) for folder, paths in zip(folders, photos, strict=True)]
    for name, images in zip(names, faces, strict=True):
        if len(images) < 2:
            raise InputError(
                f"{data}: {name} has {len(images)} face(s); at least two are needed, one to be held out, "
                "and some hundreds for a likeness"
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
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    people = [path for path in entries if path.is_dir() and images_or_none(path)]
    if len(people) != 2:
        inside = ", ".join(path.name + "/" * path.is_dir() for path in entries[:8]) or "nothing"
        raise InputError(f"{folder}: {len(people)} sub-folders with photos (found {inside}); expected {PEOPLE_LAYOUT}")
    return people


def _faces_of(folder: Path, paths: Iterable[Path], size: int, margin: float) -> np.ndarray:
    """Return the largest face of every photo that has one, uint8 [n, size, size, 3], naming those that have none."""
    from tqdm import tqdm

    paths = list(paths)
    faces, without = [], []
    for path in tqdm(paths, f"faces in {printable(folder.name)}", disable=None, unit="photo"):
        image = read_image(path)
        boxes = find_faces(image)
        if boxes:
            faces.append(cut_face(image, boxes[0].enlarged(margin), size))
        else:
            without.append(path)
    if not faces:
        raise InputError(
            f"{folder}: no face was found in {len(paths)} photos; they must show one from the front, upright, with "
            "something around it (faces that are cut out already can be given as an .npz with the arrays a and b)"
        )
    report_faceless(without, len(paths))
    return np.stack(faces)


def report_faceless(without: list[Path], count: int) -> None:
    """Name up to five photos in which no face was found, on standard error, and say how many there are."""
    for path in without[:5]:
        print(f"{printable(path)}: no face was found", file=sys.stderr)
    if without:
        print(f"left out {len(without)} of {count} photos, in which no face was found", file=sys.stderr)


def drawn_people(size: int, margin: float, seed: int) -> TwoPeople:
    """Draw two people, at moments of their own to learn from, and at the same 200 moments to be judged by.

    They are framed about as `cut_face` frames the box of a face with that margin, but all alike.
    """
    a, b, moments = 11, 8, 3 * seed
    side = round(size / 0.58 / (1 + 2 * margin))  # the box of a face takes 0.58 of the side of a drawing, or more
    box = FaceBox(round(0.52 * side - size / 2), (side - size) // 2, size)
    draws = ((480, moments, a), (360, moments + 1, b), (200, moments + 2, a), (200, moments + 2, b))
    drawn = [drawn_faces(count, seed, side, character)[0] for count, seed, character in draws]
    faces = [np.stack([cut_face(face, box, size) for face in each]) for each in drawn]
    return TwoPeople(faces[0], faces[1], faces[2], faces[3], paired=True)


def judge_swaps(
    people: TwoPeople, swap: Callable[[np.ndarray, str], np.ndarray], shift: ColourShift, path: Path
) -> dict[str, float]:
    """Swap the faces that were held out, write a picture of up to eight each way, and return scores.

    Args:
        people: without pairs there is no truth to compare with, and no scores.
        swap: faces, uint8 [n, size, size, 3], and "a2b" or "b2a" -> the same faces as the other person's.
        shift: from the colours of A to those of B.
        path: of the picture.

    Returns:
        For each direction, L1 in [0, 1] and SSIM of the swaps; of the faces left as they are, "copied"; and of those
        whose colours alone are moved to the other person's, "recoloured".
    """
    rows: dict[str, np.ndarray] = {}
    scores: dict[str, float] = {}
    held_out = {"a": people.held_out_a, "b": people.held_out_b}
    count = min(8, *(len(faces) // (2 if people.paired else 1) for faces in held_out.values()))
    for number, (one, other) in enumerate((("a", "b"), ("b", "a"))):
        faces, truth, way = held_out[one], held_out[other], f"{one}2{other}"
        shown = slice(number * count, (number + 1) * count) if people.paired else slice(count)
        rows |= {one.upper(): faces[shown], f"{one.upper()} as {other.upper()}": swap(faces[shown], way)}
        if people.paired:
            rows[f"true {other.upper()}"] = truth[shown]
            recoloured = shift.there(faces) if way == "a2b" else shift.back(faces)
            ways = {"": swap(faces, way), "_copied": faces, "_recoloured": recoloured}
            for name, images in ways.items():
                compared = pair_scores(truth, images)
                scores |= {f"{way}{name}_{score}": compared[score] for score in ("l1", "ssim")}
    save_table(rows, path, max(1, 128 // faces.shape[1]))
    return scores
