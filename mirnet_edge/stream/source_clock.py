"""When frames leave a source: their timestamps, the pace that these set, and how long one may
take."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

from mirnet_edge.errors import StreamError


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One frame of a source; ``read_at`` is of `time.monotonic`."""

    index: int
    timestamp: float
    frame: object
    read_at: float


class SourceClock:
    """The time of one source.

    Args:
        timestamps: in seconds, one a frame; None takes the source's own, else when it was read.
        paced: frames leave it at the distances of their timestamps, and no earlier.
        timeout_s: after which a source that gives nothing has failed; None is never.
    """

    def __init__(
        self,
        timestamps: Iterable[float] | None = None,
        paced: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        self._timestamps = None if timestamps is None else iter(timestamps)
        self._paced, self._timeout_s = paced, timeout_s
        self._asked_at: float | None = None
        self._began: tuple[float, float] | None = None  # the first frame's timestamp, and when

    def ask(self) -> None:
        """Note that the source is waited for from now on."""
        self._asked_at = time.monotonic()

    def read(self, index: int, item: object) -> SourceFrame:
        """What the source gave, with its time; StreamError where the timestamps do not suffice."""
        read_at, self._asked_at = time.monotonic(), None
        timestamp, frame = _with_timestamp(item, read_at)
        if self._timestamps is not None:
            own = next(self._timestamps, None)
            if own is None:
                raise StreamError(f"there are only {index} timestamps; give one a frame")
            timestamp = float(own)
        return SourceFrame(index, timestamp, frame, max(read_at, self._due(timestamp, read_at)))

    def early_s(self, frame: SourceFrame) -> float:
        """How long before its time a frame is, in seconds; 0 where it is late."""
        return max(0.0, frame.read_at - time.monotonic())

    def left_s(self) -> float | None:
        """How much longer the source may take, in seconds, 0 where it took too long; None for
        ever."""
        if self._timeout_s is None or self._asked_at is None:
            return self._timeout_s
        return max(0.0, self._asked_at + self._timeout_s - time.monotonic())

    def failure(self) -> StreamError:
        """What a source failed with that took too long."""
        return StreamError(
            f"the source gave nothing for {self._timeout_s:g} s; is it there, and does it run?"
        )

    def _due(self, timestamp: float, now: float) -> float:
        if not self._paced:
            return now
        if self._began is None:
            self._began = timestamp, now
        first, began = self._began
        return began + timestamp - first


def _with_timestamp(item: object, read_at: float) -> tuple[float, object]:
    if isinstance(item, tuple) and len(item) == 2:
        first, second = item
        # Two numbers are no frame with its time; whoever restores it says what is wrong.
        if isinstance(first, Real) and hasattr(second, "shape"):
            return float(first), second
    return read_at, item
