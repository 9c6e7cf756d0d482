"""Coloured sketches of synthetic faces: ink lines over patches of colour, as drawn by hand.

A sketch is computed from the portrait at twice its size. Its texture is smoothed, because nobody draws every curl. The
ink is then the dark side of its edges. The wash below the ink consists of patches: some random pixels are chosen, and
every pixel takes the mean colour of the most similar one. The width of the pen, and the number, colours and positions
of the patches vary. Networks that are trained on them therefore also accept the strokes of a person.
"""

from __future__ import annotations

import numpy as np

from common.samples.faces import synthetic_faces

PAPER = np.array([1.0, 0.99, 0.97], np.float32)
INK = np.array([0.1, 0.09, 0.12], np.float32)
FACE_COLOURS = np.array(  # to paint with
    [
        (26, 23, 31),  # ink
        (244, 213, 192),  # skin
        (210, 160, 120),
        (98, 64, 44),
        (45, 36, 32),  # hair
        (85, 54, 36),
        (107, 58, 32),
        (226, 190, 120),
        (170, 170, 168),
        (200, 40, 40),  # clothes, hats and glasses
        (50, 80, 160),
        (60, 130, 80),
        (90, 110, 130),  # backgrounds
        (220, 205, 225),
    ],
    np.uint8,
)


def sketch_pairs(count: int, seed: int, size: int = 64, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return coloured sketches, and the portraits that they show.

    A pair depends only on its index, the seed and the size, so a smaller set is a prefix of a larger one.

    Args:
        count: the number of pairs, 1 or more.
        seed: random seed, 0 or more.
        size: height and width in pixels, 16 or more.
        first: index of the first pair, 0 or more.

    Returns:
        RGB sketches and RGB portraits, uint8 [count, size, size, 3] each.

    Raises:
        ValueError: `count`, `seed`, `size` or `first` is too small.
    """
    import cv2

    for name, value, least in (("count", count, 1), ("first", first, 0)):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
    portraits = synthetic_faces(first + count, seed, size, noise=0.0)[0][first:]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # several threads are no faster for such small images
    try:
        numbered = enumerate(portraits, first)
        sketches = [sketch(portrait, np.random.default_rng([3, seed, index])) for index, portrait in numbered]
    finally:
        cv2.setNumThreads(threads)
    return np.stack(sketches), portraits


def sketch(portrait: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a coloured sketch of a square image; both are uint8 [size, size, 3]. `rng` varies the pen and the wash."""
    import cv2

    size = len(portrait)
    image = cv2.resize(portrait.astype(np.float32) / 255, (2 * size, 2 * size), interpolation=cv2.INTER_CUBIC)
    lines = ink(image, rng)[..., None]
    drawn = wash(image, rng) * (1 - lines) + INK * lines
    small = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)
    return (255 * np.clip(small, 0, 1) + 0.5).astype(np.uint8)


