"""The driver's library on a `FakeGpu`: the functions that the package calls by ctypes.

As the real ones do, they return codes and write what they make where a pointer says. Handles are
taken as ``c_void_p`` alone: a plain int would be cut to 32 bits on its way.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from typing import Any

from fake_gpu import FakeGpu, Work

ATTRIBUTES = {16: "multiprocessors", 18: "integrated", 19: "mapping", 75: "major", 76: "minor",
              97: "shared"}  # fmt: skip


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_SYSTEM_NOT_READY = 802
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


def value(handle: ctypes.c_void_p) -> int:
    assert isinstance(handle, ctypes.c_void_p), f"{handle!r} is no c_void_p"
    assert handle.value is not None, "a null handle"
    return handle.value


class FakeLibcuda:
    """The library; names of functions are those that it exports."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.machine = gpu
        self.recorded: dict[int, int] = {}

    @property
    def gpu(self) -> FakeGpu:
        """The one whose context is current."""
        return self.machine.here()

    def _code(self, function: str, context: bool = True) -> int:
        gpu = self.gpu
        if context and not gpu.context_depth():
            return CUresult.CUDA_ERROR_INVALID_CONTEXT
        if context and gpu.lost:
            return CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
        if isinstance(gpu.failures.get(function), int):  # others are pycuda's
            return gpu.failures.pop(function)
        return gpu.broken.get(function, 0)

    def _give(self, pointer: Any, what: int, code: int) -> int:
        if not code:
            pointer._obj.value = what
        return code

    # Without a context

    def cuGetErrorName(self, code: int, pointer: Any) -> int:
        known = code in iter(CUresult)
        pointer._obj.value = CUresult(code).name.encode() if known else None
        return 0 if known else 1

    def cuInit(self, flags: int) -> int:
        return self._code("cuInit", context=False)

    def cuDriverGetVersion(self, version: Any) -> int:
        return self._give(version, 12060, 0)

    def cuDeviceGetCount(self, count: Any) -> int:
        return self._give(count, self.gpu.count, self._code("cuDeviceGetCount", context=False))

    def cuDeviceGet(self, device: Any, index: int) -> int:
        return self._give(device, index, 0)

    def cuDeviceGetName(self, name: Any, length: int, device: int) -> int:
        name.value = self.machine.at(device).name.format(device).encode()[:length]
        return 0

    def cuDeviceTotalMem_v2(self, size_bytes: Any, device: int) -> int:
        return self._give(size_bytes, self.machine.at(device).total_bytes, 0)

    def cuDeviceGetAttribute(self, pointer: Any, attribute: int, device: int) -> int:
        gpu = self.machine.at(device)
        major, minor = gpu.capability
        facts = {"integrated": gpu.integrated, "mapping": 1, "major": major, "minor": minor,
                 "multiprocessors": gpu.multiprocessors, "shared": gpu.shared_bytes}  # fmt: skip
        return self._give(pointer, int(facts[ATTRIBUTES[attribute]]), 0)

    def cuDevicePrimaryCtxReset_v2(self, device: int) -> int:
        code = self._code("cuDevicePrimaryCtxReset", context=False)
        if not code:
            self.machine.at(device).reset()
        return code

    def cuPointerGetAttribute(self, pointer: Any, attribute: int, address: Any) -> int:
        at = value(address)
        for start, size in self.gpu.locked.items():
            if start <= at < start + size:
                facts = {2: 1, 11: start, 12: size}  # of the host; where it begins; how much it is
                return self._give(pointer, facts[attribute], self._code("cuPointerGetAttribute"))
        return CUresult.CUDA_ERROR_INVALID_VALUE

    def cuMemHostRegister_v2(self, address: Any, size: ctypes.c_size_t, flags: int) -> int:
        gpu, at = self.gpu, value(address)
        assert at % 4096 == 0, "what else is in the page cannot be locked"
        if code := self._code("cuMemHostRegister"):
            return code
        gpu.locked[at] = gpu.pages[at] = size.value
        return CUresult.CUDA_SUCCESS

    def cuMemHostUnregister(self, address: Any) -> int:
        if self.gpu.locked.pop(value(address), None) is None:
            return CUresult.CUDA_ERROR_INVALID_VALUE
        del self.gpu.pages[value(address)]
        return self._code("cuMemHostUnregister")

    # Streams of others

    def cuEventCreate(self, event: Any, flags: int) -> int:
        assert flags == 2, "an event that takes the time"
        self.gpu.live["bare event"] = self.gpu.live.get("bare event", 0) + 1
        return self._give(event, next(self.gpu.numbers), self._code("cuEventCreate"))

    def cuEventRecord(self, event: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:
        self.recorded[value(event)] = value(stream)
        return self._code("cuEventRecord")

    def cuStreamWaitEvent(self, stream: ctypes.c_void_p, event: ctypes.c_void_p, flags: int) -> int:
        recorded_on = self.recorded[value(event)]
        gpu = self.gpu
        gpu.queue(value(stream), lambda: gpu.drain(recorded_on))
        return self._code("cuStreamWaitEvent")

    def cuEventDestroy_v2(self, event: ctypes.c_void_p) -> int:
        self.gpu.live["bare event"] -= bool(value(event))
        return self._code("cuEventDestroy")

    # Graphs

    def cuStreamBeginCapture_v2(self, stream: ctypes.c_void_p, mode: int) -> int:
        assert mode == 2, "not the relaxed mode"
        code = self._code("cuStreamBeginCapture")
        if not code:
            self.gpu.queues[value(stream)].captured = []
        return code

    def cuStreamEndCapture(self, stream: ctypes.c_void_p, graph: Any) -> int:
        queue = self.gpu.queues[value(stream)]
        captured, queue.captured = queue.captured, None
        code = self._code("cuStreamEndCapture")
        return code or self._give(graph, self._add_graph(captured or []), 0)

    def cuGraphInstantiateWithFlags(
        self, made: Any, graph: ctypes.c_void_p, flags: ctypes.c_ulonglong
    ) -> int:
        assert isinstance(flags, ctypes.c_ulonglong)
        code = self._code("cuGraphInstantiate")
        return code or self._give(made, self._add_graph(self.gpu.graphs[value(graph)]), 0)

    def cuGraphLaunch(self, graph: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:
        self.gpu.launches += 1
        for work, time_ms in self.gpu.graphs[value(graph)]:
            self.gpu.queue(value(stream), work, time_ms * self.gpu.graph_speed)
        return self._code("cuGraphLaunch")

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:
        del self.gpu.graphs[value(graph)]
        self.gpu.live["graph"] -= 1
        return self._code("cuGraphDestroy")

    cuGraphExecDestroy = cuGraphDestroy

    def _add_graph(self, work: list[tuple[Work, float]]) -> int:
        number = next(self.gpu.numbers)
        self.gpu.graphs[number] = work
        self.gpu.live["graph"] = self.gpu.live.get("graph", 0) + 1
        return number


def loader(gpu: FakeGpu | None) -> Callable[[str], FakeLibcuda]:
    """What opens a shared library by its name: this one, or none."""

    def load(name: str) -> FakeLibcuda:
        if gpu is None or name != "libcuda.so.1":
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return FakeLibcuda(gpu)

    return load
