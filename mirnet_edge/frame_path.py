"""The way of a frame through a `Restorer`: on the host (`host_path`) or on the device
(`device.path`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mirnet_edge.errors import FrameError
from mirnet_edge.latency import Latency

Progress = Callable[[int, int], None]
"""Called with (tiles done, tiles)."""
Ticket = Any


@dataclass(frozen=True)
class Timings:
    """Where the time of one frame went, in milliseconds.

    Attributes:
        tiles: how many the frame was cut into.
        load_ms: frame to network input.
        engine_ms: in the engine.
        store_ms: network output to frame, seams included.
        passes: how often all tiles were run; more than once only for exact statistics of the frame.
        samples: tiles run before that, for a first estimate of the frame's statistics.
    """

    tiles: int = 0
    load_ms: float = 0.0
    engine_ms: float = 0.0
    store_ms: float = 0.0
    passes: int = 1
    samples: int = 0

    @property
    def total_ms(self) -> float:
        """All of it, in milliseconds."""
        return self.load_ms + self.engine_ms + self.store_ms


def check_size(size: tuple[int, int], frame_size: tuple[int, int] | None) -> None:
    """That a frame of (height, width) is of the only size there may be; None allows any.

    Raises:
        FrameError: it is not.
    """
    if frame_size is not None and size != tuple(frame_size):
        raise FrameError(
            f"a frame of {size[0]}x{size[1]} pixels, but this Restorer was made for "
            f"{frame_size[0]}x{frame_size[1]} alone; make it without frame_size, or another one "
            "for this size"
        )


class FramePath(Protocol):
    """Restores frames, several at once if it can.

    Attributes:
        depth: how many frames may be in flight in a stream.
        timings: of the last frame.
    """

    depth: int
    timings: Timings

    def submit(self, frame: Any, out: Any = None, progress: Progress | None = None) -> Ticket:
        """Start on a frame; may return before it is restored."""
        ...

    def collect(self, ticket: Ticket) -> Any:
        """Wait for that frame and return it; once for each ticket, in their order."""
        ...

    def latency(self, frames: int | None = None) -> Latency:
        """Of the last frames, or of the last so many."""
        ...

    def close(self) -> None:
        """Free what the path owns; the engine is not its own."""
        ...
