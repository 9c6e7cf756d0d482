from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.data.batches import Batches, batches
from common.runs.run import Run
from common.training.noise import Noise
from recipes import adversarial_autoencoder
from recipes.adversarial_autoencoder import (
    FEW,
    PETALS,
    Config,
    build,
    classify_file,
    cross_entropy,
    generate,
    generate_file,
    run,
    style_correlations,
    styles,
    train,
)

SMALL = {"size": 8, "units": 16, "discriminator_units": 16, "dropout": 0.0, "batch_size": 8, "epochs": 2}


def prior_samples(classes, config, seed):
    return adversarial_autoencoder.prior_samples(classes, config, Noise(seed))


def codes_of(config, each, seed=3):
    classes = np.arange(config.outputs).repeat(each)
    return prior_samples(classes, config, seed).numpy()[:, : config.latent_dim], classes


@pytest.mark.parametrize(
    ("prior", "dimensions"), [("gaussian", 7), ("mixture", 2), ("mixture", 4), ("swiss_roll", 2), ("swiss_roll", 3)]
)
def test_the_mean_square_of_a_coordinate_is_the_squared_stddev_in_every_prior(prior, dimensions):
    codes, _ = codes_of(Config(prior=prior, latent_dim=dimensions, prior_stddev=3.0), 20_000)
    assert np.mean(codes**2) == pytest.approx(9.0, rel=0.01)


@pytest.mark.parametrize("prior", ["mixture", "swiss_roll"])
def test_the_plane_of_a_prior_does_not_depend_on_the_coordinates_after_it(prior):
    """The others are normal: a Gaussian prior of the same seed has the same."""
    classes = np.arange(1000) % 10
    shaped, gaussian = (prior_samples(classes, Config(prior=each, latent_dim=4), 1) for each in (prior, "gaussian"))
    np.testing.assert_array_equal(shaped[:, 2:], gaussian[:, 2:])
    assert not np.isclose(shaped[:, :2], gaussian[:, :2]).all()


def test_petals_against_their_means_and_covariances():
    config = Config(prior="mixture", latent_dim=2, prior_stddev=2.0, outputs=6)
    codes, classes = codes_of(config, 20_000)
    for number in range(6):
        petal, angle = codes[classes == number], np.pi * number / 3
        axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        radius = 2 * np.sqrt(2 - 0.45**2 - 0.1**2)
        np.testing.assert_allclose(petal.mean(0), radius * axes[0], atol=0.03)
        np.testing.assert_allclose(axes @ np.cov(petal.T) @ axes.T, np.diag([0.9**2, 0.2**2]), atol=0.02)


def test_sections_of_the_roll_have_equal_areas_one_after_the_other():
    codes, classes = codes_of(Config(prior="swiss_roll", latent_dim=2, prior_stddev=1.0, outputs=5), 20_000)
    radius = np.linalg.norm(codes, axis=1)
    area = (radius / np.sqrt(4 - 0.02)) ** 2  # of the turns so far, for a roll without thickness
    for number in range(5):
        assert area[classes == number].mean() == pytest.approx((number + 0.5) / 5, abs=0.02)
    angle = np.arctan2(codes[:, 1], codes[:, 0])
    off = np.angle(np.exp(1j * (angle - 4 * np.pi * np.sqrt(area))))
    assert np.abs(off).mean() < 4 * np.pi * 0.1 / 2  # the angle is 4 pi times the position, whose noise is 0.1 / 2


def test_classes_are_appended_one_hot_to_samples_of_the_prior():
    config = Config(latent_dim=3, outputs=4)
    samples = prior_samples(np.array([2, 0]), config, 1).numpy()
    np.testing.assert_array_equal(samples[:, 3:], [[0, 0, 1, 0], [1, 0, 0, 0]])
    assert not np.array_equal(samples, prior_samples(np.array([2, 0]), config, 2))


def test_losses_against_their_formulas_and_at_chance():
    real, fake = np.array([[2.0], [-1.0]]), np.array([[-0.3], [1.2]])
    expected = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()
    losses = cross_entropy(1.0, tf.constant(real)), cross_entropy(0.0, tf.constant(fake))
    assert float(sum(losses)) == pytest.approx(expected)
    assert float(cross_entropy(1.0, tf.zeros((3, 1)))) == pytest.approx(np.log(2))
    greys, logits = np.array([0.0, 0.3, 1.0]), np.array([0.5, -1.0, 2.0])
    chance = 1 / (1 + np.exp(-logits))
    expected = -np.mean(greys * np.log(chance) + (1 - greys) * np.log(1 - chance))
    assert float(cross_entropy(tf.constant(greys), tf.constant(logits))) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["decoder", "discriminator"])
