"""The driver by ctypes, under the names that pycuda gives it: for machines where pycuda is not
installed, as those of a PyTorch that brings its own CUDA.

Only what the package uses is here, and as strict: a call needs the context on the thread's stack.
Objects free what they hold when nothing refers to them any more, in whatever thread that is, so
they enter the context for it by themselves.
"""

from __future__ import annotations

import ctypes
import struct
from contextlib import suppress
from ctypes import c_size_t as Size
from ctypes import c_void_p as Handle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mirnet_edge.cuda.driver import Driver
from mirnet_edge.errors import DeviceError, DeviceMemoryError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

DEVICEMAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP
# Of cuLaunchKernel's last argument, from cuda.h.
BUFFER_POINTER, BUFFER_SIZE, END = 1, 2, 0


class Error(Exception):
    """The driver refused a call, or reports an earlier failure."""


class MemoryError(Error):  # pycuda's name
    """There is not enough memory."""


class NativeDriver:
    """What ``pycuda.driver`` is as a module, of one started library."""

    Error, MemoryError = Error, MemoryError
    host_alloc_flags = SimpleNamespace(DEVICEMAP=DEVICEMAP)

    def __init__(self, library: Driver) -> None:
        self._library = library
        self._context: _Context | None = None
        self.Context = SimpleNamespace(pop=self._pop)

    def call(self, function: str, *arguments: object) -> None:
        """Call a function of the library; its errors become those of this module."""
        try:
            self._library.call(function, *arguments)
        except DeviceMemoryError as error:
            raise MemoryError(str(error)) from None
        except DeviceError as error:
            raise Error(str(error)) from None

    def make(self, function: str, *arguments: object) -> Handle:
        """Return the handle of what a function makes."""
        made = Handle()
        self.call(function, ctypes.byref(made), *arguments)
        return made

    def init(self) -> None:
        """Do nothing: the library is started."""

    def _pop(self) -> None:
        self.make("cuCtxPopCurrent_v2")

    def free(self, function: str, what: Handle) -> None:
        """Free something, in a destructor: nobody could catch an error, and the process may end."""
        if self._context is None:
            # It went with the context. In another that was made since, the handle may be
            # something else's.
            return
        with suppress(Exception):
            self._context.push()
            try:
                self.call(function, what)
            finally:
                self._pop()

    # What pycuda has as classes and functions of the module.

    def Device(self, index: int) -> _Device:
        """One GPU."""
        return _Device(self, index)

    def Stream(self, flags: int = 0) -> _Stream:
        """A stream."""
        return _Stream(self, flags)

    def Event(self) -> _Event:
        """An event that takes the time."""
        return _Event(self)

    def mem_alloc(self, size_bytes: int) -> _Allocation:
        """Memory of the device."""
        return _Allocation(self, size_bytes)

    def mem_get_info(self) -> tuple[int, int]:
        """Bytes that are free, and all."""
        free, total = Size(), Size()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def pagelocked_empty(
        self, shape: tuple[int, ...], dtype: DTypeLike, mem_flags: int = 0
    ) -> NDArray[Any]:
        """A page-locked array, whose memory is freed with the last view of it."""
        import numpy as np  # doctor asks this package's driver where numpy may be what is missing

        return np.asarray(_HostAllocation(self, shape, np.dtype(dtype), mem_flags))

    def memcpy_htod_async(self, address: int, source: NDArray[Any], stream: _Stream) -> None:
        """Queue a copy to the device."""
        size = Size(source.nbytes)
        host = Handle(source.ctypes.data)
        self.call("cuMemcpyHtoDAsync_v2", Handle(address), host, size, stream.queue)

    def memcpy_dtoh_async(self, target: NDArray[Any], address: int, stream: _Stream) -> None:
        """Queue a copy to the host."""
        size = Size(target.nbytes)
        host = Handle(target.ctypes.data)
        self.call("cuMemcpyDtoHAsync_v2", host, Handle(address), size, stream.queue)

    def memcpy_dtod_async(self, target: int, source: int, size: int, stream: _Stream) -> None:
        """Queue a copy on the device."""
        there, here = Handle(target), Handle(source)
        self.call("cuMemcpyDtoDAsync_v2", there, here, Size(size), stream.queue)

    def memset_d8_async(self, address: int, byte: int, size: int, stream: _Stream) -> None:
        """Queue the setting of bytes."""
        value = ctypes.c_ubyte(byte)
        self.call("cuMemsetD8Async", Handle(address), value, Size(size), stream.queue)

    def module_from_buffer(self, cubin: bytes) -> _Module:
        """Load kernels."""
        return _Module(self, cubin)


