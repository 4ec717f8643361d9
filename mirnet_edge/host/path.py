"""Frames through an engine by way of the host: NumPy cuts the tiles and joins them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.engines.protocol import Engine, statistics_of_engine
from mirnet_edge.errors import FrameError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import Latency, LatencyRecord, Progress, Timings, check_size
from mirnet_edge.frames.layout import FrameLayout, require_array
from mirnet_edge.frames.pixel_formats import PixelFormat, from_rgb, to_rgb
from mirnet_edge.host.tiles import EnginePasses, FrameTiles
from mirnet_edge.pooling.passes import FrameStatistics
from mirnet_edge.tiling.geometry import Tiling


class HostPath:
    """Restores one frame at a time (see `frame_path.FramePath`).

    Args:
        engine: outlives this.
        facts: of the network.
        tiling: how a frame of (height, width) is cut.
        statistics: what the tiles of a frame share, None where each has its own.
        pixels: format of every frame; None takes each array's number of channels.
        frame_size: (height, width) of every frame; None lets them change.

    Attributes:
        timings: of the last frame.
    """

    depth = 1

    def __init__(
        self,
        engine: Engine,
        facts: ModelFacts,
        tiling: Callable[[int, int], Tiling],
        statistics: FrameStatistics | None = None,
        pixels: PixelFormat | None = None,
        frame_size: tuple[int, int] | None = None,
    ) -> None:
        self.timings = Timings()
        self._latencies = LatencyRecord()
        self._engine, self._facts, self._tiling = engine, facts, tiling
        self._statistics, self._pixels, self._frame_size = statistics, pixels, frame_size
        self._input = np.empty((1, 0, 0, 0), np.float32)

    def submit(
        self,
        frame: NDArray[Any],
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """Restore a frame; see `Restorer.__call__`."""
        if self._pixels is None:
            return self._restore(frame, out, progress)
        require_array(frame)
        out = _checked_out(frame, out, frame.shape)
        colours = np.ascontiguousarray(to_rgb(frame, self._pixels))
        from_rgb(self._restore(colours, None, progress), self._pixels, out)
        if self._pixels.name in ("rgba", "bgra"):
            out[..., 3] = frame[..., 3]
        return out

    def collect(self, ticket: NDArray[Any]) -> NDArray[Any]:
        """The frame, which is restored already."""
        return ticket

    def latency(self, frames: int | None = None) -> Latency:
        """Of the last frames."""
        return self._latencies.summary(frames)

    def close(self) -> None:
        """Nothing is owned."""

    def _restore(
        self, frame: NDArray[Any], out: NDArray[Any] | None, progress: Progress | None
    ) -> NDArray[Any]:
        began_s = time.perf_counter()
        facts = self._facts
        layout = FrameLayout.of(frame, facts.in_channels)
        if self._pixels is not None:
            layout = replace(layout, cut=not self._pixels.is_yuv)
        size = layout.height, layout.width
        check_size(size, self._frame_size)
        target, shape = layout, frame.shape
        if facts.in_channels != facts.out_channels:
            target = replace(layout, colours=facts.out_channels)
            shape = (*frame.shape[:2], target.colours)
        out = _checked_out(frame, out, shape)
        cover = self._tiling(*size).cover(*size)
        buffer = (1, facts.in_channels, cover.rows[0].size, cover.columns[0].size)
        if self._input.shape != buffer:
            self._input = np.empty(buffer, np.float32)
        tiles = FrameTiles(
            frame, layout, out, target, cover, self._input, facts.out_channels, progress
        )
        if self._statistics is None or len(tiles) == 1:
            tiles.restore(lambda _, tile: self._engine.run(tile))
        else:
            engine = statistics_of_engine(self._engine)
            self._statistics.restore(EnginePasses(tiles, engine))()
        if layout.alpha:
            out[..., -1] = frame[..., -1]
        self._note(tiles, 1000 * (time.perf_counter() - began_s))
        return out

    def _note(self, tiles: FrameTiles, total_ms: float) -> None:
        pre, engine, post = (
            1000 * spent for spent in (tiles.load_s, tiles.engine_s, tiles.store_s)
        )
        self._latencies.add(pre=pre, engine=engine, post=post, total=total_ms)
        self.timings = Timings(len(tiles), pre, engine, post, tiles.passes, tiles.samples)


def _checked_out(
    frame: NDArray[Any], out: NDArray[Any] | None, shape: tuple[int, ...]
) -> NDArray[Any]:
    if out is None:
        return np.empty(shape, frame.dtype)
    if not isinstance(out, np.ndarray):
        raise FrameError(f"out must be a numpy array, not {type(out).__name__}")
    if out.shape != shape or out.dtype != frame.dtype or not out.flags.writeable:
        raise FrameError(
            f"out is {out.dtype} {out.shape}; need a writable {frame.dtype} {shape} array"
        )
    if np.may_share_memory(frame, out):
        raise FrameError("out shares memory with the frame; tiles still to come would read it")
    return out
