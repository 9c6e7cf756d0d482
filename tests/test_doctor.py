"""`python -m recipes doctor`, on machines where something is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.system import doctor
from common.system.doctor import Finding
from common.system.packages import Requirement

ROOT = Path(__file__).parents[1]
FACTS = {"image_data_format": "channels_last", "floatx": "float32", "gpus": []}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def levels(check, *arguments) -> dict[str, str]:
    """Return the texts of the findings by level, joined."""
    found: dict[str, str] = {}
    for level, text in check(*arguments):
        found[level] = f"{found[level]}\n{text}" if level in found else text
    return found


def test_without_any_package_it_says_so_and_does_not_crash():
    """Python is started without site-packages: neither NumPy nor TensorFlow can be imported."""
    command = [sys.executable, "-S", "-m", "recipes", "doctor"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    for name in ("tensorflow", "keras", "numpy", "pillow"):
        assert f" WRONG  {name} not installed, expected >=" in done.stdout
    assert "to fix before recipes can run" in done.stdout.splitlines()[-1]
    assert "check of" not in done.stdout


def test_a_machine_where_all_is_well(monkeypatch, capsys):
    monkeypatch.setattr(Requirement, "installed", lambda self: "1.0")
    monkeypatch.setattr(doctor, "meets", lambda version, bounds: True)
    monkeypatch.setattr(doctor, "missing_options", lambda name, options: [])
    monkeypatch.setattr(doctor, "probed", lambda: (FACTS, ""))
    monkeypatch.setattr(doctor, "unwritable", lambda folder: "")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**12, 0, 10**12))
    assert doctor.report([each for each in doctor.CHECKS if each is not doctor.memory]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "recipes can run on this machine"
    assert "    ok  tensorflow 1.0 (expected >=2.21)" in lines and not [line for line in lines if "WRONG" in line]


@pytest.mark.parametrize(
    ("package", "version", "text"),
    [("keras", "3.9.2", "keras version 3.9.2, expected >=3.15,<3.16: pip install --editable ."),
     ("tensorflow", "", "tensorflow not installed, expected >=2.21: pip install --editable ."),
     ("pillow", "9.0", "pillow version 9.0, expected >=11.1: pip install --editable .")],
)  # fmt: skip
def test_a_version_that_does_not_fit(package, version, text, monkeypatch):
    before = Requirement.installed
    monkeypatch.setattr(Requirement, "installed", lambda self: version if self.name == package else before(self))
    found = levels(doctor.versions)
    assert found["WRONG"] == text and "all " not in found["ok"]


def test_a_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.9.1")
    assert levels(doctor.versions)["WRONG"].endswith(": expected Python >=3.11,<3.14")


@pytest.mark.parametrize(
    ("code", "problem"),
    [("import nothing", "TensorFlow cannot be imported (ModuleNotFoundError: No module named 'nothing'): pip install"),
     ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL: TensorFlow needs a processor with AVX"),
     ("import os; os.abort()", "ended by SIGABRT: reinstall it: pip install")],
)  # fmt: skip
def test_an_import_of_tensorflow_that_fails(code, problem, monkeypatch):
    result = doctor.probed(code)
    assert result[0] == {} and problem in result[1]
    monkeypatch.setattr(doctor, "probed", lambda: result)
    assert levels(doctor.tensorflow) == {"WRONG": result[1]}


def test_what_the_process_prints_last_is_read():
    assert doctor.probed("print('a notice'); print('{\"gpus\": []}')") == ({"gpus": []}, "")


@pytest.mark.parametrize(
    ("variable", "stored", "hint"),
    [("torch", '{"backend": "tensorflow"}', "unset KERAS_BACKEND"),
     ("", '{"backend": "torch"}', "edit "),
     ("tensorflow", '{"backend": "torch"}', None),
     ("", '{"floatx": "float32"}', None), ("", "{", None), ("", "[]", None)],
)  # fmt: skip
def test_another_backend_is_named(variable, stored, hint, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "probed", lambda: (FACTS, ""))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", variable)
    (tmp_path / "keras.json").write_text(stored)
    noted = levels(doctor.tensorflow).get("note", "")
    expected = f"Keras is set to the backend torch; recipes use tensorflow all the same: {hint}"
    assert noted.startswith(expected) == bool(hint) and "WRONG" not in levels(doctor.tensorflow)


def test_other_settings_of_keras_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "probed", lambda: (FACTS | {"image_data_format": "channels_first"}, ""))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    expected = "Keras has the image_data_format channels_first; recipes set channels_last: edit "
    assert levels(doctor.tensorflow)["note"] == f"{expected}{tmp_path / 'keras.json'}"


def test_a_gpu_that_tensorflow_does_not_see(monkeypatch):
    monkeypatch.setattr(doctor, "probed", lambda: (FACTS, ""))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert levels(doctor.tensorflow)["note"].endswith("does not see: pip install --editable '.[gpu]'")
    monkeypatch.setattr(doctor, "probed", lambda: (FACTS | {"gpus": ["NVIDIA H200"]}, ""))
    assert "GPUs: NVIDIA H200" in levels(doctor.tensorflow)["ok"]


@pytest.mark.parametrize(
    ("flags", "level", "text"),
    [("flags\t: avx avx2 avx512f amx_bf16", "ok", "AVX2, AVX-512, bfloat16"),
     ("flags\t: avx avx2", "ok", "AVX2; no AVX-512 or bfloat16"),
     ("flags\t: sse2", "WRONG", "processor: Xeon has no AVX"),
     ("Features\t: asimd bf16", "ok", "bfloat16; no AVX2 or AVX-512")],
)  # fmt: skip
def test_features_of_the_processor(flags, level, text, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Xeon\n{flags}\n\n" * 2)
    assert text in levels(doctor.processor, tmp_path / "cpuinfo")[level]


def test_a_system_without_proc(tmp_path):
    assert list(levels(doctor.processor, tmp_path / "none")) == ["ok"]
    assert "GB in total" in next(iter(levels(doctor.memory, tmp_path / "none").values()))


def test_little_memory(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  4000000 kB\nMemFree: 9 kB\nMemAvailable:   500000 kB\n")
    assert levels(doctor.memory, tmp_path / "meminfo") == {
        "note": "memory: 0.5 GB available, 4.1 GB in total; demos need up to 1.3 GB: close other programs"
    }


@pytest.mark.parametrize(("free", "level"), [(300_000_000, "WRONG"), (10**9, "note"), (10**11, "ok")])
def test_a_disk_that_is_nearly_full(free, level, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**12, 10**12 - free, free))
    found = levels(doctor.disk, tmp_path)
    assert list(found) == [level] and f"GB free in {tmp_path}" in found[level]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("a file in the way")
    found = levels(doctor.disk, tmp_path)["WRONG"]
    reason = "cannot be written (Not a directory)"
    assert found == f"{tmp_path / 'runs'} {reason}: change to another folder, or use --output-dir"
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "runs" / "keras"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    found = levels(doctor.caches)
    assert found["ok"] == f"TFDS_DATA_DIR: {tmp_path / 'sets'} can be created and is writable"
    assert found["note"].startswith(f"KERAS_HOME: {tmp_path / 'runs' / 'keras'} {reason}")
    assert found["note"].endswith("--fetch needs it; set KERAS_HOME to another folder")


def test_extras_that_are_missing(monkeypatch):
    monkeypatch.setattr(Requirement, "installed", lambda self: "" if self.name == "gradio" else "99")
    monkeypatch.setattr(doctor, "meets", lambda version, bounds: True)
    monkeypatch.setattr(doctor, "missing_options", lambda name, options: ["nvidia-cublas"] if options else [])
    found = levels(doctor.extras)
    assert found["note"].splitlines() == [
        "extra gpu lacks tensorflow[and-cuda]: pip install --editable '.[gpu]'",
        "extra app lacks gradio: pip install --editable '.[app]'",
    ]
    assert "extra export is installed" in found["ok"]


def test_packages_of_an_extra_of_a_package(monkeypatch):
    lines = ["numpy>=1", 'nvidia-none-cu12<13,>=12.5; extra == "and-cuda"', "pytest>=8; extra == 'and-cuda'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    assert doctor.missing_options("tensorflow", "and-cuda") == ["nvidia-none-cu12"]
    assert doctor.missing_options("tensorflow", "") == []


def test_a_check_that_fails_does_not_end_the_others(capsys):
    def broken_check():
        raise OSError("no such thing")
        yield

    def bad():
        yield Finding("WRONG", "all\nof it")

    assert doctor.report([broken_check, bad]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "  note  the check of broken check failed: no such thing",
        " WRONG  all\\nof it",
        "",
        "1 thing to fix before recipes can run",
    ]
