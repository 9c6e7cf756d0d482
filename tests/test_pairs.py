"""Pairs in the layouts that people have, label maps, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.datasets import image_pairs
from common.data.pairs import PAIR_LAYOUTS, checked_pairs, find_pairs, input_half
from common.data.shard_writing import fitting_layout, write_shards
from common.images.converting import convert_images
from common.images.pixels import IGNORED_COLOUR, LABEL_COLOURS
from common.images.reading import read_image, read_labels
from common.runs.run import Run
from common.system.files import InputError
from recipes import pix2pix
from tests.pictures import noise


def save(path: Path, image: np.ndarray, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)
    return path


def write(folder: Path, names: str, count: int = 4, height: int = 16, width: int = 16, ending: str = "") -> None:
    for seed, name in enumerate(names.split()):
        for number in range(count):
            save(folder / name / f"{number}{ending}.png", noise(height, width, 3, seed=100 * seed + number))


def relative(folder: Path, pairs: list[tuple[Path, Path]]) -> list[tuple[str, str]]:
    return [(first.relative_to(folder).as_posix(), second.relative_to(folder).as_posix()) for first, second in pairs]


LAYOUTS = {  # folders, and the first pair for training and for testing
    "A and B inside splits": ("train/A train/B test/A test/B", "train/A/0 train/B/0", "test/A/0 test/B/0"),
    "splits inside A and B": ("A/train A/test B/train B/test", "A/train/0 B/train/0", "A/test/0 B/test/0"),
    "splits inside A and B, in full": ("A/Training B/Training A/validation B/validation",
                                       "A/Training/0 B/Training/0", "A/validation/0 B/validation/0"),
    "joined": ("trainA trainB testA testB", "trainA/0 trainB/0", "testA/0 testB/0"),
    "joined with _": ("train_A train_B val_A val_B", "train_A/0 train_B/0", "val_A/0 val_B/0"),
    "capitals": ("Train/A Train/B Valid/A Valid/B", "Train/A/0 Train/B/0", "Valid/A/0 Valid/B/0"),
    "masks and images": ("images masks", "masks/0 images/0", "masks/3 images/3"),
    "labels and photos": ("photos labels", "labels/0 photos/0", "labels/3 photos/3"),
    "input and target": ("target input", "input/0 target/0", "input/3 target/3"),
    "small letters": ("a b", "a/0 b/0", "a/3 b/3"),
    "cities": ("A/x A/y B/x B/y", "A/x/0 B/x/0", "A/y/3 B/y/3"),
}  # fmt: skip


def test_the_line_names_the_folders_of_the_sides_once(tmp_path, capsys):
    write(tmp_path, "A/train A/test B/train B/test")
    image_pairs(str(tmp_path), 16, "sketches")
    assert capsys.readouterr().err.count("A/ is the input, B/ the target (--swap exchanges them)") == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_two_folders(layout, tmp_path):
    folders, train, test = LAYOUTS[layout]
    write(tmp_path, folders)
    found = [relative(tmp_path, pairs)[0 if "/3" not in each else -1] for pairs, each in
             zip(find_pairs(tmp_path), (train, test), strict=True)]  # fmt: skip
    assert [" ".join(name.removesuffix(".png") for name in pair) for pair in found] == [train, test]


def test_endings_of_one_side_are_ignored(tmp_path):
    write(tmp_path, "images")
    write(tmp_path, "masks", ending="_mask")
    assert relative(tmp_path, find_pairs(tmp_path)[0])[0] == ("masks/0_mask.png", "images/0.png")


def test_voc_has_more_photos_than_masks(tmp_path, capsys):
    write(tmp_path, "JPEGImages", count=6)
    write(tmp_path, "SegmentationClass", count=4)
    image_pairs(str(tmp_path), 16, "sketches")
    assert "2 photos without a mask" in capsys.readouterr().err


def test_two_folders_of_classes_are_no_pairs(tmp_path):
    write(tmp_path, "cats dogs")
    with pytest.raises(InputError, match=r"no image pairs here \(found cats/, dogs/\)"):
        find_pairs(tmp_path)
    assert fitting_layout(tmp_path) == "classes"


def test_the_same_split_twice(tmp_path):
    write(tmp_path, "train/A train/B Training/A Training/B")
    with pytest.raises(InputError, match="Training/ and train/ are the same split; keep only one"):
        find_pairs(tmp_path)


# --- side by side ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(16, 48), (16, 32), (32, 48), (16, 33)])
def test_pairs_side_by_side_need_not_be_square(height, width, tmp_path, capsys):
    write(tmp_path, "train val", height=height, width=width)
    pairs = image_pairs(str(tmp_path), 16, "sketches")
    assert len(pairs.train) == len(pairs.test) == 4
    left, right = pairs.held_out()
    swapped = image_pairs(str(tmp_path), 16, "sketches", swap=True).held_out()
    np.testing.assert_array_equal(left, swapped[1])
    np.testing.assert_array_equal(right, swapped[0])
    assert not (left == right).all()
    said = "pairs side by side: the left half is the input, the right half the target (--swap exchanges them)"
    assert said in capsys.readouterr().err


def test_square_images_are_no_pairs(tmp_path):
    write(tmp_path, "train")
    with pytest.raises(InputError, match=r"no image pairs here \(found train/\)") as error:
        image_pairs(str(tmp_path), 16, "sketches")
    assert PAIR_LAYOUTS in str(error.value)


def test_photos_are_not_taken_for_pairs_when_shards_are_written(tmp_path):
    write(tmp_path, ".", height=16, width=24)
    assert fitting_layout(tmp_path) == "images"


def label_map(height: int, width: int, seed: int) -> np.ndarray:
    classes = np.random.default_rng(seed).integers(0, 6, (height // 8, width // 8))
    return LABEL_COLOURS[np.kron(classes, np.ones((8, 8), int))]


@pytest.mark.parametrize("kind", ["side by side", "two folders"])
def test_label_maps_on_the_right_are_said(kind, tmp_path, capsys):
    """As in the facades and the Cityscapes pairs of the authors of pix2pix."""
    for number in range(4):
        photo, labels = noise(64, 64, 3, seed=number), label_map(64, 64, number)
        if kind == "side by side":
            save(tmp_path / "train" / f"{number}.jpg", np.concatenate([photo, labels], 1))
        else:
            save(tmp_path / "A" / f"{number}.png", photo)
            save(tmp_path / "B" / f"{number}.png", labels)
    image_pairs(str(tmp_path), 32, "sketches")
    assert "the targets look like label maps: add --swap" in capsys.readouterr().err


@pytest.mark.parametrize(("half", "expected"), [("left", slice(0, 20)), ("right", slice(20, 40)), ("", slice(0, 40))])
def test_of_an_image_with_a_pair_the_input_half_is_translated(half, expected, tmp_path, capsys):
    image = noise(16, 40, 3)
    save(tmp_path / "in" / "a.png", image)
    save(tmp_path / "in" / "b.png", image[:, :16])
    convert_images(tmp_path / "in" / "a.png", tmp_path / "a.png", lambda x: 255 - x, half=half)
    convert_images(tmp_path / "in", tmp_path / "out", lambda x: 255 - x, half=half)
    for path, pixels in ((tmp_path / "a.png", image[:, expected]), (tmp_path / "out" / "a.png", image[:, expected]),
                         (tmp_path / "out" / "b.png", image[:, :16])):  # fmt: skip
        np.testing.assert_array_equal(255 - read_image(path), pixels)
    assert capsys.readouterr().err.count(f"only the {half} half is the input") == (2 if half else 0)


def test_a_run_knows_which_half_is_the_input(tmp_path):
    write(tmp_path / "in", ".", width=48)
    write(tmp_path / "ab", "A B")
    write_shards(tmp_path / "in", tmp_path / "shards", "pairs")
    for data, swap, half in (
        ("in", False, "left"),
        ("in", True, "right"),
        ("ab", False, ""),
        ("shards", False, "left"),
    ):
        run = Run(tmp_path / f"{data}-{swap}", "pix2pix", pix2pix.Config(swap=bool(swap)), str(tmp_path / data))
        run.start()
        assert Run.load(run.folder, "pix2pix", pix2pix.Config).half == half
    assert input_half("sample", False) == input_half(str(tmp_path / "absent"), False) == ""


# --- Cityscapes --------------------------------------------------------------------------------------------


def cityscapes(folder: Path, photos: str = "leftImg8bit", maps: str = "gtFine") -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            for city in ("aachen", "bonn"):
                name = f"{city}_{number:06d}_000019"
                place = Path(split) / city
                save(folder / photos / place / f"{name}_leftImg8bit.png", noise(16, 32, 3, seed=number))
                save(folder / maps / place / f"{name}_gtFine_color.png", label_map(16, 32, number))
                for kind, value in (("labelIds", 33), ("labelTrainIds", 255), ("instanceIds", 999)):
                    pixels = np.full((16, 32), value, np.uint16 if value > 255 else np.uint8)
                    save(folder / maps / place / f"{name}_gtFine_{kind}.png", pixels)


@pytest.mark.parametrize("places", [("leftImg8bit", "gtFine"), ("leftImg8bit_trainvaltest/leftImg8bit",
                                                                "gtFine_trainvaltest/gtFine")])  # fmt: skip
def test_the_official_tree_of_cityscapes(places, tmp_path, capsys):
    cityscapes(tmp_path, *places)
    pairs = image_pairs(str(tmp_path), 16, "sketches")
    assert len(pairs.train) == 6 and len(pairs.test) == 4
    assert all(Path(first).name.replace("gtFine_color", "leftImg8bit") == Path(second).name
               for first, second in [*pairs.train, *pairs.test])  # fmt: skip
    line = capsys.readouterr().err
    assert "20 images (32x16 px)" in line and "*_gtFine_color.png in gtFine/ is the input" in line
    assert "30 other label maps of gtFine/" in line
    ids = image_pairs(str(tmp_path), 16, "sketches", classes=34)
    np.testing.assert_array_equal(ids.held_out()[0][0, 0, 0], LABEL_COLOURS[33])
    train_ids = image_pairs(str(tmp_path), 16, "sketches", classes=19)
    np.testing.assert_array_equal(train_ids.held_out()[0][0, 0, 0], IGNORED_COLOUR)


def test_an_incomplete_tree_of_cityscapes(tmp_path):
    cityscapes(tmp_path)
    next((tmp_path / "gtFine" / "val").rglob("*_color.png")).unlink()
    with pytest.raises(InputError, match=r"gtFine/val: 1 label maps are missing, such as .*_gtFine_color.png"):
        find_pairs(tmp_path)


# --- label maps --------------------------------------------------------------------------------------------


def maps_and_photos(folder: Path, most: int, ignored: bool = False, palette: bool = False) -> None:
    for number in range(4):
        labels = np.kron(np.random.default_rng(number).integers(0, most + 1, (4, 4)), np.ones((4, 4), int))
        labels[:4, :4] = most
        labels[0, :] = 255 if ignored else labels[0, :]
        image = Image.fromarray(labels.astype(np.uint8))
        if palette:
            image = image.convert("P")
            image.putpalette(list(range(255, -1, -1)) * 3)
        (folder / "A").mkdir(parents=True, exist_ok=True)
        image.save(folder / "A" / f"{number}.png")
        save(folder / "B" / f"{number}.png", noise(16, 16, 3, seed=number))


@pytest.mark.parametrize("ignored", [False, True])
def test_class_numbers_without_classes_are_said(ignored, tmp_path, capsys):
    maps_and_photos(tmp_path, 11, ignored)
    image_pairs(str(tmp_path), 16, "sketches")
    said = f"{tmp_path / 'A'}: the input images hold the values 0 to 11, so they are almost black; if these are class "
    assert capsys.readouterr().err.count(said + "numbers, add --classes 12\n") == 1


def test_class_numbers_of_16_bits_are_said(tmp_path, capsys):
    maps_and_photos(tmp_path, 3)
    for path in (tmp_path / "A").iterdir():
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16)).save(path)
    image_pairs(str(tmp_path), 16, "sketches")
    assert "hold the values 0 to 3, so they are almost black" in capsys.readouterr().err


def test_class_numbers_on_the_other_side_are_said(tmp_path, capsys):
    maps_and_photos(tmp_path, 3)
    (tmp_path / "A").rename(tmp_path / "C")
    (tmp_path / "B").rename(tmp_path / "A")
    (tmp_path / "C").rename(tmp_path / "B")
    image_pairs(str(tmp_path), 16, "sketches")
    assert "the target images hold the values 0 to 3, so they are almost black" in capsys.readouterr().err


def test_sketches_and_masks_of_black_and_white_are_not_class_numbers(tmp_path, capsys):
    for number in range(4):
        save(tmp_path / "A" / f"{number}.png", (noise(16, 16, seed=number) > 128).astype(np.uint8) * 255)
        save(tmp_path / "B" / f"{number}.png", noise(16, 16, 3, seed=number))
    image_pairs(str(tmp_path), 16, "sketches")
    assert "--classes" not in capsys.readouterr().err


@pytest.mark.parametrize("palette", [False, True])
def test_255_is_a_label_to_ignore(palette, tmp_path, capsys):
    maps_and_photos(tmp_path, 3, ignored=True, palette=palette)
    pairs = image_pairs(str(tmp_path), 16, "sketches", classes=4)
    labels, _ = pairs.held_out()
    assert (labels[0, 0, 4:] == IGNORED_COLOUR).all()
    assert {tuple(colour) for colour in labels[0].reshape(-1, 3)} <= {*map(tuple, LABEL_COLOURS[:4]), IGNORED_COLOUR}
    assert "4 are a label map with pixels to ignore (255), which become white" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"contains label 3; 3 classes have labels 0 to 2, and 255 for"):
        image_pairs(str(tmp_path), 16, "sketches", classes=3)


def test_255_in_shards(tmp_path):
    maps_and_photos(tmp_path / "in", 3, ignored=True)
    write_shards(tmp_path / "in", tmp_path / "shards", "pairs", size=16, classes=4)
    one, other = (image_pairs(str(tmp_path / name), 16, "sketches", classes=4) for name in ("in", "shards"))
    np.testing.assert_array_equal(one.held_out()[0], other.held_out()[0])


def test_every_label_of_256_classes(tmp_path):
    path = save(tmp_path / "a.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    np.testing.assert_array_equal(read_labels(path, 256).ravel(), np.arange(256))


def test_checked_pairs_keeps_whole_pairs(tmp_path):
    maps_and_photos(tmp_path, 3)
    (tmp_path / "B" / "1.png").write_bytes(b"")
    train, test = find_pairs(tmp_path)
    kept_train, kept_test = checked_pairs(tmp_path, (train, test), 0, skip_bad=True)
    assert len(kept_train) == len(train) - 1 and kept_test == test
