"""``export``: from a checkpoint of PyTorch to an ONNX file."""

from __future__ import annotations

from pathlib import Path

import click

from mirnet_edge._imports import require
from mirnet_edge.cli.console import (
    json_option,
    option_group,
    overwrite_option,
    print_json,
    read_size,
    say,
)
from mirnet_edge.model.config import TASKS

PATH = click.Path(path_type=Path)

export_options = option_group(
    click.option("--size", type=read_size, metavar="HxW",
                 help="Fixed height x width; open by default."),
    click.option("--opset", type=click.Choice(["17", "18"]), default="17"),
    click.option("--task", type=click.Choice(TASKS),
                 help="What the network restores, where the checkpoint does not say."),
    click.option("--rewrite/--no-rewrite", default=True,
                 help="Make the graph cheaper by exact algebra."),
    click.option("--half-weights", is_flag=True,
                 help="Round the weights to half precision: half the bytes."),
    overwrite_option,
    json_option,
)  # fmt: skip
"""Named as `export_onnx` names them; the task is for `load_model` to check first."""


@click.command()
@click.argument("checkpoint")
@click.argument("onnx", type=PATH)
@export_options
def export(
    checkpoint: str, onnx: Path, opset: str, task: str | None, as_json: bool, **options: object
) -> None:
    """Turn a MIRNet or MIRNet-v2 CHECKPOINT (.pth, .pt, .safetensors, or a bundled model's name)
    into an ONNX file, checked against PyTorch."""
    require("torch", "mirnet-edge export")
    from mirnet_edge.model.checkpoints import load_model
    from mirnet_edge.workstation.export import export_onnx

    network = load_model(checkpoint, task)
    # The types are those of the options, which no type checker sees.
    report = export_onnx(network, onnx, opset=int(opset), **options)  # type: ignore[arg-type]
    if as_json:
        print_json(report)
        return
    facts = report.facts
    say(
        f"{report.path}: {facts.family} ({facts.preset}), {report.nodes} nodes, opset "
        f"{report.opset}, {report.size_bytes / 1e6:.1f} MB, in {report.seconds:.0f} s"
    )
    say(f"largest difference from PyTorch: {report.error:.1e} of the output's range")
    if report.passes:
        before, after = report.passes[0], report.passes[-1]
        say(
            f"rewrites: {before.nodes} -> {after.nodes} nodes, {before.bytes_moved / 1e6:.0f} -> "
            f"{after.bytes_moved / 1e6:.0f} MB moved for each 256x256 tile in FP32"
        )
