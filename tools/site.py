"""A hook for MkDocs (see mkdocs.yml): documents outside docs/ become pages, too, and links are adapted to that.

The documents link to each other and to source files as GitHub expects it, relative to their places in the repository.
In the site, `README.md` is the page `index.md`, and everything in `docs/` is one level higher. Links to notebooks and
source files lead to copies of these files. Links to other files and to folders become plain text. Equations become SVG.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from tools.site_math import with_equations

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md"}  # documents outside docs/: path in the repository -> path in the site
PAGES |= {name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "benchmarks/RESULTS.md")}
COPIES = ("notebooks/*.ipynb", "recipes/[a-z]*.py", "LICENSE")  # files that links may lead to
LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)|(href|src)=\"([^\"]+)\"")


def on_config(config: Any) -> Any:
    """Put the page of every recipe in place of `recipes/*` in the navigation."""
    names = sorted(path.name for path in (ROOT / "docs" / "recipes").glob("*.md"))
    for entry in config.nav:
        for title, items in entry.items():
            if isinstance(items, list):
                pages = [{name.removesuffix(".md"): f"recipes/{name}"} for name in names]
                entry[title] = [each for item in items for each in (pages if item == "recipes/*" else [item])]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the documents outside docs/, and the files that links lead to."""
    from mkdocs.structure.files import File

    for name, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in sorted(path for pattern in COPIES for path in ROOT.glob(pattern)):
        files.append(File.generated(config, f"files/{path.relative_to(ROOT).as_posix()}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adapt the links of a page, and draw its equations."""
    text = adapted(markdown, page.file.src_uri)
    return with_equations(text) if page.file.src_uri.startswith("recipes/") else text


def adapted(markdown: str, place: str) -> str:
    """Return the text of a document with links for the site; `place` is the path of its page."""
    source = {page: path for path, page in PAGES.items()}.get(place, f"docs/{place}")

    def replace(found: re.Match[str]) -> str:
        image, words, target, attribute, html = found.groups()
        new = destination(target or html, source, place)
        if attribute:
            return f'{attribute}="{page_name(new or "#")}"'
        return f"{image}[{words}]({new})" if new else words

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)  # code, which stays as it is, has odd positions
    return "".join(part if number % 2 else LINK.sub(replace, part) for number, part in enumerate(parts))


def destination(target: str, source: str, place: str) -> str:
    """Return the target of a link, relative to the page at `place`; empty if the site has no such page or file.

    Args:
        target: as it is in the document.
        source: the path of the document in the repository.
        place: the path of its page in the site.
    """
    path, _, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return target
    there = os.path.normpath(PurePosixPath(source).parent / path)
    if there in PAGES:
        there = PAGES[there]
    elif there.startswith("docs/") and (ROOT / there).is_file():
        there = there.removeprefix("docs/")
    elif any(PurePosixPath(there).match(pattern) for pattern in COPIES):
        there = f"files/{there}"
    else:
        return ""
    return os.path.relpath(there, PurePosixPath(place).parent) + (f"#{anchor}" if anchor else "")


def page_name(target: str) -> str:
    """Return the target of a link in HTML, which MkDocs does not adapt: the page of a document."""
    path, mark, anchor = target.partition("#")
    if path.endswith("README.md") and not path.startswith("http"):
        path = path.removesuffix("README.md") + "index.html"
    return re.sub(r"(?<!:)\.md$", ".html", path) + mark + anchor
