"""Event files for TensorBoard: the losses and scores of each epoch, and its images in `samples/`.

They are written with TensorFlow alone. The package `tensorboard`, which displays them, need not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.system.lazy import tf


class Events:
    """The event files in `OUTPUT_DIR/tensorboard`. The step of an event is the epoch, counted from 1."""

    def __init__(self, output_dir: Path) -> None:
        """Read what earlier processes wrote. New events go to a new file in the same folder."""
        self.output_dir, self.folder = output_dir, output_dir / "tensorboard"
        self.written = written_tags(self.folder)
        self.writer = tf.summary.create_file_writer(str(self.folder))

    def write(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the epochs that are not in the event files yet, also those that were trained without `--tensorboard`.

        Args:
            history: one row per epoch, with its number in the column `epoch`.
        """
        with self.writer.as_default():
            for row in history:
                self._write_epoch(int(row["epoch"]), row)
        self.writer.flush()

    def _write_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        done = self.written.setdefault(epoch, set())
        for name, value in row.items():
            if name not in done and name != "epoch":
                tf.summary.write(name, tf.constant(value, tf.float32), epoch, _kind("scalars"))
                done.add(name)
        path = self.output_dir / "samples" / f"epoch-{epoch:04d}.png"
        if "samples" not in done and path.is_file():
            image = path.read_bytes()
            height, width, _ = tf.io.decode_png(image).shape
            tf.summary.write("samples", tf.constant([str(width), str(height), image]), epoch, _kind("images"))
            done.add("samples")


def _kind(plugin: str) -> tf.compat.v1.SummaryMetadata:
    """Return what tells TensorBoard to show an event as `scalars` or `images`."""
    metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": plugin})
    metadata.data_class = {"scalars": 2, "images": 3}[plugin]  # DATA_CLASS_SCALAR, DATA_CLASS_BLOB_SEQUENCE
    return metadata


def written_tags(folder: Path) -> dict[int, set[str]]:
    """Return the tags in the event files of a folder, by step. A file of a killed process may end in half an event."""
    found: dict[int, set[str]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(record)
                found.setdefault(event.step, set()).update(value.tag for value in event.summary.value)
        except tf.errors.DataLossError:
            continue
    return found
