"""Killed at every moment at which something changes on the disk, and started again."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import keras
import numpy as np
import pytest

import common.runs.report
from common.data.batches import batches
from common.data.shard_writing import write_shards
from common.images.converting import convert_images
from common.images.films import save_film
from common.images.marks import write_marked
from common.images.writing import save_gif, save_samples, write_image
from common.runs.export import export
from common.runs.report import write_report
from common.runs.run import Run
from common.system.files import write_npz, write_text
from common.training import Execution, executing, fit
from common.training.health import Healthy
from recipes import deepdream, gan, style_transfer
from tests.crashes import kill_everywhere
from tests.pictures import noise
from tests.test_contract import TINY, tiny_data
from tests.test_training import start


class Networks(NamedTuple):
    """Of the smallest run that there is."""

    model: keras.Model


@pytest.fixture(autouse=True)
def short_reports(monkeypatch):
    """Leave the curves out of reports, and compile their template once: both would take most of the time."""
    compiled, translate = {}, jinja2.Environment.compile

    def compile_once(environment: jinja2.Environment, source: str, *rest: Any, **named: Any) -> Any:
        if source not in compiled:
            compiled[source] = translate(environment, source, *rest, **named)
        return compiled[source]

    monkeypatch.setattr(common.runs.report, "report_chart", lambda name, history: [])
    monkeypatch.setattr(jinja2.Environment, "compile", compile_once)


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_a_run_that_is_killed_anywhere_ends_as_if_it_had_not_been(tmp_path):
    """From config.json to the report, with saves in mid-epoch, images, a best epoch, and warnings."""
    step, state = start()
    parts = [*state["model"].variables, *state["optimizer"].variables, state["noise"].generator.state]
    initial = [part.numpy() for part in parts]
    x = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    data = batches((x, x[:, :1]), 4, seed=3)
    data = data._replace(at=functools.cache(data.at))
    config = gan.Config(epochs=2)

    def run(folder: Path) -> None:
        for part, value in zip(parts, initial, strict=True):
            part.assign(value)

        def on_epoch(epoch: int, losses: dict[str, float]) -> dict[str, float]:
            write_image(noise(8, 8, 3, seed=epoch), folder / "samples" / f"epoch-{epoch:04d}.png")
            return {"validation": [1.0, 2.0][epoch - 1]}

        started = Run(folder, "gan", config, "sample")
        started.start()
        options = {"on_epoch": on_epoch, "best": "validation", "healthy": {"loss": Healthy(9.0, 10.0, "odd")}}
        with executing(Execution(steps_per_call=1)):  # so that each run saves after the same steps
            fit(step, data, 2, state, folder, save_seconds=0.0, **options)
        write_image(noise(8, 8, 3), folder / "samples.png")
        started.finish(Networks(state["model"]), lambda: {"score": 1.0})

    assert kill_everywhere(tmp_path, run) >= 200


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "traced"), [(style_transfer, "make_losses"), (deepdream, "make_gradient")])
def test_a_picture_in_the_making_that_is_killed_anywhere(recipe, traced, tmp_path, monkeypatch):
    name = recipe.__name__.partition(".")[2]
    longer = {"octaves": 4} if recipe is deepdream else {"epochs": 4}
    config = recipe.Config(**TINY[name] | {"steps": 1} | longer)
    networks = recipe.build(config)
    kept = getattr(recipe, traced)(networks, *([tiny_data(name, config)] if recipe is style_transfer else []), config)
    monkeypatch.setattr(recipe, traced, lambda *arguments: kept)  # of one size, so traced once

    def run(folder: Path) -> None:
        changed = tiny_data(name, config)
        recipe.train(networks, changed, config, folder)
        write_image(changed.image, folder / "image.png")
        write_report(folder)

    assert kill_everywhere(tmp_path, run) >= 40


@pytest.mark.slow
def test_an_export_that_is_killed_anywhere(tmp_path):
    """As a SavedModel, which is a folder; the other formats are files, written as networks are."""
    model = keras.Sequential([keras.Input((3,), name="input"), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")

    def run(folder: Path) -> None:
        if not (folder / "model.keras").exists():
            folder.mkdir(exist_ok=True)
            (folder / "model.keras").write_bytes((tmp_path / "model.keras").read_bytes())
        export(folder, "tf_saved_model")

    assert kill_everywhere(tmp_path, run) >= 8


def shards(folder: Path, pictures: Path) -> None:
    if not (folder / "shards" / "index.json").exists():  # a whole one is not written again
        write_shards(pictures, folder / "shards", megabytes=0.0005)


FRAMES = np.stack([noise(16, 16, 3, seed=number) for number in range(3)])
WRITERS = {
    "translate": lambda folder, pictures: convert_images(pictures, folder, lambda image: 255 - image),
    "generate": lambda folder, pictures: save_samples(FRAMES, folder, singles=True),
    "walk": lambda folder, pictures: save_gif(FRAMES, folder / "walk.gif"),
    "film": lambda folder, pictures: save_film(FRAMES, folder / "walk.mp4"),
    "swap": lambda folder, pictures: write_marked(FRAMES[0], folder / "swap.png", "made by a network", "cookbook"),
    "encode": lambda folder, pictures: write_npz(folder / "latents.npz", {"latents": FRAMES}),
    "table": lambda folder, pictures: write_text(folder / "table.csv", "file,cat\na.png,1.0\n"),
    "shards": shards,
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", WRITERS)
def test_a_verb_that_is_killed_anywhere(verb, tmp_path):
    for number in range(8):
        write_image(noise(16, 16, 3, seed=number), tmp_path / "pictures" / f"{number}.png")
    kill_everywhere(tmp_path, functools.partial(WRITERS[verb], pictures=tmp_path / "pictures"))
