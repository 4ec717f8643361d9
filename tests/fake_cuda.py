"""`pycuda.driver` and `cuda.bindings.driver` on a `FakeGpu`: the names that the package uses."""

from __future__ import annotations

import enum
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import Error, FakeGpu, LogicError, MemoryError, Queue, RuntimeError, Work

from mirnet_edge.cuda import device as cuda_device

DEVICEMAP = 2


class Handle(int):
    """A number with a class, as cuda-python's handles are."""


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


def pycuda_driver(gpu: FakeGpu) -> ModuleType:
    """A module with the names of ``pycuda.driver``."""

    class Context:
        def push(self) -> None:
            gpu.fail("cuCtxPushCurrent")
            gpu.thread.depth = gpu.context_depth() + 1

        @staticmethod
        def pop() -> None:
            gpu.need_context("cuCtxPopCurrent")
            gpu.thread.depth -= 1

        def detach(self) -> None:
            gpu.detached = True

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        @staticmethod
        def count() -> int:
            return gpu.count

        def name(self) -> str:
            return gpu.name

        def compute_capability(self) -> tuple[int, int]:
            return gpu.capability

        def total_memory(self) -> int:
            return gpu.total_bytes

        def get_attribute(self, attribute: str) -> int:
            return {"integrated": int(gpu.integrated), "can map": 1}[attribute]

        def retain_primary_context(self) -> Context:
            return Context()

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            gpu.make("stream", "cuStreamCreate")
            self.flags, self.handle = flags, next(gpu.numbers)
            gpu.queues[self.handle] = Queue()

        def synchronize(self) -> None:
            gpu.need_context("cuStreamSynchronize")
            gpu.fail("cuStreamSynchronize")
            gpu.drain(self.handle)

        def wait_for_event(self, event: Event) -> None:
            gpu.need_context("cuStreamWaitEvent")
            gpu.queue(self.handle, event.synchronize)

        def __del__(self) -> None:
            if hasattr(self, "handle"):
                gpu.free("stream")

    class Event:
        def __init__(self, flags: int = 0) -> None:
            gpu.make("event", "cuEventCreate")
            self.stream: Stream | None = None
            self.time_ms: float | None = None

        def record(self, stream: Stream | None = None) -> Event:
            gpu.need_context("cuEventRecord")
            assert stream is not None, "on the default stream"
            self.stream, self.time_ms = stream, None
            gpu.queue(stream.handle, self._reach)
            return self

        def _reach(self) -> None:
            self.time_ms = gpu.clock_ms

        def synchronize(self) -> Event:
            if self.stream is not None and self.time_ms is None:
                gpu.drain(self.stream.handle)
            return self

        def time_since(self, start: Event) -> float:
            if self.time_ms is None or start.time_ms is None:
                raise LogicError("cuEventElapsedTime failed: device not ready")
            return self.time_ms - start.time_ms

        def __del__(self) -> None:
            if hasattr(self, "stream"):
                gpu.free("event")

    class DeviceAllocation:
        def __init__(self, size_bytes: int) -> None:
            gpu.make("memory", "cuMemAlloc")
            try:
                self.address = gpu.allocate(size_bytes, "cuMemAlloc")
            except MemoryError:
                gpu.live["memory"] -= 1
                raise

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            if self.address not in gpu.memory:
                raise LogicError("device_allocation::free failed: invalid resource handle")
            del gpu.memory[self.address]
            gpu.free("memory")

    class HostAllocation:
        """Memory that numpy refers to as the base of the array."""

        def __init__(self, shape: Any, dtype: Any, flags: int) -> None:
            gpu.make("host", "cuMemHostAlloc")
            self.flags = flags
            self.block = np.full(int(np.prod(shape)) * dtype.itemsize, 0x5A, np.uint8)
            self.address = gpu.new_address()
            interface = self.block.__array_interface__
            self.__array_interface__ = {**interface, "shape": tuple(shape), "typestr": dtype.str}
            if flags & DEVICEMAP:
                gpu.memory[self.address] = self.block

        def get_device_pointer(self) -> int:
            if not self.flags & DEVICEMAP:
                raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
            return self.address

        def __del__(self) -> None:
            if hasattr(self, "flags"):
                gpu.memory.pop(self.address, None)
                gpu.free("host")

    def pagelocked_empty(
        shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> np.ndarray:
        return np.asarray(HostAllocation(shape, np.dtype(dtype), mem_flags))

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
        gpu.need_context("cuMemcpyHtoDAsync")
        gpu.fail("cuMemcpyHtoDAsync")
        target = gpu.bytes_at(dest, src.nbytes)
        gpu.queue(stream.handle, lambda: np.copyto(target, src.reshape(-1).view(np.uint8)))

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
        gpu.need_context("cuMemcpyDtoHAsync")
        gpu.fail("cuMemcpyDtoHAsync")
        source = gpu.bytes_at(src, dest.nbytes)
        gpu.queue(stream.handle, lambda: np.copyto(dest.reshape(-1).view(np.uint8), source))

    def mem_get_info() -> tuple[int, int]:
        gpu.need_context("cuMemGetInfo")
        return gpu.total_bytes - gpu.used_bytes(), gpu.total_bytes

    module = ModuleType("pycuda.driver")
    module.__dict__.update(
        Error=Error,
        MemoryError=MemoryError,
        LogicError=LogicError,
        RuntimeError=RuntimeError,
        init=lambda: gpu.fail("cuInit"),
        get_driver_version=lambda: 12060,
        device_attribute=SimpleNamespace(INTEGRATED="integrated", CAN_MAP_HOST_MEMORY="can map"),
        host_alloc_flags=SimpleNamespace(DEVICEMAP=DEVICEMAP),
        Context=Context,
        Device=Device,
        Stream=Stream,
        Event=Event,
        mem_alloc=DeviceAllocation,
        mem_get_info=mem_get_info,
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async,
    )
    return module


def graph_bindings(gpu: FakeGpu) -> ModuleType:
    """A module with the names of ``cuda.bindings.driver``; its functions return error codes."""

    def code_of(function: str) -> CUresult:
        gpu.need_context(function)
        failure = gpu.failures.pop(function, 0)
        if isinstance(failure, Exception):
            raise failure
        return CUresult(failure)

    def begin(stream: Handle, mode: int) -> tuple[CUresult]:
        code = code_of("cuStreamBeginCapture")
        assert isinstance(stream, Handle)
        assert mode == 2, "not the relaxed mode"
        if not code:
            gpu.queues[stream].captured = []
        return (code,)

    def end(stream: Handle) -> tuple[CUresult, int]:
        code = code_of("cuStreamEndCapture")
        queue = gpu.queues[stream]
        captured, queue.captured = queue.captured, None
        return code, add_graph(captured or [])

    def add_graph(work: list[tuple[Work, float]]) -> int:
        number = next(gpu.numbers)
        gpu.graphs[number] = work
        gpu.live["graph"] = gpu.live.get("graph", 0) + 1
        return number

    def instantiate(graph: int, flags: int) -> tuple[CUresult, int]:
        code = code_of("cuGraphInstantiate")
        return code, 0 if code else add_graph(gpu.graphs[graph])

    def launch(graph: int, stream: Handle) -> tuple[CUresult]:
        code = code_of("cuGraphLaunch")
        gpu.launches += 1
        for work, time_ms in gpu.graphs[graph]:
            gpu.queue(stream, work, time_ms * gpu.graph_speed)
        return (code,)

    def destroy(graph: int) -> tuple[CUresult]:
        code = code_of("cuGraphDestroy")
        del gpu.graphs[graph]
        gpu.live["graph"] -= 1
        return (code,)

    module = ModuleType("cuda.bindings.driver")
    module.__dict__.update(
        CUstream=Handle,
        CUstreamCaptureMode=SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2),
        cuStreamBeginCapture=begin,
        cuStreamEndCapture=end,
        cuGraphInstantiate=instantiate,
        cuGraphLaunch=launch,
        cuGraphDestroy=destroy,
        cuGraphExecDestroy=destroy,
    )
    return module


def install(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> FakeGpu:
    """Put the fakes where the package imports the real ones from."""
    without_graphs(monkeypatch)
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda_driver(gpu))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", graph_bindings(gpu))
    monkeypatch.setattr(cuda_device, "_devices", {})
    return gpu


def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither cuda-bindings nor the cuda-python of old."""
    for name in ("cuda", "cuda.bindings", "cuda.bindings.driver", "cuda.cuda"):
        monkeypatch.setitem(sys.modules, name, None)