class _Context:
    """The primary context of a device, held until `detach`."""

    def __init__(self, driver: NativeDriver, device: int) -> None:
        self._driver, self._device = driver, device
        self._handle = driver.make("cuDevicePrimaryCtxRetain", device)
        driver._context = self

    def push(self) -> None:
        self._driver.call("cuCtxPushCurrent_v2", self._handle)

    def detach(self) -> None:
        self._driver._context = None
        self._driver.call("cuDevicePrimaryCtxRelease_v2", self._device)


class _Device:
    def __init__(self, driver: NativeDriver, index: int) -> None:
        device = ctypes.c_int()
        driver.call("cuDeviceGet", ctypes.byref(device), index)
        self._driver, self._device = driver, device.value

    def retain_primary_context(self) -> _Context:
        return _Context(self._driver, self._device)


class _Held:
    """Something of the driver's that is destroyed with the object."""

    destroy = ""
    queue: Handle

    def __init__(self, driver: NativeDriver, made: Handle) -> None:
        self._driver, self.queue = driver, made

    def __del__(self) -> None:
        if hasattr(self, "queue"):  # else it was never made
            self._driver.free(self.destroy, self.queue)


class _Stream(_Held):
    destroy = "cuStreamDestroy_v2"

    def __init__(self, driver: NativeDriver, flags: int) -> None:
        super().__init__(driver, driver.make("cuStreamCreate", flags))
        self.handle = int(self.queue.value or 0)

    def synchronize(self) -> None:
        self._driver.call("cuStreamSynchronize", self.queue)

    def wait_for_event(self, event: _Event) -> None:
        self._driver.call("cuStreamWaitEvent", self.queue, event.queue, 0)


class _Event(_Held):
    destroy = "cuEventDestroy_v2"

    def __init__(self, driver: NativeDriver) -> None:
        super().__init__(driver, driver.make("cuEventCreate", 0))

    def record(self, stream: _Stream) -> None:
        self._driver.call("cuEventRecord", self.queue, stream.queue)

    def synchronize(self) -> None:
        self._driver.call("cuEventSynchronize", self.queue)

    def time_since(self, start: _Event) -> float:
        time_ms = ctypes.c_float()
        self._driver.call("cuEventElapsedTime", ctypes.byref(time_ms), start.queue, self.queue)
        return time_ms.value


class _Allocation:
    """Memory of the device; as a number its address. Freed by `free`, once."""

    def __init__(self, driver: NativeDriver, size_bytes: int) -> None:
        self._driver = driver
        self._memory = driver.make("cuMemAlloc_v2", Size(size_bytes))

    def __int__(self) -> int:
        return int(self._memory.value or 0)

    def free(self) -> None:
        self._driver.call("cuMemFree_v2", self._memory)


class _HostAllocation(_Held):
    """Page-locked memory that an array refers to as its base."""

    destroy = "cuMemFreeHost"

    def __init__(
        self, driver: NativeDriver, shape: tuple[int, ...], dtype: Any, flags: int
    ) -> None:
        size_bytes = dtype.itemsize
        for side in shape:
            size_bytes *= side
        # The driver gives no memory of 0 bytes, which an array may have.
        made = driver.make("cuMemHostAlloc", Size(max(size_bytes, 1)), flags)
        super().__init__(driver, made)
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(shape),
            "typestr": dtype.str,
            "data": (made.value, False),
        }

    def get_device_pointer(self) -> int:
        made = self._driver.make("cuMemHostGetDevicePointer_v2", self.queue, 0)
        return int(made.value or 0)


class _Module(_Held):
    destroy = "cuModuleUnload"

    def __init__(self, driver: NativeDriver, cubin: bytes) -> None:
        super().__init__(driver, driver.make("cuModuleLoadData", ctypes.c_char_p(cubin)))

    def get_function(self, name: str) -> _Function:
        return _Function(self, name)


class _Function:
    """A kernel; it keeps its module."""

    def __init__(self, module: _Module, name: str) -> None:
        self._module, self._format = module, ""
        self._handle = module._driver.make("cuModuleGetFunction", module.queue, name.encode())

    def prepare(self, argument_format: str) -> None:
        self._format = f"@{argument_format}"  # aligned as C aligns, which is how a kernel reads

    def prepared_async_call(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        stream: _Stream,
        *arguments: float,
    ) -> None:
        packed = struct.pack(self._format, *arguments)
        size = Size(len(packed))
        extra = (Handle * 5)(
            BUFFER_POINTER,
            ctypes.cast(ctypes.c_char_p(packed), Handle),
            BUFFER_SIZE,
            ctypes.cast(ctypes.byref(size), Handle),
            END,
        )
        self._module._driver.call(
            "cuLaunchKernel", self._handle, *grid, *block, 0, stream.queue, None, extra
        )
