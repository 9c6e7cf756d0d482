"""Equations for the web site: TeX becomes SVG when the site is built, so that it needs neither scripts nor fonts.

GitHub renders `$...$` and blocks in the language `math` by itself. Matplotlib, which the project needs anyway, draws
the same TeX here, as long as it stays within Matplotlib's subset (mathtext); a test tries every equation.
"""

from __future__ import annotations

import functools
import html
import re

FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)  # a block of code or of TeX
EM = 12  # font size in points of the drawing


def with_equations(markdown: str) -> str:
    """Return a document with SVG in place of its equations."""
    parts = FENCE.split(markdown)
    for number, part in enumerate(parts):
        if part.startswith("```math\n"):
            tex = part.removeprefix("```math\n").removesuffix("\n```")
            drawn = svg(tex.replace(r"\frac", r"\dfrac"), 1.25)  # TeX does this by itself outside of a line of text
            parts[number] = f'<div style="overflow-x: auto; margin: 1em 0">{drawn}</div>'
        elif not number % 2:
            parts[number] = re.sub(r"(?<![\\`$\w])\$([^\s$`][^$`\n]*)\$(?![\w$])", lambda found: svg(found[1]), part)
    return "".join(parts)


@functools.cache
def svg(tex: str, scale: float = 1.0) -> str:
    """Return an equation as an SVG image in the colour of the text around it. Raises ValueError for unknown TeX."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser
    from matplotlib.textpath import TextPath

    font = FontProperties(size=EM, math_fontfamily="stix")
    box = MathTextParser("path").parse(f"${tex}$", 72, font)
    commands = []
    for points, code in TextPath((0, 0), f"${tex}$", prop=font).iter_segments(simplify=False):
        flipped = points * ([1, -1] * (len(points) // 2))  # the y axis of SVG points down
        commands.append("Z" if code == 79 else "MLQC"[int(code) - 1] + " ".join(f"{value:.4g}" for value in flipped))
    em = scale / EM
    view = f"0 {-box.height:.2f} {box.width:.2f} {box.height + box.depth:.2f}"
    size = f"width: {box.width * em:.2f}em; height: {(box.height + box.depth) * em:.2f}em"
    return (
        f'<svg role="img" aria-label="{html.escape(tex)}" viewBox="{view}" fill="currentColor" '
        f'style="{size}; max-width: none; overflow: visible; vertical-align: {-box.depth * em:.2f}em">'
        f'<path d="{"".join(commands)}"/></svg>'
    )
