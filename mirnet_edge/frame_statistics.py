"""Tiles that agree with the frame: which pooled vectors the tiles of a frame are restored with.

A MIRNet takes means over the whole picture many times; a tile that takes its own differs from its
neighbours, and no halo mends that. Four modes:

* ``tile``: each tile its own, one pass, nothing else needed.
* ``frame``: the frame's, exactly. A pass restores all tiles with the vectors known so far and
  gathers better ones; each makes at least the next vector of the chain exact, and the passes end
  once none moves. Starts from the last frame's vectors, or a sample's where the scene is new.
* ``frame-fast``: the mean of a few sample tiles for the whole frame.
* ``stream``: what was gathered up to frame t serves frame t + 1; a rotating share of the tiles
  gathers in each frame. A new scene starts from a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mirnet_edge.engine import StatisticsEngine, Tiles
from mirnet_edge.errors import TilingError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_tiles import FrameTiles
from mirnet_edge.pooled import Partial, Statistics, Weights
from mirnet_edge.scene_cut import difference, luma_grid
from mirnet_edge.tiles import Cover, partition

Mode = Literal["tile", "frame", "frame-fast", "stream"]
MODES: tuple[Mode, ...] = get_args(Mode)
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class StatisticsSettings:
    """How the statistics of a frame are found.

    Attributes:
        mode: see the module.
        tolerance: of ``frame``: it is done when no element of a vector moves by more than this
            share of the vector's largest.
        samples: tiles of a sample, spread over the frame.
        share: of the tiles, how many gather in each frame of a ``stream``.
        weight: of what was gathered last in a ``stream``'s vectors, which are an exponential
            average over frames.
        cut: a mean difference of the luma grids (`scene_cut`) of two frames beyond which the scene
            is new.

    Raises:
        TilingError: a mode or a number that cannot be.
    """

    mode: Mode = "tile"
    tolerance: float = 1e-4
    samples: int = 4
    share: float = 0.125
    weight: float = 0.5
    cut: float = 0.06

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise TilingError(f"statistics={self.mode!r}: need one of {', '.join(MODES)}")
        for name in ("share", "weight"):
            if not 0 < getattr(self, name) <= 1:
                raise TilingError(f"{name}={getattr(self, name)}: need more than 0, at most 1")
        for name in ("tolerance", "cut"):
            if not getattr(self, name) >= 0:
                raise TilingError(f"{name}={getattr(self, name)}: may not be negative")
        if self.samples < 1:
            raise TilingError(f"samples={self.samples}: need at least one tile")


class FrameStatistics:
    """Restores the tiles of frames with statistics that they share, and remembers them.

    Args:
        engine: restores tiles with given statistics.
        facts: of the model.
        settings: any mode but "tile".

    Attributes:
        current: the vectors that the last frame was restored with; None before the first.
        moves: by how much they moved in each pass over that frame (see `Statistics.distance`).
    """

    def __init__(
        self, engine: StatisticsEngine, facts: ModelFacts, settings: StatisticsSettings
    ) -> None:
        self.current: Statistics | None = None
        self.moves: list[float] = []
        self._engine = engine
        self._facts = facts
        self._settings = settings
        self._scene = Scene(settings.cut)
        self._gathered: dict[int, Partial] = {}
        self._turn = 0
