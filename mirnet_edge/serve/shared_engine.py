"""One engine for frames that are restored in several threads: one run at a time, and tiles of one
size that wait meanwhile as one batch.

Nobody waits for a batch to fill: while one run is under way, other frames' tiles arrive, and the
next run takes all of them that are of one size. Whatever is in a batch, each tile is restored as it
would be alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mirnet_edge.engines.protocol import (
    Engine,
    StatisticsEngine,
    Tiles,
    facts_of_engine,
    statistics_of_engine,
)
from mirnet_edge.errors import EngineError
from mirnet_edge.pooling.vectors import Partial, Statistics, Weights


class _Waiting:
    """Tiles of one caller, and what became of them."""

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles
        self.restored: Tiles | None = None
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.restored is not None or self.error is not None


class SharedEngine:
    """An engine whose calls wait for each other, or go together (see the module).

    Args:
        engine: not closed here.
        batch: tiles that go together at most; 1 for an engine that takes one at a time.

    Attributes:
        facts, fixed_size: of the engine.
        runs, tiles: how often it ran, and on how many tiles in all.
    """

    def __init__(self, engine: Engine, batch: int = 1) -> None:
        self.engine, self.batch = engine, batch
        self.facts = facts_of_engine(engine)
        self.fixed_size: tuple[int, int] | None = getattr(engine, "fixed_size", None)
        self.runs = self.tiles = 0
        self._changed = threading.Condition()
        self._is_running = False
        self._waiting: list[_Waiting] = []

    def run(self, tiles: Tiles) -> Tiles:
        """Restore tiles as `Engine.run`, into memory of their own; raises what the engine does."""
        mine = _Waiting(tiles)
        with self._changed:
            self._waiting.append(mine)
        while not mine.is_done:
            with self._changed:
                self._changed.wait_for(lambda: mine.is_done or not self._is_running)
                if mine.is_done:
                    break
                self._is_running = True
                together = self._take()
            try:
                self._run(together)
            finally:
                self._end()
        if mine.error is not None:
            raise mine.error
        assert mine.restored is not None
        return mine.restored

    def _take(self) -> list[_Waiting]:
        """The one that waits longest, and others of its size."""
        first, *others = self._waiting
        together, room = [first], self.batch - len(first.tiles)
        for other in others:
            if other.tiles.shape[1:] == first.tiles.shape[1:] and len(other.tiles) <= room:
                together.append(other)
                room -= len(other.tiles)
        self._waiting = [waiting for waiting in self._waiting if waiting not in together]
        return together

    def _run(self, together: list[_Waiting]) -> None:
        """Run tiles; where several fail together each alone, so that an error is its own."""
        try:
            given = [waiting.tiles for waiting in together]
            restored = np.asarray(
                self.engine.run(given[0] if len(given) == 1 else np.concatenate(given))
            )
            self.runs += 1
            self.tiles += sum(map(len, given))
            if len(restored) != sum(map(len, given)):
                raise EngineError(
                    f"the engine returned {restored.shape} for {sum(map(len, given))} tiles"
                )
        except Exception as error:
            if len(together) == 1:
                together[0].error = error
            else:
                for waiting in together:
                    self._run([waiting])
            return
        except BaseException as error:  # nobody may be left waiting
            for waiting in together:
                waiting.error = error
            raise
        start = 0
        for waiting in together:
            stop = start + len(waiting.tiles)
            # The engine may write the next result into the same memory.
            waiting.restored = restored[start:stop].copy()
            start = stop

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_running)
            self._is_running = True
        try:
            yield
        finally:
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._is_running = False
            self._changed.notify_all()

    @property
    def statistics(self) -> SharedStatistics:
        """What restores tiles with given statistics; raises as `statistics_of_engine`."""
        with self._alone():
            return SharedStatistics(self, statistics_of_engine(self.engine))


class SharedStatistics:
    """A `StatisticsEngine` whose calls wait for those of its engine; tile by tile, as the frames
    of different callers have different statistics."""

    def __init__(self, shared: SharedEngine, engine: StatisticsEngine) -> None:
        self._shared, self._engine = shared, engine
        self.pools = engine.pools

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """Do as `StatisticsEngine.gather`."""
        with self._shared._alone():
            restored, partial = self._engine.gather(tiles, region, statistics)
            return np.array(restored), partial

    def apply(self, tiles: Tiles, statistics: Statistics) -> Tiles:
        """Do as `StatisticsEngine.apply`."""
        with self._shared._alone():
            return np.array(self._engine.apply(tiles, statistics))
