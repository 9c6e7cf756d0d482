"""The recipes, one per file. `python -m recipes` lists them."""

import os
import signal
import sys
from types import FrameType

from common.system.lazy import defer_imports, use_tensorflow_backend
from common.system.packages import explain


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Print one line and end the process. This handles SIGINT while `python -m` imports a recipe."""
    os.write(2, b"stopped\n")
    os._exit(128 + number)


use_tensorflow_backend()
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Only for `python -m recipes.NAME`, not for `import recipes`. `errors_in_one_line` later replaces this handler.
    signal.signal(signal.SIGINT, stop_at_once)
if sys.argv[:1] == ["-m"]:
    defer_imports()
    sys.excepthook = explain  # a missing package, such as NumPy, which recipes import at the top
