from __future__ import annotations

import io
import json
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.data.arrays import npz_entries
from common.data.labelled import labelled_images
from common.system.files import (
    InputError,
    cached_array,
    cut,
    data_file,
    delete,
    draft_of,
    first_line,
    read_npz,
    read_numbers,
    replacing,
    replacing_folder,
    write_json,
    write_npz,
)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = write_json(tmp_path / "new" / "a.json", {"a": 1})
    with pytest.raises(RuntimeError, match="cut short"), replacing(path) as draft:
        draft.write_text("half of")
        raise RuntimeError("cut short")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_a_link_that_someone_has_laid_at_the_name_of_a_draft_is_not_followed(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("kept")
    draft_of(tmp_path / "a.json").symlink_to(mine)
    draft_of(tmp_path / "folder").symlink_to(tmp_path / "other")
    (tmp_path / "other").mkdir()
    write_json(tmp_path / "a.json", {"a": 1})
    with replacing_folder(tmp_path / "folder") as draft:
        (draft / "b").touch()
    assert mine.read_text() == "kept" and not list((tmp_path / "other").iterdir())
    assert not (tmp_path / "a.json").is_symlink() and (tmp_path / "folder" / "b").exists()


def test_a_folder_is_replaced_whole_or_stays_as_it_was(tmp_path):
    for name in ("one", "two"):
        with replacing_folder(tmp_path / "folder") as draft:
            (draft / name).touch()
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "folder") as draft:
        (draft / "three").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "two"]


