"""Scores of classifiers against answers found otherwise, and the pictures and lines that show them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

from common.data.labelled import Labelled, Split
from common.images.figures import RED
from common.metrics.classification import accuracy, classification_scores, expected_calibration_error, temperature_scale
from common.runs.classification import (
    classify_files,
    confusion_percent,
    evaluate_classifier,
    first_of_each,
    found_caption,
    save_captioned,
    save_classification,
    save_classified,
    save_confusion_matrix,
)
from common.runs.run import Run
from common.system.files import InputError
from tests.pictures import shown


def random_answers(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and probabilities that are right more often than not."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    weights = generator.gamma(0.5, 1, (count, classes)) + 0.7 * np.eye(classes)[labels]
    return labels, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


# Scores


def test_accuracy_of_probabilities_and_of_logits():
    probabilities = np.array([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([1, 0, 1, 1])
    assert accuracy(labels, probabilities) == accuracy(labels, np.log(probabilities)) == 0.75
    assert accuracy(1 - labels, probabilities) == 0.25
    assert type(accuracy(labels, probabilities)) is float


def test_calibration_error_in_closed_form():
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert expected_calibration_error(np.array([0, 1, 2, 0]), sure) == 0
    assert expected_calibration_error(np.array([1, 2, 0, 1]), sure) == 1
    assert expected_calibration_error(np.array([0, 1, 2, 1]), sure) == 0.25
    clueless = np.full((8, 4), 0.25)  # argmax says class 0, which two of eight are
    assert expected_calibration_error(np.arange(8) % 4, clueless) == pytest.approx(0, abs=1e-12)


def test_calibration_error_over_two_bins_by_hand():
    probabilities = np.array([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.9, 0.1, 0], [0, 0.1, 0.9]])
    labels = np.array([0, 2, 0, 2])  # half right at 0.4, both right at 0.9
    assert expected_calibration_error(labels, probabilities, bins=2) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    assert expected_calibration_error(labels, probabilities, bins=1) == pytest.approx(0.75 - 0.65)


def test_a_bin_is_closed_above():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.9, 0]])  # right at 0.5, wrong at 0.9
    expected = (abs(1 - 0.5) + abs(0 - 0.9)) / 2  # together they would be 0.2
    assert expected_calibration_error(np.array([0, 0]), probabilities, bins=2) == pytest.approx(expected)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_is_that_of_a_loop_over_bins(bins):
    labels, probabilities = random_answers(500, 4)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert total > 0.02
    assert expected_calibration_error(labels, probabilities, bins) == pytest.approx(total, abs=1e-6)


def drawn_labels(margins: np.ndarray, scale: float) -> np.ndarray:
    """Draw from softmax(scale * margins), by the Gumbel trick."""
    return (scale * margins + np.random.default_rng(1).gumbel(size=margins.shape)).argmax(1)


def test_temperature_scale_finds_what_labels_were_drawn_with():
    margins = np.random.default_rng(0).normal(size=(8000, 5))
    found = [temperature_scale(margins, drawn_labels(margins, scale)) for scale in (0.5, 1.0, 2.0, 4.0)]
    np.testing.assert_allclose(found, [0.5, 1.0, 2.0, 4.0], rtol=0.06)
    assert found == sorted(found)


def test_temperature_scale_answers_to_the_size_of_margins_and_is_the_best_of_a_grid():
    margins = np.random.default_rng(2).normal(size=(600, 3)).astype(np.float32)
    labels = drawn_labels(margins, 1.5)
    scale = temperature_scale(margins, labels)
    assert temperature_scale(10 * margins, labels) == pytest.approx(scale / 10, rel=1e-3)

    def likelihood(factor: float) -> float:
        powers = np.exp(factor * margins.astype(float))
        return float(np.log(powers[np.arange(600), labels] / powers.sum(1)).mean())

    assert likelihood(scale) >= max(likelihood(factor) for factor in np.geomspace(0.1, 10, 101))


def test_scores_of_each_class_are_those_of_scikit_learn():
    labels, probabilities = random_answers(300, 5)
    probabilities[:, 3] = 0  # never found
    labels[labels == 4] = 0  # never right
    scores = classification_scores(labels, probabilities, ("a", "b", "c", "d", "e"))
    found = probabilities.argmax(1)
    options = {"labels": range(5), "average": None, "zero_division": 0}
    precision = sklearn.metrics.precision_score(labels, found, **options)
    recall = sklearn.metrics.recall_score(labels, found, **options)
    for number, name in enumerate("abcde"):
        assert scores.pop(f"precision {name}") == pytest.approx(precision[number])
        assert scores.pop(f"recall {name}") == pytest.approx(recall[number])
    assert precision[3] == recall[4] == 0 < min(precision[0], recall[0])
    assert scores.pop("test_accuracy") == pytest.approx(sklearn.metrics.accuracy_score(labels, found))
    assert scores.pop("expected_calibration_error") == expected_calibration_error(labels, probabilities)
    assert not scores


# Pictures


CLASSES = ("cat", "dog", "hen")


def numbered_test_part(labels: np.ndarray) -> Labelled:
    """Return images of which each one's first two pixels say its place."""
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(len(labels)), 256)
    part = Split(images, labels)
    return Labelled(part.some(2), part.some(2), part, CLASSES)