def ink(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the lines of an image, float32 [side, side, 3] in [0, 1]: a mask, float32 [side, side], 1 for ink.

    The lines are the negative part of a difference of two Gaussian blurs, above a threshold (Winnemöller et al. 2012,
    "XDoG: An eXtended difference-of-Gaussians compendium including advanced image stylization", section 2). Before
    that, bilateral filters remove texture (Winnemöller et al. 2006, "Real-time video abstraction", section 3).
    """
    import cv2

    unit = len(image) / 128
    grey = np.sqrt(np.clip(image @ np.array([0.3, 0.59, 0.11], np.float32), 0, 1))  # shows lines in dark areas, too
    for _ in range(3):
        grey = cv2.bilateralFilter(grey, -1, 0.045, 2 * unit)
    width = unit * rng.uniform(0.9, 1.3)
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (width, 1.8 * width))
    strength, threshold = rng.uniform(35, 50), rng.uniform(0.25, 0.4)
    return np.asarray(cv2.GaussianBlur(np.clip(strength * (coarse - fine) - threshold, 0, 1), (0, 0), 0.5 * unit))


def wash(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image, float32 [side, side, 3] in [0, 1], as patches of colour on paper; the same shape and range."""
    import cv2

    side = len(image)
    unit = side / 128
    small = cv2.bilateralFilter(image[::2, ::2], -1, 0.08, 2 * unit)
    rows, columns = np.mgrid[: len(small), : len(small)].astype(np.float32) / len(small)
    nearness = np.float32(rng.uniform(0.2, 0.4))  # weight of the position, compared with the colour
    features = np.stack([*np.moveaxis(small, 2, 0), nearness * rows, nearness * columns]).reshape(5, -1)
    pixels = features.shape[1]
    count = int(rng.integers(24, 57))
    centres = features[:, rng.choice(pixels, count, replace=False)].T

    def distances(centre: np.ndarray) -> np.ndarray:  # squared, from each pixel, [pixels]
        return sum((feature - value) ** 2 for feature, value in zip(features, centre, strict=True))

    far = np.min([distances(centre) for centre in centres[: count // 2]], axis=0)
    for number in range(count // 2, count):  # half of them where no patch is similar yet: eyes, lips, thin glasses
        chosen = np.searchsorted(far.cumsum(), rng.random() * far.sum()).clip(max=pixels - 1)
        centres[number] = features[:, chosen]
        far = np.minimum(far, distances(centres[number]))
    for _ in range(2):  # two steps of k-means
        patch = np.argmin([distances(centre) for centre in centres], axis=0)
        sums = np.stack([np.bincount(patch, feature, count) for feature in features], 1)
        centres = (sums / np.bincount(patch, minlength=count).clip(1)[:, None]).astype(np.float32)
    colours = centres[:, :3] + rng.normal(0, 0.01, (count, 1)) + rng.normal(0, 0.006, (count, 3))
    colours += (PAPER - colours) * rng.uniform(0.17, 0.23)  # see `thin_paint`
    flat = cv2.resize(colours[patch].reshape(small.shape).astype(np.float32), (side, side))

    y, x = np.mgrid[:side, :side].astype(np.float32)
    shift = cv2.resize(rng.standard_normal((6, 6, 2), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    shift = shift * np.float32(unit * rng.uniform(0.5, 2))  # the patches do not follow the lines exactly
    flat = cv2.remap(flat, x + shift[..., 0], y + shift[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.GaussianBlur(flat, (0, 0), unit * rng.uniform(0.6, 1.5)))


def thin_paint(colours: np.ndarray) -> np.ndarray:
    """Return colours, uint8 [n, 3], as they look in a sketch: the paper shines through. Black, the ink, stays."""
    thinned = colours + 0.2 * (255 * PAPER - colours)
    return np.where(colours.max(-1, keepdims=True) < 32, colours, thinned.round()).astype(np.uint8)


def plain_face(size: int) -> np.ndarray:
    """Return a sketch of a bald face without any detail, uint8 [size, size, 3], to draw hair and other things on."""
    import cv2

    skin, cloth, ground = (colour.tolist() for colour in thin_paint(FACE_COLOURS[[2, 10, 12]]))
    ink, image = FACE_COLOURS[0].tolist(), np.empty((size, size, 3), np.uint8)
    image[:] = ground

    def at(*units: float) -> tuple[int, ...]:
        return tuple(round(unit * size * 16) for unit in units)

    def oval(x: float, y: float, width: float, height: float, *arc: int, fill: list[int] | None = None) -> None:
        first, last = arc or (0, 360)
        for colour, line in ((fill, -1), (ink, max(1, round(size / 90)))):
            if colour is not None:
                cv2.ellipse(image, at(x, y), at(width, height), 0, first, last, colour, line, cv2.LINE_AA, 4)

    oval(0.5, 1.1, 0.44, 0.22, fill=cloth)
    cv2.rectangle(image, (int(0.41 * size), int(0.75 * size)), (int(0.59 * size), int(0.92 * size)), skin, -1)
    oval(0.5, 0.9, 0.09, 0.05, 0, 180, fill=skin)
    oval(0.5, 0.5, 0.3, 0.37, fill=skin)
    for side in (-1, 1):
        oval(0.5 + 0.13 * side, 0.46, 0.045, 0.022, fill=[236, 236, 236])
        oval(0.5 + 0.13 * side, 0.46, 0.012, 0.014, fill=ink)
        oval(0.5 + 0.13 * side, 0.42, 0.07, 0.03, 200, 340)
        oval(0.5 + 0.02 * side, 0.6, 0.02, 0.012, 0, 180)
    oval(0.5, 0.69, 0.09, 0.03, 10, 170)
    return image
