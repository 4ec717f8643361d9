"""Everything that frames of one layout need, allocated once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mirnet_edge.cuda import Device, Event, MirroredBuffer, Owner, PinnedBuffer
from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.batch_loop import CLOCK_WORDS, BatchLoop, Frames, Machine, Scratch, Work
from mirnet_edge.device.tables import BatchTables
from mirnet_edge.pooling.samples import Sample
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.tiling.geometry import Cover

LOOPS_KEPT = 8
"""Pairs of frames in device memory that have a graph of their own: a camera's buffers come round
again. Pairs beyond share one of the engine alone, and cost some launches more a batch."""
SLOTS = 2
"""Frames in flight at most: the copies of one beside the engine on another."""


class FrameSlot(Owner):
    """Memory for one frame in flight; its parts are made once and used by one frame after another.

    Attributes:
        source, target: the frame and the restored frame, of ``layout`` and ``target_layout``.
        source_frame, target_frame: the device's side of them, for the kernels.
        clock: (8,) uint64, what the kernels' clock said at the frame's end, in nanoseconds, and
            what they counted.
        gathered: (block_words,) float32, all that a frame gathers; None where nothing is.
        started, uploaded, begun, gathering, computed, downloaded: marks in the streams.
    """

    def __init__(
        self, device: Device, layout: ArrayLayout, target_layout: ArrayLayout, block_words: int
    ) -> None:
        super().__init__(device)
        self.free = True
        with self._making():
            own = self._own
            self.source = own(MirroredBuffer(device, layout.shape, layout.dtype))
            self.target = own(MirroredBuffer(device, target_layout.shape, target_layout.dtype))
            self.clock = own(PinnedBuffer(device, (CLOCK_WORDS,), np.uint64))
            self.gathered = (
                own(PinnedBuffer(device, (block_words,), np.float32)) if block_words else None
            )
            self.started, self.uploaded, self.begun = (own(Event(device)) for _ in "abc")
            self.gathering, self.computed, self.downloaded = (own(Event(device)) for _ in "abc")
        self.source_frame = layout.frame_at(self.source.address)
        self.target_frame = target_layout.frame_at(self.target.address)


class FramePlan(Owner):
    """Tables, memory and graphs for frames of one layout.

    Args:
        cover: of the restored frame, by tiles of one size.
        regions: what counts of each tile in the means over the frame; empty where none are taken.
        samples: sample tiles; empty where none are run.

    Attributes:
        layout, target_layout: of a frame and its restored one.
        tiles, samples: tables of the frame's tiles, and of sample tiles where some are run.
        scratch: shared by all frames.
        size_bytes: of device memory, but for the frames.
    """

    def __init__(
        self,
        machine: Machine,
        layout: ArrayLayout,
        cover: Cover,
        regions: Sequence[Weights],
        samples: Sequence[Sample],
    ) -> None:
        stream = machine.engine.stream
        super().__init__(stream.device)
        self.layout, self.cover = layout, cover
        self.target_layout = layout.enlarged(machine.scale)
        self._machine = machine
        self._slots: list[FrameSlot] = []
        self._loops: dict[Frames | None, BatchLoop] = {}
        batch = machine.batch
        with self._making():
            self.tiles = self._own(BatchTables.of_frame(cover, regions, batch, stream=stream))
            self.samples = self.tiles
            if samples:
                self.samples = self._own(BatchTables.of_samples(samples, batch, stream=stream))
            # Sample tiles are gathered into the same memory before the frame's: the larger counts.
            self._rows = max(self.tiles.rows, self.samples.rows)
            size = layout.height, layout.width
            self.scratch = self._own(Scratch(machine, size, cover, self._rows))
        tables_bytes = sum(table.size_bytes for table in {self.tiles, self.samples})
        self.size_bytes = self.scratch.size_bytes + tables_bytes

    @property
    def busy(self) -> bool:
        """Whether a frame is in flight."""
        return any(not slot.free for slot in self._slots)

    def take_slot(self) -> FrameSlot | None:
        """A slot that no frame uses; None where all `SLOTS` are in use."""
        slot = next((slot for slot in self._slots if slot.free), None)
        if slot is None and len(self._slots) < SLOTS:
            slot = self._make_slot()
        if slot is not None:
            slot.free = False
        return slot

    def _make_slot(self) -> FrameSlot:
        pooling = self._machine.pooling
        words = self._rows * pooling.block_words if pooling is not None else 0
        slot = self._own(FrameSlot(self.device, self.layout, self.target_layout, words))
        self._slots.append(slot)
        return slot

    def reserve(self) -> None:
        """Make all that frames of the host need now: slots, kernels and graphs."""
        while len(self._slots) < SLOTS:
            self._make_slot()
        for slot in self._slots:
            loop = self.loop((slot.source_frame, slot.target_frame))
            loop.begin(0.0 if self._machine.tells_level else None)
            for work, tables in self._works():
                loop.prepare(work, tables)

    def _works(self) -> list[tuple[Work, BatchTables]]:
        # A frame of one tile is its own mean: the plain engine does without gathering.
        if self._machine.pooling is None or len(self.cover) == 1:
            return [("plain", self.tiles)]
        return [("apply", self.tiles), ("gather", self.tiles), ("sample", self.samples)]

    def loop(self, frames: Frames) -> BatchLoop:
        """What runs batches between two frames."""
        own = frames in self._loops or len(self._loops) < LOOPS_KEPT
        key = frames if own else None
        if key not in self._loops:
            loop = BatchLoop(self._machine, self.scratch, self.cover, frames, own)
            self._loops[key] = self._own(loop)
        self._loops[key].frames = frames  # those that share a loop take turns
        return self._loops[key]

    def _release(self) -> None:
        # What still runs reads the tables and writes the slots, so it ends before they go; all of
        # them go even where waiting fails. A closed stream was waited for by its owner.
        with self._owned:
            if not self._machine.engine.stream.closed:
                self._machine.engine.stream.synchronize()
