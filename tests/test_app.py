"""The page to play with: what it is made of, and itself in a browser."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.runs import Run
from common.runs.pretrained import Classifier
from common.samples.digits import centred_digit, held_out_digits
from common.system.files import InputError
from recipes import dcgan_faces, diffusion, pix2pix, vae
from recipes.app import parts, tabs
from recipes.app.parts import demo_messages, epochs_done, read_upload, side_by_side
from recipes.app.serve import recipe_of, serve, serving
from recipes.fgsm import classify

# Of gradio's own code, which also leaves event loops open.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def test_a_drawn_digit_is_read_whatever_its_size_and_place():
    images, labels = held_out_digits()
    known = Classifier.load("digits", "").network
    drawn = []
    for image in images[:40, :, :, 0]:
        paper = np.zeros((280, 330))
        paper[30:170, 150:290] = np.asarray(Image.fromarray(image).resize((140, 140))) / 255
        drawn.append(centred_digit(paper))
    right = classify(known, np.stack(drawn)).argmax(1) == labels[:40]
    assert right.mean() >= 0.95


def test_pictures_side_by_side_are_as_high_as_the_lowest():
    small, large = np.full((8, 8, 1), 7, np.uint8), np.full((300, 200, 3), 9, np.uint8)
    both = side_by_side(small, large, height=256)
    assert both.shape == (256, 256 + 200 * 256 // 300, 3)
    assert (both[:, :256] == 7).all() and (both[:, 256:] == 9).all()


def test_a_large_upload_is_made_smaller(tmp_path):
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.png")
    assert read_upload(str(tmp_path / "large.png")).shape == (384, 768, 3)
    Image.new("L", (20, 90)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match="small.png: 20x90 px; each side must be at least 32"):
        read_upload(str(tmp_path / "small.png"))


def test_the_recipe_of_a_run(tmp_path):
    with pytest.raises(InputError, match="no run here"):
        recipe_of(tmp_path)
    for text in ("[]", "3", "null", "{", '{"recipe": []}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config\.json: damaged"):
            recipe_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "mlp", "config": {}, "data": "sample"}))
    with pytest.raises(InputError, match="a run of mlp, which has no tab; expected one of cyclegan, dcgan"):
        recipe_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "vae", "config": {}, "data": "sample"}))
    assert recipe_of(tmp_path) == "vae"


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"the page needs the package gradio: pip install --editable '.*\[app\]'"):
        serve(port=0)


def fake_demo(tmp_path: Path, monkeypatch, code: str) -> None:
    """Let a script be what is run in place of Python."""
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\nimport sys, time\nfrom pathlib import Path\nrun = Path(sys.argv[-1])\n{code}"
    )
    script.chmod(0o755)
    monkeypatch.setattr(parts.sys, "executable", str(script))
    monkeypatch.setattr(parts.time, "sleep", lambda seconds: __import__("threading").Event().wait(0.02))


def test_a_demo_says_how_far_it_is(tmp_path, monkeypatch):
    code = "run.mkdir()\n(run / 'history.csv').write_text('epoch,loss\\n1,2\\n2,1\\n')\ntime.sleep(0.3)\n"
    fake_demo(tmp_path, monkeypatch, code)
    said = list(demo_messages("vae", tmp_path / "run"))
    assert said[0].startswith("starting") and said[-1] == f"2 of {vae.DEMO.epochs} epochs done"
    assert epochs_done(tmp_path / "run") == 2 and epochs_done(tmp_path / "none") == 0


def test_a_demo_that_fails_says_why(tmp_path, monkeypatch):
    fake_demo(tmp_path, monkeypatch, "print('first\\nerror: the disk is full', file=sys.stderr)\nsys.exit(2)\n")
    with pytest.raises(RuntimeError, match="^error: the disk is full$"):
        list(demo_messages("vae", tmp_path / "run"))


def untrained_diffusion(folder: Path) -> None:
    """Write a run of `diffusion` with an untrained network and three classes."""
    config = replace(diffusion.DEMO, outputs=3, base_filters=8)
    run = Run(folder, "diffusion", config, "sample")
    run.start(("cat", "dog", "owl"))
    run.finish(diffusion.build(config), dict)


@pytest.fixture
def gr() -> Iterator[Any]:
    """gradio. The event loop that it leaves open is collected here, where its warning is ignored."""
    yield pytest.importorskip("gradio", reason="gradio is not installed")
    asyncio.set_event_loop(None)
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_generated_images_are_those_of_the_recipe(gr, tmp_path):
    untrained_diffusion(tmp_path)
    with gr.Blocks():
        found = tabs.generate_class(gr, {"diffusion": tmp_path})
        absent = tabs.generate_class(gr, {"diffusion": tmp_path / "none"})
    assert found.inputs[0].choices == [("cat", 0), ("dog", 1), ("owl", 2)]
    way, grid = found.function(1, 3.0, 2, 4)
    _, ema, config = diffusion.load(tmp_path, 3.0, 2)
    images = diffusion.generate(ema, np.ones(10, int), config, 4)
    assert way.shape == (112, 6 * 112, 3) and grid.shape == (2 * 112, 5 * 112, 3)
    np.testing.assert_array_equal(
        grid[::4, ::4, :1], np.concatenate([np.concatenate(r, 1) for r in (images[:5], images[5:])])
    )
    np.testing.assert_array_equal(way[:, -112:], grid[:112, :112])
    assert not np.array_equal(found.function(2, 3.0, 2, 5)[1], grid)
    assert absent.function(1, 3.0, 2, 4) == (None, None)


# From outside


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The page, with a small run of `vae`, and untrained runs of `pix2pix`, `dcgan_faces` and `diffusion`."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    folder = tmp_path_factory.mktemp("app")
    vae.run("sample", replace(vae.DEMO, units=32, batch_size=256, epochs=1, importance_samples=2), folder / "mine")
    config = replace(pix2pix.DEMO, base_filters=2)
    faces = Run(folder / "faces", "pix2pix", config, "sample")
    faces.start()
    faces.finish(pix2pix.build(config), dict)
    tiny = replace(dcgan_faces.DEMO, base_filters=2, discriminator_filters=2)
    people = Run(folder / "people", "dcgan_faces", tiny, "sample")
    people.start()
    people.finish(dcgan_faces.build(tiny), dict)
    untrained_diffusion(folder / "noise")
    with serving([folder / "mine", folder / "faces", folder / "people", folder / "noise"], 0) as found:
        asyncio.set_event_loop(None)
        gc.collect()
        yield found


def open_page(browser, address: str, width: int = 1280):
    """Open the page; what goes wrong in it, and what it asks of other machines, is kept in `page.complaints`."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    local = ("data:", "blob:", address)
    page.on("request", lambda asked: None if asked.url.startswith(local) else page.complaints.append(asked.url))
    page.goto(address)
    page.get_by_role("tab", name="Draw a face").wait_for()
    return page


