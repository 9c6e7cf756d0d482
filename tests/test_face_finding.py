from __future__ import annotations

import re
import statistics

import numpy as np
import pytest
from PIL import Image

from common.data.people import (
    ColourShift,
    PersonShift,
    TwoPeople,
    colours_of,
    convert_faces,
    report_faceless,
    synthetic_people,
    two_people,
)
from common.images.face_finding import FaceBox, blend_face, cut_face, face_mask, find_faces
from common.images.marks import SYNTHETIC_SOURCE
from common.images.reading import read_image
from common.images.writing import write_image
from common.metrics.latents import NormalMap
from common.metrics.scores import frechet_distance
from common.samples.faces import synthetic_faces
from common.system.files import InputError


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture(scope="module")
def portraits() -> np.ndarray:
    """Four faces that the cascade finds, uint8 [4, 96, 96, 3]."""
    return synthetic_faces(4, 9, 96, character=8)[0]


@pytest.fixture
def album(portraits, tmp_path):
    for name, shade in (("ann", 0), ("ben", 40)):
        for number, portrait in enumerate(portraits):
            write_image(np.maximum(portrait, shade), tmp_path / "album" / name / f"{number}.png")
    return tmp_path / "album"


def no_sample() -> TwoPeople:
    raise AssertionError("nobody asked for the sample")


# %% Finding


def test_the_largest_face_of_a_photo_comes_first_and_is_where_it_is(astronaut):
    boxes = find_faces(astronaut)
    assert [box.side for box in boxes] == sorted((box.side for box in boxes), reverse=True)
    face = boxes[0]
    assert abs(face.top + face.side / 2 - 117) < 12 and abs(face.left + face.side / 2 - 222) < 12
    assert 80 < face.side < 110


@pytest.mark.slow
def test_a_large_photo_is_searched_small_and_the_box_is_in_its_own_pixels(astronaut):
    small, large = find_faces(astronaut)[0], find_faces(astronaut.repeat(3, 0).repeat(3, 1))[0]
    np.testing.assert_allclose(np.array(large) / 3, small, atol=14)


@pytest.mark.slow
def test_grey_photos_have_faces_too(astronaut):
    grey = (astronaut @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None]
    assert find_faces(grey) == find_faces(grey.repeat(3, -1))
    assert abs(find_faces(grey)[0].top - find_faces(astronaut)[0].top) < 8


def test_no_face_where_there_is_none():
    grass = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    assert find_faces(grass) == find_faces(np.zeros((64, 64, 3), np.uint8)) == []
    assert find_faces(np.zeros((300, 5, 3), np.uint8)) == find_faces(np.zeros((5, 3000, 1), np.uint8)) == []


@pytest.mark.slow
def test_the_box_of_a_drawn_face_is_where_the_recipe_expects_it():
    """So that a run on drawn faces can be tried on photos."""
    faces = [face for character in (11, 8) for face in synthetic_faces(12, 3, 96, character=character)[0]]
    found = [boxes[0] for boxes in map(find_faces, faces) if boxes]
    assert len(found) > 0.8 * len(faces)
    assert abs(np.median([box.side for box in found]) / 96 - 0.61) < 0.05
    assert abs(np.median([box.top + box.side / 2 for box in found]) / 96 - 0.52) < 0.03
    assert abs(np.median([box.left + box.side / 2 for box in found]) / 96 - 0.5) < 0.05


# %% Cutting out and putting back


def test_a_box_with_a_margin_of_four_tenths_is_1_8_times_as_large_around_the_same_middle():
    assert FaceBox(100, 50, 100).enlarged(0.4) == FaceBox(60, 10, 180)
    assert FaceBox(1, 2, 5).enlarged(0.0) == FaceBox(1, 2, 5)


def test_a_box_beyond_the_edges_is_cut_there():
    place, part = FaceBox(-3, 4, 10).overlap(5, 9)
    assert place == (slice(0, 5), slice(4, 9)) and part == (slice(3, 8), slice(0, 5))
    assert FaceBox(1, 2, 3).overlap(9, 9) == ((slice(1, 4), slice(2, 5)), (slice(0, 3), slice(0, 3)))


