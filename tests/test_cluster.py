"""Several machines, as processes of this one that talk over the loopback; and several devices of one process."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.data.batches import batches, side_by_side
from common.data.labelled import image_batches, labelled_images
from common.images.writing import write_image
from common.system.cluster import Place, is_chief, joining_again, place
from common.system.files import InputError, write_text
from recipes import conv_autoencoder, dcgan
from tests.forked import Process, forked_python

HANGS = 600.0  # seconds after which no machine, however busy, is still at work
SMALL = {"size": 16, "base_filters": 4, "batch_size": 12, "learning_rate": 0.002, "seed": 3}


def free_addresses(count: int) -> list[str]:
    """Addresses of this machine that nobody listens at now."""
    with ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


class Workers:
    """Processes that train one run together, each with a log of its own."""

    def __init__(self, folder: Path, count: int, *command: str, signalled: tuple[str, ...] = ()):
        self.addresses, self.folder, self.command = free_addresses(count), folder, command
        self.processes: list[subprocess.Popen] = []
        for number in range(count):
            self.processes.append(self.start(number, *(signalled if number == count - 1 else ())))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def start(self, number: int, *before: str) -> subprocess.Popen:
        """Start one; `before` is what stands before the module in its command."""
        cluster = {"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": number}}
        with self.log(number).open("ab") as log:
            return Process(
                [*forked_python(), "-u", *(before or ["-m"]), *self.command, "--output-dir", str(self.output(number))],
                env=os.environ | {"TF_CONFIG": json.dumps(cluster)},
                stdout=log,
                stderr=log,
            )

    def output(self, number: int) -> Path:
        return self.folder / "run"

    def log(self, number: int) -> Path:
        return self.folder / f"log-{number}"

    def wait(self, status: int = 0) -> None:
        """Wait until all have ended, each with `status`."""
        for number, process in enumerate(self.processes):
            assert process.wait(HANGS) == status, self.log(number).read_text()[-2000:]

    def wait_for(self, what: str, number: int) -> None:
        """Wait until one has said `what`."""
        until = time.monotonic() + HANGS
        while what not in self.log(number).read_text():
            assert self.processes[number].poll() is None, self.log(number).read_text()
            if time.monotonic() > until:
                pytest.fail(f"never said {what!r}: {self.log(number).read_text()}")
            time.sleep(0.05)


class Apart(Workers):
    """Workers each with a folder of its own, to see which of them write."""

    def output(self, number: int) -> Path:
        return self.folder / f"run-{number}"


def flags(settings: dict) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def losses(run: Path) -> np.ndarray:
    """Every epoch's means and measures, without its times."""
    with (run / "history.csv").open() as file:
        return np.array([[float(row[name]) for name in row if "second" not in name] for row in csv.DictReader(file)])


SIGNALLED = """
import os, runpy, sys
from common.training import loop

add, (step, number, *command) = loop._Progress.add, sys.argv[1:]

def add_and_signal(progress, rows, count):
    add(progress, rows, count)
    if progress.done == int(step):
        os.kill(os.getpid(), int(number))

loop._Progress.add = add_and_signal
sys.argv = ["-m", *command[1:]]
runpy._run_module_as_main(command[0])
"""


def signalled(step: int, number: signal.Signals) -> tuple[str, ...]:
    """What lets a recipe get a signal when it has done a step."""
    return "-c", SIGNALLED, str(step), str(int(number))


@pytest.mark.slow
def test_three_machines_train_as_one_does_and_one_that_is_killed_and_started_again_loses_nothing(tmp_path):
    settings, data = SMALL | {"epochs": 4}, str(folder(tmp_path, 60))
    conv_autoencoder.run(data, conv_autoencoder.Config(**settings), tmp_path / "alone")
    assert (tmp_path / "alone" / "checkpoints" / "step-00000012").is_dir()  # three steps an epoch
    command = "recipes.conv_autoencoder", "train", "--data", data, *flags(settings)
    with Workers(tmp_path, 3, *command, signalled=signalled(7, signal.SIGKILL)) as workers:
        assert workers.processes[2].wait(HANGS) == -signal.SIGKILL
        for number in (0, 1):
            workers.wait_for("lost connection to another machine", number)
            workers.wait_for("restarting from the newest checkpoint", number)
        workers.processes[2] = workers.start(2)
        workers.wait()
    assert (
        "epoch 2/4" in workers.log(0).read_text() and "epoch 2/4" not in workers.log(1).read_text()
    )  # the chief tells
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "alone"), rtol=1e-5)


@pytest.mark.slow
def test_ctrl_c_at_one_machine_stops_all_after_the_same_step_and_they_go_on_together(tmp_path):
    settings, data = SMALL | {"epochs": 3}, str(folder(tmp_path, 60))
    command = "recipes.conv_autoencoder", "train", "--data", data, *flags(settings)
    conv_autoencoder.run(data, conv_autoencoder.Config(**settings), tmp_path / "alone")
    with Workers(tmp_path, 2, *command, signalled=signalled(4, signal.SIGINT)) as workers:
        workers.wait(status=130)
    said = [workers.log(number).read_text().splitlines()[-1] for number in (0, 1)]
    assert said[0] == said[1] and said[0].startswith("stopped after step ")
    assert not (tmp_path / "run" / "results.json").exists()
    with Workers(tmp_path, 2, *command) as workers:
        workers.wait()
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "alone"), rtol=1e-5)


