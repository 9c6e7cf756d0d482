"""Write videos as GIF or MP4 files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.images.writing import check_image_size, image_suffix, save_gif
from common.system.files import InputError, replacing


def check_image_path(path: Path, film: bool = False) -> None:
    """Raise InputError if `path` has no image suffix. With `film`, the suffix must be .gif or .mp4.

    Call this before an expensive computation that writes its result to `path`.
    """
    if not film:
        image_suffix(path)
    elif path.suffix.lower() not in (".gif", ".mp4"):
        raise InputError(f"{path}: not a video file name; it must end in .gif or .mp4")


def save_film(frames: np.ndarray, path: Path, per_second: int = 15) -> Path:
    """Write frames, uint8 [n, height, width, 3], as a GIF, or as an MP4 with the MPEG-4 Part 2 codec.

    Not all browsers can play this codec. It needs an even height and width. If the height or width is odd, the last
    row or column is repeated.

    Raises:
        InputError: `path` does not end in .gif or .mp4, the frames are too large, or OpenCV cannot write MPEG-4.
        OSError: the disk is full.
    """
    import cv2

    check_image_path(path, film=True)
    if path.suffix.lower() == ".gif":
        return save_gif(frames, path, 1000 // per_second // 10 * 10)
    check_image_size(path, *frames.shape[1:3])
    frames = np.pad(frames, [(0, 0), *((0, length % 2) for length in frames.shape[1:3]), (0, 0)], mode="edge")
    height, width = frames.shape[1:3]
    with replacing(path) as draft:
        video = cv2.VideoWriter(str(draft), cv2.VideoWriter.fourcc(*"mp4v"), per_second, (width, height))
        if not video.isOpened():
            raise InputError(f"{path}: OpenCV cannot write MPEG-4 on this machine; give a name that ends in .gif")
        for frame in frames:
            video.write(frame[..., ::-1])
        video.release()
        written = int(cv2.VideoCapture(str(draft)).get(cv2.CAP_PROP_FRAME_COUNT))
        if written != len(frames):  # OpenCV does not report a full disk
            raise OSError(f"{path}: only {written} of {len(frames)} frames were written; is the disk full?")
    return path
