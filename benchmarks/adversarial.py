"""The adversarial nets on drawn and on real data: distances, accuracies from few labels, and translations.

Each line is a run of a recipe, `experiment`, in a folder of its own under --output-dir; what has been measured is not
measured again, so that a benchmark that was stopped goes on. The numbers are the recipes' own, of held-out images; a
distance between sets means nothing alone, so that of real images stands beside it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import Measured, describe, machine, markdown_table, measure_run, run_benchmark, write_between
from common.attributes import attributed_images
from common.datasets import images_of
from common.errors import InputError
from common.faces import FACE_ATTRIBUTES, drawn_faces
from common.files import data_file
from common.images import save_table
from common.runs import load_network
from common.scores import sample_scores, set_distances

SEEDS = (0, 1, 2)
FACES = 1000  # so few that a discriminator can learn them by heart
FACE_EPOCHS = 45
STREET_EPOCHS = 15
AUGMENTATION = {"plain": "without augmentation", "shifted": "random shifts", "augmented": "shifts, colours, cutout"}
PUBLISHED = {"ssgan, clothes": 0.83, "ssgan, digits": 0.9907}  # a textbook's; arXiv:1606.03498, table 1


class Line(NamedTuple):
    """A run to measure."""

    recipe: str
    config: Any
    data: str  # "sample", or the option that names it


def lines() -> dict[str, Line]:
    """Return all that can be measured, by name; those of a recipe that differ in the seed alone end in `, seed N`."""
    from recipes import cyclegan, dcgan_faces, gan, ssgan

    found = {"gan, digits": Line("gan", gan.Config(), "--mnist")}
    shifted = replace(dcgan_faces.DEMO, images=FACES, epochs=FACE_EPOCHS, colour=0.0, cutout=0.0)
    kinds = (replace(shifted, translation=0.0), shifted, replace(shifted, colour=1.0, cutout=0.5))
    for seed in SEEDS:  # a seed draws other faces too
        for kind, config in zip(AUGMENTATION, kinds, strict=True):
            found[f"dcgan_faces, drawn, {kind}, seed {seed}"] = Line(
                "dcgan_faces", replace(config, seed=seed), "sample"
            )
    for seed in SEEDS:
        found[f"ssgan, clothes, seed {seed}"] = Line("ssgan", replace(ssgan.CLOTHES, seed=seed), "--clothes")
    found["ssgan, digits"] = Line("ssgan", ssgan.HANDWRITTEN, "--mnist")
    found["cyclegan, drawn"] = Line("cyclegan", cyclegan.DEMO, "sample")
    found["cyclegan, streets"] = Line("cyclegan", replace(cyclegan.DEMO, epochs=STREET_EPOCHS), "--streets")
    return found


# %% Runs


def measure_digits(config: Any, mnist: Path, output_dir: Path) -> dict[str, Any]:
    """Run gan; compare as many samples as half of the test images with that half too, and the other half with it."""
    from recipes import gan

    scores = measure_run("gan", config, mnist, output_dir)
    examples = images_of(str(mnist), config.size, config.channels, lambda: gan.sample_digits(config))
    (real,) = examples.held_out(10_000)
    order = np.random.default_rng(0).permutation(len(real) // 2 * 2)
    half, other = np.split(real[order], 2)
    of_half = gan.evaluate(load_network(output_dir, "generator"), half)
    of_test = sample_scores(data_file("digit_classifier.keras"), half, other)
    for key in ("frechet_distance", "kernel_distance"):
        scores |= {f"{key}_of_half": of_half[key], f"{key}_of_test_images": of_test[key]}
    return scores


def measure_faces(config: Any, output_dir: Path) -> dict[str, Any]:
    """Run dcgan_faces on drawn faces; compare as many of the training faces with the held-out ones too."""
    scores = measure_run("dcgan_faces", config, Path("sample"), output_dir)
    faces = attributed_images(
        "sample",
        config.size,
        config.channels,
        lambda: drawn_faces(3000, config.seed, config.size),
        names=FACE_ATTRIBUTES,
    )
    real = faces.test.loaded(2000)[0]
    found = set_distances(data_file("face_classifier.keras"), real, faces.train.loaded(len(real))[0])
    return scores | {f"{key}_of_training_images": found[key] for key in ("frechet_distance", "kernel_distance")}


def save_faces(runs: dict[str, Path], size: int, output_dir: Path) -> Path:
    """Write a picture of what the generators of runs draw from the same ten latents, and of ten faces drawn by rule.

    Args:
        runs: by what their rows shall be called.
        size: of their images, in pixels.
        output_dir: the folder for `faces.png`.
    """
    from recipes import dcgan_faces

    rows = {"drawn by rule": drawn_faces(10, 0, size)[0]}
    for name, run in runs.items():
        for network, which in (("generator", "last weights"), ("averaged", "averaged weights")):
            generator = load_network(run, network)
            latents = np.random.default_rng(1).standard_normal((10, generator.input_shape[-1]), np.float32)
            rows[f"{name}, {which}"] = dcgan_faces.draw(generator, latents)
    return save_table(rows, output_dir / "faces.png")


def measure(
    mnist: Path | None = None,
    clothes: Path | None = None,
    streets: Path | None = None,
    output_dir: Path = Path("runs/adversarial"),
    only: tuple[str, ...] = (),
    results: Path | None = None,
) -> None:
    """Measure the adversarial nets and print a table for each task.

    Args:
        mnist: an .npz with x_train, y_train, x_test and y_test of handwritten digits, as MNIST's.
        clothes: the same of clothes, as Fashion-MNIST's.
        streets: a folder with trainA, trainB, testA and testB of photos of streets, at dusk and by day.
        output_dir: for the runs and for `adversarial.json`, where what is there already is not measured again.
        only: names of lines, to measure no others; the rest is shown as far as it is there.
        results: a Markdown file, into which the tables are written between the marks `<!-- adversarial -->`.
    """
    for path in (mnist, clothes):
        if path is not None and path.suffix != ".npz":
            raise InputError(f"{path}: not an .npz; give one with x_train, y_train, x_test and y_test")
    if streets is not None and not streets.is_dir():
        raise InputError(f"{streets}: no such folder; give one with trainA/, trainB/, testA/ and testB/")
    given = {"sample": Path("sample"), "--mnist": mnist, "--clothes": clothes, "--streets": streets}
    known = lines()
    for name in only:
        if name not in known:
            raise InputError(f"{name!r} is no line of the table; choose from {'; '.join(known)}")
        if given[known[name].data] is None:
            raise InputError(f"{name!r} needs {known[name].data}")
    for option in [option for option, path in given.items() if path is None and not only]:
        without = "; ".join(name for name, line in known.items() if line.data == option)
        print(f"Without {option} these lines are left out: {without}", file=sys.stderr)
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
    firsts = {about: f"dcgan_faces, drawn, {kind}, seed {SEEDS[0]}" for kind, about in AUGMENTATION.items()}
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
    "_colours": "mean colours moved",
    "_mean_picture": "mean picture",
}


def tables(numbers: dict[str, dict[str, Any]]) -> str:
    """Return what was measured as Markdown: digits, faces, few labels, translations; mean ± deviation of the seeds."""
    parts = []
    if "gan, digits" in numbers:
        scores = numbers["gan, digits"]
        whole = {"confidence": "confidence", "rarest_class_share": "rarest digit's share"} | TIMES
        parts.append(markdown_table({"samples": scores}, SETS | whole, "gan, digits"))
        halves = {
            who: {key: scores[f"{key}_{end}"] for key in SETS}
            for who, end in (("samples", "of_half"), ("other test images", "of_test_images"))
        }
        parts.append(markdown_table(halves, SETS, "gan, digits: to half of the test images"))
    faces = {kind: of_seeds(numbers, f"dcgan_faces, drawn, {kind}") for kind in AUGMENTATION}
    for key, heading in SETS.items() if any(faces.values()) else ():
        ends = {"_unaveraged": "last weights", "": "averaged weights", "_of_training_images": "training faces"}
        rows = {
            AUGMENTATION[kind]: {end: spread(runs, key + end) for end in ends} | {"seeds": len(runs)} | mean_times(runs)
            for kind, runs in faces.items()
            if runs
        }
        parts.append(markdown_table(rows, ends | {"seeds": "seeds"} | TIMES, f"dcgan_faces, {heading}"))
    sums = {
        f"{name.replace('_', ' ')}, {AUGMENTATION[kind]}": {
            end: spread(runs, name + end) for end in ("_share", "_put_in", "_put_in_dark_skin_too")
        }
        for kind, runs in faces.items()
        for name in ("glasses", "looking_left")
        if any(f"{name}_put_in" in run for run in runs)
    }
    if sums:
        columns = {"_share": "of all", "_put_in": "of a - b + c", "_put_in_dark_skin_too": "dark skin too"}
        parts.append(markdown_table(sums, columns, "dcgan_faces: share with"))
    few: dict[str, dict[str, Any]] = {}
    for name, published in PUBLISHED.items():
        if runs := of_seeds(numbers, name):
            keys = ("test_accuracy", "test_accuracy_from_labels_alone")
            few[name] = {key: spread(runs, key, 4) for key in keys} | {"published": f"{published:g}"}
            few[name] |= {"seeds": len(runs)} | mean_times(runs)
    if few:
        columns = {"test_accuracy": "test accuracy", "test_accuracy_from_labels_alone": "from the labels alone"}
        parts.append(markdown_table(few, columns | {"published": "the source's", "seeds": "seeds"} | TIMES, ""))
    if "cyclegan, drawn" in numbers:
        scores = numbers["cyclegan, drawn"]
        ways = {
            f"{way}, {measure}": {guess: scores[f"{way}{guess}_{measure}"] for guess in GUESSES}
            for way in ("a2b", "b2a")
            for measure in ("l1", "ssim")
        }
        parts.append(markdown_table(ways, GUESSES, "cyclegan, drawn"))
    cycles = {name: scores for name, scores in numbers.items() if name.startswith("cyclegan")}
    if cycles:
        columns = {"a_cycle_l1": "A to B and back, L1", "b_cycle_l1": "B to A and back, L1"}
        parts.append(markdown_table(cycles, columns | TIMES, ""))
    return "\n\n".join(parts)


def of_seeds(numbers: dict[str, dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the numbers of a line, or of all its seeds."""
    return [scores for key, scores in numbers.items() if key.partition(", seed ")[0] == name]


def spread(runs: list[dict[str, Any]], key: str, digits: int = 3) -> str:
    """Return the mean of a number over runs and, where it is of several, their standard deviation."""
    values = [run[key] for run in runs if key in run]
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def mean_times(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean seconds of a run."""
    return {key: float(np.mean([run[key] for run in runs])) for key in TIMES if all(key in run for run in runs)}


if __name__ == "__main__":
    run_benchmark(measure)
