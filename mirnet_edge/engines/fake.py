"""An engine made of a function, for tests."""

from __future__ import annotations

from collections.abc import Callable

from mirnet_edge.engines.protocol import StatisticsEngine, Tiles
from mirnet_edge.errors import EngineError
from mirnet_edge.facts import ModelFacts


class FakeEngine:
    """An engine made of a function: the seam for tests of code that uses `Restorer`.

    Args:
        function: (N, in_planes, H, W) float32 to (N, out_channels, H, W); None returns the tiles as
            they are, without the plane of a noise level.
        facts: what it says of itself.
        fixed_size: (height, width) of the only tile it takes, or None.
        statistics: what restores tiles with given statistics, or None.

    Attributes:
        shapes: of all tiles it was run on, in order.
    """

    def __init__(
        self,
        function: Callable[[Tiles], Tiles] | None = None,
        facts: ModelFacts | None = None,
        fixed_size: tuple[int, int] | None = None,
        statistics: StatisticsEngine | None = None,
    ) -> None:
        self.statistics = statistics
        self.function = function
        self.facts = facts or ModelFacts(task="fake", size_multiple=4, min_size_px=4)
        self.fixed_size = fixed_size
        self.shapes: list[tuple[int, ...]] = []
        self.closed = False

    def run(self, tiles: Tiles) -> Tiles:
        """Record the shape and apply the function.

        Raises:
            EngineError: closed.
        """
        if self.closed:
            raise EngineError("this engine is closed")
        self.shapes.append(tiles.shape)
        if self.function is not None:
            return self.function(tiles)
        return tiles[:, :-1] if self.facts.noise_level else tiles

    def close(self) -> None:
        """Let `run` raise from now on."""
        self.closed = True
