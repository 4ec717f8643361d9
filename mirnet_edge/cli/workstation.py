"""``export`` and ``train``: what needs PyTorch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirnet_edge._imports import require
from mirnet_edge.cli.console import (
    err,
    json_option,
    option_group,
    overwrite_option,
    print_json,
    progress_bar,
    read_size,
)
from mirnet_edge.model.config import PRESETS, TASKS
from mirnet_edge.workstation.tasks import TRAINABLE

if TYPE_CHECKING:
    from mirnet_edge.workstation.state import TrainState
    from mirnet_edge.workstation.train import Trainer

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(1)
WHOLE = click.IntRange(0)

export_options = option_group(
    click.option("--size", type=read_size, metavar="HxW",
                 help="Fixed height x width; open by default."),
    click.option("--opset", type=click.Choice(["17", "18"]), default="17"),
    click.option("--task", type=click.Choice(TASKS),
                 help="What the network restores, where the checkpoint does not say."),
    click.option("--rewrite/--no-rewrite", default=True,
                 help="Make the graph cheaper by exact algebra."),
    overwrite_option,
    json_option,
)  # fmt: skip
"""Named as `export_onnx` names them; the task is for `load_model` to check first."""
train_options = option_group(
    click.option("--preset", type=click.Choice(list(PRESETS)), default="edge-s"),
    click.option("--task", type=click.Choice(list(TRAINABLE)), default="denoise"),
    click.option("--data", type=click.Path(exists=True, path_type=Path), multiple=True,
                 required=True, help="Folder of clean images; may be given several times."),
    click.option("-o", "--output", type=PATH, required=True,
                 help="Folder for checkpoint, weights and curve; a checkpoint in it is resumed."),
    click.option("--validation", help="Clean images for the curve.",
                 type=click.Path(exists=True, file_okay=False, path_type=Path)),
    click.option("--initial", help="Weights to start from: a file or a bundled model's name."),
    click.option("--steps", type=COUNT, default=100_000,
                 help="Of the whole learning-rate schedule."),
    click.option("--until", type=COUNT, help="Stop at this step; resume later."),
    click.option("--batch", type=COUNT, default=16),
    click.option("--patch-px", type=click.IntRange(8), default=128),
    click.option("--learning-rate", type=float, default=2e-4),
    click.option("--warmup", "warmup_steps", type=WHOLE,
                 help="Steps in which the learning rate grows from zero; 200 by default, or a "
                 "tenth of --steps where that is less."),
    click.option("--seed", type=WHOLE, default=0),
    click.option("--validate-every", type=COUNT, default=1000,
                 help="Steps between points of the curve and checkpoints."),
    click.option("--device", help="As torch names it; a GPU where there is one."),
    click.option("--compile", is_flag=True, help="Let torch.compile fuse the network."),
)  # fmt: skip
"""Named as `TrainSettings` names them, but for those that `train` has by name."""


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
    print(
        f"{report.path}: {facts.family} ({facts.preset}), {report.nodes} nodes, opset "
        f"{report.opset}, {report.size_bytes / 1e6:.1f} MB, in {report.seconds:.0f} s"
    )
    print(f"largest difference from PyTorch: {report.error:.1e} of the output's range")
    if report.passes:
        before, after = report.passes[0], report.passes[-1]
        print(
            f"rewrites: {before.nodes} -> {after.nodes} nodes, {before.bytes_moved / 1e6:.0f} -> "
            f"{after.bytes_moved / 1e6:.0f} MB moved for each 256x256 tile in FP32"
        )


@click.command()
@train_options
def train(
    data: tuple[Path, ...],
    output: Path,
    until: int | None,
    validate_every: int,
    validation: Path | None,
    initial: str | None,
    device: str | None,
    compile: bool,
    **recipe: object,
) -> None:
    """Train a network on clean images, with the papers' recipe."""  # fmt: skip
    require("torch", "mirnet-edge train")
    from mirnet_edge.workstation.state import TrainSettings
    from mirnet_edge.workstation.train import Trainer

    settings = TrainSettings(**recipe)  # type: ignore[arg-type]
    with _stopped_with_a_word(output):
        trainer = Trainer(
            settings,
            data,
            output,
            validation=validation,
            device=device,
            compile=compile,
            initial=initial,
        )
        _run(trainer, until, validate_every)
    print(f"step {trainer.state.step}: {output / 'model.safetensors'}")


@contextmanager
def _stopped_with_a_word(output: Path) -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, and say in both cases what is saved."""
    from mirnet_edge.workstation.state import CHECKPOINT

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)  # what a shell reports of a process that it ended

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        saved = output / CHECKPOINT
        if saved.exists():
            err().print(f"stopped; {saved} holds the steps done, and the same command goes on")
        else:
            err().print("stopped before the first step was done: there was nothing to save")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(trainer: Trainer, until: int | None, validate_every: int) -> None:
    """Train under a progress bar, and print each new point of the curve."""
    for reason in trainer.skipped:
        err().print(f"left out: {reason}")
    state, settings = trainer.state, trainer.state.settings
    err().print(
        f"{trainer.data_facts['images']} images, {trainer.device}, step {state.step} of "
        f"{settings.steps}"
    )
    last = min(until or settings.steps, settings.steps)
    with progress_bar("steps", "{task.fields[figures]}") as bar:
        task = bar.add_task(settings.preset, total=last, completed=state.step, figures="")
        printed = len(state.curve)

        def report(state: TrainState, loss: float) -> None:
            nonlocal printed
            psnr = state.curve[-1].psnr if state.curve else None
            figures = f"loss {loss:.4f}" + (f", PSNR {psnr:.2f} dB" if psnr else "")
            bar.update(task, completed=state.step, figures=figures)
            if len(state.curve) > printed:
                printed = len(state.curve)
                bar.console.print(f"step {state.step}: {figures}")

        trainer.run(until, validate_every, report=report)
