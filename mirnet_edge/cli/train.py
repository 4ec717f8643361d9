"""``train``: a network from a folder of pictures."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirnet_edge._imports import require
from mirnet_edge.cli.console import err, option_group, progress_bar, say
from mirnet_edge.model.config import PRESETS
from mirnet_edge.workstation.settings import LOSSES, TrainSettings, defaults_of
from mirnet_edge.workstation.tasks import TRAINABLE

if TYPE_CHECKING:
    from mirnet_edge.workstation.pace import Report
    from mirnet_edge.workstation.train import Trainer

PATH = click.Path(path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
COUNT = click.IntRange(1)
WHOLE = click.IntRange(0)
OF_TASK = "of_task_"
"""Begins the names of the options that are a task's settings."""


def read_stages(text: str) -> tuple[tuple[float, int, int], ...]:
    """Read ``0.6:192x14,0.85:256x8``: (part of the schedule, side in pixels, batch) of each."""
    stages = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d*\.?\d+):(\d+)x(\d+)\s*", part)
        if match is None:
            raise click.BadParameter(
                f"{part!r}: give the part of the schedule at which a stage begins, the patches' "
                "side and their number, as 0.6:192x14"
            )
        stages.append((float(match[1]), int(match[2]), int(match[3])))
    return tuple(stages)


def read_numbers(text: str) -> tuple[float, ...]:
    """Read ``1,0.75,0.5``."""
    return tuple(float(_read_number(part)) for part in text.split(","))


def read_setting(text: str) -> float | int | tuple[float | int, ...]:
    """Read a task's setting: one number, or several between commas."""
    values = tuple(_read_number(part) for part in text.split(","))
    return values if len(values) > 1 else values[0]


