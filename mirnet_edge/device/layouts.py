"""Frames and tiles in device memory, as the tile kernels take them: addresses, sizes, formats.

Nothing here owns memory. What arrays may hold was checked before: `array_layout`, `trt.plan`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from mirnet_edge.errors import FrameError

SAMPLE_BYTES = {"u8": 1, "u16": 2, "f32": 4}
YUV_LAYOUTS = ("nv12", "i420", "yuyv")


class Plane(NamedTuple):
    """A plane of a frame in device memory: the address of its first row, and the bytes from row to
    row, negative where the bottom row lies first."""

    address: int
    pitch_bytes: int


@dataclass(frozen=True)
class DeviceFrame:
    """A frame in device memory.

    Attributes:
        format: ``gray``, ``rgb``, ``bgr``, ``rgba`` or ``bgra`` with ``_u8``, ``_u16`` or ``_f32``;
            or ``nv12_u8``, ``i420_u8``, ``yuyv_u8``.
        height, width: in pixels; even where pixels share chroma.
        planes: one; for nv12 y and cbcr; for i420 y, cb and cr.
        load_matrix: to load from a Y'CbCr frame: the 6 floats of YuvToRgb in kernels/yuv.cuh.
        store_matrix: to store to one: the 10 floats of RgbToYuv.
    """

    format: str
    height: int
    width: int
    planes: tuple[Plane, ...]
    load_matrix: tuple[float, ...] | None = None
    store_matrix: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        # Another library's array may begin anywhere; a GPU faults on a sample that is not aligned
        # to its size, and the process loses the device with it.
        for plane in self.planes:
            if plane.address % self.sample_bytes or plane.pitch_bytes % self.sample_bytes:
                raise FrameError(
                    f"a plane of {self.format} at {plane.address:#x} with rows "
                    f"{plane.pitch_bytes} bytes apart; need multiples of {self.sample_bytes} "
                    "bytes: copy the array with .contiguous() or .copy()"
                )

    @property
    def layout(self) -> str:
        """``rgb`` of "rgb_u8"."""
        return self.format.partition("_")[0]

    @property
    def has_alpha(self) -> bool:
        """Whether a fourth channel follows the colours."""
        return self.layout in ("rgba", "bgra")

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample."""
        return SAMPLE_BYTES[self.format.partition("_")[2]]

    @property
    def yuv(self) -> bool:
        """Whether it holds Y'CbCr."""
        return self.layout in YUV_LAYOUTS

    @cached_property
    def plane_arguments(self) -> tuple[int, ...]:
        """Address and pitch of y, cb and cr; zeros for planes that the format lacks."""
        numbers = tuple(chain.from_iterable(self.planes))
        return (*numbers, *[0] * (6 - len(numbers)))


@dataclass(frozen=True)
class DeviceTiles:
    """A batch or ring of tiles in device memory (an `engines.protocol.TileMemory`), of shape
    (count, planes, height, width): red, green, blue, and maybe more."""

    address: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """Bytes of all tiles."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize
