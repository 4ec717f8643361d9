"""One batch of a frame's tiles, from frame to frame, as a CUDA graph that serves every batch.

Addresses in a graph are fixed. What changes from batch to batch lies in tables, and a cursor on the
device says how far the frame has come; so one graph, launched once a batch, does a frame of any
size. A graph of the whole frame would grow with it: a 3840 x 2160 frame has 180 tiles of 256 x 256,
and MIRNet-v2 some 1900 layers.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Graph, Owner
from mirnet_edge.device.layouts import DeviceFrame, DeviceTiles
from mirnet_edge.device.slots import CLOCK_WORDS
from mirnet_edge.device.tables import BatchTables
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.errors import DeviceError, DeviceMemoryError, EngineError, MissingDependencyError
from mirnet_edge.tiling.geometry import Cover
from mirnet_edge.trt.engine import TensorRTEngine
from mirnet_edge.trt.pooling import TensorRTPooling

Work = Literal["plain", "apply", "gather", "sample"]
"""What is run on a batch: the engine as it is; with given statistics; the same, gathering as well;
and gathering alone, which writes no frame."""
Frames = tuple[DeviceFrame, DeviceFrame]
"""From where to where."""
CLOCK_BYTES = 8 * CLOCK_WORDS
PRE, ENGINE, POST = 1, 2, 3  # entries of the clock


@dataclass(frozen=True)
class Machine:
    """What all frames run on.

    Attributes:
        engine: the plain one.
        statistics: its apply and gather engines, None where tiles have their own statistics.
        kernels: of the package.
        image, restored: the engine's memory of a batch.
    """

    engine: TensorRTEngine
    statistics: TensorRTPooling | None
    kernels: TileKernels
    image: DeviceTiles
    restored: DeviceTiles


class Scratch(Owner):
    """Memory that the batches of one kind of frame share: they run one after another.

    Args:
        machine: runs them.
        cover: the tiles of a frame.
        rows: batches of which the gathered blocks are kept.

    Attributes:
        stream: that all of it is used on.
        clock, cursor: addresses.
        origins, kept: of the batch at hand.
        blocks: what each batch gathered, (rows, block_words) float32; None where nothing is.
        ring, ring_rows, ramp: where tiles wait for those that fade into them; None, 0 and 0 where
            tiles are cut.
        size_bytes: of all of it.

    Raises:
        DeviceError: not enough memory.
    """

    def __init__(self, machine: Machine, cover: Cover, rows: int) -> None:
        stream = machine.engine.stream
        super().__init__(stream.device)
        self.stream = stream
        self.size_bytes = 0
        self._owned = ExitStack()
        self._opened()
        try:
            self._allocate(machine, cover, rows)
        except Exception:
            self.close()
            raise

    def _allocate(self, machine: Machine, cover: Cover, rows: int) -> None:
        batch = machine.image.count
        self._clock, self._cursor = self._buffer(CLOCK_BYTES), self._buffer(4)
        self.clock, self.cursor = self._clock.address, self._cursor.address
        self.origins = self._buffer(8 * batch).address
        self.kept = self._buffer(16 * batch).address
        self.blocks: DeviceBuffer | None = None
        if machine.statistics is not None:
            self.blocks = self._buffer(4 * rows * machine.statistics.block_words)
        self.ring: DeviceTiles | None = None
        self.ring_rows = self.ramp = 0
        if cover.blend and len(cover) > 1:
            self._allocate_ring(machine, cover)

    def _allocate_ring(self, machine: Machine, cover: Cover) -> None:
        tiles = machine.restored
        columns = len(cover.columns)
        self.ring_rows = -(-(columns + 1) // tiles.count) + 1
        self.ring = DeviceTiles(
            self._buffer(self.ring_rows * tiles.size_bytes).address,
            self.ring_rows * tiles.count,
            *(tiles.channels, tiles.height, tiles.width, tiles.dtype),
        )
        fading = next(span for span in (*cover.rows, *cover.columns) if span.fade_in)
        ramp = np.ascontiguousarray(fading.weights[: cover.blend])
        memory = self._buffer(ramp.nbytes)
        memory.upload(ramp, stream=self.stream)
        self.stream.synchronize()
        self.ramp = memory.address

    def _buffer(self, size_bytes: int) -> DeviceBuffer:
        self.size_bytes += size_bytes
        return self._owned.enter_context(DeviceBuffer(self.device, size_bytes))

    def rewind(self) -> None:
        """Queue: the cursor to the first batch."""
        self._cursor.fill(0, stream=self.stream)

    def start_clock(self) -> None:
        """Queue: the clock to zero."""
        self._clock.fill(0, stream=self.stream)

    def read_clock(self, into: NDArray[np.uint64]) -> None:
        """Queue the copy of the clock into a page-locked array."""
        self._clock.download(into, stream=self.stream)

    def read_blocks(self, into: NDArray[np.float32]) -> None:
        """Queue the copy of what all batches gathered into a page-locked array."""
        if self.blocks is not None:
            self.blocks.download(into, stream=self.stream)

    def synchronize(self) -> None:
        """Wait for all that is queued."""
        self.stream.synchronize()

    def _release(self) -> None:
        self._owned.close()


class BatchLoop(Owner):
    """Runs batches from one frame in device memory to another.

    Args:
        machine: runs them.
        scratch: of this kind of frame.
        cover: the tiles of a frame.
        frames: source and target.
        capture_frames: with the rest. Else the engine alone is captured, and `between` may name
            other frames each time.

    Attributes:
        note: why there are no CUDA graphs; "" while there are.
    """

    def __init__(
        self,
        machine: Machine,
        scratch: Scratch,
        cover: Cover,
        frames: Frames,
        capture_frames: bool,
    ) -> None:
        super().__init__(scratch.device)
        self._machine, self._scratch = machine, scratch
        self._columns, self._blend = len(cover.columns), cover.blend
        self._frames, self._captures_frames = frames, capture_frames
        self._graphs: dict[Work, Graph | None] = {}
        self.note = ""
        self._opened()

    def between(self, frames: Frames) -> BatchLoop:
        """This loop, from now on between these frames."""
        self._frames = frames
        return self

    def prepare(self, work: Work, tables: BatchTables) -> None:
        """Run the first batch once, so that all it needs is loaded, and capture it. Waits.

        Raises:
            DeviceMemoryError: there is not enough memory for the graph.
        """
        if work in self._graphs:
            return
        stream = self._machine.engine.stream
        self._scratch.rewind()
        self._queue(work, tables)
        stream.synchronize()
        captured = self._queue if self._captures_frames else self._run_engine
        try:
            self._graphs[work] = Graph(stream, lambda: captured(work, tables))
        except DeviceMemoryError:
            raise
        except (MissingDependencyError, DeviceError, EngineError) as error:
            self._graphs[work] = None
            self.note = str(error)
            logging.getLogger(__name__).info("frames run without CUDA graphs: %s", error)

    def launch(self, work: Work, tables: BatchTables) -> None:
        """Queue the batch at the cursor, and advance it; `prepare` comes first."""
        graph = self._graphs[work]
        if graph is None or not self._captures_frames:
            self._queue(work, tables, graph)
        else:
            graph.launch(self._machine.engine.stream)

    def _queue(self, work: Work, tables: BatchTables, engine: Graph | None = None) -> None:
        """Kernel by kernel; the engine as a graph where there is one."""
        machine, scratch = self._machine, self._scratch
        source, target = self._frames
        kernels, stream, batch = machine.kernels, machine.engine.stream, machine.image.count
        cursor, rows = scratch.cursor, tables.rows
        kernels.lap(scratch.clock, 0, stream=stream)
        kernels.take_row(tables.origins, 2 * batch, cursor, rows, scratch.origins, stream=stream)
        kernels.take_row(tables.kept, 4 * batch, cursor, rows, scratch.kept, stream=stream)
        kernels.load(source, scratch.origins, machine.image, stream=stream)
        kernels.lap(scratch.clock, PRE, stream=stream)
        if engine is None:
            self._run_engine(work, tables)
        else:
            engine.launch(stream)
        kernels.lap(scratch.clock, ENGINE, stream=stream)
        if work != "sample":
            self._store(tables, source, target)
        kernels.lap(scratch.clock, POST, stream=stream)
        kernels.advance(cursor, stream=stream)

    def _run_engine(self, work: Work, tables: BatchTables) -> None:
        machine, scratch = self._machine, self._scratch
        statistics, kernels, stream = machine.statistics, machine.kernels, machine.engine.stream
        if work == "plain" or statistics is None:
            machine.engine.enqueue()
            return
        if work == "apply":
            statistics.enqueue_apply()
            return
        cursor, tiles = scratch.cursor, machine.image
        for table, side, given in (
            (tables.row_weights, tiles.height, statistics.rows_address),
            (tables.column_weights, tiles.width, statistics.columns_address),
        ):
            kernels.take_row(table, tiles.count * side, cursor, tables.rows, given, stream=stream)
        statistics.enqueue_gather()
        if scratch.blocks is not None:
            kernels.put_row(
                *(statistics.block_address, statistics.block_words, cursor, tables.rows),
                scratch.blocks.address,
                stream=stream,
            )

    def _store(self, tables: BatchTables, source: DeviceFrame, target: DeviceFrame) -> None:
        machine, scratch = self._machine, self._scratch
        kernels, stream, tiles = machine.kernels, machine.engine.stream, machine.restored
        if scratch.ring is not None:
            words, cursor, rows = tiles.size_bytes // 4, scratch.cursor, scratch.ring_rows
            ring = scratch.ring.address
            kernels.put_row(tiles.address, words, cursor, rows, ring, stream=stream)
            kernels.blend(
                *(scratch.ring, tables.origins, tables.kept, cursor, tiles.count),
                *(self._columns, scratch.ramp, self._blend),
                stream=stream,
            )
            kernels.take_row(ring, words, cursor, rows, tiles.address, stream=stream)
        alpha = source if source.layout in ("rgba", "bgra") else None
        kernels.store(tiles, scratch.origins, scratch.kept, target, stream=stream, alpha=alpha)

    def _release(self) -> None:
        with ExitStack() as last:
            for graph in self._graphs.values():
                if graph is not None:
                    last.callback(graph.close)
