"""The scores of a run in words, for its report: a table that compares them with baselines, and the rest as a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MEANINGS = {  # name of a score -> its name in words, and what is good
    "l1": ("L1 error", "0 is best"),
    "psnr": ("PSNR in dB", "higher is better"),
    "ssim": ("SSIM", "1 is best"),
    "test_accuracy": ("accuracy on test images", "1 is best"),
    "expected_calibration_error": ("calibration error", "0 is best"),
    "test_error": ("error on test images", "0 is best"),
    "pca_error": ("error of PCA", "0 is best"),
    "frechet_distance": ("Frechet distance to real images", "0 is best"),
    "kernel_distance": ("kernel distance to real images", "0 is best"),
    "recognised_as_class": ("fraction recognised as the class asked for", "1 is best"),
    "confidence": ("confidence of the classifier", "mean of its largest probabilities"),
    "rarest_class_fraction": ("fraction of the rarest class", ""),
    "commonest_class_fraction": ("fraction of the commonest class", ""),
    "class_entropy": ("entropy of the classes in nats", ""),
    "pixel_accuracy": ("accuracy per pixel", "1 is best"),
    "class_accuracy": ("accuracy, averaged over classes", "1 is best"),
    "mean_iou": ("mean IoU of the classes", "1 is best"),
    "test_elbo_nats": ("ELBO in nats", "higher is better"),
    "test_importance_weighted_bound_nats": ("importance-weighted bound in nats", "higher is better"),
    "test_absolute_error": ("absolute error on test images", "0 is best"),
    "mean_confidence": ("mean confidence in the target class", "1 is best"),
    "classified_as_target": ("classified as the target", "1 is best"),
}

BASELINES = {
    "real": "real images",
    "unchanged": "unchanged input",
    "without_ema": "without EMA",
}


class Scores(NamedTuple):
    """Scores as they are shown."""

    columns: list[tuple[str, str]]  # scores that have a baseline: the name in words, and what is good
    rows: dict[str, list[str]]  # this run first, then each baseline; one text per column
    others: list[tuple[str, str, str]]  # name in words, what is good, value


def shown_scores(results: Mapping[str, Any], shown: Callable[[object], str]) -> Scores:
    """Split `results` into a table and a list.

    A score has a baseline if there is a second score with the same name and a prefix: `l1` and `unchanged_l1`, or a
    suffix: `style` and `style_of_colours_alone`.

    Args:
        results: the scores by name.
        shown: returns a value as text.
    """
    numbers = [name for name, value in results.items() if isinstance(value, float)]
    roots = [name for name in numbers if not any(_baseline(name, score) for score in numbers)]
    cells: dict[str, dict[str, str]] = {}  # baseline -> score -> value
    others = [name for name in results if name not in numbers or name in roots]
    for name in numbers:
        found = next(((baseline, score) for score in roots if (baseline := _baseline(name, score))), None)
        if found:
            cells.setdefault(found[0], {})[found[1]] = shown(results[name])
        elif name not in roots:
            others.append(name)
    compared = [name for name in roots if any(name in row for row in cells.values())]
    rows = {"this run": [shown(results[name]) for name in compared]} if compared else {}
    for baseline, row in cells.items():
        rows[BASELINES.get(baseline, baseline.replace("_", " "))] = [row.get(name, "") for name in compared]
    listed = [(*in_words(name), shown(results[name])) for name in others if name not in compared]
    return Scores([in_words(name) for name in compared], rows, listed)


def in_a_sentence(scores: Scores) -> str:
    """Return the most important score with its baselines, such as "L1 error: 0.03 (unchanged input: 0.1; 0 is best)."

    This is the first score that has a baseline, otherwise the first whose meaning is known. Without scores, the
    sentence is empty.
    """
    if scores.rows:
        name, good = scores.columns[0]
        (_, value), *baselines = [(row, cells[0]) for row, cells in scores.rows.items() if cells[0]]
    elif scores.others:
        name, good, value = next((each for each in scores.others if each[1]), scores.others[0])
        baselines = []
    else:
        return ""
    notes = "; ".join([*(f"{row}: {cell}" for row, cell in baselines), *filter(None, [good])])
    return f"{name[0].upper()}{name[1:]}: {value}" + (f" ({notes})." if notes else ".")


def _baseline(name: str, score: str) -> str:
    """Return the baseline in the name of a score, such as `unchanged` in `unchanged_l1`, or an empty string."""
    if name.endswith(f"_{score}"):
        return name.removesuffix(f"_{score}")
    return name.removeprefix(f"{score}_") if name.startswith((f"{score}_of_", f"{score}_without_")) else ""


def in_words(name: str) -> tuple[str, str]:
    """Return the name of a score in words, and what is good."""
    return MEANINGS.get(name, (name.replace("_", " "), ""))
