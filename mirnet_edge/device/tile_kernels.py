"""The tile kernels as typed calls: the one place that knows their names and argument orders.

Nothing is copied, allocated or waited for here: addresses are of the device's memory, whose owner
keeps it until the stream has done the work.
"""

from __future__ import annotations

import numpy as np

from mirnet_edge.cuda import Device, Kernels, Owner, Stream
from mirnet_edge.device.layouts import DeviceFrame, Plane
from mirnet_edge.engines.protocol import TileMemory

Size = tuple[int, int, int]
THREADS = 32, 8, 1  # of a block, across and down: a warp moves neighbouring bytes of one row
TILE_THREADS = 32, 4, 1  # of load and store: smaller blocks end together, 1 to 3 % on an H200
LOAD_ROWS, STORE_ROWS = 2, 4  # of a thread (kernels/tile.cuh, which says why)
YUV_STORE_PX, YUV_STORE_ROWS = 8, 2  # of a thread (kernels/store_tiles_yuv.cu)
ENLARGED_PX = {2: 4, 3: 12, 4: 4}  # of a thread, by the scale (kernels/enlarge.cu)
ROW_THREADS = 256
ROW_BLOCKS = 512  # a few for each multiprocessor of the largest GPU; more would only queue
ONE = 1, 1, 1
VALUE_NAMES = {"float16": "f16", "float32": "f32"}


