"""The command line as a user meets it: what is wrong is said in one line, with exit status 2 and no traceback."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.data.datasets import image_pairs
from common.images.reading import read_image
from common.runs.cli import run_command
from common.runs.run import Run, read_execution
from common.system.cluster import Place
from common.system.files import InputError
from common.training import Execution, precision
from common.training.execution import active_execution
from recipes import dcgan, pix2pix
from tests.forked import forked_python

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs a recipe's command line in this process: (status, what it said)."""

    def run(recipe: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "recipes" / f"{recipe}.py"), *map(str, arguments)])
        capsys.readouterr()
        with pytest.warns(RuntimeWarning, match="found in sys.modules"):  # runpy: this test imported it before
            try:
                runpy.run_module(f"recipes.{recipe}", run_name="__main__", alter_sys=True)
                status = 0
            except SystemExit as end:
                status = end.code
        said = capsys.readouterr()
        return status, said.err if status else said.out

    return run


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folder_of_pairs(folder: Path, count: int = 4) -> Path:
    for number in range(count):
        for side in "AB":
            picture(folder / side / f"{number}.png", seed=number)
    return folder


def no_sample() -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError("asked for the sample")


def one_line(said: str) -> str:
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


def wrong_data(kind: str, folder: Path) -> tuple[Path, str]:
    """Make a folder that cannot be trained on, and say what must be named."""
    if kind == "missing":
        return folder / "nowhere", "no such folder"
    if kind == "empty":
        folder.mkdir(exist_ok=True)
        return folder, "found nothing"
    if kind == "no layout":
        picture(folder / "holiday" / "1.png")
        return folder, "holiday/"
    folder_of_pairs(folder)
    if kind == "unpaired":
        (folder / "B" / "2.png").unlink()
        return folder, "'2'"
    target = folder / "B" / "2.png"
    if kind == "truncated":
        target.write_bytes(target.read_bytes()[:300])
    elif kind == "zero bytes":
        target.write_bytes(b"")
    elif kind == "text":
        target.write_text("not a picture")
    elif kind == "1x1":
        picture(target, (1, 1))
    return folder, "2.png"


KINDS = ["missing", "empty", "no layout", "unpaired", "truncated", "zero bytes", "text", "1x1"]


@pytest.mark.parametrize("kind", KINDS)
def test_data_that_cannot_be_used_is_named(kind, tmp_path, command):
    data, expected = wrong_data(kind, tmp_path / "data")
    small = ("--size", 32, "--base-filters", 4)
    status, said = command("pix2pix", "train", "--data", data, "--output-dir", tmp_path / "run", *small)
    assert status == 2
    assert expected in one_line(said)
    assert not (tmp_path / "run").exists()


