"""What several test files use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.forked import stop_server

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads would only wait for one another
    for _library in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_library, "1")


def pytest_sessionfinish() -> None:
    stop_server()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Stop where pytest-xdist does not keep the tests of a group in one process: all that they share is made twice.

    With several processes begin with what takes long, so that no process is left with it when the others have ended.
    """
    grouped = [item for item in items if item.get_closest_marker("xdist_group")]
    if getattr(config.option, "loadgroup", False) and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError("this pytest-xdist does not group with this pytest; see pyproject.toml")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def no_progress(monkeypatch) -> None:
    """Print no progress, which would depend on the speed of the machine."""
    monkeypatch.setattr("common.system.console.Progress.FIRST_LINE", 1e6)  # seconds


@pytest.fixture
def untraced() -> Iterator[None]:
    """Run steps operation by operation: to trace one takes longer than some steps of a tiny network."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """Keep the figures that are saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(self, *arguments, **options):
        saved.append(self)
        return save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


@pytest.fixture
def unresized(monkeypatch) -> None:
    """Show the images of a sheet in their own size."""
    monkeypatch.setattr("common.images.figures.resize_image", lambda image, height, width: image)


@pytest.fixture
def browser() -> Iterator[Any]:
    """Start a headless Chromium."""
    sync_playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").sync_playwright
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if path is None:
        pytest.skip("no headless browser: none of chromium, chromium-browser, google-chrome is installed")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=flags)
        yield opened
        opened.close()
