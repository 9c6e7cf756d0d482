"""Random crops at the scale of the files: `--crop` of Pix2Pix and CycleGAN."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.data.batches import Examples
from common.data.datasets import image_pairs
from common.data.domains import Domains, unpaired_images
from common.data.shard_writing import write_shards
from common.images.pixels import colour_labels
from common.images.writing import write_image
from common.system.files import InputError
from recipes import cyclegan, pix2pix
from tests.pictures import noise

HEIGHT, WIDTH, SIDE = 24, 40, 16


def numbered(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return an image whose pixels are their row, their column and the number of the image."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)


def cut(crop: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Cut the square of which `crop` is said to be a copy out of `image`, with NumPy; mirrored if `crop` is."""
    top, mirrored = int(crop[0, 0, 0]), crop[0, 0, 1] > crop[0, -1, 1]
    left = int(crop[0, -1 if mirrored else 0, 1])
    square = image[top : top + len(crop), left : left + len(crop)]
    return square[:, ::-1] if mirrored else square


def write_pairs(folder: Path, count: int = 5, height: int = HEIGHT, width: int = WIDTH) -> Path:
    for number in range(count):
        image = numbered(number, height, width)
        write_image(image, folder / "A" / f"{number}.png")
        write_image(255 - image, folder / "B" / f"{number}.png")
    return folder


def pairs_of(data: Path, size: int = SIDE, **options):
    return image_pairs(str(data), size, "sketches", crop=True, **options)


@pytest.mark.parametrize("form", ["files", "shards", "swapped"])
def test_pairs_are_the_same_squares_of_both_images(form, tmp_path):
    """An independent answer: NumPy cuts each square at the place that its first pixel names."""
    folder = write_pairs(tmp_path / "pairs")
    if form == "shards":
        folder = write_shards(folder, tmp_path / "shards")
    stream = pairs_of(folder, swap=form == "swapped").batches(2, 0, size=SIDE, jitter=1.5)
    seen = set()
    for inputs, targets in stream.at(0).take(12).as_numpy_iterator():
        assert inputs.shape == targets.shape == (2, SIDE, SIDE, 3) and inputs.dtype == np.uint8
        np.testing.assert_array_equal(targets, 255 - inputs)
        for crop in targets if form == "swapped" else inputs:
            np.testing.assert_array_equal(crop, cut(crop, numbered(int(crop[0, 0, 2]))))
            seen.add((int(crop[0, 0, 0]), int(crop[0, :, 1].min()), bool(crop[0, 0, 1] > crop[0, -1, 1])))
    tops, lefts, mirrored = map(set, zip(*seen, strict=True))
    assert len(tops) > 4 and len(lefts) > 8 and mirrored == {False, True}
    assert max(tops) <= HEIGHT - SIDE and max(lefts) <= WIDTH - SIDE


def test_held_out_images_are_the_centre(tmp_path):
    inputs, targets = pairs_of(write_pairs(tmp_path)).held_out()
    np.testing.assert_array_equal(inputs[0], numbered(4)[4:20, 12:28])
    np.testing.assert_array_equal(targets, 255 - inputs)


def test_a_square_may_be_the_whole_image(tmp_path):
    """The largest offset is 0, not -1."""
    stream = pairs_of(write_pairs(tmp_path, height=SIDE, width=SIDE)).batches(4, 0, size=SIDE, jitter=1.5)
    for crop in next(stream.at(0).as_numpy_iterator())[0]:
        np.testing.assert_array_equal(np.sort(crop[..., 1]), numbered(0, SIDE, SIDE)[..., 1])


