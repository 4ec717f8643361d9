"""Pooled vectors of a stream's frames that are in flight together, or lost on the way: each scene
learns from its own frames alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from mirnet_edge.facts import ModelFacts
from mirnet_edge.pooling.passes import FrameStatistics, StatisticsSettings
from mirnet_edge.pooling.samples import Sample
from mirnet_edge.pooling.scene_cut import Grid
from mirnet_edge.pooling.vectors import Partial, Pool, Statistics, Weights
from mirnet_edge.tiling.geometry import Tiling

POOLS = (Pool("mean", "mean", 1, 1),)


class Frame:
    """The tiles of a frame of one brightness; what its samples tell lies a quarter above that."""

    kind = "a frame"
    cover = Tiling((32, 32), halo=4).cover(100, 152)

    def __init__(self, level: float) -> None:
        self.level = level
        self.gathering: set[int] = set()

    def luma(self) -> Grid:
        return np.full((8, 8), self.level, np.float32)

    def sample(self, samples: Sequence[Sample], statistics: Statistics | None) -> list[Partial]:
        return [partial_of(self.level + 0.25) for _ in samples]

    def restore(
        self, statistics: Statistics, regions: Mapping[int, Weights]
    ) -> Callable[[], Mapping[int, Partial]]:
        self.gathering = set(regions)
        return lambda: {index: partial_of(self.level) for index in regions}


def partial_of(value: float) -> Partial:
    return Partial((np.full((1, 1, 1, 1), value, np.float32),), (0.0,), 1)


def statistics_of(**settings: float) -> FrameStatistics:
    chosen = StatisticsSettings("stream", **settings)  # type: ignore[arg-type]
    return FrameStatistics(POOLS, ModelFacts(), chosen)


def gathering(statistics: FrameStatistics, stream: object) -> list[set[int]]:
    """Which tiles gather in each of four frames of one scene."""
    frames = [Frame(0.5) for _ in range(4)]
    for frame in frames:
        statistics.begin(stream)
        statistics.restore(frame)()
    return [frame.gathering for frame in frames]


def value_of(statistics: FrameStatistics) -> float:
    return float(statistics.current.vectors[0].item())


def test_a_frame_that_ends_in_the_next_scene_teaches_it_nothing() -> None:
    statistics = statistics_of()
    end_dark = statistics.restore(Frame(0.125))
    end_bright = statistics.restore(Frame(0.5))
    end_dark()
    assert value_of(statistics) == 0.75, "the sample of the bright scene"
    end_bright()
    assert value_of(statistics) == 0.5


def test_a_scene_does_not_fill_up_with_tiles_of_the_one_before() -> None:
    statistics = statistics_of(settling=1)
    statistics.restore(Frame(0.125))()
    statistics.restore(Frame(0.5))  # lost: never heard of again
    share = Frame(0.5)
    statistics.restore(share)()
    assert 0 < len(share.gathering) < len(share.cover)
    assert value_of(statistics) == pytest.approx(0.75), "the sample of the bright scene"


def test_each_stream_begins_as_the_first_one_did() -> None:
    """What frames of another one gave is forgotten, and whose turn it was."""
    settled, settling = (StatisticsSettings("stream", settling=count) for count in (1, 2))
    statistics = FrameStatistics(POOLS, ModelFacts(), settled, in_streams=settling)
    alone = gathering(statistics, None)
    every, *shares = map(len, alone)
    assert every == len(Frame.cover) > shares[0] == shares[1] == shares[2]
    assert alone[1].isdisjoint(alone[2])
    for _ in range(2):
        statistics.current = Statistics(partial_of(7.0).vectors)
        assert gathering(statistics, object()) == [alone[0], *alone[:3]]
        assert value_of(statistics) == 0.5
