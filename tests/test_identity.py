from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import common.data.identity
from common.data.identity import difference, identities, readable_files
from common.images.found import images_below
from common.images.writing import write_image
from common.runs.networks import load_network
from common.runs.run import Run, read_data, run_settings
from common.system.files import InputError
from recipes import deepdream, fast_style_transfer, gan, mobilenet, style_transfer
from recipes.pix2pix import Config

RECIPES = sorted(path.stem for path in (Path(__file__).parents[1] / "recipes").glob("[a-z]*.py"))


def files(folder: Path, names: str = "A/0.png A/1.png B/0.png B/1.png") -> Path:
    for name in names.split():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode())
    return folder


def of(data: Path | str) -> dict:
    return identities({"data": str(data)}).get("data", {})


# The identity of files


def test_it_does_not_depend_on_the_place_the_dates_or_the_order_of_the_files(tmp_path):
    first = files(tmp_path / "first", "A/a.png A/B.JPG A/é.png labels.csv b/c/d.webp")
    names = ["A/e\u0301.png", "b/c/d.webp", "labels.csv", "A/B.JPG", "A/a.png"]  # as some file systems store accents
    second = files(tmp_path / "else" / "where", " ".join(names))
    (second / names[0]).write_bytes((first / "A/é.png").read_bytes())
    os.utime(second / "labels.csv", (1, 1))
    assert of(first) == of(second) and of(first)["files"] == 5


def test_what_no_recipe_reads_does_not_count(tmp_path):
    before = of(files(tmp_path))
    files(tmp_path, ".DS_Store A/.hidden.png .cache/0.png Thumbs.db README.txt A/notes.md LICENSE model.keras")
    assert of(tmp_path) == before
    for name in ("more.csv", "list_attr_celeba.txt", "images-00000.tfrecord", "index.json", "t10k-labels-idx1-ubyte"):
        count = of(tmp_path)["files"]
        assert of(files(tmp_path, name))["files"] == count + 1, name


def test_it_says_whether_files_came_or_went_have_other_names_or_other_contents(tmp_path):
    before = of(files(tmp_path))
    assert difference(before, before) == ""
    (tmp_path / "B" / "1.png").rename(tmp_path / "B" / "2.png")
    assert difference(before, of(tmp_path)) == "the same number of files (4), but different names"
    (tmp_path / "B" / "2.png").unlink()
    assert difference(before, of(tmp_path)) == "4 files (72 bytes) before, 3 files (54 bytes) now"
    files(tmp_path)
    assert of(tmp_path) == before
    (tmp_path / "A" / "0.png").write_bytes(b"CONTENT of A/0.png")  # as long as before
    assert difference(before, of(tmp_path)) == "the same names, but different contents (72 bytes before, 72 now)"


def test_two_files_that_swap_their_names_are_noticed(tmp_path):
    before = of(files(tmp_path))
    a, b = tmp_path / "A" / "0.png", tmp_path / "B" / "0.png"
    a.rename(tmp_path / "kept"), b.rename(a), (tmp_path / "kept").rename(b)
    assert "different contents" in difference(before, of(tmp_path))


def test_a_file_is_known_by_its_content_whatever_it_is_called(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"1" * 1000)
    (tmp_path / "b.npz").write_bytes(b"1" * 1000)
    assert of(tmp_path / "a.npz") == of(tmp_path / "b.npz")
    (tmp_path / "b.npz").write_bytes(b"1" * 999 + b"2")
    found = difference(of(tmp_path / "a.npz"), of(tmp_path / "b.npz"))
    assert found == "different content (1000 bytes before, 1000 now)"


