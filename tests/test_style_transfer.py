"""Style transfer before a network of three convolutions, which is written out in NumPy, float64, to compare with."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.optimize import approx_fprime

from common.images.pixels import resize_image
from common.images.reading import read_image
from common.images.writing import write_image
from common.runs import Run
from common.system.files import InputError
from common.training import canvas as canvases
from common.training.canvas import Painting, keep_colours, match_colours, resume_painting
from recipes import style_transfer
from recipes.style_transfer import (
    LOSSES,
    Config,
    Networks,
    build,
    by_adam,
    by_lbfgs,
    gram,
    make_losses,
    relative_error,
    stylize,
    stylize_file,
    total_variation,
    train,
)
from tests.forked import forked_python
from tests.pictures import noise, unit
from tests.three_convolutions import maps_of, maps_written_out, three_convolutions, without_time


def before(*names: str) -> Networks:
    return Networks(maps_of(*names))


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Before the layers of `settings`."""
    return before("conv2", "conv1", "conv3")


def settings(**changes) -> Config:
    base: dict[str, Any] = {"network": "file", "content_layers": "conv2", "style_layers": "conv1,conv3", "size": 0}
    base |= {"scales": 1, "epochs": 1, "steps": 6, "style_weight": 5.0, "variation_weight": 0.1}
    return Config(**base | changes)


def losses_written_out(
    picture: np.ndarray,
    content: np.ndarray,
    styles: Sequence[tuple[np.ndarray, float]],
    config: Config,
    content_layers: dict[str, float],
    style_layers: dict[str, float],
) -> list[float]:
    def products(maps: np.ndarray) -> np.ndarray:
        return np.einsum("hwi,hwj->ij", maps, maps) / (maps.shape[0] * maps.shape[1])

    def mean(parts: dict[str, Any], weights: dict[str, float]) -> float:
        shares = {name: ((found - wanted) ** 2).sum() / (wanted**2).sum() for name, (found, wanted) in parts.items()}
        return sum(weights[name] * shares[name] for name in weights) / sum(weights.values())

    seen, kept = maps_written_out(picture), maps_written_out(unit(content))
    painted = [(maps_written_out(unit(image)), share / sum(each for _, each in styles)) for image, share in styles]
    wanted = {name: sum(share * products(maps[name]) for maps, share in painted) for name in style_layers}
    first = mean({name: (seen[name], kept[name]) for name in content_layers}, content_layers)
    second = mean({name: (products(seen[name]), wanted[name]) for name in style_layers}, style_layers)
    third = (np.diff(picture, axis=0) ** 2).mean() + (np.diff(picture, axis=1) ** 2).mean()
    total = config.content_weight * first + config.style_weight * second + config.variation_weight * third
    return [first, second, third, total]


def paintings(content: np.ndarray, styles: Sequence[np.ndarray], shares: Sequence[float] = ()) -> Painting:
    return Painting.of(content, list(zip(styles, shares or [1.0] * len(styles), strict=True)))


