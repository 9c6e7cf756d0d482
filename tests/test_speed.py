"""The benchmarks of speed: its arithmetic against closed forms, its PyTorch against the recipes, and a short run."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.pipeline import growth, memory_table, pairs_of, resident_memory, write_pairs, write_wide
from benchmarks.plain import make_plain_step
from benchmarks.pytorch import TorchPool, make_torch_step, torch_networks
from benchmarks.speed import (
    Setup,
    Turns,
    Worker,
    forward_flops,
    random_pictures,
    ratios,
    speed_table,
    spread,
    step_flops,
    stretches,
    summary,
    train_in_turns,
)
from common.batches import Batches
from common.lazy import keras, tf
from recipes import cyclegan, dcgan, pix2pix

ROOT = Path(__file__).parent.parent
PIX2PIX = pix2pix.Config(size=32, base_filters=4, batch_size=2, dropout=0.0)
DCGAN = dcgan.Config(size=28, channels=1, base_filters=4, batch_size=3, latent_dim=10)
CYCLEGAN = cyclegan.Config(
    size=32, base_filters=4, residual_blocks=1, patch_layers=2, batch_size=2, decay_from=1.0, pool=8
)
CYCLEGAN_UNET = dataclasses.replace(CYCLEGAN, generator="unet", loss="cross_entropy", learning_rate=2e-3)
RECIPES = [(pix2pix, PIX2PIX), (dcgan, DCGAN), (cyclegan, CYCLEGAN), (cyclegan, CYCLEGAN_UNET)]

# %% Operations


def test_flops_of_pix2pix():
    generator, discriminator = (forward_flops(network, PIX2PIX) for network in pix2pix.build(PIX2PIX))
    kernel, batch = 2 * 4 * 4, 2
    down = [3 * 4 * 16**2, 4 * 8 * 8**2, 8 * 16 * 4**2, 16 * 32 * 2**2, 32 * 32 * 1]  # to 16, 8, 4, 2, 1 px
    up = [32 * 32 * 1, 64 * 16 * 2**2, 32 * 8 * 4**2, 16 * 4 * 8**2, 8 * 3 * 16**2]  # from 1, 2, 4, 8, 16 px
    assert generator == (kernel * batch * (sum(down) + sum(up)), kernel * batch * down[0])
    patches = [6 * 4 * 16**2, 4 * 8 * 8**2, 8 * 16 * 4**2, 16 * 32 * 3**2, 32 * 1 * 2**2]
    assert discriminator == (kernel * batch * sum(patches), kernel * batch * patches[0])


def test_flops_of_dcgan():
    generator, discriminator = (forward_flops(network, DCGAN) for network in dcgan.build(DCGAN))
    kernel, batch = 2 * 4 * 4, 3
    dense = 2 * batch * 10 * 7 * 7 * 8
    assert generator == (dense + kernel * batch * (8 * 4 * 7**2 + 4 * 1 * 14**2), dense)
    first = kernel * batch * 1 * 4 * 14**2
    assert discriminator == (first + kernel * batch * 4 * 8 * 7**2 + 2 * batch * 7 * 7 * 8, first)


def test_flops_of_cyclegan():
    a2b, _, _, judge = (forward_flops(network, CYCLEGAN) for network in cyclegan.build(CYCLEGAN))
    batch = 2
    first = 2 * batch * 7 * 7 * 3 * 4 * 32**2
    halved = 2 * batch * 9 * (4 * 8 * 16**2 + 8 * 16 * 8**2)  # and doubled again, each from as many pixels
    block = 2 * (2 * batch * 9 * 16 * 16 * 8**2)
    assert a2b == (first + halved + block + halved + first, first)
    patches = [3 * 4 * 16**2, 4 * 8 * 8**2, 8 * 16 * 7**2, 16 * 1 * 6**2]
    assert judge == (2 * 16 * batch * sum(patches), 2 * 16 * batch * patches[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("recipe", "config"), RECIPES)
def test_flops_of_a_step(recipe, config):
    """PyTorch counts what its own step does, backwards too."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    step = make_torch_step(config, torch_networks(config))
    images = [torch.from_numpy(each).permute(0, 3, 1, 2) for each in _pictures(config, 1)]
    with FlopCounterMode(display=False) as counter:
        step(*images)
    forward = [forward_flops(network, config) for network in recipe.build(config)]
    assert step_flops(forward, "recipe") == step_flops(forward, "pytorch") == counter.get_total_flops()


