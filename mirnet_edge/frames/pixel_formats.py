"""How the pixels of a camera or video lie in one array, and their colours in RGB and back.

    format                     array (as OpenCV has it)     dtypes                    even
    gray                       (H, W) or (H, W, 1)          uint8, uint16, float32
    rgb, bgr                   (H, W, 3)                    the same
    rgba, bgra                 (H, W, 4)                    the same
    nv12                       (H * 3 / 2, W)               uint8                     H, W
    i420                       (H * 3 / 2, W)               uint8                     H, W
    yuyv                       (H, W, 2)                    uint8                     W

The arithmetic of Y'CbCr is that of the CUDA kernels (kernels/yuv.cuh, store_tiles.cu): float32,
fused where they fuse, rounded to nearest with ties to even. Chroma is repeated over the pixels that
share it and averaged over them again, so a frame that nobody changed comes back code by code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mirnet_edge.errors import FrameError
from mirnet_edge.frames.layout import MAXIMUM

FormatName = Literal["gray", "rgb", "bgr", "rgba", "bgra", "nv12", "i420", "yuyv"]
Standard = Literal["bt601", "bt709"]
Planes = tuple[tuple[int, int], ...]
"""(offset, pitch) of each plane in bytes, the offset from the first pixel of the array."""

CHANNELS = {"gray": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "yuyv": 2}
SHARED_ROWS = {"nv12": 2, "i420": 2, "yuyv": 1}
"""Rows that have one chroma sample in common, of the formats that are Y'CbCr."""
RED_BLUE = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
"""Weights of red and blue in luma (ITU-R BT.601 and BT.709, section 3.2 of either)."""
BAND_ROWS = 16
KERNEL_SAMPLES = dict(zip(MAXIMUM, ("u8", "u16", "f32")))


