from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import tensorflow as tf

from common.data.batches import batches
from common.system.files import InputError
from common.training.loop import fit
from common.training.saves import read_progress
from tests.test_console import Gone
from tests.test_training import data, start, without_times


@pytest.mark.parametrize("name", ["lr=[1e-3]", "a*b? 日本 \\ [x"])
def test_a_run_in_a_folder_of_any_name_resumes(tmp_path, name):
    step, state = start()
    fit(step, data(), epochs=1, state=state, output_dir=tmp_path / name)
    kernel = state["model"].trainable_variables[0]
    trained = kernel.numpy()
    kernel.assign(tf.zeros_like(kernel))
    history = fit(step, data(), epochs=1, state=state, output_dir=tmp_path / name)
    np.testing.assert_array_equal(kernel.numpy(), trained)
    assert len(history) == 1


def test_no_message_about_saves_advises_to_delete_them(tmp_path):
    step, state = start()
    fit(step, data(), epochs=1, state=state, output_dir=tmp_path)
    (tmp_path / "checkpoints" / "step-00000005" / "progress.json").write_text("[]")
    with pytest.raises(InputError, match="no checkpoint can be read .* restore it from a backup") as raised:
        fit(step, data(), epochs=2, state=state, output_dir=tmp_path)
    assert "delete" not in str(raised.value)


def test_a_pipe_in_place_of_a_save_is_not_waited_for(tmp_path):
    step, state = start()
    fit(step, data(), epochs=1, state=state, output_dir=tmp_path)
    for name in ("state.index", "progress.json"):
        path = tmp_path / "checkpoints" / "step-00000005" / name
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(InputError, match="is not a regular file"):
            fit(step, data(), epochs=1, state=state, output_dir=tmp_path)


PROGRESS = {"steps_per_epoch": 5, "totals": {}, "seconds": 0.0, "history": [{"epoch": 1, "loss": 1.0}]}


@pytest.mark.parametrize(
    "changed",
    [
        {"history": 3},
        {"history": None},
        {"history": [3]},
        {"history": [{"loss": 1.0}]},
        {"history": [{"epoch": "1", "loss": 1.0}]},
        {"history": [{"epoch": 1, "loss": [1.0]}]},
        {"totals": [1]},
        {"totals": {"loss": "1"}},
        {"seconds": None},
        {"steps_per_epoch": "5"},
    ],
)
def test_progress_that_someone_has_changed_is_not_believed(tmp_path, changed):
    path = tmp_path / "progress.json"
    path.write_text(json.dumps(PROGRESS))
    assert read_progress(path) == tuple(PROGRESS.values())
    path.write_text(json.dumps(PROGRESS | changed))
    with pytest.raises((ValueError, TypeError, AttributeError, LookupError)):
        read_progress(path)


def test_a_side_product_that_fails_does_not_end_the_training(tmp_path, capsys):
    def on_epoch(epoch, losses):
        if epoch == 2:
            raise RuntimeError("no backend\nsecond line")
        return {"score": epoch}

    step, state = start()
    (tmp_path / "history.csv" / "a folder").mkdir(parents=True)  # so that no file can be written there
    history = fit(step, data(), epochs=3, state=state, output_dir=tmp_path, on_epoch=on_epoch)
    said = capsys.readouterr().err
    assert "warning: images or scores after epoch 2 could not be created (no backend)\n" in said
    assert said.count("warning: history.csv could not be created (") == 4  # after each epoch, and at the end
    assert [row.get("score") for row in history] == [1, None, 3]
    (tmp_path / "history.csv" / "a folder").rmdir()
    (tmp_path / "history.csv").rmdir()
    assert without_times(fit(step, data(), epochs=3, state=state, output_dir=tmp_path)) == without_times(history)
    assert (tmp_path / "history.csv").read_text().splitlines()[0] == "epoch,loss,score,seconds,steps_per_second"


def test_a_score_that_decides_which_weights_are_kept_may_not_fail():
    step, state = start()
    with pytest.raises(RuntimeError, match="no score"):
        fit(step, data(), epochs=2, state=state, on_epoch=no_score, best="validation_loss")


def no_score(epoch, losses):
    raise RuntimeError("no score")


def test_progress_that_nobody_can_read_any_more_does_not_end_the_training(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(sys, "stderr", Gone())
    step, state = start()
    assert len(fit(step, data(), epochs=2, state=state)) == 2


def test_items_with_an_empty_axis_are_batched():
    """Faces without attributes have labels [n, 0]; one way to split batches ends the process there."""
    items = np.arange(20), np.zeros((20, 0), np.int32)
    stream = batches(items, 4, 0, lambda item, seed: item)
    first, second = next(iter(stream.at(0).as_numpy_iterator()))
    assert first.shape == (4,) and second.shape == (4, 0)
