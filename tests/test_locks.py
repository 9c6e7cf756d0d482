from __future__ import annotations

import fcntl
import os
import re

import pytest

from common.system.files import InputError
from common.system.locks import LOCK_NAME, only_process_in


def foreign_lock(folder):
    """Lock as another process would: with a descriptor of its own."""
    file = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    os.write(file, b"process 7 on elsewhere")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def test_a_folder_that_another_process_has_is_refused_and_is_free_afterwards(tmp_path):
    other = foreign_lock(tmp_path)
    message = re.escape(
        f"{tmp_path}: another process is writing to this run (process 7 on elsewhere); wait until it ends"
    )
    with pytest.raises(InputError, match=message), only_process_in(tmp_path):
        pass
    os.close(other)  # as when the process ends
    with only_process_in(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK_NAME).read_text()
    assert not list(tmp_path.iterdir())


def test_the_same_process_may_enter_again_and_the_lock_is_held_until_the_outer_end(tmp_path):
    with only_process_in(tmp_path):
        with only_process_in(tmp_path):
            pass
        file = os.open(tmp_path / LOCK_NAME, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(file)


def test_a_run_that_fails_before_it_writes_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), only_process_in(tmp_path / "runs" / "new"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_drafts_of_a_killed_process_are_swept_and_nothing_else(tmp_path):
    kept = ["history.csv", "samples/epoch-0001.png", ".hidden", "draft.png", "checkpoints/step-00000005/state.index"]
    swept = [".history.draft.csv", "samples/.epoch-0002.draft.png", "checkpoints/.step-00000010.draft/state.index",
             "checkpoints/.step-00000005.deleted.draft/progress.json", ".generator.draft/saved_model.pb"]  # fmt: skip
    for name in (*kept, *swept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    with only_process_in(tmp_path):
        pass
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        kept
    )


def test_a_folder_that_cannot_be_made_is_left_to_whoever_writes_there(tmp_path):
    (tmp_path / "file").write_text("")
    with only_process_in(tmp_path / "file" / "run"):
        pass
