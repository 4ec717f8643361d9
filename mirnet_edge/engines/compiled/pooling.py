"""The pooled vectors of a compiled network, whatever the size of its tiles is at the moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.engines.compiled.forms import PooledForms
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.pooling.vectors import Partial, Pool, Statistics, Weights

Size = tuple[int, int]


class CompiledPooling:
    """Restores tiles with the vectors of their frame (an `engines.protocol.DevicePooling`, and a
    `StatisticsEngine` that takes tiles of any size); made by ``CompiledEngine.statistics``.

    Args:
        pools, batch: of the engine.
        forms: makes the engine take tiles of a size, of the one at hand where that is None, and
            returns what runs them.
    """

    def __init__(
        self,
        pools: tuple[Pool, ...],
        batch: int,
        forms: Callable[[Size | None], PooledForms],
    ) -> None:
        self.pools, self.batch, self._forms = pools, batch, forms

    @property
    def rows_address(self) -> int:
        return self._forms(None).rows_address

    @property
    def columns_address(self) -> int:
        return self._forms(None).columns_address

    @property
    def block_address(self) -> int:
        return self._forms(None).block_address

    @property
    def block_words(self) -> int:
        return self._forms(None).block_words

    def give(self, statistics: Statistics | None) -> None:
        """Do as `PooledBatches.give`."""
        self._forms(None).give(statistics)

    def enqueue_apply(self) -> None:
        """Do as `PooledBatches.enqueue_apply`."""
        self._forms(None).enqueue_apply()

    def enqueue_gather(self) -> None:
        """Do as `PooledBatches.enqueue_gather`."""
        self._forms(None).enqueue_gather()

    def partials_of(self, block: NDArray[np.float32], areas: Sequence[int]) -> list[Partial]:
        """Do as `PooledBatches.partials_of`."""
        return self._forms(None).partials_of(block, areas)

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """Do as `engines.protocol.StatisticsEngine.gather`."""
        return self._forms(size_of(tiles)).gather(tiles, region, statistics)

    def apply(self, tiles: Tiles, statistics: Statistics) -> Tiles:
        """Do as `engines.protocol.StatisticsEngine.apply`."""
        return self._forms(size_of(tiles)).apply(tiles, statistics)


def size_of(tiles: Tiles) -> Size:
    """(height, width) of tiles (N, C, H, W)."""
    return tiles.shape[2], tiles.shape[3]
