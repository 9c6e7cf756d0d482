"""The benchmarks of speed: its arithmetic against closed forms, its PyTorch against the recipes, and a short run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.pipeline import growth, memory_table, pairs_of, resident_memory, write_pairs, write_wide
from benchmarks.plain import make_plain_step
from benchmarks.speed import (
    QUICK_SETUPS,
    SETUPS,
    TINY,
    Setup,
    Turns,
    Worker,
    behind,
    chosen,
    flops_of,
    random_pictures,
    ratios,
    speed_table,
    spread,
    summary,
    take_turns,
    torch_array,
    train_in_turns,
)
from common.batches import Batches
from common.errors import InputError
from common.lazy import keras, tf
from common.training import fit
from recipes import cyclegan, dcgan, pix2pix
from tests.forked import forked_python

sys.modules["triton"] = None  # one process cannot hold its LLVM and TensorFlow's; PyTorch does without it
ROOT = Path(__file__).parent.parent
PIX2PIX = pix2pix.Config(size=32, base_filters=4, batch_size=2, dropout=0.0)
DCGAN = dcgan.Config(size=28, channels=1, base_filters=4, batch_size=3, latent_dim=10)
CYCLEGAN = cyclegan.Config(
    size=32, base_filters=4, residual_blocks=1, patch_layers=2, batch_size=2, decay_from=1.0, pool=8
)

# %% Operations


def forward_flops(network: keras.Model, *shapes: tuple[int, ...]) -> float:
    """Those of one pass."""
    batch = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    return flops_of(lambda *images: network(images if len(images) > 1 else images[0]), batch)


def test_flops_of_pix2pix():
    generator, discriminator = pix2pix.build(PIX2PIX)
    image = (2, 32, 32, 3)
    down = [3 * 4 * 16**2, 4 * 8 * 8**2, 8 * 16 * 4**2, 16 * 32 * 2**2, 32 * 32 * 1]  # to 16, 8, 4, 2, 1 px
    up = [32 * 32 * 1, 64 * 16 * 2**2, 32 * 8 * 4**2, 16 * 4 * 8**2, 8 * 3 * 16**2]  # from 1, 2, 4, 8, 16 px
    assert forward_flops(generator, image) == 2 * 4 * 4 * 2 * (sum(down) + sum(up))
    patches = [6 * 4 * 16**2, 4 * 8 * 8**2, 8 * 16 * 4**2, 16 * 32 * 3**2, 32 * 1 * 2**2]
    assert forward_flops(discriminator, image, image) == 2 * 4 * 4 * 2 * sum(patches)


def test_flops_of_dcgan():
    generator, discriminator = dcgan.build(DCGAN)
    dense, kernel = 2 * 3 * 10 * 7 * 7 * 8, 2 * 4 * 4 * 3
    assert forward_flops(generator, (3, 10)) == dense + kernel * (8 * 4 * 7**2 + 4 * 1 * 14**2)
    found = forward_flops(discriminator, (3, 28, 28, 1))
    assert found == kernel * (1 * 4 * 14**2 + 4 * 8 * 7**2) + 2 * 3 * 7 * 7 * 8


def test_flops_of_single_channels():
    layer = keras.layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=2)
    assert flops_of(layer, [tf.TensorSpec((2, 8, 8, 5), tf.float32)]) == 2 * (2 * 4 * 4 * 10) * 9


def test_flops_are_of_what_the_results_depend_on():
    """A product that nobody asks for is none; one in a loop counts every time; nor does a sum count."""
    matrix = tf.TensorSpec((3, 4), tf.float32)

    def step(a: tf.Tensor) -> tf.Tensor:
        tf.matmul(a, a, transpose_b=True)
        total = tf.zeros((4, 4))
        for _ in tf.range(5):
            total += tf.matmul(a, a, transpose_a=True)
        return total + tf.einsum("nc,nd->cd", a, a)

    once = 2 * 4 * 4 * 3
    assert flops_of(step, [matrix], times=5) == (5 * once + once) / 5


# %% PyTorch's side

CALM: dict[str, dict] = {  # where nothing is left to chance, both sides can be compared number by number
    "autoencoder": {"noise": 0.0},
    "conv_autoencoder": {},
    "cyclegan": {"pool": 8, "batch_size": 2},
    "face_swap": {"warp": 0.0, "mirror": False, "learning_rate": 1e-3},
    "fast_style_transfer": {},
    "fgsm": {"random_start": False},
    "lenet": {"modern": False},
    "mlp": {"dropout": 0.0},
    "pix2pix": {"dropout": 0.0},
}
COUNTED_OTHERWISE = {
    "face_swap": "PyTorch warps by another way",
    "fast_style_transfer": "PyTorch takes the root of a matrix by another way",
    "fgsm": "the counter cannot be used with gradients by inputs",
}


def _move_affine(network: keras.Model) -> None:
    """Normalisation begins with 1 and 0, which would hide a mistake in their order."""
    random = np.random.default_rng(0)
    for weight in network.variables:
        if weight.path.split("/")[-1] in ("gamma", "beta", "bias", "moving_mean", "moving_variance"):
            weight.assign(weight.numpy() + np.abs(random.normal(0, 0.3, weight.shape)))
        elif len(weight.shape) > 1 and weight.numpy().std() < 0.03:
            weight.assign(weight.numpy() * 5)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TINY)
def test_networks_are_the_same_in_pytorch(recipe):
    torch = pytest.importorskip("torch")
    from benchmarks.translation import Translated

    for network in Setup(recipe, TINY[recipe]).build():
        _move_affine(network)
        module, random = Translated(network), np.random.default_rng(1)
        shapes = [[side or TINY[recipe].size for side in each.shape[1:]] for each in network.inputs]
        inputs = [random.uniform(-1, 1, (5, *shape)).astype(np.float32) for shape in shapes]
        given = [torch.from_numpy(np.moveaxis(each, -1, 1).copy() if each.ndim == 4 else each) for each in inputs]
        chance = any(type(layer).__name__ in ("Dropout", "GaussianNoise") for layer in network.layers)
        for training in [False] if chance else [False, True]:
            expected = keras.tree.flatten(network(inputs if len(inputs) > 1 else inputs[0], training=training))
            with torch.no_grad():
                found = keras.tree.flatten(module.train(training)(*given))
            for ours, theirs in zip(expected, found, strict=True):
                theirs = np.moveaxis(theirs.numpy(), 1, -1) if ours.ndim == 4 else theirs.numpy()
                assert ours.numpy().std() > 1e-3
                # Where five numbers are normalised, again and again, rounding grows.
                least = 2e-3 if training and recipe == "mobilenet" else 1e-4
                np.testing.assert_allclose(theirs, ours, atol=least * max(1.0, np.abs(ours).max()))
        assert sum(each.numel() for each in module.parameters() if each.requires_grad) == sum(
            np.prod(weight.shape) for weight in network.trainable_variables
        )


def test_what_has_no_translation_is_named():
    pytest.importorskip("torch")
    from benchmarks.translation import Translated

    images = keras.Input((8, 8, 3))
    for layer, message in (
        (keras.layers.SpatialDropout2D(0.5, name="drops"), r"no translation of SpatialDropout2D \(drops\)"),
        (keras.layers.Conv2D(2, 3, dilation_rate=2, name="wide"), r"Conv2D \(wide\) with dilation"),
        (keras.layers.ReLU(max_value=3), "ReLU .* with these settings"),
    ):
        with pytest.raises(NotImplementedError, match=message):
            Translated(keras.Model(images, layer(images)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("recipe", sorted(TINY.keys() - {"mobilenet"}))
def test_pytorch_has_the_same_step(recipe):
    """PyTorch counts as many operations in its own step; three steps on one batch have the same losses.

    Not so for `mobilenet`: the counter takes convolutions of single channels for whole ones, and it normalises batches.
    """
    pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.pytorch import make_torch_step, torch_networks

    config = dataclasses.replace(TINY[recipe], **CALM.get(recipe, {}))
    setup = Setup(recipe, config)
    networks, parts = setup.build(), random_pictures(setup, 1)
    step = make_torch_step(recipe, config, torch_networks(recipe, config, networks))
    batch = [torch_array(part)[: config.batch_size] for part in parts]
    counted = FlopCounterMode(display=False) if recipe not in COUNTED_OTHERWISE else contextlib.nullcontext()
    with counted:
        theirs = [sum(map(float, step(*batch)))]
    theirs += [sum(map(float, step(*batch))) for _ in range(2)]
    caught: dict = {}

    def not_fit(step, data, epochs, state, *_, **__):
        caught.update(step=step, state=state)

    data = Batches(3, lambda _: tf.data.Dataset.from_tensors(parts).repeat(), tuple(part[:1] for part in parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup.module, "fit", not_fit)
        setup.module.train(networks, data, config)
    if recipe not in COUNTED_OTHERWISE:
        flops = flops_of(caught["step"], [tf.TensorSpec(part.shape, part.dtype) for part in parts])
        assert flops == counted.get_total_flops() > 0
    if recipe in CALM:
        (row,) = fit(caught["step"], data, epochs=1, state=caught["state"])
        weights = {"cycle": 10, "identity": 5} if recipe == "cyclegan" else {}
        if recipe == "pix2pix":
            weights = {"l1": config.l1_weight}
        elif recipe == "fast_style_transfer":
            weights = {"style": config.style_weight, "variation": config.variation}
        elif recipe == "fgsm":
            weights = {"hardened": 1 - config.adversarial, "hardened_attacked": config.adversarial}
        told = {key: value for key, value in row.items() if key not in ("epoch", "seconds", "steps_per_second")}
        ours = sum(value * weights.get(key, 1) for key, value in told.items() if key != "accuracy")
        assert np.mean(theirs) == pytest.approx(ours, rel=1e-3)
        assert theirs[2] != pytest.approx(theirs[0], rel=1e-3)
    assert np.isfinite(theirs).all()


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [0, 3])
def test_pool_of_pytorch(capacity):
    """Images are numbers here: each goes in once and comes out once, by itself or later, in place of another."""
    torch = pytest.importorskip("torch")
    from benchmarks.pytorch import TorchPool

    torch.manual_seed(0)
    pool, out = TorchPool(capacity, 1), []
    numbers = torch.arange(1.0, 401.0)
    for pair in numbers.reshape(200, 2, 1, 1, 1).expand(-1, -1, 3, -1, -1):
        out += pool.exchange(pair)[:, 0, 0, 0].tolist()
    if not capacity:
        assert out == numbers.tolist()
        return
    assert out[:3] == [1, 2, 3]  # and kept as well
    kept = pool.images[:, 0, 0, 0].tolist()
    assert sorted(out[3:] + kept) == numbers.tolist()
    earlier = np.mean([found != number for found, number in zip(out, numbers.tolist(), strict=True)])
    assert 0.4 < earlier < 0.6


# %% The plain way


@pytest.mark.slow
def test_the_plain_way_of_cyclegan_learns_the_same():
    """Without a pool, two steps lead where the recipe's lead."""
    config = dataclasses.replace(CYCLEGAN, pool=0)
    images = random_pictures(Setup("cyclegan", config), 1)
    both = [cyclegan.build(config) for _ in range(2)]
    before = [weight.numpy() for network in both[0] for weight in network.trainable_variables]
    step = make_plain_step("cyclegan", config, both[0], images)
    for number in range(2):
        step(number)
    data = Batches(2, lambda _: tf.data.Dataset.from_tensors(images).repeat())
    cyclegan.train(both[1], data, dataclasses.replace(config, epochs=1))
    plain, ours = ([w.numpy() for network in each for w in network.trainable_variables] for each in both)
    for old, one, other in zip(before, plain, ours, strict=True):
        moved = np.abs(other - old).mean()
        # Adam divides by the size of a gradient, so the rounding of small ones shows: 2.2 % on a machine with AVX2.
        assert moved > 1e-4 and np.abs(one - other).mean() < 0.05 * moved


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["adversarial_autoencoder", "face_swap", "fgsm", "ssgan", "vae"])
def test_the_plain_way_learns(recipe):
    """After three steps every kernel of every network has moved."""
    setup = Setup(recipe, TINY[recipe])
    networks = setup.build()
    kernels = [weight for network in networks for weight in network.trainable_variables if len(weight.shape) > 1]
    before = [weight.numpy() for weight in kernels]
    step = make_plain_step(recipe, setup.config, networks, random_pictures(setup))
    for number in range(3):
        step(number)
    for weight, old in zip(kernels, before, strict=True):
        assert 1e-6 < np.abs(weight.numpy() - old).mean() < 1