def test_flops_of_the_plain_way():
    """Of a generator of 10 and a discriminator of 7, whose first layers are 2 and 3."""
    predicts, real, fake = 10, 7 + 7 + 4, 7 + 7 + 4
    combined = 10 + 10 + 8 + 7 + 7
    assert step_flops([(10, 2), (7, 3)], "plain") == predicts + real + fake + combined


@pytest.mark.parametrize("variant", ["recipe", "plain", "pytorch"])
def test_flops_of_cyclegan_steps(variant):
    """The same; both generators, then both discriminators."""
    translation, same, round_trip = 10 + 10 + 8, 10 + 10 + 8, 10 + 10 + 10
    on_fake, judged = 7 + 7, 2 * (7 + 7 + 4)
    whole = 2 * (translation + same + round_trip + on_fake + judged)
    assert step_flops([(10, 2), (10, 2), (7, 3), (7, 3)], variant) == whole


# %% PyTorch's side


def _pictures(config, batch_count: int) -> tuple[np.ndarray, ...]:
    return random_pictures(Setup(type(config).__module__.split(".")[1], config, 1), batch_count)


def _copy(network: keras.Model, module, spatial: int) -> None:
    """Give a PyTorch module the weights of a Keras network; `spatial` is the side where dense layers meet images."""
    import torch

    values = []
    for layer in network.layers:
        for weight in layer.trainable_weights:
            value = weight.numpy()
            if value.ndim == 4:
                value = value.transpose(3, 2, 0, 1)
            elif value.ndim == 2 and value.shape[1] == 1:  # flattened image -> logit
                value = value.reshape(spatial, spatial, -1).transpose(2, 0, 1).reshape(1, -1)
            elif value.ndim == 2:  # latents -> image
                value = value.reshape(len(value), spatial, spatial, -1).transpose(0, 3, 1, 2).reshape(len(value), -1).T
            values.append(value)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _move_affine(networks) -> None:
    """Normalisation begins with 1 and 0, which would hide a mistake in their order."""
    random = np.random.default_rng(0)
    for network in networks:
        for weight in network.trainable_variables:
            if len(weight.shape) == 1:
                weight.assign(weight.numpy() + random.normal(0, 0.3, weight.shape))
            else:
                weight.assign(weight.numpy() * 5)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "config"), RECIPES)
def test_pytorch_has_the_same_networks(recipe, config):
    torch = pytest.importorskip("torch")
    networks = recipe.build(config)
    _move_affine(networks)
    modules = torch_networks(config)
    for network, module in zip(networks, modules, strict=True):
        _copy(network, module, 7)
    pictures = [(images / np.float32(127.5) - 1).astype(np.float32) for images in _pictures(config, 1)]
    channels_first = [torch.from_numpy(each).permute(0, 3, 1, 2) for each in pictures]
    latents = np.random.default_rng(1).standard_normal((3, 10), np.float32)
    one = (pictures[0], channels_first[0])
    if recipe is pix2pix:
        given = [one, (pictures, torch.cat(channels_first, 1))]
    elif recipe is dcgan:
        given = [(latents, torch.from_numpy(latents)), one]
    else:
        given = [one] * 4
    for network, module, (ours, theirs) in zip(networks, modules, given, strict=True):
        expected = network(ours, training=True).numpy()
        found = module(theirs).detach().numpy()
        found = found.transpose(0, 2, 3, 1) if found.ndim == 4 else found
        assert expected.std() > 0.01
        np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.slow
