from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import stats

from common.images.pixels import from_uint8, to_uint8
from common.images.reading import read_image
from common.images.writing import write_image
from common.runs import InputError, Run
from recipes import vae_faces

TINY = vae_faces.Config(size=16, latent_dim=3, base_filters=2)


def test_the_likelihood_is_gaussian_with_the_deviation_that_fits_best():
    generator = np.random.default_rng(0)
    images, means = generator.normal(size=(2, 3, 4, 4, 3)).astype(np.float32)
    found = float(vae_faces.negative_log_likelihood(tf.constant(images), tf.constant(means)))

    def with_deviation(deviation: float) -> float:
        return -stats.norm(means, deviation).logpdf(images).sum() / len(images)

    best = math.sqrt(np.mean((images - means) ** 2))
    assert found == pytest.approx(with_deviation(best), rel=1e-5)
    assert found < with_deviation(best * 1.05) and found < with_deviation(best * 0.95)


def test_divergence_of_known_normals():
    assert vae_faces.kl_divergence(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32))[0] == 0
    found = vae_faces.kl_divergence(np.float32([[1.0, 0.0]]), np.float32([[0.0, math.log(4.0)]]))
    assert float(found[0]) == pytest.approx(0.5 * 1 + 0.5 * (4 - 1 - math.log(4.0)))


def means_encoder() -> keras.Model:
    """An encoder whose two latents are the means of the left and of the right half of a 16 px image."""
    images = keras.Input((16, 16, 3))
    means = keras.ops.mean(keras.ops.reshape(images, (-1, 16, 2, 24)), axis=(1, 3))
    return keras.Model(images, [means, keras.ops.zeros_like(means)])


def halves_decoder() -> keras.Model:
    latents = keras.Input((2,))
    halves = keras.layers.UpSampling2D((16, 8))(keras.layers.Reshape((1, 2, 1))(latents))
    return keras.Model(latents, keras.ops.repeat(halves, 3, axis=-1))


def test_the_vector_of_one_attribute_is_the_difference_of_means():
    latents = np.random.default_rng(1).normal(size=(8, 5))
    labels = np.array([1, 0, 1, 0, 255, 0, 1, 0], np.uint8)
    expected = latents[labels == 1].mean(0) - latents[labels == 0].mean(0)
    found = vae_faces.attribute_vectors(latents[labels < 255], labels[labels < 255, None])
    np.testing.assert_allclose(found, [expected], atol=1e-6)


def test_vectors_of_attributes_that_occur_together_are_separated():
    generator = np.random.default_rng(1)
    old = generator.random(400) < 0.5
    grey = np.where(generator.random(400) < 0.9, old, ~old)  # most old faces have grey hair
    effects = generator.normal(size=(2, 5))
    latents = 3 + np.stack([old, grey], 1) @ effects
    labels = np.stack([old, grey, generator.random(400) < 0.5], 1).astype(np.uint8)
    found = vae_faces.attribute_vectors(latents, labels)
    np.testing.assert_allclose(found, [*effects, np.zeros(5)], atol=1e-5)
    labels[::7, 2] = 255  # unknown labels of another attribute change nothing
    np.testing.assert_allclose(vae_faces.attribute_vectors(latents, labels)[:2], effects, atol=1e-5)
    assert vae_faces.attribute_vectors(latents, labels[:, :0]).shape == (0, 5)
    assert vae_faces.covariance_maps(latents, labels[:, :0]).shape == (0, 5, 5)


