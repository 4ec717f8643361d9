"""What rich draws: consoles, tables and bars. `console` loads this when something is drawn: many
commands draw nothing, and rich takes a third of the time that they take to start."""

from __future__ import annotations

import sys
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from mirnet_edge.cli.text import shown


def console(stderr: bool) -> Console:
    """Make a console that prints text as it is."""
    # File names are printed as they are: rich would take "[red]" and ":smile:" in them for markup,
    # and put a line break into a long one, which then cannot be copied.
    return _Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


class _Console(Console):
    """Prints text as `shown`."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(
            *(shown(item) if isinstance(item, str) else item for item in objects), **options
        )


def table(columns: list[str], rows: list[list[str]]) -> Table:
    """Lay out a table; see `print_table`."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, (column, *cells) in enumerate(zip(columns, *rows)):
        made.add_column(
            column,
            justify="right" if index else "left",
            overflow="fold",
            # A column that shrinks breaks numbers in two, unless it may not.
            min_width=max(map(cell_len, cells), default=0),
        )
    for row in rows:
        made.add_row(*(Text(shown(cell)) for cell in row))
    return made


class RateColumn(ProgressColumn):
    """Shows units a second; rich's own column of this kind counts bytes."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} {self.unit}/s")


class _Bar(Progress):
    """A bar that is not shown prints nothing at its end; before rich 15 it printed a line."""

    def stop(self) -> None:
        if not self.disable:
            super().stop()


def bar(console: Console, unit: str | None, *columns: str, count: bool, quiet: bool) -> Progress:
    """Make a bar on a console; see `progress_bar`."""
    # What goes on in phases, whose ends nobody knows, has no unit, no rate, and no time left.
    counted = [MofNCompleteColumn()] if count and unit else []
    time = [RateColumn(unit), TimeRemainingColumn()] if unit else [TimeElapsedColumn()]
    return _Bar(
        "{task.description}",
        BarColumn(),
        *(*counted, *time, *columns),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
        # While the bar is shown rich prints on its console what print() is given, which is right on
        # one terminal, but would take results out of a pipe.
        redirect_stdout=sys.stdout.isatty(),
    )
