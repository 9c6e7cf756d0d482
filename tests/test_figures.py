from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, pathlib
from common.figures import new_figure, save_figure
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