def test_what_is_cut_out_beyond_the_edge_repeats_the_edge():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    np.testing.assert_array_equal(cut_face(image, FaceBox(-2, -2, 8), 8), padded)
    np.testing.assert_array_equal(cut_face(image, FaceBox(1, 0, 3), 3), image[1:4, :3])


def test_colours_are_mean_and_deviation():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    channels = [[int(value) for value in pixels[..., channel].ravel()] for channel in range(3)]
    np.testing.assert_allclose(colours_of(pixels)[0], [statistics.mean(values) for values in channels])
    np.testing.assert_allclose(colours_of(pixels)[1], [statistics.pstdev(values) for values in channels])


def test_a_shift_of_colours_gives_the_other_s_mean_and_deviation_and_can_be_undone(tmp_path):
    rng = np.random.default_rng(0)
    one = rng.normal((120, 110, 100), (20, 25, 30), (40, 40, 3)).clip(0, 255).round().astype(np.uint8)
    other = rng.normal((140, 100, 90), (30, 20, 10), (50, 50, 3)).clip(0, 255).round().astype(np.uint8)
    shift = ColourShift.between(one, other)
    for found, right in zip(colours_of(shift.there(one)), colours_of(other), strict=True):
        np.testing.assert_allclose(found, right, atol=0.3)
    assert np.abs(shift.back(shift.there(one)).astype(int) - one).max() <= 2
    means = ColourShift.between(one, other, deviation=False)
    expected = one + (other.reshape(-1, 3).mean(0) - one.reshape(-1, 3).mean(0))
    np.testing.assert_array_equal(means.there(one), expected.round().clip(0, 255))


def test_one_flat_colour_is_shifted_without_a_division_by_zero():
    flat, other = np.full((4, 4, 3), 7, np.uint8), np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert ColourShift.between(flat, other).there(flat).std((0, 1)).max() == 0
    assert np.isfinite(ColourShift.between(other, flat).back(flat)).all()


def test_latents_get_the_mean_and_the_covariance_of_the_others_and_come_back():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(20_000, 4)) @ rng.normal(size=(4, 4)) + (1, 2, 3, 4)
    other = rng.normal(size=(30_000, 4)) @ rng.normal(size=(4, 4)) - 5
    way = NormalMap.between(one, other)
    moved = way.there(one)
    np.testing.assert_allclose(moved.mean(0), other.mean(0), atol=1e-3)
    np.testing.assert_allclose(np.cov(moved.T), np.cov(other.T), atol=0.01)
    np.testing.assert_allclose(way.back(moved), one, atol=1e-3)
    np.testing.assert_allclose(NormalMap.between(other, one).matrix, np.linalg.inv(way.matrix), atol=1e-2)
    np.testing.assert_allclose(way.matrix, way.matrix.T, atol=1e-9)
    assert np.linalg.eigvalsh(way.matrix).min() > 0  # so nothing is turned round


def test_the_map_of_latents_is_the_one_that_moves_them_least():
    """The mean square of the way is then the Frechet distance of the two normal distributions."""
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(5000, 3)) * (1, 2, 3) + 1, rng.normal(size=(5000, 3)) @ rng.normal(size=(3, 3))
    cost = ((NormalMap.between(one, other).there(one) - one) ** 2).sum(1).mean()
    assert cost == pytest.approx(frechet_distance(one, other), rel=0.01)


def test_of_few_latents_only_the_mean_and_the_overall_spread_are_trusted():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(4, 100)), 3 * rng.normal(size=(4, 100)) + 1
    matrix = NormalMap.between(one, other).matrix
    values = np.linalg.eigvalsh(matrix)
    assert values.min() > 1 and values.max() < 9
    assert np.isfinite(NormalMap.between(np.zeros((2, 5)), other[:, :5]).matrix).all()


