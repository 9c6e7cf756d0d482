"""The fuzzer of images: a few hundred of its files here, and that it would notice what is wrong."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import fuzz_images
from common.images.reading import read_image
from common.system.files import InputError


@pytest.mark.parametrize(("count", "seed"), [(200, 0), pytest.param(2_000, 1, marks=pytest.mark.slow)])
def test_every_damaged_image_ends_in_an_image_or_in_one_line(count: int, seed: int) -> None:
    found = fuzz_images.fuzz(count, seed)
    assert found.failures == []
    assert sum(found.counts.values()) == count
    assert min(found.counts["image"], found.counts["damaged or cut short"]) > count / 6


def test_the_seeds_are_images_of_every_kind_but_for_values_that_have_no_place() -> None:
    kinds = {}
    for data in fuzz_images.seed_images(np.random.default_rng(0)):
        image = Image.open(io.BytesIO(data))
        kinds[image.format, image.mode] = data
    assert {kind for kind, _ in kinds} == {"PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"}
    assert {mode for kind, mode in kinds if kind == "PNG"} == {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
    assert {mode for kind, mode in kinds if kind == "JPEG"} == {"L", "RGB", "CMYK"}
    found = fuzz_images.fuzz(75, 0)  # the seeds themselves come first
    assert found.counts["image"] > 60 and found.counts["has CIELAB colours"] > 0


def test_a_seed_makes_the_same_files_again_and_another_makes_others() -> None:
    made = []
    for seed in (3, 3, 4):
        rng = np.random.default_rng(seed)
        seeds = fuzz_images.seed_images(rng)
        made.append([fuzz_images.mutated(seeds, rng) for _ in range(20)])
    assert made[0] == made[1] != made[2]
    assert len(set(made[0])) > 17


def wrong_shape(path: Path, channels: int = 3) -> np.ndarray:
    return read_image(path, channels)[0]


def wrong_type(path: Path, channels: int = 3) -> np.ndarray:
    return read_image(path, channels) / 255


def crash(path: Path, channels: int = 3) -> np.ndarray:
    raise AssertionError("from a decoder")


def two_lines(path: Path, channels: int = 3) -> np.ndarray:
    error = InputError()
    error.args = (f"{path}: damaged;\nsave it again",)
    raise error


def no_remedy(path: Path, channels: int = 3) -> np.ndarray:
    raise InputError(f"{path}: damaged")


@pytest.mark.parametrize(
    ("reader", "said"),
    [(wrong_shape, "uint8"), (wrong_type, "float64"), (crash, "AssertionError: from a decoder"),
     (two_lines, "not a one-line"), (no_remedy, "not a one-line")],
)  # fmt: skip
def test_what_is_wrong_is_counted_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reader: object, said: str
) -> None:
    monkeypatch.setattr(fuzz_images, "read_image", reader)
    with pytest.raises(SystemExit) as end:
        fuzz_images.main(3, 0, tmp_path / "kept")
    assert end.value.code == 1
    printed = capsys.readouterr().out
    assert printed.startswith("3 images of seed 0 in ") and "       3  failed\n" in printed and said in printed
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["0-0", "0-1", "0-2"]


def test_the_command_prints_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        fuzz_images.main(5)
    assert end.value.code == 0
    assert "peak memory" in (printed := capsys.readouterr().out)
    assert "       5  image\n       0  failed\n" in printed
