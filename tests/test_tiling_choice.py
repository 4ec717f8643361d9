"""The tile that fits in memory, for networks of every size multiple."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

import mirnet_edge as me
from mirnet_edge.tiling.choice import (
    AUTO_TILE_PX,
    WHOLE,
    Cut,
    auto_tile,
    require_memory,
    tile_bytes,
)


def facts_of(multiple: int, bytes_per_pixel: int = 200) -> me.ModelFacts:
    return me.ModelFacts(
        size_multiple=multiple, min_size_px=multiple, bytes_per_pixel=bytes_per_pixel
    )


@pytest.mark.parametrize(("multiple", "step"), [(4, 32), (8, 32), (12, 36), (16, 32)])
@pytest.mark.parametrize("bytes_per_pixel", [40, 200, 900, 100_000])
@pytest.mark.parametrize("limit", [None, 10**6, 3 * 10**7])
def test_an_automatic_tile_is_one_that_the_network_takes(
    multiple: int, step: int, bytes_per_pixel: int, limit: int | None
) -> None:
    facts = facts_of(multiple, bytes_per_pixel)
    side = auto_tile(facts, halo=multiple, blend=0, memory_limit=limit)
    assert facts.size_rule.allows(side)
    assert side % step == 0
    assert side <= AUTO_TILE_PX[1]
    assert side >= (AUTO_TILE_PX[0] if limit is None else 3 * multiple)


def test_a_limit_asks_for_the_least_tile_that_halo_and_blend_allow() -> None:
    for multiple, least in ((8, 128), (12, 108), (16, 128)):
        facts = facts_of(multiple, 100_000)
        assert auto_tile(facts, halo=40, blend=4, memory_limit=1000) == least


def test_a_smaller_tile_is_named_where_there_is_one() -> None:
    with pytest.raises(me.TilingError, match="take a tile of at most 48"):
        require_memory(facts_of(12), (96, 96), int(2.1 * 200 * 59 * 59))


def test_a_frame_of_the_most_pixels_is_whole_and_one_more_is_not() -> None:
    cut = Cut(facts_of(4), (32, 32), halo=4, blend=0, whole_px=48 * 48, is_automatic=True)
    assert len(cut.tiling(48, 48).cover(48, 48)) == 1
    assert len(cut.tiling(48, 49).cover(48, 49)) > 1


def test_without_a_limit_a_quarter_more_than_a_tile_is_whole() -> None:
    cut = Cut.of(facts_of(4), "auto", None, halo=16, blend=0)
    assert cut.tile is not None
    assert cut.whole_px == int(cut.tile[0] ** 2 * WHOLE)
    limited = Cut.of(facts_of(4), "auto", None, halo=16, blend=0, memory_limit=10**8)
    assert limited.tile is not None
    assert limited.whole_px == limited.tile[0] ** 2


def test_the_only_tile_of_an_engine_may_be_asked_for() -> None:
    assert Cut.of(facts_of(4), (32, 48), (32, 48), halo=4, blend=0).tile == (32, 48)
    with pytest.raises(me.TilingError, match=r"takes only \(32, 48\)"):
        Cut.of(facts_of(4), (32, 32), (32, 48), halo=4, blend=0)


def test_an_automatic_tile_takes_a_quarter_of_the_memory_at_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = facts_of(4)
    wanted = 256
    there = 4 * tile_bytes(facts, (wanted, wanted))
    for more, side in ((100, wanted), (-100, wanted - 32)):
        memory = SimpleNamespace(available=there + more)
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        assert auto_tile(facts, halo=16, blend=0) == side


def test_a_frame_is_cut_evenly_where_the_tile_is_automatic() -> None:
    for automatic, tile in ((True, (272, 512)), (False, (480, 480))):
        cut = Cut(facts_of(4), (480, 480), halo=16, blend=0, is_automatic=automatic)
        assert cut.tiling(512, 512).tile == tile
