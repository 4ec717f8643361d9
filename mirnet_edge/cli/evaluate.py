"""``evaluate``: how good a model is, on pictures that a person has."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirnet_edge._files import require_new
from mirnet_edge._imports import require
from mirnet_edge.cli.console import (
    err,
    json_option,
    option_group,
    overwrite_option,
    phases,
    print_json,
    print_table,
    progress_bar,
    read_noise,
    tiling_options,
)
from mirnet_edge.model.config import TASKS

if TYPE_CHECKING:
    from mirnet_edge.restore import Restorer
    from mirnet_edge.workstation.evaluate import Data, Evaluation, NoiseAsked
    from mirnet_edge.workstation.protocols import Protocol
    from mirnet_edge.workstation.sets import Row

PATH = click.Path(path_type=Path)


def read_level(text: str) -> str | float:
    """Read ``told``, or as everywhere: ``auto`` or a level."""
    return text if text == "told" else read_noise(text)


data_options = option_group(
    click.option("--data", type=PATH, help="Folder, file or glob pattern of clean images."),
    click.option("--input", "given", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 help="Folder of degraded images, whose good ones are in --target."),
    click.option("--target", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 help="Folder of the good images, of the same names."),
    click.option("--sets", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 help="Folder of folders cbsd68, set5, set14, polyu, lol_train4: all the tests of "
                 "the model's task, as its card has them."),
    click.option("--every", type=click.IntRange(1), default=1,
                 help="Take every so many images only, for a quick look."),
)  # fmt: skip
"""What is restored, and compared with what."""
protocol_options = option_group(
    click.option("--task", type=click.Choice(TASKS), help="How clean images are degraded; by the "
                 "model's own task by default."),
    click.option("--sigma", type=click.FloatRange(0, 255),
                 help="Standard deviation of the noise, of 255; 25 for a denoiser.",
                 show_default=False),
    click.option("--gray", is_flag=True, default=None, help="Gray images with gray noise."),
    click.option("--quantize", is_flag=True, default=None,
                 help="Clamp and round the noisy image to 8 bits, as a camera would."),
    click.option("--jpeg", type=click.IntRange(1, 100), metavar="Q",
                 help="Put the degraded image through a JPEG file of this quality, 4:2:0."),
    click.option("--codec", type=click.Choice(["h264"]),
                 help="Take the noisy image as a frame of a video; needs PyAV."),
    click.option("--scale", type=click.IntRange(2, 4),
                 help="Of super-resolution, where the model does not say."),
    click.option("--exposure", type=click.FloatRange(0, 1, min_open=True),
                 help="Share of the light that is left, for enhancement."),
    click.option("--brightness", is_flag=True,
                 help="Of pairs: PSNR after the mean brightness was matched, too."),
    click.option("--seed", type=click.IntRange(0), default=0),
)  # fmt: skip
"""Named as the fields of the protocols name them."""
evaluate_options = option_group(
    data_options,
    protocol_options,
    click.option("--noise", type=read_level, metavar="auto|told|NUMBER",
                 help="The noise level that the model is told, if it asks for one: estimated, as "
                 "by default, the true one, or this."),
    click.option("--told-offset", type=float, default=0.0,
                 help="Added to the true level, to see what a wrong one costs."),
    click.option("--device", help="Where a checkpoint runs, as torch names it; else on the CPU."),
    click.option("--ssim/--no-ssim", default=True,
                 help="SSIM too, which takes longer than most models."),
    click.option("--html", type=PATH, help="Write a page with the pictures to this file."),
    overwrite_option,
    tiling_options,
    json_option,
)  # fmt: skip


@click.command()
@click.argument("model")
@evaluate_options
def evaluate(
    model: str,
    data: Path | None,
    given: Path | None,
    target: Path | None,
    sets: Path | None,
    every: int,
    task: str | None,
    brightness: bool,
    seed: int,
    noise: NoiseAsked | None,
    told_offset: float,
    device: str | None,
    ssim: bool,
    html: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """PSNR and SSIM of MODEL, by the protocol of what it restores.

    Clean images (--data) are degraded as the literature does: white noise, neither clamped nor
    rounded; MATLAB's bicubic downscaling, measured on the luma; less light. Pairs (--input,
    --target) are taken as they are. SSIM needs scikit-image; without it PSNR stands alone. Gray
    pictures take gray noise. The mean is over the images.
    """  # fmt: skip
    names = ("sigma", "gray", "quantize", "jpeg", "codec", "scale", "exposure")
    settings = {name: value for name in names if (value := options.pop(name)) is not None}
    where = _data(data, given, target, sets)
    asked = settings or html or task or brightness or noise is not None or told_offset or seed
    if where is None and asked:
        raise click.UsageError("--sets runs the tests of a card: leave what says how to test out")
    if html:
        require_new(html, overwrite)
    with ExitStack() as last:
        restorer = last.enter_context(_restorer(model, device, options))
        if where is None:
            assert sets is not None  # `_data` saw to it
            _evaluate_sets(restorer, model, sets, ssim, every, as_json)
            return
        protocol = _protocol(restorer, where, task, brightness, settings)
        evaluation = _evaluate(
            restorer,
            where,
            protocol,
            page=html,
            overwrite=overwrite,
            title=model,
            quiet=as_json,
            noise="auto" if noise is None else noise,
            told_offset=told_offset,
            with_ssim=ssim,
            seed=seed,
            every=every,
        )
    if as_json:
        print_json(evaluation)
    else:
        _print(evaluation, model)


def _data(
    data: Path | None, given: Path | None, target: Path | None, sets: Path | None
) -> Data | None:
    """What is to be tested; None for all sets of a folder."""
    if (given is None) != (target is None):
        raise click.UsageError("--input and --target go together: a pair has two halves")
    if sum(option is not None for option in (data, given, sets)) != 1:
        raise click.UsageError("say what to test: --data, --input with --target, or --sets")
    if given is not None and target is not None:
        return given, target
    return data


def _restorer(model: str, device: str | None, tiling: Mapping[str, Any]) -> Restorer:
    from mirnet_edge.restore import Restorer

    if device is None:
        return Restorer(model, **tiling)
    require("torch", "--device")
    from mirnet_edge.engines.torch_engine import TorchEngine
    from mirnet_edge.model.checkpoints import load_model

    return Restorer(TorchEngine(load_model(model), device), **tiling)


def _protocol(
    restorer: Restorer, where: Data, task: str | None, brightness: bool, settings: dict[str, Any]
) -> Protocol:
    from mirnet_edge.workstation.protocols import Pairs, protocol_for

    if not isinstance(where, tuple):
        if brightness:
            raise click.UsageError("--brightness is for pairs: --input and --target")
        facts = restorer.facts if task is None else replace(restorer.facts, task=task)
        return protocol_for(facts, **settings)
    if settings or task:
        raise click.UsageError("pairs are taken as they are; leave options that degrade out")
    return Pairs(brightness)


def _evaluate(
    restorer: Restorer,
    where: Data,
    protocol: Protocol,
    *,
    page: Path | None,
    overwrite: bool,
    title: str,
    quiet: bool,
    **how: Any,
) -> Evaluation:
    from mirnet_edge.workstation.evaluate import evaluate_model
    from mirnet_edge.workstation.page import Page

    pictures = Page(f"{title}, {protocol.name}") if page else None
    with progress_bar("images", quiet=quiet) as bar:
        task = bar.add_task("evaluating", total=None)
        evaluation = evaluate_model(
            restorer,
            where,
            protocol,
            observe=pictures.observe if pictures else None,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **how,
        )
    if pictures and page:
        pictures.write(page, evaluation, overwrite)
    return evaluation


def _print(evaluation: Evaluation, model: str) -> None:
    titles = evaluation.titles
    columns = ["image", "given dB", "restored dB", "gain dB"]
    more = [name for name in titles if name != "psnr"]
    columns += [f"{kind} {titles[name]}" for name in more for kind in ("given", "restored")]
    told = evaluation.mean.noise is not None
    rows = []
    for score in (*evaluation.scores, evaluation.mean):
        decibels = (score.given_psnr, score.psnr, score.psnr - score.given_psnr)
        cells = [f"{value:.2f}" for value in decibels]
        for name in more:
            places = 4 if name == "ssim" else 2
            cells += [f"{kind[name]:.{places}f}" for kind in (score.given, score.restored)]
        if score.noise is not None:
            cells.append(f"{score.noise:.1f}")
        rows.append([score.name, *cells])
    title = f"{model}, {evaluation.protocol}, {len(evaluation.scores)} images"
    print_table(columns + ["level"] * told, rows, title=title)
    if evaluation.note:
        err().print(evaluation.note)
    for reason in evaluation.skipped:
        err().print(f"left out: {reason}")


def _evaluate_sets(
    restorer: Restorer, model: str, sets: Path, ssim: bool, every: int, as_json: bool
) -> None:
    from mirnet_edge.workstation.sets import card_figures

    with phases(as_json) as progress:
        rows = card_figures(restorer, sets, with_ssim=ssim, every=every, progress=progress)
    if as_json:
        print_json({"model": model, "facts": restorer.facts, "figures": rows})
        return
    columns = ["set", "images", "test", "by", "level", "given dB", "restored dB", "SSIM"]
    print_table(columns, [_cells(row) for row in rows], title=model)
    for note in dict.fromkeys(row.note for row in rows if row.note):
        err().print(note)


def _cells(row: Row) -> list[str]:
    level = "" if row.level is None else f"{row.level:.1f}"
    asked = f"{row.noise}, {level}" if row.noise else level
    head = [row.data, str(row.images), row.protocol, row.method, asked]
    if not row.restored:
        return [*head, "", "not measured", ""]
    ssim = row.restored.get("ssim")
    figures = [f"{row.given['psnr']:.2f}", f"{row.restored['psnr']:.2f}"]
    return [*head, *figures, "" if ssim is None else f"{ssim:.4f}"]
