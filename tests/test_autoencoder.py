from __future__ import annotations

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.decomposition import PCA

from common.batches import batches
from common.digits import digits_or_others
from common.images import to_uint8
from common.labelled import Labelled, Split
from common.runs import start_run
from recipes import autoencoder
from recipes.autoencoder import (
    Config,
    Networks,
    build,
    experiment,
    noisy,
    principal_components,
    project,
    reconstruct,
    reconstruct_file,
    save_plane,
    squared_error,
    train,
)


def pictures(count: int, size: int = 8, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def test_weights_of_784_128_64_10_and_back_counted_by_hand():
    encoder, decoder = build()
    widths = [784, 128, 64, 10]
    assert encoder.count_params() == sum((a + 1) * b for a, b in zip(widths, widths[1:], strict=False))
    assert decoder.count_params() == sum((a + 1) * b for a, b in zip(widths[::-1], widths[-2::-1], strict=False))


def test_reconstruction_is_that_of_the_layers_written_out():
    networks = build(Config(size=8, channels=3, units=5, latent_dim=2))
    images = pictures(3, channels=3)
    x = (images / 127.5 - 1).reshape(3, -1)
    for place, network in enumerate(networks):
        *hidden, (kernel, bias) = zip(network.get_weights()[::2], network.get_weights()[1::2], strict=True)
        for inner_kernel, inner_bias in hidden:
            x = np.maximum(x @ inner_kernel + inner_bias, 0)
        x = x @ kernel + bias
        if place == 0:
            np.testing.assert_allclose(network(images / 127.5 - 1, training=False), x, atol=1e-5)
    drawn = reconstruct(networks, images)
    assert drawn.dtype == np.uint8 and drawn.shape == images.shape
    np.testing.assert_allclose(drawn, ((np.tanh(x) + 1) * 127.5).reshape(images.shape), atol=0.51)


def test_the_error_is_that_of_pixels_between_0_and_1():
    one, other = pictures(2), pictures(2, seed=1)
    error = squared_error(*(tf.constant(images / 127.5 - 1) for images in (one, other)))
    assert float(error) == pytest.approx(np.mean((one / 255 - other / 255) ** 2))


def test_noise_has_the_deviation_asked_for_between_0_and_1_and_the_same_seed_gives_the_same():
    grey = np.full((4, 64, 64, 1), 128, np.uint8)
    values = (noisy(grey, 0.1, 3).numpy() + 1) / 2
    assert values.std() == pytest.approx(0.1, rel=0.02) and values.mean() == pytest.approx(128 / 255, abs=0.003)
    np.testing.assert_array_equal(noisy(grey, 0.1, 3), noisy(grey, 0.1, 3))
    assert not np.array_equal(noisy(grey, 0.1, 3), noisy(grey, 0.1, 4))
    strong = noisy(grey, 2.0, 3).numpy()
    assert strong.min() == -1 and strong.max() == 1
    np.testing.assert_array_equal(to_uint8(noisy(grey, 0.0, 3)), grey)


def test_what_is_drawn_is_compared_with_pictures_without_noise():
    """Where all weights are 0 everything drawn is mid-grey, whatever noise was seen."""
    images = pictures(4)
    config = Config(size=8, units=4, noise=0.5, learning_rate=0.0, weight_decay=0.0, batch_size=4, epochs=1)
    networks = build(config)
    for network in networks:
        network.set_weights([np.zeros_like(weight) for weight in network.get_weights()])
    history = train(networks, batches(images, 4, 0, held_out=(images,)), config)
    expected = np.mean((images / 255 - 0.5) ** 2)
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert history[0]["validation_loss"] == pytest.approx(expected, rel=0.02)  # drawn as uint8: 128, not 127.5


def test_a_step_sees_other_noise_each_time():
    images = pictures(4)
    config = Config(size=8, units=16, noise=0.5, learning_rate=0.0, weight_decay=0.0, batch_size=4, epochs=2)
    history = train(build(config), batches(images, 4, 0), config)
    assert history[0]["loss"] != history[1]["loss"]


@pytest.mark.parametrize("count", [200, 40])
def test_components_draw_what_those_of_scikit_learn_draw(count):
    """More images than pixels, and fewer; `project` also rounds and clips."""
    digits = digits_or_others("sample", 8, 1)
    train_images, test_images = digits.train.loaded(count)[0], digits.test.loaded(50)[0]
    mean, axes = principal_components(Split(train_images, np.zeros(count, np.int32)), 7)
    fitted = PCA(7).fit(train_images.reshape(count, -1) / 255)
    np.testing.assert_allclose(axes @ axes.T, np.eye(7), atol=1e-4)
    for kept in (1, 7):
        scores = fitted.transform(test_images.reshape(50, -1) / 255)
        scores[:, kept:] = 0
        expected = fitted.inverse_transform(scores).clip(0, 1).reshape(test_images.shape) * 255
        np.testing.assert_allclose(project(mean, axes[:kept], test_images), expected, atol=0.6)


def test_components_of_equal_pictures_draw_that_picture():
    images = np.repeat(pictures(1), 5, axis=0)
    mean, axes = principal_components(Split(images, np.zeros(5, np.int32)), 3)
    np.testing.assert_array_equal(project(mean, axes, images), images)


def test_more_components_than_pictures_leave_no_error_on_these():
    images = pictures(4)
    mean, axes = principal_components(Split(images, np.zeros(4, np.int32)), 50)
    assert len(axes) == 3
    np.testing.assert_array_equal(project(mean, axes, images), images)


def test_the_sweep_has_the_axes_of_the_scatter(tmp_path):
    """A decoder that draws the first latent as red and the second as green: red grows to the right, green upwards."""
    latents = keras.Input((2,))
    values = keras.ops.tanh(keras.ops.stack([latents[:, 0], latents[:, 1], 0 * latents[:, 0] - 9], axis=-1))
    decoder = keras.Model(latents, keras.layers.UpSampling2D(4)(values[:, None, None, :]))
    images = keras.Input((4, 4, 3))
    encoder = keras.Model(images, images[:, 0, 0, :2])
    part = Split(pictures(50, 4, 3), np.arange(50, dtype=np.int32) % 2)
    save_plane(Networks(encoder, decoder), Labelled(part, part, part, ("one", "other")), tmp_path)
    sweep = np.asarray(Image.open(tmp_path / "sweep.png")).astype(int)
    tiles = sweep[2 + 4 :: 2 + 4 * 2, 2 + 4 :: 2 + 4 * 2]
    assert tiles.shape == (16, 16, 3)
    assert (np.diff(tiles[..., 0], axis=1) > 0).all() and (np.diff(tiles[..., 1], axis=0) < 0).all()
    assert (np.ptp(tiles[..., 0], axis=0) == 0).all()
    with Image.open(tmp_path / "latents.png") as scatter:
        assert scatter.width > 300


@pytest.fixture
def copying_run(tmp_path, monkeypatch):
    """A run whose networks draw just what they are given, as grey of 8 px."""
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Identity()])
    monkeypatch.setattr(autoencoder, "load_network", lambda *_: network)
    start_run(tmp_path / "run", "autoencoder", Config(size=8), "sample")
    return tmp_path / "run"


