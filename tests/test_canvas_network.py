"""The network before which pictures are made, with few filters or few patches."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest

from common.runs.networks import load_network
from common.samples.textures import synthetic_texture
from tools import canvas_network
from tools.canvas_network import CELL, PATCH, Patches, build, folded

# Keras 3 reads variables in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = [f"{stage}_{place}" for stage in (1, 2, 3, 4) for place in (1, 2)]


def as_if_trained() -> keras.Model:
    """A network whose normalisations and their statistics are any."""
    keras.utils.set_random_seed(0)
    network = build(classes=5)
    generator = np.random.default_rng(0)
    for name in NAMES:
        norm = network.get_layer(f"norm{name}")
        shape = norm.gamma.shape
        scale, variance = generator.uniform(-0.5, 2, shape), np.exp(generator.uniform(-6, 0.5, shape))
        norm.set_weights([scale, generator.normal(0, 0.3, shape), generator.normal(0, 0.3, shape), variance])
    return network


@pytest.mark.parametrize("filters", [(3, 4, 5, 6), (32, 64, 128, 192)])
def test_folded_maps_are_those_of_the_trained_network_but_for_half_precision(filters, monkeypatch):
    monkeypatch.setattr(canvas_network, "FILTERS", filters)
    trained = as_if_trained()
    network = folded(trained)
    pictures = np.random.default_rng(1).uniform(-1, 1, (2, 24, 32, 3)).astype(np.float32)
    wanted = keras.Model(trained.input, [trained.get_layer(f"relu{name}").output for name in NAMES])
    found = network(pictures, training=False)
    assert [layer.name for layer in network.layers if isinstance(layer, keras.layers.Conv2D)] == [
        f"conv{name}" for name in NAMES
    ]
    for number, (maps, expected) in enumerate(zip(found, wanted(pictures, training=False), strict=True)):
        side = 2 ** (number // 2)
        assert maps.shape == expected.shape == (2, 24 // side, 32 // side, filters[number // 2])
        maps, expected = np.asarray(maps), np.asarray(expected)
        assert np.linalg.norm(maps - expected) < 5e-3 * np.linalg.norm(expected)


def test_folded_weights_are_those_by_hand_rounded_to_half_precision(monkeypatch):
    monkeypatch.setattr(canvas_network, "FILTERS", (3, 4, 5, 6))
    trained = as_if_trained()
    network = folded(trained)
    for name in NAMES:
        (before,) = trained.get_layer(f"conv{name}").get_weights()
        gamma, beta, mean, variance = (
            part.astype(np.float64) for part in trained.get_layer(f"norm{name}").get_weights()
        )
        kernel, bias = network.get_layer(f"conv{name}").get_weights()
        for found, expected in (
            (kernel, before * gamma / np.sqrt(variance + 1e-3)),
            (bias, beta - mean * gamma / np.sqrt(variance + 1e-3)),
        ):
            np.testing.assert_array_equal(found, found.astype(np.float16))
            np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-6)


def test_one_kernel_by_hand(monkeypatch):
    """The first map, of a picture whose edges are mirrored."""
    monkeypatch.setattr(canvas_network, "FILTERS", (3, 4, 5, 6))
    network = folded(as_if_trained())
    picture = np.random.default_rng(1).uniform(-1, 1, (17, 19, 3))
    kernel, bias = network.get_layer("conv1_1").get_weights()
    padded = np.pad(picture, [(1, 1), (1, 1), (0, 0)], mode="reflect")
    expected = np.zeros((17, 19, 3)) + bias
    for down in range(3):
        for across in range(3):
            expected += padded[down : down + 17, across : across + 19] @ kernel[down, across]
    found = network(picture[None].astype(np.float32))[0][0]
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)


# Patches


@pytest.fixture
def small(monkeypatch):
    """Two photos in place of all, of four and two parts, and two kinds of texture, of eight pictures."""
    tall, wide = (np.random.default_rng(seed).integers(0, 256, (192, 192, 3), np.uint8) for seed in (0, 1))
    monkeypatch.setattr(canvas_network, "photographs", lambda: {"tall": tall, "wide": wide[:100]})
    monkeypatch.setattr(canvas_network, "TEXTURES", {"bricks": None, "dots": None})
    monkeypatch.setattr(canvas_network, "TEXTURE_SEEDS", 8)


def test_each_part_of_a_photo_and_each_kind_of_texture_is_a_class(small):
    names = ["tall 48 48", "tall 48 144", "tall 144 48", "tall 144 144", "wide 48 48", "wide 48 144"]
    assert Patches(0).names == [*names, "bricks", "dots"]


def test_patches_are_eight_bit_pictures_of_all_classes_and_the_seed_decides_them(small):
    patches, labels = Patches(3).batch(200)
    assert patches.dtype == np.uint8 and patches.shape == (200, PATCH, PATCH, 3)
    assert labels.dtype == np.int32 and set(labels) == set(range(8))
    assert patches.std((1, 2, 3)).min() > 1 and len({patch.tobytes() for patch in patches}) == 200
    assert np.mean(labels < 6) == pytest.approx(0.6, abs=0.1)
    again, other = Patches(3).batch(20), Patches(4).batch(20)
    np.testing.assert_array_equal(again[0], patches[:20])
    np.testing.assert_array_equal(again[1], labels[:20])
    assert not np.array_equal(other[0], patches[:20])


def test_textures_that_are_held_out_are_drawn_with_seeds_that_training_leaves(small, monkeypatch):
    """An eighth of the seeds, which are dark here, the others bright."""
    asked: list[tuple[str, int]] = []

    def drawn(kind: str, seed: int, size: int) -> np.ndarray:
        asked.append((kind, seed))
        return np.full((size, size, 3), 0 if seed < 2 else 250, np.uint8)

    monkeypatch.setattr(canvas_network, "TEXTURE_SEEDS", 16)
    monkeypatch.setattr(canvas_network, "synthetic_texture", drawn)
    source = Patches(0)
    assert sorted(asked) == [(kind, seed) for kind in ("bricks", "dots") for seed in range(16)]
    for held_out in (False, True):
        patches, labels = source.batch(300, held_out)
        means = patches[labels >= 6].mean((1, 2, 3))
        assert len(means) > 80 and (means < 100 if held_out else means > 130).all()


def test_textures_of_different_seeds_differ():
    first, second = (synthetic_texture("bricks", seed, 64).astype(int) for seed in (0, 5))
    assert np.abs(first - second).mean() > 10


def test_in_its_midst_a_patch_shows_the_part_of_the_photo_that_it_is_named_after(small, monkeypatch):
    """One photo is dark on its left half, the other in its upper half."""
    left, upper = np.full((2, 2 * CELL, 2 * CELL, 3), 255, np.uint8)
    left[:, :CELL], upper[:CELL] = 0, 0
    monkeypatch.setattr(canvas_network, "photographs", lambda: {"left": left, "upper": upper})
    source = Patches(0)
    patches, labels = source.batch(400)
    middle = patches[:, 30:34, 30:34].mean((1, 2, 3))
    bright = np.array([False, True, False, True, False, False, True, True])
    of_photos = labels < 8
    assert set(labels[of_photos]) == set(range(8))
    np.testing.assert_array_equal(middle[of_photos] > 128, bright[labels[of_photos]])


def test_half_of_the_patches_are_mirrored(small, monkeypatch):
    """Of a picture that is bright on the left, at angles that do not turn it over."""
    patches = Patches(1)
    ramp = np.tile(np.linspace(255, 0, 256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    patches.textures = {kind: [ramp] * len(drawn) for kind, drawn in patches.textures.items()}
    images, labels = patches.batch(300)
    drawn = images[labels >= len(patches.cells)].astype(float)
    right = drawn[:, :, 40:].mean((1, 2, 3)) > drawn[:, :, :24].mean((1, 2, 3))
    assert 0.3 < right.mean() < 0.7


# The file


@pytest.mark.slow
def test_a_network_that_is_trained_again_is_the_same_file(small, monkeypatch, tmp_path, capsys):
    batch = Patches.batch
    monkeypatch.setattr(Patches, "batch", lambda self, count, held_out=False: batch(self, min(count, 60), held_out))
    monkeypatch.setattr(canvas_network, "FILTERS", (2, 3, 4, 5))
    monkeypatch.setattr(canvas_network, "BATCH", 4)
    files = []
    for name in ("one", "other"):
        keras.utils.clear_session()
        path = tmp_path / name / "network.keras"
        monkeypatch.setattr(sys, "argv", ["canvas_network", "--steps", "2", "--output", str(path)])
        canvas_network.main()
        files.append(path.read_bytes())
    assert files[0] == files[1]
    network = load_network(tmp_path / "one", "network")
    assert [maps.shape[-1] for maps in network.outputs] == [2, 2, 3, 3, 4, 4, 5, 5]
    said = capsys.readouterr().out
    for part in (", 2 classes\n", ", 6 classes\n", "network.keras: 910 parameters"):
        assert said.count(part) == 2
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["network.keras"]
