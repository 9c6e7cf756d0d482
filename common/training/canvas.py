"""Optimise the pixels of an image: inputs, colours, progress and checkpoints.

Recipes that optimise an image instead of weights use this module in place of `common.training.loop`.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.images.pixels import SMALLEST_SIDE, limit_size, shrink, to_uint8
from common.images.reading import read_image
from common.images.writing import write_image
from common.metrics.latents import NormalMap
from common.samples.paintings import synthetic_painting
from common.system.console import Progress, attempt, say
from common.system.files import InputError, first_line, read_npz, write_npz
from common.system.lazy import keras
from common.system.locks import only_process_in
from common.training.saves import History, write_history

# %% The optimised image


class Painting(NamedTuple):
    """An image to optimise, its content image and its style images."""

    image: np.ndarray  # uint8 [height, width, 3]
    content: np.ndarray  # the same shape
    styles: list[tuple[np.ndarray, float]]  # (image of any size, weight); the weights sum to 1

    @classmethod
    def of(cls, content: np.ndarray, styles: Sequence[tuple[np.ndarray, float]]) -> Painting:
        """Return a painting whose image is a copy of `content`. The style weights are scaled to sum to 1."""
        total = sum(weight for _, weight in styles)
        return cls(content.copy(), content, [(image, weight / total) for image, weight in styles])

    @classmethod
    def read(cls, data: str, style: str, size: int) -> Painting:
        """Read a photo and style images. The longer side of each style image is limited to that of the photo.

        Args:
            data: path of the photo, or `sample`.
            style: comma-separated style images, each FILE or FILE=WEIGHT; or `sample`.
            size: maximum length of the photo's longer side, in pixels. 0 keeps the photo's size.

        Raises:
            InputError: an image cannot be read.
        """
        content = read_photo(data, size)
        longer = max(content.shape[:2])
        styles = [(read_style(name, longer), weight) for name, weight in layer_weights(style).items()]
        return cls.of(content, styles)

    def matched(self) -> Painting:
        """Return a painting whose content has the colours of the first style image; see `match_colours`."""
        return Painting.of(match_colours(self.content, self.styles[0][0]), self.styles)

    def with_content_colours(self, image: np.ndarray) -> np.ndarray:
        """Return `image`, uint8 [height, width, 3], with the colours of the content image; see `keep_colours`."""
        return keep_colours(image, self.content)

    def shrunk(self, factor: float, smallest: int) -> Painting:
        """Return a painting with all images shrunk by `factor`. No side is shrunk below `smallest` pixels."""
        styles = [(shrink(image, factor, smallest), weight) for image, weight in self.styles]
        image, content = (shrink(each, factor, smallest) for each in (self.image, self.content))
        return Painting(image, content, styles)

    @staticmethod
    def absolute_paths(style: str) -> str:
        """Return `style`, an argument of `read`, with absolute paths. A run can then resume from any directory."""
        return with_absolute_paths(style)

    def smallest_side(self, features: keras.Model) -> int:
        """Return the minimum image side for `features`, in pixels. Raise InputError if an image is smaller."""
        return smallest_side(features, self.content, *(image for image, _ in self.styles))


# %% Layers and the minimum image size


def layer_weights(text: str) -> dict[str, float]:
    """Return the weight of each layer or file in a text such as "NAME,NAME=WEIGHT". The default weight is 1.

    Raises:
        InputError: a weight is not positive, or a name is empty or appears twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, weight = part.strip(), 1.0
        if "=" in name:
            before, _, after = name.rpartition("=")
            with suppress(ValueError):  # a file name may contain "="
                name, weight = before.strip(), float(after)
        if not name or name in found or not 0 < weight < np.inf:
            raise InputError(
                f"expected NAME or NAME=WEIGHT, with positive weights and unique names; got {part!r} in {text!r}"
            )
        found[name] = weight
    return found


def map_shapes(features: keras.Model, side: int) -> list[tuple[int, ...]]:
    """Return the shape of each feature map, [1, height, width, channels], for a square image of `side` pixels."""
    shapes = features.compute_output_shape((1, side, side, 3))
    return [shapes] if isinstance(shapes, tuple) and isinstance(shapes[0], int) else list(shapes)


