"""An engine of the device given a frame's pooled vectors: memory for what is given and gathered,
around what runs a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Event, Owner, PinnedBuffer
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.engines.side_tensors import BlockLayout, TensorBlock, side_shapes
from mirnet_edge.engines.tile_buffers import TileBuffers
from mirnet_edge.errors import EngineError
from mirnet_edge.pooling.tensors import COLUMNS, OWN, ROWS, STATISTIC, gathered_partial
from mirnet_edge.pooling.vectors import Partial, Pool, Statistics, Weights


class BatchRunner(Protocol):
    """Queues one batch of tiles."""

    def enqueue(self) -> None:
        """Queue it, kernel by kernel, so that a caller may capture it."""

    def capture(self) -> str:
        """Keep a graph of it, where that is possible; say why there is none. Tries once."""

    def launch(self) -> None:
        """Queue it: the graph, where one was captured."""


class PooledBatches(Owner):
    """Restores batches with given pooled vectors, a `StatisticsEngine`; a subclass makes what runs
    them, `_apply` and `_gather`, inside `_making`.

    `gather` and `apply` take and return arrays of the host, and wait. The rest works on device
    memory: it queues on the engine's stream, allocates nothing, waits for nothing, and is for one
    thread at a time. A batch is read from the engine's ``image`` and written to its ``restored``.

    Args:
        pools: of the network.
        tiles: of it, with the stream that all runs on and the lock that `gather` and `apply` hold.
        graph: let `gather` and `apply` capture CUDA graphs, each when first called.

    Attributes:
        rows_address, columns_address: as of `engines.protocol.DevicePooling`, the whole tile at
            first.
    """

    _apply: BatchRunner
    _gather: BatchRunner

    def __init__(self, pools: tuple[Pool, ...], tiles: TileBuffers, *, graph: bool) -> None:
        super().__init__(tiles.device)
        self.pools, self.batch = pools, tiles.image.shape[0]
        self._lock, self._stream, self._tiles, self._graph = tiles.lock, tiles.stream, tiles, graph
        self._given: Statistics | None = None
        self._turn = 0

    def _prepare(self) -> dict[str, int]:
        """Make the memory, inside `_making`, and return the address of each side tensor."""
        self._allocate()
        self._stage(None)
        self._regions.upload(stream=self._stream)
        vectors = self._layout.addresses(self._vectors.address)
        return vectors | self._regions.addresses | self._block.addresses

    def _allocate(self) -> None:
        own, device = self._own, self.device
        self._shapes = given, regions, gathered = side_shapes(self.pools, self._tiles.image.shape)
        self._layout = BlockLayout(given)
        words = self._layout.words
        self._vectors = own(DeviceBuffer(device, 4 * words))
        # Two, in turn: the next vectors are written while the last are still copied.
        self._staged = [own(PinnedBuffer(device, (words,), np.float32)) for _ in "ab"]
        self._copied = [own(Event(device)) for _ in "ab"]
        for staged in self._staged:
            staged.array.fill(0)
        self._regions = own(TensorBlock(device, regions))
        addresses = self._regions.addresses
        self.rows_address, self.columns_address = addresses[ROWS], addresses[COLUMNS]
        self._block = own(TensorBlock(device, gathered))
        self.block_address, self.block_words = self._block.address, self._block.layout.words
        # Registered before anything is queued; what runs it is made, and so closed, on top of it.
        self._owned.callback(self._stream.synchronize)

    def give(self, statistics: Statistics | None) -> None:
        """Queue the copy of the vectors that all batches queued later are restored with. None is
        for `enqueue_gather` alone: each tile its own.

        May wait for the copy of the call before the last, and is not to be captured.
        """
        self._require()
        if statistics is not None:
            shapes = [vector.shape for vector in statistics.vectors]
            expected = [(1, pool.channels, 1, 1) for pool in self.pools]
            if shapes != expected:
                raise EngineError(
                    f"statistics of {len(shapes)} vectors {shapes}, but the engine's "
                    f"{len(expected)} pools take {expected}; gather them with this engine"
                )
        if statistics is not self._given:
            self._stage(statistics)

    def _stage(self, statistics: Statistics | None) -> None:
        """Queue one copy from the page-locked array that was used the longest ago."""
        self._turn = 1 - self._turn
        staged, copied = self._staged[self._turn], self._copied[self._turn]
        copied.synchronize()  # the copy before the last, which read the same array
        views = self._layout.views(staged.array)
        views[OWN][...] = statistics is None
        for index, vector in enumerate(statistics.vectors if statistics else ()):
            views[f"{STATISTIC}.{index}"][...] = vector
        self._vectors.upload(staged.array, stream=self._stream)
        copied.record(self._stream)
        self._given = statistics

    def enqueue_apply(self) -> None:
        """Queue one batch restored with what was given last; a caller may capture it."""
        self._require()
        self._apply.enqueue()

    def enqueue_gather(self) -> None:
        """Do as `enqueue_apply`, and gather from the kept regions into the block."""
        self._require()
        self._gather.enqueue()

    def partials_of(self, block: NDArray[np.float32], areas: Sequence[int]) -> list[Partial]:
        """Read what the first tiles of a batch contribute: of (`block_words`,) float32, a copy of
        what was at `block_address`, and the area of the kept region of each, in pixels."""
        if block.shape != (self.block_words,) or len(areas) > self.batch:
            raise EngineError(
                f"partials of {len(areas)} tiles from a block of shape {block.shape}; need at most "
                f"{self.batch} tiles and a block of shape ({self.block_words},)"
            )
        views = self._block.layout.views(block.copy())  # the next batch overwrites the caller's
        partials = []
        for tile, area in enumerate(areas):
            gathered = {name: view[tile : tile + 1] for name, view in views.items()}
            partials.append(gathered_partial(gathered, self.pools, area))
        return partials

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """Do as `engines.protocol.StatisticsEngine.gather`; the tiles returned are valid until the
        same thread calls again."""
        _, _, height, width = self._tiles.image.shape
        sides = (region.rows.shape, region.columns.shape)
        if len(tiles) != 1 or sides != ((1, 1, height, 1), (1, 1, 1, width)):
            raise EngineError(
                f"gathering from {len(tiles)} tiles with weights of shapes {sides}; need one tile "
                f"and weights of (1, 1, {height}, 1) and (1, 1, 1, {width})"
            )
        with self._lock:
            self.give(statistics)
            self._stream.synchronize()  # an integrated GPU may still be reading the regions
            views = self._regions.views()
            views[ROWS][...], views[COLUMNS][...] = region.rows, region.columns
            self._regions.upload(stream=self._stream)
            restored = self._tiles.run(tiles, self._launch_gather)
            return restored, self.partials_of(self._block.array, [region.area])[0]

    def _launch_gather(self) -> None:
        self._launch(self._gather)
        self._block.download(stream=self._stream)

    def apply(self, tiles: Tiles, statistics: Statistics) -> Tiles:
        """Do as `engines.protocol.StatisticsEngine.apply`, any number of tiles; see `gather`."""
        with self._lock:
            self.give(statistics)
            return self._tiles.run(tiles, lambda: self._launch(self._apply))

    def _launch(self, runner: BatchRunner) -> None:
        if self._graph:
            runner.capture()
        runner.launch()

    def _require(self) -> None:
        if self._closed:
            raise EngineError("the engine of these statistics is closed; open it again")
