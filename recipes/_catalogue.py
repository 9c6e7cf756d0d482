"""The table that `python -m recipes` prints: the recipes by task."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

WIDTH = 80
TASKS = {  # task -> recipe -> purpose, and the CPU seconds of the demo, as in docs/recipes.md
    "Classify images": {
        "dog_svm": ("hand-crafted features, linear SVM", 26),
        "mlp": ("one hidden layer: the baseline", 23),
        "lenet": ("convolutions, of 1998 or modern", 47),
        "mobilenet": ("a network pretrained on ImageNet", 188),
        "ssgan": ("few labels, many unlabelled images", 185),
    },
    "Compress and embed": {
        "autoencoder": ("a few numbers per image; denoising", 168),
        "conv_autoencoder": ("find similar images without labels", 152),
        "vae": ("a smooth latent space of digits", 229),
        "vae_faces": ("edit smile, glasses or hair of a face", 140),
        "adversarial_autoencoder": ("latents with a prior of your choice", 187),
    },
    "Generate": {
        "gan": ("digits, with two small networks", 219),
        "dcgan": ("images, with convolutions", 211),
        "dcgan_faces": ("faces, and latent arithmetic", 210),
        "diffusion": ("images of a class that you choose", 235),
    },
    "Translate": {
        "pix2pix": ("sketches to portraits, from pairs", 222),
        "cyclegan": ("summer to winter, without pairs", 201),
        "face_swap": ("the expression of a person to another", 192),
    },
    "Attack classifiers": {
        "fgsm": ("imperceptible noise, and a defence", 204),
        "targeted_attack": ("a wrong class of your choice", 26),
    },
    "Paint": {
        "style_transfer": ("a photo in the style of a painting", 116),
        "fast_style_transfer": ("the same in a single pass", 165),
        "deepdream": ("amplify what a network detects", 32),
    },
}
COMMANDS = {
    "python -m recipes.NAME": "run the demo: offline, one image in runs/",
    "python -m recipes.NAME --help": "paper, commands and flags of a recipe",
    "python -m recipes.NAME train --help": "train on your own images",
    "python -m recipes copy NAME DEST": "write a recipe as one file of its own",
    "python -m recipes app": "try trained networks on a web page",
    "python -m recipes shards DIR DEST": "pack many images into large files",
    "python -m recipes doctor": "check this machine and its packages",
}


def recipe_names(folder: Path) -> list[str]:
    """Return the names of the recipes in a folder."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.name.startswith("_"))


def table(folder: Path = Path(__file__).parent) -> str:
    """Return the table of the recipes in a folder, at most `WIDTH` columns wide. No recipe is imported."""
    names = recipe_names(folder)
    tasks = {task: {name: row for name, row in rows.items() if name in names} for task, rows in TASKS.items()}
    others = set(names) - {name for rows in TASKS.values() for name in rows}
    tasks["Other"] = {name: (_summary(folder / f"{name}.py"), 0) for name in sorted(others)}
    first = max(map(len, [*names, ""])) + len("recipes.")
    second = WIDTH - first - 2 - 7  # two gaps and `240 s`
    lines = [f"{'python -m':{first}}  {'':{second}}  CPU s".rstrip()]
    for task, rows in tasks.items():
        lines += ["", task] if rows else []
        for name, (purpose, seconds) in rows.items():
            text = textwrap.shorten(purpose, second, placeholder=" ...")
            lines.append(f"{'recipes.' + name:{first}}  {text:{second}}  {seconds or '':>5}".rstrip())
    width = max(map(len, COMMANDS))
    lines += ["", "CPU s: seconds of CPU time that the demo takes, summed over all cores", ""]
    return "\n".join(lines + [f"{command:{width}}  {text}" for command, text in COMMANDS.items()])


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rpartition(": ")[2]
