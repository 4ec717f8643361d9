"""What the commands share: where they print, progress bars, and option types."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from fractions import Fraction
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

import click

from mirnet_edge import errors
from mirnet_edge.cli.text import shown
from mirnet_edge.errors import wanted_traceback
from mirnet_edge.pooling import MODES
from mirnet_edge.system import MOST_THREADS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from mirnet_edge.frame_path import StageProgress

QUIET = "mirnet_edge.quiet"
Command = Callable[..., Any]
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
         "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip


@cache  # A bar makes room for what is printed on its own console, and on no other.
def err() -> Console:
    """Where progress and errors go, so that results can be piped."""
    from mirnet_edge.cli.drawn import console

    return console(stderr=True)


def say(text: str) -> None:
    """Print what was asked for, on standard output."""
    print(shown(text))


def is_quiet() -> bool:
    """Whether the command that runs was given ``-q``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(QUIET))


def fail(message: str) -> None:
    """Print an error."""
    from rich.text import Text

    err().print(Text.assemble(("error: ", "bold red"), shown(message)))


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def interruption_code(error: KeyboardInterrupt | click.Abort) -> int:
    """The exit code, as shells have it: 128 and the number of the signal."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def message_of(error: Exception) -> str:
    """What to print of an error; its traceback is printed where that is asked for."""
    if text := wanted_traceback(error):
        err().print(text)
    return errors.message_of(error)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print a fact a line, its name before it."""
    for name, value in facts.items():
        say(f"{name:<18} {value}")


def print_json(value: object) -> None:
    """Print a value as JSON, see `json_text`."""
    print(json_text(value))


def print_json_line(value: object) -> None:
    """Print a value as JSON on one line, at once, so that who reads a pipe knows how far it is."""
    print(json_text(value, indent=None), flush=True)


def json_text(value: object, indent: int | None = 2) -> str:
    """Write a value, dataclasses and paths included, as JSON; infinite numbers become null."""
    text = json.dumps(value, default=lambda item: vars(item) if is_dataclass(item) else str(item))
    # The PSNR of equal pictures is infinite, which Python writes and no other parser reads.
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=indent)


