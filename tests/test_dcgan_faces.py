from __future__ import annotations

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.data import attributed_images
from common.data.batches import batches
from common.runs import Run
from common.samples import FACE_ATTRIBUTES, synthetic_faces
from common.system.files import data_file
from common.training import Noise
from recipes import dcgan_faces
from recipes.dcgan_faces import (
    Config,
    arithmetic,
    arithmetic_file,
    augment,
    build,
    discriminator_loss,
    encode,
    evaluate,
    fit_eigenfaces,
    generate,
    generate_file,
    generator_loss,
    load_generator,
    pairing_loss,
    sample_latents,
    squared_gradient,
    train,
    walk_file,
)

SMALL = Config(size=16, base_filters=2, latent_dim=7, batch_size=4)
PLAIN = {"colour": 0.0, "translation": 0.0, "cutout": 0.0}


@pytest.fixture(scope="module")
def networks():
    return build(SMALL)


@pytest.fixture
def run(networks, tmp_path):
    Run(tmp_path / "run", "dcgan_faces", SMALL, "sample").start()
    networks.ema.save(tmp_path / "run" / "ema.keras")
    return tmp_path / "run"


def random_images(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def test_parameters_at_the_paper_s_size_counted_by_hand():
    """Figure 1: 100 latents to 4 x 4 x 1024, then 512, 256, 128 and 3 channels; kernels of 4, the last one of 5."""
    networks = build()
    widths = [1024, 512, 256, 128]
    kernels = 100 * 16 * 1024 + sum(16 * a * b for a, b in zip(widths[:3], widths[1:], strict=True)) + 25 * 128 * 3
    assert networks.generator.count_params() == networks.ema.count_params() == kernels + 4 * sum(widths) + 3
    kernels = sum(16 * a * b for a, b in zip([3, 128, 256, 512], [128, 256, 512, 1024], strict=True))
    assert networks.discriminator.count_params() == kernels + 128 + 4 * (256 + 512 + 1024) + 16 * 1024 + 1


def test_losses_against_their_formulas():
    real, fake = np.array([2.0, -1.0]), np.array([-0.3, 1.2])
    tensors = [tf.constant(values[:, None], tf.float32) for values in (real, fake)]
    expected = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()
    assert float(discriminator_loss(*tensors)) == pytest.approx(expected, rel=1e-6)
    assert float(generator_loss(tensors[1])) == pytest.approx(np.log1p(np.exp(-fake)).mean(), rel=1e-6)


def test_the_relativistic_loss_and_the_penalty_against_their_formulas():
    """For a linear discriminator, the gradient of every logit is the vector of its weights."""
    lower, higher = np.array([2.0, -1.0, 0.5]), np.array([-0.3, 1.2, 0.5])
    found = pairing_loss(*(tf.constant(values[:, None], tf.float32) for values in (lower, higher)))
    assert float(found) == pytest.approx(np.log1p(np.exp(lower - higher)).mean(), rel=1e-6)
    images = random_images(5, 4)
    linear = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    expected = (linear.layers[-1].get_weights()[0] ** 2).sum()
    assert float(squared_gradient(linear, tf.constant(images))) == pytest.approx(expected, rel=1e-5)


def test_a_penalty_replaces_the_normalisation_of_the_discriminator():
    kinds = [
        {type(layer) for layer in build(replace(SMALL, gradient_penalty=gamma)).discriminator.layers}
        for gamma in (0.0, 1.0)
    ]
    assert [keras.layers.BatchNormalization in kind for kind in kinds] == [True, False]


@pytest.fixture(scope="module")
def eigenfaces():
    networks = build(replace(SMALL, reconstruction=1.0))
    images = np.random.default_rng(1).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    fit_eigenfaces(networks, images)
    return networks, images


def test_eigenfaces_are_principal_components_and_latents_are_their_weights(eigenfaces):
    networks, images = eigenfaces
    faces = np.concatenate([images, images[:, :, ::-1]]).reshape(40, -1) / 127.5 - 1
    _, scales, components = np.linalg.svd(faces - faces.mean(axis=0), full_matrices=False)
    for network in (networks.generator, networks.ema):
        kernel, mean = network.get_layer("eigenfaces").get_weights()
        np.testing.assert_allclose(mean, faces.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=1), scales[:7] / np.sqrt(40), rtol=1e-3)
        cosines = (kernel * components[:7]).sum(axis=1) / np.linalg.norm(kernel, axis=1)
        np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-3)
    latents = encode(networks.generator, tf.constant(faces.reshape(40, 16, 16, 3), tf.float32)).numpy()
    np.testing.assert_allclose(latents.std(axis=0), 1, rtol=1e-3)


def test_encoding_inverts_the_weighted_sum_of_eigenfaces(eigenfaces):
    networks, _ = eigenfaces
    kernel, mean = networks.generator.get_layer("eigenfaces").get_weights()
    latents = sample_latents(networks.generator, range(6))
    images = (latents @ kernel + mean).reshape(6, 16, 16, 3)
    np.testing.assert_allclose(encode(networks.generator, tf.constant(images)), latents, atol=1e-3)


