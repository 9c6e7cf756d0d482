from __future__ import annotations

import json

import pytest

from common.errors import InputError
from common.files import data_file, replacing, write_json


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
