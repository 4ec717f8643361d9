"""Page-locked memory of the host, which the device copies from and to by itself: this package's,
and whether an array lies in some, whoever has locked it: PyTorch, CuPy, or a camera's library."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mirnet_edge.cuda.device import Device, Owner
from mirnet_edge.errors import DeviceError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

# CUpointer_attribute and CUmemorytype, from cuda.h.
MEMORY_TYPE, RANGE_START, RANGE_SIZE = 2, 11, 12
HOST = 1


class LockedPages(Owner):
    """An array of zeros in ordinary memory of the host, whose pages are locked until this is
    closed, or the device is lost. The array stays what it is then: callers may hold it for longer,
    where memory that the driver allocates (a `PinnedBuffer`) would be gone.

    Attributes:
        array: the memory.
    """

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        # Here, because doctor asks this package's driver where numpy may be what is missing.
        import numpy as np

        super().__init__(device)
        item = np.dtype(dtype)
        size_bytes = max(1, math.prod(shape) * item.itemsize)
        # Whole pages, which nothing else is in: none can be locked twice. They are shared with
        # processes that are forked, so that no write moves them away from what the device sees.
        pages = np.frombuffer(mmap.mmap(-1, size_bytes), np.uint8)
        self.array: NDArray[Any] = np.ndarray(shape, item, pages)
        address = ctypes.c_void_p(pages.ctypes.data)
        with self._making(), device.doing("locking pages of the host", size_bytes):
            device.library.call("cuMemHostRegister_v2", address, ctypes.c_size_t(size_bytes), 0)
            self._owned.callback(device.library.call, "cuMemHostUnregister", address)

    def lend(self, give_back: Callable[[LockedPages], None]) -> NDArray[Any]:
        """The array, for a caller; once no view of it is left, ``give_back`` is called."""
        import numpy as np

        return np.asarray(_Lent(self, give_back))


class _Lent:
    """Locked pages that an array refers to as its base."""

    def __init__(self, pages: LockedPages, give_back: Callable[[LockedPages], None]) -> None:
        self.pages, self._give_back = pages, give_back
        self.__array_interface__ = pages.array.__array_interface__

    def __del__(self) -> None:
        with suppress(Exception):  # nobody could catch it
            self._give_back(self.pages)


def is_page_locked(device: Device, array: NDArray[Any]) -> bool:
    """Whether all of an array without gaps lies in one piece of page-locked memory."""
    import numpy as np

    if not array.flags.c_contiguous or not array.nbytes:
        return False
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, _Lent):  # ours, about which the driver need not be asked
        return base.pages.device is device and not base.pages.closed
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
