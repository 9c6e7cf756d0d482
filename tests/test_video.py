"""Videos in and out: their frames, times and errors, against OpenCV and Pillow, and resuming after an interruption."""

from __future__ import annotations

import functools
import sys
import weakref
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from PIL import Image, ImageSequence

from common.data import people
from common.data.people import convert_faces
from common.images import films, videos
from common.images.converting import convert_images
from common.images.face_finding import FaceBox
from common.images.marks import SYNTHETIC_SOURCE
from common.images.reading import read_image
from common.images.videos import convert_video, fingerprint, frames_of, read_video
from common.images.writing import write_image
from common.runs.cli import run_command
from common.system.files import InputError
from recipes import deepdream, pix2pix, style_transfer
from tests.pictures import noise

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (90, 90, 90), (0, 0, 0)]


def plain(number: int, height: int, width: int) -> np.ndarray:
    """Return a frame of one colour, which even a lossy codec keeps, with a number of its own."""
    return np.full((height, width, 3), COLOURS[number % len(COLOURS)], np.uint8)


def written_avi(path: Path, frames: list[np.ndarray], per_second: float = 12.5) -> Path:
    """Write a lossless AVI with the codec FFV1."""
    height, width = frames[0].shape[:2]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), per_second, (width, height))
    for frame in frames:
        video.write(np.ascontiguousarray(frame[..., ::-1]))
    video.release()
    return path


def written_gif(path: Path, frames: list[np.ndarray], milliseconds: list[int] | int = 100) -> Path:
    first, *rest = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return path


def read_back(path: Path) -> list[np.ndarray]:
    if path.suffix == ".gif":
        with Image.open(path) as film:
            return [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    film, found = cv2.VideoCapture(str(path)), []
    while (read := film.read())[0]:
        found.append(read[1][..., ::-1])
    return found


def durations(path: Path) -> list[int]:
    with Image.open(path) as film:
        return [frame.info["duration"] for frame in ImageSequence.Iterator(film)]


def inverted(image: np.ndarray) -> np.ndarray:
    return 255 - image


def the_line(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    return str(error.value)


# Frames


def test_frames_of_a_video_are_those_of_images_translated_one_by_one(tmp_path):
    config = pix2pix.Config(size=32, base_filters=2)
    translate = functools.partial(pix2pix.translate, pix2pix.build(config).generator)
    shown = [
        np.kron(noise(5, 6, 3, seed=number) // 64 * 64, np.ones((8, 8, 1), np.uint8))[:32, :46] for number in range(3)
    ]
    source = written_avi(tmp_path / "in.avi", shown)
    images = [cv2.imread(str(write_image(each, tmp_path / "a.png")))[..., ::-1] for each in read_back(source)]
    kept = []
    monkey = functools.partial(keep, kept, translate)
    convert_images(source, tmp_path / "out.gif", monkey)
    for image, result in zip(images, kept, strict=True):
        np.testing.assert_array_equal(result, translate(np.ascontiguousarray(image)))
    assert [each.shape for each in read_back(tmp_path / "out.gif")] == [(32, 46, 3)] * 3
    assert not (tmp_path / "out.gif.frames").exists()


def keep(kept: list[np.ndarray], convert, image: np.ndarray) -> np.ndarray:
    kept.append(convert(image))
    return kept[-1]


def test_a_gif_of_few_colours_is_exact_with_the_time_of_each_frame(tmp_path):
    frames = [plain(number, 17, 23) for number in range(5)]
    frames[2][3:9, 4:11] = 77
    source = written_gif(tmp_path / "in.gif", frames, [100, 30, 250, 0, 70])
    assert convert_images(source, tmp_path / "out.gif", inverted) == tmp_path / "out.gif"
    for found, frame in zip(read_back(tmp_path / "out.gif"), frames, strict=True):
        np.testing.assert_array_equal(found, 255 - frame)
    assert durations(tmp_path / "out.gif") == [100, 30, 250, 100, 70]  # browsers show 0 as 100


def test_transparent_parts_of_a_gif_are_white_as_in_an_image(tmp_path):
    pixels = np.zeros((8, 10, 4), np.uint8)
    pixels[2:5] = 200, 10, 10, 255
    frames = [Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())]
    frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:], disposal=2)
    first, second = frames_of(read_video(tmp_path / "in.gif"))
    np.testing.assert_array_equal(first, read_image(tmp_path / "in.gif"))
    np.testing.assert_array_equal(second, first[::-1])


