"""Fast style transfer before a network of 1x1 convolutions, which is written out in NumPy, float64, to compare with."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from common.data import synthetic as sets
from common.data.batches import batches
from common.images.pixels import resize_image
from common.images.reading import read_image
from common.images.writing import write_image
from common.runs import Run
from common.samples.photos import photo_squares
from common.samples.seasons import synthetic_seasons
from common.system.files import InputError
from recipes import fast_style_transfer
from recipes.fast_style_transfer import (
    Config,
    Networks,
    build,
    colour_error,
    evaluate,
    gram,
    layer_weights,
    make_losses,
    mean_and_covariance,
    relative_error,
    save_comparison,
    stylize,
    stylize_files,
    total_variation,
    train,
    with_colours,
)
from tests.forked import forked_python
from tests.pictures import noise, unit
from tests.three_convolutions import maps_of, maps_written_out, three_convolutions

# Keras 3 reads variables in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def losses_written_out(
    photos: np.ndarray,
    paintings: np.ndarray,
    style: np.ndarray,
    content_layers: dict[str, float],
    style_layers: dict[str, float],
) -> list[float]:
    """Of pictures in [-1, 1], one after another."""

    def products(maps: np.ndarray) -> np.ndarray:
        flat = maps.reshape(-1, maps.shape[-1])
        return flat.T @ flat / len(flat)

    def left(found: np.ndarray, wanted: np.ndarray) -> float:
        return ((found - wanted) ** 2).sum() / (wanted**2).sum()

    columns = []
    wanted = maps_written_out(style)
    for photo, painting in zip(photos.astype(np.float64), paintings.astype(np.float64), strict=True):
        before, after = maps_written_out(photo), maps_written_out(painting)
        kept = sum(w * left(after[name], before[name]) for name, w in content_layers.items())
        painted = sum(w * left(products(after[name]), products(wanted[name])) for name, w in style_layers.items())
        steps = (np.diff(painting, axis=0) ** 2).mean() + (np.diff(painting, axis=1) ** 2).mean()
        parts = [kept / sum(content_layers.values()), painted / sum(style_layers.values()), steps]
        columns.append([*parts, colour_error_written_out(painting, style)])
    return np.mean(columns, 0).tolist()


def colour_error_written_out(found: np.ndarray, wanted: np.ndarray) -> float:
    """Of two pictures, whose colours get the mean 0 and the covariance I of the second one, but for the hundredth."""
    mean = wanted.mean((0, 1))
    whiten = power(np.cov(wanted.reshape(-1, 3).T, bias=True) + 0.01 * np.eye(3), -0.5)
    products = [
        flat.T @ flat / len(flat) for flat in ((each - mean).reshape(-1, 3) @ whiten for each in (found, wanted))
    ]
    return ((products[0] - products[1]) ** 2).sum() / 3


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Of a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * values**exponent @ vectors.T


def coloured_written_out(photo: np.ndarray, painting: np.ndarray) -> np.ndarray:
    """A photo with the colours of a painting, both [height, width, 3] in [-1, 1]."""
    own, wanted = (np.cov(each.reshape(-1, 3).T, bias=True) + 0.01 * np.eye(3) for each in (photo, painting))
    centred, mean = photo - photo.mean((0, 1)), painting.mean((0, 1))
    return np.clip(centred @ power(own, -0.5) @ power(wanted, 0.5) + mean, -1, 1)


def tensor(images: np.ndarray) -> tf.Tensor:
    return tf.constant(unit(images), tf.float32)


PAINTING = noise(36, 40, 3, seed=9) // np.array([1, 3, 4], np.uint8)  # reddish


SMALL = Config(
    network="file",
    content_layers="conv2",
    style_layers="conv1,conv3",
    size=32,
    base_filters=2,
    residual_blocks=1,
    batch_size=2,
    epochs=1,
)


@pytest.fixture
def style(tmp_path) -> Path:
    return write_image(PAINTING, tmp_path / "painting.png")


@pytest.fixture
def weights(tmp_path) -> Path:
    three_convolutions().save(tmp_path / "three.keras")
    return tmp_path / "three.keras"


def settings(style: Path, weights: Path = Path("none"), **changes) -> Config:
    return replace(SMALL, style=str(style), weights=str(weights), **changes)


# Losses


def test_gram_matrices_of_a_batch_by_hand():
    maps = tf.constant([[[[1.0, 2.0], [3.0, 4.0]]], [[[2.0, 0.0], [0.0, -4.0]]]])
    assert gram(maps).numpy().tolist() == [[[5, 7], [7, 10]], [[2, 0], [0, 8]]]


@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (2, 1, 9, 2), (1, 8, 8, 1)])
def test_a_gram_matrix_is_the_mean_of_products_in_each_image(shape):
    maps = np.random.default_rng(0).normal(1, 2, shape)
    flat = maps.reshape(shape[0], -1, shape[3])
    expected = [image.T @ image / len(image) for image in flat]
    np.testing.assert_allclose(gram(tf.constant(maps, tf.float32)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("found, wanted, expected", [
    ([[3.0, 4.0]], [[0.0, 2.0]], 13 / 4),
    ([[3.0, 4.0], [1.0, 5.0]], [[0.0, 2.0], [1.0, 5.0]], 13 / 8),
    ([[2.0, 10.0], [0.0, 0.0]], [[1.0, 5.0], [100.0, 500.0]], 1),
    ([[1.0, 5.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 2.0]], 1 / 8),
    ([[3.0, 4.0], [2.0, 2.0]], [0.0, 2.0], (13 / 4 + 1) / 2),
])  # fmt: skip
def test_the_relative_error_is_one_of_each_image_and_then_their_mean(found, wanted, expected):
    """The last wanted tensor is one for all images."""
    wanted = np.broadcast_to(wanted, np.shape(found)).astype(np.float32)
    assert float(relative_error(tf.constant(found), tf.constant(wanted))) == pytest.approx(expected)


def test_a_gram_matrix_that_all_images_should_have_is_compared_with_each():
    found, wanted = np.random.default_rng(0).normal(size=(3, 4, 4)), np.random.default_rng(1).normal(size=(1, 4, 4))
    expected = np.mean([((image - wanted[0]) ** 2).sum() / (wanted**2).sum() for image in found])
    assert float(relative_error(tf.constant(found), tf.constant(wanted))) == pytest.approx(expected)


def test_total_variation_in_closed_form():
    y, x = np.mgrid[:7, :9]
    ramp = np.stack([0.1 * x, 0.2 * y, 0.1 * x - 0.3 * y], -1)
    steps = (0.1**2 + 0 + 0.1**2) / 3 + (0 + 0.2**2 + 0.3**2) / 3
    checks = np.where((x + y) % 2, 1.0, -1.0)[..., None].repeat(3, -1)
    flat = np.full(ramp.shape, 0.3)
    for pictures, expected in (([ramp], steps), ([checks], 8), ([ramp, checks, flat], (steps + 8) / 3), ([flat], 0)):
        found = total_variation(tf.constant(np.stack(pictures), tf.float32))
        assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("content, painted", [
    ({"conv2": 1}, {"conv1": 1, "conv3": 1}),
    ({"conv3": 1}, {"conv1": 1, "conv2": 0.5, "conv3": 4}),
    ({"conv1": 0.25, "conv3": 2}, {"conv2": 1}),
])  # fmt: skip
def test_losses_are_those_written_out_with_the_weights_of_the_layers(style, content, painted):
    layers = [",".join(f"{name}={weight}" for name, weight in each.items()) for each in (content, painted)]
    config = settings(style, content_layers=layers[0], style_layers=layers[1])
    photos, paintings = noise(3, 12, 16, 3), noise(3, 12, 16, 3, seed=1) // 2
    losses = make_losses(Networks(keras.Model(), maps_of(*content, *painted)), config)
    expected = losses_written_out(unit(photos), unit(paintings), unit(PAINTING), content, painted)
    np.testing.assert_allclose(losses(tensor(photos), tensor(paintings)), expected, rtol=1e-4)


@pytest.fixture
def losses(style):
    """Before the layers of `SMALL`."""
    return make_losses(Networks(keras.Model(), maps_of("conv2", "conv1", "conv3")), settings(style))


def test_unchanged_photos_have_no_loss_of_content_but_one_of_style(losses):
    photos = tensor(noise(3, 12, 16, 3))
    content, painted, *_ = losses(photos, photos)
    assert float(content) == 0 and float(painted) > 0.01


def test_where_each_painting_is_the_style_picture_there_is_no_loss_of_style(losses):
    picture = PAINTING[None]
    content, painted, _, colour = losses(tensor(noise(3, 36, 40, 3)), tensor(picture.repeat(3, 0)))
    assert float(painted) == pytest.approx(0, abs=1e-9) and float(content) > 0.01
    assert float(colour) == pytest.approx(0, abs=1e-9)
    assert float(losses(tensor(picture), tensor(255 - picture))[1]) > 0.01


def test_the_error_of_colours_twice_as_far_apart_and_of_shifted_ones_by_hand():
    """The style picture has the covariance I, and a hundredth is added. Twice as far apart, it is 4 I: 3 too much."""
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, 8).T.reshape(1, 2, 4, 3)
    style = tf.constant(corners, tf.float32)
    shifted = corners + [0.5, 0, 0]  # a quarter too much in one direction
    found = [float(colour_error(tf.constant(each, tf.float32), style)) for each in (2 * corners, shifted, corners)]
    assert found == pytest.approx([(3 / 1.01) ** 2, (0.25 / 1.01) ** 2 / 3, 0], rel=1e-4, abs=1e-9)
    batch = tf.constant(np.concatenate([2 * corners, shifted, corners]), tf.float32)
    assert float(colour_error(batch, style)) == pytest.approx(sum(found) / 3, rel=1e-4)


def test_a_larger_painting_is_made_as_small_as_style_size_says(tmp_path):
    large = write_image(noise(80, 120, 3) // 2, tmp_path / "large.png")
    config = replace(settings(large), style_size=60)
    small = np.asarray(Image.open(large).resize((60, 40), Image.Resampling.BICUBIC))
    losses = make_losses(Networks(keras.Model(), maps_of("conv2", "conv1", "conv3")), config)
    assert float(losses(tensor(small[None]), tensor(small[None]))[1]) == pytest.approx(0, abs=1e-9)
    whole = tensor(read_image(large)[None])
    assert float(losses(whole, whole)[1]) > 1e-6


# Colours


def correlated(
    mean: list[float], spread: list[list[float]], seed: int, height: int = 40, width: int = 50
) -> np.ndarray:
    """A picture, [height, width, 3] in [-1, 1], of normal colours with these sums of channels."""
    normal = np.random.default_rng(seed).normal(size=(height, width, 3)).clip(-3, 3)
    return np.clip(normal @ np.array(spread) + mean, -1, 1)


VIVID = correlated([0.1, 0.2, -0.1], [[0.5, 0.1, 0.0], [0.0, 0.4, 0.2], [0.1, 0.0, 0.5]], 1)
OCHRE = noise(36, 40, 3, seed=5) // np.array([2, 3, 5], np.uint8) + np.array([90, 60, 40], np.uint8)
WIDE = noise(40, 30, 3, seed=6)  # all colours, far apart


def coloured(photo: np.ndarray, painting: np.ndarray) -> np.ndarray:
    return with_colours(tf.constant(photo[None], tf.float32), painting).numpy()[0].astype(np.float64)


def covariance(picture: np.ndarray) -> np.ndarray:
    return np.cov(picture.reshape(-1, 3).T, bias=True)


def test_mean_and_covariance_of_colours_by_hand():
    """Of two places each, and a hundredth where a colour meets itself."""
    images = [[[[1.0, 0.0, 0.5], [-1.0, 0.0, 0.25]]], [[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]]
    mean, found = mean_and_covariance(tf.constant(images))
    assert mean.numpy().tolist() == [[[[0, 0, 0.375]]], [[[0.5, 0.5, 0.5]]]]
    first = [[1.01, 0, 0.125], [0, 0.01, 0], [0.125, 0, 0.025625]]
    np.testing.assert_allclose(found, [first, 0.01 * np.eye(3)], atol=1e-7)


@pytest.mark.parametrize("painting", [PAINTING, OCHRE, WIDE])
def test_photos_of_a_batch_get_the_colours_written_out_for_each(painting):
    flat = np.full((40, 50, 3), [0.5, -0.5, 0.1])
    photos = np.stack([VIVID, 0.2 * VIVID - 0.6, unit(noise(40, 50, 3)), flat])
    found = with_colours(tf.constant(photos, tf.float32), painting).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [coloured_written_out(photo, unit(painting)) for photo in photos], atol=5e-5)


def test_coloured_photos_end_at_black_and_white():
    found = coloured(np.clip(VIVID * 4, -1, 1) ** 9, WIDE)
    assert found.min() == -1 and found.max() == 1


def test_a_coloured_photo_has_the_mean_and_the_covariance_of_the_painting_up_to_the_regulariser():
    found, wanted = coloured(VIVID, OCHRE), covariance(unit(OCHRE))
    assert np.abs(found).max() < 0.999  # nothing is cut off
    np.testing.assert_allclose(found.mean((0, 1)), unit(OCHRE).mean((0, 1)), atol=1e-5)
    root = power(wanted + 0.01 * np.eye(3), 0.5)
    left = 0.01 * np.eye(3) - 0.01 * root @ np.linalg.inv(covariance(VIVID) + 0.01 * np.eye(3)) @ root
    np.testing.assert_allclose(covariance(found), wanted + left, atol=1e-5)
    assert np.abs(left).max() < 0.01 < 0.1 * np.abs(covariance(VIVID) - wanted).max()


def test_a_picture_with_its_own_colours_stays_as_it_is():
    np.testing.assert_allclose(coloured(unit(OCHRE), OCHRE), unit(OCHRE), atol=2e-5)


def test_a_photo_of_one_colour_gets_the_mean_of_the_painting():
    found = coloured(np.full((9, 8, 3), 0.3), WIDE)
    np.testing.assert_allclose(found, np.tile(unit(WIDE).mean((0, 1)), (9, 8, 1)), atol=1e-5)


def test_the_noise_of_a_grey_photo_does_not_become_colours():
    """Steps of one in 255, before a painting whose colours are 74 apart."""
    grain = np.random.default_rng(0).integers(-1, 2, (40, 50, 3))
    flat = 127.5 * (coloured(unit(120 + grain), WIDE) - unit(WIDE).mean((0, 1)))
    assert np.abs(flat).max() < 20 and flat.std() < 6 < 70 < 127.5 * unit(WIDE).std()
    shades = np.linspace(30, 220, 50)[None, :, None].repeat(40, 0).repeat(3, 2)
    smooth, grainy = (127.5 * coloured(unit(each), WIDE) for each in (shades, shades + grain))
    assert np.ptp(smooth, axis=(0, 1)).min() > 100 and (grainy - smooth).std() < 6


# The painter


@pytest.fixture(scope="module")
def painter(tmp_path_factory) -> keras.Model:
    """One whose normalisations do not leave things as they are, and which changes a photo much."""
    path = tmp_path_factory.mktemp("looks") / "three.keras"
    three_convolutions().save(path)
    network = build(replace(SMALL, weights=str(path), base_filters=3)).transform_network
    generator = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.LayerNormalization):
            shape = layer.gamma.shape
            layer.set_weights([generator.uniform(0.5, 1.5, shape), generator.normal(0, 0.3, shape)])
        elif isinstance(layer, keras.layers.Conv2D):
            kernel, bias = layer.get_weights()
            kernel = 50 * kernel if len(bias) == 3 else kernel  # the last, next to nothing at first
            layer.set_weights([kernel, generator.normal(0, 0.1, bias.shape)])
    return network


def painted_written_out(painter: keras.Model, picture: np.ndarray) -> np.ndarray:
    """What a painter with one residual block makes of a picture, [height, width, 3] in [-1, 1]."""
    kinds = (keras.layers.Conv2D, keras.layers.LayerNormalization)
    convolutions, norms = (iter([layer for layer in painter.layers if isinstance(layer, kind)]) for kind in kinds)

    def convolved(x: np.ndarray, stride: int = 1) -> np.ndarray:
        kernel, bias = next(convolutions).get_weights()
        side = len(kernel)
        padded = np.pad(x, [(side // 2, side // 2), (side // 2, side // 2), (0, 0)], mode="reflect")
        windows = sliding_window_view(padded, (side, side), (0, 1))[::stride, ::stride]
        return np.tensordot(windows, kernel.astype(np.float64), ((2, 3, 4), (2, 0, 1))) + bias

    def normalised(x: np.ndarray) -> np.ndarray:
        gamma, beta = next(norms).get_weights()
        return gamma * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) + beta

    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    def doubled(x: np.ndarray) -> np.ndarray:
        """Three quarters of each position and a quarter of its neighbour, or of itself at the border."""
        for axis in (0, 1):
            first, last = x.take([0], axis), x.take([-1], axis)
            before = np.concatenate([first, x.take(range(x.shape[axis] - 1), axis)], axis)
            after = np.concatenate([x.take(range(1, x.shape[axis]), axis), last], axis)
            pair = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
            x = pair.reshape([side * (1 + (number == axis)) for number, side in enumerate(x.shape)])
        return x

    x = picture.astype(np.float64)
    for stride in (1, 2, 2):
        x = relu(normalised(convolved(x, stride)))
    x = x + normalised(convolved(relu(normalised(convolved(x)))))
    for _ in range(2):
        x = relu(normalised(convolved(doubled(x))))
    x = np.tanh(1.5 * picture + convolved(x))
    assert next(convolutions, None) is next(norms, None) is None
    return x


def test_the_painter_is_the_one_written_out_and_edges_are_mirrored(painter):
    picture = unit(noise(12, 20, 3))
    found = painter(tf.constant(picture[None], tf.float32))[0]
    np.testing.assert_allclose(found, painted_written_out(painter, picture), atol=1e-4)
    assert np.abs(found - np.tanh(1.5 * picture)).mean() > 0.1


def test_at_first_a_painter_changes_photos_little(weights):
    config = replace(Config(), network="file", content_layers="conv2", style_layers="conv1", weights=str(weights))
    photos = unit(noise(2, 32, 40, 3))
    found = build(config).transform_network(tf.constant(photos, tf.float32))
    assert 1e-3 < np.abs(found - np.tanh(1.5 * photos)).mean() < 0.03


def test_a_picture_is_painted_alone_as_in_a_batch(painter):
    pictures = noise(4, 16, 24, 3) // np.array([1, 2, 3, 4], np.uint8)[:, None, None, None]
    together = np.asarray(painter(tensor(pictures)))
    for picture, painted in zip(pictures, together, strict=True):
        np.testing.assert_allclose(painter(tensor(picture[None]))[0], painted, atol=1e-5)
    assert np.abs(np.diff(together, axis=0)).mean() > 0.01


@pytest.mark.parametrize("height, width", [(45, 70), (32, 36), (9, 64), (8, 8), (7, 101), (5, 6), (1, 1)])
def test_pictures_of_any_size_are_painted_in_that_size(painter, height, width):
    """Coloured, mirrored to a multiple of 8, the outermost row twice, painted, and cut back."""
    picture = noise(height, width, 3) // np.array([3, 1, 2], np.uint8)
    found = stylize(painter, PAINTING, picture)
    assert found.dtype == np.uint8 and found.shape == picture.shape
    coloured = coloured_written_out(unit(picture), unit(PAINTING))
    padded = np.pad(coloured, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="symmetric")
    painted = painted_written_out(painter, padded)
    np.testing.assert_allclose(found, (painted[:height, :width] + 1) * 127.5, atol=0.52)


def test_the_border_of_a_grey_picture_is_painted_as_its_midst(painter):
    found = stylize(painter, PAINTING, np.full((45, 70, 3), 90, np.uint8)).reshape(-1, 3).astype(int)
    assert np.ptp(found, axis=0).max() <= 1


def test_the_default_painter_has_as_many_weights_as_counted_by_hand(weights):
    """A bias for each filter; two numbers for each channel that is normalised."""

    def convolution(kernel: int, before: int, after: int) -> int:
        return (kernel**2 * before + 1) * after

    down = convolution(9, 3, 16) + convolution(3, 16, 32) + convolution(3, 32, 64)
    up = convolution(3, 64, 32) + convolution(3, 32, 16) + convolution(9, 16, 3)
    norms = 2 * (16 + 32 + 64 + 10 * 64 + 32 + 16)
    network = build(
        replace(Config(), network="file", content_layers="conv2", style_layers="conv1", weights=str(weights))
    )
    assert network.transform_network.count_params() == down + 10 * convolution(3, 64, 64) + up + norms
    assert network.features.trainable_variables == []


def test_waves_are_sines_of_the_position_that_are_not_trained(weights):
    network = build(replace(SMALL, weights=str(weights), waves=5)).transform_network
    layer = network.get_layer("waves")
    added = next(each for each in network.layers if isinstance(each, keras.layers.Conv2D) and each.kernel.shape[2] == 5)
    found = keras.Model(network.input, added.input)(np.zeros((1, 24, 32, 3), np.float32)).numpy()
    kernel, bias = layer.get_weights()
    down, across = np.mgrid[1:7, 1:9]  # at a quarter of the resolution
    expected = np.sin(np.stack([down, across], -1) @ kernel[0, 0].astype(np.float64) + bias)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    photo = np.zeros((1, 24, 32, 3), np.float32)
    photo[:, 0, 0] = 0.03, 0.07, 1  # moves the waves by three positions down, and by seven across
    found = keras.Model(network.input, added.input)(photo).numpy()
    expected = np.sin(np.stack([down + 3, across + 7], -1) @ kernel[0, 0].astype(np.float64) + bias)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    assert not layer.trainable_variables and 0 < bias.min() < bias.max() < 2 * np.pi


def test_only_with_waves_a_photo_of_one_colour_gets_a_pattern(weights):
    grey = np.full((1, 64, 64, 3), 0.2, np.float32)
    for waves in (0, 8):
        network = build(replace(SMALL, weights=str(weights), waves=waves)).transform_network
        assert (network(grey).numpy().std((1, 2)).max() > 1e-4) == (waves > 0)


@pytest.mark.slow
def test_crops_for_training_have_the_size_of_the_option(style, weights, photos, tmp_path, monkeypatch):
    """At the resolution of the photos, enlarged by `jitter`; a crop is never larger than a photo."""
    sizes = []
    monkeypatch.setattr(fast_style_transfer, "train", lambda networks, data, config, folder: sizes.append(data))
    for crop, expected in ((0, 48), (32, 32), (64, 48)):
        config = settings(style, weights, size=48, crop=crop, jitter=1.5)
        fast_style_transfer.run(str(photos), config, tmp_path / f"run{crop}")
        assert next(iter(sizes[-1].at(0)))[0].shape == (2, expected, expected, 3)


def test_the_seed_decides_the_painter(weights):
    kernels = [
        build(replace(SMALL, weights=str(weights), seed=seed)).transform_network.get_weights()[0] for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.01


# Training


def networks_of(painter: keras.Model | None = None) -> Networks:
    """A painter, the same each time where none is given, before the layers of `SMALL`."""
    features = maps_of("conv2", "conv1", "conv3")
    return Networks(painter or mixer(), features)


def mixer() -> keras.Model:
    """A convolution of single pixels in place of a painter."""
    images = keras.Input((None, None, 3))
    kernel = keras.initializers.RandomNormal(stddev=0.5, seed=3)
    return keras.Model(images, keras.layers.Conv2D(3, 1, activation="tanh", kernel_initializer=kernel)(images))


@pytest.mark.slow
def test_a_row_tells_the_losses_of_what_is_painted(style):
    networks, photos = networks_of(), noise(2, 12, 16, 3)
    (row,) = train(networks, batches(photos, 2, 0), settings(style, learning_rate=0.0))
    kernel, bias = networks.transform_network.get_weights()
    before = np.stack([coloured_written_out(photo, unit(PAINTING)) for photo in unit(photos)])
    painted = np.tanh(before @ kernel[0, 0] + bias)
    layers = {"conv2": 1.0}, {"conv1": 1.0, "conv3": 1.0}
    expected = losses_written_out(before, painted, unit(PAINTING), *layers)
    np.testing.assert_allclose([row[name] for name in ("content", "style", "variation", "colour")], expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["content", "style", "variation", "colour"])
def test_what_has_a_weight_falls_and_what_looks_does_not_learn(style, wanted):
    networks = networks_of()
    looked = [each.copy() for each in networks.features.get_weights()]
    none = {"content_weight": 0.0, "style_weight": 0.0, "variation_weight": 0.0, "colour_weight": 0.0}
    config = settings(style, epochs=30, learning_rate=0.05, **none | {f"{wanted}_weight": 1.0})
    history = train(networks, batches(noise(2, 12, 16, 3), 2, 0), config)
    assert history[-1][wanted] < 0.4 * history[0][wanted]
    for before, after in zip(looked, networks.features.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_a_few_steps_of_a_painter_lower_the_loss_of_style(style, weights):
    """Of smooth photos, to which the painting's grain is to be added."""
    config = settings(style, weights, epochs=12, learning_rate=0.01, variation_weight=0.0)
    smooth = np.stack([resize_image(noise(3, 3, 3, seed=seed), 32, 32) for seed in range(4)])
    history = train(build(config), batches(smooth, 2, 0), config)
    assert history[0]["style"] > 0.01 and history[-1]["style"] < 0.5 * history[0]["style"]


