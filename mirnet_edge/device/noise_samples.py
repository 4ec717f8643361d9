"""The few squares of a frame on the device by which its noise is estimated, brought to the host."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Owner, PinnedBuffer, Stream
from mirnet_edge.device.layouts import DeviceFrame, DeviceTiles
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.frames.noise_estimator import CROP_PX
from mirnet_edge.frames.noise_level import MOST_CROPS, sample_regions

SHAPE = (MOST_CROPS, 3, CROP_PX, CROP_PX)


class NoiseSamples(Owner):
    """Cuts the squares with the kernels that cut tiles, whatever format the frame has, and copies
    them on ``stream``: the stream of the uploads, so that the engine goes on with other frames."""

    def __init__(self, kernels: TileKernels, *, stream: Stream) -> None:
        super().__init__(stream.device)
        self._kernels, self._stream = kernels, stream
        with self._making():
            self._origins = self._own(DeviceBuffer(self.device, 8 * MOST_CROPS))
            self._places = self._own(PinnedBuffer(self.device, (MOST_CROPS, 2), np.int32))
            self._crops = self._own(PinnedBuffer(self.device, SHAPE, np.float32))
            size_bytes = self._crops.array.nbytes
            self._memory = self._own(DeviceBuffer(self.device, size_bytes))
            self.size_bytes = size_bytes + self._origins.size_bytes

    def cut(self, frame: DeviceFrame) -> NDArray[np.float32]:
        """Wait for the frame, and return its squares (n, 3, 64, 64) in [0, 1], RGB, valid until the
        next call."""
        regions = sample_regions(frame.height, frame.width)
        count, stream = len(regions), self._stream
        self._places.array[:count] = [(columns.start, rows.start) for rows, columns in regions]
        self._origins.upload(self._places.array, stream=stream)
        tiles = DeviceTiles(self._memory.address, (count, *SHAPE[1:]), "float32")
        self._kernels.load(frame, self._origins.address, tiles, stream=stream)
        self._memory.download(self._crops.array[:count], stream=stream)
        stream.synchronize()
        # Frames on the device are not searched for NaN, of which no level would come back.
        crops: NDArray[np.float32] = self._crops.array[:count]
        return np.nan_to_num(crops, copy=False, posinf=1.0, neginf=0.0)
