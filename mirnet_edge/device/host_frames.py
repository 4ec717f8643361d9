"""Frames of the host in page-locked memory, which the device copies without a second copy by the
CPU: those that a caller fills and reads, and results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mirnet_edge.cuda import Device, LockedPages, Owner
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
        if device.facts.integrated:  # whose kernels read mapped memory, and that is another
            return FrameBuffers(np.zeros(shape, dtype), np.zeros(restored, dtype))
        both = [LockedPages(device, side, dtype) for side in (shape, restored)]
    except (TypeError, ValueError) as error:
        raise FrameError(f"buffers of shape {shape}, {dtype!r}: {error}") from error
    frame, out = (pages.lend(LockedPages.close) for pages in both)
    return FrameBuffers(frame, out)


class HostResults(Owner):
    """Lends page-locked arrays for results, and takes back those that nobody refers to any more."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._free: list[LockedPages] = []
        self._made = 0  # those that are free and those that are lent
        self._opened()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of arbitrary contents; of ordinary memory where enough is lent."""
        item = np.dtype(dtype)
        lent = self._made - len(self._free)
        if lent >= RESULTS_LENT or not 0 < math.prod(shape) * item.itemsize <= LARGEST_BYTES:
            return np.empty(shape, item)
        pages = self._pages(shape, item)
        return np.empty(shape, item) if pages is None else pages.lend(self._take_back)

    def _pages(self, shape: tuple[int, ...], item: np.dtype[Any]) -> LockedPages | None:
        """Some that are there, or new; None where the machine has none to lock."""
        while self._free:
            pages = self._free.pop()
            if (pages.array.shape, pages.array.dtype) == (shape, item):
                return pages
            pages.close()  # of another kind of frame: frames whose size changes would hoard it
            self._made -= 1
        try:
            pages = LockedPages(self.device, shape, item)
        except DeviceError:
            return None
        self._made += 1
        return pages

    def _take_back(self, pages: LockedPages) -> None:
        # In any thread, at any time: an append is whole, and nothing is counted here. A result may
        # outlive its Restorer: nobody would lend its memory again.
        if self._closed:
            pages.close()
        else:
            self._free.append(pages)

    def _release(self) -> None:
        while self._free:
            self._free.pop().close()