def test_one_bad_image_among_many_is_named_counted_and_skipped_on_request(tmp_path, capsys):
    data = folder_of_pairs(tmp_path, 20)
    (data / "A" / "7.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 of 40 images cannot be used.*7\.png.*--skip-bad"):
        image_pairs(str(data), 32, sample=no_sample)
    kept = image_pairs(str(data), 32, sample=no_sample, skip_bad=True)
    assert len(kept.train) == 17 and len(kept.test) == 2
    assert "7.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["tranlsate", "a.png", "b.png"],
            "'tranlsate' is not a command of pix2pix; choose from demo, train, translate, export",
        ),
        (["train", "--preset", "big"], "'big' is not a preset of pix2pix; choose from paper, cityscapes, demo"),
        (["train", "--data", "pairs", "--size", "100"], "size must be a multiple of 32 from 32 to 4096, got 100"),
        (["translate", "a.png", "b.png", "--run", "nowhere"], "nowhere: no run here"),
        (["export", "--run", "nowhere"], "nowhere: no .keras file here"),
        (["train", "--data", "tfds:no_such_set", "--size", "32"], "tfds:no_such_set"),
        (["train", "--batch-size", "0"], "batch_size must be 1 or more and at most 65536, got 0"),
    ],
)
def test_what_is_asked_for_but_is_not_there(arguments, expected, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of_pairs(tmp_path / "pairs")
    status, said = command("pix2pix", *arguments)
    assert status == 2
    assert expected in one_line(said)


def test_a_flag_that_does_not_exist(command):
    status, said = command("pix2pix", "--epoch", "3")
    assert status == 2
    assert "--epoch" in said and "Traceback" not in said


def test_an_output_folder_that_cannot_be_written(tmp_path, command):
    (tmp_path / "file").write_text("in the way")
    status, said = command("pix2pix", "--output-dir", tmp_path / "file" / "run")
    assert status == 2
    assert str(tmp_path / "file") in one_line(said)


def start(folder: Path, recipe: str = "pix2pix", **fields: object) -> Path:
    module = {"pix2pix": pix2pix, "dcgan": dcgan}[recipe]
    Run(folder, recipe, module.Config(**{"size": 32, "base_filters": 4} | fields), "sample").start()
    return folder


@pytest.mark.parametrize("verb", [["generate", "a.png"], ["walk", "a.gif"]])
def test_samples_of_a_run_of_another_recipe(verb, tmp_path, command):
    status, said = command("dcgan", *verb, "--run", start(tmp_path / "run", "pix2pix"))
    assert status == 2
    assert "a run of pix2pix, not of dcgan" in one_line(said)


def test_a_run_of_another_recipe(tmp_path, command):
    run = start(tmp_path / "run", "dcgan")
    for arguments in (["train", "--output-dir", run], ["translate", "a.png", "b.png", "--run", run]):
        status, said = command("pix2pix", *arguments)
        assert status == 2
        assert "a run of dcgan, not of pix2pix" in one_line(said)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"recipe": "pix2pix"}', '{"recipe": "pix2pix", "config": 3, "data": ""}']
)
def test_a_damaged_config(text, tmp_path, command):
    (start(tmp_path) / "config.json").write_text(text)
    status, said = command("pix2pix", "train", "--output-dir", tmp_path)
    assert status == 2
    assert "config.json: damaged" in one_line(said)


def test_a_config_with_a_field_of_another_type(tmp_path, command):
    path = start(tmp_path) / "config.json"
    settings = json.loads(path.read_text())
    settings["config"]["size"] = "large"
    path.write_text(json.dumps(settings))
    status, said = command("pix2pix", "train", "--output-dir", tmp_path)
    assert status == 2
    assert "config.json: size must be an integer, got 'large'" in one_line(said)


def test_other_settings_for_a_run_that_has_begun(tmp_path, command):
    (start(tmp_path) / "checkpoints" / "step-00000001").mkdir(parents=True)
    status, said = command("pix2pix", "train", "--output-dir", tmp_path, "--batch-size", "3")
    assert status == 2
    assert "batch_size 1, not 3" in one_line(said)


def test_a_network_that_is_damaged(tmp_path, command):
    run = start(tmp_path / "run")
    status, said = command("pix2pix", "translate", picture(tmp_path / "a.png"), tmp_path / "b.png", "--run", run)
    assert status == 2 and "has this run finished" in one_line(said)
    (run / "generator.keras").write_bytes(b"PK\x03\x04 cut short")
    status, said = command("pix2pix", "translate", picture(tmp_path / "a.png"), tmp_path / "b.png", "--run", run)
    assert status == 2 and "cannot be loaded" in one_line(said)
    assert not (tmp_path / "b.png").exists()


