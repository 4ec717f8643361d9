"""A network source without an end: its clock goes on where it stops and is opened again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from mirnet_edge.errors import StreamError
from mirnet_edge.stream.video.reader import Decoded, Losses, VideoReader

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Before it is opened again; twice as long each time that this fails."""


class LiveReader:
    """Frames of a live source, one connection after the other, on one clock that starts at 0.

    Args:
        reader: the first connection.
        connect: makes another one.
        reconnect: how often in a row that is tried once the source stops.

    Raises:
        StreamError: while it is read: the source stopped and did not come back, or came back with
            frames of another kind.
    """

    is_live = True

    def __init__(
        self,
        reader: VideoReader,
        connect: Callable[[], VideoReader],
        reconnect: int,
    ) -> None:
        self.name, self.facts, self.begin_pts = reader.name, reader.facts, 0
        self.lost = Losses()
        self._reader, self._connect, self._reconnect = reader, connect, reconnect
        self._last: int | None = None
        self._frames = 0

    @property
    def guessed(self) -> bool:
        """Of the connection that there is now: see `VideoReader`."""
        return self._reader.guessed

    def go_on_after(self, pts: int, had: int) -> None:
        """Begin one frame behind this PTS, the last of an earlier run. To be called before
        `frames`."""
        del had  # nobody knows how many there were
        self._last = pts

    def frames(self) -> Iterator[Decoded]:
        """Frames for as long as there are any; the time in which none came is in their PTS."""
        step = max(1, round(self.facts.frame_s / self.facts.time_base))
        came_s = time.monotonic()
        while True:
            shift = None
            for frame in self._reader.frames():
                now_s = time.monotonic()
                if shift is None:
                    gap = max(step, round((now_s - came_s) / float(self.facts.time_base)))
                    # Behind an earlier run comes no gap: nobody knows when that was.
                    pause = gap if self._frames else step
                    begin = 0 if self._last is None else self._last + pause
                    shift = begin - frame.pts
                came_s, self._last = now_s, frame.pts + shift
                self._frames += 1
                yield Decoded(self._last, frame.duration, frame.picture)
            self._again(self._reader.ended_by or "it ended")

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        self._reader.close()

    def _again(self, why: str) -> None:
        """Connect once more, or raise what the source stopped for."""
        self._reader.close()
        wait_s = FIRST_WAIT_S
        for _ in range(self._reconnect):
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            with suppress(StreamError):
                self._reader = self._connect()
                self._require_same(self._reader)
                self.lost.add(0, f"connected again after {self._frames} frames: {why}")
                return
        tried = "reconnect=N (--reconnect N) tries again"
        if self._reconnect:
            tried = f"{self._reconnect} attempts to connect again failed"
        raise StreamError(f"{self.name}: stopped after {self._frames} frames: {why}; {tried}")

    def _require_same(self, reader: VideoReader) -> None:
        was, now = self.facts, reader.facts
        kind = (was.width, was.height, was.pix_fmt, was.time_base)
        if (now.width, now.height, now.pix_fmt, now.time_base) != kind:
            reader.close()
            raise StreamError(
                f"{self.name}: it came back with {now.pix_fmt} frames of {now.width}x{now.height} "
                f"pixels after {was.pix_fmt} of {was.width}x{was.height}; start again"
            )


def open_video(
    name: str,
    *,
    begin_s: float = 0,
    hardware: bool = False,
    timeout_s: float | None = None,
    reconnect: int = 0,
) -> VideoReader | LiveReader:
    """Open a video file or URL: see `VideoReader` and, for ``reconnect``, `LiveReader`, which is
    what a source without an end becomes."""

    def connect() -> VideoReader:
        return VideoReader(name, hardware=hardware, timeout_s=timeout_s)

    if "://" in name:
        reader = connect()
        if reader.is_live and begin_s:
            reader.close()
            raise StreamError(f"{name}: a live source begins now; leave the start out")
        if reader.is_live:
            return LiveReader(reader, connect, reconnect)
        reader.close()
    return VideoReader(name, begin_s=begin_s, hardware=hardware, timeout_s=timeout_s)