def test_a_pair_side_by_side_and_a_label_map(tmp_path):
    for number in range(2):
        both = np.concatenate([numbered(number), 255 - numbered(number)], axis=1)
        write_image(both, tmp_path / "joined" / f"{number}.png")
        labels = (noise(HEIGHT, WIDTH, 1, seed=number) // 64)[..., 0]
        write_image(labels[..., None], tmp_path / "maps" / "label" / f"{number}.png")
        write_image(colour_labels(labels), tmp_path / "maps" / "photo" / f"{number}.png")
    inputs, targets = pairs_of(tmp_path / "joined").held_out()
    np.testing.assert_array_equal(inputs[0], numbered(1)[4:20, 12:28])
    np.testing.assert_array_equal(targets, 255 - inputs)
    stream = pairs_of(tmp_path / "maps", classes=4).batches(1, 0, size=SIDE, jitter=1)
    inputs, targets = next(stream.at(0).as_numpy_iterator())
    np.testing.assert_array_equal(inputs, targets)


def test_smaller_images_are_padded_by_reflection(tmp_path, capsys):
    pairs = pairs_of(write_pairs(tmp_path, height=12, width=20))
    inputs, targets = pairs.held_out()
    whole = np.concatenate([numbered(4, 12, 20), numbered(4, 12, 20)[:-5:-1]])  # the last four rows, mirrored
    np.testing.assert_array_equal(inputs[0], whole[:, 2:18])
    np.testing.assert_array_equal(targets, 255 - inputs)
    line = capsys.readouterr().err
    assert "random crops of 16x16 px at the scale of the files" in line
    assert "10 are smaller than the crops of 16 px, and padded by reflection, such as 0.png" in line


def test_images_of_a_pair_need_the_same_size(tmp_path):
    write_image(numbered(0, 30, 30), write_pairs(tmp_path) / "B" / "2.png")
    with pytest.raises(InputError, match=r"A/2\.png: 40x24 px, but .*B/2\.png has 30x30 px; with --crop, both need"):
        pairs_of(tmp_path)
    assert len(image_pairs(str(tmp_path), SIDE, "sketches").train) == 4  # they are resized without --crop


@pytest.mark.parametrize("form", ["files", "shards", "arrays"])
def test_domains_are_cut_too(form, tmp_path):
    for number, name in enumerate(("A", "B")):
        for image in range(4):
            write_image(numbered(10 * number + image), tmp_path / "two" / name / f"{image}.png")
    data = tmp_path / "two"
    if form == "shards":
        data = write_shards(data, tmp_path / "shards", "domains")
    elif form == "arrays":
        data = tmp_path / "two.npz"
        np.savez(data, **{key: np.stack([numbered(10 * n + k) for k in range(4)]) for n, key in enumerate("ab")})
    domains = unpaired_images(str(data), SIDE, lambda: Domains(), crop=True)
    for held_out, number in zip((domains.a.held_out()[0], domains.b.held_out()[0]), (3, 13), strict=True):
        np.testing.assert_array_equal(held_out[0], numbered(number)[4:20, 12:28])
    for batch in domains.batches(2, 0, size=SIDE, jitter=1.5).at(0).take(4).as_numpy_iterator():
        for crops, numbers in zip(batch, (range(3), range(10, 13)), strict=True):
            for crop in crops:
                assert crop[0, 0, 2] in numbers
                np.testing.assert_array_equal(crop, cut(crop, numbered(int(crop[0, 0, 2]))))


def test_a_stream_that_starts_later_has_the_same_squares(tmp_path):
    stream = pairs_of(write_pairs(tmp_path)).batches(2, 7, size=SIDE, jitter=1)
    whole = list(stream.at(0).take(5).as_numpy_iterator())
    for (one, other), again in zip(whole[3:], stream.at(3).take(2).as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal([one, other], again)


@pytest.mark.parametrize("read", [image_pairs, unpaired_images])
def test_built_in_images_are_not_made_above_512_px(read):
    with pytest.raises(InputError, match="built-in images have at most 512 px, got --size 1024; use your own"):
        read("sample", 1024, "sketches")


@pytest.mark.parametrize(("side", "count", "asked"), [(512, 200, 201), (1024, 50, 51), (2560, 8, 9)])
def test_fewer_large_images_are_held_out(side, count, asked):
    """They are kept in memory: as many pixels as in 200 images of 512 px, but 8 images. The number asked for counts."""
    numbers = np.arange(250)
    examples = Examples(numbers, numbers, lambda item: tf.zeros((side, side, 1), tf.uint8))
    assert len(examples.held_out()[0]) == count
    assert len(examples.held_out(asked)[0]) == asked


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("recipe", [pix2pix, cyclegan])
def test_a_resumed_run_on_crops_is_equal(recipe, tmp_path):
    folder = str(write_pairs(tmp_path / "data", count=3, height=40, width=48))
    small = {"residual_blocks": 0, "pool_size": 2} if recipe is cyclegan else {}
    config = recipe.Config(size=32, crop=True, base_filters=1, patch_layers=1, epochs=2, batch_size=2, **small)
    read = functools.partial(image_pairs if recipe is pix2pix else unpaired_images, folder, 32, "", crop=True)
    rows = []

    def stop(epoch: int, losses: dict[str, float]) -> None:
        raise KeyboardInterrupt

    for stopped in (False, True):
        stream = read().batches(2, 0, size=32, jitter=1)._replace(held_out=())
        if stopped:
            with pytest.raises(KeyboardInterrupt):
                recipe.train(recipe.build(config), stream, config, tmp_path / str(stopped), on_epoch=stop)
        networks = recipe.build(config)
        history = recipe.train(networks, stream, config, tmp_path / str(stopped))
        losses = [{name: value for name, value in row.items() if "second" not in name} for row in history]
        rows.append((losses, [weight.tobytes() for weight in networks[0].get_weights()]))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("recipe", [pix2pix, cyclegan])
def test_the_command_reads_crops(recipe, tmp_path, monkeypatch):
    """The option reaches the reader."""
    folder = str(write_pairs(tmp_path / "data", count=3, height=40, width=48))
    config = recipe.Config(size=32, crop=True, base_filters=1, patch_layers=1)
    seen = []

    def train(networks, stream, *arguments) -> None:
        seen.append(next(stream.at(0).as_numpy_iterator())[0][0])
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "train", train)
    monkeypatch.setattr(recipe, "build", lambda config: None)
    with pytest.raises(KeyboardInterrupt):
        recipe.run(folder, config, tmp_path / "run")
    np.testing.assert_array_equal(seen[0], cut(seen[0], numbered(int(seen[0][0, 0, 2]), 40, 48)))


def test_the_depth_follows_the_side_of_the_squares():
    """A square of 32 px is halved five times, whatever the size of the images; 4096 px eight times, as in the paper."""
    for size, depth in ((32, 5), (4096, 8)):
        network = pix2pix.build(pix2pix.Config(size=size, crop=True, base_filters=1)).generator
        assert sum(getattr(layer, "strides", 0) == (2, 2) for layer in network.layers) == 2 * depth
