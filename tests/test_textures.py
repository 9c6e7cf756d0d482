from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from common.textures import TEXTURES, drawn_texture


@pytest.mark.parametrize("kind", TEXTURES)
@pytest.mark.parametrize("size", [33, 64])
def test_every_kind_is_a_picture_with_contrast_that_the_seed_decides(kind, size):
    image = drawn_texture(kind, 5, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert image.std((0, 1)).max() > 4
    np.testing.assert_array_equal(drawn_texture(kind, 5, size), image)
    assert np.abs(drawn_texture(kind, 6, size).astype(int) - image).mean() > 4


def test_kinds_of_one_seed_are_different_pictures():
    drawn = [drawn_texture(kind, 1, 32).astype(int) for kind in TEXTURES]
    for number, image in enumerate(drawn):
        assert min(np.abs(image - other).mean() for other in drawn[:number] + drawn[number + 1 :]) > 2


def test_what_was_drawn_before_changes_nothing():
    alone = drawn_texture("swirls", 3, 48)
    np.random.seed(0)
    drawn_texture("fur", 3, 48)
    np.testing.assert_array_equal(drawn_texture("swirls", 3, 48), alone)


def test_a_larger_one_shows_the_same_in_more_pixels():
    """Places of 41 pixels are every second of 81."""
    for kind in ("clouds", "mosaic", "swirls", "rings"):
        small, large = drawn_texture(kind, 2, 41).astype(int), drawn_texture(kind, 2, 81).astype(int)
        assert np.quantile(np.abs(large[::2, ::2] - small), 0.9) <= 2


def test_a_kind_that_is_none():
    with pytest.raises(InputError, match="'fluff' is no texture; choose from stripes, .*fur.*mosaic"):
        drawn_texture("fluff", 0)
