"""``build``, ``quantize`` and ``bench``: from an ONNX file to an engine, and how fast it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge.cli.console import (
    devices_option,
    err,
    json_option,
    json_text,
    noise_level_option,
    option_group,
    overwrite_option,
    phases,
    print_json,
    print_table,
    read_frame_size,
    read_size,
    say,
    tiling_options,
)
from mirnet_edge.cli.inspect import print_beside, print_card
from mirnet_edge.frame_path import FRAMES_KEPT, PARTS, Percentiles
from mirnet_edge.frames.pixel_formats import FormatName

if TYPE_CHECKING:
    from mirnet_edge.bench import Bench, FrameBench
    from mirnet_edge.trt.profile import EngineProfile

MIB = 2**20
STDOUT = "-"
OF_TILES = ("runs",)
OF_FRAMES = ("frames", "pixels", "halo", "blend", "statistics", "noise", "memory_limit", "devices")
"""Parameters of ``bench`` without and with ``--frame``."""

calibration_options = option_group(
    click.option("--tile", type=read_size, metavar="HxW",
                 help="Height x width that the engine takes; 256 by default."),
    click.option("--calibration", metavar="FOLDER|GLOB|FILE",
                 help="Images or a video to calibrate and compare with; else bundled ones."),
    click.option("--sigma", type=click.FloatRange(0, 255, min_open=True),
                 help="Noise to add to clean frames, in units of 1/255."),
    click.option("--method", default="auto",
                 type=click.Choice(["auto", "minmax", "percentile", "entropy", "mse"]),
                 help="How ranges are found; auto takes what loses least."),
    click.option("--budget-db", type=click.FloatRange(0), default=0.1,
                 help="PSNR that INT8 may cost."),
    overwrite_option,
)  # fmt: skip
"""Of every command that calibrates, named as `quantize_onnx` names them."""
build_options = option_group(
    click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp16",
                 help="Layers that need more get more."),
    calibration_options,
    click.option("--frame", type=read_frame_size, metavar="WxH",
                 help="Width x height of the frames to restore, instead of --tile: they are taken "
                 "whole, or in the largest tiles that fit into memory."),
    click.option("--batch", type=click.IntRange(1), default=1, help="Tiles of one run."),
    click.option("--statistics", is_flag=True,
                 help="Build NAME.apply.engine and NAME.gather.engine too: tiles then agree with "
                 "their frame."),
    click.option("--io", type=click.Choice(["float32", "float16"]), default="float32",
                 help="Type of the engine's input and output."),
    click.option("--plugins/--no-plugins", default=True,
                 help="Use our TensorRT plugins in FP16; compiled once, by nvcc."),
    click.option("--workspace", type=click.IntRange(1), metavar="MIB",
                 help="Device memory for layers' scratch; TensorRT's choice by default."),
    click.option("--optimization-level", type=click.IntRange(0, 5),
                 help="How long TensorRT searches; its own choice by default."),
    click.option("--aux-streams", type=click.IntRange(0, 7), metavar="N",
                 help="Streams beside the main one, for layers side by side; by default two where "
                 "a batch is small."),
    click.option("--timing-cache", type=click.Path(path_type=Path),
                 help="File; one beside the engine by default."),
    click.option("--force", is_flag=True,
                 help="Keep an INT8 engine that is slower than FP16 or beyond the budget."),
)  # fmt: skip
"""Named as `build_engine` names them."""


@click.command()
@click.argument("onnx")
@click.argument("engine", type=click.Path(path_type=Path))
@build_options
@json_option
def build(onnx: str, engine: Path, workspace: int | None, as_json: bool, **options: Any) -> None:
    """Build ENGINE (NAME.engine) for this machine's GPU from ONNX (a file of `export` or
    `quantize`, or a bundled model's name), with a card that proves what it is."""
    from mirnet_edge.build import build_engine

    options["workspace"] = None if workspace is None else workspace * MIB
    with phases(quiet=as_json) as progress:
        card = build_engine(onnx, engine, progress=progress, tell=err().print, **options)
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
@click.option(
    "--device",
    type=click.Choice(["tensorrt", "cpu"]),
    default="tensorrt",
    help="What it is for: an engine of TensorRT, or the CPU, with finer pairs.",
)
@json_option
def quantize(onnx: str, output: Path, as_json: bool, **options: Any) -> None:
    """Write OUTPUT, a copy of the graph ONNX (a file or a bundled model's name) whose layers are
    INT8 where that costs little. `build --precision int8` does it by itself; `--device cpu` writes
    what OpenVINO runs the fastest."""
    from mirnet_edge.bundled import bundled_model
    from mirnet_edge.quantize import quantize_onnx

    bundled = bundled_model(onnx)
    source = bundled.onnx if bundled else onnx
    if options["tile"] is None:
        del options["tile"]
    with phases(quiet=as_json) as progress:
        report = quantize_onnx(source, output, progress=progress, **options)
    if as_json:
        print_json(report)
        return
    plan = report.plan
    chosen = sum(group.int8 for group in plan.groups)
    against = "on clean tiles" if plan.against == "targets" else "by its error against FP32"
    say(
        f"{report.path}: {len(plan.int8_nodes)} convolutions in INT8 ({chosen} of "
        f"{len(plan.groups)} groups, {plan.int8_share:.0%} of the arithmetic), ranges by "
        f"{plan.method}, in {report.seconds:.0f} s\n"
        f"simulated loss: {plan.loss_db:.3f} ± {plan.loss_error_db:.3f} dB {against}, "
        f"{report.tiles} tiles; budget {plan.budget_db:g} dB"
    )
    if report.recorded:
        say("recorded ranges were used; --calibration FOLDER measures them on your images")
    for warning in report.warnings:
        err().print(f"warning: {warning}")


