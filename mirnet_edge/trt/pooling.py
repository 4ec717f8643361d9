"""The device's engine given a frame's pooled vectors: the apply and the gather plan beside it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Event, MirroredBuffer, Owner, PinnedBuffer
from mirnet_edge.engines.card import BESIDE, EngineCard, kind_path
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError
from mirnet_edge.pooling.tensors import COLUMNS, OWN, ROWS, STATISTIC, gathered_partial
from mirnet_edge.pooling.vectors import Partial, Statistics, Weights
from mirnet_edge.trt.activations import ActivationMemory
from mirnet_edge.trt.batches import PlanRunner, TileBuffers
from mirnet_edge.trt.plan import LoadedPlan, read_plan
from mirnet_edge.trt.side_tensors import BlockLayout, keep_whole_tiles, side_shapes

# What engines of one network must agree in, so that one frame may pass through all of them.
SHARED = ("graph_sha256", "tile", "batch")


@dataclass(frozen=True)
class Sibling:
    """A plan beside a plain one, vouched for by its card and not loaded yet."""

    path: Path
    plan: bytes
    card: EngineCard


class TensorRTPooling(Owner):
    """Runs the apply and the gather plan of a network, a `StatisticsEngine`; made by
    ``TensorRTEngine.statistics``.

    `gather` and `apply` take and return arrays of the host, and wait. The rest works on device
    memory: it queues on the engine's stream, allocates nothing, waits for nothing, and is for one
    thread at a time. A batch is read from the engine's ``image`` and written to its ``restored``.

    Args:
        path, card: of the plain engine.
        tiles: of it, on the stream that all runs on.
        lock: held while `gather` and `apply` run.
        activations: shared with the plain engine; None makes memory for these two.
        graph: let `gather` and `apply` capture CUDA graphs, each when first called.

    Attributes:
        pools: of the network.
        batch: tiles of one run.
        plan_bytes: of both plans.
        rows_address, columns_address: device memory of the kept regions that `enqueue_gather`
            reads, (batch, H) and (batch, W) float32, as in `Weights`. The whole tile at first.
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
        activations: ActivationMemory | None,
        graph: bool,
    ) -> None:
        siblings = read_siblings(path, card)
        super().__init__(tiles.device)
        self.pools = siblings[0].card.pools
        self.plan_bytes = sum(len(sibling.plan) for sibling in siblings)
        self.batch = tiles.image.shape[0]
        self._lock, self._stream, self._tiles, self._graph = lock, tiles.stream, tiles, graph
        self._given: Statistics | None = None
        self._turn = 0
        with self._making(), lock:
            self._allocate()
            self._stage(None)
            self._regions.upload(stream=self._stream)
            self._apply, self._gather = self._load(siblings, activations)

    def _allocate(self) -> None:
        own, device = self._own, self.device
        given, regions, gathered = map(
            BlockLayout, side_shapes(self.pools, self._tiles.image.shape)
        )
        self._given_layout, self._regions_layout, self._block_layout = given, regions, gathered
        self._vectors = own(DeviceBuffer(device, 4 * given.words))
        # Two, in turn: the next vectors are written while the last are still copied.
        self._staged = [own(PinnedBuffer(device, (given.words,), np.float32)) for _ in "ab"]
        self._copied = [own(Event(device)) for _ in "ab"]
        for staged in self._staged:
            staged.array.fill(0)
        self._regions = own(MirroredBuffer(device, (regions.words,), np.float32))
        self._regions.array.fill(0)
        keep_whole_tiles(regions.views(self._regions.array))
        self.block_words = gathered.words
        self._block = own(MirroredBuffer(device, (gathered.words,), np.float32))
        self.block_address = self._block.address
        addresses = regions.addresses(self._regions.address)
        self.rows_address, self.columns_address = addresses[ROWS], addresses[COLUMNS]
        # Registered before anything is queued; the plans are loaded, and so closed, on top of it.
        self._owned.callback(self._stream.synchronize)

    def _load(
        self, siblings: Sequence[Sibling], activations: ActivationMemory | None
    ) -> list[PlanRunner]:
        own, stream = self._own, self._stream
        if activations is None:
            paths = (sibling.path for sibling in siblings)
            activations = own(ActivationMemory.for_engines(*paths, stream=stream))
        addresses = (
            self._given_layout.addresses(self._vectors.address)
            | self._regions_layout.addresses(self._regions.address)
            | self._block_layout.addresses(self.block_address)
        )
        runners = []
        for found in siblings:
            plan = own(LoadedPlan(found.path, found.plan, found.card, self.device, activations))
            check_tensors(plan, found.card, self._tiles)
            runners.append(own(PlanRunner(plan, self._tiles, addresses)))
        return runners

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
        """Queue one copy from the page-locked array that was used the longest ago."""
        self._turn = 1 - self._turn
        staged, copied = self._staged[self._turn], self._copied[self._turn]
        copied.synchronize()  # the copy before the last, which read the same array
        views = self._given_layout.views(staged.array)
        views[OWN][...] = statistics is None
        for index, vector in enumerate(statistics.vectors if statistics else ()):
            views[f"{STATISTIC}.{index}"][...] = vector
        self._vectors.upload(staged.array, stream=self._stream)
        copied.record(self._stream)
        self._given = statistics

    def enqueue_apply(self) -> None:
        """Queue one batch restored with what was given last; a caller may capture it. Where closed,
        or where TensorRT fails, an `EngineError` is raised."""
        self._require()
        self._apply.enqueue()

    def enqueue_gather(self) -> None:
        """Do as `enqueue_apply`, and gather from the kept regions at `rows_address` and
        `columns_address` into `block_address`."""
        self._require()
        self._gather.enqueue()

    def partials_of(self, block: NDArray[np.float32], areas: Sequence[int]) -> list[Partial]:
        """Read what the first tiles of a batch contribute.

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
        views = self._block_layout.views(block.copy())  # the next batch overwrites the caller's
        return [
            gathered_partial(
                {name: view[tile : tile + 1] for name, view in views.items()}, self.pools, area
            )
            for tile, area in enumerate(areas)
        ]

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """Do as `engines.protocol.StatisticsEngine.gather`; the tiles returned are valid until the
        same thread calls again.

        Raises:
            EngineError: closed, not one tile, other sizes than the engine's, or TensorRT failed.
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
        """Do as `engines.protocol.StatisticsEngine.apply`, any number of tiles; see `gather`."""
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


