"""What every engine is, and what it tells of itself."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import EngineError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.pooling.vectors import Partial, Pool, Statistics, Weights

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
        """Restore (N, C, H, W) float32 in [0, 1]; same shape, not clamped. The result may be a
        buffer that the next call overwrites; the caller may change it."""
        ...


class StatisticsEngine(Protocol):
    """What an engine can do whose pools are open: restore tiles with given statistics, and tell
    what a tile contributes to those of its frame."""

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Where the network takes means over the frame."""
        ...

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """Restore one tile (1, C, H, W) with ``statistics``, or with its own over ``region``
        where they are None; and the means over ``region``."""
        ...

    def apply(self, tiles: Tiles, statistics: Statistics) -> Tiles:
        """Restore tiles with ``statistics``. Results as of `Engine.run`."""
        ...


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
