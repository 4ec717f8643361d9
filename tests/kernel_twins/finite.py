"""Twin of what the store kernels count."""

from __future__ import annotations

import numpy as np

from kernel_twins.frames import Array


def nonfinite_values(
    tiles_nchw: Array,
    origins_xy: Array,
    kept_yxyx: Array,
    frame_size_px: tuple[int, int],
    shared_px: tuple[int, int] = (1, 1),
) -> int:
    """How many values that are written are NaN or infinite; of frames in which ``shared_px`` (rows,
    columns) of pixels share chroma, those of whole groups are written."""
    count = 0
    for tile, (ox, oy), (y0, x0, y1, x1) in zip(tiles_nchw, origins_xy, kept_yxyx, strict=True):
        sides = []
        for first, last, origin, tile_side, side, shared in (
            (y0, y1, oy, tile.shape[1], frame_size_px[0], shared_px[0]),
            (x0, x1, ox, tile.shape[2], frame_size_px[1], shared_px[1]),
        ):
            begin = -(-max(first, origin, 0) // shared) * shared
            end = min(last, origin + tile_side, side) // shared * shared
            sides.append(slice(begin - origin, max(begin, end) - origin))
        count += int(np.count_nonzero(~np.isfinite(tile[:, sides[0], sides[1]])))
    return count
