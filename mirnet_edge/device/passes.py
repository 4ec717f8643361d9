"""The tiles of a frame on the device, restored with pooled vectors as often as asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.device.batch_loop import BatchLoop, Work
from mirnet_edge.device.frame_plan import FramePlan, FrameSlot
from mirnet_edge.device.tables import BatchTables
from mirnet_edge.engines.protocol import DevicePooling
from mirnet_edge.errors import EngineError
from mirnet_edge.pooling.samples import Sample
from mirnet_edge.pooling.scene_cut import Grid
from mirnet_edge.pooling.vectors import Partial, Statistics, Weights


class DevicePasses:
    """One frame on its way (see `pooling.passes.TilePasses`), with passes and samples counted.
    Without ``pooling``, there is `run` alone."""

    def __init__(
        self,
        plan: FramePlan,
        slot: FrameSlot,
        loop: BatchLoop,
        pooling: DevicePooling | None,
        luma: Callable[[], Grid],
    ) -> None:
        self.cover, self.luma = plan.cover, luma
        self.passes = self.samples = 0
        self._plan, self._slot, self._loop = plan, slot, loop
        self._pooling = pooling

    @property
    def kind(self) -> Hashable:
        """The layout of the frame."""
        return self._plan.layout

    def __len__(self) -> int:
        return len(self.cover)

    def run(self) -> None:
        """Queue all tiles, each with its own means."""
        self._run(["plain"] * self._plan.tiles.rows, self._plan.tiles)
        self.passes += 1

    def sample(self, samples: Sequence[Sample], statistics: Statistics | None) -> list[Partial]:
        """Run the plan's sample tiles, and wait for what they contribute."""
        tables, scratch = self._plan.samples, self._plan.scratch
        pooling, gathered = self._gathering()
        pooling.give(statistics)
        self._run(["sample"] * tables.rows, tables)
        scratch.read_blocks(gathered)
        scratch.stream.synchronize()
        self.samples += len(samples)
        return list(self._partials(range(tables.tiles), tables).values())

    def restore(
        self, statistics: Statistics, regions: Mapping[int, Weights]
    ) -> Callable[[], Mapping[int, Partial]]:
        """Queue all tiles; batches that hold a tile with a region gather."""
        tables, scratch = self._plan.tiles, self._plan.scratch
        pooling, gathered = self._gathering()
        gathering = {index // pooling.batch for index in regions}
        pooling.give(statistics)
        self._run(["gather" if row in gathering else "apply" for row in range(tables.rows)], tables)
        self.passes += 1
        if gathering:
            scratch.read_blocks(gathered)
        # An event, not the stream: behind this frame the next one may be queued already.
        done = self._slot.gathering
        done.record(scratch.stream)

        def partials() -> Mapping[int, Partial]:
            done.synchronize()
            return self._partials(regions, tables)

        return partials

    def _run(self, batches: Sequence[Work], tables: BatchTables) -> None:
        # All are prepared before the first is launched: preparing runs a batch, and moves the
        # cursor that the launches count with.
        for work in dict.fromkeys(batches):
            self._loop.prepare(work, tables)
        self._plan.scratch.rewind()
        for work in batches:
            self._loop.launch(work, tables)

    def _partials(self, tiles: Iterable[int], tables: BatchTables) -> dict[int, Partial]:
        """What these tiles contribute, read from the blocks of their batches."""
        pooling, gathered = self._gathering()
        blocks = gathered.reshape(-1, pooling.block_words)
        wanted = list(tiles)
        found: dict[int, Partial] = {}
        for row in sorted({index // pooling.batch for index in wanted}):
            first = row * pooling.batch
            areas = tables.areas[first : first + pooling.batch]
            found.update(enumerate(pooling.partials_of(blocks[row], areas), first))
        return {index: found[index] for index in wanted}

    def _gathering(self) -> tuple[DevicePooling, NDArray[np.float32]]:
        """The engines that gather, and the slot's memory for it."""
        if self._pooling is None or self._slot.gathered is None:
            raise EngineError("pooled vectors without engines that gather; please report this")
        return self._pooling, self._slot.gathered.array
