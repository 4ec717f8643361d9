"""One frame as tiles: each loaded, restored by whatever is given, and stored, as often as asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.engine import Tiles
from mirnet_edge.errors import EngineError
from mirnet_edge.frames import FrameLayout
from mirnet_edge.seams import Seams
from mirnet_edge.tiles import Cover

Progress = Callable[[int, int], None]
Run = Callable[[int, Tiles], Tiles]
"""The number of a tile and its (1, C, h, w) to its restored (1, C', h, w)."""


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


class FrameTiles:
    """The tiles of one frame on their way through an engine.

    Args:
        frame, layout: what is read.
        out, target: what is written, and its layout.
        cover: the tiles.
        buffer: (1, C, h, w) float32, of the tiles' size.
        out_channels: of the engine.
        progress: called with (tiles done, tiles) after each tile of every pass.

    Attributes:
        frame, cover: as given.
        passes, samples: counted so far.
    """

    def __init__(
        self,
        frame: NDArray[Any],
        layout: FrameLayout,
        out: NDArray[Any],
        target: FrameLayout,
        cover: Cover,
        buffer: Tiles,
        out_channels: int,
        progress: Progress | None = None,
    ) -> None:
        self.frame, self.cover = frame, cover
        self.passes = self.samples = 0
        self._layout, self._out, self._target = layout, out, target
        self._buffer = buffer
        self._out_channels = out_channels
        self._progress = progress
        self._places = list(cover)
        self._spent = [0.0, 0.0, 0.0]

    def __len__(self) -> int:
        return len(self._places)

    def restore(self, run: Run) -> None:
        """Run all tiles once, in reading order, and write the frame.

        Raises:
            EngineError: ``run`` returns another shape or type, NaN or infinity.
        """
        seams = Seams(self.cover, self._out_channels)
        for index, (row, column) in enumerate(self._places):
            restored = self._run(run, index)
            clock = time.perf_counter()
            final = seams.settle(restored, row, column)
            self._target.store(final, self._out, (row.settled, column.settled))
            self._spent[2] += time.perf_counter() - clock
            if self._progress:
                self._progress(index + 1, len(self))
        self.passes += 1

    def sample(self, index: int, run: Run) -> None:
        """Run one tile, and write nothing."""
        self._run(run, index)
        self.samples += 1

    def timings(self) -> Timings:
        """Of all that was done with this frame."""
        spent = (1000 * seconds for seconds in self._spent)
        return Timings(len(self), *spent, self.passes, self.samples)

    def _run(self, run: Run, index: int) -> NDArray[np.float32]:
        row, column = self._places[index]
        clock = time.perf_counter()
        self._layout.load(self.frame, (row.source, column.source), self._buffer[0])
        loaded = time.perf_counter()
        restored = np.asarray(run(index, self._buffer))
        self._spent[0] += loaded - clock
        self._spent[1] += time.perf_counter() - loaded
        expected = (1, self._out_channels, *self._buffer.shape[2:])
        if restored.shape != expected or restored.dtype != np.float32:
            raise EngineError(
                f"the engine returned {restored.dtype} {restored.shape} for tiles of "
                f"{self._buffer.shape}; expected float32 {expected}"
            )
        planes: NDArray[np.float32] = restored[0]
        return planes if planes.flags.writeable else planes.copy()
