"""Read and edit the source code of Python modules by means of their syntax trees."""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Collection, Sequence
from typing import NamedTuple

LONGEST_LINE = 120


class Import(NamedTuple):
    """One imported name: `import module`, or `from module import name`, with or without an alias."""

    module: str
    name: str | None = None
    alias: str | None = None


class Imports(NamedTuple):
    """The imports of a module."""

    bound: dict[str, Import]  # keyed by the name that each import binds
    borrowed: set[str]  # names from `common`


def imports_of(tree: ast.Module) -> Imports:
    """Return the imports at the top of a module."""
    bound: dict[str, Import] = {}
    borrowed: set[str] = set()
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            if isinstance(node, ast.Import):
                bound[name] = Import(alias.name, None, alias.asname)
            elif str(node.module).partition(".")[0] == "common":
                borrowed.add(name)
            elif node.module != "__future__":
                bound[name] = Import(str(node.module), alias.name, alias.asname)
    return Imports(bound, borrowed)


def parts_of(text: str) -> tuple[str, Imports, str]:
    """Return a module's docstring (without the closing quotes), its imports, and the code after the imports."""
    tree, lines = ast.parse(text), text.splitlines(keepends=True)
    last = max(node.end_lineno or 0 for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    docstring = "".join(lines[: tree.body[0].end_lineno])
    return docstring[: docstring.rindex('"""')], imports_of(tree), "".join(lines[last:]).strip("\n") + "\n"


def imports_in(code: str, known: dict[str, Import]) -> dict[str, Import]:
    """Return the imports that some code uses, by the name that each one binds."""
    return {name: known[name] for name in names_in(ast.parse(code)) if name in known}


def import_block(code: str, known: dict[str, Import]) -> str:
    """Return import statements for the names that some code uses, sorted as ruff sorts them."""
    used = set(imports_in(code, known).values())
    sections: list[list[str]] = [["from __future__ import annotations"], [], []]
    for standard, lines in ((True, sections[1]), (False, sections[2])):
        found = [each for each in used if (each.module.partition(".")[0] in sys.stdlib_module_names) == standard]
        plain = sorted((each for each in found if each.name is None), key=lambda each: each.module.lower())
        lines += [f"import {each.module}" + (f" as {each.alias}" if each.alias else "") for each in plain]
        for module in sorted({each.module for each in found if each.name is not None}, key=str.lower):
            names = [str(each.name) for each in found if each.module == module and each.name is not None]
            lines.append(f"from {module} import {', '.join(sorted(names, key=_member_order))}")
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _member_order(name: str) -> tuple[int, str]:
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name.lower()


class Edits:
    """A list of changes to a source text, at the positions of syntax nodes."""

    def __init__(self, text: str):
        """Start with no changes to `text`."""
        self.data = text.encode()
        self.tree = ast.parse(text)
        self.lines = [0]
        for line in self.data.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.edits: list[tuple[int, int, str]] = []

    def start(self, node: ast.AST) -> int:
        """Return the offset of the first byte of a node."""
        return self.lines[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        """Return the offset after the last byte of a node."""
        return self.lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def replace(self, node: ast.AST, text: str) -> None:
        """Replace a node with `text`."""
        self.edits.append((self.start(node), self.end(node), text))

    def remove(self, node: ast.stmt) -> None:
        """Remove a statement, the comments directly above it, and the empty lines above these."""
        first = first_line(node) - 1
        while first and self.data[self.lines[first - 1] : self.lines[first]].lstrip().startswith(b"#"):
            if self.data[self.lines[first - 1] :].startswith(b"# %%"):
                break
            first -= 1
        while first and self.lines[first] - self.lines[first - 1] == 1:
            first -= 1
        self.edits.append((self.lines[first], self.lines[node.end_lineno or 0], ""))

    def keep(self, items: Sequence[tuple[ast.AST, ast.AST]], kept: list[bool]) -> None:
        """Remove list items for which `kept` is False. An item is a pair: its first and its last syntax node."""
        for place, (first, last) in enumerate(items):
            if kept[place]:
                continue
            if place:
                self.edits.append((self.end(items[place - 1][1]), self.end(last), ""))
            else:
                end = self.start(items[1][0]) if len(items) > 1 else self.end(last)
                self.edits.append((self.start(first), end, ""))

    def text(self) -> str:
        """Return the changed text. If the content of brackets now fits on one line, join the lines, as ruff does."""
        data = self.data
        for start, end, new in sorted(self.edits, reverse=True):
            data = data[:start] + new.encode() + data[end:]
        return re.sub(r"^( *.*[(\[{])\n +([^\n]*[^,\n])\n *([)\]}].*)$", _joined, data.decode(), flags=re.MULTILINE)


def _joined(found: re.Match[str]) -> str:
    line = "".join(found.groups())
    return line if len(line) <= LONGEST_LINE else found[0]


def first_line(node: ast.stmt) -> int:
    """Return the line number of a statement or, if it has decorators, of the first decorator."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def name_of(node: ast.stmt) -> str:
    """Return the name of a function, class or constant; empty for other statements."""
    target = (
        node.targets[0] if isinstance(node, ast.Assign) else node.target if isinstance(node, ast.AnnAssign) else None
    )
    if isinstance(target, ast.Name):
        return target.id
    return node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""


def names_in(tree: ast.AST, without: Collection[str] = ()) -> set[str]:
    """Return the names in a syntax tree, except those in the definitions `without`."""
    nodes = [node for node in ast.iter_child_nodes(tree) if getattr(node, "name", "") not in without]
    return {node.id for top in [*nodes, *[tree] * (not nodes)] for node in ast.walk(top) if isinstance(node, ast.Name)}


def attributes_in(tree: ast.AST) -> set[str]:
    """Return the names of all attributes in a syntax tree."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def bound_by(node: ast.stmt) -> set[str]:
    """Return the names that an assignment or a function definition binds; empty for other statements."""
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    names = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
    return names if all(isinstance(target, ast.Name | ast.Tuple) for target in targets) else set()


def parameters_of(node: ast.FunctionDef) -> list[tuple[str, ast.AST, ast.AST]]:
    """Return (name, first node, last node) for each parameter of a function. The last node is the default, if any."""
    spec = node.args
    defaults = [None] * (len(spec.args) - len(spec.defaults)) + list(spec.defaults) + list(spec.kw_defaults)
    return [(each.arg, each, last or each) for each, last in zip(spec.args + spec.kwonlyargs, defaults, strict=True)]


_BLOCKS = ast.FunctionDef | ast.ClassDef | ast.Module


def spaced(text: str) -> str:
    """Return source code with as many empty lines around functions and classes as ruff expects."""
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if not isinstance(node, _BLOCKS):
            continue
        for one, other in itertools.pairwise(node.body):
            place = one.end_lineno or 0
            if isinstance(node, ast.ClassDef):
                is_docstring = one is node.body[0] and isinstance(one, ast.Expr)
                lines[place] = ("\n" if is_docstring and lines[place].strip() else "") + lines[place]
                continue
            if isinstance(one, ast.FunctionDef | ast.ClassDef):
                found = len(list(itertools.takewhile(lambda line: not line.strip(), lines[place:])))
                lines[place] = "\n" * ((2 if node is tree else 1) - found) + lines[place]
            is_docstring = one is node.body[0] and isinstance(one, ast.Expr) and node is not tree
            if is_docstring and not isinstance(other, ast.FunctionDef | ast.ClassDef) and not lines[place].strip():
                lines[place] = ""
    return "".join(lines)
