"""The device's engine given a frame's statistics: the apply and the gather plan beside it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Event, MirroredBuffer, Owner, PinnedBuffer, Stream
from mirnet_edge.engines.card import EngineCard
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError
from mirnet_edge.pooling.tensors import COLUMNS, GATHERED, LOG_MASS, OWN, ROWS, STATISTIC
from mirnet_edge.pooling.vectors import Partial, Statistics, Weights
from mirnet_edge.trt.activations import ActivationMemory
from mirnet_edge.trt.blocks import BlockLayout
from mirnet_edge.trt.plan import LoadedPlan
from mirnet_edge.trt.runner import PlanRunner
from mirnet_edge.trt.siblings import KINDS, Siblings, check_tensors, read_siblings, side_shapes
from mirnet_edge.trt.tile_buffers import TileBuffers


class TensorRTStatistics(Owner):
    """Runs the apply and the gather plan of a network (see
    `engines.protocol.StatisticsEngine`); made by ``TensorRTEngine.statistics``.

    `gather` and `apply` take and return arrays of the host, and wait. The rest works on device
    memory: it queues on the engine's stream, allocates nothing, waits for nothing, and is for one
    thread at a time. A batch is read from the engine's ``image`` and written to its ``restored``.

    Args:
        path, card: of the plain engine.
        tiles: of it.
        lock: held while `gather` and `apply` run.
        stream: to run on.
        activations: shared with the plain engine; None makes memory for these two.
        graph: let `gather` and `apply` capture CUDA graphs, each when first called.

    Attributes:
        pools: of the network.
        batch: tiles of one run.
        plan_bytes: of both plans.
        rows_address, columns_address: device memory of the kept regions that `enqueue_gather`
            reads, (batch, H) and (batch, W) float32: weights as in `pooling.vectors.Weights`. The
            whole tile at first.
        block_address, block_words: device memory of all that `enqueue_gather` returns of a batch,
            float32; `partials_of` reads a copy.

    Raises:
        EngineError: a plan is missing, or of another network, tile or batch.
        DeviceError: not enough memory.
    """

    def __init__(
        self,
        path: Path,
        card: EngineCard | None,
        tiles: TileBuffers,
        *,
        lock: threading.RLock,
        stream: Stream,
        activations: ActivationMemory | None,
        graph: bool,
    ) -> None:
        plans = read_siblings(path, card)
        super().__init__(stream.device)
        self.pools = plans.pools
        self.plan_bytes = sum(map(len, plans.plans))
        self.batch = tiles.image.shape[0]
        self._lock, self._stream, self._tiles, self._graph = lock, stream, tiles, graph
        self._owned = ExitStack()
        self._opened()
        try:
            with lock:
                self._allocate(tiles)
                self._load(plans, activations)
        except Exception:
            self.close()
            raise

    def _allocate(self, tiles: TileBuffers) -> None:
        own, device = self._owned, self.device
        given, regions, gathered = side_shapes(self.pools, tiles.image.shape)
        self._statistics_layout = BlockLayout(given)
        self._regions_layout, self._block_layout = BlockLayout(regions), BlockLayout(gathered)
        words = self._statistics_layout.words
        self._vectors = own.enter_context(DeviceBuffer(device, 4 * words))
        self._staged = [own.enter_context(PinnedBuffer(device, (words,), np.float32)) for _ in "ab"]
        self._copied = [own.enter_context(Event(device)) for _ in "ab"]
        self._turn = 0
        for staged in self._staged:
            staged.array.fill(0)
        self._given: Statistics | None = None
        self._stage(None)
        self._regions = own.enter_context(
            MirroredBuffer(device, (self._regions_layout.words,), np.float32)
        )
        self._regions.array.fill(0)
        for view in self._regions_layout.views(self._regions.array).values():
            view[...] = len(view) / view.size
        self._regions.upload(stream=self._stream)
        self.block_words = self._block_layout.words
        self._block = own.enter_context(MirroredBuffer(device, (self.block_words,), np.float32))
        self.block_address = self._block.address
        addresses = self._regions_layout.addresses(self._regions.address)
        self.rows_address, self.columns_address = addresses[ROWS], addresses[COLUMNS]

    def _load(self, plans: Siblings, activations: ActivationMemory | None) -> None:
        own = self._owned
        if activations is None:
            activations = own.enter_context(
                ActivationMemory.for_engines(*plans.paths, stream=self._stream)
            )
        addresses = (
            self._statistics_layout.addresses(self._vectors.address)
            | self._regions_layout.addresses(self._regions.address)
            | self._block_layout.addresses(self.block_address)
        )
        runners = []
        for kind, path, data, card in zip(KINDS, plans.paths, plans.plans, plans.cards):
            plan = own.enter_context(LoadedPlan(path, data, card, self.device, activations))
            check_tensors(plan, kind, self.pools, self._tiles)
            images = {
                plan.inputs[0].name: self._tiles.image.address,
                plan.outputs[0].name: self._tiles.restored.address,
            }
            runners.append(
                own.enter_context(PlanRunner(plan, images | addresses, stream=self._stream))
            )
        self._apply, self._gather = runners

    def give(self, statistics: Statistics | None) -> None:
        """Queue the copy of the vectors that all batches queued later are restored with. None is
        for `enqueue_gather` alone: each tile its own.

        May wait for the copy of the call before the last, and is not to be captured.

        Raises:
            EngineError: closed, or the vectors are not those of `pools`.
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
        """One copy from the page-locked array that was used the longest ago."""
        self._turn = 1 - self._turn
        staged, copied = self._staged[self._turn], self._copied[self._turn]
        copied.synchronize()
        views = self._statistics_layout.views(staged.array)
        views[OWN][...] = statistics is None
        for index, vector in enumerate(statistics.vectors if statistics else ()):
            views[f"{STATISTIC}.{index}"][...] = vector
        self._vectors.upload(staged.array, stream=self._stream)
        copied.record(self._stream)
        self._given = statistics

    def enqueue_apply(self) -> None:
        """Queue one batch restored with what was given last; a caller may capture it.

        Raises:
            EngineError: closed, or TensorRT failed.
        """
        self._require()
        self._apply.enqueue()

    def enqueue_gather(self) -> None:
        """Queue one batch restored with what was given last, and gathered from the kept regions at
        `rows_address` and `columns_address` into `block_address`; a caller may capture it.

        Raises:
            EngineError: closed, or TensorRT failed.
        """
        self._require()
        self._gather.enqueue()

    def partials_of(self, block: NDArray[np.float32], areas: Sequence[int]) -> list[Partial]:
        """What the first tiles of a batch contribute.

        Args:
            block: (`block_words`,) float32, a copy of what was at `block_address`.
            areas: of the kept region of each tile, in pixels.

        Raises:
            EngineError: a block of another size, or more tiles than a batch has.
        """
        if block.shape != (self.block_words,) or len(areas) > self.batch:
            raise EngineError(
                f"partials of {len(areas)} tiles from a block of shape {block.shape}; need at most "
                f"{self.batch} tiles and a block of shape ({self.block_words},)"
            )
        views = self._block_layout.views(block)
        indices = range(len(self.pools))
        return [
            Partial(
                tuple(views[f"{GATHERED}.{index}"][tile : tile + 1].copy() for index in indices),
                tuple(
                    float(views[f"{LOG_MASS}.{index}"][tile].item())
                    if pool.kind == "softmax"
                    else 0.0
                    for index, pool in enumerate(self.pools)
                ),
                area,
            )
            for tile, area in enumerate(areas)
        ]

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """As `engines.protocol.StatisticsEngine.gather`; the tiles returned are valid until the
        same thread calls again.

        Raises:
            EngineError: closed, not one tile, a tile, region or vectors of other sizes than the
                engine's, or TensorRT failed.
            DeviceError: the GPU failed.
        """
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
            views = self._regions_layout.views(self._regions.array)
            views[ROWS][...], views[COLUMNS][...] = region.rows, region.columns
            self._regions.upload(stream=self._stream)
            restored = self._tiles.run(tiles, self._launch_gather)
            return restored, self.partials_of(self._block.array, [region.area])[0]

    def _launch_gather(self) -> None:
        self._launch(self._gather)
        self._block.download(stream=self._stream)

    def apply(self, tiles: Tiles, statistics: Statistics) -> Tiles:
        """As `engines.protocol.StatisticsEngine.apply`, any number of tiles; the result is valid
        until the same thread calls again.

        Raises:
            EngineError: closed, tiles or vectors of other sizes than the engine's, or TensorRT
                failed.
            DeviceError: the GPU failed.
        """
        with self._lock:
            self.give(statistics)
            return self._tiles.run(tiles, lambda: self._launch(self._apply))

    def _launch(self, runner: PlanRunner) -> None:
        if self._graph:
            runner.capture()
        runner.launch()

    def _require(self) -> None:
        if self._closed:
            raise EngineError("the engine of these statistics is closed; open it again")

    def _release(self) -> None:
        with self._owned:
            self._stream.synchronize()
