"""Images whose pixels are optimised, and the networks that compute their losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
from tqdm import tqdm

from common.runs.kit.faces import NormalMap
from common.runs.kit.files import write
from common.runs.kit.images import read_image, resize_image
from common.runs.kit.loop import write_history


def layer_weights(text: str) -> dict[str, float]:
    """Return the weight of each layer or file in "NAME,NAME=WEIGHT"; the default is 1."""
    parts = [part.partition("=") for part in text.split(",")]
    return {name.strip(): float(weight or 1) for name, _, weight in parts}


def frozen_features(network: str, weights: str, layers: list[str], size: int = 0) -> keras.Model:
    """Return a frozen network: images [n, height, width, 3] in [-1, 1] -> feature maps of `layers`.

    `network` is `embedded` (the file next to this one), `file` (the Keras model in `weights`), or the name of a model
    in keras.applications, with `imagenet` or a file as `weights`.
    """
    if network in ("embedded", "file"):
        file = Path(__file__).with_name("canvas_network.keras") if network == "embedded" else Path(weights)
        found = keras.models.load_model(file)
    else:
        found = getattr(keras.applications, network)(False, weights, input_shape=(None, None, 3))
    x = images = keras.Input((None, None, 3), name="images")
    if network in ("VGG19", "ResNet50"):  # their input is BGR minus the channel means
        x = (keras.ops.flip(images, -1) + 1) * 127.5 - keras.ops.convert_to_tensor([103.939, 116.779, 123.68])
    names = [part.partition("=")[0].strip() for text in layers for part in text.split(",")]
    outputs = [found.get_layer(name).output for name in names]
    features = keras.Model(images, keras.Model(found.inputs, outputs)(x), name="features")
    features.trainable = False
    return features


def smallest_side(features: keras.Model, *images: np.ndarray) -> int:
    """Return the minimum image side in pixels: 32, which is enough for all networks except InceptionV3."""
    return 32


def limit_size(image: np.ndarray, size: int) -> np.ndarray:
    """Shrink a uint8 image until its longer side has at most `size` pixels, but keep at least 32 pixels per side."""
    return shrink(image, max(image.shape[:2]) / size, 32)


def shrink(image: np.ndarray, factor: float, smallest: int) -> np.ndarray:
    """Downscale a uint8 image by `factor`, to at least `smallest` pixels per side."""
    factor = max(1.0, min(factor, min(image.shape[:2]) / smallest))
    return resize_image(image, *(max(1, round(side / factor)) for side in image.shape[:2]))


def resize_pixels(image: np.ndarray, height: int, width: int, zoom: float = 1.0) -> np.ndarray:
    """Resize a float32 image [h, w, 3] in [-1, 1]. With `zoom` above 1, return its magnified centre."""
    if zoom > 1:
        matrix = np.array([[zoom, 0, (1 - zoom) * (width - 1) / 2], [0, zoom, (1 - zoom) * (height - 1) / 2]])
        flags, mode = cv2.INTER_CUBIC, cv2.BORDER_REFLECT_101
        return np.clip(cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=mode), -1, 1)
    is_smaller = height <= image.shape[0] and width <= image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC)
    return np.clip(resized, -1, 1)


def read_photo(data: str, size: int = 0) -> np.ndarray:
    """Read a photo as uint8 [height, width, 3]. If `size` is not 0, shrink its longer side to at most `size` pixels."""
    sample = Path(__file__).with_name("sample.npz")
    photo = np.load(sample)["photo"] if data == "sample" else read_image(Path(data))
    return limit_size(photo, size) if size else photo


def read_style(style: str, size: int = 512) -> np.ndarray:
    """Read a style image as uint8 [height, width, 3]. Shrink its longer side to at most `size` pixels."""
    sample = Path(__file__).with_name("sample.npz")
    return limit_size(np.load(sample)["style"] if style == "sample" else read_image(Path(style)), size)


class ImageProgress:
    """The optimised image and its history. Both are saved, so a later call can resume."""

    def __init__(self, output_dir: Path | None, description: str, total_steps: int, epoch_steps: int) -> None:
        self.output_dir, self.history, self.image = output_dir, [], np.empty((0, 0, 3), np.float32)
        if output_dir is not None and (output_dir / "progress.npz").exists():
            with np.load(output_dir / "progress.npz") as file:
                self.image, self.history = file["image"], json.loads(str(file["history"]))
        done = len(self.history) * epoch_steps
        self.bar = tqdm(total=total_steps, desc=description, initial=done, unit="step")

    def __enter__(self) -> ImageProgress:
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()

    def step(self, text: str = "") -> None:
        """Advance the progress bar by one step, with `text` after it."""
        self.bar.set_postfix_str(text)
        self.bar.update()

    def resized(self, height: int, width: int) -> np.ndarray:
        """Return the image, resized with bicubic interpolation."""
        return np.clip(cv2.resize(self.image, (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)

    def save(self, image: np.ndarray, **row: float) -> None:
        """Save a float32 image [height, width, 3], and append a row to the history."""
        self.image = image
        self.history.append({"epoch": len(self.history) + 1, **row})
        if self.output_dir is not None:
            history = np.array(json.dumps(self.history))
            write(self.output_dir / "progress.npz", lambda draft: np.savez(draft, image=image, history=history))
            write_history(self.output_dir, self.history)


class Painting(NamedTuple):
    """An image that is optimised in place to have the content of `content` and the style of `styles`."""

    image: np.ndarray  # uint8 [height, width, 3]
    content: np.ndarray  # the same shape
    styles: list[tuple[np.ndarray, float]]  # uint8 [height, width, 3] of any size, with weights

    @classmethod
    def of(cls, content: np.ndarray, styles: list[tuple[np.ndarray, float]]) -> Painting:
        """Return a painting that starts as a copy of its content. The style weights are scaled to a sum of 1."""
        total = sum(weight for _, weight in styles)
        return cls(content.copy(), content, [(image, weight / total) for image, weight in styles])

    @classmethod
    def read(cls, data: str, style: str, size: int) -> Painting:
        """Read a photo, and style images given as FILE or FILE=WEIGHT, separated by commas."""
        content = read_photo(data, size)
        styles = [(read_style(name, max(content.shape[:2])), weight) for name, weight in layer_weights(style).items()]
        return cls.of(content, styles)

    def matched(self) -> Painting:
        """Return a painting whose content has the colours of the first style image (Gatys et al. 2016)."""
        colours, wanted = (each.reshape(-1, 3).astype(np.float64) for each in (self.content, self.styles[0][0]))
        matched = NormalMap.between(colours, wanted, floor=25.0).there(colours)
        return Painting.of(np.rint(matched).clip(0, 255).astype(np.uint8).reshape(self.content.shape), self.styles)

    def shrunk(self, factor: float, smallest: int) -> Painting:
        """Return a painting with all images shrunk by `factor`."""
        image, content = (shrink(each, factor, smallest) for each in (self.image, self.content))
        return Painting(image, content, [(shrink(style, factor, smallest), weight) for style, weight in self.styles])

    @staticmethod
    def absolute_paths(style: str) -> str:
        """Return `style` unchanged."""
        return style

    def smallest_side(self, features: keras.Model) -> int:
        """Return the minimum image side in pixels."""
        return 32
