from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.signal import correlate
from scipy.spatial.distance import cdist

from common.data.batches import Batches
from common.data.labelled import labelled_images
from common.runs.run import Run
from recipes.conv_autoencoder import (
    Config,
    build,
    decode,
    distance_to_nearest,
    encode,
    run,
    sample_normal,
    sample_shuffled,
    similar_images,
    squared_error,
    train,
)


def random_images(count: int, size: int = 16, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def test_maps_and_weights_at_28_pixels():
    encoder, decoder = build()
    sides = [layer.output.shape[1] for layer in encoder.layers]
    assert sides == [28, 30, 10, 5, 7, 3, 2] and encoder.output_shape == (None, 2, 2, 64)
    assert [layer.output.shape[1] for layer in decoder.layers] == [2, 5, 15, 30]  # and is cut to 28
    assert decoder.output_shape == (None, 28, 28, 1)
    assert encoder.count_params() == 9 * 32 + 32 + 9 * 32 * 64 + 64
    assert decoder.count_params() == 9 * 64 * 32 + 32 + 25 * 32 * 16 + 16 + 4 * 16 + 1


@pytest.mark.parametrize("size", [16, 28, 40, 52, 64, 112])
def test_sizes(size):
    encoder, decoder = build(Config(size=size, channels=3, base_filters=2))
    side = (size - 4) // 12
    assert encoder.output_shape == (None, side, side, 4)
    assert decoder.output_shape == (None, size, size, 3)


@pytest.mark.parametrize("size", [4, 27, 30, 32, 96])
def test_sizes_that_do_not_fit_the_strides(size):
    with pytest.raises(ValueError, match=f"size must be 4 more than a multiple of 12 from 16 to 512, got {size}"):
        build(Config(size=size))


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """ReLU of a convolution with a margin of 1."""
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    maps = [correlate(x, kernel[..., i], "valid")[::stride, ::stride, 0] for i in range(kernel.shape[-1])]
    return np.maximum(np.stack(maps, -1) + bias, 0)


def pooled(x: np.ndarray, stride: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(0, 1))
    return windows[::stride, ::stride].max((-2, -1))


def spread(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """A transposed convolution: every input adds its multiple of the kernel."""
    side = (x.shape[0] - 1) * stride + kernel.shape[0]
    total = np.zeros((side, side, kernel.shape[2])) + bias
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            top, left = row * stride, column * stride
            total[top : top + kernel.shape[0], left : left + kernel.shape[1]] += kernel @ x[row, column]
    return total


def test_latents_and_images_are_those_of_the_layers_written_out():
    encoder, decoder = build(Config(size=28, channels=3, base_filters=4))
    images = random_images(2, 28, 3)
    one, one_bias, two, two_bias = encoder.get_weights()
    expected = [pooled(convolved(pooled(convolved(image / 127.5 - 1, one, one_bias, 3), 2), two, two_bias, 2), 1)
                for image in images]  # fmt: skip
    latents = encode(encoder, images)
    np.testing.assert_allclose(latents, np.reshape(expected, (2, -1)), atol=1e-5)
    one, one_bias, two, two_bias, three, three_bias = decoder.get_weights()
    for maps, found in zip(expected, decode(decoder, latents), strict=True):
        x = np.maximum(spread(maps, one, one_bias, 2), 0)
        x = np.maximum(spread(x, two, two_bias, 3), 0)[1:-1, 1:-1]
        x = np.tanh(spread(x, three, three_bias, 2))[1:-1, 1:-1]
        np.testing.assert_allclose(found, (x + 1) * 127.5, atol=0.51)


def test_the_error_is_that_of_pixels_between_0_and_1():
    one, other = random_images(2), random_images(2, seed=1)
    error = squared_error(*(tf.constant(images / 127.5 - 1) for images in (one, other)))
    assert float(error) == pytest.approx(np.mean((one / 255 - other / 255) ** 2))


def test_normal_latents_have_each_column_s_mean_and_deviation_and_nothing_else():
    rng = np.random.default_rng(0)
    first = rng.gamma(2.0, size=(40_000, 1))
    latents = np.concatenate([first, 3 * first, np.ones_like(first)], axis=1).astype(np.float32)
    samples = sample_normal(latents, 1)
    assert samples.shape == latents.shape and samples.dtype == np.float32
    np.testing.assert_allclose(samples.mean(0), latents.mean(0), rtol=0.02)
    np.testing.assert_allclose(samples.std(0), latents.std(0), rtol=0.02, atol=1e-6)
    assert abs(np.corrcoef(samples[:, 0], samples[:, 1])[0, 1]) < 0.02
    np.testing.assert_array_equal(samples, sample_normal(latents, 1))


def test_shuffled_latents_have_each_column_s_values_and_lose_what_ties_columns():
    latents = np.arange(400.0).reshape(200, 2)
    samples = sample_shuffled(latents, 1)
    np.testing.assert_array_equal(np.sort(samples, axis=0), latents)
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.3
    np.testing.assert_array_equal(latents, np.arange(400.0).reshape(200, 2))


def test_distance_to_the_nearest_against_all_distances():
    images, real = random_images(5, 4), random_images(9, 4, seed=1)
    squares = cdist(images.reshape(5, -1) / 255, real.reshape(9, -1) / 255, "sqeuclidean") / 16
    assert distance_to_nearest(images, real) == pytest.approx(squares.min(1).mean(), rel=1e-5)
    assert distance_to_nearest(real[:3], real) == 0


@pytest.fixture
def untrained(tmp_path, monkeypatch):
    """A run without training, of colour images of 16 px in a folder."""
    config = Config(size=16, channels=3, base_filters=4)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(random_images(20, channels=3)):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    monkeypatch.setattr(Run, "network", lambda *_: build(config).encoder)
    Run(tmp_path / "run", "conv_autoencoder", config, str(folder)).start()
    return tmp_path / "run"


def test_the_nearest_to_a_training_image_is_itself_and_files_are_named_in_order(untrained, tmp_path, capsys):
    photo = tmp_path / "photos" / "01.png"
    similar_images(photo, tmp_path / "strip.png", count=3, run=untrained)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{photo}  distance 0.000" and len(lines) == 3
    distances = [float(line.rpartition(" ")[2]) for line in lines]
    assert distances == sorted(distances) and distances[1] > 0
    encoder = build(Config(size=16, channels=3, base_filters=4)).encoder
    listed = [np.asarray(Image.open(line.partition("  ")[0])) for line in lines]
    expected = cdist(*(encode(encoder, np.stack(part)) for part in (listed[:1], listed)))[0]
    np.testing.assert_allclose(distances, expected, atol=6e-4)
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    for place, image in enumerate([listed[0], *listed]):
        left = strip.shape[1] - (4 - place) * (16 * 3 + 2)
        np.testing.assert_array_equal(strip[3 : 2 + 48 : 3, left + 1 : left + 48 : 3], image)


def test_a_photo_is_negated_before_the_search(untrained, tmp_path, capsys):
    negative = 255 - np.asarray(Image.open(tmp_path / "photos" / "01.png"))
    Image.fromarray(negative).save(tmp_path / "negative.png")
    similar_images(tmp_path / "negative.png", tmp_path / "strip.png", count=1, invert=True, run=untrained)
    assert capsys.readouterr().out == f"{tmp_path / 'photos' / '01.png'}  distance 0.000\n"


def test_other_data_and_more_images_than_there_are(untrained, tmp_path, capsys):
    similar_images(tmp_path / "photos" / "01.png", tmp_path / "strip.png", data="sample", count=2, run=untrained)
    assert capsys.readouterr().out.startswith("training image ")
    for count in (0, 1000):
        with pytest.raises(ValueError, match=f"count must be from 1 to .* got {count}"):
            similar_images(tmp_path / "photos" / "01.png", tmp_path / "none.png", count=count, run=untrained)
    assert not (tmp_path / "none.png").exists()


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_agreement_and_error_are_those_of_the_saved_networks_and_training_lowers_the_error(tmp_path):
    config = Config(size=16, base_filters=8, batch_size=64, epochs=4)
    run("sample", config, tmp_path / "run")
    found = results(tmp_path / "run")
    images, labels = labelled_images("sample", 16, 1, "digits").test.loaded(10_000)
    encoder, decoder = (keras.models.load_model(tmp_path / "run" / f"{name}.keras") for name in ("encoder", "decoder"))
    latents = encode(encoder, images)
    error = np.mean((images / 255.0 - decode(decoder, latents) / 255.0) ** 2)
    assert found["test_error"] == pytest.approx(error, rel=1e-4) and error < images.astype(float).var() / 255**2
    for name, rows in (("latents", latents), ("pixels", images.reshape(len(images), -1).astype(float))):
        distances = cdist(rows, rows)
        np.fill_diagonal(distances, np.inf)
        alike = labels[np.argsort(distances, axis=1)[:, :10]] == labels[:, None]
        assert found[f"knn_agreement_{name}"] == pytest.approx(alike.mean(), abs=2e-3)
    assert found["knn_agreement_chance"] == pytest.approx(0.1, abs=0.01)
    outputs, rows = (part.reshape(len(images), -1) / 255 for part in (decode(decoder, latents), images))
    nearest = np.mean(cdist(outputs[:1000], rows, "sqeuclidean").min(axis=1)) / rows.shape[1]
    assert found["distance_to_nearest reconstructed test images"] == pytest.approx(nearest, rel=1e-3)


@pytest.mark.slow
def test_a_folder_of_colour_images_without_classes(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(random_images(30, 20, 3)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    config = Config(size=16, channels=3, base_filters=4, batch_size=4, epochs=2)
    assert run(str(tmp_path / "photos"), config, tmp_path / "run").is_file()
    found = results(tmp_path / "run")
    assert found["values_per_image"] == 16 * 16 * 3 and "knn_agreement_latents" not in found
    similar_images(tmp_path / "photos" / "3.png", tmp_path / "strip.png", count=5, run=tmp_path / "run")
    assert (tmp_path / "strip.png").is_file()


@pytest.mark.slow
def test_few_images_are_enough(tmp_path):
    config = Config(size=16, base_filters=2, batch_size=2, epochs=1)
    np.savez(tmp_path / "few.npz", x_train=random_images(4), x_test=random_images(12))
    assert run(str(tmp_path / "few.npz"), config, tmp_path / "few").is_file()
    np.savez(
        tmp_path / "fewer.npz",
        x_train=random_images(9),
        x_test=random_images(2),
        y_train=np.arange(9) % 2,
        y_test=np.arange(2),
    )
    assert run(str(tmp_path / "fewer.npz"), config, tmp_path / "fewer").is_file()


def test_arrays_train_without_validation_and_batches_with(tmp_path):
    config = Config(size=16, base_filters=2, batch_size=4, epochs=2, patience=1)
    images = random_images(8)
    calls = []
    history = train(build(config), images, config, on_epoch=lambda epoch, losses: calls.append((epoch, losses["loss"])))
    assert calls == [(row["epoch"], row["loss"]) for row in history] and len(history) == 2
    assert "validation_loss" not in history[0]
    stream = Batches.of(images, 4, config.seed)._replace(held_out=(images,))
    others = train(build(config), stream, config)
    assert [row["loss"] for row in others] == [row["loss"] for row in history] and others[0]["validation_loss"] > 0
