"""Assemble a copy: the text of a recipe, followed by the functions and classes of `common.runs.kit` that it uses."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from common.runs.omissions import COPIES, Omissions, without
from common.runs.syntax import (
    LONGEST_LINE,
    Edits,
    Import,
    attributes_in,
    bound_by,
    first_line,
    import_block,
    imports_in,
    imports_of,
    name_of,
    names_in,
    parameters_of,
    parts_of,
    spaced,
)

KIT = (
    "readers",
    "data",
    "attacks",
    "canvas",
    "faces",
    "images",
    "scores",
    "loop",
    "run",
    "files",
    "command",
)  # in the order in which a copy contains their definitions
DROPPED = ("skip_bad", "fetch", "accept_data")  # parameters that copies do not have
NEEDLESS = ("config.seed", "healthy")  # arguments to drop if the kit's function has no such parameter
LACKING = ("sample_scores", "edit_scores", "arithmetic_scores")  # methods that copies lack
NEEDS = "# only with"
TITLE = "# %% Data, images, the training loop, the run folder and the command line"
COMMAND = 'if __name__ == "__main__":\n'


def assembled(recipe: str, text: str, root: Path, max_lines: int) -> str:
    """Return the source code of a copy, without the docstring line that states its licence and origin.

    If the copy has more than `max_lines` lines, these steps shorten it until it fits:

    1. Cut the docstrings of functions and classes to their first line.
    2. Put parameters and arguments on one line.
    3. Remove the text below section titles, starting with the last section.
    4. Remove the section titles, starting with the last one.

    Raises:
        ValueError: the recipe uses a name that the kit does not define, or passes an argument that the kit does not
            accept.
    """
    text = without(without_cells(text), recipe, COPIES.get(recipe, Omissions()))
    text = fitted(text, recipe, Kit(root, recipe, text))
    kit = Kit(root, recipe, text)
    docstring, imports, body = parts_of(text)
    if missing := imports.borrowed - kit.definitions.keys():
        raise ValueError(f"recipes/{recipe}.py imports {', '.join(sorted(missing))}, which the kit lacks")
    body, _, command = body.partition(COMMAND)
    below = kit.used_by(body + COMMAND + command)
    above = [below.pop(name) for name in sorted(_needed_early(body) & below.keys())]
    end = [f"{TITLE}\n\n\n" + "\n\n\n".join(below.values()), COMMAND + command.rstrip() + "\n"]
    known = imports.bound | kit.imports
    parts = "\n\n\n".join([*above, body.strip(), *end])
    imports_used = import_block(parts, known)
    body = without_local_imports(body, imports_in(parts, known))
    return shortened(body, lambda body: with_head(docstring, imports_used, [*above, body.strip(), *end]), max_lines)


def with_head(docstring: str, imports: str, parts: list[str]) -> str:
    """Join a docstring, imports and parts of code.

    Above the code there is one empty line if it starts with a comment, otherwise two.
    """
    code = "\n\n\n".join(parts)
    return f'{docstring}"""\n\n{imports}{chr(10) * (2 if code.startswith("#") else 3)}{code}'


def shortened(body: str, file: Callable[[str], str], max_lines: int) -> str:
    """Return `file(body)`. If it has more than `max_lines` lines, shorten `body` as `assembled` describes."""
    for shorter in (None, without_details, compact, *[without_last_prose] * 12, *[without_last_title] * 12):
        body = shorter(body) if shorter else body
        copy = file(body)
        if len(copy.splitlines()) < max_lines:  # a line with the licence and origin is added later
            break
    return copy


# %% The text of a recipe


def without_cells(text: str) -> str:
    """Remove notebook-only cells, the prose that introduces them, and sections that are then empty."""
    kept: list[str] = []
    comment: list[str] = []
    for line in [*text.splitlines(keepends=True), "\n"]:
        if line.startswith("#"):
            comment.append(line)
            continue
        if comment and (comment[0].startswith("# %%") or not any(map(_is_cell, comment))):
            kept += [each for each in comment if not _is_cell(each)]
        comment = []
        kept.append(line)
    return tidy("".join(kept[:-1]))


def _is_cell(line: str) -> bool:
    return re.match(r"# (>>>|\.\.\.)( |$)", line) is not None