def test_a_set_that_is_not_on_this_machine_is_not_fetched_unasked(tmp_path, command, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    status, said = command("dcgan", "train", "--data", "mnist", "--output-dir", tmp_path / "run")
    assert status == 2
    assert "--fetch" in one_line(said) and "https://" in said and str(tmp_path) in said


@pytest.mark.parametrize(
    ("failure", "status", "expected"),
    [
        (
            OSError(28, "No space left on device", "runs/night/x.png"),
            2,
            "error: runs/night/x.png: No space left on device",
        ),
        (MemoryError(), 2, "error: out of memory: no memory left; try a smaller --batch-size, --size or"),
        (
            tf.errors.ResourceExhaustedError(None, None, "{{function_node f}} failed to allocate 3.8 TiB\n\t [[node]]"),
            2,
            "error: out of memory: failed to allocate 3.8 TiB; try a smaller --batch-size",
        ),
        (FloatingPointError("generator became nan at step 7"), 1, "error: generator became nan at step 7"),
        (KeyboardInterrupt("stopped after step 7 of 9"), 130, "stopped after step 7 of 9; run the same command again"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_what_goes_wrong_on_the_way(failure, status, expected, monkeypatch, capsys):
    def demo(output_dir: Path = Path("run")) -> Path:
        raise failure

    monkeypatch.setattr(sys, "argv", ["recipes/pix2pix.py"])
    with pytest.raises(SystemExit) as end:
        run_command(demo, presets={})
    assert end.value.code == status
    said = capsys.readouterr().err
    assert said.startswith(expected) and said.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[1, 2]", "null", "[" * 100_000, "\xff", '{"l1": 0.25}'])
def test_a_verb_that_writes_beside_damaged_scores(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_text(text, encoding="latin-1")
    (tmp_path / "x.png").touch()

    def demo(output_dir: Path = tmp_path) -> Path:
        return output_dir / "x.png"

    monkeypatch.setattr(sys, "argv", ["recipes/pix2pix.py"])
    run_command(demo, presets={})
    said = capsys.readouterr().out
    assert said.endswith(f"{tmp_path / 'x.png'}\n") and ("l1  0.2500" in said) == (text == '{"l1": 0.25}')


@pytest.fixture
def executed(monkeypatch):
    """Return a function that runs a verb that trains with some flags: the `Execution` and policy that it had.

    A step takes 2 s in bfloat16, 4 s in float16 and 3 s in float32.
    """
    times = {"float32": 3.0, "mixed_bfloat16": 2.0, "mixed_float16": 4.0}
    monkeypatch.setattr(precision, "step_times", lambda names: {name: times[name] for name in names})

    def run(folder: Path, *flags: str, steps: bool = True) -> tuple[Execution, str, int]:
        seen = []

        def train(config: pix2pix.Config = pix2pix.Config(), output_dir: Path = folder) -> Path:
            seen.append((active_execution(), keras.config.dtype_policy().name, config.size))
            Run(output_dir, "pix2pix", config, "sample").start()
            return output_dir

        def demo(config: pix2pix.Config = pix2pix.DEMO, output_dir: Path = folder) -> Path:
            raise AssertionError

        monkeypatch.setattr(sys, "argv", ["recipes/pix2pix.py", "train", *flags])
        run_command(demo, presets={"demo": pix2pix.DEMO, "paper": pix2pix.Config()}, steps=steps, train=train)
        return seen[0]

    return run


def test_flags_of_the_execution_apply_and_a_resumed_run_has_them(tmp_path, executed, capsys):
    plain, mixed = Execution(), Execution(precision="mixed_bfloat16", steps_per_call=2)
    flags = "--precision", "mixed_bfloat16", "--steps-per-call", "2", "--preset", "demo"
    assert executed(tmp_path / "new") == (plain, "float32", 256)
    assert executed(tmp_path / "mixed", *flags) == (mixed, "mixed_bfloat16", 128)
    assert keras.config.dtype_policy().name == "float32"
    assert read_execution(tmp_path / "mixed") == mixed
    again = executed(tmp_path / "mixed")
    assert again == (mixed, "mixed_bfloat16", 128)
    (tmp_path / "mixed" / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(SystemExit):
        executed(tmp_path / "mixed", "--precision", "float32")
    assert "precision 'mixed_bfloat16', not 'float32'" in one_line(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        executed(tmp_path / "new", "--steps-per-call", "100000")
    assert "steps_per_call must be 0 or more and at most 10000, got 100000" in one_line(capsys.readouterr().err)


def test_the_fastest_precision_is_chosen_once_and_a_resumed_run_keeps_it(tmp_path, executed, monkeypatch, capsys):
    flags = "--precision", "auto", "--preset", "demo"
    chosen = Execution(precision="mixed_bfloat16")
    assert executed(tmp_path, *flags) == (chosen, "mixed_bfloat16", 128) and read_execution(tmp_path) == chosen
    said = capsys.readouterr().err
    assert said == (
        "precision mixed_bfloat16, by the time of a training step of a small network: "
        "float32 3e+03 ms, mixed_bfloat16 2e+03 ms\n"
    )
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    monkeypatch.setattr(precision, "step_times", lambda names: {"float32": 1.0, "mixed_bfloat16": 4.56})
    assert executed(tmp_path, *flags) == (chosen, "mixed_bfloat16", 128)
    assert capsys.readouterr().err == (
        "mixed_bfloat16 is about 4.6 times slower than float32 on this machine (measured with a small network); "
        "use --precision float32, or auto\n"
    )
    assert executed(tmp_path / "new", *flags)[1] == "float32"


def test_a_precision_that_is_not_slower_is_not_mentioned(tmp_path, executed, capsys):
    executed(tmp_path / "mixed", "--precision", "mixed_bfloat16")
    executed(tmp_path / "plain")
    assert capsys.readouterr().err == ""
    executed(tmp_path / "half", "--precision", "mixed_float16")
    assert "mixed_float16 is about 1.3 times slower" in capsys.readouterr().err


def test_several_machines_name_their_precision(tmp_path, executed, monkeypatch, capsys):
    monkeypatch.setattr(precision, "place", lambda: Place(1, 2))
    with pytest.raises(SystemExit):
        executed(tmp_path, "--precision", "auto")
    said = one_line(capsys.readouterr().err)
    assert "--precision auto works on one machine" in said and "mixed_bfloat16, mixed_float16" in said


def test_a_recipe_without_steps_has_no_flags_of_the_execution(tmp_path, executed, capsys):
    assert executed(tmp_path / "run", "--size", "32", steps=False) == (Execution(), "float32", 32)
    with pytest.raises(SystemExit):
        executed(tmp_path / "run", "--precision", "mixed_bfloat16", steps=False)
    assert "--precision" in capsys.readouterr().err


def test_a_run_of_the_first_edition_resumes_with_its_settings(tmp_path, executed):
    """Its config.json held what is now the execution, and a setting of batch normalisation, beside the others."""
    start(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["config"] |= {"precision": "mixed_float16", "xla": False, "steps_per_call": 3, "synchronized": True}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    found = executed(tmp_path)
    assert found == (Execution(precision="mixed_float16", steps_per_call=3), "mixed_float16", 32)


def test_a_verb_without_a_run_takes_a_preset_and_no_output_dir(monkeypatch, capsys):
    seen = []

    def demo(config: pix2pix.Config = pix2pix.DEMO, output_dir: Path = Path("run")) -> Path:
        raise AssertionError

    def attack(source: Path, config: pix2pix.Config = pix2pix.Config()) -> None:
        seen.append((source, config))

    def run(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["recipes/pix2pix.py", "attack", "a.png", *flags])
        run_command(demo, presets={"demo": pix2pix.DEMO}, attack=attack)

    run()
    run("--preset", "demo", "--seed", "3")
    assert seen == [
        (Path("a.png"), pix2pix.Config()),
        (Path("a.png"), dataclasses.replace(pix2pix.DEMO, seed=3)),
    ]
    with pytest.raises(SystemExit) as end:
        run("--output-dir", "out")
    assert end.value.code == 2 and "output-dir" in capsys.readouterr().err


@pytest.fixture(scope="module")
def generator():
    return pix2pix.build(pix2pix.Config(size=32, base_filters=4)).generator


@pytest.mark.parametrize(("width", "height"), [(97, 131), (1000, 600), (1, 1), (32, 32), (31, 65)])
def test_any_size_in_the_same_size_out(width, height, tmp_path, monkeypatch, generator):
    run = start(tmp_path / "run")
    monkeypatch.setattr(Run, "network", lambda *_: generator)
    written = pix2pix.translate_files(picture(tmp_path / "a.png", (width, height)), tmp_path / "b.png", run)
    with Image.open(written) as image:
        assert image.size == (width, height)


def test_a_folder_is_translated_into_a_folder(tmp_path, monkeypatch, generator):
    run = start(tmp_path / "run")
    monkeypatch.setattr(Run, "network", lambda *_: generator)
    for number in range(3):
        picture(tmp_path / "in" / f"{number}.jpg", (20 + number, 30))
    pix2pix.translate_files(tmp_path / "in", tmp_path / "out", run)
    sizes = [read_image(path).shape for path in sorted((tmp_path / "out").iterdir())]
    assert sizes == [(30, 20, 3), (30, 21, 3), (30, 22, 3)]
    (tmp_path / "in" / "1.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 of 3 images cannot be used.*1\.jpg"):
        pix2pix.translate_files(tmp_path / "in", tmp_path / "again", run)
    pix2pix.translate_files(tmp_path / "in", tmp_path / "again", run, skip_bad=True)
    assert [path.name for path in sorted((tmp_path / "again").iterdir())] == ["0.png", "2.png"]
    with pytest.raises(InputError, match="is the source folder; give a different folder"):
        pix2pix.translate_files(tmp_path / "in", tmp_path / "in", run)
    picture(tmp_path / "in" / "2.png")
    with pytest.raises(InputError, match=r"2.jpg and .*2.png would both become 2.png"):
        pix2pix.translate_files(tmp_path / "in", tmp_path / "again", run)
    with pytest.raises(InputError, match="is a file, but"):
        pix2pix.translate_files(tmp_path / "in", picture(tmp_path / "c.png"), run)


@pytest.mark.slow
def test_ctrl_c_in_the_middle_loses_nothing_and_the_same_command_goes_on(tmp_path):
    """A real process, interrupted while it trains, and its run once more to the end."""
    arguments = ["train", "--preset", "digits", "--base-filters", "4", "--epochs", "30", "--output-dir", str(tmp_path)]
    process = subprocess.Popen(
        [*forked_python(), "-u", "-m", "recipes.dcgan", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            process.send_signal(2)
            break
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said and "run the same command again" in said
    done = subprocess.run(
        [*forked_python(), "-m", "recipes.dcgan", "train", "--output-dir", str(tmp_path), "--epochs", "4"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "epoch 2/" not in done.stdout and "epoch 4/4" in done.stdout
    assert {"generator.keras", "report.html", "results.json"} <= set(os.listdir(tmp_path))


def test_a_clock_before_1980_is_one_line(monkeypatch, capsys):
    """Networks are zip archives, which cannot hold such a date: the run would end at its first save."""

    def demo(output_dir: Path = Path("run")) -> Path:
        raise AssertionError

    monkeypatch.setattr(sys, "argv", ["recipes/pix2pix.py"])
    monkeypatch.setattr("common.runs.cli.time.time", lambda: 3600.0)
    with pytest.raises(SystemExit) as end:
        run_command(demo, presets={})
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the system clock says 1970-01-01") and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 0.05, 0.2, 0.5, 1])
def test_ctrl_c_while_a_recipe_is_imported_is_one_line(seconds):
    """From the moment on at which the package is imported, which Python says; before that it is Python's own."""
    command = [sys.executable, "-X", "importtime", "-m", "recipes.dcgan", "train", "--data", "nowhere"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert any(line.rstrip().endswith("| recipes") for line in process.stderr)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        said = [line for line in process.stderr if not line.startswith("import time:")]
    if process.returncode == 2:  # it had ended by itself
        assert said[0].startswith("error: nowhere")
    else:
        assert process.returncode in (130, -signal.SIGINT) and said == ["stopped\n"]


@pytest.mark.slow
def test_help_into_a_pipe_that_closes_says_nothing_more():
    command = f"{sys.executable} -m recipes.dcgan --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def called_with(monkeypatch, capsys, *arguments):
    """Run a verb that takes any flag with a number; return what it got, or its complaint."""
    got = []

    def edit(source: Path, strength: int = 1, soft: bool = False, **attributes: float) -> None:
        """Edit."""
        got.append((source, strength, soft, attributes))

    def demo(output_dir: Path = Path("runs/x")) -> Path:
        """Demo."""
        return output_dir

    monkeypatch.setattr(sys, "argv", ["recipe.py", "edit", *arguments])
    try:
        run_command(demo, presets={}, edit=edit)
    except SystemExit as end:
        return end.code, capsys.readouterr()
    return got[0]


def test_a_verb_takes_any_other_flag_with_a_number(monkeypatch, capsys):
    given = ("a.png", "--smile", "-2", "--strength", "3", "--wearing-hat=0.5", "--soft")
    assert called_with(monkeypatch, capsys, *given) == (Path("a.png"), 3, True, {"smile": -2.0, "wearing_hat": 0.5})
    assert called_with(monkeypatch, capsys, "a.png", "--no-soft") == (Path("a.png"), 1, False, {})


@pytest.mark.parametrize("given", [("--smile",), ("--smile", "much"), ("--smile=",), ("--smile", "nan")])
def test_what_is_no_number_is_named(monkeypatch, capsys, given):
    status, said = called_with(monkeypatch, capsys, "a.png", *given)
    assert status == 2 and said.err.startswith("error: --smile needs a") and said.err.count("\n") == 1
    assert called_with(monkeypatch, capsys, "--help")[0] == 0