def test_pytorch_has_the_same_step():
    """Both learn from the same picture three times: the same losses, which depend on the updates between."""
    torch = pytest.importorskip("torch")
    networks, images = pix2pix.build(PIX2PIX), _pictures(PIX2PIX, 1)
    modules = torch_networks(PIX2PIX)
    for network, module in zip(networks, modules, strict=True):
        _copy(network, module, 0)
    step = make_torch_step(PIX2PIX, modules)
    first = [torch.from_numpy(each).permute(0, 3, 1, 2).contiguous() for each in images]
    g_losses, d_losses = zip(*(step(*first) for _ in range(3)), strict=True)
    data = Batches(3, lambda _: tf.data.Dataset.from_tensors(images).repeat())
    (row,) = pix2pix.train(networks, data, dataclasses.replace(PIX2PIX, epochs=1))
    assert np.mean(d_losses) == pytest.approx(row["discriminator"], rel=1e-3)
    assert np.mean(g_losses) == pytest.approx(row["generator"] + 100 * row["l1"], rel=1e-3)
    assert d_losses[2] != pytest.approx(float(d_losses[0]), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("config", [CYCLEGAN, CYCLEGAN_UNET])
def test_pytorch_has_the_same_step_of_cyclegan(config):
    """As above; the pool is not full yet, after which chance would decide."""
    torch = pytest.importorskip("torch")
    networks, images = cyclegan.build(config), _pictures(config, 1)
    modules = torch_networks(config)
    for network, module in zip(networks, modules, strict=True):
        _copy(network, module, 0)
    step = make_torch_step(config, modules)
    first = [torch.from_numpy(each).permute(0, 3, 1, 2).contiguous() for each in images]
    g_losses, d_losses = zip(*(step(*first) for _ in range(3)), strict=True)
    data = Batches(3, lambda _: tf.data.Dataset.from_tensors(images).repeat())
    (row,) = cyclegan.train(networks, data, dataclasses.replace(config, epochs=1))
    generators = row["generator_a2b"] + row["generator_b2a"] + 10 * row["cycle"] + 5 * row["identity"]
    assert np.mean(d_losses) == pytest.approx(row["discriminator_a"] + row["discriminator_b"], rel=1e-3)
    assert np.mean(g_losses) == pytest.approx(generators, rel=1e-3)
    assert d_losses[2] != pytest.approx(float(d_losses[0]), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [0, 3])
def test_pool_of_pytorch(capacity):
    """Images are numbers here: each goes in once and comes out once, by itself or later, in place of another."""
    torch = pytest.importorskip("torch")
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


@pytest.mark.slow
def test_pytorch_has_the_published_size_of_cyclegan():
    """The ResNet of 11.378 million weights, which has a bias where this one has a scale and a shift."""
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        modules = torch_networks(cyclegan.Config())
    a2b, b2a, judge_a, judge_b = (sum(each.numel() for each in module.parameters()) for module in modules)
    normalised = 64 + 128 + 256 + 18 * 256 + 128 + 64
    assert a2b == b2a and round((a2b - normalised) / 1e6, 3) == 11.378
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert judge_a == judge_b == kernels + 2 * (128 + 256 + 512) + 1


@pytest.mark.slow
def test_pytorch_has_the_published_size():
    """The U-Net of 54.414 million weights, made without memory for them."""
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        modules = torch_networks(pix2pix.Config())
    generator, discriminator = (sum(each.numel() for each in module.parameters()) for module in modules)
    kernels = 16 * (6 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert discriminator == kernels + 2 * (128 + 256 + 512) + 1
    assert round(generator / 1e6, 3) == 54.414


# %% The plain way


@pytest.mark.slow
def test_the_plain_way_of_cyclegan_learns_the_same():
    """Without a pool, two steps lead where the recipe's lead."""
    config = dataclasses.replace(CYCLEGAN, pool=0)
    images = _pictures(config, 1)
    both = [cyclegan.build(config) for _ in range(2)]
    before = [weight.numpy() for network in both[0] for weight in network.trainable_variables]
    step = make_plain_step(config, both[0], images)
    for number in range(2):
        step(number)
    data = Batches(2, lambda _: tf.data.Dataset.from_tensors(images).repeat())
    cyclegan.train(both[1], data, dataclasses.replace(config, epochs=1))
    plain, ours = ([w.numpy() for network in each for w in network.trainable_variables] for each in both)
    for old, one, other in zip(before, plain, ours, strict=True):
        moved = np.abs(other - old).mean()
        assert moved > 1e-4 and np.abs(one - other).mean() < 0.02 * moved


# %% Turns


def test_stretches():
    """The first step by itself, the rest of a round to warm up, and the rounds."""
    assert stretches(Setup("dcgan", DCGAN, 4), 3) == [1, 3, 4, 4, 4]
    assert stretches(Setup("dcgan", DCGAN, 1), 2) == [1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_training_waits_between_the_turns(steps):
    setup, rounds = Setup("dcgan", DCGAN, steps), 2
    drawn = []

    def picture(number):
        return tf.zeros((3, 28, 28, 1), tf.uint8) + tf.cast(number % 2, tf.uint8)

    class Counted(Turns):
        def next(self) -> None:
            drawn.append(int(optimizer_steps()))

    networks = setup.build()
    optimizers = []
    original = keras.optimizers.Adam
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.optimizers, "Adam", lambda *a, **k: optimizers.append(original(*a, **k)) or optimizers[-1])

        def optimizer_steps():
            return optimizers[0].iterations.numpy()

        here, _ = multiprocessing.Pipe()
        data = Batches(99, lambda step: tf.data.Dataset.counter(step).map(picture).map(lambda image: (image,)))
        train_in_turns(Counted(here), setup, rounds, networks, data)
    assert drawn == list(np.cumsum(stretches(setup, rounds)))


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


def test_speed_table_says_what_is_not_installed():
    times = {"median": 50.0, "least": 40.0, "most": 60.0}
    row = {"setup": "tiny", "variant": "recipe", "batch_size": 4, "step_ms": times, "cpu_ms": times}
    row |= {"times_the_recipe": times, "gflop_per_step": 2.0, "gflop_per_second": 40.0, "peak_memory_mb": 900.4}
    plain = row | {"first_step_seconds": 1.25, "variant": "plain"}
    lines = speed_table([row | {"first_step_seconds": 7.0}, plain], 160.0).splitlines()
    assert lines[2] == "| tiny recipe | 50 (40-60) | 50 | 80.0 | 1 | 2 | 40 | 25% | 900 | 7.0 |"
    assert lines[3].split(" | ")[4] == "50.00 (40.00-60.00)"
    assert lines[4].startswith("| tiny pytorch | not installed |") and len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


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
@pytest.mark.parametrize(("name", "flags"), [("speed", ["--only", "dcgan-quick"]), ("pipeline", [])])
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
        assert [run["pairs"] for run in results["memory"]] == [100, 200]
    else:
        rows = {row["variant"]: row for row in results["rows"]}
        assert {"recipe", "plain"} <= rows.keys()
        for row in rows.values():
            assert row["parameters"] == rows["recipe"]["parameters"]
            assert min(row["moved"]) > 1e-4  # Adam's step is about the learning rate, 2e-4
            assert len(row["rounds_ms"]) == 2 and row["peak_memory_mb"] > 100


@pytest.mark.parametrize("flags", [["--only", "nonsense"], ["--rounds", "0"]])
def test_wrong_flags_are_a_line(flags):
    command = [sys.executable, "-m", "benchmarks.speed", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --") and done.stderr.count("\n") == 1