class TileKernels(Owner):
    """Queues the tile kernels on streams.

    Addresses are of device memory: ``origins`` of (tiles, 2) int32 x, y; ``kept`` and ``settled``
    of (tiles, 4) int32 y0, x0, y1, x1; ``cursor`` of one int32. The head comment of each kernel in
    ``kernels/`` has the rest. A kernel is compiled when it is first used: use each once before
    frames are waiting, and before capturing a graph.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        with self._making():
            self._kernels = self._own(Kernels(device))

    def load(self, frame: DeviceFrame, origins: int, tiles: TileMemory, *, stream: Stream) -> None:
        """Cut a frame into the first three planes of all of ``tiles`` (kernels/load_tiles.cu,
        load_tiles_yuv.cu)."""
        file, planes = ("load_tiles_yuv", 3) if frame.yuv else ("load_tiles", 1)
        matrix = frame.load_matrix or ()
        name = f"load_tiles_{frame.format}_{VALUE_NAMES[tiles.dtype]}"
        argument_format = f"{'Pq' * planes}ii{'f' * len(matrix)}PPiii"
        kernel = self._kernels.get(file, name, argument_format)
        read = (*frame.plane_arguments[: 2 * planes], frame.height, frame.width, *matrix)
        written = (origins, tiles.address, *tiles.shape[1:])
        grid = _tile_grid(tiles, 4 // frame.sample_bytes, LOAD_ROWS)
        kernel.launch(*read, *written, grid=grid, block=TILE_THREADS, stream=stream)

    def fill_plane(self, tiles: TileMemory, value: float, *, stream: Stream) -> None:
        """Set the last plane of every tile to one value (kernels/fill_plane.cu)."""
        count, planes, height, width = tiles.shape
        kernel = self._kernels.get("fill_plane", f"fill_plane_{VALUE_NAMES[tiles.dtype]}", "Piiif")
        vectors = _blocks(height * width * np.dtype(tiles.dtype).itemsize, 16)
        grid = min(_blocks(vectors, ROW_THREADS), ROW_BLOCKS), 1, count
        arguments = (tiles.address, planes, height, width, value)
        kernel.launch(*arguments, grid=grid, block=(ROW_THREADS, 1, 1), stream=stream)

    def enlarge(
        self,
        planes: TileMemory,
        size: tuple[int, int],
        origins: int,
        tiles: TileMemory,
        scale: int,
        *,
        stream: Stream,
    ) -> None:
        """Cut a frame that is made ``scale`` times as high and wide into the first three planes of
        all of ``tiles`` (kernels/enlarge.cu).

        Args:
            planes: one tile, as `load` makes it of the whole frame, its width even; dtype as of
                ``tiles``.
            size: (height, width) of the frame, no larger than that tile.
            origins: in the enlarged frame.
        """
        name = f"enlarge_tiles_x{scale}_{VALUE_NAMES[tiles.dtype]}"
        kernel = self._kernels.get("enlarge", name, "PiiiPPiii")
        read = (planes.address, planes.shape[3], *size)
        grid = _tile_grid(tiles, ENLARGED_PX[scale], scale)
        written = (origins, tiles.address, *tiles.shape[1:])
        kernel.launch(*read, *written, grid=grid, block=TILE_THREADS, stream=stream)

    def enlarge_alpha(
        self, frame: DeviceFrame, enlarged: DeviceFrame, scale: int, *, stream: Stream
    ) -> None:
        """Write the alpha of a frame that is ``scale`` times as high and wide, and nothing else of
        it (kernels/enlarge.cu); both RGBA or BGRA, of one type of samples."""
        sample = frame.format.partition("_")[2]
        kernel = self._kernels.get("enlarge", f"enlarge_alpha_x{scale}_{sample}", "PqiiPq")
        read = (*frame.plane_arguments[:2], frame.height, frame.width)
        grid = _blocks(enlarged.width, THREADS[0]), _blocks(enlarged.height, THREADS[1]), 1
        written = enlarged.plane_arguments[:2]
        kernel.launch(*read, *written, grid=grid, block=THREADS, stream=stream)

    def store(
        self,
        tiles: TileMemory,
        origins: int,
        kept: int,
        frame: DeviceFrame,
        *,
        stream: Stream,
        alpha: DeviceFrame | None = None,
        nonfinite: int = 0,
    ) -> None:
        """Write the kept region of each tile into a frame (kernels/store_tiles.cu,
        store_tiles_yuv.cu).

        Args:
            alpha: of the same size and format, whose alpha is copied; the frame itself to leave
                alpha as it is; None for opaque.
            nonfinite: address of one uint64, to which the number of kept values that are NaN or
                infinite is added; 0 for none.
        """
        name = f"store_tiles_{frame.format}_{VALUE_NAMES[tiles.dtype]}"
        read = (tiles.address, *tiles.shape[2:], origins, kept)
        size = frame.height, frame.width
        if frame.yuv:
            file, argument_format = "store_tiles_yuv", f"PiiPP{'f' * 10}PqPqPqiiP"
            written = (*(frame.store_matrix or ()), *frame.plane_arguments, *size)
            grid = _tile_grid(tiles, YUV_STORE_PX, YUV_STORE_ROWS)
        else:
            file, argument_format = "store_tiles", "PiiPPPqiiPqP"
            copied = alpha.planes[0] if alpha is not None else Plane(0, 0)
            written = (*frame.plane_arguments[:2], *size, copied.address, copied.pitch_bytes)
            grid = _tile_grid(tiles, 4 // frame.sample_bytes, STORE_ROWS)
        kernel = self._kernels.get(file, name, argument_format)
        arguments = (*read, *written, nonfinite)
        kernel.launch(*arguments, grid=grid, block=TILE_THREADS, stream=stream)

    def blend(
        self,
        ring: TileMemory,
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
            ring: of ``columns`` + 1 tiles more than the batch at least.
            columns: tiles in a row of tiles.
            ramp: address of ``blend`` float32, the weights with which a tile fades in.
        """
        name = f"blend_tiles_{VALUE_NAMES[ring.dtype]}"
        kernel = self._kernels.get("blend_tiles", name, "PiiiPPPiiPi")
        count, _, height, width = ring.shape
        where = (ring.address, count, height, width, origins, settled, cursor)
        # Two blocks across: of most rows only the pixels that fade in from the left change.
        grid = 2, _blocks(height, THREADS[1]), batch
        kernel.launch(*where, batch, columns, ramp, blend, grid=grid, block=THREADS, stream=stream)

    def luma_sums(self, frame: DeviceFrame, row_step: int, sums: int, *, stream: Stream) -> None:
        """Add the luma of 8 x 8 cells to ``sums``, (8, 8) uint64, of which every ``row_step``-th
        row is read (kernels/luma_sums.cu)."""
        # Luma of these is a plane of its own, which lies as a gray frame does.
        planar = frame.layout in ("nv12", "i420")
        name = f"luma_sums_{'gray_u8' if planar else frame.format}"
        kernel = self._kernels.get("luma_sums", name, "PqiiiP")
        read = (*frame.plane_arguments[:2], frame.height, frame.width)
        # A block row for each of 64 cells; two blocks share the rows of one (luma_sums.cu).
        kernel.launch(*read, row_step, sums, grid=(2, 64, 1), block=THREADS, stream=stream)

    def take_row(
        self, table: int, words: int, cursor: int, ring_rows: int, out: int, *, stream: Stream
    ) -> None:
        """Copy the table's row at the cursor, modulo ``ring_rows``: ``words`` of 32 bits
        (kernels/tile_loop.cu)."""
        self._copy_row("take_row", (table, words, cursor, ring_rows, out), stream)

    def put_row(
        self, row: int, words: int, cursor: int, ring_rows: int, table: int, *, stream: Stream
    ) -> None:
        """Copy a row into the table's row at the cursor, modulo ``ring_rows``."""
        self._copy_row("put_row", (row, words, cursor, ring_rows, table), stream)

    def _copy_row(self, name: str, arguments: tuple[int, ...], stream: Stream) -> None:
        kernel, words = self._kernels.get("tile_loop", name, "PiPiP"), arguments[1]
        # A thread copies 4 words; whole warps, for a row of few words has a block of its own.
        grid = min(_blocks(words, 4 * ROW_THREADS), ROW_BLOCKS), 1, 1
        block = min(ROW_THREADS, 32 * _blocks(words, 32)), 1, 1
        kernel.launch(*arguments, grid=grid, block=block, stream=stream)

    def advance(self, cursor: int, *, stream: Stream) -> None:
        """Add one to the cursor."""
        kernel = self._kernels.get("tile_loop", "advance", "P")
        kernel.launch(cursor, grid=ONE, block=ONE, stream=stream)

    def lap(self, clock: int, index: int, *, stream: Stream) -> None:
        """Add the nanoseconds since the last lap to uint64 ``clock[index]``; index 0 only begins.
        ``clock[0]`` is the time of the lap."""
        kernel = self._kernels.get("tile_loop", "lap", "Pi")
        kernel.launch(clock, index, grid=ONE, block=ONE, stream=stream)


def _blocks(size: int, of_block: int) -> int:
    return -(-size // of_block)


def _tile_grid(tiles: TileMemory, group_px: int, rows: int) -> Size:
    """Of threads that each own a group of pixels in as many rows."""
    count, _, height, width = tiles.shape
    across = _blocks(width, TILE_THREADS[0] * group_px)
    return across, _blocks(height, TILE_THREADS[1] * rows), count
