"""Twins of the kernels for interleaved frames."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Where red, green, blue (and alpha) lie in a pixel.
ORDERS = {
    "gray": (0,),
    "rgb": (0, 1, 2),
    "bgr": (2, 1, 0),
    "rgba": (0, 1, 2, 3),
    "bgra": (2, 1, 0, 3),
}
SAMPLES: dict[str, np.dtype[Any]] = {
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "f32": np.dtype(np.float32),
}
VALUES: dict[str, np.dtype[Any]] = {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}


def maximum(sample: np.dtype[Any]) -> np.float32:
    """The sample that stands for 1.0."""
    return np.float32(1 if sample.kind == "f" else np.iinfo(sample).max)


def fma(first: Any, second: Any, addend: Any) -> Array:
    """first * second + addend of float32, rounded once to float32."""
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.multiply(first, second, dtype=np.float64)
        return np.asarray(np.add(product, addend, dtype=np.float64).astype(np.float32))


def reflected(index: int, size: int) -> int:
    """Position of ``index`` in a row of ``size``, folded back at the borders until it is inside."""
    if size == 1:
        return 0
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def load_tiles(
    frame_hwc: Array,
    order: str,
    origins_xy: Array,
    tile_size_px: tuple[int, int],
    value: np.dtype[Any],
) -> Array:
    """Tiles (N, 3, height, width) of a frame, values in 0..1."""
    height, width = tile_size_px
    unit = frame_hwc.astype(np.float32) / maximum(frame_hwc.dtype)
    planes = unit[..., ORDERS[order][:3]]
    tiles = np.zeros((len(origins_xy), 3, height, width), value)
    for tile, (x0, y0) in zip(tiles, origins_xy, strict=True):
        rows = [reflected(int(y0) + y, frame_hwc.shape[0]) for y in range(height)]
        columns = [reflected(int(x0) + x, frame_hwc.shape[1]) for x in range(width)]
        with np.errstate(over="ignore"):
            tile[...] = planes[np.ix_(rows, columns)].transpose(2, 0, 1)
    return tiles


def store_tiles(
    frame_hwc: Array,
    order: str,
    tiles_nchw: Array,
    origins_xy: Array,
    kept_yxyx: Array,
    alpha_hwc: Array | None,
) -> Array:
    """A copy of the frame into which the kept region of each tile is written."""
    out = frame_hwc.copy()
    height, width = out.shape[:2]
    tile_height, tile_width = tiles_nchw.shape[2:]
    for tile, (ox, oy), (y0, x0, y1, x1) in zip(tiles_nchw, origins_xy, kept_yxyx, strict=True):
        y0, y1 = max(y0, oy, 0), min(y1, oy + tile_height, height)
        x0, x1 = max(x0, ox, 0), min(x1, ox + tile_width, width)
        if y0 >= y1 or x0 >= x1:
            continue
        region = tile[:, y0 - oy : y1 - oy, x0 - ox : x1 - ox].astype(np.float32)
        pixels = out[y0:y1, x0:x1]
        if order == "gray":
            pixels[..., 0] = samples_of(_mean(region, out.dtype), out.dtype)
            continue
        for plane, channel in zip(region, ORDERS[order][:3], strict=True):
            pixels[..., channel] = samples_of(plane * maximum(out.dtype), out.dtype)
        if len(ORDERS[order]) == 4:
            opaque = maximum(out.dtype)
            pixels[..., 3] = opaque if alpha_hwc is None else alpha_hwc[y0:y1, x0:x1, 3]
    return out


def _mean(region: Array, sample: np.dtype[Any]) -> Array:
    with np.errstate(invalid="ignore"):
        total = (region[0] + region[1]) + region[2]
    if sample.kind == "f":
        return np.asarray(total / np.float32(3))
    return np.asarray(total * (maximum(sample) / np.float32(3)))


def samples_of(scaled: Array, sample: np.dtype[Any]) -> Array:
    """Cut to the range of the samples, whole numbers rounded to nearest even; NaN becomes 0."""
    scaled = np.where(np.isnan(scaled), np.float32(0), scaled)
    if sample.kind == "f":
        return np.minimum(np.maximum(scaled, np.float32(0)), np.float32(1))
    return np.clip(np.rint(scaled), 0, maximum(sample)).astype(sample)


def luma_sums(frame_hwc: Array, order: str, row_step: int) -> Array:
    """Sums (8, 8) of 256 x luma over the cells of a frame, of every ``row_step``-th row of each."""
    samples = frame_hwc
    if frame_hwc.dtype.kind == "f":
        samples = samples_of(frame_hwc * np.float32(65535), np.dtype(np.uint16))
    planes = samples.astype(np.uint64)
    if order in ("gray", "yuyv"):
        luma = 256 * planes[..., 0]
    else:
        red, green, blue = (planes[..., i] for i in ORDERS[order][:3])
        luma = 77 * red + 150 * green + 29 * blue
    height, width = luma.shape
    sums = np.zeros((8, 8), np.uint64)
    for row, column in itertools.product(range(8), range(8)):
        rows = slice(row * height // 8, (row + 1) * height // 8, row_step)
        columns = slice(column * width // 8, (column + 1) * width // 8)
        sums[row, column] = luma[rows, columns].sum()
    return sums