@pytest.fixture
def painting() -> Painting:
    return paintings(noise(32, 36, 3), [noise(40, 34, 3, seed=1) // 2])


def losses_of(networks: Networks, painting: Painting, config: Config, picture: np.ndarray) -> np.ndarray:
    return make_losses(networks, painting, config)(tf.constant(unit(picture)[None], tf.float32))[0].numpy()


# Losses


def test_a_gram_matrix_by_hand():
    maps = tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert gram(maps).numpy().tolist() == [[5, 7], [7, 10]]


@pytest.mark.parametrize("shape", [(1, 5, 7, 4), (1, 1, 9, 2), (1, 8, 8, 1)])
def test_a_gram_matrix_is_the_mean_of_products(shape):
    maps = np.random.default_rng(0).normal(1, 2, shape)
    expected = np.einsum("nhwi,nhwj->ij", maps, maps) / (shape[1] * shape[2])
    np.testing.assert_allclose(gram(tf.constant(maps, tf.float32)), expected, rtol=1e-5, atol=1e-5)


def test_a_gram_matrix_does_not_know_places():
    maps = np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype(np.float32)
    moved = np.random.default_rng(1).permutation(maps.reshape(36, 3)).reshape(1, 4, 9, 3)
    np.testing.assert_allclose(gram(tf.constant(maps)), gram(tf.constant(moved)), atol=1e-5)


@pytest.mark.parametrize("found, wanted, expected", [
    ([3.0, 4.0], [0.0, 2.0], 13 / 4),
    ([0.0, 0.0], [1.0, 5.0], 1),
    ([2.0, 10.0], [1.0, 5.0], 1),
    ([1.0, 5.0], [1.0, 5.0], 0),
    ([1.0, 5.0], [0.0, 0.0], 0),
])  # fmt: skip
def test_the_relative_error(found, wanted, expected):
    assert float(relative_error(tf.constant(found), tf.constant(wanted))) == pytest.approx(expected)


def test_total_variation_in_closed_form():
    y, x = np.mgrid[:7, :9]
    ramp = np.stack([0.1 * x, 0.2 * y, 0.1 * x - 0.3 * y], -1)
    steps = (0.1**2 + 0 + 0.1**2) / 3 + (0 + 0.2**2 + 0.3**2) / 3
    assert float(total_variation(tf.constant(ramp[None], tf.float32))) == pytest.approx(steps, rel=1e-5)
    checks = np.where((x + y) % 2, 1.0, -1.0)[None, ..., None].repeat(3, -1)
    assert float(total_variation(tf.constant(checks, tf.float32))) == 8
    assert float(total_variation(tf.ones([1, 5, 4, 3]))) == 0


@pytest.mark.parametrize("content, style", [
    ({"conv2": 1}, {"conv1": 1, "conv3": 1}),
    ({"conv3": 1}, {"conv1": 1, "conv2": 0.5, "conv3": 4}),
    ({"conv1": 0.25, "conv3": 2}, {"conv2": 1}),
])  # fmt: skip
@pytest.mark.parametrize("shares", [(1.0,), (3.0, 1.0), (0.2, 0.5, 0.1)])
def test_losses_are_those_written_out_with_the_weights_of_layers_and_paintings(content, style, shares):
    layers = [",".join(f"{name}={weight}" for name, weight in each.items()) for each in (content, style)]
    config = settings(content_layers=layers[0], style_layers=layers[1], content_weight=2.0)
    styles = [noise(9 + 2 * number, 12, 3, seed=number + 1) // (number + 1) for number in range(len(shares))]
    painting, picture = paintings(noise(11, 13, 3), styles, shares), noise(11, 13, 3, seed=9)
    found = losses_of(before(*content, *style), painting, config, picture)
    expected = losses_written_out(unit(picture), painting.content, painting.styles, config, content, style)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_gradient_is_that_of_the_losses_written_out(networks):
    config, painting = settings(), paintings(noise(12, 10, 3), [noise(14, 16, 3, seed=1) // 2])
    start = unit(noise(12, 10, 3, seed=5))

    def loss(point: np.ndarray) -> float:
        layers = {"conv2": 1.0}, {"conv1": 1.0, "conv3": 1.0}
        picture = point.reshape(start.shape)
        return losses_written_out(picture, painting.content, painting.styles, config, *layers)[-1]

    found = make_losses(networks, painting, config)(tf.constant(start[None], tf.float32))[1].numpy().ravel()
    some = np.random.default_rng(0).choice(start.size, 60, replace=False)

    def along(values: np.ndarray) -> float:
        point = start.ravel().copy()
        point[some] = values
        return loss(point)

    expected = approx_fprime(start.ravel()[some], along, 1e-6)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found[some], expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


def test_the_content_has_no_loss_of_content_and_a_painting_none_of_style(networks):
    content, style = noise(12, 10, 3), noise(12, 10, 3, seed=1)
    painting = paintings(content, [style])
    of_content, of_style = (losses_of(networks, painting, settings(), image) for image in (content, style))
    assert of_content[0] == pytest.approx(0, abs=1e-9) and of_content[1] > 1e-4
    assert of_style[1] == pytest.approx(0, abs=1e-9) and of_style[0] > 1e-4


def test_a_painting_given_twice_is_one_painting(networks):
    content, style, picture = noise(12, 10, 3), noise(9, 14, 3, seed=1), noise(12, 10, 3, seed=2)
    once = losses_of(networks, paintings(content, [style]), settings(), picture)
    twice = losses_of(networks, paintings(content, [style] * 2, [5, 0.1]), settings(), picture)
    np.testing.assert_allclose(once, twice, rtol=1e-5)


# Optimizers


def bowl(target: np.ndarray, stretch: np.ndarray):
    """Losses as the optimizers take them, whose least is at `target`."""
    evaluations = []

    def losses(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        evaluations.append(picture)
        difference = picture - tf.constant(target[None], tf.float32)
        loss = tf.reduce_mean(stretch * difference**2)
        return tf.stack([0.0, 0.0, 0.0, loss]), 2 * stretch * difference / target.size

    return losses, evaluations


def test_lbfgs_finds_the_bottom_of_a_bowl_and_ends_inside_the_range():
    random = np.random.default_rng(0)
    target = random.uniform(-1.3, 1.3, (4, 5, 3))
    losses, _ = bowl(target, random.uniform(0.5, 4, target.shape).astype(np.float32))
    found = by_lbfgs(losses, np.zeros((4, 5, 3), np.float32), settings(steps=60))
    assert found.dtype == np.float32 and np.abs(target).max() > 1.1
    np.testing.assert_allclose(found, target.clip(-1, 1), atol=1e-3)


@pytest.mark.parametrize("steps", [5, 12, 40])
def test_lbfgs_computes_the_losses_about_as_often_as_it_is_told(steps):
    """A line search that has begun is brought to its end."""
    target = np.random.default_rng(0).uniform(-1, 1, (4, 5, 3))
    losses, evaluations = bowl(target, np.geomspace(1, 3000, target.size).reshape(target.shape).astype(np.float32))
    by_lbfgs(losses, np.zeros((4, 5, 3), np.float32), settings(steps=steps))
    assert steps <= len(evaluations) <= steps + 3


def test_adam_is_adam_written_out():
    """In the form of Kingma & Ba, section 2, at the end, which has the small number beside the plain root."""
    target = np.random.default_rng(0).uniform(-1.2, 1.2, (4, 5, 3))
    losses, evaluations = bowl(target, np.ones(target.shape, np.float32))
    found = by_adam(losses, np.zeros((4, 5, 3), np.float32), settings(steps=30, learning_rate=0.1))
    x, first, second = np.zeros_like(target), np.zeros_like(target), np.zeros_like(target)
    for step in range(1, 31):
        gradient = 2 * (x - target) / target.size
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = 0.1 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        x -= rate * first / (np.sqrt(second) + 1e-7)
        x = x.clip(-1, 1)
    assert len(evaluations) == 30
    np.testing.assert_allclose(found, x, atol=1e-4)


# Training


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("start", ["content", "noise"])
def test_training_lowers_the_loss(networks, painting, optimizer, start):
    config = settings(optimizer=optimizer, start=start, steps=12)
    began = noise(32, 36, 3) if start == "noise" else painting.content
    before_it = losses_of(networks, painting, config, began)[-1]
    (row,) = train(networks, painting, config)
    assert row["loss"] < 0.9 * before_it
    shown = losses_of(networks, painting, config, painting.image)
    assert shown[-1] == pytest.approx(row["loss"], rel=0.05)  # levels are rounded


def test_lbfgs_is_far_ahead_of_adam_after_as_many_steps(networks, painting):
    lowest = {}
    for optimizer in ("lbfgs", "adam"):
        canvas = Painting(painting.content.copy(), *painting[1:])
        (row,) = train(networks, canvas, settings(optimizer=optimizer, start="noise", steps=25))
        lowest[optimizer] = row["loss"]
    assert lowest["lbfgs"] < 0.9 * lowest["adam"]


def still(**changes) -> Config:
    return settings(**{"optimizer": "adam", "learning_rate": 0.0, "steps": 1} | changes)


@pytest.mark.parametrize("start", ["content", "style", "noise"])
def test_each_start_is_what_its_name_says(networks, painting, start):
    (style, _), *_ = painting.styles
    random = np.random.default_rng(7).integers(0, 256, (32, 36, 3))
    expected = {"content": painting.content, "style": resize_image(style, 32, 36), "noise": random}
    canvas = Painting(np.zeros_like(painting.content), *painting[1:])
    train(networks, canvas, still(start=start, seed=7))
    np.testing.assert_array_equal(canvas.image, expected[start])


def test_the_seed_decides_the_noise(networks, painting):
    found = []
    for seed in (0, 1):
        train(networks, painting, still(start="noise", seed=seed))
        found.append(painting.image.astype(int))
    assert np.abs(found[0] - found[1]).mean() > 50


def test_the_picture_is_changed_in_place_and_nothing_else(networks, painting):
    picture, content, style = painting.image, painting.content.copy(), painting.styles[0][0].copy()
    train(networks, painting, settings())
    assert picture is painting.image and picture.dtype == np.uint8 and picture.shape == content.shape
    assert np.abs(picture.astype(int) - content).mean() > 1
    np.testing.assert_array_equal(painting.content, content)
    np.testing.assert_array_equal(painting.styles[0][0], style)


def test_no_picture_is_made_smaller_than_the_network_needs(networks):
    painting = paintings(noise(40, 60, 3), [noise(33, 50, 3, seed=1)])
    history = train(networks, painting, still(scales=2))
    assert [row["pixels"] for row in history] == [48, 60]


@pytest.mark.parametrize("sizes", [((31, 60), (40, 40)), ((40, 40), (60, 31))])
def test_a_picture_too_small_for_the_network_is_refused_with_its_size(networks, sizes, tmp_path):
    content, style = (noise(*size, 3) for size in sizes)
    with pytest.raises(
        InputError, match=r"an image of (31x60|60x31) px is too small for this network; it needs at least 32 px"
    ):
        train(networks, paintings(content, [style]), still(), tmp_path)
    assert not list(tmp_path.iterdir())


def kept_saves(monkeypatch, stop_after: int = 0) -> list[tuple[dict[str, float], np.ndarray]]:
    """Keep what is saved, and stop as Ctrl-C does after so many saves."""
    saves: list[tuple[dict[str, float], np.ndarray]] = []
    save = canvases.save_painting

    def keep(output_dir, history, picture):
        save(output_dir, history, picture)
        saves.append((dict(history[-1]), picture.copy()))
        if len(history) == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(canvases, "save_painting", keep)
    return saves


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_row_tells_the_losses_of_its_picture_at_its_size(networks, monkeypatch, optimizer):
    saves = kept_saves(monkeypatch)
    painting = paintings(noise(64, 80, 3), [noise(80, 66, 3, seed=1), noise(70, 76, 3, seed=2) // 2], (2, 1))
    config = settings(optimizer=optimizer, scales=2, epochs=2, steps=3)
    history = train(networks, painting, config)
    assert [row for row, _ in saves] == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["pixels"] for row in history] == [40, 40, 80, 80]
    for (row, picture), factor in zip(saves, (2, 2, 1, 1), strict=True):
        small = [resize_image(each, each.shape[0] // factor, each.shape[1] // factor)
                 for each in (painting.content, *(image for image, _ in painting.styles))]  # fmt: skip
        assert picture.shape == small[0].shape
        styles = list(zip(small[1:], (2.0, 1.0), strict=True))
        layers = {"conv2": 1.0}, {"conv1": 1.0, "conv3": 1.0}
        expected = losses_written_out(picture.astype(float), small[0], styles, config, *layers)
        np.testing.assert_allclose([row[name] for name in LOSSES], expected, rtol=1e-3)
    np.testing.assert_allclose(painting.image, (saves[-1][1] + 1) * 127.5, atol=0.501)


def stopped_and_gone_on(networks: Networks, config: Config, stop_after: int, folder: Path, monkeypatch) -> None:
    """Compare a run that is stopped with one that is not."""
    pictures, histories = [], []
    for name in ("whole", "stopped"):
        painting = paintings(noise(40, 50, 3), [noise(38, 36, 3, seed=1)])
        if name == "stopped":
            with monkeypatch.context() as patch:
                kept_saves(patch, stop_after)
                with pytest.raises(KeyboardInterrupt):
                    train(networks, painting, config, folder / name)
            np.testing.assert_array_equal(painting.image, painting.content)
            assert len(resume_painting(folder / name)[0]) == stop_after
        histories.append(train(networks, painting, config, folder / name))
        pictures.append(painting.image)
    assert without_time(histories[0]) == without_time(histories[1])
    assert len(histories[0]) == config.scales * config.epochs
    np.testing.assert_array_equal(pictures[0], pictures[1])
    whole, stopped = (resume_painting(folder / name)[1] for name in ("whole", "stopped"))
    assert whole is not None and stopped is not None
    np.testing.assert_array_equal(whole, stopped)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(networks, optimizer, tmp_path, monkeypatch):
    stopped_and_gone_on(networks, settings(optimizer=optimizer, epochs=2, steps=4), 1, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_run_of_two_sizes_goes_on_bit_for_bit(networks, optimizer, stop_after, tmp_path, monkeypatch):
    config = settings(optimizer=optimizer, epochs=2, scales=2, start="noise")
    stopped_and_gone_on(networks, config, stop_after, tmp_path, monkeypatch)


def test_a_run_that_is_done_is_shown_again_and_not_painted_on(networks, painting, tmp_path, monkeypatch):
    history = train(networks, painting, settings(), tmp_path)
    again = paintings(painting.content, [image for image, _ in painting.styles])
    saves = kept_saves(monkeypatch)
    assert train(networks, again, settings(), tmp_path) == history and not saves
    np.testing.assert_array_equal(again.image, painting.image)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_losses_that_are_no_numbers_stop_it(painting, optimizer, tmp_path):
    broken = before("conv2", "conv1", "conv3")
    broken.features.get_layer("conv1").bias.assign(np.full(4, np.nan))
    with pytest.raises(FloatingPointError, match="the losses became .*nan.*: lower the loss weights or"):
        train(broken, painting, settings(optimizer=optimizer), tmp_path)
    assert not list(tmp_path.iterdir())


# Colours


def muted(seed: int, height: int = 34, width: int = 40) -> np.ndarray:
    """Colours that stay within the range with any brightness from 90 to 165."""
    return np.random.default_rng(seed).integers(100, 150, (height, width, 3), dtype=np.uint8)


def ycc(image: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(image).convert("YCbCr")).astype(int)


def test_kept_colours_are_the_contents(networks):
    style = np.random.default_rng(1).integers(90, 165, (34, 40, 1), dtype=np.uint8).repeat(3, -1)
    painting = paintings(muted(0), [style])
    found = ycc(stylize(networks, painting, still(colours="kept", start="style")))
    assert np.abs(found[..., 1:] - ycc(painting.content)[..., 1:]).max() <= 2
    assert np.abs(found[..., 0] - ycc(style)[..., 0]).max() <= 1


def test_what_is_kept_is_put_on_what_was_painted_freely(networks, painting):
    free = stylize(networks, painting, settings(colours="free"))
    kept = stylize(networks, painting, settings(colours="kept"))
    np.testing.assert_array_equal(kept, keep_colours(free, painting.content))
    assert np.abs(kept.astype(int) - free).max() > 5


def test_free_colours_begin_with_the_contents_own(networks):
    painting = paintings(muted(0), [noise(33, 33, 3)])
    np.testing.assert_array_equal(stylize(networks, painting, still(colours="free")), painting.content)


@pytest.mark.parametrize("grey", [False, True])
def test_matched_colours_are_those_of_the_first_painting(networks, grey):
    content = np.full((34, 40, 3), 90, np.uint8) if grey else muted(0)
    mixed = np.random.default_rng(1).uniform(-1, 1, (35, 33, 3)) @ [[20, 9, 0], [0, 25, 0], [5, 0, 15]]
    style = np.rint(mixed + [150, 110, 100]).astype(np.uint8)
    painting = paintings(content.copy(), [style, noise(33, 33, 3)])
    found = stylize(networks, painting, still(colours="matched")).reshape(-1, 3)
    np.testing.assert_allclose(found.mean(0), style.mean((0, 1)), atol=0.51 if grey else 0.05)
    assert np.abs(found.astype(int) - match_colours(content, style).reshape(-1, 3)).max() <= 1
    np.testing.assert_array_equal(painting.content, content)
    np.testing.assert_array_equal(painting.image, content)


# What cannot be


@pytest.fixture
def saved(tmp_path) -> Path:
    three_convolutions().save(tmp_path / "three.keras")
    return tmp_path / "three.keras"


@pytest.mark.parametrize("changes, line", [
    ({"size": 31}, "size must be 32 or more and at most 16384, got 31"),
    ({"size": -5}, "size must be 0 or more and at most 16384, got -5"),
    (
        {"style_layers": "conv1,conv9"},
        "'conv9' is not a layer of file that outputs feature maps; .*conv1, .*pool, .*conv3",
    ),
    ({"content_layers": "conv9"}, "'conv9' is not a layer"),
    ({"style_layers": "conv1=-1"}, "expected NAME or NAME=WEIGHT, with positive weights"),
    ({"network": "VGG16"}, "network must be one of embedded, .*VGG19, file, got 'VGG16'"),
    ({"weights": "nowhere/three.keras"}, "nowhere/three.keras: there is no such file"),
    ({"network": "VGG19", "weights": "imagenet", "size": 20}, "size must be 32 or more"),
    ({"scales": 0}, "scales must be 1 or more"),
    ({"steps": 0}, "steps must be 1 or more"),
    ({"style_weight": -1.0}, "style_weight must be 0 or more"),
    ({"variation_weight": -0.1}, "variation_weight must be 0 or more"),
])  # fmt: skip
def test_settings_that_cannot_be(changes, line, saved):
    with pytest.raises(InputError, match=line):
        build(settings(**{"weights": str(saved)} | changes))


def test_the_network_of_a_file_gives_the_maps_that_are_asked_for_and_does_not_learn(saved):
    features = build(settings(weights=str(saved), size=64)).features
    picture = unit(noise(9, 11, 3))
    expected = maps_written_out(picture)
    found = features(tf.constant(picture[None], tf.float32))
    for name, maps in zip(("conv2", "conv1", "conv3"), found, strict=True):
        np.testing.assert_allclose(maps[0], expected[name], atol=1e-4)
    assert not features.trainable_variables


@pytest.fixture
def files(tmp_path, saved, monkeypatch) -> Config:
    """Settings for a photo and two paintings in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_image(noise(44, 55, 3), tmp_path / "photo.png")
    write_image(noise(45, 38, 3, seed=1) // 2, tmp_path / "a.png")
    write_image(noise(45, 60, 3, seed=2), tmp_path / "b.png")
    return settings(weights=str(saved), steps=2, size=50, style="a.png")


@pytest.mark.parametrize("style, line", [
    ("", "expected NAME or NAME=WEIGHT, with positive weights"),
    ("a.png,b.png=0", "expected NAME or NAME=WEIGHT, with positive weights"),
    ("a.png=-1", "expected NAME or NAME=WEIGHT, with positive weights"),
    ("a.png,a.png=2", "unique names"),
    ("a.png,c.png", "c.png: No such file"),
])  # fmt: skip
def test_paintings_that_cannot_be(files, tmp_path, style, line):
    config = replace(files, style=style)
    with pytest.raises(InputError, match=line):
        stylize_file(Path("photo.png"), Path("out.png"), config)
    with pytest.raises(InputError, match=line):
        style_transfer.run("photo.png", config, tmp_path / "run")
    assert not (tmp_path / "out.png").exists() and not (tmp_path / "run").exists()


# From files to files


def test_a_photo_is_painted_no_larger_than_it_was_told(files, tmp_path):
    out = stylize_file(Path("photo.png"), Path("out.png"), replace(files, style="a.png,b.png=2"))
    assert out == Path("out.png") and read_image(out).shape == (40, 50, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "a.png", "b.png", "three.keras", "out.png"}


@pytest.mark.slow
def test_a_run_says_what_its_files_show_and_a_second_call_changes_nothing(files, tmp_path, monkeypatch):
    config = replace(files, epochs=2, steps=15, colours="free", style="b.png,a.png=3")
    beside = style_transfer.run("photo.png", config, tmp_path / "run")
    painted, scores = read_image(tmp_path / "run" / "painting.png"), read_json(tmp_path / "run" / "results.json")
    content = resize_image(noise(44, 55, 3), 40, 50)
    styles = [(resize_image(noise(45, 60, 3, seed=2), 38, 50), 1.0), (noise(45, 38, 3, seed=1) // 2, 3.0)]
    for name, image in (("content", content), ("painting", painted)):
        layers = {"conv2": 1.0}, {"conv1": 1.0, "conv3": 1.0}
        expected = losses_written_out(unit(image), content, styles, config, *layers)[1]
        assert scores[f"style_of_{name}"] == pytest.approx(expected, rel=1e-3)
    assert scores["style_of_painting"] < 0.5 * scores["style_of_content"]
    assert beside == tmp_path / "run" / "beside.png"
    np.testing.assert_array_equal(read_image(beside)[-40:, -50:], painted)  # as large as the photo, below its caption
    stored = read_json(tmp_path / "run" / "config.json")["config"]
    assert stored["steps"] == 15 and stored["style"] == f"{tmp_path}/b.png,{tmp_path}/a.png=3.0"
    monkeypatch.chdir("/")
    elsewhere = replace(config, style=stored["style"])
    style_transfer.run(str(tmp_path / "photo.png"), elsewhere, tmp_path / "run")
    np.testing.assert_array_equal(read_image(tmp_path / "run" / "painting.png"), painted)
    for changes in ({"style_weight": 6.0}, {"style": f"{tmp_path}/b.png"}):
        (name,) = changes
        with pytest.raises(InputError, match=f"holds a run with {name} "):
            style_transfer.run(str(tmp_path / "photo.png"), replace(elsewhere, **changes), tmp_path / "run")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_the_command_line_paints_before_any_network_and_leaves_no_run(files, tmp_path):
    arguments = ["stylize", "photo.png", "out.png", "--style", "a.png=2,b.png", "--network", "file",
                 "--weights", "three.keras", "--content-layers", "conv2", "--style-layers", "conv1=2,conv3",
                 "--colours", "kept", "--size", "64", "--scales", "2", "--steps", "2"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [*forked_python(), "-m", "recipes.style_transfer", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["out.png"]
    assert read_image(tmp_path / "out.png").shape == (44, 55, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "a.png", "b.png", "three.keras", "out.png"}


# Runs of earlier versions


def test_a_run_of_an_earlier_version_has_its_old_names(tmp_path):
    old = {"variation": 2.0, "size": 64}
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "style_transfer", "data": "sample", "config": old}))
    assert Run.load(tmp_path, "style_transfer", Config).config == Config(variation_weight=2.0, size=64)
