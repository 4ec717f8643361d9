"""``train-noise-level``: the network that estimates how noisy a frame is."""

from __future__ import annotations

from pathlib import Path

import click

from mirnet_edge._files import require_new
from mirnet_edge._imports import require
from mirnet_edge.cli.console import overwrite_option, progress_bar, say
from mirnet_edge.errors import OutputError
from mirnet_edge.frames.noise_estimator import load_estimator


@click.command("train-noise-level")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path),
              multiple=True, required=True,
              help="Folder of clean images; may be given several times.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True,
              help="Weights, as NAME.npz.")  # fmt: skip
@click.option("--through", metavar="MODEL",
              help="A denoiser, bundled or a checkpoint: for the second half of the time the level "
              "is learned that it restores best with.")  # fmt: skip
@click.option("--initial", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Weights to begin with, instead of none.")  # fmt: skip
@click.option("--quantile", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.8,
              help="Share of the crops whose level is not to be found too low.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=5.0,
              help="Of training.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=512, help="Crops a step.")
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--device", help="As torch names it; a GPU where there is one.")
@overwrite_option
def train_noise_level(
    data: tuple[Path, ...],
    output: Path,
    through: str | None,
    initial: Path | None,
    quantile: float,
    minutes: float,
    batch: int,
    seed: int,
    device: str | None,
    overwrite: bool,
) -> None:
    """Train the network that estimates how noisy a frame is, on what denoisers are trained on."""
    require("torch", "mirnet-edge train-noise-level")
    from mirnet_edge.model.checkpoints import load_model
    from mirnet_edge.workstation.noise_level import save, train

    if output.suffix != ".npz":
        raise OutputError(f"{output}: the name must end in .npz")
    require_new(output, overwrite)
    with progress_bar("percent") as bar:
        task = bar.add_task("noise level", total=100)
        net = train(
            data,
            denoiser=load_model(through) if through else None,
            initial=load_estimator(initial).weights if initial else None,
            quantile=quantile,
            minutes=minutes,
            batch=batch,
            seed=seed,
            device=device,
            report=lambda done, loss: bar.update(
                task, completed=100 * done, description=f"noise level, error {loss:.3f}"
            ),
        )
    save(net, output)
    say(f"{output}: {sum(p.numel() for p in net.parameters())} parameters")