def places_of(images: np.ndarray) -> np.ndarray:
    return 256 * images[:, 0, 0, 0].astype(int) + images[:, 0, 1, 0]


def test_the_figure_has_the_first_images_of_each_class_and_the_most_confident_mistakes(
    tmp_path, monkeypatch, figures, unresized
):
    labels, probabilities = random_answers(620, 3)
    seen = []

    def classify(images):
        seen.append(len(images))
        return probabilities[places_of(images)]

    figure, scores = evaluate_classifier(numbered_test_part(labels), classify, tmp_path)
    assert sum(seen) == 620 and max(seen) <= 500
    found = probabilities.argmax(1)
    mistakes = sorted(np.flatnonzero(found != labels), key=lambda place: -max(probabilities[place]))
    examples = [place for number, count in enumerate((4, 3, 3)) for place in np.flatnonzero(labels == number)[:count]]
    expected = [*examples, *mistakes[:5]]
    assert places_of(np.stack([one.image for one in shown(figures[0])])[..., None]).tolist() == expected
    for one, place in zip(shown(figures[0]), expected, strict=True):
        assert one.lines[0] == f"{CLASSES[found[place]]} {100 * max(probabilities[place]):.0f} %"
        assert one.lines[1:] == ([f"true: {CLASSES[labels[place]]}"] if found[place] != labels[place] else [])
        assert one.framed is bool(found[place] != labels[place]) is (one.colour == RED)
    texts = [text.get_text() for text in figures[0].texts]
    assert f"Accuracy {100 * np.mean(found == labels):.1f} % on 620 test images" in texts
    assert f"Most confident of {len(mistakes)} mistakes" in texts
    assert scores == classification_scores(labels, probabilities, CLASSES)
    assert figure == tmp_path / "classified.png" and [*tmp_path.iterdir()] == [figure]


@pytest.mark.parametrize(
    ("labels", "count", "expected"),
    [
        ([0, 0, 0, 1, 0, 1], 4, [0, 1, 3, 5]),
        ([2, 1, 0], 10, [2, 1, 0]),
        ([0] * 5 + [3], 4, [0, 1, 2, 5]),
        (list(range(100)), 5, [0, 24, 49, 74, 99]),
        ([4], 10, [0]),
    ],
)
def test_the_first_of_each_class(labels, count, expected):
    assert first_of_each(np.array(labels), count).tolist() == expected


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("mistakes", "heading"), [(0, "No mistakes"), (1, "Mistakes"), (5, "Mistakes")])
def test_few_images(mistakes, heading, tmp_path, figures):
    labels = np.arange(5) % 3
    probabilities = np.eye(3)[(labels + (np.arange(5) < mistakes)) % 3]
    path, _ = evaluate_classifier(numbered_test_part(labels), lambda images: probabilities[places_of(images)], tmp_path)
    assert heading in [text.get_text() for text in figures[0].texts] and len(shown(figures[0])) == 5 + mistakes
    assert np.ptp(opened(path)) > 100  # not blank


