"""Find faces in photos, crop them, and blend new faces into the photos."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from common.images.pixels import resize_image

# %% Detection

FACE_SEARCH_SIDE = 400  # longest side in pixels of the searched photo; larger photos are shrunk to this size
FACE_SECOND_SIDE = 96  # side in pixels of the face crops (with a margin) that are searched again
FACE_STEPS = (1.2, 1.13)  # ratios of successive window sizes; the photo is searched once per ratio
SMALLEST_FACE = 24  # side in pixels of the smallest detectable face; the cascade was trained at this size


class FaceBox(NamedTuple):
    """A square box around a face, in pixels of the photo. It may extend beyond the edges of the photo."""

    top: int
    left: int
    side: int

    def enlarged(self, margin: float) -> FaceBox:
        """Return the box, extended by `margin` times its side in all four directions."""
        extra = round(self.side * margin)
        return FaceBox(self.top - extra, self.left - extra, self.side + 2 * extra)

    def overlap(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the overlap with a photo of `height` x `width` px, as slices of the photo and of the box."""
        spans = [
            (slice(max(start, 0), max(min(start + self.side, limit), 0)), start)
            for start, limit in ((self.top, height), (self.left, width))
        ]
        (rows, top), (columns, left) = spans
        part = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        return (rows, columns), part


@functools.cache
def face_cascade() -> Any:
    """Return scikit-image's detector for frontal faces."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())


def find_faces(image: np.ndarray) -> list[FaceBox]:
    """Find upright, frontal faces, the largest first.

    scikit-image's cascade of local binary patterns (Liao et al. 2007, doi:10.1007/978-3-540-74549-5_87) searches the
    image and its mirror image, each with two ratios of successive window sizes. Overlapping boxes are averaged. The
    region around each box is then cropped, resized and searched again. A box is dropped if the second search finds no
    face. All crops have the same size, so the final boxes hardly depend on the size of the photo. A box extends from
    the brows to the chin. Profiles and faces with dark glasses are missed, and there are a few false positives.

    Args:
        image: uint8 [height, width, 1 or 3]. If its longer side exceeds 400 pixels, it is shrunk to 400 for the search.
            In the searched image, the side of a face must be at least 24 pixels and at least 1/16 of the longer side.

    Returns:
        One box per face, in pixels of `image`.
    """
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / FACE_SEARCH_SIDE)
    rows, columns = round(height / scale), round(width / scale)
    if min(rows, columns) < SMALLEST_FACE:
        return []
    boxes = []
    for top, left, side in _detect(resize_image(image, rows, columns), max(SMALLEST_FACE, max(rows, columns) // 16)):
        around = FaceBox(round(top * scale), round(left * scale), round(side * scale)).enlarged(0.4)
        again = _detect(cut_face(image, around, FACE_SECOND_SIDE), FACE_SECOND_SIDE // 3)
        if again:
            top, left, side = (value * around.side / FACE_SECOND_SIDE for value in again[0])
            boxes.append(FaceBox(round(around.top + top), round(around.left + left), round(side)))
    return sorted(boxes, key=lambda box: (-box.side, box))


def _detect(image: np.ndarray, smallest: int) -> list[tuple[float, float, float]]:
    """Return (top, left, side) of all faces with a side of at least `smallest` pixels, the largest first."""
    grey = (image @ np.array([0.299, 0.587, 0.114]) if image.shape[2] == 3 else image[..., 0]) / 255
    hits = []
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
            hits += [(box["r"], left, box["width"]) for box, left in zip(found, lefts, strict=True)]
    return _merged(np.array(hits, float).reshape(-1, 3))


def _merged(hits: np.ndarray) -> list[tuple[float, float, float]]:
    """Average boxes [n, 3] (top, left, side) that overlap in at least half of the larger box; drop boxes found once."""
    boxes = []
    while len(hits):
        largest = hits[hits[:, 2].argmax()]
        ends = np.minimum(hits[:, :2] + hits[:, 2:], largest[:2] + largest[2])
        shared = np.clip(ends - np.maximum(hits[:, :2], largest[:2]), 0, None).prod(1)
        same = shared >= 0.5 * largest[2] ** 2
        same[hits[:, 2].argmax()] = True
        if same.sum() > 1:
            boxes.append(tuple(hits[same].mean(0).tolist()))
        hits = hits[~same]
    return sorted(boxes, key=lambda box: -box[2])


def cut_face(image: np.ndarray, box: FaceBox, size: int) -> np.ndarray:
    """Crop uint8 [h, w, c] to a box, and resize it to [size, size, c]. Outside the image, edge pixels are repeated."""
    rows = np.arange(box.top, box.top + box.side).clip(0, image.shape[0] - 1)
    columns = np.arange(box.left, box.left + box.side).clip(0, image.shape[1] - 1)
    return resize_image(image[rows[:, None], columns], size, size)


# %% Blending

FACE_ELLIPSE = (1.2, 1.0)  # height and width of the replaced ellipse, relative to the side of the box
FACE_FEATHER = 0.35  # fraction of the radius over which the new face fades into the photo


def face_mask(side: int, margin: float) -> np.ndarray:
    """Return blending weights from 0 to 1, shape [side, side, 1], for a box of `side` pixels including its margin."""
    across = np.linspace(-1, 1, side) * (1 + 2 * margin)
    radius = np.hypot(across[:, None] / FACE_ELLIPSE[0], across / FACE_ELLIPSE[1])
    weight = np.clip((1 - radius) / FACE_FEATHER, 0, 1)
    return (weight**2 * (3 - 2 * weight))[..., None]


def blend_face(photo: np.ndarray, face: np.ndarray, box: FaceBox, margin: float) -> np.ndarray:
    """Give the new face the median colour of the old face, and blend it in with a soft elliptical mask.

    The median colour of a face is close to its skin colour: glasses, teeth and hair hardly affect it.

    Args:
        photo: the photo, uint8 [height, width, 3].
        face: the new face with its margin, uint8 [size, size, 3], as cropped by `cut_face`.
        box: the face box in the photo, without the margin, as returned by `find_faces`.
        margin: margin around the box, as a fraction of its side.

    Returns:
        A new photo. Pixels outside the ellipse are unchanged.
    """
    wide = box.enlarged(margin)
    region, part = wide.overlap(*photo.shape[:2])
    mask = face_mask(wide.side, margin)[part]
    old, new = photo[region], resize_image(face, wide.side, wide.side)[part]
    if (skin := mask[..., 0] > 0.5).any():
        new = np.clip(new + np.median(old[skin], axis=0) - np.median(new[skin], axis=0), 0, 255)
    blended = photo.copy()
    blended[region] = np.round(old + (new - old.astype(np.float64)) * mask).astype(np.uint8)
    return blended
