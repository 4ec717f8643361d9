"""Tiles that cover a frame with little to spare."""

from __future__ import annotations

import pytest

from mirnet_edge.facts import SizeRule
from mirnet_edge.tiling.even import LEAST_SIDE_PX, even_side, even_tile, frame_tiles
from mirnet_edge.tiling.geometry import Tiling

RULES = [SizeRule(4, 8), SizeRule(12, 12), SizeRule(16, 16)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("halo", "blend"), [(0, 0), (16, 0), (7, 6)])
@pytest.mark.parametrize("length", [481, 512, 1080, 1999])
def test_a_side_is_the_least_that_covers(
    length: int, halo: int, blend: int, rule: SizeRule
) -> None:
    for parts in (1, 2, 3, 5):
        side = even_side(length, parts, halo, blend, rule)

        def tiles(side: int) -> int:
            tile = (side, side)
            return len(Tiling(tile, halo, blend, rule.multiple, rule.least).cover(length, 1))

        assert tiles(side) == parts
        if parts > 1:
            assert tiles(side - rule.multiple) > parts, "a smaller one does"


def test_a_frame_a_little_larger_than_the_tile_is_not_cut_into_four_of_it() -> None:
    tile = even_tile((512, 512), 480 * 480, 16, 0, SizeRule(4, 8))
    assert tile == (272, 512)
    cover = Tiling(tile, 16).cover(512, 512)
    assert len(cover) == 2
    assert len(cover) * tile[0] * tile[1] < 1.1 * 512 * 512


@pytest.mark.parametrize("frame", [(1080, 1920), (4000, 6000), (200, 9000), (97, 4099)])
@pytest.mark.parametrize("rule", RULES)
def test_no_square_tile_computes_less(frame: tuple[int, int], rule: SizeRule) -> None:
    most = 448
    tile = even_tile(frame, most**2, 16, 0, rule)
    assert tile is not None
    assert tile[0] * tile[1] <= most**2
    assert rule.allows(*tile)
    side = rule.down(most)

    def computed(height: int, width: int) -> int:
        tiling = Tiling((height, width), 16, 0, rule.multiple, rule.least)
        return sum(row.size * column.size for row, column in tiling.cover(*frame))

    assert computed(*tile) <= computed(side, side)


def test_where_no_tile_is_small_enough_there_is_none() -> None:
    assert even_tile((1080, 1920), 64 * 64, 16, 0, SizeRule(4, 8)) is None


def test_a_frame_whole_and_in_ever_smaller_tiles() -> None:
    tiles = frame_tiles((1080, 1920), 16, SizeRule(16, 16))
    assert tiles[:3] == [((1088, 1920), 1), ((1088, 976), 2), ((560, 976), 4)]
    areas = [height * width for (height, width), _ in tiles]
    assert areas == sorted(areas, reverse=True)
    assert min(tiles[-1][0]) >= LEAST_SIDE_PX


def test_a_small_frame_is_one_tile() -> None:
    assert frame_tiles((50, 61), 16, SizeRule(4, 8)) == [((52, 64), 1)]


@pytest.mark.parametrize("frame", [(16, 9000), (9000, 1), (3, 3000), (35, 20_000)])
@pytest.mark.parametrize(("halo", "blend"), [(16, 0), (32, 8), (4, 32)])
def test_a_frame_that_is_lower_than_its_halo(frame: tuple[int, int], halo: int, blend: int) -> None:
    """A tile that halo and blend leave nothing of could not be cut."""
    for rule in (SizeRule(4, 8), SizeRule(16, 16), SizeRule(12, 12)):
        tile = even_tile(frame, 240 * 240, halo, blend, rule)
        assert tile is not None
        cover = Tiling(tile, halo, blend, rule.multiple, rule.least).cover(*frame)
        assert len(cover) > 1 or max(frame) <= max(tile)


def test_a_tile_of_just_the_most_pixels_will_do() -> None:
    rule = SizeRule(4, 8)
    assert even_tile((256, 512), 256 * 512, 16, 0, rule) == (256, 512)
    found = even_tile((256, 512), 256 * 512 - 1, 16, 0, rule)
    assert found is not None
    assert found != (256, 512)


def test_a_tile_keeps_its_least_side_beside_halo_and_blend() -> None:
    """Of 64x470 a tile of 64x132 would fit, with 116 pixels of its own."""
    rule = SizeRule(4, 8)
    assert even_side(470, 4, 4, 8, rule) == 132 < LEAST_SIDE_PX + 2 * 4 + 8
    assert even_tile((64, 470), 96 * 96, 4, 8, rule) is None
