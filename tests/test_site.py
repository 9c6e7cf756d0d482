"""The web site of the documents: its links, and that it works from a folder, without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from tools.site import adapted

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.xdist_group("site")


@pytest.mark.parametrize(
    ("place", "link", "wanted"),
    [
        ("index.md", "[x](docs/guides/runs.md#stop-and-resume)", "[x](guides/runs.md#stop-and-resume)"),
        ("index.md", "[x](notebooks/gan.ipynb)", "[x](files/notebooks/gan.ipynb)"),
        ("index.md", "![x](docs/gallery/gan.jpg)", "![x](gallery/gan.jpg)"),
        ("index.md", '<img src="docs/gallery/gan.jpg">', '<img src="gallery/gan.jpg">'),
        ("index.md", '<a href="docs/recipes/gan.md">', '<a href="recipes/gan.html">'),
        ("index.md", '<a href="data/README.md#a">', '<a href="data/index.html#a">'),
        ("recipes/gan.md", "[x](../../recipes/gan.py)", "[x](../files/recipes/gan.py)"),
        ("recipes/gan.md", "[x](../recipes.md)", "[x](../recipes.md)"),
        ("guides/own-data.md", "[x](../../data/README.md)", "[x](../data/README.md)"),
        ("benchmarks/RESULTS.md", "![x](../docs/results/a.png), [y](#y)", "x, [y](#y)"),
        ("index.md", "[recipes/](recipes) and [z](https://a.b/c.md)", "recipes/ and [z](https://a.b/c.md)"),
        ("index.md", "```\n[x](recipes)\n```", "```\n[x](recipes)\n```"),
    ],
)
def test_links_are_adapted_to_the_site(place, link, wanted):
    assert adapted(link, place) == wanted


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install --editable '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if path.name != "404.html"}
    names = {path: set(re.findall(r'\bid="?([^">\s]+)', text)) for path, text in pages.items()}
    assert len(pages) > 35
    for path, text in pages.items():
        for target in re.findall(r'\b(?:href|src)="?([^">\s]+)', text):
            if re.match(r"[a-z]+:|//", target):
                continue
            name, _, anchor = target.partition("#")
            there = (path.parent / unquote(name)).resolve() if name else path
            assert there.exists(), f"{path.relative_to(site)}: {target}"
            assert not anchor or there not in names or unquote(anchor) in names[there], target


@pytest.mark.slow
def test_the_site_loads_nothing_from_the_web(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"?([^\">\s]+)", path.read_text("utf-8")
        )
        assert loaded and not [target for target in loaded if re.match(r"https?:|//", target)], path.name


@pytest.mark.slow
def test_the_site_can_be_searched_from_a_folder(site, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((site / "guides" / "index.html").as_uri())
    page.fill("input.md-search__input", "RECIPES_RESTARTS")
    page.locator("a.md-search-result__link").first.wait_for()
    found = page.locator("a.md-search-result__link").first.get_attribute("href")
    assert "scaling.html" in str(found) and not errors
    assert asked and all(url.startswith(("file:", "data:", "blob:", "about:")) for url in asked)
