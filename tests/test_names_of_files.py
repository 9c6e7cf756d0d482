r"""Names of files that are not text in UTF-8, as old archives have them: b"caf\xe9.png"."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.batches import batches, undistorted
from common.data.datasets import image_pairs, images_of
from common.data.domains import unpaired_images
from common.data.labelled import labelled_batches, labelled_images
from common.runs.classification import save_captioned
from common.runs.run import Run
from common.system.files import InputError, readable_name, write_text
from recipes.pix2pix import Config

CAFE = os.fsdecode(b"caf\xe9")


def put(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((16, 16, 3), 10 * number, np.uint8)).save(folder / f"{name}.png", "PNG")


def shades(stream) -> list[int]:
    return sorted(int(image[0, 0, 0]) for images, *_ in stream.at(0).take(stream.steps_per_epoch) for image in images)


def test_images_are_read_whatever_their_names(tmp_path):
    put(tmp_path / CAFE, ["a", "b", CAFE, "z"])
    examples = images_of(str(tmp_path / CAFE), 16, 3, lambda: None)
    assert len(examples.train) == 3 and examples.held_out()[0][0, 0, 0, 0] == 30
    assert shades(batches(examples.train, 1, 0, undistorted(examples))) == [0, 10, 20]


def test_pairs_and_domains_are_read_whatever_their_names(tmp_path):
    for side in "AB":
        put(tmp_path / side, ["a", CAFE])
    assert image_pairs(str(tmp_path), 16, lambda: None).held_out()[1][0, 0, 0, 0] == 10
    assert unpaired_images(str(tmp_path), 16, lambda: None).b.held_out()[0][0, 0, 0, 0] == 10


def test_classes_are_shown_whatever_their_names(tmp_path):
    put(tmp_path / "bar", ["a", "b", CAFE]), put(tmp_path / CAFE, ["a", "b", CAFE])
    labelled = labelled_images(str(tmp_path), 16, 3, lambda: None)
    assert labelled.classes == ("bar", r"caf\xe9")
    assert len(shades(labelled_batches(labelled, 1, 0))) == len(labelled.train.labels)
    assert save_captioned([np.zeros((16, 16, 3), np.uint8)], [labelled.classes[1]], tmp_path / "a.png", 1).is_file()


def test_a_run_needs_a_name_in_utf_8(tmp_path):
    with pytest.raises(InputError, match=r"caf\\xe9/run: not a valid UTF-8 name.* choose another folder$"):
        Run(tmp_path / CAFE / "run", "pix2pix", Config(), "sample")
    Run(tmp_path / "café" / "run", "pix2pix", Config(), str(tmp_path / CAFE))


def test_texts_may_name_them(tmp_path):
    assert write_text(tmp_path / "report.html", f"{CAFE} é").read_text(encoding="utf-8") == r"caf\udce9 é"
    assert readable_name("é") == "é" and readable_name(Path(CAFE)) == r"caf\xe9"