def test_an_edit_gives_faces_the_mean_and_the_covariance_of_those_with_the_attribute():
    generator = np.random.default_rng(1)
    hat = np.arange(4000) % 2 == 1
    latents = generator.normal(size=(4000, 2))
    latents[hat] = latents[hat] * (1, 4) + (3, 1)  # the colours of hats vary more than those of hair
    labels = np.stack([hat, generator.random(4000) < 0.5], 1).astype(np.uint8)
    vectors, maps = vae_faces.attribute_vectors(latents, labels), vae_faces.covariance_maps(latents, labels)
    without = latents.mean(axis=0) - labels.mean(axis=0)[:, None] * vectors
    space = vae_faces.LatentSpace(np.array(["hat", "smile"]), vectors, maps, without, np.zeros(2), np.eye(2))
    np.testing.assert_allclose(maps[0], np.diag([1, 4]), atol=0.15)
    np.testing.assert_allclose(maps[1], np.eye(2), atol=0.15)
    for here, there, strength in ((~hat, hat, 1), (hat, ~hat, -1)):
        changed = vae_faces.edited(latents[here], space, np.array([strength, 0]))
        np.testing.assert_allclose(changed.mean(axis=0), latents[there].mean(axis=0), atol=0.15)
        np.testing.assert_allclose(changed.std(axis=0), latents[there].std(axis=0), rtol=0.05)
    added = vae_faces.edited(latents, space, np.array([1, 0]))
    np.testing.assert_allclose(vae_faces.edited(added, space, np.array([-1, 0])), latents, atol=1e-4)
    np.testing.assert_allclose(vae_faces.edited(latents, space, np.array([3, 0])), added + 2 * vectors[0], atol=1e-4)
    signs = np.where(hat, -1, 1)[:, None] * np.array([1, 0])  # one row of strengths per face
    each = vae_faces.edited(latents, space, signs)
    np.testing.assert_allclose(each[~hat], added[~hat], atol=1e-5)
    np.testing.assert_array_equal(vae_faces.edited(latents, space, np.zeros(2)), latents)


def test_a_map_needs_two_faces_of_each_kind():
    latents = np.random.default_rng(1).normal(size=(8, 3))
    labels = np.array([[1, 255, 0, 0, 0, 0, 0, 0], [255, 255, 255, 255, 0, 0, 1, 1]], np.uint8).T
    maps = vae_faces.covariance_maps(latents, labels)
    np.testing.assert_array_equal(maps[0], np.eye(3))
    assert np.isfinite(maps[1]).all() and not np.array_equal(maps[1], np.eye(3))


def test_the_latent_space_has_the_mean_and_the_covariance_of_the_latents():
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    labels = np.array([[1, 0, 1, 0, 1, 0, 1, 0]], np.uint8).T
    space = vae_faces.latent_space(means_encoder(), images, labels, ("smile",))
    latents = from_uint8(images).numpy().reshape(8, 16, 2, 24).mean(axis=(1, 3))
    np.testing.assert_allclose(space.vectors, [latents[::2].mean(0) - latents[1::2].mean(0)], atol=1e-6)
    np.testing.assert_allclose(space.mean, latents.mean(0), atol=1e-6)
    np.testing.assert_allclose(space.without, [latents[1::2].mean(0)], atol=1e-6)
    np.testing.assert_allclose(space.factor @ space.factor.T, np.cov(latents.T), atol=1e-5)
    assert list(space.names) == ["smile"]


def test_the_linear_layers_start_as_probabilistic_pca():
    config = vae_faces.Config(size=16, channels=1, latent_dim=4, base_filters=2, light=True, linear=True)
    networks, generator = vae_faces.build(config), np.random.default_rng(0)
    images = 128 + 15 * generator.normal(size=(60, 4)) @ generator.normal(size=(4, 256))
    images += generator.normal(size=(60, 256))
    images = np.clip(images, 0, 255).astype(np.uint8).reshape(60, 16, 16, 1)
    vae_faces.start_as_pca(networks, images)
    pixels = from_uint8(images).numpy().reshape(60, 256).astype(np.float64)
    u, s, vt = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    variances = s**2 / 60
    rest = variances[4:].sum() / 252
    kept = (variances[:4] - rest) / variances[:4]  # the posterior mean is shrunk
    expected = pixels.mean(0) + (u[:, :4] * s[:4] * kept) @ vt[:4]
    mean, log_variance = networks.encoder(from_uint8(images))
    np.testing.assert_allclose(networks.decoder(mean).numpy().reshape(60, 256), expected, atol=0.01)
    np.testing.assert_allclose(np.sort(np.exp(log_variance[0])), np.sort(rest / variances[:4]), rtol=0.02)
    assert not networks.encoder.trainable_variables and networks.decoder.trainable_variables


def two_attributes(*names: str) -> vae_faces.LatentSpace:
    """A latent space whose two attributes are the two halves of an image."""
    return vae_faces.LatentSpace(
        names=np.array(names),
        vectors=np.float32([[0.1, 0.0], [0.0, 0.2]]),
        maps=np.stack([np.eye(2, dtype="f")] * 2),
        without=np.zeros((2, 2), "f"),
        mean=np.zeros(2, "f"),
        factor=np.eye(2, dtype="f"),
    )