@pytest.mark.usefixtures("untraced")
def test_eigenfaces_are_fixed_and_losses_are_logged_apart(eigenfaces, monkeypatch):
    given = []
    monkeypatch.setattr(dcgan_faces, "fit", lambda step, *_, **__: given.append(step) or [])
    networks, images = eigenfaces
    before = networks.generator.get_layer("eigenfaces").get_weights()
    config = replace(SMALL, reconstruction=1e3, loss="relativistic", gradient_penalty=1.0)
    train(networks, images, config)
    losses = given[0](tf.constant(images[:4]))
    assert losses.keys() == {"generator", "discriminator", "reconstruction"}
    assert 0 < float(losses["reconstruction"]) < 2 and float(losses["generator"]) < 10
    for old, new in zip(before, networks.generator.get_layer("eigenfaces").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_nothing_is_changed_where_every_strength_is_zero():
    images = random_images(3)
    config = Config(size=16, **PLAIN)
    np.testing.assert_array_equal(augment(tf.constant(images), config, Noise(0)), images)


def test_each_image_is_moved_by_whole_pixels_of_its_own_and_zeros_come_in():
    images, margin = random_images(40), 2
    config = Config(size=16, **PLAIN | {"translation": margin / 16})
    moved = augment(tf.constant(images), config, Noise(0)).numpy()
    padded = np.pad(images, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    found = set()
    for number in range(len(images)):
        for y in range(2 * margin + 1):
            for x in range(2 * margin + 1):
                if np.array_equal(moved[number], padded[number, y : y + 16, x : x + 16]):
                    found.add((number, y, x))
    assert sorted(number for number, _, _ in found) == list(range(40))
    assert {y for _, y, _ in found} == {x for _, _, x in found} == set(range(5))


def test_a_square_is_cut_out_of_each_image_and_nothing_else_is_changed():
    images = random_images(60)
    config = Config(size=16, **PLAIN | {"cutout": 0.5})
    cut = augment(tf.constant(images), config, Noise(0)).numpy()
    holes = (cut == 0).all(axis=3)
    np.testing.assert_array_equal(np.where(holes[..., None], 0, images), cut)
    areas = set()
    for hole in holes:
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        assert hole.sum() == len(rows) * len(columns) and max(len(rows), len(columns)) <= 8
        areas.add(int(hole.sum()))
    assert max(areas) == 64 and len(areas) > 3, "whole within, and smaller where it reaches over the edge"


def test_colours_are_changed_as_the_formulas_say():
    """In the colours' mean brightness only the first two draws show; greys have no saturation to change."""
    images = np.repeat(random_images(50)[..., :1], 3, axis=3)
    config = Config(size=16, **PLAIN | {"colour": 1.0})
    changed = augment(tf.constant(images), config, Noise(0)).numpy()
    np.testing.assert_allclose(changed[..., 0], changed[..., 2], atol=1e-5)
    brighter = changed.mean(axis=(1, 2, 3)) - images.mean(axis=(1, 2, 3))
    assert -0.5 <= brighter.min() < -0.3 and 0.3 < brighter.max() <= 0.5
    contrasts = changed.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))
    assert 0.5 <= contrasts.min() < 0.7 and 1.3 < contrasts.max() <= 1.5
    expected = images.mean(axis=(1, 2, 3)) + brighter
    centred = (images - images.mean(axis=(1, 2, 3), keepdims=True)) * contrasts[:, None, None, None]
    np.testing.assert_allclose(changed, centred + expected[:, None, None, None], atol=1e-5)


def test_gradients_pass_through_the_augmentation_to_every_pixel_that_is_left():
    images = tf.constant(random_images(4))
    with tf.GradientTape() as tape:
        tape.watch(images)
        changed = augment(images, Config(size=16, cutout=0.0, translation=0.0), Noise(0))
        total = tf.reduce_sum(changed**2)
    assert (tape.gradient(total, images).numpy() != 0).mean() > 0.999


@pytest.mark.usefixtures("untraced")
@pytest.mark.slow
def test_the_average_is_the_mean_at_first_and_then_moves_as_its_formula_says(monkeypatch):
    given = []
    monkeypatch.setattr(dcgan_faces, "fit", lambda step, *_, **__: given.append(step) or [])
    networks = build(SMALL)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    config = Config(**SMALL.__dict__ | {"ema_decay": 0.6})
    train(networks, batches(images, 4, 0, held_out=(images,)), config)
    expected = None
    for done in range(5):
        given[0](tf.constant(images))
        weights = [np.float64(variable.numpy()) for variable in networks.generator.variables]
        kept = min(0.6, done / (done + 1))  # 0, 1/2, 0.6, 0.6, ...
        expected = weights if done == 0 else [kept * a + (1 - kept) * w for a, w in zip(expected, weights, strict=True)]
        for variable, average in zip(networks.ema.variables, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), average, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("untraced")
