"""Results that stay on the device, in memory that comes round again."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from mirnet_edge.cuda import Device, DeviceBuffer, Owner, Stream
from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.device_array import DeviceArray


class Results(Owner):
    """Gives out memory for results, and takes back what nobody holds any more: the same addresses
    come round, and with them the graphs that were captured for them."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._free: list[DeviceBuffer] = []
        self._opened()

    def take(self, layout: ArrayLayout) -> DeviceArray:
        """An array for one frame.

        Raises:
            DeviceError: not enough memory.
        """
        fitting = [memory for memory in self._free if memory.size_bytes == layout.size_bytes]
        if fitting:
            memory = fitting[0]
            self._free.remove(memory)
        else:
            memory = DeviceBuffer(self.device, layout.size_bytes)

        def download(_: int, array: NDArray[Any]) -> None:
            with Stream(self.device) as stream:
                memory.download(array, stream=stream)
                stream.synchronize()

        lease = _Lease(memory, self._free)
        index = self.device.facts.index
        return DeviceArray(lease, layout.shape, layout.dtype, download, index=index)

    def _release(self) -> None:
        while self._free:
            self._free.pop().close()


class _Lease:
    """Memory that goes back to where it was taken from."""

    def __init__(self, memory: DeviceBuffer, free: list[DeviceBuffer]) -> None:
        self._memory, self._free = memory, free

    @property
    def address(self) -> int:
        """Of the memory."""
        return self._memory.address

    def close(self) -> None:
        """Give it back."""
        self._free.append(self._memory)
