"""The tile kernels as typed calls: the one place that knows their names and argument orders.

Nothing is copied, allocated or waited for here: addresses are of the device's memory, whose owner
keeps it until the stream has done the work.
"""

from __future__ import annotations

from mirnet_edge.cuda import Device, Kernels, Owner, Stream
from mirnet_edge.device.layouts import CHANNELS, DeviceFrame, DeviceTiles, Plane
from mirnet_edge.errors import FrameError, TilingError

Size = tuple[int, int, int]
THREADS = 32, 8  # of a block, across and down: a warp moves neighbouring bytes of one row
TILE_THREADS = 32, 4  # of load and store: smaller blocks end together, 1 to 3 % on an H200
LOAD_ROWS, STORE_ROWS = 2, 4  # of a thread (kernels/tile.cuh, which says why)
YUV_STORE_PX, YUV_STORE_ROWS = 8, 2  # of a thread (kernels/store_tiles_yuv.cu)
ROW_THREADS = 256
ROW_BLOCKS = 512  # a few for each multiprocessor of the largest GPU; more would only queue
ONE = 1, 1, 1


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
        grid = _tile_grid(tiles, 4 // frame.sample_bytes, LOAD_ROWS)
        if frame.yuv:
            matrix = _matrix(frame, "load_matrix")
            kernel = self._kernels.get("load_tiles_yuv", name, "PqPqPqii" + "f" * 6 + "PPiiii")
            size = frame.height, frame.width
            arguments = (*frame.plane_arguments, *size, *matrix, *ends)
            kernel.launch(*arguments, grid=grid, block=(*TILE_THREADS, 1), stream=stream)
            return
        kernel = self._kernels.get("load_tiles", name, "PqiiPPiiii")
        plane = frame.planes[0]
        kernel.launch(
            *(plane.address, plane.pitch_bytes, frame.height, frame.width, *ends),
            grid=grid,
            block=(*TILE_THREADS, 1),
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
                grid=_tile_grid(tiles, YUV_STORE_PX, YUV_STORE_ROWS),
                block=(*TILE_THREADS, 1),
                stream=stream,
            )
            return
        copied = _alpha_plane(frame, alpha)
        plane = frame.planes[0]
        kernel = self._kernels.get("store_tiles", name, "PiiiiPPPqiiPq")
        kernel.launch(
            *(*begins, plane.address, plane.pitch_bytes, *size, copied.address, copied.pitch_bytes),
            grid=_tile_grid(tiles, 4 // frame.sample_bytes, STORE_ROWS),
            block=(*TILE_THREADS, 1),
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
        """Add the luma of 8 x 8 cells to ``sums``, (8, 8) uint64 (kernels/luma_sums.cu).

        Args:
            row_step: every how manieth row of a cell is read, from 1.
        """
        planar = frame.layout in ("nv12", "i420")
        name = f"luma_sums_{'gray_u8' if planar else frame.format}"
        kernel = self._kernels.get("luma_sums", name, "PqiiiP")
        plane = frame.planes[0]
        kernel.launch(
            *(plane.address, plane.pitch_bytes, frame.height, frame.width, row_step, sums),
            grid=(2, 64, 1),
            block=(*THREADS, 1),
            stream=stream,
        )

    def take_row(
        self, table: int, words: int, cursor: int, ring_rows: int, out: int, *, stream: Stream
    ) -> None:
        """Copy the table's row at the cursor, modulo ``ring_rows``: ``words`` of 32 bits
        (kernels/tile_loop.cu)."""
        kernel = self._kernels.get("tile_loop", "take_row", "PiPiP")
        grid, block = _row_grid(words)
        kernel.launch(table, words, cursor, ring_rows, out, grid=grid, block=block, stream=stream)

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


def _tile_grid(tiles: DeviceTiles, group_px: int, rows: int) -> Size:
    """Of threads that each own a group of pixels in as many rows."""
    across = _blocks(tiles.width, TILE_THREADS[0] * group_px)
    return across, _blocks(tiles.height, TILE_THREADS[1] * rows), tiles.count


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
