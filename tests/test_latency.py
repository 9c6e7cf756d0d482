"""The parts of `benchmarks.latency`: what it times, and the runs that it makes for its commands."""

import json
import resource
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import latency
from common.images.reading import read_image
from common.system.files import InputError


def test_seconds_by_the_clock_and_of_the_cores_are_medians(monkeypatch):
    naps, clock, used = iter([0.25, 4.0, 0.5]), [1.0], [7.0]

    def nap() -> None:
        clock[0] += next(naps)
        used[0] += 0.125

    def cpu_seconds(who: int) -> float:
        assert who == resource.RUSAGE_CHILDREN
        return used[0]

    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(latency, "cpu_seconds", cpu_seconds)
    assert latency.seconds_of(nap, 3, resource.RUSAGE_CHILDREN) == (0.5, 0.125)


def test_seconds_of_the_cores_are_those_of_user_and_system():
    before = resource.getrusage(resource.RUSAGE_SELF)
    assert 0 < before.ru_utime + before.ru_stime <= latency.cpu_seconds(resource.RUSAGE_SELF)


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
    with pytest.raises(InputError, match="--recipes vae_faces: not in this benchmark"):
        latency.main(recipes=("mlp", "vae_faces"))
