"""NumPy twins of the CUDA kernels: what each must compute, said as plainly as possible."""

from kernel_twins.enlarge import enlarge_alpha, enlarge_tiles, enlarged
from kernel_twins.finite import nonfinite_values
from kernel_twins.frames import (
    ORDERS,
    SAMPLES,
    VALUES,
    Array,
    load_tiles,
    luma_sums,
    reflected,
    store_tiles,
)
from kernel_twins.rows import lap, put_row, take_row
from kernel_twins.seams import blend_tiles
from kernel_twins.yuv import (
    COLOURS,
    YUV_FORMATS,
    Colour,
    load_tiles_yuv,
    store_tiles_yuv,
    yuv_codes,
)

__all__ = [
    "COLOURS",
    "ORDERS",
    "SAMPLES",
    "VALUES",
    "YUV_FORMATS",
    "Array",
    "Colour",
    "blend_tiles",
    "enlarge_alpha",
    "enlarge_tiles",
    "enlarged",
    "lap",
    "load_tiles",
    "load_tiles_yuv",
    "luma_sums",
    "nonfinite_values",
    "put_row",
    "reflected",
    "store_tiles",
    "store_tiles_yuv",
    "take_row",
    "yuv_codes",
]
