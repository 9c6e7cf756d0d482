"""Apply a function to every frame of a video, with constant memory, and resume after an interruption.

The finished frames are kept as PNG files in a folder next to the output, NAME.mp4.frames. When all of them are there,
the video is written, and the folder is deleted. The same command resumes an interrupted conversion, because the folder
also says for which video and for which function its frames were computed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.images.decoding import decoded_image, is_video_start, pixel_limit, start_of
from common.images.films import mp4_codec, quiet_opencv, write_gif, write_mp4
from common.images.found import noting
from common.images.pixels import pillow_image
from common.images.reading import read_image, rgb_frame
from common.images.writing import check_image_size
from common.system.console import Progress, noted_if_slow, say
from common.system.files import InputError, delete, replacing, write_json
from common.system.locks import only_process_in

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".webm", ".m4v", ".mkv")
FRAMES_RECORD = "video.json"  # the file in the folder of finished frames that says what they are
GIF_RATE = 50  # most frames per second of a GIF: browsers show frames that are shorter than 0.02 s for 0.1 s
PLAUSIBLE_RATE = 240  # a larger frame rate is that of a file without a constant rate; it is measured instead


class Video(NamedTuple):
    """A video that can be read, and the time of its frames."""

    path: Path
    height: int  # in pixels
    width: int
    per_second: float  # frames per second; of a GIF, the rate at which all durations are multiples of a frame
    delays: tuple[int, ...]  # hundredths of a second for which a GIF shows each frame; () for other videos
    frames: int  # number of frames that can be read


def is_video(source: Path, destination: Path) -> bool:
    """Return whether `source` is a video: by its content, or by its suffix if it is damaged.

    A GIF with several frames is a video, unless `destination` is an image of another format. A GIF with one frame is
    a video if `destination` ends in .mp4.
    """
    if source.is_dir():
        return False
    start = start_of(source)
    if not start.startswith(b"GIF8"):
        return source.suffix.lower() in VIDEO_SUFFIXES or is_video_start(start)
    if destination.suffix.lower() == ".mp4":
        return True
    if destination.suffix.lower() != ".gif" and not destination.is_dir():
        return False
    with decoded_image(source) as image:
        return getattr(image, "n_frames", 1) > 1


def read_video(path: Path) -> Video:
    """Check a video, and count the frames that can be read.

    Many files state a wrong number of frames, so all frames are decoded once. If the file is cut short, a line says
    so.

    Raises:
        InputError: the file does not exist, is not a video, has no frames, has too many pixels per frame, or uses a
            codec that OpenCV cannot read.
    """
    start = start_of(path)
    with noted_if_slow(f"{path}: counting the frames"):
        if start.startswith(b"GIF8"):
            return _read_gif(path)
        if not is_video_start(start):
            empty = not start and path.is_file()
            problem = "an empty file (0 bytes)" if empty else "not an MP4, MOV, AVI, WEBM or GIF file, despite its name"
            if not path.is_file():
                problem = "no such file" if not path.exists() else "not a file"
            raise InputError(f"{path}: {problem}; give the path of a video")
        return _read_other(path)


def _read_gif(path: Path) -> Video:
    delays, size = [], (0, 0)
    for image, delay in _gif_frames(path):
        size = image.shape[:2]
        delays.append(delay)
    return Video(path, *size, 100 / math.gcd(*delays), tuple(delays), len(delays))


def _read_other(path: Path) -> Video:
    import cv2

    video = _opened(path)
    width, height = (int(video.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > pixel_limit():
        limit = f"at most {pixel_limit():,} pixels are allowed; scale it down, or raise the limit with --max-pixels"
        raise InputError(f"{path}: too large ({width}x{height} px); {limit}")
    rate, stated = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    count, last = 0, 0.0
    while video.grab():
        count, last = count + 1, video.get(cv2.CAP_PROP_POS_MSEC)
    if count:  # the size is that of the frames, after the rotation
        ok, frame = _opened(path).read()
        height, width = frame.shape[:2] if ok else (0, 0)
    if not count or not height:
        raise InputError(f"{path}: no frames can be read: it is empty or cut short, or OpenCV lacks its codec; copy it "
                         "again, or convert it to MP4 with H.264")  # fmt: skip
    if not 0 < rate <= PLAUSIBLE_RATE:
        rate = min((count - 1) * 1000 / last, PLAUSIBLE_RATE) if count > 1 and last > 0 else 25.0
    if 0 < stated < 1e9 and count < 0.98 * stated - 2:
        say(f"warning: {path}: only {count:,} of {stated:,.0f} frames can be read; it is damaged or cut short")
    return Video(path, height, width, rate, (), count)


def _opened(path: Path) -> Any:
    """Return OpenCV's reader of a video file. It applies the rotation that phones store."""
    import cv2

    quiet_opencv()
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise InputError(
            f"{path}: cannot be opened as a video: it is damaged or cut short, or OpenCV lacks its codec; copy it "
            "again, or convert it to MP4 with H.264"
        )
    return video