@dataclass(frozen=True)
class PixelFormat:
    """One of the formats above; made by `pixel_format`.

    Attributes:
        name: of the format.
        standard: whose weights luma has: "bt601" or "bt709". None where there is no luma.
        full_range: codes 0-255 and not 16-235 (luma), 16-240 (chroma). False where there is none.
    """

    name: FormatName
    standard: Standard | None = None
    full_range: bool = False

    def __post_init__(self) -> None:
        if self.is_yuv != (self.standard is not None):
            raise FrameError(
                f"{self.name} with the colour standard {self.standard}; make it with "
                f"pixel_format({self.name!r}, standard=..., full_range=...)"
            )

    @property
    def is_yuv(self) -> bool:
        """Whether the codes are Y'CbCr."""
        return self.name in SHARED_ROWS

    @property
    def is_bgr(self) -> bool:
        """Whether blue comes first."""
        return self.name in ("bgr", "bgra")

    def size_of(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[int, int]:
        """Height and width in pixels of the frame in an array of this shape.

        Raises:
            FrameError: no array of this format: its dtype, dimensions, channels or an odd size.
        """
        dtype = np.dtype(dtype)
        known = [np.dtype(np.uint8)] if self.is_yuv else list(MAXIMUM)
        if dtype not in known:
            wanted = ", ".join(map(str, known))
            raise FrameError(f"{self.name} frame of dtype {dtype}: need {wanted}; convert it")
        planar = self.name in ("nv12", "i420")
        shapes = {
            "gray": "(height, width) or (height, width, 1)",
            "nv12": "(height * 3 / 2, width)",
            "i420": "(height * 3 / 2, width)",
        }.get(self.name, f"(height, width, {CHANNELS.get(self.name)})")
        if len(shape) == 2:
            fits = planar or self.name == "gray"
        else:
            fits = len(shape) == 3 and not planar and shape[2] == CHANNELS[self.name]
        if not fits:
            raise FrameError(
                f"frame of shape {shape} is not {self.name}, which is {shapes}; name the format "
                "that it has, or convert it"
            )
        if 0 in shape:
            raise FrameError(f"frame of shape {shape} has no pixels")
        height, width = shape[:2]
        if planar:
            if height % 3:
                raise FrameError(
                    f"{self.name} frame of shape {shape}: {height} rows are not height * 3 / 2 of "
                    "an even height; give luma and chroma in one array, of a frame cut to even size"
                )
            height = height // 3 * 2
        if self.is_yuv and width % 2:
            raise FrameError(
                f"{self.name} frame of shape {shape}: its width {width} is odd, and two pixels "
                "share a chroma sample; cut it to an even width"
            )
        return height, width

    def shape_of(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the array of a frame, gray without its third dimension."""
        if self.name in ("nv12", "i420"):
            return height + height // 2, width
        return (height, width) if self.name == "gray" else (height, width, CHANNELS[self.name])

    def planes_of(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: DTypeLike
    ) -> Planes:
        """Where the planes lie for the kernels: one, nv12's Y and CbCr, or i420's Y, Cb and Cr.

        Args:
            shape: of the array.
            strides: in bytes. Rows may be any whole number of samples apart, upwards too. The
                chroma of i420 must be contiguous: two of its rows lie in one row of the array.
            dtype: of the array.

        Raises:
            FrameError: no array of this format, or one whose pixels do not lie so.
        """
        height, width = self.size_of(shape, dtype)
        item = np.dtype(dtype).itemsize
        packed = [item] if len(shape) == 2 else [shape[2] * item, item]
        loose = [
            size > 1 and stride != expected
            for size, stride, expected in zip(shape[1:], strides[1:], packed)
        ]
        # Of a single row NumPy and DLPack may give any stride, even 0.
        pitch = strides[0] if shape[0] > 1 else width * packed[0]
        if any(loose) or pitch % item:
            raise FrameError(
                f"{self.name} frame of shape {shape}, strides {strides} bytes: the pixels of a row "
                f"must lie side by side (strides ..., {', '.join(map(str, packed))}) and rows "
                f"a multiple of {item} apart; copy it with .contiguous() or np.ascontiguousarray"
            )
        if self.name == "nv12":
            return (0, pitch), (height * pitch, pitch)
        if self.name != "i420":
            return ((0, pitch),)
        if height > 2 and pitch != width:  # two rows of luma are one of Cb and one of Cr
            raise FrameError(
                f"i420 frame of shape {shape}: its rows are {pitch} bytes apart, and chroma, of "
                f"which each row holds two, needs {width}; copy it with .contiguous() or "
                "np.ascontiguousarray, or take nv12"
            )
        cb = height * pitch
        return (0, pitch), (cb, width // 2), (cb + height // 2 * (width // 2), width // 2)


def pixel_format(
    name: str | PixelFormat, *, standard: str = "bt709", full_range: bool = False
) -> PixelFormat:
    """The format of that name; what is one already is returned.

    Args:
        name: "gray", "rgb", "bgr", "rgba", "bgra", "nv12", "i420" or "yuyv".
        standard: "bt709" (HD video) or "bt601" (SD video, JPEG, OpenCV's conversions).
        full_range: as JPEG and most webcams have it, not video. Neither matters without luma.

    Raises:
        FrameError: no such format or standard.
    """
    if isinstance(name, PixelFormat):
        return name
    if not isinstance(name, str) or name not in get_args(FormatName):
        known = ", ".join(get_args(FormatName))
        raise FrameError(f"no pixel format {name!r:.60}; known are {known}")
    if standard not in RED_BLUE:
        raise FrameError(f"no colour standard {standard!r}; known are {', '.join(RED_BLUE)}")
    if name not in SHARED_ROWS:
        return PixelFormat(cast(FormatName, name))
    return PixelFormat(cast(FormatName, name), cast(Standard, standard), full_range)


def kernel_format(pixels: PixelFormat, dtype: DTypeLike) -> str:
    """The part of the kernels' names that says what a frame holds: "rgb_u8", "nv12_u8"."""
    return f"{pixels.name}_{KERNEL_SAMPLES[np.dtype(dtype)]}"


def yuv_to_rgb_matrix(standard: Standard, full_range: bool) -> tuple[float, ...]:
    """struct YuvToRgb of kernels/yuv.cuh: black, luma, red_cr, green_cb, green_cr, blue_cb; its
    comment has the formulas."""
    red, green, blue, black, luma, chroma = _constants(standard, full_range)
    return (
        black,
        1 / luma,
        2 * (1 - red) / chroma,
        -2 * blue * (1 - blue) / (green * chroma),
        -2 * red * (1 - red) / (green * chroma),
        2 * (1 - blue) / chroma,
    )


def rgb_to_yuv_matrix(standard: Standard, full_range: bool) -> tuple[float, ...]:
    """struct RgbToYuv of kernels/yuv.cuh: black, then the weights of red, green and blue in luma,
    in Cb and in Cr; in units of 255 codes."""
    red, green, blue, black, luma, chroma = _constants(standard, full_range)
    cb, cr = chroma / (2 * (1 - blue)), chroma / (2 * (1 - red))
    codes = (
        black,
        *(luma * red, luma * green, luma * blue),
        *(cb * -red, cb * -green, cb * (1 - blue)),
        *(cr * (1 - red), cr * -green, cr * -blue),
    )
    return tuple(code / 255 for code in codes)


def to_rgb(frame: NDArray[Any], pixels: PixelFormat) -> NDArray[np.float32]:
    """Convert a Y'CbCr frame to colours (H, W, 3): 0 black, 1 white; codes that no colour has lie a
    little outside."""
    matrix = yuv_to_rgb_matrix(cast(Standard, pixels.standard), pixels.full_range)
    black, scale, red_cr, green_cb, green_cr, blue_cb = np.array(matrix, np.float32)
    height, width = pixels.size_of(frame.shape, frame.dtype)
    rows = SHARED_ROWS[pixels.name]
    if pixels.name == "yuyv":
        codes, chroma = frame[..., 0], frame[..., 1].reshape(height, width // 2, 2)
    elif pixels.name == "nv12":
        codes, chroma = frame[:height], frame[height:].reshape(height // 2, width // 2, 2)
    else:
        codes = frame[:height]
        chroma = np.moveaxis(frame[height:].reshape(2, height // 2, width // 2), 0, -1)
    found = np.empty((height, width, 3), np.float32)
    for band in _bands(height // rows):
        own = slice(rows * band.start, rows * band.stop)
        luma = (codes[own].astype(np.float32) - black) * scale
        # (H, W) as (H / rows, rows, W / 2, 2): a chroma sample is repeated by broadcasting.
        luma = luma.reshape(-1, rows, width // 2, 2)
        signed = chroma[band].astype(np.float32) - np.float32(128)
        cb, cr = (signed[:, None, :, None, i] for i in range(2))
        rgb = found[own].reshape(*luma.shape, 3)
        rgb[..., 0] = _fma(red_cr, cr, luma)
        rgb[..., 1] = _fma(green_cr, cr, _fma(green_cb, cb, luma))
        rgb[..., 2] = _fma(blue_cb, cb, luma)
    return found


def from_rgb(rgb: NDArray[np.float32], pixels: PixelFormat, out: NDArray[Any]) -> None:
    """Write colours (H, W, 3) to a Y'CbCr frame, cut to the codes and rounded; NaN is black, in
    chroma no colour."""
    matrix = rgb_to_yuv_matrix(cast(Standard, pixels.standard), pixels.full_range)
    black, *weights = np.array(matrix, np.float32)
    height, width = pixels.size_of(out.shape, out.dtype)
    rows = SHARED_ROWS[pixels.name]
    luma = out[..., 0] if pixels.name == "yuyv" else out[:height]
    chroma = np.empty((height // rows, width // 2, 2), np.uint8)
    for band in _bands(height // rows):
        own = slice(rows * band.start, rows * band.stop)
        colours = np.ascontiguousarray(np.moveaxis(rgb[own], -1, 0))
        with np.errstate(invalid="ignore", over="ignore"):
            luma[own] = _codes(_weighted(weights[:3], colours, black))
            total = np.zeros((3, colours.shape[1] // rows, width // 2), np.float32)
            for y, x in itertools.product(range(rows), range(2)):
                total += colours[:, y::rows, x::2]
            for index, part in enumerate((weights[3:6], weights[6:])):
                signed = _weighted(part, total, np.float32(0))
                signed = np.where(np.isnan(signed), np.float32(0), signed)
                unit = _fma(signed, np.float32(0.5 / rows), np.float32(128 / 255))
                chroma[band, :, index] = _codes(unit)
    if pixels.name == "yuyv":
        out[..., 1] = chroma.reshape(height, width)
        return
    packed = chroma if pixels.name == "nv12" else np.moveaxis(chroma, -1, 0)
    out[height:] = packed.reshape(height // 2, width)


def _bands(rows: int) -> Iterator[slice]:
    """Some rows at a time: what is computed between then stays in the processor's cache, which took
    a third off the time of 1080p."""
    return (slice(start, min(start + BAND_ROWS, rows)) for start in range(0, rows, BAND_ROWS))


def _constants(standard: Standard, full_range: bool) -> tuple[float, ...]:
    """Weights of red, green and blue in luma; black, and the codes of luma and of chroma from the
    least to the greatest."""
    red, blue = RED_BLUE[standard]
    return red, 1 - red - blue, blue, *((0, 255, 255) if full_range else (16, 219, 224))


def _codes(unit: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Codes of numbers whose 0..1 are 0..255, rounded once: the product is exact in float64."""
    scaled = np.multiply(unit, 255, dtype=np.float64)
    np.rint(scaled, out=scaled)
    np.fmax(scaled, 0, out=scaled)  # NaN too
    codes: NDArray[np.uint8] = np.fmin(scaled, 255, out=scaled).astype(np.uint8)
    return codes


def _fma(first: ArrayLike, second: ArrayLike, addend: ArrayLike) -> NDArray[np.float32]:
    """first * second + addend of float32: the product is exact in float64."""
    product = np.multiply(first, second, dtype=np.float64)
    with np.errstate(over="ignore"):
        fused: NDArray[np.float32] = np.add(product, addend).astype(np.float32)
    return fused


def _weighted(
    weights: Sequence[np.float32], rgb: NDArray[np.float32], offset: np.float32
) -> NDArray[np.float32]:
    red, green, blue = rgb
    return _fma(weights[2], blue, _fma(weights[1], green, _fma(weights[0], red, offset)))