def test_a_class_adds_a_row_of_weights_to_those_of_the_scaled_code(name):
    config = Config(**SMALL, labels="decoder", latent_dim=3, outputs=4, prior_stddev=2.5)
    network = getattr(build(config), name)
    first = next(layer for layer in network.layers if layer.weights)
    hidden = keras.Model(network.inputs, first.output)
    samples = prior_samples(np.array([1, 3]), config, 0).numpy()
    kernel = first.get_weights()[0]
    expected = samples[:, :3] / 2.5 @ kernel[:3] + kernel[[3 + 1, 3 + 3]]
    np.testing.assert_allclose(hidden.predict(samples, verbose=0), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "encoder", "decoder", "discriminator"),
    [("none", 4, 4, (4, 1)), ("discriminator", 4, 4, (7, 1)), ("decoder", 4, 7, (7, 1)), ("few", 7, 7, (7, 2))],
)
def test_classes_go_where_labels_says(labels, encoder, decoder, discriminator):
    networks = build(Config(**SMALL, labels=labels, latent_dim=4, outputs=3))
    assert networks.encoder.output_shape == (None, encoder)
    assert networks.decoder.input_shape == (None, decoder)
    assert (networks.discriminator.input_shape[1], networks.discriminator.output_shape[1]) == discriminator


def test_each_discriminator_of_few_gets_codes_or_classes_alone():
    networks = build(Config(**SMALL, labels="few", latent_dim=4, outputs=3))
    inputs = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    before = networks.discriminator(inputs, training=False).numpy()
    inputs[:, 4:] += 1
    after = networks.discriminator(inputs, training=False).numpy()
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert np.abs(before[:, 1] - after[:, 1]).min() > 0


def test_the_discriminator_of_codes_also_gets_classes_with_joint():
    networks = build(Config(**SMALL, labels="few", latent_dim=4, outputs=3, joint=True))
    inputs = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    before = networks.discriminator(inputs, training=False).numpy()
    codes, classes = inputs.copy(), inputs.copy()
    codes[:, :4] += 1
    classes[:, 4:] += 1
    changed = [np.abs(networks.discriminator(each, training=False) - before) for each in (codes, classes)]
    assert changed[0][:, 0].min() > 0 and not changed[0][:, 1].any()
    assert changed[1].min() > 0


def two_classes(count, size=8):
    generator = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.int32)
    images = generator.normal(60 + 120 * labels[:, None, None, None], 30, (count, size, size, 1))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def stepped(monkeypatch, config, *more):
    """Return networks, their weights before and after one step, and the batch of that step."""
    images, labels = two_classes(16)
    batch = (images[:8], *more)
    steps = []
    monkeypatch.setattr(adversarial_autoencoder, "fit", lambda step, *_, **__: steps.append(step))
    networks = build(config)
    train(networks, batches((images, labels), 8, 0), config)
    before = [network.get_weights() for network in networks]
    trainable = [[v.trainable for v in network.weights] for network in networks]
    losses = steps[0](*(tf.constant(part) for part in batch))
    after = [network.get_weights() for network in networks]
    moved = [
        [not np.array_equal(*pair) for *pair, trained in zip(a, b, kinds, strict=True) if trained]
        for a, b, kinds in zip(before, after, trainable, strict=True)
    ]
    return networks, before, after, moved, losses


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"learning_rate": 0.0, "adversarial_learning_rate": 0.0}, (False, False, False)),
        ({"learning_rate": 0.0}, (True, False, True)),
        ({"adversarial_learning_rate": 0.0}, (True, True, False)),
        ({}, (True, True, True)),
    ],
)
@pytest.mark.usefixtures("untraced")
def test_each_update_changes_its_own_weights_only(monkeypatch, rates, expected):
    _, _, _, moved, losses = stepped(monkeypatch, Config(**SMALL | rates, outputs=2, latent_dim=2))
    assert [any(part) for part in moved] == list(expected) == [all(part) for part in moved]
    assert set(losses) == {"reconstruction", "discriminator", "generator"}


