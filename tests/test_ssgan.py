from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.data.batches import Batches, batches
from common.runs.run import Run
from recipes import ssgan
from recipes.ssgan import (
    CLOTHES,
    Config,
    build,
    class_loss,
    classify,
    consistency_loss,
    discriminator_loss,
    feature_matching_loss,
    generate,
    generator_loss,
    real_logits,
    supervised_baseline,
    train,
)

SMALL = {"size": 8, "outputs": 2, "base_filters": 4, "generator_filters": 2, "latent_dim": 5, "batch_size": 8}


def softmax_with_one_more(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the classes and one more class, whose logit is 0."""
    extended = np.exp(np.concatenate([logits, np.zeros((len(logits), 1))], axis=1))
    return extended / extended.sum(1, keepdims=True)


def test_the_discriminator_is_the_softmax_over_one_more_class_whose_logit_is_zero():
    real, fake = np.random.default_rng(0).normal(0, 3, (2, 7, 4))
    for logits in (real, fake):
        expected = 1 - softmax_with_one_more(logits)[:, -1]
        np.testing.assert_allclose(tf.sigmoid(real_logits(tf.constant(logits))), expected, rtol=1e-9)
    expected = (
        -np.log(1 - softmax_with_one_more(real)[:, -1]).mean() - np.log(softmax_with_one_more(fake)[:, -1]).mean()
    )
    assert float(discriminator_loss(tf.constant(real), tf.constant(fake))) == pytest.approx(expected)
    expected = -np.log(1 - softmax_with_one_more(fake)[:, -1]).mean()
    assert float(generator_loss(tf.constant(fake))) == pytest.approx(expected)


def test_class_and_feature_matching_losses_against_their_formulas():
    logits, labels = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]]), np.array([0, 1])
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[[0, 1], labels])
    assert float(class_loss(tf.constant(labels), tf.constant(logits))) == pytest.approx(expected)
    real, fake = np.random.default_rng(0).normal(size=(2, 6, 5))
    expected = np.abs(real.mean(0) - fake.mean(0)).mean()
    assert float(feature_matching_loss(tf.constant(real), tf.constant(fake))) == pytest.approx(expected)
    assert float(feature_matching_loss(tf.constant(real), tf.constant(real[::-1].copy()))) == pytest.approx(0)


def test_consistency_against_its_formula_and_no_gradient_reaches_the_teacher():
    logits, teacher = (tf.constant(part) for part in np.random.default_rng(0).normal(0, 2, (2, 40, 4)))
    with tf.GradientTape() as tape:
        tape.watch([logits, teacher])
        loss = consistency_loss(logits, teacher, 0.8)
    one, other = (np.exp(part) / np.exp(part).sum(1, keepdims=True) for part in (logits.numpy(), teacher.numpy()))
    confident = other.max(1) >= 0.8
    assert 5 < confident.sum() < 35
    assert float(loss) == pytest.approx(-(np.log(one[np.arange(40), other.argmax(1)]) * confident).mean())
    on_logits, on_teacher = tape.gradient(loss, [logits, teacher])
    assert on_teacher is None
    np.testing.assert_array_equal(np.abs(on_logits).max(1) > 0, confident)


def shades(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.int32)
    images = generator.normal(60 + 120 * labels[:, None, None, None], 30, (count, 8, 8, 1))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def stepped(monkeypatch, config, steps=1):
    images, labels = shades(32)
    found = {}
    monkeypatch.setattr(ssgan, "fit", lambda step, *_, **options: found.update(step=step, **options))
    networks = build(config)
    before = [[v.numpy() for v in network.trainable_variables] for network in networks]
    train(
        networks,
        Batches.zip(batches(images, 8, 0), batches((images, labels), 8, 0, held_out=(images, labels))),
        config,
    )
    trail = []
    for _ in range(steps):
        losses = found["step"](images[:8], images[8:16], labels[8:16])
        trail.append([v.numpy() for v in networks.classifier.trainable_variables])
    return networks, before, trail, found, losses


@pytest.mark.parametrize("feature_matching", [True, False])
@pytest.mark.usefixtures("untraced")
def test_one_step_moves_every_weight_of_every_network(monkeypatch, feature_matching):
    """With `compile` and `trainable = False`, a common mistake runs without an error and updates no weight."""
    networks, before, _, _, losses = stepped(monkeypatch, Config(**SMALL, feature_matching=feature_matching))
    for network, old in zip(networks, before, strict=True):
        for variable, weight in zip(network.trainable_variables, old, strict=True):
            assert not np.array_equal(variable.numpy(), weight), variable.path
    assert set(losses) == {"classes", "discriminator", "generator", "consistency"}


@pytest.mark.usefixtures("untraced")
@pytest.mark.slow
def test_the_ema_equals_the_closed_form(monkeypatch):
    networks, _, trail, _, _ = stepped(monkeypatch, Config(**SMALL, ema_decay=0.7), steps=5)
    parts = np.array([0.49 / 3, 0.49 / 3, 0.49 / 3, 0.21, 0.3])  # the mean of three; then each new one weighs 0.3
    for place, variable in enumerate(networks.ema.trainable_variables):
        expected = sum(part * weights[place] for part, weights in zip(parts, trail, strict=True))
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)


@pytest.mark.usefixtures("untraced")
def test_consistency_has_its_weight_in_the_step(monkeypatch):
    still = {"dropout": 0.0, "noise": 0.0, "confidence_threshold": 0.0}
    ends = [stepped(monkeypatch, Config(**SMALL, **still, consistency_weight=weight))[2][0] for weight in (0.0, 50.0)]
    assert any(not np.array_equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.usefixtures("untraced")
def test_losses_of_one_step_against_the_outputs_of_the_networks(monkeypatch):
    """Without dropout and noise, from the logits of the labelled, the unlabelled and the generated images."""
    config = Config(**SMALL, dropout=0.0, noise=0.0, feature_matching=False, confidence_threshold=0.6)
    images, labels = shades(32)
    generator, classifier, ema = build(config)
    latents = keras.random.normal((8, 5), seed=keras.random.SeedGenerator(config.seed + 1))
    generated = generator(latents, training=True)  # as in training: normalised by the batch
    known, real, fake = (
        classifier(part / 127.5 - 1).numpy() for part in (images[8:16], images[:8], generated * 127.5 + 127.5)
    )
    sums = [np.log(np.exp(logits).sum(1)) for logits in (known, real, fake)]
    teacher = tf.nn.softmax(ema(images[:8] / 127.5 - 1)).numpy()
    found = real[np.arange(8), teacher.argmax(1)] - sums[1]
    expected = {
        "classes": np.mean(sums[0] - known[np.arange(8), labels[8:16]]),
        "discriminator": np.mean(np.log1p(np.exp(-sums[1]))) + np.mean(np.log1p(np.exp(sums[2]))),
        "generator": np.mean(np.log1p(np.exp(-sums[2]))),
        "consistency": -np.mean(found * (teacher.max(1) >= 0.6)),
    }
    losses = stepped(monkeypatch, config)[-1]
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("untraced")
def test_an_epoch_is_validated_by_the_ema(monkeypatch):
    networks, _, _, found, _ = stepped(monkeypatch, Config(**SMALL, feature_matching=False), steps=2)
    images, labels = shades(32)
    row = found["on_epoch"][0](1, {})
    accuracy = (classify(networks.ema, images).argmax(1) == labels).mean()
    assert row == {"validation_accuracy": pytest.approx(accuracy), "diversity": row["diversity"]}


@pytest.mark.slow
def test_few_labels_suffice_where_classes_are_plain():
    images, labels = shades(128)
    config = Config(**SMALL, epochs=6, learning_rate=2e-3, ema_decay=0.9)
    known = batches((images[:8], labels[:8]), 8, 0, held_out=(images, labels))
    networks = build(config)
    history = train(networks, Batches.zip(batches(images, 8, 0), known), config)
    assert np.mean(classify(networks.ema, images).argmax(1) == labels) > 0.9
    assert history[-1]["validation_accuracy"] > 0.9


def test_parameters_counted_by_hand():
    classifier = build(CLOTHES).classifier
    convolutions = 25 * 1 * 64 + 64 + 25 * 64 * 128 + 128 + 25 * 128 * 128 + 128
    assert classifier.count_params() == convolutions + 4 * 4 * 128 * 10 + 10


@pytest.mark.parametrize(
    ("changes", "message"), [({"size": 30}, "size must .* got 30"), ({"channels": 2}, "channels must be 1 or 3, got 2")]
)
def test_settings_it_cannot_take(changes, message):
    with pytest.raises(ValueError, match=message):
        build(Config(**changes))
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        generate(build(Config(**SMALL)).generator, 0)


def test_mirrored_images_are_classified_with_the_images_themselves():
    images, _ = shades(5)
    classifier = build(Config(**SMALL)).ema
    one, other = classify(classifier, images), classify(classifier, images[:, :, ::-1])
    assert not np.allclose(one, other)
    np.testing.assert_allclose(classify(classifier, images, mirror=True), (one + other) / 2, rtol=1e-6)
    np.testing.assert_allclose(one.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.slow
def test_the_supervised_baseline_tells_dark_from_bright():
    images, labels = shades(16)
    config = Config(**SMALL, dropout=0.0, noise=0.0, learning_rate=0.01)
    baseline = supervised_baseline(config, batches((images, labels), 8, 0), 30)
    assert (classify(baseline, images).argmax(1) == labels).all()


def test_a_run_of_an_earlier_version_loads_with_the_new_names(tmp_path):
    names = {"averaging": "ema_decay", "consistency": "consistency_weight", "sure": "confidence_threshold"}
    names["matching"] = "feature_matching"
    config = Config(**SMALL, ema_decay=0.5, consistency_weight=3.0, confidence_threshold=0.7, feature_matching=False)
    folder = Run(tmp_path, "ssgan", config, "sample")
    folder.start(("one", "other"))
    networks = build(config)
    networks.ema.save(tmp_path / "averaged.keras")
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    settings["config"] |= {old: settings["config"].pop(new) for old, new in names.items()}
    path.write_text(json.dumps(settings))
    trained = Run.load(tmp_path, "ssgan", Config)
    assert trained.config == config
    found = trained.network("ema", trained.image_shape, (2,))
    np.testing.assert_array_equal(found.get_weights()[0], networks.ema.get_weights()[0])
