"""Everything that frames of one layout need, allocated once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from mirnet_edge.cuda import Owner
from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.batch_loop import BatchLoop, Frames, Machine, Scratch, Work
from mirnet_edge.device.slots import FrameSlot
from mirnet_edge.device.tables import BatchTables, places_of, places_of_samples
from mirnet_edge.pooling.samples import Sample
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.tiling.geometry import Cover

LOOPS_KEPT = 8
"""Pairs of frames in device memory that have a graph of their own: a camera's buffers come round
again. Pairs beyond share one of the engine alone, and cost some launches more a batch."""
SLOTS = 2
"""Frames in flight at most: the copies of one beside the engine on another."""


class FramePlan(Owner):
    """Tables, memory and graphs for frames of one layout.

    Args:
        machine: runs them.
        layout: of the frames.
        cover: their tiles.
        regions: what counts of each tile in the frame's statistics; None where none are gathered.
        samples: sample tiles; none where none are run.

    Attributes:
        layout, cover: as given.
        tiles, samples: tables of the frame's tiles and of the sample tiles, None where there are
            none.
        scratch: shared by all frames.
        size_bytes: of device memory, but for the frames.

    Raises:
        DeviceError: not enough memory.
    """

    def __init__(
        self,
        machine: Machine,
        layout: ArrayLayout,
        cover: Cover,
        regions: Sequence[Weights] | None,
        samples: Sequence[Sample],
    ) -> None:
        stream = machine.engine.stream
        super().__init__(stream.device)
        self.layout, self.cover = layout, cover
        self._machine = machine
        self._slots: list[FrameSlot] = []
        self._loops: dict[Frames | None, BatchLoop] = {}
        self._owned = ExitStack()
        self._opened()
        own, batch = self._owned.enter_context, machine.image.count
        try:
            self.tiles = own(BatchTables(places_of(cover, regions), batch, stream=stream))
            self.samples = (
                own(BatchTables(places_of_samples(samples), batch, stream=stream))
                if samples
                else None
            )
            self._rows = max(self.tiles.rows, self.samples.rows if self.samples else 0)
            self.scratch = own(Scratch(machine, cover, self._rows))
        except Exception:
            self.close()
            raise
        tables = [self.tiles, *([self.samples] if self.samples else [])]
        self.size_bytes = self.scratch.size_bytes + sum(table.size_bytes for table in tables)

    @property
    def busy(self) -> bool:
        """Whether a frame is in flight."""
        return any(not slot.free for slot in self._slots)

    def take_slot(self) -> FrameSlot | None:
        """A slot that no frame uses; None where all `SLOTS` are in use.

        Raises:
            DeviceMemoryError: not enough memory for another.
        """
        for slot in self._slots:
            if slot.free:
                slot.free = False
                return slot
        if len(self._slots) == SLOTS:
            return None
        slot = self._make_slot()
        slot.free = False
        return slot

    def _make_slot(self) -> FrameSlot:
        statistics = self._machine.statistics
        words = self._rows * statistics.block_words if statistics is not None else 0
        slot = FrameSlot(self.device, self.layout, words)
        self._slots.append(slot)
        return slot

    def reserve(self) -> None:
        """Make all that frames of the host need now: slots, kernels and graphs.

        Raises:
            DeviceError: not enough memory, or a kernel that does not compile.
        """
        while len(self._slots) < SLOTS:
            self._make_slot()
        for slot in self._slots:
            loop = self.loop((slot.source_frame, slot.target_frame))
            for work, tables in self._works():
                loop.prepare(work, tables)

    def _works(self) -> list[tuple[Work, BatchTables]]:
        if self._machine.statistics is None or len(self.cover) == 1:
            return [("plain", self.tiles)]
        sampled: list[tuple[Work, BatchTables]] = [("sample", self.samples)] if self.samples else []
        return [("apply", self.tiles), ("gather", self.tiles), *sampled]

    def loop(self, frames: Frames) -> BatchLoop:
        """What runs batches between two frames."""
        own = frames in self._loops or len(self._loops) < LOOPS_KEPT
        key = frames if own else None
        if key not in self._loops:
            self._loops[key] = BatchLoop(self._machine, self.scratch, self.cover, frames, own)
        return self._loops[key].between(frames)

    def _release(self) -> None:
        """All of it, whatever fails on the way; once nothing runs any more."""
        with ExitStack() as last:
            last.push(self._owned)
            for owner in (*self._slots, *self._loops.values()):
                last.callback(owner.close)
            stream = self._machine.engine.stream
            if not stream.closed:  # else its owner waited
                stream.synchronize()
