"""``build``, ``quantize`` and ``bench``: from an ONNX file to an engine, and how fast it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge.cli.cards import print_beside, print_card
from mirnet_edge.cli.console import (
    FrameSizeType,
    SizeType,
    err,
    json_option,
    json_text,
    out,
    phase_bar,
    print_json,
    print_table,
    tiling_options,
)
from mirnet_edge.frame_path import FRAMES_KEPT, PARTS
from mirnet_edge.frames.pixel_formats import FormatName

if TYPE_CHECKING:
    from mirnet_edge.bench import Bench, FrameBench

Command = Callable[..., Any]
METHODS = ("auto", "minmax", "percentile", "entropy", "mse")
MIB = 2**20
STDOUT = "-"
OF_TILES = ("runs",)
OF_FRAMES = ("frames", "pixels", "halo", "blend", "statistics", "memory_limit")
"""Parameters of ``bench`` without and with ``--frame``."""


def calibration_options(command: Command) -> Command:
    """Options of every command that calibrates, named as `quantize_onnx` names them."""
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace a file that exists."),
        click.option("--budget-db", type=click.FloatRange(0), default=0.1, show_default=True,
                     help="PSNR that INT8 may cost."),
        click.option("--method", type=click.Choice(METHODS), default="auto", show_default=True,
                     help="How ranges are found; auto takes what loses least."),
        click.option("--sigma", type=click.FloatRange(0, 255, min_open=True),
                     help="Noise to add to clean frames, in units of 1/255."),
        click.option("--calibration", metavar="FOLDER|GLOB|FILE",
                     help="Images or a video to calibrate and compare with; else bundled ones."),
        click.option("--tile", type=SizeType(), default="256", show_default=True,
                     help="Height x width that the engine takes."),
    ):  # fmt: skip
        command = option(command)
    return command


def build_options(command: Command) -> Command:
    """Options of ``build`` alone, named as `build_engine` names them."""
    for option in (
        click.option("--force", is_flag=True,
                     help="Keep an INT8 engine that is slower than FP16 or beyond the budget."),
        click.option("--timing-cache", type=click.Path(path_type=Path),
                     help="File; one beside the engine by default."),
        click.option("--optimization-level", type=click.IntRange(0, 5),
                     help="How long TensorRT searches; its own choice by default."),
        click.option("--workspace", type=click.IntRange(1), metavar="MIB",
                     help="Device memory for layers' scratch; TensorRT's choice by default."),
        click.option("--io", type=click.Choice(["float32", "float16"]), default="float32",
                     show_default=True, help="Type of the engine's input and output."),
        click.option("--statistics", is_flag=True,
                     help="Build NAME.apply.engine and NAME.gather.engine too: tiles then agree "
                     "with their frame."),
        click.option("--batch", type=click.IntRange(1), default=1, show_default=True,
                     help="Tiles of one run."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("onnx")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp16",
    show_default=True,
    help="Layers that need more get more.",
)
@calibration_options
@build_options
@json_option
def build(onnx: str, engine: Path, workspace: int | None, as_json: bool, **options: Any) -> None:
    """Build ENGINE (NAME.engine) for this machine's GPU from ONNX (a file of `export` or
    `quantize`, or a bundled model's name), with a card that proves what it is."""
    from mirnet_edge.build import build_engine

    with _phases(quiet=as_json) as progress:
        card = build_engine(
            onnx,
            engine,
            workspace=None if workspace is None else workspace * MIB,
            progress=progress,
            **options,
        )
    if as_json:
        print_json(card)
        return
    print_card(engine, card)
    if options["statistics"]:
        print_beside(engine)


@click.command()
@click.argument("onnx")
@click.argument("output", type=click.Path(path_type=Path))
@calibration_options
@json_option
def quantize(onnx: str, output: Path, as_json: bool, **options: Any) -> None:
    """Write OUTPUT, a copy of the graph ONNX (a file or a bundled model's name) whose layers are
    INT8 where that costs little. `build --precision int8` does it by itself."""
    from mirnet_edge.bundled import bundled_model
    from mirnet_edge.quantize import quantize_onnx

    bundled = bundled_model(onnx)
    with _phases(quiet=as_json) as progress:
        report = quantize_onnx(
            bundled.onnx if bundled else onnx, output, progress=progress, **options
        )
    if as_json:
        print_json(report)
        return
    plan = report.plan
    chosen = sum(group.int8 for group in plan.groups)
    out().print(
        f"{report.path}: {len(plan.int8_nodes)} convolutions in INT8 ({chosen} of "
        f"{len(plan.groups)} groups, {plan.int8_share:.0%} of the arithmetic), ranges by "
        f"{plan.method}, in {report.seconds:.0f} s"
    )
    against = "on clean tiles" if plan.against == "targets" else "by its error against FP32"
    out().print(
        f"simulated loss: {plan.loss_db:.3f} ± {plan.loss_error_db:.3f} dB {against}, "
        f"{report.tiles} tiles; budget {plan.budget_db:g} dB"
    )
    if report.recorded:
        out().print("recorded ranges were used; --calibration FOLDER measures them on your images")
    for warning in report.warnings:
        err().print(f"warning: {warning}")