def test_what_leads_from_one_person_to_the_other_is_kept_in_a_file(tmp_path):
    path = tmp_path / "shift.npz"
    latents = NormalMap(np.diag([1.0, 3.0]), np.zeros(2), np.ones(2))
    shift = PersonShift(ColourShift(np.array([1.0, 2.0, 0.5]), np.zeros(3)), latents)
    shift.write(path)
    again = PersonShift.read(path)
    np.testing.assert_array_equal(again.colours, shift.colours)
    for found, right in zip(again.latents, latents, strict=True):
        np.testing.assert_array_equal(found, right)
    with pytest.raises(InputError, match="has this run finished"):
        PersonShift.read(tmp_path / "absent.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        PersonShift.read(path)
    np.savez(path, factor=np.zeros(3))
    with pytest.raises(InputError, match="cannot be read"):
        PersonShift.read(path)


def test_the_mask_is_a_soft_ellipse_that_holds_the_box_s_middle():
    mask = face_mask(181, 0.4)[..., 0]
    assert mask.max() == mask[90, 90] == 1 and mask[0].max() == mask[:, 0].max() == 0
    np.testing.assert_allclose(mask, mask[::-1, ::-1], atol=1e-12)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert abs(len(rows) / 181 - 1.2 / 1.8) < 0.02 and abs(len(columns) / 181 - 1.0 / 1.8) < 0.02
    assert np.abs(np.diff(mask, axis=1)).max() < 0.1  # no edge that could be seen


@pytest.mark.parametrize("box", [FaceBox(40, 50, 40), FaceBox(-10, -5, 40), FaceBox(80, 100, 60)])
def test_blending_changes_nothing_outside_the_ellipse(box):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (120, 150, 3)).astype(np.uint8)
    kept = photo.copy()
    blended = blend_face(photo, rng.integers(0, 256, (64, 64, 3)).astype(np.uint8), box, 0.4)
    np.testing.assert_array_equal(photo, kept)
    assert blended.shape == photo.shape and blended.dtype == np.uint8
    y, x = np.mgrid[:120, :150]
    middle = (box.side - 1) / 2
    down, right = (y - box.top - middle) / (box.side / 2), (x - box.left - middle) / (box.side / 2)
    outside = (down / 1.2) ** 2 + right**2 > 1.05
    np.testing.assert_array_equal(blended[outside], photo[outside])
    inside = (down / 1.2) ** 2 + right**2 < 0.3
    assert (blended[inside] != photo[inside]).mean() > 0.9


def test_a_face_put_back_where_it_was_cut_out_leaves_the_photo_as_it_was(astronaut):
    box = find_faces(astronaut)[0]
    face = cut_face(astronaut, box.enlarged(0.4), box.enlarged(0.4).side)
    assert np.abs(blend_face(astronaut, face, box, 0.4).astype(int) - astronaut).max() <= 1


def test_a_blended_face_takes_on_the_skin_of_the_one_it_replaces_whatever_its_glasses(astronaut):
    box = find_faces(astronaut)[0]
    face = cut_face(astronaut, box.enlarged(0.4), 64).clip(60, 160)
    plain, tinted = (blend_face(astronaut, each, box, 0.4).astype(int) for each in (face, face + np.uint8([20, 0, 55])))
    assert np.abs(tinted - plain).max() <= 1
    glasses = face.copy()
    glasses[24:30, 20:44] = (200, 0, 0)
    blended = blend_face(astronaut, glasses, box, 0.4).astype(int)
    skin = slice(box.top + int(0.6 * box.side), box.top + box.side), slice(box.left + 30, box.left + box.side - 30)
    assert np.abs(blended[skin] - plain[skin]).mean() < 8


# %% Two people


def test_a_folder_for_each_person(album, capsys):
    people = two_people(str(album), 32, 0.4, no_sample)
    assert people.names == ("ann", "ben") and not people.paired
    assert people.a.shape == people.b.shape == (3, 32, 32, 3) and len(people.held_out_a) == len(people.held_out_b) == 1
    portrait = read_image(album / "ann" / "1.png")
    expected = cut_face(portrait, find_faces(portrait)[0].enlarged(0.4), 32)
    np.testing.assert_array_equal(people.a[1], expected)
    assert "4 faces of ann" in capsys.readouterr().err


