"""Scores of classifiers against answers found otherwise, and the pictures and lines that show them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

import common.classification
from common.batches import batches
from common.classification import (
    Shown,
    accuracy,
    classification_scores,
    classify_files,
    expected_calibration_error,
    fitted,
    found_caption,
    judge,
    save_captioned,
    save_classified,
    save_confusion_matrix,
    temperature_scale,
)
from common.errors import InputError
from common.labelled import Labelled, Split
from common.runs import start_run


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


def test_judge_shows_the_surest_mistakes_and_images_of_the_whole_test_part(tmp_path, monkeypatch):
    labels, probabilities = random_answers(620, 3)
    shown, seen = {}, []

    def classify(images):
        seen.append(len(images))
        return probabilities[places_of(images)]

    def spy(images, labels_, probabilities_, classes, path):
        assert classes == CLASSES
        shown[path.name] = places_of(images)
        np.testing.assert_array_equal(labels_, labels[shown[path.name]])
        np.testing.assert_array_equal(probabilities_, probabilities[shown[path.name]])

    monkeypatch.setattr(common.classification, "save_classified", spy)
    picture, scores = judge(numbered_test_part(labels), classify, tmp_path)
    assert sum(seen) == 620 and max(seen) <= 500
    mistakes = [place for place in range(620) if np.argmax(probabilities[place]) != labels[place]]
    mistakes.sort(key=lambda place: -max(probabilities[place]))
    assert len(mistakes) > 10 and shown["surest_mistakes.png"].tolist() == mistakes[:10]
    spread = shown["classified.png"]
    assert len(spread) == 24 and spread[0] == 0 and spread[-1] == 619 and np.ptp(np.diff(spread)) <= 1
    assert scores == classification_scores(labels, probabilities, CLASSES)
    assert picture == tmp_path / "classified.png"


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("mistakes", [0, 1, 5])
def test_judge_writes_three_pictures(mistakes, tmp_path):
    labels = np.arange(5) % 3
    probabilities = np.eye(3)[(labels + (np.arange(5) < mistakes)) % 3]
    judge(numbered_test_part(labels), lambda images: probabilities[places_of(images)], tmp_path / "run")
    names = {"classified.png", "confusion_matrix.png", "surest_mistakes.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    for name in names:
        assert np.ptp(opened(tmp_path / "run" / name)) > 100  # not blank


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_under_what_was_found_and_what_is_right(channels, tmp_path, figures):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, channels)).astype(np.uint8)
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.2, 0.6], [0.26, 0.4, 0.34]])
    save_classified(images, np.array([0, 1, 1]), probabilities, CLASSES, tmp_path / "a.png")
    axes = [one for one in figures[0].axes if one.images]
    assert [one.get_title().split() for one in axes] == [
        ["cat", "90", "%"],
        ["hen", "60", "%", "is", "dog"],
        ["dog", "40", "%"],
    ]
    colours = [one.title.get_color() for one in axes]
    assert colours[0] == colours[2] != colours[1]
    for one, image in zip(axes, images, strict=True):
        np.testing.assert_array_equal(one.images[0].get_array().reshape(image.shape), image)
        assert one.images[0].get_clim() == (0, 255) or channels == 3
    opened(tmp_path / "a.png")


def test_no_mistakes_are_said_in_words(tmp_path, figures):
    save_classified(None, np.zeros(0, int), np.zeros((0, 3)), CLASSES, tmp_path / "a.png")
    assert [text.get_text() for one in figures[0].axes for text in one.texts] == ["no mistakes"]


@pytest.mark.parametrize("count", [1, 9, 10, 11, 24])
def test_every_image_has_a_place(count, tmp_path, figures):
    labels, probabilities = random_answers(count, 3)
    save_classified(np.zeros((count, 4, 4, 1), np.uint8), labels, probabilities, CLASSES, tmp_path / "a.png")
    assert sum(len(one.images) for one in figures[0].axes) == count


@pytest.mark.parametrize(("columns", "rows"), [(1, 5), (2, 3), (3, 2), (5, 1), (9, 1)])
def test_captioned_images_fill_rows_in_order(columns, rows, tmp_path, figures):
    images = [np.full((4, 6, 1 + 2 * (number % 2)), 40 * number, np.uint8) for number in range(5)]
    path = tmp_path / "new" / "a.png"
    assert save_captioned(images, [f"number {number}\nbelow" for number in range(5)], path, columns, width=0.8) == path
    axes = [one for one in figures[0].axes if one.images]
    assert [one.get_title() for one in axes] == [f"number {number}\nbelow" for number in range(5)]
    for number, one in enumerate(axes):
        place = one.get_subplotspec()
        assert (place.rowspan.start, place.colspan.start) == divmod(number, columns)
        np.testing.assert_array_equal(one.images[0].get_array().reshape(images[number].shape), images[number])
    assert len({one.title.get_color() for one in axes}) == 1
    np.testing.assert_allclose(figures[0].get_size_inches(), [0.8 * columns, 1.1 * rows])
    assert opened(path).shape == (round(110 * 1.1 * rows), round(110 * 0.8 * columns), 3)


@pytest.mark.parametrize("kind", [list, np.array])
def test_captions_that_are_emphasised_have_another_colour(kind, tmp_path, figures):
    images, captions = [np.zeros((4, 4, 1), np.uint8)] * 4, list("abcd")
    save_captioned(images, captions, tmp_path / "plain.png", 2)
    save_captioned(images, captions, tmp_path / "a.png", 2, kind([False, True, True, False]))
    plain, colours = ([one.title.get_color() for one in figure.axes] for figure in figures)
    assert [colour != plain[0] for colour in colours] == [False, True, True, False] and len(set(plain)) == 1


def test_captions_beyond_the_images_stand_alone(tmp_path, figures):
    save_captioned([np.zeros((4, 4, 1), np.uint8)], ["one", "$two$", "three"], tmp_path / "a.png", 2)
    axes = figures[0].axes
    assert [one.get_title() for one in axes] == ["one", "", "", ""]
    assert [[text.get_text() for text in one.texts] for one in axes] == [[], ["$two$"], ["three"], []]


@pytest.mark.parametrize(
    ("probabilities", "caption"),
    [([0.2, 0.7, 0.1], "dog 70 %"), ([0.4, 0.4, 0.2], "cat 40 %"), ([0, 0, 1], "hen 100 %")],
)
def test_the_caption_of_what_was_found(probabilities, caption):
    assert found_caption(np.array(probabilities), CLASSES) == caption


def test_the_confusion_matrix_has_true_classes_in_rows_that_sum_to_a_hundred(tmp_path, figures):
    labels, probabilities = random_answers(200, 3)
    found = probabilities.argmax(1)
    save_confusion_matrix(labels, found, CLASSES, tmp_path / "a.png")
    (axes,) = figures[0].axes
    matrix = axes.images[0].get_array()
    for true in range(3):
        shares = np.array([100 * np.mean(found[labels == true] == other) for other in range(3)])
        np.testing.assert_allclose(matrix[true], shares)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASSES)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(CLASSES)
    assert "true" in axes.get_ylabel() and "found" in axes.get_xlabel()
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert written == {place: f"{share:.0f}" for place, share in np.ndenumerate(matrix)}
    opened(tmp_path / "a.png")


def test_the_confusion_matrix_with_a_class_that_never_occurs(tmp_path, figures):
    save_confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), CLASSES, tmp_path / "a.png")
    np.testing.assert_allclose(figures[0].axes[0].images[0].get_array(), [[50, 50, 0], [0, 100, 0], [0, 0, 0]])


def test_a_large_confusion_matrix_has_no_numbers(tmp_path, figures):
    labels = np.arange(31)
    save_confusion_matrix(labels, labels, tuple(map(str, labels)), tmp_path / "a.png")
    assert not figures[0].axes[0].texts


def test_class_names_with_dollars(tmp_path):
    names = ("under $5", r"$\new$", "a_b")
    save_classified(np.zeros((3, 8, 8, 1), np.uint8), np.arange(3), np.eye(3), names, tmp_path / "a.png")
    save_confusion_matrix(np.arange(3), np.arange(3), names, tmp_path / "b.png")


# The classes of a user's files


@dataclass(frozen=True)
class Config:
    seed: int = 0


@pytest.fixture
def run(tmp_path) -> Path:
    start_run(tmp_path / "run", "mlp", Config(), "sample", ("bright", "dark", "other"))
    return tmp_path / "run"


def by_brightness(images: np.ndarray) -> np.ndarray:
    assert images.dtype == np.uint8 and images.shape[1:] == (8, 8, 1) and len(images) <= 256
    bright = images.mean((1, 2, 3)) / 255
    return np.stack([bright, 0.75 * (1 - bright), 0.25 * (1 - bright)], 1).astype(np.float32)


def grey(path: Path, value: int, height: int = 8, width: int = 8) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((height, width), value, np.uint8)).save(path)
    return path


def shown_of(source: Path, run: Path, capsys, **options) -> tuple[list[str], str]:
    classify_files(source, run, by_brightness, 8, 1, Shown(**options))
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
    with pytest.raises(InputError, match="empty: no images, nothing at all"):
        shown_of(tmp_path / "empty", run, capsys)


@pytest.mark.parametrize("top", [0, -1])
def test_no_classes_to_name(top, tmp_path, run, capsys):
    with pytest.raises(InputError, match=f"top must be 1 or more, got {top}"):
        shown_of(grey(tmp_path / "a.png", 0), run, capsys, top=top)


def test_a_classifier_that_is_fitted_tells_dark_from_bright():
    images = np.repeat(np.array([30, 220], np.uint8), 8)[:, None, None, None] + np.zeros((16, 4, 4, 1), np.uint8)
    labels = np.repeat(np.array([0, 1], np.int32), 8)
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    fitted(network, batches((images, labels), 8, 0), 30, 0.1)
    assert accuracy(labels, network(images / 127.5 - 1, training=False).numpy()) == 1
