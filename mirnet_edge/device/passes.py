"""The tiles of a frame on the device, restored with statistics as often as asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import PinnedBuffer
from mirnet_edge.device.batch_loop import BatchLoop, Work
from mirnet_edge.device.frame_plan import FramePlan
from mirnet_edge.device.slots import FrameSlot
from mirnet_edge.device.tables import BatchTables
from mirnet_edge.errors import EngineError
from mirnet_edge.pooling.samples import Sample
from mirnet_edge.pooling.scene_cut import Grid
from mirnet_edge.pooling.vectors import Partial, Statistics, Weights
from mirnet_edge.trt.pooling import TensorRTPooling


class DevicePasses:
    """One frame on its way (see `pooling.passes.TilePasses`).

    Args:
        plan, slot, loop: of the frame.
        statistics: the apply and gather engines; None for `run` with the plain engine alone.
        luma: the frame's, when asked.

    Attributes:
        cover: the tiles.
        passes, samples: counted so far.
    """

    def __init__(
        self,
        plan: FramePlan,
        slot: FrameSlot,
        loop: BatchLoop,
        statistics: TensorRTPooling | None,
        luma: Callable[[], Grid],
    ) -> None:
        self.cover = plan.cover
        self.passes = self.samples = 0
        self._plan, self._slot, self._loop = plan, slot, loop
        self._engines = statistics
        self._luma = luma

    @property
    def kind(self) -> Hashable:
        """The layout of the frame."""
        return self._plan.layout

    def __len__(self) -> int:
        return len(self.cover)

    def luma(self) -> Grid:
        """Of the frame."""
        return self._luma()

    def run(self) -> None:
        """Queue all tiles, each with its own statistics."""
        self._run(["plain"] * self._plan.tiles.rows, self._plan.tiles)
        self.passes += 1

    def sample(self, samples: Sequence[Sample], statistics: Statistics | None) -> list[Partial]:
        """Run the plan's sample tiles, and wait for what they contribute."""
        tables = self._plan.samples
        if tables is None or tables.tiles != len(samples):
            raise EngineError(
                f"{len(samples)} sample tiles were asked for, and {tables.tiles if tables else 0} "
                "are prepared; please report this"
            )
        self._given.give(statistics)
        self._run(["sample"] * tables.rows, tables)
        self._plan.scratch.read_blocks(self._gathered.array)
        self._plan.scratch.synchronize()
        self.samples += len(samples)
        found = self._decoded(range(tables.tiles), tables)
        return [found[index] for index in range(tables.tiles)]

    def restore(
        self, statistics: Statistics, regions: Mapping[int, Weights]
    ) -> Callable[[], Mapping[int, Partial]]:
        """Queue all tiles; batches that hold a tile with a region gather."""
        tables, batch = self._plan.tiles, self._given.batch
        gathering = {index // batch for index in regions}
        self._given.give(statistics)
        self._run(["gather" if row in gathering else "apply" for row in range(tables.rows)], tables)
        self.passes += 1
        if gathering:
            self._plan.scratch.read_blocks(self._gathered.array)
        done = self._slot.gathering
        done.record(self._plan.scratch.stream)

        def gathered() -> Mapping[int, Partial]:
            done.synchronize()
            return self._decoded(regions, tables)

        return gathered

    def _run(self, batches: Sequence[Work], tables: BatchTables) -> None:
        for work in dict.fromkeys(batches):
            self._loop.prepare(work, tables)
        self._plan.scratch.rewind()
        for work in batches:
            self._loop.launch(work, tables)

    def _decoded(
        self, tiles: Sequence[int] | range | Mapping[int, Weights], tables: BatchTables
    ) -> dict[int, Partial]:
        engines = self._given
        blocks: NDArray[np.float32] = self._gathered.array.reshape(-1, engines.block_words)
        found: dict[int, Partial] = {}
        for row in sorted({index // engines.batch for index in tiles}):
            first = row * engines.batch
            areas = tables.areas[first : first + engines.batch]
            partials = engines.partials_of(blocks[row], areas)
            found.update({first + offset: partial for offset, partial in enumerate(partials)})
        return {index: found[index] for index in tiles}

    @property
    def _given(self) -> TensorRTPooling:
        if self._engines is None:
            raise EngineError("statistics without their engines; please report this")
        return self._engines

    @property
    def _gathered(self) -> PinnedBuffer:
        if self._slot.gathered is None:
            raise EngineError("statistics without memory for them; please report this")
        return self._slot.gathered
