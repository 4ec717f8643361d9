"""A frame in, a restored frame out: `Restorer` owns the engine, the buffers and the tiles."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.auto_tile import Tile, auto_tile, checked_tile
from mirnet_edge.engine import Engine, facts_of_engine, open_engine, statistics_of_engine
from mirnet_edge.errors import EngineError, FrameError, MirnetEdgeError, TilingError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_statistics import FrameStatistics, Mode, StatisticsSettings
from mirnet_edge.frame_tiles import EnginePasses, FrameTiles, Progress
from mirnet_edge.frames import FrameLayout
from mirnet_edge.tiles import Tiling, round_up

DEFAULT_HALO_PX = 16


@dataclass(frozen=True)
class Timings:
    """Where the time of one frame went, in milliseconds.

    Attributes:
        tiles: how many the frame was cut into.
        load_ms: frame to network input.
        engine_ms: in the engine.
        store_ms: network output to frame, seams included.
        passes: how often all tiles were run; more than once only for exact statistics of the frame.
        samples: tiles run before that, for a first estimate of the frame's statistics.
    """

    tiles: int = 0
    load_ms: float = 0.0
    engine_ms: float = 0.0
    store_ms: float = 0.0
    passes: int = 1
    samples: int = 0

    @property
    def total_ms(self) -> float:
        """All of it, in milliseconds."""
        return self.load_ms + self.engine_ms + self.store_ms


class Restorer:
    """Restores frames of any size with one model.

    Args:
        model: an ``.onnx`` file, a checkpoint, a bundled model's name, or any object with ``run()``
            (see `Engine`), which the caller closes.
        tile: side or (height, width) of the tiles in pixels, a multiple of 4; None for the whole
            frame at once; "auto" chooses by the frame's size and the memory at hand now.
        halo: pixels at each inner edge of a tile that are computed and thrown away.
        blend: pixels over which neighbouring tiles fade into each other; 0 cuts.
        statistics: whose means over all positions the tiles take: "tile", each its own; "frame",
            those of the frame, exact at the price of several passes; "frame-fast", those of a few
            sample tiles; "stream", what earlier frames gathered. See `frame_statistics`, and
            `StatisticsSettings` for what can be set. A frame of one tile needs none of it.
        threads, provider: see `open_engine`.

    Attributes:
        engine: in use.
        facts: what the model says of itself.
        timings: of the last frame.
        statistics: what the tiles of a frame share, None where each has its own.

    Raises:
        EngineError, CheckpointError: the model cannot be loaded, or not be given statistics.
        TilingError: a tile that is no multiple of 4, or too small for halo and blend; a mode that
            there is not.
        MissingDependencyError: statistics of the frame need the packages onnx and onnx_ir.

    One Restorer serves one frame at a time; calls from several threads wait for each other.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Engine,
        *,
        tile: Tile = "auto",
        halo: int = DEFAULT_HALO_PX,
        blend: int = 0,
        statistics: Mode | StatisticsSettings = "tile",
        threads: int | None = None,
        provider: str | None = None,
    ) -> None:
        self._closed = True
        self._owns_engine = isinstance(model, (str, os.PathLike))
        if not self._owns_engine and not callable(getattr(model, "run", None)):
            raise EngineError(
                f"a {type(model).__name__} is no engine: give a model file, a bundled model's "
                "name, or an object with run()"
            )
        self.engine = (
            open_engine(model, threads, provider)
            if isinstance(model, (str, os.PathLike))
            else model
        )
        self._closed = False
        self.facts: ModelFacts = facts_of_engine(self.engine)
        self.timings = Timings()
        self._fixed: tuple[int, int] | None = getattr(self.engine, "fixed_size", None)
        self._halo, self._blend = halo, blend
        self._auto_side = 0
        self._input = np.empty((1, 0, 0, 0), np.float32)
        self._lock = threading.Lock()
        try:
            self._tile = checked_tile(tile, self._fixed)
            self._check_tiling()
            self.statistics = self._shared(statistics)
        except MirnetEdgeError:
            self.close()
            raise

    def __call__(
        self,
        frame: NDArray[Any],
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """Restore one frame.

        Args:
            frame: (H, W), (H, W, 1) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4)
                RGBA; uint8, uint16, or float32 in [0, 1]. Any height and width from 1.
            out: written to and returned; of the frame's shape and dtype, sharing no memory with
                it. None allocates.
            progress: called with (tiles done, tiles) after each tile.

        Returns:
            The restored frame, of the frame's shape and dtype; clamped; alpha copied. A network
            whose output channels differ from its input's returns (H, W, output channels).

        Raises:
            FrameError: the array is no such frame.
            EngineError: the engine failed, or this Restorer is closed.
        """
        if self._closed:
            raise EngineError("this Restorer is closed; make a new one")
        layout = FrameLayout.of(frame, self.facts.in_channels)
        target = layout
        if self.facts.in_channels != self.facts.out_channels:
            target = replace(layout, colours=self.facts.out_channels)
        out = _checked_out(frame, out, layout, target)
        with self._lock:
            self.timings = self._restore(frame, layout, out, target, progress)
        if layout.alpha:
            out[..., -1] = frame[..., -1]
        return out

    def tiling(self, height: int, width: int) -> Tiling:
        """How a frame of ``height`` x ``width`` pixels is cut into tiles."""
        if self._fixed is not None:
            return self._tiling(self._fixed)
        if isinstance(self._tile, tuple):
            return self._tiling(self._tile)
        side = self._auto_side
        if self._tile == "auto" and height * width > side * side:
            return self._tiling((side, side))
        multiple, least = self.facts.size_multiple, self.facts.min_size_px
        whole = (round_up(max(height, least), multiple), round_up(max(width, least), multiple))
        return Tiling(whole, halo=0, multiple=multiple, least=least)

    def _check_tiling(self) -> None:
        """Settle the automatic tile, and find impossible halos and blends, now and not at the first
        large frame."""
        if not isinstance(self._halo, int) or not isinstance(self._blend, int):
            raise TilingError(f"halo={self._halo!r}, blend={self._blend!r}: need whole pixels")
        if isinstance(self._tile, tuple):
            self._tiling(self._tile)
        elif self._tile == "auto":
            self._auto_side = auto_tile(self.facts, self._halo, self._blend)
            self._tiling((self._auto_side, self._auto_side))

    def _tiling(self, tile: tuple[int, int]) -> Tiling:
        return Tiling(
            tile,
            self._halo,
            self._blend,
            multiple=self.facts.size_multiple,
            least=self.facts.min_size_px,
            fixed=self._fixed is not None,
        )

    def _shared(self, wanted: Mode | StatisticsSettings) -> FrameStatistics | None:
        settings = wanted
        if not isinstance(settings, StatisticsSettings):
            settings = StatisticsSettings(settings)
        if settings.mode == "tile":
            return None
        return FrameStatistics(statistics_of_engine(self.engine).pools, self.facts, settings)

    def _restore(
        self,
        frame: NDArray[Any],
        layout: FrameLayout,
        out: NDArray[Any],
        target: FrameLayout,
        progress: Progress | None,
    ) -> Timings:
        cover = self.tiling(layout.height, layout.width).cover(layout.height, layout.width)
        shape = (1, self.facts.in_channels, cover.rows[0].size, cover.columns[0].size)
        if self._input.shape != shape:
            self._input = np.empty(shape, np.float32)
        tiles = FrameTiles(
            frame, layout, out, target, cover, self._input, self.facts.out_channels, progress
        )
        if self.statistics is None or len(tiles) == 1:
            tiles.restore(lambda _, tile: self.engine.run(tile))
        else:
            self.statistics.restore(EnginePasses(tiles, statistics_of_engine(self.engine)))()
        return Timings(
            len(tiles),
            1000 * tiles.load_s,
            1000 * tiles.engine_s,
            1000 * tiles.store_s,
            tiles.passes,
            tiles.samples,
        )

    def close(self) -> None:
        """Close the engine if it was opened here. A second call does nothing."""
        if not self._closed and self._owns_engine and hasattr(self.engine, "close"):
            self.engine.close()
        self._closed = True

    def __enter__(self) -> Restorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _checked_out(
    frame: NDArray[Any], out: NDArray[Any] | None, layout: FrameLayout, target: FrameLayout
) -> NDArray[Any]:
    shape = frame.shape if target is layout else (*frame.shape[:2], target.colours)
    if out is None:
        return np.empty(shape, frame.dtype)
    if out.shape != shape or out.dtype != frame.dtype or not out.flags.writeable:
        raise FrameError(
            f"out is {out.dtype} {out.shape}; need a writable {frame.dtype} {shape} array"
        )
    if np.may_share_memory(frame, out):
        raise FrameError("out shares memory with the frame; tiles still to come would read it")
    return out
