"""How fast the recipes train, beside the plain way of tutorials and beside PyTorch.

Every variant trains the same networks with the same optimizers on the same random pictures, held in memory:

recipe    `train` of the recipe, as users run it: its stream of batches, its step, its loop with means and progress.
bfloat16  the same, with convolutions and matrix products in bfloat16, where a recipe's settings offer that.
plain     what Keras tutorials write: `train_on_batch` or a loop with tapes; batches put together from a list. See
          `benchmarks.plain`.
pytorch   the recipe's step in eager PyTorch, the same arithmetic: the same passes, all gradients before any update;
          fused Adam and contiguous memory, which were faster here than its other settings. The networks are translated
          layer by layer, see `benchmarks.translation`. Its memory includes Keras, which builds them.

Each variant runs in a process of its own, so that memory and start can be told apart. They take turns, a round of about
two seconds each, so that whatever else the machine does meets all of them. A step is one update of all weights.

GFLOP are those of the recipe's own step: of every convolution and matrix product in its graph that its results depend
on, a multiplication and an addition being two. They stand for the work that is useful, and so for all variants: what
one of them computes twice counts once. Zeros of padding count as well, as they do in a matrix multiplication.

Left out are `dog_svm`, which has no gradient step, and those that move the pixels of one picture and train nothing:
`style_transfer`, `deepdream` (see `benchmarks.canvas`) and `targeted_attack` (see `benchmarks.attacks`).

Run      python -m benchmarks.speed                        all set-ups, the largest of them for minutes
         python -m benchmarks.speed --only pix2pix-paper   one of the set-ups; or all of a recipe: --only pix2pix
         pip install torch                                 for the column of PyTorch
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import importlib.util
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from benchmarks import describe, machine, markdown_table, run_benchmark
from benchmarks.plain import make_plain_step
from common.batches import Batches, batches
from common.errors import InputError
from common.files import write_json
from common.images import from_uint8
from common.lazy import keras, tf
from common.training import fit
from recipes import (
    adversarial_autoencoder,
    autoencoder,
    conv_autoencoder,
    cyclegan,
    dcgan,
    dcgan_faces,
    face_swap,
    fast_style_transfer,
    fgsm,
    gan,
    lenet,
    mlp,
    mobilenet,
    pix2pix,
    ssgan,
    vae,
    vae_faces,
)

# %% What is timed


class Setup(NamedTuple):
    """One recipe with one configuration."""

    recipe: str
    config: Any
    steps: int = 0  # in a round; 0: as many as take about two seconds
    rounds: int = 99  # at most, where one step takes seconds

    @property
    def module(self) -> Any:
        """The recipe."""
        return importlib.import_module(f"recipes.{self.recipe}")

    def build(self) -> Any:
        """Return the recipe's networks."""
        return self.module.build(self.config)


