from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from common.data.batches import batches
from common.data.labelled import Split, cached_features
from common.images.pixels import from_uint8
from common.system.files import InputError
from recipes.mobilenet import Config, build, extract_features, load_weights, train

SMALL = Config(size=32, alpha=0.35, weights="random", outputs=3, channels=1)


def pictures(count: int, size: int = 32, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


@pytest.mark.slow
def test_the_network_is_keras_own_with_its_number_of_weights():
    assert build().features.layers[-1].count_params() == 2_257_984


def test_images_are_preprocessed_as_keras_does():
    images = pictures(3, channels=3)
    expected = keras.applications.mobilenet_v2.preprocess_input(images.astype(np.float32))
    np.testing.assert_allclose(from_uint8(images), expected, atol=1e-6)


@pytest.mark.slow
def test_features_of_grey_images_of_any_size_are_those_of_keras_at_the_stated_size():
    networks = build(SMALL)
    images = pictures(2, size=20)
    resized = keras.ops.image.resize(from_uint8(images), (32, 32)).numpy().repeat(3, -1)
    expected = networks.features.layers[-1](resized, training=False)
    np.testing.assert_allclose(extract_features(networks.features, images), expected, atol=1e-5)


@pytest.mark.slow
def test_frozen_training_moves_the_classifier_alone_and_fine_tuning_keeps_the_statistics(tmp_path):
    file = tmp_path / "w.weights.h5"
    build(SMALL).features.layers[-1].save_weights(file)
    config = replace(SMALL, weights=str(file), seed=5, epochs=1, batch_size=2)
    labels = np.array([0, 1, 2, 1], np.int32)
    for frozen, inputs in ((True, np.ones((4, 1280), np.float32)), (False, pictures(4))):
        networks = build(config)
        load_weights(networks, config)
        before = {v.path: v.numpy() for v in networks.features.variables}
        data = batches((inputs, labels), 2, 0, held_out=(inputs, labels))
        train(networks, data, replace(config, frozen=frozen))
        moved = {v.path for v in networks.features.variables if not np.array_equal(before[v.path], v.numpy())}
        trainable = {v.path for v in networks.features.trainable_variables}
        assert moved == (set() if frozen else trainable)


@pytest.mark.slow
def test_cached_features_are_read_again_and_made_anew_for_other_weights_or_images(tmp_path):
    asked = []

    def spy(features, images):
        asked.append(len(images))
        return extract_features(features, images)

    network = build(SMALL).features
    split = Split(pictures(1500, size=8), np.zeros(1500, np.int32))
    first = cached_features(network, spy, split, tmp_path)
    assert asked == [1000, 500] and first.shape == (1500, 1280)
    sorted(tmp_path.iterdir())[0].unlink()  # as if it had been stopped
    np.testing.assert_array_equal(cached_features(network, spy, split, tmp_path), first)
    assert len(asked) == 3
    cached_features(build(replace(SMALL, seed=1)).features, spy, split.some(10), tmp_path)
    assert asked[3:] == [10]


@pytest.mark.slow
def test_weights_of_another_network_are_refused_in_one_line(tmp_path):
    file = tmp_path / "w.weights.h5"
    build(SMALL).classifier.save_weights(file)
    with pytest.raises(InputError, match=f"{file}: not a weights file for mobilenetv2_0.35_32"):
        load_weights(build(SMALL), replace(SMALL, weights=str(file)))


@pytest.mark.parametrize(("field", "value"), [("size", 48), ("size", 0), ("alpha", 0.6)])
def test_settings_that_mobilenet_does_not_have_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .* got {value}"):
        build(replace(SMALL, **{field: value}))


@pytest.mark.slow
def test_a_frozen_network_trains_on_images_too():
    config = replace(SMALL, frozen=True, epochs=1, batch_size=2)
    images, labels = pictures(4), np.array([0, 1, 2, 1])
    networks = build(config)
    features = extract_features(networks.features, images)
    (row,) = train(networks, (images, labels), config)
    (expected,) = train(build(config), batches((features, labels), 2, 0), config)
    assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