@pytest.mark.parametrize("count", [2, 16, 100])
def test_all_text_of_the_figure_is_inside_it_and_does_not_overlap(count, tmp_path, figures):
    labels, probabilities = random_answers(300, count)
    names = tuple(f"{number} is a very long name of a class" if number % 3 else str(number) for number in range(count))
    split = Split(np.zeros((300, 8, 8, 1), np.uint8), labels)
    save_classification(split, probabilities, names, tmp_path / "a.png")
    boxes = [text.get_window_extent() for text in figures[0].texts if text.get_rotation() != 45]
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= figures[0].bbox.width and box.y0 >= 0 and box.y1 <= figures[0].bbox.height
    for number, box in enumerate(boxes):
        assert not any(box.padded(-3).overlaps(other.padded(-3)) for other in boxes[:number])


def test_many_classes_have_a_second_larger_matrix(tmp_path):
    labels = np.arange(16)
    split = Split(np.zeros((16, 8, 8, 1), np.uint8), labels)
    data = Labelled(split, split, split, tuple(map(str, labels)))
    evaluate_classifier(data, lambda images: np.eye(16)[labels], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"classified.png", "confusion_matrix.png"}


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_above_what_was_found_and_what_is_right(channels, tmp_path, figures, unresized):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, channels)).astype(np.uint8)
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.2, 0.6], [0.26, 0.4, 0.34]])
    save_classified(images, np.array([0, 1, 1]), probabilities, CLASSES, tmp_path / "a.png")
    found = shown(figures[0])
    assert [one.lines for one in found] == [["cat 90 %"], ["hen 60 %", "true: dog"], ["dog 40 %"]]
    assert [one.framed for one in found] == [False, True, False]
    assert found[0].colour == found[2].colour != found[1].colour
    for one, image in zip(found, images, strict=True):
        np.testing.assert_array_equal(one.image.reshape(image.shape), image)
    opened(tmp_path / "a.png")


@pytest.mark.parametrize("count", [1, 9, 24])
def test_every_image_has_a_place(count, tmp_path, figures):
    labels, probabilities = random_answers(count, 3)
    save_classified(np.zeros((count, 4, 4, 1), np.uint8), labels, probabilities, CLASSES, tmp_path / "a.png")
    assert len(shown(figures[0])) == count


@pytest.mark.parametrize(("columns", "rows"), [(1, 5), (2, 3), (3, 2), (5, 1), (9, 1)])
def test_captioned_images_fill_rows_in_order(columns, rows, tmp_path, figures, unresized):
    images = [np.full((6, 6, 1 + 2 * (number % 2)), 40 * number, np.uint8) for number in range(5)]
    path = tmp_path / "new" / "a.png"
    assert save_captioned(images, [f"number {number}\nbelow" for number in range(5)], path, columns, width=0.8) == path
    assert [one.lines for one in shown(figures[0])] == [[f"number {number}", "below"] for number in range(5)]
    corners = [(round(-axes.get_position().y1, 6), round(axes.get_position().x0, 6)) for axes in figures[0].axes]
    assert corners == sorted(corners) and len({top for top, _ in corners}) == rows
    for one, image in zip(shown(figures[0]), images, strict=True):
        np.testing.assert_array_equal(one.image.reshape(image.shape), image)
    assert opened(path).shape[1] == 120 * columns + 20


