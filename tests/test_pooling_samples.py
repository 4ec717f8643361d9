"""Sample tiles, and the regions of a frame that its tiles count for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mirnet_edge as me
from mirnet_edge.facts import SizeRule
from mirnet_edge.pooling.samples import kept_regions, sample_tiles


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    sides=st.tuples(st.integers(5, 16), st.integers(5, 16)).map(lambda t: (4 * t[0], 4 * t[1])),
    blend=st.sampled_from([0, 2]),
    fixed=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_regions_partition_the_padded_frame(
    height: int, width: int, sides: tuple[int, int], blend: int, fixed: bool
) -> None:
    cover = me.Tiling(sides, halo=4, blend=blend, fixed=fixed).cover(height, width)
    counts = np.zeros((round(-(-height // 4) * 4), round(-(-width // 4) * 4)), int)
    for (row, column), region in zip(cover, kept_regions(cover, SizeRule()), strict=True):
        rows = row.origin + np.flatnonzero(region.rows)
        columns = column.origin + np.flatnonzero(region.columns)
        counts[np.ix_(rows, columns)] += 1
        assert region.area == len(rows) * len(columns)
        for inside in (rows, columns):
            assert inside[0] % 4 == len(inside) % 4 == 0
        for weights in (region.rows, region.columns):
            assert weights.sum() == pytest.approx(1, abs=1e-6)
        for span, inside in ((row, rows), (column, columns)):
            assert span.origin == 0 or inside[0] - span.origin >= 4
    assert (counts == 1).all()


@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    count=st.integers(1, 30),
    side=st.sampled_from([32, 64, 128]),
)
@settings(max_examples=80, deadline=None)
def test_samples_lie_on_the_grid_inside_the_frame(
    height: int, width: int, count: int, side: int
) -> None:
    cover = me.Tiling((side, side), halo=4).cover(height, width)
    samples = sample_tiles(cover, count, SizeRule())
    assert len({(s.rows.start, s.columns.start) for s in samples}) == len(samples)
    assert 1 <= len(samples) <= 1.5 * count
    for sample in samples:
        for span, spans in ((sample.rows, cover.rows), (sample.columns, cover.columns)):
            assert span.start % 4 == 0 <= span.start
            assert span.stop <= spans[-1].origin + spans[-1].size
            assert span.stop - span.start == spans[0].size


@pytest.mark.parametrize(
    ("side", "width", "count", "origins", "counted"),
    [
        (64, 640, 5, [32, 160, 288, 416, 544], [(8, 56)] * 5),
        (64, 640, 10, [*range(0, 640, 64)], [(0, 56), *[(8, 56)] * 8, (8, 64)]),
        (32, 320, 2, [64, 224], [(8, 24)] * 2),
        (28, 280, 2, [56, 196], [(0, 28)] * 2),
        (64, 600, 4, [40, 192, 340, 492], [(8, 56)] * 4),
    ],
    ids=[
        "middles of fifths",
        "to both ends",
        "the least side with edges",
        "too small for edges",
        "off the grid",
    ],
)
def test_samples_lie_in_the_middles_of_equal_parts(
    side: int, width: int, count: int, origins: list[int], counted: list[tuple[int, int]]
) -> None:
    cover = me.Tiling((side, side), halo=4).cover(side, width)
    samples = sample_tiles(cover, count, SizeRule())
    assert [sample.columns.start for sample in samples] == origins
    inside = [np.flatnonzero(sample.region.columns) for sample in samples]
    assert [(columns[0], columns[-1] + 1) for columns in inside] == counted
    assert all(sample.region.rows.all() for sample in samples)
