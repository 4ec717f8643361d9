"""What one frame needs while it is on its way: memory on both sides, and marks in the streams."""

from __future__ import annotations

import numpy as np

from mirnet_edge.cuda import Device, Event, MirroredBuffer, Owner, PinnedBuffer
from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.layouts import DeviceFrame

CLOCK_WORDS = 8


class FrameSlot(Owner):
    """Memory for one frame in flight; its parts are made once and used by one frame after another.

    Args:
        layout: of the frames.
        block_words: float32 values that a whole frame gathers; 0 for none.

    Attributes:
        source, target: the frame and the restored frame.
        source_frame, target_frame: the device's side of them, for the kernels.
        clock: (8,) uint64, what the kernels' clock said at the frame's end, in nanoseconds.
        gathered: (block_words,) float32, or None.
        started, uploaded, begun, gathering, computed, downloaded: marks in the streams.
        free: whether no frame uses it.

    Raises:
        DeviceError: not enough memory.
    """

    def __init__(self, device: Device, layout: ArrayLayout, block_words: int) -> None:
        super().__init__(device)
        self.free = True
        with self._making():
            own = self._own
            self.source = own(MirroredBuffer(device, layout.shape, layout.dtype))
            self.target = own(MirroredBuffer(device, layout.shape, layout.dtype))
            self.clock = own(PinnedBuffer(device, (CLOCK_WORDS,), np.uint64))
            self.gathered = (
                own(PinnedBuffer(device, (block_words,), np.float32)) if block_words else None
            )
            self.started, self.uploaded, self.begun = (own(Event(device)) for _ in "abc")
            self.gathering, self.computed, self.downloaded = (own(Event(device)) for _ in "abc")
        self.source_frame: DeviceFrame = layout.frame_at(self.source.address)
        self.target_frame: DeviceFrame = layout.frame_at(self.target.address)
