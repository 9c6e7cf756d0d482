"""Write the report of a run: a self-contained HTML page with images, scores, curves and settings."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from common.images.decoding import decoded_image
from common.images.figures import new_figure
from common.runs.report_scores import in_a_sentence, shown_scores
from common.system.cluster import is_chief
from common.system.console import attempt
from common.system.files import InputError, first_line, read_numbers, shown_nonfinite, write_text

REPORT_SAMPLES = 8  # largest number of images from samples/
REPORT_STILL_BYTES = 300_000  # a larger still image is embedded as JPEG
REPORT_ANIMATION_BYTES = 4_000_000  # a larger animation is replaced by its first frame


def write_report(output_dir: Path) -> Path:
    """Write `report.html` from the files in a run folder, and return its path.

    The files are config.json, history.csv, results.json, warnings.json, samples/epoch-*.png, and the PNG and GIF images
    in the folder itself. Missing and damaged files are left out, and the page lists the damaged files. Large images are
    reduced to display size, so that the page is at most a few megabytes in size. If several machines train together,
    only the chief writes the report.

    If the report cannot be written, a warning is printed and the run continues.
    """
    path = output_dir / "report.html"
    if is_chief():
        attempt(str(path), lambda: write_text(path, report_page(output_dir)))
    return path


def report_page(output_dir: Path) -> str:
    """Return the report of a run as HTML. Raises InputError if `output_dir` is not a folder."""
    import jinja2

    if not output_dir.is_dir():
        raise InputError(f"{output_dir} is not a folder; expected a run folder")
    problems: list[str] = []

    def part(name: str, empty: Any, read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except Exception as error:  # a damaged file may raise any exception
            problems.append(f"{name} cannot be read and is not shown here ({first_line(error)})")
            return empty

    def objects(name: str) -> dict[str, Any]:
        return part(name, {}, report_json, output_dir / name)

    run, results, warnings = objects("config.json"), objects("results.json"), objects("warnings.json")
    history = part("history.csv", {}, report_history, output_dir / "history.csv")
    files = [path for path in sorted(output_dir.iterdir()) if path.suffix.lower() in (".png", ".gif")]
    files = [path for path in files if path.is_file() and not path.name.startswith(".")]
    images = [part(path.name, None, report_image, path, 1200) for path in files]
    shown = spread_samples(sample_files(output_dir / "samples"))
    samples = [part(f"samples/{path.name}", None, report_image, path, 600) for path in shown]
    facts = [str(output_dir), f"{datetime.now():%Y-%m-%d %H:%M}", *report_pace(history)]
    charts = [part(f"history.csv: {name}", [], report_chart, name, history) for name in history if name != "epoch"]
    settings = {"data": run["data"]} if run.get("data") else {}
    settings |= dict_of(run.get("config"))
    scores = shown_scores(results, shown_number)
    noted = warnings.get("warnings")
    return jinja2.Template(REPORT_PAGE, autoescape=True, trim_blocks=True, lstrip_blocks=True).render(
        recipe=run.get("recipe", output_dir.resolve().name),
        facts=facts,
        warnings=[*(noted if isinstance(noted, list) else ()), *problems],
        images=[image for image in images if image],
        samples=[image for image in samples if image],
        charts=[chart for found in charts for chart in found],
        scores=scores,
        sentence=in_a_sentence(scores),
        settings={name: shown_setting(value) for name, value in settings.items()},
        versions=dict_of(run.get("versions")),
    )


def dict_of(value: object) -> dict[str, Any]:
    """Return `value` if it is a dict, otherwise an empty dict."""
    return value if isinstance(value, dict) else {}


def report_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or {} if there is no file. Raises ValueError if the JSON is not an object."""
    if not path.is_file():
        return {}
    value = read_numbers(path) if path.name == "results.json" else json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def report_history(path: Path) -> dict[str, list[float]]:
    """Return the columns of history.csv by name, or {} if there is no file. Empty cells and text become NaN."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, restval=""))
    columns: dict[str, list[float]] = {}
    for name in filter(None, rows[0] if rows else ()):
        columns[name] = []
        for row in rows:
            try:
                columns[name].append(float(row[name]))
            except (ValueError, TypeError):
                columns[name].append(math.nan)
    if columns and not all(map(math.isfinite, columns.get("epoch", [math.nan]))):
        raise ValueError("the epoch column is missing or has invalid cells")
    return columns


def report_pace(history: dict[str, list[float]]) -> list[str]:
    """Remove the timing columns from `history`. Return the number of epochs, the total time and the speed as text."""
    seconds = [value for value in history.pop("seconds", []) if math.isfinite(value)]
    speeds = sorted(value for value in history.pop("steps_per_second", []) if math.isfinite(value))
    epochs = len(history.get("epoch", []))
    facts = [f"{epochs} epoch{'s' * (epochs != 1)}"] if epochs else []
    if total := round(sum(seconds)):
        hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
        facts.append(f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s")
    if speeds:
        facts.append(f"{shown_number(speeds[len(speeds) // 2])} steps/s")
    return facts


def report_image(path: Path, longest: int) -> dict | None:
    """Return an image's data URI, caption and display size, or raise InputError if it is damaged.

    A still image is resized to at most `longest` pixels per side.
    """
    from PIL import Image

    with decoded_image(path) as image:
        width, height = image.size
        size = path.stat().st_size
        if getattr(image, "is_animated", False):
            keep = size <= REPORT_ANIMATION_BYTES
        else:
            keep = size <= REPORT_STILL_BYTES and max(width, height) <= longest
        if keep:
            image.load()
            mime, data = Image.MIME[str(image.format)], path.read_bytes()
        else:
            small = image.convert("RGB")
            small.thumbnail((longest, longest))
            file = io.BytesIO()
            small.save(file, "JPEG", quality=90)
            mime, data = "image/jpeg", file.getvalue()
    title, _, number = path.stem.replace("_", " ").rpartition("-")
    return {
        "uri": f"data:{mime};base64,{base64.b64encode(data).decode()}",
        "caption": f"{title} {int(number)}" if title and number.isdigit() else path.stem.replace("_", " "),
        "width": width * max(1, 640 // width),
        "height": height * max(1, 640 // width),
        "kind": "small" if width <= 320 else "wide" if width > 1000 or width > 2 * height else "",
    }


def sample_files(folder: Path) -> list[Path]:
    """Return the files epoch-NUMBER.png in `folder`, sorted numerically."""
    return sorted(filter(Path.is_file, folder.glob("epoch-*.png")), key=lambda path: (len(path.name), path.name))


def spread_samples(files: list[Path]) -> list[Path]:
    """Return at most REPORT_SAMPLES of `files`, evenly spaced, including the first and the last."""
    if len(files) <= REPORT_SAMPLES:
        return files
    return [files[round(i * (len(files) - 1) / (REPORT_SAMPLES - 1))] for i in range(REPORT_SAMPLES)]


def report_chart(name: str, history: dict[str, list[float]]) -> list[dict]:
    """Plot a column over the epochs as SVG. Return a list with this chart, or an empty list if no value is finite."""
    pairs = zip(history["epoch"], history[name], strict=True)
    points = [(epoch, value) for epoch, value in pairs if math.isfinite(value)]
    if not points:
        return []
    text, line = "#010203", "#040506"  # placeholders, replaced by the colours of the light or dark theme
    figure = new_figure(3.6, 2.0, facecolor="none")
    from matplotlib import rc_context
    from matplotlib.ticker import MaxNLocator

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        axes = figure.add_subplot(facecolor="none")
        marker = "o" if len(points) < 30 else ""  # a line through a single point is invisible
        axes.plot(*zip(*points, strict=True), color=line, linewidth=1.5, marker=marker, markersize=3)
        axes.set_xlim(points[0][0] - 0.5, points[-1][0] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(color=text, alpha=0.12, linewidth=0.6)
        axes.tick_params(colors=text, labelsize=8, length=0)
        axes.set_xlabel("epoch", color=text, fontsize=8)
        axes.spines[:].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(text, "currentColor").replace(line, "var(--accent)")
    return [{"svg": svg, "caption": name.replace("_", " "), "last": shown_number(points[-1][1])}]


def shown_number(value: object) -> str:
    """Return a score or a loss as text. Floats are shown with four significant digits."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return shown_nonfinite(value)
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return shown_setting(value)