@pytest.mark.usefixtures("untraced")
def test_the_encoder_moves_by_adam_s_first_steps_of_both_losses_at_the_same_weights(monkeypatch):
    config = Config(**SMALL, outputs=2, latent_dim=2, learning_rate=2e-3, adversarial_learning_rate=1e-4)
    networks, before, after, _, _ = stepped(monkeypatch, config)
    for network, stored in zip(networks, before, strict=True):
        network.set_weights(stored)
    images = two_classes(16)[0][:8]
    encoder, decoder, discriminator = networks
    expected = [0.0] * len(encoder.trainable_variables)
    for rate, adversarial in ((2e-3, False), (1e-4, True)):
        with tf.GradientTape() as tape:
            codes = encoder(tf.cast(images, tf.float32) / 127.5 - 1, training=True)
            if adversarial:
                loss = tf.reduce_mean(tf.nn.softplus(-discriminator(codes, training=True)))
            else:
                chance = (decoder(codes, training=True) + 1) / 2
                loss = tf.reduce_mean(tf.keras.losses.binary_crossentropy(images / np.float32(255), chance))
        gradients = tape.gradient(loss, encoder.trainable_variables)
        expected = [
            old - rate * g / (abs(g) + 1e-7 / np.sqrt(1e-3)) for old, g in zip(expected, gradients, strict=True)
        ]
    places = [i for i, v in enumerate(encoder.weights) if v.trainable]
    for place, change in zip(places, expected, strict=True):
        np.testing.assert_allclose(after[0][place] - before[0][place], change, atol=3e-5)


@pytest.mark.usefixtures("untraced")
def test_few_trains_classes_from_labelled_images_and_needs_as_many_losses(monkeypatch):
    config = Config(**SMALL, labels="few", outputs=2, latent_dim=2)
    labelled = two_classes(4)
    networks, before, _, moved, losses = stepped(monkeypatch, config, *labelled)
    assert all(all(part) for part in moved) and set(losses) >= {"classes"}
    for network, stored in zip(networks, before, strict=True):
        network.set_weights(stored)
    both = np.concatenate([two_classes(16)[0][:8], labelled[0]])
    logits = networks.encoder(tf.cast(both, tf.float32) / 127.5 - 1, training=True).numpy()[8:, 2:]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(4), labelled[1]])
    assert float(losses["classes"]) == pytest.approx(expected, rel=1e-4)


class Bars:
    """A fake decoder: bars whose width is the first code, and whose slant is the second."""

    input_shape = (None, 4)
    inputs = (np.empty((0, 4)),)
    name = "bars"

    def __call__(self, codes, training):
        codes = np.asarray(codes)
        y, x = np.mgrid[:20, :20] - 9.5
        off = np.abs(x + codes[:, 1, None, None] * 0.2 * y)  # y grows downwards
        inside = (off < 3 + codes[:, 0, None, None]) & (abs(y) < 7)
        return tf.constant(2.0 * inside[..., None] - 1, tf.float32)


def test_styles_find_the_directions_of_thickness_and_slant():
    config = Config(size=20, labels="decoder", latent_dim=2, outputs=2, prior_stddev=0.7)
    rows = styles(Bars(), config)
    assert list(rows) == [
        f"{kind} {step}" for kind in ("thickness", "slant") for step in ("-2", "-1", "+0", "+1", "+2")
    ]
    for kind in ("thickness", "slant"):
        bars = np.stack([images for name, images in rows.items() if name.startswith(kind)])
        for each in bars.swapaxes(0, 1):  # per class
            ink = (each > 0).sum((1, 2, 3))
            tops = np.array([np.flatnonzero(bar[4, :, 0]).mean() for bar in each])
            if kind == "thickness":
                assert (np.diff(ink) >= 0).all() and ink[-1] >= 2 * ink[0] and np.ptp(tops) < 1
            else:
                assert (np.diff(tops) >= 0).all() and np.ptp(tops) > 2 and np.ptp(ink) < 0.2 * ink.mean()


def test_the_coordinate_along_a_direction_is_compared_with_the_true_style():
    codes = np.random.default_rng(0).normal(size=(500, 3))
    directions = {"thickness": np.array([0.6, 0.8, 0.0]), "slant": np.array([0.0, 0.0, -1.0])}
    truth = {"slant": 3 - 2 * codes[:, 2], "thickness": codes[:, 0], "width": codes[:, 1]}
    found = style_correlations(directions, codes, truth)
    assert found["correlation_with_true_slant"] == pytest.approx(1)
    assert found["correlation_with_true_thickness"] == pytest.approx(0.6, abs=0.05)
    assert len(found) == 2


@pytest.mark.slow
def test_few_labels_suffice_where_classes_are_plain_and_the_history_has_every_loss():
    images, labels = two_classes(128)
    config = Config(**SMALL | {"epochs": 12}, labels="few", outputs=2, latent_dim=2, prior_stddev=1.0)
    networks = build(config)
    history = train(networks, Batches.zip(batches(images, 8, 0), batches((images[:4], labels[:4]), 4, 0)), config)
    found = networks.encoder.predict(images / np.float32(127.5) - 1, verbose=0)[:, 2:].argmax(1)
    assert np.mean(found != labels) < 0.1
    assert history[-1]["reconstruction"] < history[0]["reconstruction"]
    assert {"reconstruction", "discriminator", "generator", "classes"} <= set(history[0])