SETUPS = {
    "mlp-demo": Setup("mlp", mlp.DEMO),  # the usual example too
    "mlp-wide": Setup("mlp", mlp.WIDE),
    "lenet-demo": Setup("lenet", lenet.DEMO),  # the paper's network too
    "lenet-modern": Setup("lenet", lenet.MODERN),
    "mobilenet-demo": Setup("mobilenet", mobilenet.DEMO),
    "mobilenet-paper": Setup("mobilenet", mobilenet.Config()),
    "autoencoder-demo": Setup("autoencoder", autoencoder.DEMO),
    "autoencoder-paper": Setup("autoencoder", autoencoder.Config()),
    "conv_autoencoder-demo": Setup("conv_autoencoder", conv_autoencoder.DEMO),
    "conv_autoencoder-paper": Setup("conv_autoencoder", conv_autoencoder.Config()),
    "vae-demo": Setup("vae", vae.DEMO),
    "vae-paper": Setup("vae", vae.Config()),
    "vae_faces-demo": Setup("vae_faces", vae_faces.DEMO),
    "vae_faces-paper": Setup("vae_faces", vae_faces.Config()),
    "adversarial_autoencoder-demo": Setup("adversarial_autoencoder", adversarial_autoencoder.DEMO),
    "adversarial_autoencoder-paper": Setup("adversarial_autoencoder", adversarial_autoencoder.Config()),
    "face_swap-demo": Setup("face_swap", face_swap.DEMO),
    "face_swap-paper": Setup("face_swap", face_swap.Config(), 1, rounds=4),
    "gan-demo": Setup("gan", gan.DEMO),  # the paper's networks too
    "dcgan-demo": Setup("dcgan", dcgan.DEMO),
    "dcgan-digits": Setup("dcgan", dcgan.DIGITS),
    "dcgan-paper": Setup("dcgan", dcgan.Config(), 1, rounds=2),
    "dcgan_faces-demo": Setup("dcgan_faces", dcgan_faces.DEMO),
    "dcgan_faces-paper": Setup("dcgan_faces", dcgan_faces.Config(), 1, rounds=2),
    "ssgan-demo": Setup("ssgan", ssgan.DEMO),
    "ssgan-paper": Setup("ssgan", ssgan.Config()),
    "pix2pix-demo": Setup("pix2pix", pix2pix.DEMO),
    "pix2pix-128-narrow": Setup("pix2pix", pix2pix.Config(size=128, base_filters=32)),
    "pix2pix-128": Setup("pix2pix", pix2pix.Config(size=128)),
    "pix2pix-paper": Setup("pix2pix", pix2pix.Config()),
    "cyclegan-demo": Setup("cyclegan", cyclegan.DEMO),
    "cyclegan-128-unet": Setup("cyclegan", cyclegan.Config(size=128, generator="unet")),
    "cyclegan-paper": Setup("cyclegan", cyclegan.Config(), 1, rounds=2),
    "fast_style_transfer-demo": Setup("fast_style_transfer", fast_style_transfer.DEMO),
    "fast_style_transfer-paper": Setup("fast_style_transfer", fast_style_transfer.Config(), 1, rounds=4),
    "fgsm-demo": Setup("fgsm", fgsm.DEMO),  # its largest too
}
TINY: dict[str, Any] = {
    "mlp": mlp.Config(size=8, units=8, batch_size=8),
    "lenet": lenet.Config(size=16, modern=True, batch_size=8),
    "mobilenet": mobilenet.Config(size=32, alpha=0.35, weights="random", batch_size=4),
    "autoencoder": autoencoder.Config(size=8, units=8, latent_dim=2, noise=0.1, batch_size=8),
    "conv_autoencoder": conv_autoencoder.Config(size=16, base_filters=4, batch_size=4),
    "vae": vae.Config(size=8, latent_dim=2, units=8, batch_size=8),
    "vae_faces": vae_faces.Config(size=16, latent_dim=4, base_filters=4, batch_size=4),
    "adversarial_autoencoder": adversarial_autoencoder.Config(
        size=8, labels="few", latent_dim=2, units=8, discriminator_units=8, batch_size=8
    ),
    "face_swap": face_swap.Config(size=32, base_filters=2, latent_dim=4, batch_size=4),
    "gan": gan.Config(size=8, latent_dim=4, units=8, discriminator_units=8, batch_size=4),
    "dcgan": dcgan.Config(size=16, channels=1, base_filters=4, batch_size=4),
    "dcgan_faces": dcgan_faces.Config(size=16, latent_dim=4, base_filters=2, batch_size=4),
    "ssgan": ssgan.Config(size=8, latent_dim=4, base_filters=4, generator_filters=2, batch_size=8),
    "pix2pix": pix2pix.Config(size=32, base_filters=4, batch_size=2),
    "cyclegan": cyclegan.Config(size=32, base_filters=4, residual_blocks=1, patch_layers=2, pool=2),
    "fast_style_transfer": fast_style_transfer.Config(
        size=32, style_size=64, base_filters=2, residual_blocks=1, batch_size=1
    ),
    "fgsm": fgsm.Config(size=8, base_filters=2, batch_size=4),
}
QUICK_SETUPS = {f"{name}-quick": Setup(name, config, 2) for name, config in TINY.items()}
ROUND_SECONDS = 2.0
VARIANTS = ("recipe", "bfloat16", "plain", "pytorch")

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
        try:
            facts = work(turns, *arguments)
        except NotImplementedError as error:
            connection.send(error)
        else:
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
        """Let it run for one stretch; return the seconds and CPU seconds it took.

        Raises:
            NotImplementedError: so says the work.
            RuntimeError: the process has ended.
        """
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
            received = self.connection.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"{self.name}: ended with exit status {self.process.exitcode}") from None
        if isinstance(received, NotImplementedError):
            raise received
        return received