# %% Set-ups


def test_every_recipe_that_trains_is_timed():
    without = {"dog_svm", "style_transfer", "deepdream", "targeted_attack"}  # said at the top of the benchmark
    names = {path.stem for path in (ROOT / "recipes").glob("[a-z]*.py")} - without
    assert names == {setup.recipe for setup in SETUPS.values()} == {setup.recipe for setup in QUICK_SETUPS.values()}
    assert all(f"{name}-demo" in SETUPS and SETUPS[f"{name}-demo"].config == SETUPS[f"{name}-demo"].module.DEMO
               for name in names)  # fmt: skip


def test_set_ups_are_chosen_by_their_names_or_their_recipes():
    assert chosen([], SETUPS) == list(SETUPS)
    assert chosen(["mlp", "dcgan-demo"], SETUPS) == ["mlp-demo", "mlp-wide", "dcgan-demo"]
    with pytest.raises(InputError, match="--only nonsense: no set-up or recipe of that name; choose from mlp-demo, "):
        chosen(["mlp", "nonsense"], SETUPS)


def test_pictures_are_what_a_step_takes():
    for name, setup in QUICK_SETUPS.items():
        parts = random_pictures(setup, 2)
        assert {len(part) for part in parts} == {2 * setup.config.batch_size}, name
        for part in parts:
            assert part.dtype == (np.uint8 if part.ndim == 4 else np.int32) and part.max() > part.min()


