"""Tiles of one size that cover a frame with little to spare."""

from __future__ import annotations

from functools import lru_cache

from mirnet_edge.facts import SizeRule

LEAST_SIDE_PX = 128
"""Below this most of a tile is halo."""


def even_side(length: int, parts: int, halo: int, blend: int, rule: SizeRule) -> int:
    """The least side of ``parts`` tiles in a row that cover ``length`` pixels, as `Tiling` lays
    them: neighbours share two halos and a blend."""
    padded = rule.padded(length)
    if parts == 1:
        return padded
    overlap = 2 * halo + blend
    side = rule.padded(-(-(padded + (parts - 1) * overlap) // parts))
    # The stride is rounded down to the multiple, so that the last tile may fall short.
    while side + (parts - 1) * rule.down(side - overlap) < padded:
        side += rule.multiple
    return side


@lru_cache(maxsize=64)
def even_tile(
    frame: tuple[int, int], most_px: int, halo: int, blend: int, rule: SizeRule
) -> tuple[int, int] | None:
    """Of all tiles with at most ``most_px`` pixels the (height, width) that covers a frame with the
    fewest pixels computed, and of those alike the one with the fewest tiles; None where no tile is
    as small."""
    # A frame that is lower than this takes a tile that is higher: halo and blend leave no less.
    least = rule.padded(2 * halo + blend + rule.up(max(rule.multiple, 2 * blend)))
    found: list[tuple[int, int, tuple[int, int]]] = []
    for rows in _parts(frame[0], halo, blend, rule):
        height = max(even_side(frame[0], rows, halo, blend, rule), least)
        for columns in _parts(frame[1], halo, blend, rule):
            width = max(even_side(frame[1], columns, halo, blend, rule), least)
            if height * width <= most_px:
                tiles = rows * columns
                found.append((tiles * height * width, tiles, (height, width)))
                break  # more columns compute more halo
    return min(found)[2] if found else None


def _parts(length: int, halo: int, blend: int, rule: SizeRule) -> range:
    """In how many tiles a side may be cut, so that none is shorter than `LEAST_SIDE_PX`, or than
    halo and blend allow."""
    most = 1
    while even_side(length, most + 1, halo, blend, rule) >= LEAST_SIDE_PX + 2 * halo + blend:
        most += 1
    return range(1, most + 1)


def frame_tiles(
    frame: tuple[int, int], halo: int, rule: SizeRule
) -> list[tuple[tuple[int, int], int]]:
    """Tiles that cover a frame, the whole of it first and then ever smaller ones, and how many of
    each it takes: a tile is halved along its longer side, then cut in three, and so on."""
    rows, columns = (_parts(side, halo, 0, rule) for side in frame)
    found = []
    parts = [1, 1]
    while parts[0] in rows and parts[1] in columns:
        height, width = (even_side(side, n, halo, 0, rule) for side, n in zip(frame, parts))
        found.append(((height, width), parts[0] * parts[1]))
        parts[height < width] += 1
    return found
