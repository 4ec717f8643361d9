"""Frames of the host in page-locked memory, which the device copies without a second copy by the
CPU: those that a caller fills and reads, and results."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mirnet_edge.cuda import Device, Owner, PinnedBuffer
from mirnet_edge.errors import DeviceError, FrameError
from mirnet_edge.frame_path import FrameBuffers

RESULTS_LENT = 6
"""Results in page-locked memory that callers may hold at a time. What they gather beyond, as in a
list, is ordinary memory: locked pages are taken from all programs of the machine."""
LARGEST_BYTES = 1 << 28


def page_locked_buffers(
    device: Device, shape: tuple[int, ...], restored: tuple[int, ...], dtype: DTypeLike
) -> FrameBuffers:
    """A frame to fill, and one to read; see `FrameBuffers`."""
    try:
        both = [PinnedBuffer(device, side, dtype) for side in (shape, restored)]
    except (TypeError, ValueError) as error:
        raise FrameError(f"buffers of shape {shape}, {dtype!r}: {error}") from error
    frame, out = (np.asarray(_Lent(memory, PinnedBuffer.close)) for memory in both)
    for array in (frame, out):
        array.fill(0)
    return FrameBuffers(frame, out)


class _Lent:
    """Memory that an array refers to as its base; given back when no view is left."""

    def __init__(self, memory: PinnedBuffer, give_back: Callable[[PinnedBuffer], None]) -> None:
        self._memory, self._give_back = memory, give_back
        # Held as well: whoever closes the memory frees it with the last array of it.
        self._array = memory.array
        self.__array_interface__ = self._array.__array_interface__

    def __del__(self) -> None:
        # Nobody could catch an error. The memory, where this is the last to hold it, goes inside
        # the context, as the driver wants it.
        with suppress(Exception), self._memory.device.current():
            self._give_back(self._memory)
            del self._array


class HostResults(Owner):
    """Lends page-locked arrays for results, and takes back those that nobody refers to any more."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._free: list[PinnedBuffer] = []
        self._made = 0  # those that are free and those that are lent
        self._opened()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of arbitrary contents; of ordinary memory where enough is lent."""
        item = np.dtype(dtype)
        size_bytes = int(np.prod(shape)) * item.itemsize
        lent = self._made - len(self._free)
        if lent >= RESULTS_LENT or not 0 < size_bytes <= LARGEST_BYTES:
            return np.empty(shape, item)
        memory = self._memory(shape, item)
        if memory is None:
            return np.empty(shape, item)
        return np.asarray(_Lent(memory, self._take_back))

    def _memory(self, shape: tuple[int, ...], item: np.dtype[Any]) -> PinnedBuffer | None:
        """Some that is there, or new; None where the machine has none to lock."""
        while self._free:
            memory = self._free.pop()
            if (memory.array.shape, memory.array.dtype) == (shape, item):
                return memory
            memory.close()  # of another kind of frame: frames whose size changes would hoard it
            self._made -= 1
        try:
            memory = PinnedBuffer(self.device, shape, item)
        except DeviceError:
            return None
        self._made += 1
        return memory

    def _take_back(self, memory: PinnedBuffer) -> None:
        # In any thread, at any time: an append is whole, and nothing is counted here. A result may
        # outlive its Restorer: nobody would lend its memory again.
        if self._closed:
            memory.close()
        else:
            self._free.append(memory)

    def _release(self) -> None:
        while self._free:
            self._free.pop().close()
