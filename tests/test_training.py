from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.data.batches import Batches, batches, side_by_side
from common.system.files import InputError
from common.training import Execution, Noise, executing, fit
from common.training.loop import _Forecast
from tests.forked import Process, forked_python


def start(seed: int = 0):
    """A linear model with dropout and noise of its own: one of each kind of state that a save must hold."""
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(1, kernel_initializer="zeros")(keras.layers.Dropout(0.3, seed=seed)(inputs))
    model = keras.Model(inputs, outputs)
    optimizer = keras.optimizers.Adam(0.05)
    optimizer.build(model.trainable_variables)
    noise = Noise(seed)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x + 0.01 * noise.normal(tf.shape(x)), training=True) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return {"loss": loss}

    return step, {"model": model, "optimizer": optimizer, "noise": noise}


def data(**options) -> Batches:
    x = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    return batches((x, x @ np.array([[1.0], [-2.0], [0.5]], np.float32)), 4, seed=3, **options)


def weights(state) -> list[np.ndarray]:
    return [variable.numpy() for variable in state["model"].variables]


def without_times(history):
    return [(row["epoch"], row["loss"]) for row in history]


def test_what_is_measured_after_an_epoch_joins_its_row_and_stays_when_a_run_goes_on(tmp_path):
    for epochs in (2, 3):
        step, state = start()
        history = fit(
            step,
            data(),
            epochs=epochs,
            state=state,
            output_dir=tmp_path,
            on_epoch=lambda epoch, losses: {"validation_accuracy": epoch / 10},
        )
    assert [row["validation_accuracy"] for row in history] == [0.1, 0.2, 0.3]
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,loss,validation_accuracy,seconds,steps_per_second"


def test_functions_after_an_epoch_are_called_in_order_with_its_losses():
    step, state = start()
    heard = []

    def measure(epoch, losses):
        heard.append((epoch, dict(losses)))
        return {"accuracy": np.float32(0.5)}

    def listen(epoch, losses):
        heard.append((epoch, dict(losses)))
        return [epoch]  # no mapping: not added

    history = fit(step, data(), epochs=2, state=state, on_epoch=[measure, None, listen])
    losses = [row["loss"] for row in history]
    assert heard[::2] == [(1, {"loss": losses[0]}), (2, {"loss": losses[1]})]
    assert heard[1::2] == [(n, {"loss": loss, "accuracy": 0.5}) for n, loss in enumerate(losses, 1)]
    assert all(type(row["accuracy"]) is float for row in history)  # which JSON and CSV can hold


def test_epoch_means_are_the_means_of_the_losses_of_its_steps():
    @tf.function
    def step(x, y):
        return {"first": tf.reduce_sum(x), "second": tf.reduce_max(y)}

    history = fit(step, data(), epochs=2, state={})
    stream = list(data().at(0).take(10).as_numpy_iterator())
    for epoch in (0, 1):
        expected = np.mean([np.sum(x, dtype=np.float64) for x, _ in stream[5 * epoch : 5 * epoch + 5]])
        assert history[epoch]["first"] == pytest.approx(expected, rel=1e-5)
        assert history[epoch]["epoch"] == epoch + 1
        assert history[epoch]["steps_per_second"] > 0


