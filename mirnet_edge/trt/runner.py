"""A loaded plan with memory for all its tensors: batches of it, queued or launched as a graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mirnet_edge.cuda import Graph, Owner, Stream
from mirnet_edge.errors import DeviceError, EngineError, MissingDependencyError
from mirnet_edge.trt.plan import LoadedPlan


class PlanRunner(Owner):
    """Queues batches of one plan on one stream. Makes it run once, and waits for that, so that
    what is queued later can be captured: nothing of it is loaded any more.

    Args:
        plan: outlives this.
        addresses: device memory of each of its tensors, by name.
        stream: to queue on.

    Raises:
        EngineError: TensorRT refuses an address or to run.
        DeviceError: the GPU failed.
    """

    def __init__(self, plan: LoadedPlan, addresses: Mapping[str, int], *, stream: Stream) -> None:
        super().__init__(plan.device)
        self._plan = plan
        self._addresses = addresses
        self._stream = stream
        self._graph: Graph | None = None
        self._note: str | None = None
        self.bind(plan.context)
        self.enqueue()
        stream.synchronize()
        self._opened()

    @property
    def captured(self) -> bool:
        """Whether there is a graph."""
        return self._graph is not None

    def bind(self, context: Any) -> None:
        """Give an execution context of the plan the addresses."""
        self._plan.bind(context, self._addresses)

    def enqueue(self, context: Any = None) -> None:
        """Queue one batch, layer by layer; nothing synchronizes. ``context`` is the plan's own, or
        another that was bound."""
        self._plan.enqueue(self._plan.context if context is None else context, self._stream)

    def capture(self) -> str:
        """Keep a graph of one batch, where that is possible; say why there is none. Tries once."""
        if self._note is None:
            self._note = ""
            try:
                self._graph = Graph(self._stream, self.enqueue)
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
        if self._graph is not None:
            self._graph.close()
