"""Train the bundled network for style transfer and DeepDream: data/canvas_network.keras.

    python -m tools.canvas_network                       about twenty minutes on two cores
    python -m tools.canvas_network --steps 200 --output FILE.keras     a quick test

The network classifies patches of scikit-image's photos and of synthetic textures. The patches are randomly rotated,
scaled, blurred and recoloured. Each square region of a photo is a class (Dosovitskiy et al., "Discriminative
Unsupervised Feature Learning with Exemplar Convolutional Neural Networks", TPAMI 2016, arXiv:1406.6909). Each type of
texture is a class too. The network has reflection padding. It has average pooling, which gives more appealing images
than max pooling (Gatys et al. 2016, section 2).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.samples.photos import photographs
from common.samples.textures import TEXTURES, synthetic_texture
from common.system.files import replacing
from common.system.lazy import keras, tf

OUTPUT = Path(__file__).resolve().parent.parent / "data" / "canvas_network.keras"
SEED = 1
PATCH = 64  # side of a patch in pixels
BATCH = 48
FILTERS = (32, 64, 128, 192)  # channels of the stages; each stage has two convolutions
CELL = 96  # side in pixels of the square regions of a photo; each region is a class
TEXTURE_SEEDS = 40  # number of images per type of texture


def build(classes: int) -> keras.Model:
    """Return the untrained network: float32 [n, height, width, 3] in [-1, 1] -> logits [n, classes]."""
    layers, ops = keras.layers, keras.ops
    x = images = keras.Input((None, None, 3), name="images")
    for stage, filters in enumerate(FILTERS, 1):
        for number in (1, 2):
            x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
            x = layers.Conv2D(filters, 3, use_bias=False, name=f"conv{stage}_{number}")(x)
            x = layers.BatchNormalization(momentum=0.97, name=f"norm{stage}_{number}")(x)
            x = layers.ReLU(name=f"relu{stage}_{number}")(x)
        x = layers.AveragePooling2D(2)(x) if stage < len(FILTERS) else layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(layers.Dropout(0.2)(x)), name="training")


def folded(trained: keras.Model) -> keras.Model:
    """Fold each batch normalisation into the convolution before it; return a network that outputs all eight ReLU maps.

    Weights are rounded to half precision to keep the file small.
    """
    layers, ops = keras.layers, keras.ops
    x = images = keras.Input((None, None, 3), name="images")
    maps = []
    for stage, filters in enumerate(FILTERS, 1):
        for number in (1, 2):
            x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
            x = layers.Conv2D(filters, 3, activation="relu", name=f"conv{stage}_{number}")(x)
            maps.append(x)
        x = layers.AveragePooling2D(2, name=f"pool{stage}")(x)
    network = keras.Model(images, maps, name="canvas_network")
    for stage in range(1, len(FILTERS) + 1):
        for number in (1, 2):
            (kernel,) = trained.get_layer(f"conv{stage}_{number}").get_weights()
            gamma, beta, mean, variance = trained.get_layer(f"norm{stage}_{number}").get_weights()
            scale = gamma / np.sqrt(variance + 1e-3)
            rounded = [part.astype(np.float16).astype(np.float32) for part in (kernel * scale, beta - mean * scale)]
            network.get_layer(f"conv{stage}_{number}").set_weights(rounded)
    return network


class Patches:
    """An endless source of distorted patches and their classes."""

    def __init__(self, seed: int):
        self.generator = np.random.default_rng(seed)
        self.photos = photographs()
        self.textures = {
            kind: [synthetic_texture(kind, seed, 256) for seed in range(TEXTURE_SEEDS)] for kind in TEXTURES
        }
        self.cells = [
            (name, row, column)
            for name, image in self.photos.items()
            for row in range(CELL // 2, image.shape[0] - CELL // 2 + 1, CELL)
            for column in range(CELL // 2, image.shape[1] - CELL // 2 + 1, CELL)
        ]
        self.names = [f"{name} {row} {column}" for name, row, column in self.cells] + list(self.textures)

    def draw(self, held_out: bool = False) -> tuple[np.ndarray, int]:
        """Return a random patch, uint8 [PATCH, PATCH, 3], and its class. `held_out` selects held-out textures."""
        import cv2

        random = self.generator
        if random.random() < 0.6:
            number = int(random.integers(len(self.cells)))
            name, row, column = self.cells[number]
            image, jitter = self.photos[name], 12
        else:
            kind = int(random.integers(len(self.textures)))
            number, spare = len(self.cells) + kind, TEXTURE_SEEDS // 8
            images = list(self.textures.values())[kind]
            image = images[int(random.integers(spare) if held_out else random.integers(spare, TEXTURE_SEEDS))]
            row, column, jitter = 128, 128, 64
        scale = PATCH / CELL * np.exp(random.uniform(-0.45, 0.45))
        centre = column + random.uniform(-jitter, jitter), row + random.uniform(-jitter, jitter)
        shift = np.array([[0, 0, PATCH / 2 - column], [0, 0, PATCH / 2 - row]])
        matrix = cv2.getRotationMatrix2D(centre, random.normal(0, 18), scale) + shift
        patch = cv2.warpAffine(image, matrix, (PATCH, PATCH), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        patch = patch[:, ::-1] if random.random() < 0.5 else patch
        mean = patch.mean()
        patch = (patch.astype(np.float32) - mean) * np.exp(random.normal(0, 0.25)) + mean + random.normal(0, 18)
        patch = patch * np.exp(random.normal(0, 0.12, 3))
        if random.random() < 0.15:
            patch = np.repeat(patch.mean(-1, keepdims=True), 3, -1)
        if random.random() < 0.4:
            patch = cv2.GaussianBlur(patch, (0, 0), random.uniform(0.4, 1.6))
        patch = patch + random.normal(0, random.uniform(0, 8), patch.shape)
        return np.clip(patch, 0, 255).astype(np.uint8), number

    def batch(self, count: int, held_out: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return `count` patches and their classes."""
        patches, numbers = zip(*(self.draw(held_out) for _ in range(count)), strict=True)
        return np.stack(patches), np.array(numbers, np.int32)


