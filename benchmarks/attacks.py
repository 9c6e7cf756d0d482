"""Attacks on classifiers: accuracy against epsilon, targets that are reached, and two libraries' answers beside ours.

What has been measured is not measured again, so that a benchmark that was stopped goes on. Everything is judged as an
8-bit file holds it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Measured, describe, machine, markdown_table, measure_run, run_benchmark, write_between
from common.attacked import images_to_attack
from common.classification import accuracy
from common.errors import InputError
from common.imagenet import Known, frozen_classifier
from common.labelled import Split
from common.lazy import keras, tf
from common.runs import load_network

LEVELS = (0, 1, 2, 4, 8, 16, 25, 64)
TARGETED = 100  # photos
CHECKED = 64  # images on which libraries are compared


def measure(
    mnist: Path | None = None,
    clothes: Path | None = None,
    photos: Path | None = None,
    weights: Path | None = None,
    output_dir: Path = Path("runs/attacks"),
    results: Path | None = None,
) -> None:
    """Measure what was given, and print a table for each task.

    Args:
        mnist: an .npz with x_train, y_train, x_test and y_test of handwritten digits, as MNIST's.
        clothes: the same of clothes, as Fashion-MNIST's.
        photos: a folder with a folder of photos for each of some of ImageNet's classes, by name or number.
        weights: a file of ImageNet's weights for MobileNetV2, with the class index beside it.
        output_dir: for the runs and for `attacks.json`, where what is there already is not measured again.
        results: a Markdown file, into which the tables are written between the marks `<!-- attacks -->`.
    """
    from recipes import fgsm

    if (photos is None) != (weights is None):
        raise InputError("--photos and --weights belong together")
    found = Measured(output_dir / "attacks.json")
    for name, data, config in (("fgsm, clothes", clothes, fgsm.Config()), ("fgsm, digits", mnist, fgsm.DIGITS)):
        if data is not None:
            found.once(name, lambda: measure_trained(config, data, output_dir / name))  # noqa: B023
    if photos is not None and weights is not None:
        found.once("fgsm, photos", lambda: measure_photos(photos, weights))
        for batch_size in (25, 1):
            name = f"targeted, photos, {batch_size} at once"
            count = TARGETED if batch_size > 1 else 10
            found.once(name, lambda: measure_targeted(photos, weights, count, batch_size, output_dir / name))  # noqa: B023
    if importlib.util.find_spec("foolbox") and importlib.util.find_spec("art") and clothes is not None:
        found.once("libraries", lambda: compare_libraries(output_dir / "fgsm, clothes", clothes))
    else:
        print("without foolbox, adversarial-robustness-toolbox and --clothes no library is compared")
    text = tables(found.numbers)
    where = describe(machine(os.cpu_count() or 1))
    print(f"\n{text}\n\n{where}")
    if results is not None:
        write_between(results, "attacks", f"{text}\n\n{where}")


# %% Runs


def measure_trained(config: Any, data: Path, output_dir: Path) -> dict[str, Any]:
    """Run fgsm; attack all test images in one step too, where the run itself takes 500."""
    from recipes import fgsm

    scores = measure_run("fgsm", config, data, output_dir)
    networks = {name: load_network(output_dir, name) for name in fgsm.Networks._fields}
    test = test_images(data, networks["classifier"])
    for name, network in networks.items():
        for level, right in accuracy_at(LEVELS, fgsm.attacked_by(network), test).items():
            scores[f"{name}, all images, {level}/255"] = right
    return scores | {"test_images": len(test.labels), "epsilon": config.epsilon}


def test_images(data: Path, network: keras.Model) -> Split:
    """Return the test part of an .npz whose classes are numbers."""
    _, size, _, channels = network.input_shape
    classes = tuple(map(str, range(network.output_shape[1])))
    return images_to_attack(str(data), Known(network, classes, size, channels, 0, False), no_sample, ())


def no_sample() -> tuple[np.ndarray, np.ndarray]:
    """Raise AssertionError: only what was given is measured."""
    raise AssertionError


def accuracy_at(levels: tuple[int, ...], attacked: Any, test: Split, at_once: int = 250) -> dict[int, float]:
    """Return the share of images that are classified right, by the strength of an attack."""
    right = dict.fromkeys(levels, 0.0)
    for first in range(0, len(test.labels), at_once):
        places = np.arange(first, min(first + at_once, len(test.labels)))
        images, labels = test.images(places), test.labels[places]
        for level in levels:
            seen = attacked.attack(images, labels, level) if level else images
            right[level] += float((attacked.classify(seen).argmax(1) == labels).sum()) / len(test.labels)
    return right


def measure_photos(photos: Path, weights: Path) -> dict[str, Any]:
    """Return MobileNetV2's accuracy on photos at 224 px, by the strength of FGSM."""
    from recipes import fgsm

    known = frozen_classifier("MobileNetV2", str(weights))
    test = images_to_attack(str(photos), known, no_sample, ())
    found = accuracy_at(LEVELS[:5], fgsm.attacked_by(known.classifier), test, at_once=50)
    return {f"{level}/255": right for level, right in found.items()} | {"photos": len(test.labels)}


