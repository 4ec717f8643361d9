"""Where a frame comes from and where it goes: arrays of the host or of the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Owner, PinnedBuffer, Stream
from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.batch_loop import Machine
from mirnet_edge.device.foreign import (
    ForeignArray,
    describe,
    require_device,
    require_packed,
    require_writable,
    share_memory,
)
from mirnet_edge.device.frame_plan import FrameSlot
from mirnet_edge.device.layouts import DeviceFrame
from mirnet_edge.device.results import Results
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.errors import FrameError
from mirnet_edge.frames.layout import require_unit_range
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.pooling.scene_cut import CELLS, ROW_STEP, Grid, luma_grid

LUMA_UNIT = 256  # of the kernel's sums: a white pixel adds 256 times the sample's maximum
MAXIMUM = {"u8": 255, "u16": 65535, "f32": 65535}


@dataclass(frozen=True, eq=False)
class Request:
    """A frame to be restored, checked.

    Attributes:
        source: the frame.
        out: what it is to be written to, as given; None for a new array.
        target: the same, described.
        layout: of both, less the alpha of a gray frame.
    """

    source: ForeignArray
    out: object
    target: ForeignArray | None
    layout: ArrayLayout


@dataclass(frozen=True, eq=False)
class Output:
    """What a caller gets: the array, and the same where it is of the host."""

    array: object
    host: NDArray[Any] | None


class LumaReader(Owner):
    """Reads luma grids of frames on the device (see `pooling.scene_cut`), each of which is waited
    for."""

    def __init__(self, kernels: TileKernels, *, stream: Stream) -> None:
        super().__init__(stream.device)
        self._kernels, self._stream = kernels, stream
        with self._making():
            self._sums = self._own(DeviceBuffer(self.device, 8 * CELLS * CELLS))
            self._read = self._own(PinnedBuffer(self.device, (CELLS, CELLS), np.uint64))

    def read(self, frame: DeviceFrame) -> Grid:
        """Mean luma (8, 8) in [0, 1] of the cells; 0 where a cell has no pixel."""
        self._sums.fill(0, stream=self._stream)  # the kernel adds to what is there
        self._kernels.luma_sums(frame, ROW_STEP, self._sums.address, stream=self._stream)
        self._sums.download(self._read.array, stream=self._stream)
        self._stream.synchronize()
        rows, columns = (
            np.diff(np.arange(CELLS + 1) * size // CELLS) for size in (frame.height, frame.width)
        )
        pixels = -(-rows[:, None] // ROW_STEP) * columns
        # A frame below 8 pixels has cells without any: their sum is 0, and 0 / 1 is their luma.
        full = LUMA_UNIT * MAXIMUM[frame.format.partition("_")[2]] * np.maximum(pixels, 1)
        return np.asarray(self._read.array / full, np.float32)


class FrameEnds(Owner):
    """Queues what brings frames to where the kernels read them, and from where they write.

    Args:
        machine: runs them.
        pixels: format of every frame; None takes each array's number of channels.
        uploads, downloads: the streams of the copies.

    Raises:
        DeviceError: not enough memory.
    """

    def __init__(
        self,
        machine: Machine,
        pixels: PixelFormat | None,
        *,
        uploads: Stream,
        downloads: Stream,
    ) -> None:
        super().__init__(uploads.device)
        self._pixels, self._compute = pixels, machine.engine.stream
        self._uploads, self._downloads = uploads, downloads
        with self._making():
            self._results = self._own(Results(self.device))
            self._luma = self._own(LumaReader(machine.kernels, stream=uploads))

    def check(self, frame: object, out: object) -> Request:
        """Check a frame and what it is to be written to.

        Raises:
            FrameError: no such frame, or an ``out`` that does not fit it.
        """
        source = describe(frame, stream=self._uploads.handle)
        require_device(source, self.device.facts.index)
        shape = source.shape
        if source.host is None:
            require_packed(source)
        elif self._has_gray_alpha(source):
            shape = shape[:2]  # the gray is restored, alpha copied by the host
        layout = ArrayLayout.of(shape, source.dtype, self._pixels)
        target = None if out is None else self._target(out, source)
        return Request(source, out, target, layout)

    def _has_gray_alpha(self, source: ForeignArray) -> bool:
        return self._pixels is None and len(source.shape) == 3 and source.shape[2] == 2

    def _target(self, out: object, source: ForeignArray) -> ForeignArray:
        # The kernels write it on the engine's stream: that one waits for what its library queued.
        target = describe(out, stream=self._compute.handle)
        require_device(target, self.device.facts.index)
        require_writable(target)
        if target.host is None:
            require_packed(target)
            if source.host is not None and self._has_gray_alpha(source):
                raise FrameError(
                    f"a gray frame with alpha, {source.shape}, is put together on the host; give "
                    "an out of the host, or none"
                )
        if (target.shape, target.dtype) != (source.shape, source.dtype):
            raise FrameError(
                f"out is {target.dtype} {target.shape}; need a writable {source.dtype} "
                f"{source.shape} array"
            )
        if source.host is not None and target.host is not None:
            shared = np.may_share_memory(source.host, target.host)
        else:
            shared = source.host is target.host is None and share_memory(source, target)
        if shared:
            raise FrameError("out shares memory with the frame; tiles still to come would read it")
        return target

    def upload(self, request: Request, slot: FrameSlot) -> DeviceFrame:
        """Queue what brings the frame to where the kernels read it, and let the batches wait.

        Raises:
            FrameError: a float32 frame of the host holds NaN, or values far from [0, 1].
        """
        source, queue = request.source, self._uploads
        frame = slot.source_frame
        if source.host is None:
            if source.stream is not None:
                queue.wait_for_handle(source.stream)
            slot.started.record(queue)
            frame = request.layout.frame_at(source.address, source.strides)
        else:
            pixels = _described(source.host, request.layout)
            colours = pixels[..., :3] if pixels.ndim == 3 else pixels
            if pixels.dtype == np.float32:
                require_unit_range(colours)
            # Into page-locked memory, from which alone a copy goes on beside the CPU.
            np.copyto(slot.source.array, pixels)
            slot.started.record(queue)
            slot.source.upload(stream=queue)
        slot.uploaded.record(queue)
        self._compute.wait(slot.uploaded)
        slot.begun.record(self._compute)
        return frame

    def allocate_output(self, request: Request, slot: FrameSlot) -> tuple[Output, DeviceFrame]:
        """What the caller gets, and where the kernels write; batches wait for whoever uses it."""
        source, target, layout = request.source, request.target, request.layout
        if target is None and source.host is None:
            result = self._results.take(layout, stream=self._compute)
            return Output(result, None), layout.frame_at(result.address)
        if target is None:
            array = np.empty(source.shape, source.dtype)
            return Output(array, array), slot.target_frame
        if target.host is not None:
            return Output(request.out, target.host), slot.target_frame
        if target.stream is not None:
            self._compute.wait_for_handle(target.stream)
        return Output(request.out, None), layout.frame_at(target.address, target.strides)

    def download(self, output: Output, slot: FrameSlot) -> None:
        """Queue what brings a frame that is done to the host, if it goes there."""
        self._downloads.wait(slot.computed)
        if output.host is not None:
            slot.target.download(stream=self._downloads)
        # Recorded for frames that stay on the device too: `collect` waits for this mark alone.
        slot.downloaded.record(self._downloads)

    def copy_out(self, request: Request, output: Output, slot: FrameSlot) -> None:
        """Copy a frame that has come to the host to where the caller looks."""
        if output.host is None:
            return
        _described(output.host, request.layout)[...] = slot.target.array
        whole = request.source.host
        if whole is not None and self._has_gray_alpha(request.source):
            output.host[..., 1] = whole[..., 1]

    def luma(self, request: Request, frame: DeviceFrame) -> Grid:
        """The frame's grid; one on the GPU is waited for."""
        if request.source.host is None:
            return self._luma.read(frame)
        rows = frame.height if frame.yuv else None  # those below are chroma
        return luma_grid(request.source.host[:rows])


def _described(array: NDArray[Any], layout: ArrayLayout) -> NDArray[Any]:
    """The part of an array of the host that the layout describes: all but a gray frame's alpha."""
    return array if array.shape == layout.shape else array[..., 0]
