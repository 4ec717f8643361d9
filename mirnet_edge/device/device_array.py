"""A result that stays on the GPU, for any library to take over."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mirnet_edge.device.dlpack import CUDA, capsule_of
from mirnet_edge.errors import FrameError


class Lease:
    """Memory of the device, given back when the array and the capsules made of it have all let go.

    Not `DeviceArray` itself: a capsule that held the array would keep it open after its `close`.
    """

    def __init__(self, address: int, give_back: Callable[[], None]) -> None:
        self.address, self._give_back = address, give_back

    def __del__(self) -> None:
        with suppress(Exception):  # nobody could catch it
            self._give_back()


class DeviceArray:
    """A C-contiguous array in memory of a GPU, which ``torch.from_dlpack``, ``cupy.asarray`` and
    all that know ``__cuda_array_interface__`` or DLPack take without a copy. It is whole: nothing
    that is still queued writes to it.

    The memory is given back when the array is closed or gone and no DLPack consumer holds it any
    more. Users of ``__cuda_array_interface__`` hold the array itself, so do not close it for them.

    Args:
        lease: of memory that is large enough.
        shape, dtype: of the array, which begins at the lease's address.
        download: fills a C-contiguous array of the host, and returns when that is done.
        index: the number of the GPU.

    Attributes:
        shape, dtype: as given.
        size_bytes: of the array.
    """

    _kind = CUDA
    _lease: Lease | None = None

    def __init__(
        self,
        lease: Lease,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        download: Callable[[NDArray[Any]], None],
        *,
        index: int = 0,
    ) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.size_bytes = math.prod(self.shape) * self.dtype.itemsize
        self._download, self._index = download, index
        self._lease = lease

    @property
    def address(self) -> int:
        """Of the first element.

        Raises:
            FrameError: the array is closed.
        """
        return self._open().address

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3."""
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,  # there is no work to wait for
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's type of the device, and its number."""
        return self._kind, self._index

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """Make a DLPack capsule, "dltensor".

        Args:
            stream: not looked at, as there is no work that the consumer's must wait for.
            max_version: not looked at; consumers of version 1.0 take what preceded it.
            dl_device, copy: this device and no copy, or None.

        Raises:
            BufferError: another device or a copy is asked for, as the protocol has it.
            FrameError: the array is closed.
        """
        if dl_device not in (None, self.__dlpack_device__()) or copy:
            raise BufferError(
                f"dl_device={dl_device}, copy={copy}: this array is on DLPack device "
                f"{self.__dlpack_device__()} and is shared, not copied; see copy_to_host()"
            )
        lease = self._open()
        return capsule_of(lease.address, self.shape, self.dtype, self._kind, self._index, lease)

    def copy_to_host(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy the array to one of numpy's.

        Args:
            out: filled and returned; C-contiguous. None allocates.

        Raises:
            FrameError: ``out`` is of another shape, dtype or layout, or the array is closed.
        """
        if out is None:
            out = np.empty(self.shape, self.dtype)
        fits = (out.shape, out.dtype) == (self.shape, self.dtype)
        if not (fits and out.flags.c_contiguous and out.flags.writeable):
            raise FrameError(
                f"out is {out.dtype} {out.shape}, strides {out.strides}; need a writable, "
                f"C-contiguous {self.dtype} {self.shape}"
            )
        self._open()
        self._download(out)
        return out

    def close(self) -> None:
        """Let go of the memory. A second call does nothing."""
        self._lease = None

    def _open(self) -> Lease:
        if self._lease is None:
            raise FrameError("this DeviceArray is closed; restore the frame again")
        return self._lease

    def __enter__(self) -> DeviceArray:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
