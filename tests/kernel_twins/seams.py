"""Twin of the kernels that blend tiles."""

from __future__ import annotations

import numpy as np

from kernel_twins.frames import Array, fma


def blend_tiles(
    tiles_nchw: Array, origins_xy: Array, settled_yxyx: Array, columns: int, ramp: Array
) -> Array:
    """A copy of all tiles of a frame, in which what fades in is blended."""
    out = tiles_nchw.copy()
    faded = slice(0, len(ramp))
    for index, (y0, x0, y1, x1) in enumerate(settled_yxyx):

        def at(tile: int, bottom: int, right: int, top: int = y0, left: int = x0) -> Array:
            ox, oy = origins_xy[tile]
            region: Array = tiles_nchw[tile, :, top - oy : bottom - oy, left - ox : right - ox]
            return region.astype(np.float32)

        def joined(tile: int, bottom: int, index: int = index, x0: int = x0, x1: int = x1) -> Array:
            """Columns x0..x1 of a row of tiles: a tile and the left neighbour that fades out."""
            region = at(tile, bottom, x1)
            if index % columns:
                partner = at(tile - 1, bottom, x0 + len(ramp))
                region[..., faded] = _mixed(region[..., faded], partner, ramp)
            return region

        region = joined(index, y1)
        if index >= columns:
            upper = joined(index - columns, y0 + len(ramp))
            region[:, faded] = _mixed(region[:, faded], upper, ramp[:, None])
        ox, oy = origins_xy[index]
        out[index, :, y0 - oy : y1 - oy, x0 - ox : x1 - ox] = region
    return out


def _mixed(own: Array, partner: Array, weight: Array) -> Array:
    return fma(own, weight, partner * (np.float32(1) - weight))
