"""A small run of one recipe that saves as often as it can: what the kill test starts, kills and starts again."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import sys
from pathlib import Path

import numpy as np

import common.runs.report
from common.data.batches import Examples, batches, jittered
from common.data.domains import Domains
from common.system.lazy import tf

CONFIGS = {
    "pix2pix": {"size": 32, "base_filters": 4, "batch_size": 2},  # has dropout: seeds inside a network
    "dcgan": {
        "size": 16,
        "base_filters": 4,
        "channels": 1,
        "batch_size": 4,
    },  # has batch norm, and noise by itself
    "cyclegan": {  # an image pool, and a learning rate that decays
        "size": 32,
        "generator": "unet",
        "base_filters": 2,
        "patch_layers": 1,
        "pool_size": 7,
        "identity_weight": 0.0,
        "batch_size": 2,
    },
}


def main(name: str, output_dir: Path, epochs: int) -> None:
    common.runs.report.report_chart = lambda name, history: []  # curves take longer than all steps
    recipe = importlib.import_module(f"recipes.{name}")
    recipe.fit = functools.partial(recipe.fit, save_seconds=0.1)
    config = recipe.Config(**CONFIGS[name], epochs=epochs)
    networks = recipe.build(config)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, config.size, config.size, getattr(config, "channels", 3))).astype(np.uint8)
    if name == "pix2pix":
        pairs = Examples((images, images[::-1].copy()), (), lambda pair: pair, label_maps=(True, False))
        data = batches(pairs.train, config.batch_size, 0, jittered(pairs, config.size, config.jitter))
    elif name == "cyclegan":
        tf.config.run_functions_eagerly(True)  # to trace its step takes longer than the steps
        domains = Domains.of_arrays((images[:16], 255 - images[16:28]), (images[:4], images[4:8]), ("A", "B"))
        data = domains.batches(config.batch_size, 0, size=config.size, jitter=config.jitter)
    else:
        data = batches(images, config.batch_size, 0)
    history = recipe.train(networks, data, config, output_dir)
    digest = hashlib.sha256()
    for network in networks:
        for variable in network.variables:
            digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    losses = [{k: v for k, v in row.items() if k not in ("seconds", "steps_per_second")} for row in history]
    (output_dir / "outcome.json").write_text(json.dumps({"weights": digest.hexdigest(), "history": losses}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
