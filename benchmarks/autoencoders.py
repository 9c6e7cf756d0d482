"""The autoencoders on real data: errors, bounds, purities, few labels, and what edits of faces do.

Each line is a run of a recipe, `experiment`, in a folder of its own under --output-dir; what has been measured is not
measured again, so that a benchmark that was stopped goes on. The numbers are the recipes' own, of test images, which
had no say in any setting.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Measured, describe, machine, markdown_table, measure_run, run_benchmark, timed, write_between
from common.attributes import attributed_images
from common.errors import InputError
from common.files import read_npz, replacing
from common.images import save_table
from common.labelled import labelled_images
from common.runs import load_network

KL_WEIGHTS = (0.0, 1.0, 10.0, 50.0)


def mnist_lines() -> dict[str, tuple[str, Any, dict[str, Any]]]:
    """Return the recipe, its settings and the options of `experiment`, for each line that handwritten digits fill."""
    from recipes import adversarial_autoencoder, autoencoder, conv_autoencoder, vae

    few = adversarial_autoencoder.FEW
    lines: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "autoencoder": ("autoencoder", autoencoder.Config(), {"compare": (2, 3, 5, 10, 50)}),
        "autoencoder, denoising": ("autoencoder", autoencoder.DENOISE, {}),
        "conv_autoencoder": ("conv_autoencoder", conv_autoencoder.Config(), {}),
        "vae": ("vae", vae.Config(), {}),
        "adversarial_autoencoder, no labels": ("adversarial_autoencoder", adversarial_autoencoder.Config(), {}),
        "adversarial_autoencoder, petals": ("adversarial_autoencoder", adversarial_autoencoder.PETALS, {}),
        "adversarial_autoencoder, style": ("adversarial_autoencoder", adversarial_autoencoder.STYLE, {}),
        "adversarial_autoencoder, 100 labels": ("adversarial_autoencoder", few, {}),
        "adversarial_autoencoder, 1,000 labels": ("adversarial_autoencoder", replace(few, labelled=1000), {}),
    }
    for weight in KL_WEIGHTS:
        lines[f"vae, KL weight {weight:g}"] = ("vae", replace(vae.Config(), kl_weight=weight, epochs=20), {})
    return lines


def save_kl_weights(mnist: Path, output_dir: Path) -> Path:
    """Write a picture of what each weight of the KL term copies, and what it draws."""
    from recipes import vae

    config = vae.Config()
    digits = labelled_images(str(mnist), config.size, config.channels, lambda: (np.zeros(0), np.zeros(0)))
    shown = digits.test.loaded(12)[0]
    rows = {"unseen": shown}
    for weight in KL_WEIGHTS:
        run = output_dir / f"vae, KL weight {weight:g}"
        networks = vae.Networks(*(load_network(run, name) for name in vae.Networks._fields))
        rows[f"weight {weight:g}: copied"] = vae.reconstruct(networks, shown)
        rows["drawn".rjust(8 + len(rows))] = vae.generate(networks.decoder, len(shown))
    return save_table(rows, output_dir / "kl_weights.png", zoom=2)


def measure_faces(faces: Path, config: Any, output_dir: Path) -> dict[str, Any]:
    """Run vae_faces on faces with real labels; judge its edits by a classifier that learnt from the same labels."""
    from recipes import vae_faces
    from tools import face_classifier

    scores = measure_run("vae_faces", config, faces, output_dir)
    data = attributed_images(str(faces), config.size, config.channels, lambda: (np.zeros(0), np.zeros(0)))
    judge = output_dir / "judge" / "face_classifier.keras"
    seconds: dict[str, float] = {}
    if not judge.exists():
        with timed("judge", seconds):
            classifier = face_classifier.train(*data.train.loaded(50_000))
        with replacing(judge) as draft:
            classifier.save(draft)
        found = face_classifier.accuracies(classifier, *data.test.loaded(10_000))
        scores |= {f"judge_accuracy_{name}": float(share) for name, share in zip(data.names, found, strict=True)}
    networks = vae_faces.Networks(*(load_network(output_dir, name) for name in vae_faces.Networks._fields))
    images = data.test.loaded(2000)[0]
    return scores | vae_faces.evaluate(networks, read_npz(output_dir / "space.npz"), images, judge)


def measure(
    mnist: Path | None = None,
    faces: Path | None = None,
    output_dir: Path = Path("runs/autoencoders"),
    only: tuple[str, ...] = (),
    results: Path | None = None,
) -> None:
    """Measure the autoencoders and print a table a recipe.

    Args:
        mnist: an .npz with x_train, y_train, x_test and y_test of handwritten digits, as MNIST's.
        faces: an .npz of grey 64 px faces, y 1 where they smile.
        output_dir: for the runs and for `autoencoders.json`, where what is there already is not measured again.
        only: names of lines, to measure no others; the rest is shown as far as it is there.
        results: a Markdown file, into which the tables are written between the marks `<!-- autoencoders -->`.
    """
    from recipes import face_swap, vae_faces

    for path in (mnist, faces):
        if path is not None and path.suffix != ".npz":
            raise InputError(f"{path}: not an .npz; give one with x_train, y_train, x_test and y_test")
    found = Measured(output_dir / "autoencoders.json")
    small = replace(vae_faces.SMALL, mirror=False)
    grey = replace(vae_faces.SMALL, channels=1)
    lines = mnist_lines() if mnist is not None else {}
    names = [*lines, "vae_faces, drawn", *(["vae_faces, photos"] if faces else []), "face_swap, drawn"]
    strange = sorted(set(only) - set(names))
    if strange:
        raise InputError(f"{strange[0]!r} is no line of the table; choose from {', '.join(names)}")
    for name in names:
        if only and name not in only:
            continue
        folder = output_dir / name
        if mnist is not None and name in lines:
            recipe, config, options = lines[name]
            found.once(name, lambda: measure_run(recipe, config, mnist, folder, **options))  # noqa: B023
        elif name == "vae_faces, photos":
            found.once(name, lambda: measure_faces(faces, grey, folder))  # type: ignore[arg-type]  # noqa: B023
        else:
            recipe, config = ("vae_faces", small) if name.startswith("vae") else ("face_swap", face_swap.Config())
            found.once(name, lambda: measure_run(recipe, config, Path("sample"), folder))  # noqa: B023
    if mnist is not None and all(f"vae, KL weight {weight:g}" in found.numbers for weight in KL_WEIGHTS):
        print(save_kl_weights(mnist, output_dir))
    text = tables(found.numbers)
    where = describe(machine(os.cpu_count() or 1))
    print(f"\n{text}\n\n{where}")
    if results is not None:
        write_between(results, "autoencoders", f"{text}\n\n{where}")


def tables(numbers: dict[str, dict[str, Any]]) -> str:
    """Return what was measured as Markdown: for each recipe its lines, with every number that its runs report."""
    parts = []
    for recipe in ("autoencoder", "conv_autoencoder", "vae", "vae_faces", "adversarial_autoencoder", "face_swap"):
        rows = {name: scores for name, scores in numbers.items() if name.split(",")[0] == recipe}
        if not rows:
            continue
        keys = list(dict.fromkeys(key for scores in rows.values() for key in scores))
        table = {key: {name: scores[key] for name, scores in rows.items() if key in scores} for key in keys}
        parts.append(markdown_table(table, {name: name for name in rows}, recipe))
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_benchmark(measure)
