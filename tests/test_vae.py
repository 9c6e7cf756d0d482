from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, special, stats
from scipy.special import logsumexp

from common.images.pixels import from_uint8
from common.images.reading import read_image
from common.images.writing import write_image
from common.runs.run import Run
from common.system.files import InputError
from common.training import Noise
from recipes import vae

TINY = vae.Config(size=4, units=6, latent_dim=1, seed=3)


def binary(count: int, size: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (count, size, size, 1)).astype(np.float32)


def test_the_divergence_equals_an_integral():
    mean, log_variance = np.array([[0.7], [-1.5]], np.float32), np.array([[0.4], [-2.0]], np.float32)
    for m, lv, found in zip(mean[:, 0], log_variance[:, 0], vae.kl_divergence(mean, log_variance), strict=True):
        q, p = stats.norm(m, np.exp(lv / 2)), stats.norm()
        integral, _ = integrate.quad(lambda z, p=p, q=q: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -12, 12)
        assert float(found) == pytest.approx(integral, rel=1e-5)


def test_the_likelihood_is_that_of_independent_coins():
    logits = np.random.default_rng(1).normal(size=(3, 4, 4, 1)).astype(np.float32)
    images = binary(3)
    expected = stats.bernoulli(1 / (1 + np.exp(-logits))).logpmf(images.astype(int)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(vae.log_likelihood(images, logits), expected, rtol=1e-5)
    nothing_known = vae.log_likelihood(np.zeros((1, 28, 28, 1), np.float32), np.zeros((1, 28, 28, 1), np.float32))
    assert float(nothing_known[0]) == pytest.approx(-784 * np.log(2))


@pytest.mark.slow
def test_both_bounds_lie_below_the_likelihood_found_by_quadrature_and_the_second_comes_near():
    networks = vae.build(TINY)
    for variable in networks.decoder.trainable_variables:
        variable.assign(variable * 1.5)  # so that the latent matters
    images = binary(5)
    z = np.linspace(-9, 9, 4001, dtype=np.float32)[:, None]
    log_prior = stats.norm.logpdf(z[:, 0].astype(np.float64))
    logits = networks.decoder(z).numpy().astype(np.float64)[None]
    x = images[:, None]
    joint = (x * logits - np.logaddexp(0, logits)).sum(axis=(2, 3, 4)) + log_prior
    exact = logsumexp(joint, axis=1) + np.log(z[1, 0] - z[0, 0])
    elbo, importance_weighted = vae.bounds(networks, images, samples=3000)
    assert (elbo < exact).all()
    np.testing.assert_allclose(importance_weighted, exact, atol=0.05)
    assert (importance_weighted - elbo > 0.03).all()


def test_the_mean_of_the_log_weights_is_the_loss_of_training_with_its_sign_turned():
    networks = vae.build(TINY)
    images = binary(4)
    mean, log_variance = networks.encoder(2 * images - 1)
    many = [np.repeat(part, 300, axis=0) for part in (images, mean, log_variance)]
    sampled = vae.log_likelihood(many[0], networks.decoder(networks.sampler(many[1:], training=True)))
    likelihood = np.reshape(sampled, (4, 300)).mean(axis=1)
    elbo, _ = vae.bounds(networks, images, samples=300)
    np.testing.assert_allclose(elbo, likelihood - vae.kl_divergence(mean, log_variance), atol=0.15)


def test_the_sampler_samples_from_the_stated_normal_in_training_and_gives_the_mean_otherwise():
    sampler = vae.build(TINY).sampler
    mean, log_variance = tf.fill([20_000, 1], 1.5), tf.fill([20_000, 1], np.log(0.25).astype(np.float32))
    samples = sampler([mean, log_variance], training=True).numpy()
    assert stats.kstest(samples[:, 0], stats.norm(1.5, 0.5).cdf).pvalue > 0.001
    np.testing.assert_array_equal(sampler([mean, log_variance], training=False), mean)


def test_gradients_pass_through_the_sampler():
    sampler = vae.build(TINY).sampler
    mean, log_variance = tf.zeros([64, 1]), tf.zeros([64, 1])
    with tf.GradientTape() as tape:
        tape.watch([mean, log_variance])
        samples = sampler([mean, log_variance], training=True)
    to_mean, to_log_variance = tape.gradient(samples, [mean, log_variance])
    np.testing.assert_allclose(to_mean, 1)
    np.testing.assert_allclose(to_log_variance, samples / 2, rtol=1e-5)  # d/dlv of exp(lv / 2) e at lv = 0


def test_the_manifold_lies_at_quantiles_with_the_first_latent_to_the_right_and_the_second_up():
    latents = keras.Input((2,))
    decoder = keras.Model(latents, keras.layers.Reshape((1, 2, 1))(latents))
    side = 5
    grid = vae.manifold(decoder, side).reshape(side, side, 2) / 255
    at = 1 / (1 + np.exp(-stats.norm.ppf((np.arange(side) + 0.5) / side)))
    np.testing.assert_allclose(grid[..., 0], np.tile(at, (side, 1)), atol=0.003)
    np.testing.assert_allclose(grid[..., 1], np.tile(at[::-1, None], (1, side)), atol=0.003)


def test_an_image_of_any_size_is_written_next_to_its_reconstruction(tmp_path):
    networks = vae.build(vae.Config(size=8, units=4, latent_dim=2))
    folder = Run(tmp_path / "run", "vae", vae.Config(size=8, units=4, latent_dim=2), "sample")
    folder.start()
    folder.finish(networks, dict)
    write_image(np.full((31, 20, 3), 200, np.uint8), tmp_path / "in.jpg")
    vae.reconstruct_files(tmp_path / "in.jpg", tmp_path / "out.png", tmp_path / "run")
    (tmp_path / "in").mkdir()
    write_image(np.full((31, 20, 3), 55, np.uint8), tmp_path / "in" / "dark.png")
    vae.reconstruct_files(tmp_path / "in", tmp_path / "out", tmp_path / "run", invert=True)
    (written,) = (tmp_path / "out").iterdir()
    np.testing.assert_array_equal(read_image(written, 1), read_image(tmp_path / "out.png", 1))
    pair = read_image(tmp_path / "out.png", 1)
    assert pair.shape == (8, 16, 1)
    np.testing.assert_array_equal(pair[:, 8:], vae.reconstruct(networks, pair[None, :, :8])[0])
    singles = sorted(vae.generate_file(tmp_path / "singles", 3, singles=True, run=tmp_path / "run").iterdir())
    assert [path.name for path in singles] == ["000000.png", "000001.png", "000002.png"]
    expected = vae.generate(networks.decoder, 3)
    np.testing.assert_array_equal([read_image(path, 1) for path in singles], expected)


def test_bounds_of_a_decoder_that_ignores_its_latents():
    """If the decoder ignores its latents, the likelihood is known, and the ELBO is below it by the KL term."""
    networks = vae.build(TINY)
    networks.decoder.layers[1].kernel.assign(tf.zeros_like(networks.decoder.layers[1].kernel))
    images = binary(3)
    elbo, importance_weighted = vae.bounds(networks, images, samples=200)
    known = vae.log_likelihood(images, networks.decoder(np.zeros((3, 1), np.float32))).numpy()
    kl = vae.kl_divergence(*networks.encoder(from_uint8(images * 255))).numpy()
    np.testing.assert_allclose(elbo, known - kl, atol=0.15)
    np.testing.assert_allclose(importance_weighted, known, atol=0.15)


def test_the_convolutional_networks_counted_by_hand_and_the_dense_ones_unchanged():
    networks = vae.build(vae.Config(filters=4, latent_dim=2, units=6))
    encoder = 16 * 1 * 4 + 4 + 16 * 4 * 8 + 8 + 7 * 7 * 8 * 6 + 6 + 2 * (6 * 2 + 2)
    decoder = 2 * 6 + 6 + 6 * 7 * 7 * 8 + 7 * 7 * 8 + 16 * 8 * 4 + 4 + 16 * 4 * 1 + 1
    assert networks.encoder.count_params() == encoder and networks.decoder.count_params() == decoder
    dense = vae.build(vae.Config(latent_dim=2, units=6))
    pixels = 28 * 28
    assert dense.encoder.count_params() == pixels * 6 + 6 + 6 * 6 + 6 + 2 * (6 * 2 + 2)
    assert dense.decoder.count_params() == 2 * 6 + 6 + 6 * 6 + 6 + 6 * pixels + pixels


def test_the_elbo_of_convolutional_networks_is_that_of_their_outputs():
    """With SciPy: the likelihood of independent coins, and the densities of the normal prior and posterior."""
    networks = vae.build(vae.Config(size=8, filters=2, latent_dim=3, units=4, seed=5))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 2, (6, 8, 8, 1)).astype(np.float32)
    found = vae.log_weights(networks, tf.constant(pixels), Noise(4)).numpy()
    normal = Noise(4).normal((6, 3)).numpy()
    mean, log_variance = (part.numpy() for part in networks.encoder(2 * pixels - 1))
    deviation = np.exp(log_variance / 2)
    latents = mean + deviation * normal
    white = special.expit(networks.decoder(latents).numpy())
    coins = stats.bernoulli.logpmf(pixels, white).sum((1, 2, 3))
    prior, posterior = stats.norm.logpdf(latents).sum(1), stats.norm.logpdf(latents, mean, deviation).sum(1)
    assert white.std() > 0
    np.testing.assert_allclose(found, coins + prior - posterior, rtol=1e-4)


def test_convolutions_need_a_size_that_can_be_halved_twice():
    assert vae.Config(size=30).size == 30
    with pytest.raises(InputError, match="with filters, size must be a multiple of 4, got 30"):
        vae.Config(size=30, filters=8)
