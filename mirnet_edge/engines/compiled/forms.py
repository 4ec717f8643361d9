"""Everything that a compiled network needs for tiles of one size: memory, what runs a batch of them
in each of its forms, and a CUDA graph of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mirnet_edge.cuda import Graph, Owner, Stream
from mirnet_edge.engines.card import TensorFacts
from mirnet_edge.engines.compiled.network import DTYPES, Form, Precision, Tape, Work, taped
from mirnet_edge.engines.compiled.torch_device import ALONE, TorchDevice, quietly, translated
from mirnet_edge.engines.pooled_batches import PooledBatches
from mirnet_edge.engines.side_tensors import side_shapes
from mirnet_edge.engines.tile_buffers import TileBuffers
from mirnet_edge.errors import DeviceError, DeviceMemoryError, EngineError, first_line
from mirnet_edge.model.layers import Network
from mirnet_edge.pooling.tensors import COLUMNS, GATHERED, OWN, ROWS, STATISTIC
from mirnet_edge.pooling.vectors import Pool

log = logging.getLogger(__name__)
Call = Callable[..., tuple[Tensor, ...]]
WARM_UP_RUNS = 2
MOST_SHAPES = 256
"""Tile sizes and forms that PyTorch may compile in a process; it stops after eight by itself."""


@dataclass
class Place:
    """Where a network runs, in which precision, and how it is compiled.

    Attributes:
        name: of the model, for messages.
        weights: FP32, on the CPU.
        mode: of ``torch.compile``; None runs it operation by operation.
        notes: what did not go as asked.
    """

    name: str
    weights: Network
    torch: TorchDevice
    stream: Stream
    lock: threading.RLock
    precision: Precision
    batch: int
    mode: str | None = None
    notes: list[str] = field(default_factory=list)
    _networks: dict[Precision, tuple[Tape, Network]] = field(default_factory=dict)

    @property
    def tf32(self) -> bool:
        """Whether products of FP32 may be in TF32."""
        return self.precision == "tf32"

    @property
    def dtype(self) -> str:
        """Of the tiles, as numpy spells it."""
        return "float16" if self.precision == "fp16" else "float32"

    def network(self, precision: Precision) -> tuple[Tape, Network]:
        """The network on the device, and the tape of its means; moved when first asked for."""
        if precision not in self._networks:
            tape = Tape()
            network = taped(self.weights, tape)
            with self.torch.working(self.stream), translated(f"loading {self.name}"):
                network.to(self.torch.where, DTYPES[precision])
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._networks[precision] = tape, network
        return self._networks[precision]

    def drop(self, precision: Precision) -> None:
        """Take a network off the device."""
        self._networks.pop(precision, None)

    def forget(self) -> None:
        """Take everything off the device."""
        self._networks.clear()
        self.torch.release()

    def form(self, work: Work, precision: Precision | None = None) -> Form:
        """The network in one of its forms, run operation by operation."""
        tape, network = self.network(precision or self.precision)
        return Form(network, tape, work)


class BatchOfForm(Owner):
    """Queues one batch of a form (a `pooled_batches.BatchRunner`), after it has run some times:
    what is queued later loads and allocates nothing and can be captured.

    Args:
        queue: runs a form on the batch's tensors.
        pool: memory for what is computed on the way.
        mode: None runs it as it is; so it is where it does not compile, which is noted.

    Attributes:
        compiled: whether it was.
    """

    def __init__(
        self, place: Place, work: Work, queue: Callable[[Call], None], pool: Any, mode: str | None
    ) -> None:
        super().__init__(place.stream.device)
        self._place, self._pool = place, pool
        self._note: str | None = None
        self._what = f"{place.name}, {work}"
        self._graph: Graph | None = None
        self.compiled = False
        form = place.form(work)
        with self._making():
            if mode is not None:
                self.compiled = self._compiled(form, queue, mode)
            if not self.compiled:
                self._call = lambda: queue(form)
            self._warm_up(None)
            for _ in range(WARM_UP_RUNS):
                self._warm_up(pool)

    def _compiled(self, form: Form, queue: Callable[[Call], None], mode: str) -> bool:
        """Compile it, by running it; False where that fails, whose reason is noted."""
        # Of one shape; and whole, or it would be Python between pieces that is captured.
        call = torch.compile(form, mode=mode, dynamic=False, fullgraph=True)
        self._call = lambda: queue(call)
        limits = _compile_limits()
        try:
            with ALONE, torch._dynamo.config.patch(limits), quietly():
                self._warm_up(None)
        except Exception as error:
            # Whatever it is: a compiler is many programs, and the network runs without it.
            cause = error.__cause__ or error  # dynamo wraps what went wrong, and we do
            note = f"not compiled: {type(cause).__name__}: {first_line(cause)}"
            self._place.notes.append(note)
            log.warning("%s: %s", self._what, note)
            return False
        return True

    def _warm_up(self, pool: Any) -> None:
        place = self._place
        with translated(self._what):
            place.torch.queue(place.stream, self._call, pool, place.tf32)
            place.stream.synchronize()

    def enqueue(self) -> None:
        """Queue one batch, kernel by kernel; nothing synchronizes."""
        self._require_open()
        place = self._place
        with translated(self._what):
            place.torch.queue(place.stream, self._call, self._pool, place.tf32)

    def capture(self) -> str:
        """Keep a graph of one batch, where that is possible; say why there is none. Tries once."""
        if self._note is None:
            self._note = ""
            # In this thread once more: cuDNN measures its algorithms for each thread anew, which
            # no capture allows.
            self._warm_up(self._pool)
            try:
                self._graph = self._own(Graph(self._place.stream, self.enqueue))
            except DeviceMemoryError:
                raise
            except (DeviceError, EngineError) as error:
                self._note = str(error)
                log.info("%s runs without a CUDA graph: %s", self._what, error)
        return self._note

    def launch(self) -> None:
        """Queue one batch: the graph, where one was captured."""
        if self._graph is None:
            self.enqueue()
        else:
            self._graph.launch(self._place.stream)

    def _release(self) -> None:
        try:
            with self._owned:
                self._place.stream.synchronize()  # what is queued still works in the pool
        finally:
            self.__dict__.pop("_call", None)
            self._pool = None


class TileForms(Owner):
    """A network for tiles of one size (height, width); everything is made at once, but for
    `pooled`.

    Attributes:
        size: of the tiles.
        tiles: their memory.
        plain: runs a batch.
        mode: that it was to be compiled in.
    """

    def __init__(self, place: Place, size: tuple[int, int], mode: str | None) -> None:
        super().__init__(place.stream.device)
        self._place, self.size, self.mode = place, size, mode
        config = place.weights.config
        taken = (place.batch, config.in_planes, *size)
        given = (place.batch, config.out_channels, *size)
        self._pooled: PooledForms | None = None
        with self._making():
            sides = (
                TensorFacts("input", taken, place.dtype, "linear"),
                TensorFacts("output", given, place.dtype, "linear"),
            )
            self.tiles = self._own(TileBuffers(place.name, *sides, place.stream, place.lock))
            self.pool = place.torch.make_pool()
            self.image, self.restored = (
                place.torch.tensor(memory.address, memory.shape, memory.dtype)
                for memory in (self.tiles.image, self.tiles.restored)
            )
            self.plain = self._own(
                BatchOfForm(place, "plain", self._run_plain, self.pool, self.mode)
            )

    def _run_plain(self, call: Call) -> None:
        self.restored.copy_(call(self.image)[0])

    @property
    def activation_bytes(self) -> int:
        """What it computes on the way takes."""
        return self._place.torch.pool_bytes(self.pool)

    def pooled(self, pools: tuple[Pool, ...]) -> PooledForms:
        """Those that are given pooled vectors; made when first asked for."""
        if self._pooled is None:
            self._pooled = self._own(PooledForms(self._place, self, pools))
        return self._pooled

    def _release(self) -> None:
        try:
            self._place.stream.synchronize()
        except DeviceError:
            if pool := self.__dict__.get("pool"):
                self._place.torch.abandon(pool)
        try:
            super()._release()
        finally:
            # Views of memory that is gone; and the pool, whose memory goes back when nobody has it.
            for name in ("image", "restored", "pool"):
                self.__dict__.pop(name, None)
            self._pooled = None


class PooledForms(PooledBatches):
    """A network that is given its pooled vectors, and gathers them, for tiles of one size."""

    def __init__(self, place: Place, forms: TileForms, pools: tuple[Pool, ...]) -> None:
        super().__init__(pools, forms.tiles, graph=True)
        self._forms = forms
        with self._making(), place.lock:
            addresses = self._prepare()
            given, regions, gathered = side_shapes(pools, forms.tiles.image.shape)
            views = {
                name: place.torch.tensor(addresses[name], shape, "float32")
                for name, shape in (given | regions | gathered).items()
            }
            self._vectors_given = [views[f"{STATISTIC}.{k}"] for k in range(len(pools))]
            self._region = [views[name] for name in (ROWS, COLUMNS, OWN)]
            # In the order in which a tape takes them down: a vector, then its mass if it has one.
            self._gathered = [views[name] for name in gathered]
            assert not pools or next(iter(gathered)) == f"{GATHERED}.0"
            self._stream.synchronize()  # what was uploaded is read by the first run
            runners = (
                BatchOfForm(place, work, run, forms.pool, forms.mode) for work, run in self._works()
            )
            self._apply, self._gather = (self._own(runner) for runner in runners)

    def _works(self) -> Sequence[tuple[Work, Callable[[Call], None]]]:
        return ("apply", self._run_apply), ("gather", self._run_gather)

    def _run_apply(self, call: Call) -> None:
        self._forms.restored.copy_(call(self._forms.image, self._vectors_given)[0])

    def _run_gather(self, call: Call) -> None:
        restored, *found = call(self._forms.image, self._vectors_given, self._region)
        self._forms.restored.copy_(restored)
        torch._foreach_copy_(self._gathered, found)

    def _release(self) -> None:
        try:
            super()._release()
        finally:
            for name in ("_vectors_given", "_region", "_gathered"):
                self.__dict__.pop(name, None)


def _compile_limits() -> dict[str, Any]:
    """Settings by which PyTorch compiles for as many shapes as are asked for; they were renamed."""
    config = torch._dynamo.config
    names = ("recompile_limit", "accumulated_recompile_limit")
    older = ("cache_size_limit", "accumulated_cache_size_limit")
    return dict.fromkeys(names if hasattr(config, names[0]) else older, MOST_SHAPES)
