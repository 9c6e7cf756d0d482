from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.data import Batches, PersonShift
from common.data.batches import batches
from common.data.people import ColourShift
from common.images import from_uint8, read_image, to_uint8
from common.images.writing import write_image
from common.metrics.latents import NormalMap
from common.runs import Run
from common.samples.faces import synthetic_faces
from common.system.files import InputError
from recipes import face_swap
from recipes.face_swap import Config, build, decode, encode, l1_loss, swap, swap_files, train, warp

TINY = Config(size=32, base_filters=4, latent_dim=8, batch_size=4, epochs=1)


@pytest.fixture(scope="module")
def networks():
    return build(TINY)


@pytest.mark.slow
def test_parameters_at_the_usual_size_counted_by_hand():
    """5 x 5 convolutions to 1024 maps of 4 x 4, 1024 units, then 2 x 2 transposed convolutions, the first shared."""
    networks = build()
    widths = [3, 128, 256, 512, 1024]
    convolutions = sum(25 * a * b + b for a, b in zip(widths, widths[1:], strict=False))
    assert networks.encoder.count_params() == convolutions + (16 * 1024 + 1) * 1024
    assert networks.inter.count_params() == (1024 + 1) * 16 * 1024 + 4 * 1024 * 512 + 512
    widths = [512, 256, 128, 64]
    up = sum(4 * a * b + b for a, b in zip(widths, widths[1:], strict=False))
    assert networks.decoder_a.count_params() == networks.decoder_b.count_params() == up + 9 * 64 * 3 + 3


@pytest.mark.parametrize("size", [16, 40, 272, 0])
def test_a_size_it_cannot_take(size):
    with pytest.raises(ValueError, match=f"size must be a multiple of 16 from 32 to 256, got {size}"):
        Config(size=size)
    assert build(Config(size=48, base_filters=1, latent_dim=1)).decoder_b.output_shape == (None, 48, 48, 3)


def test_the_loss_is_the_mean_absolute_difference():
    assert float(l1_loss(tf.constant([1.0, -1.0]), tf.constant([0.0, 0.5]))) == pytest.approx(1.25)


def test_dssim_is_that_of_windows_computed_one_by_one():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 2, 32, 32, 3)).astype(np.float32)
    found = []
    for top in range(0, 25, 4):
        for left in range(0, 25, 4):
            x, y = (part[:, top : top + 8, left : left + 8].astype(float).transpose(0, 3, 1, 2) for part in (a, b))
            x, y = (part.reshape(6, 64) for part in (x, y))
            covariances = [np.cov(one, other, bias=True) for one, other in zip(x, y, strict=True)]
            for mx, my, ((vx, c), (_, vy)) in zip(x.mean(1), y.mean(1), covariances, strict=True):
                brightness = (2 * mx * my + 0.0004) / (mx**2 + my**2 + 0.0004)
                found.append(brightness * (2 * c + 0.0036) / (vx + vy + 0.0036))
    assert float(face_swap.dssim_loss(a, b)) == pytest.approx((1 - np.mean(found)) / 2, abs=1e-5)
    assert float(face_swap.dssim_loss(a, a)) == pytest.approx(0, abs=1e-5)


def test_the_mask_is_1_at_the_eyes_and_the_mouth_and_symmetric():
    mask = face_swap.eyes_mouth_mask(64)[..., 0]
    assert mask.shape == (64, 64) and mask.max() <= 1
    for y, x in ((24, 21), (24, 42), (48, 32)):
        assert mask[y, x] > 0.95
    assert mask[:10].max() < 0.05 and mask[:, :5].max() < 0.05
    np.testing.assert_allclose(mask, mask[:, ::-1], atol=1e-6)


def test_light_networks_have_the_same_shapes_and_fewer_layers_at_high_resolution():
    light, full = (build(Config(size=48, base_filters=2, latent_dim=3, light=light)) for light in (True, False))
    assert light.encoder.output_shape == full.encoder.output_shape == (None, 3)
    assert light.inter.output_shape == full.inter.output_shape == (None, 6, 6, 8)
    assert light.decoder_a.output_shape == full.decoder_b.output_shape == (None, 48, 48, 3)
    first, last = light.encoder.layers[1], light.decoder_a.layers[-1]
    assert first.kernel.shape == (8, 8, 3, 2) and first.strides == (4, 4) and last.kernel.shape == (4, 4, 3, 2)


