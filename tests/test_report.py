from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.runs.report import shown_number, spread_samples, write_report
from common.runs.report_scores import in_a_sentence, shown_scores
from common.system.files import write_json


class Page(HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())

    def pictures(self) -> dict[str | None, Image.Image]:
        """Return every picture by its alternative text, decoded from its data URI."""
        found: dict[str | None, Image.Image] = {}
        for tag, attributes in self.tags:
            if tag == "img":
                head, _, data = str(attributes["src"]).partition(",")
                assert head in ("data:image/png;base64", "data:image/jpeg;base64", "data:image/gif;base64")
                image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
                image.load()
                found[attributes["alt"]] = image
        return found


def save_picture(path: Path, height: int, width: int, noise: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = np.linspace(0, 255, width).astype(np.uint8)
    pixels = np.broadcast_to(shade[None, :, None], (height, width, 3))
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def make_run(folder: Path, epochs: int) -> Path:
    config = {"latent_dim": 100, "learning_rate": 2e-4, "filters": [64, 128], "mixed": False, "weights": None}
    versions = {"keras": "3.15.1"}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"recipe": "dcgan", "data": 'a <em> & "c"', "config": config, "versions": versions})
    )
    lines = ["epoch,generator_loss,discriminator_loss,seconds,steps_per_second"]
    lines += [f"{e},{1 + 1 / e},{1.3 - 0.5 / e},40.0,{10 + e % 3}" for e in range(1, epochs + 1)]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    for epoch in range(1, epochs + 1):
        save_picture(folder / "samples" / f"epoch-{epoch:04d}.png", 16, 16)
    save_picture(folder / "samples.png", 64, 48)
    (folder / "results.json").write_text(json.dumps({"frechet_distance": 18.27364, "images": 1797}))
    return folder


def test_page_shows_every_part_of_a_run(tmp_path):
    run = make_run(tmp_path / "night", 3)
    path = write_report(run)
    page = Page(path)
    assert path == run / "report.html"
    assert {"dcgan", "Frechet distance to real images", "18.27", "1797", "keras", "3.15.1"} <= set(page.text)
    assert {"learning_rate", "0.0002", "64, 128", "no", "–"} <= set(page.text)
    assert {"3 epochs", "2 min 0 s", "11 steps/s", "generator loss", "discriminator loss"} <= set(page.text)
    assert list(page.pictures()) == ["samples", "epoch 1", "epoch 2", "epoch 3"]
    assert page.pictures()["samples"].size == (48, 64)
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    assert sorted(p.name for p in run.iterdir() if p.name.startswith(".")) == []


def test_values_are_escaped(tmp_path):
    run = make_run(tmp_path / "a<em>", 1)
    (run / "results.json").write_text('{"<em>": "</main>"}')
    page = Page(write_report(run))
    assert 'a <em> & "c"' in page.text
    assert {str(run), "<em>", "</main>"} <= set(page.text)
    assert "em" not in {tag for tag, _ in page.tags}


def test_page_loads_nothing_from_elsewhere(tmp_path):
    page = Page(write_report(make_run(tmp_path / "run", 2)))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert str(attributes.get(name, "#")).startswith(("data:", "#")), (tag, name)
    assert "url(http" not in page.source and "@import" not in page.source


def test_missing_parts_are_left_out(tmp_path):
    run = tmp_path / "tonight"
    run.mkdir()
    page = Page(write_report(run))
    assert "tonight" in page.text
    assert not {"img", "svg", "h2", "table"} & {tag for tag, _ in page.tags}
    (run / "history.csv").write_text("epoch,loss,accuracy\n1,nan,\n2,nan,0.5\n")
    page = Page(write_report(run))
    assert "accuracy" in page.text and "loss" not in page.text


def test_a_report_that_cannot_be_written_is_one_line(tmp_path, capsys):
    path = write_report(tmp_path / "none")
    said = capsys.readouterr().err
    assert (
        said.startswith(f"warning: {path} could not be created ({tmp_path / 'none'} is not a folder")
        and said.count("\n") == 1
    )
    assert not (tmp_path / "none").exists()


UNREADABLE = [  # what someone may have written over a file of a run
    ("config.json", b"{"),
    ("config.json", b"[1]"),
    ("config.json", b"\xff\xfe{}"),
    ("results.json", b"{"),
    ("results.json", b"[1]"),
    ("results.json", b"null"),
    ("warnings.json", b"{"),
    ("history.csv", b"loss\n1\n"),
    ("history.csv", b"epoch,loss\nx,1\n"),
    ("history.csv", b"epoch,\xff\n1,2\n"),
    ("history.csv", b"epoch,loss\n1,1e308\n2,-1e308\n"),
    ("samples.png", b""),
    ("samples.png", b"\x89PNG\r\n\x1a\n"),
    ("samples/epoch-0001.png", b"no picture"),
]
ODD = [
    ("config.json", b'{"config": [1], "versions": 3, "data": {}}'),
    ("results.json", b'{"a": {"b": [null]}}'),
    ("warnings.json", b'{"warnings": 5}'),
    ("warnings.json", b'{"warnings": [[1], null]}'),
    ("history.csv", b"epoch,loss\n1,2,3,4\n2\n"),
    ("history.csv", b'"'),
]