def test_photos_without_a_face_are_named_and_left_out(album, capsys):
    grass = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    for number in range(7):
        write_image(grass, album / "ben" / f"grass{number}.jpg")
    people = two_people(str(album), 32, 0.4, no_sample)
    assert (len(people.a), len(people.b)) == (3, 3)
    said = capsys.readouterr().err
    assert said.count(".jpg: no face was found\n") == 5 and "skipped 7 of 11 photos" in said


def test_nobody_to_be_found(album, capsys):
    for path in (album / "ben").iterdir():
        write_image(np.zeros((60, 60, 3), np.uint8), path)
    with pytest.raises(InputError, match=r"ben: no face was found in 4 photos.*\.npz with the arrays a and b"):
        two_people(str(album), 32, 0.4, no_sample)
    report_faceless([], 4)


@pytest.mark.parametrize(("folders", "found"), [((), "nothing"), (("x",), "x/"), (("x", "y", "z"), "x/, y/, z/")])
def test_folders_that_are_not_two(folders, found, tmp_path):
    for name in folders:
        write_image(np.zeros((9, 9, 3), np.uint8), tmp_path / name / "1.png")
    pattern = f"{len(folders)} sub-folders with photos (found {found}); expected two folders"
    with pytest.raises(InputError, match=re.escape(pattern)):
        two_people(str(tmp_path), 32, 0.4, no_sample)
    with pytest.raises(InputError, match="no such folder"):
        two_people(str(tmp_path / "absent"), 32, 0.4, no_sample)


def test_ready_faces_in_an_npz(tmp_path, portraits):
    path = tmp_path / "faces.npz"
    np.savez(path, a=portraits, b=portraits[:3, ..., :1])
    people = two_people(str(path), 96, 0.4, no_sample)
    np.testing.assert_array_equal(np.concatenate([people.a, people.held_out_a]), portraits)
    np.testing.assert_array_equal(people.b, portraits[:2, ..., :1].repeat(3, -1))
    assert two_people(str(path), 32, 0.4, no_sample).a.shape == (3, 32, 32, 3)
    assert two_people("sample", 32, 0.4, lambda: people) is people


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros(1)}, "lacks a and b; found x_train"),
        ({"a": np.zeros((4, 8, 8, 3), np.uint8), "b": np.zeros((4, 8, 8, 3))}, "images are float64 and uint8"),
        (
            {"a": np.zeros((1, 8, 8, 3), np.uint8), "b": np.zeros((4, 8, 8, 3), np.uint8)},
            r"A has 1 face\(s\); a person needs at least two",
        ),
        (
            {"a": np.zeros((0, 8, 8, 3), np.uint8), "b": np.zeros((4, 8, 8, 3), np.uint8)},
            r"A has 0 face\(s\); a person needs at least two",
        ),
    ],
)
def test_an_npz_that_will_not_do(arrays, message, tmp_path):
    np.savez(tmp_path / "faces.npz", **arrays)
    with pytest.raises(InputError, match=message):
        two_people(str(tmp_path / "faces.npz"), 8, 0.4, no_sample)
    with pytest.raises(InputError, match="no such file"):
        two_people(str(tmp_path / "absent.npz"), 8, 0.4, no_sample)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="not a readable .npz"):
        two_people(str(tmp_path / "text.npz"), 8, 0.4, no_sample)


def test_swaps_are_scored_where_the_truth_is_known(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 200, (20, 16, 16, 3)).astype(np.uint8)
    b = a + 50
    people = TwoPeople(a, b, a, b, paired=True)
    shift = ColourShift(np.ones(3), np.full(3, 50.0))
    scores = people.evaluate(lambda faces, way: faces + (50 if way == "a2b" else -50 % 256), shift, tmp_path / "s.png")
    assert scores["a2b_l1"] == scores["b2a_l1"] == scores["a2b_recoloured_l1"] == scores["b2a_recoloured_l1"] == 0
    assert scores["a2b_copied_l1"] == pytest.approx(50 / 255) and scores["b2a_ssim"] == pytest.approx(1)
    unpaired = TwoPeople(a, b, a[:3], b[:5])
    assert unpaired.evaluate(lambda faces, way: faces, shift, tmp_path / "t.png") == {}
    with Image.open(tmp_path / "t.png") as picture, Image.open(tmp_path / "s.png") as paired:
        assert picture.height == 4 * (128 + 4) and paired.height == 6 * (128 + 4)


