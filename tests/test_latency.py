"""The parts of `benchmarks.latency`: what it times, and the runs that it makes for its commands."""

import json
import resource
import runpy
import sys
import time
from pathlib import Path

import pytest

from benchmarks import latency
from common.errors import InputError
from common.images import read_image


def test_seconds_by_the_clock_and_of_the_cores_are_medians():
    naps = iter([0.02, 0.3, 0.04])
    wall, cpu = latency.seconds_of(lambda: time.sleep(next(naps)), 3, resource.RUSAGE_SELF)
    assert 0.04 <= wall < 0.3 and cpu < wall


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "fast_style_transfer", "face_swap"])
def test_the_command_of_a_verb_runs_on_the_run_that_is_made_for_it(name, tmp_path, monkeypatch, capsys):
    written = []

    def measured(recipe, arguments, rounds):
        assert rounds == 2
        monkeypatch.setattr(sys, "argv", [recipe, *arguments])
        runpy.run_path(str(Path(latency.__file__).parents[1] / "recipes" / f"{recipe}.py"), run_name="__main__")
        written.extend(read_image(Path(part)).shape for part in arguments if part.endswith("out.png"))
        return dict.fromkeys(latency.COLUMNS, 1.5)

    monkeypatch.setattr(latency, "measure_verb", measured)
    latency.main(2, (name,), tmp_path)
    verb = f"{name} {latency.VERBS[name].split()[0]}"
    assert written == {"mlp": [], "fast_style_transfer": [(300, 451, 3)], "face_swap": [(512, 512, 3)]}[name]
    assert json.loads((tmp_path / "latency.json").read_text())["rows"][verb]["cold"] == 1.5
    assert f"| {verb} | 1.50 |" in capsys.readouterr().out


def test_what_is_not_measured_is_said():
    with pytest.raises(InputError, match="vae_faces: not measured here"):
        latency.main(recipes=("mlp", "vae_faces"))
