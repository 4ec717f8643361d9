"""The few squares of a frame on the device by which its noise is estimated, there as well."""

from __future__ import annotations

import threading
from contextlib import suppress

import numpy as np

from mirnet_edge.cuda import DeviceBuffer, Event, Owner, PinnedBuffer, Stream
from mirnet_edge.device.layouts import DeviceFrame, DeviceTiles
from mirnet_edge.device.noise_network import SHAPE, SIZE_BYTES, NoiseNetwork
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.errors import DeviceError
from mirnet_edge.frames import noise_estimator
from mirnet_edge.frames.noise_estimator import load_estimator
from mirnet_edge.frames.noise_level import MOST_CROPS, Estimate, sample_regions


class _Once:
    """A wait for an estimate, made once, and what came of it."""

    def __init__(self, wait: Estimate) -> None:
        self._lock, self._wait = threading.Lock(), wait
        self._level: float | None = None

    def __call__(self) -> float:
        with self._lock:
            if self._level is None:
                self._level = self._wait()
            return self._level


class NoiseSamples(Owner):
    """Estimates the noise of frames, each by itself; one on whose estimate nobody has waited yet
    may be followed by that of another stream's.

    Cuts the squares with the kernels that cut tiles, whatever format the frame has, and
    estimates their noise, on ``uploads``: so that the engine goes on with other frames. What is
    queued on ``compute`` later waits for the cut, and so does whoever waits for the frame.

    Attributes:
        size_bytes: of device memory, with what the first estimate allocates.
    """

    def __init__(self, kernels: TileKernels, *, uploads: Stream, compute: Stream) -> None:
        super().__init__(uploads.device)
        self._kernels, self._uploads, self._compute = kernels, uploads, compute
        self._network: NoiseNetwork | None = None
        self._size: tuple[int, int] | None = None
        self._begun: Estimate | None = None
        self._count = 0
        with self._making():
            self._origins = self._own(DeviceBuffer(self.device, 8 * MOST_CROPS))
            self._places = self._own(PinnedBuffer(self.device, (MOST_CROPS, 2), np.int32))
            self._cut, self._found = (self._own(Event(self.device)) for _ in "ab")
        self.size_bytes = self._origins.size_bytes + SIZE_BYTES

    def prepare(self, height: int, width: int) -> None:
        """Make all that frames of a size need, the estimator of any; see `NoiseNetwork.prepare`.
        Waits where there is something to make.

        Raises:
            CheckpointError: the estimator's weights are missing or damaged.
        """
        if self._size == (height, width):
            return
        self._size = None
        regions = sample_regions(height, width)
        self._opened_network().prepare(len(regions))
        self._uploads.synchronize()  # a copy of the places may be to come
        places = [(columns.start, rows.start) for rows, columns in regions]
        self._places.array[: len(regions)] = places
        self._origins.upload(self._places.array, stream=self._uploads)
        self._size, self._count = (height, width), len(regions)

    def begin(self, frame: DeviceFrame) -> Estimate:
        """Queue the estimate of a frame, behind its upload; what is returned waits for it, in any
        thread.

        Raises:
            CheckpointError: see `prepare`.
        """
        before, self._begun = self._begun, None
        if before is not None:
            with suppress(DeviceError):  # which whoever waits for it would hear
                before()  # what it found is about to be written over
        self.prepare(frame.height, frame.width)
        network, count, queue = self._opened_network(), self._count, self._uploads
        mark = self._found
        tiles = DeviceTiles(network.crops, (count, *SHAPE[1:]), "float32")
        self._kernels.load(frame, self._origins.address, tiles, stream=queue)
        self._cut.record(queue)
        self._compute.wait(self._cut)
        network.run(count)
        mark.record(queue)

        def wait() -> float:
            mark.synchronize()
            return float(network.levels(count).mean())

        self._begun = _Once(wait)
        return self._begun

    def _opened_network(self) -> NoiseNetwork:
        # Not before there is an estimate to make: who tells the level needs no weights.
        if self._network is None:
            estimator = load_estimator(noise_estimator.WEIGHTS)
            self._network = self._own(NoiseNetwork(estimator, stream=self._uploads))
        return self._network
