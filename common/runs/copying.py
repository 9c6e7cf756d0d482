"""Copy a recipe to one short file that you can read, change and run without this project.

The copy contains the recipe's text, without notebook-only cells and the prose that introduces them. Short versions
from `common.runs.kit`, at the end of the file, replace the functions and classes that the recipe imports from `common`.
`common.runs.omissions` lists the parts that copies of long recipes leave out.
"""

from __future__ import annotations

import ast
import configparser
import difflib
import importlib.metadata
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.runs.assembly import assembled
from common.runs.bare import bare
from common.system.console import say
from common.system.files import InputError, replacing, write_text

if TYPE_CHECKING:
    import numpy as np

COOKBOOK = Path(__file__).resolve().parents[2]
LONGEST_COPY, LONGEST_BARE = 600, 250  # lines
SAMPLES = {  # reader -> names of the arrays in its sample data, images first
    "image_pairs": ("inputs", "targets", "colours"),
    "images_of": ("images",),
    "labelled_images": ("images", "labels", "classes"),
    "attributed_images": ("images", "labels", "names"),
    "test_images": ("images", "labels", "classes"),
    "unpaired_images": ("a", "b", "test_a", "test_b"),
}


def recipe_names(root: Path = COOKBOOK) -> list[str]:
    """Return the names of all recipes."""
    return sorted(path.stem for path in (root / "recipes").glob("*.py") if not path.name.startswith("_"))


