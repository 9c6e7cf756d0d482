"""Check whether recipes can run on this machine: `python -m recipes doctor`.

The checks use only the standard library, and TensorFlow is imported in another process, because an import of TensorFlow
can fail in many ways. It can even kill the process, on processors without AVX.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from common.system.files import cut, home_folder, printable
from common.system.packages import Requirement, install_command, meets, python_bounds, requirement_of, requirements

GB = 1e9
LEAST_DISK = 0.5 * GB  # the networks and three checkpoints of the largest demo, vae_faces, take 0.2 GB
LITTLE_DISK = 2 * GB
LITTLE_MEMORY = 2 * GB  # the demos need 0.7 to 1.3 GB, and data their own
PROBE = """
import json
import keras, tensorflow as tf
gpus = [tf.config.experimental.get_device_details(each).get("device_name", each.name)
        for each in tf.config.list_physical_devices("GPU")]
print(json.dumps({"image_data_format": keras.config.image_data_format(), "floatx": keras.config.floatx(),
                  "gpus": gpus}))
"""

Level = Literal["ok", "note", "WRONG"]


class Finding(NamedTuple):
    """The result of a check."""

    level: Level  # note: recipes run, but something is missing; WRONG: recipes do not run
    text: str


def report(checks: list[Callable[[], Iterator[Finding]]] | None = None) -> int:
    """Print all findings, one per line, and return the exit status: 1 if something prevents recipes from running."""
    found = []
    for check in CHECKS if checks is None else checks:
        try:
            for finding in check():
                found.append(finding)
                print(f"{finding.level:>6}  {printable(finding.text)}", flush=True)
        except Exception as error:  # the other checks are still useful
            name = check.__name__.replace("_", " ")
            print(f"{'note':>6}  the check of {name} failed: {printable(error)}", flush=True)
    wrong = sum(finding.level == "WRONG" for finding in found)
    things = f"{wrong} thing{'s' * (wrong != 1)} to fix before recipes can run"
    print(f"\n{things if wrong else 'recipes can run on this machine'}")
    return int(wrong > 0)


def versions() -> Iterator[Finding]:
    """Check the versions of Python and of the required packages."""
    version, bounds = platform.python_version(), python_bounds()
    fits = meets(version, bounds)
    where = f"Python {version}, {sys.executable}"
    yield Finding("ok", where) if fits is not False else Finding("WRONG", f"{where}: expected Python {bounds}")
    if fits is None:
        yield Finding("note", "versions are not checked, because neither packaging nor pip is installed")
    needed = [each for each in requirements() if not each.extra]
    complete = True
    for each in needed:
        found = each.installed()
        wrong = not found or meets(found, each.bounds) is False
        complete = complete and not wrong
        if wrong:
            state = f"version {found}" if found else "not installed"
            yield Finding("WRONG", f"{each.name} {state}, expected {each.bounds}: {install_command('', each)}")
        elif each.name in ("tensorflow", "keras", "numpy"):
            yield Finding("ok", f"{each.name} {found} (expected {each.bounds})")
    if complete:
        yield Finding("ok", f"all {len(needed)} required packages are installed")


def tensorflow() -> Iterator[Finding]:
    """Import Keras and TensorFlow in another process, and check the backend and the GPUs."""
    if not all(each.installed() for each in requirements() if each.name in ("keras", "tensorflow")):
        return  # `versions` has named them
    backend, source = configured_backend()
    if backend != "tensorflow":
        yield Finding("note", f"Keras is set to the backend {backend}; recipes use tensorflow all the same: {source}")
    facts, problem = probed()
    if problem:
        yield Finding("WRONG", problem)
        return
    wanted = {"image_data_format": "channels_last", "floatx": "float32"}
    for name, value in wanted.items():
        if facts[name] != value:
            where = f"edit {keras_home() / 'keras.json'}"
            yield Finding("note", f"Keras has the {name} {facts[name]}; recipes set {value}: {where}")
    yield Finding("ok", "TensorFlow and Keras can be imported")
    if facts["gpus"]:
        yield Finding("ok", f"GPUs: {', '.join(facts['gpus'])}")
    elif shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists():
        yield Finding("note", f"this machine has an NVIDIA GPU that TensorFlow does not see: {install_command('gpu')}")
    else:
        yield Finding("ok", "no GPU; the demos do not need one")


def configured_backend() -> tuple[str, str]:
    """Return the backend that Keras is set to, and how to change it. Keras is not imported."""
    if backend := os.environ.get("KERAS_BACKEND"):
        return backend, "unset KERAS_BACKEND"
    path = keras_home() / "keras.json"
    try:
        backend = str(json.loads(path.read_text(encoding="utf-8"))["backend"])
    except (OSError, ValueError, KeyError, TypeError):  # Keras then uses its default
        backend = "tensorflow"
    return backend, f"edit {path}"


def probed(code: str = PROBE) -> tuple[dict[str, Any], str]:
    """Return what a process that imports TensorFlow says, and the problem that it had."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
    try:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=300, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, f"TensorFlow cannot be imported: {error}"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        reason = "TensorFlow needs a processor with AVX" if name == "SIGILL" else f"reinstall it: {install_command()}"
        return {}, f"the import of TensorFlow was ended by {name}: {reason}"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {}, f"TensorFlow cannot be imported ({cut(last, 200)}): {install_command()}"
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Finding]:
    """Name the processor and those of its features that make recipes faster."""
    name, flags = platform.processor() or platform.machine(), set()
    if cpuinfo.exists():
        fields = [line.partition(":") for line in cpuinfo.read_text(errors="replace").splitlines()]
        values = {key.strip(): value.strip() for key, _, value in reversed(fields)}
        name = values.get("model name", name)
        flags = {*values.get("flags", "").split(), *values.get("Features", "").split()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    features = {"AVX2": {"avx2"}, "AVX-512": {"avx512f"}, "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"}}
    has = [feature for feature, names in features.items() if names & flags]
    lacks = [feature for feature in features if feature not in has] if flags else []
    parts = [f"{name}, {cores} core{'s' * (cores != 1)}", *([", ".join(has)] if has else [])]
    parts += [f"no {' or '.join(lacks)}"] if lacks else []
    if flags and "flags" in values and "avx" not in flags:
        yield Finding("WRONG", f"processor: {name} has no AVX, which TensorFlow needs: use another machine")
    else:
        yield Finding("ok", f"processor: {'; '.join(parts)}")