def test_scores_are_means_over_held_out_photos_and_their_eight_bit_paintings(style):
    networks, photos = networks_of(), noise(3, 16, 24, 3)
    kernel, bias = networks.transform_network.get_weights()
    before = np.stack([coloured_written_out(photo, unit(PAINTING)) for photo in unit(photos)])
    painted = np.rint((np.tanh(before @ kernel[0, 0] + bias) + 1) * 127.5)
    target, layers = unit(PAINTING), ({"conv2": 1.0}, {"conv1": 1.0, "conv3": 1.0})
    expected = losses_written_out(before, unit(painted), target, *layers)
    _, alone, *_ = losses_written_out(before, before, target, *layers)
    scores = evaluate(networks, photos, settings(style))
    assert list(scores) == ["content", "style", "variation", "colour", "style_of_colours_alone"]
    assert list(scores.values()) == pytest.approx([*expected, alone], rel=1e-3)
    assert np.unique(np.round(list(scores.values()), 4)).size == 5


# A whole run


@pytest.mark.slow
def test_the_built_in_data_are_synthetic_landscapes_and_squares_of_photographs_in_any_order(monkeypatch):
    """Of 120 landscapes, 60 here."""
    fewer = {(120, 3, 32): synthetic_seasons(60, 3, 32)}
    squares = {32: photo_squares(32)}
    monkeypatch.setattr(sets, "synthetic_seasons", lambda *arguments: fewer[arguments])
    monkeypatch.setattr(sets, "photo_squares", squares.__getitem__)
    found = sets.synthetic("photos", 32, 3)
    parts = [*fewer[120, 3, 32][0], *squares[32]]
    assert found.shape == (len(parts), 32, 32, 3) and found.dtype == np.uint8
    assert sorted(each.tobytes() for each in found) == sorted(each.tobytes() for each in parts)
    drawn = {each.tobytes() for each in parts[:60]}
    assert all(10 <= sum(each.tobytes() in drawn for each in third) <= 30 for third in np.array_split(found, 3))
    np.testing.assert_array_equal(found, sets.synthetic("photos", 32, 3))