def test_a_run_in_two_parts_equals_a_run_in_one(tmp_path):
    step, whole = start()
    expected = fit(step, data(), epochs=4, state=whole)
    step, first = start()
    fit(step, data(), epochs=2, state=first, output_dir=tmp_path)
    step, second = start(seed=9)  # other seeds: everything must come from the save
    history = fit(step, data(), epochs=4, state=second, output_dir=tmp_path)
    assert without_times(history) == without_times(expected)
    for one, other in zip(weights(whole), weights(second), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_epoch_ends_the_step_and_loses_nothing(tmp_path, number):
    step, whole = start()
    expected = fit(step, data(), epochs=3, state=whole)
    step, stopped = start()
    seen = []

    def count() -> np.float32:
        seen.append(1)
        if len(seen) == 8:
            os.kill(os.getpid(), number)
        return np.float32(0)

    @tf.function
    def until_stopped(x, y):
        return {"loss": step(x, y)["loss"] + tf.numpy_function(count, [], tf.float32)}

    before = signal.getsignal(signal.SIGINT)
    one = executing(Execution(steps_per_call=1))  # a signal is noticed after a call
    with one, pytest.raises(KeyboardInterrupt, match="after step 8 of 15"):
        fit(until_stopped, data(), epochs=3, state=stopped, output_dir=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    step, resumed = start()
    history = fit(step, data(), epochs=3, state=resumed, output_dir=tmp_path)
    assert without_times(history) == without_times(expected)
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_finished_run_is_not_trained_again(tmp_path):
    step, state = start()
    fit(step, data(), epochs=2, state=state, output_dir=tmp_path)
    after = weights(state)
    fit(step, data(), epochs=2, state=state, output_dir=tmp_path)
    for one, other in zip(after, weights(state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_newest_three_saves_are_kept(tmp_path):
    step, state = start()
    fit(step, data(), epochs=5, state=state, output_dir=tmp_path)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000015", "step-00000020", "step-00000025"]


def damage(folder: Path) -> None:
    path = folder / "state.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.slow
def test_a_damaged_newest_save_is_passed_over(tmp_path, capsys):
    step, whole = start()
    expected = fit(step, data(), epochs=4, state=whole)
    step, state = start()
    fit(step, data(), epochs=3, state=state, output_dir=tmp_path)
    damage(tmp_path / "checkpoints" / "step-00000015")
    step, state = start()
    history = fit(step, data(), epochs=4, state=state, output_dir=tmp_path)
    assert "damaged" in capsys.readouterr().err
    assert without_times(history) == without_times(expected)


def test_batches_with_another_number_of_tensors_than_the_step_takes_are_refused():
    step, state = start()
    images = batches(np.zeros((8, 3), np.float32), 4, 0)
    with pytest.raises(InputError, match="a batch must contain the tensors x, y; the data has 1 per batch"):
        fit(step, images, epochs=1, state=state)


def test_data_of_another_size_are_refused(tmp_path):
    step, state = start()
    fit(step, data(), epochs=1, state=state, output_dir=tmp_path)
    more = np.zeros((40, 3), np.float32)
    with pytest.raises(InputError, match="had 5 steps per epoch, but has 10 with the current data"):
        fit(step, batches((more, more[:, :1]), 4, seed=3), epochs=2, state=state, output_dir=tmp_path)


def test_other_folders_and_empty_progress_among_the_saves_are_passed_over(tmp_path):
    step, state = start()
    fit(step, data(), epochs=2, state=state, output_dir=tmp_path)
    saves = tmp_path / "checkpoints"
    (saves / "step-00000010 (copy)").mkdir()
    (saves / "step-00000010" / "progress.json").write_text("{}")
    (tmp_path / "history.csv").unlink()
    history = fit(step, data(), epochs=2, state=state, output_dir=tmp_path)
    assert [row["epoch"] for row in history] == [1, 2]
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3


def test_saves_that_are_all_damaged_stop_the_run(tmp_path):
    step, state = start()
    fit(step, data(), epochs=2, state=state, output_dir=tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "progress.json").write_text("{")
    with pytest.raises(InputError, match="no checkpoint can be read"):
        fit(step, data(), epochs=3, state=state, output_dir=tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_with_its_name_and_step(tmp_path, value):
    step, state = start()
    position = tf.Variable(0)

    @tf.function
    def failing(x, y):
        position.assign_add(1)
        loss = step(x, y)["loss"]
        return {"loss": loss, "other": tf.where(position == 8, value, loss)}

    with pytest.raises(FloatingPointError, match="other became (nan|inf) at step 8; the checkpoint of step 5 is kept"):
        fit(failing, data(), epochs=3, state=state, output_dir=tmp_path)
    assert (tmp_path / "checkpoints" / "step-00000005").is_dir()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    _, state = start()
    kernel = state["model"].trainable_variables[0]

    @tf.function
    def step(x, y):
        kernel.assign(tf.fill(kernel.shape, np.nan))
        return {"loss": tf.constant(1.0)}

    with pytest.raises(FloatingPointError, match="weight .*kernel became nan at step 5"):
        fit(step, data(), epochs=2, state=state, output_dir=tmp_path)
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_file_that_vanishes_in_mid_run_is_named(tmp_path):
    def read(index):
        if index > 10:
            raise InputError("street.png: there is no such file")
        return np.float32(index)

    def load(item, seed):
        return (tf.ensure_shape(tf.numpy_function(read, [item], tf.float32), ()),)

    @tf.function
    def step(x):
        return {"loss": tf.reduce_sum(x)}

    with pytest.raises(InputError, match="^street.png: there is no such file$"):
        fit(step, batches(np.arange(20), 4, 0, load), epochs=1, state={})


def test_a_save_that_does_not_fit_on_the_disk_loses_nothing(tmp_path):
    """A file system of 1 MB: mounting one needs rights that not every machine gives."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        step, state = start()
        fit(step, data(), epochs=1, state=state, output_dir=disk)
        filler = disk / "filler"
        with pytest.raises(OSError), filler.open("wb") as file:
            file.write(bytes(2_000_000))
        with pytest.raises(OSError, match=r"no space left on the disk \(0.0 MB free, about 0.0 MB needed\)"):
            fit(step, data(), epochs=2, state=state, output_dir=disk)
        assert [path.name for path in (disk / "checkpoints").iterdir()] == ["step-00000005"]
        filler.unlink()
        step, state = start()
        assert len(fit(step, data(), epochs=2, state=state, output_dir=disk)) == 2
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "kills"), [("pix2pix", 1), ("dcgan", 2), ("cyclegan", 1)])
def test_killed_at_random_moments_and_started_again_ends_as_if_never_stopped(tmp_path, recipe, kills):
    def command(folder):
        folder.mkdir(exist_ok=True)
        epochs = {"pix2pix": "5", "dcgan": "16", "cyclegan": "2"}[recipe]  # by how long they take
        return [*forked_python(), "-m", "tests.kill_target", recipe, str(folder), epochs]

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command(tmp_path / "whole"), check=True, **quiet)
    expected = json.loads((tmp_path / "whole" / "outcome.json").read_text())
    moments = random.Random(recipe)
    killed = tmp_path / "killed"
    left = []  # the newest save after each kill
    for _ in range(kills):
        before = newest(killed)
        process = Process(command(killed), **quiet)
        while process.poll() is None and newest(killed) == before:  # until it has gone on by one save
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.25))
        assert process.poll() is None, "the run ended before it could be killed: make it longer"
        process.send_signal(signal.SIGKILL)
        process.wait()
        left.append(newest(killed))
    assert any(step % (8 if recipe == "cyclegan" else 30) for step in left), "no kill fell into the midst of an epoch"
    subprocess.run(command(killed), check=True, **quiet)
    assert json.loads((killed / "outcome.json").read_text()) == expected


def newest(folder: Path) -> int:
    return max((int(path.name[5:]) for path in folder.glob("checkpoints/step-*")), default=0)


def measured_in_turn(values):
    """A column of the history whose values are given, epoch by epoch."""
    return lambda epoch, losses: {"validation_loss": values[epoch - 1]}


@pytest.mark.parametrize("folder", [True, False])
def test_the_weights_of_the_best_epoch_are_left_and_patience_ends_the_run(tmp_path, folder):
    step, state = start()
    seen = []

    def learnt():
        return [variable.numpy() for variable in state["model"].weights]  # without the state of dropout's seeds

    def on_epoch(epoch, losses):
        seen.append(learnt())
        return {"validation_loss": [3.0, 1.0, 2.0, 1.0, 0.5][epoch - 1]}

    output_dir = tmp_path if folder else None
    history = fit(step, data(), epochs=5, state=state, output_dir=output_dir, on_epoch=on_epoch,
                  best="validation_loss", patience=2)  # fmt: skip
    assert len(history) == 4  # an equal value is no better
    assert all(np.array_equal(a, b) for a, b in zip(learnt(), seen[1], strict=True))


@pytest.mark.slow
def test_a_run_that_goes_on_knows_its_best_epoch(tmp_path):
    values = [2.0, 1.0, 4.0, 3.0, 5.0]
    options = {"on_epoch": measured_in_turn(values), "best": "validation_loss"}
    step, whole = start()
    fit(step, data(), epochs=5, state=whole, output_dir=tmp_path / "whole", **options)
    for epochs in (1, 3, 5, 5):  # the last finds nothing left to do
        step, parts = start()
        fit(step, data(), epochs=epochs, state=parts, output_dir=tmp_path / "parts", **options)
        learnt = zip(parts["model"].weights, whole["model"].weights, strict=True)
        assert epochs == 1 or all(np.array_equal(a, b) for a, b in learnt)
    (tmp_path / "parts" / "checkpoints" / "best" / "model.keras").write_bytes(b"damaged")
    step, parts = start()
    with pytest.raises(InputError, match="model.keras"):
        fit(step, data(), epochs=5, state=parts, output_dir=tmp_path / "parts", **options)


def test_a_run_is_worn_out_after_it_was_stopped_too(tmp_path):
    options = {"on_epoch": measured_in_turn([1.0, 2.0, 3.0, 0.1]), "best": "validation_loss", "patience": 2}
    for epochs in (3, 4):
        step, state = start()
        assert len(fit(step, data(), epochs=epochs, state=state, output_dir=tmp_path, **options)) == 3


def test_streams_of_different_length_side_by_side_begin_anew_alone():
    long, short = (batches(np.arange(count), 2, seed=count) for count in (10, 4))
    both = side_by_side(long, short)
    assert both.steps_per_epoch == 5
    pairs = list(both.at(0).take(10).as_numpy_iterator())
    firsts = np.concatenate([pair[0] for pair in pairs])
    seconds = np.concatenate([pair[1] for pair in pairs])
    assert sorted(firsts[:10]) == sorted(firsts[10:]) == list(range(10))
    assert all(sorted(seconds[start : start + 4]) == list(range(4)) for start in range(0, 20, 4))
    later = next(iter(both.at(7).as_numpy_iterator()))
    assert all(np.array_equal(a, b) for a, b in zip(later, pairs[7], strict=True))


# How long it will take


class Clock:
    """A clock that goes on by so many seconds whenever it is read."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def test_the_time_of_a_step_is_measured_after_the_first_call_and_once():
    forecast = _Forecast(5.0, Clock(2.0))
    assert not forecast.due(1, False)  # includes tracing
    assert not forecast.due(2, False)  # 2 s
    assert not forecast.due(2, False)  # 4 s
    assert forecast.due(4, False)  # 6 s
    assert forecast.seconds_per_step() == 8.0 / 8
    assert not forecast.due(4, False)


def test_calls_that_find_the_number_of_steps_per_call_are_not_measured():
    forecast = _Forecast(5.0, Clock(3.0))
    assert not any(forecast.due(count, True) for count in (1, 2, 4, 8))
    assert not forecast.due(8, False)
    assert forecast.due(8, False)
    assert forecast.seconds_per_step() == 9.0 / 16


@pytest.mark.usefixtures("untraced")
def test_the_time_of_the_epochs_is_printed_once_before_the_first_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("common.training.loop._Forecast", lambda: _Forecast(5.0, Clock(6.0)))
    data = batches((np.arange(32, dtype=np.float32),), 4, 0)

    def step(values: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"mean": tf.reduce_mean(values)}

    with executing(Execution(steps_per_call=1)):
        fit(step, data, 3, {"weight": tf.Variable(0.0)}, tmp_path / "run")
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0] == "about 4 min for 3 epochs, 12 s per step"  # 22 steps are left
    assert [line.split()[0] for line in lines[1:]] == ["epoch"] * 3
    with executing(Execution(steps_per_call=1)):
        fit(step, data, 5, {"weight": tf.Variable(0.0)}, tmp_path / "run")
    assert capsys.readouterr().out.splitlines()[0] == "about 3 min for 2 more epochs, 12 s per step"
    monkeypatch.setattr("common.training.loop._Forecast", lambda: _Forecast(5.0, Clock(0.1)))
    fit(step, data, 1, {"weight": tf.Variable(0.0)})
    assert "about" not in capsys.readouterr().out


@pytest.mark.usefixtures("untraced")
def test_without_a_terminal_a_long_epoch_prints_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr("common.training.loop.time.monotonic", Clock(2.0))
    monkeypatch.setattr("common.system.console.Progress.FIRST_LINE", 5.0)
    data = batches((np.arange(64, dtype=np.float32),), 4, 0)

    def step(values: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"mean": tf.reduce_mean(values)}

    with executing(Execution(steps_per_call=1)):
        fit(step, data, 2, {"weight": tf.Variable(0.0)})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/2, step")]
    assert 3 <= len(lines) < 16
    assert re.fullmatch(r"epoch 1/2, step \d+ of 16  mean \d+(\.\d+)?", lines[0]), "it was mostly tracing so far"
    assert all(re.fullmatch(r"epoch 1/2, step \d+ of 16  mean .*  about .* left", line) for line in lines[1:])


@pytest.mark.parametrize(
    ("images", "message"),
    [((4, 8, 8, 3), "need images of 8 x 8 x 1, but the data has 8 x 8 x 3"), ((4, 6, 8, 1), "the data has 6 x 8 x 1")],
)
def test_images_that_no_network_takes_are_refused_before_the_first_step(images, message):
    inputs = keras.Input((8, 8, 1))
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    data = Batches.of(np.zeros(images, np.uint8), 2, 0)
    with pytest.raises(InputError, match=f"^pictures: the networks {message}|^pictures: .* {message}"):
        fit(lambda pictures: {"loss": tf.reduce_sum(network(pictures))}, data, 1, {"network": network})


def test_a_step_that_cannot_be_traced_is_explained_in_one_line_with_its_cause():
    def step(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"loss": tf.reduce_sum(tf.reshape(pictures, (3, 5)))}

    with pytest.raises(InputError, match=r"^a batch of uint8 2 x 8 x 8 x 1 does not fit the networks \(.*") as error:
        fit(step, Batches.of(np.zeros((4, 8, 8, 1), np.uint8), 2, 0), 1, {})
    assert "\n" not in str(error.value) and isinstance(error.value.__cause__, ValueError)
