"""The device's engine: a TensorRT plan, run as a CUDA graph, without torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import Owner, Stream, open_device
from mirnet_edge.engines.card import BESIDE, DeviceBytes, kind_path
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.engines.side_tensors import TensorBlock
from mirnet_edge.engines.tile_buffers import TileBuffers
from mirnet_edge.engines.timing import batch_times_ms
from mirnet_edge.errors import EngineError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.pooling.tensors import OWN, STATISTIC
from mirnet_edge.trt.activations import ActivationMemory
from mirnet_edge.trt.batches import PlanRunner
from mirnet_edge.trt.plan import LoadedPlan, load_tensorrt, read_plan
from mirnet_edge.trt.pooling import TensorRTPooling


class TensorRTEngine(Owner):
    """Runs a plan that ``mirnet-edge build`` made on this machine.

    Everything is allocated here and nothing later, but for more tiles at once than `batch`, and for
    `statistics`, which are loaded when first asked for. Several threads may call `run`; they wait
    for each other.

    An apply or gather plan opened by itself can be measured; it restores with the statistics of
    each tile where it gathers, else not at all.

    Args:
        path: the plan, ``x.engine``, beside its card ``x.engine.json``.
        trust: load it without a card, or with that of another file. A plan is native code.
        stream: to run on; None makes one.
        device: number of the GPU, as the driver counts; a stream brings its own.
        graph: capture a CUDA graph, where that is possible.
        activations: memory to work in, shared with other engines; it brings the stream. None takes
            memory that is shared with the apply and the gather engine alone.

    Attributes:
        path, card: of the plan, and the card that vouches for it, or None.
        facts: of the network; without a card, its channels alone.
        fixed_size: (height, width) of the tiles it takes.
        batch: tiles of one run of the engine.
        inputs, outputs: names, shapes, dtypes and layouts, the image first.
        activation_bytes: device memory that its execution context needs.
        graph, graph_note: whether it is run as a CUDA graph; why it is not, else "".
        stream: that everything is queued on.
        lock: held while something is queued or captured on it; a caller that queues work of its own
            there holds it too. Engines that share memory share it.
        image, restored: the device's memory of one batch, which `enqueue` reads and writes.

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
        activations: ActivationMemory | None = None,
        device: int = 0,
    ) -> None:
        self.lock = threading.RLock()
        self._pooling: TensorRTPooling | None = None
        self.path = Path(path)
        if activations is not None:
            if stream not in (None, activations.stream):
                raise EngineError(
                    f"{self.path.name}: its activation memory has a stream of its own, which all "
                    "engines that share it run on; leave out stream="
                )
            stream = activations.stream
        # Before the device is opened: what may not be loaded needs no GPU to be refused.
        file = read_plan(self.path, trust)
        self.card = file.card
        load_tensorrt()
        super().__init__(stream.device if stream else open_device(device))
        # What is owned closes newest first: the runner, which waits for what is queued; the memory
        # that it reads; TensorRT's objects; and what they work in.
        with self._making():
            self.stream = stream or self._own(Stream(self.device))
            self._activations = activations or self._shared_memory()
            if self._activations is not None:
                self.lock = self._activations.lock
            self._plan = self._own(LoadedPlan(file, self.device, self._activations))
            with self.lock:
                self._allocate()
                self.graph_note = self._runner.capture() if graph else "not asked for"
        self.graph = not self.graph_note

    def _shared_memory(self) -> ActivationMemory | None:
        """For this engine and those beside it, so that three take no more than the largest."""
        there = [path for kind in BESIDE if (path := kind_path(self.path, kind)).is_file()]
        if there and self.card and self.card.kind == "plain":
            with suppress(EngineError):  # a damaged card, which matters only to `statistics`
                engines = (self.path, *there)
                return self._own(ActivationMemory.for_engines(*engines, stream=self.stream))
        return None

    def _allocate(self) -> None:
        self.inputs, self.outputs = self._plan.inputs, self._plan.outputs
        self.activation_bytes = self._plan.activation_bytes
        taken, given = self.inputs[0], self.outputs[0]
        self.batch = taken.shape[0]
        self.fixed_size = (taken.shape[2], taken.shape[3])
        self.facts = self.card.facts if self.card else _facts_of_planes(taken.shape, given.shape)
        self._tiles = self._own(TileBuffers(self.path.name, taken, given, self.stream, self.lock))
        self.image, self.restored = self._tiles.image, self._tiles.restored
        self._side_addresses: dict[str, int] = {}
        if self.inputs[1:]:
            self._allocate_sides()
        self._runner = self._own(PlanRunner(self._plan, self._tiles, self._side_addresses))

    def _allocate_sides(self) -> None:
        """For an apply or gather plan by itself: the whole of each tile counts, and each has its
        own pooled vectors."""
        shapes = {facts.name: facts.shape for facts in (*self.inputs[1:], *self.outputs[1:])}
        self._sides = self._own(TensorBlock(self.device, shapes))
        if OWN in shapes:
            self._sides.views()[OWN][...] = 1
        self._sides.upload(stream=self.stream)
        self._side_addresses = self._sides.addresses

    @property
    def statistics(self) -> TensorRTPooling:
        """Restore tiles with the statistics of their frame: the apply and the gather engine beside
        this one, loaded when first asked for, which runs each once on `image`.

        Raises:
            EngineError: closed; an engine is missing, or of another network or size.
            DeviceError: not enough memory.
        """
        with self._in_use():
            if self._pooling is None:
                pooling = TensorRTPooling(
                    self.path, self.card, self._tiles, self._activations, graph=self.graph
                )
                self._pooling = self._own(pooling)
            return self._pooling

    @property
    def device_bytes(self) -> DeviceBytes:
        """Device memory that it holds, with the engines beside it where they are loaded."""
        shared, beside = self._activations, self._pooling
        return DeviceBytes(
            weights=self._plan.size_bytes + (beside.plan_bytes if beside else 0),
            activations=shared.size_bytes if shared else self.activation_bytes,
            tiles=self.image.size_bytes + self.restored.size_bytes,
        )

    def run(self, tiles: Tiles) -> Tiles:
        """Restore (N, in_planes, H, W) float32 in [0, 1], any N from 1, to the channels of the
        restored frame, not clamped.

        The result is valid until the same thread calls this or `statistics` again.

        Raises:
            EngineError: closed, other tiles than it was built for, or TensorRT failed.
            DeviceError: the GPU failed.
        """
        sides = {facts.name for facts in self.inputs[1:]}
        if f"{STATISTIC}.0" in sides and OWN not in sides:
            raise EngineError(
                f"{self.path.name} restores with given statistics alone; open the plain engine "
                "beside it, and call its .statistics.apply"
            )
        with self._in_use():
            return self._tiles.run(tiles, self._runner.launch)

    def run_given(self, tiles: Tiles, vectors: Mapping[str, NDArray[np.float32]]) -> Tiles:
        """Do as `run`, by an apply plan opened by itself: each tile fills a batch alone, with its
        pooled vectors, (N, C, 1, 1) float32 by the name of the input."""
        restored = []
        with self._in_use():
            views = self._sides.views()
            for index, tile in enumerate(tiles):
                for name, stack in vectors.items():
                    views[name][...] = stack[index]
                self._sides.upload(stream=self.stream)  # which `run` below waits for
                restored.append(self._tiles.run(tile[None], self._runner.launch)[0].copy())
        return np.stack(restored)

    def enqueue(self) -> None:
        """Queue one batch, from `image` to `restored`, on `stream`, layer by layer. Nothing is
        copied and nothing synchronizes, so that a caller may capture it with work of its own.

        Raises:
            EngineError: closed, or TensorRT failed.
        """
        with self._in_use():
            self._runner.enqueue()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self.lock:  # asked for inside, as another thread may be closing it
            if self._closed:
                raise EngineError("this engine is closed; open it again")
            yield

    def measure(self, runs: int = 100) -> tuple[list[float], list[float]]:
        """Time batches on the device, copies left out.

        Returns:
            (enqueue_ms, graph_ms): of each run, launched layer by layer, which counts gaps where
            the CPU is too slow, and as a CUDA graph (empty where there is none).
        """
        with self._in_use():
            return (
                batch_times_ms(self.stream, self._runner.enqueue, runs),
                batch_times_ms(self.stream, self._runner.launch, runs) if self.graph else [],
            )

    def layer_times(self, runs: int = 10) -> dict[str, float]:
        """Measure mean milliseconds of each layer by TensorRT's name for it, in the order they run.

        TensorRT times each layer by itself, so the sum exceeds the time of a run. While this goes
        on, a second execution context takes `activation_bytes` more, where they are not shared.

        Raises:
            EngineError: layers run side by side, of which TensorRT times none.
        """
        total_ms: dict[str, float] = {}
        with self._in_use(), self.device.current():
            streams = self._plan.engine.num_aux_streams
            if streams:
                raise EngineError(
                    f"{self.path.name} runs its layers side by side on {1 + streams} streams, and "
                    "TensorRT times none of them; build it with aux_streams=0 (--aux-streams 0) to "
                    "profile it"
                )
            profiler = _make_profiler(self._plan.trt, total_ms)
            # A context of its own, so that the engine's never has a profiler. It runs once before
            # the profiler listens, and is gone before the profiler that it reports to.
            runner = PlanRunner(self._plan, self._tiles, self._side_addresses, alone=True)
            with runner as profiled:
                profiled.context.profiler = profiler
                for _ in range(runs):
                    profiled.enqueue()
                    self.stream.synchronize()
        return {name: total / runs for name, total in total_ms.items()}

    def close(self) -> None:
        """Wait for what runs, and free everything. A second call does nothing."""
        with self.lock:
            super().close()


def _facts_of_planes(taken: tuple[int, ...], given: tuple[int, ...]) -> ModelFacts:
    """What a plan alone tells of its network: no network that we know takes one plane more than it
    gives, but for a noise level."""
    noise_level = taken[1] == given[1] + 1
    return ModelFacts(
        in_channels=taken[1] - noise_level, out_channels=given[1], noise_level=noise_level
    )


def _make_profiler(trt: ModuleType, total_ms: dict[str, float]) -> object:
    class Profiler(trt.IProfiler):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # which makes TensorRT's half of the object

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            total_ms[layer_name] = total_ms.get(layer_name, 0.0) + ms

    return Profiler()
