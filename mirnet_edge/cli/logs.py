"""What the package logs, on the terminal: ``-v``, ``-vv`` and ``-q`` of every command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click

from mirnet_edge.cli.console import QUIET, err

LOG = logging.getLogger("mirnet_edge")
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


class _TerminalHandler(logging.Handler):
    """Prints on standard error, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            name = record.name.removeprefix("mirnet_edge.")
            err().print(f"{record.levelname.lower()}: {name}: {record.getMessage()}")
        except Exception:
            self.handleError(record)


@contextmanager
def logs_shown() -> Iterator[None]:
    """Print warnings, and with ``-v`` more, while a command runs."""
    handler, level = _TerminalHandler(), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(_LEVELS[0])
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


def _verbose(_context: click.Context, _option: click.Parameter, count: int) -> None:
    if count:
        LOG.setLevel(_LEVELS[min(count, len(_LEVELS) - 1)])


def _quiet(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().meta[QUIET] = True
        LOG.setLevel(logging.ERROR)


def with_verbosity(command: click.Command) -> click.Command:
    """Give a command the options ``-v`` and ``-q``."""
    command.params += [
        click.Option(
            ["-v", "--verbose"], count=True, expose_value=False, callback=_verbose,
            show_default=False, help="Say what is done; -vv also how.",
        ),
        click.Option(
            ["-q", "--quiet"], is_flag=True, expose_value=False, callback=_quiet,
            help="Print errors alone, and what was asked for.",
        ),
    ]  # fmt: skip
    return command
