from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from common.images.figures import LINE, RED, Grid, Sheet, default_style, text_width
from tests.pictures import noise

CODE = """
import os, pathlib
from common.images.figures import new_figure, save_figure
figure = new_figure(2, 1)
figure.add_subplot().plot([1, 2])
save_figure(figure, pathlib.Path("plot.png"))
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize("backend", ["module://not_installed.backend", "nonsense"])
def test_a_figure_is_saved_whatever_backend_the_environment_names(backend, tmp_path):
    """A process of its own, since Matplotlib looks at MPLBACKEND once, when it is imported."""
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{backend}\n"), done.stderr
    assert (tmp_path / "plot.png").stat().st_size > 1000


def saved(path: Path) -> bytes:
    with default_style():
        sheet = Sheet(200, 120)
        sheet.image(noise(7, 5, 3), 10, 20, 64, RED)
        sheet.text("some text", 90, 20)
        sheet.axes(100, 60, 80, 40).plot([1, 2])
        return sheet.save(path).read_bytes()


def test_a_sheet_has_the_same_bytes_whatever_the_settings_of_the_user(tmp_path):
    expected = saved(tmp_path / "a.png")
    settings = {"font.family": "serif", "lines.linewidth": 5, "savefig.bbox": "tight", "axes.facecolor": "red"}
    with matplotlib.rc_context(settings):
        assert saved(tmp_path / "b.png") == expected
        assert matplotlib.rcParams["lines.linewidth"] == 5


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("height", "width", "left", "top"), [(8, 8, 0, 0), (4, 8, 0, 16), (8, 4, 16, 0)])
def test_an_image_is_enlarged_in_the_middle_of_its_square(height, width, left, top, tmp_path):
    image = noise(height, width, 3)
    with default_style():
        sheet = Sheet(100, 80)
        sheet.image(image, 20, 10, 64)
        found = pixels(sheet.save(tmp_path / "a.png"))
    assert found.shape == (80, 100, 3)
    expected = np.full_like(found, 255)
    large = Image.fromarray(image).resize((8 * width, 8 * height), Image.Resampling.BICUBIC)
    expected[10 + top : 10 + top + 8 * height, 20 + left : 20 + left + 8 * width] = large
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("text", ["short", "a long name of a class", "a long name of a class 93 %", "x" * 90])
@pytest.mark.parametrize("width", [90, 400])
def test_text_is_shortened_to_its_width(text, width):
    with default_style():
        sheet = Sheet(100, 100)
        whole, written = sheet.text(text, 0, 0), sheet.text(text, 0, 0, width=width)
        found = written.get_text()
        if text_width(whole) <= width:
            assert found == text
        else:
            assert text_width(written) <= width and "…" in found
            assert found.endswith(" %") is text.endswith(" %")


@pytest.mark.parametrize(("columns", "lines"), [(1, [1, 2, 0, 1, 1]), (2, [2, 1, 1]), (3, [2, 1])])
def test_a_row_of_a_grid_is_as_high_as_its_longest_caption(columns, lines):
    captions = ["\n".join("abc"[:rows]) for rows in (1, 2, 0, 1, 1)]
    grid = Grid([noise(4, 4, 1)] * 5, captions, columns, side=40, pitch=50)
    heights = [40 + LINE * rows for rows in lines]
    assert np.all(np.diff(grid.tops) >= heights) and np.all(np.diff(grid.tops) <= np.add(heights, 20))
    assert (grid.width, grid.height) == (50 * columns, grid.tops[-1])
