"""Batches of tiles: memory for them on the device and on the host, and what runs a plan on it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

import numpy as np

from mirnet_edge.cuda import Graph, MirroredBuffer, Owner, Stream
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import DeviceError, DeviceMemoryError, EngineError
from mirnet_edge.trt.plan import LoadedPlan


class TileBuffers(Owner):
    """One batch of tiles for a plan, zeros at first, and one of restored ones, both copied on
    ``stream``. Who queues work on them holds ``lock``."""

    def __init__(self, plan: LoadedPlan, stream: Stream, lock: threading.RLock) -> None:
        super().__init__(stream.device)
        self._name, self.stream, self.lock = plan.path.name, stream, lock
        taken, given = plan.inputs[0], plan.outputs[0]
        self._kept = threading.local()
        with self._making():
            self.image = self._own(MirroredBuffer(self.device, taken.shape, taken.dtype))
            self.restored = self._own(MirroredBuffer(self.device, given.shape, given.dtype))
            self._owned.callback(stream.synchronize)  # before both go: a copy may still be queued
            self.image.array.fill(0)
            self.image.upload(stream=stream)

    def run(self, tiles: Tiles, queue: Callable[[], None]) -> Tiles:
        """Restore (N, C, H, W) float32, any N from 1, batch by batch, and wait for it; ``queue``
        queues one batch. The result is valid until the same thread calls again."""
        batch, *size = self.image.shape
        if tiles.ndim != 4 or not len(tiles) or list(tiles.shape[1:]) != size:
            raise EngineError(
                f"{self._name}: tiles of shape {tiles.shape}, but it was built for (N, "
                f"{', '.join(map(str, size))}) with N from 1; build one for that tile"
            )
        if tiles.dtype != np.float32:
            raise EngineError(f"{self._name}: tiles of {tiles.dtype}; need float32 in [0, 1]")
        result = self._result(len(tiles))
        with self.device.current():
            self.stream.synchronize()  # an integrated GPU may still be using this very memory
            for first in range(0, len(tiles), batch):
                self._run_batch(tiles[first : first + batch], result[first:], queue)
        return result

    def _run_batch(self, tiles: Tiles, result: Tiles, queue: Callable[[], None]) -> None:
        count = len(tiles)
        self.image.array[:count] = tiles
        self.image.array[count:] = 0
        self.image.upload(stream=self.stream)
        queue()
        self.restored.download(stream=self.stream)
        self.stream.synchronize()
        result[:count] = self.restored.array[:count]

    def _result(self, count: int) -> Tiles:
        # Kept for each thread, so that none overwrites what another still reads.
        batch, *size = self.restored.shape
        if count > batch:
            return np.empty((count, *size), np.float32)
        kept: Tiles | None = getattr(self._kept, "result", None)
        if kept is None:
            kept = self._kept.result = np.empty((batch, *size), np.float32)
        return kept[:count]


class PlanRunner(Owner):
    """Queues batches of one plan on one stream. Makes it run once, and waits for that, so that
    what is queued later can be captured: nothing of it is loaded any more.

    Args:
        plan, tiles: outlive this.
        sides: device memory of its side tensors, by name.
        alone: in a `context` beside the plan's, which nothing else runs.
    """

    def __init__(
        self, plan: LoadedPlan, tiles: TileBuffers, sides: Mapping[str, int], alone: bool = False
    ) -> None:
        super().__init__(plan.device)
        self._plan, self._stream = plan, tiles.stream
        self._graph: Graph | None = None
        self._note: str | None = None
        taken, given = plan.inputs[0].name, plan.outputs[0].name
        addresses = {taken: tiles.image.address, given: tiles.restored.address, **sides}
        with self._making():
            self.context = plan.make_context() if alone else plan.context
            plan.log.errors.clear()
            for facts in (*plan.inputs, *plan.outputs):
                if not self.context.set_tensor_address(facts.name, addresses[facts.name]):
                    raise EngineError(f"{plan.path}: TensorRT: {plan.log.cause()}")
            self.enqueue()
            self._stream.synchronize()

    def enqueue(self) -> None:
        """Queue one batch, layer by layer; nothing synchronizes."""
        self._plan.log.errors.clear()
        with self.device.current():
            queued = self.context.execute_async_v3(self._stream.handle)
        if not queued:
            raise EngineError(
                f"{self._plan.path}: TensorRT failed to run: {self._plan.log.cause()}. If it is "
                "the same after a restart, build the engine again"
            )

    def capture(self) -> str:
        """Keep a graph of one batch, where that is possible; say why there is none. Tries once."""
        if self._note is None:
            try:
                self._graph = self._own(Graph(self._stream, self.enqueue))
                self._note = ""
            except DeviceMemoryError:
                raise  # no reason to go without for good: it may fit later, or a smaller engine
            except (DeviceError, EngineError) as error:
                self._note = str(error)
                logging.getLogger(__name__).info(
                    "%s runs without a CUDA graph: %s", self._plan.path, error
                )
        return self._note

    def launch(self) -> None:
        """Queue one batch: the graph, where one was captured."""
        if self._graph is None:
            self.enqueue()
        else:
            self._graph.launch(self._stream)

    def _release(self) -> None:
        # Waits first: what is queued reads the graph, the context, and memory that is freed next.
        # A device that is lost keeps none of them. TensorRT wants the context gone before the
        # engine, even where this object is kept.
        try:
            with self._owned:
                self._stream.synchronize()
        finally:
            self.context = None
