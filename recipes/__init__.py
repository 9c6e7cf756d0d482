"""The recipes, one per file. `python -m recipes` lists them."""

import os
import signal
import sys
from types import FrameType, TracebackType

from common.system.lazy import defer_imports


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Print one line and end the process. This handles SIGINT while `python -m` imports a recipe."""
    os.write(2, b"stopped\n")
    os._exit(128 + number)


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line if a package is missing, such as NumPy, which recipes import at the top; otherwise a traceback."""
    from common.system.packages import explained_import  # not earlier, because it imports other modules

    if isinstance(error, ImportError) and (missing := explained_import(error)):
        os.write(2, f"error: {missing}\n".encode())
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Only for `python -m recipes.NAME`, not for `import recipes`. `errors_in_one_line` later replaces this handler.
    signal.signal(signal.SIGINT, stop_at_once)
if sys.argv[:1] == ["-m"]:
    defer_imports()
    sys.excepthook = explain
