from __future__ import annotations

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.decomposition import PCA

from common.data.batches import batches
from common.data.labelled import labelled_images
from common.images.pixels import to_uint8
from common.runs.run import Run
from common.training.noise import Noise
from recipes.autoencoder import (
    Config,
    Networks,
    add_noise,
    build,
    latent_grid,
    principal_components,
    project,
    reconstruct,
    reconstruct_files,
    run,
    squared_error,
    train,
)


def random_images(count: int, size: int = 8, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def test_weights_of_784_128_64_10_and_back_counted_by_hand():
    encoder, decoder = build()
    widths = [784, 128, 64, 10]
    assert encoder.count_params() == sum((a + 1) * b for a, b in zip(widths, widths[1:], strict=False))
    assert decoder.count_params() == sum((a + 1) * b for a, b in zip(widths[::-1], widths[-2::-1], strict=False))


def test_reconstruction_is_that_of_the_layers_written_out():
    networks = build(Config(size=8, channels=3, units=5, latent_dim=2))
    images = random_images(3, channels=3)
    x = (images / 127.5 - 1).reshape(3, -1)
    for place, network in enumerate(networks):
        *hidden, (kernel, bias) = zip(network.get_weights()[::2], network.get_weights()[1::2], strict=True)
        for inner_kernel, inner_bias in hidden:
            x = np.maximum(x @ inner_kernel + inner_bias, 0)
        x = x @ kernel + bias
        if place == 0:
            np.testing.assert_allclose(network(images / 127.5 - 1, training=False), x, atol=1e-5)
    found = reconstruct(networks, images)
    assert found.dtype == np.uint8 and found.shape == images.shape
    np.testing.assert_allclose(found, ((np.tanh(x) + 1) * 127.5).reshape(images.shape), atol=0.51)


def test_the_error_is_that_of_pixels_between_0_and_1():
    one, other = random_images(2), random_images(2, seed=1)
    error = squared_error(*(tf.constant(images / 127.5 - 1) for images in (one, other)))
    assert float(error) == pytest.approx(np.mean((one / 255 - other / 255) ** 2))


def noisy(images: np.ndarray, stddev: float, seed: int) -> tf.Tensor:
    return add_noise(images, stddev, Noise(seed))


def test_noise_has_the_deviation_asked_for_between_0_and_1_and_the_same_seed_gives_the_same():
    grey = np.full((4, 64, 64, 1), 128, np.uint8)
    values = (noisy(grey, 0.1, 3).numpy() + 1) / 2
    assert values.std() == pytest.approx(0.1, rel=0.02) and values.mean() == pytest.approx(128 / 255, abs=0.003)
    np.testing.assert_array_equal(noisy(grey, 0.1, 3), noisy(grey, 0.1, 3))
    assert not np.array_equal(noisy(grey, 0.1, 3), noisy(grey, 0.1, 4))
    strong = noisy(grey, 2.0, 3).numpy()
    assert strong.min() == -1 and strong.max() == 1
    np.testing.assert_array_equal(to_uint8(noisy(grey, 0.0, 3)), grey)


def test_reconstructions_are_compared_with_images_without_noise():
    """If all weights are 0, every reconstruction is mid-grey, whatever the noise."""
    images = random_images(4)
    config = Config(size=8, units=4, noise=0.5, learning_rate=0.0, weight_decay=0.0, batch_size=4, epochs=1)
    networks = build(config)
    for network in networks:
        network.set_weights([np.zeros_like(weight) for weight in network.get_weights()])
    history = train(networks, batches(images, 4, 0, held_out=(images,)), config)
    expected = np.mean((images / 255 - 0.5) ** 2)
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert history[0]["validation_loss"] == pytest.approx(expected, rel=0.02)  # of uint8 images: 128, not 127.5


def test_each_step_has_new_noise():
    images = random_images(4)
    config = Config(size=8, units=16, noise=0.5, learning_rate=0.0, weight_decay=0.0, batch_size=4, epochs=2)
    history = train(build(config), batches(images, 4, 0), config)
    assert history[0]["loss"] != history[1]["loss"]


@pytest.mark.parametrize("count", [200, 40])
def test_reconstructions_from_components_equal_those_of_scikit_learn(count):
    """With more images than pixels, and with fewer; `project` also rounds and clips."""
    digits = labelled_images("sample", 8, 1, "digits")
    train_images, test_images = digits.train.loaded(count)[0], digits.test.loaded(50)[0]
    mean, axes = principal_components(train_images, 7)
    fitted = PCA(7).fit(train_images.reshape(count, -1) / 255)
    np.testing.assert_allclose(axes @ axes.T, np.eye(7), atol=1e-4)
    for kept in (1, 7):
        scores = fitted.transform(test_images.reshape(50, -1) / 255)
        scores[:, kept:] = 0
        expected = fitted.inverse_transform(scores).clip(0, 1).reshape(test_images.shape) * 255
        np.testing.assert_allclose(project(mean, axes[:kept], test_images), expected, atol=0.6)


def test_components_of_equal_images_reconstruct_that_image():
    images = np.repeat(random_images(1), 5, axis=0)
    mean, axes = principal_components(images, 3)
    np.testing.assert_array_equal(project(mean, axes, images), images)


def test_more_components_than_images_leave_no_error_on_these():
    images = random_images(4)
    mean, axes = principal_components(images, 50)
    assert len(axes) == 3
    np.testing.assert_array_equal(project(mean, axes, images), images)


def test_the_latent_grid_has_the_axes_of_the_scatter_plot():
    """The decoder shows the first latent as red and the second as green: red grows to the right, green upwards."""
    inputs = keras.Input((2,))
    values = keras.ops.tanh(keras.ops.stack([inputs[:, 0], inputs[:, 1], 0 * inputs[:, 0] - 9], axis=-1))
    decoder = keras.Model(inputs, keras.layers.UpSampling2D(4)(values[:, None, None, :]))
    latents = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    grid = latent_grid(decoder, latents)
    assert grid.shape == (256, 4, 4, 3) and grid.dtype == np.uint8
    tiles = grid[:, 0, 0].reshape(16, 16, 3).astype(int)
    ends = np.percentile(latents, (2, 98), axis=0)
    np.testing.assert_allclose(tiles[-1, 0, :2], (np.tanh(ends[0]) + 1) * 127.5, atol=1)
    np.testing.assert_allclose(tiles[0, -1, :2], (np.tanh(ends[1]) + 1) * 127.5, atol=1)
    assert (np.diff(tiles[..., 0], axis=1) > 0).all() and (np.diff(tiles[..., 1], axis=0) < 0).all()
    assert (np.ptp(tiles[..., 0], axis=0) == 0).all()


@pytest.fixture
def copying_run(tmp_path, monkeypatch):
    """A run whose networks return their input: grey images of 8 px."""
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Identity()])
    monkeypatch.setattr(Run, "network", lambda *_: network)
    Run(tmp_path / "run", "autoencoder", Config(size=8), "sample").start()
    return tmp_path / "run"


