"""What tests of frames on the device share: plans of a tiny network for a GPU in host memory that
runs the package's own kernels, the portable engine on the same network, and arrays on that GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import RawGraph
from fake_gpu import FakeGpu
from fake_tensorrt import write_plans

import mirnet_edge as me
from mirnet_edge.cuda import DeviceBuffer, Stream, open_device
from mirnet_edge.device.dlpack import CUDA, capsule_of
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.rewrite import rewrite

TILE = (32, 40)
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def network(raw_graph: RawGraph) -> Any:
    """The graph of a tiny MIRNet-v2, exported before there is a TensorRT, at which torch looks."""
    return rewrite(raw_graph("mirnet-v2"))[0]


@pytest.fixture
def write(network: Any, trt: ModuleType, tmp_path: Path) -> Write:
    """Write the three plans of the network."""

    def written(batch: int = 1, image: str = "FLOAT") -> Path:
        return write_plans(tmp_path, network, TILE, batch, image)

    return written


@pytest.fixture
def portable(network: Any, tmp_path: Path) -> Callable[..., me.Restorer]:
    """The same network on ONNX Runtime, with the same tile."""
    path = tmp_path / "net.onnx"
    onnx.save(with_shape(network, 1, *TILE), path)

    def opened(**options: Any) -> me.Restorer:
        return me.Restorer(path, provider="CPUExecutionProvider", **options)

    return opened


def plans_in(folder: Path, network: Any, *kinds: tuple[tuple[int, int], int]) -> list[Path]:
    """The plans of the network for some tiles and batches."""
    paths = []
    for number, (tile, batch) in enumerate(kinds):
        (folder / str(number)).mkdir()
        paths.append(write_plans(folder / str(number), network, tile, batch))
    return paths


def frame_of(
    height: int, width: int, channels: int = 3, dtype: Any = np.uint8, seed: int = 0
) -> np.ndarray:
    """Brighter to the right, so that tiles differ; (H, W) where there are 0 channels."""
    shape = (height, width, channels) if channels else (height, width)
    values = np.random.default_rng(seed).random(shape)
    ramp = np.linspace(0.2, 1, width).reshape(1, -1, *[1] * bool(channels))
    maximum = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    return np.asarray(values * ramp * maximum, dtype)


def assert_near(found: np.ndarray, expected: np.ndarray, error: float = 1e-3) -> None:
    """Within ``error`` of the range, and a rounding step."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    maximum = 1.0 if found.dtype == np.float32 else float(np.iinfo(found.dtype).max)
    step = 0.0 if found.dtype == np.float32 else 1.0
    difference = np.abs(found.astype(np.float64) - expected).max()
    assert difference <= max(error * maximum, step), difference


def held_of(gpu: FakeGpu) -> dict[str, int]:
    """How many of each kind are there."""
    return {kind: count for kind, count in gpu.live.items() if count}


class OnDevice:
    """An array of another library in memory of the GPU."""

    def __init__(self, array: np.ndarray, stream: int | None = None) -> None:
        device = open_device()
        self.memory = DeviceBuffer(device, array.nbytes)
        self.shape, self.dtype = array.shape, array.dtype
        with Stream(device) as queue:
            self.memory.upload(np.ascontiguousarray(array), stream=queue)
            queue.synchronize()
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.memory.address, False),
            "strides": None,
            "stream": stream,
        }

    def get(self) -> np.ndarray:
        array = np.empty(self.shape, self.dtype)
        with Stream(open_device()) as queue:
            self.memory.download(array, stream=queue)
            queue.synchronize()
        return array


class ByDlpack:
    """An array of a library that lets the stream it is asked for wait for its own."""

    def __init__(self, there: OnDevice, producer: Stream) -> None:
        self._there, self._producer = there, producer

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, 0

    def __dlpack__(self, *, stream: int, max_version: Any = None) -> Any:
        waiting = Stream.__new__(Stream)
        waiting.device, waiting.handle, waiting._closed = open_device(), stream, False
        waiting.wait_for_handle(self._producer.handle)
        waiting._closed = True
        there = self._there
        return capsule_of(there.memory.address, there.shape, there.dtype, CUDA, 0, there)