def canvas_of(page, text: str) -> tuple[float, float]:
    """Return the centre of the canvas in the tab that contains a text, when it can be drawn on."""
    paper = page.get_by_role("tabpanel").filter(has=page.get_by_text(text)).locator("canvas").first
    paper.wait_for()
    page.wait_for_timeout(1500)
    box = paper.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def pictured(page, name: str) -> str:
    """Return the address of the picture in a result, when there is one."""
    place = page.locator(f"#{name} img").last
    place.wait_for(timeout=90_000)
    return place.get_attribute("src")


def changed(page, name: str, before: str) -> str:
    """Return the address of the picture in a result when it is no longer `before`."""
    wait = "([name, before]) => { const found = [...document.querySelectorAll(`#${name} img`)].pop();"
    page.wait_for_function(
        wait + " return found && found.src && found.src !== before }", arg=[name, before], timeout=90_000
    )
    return pictured(page, name)


def set_slider(page, label: str, value: float) -> None:
    box = page.locator(f'input[type="number"][aria-label="number input for {label}"]')
    box.fill(str(value))
    box.press("Enter")


@pytest.mark.slow
@pytest.mark.xdist_group("app")
def test_a_digit_drawn_with_the_mouse_is_read(browser, address):
    page = open_page(browser, address)
    page.get_by_role("tab", name="Digit", exact=True).first.click()
    x, y = canvas_of(page, "input of the network")
    page.mouse.move(x, y - 90)
    page.mouse.down()
    for step in range(19):
        page.mouse.move(x, y - 90 + 10 * step)
    page.mouse.up()
    assert pictured(page, "input-of-the-network")
    assert page.locator('[data-testid="label-output-value"]').first.inner_text().strip() == "1"
    assert page.complaints == []


