"""The luma grid of a frame on the device (see `pooling.scene_cut`)."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from mirnet_edge.cuda import DeviceBuffer, Owner, PinnedBuffer, Stream
from mirnet_edge.device.layouts import DeviceFrame
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.pooling.scene_cut import CELLS, ROW_STEP, Grid

LUMA_UNIT = 256  # of the kernel's sums: a white pixel adds 256 times the sample's maximum
MAXIMUM = {"u8": 255, "u16": 65535, "f32": 65535}


class LumaReader(Owner):
    """Reads luma grids; each read waits for its stream.

    Args:
        kernels: of the package.
        stream: to run on.
    """

    def __init__(self, kernels: TileKernels, *, stream: Stream) -> None:
        super().__init__(stream.device)
        self._kernels, self._stream = kernels, stream
        self._owned = ExitStack()
        self._opened()
        try:
            shape = (CELLS, CELLS)
            self._sums = self._owned.enter_context(DeviceBuffer(self.device, 8 * CELLS * CELLS))
            self._read = self._owned.enter_context(PinnedBuffer(self.device, shape, np.uint64))
        except Exception:
            self.close()
            raise

    def read(self, frame: DeviceFrame) -> Grid:
        """Mean luma (8, 8) in [0, 1] of the cells; 0 where a cell has no pixel."""
        self._sums.fill(0, stream=self._stream)
        self._kernels.luma_sums(frame, ROW_STEP, self._sums.address, stream=self._stream)
        self._sums.download(self._read.array, stream=self._stream)
        self._stream.synchronize()
        rows, columns = (
            np.diff(np.arange(CELLS + 1) * size // CELLS) for size in (frame.height, frame.width)
        )
        pixels = -(-rows[:, None] // ROW_STEP) * columns
        full = LUMA_UNIT * MAXIMUM[frame.format.partition("_")[2]] * np.maximum(pixels, 1)
        return np.asarray(self._read.array / full, np.float32)

    def _release(self) -> None:
        self._owned.close()
