"""Frames through an engine of the device without leaving it on the way.

    host array → page-locked memory → upload →  ┌──────── a batch ────────┐  → download → host array
                                                │ load → engine → store   │ ...
    array on the device ───────────────────────→└─────────────────────────┘→ array on the device

A network of super-resolution has its frame loaded once, as planes at its own size, and each batch
is enlarged from these. What tells the network how noisy a frame is lies beside a batch's colours,
and is written once a frame, outside the graphs.

Three streams, one each for uploads, batches and downloads: the copies of one frame overlap the
engine on another. The host waits once a frame, for its end; where its means are gathered in several
passes, after each of them; and where a single frame, or the first of a scene, has its noise
estimated, which is done on the device too, behind the upload.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike

from mirnet_edge.cuda import Owner, Stream
from mirnet_edge.device.array_layout import ArrayLayout, enlarged_shape
from mirnet_edge.device.batch_loop import ENGINE, NONFINITE, POST, PRE, Machine
from mirnet_edge.device.ends import FrameEnds, Request
from mirnet_edge.device.frame_plan import SLOTS, FramePlan, FrameSlot
from mirnet_edge.device.host_frames import page_locked_buffers
from mirnet_edge.device.layouts import DeviceFrame
from mirnet_edge.device.noise_samples import NoiseSamples
from mirnet_edge.device.passes import DevicePasses
from mirnet_edge.device.plans import Plans
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.engines.protocol import DeviceEngine
from mirnet_edge.engines.shared import Continuity
from mirnet_edge.errors import DeviceError, DeviceMemoryError, EngineError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import (
    FrameBuffers,
    Latency,
    LatencyRecord,
    Nan,
    Progress,
    Timings,
)
from mirnet_edge.frames.noise_level import NoiseLevel
from mirnet_edge.frames.pixel_formats import PixelFormat, pixel_format
from mirnet_edge.pooling.passes import FrameStatistics
from mirnet_edge.tiling.geometry import Tiling


@dataclass(eq=False)
class _Ticket:
    """A frame in flight: what it is, where it goes, and what is to be done at its end. Settled once
    it has left its slot, with an error if it failed."""

    slot: FrameSlot
    passes: DevicePasses
    request: Request
    finish: Callable[[], None] | None
    progress: Progress | None
    level: float | None
    began_s: float
    settled: bool = False
    error: Exception | None = None
    timings: Timings = field(default_factory=Timings)


class DevicePath(Owner):
    """Restores frames on the device (see `frame_path.FramePath`).

    Everything is allocated with the first frame of a layout, or before it where ``frame_size`` is
    given, and nothing later, but for results on the device that nobody gave memory for, and for the
    noise estimator where it is asked for later. Frames on the device are not searched for NaN; what
    an engine returns is, by the kernels that store it.

    Args:
        engine: of three channels in and out; outlives this.
        tiling: how a frame that is restored to (height, width) is cut.
        pooling: what the tiles of a frame share, None where each has its own.
        samples: about how many tiles make a sample.
        noise: settles the level of each frame; None for a network that is not told it.
        pixels, frame_size, memory_limit, nan: see `Restorer`.

    Raises:
        DeviceError: no compiler for the kernels, or not enough memory.
        EngineError: there are no engines that pool over a frame, or the plan has other planes than
            ``facts`` tell.
    """

    depth = SLOTS

    def __init__(
        self,
        engine: DeviceEngine,
        facts: ModelFacts,
        tiling: Callable[[int, int], Tiling],
        pooling: FrameStatistics | None = None,
        samples: int = 0,
        noise: NoiseLevel | None = None,
        pixels: PixelFormat | None = None,
        frame_size: tuple[int, int] | None = None,
        memory_limit: int | None = None,
        nan: Nan = "auto",
    ) -> None:
        planes = engine.image.shape[1]
        if planes != facts.in_planes:
            raise EngineError(
                f"{engine.path.name} takes tiles of {planes} planes, but its card says "
                f"{facts.in_planes}; build it again with mirnet-edge build"
            )
        super().__init__(engine.stream.device)
        self.timings = Timings()
        self.latencies = LatencyRecord()
        self._facts, self._nan = facts, nan
        self._continuity = Continuity(pooling, noise)
        # The engine's own, held by `submit` from the first copy to the last, captures included:
        # what another thread queued on this stream meanwhile would be captured too.
        self._lock = engine.lock
        self._in_flight: list[_Ticket] = []
        with self._making():
            self._uploads, self._downloads = (self._own(Stream(self.device)) for _ in "ab")
            kernels = self._own(TileKernels(self.device))
            beside = engine.statistics if pooling is not None else None
            self._machine = Machine(engine, beside, kernels, facts.scale)
            self._ends = self._own(
                FrameEnds(self._machine, pixels, uploads=self._uploads, downloads=self._downloads)
            )
            self._noise_samples: NoiseSamples | None = None
            if noise is not None:
                self._noise_samples = self._own(
                    NoiseSamples(kernels, uploads=self._uploads, compute=engine.stream)
                )
            # Closed first: graphs launch the kernels, and read the memory, of what is above.
            self._plans = Plans(
                self._machine,
                facts,
                tiling,
                shares=pooling is not None,
                samples=samples,
                frame_size=frame_size,
                memory_limit=memory_limit,
            )
            self._owned.callback(self._plans.close)
            if frame_size is not None:
                pixels = pixels or pixel_format("rgb")
                shape = pixels.shape_of(*frame_size)
                with self._lock:  # it captures graphs
                    self._plan_for(ArrayLayout.of(shape, np.dtype(np.uint8), pixels)).reserve()
                    if self._noise_samples is not None and noise is not None and noise.estimates:
                        self._noise_samples.prepare(*frame_size)

    def submit(
        self,
        frame: object,
        out: object = None,
        progress: Progress | None = None,
        continuity: Continuity | None = None,
    ) -> _Ticket:
        """Start on a frame, and return while it is on its way; `collect` waits for it.

        Args:
            frame: see `foreign.describe`; of the host or of this GPU. It must not change until
                it is collected where it is on the GPU or in page-locked memory.
            out: written to; on the host or the GPU. None allocates where the frame is.
            progress: called once, at the end.
            continuity: of a stream that other paths restore frames of as well; None for this path's
                own.
        """
        began_s = time.perf_counter()
        continuity = continuity or self._continuity
        with self._lock:
            self._require()
            with self.device.current():  # once for all that is queued
                request = self._ends.check(frame, out)
                plan, slot = self._room_for(request.layout)
                try:
                    ticket = self._run(plan, slot, request, progress, began_s, continuity)
                except BaseException:
                    self._vacate(slot)
                    raise
            self._in_flight.append(ticket)
            return ticket

    def _room_for(self, layout: ArrayLayout) -> tuple[FramePlan, FrameSlot]:
        """A plan and a slot; where there is no room for another, once the oldest frame in flight
        has made some."""
        while True:
            try:
                plan = self._plan_for(layout)
                if (slot := plan.take_slot()) is not None:
                    return plan, slot
            except DeviceMemoryError:
                if not self._in_flight:
                    raise
            with suppress(Exception):  # for `collect` to raise
                self._settle(self._in_flight[0])

    def _run(
        self,
        plan: FramePlan,
        slot: FrameSlot,
        request: Request,
        progress: Progress | None,
        began_s: float,
        continuity: Continuity,
    ) -> _Ticket:
        """Queue all of a frame: the upload, its batches, and the download."""
        machine, ends = self._machine, self._ends
        source_frame = ends.upload(request, slot)
        loop = plan.loop((source_frame, ends.allocate_output(request, slot)))
        passes = DevicePasses(
            plan, slot, loop, machine.pooling, luma=lambda: ends.luma(request, source_frame)
        )
        plan.scratch.clock.fill(0, stream=machine.engine.stream)  # laps add up
        finish: Callable[[], None] | None = None
        continuity.turn.wait()
        level = self._level_of(request, source_frame, continuity.noise)
        if not continuity.gathers:
            continuity.turn.end()
        loop.begin(level)
        if continuity.statistics is None or len(passes) == 1:
            passes.run()
        else:
            finish = continuity.statistics.restore(passes)
        plan.scratch.clock.download(slot.clock.array, stream=machine.engine.stream)
        slot.computed.record(machine.engine.stream)
        ends.download(request, slot)
        return _Ticket(slot, passes, request, finish, progress, level, began_s)

    def _level_of(
        self, request: Request, frame: DeviceFrame, noise: NoiseLevel | None
    ) -> float | None:
        """The noise level that the network is told, in units of 1/255. Where it waits for an
        estimate, then for nothing that the engine does."""
        samples, ends = self._noise_samples, self._ends
        if noise is None or samples is None:
            return None
        return noise.of(
            lambda: samples.begin(frame),
            kind=request.layout,
            brightness=lambda: ends.brightness(request, frame),
        )

    def collect(self, ticket: _Ticket) -> object:
        """Wait for a frame and return it: what was given as ``out``, else a new array of numpy, or
        a `DeviceArray` for a frame that came from the device."""
        try:
            if not ticket.settled:
                ticket.slot.downloaded.synchronize()  # without the lock: others go on queueing
        except BaseException as error:
            with self._lock:
                if not ticket.settled:  # by another thread
                    self._leave(ticket, error)
                    raise
        with self._lock:
            if not ticket.settled:
                self._settle(ticket)
        if ticket.error is not None:
            raise ticket.error
        self.timings, tiles = ticket.timings, len(ticket.passes)
        if ticket.progress:
            ticket.progress(tiles, tiles)
        return ticket.request.output

    def _settle(self, ticket: _Ticket) -> None:
        """Wait for a frame, note what it gathered, and copy it to where the caller looks."""
        try:
            with self.device.current():
                ticket.slot.downloaded.synchronize()
                if ticket.finish is not None:
                    ticket.finish()
                self._ends.copy_out(ticket.request, ticket.slot)
                self._note(ticket)
            self._refuse_nonfinite(ticket.timings.nonfinite)
        except BaseException as error:
            self._leave(ticket, error)
            raise
        self._leave(ticket)

    def _leave(self, ticket: _Ticket, error: BaseException | None = None) -> None:
        """Let the frame's memory serve another, once what was queued for it has ended."""
        ticket.settled = True
        # Kept for `collect`, which may come later; an interrupt hits whoever waits now, once.
        if error is not None:
            interrupted = EngineError("the frame was interrupted on its way; give it again")
            ticket.error = error if isinstance(error, Exception) else interrupted
        self._in_flight.remove(ticket)
        self._vacate(ticket.slot, ended=error is None)

    def _note(self, ticket: _Ticket) -> None:
        slot = ticket.slot
        pre, engine, post = (slot.clock.array[[PRE, ENGINE, POST]] / 1e6).tolist()
        self.latencies.add(
            upload=slot.uploaded.elapsed_ms(slot.started),
            queue=max(0.0, slot.begun.elapsed_ms(slot.uploaded)),
            pre=pre,
            engine=engine,
            post=post,
            download=slot.downloaded.elapsed_ms(slot.computed),
            total=1000 * (time.perf_counter() - ticket.began_s),
        )
        passes, nonfinite = ticket.passes, int(slot.clock.array[NONFINITE])
        counts = passes.passes, passes.samples
        precision = str(getattr(self._machine.engine, "precision", "")).upper()
        times, level = (pre, engine, post), ticket.level
        ticket.timings = Timings(len(passes), *times, *counts, level, nonfinite, precision)

    def _refuse_nonfinite(self, count: int) -> None:
        if self._nan == "raise" and count:
            raise EngineError(
                f"{self._machine.engine.path.name} returned {count:,} values that are NaN or "
                'infinite; an FP16 overflow? Try an FP32 engine, or nan="zero"'
            )

    def buffers(self, shape: tuple[int, ...], dtype: DTypeLike) -> FrameBuffers:
        """Page-locked memory for a frame and its restored one."""
        restored = enlarged_shape(shape, self._facts.scale)
        return page_locked_buffers(self.device, shape, restored, dtype)

    def latency(self, frames: int | None = None) -> Latency:
        """Of the last frames."""
        return self.latencies.summary(frames)

    def _plan_for(self, layout: ArrayLayout) -> FramePlan:
        samples = self._noise_samples
        return self._plans.of(layout, samples.size_bytes if samples else 0)

    def _vacate(self, slot: FrameSlot, ended: bool = False) -> None:
        """Free a slot, and the plan that waited for it."""
        if not ended:
            # What was queued before the failure still reads and writes the slot, on all three.
            with suppress(DeviceError):  # what made the frame fail says more
                for stream in (self._uploads, self._machine.engine.stream, self._downloads):
                    stream.synchronize()
        slot.free = True
        self._plans.close_retired()

    def _require(self) -> None:
        if self._closed:
            raise EngineError("this Restorer is closed; make a new one")
        if self._machine.engine.closed:
            raise EngineError(
                f"{self._machine.engine.path.name} was closed, and this Restorer runs on it; close "
                "the Restorer first, and make a new one"
            )

    def close(self) -> None:
        """Wait for what runs, and free everything but the engine. Frames in flight can still be
        collected. A second call does nothing."""
        with self._lock:
            for ticket in list(self._in_flight):
                with suppress(Exception):  # for `collect` to raise
                    self._settle(ticket)
            super().close()
