"""Work of fixed shapes on a GPU, launched as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mirnet_edge.errors import first_line

WARM_UP_CALLS = 3
"""Made one operation at a time, in which libraries choose algorithms and take their workspaces."""


class Captured:
    """Calls a function without arguments and result, which works on tensors that stay in place;
    after a few calls it is recorded, and from then on replayed by one launch instead of hundreds.

    Where it cannot be recorded (it waits for the device, say), it is called as before.

    Args:
        stream: the current stream of all calls; None never records.
        generator: of the random numbers that the function draws.
        on_failure: called with the reason before the function is called instead.
    """

    def __init__(
        self,
        function: Callable[[], None],
        stream: torch.cuda.Stream | None,
        generator: torch.Generator | None = None,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self._function, self._stream = function, stream
        self._generator, self._on_failure = generator, on_failure
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Call or replay the function."""
        if self._stream is not None and self._graph is None and self._calls >= WARM_UP_CALLS:
            self._record(self._stream)
        if self._graph is None:
            self._calls += 1
            self._function()
        else:
            self._graph.replay()

    def _record(self, stream: torch.cuda.Stream) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            if self._generator is not None:
                graph.register_generator_state(self._generator)
            # Of this thread alone: others, as NCCL's, may ask the driver meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._function()
        except RuntimeError as error:
            self._stream = None
            torch.cuda.synchronize()
            if self._on_failure:
                self._on_failure(first_line(error))
        else:
            self._graph = graph
