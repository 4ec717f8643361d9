"""The batches of a frame's tiles as tables on the device, one row a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Owner, Stream
from mirnet_edge.pooling.samples import Sample
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.tiling.geometry import Cover

NOTHING = (0, 0, 0, 0)


@dataclass(frozen=True)
class Place:
    """One tile.

    Attributes:
        origin: (x, y) of its first pixel in the frame.
        kept: (y0, x0, y1, x1), what of the frame it writes, ends excluded.
        region: what of it counts in the frame's statistics; None where none are gathered.
    """

    origin: tuple[int, int]
    kept: tuple[int, int, int, int]
    region: Weights | None = None


def places_of(cover: Cover, regions: Sequence[Weights] | None) -> list[Place]:
    """The tiles of a frame, in reading order; faded pixels are written by the tile that fades
    in."""
    return [
        Place(
            (column.origin, row.origin),
            (row.settled.start, column.settled.start, row.settled.stop, column.settled.stop),
            regions[index] if regions else None,
        )
        for index, (row, column) in enumerate(cover)
    ]


def places_of_samples(samples: Sequence[Sample]) -> list[Place]:
    """Sample tiles, of which nothing is written."""
    return [
        Place((sample.columns.start, sample.rows.start), NOTHING, sample.region)
        for sample in samples
    ]


class BatchTables(Owner):
    """Where the tiles of each batch lie, what is kept and what counts of them. Places that the last
    batch has no tile for keep nothing.

    Args:
        places: of the tiles.
        batch: tiles of one run.
        stream: to upload on; waited for.

    Attributes:
        tiles: how many.
        rows: batches.
        origins, kept: addresses of (rows, batch, 2) and (rows, batch, 4) int32.
        row_weights, column_weights: addresses of (rows, batch, H) and (rows, batch, W) float32; 0
            where no place has a region.
        areas: of the regions, in pixels.
        size_bytes: of all tables.

    Raises:
        DeviceError: not enough memory.
    """

    def __init__(self, places: Sequence[Place], batch: int, *, stream: Stream) -> None:
        super().__init__(stream.device)
        self.tiles = len(places)
        self.rows = -(-self.tiles // batch)
        self.size_bytes = 0
        self._owned = ExitStack()
        self._opened()
        regions = [place.region for place in places if place.region is not None]
        self.areas = tuple(region.area for region in regions)
        try:
            self.origins = self._upload([place.origin for place in places], np.int32, batch, stream)
            self.kept = self._upload([place.kept for place in places], np.int32, batch, stream)
            self.row_weights = self.column_weights = 0
            if regions:
                rows = [region.rows.reshape(-1) for region in regions]
                columns = [region.columns.reshape(-1) for region in regions]
                self.row_weights = self._upload(rows, np.float32, batch, stream)
                self.column_weights = self._upload(columns, np.float32, batch, stream)
            stream.synchronize()
        except Exception:
            self.close()
            raise

    def _upload(self, values: Sequence[Any], dtype: Any, batch: int, stream: Stream) -> int:
        table: NDArray[Any] = np.zeros((self.rows * batch, len(values[0])), dtype)
        table[: len(values)] = values
        memory = self._owned.enter_context(DeviceBuffer(self.device, table.nbytes))
        self.size_bytes += table.nbytes
        memory.upload(table, stream=stream)
        stream.synchronize()  # the table goes with this call
        return memory.address

    def _release(self) -> None:
        self._owned.close()
