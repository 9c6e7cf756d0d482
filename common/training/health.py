"""Warnings about unhealthy training: values in the history that are outside their healthy ranges.

Adversarial training often fails in one of two ways: the generator collapses to a few images, or the discriminator
dominates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Healthy(NamedTuple):
    """The healthy range of a history column, and the warning for values outside it."""

    least: float
    most: float
    otherwise: str


MODE_COLLAPSE = Healthy(0.3, math.inf, "mode collapse: generated images are nearly equal, or training has just begun")
DISCRIMINATOR_DOMINATES = Healthy(0.1, math.inf, "the discriminator dominates: the generator gets almost no gradient")
GAN_SIGNS = {"discriminator": DISCRIMINATOR_DOMINATES, "diversity": MODE_COLLAPSE}  # by history column


def epoch_warnings(row: Mapping[str, float], healthy: Mapping[str, tuple[float, float, str]]) -> list[str]:
    """Return one warning for each column whose value in this epoch is outside its healthy range."""
    found = []
    for name, (least, most, otherwise) in healthy.items():
        value = row.get(name, math.nan)
        if value < least or value > most:
            limit = f"below {least:g}" if value < least else f"above {most:g}"
            found.append(f"{otherwise} ({name} {value:.3g}, {limit})")
    return found


def run_warnings(history: Sequence[Mapping[str, float]], healthy: Mapping[str, tuple[float, float, str]]) -> list[str]:
    """Return one warning, with the epochs and the worst value, for each column with unhealthy values.

    Consecutive epochs are written as a range.
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
