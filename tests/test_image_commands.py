"""Commands that read and write images: folders of many files, formats that are too small, names, and the limit."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from common.data.people import convert_faces
from common.images import face_finding
from common.images.converting import convert_images
from common.images.films import save_film
from common.images.marks import write_marked
from common.images.reading import read_image
from common.images.writing import png_targets, write_image
from common.runs.cli import run_command
from common.system.files import InputError
from recipes.__main__ import main
from tests.pictures import noise


def folder_of_links(folder: Path, count: int) -> Path:
    """Make a folder of `count` names of one image."""
    first = write_image(noise(8, 8, 3), folder / "0.png")
    for number in range(1, count):
        (folder / f"{number}.png").hardlink_to(first)
    return folder


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[PurePath]:
    """Collect the paths whose names without suffix are asked for."""
    seen: list[PurePath] = []
    stem = PurePath.stem.fget

    def counted(path: PurePath) -> str:
        seen.append(path)
        return stem(path)

    monkeypatch.setattr(PurePath, "stem", property(counted))
    return seen


@pytest.mark.parametrize("command", ["images", "faces"])
def test_names_of_a_folder_are_not_compared_each_with_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: list[PurePath], command: str
) -> None:
    folder_of_links(tmp_path / "in", 60)
    if command == "images":
        convert_images(tmp_path / "in", tmp_path / "out", lambda image: 255 - image)
        np.testing.assert_array_equal(read_image(tmp_path / "out" / "59.png"), 255 - noise(8, 8, 3))
    else:
        monkeypatch.setattr(face_finding, "find_faces", lambda photo: [])
        with pytest.raises(InputError, match="no face was found in 60 photos"):
            convert_faces(tmp_path / "in", tmp_path / "out", lambda faces: faces, 32, 0.4)
    assert 60 <= len(looked_at) <= 10 * 60


@pytest.mark.parametrize("command", ["images", "faces"])
def test_two_files_of_one_name_are_found_before_anything_is_written(tmp_path: Path, command: str) -> None:
    folder_of_links(tmp_path / "in", 5)
    write_image(noise(8, 8, 3), tmp_path / "in" / "3.jpg")
    with pytest.raises(InputError, match=r"3\.jpg and .*3\.png would both become 3\.png; rename one"):
        if command == "images":
            convert_images(tmp_path / "in", tmp_path / "out", lambda image: image)
        else:
            convert_faces(tmp_path / "in", tmp_path / "out", lambda faces: faces, 32, 0.4)
    assert not (tmp_path / "out").exists()


def test_targets_are_in_the_order_of_the_images() -> None:
    paths = [Path("b/2.jpg"), Path("b/1.png"), Path("b/.hidden.gif")]
    assert png_targets(paths, Path("c")) == [Path("c/2.png"), Path("c/1.png"), Path("c/.hidden.png")]
    assert png_targets([], Path("c")) == []


# --- formats -----------------------------------------------------------------------------------------------


def test_a_format_that_is_too_small_is_named_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*arguments: object) -> np.ndarray:
        raise AssertionError("computed")

    wide = write_image(np.zeros((1, 16_384, 3), np.uint8), tmp_path / "wide.png")
    with pytest.raises(InputError, match="out.webp: this format stores at most 16,383 px per side"):
        convert_images(wide, tmp_path / "out.webp", compute)
    with pytest.raises(InputError, match="out: not an image name"):
        convert_images(wide, tmp_path / "out", compute)
    monkeypatch.setattr(face_finding, "find_faces", compute)
    with pytest.raises(InputError, match="out.webp: this format stores at most 16,383 px per side"):
        convert_faces(wide, tmp_path / "out.webp", compute, 32, 0.4)
    with pytest.raises(InputError, match="at most 65,500 px per side"):
        write_marked(np.zeros((65_501, 1, 3), np.uint8), tmp_path / "a.jpg", "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["wide.png"]
    convert_images(wide, tmp_path / "out.png", lambda image: image)


def test_a_film_too_large_for_its_format(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, side in (("a.mp4", 8192), ("a.gif", 65_536)):
        with pytest.raises(InputError, match=f"{name}: this format stores at most {side - 1:,} px per side"):
            save_film(np.zeros((2, 2, side, 3), np.uint8), tmp_path / name)
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ""
    assert save_film(np.zeros((1, 16, 8190, 3), np.uint8), tmp_path / "a.mp4").stat().st_size > 0


# --- the command line --------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs a command line with a verb `show`: its status and what it printed."""

    def demo(output_dir: Path = Path("runs/none")) -> Path:
        """Do nothing."""
        return output_dir

    def show(source: Path) -> Path:
        """Read an image."""
        print(read_image(source).shape)
        return source

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["recipe.py", *map(str, arguments)])
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored at the end
        capsys.readouterr()
        try:
            run_command(demo, presets={}, show=show)
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def test_the_flag_sets_the_limit_for_every_verb(tmp_path: Path, command) -> None:
    path = write_image(noise(20, 20, 3), tmp_path / "a.png")
    for arguments in (["--max-pixels", "399"], ["--max-pixels=399"], ["--max_pixels", "399"]):
        status, _, said = command("show", path, *arguments)
        assert status == 2 and said == (
            f"error: {path}: too large (20x20 px); at most 399 pixels are allowed; scale it down, or raise the limit "
            "with --max-pixels\n"
        )
    status, printed, _ = command("show", "--max-pixels", "400", path)
    assert status == 0 and printed.startswith("(20, 20, 3)\n")
    status, printed, _ = command("show", "--help")
    assert status == 0 and "--max-pixels N read images of up to N pixels" in " ".join(printed.split())


@pytest.mark.parametrize("arguments", [["--max-pixels"], ["--max-pixels", "0"], ["--max-pixels", "a\x1b[2Jlot"]])
def test_a_limit_that_is_none_ends_in_a_line(tmp_path: Path, command, arguments: list[str]) -> None:
    status, _, said = command("show", tmp_path / "a.png", *arguments)
    assert status == 2 and said.startswith("error: --max-pixels ") and said.count("\n") == 1
    assert said.rstrip("\n").isprintable()


def test_shards_take_the_limit_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    folder_of_links(tmp_path / "in", 3)
    arguments = ["shards", str(tmp_path / "in"), str(tmp_path / "out"), "--layout", "images"]
    assert main([*arguments, "--max-pixels", "63"]) == 2
    assert "too large (8x8 px); at most 63 pixels" in capsys.readouterr().err
    assert main([*arguments, "--max-pixels", "no"]) == 2
    assert capsys.readouterr().err.startswith("error: --max-pixels must be")


def test_names_with_line_breaks_and_escapes_stay_one_line(tmp_path: Path, command) -> None:
    for name in ("two\nlines.png", "\x1b]0;title\x07.png", os.fsdecode(b"latin-\xe9.png")):
        status, _, said = command("show", tmp_path / name)
        assert status == 2 and said.startswith("error: ") and said.count("\n") == 1
        assert said.rstrip("\n").isprintable()
        write_image(noise(8, 8, 3), tmp_path / name)
        status, printed, _ = command("show", tmp_path / name)
        assert status == 0 and printed.count("\n") == 2 and all(map(str.isprintable, printed.splitlines()))


def test_errors_of_the_disk_are_one_line_too(tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left\non device", "run\n/a.png")

    monkeypatch.setattr("tests.test_image_commands.read_image", fail)
    status, _, said = command("show", tmp_path)
    assert (status, said) == (2, "error: run\\n/a.png: No space left\\non device\n")