def smallest_side(features: keras.Model, *images: np.ndarray) -> int:
    """Return the side, in pixels, of the smallest square image for which no feature map is empty.

    Raises:
        InputError: one of the `images` [height, width, 3] has a side that is shorter than this minimum.
    """

    def fits(side: int) -> bool:
        try:
            return all(min(shape[1:3]) > 0 for shape in map_shapes(features, side))
        except ValueError:
            return False

    sides = range(SMALLEST_SIDE, 513)
    least = sides[min(bisect.bisect_left(sides, True, key=fits), len(sides) - 1)]
    if not fits(least):
        raise InputError(f"{features.name}: does not accept images of {least}x{least} px")
    for image in images:
        height, width = image.shape[:2]
        if min(height, width) < least:
            raise InputError(
                f"an image of {width}x{height} px is too small for this network; "
                f"it needs at least {least} px per side (--size)"
            )
    return least


# %% Resizing


def enlarge(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a float32 image [h, w, 3] by cubic interpolation, and clip its values to [-1, 1]."""
    import cv2

    return np.clip(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)


def resize_pixels(image: np.ndarray, height: int, width: int, zoom: float = 1.0) -> np.ndarray:
    """Resize a float32 image [h, w, 3]: shrink it by area averaging, or enlarge it with `enlarge`.

    If `zoom` is above 1, return the centre of the image, magnified by `zoom`.
    """
    import cv2

    if zoom > 1:
        matrix = np.array([[zoom, 0, (1 - zoom) * (width - 1) / 2], [0, zoom, (1 - zoom) * (height - 1) / 2]])
        flags, mode = cv2.INTER_CUBIC, cv2.BORDER_REFLECT_101
        return np.clip(cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=mode), -1, 1)
    if height <= image.shape[0] and width <= image.shape[1]:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return enlarge(image, height, width)


# %% Colours


def match_colours(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Transfer the mean and covariance of the style image's colours to the content image: uint8 [height, width, 3].

    See Gatys et al. 2016 (arXiv:1606.05897, section 2.1). Of all linear maps with this result, `NormalMap` changes the
    colours least, in mean squared distance. A small variance is added to the covariance of the content's colours.
    Without it, the map would amplify the noise of a grey photo into visible colours.
    """
    colours, wanted = (image.reshape(-1, 3).astype(np.float64) for image in (content, style))
    matched = NormalMap.between(colours, wanted, floor=5.0**2).there(colours)
    return np.clip(np.rint(matched), 0, 255).astype(np.uint8).reshape(content.shape)


def keep_colours(image: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Combine the luminance of `image` with the colours of `content`: uint8 [height, width, 3].

    See Gatys et al. 2016 (arXiv:1606.05897, section 2.2).
    """
    from PIL import Image

    luminance = Image.fromarray(image).convert("YCbCr").split()[0]
    colours = Image.fromarray(content).convert("YCbCr").split()[1:]
    return np.array(Image.merge("YCbCr", (luminance, *colours)).convert("RGB"))


# %% Progress and checkpoints


class ImageProgress:
    """The progress of an image optimisation: history, checkpoints and a progress bar.

    Use it as a context manager. It resumes from the newest checkpoint in `output_dir`, bit for bit.
    """

    def __init__(self, output_dir: Path | str | None, description: str, total_steps: int, epoch_steps: int) -> None:
        """Read the newest checkpoint.

        Args:
            output_dir: the run folder. If `output_dir` is None, no files are written.
            description: the text before the progress bar.
            total_steps: total number of steps of the run.
            epoch_steps: number of steps between two checkpoints.

        Raises:
            InputError: all checkpoints are damaged.
        """
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.description, self.total_steps = description, total_steps
        self.history, self.image = resume_painting(self.output_dir)  # the image is float32 [height, width, 3], or empty
        self.done = len(self.history) * epoch_steps

    def __enter__(self) -> ImageProgress:
        """Lock the run folder and start to show the progress."""
        self.context = ExitStack()
        self.context.enter_context(keeping(self.output_dir, self.history))
        self.progress = self.context.enter_context(Progress(self.description, self.total_steps, "step", self.done))
        self.started = time.monotonic()
        return self

    def __exit__(self, *error: Any) -> None:
        """Unlock the run folder. On Ctrl-C, raise a KeyboardInterrupt that says how many epochs are saved."""
        self.context.__exit__(*error)

    def step(self, text: str = "") -> None:
        """Advance the progress by one step, and show `text` after the bar."""
        self.progress.update(1, text)

    def resized(self, height: int, width: int) -> np.ndarray:
        """Return the image, resized by cubic interpolation."""
        return enlarge(self.image, height, width)

    def save(self, image: np.ndarray, **row: float) -> None:
        """Append a row (epoch number, `row`, seconds) to the history, and save it with `image`, float32 [h, w, 3]."""
        now = time.monotonic()
        self.image = image
        self.history.append({"epoch": len(self.history) + 1, **row, "seconds": now - self.started})
        self.started = now
        save_painting(self.output_dir, self.history, image)


def save_painting(output_dir: Path | None, history: History, image: np.ndarray) -> None:
    """Save a float32 image [height, width, 3] and its history. `resume_painting` reads them."""
    if output_dir is None:
        return
    write_image(to_uint8(image), output_dir / "samples" / f"epoch-{len(history):04d}.png")
    columns = {name: np.array([row[name] for row in history]) for name in history[0]}
    newest = output_dir / "checkpoints" / f"step-{len(history):08d}.npz"
    write_npz(newest, {"picture": image} | columns)
    _prune(output_dir)
    attempt("history.csv", write_history, output_dir, history)
    from common.runs.report import write_report

    write_report(output_dir)


def _prune(output_dir: Path) -> None:
    """Delete all but the newest three checkpoints."""
    for path in sorted((output_dir / "checkpoints").glob("step-*.npz"))[:-3]:
        path.unlink()


@contextmanager
def keeping(output_dir: Path | None, history: History) -> Iterator[None]:
    """Lock the run folder during the block. On Ctrl-C, raise KeyboardInterrupt with the number of saved epochs."""
    try:
        with only_process_in(output_dir):
            yield
    except KeyboardInterrupt:
        if output_dir is None or not history:
            raise
        raise KeyboardInterrupt(f"stopped; {len(history)} epochs are saved") from None


def resume_painting(output_dir: Path | None) -> tuple[History, np.ndarray]:
    """Return the history and the image of the newest readable checkpoint. Both are empty if there are no checkpoints.

    If a run was killed right after a checkpoint, the last row of history.csv may be missing. This function restores it.

    Raises:
        InputError: all checkpoints are damaged.
    """
    kept = sorted((output_dir / "checkpoints").glob("step-*.npz")) if output_dir is not None else []
    for path in reversed(kept):
        try:
            arrays = read_npz(path)
            image = arrays.pop("picture")
            rows = zip(*(values.tolist() for values in arrays.values()), strict=True)
            history = [dict(zip(arrays, row, strict=True)) for row in rows]
            if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.float32 or not history:
                found = f"{image.dtype} {list(image.shape)} and {len(history)} epochs"
                raise ValueError(f"expected a float32 RGB image and 1 epoch or more, got {found}")
        except (InputError, ValueError, KeyError, TypeError) as error:
            problem = str(error) if isinstance(error, InputError) else f"{path}: damaged ({first_line(error)})"
            if path == kept[0]:
                raise InputError(problem) from None
            say(f"{problem}; resuming from the previous checkpoint")
            continue
        if output_dir is not None:
            attempt("history.csv", write_history, output_dir, history)
            _prune(output_dir)
        return history, image
    return [], np.empty((0, 0, 3), np.float32)


# %% Photos and style images


def read_photo(data: str, size: int = 0) -> np.ndarray:
    """Return a photo, uint8 [height, width, 3].

    Args:
        data: path of the photo, or `sample` for a photo that ships with scikit-image.
        size: maximum length of the longer side, in pixels. No side is shrunk below 32 pixels. 0 keeps the photo's size.

    Raises:
        InputError: the file cannot be read, or a side is shorter than 32 pixels.
    """
    if data == "sample":
        from skimage.data import cat

        photo = np.array(cat())
    else:
        photo = read_image(Path(data))
    if min(photo.shape[:2]) < SMALLEST_SIDE:
        height, width = photo.shape[:2]
        raise InputError(f"{data}: {width}x{height} px; each side must be at least {SMALLEST_SIDE}")
    return limit_size(photo, size) if size else photo


def read_style(style: str, size: int = 512) -> np.ndarray:
    """Return a style image, uint8 [height, width, 3], whose longer side is at most `size`.

    `sample` is a synthetic painting of a landscape. The errors are the same as for `read_photo`.
    """
    return limit_size(synthetic_painting(), size) if style == "sample" else read_photo(style, size)


def with_absolute_paths(style: str) -> str:
    """Return the `style` argument of `Painting.read` with absolute paths; see `Painting.absolute_paths`."""
    names = {name if name == "sample" else str(Path(name).resolve()): w for name, w in layer_weights(style).items()}
    text = ",".join(name if w == 1 and "=" not in name else f"{name}={w!r}" for name, w in names.items())
    return text if text.count(",") == style.count(",") else style  # a parent folder's name may contain a comma
