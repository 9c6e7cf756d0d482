from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.data.batches import batches
from common.images import read_image
from common.runs import Run
from recipes import dcgan
from recipes.dcgan import (
    DIGITS,
    Config,
    build,
    discriminator_loss,
    generate,
    generate_file,
    generator_loss,
    pairing_loss,
    squared_gradient,
    walk,
    walk_file,
)

TINY = {
    "size": 16,
    "channels": 1,
    "base_filters": 2,
    "batch_size": 4,
    "learning_rate": 0.01,
    "loss": "relativistic",
    "gradient_penalty": 1.0,
    "penalty_fraction": 0.5,
    "ema_decay": 0.6,
    "hidden_units": 3,
}


@pytest.fixture(scope="module")
def generator():
    return build(Config(size=28, channels=1, base_filters=4)).generator


def test_parameters_at_the_paper_s_size_counted_by_hand():
    """Figure 1: 100 latents to 4 x 4 x 1024, then 512, 256, 128 and 3 channels; kernels of 4 in place of 5."""
    networks = build()
    widths = [1024, 512, 256, 128]
    kernels = 100 * 16 * 1024 + sum(16 * a * b for a, b in zip(widths, [512, 256, 128, 3], strict=True))
    assert networks.generator.count_params() == kernels + 4 * sum(widths) + 3
    kernels = sum(16 * a * b for a, b in zip([3, *widths[:0:-1]], widths[::-1], strict=True))
    assert networks.discriminator.count_params() == kernels + 128 + 4 * (256 + 512 + 1024) + 16 * 1024 + 1


@pytest.mark.parametrize("size", [28, 32, 48, 56, 64, 96, 128])
def test_sizes(size):
    networks = build(Config(size=size, channels=1, base_filters=2))
    images = networks.generator(tf.zeros((1, 100)), training=False)
    assert images.shape == (1, size, size, 1)
    assert networks.discriminator(images, training=False).shape == (1, 1)


@pytest.mark.parametrize(("field", "value"), [("size", 20 + 2), ("size", 12), ("channels", 4), ("size", 0)])
def test_hyperparameters_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"{field} must .* got {value}"):
        build(Config(**{field: value}))


def test_losses_against_their_formulas():
    real, fake = np.array([2.0, -1.0]), np.array([-0.3, 1.2])
    expected = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()
    tensors = [tf.constant(values[:, None], tf.float32) for values in (real, fake)]
    assert float(discriminator_loss(*tensors)) == pytest.approx(expected, rel=1e-6)
    assert float(generator_loss(tensors[1])) == pytest.approx(np.log1p(np.exp(-fake)).mean(), rel=1e-6)
    assert float(discriminator_loss(tf.zeros((3, 1)), tf.zeros((3, 1)))) == pytest.approx(2 * np.log(2))


def test_the_relativistic_loss_against_its_formula():
    real, fake = np.array([2.0, -1.0]), np.array([-0.3, 1.2])
    tensors = [tf.constant(values[:, None], tf.float32) for values in (real, fake)]
    assert float(pairing_loss(*tensors)) == pytest.approx(np.log1p(np.exp(real - fake)).mean(), rel=1e-6)
    assert float(pairing_loss(*tensors[::-1])) == pytest.approx(np.log1p(np.exp(fake - real)).mean(), rel=1e-6)


def test_the_squared_gradient_of_a_quadratic_network():
    """For the logit x'x + b'x, the gradient is 2 x + b."""
    images = keras.Input((2, 3, 1))
    flat = keras.layers.Flatten()(images)
    dense = keras.layers.Dense(1)
    network = keras.Model(images, dense(flat) + keras.ops.sum(keras.ops.square(flat), axis=1, keepdims=True))
    x = np.random.default_rng(0).normal(size=(5, 2, 3, 1)).astype(np.float32)
    expected = np.sum((2 * x.reshape(5, 6) + dense.kernel.numpy()[:, 0]) ** 2, axis=1).mean()
    assert float(squared_gradient(network, tf.constant(x))) == pytest.approx(expected, rel=1e-5)


