"""Faces of two people, and faces in photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade

from common.runs.kit.data import Batches, shuffled
from common.runs.kit.files import InputError
from common.runs.kit.images import find_images, read_image, resize_image, save_image


class NormalMap(NamedTuple):
    """A linear map of points [..., d]."""

    matrix: np.ndarray
    source: np.ndarray
    target: np.ndarray

    @classmethod
    def between(cls, source: np.ndarray, target: np.ndarray, floor: float = 0.0) -> NormalMap:
        """Fit Gaussians to two sets of points, and return their optimal transport map (Olkin & Pukelsheim 1982)."""

        def covariance(points: np.ndarray) -> np.ndarray:
            (count, d), found = points.shape, np.cov(points, rowvar=False, bias=True)
            return found + (np.eye(d) * np.trace(found) / d - found) * d / (count + d)  # shrunk (Ledoit & Wolf 2004)

        def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
            values, vectors = np.linalg.eigh(matrix)
            return vectors * values.clip(1e-30) ** exponent @ vectors.T

        own = covariance(source) + floor * np.eye(source.shape[1])
        root, inverse = power(own, 0.5), power(own, -0.5)
        return cls(inverse @ power(root @ covariance(target) @ root, 0.5) @ inverse, source.mean(0), target.mean(0))

    def there(self, points: np.ndarray) -> np.ndarray:
        """Apply the map. The result is uint8 if `points` is uint8, otherwise float32."""
        moved = (points - self.source) @ self.matrix + self.target
        return moved.round().clip(0, 255).astype(np.uint8) if points.dtype == np.uint8 else moved.astype(np.float32)

    def back(self, points: np.ndarray) -> np.ndarray:
        """Apply the inverse map."""
        return NormalMap(np.linalg.inv(self.matrix), self.target, self.source).there(points)


class PersonShift(NamedTuple):
    """Linear maps from person A to person B: one for face colours, one for the encoder's latents."""

    colours: NormalMap
    latents: NormalMap

    def write(self, path: Path) -> None:
        """Write the maps to an .npz file."""
        np.savez(path, *self.colours, *self.latents)

    @classmethod
    def read(cls, path: Path) -> PersonShift:
        """Read the maps from a file that `write` has written."""
        arrays = list(np.load(path).values())
        return cls(NormalMap(*arrays[:3]), NormalMap(*arrays[3:]))


class TwoPeople(NamedTuple):
    """Faces of two people, uint8 [n, size, size, 3] each."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    names: tuple[str, str] = ("A", "B")

    def colours(self, deviation: bool) -> NormalMap:
        """Return the map from the colours of A to those of B."""
        means, spreads = ([getattr(x, name)((0, 1, 2)) for x in self.train] for name in ("mean", "std"))
        factors = spreads[1] / spreads[0].clip(1.0) if deviation else np.ones(3)
        return NormalMap(np.diag(factors), *means)

    def batches(self, batch_size: int, seed: int, colours: NormalMap) -> Batches:
        """Return shuffled batches of unpaired faces: (faces of A with `colours` applied, faces of B)."""
        most, a, b = min(batch_size, *map(len, self.train)), colours.there(self.train[0]), self.train[1]
        held_out = colours.there(self.test[0]), self.test[1]
        return Batches.zip(*(shuffled((x,), most, seed, (y,)) for x, y in zip((a, b), held_out, strict=True)))

    def shift(self, colours: NormalMap, encode: Callable[[np.ndarray], np.ndarray]) -> PersonShift:
        """Return the maps from A to B."""
        return PersonShift(colours, NormalMap.between(encode(colours.there(self.train[0])), encode(self.train[1])))

    def evaluate(self, swap: Callable, colours: NormalMap, path: Path) -> dict[str, float]:
        """Write swaps of held-out faces. There are no scores, because the true swapped faces are unknown."""
        (a, b), count = self.test, min(8, *map(len, self.test))
        rows = {"A": a[:count], "A as B": swap(a[:count], "a2b"), "B": b[:count], "B as A": swap(b[:count], "b2a")}
        save_image(rows, path, zoom=max(1, 128 // a.shape[1]))
        return {}


def two_people(data: str, size: int, margin: float) -> TwoPeople:
    """Return the faces of `sample`, or the largest face of each photo in a folder with one sub-folder per person."""
    if data == "sample":
        a, b, test_a, test_b = np.load(Path(__file__).with_name("sample.npz")).values()
        return TwoPeople((a, b), (test_a, test_b))
    folders = [folder for folder in sorted(Path(data).glob("[!.]*/")) if find_images(folder)]
    if len(folders) != 2:
        raise InputError(f"{data}: has {len(folders)} sub-folders with photos, not one per person")
    faces = []
    for folder in folders:
        photos = [read_image(path) for path in find_images(folder)]
        found = [(photo, box) for photo in photos if (box := find_face(photo, margin))]
        if not found:
            raise InputError(f"{folder}: none of the {len(photos)} photos shows a face")
        faces.append(np.stack([resize_image(cut(photo, box), size, size) for photo, box in found]))
    held_out = [np.arange(len(each)) % 10 == min(9, len(each) - 1) for each in faces]
    parts = [tuple(x[chosen == part] for x, chosen in zip(faces, held_out, strict=True)) for part in (False, True)]
    return TwoPeople(parts[0], parts[1], (folders[0].name, folders[1].name))


def find_face(photo: np.ndarray, margin: float) -> tuple[int, int, int] | None:
    """Return the top, left and side of a square around the largest face, with a margin; None if there is no face."""
    search = Cascade(lbp_frontal_face_cascade_filename()).detect_multi_scale
    scale = max(1, max(photo.shape[:2]) // 400)
    found = search(photo[::scale, ::scale], 1.2, 1, (24, 24), tuple(x // scale for x in photo.shape[:2]))
    if not found:
        return None
    face = max(found, key=lambda each: each["width"])
    extra, side = round(scale * face["width"] * margin), scale * face["width"]
    return scale * face["r"] - extra, scale * face["c"] - extra, side + 2 * extra


def cut(photo: np.ndarray, box: tuple[int, int, int]) -> np.ndarray:
    """Return the pixels of a box. Outside the photo, its border pixels are repeated."""
    top, left, side = box
    rows, columns = (np.arange(start, start + side) for start in (top, left))
    return photo[rows.clip(0, len(photo) - 1)[:, None], columns.clip(0, photo.shape[1] - 1)]


def convert_faces(
    source: Path, destination: Path, convert: Callable, size: int, margin: float, visible_mark: bool = True
) -> Path:
    """Replace the largest face of a photo, or of each photo in a folder, with the result of `convert`."""
    for path in find_images(source) if source.is_dir() else [source]:
        photo = read_image(path)
        if not (box := find_face(photo, margin)):
            print(f"{path}: no face was found")
            continue
        (face,), (top, left, side) = convert(resize_image(cut(photo, box), size, size)[None]), box
        radius = np.hypot(*np.meshgrid(*2 * [np.linspace(-1, 1, side) * (1 + 2 * margin)]))
        mask = Image.fromarray((255 * ((1 - radius) / 0.35).clip(0, 1)).astype(np.uint8))
        image = Image.fromarray(photo)
        image.paste(Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC), (left, top), mask)
        if visible_mark:
            corner = image.width - 5, image.height - 5
            ImageDraw.Draw(image).text(corner, "synthetic face", "white", ImageFont.load_default(14), "rs")
        save_image(np.array(image), destination / f"{path.stem}.png" if source.is_dir() else destination)
    return destination
