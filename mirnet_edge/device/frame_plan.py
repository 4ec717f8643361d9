"""Everything that frames of one layout need, allocated once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack

from mirnet_edge.cuda import Owner
from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.batch_loop import BatchLoop, Machine, Scratch
from mirnet_edge.device.layouts import DeviceFrame
from mirnet_edge.device.slots import FrameSlot
from mirnet_edge.device.tables import BatchTables, places_of, places_of_samples
from mirnet_edge.pooled import Weights
from mirnet_edge.samples import Sample
from mirnet_edge.tiles import Cover

LOOPS_KEPT = 8
"""Pairs of frames in device memory whose graphs are kept: a camera's buffers come round again."""


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
        self._loops: OrderedDict[tuple[DeviceFrame, DeviceFrame], BatchLoop] = OrderedDict()
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

    @property
    def busy(self) -> bool:
        """Whether a frame is in flight."""
        return any(not slot.free for slot in self._slots)

    def take_slot(self) -> FrameSlot:
        """A slot that no frame uses; a new one where all are in use.

        Raises:
            DeviceError: not enough memory for another.
        """
        for slot in self._slots:
            if slot.free:
                slot.free = False
                return slot
        statistics = self._machine.statistics
        words = self._rows * statistics.block_words if statistics is not None else 0
        slot = FrameSlot(self.device, self.layout, words)
        slot.free = False
        self._slots.append(slot)
        return slot

    def loop(self, source: DeviceFrame, target: DeviceFrame) -> BatchLoop:
        """What runs batches between two frames; the last `LOOPS_KEPT` are kept."""
        key = source, target
        found = self._loops.get(key)
        if found is None:
            while len(self._loops) >= LOOPS_KEPT:
                self._machine.engine.stream.synchronize()
                self._loops.popitem(last=False)[1].close()
            found = self._loops[key] = BatchLoop(
                self._machine, self.scratch, self.cover, source, target
            )
        self._loops.move_to_end(key)
        return found

    def _release(self) -> None:
        self._machine.engine.stream.synchronize()
        for loop in self._loops.values():
            loop.close()
        for slot in self._slots:
            slot.close()
        self._owned.close()
