"""Synthetic handwritten digits: pen strokes with the style of a writer, rendered as MNIST-like images."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

STYLES = ("slant", "thickness", "width")  # the columns of the styles that `handwritten_digits` returns

OVERSAMPLING = 4  # strokes are rendered at this multiple of the final size, then averaged
STEPS = 12  # number of line segments between two control points

# The ways to write each digit: a weight, and one or more strokes with the same number of points. A digit is a random
# mixture of the strokes in its group. The points "x,y" are in a box of height 10, and y points downwards. A smooth
# curve passes through them. "/" makes a corner at the point before it, "|" lifts the pen.
Group = tuple[float, list[str]]
SKELETONS: dict[int, list[Group]] = {
    0: [
        (
            6,
            [
                "3.8,0.2 1.3,1.8 0.2,5.4 1.2,9 3.5,9.9 6,8.4 6.9,5 6,1.6 3.6,0.2",
                "5.4,0.9 3,0.2 0.7,3 0.3,6.8 2,9.8 4.8,9.2 6.6,6 6.6,2.4 5,0.5",
                "3.2,0.6 1.2,2.6 0.4,6 1.8,9.2 3.8,9.8 6.2,8 7,4.6 5.8,1.2 3.4,0.1",
            ],
        ),
        (
            1,
            [
                "3,1.4 1,4 0.6,7.4 2.4,9.8 5.2,8.8 6.6,5.2 6.2,1.8 4.2,0.2 2.2,1.2 2.6,2.2",
                "4.4,0.4 1.6,1.8 0.4,6 1.8,9.4 4.4,9.6 6.6,6.4 6.6,2.4 4.6,0.3 2.8,0.4 2.4,1.6",
            ],
        ),
    ],
    1: [
        (8, ["3,0 3,5 3,10", "3.2,0 2.9,5 3,10"]),
        (1.4, ["1.4,2.2 3.2,0 / 3.2,5 3.2,10", "2.2,1.2 3.2,0 / 3,5 3.1,10", "0.6,2.8 3.2,0 / 3.2,5 3.2,10"]),
        (0.6, ["0.9,2.3 3,0 / 3,5 3,10 | 0.2,10 3,9.9 5.8,10", "1.6,1.4 3.2,0 / 3.1,5 3,10 | 0.8,9.8 3,9.9 5.4,9.7"]),
    ],
    2: [
        (
            5,
            [
                "0.8,2.4 3.2,0.2 6.1,1.2 6,3.8 3.8,7.4 1.4,9.5 0.4,8.4 2,7.4 4.6,8.8 7.6,9.2",
                "1.4,2 3.8,0.1 6.3,1.2 5.6,4.2 3.2,8 1,9.8 0.1,8.6 1.6,7.5 4.6,8.6 7.4,10",
                "0.4,1.4 3.2,0.2 5.8,1.4 5.4,4.4 3.4,8.2 1.2,9.4 0.8,7.6 2.4,6.8 5,8.2 8,8.4",
                "0.6,3.2 2.8,0.2 6.2,1.6 6.2,4.8 4,8.6 1.6,9.8 0,8.2 1.4,6.4 4.2,7.4 7,9.8",
                "1,1.6 3.6,0.2 5.4,1.4 4.8,4 2.6,7.8 1,9.6 0.2,9 1.4,8.4 4.6,9.2 8.2,8.8",
                "0.8,2.4 3.4,0 6.6,2 5.8,5.6 3,9 0.8,9.8 -0.2,7.6 2,6 5,7.2 8,9.4",
                "1.4,2 3.6,0.1 6.4,1.6 6.4,5.2 4.4,9 1.6,9.6 0.2,7.4 2,5.2 5.2,6.4 7.6,9.4",
            ],
        ),
        (
            5,
            [
                "0.8,2.3 3.2,0.2 6,1 6,3.6 3.4,7 0.4,9.7 / 3.6,9.4 7.2,9.6",
                "0.6,0.9 3,0.4 6,0.5 5.8,2.6 3,6.4 0.4,9.4 / 3.5,9.2 7.6,9.4",
                "1.2,2.6 3.4,0.1 6,1.4 5.4,4.4 3.2,7.4 0.8,9.8 / 4,9.2 6.6,9.9",
                "0.2,1.8 2.8,0.2 5.6,0.8 5.4,3.8 3,7.6 0.6,9.4 / 3,9 7.8,8.6",
                "0.4,1.2 2.4,0.2 4.6,0.8 4.4,3.4 2.6,6.6 0.6,9.4 / 4.8,9 9.8,8.6",
                "1.6,0.6 2.6,0 3.4,0.8 3,3.4 1.6,6.8 0.2,9.4 / 3.6,8.9 7.6,8.6",
            ],
        ),
    ],
    3: [
        (
            5,
            [
                "0.8,1.5 3,0.1 5.5,1.2 4.9,3.6 2.4,4.8 / 5.4,5.6 6.1,7.9 4,9.8 0.5,8.8",
                "0.4,0.8 3.2,0.2 5.8,0.8 4.8,3.2 2.2,4.5 / 5.2,5 6.3,7.4 4.2,9.7 0.4,9.6",
                "1.2,1 3.8,0.1 5.8,1.4 4.6,3.6 2.8,4.6 / 5,5.4 5.6,7.8 3.4,9.8 0.2,9.2",
                "1.2,1.6 3.4,0.2 5.2,1.4 4.4,3.2 2.6,3.9 / 5.8,4.8 6.6,7.4 4.2,9.8 0.2,8.6",
                "0.2,1.4 3,0.1 6,1.6 5.4,4.4 3.2,5.6 / 5,6 5.6,8 3.6,9.8 1,9.4",
            ],
        ),
        (
            2.5,
            [
                "0.8,1.4 3.2,0.1 5.6,1.5 4.6,3.8 2.4,4.7 2.9,4.9 5.4,5.8 6,8 3.8,9.9 0.5,9",
                "1,0.8 3.6,0.2 5.4,1.8 4,4 2,4.9 2.7,4.6 5.2,5.2 6.2,7.4 4.4,9.6 0.4,9.8",
            ],
        ),
        (1, ["0.6,0.7 3.4,0.5 5.8,0.4 / 4.2,2.4 2.6,4.3 / 5.4,5.2 6.2,7.7 4,9.8 0.4,9"]),
    ],
    4: [
        (
            6,
            [
                "1.5,0.3 1,3 0.4,5.3 / 3.6,5.4 7.2,4.9 | 5.8,0.8 5.4,5 4.9,10",
                "0.9,0.8 0.6,3.2 0.4,5.9 / 3.6,5.8 6.4,5.6 | 5.6,0.2 5.4,5 5.2,10",
                "2.2,0.2 1.2,3 0.3,6 / 3.6,5.7 7.6,5.2 | 6.2,2.6 5.6,5.6 4.6,10",
            ],
        ),
        (
            3,
            [
                "0.4,0.6 0.1,3.4 0.8,5.2 3.4,5.3 5.6,4.2 6.6,0.4 / 5.9,5 5.3,10",
                "1,0.4 0.3,3 0.8,4.9 3,5.2 5.4,3.8 6.8,0.8 / 5.6,5 4.4,10",
            ],
        ),
        (0.8, ["4.9,0.2 2.4,3.4 0.2,6.6 / 3.5,6.7 7.4,6.3 | 5.2,0.6 5.1,5 5,10"]),
    ],
    5: [
        (
            4,
            [
                "1.8,0.5 1.6,2.4 1.4,4.4 / 3.6,3.7 5.9,5.3 5.4,8.4 2.8,9.9 0.4,8.9 | 1.8,0.5 4,0.4 6.8,0.1",
                "2.4,0.6 2,2.4 1.6,4.2 / 4,4 5.8,5.8 4.8,8.8 2.4,9.8 0.2,9.6 | 2.4,0.7 4.6,0.6 7.6,0.4",
                "0.8,0.8 0.8,3.2 0.9,5.4 / 3.4,4.4 5.6,5.8 5.6,8.6 3.6,9.9 1.4,9 | 1,0.8 3,0.6 5.8,0.6",
                "1,1.8 0.8,3.8 0.6,5.8 / 3.2,4.6 5.2,6.2 4.6,8.8 2.4,9.9 0.2,9 | 1.2,1.6 4,1 6.8,0.1",
                "1.8,0.5 1.4,2.4 1,4.6 / 3.8,3.8 6,5.6 5.4,8.8 2.4,9.8 0.4,7.8 | 1.8,0.4 4,0.2 6.6,0.2",
                "2.2,1.4 1.8,3 1.2,4.8 / 3,4.6 4.8,6.2 4.6,8.6 2.8,9.8 0.6,9.4 | 2.2,1 5,0.5 8.4,0.2",
            ],
        ),
        (
            4,
            [
                "6.6,0.2 4.2,0.5 2,0.6 / 1.7,2.4 1.3,4.3 / 3.6,3.9 5.8,5.6 5.3,8.4 3,9.9 0.4,9.1",
                "7.8,0 5,0.5 2.6,0.8 / 2.1,2.6 1.6,4.4 / 3.8,4.4 5.4,6 4.6,8.4 2.6,9.6 0,9.4",
                "6.4,0.4 4.2,0.4 2.2,0.5 / 1.6,2.2 1,4.2 / 3.8,3.6 6.2,5.4 5.6,8.6 2.6,9.7 0.4,7.8",
                "5.4,0.4 3.4,0.5 1.4,0.6 / 1.2,3 1,5.2 / 3.2,4.2 5.2,5.8 5,8.6 3.2,9.8 1,9",
            ],
        ),
        (
            1.5,
            [
                "6.6,0.6 3.8,0.4 1.7,1.9 2.2,3.9 4.6,5.4 5.6,7.6 4,9.6 0.6,9.4",
                "7.2,0.2 4.4,0.4 2.2,1.6 2.2,3.6 4.4,5 5.4,7.2 3.4,9.6 0.4,9.2",
            ],
        ),
    ],
    6: [
        (
            6,
            [
                "5,0.2 2.4,2.8 0.7,6.6 1.5,9.4 4,9.6 5.8,7.6 4.8,5.6 2.8,5.9 1,8",
                "4.2,0.1 2,3.2 0.8,7 1.6,9.6 4.4,9.4 6.4,7 5.4,5.2 3.4,5.8 1.6,8.4",
                "5.8,0.6 3,2 0.6,6 1.4,9.2 3.6,9.8 5.4,8.2 4.8,6.4 3,6.4 1,7.4",
                "3.4,0.1 1.6,3.4 0.8,7 2,9.6 4.8,9.4 6.6,7.4 5.6,5.8 3.4,6.2 1.6,8.8",
                "2.2,0.2 0.8,3.2 0.4,6.8 2,9.4 5,9.6 7,7.4 6.2,5.4 3.6,5.8 1.8,8",
                "1.8,0.2 0.4,3.2 0.2,7 2,9.8 5.2,9.5 6.6,7.2 5,5.8 3,6.8 2,8.8",
                "3.2,0.2 1.2,3.2 0.4,7 1.8,9.7 4.8,9.5 6.2,6.6 5,3.8 3.2,5 2.4,8",
                "1,0.2 0.2,3.6 0.6,8 2.6,9.9 5.2,8.6 6.2,5.6 5.2,4.2 3.6,6 3.2,9.2",
                "4.6,0.1 2.4,3 1,7 1.6,9.7 3.4,9.8 4.4,8.4 3.6,7.2 2.4,7.8 1.4,9.2",
                "5.4,0.4 2.6,2.2 0.8,6 1.8,9.4 4.6,9.6 6,8.4 5.2,7.2 3.8,7.4 2.8,8.2",
                "5.4,0.2 3,2.4 0.8,6 1.2,9 3.6,9.9 5.4,7.4 4.6,4.6 2.8,4.6 1,6.4",
            ],
        ),
    ],
    7: [
        (
            6,
            [
                "0.5,1.2 3.2,0.9 6.4,0.5 / 4.7,4.6 3.2,10",
                "0.8,1.6 3.4,1 6.6,0.3 / 4.4,5 2.4,9.8",
                "0.4,0.8 3,1 6.2,0.9 / 5.2,5 4.6,10",
                "0.2,1.8 3,0.9 6,0.2 / 3.8,4 1.4,9.6",
            ],
        ),
        (
            2,
            [
                "0.5,2.4 0.9,0.9 / 3.5,1 6.4,0.6 / 4.6,5 3.6,10",
                "0.9,3 0.9,1.4 / 3.4,1.2 6.2,0.4 / 4.8,5 3,10",
                "0.2,4 0.6,1 / 3.4,1 6,0.7 / 5.3,5 4.8,10",
            ],
        ),
        (
            3,
            [
                "0.4,1.9 1.8,0.5 4.6,0.6 6.3,0.9 5.5,3.6 4.2,7 3.4,10",
                "0.6,2.6 1.4,1 4,1.2 6.2,0.4 5.6,3.2 4,6.6 2.8,10",
                "0.3,3.8 1,1.2 3.2,0.7 5.6,0.8 6,3 5.3,6.4 4.8,10",
                "0.6,1.4 2.2,0.2 4.6,0.2 5.8,1.6 5,4.4 3.4,7.4 1.4,10",
            ],
        ),
        (
            1.5,
            [
                "0.5,1.2 3.2,0.9 6.4,0.5 / 4.7,4.6 3.2,10 | 2,5.4 4.2,5.2 6.4,4.9",
                "0.4,2 3.2,1 6.6,0.6 / 4.4,5.2 2,10 | 1,6.2 3.6,5.6 6.6,5.4",
            ],
        ),
        (0.7, ["0.2,2.8 0.6,0.8 / 3.4,0.9 6.2,0.6 / 4.8,4.6 3.6,10 | 1.8,5.6 4.2,5.3 6.6,5.2"]),
    ],
    8: [
        (
            6,
            [
                "6,1.2 3.9,0.1 1.6,1.6 2.4,3.8 4.6,5.8 5,8.2 3,9.9 1,8.6 1.7,6.2 4.2,4 6,1.4",
                "5.6,1.8 4,0.2 1.8,1.2 2,3.4 4.4,5.6 5.4,7.8 3.4,9.8 1,8.8 1.4,6.6 4,4.4 5.6,2",
                "6.8,0.8 4.2,0.1 2,1.8 2.6,3.8 4.4,5.8 4.4,8.2 2.4,9.8 0.6,8.8 1.4,6.4 4.2,4 6.4,1.4",
                "5.2,1.6 3.4,0.1 1.4,1.4 2.4,4.2 4.2,6.6 4.6,8.8 3.2,9.9 2.2,8.8 2.8,6.6 4.4,4.4 6.8,1.2",
                "6.2,2.4 4.2,0.2 1,1.4 1.4,3.8 4.4,5.6 5,7.8 3.2,9.8 1.8,8.4 2.8,6.4 5.2,4.4 6.8,2.6",
            ],
        ),
        (
            1.5,
            [
                "6.4,0.8 4,0.4 1.6,2.2 3.6,4.6 5,7.2 3.6,9.7 1.8,8.4 3,5.6 7,1.4",
                "5.8,1.4 3.2,0.2 0.8,2 3.2,4.4 5.6,7 3.4,9.8 1,8 3,5 6.4,0.6",
            ],
        ),
        (
            2,
            [
                "3.4,4.6 1.5,2.8 2.1,0.5 4.4,0.2 5.6,2.2 3.6,4.6 1.2,7 2,9.6 4.6,9.7 5.8,7.2 3.6,4.7",
                "4.2,4.5 1.8,3.2 1.6,0.8 4.2,0.1 6,1.8 4,4.4 1.4,6.6 1.4,9.2 4,9.9 5.4,7.4 3.4,4.6",
            ],
        ),
    ],
    9: [
        (
            5,
            [
                "5.8,1.5 3.8,0.2 1.3,1.6 1,4 3,5 5.2,3.6 5.8,1.3 / 5.5,5.6 5.2,10",
                "5.6,0.8 3.4,0.2 0.9,2.2 1,4.4 3,4.8 5.2,3 5.9,0.8 / 5.2,5.4 4.2,10",
                "6,1.8 4.2,0.2 1.6,1.2 0.8,3.6 2.6,4.9 5,4 6,1.8 / 5.8,5.6 5.6,10",
                "5.4,0.9 3.8,0.9 1.6,2.6 1.2,4.8 3,5.4 4.8,3.8 5.8,0.5 / 5,5.2 3.4,10",
                "5.6,1.2 3.2,0 0.6,1.8 0.6,5 3,6 5.4,4.2 5.8,1.4 / 5.6,6 5.2,10",
            ],
        ),
        (
            4,
            [
                "5.6,1.2 3,0.2 1,2.6 2.2,4.7 4.8,3.6 5.9,1.3 5.6,4 4.9,7 4.2,10",
                "5,0.6 2.6,0.8 0.9,3.4 2.2,4.9 4.6,3.4 5.8,0.9 5,4 3.8,7 2.4,10",
                "4.6,0.4 2,1 0.8,3.4 2.2,4.8 4.6,3.6 5.9,0.8 5.7,4 5,7 4.2,10",
                "5.4,0.2 2.6,0.4 0.8,2.4 1.6,4.2 4,3.8 6.2,1.8 5.8,4.4 4.8,7.4 3.8,10",
                "5.2,0.6 3.4,0.4 2.2,1.8 2.8,3.2 4.4,2.6 5.4,0.8 5.2,3.6 4.8,7 4.4,10",
            ],
        ),
        (
            2,
            [
                "5.6,1.4 3.4,0.2 1,2 1.6,4.4 4.4,4.2 5.9,1.5 6,5.4 4.8,8.6 2,9.8",
                "5.4,1 3.2,0.3 1.2,2.2 1.8,4.6 4.4,4.2 5.6,1.4 6,5.6 4.4,9.4 0.8,8.6",
                "6,1.6 4,0 1.2,1.4 1,4.2 3.8,5 5.9,2.2 5.8,5.6 4.6,8.4 3,9.9",
                "5.6,1.2 3.4,0.2 1,1.8 1.6,4.4 4.4,4.6 5.8,2.4 6,6 5.4,9.3 0.8,9.8",
            ],
        ),
    ],
}


class Skeleton(NamedTuple):
    """The strokes of one group in `SKELETONS`."""

    points: np.ndarray  # control points of each variant, float [variants, n, 2]
    curves: list[np.ndarray]  # per pen stroke, the matrix float [m, n] that maps control points to a polyline
    ends: np.ndarray  # float [n]: 1 at both ends of each pen stroke, otherwise 0


@functools.cache
def _skeletons(digit: int) -> tuple[np.ndarray, list[Skeleton]]:
    """Parse the groups of a digit; return their probabilities and their skeletons."""
    groups = SKELETONS[digit]
    weights = np.array([weight for weight, _ in groups])
    return weights / weights.sum(), [_parse(variants) for _, variants in groups]


def _parse(variants: list[str]) -> Skeleton:
    points = np.array(
        [[word.split(",") for word in text.split() if word not in "/|"] for text in variants], dtype=float
    )
    mean = points.mean(0)
    curves = []
    ends = np.zeros(len(mean))
    first = 0
    for stroke in variants[0].split("|"):
        parts = []
        begin = first
        for smooth in stroke.split("/"):
            last = begin + len(smooth.split()) - (0 if begin == first else -1) - 1
            parts.append(_curve(mean, begin, last))
            begin = last
        curves.append(np.concatenate(parts))
        ends[[first, last]] = 1
        first = last + 1
    return Skeleton(points, curves, ends)


def _curve(points: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return the matrix that maps control points to a spline through points `first` to `last`.

    A spline is linear in its control points, so the splines through unit impulses form this matrix.
    """
    from scipy.interpolate import make_interp_spline

    part = points[first : last + 1]
    times = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(part, axis=0), axis=1) ** 0.5)])
    degree = min(3, len(part) - 1)
    spline = make_interp_spline(times, np.eye(len(part)), degree, bc_type="natural" if degree == 3 else None)
    matrix = np.zeros((STEPS * (len(part) - 1) + 1, len(points)))
    matrix[:, first : last + 1] = spline(np.linspace(0, times[-1], len(matrix)))
    return matrix


