"""Serve the web page on this machine only."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.runs.bundled import run_or_bundle
from common.runs.run import stored_run
from common.system.files import InputError
from common.system.packages import needs
from recipes.app.guard import LARGEST_UPLOAD, Guard
from recipes.app.parts import RECIPES, answer, check_upload
from recipes.app.tabs import TABS


def serve(runs: Sequence[Path] = (), port: int = 7860, open_browser: bool = False) -> None:
    """Serve the page at http://127.0.0.1:PORT until Ctrl-C or SIGTERM. Other machines cannot reach it.

    Args:
        runs: run folders to use instead of the demo runs. A recipe without a run uses its bundled networks.
        port: port number; 0 selects a free port.
        open_browser: also open the page in a browser.

    Raises:
        InputError: gradio is not installed, the port cannot be used, a folder is not a run, or its recipe has no tab.
        SystemExit: after SIGTERM or SIGHUP. Uploads are deleted, as after Ctrl-C.
    """
    with ended_by("SIGTERM", "SIGHUP"), serving(runs, port) as address:
        print(f"the page is at {address}; press Ctrl-C to stop", flush=True)
        if open_browser:
            import webbrowser

            webbrowser.open(address)
        threading.Event().wait()


@contextmanager
def ended_by(*names: str) -> Iterator[None]:
    """While the block runs, raise SystemExit on these signals. The exit status is 128 plus the signal number.

    Nothing changes for signals that do not exist on this system or are already ignored (nohup).
    """
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    with handled(dict.fromkeys(numbers, lambda number, frame: sys.exit(128 + number))):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM while the block runs, so that no files are left behind."""
    with handled(dict.fromkeys([signal.SIGINT, signal.SIGTERM], signal.SIG_IGN)):
        yield


@contextmanager
def handled(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Set signal handlers for the block, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def serving(runs: Sequence[Path] = (), port: int = 7860) -> Iterator[str]:
    """Serve the page in a thread and yield its address. At the end, delete the page's files.

    Raises InputError like `serve`.
    """
    with listening(port) as listener, upload_folder() as folder:
        with needs("app", "the page"):
            import fastapi
            import gradio as gr
            import uvicorn
        given = {recipe_of(run): run for run in runs}
        folders = {name: given.get(name) or run_or_bundle(RECIPES[name].DEMO_RUN, name) for name in RECIPES}
        app = gr.mount_gradio_app(
            fastapi.FastAPI(),
            page(folders),
            path="/",
            root_path="",
            max_file_size=LARGEST_UPLOAD,
            theme=gr.themes.Default(
                font=["system-ui", "sans-serif"], font_mono=["monospace"]
            ),  # other fonts would be fetched from the web
            footer_links=[],
            show_error=False,  # internal errors are not shown
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
        )
        host, port = listener.getsockname()
        # uvicorn runs the page, because gradio's `launch` cannot check requests before gradio reads them.
        guard = Guard(app, folder, port)
        options: dict[str, Any] = {"ws": "none", "proxy_headers": False, "timeout_graceful_shutdown": 1}
        options |= {"log_level": "warning", "log_config": None}  # uvicorn's log config would close other log handlers
        server = uvicorn.Server(uvicorn.Config(guard, **options))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                time.sleep(0.01)
            if not server.started:
                raise RuntimeError("the page could not be started")
            yield f"http://{host}:{port}"
        finally:
            with uninterrupted():
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # no messages about open connections
                server.should_exit = True
                thread.join(10)


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Listen on a port of this machine. Raises InputError if the port is invalid, in use or reserved."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: not a port; choose one from 1024 to 65535, or 0 for any free port")
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        why = {errno.EADDRINUSE: "is in use", errno.EACCES: "is reserved for root"}.get(
            error.errno or 0, str(error.strerror)
        )
        raise InputError(f"--port {port}: {why}; choose another from 1024 to 65535, or 0 for any free port") from None
    with listener:
        yield listener


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Create a folder for the page's files, readable only by this user, and delete it at the end."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    folder = Path(tempfile.mkdtemp(prefix="recipes-app-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        with uninterrupted():
            shutil.rmtree(folder, ignore_errors=True)
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def recipe_of(run: Path) -> str:
    """Return the name of a run's recipe. Raises InputError if this recipe has no tab."""
    name = stored_run(run)["recipe"]
    if name not in RECIPES:
        raise InputError(f"{run}: a run of {name}, which has no tab; expected one of {', '.join(RECIPES)}")
    return name


def page(runs: dict[str, Path]) -> Any:
    """Return the page, a gradio.Blocks. `runs` contains one run for each recipe in `RECIPES`."""
    import gradio as gr

    with gr.Blocks(title="Keras image cookbook", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown("# Try the recipes\nEverything is computed on this machine. No data leaves it.")
        with gr.Tabs():
            for title, controls in TABS.items():
                with gr.Tab(title) as tab:
                    found = controls(gr, runs)
                first = [tab.select] if found.at_once else []
                # `answer` converts the values
                options = {"trigger_mode": "always_last", "show_progress": "minimal", "preprocess": False}
                gr.on([*first, *found.triggers], found.function, found.inputs, found.outputs, **options)
                if not found.at_once:
                    for component in found.inputs:
                        if isinstance(component, gr.Image):  # report an unreadable image right after the upload
                            check = answer(gr, check_upload, [component], None).function
                            component.upload(check, [component], None, show_progress="hidden", preprocess=False)
                if found.made:
                    found.made.event.success(found.function, found.inputs, found.outputs, preprocess=False)
                    blocks.load(found.made.shown, None, found.made.columns)
    return blocks
