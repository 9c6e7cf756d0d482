"""Score the GAN recipes on synthetic and real data: distances, accuracy with few labels, and translations.

Each row is one run of a recipe, in its own folder under --output-dir. Existing measurements are kept, so an interrupted
benchmark resumes where it stopped. The recipes compute the scores on held-out images. A distance between two sets of
images is hard to interpret on its own, so the tables also show the distance between two sets of real images.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import Measured, describe, machine, markdown_table, measure_run, run_benchmark, write_between
from common.data.attributes import attributed_images
from common.data.datasets import images_of
from common.images.writing import save_image
from common.metrics.scores import sample_scores, set_distances
from common.runs.networks import load_network
from common.samples.faces import PORTRAITS, synthetic_faces
from common.system.files import InputError, data_file

SEEDS = (0, 1, 2)
FACES = 1000  # few enough for a discriminator to memorise
FACE_EPOCHS = 45
STREET_EPOCHS = 15
AUGMENTATION = {"plain": "without augmentation", "shifted": "random shifts", "augmented": "shifts, colours, cutout"}
PUBLISHED = {"ssgan, clothes": 0.83, "ssgan, digits": 0.9907}  # from a textbook, and from arXiv:1606.03498, table 1


class Line(NamedTuple):
    """One run to measure."""

    recipe: str
    config: Any
    data: str  # "sample", or the command-line flag for the data


def lines() -> dict[str, Line]:
    """Return all runs, keyed by name. If runs differ only in their seed, their names end in `, seed N`."""
    from recipes import cyclegan, dcgan_faces, gan, ssgan

    found = {"gan, digits": Line("gan", gan.Config(), "--mnist")}
    small = dcgan_faces.Config(base_filters=24, ema_decay=0.998, batch_size=16, learning_rate=5e-4, epochs=FACE_EPOCHS)
    shifted = replace(small, images=FACES, colour=0.0, cutout=0.0)
    kinds = (replace(shifted, translation=0.0), shifted, replace(shifted, colour=1.0, cutout=0.5))
    for seed in SEEDS:  # the seed also changes the synthetic faces
        for kind, config in zip(AUGMENTATION, kinds, strict=True):
            found[f"dcgan_faces, synthetic, {kind}, seed {seed}"] = Line(
                "dcgan_faces", replace(config, seed=seed), "sample"
            )
    for seed in SEEDS:
        found[f"ssgan, clothes, seed {seed}"] = Line("ssgan", replace(ssgan.CLOTHES, seed=seed), "--clothes")
    found["ssgan, digits"] = Line("ssgan", ssgan.HANDWRITTEN, "--mnist")
    found["cyclegan, synthetic"] = Line("cyclegan", cyclegan.DEMO, "sample")
    found["cyclegan, streets"] = Line("cyclegan", replace(cyclegan.DEMO, epochs=STREET_EPOCHS), "--streets")
    return found


# %% Runs


def measure_digits(config: Any, mnist: Path, output_dir: Path) -> dict[str, Any]:
    """Run gan. Also compare half of the test images with the same number of samples, and with the other half."""
    from recipes import gan

    scores = measure_run("gan", config, mnist, output_dir)
    examples = images_of(str(mnist), config.size, config.channels, "digits")
    (real,) = examples.held_out(10_000)
    order = np.random.default_rng(0).permutation(len(real) // 2 * 2)
    half, other = np.split(real[order], 2)
    classifier = data_file("digit_classifier.keras")
    generated = gan.generate(load_network(output_dir, "generator"), len(half), seed=1)
    of_half, of_test = (sample_scores(classifier, half, images) for images in (generated, other))
    for key in ("frechet_distance", "kernel_distance"):
        scores |= {f"{key}_of_half": of_half[key], f"{key}_of_test_images": of_test[key]}
    return scores


def measure_faces(config: Any, output_dir: Path) -> dict[str, Any]:
    """Run dcgan_faces on synthetic faces. Also compare the held-out faces with the same number of training faces."""
    scores = measure_run("dcgan_faces", config, Path("sample"), output_dir)
    faces = attributed_images("sample", config.size, config.channels, "portraits", seed=config.seed)
    real = faces.test.loaded(2000)[0]
    found = set_distances(data_file("face_classifier.keras"), real, faces.train.loaded(len(real))[0])
    return scores | {f"{key}_of_training_images": found[key] for key in ("frechet_distance", "kernel_distance")}


def save_faces(runs: dict[str, Path], size: int, output_dir: Path) -> Path:
    """Write a figure: ten synthetic training faces in the first row, ten generated faces in each of the other rows.

    Each run has two rows: the last weights of its generator, and the EMA of the weights.

    Args:
        runs: the run folders, keyed by the captions of their rows.
        size: the image size in pixels.
        output_dir: the folder for `faces.png`.
    """
    from recipes import dcgan_faces

    rows = {"training faces": synthetic_faces(10, 0, size, **PORTRAITS)[0]}
    for name, run in runs.items():
        for network, which in (("generator", "last weights"), ("ema", "EMA of the weights")):
            generator = load_network(run, network)
            latents = np.random.default_rng(1).standard_normal((10, generator.input_shape[-1]), np.float32)
            rows[f"{name}, {which}"] = dcgan_faces.generate(generator, latents)
    return save_image(rows, output_dir / "faces.png")


def measure(
    mnist: Path | None = None,
    clothes: Path | None = None,
    streets: Path | None = None,
    output_dir: Path = Path("runs/adversarial"),
    only: tuple[str, ...] = (),
    results: Path | None = None,
) -> None:
    """Measure the GAN recipes and print their tables.

    Args:
        mnist: an .npz file of handwritten digits in MNIST's format, with x_train, y_train, x_test and y_test.
        clothes: an .npz file of clothes in Fashion-MNIST's format, with the same arrays.
        streets: a folder of street photos at dusk and by day, with the subfolders trainA, trainB, testA and testB.
        output_dir: the folder for the runs and `adversarial.json`. Results already in this file are kept.
        only: names of the rows to measure. Rows measured earlier are also shown.
        results: a Markdown file with two markers `<!-- adversarial -->`. The tables replace the text between them.
    """
    for path in (mnist, clothes):
        if path is not None and path.suffix != ".npz":
            raise InputError(f"{path}: not an .npz file; expected one with x_train, y_train, x_test and y_test")
    if streets is not None and not streets.is_dir():
        raise InputError(f"{streets}: no such folder; expected one with trainA/, trainB/, testA/ and testB/")
    given = {"sample": Path("sample"), "--mnist": mnist, "--clothes": clothes, "--streets": streets}
    known = lines()
    for name in only:
        if name not in known:
            raise InputError(f"{name!r} is not a row of the tables; choose from {'; '.join(known)}")
        if given[known[name].data] is None:
            raise InputError(f"--only {name!r} needs {known[name].data}")
    for option in [option for option, path in given.items() if path is None and not only]:
        without = "; ".join(name for name, line in known.items() if line.data == option)
        print(f"Without {option}, these rows are skipped: {without}", file=sys.stderr)
    found = Measured(output_dir / "adversarial.json")
    for name, (recipe, config, source) in known.items():
        data, folder = given[source], output_dir / name
        if data is None or (only and name not in only):
            continue
        if recipe == "gan":
            found.once(name, lambda: measure_digits(config, data, folder))  # noqa: B023
        elif recipe == "dcgan_faces":
            found.once(name, lambda: measure_faces(config, folder))  # noqa: B023
        else:
            found.once(name, lambda: measure_run(recipe, config, data, folder))  # noqa: B023
    firsts = {about: f"dcgan_faces, synthetic, {kind}, seed {SEEDS[0]}" for kind, about in AUGMENTATION.items()}
    runs = {about: output_dir / name for about, name in firsts.items() if name in found.numbers}
    if len(runs) > 1:
        print(save_faces(runs, known[next(iter(firsts.values()))].config.size, output_dir))
    text = tables(found.numbers)
    where = describe(machine(os.cpu_count() or 1))
    print(f"\n{text}\n\n{where}")
    if results is not None:
        write_between(results, "adversarial", f"{text}\n\n{where}")


# %% Tables

TIMES = {"run_cpu_seconds": "CPU seconds", "run_wall_seconds": "seconds"}
SETS = {"frechet_distance": "Frechet distance", "kernel_distance": "kernel distance"}
GUESSES = {
    "": "translated",
    "_unchanged": "unchanged",
    "_colour_shift": "colour transfer",
    "_mean_image": "mean image",
}


def tables(numbers: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown tables: digits, faces, few labels, translations. With several seeds: mean ± std."""
    parts = []
    if "gan, digits" in numbers:
        scores = numbers["gan, digits"]
        whole = {"confidence": "confidence", "rarest_class_fraction": "rarest digit"} | TIMES
        parts.append(markdown_table({"samples": scores}, SETS | whole, "gan, digits"))
        halves = {
            who: {key: scores[f"{key}_{end}"] for key in SETS}
            for who, end in (("samples", "of_half"), ("other test images", "of_test_images"))
        }
        parts.append(markdown_table(halves, SETS, "gan, digits: distance to half of the test images"))
    faces = {kind: of_seeds(numbers, f"dcgan_faces, synthetic, {kind}") for kind in AUGMENTATION}
    for key, heading in SETS.items() if any(faces.values()) else ():
        ends = {"_without_ema": "last weights", "": "EMA of the weights", "_of_training_images": "training faces"}
        rows = {
            AUGMENTATION[kind]: {end: spread(runs, key + end) for end in ends} | {"seeds": len(runs)} | mean_times(runs)
            for kind, runs in faces.items()
            if runs
        }
        parts.append(markdown_table(rows, ends | {"seeds": "seeds"} | TIMES, f"dcgan_faces, {heading}"))
    sums = {
        f"{name.replace('_', ' ')}, {AUGMENTATION[kind]}": {
            end: spread(runs, name + end) for end in ("_frequency", "_success_rate", "_dark_skin_rate")
        }
        for kind, runs in faces.items()
        for name in ("glasses", "looking_left")
        if any(f"{name}_success_rate" in run for run in runs)
    }
    if sums:
        columns = {
            "_frequency": "fraction of all faces",
            "_success_rate": "fraction of a - b + c",
            "_dark_skin_rate": "dark skin, fraction of a - b + c",
        }
        parts.append(markdown_table(sums, columns, "dcgan_faces, attribute"))
    few: dict[str, dict[str, Any]] = {}
    for name, published in PUBLISHED.items():
        if runs := of_seeds(numbers, name):
            keys = ("test_accuracy", "test_accuracy_from_labels_alone")
            few[name] = {key: spread(runs, key, 4) for key in keys} | {"published": f"{published:g}"}
            few[name] |= {"seeds": len(runs)} | mean_times(runs)
    if few:
        columns = {"test_accuracy": "test accuracy", "test_accuracy_from_labels_alone": "supervised only"}
        parts.append(markdown_table(few, columns | {"published": "published", "seeds": "seeds"} | TIMES, ""))
    if "cyclegan, synthetic" in numbers:
        scores = numbers["cyclegan, synthetic"]
        ways = {
            f"{way}, {measure}": {guess: scores[f"{way}{guess}_{measure}"] for guess in GUESSES}
            for way in ("a2b", "b2a")
            for measure in ("l1", "ssim")
        }
        parts.append(markdown_table(ways, GUESSES, "cyclegan, synthetic"))
    cycles = {name: scores for name, scores in numbers.items() if name.startswith("cyclegan")}
    if cycles:
        columns = {"a_cycle_l1": "A to B and back, L1", "b_cycle_l1": "B to A and back, L1"}
        parts.append(markdown_table(cycles, columns | TIMES, ""))
    return "\n\n".join(parts)


def of_seeds(numbers: dict[str, dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the scores of the runs that differ only in their seed, one entry per seed."""
    return [scores for key, scores in numbers.items() if key.partition(", seed ")[0] == name]


def spread(runs: list[dict[str, Any]], key: str, digits: int = 3) -> str:
    """Return the mean of a score over the runs, and the standard deviation if there are several runs."""
    values = [run[key] for run in runs if key in run]
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def mean_times(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the times, averaged over the runs."""
    return {key: float(np.mean([run[key] for run in runs])) for key in TIMES if all(key in run for run in runs)}


if __name__ == "__main__":
    run_benchmark(measure)
