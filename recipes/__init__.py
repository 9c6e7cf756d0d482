"""One file per recipe; `python -m recipes` lists them."""

import os
import signal
import sys
from types import FrameType


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """End the process in one line: what a signal does while a recipe is still being imported."""
    os.write(2, b"stopped\n")
    os._exit(128 + number)


if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # `python -m recipes.NAME`, not an import. The command line takes over from here, see common/cli.py.
    signal.signal(signal.SIGINT, stop_at_once)
