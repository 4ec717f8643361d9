"""Engines side by side, each with the way of frames through it, for callers in any thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from mirnet_edge.deadline import Deadline
from mirnet_edge.engines.protocol import Engine, works_on_device
from mirnet_edge.engines.shared import Continuity
from mirnet_edge.errors import EngineError, FrameError, placed
from mirnet_edge.frame_path import (
    DeviceWork,
    FrameBuffers,
    FramePath,
    Latency,
    LatencyRecord,
    Progress,
    Ticket,
    Timings,
    Turn,
)
from mirnet_edge.frames.noise_level import NoiseLevel
from mirnet_edge.pooling.passes import FrameStatistics

CUDA, CUDA_MANAGED = 2, 13
"""DLPack's numbers of memory that lies on a GPU."""


def gpu_of(frame: object) -> int | None:
    """The number of the GPU that an array lies on; None for one of the host.

    Raises:
        FrameError: it lies on some GPU, and does not say on which: kernels of another one would
            read what is not theirs, and the GPU be lost.
    """
    if isinstance(frame, np.ndarray):
        return None
    told = getattr(frame, "__dlpack_device__", None)
    if not callable(told):
        if hasattr(frame, "__cuda_array_interface__"):
            raise FrameError(
                f"a {type(frame).__qualname__} does not say which GPU it is on, and there are "
                "several; give an array with __dlpack_device__, or restore on one GPU"
            )
        return None
    try:
        kind, index = told()
    except Exception:
        return None  # whoever reads the array says what is wrong with it
    return int(index) if kind in (CUDA, CUDA_MANAGED) else None


class EnginePath(FramePath, Protocol):
    """A path of a `Restorer`: on the host or on the device."""

    latencies: LatencyRecord

    def submit(self, frame: object, out: object = None, progress: Progress | None = None) -> Ticket:
        """Start on a frame, see `Restorer.__call__`; may return before it is restored."""

    def buffers(self, shape: tuple[int, ...], dtype: DTypeLike) -> FrameBuffers:
        """Memory for a frame and its restored one."""

    def close(self) -> None:
        """Wait for what runs, and free everything but the engine."""


class Lane:
    """One engine and its path; both may be changed for others.

    Args:
        engine: see `take`.
        is_ours: whether it is closed with this.
        timeout_s: see `Deadline`.
        is_named: whether errors tell its device.

    Attributes:
        engine, path: in use; no path until there is one.
        device: the index of its GPU; None of an engine of the CPU.
        statistics, noise: what frames that are given one by one leave for the next.
        lock: held by whoever restores a single frame.
    """

    def __init__(
        self, engine: Engine, *, is_ours: bool, timeout_s: float | None, is_named: bool
    ) -> None:
        self.lock = threading.RLock()  # a progress callback may close
        self._is_ours, self._timeout_s, self._is_named = is_ours, timeout_s, is_named
        self.used_s = 0.0
        self.take(engine)

    def take(self, engine: Engine) -> None:
        """Go on with another engine, the one before being closed."""
        self.engine = engine
        self.path: EnginePath | None = None
        self.statistics: FrameStatistics | None = None
        self.noise: NoiseLevel | None = None
        self.deadline = Deadline(self._timeout_s)
        self._closed = False
        facts = engine.stream.device.facts if works_on_device(engine) else None
        self.device = facts.index if facts else None
        self.gpu = facts.name if facts else ""
        self.name = f"GPU {facts.index} ({facts.name})" if facts and self._is_named else ""

    def open_path(self) -> EnginePath:
        """The path.

        Raises:
            EngineError: closed.
        """
        if self._closed or self.path is None:
            raise EngineError("this Restorer is closed; make a new one")
        return self.path

    def collect(self, path: EnginePath, ticket: Ticket) -> Any:
        """Wait for a frame of a path, this lane's or the one that it had before."""
        with placed(self.name):
            restored = self.deadline.call(path.collect, ticket)
        self.used_s = time.monotonic()
        return restored

    def work(self) -> DeviceWork | None:
        """What its GPU did; None without one."""
        if self.device is None or self.path is None:
            return None
        record = self.path.latencies
        return DeviceWork(
            self.device, self.gpu, record.frames, record.rate(), self.path.timings, record.summary()
        )

    def close(self, timeout_s: float | None = None) -> None:
        """Wait for what runs, see `Restorer.close`."""
        if self.deadline.is_elsewhere:
            return
        with placed(self.name), self.deadline.entering(self.lock, timeout_s):
            if self._closed:
                return
            self._closed = True
            self.deadline.close()
            if self.deadline.missed:
                return
            with ExitStack() as last:  # the engine too where the path fails to close
                if self._is_ours and hasattr(self.engine, "close"):
                    last.callback(self.engine.close)
                if self.path is not None:
                    self.path.close()


