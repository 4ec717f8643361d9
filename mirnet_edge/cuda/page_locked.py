"""Whether memory of the host is page-locked, so that the device copies from and to it by itself,
whoever has locked it: this package, PyTorch, CuPy, or a camera's library."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from mirnet_edge.cuda.device import Device
from mirnet_edge.errors import DeviceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# CUpointer_attribute and CUmemorytype, from cuda.h.
MEMORY_TYPE, RANGE_START, RANGE_SIZE = 2, 11, 12
HOST = 1


def is_page_locked(device: Device, array: NDArray[Any]) -> bool:
    """Whether all of an array without gaps lies in one piece of page-locked memory."""
    if not array.flags.c_contiguous or not array.nbytes:
        return False
    address = ctypes.c_void_p(array.ctypes.data)
    kind, size = ctypes.c_uint(), ctypes.c_size_t()
    start = ctypes.c_void_p()
    try:
        with device.doing("asking whose memory an array is"):
            # An error where the driver does not know the memory, which is most of it.
            for value, what in ((kind, MEMORY_TYPE), (start, RANGE_START), (size, RANGE_SIZE)):
                device.library.call("cuPointerGetAttribute", ctypes.byref(value), what, address)
                if value is kind and kind.value != HOST:
                    return False
    except DeviceError:
        return False
    end = (start.value or 0) + size.value
    return (start.value or 0) <= array.ctypes.data and array.ctypes.data + array.nbytes <= end
