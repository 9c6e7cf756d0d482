"""Copying a recipe: one readable file that needs nothing else of this project."""

from __future__ import annotations

import ast
import configparser
import difflib
import importlib.metadata
import re
import shutil
import symtable
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError
from common.files import replacing, write_text

COOKBOOK = Path(__file__).resolve().parent.parent
BORROWED = "# %% Borrowed from the cookbook's common/ folder"


def recipe_names(root: Path = COOKBOOK) -> list[str]:
    """Return the names of the recipes, by listing their folder."""
    return sorted(path.stem for path in (root / "recipes").glob("*.py") if not path.name.startswith("_"))


def recipe_summary(recipe: str, root: Path = COOKBOOK) -> str:
    """Return the first line of a recipe's docstring, without importing the recipe."""
    tree = ast.parse((root / "recipes" / f"{recipe}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def copy_recipe(name: str, destination: Path, force: bool = False, root: Path = COOKBOOK) -> list[Path]:
    """Write a recipe as one standalone file, and beside it the small data files that it reads.

    Args:
        name: the recipe's name, without `.py`.
        destination: a file ending in .py, or a folder, which gets `name`.py.
        force: overwrite files that differ.
        root: the folder that holds recipes/ and common/.

    Returns:
        The standalone file, then the data files.

    Raises:
        InputError: there is no such recipe, or `destination` will not do.
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
    text, data = _assemble(name, root)
    sources = [_data_source(file, root) for file in data]
    copies = [destination.parent / file for file in data]
    own = [(root / place).resolve() for place in ("common", "recipes")]
    if destination.exists() and destination.resolve().parent in own:
        raise InputError(f"{destination} belongs to the project itself: choose another destination")
    kept = [copy for source, copy in zip(sources, copies, strict=True) if _same(source, copy)]
    for path in [destination, *copies]:
        if path.exists() and path not in kept and not force:
            raise InputError(f"{path} exists: choose another destination, or overwrite it with --force")
    for source, copy in zip(sources, copies, strict=True):
        if copy not in kept:
            with replacing(copy) as draft:
                shutil.copyfile(source, draft)
    return [write_text(destination, text), *copies]


def standalone(recipe: str, root: Path = COOKBOOK) -> str:
    """Return a recipe as the source of one file that imports neither `common` nor `recipes`.

    The recipe's text stays as it is. What it uses of `common`, directly or not, is pasted below it; what
    Python needs earlier, while it runs the recipe's top level (base classes, decorators, default values,
    constants), is pasted above it. Imports are merged, the command line becomes `print(demo())`, and the
    report of a run is left out.

    Raises:
        ValueError: the sources break a rule that copying rests on: names that are unique, imports by
            `from common.module import name` at the top of a file, data files named by a literal.
    """
    return _assemble(recipe, root)[0]


def standalone_data(recipe: str, root: Path = COOKBOOK) -> list[str]:
    """Return the names of the data files that the code of `standalone(recipe)` reads by `data_file`."""
    return _assemble(recipe, root)[1]


def _data_source(name: str, root: Path) -> Path:
    for path in (root / "data" / name, root / "common" / name):
        if path.is_file():
            return path
    raise InputError(f"{root / 'data' / name} is missing: take it from the project's data folder")


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


class _Import(NamedTuple):
    """One imported name: `import module`, or `from module import name`, with or without an alias."""

    module: str
    name: str | None = None
    alias: str | None = None

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @property
    def bound(self) -> str:
        return self.alias or self.name or self.package


LEFT_OUT = re.compile(r" +write_report\(.*\)")  # a run's page in the browser: much code, and none of the algorithm
LAZY_IMPORTS = {"keras": _Import("keras"), "tf": _Import("tensorflow", alias="tf")}


class _Piece:
    """A statement at the top level of a module, with its text and the names in it."""

    def __init__(self, source: _Source, node: ast.stmt, last: int):
        self.source = source
        self.node = node
        self.first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))]) - 1
        self.last = last  # lines count from 0; this is the first one behind the piece
        while self.first and re.match("#(?! %%)", source.lines[self.first - 1]):
            self.first -= 1
        self.text = "\n".join(line for line in source.lines[self.first : last] if not LEFT_OUT.fullmatch(line))
        self.is_simple = not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        self.binds = _bound(self.text)
        self.runs = _looked_up(self.text)
        self.uses = self.runs | _annotated(node)
        self.starts = _looked_up(_without_bodies(self.text))  # by the statement itself, not when called


class _Source:
    """A module: its pieces, and where its other names come from."""

    def __init__(self, module: str, text: str):
        self.module = module
        self.lines = text.splitlines()
        self.pieces: list[_Piece] = []
        self.imports: dict[str, set[_Import]] = {}
        self.borrowed: dict[str, str] = {}  # name -> module of common
        self.head = (0, 0)  # first line of the first import, first line behind the last one
        for node in ast.parse(text).body:
            end = node.end_lineno or node.lineno
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._add_import(node, end)
            elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                for child in node.body:
                    self._add_import(child, end)
            elif not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
                self.pieces.append(_Piece(self, node, end))
            elif self.pieces:  # a text behind an assignment is the documentation of what it binds
                self.pieces[-1] = _Piece(self, self.pieces[-1].node, end)
        self.names = {name: piece for piece in self.pieces for name in piece.binds}
        for name in self.names.keys() & (self.imports.keys() | self.borrowed.keys()):
            raise ValueError(f"{module}: {name} is both imported and defined")
        for piece in self.pieces:
            if piece.first < self.head[1] or re.search(r"^\s+from common\b", piece.text, re.MULTILINE):
                raise ValueError(f"{module}:{piece.first + 1}: imports of common belong at the top of the file")

    def _add_import(self, node: ast.stmt, end: int) -> None:
        """Note what one import binds; `end` is the line where its statement ends."""
        where = f"{self.module}:{node.lineno}"
        self.head = (self.head[0] or node.lineno, end)
        if isinstance(node, ast.ImportFrom) and not node.level:
            found = [_Import(str(node.module), alias.name, alias.asname) for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [_Import(alias.name, None, alias.asname) for alias in node.names]
        else:
            raise ValueError(f"{where}: expected an absolute import")
        for item in found:
            if item.package == "common" and item.name not in (None, "*") and item.alias is None:
                self.borrowed[str(item.name)] = item.module
            elif item.package in ("common", "recipes"):
                raise ValueError(f"{where}: write `from common.module import name`, and import no recipe")
            elif item.package != "__future__":
                self.imports.setdefault(item.bound, set()).add(item)


def _tables(text: str) -> list[symtable.SymbolTable]:
    """Return the symbols of a statement, and then those of all functions and classes in it."""
    tables = [symtable.symtable("from __future__ import annotations\n" + text, "statement", "exec")]
    for table in tables:
        tables += table.get_children()
    return tables


def _bound(text: str) -> set[str]:
    """Return the names that a statement binds at the top level of its module."""
    symbols = _tables(text)[0].get_symbols()
    return {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()} - {"annotations"}


def _looked_up(text: str) -> set[str]:
    """Return the names that a statement looks up in its module, outside of annotations: these never run."""
    top, *inner = _tables(text)
    symbols = [*top.get_symbols(), *(s for table in inner for s in table.get_symbols() if s.is_global())]
    return {s.get_name() for s in symbols if s.is_referenced()}


def _without_bodies(text: str) -> str:
    """Return a statement as code in which functions do nothing."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    return ast.unparse(tree)


def _annotated(node: ast.stmt) -> set[str]:
    """Return the names in all annotations in a statement."""
    names: set[str] = set()
    for child in ast.walk(node):
        for annotation in (getattr(child, "annotation", None), getattr(child, "returns", None)):
            if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
                annotation = ast.parse(annotation.value, mode="eval")
            if annotation is not None:
                names |= {part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)}
    return names


