"""Size and channels follow from the data, unless they are given; and a line says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.shard_writing import write_shards
from common.runs.fitting import Native, fitted, fitting, native_images
from recipes import autoencoder, conv_autoencoder, cyclegan, dcgan, lenet, mobilenet, pix2pix, ssgan, vae_faces
from tests.pictures import noise


def photos(folder: Path, height: int, width: int, grey: bool = False, count: int = 3) -> Path:
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = Image.fromarray(noise(height, width, 3, seed=number))
            image.convert("L").convert("RGB" if number % 2 else "L").save(folder / name / f"{number}.png")
            if not grey:
                image.save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("recipe", "shape", "size", "channels"),
    [
        (lenet, (200, 260), 64, 3),
        (autoencoder, (200, 260), 64, 3),
        (conv_autoencoder, (70, 70), 64, 3),
        (ssgan, (33, 50), 32, 3),
        (lenet, (28, 28), 28, 3),
        (lenet, (10, 12), 16, 3),
        (dcgan, (200, 260), 64, 3),
        (dcgan, (28, 28), 28, 3),
        (dcgan, (32, 32), 32, 3),
        (pix2pix, (100, 300), 128, None),
        (pix2pix, (600, 600), 256, None),
        (cyclegan, (64, 64), 64, None),
        (vae_faces, (218, 178), 112, 3),
    ],
)
def test_a_size_that_fits_photos(recipe, shape, size, channels, tmp_path, capsys):
    data = str(photos(tmp_path / "in", *shape))
    config = recipe.Config()
    new = fitted(config, ["size", "channels"][: 1 if channels is None else 2], data, tmp_path / "run")
    assert new.size == size and getattr(new, "channels", None) == channels
    said = capsys.readouterr().err
    if new == config:
        assert not said
    else:
        assert said.startswith(f"{data}: images of about {min(shape)} px, in colour; the recipe uses {size}x{size} px")
        assert said.count("\n") == 1 and "--size" in said


def test_grey_images_stay_grey(tmp_path):
    data = str(photos(tmp_path / "in", 28, 28, grey=True))
    assert native_images(data) == Native(28, 1)
    new = fitted(dcgan.Config(), ["size", "channels"], data, tmp_path / "run")
    assert (new.size, new.channels) == (28, 1)


def train(
    data: str = "sample", config: lenet.Config = lenet.Config(), output_dir: Path = Path("runs/x")
) -> lenet.Config:
    return config


@pytest.mark.parametrize(
    ("arguments", "config", "expected"),
    [
        ([], lenet.Config(), (64, 3)),
        (["--preset", "modern"], lenet.MODERN, (64, 3)),
        (["--size", "28"], lenet.Config(), (28, 3)),
        (["--channels=1"], lenet.Config(), (64, 1)),
        (["--size=28", "--channels", "1"], lenet.Config(), (28, 1)),
        ([], lenet.Config(size=32), (32, 3)),  # a preset with a size of its own
    ],
)
def test_what_is_given_is_kept(arguments, config, expected, tmp_path):
    data = str(photos(tmp_path / "in", 200, 200))
    found = fitting(train, "lenet", arguments)(data=data, config=config, output_dir=tmp_path / "run")
    assert (found.size, found.channels) == expected


def test_the_sample_and_recipes_of_a_fixed_size_are_left_alone(tmp_path):
    assert fitting(train, "lenet", [])(output_dir=tmp_path).size == 28
    assert fitting(train, "mobilenet", []) is train and fitting(mobilenet.demo, "lenet", []) is mobilenet.demo


def test_a_run_that_is_resumed_keeps_its_size(tmp_path):
    (tmp_path / "run").mkdir()
    settings = {"recipe": "lenet", "data": "in", "config": {"size": 32, "channels": 1}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    data = str(photos(tmp_path / "in", 200, 200))
    found = fitting(train, "lenet", [])(data=data, output_dir=tmp_path / "run")
    assert (found.size, found.channels) == (32, 1)


def test_arrays_and_shards(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=noise(6, 32, 40, 3), y_train=np.arange(6))
    np.save(tmp_path / "b.npy", noise(6, 32, 40))
    write_shards(photos(tmp_path / "in", 40, 50), tmp_path / "shards")
    assert native_images(str(tmp_path / "a.npz")) == Native(32, 3)
    assert native_images(str(tmp_path / "b.npy")) == Native(32, 1)
    assert native_images(str(tmp_path / "shards")) == Native(40, 3)


@pytest.mark.parametrize("data", ["absent", "tfds:absent", "tfds:../x", "a.npz", "empty"])
def test_the_reader_reports_bad_data(data, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.npz").write_bytes(b"PK")
    assert native_images(data if data.startswith("tfds:") else str(tmp_path / data)) is None