def test_squares_of_photographs_are_many_in_colour_and_not_alike():
    squares = photo_squares(32)
    assert squares.shape[0] > 200 and squares.shape[1:] == (32, 32, 3) and squares.dtype == np.uint8
    assert len({each.tobytes() for each in squares}) == len(squares)
    colourful = np.ptp(squares.astype(int), axis=3).mean((1, 2))
    assert np.median(colourful) > 20


@pytest.mark.parametrize("count, shown", [(3, [0, 1, 2]), (6, [0, 1, 2, 3, 4, 5]), (13, [0, 2, 4, 6, 8, 10])])
def test_photos_stand_above_their_paintings(count, shown, tmp_path):
    network, photos = mixer(), noise(count, 16, 16, 3)
    picture = read_image(save_comparison(network, PAINTING, photos, tmp_path / "beside.png"))
    left = round(32 * PAINTING.shape[1] / PAINTING.shape[0]) + 4  # of the photos, right of the style image
    assert picture.shape == (26 + 2 * 16, left + 20 * len(shown), 3)
    np.testing.assert_array_equal(picture[26:, : left - 4], resize_image(PAINTING, 32, left - 4))
    for column, number in enumerate(shown):
        above, below = (picture[top : top + 16, left + 20 * column :][:, :16] for top in (26, 42))
        np.testing.assert_array_equal(above, photos[number])
        kernel, bias = network.get_weights()
        before = coloured_written_out(unit(photos[number]), unit(PAINTING))
        np.testing.assert_allclose(below, (np.tanh(before @ kernel[0, 0] + bias) + 1) * 127.5, atol=0.52)


