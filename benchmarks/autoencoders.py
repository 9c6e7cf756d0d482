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

    def shorter(config: Any) -> Any:
        return replace(config, epochs=20)  # an epoch of these takes ten seconds or more

    lines: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "autoencoder": ("autoencoder", autoencoder.Config(), {"compare": (2, 3, 5, 10, 50)}),
        "autoencoder, denoising": ("autoencoder", autoencoder.DENOISE, {}),
        "conv_autoencoder": ("conv_autoencoder", conv_autoencoder.Config(), {}),
        "vae": ("vae", vae.Config(), {}),
        "adversarial_autoencoder, no labels": (
            "adversarial_autoencoder",
            shorter(adversarial_autoencoder.Config()),
            {},
        ),
        "adversarial_autoencoder, petals": ("adversarial_autoencoder", shorter(adversarial_autoencoder.PETALS), {}),
        "adversarial_autoencoder, style": ("adversarial_autoencoder", shorter(adversarial_autoencoder.STYLE), {}),
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
            classifier = face_classifier.train(*data.train.loaded(50_000), mirror=True)
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
        elif faces is not None and name == "vae_faces, photos":
            found.once(name, lambda: measure_faces(faces, grey, folder))  # noqa: B023
        else:
            recipe, config = ("vae_faces", small) if name.startswith("vae") else ("face_swap", face_swap.DEMO)
            found.once(name, lambda: measure_run(recipe, config, Path("sample"), folder))  # noqa: B023
    if mnist is not None and all(f"vae, KL weight {weight:g}" in found.numbers for weight in KL_WEIGHTS):
        print(save_kl_weights(mnist, output_dir))
    text = tables(found.numbers)
    where = describe(machine(os.cpu_count() or 1))
    print(f"\n{text}\n\n{where}")
    if results is not None:
        write_between(results, "autoencoders", f"{text}\n\n{where}")


COLUMNS = {  # what the table of a recipe shows of its runs' numbers; the last two are of all
    "vae": {
        "test_elbo_nats": "ELBO, nats",
        "test_importance_weighted_bound_nats": "importance-weighted bound",
        "active_latents": "latents in use",
    },
    "conv_autoencoder": {
        "test_error": "error",
        "purity_latents": "purity of latents",
        "purity_pixels": "of pixels",
        "purity_chance": "by chance",
    },
    "adversarial_autoencoder": {
        "purity_of_codes": "purity of codes",
        "purity_of_pixels": "of pixels",
        "test_error": "test error",
        "papers_error_on_mnist": "the paper's",
        "test_error_from_labels_alone": "from the labels alone",
        "papers_error_on_mnist_from_labels_alone": "the paper's, from them alone",
    },
}
TIMES = {"run_cpu_seconds": "CPU seconds", "run_wall_seconds": "seconds"}


def tables(numbers: dict[str, dict[str, Any]]) -> str:
    """Return what was measured as Markdown: a table a recipe, a line a run, or what a run compares."""
    parts = []
    for recipe, columns in COLUMNS.items():
        rows = {name: scores for name, scores in numbers.items() if name.split(",")[0] == recipe}
        if rows:
            parts.append(markdown_table(rows, columns | TIMES, ""))
    for name, scores in numbers.items():
        if name.startswith("autoencoder"):
            ways = [key.removeprefix("test_error ") for key in scores if key.startswith("test_error ")]
            errors = {way: {"error": f"{scores[f'test_error {way}']:.4f}"} for way in ways}
            parts.append(markdown_table(errors, {"error": "squared error"}, name))
        if name.startswith("vae_faces"):
            kinds = {"flips": "flips", "others_moved": "the others moved", "identity_moved": "identity moved"}
            found = [key.removesuffix("_identity_moved") for key in scores if key.endswith("_identity_moved")]
            edits = {each: {k: scores[f"{each}_{k}"] for k in kinds if f"{each}_{k}" in scores} for each in found}
            parts.append(markdown_table(edits, kinds, name))
        if name.startswith("face_swap"):
            kinds = {"": "swapped", "_copied": "copied", "_recoloured": "recoloured"}
            swaps = {
                f"{way}, {score}": {kind: scores[f"{way}{kind}_{score}"] for kind in kinds}
                for way in ("a2b", "b2a")
                for score in ("l1", "ssim")
            }
            parts.append(markdown_table(swaps, kinds, name))
        if not any(name.split(",")[0] == recipe for recipe in COLUMNS):
            rest = {"test_absolute_error": "error of copies"} if name.startswith("vae_faces") else {}
            rest |= {key: "accuracy of the judge" for key in scores if key.startswith("judge_accuracy")}
            parts.append(markdown_table({name: scores}, rest | TIMES, ""))
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_benchmark(measure)