class Lanes:
    """All lanes of a `Restorer`, and which is free for a single frame: the one that was so for the
    longest time, or, while none is, the next that will be."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._lanes = tuple(lanes)
        self._changed = threading.Condition()
        self._free = deque(self._lanes)
        self._users: dict[int, Lane] = {}
        self._closing = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    def __getitem__(self, index: int) -> Lane:
        return self._lanes[index]

    @contextmanager
    def free(self, device: int | None = None) -> Iterator[Lane]:
        """A lane for a frame, locked: of a ``device``, if that is one of theirs. A thread that has
        one already, as in a callback, keeps it."""
        thread = threading.get_ident()
        lane = self._users.get(thread)
        if len(self) == 1 or lane is not None:
            lane = lane or self._lanes[0]
            with lane.deadline.entering(lane.lock):
                yield lane
            return
        self._lanes[0].deadline.require_here()
        lane = self._take(thread, device)
        try:
            with lane.deadline.entering(lane.lock):
                yield lane
        finally:
            with self._changed:
                del self._users[thread]
                self._free.append(lane)
                self._changed.notify_all()

    def _take(self, thread: int, device: int | None) -> Lane:
        fitting = [lane for lane in self._lanes if lane.device == device] or self._lanes
        with self._changed:
            self._changed.wait_for(lambda: any(lane in self._free for lane in fitting))
            lane = next(lane for lane in self._free if lane in fitting)
            self._free.remove(lane)
            self._users[thread] = lane
        return lane

    @contextmanager
    def all(self) -> Iterator[None]:
        """Hold all, whose frames are waited for."""
        with ExitStack() as held:
            for lane in self._lanes:
                held.enter_context(lane.deadline.entering(lane.lock))
            yield

    @property
    def timings(self) -> Timings:
        """Of the last frame of any."""
        latest = max(self._lanes, key=lambda lane: lane.used_s)
        return latest.path.timings if latest.path is not None else Timings()

    def latency(self, frames: int | None) -> Latency:
        """Of the last frames of all."""
        return LatencyRecord.summary_of([lane.open_path().latencies for lane in self], frames)

    def close(self, timeout_s: float | None = None) -> None:
        """Close all, whatever fails on the way."""
        # Callbacks of two frames may close: each would wait for the other's frame to end.
        with self._changed:
            if self._closing and threading.get_ident() in self._users:
                return
            self._closing += 1
        try:
            with ExitStack() as last:
                for lane in self._lanes[::-1]:
                    last.callback(lane.close, timeout_s)
        finally:
            with self._changed:
                self._closing -= 1


@dataclass
class LaneStream:
    """A lane as a path of a stream (see `FramePath`). It may change engines, and with them paths,
    while frames of the last one are still in flight, so each ticket carries the path that it is of.

    Attributes:
        begin: submits a frame, and returns the path with its ticket.
        continuity: of a stream over several lanes.
        timings: of the frame that was collected last.
    """

    lane: Lane
    begin: Callable[..., tuple[EnginePath, Ticket]]
    depth: int
    continuity: Continuity | None = None
    timings: Timings = field(default_factory=Timings)

    @property
    def device(self) -> int | None:
        """See `parallel.HomePath`."""
        return self.lane.device

    def submit(self, frame: object, turn: Turn | None = None) -> tuple[EnginePath, Ticket]:
        """Start on a frame."""
        if self.continuity is None or turn is None:
            return self.begin(frame)
        return self.begin(frame, continuity=replace(self.continuity, turn=turn))

    def collect(self, ticket: tuple[EnginePath, Ticket]) -> Any:
        """Wait for a frame."""
        restored = self.lane.collect(*ticket)
        self.timings = ticket[0].timings
        return restored
