"""Train the networks that ship with the project, and write them to data/bundled/NAME/.

    python -m tools.bundle dcgan_faces           trains, or resumes, for some hours; then writes and scores the networks
    python -m tools.bundle dcgan_faces --check   scores the networks that are there, and compares the scores
    python -m tools.bundle dcgan_faces --score   writes these scores and the image: the recipe's scores have changed

Training is an ordinary run of the recipe, in runs/NAME-bundled, with the arguments in `BUNDLES`. Some recipes train on
more synthetic images than their demos; these are first written to runs/NAME-bundled-data. If training is interrupted,
the same command resumes it. The CPU time of all parts is added up. Only the files that the
recipe's commands need are kept, with the matrices and kernels of the networks in float16. The recipe's own code then
scores these networks on the held-out data of the demo and draws its image, which goes to
docs/gallery/NAME-bundled.jpg.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import math
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import h5py
import numpy as np

from common.data.synthetic import POSES
from common.images.reading import read_image
from common.images.writing import save_image
from common.runs.bundled import BUNDLED, about_bundle
from common.runs.networks import load_network
from common.runs.run import Run
from common.samples.clothes import CLOTHES_CLASSES, synthetic_clothes
from common.samples.faces import FACE_ATTRIBUTES, synthetic_faces
from common.samples.handwriting import handwritten_digits
from common.samples.sketches import sketch_pairs
from common.system.files import replacing_folder, write_json

ROOT = Path(__file__).resolve().parents[1]
SEED = 1000  # of the synthetic training images, so that none of them is in the data of a demo, whose seed is 0
NOT_IN_TABLE = ("_orthogonal_movement", "_side_effect", "psnr", "samples", "images", "classifier", "entropy")
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that the same weights give the same bytes


class Bundle(NamedTuple):
    """How the networks of a recipe are trained, and what is kept of the run."""

    training_data: str  # shown to users
    write_data: Callable[[Path], None] | None  # writes the training images to a folder; None: the demo's data
    data_file: str  # the file in that folder that the recipe reads; empty: the folder itself
    arguments: str  # of `python -m recipes.NAME train`
    networks: tuple[str, ...]  # the networks that the recipe's commands need
    files: tuple[str, ...] = ()  # other files of the run that they need


def write_sketches(folder: Path) -> None:
    """Write 3,000 pairs of a sketch (left) and a portrait (right), 128 x 128 pixels each; 60 of them as test images."""
    for number, pair in enumerate(zip(*sketch_pairs(3000, SEED, 128), strict=True)):
        save_image(np.hstack(pair), folder / ("test" if number < 60 else "train") / f"{number:04d}.png")


def write_split(path: Path, images: np.ndarray, labels: np.ndarray, **others: Any) -> None:
    """Write images and labels to an .npz file: the first 1,000 as test images, the rest for training."""
    parts: dict[str, Any] = {"x_train": images[1000:], "y_train": labels[1000:]}
    np.savez_compressed(path, x_test=images[:1000], y_test=labels[:1000], **parts, **others)


def write_digits(folder: Path) -> None:
    """Write 30,000 digits of synthetic handwriting and 1,000 test images to digits.npz."""
    images, labels, _ = handwritten_digits(31_000, SEED)
    write_split(folder / "digits.npz", images, labels)


def write_clothes(folder: Path) -> None:
    """Write 12,000 synthetic clothes and 1,000 test images to clothes.npz."""
    images, labels = synthetic_clothes(13_000, SEED)
    write_split(folder / "clothes.npz", images, labels, classes=np.array(CLOTHES_CLASSES))


def write_faces(folder: Path) -> None:
    """Write 6,000 frontal synthetic faces of 64 x 64 pixels, 600 of them as test images, to faces.npz."""
    sets = [synthetic_faces(300, SEED + number, 64, looking_left=pose) for number, pose in enumerate(POSES)]
    parts: dict[str, Any] = {}
    for part, chosen in ("train", slice(30, None)), ("test", slice(30)):
        for key, arrays in zip("xy", zip(*sets, strict=True), strict=True):
            parts[f"{key}_{part}"] = np.concatenate([array[chosen] for array in arrays])
    np.savez_compressed(folder / "faces.npz", attributes=np.array(FACE_ATTRIBUTES), **parts)


DIGITS = "synthetic handwriting", write_digits, "digits.npz"
CLOTHES = "synthetic clothes", write_clothes, "clothes.npz"
FACES = "synthetic faces", write_faces, "faces.npz"
FACE_SWAP = ("encoder", "inter", "decoder_a", "decoder_b")
BUNDLES = {
    "adversarial_autoencoder": Bundle(*DIGITS, "--preset demo --epochs 24", ("encoder", "decoder")),
    "autoencoder": Bundle(*DIGITS, "--preset demo --epochs 20", ("encoder", "decoder")),
    "conv_autoencoder": Bundle(*DIGITS, "--preset demo --epochs 12", ("encoder", "decoder")),
    "cyclegan": Bundle("synthetic landscapes", None, "", "--preset demo --size 128 --epochs 18", ("generator_a2b", "generator_b2a")),
    "dcgan": Bundle(*DIGITS, "--preset modern --keep 50", ("generator", "discriminator")),
    "dcgan_faces": Bundle("synthetic faces", None, "", "--preset demo", ("ema",)),
    "diffusion": Bundle(*DIGITS, "--preset digits", ("ema",)),
    "face_swap": Bundle(
        *("faces of two synthetic people", None, ""),
        "--preset demo --base-filters 32 --epochs 40",
        FACE_SWAP,
        ("shift.npz",),
    ),
    "fgsm": Bundle(*CLOTHES, "--preset demo --base-filters 12 --epochs 7", ("classifier", "robust")),
    "fast_style_transfer": Bundle("one painting", None, "", "--preset demo", ("transform_network",), ("style.png",)),
    "gan": Bundle(*DIGITS, "--preset demo --units 160 --epochs 36", ("generator", "discriminator")),
    "lenet": Bundle(*CLOTHES, "--preset modern", ("classifier",)),
    "pix2pix": Bundle(
        *("sketches of synthetic faces", write_sketches, ""),
        "--preset demo --size 128 --base-filters 20 --epochs 7",
        ("generator",),
    ),
    "ssgan": Bundle(*DIGITS, "--preset demo --base-filters 24 --generator-filters 16 --epochs 5", ("generator", "ema")),
    "vae": Bundle(*DIGITS, "--preset demo --epochs 50", ("encoder", "sampler", "decoder")),
    "vae_faces": Bundle(
        *FACES, "--preset demo --base-filters 64 --latent-dim 80 --epochs 30", ("encoder", "decoder"), ("space.npz",)
    ),
}


def in_float16(content: bytes) -> bytes:
    """Convert a file of weights (HDF5): matrices and kernels become float16, vectors and scalars stay as they are.

    Vectors are small, and the variances of batch normalisation can be outside the range of float16.
    """
    converted = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as source, h5py.File(converted, "w") as target:

        def copy(name: str, part: h5py.Dataset | h5py.Group) -> None:
            if isinstance(part, h5py.Dataset):
                values = part[()]
                half = values.ndim > 1 and values.dtype == np.float32
                target.create_dataset(name, data=values.astype(np.float16) if half else values, track_times=False)
            else:
                target.require_group(name)
            target[name].attrs.update(part.attrs)

        target.attrs.update(source.attrs)
        source.visititems(copy)
    return converted.getvalue()


def shrink(source: Path, destination: Path) -> None:
    """Write a compressed copy of a .keras file with weights in float16. Keras loads them as float32."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(destination, "w") as new:
        for member in sorted(old.infolist(), key=lambda member: member.filename):
            content = old.read(member)
            if member.filename.endswith(".h5"):
                content = in_float16(content)
            elif member.filename == "metadata.json":  # without the time of saving, the same weights give the same bytes
                content = json.dumps({"keras_version": json.loads(content)["keras_version"]}).encode()
            new.writestr(zipfile.ZipInfo(member.filename, ZIP_DATE), content, zipfile.ZIP_DEFLATED, 9)


