"""Write videos as GIF or MP4 files, one frame at a time."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.images.writing import check_image_size, gif_image, image_suffix, save_gif
from common.system.files import InputError, replacing

CODECS = ("avc1", "vp09", "mp4v")
"""Codecs for MP4, the best first: H.264, VP9, MPEG-4 Part 2. Browsers play the first two.

The packages of OpenCV on PyPI can write VP9, but not H.264, because of its licence.
"""
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # marks an XMP packet in MP4 files (ISO 16684-3)


def check_image_path(path: Path, film: bool = False) -> None:
    """Raise InputError if `path` has no image suffix. With `film`, the suffix must be .gif or .mp4.

    Call this before an expensive computation that writes its result to `path`.
    """
    if not film:
        image_suffix(path)
    elif path.suffix.lower() not in (".gif", ".mp4"):
        raise InputError(f"{path}: not a video file name; it must end in .gif or .mp4")


def save_film(frames: np.ndarray, path: Path, per_second: int = 15) -> Path:
    """Write frames, uint8 [n, height, width, 3], as a GIF or an MP4; see `write_mp4`.

    Raises:
        InputError: `path` does not end in .gif or .mp4, the frames are too large, or OpenCV cannot write MP4.
        OSError: the disk is full.
    """
    check_image_path(path, film=True)
    if path.suffix.lower() == ".gif":
        return save_gif(frames, path, 1000 // per_second // 10 * 10)
    return write_mp4(frames, path, per_second)


def quiet_opencv() -> None:
    """Prevent OpenCV and FFmpeg from printing messages about videos. Errors are reported by the caller."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first video is opened
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def mp4_codec(path: Path, height: int, width: int, per_second: float) -> str:
    """Return the first of `CODECS` that OpenCV can write. Raises InputError if it can write none of them.

    Call this before an expensive computation whose frames are written to `path`.
    """
    import cv2

    check_image_size(path, height, width)
    quiet_opencv()
    with tempfile.TemporaryDirectory() as folder:
        for codec in CODECS:
            video = cv2.VideoWriter(
                str(Path(folder, "a.mp4")), cv2.VideoWriter.fourcc(*codec), per_second, _even(height, width)
            )
            if video.isOpened():
                video.release()
                return codec
    raise InputError(
        f"{path}: OpenCV cannot write an MP4 of {width}x{height} px on this machine; give a name that ends in .gif"
    )


def _even(height: int, width: int) -> tuple[int, int]:
    """Return the next even width and height, in the order that OpenCV expects."""
    return width + width % 2, height + height % 2


def write_mp4(
    frames: Iterable[np.ndarray], path: Path, per_second: float, repeats: Iterable[int] = (), packet: str = ""
) -> Path:
    """Write frames, uint8 [height, width, 3], as an MP4 without sound. Only one frame at a time is in memory.

    MP4 needs an even height and width. If the height or width is odd, the last row or column is repeated.

    Args:
        frames: the frames, all of the same size; at least one.
        path: the file to write.
        per_second: number of frames per second.
        repeats: how often to show each frame; the default is once.
        packet: an XMP packet to store in the file.

    Raises:
        InputError: the frames are too large, or OpenCV cannot write MP4.
        OSError: the disk is full.
    """
    import cv2

    frames, times = iter(frames), iter(repeats)
    first = next(frames)
    height, width = first.shape[:2]
    codec = mp4_codec(path, height, width, per_second)
    given = 0
    with replacing(path) as draft:
        video = cv2.VideoWriter(str(draft), cv2.VideoWriter.fourcc(*codec), per_second, _even(height, width))
        frame: np.ndarray | None = first
        while frame is not None:
            padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")[..., ::-1]
            for _ in range(next(times, 1)):
                video.write(padded)
                given += 1
            frame = next(frames, None)
        video.release()
        written = int(cv2.VideoCapture(str(draft)).get(cv2.CAP_PROP_FRAME_COUNT))
        if written != given:  # OpenCV does not report a full disk
            raise OSError(f"{path}: only {written} of {given} frames were written; is the disk full?")
        if packet:
            with draft.open("ab") as file:
                content = XMP_UUID + packet.encode()
                file.write(struct.pack(">I4s", 8 + len(content), b"uuid") + content)
    return path


def write_gif(frames: Iterable[np.ndarray], path: Path, delays: Iterable[int], packet: str = "") -> Path:
    """Write frames, uint8 [height, width, 3], as a GIF that loops forever. Only one frame at a time is in memory.

    Pillow keeps all frames until it writes the file, so only its encoder for single frames is used. The colours are
    those of `save_gif`.

    Args:
        frames: the frames, all of the same size; at least one.
        path: the file to write.
        delays: the duration of each frame in hundredths of a second.
        packet: an XMP packet to store in the file.

    Raises:
        InputError: the frames are too large for a GIF.
        OSError: the disk is full.
    """
    from PIL import GifImagePlugin

    with replacing(path) as draft, draft.open("wb") as file:
        for number, (frame, delay) in enumerate(zip(frames, delays, strict=True)):
            if number == 0:
                check_image_size(path, *frame.shape[:2])
                file.write(b"GIF89a" + struct.pack("<HHBBB", frame.shape[1], frame.shape[0], 0x70, 0, 0))
                file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # loop forever
                if packet:  # followed by the trailer that lets decoders skip the packet
                    file.write(b"!\xff\x0bXMP DataXMP" + packet.encode() + b"\x01" + bytes(range(255, -1, -1)) + b"\0")
            settings = {"duration": 10 * delay, "include_color_table": True}
            file.writelines(GifImagePlugin.getdata(gif_image(frame), (0, 0), **settings))
        file.write(b";")
    return path
