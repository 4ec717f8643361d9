"""What the commands share: where they print, progress bars, and option types."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from mirnet_edge.pooling.passes import MODES

Command = Callable[..., Any]


def out() -> Console:
    """Where results go."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def err() -> Console:
    """Where progress and errors go, so that results can be piped."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def fail(message: str) -> None:
    """Print an error."""
    err().print(Text.assemble(("error: ", "bold red"), message))


def print_json(value: Any) -> None:
    """Print a value as JSON, see `json_text`."""
    click.echo(json_text(value))


def json_text(value: Any) -> str:
    """A value, dataclasses and paths included, as JSON; infinite numbers become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def print_table(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Print a table, the first column left, the others right aligned."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        first = index == 0
        justify: Literal["left", "right"] = "left" if first else "right"
        table.add_column(column, justify=justify, no_wrap=first, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    out().print(table)


class RateColumn(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} {self.unit}/s")


def progress_bar(
    unit: str, *columns: ProgressColumn, count: bool = True, quiet: bool = False
) -> Progress:
    """A bar on standard error with the rate and the time left, gone when done; none where standard
    error is no terminal."""
    console = err()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *([MofNCompleteColumn()] if count else []),
        RateColumn(unit),
        TimeRemainingColumn(),
        *columns,
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )


def phase_bar(quiet: bool = False) -> Progress:
    """A bar for what goes on in phases, whose ends nobody knows: with the time it has taken."""
    console = err()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )


class SizeType(click.ParamType):  # type: ignore[type-arg]
    """``512`` or ``384x640`` (height x width)."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value))
        if match is None:
            self.fail(f"{value!r}: give pixels, as 512 or 384x640 (height x width)", param, ctx)
        return int(match[1]), int(match[2] or match[1])


class TileType(SizeType):
    """``auto``, ``none``, ``512`` or ``384x640``."""

    name = "auto|none|HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value in ("auto", None):
            return value
        return None if value == "none" else super().convert(value, param, ctx)


class FrameSizeType(click.ParamType):  # type: ignore[type-arg]
    """``1920x1080`` (width x height, as cameras and `restore` name it) as (height, width)."""

    name = "WxH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", str(value))
        if match is None:
            self.fail(f"{value!r}: give pixels, as 1920x1080 (width x height)", param, ctx)
        return int(match[2]), int(match[1])


class BytesType(click.ParamType):  # type: ignore[type-arg]
    """``2GiB``, ``512MiB``, ``1.5GiB`` or bytes."""

    name = "BYTES"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?) ?([KMG])iB", str(value))
        if match is None:
            self.fail(f"{value!r}: give bytes, as 2GiB, 512MiB or 536870912", param, ctx)
        if match[1]:
            return int(match[1])
        return int(float(match[2]) * 1024 ** (1 + "KMG".index(match[3])))


def engine_options(command: Command) -> Command:
    """Options of every command that opens an engine."""
    for option in (
        click.option("--provider", help="ONNX Runtime execution provider."),
        click.option("--threads", type=click.IntRange(1), help="CPU threads; all by default."),
    ):
        command = option(command)
    return command


def tiling_options(command: Command) -> Command:
    """Options of every command that cuts frames into tiles, named as `Restorer` names them."""
    for option in (
        click.option("--memory-limit", type=BytesType(),
                     help="Memory the model may take, as 2GiB or 512MiB: the device's for engines, "
                     "the host's for the automatic tile of others."),
        click.option("--statistics", type=click.Choice(MODES), default="tile",
                     show_default=True,
                     help="Whose means over all positions tiles take: their own; the frame's, in "
                     "several passes; those of a few sample tiles; what earlier frames had."),
        click.option("--blend", type=click.IntRange(0), default=0, show_default=True,
                     help="Pixels over which neighbouring tiles fade into each other."),
        click.option("--halo", type=click.IntRange(0), default=16, show_default=True,
                     help="Pixels at each inner tile edge that are computed and thrown away."),
        click.option("--tile", type=TileType(), default="auto", show_default=True,
                     help="Tile size in pixels; 'none' restores the whole frame at once."),
    ):  # fmt: skip
        command = option(command)
    return engine_options(command)


def json_option(command: Command) -> Command:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)