def scored(name: str, folder: Path, output_dir: Path) -> tuple[dict[str, Any], Path]:
    """Score the networks in `folder` with the recipe's own code: its `run`, in which loading replaces training.

    Returns:
        The scores on held-out data, and the path of the recipe's image in `output_dir`.
    """
    recipe = importlib.import_module(f"recipes.{name}")

    def load(networks: Any, *_: Any, **__: Any) -> list[dict[str, float]]:
        for each in BUNDLES[name].networks:
            getattr(networks, each).set_weights(load_network(folder, each).get_weights())
        return []

    config = Run.load(folder, name, recipe.Config).config
    with mock.patch.object(recipe, "train", load):
        image = recipe.run("sample", config, output_dir)
    scores = json.loads((output_dir / "results.json").read_text(encoding="utf-8"))
    if "generator" not in BUNDLES[name].networks:  # it was not trained here
        scores = {key: value for key, value in scores.items() if not key.endswith("_without_ema")}
    return scores, image


def same_scores(some: dict[str, Any], others: dict[str, Any], tolerance: float = 0.02) -> list[str]:
    """Return the names of the scores that differ by more than `tolerance`, relative to the larger one."""
    names = sorted(set(some) | set(others))
    return [
        name
        for name in names
        if name not in some
        or name not in others
        or (some[name] != others[name] if isinstance(some[name], str) else
            not math.isclose(some[name], others[name], rel_tol=tolerance, abs_tol=1e-3))
    ]  # fmt: skip


