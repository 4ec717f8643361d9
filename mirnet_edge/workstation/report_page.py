"""One HTML page of records: tables, plots and a picture before | after, in a file that needs no
other."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge._imports import require
from mirnet_edge.bundled import PHOTO, bundled_models
from mirnet_edge.restore import Restorer
from mirnet_edge.workstation.records import PARTS, Json, read_records

MODEL, SIGMA, CROP_PX = "edge-s-denoise", 25.0, 320
MOST_PARTS = 12
"""Bars of one plot; what comes after is in the table."""
QUALITY_DATA = "polyu"
PAGE = Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mirnet-edge report</title>
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
</style>
<h1>mirnet-edge report</h1>
$sections
</html>
"""
)
SLIDER = Template(
    """<h2>Before | after</h2>
<p>The bundled photo with noise of $sigma / 255, and what $model makes of it.</p>
<div class="pair" id="pair"><img src="$before" alt="before"><img src="$after" alt="after"></div>
<input type="range" id="divider" min="0" max="100" value="50" aria-label="before and after"
 oninput="document.getElementById('pair').style.setProperty('--at', this.value + '%')">"""
)


def write_report(
    records: Iterable[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    picture: bool = True,
    overwrite: bool = False,
) -> None:
    """Write a page of records.

    Args:
        records: files, see `read_records`.
        picture: restore the bundled photo with the bundled model for it.

    Raises:
        DataError: a record is none, or of another schema.
        OutputError: the page cannot be written, or is there already.
        MissingDependencyError: matplotlib is not installed.
    """
    require_new(Path(path), overwrite)
    found = read_records(records)
    sections = [
        *_races(found.races),
        *(part for name, frame in found.frames.items() for part in _frame(name, frame)),
        *(part for name, profile in found.profiles.items() for part in _profile(name, profile)),
        *([_slider()] if picture else []),
    ]
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(PAGE.substitute(sections="\n".join(sections)), encoding="utf-8")


def _races(races: Sequence[Json]) -> list[str]:
    """Every peer on every network and shape, and those beside the quality of their network."""
    if not races:
        return []
    rows = [["network, shape", "peer", "form", "p50 ms", "p90", "p99"]]
    for race in sorted(races, key=lambda race: (race["network"], race["shape"], race["peer"])):
        for form, times in race["rows"]:
            cells = ["failed", "", ""] if times is None else [f"{ms:.3f}" for ms in times.values()]
            rows.append([f"{race['network']}, {race['shape']}", race["peer"], form, *cells])
    gpus = ", ".join(sorted({race["gpu"] for race in races}))
    return ["<h2>Every peer</h2>", f"<p>{escape(gpus)}</p>", _table(rows), *_quality(races)]


def _quality(races: Sequence[Json]) -> list[str]:
    """PSNR of the bundled models by the time of their networks; empty where there is none."""
    psnr = {
        model.card["preset"]: figure["restored"]["psnr"]
        for model in bundled_models()
        for figure in model.card["figures"]
        if figure["data"] == QUALITY_DATA and figure["method"] == "model"
        and figure["noise"] in ("", "auto")
    }  # fmt: skip
    points = [
        (times["p50"], psnr[race["network"]], f"{race['network']}, {race['peer']}, {race['shape']}")
        for race in races
        for _, times in race["rows"]
        if times is not None and race["network"] in psnr
    ]
    if not points:
        return []
    figure, axes = _axes("ms a run (median)", f"PSNR, dB ({QUALITY_DATA})")
    for ms, db, label in points:
        axes.scatter([ms], [db], label=label)
    axes.set_xscale("log")
    axes.legend(fontsize="small")
    return ["<h2>Quality against speed</h2>", _image(figure, "quality against speed")]


def _frame(name: str, frame: Json) -> list[str]:
    """Where the time of a frame goes, one by one and as a stream."""
    sections = [f"<h2>{escape(name)}</h2>"]
    rows = [["ms", *(f"{part}, {of}" for part in ("one by one", "stream")
                     for of in ("p50", "p90", "p99"))]]  # fmt: skip
    ways = [frame[way]["latency"] for way in ("one_by_one", "stream")]
    for part in PARTS:
        rows.append([part, *(f"{of[part][p]:.3f}" for of in ways for p in ("p50", "p90", "p99"))])
    figure, axes = _axes("", "ms")
    places = np.arange(len(PARTS))
    for index, percentile in enumerate(("p50", "p90", "p99")):
        heights = [ways[0][part][percentile] for part in PARTS]
        axes.bar(places + 0.27 * (index - 1), heights, 0.25, label=percentile)
    axes.set_xticks(places, PARTS)
    axes.set_yscale("log")
    axes.legend()
    rates = " and ".join(
        f"{frame[way]['frames_per_second']:.1f} {told}"
        for way, told in (("one_by_one", "one by one"), ("stream", "as a stream"))
    )
    return [*sections, f"<p>Frames per second: {rates}.</p>",
            _image(figure, f"latency of {name}"), _table(rows)]  # fmt: skip


def _profile(name: str, profile: Json) -> list[str]:
    """Time, floor and bytes by kind of layer and by module."""
    sections = [f"<h2>{escape(name)}: where the time goes</h2>"]
    for key, title in (("kinds", "kind of layer"), ("modules", "module")):
        parts = profile[key]
        figure, axes = _axes("ms", "")
        shown = parts[:MOST_PARTS][::-1]
        names = [part["name"] for part in shown]
        axes.barh(names, [part["time_ms"] for part in shown], label="measured")
        axes.barh(names, [part["floor_ms"] for part in shown], 0.3, label="floor")
        axes.legend()
        rows = [[title, "ms", "floor ms", "MB"]]
        for part in parts:
            rows.append([part["name"], f"{part['time_ms']:.3f}", f"{part['floor_ms']:.3f}",
                         f"{part['bytes_moved'] / 1e6:.1f}"])  # fmt: skip
        sections += [_image(figure, f"time by {title}"), _table(rows)]
    return sections


def _slider() -> str:
    with Image.open(PHOTO) as photo:
        clean = np.asarray(photo.convert("RGB"))[:CROP_PX, :CROP_PX].astype(np.float32)
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, SIGMA, clean.shape)
    before = np.clip(clean + noise, 0, 255).round().astype(np.uint8)
    with Restorer(MODEL) as restore:
        after = np.asarray(restore(before))
    return SLIDER.substitute(
        sigma=f"{SIGMA:g}", model=MODEL, before=_picture(before), after=_picture(after)
    )


def _axes(x: str, y: str) -> tuple[Any, Any]:
    matplotlib = require("matplotlib.figure", "drawing a report")
    figure = matplotlib.Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _image(figure: Any, alt: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return f'<p><img src="{_uri("image/svg+xml", file)}" alt="{escape(alt)}"></p>'


def _picture(pixels: np.ndarray[Any, Any]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return _uri("image/png", file)


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of HTML; the first is its head."""
    lines = [
        "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row)
        for kind, row in zip(("th", *["td"] * (len(rows) - 1)), rows, strict=True)
    ]
    return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"
