"""Batches of tiles for an engine of the device: memory for them there and on the host, by which
what lies on the host is restored too."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from mirnet_edge.cuda import MirroredBuffer, Owner, Stream
from mirnet_edge.engines.card import TensorFacts
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError


class TileBuffers(Owner):
    """One batch of tiles for an engine, zeros at first, and one of restored ones, both copied on
    ``stream``; it takes and gives what is called so. Who queues work on them holds ``lock``."""

    def __init__(
        self,
        name: str,
        taken: TensorFacts,
        given: TensorFacts,
        stream: Stream,
        lock: threading.RLock,
    ) -> None:
        super().__init__(stream.device)
        self._name, self.stream, self.lock = name, stream, lock
        self._kept = threading.local()
        with self._making():
            self.image = self._own(MirroredBuffer(self.device, taken.shape, taken.dtype))
            self.restored = self._own(MirroredBuffer(self.device, given.shape, given.dtype))
            self._owned.callback(stream.synchronize)  # before both go: a copy may still be queued
            self.image.array.fill(0)
            self.image.upload(stream=stream)

    def run(self, tiles: Tiles, queue: Callable[[], None]) -> Tiles:
        """Restore (N, C, H, W) float32, any N from 1, batch by batch, and wait for it; ``queue``
        queues one batch. The result is valid until the same thread calls again."""
        batch, *size = self.image.shape
        if tiles.ndim != 4 or not len(tiles) or list(tiles.shape[1:]) != size:
            raise EngineError(
                f"{self._name}: tiles of shape {tiles.shape}, but it was built for (N, "
                f"{', '.join(map(str, size))}) with N from 1; build one for that tile"
            )
        if tiles.dtype != np.float32:
            raise EngineError(f"{self._name}: tiles of {tiles.dtype}; need float32 in [0, 1]")
        result = self._result(len(tiles))
        with self.device.current():
            self.stream.synchronize()  # an integrated GPU may still be using this very memory
            for first in range(0, len(tiles), batch):
                self._run_batch(tiles[first : first + batch], result[first:], queue)
        return result

    def _run_batch(self, tiles: Tiles, result: Tiles, queue: Callable[[], None]) -> None:
        count = len(tiles)
        self.image.array[:count] = tiles
        self.image.array[count:] = 0
        self.image.upload(stream=self.stream)
        queue()
        self.restored.download(stream=self.stream)
        self.stream.synchronize()
        result[:count] = self.restored.array[:count]

    def _result(self, count: int) -> Tiles:
        # Kept for each thread, so that none overwrites what another still reads.
        batch, *size = self.restored.shape
        if count > batch:
            return np.empty((count, *size), np.float32)
        kept: Tiles | None = getattr(self._kept, "result", None)
        if kept is None:
            kept = self._kept.result = np.empty((batch, *size), np.float32)
        return kept[:count]
