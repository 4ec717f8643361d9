"""Frames and tiles in device memory, as the tile kernels take them: addresses, sizes, formats.

Nothing here owns memory.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

from mirnet_edge.errors import FrameError, TilingError

CHANNELS = {"gray": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}
SAMPLE_BYTES = {"u8": 1, "u16": 2, "f32": 4}
PLANES_OF_YUV = {"nv12": 2, "i420": 3, "yuyv": 1}
VALUE_NAMES = {"float16": "f16", "float32": "f32"}
FORMATS = (
    *(f"{order}_{sample}" for order, sample in itertools.product(CHANNELS, SAMPLE_BYTES)),
    *(f"{layout}_u8" for layout in PLANES_OF_YUV),
)
LOAD_MATRIX, STORE_MATRIX = 6, 10  # floats of YuvToRgb and RgbToYuv (kernels/yuv.cuh)
MAX_TILES = 65535  # of gridDim.z


@dataclass(frozen=True)
class Plane:
    """A plane of a frame in device memory.

    Attributes:
        address: of its first row.
        pitch_bytes: from row to row, negative where the bottom row lies first.
    """

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

    Raises:
        FrameError: a format, size, plane or matrix that no kernel takes.
    """

    format: str
    height: int
    width: int
    planes: tuple[Plane, ...]
    load_matrix: tuple[float, ...] | None = None
    store_matrix: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise FrameError(f"no kernel takes {self.format!r}; need one of {', '.join(FORMATS)}")
        rows, columns = {"nv12": (2, 2), "i420": (2, 2), "yuyv": (1, 2)}.get(self.layout, (1, 1))
        if min(self.height, self.width) < 1 or self.height % rows or self.width % columns:
            raise FrameError(
                f"a {self.format} frame of {self.height}x{self.width} pixels; need a height that "
                f"is a multiple of {rows} and a width that is one of {columns}, from 1 on"
            )
        expected = PLANES_OF_YUV.get(self.layout, 1)
        if len(self.planes) != expected:
            raise FrameError(f"{len(self.planes)} planes of {self.format}; need {expected}")
        for plane in self.planes:
            if plane.address % self.sample_bytes or plane.pitch_bytes % self.sample_bytes:
                raise FrameError(
                    f"a plane of {self.format} at {plane.address:#x} with rows "
                    f"{plane.pitch_bytes} bytes apart; need multiples of {self.sample_bytes} bytes"
                )
        for name, matrix, size in (
            ("load_matrix", self.load_matrix, LOAD_MATRIX),
            ("store_matrix", self.store_matrix, STORE_MATRIX),
        ):
            if matrix is not None and len(matrix) != size:
                raise FrameError(f"a {name} of {len(matrix)} numbers; need {size}")

    @property
    def layout(self) -> str:
        """``rgb`` of "rgb_u8"."""
        return self.format.partition("_")[0]

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample."""
        return SAMPLE_BYTES[self.format.partition("_")[2]]

    @property
    def yuv(self) -> bool:
        """Whether it holds Y'CbCr."""
        return self.layout in PLANES_OF_YUV

    @cached_property
    def plane_arguments(self) -> tuple[int, ...]:
        """Address and pitch of y, cb and cr; zeros for planes that the format lacks."""
        pairs = [number for plane in self.planes for number in (plane.address, plane.pitch_bytes)]
        return (*pairs, *[0] * (6 - len(pairs)))


@dataclass(frozen=True)
class DeviceTiles:
    """A batch or ring of tiles in device memory, (count, channels, height, width) or, where
    channels are last, (count, height, width, channels).

    Attributes:
        address: of the first; aligned to 4 values where channels are last.
        count: of tiles.
        channels: red, green, blue, then padding: 3 or more; a multiple of 4 where they are last.
        height, width: of a tile in pixels.
        dtype: ``float16`` or ``float32``.
        channels_last: see above.

    Raises:
        TilingError: tiles that no kernel takes.
    """

    address: int
    count: int
    channels: int
    height: int
    width: int
    dtype: str
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in VALUE_NAMES:
            raise TilingError(f"tiles of {self.dtype}; need {' or '.join(VALUE_NAMES)}")
        step = 4 if self.channels_last else 1
        if self.channels < 3 or self.channels % step:
            raise TilingError(
                f"tiles of {self.channels} channels; need 3 or more, or a multiple of 4 where they "
                "are last"
            )
        if self.address % (step * self.value_bytes):
            raise TilingError(
                f"tiles at {self.address:#x}; need a multiple of {step * self.value_bytes} bytes"
            )
        if min(self.height, self.width) < 1 or not 1 <= self.count <= MAX_TILES:
            raise TilingError(
                f"{self.count} tiles of {self.height}x{self.width} pixels; need 1 to {MAX_TILES} "
                "of a pixel or more"
            )

    @property
    def value_name(self) -> str:
        """``f16`` of "float16"."""
        return VALUE_NAMES[self.dtype]

    @property
    def value_bytes(self) -> int:
        """Bytes of a value."""
        return int(self.value_name[1:]) // 8

    @property
    def size_bytes(self) -> int:
        """Bytes of all tiles."""
        return self.count * self.channels * self.height * self.width * self.value_bytes

    @property
    def layout_arguments(self) -> tuple[int, int, int, int]:
        """Height, width, channels, whether they are last: as every kernel asks for them."""
        return self.height, self.width, self.channels, int(self.channels_last)
