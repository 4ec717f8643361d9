"""Tiles that agree with the frame: which pooled vectors the tiles of a frame are restored with.

A MIRNet takes means over the whole picture many times; a tile that takes its own differs from its
neighbours, and no halo mends that. Four modes:

* ``tile``: each tile its own, one pass, nothing else needed.
* ``frame``: the frame's, exactly. A pass restores all tiles with the vectors known so far and
  gathers better ones; each makes at least the next vector of the chain exact, and the passes end
  once none moves. Starts from the last frame's vectors, or a sample's where the scene is new.
  edge-s-denoise, whose 40 means are 24 deep, takes 8 or 9 passes from a sample.
* ``frame-fast``: those of a few sample tiles for the whole frame: as near as the sample is like the
  frame. With edge-s-denoise, tile 128, halo 32 and Set14 at sigma 25 that is 53 to 68 dB from the
  untiled output on photos of up to 768 x 512, where own statistics have 46 to 53; but 49 dB on a
  720 x 576 one of large unlike parts and 38 on a page with text, where own statistics have 47 and
  38 dB.
* ``stream``: what was gathered up to frame t serves frame t + 1. A new scene starts from a sample;
  all tiles gather in its first frames, a rotating share of them later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mirnet_edge.errors import TilingError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.pooling import MODES, Mode
from mirnet_edge.pooling.samples import Sample, kept_regions, sample_tiles
from mirnet_edge.pooling.scene_cut import Grid, difference
from mirnet_edge.pooling.vectors import Partial, Pool, Statistics, Weights
from mirnet_edge.tiling.geometry import Cover

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class StatisticsSettings:
    """How the statistics of a frame are found.

    Attributes:
        mode: see the module.
        tolerance: of ``frame``: it is done when no element of a vector moves by more than this
            share of the vector's largest.
        samples: about how many tiles make a sample.
        rounds: how often a sample is gathered, each time but the first with what it gave before.
        settling: frames of a ``stream``'s new scene in which all tiles gather, and what they gather
            is taken as it is.
        share: of the tiles, how many gather in each later frame.
        weight: of what was gathered last in a ``stream``'s vectors, which are an exponential
            average over frames.
        cut: the mean difference of the luma grids of two frames beyond which the scene is new (see
            `pooling.scene_cut`). A false alarm costs a sample.

    Raises:
        TilingError: a mode or a number that cannot be.
    """

    mode: Mode = "tile"
    tolerance: float = 1e-3
    samples: int = 16
    rounds: int = 2
    settling: int = 8
    share: float = 0.125
    weight: float = 0.5
    cut: float = 0.06

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise TilingError(f"statistics={self.mode!r}: need one of {', '.join(MODES)}")
        for name in ("share", "weight"):
            if not 0 < getattr(self, name) <= 1:
                raise TilingError(f"{name}={getattr(self, name)}: need more than 0, at most 1")
        for name in ("tolerance", "cut"):
            if not getattr(self, name) >= 0:
                raise TilingError(f"{name}={getattr(self, name)}: may not be negative")
        for name in ("samples", "rounds", "settling"):
            if getattr(self, name) < 1:
                raise TilingError(f"{name}={getattr(self, name)}: need at least 1")


class TilePasses(Protocol):
    """Restores the tiles of one frame, as often as asked, with statistics that they share."""

    cover: Cover

    @property
    def kind(self) -> Hashable:
        """Shape, type and format of the frame: with others nothing gathered is of use."""

    def luma(self) -> Grid:
        """Measure the frame for `pooling.scene_cut`."""

    def sample(self, samples: Sequence[Sample], statistics: Statistics | None) -> list[Partial]:
        """Run sample tiles, each with its own statistics where None are given, and write
        nothing."""
        ...

    def restore(
        self, statistics: Statistics, regions: Mapping[int, Weights]
    ) -> Callable[[], Mapping[int, Partial]]:
        """Run all tiles once and write the frame; gather at least from those with a region. What
        is returned waits until they are done, and tells what they contribute."""


class FrameStatistics:
    """Restores the tiles of frames with statistics that they share, and remembers them.

    Args:
        pools, facts: of the engine.
        settings: how they are found.
        in_streams: how those of a stream's frames are, if in another way.
        lag: of a stream that several engines restore: what frame t gathers serves frame t + lag and
            those behind it, no earlier one, so that it does not matter which of them was quick. It
            is done by the time that frame is begun. 0 takes what is known.

    Attributes:
        current: the vectors that the next frame of the scene is restored with.
        moves: by how much they moved in each pass over the last frame (see `Statistics.distance`).
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        facts: ModelFacts,
        settings: StatisticsSettings,
        in_streams: StatisticsSettings | None = None,
        lag: int = 0,
    ) -> None:
        self.current = Statistics(())  # of no scene yet: the first frame takes a sample
        self.moves: list[float] = []
        self._pools = pools
        self._facts, self._rule = facts, facts.size_rule
        self._settings = self._alone = settings
        self._in_streams = in_streams or settings
        self._stream: object = None
        self._scene: Scene | None = None
        self._scenes = 0
        self._gathered: dict[int, Partial] = {}
        self._turn = 0
        self._age = 0
        self._lag, self._begun = lag, 0
        self._done: dict[int, Callable[[], None]] = {}

    @property
    def mode(self) -> Mode:
        """How they are found."""
        return self._settings.mode

    @property
    def mode_in_streams(self) -> Mode:
        """How those of a stream's frames are."""
        return self._in_streams.mode

    def begin(self, stream: object) -> None:
        """Say of which stream the next frame is, by any object that is its own; None for a frame
        that stands alone. What frames of another one gave is forgotten."""
        if stream is not self._stream:
            self._scene, self._turn = None, 0
        self._stream = stream
        self._settings = self._alone if stream is None else self._in_streams

    def of_stream(self, lag: int) -> FrameStatistics:
        """Others of the same kind, for one stream that several engines restore."""
        return FrameStatistics(self._pools, self._facts, self._in_streams, lag=lag)

    def restore(self, tiles: TilePasses) -> Callable[[], None]:
        """Restore one frame.

        Returns:
            What is to be called once the frame is done, to learn from what it gathered. Later
            frames that are begun before that are restored with what was known before.
        """
        mode = self._settings.mode
        for number in sorted(self._done):
            if number <= self._begun - self._lag:
                self._done.pop(number)()
        # Cleared before the passes, set after them: whatever fails in between leaves vectors that
        # nobody vouches for, and a frame of no known scene starts from a sample.
        before, self._scene = self._scene, None
        scene = None if mode == "frame-fast" else Scene(tiles.kind, tiles.cover, tiles.luma())
        if scene is None or before is None or scene.is_new_after(before, self._settings.cut):
            self._scenes += 1
            self.current, self._gathered, self._age = self._sampled(tiles), {}, 0
        finish = _nothing
        if mode == "frame-fast":
            tiles.restore(self.current, {})
        elif mode == "frame":
            self._restore_exactly(tiles)
        else:
            finish = self._restore_of_stream(tiles)
        self._scene = scene
        return finish

    def _sampled(self, tiles: TilePasses) -> Statistics:
        """The mean of sample tiles: of their own statistics at first, then again with those that
        they share."""
        samples = sample_tiles(tiles.cover, self._settings.samples, self._rule)
        found = Statistics.of(tiles.sample(samples, None))
        for _ in range(self._settings.rounds - 1):
            found = Statistics.of(tiles.sample(samples, found))
        return found

    def _restore_exactly(self, tiles: TilePasses) -> None:
        regions = dict(enumerate(kept_regions(tiles.cover, self._rule)))
        self.moves = []
        # Pools feed pools: each pass makes one more of the chain exact, and the last one tells.
        for _ in range(len(self._pools) + 1):
            used = self.current
            gathered = tiles.restore(used, regions)()
            self.current = Statistics.of([gathered[index] for index in regions])
            self.moves.append(self.current.distance(used))
            if self.moves[-1] <= self._settings.tolerance:
                return

    def _restore_of_stream(self, tiles: TilePasses) -> Callable[[], None]:
        fresh = self._age < self._settings.settling
        total = len(tiles.cover)
        count = total if fresh else math.ceil(self._settings.share * total)
        turn = {rotated(self._turn + step, total) for step in range(count)}
        regions = kept_regions(tiles.cover, self._rule)
        gathered = tiles.restore(self.current, {index: regions[index] for index in turn})
        self._turn = (self._turn + count) % total
        self._age += 1
        scene, number = self._scenes, self._begun
        self._begun += 1

        def finish() -> None:
            found = gathered()

            def learn() -> None:
                if scene == self._scenes:  # the next frame in flight may have begun another one
                    self._learn(found, total, fresh)

            if self._lag:
                Statistics.of(list(found.values()))  # of what is not finite, this frame tells
                self._done[number] = learn
            else:
                learn()

        return finish

    def _learn(self, gathered: Mapping[int, Partial], tiles: int, fresh: bool) -> None:
        # Cleared until all of it is taken in: NaN in what was gathered, too, ends the scene.
        scene, self._scene = self._scene, None
        known = {**self._gathered, **gathered}
        if len(known) == tiles:  # else a frame before it is still in flight, or was lost
            found = Statistics.of([known[index] for index in range(tiles)])
            self.moves = [found.distance(self.current)]
            self.current = found if fresh else self.current.towards(found, self._settings.weight)
        self._gathered, self._scene = known, scene


def _nothing() -> None:
    """Learn nothing: the frame gathered nothing, or was waited for."""


@dataclass(frozen=True)
class Scene:
    """By what it is told whether the statistics of one frame serve the next: what frames of one
    kind have in common, the tiles, the luma (see `pooling.scene_cut`)."""

    kind: Hashable
    cover: Cover
    grid: Grid

    def is_new_after(self, before: Scene, cut: float) -> bool:
        """Whether nothing gathered from ``before`` is of use here."""
        same = (self.kind, self.cover) == (before.kind, before.cover)
        return not same or difference(self.grid, before.grid) > cut


def rotated(turn: int, count: int) -> int:
    """The tile whose turn it is: each once in ``count`` turns, neighbours in time far apart."""
    step = round(GOLDEN * count)  # successive multiples of the golden ratio fill gaps evenly
    while math.gcd(step, count) != 1:
        step += 1
    return turn * step % count
