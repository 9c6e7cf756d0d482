"""What the drawn streets promise: the same scene again, classes that mean something, light that varies."""

from __future__ import annotations

import numpy as np
import pytest

from common.samples.streets import BUILDING, CAR, ROAD, SKY, STREET_CLASSES, TREE, draw_street, street_pairs


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    return street_pairs(24, 64)


def test_class_names_are_the_first_ten_of_the_colour_table():
    assert STREET_CLASSES == (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    )  # fmt: skip
    assert [STREET_CLASSES[c] for c in (SKY, BUILDING, ROAD, TREE, CAR)] == ["sky", "building", "road", "tree", "car"]


@pytest.mark.parametrize("size", [64, 96, 256])
def test_shapes_and_types(size):
    labels, photo = draw_street(3, size)
    assert labels.shape == (size, size) and labels.dtype == np.uint8
    assert photo.shape == (size, size, 3) and photo.dtype == np.uint8
    assert labels.max() < len(STREET_CLASSES)


def test_a_seed_means_one_scene(pairs):
    for first, second in zip(draw_street(11, 64), draw_street(11, 64), strict=True):
        np.testing.assert_array_equal(first, second)
    assert len({labels.tobytes() for labels in pairs[0]}) == len({photo.tobytes() for photo in pairs[1]}) == 24


def test_a_scene_does_not_depend_on_what_was_drawn_before():
    alone = draw_street(5, 64)
    street_pairs(2, 64, seed=9)
    np.testing.assert_array_equal(alone[1], draw_street(5, 64)[1])


def test_ranges_of_a_row_join_and_rows_differ(pairs):
    for whole, part in zip(pairs, street_pairs(2, 64, first=3), strict=True):
        np.testing.assert_array_equal(whole[3:5], part)
    other = street_pairs(3, 64, seed=1)
    assert not {photo.tobytes() for photo in other[1]} & {photo.tobytes() for photo in pairs[1]}


def test_every_class_has_a_sensible_share(pairs):
    labels, _ = pairs
    share = np.bincount(labels.ravel(), minlength=10) / labels.size
    assert share.shape == (10,)
    assert (share > 0.002).all() and (share < 0.45).all()
    for name in ("sky", "building", "road"):
        number = STREET_CLASSES.index(name)
        assert (labels == number).mean((1, 2)).min() > 0.01
    rows = {c: np.nonzero(labels == c)[1].mean() for c in (SKY, BUILDING, ROAD)}
    assert rows[SKY] < rows[BUILDING] < rows[ROAD]


def test_photos_use_the_range(pairs):
    brightness = pairs[1].mean((1, 2, 3))
    assert brightness.min() > 40 and brightness.max() < 215
    assert (pairs[1].std((1, 2, 3)) > 15).all()
    assert pairs[1].min() < 15 and pairs[1].max() > 245


def explained_share(labels: np.ndarray, photo: np.ndarray) -> float:
    """Share of a photo's colour variance that the mean colours of its classes explain."""
    photo = photo.astype(float)
    means = np.zeros_like(photo)
    for number in np.unique(labels):
        means[labels == number] = photo[labels == number].mean(0)
    return 1 - ((photo - means) ** 2).sum() / ((photo - photo.mean((0, 1))) ** 2).sum()


def test_edges_of_labels_and_photo_agree(pairs):
    """A scene's labels explain its colours better where they are than a pixel to any side."""
    moves = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    shares = np.array(
        [
            [explained_share(np.roll(labels, move, (0, 1)), photo) for move in moves]
            for labels, photo in zip(*(half[:20] for half in pairs), strict=True)
        ]
    )
    assert shares[:, 0].mean() > 0.5
    assert (shares.argmax(1) == 0).mean() >= 0.8


def test_one_scene_at_two_sizes():
    for seed in range(6):
        small, large = draw_street(seed, 64), draw_street(seed, 128)
        assert (small[0] == large[0][::2, ::2]).mean() > 0.9
        averaged = large[1].reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(small[1] - averaged).mean() < 6


def test_a_label_map_does_not_determine_its_photo(pairs):
    labels, photos = pairs
    for number, least in ((ROAD, 15), (SKY, 8), (BUILDING, 15)):
        colours = np.array([photo[mask].mean(0) for photo, mask in zip(photos, labels == number, strict=True)])
        assert (colours.std(0) > least).all()


def test_the_sun_is_brighter_on_the_road_than_its_shadow():
    """A clear day has roads with two levels of light; the brightest and darkest tenths lie far apart."""
    spreads = []
    for seed in range(20):
        labels, photo = draw_street(seed, 64)
        road = photo[labels == ROAD].mean(1)
        spreads.append(np.percentile(road, 90) - np.percentile(road, 10))
    assert max(spreads) > 70
