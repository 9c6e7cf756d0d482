"""Score the autoencoders: reconstruction error, ELBO, k-NN label agreement, error with few labels, face edits.

Each row is one run of a recipe, in its own folder under --output-dir. Existing measurements are kept, so an interrupted
benchmark resumes where it stopped. The recipes compute the scores on test images, which were not used to choose any
hyperparameters.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Measured, describe, machine, markdown_table, measure_run, run_benchmark, timed, write_between
from common.data.attributes import attributed_images
from common.data.labelled import labelled_images
from common.images.writing import save_image
from common.runs.networks import load_network
from common.system.files import InputError, read_npz, replacing

KL_WEIGHTS = (0.0, 1.0, 10.0, 50.0)


def mnist_lines() -> dict[str, tuple[str, Any, dict[str, Any]]]:
    """Return the recipe, its configuration and the options of `run` for each row that uses handwritten digits."""
    from recipes import adversarial_autoencoder, autoencoder, conv_autoencoder, vae

    few = adversarial_autoencoder.FEW

    def shorter(config: Any) -> Any:
        return replace(config, epochs=20)  # to save time: one epoch takes ten seconds or more

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
    """Write a figure with reconstructed and generated images for each KL weight."""
    from recipes import vae

    config = vae.Config()
    digits = labelled_images(str(mnist), config.size, config.channels, lambda: (np.zeros(0), np.zeros(0)))
    shown = digits.test.loaded(12)[0]
    rows = {"test image": shown}
    for weight in KL_WEIGHTS:
        run = output_dir / f"vae, KL weight {weight:g}"
        networks = vae.Networks(*(load_network(run, name) for name in vae.Networks._fields))
        rows[f"weight {weight:g}: reconstructed"] = vae.reconstruct(networks, shown)
        rows["generated".rjust(12 + len(rows))] = vae.generate(networks.decoder, len(shown))
    return save_image(rows, output_dir / "kl_weights.png", zoom=2)


def measure_faces(faces: Path, config: Any, output_dir: Path) -> dict[str, Any]:
    """Run vae_faces on labelled photos; score its edits with a classifier trained on the same photos and labels."""
    from recipes import vae_faces
    from tools import face_classifier

    scores = measure_run("vae_faces", config, faces, output_dir)
    data = attributed_images(str(faces), config.size, config.channels, lambda: (np.zeros(0), np.zeros(0)))
    evaluator = output_dir / "evaluator" / "face_classifier.keras"
    seconds: dict[str, float] = {}
    if not evaluator.exists():
        with timed("evaluator", seconds):
            classifier = face_classifier.train(*data.train.loaded(50_000), mirror=True)
        with replacing(evaluator) as temporary:
            classifier.save(temporary)
        found = face_classifier.accuracies(classifier, *data.test.loaded(10_000))
        scores |= {f"evaluator_accuracy_{name}": float(each) for name, each in zip(data.names, found, strict=True)}
    networks = vae_faces.Networks(*(load_network(output_dir, name) for name in vae_faces.Networks._fields))
    space = vae_faces.LatentSpace(**read_npz(output_dir / "space.npz"))
    data = data._replace(names=tuple(space.names), classifier=evaluator)
    return scores | vae_faces.evaluate(networks, space, data.test.loaded(2000)[0], data.edit_scores)


def measure(
    mnist: Path | None = None,
    faces: Path | None = None,
    output_dir: Path = Path("runs/autoencoders"),
    only: tuple[str, ...] = (),
    results: Path | None = None,
) -> None:
    """Measure the autoencoders and print their tables.

    Args:
        mnist: an .npz file of handwritten digits in MNIST's format, with x_train, y_train, x_test and y_test.
        faces: an .npz file of grey 64 px faces with the same arrays. The label is 1 for smiling faces.
        output_dir: the folder for the runs and `autoencoders.json`. Results already in this file are kept.
        only: names of the rows to measure. Rows measured earlier are also shown.
        results: a Markdown file with two markers `<!-- autoencoders -->`. The tables replace the text between them.
    """
    from recipes import face_swap, vae_faces

    for path in (mnist, faces):
        if path is not None and path.suffix != ".npz":
            raise InputError(f"{path}: not an .npz file; expected one with x_train, y_train, x_test and y_test")
    found = Measured(output_dir / "autoencoders.json")
    small = replace(vae_faces.SMALL, mirror=False)
    grey = replace(vae_faces.SMALL, channels=1)
    lines = mnist_lines() if mnist is not None else {}
    names = [*lines, "vae_faces, synthetic", *(["vae_faces, photos"] if faces else []), "face_swap, synthetic"]
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a row of the tables; choose from {', '.join(names)}")
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


COLUMNS = {  # for each recipe: keys of its scores, and their table headers
    "vae": {
        "test_elbo_nats": "ELBO, nats",
        "test_importance_weighted_bound_nats": "importance-weighted bound",
        "active_latents": "active latents",
    },
    "conv_autoencoder": {
        "test_error": "squared error",
        "knn_agreement_latents": "k-NN label agreement (k = 10): latents",
        "knn_agreement_pixels": "pixels",
        "knn_agreement_chance": "chance",
    },
    "adversarial_autoencoder": {
        "knn_agreement_latents": "k-NN label agreement (k = 10): latents",
        "knn_agreement_pixels": "pixels",
        "test_error": "test error",
        "papers_error_on_mnist": "paper: test error",
        "test_error_from_labels_alone": "supervised only",
        "papers_error_on_mnist_from_labels_alone": "paper: supervised only",
    },
}
TIMES = {"run_cpu_seconds": "CPU seconds", "run_wall_seconds": "seconds"}


def tables(numbers: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown tables: one per recipe, or one per run if a run compares several methods or attributes."""
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
            kinds = {
                "flip_rate": "flip rate",
                "side_effect": "side effect",
                "orthogonal_movement": "orthogonal movement",
            }
            end = "_orthogonal_movement"
            found = [key.removesuffix(end) for key in scores if key.endswith(end)]
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
            rest = {"test_absolute_error": "reconstruction error"} if name.startswith("vae_faces") else {}
            rest |= {key: "accuracy of the classifier" for key in scores if key.startswith("evaluator_accuracy")}
            parts.append(markdown_table({name: scores}, rest | TIMES, ""))
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_benchmark(measure)
