"""One HTML page of an evaluation: given, restored and wanted picture of each row, with figures; a
file that needs no other."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge.frames.noise import to_uint8
from mirnet_edge.workstation.evaluate import Evaluation, Score
from mirnet_edge.workstation.protocols import Figures, Sample

MOST_PX = 720
"""Sides of the shown pictures: what is larger is shown smaller. Figures are of the whole ones."""
PAGE = Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem; padding: 0 1rem;
       color: #1c1c1c; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .15rem .8rem .15rem 0; text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; margin: 0 0 2rem }
figure { margin: 0 } img { width: 100%; height: auto; display: block } h2 { font-size: 1rem }
@media (max-width: 45rem) { .row { grid-template-columns: 1fr } }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #181818 } }
</style>
<h1>$title</h1>
<p>$sentence. $count pictures, noise level: $noise. Pictures are shown as JPEG, at most $most pixels
wide or high.</p>
$notes
<table>
<tr><th>picture</th>$heads</tr>
$rows
</table>
$pictures
</html>
"""
)


class Page:
    """Collects what `evaluate_model` observes, and writes it.

    Args:
        title: of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._pictures: list[str] = []

    def observe(self, score: Score, sample: Sample, restored: NDArray[np.float32]) -> None:
        """Keep the three pictures of a score, as JPEG."""
        name = escape(score.name)
        told = "" if score.noise is None else f", level {score.noise:.1f}"
        captions = (
            f"given, {_decibels(score.given)}",
            f"restored, {_decibels(score.restored)}{told}",
            "wanted",
        )
        shown = zip((sample.before, restored, sample.reference), captions)
        figures = "".join(
            f'<figure><img src="{_data_uri(picture)}" alt="{name}, {escape(caption)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for picture, caption in shown
        )
        self._pictures.append(f'<h2>{name}</h2>\n<div class="row">{figures}</div>')

    def write(self, path: Path, evaluation: Evaluation, overwrite: bool = False) -> None:
        """Write the page, whole or not at all.

        Raises:
            OutputError: it cannot be written, or is there already.
        """
        require_new(path, overwrite)
        columns = [(f"{kind}, {title}", kind, name) for name, title in evaluation.titles.items()
                   for kind in ("given", "restored")]  # fmt: skip
        asked = evaluation.noise
        text = PAGE.substitute(
            title=escape(self.title),
            sentence=escape(evaluation.sentence),
            count=len(evaluation.scores),
            noise=escape(asked if isinstance(asked, str) else f"{asked:g}"),
            most=MOST_PX,
            notes="\n".join(_notes(evaluation)),
            heads="".join(f"<th>{escape(head)}</th>" for head, _, _ in columns),
            rows="\n".join(
                _row(score, [(kind, name) for _, kind, name in columns])
                for score in (*evaluation.scores, evaluation.mean)
            ),
            pictures="\n".join(self._pictures),
        )
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _notes(evaluation: Evaluation) -> list[str]:
    said = [evaluation.note] * bool(evaluation.note)
    said += [f"left out: {reason}" for reason in evaluation.skipped]
    return [f"<p>{escape(line)}</p>" for line in said]


def _row(score: Score, columns: list[tuple[str, str]]) -> str:
    kinds: Mapping[str, Figures] = {"given": score.given, "restored": score.restored}
    cells = (f"<td>{_number(kinds[kind][name], name)}</td>" for kind, name in columns)
    return f"<tr><td>{escape(score.name)}</td>{''.join(cells)}</tr>"


def _number(value: float, name: str) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    return f"{value:.4f}" if name == "ssim" else f"{value:.2f}"


def _decibels(figures: Figures) -> str:
    return f"{_number(figures['psnr'], 'psnr')} dB"


def _data_uri(picture: NDArray[np.float32]) -> str:
    pixels = to_uint8(picture)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((MOST_PX, MOST_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