@pytest.fixture
def photos(tmp_path) -> Path:
    for number in range(7):
        write_image(noise(40, 50, 3, seed=number), tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def outcome(run: Path) -> tuple[list[np.ndarray], list[str], str]:
    """The painter's weights, what its history says besides times, and its scores."""
    weights = keras.models.load_model(run / "transform_network.keras").get_weights()
    rows = [line.rsplit(",", 2)[0] for line in (run / "history.csv").read_text().splitlines()]
    return weights, rows, (run / "results.json").read_text()


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_as_one_that_was_not_bit_for_bit(style, weights, photos, tmp_path, monkeypatch):
    config = settings(style, weights, residual_blocks=0, epochs=2)
    fast_style_transfer.run(str(photos), config, tmp_path / "whole")

    def stop(painter: keras.Model, style: np.ndarray, images: np.ndarray, path: Path) -> Path:
        if path.stem == "epoch-0002":
            raise KeyboardInterrupt
        return save_comparison(painter, style, images, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fast_style_transfer, "save_comparison", stop)
        fast_style_transfer.run(str(photos), config, tmp_path / "stopped")
    picture = fast_style_transfer.run(str(photos), config, tmp_path / "stopped")
    assert picture == tmp_path / "stopped" / "beside.png"
    (one, rows, scores), (other, other_rows, other_scores) = (outcome(tmp_path / name) for name in ("whole", "stopped"))
    assert rows == other_rows and len(rows) == 3 and rows[0] == "epoch,content,style,variation,colour"
    names = {"content", "style", "variation", "colour", "style_of_colours_alone"}
    assert scores == other_scores and set(json.loads(scores)) == names
    for before, after in zip(one, other, strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(read_image(picture), read_image(tmp_path / "whole" / "beside.png"))
    np.testing.assert_array_equal(read_image(tmp_path / "stopped" / "style.png"), PAINTING)
    samples = {path.name for path in (tmp_path / "stopped" / "samples").iterdir()}
    assert samples == {"epoch-0001.png", "epoch-0002.png"}


@pytest.mark.slow
def test_the_painting_is_kept_with_its_whole_path_and_a_run_keeps_to_it(style, weights, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    config = settings(Path(style.name), weights)
    fast_style_transfer.run(str(photos), config, run)
    assert json.loads((run / "config.json").read_text())["config"]["style"] == str(style.resolve())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    fast_style_transfer.run(str(photos), replace(config, style=f"../{style.name}"), run)
    other = write_image(255 - read_image(style), tmp_path / "elsewhere" / style.name)
    with pytest.raises(InputError, match=f"holds a run with style '{style}', not '{other}'"):
        fast_style_transfer.run(str(photos), config, run)


@pytest.mark.parametrize("content, line", [
    (None, "no.jpg: No such file"),
    (b"", "no.jpg: an empty file"),
    (b"these are words", "no.jpg: not a PNG, JPEG"),
    (b"\x89PNG\r\n\x1a\n and no more", "no.jpg: damaged"),
])  # fmt: skip
def test_a_painting_that_cannot_be_read_is_found_before_anything_is_written(content, line, weights, photos, tmp_path):
    if content is not None:
        (tmp_path / "no.jpg").write_bytes(content)
    with pytest.raises(InputError, match=line):
        fast_style_transfer.run(str(photos), settings(tmp_path / "no.jpg", weights), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_painting_that_is_too_small_is_refused(weights, photos, tmp_path):
    small = write_image(noise(31, 50, 3), tmp_path / "small.png")
    with pytest.raises(InputError, match="small.png: 50x31 px; each side must be at least 32"):
        fast_style_transfer.run(str(photos), settings(small, weights), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes, line", [
    ({"size": 34}, "size must be a multiple of 4 from 32 to 2048, got 34"),
    ({"size": 28}, "size must be a multiple of 4 from 32 to 2048, got 28"),
    ({"style_size": 31}, "style_size must be 32 or more and at most 16384, got 31"),
    ({"style_layers": "conv1,conv9"}, "'conv9' is not a layer of file that outputs feature maps"),
    ({"content_layers": "conv9"}, "'conv9' is not a layer"),
    ({"style_layers": "conv1=-1"}, "expected NAME or NAME=WEIGHT"),
    ({"network": "VGG16"}, "network must be one of embedded, .*VGG19, file, got 'VGG16'"),
    ({"weights": "nowhere/three.keras"}, "nowhere/three.keras: there is no such file"),
    ({"style_weight": -1.0}, "style_weight must be 0 or more"),
    ({"jitter": 0.9}, "jitter must be 1 or more"),
    ({"crop": 28}, "crop must be a multiple of 4 from 32 to 2048, got 28"),
    ({"base_filters": 0}, "base_filters must be 1 or more"),
    ({"batch_size": 7}, "6 items are fewer than one batch of 7"),
])  # fmt: skip
def test_settings_that_cannot_be(changes, line, style, weights, photos, tmp_path):
    with pytest.raises(InputError, match=line):
        fast_style_transfer.run(str(photos), replace(settings(style, weights), **changes), tmp_path / "run")
    assert not list(tmp_path.glob("run/**/*.keras")) and not list(tmp_path.glob("run/checkpoints"))


def test_a_size_that_the_network_cannot_look_at_is_refused(style, photos, tmp_path):
    images = x = keras.Input((None, None, 3))
    for name in ("conv1", "conv2", "conv3"):
        x = keras.layers.Conv2D(2, 3, name=name)(keras.layers.AveragePooling2D(3)(x))
    keras.Model(images, x).save(tmp_path / "deep.keras")
    config = settings(Path("sample"), tmp_path / "deep.keras")  # least: ((3 * 3 + 2) * 3 + 2) * 3
    assert build(replace(config, size=108)).features(np.zeros((1, 108, 108, 3)))[2].shape == (1, 1, 1, 2)
    with pytest.raises(InputError, match="images of 36 px are too small for this network"):
        build(replace(config, size=108, style=str(style)))
    with pytest.raises(InputError, match="104 px are too small for this network; it needs at least 105 px per side"):
        build(replace(config, size=104))
    with pytest.raises(InputError, match="images of 32 px are too small for this network; it needs at least 105 px"):
        fast_style_transfer.run(str(photos), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Use


@pytest.fixture
def finished_run(painter, tmp_path) -> Path:
    Run(tmp_path / "run", "fast_style_transfer", SMALL, "sample").start()
    painter.save(tmp_path / "run" / "transform_network.keras")
    write_image(PAINTING, tmp_path / "run" / "style.png")
    return tmp_path / "run"


def test_a_file_is_painted_into_a_file(finished_run, painter, tmp_path):
    write_image(noise(21, 34, 3), tmp_path / "photo.png")
    found = stylize_files(tmp_path / "photo.png", tmp_path / "new" / "out.png", finished_run)
    assert found == tmp_path / "new" / "out.png"
    np.testing.assert_array_equal(read_image(found), stylize(painter, PAINTING, noise(21, 34, 3)))


def test_a_folder_is_painted_into_a_folder_each_picture_in_its_size(finished_run, painter, tmp_path):
    pictures = {name: noise(*size, 3, seed=size[0]) for name, size in (("a", (21, 34)), ("b", (32, 16)), ("c", (9, 9)))}
    for name, picture in pictures.items():
        write_image(picture, tmp_path / "photos" / f"{name}.png")
    assert stylize_files(tmp_path / "photos", tmp_path / "out", finished_run) == tmp_path / "out"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "b.png", "c.png"}
    for name, picture in pictures.items():
        np.testing.assert_array_equal(read_image(tmp_path / "out" / f"{name}.png"), stylize(painter, PAINTING, picture))


def test_a_bad_picture_of_a_folder_is_named_and_left_out_where_that_is_asked_for(finished_run, tmp_path, capsys):
    write_image(noise(16, 16, 3), tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.png").write_bytes(b"words")
    with pytest.raises(InputError, match="b.png: not a PNG"):
        stylize_files(tmp_path / "photos", tmp_path / "out", finished_run)
    stylize_files(tmp_path / "photos", tmp_path / "out", finished_run, skip_bad=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert "b.png" in capsys.readouterr().err


def test_without_a_run_nothing_is_painted(tmp_path):
    write_image(noise(16, 16, 3), tmp_path / "a.png")
    with pytest.raises(InputError, match="nowhere: no run here"):
        stylize_files(tmp_path / "a.png", tmp_path / "out.png", tmp_path / "nowhere")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("content, line", [
    (None, "style.png: No such file"),
    (b"", "style.png: an empty file"),
    (b"words", "style.png: not a PNG"),
])  # fmt: skip
def test_a_run_without_its_painting_paints_nothing(content, line, finished_run, tmp_path):
    (finished_run / "style.png").unlink()
    if content is not None:
        (finished_run / "style.png").write_bytes(content)
    write_image(noise(16, 16, 3), tmp_path / "a.png")
    with pytest.raises(InputError, match=line):
        stylize_files(tmp_path / "a.png", tmp_path / "out.png", finished_run)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.slow
def test_the_command_line_trains_and_then_paints_in_the_manner_of_a_file_with_a_comma(style, weights, photos, tmp_path):
    style = style.rename(tmp_path / "red, and=2.png")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    flags = {"--data": "photos", "--output-dir": "run", "--style": style.name, "--network": "file"}
    flags |= {"--weights": weights.name, "--content-layers": "conv2", "--style-layers": "conv1=2,conv3"}
    flags |= {"--size": "32", "--base-filters": "2", "--residual-blocks": "1", "--batch-size": "3", "--epochs": "1"}
    command = [
        *forked_python(),
        "-m",
        "recipes.fast_style_transfer",
        "train",
        *(part for flag in flags.items() for part in flag),
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(Path("run") / "beside.png")
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["style_layers"] == "conv1=2,conv3" and config["base_filters"] == 2
    assert (tmp_path / "run" / "report.html").is_file()
    out = stylize_files(photos / "0.png", tmp_path / "out.png", tmp_path / "run")
    network = keras.models.load_model(tmp_path / "run" / "transform_network.keras")
    np.testing.assert_array_equal(read_image(out), stylize(network, PAINTING, read_image(photos / "0.png")))


# Runs of earlier versions


def test_a_run_of_an_earlier_version_is_found_under_its_old_names(finished_run, painter, tmp_path):
    (finished_run / "transform_network.keras").rename(finished_run / "painter.keras")
    stored = json.loads((finished_run / "config.json").read_text())
    stored["config"]["variation"] = stored["config"].pop("variation_weight") + 1
    (finished_run / "config.json").write_text(json.dumps(stored))
    assert Run.load(finished_run, "fast_style_transfer", Config).config.variation_weight == SMALL.variation_weight + 1
    write_image(noise(21, 34, 3), tmp_path / "photo.png")
    found = stylize_files(tmp_path / "photo.png", tmp_path / "out.png", finished_run)
    np.testing.assert_array_equal(read_image(found), stylize(painter, PAINTING, noise(21, 34, 3)))


@pytest.mark.parametrize("text, expected", [("a", [1]), ("a,b", [0.5, 0.5]), ("a=3,b", [0.75, 0.25])])
def test_weights_of_layers_have_a_sum_of_1(text, expected):
    np.testing.assert_allclose(layer_weights(text), expected)
