"""What the drawn faces promise: the same faces again, attributes that change their part alone, sitters and moments."""

from __future__ import annotations

import numpy as np
import pytest

from common.samples.face_portrait import Portrait
from common.samples.faces import FACE_ATTRIBUTES, synthetic_faces

MOMENTARY = [FACE_ATTRIBUTES.index(name) for name in ("smile", "looking_left", "bright_background")]


@pytest.fixture(scope="module")
def small() -> tuple[np.ndarray, np.ndarray]:
    return synthetic_faces(150, 3, 16)


def off_and_on(name: str, count: int = 10, **fixed: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the same faces without and with an attribute, as numbers, and check that no other label changes."""
    (off, without), (on, present) = (synthetic_faces(count, 5, **{name: value}, **fixed) for value in (0, 1))
    column = FACE_ATTRIBUTES.index(name)
    assert (without[:, column] == 0).all() and (present[:, column] == 1).all()
    np.testing.assert_array_equal(np.delete(without, column, 1), np.delete(present, column, 1))
    return off.astype(float), on.astype(float)


def place_of_mouth(**fixed: float | int) -> np.ndarray:
    """Return how far right the mouth is in each of six pictures, 0..1: the centre of what a smile changes."""
    calm, smiling = (synthetic_faces(6, 2, smile=smile, beard=0, **fixed)[0].astype(float) for smile in (0, 1))
    changed = np.abs(smiling - calm).sum((1, 3))
    return (changed * (np.arange(64) + 0.5) / 64).sum(1) / changed.sum(1)


@pytest.mark.parametrize("size", [16, 50, 64, 128])
def test_shapes_and_types(size):
    images, labels = synthetic_faces(3, 0, size)
    assert images.shape == (3, size, size, 3) and images.dtype == np.uint8
    assert labels.shape == (3, len(FACE_ATTRIBUTES)) and labels.dtype == np.uint8


def test_fewer_are_the_first_of_more(small):
    for whole, part in zip(small, synthetic_faces(7, 3, 16), strict=True):
        np.testing.assert_array_equal(whole[:7], part)


def test_no_two_are_alike_within_a_seed_or_between_seeds(small):
    other, labels = synthetic_faces(30, 4, 16)
    assert len({image.tobytes() for image in (*small[0], *other)}) == 180
    assert (labels != small[1][:30]).any()
    flat = small[0].reshape(150, -1).astype(float)
    apart = np.abs(flat[:, None] - flat).mean(2)
    assert apart[np.triu_indices(150, 1)].min() > 8


def test_attributes_come_as_often_as_said_and_independently(small):
    labels = small[1]
    assert set(np.unique(labels)) == {0, 1} and len(FACE_ATTRIBUTES) >= 8
    expected = [1 / 3 if name in ("glasses", "beard", "hat") else 1 / 2 for name in FACE_ATTRIBUTES]
    np.testing.assert_allclose(labels.mean(0), expected, atol=0.12)
    together = np.corrcoef(labels.T.astype(float)) - np.eye(len(FACE_ATTRIBUTES))
    assert np.abs(together).max() < 0.28


@pytest.mark.parametrize(("name", "rows"), [("smile", (0.4, 0.9)), ("glasses", (0.3, 0.62)), ("beard", (0.42, 1.0))])
def test_an_attribute_changes_its_part_alone(name, rows):
    off, on = off_and_on(name, hat=0)
    changed = np.abs(on - off).max(3) > 2
    top, bottom = (round(64 * row) for row in rows)
    assert not changed[:, :top].any() and not changed[:, bottom:].any()
    assert (changed.mean((1, 2)) > 0.02).all() and changed.mean() < 0.15


def test_a_hat_changes_the_top_and_leaves_the_face():
    off, on = off_and_on("hat")
    np.testing.assert_array_equal(off[:, 36:52, 28:36], on[:, 36:52, 28:36])
    assert (np.abs(on - off)[:, :14, 16:48].mean((1, 2, 3)) > 10).all()


def test_a_background_changes_around_the_face_alone():
    off, on = off_and_on("bright_background")
    np.testing.assert_array_equal(off[:, 30:48, 26:38], on[:, 30:48, 26:38])
    corners = np.s_[:, :4, [0, 1, 62, 63]]
    assert (on[corners].mean((1, 2, 3)) > off[corners].mean((1, 2, 3)) + 60).mean() > 0.6  # some hair reaches there
    assert on[corners].mean() > 160 and off[corners].mean() < 110


def test_skin_darkens_and_hair_and_background_stay():
    off, on = off_and_on("dark_skin", beard=0)
    cheeks = np.s_[:, 36:42, 24:40]
    assert (off[cheeks].mean((1, 2, 3)) > on[cheeks].mean((1, 2, 3)) + 40).all()
    np.testing.assert_array_equal(off[:, :2], on[:, :2])


def test_blond_hair_is_lighter_and_yellow_and_the_mouth_stays():
    off, on = off_and_on("blond", beard=0, hat=0, old=0)
    np.testing.assert_array_equal(off[:, 46:50, 30:34], on[:, 46:50, 30:34])
    changed = np.abs(on - off).sum(3) > 60
    hair = on[changed].mean(0)
    assert (hair > off[changed].mean(0) + 30).all() and hair[0] > hair[1] > hair[2] + 30


def test_age_greys_dark_hair_and_leaves_the_background():
    off, on = off_and_on("old", blond=0, hat=0, character=3)
    corners = np.s_[:, :3, [0, 63]]
    np.testing.assert_array_equal(off[corners], on[corners])
    hair = np.s_[:, 6:12, 26:38]
    assert (on[hair].mean((1, 2, 3)) > off[hair].mean((1, 2, 3)) + 15).all()
    assert (np.ptp(on[hair], 3).mean() / on[hair].mean()) < 0.6 * (np.ptp(off[hair], 3).mean() / off[hair].mean())


def test_a_smile_grows_with_its_strength():
    faces = [synthetic_faces(8, 1, smile=strength, beard=0)[0].astype(float) for strength in (0, 0.25, 0.5, 0.75, 1)]
    away = np.array([np.abs(face - faces[0]).mean((1, 2, 3)) for face in faces])
    assert (np.diff(away, axis=0) > 0).all()


def test_turning_moves_the_features_smoothly_from_right_to_left():
    places = np.array([place_of_mouth(looking_left=strength) for strength in (0, 0.25, 0.5, 0.75, 1)])
    steps = np.diff(places, axis=0)
    assert (steps < -0.004).all() and (steps > -0.07).all()
    assert (np.abs(places[2] - 0.5) < 0.06).all()


def test_characters_share_moments_and_keep_to_themselves():
    (first, ours), (second, theirs) = (synthetic_faces(12, 9, character=character) for character in (1, 2))
    np.testing.assert_array_equal(ours[:, MOMENTARY], theirs[:, MOMENTARY])
    np.testing.assert_array_equal(ours[:, MOMENTARY], synthetic_faces(12, 9)[1][:, MOMENTARY])
    for labels in (ours, theirs):
        assert (np.delete(labels, MOMENTARY, 1) == np.delete(labels, MOMENTARY, 1)[0]).all()
        assert (labels[:, MOMENTARY].std(0) > 0).all()
    assert (np.abs(first.astype(float) - second).mean((1, 2, 3)) > 10).all()
    assert (synthetic_faces(12, 10, character=1)[1][:, MOMENTARY] != ours[:, MOMENTARY]).any()


def test_characters_turn_alike():
    places = [place_of_mouth(character=character) for character in (1, 2)]
    assert np.ptp(places[0]) > 0.08
    np.testing.assert_allclose(*places, atol=0.04)


def test_one_face_at_two_sizes():
    small, large = (synthetic_faces(3, 8, size)[0].astype(float) for size in (64, 128))
    averaged = large.reshape(3, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - averaged).mean() < 5
    assert np.abs(small - np.roll(averaged, 1, 0)).mean() > 25


def test_an_unknown_attribute_is_answered_with_the_known():
    with pytest.raises(ValueError, match=f"'moustache' is not an attribute; choose from {', '.join(FACE_ATTRIBUTES)}"):
        synthetic_faces(1, 0, moustache=1)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range(strength):
    with pytest.raises(ValueError, match=r"smile must be from 0 to 1, got"):
        synthetic_faces(1, 0, smile=strength)


@pytest.mark.parametrize(
    ("what", "arguments"), [("count", (0, 0)), ("seed", (1, -1)), ("size", (1, 0, 15)), ("character", (1, 0, 64, -1))]
)
def test_too_small(what, arguments):
    with pytest.raises(ValueError, match=f"{what} must be [0-9]+ or more, got -?[0-9]+"):
        synthetic_faces(*arguments)


def test_a_range_of_strengths_is_sampled_for_each_face():
    images, labels = synthetic_faces(12, 3, 16, glasses=(0.0, 1.0), hat=(0.0, 0.0), smile=(0.5, 0.5))
    glasses, hat, smile = (labels[:, FACE_ATTRIBUTES.index(name)] for name in ("glasses", "hat", "smile"))
    assert set(glasses) == {0, 1} and not hat.any() and smile.all()
    for index in (0, 5):
        alone, _ = synthetic_faces(index + 1, 3, 16, glasses=float(glasses[index]), hat=0.0, smile=0.5)
        np.testing.assert_array_equal(alone[index], images[index])
    with pytest.raises(ValueError, match=r"smile must be from 0 to 1, got \(0.8, 0.2\)"):
        synthetic_faces(1, 0, 16, smile=(0.8, 0.2))


def test_uniform_leaves_the_ears_free_and_nobody_is_bald():
    strengths = dict.fromkeys(FACE_ATTRIBUTES, 0.0)
    cuts = [Portrait((0, 0, index), (2, 0, index), strengths, 16, uniform=True).cut for index in range(60)]
    assert {cut.sides for cut in cuts} == {-0.1, 0.0} and all(cut.hairline > -1 for cut in cuts)
    assert {cut.curl for cut in cuts} == {0.1, 0.2, 0.3}


def test_uniform_faces_have_plain_backgrounds_without_noise():
    for uniform, most in ((True, 1.5), (False, 20)):
        corner = synthetic_faces(12, 5, 64, uniform=uniform, **dict.fromkeys(("hat", "beard"), 0.0))[0][:, :6, :6]
        steps = np.abs(np.diff(corner.astype(int), axis=2)).max((1, 2, 3))
        assert (steps <= most).all() and (uniform or (steps >= 2).all())


def test_uniform_faces_wear_the_same_glasses():
    options = {"size": 64, "looking_left": 0.5, "dark_skin": 0.0, "old": 0.0}
    pairs = [synthetic_faces(6, 4, glasses=on, uniform=True, **options)[0].astype(float) for on in (0.0, 1.0)]
    changed = np.abs(pairs[1] - pairs[0]).max(axis=3) > 30
    darkest = pairs[1].max(axis=3)[:, 20:40, 10:54].min(axis=(1, 2))
    assert (darkest < 60).all() and changed[:, 22:36].any(axis=(1, 2)).all()
