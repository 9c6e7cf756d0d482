from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.metrics.latents import great_circle, knn_agreement, nearest, save_latents, save_scatter, tsne


def test_nearest_equals_sorted_distances():
    generator = np.random.default_rng(0)
    latents, queries = generator.normal(size=(50, 3)), generator.normal(size=(4, 3))
    distances = np.linalg.norm(queries[:, None] - latents, axis=-1)
    np.testing.assert_array_equal(nearest(latents, queries, 5), distances.argsort(1)[:, :5])


def test_agreement_equals_a_count_by_hand():
    latents = np.array([[0.0], [1.0], [3.0], [10.0], [11.5]])
    labels = np.array([0, 0, 1, 1, 1])
    # the two nearest others: of 0: 1, 3; of 1: 0, 3; of 3: 1, 0; of 10: 11.5, 3; of 11.5: 10, 3
    assert knn_agreement(latents, labels, 2) == pytest.approx((0.5 + 0.5 + 0 + 1 + 1) / 5)


def test_agreement_is_chance_for_noise_and_one_for_clusters():
    generator = np.random.default_rng(0)
    labels = np.arange(1000) % 4
    noise = generator.normal(size=(1000, 2))
    assert knn_agreement(noise, labels) == pytest.approx(0.25, abs=0.03)
    assert knn_agreement(noise * 0.01 + labels[:, None], labels) == 1


def test_agreement_of_equal_latents_does_not_count_a_latent_itself():
    labels = np.arange(40) % 2
    agreement = knn_agreement(np.zeros((40, 2)), labels, 5)
    assert 0 < agreement < 1
    assert knn_agreement(np.zeros((4, 2)), np.array([0, 0, 0, 0])) == 1


@pytest.mark.slow
def test_tsne_keeps_clusters_and_repeats_itself():
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    latents = generator.normal(size=(90, 10)) * 0.1 + np.eye(10)[labels] * 5
    points = tsne(latents, 0)
    assert points.shape == (90, 2) and points.dtype == np.float32
    assert knn_agreement(points, labels, 5) == 1
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


def test_latents_of_two_dimensions_are_shown_as_they_are_and_others_by_tsne(tmp_path, figures):
    labels = np.arange(12) % 3
    latents = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    for name, some in (("two", latents[:, :2]), ("four", latents), ("few", latents[:2])):
        save_latents(some, labels[: len(some)], ("a", "b", "c"), tmp_path / f"{name}.png", "Latents", 1)
    shown = [np.concatenate([each.get_offsets() for each in figure.axes[0].collections]) for figure in figures]
    order = np.argsort(labels, kind="stable")
    np.testing.assert_allclose(shown[0], latents[order, :2])
    np.testing.assert_allclose(shown[1], tsne(latents, 1)[order])
    np.testing.assert_allclose(shown[2], latents[:2, :2])
    assert [figure.axes[0].get_title() for figure in figures] == ["Latents", "Latents (t-SNE)", "Latents"]


def test_images_are_shown_in_the_colours_of_their_classes_where_they_do_not_cover_each_other(tmp_path, figures):
    points = np.array([[0.0, 0.0], [0.01, 0.0], [5.0, 5.0], [10.0, 2.0]])
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 1), np.uint8)
    save_latents(points, np.array([0, 1, 1, 0]), ("a", "b"), tmp_path / "map.png", "Latents", images=images)
    shown = figures[0].axes[0].images
    assert len(shown) == 3  # the second point is too near to the first
    for drawn, point, image in zip(shown, points[[0, 2, 3]], images[[0, 2, 3]], strict=True):
        left, right, bottom, top = drawn.get_extent()
        np.testing.assert_allclose([(left + right) / 2, (bottom + top) / 2], point)
        np.testing.assert_allclose(drawn.get_array()[..., 3], image[..., 0] / 255)
    colours = [drawn.get_array()[0, 0, :3] for drawn in shown]
    assert np.allclose(colours[0], colours[2]) and not np.allclose(colours[0], colours[1])


def test_too_many_or_no_neighbours_are_refused():
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"count must be from 1 to 3 .* got {count}"):
            nearest(np.eye(3), np.eye(3), count)


def test_a_great_circle_begins_and_ends_where_it_should_in_even_steps_on_the_sphere():
    start, end = np.random.default_rng(0).normal(size=(2, 50))
    start, end = (each / np.linalg.norm(each) * 7 for each in (start, end))
    way = great_circle(start, end, 9)
    np.testing.assert_allclose(way[[0, -1]], [start, end], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), 7)
    turns = np.arccos((way[1:] * way[:-1]).sum(1) / 49)
    np.testing.assert_allclose(turns, turns[0])
    for ends, steps in (((start, start), 5), ((start, end), 1)):
        with pytest.raises(ValueError, match="at least 2 steps, and endpoints with different directions"):
            great_circle(*ends, steps)
