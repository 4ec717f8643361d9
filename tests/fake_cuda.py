"""`pycuda.driver` and `cuda.bindings.driver` on a `FakeGpu`: the names that the package uses.

Kernels run as they are compiled for the host (`kernel_host`), when the stream is waited for.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import itertools
import struct
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import Error, FakeGpu, LogicError, MemoryError, Queue, RuntimeError, Work
from kernel_host import KERNELS, family_of, host_kernels

from mirnet_edge.cuda import device as cuda_device
from mirnet_edge.cuda import kernels as cuda_kernels

DEVICEMAP = 2
CUBIN = b"cubin of "
ARGUMENTS = {"P": ctypes.c_void_p, "q": ctypes.c_longlong, "i": ctypes.c_int}


class FakeBinaries:
    """In place of `mirnet_edge.cuda.compiler.Binaries`: nothing is compiled."""

    def __init__(self, target: Any) -> None:
        pass

    def cached(self, stem: str) -> bytes | None:
        return None

    def compile(self, stem: str) -> bytes:
        return CUBIN + stem.encode()


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

        @staticmethod
        def synchronize() -> None:
            gpu.need_context("cuCtxSynchronize")
            for handle in list(gpu.queues):
                gpu.drain(handle)

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

        def is_done(self) -> bool:
            gpu.need_context("cuStreamQuery")
            return not gpu.queues[self.handle].work

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
            gpu.fail("cuEventSynchronize")
            if self.stream is not None and self.time_ms is None:
                gpu.drain(self.stream.handle)
            return self

        def time_since(self, start: Event) -> float:
            if self.time_ms is None or start.time_ms is None:
                raise LogicError("cuEventElapsedTime failed: device not ready")
            return self.time_ms - start.time_ms

        def query(self) -> bool:
            gpu.need_context("cuEventQuery")
            return self.stream is None or self.time_ms is not None

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
            self.block = gpu.new_block(int(np.prod(shape)) * dtype.itemsize)
            self.address: int = self.block.ctypes.data
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

    def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
        gpu.need_context("cuMemcpyDtoDAsync")
        gpu.fail("cuMemcpyDtoDAsync")
        target, source = gpu.bytes_at(dest, size), gpu.bytes_at(src, size)
        gpu.queue(stream.handle, lambda: np.copyto(target, source))

    def memset_d8_async(dest: int, data: int, size: int, stream: Stream) -> None:
        gpu.need_context("cuMemsetD8Async")
        gpu.fail("cuMemsetD8Async")
        target = gpu.bytes_at(dest, size)
        gpu.queue(stream.handle, lambda: target.fill(data))

    class Function:
        def __init__(self, module: Module, name: str) -> None:
            self.module, self.name, self.arg_format = module, name, ""

        def prepare(self, arg_types: str) -> Function:
            self.arg_format = "".join(arg_types)
            return self

        def prepared_async_call(
            self, grid: tuple[int, ...], block: tuple[int, ...], stream: Stream, *args: float
        ) -> None:
            gpu.need_context("cuLaunchKernel")
            gpu.fail("cuLaunchKernel")
            if min(*grid, *block) < 1 or max(grid[1:]) > 65535 or np.prod(block) > 1024:
                raise LogicError("cuLaunchKernel failed: invalid argument")
            struct.pack(self.arg_format, *args)
            work = functools.partial(self._run, grid, block, args)
            gpu.queue(stream.handle, work)

        def _run(self, grid: tuple[int, ...], block: tuple[int, ...], args: Any) -> None:
            for letter, value in zip(self.arg_format, args, strict=True):
                if letter == "P" and value:
                    gpu.bytes_at(value, 1)
            host_kernels().launch(self.name, grid, block, *host_arguments(self.arg_format, args))

    class Module:
        def __init__(self, cubin: bytes) -> None:
            gpu.need_context("cuModuleLoadDataEx")
            if not cubin.startswith(CUBIN):
                raise LogicError("cuModuleLoadDataEx failed: device kernel image is invalid")
            gpu.make("module", "cuModuleLoadDataEx")
            self.source = KERNELS / f"{cubin.removeprefix(CUBIN).decode()}.cu"

        def get_function(self, name: str) -> Function:
            gpu.need_context("cuModuleGetFunction")
            here = self.source.stem == family_of(name) or f" {name}(" in self.source.read_text()
            if not here or not hasattr(host_kernels().library, name):
                raise LogicError("cuModuleGetFunction failed: named symbol not found")
            return Function(self, name)

        def __del__(self) -> None:
            if hasattr(self, "source"):
                gpu.free("module")

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
        memcpy_dtod_async=memcpy_dtod_async,
        memset_d8_async=memset_d8_async,
        module_from_buffer=Module,
    )
    return module


def host_arguments(argument_format: str, arguments: Sequence[float]) -> list[Any]:
    """As `HostKernels.launch` takes them: floats, which are of a struct by value, as a pointer."""
    taken: list[Any] = []
    pairs = zip(argument_format, arguments, strict=True)
    for letter, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
        values = [value for _, value in group]
        if letter == "f":
            taken.append((ctypes.c_float * len(values))(*values))
        else:
            taken += [ARGUMENTS[letter](value) for value in values]
    return taken


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

    def create_event(flags: int) -> tuple[CUresult, list[int]]:
        code = code_of("cuEventCreate")
        assert flags == 2, "an event that takes the time"
        return code, []

    def record_event(event: list[int], stream: Handle) -> tuple[CUresult]:
        event.append(stream)
        return (code_of("cuEventRecord"),)

    def wait_event(stream: Handle, event: list[int], flags: int) -> tuple[CUresult]:
        (recorded_on,) = event
        gpu.queue(stream, lambda: gpu.drain(recorded_on))
        return (code_of("cuStreamWaitEvent"),)

    module = ModuleType("cuda.bindings.driver")
    module.__dict__.update(
        CUstream=Handle,
        cuEventCreate=create_event,
        cuEventRecord=record_event,
        cuStreamWaitEvent=wait_event,
        cuEventDestroy=lambda _: (code_of("cuEventDestroy"),),
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
    monkeypatch.setattr(cuda_kernels, "Binaries", FakeBinaries)
    return gpu


def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither cuda-bindings nor the cuda-python of old."""
    for name in ("cuda", "cuda.bindings", "cuda.bindings.driver", "cuda.cuda"):
        monkeypatch.setitem(sys.modules, name, None)