@pytest.mark.slow
def test_the_chief_alone_writes_and_synchronised_batch_normalisation_sees_the_whole_batch(tmp_path):
    settings = {"size": 16, "channels": 1, "base_filters": 4, "batch_size": 6, "epochs": 2}
    data = str(folder(tmp_path))
    dcgan.run(data, dcgan.Config(**settings), tmp_path / "alone")
    with Apart(tmp_path, 2, "recipes.dcgan", "train", "--data", data, *flags(settings), "--synchronized") as workers:
        workers.wait()
    assert not workers.output(1).exists()
    assert {path.name for path in workers.output(0).iterdir()} == {path.name for path in (tmp_path / "alone").iterdir()}
    np.testing.assert_allclose(losses(workers.output(0)), losses(tmp_path / "alone"), rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "cannot be read (JSONDecodeError"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "cannot be read (ValueError"),
        ('{"cluster": {"worker": ["a:1"]}}', "cannot be read (KeyError: 'task')"),
    ],
)
def test_a_cluster_that_cannot_be_read_is_one_line(config, reason, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(InputError) as error:
        place()
    assert reason in str(error.value) and '"task": {"type": "worker"' in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", ["often", "-1", ""])
def test_how_often_to_begin_again_must_be_a_whole_number(given, monkeypatch):
    monkeypatch.setenv("RECIPES_RESTARTS", given)
    with pytest.raises(InputError, match=f"RECIPES_RESTARTS={given}: expected"), joining_again():
        pytest.fail("began all the same")


def test_places(monkeypatch, tmp_path):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert place() == Place(0, 1) and is_chief()
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for number, (kind, index) in enumerate([("chief", 0), ("worker", 0), ("worker", 1)]):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))
        assert place() == Place(number, 3)
        write_text(tmp_path / f"{number}.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["0.txt"]


def rows(stream: tf.data.Dataset) -> list[np.ndarray]:
    return [np.concatenate([np.reshape(each, (len(each), -1)) for each in batch], 1) for batch in stream.take(7)]


@pytest.mark.parametrize("kind", ["in memory", "loaded", "augmented", "side by side", "labelled", "files"])
@pytest.mark.parametrize("parts", [2, 3])
def test_machines_share_every_batch_out_without_overlap(kind, parts, tmp_path):
    numbers = np.arange(41)[:, None].astype(np.int32)

    def noisy(item, seed):
        return (tf.cast(item, tf.float32) + tf.random.stateless_uniform([1], seed),)

    def moved(item, seed):
        return (tf.cast(item, tf.float32) + tf.random.stateless_uniform(tf.shape(item), seed),)

    data = {
        "in memory": lambda: batches(numbers, 6, 1),
        "loaded": lambda: batches(numbers, 6, 1, load=noisy),
        "augmented": lambda: batches(numbers, 6, 1, augment=moved),
        "side by side": lambda: side_by_side(batches(numbers, 6, 1), batches(numbers[:20], 6, 2)),
        "labelled": lambda: image_batches(labelled_images("sample", 8, 1, "digits"), 6, 1, shift=2, mirror=True),
        "files": lambda: labelled_images(str(folder(tmp_path)), 8, 1, "digits", require_classes=False).image_batches(
            6, 1
        ),
    }
    stream = data[kind]()
    shares = [rows(stream.at(2, part, parts)) for part in range(parts)]
    for number, whole in enumerate(rows(stream.at(2))):
        assert all(len(share[number]) == 6 // parts for share in shares)
        np.testing.assert_array_equal(np.concatenate([share[number] for share in shares]), whole)


def folder(path: Path, count: int = 20) -> Path:
    for number in range(count):
        write_image(np.full((8, 8, 3), 200 * number // count, np.uint8), path / "pictures" / f"{number}.png")
    return path / "pictures"


def shell_of(language: str) -> str:
    """The lines of the documentation that put TF_CONFIG together, for one way of starting a training."""
    text = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    (block,) = (part.split("```")[0] for part in text.split(f"```{language}\n")[1:])
    lines = [line.strip() for line in block.splitlines()]
    return "\n".join(line for line in lines if line.startswith(("hosts=", "export TF_CONFIG=")))


@pytest.mark.parametrize(
    ("language", "environment"),
    [
        ("bash", {"SLURM_JOB_NODELIST": "node[1-3]", "SLURM_PROCID": "1"}),
        ("yaml", {"WORKERS": "3", "JOB_COMPLETION_INDEX": "1"}),
    ],
)
def test_the_documented_ways_to_start_on_a_cluster(language, environment, monkeypatch):
    script = 'scontrol() { printf "node1\\nnode2\\nnode3\\n"; }\n' + shell_of(language) + '\necho "$TF_CONFIG"'
    done = subprocess.run(["bash", "-c", script], env=os.environ | environment, capture_output=True, text=True)
    monkeypatch.setenv("TF_CONFIG", done.stdout)
    assert place() == Place(1, 3), done
    addresses = json.loads(done.stdout)["cluster"]["worker"]
    assert len(set(addresses)) == 3 and all(address.endswith(":12345") for address in addresses)