def handwritten_digits(count: int, seed: int = 0, size: int = 28) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write digits with the styles of many writers: white strokes on black, placed as in MNIST.

    Each writer writes the digits 0 to 9 once, in random order. Five writers take turns, so every fifth digit of a set
    (the test split of the built-in data) is by a writer who wrote none of the others. A smaller set with the same seed
    is the beginning of a larger one. As in MNIST, the longer side of a digit is 20/28 of the image size, and the
    digit's centre of mass is at the centre of the image.

    Args:
        count: number of digits, at least 1.
        seed: sets with different seeds have different writers.
        size: height and width of the images in pixels, at least 8.

    Returns:
        The images, uint8 [count, size, size, 1]; their labels, int64 [count]; and how they were written, float32
        [count, 3], in the order of `STYLES`: the slant (horizontal over vertical extent of an upright stroke; positive
        if it leans to the right), the thickness of the pen in pixels, and the width of the digit relative to its
        skeleton.

    Raises:
        ValueError: `count` or `size` is too small.
    """
    if count < 1 or size < 8:
        raise ValueError(f"count must be 1 or more and size 8 or more, got {count} and {size}")
    images = np.empty((count, size, size, 1), np.uint8)
    labels = np.empty(count, np.int64)
    styles = np.empty((count, len(STYLES)), np.float32)
    for number in range(5 * -(-count // 50)):
        generator = np.random.default_rng([seed, number])
        writer = _writer(generator)
        first = number // 5 * 50 + number % 5  # five writers take turns
        for index, digit in zip(range(first, count, 5), generator.permutation(10), strict=False):
            strokes, (slant, thickness, width) = _write(int(digit), writer, generator)
            thickness *= size / 28
            images[index, ..., 0] = _render(strokes, thickness, generator.normal(0, PRESSURE, 2), size)
            labels[index] = digit
            styles[index] = slant, thickness, width
    return images, labels, styles


SLANT = 0.17, 0.23, 0.1  # mean; standard deviation over writers; standard deviation over the digits of a writer
THICKNESS = 2.55, 0.26, 0.08  # in pixels of 28; the deviations are of its logarithm
WIDTH = 1.08, 0.16, 0.1  # relative; the deviations are of its logarithm
ROTATION = 5.0  # standard deviation in degrees
WARP = 0.09  # standard deviation of the quadratic terms of the warp, relative to half of the height
MIXING = 0.6  # concentration of the random mixture; at small values, one of the strokes dominates
JITTER = 0.32  # standard deviation of the control points, in tenths of the height; for ends of strokes, twice as much
PRESSURE = 0.1  # standard deviation of the relative change in thickness from the centre to the edges, per direction
ROUNDING = 5  # largest radius of the moving average that rounds corners, in line segments


class _Writer(NamedTuple):
    slant: float
    thickness: float
    width: float
    jitter: float  # a factor: neat writers have small values
    rounding: int


def _writer(generator: np.random.Generator) -> _Writer:
    normal = generator.standard_normal(4)
    return _Writer(
        slant=SLANT[0] + SLANT[1] * normal[0],
        thickness=THICKNESS[0] * np.exp(THICKNESS[1] * normal[1]),
        width=WIDTH[0] * np.exp(WIDTH[1] * normal[2]),
        jitter=np.exp(0.3 * normal[3]),
        rounding=int(generator.integers(ROUNDING + 1)),
    )


def _write(digit: int, writer: _Writer, generator: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the strokes of a digit, polylines float [m, 2] relative to half of the height, and its style."""
    weights, skeletons = _skeletons(digit)
    skeleton = skeletons[generator.choice(len(skeletons), p=weights)]
    mixture = generator.dirichlet(np.full(len(skeleton.points), MIXING))
    points = np.einsum("v,vnd->nd", mixture, skeleton.points)
    noise = generator.normal(0, JITTER * writer.jitter, points.shape)
    noise[1:-1] = (noise[:-2] + 2 * noise[1:-1] + noise[2:]) / 6**0.5  # neighbours move alike
    points += noise * (1 + skeleton.ends[:, None])
    points = (points - [3.5, 5]) / 5

    normal = generator.standard_normal(4)
    slant = writer.slant + SLANT[2] * normal[0]
    thickness = writer.thickness * np.exp(THICKNESS[2] * normal[1])
    width = writer.width * np.exp(WIDTH[2] * normal[2])
    angle = np.radians(ROTATION * normal[3])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[width, -slant], [0, 1]])  # y points downwards, so a positive slant moves the top right
    x, y = points.T
    points = points + np.stack([x * x, x * y, y * y], 1) @ generator.normal(0, WARP, (3, 2))
    strokes = [_rounded(curve @ points, writer.rounding) @ linear.T for curve in skeleton.curves]
    return strokes, np.array([-linear[0, 1] / linear[1, 1], thickness, width])


