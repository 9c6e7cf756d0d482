"""The page itself, on this machine only."""

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

from common.errors import InputError
from common.runs import stored_run
from recipes.app.guard import LARGEST_UPLOAD, Guard
from recipes.app.parts import RECIPES, answer, check_upload
from recipes.app.tabs import TABS


def serve(runs: Sequence[Path] = (), port: int = 7860, open_browser: bool = False) -> None:
    """Show the page at http://127.0.0.1:PORT, until Ctrl-C or SIGTERM; nobody else on the network can reach it.

    Args:
        runs: folders to play with in place of the demos'.
        port: 0 takes any that is free.
        open_browser: open the page in one.

    Raises:
        InputError: gradio is not installed, the port cannot be used, or a folder is no run of a recipe that has a tab.
        SystemExit: SIGTERM or SIGHUP came; all that was uploaded is deleted, as after Ctrl-C.
    """
    with ended_by("SIGTERM", "SIGHUP"), serving(runs, port) as address:
        print(f"the page is at {address}; Ctrl-C ends it", flush=True)
        if open_browser:
            import webbrowser

            webbrowser.open(address)
        threading.Event().wait()


@contextmanager
def ended_by(*names: str) -> Iterator[None]:
    """Let signals end what runs inside as Ctrl-C does, but with exit status 128 and their number.

    Those that this system does not have, or that are ignored, as by nohup, stay so.
    """
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    with handled(dict.fromkeys(numbers, lambda number, frame: sys.exit(128 + number))):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no second Ctrl-C leave files behind."""
    with handled(dict.fromkeys([signal.SIGINT, signal.SIGTERM], signal.SIG_IGN)):
        yield


@contextmanager
def handled(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Handle signals so for a while, where this thread may."""
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
    """Serve the page from a thread, at the address that is yielded; in the end its files are deleted.

    Raises InputError as `serve`.
    """
    with listening(port) as listener, upload_folder() as folder:
        try:
            import fastapi
            import gradio as gr
            import uvicorn
        except ImportError:
            raise InputError("the page needs gradio: pip install --editable '.[app]'") from None
        folders = {name: recipe.DEMO_RUN for name, recipe in RECIPES.items()} | {recipe_of(run): run for run in runs}
        app = gr.mount_gradio_app(
            fastapi.FastAPI(),
            page(folders),
            path="/",
            root_path="",
            max_file_size=LARGEST_UPLOAD,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # others are fetched
            footer_links=[],
            show_error=False,  # of what is not meant for the page, such as an error in the code
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
        )
        host, port = listener.getsockname()
        # Gradio's own `launch` has no place for what must see a request before gradio does.
        guard = Guard(app, folder, port)
        options: dict[str, Any] = {"ws": "none", "proxy_headers": False, "timeout_graceful_shutdown": 1}
        options |= {"log_level": "warning", "log_config": None}  # its own would close the log handlers of others
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
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # of open pages that are cut off
                server.should_exit = True
                thread.join(10)


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Take a port of this machine. Raises InputError where it is none, is taken, or is not for everyone."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: no port; choose one from 1024 to 65535, or 0 for any that is free")
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        why = {errno.EADDRINUSE: "is taken", errno.EACCES: "is reserved for root"}.get(
            error.errno or 0, str(error.strerror)
        )
        raise InputError(
            f"--port {port}: {why}; choose another from 1024 to 65535, or 0 for any that is free"
        ) from None
    with listener:
        yield listener


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Make a folder that no other user can look into, for all files of the page, and delete it in the end."""
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
    """Return the recipe of a run. Raises InputError where it has no tab."""
    name = stored_run(run)["recipe"]
    if name not in RECIPES:
        raise InputError(f"{run}: a run of {name}, which has no tab; expected one of {', '.join(RECIPES)}")
    return name


def page(runs: dict[str, Path]) -> Any:
    """Return the page, a gradio.Blocks, that plays with these runs, one of each of `RECIPES`."""
    import gradio as gr

    with gr.Blocks(title="Keras image cookbook", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown("# Play with the recipes\nAll of it is computed on this machine, and nothing leaves it.")
        with gr.Tabs():
            for title, controls in TABS.items():
                with gr.Tab(title) as tab:
                    found = controls(gr, runs)
                first = [tab.select] if found.at_once else []
                # `answer` makes of values what the function takes.
                options = {"trigger_mode": "always_last", "show_progress": "minimal", "preprocess": False}
                gr.on([*first, *found.triggers], found.function, found.inputs, found.outputs, **options)
                if not found.at_once:
                    for place in found.inputs:
                        if isinstance(place, gr.Image):  # say at once, and not at the button, that it cannot be read
                            check = answer(gr, check_upload, [place], None).function
                            place.upload(check, [place], None, show_progress="hidden", preprocess=False)
                if found.made:
                    found.made.event.success(found.function, found.inputs, found.outputs, preprocess=False)
                    blocks.load(found.made.shown, None, found.made.columns)
    return blocks
