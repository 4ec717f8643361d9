"""One frame of the host as tiles: each loaded, run, and stored, as often as asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.engines.protocol import StatisticsEngine, Tiles
from mirnet_edge.errors import EngineError
from mirnet_edge.frame_path import Progress
from mirnet_edge.frames.layout import FrameLayout, Region
from mirnet_edge.host.seams import Seams
from mirnet_edge.pooling.samples import Sample
from mirnet_edge.pooling.scene_cut import Grid, luma_grid
from mirnet_edge.pooling.vectors import Partial, Statistics, Weights
from mirnet_edge.tiling.geometry import Cover

Run = Callable[[int, Tiles], Tiles]
"""The number of a tile and its (1, C, h, w) to its restored (1, C', h, w)."""


@dataclass(eq=False, kw_only=True)
class FrameTiles:
    """Runs the tiles of one frame through an engine, and counts.

    Attributes:
        source, target: what is read and written, each with its layout.
        cover: the tiles.
        buffer: (1, C, h, w) float32, of the tiles' size.
        out_channels: of the engine.
        progress: called with (tiles done, tiles) after each tile of every pass.
        passes, samples: runs so far of all tiles, and of single ones.
        load_s, engine_s, store_s: seconds spent in each.
    """

    source: NDArray[Any]
    layout: FrameLayout
    target: NDArray[Any]
    target_layout: FrameLayout
    cover: Cover
    buffer: Tiles
    out_channels: int
    progress: Progress | None = None
    passes: int = 0
    samples: int = 0
    load_s: float = 0.0
    engine_s: float = 0.0
    store_s: float = 0.0

    def __len__(self) -> int:
        return len(self.cover)

    def run(self, run: Run) -> None:
        """Run all tiles once, in reading order, and write the frame.

        Raises:
            EngineError: ``run`` returns another shape or type, NaN or infinity.
        """
        seams = Seams(self.cover, self.out_channels)
        for index, (row, column) in enumerate(self.cover):
            restored = self._run_tile(run, index, (row.source, column.source))
            clock = time.perf_counter()
            final = seams.settle(restored, row, column)
            self.target_layout.store(final, self.target, (row.settled, column.settled))
            self.store_s += time.perf_counter() - clock
            if self.progress:
                self.progress(index + 1, len(self))
        self.passes += 1

    def sample(self, region: Region, run: Callable[[Tiles], Tiles]) -> None:
        """Run one tile that covers ``region``, and write nothing."""
        self._run_tile(lambda _, tile: run(tile), 0, region)
        self.samples += 1

    def _run_tile(self, run: Run, index: int, region: Region) -> NDArray[np.float32]:
        clock = time.perf_counter()
        self.layout.load(self.source, region, self.buffer[0])
        loaded = time.perf_counter()
        restored = np.asarray(run(index, self.buffer))
        self.load_s += loaded - clock
        self.engine_s += time.perf_counter() - loaded
        expected = (1, self.out_channels, *self.buffer.shape[2:])
        if restored.shape != expected or restored.dtype != np.float32:
            raise EngineError(
                f"the engine returned {restored.dtype} {restored.shape} for tiles of "
                f"{self.buffer.shape}; expected float32 {expected}"
            )
        planes: NDArray[np.float32] = restored[0]
        # Seams and `store` work in place; a buffer that its engine keeps to itself is copied.
        return planes if planes.flags.writeable else planes.copy()


class EnginePasses:
    """Restores the tiles of a frame with statistics, on an engine of the host (see
    `pooling.passes.TilePasses`)."""

    def __init__(self, tiles: FrameTiles, engine: StatisticsEngine) -> None:
        self.cover = tiles.cover
        self._tiles, self._engine = tiles, engine

    @property
    def kind(self) -> Hashable:
        """Shape and dtype of the frame."""
        return self._tiles.source.shape, self._tiles.source.dtype

    def __len__(self) -> int:
        return len(self._tiles)

    def luma(self) -> Grid:
        """Measure the frame."""
        return luma_grid(self._tiles.source)

    def sample(self, samples: Sequence[Sample], statistics: Statistics | None) -> list[Partial]:
        """Run sample tiles, and write nothing."""
        partials: list[Partial] = []
        for sample in samples:
            run = partial(self._gather, sample.region, statistics, partials.append)
            self._tiles.sample((sample.rows, sample.columns), run)
        return partials

    def restore(
        self, statistics: Statistics, regions: Mapping[int, Weights]
    ) -> Callable[[], Mapping[int, Partial]]:
        """Run all tiles once and write the frame; gather from those with a region."""
        found: dict[int, Partial] = {}

        def run(index: int, tile: Tiles) -> Tiles:
            if index not in regions:
                return self._engine.apply(tile, statistics)
            return self._gather(regions[index], statistics, partial(found.__setitem__, index), tile)

        self._tiles.run(run)
        return lambda: found

    def _gather(
        self,
        region: Weights,
        statistics: Statistics | None,
        keep: Callable[[Partial], object],
        tile: Tiles,
    ) -> Tiles:
        restored, gathered = self._engine.gather(tile, region, statistics)
        keep(gathered)
        return restored
