"""Sample tiles of a frame: a few that together tell what all of them would pool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mirnet_edge.facts import SizeRule
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.tiling.geometry import Cover, Span, partition

EDGE_PX = 8
"""Left out at inner edges of a sample, where the convolutions saw zeros instead of the frame.
edge-s-denoise, tile 128, halo 32, about nine samples of each of four photos, PSNR against untiled:
62.6 dB with 0, 64.0 with 8, 63.9 with 16, which leaves less to average."""


@dataclass(frozen=True)
class Sample:
    """One sample tile: what it covers in frame pixels, maybe beyond the frame's end, and what of it
    counts."""

    rows: slice
    columns: slice
    region: Weights


def kept_regions(cover: Cover, rule: SizeRule) -> list[Weights]:
    """Of each tile of a frame, the region that it alone counts for (see `partition`)."""
    size = (cover.rows[0].size, cover.columns[0].size)
    rows, columns = (partition(spans, rule) for spans in (cover.rows, cover.columns))
    return [Weights.of(size, row, column) for row in rows for column in columns]


def sample_tiles(cover: Cover, count: int, rule: SizeRule) -> list[Sample]:
    """About ``count`` tiles in the middles of equal parts of the frame, on a grid as square as the
    frame allows; where there are no more than that, all tiles of the frame, each with the region
    that it alone counts for."""
    if len(cover) <= count:
        regions = kept_regions(cover, rule)
        return [
            Sample(row.source, column.source, region)
            for (row, column), region in zip(cover, regions)
        ]
    tall, wide = (
        (spans[-1].origin + spans[-1].size) / spans[0].size for spans in (cover.rows, cover.columns)
    )
    down = min(count, max(1, round(math.sqrt(count * tall / wide))))
    rows = _places(cover.rows, down, rule)
    columns = _places(cover.columns, max(1, round(count / down)), rule)
    size = (cover.rows[0].size, cover.columns[0].size)
    return [
        Sample(row, column, Weights.of(size, row_inside, column_inside))
        for row, row_inside in rows
        for column, column_inside in columns
    ]


def _places(spans: Sequence[Span], count: int, rule: SizeRule) -> list[tuple[slice, slice]]:
    """Along one axis, ``count`` tiles at the middles of equal parts, each once, with what of it
    counts."""
    size = spans[0].size
    end = spans[-1].origin + size
    middles = ((2 * part + 1) * end // (2 * count) for part in range(count))
    origins = {min(max(middle - size // 2, 0), end - size) for middle in middles}
    edge = rule.up(EDGE_PX)
    if 4 * edge > size:  # half of so small a sample would be left out
        edge = 0
    places = []
    for origin in sorted({rule.down(origin) for origin in origins}):
        first = edge if origin else 0
        last = size - edge if origin + size < end else size
        places.append((slice(origin, origin + size), slice(first, last)))
    return places
