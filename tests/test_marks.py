from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from common.images.marks import MARKED_SUFFIXES, SYNTHETIC_SOURCE, check_marked_path, with_caption, write_marked
from common.images.reading import read_image
from common.system.files import InputError


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)


@pytest.mark.parametrize("suffix", MARKED_SUFFIXES)
def test_marks_survive_reading_back(suffix, picture, tmp_path):
    path = write_marked(picture, tmp_path / f"out{suffix}", "made up", "this test")
    with Image.open(path) as image:
        image.load()
        text, exif = image.info, image.getexif()
    if suffix == ".png":
        assert (text["Description"], text["Software"]) == ("made up", "this test")
    else:
        assert (exif[270], exif[305]) == ("made up", "this test")  # ImageDescription and Software
    (packet,) = re.findall(rb"<x:xmpmeta.*</x:xmpmeta>", path.read_bytes(), re.DOTALL)
    (values,) = (
        element.attrib.values() for element in ElementTree.fromstring(packet).iter() if len(element.attrib) > 1
    )
    assert SYNTHETIC_SOURCE in values
    if suffix in (".png", ".tif", ".tiff"):
        np.testing.assert_array_equal(read_image(path), picture)


@pytest.mark.parametrize("suffix", [".gif", ".bmp", ".txt", ""])
def test_a_format_without_room_for_the_marks_is_refused_and_nothing_is_written(suffix, picture, tmp_path):
    with pytest.raises(InputError, match="cannot store metadata; the name must end in .png"):
        write_marked(picture, tmp_path / f"out{suffix}", "made up", "this test")
    assert not list(tmp_path.iterdir())
    check_marked_path(tmp_path / "OUT.JPG")


@pytest.mark.parametrize(("height", "width"), [(1200, 800), (256, 256), (64, 64), (20, 400), (5, 3)])
def test_a_caption_is_in_the_lower_right_corner_and_nowhere_else(height, width):
    image = np.full((height, width, 3), 128, np.uint8)
    captioned = with_caption(image, "synthetic face")
    assert captioned.shape == image.shape and (image == 128).all()
    changed = (captioned != 128).any(-1)
    assert changed[-1, -1]
    size = max(11, min(height, width) / 28)
    assert not changed[: int(height - 1.6 * size) - 1].any()
    assert not changed[:, : int(width - 9 * size)].any() or width < 9 * size
    if width >= 100:
        assert captioned.max() > 240 and changed[:, :-1].any(0).sum() > 4 * size  # letters, in white


def test_the_caption_of_a_larger_picture_is_larger():
    heights = []
    for side in (400, 1600):
        changed = (with_caption(np.full((side, side, 3), 128, np.uint8), "synthetic face") != 128).any(-1)
        heights.append(changed.any(1).sum())
    assert heights[1] == pytest.approx(4 * heights[0], rel=0.1)
