"""DeepDream before the network of `three_convolutions`, whose gradient looks 10 pixels far, against closed forms."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import gaussian_filter
from scipy.optimize import approx_fprime

from common.images.pixels import resize_image
from common.images.reading import read_image
from common.images.writing import write_image
from common.runs import Run
from common.system.files import InputError
from common.system.options import check_arguments, range_checks
from common.training import canvas
from common.training.canvas import resume_painting
from recipes import deepdream
from recipes.deepdream import (
    Config,
    Dream,
    Networks,
    build,
    dream_file,
    dream_octave,
    make_gradient,
    smoothed,
    tiled_gradient,
    train,
    zoom_file,
)
from tests.forked import forked_python
from tests.pictures import frames_of, noise, unit
from tests.three_convolutions import maps_of, maps_written_out, three_convolutions, without_time


def settings(**changes) -> Config:
    base: dict[str, Any] = {"network": "file", "layers": "conv2,conv3", "octaves": 2, "steps": 3, "size": 0}
    base |= {"tile": 64, "border": 32}
    with range_checks(False):  # some borders are narrower than any that the command line accepts
        return Config(**base | changes)


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Before the layers of `settings`."""
    return Networks(maps_of("conv2", "conv3"))


def soft(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with large forms, uint8 [height, width, 3]."""
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width, 3)), (5, 5, 0))
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def floats(image: np.ndarray) -> np.ndarray:
    return unit(image).astype(np.float32)


def loss_written_out(picture: np.ndarray, weights: dict[str, float], variation: float = 0.0) -> float:
    """What rises; `picture` has even sides."""
    maps = maps_written_out(picture)
    steps = sum((np.diff(picture, axis=axis) ** 2).sum() for axis in (0, 1))
    kept = sum(weight * (maps[name] ** 2).mean() for name, weight in weights.items())
    return kept - variation * steps / (picture.shape[0] * picture.shape[1])


# Loss and gradient


@pytest.mark.parametrize("weights", [{"conv2": 1.0, "conv3": 1.0}, {"conv3": 0.3, "conv1": 1.5}])
@pytest.mark.parametrize("variation", [0.0, 2.0])
def test_the_loss_is_the_mean_square_written_out_and_the_gradient_its_slope(weights, variation):
    layers = ",".join(f"{name}={weight}" for name, weight in weights.items())
    gradient = make_gradient(Networks(maps_of(*weights)), settings(layers=layers, variation_weight=variation))
    picture = unit(noise(12, 10, 3))
    loss, found = gradient(tf.constant(picture[None], tf.float32))
    assert float(loss) == pytest.approx(loss_written_out(picture, weights, variation), rel=1e-4)
    some = np.random.default_rng(0).choice(picture.size, 40, replace=False)

    def along(values: np.ndarray) -> float:
        point = picture.ravel().copy()
        point[some] = values
        return loss_written_out(point.reshape(picture.shape), weights, variation) * 120

    expected = approx_fprime(picture.ravel()[some], along, 1e-6)
    scale = np.abs(expected).max()
    assert scale > 0.1
    np.testing.assert_allclose(found.numpy().ravel()[some], expected, rtol=1e-2, atol=1e-3 * scale)


def test_it_is_compiled_once_whatever_the_sizes(networks):
    gradient: Any = make_gradient(networks, settings())
    for size in ((32, 32), (33, 47), (64, 40), (41, 96)):
        assert gradient(tf.zeros([1, *size, 3]))[1].shape == (1, *size, 3)
    assert gradient.experimental_get_tracing_count() == 1


@pytest.fixture(scope="module")
def plain(networks):
    return make_gradient(networks, settings())


@pytest.mark.parametrize("size", [(64, 96), (75, 101), (33, 130), (65, 65), (40, 40)])
@pytest.mark.parametrize("tile", [32, 64])
def test_tiles_with_a_border_give_the_gradient_of_the_whole(plain, size, tile):
    picture = floats(noise(*size, 3))
    loss, found = tiled_gradient(plain, picture, settings(tile=tile, border=32))
    whole_loss, whole = plain(tf.constant(picture[None]))
    assert found.shape == picture.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, whole[0], rtol=1e-4, atol=1e-5 * np.abs(whole).max())
    assert loss == pytest.approx(float(whole_loss), rel=0.02)


def test_tiles_without_a_border_show_seams_and_only_there(plain):
    picture = floats(noise(64, 96, 3))
    _, found = tiled_gradient(plain, picture, settings(tile=32, border=0))
    whole = plain(tf.constant(picture[None]))[1].numpy()[0]
    wrong = np.abs(found - whole).max(-1) > 1e-3 * np.abs(whole).max()
    y, x = np.mgrid[:64, :96]
    far = np.minimum(np.abs(y - 31.5), np.minimum(np.abs(x - 31.5), np.abs(x - 63.5))) > 11
    assert wrong[~far].mean() > 0.2 and not wrong[far].any()


def test_a_picture_within_one_tile_is_computed_as_it_is(plain):
    picture = floats(noise(50, 61, 3))
    loss, found = tiled_gradient(plain, picture, settings(tile=64, border=0))
    expected_loss, expected = plain(tf.constant(picture[None]))
    assert loss == pytest.approx(float(expected_loss), rel=1e-6)
    np.testing.assert_array_equal(found, expected[0])


def test_tiles_are_weighted_by_their_pixels():
    """A "network" whose loss is the mean of its part, of a picture that is constant in each tile."""
    picture = np.zeros((64, 96, 3), np.float32)
    picture[:32, 32:64], picture[32:, 64:] = 1.0, 5.0
    loss, found = tiled_gradient(lambda part: (tf.reduce_mean(part), 2 * part), picture, settings(tile=32, border=0))
    assert loss == pytest.approx(picture.mean(), rel=1e-6)
    np.testing.assert_array_equal(found, 2 * picture)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_gradients_are_smoothed_as_opencv_smooths(count):
    gradient = np.random.default_rng(0).normal(0, 7, (60, 50, 3))
    total = gradient / gradient.std()
    for sigma in (1, 2, 4)[: count - 1]:
        part = cv2.GaussianBlur(gradient, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        total = total + part / part.std()
    found = smoothed(gradient, count)
    np.testing.assert_allclose(found, total / total.std(), atol=0.02)
    assert found.std() == pytest.approx(1, abs=1e-6)


def test_where_nothing_grows_nothing_moves():
    assert not smoothed(np.zeros((8, 8, 3), np.float32), 3).any()


# Octaves


def uphill(direction: np.ndarray):
    """A gradient as `make_gradient` makes it, of a loss that is linear."""
    calls: list[np.ndarray] = []

    def gradient(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        calls.append(picture.numpy()[0])
        return tf.constant(float(len(calls))), tf.constant(direction[None], tf.float32)

    return gradient, calls


@pytest.mark.parametrize("step_size", [0.02, 0.3])
def test_a_step_goes_as_far_as_it_is_told_where_the_gradient_is_one_deviation(step_size):
    direction = np.random.default_rng(0).normal(size=(40, 48, 3))
    gradient, calls = uphill(direction)
    start = floats(soft(40, 48))
    found, loss = dream_octave(gradient, start, settings(steps=4, step_size=step_size, smoothings=1, jitter=0), 0)
    expected = start.astype(float)
    for _ in range(4):
        expected = np.clip(expected + step_size * direction / direction.std(), -1, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(calls) == 4 and loss == 4


def test_each_step_sees_the_picture_moved_and_it_is_moved_back():
    gradient, calls = uphill(np.zeros((40, 48, 3)))
    start = floats(noise(40, 48, 3))
    found, _ = dream_octave(gradient, start, settings(steps=12, jitter=5), 0)
    np.testing.assert_array_equal(found, start)
    moves = []
    for seen in calls:
        (move,) = [(down, right) for down in range(-5, 6) for right in range(-5, 6)
                   if np.array_equal(seen, np.roll(start, (down, right), (0, 1)))]  # fmt: skip
        moves.append(move)
    assert len(set(moves)) > 6
    again, other = (uphill(np.zeros((40, 48, 3))) for _ in range(2))
    dream_octave(again[0], start, settings(steps=12, jitter=5), 0)
    dream_octave(other[0], start, settings(steps=12, jitter=5, seed=1), 0)
    np.testing.assert_array_equal(again[1], calls)
    assert not np.array_equal(other[1], calls)


@pytest.mark.parametrize("stop_at, steps", [(0.0, 9), (1.0, 1), (3.5, 4), (4.0, 4), (100.0, 9)])
def test_it_stops_at_the_loss_that_is_told(stop_at, steps):
    gradient, calls = uphill(np.ones((40, 48, 3)))
    told = []
    config = settings(steps=9, stop_at=stop_at)
    _, loss = dream_octave(gradient, floats(soft(40, 48)), config, 0, lambda: told.append(0))
    assert len(calls) == len(told) == steps and loss == steps


def test_a_loss_that_is_no_number_stops_it():
    with pytest.raises(FloatingPointError, match="the loss became nan: choose a smaller step_size"):
        dream_octave(lambda part: (tf.constant(np.nan), part), floats(soft(40, 48)), settings(), 0)


# Training


def loss_of(plain, image: np.ndarray) -> float:
    return float(plain(tf.constant(floats(image)[None]))[0])


def test_the_loss_rises_in_every_octave_and_the_picture_is_changed_in_place(networks, plain):
    image = soft(48, 56)
    dream = Dream(image.copy())
    picture = dream.image
    history = train(networks, dream, settings(octaves=3, steps=5, octave_scale=1.2))
    assert picture is dream.image and picture.dtype == np.uint8 and picture.shape == image.shape
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["pixels"] for row in history] == [39, 47, 56]
    losses = [row["loss"] for row in history]
    assert losses == sorted(losses)
    assert loss_of(plain, picture) > 1.1 * loss_of(plain, image)
    assert 1 < np.abs(picture.astype(float) - image).mean() < 60


def variation_of(image: np.ndarray) -> float:
    return sum((np.diff(unit(image), axis=axis) ** 2).mean() for axis in (0, 1))


def test_a_weight_of_variation_smooths(networks):
    found = {}
    for weight in (0.0, 30.0):
        dream = Dream(noise(40, 44, 3) // 2 + 64)
        train(networks, dream, settings(octaves=1, steps=6, variation_weight=weight))
        found[weight] = variation_of(dream.image)
    assert found[30.0] < 0.7 * found[0.0]
    assert found[30.0] < 0.9 * variation_of(noise(40, 44, 3) // 2 + 64)


def test_without_steps_of_any_size_the_picture_stays(networks):
    dream = Dream(noise(41, 53, 3))
    train(networks, dream, settings(step_size=0.0, steps=1))
    np.testing.assert_array_equal(dream.image, noise(41, 53, 3))


def test_no_octave_is_smaller_than_32_pixels_and_no_size_is_dreamt_twice(networks):
    history = train(networks, Dream(soft(34, 60)), settings(octaves=3, steps=1, octave_scale=2.0))
    assert [row["pixels"] for row in history] == [32, 60]


def test_one_layer_is_enough(networks):
    one = Networks(keras.Model(networks.features.inputs, networks.features.outputs[:1]))
    dream = Dream(soft(34, 60))
    history = train(one, dream, settings(octaves=1, layers="one"))
    assert history[-1]["loss"] > 0 and not np.array_equal(dream.image, soft(34, 60))


@pytest.mark.parametrize("octaves", [1, 2, 4])
def test_a_dream_goes_on_with_another_number_of_octaves(octaves, networks, monkeypatch, tmp_path):
    config = settings(octaves=3, steps=1)
    with monkeypatch.context() as patch:
        stopped(patch, after=2)
        with pytest.raises(KeyboardInterrupt):
            train(networks, Dream(soft(64, 70)), config, tmp_path)
    dream = Dream(soft(64, 70))
    history = train(networks, dream, settings(octaves=octaves, steps=1), tmp_path)
    pixels = [row["pixels"] for row in history]
    assert pixels == sorted(set(pixels)) and pixels[-1] == 70 and dream.image.shape == (64, 70, 3)


def stopped(monkeypatch, after: int):
    save = canvas.save_painting

    def keep(output_dir, history, image):
        save(output_dir, history, image)
        if len(history) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(canvas, "save_painting", keep)


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bit_for_bit(networks, after, tmp_path, monkeypatch):
    config, image = settings(octaves=3, steps=2, jitter=6), soft(43, 54)
    whole, again = Dream(image.copy()), Dream(image.copy())
    history = train(networks, whole, config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped(patch, after)
        train(networks, again, config, tmp_path / "stopped")
    np.testing.assert_array_equal(again.image, image)
    assert len(resume_painting(tmp_path / "stopped")[0]) == after
    gone_on = train(networks, again, config, tmp_path / "stopped")
    assert len(history) == 3 and without_time(gone_on) == without_time(history)
    np.testing.assert_array_equal(again.image, whole.image)
    kept = [resume_painting(tmp_path / name)[1] for name in ("whole", "stopped")]
    assert kept[0] is not None and kept[1] is not None
    np.testing.assert_array_equal(kept[0], kept[1])
    assert np.abs(whole.image.astype(int) - image).mean() > 0.5


# What cannot be


@pytest.fixture
def saved(tmp_path) -> Path:
    three_convolutions().save(tmp_path / "three.keras")
    return tmp_path / "three.keras"


@pytest.mark.parametrize("changes, line", [
    ({"tile": 48}, "tile must be a multiple of 32 from 32 to 16384, got 48"),
    ({"border": 40}, "border must be a multiple of 32 from 32 to 4096, got 40"),
    ({"border": -32}, "border must be a multiple of 32 from 32"),
    ({"tile": 0}, "tile must be a multiple of 32 from 32"),
    ({"size": 31}, "size must be 32 or more and at most 16384, got 31"),
    ({"size": -1}, "size must be 0 or more and at most 16384, got -1"),
    ({"layers": "conv2,conv9"}, "'conv9' is not a layer of file that outputs feature maps; .*conv1, .*pool, .*conv3"),
    ({"layers": ""}, "expected NAME or NAME=WEIGHT"),
    ({"network": "VGG16"}, "network must be one of embedded, .*file, got 'VGG16'"),
    ({"weights": "nowhere/three.keras"}, "nowhere/three.keras: there is no such file"),
    ({"octave_scale": 1.0}, "octave_scale must be 1.01 or more and at most 4"),
    ({"smoothings": 0}, "smoothings must be 1 or more"),
    ({"steps": 0}, "steps must be 1 or more"),
    ({"stop_at": -1.0}, "stop_at must be 0 or more"),
])  # fmt: skip
def test_settings_that_cannot_be(changes, line, saved):
    with pytest.raises(InputError, match=line):
        build(Config(**vars(settings(**{"weights": str(saved)} | changes))))


def test_the_network_of_a_file_does_not_learn_and_gives_the_layers_in_their_order(saved):
    features = build(settings(weights=str(saved), layers="conv3=2,conv1")).features
    picture = unit(noise(9, 11, 3))
    found = features(tf.constant(picture[None], tf.float32))
    for name, maps in zip(("conv3", "conv1"), found, strict=True):
        np.testing.assert_allclose(maps[0], maps_written_out(picture)[name], atol=1e-4)
    assert not features.trainable_variables


@pytest.fixture
def photo(tmp_path) -> Path:
    return write_image(soft(45, 61), tmp_path / "photo.png")


def ready(saved: Path, **changes) -> Config:
    return settings(**{"weights": str(saved), "steps": 1, "octave_scale": 1.2} | changes)


@pytest.mark.parametrize("height, width", [(31, 50), (50, 31)])
def test_a_picture_that_is_too_small_is_named_with_its_size(height, width, tmp_path):
    small = write_image(noise(height, width, 3), tmp_path / "small.png")
    line = f"small.png: an image of {width}x{height} px is too small for this network; it needs at least 32 px per side"
    with pytest.raises(InputError, match=line):
        dream_file(small, tmp_path / "out.png")
    line = f"small.png: {width}x{height} px; each side must be at least 32"
    with pytest.raises(InputError, match=line):
        zoom_file(small, tmp_path / "out.gif")
    with pytest.raises(InputError, match=line):
        deepdream.run(str(small), output_dir=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["small.png"]


@pytest.mark.parametrize("name", ["out.png", "out", "out.avi"])
def test_a_film_of_another_name_is_refused_before_anything_is_read(name, tmp_path):
    with pytest.raises(InputError, match=f"{name}: not a video file name; it must end in .gif or .mp4"):
        zoom_file(tmp_path / "absent.png", tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes, line", [
    ({"frames": 1}, "frames must be 2 or more"),
    ({"zoom": 1.0}, "zoom must be 1.001 or more and at most 2, got 1.0"),
    ({"zoom": 2.1}, "zoom must be 1.001 or more and at most 2, got 2.1"),
    ({"frame_steps": 0}, "frame_steps must be 1 or more"),
])  # fmt: skip
def test_films_that_cannot_be(changes, line, tmp_path):
    with pytest.raises(InputError, match=line):
        check_arguments(zoom_file, tmp_path / "absent.png", tmp_path / "out.gif", **changes)


# From files to files


def test_a_dream_is_as_large_as_its_picture_whatever_the_size_says(saved, photo, tmp_path):
    out = dream_file(photo, tmp_path / "out.png", ready(saved, size=32))
    found = read_image(out)
    assert out == tmp_path / "out.png" and found.shape == (45, 61, 3)
    assert np.abs(found.astype(int) - soft(45, 61)).mean() > 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"three.keras", "photo.png", "out.png"}


@pytest.mark.parametrize("name, size, limit, expected", [
    ("out.gif", (45, 61), 0, (45, 61)),
    ("out.gif", (45, 90), 64, (32, 64)),
    ("out.mp4", (46, 62), 0, (46, 62)),
    ("out.mp4", (64, 100), 50, (32, 50)),
])  # fmt: skip
def test_a_film_has_as_many_frames_as_it_was_told(saved, name, size, limit, expected, tmp_path):
    write_image(soft(*size), tmp_path / "photo.png")
    config = ready(saved, size=limit)
    out = zoom_file(tmp_path / "photo.png", tmp_path / name, 5, 1.1, 1, config)
    found = frames_of(out)
    assert found.shape == (5, *expected, 3)
    dream = Dream(resize_image(soft(*size), *expected) if limit else soft(*size))
    train(build(config), dream, config)
    assert np.abs(found[0].astype(int) - dream.image).mean() < 10  # the palette; MPEG-4
    assert all(np.abs(a.astype(int) - b).mean() > 1 for a, b in zip(found[1:], found[:-1], strict=True))


def test_a_film_falls_into_its_middle(saved, tmp_path):
    """With steps of no size each frame is the one before, enlarged about the centre."""
    y, x = np.mgrid[:61, :81] - np.array([30, 40])[:, None, None]
    image = np.stack([128 + 3 * x, 128 + 4 * y, 0 * x + 90], -1).astype(np.uint8)
    write_image(image, tmp_path / "photo.png")
    zoom_file(tmp_path / "photo.png", tmp_path / "out.gif", 4, 1.25, 1, ready(saved, step_size=0.0))
    found = frames_of(tmp_path / "out.gif").astype(float)
    for number, frame in enumerate(found):
        expected = np.stack([128 + 3 * x / 1.25**number, 128 + 4 * y / 1.25**number, 0 * x + 90], -1)
        assert np.abs(frame - expected)[3:-3, 3:-3].mean() < 6  # of the palette


@pytest.mark.slow
def test_a_run_says_what_its_files_show_and_a_second_call_changes_nothing(saved, photo, plain, tmp_path):
    config = ready(saved, size=48, steps=4)
    beside = deepdream.run(str(photo), config, tmp_path / "run")
    dreamt, scores = read_image(tmp_path / "run" / "dream.png"), json.loads((tmp_path / "run/results.json").read_text())
    image = resize_image(soft(45, 61), 35, 48)
    assert dreamt.shape == image.shape and beside == tmp_path / "run" / "beside.png" and beside.is_file()
    assert scores["loss_before"] == pytest.approx(loss_of(plain, image), rel=1e-4)
    assert scores["loss_after"] == pytest.approx(loss_of(plain, dreamt), rel=1e-4)
    assert scores["loss_after"] > scores["loss_before"]
    assert scores["mean_change"] == pytest.approx(np.abs(dreamt.astype(int) - image).mean())
    deepdream.run(str(photo), config, tmp_path / "run")
    np.testing.assert_array_equal(read_image(tmp_path / "run" / "dream.png"), dreamt)
    with pytest.raises(InputError, match="holds a run with steps 4, not 5"):
        deepdream.run(str(photo), ready(saved, size=48, steps=5), tmp_path / "run")


@pytest.mark.slow
def test_the_command_line_dreams_before_any_network_and_leaves_no_run(saved, photo, tmp_path):
    arguments = ["dream", "photo.png", "out.png", "--network", "file", "--weights", "three.keras", "--layers",
                 "conv2=0.5,conv3", "--octaves", "2", "--steps", "2", "--tile", "32", "--border", "32"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [*forked_python(), "-m", "recipes.deepdream", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["out.png"]
    assert read_image(tmp_path / "out.png").shape == (45, 61, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"three.keras", "photo.png", "out.png"}


# Runs of earlier versions


def test_a_run_of_an_earlier_version_has_its_old_names(tmp_path):
    old = {"epochs": 3, "shift": 5, "variation": 2.0, "size": 64}
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "deepdream", "data": "sample", "config": old}))
    config = Run.load(tmp_path, "deepdream", Config).config
    assert config == Config(octaves=3, jitter=5, variation_weight=2.0, size=64)
