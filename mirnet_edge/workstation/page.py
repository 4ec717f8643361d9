"""One HTML page of an evaluation: given, restored and wanted picture of each row, with figures; a
file that needs no other."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge.frames.noise import to_uint8
from mirnet_edge.workstation.evaluate import Evaluation, Score
from mirnet_edge.workstation.html import data_uri, page, table
from mirnet_edge.workstation.protocols import Figures, Sample

MOST_PX = 720
"""Sides of the shown pictures: what is larger is shown smaller. Figures are of the whole ones."""
STYLE = """body { max-width: 110rem }
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; margin: 0 0 2rem }
figure { margin: 0 } img { width: 100%; display: block } h2 { font-size: 1rem }
@media (max-width: 45rem) { .row { grid-template-columns: 1fr } }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #181818 } }
"""


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
        noise = asked if isinstance(asked, str) else f"{asked:g}"
        said = (
            f"{evaluation.sentence}. {len(evaluation.scores)} pictures, noise level: {noise}. "
            f"Pictures are shown as JPEG, at most {MOST_PX} pixels wide or high."
        )
        rows = [["picture", *(head for head, _, _ in columns)]]
        for score in (*evaluation.scores, evaluation.mean):
            kinds: Mapping[str, Figures] = {"given": score.given, "restored": score.restored}
            rows.append(
                [score.name, *(_number(kinds[kind][name], name) for _, kind, name in columns)]
            )
        lines = [f"<p>{escape(line)}</p>" for line in (said, *_notes(evaluation))]
        text = page(self.title, [*lines, table(rows), *self._pictures], STYLE)
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _notes(evaluation: Evaluation) -> list[str]:
    reasons = (f"left out: {reason}" for reason in evaluation.skipped)
    return [*[evaluation.note] * bool(evaluation.note), *reasons]


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
    return data_uri("image/jpeg", file)
