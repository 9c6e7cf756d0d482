"""Attack classifiers: accuracy for each epsilon, targeted attacks, and a comparison with two libraries.

Existing measurements are kept, so an interrupted benchmark resumes where it stopped. Adversarial images are rounded to
8 bits before they are scored.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Measured, describe, machine, markdown_table, measure_run, run_benchmark, write_between
from common.data.labelled import Split
from common.metrics.classification import accuracy
from common.runs.attacks import images_to_attack
from common.runs.networks import load_network
from common.runs.pretrained import Classifier
from common.system.files import InputError
from common.system.lazy import keras, tf

LEVELS = (0, 1, 2, 4, 8, 16, 25, 64)  # epsilon in units of 1/255
TARGETED = 100  # photos in the targeted attack (10 at batch size 1)
CHECKED = 64  # images in the comparison with libraries


def measure(
    mnist: Path | None = None,
    clothes: Path | None = None,
    photos: Path | None = None,
    weights: Path | None = None,
    output_dir: Path = Path("runs/attacks"),
    results: Path | None = None,
) -> None:
    """Measure attacks on the given data, and print one table per task.

    Args:
        mnist: an .npz file of handwritten digits in MNIST's format, with x_train, y_train, x_test and y_test.
        clothes: an .npz file of clothes in Fashion-MNIST's format, with the same arrays.
        photos: a folder of photos with one subfolder per ImageNet class, named by class name or index.
        weights: a file of ImageNet weights for MobileNetV2, with imagenet_class_index.json in the same folder.
        output_dir: the folder for the runs and `attacks.json`. Results already in this file are kept.
        results: a Markdown file with two markers `<!-- attacks -->`. The tables replace the text between them.
    """
    from recipes import fgsm

    if (photos is None) != (weights is None):
        raise InputError("--photos and --weights must be given together")
    found = Measured(output_dir / "attacks.json")
    for name, data, config in (("fgsm, clothes", clothes, fgsm.Config()), ("fgsm, digits", mnist, fgsm.DIGITS)):
        if data is not None:
            found.once(name, lambda: measure_trained(config, data, output_dir / name))  # noqa: B023
    if photos is not None and weights is not None:
        found.once("fgsm, photos", lambda: measure_photos(photos, weights))
        for batch_size in (25, 1):
            name = f"targeted, photos, batch size {batch_size}"
            count = TARGETED if batch_size > 1 else 10
            found.once(name, lambda: measure_targeted(photos, weights, count, batch_size, output_dir / name))  # noqa: B023
    if importlib.util.find_spec("foolbox") and importlib.util.find_spec("art") and clothes is not None:
        found.once("libraries", lambda: compare_libraries(output_dir / "fgsm, clothes", clothes))
    else:
        print("skipping the libraries, which need foolbox, adversarial-robustness-toolbox and --clothes")
    text = tables(found.numbers)
    where = describe(machine(os.cpu_count() or 1))
    print(f"\n{text}\n\n{where}")
    if results is not None:
        write_between(results, "attacks", f"{text}\n\n{where}")


# %% Runs


def measure_trained(config: Any, data: Path, output_dir: Path) -> dict[str, Any]:
    """Run fgsm, which attacks 500 test images. Also attack all test images, with one step."""
    from recipes import fgsm

    scores = measure_run("fgsm", config, data, output_dir)
    networks = {name: load_network(output_dir, name) for name in fgsm.Networks._fields}
    test = test_images(data, networks["classifier"])
    for name, network in networks.items():
        for level, right in accuracy_at(LEVELS, network, test).items():
            scores[f"{name}, all images, {level}/255"] = right
    return scores | {"test_images": len(test.labels), "epsilon": config.epsilon}


def test_images(data: Path, network: keras.Model) -> Split:
    """Return the test images and labels of an .npz file."""
    _, size, _, channels = network.input_shape
    classes = tuple(map(str, range(network.output_shape[1])))
    return images_to_attack(str(data), Classifier(network, classes, size, channels, 0, False), no_sample)


def no_sample() -> tuple[np.ndarray, np.ndarray]:
    """Raise AssertionError: this benchmark has no built-in data."""
    raise AssertionError


def accuracy_at(levels: tuple[int, ...], network: keras.Model, test: Split, at_once: int = 250) -> dict[int, float]:
    """Return the accuracy under FGSM for each epsilon in `levels` (units of 1/255)."""
    from recipes import fgsm

    attack, right = fgsm.make_attack(network), dict.fromkeys(levels, 0.0)
    for first in range(0, len(test.labels), at_once):
        indices = np.arange(first, min(first + at_once, len(test.labels)))
        images, labels = test.images(indices), test.labels[indices]
        for level in levels:
            seen = attack(images, labels, level) if level else images
            right[level] += float((fgsm.classify(network, seen).argmax(1) == labels).sum()) / len(test.labels)
    return right


def measure_photos(photos: Path, weights: Path) -> dict[str, Any]:
    """Return the accuracy of MobileNetV2 under FGSM for each epsilon, on photos of 224 px."""
    known = Classifier.load("MobileNetV2", str(weights))
    test = images_to_attack(str(photos), known, no_sample)
    found = accuracy_at(LEVELS[:5], known.network, test, at_once=50)
    return {f"{level}/255": right for level, right in found.items()} | {"photos": len(test.labels)}


def measure_targeted(photos: Path, weights: Path, count: int, batch_size: int, output_dir: Path) -> dict[str, Any]:
    """Attack photos with random target classes and an epsilon of 4/255."""
    from recipes import targeted_attack

    config = targeted_attack.Config(weights=str(weights), images=count, batch_size=batch_size)
    return measure_run("targeted_attack", config, photos, output_dir)


def compare_libraries(run: Path, data: Path) -> dict[str, Any]:
    """Attack with the recipe, foolbox and ART.

    Return two scores per attack: the fraction of images fooled, and the fraction of pixel values equal to the recipe's.
    """
    import foolbox
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    from recipes import fgsm

    network = load_network(run, "classifier")
    images, labels = test_images(data, network).loaded(CHECKED)
    inputs = keras.Input(network.input_shape[1:])
    unit = keras.Model(inputs, network(2 * inputs - 1))  # both libraries expect images in [0, 1]
    theirs = foolbox.TensorFlowModel(unit, bounds=(0, 1))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    shape, classes = network.input_shape[1:], network.output_shape[1]
    art = TensorFlowV2Classifier(unit, classes, shape, loss_object=loss, clip_values=(0, 1))
    floats, scores = (images / 255).astype(np.float32), {}
    for level in (8, 24):  # step sizes are multiples of 1/255, so rounding changes nothing
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
                "ours": fgsm.make_attack(network, steps)(images, labels, level),
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
    """Return the results as Markdown tables."""
    parts = []
    columns = {f"{level}/255": f"{level}/255" for level in LEVELS}
    for name in ("fgsm, clothes", "fgsm, digits"):
        if name in numbers:
            scores, rows = numbers[name], {}
            for how, key in (
                (f"one step, {scores['test_images']} images", "all images"),
                ("ten steps, 500 images", "10 steps"),
            ):
                for network in ("classifier", "robust"):
                    rows[f"{network}, {how}"] = {column: scores[f"{network}, {key}, {column}"] for column in columns}
            parts.append(markdown_table(rows, columns, f"{name}, trained at epsilon {scores['epsilon']:g}"))
    if "fgsm, photos" in numbers:
        scores = numbers["fgsm, photos"]
        few = {column: column for column in list(columns)[:5]}
        parts.append(markdown_table({f"MobileNetV2, {scores['photos']} photos": scores}, few, "fgsm, photos"))
    targeted = {name: scores for name, scores in numbers.items() if name.startswith("targeted")}
    if targeted:
        columns = {
            "images": "photos",
            "reached": "target probability 0.8 or more",
            "classified_as_target": "classified as the target",
            "largest_change": "largest change of a pixel (of 255)",
            "images_per_second": "photos per second",
        }
        parts.append(markdown_table(targeted, columns, ""))
    if "libraries" in numbers:
        scores, rows = numbers["libraries"], {}
        for key in (key.removesuffix(", fooled") for key in scores if key.endswith(", fooled")):
            rows[key] = {"fooled": scores[f"{key}, fooled"], "equal": scores[f"{key}, equal"]}
        columns = {"fooled": "fraction of images fooled", "equal": "fraction of values equal to ours"}
        parts.append(markdown_table(rows, columns, "attack"))
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_benchmark(measure)
