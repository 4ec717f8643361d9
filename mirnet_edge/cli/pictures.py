"""``restore`` for pictures: its options, and what is said of a result."""

from __future__ import annotations

from typing import Any

import click

from mirnet_edge.cli.console import option_group, read_count
from mirnet_edge.files.remote import AnyJob
from mirnet_edge.frames.formats import FORMATS

CHOICES = [suffix.removeprefix(".") for suffix in FORMATS]
picture_options = option_group(
    click.option("--format", "form", type=click.Choice(CHOICES, case_sensitive=False),
                 help="Of pictures: what they are written as; by default as they were read."),
    click.option("--quality", type=click.IntRange(1, 100),
                 help="Of JPEG (95 by default), AVIF (90), WebP and JPEG XL (lossless)."),
    click.option("--max-pixels", type=read_count, metavar="PIXELS",
                 help="Read pictures of so many pixels, as 500M, and no larger ones; by default "
                 "what memory holds, but none that are far larger than their files."),
)  # fmt: skip
"""Of a command that restores pictures; of videos none matters."""


def picture_line(job: AnyJob, result: dict[str, Any]) -> str:
    """What is said of a picture that was restored."""
    width, height, scale = (result[name] for name in ("width", "height", "scale"))
    larger = "" if scale == 1 else f" -> {scale * width}x{scale * height}"
    start = f"{job.name} -> {job.target}  {width}x{height}{larger}  "
    if "frames" in result:
        return f"{start}{result['frames']} frames  {result['ms']:.0f} ms"
    milliseconds = result["load_ms"] + result["engine_ms"] + result["store_ms"]
    passes = f"{result['passes']} passes  " if result["passes"] > 1 else ""
    noise = "" if result["noise"] is None else f"noise {result['noise']:.1f}  "
    tiles = "1 tile" if result["tiles"] == 1 else f"{result['tiles']} tiles"
    return f"{start}{tiles}  {noise}{passes}{milliseconds:.0f} ms"