def print_table(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Print a table, the first column left, the others right aligned. No cell is broken, however
    narrow the terminal; heads are, between words."""
    from mirnet_edge.cli.drawn import console, table

    if title:
        say(title)  # rich would break a path in it
    console(stderr=False).print(table(columns, rows))


def progress_bar(
    unit: str | None, *columns: str, count: bool = True, quiet: bool = False
) -> Progress:
    """Make a bar on standard error, gone when done; none where standard error is no terminal."""
    from mirnet_edge.cli.drawn import bar

    return bar(err(), unit, *columns, count=count, quiet=quiet or is_quiet())


@contextmanager
def phases(quiet: bool) -> Iterator[StageProgress]:
    """Show a bar for a call that reports (phase, done, total)."""
    with progress_bar(None, quiet=quiet) as bar:
        task = bar.add_task("preparing", total=None)

        def progress(phase: str, done: int, total: int) -> None:
            bar.update(task, description=phase, completed=done, total=total or None)

        yield progress


def _matched(pattern: str, text: str, wanted: str) -> re.Match[str]:
    if match := re.fullmatch(pattern, text):
        return match
    raise click.BadParameter(f"{text!r}: give {wanted}")


def read_size(text: str) -> tuple[int, int]:
    """Read ``512`` or ``384x640`` (height x width)."""
    match = _matched(r"(\d+)(?:x(\d+))?", text, "pixels, as 512 or 384x640 (height x width)")
    return int(match[1]), int(match[2] or match[1])


def read_tile(text: str) -> tuple[int, int] | str | None:
    """Read ``auto``, ``none``, ``512`` or ``384x640``."""
    return text if text == "auto" else None if text == "none" else read_size(text)


def read_frame_size(text: str) -> tuple[int, int]:
    """Read ``1920x1080`` (width x height, as cameras and `restore` name it) as (height, width)."""
    side = r"([1-9]\d{0,4})"
    match = _matched(f"{side}x{side}", text, "pixels, as 1920x1080 (width x height)")
    return int(match[2]), int(match[1])


def read_time(text: str) -> Fraction:
    """Read ``90``, ``1.5``, ``2:30`` or ``1:02:03.5`` as seconds."""
    pattern = r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d+)?)"
    match = _matched(pattern, text, "seconds, as 90, 1.5, 2:30 or 1:02:03.5")
    return 3600 * int(match[1] or 0) + 60 * int(match[2] or 0) + Fraction(match[3])


def read_bytes(text: str) -> int:
    """Read ``2GiB``, ``512MiB``, ``1.5GB`` or bytes."""
    pattern = r"(?i)(\d+(?:\.\d+)?) ?(?:([KMGT]i?)?B)?"
    match = _matched(pattern, text, "bytes, as 2GiB, 512MiB, 2GB or 536870912")
    return int(float(match[1]) * UNITS[(match[2] or "").lower()])


def read_count(text: str) -> int:
    """Read ``500M``, ``1.5G``, ``20k`` or a whole number, at least 1."""
    match = _matched(r"(?i)(\d+(?:\.\d+)?)([kmg]?)", text, "how many, as 500M or 500000000")
    count = int(float(match[1]) * UNITS[match[2].lower()])
    if count < 1:
        raise click.BadParameter(f"{text!r}: give at least 1")
    return count


def read_noise(text: str) -> float | str:
    """Read ``auto``, or a number; `Restorer` knows which are levels."""
    wanted = "auto, or the level in units of 1/255, as 10"
    return text if text == "auto" else float(_matched(r"\d+(\.\d*)?", text, wanted)[0])


def read_gpus(text: str) -> tuple[int, ...]:
    """Read ``0,1``."""
    names = text.split(",")
    if not all(name.isascii() and name.isdecimal() for name in names):
        raise click.BadParameter(f"{text!r}: need numbers of GPUs, as 0 or 0,1")
    return tuple(int(name) for name in names)


def read_devices(text: str) -> tuple[int, ...] | str:
    """Read ``all`` or ``0,1``."""
    return text if text == "all" else read_gpus(text)


def option_group(*chosen: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Make one decorator of several options, which help shows in this order."""
    # Click shows last what decorates first.
    return lambda command: reduce(lambda made, option: option(made), reversed(chosen), command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
noise_level_option = click.option(
    "--noise", type=read_noise, metavar="auto|NUMBER", default="auto",
    help="How noisy the frames are, for a model that asks for it: RMS of 255, 0 to 100; 'auto' "
    "estimates it from each.",
)  # fmt: skip
devices_option = click.option(
    "--devices", type=read_devices, metavar="all|0,1",
    help="GPUs that share the frames, by the numbers that doctor tells; the first by default.",
)  # fmt: skip
"""Of a command that restores several frames."""
tiling_options = option_group(
    click.option("--tile", type=read_tile, metavar="auto|none|HxW", default="auto",
                 help="Tile size in pixels; 'none' restores the whole frame at once."),
    click.option("--halo", type=click.IntRange(0), default=16,
                 help="Pixels at each inner tile edge that are computed and thrown away."),
    click.option("--blend", type=click.IntRange(0), default=0,
                 help="Pixels over which neighbouring tiles fade into each other."),
    click.option("--statistics", type=click.Choice(["auto", *MODES]), default="auto",
                 help="Whose means over all positions tiles take: their own; the frame's, in "
                 "several passes; those of a few sample tiles; what earlier frames had; 'auto' is "
                 "by the model's task."),
    click.option("--memory-limit", type=read_bytes, metavar="BYTES",
                 help="Memory the model may take, as 2GiB or 512MiB: the device's for engines, "
                 "the host's for the automatic tile of others."),
    click.option("--threads", type=click.IntRange(1, MOST_THREADS),
                 help="CPU threads; all by default."),
    click.option("--provider", help="ONNX Runtime execution provider, or OpenVINO, OpenVINO-FP32, "
                 "OpenVINO-BF16, OpenVINO-FP16; the fastest here by default."),
)  # fmt: skip
"""Of every command that opens an engine and cuts frames into tiles; named as by `Restorer`."""
