"""A frame in, a restored frame out: `Restorer` owns the engine, the buffers and the tiles."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from mirnet_edge.engine import Engine, facts_of_engine, open_engine
from mirnet_edge.errors import EngineError, FrameError, TilingError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frames import FrameLayout
from mirnet_edge.seams import Seams
from mirnet_edge.tiles import Tiling, round_up

DEFAULT_HALO_PX = 16
AUTO_MEMORY_BYTES = 192 * 2**20
AUTO_TILE_PX = (128, 1024)
ASSUMED_BYTES_PER_PIXEL = 4096
ENGINE_OVERHEAD = 2.1  # ONNX Runtime 1.32 took 2.1 times the graph's live tensors (edge-s, 512x512)

Tile = int | tuple[int, int] | None | Literal["auto"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Timings:
    """Where the time of one frame went, in milliseconds.

    Attributes:
        tiles: how many.
        load_ms: frame to network input.
        engine_ms: in the engine.
        store_ms: network output to frame, seams included.
    """

    tiles: int = 0
    load_ms: float = 0.0
    engine_ms: float = 0.0
    store_ms: float = 0.0

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
        threads, provider: see `open_engine`.

    Attributes:
        engine: in use.
        facts: what the model says of itself.
        timings: of the last frame.

    Raises:
        EngineError, CheckpointError: the model cannot be loaded.
        TilingError: a tile that is no multiple of 4, or too small for halo and blend.

    One Restorer serves one frame at a time; calls from several threads wait for each other.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Engine,
        *,
        tile: Tile = "auto",
        halo: int = DEFAULT_HALO_PX,
        blend: int = 0,
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
            self._tile = _checked_tile(tile, self._fixed)
            self._check_tiling()
        except TilingError:
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
            self._auto_side = _auto_tile(self.facts, self._halo, self._blend)
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

    def _restore(
        self,
        frame: NDArray[Any],
        layout: FrameLayout,
        out: NDArray[Any],
        target: FrameLayout,
        progress: Progress | None,
    ) -> Timings:
        cover = self.tiling(layout.height, layout.width).cover(layout.height, layout.width)
        seams = Seams(cover, self.facts.out_channels)
        shape = (1, self.facts.in_channels, cover.rows[0].size, cover.columns[0].size)
        if self._input.shape != shape:
            self._input = np.empty(shape, np.float32)
        spent = [0.0, 0.0, 0.0]
        for done, (row, column) in enumerate(cover, start=1):
            clock = time.perf_counter()
            layout.load(frame, (row.source, column.source), self._input[0])
            loaded = time.perf_counter()
            restored = self._run()
            ran = time.perf_counter()
            region = (row.settled, column.settled)
            target.store(seams.settle(restored, row, column), out, region)
            stored = time.perf_counter()
            spent = [spent[0] + loaded - clock, spent[1] + ran - loaded, spent[2] + stored - ran]
            if progress:
                progress(done, len(cover))
        return Timings(len(cover), *(1000 * seconds for seconds in spent))

    def _run(self) -> NDArray[np.float32]:
        restored = np.asarray(self.engine.run(self._input))
        expected = (1, self.facts.out_channels, *self._input.shape[2:])
        if restored.shape != expected or restored.dtype != np.float32:
            raise EngineError(
                f"the engine returned {restored.dtype} {restored.shape} for tiles of "
                f"{self._input.shape}; expected float32 {expected}"
            )
        planes: NDArray[np.float32] = restored[0]
        return planes if planes.flags.writeable else planes.copy()

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


def _checked_tile(
    tile: Tile, fixed: tuple[int, int] | None
) -> tuple[int, int] | Literal["auto"] | None:
    if isinstance(tile, str):
        if tile != "auto":
            raise TilingError(f'tile={tile!r}: need pixels, (height, width), None or "auto"')
        return fixed or "auto"
    if tile is None:
        if fixed:
            raise TilingError(
                f"tile=None asks for whole frames, but this model takes only {fixed[0]}x{fixed[1]} "
                "pixels; export it with dynamic height and width"
            )
        return None
    pair = tuple(tile) if isinstance(tile, (tuple, list)) else (tile, tile)
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise TilingError(f"tile={tile!r}: need whole pixels, as 512 or (height, width)")
    if fixed and pair != fixed:
        raise TilingError(f"tile={pair}: this model takes only {fixed}; leave tile out")
    return pair


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


def _auto_tile(facts: ModelFacts, halo: int, blend: int) -> int:
    """Side of the largest square tile, a multiple of 32, whose activations fit in a quarter of the
    memory at hand and in `AUTO_MEMORY_BYTES`; never below `AUTO_TILE_PX`.

    Raises:
        TilingError: halo and blend need a larger one.
    """
    budget = min(AUTO_MEMORY_BYTES, psutil.virtual_memory().available // 4)
    bytes_per_pixel = ENGINE_OVERHEAD * (facts.bytes_per_pixel or ASSUMED_BYTES_PER_PIXEL)
    side = math.isqrt(int(budget / bytes_per_pixel))
    least, most = AUTO_TILE_PX
    side = max(least, min(most, side - side % 32))
    needed = 2 * halo + 3 * blend + facts.size_multiple
    if needed > side:
        raise TilingError(
            f"halo={halo} and blend={blend} need tiles of at least {needed} pixels, but automatic "
            f"ones are {side} here; take a smaller halo, or set tile"
        )
    return side
