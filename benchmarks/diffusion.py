"""Score the images that a diffusion model generates, for several numbers of steps and strengths of the guidance.

The scores are those of `benchmarks.dcgan`: a classifier trained on the same data set gives features, for the Frechet
and kernel distances to the test images, and predictions. Each image is generated for the class of a test image.
`recognised` is the fraction of the images that the classifier recognises as this class. `python -m benchmarks.dcgan`
and this command train the same classifier, so their tables can be compared. The last row compares two halves of the
test images. The bundled classifier of digits, which also scores the images in a run's report, scores all images again.

The number of steps varies at the first guidance, and the guidance varies at the run's number of steps.

Run      python -m benchmarks.diffusion --data mnist.npz --run runs/diffusion-mnist     run again to resume
"""

from __future__ import annotations

import functools
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Measured, markdown_table, run_benchmark
from benchmarks.dcgan import COLUMNS, EPOCHS, Labelled, labelled_images, train_classifier
from common.metrics.scores import classifier_features, sample_scores
from common.system.files import InputError, data_file, replacing
from common.system.keras_files import load_keras_file
from common.system.lazy import keras
from recipes.diffusion import Config, generate, load

OWN, BUNDLED = "classifier of this data set", "bundled classifier"
ALL_COLUMNS = {"recognised": "recognised"} | COLUMNS | {"milliseconds": "ms per image"}


def measure(
    data: Path,
    run: Path,
    samples: int = 10_000,
    steps: tuple[int, ...] = (5, 10, 25, 50),
    guidance: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0),
    output_dir: Path = Path("runs/benchmark-diffusion"),
    epochs: int = EPOCHS,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Print tables of scores, write the scores to `output_dir`, and return them by classifier and set of images.

    Args:
        data: an .npz file with x_train, y_train, x_test and y_test.
        run: the folder of a finished run.
        samples: the number of images to generate for each row.
        steps: numbers of steps from noise to image.
        guidance: strengths of the class; 1 is none. If there are none, the run's is used.
        output_dir: the folder for results.json and classifier.keras.
        epochs: the number of training epochs of the classifier.

    Raises:
        InputError: the data or the run cannot be used, or `output_dir` has results of other data or another run.
    """
    if samples < 2:
        raise InputError(f"--samples must be at least 2, got {samples}")
    if min(steps, default=1) < 1 or min(guidance, default=0) < 0:
        raise InputError("--steps must be 1 or more, and --guidance 0 or more")
    _, network, config = load(run, 0, 0)
    train, test = labelled_images(data, config)
    if config.outputs != train.classes.max() + 1:
        raise InputError(f"{run}: has {config.outputs} classes, but {data} has {train.classes.max() + 1}")
    facts: dict[str, Any] = {"data": str(data), "network": f"{zlib.crc32((run / 'ema.keras').read_bytes()):08x}"}
    facts |= {"samples": samples, "epochs": epochs}
    measured = Measured(output_dir / "results.json")
    if measured.once("of", lambda: facts) != facts:
        raise InputError(f"{output_dir}: has results of {measured.numbers['of']}; choose another --output-dir")
    scorers = classifiers(measured, train, test, output_dir, epochs)

    # Shuffled, because the two halves of MNIST's test set differ.
    order = np.random.default_rng(0).permutation(len(test.images))
    labels = test.classes[order[np.arange(samples) % len(order)]]
    found: dict[str, dict[str, Any]] = {}
    for each in settings(config, steps, guidance):
        score = functools.partial(scored, network, each, labels, test, scorers)
        found[row_name(each)] = measured.once(row_name(each), score)
    half = len(order) // 2
    one, other = (Labelled(test.images[part], test.classes[part]) for part in (order[:half], order[half : 2 * half]))
    found["two halves of the test images"] = measured.once("halves", lambda: compared(other, one, scorers))
    tables = {scorer: {name: row[scorer] for name, row in found.items()} for scorer in scorers}
    print(f"Test accuracy of the {OWN}: {measured.numbers['classifier']['test_accuracy']:.4f}\n")
    print("\n\n".join(markdown_table(table, ALL_COLUMNS, scorer) for scorer, table in tables.items()))
    return tables


def settings(config: Config, steps: tuple[int, ...], guidance: tuple[float, ...]) -> list[Config]:
    """Return the settings of the rows: each number of steps with the first guidance, then each guidance."""
    first = replace(config, guidance=guidance[0]) if guidance else config
    found = [replace(first, steps=each) for each in steps] + [replace(config, guidance=each) for each in guidance]
    return list(dict.fromkeys(found))


def row_name(config: Config) -> str:
    """Return the name of a row of the tables."""
    return f"{config.steps} step{'s' * (config.steps != 1)}, guidance {config.guidance:g}"


def classifiers(measured: Measured, train: Labelled, test: Labelled, output_dir: Path, epochs: int) -> dict[str, Path]:
    """Return the files of the classifiers by name; train the one of this data set, unless that is done."""
    path = output_dir / "classifier.keras"

    def make() -> dict[str, float]:
        classifier = train_classifier(train, epochs)
        with replacing(path) as temporary:
            classifier.save(temporary)
        return {"test_accuracy": float(np.mean(predicted(classifier, test.images) == test.classes))}

    if not path.is_file():
        measured.numbers.pop("classifier", None)
    measured.once("classifier", make)
    found = {OWN: path}
    try:
        found[BUNDLED] = data_file("digit_classifier.keras")
    except InputError as error:
        print(f"skipping the bundled classifier: {error}", file=sys.stderr)
    return found


def predicted(classifier: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the most probable class of each image, int64 [n]."""
    return classifier_features(classifier, images)[1].argmax(1)


def scored(
    network: keras.Model, config: Config, labels: np.ndarray, test: Labelled, scorers: dict[str, Path]
) -> dict[str, dict[str, Any]]:
    """Generate an image of each class in `labels`; return its scores by classifier."""
    began = time.perf_counter()
    images = generate(network, labels, config, seed=1)
    milliseconds = 1000 * (time.perf_counter() - began) / len(labels)
    found = compared(Labelled(images, labels), test, scorers)
    return {scorer: row | {"milliseconds": milliseconds} for scorer, row in found.items()}


def compared(some: Labelled, real: Labelled, scorers: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the scores of images compared with real ones, by classifier."""
    found = {}
    for scorer, path in scorers.items():
        recognised = predicted(load_keras_file(path), some.images) == some.classes
        found[scorer] = {"recognised": float(recognised.mean()), **sample_scores(path, real.images, some.images)}
    return found


if __name__ == "__main__":
    run_benchmark(measure)