@pytest.mark.parametrize("kind", [list, np.array])
def test_images_that_are_emphasised_have_a_frame_and_another_colour(kind, tmp_path, figures):
    images, captions = [np.zeros((4, 4, 1), np.uint8)] * 4, list("abcd")
    save_captioned(images, captions, tmp_path / "plain.png", 2)
    save_captioned(images, captions, tmp_path / "a.png", 2, kind([False, True, True, False]))
    plain, found = (shown(figure) for figure in figures)
    assert (
        [one.framed for one in found] == [one.colour != plain[0].colour for one in found] == [False, True, True, False]
    )
    assert len({one.colour for one in plain}) == 1 and not any(one.framed for one in plain)


@pytest.mark.parametrize(
    ("probabilities", "caption"),
    [([0.2, 0.7, 0.1], "dog 70 %"), ([0.4, 0.4, 0.2], "cat 40 %"), ([0, 0, 1], "hen 100 %")],
)
def test_the_caption_of_what_was_found(probabilities, caption):
    assert found_caption(np.array(probabilities), CLASSES) == caption


def test_the_confusion_matrix_is_that_of_scikit_learn_with_zeros_for_a_class_that_never_occurs():
    labels, probabilities = random_answers(200, 4)
    labels[labels == 3] = 0
    found = probabilities.argmax(1)
    with np.errstate(invalid="ignore"):
        expected = 100 * sklearn.metrics.confusion_matrix(labels, found, labels=range(4), normalize="true")
    np.testing.assert_allclose(confusion_percent(labels, found, 4), expected)
    assert not confusion_percent(labels, found, 4)[3].any()


def test_the_confusion_matrix_has_numbers_and_the_names_of_all_classes(tmp_path, figures):
    labels, found = np.array([0] * 300 + [1] * 3), np.array([0] * 299 + [1] + [1] * 2 + [2])
    save_confusion_matrix(labels, found, CLASSES, tmp_path / "a.png")
    (axes,) = figures[0].axes
    np.testing.assert_allclose(axes.images[0].get_array(), confusion_percent(labels, found, 3))
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "100", (0, 1): "<1", (1, 1): "67", (1, 2): "33"}
    texts = [text.get_text() for text in figures[0].texts]
    assert all(texts.count(name) == 2 for name in CLASSES) and {"true class", "predicted class"} <= {*texts}
    opened(tmp_path / "a.png")


def test_a_large_confusion_matrix_has_no_numbers_but_names(tmp_path, figures):
    labels = np.arange(40)
    save_confusion_matrix(labels, labels, tuple(map(str, labels)), tmp_path / "a.png")
    assert not figures[0].axes[0].texts
    assert {text.get_text() for text in figures[0].texts} >= {*map(str, labels)}


def test_class_names_with_dollars(tmp_path):
    names = ("under $5", r"$\new$", "a_b")
    save_classified(np.zeros((3, 8, 8, 1), np.uint8), np.arange(3), np.eye(3), names, tmp_path / "a.png")
    save_confusion_matrix(np.arange(3), np.arange(3), names, tmp_path / "b.png")


# The classes of a user's files


@dataclass(frozen=True)
class Config:
    size: int = 8
    channels: int = 1


@pytest.fixture
def run(tmp_path) -> Run:
    found = Run(tmp_path / "run", "mlp", Config(), "sample")
    found.start(("bright", "dark", "other"))
    return found


def by_brightness(images: np.ndarray) -> np.ndarray:
    assert images.dtype == np.uint8 and images.shape[1:] == (8, 8, 1) and len(images) <= 256
    bright = images.mean((1, 2, 3)) / 255
    return np.stack([bright, 0.75 * (1 - bright), 0.25 * (1 - bright)], 1).astype(np.float32)


def grey(path: Path, value: int, height: int = 8, width: int = 8) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((height, width), value, np.uint8)).save(path)
    return path


def shown_of(source: Path, run: Run, capsys, **options) -> tuple[list[str], str]:
    classify_files(source, run, by_brightness, **options)
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


