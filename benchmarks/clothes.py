"""The four clothes classifiers on one data set: accuracy, calibration and time, and accuracy with fewer labels.

Each line is a run of a recipe, `experiment`, in a folder of its own under --output-dir; what has been measured is not
measured again, so that a benchmark that was stopped goes on. HOG features with scikit-learn's linear SVM stand beside
them. Test images are only looked at for the scores; settings were chosen by the tenth of the training images that the
recipes hold out for it.
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
from common.classification import accuracy
from common.clothes import drawn_clothes
from common.errors import InputError
from common.files import replacing
from common.labelled import Split, labelled_images

RECIPES = ("dog_svm", "mlp", "lenet", "mobilenet")
SHARES = (0.01, 0.1)  # of the labels, beside all of them


def cases(weights: str) -> dict[str, tuple[str, Any]]:
    """Return the recipe and the settings of each line of the table."""
    dog_svm, mlp, lenet, mobilenet = map(importlib.import_module, [f"recipes.{name}" for name in RECIPES])
    found: dict[str, tuple[str, Any]] = {
        "dog_svm, Gaussian pyramid": ("dog_svm", dog_svm.PYRAMID),
        "dog_svm": ("dog_svm", dog_svm.Config()),
        "mlp": ("mlp", mlp.Config()),
        "mlp, wide": ("mlp", mlp.WIDE),
        "lenet": ("lenet", lenet.Config()),
        "lenet, modern": ("lenet", lenet.MODERN),
    }
    if weights:
        for name, config in (("frozen, 224 px", mobilenet.FROZEN), ("fine-tuned, 64 px", mobilenet.Config())):
            found[f"mobilenet, {name}"] = ("mobilenet", replace(config, channels=1, weights=weights))
    return found


def with_share(data: Path, share: float, folder: Path) -> Path:
    """Write an .npz with a share of the training images, the same number of each class, and all test images."""
    path = folder / f"{share:g}.npz"
    if path.exists():
        return path
    with np.load(data, allow_pickle=False) as arrays:
        parts = dict(arrays)
    order = np.random.default_rng(0).permutation(len(parts["y_train"]))
    labels = parts["y_train"].reshape(-1)[order]
    places = [order[labels == label] for label in np.unique(labels)]
    chosen = np.concatenate([place[: max(3, round(share * len(place)))] for place in places])
    chosen = np.random.default_rng(1).permutation(chosen)
    with replacing(path) as draft:
        np.savez(draft, **parts | {key: parts[key][chosen] for key in ("x_train", "y_train")})
    return path


def longer(config: Any, share: float) -> Any:
    """Return the settings for a share of the labels: as many more epochs as its square root is small."""
    if hasattr(config, "penalty"):  # the SVM's end is its minimum, however many labels there are
        return config
    name = "head_epochs" if getattr(config, "frozen", False) else "epochs"
    return replace(config, **{name: round(getattr(config, name) / share**0.5)})


def measure_pyramid(data: Path) -> dict[str, float]:
    """Return the microseconds an image that pyramids take: the recipe's in batches, scikit-image's one by one."""
    from skimage.transform import pyramid_gaussian

    from recipes.dog_svm import PYRAMID, build, describe

    images = labelled_images(str(data), 28, 1, lambda: drawn_clothes(10, 0)).train.items[:5000]
    network = build(PYRAMID).features
    describe(network, images)  # traced now
    rounds: list[tuple[float, float]] = []
    for _ in range(5):
        began = time.perf_counter()
        describe(network, images)
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
    """Return the accuracy of histograms of oriented gradients with scikit-learn's linear SVM at its defaults."""
    from skimage.feature import hog
    from sklearn.svm import LinearSVC

    def describe_split(split: Split) -> np.ndarray:
        cells: dict[str, Any] = {"orientations": 9, "pixels_per_cell": (4, 4), "cells_per_block": (2, 2)}
        images = (image[..., 0] for part in split.in_order() for image in part)
        return np.stack([hog(image, **cells, feature_vector=True).astype(np.float32) for image in images])

    labelled = labelled_images(str(data), 28, 1, lambda: drawn_clothes(10, 0))
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
        data: an .npz with x_train, y_train, x_test and y_test of grey 28 px images, as Fashion-MNIST's.
        weights: a file of MobileNetV2's ImageNet weights, or imagenet; without it that recipe is left out.
        output_dir: for the runs and for `clothes.json`, where what is there already is not measured again.
        seeds: how many, where a run takes under five minutes of CPU.
        only: names of lines, to measure no others; the rest is shown as far as it is there.
        results: a Markdown file, into which the tables are written between the marks `<!-- clothes -->`.
    """
    if data.suffix != ".npz":
        raise InputError(f"{data}: not an .npz; give one with x_train, y_train, x_test and y_test")
    found = Measured(output_dir / "clothes.json")
    known = cases(weights)
    strange = sorted(set(only) - set(known))
    if strange:
        raise InputError(f"{strange[0]!r} is no line of the table; choose from {', '.join(known)}")
    for name, (recipe, config) in known.items():
        if only and name not in only:
            continue
        for seed in range(seeds):
            key = f"{name}/{seed}"
            first = found.once(key, lambda: measure_run(recipe, replace(config, seed=seed), data, output_dir / key))  # noqa: B023
            if first["run_cpu_seconds"] > 300 or recipe == "dog_svm":
                break  # one seed is enough where it takes long, or where nothing is drawn
        for share in SHARES:
            key = f"{name}/share {share:g}"
            part = with_share(data, share, output_dir)
            found.once(key, lambda: measure_run(recipe, longer(config, share), part, output_dir / key))  # noqa: B023
    if not only:
        found.once("HOG and linear SVM/0", lambda: measure_hog(data))
        for share in SHARES:
            part = with_share(data, share, output_dir)
            found.once(f"HOG and linear SVM/share {share:g}", lambda: measure_hog(part))  # noqa: B023
        found.once("pyramid", lambda: measure_pyramid(data))
    text = tables([*known, "HOG and linear SVM"], found.numbers)
    if "pyramid" in found.numbers:
        text += (
            "\n\nThe pyramid of an image takes {microseconds:.0f} microseconds in batches, and {one_by_one:.0f} one by "
            "one with scikit-image: {ratio:.0f} times as long.".format(**found.numbers["pyramid"])
        )
    where = describe(machine(os.cpu_count() or 1))
    print(f"\n{text}\n\n{where}")
    if results is not None:
        write_between(results, "clothes", f"{text}\n\n{where}")


def tables(names: list[str], found: dict[str, dict[str, Any]]) -> str:
    """Return what was measured as Markdown: all labels with all scores, then accuracy by the share of labels."""
    full: dict[str, dict[str, float | int | str]] = {}
    shares: dict[str, dict[str, str]] = {}
    for name in names:
        runs = [scores for key, scores in found.items() if key.startswith(f"{name}/") and "share" not in key]
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
        few = {f"{s:g}": found[f"{name}/share {s:g}"] for s in SHARES if f"{name}/share {s:g}" in found}
        shares[name] = {share: f"{scores['test_accuracy']:.3f}" for share, scores in few.items()} | {"1": f"{mean:.3f}"}
    headings = {"accuracy": "test accuracy", "calibration": "calibration error", "seeds": "seeds", "weights": "weights"}
    first = markdown_table(full, headings | {"cpu": "CPU minutes", "wall": "minutes"}, "")
    second = markdown_table(shares, {f"{s:g}": f"{100 * s:g} % of the labels" for s in (*SHARES, 1)}, "test accuracy")
    return f"{first}\n\n{second}"


if __name__ == "__main__":
    run_benchmark(measure)
