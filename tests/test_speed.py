"""The benchmarks of speed: networks and steps of the peers, turns, tables, and a short run of each."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import pipeline, run_benchmark, speed
from benchmarks.pipeline import growth, memory_table, pairs_of, resident_memory, write_pairs, write_wide
from benchmarks.plain import STEPS, make_plain_step
from benchmarks.speed import (
    PLAIN,
    PYTORCH,
    QUICK_SETUPS,
    SETUPS,
    chosen,
    compare_checkouts,
    ratios,
    speed_table,
    spread,
    summary,
    take_turns,
    time_setup,
)
from benchmarks.turns import Setup, Turns, Work, Worker, random_images, sampled, train_in_turns
from common.data.batches import Batches
from common.system.files import InputError
from common.system.lazy import keras, tf

sys.modules["triton"] = None  # one process cannot hold its LLVM and TensorFlow's; PyTorch does without it
ROOT = Path(__file__).parent.parent
IN_PYTORCH = (*STEPS, "diffusion")
DCGAN = {"size": 28, "channels": 1, "base_filters": 4, "batch_size": 3, "latent_dim": 10}

# %% PyTorch


def _move_affine(network: keras.Model) -> None:
    """Normalisation begins with 1 and 0, which would hide a mistake in their order."""
    random = np.random.default_rng(0)
    for weight in network.variables:
        if weight.path.split("/")[-1] in ("gamma", "beta", "bias", "moving_mean", "moving_variance"):
            weight.assign(weight.numpy() + np.abs(random.normal(0, 0.3, weight.shape)))
        elif len(weight.shape) > 1 and weight.numpy().std() < 0.03:
            weight.assign(weight.numpy() * 5)


def _channels_first(weight: np.ndarray, shape: tuple[int, ...], smallest: int) -> np.ndarray:
    """Return a weight of Keras as PyTorch has it; dense layers beside a map of `smallest` pixels change their order."""
    if weight.ndim == 4:
        return weight.transpose(3, 2, 0, 1)
    if weight.ndim == 1 or not smallest:
        return weight.T
    pixels = smallest, smallest, -1
    if shape[0] == 1:  # after a map
        return weight.reshape(*pixels).transpose(2, 0, 1).reshape(shape)
    return weight.reshape(len(weight), *pixels).transpose(3, 1, 2, 0).reshape(shape)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", IN_PYTORCH)
def test_networks_are_the_same_in_pytorch(recipe):
    """The strided convolutions of diffusion are padded on the other side in PyTorch, so there everything is flipped."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks.pytorch import make_torch_step

    changes = {"pix2pix": {"size": 32, "base_filters": 4, "dropout": 0.0}, "dcgan": DCGAN, "vae": {"units": 8}}
    changes["diffusion"] = {"size": 16, "base_filters": 8, "levels": 2, "blocks": 2, "patch": 2}
    flipped = slice(None, None, -1 if recipe == "diffusion" else 1)
    setup = Setup(recipe, changes=changes[recipe])
    ours = [network for network in setup.build() if network.trainable_variables]
    theirs, _ = make_torch_step(recipe, setup.config)
    random, smallest = np.random.default_rng(1), 7 if recipe == "dcgan" else 0
    for network, module in zip(ours, theirs, strict=True):
        _move_affine(network)
        parameters = list(module.parameters())
        for weight, parameter in zip(network.trainable_variables, parameters, strict=True):
            value = _channels_first(weight.numpy(), tuple(parameter.shape), smallest)
            value = value[:, :, flipped, flipped] if value.ndim == 4 else value
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(value.copy()))
        inputs = [
            random.uniform(-1, 1, (5, *(side or 32 for side in each.shape[1:]))).astype(np.float32)
            for each in network.inputs
        ]
        expected = keras.tree.flatten(network(inputs if len(inputs) > 1 else inputs[0], training=True))
        inputs = inputs if recipe == "diffusion" else [np.concatenate(inputs, -1)]
        maps = [each[:, flipped, flipped].transpose(0, 3, 1, 2) if each.ndim == 4 else each for each in inputs]
        with torch.no_grad():
            found = keras.tree.flatten(module(*(torch.from_numpy(each.copy()) for each in maps)))
        for mine, other in zip(expected, found, strict=True):
            other = (
                np.moveaxis(other.numpy(), 1, -1)[:, flipped, flipped]
                if other.ndim == 4
                else other.numpy().reshape(mine.shape)
            )
            assert mine.numpy().std() > 1e-3
            np.testing.assert_allclose(other, mine, atol=1e-4 * max(1.0, np.abs(mine).max()))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", IN_PYTORCH)