def recipe_summary(recipe: str, root: Path = COOKBOOK) -> str:
    """Return the first line of a recipe's docstring, without importing the recipe."""
    tree = ast.parse((root / "recipes" / f"{recipe}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def copy_recipe(
    name: str, destination: Path, force: bool = False, is_bare: bool = False, root: Path = COOKBOOK
) -> list[Path]:
    """Write a recipe as a standalone file, and the data of its demo next to it.

    Args:
        name: the recipe's name, without `.py`.
        destination: a path that ends in .py, or a folder; the file in this folder is called NAME.py.
        force: overwrite files that exist.
        is_bare: write only the networks, the losses and the training step, without data; see `common.runs.bare`.
        root: the folder that holds recipes/ and common/.

    Returns:
        The paths of the written files: the recipe, then its data.

    Raises:
        InputError: there is no such recipe, or `destination` cannot be used.
        OSError: a file cannot be read or written.
    """
    names = recipe_names(root)
    if name not in names:
        near = difflib.get_close_matches(name, names) or names
        raise InputError(f"{name!r} is no recipe: did you mean {' or '.join(near)}?")
    if destination.is_dir():
        destination = destination / f"{name}.py"
    if destination.suffix != ".py":
        raise InputError(f"{destination} is neither a folder nor a name that ends in .py: expected one of these")
    if destination.exists() and destination.resolve().parent == (root / "recipes").resolve():
        raise InputError(f"{destination} belongs to the project itself: choose another destination")
    text = standalone(name, destination.name, is_bare, root)
    networks = [path for path in sorted((root / "data").glob("*.keras")) if path.name in text]
    npz = [destination.with_name(f"{name}_sample.npz")] * (f"{name}_sample.npz" in text)
    copies = [destination, *npz, *(destination.with_name(path.name) for path in networks)]
    for path in copies:
        if path.exists() and not force:
            raise InputError(f"{path} exists: choose another destination, or overwrite it with --force")
    for path in npz:
        import numpy as np

        say("making the sample data")
        arrays: dict[str, Any] = sample_of(name, root)
        with replacing(path) as draft:
            np.savez_compressed(draft, **arrays)
    for network in networks:
        with replacing(destination.with_name(network.name)) as draft:
            shutil.copyfile(network, draft)
    write_text(destination, text)
    return copies


def sample_of(recipe: str, root: Path = COOKBOOK) -> dict[str, np.ndarray]:
    """Return a recipe's built-in data as named arrays, with the size and seed of its demo. Empty if it has none."""
    import numpy as np

    from common.data.synthetic import SET_CLASSES, SETS
    from common.images.pixels import LABEL_COLOURS

    tree = ast.parse((root / "recipes" / f"{recipe}.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found: dict[str, np.ndarray] = {}
    for call in calls:
        reader = str(getattr(call.func, "attr", getattr(call.func, "id", "")))
        values = [node for argument in call.args for node in ast.walk(argument)]
        for value in values if reader in SAMPLES else ():
            if isinstance(value, ast.Constant) and value.value in SETS and not found:
                keeps_size = any(ast.unparse(keyword) == "enlarge=False" for keyword in call.keywords)
                parts = SETS[value.value](28 if keeps_size else _of_demo(tree, "size"), _of_demo(tree, "seed"))
                arrays = [part for group in parts for part in (group if isinstance(group, tuple) else [group])]
                extra = [np.array(SET_CLASSES[value.value])] if value.value in SET_CLASSES else [LABEL_COLOURS]
                arrays = (arrays if isinstance(parts, tuple) else [parts]) + extra
                found |= zip(SAMPLES[reader], arrays, strict=False)
    return found | _images_of_calls(tree, {ast.unparse(call.func) for call in calls})


def _images_of_calls(tree: ast.Module, functions: set[str]) -> dict[str, np.ndarray]:
    """Return the built-in faces, photo and style image that `functions` read, the names of functions in the recipe."""
    found: dict[str, np.ndarray] = {}
    if "two_people" in functions:
        from common.data.people import synthetic_people

        people = synthetic_people(*(_of_demo(tree, name) for name in ("size", "margin", "seed")))
        found |= dict(zip(("a", "b", "test_a", "test_b"), people[:4], strict=True))
    if {"read_photo", "Painting.read"} & functions:
        from common.training.canvas import read_photo

        found["photo"] = read_photo("sample")
    if {"read_style", "Painting.read"} & functions:
        from common.training.canvas import read_style

        found["style"] = read_style("sample")
    return found


def _of_demo(tree: ast.Module, name: str) -> Any:
    """Return the value of a field in a recipe's preset `DEMO`, without importing the recipe."""
    values: dict[str, Any] = {}
    presets: dict[str, dict[str, Any]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            values |= {ast.unparse(each.target): each.value for each in node.body if isinstance(each, ast.AnnAssign)}
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            call, based_on = node.value, node.value.args[:1]  # `replace(DIGITS, epochs=1)` is based on `DIGITS`
            fields = presets.get(ast.unparse(based_on[0]), {}) if based_on else {}
            presets[ast.unparse(node.targets[0])] = fields | {str(each.arg): each.value for each in call.keywords}
    values |= presets.get("DEMO", {})
    return ast.literal_eval(values[name])


def standalone(recipe: str, file: str = "", is_bare: bool = False, root: Path = COOKBOOK) -> str:
    """Return the source code of a copy.

    Args:
        recipe: the name of the recipe.
        file: the file name of the copy, for the commands in its docstring.
        is_bare: include only the networks, the losses and the training step; see `common.runs.bare`.
        root: the folder that holds recipes/ and common/.

    Raises:
        ValueError: the recipe uses a name that the kit does not define, or passes an argument that the kit does not
            accept.
    """
    text = (root / "recipes" / f"{recipe}.py").read_text(encoding="utf-8")
    text = text.replace(f"python -m recipes.{recipe}", f"python {file or recipe + '.py'}")
    text = re.sub(r"`recipes\.(\w+)`", r"`\1`", text)
    copy = (bare if is_bare else assembled)(recipe, text, root, LONGEST_BARE if is_bare else LONGEST_COPY)
    end = copy.index('"""', 3)
    sample = f"{recipe}_sample.npz"
    needed = f"; demo data: {sample}" if sample in copy else ""
    return f"{copy[:end]}Licence  Apache-2.0; a copy from keras-image-cookbook {_version(root)}{needed}\n{copy[end:]}"


def _version(root: Path) -> str:
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg", encoding="utf-8")
    if settings.has_option("metadata", "version"):
        return settings["metadata"]["version"]
    try:
        return importlib.metadata.version("keras-image-cookbook")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
