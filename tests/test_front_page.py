"""The README as GitHub shows it: in a browser, at three widths."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What GitHub's style sheet says about sizes (github-markdown-css 5.8).
STYLE = """
body { margin: 0; padding: 16px; font: 16px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif;
       overflow-wrap: break-word; box-sizing: border-box }
img { max-width: 100%; box-sizing: content-box }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-spacing: 0;
        border-collapse: collapse; margin: 0 0 16px }
th, td { padding: 6px 13px; border: 1px solid #d1d9e0 }
code { font: 85% ui-monospace, SFMono-Regular, "Liberation Mono", monospace; padding: .2em .4em;
       white-space: break-spaces; background: #818b981f; border-radius: 6px }
pre { font-size: 85%; line-height: 1.45; padding: 16px; overflow: auto; background: #f6f8fa; border-radius: 6px;
      margin: 0 0 16px }
pre code { font-size: 100%; padding: 0; white-space: pre; background: none; overflow: visible }
"""
SIZES = """() => ({
    images: [...document.images].map(image => [image.getAttribute("src"), image.naturalWidth,
        image.getBoundingClientRect().width, image.getBoundingClientRect().height]),
    overflowing: [...document.querySelectorAll("pre")].filter(box => box.scrollWidth > box.clientWidth)
        .map(box => box.innerText),
    tables: [...document.querySelectorAll("table")].map(table => table.scrollWidth - table.clientWidth),
    page: document.documentElement.scrollWidth})"""


def shown(document: Path) -> str:
    """Return a Markdown document as the HTML that GitHub makes of it; its images are found from the document's folder.

    GitHub also removes what may be harmful, such as scripts; the README has none.
    """
    markdown = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed").MarkdownIt
    body = markdown("commonmark", {"html": True}).enable("table").render(document.read_text(encoding="utf-8"))
    head = f'<meta charset="utf-8"><base href="{document.parent.as_uri()}/"><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1012, 1280])
def test_the_readme_is_readable_at_this_width(browser, tmp_path, width):
    path = tmp_path / "readme.html"
    path.write_text(shown(ROOT / "README.md"), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(path.as_uri())
    sizes = page.evaluate(SIZES)
    assert len(sizes["images"]) == 2 + 22
    for source, natural, across, down in sizes["images"]:
        assert natural and across >= 100 and down >= 20, source
    assert width < 1012 or sizes["overflowing"] == []
    assert sizes["page"] == width and set(sizes["tables"]) == {0}, "neither the page nor a table scrolls sideways"


@pytest.mark.slow
def test_a_long_line_and_a_small_image_would_be_seen(browser, tmp_path):
    (tmp_path / "long.md").write_text(
        f"<img src='{ROOT / 'docs/gallery/gan.jpg'}' width='80'>\n\n```\n{'x' * 140}\n```\n"
    )
    path = tmp_path / "long.html"
    path.write_text(shown(tmp_path / "long.md"), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1012, "height": 900})
    page.goto(path.as_uri())
    sizes = page.evaluate(SIZES)
    assert [across for _, _, across, _ in sizes["images"]] == [80]
    assert [len(text.strip()) for text in sizes["overflowing"]] == [140]
