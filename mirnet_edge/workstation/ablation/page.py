"""An ablation as tables in Markdown, and as plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require
from mirnet_edge.workstation.ablation.record import (
    CONFIDENCE,
    ONE_SEED,
    RECORD,
    Ablation,
    Comparison,
    Verdict,
)
from mirnet_edge.workstation.ablation.study import write_json
from mirnet_edge.workstation.ablation.variants import VARIANTS

PAGE, PLOT = "ablation.md", "ablation.png"
Table = list[list[str]]
"""Rows of cells; the first is the head."""


def write_ablation(found: Ablation, folder: Path) -> list[Path]:
    """Write record, page and plots; their paths."""
    paths = [folder / name for name in (RECORD, PAGE, PLOT)]
    write_json(paths[0], found.to_json())
    with atomic_path(paths[1]) as temporary:
        temporary.write_text(page_of(found), encoding="utf-8")
    with atomic_path(paths[2]) as temporary:
        _plot(found).savefig(temporary, dpi=120)
    return paths


def page_of(found: Ablation) -> str:
    """The page: what was trained, rows, claims."""
    parts = ["# Ablation", *sections(found, "##")]
    parts.append(f"![PSNR over cost, and agreement of tiles]({PLOT})")
    return "\n\n".join(parts) + "\n"


def sections(found: Ablation, heading: str) -> list[str]:
    """What was trained, rows, claims, below headings that begin with ``heading``."""
    study = found.study
    parts = [
        f"Task {study.task}, {study.batch} patches a step of {study.patch_px}×{study.patch_px} "
        f"pixels where a row says no other, learning rate {study.learning_rate:g}."
    ]
    for each in found.comparisons:
        parts += [f"{heading} {title_of(each)}", _markdown(scores_table(each)), _sentence(each)]
    parts += [f"{heading} What rows cost", _markdown(costs_table(found))]
    if found.claims():
        parts += [
            f"{heading} Claims",
            f"A difference of means that is larger than the spread over seeds ({CONFIDENCE:.0%}, "
            "Student's t, variances pooled over the rows with several seeds) holds, or does not.",
            _markdown(claims_table(found)),
        ]
    return parts


def title_of(found: Comparison) -> str:
    """What its rows have in common."""
    if found.unit == "steps":
        return f"At equal steps: {found.amount:g}"
    return f"At equal time: {found.amount:g} minutes each"


def scores_table(found: Comparison) -> Table:
    """Rows of a comparison, best first; dB."""
    sets = list(dict.fromkeys(name for row in found.rows.values() for run in row.runs
                              for name in run["psnr"]))  # fmt: skip
    table = [["row", *sets, "mean, dB", "seeds", "patch", "steps", "s", "tiles, dB"]]
    for row in found.rows.values():
        of_sets = [_mean([run["psnr"].get(name, math.nan) for run in row.runs]) for name in sets]
        scores = row.scores
        over = f" ± {(max(scores) - min(scores)) / 2:.2f}" if len(scores) > 1 else ""
        table.append([
            row.name,
            *(f"{score:.2f}" for score in of_sets),
            f"{row.mean:.2f}{over}",
            " ".join(str(run["seed"]) for run in row.runs),
            str(row.runs[0]["patch_px"]),
            f"{_mean([run['steps'] for run in row.runs]):.0f}",
            f"{_mean([run['seconds'] for run in row.runs]):.0f}",
            "∞" if math.isinf(row.tiles_db) else f"{row.tiles_db:.1f}",
        ])  # fmt: skip
    return table


def costs_table(found: Ablation) -> Table:
    """What each row is, and costs."""
    table = [["row", "", "parameters", "GMAC at 256²", "ms", "of"]]
    for name in found.names:
        cost, about = found.costs.get(name), VARIANTS[name].about
        if not VARIANTS[name].is_exportable:
            about += " (for this comparison alone)"
        cells = ["–"] * 4
        if cost:
            height, width = cost["size"]
            cells = [f"{cost['parameters'] / 1e6:.3f} M", f"{cost['gmac_256']:.2f}", "–", "–"]
            if cost["ms"] is not None:
                cells[2:] = [f"{cost['ms']:.2f}", f"{height}×{width}, {cost['engine']}"]
        table.append([name, about, *cells])
    return table


def claims_table(found: Ablation) -> Table:
    """Each claim, and what became of it."""
    heads = [f"at equal {'time' if each.unit == 'minutes' else 'steps'}"
             for each in found.comparisons]  # fmt: skip
    table = [["claim", "of", "rows", *heads]]
    for claim, verdicts in found.claims():
        pair = f"{claim.better} > {claim.worse}"
        table.append([claim.text, claim.source, pair, *map(_verdict, verdicts)])
    return table


def _verdict(found: Verdict) -> str:
    if found.difference_db is None:
        return found.said
    least = "" if found.least_db is None else f", spread {found.least_db:.2f}"
    return f"{found.said} ({found.difference_db:+.2f} dB{least})"


def _sentence(found: Comparison) -> str:
    deviation, _ = found.spread()
    said = f"{ONE_SEED}: no row has several seeds." if deviation is None else (
        f"Standard deviation over seeds: {deviation:.3f} dB."
    )  # fmt: skip
    said = said[0].upper() + said[1:]
    closest = found.closest()
    return f"{said} Closest together: {', '.join(closest)}." if closest else said


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _markdown(table: Table) -> str:
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plot(found: Ablation) -> Any:
    """A figure: for each comparison PSNR over milliseconds, over parameters, and the tiles'
    agreement over PSNR."""
    matplotlib = require("matplotlib.figure", "drawing an ablation")
    count = max(len(found.comparisons), 1)
    figure = matplotlib.Figure(figsize=(16, 5 * count), layout="constrained")
    panels = figure.subplots(count, 3, squeeze=False)
    for axes, each in zip(panels, found.comparisons):
        for axis, (key, label) in zip(axes, (("ms", "ms"), ("parameters", "parameters"))):
            points = [
                (cost[key], row.mean, row.name)
                for row in each.rows.values()
                if (cost := found.costs.get(row.name)) and cost[key] is not None
            ]
            _scatter(axis, points, label, "PSNR, dB")
            if points:
                axis.set_xscale("log")
        points = [(row.mean, row.tiles_db, row.name) for row in each.rows.values()
                  if math.isfinite(row.tiles_db)]  # fmt: skip
        _scatter(axes[2], points, "PSNR, dB", "tiles against the frame, dB")
        axes[0].set_title(title_of(each))
    return figure


def _scatter(
    axis: Any, points: Sequence[tuple[float, float, str]], across: str, upwards: str
) -> None:
    axis.set(xlabel=across, ylabel=upwards)
    for x, y, name in points:
        axis.scatter([x], [y], color="C0" if VARIANTS[name].family == "v2" else "C1")
        axis.annotate(name, (x, y), fontsize="x-small", xytext=(3, 3), textcoords="offset points")