def test_traversals_go_from_minus_to_plus_three_with_the_reconstruction_in_the_middle():
    networks = vae_faces.Networks(means_encoder(), halves_decoder())
    image = np.full((16, 16, 3), 128, np.uint8)
    space = two_attributes("left", "right")
    rows = vae_faces.latent_traversals(networks, space, image)
    assert list(rows) == ["left", "right"] and rows["left"].shape == (7, 16, 16, 3)
    copy = from_uint8(image).numpy().mean()
    np.testing.assert_array_equal(rows["left"][:, 0, 0, 0], to_uint8(copy + 0.1 * np.arange(-3, 4)))
    np.testing.assert_array_equal(rows["left"][:, 0, 15, 0], to_uint8(np.full(7, copy)))
    np.testing.assert_array_equal(rows["right"][:, 0, 15, 0], to_uint8(copy + 0.2 * np.arange(-3, 4)))


def test_a_traversal_stays_within_2_standard_deviations_of_the_mean_face():
    networks = vae_faces.Networks(means_encoder(), halves_decoder())
    image = np.full((16, 16, 3), 155, np.uint8)  # latents of 0.2157
    space = vae_faces.LatentSpace(
        names=np.array(["left"]),
        vectors=np.float32([[0.1, 0.0]]),
        maps=np.eye(2, dtype="f")[None],
        without=np.zeros((1, 2), "f"),
        mean=np.float32([0.1, 0.0]),
        factor=np.diag(np.float32([0.1, 1.0])),
    )
    row = from_uint8(vae_faces.latent_traversals(networks, space, image)["left"]).numpy()[:, 0, 0, 0]
    copy = from_uint8(image).numpy().mean()
    assert row[3] == pytest.approx(copy, abs=0.005)
    assert row[0] == pytest.approx(-0.0843, abs=0.005)  # 3 times the vector
    assert row[6] == pytest.approx(0.3, abs=0.005)  # the mean plus 2 standard deviations
    np.testing.assert_allclose(np.diff(row[3:]), (0.3 - copy) / 3, atol=0.009)


def test_each_row_adds_an_attribute_to_the_faces_without_it_and_removes_it_from_the_others():
    networks = vae_faces.Networks(means_encoder(), halves_decoder())
    images = np.stack([np.full((16, 16, 3), level, np.uint8) for level in (120, 128)])
    space = two_attributes("left", "the_right")
    rows = vae_faces.changed_attributes(networks, space, images, np.array([[1, 0], [0, 255]], np.uint8))
    assert list(rows) == ["original", "reconstruction", "± left", "± the right"]
    np.testing.assert_array_equal(rows["original"], images)
    np.testing.assert_array_equal(rows["reconstruction"], images)
    copies = from_uint8(images).numpy()[:, 0, 0, 0]
    np.testing.assert_array_equal(rows["± left"][:, 0, 0, 0], to_uint8(copies + [-0.3, 0.3]))
    np.testing.assert_array_equal(rows["± left"][:, 0, 15, 0], [120, 128])
    np.testing.assert_array_equal(rows["± the right"][:, 0, 15, 0], to_uint8(copies + [0.6, 0.6]))


def test_faces_sampled_from_the_fitted_normal_have_their_mean_and_covariance():
    covariance = np.array([[0.01, -0.008], [-0.008, 0.02]])
    factor = np.linalg.cholesky(covariance).astype(np.float32)
    edits = np.zeros((0, 2), "f"), np.zeros((0, 2, 2), "f"), np.zeros((0, 2), "f")
    space = vae_faces.LatentSpace(np.array([], str), *edits, np.float32([0.2, -0.3]), factor)
    faces = from_uint8(vae_faces.generate(halves_decoder(), 4000, 1, space)).numpy()[:, 0, [0, 15], 0]
    np.testing.assert_allclose(faces.mean(0), [0.2, -0.3], atol=0.01)
    np.testing.assert_allclose(np.cov(faces.T), covariance, atol=0.001)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    started = Run(folder, "vae_faces", TINY, "sample")
    started.start()
    started.finish(vae_faces.build(TINY), dict)
    vectors = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    edits = {"names": np.array(["Smiling", "Wearing_Hat"]), "vectors": vectors, "without": -vectors / 2}
    edits["maps"] = np.stack([np.diag(np.float32([1, 2, 1])), np.eye(3, dtype="f")])
    np.savez(folder / "space.npz", **edits, mean=np.zeros(3, "f"), factor=np.eye(3, dtype="f"))
    return folder