def bench_options(command: Command) -> Command:
    """Options of ``bench`` alone."""
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace a file that exists."),
        click.option("--json", "record", metavar="[FILE]", is_flag=False, flag_value=STDOUT,
                     callback=_record_path,
                     help="Print JSON, for scripts; with FILE (NAME.json), write it there and "
                     "print the table."),
        click.option("--pixels", type=click.Choice(["auto", *get_args(FormatName)]),
                     default="auto", show_default=True, help="How the pixels of the frame lie."),
        click.option("--frames", type=click.IntRange(1, FRAMES_KEPT), default=100,
                     show_default=True, help="To time, one by one and again as a stream."),
        click.option("--frame", type=FrameSizeType(),
                     help="Width x height of frames to time, instead of tiles."),
        click.option("--runs", type=click.IntRange(1), default=100, show_default=True,
                     help="Of tiles, to time."),
    ):  # fmt: skip
        command = option(command)
    return command


def _record_path(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value not in (None, STDOUT) and not value.endswith(".json"):
        raise click.BadParameter(
            f"{value!r}: FILE ends in .json; MODEL goes before --json", context, option
        )
    return value


@click.command()
@click.argument("model")
@bench_options
@tiling_options
@click.pass_context
def bench(
    context: click.Context,
    /,
    model: str,
    frame: tuple[int, int] | None,
    record: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Time MODEL (.engine, .onnx, a checkpoint, or a bundled model's name) on random tiles; with
    --frame on whole frames, part by part, one by one and as a stream."""
    unused = OF_TILES if frame else OF_FRAMES
    _refuse(
        context, unused, "is of tiles; with --frame give --frames" if frame else "needs --frame"
    )
    options = {name: value for name, value in options.items() if name not in unused}
    with ExitStack() as stack:
        file = None
        if record not in (None, STDOUT):
            require_new(Path(record), overwrite)
            file = stack.enter_context(atomic_path(record))
        quiet = record == STDOUT
        measured = _frames(model, frame, quiet, options) if frame else _tiles(model, options)
        if file is not None:
            file.write_text(json_text(measured) + "\n", encoding="utf-8")
    if quiet:
        print_json(measured)
    else:
        _print_bench(measured)


def _refuse(context: click.Context, names: tuple[str, ...], reason: str) -> None:
    """Options that would be ignored.

    Raises:
        click.UsageError: one was given.
    """
    for name in names:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} {reason}", context)


def _tiles(model: str, options: dict[str, Any]) -> Bench:
    from mirnet_edge.bench import bench_engine

    tile = options.pop("tile")
    if tile is None:
        raise click.UsageError("--tile none needs --frame")
    return bench_engine(model, tile=None if tile == "auto" else tile, **options)


def _frames(model: str, size: tuple[int, int], quiet: bool, options: dict[str, Any]) -> FrameBench:
    from mirnet_edge.bench import bench_frames

    with _phases(quiet=quiet) as progress:
        return bench_frames(model, size, progress=progress, **options)


def _print_bench(measured: Bench | FrameBench) -> None:
    from mirnet_edge.bench import Bench

    figures = _print_tiles(measured) if isinstance(measured, Bench) else _print_frames(measured)
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    out().print(f"{figures} on {measured.device}; {versions}")


def _print_tiles(measured: Bench) -> str:
    """A table; what is returned sums it up."""
    height, width = measured.tile
    print_table(
        ["ms", "median", "p90", "p99"],
        [
            [name, f"{times.median_ms:.3f}", f"{times.p90_ms:.3f}", f"{times.p99_ms:.3f}"]
            for name, times in measured.times.items()
        ],
        title=f"{measured.model}: {measured.batch} x {height}x{width}, {measured.runs} runs",
    )
    return f"{measured.ms_per_megapixel:.2f} ms per megapixel"


def _print_frames(measured: FrameBench) -> str:
    """A table, one by one left, as a stream right; what is returned sums it up."""
    both = (measured.one_by_one, measured.stream)
    percentiles = [[getattr(runs.latency, part) for runs in both] for part in PARTS]
    height, width = measured.frame_size
    rows, columns = measured.tile
    pixels = "" if measured.pixels == "auto" else f" {measured.pixels}"
    print_table(
        ["ms", "p50", "p90", "p99", "stream p50", "p90", "p99"],
        [
            [part, *(f"{ms:.3f}" for of in pair for ms in (of.p50, of.p90, of.p99))]
            for part, pair in zip(PARTS, percentiles)
        ],
        title=f"{measured.model}: {measured.frames} frames of {width}x{height}{pixels}",
    )
    out().print(
        f"tiles {measured.tiles} of {rows}x{columns}, statistics {measured.statistics}, passes "
        f"{measured.passes}, sample tiles {measured.samples}"
    )
    alone, stream = (f"{runs.frames_per_second:.2f}" for runs in both)
    return f"{alone} frames per second one by one, {stream} as a stream"


@contextmanager
def _phases(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for a call that reports (phase, done, total)."""
    with phase_bar(quiet=quiet) as bar:
        task = bar.add_task("preparing", total=None)

        def progress(phase: str, done: int, total: int) -> None:
            bar.update(task, description=phase, completed=done, total=total or None)

        yield progress