@pytest.mark.slow
def test_synthetic_people_show_the_same_moments_where_held_out_and_others_to_learn_from():
    people = synthetic_people(32, 0.1, 0)
    assert people.paired and len(people.held_out_a) == len(people.held_out_b) == 200
    assert len(people.a) != len(people.b)
    corner = np.abs(people.held_out_a[:, -3:, :3].astype(int) - people.held_out_b[:, -3:, :3])
    assert np.median(corner) <= 12  # the same wall
    assert np.abs(people.held_out_a.astype(int) - people.held_out_b).mean() > 15  # two people
    training = {face.tobytes() for face in (*people.a, *people.b)}
    assert not any(face.tobytes() in training for face in (*people.held_out_a, *people.held_out_b))


# %% Photos


def invert(faces: np.ndarray) -> np.ndarray:
    return faces[:, ::-1]


@pytest.mark.slow
def test_a_photo_s_face_is_replaced_and_marked_and_the_rest_is_as_it_was(astronaut, tmp_path):
    write_image(astronaut, tmp_path / "in.png")
    target = convert_faces(tmp_path / "in.png", tmp_path / "out.png", invert, 64, 0.4, visible_mark=False)
    changed = (read_image(target) != astronaut).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    box = find_faces(astronaut)[0]
    assert box.top - 11 <= rows[0] and rows[-1] <= box.top + box.side + 11
    assert box.left - 1 <= columns[0] and columns[-1] <= box.left + box.side + 1
    with Image.open(target) as picture:
        assert "ynthetic face" in picture.info["Description"]
        assert SYNTHETIC_SOURCE in str(picture.info["xmp" if "xmp" in picture.info else "XML:com.adobe.xmp"])
    marked = read_image(convert_faces(tmp_path / "in.png", tmp_path / "marked.png", invert, 64, 0.4))
    differs = (marked != read_image(target)).any(-1)
    assert differs[480:, 370:].any() and not differs[:480].any()
    (tmp_path / "folder").mkdir()
    convert_faces(tmp_path / "in.png", tmp_path / "folder", invert, 64, 0.4)
    np.testing.assert_array_equal(read_image(tmp_path / "folder" / "in.png"), marked)


def test_a_folder_of_photos(astronaut, tmp_path, capsys):
    write_image(astronaut, tmp_path / "in" / "one.jpg")
    write_image(np.zeros((80, 80, 3), np.uint8), tmp_path / "in" / "none.png")
    convert_faces(tmp_path / "in", tmp_path / "out", invert, 32, 0.4)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["one.png"]
    said = capsys.readouterr().err
    assert "none.png: no face was found" in said and "skipped 1 of 2 photos" in said
    (tmp_path / "in" / "one.jpg").unlink()
    with pytest.raises(InputError, match="no face was found in 1 photos"):
        convert_faces(tmp_path / "in", tmp_path / "out", invert, 32, 0.4)


def test_what_cannot_be_converted(astronaut, tmp_path):
    write_image(astronaut, tmp_path / "in" / "one.png")
    source = tmp_path / "in" / "one.png"
    write_image(np.zeros((80, 80, 3), np.uint8), tmp_path / "black.png")
    for place, target, message in (
        (source, tmp_path / "out.gif", "cannot store metadata"),
        (source, source, "this is the source"),
        (source, tmp_path / "in", "this is the source"),
        (tmp_path / "in", tmp_path / "in", "a different folder"),
        (tmp_path / "in", source, "a different folder"),
        (tmp_path / "black.png", tmp_path / "out.png", "black.png: no face was found"),
        (tmp_path / "absent.png", tmp_path / "out.png", "absent.png"),
    ):
        with pytest.raises(InputError, match=message):
            convert_faces(place, target, invert, 32, 0.4)
    write_image(astronaut, tmp_path / "in" / "one.jpg")
    with pytest.raises(InputError, match="would both become one.png"):
        convert_faces(tmp_path / "in", tmp_path / "out", invert, 32, 0.4)
    np.testing.assert_array_equal(read_image(source), astronaut)
    assert not (tmp_path / "out.png").exists()