# %% Warping


@pytest.mark.parametrize("size", [32, 64, 33])
def test_no_displacement_changes_nothing(size):
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    np.testing.assert_array_equal(warp(tf.constant(images), tf.zeros((2, 5, 5, 2))), images)


@pytest.mark.parametrize("largest", [1.0, 5.0, 40.0])
def test_the_warp_is_that_of_another_library(largest):
    from scipy.ndimage import map_coordinates, zoom

    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 48, 48, 3))
    moves = rng.uniform(-largest, largest, (3, 5, 5, 2))
    found = warp(tf.constant(images, tf.float32), tf.constant(moves, tf.float32)).numpy()
    still = np.mgrid[:48, :48].astype(float)
    for image, move, result in zip(images, moves, found, strict=True):
        places = still + [zoom(move[..., axis], 48 / 5, order=1, grid_mode=False) for axis in (0, 1)]
        for channel in range(3):
            expected = map_coordinates(image[..., channel], places, order=1, mode="nearest")
            np.testing.assert_allclose(result[..., channel], expected, atol=2e-4)


def test_an_even_displacement_moves_the_picture_that_far_and_the_edge_goes_on():
    image = np.arange(32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)
    moves = tf.tile(tf.constant([3.0, -2.0]), [25])
    moved = warp(tf.constant(image), tf.reshape(moves, (1, 5, 5, 2))).numpy()
    expected = np.pad(image, ((0, 0), (0, 3), (2, 0), (0, 0)), mode="edge")[:, 3:, :32]
    np.testing.assert_allclose(moved, expected, atol=1e-3)


# %% Training


