"""One batch of a frame's tiles, from frame to frame, as a CUDA graph that serves every batch.

Addresses in a graph are fixed. What changes from batch to batch lies in tables, and a cursor on the
device says how far the frame has come; so one graph, launched once a batch, does a frame of any
size. A graph of the whole frame would grow with it: a 3840 x 2160 frame has 180 tiles of 256 x 256,
and MIRNet-v2 some 1900 layers.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Graph, Owner
from mirnet_edge.device.layouts import DeviceFrame, DeviceTiles
from mirnet_edge.device.tables import BatchTables
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.engines.protocol import DeviceEngine, DevicePooling, TileMemory
from mirnet_edge.errors import DeviceError, DeviceMemoryError, EngineError
from mirnet_edge.facts import NOISE_UNIT
from mirnet_edge.tiling.geometry import Cover

Work = Literal["plain", "apply", "gather", "sample"]
"""What is run on a batch: the engine as it is; with given pooled vectors; the same, gathering as
well; and gathering alone, which writes no frame."""
Frames = tuple[DeviceFrame, DeviceFrame]
"""From where to where."""
COLOURS = 3
CLOCK_WORDS = 8
PLANES_MULTIPLE = 4
PRE, ENGINE, POST = 1, 2, 3  # entries of the clock
# Behind these, so that they are set to zero at once, and come to the host in the clock's copy.
NONFINITE, CURSOR = 6, 7


@dataclass(frozen=True)
class Machine:
    """What all frames run on: the plain engine of three channels, with or without a plane of the
    noise level; its apply and gather engines, None where each tile pools for itself; the package's
    kernels; and how many times as high and wide as a frame its restored one is."""

    engine: DeviceEngine
    pooling: DevicePooling | None
    kernels: TileKernels
    scale: int = 1

    @property
    def tells_level(self) -> bool:
        """Whether the engine is told how noisy a frame is."""
        return self.engine.image.shape[1] > COLOURS

    @property
    def batch(self) -> int:
        """Tiles of one run of the engine."""
        return self.engine.image.shape[0]


class Scratch(Owner):
    """Memory that the batches of one kind of frame, of ``size`` (height, width), share: they run
    one after another. The blocks that ``rows`` batches gather are kept.

    Attributes:
        stream: that all of it is used on.
        clock: see `TileKernels.lap`; its last words are the two that follow.
        cursor, nonfinite: addresses, see `TileKernels.advance` and `TileKernels.store`.
        origins, kept: of the batch at hand.
        blocks: what each batch gathered, (rows, block_words) float32; None where nothing is.
        planes, planes_origin: of a frame that is enlarged, at its own size, from which its tiles
            are cut, as one tile, and the origin of that; None and 0 where none is.
        ring, ring_rows, ramp: where tiles wait for those that fade into them; None, 0 and 0 where
            tiles are cut.
        size_bytes: of all of it.
    """

    def __init__(self, machine: Machine, size: tuple[int, int], cover: Cover, rows: int) -> None:
        stream = machine.engine.stream
        super().__init__(stream.device)
        self.stream = stream
        self.size_bytes = 0
        self.blocks: DeviceBuffer | None = None
        self.planes: DeviceTiles | None = None
        self.ring: DeviceTiles | None = None
        self.planes_origin = self.ring_rows = self.ramp = 0
        batch = machine.batch
        with self._making():
            self.clock = self._buffer(8 * CLOCK_WORDS)
            self.nonfinite, self.cursor = (
                self.clock.address + 8 * word for word in (NONFINITE, CURSOR)
            )
            self.origins = self._buffer(8 * batch).address
            self.kept = self._buffer(16 * batch).address
            if machine.pooling is not None:
                self.blocks = self._buffer(4 * rows * machine.pooling.block_words)
            if machine.scale > 1:
                self._allocate_planes(machine.engine.image.dtype, *size)
            if cover.blend and len(cover) > 1:
                self._allocate_ring(machine.engine.restored, cover)

    def _allocate_planes(self, dtype: str, height: int, width: int) -> None:
        # Whole vectors for the kernel that loads them, and pairs for the one that enlarges them.
        shape = 1, COLOURS, height, -(-width // PLANES_MULTIPLE) * PLANES_MULTIPLE
        memory = self._buffer(math.prod(shape) * np.dtype(dtype).itemsize)
        self.planes = DeviceTiles(memory.address, shape, dtype)
        memory = self._buffer(8)
        memory.fill(0, stream=self.stream)
        self.planes_origin = memory.address

    def _allocate_ring(self, tiles: TileMemory, cover: Cover) -> None:
        # Tiles read back to their neighbour above left, columns + 1 tiles ago (blend_tiles.cu); in
        # whole batches, so that a batch is a row, and one row more for the batch at hand.
        batch, *shape = tiles.shape
        self.ring_rows = -(-(len(cover.columns) + 1) // batch) + 1
        memory = self._buffer(self.ring_rows * tiles.size_bytes)
        self.ring = DeviceTiles(memory.address, (self.ring_rows * batch, *shape), tiles.dtype)
        fading = next(span for span in (*cover.rows, *cover.columns) if span.fade_in)
        ramp = np.ascontiguousarray(fading.weights[: cover.blend])
        memory = self._buffer(ramp.nbytes)
        memory.upload(ramp, stream=self.stream)
        self.stream.synchronize()  # the copy reads the ramp, which goes with this call
        self.ramp = memory.address

    def _buffer(self, size_bytes: int) -> DeviceBuffer:
        self.size_bytes += size_bytes
        return self._own(DeviceBuffer(self.device, size_bytes))

    def rewind(self) -> None:
        """Queue the setting of the cursor to the first batch, and of what is counted to none."""
        self.clock.fill(0, stream=self.stream, start=8 * NONFINITE)

    def read_blocks(self, into: NDArray[np.float32]) -> None:
        """Queue the copy of what all batches gathered into a page-locked array."""
        if self.blocks is not None:
            self.blocks.download(into, stream=self.stream)


class BatchLoop(Owner):
    """Runs batches from one frame in device memory to another.

    Args:
        capture_frames: with the rest. Else the engine alone is captured, and ``frames`` may be
            set to others each time.
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
        self.frames, self._captures_frames = frames, capture_frames
        self._graphs: dict[Work, Graph | None] = {}
        self._opened()

    def prepare(self, work: Work, tables: BatchTables) -> None:
        """Run the first batch once, so that all it needs is loaded, and capture it. Waits. A frame,
        if there is one, has begun, and nothing of that changes."""
        if work in self._graphs:
            return
        stream = self._machine.engine.stream
        self._scratch.rewind()
        self._queue(work, tables)
        stream.synchronize()
        captured = self._queue if self._captures_frames else self._run_engine
        try:
            self._graphs[work] = self._own(Graph(stream, lambda: captured(work, tables)))
        except DeviceMemoryError:
            raise  # no reason to go without graphs for good: a smaller engine may fit
        except (DeviceError, EngineError) as error:
            self._graphs[work] = None
            logging.getLogger(__name__).info("frames run without CUDA graphs: %s", error)

    def begin(self, level: float | None = None) -> None:
        """Queue what a frame needs once, before its batches: the plane of its noise level, in units
        of 1/255, where it is told one; where it is enlarged, its planes at its own size, and the
        alpha of the restored frame. The time of these counts as that of cutting tiles."""
        machine, scratch, (source, target) = self._machine, self._scratch, self.frames
        kernels, stream = machine.kernels, machine.engine.stream
        if level is not None:
            # Beside the graphs, which stay as they are, and for each frame: the stream keeps frames
            # in flight apart, and what else runs the engine overwrites its input.
            kernels.fill_plane(machine.engine.image, level / NOISE_UNIT, stream=stream)
        if scratch.planes is not None:
            kernels.lap(scratch.clock.address, 0, stream=stream)
            kernels.load(source, scratch.planes_origin, scratch.planes, stream=stream)
            if source.has_alpha:
                kernels.enlarge_alpha(source, target, machine.scale, stream=stream)
            kernels.lap(scratch.clock.address, PRE, stream=stream)

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
        source, target = self.frames
        kernels, stream, batch = machine.kernels, machine.engine.stream, machine.batch
        cursor, rows = scratch.cursor, tables.rows
        kernels.lap(scratch.clock.address, 0, stream=stream)
        kernels.take_row(tables.origins, 2 * batch, cursor, rows, scratch.origins, stream=stream)
        kernels.take_row(tables.kept, 4 * batch, cursor, rows, scratch.kept, stream=stream)
        image, origins = machine.engine.image, scratch.origins
        if scratch.planes is None:
            kernels.load(source, origins, image, stream=stream)
        else:
            size, scale = (source.height, source.width), machine.scale
            kernels.enlarge(scratch.planes, size, origins, image, scale, stream=stream)
        kernels.lap(scratch.clock.address, PRE, stream=stream)
        if engine is None:
            self._run_engine(work, tables)
        else:
            engine.launch(stream)
        kernels.lap(scratch.clock.address, ENGINE, stream=stream)
        if work != "sample":
            self._store(tables, source, target)
        kernels.lap(scratch.clock.address, POST, stream=stream)
        kernels.advance(cursor, stream=stream)

    def _run_engine(self, work: Work, tables: BatchTables) -> None:
        machine, cursor = self._machine, self._scratch.cursor
        pooling, kernels, stream = machine.pooling, machine.kernels, machine.engine.stream
        if work == "plain" or pooling is None:
            machine.engine.enqueue()
            return
        if work == "apply":
            pooling.enqueue_apply()
            return
        rows, (batch, _, height, width) = tables.rows, machine.engine.image.shape
        sides = (
            (tables.row_weights, height, pooling.rows_address),
            (tables.column_weights, width, pooling.columns_address),
        )
        for table, side, address in sides:
            kernels.take_row(table, batch * side, cursor, rows, address, stream=stream)
        pooling.enqueue_gather()
        # The engine's block is the next batch's as well: each batch's is put by, for one copy to
        # the host at the end.
        if self._scratch.blocks is not None:
            words, blocks = pooling.block_words, self._scratch.blocks.address
            kernels.put_row(pooling.block_address, words, cursor, rows, blocks, stream=stream)

    def _store(self, tables: BatchTables, source: DeviceFrame, target: DeviceFrame) -> None:
        machine, scratch = self._machine, self._scratch
        kernels, stream, tiles = machine.kernels, machine.engine.stream, machine.engine.restored
        if scratch.ring is not None:
            words, cursor, rows = tiles.size_bytes // 4, scratch.cursor, scratch.ring_rows
            ring = scratch.ring.address
            kernels.put_row(tiles.address, words, cursor, rows, ring, stream=stream)
            kernels.blend(
                scratch.ring,
                tables.origins,
                tables.kept,
                cursor,
                machine.batch,
                self._columns,
                scratch.ramp,
                self._blend,
                stream=stream,
            )
            # Back to where the engine wrote: the store kernels know no cursor, so that one address
            # serves them in every batch.
            kernels.take_row(ring, words, cursor, rows, tiles.address, stream=stream)
        # That of an enlarged frame was written when it began, and stays.
        given = source if machine.scale == 1 else target
        alpha = given if given.has_alpha else None
        kernels.store(
            tiles,
            scratch.origins,
            scratch.kept,
            target,
            stream=stream,
            alpha=alpha,
            nonfinite=scratch.nonfinite,
        )