@pytest.mark.parametrize("rate", [10.0, 12.5, 30000 / 1001, 60.0])
def test_an_mp4_keeps_the_rate(rate, tmp_path):
    source = written_avi(tmp_path / "in.avi", [plain(number, 34, 48) for number in range(5)], rate)
    convert_images(source, tmp_path / "out.mp4", inverted)
    film = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(rate, abs=0.01)
    found = read_back(tmp_path / "out.mp4")
    assert [each.shape for each in found] == [(34, 48, 3)] * 5
    for number, frame in enumerate(found):
        assert np.abs(frame.astype(int) - (255 - plain(number, 34, 48))).max() <= 12


def test_a_gif_becomes_an_mp4_in_which_each_frame_lasts_as_long(tmp_path):
    source = written_gif(tmp_path / "in.gif", [plain(number, 16, 16) for number in range(3)], [100, 300, 200])
    convert_images(source, tmp_path / "out.mp4", lambda image: image)
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    nearest = [
        int(np.argmin(np.abs(np.array(COLOURS) - frame[8, 8]).sum(1))) for frame in read_back(tmp_path / "out.mp4")
    ]
    assert nearest == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("rate", "count", "expected"),
    [(30.0, 6, [30, 40, 30, 30, 40, 30]), (60.0, 7, [30, 40, 30, 30]), (8.0, 2, [120, 130])],
)
def test_a_gif_of_a_video_is_as_long_as_the_video(rate, count, expected, tmp_path):
    source = written_avi(tmp_path / "in.avi", [plain(number, 16, 16) for number in range(count)], rate)
    convert_images(source, tmp_path / "out.gif", lambda image: image)
    assert durations(tmp_path / "out.gif") == expected


def test_odd_sides_become_even_in_an_mp4_by_repeating_the_edge(tmp_path):
    frames = [plain(number, 33, 47) for number in range(2)]
    frames[1][:] = np.arange(47, dtype=np.uint8)[:, None] * 5
    convert_images(written_gif(tmp_path / "in.gif", frames), tmp_path / "out.mp4", lambda image: image)
    for found, frame in zip(read_back(tmp_path / "out.mp4"), frames, strict=True):
        expected = np.pad(frame, ((0, 1), (0, 1), (0, 0)), mode="edge")
        assert found.shape == (34, 48, 3) and np.abs(found.astype(int) - expected).max() <= 20


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_a_gif_of_one_frame(name, tmp_path):
    source = written_gif(tmp_path / "in.gif", [plain(2, 20, 21)])
    convert_images(source, tmp_path / name, inverted)
    (found,) = read_back(tmp_path / name)
    assert np.abs(found[:20, :21].astype(int) - (255 - plain(2, 20, 21))).max() <= 12


def test_a_gif_to_a_png_stays_an_image_and_a_folder_gets_a_video(tmp_path):
    source = written_gif(tmp_path / "in.gif", [plain(0, 16, 16), plain(1, 16, 16)])
    convert_images(source, tmp_path / "out.png", inverted)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), 255 - plain(0, 16, 16))
    (tmp_path / "folder").mkdir()
    convert_images(source, tmp_path / "folder", inverted)
    convert_images(written_avi(tmp_path / "clip.avi", [plain(0, 16, 16)]), tmp_path / "folder", inverted)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["clip.mp4", "in.gif"]


def test_five_hundred_frames_are_never_in_memory_together(tmp_path, monkeypatch):
    """Every frame and every result is followed until it is freed. Written frames are one shared file."""
    alive: list[weakref.ref] = []
    most = 0

    def frames(video: videos.Video, first: int = 0):
        for number in range(first, video.frames):
            frame = np.full((4, 4, 3), number % 256, np.uint8)
            alive.append(weakref.ref(frame))
            yield frame

    def convert(frame: np.ndarray) -> np.ndarray:
        nonlocal most
        result = 255 - frame
        alive.append(weakref.ref(result))
        most = max(most, sum(each() is not None for each in alive))
        return result

    def read(path: Path) -> np.ndarray:
        nonlocal most
        frame = read_image(path)
        alive.append(weakref.ref(frame))
        most = max(most, sum(each() is not None for each in alive))
        return frame

    source = written_avi(tmp_path / "in.avi", [plain(0, 4, 4)])
    long = read_video(source)._replace(frames=500)
    monkeypatch.setattr(videos, "read_video", lambda path: long)
    monkeypatch.setattr(videos, "frames_of", frames)
    monkeypatch.setattr(videos, "read_image", read)
    monkeypatch.setattr(videos, "fingerprint", lambda function: "")  # the function follows the frames
    convert_video(source, tmp_path / "out.gif", convert)
    with Image.open(tmp_path / "out.gif") as film:
        assert film.n_frames == 500
    assert len(alive) == 1500 and most <= 4