def test_a_file_and_a_folder_are_drawn_again_and_their_errors_printed(copying_run, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, image in zip(("a.png", "b.png"), pictures(2, channels=3), strict=True):
        Image.fromarray(image).save(folder / name)
    Image.fromarray(pictures(1, 20, 3)[0, :16]).save(folder / "wide.png")
    assert reconstruct_file(folder / "a.png", tmp_path / "out.png", run=copying_run) == tmp_path / "out.png"
    assert capsys.readouterr().out == f"{folder / 'a.png'}  error 0.0000\n"
    expected = np.asarray(Image.open(folder / "a.png").convert("L"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)
    reconstruct_file(folder / "a.png", tmp_path / "out.png", invert=True, run=copying_run)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), 255 - expected)
    reconstruct_file(folder, tmp_path / "drawn", run=copying_run)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.png", "b.png", "wide.png"]
    assert np.asarray(Image.open(tmp_path / "drawn" / "wide.png")).shape == (8, 8)


def test_a_folder_is_not_written_over_and_bad_files_are_named(copying_run, tmp_path, capsys):
    Image.fromarray(pictures(1)[0, ..., 0]).save(tmp_path / "good.png")
    with pytest.raises(ValueError, match="the folder that is read"):
        reconstruct_file(tmp_path, tmp_path, run=copying_run)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.png"):
        reconstruct_file(tmp_path, tmp_path / "out", run=copying_run)
    reconstruct_file(tmp_path, tmp_path / "out", skip_bad=True, run=copying_run)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_runs_compared_are_whole_runs_with_the_errors_that_the_table_names(tmp_path):
    config = Config(size=8, units=64, latent_dim=8, noise=0.3, batch_size=64, epochs=15)
    experiment("sample", config, tmp_path / "run", compare=(2, 8))
    main = tmp_path / "run"
    inner = {"latents-2": 2, "without-noise": 8}
    for folder, latents in {"": 8, **inner}.items():
        names = {path.name for path in (main / folder).iterdir()}
        assert {"config.json", "history.csv", "results.json", "report.html", "checkpoints"} <= names
        encoder = keras.models.load_model(main / folder / "encoder.keras")
        assert encoder.output_shape == (None, latents)
    found = results(main)
    assert found["test_error"] == found["test_error z = 8"] < found["test_error z = 8, never saw noise"]
    assert found["test_error"] < found["test_error z = 2"] == results(main / "latents-2")["test_error"]
    assert found["test_error"] < found["test_error noisy"]

    images = digits_or_others("sample", 8, 1).test.loaded(10_000)[0]
    seen = to_uint8(noisy(images, 0.3, 0))
    networks = Networks(*(keras.models.load_model(main / f"{name}.keras") for name in Networks._fields))
    for name, drawn in (("z = 8", reconstruct(networks, seen)), ("noisy", seen)):
        expected = np.mean((images / 255.0 - drawn / 255.0) ** 2)
        assert found[f"test_error {name}"] == pytest.approx(expected, rel=1e-4)
    again = experiment("sample", config, main, compare=(2, 8))
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
    experiment(str(tmp_path / "discs.npz"), config, tmp_path / "run")
    found = results(tmp_path / "run")
    assert found["test_error"] < 0.5 * found["pca_error"] < 0.5 * images.astype(float).var() / 255**2


@pytest.mark.slow
def test_a_folder_of_colour_pictures_without_classes(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(pictures(20, 12, 3)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    config = Config(size=8, channels=3, units=8, latent_dim=2, batch_size=4, epochs=2)
    picture = experiment(str(tmp_path / "photos"), config, tmp_path / "run")
    assert picture.is_file() and (tmp_path / "run" / "sweep.png").is_file()
    write = functools.partial(reconstruct_file, run=tmp_path / "run")
    write(tmp_path / "photos" / "3.png", tmp_path / "out.png")
    assert np.asarray(Image.open(tmp_path / "out.png")).shape == (8, 8, 3)