def frames_of(video: Video, first: int = 0) -> Iterator[np.ndarray]:
    """Yield the frames of a video from number `first` on, uint8 [height, width, 3], one at a time."""
    if video.delays:
        for number, (image, _) in enumerate(_gif_frames(video.path)):
            if number >= first:
                yield image
        return
    reader = _opened(video.path)
    for number in range(video.frames):
        if not reader.grab():
            return
        if number >= first:
            yield np.ascontiguousarray(reader.retrieve()[1][..., ::-1])


def _gif_frames(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the frames of a GIF as they are shown, and their durations in hundredths of a second."""
    with decoded_image(path) as image:
        number = 0
        while True:
            delay = round(image.info.get("duration", 0) / 10)
            with noting():  # a transparent frame is nothing unusual
                frame = rgb_frame(image)
            yield frame, delay if delay >= 2 else 10  # as browsers do
            number += 1
            try:
                image.seek(number)
                image.load()
            except EOFError:
                return
            except Exception:  # a damaged file can fail in many ways
                say(f"warning: {path}: only {number:,} frames can be read; it is damaged or cut short")
                return


def video_target(source: Path, destination: Path) -> Path:
    """Return the path of the converted video. Raises InputError if it is not the name of a GIF or MP4."""
    name = source.stem + (".gif" if source.suffix.lower() == ".gif" else ".mp4")
    target = destination / name if destination.is_dir() else destination
    if target.suffix.lower() not in (".gif", ".mp4"):
        raise InputError(f"{target}: {source} is a video, so the output must end in .mp4 or .gif")
    if target.resolve() == source.resolve():
        raise InputError(f"{target}: this is the source; give a different output file")
    return target


def convert_video(
    source: Path,
    destination: Path,
    convert: Callable[[np.ndarray], np.ndarray],
    check: Callable[[int, int], None] | None = None,
    packet: str = "",
) -> Path:
    """Apply `convert` to every frame of a video, and write the results as an MP4 or GIF without sound.

    The frame rate is kept. A GIF shows at most 50 frames per second, so frames of a faster video are left out.

    Args:
        source: an MP4, MOV, AVI or WEBM file, or a GIF.
        destination: the file to write, or a folder for a file with the name of the source.
        convert: frame, uint8 [height, width, 3] -> frame; all results must have the same size.
        check: called before the video is written, with the number of frames that `convert` has converted since the
            start or the resumption, and the number of all frames. If it raises InputError, no video is written.
        packet: an XMP packet to store in the video.

    Returns:
        `destination`.

    Raises:
        InputError: the video cannot be read or written, or `destination`.frames contains the frames of another video or
            of other settings.
        OSError: the disk is full. `destination` then stays as it was.
        KeyboardInterrupt: with the number of finished frames.
    """
    target = video_target(source, destination)
    video = read_video(source)
    is_gif = target.suffix.lower() == ".gif"
    every = max(1, math.ceil(video.per_second / GIF_RATE)) if is_gif and not video.delays else 1
    check_image_size(target, video.height, video.width)
    if not is_gif:
        mp4_codec(target, video.height, video.width, video.per_second)
    if every > 1:
        say(f"{target}: a GIF shows at most {GIF_RATE} frames per second, so 1 of {every} frames is written")
    total = -(-video.frames // every)
    with only_process_in(folder := target.with_name(f"{target.name}.frames")):
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        done = start = _finished(folder, {"video": digest, "settings": fingerprint(convert), "every": every}, total)
        try:
            with Progress(f"writing {target}", total, "frame", done) as progress:
                for number, frame in enumerate(frames_of(video, start * every)):
                    if number % every == 0:
                        with replacing(_frame(folder, done)) as draft:
                            pillow_image(convert(frame)).save(draft, compress_level=1)
                        done += 1
                        progress.update()
            if check is not None:
                try:
                    check(done - start, done)
                except InputError:
                    delete(folder)
                    raise
            with noted_if_slow(f"{target}: encoding {done:,} frames"):
                _encode(folder, done, video, every, target, packet)
        except InputError as error:  # for example, a video that is too small for the network
            raise InputError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped after {done:,} of {total:,} frames") from None
        finally:
            if not done:  # nothing to resume
                delete(folder)
        delete(folder)
    return destination


def _encode(folder: Path, count: int, video: Video, every: int, target: Path, packet: str) -> None:
    """Write the finished frames as a GIF or MP4. Every frame is shown as long as in `video`."""
    images = (read_image(_frame(folder, number)) for number in range(count))
    if target.suffix.lower() == ".gif":
        ends = [round(100 * every * number / video.per_second) for number in range(count + 1)]
        delays = video.delays or tuple(int(delay) for delay in np.diff(ends))
        write_gif(images, target, delays[:count], packet)
    else:
        repeats = [round(delay * video.per_second / 100) for delay in video.delays]
        write_mp4(images, target, video.per_second, repeats, packet)


def _frame(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.png"


def _finished(folder: Path, identity: dict[str, Any], total: int) -> int:
    """Return the number of finished frames in a folder. Begin the folder if it is new.

    Raises:
        InputError: the folder contains something else.
    """
    record = folder / FRAMES_RECORD
    if not record.is_file():
        if folder.is_dir() and any(not each.name.startswith(".") for each in folder.iterdir()):
            raise InputError(f"{folder}: this folder is needed for the frames, but has other files; rename it")
        write_json(record, identity)
        return 0
    try:
        stored = json.loads(record.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        stored = {}
    if stored != identity:
        differs = "another video" if stored.get("video") != identity["video"] else "another network or other settings"
        raise InputError(f"{folder}: has the frames of {differs}; delete this folder, or give another output file")
    done = next((number for number in range(total) if not _frame(folder, number).is_file()), total)
    if done:
        say(f"{folder}: {done:,} of {total:,} frames are finished; resuming")
    return done


# %% Identity of a function


def fingerprint(function: Callable[..., Any]) -> str:
    """Return a hash of a function with everything that it uses: bound arguments, arrays, and weights of networks.

    Two functions with the same fingerprint convert a frame in the same way, also in different processes.

    Raises:
        TypeError: the function uses an object whose content is not known.
    """
    found = hashlib.sha256()
    _add(found.update, function)
    return found.hexdigest()


def _add(update: Callable[[bytes], None], value: Any) -> None:
    update(type(value).__name__.encode() + b"\0")
    if isinstance(value, functools.partial):
        parts: Any = (value.func, value.args, value.keywords)
    elif isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        constants = [each for each in value.__code__.co_consts if not isinstance(each, types.CodeType)]
        parts = (value.__qualname__, value.__code__.co_code, constants, cells, value.__defaults__)
    elif isinstance(value, types.MethodType):
        parts = (value.__func__, value.__self__)
    elif isinstance(value, np.ndarray | np.generic):
        update(f"{value.dtype} {value.shape}".encode())
        update(np.ascontiguousarray(value).tobytes())
        return
    elif hasattr(value, "get_weights") and hasattr(value, "layers"):  # a Keras model
        parts = ([type(layer).__name__ for layer in value.layers], value.get_weights())
    elif isinstance(value, dict):
        parts = sorted(value.items())
    elif isinstance(value, list | tuple):
        parts = value
    elif hasattr(value, "__dataclass_fields__"):
        parts = [(name, getattr(value, name)) for name in value.__dataclass_fields__]
    elif value is None or isinstance(value, str | bytes | int | float | complex | Path | frozenset):
        update(repr(value).encode() + b"\0")
        return
    else:
        raise TypeError(f"cannot compute the fingerprint of a {type(value).__name__}")
    update(f"{len(parts)}".encode() + b"\0")
    for part in parts:
        _add(update, part)