def test_both_real_and_generated_images_are_augmented_and_one_held_out_image_will_do(monkeypatch):
    given, seen = {}, []
    monkeypatch.setattr(dcgan_faces, "fit", lambda step, *_, **options: given.update(options, step=step) or [])
    monkeypatch.setattr(dcgan_faces, "augment", lambda images, *_: seen.append(images) or images * 0.0)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    networks = build(SMALL)
    before = networks.discriminator.trainable_variables[0].numpy()
    train(networks, batches(images, 4, 0, held_out=(images[:1],)), SMALL)
    given["step"](tf.constant(images))
    assert len(seen) == 2
    kernel = networks.discriminator.trainable_variables[0].numpy()
    np.testing.assert_array_equal(kernel, before)  # it has seen zeros only
    assert given["on_epoch"][0](1, {}) == {}


def test_a_seed_s_faces_keep_their_numbers(networks):
    many = sample_latents(networks.ema, range(50), seed=5)
    assert many.shape == (50, 7) and many.dtype == np.float32
    np.testing.assert_array_equal(sample_latents(networks.ema, (3, 49, 0), seed=5), many[[3, 49, 0]])
    assert not np.array_equal(sample_latents(networks.ema, range(50), seed=6), many)
    for numbers in ((), (-1,), (1_000_000,)):
        with pytest.raises(ValueError, match="from 0 to 999999"):
            sample_latents(networks.ema, numbers)


def test_arithmetic_by_hand():
    a, b, c = np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 1]]), np.array([[0.0, 5], [2, 5]])
    np.testing.assert_array_equal(arithmetic(a, b, c), [2 - 1 + 1, 3 - 1 + 5])


@pytest.mark.slow
def test_scores_of_a_tiny_run_have_their_names(networks, tmp_path):
    faces = attributed_images("sample", 16, 3, lambda: synthetic_faces(30, 0, 16), names=FACE_ATTRIBUTES)
    scores = evaluate(networks, faces._replace(classifier=data_file("face_classifier.keras")), tmp_path)
    assert {
        "frechet_distance",
        "frechet_distance_without_ema",
        "glasses_frequency",
        "looking_left_frequency",
    } <= scores.keys()
    assert scores["samples"] == scores["real_images"] == 6


def test_files(networks, run, tmp_path):
    with Image.open(generate_file(tmp_path / "grid.png", 10, run=run)) as grid:
        assert grid.width > 8 * 16
    assert len(list(generate_file(tmp_path / "singles", 5, singles=True, run=run).iterdir())) == 5
    with Image.open(walk_file(tmp_path / "walk.gif", 0, 3, run=run)) as gif:
        assert gif.n_frames == 10
    faces = generate(networks.ema, sample_latents(networks.ema, range(4)))
    with Image.open(walk_file(tmp_path / "walk.png", 0, 3, run=run)) as image:
        strip = np.asarray(image)
    assert strip.shape[1] > 10 * 16
    with Image.open(generate_file(tmp_path / "four.png", 4, run=run)) as image:
        grid = np.asarray(image)
    np.testing.assert_array_equal(strip[:, :18], grid[:, :18])  # with their margins: the first is face 0
    assert faces.shape == (4, 16, 16, 3)
    with Image.open(arithmetic_file(tmp_path / "sum.png", (0, 1), (2, 3), (4, 5), run=run)) as table:
        assert table.height >= 4 * 2 * 16


def test_a_walk_that_goes_nowhere_and_sums_of_nothing(run, tmp_path):
    with pytest.raises(ValueError, match="two different faces"):
        walk_file(tmp_path / "walk.gif", 2, 2, run=run)
    with pytest.raises(ValueError, match="same number of positions, 1 or more, got 1, 2 and 1"):
        arithmetic_file(tmp_path / "sum.png", (0,), (2, 3), (4,), run=run)
    with pytest.raises(ValueError, match="got 0, 0 and 0"):
        arithmetic_file(tmp_path / "sum.png", run=run)
    with pytest.raises(ValueError, match="from 0 to 999999"):
        generate_file(tmp_path / "grid.png", 0, run=run)
    assert not list(tmp_path.glob("*.*"))


def test_runs_of_earlier_versions_load(networks, run):
    """They have `averaging` in config.json, and the network `averaged`."""
    settings = json.loads((run / "config.json").read_text())
    settings["config"]["averaging"] = 0.25
    del settings["config"]["ema_decay"]
    (run / "config.json").write_text(json.dumps(settings))
    assert Run.load(run, "dcgan_faces", Config).config.ema_decay == 0.25
    (run / "ema.keras").rename(run / "averaged.keras")
    latents = sample_latents(networks.ema, range(3))
    np.testing.assert_array_equal(generate(load_generator(run), latents), generate(networks.ema, latents))


@pytest.mark.parametrize("size", [24, 8])
def test_sizes_that_cannot_be_halved_four_times(size):
    with pytest.raises(ValueError, match=f"size must be a multiple of 16 from 16 to 512, got {size}"):
        Config(size=size)