def test_a_file_and_a_folder_are_reconstructed_and_their_errors_printed(copying_run, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, image in zip(("a.png", "b.png"), random_images(2, channels=3), strict=True):
        Image.fromarray(image).save(folder / name)
    Image.fromarray(random_images(1, 20, 3)[0, :16]).save(folder / "wide.png")
    assert reconstruct_files(folder / "a.png", tmp_path / "out.png", run=copying_run) == tmp_path / "out.png"
    assert capsys.readouterr().out == f"{folder / 'a.png'}  error 0.0000\n"
    expected = np.asarray(Image.open(folder / "a.png").convert("L"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)
    reconstruct_files(folder / "a.png", tmp_path / "out.png", invert=True, run=copying_run)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), 255 - expected)
    reconstruct_files(folder, tmp_path / "reconstructed", run=copying_run)
    assert sorted(path.name for path in (tmp_path / "reconstructed").iterdir()) == ["a.png", "b.png", "wide.png"]
    assert np.asarray(Image.open(tmp_path / "reconstructed" / "wide.png")).shape == (8, 8)


def test_a_folder_is_not_written_over_and_bad_files_are_named(copying_run, tmp_path, capsys):
    Image.fromarray(random_images(1)[0, ..., 0]).save(tmp_path / "good.png")
    with pytest.raises(ValueError, match="is the source folder"):
        reconstruct_files(tmp_path, tmp_path, run=copying_run)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.png"):
        reconstruct_files(tmp_path, tmp_path / "out", run=copying_run)
    reconstruct_files(tmp_path, tmp_path / "out", skip_bad=True, run=copying_run)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_runs_compared_are_whole_runs_with_the_errors_that_the_table_names(tmp_path):
    config = Config(size=8, units=64, latent_dim=8, noise=0.3, batch_size=64, epochs=15)
    run("sample", config, tmp_path / "run", compare=(2, 8))
    main = tmp_path / "run"
    inner = {"latents-2": 2, "without-noise": 8}
    for folder, latents in {"": 8, **inner}.items():
        names = {path.name for path in (main / folder).iterdir()}
        assert {"config.json", "history.csv", "results.json", "report.html", "checkpoints"} <= names
        encoder = keras.models.load_model(main / folder / "encoder.keras")
        assert encoder.output_shape == (None, latents)
    found = results(main)
    assert found["test_error"] == found["test_error z = 8"] < found["test_error z = 8, trained without noise"]
    assert found["test_error"] < found["test_error z = 2"] == results(main / "latents-2")["test_error"]
    assert found["test_error"] < found["test_error noisy"]

    images = labelled_images("sample", 8, 1, "digits").test.loaded(10_000)[0]
    parts = [images[start : start + 500] for start in range(0, len(images), 500)]
    inputs = np.concatenate([to_uint8(noisy(part, 0.3, seed)) for seed, part in enumerate(parts)])
    networks = Networks(*(keras.models.load_model(main / f"{name}.keras") for name in Networks._fields))
    for name, outputs in (("z = 8", reconstruct(networks, inputs)), ("noisy", inputs)):
        expected = np.mean((images / 255.0 - outputs / 255.0) ** 2)
        assert found[f"test_error {name}"] == pytest.approx(expected, rel=1e-4)
    again = run("sample", config, main, compare=(2, 8))
    assert results(main) == found and again == main / "reconstructions.png"


