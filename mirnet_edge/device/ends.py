"""Where a frame comes from and where it goes: arrays of the host or of the GPU."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import DeviceBuffer, Owner, PinnedBuffer, Stream, is_page_locked
from mirnet_edge.device.array_layout import ArrayLayout, enlarged_shape
from mirnet_edge.device.batch_loop import Machine
from mirnet_edge.device.foreign import (
    ForeignArray,
    describe,
    require_device,
    require_writable,
    share_memory,
)
from mirnet_edge.device.frame_plan import FrameSlot
from mirnet_edge.device.host_copies import HostCopies
from mirnet_edge.device.host_frames import HostResults
from mirnet_edge.device.layouts import DeviceFrame
from mirnet_edge.device.results import Results
from mirnet_edge.errors import FrameError
from mirnet_edge.frames.enlarged import enlarged_alpha
from mirnet_edge.frames.layout import require_unit_range
from mirnet_edge.frames.noise_level import brightness_of, sample_regions
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.pooling.scene_cut import CELLS, ROW_STEP, Grid, luma_grid

LUMA_UNIT = 256  # of the kernel's sums: a white pixel adds 256 times the sample's maximum
MAXIMUM = {"u8": 255, "u16": 65535, "f32": 65535}


@dataclass(eq=False)
class Request:
    """A frame to be restored, checked.

    Attributes:
        layout, target_layout: of the frame and what it is written to, less the alpha of a gray
            frame.
        shape: of the whole array that it is written to.
        source, target: both, described; no target where `FrameEnds.allocate_output` makes it.
        source_frame, target_frame: where the kernels find them; None on the host.
        output: what the caller gets: what was given, or made.
        host_output: the same where it is of the host, else None.
        is_direct: whether the device writes that by itself.
    """

    layout: ArrayLayout
    target_layout: ArrayLayout
    shape: tuple[int, ...]
    source: ForeignArray
    source_frame: DeviceFrame | None
    target: ForeignArray | None = None
    target_frame: DeviceFrame | None = None
    output: object = None
    host_output: NDArray[Any] | None = None
    is_direct: bool = False


class FrameEnds(Owner):
    """Queues what brings frames to where the kernels read them, and from where they write.

    Args:
        machine: runs them.
        pixels: format of every frame; None takes each array's number of channels.
        uploads, downloads: the streams of the copies.
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
        self._kernels, self._compute = machine.kernels, machine.engine.stream
        self._scale = machine.scale
        self._pixels, self._uploads, self._downloads = pixels, uploads, downloads
        with self._making():
            self._copies = self._owned.enter_context(closing(HostCopies()))
            self._results = self._own(Results(self.device))
            self._host_results = self._own(HostResults(self.device))
            self._luma_sums = self._own(DeviceBuffer(self.device, 8 * CELLS * CELLS))
            self._luma_read = self._own(PinnedBuffer(self.device, (CELLS, CELLS), np.uint64))

    def check(self, frame: object, out: object) -> Request:
        """Check a frame and what it is to be written to.

        Raises:
            FrameError: no such frame, or an ``out`` that does not fit it.
        """
        source = self._describe(frame, self._uploads)
        shape = source.shape
        if source.host is not None and self._pixels is None and len(shape) == 3 and shape[2] == 2:
            shape = shape[:2]  # the gray is restored, alpha copied by the host
        layout = ArrayLayout.of(shape, source.dtype, self._pixels)
        request = Request(
            layout,
            layout.enlarged(self._scale),
            enlarged_shape(source.shape, self._scale),
            source,
            _frame_on_device(source, layout),
        )
        if out is not None:
            # The kernels write it on the engine's stream, which waits for what its library queued.
            request.target = target = self._describe(out, self._compute)
            _check_target(target, request)
            request.target_frame = _frame_on_device(target, request.target_layout)
            request.output, request.host_output = out, target.host
        return request

    def _describe(self, array: object, stream: Stream) -> ForeignArray:
        found = describe(array, stream=stream.handle)
        require_device(found, self.device.facts.index)
        return found

    def upload(self, request: Request, slot: FrameSlot) -> DeviceFrame:
        """Queue what brings the frame to where the kernels read it, and let the batches wait.

        Raises:
            FrameError: a float32 frame of the host holds NaN, or values far from [0, 1].
        """
        source, queue = request.source, self._uploads
        if source.host is None:
            if source.stream is not None:
                queue.wait_for_handle(source.stream)
            slot.started.record(queue)
        else:
            pixels = _described(source.host, request.layout)
            if pixels.dtype == np.float32:
                require_unit_range(pixels[..., :3] if pixels.ndim == 3 else pixels)
            # From page-locked memory alone a copy goes on beside the CPU.
            is_direct = slot.source.mirrors and is_page_locked(self.device, pixels)
            if not is_direct:
                self._copies.copy(slot.source.array, pixels)
            slot.started.record(queue)
            slot.source.upload(stream=queue, source=pixels if is_direct else None)
        slot.uploaded.record(queue)
        self._compute.wait(slot.uploaded)
        slot.begun.record(self._compute)
        return request.source_frame or slot.source_frame

    def allocate_output(self, request: Request, slot: FrameSlot) -> DeviceFrame:
        """Make what the caller gets where nothing was given, and return where the kernels write;
        batches wait for whoever uses it."""
        source, target = request.source, request.target
        if target is not None:
            if target.stream is not None:
                self._compute.wait_for_handle(target.stream)
        elif source.host is None:
            result = self._results.take(request.target_layout, stream=self._compute)
            request.output = result
            request.target_frame = request.target_layout.frame_at(result.address)
        else:
            # Only where the device writes all of it is it worth memory that the device can write.
            whole = slot.target.mirrors and request.shape == request.target_layout.shape
            make = self._host_results.take if whole else np.empty
            request.output = request.host_output = make(request.shape, source.dtype)
        return request.target_frame or slot.target_frame

    def download(self, request: Request, slot: FrameSlot) -> None:
        """Queue what brings a frame that is done to the host, if it goes there."""
        self._downloads.wait(slot.computed)
        if (output := request.host_output) is not None:
            whole = slot.target.mirrors and output.shape == request.target_layout.shape
            request.is_direct = whole and is_page_locked(self.device, output)
            target = output if request.is_direct else None
            slot.target.download(stream=self._downloads, target=target)
        # Recorded for frames that stay on the device too: `collect` waits for this mark alone.
        slot.downloaded.record(self._downloads)

    def copy_out(self, request: Request, slot: FrameSlot) -> None:
        """Copy a frame that has come to the host to where the caller looks."""
        output, whole = request.host_output, request.source.host
        if output is None or request.is_direct:
            return
        self._copies.copy(_described(output, request.target_layout), slot.target.array)
        if whole is not None and whole.shape != request.layout.shape:
            scale = self._scale
            output[..., 1] = whole[..., 1] if scale == 1 else enlarged_alpha(whole, scale)

    def brightness(self, request: Request, frame: DeviceFrame) -> NDArray[Any]:
        """Mean brightness of some parts of the frame in [0, 1], by which a new scene is told."""
        if (host := request.source.host) is None:
            return self.luma(request, frame)
        # The places are in pixels, and luma comes first in frames that are Y'CbCr.
        return brightness_of(host, sample_regions(frame.height, frame.width))

    def luma(self, request: Request, frame: DeviceFrame) -> Grid:
        """Mean luma (8, 8) in [0, 1] of the frame's cells (see `pooling.scene_cut`); 0 where one
        has no pixel. A frame on the GPU is waited for."""
        if request.source.host is not None:
            end = frame.height if frame.yuv else None  # rows below are chroma
            return luma_grid(request.source.host[:end])
        queue = self._uploads
        self._luma_sums.fill(0, stream=queue)  # the kernel adds to what is there
        self._kernels.luma_sums(frame, ROW_STEP, self._luma_sums.address, stream=queue)
        self._luma_sums.download(self._luma_read.array, stream=queue)
        queue.synchronize()
        rows, columns = (
            np.diff(np.arange(CELLS + 1) * size // CELLS) for size in (frame.height, frame.width)
        )
        pixels = -(-rows[:, None] // ROW_STEP) * columns
        # A frame below 8 pixels has cells without any: their sum is 0, and 0 / 1 is their luma.
        full = LUMA_UNIT * MAXIMUM[frame.format.partition("_")[2]] * np.maximum(pixels, 1)
        return np.asarray(self._luma_read.array / full, np.float32)


def _check_target(target: ForeignArray, request: Request) -> None:
    source = request.source
    require_writable(target)
    if target.host is None and request.layout.shape != source.shape:
        raise FrameError(
            f"a gray frame with alpha, {source.shape}, is put together on the host; give an out of "
            "the host, or none"
        )
    if (target.shape, target.dtype) != (request.shape, source.dtype):
        raise FrameError(
            f"out is {target.dtype} {target.shape}; need a writable {source.dtype} {request.shape} "
            "array"
        )
    if source.host is not None and target.host is not None:
        shared = np.may_share_memory(source.host, target.host)
    else:
        shared = source.host is target.host is None and share_memory(source, target)
    if shared:
        raise FrameError("out shares memory with the frame; tiles still to come would read it")


def _frame_on_device(array: ForeignArray, layout: ArrayLayout) -> DeviceFrame | None:
    return layout.frame_at(array.address, array.strides) if array.host is None else None


def _described(array: NDArray[Any], layout: ArrayLayout) -> NDArray[Any]:
    """The part of an array of the host that the layout describes: all but a gray frame's alpha."""
    return array if array.shape == layout.shape else array[..., 0]
