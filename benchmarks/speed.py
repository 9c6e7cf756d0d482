"""How fast the recipes train, beside the plain way of tutorials and beside PyTorch.

Every variant trains the same networks with the same optimizers on the same random pictures, held in memory:

recipe   `train` of the recipe, as users run it: its stream of batches, its step, its loop with means and progress.
plain    what Keras tutorials of these GANs write, with batches put together from a list. Pix2Pix and DCGAN: compiled
         models, `generator.predict`, three `train_on_batch` a step (real, fake, and a combined model whose
         discriminator is frozen). CycleGAN: a `tf.function` with two persistent tapes, one call of a network for every
         picture, a gradient call and an optimizer for each of the four networks, no pool of earlier translations.
pytorch  the recipe's step in eager PyTorch, the same arithmetic: the same passes, all gradients before any update;
         fused Adam and contiguous memory, which were faster here than its other settings.

Each variant runs in a process of its own, so that memory and start can be told apart. They take turns, a round of a
few steps each, so that whatever else the machine does meets all of them.

Run      python -m benchmarks.speed                        all set-ups, the largest of them for minutes
         python -m benchmarks.speed --only pix2pix-256     one of the set-ups
         pip install torch                                 for the column of PyTorch
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import itertools
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import describe, machine, markdown_table, run_benchmark
from benchmarks.plain import make_plain_step
from benchmarks.pytorch import make_torch_step, torch_networks
from common.batches import Batches, batches
from common.errors import InputError
from common.files import write_json
from common.images import from_uint8
from common.lazy import keras, tf
from recipes import cyclegan, dcgan, pix2pix

# %% What is timed


class Setup(NamedTuple):
    """One recipe with one configuration."""

    recipe: str
    config: Any
    steps: int  # in a round: about half a second of the recipe's
    rounds: int = 99  # at most, where one step takes seconds

    def build(self) -> Any:
        """Return the recipe's networks."""
        return RECIPES[self.recipe].build(self.config)


RECIPES: dict[str, Any] = {"pix2pix": pix2pix, "dcgan": dcgan, "cyclegan": cyclegan}
SETUPS = {
    "pix2pix-256": Setup("pix2pix", pix2pix.Config(), 1),
    "pix2pix-128": Setup("pix2pix", pix2pix.Config(size=128), 2),
    "pix2pix-64": Setup("pix2pix", pix2pix.Config(size=64), 4),
    "pix2pix-128-narrow": Setup("pix2pix", pix2pix.Config(size=128, base_filters=32), 8),
    "pix2pix-64-demo": Setup("pix2pix", pix2pix.DEMO, 12),
    "dcgan-28": Setup("dcgan", dcgan.DIGITS, 1),
    "dcgan-64": Setup("dcgan", dcgan.Config(), 1, rounds=2),
    "cyclegan-64-demo": Setup("cyclegan", cyclegan.DEMO, 8),
    "cyclegan-128-unet": Setup("cyclegan", cyclegan.Config(size=128, generator="unet"), 1),
    "cyclegan-256": Setup("cyclegan", cyclegan.Config(), 1, rounds=2),
}
QUICK_SETUPS = {
    "pix2pix-quick": Setup("pix2pix", pix2pix.Config(size=32, base_filters=4), 2),
    "dcgan-quick": Setup("dcgan", dcgan.Config(size=16, channels=1, base_filters=4, batch_size=4), 2),
    "cyclegan-quick": Setup(
        "cyclegan", cyclegan.Config(size=32, base_filters=4, residual_blocks=1, patch_layers=2, pool=2), 2
    ),
}
VARIANTS = ("recipe", "plain", "pytorch")

# %% Processes that take turns

Work = Callable[..., Mapping[str, Any]]
"""(turns, *arguments) -> what it found out; its last call is `turns.next()`."""


class Turns:
    """The worker's end: it works in stretches, and waits for its turn before each."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.began: tuple[float, float] | None = None
        self.peak_memory = 0.0  # in MB, when the last turn ended

    def next(self) -> None:
        """Report the seconds and CPU seconds since the last turn began, and wait for the next one."""
        if self.began is not None:
            wall, cpu = time.monotonic(), time.process_time()
            self.peak_memory = peak_memory()
            self.connection.send((wall - self.began[0], cpu - self.began[1]))
        self.connection.recv()
        self.began = time.monotonic(), time.process_time()


def _serve(connection: Connection, threads: int, work: Work, arguments: Sequence[Any]) -> None:
    """Be a worker: run `work`, then send what it found out about itself."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        turns = Turns(connection)
        turns.next()
        facts = work(turns, *arguments)
        connection.send({**facts, "peak_memory_mb": turns.peak_memory})


