"""``tune``: the fastest way to restore frames of a size on this device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mirnet_edge.cli.console import (
    json_option,
    option_group,
    phases,
    print_json,
    print_table,
    read_frame_size,
    say,
)

if TYPE_CHECKING:
    from mirnet_edge.build.trials import Trial

tune_options = option_group(
    click.option("--frame", type=read_frame_size, metavar="WxH", required=True,
                 help="Width x height of the frames to restore."),
    click.option("--minutes", type=click.FloatRange(0), default=10.0,
                 help="After which nothing new is tried."),
    click.option("--psnr-db", type=float, default=50.0,
                 help="To be reached against whole frames in FP32."),
    json_option,
)  # fmt: skip
"""Named as `tune_model` names them."""


@click.command()
@click.argument("model")
@tune_options
def tune(model: str, frame: tuple[int, int], minutes: float, psnr_db: float, as_json: bool) -> None:
    """Measure tiles, batches, precisions and more for MODEL (.onnx, or a bundled model's name) on
    this device, and keep the fastest: what restores with MODEL takes it from then on."""
    from mirnet_edge.build.tune import named, tune_model
    from mirnet_edge.engines.tuned import told, tuned_path

    trials: list[Trial] = []
    try:
        with phases(quiet=as_json) as progress:
            tuned = tune_model(
                model,
                frame,
                minutes=minutes,
                psnr_db=psnr_db,
                progress=progress,
                on_trial=trials.append,
            )
    finally:  # what was measured is of use, whatever came of it
        if trials and not as_json:
            rows = [[named(trial.candidate), *_figures(trial)] for trial in trials]
            print_table(["tried", "ms", "p90", "dB", "s"], rows)
            for trial in trials:
                if trial.error:
                    say(f"{named(trial.candidate)}: {trial.error}")
    if as_json:
        print_json(tuned)
        return
    tile, size = "{}x{}".format(*tuned.tile), "{1}x{0}".format(*frame)
    say(
        f"fastest: {tuned.engine_path(model)}, tile {tile}, {tuned.ms:.1f} ms a frame of {size} on "
        f"{told(tuned.device)}\nkept in {tuned_path(model)}: Restorer and mirnet-edge restore take "
        "it from now on; delete it to go back"
    )


def _figures(trial: Trial) -> list[str]:
    values = ((trial.ms, ".1f"), (trial.p90_ms, ".1f"), (trial.psnr_db, ".1f"))
    return [*("" if v is None else format(v, style) for v, style in values), f"{trial.seconds:.0f}"]