def test_with_a_penalty_the_logit_of_an_image_does_not_depend_on_the_batch():
    config = Config(size=16, channels=1, base_filters=2, gradient_penalty=1.0, hidden_units=3)
    discriminator = build(config).discriminator
    images = tf.constant(np.random.default_rng(0).normal(size=(4, 16, 16, 1)), tf.float32)
    logits = discriminator(images, training=True).numpy()
    np.testing.assert_allclose(discriminator(images[:1], training=True), logits[:1], rtol=1e-4)
    kernels = sum(a * b * 16 + b for a, b in ((1, 2), (2, 4))) + 4 * 4 * 4 * 3 + 3 + 3 + 1
    assert discriminator.count_params() == kernels


@pytest.mark.usefixtures("untraced")
def test_after_training_the_generator_has_the_mean_of_its_weights():
    config = Config(**TINY | {"final_rate": 0.1, "epochs": 3})
    networks, seen = build(config), []
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1)).astype(np.uint8)

    def keep(epoch, losses):
        seen.append(networks.generator.get_weights())

    history = dcgan.train(networks, images, config, steps_per_epoch=1, on_epoch=keep)
    half = [(first + second) / 2 for first, second in zip(seen[0], seen[1], strict=True)]
    for found, mean, last in zip(networks.generator.get_weights(), half, seen[2], strict=True):
        np.testing.assert_allclose(found, 0.6 * mean + 0.4 * last, atol=1e-5)
        assert not np.allclose(found, last, atol=1e-5)
    assert all(np.isfinite(row["discriminator"]) for row in history)


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_a_resumed_run_continues_with_the_latest_weights_and_with_their_mean(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1)).astype(np.uint8)
    found = []
    for folder, stops in ((tmp_path / "whole", [2]), (tmp_path / "resumed", [1, 2])):
        for epochs in stops:
            config = Config(**TINY | {"epochs": epochs})
            networks = build(config)
            dcgan.train(networks, images, config, folder, steps_per_epoch=1)
        found.append([*networks.generator.get_weights(), *networks.discriminator.get_weights()])
    for whole, resumed in zip(*found, strict=True):
        np.testing.assert_array_equal(whole, resumed)


def test_the_same_seed_generates_the_same_images_in_any_number(generator):
    many = generate(generator, 300, seed=5)
    assert many.shape == (300, 28, 28, 1) and many.dtype == np.uint8
    np.testing.assert_array_equal(many, generate(generator, 300, seed=5))
    assert not np.array_equal(many, generate(generator, 300, seed=6))


def test_the_discriminator_keeps_the_images_with_the_highest_logits():
    generator, discriminator = build(Config(**TINY))
    every = generate(generator, 300, seed=5)
    logits = discriminator.predict(generator.predict(keras.random.normal((300, 100), seed=5)), verbose=0)[:, 0]
    expected = []
    for start in range(0, 300, 100):
        best = np.argsort(logits[start : start + 100])[-30:]
        expected.extend(every[start + np.sort(best)])
    found = generate(generator, 75, 5, discriminator, keep=30)
    np.testing.assert_array_equal(found, expected[:75])
    np.testing.assert_array_equal(found[:2], generate(generator, 2, 5, discriminator, keep=30))
    np.testing.assert_array_equal(every[:9], generate(generator, 9, 5, discriminator))
    np.testing.assert_array_equal(every[:9], generate(generator, 9, 5, keep=30))
    with pytest.raises(ValueError, match="keep from 1 to 100, got 2 and 0"):
        generate(generator, 2, keep=0)


def test_generated_files_are_selected_as_in_the_run_unless_told_otherwise(tmp_path):
    config = Config(**TINY, keep=40)
    Run(tmp_path, "dcgan", config, "sample").start()
    networks = build(config)
    for name, network in networks._asdict().items():
        network.save(tmp_path / f"{name}.keras")
    for given, used in ((0, 40), (100, 100), (20, 20)):
        generate_file(tmp_path / "images", 3, seed=3, keep=given, singles=True, run=tmp_path)
        found = [read_image(tmp_path / "images" / f"00000{number}.png", 1) for number in range(3)]
        np.testing.assert_array_equal(found, generate(networks.generator, 3, 3, networks.discriminator, used))


