"""Pictures that are made by moving their pixels: what they start from, their colours, and how they are kept."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.console import attempt, say
from common.errors import InputError, first_line
from common.files import read_npz, replacing, write_npz
from common.images import check_image_size, read_image, resize_image, save_gif, to_uint8, write_image
from common.latents import NormalMap
from common.lazy import keras
from common.locks import only_process_in
from common.report import write_report
from common.saves import History, write_history
from common.textures import drawn_texture

SMALLEST_SIDE = 32  # pixels of a picture, below which no network has anything to look at


# %% What is painted


class Painting(NamedTuple):
    """A picture that is painted, in place, like `content` in the manner of `styles`."""

    picture: np.ndarray  # uint8 [height, width, 3]
    content: np.ndarray  # the same
    styles: list[tuple[np.ndarray, float]]  # uint8 [height, width, 3], any size, each with its share; sum 1


def canvas_of(content: np.ndarray, styles: Sequence[tuple[np.ndarray, float]]) -> Painting:
    """Return a picture that is still its content; the shares of the paintings are brought to a sum of 1."""
    total = sum(share for _, share in styles)
    return Painting(content.copy(), content, [(image, share / total) for image, share in styles])


# %% Settings and what a network can look at


def weighted_names(text: str) -> dict[str, float]:
    """Return the weight of each name in "NAME,NAME=WEIGHT", of layers or files; 1 where none is said.

    Raises:
        InputError: a weight is not above 0, or a name is empty or there twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, weight = part.strip(), 1.0
        if "=" in name:
            before, _, after = name.rpartition("=")
            with suppress(ValueError):  # a file's name may hold the sign
                name, weight = before.strip(), float(after)
        if not name or name in found or not 0 < weight < np.inf:
            raise InputError(f"expected NAME or NAME=WEIGHT, above 0, each name once; got {part!r} in {text!r}")
        found[name] = weight
    return found


def map_shapes(features: keras.Model, side: int) -> list[tuple[int, ...]]:
    """Return the shape of each of a network's maps, [1, height, width, channels], for a square of `side` pixels."""
    shapes = features.compute_output_shape((1, side, side, 3))
    return [shapes] if isinstance(shapes, tuple) and isinstance(shapes[0], int) else list(shapes)


def least_side(features: keras.Model, *pictures: np.ndarray) -> int:
    """Return the fewest pixels a side that a network can look at.

    Raises:
        InputError: one of the `pictures`, [height, width, 3], has fewer.
    """

    def fits(side: int) -> bool:
        try:
            return all(min(shape[1:3]) > 0 for shape in map_shapes(features, side))
        except ValueError:
            return False

    sides = range(SMALLEST_SIDE, 513)
    least = sides[min(bisect.bisect_left(sides, True, key=fits), len(sides) - 1)]
    if not fits(least):
        raise InputError(f"{features.name}: cannot look at a picture of {least}x{least} px")
    for picture in pictures:
        height, width = picture.shape[:2]
        if min(height, width) < least:
            raise InputError(f"a picture of {width}x{height} px; this network needs at least {least} a side (--size)")
    return least


# %% Sizes


def smaller(image: np.ndarray, factor: float, least: int) -> np.ndarray:
    """Return uint8 [height, width, 3] made smaller by a factor from 1, or until its shorter side is `least`."""
    height, width = image.shape[:2]
    factor = max(1.0, min(factor, min(height, width) / least))
    return resize_image(image, max(1, round(height / factor)), max(1, round(width / factor)))


def no_larger(image: np.ndarray, side: int) -> np.ndarray:
    """Return uint8 [height, width, 3] made smaller until its longer side is at most `side`, or its shorter side 32."""
    return smaller(image, max(image.shape[:2]) / side, SMALLEST_SIDE)


def enlarged(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return float32 [h, w, 3] in [-1, 1] in another size, by cubic interpolation."""
    import cv2

    return np.clip(cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)


def reduced(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return float32 [h, w, 3] in another size that is no larger, each pixel the mean of those that it stands for."""
    import cv2

    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def magnified_centre(picture: np.ndarray, zoom: float) -> np.ndarray:
    """Return the centre of float32 [height, width, 3], enlarged `zoom` times, in the same size."""
    import cv2

    height, width = picture.shape[:2]
    matrix = np.array([[zoom, 0, (1 - zoom) * (width - 1) / 2], [0, zoom, (1 - zoom) * (height - 1) / 2]])
    flags, mode = cv2.INTER_CUBIC, cv2.BORDER_REFLECT_101
    return np.clip(cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=mode), -1, 1)