def memory(meminfo: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    """Check the available memory."""
    if meminfo.exists():
        lines = [line.split() for line in meminfo.read_text().splitlines()]
        sizes = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if len(words) > 1}
        total, free = sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemTotal"])
    else:
        total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"memory: {free / GB:.1f} GB available, {total / GB:.1f} GB in total"
    little = f"{text}; demos need up to 1.3 GB: close other programs"
    yield Finding("note", little) if free < LITTLE_MEMORY else Finding("ok", text)


def disk(folder: Path | None = None) -> Iterator[Finding]:
    """Check the folder in which recipes create `runs/`."""
    folder = Path.cwd() if folder is None else folder
    free = shutil.disk_usage(folder).free
    text = f"disk: {free / GB:.1f} GB free in {folder}"
    if free < LEAST_DISK:
        yield Finding("WRONG", f"{text}; a demo writes up to 0.3 GB: delete files, or change to another folder")
    elif free < LITTLE_DISK:
        yield Finding("note", f"{text}; enough for demos, but not for long trainings")
    else:
        yield Finding("ok", text)
    runs = folder / "runs"
    if problem := unwritable(runs):
        yield Finding("WRONG", f"{runs} cannot be written ({problem}): change to another folder, or use --output-dir")


def caches() -> Iterator[Finding]:
    """Check the folders in which downloads are kept."""
    for variable, folder in (("KERAS_HOME", keras_home()), ("TFDS_DATA_DIR", datasets_home())):
        if problem := unwritable(folder):
            hint = f"--fetch needs it; set {variable} to another folder"
            yield Finding("note", f"{variable}: {folder} cannot be written ({problem}): {hint}")
        else:
            yield Finding("ok", f"{variable}: {folder} " + ("is" if folder.exists() else "can be created and is")
                                + " writable")  # fmt: skip


def extras() -> Iterator[Finding]:
    """List the optional packages that are missing, with the command that installs them."""
    groups: dict[str, list[Requirement]] = {}
    for each in requirements():
        if each.extra:
            found = each.installed()
            fits = bool(found) and meets(found, each.bounds) is not False
            complete = fits and not missing_options(each.name, each.options)
            groups.setdefault(each.extra, []).extend([] if complete else [each])
    for extra, missing in groups.items():
        if missing:
            names = ", ".join(f"{each.name}[{each.options}]" if each.options else each.name for each in missing)
            yield Finding("note", f"extra {extra} lacks {names}: {install_command(extra, *missing)}")
        else:
            yield Finding("ok", f"extra {extra} is installed")


def missing_options(name: str, options: str) -> list[str]:
    """Return the missing packages of a package's own extra, such as those of `tensorflow[and-cuda]`."""
    import importlib.metadata

    missing: list[str] = []
    for line in importlib.metadata.requires(name) or () if options else ():
        if f'extra == "{options}"' in line.replace("'", '"'):
            package = requirement_of(line)
            missing += [] if package.installed() else [package.name]
    return missing


def keras_home() -> Path:
    """Return the folder of Keras's downloads and of keras.json."""
    return Path(os.environ.get("KERAS_HOME") or home_folder() / ".keras").expanduser()


def datasets_home() -> Path:
    """Return the folder of TensorFlow Datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or home_folder() / "tensorflow_datasets").expanduser()


def unwritable(folder: Path) -> str:
    """Return why no file can be written in `folder`, or in the nearest folder above it that exists; "" if one can."""
    existing = next((each for each in (folder, *folder.absolute().parents) if each.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return ""
    except OSError as error:
        return error.strerror or str(error)


CHECKS: list[Callable[[], Iterator[Finding]]] = [versions, tensorflow, processor, memory, disk, caches, extras]
