"""One frame of the host as tiles: each loaded, run, and stored, as often as asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.engines.protocol import Engine, Tiles, statistics_of_engine
from mirnet_edge.errors import EngineError, MirnetEdgeError, first_line
from mirnet_edge.frame_path import Progress
from mirnet_edge.frames.enlarged import load_region
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
    """Runs the tiles of one frame through an engine, and counts (see `pooling.passes.TilePasses`).

    Attributes:
        source, target: what is read and written, each with its layout.
        scale: how many times as high and wide as the source the target is.
        cover: the tiles, of the target.
        buffer: (1, C, h, w) float32, of the tiles' size; what it holds beyond the first
            ``in_channels`` planes stays.
        in_channels: of the frame, as the engine takes it.
        out_channels: of the engine.
        progress: called after each tile of every pass.
        nan_as_zero: what is not finite is stored (see `FrameLayout.store`), and no error.
        nonfinite: how many values of the last pass were not finite.
        passes, samples: runs so far of all tiles, and of single ones.
        load_s, engine_s, store_s: seconds spent in each.
    """

    engine: Engine
    source: NDArray[Any]
    layout: FrameLayout
    target: NDArray[Any]
    target_layout: FrameLayout
    cover: Cover
    buffer: Tiles
    in_channels: int
    out_channels: int
    scale: int = 1
    progress: Progress | None = None
    nan_as_zero: bool = False
    nonfinite: int = 0
    passes: int = 0
    samples: int = 0
    load_s: float = 0.0
    engine_s: float = 0.0
    store_s: float = 0.0

    @property
    def kind(self) -> Hashable:
        """Shape and dtype of the frame."""
        return self.source.shape, self.source.dtype

    def luma(self) -> Grid:
        """Measure the frame."""
        return luma_grid(self.source)

    def run(self, run: Run | None = None) -> None:
        """Run all tiles once, in reading order, and write the frame; None is the engine alone."""
        run = run or (lambda _, tile: self.engine.run(tile))
        seams = Seams(self.cover, self.out_channels)
        self.nonfinite = 0
        for index, (row, column) in enumerate(self.cover):
            restored = self._run_tile(run, index, (row.source, column.source))
            clock = time.perf_counter()
            where = row.settled, column.settled
            with np.errstate(invalid="ignore"):  # infinities that fade into each other
                final = seams.settle(restored, row, column)
            stored = self.target_layout.store(final, self.target, where, self.nan_as_zero)
            self.nonfinite += stored
            self.store_s += time.perf_counter() - clock
            if self.progress:
                self.progress(index + 1, len(self.cover))
        self.passes += 1

    def sample(self, samples: Sequence[Sample], statistics: Statistics | None) -> list[Partial]:
        """Run sample tiles, and write nothing."""
        found: dict[int, Partial] = {}
        regions = {index: sample.region for index, sample in enumerate(samples)}
        gather = self._gathering(regions, statistics, found)
        for index, sample in enumerate(samples):
            self._run_tile(gather, index, (sample.rows, sample.columns))
        self.samples += len(samples)
        return list(found.values())

    def restore(
        self, statistics: Statistics, regions: Mapping[int, Weights]
    ) -> Callable[[], Mapping[int, Partial]]:
        """Run all tiles once and write the frame; gather from those with a region."""
        found: dict[int, Partial] = {}
        apply = statistics_of_engine(self.engine).apply
        gather = self._gathering(regions, statistics, found)
        self.run(
            lambda index, tile: gather(index, tile) if index in regions else apply(tile, statistics)
        )
        return lambda: found

    def _gathering(
        self,
        regions: Mapping[int, Weights],
        statistics: Statistics | None,
        found: dict[int, Partial],
    ) -> Run:
        """What runs a tile and puts into ``found`` what its region contributes."""
        engine = statistics_of_engine(self.engine)

        def gather(index: int, tile: Tiles) -> Tiles:
            restored, found[index] = engine.gather(tile, regions[index], statistics)
            return restored

        return gather

    def _run_tile(self, run: Run, index: int, region: Region) -> NDArray[np.float32]:
        clock = time.perf_counter()
        planes = self.buffer[0, : self.in_channels]
        load_region(self.layout, self.source, region, planes, self.scale)
        loaded = time.perf_counter()
        try:
            restored = np.asarray(run(index, self.buffer))
        except MirnetEdgeError:
            raise
        except Exception as error:  # of an engine that is not ours
            kind = type(self.engine).__name__
            raise EngineError(
                f"{kind} failed on tiles of shape {self.buffer.shape}: {type(error).__name__}: "
                f"{first_line(error)}"
            ) from error
        self.load_s += loaded - clock
        self.engine_s += time.perf_counter() - loaded
        expected = (1, self.out_channels, *self.buffer.shape[2:])
        if restored.shape != expected or restored.dtype != np.float32:
            raise EngineError(
                f"the engine returned {restored.dtype} {restored.shape} for tiles of "
                f"{self.buffer.shape}; expected float32 {expected}"
            )
        result: NDArray[np.float32] = restored[0]
        # Seams and `store` work in place; a buffer that its engine keeps to itself is copied.
        return result if result.flags.writeable else result.copy()
