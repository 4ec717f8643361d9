"""Results that stay on the device, in memory that comes round again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from mirnet_edge.cuda import Device, DeviceBuffer, Owner, Stream
from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.device_array import DeviceArray
from mirnet_edge.device.foreign import LEGACY_STREAM

RESULTS_KEPT = 8


class Results(Owner):
    """Gives out memory for results, and takes back what nobody holds any more: the same addresses
    come round, and with them the graphs that were captured for them. `RESULTS_KEPT` at most wait to
    be given out again."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._free: list[DeviceBuffer] = []
        self._opened()

    def take(self, layout: ArrayLayout, *, stream: Stream) -> DeviceArray:
        """An array for one frame.

        Args:
            stream: that will write it. It waits for what is queued on the default stream, where who
                held the memory before may still read it.

        Raises:
            DeviceError: not enough memory.
        """
        memory = None
        while self._free and memory is None:
            memory = self._free.pop()
            if memory.size_bytes != layout.size_bytes:
                memory.close()
                memory = None
        if memory is None:
            memory = DeviceBuffer(self.device, layout.size_bytes)
        else:
            stream.wait_for_handle(LEGACY_STREAM)

        def download(_: int, array: NDArray[Any]) -> None:
            with Stream(self.device) as stream:
                memory.download(array, stream=stream)
                stream.synchronize()

        lease = _Lease(memory, self.give_back)
        index = self.device.facts.index
        return DeviceArray(lease, layout.shape, layout.dtype, download, index=index)

    def give_back(self, memory: DeviceBuffer) -> None:
        """Take memory back that nobody holds any more."""
        if self._closed or len(self._free) >= RESULTS_KEPT:
            memory.close()
        else:
            self._free.append(memory)

    def _release(self) -> None:
        while self._free:
            self._free.pop().close()


class _Lease:
    """Memory that goes back to where it was taken from."""

    def __init__(self, memory: DeviceBuffer, give_back: Callable[[DeviceBuffer], None]) -> None:
        self._memory, self._give_back = memory, give_back

    @property
    def address(self) -> int:
        """Of the memory."""
        return self._memory.address

    def close(self) -> None:
        """Give it back."""
        self._give_back(self._memory)