def test_steps_in_pytorch_learn(recipe):
    """On one batch, 40 steps reduce the last loss (not the generator's), and move every kernel."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks.pytorch import make_torch_step

    config = QUICK_SETUPS[f"{recipe}-quick"].config
    torch.manual_seed(0)
    networks, step = make_torch_step(recipe, config)
    before = sampled([[weight.detach() for weight in network.parameters()] for network in networks])
    batch = [torch.from_numpy(part) for part in random_images(recipe, config, 1)]
    batch = [part.permute(0, 3, 1, 2).contiguous() if part.ndim == 4 else part for part in batch]
    losses = np.array([[float(loss) for loss in step(*batch)] for _ in range(40)])
    after = sampled([[weight.detach() for weight in network.parameters()] for network in networks])
    assert np.isfinite(losses).all() and all((old != new).any() for old, new in zip(before, after, strict=True))
    assert losses[-10:, -1].mean() < losses[:10, -1].mean()


# %% The tutorial-style baseline


@pytest.mark.slow
@pytest.mark.parametrize("recipe", STEPS)
def test_the_baseline_learns(recipe):
    """After three steps every kernel of every network has moved."""
    setup = QUICK_SETUPS[f"{recipe}-quick"]
    networks = setup.build()
    kernels = [weight for network in networks for weight in network.trainable_variables if len(weight.shape) > 1]
    before = [weight.numpy() for weight in kernels]
    step = make_plain_step(recipe, setup.config, networks, random_images(recipe, setup.config))
    for number in range(3):
        step(number)
    for weight, old in zip(kernels, before, strict=True):
        assert 1e-6 < np.abs(weight.numpy() - old).mean() < 1


# %% Set-ups


def test_every_recipe_that_trains_is_timed():
    without = {"dog_svm", "style_transfer", "deepdream", "targeted_attack"}  # said at the top of the benchmark
    names = {path.stem for path in (ROOT / "recipes").glob("[a-z]*.py")} - without
    assert names == {setup.recipe for setup in SETUPS.values()} == {setup.recipe for setup in QUICK_SETUPS.values()}
    assert SETUPS.keys() | QUICK_SETUPS.keys() >= PYTORCH >= PLAIN
    assert {name.split("-")[0] for name in PLAIN} == STEPS.keys()
    assert {name.split("-")[0] for name in PYTORCH} == {*IN_PYTORCH}
    assert all(f"{name}-demo" in SETUPS and SETUPS[f"{name}-demo"].config == SETUPS[f"{name}-demo"].module.DEMO
               for name in names)  # fmt: skip


def test_set_ups_are_chosen_by_their_names_or_their_recipes():
    assert chosen([], SETUPS) == list(SETUPS)
    assert chosen(["mlp", "dcgan-demo"], SETUPS) == ["dcgan-demo", "mlp-demo", "mlp-wide"]
    with pytest.raises(InputError, match="--only nonsense: unknown set-up or recipe; choose from adversarial_autoenc"):
        chosen(["mlp", "nonsense"], SETUPS)


def test_a_preset_can_be_changed():
    wide = Setup("mlp", "WIDE", {"batch_size": 5}).config
    assert wide == Setup("mlp", "WIDE").config.__class__(units=wide.units, dropout=wide.dropout, batch_size=5)
    assert Setup("mlp", changes={"units": 7}).config.units == 7 != Setup("mlp").config.units


def test_random_images_are_what_a_step_takes():
    for name, setup in QUICK_SETUPS.items():
        parts = random_images(setup.recipe, setup.config, 2)
        assert {len(part) for part in parts} == {2 * setup.config.batch_size}, name
        for part in parts:
            assert part.dtype == (np.uint8 if part.ndim == 4 else np.int32) and part.max() > part.min()


# %% Turns


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_training_waits_between_the_turns(steps):
    """After the first step, after those that say how long a step is where none were asked for, after each round."""
    setup, rounds, drawn = Setup("dcgan", "Config", DCGAN, steps), 2, []
    networks, optimizers, original = setup.build(), [], setup.module.adam

    class Counted(Turns):
        def next(self) -> None:
            drawn.append(int(optimizers[0].iterations.numpy()))

    def image(number):
        return (tf.zeros((3, 28, 28, 1), tf.uint8) + tf.cast(number % 2, tf.uint8),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup.module, "adam", lambda *a: optimizers.append(original(*a)) or optimizers[-1])
        here, _ = multiprocessing.Pipe()
        data = Batches(99, lambda step: tf.data.Dataset.counter(step).map(image))
        assert train_in_turns(Counted(here), setup, rounds, networks, data) == steps
    assert drawn == [1, 1 + steps, 1 + 2 * steps, 1 + 3 * steps]


def test_a_round_lasts_about_two_seconds(monkeypatch):
    """Of steps that take 10 ms each by a clock of their own."""
    clock, numbers, ends = [0.0], [], []
    monkeypatch.setattr("benchmarks.speed.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def step(number: int) -> None:
        clock[0] += 0.01
        numbers.append(number)

    turns = SimpleNamespace(next=lambda: ends.append(len(numbers)))
    assert take_turns(turns, 0, 2, step) == 200
    assert numbers == list(range(ends[-1])) and np.diff(ends)[1:].tolist() == [200, 200] and ends[0] == 1


def test_turns_report_what_a_stretch_took(monkeypatch):
    clocks = {"monotonic": iter([10.0, 12.5, 20.0, 21.0, 30.0]), "process_time": iter([1.0, 1.25, 2.0, 2.5, 3.0])}
    monkeypatch.setattr("benchmarks.turns.time", SimpleNamespace(**{k: each.__next__ for k, each in clocks.items()}))
    here, there = multiprocessing.Pipe()
    turns = Turns(there)
    for _ in range(3):
        here.send(None)
    turns.next()
    assert not here.poll()
    turns.next()
    turns.next()
    assert [here.recv(), here.recv()] == [(2.5, 0.25), (1.0, 0.5)]  # of what lies between, not of the waiting
    assert turns.peak_memory > 10 and not here.poll()


def _fails(turns: Turns, status: int) -> dict[str, float]:
    turns.next()
    raise SystemExit(status)


def test_a_worker_that_ends_is_named():
    worker = Worker(1, _fails, 3)
    wall, cpu = worker.turn()
    assert wall >= 0 and cpu >= 0
    with pytest.raises(RuntimeError, match="_fails: the process ended with exit status 3"):
        worker.turn()


# %% Numbers and tables


def test_numbers():
    assert summary([3.0, 1.0, 8.0, 2.0]) == {"median": 2.5, "least": 1.0, "most": 8.0}
    assert ratios([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]
    assert spread({"median": 2.46, "least": 1.0, "most": 8.04}, 1) == "2.5 (1.0-8.0)"


def test_speed_table():
    times = {"median": 50.0, "least": 40.0, "most": 60.0}
    row = {"setup": "tiny", "variant": "recipe", "batch_size": 4, "step_ms": times, "cpu_ms": times}
    row |= {"times_the_recipe": times, "peak_memory_mb": 900.4, "first_step_seconds": 7.0}
    plain = row | {"variant": "plain", "times_the_recipe": {"median": 1.5, "least": 1.25, "most": 2.0}}
    pytorch = plain | {"setup": "other", "variant": "pytorch", "peak_memory_mb": 800.0, "first_step_seconds": 1.25}
    lines = speed_table([row, plain, row | {"setup": "other"}, pytorch]).splitlines()
    assert lines[2] == "| tiny | 50 (40-60) | 50 | 80.0 | - | 1.50 (1.25-2.00) | - | 900 | 7.0 |"
    assert lines[3].endswith("| - | - | 1.50 (1.25-2.00) | 900 / 800 | 7.0 / 1.2 |") and len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


class Instant:
    """A worker that takes a second for each turn, and has networks with so many weights."""

    weights: dict[str, int] = {}

    def __init__(self, variant: str):
        self.variant, self.started = variant, 0.0

    def turn(self) -> tuple[float, float]:
        return 1.0, 2.0

    def finish(self) -> dict:
        weights = Instant.weights.get(self.variant, 5)
        return {"steps": 2, "parameters": [weights], "smallest_change": 0.1, "peak_memory_mb": 1.0}


def test_peers_must_have_the_same_number_of_weights(monkeypatch):
    monkeypatch.setattr("benchmarks.speed.start_worker", lambda variant, *_: Instant(variant))
    rows = time_setup("vae-quick", QUICK_SETUPS["vae-quick"], 3, 1)
    assert [row["variant"] for row in rows][:3] == ["recipe", "bfloat16", "plain"]
    assert rows[0]["step_ms"] == {"median": 500.0, "least": 500.0, "most": 500.0} and rows[0]["cpu_ms"]["most"] == 1000
    monkeypatch.setattr(Instant, "weights", {"plain": 6})
    with pytest.raises(RuntimeError, match="vae-quick, plain: not the recipe's networks"):
        time_setup("vae-quick", QUICK_SETUPS["vae-quick"], 3, 1)


def test_checkouts_are_compared_by_the_rounds_of_both(monkeypatch):
    monkeypatch.setattr(Worker, "in_checkout", lambda folder, *_: Instant("this" if folder == ROOT else "other"))
    table = compare_checkouts(["mlp-quick"], QUICK_SETUPS, 3, 1, Path("elsewhere")).splitlines()
    assert table[0] == "|  | this checkout, ms per step | elsewhere, ms per step | this / other |"
    assert table[2] == "| mlp-quick | 500 (500-500) | 500 (500-500) | 1.00 (1.00-1.00) |"
    monkeypatch.setattr(Instant, "weights", {"other": 6})
    with pytest.raises(RuntimeError, match="mlp-quick: the two checkouts have different parameter counts"):
        compare_checkouts(["mlp-quick"], QUICK_SETUPS, 3, 1, Path("elsewhere"))


@pytest.mark.slow
def test_a_recipe_is_timed_with_the_code_of_another_checkout(tmp_path):
    """There, `common` has old names, and `fit` passes `execution` on."""
    for package in ("recipes", "common"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "common" / "batches.py").write_text(OLD_BATCHES)
    (tmp_path / "recipes" / "mlp.py").write_text(OLD_RECIPE)
    worker = Worker.in_checkout(tmp_path, 1, Setup("mlp", "DEMO", {"size": 4}, 3), 2)
    times = [worker.turn() for _ in range(4)]
    found = worker.finish()
    assert found["steps"] == 3 and found["parameters"] == [6] and found["smallest_change"] == pytest.approx(10)
    assert all(wall >= 0 for wall, _ in times)  # 10 steps: one, three to warm up, two rounds of three


OLD_BATCHES = """
from typing import NamedTuple

