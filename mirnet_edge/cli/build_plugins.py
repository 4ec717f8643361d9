"""``build-plugins``: TensorRT plugins of our own, compiled for this machine."""

from __future__ import annotations

from pathlib import Path

import click

from mirnet_edge.cli.console import say


@click.command("build-plugins")
@click.option(
    "--include",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of TensorRT's headers (NvInfer.h); looked for by default.",
)
@click.option(
    "--architecture",
    "architectures",
    multiple=True,
    metavar="CODE",
    help="Of a GPU to compile for, such as 87; that of this machine by default.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File; by default where `build` and engines look for it.",
)
def build_plugins(
    include: Path | None, architectures: tuple[str, ...], output: Path | None
) -> None:  # fmt: skip
    """Compile the plugins that make FP16 engines faster, by nvcc, for the TensorRT that is
    installed."""
    from mirnet_edge.build.plugins import compile_plugins

    say(f"wrote {compile_plugins(output, architectures, include)}")