def read_record(text: str) -> str:
    """Read the name of a record. As a type it is asked before MODEL is missed, which then follows
    --json and was taken for it."""
    if text != STDOUT and not text.endswith(".json"):
        raise click.BadParameter(f"{text!r}: FILE ends in .json; MODEL goes before --json")
    return text


bench_options = option_group(
    click.option("--runs", type=click.IntRange(1), default=100, help="Of tiles, to time."),
    click.option("--frame", type=read_frame_size, metavar="WxH",
                 help="Width x height of frames to time, instead of tiles."),
    click.option("--profile", is_flag=True,
                 help="Where an .engine's time goes: by kind of layer and by module."),
    click.option("--frames", type=click.IntRange(1, FRAMES_KEPT), default=100,
                 help="To time, one by one and again as a stream."),
    click.option("--pixels", type=click.Choice(["auto", *get_args(FormatName)]), default="auto",
                 help="How the pixels of the frame lie."),
    click.option("--json", "record", type=read_record, metavar="[FILE]", is_flag=False,
                 flag_value=STDOUT,
                 help="Print JSON, for scripts; with FILE (NAME.json), write it there and print "
                 "the table."),
    overwrite_option,
    tiling_options,
    noise_level_option,
    devices_option,
)  # fmt: skip


@click.command()
@click.argument("model")
@bench_options
@click.pass_context
def bench(context: click.Context, /, **given: object) -> None:
    """Time MODEL (.engine, .onnx, a checkpoint, or a bundled model's name) on random tiles; with
    --frame on whole frames, part by part, one by one and as a stream; with --profile layer by layer
    beside what this device could do at best."""
    from mirnet_edge.bench import Bench, bench_engine, bench_frames
    from mirnet_edge.build.profile import profile_plan
    from mirnet_edge.cli.profile import print_profile
    from mirnet_edge.trt.profile import EngineProfile

    options = {name: context.params[name] for name in given}
    names = "model", "frame", "record", "overwrite", "profile"
    model, frame, record, overwrite, profile = map(options.pop, names)
    if profile and (frame or not Path(model).suffix == ".engine"):
        raise click.UsageError("--profile is of an .engine and its tiles, without --frame", context)
    for name in OF_TILES if frame else OF_FRAMES:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            why = "is of tiles; with --frame give --frames" if frame else "needs --frame"
            raise click.UsageError(f"--{name.replace('_', '-')} {why}", context)
        del options[name]
    if not frame and options["tile"] is None:
        raise click.UsageError("--tile none needs --frame")
    quiet = record == STDOUT
    with ExitStack() as stack:
        measured: Bench | FrameBench | EngineProfile
        file = None
        # Frames are timed for minutes: what cannot be written is said before.
        if record not in (None, STDOUT):
            require_new(Path(record), overwrite)
            file = stack.enter_context(atomic_path(record))
        if profile:
            measured = profile_plan(Path(model), options["runs"])
        elif frame:
            progress = stack.enter_context(phases(quiet=quiet))
            measured = bench_frames(model, frame, progress=progress, **options)
        else:
            options["tile"] = None if options["tile"] == "auto" else options["tile"]
            measured = bench_engine(model, **options)
        if file is not None:
            file.write_text(json_text(measured) + "\n", encoding="utf-8")
    if quiet:
        print_json(measured)
        return
    if isinstance(measured, EngineProfile):
        say(print_profile(measured))
        return
    figures = _print_tiles(measured) if isinstance(measured, Bench) else _print_frames(measured)
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    say(f"{figures} on {measured.device}; {versions}")


def _print_tiles(measured: Bench) -> str:
    """Print a table; what is returned sums it up."""
    height, width = measured.tile
    title = f"{measured.model}: {measured.batch} x {height}x{width}, {measured.runs} runs"
    _print_times(measured.times, title)
    return f"{measured.ms_per_megapixel:.2f} ms per megapixel"


def _print_frames(measured: FrameBench) -> str:
    """Print two tables, one by one and as a stream; what is returned sums them up."""
    (height, width), (rows, columns) = measured.frame_size, measured.tile
    pixels = "" if measured.pixels == "auto" else f" {measured.pixels}"
    scale, noise = measured.scale, measured.noise
    enlarged = "" if scale == 1 else f", restored to {scale * width}x{scale * height}"
    told = "" if noise is None else f", noise {noise:.1f}"
    say(f"{measured.model}: {measured.frames} frames of {width}x{height}{pixels}{enlarged}{told}")
    both = {"one by one": measured.one_by_one, "as a stream": measured.stream}
    for way, runs in both.items():
        # Not vars(), which has the number of frames too.
        _print_times({part: getattr(runs.latency, part) for part in PARTS}, title=way)
    say(
        f"tiles {measured.tiles} of {rows}x{columns}, statistics {measured.statistics}, passes "
        f"{measured.passes}, sample tiles {measured.samples}"
    )
    if len(measured.devices) > 1:
        shares = ", ".join(f"{frames} on {name}" for name, frames in measured.devices.items())
        say(f"of the stream: {shares}")
    rates = ", ".join(f"{runs.frames_per_second:.2f} {way}" for way, runs in both.items())
    return f"frames per second: {rates}"


def _print_times(times: Mapping[str, Percentiles], title: str) -> None:
    rows = [[name, *(f"{ms:.3f}" for ms in (of.p50, of.p90, of.p99))] for name, of in times.items()]
    print_table(["ms", "p50", "p90", "p99"], rows, title)