class Worker:
    """The parent's end of a process that runs `work(turns, *arguments)`."""

    def __init__(self, threads: int, work: Work, *arguments: Any):
        context = multiprocessing.get_context("spawn")  # a fork would share memory with this process
        self.name = work.__name__
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, threads, work, arguments), daemon=True)
        self.started = time.monotonic()
        self.process.start()
        other.close()

    def turn(self) -> tuple[float, float]:
        """Let it run for one stretch; return the seconds and CPU seconds it took."""
        self.connection.send(None)
        return self._received()

    def finish(self) -> dict[str, Any]:
        """Let it end; return what it found out."""
        self.connection.send(None)
        facts = self._received()
        self.process.join()
        return facts

    def _received(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"{self.name}: ended with exit status {self.process.exitcode}") from None


def peak_memory() -> float:
    """Return the most memory that this process has held, in MB of 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# %% The three variants
#
# Each takes turns in the same way: one step; then the other steps of a round, to warm up; then the rounds.


def random_pictures(setup: Setup, batch_count: int = 4) -> tuple[np.ndarray, ...]:
    """Return the data that a set-up trains on: uint8 [n, size, size, channels], an array for each kind."""
    config, random = setup.config, np.random.default_rng(0)
    channels = (config.channels,) if setup.recipe == "dcgan" else (3, 3)
    count = batch_count * config.batch_size
    return tuple(random.integers(0, 256, (count, config.size, config.size, each), np.uint8) for each in channels)


def stretches(setup: Setup, rounds: int) -> list[int]:
    """Return how many steps a variant does in each of its turns: one, the rest of a round to warm up, the rounds."""
    return [1, max(setup.steps - 1, 1), *[setup.steps] * rounds]


def run_recipe(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Train with the recipe's own `train`."""
    networks = setup.build()
    before = [_some(network.get_weights()) for network in networks]
    data = batches(random_pictures(setup), setup.config.batch_size, setup.config.seed)
    train_in_turns(turns, setup, rounds, networks, data)
    count = [sum(math.prod(v.shape) for v in network.trainable_variables) for network in networks]
    flops = [forward_flops(network, setup.config) for network in networks]
    moved = [_moved(old, _some(network.get_weights())) for old, network in zip(before, networks, strict=True)]
    return {"parameters": count, "moved": moved, "forward_flops": flops}


def train_in_turns(turns: Turns, setup: Setup, rounds: int, networks: Any, data: Batches) -> None:
    """Call the recipe's `train` for one epoch, whose stream of batches waits between the turns."""
    ends = list(itertools.accumulate(stretches(setup, rounds)))

    class Stream:
        def take(self, count: int) -> Iterator[tuple[tf.Tensor, ...]]:
            for number, batch in enumerate(data.at(0).take(count)):
                if number in ends:
                    turns.next()
                yield batch

    once = dataclasses.replace(setup.config, epochs=1)
    RECIPES[setup.recipe].train(networks, Batches(ends[-1], lambda step: Stream()), once)
    turns.next()


def _some(weights: Sequence[Any]) -> list[np.ndarray]:
    """Return 256 numbers of every kernel, from all over it: the corners of some see nothing but padding."""
    flat = [np.ravel(np.asarray(each)) for each in weights if len(each.shape) > 1]
    return [each[np.random.default_rng(0).integers(0, len(each), 256)] for each in flat]


