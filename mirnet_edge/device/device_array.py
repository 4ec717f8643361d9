"""A result that stays on the GPU, for any library to take over."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mirnet_edge.device.dlpack import CPU, CUDA, capsule_of
from mirnet_edge.errors import FrameError

Download = Callable[[int, NDArray[Any]], None]
"""Fill a C-contiguous host array from an address of the device, and return when that is done."""
Order = Callable[[int], None]
"""Let the CUDA stream of this handle wait until the array holds its result."""


class Memory(Protocol):
    """What an array lies in; `mirnet_edge.cuda.memory.DeviceBuffer` is one."""

    @property
    def address(self) -> int:
        """Of its first byte."""

    def close(self) -> None:
        """Give it back."""


class DeviceArray:
    """A C-contiguous array in memory of a GPU, which ``torch.from_dlpack``, ``cupy.asarray`` and
    all that know ``__cuda_array_interface__`` or DLPack take without a copy.

    Owned memory is given back when the array is closed or gone and no DLPack consumer holds it any
    more. Users of ``__cuda_array_interface__`` hold the array itself, so do not close it for them.

    Args:
        memory: has an address, and is closed; large enough.
        shape, dtype: of the array, which begins at the memory's address.
        download: for `copy_to_host`.
        owned: whether to close the memory. If not, it must outlive all users.
        stream: handle of the stream that still writes the array; None if it is whole.
        order: called with the handle of a DLPack consumer's stream; None if the array is whole.
        kind, index: the device as DLPack numbers it: 2 for CUDA, and the number of the GPU.

    Attributes:
        shape, dtype: as given.
        size_bytes: of the array.

    Raises:
        FrameError: a stream without an order for it.
    """

    _lease: _Lease | None = None

    def __init__(
        self,
        memory: Memory,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        download: Download,
        *,
        owned: bool = True,
        stream: int | None = None,
        order: Order | None = None,
        kind: int = CUDA,
        index: int = 0,
    ) -> None:
        if (stream is None) != (order is None):
            raise FrameError(f"stream={stream}, order={order}: give both, or neither")
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.size_bytes = math.prod(self.shape) * self.dtype.itemsize
        self._download, self._stream, self._order = download, stream, order
        self._kind, self._index = kind, index
        self._lease = _Lease(memory, owned)

    @property
    def address(self) -> int:
        """Of the first element.

        Raises:
            FrameError: the array is closed.
        """
        return self._open().memory.address

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3."""
        if self._kind == CPU:
            raise AttributeError("memory of the host has no __cuda_array_interface__")
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": self._stream,
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
    ) -> Any:
        """A DLPack capsule, "dltensor".

        Args:
            stream: of the consumer, made to wait for the result; None for the default stream, -1
                for none.
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
        if self._order is not None and stream != -1:
            self._order(1 if stream is None else stream)
        return capsule_of(
            lease.memory.address, self.shape, self.dtype, self._kind, self._index, lease
        )

    def copy_to_host(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The array as numpy's, once it is whole.

        Args:
            out: filled and returned; C-contiguous. None allocates.

        Raises:
            FrameError: ``out`` is of another shape, dtype or layout, or the array is closed.
        """
        if out is None:
            out = np.empty(self.shape, self.dtype)
        flags = out.flags
        if (out.shape, out.dtype) != (self.shape, self.dtype) or not (
            flags.c_contiguous and flags.writeable
        ):
            raise FrameError(
                f"out is {out.dtype} {out.shape}, strides {out.strides}; need a writable, "
                f"C-contiguous {self.dtype} {self.shape}"
            )
        self._download(self.address, out)
        return out

    def close(self) -> None:
        """Let go of the memory. A second call does nothing."""
        self._lease = None

    def _open(self) -> _Lease:
        if self._lease is None:
            raise FrameError("this DeviceArray is closed; restore the frame again")
        return self._lease

    def __enter__(self) -> DeviceArray:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Lease:
    """Closes owned memory when the array and the capsules made of it have all let go."""

    def __init__(self, memory: Memory, owned: bool) -> None:
        self.memory, self._owned = memory, owned

    def __del__(self) -> None:
        if self._owned:
            with suppress(Exception):  # nobody could catch it
                self.memory.close()
