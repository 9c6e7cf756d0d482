"""The page itself, on this machine only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.runs import stored_run
from recipes.app.parts import RECIPES
from recipes.app.tabs import TABS

LARGEST_UPLOAD = "20mb"


def serve(runs: Sequence[Path] = (), port: int = 7860, open_browser: bool = False) -> None:
    """Show the page at http://127.0.0.1:PORT, until Ctrl-C; nobody else on the network can reach it.

    Args:
        runs: folders to play with in place of the demos'.
        port: 0 takes any that is free.
        open_browser: open the page in one.

    Raises:
        InputError: gradio is not installed, the port is taken, or a folder is no run of a recipe that has a tab.
    """
    try:
        import gradio as gr
    except ImportError:
        raise InputError("the page needs gradio: pip install --editable '.[app]'") from None
    folders = {name: recipe.DEMO_RUN for name, recipe in RECIPES.items()} | {recipe_of(run): run for run in runs}
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # others are fetched
    try:
        blocks = page(folders)
        _, address, _ = blocks.launch(
            quiet=True,
            prevent_thread_lock=True,
            server_name="127.0.0.1",
            server_port=port or None,
            inbrowser=open_browser,
            share=False,
            max_file_size=LARGEST_UPLOAD,
            theme=theme,
            footer_links=[],
        )
    except OSError:
        raise InputError(f"port {port} is taken; choose another --port, or 0 for any that is free") from None
    print(f"the page is at {address}; Ctrl-C ends it", flush=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    with suppress(KeyboardInterrupt):  # again
        blocks.close(verbose=False)


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
                options = {"trigger_mode": "always_last", "show_progress": "minimal"}
                gr.on([*first, *found.triggers], found.function, found.inputs, found.outputs, **options)
                if found.made:
                    found.made.event.success(found.function, found.inputs, found.outputs)
                    blocks.load(found.made.shown, None, found.made.columns)
    return blocks