@pytest.mark.parametrize(("name", "content"), UNREADABLE + ODD)
def test_a_damaged_file_is_left_out_of_the_report_and_named(tmp_path, capsys, name, content):
    run = make_run(tmp_path / "run", 2)
    (run / name).write_bytes(content)
    page = Page(write_report(run))
    assert capsys.readouterr().err == ""
    assert {"Options", "2 epochs", "18.27"} & set(page.text), "the rest is there"
    named = any(text.startswith(name) and "cannot be read" in text for text in page.text)
    assert named == ((name, content) in UNREADABLE)


def test_cut_pictures_never_end_a_report(tmp_path):
    """Pillow raises many kinds of errors, some when an image is loaded and some when it is converted."""
    frames = [Image.effect_noise((30, 20), number) for number in (10, 60)]
    pictures = {}
    for mode in ("RGB", "P", "1", "LA", "I;16"):
        file = io.BytesIO()
        frames[0].convert(mode).save(file, "PNG")
        pictures[f"{mode[0]}.png"] = file.getvalue()
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    pictures["walk.gif"] = file.getvalue()
    random = np.random.default_rng(0)
    for number in range(120):
        name, content = list(pictures.items())[number % len(pictures)]
        changed = bytearray(content[: random.integers(8, len(content) + 1)])
        for place in random.integers(8, len(changed), random.integers(0, 6)) if len(changed) > 8 else ():
            changed[place] = random.integers(256)
        (tmp_path / f"{number}-{name}").write_bytes(changed)
    assert Page(write_report(tmp_path)).pictures()


def test_a_pipe_in_the_run_folder_is_not_waited_for(tmp_path):
    for name in ("results.json", "history.csv", "walk.gif"):
        os.mkfifo(tmp_path / name)
    assert write_report(tmp_path).is_file()


def test_unreadable_and_hidden_pictures_are_left_out(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    save_picture(tmp_path / "cut.png", 64, 64, noise=True)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:6000])
    save_picture(tmp_path / ".samples.draft.png", 8, 8)
    save_picture(tmp_path / "whole.png", 8, 8)
    assert list(Page(write_report(tmp_path)).pictures()) == ["whole"]


def test_pictures_are_embedded_no_larger_than_shown(tmp_path):
    save_picture(tmp_path / "wide_photo.png", 700, 1400, noise=True)
    save_picture(tmp_path / "samples" / "epoch-0001.png", 900, 900, noise=True)
    save_picture(tmp_path / "tiny.png", 8, 8)
    path = write_report(tmp_path)
    pictures = Page(path).pictures()
    assert pictures["wide photo"].size == (1200, 600)
    assert pictures["epoch 1"].size == (600, 600)
    assert pictures["tiny"].size == (8, 8) and pictures["tiny"].format == "PNG"
    assert path.stat().st_size < 2_000_000 < (tmp_path / "wide_photo.png").stat().st_size


def test_animation_stays_an_animation(tmp_path):
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "walk.gif", save_all=True, append_images=frames[1:])
    image = Page(write_report(tmp_path)).pictures()["walk"]
    assert image.format == "GIF" and getattr(image, "n_frames", 1) == 3


def test_samples_are_spread_with_the_newest_last(tmp_path):
    for epoch in (1, 2, 9, 10, 11, 99, 100, 9_999, 10_000, 10_001):
        save_picture(tmp_path / "samples" / f"epoch-{epoch:04d}.png", 4, 4)
    captions = list(Page(write_report(tmp_path)).pictures())
    numbers = [int(str(caption).removeprefix("epoch ")) for caption in captions]
    assert len(numbers) == 8 and numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (1, 10_001)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 15, 200])
def test_spread_is_even(count):
    chosen = [int(path.name) for path in spread_samples([Path(str(i)) for i in range(count)])]
    assert len(chosen) == min(count, 8) == len(set(chosen))
    if count:
        steps = np.diff(chosen)
        assert chosen[0] == 0 and chosen[-1] == count - 1
        assert steps.size == 0 or steps.max() - steps.min() <= 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(18.27364, "18.27"), (0.000123456, "0.0001235"), (123456.7, "123,457"), (1797, "1797"), (True, "yes")],
)
def test_numbers_have_four_digits(value, text):
    assert shown_number(value) == text


