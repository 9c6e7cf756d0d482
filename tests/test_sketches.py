"""What the coloured sketches promise: the same sketch again, ink along edges, and the colours of the portrait."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from common.samples.faces import synthetic_faces
from common.samples.sketches import FACE_COLOURS, ink, plain_face, sketch_pairs, thin_paint, wash


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    return sketch_pairs(6, 3, 64)


def test_a_pair_depends_only_on_its_index(pairs):
    for both, later in zip(pairs, sketch_pairs(2, 3, 64, first=4), strict=True):
        assert both.shape == (6, 64, 64, 3) and both.dtype == np.uint8
        np.testing.assert_array_equal(both[4:], later)
    np.testing.assert_array_equal(pairs[1], synthetic_faces(6, 3, 64)[0])
    assert (sketch_pairs(1, 4, 64)[0] != pairs[0][:1]).any()


def test_a_sketch_has_the_threads_of_opencv_back(pairs):
    before = cv2.getNumThreads()
    sketch_pairs(1, 0, 32)
    assert cv2.getNumThreads() == before


def test_ink_is_on_the_dark_side_of_an_edge():
    image = np.full((128, 128, 3), 0.9, np.float32)
    image[:, 64:] = 0.2
    lines = ink(image, np.random.default_rng(0))
    assert lines[64, 65] > 0.9 and lines[64, 56:61].max() < 0.05
    assert lines[64, :40].max() == lines[64, 90:].max() == 0


def test_texture_gets_no_ink_but_the_edge_between_two_textures_does():
    grain = np.random.default_rng(1).normal(0, 0.03, (64, 64, 3)).repeat(2, 0).repeat(2, 1)
    image = (np.full((128, 128, 3), 0.6) + grain).astype(np.float32)
    assert ink(image, np.random.default_rng(0)).max() < 0.05
    image[:, 64:] -= 0.4
    lines = ink(image, np.random.default_rng(0))
    assert lines[:, 64:67].max(1).min() > 0.8 and lines[:, 80:].max() < 0.05


def test_the_wash_of_two_colours_has_these_colours_mixed_with_paper():
    image = np.full((128, 128, 3), (0.9, 0.2, 0.2), np.float32)
    image[:, 64:] = (0.1, 0.2, 0.6)
    painted = wash(image, np.random.default_rng(0))
    assert painted.shape == image.shape
    for half, colour in ((painted[:, :50], image[0, 0]), (painted[:, 78:], image[0, -1])):
        np.testing.assert_allclose(half.mean((0, 1)), colour + 0.2 * (np.array([1, 0.99, 0.97]) - colour), atol=0.04)


def test_a_sketch_is_closer_to_its_portrait_than_to_others(pairs):
    sketches, portraits = (images.astype(np.float32) for images in pairs)
    thin = portraits + 0.2 * (np.array([255, 252, 247], np.float32) - portraits)  # in thin paint
    distance = np.abs(sketches[:, None] - thin[None]).mean((2, 3, 4))
    assert (distance.argmin(1) == np.arange(6)).all()


def test_paint_is_thin_and_ink_is_not():
    thin = thin_paint(FACE_COLOURS)
    assert (thin[0] == FACE_COLOURS[0]).all() and (thin[1:] >= FACE_COLOURS[1:]).all()
    assert tuple(thin[9]) == (211, 82, 81)  # 0.8 * (200, 40, 40) + 0.2 * (255, 252.45, 247.35)


def test_a_plain_face_is_symmetric_and_of_any_size():
    face = plain_face(288)
    assert face.shape == (288, 288, 3) and face.dtype == np.uint8
    assert np.abs(face.astype(int) - face[:, ::-1]).mean() < 3
    small = cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(small - plain_face(96)).mean() < 6


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("first", -1)])
def test_numbers_that_are_too_small(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        sketch_pairs(**{"count": 1, "seed": 0, name: value})