# Interruptions


class Stopping:
    """Converts frames, and is interrupted by Ctrl-C at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.calls = at, 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self.calls == self.at:
            raise KeyboardInterrupt
        self.calls += 1
        return 255 - image


@pytest.fixture
def same_function(monkeypatch):
    monkeypatch.setattr(videos, "fingerprint", lambda function: "the same")


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
@pytest.mark.usefixtures("same_function")
def test_after_ctrl_c_the_same_command_resumes_and_writes_the_same_file(name, tmp_path):
    source = written_avi(tmp_path / "in.avi", [noise(16, 18, 3, seed=number) for number in range(7)])
    convert_video(source, tmp_path / f"whole-{name}", Stopping(None))
    with pytest.raises(KeyboardInterrupt, match="stopped after 3 of 7 frames"):
        convert_video(source, tmp_path / name, Stopping(3))
    assert not (tmp_path / name).exists()
    assert len(list((tmp_path / f"{name}.frames").glob("*.png"))) == 3
    rest = Stopping(None)
    convert_video(source, tmp_path / name, rest)
    assert rest.calls == 4
    np.testing.assert_array_equal(read_back(tmp_path / name), read_back(tmp_path / f"whole-{name}"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.avi", name, f"whole-{name}"]


@pytest.mark.usefixtures("same_function")
def test_frames_that_a_gif_leaves_out_stay_left_out_after_an_interruption(tmp_path):
    source = written_avi(tmp_path / "in.avi", [plain(number, 16, 16) for number in range(7)], 60)
    with pytest.raises(KeyboardInterrupt, match="stopped after 2 of 4 frames"):
        convert_video(source, tmp_path / "out.gif", Stopping(2))
    convert_video(source, tmp_path / "out.gif", Stopping(None))
    np.testing.assert_array_equal(
        read_back(tmp_path / "out.gif"), [255 - plain(2 * number, 16, 16) for number in range(4)]
    )


@pytest.mark.usefixtures("same_function")
def test_stopped_at_the_first_frame_nothing_is_left(tmp_path):
    source = written_avi(tmp_path / "in.avi", [plain(0, 16, 16)] * 2)
    with pytest.raises(KeyboardInterrupt):
        convert_video(source, tmp_path / "out.mp4", Stopping(0))
    assert [each.name for each in tmp_path.iterdir()] == ["in.avi"]


def test_frames_of_another_video_or_other_settings_are_not_used(tmp_path):
    first = written_avi(tmp_path / "a.avi", [plain(0, 16, 16)] * 2)
    second = written_avi(tmp_path / "b.avi", [plain(1, 16, 16)] * 2)

    def stopped(image: np.ndarray, shade: int) -> np.ndarray:
        if (tmp_path / "out.mp4.frames" / "000000.png").exists():
            raise KeyboardInterrupt
        return np.full_like(image, shade)

    with pytest.raises(KeyboardInterrupt):
        convert_video(first, tmp_path / "out.mp4", functools.partial(stopped, shade=1))
    for source, shade, problem in ((second, 1, "another video"), (first, 2, "another network or other settings")):
        line = the_line(
            lambda s=source, k=shade: convert_video(s, tmp_path / "out.mp4", functools.partial(stopped, shade=k))
        )
        assert f"out.mp4.frames: has the frames of {problem}; delete this folder" in line
    (tmp_path / "other.mp4.frames").mkdir()
    (tmp_path / "other.mp4.frames" / "letter.txt").write_text("mine")
    assert "has other files; rename it" in the_line(lambda: convert_video(first, tmp_path / "other.mp4", inverted))
    assert (tmp_path / "other.mp4.frames" / "letter.txt").read_text() == "mine"


def test_a_fingerprint_tells_weights_arguments_and_code_apart():
    def network(scale: float) -> keras.Model:
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.set_weights([np.full(each.shape, scale, np.float32) for each in model.get_weights()])
        return model

    def convert(model, option, image):
        return image

    def of(*arguments):
        return fingerprint(functools.partial(convert, *arguments))

    assert of(network(1.0), 3) == of(network(1.0), 3)
    ones = {"a": np.zeros(3)}
    different = [of(network(1.0), 3), of(network(2.0), 3), of(network(1.0), 4), of(network(1.0), deepdream.Config()),
                 of(network(1.0), deepdream.Config(steps=1)), of(ones, 3), of({"a": np.zeros((3, 1))}, 3),
                 fingerprint(lambda image: image + 1), fingerprint(lambda image: image + 2)]  # fmt: skip
    assert len(set(different)) == len(different)
    with pytest.raises(TypeError, match="fingerprint of a object"):
        of(object(), 3)


# Errors


def test_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("once upon a time")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x1cftypisom\0\0\2\0" + bytes(100))
    for name, problem in (("text.mp4", "not an MP4, MOV, AVI, WEBM or GIF file, despite its name"),
                          ("empty.mp4", "an empty file"), ("none.mov", "no such file"),
                          ("cut.mp4", "cannot be opened as a video: it is damaged or cut short, or")):  # fmt: skip
        line = the_line(lambda name=name: convert_images(tmp_path / name, tmp_path / "out.mp4", inverted))
        assert f"{tmp_path / name}: {problem}" in line
    assert not list(tmp_path.glob("out*"))


def test_a_video_without_frames(tmp_path):
    whole = written_avi(tmp_path / "whole.avi", [noise(32, 32, 3)]).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    line = the_line(lambda: convert_images(tmp_path / "cut.avi", tmp_path / "out.mp4", inverted))
    assert "cut.avi: " in line and "cut short" in line


def test_a_video_that_is_cut_short_gives_the_frames_that_it_has(tmp_path, capsys):
    whole = written_avi(tmp_path / "whole.avi", [noise(32, 32, 3, seed=number) for number in range(20)])
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    convert_images(tmp_path / "cut.avi", tmp_path / "out.mp4", inverted)
    count = len(read_back(tmp_path / "out.mp4"))
    assert 5 <= count <= 12
    assert f"cut.avi: only {count} of 20 frames can be read; it is damaged or cut short" in capsys.readouterr().err
    film = written_gif(tmp_path / "whole.gif", [noise(32, 32, 3, seed=number) for number in range(9)])
    (tmp_path / "cut.gif").write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    convert_images(tmp_path / "cut.gif", tmp_path / "out.gif", inverted)
    assert 2 <= len(read_back(tmp_path / "out.gif")) <= 6
    assert "frames can be read; it is damaged or cut short" in capsys.readouterr().err


def test_names_that_do_not_fit(tmp_path):
    source = written_avi(tmp_path / "in.avi", [plain(0, 16, 16)])
    image = write_image(plain(0, 16, 16), tmp_path / "in.png")
    for name in ("out.png", "out.avi", "out"):
        line = the_line(lambda name=name: convert_images(source, tmp_path / name, inverted))
        assert f"{name}: {source} is a video, so the output must end in .mp4 or .gif" in line
    assert "out.mp4: the name of a video, but" in the_line(
        lambda: convert_images(image, tmp_path / "out.mp4", inverted)
    )
    film = written_gif(tmp_path / "in.gif", [plain(0, 16, 16), plain(1, 16, 16)])
    assert "this is the source" in the_line(lambda: convert_images(film, film, inverted))
    assert "translates label maps" in the_line(
        lambda: convert_images(source, tmp_path / "out.mp4", inverted, classes=5)
    )


def test_a_codec_that_is_missing_is_named_before_a_frame_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(films, "CODECS", ("none",))
    source = written_avi(tmp_path / "in.avi", [plain(0, 16, 16)])
    line = the_line(lambda: convert_images(source, tmp_path / "out.mp4", Stopping(0)))
    assert "out.mp4: OpenCV cannot write an MP4 of 16x16 px on this machine; give a name that ends in .gif" in line


def test_a_full_disk_leaves_the_frames_but_no_part_of_the_video(tmp_path, monkeypatch):
    source = written_avi(tmp_path / "in.avi", [plain(number, 16, 16) for number in range(3)])
    (tmp_path / "out.mp4").write_bytes(b"an older video")

    class Lossy:
        def __init__(self, *arguments):
            self.video, self.left = original(*arguments), 2

        def __getattr__(self, name):
            return getattr(self.video, name)

        def write(self, frame):  # as OpenCV: frames are lost without an error
            self.left -= 1
            if self.left >= 0:
                self.video.write(frame)

    original = cv2.VideoWriter
    Lossy.fourcc = staticmethod(original.fourcc)
    monkeypatch.setattr(cv2, "VideoWriter", Lossy)
    with pytest.raises(OSError, match="only 2 of 3 frames were written; is the disk full"):
        convert_images(source, tmp_path / "out.mp4", inverted)
    assert (tmp_path / "out.mp4").read_bytes() == b"an older video"
    assert len(list((tmp_path / "out.mp4.frames").glob("*.png"))) == 3
    monkeypatch.undo()
    convert_images(source, tmp_path / "out.mp4", inverted)
    assert len(read_back(tmp_path / "out.mp4")) == 3


def test_a_video_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    source = written_avi(tmp_path / "in.avi", [plain(0, 32, 40)])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "too large (40x32 px)" in the_line(lambda: convert_images(source, tmp_path / "out.mp4", inverted))


def test_a_command_for_images_says_which_commands_take_videos(tmp_path):
    source = written_avi(tmp_path / "in.avi", [plain(0, 32, 32)])
    film = tmp_path / "in.mp4"
    convert_images(source, film, inverted)
    for path in (source, film):
        line = the_line(lambda path=path: read_image(path))
        assert f"{path}: a video, but an image is expected; only" in line and "fast_style_transfer" in line
    assert "fast_style_transfer" in the_line(lambda: style_transfer.stylize_file(source, tmp_path / "out.mp4"))


# Recipes


@pytest.mark.usefixtures("untraced")
def test_every_frame_dreams_as_an_image_does(tmp_path):
    config = deepdream.Config(octaves=1, steps=1, tile=32, border=32)
    frames = [np.kron(noise(4, 5, 3, seed=number), np.ones((8, 8, 1), np.uint8)) for number in range(2)]
    dream = functools.partial(deepdream.dream_image, deepdream.build(config), config)
    kept: list[np.ndarray] = []
    convert_video(written_avi(tmp_path / "in.avi", frames), tmp_path / "out.gif", functools.partial(keep, kept, dream))
    for number, frame in enumerate(read_back(tmp_path / "in.avi")):
        write_image(frame, tmp_path / "one.png")
        deepdream.dream_file(tmp_path / "one.png", tmp_path / "alone.png", config)
        np.testing.assert_array_equal(read_image(tmp_path / "alone.png"), kept[number])


def swapped(tmp_path: Path, monkeypatch, name: str, faces: list[bool], mark: bool = False) -> Path:
    source = written_avi(tmp_path / "in.avi", [plain(5, 64, 64) // (1 + number) for number in range(len(faces))])
    there = iter(faces)
    monkeypatch.setattr(people, "find_faces", lambda photo: [FaceBox(16, 16, 32)] if next(there) else [])
    return convert_faces(source, tmp_path / name, lambda face: 255 - face, 16, 0.2, mark)


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_a_swapped_video_is_marked_as_synthetic_and_keeps_frames_without_a_face(name, tmp_path, monkeypatch, capsys):
    path = swapped(tmp_path, monkeypatch, name, [True, False, True], mark=True)
    found = read_back(path)
    assert len(found) == 3 and SYNTHETIC_SOURCE.encode() in path.read_bytes()
    assert "no face was found in 1 of 3 frames, which stay as they are" in capsys.readouterr().err
    assert np.abs(found[1][:40].astype(int) - plain(5, 40, 64) // 2).max() <= 12
    assert all(frame[-12:, 20:].max() > 180 for frame in found)  # the caption, in all frames


def test_a_video_without_a_face_is_not_written(tmp_path, monkeypatch):
    line = the_line(lambda: swapped(tmp_path, monkeypatch, "out.mp4", [False, False]))
    assert "in.avi: no face was found in 2 frames" in line
    assert [path.name for path in tmp_path.iterdir()] == ["in.avi"]


@pytest.mark.parametrize("recipe", [pix2pix, deepdream])
def test_the_help_says_that_a_video_is_read_and_that_its_sound_is_lost(recipe, monkeypatch, capsys):
    command, function = (
        ("dream", deepdream.dream_file) if recipe is deepdream else ("translate", pix2pix.translate_files)
    )
    monkeypatch.setattr(sys, "argv", [recipe.__name__, command, "--help"])
    with pytest.raises(SystemExit):
        run_command(recipe.demo, presets={"demo": recipe.DEMO}, **{command: function})
    text = " ".join(capsys.readouterr().out.split())
    assert "or video (.mp4 .mov .avi .webm .gif)" in text and "no sound is kept: ffmpeg -i" in text
