"""The geometry of tiles: every pixel is kept, by tiles that know its surroundings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mirnet_edge as me
from mirnet_edge.facts import SizeRule
from mirnet_edge.tiling.geometry import Span


@st.composite
def tilings(draw: st.DrawFn) -> me.Tiling:
    halo, blend = draw(st.integers(0, 24)), 2 * draw(st.integers(0, 6))
    least = SizeRule().up(max(2 * halo + 3 * blend, 2 * halo + blend + 4)) + 4
    sides = st.integers(least // 4, least // 4 + 16).map(lambda n: 4 * n)
    return me.Tiling((draw(sides), draw(sides)), halo, blend, fixed=draw(st.booleans()))


lengths = st.integers(1, 300)


@given(tilings(), lengths, lengths)
def test_weights_of_all_tiles_sum_to_one_at_every_pixel(
    tiling: me.Tiling, height: int, width: int
) -> None:
    cover = tiling.cover(height, width)
    for spans, length in ((cover.rows, height), (cover.columns, width)):
        total = np.zeros(length)
        for span in spans:
            total[span.start : span.stop] += span.weights
        np.testing.assert_allclose(total, 1, atol=1e-6)


@given(tilings(), lengths)
def test_kept_pixels_are_a_halo_away_from_inner_tile_edges(tiling: me.Tiling, height: int) -> None:
    cover = tiling.cover(height, height)
    for span in cover.rows:
        inside = span.kept
        assert 0 <= inside.start < inside.stop <= span.size
        assert span.origin == 0 or inside.start >= tiling.halo
        end_of_frame = span.origin + span.size >= height
        assert end_of_frame or span.size - inside.stop >= tiling.halo


@given(tilings(), lengths, lengths)
def test_all_tiles_have_one_shape_and_lie_on_the_grid(
    tiling: me.Tiling, height: int, width: int
) -> None:
    cover = tiling.cover(height, width)
    for spans, side, length in zip(
        (cover.rows, cover.columns), tiling.tile, (height, width), strict=True
    ):
        assert len({span.size for span in spans}) == 1
        assert spans[0].size <= side
        if tiling.fixed:
            assert spans[0].size == side
        assert all(span.origin % 4 == 0 for span in spans)
        reach_beyond = spans[-1].origin + spans[-1].size - length
        assert reach_beyond < 4 or len(spans) == 1
    assert len(list(cover)) == len(cover)


def test_last_tile_is_pushed_back_and_meets_its_neighbour_in_the_middle() -> None:
    spans = me.Tiling((64, 64), halo=8).cover(128, 64).rows
    assert [span.origin for span in spans] == [0, 48, 64]
    assert [(span.start, span.stop) for span in spans] == [(0, 56), (56, 88), (88, 128)]


def test_blend_fades_around_the_middle_of_the_overlap() -> None:
    first, second = me.Tiling((64, 64), halo=8, blend=8).cover(100, 64).rows[:2]
    assert first == Span(origin=0, size=64, start=0, stop=54, fade_in=0, fade_out=8)
    assert second.start == 46
    faded = first.weights[-8:] + second.weights[:8]
    np.testing.assert_allclose(faded, 1, atol=1e-6)
    assert np.all(np.diff(first.weights[-8:]) < 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": (62, 64)}, "multiples of 4"),
        ({"tile": (0, 64)}, "multiples of 4"),
        ({"tile": (64, 32), "halo": 16}, "too small for halo=16"),
        ({"tile": (64, 64), "halo": 40}, "too small for halo=40"),
        ({"tile": (64, 64), "halo": 8, "blend": 20}, "too small for halo=8 and blend=20"),
        ({"tile": (64, 64), "halo": -1}, "halo=-1"),
        ({"tile": (64, 64), "blend": 3}, "blend=3"),
        ({"tile": (64, 64), "blend": -2}, "blend=-2: neither may be negative"),
    ],
)
def test_impossible_tilings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(me.TilingError, match=message):
        me.Tiling(**arguments)  # type: ignore[arg-type]
