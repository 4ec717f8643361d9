"""The tile kernels as typed calls: the one place that knows their names and argument orders.

Nothing is copied, allocated or waited for here: addresses are of the device's memory, whose owner
keeps it until the stream has done the work.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

from mirnet_edge.cuda import Device, Kernels, Owner, Stream
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

Size = tuple[int, int, int]
THREADS = 32, 8  # of a block, across and down: a warp moves neighbouring bytes of one row
ROW_THREADS = 256
ROW_BLOCKS = 512  # a few for each multiprocessor of the largest GPU; more would only queue
ONE = 1, 1, 1


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


class TileKernels(Owner):
    """Queues the tile kernels on streams.

    Addresses are of device memory: ``origins`` of (tiles, 2) int32 x, y; ``kept`` and ``settled``
    of (tiles, 4) int32 y0, x0, y1, x1; ``cursor`` of one int32. The head comment of each kernel in
    ``kernels/`` has the rest. A kernel is compiled when it is first used: use each once before
    frames are waiting, and before capturing a graph.

    Raises:
        DeviceError: of each method: closed, no compiler, or the driver reports an error.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._kernels = Kernels(device)
        self._opened()

    def load(self, frame: DeviceFrame, origins: int, tiles: DeviceTiles, *, stream: Stream) -> None:
        """Cut a frame into all of ``tiles`` (kernels/load_tiles.cu, load_tiles_yuv.cu).

        Raises:
            FrameError: a Y'CbCr frame without load_matrix.
        """
        name = f"load_tiles_{frame.format}_{tiles.value_name}"
        ends = (origins, tiles.address, *tiles.layout_arguments)
        grid = _tile_grid(tiles, 4 // frame.sample_bytes)
        if frame.yuv:
            matrix = _matrix(frame, "load_matrix")
            kernel = self._kernels.get("load_tiles_yuv", name, "PqPqPqii" + "f" * 6 + "PPiiii")
            size = frame.height, frame.width
            arguments = (*frame.plane_arguments, *size, *matrix, *ends)
            kernel.launch(*arguments, grid=grid, block=(*THREADS, 1), stream=stream)
            return
        kernel = self._kernels.get("load_tiles", name, "PqiiPPiiii")
        plane = frame.planes[0]
        kernel.launch(
            *(plane.address, plane.pitch_bytes, frame.height, frame.width, *ends),
            grid=grid,
            block=(*THREADS, 1),
            stream=stream,
        )

    def store(
        self,
        tiles: DeviceTiles,
        origins: int,
        kept: int,
        frame: DeviceFrame,
        *,
        stream: Stream,
        alpha: DeviceFrame | None = None,
    ) -> None:
        """Write the kept region of each tile into a frame (kernels/store_tiles.cu,
        store_tiles_yuv.cu).

        Args:
            alpha: of the same size and format, whose alpha is copied; the frame itself to leave
                alpha as it is; None for opaque.

        Raises:
            FrameError: a Y'CbCr frame without store_matrix, or another alpha than that.
        """
        name = f"store_tiles_{frame.format}_{tiles.value_name}"
        begins = (tiles.address, *tiles.layout_arguments, origins, kept)
        size = frame.height, frame.width
        if frame.yuv:
            if alpha is not None:
                raise FrameError(f"an alpha frame for {frame.format}, which has no alpha")
            matrix = _matrix(frame, "store_matrix")
            kernel = self._kernels.get("store_tiles_yuv", name, "PiiiiPP" + "f" * 10 + "PqPqPqii")
            kernel.launch(
                *(*begins, *matrix, *frame.plane_arguments, *size),
                grid=_tile_grid(tiles, 4, rows=1 if frame.layout == "yuyv" else 2),
                block=(*THREADS, 1),
                stream=stream,
            )
            return
        copied = _alpha_plane(frame, alpha)
        plane = frame.planes[0]
        kernel = self._kernels.get("store_tiles", name, "PiiiiPPPqiiPq")
        kernel.launch(
            *(*begins, plane.address, plane.pitch_bytes, *size, copied.address, copied.pitch_bytes),
            grid=_tile_grid(tiles, 4 // frame.sample_bytes),
            block=(*THREADS, 1),
            stream=stream,
        )

    def blend(
        self,
        ring: DeviceTiles,
        origins: int,
        settled: int,
        cursor: int,
        batch: int,
        columns: int,
        ramp: int,
        blend: int,
        *,
        stream: Stream,
    ) -> None:
        """Fade ``batch`` tiles from the cursor's batch on into their neighbours, in the ring
        (kernels/blend_tiles.cu).

        Args:
            columns: tiles in a row of tiles.
            ramp: address of ``blend`` float32, the weights with which a tile fades in.

        Raises:
            TilingError: a ring too small for the neighbours above and the batch.
        """
        if not 1 <= batch <= ring.count - columns - 1:
            raise TilingError(
                f"a ring of {ring.count} tiles for batches of {batch} in rows of {columns}; need "
                f"{columns + 1 + max(batch, 1)}"
            )
        kernel = self._kernels.get("blend_tiles", f"blend_tiles_{ring.value_name}", "PiiiiiPPPiiPi")
        kernel.launch(
            *(ring.address, ring.count, *ring.layout_arguments, origins, settled),
            *(cursor, batch, columns, ramp, blend),
            grid=(2, _blocks(ring.height, THREADS[1]), batch),
            block=(*THREADS, 1),
            stream=stream,
        )

    def luma_sums(self, frame: DeviceFrame, row_step: int, sums: int, *, stream: Stream) -> None:
        """Add the luma of 8 x 8 cells to ``sums``, (8, 8) uint64 (kernels/frame_statistics.cu).

        Args:
            row_step: every how manieth row of a cell is read, from 1.
        """
        planar = frame.layout in ("nv12", "i420")
        name = f"frame_statistics_{'gray_u8' if planar else frame.format}"
        kernel = self._kernels.get("frame_statistics", name, "PqiiiP")
        plane = frame.planes[0]
        kernel.launch(
            *(plane.address, plane.pitch_bytes, frame.height, frame.width, row_step, sums),
            grid=(2, 64, 1),
            block=(*THREADS, 1),
            stream=stream,
        )

    def take_row(self, table: int, words: int, cursor: int, out: int, *, stream: Stream) -> None:
        """Copy the cursor's row of a table, ``words`` of 32 bits (kernels/tile_loop.cu)."""
        kernel = self._kernels.get("tile_loop", "take_row", "PiPP")
        grid, block = _row_grid(words)
        kernel.launch(table, words, cursor, out, grid=grid, block=block, stream=stream)

    def put_row(
        self, row: int, words: int, cursor: int, ring_rows: int, table: int, *, stream: Stream
    ) -> None:
        """Copy a row into the table's row at the cursor, modulo ``ring_rows``."""
        kernel = self._kernels.get("tile_loop", "put_row", "PiPiP")
        grid, block = _row_grid(words)
        kernel.launch(row, words, cursor, ring_rows, table, grid=grid, block=block, stream=stream)

    def advance(self, cursor: int, *, stream: Stream) -> None:
        """Add one to the cursor."""
        kernel = self._kernels.get("tile_loop", "advance", "P")
        kernel.launch(cursor, grid=ONE, block=ONE, stream=stream)

    def lap(self, clock: int, index: int, *, stream: Stream) -> None:
        """Add the nanoseconds since the last lap to uint64 ``clock[index]``; index 0 only begins.
        ``clock[0]`` is the time of the lap."""
        kernel = self._kernels.get("tile_loop", "lap", "Pi")
        kernel.launch(clock, index, grid=ONE, block=ONE, stream=stream)

    def _release(self) -> None:
        self._kernels.close()


def _blocks(size: int, of_block: int) -> int:
    return -(-size // of_block)


def _tile_grid(tiles: DeviceTiles, group_px: int, rows: int = 1) -> Size:
    """Of threads that each own a group of pixels, in as many rows."""
    across = _blocks(tiles.width, THREADS[0] * group_px)
    return across, _blocks(tiles.height, THREADS[1] * rows), tiles.count


def _row_grid(words: int) -> tuple[Size, Size]:
    """Grid and block of threads that each copy 4 words."""
    blocks = min(_blocks(words, 4 * ROW_THREADS), ROW_BLOCKS)
    return (blocks, 1, 1), (min(ROW_THREADS, 32 * _blocks(words, 32)), 1, 1)


def _matrix(frame: DeviceFrame, name: str) -> tuple[float, ...]:
    matrix: tuple[float, ...] | None = getattr(frame, name)
    if matrix is None:
        raise FrameError(f"a {frame.format} frame without {name}; give the colour's")
    return matrix


def _alpha_plane(frame: DeviceFrame, alpha: DeviceFrame | None) -> Plane:
    if alpha is None:
        return Plane(0, 0)
    facts = (alpha.format, alpha.height, alpha.width)
    if facts != (frame.format, frame.height, frame.width) or CHANNELS[frame.layout] != 4:
        raise FrameError(
            f"alpha of {alpha.format} {alpha.height}x{alpha.width} for {frame.format} "
            f"{frame.height}x{frame.width}; need the same format and size, with alpha"
        )
    return alpha.planes[0]
