from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.data.batches import batches
from common.training import adam
from recipes import pix2pix
from recipes.pix2pix import (
    Config,
    build,
    discriminator_loss,
    evaluate,
    generator_loss,
    l1_loss,
    train,
    translate,
)


@pytest.fixture(scope="module")
def paper():
    return build()


def test_the_generator_has_the_paper_s_54_4_million_parameters(paper):
    """Counted by hand from section 6.1.1: C64-C128-C256-C512x5 and back, with skips."""
    down = [3, 64, 128, 256, 512, 512, 512, 512, 512]
    up = [(512, 512), (1024, 512), (1024, 512), (1024, 512), (1024, 256), (512, 128), (256, 64), (128, 3)]
    kernels = sum(16 * a * b for a, b in zip(down, down[1:], strict=False)) + sum(16 * a * b for a, b in up)
    scales_and_offsets = 2 * (sum(down[2:-1]) + sum(b for _, b in up[:-1]))
    assert paper.generator.count_params() == kernels + scales_and_offsets + 3 == 54_413_955


def test_the_discriminator_judges_30_x_30_patches_of_70_x_70_pixels(paper):
    pair = [tf.Variable(tf.random.stateless_normal((1, 256, 256, 3), (0, i))) for i in (0, 1)]
    assert paper.discriminator(pair, training=False).shape == (1, 30, 30, 1)
    # Normalisation by an image's statistics lets every pixel reach every logit; without it, what is left is
    # the receptive field of section 6.1.2.
    x = pair[1]
    with tf.GradientTape() as tape:
        y = tf.concat(pair, -1)
        for layer in paper.discriminator.layers:
            if type(layer).__name__ in ("ZeroPadding2D", "Conv2D", "LeakyReLU"):
                y = layer(y)
        logit = y[0, 15, 15, 0]
    seen = np.abs(tape.gradient(logit, x).numpy()[0]).sum(-1) > 0
    assert [np.ptp(np.flatnonzero(seen.any(axis))) + 1 for axis in (0, 1)] == [70, 70]


def test_normalisation_is_by_each_channel_of_each_image(paper):
    layer = next(layer for layer in paper.generator.layers if "group_normalization" in layer.name)
    x = np.random.default_rng(0).normal(3.0, 2.0, (2, 9, 7, layer.gamma.shape[0])).astype(np.float32)
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    np.testing.assert_allclose(layer(x), (x - mean) / np.sqrt(variance + 1e-5), atol=2e-5)


def test_losses_against_their_formulas():
    real, fake = np.array([2.0, -1.0, 0.5]), np.array([-0.3, 1.2, 4.0])
    log_sigmoid = lambda x: -np.log1p(np.exp(-x))  # noqa: E731
    expected = -0.5 * (log_sigmoid(real).mean() + log_sigmoid(-fake).mean())
    real, fake = tf.constant(real, tf.float32), tf.constant(fake, tf.float32)
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-6)
    assert float(generator_loss(fake)) == pytest.approx(-log_sigmoid(fake.numpy()).mean(), rel=1e-6)
    assert float(generator_loss(tf.zeros(3))) == pytest.approx(np.log(2))
    assert float(discriminator_loss(tf.zeros(3), tf.zeros(3))) == pytest.approx(np.log(2))
    assert float(l1_loss(tf.constant([1.0, -1.0]), tf.constant([0.0, 0.5]))) == pytest.approx(1.25)


def test_scores_of_a_perfect_translation_and_of_the_mean():
    targets = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    scores = evaluate(targets, targets, mean_image=np.full((16, 16, 3), 128, np.uint8))
    assert scores["l1"] == 0 and scores["ssim"] == pytest.approx(1)
    assert scores["mean_image_l1"] == pytest.approx(np.abs(targets - 128.0).mean() / 255, rel=1e-5)


