from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.latents import great_circle, nearest, nearest_neighbour_purity, save_scatter, tsne


def test_nearest_equals_sorted_distances():
    generator = np.random.default_rng(0)
    latents, queries = generator.normal(size=(50, 3)), generator.normal(size=(4, 3))
    distances = np.linalg.norm(queries[:, None] - latents, axis=-1)
    np.testing.assert_array_equal(nearest(latents, queries, 5), distances.argsort(1)[:, :5])


def test_purity_equals_a_count_by_hand():
    latents = np.array([[0.0], [1.0], [3.0], [10.0], [11.5]])
    labels = np.array([0, 0, 1, 1, 1])
    # the two nearest others: of 0: 1, 3; of 1: 0, 3; of 3: 1, 0; of 10: 11.5, 3; of 11.5: 10, 3
    assert nearest_neighbour_purity(latents, labels, 2) == pytest.approx((0.5 + 0.5 + 0 + 1 + 1) / 5)


def test_purity_is_chance_for_noise_and_one_for_clusters():
    generator = np.random.default_rng(0)
    labels = np.arange(1000) % 4
    noise = generator.normal(size=(1000, 2))
    assert nearest_neighbour_purity(noise, labels) == pytest.approx(0.25, abs=0.03)
    assert nearest_neighbour_purity(noise * 0.01 + labels[:, None], labels) == 1


def test_purity_of_equal_latents_leaves_each_one_out_of_its_own_count():
    labels = np.arange(40) % 2
    purity = nearest_neighbour_purity(np.zeros((40, 2)), labels, 5)
    assert 0 < purity < 1
    assert nearest_neighbour_purity(np.zeros((4, 2)), np.array([0, 0, 0, 0])) == 1


@pytest.mark.slow
def test_tsne_keeps_clusters_and_repeats_itself():
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    latents = generator.normal(size=(90, 10)) * 0.1 + np.eye(10)[labels] * 5
    points = tsne(latents, 0)
    assert points.shape == (90, 2) and points.dtype == np.float32
    assert nearest_neighbour_purity(points, labels, 5) == 1
    np.testing.assert_array_equal(points, tsne(latents, 0))


@pytest.mark.slow
def test_tsne_of_very_few():
    assert tsne(np.eye(4), 0).shape == (4, 2)


@pytest.mark.parametrize("count", [1, 10, 15, 30, 62])
def test_a_scatter_has_the_colour_of_each_class(tmp_path, count):
    labels = np.repeat(np.arange(count), 30)
    points = np.stack([labels, labels % 7], 1) + np.random.default_rng(0).normal(size=(len(labels), 2)) * 0.05
    path = save_scatter(points, labels, tuple(f"$class {n}" for n in range(count)), tmp_path / "map.png", "t-SNE")
    colours = np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > count


def test_a_great_circle_begins_and_ends_where_it_should_in_even_steps_on_the_sphere():
    start, end = np.random.default_rng(0).normal(size=(2, 50))
    start, end = (each / np.linalg.norm(each) * 7 for each in (start, end))
    way = great_circle(start, end, 9)
    np.testing.assert_allclose(way[[0, -1]], [start, end], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), 7)
    turns = np.arccos((way[1:] * way[:-1]).sum(1) / 49)
    np.testing.assert_allclose(turns, turns[0])
    for ends, steps in (((start, start), 5), ((start, end), 1)):
        with pytest.raises(ValueError, match="two different ends and 2 steps or more"):
            great_circle(*ends, steps)
