"""One HTML page of records: tables, plots and a picture before | after, in a file that needs no
other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge.bundled import PHOTO, bundled_models
from mirnet_edge.restore import Restorer
from mirnet_edge.workstation.html import axes, page, plot_image, slider, table
from mirnet_edge.workstation.records import PARTS, Json, read_records

MODEL, SIGMA, CROP_PX = "edge-s-denoise", 25.0, 320
MOST_PARTS = 12
"""Bars of one plot; what comes after is in the table."""
QUALITY_DATA = "polyu"


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
        temporary.write_text(page("mirnet-edge report", sections), encoding="utf-8")


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
    return ["<h2>Every peer</h2>", f"<p>{escape(gpus)}</p>", table(rows), *_quality(races)]


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
    figure, plot = axes("ms a run (median)", f"PSNR, dB ({QUALITY_DATA})")
    for ms, db, label in points:
        plot.scatter([ms], [db], label=label)
    plot.set_xscale("log")
    plot.legend(fontsize="small")
    return ["<h2>Quality against speed</h2>", plot_image(figure, "quality against speed")]


def _frame(name: str, frame: Json) -> list[str]:
    """Where the time of a frame goes, one by one and as a stream."""
    sections = [f"<h2>{escape(name)}</h2>"]
    rows = [["ms", *(f"{part}, {of}" for part in ("one by one", "stream")
                     for of in ("p50", "p90", "p99"))]]  # fmt: skip
    ways = [frame[way]["latency"] for way in ("one_by_one", "stream")]
    for part in PARTS:
        rows.append([part, *(f"{of[part][p]:.3f}" for of in ways for p in ("p50", "p90", "p99"))])
    figure, plot = axes("", "ms")
    places = np.arange(len(PARTS))
    for index, percentile in enumerate(("p50", "p90", "p99")):
        heights = [ways[0][part][percentile] for part in PARTS]
        plot.bar(places + 0.27 * (index - 1), heights, 0.25, label=percentile)
    plot.set_xticks(places, PARTS)
    plot.set_yscale("log")
    plot.legend()
    rates = " and ".join(
        f"{frame[way]['frames_per_second']:.1f} {told}"
        for way, told in (("one_by_one", "one by one"), ("stream", "as a stream"))
    )
    return [*sections, f"<p>Frames per second: {rates}.</p>",
            plot_image(figure, f"latency of {name}"), table(rows)]  # fmt: skip


def _profile(name: str, profile: Json) -> list[str]:
    """Time, floor and bytes by kind of layer and by module."""
    sections = [f"<h2>{escape(name)}: where the time goes</h2>"]
    for key, title in (("kinds", "kind of layer"), ("modules", "module")):
        parts = profile[key]
        figure, plot = axes("ms", "")
        shown = parts[:MOST_PARTS][::-1]
        names = [part["name"] for part in shown]
        plot.barh(names, [part["time_ms"] for part in shown], label="measured")
        plot.barh(names, [part["floor_ms"] for part in shown], 0.3, label="floor")
        plot.legend()
        rows = [[title, "ms", "floor ms", "MB"]]
        for part in parts:
            rows.append([part["name"], f"{part['time_ms']:.3f}", f"{part['floor_ms']:.3f}",
                         f"{part['bytes_moved'] / 1e6:.1f}"])  # fmt: skip
        sections += [plot_image(figure, f"time by {title}"), table(rows)]
    return sections


def _slider() -> str:
    with Image.open(PHOTO) as photo:
        clean = np.asarray(photo.convert("RGB"))[:CROP_PX, :CROP_PX].astype(np.float32)
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, SIGMA, clean.shape)
    before = np.clip(clean + noise, 0, 255).round().astype(np.uint8)
    with Restorer(MODEL) as restore:
        after = np.asarray(restore(before))
    said = f"The bundled photo with noise of {SIGMA:g} / 255, and what {MODEL} makes of it."
    return f"<h2>Before | after</h2>\n<p>{said}</p>\n{slider(before, after)}"
