"""Maps as coloured pictures with a scale, and figures with captions, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.frames.noise import to_uint8
from mirnet_edge.workstation.html import axes, picture_uri, plot_image

LINE = (150, 150, 150)
STYLE = """body { max-width: 46rem }
figure { margin: 0 0 1rem } figcaption { font-size: .9rem }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
        gap: 1rem; margin: 1rem 0 }
.maps img { width: 100%; display: block; image-rendering: pixelated }
.scale { display: flex; align-items: center; gap: .5rem; font-size: .8rem }
.maps .scale img { width: auto; min-width: 0; flex: 1; height: .7rem }
.scale { white-space: nowrap }
.not { border-left: 3px solid #c60; padding-left: .7rem }
"""


def heat(
    values: NDArray[Any], low: float, high: float, colours: str = "magma"
) -> NDArray[np.uint8]:
    """(H, W) as (H, W, 3) in the colours of that map of matplotlib, from ``low`` to ``high``."""
    colormaps = require("matplotlib", "drawing a page").colormaps
    share = (values - low) / max(high - low, 1e-300)
    coloured: NDArray[np.uint8] = colormaps[colours](share.clip(0, 1), bytes=True)[..., :3]
    return np.array(coloured)


def ruled(
    picture: NDArray[np.uint8], rows: Iterable[int], columns: Iterable[int]
) -> NDArray[np.uint8]:
    """The picture with gray lines at these rows and columns."""
    for row in rows:
        picture[row] = LINE
    for column in columns:
        picture[:, column] = LINE
    return picture


def squared(picture: NDArray[np.uint8], distances: Iterable[int]) -> NDArray[np.uint8]:
    """The picture with gray squares around its middle, as far as they lie in it."""
    middle = picture.shape[0] // 2
    for distance in distances:
        first, last = middle - distance, middle + distance
        if first >= 0 and last < picture.shape[0]:
            picture[[first, last], first : last + 1] = LINE
            picture[first : last + 1, [first, last]] = LINE
    return picture


def map_figure(
    picture: NDArray[np.uint8],
    caption: str,
    ends: tuple[str, str] | None = None,
    colours: str = "magma",
) -> str:
    """A picture with its caption, and what the ends of its colours stand for."""
    scale = ""
    if ends is not None:
        bar = heat(np.linspace(0, 1, 256)[None], 0, 1, colours)
        low, high = (escape(end) for end in ends)
        scale = (f'<div class="scale">{low}<img src="{picture_uri(bar)}" alt="colours from {low} '
                 f'to {high}">{high}</div>')  # fmt: skip
    return (
        f'<figure><img src="{picture_uri(picture)}" alt="{escape(caption)}">{scale}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def maps(figures: Sequence[str]) -> str:
    """Figures beside each other where there is room."""
    return '<div class="maps">' + "\n".join(figures) + "</div>"


def shown(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W, C) float32 in [0, 1] as 8 bits."""
    return to_uint8(picture)


def text(*paragraphs: str) -> str:
    """Paragraphs of plain text."""
    return "\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)


def place_heat(
    values: NDArray[np.float64],
    names: Sequence[str],
    columns: str,
    colours: str = "magma",
    high: float | None = None,
) -> str:
    """(places, columns) as a plot with the names of the places; NaN stays empty."""
    figure, plot = axes(columns, "", (5.2, 0.9 + 0.22 * len(names)))
    shade = plot.imshow(
        values, aspect="auto", cmap=colours, vmin=0, vmax=high, interpolation="nearest"
    )
    plot.set_yticks(range(len(names)), names, fontsize="small")
    plot.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(shade)
    return plot_image(figure, f"places of the network by {columns}")


def warning(paragraph: str) -> str:
    """What a reader may not conclude."""
    return f'<p class="not">{escape(paragraph)}</p>'


def half_of_weight(weights: NDArray[Any]) -> float:
    """The least share of the places that carries half of the weight; none is negative."""
    sums = np.cumsum(np.sort(weights, axis=None)[::-1], dtype=np.float64)
    return float((np.searchsorted(sums, sums[-1] / 2) + 1) / sums.size)


def decibels(value: float) -> str:
    """For a sentence."""
    return f"{value:.1f} dB" if np.isfinite(value) else "no difference at all"
