"""Frames through an engine by way of the host: NumPy cuts the tiles and joins them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
from numpy.typing import DTypeLike, NDArray

from mirnet_edge.engines.protocol import Engine
from mirnet_edge.engines.shared import Continuity
from mirnet_edge.errors import FrameError
from mirnet_edge.facts import NOISE_UNIT, ModelFacts
from mirnet_edge.frame_path import (
    FrameBuffers,
    Latency,
    LatencyRecord,
    Nan,
    Progress,
    Timings,
    check_size,
)
from mirnet_edge.frames.enlarged import enlarged_alpha
from mirnet_edge.frames.layout import FrameLayout, require_array, require_unit_range
from mirnet_edge.frames.noise_estimator import CROP_PX
from mirnet_edge.frames.noise_level import (
    Estimate,
    NoiseLevel,
    brightness_of,
    level_of,
    sample_regions,
)
from mirnet_edge.frames.pixel_formats import PixelFormat, from_rgb, to_rgb
from mirnet_edge.host.tiles import FrameTiles
from mirnet_edge.pooling.passes import FrameStatistics
from mirnet_edge.tiling.geometry import Tiling


class HostPath:
    """Restores one frame at a time (see `frame_path.FramePath`), with an engine that outlives this;
    ``statistics`` are None where each tile has its own, ``noise`` for a network that is not told
    how noisy a frame is, ``pixels`` and ``frame_size`` where any will do. ``tiling`` is asked for
    the size of the restored frame, which is that of the enlarged one. ``nan`` as of `Restorer`."""

    depth = 1

    def __init__(
        self,
        engine: Engine,
        facts: ModelFacts,
        tiling: Callable[[int, int], Tiling],
        statistics: FrameStatistics | None = None,
        noise: NoiseLevel | None = None,
        pixels: PixelFormat | None = None,
        frame_size: tuple[int, int] | None = None,
        nan: Nan = "auto",
    ) -> None:
        self.timings = Timings()
        self.latencies = LatencyRecord()
        self._engine, self._facts, self._tiling = engine, facts, tiling
        self._continuity = Continuity(statistics, noise)
        self._pixels, self._frame_size, self._nan = pixels, frame_size, nan
        self._input = np.empty((1, 0, 0, 0), np.float32)

    def submit(
        self,
        frame: object,
        out: object = None,
        progress: Progress | None = None,
        continuity: Continuity | None = None,
    ) -> NDArray[Any]:
        """Restore a frame; see `Restorer.__call__`, and `DevicePath.submit`."""
        continuity = continuity or self._continuity
        began_s = time.perf_counter()
        image, facts, pixels = require_array(frame), self._facts, self._pixels
        source, scale = self._colours_of(image), facts.scale
        layout = FrameLayout.of(source, facts.in_channels)
        check_size((layout.height, layout.width), self._frame_size)
        size = scale * layout.height, scale * layout.width
        # Y'CbCr has codes beyond [0, 1], which come back as they were only where nothing is cut.
        is_yuv = pixels is not None and pixels.is_yuv
        written = replace(layout, height=size[0], width=size[1], cut=not is_yuv)
        shape = (scale * image.shape[0], scale * image.shape[1], *image.shape[2:])
        if facts.in_channels != facts.out_channels:
            written = replace(written, colours=facts.out_channels)
            shape = (*shape[:2], facts.out_channels)
        if image.dtype == np.float32 and layout.alpha:
            require_unit_range(image[..., -1], " in alpha")
        output = allocate_output(image, out, shape)
        cover = self._tiling(*size).cover(*size)
        buffer = self._buffer(cover.rows[0].size, cover.columns[0].size)
        noise = continuity.noise
        continuity.turn.wait()
        level = None if noise is None else self._level_of(noise, source, layout)
        if not continuity.gathers:
            continuity.turn.end()
        if level is not None:
            buffer[:, facts.in_channels] = level / NOISE_UNIT
        tiles = FrameTiles(
            engine=self._engine,
            source=source,
            layout=layout,
            target=np.empty((*size, 3), np.float32) if is_yuv else self._colours_of(output),
            target_layout=written,
            scale=scale,
            cover=cover,
            buffer=buffer,
            in_channels=facts.in_channels,
            out_channels=facts.out_channels,
            progress=progress,
            nan_as_zero=self._nan == "zero",
            load_s=time.perf_counter() - began_s,
        )
        if continuity.statistics is None or len(cover) == 1:
            tiles.run()
        else:
            continuity.statistics.restore(tiles)()
        if pixels is not None and is_yuv:
            from_rgb(tiles.target, pixels, output)
        elif layout.alpha or (pixels is not None and pixels.name == "bgra"):
            output[..., -1] = image[..., -1] if scale == 1 else enlarged_alpha(image, scale)
        self._note(tiles, level, 1000 * (time.perf_counter() - began_s))
        return output

    def collect(self, ticket: NDArray[Any]) -> NDArray[Any]:
        """Return the frame, which is restored already."""
        return ticket

    def buffers(self, shape: tuple[int, ...], dtype: DTypeLike) -> FrameBuffers:
        """Memory for a frame and its restored one."""
        facts, scale = self._facts, self._facts.scale
        restored = (scale * shape[0], scale * shape[1], *shape[2:])
        if facts.in_channels != facts.out_channels:
            restored = (*restored[:2], facts.out_channels)
        return FrameBuffers(np.zeros(shape, dtype), np.zeros(restored, dtype))

    def latency(self, frames: int | None = None) -> Latency:
        """Sum up the last frames."""
        return self.latencies.summary(frames)

    def close(self) -> None:
        """Free nothing: the engine is its opener's, and memory goes with this."""

    def _colours_of(self, image: NDArray[Any]) -> NDArray[Any]:
        """View what `FrameLayout` reads or writes of a frame, red first; of Y'CbCr a copy."""
        pixels = self._pixels
        if pixels is None:
            return image
        pixels.size_of(image.shape, image.dtype)
        if pixels.is_yuv:
            return to_rgb(image, pixels)
        return image[..., 2::-1] if pixels.is_bgr else image

    def _buffer(self, height: int, width: int) -> NDArray[np.float32]:
        # Kept for the next frame: fresh memory costs a page fault for every 4 KiB.
        shape = (1, self._facts.in_planes, height, width)
        if self._input.shape != shape:
            self._input = np.empty(shape, np.float32)
        return self._input

    def _level_of(self, noise: NoiseLevel, source: NDArray[Any], layout: FrameLayout) -> float:
        """The noise level of a frame, which is estimated before the frame is enlarged."""
        regions = sample_regions(layout.height, layout.width)

        def begin() -> Estimate:
            crops = np.empty((len(regions), 3, CROP_PX, CROP_PX), np.float32)
            for region, crop in zip(regions, crops):
                layout.load(source, region, crop)
            level = level_of(crops)
            return lambda: level

        return noise.of(
            begin,
            kind=(source.shape, source.dtype),
            brightness=lambda: brightness_of(source, regions),
        )

    def _note(self, tiles: FrameTiles, level: float | None, total_ms: float) -> None:
        pre, engine, post = (
            1000 * spent for spent in (tiles.load_s, tiles.engine_s, tiles.store_s)
        )
        self.latencies.add(pre=pre, engine=engine, post=post, total=total_ms)
        counts = tiles.passes, tiles.samples
        precision = str(getattr(self._engine, "precision", ""))
        self.timings = Timings(
            len(tiles.cover), pre, engine, post, *counts, level, tiles.nonfinite, precision
        )


def allocate_output(frame: NDArray[Any], out: object, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return ``out`` if it can hold the restored frame, or a new array where it is None."""
    if out is None:
        needed = math.prod(shape) * frame.dtype.itemsize
        # Asked before: Linux grants memory that is not there, and kills who touches it. Only of
        # what is enlarged, for which nobody has shown yet that so much fits.
        if needed > frame.nbytes and needed > (free := psutil.virtual_memory().available):
            raise FrameError(
                f"the restored frame, {frame.dtype} {shape}, takes {needed:,} bytes, and {free:,} "
                "are free; cut the frame into parts, or give out, as an np.memmap of a file"
            )
        return np.empty(shape, frame.dtype)
    if not isinstance(out, np.ndarray):
        raise FrameError(f"out must be a numpy array, not {type(out).__name__}")
    if out.shape != shape or out.dtype != frame.dtype or not out.flags.writeable:
        raise FrameError(
            f"out is {out.dtype} {out.shape}; need a writable {frame.dtype} {shape} array"
        )
    # By bounds, which is quick; interleaved views that share no element are refused too.
    if np.may_share_memory(frame, out):
        raise FrameError("out shares memory with the frame; tiles still to come would read it")
    return out
