"""Images that are optimised: sizes, colours, films and saves against closed forms, NumPy and SciPy."""

from __future__ import annotations

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy.linalg import sqrtm

from common.images.films import check_image_path, save_film
from common.images.pixels import limit_size, shrink
from common.images.reading import read_image
from common.images.writing import save_image, write_image
from common.samples.paintings import synthetic_painting
from common.system.files import InputError
from common.training.canvas import (
    ImageProgress,
    Painting,
    enlarge,
    keep_colours,
    keeping,
    layer_weights,
    match_colours,
    read_photo,
    resize_pixels,
    resume_painting,
    save_painting,
    smallest_side,
    with_absolute_paths,
)
from tests.pictures import frames_of, noise


def ramp(height: int, width: int, slope: float = 0.02) -> np.ndarray:
    """Float32 [height, width, 3] that rises to the right, downwards, and along both."""
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    return (slope * np.stack([x, y, (x + y) / 2], -1)).astype(np.float32)


def correlated(mean: list[float], mixing: list[list[float]], seed: int) -> np.ndarray:
    """Colours with a covariance that is not diagonal, and far from 0 and 255."""
    plain = np.random.default_rng(seed).uniform(-1, 1, (50, 60, 3))
    return np.rint(plain @ np.array(mixing).T + mean).astype(np.uint8)


# Names with weights


@pytest.mark.parametrize("text, expected", [
    ("a", {"a": 1}),
    ("a,b", {"a": 1, "b": 1}),
    (" b=0.3 , a=2e1 ", {"b": 0.3, "a": 20}),
    ("conv1_2=1.5,conv1_1", {"conv1_2": 1.5, "conv1_1": 1}),
    ("x=y.png=2,x=y.jpg", {"x=y.png": 2, "x=y.jpg": 1}),
])  # fmt: skip
def test_names_are_read_in_their_order_with_weights(text, expected):
    assert list(layer_weights(text).items()) == list(expected.items())


@pytest.mark.parametrize("text", ["", ",", "a,", "a,,b", "a=0", "a=-1", "a=nan", "a=inf", "=2", "a,a", "a=1,b,a=2"])
def test_names_with_weights_that_cannot_be(text):
    with pytest.raises(
        InputError, match="expected NAME or NAME=WEIGHT, with positive weights and unique names"
    ) as error:
        layer_weights(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


def test_a_name_may_be_a_number_or_hold_an_equals_sign():
    assert layer_weights("2,x=3=0.5,y=") == {"2": 1, "x=3": 0.5, "y=": 1}
    text = with_absolute_paths("x=3=1,2=0.1234567")
    assert list(layer_weights(text).values()) == [1, 0.1234567] and "x=3=1" in text


def test_paths_in_full_keep_their_shares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = with_absolute_paths(f"a.png=2.5,sample=0.5,{tmp_path}/deep/../b.png")
    assert layer_weights(text) == {f"{tmp_path}/a.png": 2.5, "sample": 0.5, f"{tmp_path}/b.png": 1}
    assert list(layer_weights(text)) == [f"{tmp_path}/a.png", "sample", f"{tmp_path}/b.png"]
    assert with_absolute_paths(text) == text


# Sizes


@pytest.mark.parametrize("shape, factor, least, expected", [
    ((40, 60, 3), 2, 1, (20, 30, 3)),
    ((41, 63, 3), 4, 1, (10, 16, 3)),
    ((5, 7, 3), 1, 9, (5, 7, 3)),
    ((40, 60, 3), 4, 20, (20, 30, 3)),
    ((3, 100, 3), 8, 1, (1, 33, 3)),
])  # fmt: skip
def test_smaller_divides_until_the_shorter_side_is_the_least(shape, factor, least, expected):
    found = shrink(noise(*shape), factor, least)
    assert found.shape == expected and found.dtype == np.uint8


@pytest.mark.parametrize("shape, side, expected", [
    ((80, 120, 3), 60, (40, 60, 3)),
    ((122, 81, 3), 60, (60, 40, 3)),
    ((300, 64, 3), 50, (150, 32, 3)),
    ((300, 2, 3), 50, (300, 2, 3)),
])  # fmt: skip
def test_no_larger_bounds_the_longer_side_and_keeps_the_proportions(shape, side, expected):
    assert limit_size(noise(*shape), side).shape == expected


def test_no_larger_leaves_what_is_small_as_it_is():
    image = noise(20, 30, 3)
    for side in (30, 31, 500):
        np.testing.assert_array_equal(limit_size(image, side), image)


@pytest.mark.parametrize("size", [(12, 20), (24, 40), (17, 27), (33, 50)])
def test_a_ramp_that_is_enlarged_is_a_ramp_of_that_size(size):
    """OpenCV's cubic kernel misses straight lines by at most 5 % of a pixel's step."""
    height, width = 12, 20
    found = enlarge(ramp(height, width), *size)
    assert found.shape == (*size, 3) and found.dtype == np.float32
    y = (np.arange(size[0]) + 0.5) * height / size[0] - 0.5 - (height - 1) / 2
    x = (np.arange(size[1]) + 0.5) * width / size[1] - 0.5 - (width - 1) / 2
    inner = (slice(6, -6), slice(6, -6)) if size != (12, 20) else (slice(None), slice(None))
    expected = 0.02 * np.stack(np.broadcast_arrays(x[None], y[:, None], (x[None] + y[:, None]) / 2), -1)
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.06 * 0.02)


