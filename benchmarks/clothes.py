"""Score the four clothes classifiers on one data set: accuracy, calibration, time, and accuracy with fewer labels.

Each row is one run of a recipe, in its own folder under --output-dir. Existing measurements are kept, so an interrupted
benchmark resumes where it stopped. The baseline is HOG features with scikit-learn's linear SVM. Test images are used
only for the scores. Hyperparameters were chosen on the validation set, the 10 % of the training images that the recipes
hold out.
"""

from __future__ import annotations

import importlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import (
    Measured,
    describe,
    machine,
    markdown_table,
    measure_run,
    run_benchmark,
    timed,
    write_between,
)
from common.data.labelled import Split, labelled_images
from common.metrics.classification import accuracy
from common.samples.clothes import synthetic_clothes
from common.system.files import InputError, replacing

RECIPES = ("dog_svm", "mlp", "lenet", "mobilenet")
FRACTIONS = (0.01, 0.1)  # fractions of the labels, in addition to runs with all labels


def cases(weights: str) -> dict[str, tuple[str, Any]]:
    """Return the recipe and the configuration of each row of the table."""
    dog_svm, mlp, lenet, mobilenet = map(importlib.import_module, [f"recipes.{name}" for name in RECIPES])
    found: dict[str, tuple[str, Any]] = {
        "dog_svm, Gaussian pyramid": ("dog_svm", dog_svm.PYRAMID),
        "dog_svm": ("dog_svm", dog_svm.Config()),
        "dog_svm, oriented": ("dog_svm", dog_svm.ORIENTED),
        "mlp": ("mlp", mlp.Config()),
        "mlp, wide": ("mlp", mlp.WIDE),
        "lenet": ("lenet", lenet.Config()),
        "lenet, modern": ("lenet", lenet.MODERN),
    }
    if weights:
        for name, config in (("frozen, 224 px", mobilenet.FROZEN), ("fine-tuned, 64 px", mobilenet.Config())):
            found[f"mobilenet, {name}"] = ("mobilenet", replace(config, channels=1, weights=weights))
    return found


def with_fraction(data: Path, fraction: float, folder: Path) -> Path:
    """Write an .npz file with all test images and the same fraction of the training images of each class."""
    path = folder / f"{fraction:g}.npz"
    if path.exists():
        return path
    with np.load(data, allow_pickle=False) as arrays:
        parts = dict(arrays)
    order = np.random.default_rng(0).permutation(len(parts["y_train"]))
    labels = parts["y_train"].reshape(-1)[order]
    by_class = [order[labels == label] for label in np.unique(labels)]
    chosen = np.concatenate([each[: max(3, round(fraction * len(each)))] for each in by_class])
    chosen = np.random.default_rng(1).permutation(chosen)
    with replacing(path) as temporary:
        np.savez(temporary, **parts | {key: parts[key][chosen] for key in ("x_train", "y_train")})
    return path


def longer(config: Any, fraction: float) -> Any:
    """Return the configuration for a fraction of the labels. The number of epochs is divided by sqrt(fraction)."""
    if hasattr(config, "penalty"):  # the SVM trains until it converges
        return config
    name = "head_epochs" if getattr(config, "frozen", False) else "epochs"
    return replace(config, **{name: round(getattr(config, name) / fraction**0.5)})


def measure_pyramid(data: Path) -> dict[str, float]:
    """Return the time per Gaussian pyramid: for the recipe (in batches), and for scikit-image (single images)."""
    from skimage.transform import pyramid_gaussian

    from recipes.dog_svm import PYRAMID, build, extract_features

    images = labelled_images(str(data), 28, 1, lambda: synthetic_clothes(10, 0)).train.items[:5000]
    network = build(PYRAMID).features
    extract_features(network, images)  # trace before timing
    rounds: list[tuple[float, float]] = []
    for _ in range(5):
        began = time.perf_counter()
        extract_features(network, images)
        between = time.perf_counter()
        for image in images[:500, ..., 0]:
            list(pyramid_gaussian(image))
        rounds.append(((between - began) / len(images), (time.perf_counter() - between) / 500))
    ours, others = np.median(rounds, axis=0) * 1e6
    return {
        "microseconds": float(ours),
        "one_by_one": float(others),
        "ratio": float(np.median([b / a for a, b in rounds])),
    }


def measure_hog(data: Path) -> dict[str, float | int | str]:
    """Return the accuracy of HOG (histograms of oriented gradients) with scikit-learn's default linear SVM."""
    from skimage.feature import hog
    from sklearn.svm import LinearSVC

    def describe_split(split: Split) -> np.ndarray:
        cells: dict[str, Any] = {"orientations": 9, "pixels_per_cell": (4, 4), "cells_per_block": (2, 2)}
        images = (image[..., 0] for part in split.in_order() for image in part)
        return np.stack([hog(image, **cells, feature_vector=True).astype(np.float32) for image in images])

    labelled = labelled_images(str(data), 28, 1, lambda: synthetic_clothes(10, 0))
    seconds: dict[str, float] = {}
    with timed("run", seconds):
        features = describe_split(labelled.train)
        classifier = LinearSVC(dual=False).fit(features, labelled.train.labels)
        margins = classifier.decision_function(describe_split(labelled.test))
    return {"test_accuracy": accuracy(labelled.test.labels, margins), "weights": classifier.coef_.size} | seconds


