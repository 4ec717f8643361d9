"""``report``: records of measurements as one page."""

from __future__ import annotations

from pathlib import Path

import click

from mirnet_edge.cli.console import option_group, overwrite_option, say

PATH = click.Path(path_type=Path)
report_options = option_group(
    click.option("-o", "--output", type=PATH, required=True, metavar="FILE",
                 help="Page to write."),
    click.option("--picture/--no-picture", default=True,
                 help="Show the bundled photo before and after the bundled model."),
    overwrite_option,
)  # fmt: skip


@click.command()
@click.argument("records", nargs=-1, required=True, type=PATH)
@report_options
def report(records: tuple[Path, ...], output: Path, picture: bool, overwrite: bool) -> None:
    """Write RECORDS (of `bench --frame --json`, `bench --profile --json` and benchmarks/race.py) as
    one HTML page of tables and plots, which needs no other file."""
    from mirnet_edge.workstation.report_page import write_report

    write_report(records, output, picture=picture, overwrite=overwrite)
    say(f"{output}: {len(records)} {'record' if len(records) == 1 else 'records'}")
