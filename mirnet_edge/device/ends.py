"""Where a frame comes from and where it goes: arrays of the host or of the GPU."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import Owner, Stream
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
from mirnet_edge.device.layouts import DeviceFrame
from mirnet_edge.device.luma import LumaReader
from mirnet_edge.device.results import Results
from mirnet_edge.device.slots import FrameSlot
from mirnet_edge.errors import FrameError
from mirnet_edge.frames.layout import require_unit_range
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.pooling.scene_cut import Grid, luma_grid


@dataclass(frozen=True, eq=False)
class Given:
    """What a caller gave.

    Attributes:
        source: the frame.
        out: what it is to be written to, as given; None for a new array.
        target: the same, described.
        layout: of both, less the alpha of a gray frame.
    """

    source: ForeignArray
    out: Any
    target: ForeignArray | None
    layout: ArrayLayout


@dataclass(frozen=True, eq=False)
class Out:
    """What a caller gets: the array, and the same where it is of the host."""

    array: Any
    host: NDArray[Any] | None


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
        self._owned = ExitStack()
        self._opened()
        try:
            self._results = self._owned.enter_context(Results(self.device))
            self._luma = self._owned.enter_context(LumaReader(machine.kernels, stream=uploads))
        except Exception:
            self.close()
            raise

    def given(self, frame: Any, out: Any) -> Given:
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
        return Given(source, out, target, layout)

    def _has_gray_alpha(self, source: ForeignArray) -> bool:
        return self._pixels is None and len(source.shape) == 3 and source.shape[2] == 2

    def _target(self, out: Any, source: ForeignArray) -> ForeignArray:
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
        both_here = source.host is not None and target.host is not None
        if both_here:
            shared = np.may_share_memory(source.host, target.host)
        else:
            shared = source.host is target.host is None and share_memory(source, target)
        if shared:
            raise FrameError("out shares memory with the frame; tiles still to come would read it")
        return target

    def take_in(self, given: Given, slot: FrameSlot) -> DeviceFrame:
        """Queue what brings the frame to where the kernels read it, and let the batches wait.

        Raises:
            FrameError: a float32 frame of the host holds NaN, or values far from [0, 1].
        """
        source, queue = given.source, self._uploads
        frame = slot.source_frame
        if source.host is None:
            if source.stream is not None:
                queue.wait_for_handle(source.stream)
            slot.started.record(queue)
            frame = given.layout.frame_at(source.address, source.strides)
        else:
            pixels = _described(source.host, given.layout)
            colours = pixels[..., :3] if pixels.ndim == 3 else pixels
            if pixels.dtype == np.float32:
                require_unit_range(colours)
            np.copyto(slot.source.array, pixels)
            slot.started.record(queue)
            slot.source.upload(stream=queue)
        slot.uploaded.record(queue)
        self._compute.wait(slot.uploaded)
        slot.begun.record(self._compute)
        return frame

    def make_room(self, given: Given, slot: FrameSlot) -> tuple[Out, DeviceFrame]:
        """What the caller gets, and where the kernels write; batches wait for whoever uses it."""
        source, target, layout = given.source, given.target, given.layout
        if target is None and source.host is None:
            result = self._results.take(layout, stream=self._compute)
            return Out(result, None), layout.frame_at(result.address)
        if target is None:
            array = np.empty(source.shape, source.dtype)
            return Out(array, array), slot.target_frame
        if target.host is not None:
            return Out(given.out, target.host), slot.target_frame
        if target.stream is not None:
            self._compute.wait_for_handle(target.stream)
        return Out(given.out, None), layout.frame_at(target.address, target.strides)

    def send_out(self, out: Out, slot: FrameSlot) -> None:
        """Queue what brings a frame that is done to the host, if it goes there."""
        self._downloads.wait(slot.computed)
        if out.host is not None:
            slot.target.download(stream=self._downloads)
        slot.downloaded.record(self._downloads)

    def hand_out(self, given: Given, out: Out, slot: FrameSlot) -> None:
        """Copy a frame that has come to the host to where the caller looks."""
        if out.host is None:
            return
        _described(out.host, given.layout)[...] = slot.target.array
        whole = given.source.host
        if whole is not None and self._has_gray_alpha(given.source):
            out.host[..., 1] = whole[..., 1]

    def luma(self, given: Given, frame: DeviceFrame) -> Grid:
        """Of the frame; one on the GPU is waited for."""
        if given.source.host is None:
            return self._luma.read(frame)
        rows = frame.height if frame.yuv else None
        return luma_grid(given.source.host[:rows])

    def _release(self) -> None:
        self._owned.close()


def _described(array: NDArray[Any], layout: ArrayLayout) -> NDArray[Any]:
    """The part of an array of the host that the layout describes: all but a gray frame's alpha."""
    return array if array.shape == layout.shape else array[..., 0]