def test_enlarged_edges_stay_in_the_range():
    picture = np.where(np.arange(12)[:, None, None] < 6, -1, 1) * np.ones((12, 12, 3), np.float32)
    found = enlarge(picture.astype(np.float32), 40, 40)
    assert found.min() == -1 and found.max() == 1


def test_reduced_gives_the_mean_of_each_block():
    picture = np.random.default_rng(0).uniform(-1, 1, (12, 20, 3)).astype(np.float32)
    expected = picture.astype(float).reshape(4, 3, 5, 4, 3).mean((1, 3))
    np.testing.assert_allclose(resize_pixels(picture, 4, 5), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(12, 20), (11, 19), (7, 13), (5, 20), (1, 1)])
def test_reduced_keeps_the_mean_where_sizes_do_not_divide(size):
    picture = np.random.default_rng(0).uniform(-1, 1, (12, 20, 3)).astype(np.float32)
    found = resize_pixels(picture, *size)
    assert found.shape == (*size, 3)
    np.testing.assert_allclose(found.astype(float).mean((0, 1)), picture.astype(float).mean((0, 1)), atol=1e-5)


@pytest.mark.parametrize("height, width", [(21, 31), (20, 30)])
@pytest.mark.parametrize("zoom", [1.03, 1.5, 2.0])
def test_the_centre_is_magnified_and_stays_where_it_is(height, width, zoom):
    """Places are rounded to 1/32 of a pixel, and the cubic kernel misses straight lines by 5 % of a step."""
    picture = ramp(height, width)
    found = resize_pixels(picture, *picture.shape[:2], zoom)
    assert found.shape == picture.shape and found.dtype == np.float32
    np.testing.assert_allclose(found[2:-2, 2:-2], picture[2:-2, 2:-2] / zoom, atol=0.08 * 0.02)
    if height % 2:
        np.testing.assert_allclose(found[height // 2, width // 2], picture[height // 2, width // 2], atol=1e-6)


def test_a_zoom_of_one_leaves_the_picture():
    picture = np.random.default_rng(0).uniform(-1, 1, (9, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(resize_pixels(picture, *picture.shape[:2], 1.0), picture, atol=1e-6)


@pytest.mark.parametrize("shape, factor, least, expected", [
    ((100, 200, 3), 4, 40, (40, 80, 3)),
    ((200, 100, 3), 2, 40, (100, 50, 3)),
    ((40, 90, 3), 8, 40, (40, 90, 3)),
    ((30, 90, 3), 8, 40, (30, 90, 3)),
])  # fmt: skip
def test_smaller_stops_where_the_shorter_side_is_the_least(shape, factor, least, expected):
    assert shrink(noise(*shape), factor, least).shape == expected


def looking(*layers: keras.layers.Layer) -> keras.Model:
    images = x = keras.Input((None, None, 3))
    outputs = [x := layer(x) for layer in layers]
    return keras.Model(images, [outputs[0], outputs[-1]])


@pytest.mark.parametrize("layers, least", [
    ([keras.layers.Conv2D(2, 3), keras.layers.Conv2D(2, 3)], 32),
    ([keras.layers.Conv2D(2, 3)] + [keras.layers.AveragePooling2D(2) for _ in range(6)], 64 + 2),
    ([keras.layers.Conv2D(1, 41), keras.layers.Conv2D(1, 5)], 45),
    ([keras.layers.MaxPooling2D(50), keras.layers.ReLU()], 50),
])  # fmt: skip
def test_the_least_side_is_the_first_that_leaves_a_pixel_of_every_map(layers, least):
    network = looking(*layers)
    assert smallest_side(network) == least
    assert smallest_side(network, noise(least, least + 9, 3), noise(least + 1, least, 3)) == least
    for height, width in ((least - 1, 99), (99, least - 1)):
        line = f"an image of {width}x{height} px is too small for this network; it needs at least {least} px"
        with pytest.raises(InputError, match=line):
            smallest_side(network, noise(99, 99, 3), noise(height, width, 3))


# Colours

CONTENT = correlated([120, 110, 130], [[30, 5, 0], [10, 20, 5], [5, 5, 25]], 1)
STYLE = correlated([150, 90, 110], [[15, 0, 20], [20, 10, 0], [0, 30, 5]], 2)


def test_colours_are_matched_by_the_map_that_moves_them_least():
    """In the other form of Olkin & Pukelsheim, B^(1/2) (B^(1/2) A B^(1/2))^(-1/2) B^(1/2), and far from other maps."""
    content, style = (image.reshape(-1, 3).astype(float) for image in (CONTENT, STYLE))
    wanted, root, measured = np.cov(style.T), sqrtm(np.cov(style.T)), np.cov(content.T) + 5**2 * np.eye(3)
    least = root @ np.linalg.inv(sqrtm(root @ measured @ root)) @ root
    matched, centred = match_colours(CONTENT, STYLE).reshape(-1, 3), content - content.mean(0)
    np.testing.assert_allclose(matched.mean(0), style.mean(0), atol=0.1)
    assert np.abs(matched - (centred @ least.T + style.mean(0))).max() < 0.7
    np.testing.assert_allclose(np.cov(matched.T), wanted - 5**2 * least @ least, atol=2)
    other = root @ np.linalg.inv(sqrtm(measured))
    assert np.abs(matched - (centred @ other.T + style.mean(0))).max() > 1.1


def test_a_content_of_one_grey_gets_the_mean_colour():
    matched = match_colours(np.full((30, 40, 3), 77, np.uint8), STYLE)
    assert np.abs(matched - STYLE.reshape(-1, 3).mean(0)).max() <= 0.5 and (matched == matched[0, 0]).all()


def test_the_noise_of_a_sepia_photo_does_not_become_colours():
    tones = np.random.default_rng(3).uniform(40, 200, (50, 60, 1))
    sepia = np.rint(tones * np.array([1.0, 0.86, 0.67])).astype(np.uint8)  # rounded: off the line by half a level
    style = correlated([120, 120, 120], [[60, 0, 0], [0, 60, 0], [0, 0, 60]], 4)
    matched = match_colours(sepia, style).reshape(-1, 3).astype(float)
    spreads = np.sqrt(np.linalg.eigvalsh(np.cov(matched.T)))
    assert spreads[2] > 30 and spreads[1] < 3


def test_a_painting_of_one_colour_takes_all_colours_away():
    flat = np.full((40, 40, 3), [200, 10, 90], np.uint8)
    assert np.abs(match_colours(CONTENT, flat).astype(int) - [200, 10, 90]).max() <= 1


def test_matched_colours_end_at_black_and_white_without_turning_over():
    content = np.linspace(0, 255, 60 * 60).reshape(60, 60, 1).repeat(3, -1).astype(np.uint8)
    style = np.random.default_rng(0).choice([0, 255], (60, 60, 1)).repeat(3, -1).astype(np.uint8)
    matched = match_colours(content, style)
    assert matched.min() == 0 and matched.max() == 255
    assert (np.diff(matched[..., 0].ravel().astype(int)) >= 0).all()


def test_kept_colours_are_the_contents_and_the_brightness_is_the_paintings():
    painted = noise(30, 40, 3) // 2 + 64
    content = correlated([120, 110, 130], [[20, 5, 0], [10, 15, 5], [5, 5, 20]], 1)[:30, :40]
    kept, brightness, colours = (
        np.array(Image.fromarray(image).convert("YCbCr")).astype(int)
        for image in (keep_colours(painted, content), painted, content)
    )
    assert np.abs(kept[..., 0] - brightness[..., 0]).max() <= 1
    assert np.abs(kept[..., 1:] - colours[..., 1:]).max() <= 2
    luma = painted @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(keep_colours(painted, content) @ np.array([0.299, 0.587, 0.114]) - luma).max() <= 2


def test_colours_that_are_kept_of_the_same_picture_change_nothing():
    assert np.abs(keep_colours(CONTENT, CONTENT).astype(int) - CONTENT).max() <= 3


# Saves


def rows(count: int) -> list[dict[str, float]]:
    random = np.random.default_rng(0)
    return [{"epoch": number + 1, "pixels": 64, "loss": random.random() / 3} for number in range(count)]


def test_what_is_saved_comes_back_bit_for_bit_and_the_newest_three_stay(tmp_path):
    pictures = [np.random.default_rng(seed).uniform(-1, 1, (9, 7, 3)).astype(np.float32) for seed in range(5)]
    for number, picture in enumerate(pictures, 1):
        save_painting(tmp_path, rows(number), picture)
    assert sorted(path.name[-5] for path in tmp_path.glob("checkpoints/*")) == ["3", "4", "5"]
    assert (tmp_path / "report.html").is_file()
    history, kept = resume_painting(tmp_path)
    assert history == rows(5) and [type(value) for value in history[0].values()] == [int, int, float]
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, pictures[4])
    for number, expected in enumerate(pictures, 1):
        shown = read_image(tmp_path / "samples" / f"epoch-{number:04d}.png")
        assert np.abs(shown - (expected + 1) * 127.5).max() <= 0.501
    assert (tmp_path / "history.csv").read_text().splitlines()[0] == "epoch,pixels,loss"


@pytest.mark.parametrize("folder", ["absent", "empty", None])
def test_where_nothing_was_saved_nothing_comes_back(folder, tmp_path):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert resume_painting(tmp_path / folder if folder else None)[0] == []
    assert resume_painting(tmp_path / folder if folder else None)[1].shape == (0, 0, 3)


def test_without_a_folder_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_painting(None, rows(1), np.zeros((4, 4, 3), np.float32))
    assert not list(tmp_path.iterdir())


def test_a_damaged_save_is_named_and_passed_over_while_there_is_another(tmp_path, capsys):
    for count in (1, 2):
        save_painting(tmp_path, rows(count), np.full((4, 4, 3), count, np.float32))
    first, newest = sorted(tmp_path.glob("checkpoints/*"))
    newest.write_bytes(newest.read_bytes()[:60])
    history, picture = resume_painting(tmp_path)
    assert history == rows(1) and (picture == 1).all()
    assert "step-00000002.npz: cannot be read" in capsys.readouterr().err
    first.write_bytes(first.read_bytes()[:60])
    with pytest.raises(InputError, match="step-00000001.npz: cannot be read"):
        resume_painting(tmp_path)


def test_ctrl_c_says_how_much_is_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="^stopped; 2 epochs are saved$"), keeping(tmp_path, rows(2)):
        raise KeyboardInterrupt
    for folder, history in ((None, rows(2)), (tmp_path, [])):
        with pytest.raises(KeyboardInterrupt, match="^$"), keeping(folder, history):
            raise KeyboardInterrupt


# Films


def moving_square(count: int, height: int, width: int) -> np.ndarray:
    frames = np.full((count, height, width, 3), [30, 60, 200], np.uint8)
    for number in range(count):
        frames[number, 10:30, 2 * number : 2 * number + 20] = [250, 200, 20]
    return frames


@pytest.mark.parametrize("name, size", [
    ("film.gif", (48, 64)),
    ("deep/film.gif", (47, 65)),
    ("film.mp4", (48, 64)),
    ("FILM.MP4", (36, 80)),
])  # fmt: skip
def test_a_film_shows_its_frames_in_their_colours(name, size, tmp_path):
    frames = moving_square(5, *size)
    assert save_film(frames, tmp_path / name) == tmp_path / name
    found = frames_of(tmp_path / name)
    assert found.shape == frames.shape
    assert np.abs(found.astype(int) - frames).mean() < 6  # MPEG-4 blurs colours
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]


@pytest.mark.parametrize("per_second, milliseconds", [(15, 60), (10, 100), (25, 40)])
def test_a_film_has_its_speed(per_second, milliseconds, tmp_path):
    save_film(moving_square(3, 40, 40), tmp_path / "a.gif", per_second)
    save_film(moving_square(3, 40, 40), tmp_path / "a.mp4", per_second)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.info["duration"] == milliseconds
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(per_second)


@pytest.mark.parametrize("name", ["film", "film.png", "film.avi", "gif"])
def test_a_name_that_is_none_of_a_film(name, tmp_path):
    with pytest.raises(InputError, match=f"{name}: not a video file name; it must end in .gif or .mp4"):
        check_image_path(tmp_path / name, film=True)
    with pytest.raises(InputError, match="not a video file name"):
        save_film(moving_square(2, 40, 40), tmp_path / name)
    assert not list(tmp_path.iterdir())


# Photos and paintings


def test_a_canvas_is_a_copy_of_its_content():
    content = noise(40, 33, 3)
    painting = Painting.of(content, [(noise(32, 32, 3), 2.0)])
    painting.image[:] = 0
    assert painting.content is content and content.any() and [share for _, share in painting.styles] == [1.0]


def test_the_sample_is_the_cat_and_a_synthetic_painting():
    painting = Painting.read("sample", "sample", 0)
    np.testing.assert_array_equal(painting.content, skimage.data.cat())
    np.testing.assert_array_equal(painting.image, painting.content)
    assert not np.shares_memory(painting.image, painting.content)
    ((style, share),) = painting.styles
    np.testing.assert_array_equal(style, limit_size(synthetic_painting(), 451))
    assert style.shape == (451, 451, 3) and share == 1


def test_size_bounds_the_photo_and_its_paintings(tmp_path):
    write_image(noise(60, 100, 3), tmp_path / "photo.png")
    write_image(noise(200, 150, 3, seed=1), tmp_path / "large.png")
    write_image(noise(33, 40, 3, seed=2), tmp_path / "small.png")
    painting = Painting.read(str(tmp_path / "photo.png"), f"{tmp_path}/large.png=3,{tmp_path}/small.png=0.5,sample", 50)
    assert painting.content.shape == (32, 53, 3)
    assert [image.shape for image, _ in painting.styles] == [(53, 40, 3), (33, 40, 3), (53, 53, 3)]
    assert [share for _, share in painting.styles] == [3 / 4.5, 0.5 / 4.5, 1 / 4.5]
    painting = Painting.read(str(tmp_path / "photo.png"), f"{tmp_path}/small.png,{tmp_path}/large.png", 0)
    np.testing.assert_array_equal(painting.content, noise(60, 100, 3))
    assert [image.shape for image, _ in painting.styles] == [(33, 40, 3), (100, 75, 3)]
    np.testing.assert_array_equal(painting.styles[0][0], noise(33, 40, 3, seed=2))
    assert [share for _, share in painting.styles] == [0.5, 0.5]


@pytest.mark.parametrize("style, line", [
    ("", "expected NAME or NAME=WEIGHT"),
    ("a.png,", "expected NAME or NAME=WEIGHT"),
    ("a.png=0", "expected NAME or NAME=WEIGHT"),
    ("a.png,absent.png=2", "absent.png: No such file"),
    ("thin.png", "thin.png: 31x90 px; each side must be at least 32"),
])  # fmt: skip
def test_paintings_that_cannot_be(style, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(noise(40, 40, 3), tmp_path / "a.png")
    write_image(noise(90, 31, 3), tmp_path / "thin.png")
    with pytest.raises(InputError, match=line):
        Painting.read("a.png", style, 0)


@pytest.mark.parametrize("height, width", [(31, 40), (40, 31), (1, 1)])
def test_a_picture_too_small_is_named_with_its_size(height, width, tmp_path):
    write_image(noise(height, width, 3), tmp_path / "a.png")
    with pytest.raises(InputError, match=f"a.png: {width}x{height} px; each side must be at least 32"):
        read_photo(str(tmp_path / "a.png"))


def test_a_picture_of_32_pixels_is_large_enough(tmp_path):
    write_image(noise(32, 32, 3), tmp_path / "a.png")
    np.testing.assert_array_equal(read_photo(str(tmp_path / "a.png")), noise(32, 32, 3))


def test_a_photo_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="absent.png: No such file"):
        read_photo(str(tmp_path / "absent.png"))


def test_a_film_of_odd_sides_loses_nothing(tmp_path):
    frames = frames_of(save_film(np.full((3, 47, 65, 3), 90, np.uint8), tmp_path / "odd.mp4"))
    assert frames.shape == (3, 48, 66, 3) and abs(frames.astype(int) - 90).max() < 9


def test_save_image_writes_films_and_rows(tmp_path):
    frames = moving_square(3, 40, 48)
    for name in ("a.gif", "a.mp4"):
        assert frames_of(save_image(frames, tmp_path / name, milliseconds=67)).shape == frames.shape
    with Image.open(tmp_path / "a.gif") as film:
        assert film.info["duration"] == 60
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(15)
    row = read_image(save_image([noise(40, 20, 3), noise(20, 20, 3)], tmp_path / "row.png"))
    assert row.shape == (320, 160 + 4 + 320, 3)


# Progress


def test_progress_keeps_images_and_rows_and_resumes(tmp_path, capsys):
    images = [np.full((4, 5, 3), value, np.float32) for value in (0.25, 0.5)]
    for number, image in enumerate(images):
        with ImageProgress(tmp_path, "painting", 6, 3) as progress:
            assert len(progress.history) == progress.done // 3 == number
            progress.step("loss 1")
            progress.save(image, loss=number + 0.5, pixels=5)
    assert [list(row) for row in progress.history] == [["epoch", "loss", "pixels", "seconds"]] * 2
    assert [row["epoch"] for row in progress.history] == [1, 2] and progress.resized(8, 10).shape == (8, 10, 3)
    again = ImageProgress(tmp_path, "painting", 6, 3)
    assert again.history == progress.history
    np.testing.assert_array_equal(again.image, images[1])
    with pytest.raises(KeyboardInterrupt, match="^stopped; 2 epochs are saved$"), again:
        raise KeyboardInterrupt