def face(path, height=40, width=30):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return write_image(pixels, path)


def test_edits_of_a_file_add_up(run, tmp_path):
    photo = face(tmp_path / "a.jpg")
    out = tmp_path / "out.png"
    vae_faces.edit_file(photo, out, run, smiling=2.0, **{"wearing-hat": -1.0})
    networks, space, read = vae_faces.open_run(run)
    latents = vae_faces.encode(networks.encoder, read(photo)[None])
    latents = latents + 2 * space.vectors[0] - space.vectors[1] + (latents - space.without[0]) * (0, 1, 0)
    np.testing.assert_array_equal(read_image(out), vae_faces.decode(networks.decoder, latents)[0])
    assert read_image(vae_faces.edit_file(photo, tmp_path / "all.png", run)).shape[1] > 7 * 16
    with pytest.raises(InputError, match="Smiling, Wearing_Hat"):
        vae_faces.edit_file(photo, out, run, beard=1.0)


def test_a_morph_begins_and_ends_with_the_copies_of_the_two(run, tmp_path):
    photos = face(tmp_path / "a.jpg"), face(tmp_path / "b.png", 17, 90)
    strip = read_image(vae_faces.morph_file(*photos, tmp_path / "strip.png", 4, run))
    networks, _, read = vae_faces.open_run(run)
    copies = vae_faces.decode(networks.decoder, vae_faces.encode(networks.encoder, np.stack([read(p) for p in photos])))
    assert strip.shape == (20, 4 * 18 + 2, 3)
    np.testing.assert_array_equal(strip[2:18, 2:18], copies[0])
    np.testing.assert_array_equal(strip[2:18, 3 * 18 + 2 : 3 * 18 + 18], copies[1])
    with Image.open(vae_faces.morph_file(*photos, tmp_path / "way.gif", 5, run)) as gif:
        assert gif.n_frames == 5
    grid = read_image(vae_faces.generate_file(tmp_path / "grid.png", 10, run=run))
    assert grid.shape == (2 * 18 + 2, 8 * 18 + 2, 3)
    singles = sorted(vae_faces.generate_file(tmp_path / "singles", 10, singles=True, run=run).iterdir())
    assert len(singles) == 10
    np.testing.assert_array_equal(read_image(singles[1]), grid[2:18, 20:36])


def test_a_run_without_its_space_is_named(run, tmp_path):
    other = tmp_path / "run"
    started = Run(other, "vae_faces", TINY, "sample")
    started.start()
    started.finish(vae_faces.build(TINY), dict)
    with pytest.raises(InputError, match="space.npz"):
        vae_faces.edit_file(face(tmp_path / "a.jpg"), tmp_path / "out.png", other)


NAMES = ("5_o_Clock_Shadow", "Mouth Open", "Smiling", "No_Beard")


@pytest.mark.parametrize(
    ("name", "place"),
    [("Smiling", 2), ("smiling", 2), ("no-beard", 3), ("NO_BEARD", 3), ("mouth-open", 1), ("5-o-clock-shadow", 0)],
)
def test_an_attribute_by_its_name(name, place):
    assert vae_faces.attribute_index(NAMES, name) == place


def test_an_attribute_that_does_not_exist():
    message = r"^no attribute 'smile' \(did you mean Smiling\?\); choose from 5_o_.*No_Beard$"
    with pytest.raises(InputError, match=message):
        vae_faces.attribute_index(NAMES, "smile")
    with pytest.raises(InputError, match="^no attribute 'hat'; choose from"):
        vae_faces.attribute_index(NAMES, "hat")
    with pytest.raises(InputError, match="these images have no attributes"):
        vae_faces.attribute_index((), "hat")


def test_an_array_and_a_dataset_train_without_examples(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    config = dataclasses.replace(TINY, batch_size=2, epochs=1)
    history = vae_faces.train(vae_faces.build(config), images, config, tmp_path, steps_per_epoch=2)
    assert np.isfinite(history[0]["loss"]) and not (tmp_path / "samples").exists()
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(3)
    assert np.isfinite(vae_faces.train(vae_faces.build(config), dataset, config)[0]["kl"])


def test_sizes_that_cannot_be_halved_four_times():
    with pytest.raises(InputError, match="size must be a multiple of 16 from 16 to 512, got 24"):
        vae_faces.Config(size=24)
