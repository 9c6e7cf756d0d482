"""What the drawn seasons promise: the same scenes again, one geometry for both, and more than a change of palette."""

from __future__ import annotations

import numpy as np
import pytest

from common.samples.seasons import SEASONS, synthetic_seasons, unpaired_seasons


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    return synthetic_seasons(40, 3)


def outlines(pictures: np.ndarray) -> np.ndarray:
    """Return where grey levels differ from the neighbour's below, as ranks 0..1 within each picture."""
    steps = np.abs(np.diff(pictures.astype(float).mean(3), axis=1))
    return steps.reshape(len(steps), -1).argsort(1).argsort(1) / steps[0].size


def transferred(source: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Give each channel of a set the mean and deviation that the reference set has, still within 0..1."""
    axes = (0, 1, 2)
    scale = reference.std(axes) / source.std(axes)
    return np.clip((source - source.mean(axes)) * scale + reference.mean(axes), 0, 1)


def opponent(pictures: np.ndarray, back: bool = False) -> np.ndarray:
    """Turn 0..1 RGB into the logarithmic opponent colours of Reinhard et al. (doi:10.1109/38.946629), or back."""
    cones = np.array([(0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444)])
    mixing = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([(1, 1, 1), (1, 1, -2), (1, -1, 0)])
    if back:
        return np.clip(10 ** (pictures @ np.linalg.inv(mixing).T) @ np.linalg.inv(cones).T, 0, 1)
    return np.log10(np.maximum(pictures, 1 / 255) @ cones.T) @ mixing.T


def opponent_transfer(source: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Transfer means and deviations in opponent colours."""
    source, reference = opponent(source), opponent(reference)
    axes = (0, 1, 2)
    scale = reference.std(axes) / source.std(axes)
    return opponent((source - source.mean(axes)) * scale + reference.mean(axes), back=True)


@pytest.mark.parametrize("size", [16, 50, 64, 128])
@pytest.mark.parametrize("draw", [synthetic_seasons, unpaired_seasons])
def test_shapes_and_types(draw, size):
    seasons = draw(2, 0, size)
    assert len(seasons) == len(SEASONS)
    for pictures in seasons:
        assert pictures.shape == (2, size, size, 3) and pictures.dtype == np.uint8
        assert pictures.std((1, 2)).min() > 8


@pytest.mark.parametrize("draw", [synthetic_seasons, unpaired_seasons])
def test_fewer_are_the_first_of_more_whatever_is_drawn_between(draw):
    whole = draw(6, 3)
    draw(1, 9)
    for more, fewer in zip(whole, draw(3, 3), strict=True):
        np.testing.assert_array_equal(more[:3], fewer)


def test_no_two_scenes_are_alike_within_a_seed_or_between_seeds(pairs):
    for first, other in zip(pairs, synthetic_seasons(12, 4), strict=True):
        flat = np.concatenate([first, other])[:, ::2, ::2].reshape(52, -1).astype(np.float32)
        apart = np.abs(flat[:, None] - flat).mean(2)
        assert apart[np.triu_indices(52, 1)].min() > 8


def test_unpaired_sets_share_no_scene(pairs):
    summer, winter = unpaired_seasons(40, 3)
    own = (outlines(pairs[0]) - 0.5).reshape(40, -1)
    summer_lines, winter_lines = ((outlines(p) - 0.5).reshape(40, -1) for p in (summer, winter))
    same = 12 * (own * (outlines(pairs[1]) - 0.5).reshape(40, -1)).mean(1)  # rank correlations
    crossed = 12 * summer_lines @ winter_lines.T / own.shape[1]
    assert crossed.max() < np.quantile(same, 0.7) and np.diag(crossed).mean() < same.mean() - 0.25
    for pictures, drawn in ((summer, pairs[0]), (winter, pairs[1])):
        flat, other = (p[:, ::2, ::2].reshape(40, -1).astype(np.float32) for p in (pictures, drawn))
        assert np.abs(flat[:, None] - other).mean(2).min() > 8


def test_unpaired_sets_show_the_same_kinds_of_scene(pairs):
    for pictures, drawn in zip(unpaired_seasons(40, 3), pairs, strict=True):
        np.testing.assert_allclose(pictures.mean((0, 1, 2)), drawn.mean((0, 1, 2)), atol=12)


def test_both_seasons_share_the_outlines_of_each_scene(pairs):
    summer, winter = (outlines(pictures) - 0.5 for pictures in pairs)
    own = 12 * (summer * winter).mean(1)  # the rank correlation
    others = 12 * (summer * np.roll(winter, 1, 0)).mean(1)
    assert own.mean() > others.mean() + 0.25 and (own > others).mean() > 0.95


def test_the_meadow_is_green_in_summer_and_white_in_winter(pairs):
    summer, winter = (pictures[:, 48:].astype(float) for pictures in pairs)
    green = (summer[..., 1] > summer[..., 0] + 8) & (summer[..., 1] > summer[..., 2] + 25)
    assert green.mean() > 0.4
    still = (winter[..., 1] > winter[..., 0] + 8) & (winter[..., 1] > winter[..., 2] + 25)
    assert still.mean() < 0.02
    assert np.median(winter[green].min(1)) > 190 and np.median(np.ptp(winter[green], 1)) < 25


def test_the_sky_stays_and_white_comes_with_winter(pairs):
    summer, winter = (pictures.astype(float) for pictures in pairs)
    changed = np.abs(winter - summer).mean(3)
    assert changed[:, :6].mean() < 0.4 * changed[:, 40:].mean()
    white = [(pictures.min(3) > 200)[:, 24:].mean() for pictures in (summer, winter)]
    assert white[0] < 0.03 and white[1] > 0.25


def test_neither_doing_nothing_nor_a_colour_transfer_gets_near(pairs):
    summer, winter = (pictures / 255 for pictures in pairs)
    unchanged = np.abs(summer - winter).mean()
    assert 0.15 < unchanged < 0.24
    unpaired = [pictures / 255 for pictures in unpaired_seasons(40, 3)]
    for guess in (
        transferred(summer, winter),
        transferred(summer, unpaired[1]),
        opponent_transfer(summer, unpaired[1]),
    ):
        assert np.abs(guess - winter).mean() > 0.6 * unchanged


def test_one_scene_at_two_sizes():
    for small, large in zip(synthetic_seasons(4, 8, 64), synthetic_seasons(4, 8, 128), strict=True):
        averaged = large.reshape(4, 64, 2, 64, 2, 3).astype(float).mean((2, 4))
        apart = np.abs(small - averaged).mean()
        assert apart < 9 and apart < 0.4 * np.abs(small - np.roll(averaged, 1, 0)).mean()


@pytest.mark.parametrize("draw", [synthetic_seasons, unpaired_seasons])
@pytest.mark.parametrize(
    ("count", "seed", "size", "line"),
    [
        (0, 0, 64, "count must be 1 or more, got 0"),
        (1, -1, 64, "seed must be 0 or more, got -1"),
        (1, 0, 15, "size must be 16 or more, got 15"),
    ],
)
def test_bad_input_is_one_clear_line(draw, count, seed, size, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        draw(count, seed, size)