def _rounded(line: np.ndarray, radius: int) -> np.ndarray:
    """Round the corners of a polyline float [m, 2] by a moving average; its ends stay."""
    if radius == 0:
        return line
    padded = np.concatenate([2 * line[0] - line[radius:0:-1], line, 2 * line[-1] - line[-2 : -radius - 2 : -1]])
    sums = np.cumsum(np.concatenate([np.zeros((1, 2)), padded]), 0)
    return (sums[2 * radius + 1 :] - sums[: -2 * radius - 1]) / (2 * radius + 1)


def _render(strokes: list[np.ndarray], thickness: float, pressure: np.ndarray, size: int) -> np.ndarray:
    """Draw polylines with a pen of `thickness` pixels; return an image uint8 [size, size]."""
    import cv2

    large = size * OVERSAMPLING
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    scale = max(size * 20 / 28 - thickness, size / 4) * OVERSAMPLING / max(high - low)
    offset = (large - 1) / 2 - scale * (low + high) / 2
    paper = np.full((large, large), 255, np.uint8)
    # The last three bits of a coordinate are a fraction of a pixel.
    lines = [np.rint(8 * (scale * stroke + offset)).astype(np.int32) for stroke in strokes]
    cv2.polylines(paper, lines, False, 0, 1, cv2.LINE_8, 3)
    distances = cv2.distanceTransform(paper, cv2.DIST_L2, cv2.DIST_MASK_5)
    ramp = np.linspace(-1.4, 1.4, large, dtype=np.float32)  # -1 and 1 at the edges of the digit
    width = 1 + np.float32(pressure[0]) * ramp + np.float32(pressure[1]) * ramp[:, None]
    ink = np.clip(np.float32(thickness * OVERSAMPLING / 2) * width - distances + 0.5, 0, 1)
    moments = cv2.moments(ink)
    shift = (large - 1) / 2 - np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    placed = cv2.warpAffine(ink, np.column_stack([np.eye(2), shift]), (large, large))
    return np.rint(255 * cv2.resize(placed, (size, size), interpolation=cv2.INTER_AREA)).astype(np.uint8)