@pytest.mark.slow
@pytest.mark.xdist_group("app")
def test_a_face_drawn_with_the_mouse_becomes_a_portrait(browser, address):
    page = open_page(browser, address)
    page.get_by_role("tab", name="Draw a face").first.click()
    first = pictured(page, "portrait")
    set_slider(page, "start from (0: a plain face)", 3)
    second = changed(page, "portrait", first)
    x, y = canvas_of(page, "portrait")
    page.mouse.move(x - 60, y)
    page.mouse.down()
    for step in range(13):
        page.mouse.move(x - 60 + 10 * step, y)
    page.mouse.up()
    changed(page, "portrait", second)
    assert page.complaints == []


@pytest.mark.slow
@pytest.mark.xdist_group("app")
def test_sliders_change_pictures_and_a_bad_upload_is_said(browser, address, tmp_path):
    page = open_page(browser, address)
    page.get_by_role("tab", name="Attack").first.click()
    first = pictured(page, "digit-magnified-change-attacked-digit")
    set_slider(page, "epsilon: maximum change of a pixel (black to white is 1)", 0.25)
    changed(page, "digit-magnified-change-attacked-digit", first)
    page.get_by_role("tab", name="Walk").first.click()
    assert pictured(page, "first-face-current-face-last-face")
    page.get_by_role("tab", name="Arithmetic").first.click()
    first = pictured(page, "mean-of-a-mean-of-b-c-a-b-c")
    set_slider(page, "c: a generated face", 7)
    changed(page, "mean-of-a-mean-of-b-c-a-b-c", first)
    page.get_by_role("tab", name="Plane").first.click()
    first = pictured(page, "digit")
    set_slider(page, "latent 1", 2)
    changed(page, "digit", first)

    page.get_by_role("tab", name="Generate").first.click()
    first = pictured(page, "ten-images-of-this-class")
    assert pictured(page, "from-noise-to-an-image")
    set_slider(page, "seed of the noise", 5)
    changed(page, "ten-images-of-this-class", first)

    page.get_by_role("tab", name="Dream").first.click()
    panel = page.get_by_role("tabpanel").filter(has=page.get_by_text("step size")).first
    photo, bad, short = (tmp_path / name for name in ("photo.png", "bad.png", "short.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 91, 3)).astype(np.uint8)).save(photo)
    bad.write_bytes(b"no picture")
    short.write_bytes(photo.read_bytes()[:500])
    for path, said in (bad, "bad.png: not a PNG"), (short, "short.png: damaged or cut short"), (photo, ""):
        panel.get_by_role("button", name="Clear").or_(panel.get_by_label("Remove Image")).first.click()
        panel.locator('input[type="file"]').set_input_files(path)
        if said:
            page.get_by_text(said).first.wait_for(timeout=30_000)
    page.wait_for_timeout(1000)
    panel.get_by_role("button", name="Dream").click()
    assert pictured(page, "dream")
    assert page.complaints == []


@pytest.mark.slow
@pytest.mark.xdist_group("app")
def test_the_page_fits_a_phone(browser, address):
    page = open_page(browser, address, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.complaints == []
