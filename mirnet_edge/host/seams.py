"""Join restored tiles: cut where neighbours meet, or let them fade into each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.tiling.geometry import Cover, Span

Planes = NDArray[np.float32]


class Seams:
    """Turns the tiles of one frame, in reading order, into regions that are final.

    Holds nothing where tiles are cut. Where they fade, it carries the faded pixels to the next tile
    and the next row: ``channels x blend x (frame width + tile height)`` floats.
    """

    def __init__(self, cover: Cover, channels: int) -> None:
        self._blend = cover.blend if len(cover) > 1 else 0
        width = cover.columns[-1].stop
        self._above = np.zeros((channels, self._blend, width), np.float32)
        self._left: Planes = np.zeros((channels, 0, 0), np.float32)

    def settle(self, tile: Planes, row: Span, column: Span) -> Planes:
        """Of a restored tile (C, h, w), the final pixels of rows ``row.settled`` and columns
        ``column.settled`` of the frame. May be a view of ``tile``, which may be changed."""
        kept = tile[:, row.kept, column.kept]
        # Weighted as a whole, columns after rows: where two seams cross, the product of their ramps
        # is what the four tiles add up by.
        if not self._blend:
            return kept
        kept *= row.weights[:, None]
        kept *= column.weights
        if column.fade_in:
            kept[:, :, : column.fade_in] += self._left
        if column.fade_out:
            self._left = kept[:, :, -column.fade_out :].copy()  # the next run overwrites the tile
            kept = kept[:, :, : -column.fade_out]
        above = self._above[:, :, column.settled]
        if row.fade_in:
            kept[:, : row.fade_in] += above
        if row.fade_out:
            above[:] = kept[:, -row.fade_out :]
            kept = kept[:, : -row.fade_out]
        return kept
