"""What runs a plan on one batch of tiles."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from mirnet_edge.cuda import Graph, Owner
from mirnet_edge.engines.tile_buffers import TileBuffers
from mirnet_edge.errors import DeviceError, DeviceMemoryError, EngineError
from mirnet_edge.trt.plan import LoadedPlan


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
