"""The training loop, the optimizer and random numbers."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from common.runs.kit.data import Batches
from common.runs.kit.files import InputError, write


def fit(
    step,
    data: Batches,
    epochs: int,
    state: dict,
    output_dir: Path | None = None,
    on_epoch=(),
    best="",  # only with: best=
    patience=0,  # only with: patience=
) -> list[dict]:
    """Run `step` on every batch, and return the mean losses per epoch. Resume from the checkpoints in `output_dir`."""
    steps, progress = data.steps_per_epoch, tf.Variable("[0, 0, {}, []]")
    state = {"progress": progress, **state}
    # only with: Dropout or GaussianNoise or best=
    weights = [v.value for part in state.values() if isinstance(part, keras.Model) for v in part.variables]
    # only with: Dropout or GaussianNoise
    state["seeds"] = [weight for weight in weights if "seed_generator" in weight.name]  # otherwise not saved
    # only with: best=
    minimum = state["minimum"] = [tf.Variable(weight) for weight in weights]
    saves = tf.train.CheckpointManager(tf.train.Checkpoint(**state), f"{output_dir}/checkpoints", max_to_keep=2)
    losses, stopped, saved = [], [], time.monotonic()
    if output_dir is not None:
        saves.checkpoint.restore(saves.latest_checkpoint)
        usual = signal.signal(signal.SIGINT, lambda *_: stopped.append(signal.signal(signal.SIGINT, usual)))
    epoch, within, sums, history = json.loads(progress.numpy())
    first = epoch * steps + within
    batches = tqdm(data.at(first).take(epochs * steps - first), total=epochs * steps, initial=first, unit="step")
    for done, batch in enumerate(batches, first + 1):
        losses.append(step(*tf.nest.flatten(batch)))
        if done % steps and not stopped and time.monotonic() < saved + 120:
            continue
        for each in losses:
            sums = {name: sums.get(name, 0.0) + float(loss) for name, loss in each.items()}
        if not np.isfinite([*sums.values()]).all():
            raise InputError(f"a loss is not finite at step {done}: {sums}; try a smaller learning rate")
        if done % steps == 0:
            means = {name: total / steps for name, total in sums.items()}
            history.append({"epoch": done // steps, **means})
            for call in filter(None, on_epoch):
                history[-1] |= call(done // steps, means) or {}
            batches.write("  ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))
            # only with: best=
            if best and history[-1][best] == min(row[best] for row in history):
                for kept, weight in zip(minimum, weights, strict=True):
                    kept.assign(weight)
        losses, sums, saved = [], sums if done % steps else {}, time.monotonic()
        if output_dir is not None:
            progress.assign(json.dumps([*divmod(done, steps), sums, history]))
            saves.save(done)
            lines = [",".join(map(str, cells)) for cells in [*history[:1], *(row.values() for row in history)]]
            write(Path(output_dir, "history.csv"), "\n".join(lines) + "\n")
        if stopped:
            raise KeyboardInterrupt(f"stopped after step {done} of {epochs * steps}; run again to resume")
        # only with: patience=
        if best and patience and len(history) - np.argmin([row[best] for row in history]) > patience:
            break
    if output_dir is not None:
        signal.signal(signal.SIGINT, usual)
    # only with: best=
    for kept, weight in zip(minimum, weights, strict=True) if best else ():
        weight.assign(kept)
    return history


def adam(
    learning_rate: Any,
    variables: list,
    beta_1: float = 0.9,
    weight_decay: float | None = None,  # only with: weight_decay
) -> keras.Optimizer:
    """Return an Adam optimizer for `variables`."""
    optimizer = keras.optimizers.Adam(
        learning_rate,
        beta_1=beta_1,
        weight_decay=weight_decay,  # only with: weight_decay
        name="adam",
    )
    optimizer.build(variables)
    return optimizer


class Noise(tf.Module):
    """Random numbers from a seed. If it is in the `state` of `fit`, a resumed run continues the same sequence."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(seed)
        self.saved = self.seeds.state.value  # the TensorFlow variable, for checkpoints

    def normal(self, shape: Any, mean: float = 0.0, stddev: float = 1.0) -> tf.Tensor:
        """Return float32 samples of a normal distribution."""
        return keras.random.normal(shape, mean, stddev, seed=self.seeds)

    def uniform(self, shape: Any, minval: Any = 0.0, maxval: Any = 1.0) -> tf.Tensor:
        """Return float32 samples in [minval, maxval)."""
        return keras.random.uniform(shape, minval, maxval, seed=self.seeds)

    def integers(self, shape: Any, minval: int, maxval: int) -> tf.Tensor:
        """Return int32 samples from `minval` to `maxval` - 1."""
        return keras.random.randint(shape, minval, maxval, seed=self.seeds)


def predict(network: keras.Model, inputs: Any, batch_size: int = 250) -> Any:
    """Return the outputs for all `inputs`, computed `batch_size` at a time."""
    parts = [network(inputs[start : start + batch_size], training=False) for start in range(0, len(inputs), batch_size)]
    return tf.nest.map_structure(lambda *outputs: np.concatenate([np.asarray(part) for part in outputs]), *parts)


def tracked(items: Any, what: str, unit: str, total: int | None = None) -> Any:
    """Yield `items`, and show the progress of the work on them."""
    return iter(tqdm(items, what, total, unit=unit))


def write_history(output_dir: Path, history: list[dict[str, float]]) -> None:
    """Write one row per epoch to `history.csv`."""
    lines = [",".join(map(str, cells)) for cells in [*history[:1], *(row.values() for row in history)]]
    write(Path(output_dir, "history.csv"), "\n".join(lines) + "\n")
