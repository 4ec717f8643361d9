"""The tiles that an engine reads and writes, on the device and on the host."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import MirroredBuffer, Owner, Stream
from mirnet_edge.errors import EngineError
from mirnet_edge.trt.plan import LoadedPlan


@dataclass(frozen=True)
class DeviceTensor:
    """Memory of the device: address, shape (N, C, H, W), and dtype as numpy spells it, without gaps
    between rows."""

    address: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """Of the memory."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class TileBuffers(Owner):
    """One batch of tiles and one of restored ones; zeros at first.

    Args:
        plan: whose image input and output they are.
        stream: that all copies are queued on.

    Attributes:
        image, restored: the device's side.

    Raises:
        DeviceError: not enough memory.
    """

    def __init__(self, plan: LoadedPlan, stream: Stream) -> None:
        super().__init__(stream.device)
        self._name, self.stream = plan.path.name, stream
        taken, given = plan.inputs[0], plan.outputs[0]
        self._kept = threading.local()
        with self._making():
            self._input = self._own(MirroredBuffer(self.device, taken.shape, taken.dtype))
            self._output = self._own(MirroredBuffer(self.device, given.shape, given.dtype))
            self._owned.callback(stream.synchronize)  # before both go: a copy may still be queued
            self._input.array.fill(0)
            self._input.upload(stream=stream)
        self.image = DeviceTensor(self._input.address, taken.shape, taken.dtype)
        self.restored = DeviceTensor(self._output.address, given.shape, given.dtype)

    def run(self, tiles: NDArray[np.float32], queue: Callable[[], None]) -> NDArray[np.float32]:
        """Restore (N, C, H, W) float32, any N from 1, batch by batch, and wait for it; ``queue``
        queues one batch. The result is valid until the same thread calls again.

        Raises:
            EngineError: other tiles than these buffers are for.
            DeviceError: the GPU failed.
        """
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

    def _run_batch(
        self, tiles: NDArray[np.float32], result: NDArray[np.float32], queue: Callable[[], None]
    ) -> None:
        count = len(tiles)
        self._input.array[:count] = tiles
        self._input.array[count:] = 0
        self._input.upload(stream=self.stream)
        queue()
        self._output.download(stream=self.stream)
        self.stream.synchronize()
        result[:count] = self._output.array[:count]

    def _result(self, count: int) -> NDArray[np.float32]:
        """An array kept for each thread, so that none overwrites what another still reads."""
        batch, *size = self.restored.shape
        if count > batch:
            return np.empty((count, *size), np.float32)
        kept: NDArray[np.float32] | None = getattr(self._kept, "result", None)
        if kept is None:
            kept = self._kept.result = np.empty((batch, *size), np.float32)
        return kept[:count]