def measure(
    data: Path,
    weights: str = "",
    output_dir: Path = Path("runs/clothes"),
    seeds: int = 3,
    only: tuple[str, ...] = (),
    results: Path | None = None,
) -> None:
    """Measure the four classifiers and print two tables.

    Args:
        data: an .npz file of grey 28 px images in Fashion-MNIST's format, with x_train, y_train, x_test and y_test.
        weights: a file of ImageNet weights for MobileNetV2, or `imagenet`. If empty, mobilenet is skipped.
        output_dir: the folder for the runs and `clothes.json`. Results already in this file are kept.
        seeds: the number of seeds. Runs that take more than five CPU minutes use one seed.
        only: names of the rows to measure. Rows measured earlier are also shown.
        results: a Markdown file with two markers `<!-- clothes -->`. The tables replace the text between them.
    """
    if data.suffix != ".npz":
        raise InputError(f"{data}: not an .npz file; expected one with x_train, y_train, x_test and y_test")
    found = Measured(output_dir / "clothes.json")
    known = cases(weights)
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a row of the tables; choose from {', '.join(known)}")
    for name, (recipe, config) in known.items():
        if only and name not in only:
            continue
        for seed in range(seeds):
            key = f"{name}/{seed}"
            first = found.once(key, lambda: measure_run(recipe, replace(config, seed=seed), data, output_dir / key))  # noqa: B023
            if first["run_cpu_seconds"] > 300 or recipe == "dog_svm":
                break  # one seed for long runs, and for the SVM, which is deterministic
        for fraction in FRACTIONS:
            key = f"{name}/fraction {fraction:g}"
            part = with_fraction(data, fraction, output_dir)
            found.once(key, lambda: measure_run(recipe, longer(config, fraction), part, output_dir / key))  # noqa: B023
    if not only:
        found.once("HOG and linear SVM/0", lambda: measure_hog(data))
        for fraction in FRACTIONS:
            part = with_fraction(data, fraction, output_dir)
            found.once(f"HOG and linear SVM/fraction {fraction:g}", lambda: measure_hog(part))  # noqa: B023
        found.once("pyramid", lambda: measure_pyramid(data))
    text = tables([*known, "HOG and linear SVM"], found.numbers)
    if "pyramid" in found.numbers:
        text += (
            "\n\nA Gaussian pyramid takes {microseconds:.0f} microseconds per image in batches. With scikit-image, one "
            "image at a time, it takes {one_by_one:.0f} microseconds, {ratio:.0f} times as long."
        ).format(**found.numbers["pyramid"])
    where = describe(machine(os.cpu_count() or 1))
    print(f"\n{text}\n\n{where}")
    if results is not None:
        write_between(results, "clothes", f"{text}\n\n{where}")


def tables(names: list[str], found: dict[str, dict[str, Any]]) -> str:
    """Return two Markdown tables: all scores with all labels, and the accuracy for each fraction of the labels."""
    full: dict[str, dict[str, float | int | str]] = {}
    fractions: dict[str, dict[str, str]] = {}
    for name in names:
        runs = [scores for key, scores in found.items() if key.startswith(f"{name}/") and "fraction" not in key]
        if not runs:
            continue
        accuracies = [run["test_accuracy"] for run in runs]
        mean, spread = np.mean(accuracies), np.std(accuracies, ddof=1) if len(runs) > 1 else None
        shown = f"{mean:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
        full[name] = {
            "accuracy": shown,
            "seeds": len(runs),
            "weights": f"{runs[0]['weights']:,}",
            "cpu": f"{np.mean([run['run_cpu_seconds'] for run in runs]) / 60:.1f}",
            "wall": f"{np.mean([run['run_wall_seconds'] for run in runs]) / 60:.1f}",
        }
        if "expected_calibration_error" in runs[0]:
            full[name]["calibration"] = float(np.mean([run["expected_calibration_error"] for run in runs]))
        few = {f"{f:g}": found[f"{name}/fraction {f:g}"] for f in FRACTIONS if f"{name}/fraction {f:g}" in found}
        fractions[name] = {key: f"{scores['test_accuracy']:.3f}" for key, scores in few.items()}
        fractions[name]["1"] = f"{mean:.3f}"
    headings = {"accuracy": "test accuracy", "calibration": "calibration error", "seeds": "seeds", "weights": "weights"}
    first = markdown_table(full, headings | {"cpu": "CPU minutes", "wall": "minutes"}, "")
    second = markdown_table(
        fractions, {f"{f:g}": f"{100 * f:g} % of the labels" for f in (*FRACTIONS, 1)}, "test accuracy"
    )
    return f"{first}\n\n{second}"


if __name__ == "__main__":
    run_benchmark(measure)