def read_siblings(plain: Path, card: EngineCard | None) -> list[Sibling]:
    """Read the plans beside ``plain``, whose card is ``card``, in the order of `BESIDE`.

    Raises:
        EngineError: one is missing, has no card, or is of another network, tile or batch.
    """
    command = f"mirnet-edge build {card.source if card else 'MODEL'} {plain} --statistics"
    paths = [kind_path(plain, kind) for kind in BESIDE]
    for path in paths:
        if not path.is_file():
            raise EngineError(
                f"{path}: no such file; statistics of the frame need it. Build it: {command}"
            )
    if card is None:
        raise EngineError(
            f"{plain} was loaded without its card, so nothing tells whether {paths[0].name} and "
            f"{paths[1].name} are of the same network. Build all three again: {command}"
        )
    siblings: list[Sibling] = []
    for kind, path in zip(BESIDE, paths):
        plan, found = read_plan(path, trust=False)
        assert found is not None  # only a plan that is trusted may lack it
        siblings.append(Sibling(path, plan, found))
        wanted = {"kind": kind, **{name: getattr(card, name) for name in SHARED}}
        differing = [
            f"{name} {getattr(found, name)!r}, not {value!r}"
            for name, value in wanted.items()
            if getattr(found, name) != value
        ]
        pools = siblings[0].card.pools
        if not found.pools or found.pools != pools:
            differing.append(f"{len(found.pools)} pools, and {paths[0].name} has {len(pools)}")
        if differing:
            raise EngineError(
                f"{path} does not belong to {plain.name}: its card says {'; '.join(differing)}. "
                f"Build all three again: {command}"
            )
    return siblings


def check_tensors(plan: LoadedPlan, card: EngineCard, tiles: TileBuffers) -> None:
    """Check that a plan takes and gives what its card and the plain engine say.

    Raises:
        EngineError: it does not.
    """
    expected, regions, gathered = side_shapes(card.pools, tiles.image.shape)
    if card.kind == "gather":
        expected |= regions | gathered
    else:
        del expected[OWN]
    found = {facts.name: facts.shape for facts in (*plan.inputs[1:], *plan.outputs[1:])}
    images = [(facts.shape, facts.dtype) for facts in (plan.inputs[0], plan.outputs[0])]
    wanted = [(side.shape, side.dtype) for side in (tiles.image, tiles.restored)]
    if images != wanted or found != expected:
        odd = sorted(set(found.items()) ^ set(expected.items()))
        raise EngineError(
            f"{plan.path}: takes and gives images {images}, the plain engine {wanted}; side "
            f"tensors that it lacks or has too many of: {odd or 'none'}. Build all three engines "
            "again, with --statistics"
        )