def peak_memory() -> float:
    """Return the most memory that this process has held, in MB of 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# %% The variants
#
# Each takes turns in the same way: one step; then, to warm up, enough to know how many steps last a round, and a round;
# then the rounds.


def random_pictures(setup: Setup, batch_count: int = 4) -> tuple[np.ndarray, ...]:
    """Return what a recipe's step takes, an array for each part of a batch.

    Images are uint8 [n, size, size, channels], class numbers int32 [n].
    """
    config, random = setup.config, np.random.default_rng(0)
    count = batch_count * config.batch_size
    shape = (count, config.size, config.size, getattr(config, "channels", 3))
    labels = getattr(config, "labels", "none") if setup.recipe == "adversarial_autoencoder" else ""
    kinds = ["image"]
    if setup.recipe in ("pix2pix", "cyclegan", "face_swap", "ssgan") or labels == "few":
        kinds.append("image")
    if setup.recipe in ("mlp", "lenet", "mobilenet", "fgsm", "ssgan") or labels not in ("", "none"):
        kinds.append("class")
    return tuple(
        random.integers(0, 256, shape, np.uint8)
        if kind == "image"
        else random.integers(0, config.outputs, count, np.int32)
        for kind in kinds
    )


def run_recipe(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Train with the recipe's own `train`."""
    networks = setup.build()
    before = [_some(each) for each in _learning(networks)]
    pictures = random_pictures(setup)
    data = batches(pictures, setup.config.batch_size, setup.config.seed)
    data = data._replace(held_out=tuple(each[:1] for each in pictures))
    steps, step = train_in_turns(turns, setup, rounds, networks, data)
    facts = _facts(steps, before, _learning(networks))
    batch = [tf.TensorSpec((len(each) // 4, *each.shape[1:]), each.dtype) for each in pictures]
    return facts | {"gflop_per_step": flops_of(step, batch) / 1e9}


def run_bfloat16(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Do the same with the recipe's own setting for bfloat16."""
    config = setup.config
    if not hasattr(config, "execution"):
        raise NotImplementedError(f"{setup.recipe} has no setting for it")
    execution = dataclasses.replace(config.execution, precision="mixed_bfloat16")
    return run_recipe(turns, setup._replace(config=dataclasses.replace(config, execution=execution)), rounds)


def train_in_turns(
    turns: Turns, setup: Setup, rounds: int, networks: Any, data: Batches
) -> tuple[int, Callable[..., Any]]:
    """Call the recipe's `train`, whose loop waits for its turns; return the steps of a round, and the recipe's step.

    The loop runs as it does for users, but for what a recipe does between epochs: pictures and validation.
    """
    found: dict[str, Any] = {}
    stream = data.at(0)

    def fit_in_turns(
        step: Callable[..., Any], _: Batches, __: int, state: Mapping[str, object], *___: object, **options: Any
    ) -> list:
        def run(steps: int, epochs: int, told: Callable[[], None]) -> None:
            same = Batches(steps, lambda step: stream)
            fit(step, same, epochs, state, on_epoch=lambda epoch: told(), execution=options["execution"])

        def spent(steps: int) -> float:
            times: list[float] = []
            run(steps, 2, lambda: times.append(time.monotonic()))
            return times[1] - times[0]  # the first epoch has traced

        run(1, 1, turns.next)
        steps = setup.steps or _steps_of_a_round(spent)
        run(steps, 1 + rounds, turns.next)
        found.update(steps=steps, step=step)
        return []

    with mock.patch.object(setup.module, "fit", fit_in_turns):
        setup.module.train(networks, data, setup.config)
    return found["steps"], found["step"]


def _steps_of_a_round(spent: Callable[[int], float]) -> int:
    """Return how many steps last as long as a round should; `spent(steps)` makes some and returns their seconds."""
    steps = 2
    seconds = spent(steps)
    if seconds < 0.02:  # too short to go by
        steps = 500
        seconds = spent(steps)
    return max(1, round(steps * ROUND_SECONDS / seconds))


def _learning(networks: Sequence[keras.Model]) -> list[list[Any]]:
    """Return the weights of each network that has some to learn."""
    every = [network.trainable_variables for network in networks]
    return [weights for weights in every if weights]


def _some(weights: Sequence[Any]) -> list[np.ndarray]:
    """Return 256 numbers of every kernel, from all over it: the corners of some see nothing but padding."""
    flat = [np.ravel(each.numpy()) for each in weights if len(each.shape) > 1]
    return [each[np.random.default_rng(0).integers(0, len(each), 256)] for each in flat]


def _moved(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Return the mean absolute difference of the kernel that moved least."""
    return min(float(np.abs(new - old).mean()) for old, new in zip(before, after, strict=True))


def _facts(steps: int, before: list[list[np.ndarray]], weights: list[list[Any]]) -> dict[str, Any]:
    """Return the steps of a round, how many weights each network has, and by how much the laziest kernel has moved."""
    return {
        "steps": steps,
        "parameters": [sum(math.prod(weight.shape) for weight in each) for each in weights],
        "moved": [_moved(old, _some(each)) for old, each in zip(before, weights, strict=True)],
    }


def take_turns(turns: Turns, setup: Setup, rounds: int, step: Callable[[int], None]) -> int:
    """Call a step, which gets its number, in turns; return how many make a round."""
    done = 0

    def spent(steps: int) -> float:
        nonlocal done
        started = time.monotonic()
        for _ in range(steps):
            step(done)
            done += 1
        return time.monotonic() - started

    spent(1)
    turns.next()
    steps = setup.steps or _steps_of_a_round(spent)
    for _ in range(1 + rounds):
        spent(steps)
        turns.next()
    return steps


def run_plain(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Train as tutorials do."""
    networks = setup.build()
    before, learnt = [_some(each) for each in _learning(networks)], [network.trainable for network in networks]
    step = make_plain_step(setup.recipe, setup.config, networks, random_pictures(setup))
    steps = take_turns(turns, setup, rounds, step)
    for network, trainable in zip(networks, learnt, strict=True):  # some are frozen between the steps
        network.trainable = trainable
    return _facts(steps, before, _learning(networks))


def run_pytorch(turns: Turns, setup: Setup, rounds: int) -> dict[str, Any]:
    """Train the same networks in PyTorch; TensorFlow stays out of the process."""
    os.environ["KERAS_BACKEND"] = "torch"
    importlib.import_module("keras")
    import torch

    from benchmarks.pytorch import make_torch_step, torch_networks

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(setup.config.seed)
    networks = torch_networks(setup.recipe, setup.config, setup.build())
    gc.collect()  # Keras's copies of the weights
    every = [[weight.detach() for weight in network.parameters() if weight.requires_grad] for network in networks]
    weights = [each for each in every if each]
    before = [_some(each) for each in weights]
    parts = [torch_array(part) for part in random_pictures(setup)]
    torch_step = make_torch_step(setup.recipe, setup.config, networks)
    size = setup.config.batch_size

    def step(number: int) -> None:
        first = number * size % len(parts[0])
        losses = torch_step(*(part[first : first + size] for part in parts))
        if not all(math.isfinite(float(loss)) for loss in losses):
            raise FloatingPointError(f"losses {losses}")

    return _facts(take_turns(turns, setup, rounds, step), before, weights)


def torch_array(part: np.ndarray) -> Any:
    """Return images channels first, or class numbers as int64."""
    import torch

    if part.ndim == 1:
        return torch.from_numpy(part.astype(np.int64))
    return torch.from_numpy(part).permute(0, 3, 1, 2).contiguous()


RUN = {"recipe": run_recipe, "bfloat16": run_bfloat16, "plain": run_plain, "pytorch": run_pytorch}

# %% Arithmetic


def flops_of(step: Callable[..., Any], batch: Sequence[tf.TensorSpec], times: int = 1) -> float:
    """Return the floating-point operations of one call of a step divided by `times`, which is how often it loops.

    Counted are the convolutions and matrix products in its graph, and in what that calls, on which its results or a
    variable depend: 2 x the numbers of the output x the numbers that are summed for each. A gradient has as many as
    what it belongs to.

    Args:
        step: a function of tensors.
        batch: shape and dtype of each.
        times: of the loops in it, if there are any.
    """
    plain = getattr(step, "python_function", step)  # a compiled function would be one operation
    graph = tf.function(lambda *given: plain(*given)).get_concrete_function(*batch).graph
    return _graph_flops(graph, times) / times


def _graph_flops(graph: Any, times: int) -> float:
    total, seen = 0.0, set()
    waiting = [tensor.op for tensor in graph.outputs]
    waiting += [operation for operation in graph.get_operations() if operation.op_def.is_stateful]
    while waiting:
        operation = waiting.pop()
        if operation in seen:
            continue
        seen.add(operation)
        waiting += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
        for attribute, count in (("f", 1), ("body", times)):  # of a call, of a loop
            called = operation.node_def.attr[attribute].func.name if attribute in operation.node_def.attr else ""
            if called:
                total += count * _graph_flops(graph._get_function(called).graph, times)
        total += _operation_flops(operation)
    return total


def _operation_flops(operation: Any) -> float:
    """Return the operations of one node of a graph; 0 of what is neither convolution nor matrix product."""
    kind, inputs, outputs = operation.type, operation.inputs, operation.outputs
    if kind in ("MatMul", "BatchMatMulV2"):
        turned = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        return 2 * _numbers(outputs[0]) * inputs[0].shape[-2 if turned else -1]
    if kind == "Einsum":
        terms = operation.get_attr("equation").decode().partition("->")[0].split(",")
        pairs = zip(terms, inputs, strict=True)
        lengths = {letter: size for term, each in pairs for letter, size in zip(term, each.shape, strict=True)}
        return 2 * math.prod(lengths.values()) if len(terms) > 1 else 0.0
    if not kind.startswith(("Conv2D", "DepthwiseConv2d")):
        return 0.0
    if kind.endswith("BackpropFilter"):
        maps, kernel = inputs[2], outputs[0]
    elif kind.endswith("BackpropInput"):
        maps, kernel = inputs[2], inputs[1]
    else:
        maps, kernel = outputs[0], inputs[1]
    height, width, channels, _ = kernel.shape
    return 2 * _numbers(maps) * height * width * (1 if kind.startswith("Depthwise") else channels)


def _numbers(tensor: tf.Tensor) -> int:
    """Return how many there are. Raises ValueError where the graph does not say."""
    count = tensor.shape.num_elements()
    if count is None:
        raise ValueError(f"{tensor.op.type} {tensor.name}: of unknown shape {tensor.shape}")
    return count


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
    pictures = random_pictures(Setup("pix2pix", config), batch_count=1)
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


def time_setup(name: str, setup: Setup, rounds: int, threads: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run all variants of one set-up in turns.

    Returns:
        A row for each, its times, its ratios, what it found out; and why others are not there.

    Raises:
        RuntimeError: a variant's networks are of another size, or do not learn, or its process has failed.
    """
    rounds = min(rounds, setup.rounds)
    workers: dict[str, Worker] = {}
    first: dict[str, float] = {}
    missing: dict[str, str] = {}
    for variant in VARIANTS:
        if variant == "bfloat16" and not hasattr(setup.config, "execution"):
            continue
        if variant == "pytorch" and importlib.util.find_spec("torch") is None:
            missing[variant] = "not installed"
            continue
        worker = Worker(threads, RUN[variant], setup, rounds)
        try:
            worker.turn()
        except NotImplementedError as error:
            missing[variant] = str(error)
            continue
        workers[variant], first[variant] = worker, time.monotonic() - worker.started
    for worker in workers.values():
        worker.turn()
    spent: dict[str, list[tuple[float, float]]] = {variant: [] for variant in workers}
    for _ in range(rounds):
        for variant, worker in workers.items():
            spent[variant].append(worker.turn())
    facts = {variant: worker.finish() for variant, worker in workers.items()}
    gflop = facts["recipe"]["gflop_per_step"]
    wall, cpu = (
        {variant: [pair[part] / facts[variant]["steps"] * 1e3 for pair in pairs] for variant, pairs in spent.items()}
        for part in range(2)
    )
    rows = []
    for variant, found in facts.items():
        if found["parameters"] != facts["recipe"]["parameters"] or min(found["moved"]) == 0:
            raise RuntimeError(f"{name}, {variant}: not the recipe's networks, or they do not learn: {found}")
        rows.append(
            {
                "setup": name,
                "variant": variant,
                "batch_size": setup.config.batch_size,
                "step_ms": summary(wall[variant]),
                "cpu_ms": summary(cpu[variant]),
                "times_the_recipe": summary(ratios(wall[variant], wall["recipe"])),
                **found,
                "gflop_per_step": gflop,
                "gflop_per_second": gflop / statistics.median(wall[variant]) * 1e3,
                "first_step_seconds": first[variant],
                "rounds_ms": wall[variant],
            }
        )
    return rows, missing


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


def chosen(only: Sequence[str], setups: Mapping[str, Setup]) -> list[str]:
    """Return the names of set-ups that are named, by themselves or by their recipe; all where nothing is.

    Raises:
        InputError: a name is neither.
    """
    for name in only:
        if name not in setups and not any(name == setup.recipe for setup in setups.values()):
            raise InputError(f"--only {name}: no set-up or recipe of that name; choose from {', '.join(setups)}")
    return [name for name, setup in setups.items() if not only or name in only or setup.recipe in only]


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
        only: names of set-ups, or of recipes; all where none is named.
        threads: of every variant.
        quick: tiny networks, whose numbers say nothing, to try the benchmark itself.
        output_dir: where speed.json goes.
    """
    setups = QUICK_SETUPS if quick else SETUPS
    names = chosen(only, setups)
    if rounds < 1 or threads < 1:
        raise InputError(f"--rounds {rounds} --threads {threads}: both must be 1 or more")
    where = machine(threads)
    print(describe(where), end="\n\n")
    peaks = [matmul_peak(threads, quick)]
    rows: list[dict[str, Any]] = []
    missing: dict[str, dict[str, str]] = {}
    for name in names:
        print(f"timing {name}", file=sys.stderr)
        more, missing[name] = time_setup(name, setups[name], rounds, threads)
        rows += more
        write_json(output_dir / "speed.json", {"machine": where, "rows": rows, "missing": missing})
    results: dict[str, Any] = {"machine": where, "rows": rows, "missing": missing}
    whole = next((name for name in names if name in ("pix2pix-paper", "pix2pix-quick")), None)
    if whole:
        worker = Worker(threads, run_parts, setups[whole].config, rounds)
        worker.turn()
        results["parts_ms"] = worker.finish()["parts"]
    peaks.append(matmul_peak(threads, quick))
    results["peak_gflop_per_second"] = peak = max(peaks)
    print(speed_table(rows, missing, peak), end="\n\n")
    print(f"Peak: {peak:.0f} GFLOP/s, the best of tf.matmul in float32 at 2048, 3072 and 4096.", end="\n\n")
    print("\n".join(behind(rows)), end="\n\n")
    if whole:
        print(parts_table(whole, results["parts_ms"]), end="\n\n")
    write_json(output_dir / "speed.json", results)
    print(output_dir / "speed.json")


def matmul_peak(threads: int, quick: bool = False) -> float:
    """Return the machine's GFLOP/s in matrix multiplication, as of now."""
    worker = Worker(threads, run_matmul, 0.1 if quick else 3.0)
    worker.turn()
    return worker.finish()["gflops"]


def speed_table(rows: Sequence[Mapping[str, Any]], missing: Mapping[str, Mapping[str, str]], peak: float) -> str:
    """Return a line for each set-up as Markdown: the recipe's step, and the times of the others as multiples of it.

    Args:
        rows: of one set-up after another.
        missing: for each set-up the reason of each variant that has no row.
        peak: what the machine could do at most, in GFLOP/s.
    """
    shown: dict[str, dict[str, str]] = {}
    for setup in dict.fromkeys(row["setup"] for row in rows):
        of = {row["variant"]: row for row in rows if row["setup"] == setup}
        recipe, reasons = of["recipe"], missing.get(setup, {})
        shown[setup] = {
            "ms a step": spread(recipe["step_ms"], 0 if recipe["step_ms"]["median"] >= 20 else 2),
            "CPU ms": f"{recipe['cpu_ms']['median']:.3g}",
            "images/s": f"{recipe['batch_size'] / recipe['step_ms']['median'] * 1e3:.1f}",
            "GFLOP": f"{recipe['gflop_per_step']:.3g}",
            "GFLOP/s": f"{recipe['gflop_per_second']:.3g}",
            "of peak": f"{recipe['gflop_per_second'] / peak:.0%}",
            **{
                variant: spread(of[variant]["times_the_recipe"], 2) if variant in of else reasons.get(variant, "-")
                for variant in VARIANTS[1:]
            },
            "peak MB": _beside_pytorch(of, "peak_memory_mb", 0),
            "first step, s": _beside_pytorch(of, "first_step_seconds", 1),
        }
    return markdown_table(shown, {name: name for name in next(iter(shown.values()))}, "")


def _beside_pytorch(of: Mapping[str, Mapping[str, Any]], key: str, digits: int) -> str:
    return " / ".join(f"{of[variant][key]:.{digits}f}" for variant in ("recipe", "pytorch") if variant in of)


def behind(rows: Sequence[Mapping[str, Any]], least: float = 0.03) -> list[str]:
    """Return a line for each peer that takes less than a recipe's time, by more than `least` of it; or one for none."""
    lines = []
    for row in rows:
        share = row["times_the_recipe"]["median"]
        if row["variant"] in ("plain", "pytorch") and share < 1 - least:
            lines.append(f"{row['setup']}: {row['variant']} takes {share:.2f} of the recipe's time")
    return lines or [f"No peer takes less than {1 - least:.2f} of a recipe's time."]


def parts_table(name: str, parts: Mapping[str, float]) -> str:
    """Return the parts of a step as Markdown."""
    rows = {part: {"ms": f"{ms:.0f}", "share": f"{ms / parts['whole']:.0%}"} for part, ms in parts.items()}
    return markdown_table(rows, {"ms": "ms", "share": "of the step"}, f"{name}, recipe")


if __name__ == "__main__":
    run_benchmark(measure)