def test_images_are_twice_the_sigmoid_of_the_pixel_logits_less_one():
    config = Config(**SMALL, latent_dim=3)
    decoder = build(config).decoder
    codes = prior_samples(np.zeros(4, int), config, 0)
    logits = keras.Model(decoder.inputs, decoder.get_layer("pixel_logits").output)
    expected = 255 / (1 + np.exp(-logits.predict(codes[:, :3], verbose=0)))
    np.testing.assert_allclose(generate(decoder, codes), expected, atol=0.51)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 7}, "size must be 8 or more and at most 512, got 7"),
        ({"latent_dim": 1}, "latent_dim must be 2.* got 1"),
    ],
)
def test_settings_it_cannot_take(changes, message):
    with pytest.raises(ValueError, match=message):
        build(Config(**changes))


def test_presets():
    assert build(PETALS).discriminator.count_params() == 12 * 1500 + 1500 + 1500 * 1500 + 1500 + 1500 + 1
    assert (FEW.labels, FEW.labelled) == ("few", 100)


def test_classes_of_files_are_those_of_the_encoder_and_need_a_run_with_few_labels(tmp_path, monkeypatch, capsys):
    config = Config(**SMALL, labels="few", outputs=3, latent_dim=2)
    encoder = build(config).encoder
    monkeypatch.setattr(Run, "network", lambda *_: encoder)
    Run(tmp_path / "run", "adversarial_autoencoder", config, "sample").start(("cat", "dog", "owl"))
    image = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "one.png")
    classify_file(tmp_path / "one.png", tmp_path / "run", top=1)
    logits = encoder(image[None, ..., None] / np.float32(127.5) - 1, training=False).numpy()[0, 2:]
    assert ("cat", "dog", "owl")[logits.argmax()] in capsys.readouterr().out
    Run(tmp_path / "none", "adversarial_autoencoder", Config(**SMALL), "sample").start()
    with pytest.raises(ValueError, match="trained with labels 'none'; expected a run with labels 'few'"):
        classify_file(tmp_path / "one.png", tmp_path / "none")


@pytest.mark.slow
def test_the_paper_s_errors_stand_beside_those_of_a_run_with_as_many_labels(tmp_path):
    for labelled, papers in ((100, (0.019, 0.258)), (20, None)):
        config = Config(**SMALL | {"epochs": 1, "batch_size": 500}, labels="few", labelled=labelled, latent_dim=2)
        run("sample", config, tmp_path / str(labelled))
        results = json.loads((tmp_path / str(labelled) / "results.json").read_text())
        assert 0 < results["test_error_from_labels_alone"] < results["test_error"] <= 1  # one epoch is next to none
        names = [name for name in results if name.startswith("papers_error_on_mnist")]
        assert (tuple(results[name] for name in names) or None) == papers


@pytest.mark.slow
def test_images_without_classes_and_samples_of_a_run(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(12):
        (tmp_path / "own").mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (12, 9, 3)).astype(np.uint8)).save(tmp_path / f"own/{number}.png")
    config = Config(**SMALL | {"channels": 3})
    image = run(str(tmp_path / "own"), config, tmp_path / "run")
    assert image.name == "latents.png" and image.is_file()
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == {}
    generate_file(tmp_path / "grid.png", 5, run=tmp_path / "run")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 5 * 8
    with pytest.raises(ValueError, match="labelled must be a multiple of 2, the number of classes"):
        for name in ("a", "b"):
            (tmp_path / "two" / name).mkdir(parents=True)
            for number in range(5):
                Image.fromarray(np.full((9, 9), number, np.uint8)).save(tmp_path / "two" / name / f"{number}.png")
        run(str(tmp_path / "two"), Config(**SMALL, labels="few", labelled=3), tmp_path / "other")


def test_a_run_of_an_earlier_version_loads_with_the_new_names(tmp_path):
    Run(tmp_path, "adversarial_autoencoder", Config(prior_stddev=2.0, adversarial_learning_rate=3e-4), "sample").start()
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    settings["config"]["deviation"] = settings["config"].pop("prior_stddev")
    settings["config"]["adversarial_rate"] = settings["config"].pop("adversarial_learning_rate")
    path.write_text(json.dumps(settings))
    config = Run.load(tmp_path, "adversarial_autoencoder", Config).config
    assert (config.prior_stddev, config.adversarial_learning_rate) == (2.0, 3e-4)