@pytest.mark.parametrize("place", [0, 50_000, 99_999])
def test_beginning_middle_and_end_of_a_large_file_count(place, tmp_path, monkeypatch):
    monkeypatch.setattr(common.data.identity, "SAMPLED_BYTES", 16_000)
    content = bytearray(100_000)
    (tmp_path / "a.npz").write_bytes(content)
    content[max(0, place - 6000) : place + 6000] = b"1" * len(content[max(0, place - 6000) : place + 6000])
    (tmp_path / "b.npz").write_bytes(content)
    assert difference(of(tmp_path / "a.npz"), of(tmp_path / "b.npz"))


def test_tables_count_whatever_the_number_of_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(common.data.identity, "SAMPLED_FILES", 2)
    before = of(files(tmp_path, "a.png b.png c.png labels.csv x.png y.png"))
    (tmp_path / "labels.csv").write_bytes(b"CONTENT of labels.csv")
    assert difference(before, of(tmp_path))


def test_links_are_followed_but_not_round_and_round(tmp_path):
    (tmp_path / "kept").symlink_to(files(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere" / "A" / "above").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    names = sorted(file.name for file in readable_files(tmp_path / "kept"))
    assert names == ["A/0.png", "A/1.png", "B/0.png", "B/1.png"]


def test_names_that_are_no_text_count_too(tmp_path):
    before = of(files(tmp_path))
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"1")
    assert of(tmp_path)["files"] == before["files"] + 1


def test_words_have_none(tmp_path, monkeypatch):
    monkeypatch.chdir(files(tmp_path, "sample/0.png mnist/0.png"))
    assert not of("sample") and not of("mnist") and not of("nowhere") and not of("nowhere.npz")


def test_a_prepared_set_is_known_by_its_version(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert not of("tfds:tiny")
    files(tmp_path, "tiny/1.0.0/dataset_info.json")
    before = of("tfds:tiny")
    files(tmp_path, "tiny/1.2.0/dataset_info.json")
    assert difference(before, of("tfds:tiny")) == "version 1.0.0 before, 1.2.0 now"
    assert not difference(before, of("tfds:tiny:1.0.0"))


# Runs


def started(run: Path, data: Path | str, config=Config(), recipe: str = "pix2pix") -> Path:
    Run(run, recipe, config, str(data)).start()
    (run / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
    return run


def test_a_run_resumes_with_data_that_moved(tmp_path, capsys):
    before, after, run = files(tmp_path / "before"), tmp_path / "after", started(tmp_path / "run", tmp_path / "before")
    Run(run, "pix2pix", Config(), str(before))
    assert capsys.readouterr().err == ""
    before.rename(after)
    moved = Run(run, "pix2pix", Config(epochs=300), str(after))
    assert capsys.readouterr().err == f"{run}: data moved from {before} to {after}; the run resumes with it\n"
    moved.start()
    assert read_data(run) == str(after)
    Run(run, "pix2pix", Config(epochs=300), str(after))
    assert capsys.readouterr().err == ""


def test_data_that_are_gone_are_asked_for(tmp_path):
    run = started(tmp_path / "run", files(tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "after")
    with pytest.raises(InputError, match=rf"{tmp_path / 'before'} \(--data\) no longer exists; .* with --data$"):
        Run(run, "pix2pix", Config(), read_data(run))
    shutil.rmtree(run / "checkpoints")  # stopped before its first save
    with pytest.raises(InputError, match=r" \(--data\) no longer exists"):
        Run(run, "pix2pix", Config(), read_data(run))


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_does_not_resume_with_other_data_unless_they_are_accepted(moved, tmp_path, capsys):
    data = files(tmp_path / "data")
    run = started(tmp_path / "run", data)
    if moved:
        data = data.rename(tmp_path / "other")
    for pair in ("A", "B"):
        (data / pair / "1.png").unlink()
    with pytest.raises(InputError) as error:
        Run(run, "pix2pix", Config(), str(data))
    said = f"data {data} differs from {tmp_path / 'data'}" if moved else f"data {data} has changed since this run"
    assert str(error.value).startswith(f"{run}: {said}") and "--accept-data" in str(error.value)
    assert "4 files (72 bytes) before, 2 files (36 bytes) now" in str(error.value)
    assert "\n" not in str(error.value) and not capsys.readouterr().err
    accepted = Run(run, "pix2pix", Config(), str(data), accept_data=True)
    assert capsys.readouterr().err.count("\n") == 1
    accepted.start()
    Run(run, "pix2pix", Config(), str(data))
    assert not capsys.readouterr().err


def test_accepting_data_accepts_nothing_else(tmp_path):
    run = started(tmp_path / "run", files(tmp_path / "data"))
    with pytest.raises(InputError, match="a run with seed 0, not 1"):
        Run(run, "pix2pix", Config(seed=1), str(tmp_path / "data"), accept_data=True)


def test_other_data_may_be_given_before_anything_is_saved(tmp_path):
    Run(tmp_path / "run", "pix2pix", Config(), str(files(tmp_path / "one"))).start()
    Run(tmp_path / "run", "pix2pix", Config(), str(files(tmp_path / "two", "A/3.png B/3.png")))


def test_the_head_of_a_network_is_a_save_as_well(tmp_path):
    run, config = tmp_path / "run", mobilenet.Config()
    Run(run, "mobilenet", config, str(files(tmp_path / "data"))).start()
    (run / "head" / "checkpoints" / "step-00000001").mkdir(parents=True)
    files(tmp_path / "data", "A/3.png")
    with pytest.raises(InputError, match="has changed since this run was started"):
        Run(run, "mobilenet", config, str(tmp_path / "data"))


@pytest.mark.parametrize("kept", [None, 3, {"data": "?"}])
def test_a_run_of_an_earlier_version_is_known_by_its_path(kept, tmp_path, capsys):
    data, run = files(tmp_path / "data"), started(tmp_path / "run", tmp_path / "data")
    settings = {key: value for key, value in run_settings(run, "pix2pix").items() if key != "identity"}
    settings |= {"identity": kept} if kept else {}
    (run / "config.json").write_text(json.dumps(settings))
    Run(run, "pix2pix", Config(), str(data))
    other = shutil.copytree(data, tmp_path / "other")
    with pytest.raises(InputError, match=f"a run with data '{data}', not '{other}'"):
        Run(run, "pix2pix", Config(), str(other))
    Run(run, "pix2pix", Config(), str(other), accept_data=True).start()
    assert run_settings(run, "pix2pix")["identity"] == {"data": of(other)}


def test_of_several_machines_the_chief_alone_speaks(tmp_path, capsys, monkeypatch):
    run = started(tmp_path / "run", files(tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "after")
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    Run(run, "pix2pix", Config(), str(tmp_path / "after")).start()
    assert not capsys.readouterr().err and read_data(run) == str(tmp_path / "before")


def test_what_a_run_writes_into_its_own_data_is_not_data(tmp_path):
    run = started(tmp_path / "runs" / "mine", files(tmp_path))
    pictures = images_below(tmp_path)
    files(run, "samples/epoch-0001.png translations.png")
    assert images_below(tmp_path) == pictures and len(pictures) == 4
    Run(run, "pix2pix", Config(), str(tmp_path))


# Photos, paintings and weights


@pytest.mark.parametrize("recipe", [deepdream, style_transfer])
def test_a_photo_that_was_replaced_under_its_name_is_noticed(recipe, tmp_path):
    photo, name = tmp_path / "photo.png", recipe.__name__.removeprefix("recipes.")
    photo.write_bytes(b"one")
    run = started(tmp_path / "run", photo, recipe.Config(), name)
    photo.write_bytes(b"two")
    with pytest.raises(InputError, match=f"data {photo} has changed since this run was started"):
        Run(run, name, recipe.Config(), str(photo))


@pytest.mark.parametrize(("recipe", "setting"), [(style_transfer, "style"), (fast_style_transfer, "style"),
                                                 (fast_style_transfer, "weights"), (mobilenet, "weights")])  # fmt: skip
def test_paintings_and_weights_may_move_but_not_change(recipe, setting, tmp_path, capsys):
    name, file, moved = recipe.__name__.removeprefix("recipes."), tmp_path / "a,b.jpg", tmp_path / "c=2.jpg"
    file.write_bytes(b"one")
    config, elsewhere = (recipe.Config(**{setting: str(path)}) for path in (file, moved))
    run = started(tmp_path / "run", "sample", config, name)
    file.rename(moved)
    with pytest.raises(InputError, match=rf" \(--{setting}\) no longer exists.* with --{setting}$"):
        Run(run, name, config, "sample")
    resumed = Run(run, name, elsewhere, "sample")
    assert f"{setting} moved from {file} to {moved}" in capsys.readouterr().err
    resumed.start()
    moved.write_bytes(b"two")
    with pytest.raises(InputError, match=f"{setting} {moved} has changed since this run was started: different"):
        Run(run, name, elsewhere, "sample")


def test_several_paintings_keep_their_order_and_their_shares(tmp_path):
    for name in ("a", "b"):
        files(tmp_path / "one", f"{name}.jpg"), files(tmp_path / "two", f"{name}.jpg")

    def config(folder: str, text: str) -> style_transfer.Config:
        return style_transfer.Config(style=text.replace("@", str(tmp_path / folder)))

    run = started(tmp_path / "run", "sample", config("one", "@/a.jpg=2.0,@/b.jpg"), "style_transfer")
    Run(run, "style_transfer", config("two", "@/a.jpg=2.0,@/b.jpg"), "sample")
    for other in ("@/a.jpg,@/b.jpg=2.0", "@/b.jpg=2.0,@/a.jpg", "@/a.jpg=3.0,@/b.jpg", "@/a.jpg"):
        for accept in (False, True):
            with pytest.raises(InputError, match="holds a run with style "):
                Run(run, "style_transfer", config("two", other), "sample", accept)


def test_a_drawn_painting_may_be_one_of_several(tmp_path):
    files(tmp_path, "a.jpg")
    config = style_transfer.Config(style=f"{tmp_path / 'a.jpg'},sample=2.0")
    run = started(tmp_path / "run", "sample", config, "style_transfer")
    Run(run, "style_transfer", config, "sample")
    (tmp_path / "a.jpg").write_bytes(b"other")
    with pytest.raises(InputError, match="style .* has changed since this run was started"):
        Run(run, "style_transfer", config, "sample")


# Recipes


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_flag_and_heeds_it(name):
    run = importlib.import_module(f"recipes.{name}").run
    assert inspect.signature(run).parameters["accept_data"].default is False
    assert "data, accept_data)" in inspect.getsource(run)


@pytest.mark.slow
def test_a_run_whose_data_moved_ends_as_if_they_had_not(tmp_path, capsys):
    config = gan.Config(size=8, channels=3, units=4, discriminator_units=8, batch_size=4, epochs=2)
    for number in range(20):
        shade = np.full((8, 8, 3), 12 * number, np.uint8)
        write_image(shade, tmp_path / "before" / f"{number:02d}.png")
    gan.run(str(tmp_path / "before"), config, tmp_path / "whole")
    gan.run(str(tmp_path / "before"), replace(config, epochs=1), tmp_path / "moved")
    (tmp_path / "before").rename(tmp_path / "after")
    gan.run(str(tmp_path / "after"), config, tmp_path / "moved")
    assert f"data moved from {tmp_path / 'before'} to {tmp_path / 'after'}" in capsys.readouterr().err
    whole, moved = (load_network(tmp_path / name, "generator").get_weights() for name in ("whole", "moved"))
    for one, other in zip(whole, moved, strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "after" / "19.png").unlink()  # 18.png, trained on before, would be held out
    with pytest.raises(InputError, match="has changed since this run was started: 20 files"):
        gan.run(str(tmp_path / "after"), replace(config, epochs=3), tmp_path / "moved")
