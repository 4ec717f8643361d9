"""What every engine is, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import getattr_static
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import EngineError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.pooling.vectors import Partial, Pool, Statistics, Weights

if TYPE_CHECKING:
    from threading import RLock

    from mirnet_edge.cuda import Stream
    from mirnet_edge.engines.card import DeviceBytes

Tiles = NDArray[np.float32]


@runtime_checkable
class Engine(Protocol):
    """Anything that restores tiles.

    Only ``run`` is required. Where present, ``facts`` (`ModelFacts`) tells size and channels,
    ``fixed_size`` ((height, width) or None) the only tile it takes, ``statistics``
    (`StatisticsEngine`) restores tiles with the statistics of their frame, and ``close()`` frees
    it.
    """

    def run(self, tiles: Tiles) -> Tiles:
        """Restore (N, C, H, W) float32 in [0, 1], C as ``facts.in_planes`` says, to the channels of
        the restored frame, not clamped. The result may be a buffer that the next call overwrites;
        the caller may change it."""


class StatisticsEngine(Protocol):
    """What an engine can do whose pools are open: restore tiles with given statistics, and tell
    what a tile contributes to those of its frame."""

    pools: tuple[Pool, ...]  # where the network takes means over the frame

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """Restore one tile (1, C, H, W) with ``statistics``, or with its own over ``region``
        where they are None; and the means over ``region``."""

    def apply(self, tiles: Tiles, statistics: Statistics) -> Tiles:
        """Restore tiles with ``statistics``. Results as of `Engine.run`."""


class TileMemory(Protocol):
    """A batch of tiles in memory of the device, without gaps: address, shape (N, C, H, W), dtype as
    numpy spells it (float16 or float32), and bytes."""

    @property
    def address(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True)
class NoMemoryYet:
    """The `TileMemory` of an engine that has not been told the size of its tiles."""

    shape: tuple[int, ...]
    dtype: str
    address = size_bytes = 0


class DevicePooling(Protocol):
    """Restores batches in memory of the device with given pooled vectors, and gathers what they
    contribute. All is queued on the engine's stream, and nothing waits. At ``rows_address`` and
    ``columns_address`` is what counts of each tile, (batch, H) and (batch, W) float32, as in
    `pooling.vectors.Weights`; at ``block_address`` all that a batch contributes, float32."""

    batch: int
    rows_address: int
    columns_address: int
    block_address: int
    block_words: int

    def give(self, statistics: Statistics | None) -> None:
        """Queue the copy of the vectors for the batches that follow; None lets each tile that is
        gathered from take its own."""

    def enqueue_apply(self) -> None:
        """Queue one batch restored with what was given."""

    def enqueue_gather(self) -> None:
        """Queue the same, and what it contributes into the block."""

    def partials_of(self, block: NDArray[np.float32], areas: Sequence[int]) -> list[Partial]:
        """What the first tiles of a batch contribute, read from a copy of its block."""


class DeviceEngine(Engine, Protocol):
    """An engine that restores a batch in memory of the device, which `device.path` fills and reads
    without the host in between. All is queued on ``stream``; whoever queues or captures something
    there holds ``lock``."""

    path: Path
    stream: Stream
    lock: RLock

    @property
    def closed(self) -> bool: ...
    @property
    def image(self) -> TileMemory: ...
    @property
    def restored(self) -> TileMemory: ...
    @property
    def device_bytes(self) -> DeviceBytes: ...
    @property
    def statistics(self) -> DevicePooling:
        """The engines that pool over a frame, loaded when first asked for."""

    def enqueue(self) -> None:
        """Queue one batch, from ``image`` to ``restored``, so that a caller may capture it."""


@runtime_checkable
class MeasuredEngine(Protocol):
    """An engine that times its batches itself, on the device and without copies."""

    batch: int

    def measure(self, runs: int = 100) -> tuple[list[float], list[float]]:
        """Milliseconds of each run: kernel by kernel, and as a CUDA graph, empty where there is
        none."""


def works_on_device(engine: Engine) -> TypeGuard[DeviceEngine]:
    """Whether an engine restores batches in memory of the device."""
    # isinstance of a runtime_checkable protocol reads every attribute before Python 3.12, and
    # reading `statistics` loads two plans. What tells the engines apart is looked up unread.
    names = ("enqueue", "image", "restored", "stream")
    return all(getattr_static(engine, name, None) is not None for name in names)


def fit_engine(engine: object, size: tuple[int, int], *, steady: bool = False) -> int:
    """Make an engine that takes tiles of any size take those of (height, width) from now on, of
    which there will be many where they are ``steady``. What was captured of it serves as long as
    the number that is returned stays; of an engine of one size it always does."""
    fit: Callable[..., int] | None = getattr(engine, "fit", None)
    return 0 if fit is None else fit(size, steady=steady)


def statistics_of_engine(engine: object) -> StatisticsEngine:
    """Find what restores tiles with given statistics.

    Raises:
        EngineError: the engine has no such thing.
        GraphError, MissingDependencyError: it cannot be made of the engine's graph, or here.
    """
    found: StatisticsEngine | None = getattr(engine, "statistics", None)
    if found is None:
        raise EngineError(
            f"{type(engine).__name__} computes the statistics of each tile itself and cannot be "
            'given those of the frame; export the network to .onnx, or take statistics="tile"'
        )
    return found


def facts_of_engine(engine: object) -> ModelFacts:
    """Read what the engine says of itself; the defaults where it says nothing."""
    facts = getattr(engine, "facts", None)
    return facts if isinstance(facts, ModelFacts) else ModelFacts()
