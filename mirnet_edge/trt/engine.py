"""The device's engine: a TensorRT plan, run as a CUDA graph, without torch."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import Event, Graph, MirroredBuffer, Owner, Stream, open_device
from mirnet_edge.errors import DeviceError, EngineError, MissingDependencyError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.trt.plan import LoadedPlan, load_tensorrt, read_plan

WARM_UP_RUNS = 10


class TensorRTEngine(Owner):
    """Runs a plan that ``mirnet-edge build`` made on this machine.

    Everything is allocated here and nothing later, but for more tiles at once than `batch`. Several
    threads may call `run`; they wait for each other.

    Args:
        path: the plan, ``x.engine``, beside its card ``x.engine.json``.
        trust: load it without a card, or with that of another file. A plan is native code.
        stream: to run on; None makes one, on the first GPU.
        graph: capture a CUDA graph, where that is possible.

    Attributes:
        path: of the plan.
        card: that vouches for it, or None.
        facts: of the network; without a card, its channels alone.
        fixed_size: (height, width) of the tiles it takes.
        batch: tiles of one run of the engine.
        inputs, outputs: names, shapes, dtypes and layouts.
        activation_bytes: device memory of its execution context.
        graph: whether it is run as a CUDA graph.
        graph_note: why it is not, else "".

    Raises:
        EngineError: no such file, no card or another file's, a plan for another TensorRT or GPU.
        DeviceError: no driver, no GPU, or not enough memory.
        MissingDependencyError: TensorRT or pycuda is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        trust: bool = False,
        stream: Stream | None = None,
        graph: bool = True,
    ) -> None:
        self._lock = threading.RLock()
        self._kept = threading.local()
        self._graph: Graph | None = None
        self._owned = ExitStack()
        self.path = Path(path)
        plan, self.card = read_plan(self.path, trust)
        load_tensorrt()
        super().__init__(stream.device if stream else open_device())
        self._stream = stream or self._owned.enter_context(Stream(self.device))
        self._opened()
        try:
            self._plan = self._owned.enter_context(
                LoadedPlan(self.path, plan, self.card, self.device)
            )
            self._allocate()
            self._enqueue(self._plan.context)
            self._stream.synchronize()
            self.graph_note = self._capture() if graph else "not asked for"
        except Exception:
            self.close()
            raise
        self.graph = self._graph is not None

    def _allocate(self) -> None:
        self.inputs, self.outputs = self._plan.inputs, self._plan.outputs
        self.activation_bytes = self._plan.activation_bytes
        (taken,), (given,) = self.inputs, self.outputs
        self.batch = taken.shape[0]
        self.fixed_size = (taken.shape[2], taken.shape[3])
        self.facts = (
            self.card.facts
            if self.card
            else ModelFacts(in_channels=taken.shape[1], out_channels=given.shape[1])
        )
        self._input, self._output = (
            self._owned.enter_context(MirroredBuffer(self.device, facts.shape, facts.dtype))
            for facts in (taken, given)
        )
        self._input.array.fill(0)
        self._input.upload(stream=self._stream)
        self._set_addresses(self._plan.context)

    def _set_addresses(self, context: Any) -> None:
        (taken,), (given,) = self.inputs, self.outputs
        for facts, buffer in ((taken, self._input), (given, self._output)):
            if not context.set_tensor_address(facts.name, buffer.address):
                raise EngineError(f"{self.path}: TensorRT: {self._plan.log.cause()}")

    def _enqueue(self, context: Any) -> None:
        """Queue one batch, layer by layer."""
        self._plan.log.clear()
        with self.device.current():
            queued = context.execute_async_v3(self._stream.handle)
        if not queued:
            raise EngineError(
                f"{self.path}: TensorRT failed to run: {self._plan.log.cause()}. If it is the same "
                "after a restart, build the engine again"
            )

    def _capture(self) -> str:
        """Keep a graph of one batch; say why there is none."""
        try:
            self._graph = self._owned.enter_context(
                Graph(self._stream, lambda: self._enqueue(self._plan.context))
            )
        except (MissingDependencyError, DeviceError, EngineError) as error:
            logging.getLogger(__name__).info("%s runs without a CUDA graph: %s", self.path, error)
            return str(error)
        return ""

    def run(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C, H, W) float32 in [0, 1], any N from 1, to the same shape, not clamped.

        The result is valid until the same thread calls again.

        Raises:
            EngineError: closed, other tiles than it was built for, or TensorRT failed.
            DeviceError: the GPU failed.
        """
        taken, given = self.inputs[0].shape, self.outputs[0].shape
        if tiles.ndim != 4 or not len(tiles) or tiles.shape[1:] != taken[1:]:
            raise EngineError(
                f"{self.path.name}: tiles of shape {tiles.shape}, but it was built for (N, "
                f"{', '.join(map(str, taken[1:]))}) with N from 1; build one for that tile"
            )
        if tiles.dtype != np.float32:
            raise EngineError(f"{self.path.name}: tiles of {tiles.dtype}; need float32 in [0, 1]")
        result = self._result(len(tiles), given[1:])
        with self._lock:
            self._require_engine()
            with self.device.current():
                for first in range(0, len(tiles), self.batch):
                    self._run_batch(tiles[first : first + self.batch], result[first:])
        return result

    def _run_batch(self, tiles: NDArray[np.float32], result: NDArray[np.float32]) -> None:
        count = len(tiles)
        self._input.array[:count] = tiles
        self._input.array[count:] = 0
        self._input.upload(stream=self._stream)
        if self._graph is None:
            self._enqueue(self._plan.context)
        else:
            self._graph.launch(self._stream)
        self._output.download(stream=self._stream)
        self._stream.synchronize()
        result[:count] = self._output.array[:count]

    def _result(self, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array kept for each thread, so that none overwrites what another still reads."""
        if count > self.batch:
            return np.empty((count, *shape), np.float32)
        kept: NDArray[np.float32] | None = getattr(self._kept, "result", None)
        if kept is None:
            kept = self._kept.result = np.empty((self.batch, *shape), np.float32)
        return kept[:count]

    def _require_engine(self) -> None:
        if self._closed:
            raise EngineError("this engine is closed; open it again")

    def measure(self, runs: int = 100) -> tuple[list[float], list[float]]:
        """Time batches on the device, copies left out.

        Returns:
            (enqueue_ms, graph_ms): of each run, launched layer by layer, which counts gaps where
            the CPU is too slow, and as a CUDA graph (empty where there is none).
        """
        with self._lock:
            self._require_engine()
            graph = self._graph
            return (
                self._times(lambda: self._enqueue(self._plan.context), runs),
                self._times(lambda: graph.launch(self._stream), runs) if graph else [],
            )

    def _times(self, queue: Callable[[], None], runs: int) -> list[float]:
        times_ms = []
        with self.device.current(), Event(self.device) as start, Event(self.device) as end:
            for run in range(-WARM_UP_RUNS, runs):
                start.record(self._stream)
                queue()
                end.record(self._stream)
                end.synchronize()
                if run >= 0:
                    times_ms.append(end.elapsed_ms(start))
        return times_ms

    def layer_times(self, runs: int = 10) -> dict[str, float]:
        """Mean milliseconds of each layer by TensorRT's name for it, in the order they run.

        TensorRT times each layer by itself, so the sum exceeds the time of a run. While this goes
        on, a second execution context takes `activation_bytes` more.
        """
        with self._lock, self.device.current():
            self._require_engine()
            profiler = _make_profiler(self._plan.trt)
            context = self._plan.make_context()
            self._set_addresses(context)
            self._enqueue(context)
            self._stream.synchronize()
            context.profiler = profiler
            for _ in range(runs):
                self._enqueue(context)
                self._stream.synchronize()
            del context  # before the profiler, which it reports to
            return {name: total / runs for name, total in profiler.total_ms.items()}

    def close(self) -> None:
        """Wait for what runs, and free everything. A second call does nothing."""
        with self._lock:
            super().close()

    def _release(self) -> None:
        """Newest first; the plan's context, engine and runtime in TensorRT's order."""
        self._graph = None
        with self._owned:
            self._stream.synchronize()


def _make_profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.total_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.total_ms[layer_name] = self.total_ms.get(layer_name, 0.0) + ms

    return Profiler()