class _Project:
    """The modules of common that a recipe uses, and where a name in one of them leads."""

    def __init__(self, root: Path):
        self.root = root
        self.sources: dict[str, _Source] = {}

    def find(self, source: _Source, name: str) -> _Piece | set[_Import] | None:
        """Return what `name` means in `source`; None for a builtin."""
        while name not in source.names and name in source.borrowed:
            module = source.borrowed[name]
            if module == "common.lazy":
                return {LAZY_IMPORTS[name]}
            if module not in self.sources:
                path = self.root.joinpath(*module.split(".")).with_suffix(".py")
                self.sources[module] = _Source(module, path.read_text(encoding="utf-8"))
            source = self.sources[module]
            if name not in source.names and name not in source.borrowed:
                raise ValueError(f"{module} does not define {name}")
        return source.names.get(name) or source.imports.get(name)

    def reach(self, source: _Source, names: Iterable[str], kind: str) -> set[_Piece]:
        """Return the pieces that `names` lead to, and what these lead to by their names of one kind."""
        found: set[_Piece] = set()
        todo = [(source, name) for name in names]
        while todo:
            piece = self.find(*todo.pop())
            if isinstance(piece, _Piece) and piece not in found:
                found.add(piece)
                todo += [(piece.source, name) for name in getattr(piece, kind)]
        return found


def _assemble(recipe: str, root: Path) -> tuple[str, list[str]]:
    """Return the text of the standalone file, and the names of the data files that it reads."""
    project = _Project(root)
    text = (root / "recipes" / f"{recipe}.py").read_text(encoding="utf-8")
    text, *_ = re.split('^if __name__ == "__main__":$', text, maxsplit=1, flags=re.MULTILINE)
    source = _Source(f"recipes.{recipe}", text.rstrip())
    early: set[_Piece] = set()
    late: set[_Piece] = set()
    for piece in source.pieces:
        early |= project.reach(source, piece.starts, "runs")
        late |= project.reach(source, piece.uses, "uses")
    done = set(source.pieces)
    above = _in_order(project, early, done)
    below = _in_order(project, late, done)
    pieces = [*source.pieces, *above, *below]
    imports = _check_names(project, pieces)

    first, last = source.head
    if not first:
        raise ValueError(f"{source.module}: expected a docstring, then imports")
    top = _signed("\n".join(source.lines[: first - 1]), recipe, root) + _import_block(imports)
    parts = ["\n".join(source.lines[last:]).strip("\n")]
    if above:
        parts.insert(0, f"{BORROWED}, needed by what follows\n\n{_joined(above)}")
    if below:
        parts.append(f"{BORROWED}\n\n{_joined(below)}")
    parts.append('if __name__ == "__main__":\n    print(demo())\n')
    lines = 2 if parts[0].startswith(("def ", "class ", "@", "async ")) else 1  # as formatters leave them
    return top + "\n" * (lines + 1) + "\n\n\n".join(parts), _data_files(project, pieces)