def test_scores_are_compared_with_their_baselines():
    scores = shown_scores(
        {
            "l1": 0.03,
            "ssim": 0.85,
            "mean_image_l1": 0.12,
            "unchanged_l1": 0.1,
            "unchanged_ssim": 0.77,
            "test_images": 60,
        },
        shown_number,
    )
    assert scores.columns == [("L1 error", "0 is best"), ("SSIM", "1 is best")]
    assert scores.rows == {"this run": ["0.03", "0.85"], "mean image": ["0.12", ""], "unchanged input": ["0.1", "0.77"]}
    assert scores.others == [("test images", "", "60")]


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ({}, ""),
        ({"images": 3}, "Images: 3."),
        ({"images": 3, "test_accuracy": 0.9}, "Accuracy on test images: 0.9 (1 is best)."),
        ({"l1": 0.03, "ssim": 0.8, "mean_ssim": 0.7}, "SSIM: 0.8 (mean: 0.7; 1 is best)."),
        ({"style": 0.2, "style_of_colours_alone": 0.9}, "Style: 0.2 (of colours alone: 0.9)."),
    ],
)
def test_the_most_important_score_is_a_sentence(results, sentence):
    assert in_a_sentence(shown_scores(results, shown_number)) == sentence


@pytest.mark.parametrize(
    ("results", "rows", "others"),
    [
        ({}, [], []),
        ({"images": 3, "test_images": 4}, [], ["images", "test images"]),  # counts are no scores
        ({"style": 0.2, "style_of_colours_alone": 0.9}, ["this run", "of colours alone"], []),
        ({"frechet_distance": 2.0, "frechet_distance_without_ema": 3.0}, ["this run", "without EMA"], []),
        ({"l1": 1.0, "a_l1": 2.0, "b_a_l1": 3.0}, ["this run", "a", "b a"], []),
        ({"a": 1.0, "b_a": 2.0, "b_a_of_c": 3.0}, ["this run", "b"], ["b a of c"]),
        ({"loss_before": 1.0, "loss_after": 2.0, "note": "x"}, [], ["note", "loss before", "loss after"]),
    ],
)
def test_no_score_is_lost(results, rows, others):
    scores = shown_scores(results, shown_number)
    assert list(scores.rows) == rows and sorted(name for name, _, _ in scores.others) == sorted(others)
    assert sum(map(len, scores.rows.values())) + len(scores.others) == len(results)


def test_parts_are_in_the_order_in_which_they_are_read(tmp_path):
    run = make_run(tmp_path / "run", 2)
    (run / "results.json").write_text('{"l1": 0.03, "unchanged_l1": 0.1, "images": 60}')
    page = Page(write_report(run))
    places = [page.text.index(part) for part in ("Results", "L1 error: 0.03 (unchanged input: 0.1; 0 is best).",
                                                 "Training", "Scores", "unchanged input", "60",
                                                 "Samples over epochs", "Options", "Versions")]  # fmt: skip
    assert places == sorted(places)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 200])
@pytest.mark.parametrize("width", [390, 1200])
def test_browser_shows_all_pictures_without_overflow(tmp_path, epochs, width):
    browsers = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for path in map(shutil.which, browsers) if path), None)
    if browser is None:
        pytest.skip(f"no headless browser: none of {', '.join(browsers)} is installed")
    run = make_run(tmp_path / "run", epochs)
    save_picture(run / f"{'long' * 20}.png", 500, 1400)
    names = [f"{baseline}{name}" for baseline in ("", "unchanged_", "mean_image_")
             for name in ("l1", "distance_of_all_test_images", "psnr")]  # fmt: skip
    (run / "results.json").write_text(json.dumps({"note": "x" * 90} | dict.fromkeys(names, 1.5)))
    probe = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
        loaded: [...document.images].map(image => image.naturalWidth),
        inner: innerWidth, scroll: document.documentElement.scrollWidth}), "*"))</script></body>"""
    page = run / "probe.html"
    page.write_text(write_report(run).read_text(encoding="utf-8").replace("</body>", probe))
    # A frame, because a browser's own window is never as narrow as a phone.
    frame = run / "frame.html"
    frame.write_text(f"""<body><script>
        addEventListener("message", event => document.body.setAttribute("data-probe", event.data))
        </script><iframe src="probe.html" width="{width}" height="900" frameborder="0"></iframe>""")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += f" --disable-background-networking --disable-component-update --user-data-dir={tmp_path / 'profile'}"
    command = [browser, *flags.split(), "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    frame.write_text(done.stdout, encoding="utf-8")
    seen = json.loads(str(dict(Page(frame).tags)["body"]["data-probe"]))
    assert len(seen["loaded"]) == 2 + min(epochs, 8) and all(seen["loaded"])
    assert seen["inner"] == width
    assert seen["scroll"] <= width


def test_scores_that_are_not_finite_are_shown_in_words(tmp_path):
    """Equal targets have an infinite PSNR, which a table compares as every other number."""
    run = make_run(tmp_path / "run", 1)
    write_json(run / "results.json", {"psnr": np.inf, "unchanged_psnr": 12.5, "diversity": np.nan})
    text = Page(write_report(run)).text
    assert "infinite" in text and "12.5" in text and "undefined" in text