def train(steps: int, seed: int = SEED) -> tuple[keras.Model, Patches]:
    """Return the trained network and the source of its patches."""
    keras.utils.set_random_seed(seed)
    patches = Patches(seed)
    network = build(len(patches.names))
    optimizer = keras.optimizers.AdamW(2e-3, weight_decay=1e-3)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = network(tf.cast(images, tf.float32) / 127.5 - 1, training=True)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return loss, tf.reduce_mean(tf.cast(tf.argmax(logits, 1, tf.int32) == labels, tf.float32))

    recent = []
    with ThreadPoolExecutor(1) as pool:  # a single thread keeps the patches in order
        batch = pool.submit(patches.batch, BATCH)
        for count in range(steps):
            images, labels = batch.result()
            batch = pool.submit(patches.batch, BATCH)
            optimizer.learning_rate.assign(2e-3 * 0.5 * (1 + np.cos(np.pi * count / steps)))
            recent.append([float(value) for value in step(images, labels)])
            if count % 200 == 199:
                loss, accuracy = np.mean(recent, 0)
                print(f"{count + 1} of {steps} steps: loss {loss:.3f}, accuracy {accuracy:.3f}", flush=True)
                recent = []
    return network, patches


def save(network: keras.Model, path: Path) -> None:
    """Write a compressed .keras file. The same weights always give the same bytes."""
    with replacing(path) as temporary:
        network.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            parts = {entry: archive.read(entry) for entry in archive.namelist()}
        metadata = json.loads(parts["metadata.json"])
        parts["metadata.json"] = json.dumps({"keras_version": metadata["keras_version"]}).encode()
        parts["config.json"] = re.sub(rb', "shared_object_id": \d+', b"", parts["config.json"])
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for entry, content in parts.items():
                archive.writestr(zipfile.ZipInfo(entry), content, zipfile.ZIP_DEFLATED, compresslevel=9)


def main() -> None:
    """Train, measure and save the network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    trained, patches = train(given.steps)
    images, labels = patches.batch(2000, held_out=True)
    found = trained.predict(images / 127.5 - 1, 100, verbose=0).argmax(1)
    textures = labels >= len(patches.cells)
    print(f"accuracy on held-out textures: {np.mean(found[textures] == labels[textures]):.3f}, {len(TEXTURES)} classes")
    photos = found[~textures] == labels[~textures]
    print(f"accuracy on new patches of photos: {np.mean(photos):.3f}, {len(patches.cells)} classes")
    network = folded(trained)
    save(network, given.output)
    print(f"{given.output.name}: {network.count_params():,} parameters, {given.output.stat().st_size:,} bytes")
    print(f"sha256 {hashlib.sha256(given.output.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
