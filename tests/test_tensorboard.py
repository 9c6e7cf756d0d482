"""`--tensorboard`: the epochs in event files, read back with TensorFlow's own reader."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.images.writing import save_image
from common.runs.run import Run, read_execution
from common.training import Execution, executing, fit
from recipes import mlp
from tests.pictures import noise
from tests.test_training import data, start

pytestmark = pytest.mark.usefixtures("untraced")


def events(folder: Path) -> list[tuple[int, str, str, np.ndarray]]:
    """Return the step, the tag, the plugin and the value of each event, in the order of the files."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                found.append((event.step, value.tag, plugin, tf.make_ndarray(value.tensor)))
    return found


def trained(folder: Path, epochs: int, tensorboard: bool = True) -> list[dict[str, float]]:
    step, state = start()

    def sample(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        save_image(noise(1, 20, 30, 3, seed=epoch), folder / "samples" / f"epoch-{epoch:04d}.png")
        return {"score": epoch / 2}

    with executing(Execution(tensorboard=tensorboard)):
        return fit(step, data(), epochs, state, folder, on_epoch=sample)


def test_each_epoch_is_written_once_with_its_images_and_a_resumed_run_appends(tmp_path):
    trained(tmp_path, 1, tensorboard=False)
    assert not (tmp_path / "tensorboard").exists()
    trained(tmp_path, 2)  # also writes the epoch before
    history = trained(tmp_path, 3)
    trained(tmp_path, 3)
    found = events(tmp_path / "tensorboard")
    scalars = [(step, tag, float(value)) for step, tag, plugin, value in found if plugin == "scalars"]
    expected = [(row["epoch"], name, np.float32(v)) for row in history for name, v in row.items() if name != "epoch"]
    assert scalars == expected and ("score" in {tag for _, tag, _ in scalars})
    images = [(step, tag, value) for step, tag, plugin, value in found if plugin == "images"]
    assert [(step, tag) for step, tag, _ in images] == [(1, "samples"), (2, "samples"), (3, "samples")]
    for step, _, (width, height, png) in images:
        assert png == (tmp_path / f"samples/epoch-{step:04d}.png").read_bytes()
        assert (int(width), int(height)) == struct.unpack(">II", png[16:24])  # of the PNG's header


def test_a_file_that_ends_in_half_an_event_is_completed_by_the_next_process(tmp_path):
    history = trained(tmp_path, 1)
    (path,) = (tmp_path / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-100])  # in the image
    path.rename(path.with_name("events.out.tfevents.0"))
    trained(tmp_path, 1)
    (tmp_path / "tensorboard/events.out.tfevents.0").unlink()
    assert [(step, tag) for step, tag, *_ in events(tmp_path / "tensorboard")] == [(1, "samples")]
    assert history[0]["epoch"] == 1


def test_the_flag_can_change_when_a_run_is_resumed(tmp_path):
    config = mlp.Config(size=8)
    with executing(Execution(tensorboard=True)):
        Run(tmp_path, "mlp", config, "sample").start()
    assert read_execution(tmp_path).tensorboard
    (tmp_path / "checkpoints/step-00000001").mkdir(parents=True)
    Run(tmp_path, "mlp", config, "sample")
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["config"]["tensorboard"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert read_execution(tmp_path) == Execution()  # a run of an earlier version
