"""Sample photographs from scikit-image. None of them shows people."""

from __future__ import annotations

import numpy as np

from common.images.pixels import limit_size, resize_image

PHOTOGRAPHS = (
    "brick",
    "cat",
    "cell",
    "clock",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "horse",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
    "stereo_motorcycle",
)


def photographs() -> dict[str, np.ndarray]:
    """Return the photographs by name, each uint8 [height, width, 3]. The longer side is at most 640 px."""
    import skimage

    found = {}
    for name in PHOTOGRAPHS:
        loaded = getattr(skimage.data, name)()
        image = loaded[0] if isinstance(loaded, tuple) else loaded
        image = image if image.dtype == np.uint8 else (255 * image).astype(np.uint8)
        image = np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image[..., :3]
        found[name] = limit_size(image, 640)
    return found


COLOURFUL = ("cat", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket", "stereo_motorcycle")


def photo_squares(size: int) -> np.ndarray:
    """Crop squares of several sizes from colour photographs, and resize them: uint8 [n, size, size, 3]."""
    squares, photos = [], photographs()
    for name in COLOURFUL:
        height, width = photos[name].shape[:2]
        for side in sorted({min(side, height, width) for side in (120, 200, 300, 640)}):
            across, down = (
                np.linspace(0, length - side, 1 + round(1.5 * (length - side) / side)).astype(int)
                for length in (width, height)
            )
            squares += [photos[name][top : top + side, left : left + side] for top in down for left in across]
    return np.stack([resize_image(square, size, size) for square in squares])
