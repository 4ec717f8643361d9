"""`pycuda.driver` on a `FakeGpu`: the names that the package uses.

Kernels run as they are compiled for the host (`kernel_host`), when the stream is waited for.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
import sys
import threading
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import Error, FakeGpu, LogicError, MemoryError, Queue, RuntimeError
from fake_libcuda import CUresult, FakeLibcuda
from kernel_host import KERNELS, family_of, host_kernels

from mirnet_edge.cuda import device as cuda_device
from mirnet_edge.cuda import kernels as cuda_kernels
from mirnet_edge.cuda.driver import Driver

DEVICEMAP = 2
CUBIN = b"cubin of "
COPY_RATE = 1e12
"""Bytes a second that a copy on the device reads and writes; no other call takes time."""
KERNELS_RUN_ALONE = threading.Lock()
"""Where a thread of a kernel is, is of the whole process when it is compiled for the host."""
ARGUMENTS = {"P": ctypes.c_void_p, "q": ctypes.c_longlong, "i": ctypes.c_int}


class FakeBinaries:
    """In place of `mirnet_edge.cuda.compiler.Binaries`: nothing is compiled."""

    def __init__(self, target: Any) -> None:
        pass

    def cached(self, stem: str) -> bytes | None:
        return None

    def compile(self, stem: str) -> bytes:
        return CUBIN + stem.encode()


def pycuda_driver(machine: FakeGpu) -> ModuleType:
    """A module with the names of ``pycuda.driver``, each thing on the device whose context was
    current when it was made."""

    class Context:
        def __init__(self, index: int) -> None:
            self.index = index

        def push(self) -> None:
            machine.at(self.index).fail("cuCtxPushCurrent")
            machine.push(self.index)

        @staticmethod
        def pop() -> None:
            machine.here().need_context("cuCtxPopCurrent")
            machine.pop()

        def detach(self) -> None:
            machine.at(self.index).detached.append(self.index)

        @staticmethod
        def synchronize() -> None:
            gpu = machine.here()
            gpu.need_context("cuCtxSynchronize")
            for handle in list(gpu.queues):
                gpu.drain(handle)

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def retain_primary_context(self) -> Context:
            if machine.at(self.index).broken.get("cuDevicePrimaryCtxRetain"):
                raise LogicError("cuDevicePrimaryCtxRetain failed: an illegal memory access")
            return Context(self.index)

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            self.gpu = machine.here()
            self.gpu.make("stream", "cuStreamCreate")
            self.flags, self.handle = flags, next(self.gpu.numbers)
            self.gpu.queues[self.handle] = Queue()

        def synchronize(self) -> None:
            self.gpu.need_context("cuStreamSynchronize")
            self.gpu.fail("cuStreamSynchronize")
            self.gpu.drain(self.handle)

        def is_done(self) -> bool:
            self.gpu.need_context("cuStreamQuery")
            return not self.gpu.queues[self.handle].work

        def wait_for_event(self, event: Event) -> None:
            self.gpu.need_context("cuStreamWaitEvent")
            self.gpu.queue(self.handle, event.synchronize)

        def __del__(self) -> None:
            if hasattr(self, "handle"):
                self.gpu.free("stream")

    class Event:
        def __init__(self, flags: int = 0) -> None:
            self.gpu = machine.here()
            self.gpu.make("event", "cuEventCreate")
            self.stream: Stream | None = None
            self.time_ms: float | None = None

        def record(self, stream: Stream | None = None) -> Event:
            self.gpu.need_context("cuEventRecord")
            assert stream is not None, "on the default stream"
            if stream.gpu is not self.gpu:
                raise LogicError("cuEventRecord failed: invalid resource handle")
            self.stream, self.time_ms = stream, None
            self.gpu.queue(stream.handle, self._reach)
            return self

        def _reach(self) -> None:
            self.time_ms = self.gpu.clock_ms

        def synchronize(self) -> Event:
            self.gpu.fail("cuEventSynchronize")
            if self.stream is not None and self.time_ms is None:
                self.gpu.drain(self.stream.handle)
            return self

        def time_since(self, start: Event) -> float:
            if self.time_ms is None or start.time_ms is None:
                raise LogicError("cuEventElapsedTime failed: device not ready")
            return self.time_ms - start.time_ms

        def query(self) -> bool:
            self.gpu.need_context("cuEventQuery")
            return self.stream is None or self.time_ms is not None

        def __del__(self) -> None:
            if hasattr(self, "stream"):
                self.gpu.free("event")

    class DeviceAllocation:
        def __init__(self, size_bytes: int) -> None:
            self.gpu = gpu = machine.here()
            gpu.make("memory", "cuMemAlloc")
            try:
                self.address = gpu.allocate(size_bytes, "cuMemAlloc")
            except MemoryError:
                gpu.live["memory"] -= 1
                raise

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            if self.address not in self.gpu.memory:
                raise LogicError("device_allocation::free failed: invalid resource handle")
            del self.gpu.memory[self.address]
            self.gpu.free("memory")

    class HostAllocation:
        """Memory that numpy refers to as the base of the array."""

        def __init__(self, shape: Any, dtype: Any, flags: int) -> None:
            self.gpu = gpu = machine.here()
            gpu.make("host", "cuMemHostAlloc")
            self.flags = flags
            self.block = gpu.new_block(int(np.prod(shape)) * dtype.itemsize)
            self.address: int = self.block.ctypes.data
            gpu.locked[self.address] = self.block.nbytes
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
                self.gpu.memory.pop(self.address, None)
                self.gpu.locked.pop(self.address, None)
                self.gpu.free("host")

    def pagelocked_empty(
        shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> np.ndarray:
        return np.asarray(HostAllocation(shape, np.dtype(dtype), mem_flags))

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
        gpu = machine.here()
        gpu.need_context("cuMemcpyHtoDAsync")
        gpu.fail("cuMemcpyHtoDAsync")
        target = gpu.bytes_at(dest, src.nbytes)
        gpu.queue(stream.handle, lambda: np.copyto(target, src.reshape(-1).view(np.uint8)))

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
        gpu = machine.here()
        gpu.need_context("cuMemcpyDtoHAsync")
        gpu.fail("cuMemcpyDtoHAsync")
        source = gpu.bytes_at(src, dest.nbytes)
        gpu.queue(stream.handle, lambda: np.copyto(dest.reshape(-1).view(np.uint8), source))

    def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
        gpu = machine.here()
        gpu.need_context("cuMemcpyDtoDAsync")
        gpu.fail("cuMemcpyDtoDAsync")
        target, source = gpu.bytes_at(dest, size), gpu.bytes_at(src, size)
        time_ms = 1e3 * 2 * size / COPY_RATE
        gpu.queue(stream.handle, lambda: np.copyto(target, source), time_ms)

    def memset_d8_async(dest: int, data: int, size: int, stream: Stream) -> None:
        gpu = machine.here()
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
            gpu = self.module.gpu
            if gpu is not machine.here():
                raise LogicError("cuLaunchKernel failed: invalid resource handle")
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
                    self.module.gpu.bytes_at(value, 1)
            with KERNELS_RUN_ALONE:
                host_kernels().launch(
                    self.name, grid, block, *host_arguments(self.arg_format, args)
                )

    class Module:
        def __init__(self, cubin: bytes) -> None:
            self.gpu = gpu = machine.here()
            gpu.need_context("cuModuleLoadDataEx")
            if not cubin.startswith(CUBIN):
                raise LogicError("cuModuleLoadDataEx failed: device kernel image is invalid")
            gpu.make("module", "cuModuleLoadDataEx")
            self.source = KERNELS / f"{cubin.removeprefix(CUBIN).decode()}.cu"

        def get_function(self, name: str) -> Function:
            self.gpu.need_context("cuModuleGetFunction")
            family = family_of(name)
            # A file is named after its family, or after the first word of the families in it.
            here = self.source.stem in (family, family.split("_")[0])
            here = here or f" {name}(" in self.source.read_text()
            if not here or not hasattr(host_kernels().library, name):
                raise LogicError("cuModuleGetFunction failed: named symbol not found")
            return Function(self, name)

        def __del__(self) -> None:
            if hasattr(self, "source"):
                self.gpu.free("module")

    def mem_get_info() -> tuple[int, int]:
        gpu = machine.here()
        gpu.need_context("cuMemGetInfo")
        return gpu.total_bytes - gpu.used_bytes(), gpu.total_bytes

    module = ModuleType("pycuda.driver")
    module.__dict__.update(
        Error=Error,
        MemoryError=MemoryError,
        LogicError=LogicError,
        RuntimeError=RuntimeError,
        init=lambda: machine.fail("cuInit"),
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


def install(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> FakeGpu:
    """Put the fakes where the package finds the real ones."""
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda_driver(gpu))
    monkeypatch.setattr(cuda_device, "start_driver", lambda: Driver(FakeLibcuda(gpu)))
    monkeypatch.setattr(cuda_device, "_devices", {})
    monkeypatch.setattr(cuda_kernels, "Binaries", FakeBinaries)
    return gpu


def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No work can be captured."""
    code = CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    monkeypatch.setattr(FakeLibcuda, "cuStreamBeginCapture_v2", lambda *_: code)
