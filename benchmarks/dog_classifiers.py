"""Compare classifiers on the hand-made features of dog_svm: a linear SVM, a random forest, and gradient boosting.

All classifiers get the same features of the same images: differences of Gaussians of the built-in clothes, or of
`--data`. For each of the seeds, the images, their split and the classifiers differ. The trees are those of
scikit-learn, with its default hyperparameters, except that the forest has more trees, and that boosting considers a
tenth of the features at each split, for speed. Nothing was tuned. Trees are not an option
of the recipe, because scikit-learn stores them with pickle, which runs code from the file.

Existing measurements are kept, so an interrupted benchmark resumes where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Measured, describe, machine, markdown_table, run_benchmark, timed, write_between
from common.data.labelled import Labelled, Split, labelled_images
from common.metrics.classification import accuracy, expected_calibration_error
from common.system.files import InputError

CLASSIFIERS = ("linear SVM (the recipe)", "linear SVM (LIBLINEAR)", "random forest", "gradient boosting")
TREES = 300  # of the random forest
ROUNDS = 100  # of gradient boosting; each adds one tree per class
COLUMNS = 0.1  # fraction of the features that gradient boosting considers at each split

Features = tuple[np.ndarray, np.ndarray]
"""Features [n, d] and labels [n]."""


def measure(
    data: str = "sample",
    output_dir: Path = Path("runs/dog_classifiers"),
    seeds: int = 3,
    only: tuple[str, ...] = (),
    results: Path | None = None,
) -> None:
    """Measure the classifiers and print a table.

    Args:
        data: images in one folder per class, an .npz file, or `sample` for the built-in clothes.
        output_dir: the folder for `dog_classifiers.json`. Results already in this file are kept.
        seeds: the number of seeds.
        only: names of the rows to measure. Rows measured earlier are also shown.
        results: a Markdown file with two markers `<!-- dog_classifiers -->`. The table replaces the text between them.
    """
    if unknown := sorted(set(only) - set(CLASSIFIERS)):
        raise InputError(f"{unknown[0]!r} is not a row of the table; choose from {', '.join(CLASSIFIERS)}")
    found = Measured(output_dir / "dog_classifiers.json")
    for seed in range(seeds):
        for name in only or CLASSIFIERS:
            found.once(f"{name}/{seed}", lambda: score(name, data, seed))  # noqa: B023
    text = f"{table(found.numbers)}\n\n{describe(machine(os.cpu_count() or 1))}"
    print(f"\n{text}")
    if results is not None:
        write_between(results, "dog_classifiers", text)


def score(name: str, data: str, seed: int) -> dict[str, float]:
    """Fit a classifier to the training images. Return its scores on the test images, and the seconds of the fit."""
    from recipes import dog_svm

    config = dog_svm.Config(seed=seed)
    labelled = labelled_images(data, config.size, config.channels, "clothes", seed=seed)
    config = replace(config, outputs=len(labelled.classes))
    networks = dog_svm.build(config)
    test, labels = features_of(labelled.test, networks)
    seconds: dict[str, float] = {}
    if name == CLASSIFIERS[0]:
        with timed("fit", seconds):
            dog_svm.train(networks, labelled.batches(0, seed), config)
        probabilities = np.concatenate([dog_svm.classify(networks, part) for part in labelled.test.in_order()])
    else:
        train = features_of(labelled.train, networks)
        with timed("fit", seconds):
            classify = fitted(name, train, labelled, networks, seed)
        probabilities = classify(test)
    error = expected_calibration_error(labels, probabilities)
    return {"test_accuracy": accuracy(labels, probabilities), "calibration": error} | seconds


def features_of(split: Split, networks: Any) -> Features:
    """Return the features [n, d] of all images of a split, and their labels [n]."""
    from recipes.dog_svm import extract_features

    return np.concatenate([extract_features(networks.features, part) for part in split.in_order()]), split.labels


def fitted(
    name: str, train: Features, labelled: Labelled, networks: Any, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit one of scikit-learn's classifiers; return a function from features [n, d] to probabilities [n, classes].

    The margins of the SVM become probabilities as in the recipe: by temperature scaling on the validation images.
    """
    from scipy.special import softmax
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.svm import LinearSVC

    from common.metrics.classification import temperature_scale

    if name == "linear SVM (LIBLINEAR)":
        svm = LinearSVC(dual=False, fit_intercept=False).fit(*train)  # the last feature is 1
        features, labels = features_of(labelled.validation, networks)
        scale = temperature_scale(svm.decision_function(features), labels)
        return lambda features: softmax(scale * svm.decision_function(features), axis=1)
    if name == "random forest":
        return RandomForestClassifier(TREES, random_state=seed, n_jobs=-1).fit(*train).predict_proba
    options = {"max_iter": ROUNDS, "max_features": COLUMNS, "early_stopping": False}
    boosting = HistGradientBoostingClassifier(**options, random_state=seed)
    return boosting.fit(*train).predict_proba


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table with the mean scores over the seeds, and the standard deviation of the accuracy."""
    rows: dict[str, dict[str, float | int | str]] = {}
    for name in CLASSIFIERS:
        runs = [scores for key, scores in found.items() if key.rpartition("/")[0] == name]
        if not runs:
            continue
        accuracies = [run["test_accuracy"] for run in runs]
        spread = f" ± {np.std(accuracies, ddof=1):.4f}" if len(runs) > 1 else ""
        rows[name] = {
            "accuracy": f"{np.mean(accuracies):.4f}{spread}",
            "calibration": float(np.mean([run["calibration"] for run in runs])),
            "seeds": len(runs),
            "seconds": f"{np.mean([run['fit_cpu_seconds'] for run in runs]):.1f}",
        }
    headings = {"accuracy": "test accuracy", "calibration": "calibration error", "seeds": "seeds"}
    return markdown_table(rows, headings | {"seconds": "CPU seconds of the fit"}, "")


if __name__ == "__main__":
    run_benchmark(measure)