def _moved(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Return the mean absolute difference of the kernel that moved least."""
    return min(float(np.abs(new - old).mean()) for old, new in zip(before, after, strict=True))


def _take_turns(turns: Turns, setup: Setup, rounds: int, step: Callable[[int], None]) -> None:
    done = 0
    for steps in stretches(setup, rounds):
        for _ in range(steps):
            step(done)
            done += 1
        turns.next()


def run_plain(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Train as tutorials do."""
    networks = setup.build()
    before = [_some(network.get_weights()) for network in networks]
    _take_turns(turns, setup, rounds, make_plain_step(setup.config, networks, random_pictures(setup)))
    networks[-1].trainable = True  # it is frozen between the steps of some
    count = [sum(math.prod(v.shape) for v in network.trainable_variables) for network in networks]
    moved = [_moved(old, _some(network.get_weights())) for old, network in zip(before, networks, strict=True)]
    return {"parameters": count, "moved": moved}


def run_pytorch(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Train the same networks in PyTorch."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(setup.config.seed)
    networks = torch_networks(setup.config)
    weights = [[weight.detach() for weight in network.parameters()] for network in networks]
    before = [_some(each) for each in weights]
    pictures = tuple(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() for images in random_pictures(setup))
    torch_step = make_torch_step(setup.config, networks)
    size = setup.config.batch_size

    def step(number: int) -> None:
        first = number * size % len(pictures[0])
        losses = torch_step(*(images[first : first + size] for images in pictures))
        if not all(math.isfinite(float(loss)) for loss in losses):
            raise FloatingPointError(f"losses {losses}")

    _take_turns(turns, setup, rounds, step)
    count = [sum(weight.numel() for weight in each) for each in weights]
    return {"parameters": count, "moved": [_moved(old, _some(new)) for old, new in zip(before, weights, strict=True)]}


RUN = {"recipe": run_recipe, "plain": run_plain, "pytorch": run_pytorch}

# %% Arithmetic


def forward_flops(network: keras.Model, config: Any) -> tuple[float, float]:
    """Return the floating-point operations of one pass of a batch: all of it, and its first layer's share.

    A multiplication and an addition are two. Convolutions and dense layers are counted, nothing else: the rest is
    below one per cent. What padding adds in zeros counts as well, as it does in a matrix multiplication.
    """
    sides = (config.size, config.size)
    shapes = [(*sides, each.shape[-1]) if each.ndim == 4 else each.shape[1:] for each in network.inputs]
    fixed = [keras.Input(shape, config.batch_size) for shape in shapes]
    network = keras.models.clone_model(network, input_tensors=fixed if len(fixed) > 1 else fixed[0])
    counts = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2DTranspose):
            counts.append(2 * math.prod(layer.input.shape) * layer.filters * math.prod(layer.kernel_size))
        elif isinstance(layer, keras.layers.Conv2D):
            counts.append(2 * math.prod(layer.output.shape) * layer.input.shape[-1] * math.prod(layer.kernel_size))
        elif isinstance(layer, keras.layers.Dense):
            counts.append(2 * math.prod(layer.output.shape) * layer.input.shape[-1])
    return float(sum(counts)), float(counts[0])


def step_flops(forward: Sequence[tuple[float, float]], variant: str) -> float:
    """Return the operations of one step, from those of one pass of a batch through each of the networks.

    Gradients by the weights cost as much as a pass, and those by the inputs too, which a first layer needs only
    where a generator is to learn through it.
    """
    if len(forward) == 4:
        return sum(_cyclegan_flops(forward[way], forward[2 + way]) for way in range(2))
    (generator, g_first), (discriminator, d_first) = forward
    train_generator = 3 * generator - g_first
    train_discriminator = 2 * (3 * discriminator - d_first)  # on a real and on a fake batch
    if variant == "plain":
        return train_generator + train_discriminator + 2 * discriminator + generator  # passes anew, and `predict`
    return train_generator + train_discriminator + discriminator


def _cyclegan_flops(generator: tuple[float, float], discriminator: tuple[float, float]) -> float:
    """Return the share of one generator, with its identity term, and one discriminator, in every variant.

    The plain way asks for both generators' gradients by themselves, each of them through the other's way back, but
    TensorFlow's optimizer of graphs finds what the two have in common and does it once: it leaves as many convolutions.
    """
    (pass_g, g_first), (pass_d, d_first) = generator, discriminator
    train_generator = 3 * (3 * pass_g) - 2 * g_first  # a translation, one that stays, the other's way back
    train_discriminator = 2 * (3 * pass_d - d_first)
    return train_generator + train_discriminator + 2 * pass_d  # on what is new, for the generator


def run_matmul(turns: Turns, seconds: float) -> dict[str, Any]:
    """Find the most that float32 matrix multiplication attains here, in GFLOP/s."""
    best = 0.0
    for size in (2048, 3072, 4096):
        matrix = tf.random.stateless_normal((size, size), (0, 1))
        multiply = tf.function(lambda a: tf.reduce_max(tf.matmul(a, a)))
        float(multiply(matrix))
        until = time.monotonic() + seconds / 3
        while time.monotonic() < until:
            started = time.monotonic()
            float(multiply(matrix))
            best = max(best, 2 * size**3 / (time.monotonic() - started) / 1e9)
    turns.next()
    return {"gflops": best}


# %% Where a step's time goes


def run_parts(turns: Turns, config: pix2pix.Config, rounds: int) -> dict[str, Any]:
    """Time growing beginnings of the pix2pix step; what each adds to the one before is a part's own time."""
    generator, discriminator = pix2pix.build(config)
    optimizers = [keras.optimizers.Adam(config.learning_rate, beta_1=config.beta_1) for _ in range(2)]
    weights = [generator.trainable_variables, discriminator.trainable_variables]
    for optimizer, variables in zip(optimizers, weights, strict=True):
        optimizer.build(variables)
    pictures = random_pictures(Setup("pix2pix", config, 1), batch_count=1)
    inputs, targets = (from_uint8(images) for images in pictures)

    def beginning(until: int) -> Callable[[], Any]:
        @tf.function
        def step():
            with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
                translations = generator(inputs, training=True)
                if until == 1:
                    return translations
                real_logits = discriminator([inputs, targets], training=True)
                fake_logits = discriminator([inputs, translations], training=True)
                l1, gan = pix2pix.l1_loss(targets, translations), pix2pix.generator_loss(fake_logits)
                g_loss = config.gan_weight * gan + config.l1_weight * l1
                d_loss = pix2pix.discriminator_loss(real_logits, fake_logits)
            if until == 2:
                return g_loss, d_loss
            g_gradients = g_tape.gradient(g_loss, weights[0])
            if until == 3:
                return g_gradients, d_loss
            d_gradients = d_tape.gradient(d_loss, weights[1])
            if until == 5:
                optimizers[0].apply(g_gradients, weights[0])
                optimizers[1].apply(d_gradients, weights[1])
                return g_loss, d_loss
            return g_gradients, d_gradients

        return step

    tf.get_logger().setLevel("ERROR")  # it takes five functions of one name for one that is traced five times
    steps = [beginning(until) for until in range(1, 6)]
    spent: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds + 2):
        for step, times in zip(steps, spent, strict=True):
            started = time.monotonic()
            step()
            times.append((time.monotonic() - started) * 1e3)
    turns.next()
    medians = [statistics.median(times[2:]) for times in spent]
    return {"parts": dict(zip(PARTS, np.diff([0.0, *medians]).tolist(), strict=True)) | {"whole": medians[-1]}}


