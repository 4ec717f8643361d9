"""``explain``: what a network does with a picture, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirnet_edge._files import require_new
from mirnet_edge._imports import require
from mirnet_edge.bundled import PHOTO
from mirnet_edge.cli.console import (
    noise_level_option,
    option_group,
    overwrite_option,
    phases,
    say,
)
from mirnet_edge.cli.demo import SCENES
from mirnet_edge.frames.images import read_image, upright_rgb

if TYPE_CHECKING:
    from mirnet_edge.frames.noise_level import Noise
    from mirnet_edge.workstation.explain.explanation import Fit

PATH = click.Path(path_type=Path)
DEMO_SIGMA, DEMO_SEED = 15.0, 0
explain_options = option_group(
    click.option("-o", "--output", type=PATH, default=Path("explain.html"),
                 help="Page to write."),
    click.option("--side", type=click.IntRange(32, 2048),
                 help="Most pixels of the restored picture along each axis; by what the network "
                 "costs, and at most 512, by default."),
    click.option("--fit", type=click.Choice(["crop", "scale"]), default="crop",
                 help="Take the middle of a larger picture, or make it smaller."),
    click.option("--tile", type=click.IntRange(8), metavar="PIXELS",
                 help="Side of the tiles that are compared with the whole; 128 by default."),
    click.option("--halo", type=click.IntRange(0), default=16,
                 help="Pixels at each inner tile edge that are computed and thrown away."),
    noise_level_option,
    overwrite_option,
)  # fmt: skip


@click.command()
@click.argument("model")
@click.argument("image", type=PATH, required=False)
@explain_options
def explain(
    model: str,
    image: Path | None,
    output: Path,
    side: int | None,
    fit: Fit,
    tile: int | None,
    halo: int,
    noise: Noise,
    overwrite: bool,
) -> None:
    """Look into MODEL while it restores IMAGE (without one, the demo's for its task), and write a
    page: attention maps, means over the frame, receptive field, and why tiles differ from the
    frame. MODEL is a bundled model's name, a checkpoint, or an ONNX file of `export`."""
    require("torch", "mirnet-edge explain")
    require("matplotlib", "mirnet-edge explain")
    require_new(output, overwrite)
    from mirnet_edge.model.checkpoints import load_model
    from mirnet_edge.workstation.explain.explanation import explain_model
    from mirnet_edge.workstation.explain.page import write_explanation

    network = load_model(model)
    if image is not None:
        picture, name = upright_rgb(read_image(image)), image.name
    else:
        picture, name = read_image(PHOTO).pixels, "the bundled photo"
        scene = next((s for s in SCENES.values() if s.task == network.facts.task), None)
        if scene is not None:
            picture = scene.spoiled(picture, DEMO_SIGMA, DEMO_SEED)
            name = f"{name}, {scene.said}"
    with phases(quiet=False) as progress:
        found = explain_model(
            network, picture, side=side, fit=fit, tile=tile, halo=halo, noise=noise,
            progress=progress,
        )  # fmt: skip
    write_explanation(found, output, f"{Path(model).name} on {name}", overwrite=overwrite)
    cut = found.tiles.cut
    say(f"{output}: {found.said}")
    say(
        f"tiles of {cut.tile}, halo {cut.halo}, against the whole: {found.tiles.own_db:.1f} dB "
        f"with their own means, {found.tiles.shared_db:.1f} dB with the frame's"
    )
