"""The batches of a frame's tiles as tables on the device, one row a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from mirnet_edge.cuda import DeviceBuffer, Owner, Stream
from mirnet_edge.pooling.samples import Sample
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.tiling.geometry import Cover

NOTHING = (0, 0, 0, 0)


class BatchTables(Owner):
    """Where the tiles of each batch lie, what each writes and what counts of it.

    Args:
        origins: (x, y) of each tile's first pixel in the frame.
        kept: (y0, x0, y1, x1) in the frame, what each tile writes, ends excluded.
        regions: what of each counts in the means over the frame; empty where none are taken.
        stream: to upload on; waited for.

    Attributes:
        tiles, rows: how many, and in how many batches.
        origins, kept: addresses of (rows, batch, 2) and (rows, batch, 4) int32.
        row_weights, column_weights: addresses of (rows, batch, H) and (rows, batch, W) float32; 0
            where there are no regions.
        areas: of the regions, in pixels.
    """

    def __init__(
        self,
        origins: Sequence[tuple[int, int]],
        kept: Sequence[tuple[int, int, int, int]],
        regions: Sequence[Weights],
        batch: int,
        *,
        stream: Stream,
    ) -> None:
        super().__init__(stream.device)
        self.tiles, self.rows = len(origins), -(-len(origins) // batch)
        self.areas = tuple(region.area for region in regions)
        self.size_bytes = 0
        self._batch, self._stream = batch, stream
        with self._making():
            self.origins = self._upload(origins, np.int32)
            self.kept = self._upload(kept, np.int32)
            self.row_weights = self.column_weights = 0
            if regions:
                self.row_weights = self._upload([r.rows.ravel() for r in regions], np.float32)
                self.column_weights = self._upload([r.columns.ravel() for r in regions], np.float32)

    @classmethod
    def of_frame(
        cls, cover: Cover, regions: Sequence[Weights], batch: int, *, stream: Stream
    ) -> BatchTables:
        """The tiles of a frame, in reading order."""
        return cls(
            [(column.origin, row.origin) for row, column in cover],
            # Settled, not kept: pixels that fade are written once, by the tile that fades in.
            [
                (row.settled.start, column.settled.start, row.settled.stop, column.settled.stop)
                for row, column in cover
            ],
            regions,
            batch,
            stream=stream,
        )

    @classmethod
    def of_samples(cls, samples: Sequence[Sample], batch: int, *, stream: Stream) -> BatchTables:
        """Sample tiles, of which nothing is written."""
        origins = [(sample.columns.start, sample.rows.start) for sample in samples]
        regions = [sample.region for sample in samples]
        return cls(origins, [NOTHING] * len(samples), regions, batch, stream=stream)

    def _upload(self, values: ArrayLike, dtype: DTypeLike) -> int:
        given = np.asarray(values, dtype)
        # Zeros beyond the last tile: a whole batch is run all the same, and writes nothing there.
        table = np.zeros((self.rows * self._batch, given.shape[1]), dtype)
        table[: len(given)] = given
        memory = self._own(DeviceBuffer(self.device, table.nbytes))
        self.size_bytes += table.nbytes
        memory.upload(table, stream=self._stream)
        self._stream.synchronize()  # the copy reads the table, which goes with this call
        return memory.address