def measure_targeted(photos: Path, weights: Path, count: int, batch_size: int, output_dir: Path) -> dict[str, Any]:
    """Attack photos towards random targets within 4/255."""
    from recipes import targeted_attack

    config = targeted_attack.Config(weights=str(weights), images=count, batch_size=batch_size)
    return measure_run("targeted_attack", config, photos, output_dir)


def compare_libraries(run: Path, data: Path) -> dict[str, Any]:
    """Return the share of values that foolbox and ART move as the recipe does, and how many images each fools."""
    import foolbox
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    from recipes import fgsm

    network = load_network(run, "classifier")
    images, labels = test_images(data, network).loaded(CHECKED)
    inputs = keras.Input(network.input_shape[1:])
    unit = keras.Model(inputs, network(2 * inputs - 1))  # both want images in [0, 1]
    theirs = foolbox.TensorFlowModel(unit, bounds=(0, 1))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    shape, classes = network.input_shape[1:], network.output_shape[1]
    art = TensorFlowV2Classifier(unit, classes, shape, loss_object=loss, clip_values=(0, 1))
    floats, scores = (images / 255).astype(np.float32), {}
    for level in (8, 24):  # whose quarters, the steps, are whole levels: rounding makes no difference
        for steps in (1, 10):
            epsilon, step = level / 255, 2.5 / steps
            one = foolbox.attacks.LinfFastGradientAttack(random_start=False)
            many = foolbox.attacks.LinfPGD(rel_stepsize=step, steps=steps, random_start=False)
            _, clipped, _ = (one if steps == 1 else many)(
                theirs, tf.constant(floats), tf.constant(labels, tf.int64), epsilons=epsilon
            )
            sign = FastGradientMethod(art, eps=epsilon)
            descent = ProjectedGradientDescent(art, eps=epsilon, eps_step=step * epsilon, max_iter=steps, verbose=False)
            found = {
                "ours": fgsm.attacked_by(network, steps).attack(images, labels, level),
                "foolbox": np.rint(255 * clipped.numpy()).astype(np.uint8),
                "art": np.rint(255 * (sign if steps == 1 else descent).generate(floats, labels)).astype(np.uint8),
            }
            for name, attacked in found.items():
                key = f"{name}, {steps} step{'s' * (steps > 1)}, {level}/255"
                scores[f"{key}, fooled"] = 1 - accuracy(labels, fgsm.classify(network, attacked))
                scores[f"{key}, equal"] = float((attacked == found["ours"]).mean())
    return scores


# %% Tables


def tables(numbers: dict[str, dict[str, Any]]) -> str:
    """Return what was measured as Markdown."""
    parts = []
    columns = {f"{level}/255": f"{level}/255" for level in LEVELS}
    for name in ("fgsm, clothes", "fgsm, digits"):
        if name in numbers:
            scores, rows = numbers[name], {}
            for how, key in ((f"one step, {scores['test_images']} images", "all images"), ("ten, 500", "10 steps")):
                for network in ("classifier", "hardened"):
                    rows[f"{network}, {how}"] = {column: scores[f"{network}, {key}, {column}"] for column in columns}
            parts.append(markdown_table(rows, columns, f"{name}, hardened at {scores['epsilon']:g}"))
    if "fgsm, photos" in numbers:
        scores = numbers["fgsm, photos"]
        few = {column: column for column in list(columns)[:5]}
        parts.append(markdown_table({f"MobileNetV2, {scores['photos']} photos": scores}, few, "fgsm, photos"))
    targeted = {name: scores for name, scores in numbers.items() if name.startswith("targeted")}
    if targeted:
        columns = {
            "images": "photos",
            "reached": "reach 0.8",
            "taken_for_target": "taken for the target",
            "largest_change": "largest change, levels",
            "images_per_second": "photos per second",
        }
        parts.append(markdown_table(targeted, columns, ""))
    if "libraries" in numbers:
        scores, rows = numbers["libraries"], {}
        for key in (key.removesuffix(", fooled") for key in scores if key.endswith(", fooled")):
            rows[key] = {"fooled": scores[f"{key}, fooled"], "equal": scores[f"{key}, equal"]}
        parts.append(markdown_table(rows, {"fooled": "images fooled", "equal": "values as ours"}, "libraries"))
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_benchmark(measure)