def tidy(text: str) -> str:
    """Remove sections that contain only comments, and limit empty lines to two in a row."""
    text = re.sub(r"^#\n(?=\n|# %%)", "", text, flags=re.MULTILINE)  # an empty comment line above a removed cell
    text = re.sub(r"^# %% .*\n(?:#.*\n|\n)*(?=# %% |if __name__|\Z)", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{4,}", "\n\n\n", text)


def without_details(text: str) -> str:
    """Cut the docstrings of functions and classes to their first line."""
    edits = Edits(text)
    for node in ast.walk(edits.tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        docstring = ast.get_docstring(node) or ""
        if "\n" in docstring:
            line = f'"""{docstring.partition(chr(10))[0]}"""'
            if node.body[0].col_offset + len(line) <= LONGEST_LINE:
                edits.replace(node.body[0], line)
    return edits.text()


_LIST = re.compile(r"^( *)(.*\()\n((?:\1    .*\n)+)\1(\).*)$", re.MULTILINE)  # parameters or arguments, one per line


def compact(text: str) -> str:
    """Join parameters and arguments that are written one per line, if they fit on a single line."""

    def items(found: re.Match[str]) -> str:
        indent, head, inner, tail = found.groups()
        is_flat = re.fullmatch(rf"(?:{indent}    [^ \n].*,\n)+", inner)
        return _in_few_lines(indent, head, inner, tail) or found[0] if is_flat else found[0]

    return _LIST.sub(items, text)


def _in_few_lines(indent: str, head: str, inner: str, tail: str) -> str | None:
    """Return a call or signature on one line or on three lines, as ruff formats it. None if neither fits."""
    joined = ", ".join(item.strip().rstrip(",") for item in inner.splitlines())
    for text in (f"{indent}{head}{joined}{tail}", f"{indent}{head}\n{indent}    {joined}\n{indent}{tail}"):
        if max(map(len, text.splitlines())) <= LONGEST_LINE and "#" not in text:
            return text
    return None


def without_local_imports(text: str, top: dict[str, Import]) -> str:
    """Remove an import inside a function if `top`, the imports of the module, contains it too."""
    edits = Edits(text)
    for function in (node for node in ast.walk(edits.tree) if isinstance(node, ast.FunctionDef)):
        for node in function.body:
            found = imports_of(ast.Module([node], [])).bound
            if found and all(top.get(name) == each for name, each in found.items()):
                edits.remove(node)
    return spaced(edits.text())


def _needed_early(body: str) -> set[str]:
    """Return the names that occur in the values of module-level constants."""
    values = [node.value for node in ast.parse(body).body if isinstance(node, ast.Assign | ast.AnnAssign)]
    return {name for value in values if value is not None for name in names_in(value)}


def without_last_prose(text: str) -> str:
    """Remove the prose of the last section that has any."""
    titles = [found for found in re.finditer(r"^# %% .*\n((?:#.*\n)+)", text, re.MULTILINE)]
    return text[: titles[-1].start(1)] + text[titles[-1].end(1) :] if titles else text


def without_last_title(text: str) -> str:
    """Remove the title of the last section."""
    titles = list(re.finditer(r"^# %% .*\n+", text, re.MULTILINE))
    return text[: titles[-1].start()].rstrip() + "\n\n\n" + text[titles[-1].end() :] if titles else text


def fitted(text: str, recipe: str, kit: Kit) -> str:
    """Adapt a recipe to the kit: remove arguments that the kit does not accept, and code that copies do not need."""
    edits = Edits(text)
    unscored = _functions(edits.tree, lambda node: bool(attributes_in(node) & set(LACKING)))
    for node in ast.walk(edits.tree):
        if isinstance(node, ast.FunctionDef):
            items = parameters_of(node)
            edits.keep([(first, last) for _, first, last in items], [name not in DROPPED for name, *_ in items])
        elif isinstance(node, ast.Call):
            kit.fit_call(edits, node, recipe, unscored)
        elif isinstance(node, ast.Assign) and ast.unparse(node) == "__post_init__ = Range.check":
            edits.remove(node)  # the command line checks the ranges
    for node in ast.walk(edits.tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__" and "Range.check(" in ast.unparse(node):
            edits.remove(node)
    text = re.sub(rf"^( +)(?:{'|'.join(DROPPED)}): .*\n(?:\1 +.*\n)*", "", edits.text(), flags=re.MULTILINE)
    text = re.sub(
        r"^(?:Run     |        ) python .*(?:--fetch|mnist|tfds:|--skip-bad).*\n", "", text, flags=re.MULTILINE
    )
    text = without_unused(with_one_build(text), unscored)
    while unused := _functions(tree := ast.parse(text), lambda node: node.name not in names_in(tree)):
        text = without_unused(text, unused)
    return tidy(text)


def with_one_build(text: str) -> str:
    """If `build` does nothing but call another function, replace the call with the code of that function."""
    edits = Edits(text)
    functions = {node.name: node for node in edits.tree.body if isinstance(node, ast.FunctionDef)}
    last = functions["build"].body[-1] if "build" in functions else None
    called = functions.get(ast.unparse(last).partition("(")[0].removeprefix("return ")) if last else None
    if not last or not called or len(functions["build"].body) > 2:
        return text
    edits.replace(last, edits.data[edits.start(called.body[1]) : edits.end(called.body[-1])].decode())
    edits.remove(called)
    return re.sub(rf"\b{called.name}\(", "build(", edits.text())


def _functions(tree: ast.Module, chosen: Callable[[ast.FunctionDef], bool]) -> set[str]:
    """Return the names of the module-level functions that `chosen` selects, except `build`, `train` and `run`."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if node.name not in ("build", "train", "run") and chosen(node)}


def without_unused(text: str, functions: set[str]) -> str:
    """Remove `functions`, the functions that only these use, and local variables that are never read."""
    used_before = names_in(ast.parse(text))
    while True:
        edits = Edits(text)
        used = names_in(ast.parse(text), without=functions)
        for node in edits.tree.body:
            name = getattr(node, "name", "")
            if name in functions or (isinstance(node, ast.FunctionDef) and name in used_before and name not in used):
                functions = functions | {name}
                edits.remove(node)
        for function in (node for node in ast.walk(edits.tree) if isinstance(node, ast.FunctionDef)):
            loaded = {
                node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
            }
            for node in function.body:
                _drop_unused(edits, node, loaded)
                if bound_by(node) and not bound_by(node) & loaded and function.name not in functions:
                    edits.remove(node)
        if not edits.edits:
            return text
        text = edits.text()


def _drop_unused(edits: Edits, node: ast.stmt, used: set[str]) -> None:
    """Remove unused names, and their values, from an assignment such as `a, b = 1, 2`."""
    target, value = (node.targets[0], node.value) if isinstance(node, ast.Assign) else (None, None)
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        kept = [not isinstance(each, ast.Name) or each.id in used for each in target.elts]
        if any(kept) and not all(kept):
            for part in (target, value):
                edits.keep([(each, each) for each in part.elts], kept)


# %% The kit


class Kit:
    """The functions and classes of `common.runs.kit`, without lines that a recipe does not need."""

    def __init__(self, root: Path, name: str, recipe: str, modules: Iterable[str] = KIT):
        """Read the kit modules below `root` for the recipe `name` with the source code `recipe`."""
        self.imports: dict[str, Import] = {}
        # These have a parameter for the name of the recipe or of a built-in data set in `common`, but not in the kit.
        self.named = {"Run", "two_people"}
        self.definitions: dict[str, tuple[str, ast.stmt]] = {}  # name -> (text of its module, syntax node)
        for module in modules:
            path = root / "common" / "runs" / "kit" / f"{module}.py"
            text = only_with(path.read_text(encoding="utf-8"), recipe).replace("sample.npz", f"{name}_sample.npz")
            tree = ast.parse(text)
            self.imports |= imports_of(tree).bound
            for node in tree.body:
                if module == "readers":
                    self.named.add(name_of(node))
                if name_of(node):
                    self.definitions.setdefault(name_of(node), (text, node))

    def used_by(self, body: str, methods: Iterable[str] = ()) -> dict[str, str]:
        """Return the definitions that `body` uses, directly or indirectly, by name. All `methods` are kept."""
        tree = ast.parse(body)
        own = {name_of(node) for node in tree.body}
        names, attributes = names_in(tree) - own, attributes_in(tree) | set(methods)
        chosen: dict[str, str] = {}
        while True:
            found = {name: self._source(name, attributes) for name in self.definitions if name in names}
            if twice := found.keys() & own:
                raise ValueError(f"the recipe and the kit both define {', '.join(sorted(twice))}")
            if found == chosen:
                return chosen
            chosen = found
            for source in chosen.values():
                names |= names_in(ast.parse(source))
                attributes |= attributes_in(ast.parse(source))

    def _source(self, name: str, attributes: set[str]) -> str:
        """Return the source code of a definition. Methods are left out if their names are not in `attributes`."""
        text, node = self.definitions[name]
        lines = dict(enumerate(text.splitlines(), 1))
        chosen = set(range(first_line(node), (node.end_lineno or 0) + 1))
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} <= {"NamedTuple", "tf.Module"}:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name[:2] != "__" and part.name not in attributes:
                    chosen -= set(range(first_line(part) - 1, (part.end_lineno or 0) + 1))
        return "\n".join(lines[number] for number in sorted(chosen))

    def fit_call(self, edits: Edits, node: ast.Call, recipe: str, unscored: set[str]) -> None:
        """Remove the arguments that the kit's version of the called function does not accept."""
        given = [(None, each) for each in node.args] + [(each.arg, each.value) for each in node.keywords]
        kept = [name not in DROPPED and getattr(value, "id", "") not in DROPPED for name, value in given]
        if isinstance(node.func, ast.Attribute) and node.func.attr == "network":
            kept = [place == 0 for place in range(len(given))]  # only the name; shapes validate untrusted files
        if ast.unparse(node.func) == "Run.load" or getattr(node.func, "attr", "") == "test_images":
            kept[1] = False  # the name of the recipe or of a built-in data set
        if isinstance(node.func, ast.Attribute) and node.func.attr == "finish":
            kept = [not (attributes_in(value) & set(LACKING) or names_in(value) & unscored) for _, value in given]
        function = node.func.id if isinstance(node.func, ast.Name) else ""
        takes = self._takes(function)
        free = list(takes)
        for place, (name, value) in enumerate(given if takes else ()):
            if not kept[place]:
                continue
            if function in self.named and isinstance(value, ast.Constant) and isinstance(value.value, str):
                kept[place] = False
                continue
            name = name or (free.pop(0) if free else "")
            if name not in takes and ast.unparse(value) in NEEDLESS:
                kept[place] = False
            elif name not in takes:
                raise ValueError(f"recipes/{recipe}.py:{node.lineno}: the kit's {function} takes no {name or 'more'}")
        nodes: list[ast.AST] = [*node.args, *node.keywords]
        edits.keep([(each, each) for each in nodes], kept)

    def _takes(self, name: str) -> list[str]:
        """Return the parameter names of a kit definition. Empty if it has `*args` or `**kwargs`, or does not exist."""
        node = self.definitions[name][1] if name in self.definitions else None
        if isinstance(node, ast.ClassDef):
            node = next((each for each in node.body if getattr(each, "name", "") == "__init__"), None)
        if not isinstance(node, ast.FunctionDef) or node.args.kwarg or node.args.vararg:
            return []
        return [each for each, *_ in parameters_of(node) if each != "self"]


def only_with(text: str, recipe: str) -> str:
    """Apply the `# only with:` comments in the source code of a kit module; see `common.runs.kit`."""

    def items(found: re.Match[str]) -> str:
        indent, head, inner, tail = found.groups()
        if NEEDS not in inner:
            return found[0]
        inner = _only_with(inner, recipe)
        return _in_few_lines(indent, head, inner, tail) or f"{indent}{head}\n{inner}{indent}{tail}"

    return _only_with(_LIST.sub(items, text), recipe)


def _only_with(text: str, recipe: str) -> str:
    kept: list[str] = []
    dropped, leave_out, after, ended = -1, False, False, False  # `dropped`: the indentation of omitted code, or -1
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        code, *_, needed = re.split(r"# only with(?:out)?: ", line) if NEEDS in line else (line, "")
        found = any(word in recipe for word in needed.split(" or "))
        useless = bool(needed) and found == ("# only without: " in line)
        if dropped >= 0 and (not line or indent > dropped):
            ended = ended or not line
            continue
        if ended and indent < dropped and kept[-1:] != [""]:
            kept.append("")  # after a nested function whose last statement is omitted
        ended = False
        if needed and not code.strip():
            leave_out = useless
            continue
        dropped, leave_out = indent if line and (useless or leave_out) else -1, leave_out and not line
        if dropped >= 0:
            after = True
            continue
        if (
            after
            and kept[-1:] == [""]
            and kept[-2].endswith('"""')
            and not code.lstrip().startswith(("def ", "@", "class "))
        ):
            kept.pop()  # no empty line between a docstring and the code below it
        if after and kept[-1:] != [""] and code.lstrip().startswith(("def ", "@", "class ")) and indent:
            kept.append("")
        after = False
        kept.append(code.rstrip())
    return "".join(line + "\n" for line in kept)