# %% Films


def film_suffix(path: Path) -> str:
    """Return .gif or .mp4. Raises InputError where the name ends in neither."""
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise InputError(f"{path}: no name of a film; it must end in .gif or .mp4")
    return path.suffix.lower()


def save_film(frames: np.ndarray, path: Path, per_second: int = 15) -> Path:
    """Write uint8 [n, height, width, 3] as a GIF, or as an MP4 in MPEG-4, which players but not all browsers show.

    MPEG-4 needs even sides: an odd one gets its last row or column twice.

    Raises:
        InputError: `path` ends in neither, the frames are too large for it, or OpenCV cannot write MPEG-4 here.
    """
    import cv2

    if film_suffix(path) == ".gif":
        return save_gif(frames, path, 1000 // per_second // 10 * 10)
    check_image_size(path, *frames.shape[1:3])
    frames = np.pad(frames, [(0, 0), *((0, length % 2) for length in frames.shape[1:3]), (0, 0)], mode="edge")
    height, width = frames.shape[1:3]
    with replacing(path) as draft:
        film = cv2.VideoWriter(str(draft), cv2.VideoWriter.fourcc(*"mp4v"), per_second, (width, height))
        if not film.isOpened():
            raise InputError(f"{path}: this OpenCV cannot write MPEG-4; give a name that ends in .gif")
        for frame in frames:
            film.write(frame[..., ::-1])
        film.release()
        written = int(cv2.VideoCapture(str(draft)).get(cv2.CAP_PROP_FRAME_COUNT))
        if written != len(frames):  # OpenCV says nothing of a full disk
            raise OSError(f"{path}: {written} of {len(frames)} frames could be written; is the disk full?")
    return path


# %% Colours


def match_colours(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Return the content with the mean and the covariance of the painting's colours, uint8 [height, width, 3].

    Gatys et al. 2016, arXiv:1606.05897, section 2.1, by the linear map that moves colours least; but the noise of a
    grey or sepia photo does not become colours.
    """
    colours, wanted = (image.reshape(-1, 3).astype(np.float64) for image in (content, style))
    matched = NormalMap.between(colours, wanted, floor=5.0**2).there(colours)
    return np.clip(np.rint(matched), 0, 255).astype(np.uint8).reshape(content.shape)


def keep_colours(painted: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Return the brightness of what was painted with the content's colours, uint8 [height, width, 3] (section 2.2)."""
    from PIL import Image

    brightness = Image.fromarray(painted).convert("YCbCr").split()[0]
    colours = Image.fromarray(content).convert("YCbCr").split()[1:]
    return np.array(Image.merge("YCbCr", (brightness, *colours)).convert("RGB"))


# %% Stop and go on


def save_painting(output_dir: Path | None, history: History, picture: np.ndarray) -> None:
    """Keep a picture, float32 [height, width, 3], and how it came about, so that `resume_painting` can go on."""
    if output_dir is None:
        return
    write_image(to_uint8(picture), output_dir / "samples" / f"epoch-{len(history):04d}.png")
    columns = {name: np.array([row[name] for row in history]) for name in history[0]}
    newest = output_dir / "checkpoints" / f"step-{len(history):08d}.npz"
    write_npz(newest, {"picture": picture} | columns)
    _prune(output_dir)
    attempt("history.csv", write_history, output_dir, history)
    write_report(output_dir)


def _prune(output_dir: Path) -> None:
    """Delete all saves of a picture but the newest three."""
    for path in sorted((output_dir / "checkpoints").glob("step-*.npz"))[:-3]:
        path.unlink()


@contextmanager
def keeping(output_dir: Path | None, history: History) -> Iterator[None]:
    """Let no other process change the run, and Ctrl-C say after which epoch the run resumes."""
    try:
        with only_process_in(output_dir):
            yield
    except KeyboardInterrupt:
        if output_dir is None or not history:
            raise
        raise KeyboardInterrupt(f"stopped; {len(history)} epochs are kept") from None


def resume_painting(output_dir: Path | None) -> tuple[History, np.ndarray]:
    """Return what `save_painting` kept last and whole, bit for bit; an empty picture where there is none.

    A run that was killed after its last save lacks the last row of history.csv, so this writes the file again.

    Raises:
        InputError: all that is kept is damaged.
    """
    kept = sorted((output_dir / "checkpoints").glob("step-*.npz")) if output_dir is not None else []
    for path in reversed(kept):
        try:
            arrays = read_npz(path)
            picture = arrays.pop("picture")
            rows = zip(*(values.tolist() for values in arrays.values()), strict=True)
            history = [dict(zip(arrays, row, strict=True)) for row in rows]
            if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.float32 or not history:
                raise ValueError(f"a picture {picture.dtype} {list(picture.shape)} and {len(history)} epochs")
        except (InputError, ValueError, KeyError, TypeError) as error:
            problem = str(error) if isinstance(error, InputError) else f"{path}: damaged ({first_line(error)})"
            if path == kept[0]:
                raise InputError(problem) from None
            say(f"{problem}; resuming from the save before")
            continue
        if output_dir is not None:
            attempt("history.csv", write_history, output_dir, history)
            _prune(output_dir)
        return history, picture
    return [], np.empty((0, 0, 3), np.float32)


# %% Photographs and paintings


def read_photo(data: str) -> np.ndarray:
    """Return a photo, uint8 [height, width, 3]; for `sample` one that comes with scikit-image.

    Raises:
        InputError: it cannot be read, or is smaller than any network looks at.
    """
    if data == "sample":
        from skimage.data import cat

        return np.array(cat())
    photo = read_image(Path(data))
    if min(photo.shape[:2]) < SMALLEST_SIDE:
        height, width = photo.shape[:2]
        raise InputError(f"{data}: {width}x{height} px; each side must be at least {SMALLEST_SIDE}")
    return photo


def read_style(style: str, side: int = 512) -> np.ndarray:
    """Return a painting, uint8 [height, width, 3], with a longer side of at most `side`; for `sample` a drawn texture.

    Raises InputError as `read_photo`.
    """
    return no_larger(drawn_texture("strokes", 5, 512) if style == "sample" else read_photo(style), side)


# Of those that come with scikit-image, without those of persons.
PHOTOGRAPHS = (
    "brick",
    "cat",
    "cell",
    "clock",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "horse",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
    "stereo_motorcycle",
)


def photographs() -> dict[str, np.ndarray]:
    """Return photographs that come with scikit-image, uint8 [height, width, 3], of at most 640 pixels a side."""
    import skimage

    found = {}
    for name in PHOTOGRAPHS:
        loaded = getattr(skimage.data, name)()
        image = loaded[0] if isinstance(loaded, tuple) else loaded
        image = image if image.dtype == np.uint8 else (255 * image).astype(np.uint8)
        image = np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image[..., :3]
        found[name] = no_larger(image, 640)
    return found


COLOURFUL = ("cat", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket", "stereo_motorcycle")


def photo_squares(size: int) -> np.ndarray:
    """Return squares of photographs in colour, uint8 [n, size, size, 3]: whole ones, and parts of several sizes."""
    squares, photos = [], photographs()
    for name in COLOURFUL:
        height, width = photos[name].shape[:2]
        for side in sorted({min(side, height, width) for side in (120, 200, 300, 640)}):
            across, down = (
                np.linspace(0, length - side, 1 + round(1.5 * (length - side) / side)).astype(int)
                for length in (width, height)
            )
            squares += [photos[name][top : top + side, left : left + side] for top in down for left in across]
    return np.stack([resize_image(square, size, size) for square in squares])


def with_absolute_paths(style: str) -> str:
    """Return what `read_painting` takes, with paths in full, so that a run goes on from another folder too."""
    names = {name if name == "sample" else str(Path(name).resolve()): w for name, w in weighted_names(style).items()}
    text = ",".join(name if w == 1 and "=" not in name else f"{name}={w!r}" for name, w in names.items())
    return text if text.count(",") == style.count(",") else style  # a folder above has a comma in its name


def read_painting(data: str, style: str, side: int) -> Painting:
    """Return a photo and paintings with a longer side of at most `side` pixels; for `sample` what the project has.

    Args:
        data: the photo's file, or `sample`.
        style: FILE or FILE=SHARE of each painting, separated by commas; or `sample`.
        side: 0 leaves the photo as it is, and makes the paintings no larger.

    Raises:
        InputError: one of them cannot be read.
    """
    content = read_photo(data)
    content = no_larger(content, side) if side else content
    longer = max(content.shape[:2])
    styles = [(read_style(name, longer), share) for name, share in weighted_names(style).items()]
    return canvas_of(content, styles)