def _read_number(text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number") from None


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each setting of each task."""
    defaults: dict[str, list[str]] = {}
    for task, kind in TRAINABLE.items():
        for name, default in defaults_of(kind).items():
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            defaults.setdefault(name, []).append(f"{task} ({shown})")
    added = [
        click.option(f"--{name.replace('_', '-')}", OF_TASK + name, type=read_setting,
                     metavar="NUMBER[,NUMBER]", help=f"Setting of {', '.join(tasks)}.")
        for name, tasks in defaults.items()
    ]  # fmt: skip
    return option_group(*added)(command)


train_options = option_group(
    click.option("--preset", type=click.Choice(list(PRESETS)), default="edge-s"),
    click.option("--task", type=click.Choice(list(TRAINABLE)), default="denoise"),
    click.option("--data", type=click.Path(exists=True, path_type=Path), multiple=True,
                 help="Folder of clean images; may be given several times."),
    click.option("--input", "input_folder", type=FOLDER,
                 help="Instead of --data: folder of degraded pictures, with --target. Files are "
                 "matched by name, or as SIDD, PolyU and LOL name them."),
    click.option("--target", "target_folder", type=FOLDER, help="Folder of their good pictures."),
    click.option("-o", "--output", type=PATH, required=True,
                 help="Folder for checkpoint, weights and curve; a checkpoint in it is resumed."),
    click.option("--validation", multiple=True, metavar="[NAME=]FOLDER[:TARGETS]",
                 help="Clean images, or pairs, for the curve; may be given several times."),
    click.option("--validation-images", type=COUNT, default=24,
                 help="Most of each set, the middle 512 pixels of each."),
    click.option("--initial", help="Weights to start from: a file or a bundled model's name."),
    click.option("--steps", type=COUNT, default=100_000,
                 help="Of the whole learning-rate schedule."),
    click.option("--minutes", type=float,
                 help="End the schedule after this time as well, that of earlier parts included."),
    click.option("--until", type=COUNT, help="Stop at this step; resume later."),
    click.option("--batch", type=COUNT, default=16, help="Patches a step, in each process."),
    click.option("--patch-px", type=click.IntRange(8),
                 help="Side of a patch; 128 by default, or the next that the task can have."),
    click.option("--progressive", type=read_stages, metavar="PART:PXxBATCH,…",
                 help="Larger patches later: 0.6:192x14 from 60 % of the schedule on.",
                 callback=lambda _context, _option, value: value or ()),
    click.option("--rescale", type=read_numbers, default="1,0.75,0.5", metavar="NUMBERS",
                 help="Sizes at which patches are cut from photos."),
    click.option("--learning-rate", type=float,
                 help="Greatest; 1e-3 for edge networks by default, 2e-4 for the published."),
    click.option("--final-learning-rate", type=float, default=1e-6),
    click.option("--warmup", "warmup_steps", type=WHOLE,
                 help="Steps in which the learning rate grows from zero; 200 by default, or a "
                 "tenth of --steps where that is less."),
    click.option("--clip-norm", type=float, default=0.5, help="Greatest norm of the gradient."),
    click.option("--ema", type=float, default=0.999,
                 help="Decay of the weights' moving average, which is what is kept."),
    click.option("--loss", type=click.Choice(LOSSES), default=LOSSES[0]),
    click.option("--seed", type=WHOLE, default=0),
    click.option("--validate-every", type=COUNT,
                 help="Steps between points of the curve and checkpoints; a 25th of --steps by "
                 "default, at least 1000."),
    click.option("--checkpoint-minutes", type=click.FloatRange(0, min_open=True), default=5.0,
                 help="Minutes between checkpoints, whatever the steps."),
    click.option("--device", help="As torch names it; a GPU where there is one."),
    click.option("--compile/--no-compile", default=None,
                 help="Let torch.compile fuse the network, a minute at the start; on a GPU by "
                 "default."),
    task_options,
)  # fmt: skip
"""Named as `TrainSettings` names them, but for those that `train` has by name."""


@click.command()
@train_options
def train(
    data: tuple[Path, ...],
    input_folder: Path | None,
    target_folder: Path | None,
    output: Path,
    validation: tuple[str, ...],
    validation_images: int,
    initial: str | None,
    until: int | None,
    validate_every: int | None,
    checkpoint_minutes: float,
    device: str | None,
    compile: bool | None,
    **recipe: Any,
) -> None:
    """Train a network on clean images, which the task degrades, or on pairs.

    On several GPUs: torchrun --nproc-per-node 2 -m mirnet_edge train ...
    """
    require("torch", "mirnet-edge train")
    from mirnet_edge.workstation.train import Trainer

    pairs = (input_folder, target_folder) if input_folder and target_folder else None
    if not pairs and (input_folder or target_folder or not data):
        raise click.UsageError("give --data, or --input and --target")
    of_task = {name: recipe.pop(name) for name in list(recipe) if name.startswith(OF_TASK)}
    settings = TrainSettings(
        task_settings={
            name.removeprefix(OF_TASK): value
            for name, value in of_task.items()
            if value is not None
        },
        **recipe,
    )
    with _stopped_with_a_word(output):
        trainer = Trainer(
            settings,
            data,
            output,
            pairs=pairs,
            validation=validation,
            validation_images=validation_images,
            device=device,
            compile=compile,
            initial=initial,
            say=_say,
        )
        try:
            _run(trainer, until, validate_every, checkpoint_minutes)
        finally:
            trainer.processes.close()
    if trainer.processes.is_first:
        say(f"step {trainer.state.step}: {output / 'model.safetensors'}")


def _say(sentence: str) -> None:
    """Print on standard error, in the first of the launcher's processes alone."""
    if os.environ.get("RANK", "0") == "0":
        err().print(sentence)


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
            _say(f"stopped; {saved} holds the steps done, and the same command goes on")
        else:
            _say("stopped before the first step was done: there was nothing to save")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(
    trainer: Trainer, until: int | None, validate_every: int | None, checkpoint_minutes: float
) -> None:
    """Train under a progress bar, and print each new point of the curve."""
    for reason in trainer.skipped:
        _say(f"left out: {reason}")
    state, settings = trainer.state, trainer.state.settings
    kind = "pairs" if trainer.data_facts["pairs"] else "images"
    of_time = f" or {settings.minutes:g} minutes" if settings.minutes else ""
    _say(
        f"{trainer.data_facts['images']} {kind}, {trainer.device}, step {state.step} of "
        f"{settings.steps}{of_time}"
    )
    last = min(until or settings.steps, settings.steps)
    quiet = not trainer.processes.is_first
    with progress_bar("steps", "{task.fields[figures]}", quiet=quiet) as bar:
        task = bar.add_task(settings.preset, total=last, completed=state.step, figures="")
        printed = len(state.curve)

        def report(news: Report) -> None:
            nonlocal printed
            figures = _figures(news)
            bar.update(task, completed=news.state.step, figures=figures)
            if len(news.state.curve) > printed:
                printed = len(news.state.curve)
                bar.console.print(f"step {news.state.curve[-1].step}: {figures}")

        trainer.run(until, validate_every, checkpoint_minutes, report)


def _figures(news: Report) -> str:
    """How a run goes, in one line."""
    parts = [f"loss {news.loss:.4f}"]
    if news.state.curve:
        parts += [f"{name} {psnr:.2f} dB" for name, psnr in news.state.curve[-1].psnr.items()]
    if news.images_per_second:
        parts.append(f"{news.images_per_second:.0f} images/s")
    if news.gpu_share is not None:
        parts.append(f"GPU {news.gpu_share:.0%}")
    left = round(news.seconds_left)
    if left > 0:
        parts.append(f"{left // 60}:{left % 60:02d} left")
    return ", ".join(parts)
