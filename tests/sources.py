"""What the source text of a recipe says about it: what it imports, what its steps use, how long its parts are."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Source:
    """A Python file, read but not run."""

    def __init__(self, path: Path):
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.functions = {node.name: node for node in self.tree.body if isinstance(node, FUNCTIONS)}

    def imports(self) -> Iterator[tuple[str, str, str]]:
        """Yield the module, the name in it ("" for the module itself) and the name here, for each import."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                yield from ((node.module or "", alias.name, alias.asname or alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, "", alias.asname or alias.name) for alias in node.names)

    def names_from(self, package: str) -> dict[str, str]:
        """Return the names that the file has from a package: each with its sub-package, `common.data` of `common`.

        If a module is imported instead of a name, each of its attributes that the file uses counts.
        """
        found: dict[str, str] = {}
        root = Path(__file__).parents[1]
        for module, name, here in self.imports():
            if module.partition(".")[0] != package:
                continue
            place = root.joinpath(*module.split("."), name)
            if name and not (place.is_dir() or place.with_suffix(".py").is_file()):
                found[here] = ".".join(module.split(".")[:2])
                continue
            whole = f"{module}.{name}".rstrip(".")
            for node in ast.walk(self.tree):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (here, whole):
                    found[f"{here}.{node.attr}"] = ".".join(whole.split(".")[:2])
        return found

    def steps(self) -> list[ast.FunctionDef]:
        """Return the functions under `@tf.function`, wherever they stand."""
        return [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef)
            and any("tf.function" in ast.unparse(each) for each in node.decorator_list)
        ]

    def reached(self, start: ast.AST) -> list[ast.AST]:
        """Return a function with the functions of this file that it calls by name, and those that these call."""
        found, todo = [start], [start]
        while todo:
            names = {node.id for node in ast.walk(todo.pop()) if isinstance(node, ast.Name)}
            for name in sorted(names & self.functions.keys()):
                if self.functions[name] not in found:
                    found.append(self.functions[name])
                    todo.append(self.functions[name])
        return found

    def made_by(self, part: ast.AST) -> dict[str, set[str]]:
        """Return which functions made what a function has from around it: `noise` is made by `Noise`."""
        around = [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS) and part in ast.walk(node)]
        found: dict[str, set[str]] = {}
        for scope in [self.tree, *(node for node in around if node is not part)]:
            for node in [node for node in scope.body if isinstance(node, ast.Assign)]:
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                callees = {ast.unparse(each.func) for each in values if isinstance(each, ast.Call)}
                for name in bound(node):
                    found[name] = callees
        return {name: callees for name, callees in found.items() if name in used(part) - bound(part)}

    def code_lines(self, nodes: list[ast.AST]) -> int:
        """Return how many lines of code some functions have, without docstrings, comments and blank lines."""
        docstrings: set[int] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, FUNCTIONS | ast.ClassDef | ast.Module) and ast.get_docstring(node):
                docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        code: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in NOT_CODE:
                code |= set(range(token.start[0], token.end[0] + 1))
        within: set[int] = set()
        for node in nodes:
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
            within |= set(range(first, node.end_lineno + 1))
        return len(code & within - docstrings)


def bound(node: ast.AST) -> set[str]:
    """Return the variables that a piece of code binds: its parameters, and what it assigns."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    return names | {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}


def used(node: ast.AST) -> set[str]:
    """Return the variables that a piece of code reads, without those in annotations."""
    annotations: set[int] = set()
    for each in ast.walk(node):
        for hint in (getattr(each, "annotation", None), getattr(each, "returns", None)):
            annotations |= {id(part) for part in ast.walk(hint)} if hint is not None else set()
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and id(each) not in annotations}


def identifiers(node: ast.AST) -> set[str]:
    """Return every name in a piece of code: of variables, attributes, arguments and keywords."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            found.add(each.id)
        elif isinstance(each, ast.Attribute):
            found.add(each.attr)
        elif isinstance(each, ast.arg | ast.keyword):
            found.add(each.arg or "")
        elif isinstance(each, ast.alias):
            found.add(each.name)
    return found
