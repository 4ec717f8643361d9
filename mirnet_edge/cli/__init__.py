"""The command line, ``mirnet-edge``: the package's verbs, one module a family."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import click

from mirnet_edge._version import __version__
from mirnet_edge.cli.console import INTERRUPTED, fail
from mirnet_edge.cli.demo import demo
from mirnet_edge.cli.engines import bench, build, quantize
from mirnet_edge.cli.evaluate import evaluate
from mirnet_edge.cli.inspect import doctor, gst_path, info, models
from mirnet_edge.cli.restore import restore
from mirnet_edge.cli.train import train
from mirnet_edge.cli.tune import tune
from mirnet_edge.cli.workstation import export
from mirnet_edge.errors import MirnetEdgeError

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
COMMANDS = (
    restore,
    demo,
    export,
    quantize,
    build,
    tune,
    bench,
    train,
    evaluate,
    models,
    info,
    doctor,
    gst_path,
)


@click.group(context_settings=HELP, commands=COMMANDS)
@click.version_option(__version__, prog_name="mirnet-edge")
def cli() -> None:
    """MIRNet image restoration on edge devices."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 something failed, 2 wrong usage, 130
    interrupted."""
    try:
        code = cli.main(arguments, prog_name="mirnet-edge", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted; files that were finished are whole")
        return INTERRUPTED
    except MirnetEdgeError as error:
        fail(str(error))
        return 1


def run() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Any file name can be printed, and a pipe is told at once what a killed run has done.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    sys.exit(main())
