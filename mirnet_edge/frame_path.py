"""The way of a frame through a `Restorer`: on the host (`host.path`) or on the device
(`device.path`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ConfigError, FrameError

Nan = Literal["auto", "raise", "zero"]
"""What becomes of NaN and infinity that come out of an engine; see `Restorer`."""

Progress = Callable[[int, int], None]
"""Called with (tiles done, tiles), or of other work that is counted."""
StageProgress = Callable[[str, int, int], None]
"""Called with the stage of some work, how much of it is done, and how much there is."""
Ticket = Any
PARTS = ("upload", "queue", "pre", "engine", "post", "download", "total")
FRAMES_KEPT = 1000
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Percentiles:
    """Of one part of a frame's time, in milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Latency:
    """Percentiles over the last frames, `FRAMES_KEPT` at most.

    Attributes:
        frames: how many they are.
        upload: copying the frame to the device; 0 where it is there already, or on the host.
        queue: waiting on the device for earlier frames.
        pre: frame to tiles.
        engine: in the engine.
        post: tiles to frame, seams included.
        download: copying the frame from the device.
        total: from giving the frame to having it, the copies on the host included. In a stream,
            frames overlap: their totals add up to more than the time of the stream.
    """

    frames: int
    upload: Percentiles
    queue: Percentiles
    pre: Percentiles
    engine: Percentiles
    post: Percentiles
    download: Percentiles
    total: Percentiles


class LatencyRecord:
    """Keeps the parts of the last frames, and when each was done, in memory that is allocated
    once.

    Attributes:
        frames: how many there were in all.
    """

    def __init__(self) -> None:
        self._kept = np.zeros((FRAMES_KEPT, len(PARTS) + 1))
        self.frames = 0

    def add(self, **parts_ms: float) -> None:
        """One frame; parts that are not given took no time."""
        row = self._kept[self.frames % FRAMES_KEPT]
        for index, part in enumerate(PARTS):
            row[index] = parts_ms.get(part, 0.0)
        row[-1] = time.monotonic()
        self.frames += 1

    def _rows(self) -> NDArray[np.float64]:
        """What is kept, oldest first."""
        count = min(self.frames, FRAMES_KEPT)
        return self._kept[np.arange(self.frames - count, self.frames) % FRAMES_KEPT]

    def rate(self) -> float | None:
        """Frames per second over those that are kept, pauses between them included; None before
        the second."""
        done_s = self._rows()[:, -1]
        seconds = done_s[-1] - done_s[0] if len(done_s) > 1 else 0.0
        return float((len(done_s) - 1) / seconds) if seconds > 0 else None

    def summary(self, frames: int | None = None) -> Latency:
        """Of the last ``frames``, as far as they are kept; None for all. Zeros before the first."""
        return self.summary_of([self], frames)

    @staticmethod
    def summary_of(records: Sequence[LatencyRecord], frames: int | None = None) -> Latency:
        """Of the last ``frames`` of several records together, `FRAMES_KEPT` at most."""
        rows = np.concatenate([record._rows() for record in records])
        rows = rows[np.argsort(rows[:, -1], kind="stable")]
        count = min(len(rows), FRAMES_KEPT if frames is None else frames, FRAMES_KEPT)
        # At least one row, of zeros: there are no percentiles of nothing.
        latest = rows[len(rows) - count :, :-1] if count > 0 else np.zeros((1, len(PARTS)))
        columns = np.percentile(latest, PERCENTILES, axis=0).T.tolist()
        return Latency(count, *(Percentiles(*column) for column in columns))