def test_translation_is_the_same_every_time_and_padding_is_cut_off():
    generator = build(Config(size=32, base_filters=4)).generator
    image = np.random.default_rng(0).integers(0, 256, (64, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(translate(generator, image), translate(generator, image))
    padded = np.pad(image[:50, :20], ((0, 14), (0, 12), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(translate(generator, image[:50, :20]), translate(generator, padded)[:50, :20])


@pytest.fixture(scope="module")
def resizing():
    """A narrow generator with bilinear upsampling, for a size that can be halved five times."""
    return build(Config(size=96, base_filters=4, upsampling="bilinear")).generator


def test_only_transposed_convolutions_show_a_grid(resizing):
    """Of a grey image without borders, an untrained generator makes an image of one colour, or one with a grid."""
    grey, grid = tf.fill((1, 512, 512, 3), 0.5), {}
    for network in (resizing, build(Config(size=32, base_filters=4)).generator):
        middle = network(grey, training=False).numpy()[0, 240:272, 240:272]
        grid[network] = np.abs(np.diff(middle, axis=1)).mean() / np.abs(middle).mean()
    first, second = grid.values()
    assert first < 0.01 < 0.1 < second


def test_a_generator_that_resizes_blends_colours_with_its_input(resizing, tmp_path):
    image = np.random.default_rng(0).uniform(-1, 1, (1, 96, 96, 3)).astype(np.float32)
    *_, last = (layer for layer in resizing.layers if type(layer).__name__ == "Conv2D")
    kernel, bias = last.get_weights()
    last.set_weights([kernel * 0, np.array([0, 0, 0, -50], np.float32)])  # the mask is 0
    np.testing.assert_allclose(resizing(image, training=False), image, atol=1e-6)
    last.set_weights([kernel * 0, np.array([0.5, -1, 2, 50], np.float32)])  # the mask is 1
    np.testing.assert_allclose(resizing(image, training=False)[0, 3, 4], np.tanh([0.5, -1, 2]), atol=1e-6)
    last.set_weights([kernel, bias])
    resizing.save(tmp_path / "generator.keras")
    again = keras.saving.load_model(tmp_path / "generator.keras")
    np.testing.assert_array_equal(resizing(image, training=False), again(image, training=False))
    assert translate(again, np.zeros((50, 70, 3), np.uint8)).shape == (50, 70, 3)


@pytest.mark.parametrize(("layers", "side", "logits"), [(1, 16, 46), (2, 34, 22), (3, 70, 10)])
def test_patches_have_the_size_that_the_options_say(layers, side, logits):
    """16, 34 or 70 pixels (appendix 6.2)."""
    reach = 1
    for stride in [1, 1, *[2] * layers]:  # backwards, from a logit to the pixels
        reach = reach * stride + 4 - stride
    network = build(Config(size=96, base_filters=2, patch_layers=layers)).discriminator
    assert reach == side and network([tf.zeros((1, 96, 96, 3))] * 2).shape[1:3] == (logits, logits)


def test_the_learning_rate_decays_to_zero(monkeypatch):
    rates = []
    monkeypatch.setattr(pix2pix, "adam", lambda rate, variables, beta_1: rates.append(rate) or adam(rate, variables))
    images = np.zeros((4, 32, 32, 3), np.uint8)
    for decay in (False, True):
        config = Config(size=32, base_filters=2, batch_size=2, epochs=2, learning_rate=0.5, decay=decay)
        monkeypatch.setattr(pix2pix, "fit", lambda *given, **named: [])
        train(build(config), (images, images), config)
    assert rates[:2] == [0.5, 0.5]
    assert [float(rates[2](step)) for step in (0, 2, 4)] == pytest.approx([0.5, 0.25, 0], abs=1e-6)


@pytest.mark.slow
def test_on_two_pairs_the_l1_loss_falls_and_l1_alone_leaves_the_discriminator_as_it_was():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    for gan_weight in (1.0, 0.0):
        config = Config(size=32, base_filters=8, epochs=40, gan_weight=gan_weight, learning_rate=1e-3)
        networks = build(config)
        before = [variable.numpy() for variable in networks.discriminator.variables]
        history = train(networks, batches((images, 255 - images), 1, 0), config)
        assert history[-1]["l1"] < 0.5 * history[0]["l1"]
        same = [np.array_equal(a, b) for a, b in zip(before, networks.discriminator.variables, strict=True)]
        assert all(same) if gan_weight == 0 else not any(same)
