"""Results that stay on the device, in memory that comes round again."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from mirnet_edge.cuda import Device, DeviceBuffer, Owner, Stream
from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.device_array import DeviceArray, Lease
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
        """An array for one frame, which ``stream`` will write. That waits for what is queued on
        the default stream, where who held the memory before may still read it."""
        # Memory of another size is freed, not kept: frames whose size changes would hoard it.
        while self._free and self._free[-1].size_bytes != layout.size_bytes:
            self._free.pop().close()
        if self._free:
            memory = self._free.pop()
            stream.wait_for_handle(LEGACY_STREAM)
        else:
            memory = DeviceBuffer(self.device, layout.size_bytes)

        def download(array: NDArray[Any]) -> None:
            # Of its own: an array may be read after its Restorer was closed, with its streams.
            with Stream(self.device) as stream:
                memory.download(array, stream=stream)
                stream.synchronize()

        lease = Lease(memory.address, lambda: self._give_back(memory))
        index = self.device.facts.index
        return DeviceArray(lease, layout.shape, layout.dtype, download, index=index)

    def _give_back(self, memory: DeviceBuffer) -> None:
        # A result may outlive its Restorer: nobody would give its memory out again.
        if self._closed or len(self._free) >= RESULTS_KEPT:
            memory.close()
        else:
            self._free.append(memory)

    def _release(self) -> None:
        while self._free:
            self._free.pop().close()
