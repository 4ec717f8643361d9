"""The driver's library on a `FakeGpu` with all that `cuda.native` calls, as pycuda does elsewhere.

Errors of the fake GPU become the codes that the library returns; ``freed`` counts what was given
back.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import fake_cuda
import fake_gpu
import numpy as np
import pytest
from fake_gpu import FakeGpu, Queue
from fake_libcuda import CUresult, FakeLibcuda, value
from kernel_host import KERNELS, host_kernels

from mirnet_edge.cuda import device as cuda_device
from mirnet_edge.cuda import native
from mirnet_edge.cuda.driver import Driver

LAUNCH_FAILED, CONTEXT = 719, 77
"""The code of an error, and the handle of the first device's context, before those of others."""


def coded(function: Callable[..., int]) -> Callable[..., int]:
    """A function whose errors are codes."""

    def call(self: FakeNativeLibcuda, *arguments: Any) -> int:
        try:
            if not self.gpu.context_depth():
                return CUresult.CUDA_ERROR_INVALID_CONTEXT
            return function(self, *arguments)
        except fake_gpu.MemoryError:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY
        except fake_gpu.Error:
            return LAUNCH_FAILED

    return call


class FakeNativeLibcuda(FakeLibcuda):
    """See the module. Formats of a kernel's arguments are noted where `native` is told them."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__(gpu)
        self.freed: Counter[str] = Counter()
        self.events: dict[int, list[Any]] = {}
        self.modules: dict[int, str] = {}
        self.functions: dict[int, str] = {}
        self.formats: dict[str, str] = {}
        self.host: dict[int, np.ndarray] = {}

    def _new(self, pointer: Any) -> int:
        number = next(self.gpu.numbers)
        self._give(pointer, number, 0)
        return number

    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:
        code = self._code("cuDevicePrimaryCtxRetain", context=False)
        return self._give(context, CONTEXT + device, code)

    def cuDevicePrimaryCtxRelease_v2(self, device: int) -> int:
        self.machine.at(device).detached.append(device)
        return 0

    def cuCtxPushCurrent_v2(self, context: ctypes.c_void_p) -> int:
        self.machine.push(value(context) - CONTEXT)
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:
        popped = CONTEXT + self.machine.gpus.index(self.gpu)
        self.machine.pop()
        return self._give(context, popped, 0)

    @coded
    def cuStreamCreate(self, stream: Any, flags: int) -> int:
        assert flags == 1, "a stream that waits for the default one"
        self.gpu.queues[self._new(stream)] = Queue()
        return 0

    @coded
    def cuStreamDestroy_v2(self, stream: ctypes.c_void_p) -> int:
        self.freed["stream"] += 1
        del self.gpu.queues[value(stream)]
        return 0

    @coded
    def cuStreamSynchronize(self, stream: ctypes.c_void_p) -> int:
        self.gpu.fail("cuStreamSynchronize")
        self.gpu.drain(value(stream))
        return 0

    def cuEventCreate(self, event: Any, flags: int) -> int:
        if flags:
            return super().cuEventCreate(event, flags)
        self.events[self._new(event)] = [None, None, None]
        return 0

    def cuEventRecord(self, event: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:
        if (found := self.events.get(value(event))) is None:
            return super().cuEventRecord(event, stream)
        gpu = self.gpu
        found[:] = value(stream), None, gpu

        def reach() -> None:
            found[1] = gpu.clock_ms

        gpu.queue(value(stream), reach)
        return 0

    def cuStreamWaitEvent(self, stream: ctypes.c_void_p, event: ctypes.c_void_p, flags: int) -> int:
        if value(event) not in self.events:
            return super().cuStreamWaitEvent(stream, event, flags)
        self.gpu.queue(value(stream), lambda: self.cuEventSynchronize(event) and None)
        return 0

    def cuEventSynchronize(self, event: ctypes.c_void_p) -> int:
        stream, reached, gpu = self.events[value(event)]
        if stream is not None and reached is None:
            gpu.drain(stream)
        return 0

    def cuEventElapsedTime(self, time_ms: Any, start: Any, end: Any) -> int:
        first, last = (self.events[value(event)][1] for event in (start, end))
        return self._give(time_ms, last - first, 0)

    def cuEventDestroy_v2(self, event: ctypes.c_void_p) -> int:
        if value(event) not in self.events:
            return super().cuEventDestroy_v2(event)
        self.freed["event"] += 1
        return 0

    @coded
    def cuMemAlloc_v2(self, pointer: Any, size: ctypes.c_size_t) -> int:
        return self._give(pointer, self.gpu.allocate(size.value, "cuMemAlloc"), 0)

    @coded
    def cuMemFree_v2(self, address: ctypes.c_void_p) -> int:
        self.freed["memory"] += 1
        del self.gpu.memory[value(address)]
        return 0

    @coded
    def cuMemHostAlloc(self, pointer: Any, size: ctypes.c_size_t, flags: int) -> int:
        block = self.gpu.new_block(size.value)
        address = int(block.ctypes.data)
        self.host[address] = block
        self.gpu.locked[address] = block.nbytes
        if flags:
            self.gpu.memory[address] = block
        return self._give(pointer, address, 0)

    @coded
    def cuMemFreeHost(self, address: ctypes.c_void_p) -> int:
        self.freed["host"] += 1
        for known in (self.host, self.gpu.locked):
            del known[value(address)]
        self.gpu.memory.pop(value(address), None)
        return 0

    @coded
    def cuMemHostGetDevicePointer_v2(self, pointer: Any, host: ctypes.c_void_p, flags: int) -> int:
        return self._give(pointer, value(host), 0)

    @coded
    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        self._give(total, self.gpu.total_bytes, 0)
        return self._give(free, self.gpu.total_bytes - self.gpu.used_bytes(), 0)

    @coded
    def cuMemcpyHtoDAsync_v2(self, to: Any, host: Any, size: Any, stream: Any) -> int:
        target = self.gpu.bytes_at(value(to), size.value)
        self.gpu.queue(value(stream), lambda: np.copyto(target, bytes_of(host, size.value)))
        return 0

    @coded
    def cuMemcpyDtoHAsync_v2(self, host: Any, of: Any, size: Any, stream: Any) -> int:
        source = self.gpu.bytes_at(value(of), size.value)
        self.gpu.queue(value(stream), lambda: np.copyto(bytes_of(host, size.value), source))
        return 0

    @coded
    def cuMemcpyDtoDAsync_v2(self, to: Any, of: Any, size: Any, stream: Any) -> int:
        target = self.gpu.bytes_at(value(to), size.value)
        source = self.gpu.bytes_at(value(of), size.value)
        self.gpu.queue(value(stream), lambda: np.copyto(target, source))
        return 0

    @coded
    def cuMemsetD8Async(self, to: Any, byte: ctypes.c_ubyte, size: Any, stream: Any) -> int:
        target = self.gpu.bytes_at(value(to), size.value)
        self.gpu.queue(value(stream), lambda: target.fill(byte.value))
        return 0

    @coded
    def cuModuleLoadData(self, module: Any, image: ctypes.c_char_p) -> int:
        cubin = image.value or b""
        if not cubin.startswith(fake_cuda.CUBIN):
            return LAUNCH_FAILED
        self.modules[self._new(module)] = cubin.removeprefix(fake_cuda.CUBIN).decode()
        return 0

    def cuModuleUnload(self, module: ctypes.c_void_p) -> int:
        self.freed["module"] += 1
        return 0

    @coded
    def cuModuleGetFunction(self, function: Any, module: ctypes.c_void_p, name: bytes) -> int:
        assert (KERNELS / f"{self.modules[value(module)]}.cu").is_file()
        if not hasattr(host_kernels().library, name.decode()):
            return LAUNCH_FAILED
        self.functions[self._new(function)] = name.decode()
        return 0

    @coded
    def cuLaunchKernel(self, function: Any, *given: Any) -> int:
        grid, block, shared, stream, parameters, extra = given[:3], given[3:6], *given[6:]
        assert (shared, parameters) == (0, None)
        assert [extra[0], extra[2], extra[4]] == [1, 2, None]
        size = ctypes.c_size_t.from_address(extra[3]).value
        packed = bytes_of(ctypes.c_void_p(extra[1]), size).tobytes()
        name = self.functions[value(function)]
        layout = self.formats[name]
        assert size == struct.calcsize(f"@{layout}"), "not all arguments"
        arguments = fake_cuda.host_arguments(layout, struct.unpack(f"@{layout}", packed))

        def run() -> None:
            with fake_cuda.KERNELS_RUN_ALONE:
                host_kernels().launch(name, grid, block, *arguments)

        self.gpu.queue(value(stream), run)
        return 0


def bytes_of(address: ctypes.c_void_p, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_ubyte * size).from_address(value(address)), np.uint8)


def install(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> FakeNativeLibcuda:
    """Put it where the package finds the driver, and no pycuda."""
    fake_cuda.install(monkeypatch, gpu)
    library = FakeNativeLibcuda(gpu)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setattr(cuda_device, "start_driver", lambda: Driver(library))
    get, prepare = native._Module.get_function, native._Function.prepare
    names: dict[int, str] = {}

    def noted(self: native._Module, name: str) -> native._Function:
        function = get(self, name)
        names[id(function)] = name
        return function

    def prepared(self: native._Function, argument_format: str) -> None:
        library.formats[names[id(self)]] = argument_format
        prepare(self, argument_format)

    monkeypatch.setattr(native._Module, "get_function", noted)
    monkeypatch.setattr(native._Function, "prepare", prepared)
    return library