class Batches(NamedTuple):
    steps_per_epoch: int
    at: object
    held_out: tuple = ()

def batches(parts, batch_size, seed):
    return Batches(len(parts[0]) // batch_size, lambda step: parts[0])
"""
OLD_RECIPE = """
from dataclasses import dataclass
from types import SimpleNamespace
import numpy as np

@dataclass
class Config:
    size: int = 8
    channels: int = 1
    batch_size: int = 2
    outputs: int = 3
    seed: int = 0

DEMO = Config()

class Weight(np.ndarray):
    def numpy(self):
        return np.array(self)

def build(config):
    return [SimpleNamespace(trainable_variables=[np.zeros((2, 3)).view(Weight)])]

def fit(step, data, epochs, state, output_dir=None, *, on_epoch=None, execution):
    assert execution == "plain" and data.at(0).shape == (8, 4, 4, 1)
    for epoch in range(epochs):
        for _ in range(data.steps_per_epoch):
            step()
        on_epoch(epoch + 1)

def train(networks, data, config, output_dir=None):
    def step():
        networks[0].trainable_variables[0] += 1
    return fit(step, data, 9, {}, output_dir, on_epoch=None, execution="plain")
"""


def test_growth():
    held = {"start": 50.0, "pass 1": 100.0, "pass 2": 130.0, "pass 3": 106.0, "epoch 1": 7.0, "epoch 2": 8.0}
    assert growth(held, "pass", 2_000) == {"mb": 6.0, "mb_per_1000_pairs": 1.5}
    lines = memory_table([{"held_mb": held, "pairs": 2_000}]).splitlines()
    assert lines[0] == "| resident MB after | 2,000 pairs |"
    assert "| growth after the first epoch | +1.0 |" in lines


# %% Files


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")
def test_resident_memory():
    before = resident_memory()
    held = np.ones(25_000_000)
    assert resident_memory() - before == pytest.approx(held.nbytes / 1e6, abs=5)


def test_written_pairs_are_read_as_pairs(tmp_path):
    write_pairs(tmp_path / "png", ".png", 10, 64)
    write_wide(tmp_path / "wide", 10, 64)
    pairs, wide = pairs_of(tmp_path / "png", 64), pairs_of(tmp_path / "wide", 64)
    assert [len(each.train) for each in (pairs, wide)] == [9, 10]  # a tenth held out; or train/ and test/
    first = [np.asarray(Image.open(tmp_path / "png" / side / "000001.png")) for side in "AB"]
    for examples in (pairs, wide):
        for found, expected in zip(examples.decode(tf.constant(examples.train[1])), first, strict=True):
            np.testing.assert_array_equal(found, expected)


# %% Whole


class AtOnce:
    """A worker that has done its work when it is made, in this process, without waiting for its turns."""

    def __init__(self, threads: int, work: Work, *arguments: Any):
        self.started, spent = time.monotonic(), []
        turns = Turns(SimpleNamespace(recv=lambda: None, send=spent.append))
        turns.next()
        self.facts = {**work(turns, *arguments), "peak_memory_mb": turns.peak_memory}
        self.spent = iter(spent)

    def turn(self) -> tuple[float, float]:
        return next(self.spent)

    def finish(self) -> dict[str, Any]:
        assert not list(self.spent)
        return self.facts


def called(module: ModuleType, flags: Sequence[str], monkeypatch, capsys) -> tuple[str, str]:
    """Run a benchmark with flags as from the command line; return what it says on both streams."""
    monkeypatch.setattr(module, "Worker", AtOnce)
    monkeypatch.setattr(sys, "argv", [module.__name__, *flags])
    run_benchmark(module.measure)
    return capsys.readouterr()


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(("module", "flags"), [(speed, ["--only", "vae-quick"]), (pipeline, [])])
def test_a_short_run(module, flags, tmp_path, monkeypatch, capsys):
    flags = [*flags, "--quick", "--rounds", "2", "--output-dir", str(tmp_path)]
    said, _ = called(module, flags, monkeypatch, capsys)
    name = module.__name__.partition(".")[2]
    results = json.loads((tmp_path / f"{name}.json").read_text())
    assert results["machine"]["cores"] >= 1
    assert said.rstrip().endswith(str(tmp_path / f"{name}.json"))
    if name == "pipeline":
        assert [row["source"] for row in results["speed"]] == ["memory, without jitter", "JPEG files", "PNG files"]
        assert all(row["alone"] > 0 and len(row["rounds_ms"]) == 2 for row in results["speed"])
        assert [run["pairs"] for run in results["memory"]] == [100]
    else:
        rows = {row["variant"]: row for row in results["rows"]}
        assert {"recipe", "plain"} <= rows.keys()
        for row in rows.values():
            assert row["parameters"] == rows["recipe"]["parameters"]
            assert row["steps"] == 2
            assert row["smallest_change"] > 1e-4  # Adam's step is about the learning rate, 1e-3
            assert len(row["rounds_ms"]) == 2 and row["peak_memory_mb"] > 100


@pytest.mark.parametrize("flags", [["--only", "nonsense"], ["--rounds", "0"], ["--against", "nowhere"]])
def test_wrong_flags_are_a_line(flags, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        called(speed, flags, monkeypatch, capsys)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("error: --") and said.count("\n") == 1
