"""What an array holds as a frame, and how its pixels become network input and back.

A frame is ``(H, W)`` or ``(H, W, C)`` with C = 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA), of
uint8, uint16 (full range) or float32 in [0, 1]. The network sees planes ``(C, H, W)`` float32 in
[0, 1]; gray is shown to a three-channel network as three equal planes, and their mean is the
result. Alpha is copied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import EngineError, FrameError

MAXIMUM = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
FLOAT_RANGE = (-2.0, 3.0)
"""What a float32 frame may hold: [0, 1] and noise that is not clamped. The largest of 72 million
samples of sigma 50/255 is 1.1 away, of 75/255 1.7; of a frame in 0..255 all but black is beyond."""
Region = tuple[slice, slice]


@dataclass(frozen=True)
class FrameLayout:
    """Shape and type of a frame.

    Attributes:
        colours: how many channels of colour.
        alpha: whether one more channel follows.
        cut: whether what is stored is cut to [0, 1]; Y'CbCr has codes for more.
    """

    height: int
    width: int
    dtype: np.dtype[Any]
    colours: int
    alpha: bool
    cut: bool = True

    @classmethod
    def of(cls, frame: object, network_channels: int = 3) -> FrameLayout:
        """Read the layout of an array, and check it against what the network takes."""
        frame = require_array(frame)
        shape, dtype = frame.shape, frame.dtype
        if frame.ndim not in (2, 3):
            raise FrameError(f"frame of shape {shape}: need (height, width) or (height, width, C)")
        if 0 in shape:
            raise FrameError(f"frame of shape {shape} has no pixels")
        if dtype not in MAXIMUM:
            wanted = ", ".join(str(known) for known in MAXIMUM)
            raise FrameError(
                f"frame of dtype {dtype}: need one of {wanted} (float32 in [0, 1]); convert it, "
                "e.g. frame.astype(np.float32)"
            )
        channels = shape[2] if frame.ndim == 3 else 1
        if network_channels not in (1, 3):
            if channels != network_channels:
                raise FrameError(
                    f"frame of shape {shape}: this network takes {network_channels} channels"
                )
            return cls(shape[0], shape[1], dtype, channels, False)
        if channels > 4:
            raise FrameError(
                f"frame of shape {shape}: {channels} channels; need 1 (gray), 2 (gray, alpha), "
                "3 (RGB) or 4 (RGBA) last. A (C, H, W) array must be transposed first."
            )
        colours = 1 if channels <= 2 else 3
        if colours > network_channels:
            raise FrameError(f"frame of shape {shape}: this network takes gray frames")
        return cls(shape[0], shape[1], dtype, colours, channels in (2, 4))

    @property
    def maximum(self) -> float:
        """The value that becomes 1."""
        return MAXIMUM[self.dtype]

    def load(self, frame: NDArray[Any], region: Region, planes: NDArray[np.float32]) -> None:
        """Fill ``planes`` (C, h, w) with ``region`` of the frame, whose part beyond the right and
        bottom border is reflected without repeating the border pixel. What a float32 frame holds
        there is checked (see `require_unit_range`)."""
        rows, columns = region
        inside_h = min(rows.stop, self.height) - rows.start
        inside_w = min(columns.stop, self.width) - columns.start
        crop = frame[rows, columns]
        for channel in range(self.colours):
            source = crop if crop.ndim == 2 else crop[:, :, channel]
            inside = planes[channel, :inside_h, :inside_w]
            np.divide(source, np.float32(self.maximum), out=inside, dtype=np.float32)
        if self.maximum == 1.0:
            require_unit_range(
                planes[: self.colours, :inside_h, :inside_w],
                f" in rows {rows.start}-{rows.start + inside_h}, "
                f"columns {columns.start}-{columns.start + inside_w}",
            )
        planes[self.colours :] = planes[:1]
        reflect_beyond(planes, inside_h, inside_w)

    def store(
        self,
        planes: NDArray[np.float32],
        frame: NDArray[Any],
        region: Region,
        nan_as_zero: bool = False,
    ) -> int:
        """Write ``planes`` (C, h, w), cut to [0, 1] and rounded half to even, to ``region`` of the
        frame. What is not finite is refused; or, with ``nan_as_zero``, counted, NaN written as 0
        and infinity as the end of the range, if values are cut. ``planes`` is used as scratch."""
        # One pass and no array of booleans: NaN and infinities end up in a sum, and float64 holds
        # that of any number of float32. Two infinities may cancel, but to NaN.
        with np.errstate(invalid="ignore"):
            total = planes.sum(dtype=np.float64)
        nonfinite = 0
        if not np.isfinite(total):
            nonfinite = int(np.count_nonzero(~np.isfinite(planes)))
        if nonfinite and not nan_as_zero:
            rows, columns = region
            raise EngineError(
                f"the engine returned NaN or infinity in rows {rows.start}-{rows.stop}, columns "
                f"{columns.start}-{columns.stop}; an FP16 overflow? Try an FP32 model."
            )
        if self.colours < planes.shape[0]:
            with np.errstate(invalid="ignore"):  # of two infinities
                planes = planes.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        target = frame[region] if frame.ndim == 3 else frame[region][:, :, None]
        if self.cut:
            np.clip(planes, 0.0, 1.0, out=planes)
            if nonfinite:
                np.nan_to_num(planes, copy=False)
        if self.maximum != 1.0:
            np.multiply(planes, np.float32(self.maximum), out=planes)
            np.rint(planes, out=planes)
        for channel in range(self.colours):
            target[:, :, channel] = planes[channel]
        return nonfinite


def require_array(frame: object) -> NDArray[Any]:
    """Check that a frame is an array of numpy, and not masked."""
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"a frame must be a numpy array, not {type(frame).__name__}")
    require_unmasked(frame)
    return frame


def require_unmasked(array: NDArray[Any]) -> None:
    """Check that an array is not one of ``numpy.ma``: nobody said what its masked pixels are."""
    if isinstance(array, np.ma.MaskedArray):
        raise FrameError(
            f"array of shape {array.shape} is masked; give its masked pixels a value, e.g. "
            "frame.filled(0)"
        )


def require_unit_range(samples: NDArray[np.float32], where: str = "") -> None:
    """Check that colours of a float32 frame are finite and within `FLOAT_RANGE`; ``where`` says of
    which part of it they are."""
    low, high = float(samples.min()), float(samples.max())  # NaN where there is one
    if FLOAT_RANGE[0] <= low and high <= FLOAT_RANGE[1]:
        return
    if not math.isfinite(high - low):
        raise FrameError(f"the frame holds NaN or infinity{where}")
    raise FrameError(
        f"the frame holds values from {low:g} to {high:g}{where}, but a float32 frame is in "
        f"[0, 1]: divide it by {255 if high < 256 else 65535}, or by whatever is white in it"
    )


def reflect_beyond(planes: NDArray[np.float32], height: int, width: int) -> None:
    """Fill what is beyond the first ``height`` rows and ``width`` columns with their reflection."""
    if width < planes.shape[2]:
        mirrored = reflected(np.arange(width, planes.shape[2]), width)
        planes[:, :, width:] = planes[:, :, mirrored]
    if height < planes.shape[1]:
        mirrored = reflected(np.arange(height, planes.shape[1]), height)
        planes[:, height:] = planes[:, mirrored]


def reflected(positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Positions mirrored into ``[0, size)`` about the first and last one, as often as needed
    (numpy.pad's mode "reflect"); all 0 where the size is 1."""
    if size == 1:
        return np.zeros_like(positions)
    period = 2 * (size - 1)
    folded = positions % period
    return np.minimum(folded, period - folded)
