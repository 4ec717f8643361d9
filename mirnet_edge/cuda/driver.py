"""NVIDIA's driver library, called by ctypes: what a GPU is, and what pycuda has no call for.

It is there wherever a GPU works, whatever packages are missing; nothing here makes a context.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mirnet_edge.errors import DeviceError, DeviceMemoryError

NO_DEVICE = "CUDA_ERROR_NO_DEVICE"
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
# CUdevice_attribute, from cuda.h.
INTEGRATED, CAN_MAP_HOST_MEMORY, CAPABILITY_MAJOR, CAPABILITY_MINOR = 18, 19, 75, 76
MULTIPROCESSORS = 16
SHARED_OF_BLOCK = 97  # where a kernel asks for more than the default 48 KiB


class DriverMemoryError(DeviceMemoryError):
    """What the library says when memory does not suffice, to which `Device.doing` adds numbers."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a GPU is.

    Attributes:
        index: of the device, as the driver counts.
        integrated: whether it shares the CPU's memory: what is mapped of it is the device's own.
        multiprocessors: how many it has.
        shared_bytes: shared memory that a block of threads may have at most.
        driver_version: the newest CUDA that the driver runs, "12.6".
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    integrated: bool
    multiprocessors: int
    shared_bytes: int
    driver_version: str

    @property
    def architecture(self) -> str:
        """``sm_87``, as compilers call it."""
        return "sm_{}{}".format(*self.compute_capability)

    @property
    def cuda_major(self) -> int:
        """12 of "12.6"."""
        return int(self.driver_version.partition(".")[0])


class Driver:
    """The library, started; made by `start_driver`."""

    def __init__(self, library: object) -> None:
        self._library = library
        self.call("cuInit", 0)

    def device_count(self) -> int:
        """Count the GPUs that this process sees."""
        return self._number("cuDeviceGetCount")

    def facts(self, index: int) -> DeviceFacts:
        """Ask what one GPU is."""
        device, version = self._number("cuDeviceGet", index), self._number("cuDriverGetVersion")
        name, size_bytes = ctypes.create_string_buffer(256), ctypes.c_size_t()
        self.call("cuDeviceGetName", name, len(name), device)
        self.call("cuDeviceTotalMem_v2", ctypes.byref(size_bytes), device)
        integrated, maps, major, minor, multiprocessors, shared = (
            self._number("cuDeviceGetAttribute", attribute, device)
            for attribute in (
                INTEGRATED,
                CAN_MAP_HOST_MEMORY,
                CAPABILITY_MAJOR,
                CAPABILITY_MINOR,
                MULTIPROCESSORS,
                SHARED_OF_BLOCK,
            )
        )
        return DeviceFacts(
            index=index,
            name=name.value.decode(errors="replace"),
            compute_capability=(major, minor),
            memory_bytes=size_bytes.value,
            integrated=bool(integrated and maps),
            multiprocessors=multiprocessors,
            shared_bytes=shared,
            driver_version=f"{version // 1000}.{version % 1000 // 10}",
        )

    def reset(self, index: int) -> None:
        """Take from a GPU all that this process has on it, whoever made it, and its error."""
        self.call("cuDevicePrimaryCtxReset_v2", self._number("cuDeviceGet", index))

    def _number(self, function: str, *arguments: object) -> int:
        number = ctypes.c_int()
        self.call(function, ctypes.byref(number), *arguments)
        return number.value

    def make(self, function: str, *arguments: object) -> ctypes.c_void_p:
        """Return the handle of what a function makes, which its first argument takes."""
        made = ctypes.c_void_p()
        self.call(function, ctypes.byref(made), *arguments)
        return made

    def call(self, function: str, *arguments: object) -> None:
        """Call a function by the name that the library exports, which has ``_v2`` and the like.
        Give handles as ``c_void_p``: ctypes would cut a plain int to 32 bits."""
        try:
            entry = getattr(self._library, function)
        except AttributeError as error:
            raise DeviceError(
                f"this NVIDIA driver has no {function}; install the driver of CUDA 12 or later"
            ) from error
        if code := entry(*arguments):
            name = self._name_of(code)
            kind = DriverMemoryError if name == OUT_OF_MEMORY else DeviceError
            raise kind(f"{function} failed: {name} ({code})")

    def _name_of(self, code: int) -> str:
        name = ctypes.c_char_p()
        # It works before cuInit, and leaves a null pointer for a code that it does not know.
        self._library.cuGetErrorName(code, ctypes.byref(name))  # type: ignore[attr-defined]
        return name.value.decode() if name.value else "CUDA error"


def start_driver(load: Callable[[str], object] = ctypes.CDLL) -> Driver | None:
    """Find the library and start it; None where there is none, for which ``load`` raises OSError.

    Raises:
        DeviceError: the driver does not start; the message has `NO_DEVICE` where it sees no GPU.
    """
    for name in ("nvcuda.dll",) if os.name == "nt" else ("libcuda.so.1", "libcuda.so"):
        with suppress(OSError):
            return Driver(load(name))
    return None
