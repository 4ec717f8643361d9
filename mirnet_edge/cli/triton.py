"""``triton``: a model repository for a Triton server."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from mirnet_edge.cli.console import (
    err,
    json_option,
    option_group,
    overwrite_option,
    print_json,
    read_frame_size,
    read_gpus,
    say,
    tiling_options,
)

model_options = option_group(
    click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
                 help="Folder, new or empty."),
    click.option("--only", "part", type=click.Choice(["all", "frames", "tiles"]), default="all",
                 help="NAME restores whole frames by mirnet-edge in Triton's Python backend, "
                 "NAME-tiles is the network alone."),
    click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32",
                 help="Of NAME-tiles where MODEL is an .onnx file; an .engine has its own."),
    click.option("--io", type=click.Choice(["float32", "float16"]), default="float32",
                 help="Type of its input and output, with --precision fp16."),
    overwrite_option,
)  # fmt: skip
frame_options = option_group(
    click.option("--dtype", type=click.Choice(["uint8", "uint16", "float32"]), default="uint8",
                 help="Of frames; a model has one."),
    click.option("--pixels", metavar="FORMAT", default="auto",
                 help="How frames lie, as bgr or 'nv12 bt601 full'; gray, RGB or RGBA by default."),
    click.option("--frame", type=read_frame_size, metavar="WxH",
                 help="Width x height of the frames to warm up with; 256x256 by default."),
    click.option("--workers", type=click.IntRange(1, 64), default=2,
                 help="Frames of a batch that are on their way at once."),
    click.option("--max-pixels", type=click.IntRange(1), default=1 << 24,
                 help="Of a frame, as it is restored."),
    click.option("--timeout", type=click.FloatRange(0, min_open=True),
                 help="Seconds that a frame may take, after which an engine counts as hanging."),
)  # fmt: skip
place_options = option_group(
    click.option("--max-batch", type=click.IntRange(1), default=4,
                 help="Requests that go together, at most."),
    click.option("--delay-us", type=click.IntRange(0), default=0, metavar="MICROSECONDS",
                 help="That a request may wait for others."),
    click.option("--instances", type=click.IntRange(1), default=1, help="Of a model, on each GPU."),
    click.option("--kind", type=click.Choice(["auto", "cpu", "gpu"]), default="auto",
                 help="Where they run; engines on a GPU."),
    click.option("--gpus", type=read_gpus, metavar="0,1", default=None,
                 help="Which; all by default."),
)  # fmt: skip


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL...")
@model_options
@frame_options
@place_options
@tiling_options
@json_option
def triton(
    models: tuple[str, ...], output: Path, gpus: tuple[int, ...] | None, as_json: bool, **given: Any
) -> None:
    """Write a model repository that a Triton server loads as it is.

    MODEL is a bundled model's name, an .onnx or .engine file; a NAME that comes again is its next
    version. Models of whole frames need mirnet-edge in the server's Python: see docs/triton.md.
    """
    from mirnet_edge.serve.triton.configs import Placement
    from mirnet_edge.serve.triton.repository import write_repository
    from mirnet_edge.serve.triton.settings import FrameSettings

    def taken(kind: type) -> dict[str, Any]:
        names = [field.name for field in fields(kind)]
        return {name: given.pop(name) for name in names if name in given}

    settings = FrameSettings(**taken(FrameSettings))
    placement = Placement(**taken(Placement), gpus=gpus or ())
    written = write_repository(models, output, settings=settings, placement=placement, **given)
    if as_json:
        print_json(written)
        return
    for note in written.notes:
        err().print(f"note: {note}", markup=False, highlight=False)
    say(f"{written.path}: {', '.join(written.models)}")