def trained(name: str) -> tuple[Path, float, str]:
    """Train or resume the run of a bundle. Return its folder, its CPU hours so far, and the command."""
    folder = ROOT / "runs" / f"{name}-bundled"
    spent = folder.with_name(f"{name}-bundled-cpu-seconds.json")
    command = ["python", "-m", f"recipes.{name}", "train", *shlex.split(BUNDLES[name].arguments)]
    if (write := BUNDLES[name].write_data) is not None:
        data = Path("runs", f"{name}-bundled-data")
        if not (ROOT / data).exists():
            with replacing_folder(ROOT / data) as made:
                write(made)
        command += ["--data", str(data / BUNDLES[name].data_file)]
    shown = shlex.join(command)
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    command += ["--output-dir", str(folder)]
    try:
        status = subprocess.run([sys.executable, *command[1:]], cwd=ROOT).returncode
    except KeyboardInterrupt:
        status = 130
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = before + used.ru_utime + used.ru_stime
    write_json(spent, seconds)
    if status:
        sys.exit(status)
    return folder, seconds / 3600, shown


def machine() -> str:
    """Return the name of the processor, or of its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def sha256(path: Path) -> str:
    """Return the checksum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_bundle(name: str, run: Path, cpu_hours: float, command: str) -> Path:
    """Write the networks of a finished run, their scores and their checksums to `BUNDLED`; return the folder."""
    bundle = BUNDLES[name]
    with replacing_folder(BUNDLED / name) as folder, tempfile.TemporaryDirectory() as scratch:
        for each in bundle.files:
            shutil.copyfile(run / each, folder / each)
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.json", config | {"data": config["data"].removeprefix(f"{ROOT}/")})
        for each in bundle.networks:
            shrink(run / f"{each}.keras", folder / f"{each}.keras")
        about = {"training_data": bundle.training_data, "command": command, "machine": machine()}
        write_scores(name, folder, about | {"cpu_hours": round(cpu_hours, 3)}, Path(scratch) / "run")
    return BUNDLED / name


def write_scores(name: str, folder: Path, about: dict[str, Any], output_dir: Path) -> None:
    """Score the networks in `folder`; write their scores, their checksums, and the image of the gallery."""
    scores, image = scored(name, folder, output_dir)
    write_json(folder / "results.json", scores)
    save_image(read_image(image), ROOT / "docs" / "gallery" / f"{name}-bundled.jpg")
    checksums = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != "bundle.json"}
    write_json(folder / "bundle.json", about | {"sha256": checksums})


def table_row(name: str, folder: Path) -> str:
    """Return the row of a bundle for the table in data/README.md, with its most important scores."""
    about = about_bundle(folder)
    scores = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    important = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in scores.items()
        if not key.startswith(("precision ", "recall ")) and not key.endswith(NOT_IN_TABLE)
    ]
    shown = ", ".join(important[:9])
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    cells = f"`bundled/{name}/`", about["training_data"], f"`{about['command']}`", about["machine"]
    return f"| {' | '.join(cells)} | {about['cpu_hours']:.2f} | {size:.2f} MB | {shown} |"


def main() -> int:
    """Make or check one bundle; print its scores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=[*BUNDLES], metavar="NAME", help=f"one of {', '.join(BUNDLES)}")
    parser.add_argument("--check", action="store_true", help="score the bundled networks again; do not train")
    parser.add_argument("--score", action="store_true", help="the same, and write the new scores and the image")
    given = parser.parse_args()
    folder = BUNDLED / given.name
    if given.score:
        with tempfile.TemporaryDirectory() as scratch:
            write_scores(given.name, folder, about_bundle(folder), Path(scratch) / "run")
    elif not given.check:
        folder = write_bundle(given.name, *trained(given.name))
    stored = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        scores, _ = scored(given.name, folder, Path(scratch) / "run")
    for name, value in scores.items():
        print(f"{name:>28}  {value}")
    print(f"the row for data/README.md:\n{table_row(given.name, folder)}")
    if differing := same_scores(scores, stored):
        print(f"error: these scores are not those in results.json: {', '.join(differing)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