@pytest.mark.slow
def test_on_few_latents_it_beats_the_components_as_it_must_on_curved_data(tmp_path):
    """Discs along a line: one latent is enough, but their pixels span many components."""
    across, down = np.meshgrid(np.arange(16), np.arange(16))
    places = np.random.default_rng(0).uniform(3, 13, 400)[:, None, None]
    discs = np.clip(3.5 - np.hypot(across - places, down - 8), 0, 1)
    images = np.round(255 * discs).astype(np.uint8)
    np.savez(tmp_path / "discs.npz", x_train=images[:320], x_test=images[320:])
    config = Config(size=16, units=64, latent_dim=1, batch_size=32, epochs=60)
    run(str(tmp_path / "discs.npz"), config, tmp_path / "run")
    found = results(tmp_path / "run")
    assert found["test_error"] < 0.5 * found["pca_error"] < 0.5 * images.astype(float).var() / 255**2


@pytest.mark.slow
def test_a_folder_of_colour_images_without_classes(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(random_images(20, 12, 3)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    config = Config(size=8, channels=3, units=8, latent_dim=2, batch_size=4, epochs=2)
    image = run(str(tmp_path / "photos"), config, tmp_path / "run")
    assert image.is_file() and (tmp_path / "run" / "sweep.png").is_file()
    write = functools.partial(reconstruct_files, run=tmp_path / "run")
    write(tmp_path / "photos" / "3.png", tmp_path / "out.png")
    assert np.asarray(Image.open(tmp_path / "out.png")).shape == (8, 8, 3)
