"""Take a screenshot of each tab of the page, for docs/guides/page.md.

    python -m tools.screenshots [TAB ...]    writes docs/page/TAB.jpg

The page uses the bundled networks, as in a fresh clone. Run this in a folder without `runs/`, with the packages of the
extras `app` and `test`, and with Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from common.system.files import replacing
from recipes.app.serve import serving
from recipes.app.tabs import TABS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "page"
WIDTH, HEIGHT = 1280, 900
BUTTONS = {"Style": "Paint", "Dream": "Dream"}  # these tabs start with a click
NUMBERS = {"Faces": ("glasses", "2.5")}  # a slider to move, and its value
DRAWN = {"Digit": ((-35, -60), (35, -60), (-10, 70))}  # strokes from the centre of the canvas: a 7


def file_of(tab: str) -> Path:
    """Return the path of a tab's screenshot."""
    return FOLDER / f"{tab.lower().replace(' ', '-')}.jpg"


def draw(page: Any, panel: Any, points: tuple[tuple[int, int], ...]) -> None:
    """Draw a line on the canvas of a tab with the mouse."""
    paper = panel.locator("canvas").first
    paper.wait_for()
    page.wait_for_timeout(1500)
    box = paper.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x + points[0][0], y + points[0][1])
    page.mouse.down()
    for dx, dy in points[1:]:
        page.mouse.move(x + dx, y + dy, steps=12)
    page.mouse.up()


def screenshot(page: Any, tab: str) -> Image.Image:
    """Open a tab, wait for its result, and return an image of the page down to the end of the tab."""
    page.get_by_role("tab", name=tab, exact=True).first.click()
    panel = page.get_by_role("tabpanel").locator("visible=true").first
    panel.wait_for()
    if tab in DRAWN:
        draw(page, panel, DRAWN[tab])
    if tab in BUTTONS:
        panel.get_by_role("button", name=BUTTONS[tab]).click()
    if tab in NUMBERS:
        label, value = NUMBERS[tab]
        box = panel.locator(f'input[type="number"][aria-label="number input for {label}"]')
        box.fill(value)
        box.press("Enter")
    page.wait_for_timeout(3000)  # the computation has begun, and the canvas is shown
    panel.get_by_text("processing").first.wait_for(state="hidden", timeout=240_000)
    page.wait_for_timeout(2000)
    box = panel.bounding_box()
    page.set_viewport_size({"width": WIDTH, "height": max(300, round(box["y"] + box["height"] + 16))})
    page.wait_for_timeout(500)
    shot = Image.open(io.BytesIO(page.screenshot()))
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    return shot.convert("RGB")


def main() -> int:
    """Write the screenshots of all tabs, or of the given ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tabs", nargs="*", metavar="TAB", help=f"one or more of {', '.join(TABS)}; default: all")
    tabs = parser.parse_args().tabs or list(TABS)
    if unknown := [tab for tab in tabs if tab not in TABS]:
        parser.error(f"no tab is called {', '.join(unknown)}; expected some of {', '.join(TABS)}")
    if Path("runs").exists():
        parser.error(f"{Path('runs').resolve()} exists; the page would show these runs instead of the bundled networks")
    from playwright.sync_api import sync_playwright

    browser_path = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    with serving([], 0) as address, sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=browser_path, args=flags)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(address)
        page.get_by_role("tab", name=tabs[0], exact=True).first.wait_for()
        for tab in tabs:
            with replacing(file_of(tab)) as temporary:
                screenshot(page, tab).save(temporary, "JPEG", quality=85, optimize=True)
            print(file_of(tab))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
