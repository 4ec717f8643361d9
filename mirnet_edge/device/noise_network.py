"""The noise estimator on the device: its weights there, and its kernels as typed calls."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Graph, Kernels, MirroredBuffer, Owner, Stream
from mirnet_edge.errors import DeviceError, DeviceMemoryError
from mirnet_edge.frames.noise_estimator import (
    CONVOLUTIONS,
    CROP_PX,
    SHAPES,
    NoiseEstimator,
    levels_of,
)
from mirnet_edge.frames.noise_level import MOST_CROPS

Array = NDArray[np.float32]
SHAPE = (MOST_CROPS, 3, CROP_PX, CROP_PX)
FILE = "noise_level"
OUTPUTS = 8  # of a thread of noise_convolve (kernels/noise_level.cu)
CONVOLVE_THREADS = 64, 1, 1
BLOCKS_GRID, BLOCKS_THREADS = 12, (256, 1, 1)
VECTOR = 4  # of each layer's numbers: they are read in vectors
SIZE_BYTES = 4 * (
    2 * math.prod(SHAPE)
    + sum(VECTOR * math.ceil(math.prod(shape) / VECTOR) for shape in SHAPES.values())
    + MOST_CROPS
)
"""Of device memory, for the network and its crops."""


class NoiseNetwork(Owner):
    """Estimates the noise of crops in device memory, with the kernels of ``noise_level.cu``, as
    `NoiseEstimator` does on the host; all in order on ``stream``.

    Args:
        estimator: whose weights are copied.

    Attributes:
        crops: address of (16, 3, 64, 64) float32, for the crops to be cut into; `run` overwrites
            them.
    """

    def __init__(self, estimator: NoiseEstimator, *, stream: Stream) -> None:
        super().__init__(stream.device)
        self._stream = stream
        self._graphs: dict[int, Graph | None] = {}
        numbers, places = packed(estimator.weights)
        size_bytes = 4 * math.prod(SHAPE)
        with self._making():
            self._kernels = self._own(Kernels(self.device))
            weights = self._own(DeviceBuffer(self.device, numbers.nbytes))
            weights.upload(numbers, stream=stream)
            # Each layer reads one and writes the other; the features of none are larger than crops.
            buffers = [self._own(DeviceBuffer(self.device, size_bytes)) for _ in "ab"]
            buffers[0].fill(0, stream=stream)  # for `prepare`, which runs before there are crops
            self._outputs = self._own(MirroredBuffer(self.device, (MOST_CROPS,), np.float32))
            self._outputs.array[...] = 0  # all are copied back, also where there are fewer crops
            self._outputs.upload(stream=stream)
            stream.synchronize()  # the copy reads the numbers, which go with this call
        self._places = {name: weights.address + 4 * place for name, place in places.items()}
        self.crops, self._features = (buffer.address for buffer in buffers)

    def prepare(self, count: int) -> None:
        """Run so many crops once, whatever is in them, so that all that is needed is loaded, and
        capture it. Waits."""
        if count in self._graphs:
            return
        self._queue(count)
        self._stream.synchronize()
        try:
            self._graphs[count] = self._own(Graph(self._stream, lambda: self._queue(count)))
        except DeviceMemoryError:
            raise
        except DeviceError as error:
            self._graphs[count] = None
            logging.getLogger(__name__).info("noise is estimated without a graph: %s", error)

    def run(self, count: int) -> None:
        """Queue the estimate of the first ``count`` crops; `prepare` comes first."""
        if graph := self._graphs[count]:
            graph.launch(self._stream)
        else:
            self._queue(count)
        self._outputs.download(stream=self._stream)

    def levels(self, count: int) -> NDArray[np.float64]:
        """What the last `run` found, once the stream has done it; see `NoiseEstimator.levels`."""
        return levels_of(self._outputs.array[:count])

    def _queue(self, count: int) -> None:
        get, stream = self._kernels.get, self._stream
        one, other = self.crops, self._features
        blocks = get(FILE, "noise_blocks", "PP")
        grid = BLOCKS_GRID, count, 1
        blocks.launch(one, other, grid=grid, block=BLOCKS_THREADS, stream=stream)
        for index, name in enumerate(CONVOLUTIONS, 1):
            one, other = other, one
            kernel, bias = (self._places[f"{name}.{part}"] for part in ("weight", "bias"))
            layer = get(FILE, f"noise_convolve_{index}", "PPPP")
            grid = SHAPES[f"{name}.bias"][0] // OUTPUTS, count, 1
            layer.launch(one, kernel, bias, other, grid=grid, block=CONVOLVE_THREADS, stream=stream)
        pool = get(FILE, "noise_pool", "PP")
        grid = count, 1, 1
        pool.launch(other, one, grid=grid, block=CONVOLVE_THREADS, stream=stream)
        linear = [
            self._places[f"{name}.{part}"]
            for name in ("linear1", "linear2")
            for part in ("weight", "bias")
        ]
        head = get(FILE, "noise_head", "PPPPPP")
        arguments = one, *linear, self._outputs.address
        head.launch(*arguments, grid=grid, block=(1, 1, 1), stream=stream)

    def _release(self) -> None:
        # What still runs reads the weights. A closed stream was waited for by its owner.
        with self._owned:
            if not self._stream.closed:
                self._stream.synchronize()


def packed(weights: Mapping[str, Array]) -> tuple[Array, dict[str, int]]:
    """All numbers, as the kernels take them, and where each layer's begin."""
    numbers: list[Array] = []
    places: dict[str, int] = {}
    end = 0
    for name, array in weights.items():
        layer = array
        if array.ndim == 4:  # (outputs / 8, inputs, 3, 3, 8)
            layer = array.reshape(-1, OUTPUTS, *array.shape[1:]).transpose(0, 2, 3, 4, 1)
        places[name] = end
        numbers.append(np.pad(layer.reshape(-1), (0, -array.size % VECTOR)))
        end += numbers[-1].size
    return np.concatenate(numbers), places
