"""Twins of the kernels for Y'CbCr frames: planes [y, cbcr] (nv12), [y, cb, cr] (i420), [yuyv]."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernel_twins.frames import Array, fma, load_tiles, samples_of

YUV_FORMATS = ("nv12", "i420", "yuyv")
CODE = np.dtype(np.uint8)


@dataclass(frozen=True)
class Colour:
    """Codes of 8 bits for RGB: the weights of red and blue in luma, and the range.

    Attributes:
        red, blue: kr and kb of the standard.
        black: the code of black.
        luma, chroma: codes from black to white, and from the least to the greatest chroma.
    """

    red: float
    blue: float
    black: int
    luma: int
    chroma: int

    @property
    def weights(self) -> Array:
        """Of red, green and blue in luma."""
        return np.array([self.red, 1 - self.red - self.blue, self.blue])

    @property
    def to_rgb(self) -> Array:
        """struct YuvToRgb of kernels/yuv.cuh."""
        red, green, blue = self.weights
        cb, cr = 2 * (1 - blue) / self.chroma, 2 * (1 - red) / self.chroma
        return np.array(
            [self.black, 1 / self.luma, cr, -cb * blue / green, -cr * red / green, cb], np.float32
        )

    @property
    def to_yuv(self) -> Array:
        """struct RgbToYuv of kernels/yuv.cuh."""
        cb = (np.array([0, 0, 1]) - self.weights) * self.chroma / (2 * (1 - self.blue))
        cr = (np.array([1, 0, 0]) - self.weights) * self.chroma / (2 * (1 - self.red))
        return np.float32(np.array([self.black, *(self.luma * self.weights), *cb, *cr]) / 255)


COLOURS = {
    "bt601-limited": Colour(0.299, 0.114, 16, 219, 224),
    "bt601-full": Colour(0.299, 0.114, 0, 255, 255),
    "bt709-limited": Colour(0.2126, 0.0722, 16, 219, 224),
    "bt709-full": Colour(0.2126, 0.0722, 0, 255, 255),
}


def yuv_codes(planes: Sequence[Array], frame_format: str) -> Array:
    """Y, Cb, Cr (H, W, 3) of every pixel, chroma repeated over the pixels that share it."""
    first = planes[0]
    if frame_format == "yuyv":
        luma = first[..., ::2].reshape(len(first), -1)
        return np.dstack([luma, first[..., 1::2].repeat(2, 1)])
    chroma = planes[1] if frame_format == "nv12" else np.dstack(planes[1:])
    return np.dstack([first, chroma.repeat(2, 0).repeat(2, 1)])


def load_tiles_yuv(
    planes: Sequence[Array],
    frame_format: str,
    colour: Colour,
    origins_xy: Array,
    tile_size_px: tuple[int, int],
    value: np.dtype[Any],
) -> Array:
    """Tiles (N, 3, height, width) of a frame, RGB."""
    codes = yuv_codes(planes, frame_format).astype(np.float32)
    black, scale, red_cr, green_cb, green_cr, blue_cb = colour.to_rgb
    luma = (codes[..., 0] - black) * scale
    cb, cr = codes[..., 1] - np.float32(128), codes[..., 2] - np.float32(128)
    green = fma(green_cr, cr, fma(green_cb, cb, luma))
    rgb = np.dstack([fma(red_cr, cr, luma), green, fma(blue_cb, cb, luma)])
    return load_tiles(rgb, "rgb", origins_xy, tile_size_px, value)


def store_tiles_yuv(
    planes: Sequence[Array],
    frame_format: str,
    colour: Colour,
    tiles_nchw: Array,
    origins_xy: Array,
    kept_yxyx: Array,
) -> list[Array]:
    """Copies of the planes, into which the kept region of each tile is written."""
    out = [plane.copy() for plane in planes]
    height, width = yuv_codes(planes, frame_format).shape[:2]
    tile_height, tile_width = tiles_nchw.shape[2:]
    shared = 1 if frame_format == "yuyv" else 2
    for tile, (ox, oy), (y0, x0, y1, x1) in zip(tiles_nchw, origins_xy, kept_yxyx, strict=True):
        y0, y1 = max(y0, oy, 0), min(y1, oy + tile_height, height)
        x0, x1 = max(x0, ox, 0), min(x1, ox + tile_width, width)
        # What is left of a group of pixels that share chroma is not written.
        y0, y1 = -(-y0 // shared) * shared, y1 // shared * shared
        x0, x1 = -(-x0 // 2) * 2, x1 // 2 * 2
        if y0 >= y1 or x0 >= x1:
            continue
        region = tile[:, y0 - oy : y1 - oy, x0 - ox : x1 - ox].astype(np.float32)
        luma, chroma = _codes(region, colour.to_yuv, shared)
        _write(out, frame_format, slice(y0, y1), slice(x0, x1), luma, chroma)
    return out


def _codes(rgb: Array, to_yuv: Array, shared_rows: int) -> tuple[Array, Array]:
    """Y (h, w) and Cb, Cr (h / shared_rows, w / 2, 2) of planes (3, h, w)."""
    luma = _rounded(_weighted(to_yuv[1:4], rgb, to_yuv[0]))
    total = np.zeros((3, rgb.shape[1] // shared_rows, rgb.shape[2] // 2), np.float32)
    with np.errstate(invalid="ignore"):
        for y, x in itertools.product(range(shared_rows), range(2)):
            total += rgb[:, y::shared_rows, x::2]
    chroma = []
    for weights in (to_yuv[4:7], to_yuv[7:10]):
        signed = _weighted(weights, total, np.float32(0))
        signed = np.where(np.isnan(signed), np.float32(0), signed)
        chroma.append(_rounded(fma(signed, 0.5 / shared_rows, np.float32(128 / 255))))
    return luma, np.dstack(chroma)


def _rounded(unit: Array) -> Array:
    """Codes of numbers whose 0..1 are 0..255; the product is exact in float64."""
    with np.errstate(invalid="ignore"):
        return samples_of(unit.astype(np.float64) * 255, CODE)


def _weighted(weights: Array, rgb: Array, offset: np.float32) -> Array:
    return fma(weights[2], rgb[2], fma(weights[1], rgb[1], fma(weights[0], rgb[0], offset)))


def _write(
    planes: Sequence[Array],
    frame_format: str,
    rows: slice,
    columns: slice,
    luma: Array,
    chroma: Array,
) -> None:
    halves = slice(columns.start // 2, columns.stop // 2)
    if frame_format == "yuyv":
        planes[0][rows, halves, ::2] = luma.reshape(chroma.shape)
        planes[0][rows, halves, 1::2] = chroma
        return
    planes[0][rows, columns] = luma
    where = (slice(rows.start // 2, rows.stop // 2), halves)
    if frame_format == "nv12":
        planes[1][where] = chroma
    else:
        planes[1][where], planes[2][where] = chroma[..., 0], chroma[..., 1]