@dataclass(frozen=True)
class Timings:
    """Where the time of one frame went, in milliseconds.

    Attributes:
        tiles: how many the frame was cut into.
        load_ms: frame to network input; on the host with the estimate of its noise.
        engine_ms: in the engine.
        store_ms: network output to frame, seams included.
        passes: how often all tiles were run; more than once only for exact statistics of the frame.
        samples: tiles run before that, for a first estimate of the frame's statistics.
        noise: the level that the network was told, in units of 1/255; None where it asks for none.
        nonfinite: how many of the engine's values were NaN or infinite where they were stored; see
            ``nan`` of `Restorer`.
        precision: in which the engine computes, "BF16"; "" where it tells none.
    """

    tiles: int = 0
    load_ms: float = 0.0
    engine_ms: float = 0.0
    store_ms: float = 0.0
    passes: int = 1
    samples: int = 0
    noise: float | None = None
    nonfinite: int = 0
    precision: str = ""

    @property
    def total_ms(self) -> float:
        """All of it, in milliseconds."""
        return self.load_ms + self.engine_ms + self.store_ms


@dataclass(frozen=True)
class DeviceWork:
    """What one GPU of a `Restorer` did.

    Attributes:
        index: of the GPU, as the driver counts.
        name: of it.
        frames: how many it restored with the engine that is open.
        frames_per_second: over its last 1000, pauses between them included; None before the second.
        timings: of its last frame.
        latency: of its last 1000.
    """

    index: int
    name: str
    frames: int
    frames_per_second: float | None
    timings: Timings
    latency: Latency


@dataclass(frozen=True, eq=False)
class FrameBuffers:
    """A frame for the caller to fill, and one to read what it was restored to: give both as
    ``restore(buffers.frame, out=buffers.restored)``. On a GPU they lie in page-locked memory, from
    which and to which the device copies by itself; it goes with the last view of it.
    """

    frame: NDArray[Any]
    restored: NDArray[Any]


def check_size(size: tuple[int, int], frame_size: tuple[int, int] | None) -> None:
    """Check that a frame of (height, width) is of the only size there may be; None allows any."""
    if frame_size is None:
        return
    if not isinstance(frame_size, (tuple, list)) or len(frame_size) != 2:
        raise FrameError(f"frame_size={frame_size!r:.60}: need (height, width), or None for any")
    if size != tuple(frame_size):
        raise FrameError(
            f"a frame of {size[0]}x{size[1]} pixels, but this Restorer was made for "
            f"{frame_size[0]}x{frame_size[1]} alone; make it without frame_size, or another one "
            "for this size"
        )


def told_nonfinite(values: int) -> str:
    """What is said of values that were NaN or infinite, and restored all the same."""
    return (
        f"{values:,} of the network's values are NaN or infinite, and shown as 0 or the end of the "
        "range; an FP16 overflow? Try an FP32 engine"
    )


def require_nan(nan: str) -> None:
    """Check that it is one of `Nan`; a `ConfigError` else."""
    if nan not in get_args(Nan):
        raise ConfigError(f'nan={nan!r:.60}: need "auto", "raise" or "zero"')


class FramePath(Protocol):
    """What restores frames, several at once if it can: the paths of a `Restorer`, and what a stream
    is given.

    Attributes:
        depth: how many frames may be in flight in a stream.
        timings: of the frame that was collected last.
    """

    @property
    def depth(self) -> int: ...
    @property
    def timings(self) -> Timings: ...

    def submit(self, frame: object) -> Ticket:
        """Start on a frame; may return before it is restored."""

    def collect(self, ticket: Ticket) -> Any:
        """Wait for that frame and return it in memory of its own. Called once for every ticket, in
        their order, in a stream by the thread that submits, also when it is being closed."""


class Turn:
    """When a frame may take what earlier ones left: at once, where there is one path."""

    def wait(self) -> None:
        """Wait for it."""

    def end(self) -> None:
        """Let the next frame have its turn; again, it does nothing."""


@runtime_checkable
class ThreadedPath(FramePath, Protocol):
    """A path with threads of its own, for one stream: it takes further frames while it restores."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Call this whenever a frame is done."""

    def is_done(self, ticket: Ticket) -> bool:
        """Whether collecting that frame would not wait."""

    def end(self) -> None:
        """Wait for the threads, once all is collected; nothing more is submitted."""
