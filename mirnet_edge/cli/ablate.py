"""``ablate``: what each part of the networks is worth."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirnet_edge._imports import require
from mirnet_edge.cli.console import (
    option_group,
    print_table,
    progress_bar,
    read_size,
    say,
)
from mirnet_edge.cli.train import read_numbers
from mirnet_edge.errors import ConfigError
from mirnet_edge.workstation.ablation.variants import VARIANTS
from mirnet_edge.workstation.settings import EDGE_RATE
from mirnet_edge.workstation.tasks import TRAINABLE

if TYPE_CHECKING:
    from mirnet_edge.workstation.ablation.jobs import Job
    from mirnet_edge.workstation.ablation.record import Ablation

COUNT = click.IntRange(1)
ALL, CLOSEST, NONE = "all", "closest", "none"


def read_counts(text: str) -> tuple[int, ...]:
    """Read ``1,2,3``."""
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise click.BadParameter(f"{text!r}: give whole numbers between commas, as 0,1,2")
    return tuple(int(part) for part in text.split(","))


def read_gpus(text: str) -> tuple[int, ...] | str:
    """Read ``all``, ``none`` or ``0,1,2``."""
    return text if text in (ALL, NONE) else read_counts(text)


def _list(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        for name, row in VARIANTS.items():
            say(f"{name:<24} {row.about}")
        context.exit()


ablate_options = option_group(
    click.option("--data", type=click.Path(exists=True, path_type=Path), multiple=True,
                 required=True, help="Folder of clean images; may be given several times."),
    click.option("--validation", multiple=True, required=True, metavar="[NAME=]FOLDER[:TARGETS]",
                 help="As of `train`; the mean of all sets is what rows are compared by."),
    click.option("--validation-images", type=COUNT, default=24, help="Most of each set."),
    click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False),
                 required=True,
                 help="Folder of the ablation: what is finished in it is not done again."),
    click.option("--rows", default=ALL, metavar="all|closest|NAME,…",
                 help="Variants to train; 'closest' are the three that earlier runs in this folder "
                 "left closest together."),
    click.option("--steps", type=COUNT, help="Train each row so many steps."),
    click.option("--minutes", type=click.FloatRange(0, min_open=True),
                 help="Train each row so long; with --steps too, each row is trained twice."),
    click.option("--seeds", type=read_counts, default="1", metavar="NUMBERS",
                 help="Train each row once with each."),
    click.option("--gpus", type=read_gpus, default=ALL, metavar="all|none|NUMBERS",
                 help="GPUs to use, as 0,1,2,3: each trains one row at a time; the CPU does where "
                 "there is none."),
    click.option("--task", type=click.Choice(list(TRAINABLE)), default="denoise"),
    click.option("--batch", type=COUNT, default=16, help="Patches a step."),
    click.option("--patch-px", type=COUNT, default=128,
                 help="Side of the patches; some rows have half of it, or 1.5 times."),
    click.option("--rescale", type=read_numbers, default="1,0.75,0.5", metavar="NUMBERS",
                 help="Sizes at which patches are cut from photos."),
    click.option("--learning-rate", type=float, default=EDGE_RATE, help="Greatest, of all rows."),
    click.option("--size", type=read_size, metavar="HxW",
                 help="What is timed; 256x256 on a CPU by default, 1088x1920 on a GPU."),
    click.option("--costs/--no-costs", default=True,
                 help="Measure what rows cost, after they were trained."),
    click.option("--compile/--no-compile", default=None, help="As of `train`."),
    click.option("--checkpoint-minutes", type=click.FloatRange(0, min_open=True), default=5.0,
                 help="As of `train`."),
    click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list,
                 help="Print the rows there are."),
)  # fmt: skip
"""Those that are the recipe of all rows are named as `Study` names them."""


@click.command()
@ablate_options
def ablate(
    data: tuple[Path, ...],
    validation: tuple[str, ...],
    output: Path,
    rows: str,
    steps: int | None,
    minutes: float | None,
    seeds: tuple[int, ...],
    gpus: tuple[int, ...] | str,
    size: tuple[int, int] | None,
    costs: bool,
    compile: bool | None,
    checkpoint_minutes: float,
    **recipe: Any,
) -> int:
    """Train variants of both networks alike, and compare them: what each part is worth, and which
    of the papers' claims hold.

    Equal --steps, or equal --minutes of training, in which compiling does not count. A stopped
    command goes on where it was.
    """
    if steps is None and minutes is None:
        raise click.UsageError("give --steps, --minutes or both: how long each row is trained")
    for package in ("torch", "matplotlib", "safetensors", "scipy"):  # before hours are lost
        require(package, "mirnet-edge ablate")
    from mirnet_edge.workstation.ablation.figures import SIZES
    from mirnet_edge.workstation.ablation.jobs import Costing, Training
    from mirnet_edge.workstation.ablation.page import write_ablation
    from mirnet_edge.workstation.ablation.record import Ablation
    from mirnet_edge.workstation.ablation.study import Study, Unit, runs_of

    folders = tuple(str(folder.absolute()) for folder in data)
    study = Study(folders, tuple(map(_absolute, validation)), **recipe)
    study.keep(output)
    asked: dict[Unit, float | None] = {"steps": steps, "minutes": minutes}
    amounts = {unit: float(amount) for unit, amount in asked.items() if amount is not None}
    chosen = _chosen(rows, Ablation.read(output, study, amounts))
    places = _places(gpus)
    device = "cpu" if places == [None] else "cuda"
    trainings: list[Job] = [
        Training(study, run, output, device, compile, checkpoint_minutes)
        for run in runs_of(chosen, steps, minutes, seeds)
    ]
    costings: list[Job] = [
        Costing(study, row, output, device, size or SIZES[device], compile)
        for row in chosen
        if costs
    ]
    # Times last: on a CPU nothing else runs meanwhile.
    failed = _run(trainings, places) + _run(costings, places)
    found = Ablation.read(output, study, amounts)
    paths = write_ablation(found, output)
    _print(found)
    say(", ".join(map(str, paths)))
    return 1 if failed else 0


def _chosen(rows: str, found: Ablation) -> list[str]:
    """The names of the rows that ``--rows`` means."""
    from mirnet_edge.workstation.ablation.variants import variants_named

    names = list(VARIANTS) if rows == ALL else rows.split(",")
    if rows == CLOSEST:
        names = [name for each in found.comparisons for name in each.closest()]
        if not names:
            raise ConfigError(
                "no three rows of one network were trained here to choose from; train some first: "
                "--rows all, or their names"
            )
    return [variant.name for variant in variants_named(names)]


def _places(gpus: tuple[int, ...] | str) -> list[str | None]:
    """The GPUs to use as processes are told of them; None alone is the CPU."""
    import torch

    from mirnet_edge.workstation.ablation.jobs import visible_gpus

    count = 0 if gpus == NONE else torch.cuda.device_count()
    return [*visible_gpus(count, None if isinstance(gpus, str) else gpus)] or [None]


def _absolute(named: str) -> str:
    """A validation set whose paths are absolute."""
    name, mark, place = named.partition("=")
    if not mark or Path(named).exists():
        name, mark, place = "", "", named
    folders = [place] if Path(place).exists() else place.split(":")
    return f"{name}{mark}{':'.join(str(Path(folder).absolute()) for folder in folders)}"


def _run(jobs: list[Job], places: list[str | None]) -> int:
    """Do what is not done yet, under a progress bar; how many failed."""
    from mirnet_edge.workstation.ablation.jobs import run_jobs

    left = [job for job in jobs if not job.is_done()]
    failed = 0
    # Closed whatever ends the loop: a process that nobody waits for would train on.
    with progress_bar("runs") as bar, closing(run_jobs(left, places)) as outcomes:
        task = bar.add_task("ablation", total=len(jobs), completed=len(jobs) - len(left))
        for job, why in outcomes:
            bar.advance(task)
            bar.console.print(f"{job.name}: {'done' if why is None else f'failed: {why}'}")
            failed += why is not None
    return failed


def _print(found: Ablation) -> None:
    from mirnet_edge.workstation.ablation.page import (
        claims_table,
        costs_table,
        scores_table,
        title_of,
    )

    for each in found.comparisons:
        head, *rows = scores_table(each)
        print_table(head, rows, title_of(each))
    head, *rows = costs_table(found)
    print_table([head[0], *head[2:]], [[row[0], *row[2:]] for row in rows])
    head, *rows = claims_table(found)
    if rows:
        print_table(head, rows)
    for each in found.comparisons:
        if names := each.closest():
            say(
                f"{title_of(each)}, these lie closest together: {', '.join(names)}; to tell them "
                f"apart, the same command with --rows {','.join(names)} --seeds 1,2,3"
            )