def _in_order(project: _Project, pieces: Iterable[_Piece], done: set[_Piece]) -> list[_Piece]:
    """Sort the pieces that are not done by module and line, but each behind what it needs to be executed."""
    ordered: list[_Piece] = []

    def add(some: Iterable[_Piece]) -> None:
        for piece in sorted(some, key=lambda piece: (piece.source.module, piece.first)):
            if piece not in done:
                done.add(piece)
                add(project.reach(piece.source, piece.starts, "runs"))
                ordered.append(piece)

    add(pieces)
    return ordered


def _check_names(project: _Project, pieces: list[_Piece]) -> set[_Import]:
    """Return the imports that the pieces use. Raises ValueError where one name would mean two things."""
    imports: set[_Import] = set()
    meanings: dict[str, object] = {}
    builtins: dict[str, str] = {}

    def bind(name: str, meaning: object, module: str) -> None:
        if meanings.setdefault(name, meaning) != meaning:
            raise ValueError(f"{module}: {name} means something else elsewhere in the copied file")

    for piece in pieces:
        for name in piece.binds:
            bind(name, piece, piece.source.module)
        for name in piece.uses:
            found = project.find(piece.source, name)
            if found is None:
                builtins[name] = piece.source.module
            elif not isinstance(found, _Piece):
                imports |= found
                for item in found:
                    bind(name, item if item.name or item.alias else f"import {name}", piece.source.module)
    for name in builtins.keys() & meanings.keys():
        raise ValueError(f"{builtins[name]}: {name} means something else elsewhere in the copied file")
    return imports


def _joined(pieces: list[_Piece]) -> str:
    """Join the texts of pieces, under the name of the module that each comes from."""
    text = ""
    before = None
    for piece in pieces:
        if before is None or before.source is not piece.source:
            text += "\n\n\n" * (before is not None) + f"# {piece.source.module.replace('.', '/')}.py\n\n\n"
        elif before.is_simple and piece.is_simple:
            text += "\n" if before.last == piece.first else "\n\n"
        else:
            text += "\n\n\n"
        text += piece.text
        before = piece
    return text


def _signed(top: str, recipe: str, root: Path) -> str:
    """Add to the docstring where the copy comes from."""
    line = f"Copied   from recipes/{recipe}.py, version {_version(root)}; `python {recipe}.py` runs the demo"
    end = top.rindex('"""')
    gap = "\n" if "\n" in top[:end].strip() else "\n\n"
    return f"{top[:end].rstrip()}{gap}{line}\n{top[end:].rstrip()}\n\n"


def _version(root: Path) -> str:
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg", encoding="utf-8")
    if settings.has_option("metadata", "version"):
        return settings["metadata"]["version"]
    try:
        return importlib.metadata.version("keras-image-cookbook")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _import_block(imports: Iterable[_Import]) -> str:
    """Write imports in the order that ruff's isort rules give them."""
    sections: list[list[str]] = [["from __future__ import annotations"], [], []]
    for standard, lines in ((True, sections[1]), (False, sections[2])):
        found = [i for i in imports if (i.package in sys.stdlib_module_names) == standard]
        plain = sorted((i for i in found if i.name is None), key=lambda i: (i.module.lower(), i.alias or ""))
        lines += [f"import {i.module}" + (f" as {i.alias}" if i.alias else "") for i in plain]
        for module in sorted({i.module for i in found if i.name is not None}, key=str.lower):
            members = [i for i in found if i.module == module and i.name is not None]
            names = sorted((str(i.name) for i in members if i.alias is None), key=_member_order)
            line = f"from {module} import {', '.join(names)}"
            if len(line) > 120:
                line = f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"
            lines += [line] if names else []
            lines += sorted(f"from {module} import {i.name} as {i.alias}" for i in members if i.alias)
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _member_order(name: str) -> tuple[int, str]:
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name.lower()


def _data_files(project: _Project, pieces: list[_Piece]) -> list[str]:
    """Return the literal arguments of all calls of data_file."""
    found: set[str] = set()
    for piece in pieces:
        for node in ast.walk(piece.node):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "data_file":
                value = node.args[0] if node.args else node.keywords[0].value
                if isinstance(value, ast.Name):
                    constant = project.find(piece.source, value.id)
                    value = getattr(constant.node, "value", value) if isinstance(constant, _Piece) else value
                if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
                    where = f"{piece.source.module}:{node.lineno}"
                    raise ValueError(f"{where}: data_file needs a literal, so that a copy takes the file along")
                found.add(value.value)
    return sorted(found)
