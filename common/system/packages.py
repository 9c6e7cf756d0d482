"""The packages that the project needs, which of them are missing, and the pip command that installs them.

This module uses only the standard library, because it explains what is wrong if other packages cannot be imported. The
functions import the modules that take time.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from common.system.files import InputError, first_line

if TYPE_CHECKING:
    import configparser

PROJECT = "keras-image-cookbook"
ROOT = Path(__file__).resolve().parents[2]
IMPORTED_AS = {  # distributions whose module has another name
    "adversarial-robustness-toolbox": "art",
    "ipython": "IPython",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}


class Requirement(NamedTuple):
    """A package that the project needs, always or for one of its extras."""

    name: str  # of the distribution
    bounds: str  # such as `>=3.15,<3.16`
    extra: str = ""  # empty: always needed
    options: str = ""  # extras of the package itself, such as `and-cuda`

    @property
    def line(self) -> str:
        """The requirement as pip reads it."""
        return f"{self.name}[{self.options}]{self.bounds}" if self.options else f"{self.name}{self.bounds}"

    @property
    def module(self) -> str:
        """The name of the module to import."""
        return IMPORTED_AS.get(self.name.lower(), self.name.replace("-", "_"))

    def installed(self) -> str:
        """Return the installed version, or an empty string."""
        import importlib.metadata

        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return ""


def python_bounds() -> str:
    """Return the versions of Python that the project supports, such as `>=3.11,<3.14`."""
    if (settings := _settings()) is not None:
        return settings["options"]["python_requires"]
    import importlib.metadata

    return str(importlib.metadata.metadata(PROJECT)["Requires-Python"] or "")


def requirements() -> list[Requirement]:
    """Return all requirements: from setup.cfg in a checkout, otherwise from the metadata of the installed wheel."""
    found = []
    if (settings := _settings()) is not None:
        found = [requirement_of(line) for line in settings["options"]["install_requires"].split("\n") if line.strip()]
        for extra, lines in settings["options.extras_require"].items():
            found += [requirement_of(line, extra) for line in lines.split("\n") if line.strip()]
        return found
    import importlib.metadata

    for line in importlib.metadata.requires(PROJECT) or ():
        marker = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        found.append(requirement_of(line.partition(";")[0], marker[1] if marker else ""))
    return found


def _settings() -> configparser.ConfigParser | None:
    """Return setup.cfg, or None outside of a checkout."""
    import configparser

    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    return settings if settings.get("metadata", "name", fallback="") == PROJECT else None


def requirement_of(line: str, extra: str = "") -> Requirement:
    """Return the requirement in a line such as `keras>=3.15,<3.16`."""
    match = re.match(r"\s*([\w.-]+)(?:\[([\w,-]+)\])?\s*\(?([^;)]*)", line)
    if match is None:
        raise ValueError(f"{line!r} is not a requirement")
    return Requirement(match[1], match[3].strip(), extra, match[2] or "")


def install_command(extra: str = "", *packages: Requirement) -> str:
    """Return the pip command that installs what the project needs, always or for one of its extras.

    In a checkout, the command installs the project with this extra. Otherwise it names the packages, because the wheel
    may come from a file.

    Args:
        extra: the name of the extra; empty: what is always needed.
        packages: those that are missing, if they are known.
    """
    if _settings() is not None:
        folder = "." if Path.cwd() == ROOT else str(ROOT)
        wanted = f"{folder}[{extra}]" if extra else folder
        return f"pip install --editable {wanted if wanted == '.' else repr(wanted)}"
    missing = packages or [each for each in requirements() if each.extra == extra]
    return f"pip install {' '.join(repr(each.line) for each in missing)}"


def meets(version: str, bounds: str) -> bool | None:
    """Return whether a version is within bounds such as `>=3.15,<3.16`, or None if this cannot be checked."""
    for module in ("packaging.specifiers", "pip._vendor.packaging.specifiers"):  # TensorFlow needs the first
        try:
            return importlib.import_module(module).SpecifierSet(bounds).contains(version, prereleases=True)
        except ImportError:
            continue
    return None


def explained_import(error: ImportError) -> str:
    """Return one line that says which of the project's packages cannot be imported, and what would help.

    The line is empty if the error is about another module, or about a name that a module does not define.
    """
    module = (error.name or "").partition(".")[0]
    for each in requirements() if module else ():
        if each.module == module and not each.installed():
            return f"the package {each.name} is not installed: {install_command(each.extra, each)}"
        if each.module == module and not str(error).startswith("cannot import name"):
            return f"{each.name} cannot be imported ({first_line(error)}); `python -m recipes doctor` says more"
    return ""


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line if one of the project's packages is missing, otherwise the traceback: for `sys.excepthook`."""
    if isinstance(error, ImportError) and (missing := explained_import(error)):
        print(f"error: {missing}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Turn an ImportError in the block into an InputError with the pip command for `extra`.

    Args:
        extra: the extra that contains the packages, as in setup.cfg.
        what: what needs them, such as `the web page`.
    """
    try:
        yield
    except ImportError as error:
        package = error.name or str(error)
        raise InputError(f"{what} needs the package {package}: {install_command(extra)}") from None
