"""What an array holds as a frame, and where its planes lie for the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mirnet_edge.device.foreign import packed_strides
from mirnet_edge.device.layouts import DeviceFrame, Plane
from mirnet_edge.errors import FrameError
from mirnet_edge.frames.pixel_formats import (
    PixelFormat,
    kernel_format,
    pixel_format,
    rgb_to_yuv_matrix,
    yuv_to_rgb_matrix,
)

# Not 2, gray with alpha: of that the device is given the gray alone, and the host keeps the alpha.
FORMAT_OF_CHANNELS = {1: "gray", 3: "rgb", 4: "rgba"}


@dataclass(frozen=True)
class ArrayLayout:
    """Shape, dtype and pixel format of an array that holds a frame; height and width in pixels."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pixels: PixelFormat
    height: int
    width: int

    @classmethod
    def of(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], pixels: PixelFormat | None
    ) -> ArrayLayout:
        """Take those of an array, and check that it is a frame of that format; without ``pixels``,
        of what its number of channels says."""
        if pixels is None:
            channels = shape[2] if len(shape) == 3 else 1
            if len(shape) not in (2, 3) or channels not in FORMAT_OF_CHANNELS:
                raise FrameError(
                    f"frame of shape {shape}: need (height, width), or (height, width, C) with C "
                    "= 1 (gray), 3 (RGB) or 4 (RGBA)"
                )
            pixels = pixel_format(FORMAT_OF_CHANNELS[channels])
        height, width = pixels.size_of(shape, dtype)
        return cls(shape, dtype, pixels, height, width)

    def enlarged(self, scale: int) -> ArrayLayout:
        """Give that of a frame ``scale`` times as high and wide, of the same format."""
        # Also where planes lie below each other: their rows are shares of those of the array.
        shape = enlarged_shape(self.shape, scale)
        return replace(self, shape=shape, height=scale * self.height, width=scale * self.width)

    @property
    def size_bytes(self) -> int:
        """Of the array, without gaps."""
        return math.prod(self.shape) * self.dtype.itemsize

    def frame_at(self, address: int, strides: tuple[int, ...] | None = None) -> DeviceFrame:
        """Describe the frame in memory of the device, and check that a kernel can read pixels that
        lie so. Strides are in bytes; None where the array has no gaps."""
        strides = strides or packed_strides(self.shape, self.dtype.itemsize)
        planes = self.pixels.planes_of(self.shape, strides, self.dtype)
        standard = self.pixels.standard
        return DeviceFrame(
            kernel_format(self.pixels, self.dtype),
            self.height,
            self.width,
            tuple(Plane(address + offset, pitch) for offset, pitch in planes),
            load_matrix=standard and yuv_to_rgb_matrix(standard, self.pixels.full_range),
            store_matrix=standard and rgb_to_yuv_matrix(standard, self.pixels.full_range),
        )


def enlarged_shape(shape: tuple[int, ...], scale: int) -> tuple[int, ...]:
    """Give the shape of the array of a frame ``scale`` times as high and wide."""
    return scale * shape[0], scale * shape[1], *shape[2:]
