"""The command line, ``mirnet-edge``: the package's verbs, one module a family."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections import UserDict
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import click

from mirnet_edge._version import __version__
from mirnet_edge.cli.completion import with_completion
from mirnet_edge.cli.console import Terminated, fail, interruption_code, message_of
from mirnet_edge.cli.logs import logs_shown, with_verbosity
from mirnet_edge.cli.text import shown

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
MODULES = {
    "restore": "restore",
    "demo": "demo",
    "live": "live",
    "play": "live",
    "serve": "serve",
    "triton": "triton",
    "export": "workstation",
    "quantize": "engines",
    "build": "engines",
    "build-plugins": "build_plugins",
    "tune": "tune",
    "bench": "engines",
    "estimate": "estimate",
    "report": "record_report",
    "train": "train",
    "train-noise-level": "train_estimator",
    "evaluate": "evaluate",
    "ablate": "ablate",
    "explain": "explain",
    "models": "inspect",
    "info": "inspect",
    "doctor": "inspect",
    "gst-path": "inspect",
}
"""The module here of each command."""


class _Commands(UserDict[str, Any]):
    """The commands by name. One's module is loaded when it is asked for: others load NumPy and
    more, which take most of the time in which a command starts."""

    def __getitem__(self, name: str) -> click.Command:
        found = super().__getitem__(name)
        if not isinstance(found, click.Command):
            module = import_module(f"mirnet_edge.cli.{found}")
            command: click.Command = getattr(module, name.replace("-", "_"))
            self[name] = found = with_verbosity(with_completion(command))
        return found


@click.group(context_settings=HELP, commands=_Commands(MODULES))
@click.version_option(__version__, prog_name="mirnet-edge")
@click.pass_obj
def cli(begin: Callable[[], None] | None) -> None:
    """MIRNet image restoration on edge devices."""
    if begin:
        begin()


with_verbosity(cli)


def main(arguments: Sequence[str] | None = None, begin: Callable[[], None] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 something failed, 2 wrong usage, 130
    interrupted, 143 terminated. ``begin`` is called once the command's module is loaded."""
    try:
        with logs_shown():
            code = cli.main(arguments, "mirnet-edge", standalone_mode=False, obj=begin)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        sys.stderr.write(shown(usage.getvalue()))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        fail("interrupted; files that were finished are whole")
        return interruption_code(error)
    except BrokenPipeError:  # who reads the output has seen enough; Python would say so at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        fail(message_of(error))
        return 1


def run(heeds_ctrl_c: bool = True) -> None:
    """Run the command line as a process: what can be printed, which signals end it, and how."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Any file name can be printed, and a pipe is told at once what a killed run has done.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)

    def begin() -> None:
        signal.signal(signal.SIGTERM, _terminate)
        if heeds_ctrl_c:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    sys.exit(main(begin=begin))


def _terminate(*_: object) -> None:
    raise Terminated
