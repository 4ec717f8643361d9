"""Which statistics the tiles of an engine's frames share, and frames with the next ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Literal

from mirnet_edge.engines.protocol import Engine, statistics_of_engine
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import Turn
from mirnet_edge.frames.noise_level import NoiseLevel
from mirnet_edge.pooling import Mode
from mirnet_edge.pooling.passes import FrameStatistics, StatisticsSettings
from mirnet_edge.tiling.geometry import Tiling

MODES_OF_TASK: dict[str, tuple[Mode, Mode]] = {"enhance": ("frame", "stream")}
"""Of frames that stand alone, and of those of a stream. Where means over a frame carry how dark it
is, tiles with their own differ in brightness, and flicker; other tasks are restored tile by tile,
in one pass."""


@dataclass(frozen=True)
class Continuity:
    """What one frame leaves for the next, wherever that is restored.

    Attributes:
        statistics, noise: its pooled vectors, and the level of its noise; each None where a network
            or a mode has none.
        turn: waited for before the frame takes them. A path may end it once it has left them; when
            it has submitted the frame it is ended anyway.
    """

    statistics: FrameStatistics | None = None
    noise: NoiseLevel | None = None
    turn: Turn = field(default_factory=Turn)

    @property
    def gathers(self) -> bool:
        """Whether pooled vectors go from a frame to the next, and not the noise level alone."""
        return self.statistics is not None and self.statistics.mode == "stream"


@dataclass
class Unshared:
    """Tiles that share nothing, though those of their task should.

    Attributes:
        reason: what is missing; empty where nothing is.
    """

    reason: str = ""

    def tell(self, tiling: Tiling, height: int, width: int) -> None:
        """Warn, once, when a frame of this size is cut into several tiles."""
        if self.reason and (height > tiling.tile[0] or width > tiling.tile[1]):
            reason, self.reason = self.reason, ""
            warnings.warn(
                f"the tiles of a frame may differ in brightness, as its statistics cannot be had: "
                f"{reason}; tile=None restores it whole",
                stacklevel=2,
            )


def asked_settings(
    statistics: Mode | Literal["auto"] | StatisticsSettings,
) -> StatisticsSettings | None:
    """What a caller asks for as settings; None for "auto", which leaves it to the task."""
    if isinstance(statistics, StatisticsSettings):
        return statistics
    return None if statistics == "auto" else StatisticsSettings(statistics)


def shared_statistics(
    engine: Engine, facts: ModelFacts, settings: StatisticsSettings | None
) -> tuple[FrameStatistics | None, Unshared]:
    """Make what the tiles of a frame share; None where each has its own.

    Args:
        settings: None takes the modes of the engine's task, or that of tiles where the engine
            cannot have them.

    Raises:
        EngineError, GraphError, MissingDependencyError: the engine cannot be given statistics.
    """
    if settings is None:
        if facts.task not in MODES_OF_TASK:
            return None, Unshared()
        try:
            pools = statistics_of_engine(engine).pools
        except MirnetEdgeError as error:
            return None, Unshared(str(error))
        alone, in_streams = map(StatisticsSettings, MODES_OF_TASK[facts.task])
        return FrameStatistics(pools, facts, alone, in_streams), Unshared()
    if settings.mode == "tile":
        return None, Unshared()
    return FrameStatistics(statistics_of_engine(engine).pools, facts, settings), Unshared()