def test_a_walk_begins_and_ends_at_the_two_seeds_and_keeps_to_their_sphere(generator):
    images = walk(generator, seed=1, to_seed=2, steps=9)
    np.testing.assert_array_equal(images[0], generate(generator, 1, seed=1)[0])
    np.testing.assert_array_equal(images[-1], generate(generator, 1, seed=2)[0])

    class Latents:
        """A generator that keeps the latents it is called with."""

        inputs = [keras.Input((100,))]

        def __call__(self, latents, training):
            self.seen = np.asarray(latents)
            return tf.zeros((len(latents), 2, 2, 1))

    identity = Latents()
    walk(identity, 1, 2, 9)
    lengths = np.linalg.norm(identity.seen, axis=1)
    assert lengths.min() > 0.95 * min(lengths[0], lengths[-1])


def test_a_walk_that_goes_nowhere_and_no_images_at_all(generator):
    with pytest.raises(ValueError, match="needs different seeds and 2 or more steps"):
        walk(generator, 3, 3)
    with pytest.raises(ValueError, match="2 or more steps"):
        walk(generator, 3, 4, steps=1)
    with pytest.raises(ValueError, match="got 0 and 100"):
        generate(generator, 0)


def test_files(generator, tmp_path):
    Run(tmp_path / "run", "dcgan", DIGITS, "sample").start()
    generator.save(tmp_path / "run" / "generator.keras")
    with Image.open(generate_file(tmp_path / "grid.png", 10, run=tmp_path / "run")) as grid:
        assert grid.width > 8 * 28
    generate_file(tmp_path / "singles", 5, singles=True, run=tmp_path / "run")
    assert len(list((tmp_path / "singles").iterdir())) == 5
    with Image.open(walk_file(tmp_path / "walk.gif", 0, 1, 6, zoom=3, run=tmp_path / "run")) as gif:
        assert gif.n_frames == 6 and gif.size == (84, 84)
    with Image.open(walk_file(tmp_path / "walk.png", 0, 1, 6, zoom=1, run=tmp_path / "run")) as strip:
        assert strip.size == (6 * 30 + 2, 32)


# %% Conditional


KINDS = pytest.mark.parametrize("kind", ["concat", "projection"])


def conditional(kind: str) -> Config:
    return Config(**TINY | {"conditional": kind, "outputs": 3, "epochs": 2, "latent_dim": 5})


def test_options_of_conditional_networks_do_not_change_the_others():
    with_defaults, plain = (build(Config(size=16, base_filters=2, outputs=outputs)) for outputs in (3, 10))
    for one, other in zip(with_defaults, plain, strict=True):
        assert len(one.inputs) == 1
        for weight, same in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, same)


def test_the_projection_is_added_to_the_logit():
    """Miyato & Koyama, eq. 4: the logit is psi(phi(x)) + y' V phi(x)."""
    discriminator = build(conditional("projection")).discriminator
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 16, 16, 1)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[[0, 2, 1, 2]]
    *_, embed, psi = [layer for layer in discriminator.layers if isinstance(layer, keras.layers.Dense)]
    if psi.units != 1:
        embed, psi = psi, embed
    psi.set_weights([random.normal(size=(3, 1)), np.array([0.3])])
    phi = keras.Model(discriminator.inputs, psi.input)([images, labels]).numpy()
    (v,) = embed.get_weights()
    assert v.shape == (3, 3) and phi.std() > 0
    expected = phi @ psi.kernel.numpy() + 0.3 + np.sum((labels @ v) * phi, axis=1, keepdims=True)
    np.testing.assert_allclose(discriminator([images, labels]), expected, rtol=1e-4, atol=1e-6)


def test_labels_are_constant_maps_beside_the_image():
    networks = build(conditional("concat"))
    first = next(layer for layer in networks.discriminator.layers if isinstance(layer, keras.layers.Conv2D))
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype(np.float32)
    seen = keras.Model(networks.discriminator.inputs, first.input)([images, np.eye(3, dtype=np.float32)[[2, 0]]])
    np.testing.assert_array_equal(seen[..., :1], images)
    np.testing.assert_array_equal(seen[..., 1:], np.broadcast_to(np.eye(3)[[2, 0]][:, None, None], (2, 16, 16, 3)))


@KINDS
def test_penalties_are_those_of_the_image_given_its_label(kind):
    discriminator = build(conditional(kind)).discriminator
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 16, 16, 1)), tf.float32)
    labels = tf.one_hot([0, 2], 3)
    found = []
    for image, label in zip(images, labels, strict=True):
        with tf.GradientTape() as tape:
            tape.watch(image)
            logit = discriminator([image[None], label[None]])
        found.append(np.sum(np.square(tape.gradient(logit, image))))
    assert float(squared_gradient(discriminator, images, labels)) == pytest.approx(np.mean(found), rel=1e-5)
    assert found[0] > 0


