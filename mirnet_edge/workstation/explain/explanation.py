"""What a network does with a picture: its attention, what it pools, how far it sees, and why tiles
differ from the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mirnet_edge.errors import FrameError, TilingError
from mirnet_edge.facts import ModelFacts, SizeRule
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.frames.noise import unit_range
from mirnet_edge.frames.noise_level import Noise
from mirnet_edge.model.config import Config
from mirnet_edge.model.create import create_model
from mirnet_edge.model.layers import Network
from mirnet_edge.workstation.arithmetic import multiply_accumulates
from mirnet_edge.workstation.explain.field import Field, receptive_field
from mirnet_edge.workstation.explain.tile_study import (
    Frame,
    TileStudy,
    steps_of,
    study_tiles,
    whole_frame,
)

Fit = Literal["crop", "scale"]
TILE_PX, HALO_PX = 128, 16
LEAST_PX, MOST_PX = 96, 512
"""Sides of the restored picture that is looked at, unless the user says another."""
BUDGET_MACS = 40e9
"""For one pass over the picture, of which there are 40 to 80: a minute or two on two cores."""


@dataclass(frozen=True)
class Explanation:
    """All that a page shows.

    Attributes:
        said: which part of the picture was looked at, for the reader.
    """

    facts: ModelFacts
    config: Config
    parameters: int
    said: str
    frame: Frame
    tiles: TileStudy
    field: Field


def explain_model(
    network: Network,
    picture: NDArray[np.uint8],
    *,
    side: int | None = None,
    fit: Fit = "crop",
    tile: int | None = None,
    halo: int = HALO_PX,
    noise: Noise = "auto",
    progress: StageProgress = lambda _phase, _done, _total: None,
) -> Explanation:
    """Look into a network while it restores a picture.

    Args:
        network: of `load_model`, of three colours in and out.
        picture: (H, W, 3) uint8.
        side: most pixels of the restored picture along each axis; None for as many as a pass of
            `BUDGET_MACS` allows, at most `MOST_PX`.
        fit: what becomes of a larger picture: "crop" takes its middle, "scale" makes it smaller,
            which changes its noise and its details.
        tile, halo: of the tiles that are compared with the whole, in pixels of the restored
            picture; None takes `TILE_PX`, or half the shorter side.
        noise: as of `Restorer`.

    Raises:
        FrameError: the picture is too small, or not of the network's colours.
        TilingError: no such tile, or one that holds the whole picture.
    """
    colours = (network.config.in_channels, network.config.out_channels)
    if colours != (3, 3):
        raise FrameError(f"a network of {colours[0]} planes in and {colours[1]} out takes no "
                         "photo; explain is for those of three")  # fmt: skip
    shown, said = fitted(picture, network, side or affordable_side(network), fit)
    progress("whole picture", 0, 0)
    frame = whole_frame(network, unit_range(shown), noise)
    if tile is None:
        shorter = min(frame.after.shape[:2])
        tile = min(TILE_PX, SizeRule(network.facts.size_multiple).down(shorter // 2))
    if tile >= max(frame.after.shape[:2]):
        height, width = frame.after.shape[:2]
        raise TilingError(
            f"a tile of {tile} holds all {width}x{height} pixels that are looked at, so that there "
            "is nothing to compare; take smaller tiles, or a larger side"
        )
    vectors = [pool.vector for pool in frame.seen.pools]
    done, total = 0, steps_of(network, frame.seen.pools, tile, halo)

    def step() -> None:
        nonlocal done
        done += 1
        progress("tiles", done, total)

    study = study_tiles(network, frame, tile, halo, step)
    progress("receptive field", 0, 0)
    return Explanation(
        facts=network.facts,
        config=network.config,
        parameters=sum(values.numel() for values in network.parameters()),
        said=said,
        frame=frame,
        tiles=study,
        field=receptive_field(network, frame.tensor, vectors),
    )


def affordable_side(network: Network) -> int:
    """Pixels along each axis of a picture of which one pass costs `BUDGET_MACS` at most, a multiple
    of 32 between `LEAST_PX` and `MOST_PX`."""
    size = SizeRule(network.config.size_multiple).up(64)
    with torch.device("meta"):  # shapes without numbers: nothing is computed
        macs = multiply_accumulates(create_model(network.config), network.config.in_planes, size)
    macs_per_pixel = macs / size**2
    side = 32 * int(math.sqrt(BUDGET_MACS / macs_per_pixel) // 32)
    return min(max(side, LEAST_PX), MOST_PX)


def fitted(
    picture: NDArray[np.uint8], network: Network, side: int, fit: Fit
) -> tuple[NDArray[Any], str]:
    """The part of a picture that is looked at, of whole multiples of the network, and what to say
    of it."""
    scale = network.facts.scale
    unit = math.lcm(network.facts.size_multiple, scale) // scale
    height, width = picture.shape[:2]
    most, given = side // scale, f"{width}x{height}"
    if fit == "scale" and max(height, width) > most:
        share = most / max(height, width)
        smaller = max(round(width * share), 1), max(round(height * share), 1)
        image = Image.fromarray(picture).resize(smaller, Image.Resampling.LANCZOS)
        picture = np.asarray(image)
        given = f"{given} made smaller to {smaller[0]}x{smaller[1]}, which averages noise away"
        height, width = picture.shape[:2]
    tall, wide = (min(length, most) // unit * unit for length in (height, width))
    if min(tall, wide) * scale < max(LEAST_PX // 2, network.facts.min_size_px):
        raise FrameError(
            f"{wide}x{tall} pixels are too few to cut into tiles: give a picture, and a side, of "
            f"at least {LEAST_PX // scale}"
        )
    top, left = (height - tall) // 2, (width - wide) // 2
    shown = picture[top : top + tall, left : left + wide]
    part = "" if (tall, wide) == (height, width) else f"the middle {wide}x{tall} pixels of "
    return np.ascontiguousarray(shown), f"{part}a picture of {given}"
