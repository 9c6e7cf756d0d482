"""Write a `--bare` copy of a recipe: networks, losses and the training step, to paste into your own program."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from common.runs.assembly import (
    COMMAND,
    DROPPED,
    Kit,
    shortened,
    tidy,
    with_head,
    with_one_build,
    without_cells,
    without_local_imports,
    without_unused,
)
from common.runs.omissions import BARE, Omissions, without
from common.runs.syntax import Edits, import_block, imports_in, name_of, names_in, parameters_of, parts_of, spaced

KIT = ("bare", "scores", "images")
TITLE = "# %% The loop"
USE = """networks = build(config := Config())
         history = train(networks, dataset, config)  # batches of uint8 images
         networks[0].save("network.keras")"""
SIGNATURE = "networks: Networks, dataset: tf.data.Dataset, config: Config = Config()) -> list[dict[str, float]]"
ABSENT = {"data", "output_dir", "on_epoch", "steps_per_epoch"}  # statements of `train` that use these are removed

# Example code for the docstrings of copies, for recipes that do not train with `fit`.
PIXELS = {
    "deepdream": "networks = build(config := Config())\n         train(networks, dream := Dream(image), config)",
    "style_transfer": "networks, painting = build(config := Config()), Painting.of(photo, [(style_image, 1.0)])\n"
    "         train(networks, painting, config)",
    "targeted_attack": "train(Networks(classifier), attacks := Attacks(images, targets), config := Config())",
    "dog_svm": "networks = build(config := Config())\n         train(networks, dataset, validation, config)",
}


def bare(recipe: str, text: str, root: Path, most: int) -> str:
    """Return the source code of a `--bare` copy, without the docstring line that states its licence and origin.

    `train` accepts the networks, a `tf.data.Dataset` of uint8 batches and the hyperparameters; `PIXELS` shows the
    exceptions. The copy imports Keras, TensorFlow, NumPy, and the packages that the recipe's own functions import.

    Raises:
        ValueError: the recipe uses a name that the kit does not define.
    """
    text = without(without_cells(text), recipe, BARE.get(recipe, Omissions()))
    text = text.replace("InputError", "ValueError").partition(COMMAND)[0]
    text = _with_plain_fields(with_one_build(text))
    text = _without_files(text) if recipe in PIXELS else _with_dataset(text)
    advice = "No loss measures how good an image looks, so check `samples/`".replace(" ", r"\s+(?:# )?")
    text = re.sub(rf"[ \n](?:# )?{advice}[^.]*\.", "", text)  # a `--bare` copy writes no samples
    roots = {"Config", "Networks", "build", "train"} - ({"build"} if recipe == "targeted_attack" else set())
    text = spaced(_only_needed(without_unused(text, set()), roots))
    kit = Kit(root, recipe, text, KIT)
    docstring, imports, body = parts_of(text)
    use = PIXELS.get(recipe, USE)
    below = kit.used_by(body, set(re.findall(r"\.(\w+)\(", use)))
    if missing := (imports.borrowed & names_in(ast.parse(body))) - below.keys() - {"ValueError"}:
        raise ValueError(f"recipes/{recipe}.py imports {', '.join(sorted(missing))}, which the bare kit lacks")
    head = re.sub(r"^Run      .*\n(?: .*\n)*", "", docstring, flags=re.MULTILINE)
    head += f"Use      {use}\n"
    known, end = imports.bound | kit.imports, [TITLE, *below.values()]
    end[-1] += "\n"
    code = "\n\n\n".join([body, *end])
    used = import_block(code, known)
    body = without_local_imports(body, imports_in(code, known))
    return shortened(body, lambda body: with_head(head, used, [body.strip(), *end]), most)


def _with_plain_fields(text: str) -> str:
    """Use plain types in `Config`. If the recipe has a preset `VGG19`, use that network instead of the bundled one."""
    edits = Edits(text)
    presets = {name_of(node): getattr(node, "value", None) for node in edits.tree.body}
    defaults = {each.arg: each.value for each in getattr(presets.get("VGG19"), "keywords", ())}
    for node in ast.walk(edits.tree):
        if isinstance(node, ast.AnnAssign) and node.value is not None and ast.unparse(node.target) in defaults:
            value = defaults[ast.unparse(node.target)]
            value = presets.get(ast.unparse(value)) or value
            edits.replace(node.value, edits.data[edits.start(value) : edits.end(value)].decode())
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            edits.remove(node)
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("Annotated["):
            edits.replace(node.annotation, ast.unparse(node.annotation.slice.elts[0]))  # type: ignore[attr-defined]
    if defaults:
        edits.replace(_config(edits).body[0], '"""The hyperparameters, for VGG19."""')
    return re.sub(r"; (?:or |with )?file: .*", "", edits.text())


def _with_dataset(text: str) -> str:
    """Return a recipe whose `train` takes a dataset and writes no files."""
    edits = Edits(text)
    train = next(node for node in edits.tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    docstring = ast.get_docstring(train) or ""
    found = re.search(r"^    data: (.*?\.)(?: |$)", docstring, re.MULTILINE | re.DOTALL)
    told = re.sub(r"\s+", " ", found[1]) if found else ""
    for statement in train.body[1:-1]:
        names, kept = names_in(statement), "data.steps_per_epoch" in ast.unparse(statement)
        if names & ABSENT and "fit" not in names and not kept:
            edits.remove(statement)
    for node in ast.walk(train):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "data.steps_per_epoch":
            edits.replace(node, "len(dataset)")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "fit":
            edits.replace(node, f"fit({ast.unparse(node.args[0])}, dataset, config.epochs)")
    _drop(edits, set(DROPPED), train)
    told = textwrap.fill(f"`dataset`: {told}", 116).replace("\n", "\n    ")
    edits.replace(train.body[0], f'"""{docstring.partition(chr(10))[0]}\n\n    {told}\n    """')
    if train.returns is not None:
        edits.edits.append((edits.start(train) + len("def train("), edits.end(train.returns), SIGNATURE))
    return edits.text()


def _without_files(text: str) -> str:
    """Return a recipe whose `train` has no `output_dir`."""
    text = text.replace("data.at(0).take(data.steps_per_epoch)", "dataset").replace(
        "data.steps_per_epoch", "len(dataset)"
    )
    text = text.replace("data.held_out", "validation")
    text = text.replace("    data = Batches.of(data, 0, config.seed)\n", "")
    given = "dataset: tf.data.Dataset, validation: tuple[np.ndarray, np.ndarray],"
    text = text.replace("data: Batches | tuple,", given)
    edits = Edits(text)
    for node in ast.walk(edits.tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "output_dir is not None":
            edits.remove(node)
    edits = Edits(edits.text())
    _drop(edits, {*DROPPED, "output_dir"})
    return re.sub(r"^        output_dir: .*\n(?:         .*\n)*", "", edits.text(), flags=re.MULTILINE)


def _drop(edits: Edits, names: set[str], untouched: ast.AST | None = None) -> None:
    """Remove parameters and arguments by name. The parameters of the function `untouched` are kept."""
    for node in ast.walk(edits.tree):
        if isinstance(node, ast.FunctionDef) and node is not untouched:
            items = parameters_of(node)
            edits.keep([(first, last) for _, first, last in items], [name not in names for name, *_ in items])
        elif isinstance(node, ast.Call):
            given: list[ast.AST] = [*node.args, *node.keywords]
            edits.keep([(each, each) for each in given], [getattr(each, "id", "") not in names for each in given])


def _names_from_outside(node: ast.stmt) -> set[str]:
    """Return the names that a definition uses, except the names of its nested functions."""
    return names_in(node) - {each.name for each in ast.walk(node) if isinstance(each, ast.FunctionDef)}


def _config(edits: Edits) -> ast.ClassDef:
    return next(node for node in edits.tree.body if isinstance(node, ast.ClassDef) and node.name == "Config")


def _only_needed(text: str, needed: set[str]) -> str:
    """Keep only the definitions in `needed`, the definitions that these use, and fields of `Config` that are read."""
    tree = ast.parse(text)
    nodes = {name_of(node): node for node in tree.body if name_of(node)}
    while (
        more := needed | {name for each in needed for name in _names_from_outside(nodes[each]) & nodes.keys()}
    ) != needed:
        needed = more
    edits = Edits(text)
    for node in edits.tree.body:
        if name_of(node) and name_of(node) not in needed:
            edits.remove(node)
    text = tidy(edits.text())
    edits = Edits(text)
    config = _config(edits)
    for field in config.body:
        if isinstance(field, ast.AnnAssign) and not re.search(rf"config\.{ast.unparse(field.target)}\b", text):
            edits.remove(field)
    told = ast.get_docstring(config) or ""
    first = re.split(r"(?<=\.) (?=`[A-Z_]+`)|\n", told)[0]  # without sentences about presets, which are left out
    edits.replace(config.body[0], f'"""{first}"""')
    return edits.text()
