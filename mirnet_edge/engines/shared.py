"""Which statistics the tiles of an engine's frames share."""

from __future__ import annotations

import warnings

from mirnet_edge.engines.protocol import Engine, statistics_of_engine
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.pooling.passes import FrameStatistics, Mode, StatisticsSettings

MODE_OF_TASK: dict[str, Mode] = {"enhance": "frame"}
"""Where means over a frame carry how dark it is, tiles with their own differ in brightness; other
tasks are restored tile by tile, in one pass."""


def shared_statistics(
    engine: Engine, facts: ModelFacts, settings: StatisticsSettings | None
) -> FrameStatistics | None:
    """Make what the tiles of a frame share; None where each has its own.

    Args:
        settings: None takes the mode of the engine's task, and with a warning that of tiles where
            the engine cannot have it.

    Raises:
        EngineError, GraphError, MissingDependencyError: the engine cannot be given statistics.
    """
    if settings is not None:
        if settings.mode == "tile":
            return None
        return FrameStatistics(statistics_of_engine(engine).pools, facts, settings)
    try:
        mode = MODE_OF_TASK.get(facts.task, "tile")
        return shared_statistics(engine, facts, StatisticsSettings(mode))
    except MirnetEdgeError as error:
        warnings.warn(
            f"the tiles of a frame may differ in brightness, as its statistics cannot be had: "
            f"{error}; tile=None restores it whole",
            stacklevel=4,
        )
        return None
