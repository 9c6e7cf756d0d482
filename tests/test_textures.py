from __future__ import annotations

import numpy as np
import pytest

from common.samples.textures import TEXTURES, synthetic_texture
from common.system.files import InputError


@pytest.mark.parametrize("kind", TEXTURES)
@pytest.mark.parametrize("size", [33, 64])
def test_every_kind_is_a_picture_with_contrast_that_the_seed_decides(kind, size):
    image = synthetic_texture(kind, 5, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert image.std((0, 1)).max() > 4
    np.testing.assert_array_equal(synthetic_texture(kind, 5, size), image)
    assert np.abs(synthetic_texture(kind, 6, size).astype(int) - image).mean() > 4


def test_kinds_of_one_seed_are_different_pictures():
    drawn = [synthetic_texture(kind, 1, 32).astype(int) for kind in TEXTURES]
    for number, image in enumerate(drawn):
        assert min(np.abs(image - other).mean() for other in drawn[:number] + drawn[number + 1 :]) > 2


def test_what_was_drawn_before_changes_nothing():
    alone = synthetic_texture("swirls", 3, 48)
    np.random.seed(0)
    synthetic_texture("fur", 3, 48)
    np.testing.assert_array_equal(synthetic_texture("swirls", 3, 48), alone)


def test_a_larger_one_shows_the_same_in_more_pixels():
    """Places of 41 pixels are every second of 81."""
    for kind in ("clouds", "mosaic", "swirls", "rings"):
        small, large = synthetic_texture(kind, 2, 41).astype(int), synthetic_texture(kind, 2, 81).astype(int)
        assert np.quantile(np.abs(large[::2, ::2] - small), 0.9) <= 2


def test_a_kind_that_is_none():
    with pytest.raises(InputError, match="'fluff' is not a known texture; choose from stripes, .*fur.*mosaic"):
        synthetic_texture("fluff", 0)