def shown_setting(value: object) -> str:
    """Return a setting as text: list items separated by commas, None as a dash."""
    if isinstance(value, list):
        return ", ".join(map(shown_setting, value))
    texts = {None: "–", True: "yes", False: "no"}
    return texts[value] if value is None or isinstance(value, bool) else str(value)


REPORT_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ recipe }} · {{ facts[0] }}</title>
<style>
:root {
  --page: #fff; --card: #f5f6f8; --rule: #e1e5ea;
  --text: #1b2330; --quiet: #5d6778; --accent: #2563eb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151a; --card: #1b2027; --rule: #2c333d;
    --text: #e8ebf0; --quiet: #9aa5b5; --accent: #7db0ff;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text) }
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 40px 20px 64px }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere }
h2 { margin: 44px 0 14px; font-size: 1.15rem }
header ul { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 8px 0 0; padding: 0; list-style: none }
header li, figcaption { color: var(--quiet); font-size: .9rem; overflow-wrap: anywhere }
figure { margin: 0; min-width: 0 }
figcaption { padding-top: 6px }
figcaption span { float: right }
figcaption b { color: var(--text); font-variant-numeric: tabular-nums }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; background: var(--card) }
img.small { image-rendering: pixelated }
.warnings { margin-top: 28px; padding: 4px 20px 12px; border-left: 4px solid #d97706; background: var(--card) }
.warnings h2 { margin: 12px 0 4px }
.warnings ul { margin: 0; padding-left: 18px }
.images { display: flex; flex-wrap: wrap; gap: 24px }
.images figure { max-width: min(100%, 720px) }
.images figure:has(img.wide) { max-width: 100%; overflow-x: auto }
.images img.wide { min-width: min(640px, 180vw) }
.numbers { display: grid; gap: 12px; margin: 0 }
.numbers { grid-template-columns: repeat(auto-fill, minmax(min(46%, 200px), 1fr)) }
.numbers div { padding: 12px 16px; border-radius: 8px; background: var(--card); overflow-wrap: anywhere }
dt { color: var(--quiet); font-size: .9rem }
dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums }
.grid { display: grid; gap: 20px 16px }
.grid { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)) }
.grid.samples { grid-template-columns: repeat(auto-fill, minmax(min(45%, 240px), 1fr)) }
.grid.samples:has(img.wide) { grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)) }
.grid.samples img { width: 100% }
.chart { padding: 12px; border-radius: 8px; background: var(--card) }
.chart figcaption { padding: 0 4px 8px }
svg { display: block; width: 100%; height: auto }
svg text { font-family: inherit !important }
.scroll { overflow-x: auto }
.scroll + .numbers { margin-top: 24px }
.numbers .good { font-size: .8rem }
.compared { border-collapse: collapse }
.compared th, .compared td { padding: 8px 28px 8px 0; border-bottom: 1px solid var(--rule); text-align: right }
.compared tr > :last-child { padding-right: 0 }
.compared th { font-weight: 400; vertical-align: bottom }
.compared th[scope=row] { text-align: left }
.compared small { display: block; color: var(--quiet) }
.compared td { font-variant-numeric: tabular-nums }
.compared tbody tr:first-child > * { font-weight: 600 }
.options { display: grid; gap: 0 48px; margin: 0 }
.options { grid-template-columns: repeat(auto-fill, minmax(min(100%, 280px), 1fr)) }
.options div { display: flex; justify-content: space-between; gap: 16px }
.options div { padding: 6px 0; border-bottom: 1px solid var(--rule) }
.options dt { font: .85rem/1.7 ui-monospace, "DejaVu Sans Mono", monospace }
.options dd { font-size: 1rem; font-weight: 400; text-align: right; overflow-wrap: anywhere; min-width: 0 }
.sentence { margin: 24px 0 0; font-size: 20px; font-weight: 600 }
@media (max-width: 600px) {
  main { padding-top: 24px }
  .compared th, .compared td { padding-right: 14px }
}
</style>
</head>
<body>
{% macro table(title, rows) %}
{% if rows %}
<section>
<h2>{{ title }}</h2>
<dl class="options">
{% for name, value in rows.items() %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
</section>
{% endif %}
{% endmacro %}
{% macro figures(title, images, kind) %}
{% if images %}
<section>
<h2>{{ title }}</h2>
<div class="{{ kind }}">
{% for image in images %}
<figure>
<img class="{{ image.kind }}" width="{{ image.width }}" height="{{ image.height }}"
 src="{{ image.uri }}" alt="{{ image.caption }}">
<figcaption>{{ image.caption }}</figcaption>
</figure>
{% endfor %}
</div>
</section>
{% endif %}
{% endmacro %}
<main>
<header>
<h1>{{ recipe }}</h1>
<ul>
{% for fact in facts %}
<li>{{ fact }}</li>
{% endfor %}
</ul>
</header>
{% if warnings %}
<section class="warnings" role="note">
<h2>Warnings</h2>
<ul>
{% for warning in warnings %}
<li>{{ warning }}</li>
{% endfor %}
</ul>
</section>
{% endif %}
{{ figures("Results", images, "images") }}
{% if sentence %}
<p class="sentence">{{ sentence }}</p>
{% endif %}
{% if charts %}
<section>
<h2>Training</h2>
<div class="grid">
{% for chart in charts %}
<figure class="chart">
<figcaption>{{ chart.caption }} <span>last <b>{{ chart.last }}</b></span></figcaption>
{{ chart.svg | safe }}
</figure>
{% endfor %}
</div>
</section>
{% endif %}
{% if scores.rows or scores.others %}
<section>
<h2>Scores</h2>
{% if scores.rows %}
<div class="scroll">
<table class="compared">
<thead>
<tr><td></td>
{% for name, good in scores.columns %}
<th scope="col">{{ name }}<small>{{ good }}</small></th>
{% endfor %}
</tr>
</thead>
<tbody>
{% for name, values in scores.rows.items() %}
<tr><th scope="row">{{ name }}</th>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
{% if scores.others %}
<dl class="numbers">
{% for name, good, value in scores.others %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd>{% if good %}<dt class="good">{{ good }}</dt>{% endif %}</div>
{% endfor %}
</dl>
{% endif %}
</section>
{% endif %}
{{ figures("Samples over epochs", samples, "grid samples") }}
{{ table("Options", settings) }}
{{ table("Versions", versions) }}
</main>
</body>
</html>
"""