def test_deleting_takes_files_links_and_folders_and_nothing_that_a_link_leads_to(tmp_path):
    (tmp_path / "kept" / "file").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("link", "folder", "file", "never there"):
        delete(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_full_disk_is_one_line_with_the_path_and_the_room_that_is_left(tmp_path):
    """However a library says it: with an error of its own, or with one that names another file, or none."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        (tmp_path / "filler").write_bytes(bytes(40_000))
        for failure in (None, RuntimeError("unable to flush file's cached information"), OSError("Can't write data")):
            with pytest.raises(OSError, match="no space left on the disk .0.0 MB free.; free some space") as raised:
                write_filling(tmp_path / "a.npz", failure)
            assert raised.value.filename == str(tmp_path / "a.npz")
            assert [path.name for path in tmp_path.iterdir()] == ["filler"]
        with pytest.raises(InputError, match="mine"), replacing(tmp_path / "a.npz"):
            raise InputError("mine")  # what was given wrong stays that
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def write_filling(path: Path, failure: Exception | None) -> None:
    with replacing(path) as draft:
        try:
            draft.write_bytes(bytes(100_000))
        except OSError as error:
            raise failure or error from None


def test_what_fails_on_a_disk_with_room_stays_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="^mine$"), replacing(tmp_path / "a.npz"):
        raise RuntimeError("mine")


def test_a_draft_keeps_the_suffix_by_which_libraries_choose_a_format(tmp_path):
    with replacing(tmp_path / "model.keras") as draft:
        assert draft.suffix == ".keras" and draft.parent == tmp_path
        draft.touch()


def test_a_data_file_that_is_missing_is_named_with_the_places_looked_at():
    with pytest.raises(InputError, match=r"no_such_file\.npz is missing: expected .*common.* or .*data"):
        data_file("no_such_file.npz")


def test_arrays_come_back_and_a_damaged_or_missing_file_is_named(tmp_path):
    path = write_npz(tmp_path / "new" / "a.npz", {"names": np.array(["b", "ä"]), "none": np.zeros((0, 3))})
    arrays = read_npz(path)
    assert list(arrays) == ["names", "none"] and list(arrays["names"]) == ["b", "ä"] and arrays["none"].shape == (0, 3)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"a\.npz: cannot be read"):
        read_npz(path)
    with pytest.raises(InputError, match=r"b\.npz: there is no such file"):
        read_npz(tmp_path / "b.npz")


def npy(array: np.ndarray, shape: str) -> bytes:
    """Return an array as in a .npy file whose header claims another shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    content = buffer.getvalue()
    head = content[: content.index(b"'shape'")] + f"'shape': {shape}, }}".encode()
    return head.ljust(127) + b"\n" + content[128:]


def test_arrays_must_be_those_that_are_expected(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"names": np.array(["x", "y"]), "vectors": np.ones((2, 3), np.float32), "square": np.eye(3)}
    shapes = {"names": ("n",), "vectors": ("n", 3), "square": ("k", "k")}
    write_npz(path, arrays)
    assert sorted(read_npz(path, shapes, texts=["names"])) == sorted(arrays)
    for name, array, message in [
        ("vectors", np.ones((3, 3)), r"vectors has shape \[3, 3\], expected \[2, 3\]"),
        ("vectors", np.ones((2, 4)), r"vectors has shape \[2, 4\], expected \[2, 3\]"),
        ("vectors", np.ones(()), r"vectors has shape \[\], expected \[2, 3\]"),
        ("vectors", np.ones((2, 3), int), "vectors has dtype int64, expected floats"),
        ("vectors", np.full((2, 3), np.nan), "vectors holds values that are huge or not finite"),
        ("vectors", np.full((2, 3), 1e30), "vectors holds values that are huge or not finite"),
        ("square", np.ones((3, 2)), r"square has shape \[3, 2\], expected \[3, 3\]"),
        ("names", np.ones(2), "names has dtype float64, expected text"),
    ]:
        write_npz(path, arrays | {name: array})
        with pytest.raises(InputError, match=f"a.npz: cannot be read .{message}.*; train again, or restore the file"):
            read_npz(path, shapes, texts=["names"])
    del arrays["square"]
    write_npz(path, arrays)
    with pytest.raises(InputError, match="square is missing"):
        read_npz(path, shapes, texts=["names"])


@pytest.mark.parametrize(
    "shape", ["(1000000000000,)", "(10000000, 10000000)", "(2,)", "(4,)", "(-3,)", "()", "'x'", "3"]
)
@pytest.mark.parametrize("read", [read_npz, lambda path: npz_entries(path, ["a"])])
def test_an_array_that_claims_more_than_the_file_holds_takes_no_memory(shape, read, tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy(np.ones(3), shape))
    with pytest.raises(InputError, match=r"a\.npz: (cannot be read|not a readable .npz)") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_cached_array_that_is_damaged_is_made_anew(tmp_path):
    path, whole = tmp_path / "a.npy", np.arange(6, dtype=np.float32).reshape(2, 3)
    assert cached_array(path, (2, 3)) is None
    np.save(path, whole)
    np.testing.assert_array_equal(cached_array(path, (2, 3)), whole)
    content = path.read_bytes()
    changes = [content[:-1], b"", b"hello", npy(whole, "(1000000000000, 3)"), npy(whole[:1], "(1, 3)")]
    changes += [npy(whole.astype(np.float64), "(2, 3)"), npy(whole * np.nan, "(2, 3)")]
    for changed in changes:
        path.write_bytes(changed)
        assert cached_array(path, (2, 3)) is None
    path.unlink()
    os.mkfifo(path)
    assert cached_array(path, (2, 3)) is None


@pytest.mark.parametrize("read", [read_npz, lambda path: npz_entries(path, ["a"]), lambda path: image_labels(path)])
def test_a_pipe_is_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(InputError, match="a.npz: "):
        read(tmp_path / "a.npz")


def image_labels(path: Path) -> None:
    labelled_images(str(path), 8, 1, lambda: None)


def test_an_archive_that_unpacks_to_more_than_it_is_large(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(9_000_000))  # 72 MB
    assert npz_entries(path, ["a"])["a"].shape == (9_000_000,)  # somebody's images may be black
    with pytest.raises(InputError, match="it claims more data than its [0-9]+ bytes can hold"):
        read_npz(path)  # nothing of ours is


def test_numbers_that_json_lacks_are_written_as_text_and_come_back(tmp_path):
    numbers = {"a": np.inf, "b": [-np.inf, {"c": 1.5}], "d": "Infinite", "e": np.float64("nan")}
    path = write_json(tmp_path / "numbers.json", numbers)
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert strict == {"a": "Infinity", "b": ["-Infinity", {"c": 1.5}], "d": "Infinite", "e": "NaN"}
    found = read_numbers(path)
    assert np.isnan(found.pop("e")) and found == {"a": np.inf, "b": [-np.inf, {"c": 1.5}], "d": "Infinite"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("short", "short"), ("a server that does not answer", "a server that..."), ("a" * 30, "a" * 17 + "..."),
     ("one word and, then more", "one word and..."), ("exactly twenty chars", "exactly twenty chars")],
)  # fmt: skip
def test_a_long_message_is_cut_after_a_word(text, shown):
    assert cut(text, 20) == shown == first_line(ValueError(text), 20)