def test_one_image_is_classified_most_probable_first(tmp_path, run, capsys):
    path = grey(tmp_path / "a.png", 51, 20, 12)
    lines, errors = shown_of(path, run, capsys)
    assert lines == [f"{path}  dark 60.0 %  bright 20.0 %  other 20.0 %"]
    assert not errors


def test_the_images_of_a_folder_in_order(tmp_path, run, capsys):
    paths = [grey(tmp_path / "pictures" / f"{name}.png", value) for name, value in (("a", 255), ("b", 0), ("c", 204))]
    lines, _ = shown_of(tmp_path / "pictures", run, capsys, top=1)
    best = ["bright 100.0 %", "dark 75.0 %", "bright 80.0 %"]
    assert lines == [f"{path}  {text}" for path, text in zip(paths, best, strict=True)]


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (3, 3), (7, 3)])
def test_so_many_classes_are_named(top, count, tmp_path, run, capsys):
    (line,), _ = shown_of(grey(tmp_path / "a.png", 51), run, capsys, top=top)
    assert re.findall(r"[\w.]+ %", line) == ["60.0 %", "20.0 %", "20.0 %"][:count]


def test_inverted_images_are_the_negatives(tmp_path, run, capsys):
    (line,), _ = shown_of(grey(tmp_path / "a.png", 55), run, capsys, top=1, invert=True)
    assert line.endswith(f"bright {100 * 200 / 255:.1f} %")


def test_the_table_has_the_probability_of_every_class(tmp_path, run, capsys):
    paths = [grey(tmp_path / "pictures, mine" / f"{value}.png", value) for value in (102, 255)]
    table = tmp_path / "new" / "table.csv"
    lines, errors = shown_of(paths[0].parent, run, capsys, top=1, table=table)
    assert len(lines) == 2 and str(table) in errors
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "bright", "dark", "other"]
    assert [row[0] for row in rows] == list(map(str, paths))
    np.testing.assert_allclose(
        np.array([row[1:] for row in rows], float), [[0.4, 0.45, 0.15], [1.0, 0.0, 0.0]], atol=1e-6
    )


def test_more_images_than_are_classified_at_once(tmp_path, run, capsys):
    first = grey(tmp_path / "pictures" / "000.png", 255)
    for number in range(1, 260):
        (first.parent / f"{number:03d}.png").hardlink_to(first)
    grey(tmp_path / "pictures" / "300.png", 0)
    lines, _ = shown_of(first.parent, run, capsys, top=1)
    assert [line.split()[1] for line in lines] == ["bright"] * 260 + ["dark"]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, run, capsys):
    bad = tmp_path / "pictures" / "b.png"
    good = [grey(tmp_path / "pictures" / name, 255) for name in ("a.png", "c.png")]
    bad.write_bytes(good[0].read_bytes()[:40])
    with pytest.raises(InputError, match=r"b\.png: damaged or cut short.*again$") as error:
        shown_of(bad, run, capsys)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"1 of 3 images cannot be used.*b\.png: damaged.*--skip-bad") as error:
        shown_of(tmp_path / "pictures", run, capsys)
    assert "\n" not in str(error.value) and not capsys.readouterr().out
    lines, errors = shown_of(tmp_path / "pictures", run, capsys, top=1, skip_bad=True)
    assert lines == [f"{path}  bright 100.0 %" for path in good]
    assert "b.png: damaged" in errors


def test_what_is_not_there(tmp_path, run, capsys):
    with pytest.raises(InputError, match=r"nowhere\.png: No such file.*give the path"):
        shown_of(tmp_path / "nowhere.png", run, capsys)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no images, the folder is empty"):
        shown_of(tmp_path / "empty", run, capsys)


@pytest.mark.parametrize("top", [0, -1])
def test_no_classes_to_name(top, tmp_path, run, capsys):
    with pytest.raises(InputError, match=f"top must be 1 or more, got {top}"):
        shown_of(grey(tmp_path / "a.png", 0), run, capsys, top=top)
