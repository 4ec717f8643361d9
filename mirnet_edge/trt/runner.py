"""A loaded plan with memory for all its tensors: batches of it, queued or launched as a graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from mirnet_edge.cuda import Graph, Owner
from mirnet_edge.errors import DeviceError, EngineError, MissingDependencyError
from mirnet_edge.trt.plan import LoadedPlan
from mirnet_edge.trt.tile_buffers import TileBuffers


class PlanRunner(Owner):
    """Queues batches of one plan on one stream. Makes it run once, and waits for that, so that
    what is queued later can be captured: nothing of it is loaded any more.

    Args:
        plan, tiles: outlive this.
        sides: device memory of its side tensors, by name.
        own_context: make an execution context beside the plan's.

    Attributes:
        context: TensorRT's, which it runs.

    Raises:
        EngineError: TensorRT refuses an address or to run.
        DeviceError: the GPU failed, or its memory does not suffice for a context.
    """

    def __init__(
        self,
        plan: LoadedPlan,
        tiles: TileBuffers,
        sides: Mapping[str, int],
        own_context: bool = False,
    ) -> None:
        super().__init__(plan.device)
        self._plan, self._stream = plan, tiles.stream
        self._graph: Graph | None = None
        self._note: str | None = None
        taken, given = plan.inputs[0].name, plan.outputs[0].name
        addresses = {taken: tiles.image.address, given: tiles.restored.address, **sides}
        with self._making():
            # TensorRT wants a context gone before its engine, even where this object is kept.
            self._owned.callback(setattr, self, "context", None)
            self.context = plan.make_context() if own_context else plan.context
            plan.log.clear()
            for facts in (*plan.inputs, *plan.outputs):
                if not self.context.set_tensor_address(facts.name, addresses[facts.name]):
                    raise EngineError(f"{plan.path}: TensorRT: {plan.log.cause()}")
            self.enqueue()
            self._stream.synchronize()

    @property
    def captured(self) -> bool:
        """Whether there is a graph."""
        return self._graph is not None

    def enqueue(self) -> None:
        """Queue one batch, layer by layer; nothing synchronizes.

        Raises:
            EngineError: TensorRT fails.
        """
        self._plan.log.clear()
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
            self._note = ""
            try:
                self._graph = self._own(Graph(self._stream, self.enqueue))
            except (MissingDependencyError, DeviceError, EngineError) as error:
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
        # What is queued still reads the graph, the context and the memory of its owner, which is
        # freed next; a device that is lost keeps none of them.
        with self._owned:
            self._stream.synchronize()