def faces(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def captured(monkeypatch, config, networks):
    """Return the step that `train` would take, and the state it would save."""
    given = {}

    def spy(step, data, epochs, state, *_, **__):
        given.update(step=step, state=state)
        return []

    monkeypatch.setattr(face_swap, "fit", spy)
    train(networks, Batches.zip(batches(faces(4, 0), 4, 0), batches(faces(6, 1), 4, 0)), config)
    return given


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_each_decoder_learns_from_its_own_person_alone(monkeypatch):
    """What the other person's photos are makes no difference to a decoder's gradient, hence to its first step."""
    after = []
    for other in (1, 2):
        networks = build(TINY)
        given = captured(monkeypatch, TINY, networks)
        given["step"](tf.constant(faces(4, 0)), tf.constant(faces(4, other)))
        after.append([variable.numpy() for variable in networks.decoder_a.trainable_variables])
        after.append([variable.numpy() for variable in networks.decoder_b.trainable_variables])
    assert all(np.array_equal(a, b) for a, b in zip(after[0], after[2], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(after[1], after[3], strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_a_step_takes_the_plain_face_as_target_and_the_warped_one_as_input(monkeypatch):
    """The first step's losses, worked out from its parts."""
    config = Config(size=32, base_filters=4, latent_dim=8, batch_size=4, mirror=False, warp=0.1, seed=3)
    networks = build(config)
    given = captured(monkeypatch, config, networks)
    a, b = faces(4, 0), faces(4, 1)
    state = given["state"]["noise"].generator.state.numpy()
    seeds = face_swap.keras.random.SeedGenerator(0)
    seeds.state.assign(state)
    moves = face_swap.keras.random.normal((8, 5, 5, 2), stddev=3.2, seed=seeds)
    warped = warp(from_uint8(np.concatenate([a, b])), moves)
    codes = networks.inter(networks.encoder(warped))
    expected = [
        np.abs(networks.decoder_a(codes[:4]).numpy() - from_uint8(a).numpy()).mean(),
        np.abs(networks.decoder_b(codes[4:]).numpy() - from_uint8(b).numpy()).mean(),
    ]
    losses = given["step"](tf.constant(a), tf.constant(b))
    np.testing.assert_allclose([losses["l1_a"], losses["l1_b"]], expected, rtol=1e-5)


@pytest.mark.usefixtures("untraced")
def test_the_warp_decays_to_0(monkeypatch):
    config = Config(size=32, base_filters=1, latent_dim=2, batch_size=4, mirror=False, warp_decay=True, epochs=2)
    given = captured(monkeypatch, config, build(config))  # two steps
    seen = []
    monkeypatch.setattr(face_swap, "warp", lambda images, moves: seen.append(moves.numpy()) or images)
    monkeypatch.setattr(given["state"]["noise"], "normal", lambda shape: tf.ones((8, 5, 5, 2)))
    for done in range(3):
        given["state"]["optimizer"].iterations.assign(done)
        given["step"].python_function(tf.constant(faces(4, 0)), tf.constant(faces(4, 1)))
    np.testing.assert_allclose([moves.mean() for moves in seen], [0.96, 0.48, 0], atol=1e-6)


@pytest.mark.slow
def test_mirrored_faces_are_targets_too(monkeypatch):
    config = Config(size=32, base_filters=4, latent_dim=8, batch_size=4, warp=0.0)
    networks = build(config)
    given = captured(monkeypatch, config, networks)
    monkeypatch.setattr(face_swap, "warp", lambda images, moves: seen.append(images) or images)
    seen = []
    half = np.zeros((4, 32, 32, 3), np.uint8)
    half[:, :, 16:] = 255
    for _ in range(8):
        given["step"].python_function(tf.constant(half), tf.constant(half))
    right = np.concatenate([images.numpy()[:, 0, -1, 0] for images in seen]) > 0
    assert 12 < right.sum() < 52  # of 64; both bounds are five standard deviations away
    assert all(np.array_equal(np.unique(images.numpy()), [-1, 1]) for images in seen)


# %% Use


def test_a_swap_reads_the_latents_of_one_with_the_decoder_of_the_other(networks):
    encoder, inter, decoder_a, decoder_b = networks
    images, rng = faces(3, 5), np.random.default_rng(0)
    colours = ColourShift(np.array([0.9, 1.1, 1.0]), np.array([10.0, -20.0, 0.0]))
    matrix = np.eye(8) + 0.2 * rng.uniform(size=(8, 8))
    shift = PersonShift(colours, NormalMap(matrix @ matrix.T, rng.normal(size=8), rng.normal(size=8)))
    moved = np.clip(np.round(images * colours.factor + colours.offset), 0, 255).astype(np.uint8)
    latents = (encoder(from_uint8(moved)).numpy() - shift.latents.source) @ shift.latents.matrix + shift.latents.target
    expected = to_uint8(decoder_b(inter(latents.astype(np.float32))))
    assert np.abs(swap(networks, images, "a2b", shift).astype(int) - expected).max() <= 1
    latents = encoder(from_uint8(images)).numpy() - shift.latents.target
    latents = latents @ np.linalg.inv(shift.latents.matrix) + shift.latents.source
    drawn = to_uint8(decoder_a(inter(latents.astype(np.float32)))).astype(np.float64)
    expected = np.clip(np.round((drawn - colours.offset) / colours.factor), 0, 255)
    assert np.abs(swap(networks, images, "b2a", shift).astype(int) - expected).max() <= 2


def test_many_faces_are_coded_and_decoded_as_one_by_one(networks):
    images = faces(103, 6)
    latents = encode(networks.encoder, images)
    many = decode(networks.inter, networks.decoder_a, latents)
    assert many.shape == images.shape and many.dtype == np.uint8
    np.testing.assert_allclose(latents[101:102], encode(networks.encoder, images[101:102]), atol=1e-5)
    one = decode(networks.inter, networks.decoder_a, latents[101:102])
    assert np.abs(many[101:102].astype(int) - one).max() <= 1


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of two people in an .npz, which are few and ready."""
    np.savez(tmp_path / "faces.npz", a=synthetic_faces(12, 1, 32, 11)[0], b=synthetic_faces(9, 2, 32, 8)[0])
    face_swap.run(str(tmp_path / "faces.npz"), TINY, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_a_run_on_own_faces_and_a_photo(run, tmp_path):
    settings = json.loads((run / "config.json").read_text())
    assert settings["classes"] == ["A", "B"] and json.loads((run / "results.json").read_text()) == {}
    people = np.load(tmp_path / "faces.npz")
    (colours, latents), a, b = PersonShift.read(run / "shift.npz"), people["a"], people["b"]
    a, b = a[np.arange(12) != 9], b[:8]  # the tenth, or the last, is held out
    mean_a, mean_b, spread_a, spread_b = (f(x.reshape(-1, 3), 0) for f in (np.mean, np.std) for x in (a, b))
    np.testing.assert_allclose(mean_a * colours.factor + colours.offset, mean_b, atol=1e-6)
    np.testing.assert_allclose(colours.factor, spread_b / spread_a, rtol=1e-6)
    encoder = Run.load(run, "face_swap", Config).network("encoder")
    expected = NormalMap.between(encode(encoder, colours.there(a)), encode(encoder, b))
    np.testing.assert_allclose(latents.matrix, expected.matrix, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(latents.target, encode(encoder, b).mean(0), atol=1e-5)
    write_image(synthetic_faces(1, 3, 128, character=11)[0][0], tmp_path / "photo.png")
    for direction in ("a2b", "b2a"):
        target = swap_files(tmp_path / "photo.png", tmp_path / f"{direction}.jpg", direction, run=run)
        with Image.open(target) as picture:
            assert picture.size == (128, 128) and "Synthetic face" in picture.getexif()[270]
    both = [read_image(tmp_path / f"{direction}.jpg") for direction in ("a2b", "b2a")]
    assert not np.array_equal(*both)


@pytest.mark.slow
def test_a_photo_without_a_face_and_a_format_without_room_for_the_marks(run, tmp_path):
    write_image(np.zeros((80, 80, 3), np.uint8), tmp_path / "black.png")
    with pytest.raises(InputError, match="black.png: no face was found"):
        swap_files(tmp_path / "black.png", tmp_path / "out.png", run=run)
    with pytest.raises(InputError, match="cannot store metadata"):
        swap_files(tmp_path / "black.png", tmp_path / "out.bmp", run=run)


@pytest.mark.slow
def test_two_tints_under_changing_light_are_learnt_and_swapped():
    """Each person is a tint and each moment the direction of the light: the light must stay, the tint must change."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j][..., None]

    def people(tint: tuple[int, int, int], lights: np.ndarray) -> np.ndarray:
        shades = [128 + 70 * (down * y + right * x) + np.array(tint) for down, right in lights]
        return np.clip(np.stack(shades), 0, 255).astype(np.uint8)

    config = Config(size=32, base_filters=8, latent_dim=8, up_kernel=4, mirror=False, learning_rate=2e-3, epochs=15)
    rng = np.random.default_rng(0)
    red, blue = (40, 0, -40), (-40, 0, 40)
    a, b = (people(tint, rng.uniform(-0.7, 0.7, (160, 2))) for tint in (red, blue))
    networks = build(config)
    train(networks, Batches.zip(batches(a, 16, 0), batches(b, 16, 1)), config)
    lights = rng.uniform(-0.7, 0.7, (32, 2))
    asked, truth = people(red, lights), people(blue, lights)
    still = NormalMap(np.eye(8), np.zeros(8), np.zeros(8))
    moved = NormalMap.between(encode(networks.encoder, a), encode(networks.encoder, b))
    errors = [
        np.abs(swap(networks, asked, "a2b", PersonShift(ColourShift(np.ones(3), np.zeros(3)), way)) - truth.astype(int))
        for way in (still, moved)
    ]
    copied, blind = np.abs(asked - truth.astype(int)).mean(), np.abs(b.mean(0) - truth).mean()
    assert errors[1].mean() < 0.4 * min(copied, blind)
    assert errors[1].mean() < errors[0].mean()


def test_a_run_of_an_earlier_version_has_its_old_names(tmp_path):
    stored = {"recipe": "face_swap", "data": "sample", "config": {"size": 32, "deviation": False, "xla": False}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert Run.load(tmp_path, "face_swap", Config).config == Config(size=32, match_deviation=False)
