"""Twins of the kernels that enlarge a frame bicubically, in float64."""

from __future__ import annotations

import numpy as np

from kernel_twins.frames import Array, load_tiles, samples_of


def enlarged(planes_chw: Array, scale: int) -> Array:
    """(C, H, W) to (C, scale H, scale W), float64: Keys' kernel over the frame mirrored at its
    borders, the border pixel repeated."""
    return _along_rows(_along_rows(planes_chw.swapaxes(1, 2), scale).swapaxes(1, 2), scale)


def enlarge_tiles(
    planes_chw: Array, scale: int, origins_xy: Array, tile_size_px: tuple[int, int]
) -> Array:
    """Tiles (N, 3, height, width) of the enlarged frame, float64."""
    frame = enlarged(planes_chw, scale).transpose(1, 2, 0).astype(np.float32)
    return load_tiles(frame, "rgb", origins_xy, tile_size_px, np.dtype(np.float64))


def enlarge_alpha(frame_hwc: Array, enlarged_hwc: Array, scale: int) -> Array:
    """A copy of the enlarged frame into which the alpha of the frame is written."""
    out = enlarged_hwc.copy()
    alpha = enlarged(frame_hwc[None, ..., 3], scale)[0].astype(np.float32)
    out[..., 3] = samples_of(alpha, out.dtype)
    return out


def _along_rows(planes: Array, scale: int) -> Array:
    length = planes.shape[-1]
    padded = np.pad(planes.astype(np.float64), ((0, 0), (0, 0), (3, 3)), mode="symmetric")
    out = np.zeros((*planes.shape[:-1], scale * length))
    for x in range(scale * length):
        centre = (x + 0.5) / scale - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            out[..., x] += _keys(abs(centre - tap)) * padded[..., tap + 3]
    return out


def _keys(distance: float) -> float:
    if distance <= 1:
        return 1.5 * distance**3 - 2.5 * distance**2 + 1
    if distance < 2:
        return -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return 0.0