# %% Turns


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_training_waits_between_the_turns(steps):
    """After the first step, after those that say how long a step is where none were asked for, after each round."""
    setup, rounds, drawn = Setup("dcgan", DCGAN, steps), 2, []
    networks, optimizers, original = setup.build(), [], setup.module.adam

    class Counted(Turns):
        def next(self) -> None:
            drawn.append(int(optimizers[0].iterations.numpy()))

    def picture(number):
        return (tf.zeros((3, 28, 28, 1), tf.uint8) + tf.cast(number % 2, tf.uint8),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup.module, "adam", lambda *a: optimizers.append(original(*a)) or optimizers[-1])
        here, _ = multiprocessing.Pipe()
        data = Batches(99, lambda step: tf.data.Dataset.counter(step).map(picture))
        found, step = train_in_turns(Counted(here), setup, rounds, networks, data)
    assert found == steps and drawn == [1, 1 + steps, 1 + 2 * steps, 1 + 3 * steps]
    assert set(step(picture(1)[0])) == {"generator", "discriminator"}


def test_a_round_lasts_about_two_seconds(monkeypatch):
    """Of steps that take 10 ms each by a clock of their own."""
    clock, numbers, ends = [0.0], [], []
    monkeypatch.setattr("benchmarks.speed.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def step(number: int) -> None:
        clock[0] += 0.01
        numbers.append(number)

    turns = SimpleNamespace(next=lambda: ends.append(len(numbers)))
    assert take_turns(turns, Setup("dcgan", DCGAN), 2, step) == 200
    assert numbers == list(range(ends[-1])) and np.diff(ends)[1:].tolist() == [200, 200] and ends[0] == 1


def test_turns_report_what_a_stretch_took():
    here, there = multiprocessing.Pipe()
    turns = Turns(there)
    for _ in range(3):
        here.send(None)
    turns.next()
    assert not here.poll()
    threading.Event().wait(0.05)
    turns.next()
    turns.next()
    (first, first_cpu), (second, _) = here.recv(), here.recv()
    assert first >= 0.05 and second >= 0
    assert 0 <= first_cpu < 0.05  # it slept
    assert turns.peak_memory > 10 and not here.poll()


def _fails(turns: Turns) -> dict[str, float]:
    raise SystemExit(3)


def test_a_worker_that_ends_is_named():
    worker = Worker(1, _fails)
    with pytest.raises(RuntimeError, match="_fails: ended with exit status 3"):
        worker.turn()


# %% Numbers and tables


def test_numbers():
    assert summary([3.0, 1.0, 8.0, 2.0]) == {"median": 2.5, "least": 1.0, "most": 8.0}
    assert ratios([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]
    assert spread({"median": 2.46, "least": 1.0, "most": 8.04}, 1) == "2.5 (1.0-8.0)"


def _cannot(turns: Turns) -> dict[str, float]:
    raise NotImplementedError("no such thing here")


def test_a_worker_says_what_it_cannot_do():
    with pytest.raises(NotImplementedError, match="no such thing here"):
        Worker(1, _cannot).turn()


def test_speed_table_says_what_is_not_installed():
    times = {"median": 50.0, "least": 40.0, "most": 60.0}
    row = {"setup": "tiny", "variant": "recipe", "batch_size": 4, "step_ms": times, "cpu_ms": times}
    row |= {"times_the_recipe": times, "gflop_per_step": 2.0, "gflop_per_second": 40.0, "peak_memory_mb": 900.4}
    row["first_step_seconds"] = 7.0
    plain = row | {"variant": "plain", "times_the_recipe": {"median": 1.5, "least": 1.25, "most": 2.0}}
    pytorch = plain | {"setup": "other", "variant": "pytorch", "peak_memory_mb": 800.0, "first_step_seconds": 1.25}
    rows = [row, plain, row | {"setup": "other"}, pytorch]
    lines = speed_table(rows, {"tiny": {"pytorch": "not installed"}}, 160.0).splitlines()
    assert lines[2].startswith(
        "| tiny | 50 (40-60) | 50 | 80.0 | 2 | 40 | 25% | - | 1.50 (1.25-2.00) | not installed |"
    )
    assert lines[2].endswith("| 900 | 7.0 |")
    assert lines[3].endswith("| - | - | 1.50 (1.25-2.00) | 900 / 800 | 7.0 / 1.2 |") and len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


def test_peers_that_are_ahead_are_named():
    def row(variant: str, share: float) -> dict:
        return {"setup": "tiny", "variant": variant, "times_the_recipe": {"median": share}}

    rows = [row("recipe", 1.0), row("bfloat16", 0.5), row("plain", 0.96), row("pytorch", 0.98)]
    assert behind(rows) == ["tiny: plain takes 0.96 of the recipe's time"]
    assert behind(rows[:2]) == ["No peer takes less than 0.97 of a recipe's time."]


def test_growth():
    held = {"start": 50.0, "pass 1": 100.0, "pass 2": 130.0, "pass 3": 106.0, "epoch 1": 7.0, "epoch 2": 8.0}
    assert growth(held, "pass", 2_000) == {"mb": 6.0, "mb_per_1000_pairs": 1.5}
    lines = memory_table([{"held_mb": held, "pairs": 2_000}]).splitlines()
    assert lines[0] == "| MB held after | 2,000 pairs |"
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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), [("speed", ["--only", "mlp-quick"]), ("pipeline", [])])
def test_a_short_run(name, flags, tmp_path):
    flags = [*flags, "--quick", "--rounds", "2", "--output-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *flags], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / f"{name}.json").read_text())
    assert results["machine"]["cores"] >= 1
    assert done.stdout.rstrip().endswith(str(tmp_path / f"{name}.json"))
    if name == "pipeline":
        assert [row["source"] for row in results["speed"]] == ["memory, not jittered", "JPEG files", "PNG files"]
        assert all(row["alone"] > 0 and len(row["rounds_ms"]) == 2 for row in results["speed"])
        assert [run["pairs"] for run in results["memory"]] == [100]
    else:
        rows = {row["variant"]: row for row in results["rows"]}
        assert {"recipe", "plain"} <= rows.keys()
        for row in rows.values():
            assert row["parameters"] == rows["recipe"]["parameters"]
            assert row["gflop_per_step"] == rows["recipe"]["gflop_per_step"] > 0 and row["steps"] == 2
            assert min(row["moved"]) > 1e-4  # Adam's step is about the learning rate, 1e-3
            assert len(row["rounds_ms"]) == 2 and row["peak_memory_mb"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--only", "nonsense"], ["--rounds", "0"]])
def test_wrong_flags_are_a_line(flags):
    command = [*forked_python(), "-m", "benchmarks.speed", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --") and done.stderr.count("\n") == 1
