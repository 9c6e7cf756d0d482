from __future__ import annotations

import json

import numpy as np
import pytest

from common.errors import InputError
from common.files import data_file, read_npz, replacing, write_json, write_npz


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = write_json(tmp_path / "new" / "a.json", {"a": 1})
    with pytest.raises(RuntimeError, match="cut short"), replacing(path) as draft:
        draft.write_text("half of")
        raise RuntimeError("cut short")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


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
