from __future__ import annotations

import numpy as np

from common.samples import paintings
from common.samples.paintings import FIELD, SKY, SUN, TREES, synthetic_painting


def test_a_painting_that_the_seed_decides():
    image = synthetic_painting(0, 64)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    image[:] = 0  # a copy: what is kept stays as it is
    again = synthetic_painting(0, 64)
    assert again.std() > 30
    paintings._painted.cache_clear()
    np.testing.assert_array_equal(synthetic_painting(0, 64), again)
    assert 3 < np.abs(synthetic_painting(1, 64).astype(int) - again).mean() < 40  # other strokes, the same scene


def test_the_sky_is_blue_the_sun_and_the_field_are_yellow_and_the_trees_are_dark():
    image = synthetic_painting(0, 96).astype(int)
    part, _, _ = paintings._scene(np.random.default_rng(0), 96)
    sky, sun, field, trees = (image[part == number].mean(0) for number in (SKY, SUN, FIELD, TREES))
    assert sky[2] - sky[0] > 50 and sun[0] - sun[2] > 25 and field[0] - field[2] > 40
    assert trees.max() < 120 < min(sky.max(), sun.max(), field.max())


def test_strokes_around_the_sun_are_at_right_angles_to_its_rays():
    _, _, direction = paintings._scene(np.random.default_rng(0), 200)
    for angle in np.linspace(0, 2 * np.pi, 9):
        ray = np.array([np.cos(angle), np.sin(angle)])
        x, y = (200 * (np.array([paintings.SUN_X, paintings.SUN_Y]) + 0.075 * ray)).astype(int)
        found = direction[y, x]
        assert abs(ray @ [np.cos(found), np.sin(found)]) < 0.3


def test_strokes_follow_the_direction_and_end_where_another_part_begins():
    """In a scene of two parts, left and right, whose strokes are all level."""
    part = np.repeat([[SKY] * 40 + [FIELD] * 40], 80, 0)
    tone, direction = np.full((80, 80), 0.5), np.zeros((80, 80))
    lines, tints = paintings._strokes(np.random.default_rng(0), part, tone, direction, 200, 30, 6)
    assert len(lines) == len(tints) > 100
    own = []  # whether the stroke has a colour of its part
    for bristles, colours in zip(lines, tints, strict=True):
        places = np.array(bristles) / 16
        assert np.ptp(places[..., 1], axis=1).max() <= 3.3  # the ends of a stroke are narrower than its middle
        assert np.all(np.diff(places[..., 0], axis=1) > 0)
        start = int(places[0, 0, 0])
        if start < 39:
            assert places[..., 0].max() < 40 + 30 * 1.3 / 9
        own.append((colours[0][2] > colours[0][0]) == (start < 40))
    assert 0.6 < np.mean(own) < 0.95  # a quarter of the strokes have colours of another part