PARTS = (
    "generator, forward",
    "discriminator, forward, on real and fake",
    "gradients of the generator, through the discriminator",
    "gradients of the discriminator",
    "both Adam updates",
)

# %% Running and telling


def time_setup(name: str, setup: Setup, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Run all variants of one set-up in turns; return a row for each: its times, its ratios, what it found out.

    Raises:
        RuntimeError: a variant's networks are of another size, or do not learn, or its process has failed.
    """
    rounds = min(rounds, setup.rounds)
    workers, first = {}, {}
    for variant in VARIANTS:
        if variant == "pytorch" and importlib.util.find_spec("torch") is None:
            continue
        workers[variant] = Worker(threads, RUN[variant], setup, rounds)
        workers[variant].turn()
        first[variant] = time.monotonic() - workers[variant].started
    for worker in workers.values():
        worker.turn()
    wall: dict[str, list[float]] = {variant: [] for variant in workers}
    cpu: dict[str, list[float]] = {variant: [] for variant in workers}
    for _ in range(rounds):
        for variant, worker in workers.items():
            seconds, cpu_seconds = worker.turn()
            wall[variant].append(seconds / setup.steps * 1e3)
            cpu[variant].append(cpu_seconds / setup.steps * 1e3)
    facts = {variant: worker.finish() for variant, worker in workers.items()}
    forward = facts["recipe"].pop("forward_flops")
    rows = []
    for variant, found in facts.items():
        if found["parameters"] != facts["recipe"]["parameters"] or min(found["moved"]) == 0:
            raise RuntimeError(f"{name}, {variant}: not the recipe's networks, or they do not learn: {found}")
        gflop = step_flops(forward, variant) / 1e9
        rows.append(
            {
                "setup": name,
                "variant": variant,
                "batch_size": setup.config.batch_size,
                "step_ms": summary(wall[variant]),
                "cpu_ms": summary(cpu[variant]),
                "times_the_recipe": summary(ratios(wall[variant], wall["recipe"])),
                "gflop_per_step": gflop,
                "gflop_per_second": gflop / statistics.median(wall[variant]) * 1e3,
                "first_step_seconds": first[variant],
                **found,
                "rounds_ms": wall[variant],
            }
        )
    return rows


def ratios(times: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return each round's time as a multiple of the reference's in the same round."""
    return [time / other for time, other in zip(times, reference, strict=True)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def spread(values: Mapping[str, float], digits: int = 0) -> str:
    """Write a summary as `median (least-most)`."""
    median, least, most = (f"{values[key]:.{digits}f}" for key in ("median", "least", "most"))
    return f"{median} ({least}-{most})"


def measure(
    rounds: int = 7,
    only: tuple[str, ...] = (),
    threads: int = os.cpu_count() or 1,
    quick: bool = False,
    output_dir: Path = Path("runs/benchmarks"),
) -> None:
    """Time training steps beside the plain way and beside PyTorch; print tables, write speed.json.

    Args:
        rounds: of every variant, after warming up.
        only: names of set-ups; all where none is named.
        threads: of every variant.
        quick: tiny networks, whose numbers say nothing, to try the benchmark itself.
        output_dir: where speed.json goes.
    """
    setups = QUICK_SETUPS if quick else SETUPS
    unknown = [name for name in only if name not in setups]
    if unknown:
        raise InputError(f"--only {unknown[0]}: no set-up of that name; choose from {', '.join(setups)}")
    if rounds < 1 or threads < 1:
        raise InputError(f"--rounds {rounds} --threads {threads}: both must be 1 or more")
    where = machine(threads)
    print(describe(where), end="\n\n")
    peaks = [matmul_peak(threads, quick)]
    rows = []
    for name in only or setups:
        print(f"timing {name}", file=sys.stderr)
        rows += time_setup(name, setups[name], rounds, threads)
    results: dict[str, Any] = {"machine": where, "rows": rows}
    whole = next((name for name in only or setups if name in ("pix2pix-256", "pix2pix-quick")), None)
    if whole:
        worker = Worker(threads, run_parts, setups[whole].config, rounds)
        worker.turn()
        results["parts_ms"] = worker.finish()["parts"]
    peaks.append(matmul_peak(threads, quick))
    results["peak_gflop_per_second"] = peak = max(peaks)
    print(speed_table(rows, peak), end="\n\n")
    print(f"Peak: {peak:.0f} GFLOP/s, the best of tf.matmul in float32 at 2048, 3072 and 4096.", end="\n\n")
    if whole:
        print(parts_table(whole, results["parts_ms"]), end="\n\n")
    write_json(output_dir / "speed.json", results)
    print(output_dir / "speed.json")


def matmul_peak(threads: int, quick: bool = False) -> float:
    """Return the machine's GFLOP/s in matrix multiplication, as of now."""
    worker = Worker(threads, run_matmul, 0.1 if quick else 3.0)
    worker.turn()
    return worker.finish()["gflops"]


def speed_table(rows: Sequence[Mapping[str, Any]], peak: float) -> str:
    """Return the rows as Markdown; `peak` in GFLOP/s is what a machine could do at most."""
    shown = {}
    for row in rows:
        label = f"{row['setup']} {row['variant']}"
        shown[label] = {
            "ms a step": spread(row["step_ms"]),
            "CPU ms": f"{row['cpu_ms']['median']:.0f}",
            "images/s": f"{row['batch_size'] / row['step_ms']['median'] * 1e3:.1f}",
            "time / recipe's": "1" if row["variant"] == "recipe" else spread(row["times_the_recipe"], 2),
            "GFLOP": f"{row['gflop_per_step']:.3g}",
            "GFLOP/s": f"{row['gflop_per_second']:.3g}",
            "of peak": f"{row['gflop_per_second'] / peak:.0%}",
            "peak MB": f"{row['peak_memory_mb']:.0f}",
            "first step, s": f"{row['first_step_seconds']:.1f}",
        }
        if row["variant"] == "plain" and not any(other["variant"] == "pytorch" for other in rows):
            shown[f"{row['setup']} pytorch"] = {"ms a step": "not installed"}
    return markdown_table(shown, {name: name for name in shown[label]}, "")


def parts_table(name: str, parts: Mapping[str, float]) -> str:
    """Return the parts of a step as Markdown."""
    rows = {part: {"ms": f"{ms:.0f}", "share": f"{ms / parts['whole']:.0%}"} for part, ms in parts.items()}
    return markdown_table(rows, {"ms": "ms", "share": "of the step"}, f"{name}, recipe")


if __name__ == "__main__":
    run_benchmark(measure)
