"""What the HTML pages of this package are made of: pictures, plots and tables as text that needs no
other file, and the page around them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from string import Template
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from mirnet_edge._imports import require

PAGE = Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1c1c1c; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .15rem .8rem .15rem 0; text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
img { max-width: 100%; height: auto }
.pair { position: relative; width: min(100%, 40rem) }
.pair img { display: block; width: 100% }
.pair img + img { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)) }
input[type=range] { width: min(100%, 40rem) }
$style</style>
<h1>$title</h1>
$sections
</html>
"""
)
SLIDER = Template(
    """<div class="pair" id="pair"><img src="$before" alt="before"><img src="$after" alt="after">
</div>
<input type="range" id="divider" min="0" max="100" value="50" aria-label="before and after"
 oninput="document.getElementById('pair').style.setProperty('--at', this.value + '%')">"""
)


def page(title: str, sections: Sequence[str], style: str = "") -> str:
    """A whole page; ``sections`` are HTML, ``style`` is more of CSS."""
    return PAGE.substitute(title=escape(title), sections="\n".join(sections), style=style)


def slider(before: NDArray[Any], after: NDArray[Any]) -> str:
    """Two (H, W, 3) uint8 pictures of one size, with a divider to move; once in a page."""
    return SLIDER.substitute(before=picture_uri(before), after=picture_uri(after))


def axes(x: str, y: str, size: tuple[float, float] = (8, 4)) -> tuple[Any, Any]:
    """A figure of matplotlib, ``size`` inches wide and high, and its axes with these labels."""
    matplotlib = require("matplotlib.figure", "drawing a page")
    figure = matplotlib.Figure(figsize=size, layout="constrained")
    plot = figure.subplots()
    plot.set_xlabel(x)
    plot.set_ylabel(y)
    return figure, plot


def plot_image(figure: Any, alt: str) -> str:
    """A figure of matplotlib as an image."""
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return f'<p><img src="{data_uri("image/svg+xml", file)}" alt="{escape(alt)}"></p>'


def picture_uri(pixels: NDArray[Any]) -> str:
    """(H, W) or (H, W, 3) uint8 as the source of an image, without loss."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return data_uri("image/png", file)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table; the first is its head."""
    lines = [
        "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row)
        for kind, row in zip(("th", *["td"] * (len(rows) - 1)), rows, strict=True)
    ]
    return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"


def data_uri(kind: str, file: io.BytesIO) -> str:
    """The content of a file, of that media type, as the source of an image."""
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