@KINDS
@pytest.mark.usefixtures("untraced")
def test_a_conditional_gan_trains_with_images_and_labels(kind, tmp_path):
    config = conditional(kind)
    networks = build(config)
    before = [network.get_weights() for network in networks]
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (8, 16, 16, 1)).astype(np.uint8), np.arange(8) % 3
    history = dcgan.train(networks, (images, labels), config, tmp_path, steps_per_epoch=1)
    assert all(np.isfinite(row["discriminator"]) for row in history)
    for network, weights in zip(networks, before, strict=True):
        assert all(np.isfinite(weight).all() for weight in network.get_weights())
        assert any((new != old).any() for new, old in zip(network.get_weights(), weights, strict=True))


@KINDS
def test_images_of_a_class_depend_on_their_label_and_their_seed_alone(kind):
    networks = build(conditional(kind))
    every = generate(networks.generator, 7, seed=4)
    for label in range(3):
        count = len(every[label::3])
        alone = generate(networks.generator, count, seed=4, labels=np.full(count, label))
        np.testing.assert_array_equal(every[label::3], alone)
    best = generate(networks.generator, 5, 4, networks.discriminator, 20, np.array([0, 2, 2, 0, 1]))
    two = generate(networks.generator, 2, 4, networks.discriminator, 20, np.array([2, 2]))
    np.testing.assert_array_equal(best[1:3], two)


def test_a_class_is_chosen_by_its_name_or_its_index(tmp_path):
    run = Run(tmp_path / "run", "dcgan", conditional("projection"), "sample")
    run.start(("cat", "dog", "owl"))
    networks = build(conditional("projection"))
    run.finish(networks, dict)
    for name in ("owl", "2"):
        generate_file(tmp_path / name, 3, seed=1, keep=50, singles=True, class_=name, run=run.folder)
        found = [read_image(tmp_path / name / f"00000{number}.png", 1) for number in range(3)]
        expected = generate(networks.generator, 3, 1, networks.discriminator, 50, np.full(3, 2))
        np.testing.assert_array_equal(found, expected)
    with Image.open(generate_file(tmp_path / "grid.png", 6, run=run.folder)) as grid:
        assert grid.width < 4 * 20  # a column per class
    walk_file(tmp_path / "walk.png", 0, 1, 3, zoom=1, class_="dog", run=run.folder)
    first = generate(networks.generator, 1, 3, labels=np.array([1]))  # its latents are those of the seed 3 + 1
    np.testing.assert_array_equal(walk(networks.generator, 4, 0, 3, label=1)[:1], first)
    with pytest.raises(ValueError, match="'fox' is not one of the 3 classes"):
        generate_file(tmp_path / "grid.png", class_="fox", run=run.folder)


def test_a_run_without_classes_has_none_to_choose(generator, tmp_path):
    Run(tmp_path, "dcgan", DIGITS, "sample").start()
    generator.save(tmp_path / "generator.keras")
    with pytest.raises(ValueError, match="was trained without classes, so the class '7' cannot be chosen"):
        generate_file(tmp_path / "grid.png", class_="7", run=tmp_path)


@pytest.mark.slow
def test_a_collapse_stands_in_the_progress_and_in_the_report(tmp_path, capsys):
    """With one latent all samples lie on a line."""
    random = np.random.default_rng(0)
    places = random.integers(0, 10, (96, 2))
    images = np.zeros((96, 16, 16, 1), np.uint8)
    for image, (row, column) in zip(images, places, strict=True):
        image[row : row + 6, column : column + 6] = random.integers(150, 256)
    config = Config(size=16, channels=1, base_filters=2, latent_dim=1, batch_size=16, learning_rate=0.01, epochs=3)
    dcgan.train(build(config), batches(images[:64], 16, 0, held_out=(images[64:],)), config, tmp_path)
    (warnings,) = json.loads((tmp_path / "warnings.json").read_text()).values()
    expected = "mode collapse: generated images are nearly equal"
    assert any(expected in warning for warning in warnings), warnings
    assert expected in "".join(capsys.readouterr()) and expected in (tmp_path / "report.html").read_text()
