"""What is written can be read again as it was, differs only where it may, and is called what it is taken for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.labelled import Split
from common.images.figures import RED
from common.images.pixels import crop_square
from common.images.reading import read_image
from common.runs.attacks import CURVE_LEVELS, attack_image, magnified, save_attack_figure
from common.runs.pretrained import Classifier
from common.system.files import InputError
from tests.pictures import shown

CLASSES = ("dark", "bright", "grey", "red")


def by_brightness(images: np.ndarray) -> np.ndarray:
    assert images.dtype == np.uint8 and images.ndim == 4
    bright = images.mean((1, 2, 3)) / 255
    return np.stack([1 - bright, bright, 0 * bright, 0 * bright], 1).astype(np.float32)


def brighten(images: np.ndarray, labels: np.ndarray, levels: int) -> np.ndarray:
    """Lighten what is dark, and darken what is not, by as many levels as may be."""
    sign = np.where(labels == 0, 1, -1)[:, None, None, None]
    return np.clip(images.astype(int) + levels * sign, 0, 255).astype(np.uint8)


NETWORK = (brighten, by_brightness)


def known(any_size: bool, channels: int = 3, size: int = 12) -> Classifier:
    return Classifier(None, CLASSES, size, channels, 0, any_size)


def pixels(height: int, width: int, channels: int = 3, mean: int = 100) -> np.ndarray:
    return np.random.default_rng(0).integers(mean - 50, mean + 50, (height, width, channels)).astype(np.uint8)


def source(tmp_path: Path, height: int = 131, width: int = 97, mean: int = 100) -> Path:
    Image.fromarray(pixels(height, width, mean=mean)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


@pytest.fixture
def quick(monkeypatch) -> None:
    """Leave out the strip, which takes most of the time."""
    monkeypatch.setattr("common.runs.attacks.save_captioned", lambda *_: None)


# The change


def test_the_largest_change_is_black_or_white_and_none_is_grey():
    before = np.array([[[10], [200], [255], [0], [77]]], np.uint8)
    after = np.array([[[14], [196], [255], [2], [76]]], np.uint8)
    np.testing.assert_array_equal(magnified(before, after).ravel(), [255, 0, 128, 191, 96])
    np.testing.assert_array_equal(magnified(before, before), np.full_like(before, 128))
    np.testing.assert_array_equal(magnified(*np.array([[[[0, 255]]], [[[255, 0]]]], np.uint8)), [[[255, 0]]])


# A picture


@pytest.mark.parametrize(("height", "width"), [(131, 97), (97, 131), (20, 20), (1, 9)])
def test_only_the_centre_square_differs_and_what_lies_beside_says_where(height, width, tmp_path, quick):
    path = source(tmp_path, height, width)
    attack_image(*NETWORK, known(True), path, 3, "", tmp_path / "out.png")
    before, after, change = (
        read_image(tmp_path / name).astype(int) for name in ("in.png", "out.png", "out_change.png")
    )
    expected = before.copy()
    crop_square(expected)[:] += 3
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(change, np.where(expected > before, 255, 128))


@pytest.mark.parametrize("name", ["out.png", "out.bmp", "out.tif", "out.TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_lost_in_the_file(name, channels, tmp_path, quick):
    path = source(tmp_path)
    attack_image(*NETWORK, known(True, channels), path, 1, "", tmp_path / name)
    whole = read_image(path, channels)
    crop_square(whole)[:] += 1
    np.testing.assert_array_equal(read_image(tmp_path / name, channels), whole)
    assert {each.name for each in tmp_path.iterdir()} == {"in.png", name, "out_change.png"}


def test_a_network_of_one_size_gets_the_square_at_its_size(tmp_path, quick):
    seen = []

    def classify(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape)
        return by_brightness(images)

    path = source(tmp_path)
    attack_image(brighten, classify, known(False, 1), path, 8, "", tmp_path / "out.png")
    assert set(seen) == {(1, 12, 12, 1)}
    with Image.open(path) as image:
        small = image.convert("L").crop((0, 17, 97, 114)).resize((12, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png", 1)[..., 0], np.asarray(small) + 8)


def test_the_lines_say_what_the_file_is_taken_for(tmp_path, quick):
    path = source(tmp_path, 40, 40, mean=120)
    lines = attack_image(*NETWORK, known(True), path, 20, "", tmp_path / "out.png").split("\n")
    before, after = (read_image(each).mean() / 2.55 for each in (path, tmp_path / "out.png"))
    assert before < 48 and after > 52
    assert lines[0] == f"{path}  dark {100 - before:.0f} %"
    assert lines[1] == f"{tmp_path / 'out.png'}  bright {after:.0f} %, epsilon 20/255"


def test_it_speaks_of_the_file_and_not_of_what_was_computed(tmp_path, quick, monkeypatch):
    """As if writing had lost something."""
    monkeypatch.setattr("common.runs.attacks.write_image", lambda image, path: Image.fromarray(image // 2).save(path))
    lines = attack_image(*NETWORK, known(True), source(tmp_path, 40, 40, 200), 9, "", tmp_path / "out.png").split("\n")
    assert "  bright " in lines[0] and "out.png  dark " in lines[1]


@pytest.mark.parametrize(("label", "sign"), [("", 1), ("dark", 1), ("BRIGHT", -1), ("3", -1)])
def test_the_label_decides_where_the_attack_leads(label, sign, tmp_path, quick):
    path = source(tmp_path, 20, 20)
    attack_image(*NETWORK, known(True), path, 5, label, tmp_path / "out.png")
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").astype(int) - read_image(path), 5 * sign)


@pytest.mark.parametrize(("levels", "all_levels"), [(25, [0, 1, 2, 4, 8, 25]), (4, [0, 1, 2, 4, 8])])
def test_the_strip_has_the_square_at_several_strengths_and_mistakes_in_red(
    levels, all_levels, tmp_path, figures, unresized
):
    path = source(tmp_path, 30, 24, mean=125)
    square = crop_square(read_image(path)).astype(int)
    attack_image(*NETWORK, known(True), path, levels, "", tmp_path / "out.png")
    strip = shown(figures[0])
    assert [one.lines[1] for one in strip] == [f"{level}/255" for level in all_levels]
    for level, one in zip(all_levels, strip, strict=True):
        np.testing.assert_array_equal(one.image, square + level)
        bright = (square + level).mean() / 2.55
        assert one.lines[0] == (f"bright {bright:.0f} %" if bright > 50 else f"dark {100 - bright:.0f} %")
        assert one.framed is bool(bright > 50)
    assert 0 < sum(one.framed for one in strip) < len(strip)
    assert np.ptp(read_image(tmp_path / "out_strip.png")) > 100


@pytest.mark.parametrize(("side", "in_strip"), [(320, 320), (321, 320)])
def test_a_large_square_is_made_small_in_the_strip_only(side, in_strip, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "common.runs.attacks.save_captioned", lambda images, *_: sizes.extend(image.shape for image in images)
    )
    attack_image(*NETWORK, known(True), source(tmp_path, side, side), 1, "", tmp_path / "out.png")
    assert set(sizes) == {(in_strip, in_strip, 3)}
    assert read_image(tmp_path / "out.png").shape == (side, side, 3)


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("out.jpg", "", r"out\.jpg: this format may change the attacked pixels; use a name that ends in \.png"),
        ("out.webp", "", "this format may change the attacked pixels"),
        ("out.gif", "", "this format may change the attacked pixels"),
        ("out", "", "this format may change the attacked pixels"),
        ("out.png", "brigth", "'brigth' is not one of the 4 classes; the most similar are bright"),
        ("out.png", "4", "'4' is not one of the 4 classes"),
    ],
)
def test_what_cannot_be_written_or_is_no_class(name, label, message, tmp_path):
    path = source(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        attack_image(*NETWORK, known(True), path, 1, label, tmp_path / name)
    assert "\n" not in str(error.value) and [each.name for each in tmp_path.iterdir()] == ["in.png"]


# The figure


@pytest.mark.parametrize(("levels", "factor"), [(12, 10), (25, 5), (1, 127)])
def test_an_original_its_change_and_the_attacked_image_for_each_network(levels, factor, tmp_path, figures, unresized):
    labels = np.array([1, 3, 0, 1, 0, 2], np.int32)
    images = np.full((6, 4, 4, 1), np.array([5, 10, 120, 140, 126, 2])[:, None, None, None], np.uint8)
    halve = (lambda images, labels, level: images // 2, by_brightness)
    right = np.array([False, False, True, True, True, False])
    correct = {name: {0: right, levels: right & (name == "halve")} for name in ("classifier", "halve")}
    curves = {f"{name}, {steps}": np.linspace(0.9, 0, len(CURVE_LEVELS)) for name in correct for steps in "ab"}
    networks = {"classifier": NETWORK, "halve": halve}
    path = save_attack_figure(networks, Split(images, labels), CLASSES, levels, correct, curves, tmp_path / "a.png")
    assert path == tmp_path / "a.png" and np.ptp(read_image(path)) > 100
    chosen = [(120, 0), (126, 0), (140, 1)]  # those that both networks classify correctly, by class
    found = iter(shown(figures[0]))
    for name in networks:
        columns = {column: [next(found) for _ in chosen] for column in ("original", "change", "attacked")}
        for (value, label), *row in zip(chosen, *columns.values(), strict=True):
            moved = value + (levels if label == 0 else -levels) if name == "classifier" else value // 2
            for one, shade in zip(row, (value, min(max(128 + factor * (moved - value), 0), 255), moved), strict=True):
                np.testing.assert_array_equal(one.image, np.full((4, 4), shade))
            for one, shade in ((row[0], value), (row[2], moved)):
                bright = shade / 2.55
                assert one.lines == [f"bright {bright:.0f} %" if bright > 50 else f"dark {100 - bright:.0f} %"]
            assert not row[0].framed and not row[1].framed and not row[1].lines
            assert row[2].framed is bool((moved > 127) != label) is (row[2].colour == RED)
    texts = [text.get_text() for text in figures[0].texts]
    assert (
        f"FGSM within {levels}/255: accuracy falls from 50 % to 0 %, with adversarial training from 50 % to 50 %"
        in texts
    )
    assert texts.count(f"change × {factor}") == 2 and {"Standard network", "halve", "+", "="} <= {*texts}
    names = [text.get_text() for text in figures[0].axes[-1].get_legend().get_texts()]
    assert names == ["standard, a", "standard, b", "halve, a", "halve, b"]


def test_the_figure_where_no_image_is_classified_correctly(tmp_path, figures):
    images, wrong = np.full((4, 4, 4, 3), 100, np.uint8), np.zeros(4, bool)
    split, curves = Split(images, np.arange(4)), {"one, a": [0.0] * len(CURVE_LEVELS)}
    save_attack_figure({"one": NETWORK}, split, CLASSES, 5, {"one": {0: wrong, 5: wrong}}, curves, tmp_path / "a.png")
    assert len(shown(figures[0])) == 9
