from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import stats

from common.errors import InputError
from common.images import from_uint8, read_image, to_uint8, write_image
from common.runs import finish_run, start_run
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
    """An encoder whose two latents are the means of the left and of the right half of a 16 px picture."""
    images = keras.Input((16, 16, 3))
    means = keras.ops.mean(keras.ops.reshape(images, (-1, 16, 2, 24)), axis=(1, 3))
    return keras.Model(images, [means, keras.ops.zeros_like(means)])


def halves_decoder() -> keras.Model:
    latents = keras.Input((2,))
    halves = keras.layers.UpSampling2D((16, 8))(keras.layers.Reshape((1, 2, 1))(latents))
    return keras.Model(latents, keras.ops.repeat(halves, 3, axis=-1))


def test_the_vector_of_an_attribute_is_a_difference_of_means_and_unknown_is_left_out():
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    labels = np.array([[1, 0, 1, 0, 255, 0, 1, 0], [0, 0, 0, 1, 1, 255, 1, 1]], np.uint8).T
    space = vae_faces.survey(means_encoder(), images, labels, ("smile", "hat"))
    latents = from_uint8(images).numpy().reshape(8, 16, 2, 24).mean(axis=(1, 3))
    smile = latents[[0, 2, 6]].mean(0) - latents[[1, 3, 5, 7]].mean(0)
    hat = latents[[3, 4, 6, 7]].mean(0) - latents[[0, 1, 2]].mean(0)
    np.testing.assert_allclose(space["vectors"], [smile, hat], atol=1e-6)
    np.testing.assert_allclose(space["mean"], latents.mean(0), atol=1e-6)
    np.testing.assert_allclose(space["factor"] @ space["factor"].T, np.cov(latents.T), atol=1e-5)
    assert list(space["names"]) == ["smile", "hat"]


def test_strips_go_from_minus_to_plus_three_with_the_copy_in_the_middle():
    networks = vae_faces.Networks(means_encoder(), halves_decoder())
    image = np.full((16, 16, 3), 128, np.uint8)
    space = {"names": np.array(["left", "right"]), "vectors": np.float32([[0.1, 0.0], [0.0, 0.2]])}
    rows = vae_faces.strips(networks, space, image)
    assert list(rows) == ["left", "right"] and rows["left"].shape == (7, 16, 16, 3)
    copy = from_uint8(image).numpy().mean()
    np.testing.assert_array_equal(rows["left"][:, 0, 0, 0], to_uint8(copy + 0.1 * np.arange(-3, 4)))
    np.testing.assert_array_equal(rows["left"][:, 0, 15, 0], to_uint8(np.full(7, copy)))
    np.testing.assert_array_equal(rows["right"][:, 0, 15, 0], to_uint8(copy + 0.2 * np.arange(-3, 4)))


def test_faces_drawn_as_encoded_faces_lie_have_their_mean_and_covariance():
    covariance = np.array([[0.01, -0.008], [-0.008, 0.02]])
    space = {"mean": np.float32([0.2, -0.3]), "factor": np.linalg.cholesky(covariance).astype(np.float32)}
    faces = from_uint8(vae_faces.generate(halves_decoder(), 4000, 1, space)).numpy()[:, 0, [0, 15], 0]
    np.testing.assert_allclose(faces.mean(0), [0.2, -0.3], atol=0.01)
    np.testing.assert_allclose(np.cov(faces.T), covariance, atol=0.001)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    start_run(folder, "vae_faces", TINY, "sample")
    networks = vae_faces.build(TINY)
    finish_run(folder, networks, dict)
    vectors = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    names = np.array(["Smiling", "Wearing_Hat"])
    np.savez(folder / "space.npz", names=names, vectors=vectors, mean=np.zeros(3, "f"), factor=np.eye(3, dtype="f"))
    return folder


def face(path, height=40, width=30):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return write_image(pixels, path)


def test_edits_of_a_file_add_up(run, tmp_path):
    photo = face(tmp_path / "a.jpg")
    out = tmp_path / "out.png"
    vae_faces.edit_file(photo, out, run, smiling=2.0, **{"wearing-hat": -1.0})
    networks, space, read = vae_faces.open_run(run)
    latents = vae_faces.encode(networks.encoder, read(photo)[None]) + 2 * space["vectors"][0] - space["vectors"][1]
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
    assert read_image(vae_faces.generate_file(tmp_path / "grid.png", 10, run=run)).shape == (2 * 18 + 2, 8 * 18 + 2, 3)


def test_a_run_without_its_space_is_named(run, tmp_path):
    other = tmp_path / "run"
    start_run(other, "vae_faces", TINY, "sample")
    finish_run(other, vae_faces.build(TINY), dict)
    with pytest.raises(InputError, match="space.npz"):
        vae_faces.edit_file(face(tmp_path / "a.jpg"), tmp_path / "out.png", other)
