"""The command line, ``mirnet-edge``: the package's verbs, one module a family."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence

import click

from mirnet_edge._version import __version__
from mirnet_edge.cli.ablate import ablate
from mirnet_edge.cli.build_plugins import build_plugins
from mirnet_edge.cli.completion import with_completion
from mirnet_edge.cli.console import Terminated, fail, interruption_code, message_of, shown
from mirnet_edge.cli.demo import demo
from mirnet_edge.cli.engines import bench, build, quantize
from mirnet_edge.cli.estimate import estimate
from mirnet_edge.cli.evaluate import evaluate
from mirnet_edge.cli.explain import explain
from mirnet_edge.cli.inspect import doctor, gst_path, info, models
from mirnet_edge.cli.live import live, play
from mirnet_edge.cli.logs import logs_shown, with_verbosity
from mirnet_edge.cli.record_report import report
from mirnet_edge.cli.restore import restore
from mirnet_edge.cli.serve import serve
from mirnet_edge.cli.train import train
from mirnet_edge.cli.train_estimator import train_noise_level
from mirnet_edge.cli.triton import triton
from mirnet_edge.cli.tune import tune
from mirnet_edge.cli.workstation import export

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
COMMANDS = (
    restore,
    demo,
    live,
    play,
    serve,
    triton,
    export,
    quantize,
    build,
    build_plugins,
    tune,
    bench,
    estimate,
    report,
    train,
    train_noise_level,
    evaluate,
    ablate,
    explain,
    models,
    info,
    doctor,
    gst_path,
)


@click.group(
    context_settings=HELP,
    commands=[with_verbosity(with_completion(command)) for command in COMMANDS],
)
@click.version_option(__version__, prog_name="mirnet-edge")
def cli() -> None:
    """MIRNet image restoration on edge devices."""


with_verbosity(cli)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 something failed, 2 wrong usage, 130
    interrupted, 143 terminated."""
    try:
        with logs_shown():
            code = cli.main(arguments, prog_name="mirnet-edge", standalone_mode=False)
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
    signal.signal(signal.SIGTERM, _terminate)
    if heeds_ctrl_c:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())


def _terminate(*_: object) -> None:
    raise Terminated
