"""Signs that adversarial training has failed: samples that are copies, and a game that one side has won."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Healthy(NamedTuple):
    """Where a column of the history should lie, and what is the matter where it does not."""

    least: float
    most: float
    otherwise: str


COPIES = Healthy(0.3, math.inf, "samples are copies of each other: the generator has collapsed, or has barely begun")
ONE_SIDED = Healthy(0.1, math.inf, "the discriminator has won: while it does, the generator learns next to nothing")
GAN_SIGNS = {"discriminator": ONE_SIDED, "diversity": COPIES}  # of columns of these names


def epoch_warnings(row: Mapping[str, float], healthy: Mapping[str, Healthy]) -> list[str]:
    """Return a line for each column of an epoch that lies outside of what is healthy."""
    found = []
    for name, (least, most, otherwise) in healthy.items():
        value = row.get(name, math.nan)
        if value < least or value > most:
            limit = f"below {least:g}" if value < least else f"above {most:g}"
            found.append(f"{otherwise} ({name} {value:.3g}, {limit})")
    return found


def run_warnings(history: Sequence[Mapping[str, float]], healthy: Mapping[str, Healthy]) -> list[str]:
    """Return a line for each column that was not healthy at some time: in which epochs, and the worst value.

    Epochs that follow one another are written as a range.
    """
    found = []
    for name, (least, most, otherwise) in healthy.items():
        bad = [row for row in history if row.get(name, least) < least or row.get(name, most) > most]
        if not bad:
            continue
        spans: list[list[int]] = []
        for epoch in (int(row["epoch"]) for row in bad):
            if spans and spans[-1][1] == epoch - 1:
                spans[-1][1] = epoch
            else:
                spans.append([epoch, epoch])
        when = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in spans)
        worst = min((row[name] for row in bad), key=lambda value: -max(least - value, value - most))
        limit = f"below {least:g}" if worst < least else f"above {most:g}"
        plural = "s" if len(bad) > 1 else ""
        found.append(f"epoch{plural} {when}: {otherwise} ({name} {worst:.3g}, {limit})")
    return found


def sample_diversity(samples: np.ndarray, real: np.ndarray) -> float:
    """Return how far samples lie from their like, in units of the same distance between real images.

    That distance is the median, over the images of a set, of the Euclidean distance in pixels to the nearest other
    one. 1: as varied as real images; near 0: most samples have a double. Sets of different size are cut to the
    smaller one, because in a larger set the nearest is nearer.

    Args:
        samples: uint8 [n, height, width, channels], n at least 2.
        real: the same for real images; no two of them alike.
    """
    count = min(len(samples), len(real))
    if count < 2:
        raise ValueError(f"diversity needs 2 samples and 2 real images, got {len(samples)} and {len(real)}")
    distances = [_nearest_distance(images[:count].reshape(count, -1).astype(np.float64)) for images in (samples, real)]
    return distances[0] / distances[1] if distances[1] else math.nan


def _nearest_distance(points: np.ndarray) -> float:
    """Return the median distance of points [n, d] from their nearest neighbours."""
    squares = (points**2).sum(1)
    distances = squares[:, None] + squares - 2 * points @ points.T
    np.fill_diagonal(distances, np.inf)
    return float(np.sqrt(np.median(np.maximum(distances.min(1), 0))))
